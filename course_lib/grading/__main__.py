"""The teacher's commands, in the order in which they are used; ``python -m course_lib.grading --help``."""

import argparse
import contextlib
import json
import os
import sys
import time
from pathlib import Path

import course_lib
from course_lib.grading import source
from course_lib.grading.folder import CourseError, Folder, read_json, write_whole

DESCRIPTION = """\
Give out exercises, take in what students hand in, grade it safely, give marks and feedback back.

The way of an assignment, here that of chapter 2:

  python -m course_lib.grading release 2 --due "2026-11-30 23:59" --late 10
      Makes the students' notebook. Give them grading/release/02-gaussian-kl/02-gaussian-kl.ipynb,
      or the link in the book.
  python -m course_lib.grading collect 2 ~/Downloads/submissions.zip
      Takes in a folder or zip as Moodle, Canvas, Blackboard or anyone exports it. Again and again, if you like:
      of several attempts of a student the last one counts.
  python -m course_lib.grading grade 2
      Runs every notebook in a sandbox, and the hidden tests outside of it. May be killed, and started again.
  python -m course_lib.grading mark
      Opens nbgrader's formgrader in your browser: mark the written answers there, write comments.
  python -m course_lib.grading feedback 2
      A page (HTML) for each student, with points, what the tests said, and your comments.
  python -m course_lib.grading export 2
      The table: grading/grades/02-gaussian-kl.csv
  python -m course_lib.grading status
      Where everything stands, and what is to be done next.
"""

EPILOG = """\
Your files lie in the folder `grading` (another one: --folder). It holds students' names and work, so keep it out of
every repository. Hidden tests draw their inputs from a secret: put a word of your own into the environment variable
COURSE_LIB_SECRET, or its file's name into COURSE_LIB_SECRET_FILE, and keep it for the whole course.
Each command has its own --help.
"""

LAST = {
    "not graded": "the grader or the machine failed; run `grade` again",
    "unreadable": "no notebook could be read: ask for the file, collect it, grade again. It is no honest zero",
    "needs manual marking": "a written answer is to be marked: run `mark`",
    "graded": "done",
    "missing": "nothing was handed in",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return 0 if all went well, 1 if not, 2 if it was not understood.

    Args:
        arguments: of the command line
    """
    options = parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except (CourseError, source.SourceError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. What was done so far is kept; the same command goes on.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    raw = argparse.RawDescriptionHelpFormatter
    whole = argparse.ArgumentParser(
        "python -m course_lib.grading", description=DESCRIPTION, epilog=EPILOG, formatter_class=raw
    )
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name, run, short, long):
        one = commands.add_parser(
            name, help=short, description=f"{short[0].upper()}{short[1:]}.\n\n{long}", formatter_class=raw
        )
        one.set_defaults(run=run)
        one.add_argument("--folder", type=Path, default=Path("grading"), help="your course's folder (default: grading)")
        one.add_argument("--root", type=Path, help="the project with exercises/source (default: found)")
        return one

    one = command(
        "release",
        release_command,
        "make the students' notebooks from exercises/source",
        "Checks the source, writes book/exercises/NN-name.ipynb, the numbers of the public check\n"
        "(course_lib/_checks), and, where nbgrader is installed, the assignment into the gradebook.\n"
        "Release again after a correction: marks are kept, and `grade` runs the corrected tests.",
    )
    one.add_argument("assignments", nargs="*", metavar="ASSIGNMENT", help="2, or 02-gaussian-kl (default: all)")
    one.add_argument("--due", metavar="TIME", help='when it is due, "2026-11-30 23:59", in this computer\'s time')
    one.add_argument("--late", metavar="PERCENT", type=float, help="what each day too late costs, of the points earned")
    one.add_argument("--book-only", action="store_true", help="write nothing into the course's folder")

    one = command(
        "collect",
        collect_command,
        "take in what was handed in",
        "Takes a folder, a zip or single files, of any names. It knows the names of Moodle, Canvas and Blackboard;\n"
        "otherwise each student has a folder, or a file of that name (anna.ipynb, 02-gaussian-kl_anna.ipynb).\n"
        "Nothing is run. The files are kept as they came; collecting twice changes nothing.\n\n"
        "A table of students (CSV with a first line `id,name,email`) tells which file is whose, and who is missing.",
    )
    one.add_argument("assignment", metavar="ASSIGNMENT", help="2, or 02-gaussian-kl")
    one.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="folders, zips, files")
    one.add_argument("--students", type=Path, metavar="CSV", help="the table of students; kept for later")
    one.add_argument("--pattern", metavar="REGEX", help=r"whose a file is, from its path: '(?P<student>[^/]+)/.*'")

    one = command(
        "grade",
        grade_command,
        "run the tests on what was collected",
        "Each notebook runs in a sandbox (no network, nothing of yours to see, limits on time and memory); the hidden\n"
        "tests run outside of it. Only what has no result yet is run: new attempts, corrected tests, another secret.\n"
        "Marks and comments of persons are kept. Needs bubblewrap (apt install bubblewrap) on Linux.",
    )
    one.add_argument(
        "assignments", nargs="*", metavar="ASSIGNMENT", help="2, or 02-gaussian-kl (default: all collected)"
    )
    one.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time (default: one a processor)"
    )
    one.add_argument("--regrade", action="store_true", help="run the tests again on everything; manual marks are kept")
    one.add_argument("--unsafe-no-sandbox", action="store_true", help="run students' code as you, unprotected. Do not.")

    one = command(
        "mark",
        mark_command,
        "open nbgrader's formgrader to mark by hand",
        "Starts Jupyter in the course's folder and shows formgrader: gradebook, assignment, notebook, one answer\n"
        "after the other. Give points for the written answer, write comments, correct a mark of a test if you must.\n"
        "Stop it with Ctrl-C. Marks are in the gradebook at once.",
    )
    one.add_argument("--no-browser", action="store_true", help="print the address and open nothing")

    one = command(
        "feedback",
        feedback_command,
        "write a page for each student",
        "grading/feedback/STUDENT/NN-name/NN-name.html: points, what each test said in words, comments. It holds no\n"
        "hidden test and none of its values. Written again each time, so run it when the marking is done.",
    )
    one.add_argument(
        "assignments", nargs="*", metavar="ASSIGNMENT", help="2, or 02-gaussian-kl (default: all collected)"
    )

    statuses = "\n".join(f"  {name:<22}{text}" for name, text in LAST.items())
    one = command(
        "export",
        export_command,
        "write the table of marks (CSV)",
        "One line for each student: points of each exercise, total, late penalty, status, what is to be marked.\n"
        f"The status is one of\n{statuses}\n  timed out, crashed     graded, and some part ended so: see the remarks",
    )
    one.add_argument(
        "assignments", nargs="*", metavar="ASSIGNMENT", help="2, or 02-gaussian-kl (default: all collected)"
    )
    one.add_argument("--output", type=Path, help="another file, or - to print the table")

    one = command(
        "status",
        status_command,
        "show where everything stands",
        "Without a student: how many have which status. With one: what each test said, with values. Not for students.",
    )
    one.add_argument("assignments", nargs="*", metavar="ASSIGNMENT", help="2, or 02-gaussian-kl (default: all)")
    one.add_argument("--student", help="show this student's tests")
    return whole


# What the commands share


def find_root(given: Path | None) -> Path:
    """The project: where exercises/source lies.

    Args:
        given: by the user, or None
    """
    places = [given] if given else [Path.cwd(), *Path.cwd().parents, Path(course_lib.__file__).parents[1]]
    for place in places:
        if (place / "exercises" / "source").is_dir():
            return place.resolve()
    raise CourseError("There is no folder exercises/source here: change into the project, or give it by --root.")


def assignments(options, names, only_collected=False):
    """Pairs of an assignment and its release, of those that were named."""
    root, folder = find_root(options.root), Folder(options.folder)
    paths = {path.stem: path for path in source.find(root)}
    chosen = [_named(name, paths) for name in names] or list(paths)
    if only_collected and not names:
        chosen = [slug for slug in chosen if folder.index(slug).exists()]
        if not chosen:
            raise CourseError("Nothing was collected yet: run `collect`.")
    return [source.read(paths[slug]) for slug in chosen]


def _named(name, paths):
    fits = [slug for slug in paths if slug == name or (name.isdigit() and int(slug[:2]) == int(name))]
    if not fits:
        raise CourseError(f"There is no assignment {name!r}. There are: {', '.join(paths) or 'none'}.")
    return fits[0]


def notebook(assignment):
    """The students' notebook, with the macros written out."""
    from course_lib.grading import release

    root = assignment.path.parents[3]
    return release.student_notebook(assignment, None, release.book_macros(root))


def _course(options):
    folder = Folder(options.folder)
    if not folder.exists():
        raise CourseError(f"{options.folder} is no course's folder: run `release` first, or give it by --folder.")
    folder.make()
    return folder


# The commands


def release_command(options):
    from importlib.util import find_spec

    from course_lib.grading import collect, gradebook, release

    root, folder = find_root(options.root), Folder(options.folder)
    due = collect.as_time(options.due) if options.due else None
    if options.late is not None and not 0 <= options.late <= 100:
        raise CourseError("--late is a percentage, from 0 to 100.")
    with_course, macros = not options.book_only, release.book_macros(root)
    if with_course and find_spec("nbgrader") is None:
        raise CourseError("nbgrader is not installed: run `pip install course_lib[grading]`, or use --book-only.")
    for assignment in assignments(options, options.assignments):
        for path in release.write(assignment, root):
            print(f"wrote {path}")
        if not with_course:
            continue
        folder.make()
        with folder.locked():
            import nbformat

            made = release.student_notebook(assignment, None, macros)
            colab = release.colab_cell(root, assignment.slug)
            student = release.student_notebook(assignment, colab, macros)
            teacher = release.instructor_notebook(assignment, colab, macros)
            gradebook.define(folder, assignment, made)
            for stage, one in (("source", teacher), ("release", student)):
                path = folder.path / stage / assignment.slug / f"{assignment.slug}.ipynb"
                write_whole(path, nbformat.writes(one) + "\n")
                print(f"wrote {path}")
            if due is not None:
                gradebook.set_due(folder, assignment.slug, due)
            if options.late is not None:
                folder.change_settings(assignment.slug, per_day=options.late)
    if with_course and not os.environ.get("COURSE_LIB_SECRET") and not os.environ.get("COURSE_LIB_SECRET_FILE"):
        print(
            "Note: no secret is set, so hidden tests draw the inputs that anyone can compute. See --help.",
            file=sys.stderr,
        )
    return 0


def collect_command(options):
    from course_lib.grading import collect, gradebook

    folder = _course(options)
    (assignment,) = assignments(options, [options.assignment])
    listed = folder.path / "students.json"
    with folder.locked():
        if options.students:
            write_whole(listed, json.dumps(collect.read_students(options.students), indent=1))
        names = collect.names_of(read_json(listed, []))
        gradebook.define(folder, assignment, notebook(assignment))  # it may never have been released into this folder
        report = collect.collect(folder, assignment.slug, options.paths, options.pattern, names)
        index = read_json(folder.index(assignment.slug))
    print(f"{len(report['new'])} new files, {len(report['known'])} that were here already.")
    for student, path in report["new"]:
        last = collect.chosen(index, student)["path"] == path
        print(f"  {student}: {path}" + ("" if last else " (an attempt that does not count: a later one is there)"))
    for path in report["nobody"]:
        print(f"Nobody's: {path}. Rename it, or say by --pattern whose it is.", file=sys.stderr)
    unknown = sorted(set(index["attempts"]) - {row["id"] for row in read_json(listed, [])})
    if read_json(listed) and unknown:
        print(f"Not in the table of students: {', '.join(unknown)}", file=sys.stderr)
    print(f"{len(index['attempts'])} students have handed in {assignment.slug}.")
    return 1 if report["nobody"] else 0


def grade_command(options):
    from course_lib.grading import grade, gradebook

    folder = _course(options)
    if options.jobs < 1:
        raise CourseError("--jobs must be at least 1.")
    failed = 0
    for assignment in assignments(options, options.assignments, only_collected=True):
        started = time.monotonic()
        with folder.locked():
            counts = grade.run(
                folder, assignment, options.jobs, unsafe=options.unsafe_no_sandbox, again=options.regrade
            )
            made = notebook(assignment)
            gradebook.define(folder, assignment, made)
            fed = gradebook.feed(folder, assignment, made)
        done = sum(counts.values())
        said = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        print(
            f"{assignment.slug}: {done} notebooks in {time.monotonic() - started:.0f} s"
            + (f" ({said})" if said else "")
        )
        print(f"  {fed} new results in the gradebook." if fed else "  The gradebook has all of them.")
        failed += counts.get("not graded", 0)
        bad = [f"{n} ({r['message']})" for n, r in gradebook.results(folder, assignment.slug).items() if r["message"]]
        for line in bad:
            print(f"  look at {line}", file=sys.stderr)
    return 1 if failed else 0


def mark_command(options):
    folder = _course(options)
    command = [sys.executable, "-m", "jupyter_server", "--ServerApp.default_url=/formgrader"]
    command += ["--no-browser"] if options.no_browser else []
    command += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    print("Formgrader opens in your browser; stop it here with Ctrl-C.", flush=True)
    os.chdir(folder.path)
    os.execv(sys.executable, command)


def feedback_command(options):
    from course_lib.grading import feedback

    folder = _course(options)
    for assignment in assignments(options, options.assignments, only_collected=True):
        with folder.locked():
            paths = feedback.write(folder, assignment)
        print(f"{assignment.slug}: {len(paths)} pages, {folder.path}/feedback/STUDENT/{assignment.slug}/")
    return 0


def export_command(options):
    from course_lib.grading import export

    folder = _course(options)
    chosen = assignments(options, options.assignments, only_collected=True)
    if options.output and len(chosen) > 1:
        raise CourseError("--output is for one assignment: name it.")
    for assignment in chosen:
        with folder.locked():
            path, rows = export.export(folder, assignment)
        if options.output and str(options.output) == "-":
            sys.stdout.write(export.csv_text(rows).replace("\r\n", "\n"))
            continue
        if options.output:
            write_whole(options.output, path.read_text(encoding="utf-8"))
            path = options.output
        print(f"{assignment.slug}: {len(rows)} students, {path}")
        _unfinished(rows)
    return 0


def _unfinished(rows):
    counts = {}
    for row in rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    for status, count in sorted(counts.items(), key=lambda pair: (pair[0] == "graded", pair[0])):
        print(
            f"  {count:>4} {status}: {LAST.get(status, 'graded, but a part of the notebook ended so; see the remarks')}"
        )


def status_command(options):
    from course_lib.grading import export, grade, gradebook

    folder = _course(options)
    for assignment in assignments(options, options.assignments, only_collected=not options.student):
        if options.student:
            with contextlib.suppress(KeyError):
                _one_student(assignment, gradebook.results(folder, assignment.slug)[options.student])
            continue
        with folder.locked():
            rows = export.table(folder, assignment)
        print(f"{assignment.slug}: {len(rows)} students, {assignment.points:g} points")
        _unfinished(rows)
        if waiting := grade.stale(folder, assignment):
            print(f"  {len(waiting)} to be graded, or graded by other tests: run `grade`")
    return 0


def _one_student(assignment, result):
    print(f"{assignment.slug}: {result['status']}. {result['message']}")
    for one in result["tests"]:
        print(
            f"  {one['id']:<6}{one['earned']:g} of {one['points']:g}  {one['status']}: "
            f"{one['sentence']} {one['detail']}"
        )
    for one in result["incidents"]:
        print(f"  {one['place']}: {one['status']}: {one['detail']}")
    for note in result["notes"]:
        print(f"  note: {note}")


if __name__ == "__main__":
    sys.exit(main())
