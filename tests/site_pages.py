"""What must hold for the built book: each check is a function of the folder of HTML that returns what is wrong.

They take the folder as an argument, so that a test can also call them on a damaged copy. BOOK_HTML=<folder> makes
`tests/test_site.py` and `tests/test_browser.py` look at that folder instead of building the book.
"""

import functools
import gzip
import os
import re
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import build
import pytest
import yaml
from bs4 import BeautifulSoup, Tag
from support import ROOT, once_in_a_run

# Pages that no source file stands for: the address of the book itself, which leads on to its first page, the search
# page and the indices. The index of theorems exists once a chapter states one.
GENERATED = {"index.html", "search.html", "genindex.html"}
MAY_BE_GENERATED = {"prf-prf.html"}

MEGABYTE = 1_000_000


@functools.cache
def built_book() -> tuple[Path, str]:
    """The folder of HTML and what went wrong, if anything did: the folder BOOK_HTML names, or the book built now."""
    if given := os.environ.get("BOOK_HTML"):
        return Path(given).resolve(), ""
    return build.html_folder(ROOT), once_in_a_run("book", _build)


def _build() -> str:
    result = build.build(ROOT)
    return result.stdout or f"exit code {result.returncode}" if result.returncode else ""


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder that holds the built book."""
    folder, wrong = built_book()
    if wrong:
        pytest.fail(f"the book was not built:\n{wrong}", pytrace=False)
    return folder


# --- reading pages and sources ---------------------------------------------------------------------------------


def pages(html: Path) -> list[str]:
    """The addresses of all pages, relative to the folder. Templates that the theme leaves in _static are none."""
    found = (page.relative_to(html) for page in html.rglob("*.html"))
    return sorted(page.as_posix() for page in found if page.parts[0] != "_static")


def toc_pages(root: Path = ROOT) -> list[str]:
    """The addresses of the pages that _toc.yml names, in reading order."""

    def files(entry):
        if isinstance(entry, list):
            return [name for one in entry for name in files(one)]
        if not isinstance(entry, dict):
            return []
        own = [entry[key] for key in ("root", "file") if key in entry]
        return own + [name for key, below in entry.items() if key not in ("root", "file") for name in files(below)]

    return [f"{name}.html" for name in files(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8")))]


def is_chapter(page: str) -> bool:
    return re.fullmatch(r"book/\d\d-[^/]+\.html", page) is not None


@functools.lru_cache(maxsize=32)  # the pages of the book, and some of damaged copies
def parsed(text: str) -> BeautifulSoup:
    """Parsing takes most of the time of these checks, and most pages of a damaged copy are those of the book."""
    return BeautifulSoup(text, "html.parser")


def soup(html: Path, page: str) -> BeautifulSoup:
    """A page, which its readers share: look, and change nothing."""
    return parsed((html / page).read_text(encoding="utf-8"))


def article(html: Path, page: str) -> Tag:
    """The page's own content, without the menus around it."""
    whole = soup(html, page)
    return whole.find("article") or whole


# --- the checks ------------------------------------------------------------------------------------------------


def wrong_pages(html: Path, root: Path = ROOT) -> list[str]:
    """The pages built are those of _toc.yml and the generated ones: none missing, none left from an earlier build."""
    built, wanted = set(pages(html)), set(toc_pages(root)) | GENERATED
    return [f"{page}: missing" for page in sorted(wanted - built)] + [
        f"{page}: not in _toc.yml" for page in sorted(built - wanted - MAY_BE_GENERATED)
    ]


def wrong_heads(html: Path) -> list[str]:
    """Every page names its language and has a title of its own."""
    wrong, titles = [], {}
    for page in pages(html):
        if page == "index.html":  # only leads on
            continue
        whole = soup(html, page)
        title = whole.title.get_text(strip=True) if whole.title else ""
        if not title:
            wrong.append(f"{page}: no title")
        elif title in titles:
            wrong.append(f"{page}: the same title as {titles[title]}")
        titles[title] = page
        if not whole.html.get("lang"):
            wrong.append(f"{page}: no language")
        if not whole.find("meta", attrs={"name": "viewport"}):
            wrong.append(f"{page}: no viewport, so a telephone shows it too small")
        if len(whole.find_all("h1")) == 0:
            wrong.append(f"{page}: no heading")
    return wrong


def wrong_images(html: Path) -> list[str]:
    """Every image has a text that can stand for it, and every figure of a cell has a caption."""
    wrong = []
    for page in pages(html):
        wrong += [
            f"{page}: {image.get('src')} has no alt text"
            for image in soup(html, page).find_all("img")
            if not (image.get("alt") or "").strip()
        ]
        for image in article(html, page).find_all("img"):
            alt, source = (image.get("alt") or "").strip(), image.get("src", "")
            named_after_file = Path(source).stem in alt or re.search(r"[0-9a-f]{16}|\.(png|svg|jpe?g)$", alt)
            if alt and (named_after_file or len(alt.split()) < 3):
                wrong.append(f"{page}: {source} has the alt text {alt!r}, which says nothing")
            figure = image.find_parent("figure")
            if figure is None or not figure.find("figcaption"):
                wrong.append(f"{page}: {source} has no caption")
    return wrong


def wrong_interactive(html: Path) -> list[str]:
    """Every live figure has its static one, with picture and caption, and its files; other pages load none of them."""
    wrong = []
    for page in pages(html):
        whole, names = soup(html, page), set()
        for place in whole.select(".interactive[data-name]"):
            names.add(name := place["data-name"])
            figure = whole.find("figure", id=place.get("data-figure") or "nowhere")
            if figure is None or not figure.find("img") or not figure.find("figcaption"):
                wrong.append(f"{page}: the live figure {name} has no static figure to stand in for it")
            if not place.has_attr("hidden"):
                wrong.append(f"{page}: the instructions of {name} show without the live figure")
        loaded = [tag.get("src") or tag.get("href") for tag in whole.select("script[src], link[rel=stylesheet]")]
        loaded = {Path(address.split("?")[0]).as_posix() for address in loaded}
        found = {match[1] for address in loaded if (match := re.search(r"_static/(interactive[./].*)$", address))}
        shared = {"interactive.js", "interactive.css"} if names else set()
        wanted = shared | {f"interactive/{name}.js" for name in names}
        wrong += [f"{page}: does not load {file}" for file in sorted(wanted - found)]
        wrong += [f"{page}: loads {file}, which none of its figures needs" for file in sorted(found - wanted)]
    return wrong


def dead_links(html: Path) -> list[str]:
    """Every link inside the book leads to a file, and to a place in it, that exists."""
    wrong = []

    @functools.cache
    def anchors(page: Path) -> set[str]:
        whole = parsed(page.read_text(encoding="utf-8"))
        named = whole.find_all("a", attrs={"name": True})
        return {tag["id"] for tag in whole.find_all(id=True)} | {tag["name"] for tag in named}

    for page in pages(html):
        for tag in soup(html, page).find_all(["a", "img", "link", "script", "source", "iframe"]):
            address = tag.get("href") or tag.get("src")
            if not address or urlsplit(address).scheme or address.startswith("//"):
                continue
            path, fragment = urldefrag(address)
            path = unquote(path.split("?")[0])
            target = (html / page).parent / path if path else html / page
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                wrong.append(f"{page}: {address} leads nowhere")
            elif fragment and target.suffix == ".html" and unquote(fragment) not in anchors(target):
                wrong.append(f"{page}: {address} has no such place")
    return sorted(set(wrong))


RAW = {
    "display mathematics left as text": re.compile(r"\$\$"),
    "inline mathematics left as text": re.compile(r"\$[^$\n]*\\[a-zA-Z]+[^$\n]*\$"),
    "a role left as text": re.compile(r"\{[a-z][a-z:]*\}`"),
    "a directive left as text": re.compile(r"(```|:::)|\{(code-cell|prf:\w+|admonition|figure|bibliography)\}"),
    "an option of a directive left as text": re.compile(r"^:(label|name|class|tags|width|alt):", re.M),
    "a substitution left as text": re.compile(r"\{\{.*?\}\}|%s"),
}


def raw_source(html: Path) -> list[str]:
    """No MyST, no formula and no unresolved reference stands in the text that a reader sees."""
    wrong = []
    for page in pages(html):
        content = article(html, page)
        for reference in content.select(".xref, .problematic, .system-message"):
            if reference.name != "a" and not reference.find_parent("a"):
                wrong.append(f"{page}: unresolved {reference.get_text(strip=True)!r}")
        headings = {tag.get_text().removesuffix("#").strip() for tag in content.select("h1, h2, h3, h4, h5, h6")}
        for entry in soup(html, page).select(".page-toc a"):
            if entry.get_text(strip=True) and entry.get_text().strip() not in headings:
                wrong.append(f"{page}: the list of contents says {entry.get_text().strip()!r}, no heading does")
        quoted = {id(text) for part in content.select("pre, code, script, style, .math") for text in part.strings}
        text = "\n".join(" " if id(text) in quoted else text for text in content.strings)
        wrong += [f"{page}: {what}: {hit[0]!r}" for what, raw in RAW.items() if (hit := raw.search(text))]
    return wrong


def wrong_citations(html: Path, root: Path = ROOT) -> list[str]:
    """Every entry of the .bib file stands in the bibliography, and a page cites it."""
    address = "book/appendices/bibliography.html"
    if not (html / address).exists():
        return [f"{address}: missing"]
    keys = re.findall(r"^@\w+\{\s*([^,\s]+)", (root / "book/references.bib").read_text(encoding="utf-8"), re.M)
    entries = [tag["id"] for tag in soup(html, address).select("div.citation[id], dt[id]")]
    wrong = []
    if len(keys) != len(entries):
        wrong.append(f"{address}: {len(entries)} entries, but references.bib has {len(keys)} (some cited nowhere?)")
    cited = {
        urldefrag(link["href"]).fragment
        for page in toc_pages(root) if page != address and (html / page).exists()
        for link in soup(html, page).find_all("a", href=re.compile(r"bibliography\.html#"))
    }  # fmt: skip
    return wrong + [f"{address}: the entry {entry} is cited nowhere" for entry in entries if entry not in cited]


def wrong_launch_buttons(html: Path, root: Path = ROOT) -> list[str]:
    """Each chapter opens in Binder and in Colab as the notebook beside its source, from the book's branch."""
    repository = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]
    name, branch = "/".join(repository["url"].rstrip("/").split("/")[-2:]), repository["branch"]
    wrong = []
    for page in filter(is_chapter, pages(html)):
        notebook = page.removesuffix(".html") + ".ipynb"
        links = {link.get("href", "") for link in soup(html, page).find_all("a")}
        for address in (
            f"https://mybinder.org/v2/gh/{name}/{branch}?urlpath=lab/tree/{notebook}",
            f"https://colab.research.google.com/github/{name}/blob/{branch}/{notebook}",
        ):
            if address not in links:
                wrong.append(f"{page}: no button leads to {address}")
        edition, download = root / notebook, html / "_sources" / notebook
        if not edition.is_file():
            wrong.append(f"{page}: its buttons lead to {notebook}, which does not exist")
        elif not download.is_file() or download.read_bytes() != edition.read_bytes():
            wrong.append(f"{page}: the notebook to download is not {notebook}")
    return wrong


@functools.lru_cache(maxsize=512)  # the scripts and styles of all pages are the same
def compressed(content: bytes) -> int:
    return len(gzip.compress(content, 6))


def weight(html: Path, page: str) -> int:
    """Bytes of a page's own HTML, styles and scripts, compressed as a web server sends them."""
    files = {html / page}
    for tag in soup(html, page).find_all(["link", "script"]):
        address = tag.get("src") or (tag.get("href") if "stylesheet" in tag.get("rel", []) else None)
        if address and not urlsplit(address).scheme:
            files.add(((html / page).parent / address.split("?")[0]).resolve())
    return sum(compressed(file.read_bytes()) for file in files if file.is_file())


def heavy_pages(html: Path, limit: int = MEGABYTE // 2) -> list[str]:
    """A page's own files take at most half of the megabyte that a page may load before its figures.

    The other half is for MathJax and its fonts; the test in the browser adds up both.
    """
    sizes = {page: weight(html, page) for page in pages(html)}
    return [f"{page}: {size / 1000:.0f} kB" for page, size in sizes.items() if size > limit]


def foreign_matter(html: Path, root: Path = ROOT) -> list[str]:
    """Nothing of the machine that built the book gets into it, and no copy of MathJax made for tests."""
    wrong = [f"{file.relative_to(html)}: a copy of MathJax" for file in html.rglob("tex-*chtml*.js")]
    for file in html.rglob("*"):
        if file.suffix in (".html", ".js", ".md", ".ipynb", ".json") and "_static" not in file.parts:
            text = file.read_text(encoding="utf-8", errors="ignore")
            places = {root.as_posix(), Path.home().as_posix()}
            wrong += [f"{file.relative_to(html)}: names {place}" for place in places if f"{place}/" in text]
    return wrong
