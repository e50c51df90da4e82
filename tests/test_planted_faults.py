"""The suite can fail: one fault at a time is planted in a copy of the tree, and the check that should see it goes red.

What the check says must name the fault. Where it only says that two numbers differ, the check also runs on the copy
without a fault, and must be green: red alone could be the copy's own doing.

Whether a fault is seen depends on the tree and on what is installed, and on nothing else. So where neither has changed
since a fault was last seen, it is not planted again (but always in CI).
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from site_pages import html  # noqa: F401  (a fixture)

ROOT = Path(__file__).resolve().parents[1]
CHAPTER = "book/02-gaussian-kl.md"
NOTEBOOK = "book/02-gaussian-kl.ipynb"
MODULE = "course_lib/gaussians.py"
MISSING = "_build/html/book/appendices/bibliography.html"
EQUATIONS = "tests/equations/test_02_gaussian_kl.py"

LEDGER = "tests/test_ledger.py::test_the_book_balances"
FORMULA = f"{EQUATIONS}::test_gaussian_kl"
STORED = "tests/test_notebooks.py::test_every_cell_runs_and_prints_what_is_stored"
EDITION = "tests/test_editions.py::test_the_edition_is_what_the_chapter_gives"
ALT = "tests/test_chapters.py::test_every_figure_has_alt_text_and_a_caption"
PAGES, IMAGES, LINKS = (f"tests/test_site.py::test_site[{c}]" for c in ("wrong_pages", "wrong_images", "dead_links"))

NUMBERS_DIFFER = "approx"

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Fault:
    """An edit of one file of the copy, and the check that must see it."""

    file: str
    old: str  # a regular expression; empty for the end of the file
    new: str
    check: str
    says: str  # a part of what the check says


FAULTS = {
    "a sign flipped in the theorem": Fault(
        CHAPTER, r"\|\}\{\|\\Sigma_p\|\} - d \+ \\tr", r"|}{|\\Sigma_p|} + d + \\tr", LEDGER, "eq-gaussian-kl"
    ),
    "the same, computed from the print": Fault(
        CHAPTER, r"\|\}\{\|\\Sigma_p\|\} - d \+ \\tr", r"|}{|\\Sigma_p|} + d + \\tr", FORMULA, NUMBERS_DIFFER
    ),
    "a dimension printed as 1": Fault(
        CHAPTER, r"\|\}\{\|\\Sigma_p\|\} - d \+ \\tr", r"|}{|\\Sigma_p|} - 1 + \\tr", FORMULA, NUMBERS_DIFFER
    ),
    "the minus sign of the density dropped": Fault(
        CHAPTER, r"\\exp\\left\(-\\frac", r"\\exp\\left(\\frac", f"{EQUATIONS}::test_density", NUMBERS_DIFFER
    ),
    "the arguments of kl_gaussian swapped": Fault(
        MODULE,
        "",
        "\nright = kl_gaussian\n\n\ndef kl_gaussian(mean_p, cov_p, mean_q, cov_q):\n"
        "    return right(mean_q, cov_q, mean_p, cov_p)\n",
        FORMULA,
        NUMBERS_DIFFER,
    ),
    "the factor 1/2 dropped": Fault(
        MODULE,
        "",
        "\nright = kl_gaussian\n\n\ndef kl_gaussian(mean_p, cov_p, mean_q, cov_q):\n"
        "    return 2 * right(mean_p, cov_p, mean_q, cov_q)\n",
        FORMULA,
        NUMBERS_DIFFER,
    ),
    "a stored output changed": Fault(NOTEBOOK, r"1\.306853", "1.306854", STORED, "1.306854"),
    "a marked test deleted": Fault(
        EQUATIONS, r'@pytest\.mark\.equation\("eq-step-own".*?\n\n\n', "", LEDGER, "no test is marked"
    ),
    "a chapter edited without its notebook": Fault(
        CHAPTER, r"## The question\n", "## The real question\n", EDITION, "make notebooks"
    ),
    "an image without alt text": Fault("book/index.md", "", "\n![](_static/favicon.svg)\n", IMAGES, "no alt text"),
    "a figure without alt text": Fault(CHAPTER, r"  image:\n    alt: >-\n(?:      .*\n)+", "", ALT, "fig-question"),
    "a dead internal link": Fault("book/index.md", "", "\n[nowhere](appendices/nothing.md)\n", LINKS, "nothing"),
    "a page missing from the build": Fault(MISSING, r".*", "", PAGES, "bibliography.html: missing"),
}


def files_of_the_tree() -> list[str]:
    """All files that git tracks or would track."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    # a file that git still tracks may be gone from the folder
    return sorted(name for name in names if name and (ROOT / name).is_file())


@cache
def digest_of_tree_and_environment() -> str:
    digest = hashlib.sha256(sys.version.encode())
    for name in files_of_the_tree():
        digest.update(name.encode() + b"\0" + (ROOT / name).read_bytes())
    for line in sorted(f"{package.name}=={package.version}" for package in metadata.distributions()):
        digest.update(line.encode())
    return digest.hexdigest()[:16]


@pytest.fixture
def seen(request):
    """Skip what was seen before in the same tree and environment; else the file that will say so."""
    folder = ROOT / ".cache" / "planted-faults" / digest_of_tree_and_environment()
    mark = folder / re.sub(r"\W+", "-", request.node.name)
    if mark.exists() and not os.environ.get("CI"):
        pytest.skip("seen before, and neither the tree nor what is installed has changed; `make clean` forgets it")
    mark.parent.mkdir(parents=True, exist_ok=True)
    return mark


def copy_of_the_tree(target: Path) -> Path:
    """All files of the tree, and what the last build stored of the executed chapters."""
    for name in files_of_the_tree():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    shutil.copytree(ROOT / "_build" / ".jupyter_cache", target / "_build" / ".jupyter_cache")
    return target


def run(tree: Path, checks: list[str], **environment: str) -> subprocess.CompletedProcess:
    """Run some checks of the copy, with the copy's own modules, also in the notebooks' kernels."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "BOOK_"))}
    inherited["PYTEST_ADDOPTS"] = "--exitfirst"  # one failure is enough; the check of the notebooks inherits it too
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--color", "no", "--noconftest", *checks],
        cwd=tree, env=inherited | {"PYTHONPATH": str(tree)} | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def plant(tree: Path, fault: Fault) -> None:
    path = tree / fault.file
    if fault.file == MISSING:
        path.unlink()
        return
    text = path.read_text(encoding="utf-8")
    changed = re.sub(fault.old, fault.new, text, count=1, flags=re.S if "eq-step" in fault.old else 0)
    if not fault.old:
        changed = text + fault.new
    assert changed != text, f"{fault.file} holds nothing that matches {fault.old}"
    path.write_text(changed, encoding="utf-8")


@pytest.fixture
def tree(seen, tmp_path, html):  # noqa: F811
    """A copy of the tree; the book has been built, so its chapters need not be executed again."""
    return copy_of_the_tree(tmp_path / "copy")


def test_without_a_fault_the_checks_of_numbers_are_green(seen, tree):
    result = run(tree, sorted({fault.check for fault in FAULTS.values() if fault.says == NUMBERS_DIFFER}))
    assert result.returncode == 0, result.stdout
    seen.touch()


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_turns_its_check_red(name, seen, tree, html):  # noqa: F811
    fault = FAULTS[name]
    given = {}
    if fault.file == MISSING:  # this check reads a book that is built already
        given = {"BOOK_HTML": str(shutil.copytree(html, tree / "_build" / "html"))}
    plant(tree, fault)
    result = run(tree, [fault.check], **given)
    assert result.returncode == 1, f"the check did not see it:\n{result.stdout}{result.stderr}"
    assert fault.says in result.stdout, f"the check says nothing of it:\n{result.stdout}"
    seen.touch()
