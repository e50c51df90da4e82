"""Shared by the tests of the chapters: where things are, and the one command that compares stored outputs.

The module is also the plugin of that command (``-p tests.support``), see `pytest_collect_file`.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "book").glob("[0-9][0-9]-*.md"))
# What is compared. Pictures and HTML are not stored in the notebooks, so they cannot be.
COMPARED = ("data", "text/plain", "application/papermill.record/text/plain", "stdout", "stderr", "ename", "evalue")


def nbval(paths, timeout: float = 600) -> subprocess.CompletedProcess:
    """Execute the notebooks again and compare every text output with the stored one."""
    command = [
        *(sys.executable, "-m", "pytest", "--nbval", "-p", "tests.support", "-p", "no:cacheprovider"),
        *("--nbval-kernel-name", "python3", "--nbval-cell-timeout", "120", "--color", "no", "--tb", "short"),
        # The settings of the suite are for its own modules: a notebook is not a module with doctests, and
        # a deprecation in nbval is not a fault of a chapter.
        *("-o", "addopts=", "-o", "filterwarnings=", "--rootdir", str(ROOT), *map(str, paths)),
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


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
