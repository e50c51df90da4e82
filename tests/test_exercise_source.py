"""The source of an assignment is read, what is wrong with it is said, and what is made from it is right."""

import json
import re

import nbformat
import pytest
import torch

from course_lib.grading import rehearsal, release, source, testing
from course_lib.grading.box import student_error

HEAD = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

"""

TEXT = """\
# Exercises

What $\\KL(p)$ is, and `\\KLX`.

```{code-cell} ipython3
import torch

from course_lib.checks import check, summary
```

```{code-cell} ipython3
---
exercise: {id: "2.1", role: answer, title: Twice, points: 3, level: warm-up, forbids: [torch.mul]}
---
def twice(x):
    \"\"\"Two times x.\"\"\"
    if x is not None:
        ### BEGIN SOLUTION
        y = x + x
        return y
        ### END SOLUTION
```

```{code-cell} ipython3
---
exercise: {id: "2.1", role: examples, hint: Add it to itself., rtol: 1.0e-3}
---
examples = [(torch.ones(2),), (torch.tensor([3.0]),)]
```

```{code-cell} ipython3
---
exercise: {id: "2.1", role: check}
---
check("2.1", twice)
```

```{code-cell} ipython3
---
exercise: {id: "2.1a", role: hidden, points: 2}
---
x = torch.randn(3, generator=secret_generator("2.1a"))
same(twice(x), 2 * x)
```

```{code-cell} ipython3
---
exercise: {id: "2.1b", role: hidden, points: 1}
---
same(twice(torch.ones(())), torch.tensor(2.0))
```

```{code-cell} ipython3
---
exercise: {id: "2.1", role: wrong, name: once, loses: [2.1a, 2.1b], says: That is x once.}
---
def twice(x):
    return x + 0
```

```{code-cell} ipython3
---
exercise: {id: "2.1", role: wrong, name: square, loses: [2.1a, 2.1b], says: That is a square.}
---
def twice(x):
    return x**2 + 1
```

```{code-cell} ipython3
---
exercise: {id: "2.1", role: wrong, name: thrice, loses: [2.1a, 2.1b], says: That is thrice.}
---
def twice(x):
    return 3 * x
```

```{code-cell} ipython3
---
exercise: {id: "2.1", role: wrong, name: ready, forbidden: torch.mul}
---
def twice(x):
    return torch.mul(x, 2)
```

+++ {"exercise": {"id": "2.w", "role": "written", "points": 5}}

Why $\\KL$?

+++ {"exercise": {"id": "2.w", "role": "scheme"}}

Because the secret says so.

+++

The end.

```{code-cell} ipython3
summary()
```
"""

SLUG = "02-a-name"


def reads(text=TEXT, slug=SLUG):
    return source.reads(HEAD + text, slug)


# What is read


def test_a_source_is_read():
    made = reads()
    assert (made.slug, made.number, made.title, made.points) == (SLUG, 2, "Exercises", 8.0)
    (one,) = made.exercises.values()
    assert (one.id, one.title, one.points, one.level) == ("2.1", "Twice", 3.0, "warm-up")
    assert (one.function, one.forbids, one.hint, one.rtol, one.atol) == (
        "twice", ("torch.mul",), "Add it to itself.", 1e-3, None,
    )  # fmt: skip
    assert one.inside == "        y = x + x\n        return y"
    assert "SOLUTION" not in one.solution
    assert one.blank.endswith('    if x is not None:\n        raise NotImplementedError("2.1 is not done yet")')
    assert [(test.id, test.points) for test in one.tests] == [("2.1a", 2.0), ("2.1b", 1.0)]
    assert [wrong.name for wrong in one.wrong] == ["once", "square", "thrice", "ready"]
    assert (one.wrong[0].loses, one.wrong[0].says) == (("2.1a", "2.1b"), "That is x once.")
    assert one.wrong[3].forbidden == "torch.mul"
    assert (made.written.id, made.written.points) == ("2.w", 5.0)
    assert (made.written.question, made.written.scheme) == ("Why $\\KL$?", "Because the secret says so.")
    assert [code.splitlines()[0] for code in made.given()] == ["import torch", "summary()"]


def test_a_file_lies_in_a_folder_of_its_name(tmp_path):
    folder = tmp_path / "exercises" / "source" / SLUG
    folder.mkdir(parents=True)
    path = folder / f"{SLUG}.md"
    path.write_text(HEAD + TEXT, encoding="utf-8")
    assert source.find(tmp_path) == [path]
    assert source.read(path).path == path
    other = folder / "03-other.md"
    other.write_text(HEAD + TEXT, encoding="utf-8")
    with pytest.raises(source.SourceError, match=r"03-other\.md: it lies in the folder '02-a-name', which must be"):
        source.read(other)
    path.write_text(HEAD + TEXT.replace("points: 2", "points: 9"), encoding="utf-8")
    with pytest.raises(source.SourceError, match=r"02-a-name\.md: exercise 2\.1: its hidden tests give 10 points"):
        source.read(path)


# What is wrong

FAULTS = [
    ("# Exercises", "Exercises", "the first cell must be Markdown that begins with '# '"),
    ("role: check}", "}", r"cell 5 \(code\), which begins with 'check.*its role is None; it must be one of answer"),
    ("role: check}", "role: chekc}", "its role is 'chekc'"),
    ('exercise: {id: "2.1", role: check}', "exercise: check", "`exercise` is 'check' and not"),
    ('{id: "2.1", role: check}', "{id: 2.1, role: check}", 'write the id in quotes, "2.1"'),
    ('{id: "2.1", role: check}', '{id: "3.1", role: check}', "an id of this role looks like '2.1'"),
    ('{id: "2.1a"', '{id: "2.1"', "an id of this role looks like '2.1a'"),
    ('"id": "2.w", "role": "written"', '"id": "2.2", "role": "written"', "an id of this role looks like '2.w'"),
    ('{id: "2.1a"', '{id: "2.3a"', 'there is no cell with the role answer for "2.3"'),
    ('{id: "2.1b"', '{id: "2.1a"', "there are two of these"),
    ("name: square", "name: once", "there are two of these"),
    (", level: warm-up", "", "its head lacks level"),
    ("title: Twice, points: 3,", "points: 3,", "its head lacks title"),
    ("title: Twice", "title: 2", "its title is 2; give a few words"),
    ("warm-up", "easy", "its level is 'easy'; it must be one of warm-up, middle, hard"),
    ("points: 3, level", "points: 3, colour: red, level", "its head has colour, which a cell of this role cannot have"),
    ("points: 3", "points: three", "its points are 'three'; give a number above zero"),
    ("points: 3", "points: 0", "its points are 0; give a number above zero"),
    ("points: 3", "points: .nan", "its points are nan; give a number above zero"),
    ("points: 3", "points: 4", "its hidden tests give 3 points, and its answer promises 4"),
    ("forbids: [torch.mul]", "forbids: {a: b}", "forbids is .*; give a list of names"),
    ("forbids: [torch.mul]", "forbids: []", "the answer does not forbid 'torch.mul'"),
    ("        ### END SOLUTION\n", "", "it must hold one line `### BEGIN SOLUTION` and, after it"),
    ("### BEGIN SOLUTION", "### END SOLUTION", "it must hold one line `### BEGIN SOLUTION` and, after it"),
    ("summary()\n```\n", "### BEGIN SOLUTION\n```\n", "its head has no `exercise`: it would be released"),
    ("The end.", "### END SOLUTION", "its head has no `exercise`: it would be released"),
    ("return x + 0", "### BEGIN SOLUTION\n    return x", "only a cell with the role answer holds a solution"),
    ("return x + 0", "return (x", r"line \d is not Python"),
    ("import torch\n\nfrom", "import\n\nfrom", r"line 1 is not Python"),
    ("        y = x + x", "        y = = x", "line 5 is not Python"),
    ('def twice(x):\n    """', 'y = 1\nif y:\n    """', "it must define one function or class, and defines 0"),
    ('check("2.1", twice)', 'check("2.2", twice)', r'it must be the one line check\("2.1", twice\)'),
    ('check("2.1", twice)\n', "", "it is empty"),
    ("examples = [", "example = [", "it must define `examples`"),
    ("rtol: 1.0e-3", "rtol: 1e-3", "rtol is '1e-3'; give a number, 1.0e-6 for instance"),
    ("rtol: 1.0e-3", "rtol: -1", "rtol is -1; give a number"),
    ("def twice(x):\n    return 3", "def thrice(x):\n    return 3", "it must define 'twice', as the answer does"),
    (", says: That is thrice.", "", "its head must have loses and says, or forbidden alone"),
    ("forbidden: torch.mul}", "forbidden: torch.mul, says: No.}", "loses and says, or forbidden alone"),
    ("says: That is thrice.", "says: That is thrice", "says is 'That is thrice'; give a sentence"),
    ("name: thrice, loses: [2.1a, 2.1b]", "name: thrice, loses: [2.1c]", "loses 2.1c, which is no hidden test"),
    ("name: thrice, loses: [2.1a, 2.1b]", "name: thrice, loses: []", "it loses no hidden test"),
    ("[2.1a, 2.1b]", "[2.1a]", "no wrong answer loses 2.1b, so nothing shows that this test can fail"),
    ("name: ready, forbidden: torch.mul}", "name: r, loses: [2.1a], says: No.}", "it forbids calls, and no wrong"),
    ('"role": "scheme"', '"role": "check"', "a cell of this role must be code"),
    ('{"exercise": {"id": "2.w", "role": "scheme"}}', "", "it has no scheme by which to mark it"),
    ('{"exercise": {"id": "2.w", "role": "written", "points": 5}}', "", "there are 0 written questions"),
    ('exercise: {id: "2.1", role: check}', 'exercise: {id: "2.1", role: [', "no MyST notebook"),
]


@pytest.mark.parametrize(("old", "new", "message"), FAULTS, ids=range(len(FAULTS)))
def test_a_fault_is_named(old, new, message):
    assert old in TEXT
    with pytest.raises(source.SourceError, match=message):
        reads(TEXT.replace(old, new))


def without(head):
    """The text without the cell of this head."""
    cells = TEXT.split("```{code-cell} ipython3\n")
    (cut,) = (one for one in cells if one.startswith(f"---\nexercise: {head}"))
    return TEXT.replace("```{code-cell} ipython3\n" + cut[: cut.index("```\n") + 4], "")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ('{id: "2.1", role: examples', "it has no cell with the role examples"),
        ('{id: "2.1", role: check}', "it has no cell with the role check"),
        ('{id: "2.1", role: answer', "there is no exercise: no cell has the role answer"),
        ('{id: "2.1", role: wrong, name: once', "it has 2 likely wrong answers; give at least 3"),
        ('{id: "2.1", role: wrong, name: ready', "it forbids calls, and no wrong answer has forbidden"),
    ],
)
def test_a_missing_cell_is_named(head, message):
    with pytest.raises(source.SourceError, match=message):
        reads(without(head))


def test_all_hidden_tests_missing():
    text = re.sub(r"```\{code-cell\} ipython3\n---\nexercise: \{id: \"2.1[ab]\".*?```\n", "", TEXT, flags=re.DOTALL)
    with pytest.raises(source.SourceError, match="it has no hidden test"):
        reads(text)


def test_a_check_before_its_answer():
    check = '```{code-cell} ipython3\n---\nexercise: {id: "2.1", role: check}\n---\ncheck("2.1", twice)\n```\n'
    first = "```{code-cell} ipython3\nimport torch"
    with pytest.raises(source.SourceError, match="it must stand after the answer"):
        reads(TEXT.replace(check, "").replace(first, check + "\n" + first))


def test_two_exercises_ask_for_one_function():
    second = TEXT[TEXT.index("```{code-cell} ipython3\n---") : TEXT.index("+++ {")].replace("2.1", "2.2")
    with pytest.raises(source.SourceError, match=r"exercises 2\.1 and 2\.2 both ask for twice"):
        reads(TEXT.replace("+++ {", second + "+++ {", 1))


@pytest.mark.parametrize("slug", ["2-name", "name", "02-Name", "02_name"])
def test_a_bad_name(slug):
    with pytest.raises(source.SourceError, match="is not of the form NN-name"):
        reads(slug=slug)


# What is made from it


def test_the_student_gets_no_solution_and_no_test():
    notebook = release.student_notebook(reads(), "1  # colab", {"KL": r"\mathrm{KL}"})
    nbformat.validate(notebook)
    text = nbformat.writes(notebook)
    for secret in ("x + x", "2 * x", "secret", "That is", "torch.mul", "examples", "SOLUTION", "HIDDEN"):
        assert secret not in text
    kinds = [(cell.metadata.nbgrader.grade_id, cell.cell_type) for cell in notebook.cells]
    assert kinds == [
        ("cell-colab", "code"),
        ("cell-1", "markdown"),
        ("cell-2", "code"),
        ("answer-2-1", "code"),
        ("check-2-1", "code"),
        ("test-2-1a", "code"),
        ("test-2-1b", "code"),
        ("written-2-w-question", "markdown"),
        ("written-2-w", "markdown"),
        ("cell-3", "markdown"),
        ("cell-4", "code"),
    ]
    by_id = {cell.id: cell for cell in notebook.cells}
    assert by_id["cell-1"].source == "# Exercises\n\nWhat $\\mathrm{KL}(p)$ is, and `\\KLX`."
    assert by_id["written-2-w-question"].source == "Why $\\mathrm{KL}$?"
    assert by_id["test-2-1a"].source == "# More tests run here when the notebook is graded."
    assert by_id["cell-colab"].metadata.tags == ["colab"]
    assert nbformat.writes(release.student_notebook(reads(), "1  # colab", {"KL": r"\mathrm{KL}"})) == text


def test_the_cells_carry_what_nbgrader_needs():
    notebook = release.student_notebook(reads())
    flags = {}
    for cell in notebook.cells:
        meta = dict(cell.metadata.nbgrader)
        assert re.fullmatch(r"[a-zA-Z0-9_-]+", meta["grade_id"])
        assert meta["schema_version"] == 3
        assert meta["task"] is False
        assert ("points" in meta) == meta["grade"]
        flags[meta["grade_id"]] = meta["grade"], meta["solution"], meta["locked"], meta.get("points")
    assert flags["cell-1"] == flags["check-2-1"] == (False, False, True, None)
    assert flags["answer-2-1"] == (False, True, False, None)
    assert flags["test-2-1a"] == (True, False, True, 2.0)
    assert flags["written-2-w"] == (True, True, False, 5.0)
    assert len(flags) == len(notebook.cells)


def test_the_teacher_gets_all_of_it():
    notebook = release.instructor_notebook(reads())
    student = release.student_notebook(reads())
    by_id = {cell.id: cell.source for cell in notebook.cells}
    assert [cell.metadata for cell in notebook.cells] == [cell.metadata for cell in student.cells]
    assert "### BEGIN SOLUTION\n        y = x + x" in by_id["answer-2-1"]
    first, begin, *inside, end = by_id["test-2-1a"].splitlines()
    assert (first, begin, end) == (release.PLACEHOLDER, "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS")
    assert inside[-1] == "same(twice(x), 2 * x)"
    assert by_id["written-2-w"] == "### BEGIN SOLUTION\nBecause the secret says so.\n### END SOLUTION"


def test_the_stored_checks_hold_numbers_and_no_code():
    stored = release.stored_checks(reads())
    text = release.checks_text(stored)
    assert json.loads(text) == stored
    assert "def " not in text
    assert "return" not in text
    (one,) = stored["exercises"]
    said = [mistake["says"] for mistake in one["mistakes"]]
    assert said == ["That is x once.", "That is a square.", "That is thrice."]
    assert one["mistakes"][0]["outcomes"][0] is not None
    assert one["mistakes"][1]["outcomes"][0] is None, "1 squared and 1 more is 2"
    assert (one["rtol"], one["hint"], stored["written"]) == (1e-3, "Add it to itself.", {"id": "2.w", "points": 5.0})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("examples = [(torch.ones(2),), (torch.tensor([3.0]),)]", "examples = []", "must be a list of tuples or dicts"),
        ("examples = [(torch.ones(2),)", "examples = [torch.ones(2)", "must be a list of tuples or dicts"),
        ("(torch.ones(2),)", "(object(),)", "an example cannot be stored: a object cannot be sent"),
        ("return y", "return iter(y)", "the answer to example 1 cannot be stored"),
        ("y = x + x", "raise OSError", "the answer raises OSError on example 1"),
        ("return x + 0", "return x + x", "no public example shows the mistake 'once'"),
        ("return x + 0", "return 3 * x", "the public examples do not tell 'once' from 'thrice'"),
        ("torch.ones(2)", "torch.ones(80_000)", r"the examples of 02-a-name take \d+ bytes; make them smaller"),
    ],
)
def test_what_cannot_be_released(old, new, message):
    assert old in TEXT
    with pytest.raises(source.SourceError, match=message):
        release.checks_text(release.stored_checks(reads(TEXT.replace(old, new, 1))))


def test_an_expected_error_can_be_stored():
    refuses = "        if x.ndim == 0:\n            raise ValueError\n"
    text = TEXT.replace("        y = x + x\n", refuses + "        y = x + x\n")
    text = text.replace("(torch.tensor([3.0]),)]", "(torch.tensor(3.0),)]")
    (one,) = release.stored_checks(reads(text))["exercises"]
    assert one["examples"][1]["raises"] == "ValueError"


def test_an_example_may_name_a_function_of_the_notebook():
    text = TEXT.replace("import torch\n\n", "import torch\n\n\ndef one_more(x):\n    return x + 1\n\n\n")
    text = text.replace("examples = [", "examples = [(one_more,), ")
    text = text.replace("y = x + x", "y = (x(1) if callable(x) else x) * 2")
    text = re.sub(r"return (x \+ 0|x\*\*2 \+ 1|3 \* x)", r"x = x(1) if callable(x) else x; return \1", text)
    (one,) = release.stored_checks(reads(text))["exercises"]
    assert one["examples"][0] == {"arguments": {"tuple": [{"name": "one_more"}]}, "value": 4}


def test_files_are_written(tmp_path):
    (tmp_path / "book").mkdir()
    colab = {"cells": [{"cell_type": "code", "metadata": {"tags": ["colab"]}, "source": ["a = 1\n", "b = 2"]}]}
    (tmp_path / "book" / f"{SLUG}.ipynb").write_text(json.dumps(colab))
    macros = "sphinx: {config: {mathjax3_config: {tex: {macros: {KL: 'D'}}}}}\n"
    (tmp_path / "_config.yml").write_text(macros)
    written = release.write(reads(), tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in written] == [
        f"book/exercises/{SLUG}.ipynb", "course_lib/_checks/02.json",
    ]  # fmt: skip
    notebook = nbformat.read(written[0], as_version=4)
    assert notebook.cells[0].source == "a = 1\nb = 2"
    assert "What $D(p)$ is" in notebook.cells[1].source
    before = [path.read_bytes() for path in written]
    assert release.write(reads(), tmp_path) == written
    assert [path.read_bytes() for path in written] == before


# What a hidden test is written with


@pytest.fixture(autouse=True)
def no_secret(monkeypatch):
    monkeypatch.delenv(testing.SECRET, raising=False)
    monkeypatch.delenv(testing.SECRET_FILE, raising=False)


def draw():
    return torch.rand(3, generator=testing.secret_generator("2.1a"))


def test_the_secret_decides_what_is_drawn(monkeypatch, tmp_path):
    practice = draw()
    assert torch.equal(draw(), practice)
    assert not torch.equal(torch.rand(3, generator=testing.secret_generator("2.1b")), practice)
    monkeypatch.setenv(testing.SECRET, "a word")
    a_word = draw()
    assert not torch.equal(a_word, practice)
    monkeypatch.delenv(testing.SECRET)
    file = tmp_path / "secret.txt"
    file.write_text("a word\nand a remark\n")
    monkeypatch.setenv(testing.SECRET_FILE, str(file))
    assert torch.equal(draw(), a_word)
    with testing.secret("another"):
        assert not torch.equal(draw(), a_word)
    assert torch.equal(draw(), a_word)
    monkeypatch.setenv(testing.SECRET, "  ")
    assert torch.equal(draw(), a_word), "an empty variable is none"


def test_a_secret_file_that_cannot_be_read(monkeypatch, tmp_path):
    monkeypatch.setenv(testing.SECRET_FILE, str(tmp_path / "none"))
    with pytest.raises(RuntimeError, match=r"COURSE_LIB_SECRET_FILE names .* which cannot be read"):
        draw()
    (tmp_path / "none").write_text("\n")
    with pytest.raises(RuntimeError, match="whose first line is empty: write the secret into it"):
        draw()


def test_a_difference_shows_no_value():
    with pytest.raises(testing.Mismatch) as caught:
        testing.same(torch.tensor([1.0, 2.5]), torch.tensor([1.0, 7.25]), what="a batch")
    assert str(caught.value) == "a batch: at [1] the value is not right"
    assert "2.5" in caught.value.detail
    testing.same(torch.tensor(1.0), torch.tensor(1.0, dtype=torch.float64), dtype=False)
    testing.same(1.1, 1.0, rtol=0.2)


def test_an_expected_error_is_told_from_others():
    def fails(error):
        raise error

    testing.raises(ValueError, fails, ValueError())
    testing.raises((KeyError, TypeError), fails, TypeError())
    testing.raises(ValueError, fails, student_error("raised", "no", kind="Mine", builtin="ValueError"))
    with pytest.raises(testing.Mismatch, match="x: it should raise ValueError, and raises KeyError"):
        testing.raises(ValueError, fails, KeyError(), what="x")
    with pytest.raises(testing.Mismatch, match="it should raise ValueError or TypeError, and raises timed out"):
        testing.raises((ValueError, TypeError), fails, student_error("timed out", "too long"))
    with pytest.raises(testing.Mismatch, match="it should raise ValueError, and returns None"):
        testing.raises(ValueError, lambda: None)
    with pytest.raises(NotImplementedError):
        testing.raises(RuntimeError, fails, NotImplementedError())


def test_random_inputs_are_what_they_say():
    generator = testing.secret_generator("x")
    p = testing.random_distribution(generator, 100, 5, dtype=torch.float32)
    assert (p.shape, p.dtype) == ((100, 5), torch.float32)
    torch.testing.assert_close(p.sum(-1), torch.ones(100))
    assert p.min() > 0
    cov = testing.random_covariance(generator, 100, 4)
    assert torch.equal(cov, cov.mT)
    assert torch.linalg.eigvalsh(cov).min() > 0.49


# The rehearsal


def test_what_a_rehearsal_changes_in_torch_is_put_back():
    made = reads(TEXT.replace("import torch\n\n", "import torch\n\ntorch.set_default_dtype(torch.float64)\n"))
    before = torch.get_rng_state()
    names = rehearsal.namespace(made, rehearsal.references(made))
    assert names["twice"](torch.ones(1)).item() == 2
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), before)


def test_functions_are_reached_over_the_wire_only():
    made = reads()
    (one,) = made.exercises.values()
    names = rehearsal.namespace(made, rehearsal.references(made))

    def in_place(x):
        x.mul_(0)  # a copy: the test's own tensor is not touched
        return torch.full((3,), 7.0)

    error = rehearsal.failure(made, one.tests[0], names | {"twice": in_place})
    assert isinstance(error, testing.Mismatch)

    class Always:
        def __eq__(self, other):
            return True

    assert "Always cannot be sent" in str(rehearsal.failure(made, one.tests[0], names | {"twice": lambda x: Always()}))

    def raises(x):
        raise KeyError("no")

    found = rehearsal.failure(made, one.tests[0], names | {"twice": raises})
    assert isinstance(found, KeyError)
    assert found.kind == "KeyError"
    assert rehearsal.failure(made, one.tests[0], names) is None
