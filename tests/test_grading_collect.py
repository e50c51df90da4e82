"""What students hand in: whose a file is, which attempt counts, and what of a notebook is believed."""

import base64
import io
import json
import os
import zipfile
from pathlib import Path

import pytest
from grading_course import ADD, SLUG, SOURCE, TOTAL, handed_in, named

from course_lib.grading import collect, release, source, submission
from course_lib.grading.collect import chosen, names_of, read_students, student_name, whose
from course_lib.grading.folder import CourseError, Folder, order, read_json, write_whole
from course_lib.grading.submission import Unreadable, harmless, read_cells, rebuild


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "grading")


def taken(folder, *paths, **options):
    report = collect.collect(folder, SLUG, list(paths), **options)
    return report, read_json(folder.index(SLUG))


def zipped(files, path=None):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            info = zipfile.ZipInfo(name, date_time=(2026, 11, 2, 12, 0, 0))
            archive.writestr(info, text)
    if path is not None:
        path.write_bytes(data.getvalue())
    return data.getvalue()


# Whose a file is


@pytest.mark.parametrize(
    ("path", "student"),
    [
        ("Anna Berg_1234_assignsubmission_file_/02-x.ipynb", "Anna Berg_1234"),
        ("Anna Berg_1234_assignsubmission_file_02-x.ipynb", "Anna Berg_1234"),
        ("export/Anna Berg_1234_assignsubmission_file_/02-x.ipynb", "Anna Berg_1234"),
        ("berganna_5678_91011_02-x.ipynb", "berganna_5678"),
        ("berganna_LATE_5678_91011_02-x-1.ipynb", "berganna_5678"),
        ("Week 1_ab12cd_attempt_2026-11-01-12-00-00_02-x.ipynb", "ab12cd"),
        ("anna.ipynb", "anna"),
        ("anna (2).ipynb", "anna"),
        ("anna_v2.ipynb", "anna"),
        ("anna-copy.ipynb", "anna"),
        ("01-sums_anna.ipynb", "anna"),
        ("anna-01-sums.ipynb", "anna"),
        ("anna.ipynb.txt", "anna"),
        ("Ä Ö_ü.ipynb", "Ä Ö_ü"),
    ],
)
def test_the_path_says_whose_a_file_is(path, student):
    assert whose(path, SLUG)[0] == student


def test_a_folder_for_each_student_and_a_pattern():
    assert whose("anna/final version.ipynb", SLUG, folders=True)[0] == "anna"
    assert whose("group7/x-anna.ipynb", SLUG, pattern=r".*-(?P<student>\w+)")[0] == "anna"
    assert whose("x.ipynb", SLUG, pattern=r".*-(?P<student>\w+)") is None
    assert whose("01-sums.ipynb", SLUG) is None  # nobody's name
    assert whose("a_ab12_attempt_2026-11-01-12-00-00_x.ipynb", SLUG)[1] is not None


@pytest.mark.parametrize(
    ("key", "name"),
    [("anna", "anna"), ("a/b", None), ("../../etc", None), ("=cmd()", None), ("-x", None), (".hidden", None),
     ("a\nb\x1b[2J", None), ("x" * 500, None), ("", None), ("💣", None), ("a@b.org", "a@b.org")],
)  # fmt: skip
def test_a_name_is_safe_as_a_file_and_in_a_table(key, name):
    made = student_name(key)
    assert name is None or made == name
    assert 0 < len(made) <= 80
    assert made[0] not in ".-=+@"
    assert not set(made) & set("/\\\n\x1b*?\"'<>|:;,")
    assert student_name(made) == made


def test_two_students_whose_names_look_alike_stay_two(folder, tmp_path):
    _, index = taken(folder, Path(_write(tmp_path / "in", {"a b.ipynb": "1", "a-b.ipynb": "2", "A;b.ipynb": "3"})))
    assert len(index["attempts"]) == 3
    assert len({name.casefold() for name in index["attempts"]}) == 3


def _write(path, files):
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return path


# Taking in


def test_of_several_attempts_the_last_counts(folder, tmp_path):
    files = _write(
        tmp_path / "in", {"anna.ipynb": "1", "anna (2).ipynb": "2", "anna (10).ipynb": "3", "ben.ipynb": "4"}
    )
    for name in os.listdir(files):
        os.utime(files / name, (1e9, 1e9))
    report, index = taken(folder, files)
    assert len(report["new"]) == 4
    assert chosen(index, "anna")["path"] == "anna (10).ipynb"  # at the same time: by the number
    os.utime(files / "anna.ipynb", (2e9, 2e9))
    (files / "anna.ipynb").write_text("newer")
    os.utime(files / "anna.ipynb", (2e9, 2e9))
    report, index = taken(folder, files)
    assert (len(report["new"]), len(report["known"])) == (1, 3)
    assert chosen(index, "anna")["time"] == 2e9
    assert (folder.collected(SLUG) / chosen(index, "anna")["file"]).read_text() == "newer"


def test_collecting_twice_changes_nothing(folder, tmp_path):
    path = tmp_path / "all.zip"
    zipped({"Anna Berg_12_assignsubmission_file_/x.ipynb": "1", "Ben Oz_13_assignsubmission_file_/x.ipynb": "2"}, path)
    _, first = taken(folder, path)
    report, second = taken(folder, path)
    assert first == second
    assert len(report["known"]) == 2
    assert sorted(first["attempts"]) == ["Anna-Berg_12", "Ben-Oz_13"]


def test_a_notebook_counts_before_other_files(folder, tmp_path):
    files = _write(tmp_path / "in", {"anna/x.ipynb": "1", "anna/zz.pdf": "2", "ben/report.pdf": "3"})
    _, index = taken(folder, files)
    assert chosen(index, "anna")["path"] == "anna/x.ipynb"
    assert chosen(index, "ben")["notebook"] is False


def test_wrappers_and_zips_in_zips(folder, tmp_path):
    inner = zipped({"work/x.ipynb": "inner"})
    zipped({"Week 1/anna/hand in.zip": inner, "Week 1/ben/x.ipynb": "b", "__MACOSX/._x": "no"}, tmp_path / "a.zip")
    _, index = taken(folder, tmp_path / "a.zip")
    assert sorted(index["attempts"]) == ["anna", "ben"]
    assert (folder.collected(SLUG) / chosen(index, "anna")["file"]).read_text() == "inner"


def test_hostile_archives_harm_nobody(folder, tmp_path):
    data = bytearray(zipped({
        "../../outside.ipynb": "1", "/absolute.ipynb": "2", "a\\..\\windows.ipynb": "3",
        "bomb.ipynb": b"0" * 30_000_000,
        "good.ipynb": "5", "nested.zip": zipped({"x.zip": zipped({"y.zip": zipped({"z.ipynb": "6"})})}),
    }))  # fmt: skip
    (tmp_path / "a.zip").write_bytes(data)
    before = {path for path in tmp_path.rglob("*") if folder.path not in path.parents}
    _, index = taken(folder, tmp_path / "a.zip")
    assert {path for path in tmp_path.rglob("*") if folder.path not in path.parents} - {folder.path} == before
    bomb = chosen(index, "bomb")
    assert bomb["file"] is None
    assert "larger than 25 MB" in bomb["why"]
    assert chosen(index, "good")["file"]
    (tmp_path / "broken.zip").write_bytes(bytes(data[: len(data) // 2]))
    assert taken(folder, tmp_path / "broken.zip")[1]["attempts"]["broken"][0]["notebook"] is False


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_links_and_pipes_are_not_followed(folder, tmp_path):
    files = _write(tmp_path / "in", {"good.ipynb": "1"})
    (tmp_path / "secret").write_text("the seed")
    (files / "link.ipynb").symlink_to(tmp_path / "secret")
    os.mkfifo(files / "pipe.ipynb")
    with (files / "huge.ipynb").open("wb") as file:
        file.truncate(10**9)
    _, index = taken(folder, files)
    for name in ("link", "pipe", "huge"):
        assert chosen(index, name)["file"] is None
    assert not any("the seed" in path.read_text() for path in folder.path.rglob("*") if path.is_file())
    for name in ("link", "pipe", "huge"):
        with pytest.raises(Unreadable):
            read_cells(files / f"{name}.ipynb")


def test_the_table_of_students_tells_who_is_who(tmp_path, folder):
    (tmp_path / "s.csv").write_text("id;Name;email\nab12;Berg, Anna;anna@x.org\ncd34;Ben Oz;ben@x.org\n")
    students = read_students(tmp_path / "s.csv")
    names = names_of(students)
    files = {"Anna Berg_77_assignsubmission_file_/x.ipynb": "1", "ben@x.org.ipynb": "2", "else.ipynb": "3"}
    zipped(files, tmp_path / "a.zip")
    _, index = taken(folder, tmp_path / "a.zip", names=names)
    assert sorted(index["attempts"]) == ["ab12", "cd34", "else"]
    (tmp_path / "s.csv").write_text("name\nAnna\n")
    with pytest.raises(CourseError, match="has no column `id`"):
        read_students(tmp_path / "s.csv")
    (tmp_path / "s.csv").write_text("id\n../x\n")
    with pytest.raises(CourseError, match="may hold letters"):
        read_students(tmp_path / "s.csv")


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(CourseError, match="does not exist"):
        list(collect.find(tmp_path / "nothing"))


# What of a notebook is believed

RELEASE = release.student_notebook(source.reads(SOURCE, SLUG))
NAMES = [cell.metadata["nbgrader"]["grade_id"] for cell in RELEASE.cells]


def rebuilt(tmp_path, **options):
    path = tmp_path / "x.ipynb"
    path.write_text(handed_in(**options), encoding="utf-8")
    return rebuild(RELEASE, read_cells(path))


def parts_of(made):
    return {part.name: part.source for part in made.parts if part.name}


def test_an_honest_notebook_is_rebuilt_as_it_is(tmp_path):
    made = rebuilt(tmp_path, own=["y = 1"])
    assert [part.name for part in made.parts] == [*NAMES, None]
    assert parts_of(made)["answer-1-1"] == ADD
    assert made.answered
    assert made.notes == []
    assert not rebuilt(tmp_path, words=release.ANSWER_HERE).answered
    assert not rebuilt(tmp_path, words=" \n").answered


def test_edited_deleted_duplicated_and_unlocked_cells_change_nothing_of_the_tests(tmp_path):
    def change(cells):
        test = named(cells, "test-1-1a")
        test["source"] = "assert True"
        test["metadata"]["nbgrader"] |= {"points": 1000.0, "locked": False, "grade_id": "test-1-1a"}
        cells.remove(named(cells, "test-1-1b"))
        cells.append(json.loads(json.dumps(named(cells, "test-1-2a"))))
        cells.append(
            {"cell_type": "code", "source": "1", "metadata": {"nbgrader": {"grade_id": "test-9-9a", "grade": True}}}
        )

    made = rebuilt(tmp_path, change=change)
    assert [part.name for part in made.parts if part.name] == NAMES
    assert parts_of(made)["test-1-1a"] == release.PLACEHOLDER
    assert any("test-1-1a" in note and "original was taken" in note for note in made.notes)
    assert "test-1-1b is missing" in made.notes
    assert "test-1-2a is there more than once" in made.notes


def test_of_an_answer_that_is_there_twice_the_last_one_is_the_answer(tmp_path):
    def change(cells):
        cells.append(json.loads(json.dumps(named(cells, "answer-1-1"))) | {"source": "def add(a, b):\n    return 0"})

    made = rebuilt(tmp_path, change=change)
    assert parts_of(made)["answer-1-1"] == "def add(a, b):\n    return 0"
    assert [part.source for part in made.parts if part.name is None] == [ADD]


def test_a_notebook_that_lost_its_metadata_keeps_its_answers(tmp_path):
    def change(cells):
        for cell in cells:
            cell["metadata"] = {}

    made = rebuilt(tmp_path, change=change)  # the ids of the format are left
    assert parts_of(made)["answer-1-2"] == TOTAL

    def worse(cells):
        for cell in cells:
            cell["metadata"] = None
            cell.pop("id", None)

    made = rebuilt(tmp_path, change=worse)
    assert ADD in [part.source for part in made.parts if part.name is None]


def test_text_beside_the_written_answer_is_an_answer(tmp_path):
    def change(cells):
        place = cells.index(named(cells, "written-1-w"))
        cells.insert(place + 1, {"cell_type": "markdown", "source": ["My ", "reasons"], "metadata": {}})

    assert rebuilt(tmp_path, words=release.ANSWER_HERE, change=change).answered


def test_only_pictures_are_kept_of_attachments(tmp_path):
    picture = base64.b64encode(b"\x89PNG\r\n" + b"x" * 20).decode()

    def change(cells):
        named(cells, "written-1-w")["attachments"] = {
            "a.png": {"image/png": picture}, "b.png": {"image/png": "no base64"}, "c.svg": {"image/svg+xml": "<svg/>"},
            '"><script>.png': {"image/png": picture}, "d.png": {"image/png": base64.b64encode(b"<script>").decode()},
        }  # fmt: skip

    (part,) = [part for part in rebuilt(tmp_path, change=change).parts if part.name == "written-1-w"]
    assert part.attachments == {"a.png": {"image/png": picture}}


@pytest.mark.parametrize(
    "content",
    ["", " \n", "{", "[]", "null", '"x"', '{"cells": 3}', '{"cells": {}}', "[" * 100_000, '{"cells": [' + "1" * 10_000,
     '{"worksheets": []}', "\ufeff", b"\xff\xfe{\0}\0", b"PK\x03\x04", b"\x80", '{"cells": [' + "{}," * 3000 + "{}]}",
     json.dumps({"cells": [{"cell_type": "code", "source": "x" * 2_000_000}]})],
)  # fmt: skip
def test_what_is_no_notebook_is_said_to_be_unreadable(tmp_path, content):
    path = tmp_path / "x.ipynb"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(Unreadable, match=r"^[A-Z].*\.$"):
        read_cells(path)


@pytest.mark.parametrize(
    "cell",
    [None, 3, [], {}, {"cell_type": "code"}, {"cell_type": "code", "source": 3}, {"cell_type": ["code"]},
     {"cell_type": "code", "source": [1, "x = 1", None]}, {"cell_type": "code", "source": "x", "metadata": []},
     {"cell_type": "code", "source": "x", "metadata": {"nbgrader": []}}, {"cell_type": "raw", "source": "\ud800"},
     {"cell_type": "code", "source": "x", "metadata": {"nbgrader": {"grade_id": ["answer-1-1"]}}},
     {"cell_type": "markdown", "source": "x", "attachments": {"a": 3}, "id": 5},
     {"cell_type": "markdown", "source": "x", "metadata": {"nbgrader": {"grade_id": "answer-1-1"}}}],
)  # fmt: skip
def test_odd_cells_do_no_harm(tmp_path, cell):
    path = tmp_path / "x.ipynb"
    path.write_text(json.dumps({"cells": [cell]}))
    made = rebuild(RELEASE, read_cells(path))
    assert [part.name for part in made.parts if part.name] == NAMES
    assert "".join(part.source for part in made.parts).encode("utf-8")


def test_markdown_runs_nothing_in_the_browser_of_the_teacher():
    hostile = "<img src=x onerror=alert(1)> <!--\n</div> [a](javascript:alert(1)) &lt;script&gt; <svg/onload=x> $a < b$"
    made = harmless(hostile)
    assert "<img" not in made
    assert "</" not in made
    assert "<!" not in made
    assert "javascript:" not in made
    assert "$a < b$" in made


# Files


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a" / "x.json"
    write_whole(path, "first")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "second \ud800")
    assert path.read_text() == "first"
    assert [one.name for one in path.parent.iterdir()] == ["x.json"]
    path.write_text("{")
    assert read_json(path, "default") == "default"


def test_numbers_are_ordered_as_numbers():
    assert sorted(["x-10", "x-9", "x", "X-1"], key=order) == ["x", "X-1", "x-9", "x-10"]
    assert submission.is_check('check("1.1", f)')
