"""The book in a real browser: headless Chromium, the pages served from this machine, MathJax from a package.

The pages load MathJax from its public server; here its files come from the package sphinx-mathjax-offline, so that the
test needs no network. Any other request that leaves this machine is refused, and fails the test.
"""

import contextlib
import functools
import gzip
import http.server
import importlib.metadata
import os
import re
import shutil
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import site_pages
from site_pages import html  # noqa: F401  (a fixture)

pytestmark = pytest.mark.slow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",  # Chromium refuses to start as root with it, and these pages are our own
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",  # else it looks for its maker's servers at each start
    "--disable-component-update",
    "--disable-sync",
]
NARROW = {"width": 375, "height": 800}
WIDE = {"width": 1280, "height": 800}


@contextlib.contextmanager
def served(folder):
    """A folder, served at an address of this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def address(html):  # noqa: F811
    """The book, served at an address of this machine."""
    with served(html) as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        missing = (
            "no Chromium here: install it (Debian and Ubuntu: `apt-get install chromium`), then run the tests again"
        )
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@functools.cache
def mathjax() -> Path:
    """The folder with MathJax's files: es5/ of MathJax 3, without its first folder."""
    files = importlib.metadata.files("sphinx-mathjax-offline")
    return next(Path(file.locate()).parent for file in files if file.name == "tex-chtml.js")


class Visit:
    """A page, opened and waited for, and all that happened meanwhile."""

    def __init__(self, browser, address, page, viewport=WIDE, scheme="light", folder=None):
        self.complaints: list[str] = []
        self.bytes = 0
        self.address, self.folder = address, folder or site_pages.built_book()[0]
        self.context = browser.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
        self.context.set_default_timeout(30_000)  # the page of all equations is long, and CI may be busy
        self.context.route("**/*", self._answer)
        self.tab = self.context.new_page()
        self.tab.on("pageerror", lambda error: self.complaints.append(f"error in a script: {error}"))
        self.tab.on("console", self._console)
        self.tab.on("response", self._response)
        self.open(page)

    def open(self, page):
        self.tab.goto(self.address + page, wait_until="load")
        self.tab.evaluate("() => window.MathJax?.startup?.promise")  # until every formula is set
        self.tab.evaluate("() => document.fonts.ready.then(() => null)")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def _answer(self, route):
        url = route.request.url
        if url.startswith((self.address, "data:", "blob:")):
            return route.continue_()
        if match := re.match(r"https://cdn\.jsdelivr\.net/npm/mathjax@[\d.]+/(?:es5/)?([^?]+)", url):
            file = mathjax() / match[1]
            if file.is_file():
                self.bytes += sent(file.read_bytes(), file.suffix)
                return route.fulfill(path=file, headers={"Access-Control-Allow-Origin": "*"})
        self.complaints.append(f"asked another machine for {url}")
        return route.abort()

    def _console(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(f"console: {message.text} ({message.location.get('url', '')})")

    def _response(self, response):
        if response.status >= 400:
            self.complaints.append(f"{response.status} for {response.url}")
        elif response.url.startswith(self.address):
            file = self.folder / unquote(urlsplit(response.url).path).lstrip("/")
            if file.is_file() and file.parent.name != "_images":
                self.bytes += sent(file.read_bytes(), file.suffix)


def sent(body: bytes, suffix: str) -> int:
    """How many bytes a web server sends: compressed, unless the file is so already."""
    return len(body) if suffix in (".woff", ".woff2", ".png") else len(gzip.compress(body, 6))


def shown_pages():
    return [*site_pages.toc_pages(), "search.html", "genindex.html"]


def chapters():
    return [page for page in site_pages.toc_pages() if site_pages.is_chapter(page)]


# What is wider than the window and does not scroll by itself.
TOO_WIDE = """() => document.scrollingElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll('body *')]
    .filter(tag => tag.getBoundingClientRect().right > innerWidth + 1)
    .slice(0, 5).map(tag => tag.tagName + '.' + tag.className)
    .concat(['page ' + document.scrollingElement.scrollWidth + ' px wide'])"""

UNSEEN_END = """() => [...document.querySelectorAll('article mjx-container, article pre, article table')]
    .filter(tag => tag.getBoundingClientRect().right > innerWidth)
    .filter(tag => {
        for (let box = tag; box && box.tagName !== 'ARTICLE'; box = box.parentElement)
            if (box.scrollWidth > box.clientWidth && /auto|scroll/.test(getComputedStyle(box).overflowX)) return false;
        return true;
    }).map(tag => tag.tagName + ' ' + tag.textContent.trim().slice(0, 60))"""


UNFOLD = """() => {
    document.querySelectorAll('details').forEach(tag => tag.open = true);
    document.querySelectorAll('.toggle-hidden').forEach(tag => tag.classList.remove('toggle-hidden'));
}"""


# Contrast as WCAG 2 defines it, of each kind of text with the nearest ground that is painted.
CONTRAST = """() => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const known = {};  // a page has thousands of spans and a dozen colours
    const painted = colour => {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
    };
    const rgba = colour => known[colour] ??= painted(colour);
    const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat([1]);
    const grounds = new Map([[null, [255, 255, 255, 1]]]);
    const ground = tag => {
        if (!grounds.has(tag))
            grounds.set(tag, over(rgba(getComputedStyle(tag).backgroundColor), ground(tag.parentElement)));
        return grounds.get(tag);
    };
    const light = colour => colour.slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const poor = {};
    const kinds = 'h1, h2, h3, p, li, td, th, figcaption p, .caption-text, .admonition-title, pre, pre span, code,'
        + 'mjx-container, .bd-sidebar-primary a, .bd-sidebar-secondary a, footer p, summary, dt';
    for (const tag of document.querySelectorAll(kinds)) {
        if (!tag.offsetParent || !tag.textContent.trim()) continue;
        const below = ground(tag), text = over(rgba(getComputedStyle(tag).color), below);
        const [high, low] = [light(text), light(below)].sort((a, b) => b - a);
        const ratio = (high + 0.05) / (low + 0.05);
        if (ratio < 4.5)
            poor[tag.tagName + '.' + tag.className + ' ' + tag.textContent.trim().slice(0, 30)] = ratio.toFixed(2);
    }
    return poor;
}"""


def can_be_read_in_both_schemes(tab):
    """The theme switch works, and in both schemes text and figures stand out from their ground."""

    def state():
        return tab.evaluate(
            "() => [document.documentElement.dataset.theme, getComputedStyle(document.body).backgroundColor]"
        )

    seen = {tuple(state())}
    button = tab.locator("button.theme-switch-button:visible")
    for _ in range(3):  # light, dark, as the system says
        button.click()
        tab.mouse.move(600, 700)
        seen.add(tuple(state()))
    assert {theme for theme, _ in seen} == {"light", "dark"}
    assert len({ground for _, ground in seen}) == 2, f"the ground stays as it is: {seen}"
    for theme in ("light", "dark"):
        while state()[0] != theme:
            button.click()
        assert tab.evaluate(CONTRAST) == {}, f"text hard to read in the {theme} scheme"
        plates = tab.evaluate(
            "() => [...document.querySelectorAll('article img')].map(i => getComputedStyle(i).backgroundColor)"
        )
        assert theme == "light" or set(plates) <= {"rgb(255, 255, 255)"}, "a figure without its white plate"


# Displayed formulas whose last sign lies under their number, or beyond the column: a reader would have to scroll.
CUT_OFF = """() => [...document.querySelectorAll('div.math[id]')].filter(display => {
    const ends = [...display.querySelectorAll('mjx-math *')].map(sign => sign.getBoundingClientRect().right);
    const number = display.querySelector('.eqno');
    const edge = number ? number.getBoundingClientRect().left : display.getBoundingClientRect().right;
    return Math.max(...ends) > edge;
}).map(display => display.id)"""


def shows_its_formulas_and_is_light(visit, page):
    """A chapter that was just opened, and in which nobody has scrolled."""
    source = (site_pages.ROOT / page).with_suffix(".md").read_text(encoding="utf-8")
    labels = set(re.findall(r"^\$\$ \(([\w-]+)\)", source, re.M))
    shown = visit.tab.evaluate(
        "() => [...document.querySelectorAll('div.math[id] mjx-container')].map(m => m.closest('div.math').id)"
    )
    assert labels <= {name.removeprefix("equation-") for name in shown}
    assert len(labels) > 0
    height = visit.tab.evaluate(
        "() => Math.min(...[...document.querySelectorAll('mjx-container')].map(m => m.offsetHeight))"
    )
    assert height > 5, "a formula without height"
    assert visit.tab.evaluate(CUT_OFF) == [], "formulas wider than the column: break their lines"
    scrolled = "pre => pre.scrollWidth > pre.clientWidth + 1"
    assert visit.tab.evaluate(f"() => [...document.querySelectorAll('.cell_input pre')].filter({scrolled}).length") == 0
    assert visit.tab.locator("article figure img").count() > 0
    # All that a first visit loads before its figures, MathJax and fonts too, as a web server sends it.
    assert visit.bytes <= site_pages.MEGABYTE, f"{visit.bytes / 1000:.0f} kB"


@pytest.mark.parametrize("page", shown_pages())
def test_a_page_opens_without_complaint(chromium, address, page):
    with Visit(chromium, address, page) as visit:
        tab = visit.tab
        if site_pages.is_chapter(page):
            shows_its_formulas_and_is_light(visit, page)
        if site_pages.is_chapter(page) or page == "book/index.html":
            can_be_read_in_both_schemes(tab)
        tab.evaluate("() => scrollTo(0, document.body.scrollHeight)")
        images = tab.evaluate(
            "() => Promise.all([...document.images].map(i => i.decode().then(() => '', () => i.currentSrc || i.src)))"
        )
        assert not list(filter(None, images)), "images that do not load"
        small = tab.evaluate(
            "() => [...document.querySelectorAll('article img')].filter(i => i.naturalWidth < 50).length"
        )
        assert small == 0, "images without content"

        errors = tab.evaluate(  # an unknown macro is no error to MathJax: it prints the name in red
            """() => [...document.querySelectorAll('mjx-merror, merror, [data-mjx-error], mjx-mtext[style*="red"]')]
                .map(tag => tag.getAttribute('data-mjx-error') || tag.getAttribute('title') || tag.textContent)"""
        )
        assert not errors, "formulas that MathJax cannot read"
        bare = tab.evaluate(
            "() => [...document.querySelectorAll('.math')].filter(m => !m.querySelector('mjx-container')).length"
        )
        assert bare == 0, "formulas that MathJax has not set"
        stray = tab.evaluate(
            "() => [...document.querySelectorAll('mjx-container')].filter(m => !m.closest('.math, .output')).length"
        )
        assert stray == 0, "mathematics that the build left as text, and MathJax found"
        for quoted in ("pre", "code"):
            tab.evaluate(f"() => document.querySelectorAll('article {quoted}').forEach(tag => tag.remove())")
        text = tab.evaluate("() => document.querySelector('main').innerText")
        assert not re.search(r"\$\$|\\\(|\\\[|\\begin\{", text), "mathematics left as text"
        assert visit.complaints == []


def test_nothing_scrolls_sideways_on_a_telephone(chromium, address):
    with Visit(chromium, address, "book/index.html", NARROW) as visit:
        tab = visit.tab
        for page in shown_pages():
            visit.open(page)
            tab.evaluate(UNFOLD)
            for scheme in ("light", "dark"):
                tab.emulate_media(color_scheme=scheme)
                tab.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
                assert tab.evaluate(TOO_WIDE) == [], f"{page}, {scheme}"
                assert tab.evaluate(UNSEEN_END) == [], f"{page}, {scheme}: cut off, and cannot be scrolled"
        assert visit.complaints == []


def test_the_search_finds_the_trace(chromium, address):
    with Visit(chromium, address, "book/index.html") as visit:
        tab = visit.tab
        boxes = tab.locator(
            "button.search-button__button:visible, button.search-button:visible, input[type=search]:visible"
        )
        assert boxes.count() == 1, "one way to the search, seen at once"
        boxes.first.click()
        tab.locator("input[name=q]:visible").fill("trace")
        tab.keyboard.press("Enter")
        tab.wait_for_url("**/search.html?q=trace*")
        results = tab.locator("#search-results ul.search li a")
        results.first.wait_for()
        tab.wait_for_function("() => /found/i.test(document.querySelector('#search-results').innerText)")
        found = results.evaluate_all("links => links.map(link => link.getAttribute('href'))")
        assert any("02-gaussian-kl.html" in link for link in found), found
        assert visit.complaints == []


def test_the_keyboard_reaches_the_text(chromium, address):
    """The first Tab shows a link past the menus; Enter goes there; the next stops can be seen as well."""
    focused = """() => { const tag = document.activeElement, box = tag.getBoundingClientRect();
        const style = getComputedStyle(tag);
        return {text: tag.innerText || tag.ariaLabel || tag.title || '', width: box.width, top: box.top, left: box.left,
                outline: style.outlineStyle !== 'none' || style.boxShadow !== 'none' || !!tag.closest('.skip-link')};
    }"""
    with Visit(chromium, address, "book/index.html") as visit:
        visit.tab.keyboard.press("Tab")
        visit.tab.wait_for_function("() => document.activeElement.getBoundingClientRect().top >= 0")
        first = visit.tab.evaluate(focused)
        assert "main content" in first["text"]
        assert first["width"] > 1
        for _ in range(6):
            visit.tab.keyboard.press("Tab")
            stop = visit.tab.evaluate(focused)
            assert stop["width"] > 1, stop
            assert stop["left"] >= 0, stop
            assert stop["outline"], f"nobody sees where the keyboard is: {stop}"
        visit.open("book/index.html")
        visit.tab.keyboard.press("Tab")
        visit.tab.keyboard.press("Enter")
        visit.tab.wait_for_url("**#main-content")
