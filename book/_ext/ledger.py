"""The equation ledger: which test checks which displayed equation.

The sources are read as text: chapters for ``$$ ... $$ (label)``, tests for ``@pytest.mark.equation(label, latex)``.
As a Sphinx extension, this module offers the directive ``{ledger}``, which prints the table of the appendix.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE_CELL = re.compile(r"^(`{3,})\{code-cell\}.*?^\1\s*$", re.M | re.S)
# Other ways to display a formula, which would pass the ledger by.
ELSEWHERE = re.compile(r"\{math\}|\\\[|\\begin\{(?:equation|align|gather|multline)\*?\}")
DISPLAY = re.compile(r"\$\$(?P<latex>.+?)\$\$[ \t]*(?:\((?P<label>[\w:-]+)\))?", re.S)


@dataclass(frozen=True)
class Equation:
    """A displayed equation of a chapter."""

    label: str | None
    latex: str
    chapter: Path
    line: int


@dataclass(frozen=True)
class MarkedTest:
    """A test that claims to check the equation ``label``, and the LaTeX that it was written for."""

    label: str
    latex: str
    file: Path
    name: str
    line: int


def one_line(latex: str) -> str:
    """The LaTeX with its white space folded, so that a line break is no change."""
    return " ".join(latex.split())


def chapters(root: Path = ROOT) -> list[Path]:
    """The sources of the chapters, in order."""
    return sorted((root / "book").glob("[0-9][0-9]-*.md"))


def equations(chapter: Path) -> list[Equation]:
    """Every displayed equation of a chapter, in order."""
    # A code cell may print dollars; blank lines keep the line numbers of what follows.
    text = CODE_CELL.sub(lambda cell: "\n" * cell.group().count("\n"), chapter.read_text(encoding="utf-8"))
    return [
        Equation(match["label"], one_line(match["latex"]), chapter, text.count("\n", 0, match.start()) + 1)
        for match in DISPLAY.finditer(text)
    ] + [
        Equation(match.group(), "", chapter, text.count("\n", 0, match.start()) + 1)
        for match in ELSEWHERE.finditer(text)
    ]


def is_equation_mark(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.equation"


def marked_tests(file: Path) -> list[MarkedTest]:
    """Every test function of a file that carries ``@pytest.mark.equation``."""
    functions = [
        node
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    return [
        MarkedTest(*(one_line(ast.literal_eval(arg)) for arg in mark.args), file, function.name, function.lineno)
        for function in functions
        for mark in function.decorator_list
        if is_equation_mark(mark)
    ]


def unmarked_tests(file: Path) -> list[str]:
    """The test functions of a file that carry no ``@pytest.mark.equation``."""
    marked = {test.name for test in marked_tests(file)}
    return sorted(set(re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.M)) - marked)


def read(root: Path = ROOT) -> tuple[list[Equation], list[MarkedTest]]:
    """All equations of the book and all tests that are marked with one."""
    found = [equation for chapter in chapters(root) for equation in equations(chapter)]
    tests = [test for file in sorted((root / "tests").rglob("test_*.py")) for test in marked_tests(file)]
    return found, tests


def problems(found: list[Equation], tests: list[MarkedTest]) -> list[str]:
    """What keeps the ledger from balancing, a sentence for each."""
    printed: dict[str, Equation] = {}
    lines: list[str] = []
    for equation in found:
        place = f"{equation.chapter.name}:{equation.line}"
        if equation.label is None:
            lines.append(f"{place}: a displayed equation has no label; write (eq-...) or (def-...) after its $$")
        elif ELSEWHERE.fullmatch(equation.label):
            lines.append(f"{place}: {equation.label} is displayed without $$; write it as $$ ... $$ (eq-...)")
        elif not equation.label.startswith(("eq-", "def-")):
            lines.append(f"{place}: the label {equation.label} begins with neither eq- nor def-")
        elif equation.label in printed:
            lines.append(f"{place}: the label {equation.label} stands in {printed[equation.label].chapter.name} too")
        else:
            printed[equation.label] = equation
    tested = {test.label for test in tests}
    lines += [
        f"{equation.chapter.name}:{equation.line}: no test is marked equation({label!r})"
        for label, equation in printed.items()
        if label.startswith("eq-") and label not in tested
    ]
    for test in tests:
        place = f"{test.file.name}:{test.line}: {test.name}"
        if test.label not in printed:
            lines.append(f"{place} is marked with {test.label}, which no chapter displays")
        elif test.latex != printed[test.label].latex:
            lines.append(
                f"{place} was written for\n    {test.latex}\n  but {test.label} in "
                f"{printed[test.label].chapter.name} is now\n    {printed[test.label].latex}"
            )
    return lines


def title(chapter: Path) -> str:
    """The heading of a chapter, with the number that its file name begins with."""
    heading = re.search(r"^# (.+)", chapter.read_text(encoding="utf-8"), re.M)[1]
    return f"{int(chapter.name[:2])}. {heading}"


def rows(root: Path = ROOT) -> list[str]:
    """The appendix: for each chapter a table of its equations and their tests, in MyST."""
    found, tests = read(root)
    lines: list[str] = []
    for chapter in chapters(root):
        own = [equation for equation in found if equation.chapter == chapter]
        claims = [equation for equation in own if equation.label.startswith("eq-")]
        lines += [
            f"## {title(chapter)}",
            "",
            f"{{doc}}`../{chapter.stem}` displays {len(claims)} equations that claim something, and "
            f"{len(own) - len(claims)} definitions.",
            "",
            "| | formula, and the tests that check it |",
            "|---|---|",
        ]
        for equation in own:
            names = ", ".join(
                f"{{source}}`{test.name} <{test.file.relative_to(root).as_posix()}#L{test.line}>`"
                for test in tests
                if test.label == equation.label
            )
            # A bar would end the cell of the table.
            latex = equation.latex.replace("|", r"\vert ").replace(r"\\vert ", r"\Vert ").rstrip(" .,")
            missing = "**no test**" if equation in claims else "(a definition)"
            lines.append(f"| {{eq}}`{equation.label}` | $\\displaystyle {latex}$ <br> {names or missing} |")
        lines.append("")
    return lines


def setup(app):
    """Register the directive, and a role that links to a file of the repository."""
    from docutils import nodes
    from docutils.statemachine import StringList
    from sphinx.util.docutils import SphinxDirective

    class Ledger(SphinxDirective):
        """Print the table of equations and tests."""

        def run(self):
            for chapter in chapters():
                self.env.note_dependency(str(chapter))
            for file in (ROOT / "tests").rglob("test_*.py"):
                self.env.note_dependency(str(file))
            place = nodes.Element()
            self.state.nested_parse(StringList(rows(), source="ledger"), self.content_offset, place, match_titles=True)
            return place.children

    def source(name, rawtext, text, lineno, inliner, options=None, content=None):
        """``{source}`shown <path>``` links to a file of the repository."""
        shown, path = re.fullmatch(r"(.+?) <(.+)>", text).groups()
        theme = app.config.html_theme_options
        address = f"{theme['repository_url']}/blob/{theme['repository_branch']}/{path}"
        reference = nodes.reference(rawtext, "", refuri=address)
        reference += nodes.literal("", shown)
        return [reference], []

    app.add_directive("ledger", Ledger)
    app.add_role("source", source)
    return {"parallel_read_safe": True}
