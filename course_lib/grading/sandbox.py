"""The sandbox: how a process is started that sees, and can do, almost nothing.

bubblewrap gives it empty namespaces (no network, its own processes, a root folder that holds only what is bound here,
read-only), another user, no capabilities and no way to get any. A seccomp filter and resource limits, which the runner
sets on itself before any line of a student runs, do the rest. :func:`problem` says what is missing on this machine.
"""

import dataclasses
import functools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from course_lib.grading import seccomp

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent  # course_lib
RUNNER = HERE / "runner.py"
INSIDE = "/box"  # where the grader's few files lie in the sandbox
HOME = "/tmp"
FIRST_USER = 64999  # parallel jobs have users of their own: a limit on processes is one per user
MIB = 2**20
_DEVICES = ("null", "zero", "full", "random", "urandom")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one submission may use. Times are in seconds, sizes in bytes.

    >>> Limits(call=2).call
    2
    """

    start: int | float = 60  # until the process is ready
    cell: int | float = 30
    call: int | float = 10
    cells: int | float = 90  # all cells together, and as much again when the process ended and they run once more
    calls: int | float = 90  # all calls together
    restarts: int = 20
    memory: int = 2 * 2**30  # of all processes together; the grader looks ten times a second
    address_space: int = 4 * 2**30  # of one process; PyTorch needs much more than it uses
    processor: int = 150  # seconds of all processes together
    processes: int = 32  # and threads, of all processes together
    open_files: int = 128
    file_size: int = 32 * MIB
    disk: int = 64 * MIB  # /tmp and /dev/shm each
    files: int = 5_000  # in them
    output_kept: int = 20_000
    output: int = 20 * MIB  # a process that prints more is ended

    def of_a_process(self) -> dict:
        """Limits that the kernel keeps for each process, by their names in ``resource``.

        With 1 for CORE a crash is not even told to the system's own collector of crashes, which 0 would not prevent.
        """
        return {
            "AS": self.address_space, "CPU": self.processor, "FSIZE": self.file_size, "NOFILE": self.open_files,
            "NPROC": self.processes, "CORE": 1, "MEMLOCK": MIB, "MSGQUEUE": 0, "SIGPENDING": 1000,
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Sandbox:
    """One of ``jobs`` places where submissions run, one after the other.

    ``unsafe`` starts a plain process instead, which can read what the grader can read. ``user_namespace`` says how to
    become another user; None means: as root by setpriv, otherwise by a user namespace.

    >>> Sandbox(job=1, jobs=2).user
    64998
    """

    job: int = 0
    jobs: int = 1
    limits: Limits = Limits()
    unsafe: bool = False
    user_namespace: bool | None = None

    @property
    def user(self) -> int:
        return FIRST_USER - self.job

    def start(self, preload: tuple = ("torch",)) -> subprocess.Popen:
        """The runner, with pipes: stdin for questions, stdout for replies, stderr for all that is printed."""
        if self.unsafe:
            return self._start_unsafe(preload)
        setup = self._setup(
            f"{INSIDE}/lib/course_lib/_wire.py", [f"{INSIDE}/lib", *self._libraries().values()], preload
        )
        return self._start_confined([f"{INSIDE}/runner.py", json.dumps(setup)])

    def _setup(self, wire, paths, preload):
        limits = self.limits.of_a_process()
        if self.unsafe:
            del limits["NPROC"]  # it would count all processes of the teacher
        return {"wire": str(wire), "paths": [str(path) for path in paths], "limits": limits, "preload": list(preload)}

    def _start_confined(self, arguments):
        filter_end, end = os.pipe()
        try:
            os.write(end, seccomp.program())
            os.close(end)
            command = [*self._bubblewrap(filter_end), *self._python(), *arguments]
            with _on_processors(self.job, self.jobs):
                return _start(command, pass_fds=(filter_end,))
        finally:
            os.close(filter_end)

    def _start_unsafe(self, preload):
        setup = self._setup(PACKAGE / "_wire.py", [PACKAGE.parent, *self._libraries()], preload)
        home = tempfile.mkdtemp(prefix="course-lib-")
        command = [*self._python(), str(RUNNER), json.dumps(setup)]
        process = _start(command, cwd=home, env=_environment(home))
        process.home = home  # process.py removes it at the end
        return process

    def _python(self):
        # Isolated (-I): no variable and no folder of the student is looked at. Without `site` (-S): the runner adds the
        # libraries itself, and no .pth file runs. What is printed comes at once (-u), so that a crash loses none of it.
        return [os.path.realpath(sys._base_executable), "-I", "-S", "-B", "-u", "-X", "utf8"]

    def _libraries(self):
        """The folders of installed packages, and where they lie in the sandbox."""
        named = [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]
        named.append(sysconfig.get_paths()["purelib"])
        folders = [path for path in dict.fromkeys(named) if os.path.isdir(path)]
        return {folder: f"{INSIDE}/site{number}" for number, folder in enumerate(folders)}

    def _bubblewrap(self, filter_end):
        user_namespace = os.geteuid() != 0 if self.user_namespace is None else self.user_namespace
        command = [
            _found("bwrap"), "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try",
            "--die-with-parent", "--new-session", "--hostname", "sandbox", "--seccomp", str(filter_end), "--clearenv",
        ]  # fmt: skip
        for name, value in _environment(HOME).items():
            command += ["--setenv", name, value]
        if user_namespace:
            command += ["--unshare-user", "--uid", str(self.user), "--gid", str(self.user), *self._root(None)]
            return [*command, "--"]
        setpriv = _found("setpriv")
        command += ["--cap-drop", "ALL"]
        for capability in ("SETUID", "SETGID", "SETPCAP"):  # setpriv needs them, and leaves none
            command += ["--cap-add", f"CAP_{capability}"]
        return [
            *command, *self._root(setpriv), "--",
            f"{INSIDE}/setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups", "--no-new-privs",
            "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--",
        ]  # fmt: skip

    def _root(self, setpriv):
        """What the sandbox's file system holds. Later mounts lie over earlier ones."""
        tmpfs = ["--perms", "1777", "--size", str(self.limits.disk), "--tmpfs"]
        command = ["--proc", "/proc", "--perms", "0755", "--tmpfs", "/dev", *tmpfs, "/dev/shm", *tmpfs, "/tmp"]
        for name in _DEVICES:  # and no terminals (--dev would give them): their number is that of the whole system
            command += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
        command += ["--symlink", "/proc/self/fd", "/dev/fd"]
        for folder in ("/usr/lib", "/usr/lib64", "/lib", "/lib64"):
            if os.path.islink(folder):
                command += ["--symlink", os.readlink(folder), folder]
            elif os.path.isdir(folder):
                command += _bind(folder, folder)
        if os.path.exists("/etc/ld.so.cache"):
            command += _bind("/etc/ld.so.cache", "/etc/ld.so.cache")
        for source, target in self._files(setpriv).items():
            command += _bind(source, target)
        return [*command, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", HOME]

    def _files(self, setpriv):
        """The files and folders of ours that are bound, read-only: source and place. The project's folder is not."""
        python = self._python()[0]
        library = os.path.join(sys.base_prefix, "lib")
        files = {python: python} | ({} if library == "/usr/lib" else {library: library}) | self._libraries()
        files |= {str(RUNNER): f"{INSIDE}/runner.py"} | ({setpriv: f"{INSIDE}/setpriv"} if setpriv else {})
        modules = [*PACKAGE.glob("*.py"), *(PACKAGE / name for name in ("_pretrained", "_checks", "__pycache__"))]
        return files | {str(path): f"{INSIDE}/lib/course_lib/{path.name}" for path in modules if path.exists()}


def _start(command, **options):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    # The environment of the grader may hold the secret seed. A process of the same user could read it from bwrap.
    options = {"env": {}, "cwd": "/"} | options
    return subprocess.Popen(command, bufsize=0, start_new_session=True, **pipes, **options)


def _environment(home):
    once = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {"HOME": home, "TMPDIR": home, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "USER": "student",
            "MPLBACKEND": "Agg", **once}  # fmt: skip


def _bind(source, target):
    """A read-only bind, below folders that other users may enter."""
    parents = list(Path(target).parents)[-2::-1]  # from below the root down
    made = [part for parent in parents for part in ("--perms", "0755", "--dir", str(parent))]
    return [*made, "--ro-bind", str(source), str(target)]


def _found(program):
    path = shutil.which(program)
    if path is None:
        raise FileNotFoundError(f"{program} is not installed")
    return os.path.realpath(path)


class _on_processors:
    """Within it, this thread starts processes on the job's own share of the processors, if each job can have one.

    So a submission that starts many processes slows its own job only. The filter forbids it to choose others.
    """

    def __init__(self, job, jobs):
        self.all = sorted(os.sched_getaffinity(0))
        self.share = self.all[job::jobs] if 1 < jobs <= len(self.all) else self.all

    def __enter__(self):
        os.sched_setaffinity(0, self.share)

    def __exit__(self, *details):
        os.sched_setaffinity(0, self.all)


# What is missing

_INSTALL = "Install it: `apt install bubblewrap` (Debian, Ubuntu) or `dnf install bubblewrap` (Fedora)."
_PROBE = """
import json, os, socket
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
def works(action):
    try:
        action()
    except OSError:
        return False
    return True
print(json.dumps({
    "user": os.getuid(), "session": os.getsid(0) != 0, "capabilities": [int(status[f"Cap{x}"], 16) for x in
    ("Inh", "Prm", "Eff", "Amb")], "no_new_privileges": status["NoNewPrivs"].strip(),
    "filter": status["Seccomp"].strip(), "interfaces": [line.split(":")[0].strip() for line in
    open("/proc/net/dev").readlines()[2:]], "processes": sum(name.isdigit() for name in os.listdir("/proc")),
    "writes": [path for path in ("/", "/box", "/usr/lib", "/dev", "/box/lib/course_lib")
    if works(lambda: os.mkdir(path + "/probe"))], "root": sorted(os.listdir("/")),
}))
"""


@functools.cache
def problem(user_namespace: bool | None = None) -> str | None:
    """Why no submission can be confined on this machine, and what helps; None when all is well.

    The last step starts a sandbox and looks from within whether it keeps what it promises.
    """
    if not sys.platform.startswith("linux"):
        return "The sandbox needs Linux. Grade in a Linux machine or container (on Windows: WSL 2)."
    if not seccomp.supported():
        return f"The sandbox knows the processors {', '.join(seccomp.MACHINES)}, not {platform.machine()}."
    if shutil.which("bwrap") is None:
        return f"bubblewrap (bwrap) is not installed. {_INSTALL}"
    if os.geteuid() == 0 and not user_namespace and shutil.which("setpriv") is None:
        return "setpriv is not installed. Install the package util-linux, or grade as an ordinary user."
    if (version := _version()) < (0, 7):
        return f"bubblewrap {'.'.join(map(str, version))} is too old: 0.7 or later is needed (Debian 12, Ubuntu 24.04)."
    return _probe(Sandbox(user_namespace=user_namespace))


def _version():
    said = subprocess.run([_found("bwrap"), "--version"], capture_output=True, text=True, check=False).stdout
    return tuple(map(int, re.findall(r"\d+", said)[:3]))


def _probe(sandbox):
    with sandbox._start_confined(["-c", _PROBE]) as process:
        try:
            output, errors = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            return "bubblewrap did not start a process within 30 s."
    if process.returncode:
        return refusal(errors.decode("utf-8", "replace"))
    broken = list(broken_promises(json.loads(output), sandbox.user))
    return f"The sandbox does not keep its promises: {'; '.join(broken)}." if broken else None


def broken_promises(facts: dict, user: int):
    """What a look from within shows to be otherwise than it should be."""
    if facts["user"] != user or not facts["session"]:
        yield "the process runs as the wrong user or in the grader's session"
    if any(facts["capabilities"]) or facts["no_new_privileges"] != "1":
        yield "the process has capabilities or can get some"
    if facts["filter"] != "2":
        yield "system calls are not filtered"
    if facts["interfaces"] != ["lo"]:
        yield "the process sees a network"
    if facts["processes"] > 3:
        yield "the process sees those of the system"
    if facts["writes"]:
        yield f"the process can write into {', '.join(facts['writes'])}"
    top = {Path(path).parts[1] for path in (INSIDE, HOME, sys.base_prefix)} | {
        "dev",
        "etc",
        "lib",
        "lib64",
        "proc",
        "usr",
    }
    if not set(facts["root"]) <= top:
        yield f"the process sees {', '.join(sorted(set(facts['root']) - top))}"


def refusal(errors: str, read=lambda path: Path(path).read_text(encoding="ascii"), exists=os.path.exists) -> str:
    """The sentence for a system that refuses a sandbox: what bubblewrap said, and the likely remedy."""

    def setting(name):
        try:
            return read(f"/proc/sys/{name}").strip()
        except OSError:
            return None

    said = " ".join(errors.split())[:300] or "nothing"
    if setting("kernel/apparmor_restrict_unprivileged_userns") == "1" and os.geteuid() != 0:
        remedy = (
            "AppArmor keeps ordinary users from making user namespaces (Ubuntu 23.10 and later). Give bwrap a profile:"
            " write `abi <abi/4.0>, profile bwrap /usr/bin/bwrap flags=(unconfined) { userns, }` into"
            " /etc/apparmor.d/bwrap (one part a line) and run `sudo systemctl reload apparmor`; or grade as root."
        )
    elif setting("kernel/unprivileged_userns_clone") == "0" and os.geteuid() != 0:
        remedy = "Allow user namespaces: `sudo sysctl kernel.unprivileged_userns_clone=1`; or grade as root."
    elif setting("user/max_user_namespaces") == "0" and os.geteuid() != 0:
        remedy = "Allow user namespaces: `sudo sysctl user.max_user_namespaces=10000`; or grade as root."
    elif exists("/.dockerenv") or exists("/run/.containerenv"):
        remedy = (
            "This is a container, and it may not make another one inside. Start it with `--cap-add SYS_ADMIN"
            " --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt"
            " systempaths=unconfined`, or grade outside of it."
        )
    else:
        remedy = "Grade as root, or on a Linux machine that lets ordinary users make namespaces."
    return f"The system refuses to make a sandbox; bubblewrap said: {said}. {remedy}"
