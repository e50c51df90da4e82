"""The directive ``{interactive} name``: a live figure that takes the place of the static one just before it.

The page holds an invisible element with the instructions. With JavaScript, book/_static/interactive.js draws the live
figure from it; without, and on paper, the static figure is all there is. Only pages with a live figure load its files.
"""

from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

SCRIPTS = Path(__file__).resolve().parents[1] / "_static" / "interactive"
logger = logging.getLogger(__name__)


class interactive_figure(nodes.General, nodes.Element):
    """A live figure: the name of its script, the name of its static figure, and the instructions as children."""


class Interactive(SphinxDirective):
    """``{interactive} name`` with the option ``:figure: fig-name`` and a sentence or two that say what to do."""

    required_arguments = 1
    has_content = True
    option_spec = {"figure": directives.unchanged}  # noqa: RUF012

    def run(self):
        name, figure = self.arguments[0], self.options.get("figure")
        node = interactive_figure(name=name, figure=figure)
        self.set_source_info(node)
        self.state.nested_parse(self.content, self.content_offset, node)
        known = sorted(path.stem for path in SCRIPTS.glob("*.js"))
        if name not in known:
            warn(node, f"no script _static/interactive/{name}.js (known: {', '.join(known)})")
        elif not figure:
            warn(node, "the option ':figure: fig-name' is missing, the name of the static figure just before it")
        elif not node.children:
            warn(node, "there are no instructions; say in one or two sentences what to drag and what to look at")
        else:
            return [node]
        return []


def warn(node, what: str) -> None:
    logger.warning(f"interactive figure {node['name']!r}: {what}", location=node, type="interactive")


def find_static_figures(app, document, docname):
    """Each live figure stands right after its static one; here, because every output of a cell is known by now."""
    before = None
    for node in document.findall(lambda node: isinstance(node, (nodes.figure, interactive_figure))):
        if isinstance(node, nodes.figure):
            before = node
            continue
        name = nodes.fully_normalize_name(node["figure"])
        figures = [figure for figure in document.findall(nodes.figure) if name in figure["names"]]
        if not figures:
            warn(node, f"this page has no figure with the name {name!r}")
        elif before is not figures[0]:
            warn(node, f"it must stand right after its static figure {name!r}")
        else:
            node["target"] = before["ids"][0]


def load_scripts(app, pagename, templatename, context, doctree):
    """The shared script and style and the figures' own scripts, on the pages that have live figures."""
    names = dict.fromkeys(node["name"] for node in doctree.findall(interactive_figure)) if doctree else {}
    if names:
        app.add_css_file("interactive.css")
        for script in ("interactive.js", *(f"interactive/{name}.js" for name in names)):
            app.add_js_file(script, loading_method="defer")  # deferred scripts run in their order


def visit_html(self, node):
    # `hidden` until the script has drawn the figure, so that nobody is told to drag what is not there.
    data = {"data-name": node["name"], "data-figure": node.get("target", "")}
    self.body.append(self.starttag(node, "div", CLASS="interactive", hidden="", **data))


def depart_html(self, node):
    self.body.append("</div>\n")


def setup(app):
    app.add_node(interactive_figure, html=(visit_html, depart_html))
    app.add_directive("interactive", Interactive)
    app.connect("doctree-resolved", find_static_figures)
    app.connect("html-page-context", load_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
