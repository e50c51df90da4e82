"""Chapter 1 for the tests of its equations: values of the symbols in which each equation claims to hold.

Nothing here uses course_lib. Probabilities are counted over equally likely balls, expectations are averages over
them, entropies and divergences of finite distributions are SciPy's, and those of densities are integrals on a grid.
"""

import itertools
import math

import numpy as np
from latex_reader import Depends
from scipy import special, stats

CONSTANT = "a constant that is added does not change a variance"
STILL_TRUE = {
    "eq-tangent": (1, "with + for - it is a weaker inequality, and true"),
    "eq-jensen": (3, "without the logarithm, or with exp, the right side is larger still"),
    "eq-gibbs-jensen": (4, "the right side is zero; each of these changes makes it larger, and the claim weaker"),
    "eq-gibbs-mass": (1, "with 2 for 1 it is a weaker bound, and true"),
    "eq-corrected-variance": (2, CONSTANT),
    "eq-shift-variances": (2, CONSTANT),
}

NOT_MUTATED = {}

# Beside the changes that every chapter tries: one distribution for the other, one event for the other, one relation.
CHANGES = [
    (r"(?<![\\A-Za-z_{])p\(x\)", "q(x)"),
    (r"(?<![\\A-Za-z_{])q\(x\)", "p(x)"),
    (r"r\(x\)", "q(x)"),
    (r"p_X", "q_X"),
    (r"q_X", "p_X"),
    (r"_X", "_Y"),
    (r"\\hat p", r"q_\\theta"),
    (r"\\KL\(q \\,\\\|\\, p\)", r"\\KL(p \\,\\|\\, q)"),
    (r"P\(A\)", "P(C)"),
    (r"P\(C\)", "P(A)"),
    (r"\\cap", r"\\cup"),
    (r"A_1", "A_2"),
    (r"\\leq", r"\\geq"),
    (r"\\geq", r"\\leq"),
    (r"\b1\b", "2"),
    (r"2\^", "3^"),
]

READ_BY_SYMPY = {"eq-ratio-second-moment": (1,)}


def sympy_names(label):
    return {r"\sigma": 1.2}


class Finite:
    """A distribution on finitely many outcomes: called, it is its probability mass function."""

    def __init__(self, outcomes, probabilities):
        self.outcomes, self.vector = list(outcomes), np.asarray(probabilities, float)

    def __call__(self, x):
        return self.vector[self.outcomes.index(x)]

    def expectation(self, f):
        """Over the outcomes that can happen. The draw is x, of a pair (x, y)."""
        return sum(w * f(x=x) for w, x in zip(self.vector, self.outcomes, strict=True) if w > 0)

    def variance(self, f):
        mean = self.expectation(f)
        return self.expectation(lambda **drawn: (f(**drawn) - mean) ** 2)


def entropy(p, q=None):
    """H(p) by SciPy, and H(p, q) as its sum with SciPy's relative entropy."""
    return stats.entropy(p.vector) + (0 if q is None else divergence(p, q))


def divergence(p, q):
    """KL(p || q), for finite distributions by SciPy and for densities on a grid."""
    if isinstance(p, Finite):
        return special.rel_entr(p.vector, q.vector).sum()
    x = np.linspace(-40, 40, 8001)
    return np.trapezoid(np.exp(p(x)) * (p(x) - q(x)), x)


def random_finite(rng, n, floor=0.05):
    weights = rng.uniform(floor, 1, size=n)
    return Finite(range(1, n + 1), weights / weights.sum())


def finite_pair(seed, n=4):
    rng = np.random.default_rng([n, seed])
    return random_finite(rng, n), random_finite(rng, n)


def finite_names(p, q):
    """The names of a pair of distributions on the same outcomes."""
    return {
        "p": p, "q": q, "H": entropy, r"\KL": divergence, r"\sum_x": p.outcomes,
        r"\E_p": p.expectation, r"\Var_p": p.variance, "f": lambda x: 1.5 + (x - 2.2) ** 2,
        "r": lambda x: q(x) / p(x), "S": {x for x in p.outcomes if p(x) > 0},
    }  # fmt: skip


# Events: sets of balls, of which each is equally likely.

BALLS = frozenset(range(24))


def share(event, among=BALLS):
    return len(event & among) / len(among)


def event_names(A, C):
    return {"A": frozenset(A), "C": frozenset(C), "P": share, r"P(\mid)": share}


def partition_names(cuts, C):
    """A partition of the balls into runs that end before the cuts."""
    ends = [0, *cuts, len(BALLS)]
    parts = [frozenset(range(a, b)) for a, b in itertools.pairwise(ends)]
    return event_names(parts[0], C) | {"A_k": parts, "K": len(parts), "k": 2}


def two_dice(seed, prior, rolls):
    """Hypotheses 1 and 2 with their dice; the posterior is the share in a long list of all that could have happened."""
    p, q = finite_pair(seed, 3)
    rng = np.random.default_rng(seed)
    x = tuple(rng.integers(1, 4, size=rolls).tolist())
    joint = {k: prior[k] * math.prod(die(one) for one in x) for k, die in ((0, p), (1, q))}
    return finite_names(p, q) | {
        "A_k": [0, 1], "P": lambda k: prior[k], r"P(\mid)": lambda k, data: joint[k] / sum(joint.values()),
        "x": x, "x_i": list(x), "N": rolls,
    }  # fmt: skip


def code(lengths, seed):
    """A complete binary code, and a distribution of its letters."""
    p = random_finite(np.random.default_rng(seed), len(lengths))
    q = Finite(p.outcomes, [1 / (1 << n) for n in lengths])  # halves of halves, by shifting
    return finite_names(p, q) | {"n": lambda x: lengths[x - 1], "x": 2}


def joint(seed, rows, columns, independent=False):
    """Two distributions of a pair (x, y), their marginals, and the conditional distributions of y given x."""
    rng = np.random.default_rng([seed, rows, columns])
    tables = rng.uniform(0.1, 1, size=(2, rows, columns))
    if independent:
        tables = tables.sum(2, keepdims=True) * tables.sum(1, keepdims=True)
    tables /= tables.sum((1, 2), keepdims=True)
    names = {r"\KL": divergence, r"\sum_x": range(1, rows + 1)}
    for name, table in zip("pq", tables, strict=True):
        names[name] = Finite(range(rows * columns), table.ravel())
        names[f"{name}_X"] = Finite(range(1, rows + 1), table.sum(1))
        names[f"{name}_Y"] = Finite(range(1, columns + 1), table.sum(0))
        given = [Finite(range(1, columns + 1), row / row.sum()) for row in table]
        names[name + r"_{Y \mid x}"] = Depends(lambda names, given=given: given[names["x"] - 1])
    return names


def likelihood(seed):
    """Data on three outcomes, in a shuffled order, and a model with some value of its parameter."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 6, size=3)
    data = rng.permutation(np.repeat([1, 2, 3], counts)).tolist()
    model = random_finite(rng, 3)
    return finite_names(model, model) | {
        "x_i": data, "N": len(data), r"\hat{p}": Finite([1, 2, 3], counts / counts.sum()), r"q_\theta": model,
    }  # fmt: skip


# Densities, as functions that give the logarithm.


def normal(mean, variance):
    return stats.norm(mean, variance**0.5).logpdf


def mixture(weight, left, right):
    """A density with two humps, its mean and its deviation."""
    (mean_1, sd_1), (mean_2, sd_2) = left, right
    mean = weight * mean_1 + (1 - weight) * mean_2
    second = weight * (sd_1**2 + mean_1**2) + (1 - weight) * (sd_2**2 + mean_2**2)

    def log_density(x):
        humps = [np.log(weight) + stats.norm(*left).logpdf(x), np.log1p(-weight) + stats.norm(*right).logpdf(x)]
        return np.logaddexp(*humps)

    return log_density, mean, (second - mean**2) ** 0.5


def forward(seed):
    target = [(0.6, (-2, 0.8), (2.5, 1.2)), (0.3, (-1, 1.3), (1.5, 0.6))][seed]
    p, mean, deviation = mixture(*target)
    return {
        "p": p, "q": normal(0.4 + seed, 1.7), r"\KL": divergence, r"\Normal": normal, r"\Normal(,)": normal,
        r"\mu_p": mean, r"\sigma_p": deviation,
    }  # fmt: skip


def standard_normal(f):
    """An expectation under N(0, 1), by a Gauss-Hermite rule."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    return sum(w * f(x=x) for x, w in zip(nodes.tolist(), (weights / weights.sum()).tolist(), strict=True))


def against_standard_normal(log_q):
    """p = N(0, 1) and the ratio r of another density to it."""
    log_p = stats.norm(0, 1).logpdf

    def variance(f):
        mean = standard_normal(f)
        return standard_normal(lambda x: (f(x=x) - mean) ** 2)

    return {r"\E_p": standard_normal, r"\Var_p": variance, "r": lambda x: math.exp(log_q(x) - log_p(x))}


def situations(label):
    """Values of the symbols in a few situations where the equation claims to hold."""
    pairs = [finite_names(*finite_pair(seed, n)) for seed, n in ((0, 2), (1, 3), (2, 5))]
    return {
        "def-conditional": [event_names(range(5), range(3, 17)), event_names(range(9, 20), range(13))],
        "eq-conditional-inside": [event_names(range(5), range(9)), event_names({7}, range(3, 23))],
        "eq-total-probability": [partition_names((3, 10), range(2, 14)), partition_names((5, 6, 17), {0, 5, 6, 7, 20})],
        "eq-bayes": [partition_names((3, 10), range(2, 14)), partition_names((5, 8, 17), {0, 5, 6, 9, 10, 20})],
        "eq-log-odds": [two_dice(seed, prior, 4 + seed) for seed, prior in ((0, (0.3, 0.7)), (1, (0.8, 0.2)))],
        "def-code-belief": [code((1, 2, 3, 3), 0), code((2, 3, 3, 2, 2), 1)],
        "eq-code-length": [code((1, 2, 3, 3), 0), code((2, 3, 3, 2, 2), 1), code((2, 1, 2), 2)],
        "def-ratio": [pair | {"x": 2} for pair in pairs],
        "eq-tangent": [{"u": u} for u in (1e-6, 0.2, 0.999, 1.0, 1.5, 40.0)],
        "eq-gibbs-mass": [*pairs, *outside()],
        "eq-estimator-mean": [*pairs, *outside()],
        "eq-chain-rule": [joint(0, 2, 3), joint(1, 4, 2)],
        "eq-kl-additive": [joint(0, 2, 3, independent=True), joint(1, 4, 2, independent=True)],
        "eq-maximum-likelihood": [likelihood(seed) for seed in range(3)],
        "eq-forward-fit": [forward(0), forward(1)],
        "eq-shift-variances": [against_standard_normal(normal(s, 1)) | {"s": s} for s in (0.4, -0.9, 1.3)],
        "eq-ratio-second-moment": [
            against_standard_normal(normal(0, sigma**2)) | {r"\sigma": sigma} for sigma in (0.7, 1.2)
        ],
    }.get(label, pairs)


def outside():
    """Pairs where q has mass and p has none."""
    p, q = Finite([1, 2, 3], [0.35, 0.65, 0.0]), Finite([1, 2, 3], [0.3, 0.2, 0.5])
    return [finite_names(p, q)]
