"""Build the book into _build/html: every chapter executed, every warning an error.

This is the one place that says how the book is built; the Makefile, the tests and the workflows all call it.
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# -n: a reference that nothing defines is a warning; -W: a warning fails the build, at its end (--keep-going),
# so that one run reports them all.
JUPYTER_BOOK = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
BUILD = [*JUPYTER_BOOK, "build", "-q", "-W", "-n", "--keep-going"]


def html_folder(root: Path = ROOT) -> Path:
    return root / "_build" / "html"


def build(root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Build the book that lies in `root`; the result's `stdout` holds what went wrong, else nothing."""
    # Sphinx leaves the pages of removed chapters where they are. Writing every page again costs seconds;
    # the chapters are not executed again for that (their outputs are in the cache).
    shutil.rmtree(html_folder(root), ignore_errors=True)
    result = subprocess.run(
        [*BUILD, str(root)], cwd=root, text=True, encoding="utf-8", errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    if result.returncode:
        # A second run would take these pages from Sphinx's store and say nothing of their warnings.
        shutil.rmtree(root / "_build" / ".doctrees", ignore_errors=True)
    result.stdout = _warnings(result.stdout) if result.returncode else ""
    return result


def _warnings(output: str) -> str:
    """The output without colours, and without Jupyter Book's own traceback and banners around it."""
    output = re.sub(r"\x1b\[[0-9;]*m", "", output)
    output = re.split(r'Traceback \(most recent call last\):\n  File "<string>", line 1, in <module>\n', output)[0]
    banner = re.compile(r"(Running Jupyter-Book|\[IPKernelApp\] WARNING|Source Folder:|Config Path:|Output Path:|=+$)")
    return "\n".join(line for line in output.splitlines() if line.strip() and not banner.match(line))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=ROOT, help="the folder with _config.yml")
    parser.add_argument(
        "--fresh", action="store_true", help="forget what earlier builds kept, the executed outputs too"
    )
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    if arguments.fresh:
        shutil.rmtree(root / "_build", ignore_errors=True)
    start = time.monotonic()
    result = build(root)
    if result.stdout:
        print(result.stdout, file=sys.stderr)
    if result.returncode:
        print(f"Not built: mend what is said above (exit code {result.returncode})", file=sys.stderr)
    else:
        pages = [page for page in html_folder(root).rglob("*.html") if "_static" not in page.parts]
        print(f"Built {len(pages)} pages in {time.monotonic() - start:.0f} s")
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
