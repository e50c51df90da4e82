"""The folder of a course, in which the teacher's files lie: what is where, and how a file is written whole or not.

    nbgrader_config.py  settings.json  gradebook.db  students.csv
    source/NN-name/NN-name.ipynb                 with solutions and hidden tests
    release/NN-name/NN-name.ipynb                what the students get
    collected/NN-name/                           every file that was handed in, as it came, and index.json
    results/NN-name/STUDENT.json                 what the tests said
    submitted/ autograded/ feedback/ STUDENT/NN-name/    as nbgrader has them
    grades/NN-name.csv                           the table

It holds students' names and work. Keep it out of every repository and public place.
"""

import contextlib
import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["CourseError", "Folder", "read_json", "write_whole"]

CONFIG = '''"""nbgrader's settings, made by course_lib.grading. Start nbgrader's programs in this folder."""

c = get_config()  # noqa: F821
c.CourseDirectory.root = {root!r}
c.Exchange.root = {exchange!r}  # which is not used; nbgrader wants a folder that it can write to
# Nothing of a student runs in nbgrader: where it would execute a notebook, it takes what the tests in the sandbox said.
c.Autograde.autograde_preprocessors = [
    "course_lib.grading.gradebook.TakeResults",
    "nbgrader.preprocessors.LimitOutput",
    "nbgrader.preprocessors.SaveAutoGrades",
    "nbgrader.preprocessors.CheckCellMetadata",
]
'''


class CourseError(Exception):
    """What keeps a command from doing its work, and what to do."""


@dataclass(frozen=True)
class Folder:
    """The folder of a course.

    Examples:
        >>> Folder(Path("grading")).result("02-gaussian-kl", "anna").as_posix()
        'grading/results/02-gaussian-kl/anna.json'
    """

    path: Path

    @property
    def database(self) -> str:
        return f"sqlite:///{self.path.resolve() / 'gradebook.db'}"

    def collected(self, slug: str) -> Path:
        return self.path / "collected" / slug

    def index(self, slug: str) -> Path:
        return self.collected(slug) / "index.json"

    def result(self, slug: str, student: str) -> Path:
        return self.path / "results" / slug / f"{student}.json"

    def notebook(self, stage: str, slug: str, student: str) -> Path:
        """Where nbgrader has a student's notebook; the stage is submitted or autograded."""
        return self.path / stage / student / slug / f"{slug}.ipynb"

    def feedback(self, slug: str, student: str) -> Path:
        return self.path / "feedback" / student / slug / f"{slug}.html"

    def make(self) -> None:
        """Make the folder, for nobody else to read, and nbgrader's settings in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        if os.name == "posix" and not (self.path / "gradebook.db").exists():
            self.path.chmod(0o700)
        config = self.path / "nbgrader_config.py"
        root = str(self.path.resolve())
        if not config.exists():
            write_whole(config, CONFIG.format(root=root, exchange=str(self.path.resolve() / ".exchange")))
        text = config.read_text(encoding="utf-8")
        if "course_lib.grading.gradebook.TakeResults" not in text or repr(root) not in text:
            raise CourseError(
                f"{config} is not as this program wrote it, or the folder was moved. With other settings nbgrader"
                " could run students' code outside the sandbox. Delete the file; it is then written again."
            )
        (self.path / ".exchange").mkdir(exist_ok=True)
        ignore = self.path / ".gitignore"
        if not ignore.exists():
            write_whole(ignore, "*\n")

    def exists(self) -> bool:
        return (self.path / "nbgrader_config.py").exists()

    def settings(self, slug: str) -> dict[str, Any]:
        """Of an assignment: `per_day`, the percentage that each day costs that a notebook comes too late."""
        return read_json(self.path / "settings.json", {}).get(slug, {})

    def change_settings(self, slug: str, **changes: Any) -> None:
        everything = read_json(self.path / "settings.json", {})
        everything[slug] = everything.get(slug, {}) | changes
        write_whole(self.path / "settings.json", json.dumps(everything, indent=1))

    @contextlib.contextmanager
    def locked(self):
        """One program at a time; a lock goes with the process that holds it, however that ends."""
        with (self.path / ".lock").open("w") as file:
            try:
                import fcntl
            except ImportError:  # Windows, where there is no sandbox either
                yield
                return
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CourseError(f"Another command is at work in {self.path}. Wait for its end.") from None
            yield


def read_json(path: Path, default: Any = None) -> Any:
    """What a file of ours holds, or the default where there is none, or none that is whole.

    Args:
        path: of the file
        default: if it cannot be read

    Examples:
        >>> read_json(Path("nowhere.json"), {})
        {}
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return default


def write_whole(path: Path, text: str, sync: bool = True) -> None:
    """Write a file so that it is there whole, or as it was before, whenever this program stops.

    Args:
        path: of the file
        text: its new content
        sync: whether that holds also when the power fails, which takes longer
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".new")
    try:
        with os.fdopen(number, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def order(name: str) -> list:
    """A key by which "a 10" comes after "a 9".

    Examples:
        >>> sorted(["a 10", "a 9"], key=order)
        ['a 9', 'a 10']
    """
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d{1,9})", name.casefold())]
