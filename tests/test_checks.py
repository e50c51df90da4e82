"""What the public check says, in every case, and that nothing a student writes can make it raise."""

import functools
import linecache
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib import _wire, checks
from course_lib._comparison import difference, kind_of, show
from course_lib._forbidden import in_cells, in_function, watched

TWO = torch.tensor([1.0, 2.0], dtype=torch.float64)


def exercise(examples, mistakes=(), **changed):
    """An exercise as it is stored; an example is (arguments, expected value or name of an exception)."""

    def outcome(value):
        if value is None:
            return None
        return {"raises": value} if isinstance(value, str) else {"value": _wire.encode(value)}

    plain = {
        "id": "2.1", "title": "Twice", "points": 6.0, "level": "warm-up", "function": "twice", "forbids": [],
        "hint": "Multiply by two.", "rtol": None, "atol": None,
        "examples": [{"arguments": _wire.encode(one)} | outcome(value) for one, value in examples],
        "mistakes": [{"says": says, "outcomes": [outcome(value) for value in values]} for says, values in mistakes],
    }  # fmt: skip
    return plain | changed


def with_names(form, expected):
    """An exercise whose only example is stored in this form."""
    return exercise([]) | {"examples": [{"arguments": form, "value": expected}]}


@pytest.fixture
def say(monkeypatch, capsys):
    """What `check` prints for a function, given the exercise."""
    checks.forget()

    def run(stored, function, number="2.1"):
        others = [exercise([((1,), 2)], id="2.2", title="Another", points=4.0)]
        loaded = {"exercises": [stored, *others], "written": {"id": "2.w", "points": 5.0}}
        monkeypatch.setattr(checks, "_load", lambda chapter: loaded if chapter == 2 else None)
        checks._values.clear()
        checks.check(number, function)
        return capsys.readouterr().out

    yield run
    checks.forget()


ONE = exercise([((TWO,), 2 * TWO), ((torch.tensor(3.0),), torch.tensor(6.0))])


# The messages


def test_a_right_answer(say):
    assert say(ONE, lambda x: 2 * x) == (
        "2.1 Twice: 6 of 6 points so far, all examples are right.\n  More tests run when the notebook is graded.\n"
    )


def test_a_blank(say):
    def twice(x):
        raise NotImplementedError("2.1 is not done yet")

    for _ in range(3):
        assert say(ONE, twice) == "2.1 Twice: not done yet (0 of 6 points).\n"


def test_a_wrong_value_names_the_first_place(say):
    said = say(ONE, lambda x: x + 1)
    assert said == (
        "2.1 Twice: 0 of 6 points so far, 0 of 2 examples are right.\n"
        "  Example 1: twice([1, 2])\n"
        "    At [1] expected 4, got 3 (1 of 2 values differ).\n"
        "    expected  [2, 4] (shape (2,), float64)\n"
        "    got       [2, 3] (shape (2,), float64)\n"
        '  Try it: example("2.1", 1) gives these arguments.\n'
        "  More tests run when the notebook is graded.\n"
    )


def test_some_examples_right_give_some_points(say):
    said = say(ONE, lambda x: x * 2 if x.ndim else x)
    assert "3 of 6 points so far, 1 of 2 examples are right." in said
    assert "Example 2: twice(3)\n    Expected 6, got 3.\n  Try it" in said


def test_points_are_rounded_down_to_halves(say):
    three = exercise([((1,), 2), ((2,), 4), ((3,), 6)], points=4.0)
    assert "1 of 4 points so far, 1 of 3" in say(three, lambda x: 2)
    assert "2.5 of 4 points so far, 2 of 3" in say(three, lambda x: min(2 * x, 4))


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda x: None, "It returns None: is a `return` missing?"),
        (lambda x: (2 * x).tolist(), "It is a list of 2 and should be a tensor."),
        (lambda x: (2 * x).numpy(), "It is a NumPy array and should be a tensor."),
        (lambda x: 2 * x[:, None] if x.ndim else 2 * x, "The shape is (2, 1) and should be (2,)."),
        (lambda x: (2 * x).float(), "The dtype is float32 and should be float64."),
        (lambda x: 2 * x * math.nan, "At [0] expected 2, got nan (2 of 2 values differ)."),
        (lambda x: x / 0, "At [0] expected 2, got inf (2 of 2 values differ)."),
        (lambda x: 2 * x * (1 + 1e-6), "At [0] expected 2, got 2.000002 (2 of 2 values differ)."),
    ],
)
def test_what_differs(say, function, sentence):
    assert sentence in say(ONE, function)


def test_an_exception_is_shown_with_its_line(say):
    source = "def twice(x):\n    y = 2\n    return x.no_such_name * y\n"
    linecache.cache["<cell>"] = (len(source), None, source.splitlines(keepends=True), "<cell>")
    names = {}
    exec(compile(source, "<cell>", "exec"), names)
    said = say(ONE, names["twice"])
    assert "    It raises AttributeError: 'Tensor' object has no attribute 'no_such_name'.\n" in said
    assert "    in this line: return x.no_such_name * y\n" in said
    assert "    expected  [2, 4] (shape (2,), float64)\n  Try it" in said


def test_an_exception_in_a_library_is_shown_with_the_line_of_the_student(say):
    source = "def twice(x):\n    return torch.stack([x, x[0]])\n"
    linecache.cache["<other>"] = (len(source), None, source.splitlines(keepends=True), "<other>")
    names = {"torch": torch}
    exec(compile(source, "<other>", "exec"), names)
    assert "    in this line: return torch.stack([x, x[0]])\n" in say(ONE, names["twice"])


def test_an_expected_exception(say):
    refuses = exercise([((-1,), "ValueError")])

    def right(x):
        raise ValueError("negative")

    def subclass(x):
        raise np.linalg.LinAlgError("a ValueError too")

    def other(x):
        raise KeyError("negative")

    assert "6 of 6" in say(refuses, right)
    assert "6 of 6" in say(refuses, subclass)
    said = say(refuses, lambda x: x)
    assert "    It should raise ValueError, and returns an int.\n    got       -1\n" in said
    assert "    It should raise ValueError, and raises KeyError: 'negative'.\n" in say(refuses, other)


def test_named_arguments(say):
    named = exercise([({"x": TWO, "times": 3}, 3 * TWO)])
    assert "6 of 6" in say(named, lambda times, x: times * x)
    assert "Example 1: twice(x=[1, 2], times=3)\n" in say(named, lambda times, x: x)


def test_a_tuple_names_the_entry(say):
    pair = exercise([((TWO,), (TWO, 3))])
    assert "6 of 6" in say(pair, lambda x: (x, 3))
    assert "Entry 1: expected 3, got 4.\n" in say(pair, lambda x: (x, 4))
    assert "Entry 0: at [0] expected 1, got 2 (2 of 2 values differ)." in say(pair, lambda x: (x + 1, 3))
    assert "It has 3 entries and should have 2." in say(pair, lambda x: (x, 3, 3))
    assert "It has 1 entry and should have 2." in say(pair, lambda x: (x,))
    assert "It is a tensor and should be a tuple of 2." in say(pair, lambda x: x)


def test_long_arguments_are_shown_by_their_form(say):
    long = torch.arange(1000.0)
    said = say(exercise([((long, "word", [1, 2]), long)]), lambda x, *_: x + 1)
    assert "twice((shape (1000,), float32), 'word', [1, 2])" in said
    assert "    expected  (shape (1000,), float32)\n" in said


# Hints and likely mistakes


def test_the_hint_comes_with_the_second_failure(say):
    assert "Hint:" not in say(ONE, lambda x: x)
    assert "  Hint: Multiply by two.\n" in say(ONE, lambda x: x)
    assert "Hint:" not in say(ONE, lambda x: 2 * x)
    assert "Hint:" not in say(ONE | {"hint": ""}, lambda x: x)


def test_a_blank_is_no_failure(say):
    def blank(x):
        raise NotImplementedError

    say(ONE, blank)
    say(ONE, blank)
    assert "Hint:" not in say(ONE, lambda x: x)


MISTAKES = exercise(
    [((1.0,), 2.0), ((2.0,), 4.0), ((3.0,), 6.0)],
    [
        ("You forgot the factor.", [1.0, 2.0, 3.0]),
        ("You squared it.", [1.0, None, 9.0]),
        ("You refuse three.", [None, None, "ValueError"]),
    ],
)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x: x, "You forgot the factor."),
        (lambda x: x**2, "You squared it."),
        (lambda x: 2 * x if x < 3 else [][int(x)], None),
        (lambda x: x if x < 3 else 0.0, "You forgot the factor."),  # one more mistake, in the last example
        (lambda x: 1.0 if x < 2 else 0.0, None),  # two of them begin like this
        (lambda x: 7.0, None),
    ],
)
def test_a_likely_mistake_is_recognised(say, function, says):
    said = say(MISTAKES, function)
    assert [line for line in said.splitlines() if "Look:" in line] == ([f"  Look: {says}"] if says else [])


def test_a_mistake_that_raises_is_recognised(say):
    def refuses(x):
        if x == 3:
            raise ValueError
        return 2 * x

    assert "  Look: You refuse three.\n" in say(MISTAKES, refuses)


# What must not stop the notebook


class Evil:
    """Raises wherever it is touched."""

    def __getattribute__(self, name):
        raise RuntimeError("touched")


class Liar(torch.Tensor):
    """Says that it is equal to everything."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function in (torch.isclose, torch.Tensor.eq, torch.Tensor.__eq__):
            return torch.ones(2, dtype=torch.bool)
        return super().__torch_function__(function, types, args, kwargs or {})


def raising(error):
    def function(x):
        raise error

    return function


def recursive(x):
    return recursive(x)


@pytest.mark.parametrize(
    "function",
    [
        *map(raising, [SystemExit(0), MemoryError(), GeneratorExit(), Exception(), BaseException("all")]),
        recursive,
        lambda: 1,
        lambda x: Evil(),
        lambda x: object(),
        lambda x: iter(()),
        lambda x: torch.ones(2).to_sparse(),
        lambda x: torch.empty(2, device="meta"),
        lambda x: np.array([object()]),
        lambda x: (x + 1).as_subclass(Liar),
        lambda x: x.resize_(0),
        lambda x: float("nan"),
    ],
)
def test_nothing_that_a_student_writes_raises(say, function):
    said = say(ONE, function)
    assert "2.1 Twice: " in said
    assert "6 of 6" not in said


def test_a_result_that_cannot_be_compared(say):
    assert say(ONE, lambda x: Evil()) == (
        "2.1 Twice: what the function returns could not be compared (RuntimeError).\n"
    )


def test_an_exit_is_an_exception_like_another(say):
    assert "    It raises SystemExit: 0.\n" in say(ONE, raising(SystemExit(0)))


def test_ctrl_c_passes_through(say):
    with pytest.raises(KeyboardInterrupt):
        say(ONE, raising(KeyboardInterrupt()))


def test_a_warning_costs_nothing(say):
    def warns(x):
        warnings.warn("careful", UserWarning, stacklevel=2)
        return 2 * x

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("error")
        assert "6 of 6" in say(ONE, warns)
    assert [str(one.message) for one in seen] == ["careful"] * 2


@pytest.mark.parametrize(("value", "kind"), [(TWO, "a tensor"), (None, "None"), (3, "an int"), (1.0, "a float")])
def test_a_result_in_place_of_the_function(say, value, kind):
    assert say(ONE, value) == f"2.1 Twice: check wants the function itself, twice, and got {kind}.\n"


def test_the_arguments_are_fresh_each_time(say):
    def in_place(x):
        x *= 2
        return x

    assert "6 of 6" in say(ONE, in_place)
    assert "6 of 6" in say(ONE, in_place)


def test_the_random_numbers_of_the_notebook_are_left_as_they_are(say):
    stored = exercise([((), torch.rand(2, generator=torch.Generator().manual_seed(0)))])
    before = torch.get_rng_state()
    assert "6 of 6" in say(stored, lambda: torch.rand(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_class_or_a_partial_can_be_checked(say):
    class Twice:
        def __call__(self, x):
            return 2 * x

    assert "6 of 6" in say(ONE, Twice())
    assert "6 of 6" in say(ONE, functools.partial(torch.mul, 2))


def helper_of_the_notebook(x):
    return 2 * x


def test_an_example_may_name_a_function_of_the_notebook(say):
    names = {}
    exec("def given(x):\n    return 2 * x\ndef twice(f, x):\n    return f(x)", names)
    stored = with_names({"tuple": [{"name": "given"}, 3]}, 6)
    assert "6 of 6" in say(stored, names["twice"])
    exec("def other(f, x):\n    return x", names)
    assert "Example 1: twice(given, 3)\n" in say(stored, names["other"])
    del names["given"]
    assert say(stored, names["twice"]) == (
        "2.1 Twice: 'given' is not defined: run the cells above, from the first one on.\n"
    )


# Numbers that do not exist


@pytest.mark.parametrize("number", ["9.9", "2.9", "", "2", "x.1", "²"])
def test_an_exercise_that_does_not_exist(say, number):
    said = say(ONE, lambda x: x, number)
    assert said.startswith(f"There is no exercise {number!r} in course_lib ")
    assert said.endswith(": update course_lib, or look at the number.\n")


def test_examples_can_be_had(say, monkeypatch):
    say(ONE, lambda x: x)
    (first,) = checks.example("2.1", 1)
    assert torch.equal(first, TWO)
    first.zero_()
    assert torch.equal(checks.example("2.1", 1)[0], TWO)
    stored = with_names({"tuple": [{"name": "helper_of_the_notebook"}]}, 6)
    say(stored, lambda f: 6)
    monkeypatch.setattr(sys.modules["__main__"], "helper_of_the_notebook", helper_of_the_notebook, raising=False)
    assert checks.example("2.1", 1) == (helper_of_the_notebook,)


@pytest.mark.parametrize("number", [0, 3, -1])
def test_an_example_that_does_not_exist(say, number):
    say(ONE, lambda x: x)
    with pytest.raises(ValueError, match=r"exercise 2\.1 has the examples 1 to 2, and not"):
        checks.example("2.1", number)
    with pytest.raises(ValueError, match=r"there is no exercise '9\.1' in course_lib"):
        checks.example("9.1", 1)


# The table


def test_the_table(say, capsys):
    checks.summary()
    assert capsys.readouterr().out == "Nothing has been checked yet: run the cells above, from the first one on.\n"
    say(ONE, lambda x: 2 * x if x.ndim else x)
    checks.summary()
    assert capsys.readouterr().out == (
        "2.1 Twice              3 of 6  not right yet\n"
        "2.2 Another            0 of 4  not checked\n"
        "2.w written question   - of 5  marked by a person\n"
        "together              3 of 10  and 5 that a person marks\n"
        "These are the points so far, from the public examples. More tests run when the notebook is graded.\n"
    )
    say(ONE, lambda x: 2 * x)
    say(ONE, raising(NotImplementedError()), "2.2")
    checks.summary()
    out = capsys.readouterr().out
    assert "2.1 Twice              6 of 6  right so far\n2.2 Another            0 of 4  not done yet\n" in out


def test_the_last_answer_counts(say, capsys):
    say(ONE, lambda x: 2 * x)
    say(ONE, lambda x: Evil())
    checks.summary()
    assert "2.1 Twice              0 of 6  not right yet\n" in capsys.readouterr().out


def test_the_checks_need_no_network_and_no_other_package():
    """Only course_lib, PyTorch and NumPy: no nbgrader, no jupytext, no grading."""
    code = (
        "import sys; from course_lib.checks import check, summary; check('2.1', len); summary();"
        "print([n for n in ('nbgrader', 'jupytext', 'nbformat', 'yaml', 'IPython', 'course_lib.grading', 'urllib3')"
        " if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("[]\n")
    assert "2.1 " in done.stdout


# Differences


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.complex_numbers(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(VALUES, VALUES)
def test_a_value_is_the_same_as_itself_and_comparisons_do_not_raise(one, other):
    assert difference(one, one) is None
    found = difference(one, other)
    assert found is None or found.sentence
    assert isinstance(show(one), str)
    assert isinstance(kind_of(one), str)


@pytest.mark.parametrize(
    ("actual", "expected", "kind"),
    [
        (1, 1.0, None),
        (1.0, 1, "type"),
        (True, 1, "type"),
        (1, True, "type"),
        (np.float64(2.0), 2.0, None),
        (torch.tensor(1.0), 1.0, "type"),
        (1.0, torch.tensor(1.0), "type"),
        ((1, 2), [1, 2], "type"),
        ([1, 2], (1, 2), "type"),
        ({"a": 1}, {"a": 1, "b": 2}, "structure"),
        ({"a": 1, "b": 2}, {"a": 1}, "structure"),
        ({"a": 1}, {"a": 2}, "value"),
        (math.nan, math.nan, None),
        (math.inf, math.inf, None),
        (-math.inf, math.inf, "value"),
        (1e300 * 10, 1e300, "value"),
        (torch.tensor([math.nan, math.inf]), torch.tensor([math.nan, math.inf]), None),
        (torch.tensor([1, 2]), torch.tensor([1, 2], dtype=torch.int32), "dtype"),
        (torch.tensor([True]), torch.tensor([False]), "value"),
        (torch.tensor([1j]), torch.tensor([1j]), None),
        (torch.empty(0, 3), torch.empty(0, 3), None),
        (torch.empty(0, 3), torch.empty(3, 0), "shape"),
        (np.ones(2), np.ones(2), None),
        (np.ones(2), np.ones(3), "shape"),
        (np.array(["x"]), np.ones(1), "type"),
        (torch.ones(2).requires_grad_(), torch.ones(2), None),
        (1 + 2j, 1 + 2j, None),
        ("a", "b", "value"),
        (torch.float32, torch.float64, "value"),
        (None, 0, "type"),
    ],
)
def test_differences(actual, expected, kind):
    found = difference(actual, expected)
    assert (found and found.kind) == kind


def test_the_tolerance_is_that_of_the_dtype_or_as_given():
    for dtype, small, large in ((torch.float64, 1e-8, 1e-6), (torch.float32, 1e-5, 1e-3), (torch.float16, 1e-3, 0.1)):
        one = torch.ones(3, dtype=dtype)
        assert difference(one + small, one) is None
        assert difference(one + large, one).kind == "value"
    assert difference(torch.tensor(1.1), torch.tensor(1.0), rtol=0.2) is None
    assert difference(1.1, 1.0, atol=0.2) is None
    assert difference(torch.ones(2), torch.ones(2).double(), dtype=False) is None


def test_the_sentence_shows_no_value_and_the_detail_does():
    found = difference(torch.tensor([1.0, 123.5]), torch.tensor([1.0, 678.2]))
    assert "123" not in found.sentence
    assert "678" not in found.sentence
    assert "123.5" in found.detail
    assert "678.2" in found.detail


# What is forbidden

DISTRIBUTIONS = ("torch.distributions",)


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ndef f(x):\n    return torch.distributions.Normal(0, 1)",
        "from torch.distributions import Normal\ndef f(x):\n    return Normal(0, 1)",
        "from torch.distributions import Normal as N\ndef f(x):\n    return N(0, 1)",
        "from torch import distributions as d\ndef f(x):\n    return d.Normal(0, 1)",
        "import torch.distributions as d\ndef f(x):\n    return d.kl.kl_divergence",
        "from torch.distributions import *\ndef f(x):\n    return Normal(0, 1)",
        "def f(x):\n    import torch.distributions.normal as n\n    return n.Normal(0, 1)",
        "def f(x):\n    from torch.distributions.normal import Normal\n    return Normal(0, 1)",
        "import torch\nn = torch.distributions.Normal\ndef f(x):\n    return n(0, 1)",
        "import torch\nclass A:\n    n = torch.distributions.Normal\ndef f(x):\n    return A.n(0, 1)",
        "import torch\ng = lambda: torch.distributions.Normal(0, 1)\ndef f(x):\n    return g()",
        "import torch\ndef h(x):\n    return torch.distributions.Normal(0, 1)\ndef g(x):\n    return h(x)\n"
        "def f(x):\n    return g(x)",
        "import torch\nif True:\n    def g(x):\n        return torch.distributions.Normal\ndef f(x):\n    return g(x)",
        "import torch\nf = lambda x: torch.distributions.Normal(0, 1)",
        "import torch\n@torch.distributions.Normal\ndef f(x):\n    return x",
        "def f(x):\n    return __import__('torch.dist' + 'ributions')",
        "%matplotlib inline\nimport torch\ndef f(x):\n    !ls\n    return torch.distributions.Normal",
        "import torch\ntorch.ones = torch.distributions.Normal\ndef f(x):\n    return torch.ones(x)",
        "import torch\nd = {}\nd['n'] = torch.distributions.Normal\nd['m'] = 1\ndef f(x):\n    return d['n'](x)",
        "import torch\ndef f(x):\n    return x\nglobals()['f'] = torch.distributions.Normal",
        "def f(x):\n    return x\nexec('def f(x): return 1')",
        "def f(x):\n    return eval('torch.distributions')",
        "import importlib\ndef f(x):\n    return importlib.import_module('torch.distributions')",
        "import sys\ndef f(x):\n    return sys.modules['torch.distributions']",
        "import torch\ndef f(x):\n    return getattr(torch, 'distributions')",
        "import torch\ndef f(x):\n    return getattr(torch, x)",
        "import torch\ndef f(x):\n    try:\n        return x\n    finally:\n        torch.distributions",
    ],
)
def test_a_forbidden_name_is_found_in_the_source(code):
    assert in_cells(["this is no Python", code], "f", DISTRIBUTIONS)


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ndef f(x):\n    return torch.ones(2)",
        "import torch.distributions\ndef f(x):\n    return torch.ones(2)",
        "from torch.distributions import Normal\ndef g(x):\n    return Normal(0, 1)\ndef f(x):\n    return x",
        "from torch.distributions import kl\ndef f(kl):\n    return kl + 1",
        "from torch.distributions import kl\ndef f(x):\n    kl = x + 1\n    return kl",
        "def f(x):\n    'not torch.distributions'\n    return x.distributions",
        "def f(x):\n    return f(x - 1) if x else 0",
        "import torch\ndef f(x):\n    return torch.distributions\ndef f(x):\n    return 1",
        "def f(x):\n    return getattr(x, 'shape')",
        "def f(x):\n    vars = x.var()\n    return vars",
        "vars = 3\ndef f(x):\n    return vars * x",
        "def f(vars, eval):\n    return vars + eval.eval()",
        "import torch\nfrom torch.distributions import Normal\ndef f(x):\n    return x\nprint(f(1), Normal(0, 1))",
        "import torch.distributions_of_mine as d\ndef f(x):\n    return d",
    ],
)
def test_what_is_allowed_is_not_found(code):
    assert in_cells([code], "f", DISTRIBUTIONS) == []


HIDDEN = {
    "dead import": (
        "from torch.distributions import kl_divergence as k\ndef f(y, a):\n"
        "    return k(y, a)\nif False:\n    from math import sqrt as k"
    ),
    "dead assign": "k=KL\ndef f(y, a):\n    return k(y, a)\nif False:\n    k = 1",
    "dead def of f": "def f(y, a):\n    return KL(y, a)\nif False:\n    def f(y, a): return 1",
    "dead def helper": (
        "def k(y, a):\n    return KL(y, a)\ndef f(y, a):\n    return k(y, a)\nif False:\n    def k(y, a): return 1"
    ),
    "local import elsewhere": (
        "from torch.distributions import kl_divergence as k\ndef f(y, a):\n"
        "    return k(y, a)\ndef u():\n    from math import sqrt as k"
    ),
    "local import dead in f": (
        "from torch.distributions import kl_divergence as k\ndef f(y, a):\n"
        "    return k(y, a)\n    def u():\n        from math import sqrt as k"
    ),
    "inner param hides": (
        "from torch.distributions import kl_divergence as k\ndef f(y, a):\n    (lambda k: 0)(1)\n    return k(y, a)"
    ),
    "inner def bound hides": (
        "from torch.distributions import kl_divergence as k\n"
        "def f(y, a):\n    def u():\n        k = 1\n    return k(y, a)"
    ),
    "comprehension hides": (
        "from torch.distributions import kl_divergence as k\ndef f(y, a):\n    [0 for k in ()]\n    return k(y, a)"
    ),
    "global decl": (
        "from torch.distributions import kl_divergence as k\ndef f(y, a):\n"
        "    global k\n    if False:\n        k = 1\n    return k(y, a)"
    ),
    "default import": "from torch.distributions import kl_divergence as g\ndef f(y, a, g=g):\n    return g(y, a)",
    "kwonly import": "from torch.distributions import kl_divergence as g\ndef f(y, a, *, g=g):\n    return g(y, a)",
    "lambda default": "from torch.distributions import kl_divergence as g\nf = lambda y, a, g=g: g(y, a)",
    "an older answer as default": "def f(y, a):\n    return KL(y, a)\ndef f(y, a, old=f):\n    return old(y, a)",
    "an older answer under another name": (
        "def f(y, a):\n    return KL(y, a)\nold = f\ndef f(y, a):\n    return old(y, a)"
    ),
    "alias of old helper": (
        "def g(y, a):\n    return KL(y, a)\nold = g\ndef g(y, a):\n    return 1\ndef f(y, a):\n    return old(y, a)"
    ),
    "def after raise": "def f(y, a):\n    return KL(y, a)\n# ---\nraise KeyError\ndef f(y, a):\n    return 1",
    "walrus top expr": "(g := KL)\ndef f(y, a):\n    return g(y, a)",
    "walrus in print": "print(g := KL)\ndef f(y, a):\n    return g(y, a)",
    "walrus in if": "if (g := KL):\n    pass\ndef f(y, a):\n    return g(y, a)",
    "walrus in assign": "h = (g := KL)\ndef f(y, a):\n    return g(y, a)",
    "walrus other default": "def u(h=(g:=KL)):\n    pass\ndef f(y, a):\n    return g(y, a)",
    "walrus in comprehension": "[g := KL for _ in range(1)]\ndef f(y, a):\n    return g(y, a)",
    "for": "for g in [KL]:\n    pass\ndef f(y, a):\n    return g(y, a)",
    "with": "import contextlib\nwith contextlib.nullcontext(KL) as g:\n    pass\ndef f(y, a):\n    return g(y, a)",
    "match": "match KL:\n    case g:\n        pass\ndef f(y, a):\n    return g(y, a)",
    "except as": "try:\n    raise E(KL)\nexcept E as e:\n    h = e\ndef f(y, a):\n    return h.args[0](y, a)",
    "handler body": "try:\n    raise E\nexcept E:\n    g = KL\ndef f(y, a):\n    return g(y, a)",
    "match body": "match 1:\n    case 1:\n        g = KL\ndef f(y, a):\n    return g(y, a)",
    "list append": "L=[]\nL.append(KL)\ndef f(y, a):\n    return L[0](y, a)",
    "dict update": "L={}\nL.update(g=KL)\ndef f(y, a):\n    return L['g'](y, a)",
    "append in if": "L=[]\nif True:\n    L.append(KL)\ndef f(y, a):\n    return L[0](y, a)",
    "append in assign": "L=[]\n_ = L.append(KL)\ndef f(y, a):\n    return L[0](y, a)",
    "setattr on f": "setattr(f, 'g', KL)\ndef f(y, a):\n    return f.g(y, a)",
    "for in list target": "L=[0]\nfor L[0] in [KL]:\n    pass\ndef f(y, a):\n    return L[0](y, a)",
    "getattr alias": "get=getattr\ndef f(y, a):\n    return get(torch,'distributions').kl_divergence(y, a)",
    "dunder getattribute": "def f(y, a):\n    return torch.__getattribute__('distributions').kl_divergence(y, a)",
    "the dict of a module": "def f(y, a):\n    return torch.__dict__['distributions'].kl_divergence(y, a)",
    "attrgetter": (
        "from operator import attrgetter\ndef f(y, a):\n"
        "    return attrgetter('distributions.kl_divergence')(torch)(y, a)"
    ),
    "locals": "g=KL\ndef f(y, a,n=locals()):\n    return n['g'](y, a)",
    "nested def name alias": (
        "from torch.distributions import kl_divergence as g\ndef f(y, a):\n"
        "    def u(g=g):\n        return g(y, a)\n    return u()"
    ),
    "decorator import": "from torch.distributions import kl_divergence as k\n@k\ndef f(y, a, k=1):\n    return 0",
    "module alias of itself": "t = torch\nt = t.distributions\ndef f(y, a):\n    return t.kl_divergence(y, a)",
    "module alias": "t = torch\ndef f(y, a):\n    return t.distributions.kl_divergence(y, a)",
    "module alias local": "def f(y, a):\n    t = torch\n    return t.distributions.kl_divergence(y, a)",
    "module alias default": "def f(y, a,t=torch):\n    return t.distributions.kl_divergence(y, a)",
    "global in other fn": "def u():\n    global g\n    g = KL\nu()\ndef f(y, a):\n    return g(y, a)",
    "import submodule": (
        "import torch.distributions.kl as t\ndef f(y, a):\n    return t.kl_divergence(y, a)\nif False: import math as t"
    ),
    "type alias": "f = KL\nif 0:\n    f = 1",
    "the answer is an import": "from torch.distributions import kl_divergence as f",
    "f import after def": "def f(y, a):\n    return 1\nfrom torch.distributions import kl_divergence as f",
    "taken eval": "def f(y, a):\n    return eval('1')\nif False:\n    eval = 1",
    "taken eval inner": "def f(y, a):\n    u = lambda eval: 0\n    return eval('1')",
    "put in a function": "L = [0]\ndef u():\n    L[0] = KL\nu()\ndef f(y, a):\n    return L[0](y, a)",
    "append in a function": "L = []\ndef u():\n    L.append(KL)\nu()\ndef f(y, a):\n    return L[0](y, a)",
    "def after failed import": (
        "def f(y, a):\n    return KL(y, a)\n# ---\nimport no_such_module\ndef f(y, a):\n    return 1"
    ),
}


def cells_of(code):
    """A notebook from a row of the tables, where KL is the forbidden function and a line `# ---` ends a cell."""
    return ["import torch", *code.replace("KL", "torch.distributions.kl_divergence").split("\n# ---\n")]


@pytest.mark.parametrize("code", HIDDEN.values(), ids=HIDDEN)
def test_no_other_binding_hides_a_forbidden_name(code):
    assert in_cells(cells_of(code), "f", DISTRIBUTIONS)


HONEST = {
    "redefined f": "def f(x):\n    return KL\ndef f(x):\n    return 1",
    "param": "from torch.distributions import kl\ndef f(kl):\n    return kl + 1",
    "local": "from torch.distributions import kl\ndef f(x):\n    kl = x\n    return kl",
    "loop var": (
        "from torch.distributions import Normal\nfor k in [Normal]:\n    print(k)\ndef f(x):\n    return [k for k in x]"
    ),
    "own experiments": "expected = KL(1,2)\ndef f(x):\n    return x\nprint(f(1), expected)",
    "assert": "assert f(1) == KL(1)\ndef f(x):\n    return x",
    "compare": "def f(x):\n    return x\nerror = f(1) - KL(1)",
    "torch.testing": "def f(x):\n    return x\ntorch.testing.assert_close(f(1), KL(1))",
    "for experiments": "def f(x):\n    return x\nfor x in range(3):\n    y = KL(x)\n    print(f(x), y)",
    "helper in experiments": (
        "def g(x):\n    return x\ndef f(x):\n    return g(x)\nfor x in [1]:\n    print(g(x) - KL(x))"
    ),
    "drawn": "import matplotlib.pyplot as plt\nplt.plot(KL(1,2))\ndef f(x):\n    return x",
    "local in other": (
        "from torch.distributions import kl_divergence as k\ndef u(x):\n"
        "    return k(x)\ndef f(x):\n    def k(x):\n        return x\n    return k(x)"
    ),
    "y global": "y = KL(1,2)\ndef f(x):\n    y = x\n    return y",
    "with": "def f(x):\n    return x\nwith torch.no_grad():\n    d = KL(f(1),1)",
    "own submodule import": "import torch.distributions\ndef f(x):\n    return torch.ones(2)",
    "import in other function": (
        "def u(x):\n    from torch.distributions import Normal\n"
        "    return Normal(x, 1)\ndef f(x):\n    return torch.ones(2)"
    ),
    "comprehension": "from torch.distributions import kl as k\ndef f(x):\n    return [k for k in x]",
    "local in other function": (
        "def u(x):\n    from torch import distributions as z\n    return z\nz = 3\ndef f(x):\n    return z"
    ),
    "param in lambda": "from torch.distributions import kl as k\ndef f(x):\n    return map(lambda k: k + 1, x)",
    "walk in a tree": "def f(x):\n    while x:\n        x = x.T\n        x = x.left\n        x = x.right\n    return x",
    "torch alias": (
        "import torch as t\nt.manual_seed(0)\n"
        "y = t.distributions.Normal(0, 1).sample()\ndef f(x):\n    return t.ones(2)"
    ),
    "redefined after import": "def f(x):\n    return KL\n# ---\nimport math\ndef f(x):\n    return 1",
    "method of the result": "def f(x):\n    return x\nf(1).sub(KL(1))",
    "in a table of results": "def f(x):\n    return x\nerrors = {}\nerrors[f] = KL(1)",
}


@pytest.mark.parametrize(
    "code",
    [
        "\n".join(f"a{k + 1} = a{k}" for k in range(1000)),
        "\n".join(f"a{k + 1} = a{k}\na{k + 1} = a{k}" for k in range(500)),
        "\n".join(f"a0 = a0.b{k}" for k in range(500)),
        "\n".join("def f(x): return 1" for _ in range(2000)),
    ],
    ids=["long", "double", "its own", "definitions"],
)
def test_a_maze_of_names_neither_takes_long_nor_raises(code):
    in_cells([f"import torch as a0\n{code}\ndef f(x):\n    return a500.ones(x), a0"], "f", DISTRIBUTIONS)
    inside = f"import torch as a0\ndef f(x):\n    {code.replace(chr(10), chr(10) + '    ')}\n    return a500, a0"
    in_cells([inside], "f", DISTRIBUTIONS)


@pytest.mark.parametrize("code", HONEST.values(), ids=HONEST)
def test_experiments_that_the_answer_does_not_reach_are_allowed(code):
    assert in_cells(cells_of(code), "f", DISTRIBUTIONS) == []


@pytest.mark.parametrize(
    ("code", "forbids", "found"),
    [
        ("import torch\ndef f(x):\n    return torch.logsumexp(x, 0)", "torch.logsumexp", True),
        ("def f(x):\n    return x.logsumexp(0)", "torch.logsumexp", True),
        ("def f(x):\n    return (x + 1).logsumexp(0)", "torch.logsumexp", True),
        ("def f(x):\n    return x.sum(0)", "torch.logsumexp", False),
        ("import torch\ndef f(x):\n    return torch.linalg.inv(x)", "torch.linalg.inv", True),
        ("from torch.nn.functional import kl_div\ndef f(x):\n    return kl_div", "torch.nn.functional.kl_div", True),
        ("import torch.nn.functional as F\ndef f(x):\n    return F.softmax(x)", "torch.nn.functional.kl_div", False),
        # the name of a module where it was imported, and not made
        ("import course_lib.latent_models as m\ndef f(x):\n    return m.gaussians.x", "course_lib.gaussians", True),
        ("from course_lib import vae\ndef f(x):\n    return vae.VAE", "course_lib.gaussians", False),
        ("def f(x):\n    return unknown.logsumexp", "course_lib.gaussians", False),
        ("def f(x):\n    return x", "no.such.module", False),
    ],
)
def test_single_functions_and_second_names(code, forbids, found):
    assert bool(in_cells([code], "f", (forbids,))) == found


def test_no_module_of_the_student_s_choice_is_imported():
    code = (
        "import numpy.f2py.__main__ as m\nimport this as t\nfrom antigravity import *\ndef f(x):\n    return m.x, t.y"
    )
    before = set(sys.modules)
    assert in_cells([code], "f", DISTRIBUTIONS) == []
    assert {"numpy.f2py.__main__", "this", "antigravity"}.isdisjoint(set(sys.modules) - before)


def test_a_function_that_is_not_there_uses_nothing():
    assert in_cells(["x = 1"], "f", DISTRIBUTIONS) == []
    assert in_cells(["x = 1"], "f", ()) == []
    assert in_function(len, DISTRIBUTIONS) == []


def notebook(source):
    """The names of a notebook with this one cell, whose source can be read."""
    linecache.cache["<notebook>"] = (len(source), None, source.splitlines(keepends=True), "<notebook>")
    names = {"__name__": "__main__"}
    exec(compile(source, "<notebook>", "exec"), names)
    return names


RUNS = [
    "import torch\ndef f(x):\n    return torch.distributions.Normal(0.0, 1.0).log_prob(x)",
    "from torch.distributions import Normal as N\ndef f(x):\n    return N(0.0, 1.0).log_prob(x)",
    "from functools import partial\nfrom torch.distributions import Normal\ng = partial(Normal, 0.0)\n"
    "def f(x):\n    return g(1.0).log_prob(x)",
    "import torch\ndef g(x):\n    return torch.distributions.Normal(0.0, 1.0).log_prob(x)\ndef f(x):\n    return g(x)",
]


@pytest.mark.parametrize("code", RUNS)
def test_a_forbidden_call_costs_the_points_of_the_check(say, code):
    x = torch.tensor(0.5)
    stored = exercise([((x,), torch.distributions.Normal(0.0, 1.0).log_prob(x))], forbids=list(DISTRIBUTIONS))
    function = notebook(code)["f"]
    assert in_function(function, DISTRIBUTIONS)
    said = say(stored, function)
    assert said.startswith("2.1 Twice: 0 of 6 points so far. Your answer uses torch.distributions.")
    assert "  This exercise forbids torch.distributions: write it yourself.\n" in said
    checks.summary()


@pytest.mark.parametrize(
    "code",
    [
        *RUNS,
        "import torch\nhidden = [torch.distributions.Normal]\ndef f(x):\n    return hidden[0](0.0, 1.0).log_prob(x)",
        "import torch\nf = lambda x: list(map(torch.distributions.Normal, [0.0], [1.0]))",
    ],
)
def test_a_forbidden_call_is_seen_while_it_runs(code):
    names = notebook(code)
    with watched(names, DISTRIBUTIONS) as found:
        names["f"](torch.tensor(0.5))
    assert found
    assert all(name.startswith("torch.distributions.") for name in found)


def test_built_in_functions_are_seen_while_they_run():
    names = notebook("import torch\ndef f(x):\n    return x.logsumexp(0)\ndef g(x):\n    return torch.linalg.inv(x)")
    for function, entry, x in (("f", "torch.logsumexp", torch.ones(3)), ("g", "torch.linalg.inv", torch.eye(2))):
        with watched(names, (entry,)) as found:
            names[function](x)
        assert found == [entry]
        with watched(names, ("torch.softmax",)) as found:
            names[function](x)
        assert found == []


def test_what_course_lib_calls_on_its_own_account_is_allowed():
    code = "from course_lib.vae import VAE\nimport torch\ndef f(model, x):\n    return model.elbo(x)"
    names = notebook(code)
    from course_lib.vae import VAE

    model, x = VAE(4, 2, [3], generator=torch.Generator().manual_seed(0)), torch.ones(2, 4)
    with watched(names, ("course_lib.gaussians",)) as found:
        names["f"](model, x)
    assert found == []
    with watched(names, ("course_lib.vae",)) as found:
        names["f"](model, x)
    assert found


def test_another_profiler_is_left_as_it_was():
    seen = []
    sys.setprofile(lambda frame, event, argument: seen.append(event))
    before = sys.getprofile()
    try:
        with watched({}, DISTRIBUTIONS):
            pass
        assert sys.getprofile() is before
    finally:
        sys.setprofile(None)
