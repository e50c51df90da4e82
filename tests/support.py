"""Shared by the tests of the chapters: where things are, and the one command that compares stored outputs.

The module is also the plugin of that command (``-p tests.support``), see the hooks at its end.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
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


@functools.cache
def executed(chapter: Path) -> Run:
    """The run of a chapter's notebook. A run of the suite executes each once, and its workers share the outcome."""
    suite = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if suite is None:
        return nbval([chapter.with_suffix(".ipynb")])
    folder = ROOT / "_build" / "executed" / suite
    folder.mkdir(parents=True, exist_ok=True)
    word = folder / f"{chapter.stem}.json"
    try:
        word.with_suffix(".begun").touch(exist_ok=False)
    except FileExistsError:
        while not word.exists():
            time.sleep(0.2)
        return Run(**json.loads(word.read_text(encoding="utf-8")))
    try:
        run = nbval([chapter.with_suffix(".ipynb")])
    except subprocess.TimeoutExpired as error:  # the others must not wait for ever
        run = Run(124, str(error), "", float(error.timeout), None)
    word.with_suffix(".new").write_text(json.dumps(asdict(run)), encoding="utf-8")
    word.with_suffix(".new").rename(word)
    return run


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
