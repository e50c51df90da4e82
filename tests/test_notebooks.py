"""The reader's editions run, and every text that they store is what the run prints (nbval, strictly)."""

import inspect
import re
import subprocess
import sys

import jupytext
import nbformat
import pytest
from support import CHAPTERS, ROOT, executed, nbval

from course_lib.notebooks import glue

MOST_IGNORED = 4


def counts(report: str) -> dict[str, int]:
    """The last line of pytest, as {"passed": 3, "failed": 1}."""
    return {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", report.strip().splitlines()[-1])}


@pytest.mark.slow
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_every_cell_runs_and_prints_what_is_stored(chapter):
    written = sum(cell.cell_type == "code" for cell in jupytext.read(chapter).cells)
    done = executed(chapter)
    assert done.returncode == 0, done.stdout + done.stderr
    found = counts(done.stdout)
    assert found.get("passed") == written + 1, f"{written} cells and the one for Colab, but pytest says {found}"
    assert not {"failed", "skipped", "error", "errors", "xfailed"} & set(found)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_few_outputs_are_left_uncompared(chapter):
    notebook = nbformat.read(chapter.with_suffix(".ipynb"), as_version=4)
    tags = [tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])]
    assert tags.count("nbval-ignore-output") <= MOST_IGNORED
    assert not {"nbval-skip", "nbval-raises-exception"} & set(tags)
    assert not any("NBVAL_" in cell.source for cell in notebook.cells), "use a tag: comments are not counted"


# Each cell with the outputs that it really gives, then with one thing wrong.
GLUED = "application/papermill.record/text/plain"
SCRAPBOOK = {"scrapbook": {"name": "k", "mime_prefix": "application/papermill.record/"}}


def stream(text, name="stdout"):
    return nbformat.v4.new_output("stream", name=name, text=text)


def shown(kind="display_data", metadata=None, **data):
    count = {"execution_count": 1} if kind == "execute_result" else {}
    return nbformat.v4.new_output(kind, data=data, metadata=metadata or {}, **count)


SVG = "<svg xmlns='http://www.w3.org/2000/svg'/>"
RESULTS = {text: [shown("execute_result", **{"text/plain": text})] for text in ("6", "7")}
DISPLAYS = {name: [shown(**{"text/plain": f"<IPython.core.display.{name} object>"})] for name in ("HTML", "SVG")}
CANARIES = {
    "stdout": ("print(1 + 1)", [stream("2\n")], [stream("3\n")]),
    "result": ("2 * 3", RESULTS["6"], RESULTS["7"]),
    "nothing stored": ("print('new')", [stream("new\n")], []),
    "nothing printed": ("pass", [], [stream("old\n")]),
    "stderr": ("import sys\nprint('!', file=sys.stderr)", [stream("!\n", "stderr")], []),
    "html": ("from IPython.display import HTML, SVG\ndisplay(HTML('<b>x</b>'))", DISPLAYS["HTML"], DISPLAYS["SVG"]),
    "svg": (f'display(SVG("{SVG}"))', DISPLAYS["SVG"], DISPLAYS["HTML"]),
    "glued": (
        "from course_lib.notebooks import glue\nglue('k', '0.44')",
        *([shown(metadata=SCRAPBOOK, **{GLUED: repr(text)})] for text in ("0.44", "0.45")),
    ),
    "figure": (
        "import matplotlib.pyplot as plt\nfig = plt.figure(figsize=(1, 1))\nplt.show()",
        *([shown(**{"text/plain": f"<Figure size 100x100 with {n} Axes>"})] for n in (0, 1)),
    ),
}  # fmt: skip


def write_canary(path, wrong: bool):
    cells = [
        nbformat.v4.new_code_cell(source, outputs=outputs[wrong], execution_count=1)
        for source, *outputs in CANARIES.values()
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


@pytest.mark.slow
def test_the_same_command_passes_right_outputs(tmp_path):
    done = nbval([write_canary(tmp_path / "right.ipynb", wrong=False)])
    assert done.returncode == 0, done.stdout
    assert counts(done.stdout)["passed"] == len(CANARIES)


@pytest.mark.slow
def test_the_same_command_fails_on_each_wrong_output(tmp_path):
    done = nbval([write_canary(tmp_path / "wrong.ipynb", wrong=True)])
    assert done.returncode == 1, done.stdout
    passed = [name for i, name in enumerate(CANARIES) if f"::Cell {i}\n" not in done.stdout.replace(" _", "\n")]
    assert counts(done.stdout).get("failed") == len(CANARIES), f"not noticed: {passed}\n{done.stdout}"


# --- course_lib.notebooks, whose other half is tested by its doctests --------------------------------------------

GLUE_BOTH = """
from unittest import mock
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
import myst_nb
from course_lib.notebooks import glue
InteractiveShell.instance()
for value in ("0.443", "it's", "5 s", 7, True, 0.5, 1e-300, float("nan")):
    bundles = []
    for function, options in ((myst_nb.glue, {"display": False}), (glue, {})):
        with capture_output() as captured:
            function("name", value, **options)
        assert captured.stdout == captured.stderr == "", captured.stdout
        bundles.append([(out.data, out.metadata) for out in captured.outputs])
    assert bundles[0] == bundles[1] and len(bundles[0]) == 1, bundles
"""


def test_glue_stores_what_myst_nb_stores():
    # In a process of its own: an interactive shell changes the one that it lives in.
    done = subprocess.run([sys.executable, "-c", GLUE_BOTH], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_glue_does_nothing_outside_a_notebook(capsys):
    glue("name", "value")
    assert capsys.readouterr() == ("", "")


def test_glue_refuses_what_the_text_cannot_show():
    unchecked = inspect.unwrap(glue)  # as a reader has it: the suite checks the types of arguments before
    with pytest.raises(TypeError, match="'kl' has type list"):
        unchecked("kl", [1.0])
    with pytest.raises(ValueError, match="the name 'a b'"):
        glue("a b", 1)
