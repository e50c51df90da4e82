"""A page for each student: points, what the tests said, comments. It holds no hidden test and no value of one.

The page needs nothing from the network. All text is escaped.
"""

from html import escape
from typing import Any

from course_lib.grading import export, gradebook
from course_lib.grading.folder import Folder, write_whole
from course_lib.grading.release import grade_id
from course_lib.grading.source import Assignment

__all__ = ["page", "write"]

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #ccc; vertical-align: top; }
td.points, th.points { text-align: right; white-space: nowrap; }
pre { background: #f4f4f4; padding: .75rem; overflow-x: auto; white-space: pre-wrap; }
.comment { border-left: 4px solid #06c; padding-left: .75rem; white-space: pre-wrap; }
.note { background: #fff4d6; padding: .5rem .75rem; }
"""


def write(folder: Folder, assignment: Assignment) -> list:
    """Write the page of each student whose notebook was graded; return the paths.

    Args:
        folder: of the course
        assignment: as `source.read` gives it
    """
    rows = {row["student"]: row for row in export.table(folder, assignment)}
    marks, results = gradebook.marks(folder, assignment), gradebook.results(folder, assignment.slug)
    paths = []
    for student, result in results.items():
        if student in marks and result["status"] != "not graded":
            path = folder.feedback(assignment.slug, student)
            write_whole(path, page(assignment, rows[student], marks[student], result))
            paths.append(path)
    return paths


def page(assignment: Assignment, row: dict[str, Any], marks: dict[str, Any], result: dict[str, Any]) -> str:
    """The HTML of a student's page.

    Args:
        assignment: as `source.read` gives it
        row: of the table
        marks: of the gradebook
        result: of the tests
    """
    sources = {part["name"]: part["source"] for part in result["parts"] if part["name"]}
    body = [
        f"<h1>{escape(assignment.title)}</h1>",
        f"<p>{escape(row['name'] or row['student'])}: <b>{row['after penalty']:g} of {assignment.points:g} points</b>"
        + (f" ({row['total']:g} before {row['late penalty']:g} for coming late)" if row["late penalty"] else "")
        + "</p>",
    ]
    if result["message"]:
        body.append(f"<p class='note'>{escape(result['message'])} Please ask your teacher.</p>")
    if row["to mark"]:
        body.append(f"<p class='note'>Still to be marked by a person: {escape(row['to mark'])}.</p>")
    body += _incidents(result)
    for one in assignment.exercises.values():
        body += _exercise(one, row, marks, result, sources)
    written, name = assignment.written, grade_id("written", assignment.written.id)
    pending = name in marks["to_mark"]
    points = "to be marked" if pending else f"{row[written.id]:g} of {written.points:g} points"
    body.append(f"<h2>{escape(written.id)} In words: {points}</h2>")
    body += [
        f"<pre>{escape(source)}</pre>" for source in gradebook._written_parts(result["parts"], name) if source.strip()
    ]
    if not result["answered"]:
        body.append("<p>There is no answer.</p>")
    body += _comment(marks, name)
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(assignment.title)}</title><style>{STYLE}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _incidents(result):
    if not result["incidents"]:
        return []
    seen = list(dict.fromkeys((one["place"], one["sentence"]) for one in result["incidents"]))[:20]
    items = "".join(f"<li>{escape(place)}: {escape(sentence)}</li>" for place, sentence in seen)
    return [f"<p>When your notebook ran:</p><ul>{items}</ul>"]


def _exercise(one, row, marks, result, sources):
    lines = [f"<h2>{escape(one.id)} {escape(one.title)}: {row[one.id]:g} of {one.points:g} points</h2>"]
    answer = sources.get(grade_id("answer", one.id), "")
    lines.append(f"<pre>{escape(answer)}</pre>" if answer.strip() else "<p>There is no answer.</p>")
    tests = {test["id"]: test for test in result["tests"]}
    cells = []
    for number, test in enumerate(one.tests, 1):
        name, said = (
            grade_id("hidden", test.id),
            tests.get(test.id, {"status": "not run", "sentence": "It did not run."}),
        )
        text = "passed" if said["status"] == "passed" else said["sentence"]
        if name in marks["by_hand"]:
            text = f"{text} (The points were set by a person.)"
        cells.append(
            f"<tr><td>test {number}</td><td>{escape(text)}</td>"
            f"<td class='points'>{marks['points'].get(name, 0):g} of {test.points:g}</td></tr>"
        )
    return [*lines, f"<table>{''.join(cells)}</table>", *_comment(marks, grade_id("answer", one.id))]


def _comment(marks, name):
    text = marks["comments"].get(name)
    return [f"<p class='comment'>{escape(text)}</p>"] if text else []
