"""The ledger of equations balances, and each way in which it can fail to is found."""

import ledger
import printed
import pytest
import yaml

LATEX = r"a = b + c"
MARK = "pytest.mark." + "equation"  # in one piece it would be taken for a mark of this file


def write(tmp_path, chapter=f"$$\n{LATEX}\n$$ (eq-sum)\n", test=None):
    """A small book with one chapter and one file of tests."""
    (tmp_path / "book").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "book" / "01-small.md").write_text(chapter)
    if test is None:
        test = f'@{MARK}("eq-sum", r"{LATEX}")\ndef test_sum():\n    assert True\n'
    (tmp_path / "tests" / "test_small.py").write_text(test)
    return ledger.problems(*ledger.read(tmp_path))


def test_the_book_balances():
    problems = ledger.problems(*ledger.read())
    assert not problems, "\n".join(problems)


def test_every_test_of_an_equation_carries_its_mark():
    unmarked = {file.name: ledger.unmarked_tests(file) for file in (ledger.ROOT / "tests/equations").glob("*.py")}
    assert not any(unmarked.values()), unmarked


def test_a_small_book_balances(tmp_path):
    assert write(tmp_path) == []


@pytest.mark.parametrize(
    ("chapter", "expected"),
    [
        ("```{math}\na = 1\n```\n", "is displayed without $$"),
        (":::{math}\n:label: eq-sum\na = b + c\n:::\n", "is displayed without $$"),
        ("\\begin{equation}a = 1\\end{equation}\n", "is displayed without $$"),
        ("\\[ a = 1 \\]\n", "is displayed without $$"),
        ("$$\na = b + c\n$$\n", "has no label"),
        ("$$\na = b + c\n$$ (sum)\n", "begins with neither eq- nor def-"),
        ("$$\na = b - c\n$$ (eq-sum)\n", "is now\n    a = b - c"),
        ("$$\na = b + c\n$$ (eq-other)\n", "01-small.md:1: no test is marked"),
        ("$$\na = b + c\n$$ (eq-other)\n", "is marked with eq-sum, which no chapter displays"),
        ("$$\na = b + c\n$$ (eq-sum)\n\n$$\na = 1\n$$ (eq-sum)\n", "stands in 01-small.md too"),
    ],
)
def test_faults_in_a_chapter_are_found(tmp_path, chapter, expected):
    assert expected in "\n".join(write(tmp_path, chapter))


def test_a_deleted_test_is_found(tmp_path):
    (problem,) = write(tmp_path, test="def test_sum():\n    assert True\n")
    assert problem.startswith("01-small.md:1: no test is marked")
    assert "eq-sum" in problem


def test_line_breaks_are_no_change_and_code_is_no_formula(tmp_path):
    chapter = "$$\na = b\n  + c\n$$ (eq-sum)\n\n```{code-cell} ipython3\nprint('$$ x $$')\n```\n"
    assert write(tmp_path, chapter) == []


def test_a_problem_names_its_line(tmp_path):
    (problem,) = write(tmp_path, "one\n\n```{code-cell}\ntwo\n```\n\n$$\na = b + c\n$$ (eq-sum)\n\n$$\nz\n$$\n")
    assert problem.startswith("01-small.md:11: ")


def test_the_number_of_a_chapter_is_its_place_in_the_contents():
    """Its pages and equations are numbered by that place, its files by hand."""
    contents = yaml.safe_load((ledger.ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = [page["file"] for part in contents["parts"] if "numbered" in part for page in part["chapters"]]
    assert listed == [f"book/{chapter.stem}" for chapter in ledger.chapters()]
    assert [int(chapter.name[:2]) for chapter in ledger.chapters()] == list(range(1, len(listed) + 1))


def test_appendix_lists_every_equation():
    page = "\n".join(ledger.rows())
    found, tests = ledger.read()
    assert "no test" not in page
    for equation in found:
        assert f"{{eq}}`{equation.label}`" in page
    for test in tests:
        assert test.name in page


@pytest.mark.parametrize(
    ("latex", "values", "value"),
    [
        (r"\frac{1}{2} \sum_{j=1}^{d} \left( \exp(\lambda_j) - 1 \right)", {r"\lambda_j": [0.0, 0.0]}, 0.0),
        (r"\log \frac{|\Sigma_q|}{|\Sigma_p|} - d", {r"\Sigma_q": 1.0, r"\Sigma_p": 1.0, "d": 1}, -1.0),
        (r"\tr(A^{-1} B) + \mu^\T A \mu", {"A": 2.0, "B": 8.0, r"\mu": 3.0}, 22.0),
        (r"\Sigma_q^{-1} (a - b)", {r"\Sigma_q": 4.0, "a": 9.0, "b": 1.0}, 2.0),
        (r"\| L^{-1} (x - m) \|^2 - \log(2\pi) + \log(2\pi)", {"L": 0.5, "x": 2.0, "m": 1.0}, 4.0),
    ],
)
def test_printed_formulas_are_read_as_a_person_reads_them(latex, values, value):
    assert printed.evaluate(latex, values) == pytest.approx(value)


def test_a_formula_that_is_not_read_whole_is_refused():
    with pytest.raises(AssertionError, match="no value was given"):
        printed.evaluate(r"a + b", {"a": 1.0})
