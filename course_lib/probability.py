r"""Probability, entropy and the Kullback-Leibler divergence (chapter 1).

A distribution on K outcomes is a tensor whose last dimension lists the K probabilities; leading dimensions are a batch
and broadcast. Logarithms are natural, so everything is in nats. 0 log 0 is 0. Device and dtype follow the inputs.

What is not a distribution is refused: a negative entry, or a sum that differs from 1 by more than the square root of
the dtype's rounding unit (1.5e-8 in float64, 3.5e-4 in float32). A divergence is summed from the terms

    p log(p / q) - p + q,

none of which is negative, and which add up to the divergence when both sums are 1. So a sum that is off by s changes a
divergence D by about s D and s^2 / 2. In the plain sum of p log(p / q) it would be s, however small D is.

Some slopes are infinite at a probability of zero. A softmax that underflows to zero would multiply such a slope with
zero, and all its gradients would be NaN. So the slopes of `entropy`, and of `kl_categorical` in p, grow down to the
smallest normal number of the dtype (1.2e-38 in float32) and no further: from there on to zero they are large, but
finite. Times zero they are zero, which is the right limit.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from course_lib._validation import any_of, check_finite, check_form, check_types, member, values_are_known

__all__ = [
    "MonteCarloEstimate",
    "bayes_rule",
    "cross_entropy",
    "entropy",
    "kl_categorical",
    "monte_carlo_kl",
    "total_probability",
]


# Bayes' theorem


def bayes_rule(prior: Float[Tensor, "*#batch K"], likelihood: Float[Tensor, "*#batch K"]) -> Float[Tensor, "*batch K"]:
    """Posterior probabilities of K hypotheses, from their prior probabilities and the likelihoods of the data.

    A likelihood is a probability of the data, or a density: the K of them need not sum to one, and a density may exceed
    one. A common factor of all K does not matter; use one where all of them would underflow.
    Shapes: both (*batch, K); the batches broadcast. Returns (*batch, K), which sums to one.
    Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, a prior that is no
    distribution, a negative likelihood, and data that are impossible under every hypothesis of the prior.
    Chapter 1, equation eq-bayes. T. Bayes, An Essay towards solving a Problem in the Doctrine of Chances (1763).

    Examples:
        >>> prior = torch.tensor([0.01, 0.99], dtype=torch.float64)  # ill, healthy
        >>> positive = torch.tensor([0.90, 0.05], dtype=torch.float64)  # probability of a positive test in each case
        >>> bayes_rule(prior, positive).numpy().round(4)
        array([0.1538, 0.8462])
    """
    _check_prior_and_likelihood(prior, likelihood)
    possible = torch.where(prior > 0, likelihood, 0.0).detach()
    largest = possible.amax(-1, keepdim=True)
    if any_of(largest == 0):
        index = (largest.squeeze(-1) == 0).nonzero()[0].tolist()
        raise ValueError(
            f"{member('likelihood', index)} is 0 wherever the prior is positive: the data are impossible under every "
            "hypothesis, or the likelihoods underflowed (multiply them by a common factor)"
        )
    # Scaled, the sum can neither underflow nor overflow. What the prior rules out may be larger still, and is cut.
    joint = prior * (likelihood / largest).clamp(max=torch.finfo(prior.dtype).max)
    return joint / joint.sum(-1, keepdim=True)


def total_probability(
    prior: Float[Tensor, "*#batch K"], likelihood: Float[Tensor, "*#batch K"]
) -> Float[Tensor, "*batch"]:
    """Probability of the data whatever the hypothesis, the evidence: the sum of prior times likelihood.

    The K hypotheses must be a partition: no two hold together, and one of them holds.
    Shapes: both (*batch, K); the batches broadcast. Returns (*batch), in the unit of the likelihood.
    Raises TypeError or ValueError as `bayes_rule` does, but gives 0 for impossible data.
    Chapter 1, equation eq-total-probability. W. Feller, An Introduction to Probability Theory and Its Applications,
    volume 1, chapter V.

    Examples:
        >>> prior = torch.tensor([0.01, 0.99], dtype=torch.float64)
        >>> round(total_probability(prior, torch.tensor([0.90, 0.05], dtype=torch.float64)).item(), 4)
        0.0585
    """
    _check_prior_and_likelihood(prior, likelihood)
    return (prior * likelihood).sum(-1)


# Entropy and divergence


def entropy(p: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch"]:
    """Entropy of a distribution on K outcomes, in nats.

    At a probability of zero, where the slope is +infinity, the gradient is a large finite number, so that it can pass
    through a softmax that underflows.
    Shapes: p (*batch, K). Returns (*batch), between 0 and log K.
    Raises TypeError or ValueError for wrong types or shapes, NaN or infinity, and a p that is no distribution.
    Chapter 1, equation def-entropy. C. E. Shannon, A Mathematical Theory of Communication (1948), section 6.

    Examples:
        >>> round(entropy(torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)).item() / math.log(2), 6)  # in bits
        1.5
    """
    _check_distributions(p=p)
    return 0.0 - torch.xlogy(p, _off_zero(p)).sum(-1)  # 0 - 0 is 0, where -(0) would be -0


def cross_entropy(p: Float[Tensor, "*#batch K"], q: Float[Tensor, "*#batch K"]) -> Float[Tensor, "*batch"]:
    """Expectation of -log q under p, in nats: the mean code length for data from p with the ideal code for q.

    Infinite where q is zero and p is not; there the slopes are infinite too. Both zero count for nothing. Where q is
    a softmax that may underflow, use its logits instead: -(p * logits.log_softmax(-1)).sum(-1).
    Shapes: both (*batch, K); the batches broadcast. Returns (*batch), at least the entropy of p.
    Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, and what is no distribution.
    Chapter 1, equation def-cross-entropy. T. M. Cover and J. A. Thomas, Elements of Information Theory (2006),
    section 5.4.

    Examples:
        >>> p, q = torch.tensor([0.5, 0.5], dtype=torch.float64), torch.tensor([0.25, 0.75], dtype=torch.float64)
        >>> round(cross_entropy(p, q).item(), 6), round(cross_entropy(q, p).item(), 6)
        (0.836988, 0.693147)
    """
    _check_distributions(p=p, q=q)
    # where both are zero, the slope of xlogy in its second argument would be 0 / 0
    return 0.0 - torch.xlogy(p, torch.where((p == 0) & (q == 0), 1.0, q)).sum(-1)


def kl_categorical(p: Float[Tensor, "*#batch K"], q: Float[Tensor, "*#batch K"]) -> Float[Tensor, "*batch"]:
    """Divergence KL(p || q) of two distributions on K outcomes, in nats.

    Infinite where q is zero and p is not. No digit is lost for nearly equal distributions.
    The gradients are log(p / q) and 1 - p / q: those of the terms p log(p / q) - p + q. Textbooks leave out "- p + q"
    and get 1 more, or 1 less, in every entry, which changes nothing while the sums stay 1. At a p of zero, where the
    slope in p is -infinity, the gradient is a large finite number, so that it can pass through a softmax that
    underflows. Where the divergence is infinite, both slopes are. Both zero count for nothing.
    Shapes: both (*batch, K); the batches broadcast. Returns (*batch), never negative, zero if p equals q.
    Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, and what is no distribution.
    Chapter 1, equation def-kl-discrete. S. Kullback and R. A. Leibler, On Information and Sufficiency (1951).

    Examples:
        >>> p = torch.tensor([9 / 25, 12 / 25, 4 / 25], dtype=torch.float64)
        >>> q = torch.full((3,), 1 / 3, dtype=torch.float64)
        >>> round(kl_categorical(p, q).item(), 6), round(kl_categorical(q, p).item(), 6)
        (0.0853, 0.097455)
    """
    _check_distributions(p=p, q=q)
    return _Divergence.apply(p, q)


# Estimation from samples


class MonteCarloEstimate(NamedTuple):
    """A mean over samples, and its standard error.

    Examples:
        >>> estimate = MonteCarloEstimate(torch.tensor(0.5), torch.tensor(0.1))
        >>> print(f"{estimate.value:.1f} ± {estimate.standard_error:.1f}")
        0.5 ± 0.1
    """

    value: Tensor
    standard_error: Tensor


def monte_carlo_kl(
    log_p: Callable[[Tensor], Tensor],
    log_q: Callable[[Tensor], Tensor],
    samples: Tensor,
    estimator: Literal["log_ratio", "r_minus_one"] = "log_ratio",
) -> MonteCarloEstimate:
    """Estimate of KL(p || q) in nats from n samples of p, with its standard error.

    With r = q(x) / p(x), the estimator "log_ratio" is the mean of -log r, and "r_minus_one" that of (r - 1) - log r.
    The first is unbiased. The second has no negative term. It is unbiased if q puts no mass where p has none; else its
    expectation is too small by that mass, which its standard error does not show. Its variance is as a rule the smaller
    one for p close to q. For other pairs it may be far larger, or infinite.
    Arguments: log_p and log_q are functions that give the log-densities (or log-probabilities) of the samples.
    Shapes: samples (n, *event) with n >= 2; log_p(samples) and log_q(samples) both (n, *batch). Returns a
    `MonteCarloEstimate` of two tensors (*batch). Where a sample is impossible under q, the value is infinite and the
    standard error NaN.
    Raises TypeError or ValueError for another estimator, log-densities of wrong types, shapes or devices, NaN,
    +infinity, a sample that is impossible under p, and an r beyond the range of its dtype.
    Chapter 1, equation eq-estimator-mean. J. Schulman, Approximating KL Divergence (2020).

    Examples:
        >>> p, q = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(0.1, 1.0)
        >>> x = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
        >>> plain = monte_carlo_kl(p.log_prob, q.log_prob, x)
        >>> corrected = monte_carlo_kl(p.log_prob, q.log_prob, x, estimator="r_minus_one")
        >>> for estimate in (plain, corrected):  # the exact value is 0.005
        ...     print(f"{estimate.value:.4f} ± {estimate.standard_error:.4f}")
        0.0061 ± 0.0010
        0.0050 ± 0.0001
    """
    if estimator not in ("log_ratio", "r_minus_one"):
        raise ValueError(f"estimator is {estimator!r}: give 'log_ratio' or 'r_minus_one'")
    if not isinstance(samples, Tensor):
        raise TypeError(f"samples is a {type(samples).__name__}: give a torch.Tensor")
    if samples.ndim == 0 or len(samples) < 2:
        raise ValueError(f"samples has shape {tuple(samples.shape)}: give at least 2 samples, one in each row")
    log_r = _difference(log_p(samples), log_q(samples), len(samples))
    terms = -log_r if estimator == "log_ratio" else _r_minus_one(log_r)
    return MonteCarloEstimate(terms.mean(0), terms.detach().std(0) / math.sqrt(len(terms)))


# The formulas


class _Divergence(torch.autograd.Function):
    """The gradients are formulas of p and q, so that autograd can differentiate them again."""

    @staticmethod
    def forward(ctx, p, q):
        ctx.save_for_backward(p, q)
        return _relative_entropy(p, q).sum(-1)

    @staticmethod
    def backward(ctx, grad):
        p, q = ctx.saved_tensors
        weight = grad.unsqueeze(-1)
        neither = (p == 0) & (q == 0)
        some_p, some_q = torch.where(neither, 1.0, _off_zero(p)), torch.where(neither, 1.0, q)
        change = (p - q) / some_q
        near = (2 * p > q) & (p < 2 * q)  # there log1p loses no digit; far below q, p is lost in p - q
        log_ratio = torch.where(near, torch.where(near, change, 0.0).log1p(), _log_ratio(some_p, some_q))
        return weight * log_ratio, weight * torch.where(neither, 1.0, -change)


def _relative_entropy(p, q):
    """p log(p / q) - p + q, entry by entry, never negative.

    With s = (p - q) / (p + q), log(p / q) = 2 artanh(s) = 2 (s + s^3/3 + s^5/5 + ...). The first term of this series
    gives (p - q) s, once p - q is taken off, and the others are small beside it.
    """
    far = torch.where(p > 0, p * _log_ratio(p, q), 0.0) - (p - q)
    s = (p - q) / (p + q)
    t = s * s
    tail = 1 / 3 + t * (1 / 5 + t * (1 / 7 + t * (1 / 9 + t * (1 / 11 + t * (1 / 13 + t / 15)))))
    return torch.where(t < 0.01, (p - q) * s + 2 * p * s * t * tail, far)


def _log_ratio(p, q):
    """log(p / q), also where the quotient leaves the range of the dtype."""
    ratio = p / q
    return torch.where((ratio > 0) & (ratio < math.inf), ratio.log(), p.log() - q.log())


def _off_zero(p):
    """p, but at least the smallest normal number, whose inverse is still in the range."""
    return p.clamp(min=torch.finfo(p.dtype).tiny)


def _r_minus_one(log_r):
    terms = log_r.expm1() - log_r
    overflow = terms.isinf() & log_r.isfinite()
    if any_of(overflow):
        index = overflow.nonzero()[0].tolist()
        raise ValueError(
            f"the ratio q(x) / p(x) of sample {index[0]} is exp({log_r[tuple(index)].item():.4g}), beyond the range of "
            f"{log_r.dtype}: use estimator='log_ratio'"
        )
    return terms


def _difference(at_p, at_q, n):
    """log q - log p at n samples of p, checked."""
    named = {"log_p(samples)": at_p, "log_q(samples)": at_q}
    check_types(named)
    for name, values in named.items():
        if values.ndim == 0 or len(values) != n:
            raise ValueError(f"{name} has shape {tuple(values.shape)}: it must begin with the number of samples, {n}")
    if at_p.shape != at_q.shape:
        raise ValueError(
            f"log_p(samples) has shape {tuple(at_p.shape)} and log_q(samples) {tuple(at_q.shape)}: make them equal"
        )
    check_finite("log_p(samples)", at_p)  # a sample of p is possible under p
    wrong = at_q.isnan() | (at_q == math.inf)
    if any_of(wrong):
        check_finite("log_q(samples)", torch.where(wrong, at_q, 0.0))
    return at_q - at_p


# Checks


def _check_distributions(**named):
    _check_outcomes(named)
    for name, p in named.items():
        _check_not_negative(name, p, "a probability")
        total = p.detach().sum(-1)
        wrong = (total - 1).abs() > math.sqrt(torch.finfo(p.dtype).eps)
        if any_of(wrong):
            check_finite(name, p)
            index = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"{member(name, index)} sums to {total[tuple(index)].item():.8g} and not to 1: divide it by its sum "
                "(values of a density are not probabilities; multiply them by the width of a bin first)"
            )


def _check_prior_and_likelihood(prior, likelihood):
    _check_outcomes({"prior": prior, "likelihood": likelihood})
    _check_distributions(prior=prior)
    _check_not_negative("likelihood", likelihood, "a likelihood")
    check_finite("likelihood", likelihood)


def _check_outcomes(named):
    first_name, first = next(iter(named.items()))
    if isinstance(first, Tensor) and (first.ndim == 0 or first.shape[-1] == 0):
        raise ValueError(
            f"{first_name} has shape {tuple(first.shape)}: its last dimension must list the outcomes, one or more"
        )
    check_form(named, {})


def _check_not_negative(name, values, what):
    """Also finds NaN, which is not below zero but makes the smallest value NaN."""
    if not values_are_known(values) or values.detach().amin().item() >= 0:
        return
    check_finite(name, values)
    index = (values < 0).nonzero()[0].tolist()
    raise ValueError(f"{member(name, index)} is {values[tuple(index)].item():.4g}: {what} cannot be negative")
