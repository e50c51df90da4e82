"""The sandbox keeps its promises, sees when it cannot, and says what helps."""

import os
import platform
import shutil
import struct
import sys
from pathlib import Path

import pytest

from course_lib.grading import process as process_module
from course_lib.grading import sandbox, seccomp
from course_lib.grading.box import Box
from course_lib.grading.process import Ended, Process
from course_lib.grading.remote import student_names
from course_lib.grading.sandbox import MIB, Limits, Sandbox, broken_promises, problem, refusal

# Where CI runs on Linux, bubblewrap must work; elsewhere the tests say what is missing.
MUST_RUN = "CI" in os.environ and sys.platform == "linux"
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
LIMITS = Limits(cell=5, call=5)
confined = pytest.mark.skipif(not MUST_RUN and problem() is not None, reason=str(problem()))
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


def said(code, **options):
    """What a cell prints in a sandbox, and what happened."""
    with Box([code], Sandbox(WORKER, limits=LIMITS, **options), preload=()) as box:
        box.run()
        box._end_of_cells()
        box._lost()
        return box.output.strip(), box.incidents


# The self-test


@confined
@pytest.mark.parametrize("user_namespace", [None, True])
def test_this_machine_can_confine(user_namespace):
    assert problem(user_namespace) is None


@pytest.fixture
def fresh_problem():
    problem.cache_clear()
    yield problem
    problem.cache_clear()


def test_another_system_is_told_so(fresh_problem, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "needs Linux" in fresh_problem()


def test_another_processor_is_told_so(fresh_problem, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    monkeypatch.setattr(sys, "platform", "linux")
    assert "x86_64, aarch64, not riscv64" in fresh_problem()


@on_linux
@pytest.mark.parametrize(
    ("missing", "words"), [("bwrap", "apt install bubblewrap"), ("setpriv", "Install the package util-linux")]
)
def test_a_missing_program_is_named_with_its_remedy(fresh_problem, monkeypatch, missing, words):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: None if name == missing else f"/usr/bin/{name}")
    assert words in fresh_problem()


@confined
def test_an_old_bubblewrap_is_named(fresh_problem, monkeypatch):
    monkeypatch.setattr(sandbox, "_version", lambda: (0, 6, 1))
    assert "bubblewrap 0.6.1 is too old: 0.7" in fresh_problem()


@confined
def test_a_refusal_of_the_real_program_is_passed_on(fresh_problem, monkeypatch):
    monkeypatch.setattr(sandbox.Sandbox, "_files", lambda self, setpriv: {"/no/such/file": "/box/file"})
    assert "Can't find source path /no/such/file" in fresh_problem()


REFUSED = "bwrap: setting up uid map: Permission denied\n"


@pytest.mark.parametrize(
    ("settings", "files", "words"),
    [
        ({"kernel/apparmor_restrict_unprivileged_userns": "1\n"}, (), "/etc/apparmor.d/bwrap"),
        ({"kernel/unprivileged_userns_clone": "0\n"}, (), "sysctl kernel.unprivileged_userns_clone=1"),
        ({"user/max_user_namespaces": "0\n"}, (), "sysctl user.max_user_namespaces="),
        ({}, ("/.dockerenv",), "--cap-add SYS_ADMIN"),
        ({}, ("/run/.containerenv",), "--security-opt"),
        ({}, (), "Grade as root"),
    ],
)
def test_each_known_refusal_has_its_remedy(monkeypatch, settings, files, words):
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)

    def read(path):
        try:
            return settings[path.removeprefix("/proc/sys/")]
        except KeyError:
            raise FileNotFoundError from None

    sentence = refusal(REFUSED, read, lambda path: path in files)
    assert "setting up uid map: Permission denied" in sentence
    assert words in sentence


FACTS = {
    "user": 64999, "session": True, "capabilities": [0, 0, 0, 0], "no_new_privileges": "1", "filter": "2",
    "interfaces": ["lo"], "processes": 2, "writes": [], "root": ["box", "dev", "proc", "tmp", "usr"],
}  # fmt: skip


def test_kept_promises():
    assert list(broken_promises(FACTS, 64999)) == []


@pytest.mark.parametrize(
    ("fact", "words"),
    [
        ({"user": 0}, "wrong user"),
        ({"session": False}, "session"),
        ({"capabilities": [0, 0, 1, 0]}, "capabilities"),
        ({"no_new_privileges": "0"}, "capabilities or can get some"),
        ({"filter": "0"}, "not filtered"),
        ({"interfaces": ["lo", "eth0"]}, "network"),
        ({"processes": 80}, "those of the system"),
        ({"writes": ["/usr/lib"]}, "write into /usr/lib"),
        ({"root": ["dev", "work", "var"]}, "sees var, work"),
    ],
)
def test_a_broken_promise_is_found(fact, words):
    (sentence,) = broken_promises(FACTS | fact, 64999)
    assert words in sentence


# What is bound, and what the process finds


@on_linux
def test_nothing_of_the_project_is_bound_but_the_modules():
    sources = list(map(Path, Sandbox()._files("/usr/bin/setpriv")))
    package = Path(sandbox.__file__).parents[1]
    within = {path.relative_to(package.parent).as_posix() for path in sources if path.is_relative_to(package.parent)}
    within = {name for name in within if not name.startswith(".venv")}
    modules = {f"course_lib/{path.name}" for path in package.glob("*.py")}
    folders = {"course_lib/_pretrained", "course_lib/_checks", "course_lib/__pycache__"}
    assert modules <= within <= modules | folders | {"course_lib/grading/runner.py"}
    assert not any(package.is_relative_to(path) for path in sources)


@on_linux
@pytest.mark.parametrize("user_namespace", [True, False])
def test_the_command_names_no_variable_of_the_grader(monkeypatch, user_namespace):
    monkeypatch.setenv("COURSE_LIB_SECRET", "xyzzy")
    monkeypatch.setattr(sandbox, "_found", lambda program: f"/usr/bin/{program}")
    command = Sandbox(user_namespace=user_namespace)._bubblewrap(9)
    assert "--clearenv" in command
    assert "xyzzy" not in " ".join(command)


@confined
@pytest.mark.parametrize("user_namespace", [None, True])
def test_user_folders_and_limits(user_namespace):
    output, incidents = said(
        "import os, resource\nprint(os.getuid(), os.getgid(), os.getgroups(), os.getcwd())\n"
        "for name in ('AS', 'FSIZE', 'NOFILE', 'NPROC', 'CORE'):\n"
        "    print(*resource.getrlimit(getattr(resource, 'RLIMIT_' + name)))",
        user_namespace=user_namespace,
    )
    assert incidents == []
    user, *limits = output.splitlines()
    number = str(Sandbox(WORKER).user)
    assert user.startswith(f"{number} {number} [")
    assert user.endswith(" /tmp")
    assert limits == [f"{n} {n}" for n in (LIMITS.address_space, LIMITS.file_size, 128, LIMITS.processes, 1)]


@confined
@pytest.mark.parametrize("user_namespace", [None, True])
def test_no_process_of_the_sandbox_has_the_environment_of_the_grader(monkeypatch, user_namespace):
    monkeypatch.setenv("COURSE_LIB_SECRET", "xyzzy")
    cell = (
        "import glob, os\nfor path in ['/proc/self/environ', *glob.glob('/proc/[0-9]*/environ')]:\n"
        "    if os.access(path, os.R_OK):\n        print(open(path).read())\nprint('all read')"
    )
    output, incidents = said(cell, user_namespace=user_namespace)
    assert incidents == []
    assert "all read" in output
    assert "HOME=/tmp" in output
    assert "xyzzy" not in output
    assert os.environ["PATH"] not in output


@confined
def test_parallel_jobs_have_users_and_processors_of_their_own():
    assert len({Sandbox(job, 4).user for job in range(4)}) == 4
    everything = os.sched_getaffinity(0)
    shares = []
    for job in range(2):
        with sandbox._on_processors(job, 2):
            shares.append(os.sched_getaffinity(0))
        assert os.sched_getaffinity(0) == everything
    if len(everything) > 1:
        assert not shares[0] & shares[1]
        assert shares[0] | shares[1] == everything
    with sandbox._on_processors(0, 1000):  # more jobs than processors: all share all
        assert os.sched_getaffinity(0) == everything


@confined
def test_the_package_and_its_libraries_are_there():
    output, incidents = said("import course_lib.probability, numpy, torch\nprint(torch.get_num_threads())")
    assert (output, incidents) == ("1", [])


@confined
def test_no_file_of_the_grader_is_open_in_the_sandbox(tmp_path):
    with (tmp_path / "gradebook.db").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        output, _ = said(
            "import os\nprint([os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')[:-1]])"
        )
    kinds = {link.split(":")[0] for link in output.strip("[]").replace("'", "").split(", ")}
    assert kinds <= {"pipe", "/dev/null"}


@confined
def test_the_limit_of_processes_counts_those_of_one_job_only():
    """A neighbour that has used up its own does not keep this one from starting a thread."""
    if os.geteuid() != 0:
        pytest.skip("without root all jobs are the same user")
    jobs = 2 * WORKER
    many = "import threading, time\nfor _ in range(60):\n    threading.Thread(target=time.sleep, args=(99,)).start()"
    one = "import threading\nt = threading.Thread(target=print, args=('ran',))\nt.start()\nt.join()"
    limits = Limits(processes=40, cell=5)
    with Box([many], Sandbox(jobs, limits=limits), preload=()) as first:
        first.run()
        assert "can't start new thread" in first.incidents[0].message
        with Box([one], Sandbox(jobs + 1, limits=limits), preload=()) as second:
            second.run()
            assert second.incidents == []


# Without the sandbox


@on_linux
def test_the_unsafe_process_has_no_variables_a_home_that_vanishes_and_limits(monkeypatch):
    monkeypatch.setenv("COURSE_LIB_SECRET", "xyzzy")
    cell = "import os\nprint('COURSE_LIB_SECRET' in os.environ, os.getcwd())\nopen('left', 'w').close()"
    output, incidents = said(cell, unsafe=True)
    assert incidents == []
    word, home = output.split()
    assert word == "False"
    assert not os.path.exists(home)
    output, _ = said("import resource\nprint(resource.getrlimit(resource.RLIMIT_AS))", unsafe=True)
    assert output == str((LIMITS.address_space,) * 2)


@on_linux
def test_the_unsafe_process_ends_with_its_children():
    cell = "import os, time\npid = os.fork()\nif pid == 0:\n    time.sleep(1000)"
    with Box([cell], Sandbox(limits=LIMITS, unsafe=True), preload=()) as box:
        pid = student_names(box, ["pid"])["pid"]
        os.kill(pid, 0)  # it runs
    assert process_module._stat(pid) is None or process_module._stat(pid)[0] == "Z"


# The watch


@confined
@pytest.mark.parametrize(
    ("limits", "code", "status"),
    [
        ({"memory": 100 * MIB}, "x = b'x' * (200 * 2**20)\nwhile True:\n    pass", "too much memory"),
        ({"processor": 1}, "while True:\n    pass", "too much processor time"),
        ({"files": 50}, "import tempfile\nx = [tempfile.mkstemp()[1] for _ in range(60)]", "too many files"),
        ({"output": MIB}, "print('x' * 2**22)", "too much output"),
        (
            {"processes": 5},
            "import threading, time\nfor _ in range(9):\n    threading.Thread(target=time.sleep, args=(99,)).start()",
            "too many processes",
        ),
    ],
)
def test_the_watcher_ends_what_uses_too_much(monkeypatch, limits, code, status):
    # The kernel's own limits are put out of the way: the watcher alone must see it.
    monkeypatch.setattr(Limits, "of_a_process", lambda self: {})
    process = Process(Sandbox(WORKER, limits=Limits(cell=20, **limits)), preload=())
    try:
        process.wait_until_ready()
        deadline = process.deadline(20)
        code += "\nimport time\ntime.sleep(100)"
        process.send({"id": "", "op": "cell", "number": 1, "source": code, "statements": None}, deadline)
        with pytest.raises(Ended) as end:
            [process.receive(deadline) for _ in range(99)]
        assert end.value.status == status
        assert process.is_over()
    finally:
        process.close()


@on_linux
def test_the_watcher_counts_this_very_process():
    from course_lib.grading.process import tree, usage

    use = usage(tree(os.getpid()))
    resource = pytest.importorskip("resource")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert 10 * MIB < use["memory"] < 3 * peak
    assert use["threads"] >= 1
    assert use["processor"] > 0
    assert list(tree(2**30)) == []


# The filter


def decision(program, number, arguments=(0, 0), architecture=0xC000003E):
    """What the kernel would do: the filter is run here, step by step."""
    data = struct.pack("=iIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    steps = [struct.unpack_from("=HBBI", program, 8 * n) for n in range(len(program) // 8)]
    at, value = 0, 0
    while True:
        code, if_true, if_false, k = steps[at]
        at += 1
        if code == 0x20:
            (value,) = struct.unpack_from("=I", data, k)
        elif code == 0x06:
            return {0x7FFF0000: "allow", 0x80000000: "kill"}.get(k, k & 0xFFFF)
        else:
            yes = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[code]
            at += if_true if yes else if_false


X86 = {
    "read": 0,
    "openat": 257,
    "memfd_create": 319,
    "ptrace": 101,
    "clone": 56,
    "clone3": 435,
    "ioctl": 16,
    "socket": 41,
    "setsockopt": 54,
}
ARM = {
    "read": 63,
    "openat": 56,
    "memfd_create": 279,
    "ptrace": 117,
    "clone": 220,
    "clone3": 435,
    "ioctl": 29,
    "socket": 198,
    "setsockopt": 208,
}


@pytest.mark.parametrize(
    ("machine", "numbers", "architecture"), [("x86_64", X86, 0xC000003E), ("aarch64", ARM, 0xC00000B7)]
)
def test_the_filter(machine, numbers, architecture):
    program = seccomp.program(machine)

    def asked(name, *arguments):
        return decision(program, numbers[name], arguments or (0, 0), architecture)

    assert asked("read") == asked("openat") == "allow"
    assert asked("memfd_create") == asked("ptrace") == 1
    assert asked("clone3") == 38
    assert asked("clone", 0x3D0F00, 0) == "allow"  # a thread
    assert asked("clone", 0x11, 0) == "allow"  # a process
    assert asked("clone", 0x10000011, 0) == 1  # with a user namespace
    assert asked("ioctl", 1, 0x5401) == "allow"
    assert asked("ioctl", 1, 0x5412) == 1
    assert asked("ioctl", 1, 0xFFFFFFFF00005412) == 1  # the kernel looks at the low half only
    assert [asked("socket", family, 0) for family in (1, 2, 10, 16, 17, 38)] == ["allow"] + [97] * 5
    assert [asked("setsockopt", 3, 1, name) for name in (2, 7, 8, 20, 32, 33)] == ["allow", 1, 1, "allow", 1, 1]
    assert decision(program, numbers["read"], architecture=0x40000003) == "kill"  # calls of another architecture
    if machine == "x86_64":
        assert decision(program, 0x40000000 + 319) == 38
    assert len(program) // 8 < 4096


def test_every_blocked_call_is_answered_on_both_machines():
    for machine, (column, architecture, _) in seccomp._MACHINES.items():
        program = seccomp.program(machine)
        for name, numbers in seccomp._CALLS.items():
            if numbers[column] is not None:
                assert decision(program, numbers[column], architecture=architecture) == 1, name
