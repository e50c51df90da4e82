"""The formulas of the book, read from their print: by `latex_reader`, or by SymPy's LaTeX parser as a second reader.

SymPy reads scalars. So a matrix formula is read at dimension one, where a trace, a determinant, a transpose and a norm
are the number itself: enough to find a wrong sign, a lost factor, a swapped index. Sums over dimensions are read whole.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import latex_reader
import ledger
import sympy
import yaml

ROOT = Path(__file__).resolve().parents[1]
BRACED = r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}"
INVERSE = r"\\?[A-Za-z]+(?:_\w|_\{\w+\})?\^\{-1\}"

# What is rewritten, in this order, before SymPy reads the formula.
AT_DIMENSION_ONE = [
    (r"\\(?:begin|end)\{aligned\}|\{\}&|&|\\\\(?=\s)", ""),  # where the lines of a long formula break
    (r"\\left|\\right|\\Big[lr]|\\,|\\;", ""),
    (r"(_\{\w+),(\w+\})", r"\1\2"),  # two indices make one name
    (r"\\operatorname\{tr\}\(", "("),
    (r"\^\{-\\top\}", "^{-1}"),
    (r"\^\\top", ""),
    (r"\\\|([^|]+)\\\|(?:_F)?\^2", r"(\1)^2"),
    (r"\|([^|]+)\|", r"(\1)"),
    (rf"\\log (\\frac{BRACED}{BRACED})", r"\\log(\1)"),
    (r"\\log (L_\{\w+\})", r"\\log(\1)"),
    (rf"({INVERSE})\s*\(", r"\1 \\cdot ("),  # or it would be read as a function of what follows
]


@cache
def macros() -> dict[str, str]:
    """The book's macros, from the one place where they are defined."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    return config["sphinx"]["config"]["mathjax3_config"]["tex"]["macros"]


@cache
def book() -> dict[str | None, str]:
    """The LaTeX of every displayed equation, by its label."""
    return {equation.label: equation.latex for equation in ledger.read(ROOT)[0]}


def sides(label: str) -> list[str]:
    """The parts of a displayed equation between its signs of equality."""
    # an equality sign with no space around it, as in \sum_{j=1}, does not part the equation
    return [part.strip(" .,") for part in re.split(r"\s=\s", book()[label])]


def scalar(latex: str) -> str:
    """The same formula, read at dimension one."""
    for name, meaning in macros().items():
        latex = re.sub(rf"\\{name}(?![A-Za-z])", lambda _, meaning=meaning: meaning, latex)
    for pattern, plain in AT_DIMENSION_ONE:
        latex = re.sub(pattern, plain, latex)
    return latex


@cache
def parsed(latex: str) -> sympy.Expr:
    """The expression that SymPy reads, with pi the number and not a name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the parser's grammar warns about its own regular expressions
        from sympy.parsing.latex import parse_latex  # seconds to load, and few tests need it

    return parse_latex(scalar(latex)).subs(sympy.Symbol("pi"), sympy.pi)


def names(name: str, latex: str) -> bool:
    """Whether the formula holds this very name, and not only a longer one that contains it."""
    return re.search(rf"(?<![A-Za-z\\]){re.escape(name)}(?![A-Za-z_{{])", latex) is not None


def written_out(total: sympy.Sum, values: Mapping[sympy.Symbol, object]) -> sympy.Expr:
    """A sum over dimensions, term by term: indexed symbols take one entry of their values each."""
    indexed = {name: values[name] for name in total.function.free_symbols if hasattr(values.get(name), "__len__")}
    length = {len(entries) for entries in indexed.values()}
    assert len(length) == 1, f"the values of {sorted(map(str, indexed))} have different lengths"
    return sum(
        total.function.subs({name: entries[i] for name, entries in indexed.items()}) for i in range(length.pop())
    )


def evaluate(latex: str, values: Mapping[str, object]) -> float:
    """The number that a printed formula stands for, when each symbol has the value given under its LaTeX name."""
    given = {parsed(name): value for name, value in values.items()}
    # The parser may stop early without a word. So each name that stands in the text must be in what was read.
    unread = [name for name in values if names(name, latex) and parsed(name) not in parsed(latex).atoms(sympy.Symbol)]
    assert not unread, f"{unread} was not read from {latex}"
    expression = parsed(latex).replace(
        lambda part: isinstance(part, sympy.Sum), lambda total: written_out(total, given)
    )
    plain = {name: value for name, value in given.items() if not hasattr(value, "__len__")}
    result = expression.subs(plain)
    assert not result.free_symbols, f"no value was given for {result.free_symbols} in {latex}"
    return float(result)


def reader(latex: str):
    """A formula as a function of the values of its symbols, with matrices of any size; not SymPy's reading."""
    (one,) = latex_reader.sides(latex)
    return one


@cache
def readers(label: str):
    """The sides of a displayed equation, each as a function of the values of its symbols."""
    return latex_reader.sides(book()[label])


@cache
def claims(label: str):
    r"""What a display claims, if it has several parted by ``, \quad``: pairs as of `relation`."""
    return latex_reader.claims(book()[label])


def relation(label: str):
    r"""The sides of a claim, and the signs between them (``=``, ``\le``, ``<``...)."""
    (one,) = claims(label)
    return one


def agree(label: str, names: Mapping[str, object], rel: float = 1e-9, abs: float = 1e-9) -> None:
    """Assert that what the display claims is so, with these values of its symbols."""
    for formulas, signs in claims(label):
        values = [formula(names) for formula in formulas]
        for left, sign, right in zip(values, signs, values[1:], strict=False):
            assert latex_reader.holds(sign, left, right, rel, abs), f"{label}: {left} {sign} {right}"
