"""The table of marks: one line for each student, and the status that tells a zero from what could not be graded."""

import csv
import io
import math
from datetime import UTC, datetime
from typing import Any

from course_lib.grading import gradebook
from course_lib.grading.folder import Folder, read_json, write_whole
from course_lib.grading.release import grade_id
from course_lib.grading.source import Assignment

__all__ = ["csv_text", "export", "penalty", "table"]

DAY = 86_400


def penalty(total: float | int, seconds_late: float | int, per_day: float | int) -> float:
    """The points that come off: each day that has begun costs a percentage of what was earned.

    Args:
        total: points before
        seconds_late: after the due time
        per_day: percentage for each day that has begun

    Examples:
        >>> penalty(20, 0, 10), penalty(20, 60, 10), penalty(20, 90_000, 10), penalty(20, 10**7, 10)
        (0.0, 2.0, 4.0, 20.0)
    """
    days = math.ceil(max(seconds_late, 0) / DAY)
    return round(total * min(1.0, days * per_day / 100), 4)


def table(folder: Folder, assignment: Assignment) -> list[dict[str, Any]]:
    """A row for each student: of the list of students, of the collection, of the gradebook.

    The status is one of: "missing", "not graded" (ours or the machine's fault: grade again), "unreadable" (ask the
    student for the file), "timed out", "crashed", "too much memory" and its like (it was graded, but a part ended so:
    look at it), "needs manual marking", "graded".

    Args:
        folder: of the course
        assignment: as `source.read` gives it
    """
    slug = assignment.slug
    attempts = read_json(folder.index(slug), {"attempts": {}})["attempts"]
    listed = {row["id"]: row for row in read_json(folder.path / "students.json", [])}
    found, results = gradebook.marks(folder, assignment), gradebook.results(folder, slug)
    per_day = folder.settings(slug).get("per_day", 0)
    rows = [
        _row(assignment, student, listed.get(student, {}), found.get(student), results.get(student), attempts, per_day)
        for student in sorted({*attempts, *listed, *found}, key=str.casefold)
    ]
    gradebook.set_penalties(folder, assignment, {row["student"]: row["late penalty"] or 0.0 for row in rows})
    return rows


def _row(assignment, student, listed, marks, result, attempts, per_day):
    exercises = {one.id: [grade_id("hidden", t.id) for t in one.tests] for one in assignment.exercises.values()}
    exercises[assignment.written.id] = [grade_id("written", assignment.written.id)]
    row: dict[str, Any] = {"student": student, "name": listed.get("name", "")}
    if marks is None or result is None or result["status"] == "not graded":
        status = "not graded" if student in attempts else "missing"
        row |= dict.fromkeys([*exercises, "total"], "") | {"of": assignment.points, "status": status, "to mark": ""}
        row |= {"late penalty": "", "after penalty": "", "submitted": "", "sandbox": ""}
        return row | {"remarks": result["message"] if result else ""}
    for exercise, cells in exercises.items():
        row[exercise] = round(sum(marks["points"].get(cell, 0.0) for cell in cells), 4)
    total = round(sum(row[exercise] for exercise in exercises), 4)
    to_mark = sorted({_exercise(assignment, name) for name in marks["to_mark"]})
    off = penalty(total, marks["late"], per_day)
    status = result["status"]
    if status == "ran":
        status = "needs manual marking" if to_mark else "graded"
    row |= {"total": total, "of": assignment.points, "status": status, "to mark": " ".join(to_mark)}
    row |= {"late penalty": off, "after penalty": round(total - off, 4), "submitted": _local(marks["submitted"])}
    row["sandbox"] = "yes" if result["sandbox"] else "NO SANDBOX"
    places = [f"{one['status']}: {one['place']}" for one in result["incidents"] if one["status"] != "raised"]
    forbidden = sorted({one["exercise"] for one in result["tests"] if one["status"] == "forbidden"})
    said = [result["message"], *places, *(f"forbidden call: {one}" for one in forbidden), *result["notes"]]
    return row | {"remarks": "; ".join(text for text in said if text)[:500]}


def _exercise(assignment, cell):
    names = {grade_id("hidden", t.id): one.id for one in assignment.exercises.values() for t in one.tests}
    return names.get(cell, assignment.written.id)


def _local(when):
    return when.replace(tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M") if isinstance(when, datetime) else ""


def csv_text(rows: list[dict[str, Any]]) -> str:
    """The rows as CSV that a spreadsheet opens, and takes for text what is text.

    Args:
        rows: as `table` gives them

    Examples:
        >>> csv_text([{"student": "anna", "name": "=1+1", "total": 3.0}])
        "student,name,total\\r\\nanna,'=1+1,3\\r\\n"
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]) if rows else ["student"])
    writer.writeheader()
    writer.writerows({key: _field(value) for key, value in row.items()} for row in rows)
    return file.getvalue()


def _field(value):
    if isinstance(value, float):
        return f"{value:g}"
    # A spreadsheet would take it for a formula.
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def export(folder: Folder, assignment: Assignment) -> tuple[Any, list[dict[str, Any]]]:
    """Write the table into grades/NN-name.csv; return its path and its rows.

    Args:
        folder: of the course
        assignment: as `source.read` gives it
    """
    rows = table(folder, assignment)
    path = folder.path / "grades" / f"{assignment.slug}.csv"
    write_whole(path, "\ufeff" + csv_text(rows))  # the mark by which spreadsheets know UTF-8
    return path, rows
