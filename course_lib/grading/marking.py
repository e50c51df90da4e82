"""Marks one submission: its cells run in the sandbox, the hidden tests here, and what comes out is plain JSON.

For each test there is a sentence for the student, which holds no value and no name of the student's making (his code
sees the inputs of hidden tests, and could write them into a message), and a detail for the teacher.
"""

import hashlib
import traceback
from pathlib import Path
from typing import Any

import torch

from course_lib._forbidden import in_cells
from course_lib.grading import rehearsal, testing
from course_lib.grading.box import Box, SandboxError, StudentError, plain
from course_lib.grading.remote import student_names
from course_lib.grading.runner import without_magics
from course_lib.grading.sandbox import Sandbox
from course_lib.grading.source import Assignment
from course_lib.grading.submission import Unreadable, is_check, read_cells, rebuild

__all__ = ["FORMAT", "fingerprint", "mark"]

FORMAT = 1
DETAIL = 600

# What the notebook imports from course_lib.checks. The public check need not run, and takes time to import.
STAND_INS = """
def check(exercise, function):
    pass
def example(exercise, number):
    from course_lib.checks import example
    return example(exercise, number)
def summary():
    pass
"""

SENTENCES = {
    "timed out": "It took too long.",
    "crashed": "The process of the notebook ended.",
    "too much memory": "It used too much memory.",
    "too much output": "It printed too much.",
    "too much processor time": "It used too much processor time.",
    "too many processes": "It started too many processes.",
    "too many files": "It made too many files.",
    "broke the protocol": "Something in the notebook disturbed the process in which it runs.",
    "gave up": "It ended the process again and again, so it was not called any more.",
    "bad value": "What it returns is no plain value: no number, tensor, list or the like.",
}
# How grave: of several the first one is the status of the whole submission.
GRAVE = tuple(SENTENCES)


def fingerprint(assignment: Assignment, text: str, unsafe: bool = False) -> str:
    """A word that changes when the tests, the secret or the way of marking change, so that old results count no more.

    Args:
        assignment: as `source.read` gives it
        text: of its source
        unsafe: whether there is no sandbox
    """
    seeds = [secret_seed(test.id) for one in assignment.exercises.values() for test in one.tests]
    return hashlib.sha256(repr((FORMAT, text, seeds, bool(unsafe))).encode()).hexdigest()


def secret_seed(label: str) -> str:
    """The seed of a label, hashed again: it can be stored."""
    seed = testing.secret_generator(label).initial_seed()
    return hashlib.sha256(str(seed).encode()).hexdigest()[:16]


def mark(assignment: Assignment, release: Any, path: Path, sandbox: Sandbox) -> dict[str, Any]:
    """The result of one submission.

    Args:
        assignment: as `source.read` gives it
        release: the student's notebook as it was given out
        path: of the file that was handed in
        sandbox: where it runs
    """
    result = {"format": FORMAT, "status": "ran", "message": "", "parts": [], "answered": False, "notes": []}
    result |= {"tests": [], "incidents": []}
    try:
        rebuilt = rebuild(release, read_cells(path))
    except Unreadable as error:
        return result | {"status": "unreadable", "message": str(error), "tests": _nothing(assignment, "unreadable")}
    result["parts"] = [
        {"kind": part.kind, "name": part.name, "source": part.source, "attachments": part.attachments}
        for part in rebuilt.parts
    ]
    result |= {"answered": rebuilt.answered, "notes": rebuilt.notes}
    names = [cell.metadata["nbgrader"]["grade_id"] for cell in release.cells]
    if all(f"{name} is missing" in rebuilt.notes for name in names):
        said = "Not one cell of this assignment is in it: it may be another notebook, or was made anew."
        result |= {"status": "unreadable", "message": said}
    cells, labels = cells_to_run(rebuilt.parts)
    try:
        with Box(cells, sandbox, preload=_preload(assignment, cells)) as box:
            result["tests"] = _run_tests(assignment, box, cells)
            _run_cells(box)
            result["incidents"] = [_incident(one, labels) for one in box.incidents]
    except SandboxError as error:
        return result | {"status": "not graded", "message": plain(str(error)), "tests": []}
    if result["status"] == "ran":
        statuses = {one["status"] for one in [*result["incidents"], *result["tests"]]}
        result["status"] = next((status for status in GRAVE if status in statuses and status != "bad value"), "ran")
    return result


def _preload(assignment, cells):
    """PyTorch takes a second to import, which must not count as the student's; without need it is left out."""
    tests = [test.code for one in assignment.exercises.values() for test in one.tests]
    return ("torch",) if any("torch" in code or "random_" in code for code in [*cells, *tests]) else ()


def cells_to_run(parts) -> tuple[list[str], list[str]]:
    """The code of a rebuilt notebook, without what only calls the public check; and where each piece stands."""
    cells, labels, place = [], [], "the beginning"
    for part in parts:
        if part.kind == "code" and part.source.strip() and not is_check(part.source):
            answer = part.name is not None and part.name.startswith("answer-")
            cells.append(part.source if answer or part.name is None else _with_stand_ins(part.source))
            place = _number(part.name) if answer else place
            labels.append(f"the answer of {place}" if answer else _own_label(part.name, place))
    return cells, labels


def _number(name):
    return name.removeprefix("answer-").replace("-", ".")


def _own_label(name, place):
    after = place if place == "the beginning" else f"the answer of {place}"
    return "a given cell" if name is not None else f"a cell of your own after {after}"


def _with_stand_ins(source):
    lines = source.split("\n")
    imports = [line for line in lines if line.startswith("from course_lib.checks import")]
    kept = [line for line in lines if line not in imports]
    return "\n".join([*kept, STAND_INS.strip()] if imports else kept)


def _given(assignment):
    lines = [line for code in assignment.given() for line in [*code.split("\n"), ""]]
    return "\n".join(line for line in lines if not line.startswith(("from course_lib.checks import", "summary()")))


def _nothing(assignment, status):
    return [
        _entry(one, test, status, "The notebook could not be read.")
        for one in assignment.exercises.values()
        for test in one.tests
    ]


def _entry(exercise, test, status, sentence, detail=""):
    return {
        "id": test.id,
        "exercise": exercise.id,
        "points": test.points,
        "earned": test.points if status == "passed" else 0.0,
        "status": status,
        "sentence": sentence,
        "detail": detail[:DETAIL],
    }


def _run_tests(assignment, box, cells):
    functions = [one.function for one in assignment.exercises.values()]
    given, entries = compile(_given(assignment), "<given>", "exec"), []
    runnable = [without_magics(cell) for cell in cells]  # as the runner sees them
    names = None
    for one in assignment.exercises.values():
        used = in_cells(runnable, one.function, one.forbids)
        for test in one.tests:
            if used:
                said = f"Your answer uses {_known(used[0], one.forbids)}, which this exercise does not allow."
                entries.append(_entry(one, test, "forbidden", said, ", ".join(used)))
                continue
            local = {tool: getattr(testing, tool) for tool in rehearsal.TOOLS} | {"__name__": "__main__"}
            with rehearsal.undisturbed():
                exec(given, local)
                box.shared = {name: value for name, value in local.items() if callable(value)}
                names = student_names(box, functions) if names is None else names
                error = _outcome(test, local | names)
            entries.append(_entry(one, test, *describe(error)))
    return entries


def _run_cells(box):
    """Also where no test asked anything: what happens in the cells is told."""
    try:
        box.run()
    except StudentError:
        return  # it ended too often, which the incidents say


def _outcome(test, names):
    try:
        torch.default_generator.manual_seed(0)
        exec(compile(test.code, f"<test {test.id}>", "exec"), names)
    except (KeyboardInterrupt, SandboxError):
        raise
    except BaseException as error:
        return error
    return None


def _known(used, forbids):
    """Of what was found only what the exercise names itself: the rest is the student's text."""
    return next((entry for entry in forbids if used.startswith(entry)), used if used.isidentifier() else "a call")


def describe(error: BaseException | None) -> tuple[str, str, str]:
    """The status of a test, the sentence for the student, and the detail for the teacher.

    Args:
        error: what the test raised, None if it passed

    Examples:
        >>> describe(None)
        ('passed', '', '')
        >>> describe(testing.Mismatch("a batch: the value is not right", "expected 1, got 2"))
        ('wrong', 'a batch: the value is not right', 'expected 1, got 2')
    """
    if error is None:
        return "passed", "", ""
    detail = plain(f"{error} {getattr(error, 'detail', '')}".strip())
    if isinstance(error, testing.Mismatch):
        return "wrong", _without_keys(plain(str(error)))[:300], plain(error.detail)
    if isinstance(error, StudentError):
        if error.status != "raised":
            return error.status, SENTENCES.get(error.status, "It did not answer."), detail
        kind = type(error).__name__.removeprefix("Student")
        if kind == "NotImplementedError":
            return "not done", "It is not done yet.", ""
        return "raised", f"It raised {'an exception' if kind == 'Error' else kind}.", detail
    if isinstance(error, AssertionError):
        return "wrong", "The result is not right.", detail
    if isinstance(error, MemoryError):
        return "wrong", "What it returned is too large to be compared.", detail
    place = traceback.extract_tb(error.__traceback__)[-1]
    said = f"What it returned could not be used by the test ({type(error).__name__})."
    return "wrong", said, plain(f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})")


def _without_keys(sentence):
    """Keys of a dict that the student made are his text."""
    head, found, _ = sentence.partition("there is a key ")
    return f"{head}there is a key that should not be there" if found else sentence


def _incident(incident, labels):
    """In words for the student: those of a cell are about what ran before any test; those of a name are not."""
    kind, _, rest = incident.place.partition(" ")
    number = rest.partition(",")[0]
    if kind == "cell" and number.isdigit() and int(number) <= len(labels):
        line = f", line {rest.rpartition(' ')[2]}" if "," in rest else ""
        place, sentence = f"{labels[int(number) - 1]}{line}", incident.message
    else:
        place = plain(incident.place) if incident.place.isidentifier() else "after the cells"
        sentence = SENTENCES.get(incident.status, "It raised an exception.")
    return {"place": place, "status": incident.status, "sentence": sentence, "detail": incident.message[:DETAIL]}
