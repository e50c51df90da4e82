"""Makes what is given out from the source of an assignment: the student's notebook, and the public check's numbers.

student_notebook(assignment)      no solution, no hidden test; the cells carry nbgrader's metadata
instructor_notebook(assignment)   the same cells with solutions and hidden tests, as nbgrader's own source
stored_checks(assignment)         what course_lib/_checks/NN.json holds: inputs and outputs, and no code
"""

import json
import re
from pathlib import Path
from typing import Any

from course_lib import _wire, checks
from course_lib._comparison import difference
from course_lib.grading import rehearsal
from course_lib.grading.source import BEGIN, END, Assignment, Exercise, SourceError

__all__ = ["checks_text", "colab_cell", "grade_id", "instructor_notebook", "stored_checks", "student_notebook", "write"]

FORMAT = 1
LARGEST = 100_000  # bytes of a file of checks; all of them travel with the package
PLACEHOLDER = "# More tests run here when the notebook is graded."
ANSWER_HERE = "*Write your answer here, in place of this line.*"
HIDDEN_BEGIN, HIDDEN_END = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"


# The notebooks


def student_notebook(assignment: Assignment, colab: str | None = None, macros: dict[str, str] | None = None):
    """The notebook that a student fills in.

    Args:
        assignment: as `source.read` gives it
        colab: the code of a first cell that installs course_lib on Colab
        macros: LaTeX macros to write out, since a notebook does not know them
    """
    return _notebook(assignment, colab, macros or {}, for_student=True)


def instructor_notebook(assignment: Assignment, colab: str | None = None, macros: dict[str, str] | None = None):
    """The notebook with solutions and hidden tests between the marks that nbgrader's generate_assignment takes out.

    Args:
        assignment: as `source.read` gives it
        colab: the code of a first cell that installs course_lib on Colab
        macros: LaTeX macros to write out
    """
    return _notebook(assignment, colab, macros or {}, for_student=False)


def grade_id(role: str, name: str) -> str:
    """The name of a cell for nbgrader, which allows letters, digits, "-" and "_".

    Args:
        role: of the cell, "answer", "check", "hidden", "written" or "plain"
        name: its id, or its number

    Examples:
        >>> grade_id("hidden", "2.1a"), grade_id("answer", "2.1")
        ('test-2-1a', 'answer-2-1')
    """
    return f"{ {'hidden': 'test', 'plain': 'cell'}.get(role, role) }-{name.replace('.', '-')}"


def _notebook(assignment, colab, macros, for_student):
    import nbformat

    made = []
    if colab is not None:
        made.append(_cell("code", colab, _locked("cell-colab"), ["colab"]))
    plain = 0  # counted by themselves, so that a new hidden test does not rename them
    for cell in assignment.cells:
        if cell.role in ("examples", "wrong", "scheme"):
            continue
        plain += cell.role == "plain"
        name = grade_id(cell.role, cell.id or str(plain))
        if cell.role == "plain":
            text = _written_out(cell.source, macros) if cell.kind == "markdown" else cell.source
            made.append(_cell(cell.kind, text, _locked(name)))
        elif cell.role == "answer":
            text = assignment.exercises[cell.id].blank if for_student else cell.source
            made.append(_cell("code", text, _nbgrader(name, solution=True)))
        elif cell.role == "check":
            made.append(_cell("code", cell.source, _locked(name)))
        elif cell.role == "hidden":
            text = PLACEHOLDER
            if not for_student:
                text += f"\n{HIDDEN_BEGIN}\n{cell.source}\n{HIDDEN_END}"
            points = cell.head["points"]
            made.append(_cell("code", text, _nbgrader(name, grade=True, locked=True, points=points)))
        else:
            made.append(_cell("markdown", _written_out(cell.source, macros), _locked(f"{name}-question")))
            text, points = ANSWER_HERE, cell.head["points"]
            if not for_student:
                text = f"{BEGIN}\n{assignment.written.scheme}\n{END}"
            made.append(_cell("markdown", text, _nbgrader(name, grade=True, solution=True, points=points)))
    notebook = nbformat.v4.new_notebook(
        cells=made,
        metadata={
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "course_lib": {"assignment": assignment.slug},
        },
    )
    nbformat.validate(notebook)
    return notebook


def _cell(kind, text, nbgrader, tags=()):
    import nbformat

    metadata = {"nbgrader": nbgrader} | ({"tags": list(tags)} if tags else {})
    make = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
    cell = make(text, metadata=metadata)
    cell.id = nbgrader["grade_id"]  # the same each time
    return cell


def _nbgrader(name, *, grade=False, solution=False, locked=False, points=None):
    flags = {
        "schema_version": 3,
        "grade_id": name,
        "grade": grade,
        "solution": solution,
        "locked": locked,
        "task": False,
    }
    return flags | ({"points": float(points)} if points is not None else {})


def _locked(name):
    return _nbgrader(name, locked=True)


def _written_out(text, macros):
    """LaTeX macros without arguments are replaced by what they stand for."""
    if not macros:
        return text
    pattern = re.compile(r"\\(" + "|".join(sorted(macros, key=len, reverse=True)) + r")(?![A-Za-z])")
    return pattern.sub(lambda found: macros[found[1]], text)


# The public check


def stored_checks(assignment: Assignment) -> dict[str, Any]:
    """The inputs and outputs of the public examples, for the reference and for each likely mistake; no code.

    Args:
        assignment: as `source.read` gives it

    Raises:
        SourceError: a reference fails on an example, or a mistake cannot be told from it, or from another mistake
    """
    return {
        "format": FORMAT,
        "assignment": assignment.slug,
        "title": assignment.title,
        "exercises": [_stored(assignment, one) for one in assignment.exercises.values()],
        "written": {"id": assignment.written.id, "points": assignment.written.points},
    }


def _stored(assignment, exercise):
    names = rehearsal.namespace(assignment, rehearsal.references(assignment))
    given = _examples(assignment, exercise, names)
    by_object = {id(value): name for name, value in names.items() if callable(value)}

    def refer(value):
        name = by_object.get(id(value))
        return name and {"name": name}

    try:
        arguments = [_wire.encode(one, refer) for one in given]
    except _wire.WireError as error:
        raise SourceError(f"exercise {exercise.id}: an example cannot be stored: {error}") from None

    def outcomes(names):
        fresh = [_wire.decode(one, lambda _, name: names[name]) for one in arguments]
        return [_outcome(names[exercise.function], one) for one in fresh]

    expected = outcomes(names)
    for number, (outcome, error) in enumerate(expected, 1):
        if error is not None and error not in ("ValueError", "TypeError"):
            raise SourceError(f"exercise {exercise.id}: the answer raises {error} on example {number}")
        if error is None:
            _form(outcome, f"exercise {exercise.id}: the answer to example {number}")
    examples = [{"arguments": one} | _form_of(outcome) for one, outcome in zip(arguments, expected, strict=True)]
    mistakes = []
    for wrong in exercise.wrong:
        if wrong.forbidden:
            continue
        made = outcomes(rehearsal.namespace(assignment, rehearsal.answers(assignment, exercise.id, wrong.code)))
        forms = [
            None if _alike(mine, right, exercise) else _form_of(mine)
            for mine, right in zip(made, expected, strict=True)
        ]
        if not any(forms):
            raise SourceError(f"exercise {exercise.id}: no public example shows the mistake {wrong.name!r}")
        mistakes.append((wrong, made, {"says": wrong.says, "outcomes": forms}))
    for i, (wrong, made, _) in enumerate(mistakes):
        for other, theirs, _ in mistakes[:i]:
            if all(_alike(a, b, exercise) for a, b in zip(made, theirs, strict=True)) and wrong.says != other.says:
                raise SourceError(
                    f"exercise {exercise.id}: the public examples do not tell {other.name!r} from {wrong.name!r}"
                )
    return {
        "id": exercise.id,
        "title": exercise.title,
        "points": exercise.points,
        "level": exercise.level,
        "function": exercise.function,
        "forbids": list(exercise.forbids),
        "hint": exercise.hint,
        "rtol": exercise.rtol,
        "atol": exercise.atol,
        "examples": examples,
        "mistakes": [stored for _, _, stored in mistakes],
    }


def _examples(assignment: Assignment, exercise: Exercise, names):
    given = rehearsal.arguments(assignment, exercise.id, names)
    if not isinstance(given, list) or not given or not all(isinstance(one, tuple | dict) for one in given):
        raise SourceError(f"exercise {exercise.id}: `examples` must be a list of tuples or dicts, one or more")
    return given


def _outcome(function, given):
    """The value, or the name of the exception."""
    value, error = rehearsal.call(function, given)
    return value, error and type(error).__name__


def _form(value, what):
    try:
        return _wire.encode(value)
    except _wire.WireError as error:
        raise SourceError(f"{what} cannot be stored: {error}") from None


def _form_of(outcome):
    value, error = outcome
    if error is not None:
        return {"raises": error}
    try:
        return {"value": _wire.encode(value)}
    except _wire.WireError:  # a mistake of ours that returns something odd: no student's value is the same
        return {"raises": "nothing, but what it returns cannot be stored"}


def _alike(one, other, exercise):
    if one[1] is not None or other[1] is not None:
        return one[1] == other[1]
    return difference(one[0], other[0], rtol=exercise.rtol, atol=exercise.atol) is None


# Files


def checks_text(stored: dict[str, Any]) -> str:
    """The text of a file of checks.

    Args:
        stored: as `stored_checks` gives it

    Raises:
        SourceError: it is too large for the package

    Examples:
        >>> checks_text({"format": 1})
        '{"format":1}\\n'
    """
    text = _wire.dumps(stored) + "\n"
    if len(text) > LARGEST:
        raise SourceError(f"the examples of {stored['assignment']} take {len(text)} bytes; make them smaller")
    return text


def colab_cell(root: Path, slug: str) -> str | None:
    """The first cell of the chapter's notebook, which installs course_lib on Colab; None where there is no notebook.

    Args:
        root: the project
        slug: of the chapter

    Examples:
        >>> colab_cell(Path("nowhere"), "01-name") is None
        True
    """
    path = root / "book" / f"{slug}.ipynb"
    if not path.exists():
        return None
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    found = [cell for cell in cells if "colab" in cell["metadata"].get("tags", [])]
    return "".join(found[0]["source"]) if found else None


def book_macros(root: Path) -> dict[str, str]:
    """The LaTeX macros of the book, without their backslash.

    Args:
        root: the project

    Examples:
        >>> book_macros(Path("nowhere"))
        {}
    """
    import yaml

    path = root / "_config.yml"
    if not path.exists():
        return {}
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    return config["sphinx"]["config"]["mathjax3_config"]["tex"]["macros"]


def write(assignment: Assignment, root: Path) -> list[Path]:
    """Write the student's notebook into book/exercises and the numbers of the check into course_lib; return the paths.

    Args:
        assignment: as `source.read` gives it
        root: the project

    Raises:
        SourceError: as `stored_checks` and `checks_text` do
    """
    import nbformat

    notebook = student_notebook(assignment, colab_cell(root, assignment.slug), book_macros(root))
    texts = {
        root / "book" / "exercises" / f"{assignment.slug}.ipynb": nbformat.writes(notebook) + "\n",
        root / "course_lib" / "_checks" / f"{assignment.number:02}.json": checks_text(stored_checks(assignment)),
    }
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    checks.forget()
    return list(texts)
