"""Reads the source of an assignment, exercises/source/NN-name/NN-name.md, and refuses one that is not sound.

The source is a MyST notebook. What a cell is for stands in its head, under `exercise`:

    no `exercise`                                       text and code that a student gets as it is
    {id: "2.1", role: answer, title: …, points: 6,      the function to write; what stands between `### BEGIN SOLUTION`
     level: warm-up, forbids: [course_lib.gaussians]}   and `### END SOLUTION` is taken out for the student
    {id: "2.1", role: examples, hint: …}                defines `examples`, the arguments of the public check
    {id: "2.1", role: check}                            calls the public check
    {id: "2.1a", role: hidden, points: 3}               a hidden test
    {id: "2.1", role: wrong, name: no-half,             a likely wrong answer, the hidden tests that it must lose, and
     loses: [2.1a], says: …}                            what the public check says to it
    {id: "2.1", role: wrong, name: ready, forbidden: …} an answer that calls what is forbidden
    {id: "2.w", role: written, points: 5}               a question (Markdown) that a person marks
    {id: "2.w", role: scheme}                           how to mark it; the student does not get it

A cell of Markdown carries its head as `+++ {"exercise": {…}}` before it, and `+++` after it.
"""

import ast
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Assignment", "Cell", "Exercise", "Hidden", "SourceError", "Written", "Wrong", "find", "read", "reads"]

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
LEVELS = ("warm-up", "middle", "hard")
FEWEST_WRONG = 3

# What a head may say: what must be there, and what can.
KEYS = {
    "answer": ({"title", "points", "level"}, {"forbids"}),
    "examples": (set(), {"hint", "rtol", "atol"}),
    "check": (set(), set()),
    "hidden": ({"points"}, set()),
    "wrong": ({"name"}, {"loses", "says", "forbidden"}),
    "written": ({"points"}, set()),
    "scheme": (set(), set()),
}
MARKDOWN = {"written", "scheme"}


class SourceError(Exception):
    """What is wrong in the source of an assignment, and in which cell."""


@dataclass(frozen=True)
class Cell:
    """A cell of the source: its place, its kind ("code" or "markdown"), its head and its text."""

    number: int
    kind: str
    role: str  # one of KEYS, or "plain"
    head: dict
    source: str

    @property
    def id(self) -> str:
        return str(self.head.get("id", ""))

    def __str__(self):
        first = next((line for line in self.source.splitlines() if line.strip()), "")
        role = "" if self.role == "plain" else f', role {self.role} of "{self.id}"'
        return f"cell {self.number} ({self.kind}{role}), which begins with {first[:60]!r}"


@dataclass(frozen=True)
class Hidden:
    """A hidden test: passed, it gives its points."""

    id: str
    points: float
    code: str


@dataclass(frozen=True)
class Wrong:
    """A likely wrong answer: the hidden tests that it loses, and the sentence that helps; or what it calls wrongly."""

    name: str
    code: str
    loses: tuple[str, ...] = ()
    says: str = ""
    forbidden: str = ""


@dataclass
class Exercise:
    """An exercise that is marked by its hidden tests."""

    id: str
    title: str
    points: float
    level: str
    forbids: tuple[str, ...]
    function: str  # its name
    solution: str  # the whole cell with the solution in it, without its two marks
    inside: str  # what stands between the marks
    blank: str  # the cell as the student gets it
    examples: str = ""
    hint: str = ""
    rtol: float | int | None = None
    atol: float | int | None = None
    tests: list[Hidden] = field(default_factory=list)
    wrong: list[Wrong] = field(default_factory=list)


@dataclass
class Written:
    """A question that a person marks."""

    id: str
    points: float
    question: str
    scheme: str = ""


@dataclass
class Assignment:
    """All that a source says: its cells in order, its exercises by their ids, its written question."""

    slug: str
    title: str
    cells: list[Cell]
    exercises: dict[str, Exercise]
    written: Written
    path: Path | None = None

    @property
    def number(self) -> int:
        return int(self.slug[:2])

    @property
    def points(self) -> float:
        return sum(exercise.points for exercise in self.exercises.values()) + self.written.points

    def given(self) -> list[str]:
        """The code that a student gets as it is, in order."""
        return [cell.source for cell in self.cells if cell.kind == "code" and cell.role == "plain"]


def find(root: Path) -> list[Path]:
    """The sources of all assignments of a project, in order."""
    return sorted((root / "exercises" / "source").glob("[0-9][0-9]-*/[0-9][0-9]-*.md"))


def read(path: Path) -> Assignment:
    """The assignment of a file, or a SourceError that names the file, the cell and what is wrong."""
    path = Path(path)
    if path.parent.name != path.stem:
        raise SourceError(
            f"{path.name}: it lies in the folder {path.parent.name!r}, which must be called {path.stem!r}"
        )
    try:
        assignment = reads(path.read_text(encoding="utf-8"), path.stem)
    except SourceError as error:
        raise SourceError(f"{path.name}: {error}") from None
    assignment.path = path
    return assignment


def reads(text: str, slug: str) -> Assignment:
    """The assignment of a text, or a SourceError."""
    if not re.fullmatch(r"\d\d-[a-z0-9-]+", slug):
        raise SourceError(f"the name {slug!r} is not of the form NN-name, such as 02-gaussian-kl")
    cells = _cells(text)
    if not cells or cells[0].kind != "markdown" or not (title := re.match(r"# (.+)", cells[0].source)):
        raise SourceError("the first cell must be Markdown that begins with '# ' and the title")
    _check_ids(cells, int(slug[:2]))
    written = _written(cells)
    exercises = {cell.id: _answer(cell) for cell in cells if cell.role == "answer"}
    if not exercises:
        raise SourceError("there is no exercise: no cell has the role answer")
    _complete(cells, exercises)
    _check_functions(exercises)
    return Assignment(slug, title[1].strip(), cells, exercises, written)


# Cells and their heads


def _cells(text):
    import jupytext

    try:
        notebook = jupytext.reads(text, fmt="md:myst")
    except Exception as error:  # jupytext's own, of several kinds
        raise SourceError(f"it is no MyST notebook: {error}") from None
    return [_cell(number, cell) for number, cell in enumerate(notebook.cells, 1)]


def _cell(number, cell):
    head = cell.metadata.get("exercise")
    bare = Cell(number, cell.cell_type, "plain", {}, cell.source)
    if head is None:
        if BEGIN in cell.source or END in cell.source:
            raise SourceError(f"{bare} holds a solution, and its head has no `exercise`: it would be released")
        if cell.cell_type == "code":
            _parse(bare, cell.source)
        return bare
    if not isinstance(head, dict):
        raise SourceError(f"{bare}: `exercise` is {head!r} and not {{id: …, role: …}}")
    role = head.get("role")
    if role not in KEYS:
        raise SourceError(f"{bare}: its role is {role!r}; it must be one of {', '.join(KEYS)}")
    made = Cell(number, cell.cell_type, role, dict(head), cell.source)
    required, allowed = KEYS[role]
    required = required | {"id", "role"}
    if missing := sorted(required - head.keys()):
        raise SourceError(f"{made}: its head lacks {', '.join(missing)}")
    if unknown := sorted(head.keys() - required - allowed):
        raise SourceError(f"{made}: its head has {', '.join(unknown)}, which a cell of this role cannot have")
    if not isinstance(head["id"], str):
        raise SourceError(f'{made}: write the id in quotes, "{head["id"]}"; else YAML takes it for a number')
    expected = "markdown" if role in MARKDOWN else "code"
    if cell.cell_type != expected:
        raise SourceError(f"{made}: a cell of this role must be {expected}")
    if not cell.source.strip():
        raise SourceError(f"{made}: it is empty")
    if role != "answer" and (BEGIN in cell.source or END in cell.source):
        raise SourceError(f"{made}: only a cell with the role answer holds a solution")
    if "points" in head and not (_is_number(head["points"]) and head["points"] > 0):
        raise SourceError(f"{made}: its points are {head['points']!r}; give a number above zero")
    if expected == "code":
        _parse(made, cell.source)
    return made


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _parse(cell, code):
    try:
        return ast.parse(code)
    except SyntaxError as error:
        raise SourceError(f"{cell}: line {error.lineno} is not Python: {error.msg}") from None


def _check_ids(cells, number):
    patterns = {"hidden": rf"{number}\.\d+[a-z]", "written": rf"{number}\.w", "scheme": rf"{number}\.w"}
    samples = {"hidden": f"{number}.1a", "written": f"{number}.w", "scheme": f"{number}.w"}
    seen = set()
    for cell in cells:
        if cell.role == "plain":
            continue
        if not re.fullmatch(patterns.get(cell.role, rf"{number}\.\d+"), cell.id):
            raise SourceError(f"{cell}: an id of this role looks like {samples.get(cell.role, f'{number}.1')!r}")
        key = (cell.role, cell.id, cell.head.get("name"))
        if key in seen:
            raise SourceError(f"{cell}: there are two of these")
        seen.add(key)


# The roles


def _written(cells):
    questions = [cell for cell in cells if cell.role == "written"]
    if len(questions) != 1:
        raise SourceError(f"there are {len(questions)} written questions; there must be one")
    (question,) = questions
    schemes = [cell for cell in cells if cell.role == "scheme"]
    if not schemes:
        raise SourceError(f"{question}: it has no scheme by which to mark it")
    return Written(question.id, float(question.head["points"]), question.source, schemes[0].source)


def _answer(cell):
    head, lines = cell.head, cell.source.splitlines()
    if not isinstance(head["title"], str) or not head["title"].strip():
        raise SourceError(f"{cell}: its title is {head['title']!r}; give a few words")
    if head["level"] not in LEVELS:
        raise SourceError(f"{cell}: its level is {head['level']!r}; it must be one of {', '.join(LEVELS)}")
    begins = [i for i, line in enumerate(lines) if line.strip() == BEGIN]
    ends = [i for i, line in enumerate(lines) if line.strip() == END]
    if len(begins) != 1 or len(ends) != 1 or begins[0] >= ends[0]:
        raise SourceError(f"{cell}: it must hold one line `{BEGIN}` and, after it, one line `{END}`")
    (begin,), (end,) = begins, ends
    indent = lines[begin][: len(lines[begin]) - len(lines[begin].lstrip())]
    inside = lines[begin + 1 : end]
    stub = f'{indent}raise NotImplementedError("{cell.id} is not done yet")'
    blank = "\n".join([*lines[:begin], stub, *lines[end + 1 :]])
    solution = "\n".join([*lines[:begin], *inside, *lines[end + 1 :]])
    tree = _parse(cell, solution)
    _parse(cell, blank)
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    left = [node.name for node in ast.parse(blank).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    if len(left) != 1:
        raise SourceError(f"{cell}: without its solution it must define one function or class, and defines {len(left)}")
    if left[0] not in names:
        raise SourceError(f"{cell}: with its solution it does not define {left[0]!r}")
    return Exercise(
        id=cell.id,
        title=head["title"],
        points=float(head["points"]),
        level=head["level"],
        forbids=_names(cell, "forbids"),
        function=left[0],
        solution=solution,
        inside="\n".join(inside),
        blank=blank,
    )


def _names(cell, key):
    value = cell.head.get(key, [])
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise SourceError(f"{cell}: {key} is {value!r}; give a list of names")
    return tuple(value)


def _complete(cells, exercises):
    """Gives the other cells to their exercises, and checks that nothing is missing."""
    checked = set()
    for cell in cells:
        if cell.role in ("plain", "answer", *MARKDOWN):
            continue
        owner = cell.id.rstrip("abcdefghijklmnopqrstuvwxyz")
        if owner not in exercises:
            raise SourceError(f'{cell}: there is no cell with the role answer for "{owner}"')
        exercise = exercises[owner]
        if cell.number < next(other.number for other in cells if other.role == "answer" and other.id == owner):
            raise SourceError(f"{cell}: it must stand after the answer")
        if cell.role == "examples":
            if not _defines(cell.source, "examples"):
                raise SourceError(f"{cell}: it must define `examples`")
            exercise.examples, exercise.hint = cell.source, cell.head.get("hint", "")
            for name in ("rtol", "atol"):
                value = cell.head.get(name)
                if value is not None and not (_is_number(value) and value >= 0):
                    raise SourceError(f"{cell}: {name} is {value!r}; give a number, 1.0e-6 for instance (with the dot)")
                setattr(exercise, name, value)
        elif cell.role == "check":
            wanted = f'check("{owner}", {exercise.function})'
            if cell.source.strip() != wanted:
                raise SourceError(f"{cell}: it must be the one line {wanted}")
            checked.add(owner)
        elif cell.role == "hidden":
            exercise.tests.append(Hidden(cell.id, float(cell.head["points"]), cell.source))
        else:
            exercise.wrong.append(_wrong(cell, exercise))
    for exercise in exercises.values():
        _check_complete(exercise, exercise.id in checked)


def _defines(code, name):
    return any(
        isinstance(target, ast.Name) and target.id == name
        for node in ast.parse(code).body
        if isinstance(node, ast.Assign)
        for target in node.targets
    )


def _wrong(cell, exercise):
    head = cell.head
    names = [node.name for node in ast.parse(cell.source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    if exercise.function not in names:
        raise SourceError(f"{cell}: it must define {exercise.function!r}, as the answer does")
    if ("forbidden" in head) == ("loses" in head or "says" in head) or ("loses" in head) != ("says" in head):
        raise SourceError(f"{cell}: its head must have loses and says, or forbidden alone")
    if "forbidden" in head:
        if head["forbidden"] not in exercise.forbids:
            raise SourceError(f"{cell}: the answer does not forbid {head['forbidden']!r}")
        return Wrong(head["name"], cell.source, forbidden=head["forbidden"])
    if not isinstance(head["says"], str) or not re.search(r"[.?!]$", head["says"].strip()):
        raise SourceError(f"{cell}: says is {head['says']!r}; give a sentence")
    loses = _names(cell, "loses")
    if not loses:
        raise SourceError(f"{cell}: it loses no hidden test")
    return Wrong(head["name"], cell.source, loses, head["says"].strip())


def _check_complete(exercise, checked):
    def fail(what):
        raise SourceError(f"exercise {exercise.id}: {what}")

    if not exercise.examples:
        fail("it has no cell with the role examples")
    if not checked:
        fail("it has no cell with the role check")
    if not exercise.tests:
        fail("it has no hidden test")
    total = sum(test.points for test in exercise.tests)
    if not math.isclose(total, exercise.points):
        fail(f"its hidden tests give {total:g} points, and its answer promises {exercise.points:g}")
    likely = [wrong for wrong in exercise.wrong if not wrong.forbidden]
    if len(likely) < FEWEST_WRONG:
        fail(f"it has {len(likely)} likely wrong answers; give at least {FEWEST_WRONG}")
    known = {test.id for test in exercise.tests}
    for wrong in likely:
        if unknown := sorted(set(wrong.loses) - known):
            fail(f"the wrong answer {wrong.name!r} loses {', '.join(unknown)}, which is no hidden test of it")
    for test in exercise.tests:
        if not any(test.id in wrong.loses for wrong in likely):
            fail(f"no wrong answer loses {test.id}, so nothing shows that this test can fail")
    if exercise.forbids and not any(wrong.forbidden for wrong in exercise.wrong):
        fail("it forbids calls, and no wrong answer has forbidden, so nothing shows that they are caught")


def _check_functions(exercises):
    owners = {}
    for exercise in exercises.values():
        if exercise.function in owners:
            raise SourceError(
                f"exercises {owners[exercise.function]} and {exercise.id} both ask for {exercise.function}"
            )
        owners[exercise.function] = exercise.id
