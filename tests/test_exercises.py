"""Each exercise proves itself: the right answer gets all points, nothing gets none, each likely mistake what it should.

The answers run in this process here, over the wire but without the sandbox; they are ours.
"""

import functools
import io
import json
import re
import sys
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import pytest
import torch
from secret_lines import ROOT, leaks, lines_of, secret_lines

from course_lib import _wire, checks
from course_lib._comparison import difference
from course_lib._forbidden import in_cells
from course_lib.grading import rehearsal, release, source, testing

SECRETS = ["practice", "one", "another", "a third"]
PATHS = source.find(ROOT)
SLUGS = [path.stem for path in PATHS]


@functools.cache
def assignment(slug):
    return source.read(ROOT / "exercises" / "source" / slug / f"{slug}.md")


@functools.cache
def stored(slug):
    return release.stored_checks(assignment(slug))


@functools.cache
def right(slug):
    """The names of the notebook in which every answer is right."""
    return rehearsal.namespace(assignment(slug), rehearsal.references(assignment(slug)))


@contextmanager
def little_memory():
    """At most 4 GiB more than now: an answer that asks for hundreds must fail, as it does in the sandbox."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 4 * 2**30, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Each test begins as a new notebook does, with the checks that the sources give."""
    checks.forget()
    by_chapter = {int(slug[:2]): slug for slug in SLUGS}
    monkeypatch.setattr(checks, "_load", lambda chapter: stored(by_chapter[chapter]) if chapter in by_chapter else None)
    yield
    checks.forget()


def said(exercise, function):
    with redirect_stdout(io.StringIO()) as text:
        checks.check(exercise, function)
    return re.sub(r"\s+", " ", text.getvalue())


EXERCISES = [pytest.param(slug, one, id=one) for slug in SLUGS for one in assignment(slug).exercises]
WRONG = [
    pytest.param(slug, one.id, wrong, id=f"{one.id}-{wrong.name}")
    for slug in SLUGS
    for one in assignment(slug).exercises.values()
    for wrong in one.wrong
]
LIKELY = [one for one in WRONG if not one.values[2].forbidden]
FORBIDDEN = [one for one in WRONG if one.values[2].forbidden]


# The assignments


@pytest.mark.parametrize("slug", SLUGS)
def test_an_assignment_has_the_form_that_the_course_promises(slug):
    made = assignment(slug)
    assert (ROOT / "book" / f"{slug}.md").exists(), "named as its chapter"
    assert len(made.exercises) >= 4
    assert sum(one.points for one in made.exercises.values()) >= 20
    levels = [one.level for one in made.exercises.values()]
    assert levels == sorted(levels, key=source.LEVELS.index), "from warm-up to hard"
    assert {levels[0], levels[-1]} == {"warm-up", "hard"}
    for one in made.exercises.values():
        head = next(c.source for c in made.cells if c.kind == "markdown" and f"## {one.id} " in c.source)
        assert f"## {one.id} {one.title} ({one.level}, {one.points:g} points)" in head
        assert one.hint
        assert len({wrong.name for wrong in one.wrong}) == len(one.wrong)
    points = sum(one.points for one in made.exercises.values())
    assert f"{points:g} points by tests, {made.written.points:g} by a person" in made.cells[0].source
    promised = re.findall(r"\((\d+) points?\)", made.written.question)
    assert sum(map(int, promised)) == made.written.points
    assert re.findall(r"\((\d+) points?\)", made.written.scheme) == promised


# The right answers, and none


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(("slug", "exercise"), EXERCISES)
def test_the_right_answer_passes_every_hidden_test(slug, exercise, secret):
    made = assignment(slug)
    for test in made.exercises[exercise].tests:
        with testing.secret(secret):
            error = rehearsal.failure(made, test, right(slug))
        assert error is None, f"{test.id}: {error!r} {getattr(error, 'detail', '')}"


@pytest.mark.parametrize(("slug", "exercise"), EXERCISES)
def test_the_right_answer_passes_the_check(slug, exercise):
    made = assignment(slug).exercises[exercise]
    text = said(exercise, right(slug)[made.function])
    assert f"{made.points:g} of {made.points:g} points so far, all examples are right." in text
    assert checks.MORE in text


@pytest.mark.parametrize(("slug", "exercise"), EXERCISES)
def test_the_right_answer_uses_nothing_that_is_forbidden(slug, exercise):
    made = assignment(slug)
    cells = [*made.given(), *rehearsal.references(made).values()]
    assert in_cells(cells, made.exercises[exercise].function, made.exercises[exercise].forbids) == []


@pytest.mark.parametrize("slug", SLUGS)
def test_the_blank_notebook_runs_to_its_end_and_gets_nothing(slug):
    made = assignment(slug)
    notebook = release.student_notebook(made, release.colab_cell(ROOT, slug), release.book_macros(ROOT))
    names = {"__name__": "__main__"}
    with redirect_stdout(io.StringIO()) as output, rehearsal.undisturbed():
        for cell in notebook.cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, cell.id, "exec"), names)
    text = output.getvalue()
    assert text.count("not done yet (0 of") == len(made.exercises)
    assert re.search(rf"^together +0 of {sum(one.points for one in made.exercises.values()):g} ", text, re.MULTILINE)
    for one in made.exercises.values():
        for test in one.tests:
            error = rehearsal.failure(made, test, names)
            assert getattr(error, "kind", "") == "NotImplementedError", test.id


# The wrong answers


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no limit keeps an answer from filling the memory")
@pytest.mark.parametrize(("slug", "exercise", "wrong"), LIKELY)
def test_a_wrong_answer_loses_the_marks_that_it_should(slug, exercise, wrong):
    made = assignment(slug)
    names = rehearsal.namespace(made, rehearsal.answers(made, exercise, wrong.code))
    function = made.exercises[exercise].function
    # what does not mention the function cannot change
    touched = [one for one in made.exercises.values() if one.id == exercise or function in one.solution]
    for secret in SECRETS[:2]:
        with testing.secret(secret), little_memory():
            lost = [t.id for one in touched for t in one.tests if rehearsal.failure(made, t, names) is not None]
        assert sorted(lost) == sorted(wrong.loses), secret


@pytest.mark.parametrize(("slug", "exercise", "wrong"), LIKELY)
def test_the_check_tells_a_wrong_answer_what_is_wrong(slug, exercise, wrong):
    made = assignment(slug)
    names = rehearsal.namespace(made, rehearsal.answers(made, exercise, wrong.code))
    whole = made.exercises[exercise].points
    first = said(exercise, names[made.exercises[exercise].function])
    found = re.search(rf"([\d.]+) of {whole:g} points so far", first)
    assert float(found[1]) < whole
    assert wrong.says in first
    assert "Hint:" not in first
    second = said(exercise, names[made.exercises[exercise].function])
    assert f"Hint: {made.exercises[exercise].hint}" in second


@pytest.mark.parametrize(("slug", "exercise", "wrong"), FORBIDDEN)
def test_a_forbidden_call_is_caught_on_both_sides(slug, exercise, wrong, monkeypatch):
    made = assignment(slug)
    one = made.exercises[exercise]
    chosen = rehearsal.answers(made, exercise, wrong.code)
    found = in_cells([*made.given(), *chosen.values()], one.function, one.forbids)
    assert any(name.startswith(wrong.forbidden) for name in found)
    function = rehearsal.namespace(made, chosen)[one.function]
    for static in (True, False):  # from the source; and where there is none, while it runs
        if not static:
            monkeypatch.setattr(checks, "in_function", lambda function, forbids: [])
        text = said(exercise, function)
        assert f"0 of {one.points:g} points so far. Your answer uses {wrong.forbidden.split('.')[0]}" in text
        assert wrong.forbidden in text


# What is stored and given out


def named(kind, key):
    """A function of the notebook among stored arguments: its name serves for the comparison."""
    return f"{kind} {key}"


def alike(one, other):
    """Equal, but for the last digits of stored numbers, which may differ between machines."""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return False
        if one.keys() <= {"tensor", "tuple", "array"} and len(one) == 1:
            return difference(_wire.decode(one, named), _wire.decode(other, named)) is None
        return all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == other


@pytest.mark.parametrize("slug", SLUGS)
def test_the_stored_checks_are_those_of_the_source(slug):
    path = ROOT / "course_lib" / "_checks" / f"{slug[:2]}.json"
    text = path.read_text(encoding="utf-8")
    assert alike(json.loads(text), stored(slug)), "release the assignment again"
    assert len(text) <= release.LARGEST


@pytest.mark.parametrize("slug", SLUGS)
def test_the_student_notebook_is_that_of_the_source(slug):
    import nbformat

    notebook = release.student_notebook(assignment(slug), release.colab_cell(ROOT, slug), release.book_macros(ROOT))
    path = ROOT / "book" / "exercises" / f"{slug}.ipynb"
    assert path.read_text(encoding="utf-8") == nbformat.writes(notebook) + "\n", "release the assignment again"


@pytest.mark.parametrize("slug", SLUGS)
def test_no_secret_line_is_public(slug):
    lines = secret_lines(assignment(slug))
    assert len(lines) > 50
    assert leaks(lines, ROOT / "book") == []
    assert leaks(lines, ROOT / "course_lib") == []
    if (ROOT / "_build" / "html").exists():  # the pages as they were built last
        assert leaks(lines, ROOT / "_build" / "html") == []


def test_the_guard_finds_a_line(tmp_path):
    lines = secret_lines(assignment(SLUGS[0]))
    secret = min(lines)
    (tmp_path / "page.html").write_text(f"<pre>  <b>{secret.replace('<', '&lt;').replace('>', '&gt;')}</b>\n</pre>")
    cell = {"cell_type": "code", "source": ["x = 1\n", f"    {secret}\n"]}
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": [cell]}))
    assert [one.split(": ")[0] for one in leaks(lines, tmp_path)] == ["a.ipynb", "page.html"]
    (tmp_path / "picture.md").write_bytes(b"\xff\xfe")
    assert lines_of(tmp_path / "picture.md") == set()


# A broken exercise is noticed


def test_a_right_answer_that_is_wrong_is_noticed():
    made = assignment(SLUGS[0])
    one = made.exercises["1.1"]
    names = right(SLUGS[0]) | {one.function: lambda p, q: torch.zeros(())}
    errors = [rehearsal.failure(made, test, names) for test in one.tests]
    assert all(isinstance(error, testing.Mismatch) for error in errors)


def test_a_mistake_that_no_example_shows_is_not_released():
    text = assignment(SLUGS[0]).path.read_text(encoding="utf-8")
    spoilt = text.replace("terms.sum() / 2", "terms.sum(-1) / 2")
    with pytest.raises(source.SourceError, match=r"1\.1: no public example shows the mistake 'sum-over-the-batch'"):
        release.stored_checks(source.reads(spoilt, SLUGS[0]))


def test_two_mistakes_with_one_outcome_are_not_released():
    text = assignment(SLUGS[0]).path.read_text(encoding="utf-8")
    spoilt = text.replace("log2()", "log() * 2")  # as if the half was lost
    with pytest.raises(source.SourceError, match=r"do not tell 'no-half' from 'bits'"):
        release.stored_checks(source.reads(spoilt, SLUGS[0]))


def test_a_reference_that_fails_on_an_example_is_not_released():
    text = assignment(SLUGS[0]).path.read_text(encoding="utf-8")
    spoilt = text.replace("    from_p = torch.xlogy(", "    from_p = torch.nothing(")
    with pytest.raises(source.SourceError, match=r"1\.1: the answer raises AttributeError on example 1"):
        release.stored_checks(source.reads(spoilt, SLUGS[0]))
