"""The gradebook: nbgrader's database, and the notebooks that its formgrader shows for marking by hand.

    define(folder, assignment, release)   the assignment's cells and points
    feed(folder, assignment, release)     the results of the tests; marks of persons stay as they are
    marks(folder, assignment)             what each student has, as plain values

``TakeResults`` is a step for nbgrader's own `autograde`, in the place of the one that executes a notebook.
"""

import contextlib
import hashlib
import json
import math
import os
import sysconfig
from datetime import UTC, datetime
from typing import Any

from course_lib.grading.folder import CourseError, Folder, read_json, write_whole
from course_lib.grading.release import grade_id
from course_lib.grading.source import Assignment
from course_lib.grading.submission import harmless

__all__ = ["define", "due", "feed", "marks", "set_due"]


@contextlib.contextmanager
def opened(folder: Folder):
    """nbgrader's gradebook of the folder, closed at the end."""
    try:
        from nbgrader.api import Gradebook
    except ImportError:
        raise CourseError("nbgrader is not installed: run `pip install course_lib[grading]`.") from None
    # As nbgrader's own programs open it, so that all see one course.
    with _programs_of_this_environment(), Gradebook(folder.database, "default_course") as book:
        yield book


@contextlib.contextmanager
def _programs_of_this_environment():
    """nbgrader starts `alembic` by its name to make a new database, also where the environment is not activated."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before


# The assignment


def define(folder: Folder, assignment: Assignment, release: Any) -> None:
    """Write the cells and points of an assignment into the gradebook, as often as you like; marks are kept.

    Args:
        folder: of the course
        assignment: as `source.read` gives it
        release: the student's notebook
    """
    from nbgrader import api, utils

    slug = assignment.slug
    with opened(folder) as book:
        book.update_or_create_assignment(slug)
        notebook = book.update_or_create_notebook(slug, slug, kernelspec=json.dumps(release.metadata["kernelspec"]))
        known = {kind: set() for kind in ("grade", "solution", "source")}
        for cell in release.cells:
            flags = cell.metadata["nbgrader"]
            name = flags["grade_id"]
            flags["checksum"] = utils.compute_checksum(cell)
            if flags["grade"]:
                book.update_or_create_grade_cell(
                    name, slug, slug, max_score=float(flags["points"]), cell_type=cell.cell_type
                )
                known["grade"].add(name)
            if flags["solution"]:
                book.update_or_create_solution_cell(name, slug, slug)
                known["solution"].add(name)
            book.update_or_create_source_cell(
                name,
                slug,
                slug,
                cell_type=cell.cell_type,
                locked=utils.is_locked(cell),
                source=cell.source,
                checksum=flags["checksum"],
            )
            known["source"].add(name)
        gone = [
            cell
            for kind, cells in (
                ("grade", notebook.grade_cells),
                ("solution", notebook.solution_cells),
                ("source", notebook.source_cells),
            )
            for cell in list(cells)
            if cell.name not in known[kind]
        ]
        for cell in gone:
            for kind in (api.Grade, api.Comment):
                if not isinstance(cell, api.SourceCell):
                    book.db.query(kind).filter(kind.cell_id == cell.id).delete(synchronize_session=False)
            book.db.delete(cell)
        book.db.commit()
        book.db.expire_all()
        for submitted in notebook.submissions:  # which came before the cell did
            _complete(api, book.db, submitted, notebook)
        book.db.commit()


def _complete(api, db, submitted, notebook):
    graded = {grade.cell_id for grade in submitted.grades}
    commented = {comment.cell_id for comment in submitted.comments}
    for kind, cells, there in (
        (api.Grade, notebook.grade_cells, graded),
        (api.Comment, notebook.solution_cells, commented),
    ):
        for cell in cells:
            if cell.id not in there:
                db.add(kind(cell_id=cell.id, notebook_id=submitted.id))


def set_due(folder: Folder, slug: str, when: datetime | None) -> None:
    """When an assignment is due; nbgrader keeps times in UTC.

    Args:
        folder: of the course
        slug: of the assignment
        when: a time with its zone
    """
    with opened(folder) as book:
        found = when and when.astimezone(UTC).replace(tzinfo=None)
        book.update_or_create_assignment(slug, duedate=found)


def due(folder: Folder, slug: str) -> datetime | None:
    """When an assignment is due, in UTC.

    Args:
        folder: of the course
        slug: of the assignment
    """
    with opened(folder) as book:
        when = book.find_assignment(slug).duedate
        return when and when.replace(tzinfo=UTC)


# The results


def results(folder: Folder, slug: str) -> dict[str, dict[str, Any]]:
    """The results of the tests, by student, of those who handed something in.

    Args:
        folder: of the course
        slug: of the assignment
    """
    index = read_json(folder.index(slug), {"attempts": {}})
    found = {student: read_json(folder.result(slug, student)) for student in sorted(index["attempts"])}
    return {student: result for student, result in found.items() if result is not None}


def feed(folder: Folder, assignment: Assignment, release: Any) -> int:
    """Put the results of the tests into the gradebook and the notebooks beside it; return how many were new.

    What a person marked stays, and is to be looked at again where the answer, or what the tests say, has changed.

    Args:
        folder: of the course
        assignment: as `source.read` gives it
        release: the student's notebook, as `define` left it
    """
    count = 0
    with opened(folder) as book:
        names = _names(folder)
        made = book.find_notebook(assignment.slug, assignment.slug)
        points = {cell.name: cell.max_score for cell in made.grade_cells}
        by_id = {cell.id: cell.name for cell in [*made.grade_cells, *made.solution_cells]}
        for student, result in results(folder, assignment.slug).items():
            if result["status"] == "not graded":
                continue
            digest = _digest(result, points)
            path = folder.notebook("autograded", assignment.slug, student)
            before = read_json(path)
            if before is not None and before["metadata"].get("course_lib", {}).get("result") == digest:
                continue
            _feed_one(book, assignment, student, result, before, names.get(student, {}), by_id)
            graded = notebook_of(release, result, with_results=True)
            graded.metadata["course_lib"] = {"assignment": assignment.slug, "result": digest}
            clean = notebook_of(release, result, with_results=False)
            when = datetime.fromtimestamp(result["time"], UTC).strftime("%Y-%m-%d %H:%M:%S.%f %Z")
            for stage, one in (("submitted", clean), ("autograded", graded)):  # the mark of what is done comes last
                target = folder.notebook(stage, assignment.slug, student)
                write_whole(target.parent / "timestamp.txt", when, sync=False)
                write_whole(target, json.dumps(one, indent=1), sync=stage == "autograded")
            count += 1
    return count


def _digest(result, points):
    parts = [result[key] for key in ("submission", "fingerprint", "status", "tests", "time")]
    return hashlib.sha256(json.dumps([parts, sorted(points.items())], sort_keys=True).encode()).hexdigest()


def _names(folder):
    rows = read_json(folder.path / "students.json", [])
    return {row["id"]: row for row in rows}


def _feed_one(book, assignment, student, result, before, row, by_id):
    from nbgrader import utils

    slug = assignment.slug
    name = {"first_name": None, "last_name": row["name"]} if row.get("name") else {}
    book.update_or_create_student(student, **name, **({"email": row["email"]} if row.get("email") else {}))
    timestamp = datetime.fromtimestamp(result["time"], UTC).replace(tzinfo=None)
    with book.db.no_autoflush:  # as nbgrader makes one, SQLAlchemy would warn
        submission = book.update_or_create_submission(slug, student, timestamp=utils.parse_utc(str(timestamp)))
    (submitted,) = submission.notebooks
    earned = {grade_id("hidden", one["id"]): one["earned"] for one in result["tests"]}
    written = grade_id("written", assignment.written.id)
    sources = {part["name"]: part["source"] for part in result["parts"] if part["name"]}
    for grade in submitted.grades:
        _set_grade(grade, by_id[grade.cell_id], result, earned, before, written)
    for comment in submitted.comments:
        cell = by_id[comment.cell_id]
        blank = (
            not result["answered"] if cell == written else not sources.get(cell, "").strip() or _undone(result, cell)
        )
        comment.auto_comment = "No response." if blank else None
    book.db.commit()


def _set_grade(grade, cell, result, earned, before, written):
    old, by_hand = grade.auto_score, grade.manual_score is not None
    if cell == written and result["answered"]:
        grade.auto_score = None
        changed = by_hand and _written_in(before, written) != _written_parts(result["parts"], written)
        grade.needs_manual_grade = not by_hand or changed or (grade.needs_manual_grade and old is None)
    else:
        grade.auto_score = earned.get(cell, 0.0)
        changed = old is None or not math.isclose(old, grade.auto_score)
        grade.needs_manual_grade = by_hand and (grade.needs_manual_grade or changed)


def _undone(result, name):
    exercise = name.removeprefix("answer-").replace("-", ".")
    tests = [one for one in result["tests"] if one["exercise"] == exercise]
    return bool(tests) and all(one["status"] == "not done" for one in tests)


def _written_in(before, name):
    if before is None:
        return None
    cells = [(c["metadata"].get("nbgrader", {}).get("grade_id"), "".join(c["source"])) for c in before["cells"]]
    return _around(cells, name)


def _written_parts(parts, name):
    return _around([(part["name"], part["source"]) for part in parts], name)


def _around(cells, name):
    """The answer in words, and what the student wrote into cells of his own about it."""
    taken, inside = [], False
    for cell, source in cells:
        inside = cell in (name, f"{name}-question") or (inside and cell is None)
        if inside and cell != f"{name}-question":
            taken.append(source)
    return taken


def notebook_of(release: Any, result: dict[str, Any], with_results: bool) -> Any:
    """A notebook for nbgrader: the release's structure, the student's text, and what the tests said as outputs.

    Args:
        release: the student's notebook, as `define` left it
        result: of `marking.mark`
        with_results: whether the test cells show what the tests said
    """
    import nbformat

    originals = {cell.metadata["nbgrader"]["grade_id"]: cell for cell in release.cells}
    parts = result["parts"] or [
        {"kind": cell.cell_type, "name": name, "source": cell.source, "attachments": {}}
        for name, cell in originals.items()
    ]
    cells = []
    for number, part in enumerate(parts):
        code = part["kind"] == "code"
        cell = {"cell_type": part["kind"], "id": part["name"] or f"own-{number}", "metadata": {}}
        cell["source"] = part["source"]
        if part["name"] and part["name"].startswith("written-") and not result["answered"]:
            cell["source"] = originals[part["name"]].source  # by which nbgrader knows that there is no answer
        if part["name"]:
            flags = dict(originals[part["name"]].metadata["nbgrader"])
            cell["metadata"] = {"nbgrader": flags | {"cell_type": part["kind"]}}
        if code:
            cell |= {"outputs": [], "execution_count": None}
        elif part["attachments"]:
            cell["attachments"] = part["attachments"]
        cells.append(nbformat.from_dict(cell))
    if with_results:
        _put_results(cells, result)
    if result["message"]:
        said = f"**This notebook could not be graded as usual.** {harmless(result['message'])}"
        cells.insert(0, {"cell_type": "markdown", "id": "message", "metadata": {}, "source": said})
    metadata = {"kernelspec": release.metadata["kernelspec"], "language_info": {"name": "python"}}
    # Not by nbformat.v4: it would check each cell against the format, which takes longer than all the rest.
    return nbformat.from_dict({"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells})


def _put_results(cells, result):
    """As outputs in the cells of the tests. nbgrader reads the points from them: an error is none, else all."""
    import nbformat

    by_name = {grade_id("hidden", one["id"]): one for one in result["tests"]}
    for cell in cells:
        flags = cell.metadata.get("nbgrader")
        if not flags or not flags["grade"] or flags["solution"]:
            continue
        test = by_name.get(flags["grade_id"])
        if test is not None and test["status"] == "passed":
            said = nbformat.v4.new_output("display_data", {"text/plain": "passed"})
        else:
            sentence = test["sentence"] if test else "This test did not run."
            name = test["status"] if test else "not run"
            said = nbformat.v4.new_output("error", ename=name, evalue=sentence, traceback=[f"{name}: {sentence}"])
        cell.outputs, cell.execution_count = [said], 1


# The marks


def marks(folder: Folder, assignment: Assignment) -> dict[str, dict[str, Any]]:
    """What each student of the gradebook has, by student: points by the cell's name, what is to be marked, comments.

    Args:
        folder: of the course
        assignment: as `source.read` gives it
    """
    found = {}
    with opened(folder) as book:
        duedate = book.find_assignment(assignment.slug).duedate
        for submission in book.assignment_submissions(assignment.slug):
            (submitted,) = submission.notebooks
            found[submission.student.id] = {
                "points": {grade.name: float(grade.score) for grade in submitted.grades},
                "by_hand": {g.name for g in submitted.grades if g.manual_score is not None or g.extra_credit},
                "to_mark": sorted(g.name for g in submitted.grades if g.needs_manual_grade),
                "comments": {c.name: c.manual_comment for c in submitted.comments if c.manual_comment},
                "late": float(submission.total_seconds_late) if duedate else 0.0,
                "submitted": submission.timestamp,
            }
    return found


def set_penalties(folder: Folder, assignment: Assignment, penalties: dict[str, float]) -> None:
    """What comes off for coming late, by student, for nbgrader's own pages.

    Args:
        folder: of the course
        assignment: as `source.read` gives it
        penalties: in points
    """
    with opened(folder) as book:
        for submission in book.assignment_submissions(assignment.slug):
            (submitted,) = submission.notebooks
            submitted.late_submission_penalty = penalties.get(submission.student.id, 0.0)
        book.db.commit()


# nbgrader's own autograde


def __getattr__(name):
    if name == "TakeResults":  # made when nbgrader asks for it, so that this module needs none
        return _take_results()
    raise AttributeError(name)


def _take_results():
    from pathlib import Path

    from nbgrader.preprocessors import NbGraderPreprocessor

    class TakeResults(NbGraderPreprocessor):
        """Puts what the tests in the sandbox said into the cells. Nothing is executed."""

        def preprocess(self, nb, resources):
            about = resources["nbgrader"]
            folder = Folder(Path(about["db_url"].removeprefix("sqlite:///")).parent)
            result = read_json(folder.result(about["assignment"], about["student"]))
            if result is None or result["status"] == "not graded":
                raise RuntimeError("There is no result: run `python -m course_lib.grading grade` first.")
            _put_results(nb.cells, result)
            return nb, resources

    globals()["TakeResults"] = TakeResults
    return TakeResults
