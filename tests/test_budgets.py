"""A chapter runs in 60 seconds and 1.5 GiB. It is measured in the run that compares its stored outputs."""

import nbformat
import performance
import pytest
import reader_edition
from support import CHAPTERS, Run, executed, nbval

SECONDS = 60
MIB = 1536
SLOWER = 3  # so many times may the machine of the tests be slower, or busier, than the one that made the notebooks

each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)


def over_budget(run: Run, seconds: float = SLOWER * SECONDS, mib: float = MIB) -> list[str]:
    """What a run took too much of, a sentence for each."""
    lines = []
    if run.seconds > seconds:
        lines.append(f"it took {run.seconds:.0f} s; at most {seconds} are allowed")
    if run.peak_mib is not None and run.peak_mib > mib:
        lines.append(f"it held {run.peak_mib:.0f} MiB; at most {mib} are allowed")
    return lines


@pytest.mark.slow
@each_chapter
def test_a_chapter_keeps_its_budget(chapter):
    run = executed(chapter)
    assert run.seconds > 0, run.stdout
    assert run.peak_mib is None or run.peak_mib > 50, "no kernel was measured"
    assert not over_budget(run), over_budget(run)


@each_chapter
def test_the_figures_in_the_book_keep_the_budget(chapter):
    figures = performance.read().get(chapter.stem)
    assert figures, f"no figures for {chapter.stem}; run: make notebooks"
    assert 0 < figures["seconds"] <= SECONDS
    assert figures["peak_mib"] is None or 50 < figures["peak_mib"] <= MIB


def test_there_are_no_figures_of_chapters_that_are_gone():
    assert set(performance.read()) <= {chapter.stem for chapter in CHAPTERS}


# --- a chapter that takes too much is found ---


def run_of(path, source):
    cell = nbformat.v4.new_code_cell(source, execution_count=1)
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=metadata), path)
    run = nbval([path])
    assert run.returncode == 0, run.stdout
    return run


@pytest.mark.slow
def test_a_chapter_that_eats_memory_is_found(tmp_path):
    run = run_of(tmp_path / "eats.ipynb", "held = b'x' * 2**31\ndel held")  # given back, and yet it was there
    if run.peak_mib is None:
        pytest.skip("this system does not tell the memory of a process")
    (line,) = over_budget(run)
    assert "MiB" in line


@pytest.mark.slow
def test_a_chapter_that_dawdles_is_found(tmp_path):
    run = run_of(tmp_path / "sleeps.ipynb", "import time\ntime.sleep(2)")
    assert not over_budget(run)  # 2 seconds are allowed
    (line,) = over_budget(run, seconds=1)
    assert "at most 1 are" in line


def test_figures_are_written_for_the_chapters_that_exist(tmp_path):
    (tmp_path / "book").mkdir()
    for name in ("01-one", "02-two"):
        cells = "```{code-cell} ipython3\n1\n```\n\n```{code-cell} ipython3\n:tags: [remove-cell]\n\n2\n```\n"
        (tmp_path / "book" / f"{name}.md").write_text(f"# One\n\n{cells}")
        performance.write(tmp_path, name, 1.6, 300)
    (tmp_path / "book" / "01-one.md").unlink()
    performance.write(tmp_path, "02-two", 3.2, None)
    assert {name: (row["seconds"], row["peak_mib"]) for name, row in performance.read(tmp_path).items()} == {
        "02-two": (3, None)
    }
    table = "\n".join(performance.rows(tmp_path))
    assert "| {doc}`../02-two` | 1 | 3 | - | 1 |" in table
    assert "Machine 1: " in table


@pytest.mark.slow
def test_what_an_execution_costs_is_measured(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "_config.yml").write_text("title: Small\n")
    cells = ["import time", "time.sleep(0.5)", "held = b'x' * 2**29\ndel held"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    outputs, seconds, peak = reader_edition.execute(notebook, tmp_path)
    assert outputs == [[], [], []]
    assert 0.5 <= seconds < 30
    assert peak is None or 512 < peak < 1024
