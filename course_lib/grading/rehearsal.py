"""Runs the cells of an assignment in this process: to make the public check, and to prove the exercises.

For answers that are ours. What a student wrote runs in the sandbox only. As there, values go to a function and come
back through the wire, so a test that works here asks for nothing that the wire does not carry.
"""

import linecache
import warnings
from contextlib import contextmanager
from typing import Any

import torch

from course_lib import _wire
from course_lib.grading import testing
from course_lib.grading.box import student_error
from course_lib.grading.source import Assignment, Hidden

__all__ = [
    "answers",
    "arguments",
    "blanks",
    "call",
    "failure",
    "namespace",
    "references",
    "undisturbed",
]

TOOLS = ("same", "raises", "secret_generator", "random_covariance", "random_distribution")


def references(assignment: Assignment) -> dict[str, str]:
    """The right answers: the code of each exercise."""
    return {one.id: one.solution for one in assignment.exercises.values()}


def blanks(assignment: Assignment) -> dict[str, str]:
    """The answers of a student who wrote nothing."""
    return {one.id: one.blank for one in assignment.exercises.values()}


def answers(assignment: Assignment, exercise: str, code: str) -> dict[str, str]:
    """The right answers, but for one exercise."""
    return references(assignment) | {exercise: code}


@contextmanager
def undisturbed():
    """What the cells change in torch is as before afterwards; warnings are shown and no errors."""
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.default_generator.manual_seed(0)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def namespace(assignment: Assignment, chosen: dict[str, str]) -> dict[str, Any]:
    """The names of a notebook in which the chosen answers stand, after its cells were run; the checks are left out."""
    names: dict[str, Any] = {"__name__": "__main__"}
    with undisturbed():
        for cell in assignment.cells:
            if cell.role == "answer":
                _run(chosen[cell.id], f"<answer {cell.id}>", names)
            elif cell.role == "plain" and cell.kind == "code":
                _run(_without_checks(cell.source), f"<cell {cell.number}>", names)
    return names


def arguments(assignment: Assignment, exercise: str, names: dict[str, Any]) -> list:
    """The arguments of the public examples, with the names of the notebook at hand."""
    local = dict(names)
    with undisturbed():
        _run(assignment.exercises[exercise].examples, f"<examples {exercise}>", local)
    return local["examples"]


def call(function, given) -> tuple[Any, BaseException | None]:
    """What a function returns, or the exception that it raises."""
    try:
        with undisturbed():
            return (function(**given) if isinstance(given, dict) else function(*given)), None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return None, error


def failure(assignment: Assignment, test: Hidden, names: dict[str, Any]) -> BaseException | None:
    """Why a hidden test fails for the functions of a notebook; None if it passes."""
    local = {tool: getattr(testing, tool) for tool in TOOLS} | {"__name__": "__main__"}
    try:
        with undisturbed():
            for code in assignment.given():
                _run(_without_checks(code), "<given>", local)
            by_object = {id(value): name for name, value in local.items() if callable(value)}
            for one in assignment.exercises.values():
                local[one.function] = _proxy(names[one.function], names, by_object)
            torch.default_generator.manual_seed(0)
            _run(test.code, f"<test {test.id}>", local)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return error
    return None


def _proxy(function, names, by_object):
    """The function behind the wire."""

    def refer(value):
        name = by_object.get(id(value))
        return name and {"name": name}

    def proxy(*given, **named):
        given, named = (_wire.decode(_wire.encode(one, refer), lambda _, name: names[name]) for one in (given, named))
        try:
            value = function(*given, **named)
        except Exception as error:
            name = type(error).__name__
            raise student_error("raised", str(error), kind=name, builtin=name) from error
        return _wire.decode(_wire.encode(value))

    return proxy


def _without_checks(code):
    """The cells for the student import and call the public check; here there may be none yet."""
    lines = [line for line in code.splitlines() if not line.startswith(("from course_lib.checks import", "summary()"))]
    return "\n".join(lines)


def _run(code, name, names):
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)  # so that the source can be read
    exec(compile(code, name, "exec"), names)
