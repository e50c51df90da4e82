"""The trusted side of one running sandbox: messages with deadlines, an eye on what it uses, and its end.

A thread reads what the process prints, so that it never waits, and looks ten times a second at what all processes of
the sandbox use together; limits of the kernel count for each process alone.
"""

import contextlib
import os
import select
import shutil
import subprocess
import threading
import time
from pathlib import Path

from course_lib import _wire
from course_lib.grading.sandbox import Sandbox

LOOK = 0.1  # seconds between two looks at what a sandbox uses
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_BLOCK = 2**18


class Ended(Exception):
    """The process is gone, or was ended: ``status`` in two or three words, and a sentence."""

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status = status


class Deadline:
    """Seconds for one answer. Where the machine is busy, what the process waited for a processor is given back.

    At most twice as much is added, so that a process which is kept waiting by its own children has an end too.
    """

    def __init__(self, seconds: int | float, delayed):
        self.seconds, self.delayed = seconds, delayed
        self.started, self.delay = time.monotonic(), delayed()

    def used(self) -> int | float:
        return time.monotonic() - self.started - min(self.delayed() - self.delay, 2 * self.seconds)

    def left(self) -> int | float:
        left = self.started + self.seconds - time.monotonic()
        return left if left > 0 else self.seconds - self.used()


class Process:
    """A runner in a sandbox. Each method raises Ended when it is over; then nothing of it runs any more."""

    def __init__(self, sandbox: Sandbox, preload: tuple = ("torch",)):
        self.limits = sandbox.limits
        self.confined = not sandbox.unsafe
        self.popen = sandbox.start(preload)
        self.end = None  # status and sentence, once it is over
        self.keep_output = True
        self.printed = bytearray()
        self.n_printed = 0
        self.ready, self.runner = False, None
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            os.set_blocking(pipe.fileno(), False)
        self._reading = threading.Lock()
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="watch over a submission")
        self._watcher.start()

    def wait_until_ready(self) -> None:
        """Until the runner can be asked."""
        message = self.receive(self.deadline(self.limits.start))
        if message != {"ready": True}:
            self.fail("broke the protocol", "The process spoke before it was asked.")
        self.runner = usage(tree(self.popen.pid))["last"]
        self.ready = True

    def deadline(self, seconds: int | float) -> Deadline:
        """From now on."""
        return Deadline(seconds, self._delayed)

    def _delayed(self):
        """Seconds that the runner could have run and had no processor."""
        try:
            return int(Path(f"/proc/{self.runner}/schedstat").read_bytes().split()[1]) / 1e9
        except (OSError, IndexError):  # it is gone, or the system does not say
            return 0.0

    def output(self) -> str:
        """The beginning of what was printed while ``keep_output`` was set."""
        for _ in range(100):  # what was printed before the last reply is in the pipe, if it was not read yet
            if not _events(self.popen.stderr) or not self._take():
                break
        return bytes(self.printed).decode("utf-8", "replace")

    # Messages

    def send(self, message: dict, deadline: Deadline) -> None:
        """Write a message; the process may be slow to read, or never do it."""
        data = memoryview(_wire.pack(message))
        pipe = self.popen.stdin.fileno()
        while data:
            self._wait_for(pipe, select.POLLOUT, deadline)
            try:
                data = data[os.write(pipe, data[:_BLOCK]) :]
            except BlockingIOError:
                continue
            except OSError:  # nobody reads
                self._gone()

    def receive(self, deadline: Deadline) -> dict:
        """The next message."""
        try:
            length = _wire.body_length(self._read(_wire.HEAD_BYTES, deadline))
            return _wire.unpack(self._read(length, deadline))
        except _wire.WireError as error:
            return self.fail("broke the protocol", f"The process sent what is no reply: {error}.")

    def nothing_waits(self) -> bool:
        """Whether the process has said nothing that was not read."""
        return not _events(self.popen.stdout) & select.POLLIN  # its end alone (POLLHUP) says nothing

    def _read(self, length, deadline):
        data, pipe = bytearray(), self.popen.stdout.fileno()
        while len(data) < length:
            self._wait_for(pipe, select.POLLIN, deadline)
            try:
                part = os.read(pipe, min(length - len(data), _BLOCK))
            except BlockingIOError:
                continue
            if not part:
                self._gone()
            data += part
        return bytes(data)

    def _wait_for(self, pipe, event, deadline):
        poll = select.poll()
        poll.register(pipe, event)
        while not self._over.is_set():
            left = deadline.left()
            if left <= 0:
                self.fail("timed out", "It took too long.")
            if poll.poll(min(left, 0.5) * 1000):
                return
        self._gone()

    # The end

    def fail(self, status: str, message: str):
        """End the process, and say why."""
        self.kill(status, message)
        raise Ended(*self.end)

    def _gone(self):
        """The other end of a pipe is closed: for the watcher's reason, or because the process ended by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(timeout=1)
        self.is_over()
        self.fail("crashed", "The process closed its pipe.")

    def is_over(self) -> bool:
        """Whether it has ended, for the reason in ``end``."""
        if self.end is None and self.popen.poll() is not None:
            self.kill("crashed", f"The process ended by itself{_how(self.popen.poll())}.")
        return self.end is not None

    def kill(self, status: str = "ended", message: str = "") -> None:
        """End every process of the sandbox, at once. The first reason counts."""
        if self.end is None:
            self.end = (status, message)
        self._over.set()
        members = list(tree(self.popen.pid)) if self.popen.poll() is None else []
        if self.confined:
            # The first process of the namespace: with it the kernel ends all others. bwrap sees that and ends too.
            _kill_all(pid for pid, fields in members if int(fields[1]) == self.popen.pid)
        else:
            # Its group, and the others that were seen. What has hidden itself runs on.
            _kill_all([-self.popen.pid, *(pid for pid, _ in members)])
        try:
            self.popen.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.popen.kill()  # the kernel then ends the first process of the namespace
            self.popen.wait()
        _wait_until_gone(members)

    def close(self) -> None:
        """End it, and give back the pipes and the thread."""
        self.kill()
        if threading.current_thread() is not self._watcher:
            self._watcher.join(timeout=5)
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            pipe.close()
        if not self.confined:
            shutil.rmtree(self.popen.home, ignore_errors=True)

    # The watcher's thread

    def _watch(self):
        printing, next_look = True, 0.0
        while not self._over.is_set() and self.popen.poll() is None:
            if printing and _events(self.popen.stderr, LOOK):
                printing = self._take()
            elif not printing:
                self._over.wait(LOOK)
            if time.monotonic() >= next_look:
                reason = self._excess()
                next_look = time.monotonic() + LOOK
                if reason is not None:
                    self.kill(*reason)

    def _take(self):
        """Read what was printed; whether more may come."""
        with self._reading:
            try:
                part = os.read(self.popen.stderr.fileno(), _BLOCK)
            except BlockingIOError:
                return True
            self.n_printed += len(part)
            if self.keep_output:
                self.printed += part[: max(0, self.limits.output_kept - len(self.printed))]
            return bool(part)

    def _excess(self):
        """Of what the sandbox uses too much: a status and a sentence, or None."""
        limits, use = self.limits, usage(tree(self.popen.pid))
        if self.n_printed > limits.output:
            return "too much output", f"It printed more than {limits.output // 2**20} MiB."
        if use["memory"] > limits.memory:
            return "too much memory", f"It used more than {limits.memory // 2**20} MiB."
        if use["processor"] > limits.processor:
            return "too much processor time", f"It used the processor for more than {limits.processor} s."
        if use["threads"] > limits.processes + 3:  # bwrap has two of them
            return "too many processes", f"It started more than {limits.processes} processes or threads."
        # Only when the sandbox stands: until then its processes see the files of the system.
        if self.ready and self.confined and _n_files(self.runner) > limits.files:
            return "too many files", f"It made more than {limits.files} files."
        return None


def _events(pipe, seconds=0.0):
    """What happens within that time at a pipe to read from, as bits of ``select``."""
    poll = select.poll()
    poll.register(pipe.fileno(), select.POLLIN)
    return next((events for _, events in poll.poll(seconds * 1000)), 0)


def _how(code):
    if code is None or code == 0:
        return ""
    signal = -code if code < 0 else code - 128  # bwrap gives a signal as a shell does
    return f" (signal {signal})" if signal > 0 else f" (exit code {code})"


def _kill_all(pids):
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, 9)


def _wait_until_gone(members, seconds=5.0):
    """Their end was ordered; wait until it has happened. A number may meanwhile belong to another process.

    One that has ended and was not yet taken note of (Z) counts as gone.
    """
    deadline = time.monotonic() + seconds
    for pid, fields in members:
        while (now := _stat(pid)) is not None and now[19] == fields[19] and now[0] not in "ZX":
            if time.monotonic() > deadline:
                return
            time.sleep(0.002)


# What processes use


def _stat(pid):
    """The fields of /proc/<pid>/stat after the name: 0 state, 1 parent, 11 to 14 times, 17 threads, 19 start."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode("ascii", "replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()  # the name may hold blanks and brackets


def tree(root: int):
    """A process and all that come from it: number and fields of each. Orphans of a sandbox stay below its first one."""
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:  # no /proc: another system than Linux
        return
    stats = {pid: fields for pid in pids if (fields := _stat(pid))}
    children = {}
    for pid, fields in stats.items():
        children.setdefault(int(fields[1]), []).append(pid)
    waiting = [root] if root in stats else []
    while waiting:
        pid = waiting.pop()
        yield pid, stats[pid]
        waiting += children.get(pid, [])


def usage(members) -> dict:
    """Memory in bytes, processor time in seconds and threads of some processes, and one of the youngest of them."""
    use = {"memory": 0, "processor": 0.0, "threads": 0, "last": None}
    for pid, fields in members:
        use["memory"] += _memory(pid)
        use["processor"] += sum(map(int, fields[11:15])) / _TICKS  # its own, and of children that ended
        use["threads"] += int(fields[17])
        use["last"] = pid
    return use


def _memory(pid):
    """What is in memory or swapped out for a process alone, or shared without a file."""
    try:
        lines = Path(f"/proc/{pid}/status").read_bytes().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith((b"RssAnon", b"RssShmem", b"VmSwap")))


def _n_files(pid):
    """How many files the sandbox's two writable folders hold, seen through the root of one of its processes."""
    number = 0
    for folder in ("tmp", "dev/shm"):
        with contextlib.suppress(OSError):
            status = os.statvfs(f"/proc/{pid}/root/{folder}")
            number += status.f_files - status.f_ffree
    return number
