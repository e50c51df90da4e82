"""Grades all submissions of an assignment: several at a time, each result a file of its own, written whole.

So a grader that was killed goes on where it was, and one that is started twice finds nothing to do.
"""

import contextlib
import ctypes
import json
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from course_lib.grading import source
from course_lib.grading.collect import chosen
from course_lib.grading.folder import CourseError, Folder, read_json, write_whole
from course_lib.grading.sandbox import Limits, Sandbox, problem

__all__ = ["WARNING", "run", "stale"]

WARNING = (
    "WARNING: there is no sandbox. Students' code runs as you: it can read your files, use the network,"
    " and change marks. The table of marks says so."
)
LARGEST_RESULT = 8_000_000
START = "spawn"  # how Python makes the processes: afresh, so that nothing of this one is in them


def stale(folder: Folder, assignment: source.Assignment, unsafe: bool = False) -> dict[str, dict[str, Any]]:
    """What must be graded: by student the attempt that counts, where no result fits it.

    Args:
        folder: of the course
        assignment: as `source.read` gives it
        unsafe: whether there is no sandbox
    """
    from course_lib.grading.marking import fingerprint

    tests = fingerprint(assignment, assignment.path.read_text(encoding="utf-8"), unsafe)
    index = read_json(folder.index(assignment.slug), {"attempts": {}})
    found = {}
    for student in sorted(index["attempts"]):
        attempt = chosen(index, student)
        result = read_json(folder.result(assignment.slug, student), {})
        if (
            result.get("submission") != attempt["digest"]
            or result.get("fingerprint") != tests
            or result.get("status") == "not graded"
        ):
            found[student] = attempt
    return found


def run(
    folder: Folder,
    assignment: source.Assignment,
    jobs: int = 2,
    *,
    unsafe: bool = False,
    again: bool = False,
    limits: Limits | None = None,
    say=lambda text: print(text, file=sys.stderr),
    progress: bool = True,
) -> dict[str, int]:
    """Grade what has no result that fits, and return how often each status came up.

    Args:
        folder: of the course
        assignment: as `source.read` gives it
        jobs: how many at a time
        unsafe: without the sandbox
        again: also what has a result
        limits: of each submission
        say: prints a line
        progress: whether to show a bar

    Raises:
        CourseError: there is no sandbox, or nothing was collected
    """
    if unsafe:
        say(WARNING)
    elif (missing := problem()) is not None:
        raise CourseError(
            f"Nothing was graded: submissions cannot be confined on this machine. {missing}"
            " (--unsafe-no-sandbox grades without a sandbox; then any submission can read and change your files.)"
        )
    index = read_json(folder.index(assignment.slug))
    if index is None:
        raise CourseError(f"Nothing was collected for {assignment.slug}: run `collect` first.")
    everything = {student: chosen(index, student) for student in sorted(index["attempts"])}
    waiting = everything if again else stale(folder, assignment, unsafe)
    jobs = max(1, min(jobs, len(waiting)))
    counts: dict[str, int] = {}
    with _bar(len(waiting), progress) as bar:
        for status in _Pool(folder, assignment, jobs, unsafe, limits or Limits()).work(waiting):
            counts[status] = counts.get(status, 0) + 1
            bar.update()
    return counts


def _bar(total, progress):
    from tqdm import tqdm

    return tqdm(total=total, unit="notebook", disable=not progress or not total, file=sys.stderr)


class _Pool:
    """Processes of ours, each with a sandbox; one that hangs or dies is replaced, and its submission is noted."""

    def __init__(self, folder, assignment, jobs, unsafe, limits):
        self.folder, self.slug, self.jobs = folder, assignment.slug, jobs
        self.setup = (str(assignment.path), unsafe, limits)
        self.context = multiprocessing.get_context(START)
        # Far more than the limits of a submission add up to: this is for what happens outside of its sandbox.
        self.patience = 60 + limits.start * 3 + 3 * (2 * limits.cells + limits.calls)

    def work(self, waiting):
        queue, workers = list(waiting.items()), {}
        try:
            for job in range(self.jobs):
                workers[job] = self._start(job)
            while queue or any(worker["task"] for worker in workers.values()):
                for worker in workers.values():
                    if worker["task"] is None and queue:
                        self._give(worker, queue.pop(0))
                wait([x for w in workers.values() if w["task"] for x in (w["pipe"], w["process"].sentinel)], 1)
                for job, worker in list(workers.items()):
                    if worker["task"] is None:
                        continue
                    status = self._status(worker)
                    if status is not None:
                        yield status
                        worker["task"] = None
                    if not worker["process"].is_alive():
                        workers[job] = self._start(job)
        finally:
            for worker in workers.values():
                worker["pipe"].close()
                worker["process"].join(timeout=0.2)
                worker["process"].kill()
                worker["process"].join()

    def _start(self, job):
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_worker, args=(theirs, job, self.jobs, *self.setup), daemon=True)
        process.start()
        theirs.close()
        return {"process": process, "pipe": ours, "task": None}

    def _give(self, worker, task):
        student, attempt = task
        path = self.folder.collected(self.slug) / attempt["file"] if attempt["file"] else None
        worker["task"], worker["since"] = task, time.monotonic()
        with contextlib.suppress(OSError):  # it is dead, which will be seen
            worker["pipe"].send((student, attempt, path and str(path), str(self.folder.result(self.slug, student))))

    def _status(self, worker):
        """Of the task, if it is done; or if it will never be."""
        try:
            if worker["pipe"].poll():
                return worker["pipe"].recv()
        except (EOFError, OSError):
            pass
        late = time.monotonic() - worker["since"] > self.patience
        if worker["process"].is_alive() and not late:
            return None
        worker["process"].kill()
        worker["process"].join()
        (student, attempt), said = worker["task"], "The grader itself took too long." if late else "The grader ended."
        result = {"status": "not graded", "message": said, "tests": [], "parts": [], "incidents": [], "notes": []}
        result |= {"student": student, "submission": attempt["digest"], "fingerprint": "", "answered": False}
        write_whole(self.folder.result(self.slug, student), json.dumps(result))
        return "not graded"


def _worker(pipe, job, jobs, path, unsafe, limits):
    """In a process of its own: marks what it is given, until the pipe is closed."""
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the grader, who ends this one
    import torch

    from course_lib.grading import release
    from course_lib.grading.marking import fingerprint

    torch.set_num_threads(1)
    assignment = source.read(Path(path))
    notebook = release.student_notebook(assignment, None, release.book_macros(Path(path).parents[3]))
    tests = fingerprint(assignment, Path(path).read_text(encoding="utf-8"), unsafe)
    sandbox = Sandbox(job, jobs, limits=limits, unsafe=unsafe)
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(_mark_one(assignment, notebook, sandbox, tests, *task))


def _mark_one(assignment, notebook, sandbox, tests, student, attempt, path, target):
    from course_lib.grading.marking import mark

    started = time.monotonic()
    try:
        if path is None:
            result = mark(assignment, notebook, Path(os.devnull), sandbox) | {"message": attempt["why"]}
        else:
            result = mark(assignment, notebook, Path(path), sandbox)
    except Exception as error:  # a fault of ours: it must not look like a mark
        result = {"status": "not graded", "message": f"{type(error).__name__}: {error}"[:500], "tests": []}
        result |= {"parts": [], "incidents": [], "notes": [], "answered": False}
    if path is not None and not attempt["notebook"] and result["status"] == "unreadable":
        result["message"] = f"No notebook was handed in, but a file of another kind. {result['message']}"
    result |= {"student": student, "submission": attempt["digest"], "time": attempt["time"], "fingerprint": tests}
    result |= {"sandbox": not sandbox.unsafe, "seconds": round(time.monotonic() - started, 2)}
    text = json.dumps(result)
    if len(text) > LARGEST_RESULT:  # pictures that were pasted into it
        result["parts"] = [part | {"attachments": {}} for part in result["parts"]]
        text = json.dumps(result)
    write_whole(Path(target), text)
    return result["status"]


def _end_with_parent():
    """On Linux the kernel ends this process when the grader ends, and the sandbox with it."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != multiprocessing.parent_process().pid:
            os._exit(1)
