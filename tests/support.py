"""Shared by the tests of the chapters: where things are, and the one command that compares stored outputs.

The module is also the plugin of that command (``-p tests.support``), see the hooks at its end.
"""

import functools
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "book").glob("[0-9][0-9]-*.md"))
# What is compared. Pictures and HTML are not stored in the notebooks, so they cannot be.
COMPARED = ("data", "text/plain", "application/papermill.record/text/plain", "stdout", "stderr", "ename", "evalue")


@dataclass(frozen=True)
class Run:
    """What the command said, the seconds of all cells, and the most memory that a kernel held, in MiB."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float
    peak_mib: float | None  # unknown on Windows


def nbval(paths, timeout: float = 600) -> Run:
    """Execute the notebooks again and compare every text output with the stored one."""
    command = [
        *(sys.executable, "-m", "pytest", "--nbval", "-p", "tests.support", "-p", "no:cacheprovider"),
        *("--nbval-kernel-name", "python3", "--nbval-cell-timeout", "120", "--color", "no", "--tb", "short"),
        # The settings of the suite are for its own modules: a notebook is not a module with doctests, and
        # a deprecation in nbval is not a fault of a chapter.
        *("-o", "addopts=", "-o", "filterwarnings=", "--rootdir", str(ROOT), *map(str, paths)),
    ]
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder, "measured.json")
        environment = os.environ | {"BOOK_MEASURED": str(note)}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, env=environment)
        measured = json.loads(note.read_text()) if note.exists() else {"seconds": 0.0, "peak_mib": None}
    return Run(done.returncode, done.stdout, done.stderr, **measured)


def files_of_the_tree() -> list[str]:
    """All files that git tracks or would track."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    # a file that git still tracks may be gone from the folder
    return sorted(name for name in names if name and (ROOT / name).is_file())


@functools.cache
def installed() -> str:
    """Python and all packages of this environment, with their versions."""
    return "\n".join([sys.version, *sorted(f"{one.name}=={one.version}" for one in metadata.distributions())])


def digest(names: list[str], *others: str) -> str:
    """A short text that is another one as soon as one of these files, or of these other texts, changes."""
    found = hashlib.sha256("\0".join(others).encode())
    for name in names:
        found.update(name.encode() + b"\0" + (ROOT / name).read_bytes())
    return found.hexdigest()[:16]


def skip_if_passed_before(what: str, depends_on: str, name: str) -> Path:
    """Skip a test that passed when all that it depends on was as it is now (but never in CI).

    Else the file that the test touches at its end, so that the next run knows. `make clean` removes these files.
    """
    mark = ROOT / ".cache" / what / depends_on / re.sub(r"\W+", "-", name)
    if mark.exists() and not os.environ.get("CI"):
        pytest.skip("it passed, and nothing that it depends on has changed since; `make clean` forgets it")
    mark.parent.mkdir(parents=True, exist_ok=True)
    return mark


def once_in_a_run(name: str, make: Callable[[], str]) -> str:
    """The text that `make` returns. A run of the suite makes it once: under pytest-xdist its workers share it.

    The first worker makes it, and the others wait for its word; so `make` must return whatever happens.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        return make()
    folder = ROOT / "_build" / "tests" / run / name
    folder.mkdir(parents=True, exist_ok=True)
    word = folder / "word"
    try:
        (folder / "begun").touch(exist_ok=False)
    except FileExistsError:
        while not word.exists():
            time.sleep(0.2)
    else:
        (folder / "new").write_text(make(), encoding="utf-8")
        (folder / "new").rename(word)
    return word.read_text(encoding="utf-8")


@functools.cache
def executed(chapter: Path) -> Run:
    """The run of a chapter's notebook, once in a run of the suite."""

    def run() -> str:
        try:
            done = nbval([chapter.with_suffix(".ipynb")])
        except subprocess.TimeoutExpired as error:
            done = Run(124, str(error), "", float(error.timeout), None)
        return json.dumps(asdict(done))

    return Run(**json.loads(once_in_a_run(chapter.stem, run)))


# --- the plugin --------------------------------------------------------------------------------------------------


class _NotText:
    """Contains every kind of output but text: nbval compares what its `skip_compare` does not contain."""

    def __contains__(self, kind):
        return kind not in COMPARED


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_collect_file(file_path, parent):
    """Tell nbval to compare text and nothing else; it would miss the HTML that is not stored."""
    collectors = yield
    for collector in collectors:
        if hasattr(collector, "skip_compare"):
            collector.skip_compare = _NotText()
    return collectors


SECONDS = [0.0]


@pytest.hookimpl(optionalhook=True)
def pytest_runtest_logreport(report):
    """Add up the seconds of the cells."""
    if report.when == "call":
        SECONDS[0] += report.duration


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    """Note the seconds, and the memory of the kernels, which have ended by now."""
    if not (note := os.environ.get("BOOK_MEASURED")):
        return
    try:
        import resource

        # in KiB, on macOS in bytes
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    except ImportError:
        peak = None
    Path(note).write_text(json.dumps({"seconds": SECONDS[0], "peak_mib": peak}))
