"""The appendix "Notes on the sources" balances: each note has its test, each test its note, in the same chapter.

The tests themselves are in ``tests/sources/test_NN_name.py``, one file for each chapter.
"""

import re
from pathlib import Path

import pytest
from support import ROOT

APPENDIX = ROOT / "book/appendices/sources.md"
SECTION = re.compile(r"^## Chapter (\d+)\b.*$", re.M)
LINK = re.compile(r"\{source\}`(\w+) <([\w./-]+)>`")


def sections(text: str) -> dict[str, str]:
    """The text below each heading "## Chapter N", by the number in two digits."""
    _, *parts = SECTION.split(text)
    return {number.zfill(2): body for number, body in zip(parts[::2], parts[1::2], strict=True)}


def notes(section: str) -> list[str]:
    """The notes of a section: each begins with its title in bold and goes on to the next."""
    return re.split(r"^(?=\*\*)", section, flags=re.M)[1:]


def problems(text: str, root: Path) -> list[str]:
    """What keeps notes and tests from balancing, a sentence for each."""
    lines, linked = [], []
    for chapter, section in sections(text).items():
        if not notes(section):
            lines.append(f"chapter {chapter}: the section holds no note")
        for note in notes(section):
            title, links = note.splitlines()[0][:60], LINK.findall(note)
            linked += links
            if len(links) != 1:
                lines.append(f"chapter {chapter}: the note {title!r} names {len(links)} tests; it should name one")
            for name, file in links:
                if not re.fullmatch(rf"tests/sources/test_{chapter}_\w+\.py", file):
                    lines.append(f"chapter {chapter}: {name} is in {file}, not in a file of its chapter")
    outside = SECTION.split(text)[0]
    lines += [f"{name} stands before the first chapter" for name, _ in LINK.findall(outside)]
    defined = [
        (name, file.relative_to(root).as_posix())
        for file in sorted((root / "tests/sources").glob("*.py"))
        for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.M)
    ]
    lines += [f"{file}: {name} has no note" for name, file in defined if (name, file) not in linked]
    lines += [f"{name} is not in {file}" for name, file in linked if (name, file) not in defined]
    lines += [f"{name} has two notes" for name, file in set(linked) if linked.count((name, file)) > 1]
    return lines


def test_every_note_has_its_test_and_every_test_its_note():
    found = problems(APPENDIX.read_text(encoding="utf-8"), ROOT)
    assert not found, "\n".join(found)


def test_there_is_a_section_for_each_chapter():
    chapters = [path.stem[:2] for path in sorted((ROOT / "book").glob("[0-9][0-9]-*.md"))]
    assert sorted(sections(APPENDIX.read_text(encoding="utf-8"))) == chapters


GOOD = "Words.\n\n## Chapter 1, of sums\n\n**A slip.** Wrong.\n{source}`test_a <tests/sources/test_01_sums.py>`\n"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("", "", None),
        ("{source}`test_a <tests/sources/test_01_sums.py>`", "", "names 0 tests"),
        ("test_a <", "test_b <", "test_a has no note"),
        ("test_a <", "test_b <", "test_b is not in tests/sources/test_01_sums.py"),
        ("Chapter 1", "Chapter 2", "chapter 02: test_a is in tests/sources/test_01_sums.py"),
        ("**A slip.**", "A slip.", "holds no note"),
        ("## Chapter 1, of sums\n\n**A slip.**", "", "test_a stands before the first chapter"),
        ("Wrong.\n", "Wrong.\n{source}`test_a <tests/sources/test_01_sums.py>`\n", "test_a has two notes"),
    ],
)
def test_what_does_not_balance_is_found(tmp_path, old, new, complaint):
    (tmp_path / "tests/sources").mkdir(parents=True)
    (tmp_path / "tests/sources/test_01_sums.py").write_text("def test_a():\n    assert True\n")
    found = problems(GOOD.replace(old, new, 1), tmp_path)
    assert any(complaint in line for line in found) if complaint else not found
