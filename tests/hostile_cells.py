"""Submissions that want marks which they do not deserve, or harm: what each tries, what happens, and its mark.

The exercise: ``f(a, b)`` gives the sum of two numbers, and ``g(x)`` that of a list. Three points each; see MARKS in
test_hostile.py. Each case is a list of cells. In their text, HOST is a folder of the grader with the marks and another
student's work, PORT and ADDRESS are those of two servers of the grader. The appendix of the book shows this table.
"""

from dataclasses import dataclass

F = "def f(a, b):\n    return a + b"
G = "def g(x):\n    return sum(x)"
WRONG_F = "def f(a, b):\n    return 0"


@dataclass(frozen=True)
class Case:
    """A submission; ``status`` is the first incident's, None for no incident; ``says`` stands in what it printed."""

    name: str
    tries: str
    happens: str
    cells: tuple
    mark: int = 6
    status: str | None = None
    says: str | None = None
    torch: bool = False


def case(name, tries, happens, *cells, **expected):
    return Case(name, tries, happens, cells, **expected)


# Writes a message into the pipe of replies, as the runner would.
SEND = """
import json, os, struct, sys
def send(message, pipe=4):
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    os.write(pipe, struct.pack(">I", len(body)) + body)
def token():
    frame = sys._getframe()
    while "question" not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals["question"]["id"]
"""
CUT = "The statement is left out, the rest counts."
REFUSED = "The system refuses it; the rest counts."

ENDLESS = [
    case("endless loop", "never to end", CUT, F, "x = 1\nwhile True:\n    pass\nx = 2", G, status="timed out"),
    case(
        "loop that swallows interrupts", "to catch every exception and ignore every signal", CUT,
        F,
        "import signal\nfor n in set(signal.Signals) - {9, 19}:\n    signal.signal(n, signal.SIG_IGN)",
        "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass",
        G, status="timed out",
    ),
    case(
        "endless function", "never to answer", "It is stopped; after the third time it is not called again.",
        "def f(a, b):\n    while True:\n        pass", G, mark=3, status="timed out",
    ),
    case(
        "sleeping function", "to wait without working", "It is stopped; after the third time it is not called again.",
        "import time\ndef f(a, b):\n    time.sleep(1e9)", G, mark=3, status="timed out",
    ),
    case(
        "sleeping destructor", "to sleep in `__del__`", CUT,
        F, "import time\nclass Sleeper:\n    def __del__(self):\n        time.sleep(1e9)", "Sleeper()", G,
        status="timed out",
    ),
    case(
        "alarm", "to hang in the handler of a signal", CUT,
        F,
        "import signal, time\ndef hang(*_):\n    while True:\n        pass\nsignal.signal(signal.SIGALRM, hang)\n"
        "if True:\n    signal.setitimer(signal.ITIMER_REAL, 0.01)\n    time.sleep(1)",
        G, status="timed out",
    ),
    case(
        "handlers at exit", "to keep the process alive at its end", "It is killed; no handler runs.",
        F, "import atexit, time\natexit.register(time.sleep, 1e9)", G,
    ),
    case(
        "endless generator", "to give values for ever", "A generator is no number: no points for it.",
        "def f(a, b):\n    while True:\n        yield a + b", G, mark=3,
    ),
    case(
        "thread", "to leave a thread that never ends", "It ends with the process.",
        F, "import threading, time\nthreading.Thread(target=time.sleep, args=(1e6,)).start()", G,
    ),
]  # fmt: skip

EXITS = [
    case("sys.exit", "to end the notebook", "The cell ends, the next one runs.", F, "import sys\nsys.exit()", G,
         status="raised"),
    case("sys.exit in a function", "to end the tests", "That call has failed.",
         "def f(a, b):\n    raise SystemExit(0)", G, mark=3),
    case("os._exit", "to end the process", CUT, F, "x = 1\nimport os\nos._exit(0)", G, status="crashed"),
    case("os._exit in a function", "to end the tests", "Another process answers for the other functions.",
         "import os\ndef f(a, b):\n    os._exit(0)", G, mark=3, status="crashed"),
    case("kill itself", "to die by a signal", CUT, F, "import os\nos.kill(os.getpid(), 9)", G, status="crashed"),
    case("kill all", "to kill every process that it can", "It reaches its own only. " + CUT,
         F, "import contextlib, os\nif True:\n    with contextlib.suppress(OSError):\n        os.kill(-1, 9)\n"
         "    os.kill(os.getpid(), 9)", G, status="crashed"),
    case("kill the first process", "to kill process 1", "Nothing happens to it.",
         F, "import os, contextlib\nwith contextlib.suppress(PermissionError):\n    os.kill(1, 9)", G),
    case("segmentation fault", "to crash the interpreter", CUT, F, "import ctypes\nctypes.string_at(0)", G,
         status="crashed"),
    case("recursion", "to overflow the stack", CUT,
         F, "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(self):\n        return repr([self])",
         "repr(A())", G, status="crashed"),
    case("exceptions without text", "to raise what cannot be printed", "The exception counts as one.",
         "class E(Exception):\n    def __str__(self):\n        raise E\ndef f(a, b):\n    raise E", G, mark=3),
    case("cell of brackets", "to crash the compiler", "The cell does not run.",
         F, "x = " + "(" * 100_000 + ")" * 100_000, G, status="raised"),
    case("cell that is no text", "to send zeros and halves of characters", "The cells do not run.",
         F, "x = '\0'", "x = '\ud800'", G, status="raised"),
]  # fmt: skip

RESOURCES = [
    case("memory", "to take 20 GB", REFUSED, F, "x = bytearray(20 * 10**9)", G, status="raised"),
    case(
        "memory in many processes", "to take a little in each of many processes", CUT,
        F,
        "import os, time\nif True:\n    for _ in range(20):\n        if os.fork() == 0:\n"
        "            x = b'x' * (48 * 2**20)\n            time.sleep(1e6)\n    time.sleep(10)",
        G, status="too much memory",
    ),
    case(
        "shared memory", "to take memory that belongs to no process", CUT,
        F,
        "import mmap\nif True:\n    m = mmap.mmap(-1, 700 * 2**20)\n    for k in range(700):\n"
        "        m.write(b'x' * 2**20)\n    import time; time.sleep(10)",
        G, status="too much memory",
    ),
    case("memory files", "to take memory through memfd_create", REFUSED,
         F, "import os\nos.memfd_create('x')", G, status="raised"),
    case("System V memory", "to take memory through shmget", REFUSED,
         F, "import ctypes\nprint('result', ctypes.CDLL(None).shmget(0, 2**20, 0o1666))", G, says="result -1"),
    case("output", "to print without end", "After 20 MiB it is ended; the first 20 kB are kept. " + CUT,
         F, "while True:\n    print('x' * 100_000)", G, status="too much output"),
    case("disk", "to fill the disk", "64 MiB, and no more. The rest counts.",
         F, "for k in range(100):\n    open(f'/tmp/{k}', 'wb').write(bytes(2**24))", G, status="raised"),
    case("one large file", "to write a file of 1 GB", REFUSED,
         F, "with open('/tmp/x', 'wb') as file:\n    for _ in range(1024):\n        file.write(bytes(2**20))", G,
         status="raised"),
    case("many files", "to make files without end", CUT,
         F, "k = 0\nwhile True:\n    open(f'/dev/shm/{k}', 'w').close()\n    k += 1", G, status="too many files"),
    case("fork bomb", "to start processes without end", CUT,
         F, "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass", G,
         status=("timed out", "too many processes", "too much memory")),
    case("daemon", "to leave a process that has cut all ties", "It ends with the sandbox.",
         F, "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
         "        os.closerange(0, 100)\n        time.sleep(1e6)\n    os._exit(0)\nos.wait()", G),
    case("forked notebook", "to answer twice, from two processes", "The second one ends.",
         F, "import os\npid = os.fork()", G),
    case("threads", "to start 10,000 threads", "The system refuses, or the process is ended; the rest counts.",
         F, "import threading, time\nfor _ in range(10_000):\n"
         "    threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()", G,
         status=("raised", "too many processes")),
    case("open files", "to open 10,000 files", REFUSED,
         F, "import os\npipes = [os.pipe() for _ in range(10_000)]", G, status="raised"),
    case("limits", "to raise its own limits", REFUSED,
         F, "import resource as r\nr.setrlimit(r.RLIMIT_AS, (r.RLIM_INFINITY, r.RLIM_INFINITY))", G, status="raised"),
    case("processors", "to run on the processors of other jobs", REFUSED,
         F, "import os\nos.sched_setaffinity(0, range(os.cpu_count()))", G, status="raised"),
]  # fmt: skip

SECRETS = [
    case(
        "environment", "to read the secret seed from environments", "They hold nothing of the grader's.",
        F,
        "import glob, os\nprint(dict(os.environ))\n"
        "for path in glob.glob('/proc/*/environ') + glob.glob('/proc/*/cmdline'):\n"
        "    try:\n        print(open(path, 'rb').read())\n    except OSError:\n        pass\nprint('all read')",
        G, says="all read",
    ),
    case("another student's file", "to read it by its path", "The file is not there.",
         F, "print(open('HOST/other.ipynb').read())", G, status="raised"),
    case("the gradebook", "to rewrite it", "It writes into a folder of its own, which vanishes.",
         F, "import os\nos.makedirs('HOST', exist_ok=True)\nopen('HOST/gradebook.db', 'w').write('6')", G),
    case(
        "search of the disk", "to find the tests, the marks and other students' work", "None of it is there.",
        F,
        "import os\nfound, known = [], ('/proc/', '/usr/', '/box/site')\n"
        "for folder, folders, names in os.walk('/'):\n"
        "    folders[:] = [x for x in folders if not os.path.join(folder, x, '').startswith(known)]\n"
        "    folders[:] = [x for x in folders if not x.startswith('python3')]\n"
        "    found += {'other.ipynb', 'gradebook.db', 'tests', 'exercises', 'book', '.git'} & {*folders, *names}\n"
        "print('found', found)",
        G, says="found []",
    ),
    case("the grader's package", "to import it", "It is not there.",
         F, "import course_lib.grading.testing", G, status="raised"),
    case("frames", "to read the expected value from the caller's variables", "The caller is not in this process.",
         "import sys\ndef f(a, b):\n    frame = sys._getframe()\n    while frame:\n"
         "        for name in ('expected', 'answer'):\n            if name in frame.f_locals:\n"
         "                return frame.f_locals[name]\n        frame = frame.f_back",
         G, mark=3),
    case("objects in memory", "to find the tests among all objects", "They are not in this process.",
         "import gc\ndef f(a, b):\n    found = [o for o in gc.get_objects() if callable(o)\n"
         "        and getattr(o, '__name__', '').startswith('marks_')]\n    return found[0](a, b)", G, mark=3),
    case("system's files", "to change the system through /proc", REFUSED,
         F, "open('/proc/sys/kernel/hostname', 'w').write('x')", "open('/proc/sysrq-trigger', 'w').write('b')", G,
         status="raised"),
    case("another process's memory", "to trace process 1", REFUSED,
         F, "import ctypes\nprint('result', ctypes.CDLL(None).ptrace(16, 1, 0, 0))", G, says="result -1"),
    case("keys", "to read the grader's keys from the kernel", REFUSED,
         F, "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
         "number = {'x86_64': 250, 'aarch64': 219}[__import__('os').uname().machine]\n"
         "print('result', libc.syscall(number, 0, -3, 0), ctypes.get_errno())", G, says="result -1 1"),
    case("namespaces", "to become root in a namespace of its own", REFUSED,
         F, "import ctypes\nprint('result', ctypes.CDLL(None).unshare(0x10000000))", G, says="result -1"),
    case("terminal", "to type commands into the teacher's terminal", "There is none.",
         F, "import fcntl\nfcntl.ioctl(2, 0x5412, b'x')", G, status="raised"),
    case("other user", "to become root by a program that may", "There is no such program.",
         F, "import os\nos.execv('/usr/bin/su', ['su'])", G, status="raised"),
    case("devices", "to make a device of the disk", REFUSED,
         F, "import os, stat\nos.mknod('/tmp/disk', stat.S_IFBLK | 0o666, os.makedev(254, 0))", G, status="raised"),
    case("network", "to send what it knows to a server", REFUSED,
         F, "import socket\nsocket.create_connection(('127.0.0.1', PORT), timeout=1)", G, status="raised"),
    case("name of another computer", "to ask for an address", REFUSED,
         F, "import socket\nsocket.getaddrinfo('example.org', 80)", G, status="raised"),
    case("abstract socket", "to reach a service of this computer without a file", REFUSED,
         F, "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0ADDRESS')", G, status="raised"),
    case("library", "to change the installed packages for those who come next", REFUSED,
         F, "import course_lib, os\nopen(os.path.join(os.path.dirname(course_lib.__file__), 'x.py'), 'w')", G,
         status="raised"),
]  # fmt: skip

DECEPTION = [
    case("patched comparison", "to make every comparison true", "The tests compare in another process.",
         "import builtins, math\nmath.isclose = lambda *a, **k: True\nbuiltins.abs = lambda x: 0\n"
         "builtins.all = lambda x: True", WRONG_F, G, mark=3),
    case("patched JSON", "to replace what writes the replies", "The process cannot answer. " + CUT,
         F, "import json\njson.dumps = lambda *a, **k: '[]'", G, status="broke the protocol"),
    case("deleted builtins", "to break the interpreter", "The process cannot answer. " + CUT,
         F, "import builtins\ndel builtins.len", G, status="crashed"),
    case("equal to everything", "to give an object that equals everything", "Objects are never equal to a value.",
         "class E:\n    def __eq__(self, other):\n        return True\ndef f(a, b):\n    return E()", G, mark=3),
    case("object that says yes", "to give an object whose difference to anything is small", "It is no value.",
         "class E:\n    def __sub__(self, other):\n        return self\n    __abs__ = lambda self: self\n"
         "    def __lt__(self, other):\n        return True\n    def __getattr__(self, name):\n"
         "        return lambda *a: True\ndef f(a, b):\n    return E()", G, mark=3),
    case("number equal to everything", "to give a number of a kind of its own", "It arrives as the plain number 0.",
         "class E(int):\n    def __eq__(self, other):\n        return True\n    __hash__ = None\n"
         "def f(a, b):\n    return E(0)", G, mark=3),
    case("right number of another kind", "nothing bad", "It arrives as the plain number, which is right.",
         "class E(int):\n    pass\ndef f(a, b):\n    return E(a + b) if isinstance(a + b, int) else a + b", G),
    case("false class", "to say that an object is an int", "It is no value.",
         "class E:\n    __class__ = int\ndef f(a, b):\n    return E()", G, mark=3),
    case("attributes that raise", "to raise at every look", "It is an object, and no value.",
         "class E:\n    def __getattribute__(self, name):\n        raise RuntimeError(name)\n"
         "def f(a, b):\n    return E()", G, mark=3),
    case("tensor of its own kind", "to give a tensor that says yes", "It arrives as a plain tensor, which is wrong.",
         "import torch\nclass T(torch.Tensor):\n    @classmethod\n    def __torch_function__(c, f, t, a=(), k=None):\n"
         "        return True if f is torch.equal else super().__torch_function__(f, t, a, k or {})\n"
         "def f(a, b):\n    return torch.zeros(()).as_subclass(T)", G, mark=3, torch=True),
    case("huge tensor", "to give a tensor of 8 TB that takes no memory here", "It is too large to be sent.",
         "import torch\ndef f(a, b):\n    return torch.zeros(1, dtype=torch.float64).expand(10**12)", G, mark=3,
         torch=True),
    case("deep list", "to give a list in a list, and so on", "It is too deep to be sent.",
         "def f(a, b):\n    x = []\n    for _ in range(10**6):\n        x = [x]\n    return x", G, mark=3),
    case("list that holds itself", "to give a value without end", "It is too deep to be sent.",
         "def f(a, b):\n    x = []\n    x.append(x)\n    return x", G, mark=3),
    case("huge number", "to give a number of a million digits", "It is too large to be sent.",
         "def f(a, b):\n    return 10**1_000_000", G, mark=3),
    case("changed arguments", "to empty the tests' own list", "It has a copy.",
         F, "def g(x):\n    total = sum(x)\n    x.clear()\n    return total"),
    case("good only once", "to answer well at the first call", "Each call counts for itself.",
         "calls = []\ndef f(a, b):\n    calls.append(1)\n    return a + b if len(calls) == 1 else 0", G, mark=4),
    case("detection", "to behave well only while it is graded", "Its answers are right, so they count.",
         "import os\nif os.uname().nodename == 'sandbox':\n    def f(a, b):\n        return a + b", G),
    case("defined twice", "to define a function again, wrongly", "The last one counts, as in a notebook.",
         F, G, WRONG_F, mark=3),
    case("warnings", "nothing bad: much on stderr", "It costs nothing.",
         F, "import sys, warnings\nwarnings.warn('x')\nprint('error', file=sys.stderr)", G, says="error"),
]  # fmt: skip

PIPE = [
    case("reply before the question", "to have the answer there already", "It ends the process. " + CUT,
         F, SEND, "send({'id': '', 'value': 5})", G, status="broke the protocol"),
    case("reply to another question", "to answer with a wrong number", "It ends the process. " + CUT,
         F, SEND, "send({'id': 'f' * 32, 'value': 5})", G, status="broke the protocol"),
    case("second reply", "to answer a question twice", "The first answer counts, and is wrong; g is asked again.",
         SEND, "def f(a, b):\n    send({'id': token(), 'value': 0})\n    return a + b", G, mark=3,
         status="broke the protocol"),
    case("announced 4 GB", "to have the grader wait for a huge message", "It ends the process. " + CUT,
         F, "import os\nos.write(4, b'\\xff' * 4)", G, status="broke the protocol"),
    case("30 MB of brackets", "to exhaust the reader of JSON", "It ends the process. " + CUT,
         F, SEND, "send(b'[' * 30_000_000)", G, status="broke the protocol"),
    case("no JSON", "to confuse the reader", "It ends the process. " + CUT,
         F, SEND, "send(b'{\"id\": NaN')", G, status="broke the protocol"),
    case("half a message", "to have the grader wait", CUT,
         F, "import os\nos.write(4, b'\\0\\0\\1\\0half')", G, status=("broke the protocol", "timed out")),
    case("byte by byte", "to have the grader wait a little longer each time", CUT,
         F, "import os, time\nwhile True:\n    os.write(4, b'\\0')\n    time.sleep(0.4)", G,
         status=("broke the protocol", "timed out")),
    case("thread at the pipe", "to write into the pipe all the time", CUT,
         F, "import os, threading, time\ndef noise():\n    while True:\n        os.write(4, b'noise')\n"
         "if True:\n    threading.Thread(target=noise).start()\n    time.sleep(0.5)", G, status="broke the protocol"),
    case("closed pipe", "to leave the grader without an answer", CUT,
         F, "import os\nos.close(4)", G, status="crashed"),
    case("all closed", "to close every file", CUT, F, "import os\nos.closerange(0, 200)", G, status="crashed"),
    case("read questions", "to read the next question itself", CUT, F, "import os\nos.read(3, 10**6)", G,
         status="timed out"),
    case("another program", "to start one that keeps the pipes and is silent", CUT,
         F, "import os, sys\nos.execv(sys.executable, ['python', '-c', 'import time; time.sleep(1e9)'])", G,
         status="timed out"),
    case(
        "a program that says 5", "to answer every question with 5, from another program",
        "It is right where 5 is right.",
        "import os, sys\nprogram = '''\nimport json, os, struct\nwhile True:\n"
        "    question = json.loads(os.read(3, struct.unpack('>I', os.read(3, 4))[0]))\n"
        "    value = {'object': 0} if question.get('action') == 'value' else 5\n"
        "    reply = json.dumps({'id': question['id'], 'value': value}).encode()\n"
        "    os.write(4, struct.pack('>I', len(reply)) + reply)\n'''\n"
        "reply = None\nif True:\n    frame = sys._getframe()\n    while 'question' not in frame.f_locals:\n"
        "        frame = frame.f_back\n    import json, struct\n"
        "    reply = json.dumps({'id': frame.f_locals['question']['id'], 'value': None}).encode()\n"
        "    os.write(4, struct.pack('>I', len(reply)) + reply)\n"
        "    os.set_inheritable(3, True); os.set_inheritable(4, True)\n"
        "    os.execv(sys.executable, ['python', '-c', program])",
        mark=1,
    ),
    case("reference to nothing", "to give an object that is not there", "It is no value.",
         SEND, "def f(a, b):\n    send({'id': token(), 'value': {'object': 10**30}})\n    os._exit(0)", G, mark=3,
         status=("crashed", None)),
    case("reference to the tests' names", "to give one of the tests' own objects", "It is no value.",
         SEND, "def f(a, b):\n    send({'id': token(), 'value': {'name': 'expected'}})\n    os._exit(0)", G, mark=3,
         status=("crashed", None)),
    case("false exception", "to raise what no class of ours is", "It ends the process; no points for it.",
         SEND, "def f(a, b):\n    send({'id': token(), 'error': {'kind': ['x'], 'builtin': 'KeyboardInterrupt'}})\n"
         "    os._exit(0)", G, mark=3, status="broke the protocol"),
    case("exception that ends the grader", "to raise KeyboardInterrupt in the tests", "It is one of the student's.",
         "def f(a, b):\n    raise KeyboardInterrupt", G, mark=3),
    case("statement numbers", "to count statements for ever", "It ends the process. " + CUT,
         F, SEND, "send({'id': token(), 'at': -1})", G, status="broke the protocol"),
]  # fmt: skip

CASES = [*ENDLESS, *EXITS, *RESOURCES, *SECRETS, *DECEPTION, *PIPE]
