"""What a test can do with a student's names, and what happens when the student's process ends."""

import math
import os
import random
import sys
import time

import numpy as np
import pytest
import torch

from course_lib import _wire
from course_lib.grading import box as box_module
from course_lib.grading.box import Box, SandboxError, StudentError, plain, student_error
from course_lib.grading.process import Deadline, Ended
from course_lib.grading.remote import Remote, as_object, call_and_arguments, student_names
from course_lib.grading.runner import describe, without_magics
from course_lib.grading.sandbox import Limits, Sandbox, problem

# Where CI runs on Linux, bubblewrap must work; elsewhere the tests say what is missing.
MUST_RUN = "CI" in os.environ and sys.platform == "linux"
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
pytestmark = pytest.mark.skipif(not MUST_RUN and problem() is not None, reason=str(problem()))
SHORT = Limits(cell=1, call=1, cells=20, calls=20)


def make(*cells, limits=SHORT, shared=None, preload=()):
    return Box(cells, Sandbox(WORKER, limits=limits), preload=preload, shared=shared)


STUDENT = """
import math, torch
theta = torch.tensor([1.0, 2.0], dtype=torch.float64)
numbers = {"a": (1, 2.5), "b": [None, True]}
def double(x):
    return 2 * x
def apply(function, x, *, times=1):
    for _ in range(times):
        x = function(x)
    return x
def draw(n, generator):
    return torch.randn(n, generator=generator)
def step(params, rate):
    for p in params:
        p -= rate
    return len(params)
def count():
    n = 0
    while True:
        yield n
        n += 1
def fail(kind):
    raise {"value": ValueError, "key": KeyError, "own": Own}[kind]("no good")
class Own(ArithmeticError):
    pass
class Scalar:
    total = 0
    def __init__(self, value):
        self.value = value
    def __add__(self, other):
        return Scalar(self.value + (other.value if isinstance(other, Scalar) else other))
    __radd__ = __add__
    def __neg__(self):
        return Scalar(-self.value)
    def __lt__(self, other):
        return self.value < other.value
    def __getitem__(self, n):
        return self.value * n
    def __len__(self):
        return 3
    def __eq__(self, other):
        return True
    @property
    def broken(self):
        raise RuntimeError("lazily")
"""


def cube(x):
    return x**3


@pytest.fixture(scope="module")
def names():
    shared = {"cube": cube}
    cells = ["def cube(x):\n    return x**3", STUDENT]
    known = ["theta", "numbers", "double", "apply", "draw", "step", "count", "fail", "Scalar", "missing"]
    with make(*cells, limits=Limits(call=10), shared=shared, preload=("torch",)) as box:
        yield student_names(box, known)
        assert box.incidents == []


def test_plain_values_are_themselves(names):
    assert type(names["theta"]) is torch.Tensor
    assert torch.equal(names["theta"], torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert names["numbers"] == {"a": (1, 2.5), "b": [None, True]}


def test_calls_with_numbers_tensors_and_keywords(names):
    assert names["double"](3) == 6
    assert math.isnan(names["double"](math.nan))
    assert torch.equal(names["double"](torch.ones(2, 3, dtype=torch.float32)), 2 * torch.ones(2, 3))
    assert names["apply"](names["double"], 1, times=3) == 8  # one of the student's own functions
    assert names["apply"](cube, 2, times=2) == 512  # one that the notebook has too
    with pytest.raises(ValueError, match="a function cannot be sent"):
        names["apply"](lambda x: x, 2)


def test_a_generator_goes_along_with_its_state(names):
    generator = torch.Generator().manual_seed(5)
    torch.randn(3, generator=generator)
    got = names["draw"](4, generator=generator)
    assert torch.equal(got, torch.randn(4, generator=generator))


def test_changes_of_arguments_are_seen_on_request(names):
    params = [torch.zeros(2), torch.ones(2)]
    assert names["step"](params, 0.5) == 2
    assert params[0].sum() == 0  # the function had copies
    result, (after, rate), keywords = call_and_arguments(names["step"], params, 0.5)
    assert (result, rate, keywords) == (2, 0.5, {})
    assert torch.equal(torch.stack(after), torch.tensor([[-0.5, -0.5], [0.5, 0.5]]))
    _, (after,), keywords = call_and_arguments(names["step"], params, rate=1.0)
    assert keywords == {"rate": 1.0}
    assert after[0].sum() == -2


def test_objects_stay_inside_and_do_what_they_can(names):
    one = as_object(names["Scalar"])(1)
    assert isinstance(one, Remote)
    assert (one + one).value == 2
    assert (one + 5).value == (5 + one).value == 6
    assert (-one).value == -1
    assert (one < one) is False
    assert one[4] == 4
    assert len(one) == 3
    one.value = 7
    assert one.value == 7
    assert as_object(names["Scalar"]).total == 0
    assert not hasattr(one, "nothing")
    with pytest.raises(RuntimeError, match="lazily"):
        _ = one.broken
    assert as_object(3) == 3


def test_a_generator_without_end_can_be_asked_for_some(names):
    endless = as_object(names["count"]())
    assert [n for n, _ in zip(endless, range(4), strict=False)] == [0, 1, 2, 3]
    assert next(iter(endless)) == 5  # zip took one more


CARELESS = [
    lambda r: r == 5, lambda r: r != 4, lambda r: abs(r - 5) < 1e-6, lambda r: r - 5 > -1, lambda r: r <= 5,
    lambda r: r.allclose(5), lambda r: r.item() == 5, lambda r: len(r) == 3, lambda r: r[0] == 5, lambda r: 5 in r,
    lambda r: float(r) == 5, lambda r: int(r) == 5, lambda r: not r, lambda r: r is not None and bool(r),
    lambda r: torch.allclose(r, torch.ones(1)), lambda r: torch.as_tensor(r) == 5, lambda r: np.allclose(r, 5),
    lambda r: math.isclose(r, 5), lambda r: [r] == [5], lambda r: {r: 1}, lambda r: r.shape == (3,),
    lambda r: 5 - r < 1, lambda r: all(x == 5 for x in r), lambda r: hasattr(r, "shape"), lambda r: [*r],
    lambda r: sorted([r, 5]), lambda r: 5 * r, lambda r: round(r) == 5, lambda r: range(r), lambda r: r.sum() == 5,
]  # fmt: skip


@pytest.mark.parametrize("test", CARELESS)
def test_no_careless_test_believes_an_object_that_says_yes_to_all(test):
    """The stand-in asks nothing: there is not even a process behind this one."""
    with pytest.raises((StudentError, TypeError, RuntimeError)):
        test(Remote(None, {"object": 0}, "f"))


def test_exceptions_of_a_known_kind_can_be_caught_as_such(names):
    with pytest.raises(ValueError, match="ValueError: no good") as error:
        names["fail"]("value")
    assert (error.value.status, error.value.kind, error.value.place) == ("raised", "ValueError", "cell 2, line 23")
    with pytest.raises(KeyError, match="no good"):
        names["fail"]("key")
    with pytest.raises(ArithmeticError, match="Own: no good") as error:
        names["fail"]("own")
    assert error.value.kind == "Own"


def test_a_name_that_is_not_there_raises_when_it_is_used(names):
    with pytest.raises(NameError, match="name 'missing' is not defined"):
        names["missing"](1)


@pytest.mark.parametrize("builtin", ["KeyboardInterrupt", "SystemExit", "StopIteration", "GeneratorExit", "Exit", None])
def test_no_student_can_raise_what_would_end_the_grader(builtin):
    error = student_error("raised", "x", "x", builtin)
    assert type(error) is StudentError


# Cells


def test_cells_share_a_namespace_and_an_error_ends_only_its_cell():
    cells = ["x = 1", "y = x + 1\n1 / 0\nz = 3", "w = y + 1", "v = (", "u = w + 1"]
    with make(*cells) as box:
        names = student_names(box, ["y", "z", "w", "u"])
        assert (names["y"], names["w"], names["u"]) == (2, 3, 4)
        assert isinstance(names["z"], Remote)
        assert [(i.place, i.status, i.message.split(":")[0]) for i in box.incidents] == [
            ("cell 2, line 2", "raised", "ZeroDivisionError"),
            ("cell 4, line 1", "raised", "SyntaxError"),
        ]


def test_a_cell_may_fork():
    with make("import os\npid = os.fork()\nx = 1\ny = 2\nif pid == 0:\n    os._exit(0)", "os.wait()") as box:
        assert student_names(box, ["y"]) == {"y": 2}
        assert box.incidents == []


def test_a_notebook_finds_what_a_notebook_has():
    cells = [
        "%matplotlib inline\n!pip install x\nx = 1",
        "%%time\ny = 2",
        "%%bash\nexit 1",
        "get_ipython().run_line_magic('time', '')\ndisplay(x)\nprint(__name__)",
        "from __future__ import annotations",
        "def f(a: nothing) -> nothing:\n    return 3",
        "import inspect\nprint(inspect.getsource(f).splitlines()[1].strip())",
        "import dataclasses\n@dataclasses.dataclass\nclass D:\n    a: int",
    ]
    with make(*cells) as box:
        names = student_names(box, ["x", "y", "f"])
        assert (names["x"], names["y"], names["f"](0)) == (1, 2, 3)
        assert box.incidents == []
        assert box.output.split("\n") == ["1", "__main__", "return 3", ""]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = 5\nx = (x\n% 2)", "x = 5\nx = (x\n% 2)"),  # Python, and not a magic
        ("x?\n?x\ny = 1", "pass\npass\ny = 1"),
        ("%%html\n<b>", ""),
        ("\n%%timeit -n 3\nx = 1", "\nx = 1"),
        ("%%", ""),
        ("", ""),
    ],
)
def test_magics(source, expected):
    assert without_magics(source) == expected


def test_what_functions_print_is_not_kept():
    """Their inputs are a hidden test's, and what is kept may be shown."""
    with make("print('seen')\ndef f(x):\n    print('input', x)\n    return x") as box:
        f = student_names(box, ["f"])["f"]
        assert (f(42), f(43)) == (42, 43)
    assert box.output == "seen\n"


# When the process ends


def test_the_statement_that_ended_the_process_is_left_out_and_what_stands_before_it_is_not():
    with make("a = 1\nimport os\nos._exit(3)\nb = 2", "c = a + 1") as box:
        names = student_names(box, ["a", "b", "c"])
        assert (names["a"], names["c"]) == (1, 2)
        assert isinstance(names["b"], Remote)
        assert [(i.place, i.status) for i in box.incidents] == [("cell 1", "crashed")]
        assert "exit code 3" in box.incidents[0].message
        assert box.life == 2


def test_objects_of_an_ended_process_are_lost_and_names_are_not():
    with make("class A:\n    x = 1\nimport os\ndef die():\n    os._exit(0)") as box:
        names = student_names(box, ["A", "die"])
        a = as_object(names["A"])()
        assert a.x == 1
        with pytest.raises(StudentError) as error:
            names["die"]()
        assert error.value.status == "crashed"
        with pytest.raises(StudentError, match="is lost, because the process ended"):
            _ = a.x
        assert as_object(names["A"])().x == 1


def test_a_question_about_an_object_is_not_asked_in_another_process():
    cell = (
        "import os\nclass A:\n    def __init__(self, x):\n        self.x = x\n    def die(self):\n        os._exit(0)"
    )
    with make(cell) as box:
        A = as_object(student_names(box, ["A"])["A"])
        a = A(1)
        with pytest.raises(StudentError, match="is lost, because the process ended"):
            a.die()
        other = A(2)  # the first object of the new process, as a was of the old one
        assert other.x == 2
        with pytest.raises(StudentError, match="is lost, because the process ended"):
            _ = a.x


def test_a_name_that_keeps_ending_the_process_is_given_up():
    with make("import time\ndef f():\n    time.sleep(100)\ndef g():\n    return 1", limits=Limits(call=0.3)) as box:
        names = student_names(box, ["f", "g"])
        statuses = []
        for _ in range(5):
            with pytest.raises(StudentError) as error:
                names["f"]()
            statuses.append(error.value.status)
        assert statuses == ["timed out"] * box_module.MAX_ENDS + ["gave up"] * (5 - box_module.MAX_ENDS)
        assert names["g"]() == 1


def test_the_time_for_all_cells_is_bounded():
    cells = ["x = 1", "import time\ntime.sleep(100)", "time.sleep(100)", "y = 2"]
    with make(*cells, limits=Limits(cell=0.4, cells=0.7)) as box:
        names = student_names(box, ["x", "y"])
        assert names["x"] == 1  # what ran before counts
        assert isinstance(names["y"], Remote)
        assert box.incidents[-1].message == "It was not run: the time for all cells is used up."


def test_the_time_for_all_calls_is_bounded():
    with make("import time\ndef f():\n    time.sleep(0.3)", limits=Limits(call=1, calls=0.5)) as box:
        f = student_names(box, ["f"])["f"]
        started = time.monotonic()
        with pytest.raises(StudentError) as error:
            [f() for _ in range(100)]
        assert error.value.status == "timed out"
        assert time.monotonic() - started < 10


def test_a_question_after_a_false_reply_is_asked_again():
    """No name is to blame for what a thread wrote before the question."""
    cell = "import os, threading\nwrite = threading.Timer(0.2, os.write, [4, b'false'])"
    with make(cell, "def f():\n    write.start()\ndef g():\n    return 1") as box:
        names = student_names(box, ["f", "g"])
        names["f"]()
        time.sleep(0.5)
        assert names["g"]() == 1
        assert [(i.place, i.message) for i in box.incidents] == [("g", "The process spoke before it was asked.")]


def test_a_process_that_always_ends_is_given_up():
    """A thread ends it somewhat later, so that no statement seems to do it."""
    cell = "import os, threading\nthreading.Timer(0.05, os._exit, [1]).start()"
    limits = Limits(cell=1, call=1, restarts=3)
    with make(cell, "import time\ntime.sleep(0.2)\ndef f():\n    return 1", limits=limits) as box:
        names = student_names(box, ["f"])
        for _ in range(4):
            time.sleep(0.1)
            with pytest.raises(StudentError):
                names["f"]()
        assert box.life <= limits.restarts + 1


def test_a_question_that_nobody_reads_times_out():
    with make("def f(x):\n    return 1", limits=Limits(call=0.5)) as box:
        names = student_names(box, ["f"])
        os.kill(box.process.runner, 19)  # the process stands still, and the pipe holds 64 kB
        with pytest.raises(StudentError) as error:
            names["f"]("x" * 2**20)
        assert error.value.status == "timed out"
        assert names["f"]("x" * 2**20) == 1


def test_a_sandbox_that_does_not_start_is_not_the_students_fault():
    with make("x = 1", preload=("no_such_module",)) as box:
        with pytest.raises(SandboxError, match=r"The sandbox did not start.*No module named 'no_such_module'"):
            box.run()
        assert box.process is None
        assert box.incidents == []


def test_closing_twice_and_asking_again():
    box = make("x = 1")
    assert student_names(box, ["x"]) == {"x": 1}
    box.close()
    box.close()
    assert student_names(box, ["x"]) == {"x": 1}
    box.close()


# A process that says anything


class Liar:
    """In the place of a process: it answers every question at once, with nonsense."""

    keep_output = False
    end = None

    def __init__(self, chance):
        self.chance = chance

    def deadline(self, seconds):
        return Deadline(seconds, lambda: 0.0)

    def is_over(self):
        return False

    def nothing_waits(self):
        return True

    def send(self, message, deadline):
        self.token = message["id"]

    def receive(self, deadline):
        kind = self.chance.choice(["value", "value", "value", "error", "at", "ready", "both"])
        content = nonsense(self.chance, 0)
        message = {"value": content, "error": content} if kind == "both" else {kind: content}
        if kind == "error" and self.chance.random() < 0.8:
            message = {"error": {name: nonsense(self.chance, 2) for name in ("kind", "builtin", "message", "place")}}
        return message | ({"id": self.token} if self.chance.random() < 0.95 else {"id": content})

    def fail(self, status, message):
        raise Ended(status, message)

    def output(self):
        return ""

    def close(self):
        pass


def nonsense(chance, depth):
    tags = ["tuple", "dict", "tensor", "array", "float", "complex", "dtype", "generator", "name", "object", "other"]
    kind = chance.choice(["list", "tag", "tag"] if depth < 2 else ["plain"])
    if kind == "list":
        return [nonsense(chance, depth + 1) for _ in range(chance.randint(0, 3))]
    if kind == "tag":
        return {chance.choice(tags): nonsense(chance, depth + 1)}
    return chance.choice(
        [None, True, 0, -1, 3, 10**30, 1.5, "x", "\ud800", "KeyboardInterrupt", "AssertionError", "a" * 5000]
    )


@pytest.mark.parametrize("seed", range(3))
def test_whatever_a_process_says_a_test_sees_values_stand_ins_and_errors_of_the_student(seed, monkeypatch):
    chance, values, said = random.Random(seed), 0, []
    actions = [
        lambda f: f(1), lambda f: f.name, lambda f: f + 1, lambda f: len(f), lambda f: next(iter(f)), lambda f: f < 3,
        lambda f: call_and_arguments(f, 1, a=2), lambda f: list(zip(f, range(3), strict=False)), lambda f: f[2],
    ]  # fmt: skip
    for _ in range(400):
        with make("") as box:
            box.process, box.life = Liar(chance), 1
            box._ends.clear()
            monkeypatch.setattr(box, "run", lambda box=box: setattr(box, "process", Liar(chance)))
            f = as_object(student_names(box, ["f"])["f"])
            try:
                value = chance.choice(actions)(f) if isinstance(f, Remote) else f
            except (StudentError, StopIteration) as error:
                said.append(str(error))
                continue
            values += 1
            assert isinstance(value, Remote) or decode_again(value)
    assert values > 5
    assert max(map(len, said)) < 3_000
    assert "".join(said).encode("utf-8")


def decode_again(value):
    """What reaches a test are values of the wire, or stand-ins among them."""
    _wire.encode(value, lambda other: {"object": 0} if isinstance(other, Remote) else None)
    return True


# Texts


def test_a_text_of_the_student_can_be_printed_anywhere():
    assert plain("a\x1b[31m\x00b\r\n\ud800c\u202e") == "a[31mb  c"
    assert len(plain("x" * 10**6)) == box_module.MAX_TEXT
    assert plain(3) == plain(["x"]) == ""


def test_an_exception_is_described_even_if_it_does_not_want_to_be():
    class Hidden(ValueError):
        def __str__(self):
            raise KeyboardInterrupt

    assert describe(Hidden()) == {
        "kind": "Hidden", "builtin": "ValueError", "message": "(an exception without a readable text)", "place": None
    }  # fmt: skip
    assert len(describe(ValueError("x" * 10**6))["message"]) == 1000
