"""One submission in its sandbox: its cells run once, then its functions are asked, and it may die meanwhile.

When the process ends, by the student's doing or because it used too much, it is started again without the statement
that ended it, and so good answers before and after it still count. A function that ended it twice is not asked again.
"""

import dataclasses
import functools
import os
from collections import Counter

from course_lib import _wire
from course_lib.grading.process import Ended, Process
from course_lib.grading.sandbox import Sandbox

MAX_TEXT = 1_000
MAX_ENDS = 3  # how often one name may end the process before it is given up


class SandboxError(RuntimeError):
    """The sandbox itself failed: no line of the student has run, and nothing is known about the answers."""


class StudentError(Exception):
    """The student's code raised an exception, or could not be asked.

    ``status`` is "raised", "timed out", "crashed", "too much memory", "too much output", "too much processor time",
    "too many processes", "too many files", "broke the protocol", "gave up" or "bad value"; ``kind`` the name of the
    exception's class when it raised one. An exception of a built-in kind such as ValueError can be caught as such.

    >>> error = student_error("raised", "no number", kind="MyError", builtin="ValueError")
    >>> isinstance(error, ValueError), error.kind, str(error)
    (True, 'MyError', 'MyError: no number')
    """

    status = "raised"
    kind = None
    place = None

    def __str__(self):
        return " ".join(map(str, self.args))


# The kinds that a test may want to catch. No others: the student names the kind.
_CATCHABLE = {
    kind.__name__: kind
    for kind in (
        *(ArithmeticError, AssertionError, AttributeError, FloatingPointError, IndexError, KeyError, LookupError),
        *(NameError, NotImplementedError, OverflowError, RuntimeError, TypeError, ValueError, ZeroDivisionError),
    )
}


@functools.cache
def _kind_of_error(builtin):
    if builtin not in _CATCHABLE:
        return StudentError
    return type(f"Student{builtin}", (StudentError, _CATCHABLE[builtin]), {})


def student_error(status: str, message: str, kind: str | None = None, builtin: str | None = None, place=None):
    """A StudentError, which is also one of the built-in kind."""
    error = _kind_of_error(builtin)(f"{kind}: {message}" if kind else message)
    error.status, error.kind, error.place = status, kind, place
    return error


@dataclasses.dataclass(frozen=True)
class Incident:
    """What went wrong and where: "cell 3" or the name that was asked, a status as of StudentError, and a sentence.

    The text of a cell's incident may be shown to the student. That of a name may hold inputs of hidden tests, if the
    student's code put them there.
    """

    place: str
    status: str
    message: str


class Box:
    """A submission's cells, run in a sandbox when the first question comes.

    ``shared`` is the namespace of the tests: what they give to a student's function, and what is no plain value, is
    sent by its name there, since the notebook has it too.

    >>> box = Box(["x = 1"], Sandbox())
    >>> box.incidents, box.output
    ([], '')
    """

    def __init__(self, cells, sandbox: Sandbox | None = None, *, preload: tuple = ("torch",), shared=None):
        self.cells = list(cells)
        self.sandbox = sandbox or Sandbox()
        self.limits = self.sandbox.limits
        self.preload = preload
        self.shared = {} if shared is None else shared
        self.incidents: list[Incident] = []
        self.output = ""  # of the cells: what functions print when they are asked is not kept
        self.process = None
        self.life = 0  # how many processes there have been; objects of an earlier one are lost
        self._cuts = {}  # of cells that ended the process: how many of their statements may run
        self._raised = set()  # cells whose exception was noted
        self._ends = Counter()  # by name, how often asking it ended the process
        self._first = set(range(len(self.cells)))  # those which never ran
        # Seconds left. A cell that has run may run again although the time for the first run is used up.
        self._left = {"cells": self.limits.cells, "again": self.limits.cells, "calls": self.limits.calls}

    def __enter__(self):
        return self

    def __exit__(self, *details):
        self.close()

    def close(self) -> None:
        """End the process; a later question starts it again."""
        if self.process is not None:
            self.process.close()
            self.process = None

    # Cells

    def run(self) -> None:
        """Start the process and run the cells in it, unless that was done and it still lives."""
        while self.process is None:
            if self.life > self.limits.restarts or self._left["again"] <= 0:
                raise student_error("gave up", "The process ended too often.")
            self.life += 1
            try:
                self._start()
                for number in range(len(self.cells)):
                    self._run_cell(number)
            except Ended:
                self._lost()

    def _start(self):
        self.process = Process(self.sandbox, self.preload)
        try:
            self.process.wait_until_ready()
        except Ended as end:  # no line of the student has run: this is not his fault
            said = plain(self.process.output())
            self.close()
            raise SandboxError(f"The sandbox did not start. {end} {said}") from None

    def _run_cell(self, number):
        place, cut = f"cell {number + 1}", self._cuts.get(number)
        if cut == 0:
            return
        account = "cells" if number in self._first else "again"
        self._first.discard(number)
        if self._left[account] <= 0:
            self._cuts[number] = 0
            self._note(place, "timed out", "It was not run: the time for all cells is used up.")
            return
        question = {"op": "cell", "number": number + 1, "source": self.cells[number], "statements": cut}
        seen = [0]  # the statement that runs
        try:
            self._ask(question, self.limits.cell, account, seen)
        except Ended as end:
            # A statement ends the process, so it and those after it do not run again. Each time one less: this ends.
            self._cuts[number] = seen[0] if cut is None else min(seen[0], cut - 1)
            self._note(place, end.status, str(end))
            raise
        except StudentError as error:
            if number not in self._raised:
                self._raised.add(number)
                self._note(error.place or place, error.status, str(error))

    def _note(self, place, status, message):
        self.incidents.append(Incident(place, status, message))

    def _lost(self):
        self._keep_output()
        self.process.close()
        self.process = None

    def _keep_output(self):
        if self.process is not None and self.process.keep_output:
            self.output = max(self.output, self.process.output(), key=len)

    # Questions

    def lives(self, life: int) -> bool:
        """Whether the objects of that life are still there."""
        return self.process is not None and self.life == life

    def ask(
        self, root: str, action: str, arguments: list, keywords: dict, arguments_too=False, life: int | None = None
    ):
        """The JSON form of an answer. ``root`` is the student's name that all of this is about.

        ``life`` is given when objects of that life are among the arguments: in another process they are lost.
        """
        if self._ends[root] >= MAX_ENDS:
            raise student_error("gave up", f"{root} ended the process {MAX_ENDS} times; it was not asked again.")
        question = {"op": "do", "action": action, "arguments": arguments, "keywords": keywords}
        question |= {"arguments_too": True} if arguments_too else {}
        end = None
        for _ in range(2):
            if self._left["calls"] <= 0:
                raise student_error("timed out", "The time for all tests is used up.")
            if self.process is not None and self.process.is_over():  # between two questions: no name is to blame
                self._note("after the cells", *self.process.end)
                self._lost()
            self.run()
            self._end_of_cells()
            if life is not None and life != self.life:
                raise student_error("crashed", f"An object of {root} is lost, because the process ended.")
            try:
                return self._ask(question, self.limits.call, "calls")
            except Ended as error:
                end = error
                self._note(root, end.status, str(end))
                self._lost()
            # An earlier question may be to blame, so this one is asked again, in another process.
            if end.status not in ("broke the protocol", "crashed"):
                break
        self._ends[root] += 1
        raise student_error(end.status, str(end))

    def _end_of_cells(self):
        if self.process.keep_output:
            self._keep_output()
            # A function may print its inputs, and they are a hidden test's.
            self.process.keep_output = False

    def _ask(self, question, seconds, account, seen=None):
        """One question, one reply, within its own time and what is left for all of its kind."""
        token = os.urandom(16).hex()
        deadline = self.process.deadline(min(seconds, max(self._left[account], 0.1)))
        try:
            if not self.process.nothing_waits():
                self.process.fail("broke the protocol", "The process spoke before it was asked.")
            self.process.send(question | {"id": token}, deadline)
            return self._answer(token, deadline, seen)
        finally:
            self._left[account] -= deadline.used()

    def _answer(self, token, deadline, seen):
        while True:
            reply = self.process.receive(deadline)
            if reply.pop("id", None) != token:
                self.process.fail("broke the protocol", "The process answered another question.")
            ((kind, content),) = reply.items() if len(reply) == 1 else [(None, None)]
            if kind == "value":
                return content
            if kind == "error":
                raise self._error(content)
            # A running cell counts its statements, upwards; anything else is no reply.
            forward = kind == "at" and seen is not None and type(content) is int and seen[0] <= content < 100_000
            if not forward or (content == seen[0] and content > 0):
                self.process.fail("broke the protocol", "The process sent what is no reply.")
            seen[0] = content

    def _error(self, content):
        names = ("kind", "builtin", "message", "place")
        if type(content) is not dict or set(content) != set(names):
            self.process.fail("broke the protocol", "The process sent what is no reply.")
        kind, builtin, message, place = (None if content[name] is None else plain(content[name]) for name in names)
        return student_error("raised", message or "", kind, builtin, place)

    def decode(self, form, resolve):
        """The value of an answer's form."""
        try:
            return _wire.decode(form, resolve)
        except _wire.WireError as error:
            raise student_error("bad value", f"The process sent what is no value: {plain(str(error))}.") from None


def plain(text) -> str:
    """A text from the process as one that can be printed anywhere: short, with no control characters.

    >>> plain("a\\x1b[2J\\nb")
    'a[2J b'
    """
    short = str(text)[:MAX_TEXT] if isinstance(text, str) else ""
    spaced = "".join(" " if letter.isspace() else letter for letter in short)
    return "".join(letter for letter in spaced if letter.isprintable()).encode("utf-8", "replace").decode("utf-8")
