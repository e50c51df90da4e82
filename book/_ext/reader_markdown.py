"""The chapters as plain Markdown: Sphinx resolves every number and reference, this module writes what it found.

A small Sphinx builder. Nothing is executed: in place of each cell of a chapter stands a mark, and a cell that
draws a figure leaves a figure with that mark in it, so that figures count as they do on the HTML page.
What this module does not know raises an error, so no raw MyST can slip through.
"""

import html
import io
import re
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from docutils import nodes
from docutils.statemachine import StringList
from jupyter_book.config import get_final_config
from myst_nb.core.read import is_myst_markdown_notebook, read_myst_markdown_notebook
from pybtex.plugin import find_plugin
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.builders import Builder
from sphinx.errors import SphinxError
from sphinx.util.docutils import SphinxDirective, SphinxRole, docutils_namespace, patch_docutils
from sphinx_proof.nodes import NODE_TYPES as PROOF_NODES
from sphinx_proof.nodes import unenumerable_node
from sphinxcontrib.bibtex.plugin import register_plugin
from sphinxcontrib.bibtex.style.referencing import BracketStyle
from sphinxcontrib.bibtex.style.referencing.author_year import AuthorYearReferenceStyle

FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.S)
# A value that is known only once the chapter has run; the private characters cannot occur in a chapter.
GLUE_MARK = "\ue000{key}\ue001{format}\ue002"


class EditionError(Exception):
    """The reader's edition cannot be made; the message says why, for the author of the chapter."""


@dataclass
class Page:
    """A resolved chapter: its cells as the source gives them, and what to show, in order.

    An item is Markdown, or the index of a cell; Markdown after the index of a Markdown cell is its text.
    """

    cells: list
    items: list[str | int] = field(default_factory=list)


# --- Sphinx: marks in place of cells, values and nothing else ----------------------------------------------------


class cell_mark(nodes.General, nodes.Element):
    """The place of one cell of the chapter."""


class glue_mark(nodes.Inline, nodes.Element):
    """The place of a value that a cell stores with glue."""


def mark_cells(app, docname, source):
    """Put a mark in place of every cell; blank lines keep the line numbers that warnings name."""
    text = source[0]
    if docname not in app.reader_pages or not is_myst_markdown_notebook(text):
        return
    notebook = read_myst_markdown_notebook(text, app.env.myst_config, add_source_map=True)
    starts = notebook.metadata.pop("source_map")
    app.reader_pages[docname] = Page(notebook.cells)
    app.env.temp_data["reader_cells"] = notebook.cells
    front_matter = FRONT_MATTER.match(text)
    marked = front_matter.group() if front_matter else ""
    after_text = False
    for index, (cell, start) in enumerate(zip(notebook.cells, starts, strict=True)):
        is_text = cell.cell_type == "markdown"
        # Text after code is a cell of its own without a mark, which keeps the first lines in their places.
        mark = f"```{{cell-mark}} {index}\n```\n" if after_text or not is_text or cell.metadata else ""
        marked += "\n" * max(1, start - marked.count("\n") - mark.count("\n")) + mark
        marked += cell.source + "\n" if is_text else ""
        after_text = is_text
    source[0] = marked


class CellMark(SphinxDirective):
    """``{cell-mark} index``: the place of a cell, in a figure when the cell says that it draws one."""

    required_arguments = 1

    def run(self):
        index = int(self.arguments[0])
        mark = cell_mark(index=index)
        cell = self.env.temp_data["reader_cells"][index]
        options = cell.metadata.get("mystnb", {}).get("figure")
        if not options:
            return [mark]
        figure = nodes.figure("", mark)
        self.set_source_info(figure)
        if options.get("name"):
            figure["names"].append(nodes.fully_normalize_name(str(options["name"])))
            self.state.document.note_explicit_target(figure, figure)
        if options.get("caption"):
            text = nodes.Element()
            lines = StringList(str(options["caption"]).splitlines(), self.get_source_info()[0])
            self.state.nested_parse(lines, self.content_offset, text)
            first, *rest = text.children
            figure += nodes.caption("", "", *first.children)
            if rest:
                figure += nodes.legend("", *rest)
        return [figure]


class GlueText(SphinxRole):
    """``{glue:text}`key:format` ``: a mark, because nothing has been executed."""

    def run(self):
        if "::" in self.text:
            raise EditionError(f"{self.env.docname}.md: {self.text!r} is a value of another chapter; glue it here")
        key, _, spec = self.text.partition(":")
        return [glue_mark(key=key, format=spec)], []


class AuthorYearRound(AuthorYearReferenceStyle):
    """The citation style author_year with round brackets, "Kullback and Leibler (1951)"."""

    def __init__(self):
        round_brackets = BracketStyle(left="(", right=")")
        super().__init__(bracket_textual=round_brackets, bracket_parenthetical=round_brackets)


class ReaderBuilder(Builder):
    """Resolves all pages as the HTML builder does, and keeps the Markdown of the chapters."""

    name = "reader"
    format = "reader"
    supported_image_types = ["image/svg+xml", "image/png", "image/jpeg", "image/gif"]  # noqa: RUF012

    def get_outdated_docs(self):
        return self.env.found_docs

    def prepare_writing(self, docnames):
        pass

    def get_target_uri(self, docname, typ=None):
        return f"{docname}.html"

    def get_relative_uri(self, from_, to, typ=None):
        return self.get_target_uri(to)  # links leave the notebook, so they are made from the site's address

    def write_doc(self, docname, doctree):
        page = self.app.reader_pages.get(docname)
        if page is not None:
            page.items = MarkdownWriter(self.env, docname, self.app.reader_repository).page(doctree)


def setup(app):
    app.reader_pages, app.reader_repository = {}, {}
    app.add_builder(ReaderBuilder)
    app.add_directive("cell-mark", CellMark)
    app.add_role_to_domain("glue", "text", GlueText(), override=True)
    app.connect("source-read", mark_cells)


def resolve_chapters(root: Path, docnames: list[str]) -> dict[str, Page]:
    """Read the whole book at `root`, executing nothing, and return the pages of the chapters `docnames`."""
    settings = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    overrides = {"external_toc_path": str(root / "_toc.yml"), "latex_individualpages": False}
    path_before = list(sys.path)
    config, _ = get_final_config(user_yaml=root / "_config.yml", cli_config=overrides, sourcedir=root)
    config["nb_execution_mode"] = "off"
    config["extensions"].append(__name__)
    if config.get("bibtex_reference_style") == "author_year":
        register_plugin("sphinxcontrib.bibtex.style.referencing", "reader_edition", AuthorYearRound)
        config["bibtex_reference_style"] = "reader_edition"
    warnings = io.StringIO()
    with tempfile.TemporaryDirectory() as work, patch_docutils(), docutils_namespace():
        try:
            app = Sphinx(root, None, work, work, "reader", config, status=None, warning=warnings, freshenv=True)
            app.reader_pages = dict.fromkeys(docnames)
            app.reader_repository = settings.get("repository", {})
            app.build(force_all=True)
        except SphinxError as error:
            raise EditionError(f"Sphinx cannot read the book: {error}") from error
        finally:
            sys.path[:] = path_before
    if warnings.getvalue().strip():
        raise EditionError(f"Sphinx warns about the book:\n{strip_colours(warnings.getvalue()).strip()}")
    missing = [docname for docname, page in app.reader_pages.items() if page is None or not page.items]
    if missing:
        raise EditionError(f"{', '.join(missing)}: not in _toc.yml, or without the front matter of a MyST notebook")
    return app.reader_pages


def strip_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


# --- Markdown ----------------------------------------------------------------------------------------------------

ADMONITIONS = {
    nodes.note: "Note", nodes.tip: "Tip", nodes.hint: "Hint", nodes.important: "Important",
    nodes.warning: "Warning", nodes.caution: "Caution", nodes.attention: "Attention", nodes.danger: "Danger",
    nodes.error: "Error", addnodes.seealso: "See also",
}  # fmt: skip
PROOFS = (*PROOF_NODES.values(), unenumerable_node)
# These leave nothing in a notebook: where a link arrives, comments, index entries, the navigation of the site.
SILENT = (nodes.target, nodes.comment, nodes.substitution_definition, addnodes.index, addnodes.highlightlang,
          addnodes.toctree, nodes.meta)  # fmt: skip


class MarkdownWriter:
    """Writes the resolved tree of one page as Markdown that Jupyter, Colab and GitHub all read."""

    def __init__(self, env, docname: str, repository: dict):
        self.env, self.docname, self.config = env, docname, env.config
        self.macros = (self.config.mathjax3_config or {}).get("tex", {}).get("macros", {})
        self.site = (self.config.html_baseurl or "").rstrip("/")
        self.repository = repository
        self.level = 0  # depth of headings
        self.inside = 0  # depth of quotes, lists and the like, where a formula must stay on one line
        self.in_table = False

    def page(self, document) -> list[str | int]:
        """The page as Markdown and cell indices in turn, the cited works at the end."""
        items = self.flat(document.children)
        references = self.references()
        return [*items, references] if references else items

    def flat(self, children) -> list[str | int]:
        """Sections opened up, because a cell stands between paragraphs and not in them."""
        items = []
        for node in children:
            if isinstance(node, nodes.section):
                self.level += 1
                items += self.flat(node.children)
                self.level -= 1
            elif isinstance(node, cell_mark):
                items.append(node["index"])
            elif isinstance(node, nodes.figure) and isinstance(node[0], cell_mark):
                items += [node[0]["index"], self.caption(node)]
            elif text := self.block(node):
                items.append(text)
        return items

    def fail(self, node, what: str):
        line = next((n.line for n in [node, *self.parents(node)] if getattr(n, "line", None)), "?")
        raise EditionError(f"{self.docname}.md, near line {line}: the reader's edition cannot show {what}")

    @staticmethod
    def parents(node):
        while node.parent is not None:
            node = node.parent
            yield node

    # Blocks

    def block(self, node) -> str:
        """One block as Markdown without a newline at its ends; empty for what a notebook does not show."""
        if isinstance(node, SILENT):
            return ""
        if isinstance(node, PROOFS):
            return self.theorem(node)
        if type(node) in ADMONITIONS:
            return self.box(ADMONITIONS[type(node)], node.children, node["classes"])
        method = getattr(self, f"block_{type(node).__name__}", None)
        if method is None:
            self.fail(node, f"a block of the kind {node.tagname!r}")
        return method(node)

    def blocks(self, children, separator="\n\n") -> str:
        return separator.join(text for text in map(self.block, children) if text)

    def nested(self, children, separator="\n\n") -> str:
        self.inside += 1
        text = self.blocks(children, separator)
        self.inside -= 1
        return text

    def block_title(self, node):
        number = ".".join(map(str, self.env.toc_secnumbers.get(self.docname, {}).get("", ())))
        prefix = f"{number}. " if number and self.level == 1 else ""
        return f"{'#' * self.level} {prefix}{one_line(self.inline(node))}"

    def block_paragraph(self, node):
        return protect_line_starts(self.inline(node).strip())

    def block_compound(self, node):
        return self.blocks(node.children)

    def block_container(self, node):
        design = node.get("design_component")
        if design == "dropdown":
            title, *body = node.children if node.get("has_title") else [nodes.rubric("", "Details"), *node.children]
            return self.details(title, body)
        if design or node.get("nb_element"):
            self.fail(node, f"a component {design or node['nb_element']!r}")
        if "literal-block-wrapper" in node["classes"]:
            return f"{self.caption(node)}\n\n{self.block(node[-1])}"
        return self.blocks(node.children)

    def block_math_block(self, node):
        number = self.number("displaymath", node)
        tex = self.tex(node.astext(), display=True)
        tex += rf" \tag{{{number}}}" if number else ""
        return f"$$ {one_line(tex)} $$" if self.inside else f"$$\n{tex}\n$$"

    def block_bullet_list(self, node):
        return self.list_items(node, ["-"] * len(node))

    def block_enumerated_list(self, node):
        start = node.get("start", 1)
        return self.list_items(node, [f"{start + i}." for i in range(len(node))])

    def list_items(self, node, markers):
        tight = all(
            isinstance(block, (nodes.paragraph, nodes.bullet_list, nodes.enumerated_list)) and (i == 0) ==
            isinstance(block, nodes.paragraph) for item in node for i, block in enumerate(item)
        )  # fmt: skip
        separator = "\n" if tight else "\n\n"
        return separator.join(
            indent(self.nested(item.children, separator), f"{marker} ")
            for marker, item in zip(markers, node, strict=True)
        )

    def block_definition_list(self, node):
        self.inside += 1
        items = []
        for item in node:
            terms = ", ".join(self.inline(term) for term in item if isinstance(term, nodes.term))
            body = "\n\n".join(self.blocks(d.children) for d in item if isinstance(d, nodes.definition))
            items.append(indent(f"**{terms}**: {body}", "- "))
        self.inside -= 1
        return "\n".join(items)

    def block_block_quote(self, node):
        return quote(self.nested(node.children))

    def block_attribution(self, node):
        return f"— {self.inline(node)}"

    def block_literal_block(self, node):
        text = node.astext().rstrip("\n")
        fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
        language = node.get("language", "")
        return f"{fence}{'' if language in ('default', 'none') else language}\n{text}\n{fence}"

    def block_transition(self, node):
        return "---"

    def block_rubric(self, node):
        return f"**{self.inline(node)}**"

    def block_raw(self, node):
        text = node.astext().strip()
        # Themes and extensions append scripts for their own pages.
        return text if "html" in node["format"].split() and not text.startswith(("<script", "<style")) else ""

    def block_admonition(self, node):
        if "proof" in node["classes"]:  # sphinx-proof writes "Proof. " before the author's first word
            first = next(iter(node.findall(nodes.Text)))
            first.parent.replace(first, nodes.Text(first.astext().removeprefix("Proof. ")))
            return self.box("Proof", node.children, node["classes"], emphasis="*")
        return self.box(node[0], node[1:], node["classes"])

    def block_proof_node(self, node):
        return self.blocks(node.children)

    def block_sidebar(self, node):
        title, body = (node[0], node[1:]) if isinstance(node[0], nodes.title) else ("Aside", node.children)
        return self.box(title, body, [])

    def theorem(self, node):
        title, section = node.children
        kind = node["realtype"].title()
        number = self.number(node["countertype"], node) if not isinstance(node, unenumerable_node) else ""
        name = f"{kind} {number}{self.inline(title)}" if number else f"{kind}{self.inline(title)}"
        return self.box(name, section.children, node["classes"])

    def box(self, title, body, classes, emphasis="**") -> str:
        """A titled box: a quotation, or for the class `dropdown` a part that opens on a click."""
        if {"dropdown", "toggle"} & set(classes):
            return self.details(title, body)
        name = title if isinstance(title, str) else self.inline(title)
        stop = "" if name[-1:] in ".?!:" else "."
        opening = f"{emphasis}{name}{stop}{emphasis}"
        runs_in = body and isinstance(body[0], nodes.paragraph)
        text = self.nested(body)
        return quote(f"{opening} {text}" if runs_in else f"{opening}\n\n{text}".strip())

    def details(self, title, body) -> str:
        # Markdown is not read inside <summary>, so the title goes in as text, its formulas apart.
        words = title if isinstance(title, str) else "".join(
            f"${self.tex(part.astext())}$" if isinstance(part, nodes.math) else html.escape(part.astext(), False)
            for part in title.children
        )  # fmt: skip
        return f"<details>\n<summary><b>{words}</b></summary>\n\n{self.blocks(body)}\n\n</details>"

    def block_figure(self, node):
        return "\n\n".join(filter(None, [self.blocks(n for n in node if not is_caption(n)), self.caption(node)]))

    def caption(self, node) -> str:
        """The number and the caption of a figure, a table or a listing, as the book's own format says."""
        kind = {"figure": "figure", "table": "table"}.get(node.tagname, "code-block")
        number = self.number(kind, node)
        label = self.config.numfig_format[kind] % number + "." if number else ""
        caption = [self.inline(n) for n in node if isinstance(n, (nodes.caption, nodes.title))]
        legend = [self.blocks(n.children) for n in node if isinstance(n, nodes.legend)]
        first = " ".join(filter(None, [f"**{label}**" if label else "", *caption]))
        return "\n\n".join(filter(None, [first, *legend]))

    def block_image(self, node):
        return self.inline_image(node)

    def block_interactive_figure(self, node):
        """A notebook has no place for the live figure; the book's page has."""
        link = nodes.reference("", "", nodes.Text(self.env.titles[self.docname].astext()), internal=True)
        link["refuri"] = f"{self.docname}.html#{node.get('target', '')}"
        page = self.inline_reference(link)  # a link where the site has an address, else the title alone
        return f"A live version of this figure, to drag and to try, is on the book's page *{page}*."

    def block_table(self, node):
        group = next(iter(node.findall(nodes.tgroup)))
        self.inside, self.in_table = self.inside + 1, True
        rows = [[self.table_cell(entry) for entry in row] for row in group.findall(nodes.row)]
        self.inside, self.in_table = self.inside - 1, False
        heads = [row for head in group.findall(nodes.thead) for row in head]
        if len(heads) > 1 or any(e.get("morecols") or e.get("morerows") for e in group.findall(nodes.entry)):
            self.fail(node, "a table whose cells or heads span several rows or columns")
        header, body = (rows[0], rows[1:]) if heads else ([""] * len(rows[0]), rows)
        rules = [self.table_rule(entry) for entry in next(iter(group.findall(nodes.row)))]
        lines = [f"| {' | '.join(row)} |" for row in [header, rules, *body]]
        return "\n\n".join(filter(None, [self.caption(node), "\n".join(lines)]))

    def table_cell(self, entry) -> str:
        text = "<br>".join(one_line(self.block(child)) for child in entry)
        return re.sub(r"(?<!\\)\|", r"\\|", text)

    @staticmethod
    def table_rule(entry) -> str:
        aligned = {"text-right": "---:", "text-center": ":---:", "text-left": ":---"}
        return next((aligned[name] for name in entry["classes"] if name in aligned), "---")

    def block_footnote(self, node):
        label, *body = node.children
        return indent(f"<sup>{label.astext()}</sup> {self.nested(body)}", "", hanging="")

    # Words

    def inline(self, node) -> str:
        return "".join(map(self.word, node.children))

    def word(self, node) -> str:
        if isinstance(node, nodes.Text):
            return escape(node.astext())
        if isinstance(node, SILENT):
            return ""
        method = getattr(self, f"inline_{type(node).__name__}", None)
        if method is None:
            self.fail(node, f"words of the kind {node.tagname!r}")
        return method(node)

    def inline_inline(self, node):
        return self.inline(node)

    inline_abbreviation = inline_generated = inline_title_reference = inline_inline

    def inline_emphasis(self, node):
        return f"*{self.inline(node)}*"

    def inline_strong(self, node):
        return f"**{self.inline(node)}**"

    def inline_literal(self, node):
        text = node.astext()
        ticks = "`" * (1 + max(map(len, re.findall(r"`+", text)), default=0))
        pad = " " if text.startswith("`") or text.endswith("`") else ""
        return f"{ticks}{pad}{text}{pad}{ticks}"

    def inline_superscript(self, node):
        return f"<sup>{self.inline(node)}</sup>"

    def inline_subscript(self, node):
        return f"<sub>{self.inline(node)}</sub>"

    def inline_math(self, node):
        return f"${self.tex(node.astext())}$"

    def inline_glue_mark(self, node):
        return GLUE_MARK.format(key=node["key"], format=node["format"])

    def inline_footnote_reference(self, node):
        return f"<sup>{node.astext()}</sup>"

    def inline_raw(self, node):
        return self.block_raw(node)

    def inline_image(self, node):
        address = node["uri"]
        if "://" not in address:  # Colab opens the notebook alone, so a picture needs its full address
            address = f"{self.repository.get('url')}/raw/{self.repository.get('branch')}/{address}"
        return f"![{escape(node.get('alt', ''))}]({address})"

    def inline_reference(self, node):
        """A link when the address is known; within the page, and without an address, its words alone."""
        text = self.inline(node)
        address = node.get("refuri")
        if address is None:
            return text
        if node.get("internal"):
            return f"[{text}]({self.site}/{address})" if self.site else text
        return f"<{address}>" if node.astext() == address else f"[{text}]({address})"

    inline_number_reference = inline_reference

    # Numbers, formulas, works cited

    def number(self, kind: str, node) -> str:
        """The number that the book gives to a figure, a table, a theorem or an equation; empty without one."""
        numbers = self.env.toc_fignumbers.get(self.docname, {}).get(kind, {})
        found = next((numbers[name] for name in node["ids"] if name in numbers), ())
        if not found and kind == "displaymath" and node.get("number"):
            return str(node["number"])
        return ".".join(map(str, found))

    def tex(self, source: str, display: bool = False) -> str:
        """LaTeX with the book's macros written out, safe inside Markdown."""
        parts = [self.tex_line(part) for part in source.split("\n\n") if part.strip()]
        if not display:
            return one_line(" ".join(parts))
        # As Sphinx does for the page: several paragraphs, or a bare line break, are lines of one display.
        if len(parts) > 1 or ("\\\\" in parts[0] and r"\begin{" not in parts[0]):
            return "\\begin{aligned}\n" + " \\\\\n".join(parts) + "\n\\end{aligned}"
        return parts[0]

    def tex_line(self, source: str) -> str:
        text = re.sub(r"(?<!\\)%.*", "", source)  # a comment would swallow the rest of a joined line
        for _ in range(10):  # a macro may use another macro
            before = text
            for name, meaning in self.macros.items():
                text = re.sub(rf"([\^_]\s*)?\\{name}(?![A-Za-z])", lambda m, to=meaning: written_out(m, to), text)
            if text == before:
                break
        text = re.sub(r"<(?=[A-Za-z/!?])", "< ", text)  # or a browser would see a tag
        if self.in_table:
            text = text.replace(r"\|", r"\Vert ").replace("|", r"\vert ")
        return "\n".join(line.strip() for line in text.splitlines() if line.strip())

    def references(self) -> str:
        """The works that this page cites, in the order of the bibliography."""
        domain = self.env.domains.get("cite") if hasattr(self.env.domains, "get") else None
        if domain is None:
            return ""
        cited = {t.key for ref in domain.citation_refs if ref.docname == self.docname for t in ref.targets}
        backend = WorksCited()
        works = [c.formatted_entry.text.render(backend) for c in domain.citations if c.key in cited]
        return "\n".join(["## References", "", *(f"- {one_line(work)}" for work in works)]) if works else ""


class WorksCited(find_plugin("pybtex.backends", "markdown")):
    """Pybtex's Markdown without its backslash before every full stop."""

    def format_str(self, str_):
        return escape(str_)


def written_out(match: re.Match, meaning: str) -> str:
    # As an exponent or index a macro must become one group: not every renderer takes x^\mathbb{E}.
    return f"{match[1]}{{{meaning}}}" if match[1] else meaning


def is_caption(node) -> bool:
    return isinstance(node, (nodes.caption, nodes.title, nodes.legend))


def one_line(text: str) -> str:
    return " ".join(text.split())


def escape(text: str) -> str:
    """Text in which Markdown reads no markup."""
    text = re.sub(r"[\\`*$]", r"\\\g<0>", text)
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    text = re.sub(r"&(?=#?\w+;)", "&amp;", text)
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
    return re.sub(r"\](?=[(\[])", r"\\]", text)


def protect_line_starts(text: str) -> str:
    """A line of a paragraph may begin like a heading, a quotation or an item of a list."""
    text = re.sub(r"^(#{1,6}|[>+-])(?=\s|$)", r"\\\1", text, flags=re.M)
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", text, flags=re.M)


def quote(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def indent(text: str, marker: str, hanging: str | None = None) -> str:
    """The text after a marker, its other lines below the first word."""
    space = " " * len(marker) if hanging is None else hanging
    first, *rest = text.splitlines() or [""]
    return "\n".join([f"{marker}{first}".rstrip(), *(f"{space}{line}".rstrip() for line in rest)])
