"""The public check of the graded exercises: what a student sees at once, in the notebook, with no network.

    check("2.1", my_function)   points so far, what differs, a sentence that helps
    example("2.1", 2)           the arguments of example 2, to try them
    summary()                   the table of all exercises of the notebook

The numbers to compare with lie in course_lib/_checks. They were computed from the reference answer, which is not there.
A check never raises because of what the student wrote; only Ctrl-C passes through.
"""

import inspect
import json
import math
import sys
import textwrap
import traceback
import warnings
from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch

from course_lib import _wire
from course_lib._comparison import Difference, difference, kind_of, show
from course_lib._forbidden import in_function, watched
from course_lib._version import __version__

__all__ = ["check", "example", "forget", "summary"]

MORE = "More tests run when the notebook is graded."
WIDTH = 100


@dataclass
class _Standing:
    """How far the student is with one exercise."""

    points: float = 0.0
    failures: int = 0
    said: str = ""


_standings: dict[str, _Standing] = {}
_loaded: dict[int, dict | None] = {}
_values: dict[int, Any] = {}  # decoded once; the functions never get hold of them


def check(exercise: str, function: Any) -> None:
    """Try a function on the public examples of an exercise, and print the points so far and what differs.

    Args:
        exercise: the number of the exercise, such as "2.1"
        function: the function that the exercise asks for, not yet called

    Raises:
        KeyboardInterrupt: Ctrl-C, or the stop button; nothing else, whatever the function does

    Examples:
        >>> check("0.1", lambda x: x)  # doctest: +ELLIPSIS
        There is no exercise '0.1' in course_lib ...: update course_lib, or look at the number.
    """
    found = _find(exercise)
    if found is None:
        print(
            f"There is no exercise {exercise!r} in course_lib {__version__}: update course_lib, or look at the number."
        )
        return
    standing = _standings.setdefault(found["id"], _Standing())
    lines: list[str] = []
    try:
        standing.points, standing.said = _report(found, function, standing, lines)
    except KeyboardInterrupt:
        raise
    except _NotDefined as error:
        lines[:] = [f"{_title(found)}: {error}."]
    except BaseException as error:  # a student's object may raise wherever it is touched
        standing.failures += 1
        standing.points, standing.said = 0.0, "not right yet"
        lines[:] = [f"{_title(found)}: what the function returns could not be compared ({type(error).__name__})."]
    wrapped = textwrap.TextWrapper(WIDTH, subsequent_indent="      ", break_on_hyphens=False, break_long_words=False)
    print("\n".join(map(wrapped.fill, lines)))


def example(exercise: str, number: int) -> Any:
    """The arguments of one public example: a tuple, or a dict of named arguments.

    Args:
        exercise: the number of the exercise, such as "2.1"
        number: the number of the example, from 1 on, as `check` shows it

    Raises:
        ValueError: there is no such exercise or example

    Examples:
        >>> example("0.1", 1)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: there is no exercise '0.1' in course_lib ...
    """
    found = _find(exercise)
    if found is None:
        raise ValueError(f"there is no exercise {exercise!r} in course_lib {__version__}")
    count = len(found["examples"])
    if not isinstance(number, int) or not 1 <= number <= count:
        raise ValueError(f"exercise {exercise} has the examples 1 to {count}, and not {number!r}")
    return _decode(found["examples"][number - 1]["arguments"], _names(None))


def summary() -> None:
    """Print the table of the exercises: the points so far, and what a person will mark.

    It shows the chapters of which something was checked since the notebook was started.

    Examples:
        >>> summary()  # doctest: +ELLIPSIS
        Nothing has been checked yet: run the cells above, from the first one on.
    """
    chapters = sorted({_chapter(one) for one in _standings})
    if not chapters:
        print("Nothing has been checked yet: run the cells above, from the first one on.")
        return
    rows, so_far, by_tests, by_hand = [], 0.0, 0.0, 0.0
    for chapter in chapters:
        loaded = _load(chapter)
        for one in loaded["exercises"]:
            standing = _standings.get(one["id"], _Standing(said="not checked"))
            so_far, by_tests = so_far + standing.points, by_tests + one["points"]
            rows.append((_title(one), f"{standing.points:g} of {one['points']:g}", standing.said))
        written = loaded["written"]
        by_hand += written["points"]
        rows.append((f"{written['id']} written question", f"- of {written['points']:g}", "marked by a person"))
    rows.append(("together", f"{so_far:g} of {by_tests:g}", f"and {by_hand:g} that a person marks"))
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    print("\n".join(f"{name:<{first}}  {points:>{second}}  {said}".rstrip() for name, points, said in rows))
    print(f"These are the points so far, from the public examples. {MORE}")


def forget() -> None:
    """Forget what was checked so far, as a restart of the notebook does.

    Examples:
        >>> forget()
    """
    for memory in (_standings, _loaded, _values):
        memory.clear()


# The stored examples


def _load(chapter):
    if chapter not in _loaded:
        try:
            text = (resources.files("course_lib") / "_checks" / f"{chapter:02}.json").read_text(encoding="utf-8")
            _loaded[chapter] = json.loads(text)
        except (OSError, ValueError):
            _loaded[chapter] = None
    return _loaded[chapter]


def _chapter(exercise):
    number = exercise.partition(".")[0] if isinstance(exercise, str) else ""
    return int(number) if number.isascii() and number.isdigit() else -1


def _find(exercise):
    loaded = _load(_chapter(exercise)) or {"exercises": []}
    return next((one for one in loaded["exercises"] if one["id"] == exercise), None)


class _NotDefined(Exception):
    """A name of the notebook, used in an example, that is not defined yet."""


def _decode(stored, names=None):
    def resolve(kind, name):
        if names is None or name not in names:
            raise _NotDefined(f"{name!r} is not defined: run the cells above, from the first one on")
        return names[name]

    return _wire.decode(stored, resolve)


def _value(stored):
    if id(stored) not in _values:
        _values[id(stored)] = _decode(stored["value"])
    return _values[id(stored)]


def _title(found):
    return f"{found['id']} {found['title']}"


# One check


def _report(found, function, standing, lines):
    """Adds what to print; returns the points and a word on them."""
    whole, title = found["points"], _title(found)
    if not callable(function):
        standing.failures += 1
        lines.append(f"{title}: check wants the function itself, {found['function']}, and got {kind_of(function)}.")
        return 0.0, "not right yet"
    if static := in_function(function, found["forbids"]):
        return _forbidden(found, static, standing, lines)
    names = _names(function)
    outcomes = []
    for one in found["examples"]:
        arguments = _decode(one["arguments"], names)
        with watched(names, found["forbids"]) as calls:
            outcomes.append(_outcome(function, arguments))
        if calls:
            return _forbidden(found, calls, standing, lines)
    if all(isinstance(error, NotImplementedError) for _, error in outcomes):
        lines.append(f"{title}: not done yet (0 of {whole:g} points).")
        return 0.0, "not done yet"
    wrong = [i for i, one in enumerate(found["examples"]) if _differs(found, outcomes[i], one)]
    right = len(outcomes) - len(wrong)
    points = whole if not wrong else math.floor(2 * whole * right / len(outcomes)) / 2
    what = "all examples are right" if not wrong else f"{right} of {len(outcomes)} examples are right"
    lines.append(f"{title}: {points:g} of {whole:g} points so far, {what}.")
    if wrong:
        standing.failures += 1
        _explain(found, function, outcomes, wrong[0], lines)
        if says := _recognise(found, outcomes, wrong):
            lines.append(f"  Look: {says}")
        if standing.failures >= 2 and found["hint"]:
            lines.append(f"  Hint: {found['hint']}")
        lines.append(f'  Try it: example("{found["id"]}", {wrong[0] + 1}) gives these arguments.')
    lines.append(f"  {MORE}")
    return points, "right so far" if not wrong else "not right yet"


def _forbidden(found, calls, standing, lines):
    standing.failures += 1
    lines.append(f"{_title(found)}: 0 of {found['points']:g} points so far. Your answer uses {calls[0]}.")
    lines.append(f"  This exercise forbids {', '.join(found['forbids'])}: write it yourself.")
    return 0.0, "uses what is forbidden"


def _names(function):
    """The names of the notebook: those that the function sees, or, for a class, those of the running program."""
    return getattr(function, "__globals__", None) or sys.modules["__main__"].__dict__


def _outcome(function, arguments):
    """What the function returns, and None; or None and what it raised. The seed of torch is the same each time."""
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("default")  # a warning costs nothing, even where the notebook made it an error
            torch.default_generator.manual_seed(0)
            if isinstance(arguments, dict):
                return function(**arguments), None
            return function(*arguments), None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too
        return None, error


def _differs(found, outcome, stored):
    """The difference between an outcome and a stored one, None if there is none."""
    value, error = outcome
    if "raises" in stored:
        name = stored["raises"]
        if error is None:
            return Difference("raises", f"it should raise {name}, and returns {kind_of(value)}")
        raised = {one.__name__ for one in type(error).__mro__}
        return None if name in raised else Difference("raises", f"it should raise {name}, and raises {_raised(error)}")
    if error is not None:
        return Difference("raises", f"it raises {_raised(error)}")
    expected = _value(stored)
    if value is None and expected is not None:
        return Difference("type", "it returns None: is a `return` missing?")
    return difference(value, expected, rtol=found["rtol"], atol=found["atol"])


def _raised(error):
    said = str(error).strip().splitlines()
    return type(error).__name__ + (f": {said[0][:200]}" if said else "")


def _explain(found, function, outcomes, index, lines):
    stored, outcome = found["examples"][index], outcomes[index]
    arguments = _decode(stored["arguments"], _names(function))
    lines.append(f"  Example {index + 1}: {_call(found['function'], arguments)}")
    differs = _differs(found, outcome, stored)
    said = differs.detail or differs.sentence
    lines.append(f"    {said[0].upper()}{said[1:]}{'' if said[-1] in '.?!' else '.'}")
    if outcome[1] is not None:
        lines += [f"    {line}" for line in _place(function, outcome[1])]
    if said.startswith("expected"):  # one number: it has been said
        return
    if "value" in stored:
        lines.append(f"    expected  {_short(show(_value(stored)))}")
    if outcome[1] is None and outcome[0] is not None:
        lines.append(f"    got       {_short(show(outcome[0]))}")


def _call(name, arguments):
    if isinstance(arguments, dict):
        inner = ", ".join(f"{key}={_argument(value)}" for key, value in arguments.items())
    else:
        inner = ", ".join(map(_argument, arguments))
    return _short(f"{name}({inner})")


def _argument(value):
    return value.__name__ if callable(value) and hasattr(value, "__name__") else show(value, form=False)


def _short(text):
    return text if len(text) <= 3 * WIDTH else text[: 3 * WIDTH] + " …"


def _place(function, error):
    """The line of the student's cell that raised."""
    code = inspect.unwrap(function).__code__ if hasattr(inspect.unwrap(function), "__code__") else None
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if code is not None and frame.filename == code.co_filename and frame.line:
            yield f"in this line: {frame.line.strip()}"
            return


def _recognise(found, outcomes, wrong):
    """The sentence of the likely mistake that gives these outcomes.

    First one that gives all of them; else the one that gives some of the wrong ones, if no other does.
    """
    some = []
    for mistake in found["mistakes"]:
        same = [i for i in wrong if _made(found, outcomes[i], mistake["outcomes"][i])]
        others = [i for i in range(len(outcomes)) if i not in wrong and mistake["outcomes"][i] is not None]
        if len(same) == len(wrong) and not others:
            return mistake["says"]
        if any("value" in mistake["outcomes"][i] for i in same):
            some.append((len(same), mistake["says"]))
    best = max((count for count, _ in some), default=0)
    likely = {says for count, says in some if count == best}
    return likely.pop() if len(likely) == 1 else None


def _made(found, outcome, stored):
    """Whether a mistake gives this wrong outcome; None is stored where the mistake does no harm."""
    return stored is not None and _differs(found, outcome, stored) is None
