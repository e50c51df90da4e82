"""The built book: its pages, images, links, references, buttons and weight. The checks are in site_pages.py."""

import functools
import random
import re
import shutil
import subprocess
import sys

import build
import pytest
import site_pages
from site_pages import html  # noqa: F401  (a fixture)

CHECKS = [
    site_pages.wrong_pages,
    site_pages.wrong_heads,
    site_pages.wrong_images,
    site_pages.wrong_interactive,
    site_pages.dead_links,
    site_pages.raw_source,
    site_pages.wrong_citations,
    site_pages.wrong_launch_buttons,
    site_pages.heavy_pages,
    site_pages.foreign_matter,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_site(check, html):  # noqa: F811
    wrong = check(html)
    assert not wrong, "\n" + "\n".join(wrong)


CHAPTER = "book/02-gaussian-kl.html"
# --- each check can fail -----------------------------------------------------------------------------------------


def edit(page, old, new):
    """A fault: in a page, what matches `old` becomes `new`."""

    def plant(copy):
        text = (copy / page).read_text(encoding="utf-8")
        changed = re.sub(old, new, text, count=1)
        assert changed != text, f"the fault could not be planted: {page} has no {old}"
        (copy / page).write_text(changed, encoding="utf-8")

    return plant


def append(text):
    """A fault: the chapter ends with `text`."""
    return edit(CHAPTER, r"</article>", text + "</article>")


def remove(page):
    return lambda copy: (copy / page).unlink()


def add(page, text="<html lang='en'><title>Old</title><h1>Old</h1></html>"):
    return lambda copy: (copy / page).write_text(text, encoding="utf-8")


NOISE = f"</h1><!-- {random.Random(0).randbytes(600_000).hex()} -->"  # compresses to little less than 600 kB
BIBLIOGRAPHY = "book/appendices/bibliography.html"
FAULTS = {
    "page missing": (site_pages.wrong_pages, remove(CHAPTER), "missing"),
    "page left over": (site_pages.wrong_pages, add("book/old.html"), "not in _toc.yml"),
    "no title": (site_pages.wrong_heads, edit(CHAPTER, r"<title>.*?</title>", "<title></title>"), "no title"),
    "no language": (site_pages.wrong_heads, edit(CHAPTER, r'<html lang="en"', "<html"), "no language"),
    "no alt text": (
        site_pages.wrong_images,
        edit(CHAPTER, r'alt="[^"]*" src="\.\./_images', 'alt="" src="../_images'),
        "no alt",
    ),
    "file name as alt text": (
        site_pages.wrong_images,
        edit(CHAPTER, r'alt="[^"]*" src="(\.\./_images/[^"]*)"', r'alt="\1" src="\1"'),
        "says nothing",
    ),
    "no caption": (site_pages.wrong_images, edit(CHAPTER, r"<figcaption>(.|\n)*?</figcaption>", ""), "no caption"),
    "live figure without its picture": (
        site_pages.wrong_interactive,
        append("<div class='interactive' data-name='kl-fit' data-figure='fig-none' hidden></div>"),
        "no static figure",
    ),
    "live figure without its script": (
        site_pages.wrong_interactive,
        append("<div class='interactive' data-name='kl-fit' data-figure='fig-question' hidden></div>"),
        "does not load interactive/kl-fit.js",
    ),
    "script of no figure": (
        site_pages.wrong_interactive,
        edit(CHAPTER, r"</head>", "<script src='../_static/interactive/kl-fit.js?v=1'></script></head>"),
        "none of its figures needs",
    ),
    "dead link": (site_pages.dead_links, edit(CHAPTER, r'href="index\.html"', 'href="nowhere.html"'), "leads nowhere"),
    "dead anchor": (site_pages.dead_links, edit(CHAPTER, r'href="#equation-', 'href="#no-equation-'), "no such place"),
    "image missing": (
        site_pages.dead_links,
        edit(CHAPTER, r'src="\.\./_images/', 'src="../_images/not-'),
        "leads nowhere",
    ),
    "raw formula": (site_pages.raw_source, append("<p>$$x$$</p>"), "display mathematics"),
    "raw inline formula": (site_pages.raw_source, append(r"<p>$\\mu$</p>"), "inline mathematics"),
    "raw role": (site_pages.raw_source, append("<p>{eq}`eq-a`</p>"), "a role"),
    "raw directive": (site_pages.raw_source, append("<p>:::{note}</p>"), "a directive"),
    "contents unlike headings": (
        site_pages.raw_source,
        edit(CHAPTER, r'(<nav id="pst-page-toc-nav"(.|\n)*?nav-link" href="#[^"]*">)', r"\1../"),
        "list of contents",
    ),
    "unresolved": (site_pages.raw_source, append("<span class='xref'>a</span>"), "unresolved"),
    "entry never cited": (
        site_pages.wrong_citations,
        edit(BIBLIOGRAPHY, r'<div class="citation" id="', '<div class="citation" id="un'),
        "cited nowhere",
    ),
    "entry not listed": (
        site_pages.wrong_citations,
        edit(BIBLIOGRAPHY, r'<div class="citation"', '<div class="gone"'),
        "but references.bib has",
    ),
    "button to the source": (
        site_pages.wrong_launch_buttons,
        edit(CHAPTER, r"(colab\.research[^\"]*)\.ipynb", r"\1.md"),
        "no button leads to",
    ),
    "heavy page": (site_pages.heavy_pages, edit(CHAPTER, r"</h1>", NOISE), "kB"),
    "path of this machine": (
        site_pages.foreign_matter,
        edit(CHAPTER, r"</h1>", f"</h1>{site_pages.ROOT.as_posix()}/x"),
        "names",
    ),
}


@functools.cache
def before(check, folder):
    return frozenset(check(folder))


@pytest.mark.parametrize("name", FAULTS)
def test_the_checks_can_fail(name, html, tmp_path):  # noqa: F811
    check, plant, message = FAULTS[name]
    copy = shutil.copytree(html, tmp_path / "html", ignore=shutil.ignore_patterns("*.map", "locales", "*.ttf"))
    plant(copy)
    assert any(message in line for line in set(check(copy)) - before(check, html))


@pytest.mark.slow
def test_a_warning_fails_the_build(tmp_path):
    """A small book with a reference to nothing: the build fails, says why, and says so again the second time."""
    (tmp_path / "book").mkdir()
    (tmp_path / "_config.yml").write_text("title: Small\nexecute: {execute_notebooks: 'off'}\n")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
    (tmp_path / "book/index.md").write_text("# Small\n\nSee {ref}`nothing`.\n")
    for _ in range(2):
        command = [sys.executable, build.__file__, str(tmp_path)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode != 0
        assert "undefined label: 'nothing'" in result.stderr
        assert "Traceback" not in result.stderr
    (tmp_path / "book/index.md").write_text("# Small\n")
    (tmp_path / "_build/html/book").mkdir(parents=True, exist_ok=True)
    (tmp_path / "_build/html/book/old.html").write_text("left from an earlier build")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "_build/html/book/old.html").exists()
