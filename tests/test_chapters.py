"""The shape of a chapter's source: cells that can be read, figures that can be read aloud."""

import statistics

import jupytext
import ledger
import pytest

each_chapter = pytest.mark.parametrize("chapter", ledger.chapters(), ids=lambda chapter: chapter.stem)


def code_cells(chapter):
    return [cell for cell in jupytext.read(chapter).cells if cell.cell_type == "code"]


@each_chapter
def test_cells_are_short(chapter):
    sizes = [len(cell.source.splitlines()) for cell in code_cells(chapter)]
    assert max(sizes) <= 20
    assert statistics.median(sizes) <= 6


@each_chapter
def test_lines_of_code_fit_the_page(chapter):
    wide = [line for cell in code_cells(chapter) for line in cell.source.splitlines() if len(line) > 82]
    assert not wide, "these lines would scroll sideways:\n" + "\n".join(wide)


@each_chapter
def test_every_figure_has_alt_text_and_a_caption(chapter):
    cells = [cell for cell in code_cells(chapter) if "plt.show()" in cell.source]
    assert cells
    for cell in cells:
        about = cell.metadata.get("mystnb", {})
        name = about.get("figure", {}).get("name", cell.source.splitlines()[0])
        alt = about.get("image", {}).get("alt", "")
        assert len(alt.split()) >= 10, f"{name}: alt text of ten words or more must say what the figure shows"
        assert about.get("figure", {}).get("caption"), f"{name}: a caption is missing"
