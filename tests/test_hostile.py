"""Hostile submissions: each gets the marks that its answers deserve, harms nobody, and leaves nothing behind."""

import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hostile_cells import CASES, WRONG_F, F, G

from course_lib.grading import process
from course_lib.grading.box import Box
from course_lib.grading.remote import student_names
from course_lib.grading.sandbox import MIB, Limits, Sandbox, problem

# Jobs of their own, so that tests which run at the same time have users of their own.
# Where CI runs on Linux, bubblewrap must work; elsewhere the tests say what is missing.
MUST_RUN = "CI" in os.environ and sys.platform == "linux"
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MUST_RUN and problem() is not None, reason=str(problem())),
]
LIMITS = Limits(cell=1, call=1, cells=20, calls=20, memory=400 * MIB, files=1_000, processes=40)
SECRET = "the-secret-seed-of-this-course"
CANARY = "another student's answer"


def same(actual, expected):
    return type(actual) is type(expected) and actual == expected


def marks_f_fixed(f, g):
    expected = 5
    assert same(f(2, 3), expected)


def marks_f_random(f, g):
    a, b = random.Random(SECRET).random(), random.Random(SECRET + "b").random()
    expected = a + b
    assert abs(f(a, b) - expected) < 1e-12  # carelessly: an object could say what abs and < give


def marks_g_random(f, g):
    x = [random.Random(SECRET).randrange(1000) for _ in range(5)]
    expected = sum(x)
    assert same(g(x), expected)
    assert len(x) == 5


def marks_g_empty(f, g):
    assert same(g([]), 0)


MARKS = {marks_f_fixed: 1, marks_f_random: 2, marks_g_random: 2, marks_g_empty: 1}


def grade(cells, sandbox, torch=False):
    """The mark, and the box, which is closed."""
    with Box(cells, sandbox, preload=("torch",) if torch else ()) as box:
        names = student_names(box, ["f", "g"])
        mark = 0
        for test, points in MARKS.items():
            with contextlib.suppress(Exception):
                test(**names)
                mark += points
        return mark, box


def of_another_test(pid):
    """Whether a process in a sandbox belongs to a test that runs at the same time: numbers of namespaces come again."""
    namespace, parent = namespace_of(pid), int((process._stat(pid) or "01")[1])
    while namespace_of(parent) == namespace:
        parent = int((process._stat(parent) or "01")[1])
    bubblewrap = process._stat(parent)
    return parent > 1 and bubblewrap is not None and int(bubblewrap[1]) not in (1, os.getpid())


def namespace_of(pid):
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/pid")


@pytest.fixture
def left_behind(monkeypatch):
    """A function that lists the processes of all sandboxes of this test which still run."""
    namespaces, ready = set(), process.Process.wait_until_ready

    def and_note(self):
        ready(self)
        namespaces.add(namespace_of(self.runner))

    monkeypatch.setattr(process.Process, "wait_until_ready", and_note)

    def listing():
        assert namespaces
        assert namespace_of(os.getpid()) not in namespaces
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        found = [(pid, process._stat(pid)) for pid in pids if namespace_of(pid) in namespaces - {None}]
        # What has ended and waits for the system to take note of it (Z) does not run.
        return [pid for pid, fields in found if fields and fields[0] not in "ZX" and not of_another_test(pid)]

    return listing


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A folder of the grader, which must not change, and two servers, which nobody may reach."""
    monkeypatch.setenv("COURSE_LIB_SECRET", SECRET)
    tmp_path.chmod(0o777)  # it is not the permissions that protect it
    for name, text in (("gradebook.db", "marks"), ("other.ipynb", CANARY)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o666)
    address = f"course-lib-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind("\0" + address)
        unix.listen()
        yield {"HOST": str(tmp_path), "PORT": str(tcp.getsockname()[1]), "ADDRESS": address}
        for server in (tcp, unix):
            server.settimeout(0.01)
            with pytest.raises(TimeoutError):
                server.accept()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "gradebook.db": "marks",
        "other.ipynb": CANARY,
    }


def filled(cell, host):
    for name, value in host.items():
        cell = cell.replace(name, value)
    return cell


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_submission_gets_what_it_deserves(case, host, left_behind):
    started = time.monotonic()
    mark, box = grade([filled(cell, host) for cell in case.cells], Sandbox(WORKER, limits=LIMITS), case.torch)
    seconds = time.monotonic() - started
    assert mark == case.mark, box.incidents
    first = box.incidents[0].status if box.incidents else None
    assert first == case.status or (isinstance(case.status, tuple) and first in case.status), box.incidents
    assert case.says is None or case.says in box.output, box.output
    everything = box.output + repr(box.incidents)
    assert SECRET not in everything
    assert CANARY not in everything
    assert len(box.output) <= LIMITS.output_kept
    assert seconds < LIMITS.cells + LIMITS.calls
    assert left_behind() == []
    assert not [thread for thread in threading.enumerate() if "submission" in thread.name]


def test_the_table_is_complete():
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(case.tries and case.happens.endswith(".") for case in CASES)


@pytest.mark.parametrize(("cells", "mark"), [((F, G), 6), ((WRONG_F, G), 3), ((F,), 3), ((), 0)])
def test_honest_submissions_get_their_marks(cells, mark, left_behind):
    assert grade(cells, Sandbox(WORKER, limits=LIMITS))[0] == mark
    assert left_behind() == []


def test_a_submission_does_not_see_what_the_one_before_it_left():
    leave = "open('/tmp/left', 'w').write('x'); open('/dev/shm/left', 'w').write('x')"
    look = "import os\nprint(os.listdir('/tmp'), os.listdir('/dev/shm'), os.getcwd())"
    sandbox = Sandbox(WORKER, limits=LIMITS)
    with Box([leave], sandbox, preload=()) as first:
        first.run()
        assert grade([look, F, G], sandbox)[1].output.strip() == "[] [] /tmp"


def test_a_neighbour_who_takes_all_he_can_costs_an_honest_student_nothing(left_behind):
    """Two jobs at a time: fork bombs and loops in one, honest answers in the other."""
    greedy = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    jobs, marks = 2 * WORKER, []
    neighbour = threading.Thread(target=lambda: grade([greedy, F, G], Sandbox(jobs, limits=LIMITS)))
    neighbour.start()
    while neighbour.is_alive():
        marks.append(grade([F, G], Sandbox(jobs + 1, limits=LIMITS))[0])
    assert set(marks) == {6}
    assert left_behind() == []


def test_killing_the_grader_ends_its_sandboxes(tmp_path):
    """``kill -9`` leaves nobody to clean up; the kernel does it."""
    program = (
        "import threading, time\nfrom course_lib.grading.box import Box\n"
        "from course_lib.grading.sandbox import Limits, Sandbox\n"
        f"box = Box(['while True: pass'], Sandbox({WORKER}, limits=Limits(cell=100)), preload=())\n"
        "def say():\n    while box.process is None or box.process.runner is None:\n        time.sleep(0.01)\n"
        "    print(box.process.runner, flush=True)\nthreading.Thread(target=say).start()\nbox.run()"
    )
    grader = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )
    with grader:
        runner = int(grader.stdout.readline())
        before = process._stat(runner)
        grader.kill()
    deadline = time.monotonic() + 10
    while (now := process._stat(runner)) is not None and now[19] == before[19] and now[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)
