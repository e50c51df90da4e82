"""Reads what a student handed in, and rebuilds it: of the file, nothing counts but the text of cells.

The structure, the instructor's cells and the points are those of the release. The student's cells come in by the names
of their answers (`grade_id`); all others of his are kept as his own, where they stood.
"""

import base64
import json
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from course_lib.grading.release import ANSWER_HERE, PLACEHOLDER

__all__ = ["Part", "Rebuilt", "Unreadable", "read_cells", "rebuild"]

LARGEST_FILE = 25_000_000  # bytes; outputs with pictures are part of it
LARGEST_TEXT = 1_000_000  # characters of all cells
MOST_CELLS = 2_000
LARGEST_PICTURES = 5_000_000
PICTURES = {"image/png": b"\x89PNG\r\n", "image/jpeg": b"\xff\xd8\xff"}


class Unreadable(Exception):
    """Why a file is no notebook that can be graded, in a sentence."""


@dataclass(frozen=True)
class Part:
    """A cell: its kind, its name for nbgrader (None for the student's own), its text."""

    kind: str  # "code" or "markdown"
    name: str | None
    source: str
    attachments: dict = field(default_factory=dict)


@dataclass
class Rebuilt:
    """A student's notebook in the form of the release."""

    parts: list[Part]
    notes: list[str]  # what was otherwise than it should be, for the teacher
    answered: bool  # whether there is something in answer to the written question


# The file


def read_cells(path: Path) -> list[dict[str, Any]]:
    """The cells of a file: kind, source, name (of nbgrader or of the format, "" if none) and attachments.

    Args:
        path: of a file that may be anything

    Raises:
        Unreadable: it is no notebook, or too large
    """
    data = _bytes(path)
    if not data.strip():
        raise Unreadable("The file is empty.")
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise Unreadable("The file is no notebook: it is not text in UTF-8.") from None
    except (ValueError, RecursionError):
        raise Unreadable("The file is no notebook: it is not JSON, or was cut off.") from None
    cells = content.get("cells") if isinstance(content, dict) else None
    if not isinstance(cells, list):
        old = isinstance(content, dict) and "worksheets" in content
        raise Unreadable("It is a notebook of an old format." if old else "The file is no notebook: it has no cells.")
    if len(cells) > MOST_CELLS:
        raise Unreadable(f"The notebook has {len(cells)} cells; {MOST_CELLS} are the most.")
    found = [cell for cell in map(_cell, cells) if cell is not None]
    if sum(len(cell["source"]) for cell in found) > LARGEST_TEXT:
        raise Unreadable(f"Its cells hold more than {LARGEST_TEXT:,} characters.")
    return found


def _bytes(path):
    try:
        # No link is followed, and a pipe is not waited for.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        raise Unreadable("The file cannot be opened, or is a link.") from None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Unreadable("It is no ordinary file.")
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise Unreadable(f"The file is larger than {LARGEST_FILE // 1_000_000} MB.")
    return data


def _cell(cell):
    if not isinstance(cell, dict) or cell.get("cell_type") not in ("code", "markdown", "raw"):
        return None
    metadata = cell.get("metadata")
    nbgrader = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    name = nbgrader.get("grade_id") if isinstance(nbgrader, dict) else None
    name = name if isinstance(name, str) else cell.get("id")
    return {
        "kind": "code" if cell["cell_type"] == "code" else "markdown",
        "source": _text(cell.get("source")),
        "name": name if isinstance(name, str) else "",
        "attachments": _pictures(cell.get("attachments")),
    }


def _text(source):
    if isinstance(source, list):
        source = "".join(line for line in source if isinstance(line, str))
    if not isinstance(source, str):
        return ""
    return source.encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n")


def _pictures(attachments):
    """Pictures that were pasted into a cell, of a photographed page, for instance. Nothing else is kept."""
    kept, size = {}, 0
    for name, forms in attachments.items() if isinstance(attachments, dict) else ():
        for kind, start in PICTURES.items():
            data = forms.get(kind) if isinstance(forms, dict) else None
            data = "".join(data) if isinstance(data, list) and all(isinstance(x, str) for x in data) else data
            if not isinstance(data, str) or not re.fullmatch(r"[\w.() -]{1,100}", name):
                continue
            size += len(data)
            try:
                whole = base64.b64decode("".join(data.split()), validate=True)
            except ValueError:
                continue
            if whole.startswith(start) and size <= LARGEST_PICTURES:
                kept[name] = {kind: base64.b64encode(whole).decode()}
    return kept


# The form of the release


def rebuild(release, cells: list[dict[str, Any]]) -> Rebuilt:
    """A student's cells in the structure of the release.

    A cell of the instructor's that the student changed is there as it was, and his version after it as a cell of his
    own. If an answer is there twice, the last one stands in its place, the others before it.

    Args:
        release: the student's notebook, as `release.student_notebook` gives it
        cells: as `read_cells` gives them
    """
    original = {cell.metadata["nbgrader"]["grade_id"]: cell for cell in release.cells}
    answers: dict[str, list] = {}
    own: dict[str, list] = {"": []}  # by the name after which they stand
    notes, seen, last = [], set(), ""
    for cell in cells:
        name = cell["name"]
        if name not in original and name != "cell-colab":
            if cell["source"].strip():
                own.setdefault(last, []).append(cell)
            continue
        if name == "cell-colab":
            continue
        last = name
        if name in seen:
            notes.append(f"{name} is there more than once")
        seen.add(name)
        if original[name].metadata["nbgrader"]["solution"]:
            answers.setdefault(name, []).append(cell)
        elif cell["kind"] == "code" and not _alike(cell["source"], original[name].source):
            notes.append(f"{name}, which was not to be changed, was changed; the original was taken")
            own.setdefault(name, []).append(cell)
    notes += [f"{name} is missing" for name in original if name not in seen]
    parts = [_own(cell) for cell in own[""]]
    answered = False
    for name, cell in original.items():
        given = answers.get(name, [])
        if cell.metadata["nbgrader"]["solution"] and cell.cell_type == "code":
            parts += [_own(one) for one in given[:-1]]
            parts.append(Part("code", name, given[-1]["source"] if given else ""))
        elif cell.metadata["nbgrader"]["solution"]:
            text = "\n\n".join(one["source"] for one in given)
            pictures = {key: value for one in given for key, value in one["attachments"].items()}
            after = [x for place in (name, f"{name}-question") for x in own.get(place, []) if x["kind"] == "markdown"]
            answered = bool(text.replace(ANSWER_HERE, "").strip() or after)
            parts.append(Part("markdown", name, harmless(text), pictures))
        else:
            parts.append(Part(cell.cell_type, name, cell.source))
        parts += [_own(one) for one in own.get(name, [])]
    return Rebuilt(parts, notes, answered)


def _own(cell):
    source = cell["source"] if cell["kind"] == "code" else harmless(cell["source"])
    return Part(cell["kind"], None, source, cell["attachments"])


def _alike(one, other):
    return [line.rstrip() for line in one.strip().split("\n")] == [line.rstrip() for line in other.strip().split("\n")]


def harmless(text: str) -> str:
    """Markdown without HTML and without links that run: formgrader shows it in the teacher's browser.

    Args:
        text: a student's

    Examples:
        >>> harmless("$a<b$ <script>alert(1)</script> [x](JavaScript:alert)")
        '$a< b$ < script>alert(1)< /script> [x](JavaScript :alert)'
    """
    text = re.sub(r"<(?=[A-Za-z/!?])", "< ", text)
    text = re.sub(r"(?i)\b(javascript|vbscript|data)\s*:", r"\1 :", text)
    return re.sub(r"&(?=#|[A-Za-z]+;)", "& ", text)  # what is written in another way


def is_check(source: str) -> bool:
    """Whether a cell of the release only calls the public check, or is the place of a hidden test."""
    return source.strip() == PLACEHOLDER or bool(re.fullmatch(r"check\([^\n]*\)", source.strip()))
