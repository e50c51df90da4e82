"""The lines of the exercises that nobody but the teacher may see, and a search for them in what is public."""

import ast
import html
import json
import re
from pathlib import Path

from course_lib.grading import source

ROOT = Path(__file__).resolve().parents[1]
SHORTEST = 24  # characters; a shorter line says nothing by itself


def normal(line: str) -> str:
    """A line without its indentation, and with single spaces."""
    return re.sub(r"\s+", " ", line).strip()


def secret_lines(assignment: source.Assignment) -> set[str]:
    """The lines of solutions, hidden tests, examples, wrong answers and the scheme; not those that a student gets."""
    given = [cell.source for cell in assignment.cells if cell.role in ("plain", "written", "check")]
    given += [one.blank for one in assignment.exercises.values()]
    public = {normal(line) for text in given for line in text.splitlines()}
    texts = [assignment.written.scheme]
    for one in assignment.exercises.values():
        texts += [one.inside, one.examples, *(test.code for test in one.tests), *(wrong.code for wrong in one.wrong)]
    found = {normal(line) for text in texts for line in text.splitlines()}
    return {line for line in found - public if len(line) >= SHORTEST and not _is_import(line)}


def _is_import(line):
    try:
        return isinstance(ast.parse(line).body[0], ast.Import | ast.ImportFrom)
    except (SyntaxError, IndexError):
        return False


def lines_of(path: Path) -> set[str]:
    """The lines of a public file as a reader sees them: the cells of a notebook, the text of a page."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return set()  # an image
    if path.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    elif path.suffix == ".html":
        text = html.unescape(re.sub(r"<[^>]*>", "", text))
    return {normal(line) for line in text.splitlines()}


def leaks(lines: set[str], folder: Path) -> list[str]:
    """Where a file of a folder holds one of the lines."""
    return [
        f"{path.relative_to(folder)}: {line}"
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".md", ".ipynb", ".html", ".py", ".json", ".js", ".txt", ".bib", ".css")
        for line in sorted(lines & lines_of(path))
    ]
