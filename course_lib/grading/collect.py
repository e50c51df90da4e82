"""Takes in what the students handed in, as a learning platform exports it: a folder or a zip with files of any names.

Whose a file is, its path says: Moodle, Canvas and Blackboard have forms of their own; otherwise a folder or a file for
each student. Nothing of a file's name is used as a path, no link is followed, and files are bytes, never run.
"""

import csv
import hashlib
import io
import os
import re
import stat
import time
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

from course_lib.grading.folder import CourseError, Folder, order, read_json, write_whole
from course_lib.grading.submission import LARGEST_FILE

__all__ = ["Found", "collect", "find", "read_students", "student_name", "whose"]

MOST_FILES = 20_000
# How learning platforms name what they export. `student` is what tells one student from another.
FORMS = {
    "moodle": r"(?:.*/)?(?P<student>[^/]+?_\d+)_assignsubmission_(?:file|onlinetext)_?",
    "blackboard": r"(?:.*/)?[^/]*_(?P<student>[^_/]+)_attempt_(?P<time>\d{4}(?:-\d\d){5})",
    "canvas": r"(?:.*/)?(?P<student>[^_/]+)(?:_LATE)?_(?P<number>\d{2,})_\d{2,}_[^/]+",
}
SKIPPED = {"__MACOSX", ".ipynb_checkpoints", "desktop.ini", "Thumbs.db", ".DS_Store"}
ATTEMPT = re.compile(
    r"(?i)[ _-]*(?:\((\d{1,3})\)|(?:attempt|versuch|version|copy|kopie|v)[ _-]*(\d{0,3}))$|-(\d{1,2})$"
)


@dataclass(frozen=True)
class Found:
    """A file that was handed in: where it was found, when it was made, its bytes (None if they were not taken)."""

    path: str
    time: float
    data: bytes | None
    why: str = ""  # it has no bytes


# Whose


def whose(path: str, slug: str, pattern: str | None = None, folders: bool = False) -> tuple[str, float | None] | None:
    """Whose a file is, and when it was handed in if its name says so; None if nothing can be said.

    Args:
        path: in the folder or zip, with "/"
        slug: of the assignment
        pattern: a regular expression with a group `student`, instead of the known forms
        folders: whether each student has a folder

    Examples:
        >>> whose("Anna Berg_1234_assignsubmission_file_/exercise.ipynb", "02-gaussian-kl")[0]
        'Anna Berg_1234'
        >>> whose("bergannalena_LATE_5678_91011_exercise-2.ipynb", "02-gaussian-kl")[0]
        'bergannalena_5678'
        >>> whose("02-gaussian-kl_anna (2).ipynb", "02-gaussian-kl")
        ('anna', None)
    """
    for form in [pattern] if pattern else FORMS.values():
        found = re.match(form, path)
        if found is not None and found["student"]:
            named = found.groupdict()
            at = named.get("time")
            when = time.mktime(time.strptime(at, "%Y-%m-%d-%H-%M-%S")) if at else None
            return named["student"] + (f"_{named['number']}" if named.get("number") else ""), when
    if pattern:
        return None
    parts = PurePosixPath(path).parts
    if folders and len(parts) > 1:
        return parts[0], None
    stem = re.sub(r"(?i)(\.ipynb|\.json|\.txt|\.zip)+$", "", parts[-1])
    stem = re.sub(rf"(?i)[ _-]*{re.escape(slug)}[ _-]*", " ", stem).strip(" _-")
    stem = ATTEMPT.sub("", stem).strip(" _-")
    return (stem, None) if stem else None


def student_name(key: str) -> str:
    """A name that can be a file's, a folder's and a cell's of a table.

    Examples:
        >>> student_name("Anna Berg_1234"), student_name("../etc/passwd"), student_name("=1+1")
        ('Anna-Berg_1234', 'etc-passwd', '1-1')
    """
    key = unicodedata.normalize("NFC", key)
    name = re.sub(r"[^\w.@]+", "-", key).strip("-._@")
    if (name != key.strip() and not re.fullmatch(r"[\w .,'@()-]*", key)) or len(name) > 80 or not name:
        tail = hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:6]
        if len(name) > 80 or not name:
            name = f"{name[:70] or 'student'}-{tail}"
    return name


# The files


def find(path: Path) -> Iterator[Found]:
    """The files of a folder or a zip, also of zips in it.

    Args:
        path: of the folder, the zip, or a single file

    Raises:
        CourseError: there is nothing there
    """
    if not path.exists():
        raise CourseError(f"{path} does not exist.")
    for count, one in enumerate(_walk(path)):
        if count == MOST_FILES:
            raise CourseError(f"{path} holds more than {MOST_FILES:,} files; give the folder of one assignment.")
        yield one


def _walk(path):
    if path.is_dir():
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(x for x in folders if x not in SKIPPED and not x.startswith("."))
            for name in sorted(names):
                if name not in SKIPPED and not name.startswith("."):
                    whole = Path(folder) / name
                    shown = whole.relative_to(path).as_posix().encode("utf-8", "replace").decode("utf-8")
                    yield from _unzipped(_file(whole, shown))
    else:
        yield from _unzipped(_file(path, path.name), inside=False)


def _file(path, shown):
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            return Found(shown, status.st_mtime, None, "It is a link, or no ordinary file.")
        if status.st_size > LARGEST_FILE and not zipfile.is_zipfile(path):
            return Found(shown, status.st_mtime, None, f"The file is larger than {LARGEST_FILE // 1_000_000} MB.")
        return Found(shown, status.st_mtime, path.read_bytes())
    except OSError as error:
        return Found(shown, 0.0, None, f"The file cannot be read: {error.strerror}.")


def _unzipped(found, depth=0, inside=True):
    """A zip is replaced by what is in it; one that cannot be opened stays what it is."""
    if found.data is None or found.data[:4] != b"PK\x03\x04" or depth > 1:
        yield found
        return
    before = found.path.rsplit(".", 1)[0] + "/" if inside else ""
    try:
        with zipfile.ZipFile(io.BytesIO(found.data)) as archive:
            members = [one for one in archive.infolist() if not one.is_dir() and _wanted(one.filename)]
            for one in members[:MOST_FILES]:
                yield from _unzipped(_member(archive, one, before), depth + 1)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, RuntimeError, OSError):
        yield Found(found.path, found.time, found.data)


def _wanted(name):
    parts = name.replace("\\", "/").split("/")
    return not any(part in SKIPPED or part.startswith("._") for part in parts)


def _member(archive, one, before):
    path = before + "/".join(part for part in one.filename.replace("\\", "/").split("/") if part not in ("", ".", ".."))
    try:
        when = time.mktime((*one.date_time, 0, 0, -1))
    except (ValueError, OverflowError):
        when = 0.0
    if one.file_size > LARGEST_FILE:
        return Found(path, when, None, f"The file is larger than {LARGEST_FILE // 1_000_000} MB.")
    try:
        with archive.open(one) as file:  # never more than that, whatever its size is said to be
            data = file.read(LARGEST_FILE + 1)
    except Exception as error:  # a damaged or encrypted member: of many kinds
        return Found(path, when, None, f"It could not be taken out of the zip ({type(error).__name__}).")
    if len(data) > LARGEST_FILE:
        return Found(path, when, None, f"The file is larger than {LARGEST_FILE // 1_000_000} MB.")
    return Found(path, when, data)


def _is_notebook(found):
    return found.data is not None and found.path.lower().endswith((".ipynb", ".ipynb.txt", ".ipynb.json", ".json"))


# The collection


def collect(
    folder: Folder, slug: str, paths: list[Path], pattern: str | None = None, names: dict[str, str] | None = None
) -> dict[str, list]:
    """Take files in; return `new` and `known` (pairs of student and path) and `nobody` (paths).

    A file that is there already is not taken twice. Of several attempts of a student the last one counts.

    Args:
        folder: of the course
        slug: of the assignment
        paths: folders, zips or files
        pattern: a regular expression with a group `student`, instead of the known forms
        names: ids of students by what their names may look like, as `read_students` gives them
    """
    report: dict[str, list] = {"new": [], "known": [], "nobody": []}
    index = read_json(folder.index(slug), {"keys": {}, "attempts": {}})
    for path in paths:
        found = _without_wrapper(list(find(Path(path))))
        folders = sum("/" in one.path for one in found) > len(found) / 2
        for one in found:
            said = whose(one.path, slug, pattern, folders)
            if said is None:
                report["nobody"].append(one.path)
                continue
            key, when = said
            student = _student(index, key, names or {})
            record = _take(folder, slug, index, student, one, when)
            report["known" if record is None else "new"].append((student, one.path))
    write_whole(folder.index(slug), json_text(index))
    return report


def json_text(value) -> str:
    """JSON that a person can read.

    Examples:
        >>> json_text({"a": 1})
        '{\\n "a": 1\\n}\\n'
    """
    import json

    return json.dumps(value, indent=1, ensure_ascii=True) + "\n"


def _without_wrapper(found):
    """Without the one folder in which everything lies, unless it may be the folder of one student."""
    tops = {one.path.split("/")[0] for one in found}
    if len(found) < 2 or len(tops) != 1 or not all("/" in one.path for one in found):
        return found
    if any(re.match(form, one.path) for one in found[:1] for form in FORMS.values()):
        return found
    return [Found(one.path.split("/", 1)[1], one.time, one.data, one.why) for one in found]


def _student(index, key, names):
    keys = index["keys"]
    if key not in keys:
        by_list = names.get(_plain_name(key)) or next(
            (names[part] for part in map(_plain_name, re.split(r"[_/]", key)) if part in names), None
        )
        name = by_list or student_name(key)
        others = {other.casefold() for k, other in keys.items() if k != key and other != by_list}
        if by_list is None and name.casefold() in others:  # another student, whose name looks the same as a file's
            name = f"{name}-{hashlib.sha256(key.encode('utf-8', 'replace')).hexdigest()[:6]}"
        keys[key] = name
    return keys[key]


def _plain_name(name):
    """The words of a name in order of the alphabet, so that "Berg, Anna" is "anna berg"."""
    return " ".join(sorted(re.findall(r"\w+", unicodedata.normalize("NFKC", name).casefold().replace("_", " "))))


def _take(folder, slug, index, student, found, when):
    attempts = index["attempts"].setdefault(student, [])
    digest = hashlib.sha256(found.data if found.data is not None else found.why.encode()).hexdigest()
    if any(one["digest"] == digest and one["path"] == found.path for one in attempts):
        return None
    name = None
    if found.data is not None:
        name = f"{student}/{len(attempts) + 1:03}-{digest[:12]}"
        target = folder.collected(slug) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.new")
        temporary.write_bytes(found.data)
        os.replace(temporary, target)
    record = {
        "file": name,
        "path": found.path,
        "time": found.time if when is None else when,
        "digest": digest,
        "why": found.why,
        "notebook": _is_notebook(found),
    }
    attempts.append(record)
    return record


def chosen(index: dict, student: str) -> dict:
    """The attempt that counts: the last notebook, or the last file if there is no notebook.

    Args:
        index: of an assignment
        student: as it is named there
    """
    attempts = list(enumerate(index["attempts"][student]))
    notebooks = [(i, one) for i, one in attempts if one["notebook"]]
    return max(
        notebooks or attempts, key=lambda pair: (pair[1]["time"], order(pair[1]["path"].rpartition(".")[0]), pair[0])
    )[1]


# The list of students


def read_students(path: Path) -> list[dict[str, str]]:
    """The students of a table (CSV) with a column `id` and, if you like, `name` and `email`.

    Args:
        path: of the table

    Raises:
        CourseError: it cannot be read, has no such column, or an id cannot be one
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CourseError(f"{path} cannot be read as a table in UTF-8: {error}") from None
    dialect = csv.excel if "," in text.partition("\n")[0] else csv.excel_tab
    dialect = type("semicolons", (csv.excel,), {"delimiter": ";"}) if ";" in text.partition("\n")[0] else dialect
    rows = [
        {key.strip().lower(): (value or "").strip() for key, value in row.items() if isinstance(key, str)}
        for row in csv.DictReader(io.StringIO(text), dialect=dialect)
    ]
    if not rows or "id" not in rows[0]:
        raise CourseError(f"{path} has no column `id`: its first line must name the columns, such as id,name,email")
    for row in rows:
        if student_name(row["id"]) != row["id"]:
            raise CourseError(f"{path}: the id {row['id']!r} may hold letters, digits, '-', '_', '.' and '@' only")
    return rows


def names_of(students: list[dict[str, str]]) -> dict[str, str]:
    """The ids by all that a student may be called in the name of a file: id, name, e-mail. What fits two is left out.

    Args:
        students: as `read_students` gives them

    Examples:
        >>> names_of([{"id": "ab12", "name": "Berg, Anna"}])
        {'ab12': 'ab12', 'anna berg': 'ab12'}
    """
    found: dict[str, str | None] = {}
    for row in students:
        for text in {row["id"], row.get("name", ""), row.get("email", ""), row.get("email", "").partition("@")[0]}:
            if key := _plain_name(text):
                found[key] = row["id"] if found.get(key, row["id"]) == row["id"] else None
    return {key: name for key, name in sorted(found.items()) if name is not None}


def as_time(text: str) -> datetime:
    """A date and time, "2026-11-30 23:59", of this computer's time zone unless it names another.

    Args:
        text: in the form of ISO 8601

    Raises:
        CourseError: it is no date

    Examples:
        >>> as_time("2026-11-30 23:59+01:00").isoformat()
        '2026-11-30T23:59:00+01:00'
    """
    try:
        return datetime.fromisoformat(text).astimezone() if "+" not in text[10:] else datetime.fromisoformat(text)
    except ValueError:
        raise CourseError(f"{text!r} is no date: write it like 2026-11-30 23:59") from None
