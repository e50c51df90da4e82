"""The reader of printed formulas can be trusted: SymPy agrees with it, it refuses what it does not know, and every
small change of a printed equation is seen.
"""

import re

import numpy as np
import printed
import pytest
from gaussian_pairs import Pair, over_noise, rotated, scaled, shifted, whole_line

# --- SymPy, where it can read ---

# Labels and sides that SymPy reads at dimension one.
READ_BY_SYMPY = {
    "def-cholesky": (0, 1), "def-sampling": (1,), "eq-kl-univariate": (1,), "eq-log-density": (1,),
    "eq-log-det": (0, 1), "eq-mahalanobis": (0, 1), "eq-whitening": (0,), "eq-trace-cyclic": (0, 1, 2),
    "eq-scalar-trace": (0, 1, 2), "eq-second-moment": (1,), "eq-trace-lemma": (1,), "eq-gaussian-kl": (1,),
    "eq-step-log-ratio": (1,), "eq-step-own": (1,), "eq-step-split": (0, 1), "eq-step-spread": (1,),
    "eq-step-other": (1,), "eq-kl-scale": (1,), "eq-kl-shift": (1,), "eq-kl-rotate": (1,), "eq-kl-diagonal": (1,),
    "eq-kl-standard-normal": (1,), "eq-kl-log-variance": (1,), "eq-kl-eigenvalues": (1,),
    "eq-kl-gradient-mean": (1,), "eq-kl-gradient-cov": (1,), "eq-kl-factors": (1,), "eq-kl-differences": (1,),
}  # fmt: skip


@pytest.mark.parametrize("label", READ_BY_SYMPY)
def test_sympy_reads_the_same(label):
    names = Pair(1, 3).names() | {"s": 1.7, "t": 0.4, "a": 3.0, "b": 1.2, r"\theta": 0.6}
    plain = {
        name: value if isinstance(value, list) else float(np.squeeze(value))
        for name, value in names.items()
        if not callable(value) and name != r"\pi"
    }
    for side in READ_BY_SYMPY[label]:
        ours = printed.readers(label)[side](names)
        assert printed.evaluate(printed.sides(label)[side], plain) == pytest.approx(float(np.squeeze(ours)))


# --- what it refuses ---


@pytest.mark.parametrize(
    ("latex", "complaint"),
    [
        (r"a + \alpha", "no value was given"),
        (r"a + (b", r"\) expected"),
        (r"a + + b", "a factor is missing"),
        (r"a ) b", "was not read"),
        (r"a^{2 + 1}", "exponent"),
        (r"A + a", "a sum of shapes"),
        (r"\frac{1}{A}", "a number is wanted"),
        (r"\log A", "a number is wanted"),
        (r"A^2", "a number is wanted"),
        (r"\sum_{j=1}^{d} v_i", "does not carry the index"),
        (r"\sum_{j=0}^{d} v_j", "a sum from 1"),
    ],
)
def test_it_refuses_what_makes_no_sense(latex, complaint):
    names = {"a": 2.0, "b": 3.0, "d": 2, "A": np.eye(2), "v_i": [1.0, 2.0], "v_j": [1.0, 2.0]}
    with pytest.raises(ValueError, match=complaint):
        printed.reader(latex)(names)


@pytest.mark.parametrize(
    ("latex", "value"),
    [
        (r"a - b - 1", -2.0),
        (r"-a^2 + 2 a b", 8.0),
        (r"\frac{1}{2} \left( a + b \right) a", 5.0),
        (r"x^\T B x", 5.0),
        (r"\tr(B^\T B) - \| B \|_F^2 + |B|", 1.0),
        (r"|2 B|", 4.0),
        (r"x^\T B^{-1} x", -1.0),
        (r"\sum_{j=1}^{d} ( v_j - 1 ) + 10", 11.0),
        (r"\log(a) - \frac{1}{2} \log a^2", 0.0),
        (r"\sin^2(a)", np.sin(2) ** 2),
    ],
)
def test_it_reads_as_a_person_reads(latex, value):
    numbers = {"a": 2.0, "b": 3.0, "d": 2, "v_j": [1.0, 2.0]}
    names = numbers | {"x": np.array([[1.0], [1.0]]), "B": np.array([[1.0, 3.0], [0.0, 1.0]])}
    assert printed.reader(latex)(names) == pytest.approx(value)


# --- every small change is seen ---

CHANGES = [
    (r" \+ ", " - "),
    (r" - ", " + "),
    (r"(?<=[\w}])-(?=\\mu)", "+"),
    (r"\\frac\{1\}\{2\}", "1"),
    (r"\\frac\{d\}", r"\\frac{1}"),
    (r" - d\b", " - 1"),
    (r"(?<=_)p", "q"),
    (r"(?<=_)q", "p"),
    (r"(?<=_\{)p", "q"),
    (r"(?<=_\{)q", "p"),
    (r"\^\\T", ""),
    (r"\^\{-1\}", ""),
    (r"\^2(?!\()", ""),
    (r"\\tr\(([^()]*)\)", r"|\1|"),
    (r"\\tr\(([^()]*)\)", r"(\1)"),
    (r"\|([^|\\]*\\Sigma[^|\\]*)\|", r"\\tr(\1)"),
    (r"\\KL\(p \\,\\\|\\, q\)", r"\\KL(q \\,\\|\\, p)"),
    (r"\b2 ", "3 "),
    (r"\\log", r"\\exp"),
    (r"B C", "C B"),
]

# How many of the changes leave an equation true, and why.
CENTRED = "x - mu_p has mean zero, so what is added to the other factor does not matter"
STILL_TRUE = {
    "eq-sampling": (2, CENTRED),
    "eq-step-expectation": (4, CENTRED),
    "eq-step-own": (4, CENTRED),
    "eq-step-spread": (4, CENTRED),
    "eq-step-cross": (10, "zero times any matrix and any vector is zero"),
    "eq-scalar-trace": (2, "a number is its own trace and its own determinant"),
    "eq-kl-shift": (1, "equal covariances: both directions of the divergence agree"),
    "eq-kl-rotate": (1, "a rotation: both directions of the divergence agree"),
}


def changed(latex):
    """Every version of a formula in which one sign, factor or index is another."""
    for pattern, new in CHANGES:
        for match in re.finditer(pattern, latex):
            yield latex[: match.start()] + match.expand(new) + latex[match.end() :]


def situations(label):
    """Values of the symbols in a few situations where the equation claims to hold."""
    if label == "def-kl":
        return [whole_line(Pair(1, 0))]
    if label == "eq-kl-univariate":
        return [Pair(1, 0).names(), Pair(1, 1).names()]
    if label == "eq-kl-scale":
        return [scaled(d, s) for d in (1, 3) for s in (0.3, 2.2)]
    if label == "eq-kl-shift":
        return [shifted(0.7), shifted(-3.0)]
    if label == "eq-kl-rotate":
        return [rotated(0.4), rotated(2.5)]
    pairs = [Pair(d, seed) for d in (1, 2, 3) for seed in (0, 1)]
    if label == "eq-sampling":
        return [over_noise(pair, printed.readers("def-sampling")[-1]) for pair in pairs]
    if label in ("eq-kl-diagonal", "eq-kl-log-variance"):
        pairs = [pair.diagonal() for pair in pairs]
    if label in ("eq-kl-standard-normal", "eq-kl-log-variance"):
        pairs = [pair.to_standard() for pair in pairs]
    return [pair.names() for pair in pairs]


def holds(latex, names):
    """Whether all sides can be computed and agree."""
    try:
        values = [np.asarray(side(names)) for side in printed.latex_reader.sides(latex)]
    except (ValueError, KeyError, TypeError, np.linalg.LinAlgError):
        return False
    return all(v.shape == values[0].shape and np.allclose(v, values[0], rtol=1e-4, atol=1e-4) for v in values[1:])


EQUATIONS = [label for label in printed.book() if label not in ("def-sampling", "eq-log-inequality")]


def test_there_are_many_changes():
    assert sum(1 for label in EQUATIONS for _ in changed(printed.book()[label])) > 350


@pytest.mark.parametrize("label", EQUATIONS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # a wrong formula may well take the logarithm of minus one
def test_every_small_change_of_the_print_is_seen(label):
    latex = printed.book()[label]
    where = situations(label)
    assert all(holds(latex, names) for names in where)
    unseen = [wrong for wrong in changed(latex) if all(holds(wrong, names) for names in where)]
    expected, _ = STILL_TRUE.get(label, (0, ""))
    assert len(unseen) == expected, "\n".join(unseen)
