"""What the sources print on probability and divergences, beside what is right: each test shows that the two differ.

The names of the tests stand in the appendix "Notes on the sources", one for each note.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

from course_lib.probability import bayes_rule, entropy, kl_categorical

DIE = frozenset(range(1, 7))
UNIFORM, BINOMIAL = np.full(3, 1 / 3), np.array([0.36, 0.48, 0.16])


def P(event, given=DIE):
    """By counting faces."""
    return Fraction(len(event & given), len(given))


def kl(p, q):
    return float(np.sum(p * np.log(p / q)))


def tensors(*distributions):
    return [torch.tensor(p, dtype=torch.float64) for p in distributions]


def test_a_value_has_a_probability_or_a_density():
    """Over the values the probabilities sum to 1, so p(x) is a number for each value and not one for the variable."""
    values = stats.binom(2, 0.4).pmf([0, 1, 2])
    assert values.sum() == pytest.approx(1)
    assert len(set(values)) == 3
    assert stats.norm(0, 0.1).pdf(0) == pytest.approx(3.99, abs=0.01)  # of a continuous variable it is a density


def test_a_variable_is_not_its_range():
    """Two variables with one range and two expectations."""
    faces = np.arange(1, 7)
    fair, loaded = np.full(6, 1 / 6), faces / 21
    assert fair @ faces == pytest.approx(3.5)
    assert loaded @ faces == pytest.approx(91 / 21)
    # each x_i stands once in the sum: with one x in all six terms it would give that x, not the mean
    assert [sum(x * p for p in fair) for x in (1.0, 6.0)] == pytest.approx([1.0, 6.0])


def test_the_likelihood_is_no_ratio():
    """What the notes call the likelihood ratio, P(x | y), is a factor of the joint; the ratio divides two of them."""
    prior, likelihood = np.array([0.3, 0.7]), np.array([0.8, 0.1])
    posterior = prior * likelihood / (prior @ likelihood)
    ratio = likelihood[0] / likelihood[1]
    assert posterior[0] / posterior[1] == pytest.approx(ratio * prior[0] / prior[1])
    assert ratio > 1 > likelihood[0]
    assert bayes_rule(*tensors(prior, likelihood)).numpy() == pytest.approx(posterior)


def test_the_denominator_sums_over_all_cases():
    """Summed over fewer cases than there are, the "posterior" does not sum to 1."""
    prior, likelihood = np.array([0.2, 0.3, 0.5]), np.array([0.5, 0.1, 0.4])
    joint = prior * likelihood
    assert (joint / joint.sum()).sum() == pytest.approx(1)
    assert (joint / joint[:2].sum()).sum() > 2
    with pytest.raises(ValueError, match="impossible"):  # P(x) = 0
        bayes_rule(*tensors(prior, [0.0, 0.0, 0.0]))


def test_total_probability_needs_a_partition():
    """Events that exclude each other, and leave something out, give too little; those that X is a union of give 1s."""
    x = frozenset({1, 2, 3})
    two, three = [frozenset({1}), frozenset({2})], [frozenset({1, 2}), frozenset({3, 4}), frozenset({5, 6})]
    assert sum(P(x, y) * P(y) for y in two) == Fraction(1, 3) != P(x)
    assert sum(P(x, y) * P(y) for y in three) == P(x) == Fraction(1, 2)
    assert [P(x, frozenset({y})) for y in x] == [1, 1, 1]


def test_why_the_probability_rises():
    """Three lies inside odd, so its probability is divided by that of odd. For four it falls to zero."""
    three, four, odd = frozenset({3}), frozenset({4}), frozenset({1, 3, 5})
    assert three <= odd
    assert P(three, odd) == P(three) / P(odd) == Fraction(1, 3)
    assert P(four, odd) == 0


def test_third_digit_of_the_discrete_example():
    """0.097455, and how 0.09637 came about: 1/3 cut to 0.333 everywhere, the logarithms rounded to four places."""
    assert kl(UNIFORM, BINOMIAL) == pytest.approx(0.0974550, abs=5e-8)
    assert kl(BINOMIAL, UNIFORM) == pytest.approx(0.0852996, abs=5e-8)
    logs = np.log(0.333 / BINOMIAL)
    assert round(float(np.sum(logs) / 3), 5) == 0.09645  # the expression as printed
    assert round(float(np.sum(0.333 * logs)), 5) == 0.09636
    assert round(float(np.sum(0.333 * logs.round(4))), 5) == 0.09637
    p, q = tensors(BINOMIAL, UNIFORM)
    assert kl_categorical(q, p).item() == pytest.approx(0.0974550, abs=5e-8)


def test_support_and_zero_log_zero():
    """Without the conventions the sum is not a number; with them it is infinite one way, and finite the other."""
    p, q = np.array([0.5, 0.5, 0.0]), UNIFORM
    with np.errstate(all="ignore"):
        assert math.isnan(kl(p, q))
    ours = kl_categorical(*tensors(p, q)), kl_categorical(*tensors(q, p))
    assert [value.item() for value in ours] == pytest.approx([math.log(1.5), math.inf])
    assert entropy(*tensors(p)).item() / math.log(2) == pytest.approx(1)  # bits: another base, another number


def test_some_pairs_are_symmetric():
    """The notes print that the two directions are unequal. In general, yes; for these pairs, no."""
    p, q = np.array([0.2, 0.3, 0.5]), np.array([0.3, 0.2, 0.5])
    assert kl(p, q) == pytest.approx(kl(q, p), abs=1e-15)
    assert kl(p, q) == pytest.approx(0.040547, abs=1e-6)
    assert kl(p, p) == 0
    assert abs(kl(UNIFORM, BINOMIAL) - kl(BINOMIAL, UNIFORM)) > 0.01


def test_zero_only_for_equals():
    """Over a fine grid of distributions the divergence is zero at p itself, and positive everywhere else."""
    p = np.array([0.2, 0.3, 0.5])
    grid = [np.array([a, b, 20 - a - b]) / 20 for a in range(1, 19) for b in range(1, 20 - a)]
    values = kl_categorical(*tensors(p, np.array(grid))).numpy()
    zero = [np.allclose(q, p) for q in grid]
    assert sum(zero) == 1
    assert np.all((values > 1e-4) == ~np.array(zero))
    assert values.min() == pytest.approx(0, abs=1e-15)
