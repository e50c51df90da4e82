"""The reader's editions book/NN-name.ipynb: what the chapter gives, in plain Markdown, with the book's own numbers."""

import html as html_entities
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import build
import jupytext
import nbformat
import pytest
import reader_edition
import yaml
from bs4 import BeautifulSoup
from reader_markdown import EditionError, resolve_chapters
from site_pages import html  # noqa: F401  (a fixture)
from support import CHAPTERS, ROOT

from course_lib import __version__

# Sphinx and its extensions run in this process, and what they will deprecate next year is not for us to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
MACROS = CONFIG["sphinx"]["config"]["mathjax3_config"]["tex"]["macros"]
each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)


def edition(chapter: Path):
    return nbformat.read(chapter.with_suffix(".ipynb"), as_version=4)


def prose(notebook) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


# --- the chapters of the book ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planned():
    """Every chapter made again, executing nothing."""
    return reader_edition.plan(ROOT, CHAPTERS)


def test_there_is_one_edition_for_each_chapter():
    assert CHAPTERS
    assert sorted(ROOT.glob("book/*.ipynb")) == [chapter.with_suffix(".ipynb") for chapter in CHAPTERS]


@each_chapter
def test_the_edition_is_what_the_chapter_gives(chapter, planned):
    found = reader_edition.difference(planned[chapter], chapter.with_suffix(".ipynb"), ROOT)
    assert found is None, f"{chapter.stem}.ipynb is not what {chapter.name} gives: {found}. Run: make notebooks"


def test_one_chapter_can_be_asked_for():
    """Its page names figures and equations of the others, which must be there all the same."""
    assert reader_edition.main(["--check", CHAPTERS[-1].stem[:2]]) == 0


# What Jupyter would show as it stands. Inside `code` it is an example of MyST, and no fault.
RAW = {
    "a role": r"\{[\w:.+-]+\}`",
    "a directive": r"```+\s*\{",
    "a colon fence": r"^\s*(?:> ?)*:::",
    "a target": r"^\s*(?:> ?)*\([\w:.-]+\)=\s*$",
    "the label of an equation": r"\$\$[ \t]*\([\w:.-]+\)",
    "a substitution": r"\{\{.*?\}\}(?![^$]*\$)",
    "a comment": r"^%",
    "a block break": r"^\+\+\+",
    "an option": r"^:[\w-]+: ",
    "a footnote": r"\[\^[\w-]+\]",
    "a macro": r"\\(?:" + "|".join(MACROS) + r")(?![A-Za-z])",
    "a mark": "[\ue000-\ue0ff]",
}


def raw_myst(text: str) -> list[str]:
    fences = re.sub(r"^(`{3,})(?!\s*\{)[^\n]*\n.*?^\1\s*$", "", text, flags=re.M | re.S)
    plain = re.sub(r"(?<![`}])(`+)(?!`).+?(?<!`)\1(?!`)", "", fences)
    found = {what: re.findall(pattern, plain, re.M) for what, pattern in RAW.items()}
    found["a quotation's sign in a formula"] = [part for part in plain.split("$$")[1::2] if "\n>" in part]
    return [f"{what}: {matches}" for what, matches in found.items() if matches]


@each_chapter
def test_there_is_no_raw_myst(chapter):
    assert raw_myst(prose(edition(chapter))) == []


@pytest.mark.parametrize(
    "text",
    ["see {eq}`eq-a`", "{prf:ref}`thm`", "```{note}\nx\n```", ":::{tip}", "(label)=", "$$\nx\n$$ (eq-a)", r"$\KL(p)$",
     "{glue:text}`x`", "% hidden", "+++", ":label: x", "word[^1]", "> $$\n> x\n> $$", "\ue000x", "{{ name }}"],
)  # fmt: skip
def test_raw_myst_is_seen(text):
    assert raw_myst(f"Before.\n\n{text}\n\nAfter.")


@pytest.mark.parametrize(
    "text", ["`{eq}` is a role", "```python\nd = {}\n```", r"$\mathrm{KL}_{{1}}$", r"$\Tau$", "$x$ (a)"]
)
def test_plain_markdown_is_not_taken_for_raw_myst(text):
    assert raw_myst(text) == []


@each_chapter
def test_cells_and_tags_are_those_of_the_chapter(chapter):
    # jupytext is what opens the chapter in JupyterLab; the edition is made with another reader.
    written = [cell for cell in jupytext.read(chapter).cells if cell.cell_type == "code"]
    first, *stored = [cell for cell in edition(chapter).cells if cell.cell_type == "code"]
    assert [cell.source for cell in stored] == [cell.source for cell in written]
    assert [cell.metadata.get("tags", []) for cell in stored] == [cell.metadata.get("tags", []) for cell in written]
    assert first.metadata.tags == ["colab"]


@each_chapter
def test_the_first_cell_serves_colab(chapter):
    cell = edition(chapter).cells[0]
    repository = CONFIG["repository"]
    assert cell.cell_type == "code"
    assert f'"git+{repository["url"]}@{repository["branch"]}"' in cell.source
    assert f'report_versions("{__version__}")' in cell.source
    assert len(cell.source.splitlines()) <= 12
    assert cell.outputs == []


@each_chapter
def test_outputs_are_text_and_the_same_on_every_machine(chapter):
    notebook = edition(chapter)
    nbformat.validate(notebook)
    for count, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), start=1):
        assert cell.execution_count == count  # without it nbval compares nothing
        for output in cell.outputs:
            assert output.get("name") != "stderr", output
            assert set(output.get("data", {})) <= {"text/plain", "application/papermill.record/text/plain"}
    text = chapter.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert str(Path.home()) + "/" not in text
    assert str(ROOT) not in text
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}


# The page in the browser and the notebook must say the same. Compared are letters and digits, macros written out:
# what is left of a paragraph when the markup of either edition is taken away.


def letters(text: str) -> str:
    for name, meaning in MACROS.items():
        text = re.sub(rf"\\{name}(?![A-Za-z])", lambda _, to=meaning: to, text)
    text = re.sub(r"\\(?:begin|end)\{(?:aligned|split)\}|\\tag\{(.*?)\}|\\[vV]ert(?![A-Za-z])", "", text)
    text = re.sub(r"(?<=\])\(https?://[^)]*\)", "", text)  # the address of a link
    text = re.sub(r"</?(?:sup|sub|b|br|details|summary)>", "", text)
    return re.sub(r"[\W_]", "", html_entities.unescape(text))


def page_parts(page: Path):
    article = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").find("article", class_="bd-article")
    unwanted_parts = "a.headerlink, .interactive, .cell_input, .cell summary, .cell_output pre, script, style"
    for unwanted in article.select(unwanted_parts):
        unwanted.decompose()
    for value in article.select("span.pasted-text"):
        value.string = "\ue000"  # a measured time differs from run to run; the values have their own test
    return article


def equations_of_page(article) -> dict[str, str]:
    found = {}
    for block in article.select("div.math"):
        number = block.find("span", class_="eqno")
        if number:
            tex = block.get_text().replace(number.get_text(), "", 1)
            found[number.get_text().strip("()# ")] = letters(re.sub(r"(?<!\\)%.*", "", tex))
    return found


def equations_of_edition(text: str) -> dict[str, str]:
    blocks = re.findall(r"\$\$(.*?)\$\$", text, re.S)
    return {tag[1]: letters(block) for block in blocks if (tag := re.search(r"\\tag\{(.*?)\}", block))}


def not_said(article, text: str) -> list[str]:
    """The paragraphs, headings and captions of the page that are not in the notebook, in the page's order."""
    said, position, missing = letters(text), 0, []
    for part in article.select("p, h1, h2, h3, h4, figcaption, li, td, th, dt"):
        if part.find(["p", "li"]):
            continue
        words = [re.escape(letters(piece)) for piece in part.get_text().split("\ue000")]
        found = re.compile(".{1,16}?".join(words)).search(said, position)
        if found is None:
            missing.append(part.get_text())
        else:
            position = found.end()
    return missing


@each_chapter
def test_numbers_and_words_are_those_of_the_page(chapter, html):  # noqa: F811
    article = page_parts(html / "book" / f"{chapter.stem}.html")
    text = prose(edition(chapter))
    assert equations_of_edition(text) == equations_of_page(article)
    labels = [" ".join(label.get_text().split()) for label in article.select(".caption-number, .admonition-title")]
    assert [label for label in labels if f"**{label}" not in text and f"<b>{label}</b>" not in text] == []
    assert not_said(article, text) == []


# --- small books: every construct, and what must fail ------------------------------------------------------------

FRONT = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

"""
BIBLIOGRAPHY = """\
@article{kullback1951, author = {Kullback, Solomon and Leibler, Richard A.}, title = {On Information and Sufficiency},
  journal = {The Annals of Mathematical Statistics}, volume = {22}, year = {1951}, doi = {10.1214/aoms/1177729694}}
@book{other, author = {Other, Ann}, title = {Never Cited Here}, publisher = {Press}, year = {2000}}
"""


def small_book(root: Path, *chapters: str, site: str = "") -> Path:
    """A book with the settings of this one and the chapters given, one equation and one theorem before them."""
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    settings["sphinx"]["local_extensions"] = {
        "own_directive": "book/_ext",
        "interactive": str(ROOT / "book" / "_ext"),
    }
    settings["sphinx"]["config"].pop("html_static_path", None)
    settings["html"].pop("favicon", None)
    if site:
        settings["html"]["baseurl"] = site
    names = [f"{number:02d}-small" for number in range(1, len(chapters) + 1)]
    pages = [{"file": f"book/{name}"} for name in ["opening", *names, "works"]]
    (root / "book" / "_ext").mkdir(parents=True)
    (root / "course_lib").mkdir()
    (root / "course_lib" / "_version.py").write_text('__version__ = "1.2.3"\n')
    (root / "_config.yml").write_text(yaml.safe_dump(settings))
    (root / "_toc.yml").write_text(yaml.safe_dump({"format": "jb-book", "root": "book/index", "chapters": pages}))
    (root / "book" / "index.md").write_text("# Small book\n\n```{own}\n```\n")
    (root / "book" / "opening.md").write_text(
        "# Opening\n\n(sec-opening)=\n## A section\n\n"
        "```{prf:theorem}\n:label: thm-first\nAll is well.\n```\n\n$$ a $$ (eq-first)\n"
    )
    (root / "book" / "works.md").write_text("# Works\n\n```{bibliography}\n```\n")
    (root / "book" / "references.bib").write_text(BIBLIOGRAPHY)
    (root / "book" / "_ext" / "own_directive.py").write_text(
        "from docutils import nodes\nfrom docutils.parsers.rst import Directive\n"
        "class Own(Directive):\n    def run(self):\n        return [nodes.paragraph('', 'mine')]\n"
        "def setup(app):\n    app.add_directive('own', Own)\n    return {}\n"
    )
    for name, text in zip(names, chapters, strict=True):
        (root / "book" / f"{name}.md").write_text(FRONT + textwrap.dedent(text).lstrip(), encoding="utf-8")
    return root


def shown(root: Path) -> str:
    """The first chapter's Markdown, cells left out."""
    (page,) = resolve_chapters(root, ["book/01-small"]).values()
    return "\n\n".join(item for item in page.items if isinstance(item, str))


EVERYTHING = r"""
    # Everything

    See {eq}`eq-first`, {eq}`eq-mine`, {prf:ref}`thm-first`, {prf:ref}`lem-mine` and {numref}`fig-drawn`.
    See also {numref}`fig-file` and {numref}`tab-mine`, and [here](opening.md) or {ref}`sec-opening`.
    By {cite:t}`kullback1951` and again {cite:p}`kullback1951`. [A site](https://example.org/a_b) and <https://example.org>.
    A price of 5\$ or *two* **words** `in code {eq}` and {sub}`low` and a note[^n]. An a_b_c, a * and a < b > c.

    1\. Not a list

    $$
    \KL(p \| q) = \E_p[x]^\T,
    \quad x<y % a remark
    $$ (eq-mine)

    $$
    a &= b \\
    c &= d
    $$

    ```{prf:lemma} Mine, with $\R$
    :label: lem-mine

    Let $x \in \R$. Then

    $$
    x^2
    \geq 0
    $$ (eq-square)

    - one
    - two
    ```

    ```{prf:proof}
    Because of {eq}`eq-square`.

    A second paragraph.
    ```

    ```{prf:definition} Thing
    A thing.
    ```

    ```{prf:example}
    An example.
    ```

    ```{prf:remark}
    :nonumber:
    A remark.
    ```

    :::{note}
    A note with

    ```python
    d = {}
    ```
    :::

    ```{tip}
    :class: dropdown
    A hidden hint: $\KL \geq 0$.
    ```

    ```{admonition} Answer for $\R$ & all
    :class: dropdown
    The answer.
    ```

    ````{warning}
    ```{tip}
    Nested.
    ```
    ````

    ```{dropdown} More
    Folded.
    ```

    ```{figure} picture.svg
    :name: fig-file
    :alt: A square.

    A figure from a file.
    ```

    | name | $p \| q$ |
    | :--- | -------: |
    | a|b  | 1        |

    ```{table} A table.
    :name: tab-mine

    | u | v |
    | - | - |
    | 1 | `x` |
    ```

    Term
    : Its meaning.

    Other term
    : Another meaning.

    > A quotation.
    > In two lines.

    3. three
    4. four
       - nested

    ---

    ```python
    print("shown, not run")
    ```

    ```{code-cell} ipython3
    :tags: [hide-input, remove-output]

    from course_lib.notebooks import glue
    glue("value", "0.443")
    glue("number", 0.5)
    ```

    ```{code-cell} ipython3
    ---
    tags: [hide-input]
    mystnb:
      figure:
        name: fig-drawn
        caption: A caption with $\Sigma \in \R$, see {eq}`eq-mine`.
      image:
        alt: A line.
    ---
    import matplotlib.pyplot as plt
    fig = plt.figure(figsize=(1, 1))
    plt.show()
    ```

    ```{interactive} kl-fit
    :figure: fig-drawn
    Drag $q$.
    ```

    The value is {glue:text}`value`, the number {glue:text}`number:.2f`.

    +++ {"tags": ["mine"]}

    ## Another cell

    With words.

    [^n]: The note.
    """

EXPECTED = [
    "# Everything\n\nSee (1), (2), Theorem 1, Lemma 1 and Fig. 2.\nSee also Fig. 1 and Table 1, and here or A section.",
    "By Kullback and Leibler (1951) and again (Kullback and Leibler, 1951).",
    "[A site](https://example.org/a_b) and <https://example.org>.",
    "5\\$ or *two* **words** `in code {eq}` and <sub>low</sub> and a note<sup>1</sup>. An a_b_c, a \\* and a < b > c.",
    "1\\. Not a list",
    "$$\n\\mathrm{KL}(p \\| q) = \\mathbb{E}_p[x]^{\\top},\n\\quad x< y \\tag{2}\n$$",
    "$$\n\\begin{aligned}\na &= b \\\\\nc &= d\n\\end{aligned}\n$$",
    "> **Lemma 1 (Mine, with $\\mathbb{R}$).** Let $x \\in \\mathbb{R}$. Then\n>\n> $$ x^2 \\geq 0 \\tag{3} $$\n"
    ">\n> - one\n> - two",
    "> *Proof.* Because of (3).\n>\n> A second paragraph.",
    "> **Definition 1 (Thing).** A thing.",
    "> **Example 1.** An example.",
    "> **Remark.** A remark.",
    "> **Note.** A note with\n>\n> ```python\n> d = {}\n> ```",
    "<details>\n<summary><b>Tip</b></summary>\n\nA hidden hint: $\\mathrm{KL} \\geq 0$.\n\n</details>",
    "<summary><b>Answer for $\\mathbb{R}$ &amp; all</b></summary>\n\nThe answer.",
    "> **Warning.**\n>\n> > **Tip.** Nested.",
    "<summary><b>More</b></summary>\n\nFolded.",
    "/raw/{branch}/book/picture.svg)\n\n**Fig. 1.** A figure from a file.",
    "| name | $p \\vert q$ |\n| :--- | ---: |\n| a\\|b | 1 |",
    "**Table 1.** A table.\n\n| u | v |\n| --- | --- |\n| 1 | `x` |",
    "- **Term**: Its meaning.\n- **Other term**: Another meaning.",
    "> A quotation.\n> In two lines.",
    "3. three\n4. four\n   - nested",
    "```python\nprint(\"shown, not run\")\n```",
    "**Fig. 2.** A caption with $\\Sigma \\in \\mathbb{R}$, see (2).\n\n"
    "A live version of this figure, to drag and to try, is on the book's page *Everything*.",
    "<sup>1</sup> The note.",
    "## References\n\n- Solomon Kullback and Richard A. Leibler. On information and sufficiency.",
]


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A book whose one chapter holds every construct, and its edition, executed."""
    source = EVERYTHING.replace("| a|b  |", "| a\\|b |")
    root = small_book(tmp_path_factory.mktemp("everything"), source)
    (root / "book" / "picture.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    assert reader_edition.main(["--root", str(root)]) == 0
    return root


def test_every_construct_becomes_plain_markdown(everything):
    notebook = edition(everything / "book/01-small.md")
    text = prose(notebook)
    missing = [part for part in EXPECTED if part.replace("{branch}", CONFIG["repository"]["branch"]) not in text]
    assert not missing, "\n".join(["not found:", *missing, "in:", text])
    assert "Never Cited" not in text
    assert raw_myst(text) == []
    assert "The value is 0.443, the number 0.50." in text
    assert f"![A square.]({CONFIG['repository']['url']}/raw/" in text


def test_cells_keep_their_order_tags_and_text_outputs(everything):
    kinds = [(cell.cell_type, cell.metadata.get("tags")) for cell in edition(everything / "book/01-small.md").cells]
    assert kinds == [
        ("code", ["colab"]),
        ("markdown", None),
        ("code", ["hide-input", "remove-output"]),
        ("code", ["hide-input"]),
        ("markdown", None),
        ("markdown", ["mine"]),
    ]
    drawn = edition(everything / "book/01-small.md").cells[3]
    assert [output.data for output in drawn.outputs] == [{"text/plain": "<Figure size 100x100 with 0 Axes>"}]
    assert "mystnb" not in drawn.metadata


@pytest.mark.slow
def test_the_page_of_every_construct_says_the_same(everything):
    done = build.build(everything)
    assert done.returncode == 0, done.stdout
    article = page_parts(everything / "_build/html/book/01-small.html")
    text = prose(edition(everything / "book/01-small.md"))
    assert equations_of_edition(text) == equations_of_page(article)
    assert len(equations_of_page(article)) == 2
    assert not_said(article, text) == []


def test_the_comparison_with_the_page_can_fail():
    article = BeautifulSoup("<article><p>As (2) says.</p><p>Then (3).</p></article>", "html.parser")
    assert not_said(article, "As (2) says.\n\nThen (3).") == []
    assert not_said(article, "As (2) says.\n\nThen (4).") == ["Then (3)."]
    assert not_said(article, "Then (3).\n\nAs (2) says.") == ["Then (3)."]


def test_made_again_it_has_the_same_bytes(everything, capsys):
    path = everything / "book/01-small.ipynb"
    before = path.read_bytes()
    assert reader_edition.main(["--root", str(everything)]) == 0
    assert "outputs kept, nothing new" in capsys.readouterr().out
    assert reader_edition.main(["--root", str(everything), "--force"]) == 0
    assert "executed, nothing new" in capsys.readouterr().out
    assert path.read_bytes() == before


# An edit of the stored notebook, and what the check says about it.
EDITS = {
    "a word": (lambda nb: change(nb.cells[1], "See (1)", "See (9)"), "See (9)"),
    "a value": (lambda nb: change(nb.cells[4], "0.443", "0.444"), "0.444"),
    "code": (lambda nb: change(nb.cells[3], "(1, 1)", "(2, 2)"), "(2, 2)"),
    "a tag": (lambda nb: nb.cells[2].metadata.update(tags=["hide-input"]), "metadata"),
    "a cell's kind": (lambda nb: nb.cells.__setitem__(2, nbformat.v4.new_markdown_cell("x")), "stored as markdown"),
    "a cell less": (lambda nb: nb.cells.pop(), "the chapter gives 6 cells, stored are 5"),
    "the address": (lambda nb: change(nb.cells[0], "https://", "https://elsewhere."), "elsewhere"),
    "a picture": (lambda nb: nb.cells[3].outputs[0].data.update({"image/png": "AAAA"}), "outputs or metadata"),
    "a count": (lambda nb: nb.cells[3].update(execution_count=None), "outputs or metadata"),
    "metadata": (lambda nb: nb.metadata.language_info.update(version="3.99"), "outputs or metadata"),
}


def change(cell, old, new):
    assert old in cell.source
    cell.source = cell.source.replace(old, new)


@pytest.mark.parametrize("what", EDITS)
def test_the_check_names_the_first_difference(what, everything, tmp_path):
    notebook = edition(everything / "book/01-small.md")
    edit, expected = EDITS[what]
    edit(notebook)
    stored = tmp_path / "stored.ipynb"
    nbformat.write(notebook, stored)
    (planned,) = reader_edition.plan(everything, [everything / "book/01-small.md"]).values()
    assert expected in reader_edition.difference(planned, stored, everything)


def test_the_command_fails_on_an_edited_chapter_and_says_what_to_run(everything, capsys):
    chapter = everything / "book/01-small.md"
    text = chapter.read_text()
    try:
        assert reader_edition.main(["--root", str(everything), "--check"]) == 0
        chapter.write_text(text.replace("A note with", "A notice with"))
        assert reader_edition.main(["--root", str(everything), "--check", "01"]) == 1
    finally:
        chapter.write_text(text)
    said = capsys.readouterr()
    assert "'> **Note.** A notice with', stored is '> **Note.** A note with'" in said.out
    assert "make notebooks" in said.err


def test_numbers_go_on_from_chapter_to_chapter_and_links_have_the_sites_address(tmp_path):
    one = "# One\n\n$$ a $$ (eq-one)\n\n```{prf:theorem}\n:label: thm-one\nYes.\n```\n"
    two = "# Two\n\n$$ b $$ (eq-two)\n\nSee {eq}`eq-one`, {prf:ref}`thm-one`, {ref}`sec-opening`, {doc}`01-small`.\n"
    root = small_book(tmp_path, one, two, site="https://example.org/book/")
    page = resolve_chapters(root, ["book/02-small"])["book/02-small"]
    text = "\n\n".join(item for item in page.items if isinstance(item, str))
    assert r"\tag{3}" in text
    site = "https://example.org/book/book"
    assert f"See [(2)]({site}/01-small.html#equation-eq-one), [Theorem 2]({site}/01-small.html#thm-one)" in text
    assert f"[A section]({site}/opening.html#sec-opening), [One]({site}/01-small.html)." in text


LIVE = """
# One

```{code-cell} ipython3
---
mystnb:
  figure:
    name: fig-one
    caption: The caption.
---
import matplotlib.pyplot as plt
```

```{interactive} kl-fit
:figure: fig-one
Drag $q$.
```

Words after.
"""


@pytest.mark.parametrize(
    ("site", "title"), [("", "One"), ("https://example.org", "[One](https://example.org/book/01-small.html#fig-one)")]
)
def test_a_live_figure_is_named_with_its_page(tmp_path, site, title):
    text = shown(small_book(tmp_path, LIVE, site=site))
    sentence = f"A live version of this figure, to drag and to try, is on the book's page *{title}*."
    assert f"**Fig. 1.** The caption.\n\n{sentence}\n\nWords after." in text
    assert "Drag" not in text


CELL = "```{code-cell} ipython3\nCODE\n```\n"
WRONG_TEXT = {
    "an unknown equation": ("See {eq}`eq-nowhere`.", "eq-nowhere"),
    "an unknown theorem": ("See {prf:ref}`thm-nowhere`.", "thm-nowhere"),
    "an unknown figure": ("See {numref}`fig-nowhere`.", "fig-nowhere"),
    "an unknown work": ("See {cite:t}`nobody`.", "nobody"),
    "an unknown page": ("See {doc}`nowhere`.", "nowhere"),
    "an unknown role": ("See {nothing}`x`.", "nothing"),
    "a live figure alone": ("```{interactive} kl-fit\n:figure: fig-x\nDrag.\n```", "no figure .* 'fig-x'"),
    "an unknown directive": ("```{nothing}\n```", "nothing"),
    "a component that Markdown has not": ("::::{grid} 2\n:::{grid-item}\nA\n:::\n::::", "near line 14: .*grid"),
}


@pytest.mark.parametrize("what", WRONG_TEXT)
def test_what_cannot_be_shown_is_an_error(what, tmp_path):
    text, expected = WRONG_TEXT[what]
    with pytest.raises(EditionError, match=expected):
        shown(small_book(tmp_path, f"# Wrong\n\n{text}\n"))


def test_a_chapter_outside_the_contents_is_an_error(tmp_path):
    root = small_book(tmp_path, "# One\n")
    (root / "book" / "07-lost.md").write_text(FRONT + "# Lost\n")
    with pytest.raises(EditionError, match=r"book/07-lost: not in _toc\.yml"):
        resolve_chapters(root, ["book/07-lost"])


WRONG_CELLS = {
    "an exception": ("1 / 0", r"code cell 2, which begins with '1 / 0', fails(?s:.*)ZeroDivisionError"),
    "stderr": ("import sys\nprint('careful', file=sys.stderr)", "code cell 2.* writes to stderr: 'careful'"),
    "an address in memory": ("object()", "code cell 2.* shows an address in memory"),
    "a folder of this machine": ("import os\nprint(os.getcwd())", "code cell 2.* shows a folder of this machine"),
    "a value glued twice": ("glue('v', 2)", "01-small.md: the value 'v' is glued twice"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", WRONG_CELLS)
def test_a_cell_that_fails_leaves_the_old_notebook(what, tmp_path, capsys):
    code, expected = WRONG_CELLS[what]
    first = CELL.replace("CODE", "from course_lib.notebooks import glue\nglue('v', 1)")
    root = small_book(tmp_path, "# One\n\n" + first + "\n" + CELL.replace("CODE", code))
    old = root / "book" / "01-small.ipynb"
    old.write_text(json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    before = old.read_bytes()
    assert reader_edition.main(["--root", str(root)]) == 1
    assert re.search(expected, capsys.readouterr().err)
    assert old.read_bytes() == before
    assert list(root.glob("book/*.new")) == []


@pytest.mark.slow
def test_what_makes_a_chapter_run_again(tmp_path, capsys):
    root = small_book(tmp_path, "# One\n\nText.\n\n" + CELL.replace("CODE", "print(1 + 1)"))
    chapter = root / "book" / "01-small.md"

    def made(*options):
        code = reader_edition.main(["--root", str(root), *options])
        return code, capsys.readouterr().out.strip()

    assert made() == (0, "01-small.ipynb: executed")
    assert made() == (0, "01-small.ipynb: outputs kept, nothing new")
    chapter.write_text(chapter.read_text().replace("Text.", "Other text."))
    assert made() == (0, "01-small.ipynb: outputs kept")  # words do not change a number
    (root / "course_lib" / "new.py").write_text("")
    assert made() == (0, "01-small.ipynb: executed, nothing new")
    stored = root / "book" / "01-small.ipynb"
    stored.write_text(stored.read_text().replace('"2\\n"', '"3\\n"'))  # as a person might
    assert made() == (0, "01-small.ipynb: executed")
    settings = (root / "_config.yml").read_text()
    (root / "_config.yml").write_text(settings.replace(CONFIG["repository"]["url"], "https://github.com/someone/other"))
    assert made("--keep-outputs") == (0, "01-small.ipynb: outputs kept")
    assert "git+https://github.com/someone/other@" in stored.read_text()
    chapter.write_text(chapter.read_text().replace("1 + 1", "1 + 2"))
    assert made("--keep-outputs")[0] == 1
    assert made() == (0, "01-small.ipynb: executed")


def test_help_says_how_to_use_it():
    done = subprocess.run(
        [sys.executable, "book/_ext/reader_edition.py", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "--check" in done.stdout
