"""Probability against counting, scipy, torch.distributions, high-precision arithmetic and its own invariances.

As in test_gaussians.py, wrong shapes go to the `unchecked` function, whose own sentence a user would see.
"""

import inspect
import math
import re

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from torch._subclasses import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import Categorical, Normal, kl_divergence

from course_lib import probability
from course_lib.probability import (
    MonteCarloEstimate,
    bayes_rule,
    cross_entropy,
    entropy,
    kl_categorical,
    monte_carlo_kl,
    total_probability,
)

unchecked = inspect.unwrap
close = torch.testing.assert_close
F64 = torch.float64


def distribution(generator, *shape, dtype=F64):
    """Random probabilities, some of them small."""
    logits = 2 * torch.randn(shape, generator=generator, dtype=dtype)
    return logits.softmax(-1)


def tensor(*values, dtype=F64):
    return torch.tensor(values, dtype=dtype)


def exact_kl(p, q):
    """In 60 digits, of the distributions that p and q are once their sums are made exactly 1."""
    with mpmath.workdps(60):
        a, b = ([mpmath.mpf(value) for value in values.tolist()] for values in (p, q))
        a, b = [value / sum(a) for value in a], [value / sum(b) for value in b]
        return sum(x * mpmath.log(x / y) for x, y in zip(a, b, strict=True) if x)


def relative_error(value, exact):
    with mpmath.workdps(60):
        return float(abs(mpmath.mpf(value.item()) / exact - 1))


# Bayes' theorem


def test_bayes_by_counting():
    """Two urns and the share of each among the draws that were black, counted over all equally likely balls."""
    balls = [("first", colour) for colour in "bbbw"] + [("second", colour) for colour in "bwww"]
    black = [urn for urn, colour in balls if colour == "b"]
    counted = [black.count(urn) / len(black) for urn in ("first", "second")]
    prior, likelihood = tensor(0.5, 0.5), tensor(3 / 4, 1 / 4)
    close(bayes_rule(prior, likelihood), tensor(*counted))
    assert total_probability(prior, likelihood).item() == len(black) / len(balls)


def test_posterior_of_beta_on_a_grid_agrees_with_scipy():
    """A likelihood may be a density, and hypotheses a fine grid: the posterior of a coin, 6 heads and 4 tails."""
    theta = torch.linspace(0.0005, 0.9995, 1000, dtype=F64)
    prior = torch.from_numpy(stats.beta(10, 10).pdf(theta.numpy()))
    posterior = bayes_rule(prior / prior.sum(), theta**6 * (1 - theta) ** 4)
    assert (posterior * theta).sum().item() == pytest.approx(16 / 30, abs=1e-9)
    close(posterior * 1000, torch.from_numpy(stats.beta(16, 14).pdf(theta.numpy())), rtol=1e-6, atol=1e-6)


def test_two_updates_are_one(generator):
    prior, likelihoods = distribution(generator, 5), torch.rand(2, 5, generator=generator, dtype=F64)
    close(bayes_rule(bayes_rule(prior, likelihoods[0]), likelihoods[1]), bayes_rule(prior, likelihoods.prod(0)))


def test_bayes_broadcasts_and_total_probability_is_the_normaliser(generator):
    prior, likelihood = distribution(generator, 4), torch.rand(3, 2, 4, generator=generator, dtype=F64)
    posterior, evidence = bayes_rule(prior, likelihood), total_probability(prior, likelihood)
    assert posterior.shape == (3, 2, 4)
    assert evidence.shape == (3, 2)
    close(posterior * evidence.unsqueeze(-1), prior * likelihood)
    close(posterior.sum(-1), torch.ones_like(evidence))


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1.0, 1e160, 1e300])
def test_a_common_factor_of_the_likelihoods_does_not_matter(scale):
    prior, likelihood = tensor(0.2, 0.5, 0.3), tensor(0.1, 0.7, 4.0)
    close(bayes_rule(prior, scale * likelihood), bayes_rule(prior, likelihood))


def test_a_tiny_prior_and_a_tiny_likelihood_elsewhere():
    close(bayes_rule(tensor(1e-300, 1.0), tensor(1.0, 1e-300)), tensor(0.5, 0.5))
    close(bayes_rule(tensor(0.0, 1.0), tensor(1.0, 1e-320)), tensor(0.0, 1.0))
    close(bayes_rule(tensor(1e-200, 1.0), tensor(1e-150, 0.0)), tensor(1.0, 0.0))  # their product underflows


def test_a_hypothesis_that_is_ruled_out_stays_out():
    close(bayes_rule(tensor(0.0, 0.5, 0.5), tensor(9.0, 1.0, 3.0)), tensor(0.0, 0.25, 0.75))
    close(bayes_rule(tensor(0.2, 0.8), tensor(0.0, 0.1)), tensor(0.0, 1.0))
    assert total_probability(tensor(0.0, 1.0), tensor(1.0, 0.0)).item() == 0


# Entropy and divergence


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
@pytest.mark.parametrize("K", [1, 2, 7])
def test_agree_with_scipy_and_torch(generator, batch, K):
    p, q = distribution(generator, *batch, K), distribution(generator, *batch, K)
    arrays = p.numpy(), q.numpy()
    for ours, theirs in (
        (entropy(p), special.entr(arrays[0]).sum(-1)),
        (cross_entropy(p, q), -(arrays[0] * np.log(arrays[1])).sum(-1)),
        (kl_categorical(p, q), special.rel_entr(*arrays).sum(-1)),
        (kl_categorical(p, q), kl_divergence(Categorical(p), Categorical(q)).numpy()),
    ):
        assert ours.shape == batch
        assert ours.numpy() == pytest.approx(theirs, rel=1e-12, abs=1e-14)


def test_the_known_pair():
    p, q = tensor(9 / 25, 12 / 25, 4 / 25), tensor(1 / 3, 1 / 3, 1 / 3)
    assert kl_categorical(p, q).item() == pytest.approx(0.0852996, abs=5e-8)
    assert kl_categorical(q, p).item() == pytest.approx(0.0974550, abs=5e-8)


def test_zero_log_zero_is_zero_and_lost_support_is_infinite():
    p, q = tensor(0.5, 0.5, 0.0), tensor(0.25, 0.75, 0.0)
    half = tensor(0.5, 0.25, 0.25)
    assert entropy(p).item() == pytest.approx(math.log(2))
    assert kl_categorical(p, q).item() == pytest.approx(kl_categorical(p[:2], q[:2]).item())
    assert cross_entropy(p, q).item() == pytest.approx(cross_entropy(p[:2], q[:2]).item())
    assert kl_categorical(p, half).item() == pytest.approx(0.5 * math.log(2))
    assert kl_categorical(half, p).item() == math.inf
    assert cross_entropy(half, p).item() == math.inf
    certain = tensor(0.0, 1.0)
    assert entropy(certain).item() == kl_categorical(certain, certain).item() == cross_entropy(certain, certain).item()
    assert entropy(certain).item() == 0
    close(kl_categorical(half, torch.stack([p, half])), tensor(math.inf, 0.0))


NEAR = [(torch.float32, 2e-6, 10.0**-k) for k in range(1, 6)] + [(F64, 2e-15, 10.0**-k) for k in range(1, 8)]


@pytest.mark.parametrize(("dtype", "goal", "distance"), NEAR)
def test_nearly_equal_distributions(generator, distance, dtype, goal):
    """Down to divergences of 1e-14, against 60 digits; neither sum is exactly 1, which must not matter."""
    for _ in range(20):
        p = distribution(generator, 6, dtype=dtype)
        step = torch.randn(6, generator=generator, dtype=dtype)
        q = p * (1 + distance * (step - (p * step).sum()))
        ours = kl_categorical(p, q)
        # the sums are off by a rounding unit, which enters squared
        allowed = goal + (4 * torch.finfo(dtype).eps / distance) ** 2
        assert relative_error(ours, exact_kl(p, q)) <= allowed


def test_the_plain_sum_is_wrong_where_ours_is_right(generator):
    """The test above is no formality."""
    p = distribution(generator, 1000, 6, dtype=torch.float32)
    q = p * (1 + 1e-4 * torch.randn(1000, 6, generator=generator))
    q = q / q.sum(-1, keepdim=True)
    assert ((p * (p / q).log()).sum(-1) < 0).any()
    assert (kl_categorical(p, q) >= 0).all()


@pytest.mark.parametrize("ratio", [1.1, 1.21, 1.222, 1.223, 1.3, 10.0, 1e8, 1e18, 1e300])
def test_ratios_near_and_far(ratio):
    """Across the border between the two forms, at a ratio of 11/9, and far beyond it."""
    p = tensor(0.5, 0.5)
    q = tensor(0.5 / ratio, 1 - 0.5 / ratio)
    for a, b in ((p, q), (q, p)):
        assert relative_error(kl_categorical(a, b), exact_kl(a, b)) <= 2e-15


@pytest.mark.parametrize(("dtype", "tiny"), [(F64, 1e-315), (torch.float32, 1e-42)])
def test_a_quotient_beyond_the_range(dtype, tiny):
    """p / q overflows, its logarithm does not: what is rare, and not impossible, has a finite divergence."""
    p, q = tensor(0.5, 0.5, dtype=dtype), tensor(tiny, 1.0, dtype=dtype).requires_grad_()
    assert relative_error(kl_categorical(p, q), exact_kl(p, q)) <= 4 * torch.finfo(dtype).eps
    (slope,) = torch.autograd.grad(kl_categorical(p.requires_grad_(), q), p)
    close(slope, tensor(math.log(0.5) - math.log(q[0].item()), math.log(0.5), dtype=dtype))


seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=40, deadline=None, derandomize=True)
dtypes = st.sampled_from([torch.float32, F64])


@quick
@given(seeds, st.integers(2, 8), st.sampled_from([1e-8, 1e-4, 1.0, 30.0]), dtypes)
def test_never_negative_and_zero_only_if_equal(seed, K, distance, dtype):
    generator = torch.Generator().manual_seed(seed)
    logits, step = torch.randn(2, K, generator=generator, dtype=dtype)
    p, q = logits.softmax(-1), (logits + distance * step).softmax(-1)
    assert kl_categorical(p, p) == 0
    kl = kl_categorical(p, q)
    assert kl >= 0
    assert (kl == 0) <= torch.allclose(p, q, rtol=1e-5 if dtype is torch.float32 else 1e-10)


@quick
@given(seeds, st.integers(2, 8))
def test_entropies_are_bounded_and_the_divergence_is_their_difference(seed, K):
    generator = torch.Generator().manual_seed(seed)
    p, q = distribution(generator, 2, K)
    assert 0 <= entropy(p) <= math.log(K) + 1e-12
    close(kl_categorical(p, q), cross_entropy(p, q) - entropy(p), rtol=1e-10, atol=1e-12)
    close(kl_categorical(p, torch.full((K,), 1 / K, dtype=F64)), math.log(K) - entropy(p), rtol=1e-10, atol=1e-12)
    close(cross_entropy(p, p), entropy(p))


@quick
@given(seeds, st.integers(2, 5), st.integers(2, 5))
def test_the_chain_rule(seed, rows, columns):
    generator = torch.Generator().manual_seed(seed)
    p, q = distribution(generator, 2, rows * columns).reshape(2, rows, columns)
    marginal_p, marginal_q = p.sum(-1), q.sum(-1)
    rest = kl_categorical(p / marginal_p[:, None], q / marginal_q[:, None])
    whole = kl_categorical(p.flatten(), q.flatten())
    close(whole, kl_categorical(marginal_p, marginal_q) + (marginal_p * rest).sum())
    assert whole >= kl_categorical(marginal_p, marginal_q)
    product_p, product_q = (m[:, None] * m.new_tensor([0.25, 0.75]) for m in (marginal_p, marginal_q))
    close(kl_categorical(product_p.flatten(), product_q.flatten()), kl_categorical(marginal_p, marginal_q))


@quick
@given(seeds, st.integers(2, 6))
def test_jointly_convex(seed, K):
    """The divergence of two mixtures is at most the mixture of the divergences."""
    generator = torch.Generator().manual_seed(seed)
    p, q = distribution(generator, 2, K), distribution(generator, 2, K)
    weight = torch.rand((), generator=generator, dtype=F64)
    mixed = kl_categorical(weight * p[0] + (1 - weight) * p[1], weight * q[0] + (1 - weight) * q[1])
    assert mixed <= weight * kl_categorical(p[0], q[0]) + (1 - weight) * kl_categorical(p[1], q[1]) + 1e-12


def test_order_of_the_outcomes_does_not_matter(generator):
    p, q = distribution(generator, 2, 6)
    order = torch.randperm(6, generator=generator)
    for function in (kl_categorical, cross_entropy):
        close(function(p[order], q[order]), function(p, q))
        assert (function(p, q) - function(q, p)).abs() > 0.01


@pytest.mark.parametrize("shapes", [[(5,), ()], [(), (5,)], [(4, 1), (5,)], [(0,), (1,)]])
@pytest.mark.parametrize("function", [kl_categorical, cross_entropy, bayes_rule, total_probability])
def test_broadcasts_as_if_expanded(generator, shapes, function):
    arguments = [distribution(generator, *shape, 3) for shape in shapes]
    batch = torch.broadcast_shapes(*shapes)
    expanded = [argument.expand(*batch, 3).clone().requires_grad_() for argument in arguments]
    arguments = [argument.requires_grad_() for argument in arguments]
    close(function(*arguments), function(*expanded))
    grads, big = (torch.autograd.grad(function(*t).square().sum(), t) for t in (arguments, expanded))
    for grad, big_grad, argument in zip(grads, big, arguments, strict=True):
        close(grad, big_grad.sum_to_size(argument.shape))


# Gradients


@pytest.mark.parametrize("distance", [1e-3, 1.0])
@pytest.mark.parametrize("function", [kl_categorical, cross_entropy, bayes_rule, total_probability])
def test_first_and_second_derivatives(generator, function, distance):
    logits = torch.randn(2, 4, generator=generator, dtype=F64)
    other = logits[0] + distance * torch.randn(4, generator=generator, dtype=F64)

    def of_logits(a, b):
        return function(a.softmax(-1), b.softmax(-1))

    inputs = logits.requires_grad_(), other.requires_grad_()
    assert gradcheck(of_logits, inputs)
    assert gradgradcheck(of_logits, inputs)
    assert gradcheck(lambda a: entropy(a.softmax(-1)), (logits,))


def test_gradients_along_the_simplex(generator):
    p, q = (t.clone().requires_grad_() for t in distribution(generator, 2, 4))
    of_p, of_q = torch.autograd.grad(kl_categorical(p, q), (p, q))
    close(of_p, (p / q).log().detach())
    close(of_q, (1 - p / q).detach())
    same = torch.autograd.grad(kl_categorical(p, p.detach()), p)[0]
    assert (same == 0).all()


def test_slopes_at_zero():
    """As the docstrings promise: finite where the function is; at a zero of p, about that of the smallest number."""
    log_tiny = math.log(torch.finfo(F64).tiny)
    p, q = tensor(0.5, 0.5, 0.0, 0.0).requires_grad_(), tensor(0.2, 0.5, 0.3, 0.0).requires_grad_()
    of_p, of_q = torch.autograd.grad(kl_categorical(p, q), (p, q))
    close(of_p, tensor(math.log(2.5), 0.0, log_tiny - math.log(0.3), 0.0))
    close(of_q, tensor(-1.5, 0.0, 1.0, 1.0))
    of_p, of_q = torch.autograd.grad(cross_entropy(p, q), (p, q))
    close(of_p, -tensor(math.log(0.2), math.log(0.5), math.log(0.3), 0.0))
    close(of_q, tensor(-2.5, -1.0, 0.0, 0.0))
    (slope,) = torch.autograd.grad(entropy(p), p)
    close(slope, tensor(math.log(2) - 1, math.log(2) - 1, -log_tiny, -log_tiny))
    of_q, of_p = torch.autograd.grad(kl_categorical(q, p), (q, p))  # infinite
    assert (of_q[2].item(), of_p[2].item()) == (math.inf, -math.inf)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_slopes_of_a_small_probability(dtype):
    """Down to the smallest normal numbers; p - q is -q long before that."""
    for tiny in (10.0**-k for k in range(1, 308 if dtype is F64 else 37)):
        p, q = (tensor(*pair, dtype=dtype) for pair in ((tiny, 1 - tiny), (0.4, 0.6)))
        for a, b in ((p, q), (q, p)):
            of_a, of_b = torch.autograd.grad(kl_categorical(a.requires_grad_(), b.requires_grad_()), (a, b))
            with mpmath.workdps(30):
                pairs = [(mpmath.mpf(x), mpmath.mpf(y)) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
                exact_a, exact_b = [float(mpmath.log(x / y)) for x, y in pairs], [float(1 - x / y) for x, y in pairs]
            close(of_a, tensor(*exact_a, dtype=dtype), rtol=8 * torch.finfo(dtype).eps, atol=0)
            close(of_b, tensor(*exact_b, dtype=dtype), rtol=8 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("low", [-20.0, -40.0, -90.0, -800.0])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_slopes_pass_through_a_softmax_that_underflows(low, dtype):
    """First and second ones, against those of an expression in log_softmax, in which nothing underflows."""
    logits, q = tensor(0.3, low, 1.0, dtype=dtype), tensor(0.5, 0.3, 0.2, dtype=dtype)

    def safe_entropy(logits):
        return -(logits.softmax(-1) * logits.log_softmax(-1)).sum()

    def safe_divergence(logits):
        return (logits.softmax(-1) * (logits.log_softmax(-1) - q.log())).sum()

    for ours, safe in (
        (lambda a: entropy(a.softmax(-1)), safe_entropy),
        (lambda a: kl_categorical(a.softmax(-1), q), safe_divergence),
        (lambda a: cross_entropy(a.softmax(-1), q), lambda a: safe_divergence(a) + safe_entropy(a)),
    ):
        for order in (torch.autograd.functional.jacobian, torch.autograd.functional.hessian):
            close(order(ours, logits), order(safe, logits))


def test_no_negative_zero():
    certain = tensor(0.0, 1.0)
    for value in (entropy(certain), cross_entropy(certain, certain), kl_categorical(certain, certain)):
        assert str(value.item()) == "0.0"


def test_a_small_step_along_the_slope_at_an_outcome_that_only_q_has():
    """The slope 1 of q there is the right one beside the others: moving mass to it costs what the slopes say."""
    p, q = tensor(0.5, 0.5, 0.0), tensor(0.2, 0.8, 0.0).requires_grad_()
    (slope,) = torch.autograd.grad(kl_categorical(p, q), q)
    step = 1e-7
    moved = q.detach() + step * tensor(-1.0, 0.0, 1.0)
    change = kl_categorical(p, moved) - kl_categorical(p, q).detach()
    assert change.item() / step == pytest.approx((slope[2] - slope[0]).item(), rel=1e-5)


def test_gradient_of_nearly_equal_distributions(generator):
    """To the last digits: the slope is log(p / q), of the size of the distance."""
    p = distribution(generator, 5)
    q = p * (1 + 1e-9 * torch.randn(5, generator=generator, dtype=F64))
    q = q / q.sum()
    p = p.requires_grad_()
    (slope,) = torch.autograd.grad(kl_categorical(p, q), p)
    with mpmath.workdps(40):
        exact = [float(mpmath.log(mpmath.mpf(a) / mpmath.mpf(b))) for a, b in zip(p.tolist(), q.tolist(), strict=True)]
    close(slope, tensor(*exact), rtol=1e-13, atol=0)


# Monte Carlo

PAIRS = {
    "shifted": (Normal(tensor(0.0), tensor(1.0)), Normal(tensor(0.5), tensor(1.0))),
    "narrower": (Normal(tensor(0.0), tensor(1.0)), Normal(tensor(0.3), tensor(0.7))),
}


def log_probs(p, q):
    return (lambda x: p.log_prob(x).squeeze(-1)), (lambda x: q.log_prob(x).squeeze(-1))


@pytest.mark.parametrize("estimator", ["log_ratio", "r_minus_one"])
@pytest.mark.parametrize("pair", PAIRS)
def test_estimators_are_right_within_their_error(generator, pair, estimator):
    p, q = PAIRS[pair]
    exact = kl_divergence(p, q).item()
    x = torch.randn(400_000, 1, generator=generator, dtype=F64)
    value, error = monte_carlo_kl(*log_probs(p, q), x, estimator=estimator)
    assert value.item() == pytest.approx(exact, abs=4 * error.item())
    assert error < 0.02 * exact


@pytest.mark.parametrize("estimator", ["log_ratio", "r_minus_one"])
def test_standard_error_is_the_spread_over_repetitions(generator, estimator):
    p, q = PAIRS["shifted"]
    x = torch.randn(500, 2000, 1, generator=generator, dtype=F64)
    estimates = [monte_carlo_kl(*log_probs(p, q), repetition, estimator) for repetition in x]
    spread = torch.stack([estimate.value for estimate in estimates]).std()
    claimed = torch.stack([estimate.standard_error for estimate in estimates]).mean()
    assert spread.item() == pytest.approx(claimed.item(), rel=0.15)


def test_estimators_term_by_term():
    """Two samples by hand."""
    log_p, log_q = (lambda x: x[:, 0]), (lambda x: x[:, 1])
    x = tensor([-1.0, -1.5], [-2.0, -1.0])
    value, error = monte_carlo_kl(log_p, log_q, x)
    assert value.item() == pytest.approx((0.5 - 1.0) / 2)
    assert error.item() == pytest.approx(1.5 / 2)
    value, error = monte_carlo_kl(log_p, log_q, x, estimator="r_minus_one")
    terms = math.exp(-0.5) - 1 + 0.5, math.exp(1) - 1 - 1
    assert value.item() == pytest.approx(sum(terms) / 2)
    assert error.item() == pytest.approx((terms[1] - terms[0]) / 2)
    assert isinstance(monte_carlo_kl(log_p, log_q, x), MonteCarloEstimate)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_no_term_of_r_minus_one_is_negative(generator, dtype):
    small = torch.cat([torch.logspace(-20, 0, 2000, dtype=dtype), -torch.logspace(-20, 0, 2000, dtype=dtype)])
    pairs = torch.stack([torch.zeros_like(small), small], -1)
    for both in pairs.unfold(0, 2, 2):  # the mean of two terms is negative if both are
        assert monte_carlo_kl(lambda x: x[:, 0], lambda x: x[:, 1], both.mT, "r_minus_one").value >= 0


def test_categorical_by_sampling(generator):
    """Samples may be integers, and an average may have a batch."""
    p, q = distribution(generator, 2, 4)
    x = torch.multinomial(p, 200_000, replacement=True, generator=generator)
    value, error = monte_carlo_kl(lambda x: p.log()[x], lambda x: q.log()[x], x)
    assert value.item() == pytest.approx(kl_categorical(p, q).item(), abs=4 * error.item())
    batch = monte_carlo_kl(lambda x: p.log()[x][:, None].expand(-1, 2), lambda x: torch.stack([q, p]).log()[:, x].T, x)
    close(batch.value, torch.stack([value, torch.zeros_like(value)]))
    close(batch.standard_error, torch.stack([error, torch.zeros_like(error)]))


def test_r_minus_one_is_biased_where_q_has_mass_and_p_none(generator):
    """As the docstring says: p uniform on [0, 1], q on [0, 2]; the mean of r is 1/2."""
    x = torch.rand(1000, generator=generator, dtype=F64)
    functions = (lambda x: torch.zeros_like(x)), (lambda x: torch.full_like(x, -math.log(2)))
    assert monte_carlo_kl(*functions, x).value.item() == pytest.approx(math.log(2))
    assert monte_carlo_kl(*functions, x, "r_minus_one").value.item() == pytest.approx(math.log(2) - 0.5)


@pytest.mark.parametrize("estimator", ["log_ratio", "r_minus_one"])
def test_a_sample_that_is_impossible_under_q(estimator):
    value, error = monte_carlo_kl(lambda x: x, lambda x: x.where(x > 1, -math.inf), tensor(0.5, 2.0, 3.0), estimator)
    assert value.item() == math.inf
    assert error.isnan()


@pytest.mark.parametrize("estimator", ["log_ratio", "r_minus_one"])
def test_gradients_reach_the_parameters_of_q(generator, estimator):
    """The slope of the estimate in the mean of q, on fixed samples, against differences."""
    x = torch.randn(50, generator=generator, dtype=F64)

    def estimate(mean):
        return monte_carlo_kl(Normal(tensor(0.0), 1.0).log_prob, Normal(mean, 1.0).log_prob, x, estimator).value

    mean = tensor(0.4).requires_grad_()
    assert gradcheck(estimate, (mean,))
    found = monte_carlo_kl(Normal(tensor(0.0), 1.0).log_prob, Normal(mean, 1.0).log_prob, x, estimator)
    assert found.value.requires_grad
    assert not found.standard_error.requires_grad


# Device and dtype


def calls(p):
    return {
        "bayes_rule": lambda: bayes_rule(p, p + 1),
        "total_probability": lambda: total_probability(p, p + 1),
        "entropy": lambda: entropy(p),
        "cross_entropy": lambda: cross_entropy(p, p.flip(-1)),
        "kl_categorical": lambda: kl_categorical(p, p.flip(-1)),
        "monte_carlo_kl": lambda: monte_carlo_kl(lambda x: x.log(), lambda x: -x, p).value,
        "MonteCarloEstimate": lambda: monte_carlo_kl(lambda x: x.log(), lambda x: -x, p, "r_minus_one").standard_error,
    }


def test_every_public_name_is_called_below():
    assert set(calls(torch.ones(1))) == set(probability.__all__)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", probability.__all__)
def test_follows_device_and_dtype(device, dtype, name):
    p = torch.tensor([[0.2, 0.8], [0.5, 0.5]], device=device, dtype=dtype, requires_grad=True)
    result = calls(p)[name]()
    assert (result.device.type, result.dtype) == (device.type, dtype)
    if name != "MonteCarloEstimate":  # a standard error carries no gradient
        result.sum().backward()
        assert (p.grad.device.type, p.grad.dtype) == (device.type, dtype)
    close(result.detach().cpu().double(), calls(p.detach().cpu().double())[name](), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", probability.__all__)
@pytest.mark.parametrize("batch", [(), (2,)])
def test_makes_no_cpu_tensor_for_a_gpu(name, batch):
    """On fake tensors, which know their device and shape but no values; mixing devices raises there too."""
    shape = {"bayes_rule": (*batch, 3)}.get(name, batch)
    if "onte" in name:
        shape = batch[:0] if not batch else (3,)
    with FakeTensorMode():
        result = calls(torch.ones(*batch, 3, device="cuda"))[name]()
        assert (result.device.type, result.shape) == ("cuda", shape)
    p = torch.ones(*batch, 3, device="meta", requires_grad=True)
    if name != "MonteCarloEstimate":
        (grad,) = torch.autograd.grad(calls(p)[name]().sum(), p)
        assert (grad.device.type, grad.shape) == ("meta", p.shape)


def test_inputs_are_left_alone(generator):
    p, q = distribution(generator, 2, 3)
    before = p.clone(), q.clone()
    for function in (bayes_rule, total_probability, cross_entropy, kl_categorical):
        function(p, q)
    assert torch.equal(p, before[0])
    assert torch.equal(q, before[1])


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_what_softmax_returns_is_accepted(generator, dtype):
    """Also for very many outcomes, and for a batch of a few thousand."""
    for shape in ((1_000_000,), (4000, 50)):
        p = (5 * torch.randn(shape, generator=generator, dtype=dtype)).softmax(-1)
        assert kl_categorical(p, p).max() == 0


# Bad input

half, nan, inf = tensor(0.5, 0.5), math.nan, math.inf
KL, CE, BAYES, TOTAL, BAD = kl_categorical, cross_entropy, bayes_rule, total_probability, ValueError


@pytest.mark.parametrize(
    ("function", "arguments", "error", "sentence"),
    [
        (KL, ([0.5, 0.5], half), TypeError, "p is a list: give a torch.Tensor"),
        (KL, (half, torch.tensor([0, 1])), TypeError, "q has dtype torch.int64: give float32 or float64"),
        (KL, (half, half.float()), TypeError, "q is torch.float32 but p is torch.float64"),
        (KL, (half, half.to("meta")), BAD, "q is on meta but p is on cpu"),
        (KL, (half[0], half), BAD, "p has shape (): its last dimension must list the outcomes"),
        (KL, (half[:0], half[:0]), BAD, "p has shape (0,): its last dimension must list the outcomes"),
        (KL, (half, tensor(0.2, 0.3, 0.5)), BAD, "q has shape (3,): it must end in (2,)"),
        (KL, (half.expand(2, 2), half.expand(3, 2)), BAD, "the batch shapes do not broadcast (p (2,), q (3,))"),
        (KL, (tensor(0.5, 0.6), half), BAD, "p sums to 1.1 and not to 1: divide it by its sum"),
        (KL, (half, tensor(0.333, 0.333)), BAD, "q sums to 0.666 and not to 1"),
        (KL, (tensor(1 / 3, 1 / 3, 0.3333), tensor(0.2, 0.2, 0.6)), BAD, "p sums to 0.99996667 and not to 1"),
        (KL, (half, torch.stack([half, half, 2 * half])), BAD, "q[2] sums to 2 and not to 1"),
        (KL, (tensor(1.5, -0.5), half), BAD, "p[1] is -0.5: a probability cannot be negative"),
        (KL, (half, torch.stack([half, tensor(-0.1, 1.1)])), BAD, "q[1, 0] is -0.1: a probability cannot be negative"),
        (KL, (tensor(nan, 1.0), half), BAD, "p[0] is nan: every entry must be finite"),
        (KL, (half, tensor(0.0, inf)), BAD, "q[1] is inf: every entry must be finite"),
        (CE, (tensor(0.5, 0.6), half), BAD, "p sums to 1.1"),
        (CE, (half, tensor(-1.0, 2.0)), BAD, "q[0] is -1: a probability cannot be negative"),
        (entropy, (tensor(2.0, 3.0),), BAD, "p sums to 5 and not to 1"),
        (entropy, (tensor(2.0, -1.0),), BAD, "p[1] is -1"),
        (entropy, (tensor(nan, 0.5),), BAD, "p[0] is nan"),
        (entropy, (0.5,), TypeError, "p is a float"),
        (BAYES, (tensor(0.5, 0.4), half), BAD, "prior sums to 0.9 and not to 1"),
        (BAYES, (half, tensor(-1.0, 1.0)), BAD, "likelihood[0] is -1: a likelihood cannot be negative"),
        (BAYES, (half, tensor(inf, 1.0)), BAD, "likelihood[0] is inf: every entry must be finite"),
        (BAYES, (half, tensor(nan, 1.0)), BAD, "likelihood[0] is nan"),
        (BAYES, (half, tensor(0.0, 0.0)), BAD, "likelihood is 0 wherever the prior is positive"),
        (BAYES, (tensor(0.0, 1.0), torch.stack([half, tensor(0.5, 0.0)])), BAD, "likelihood[1] is 0 wherever"),
        (BAYES, (half, tensor(0.1, 0.2, 0.7)), BAD, "likelihood has shape (3,): it must end in (2,)"),
        (TOTAL, (tensor(0.5, 0.4), half), BAD, "prior sums to 0.9"),
        (TOTAL, (half, tensor(-1.0, 1.0)), BAD, "likelihood[0] is -1"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_a_sentence(function, arguments, error, sentence):
    with pytest.raises(error, match=re.escape(sentence)) as refused:
        unchecked(function)(*arguments)
    assert ": " in str(refused.value)  # what was wrong and where, then what to do
    if all(isinstance(a, torch.Tensor) and a.is_floating_point() for a in arguments):
        with pytest.raises(error, match=re.escape(sentence)):
            unchecked(function)(*(a.clone().requires_grad_() for a in arguments))


same, zeros = (lambda x: x), torch.zeros(4, dtype=F64)


@pytest.mark.parametrize(
    ("log_p", "log_q", "samples", "error", "sentence"),
    [
        (same, same, [1.0, 2.0], TypeError, "samples is a list: give a torch.Tensor"),
        (same, same, zeros[0], BAD, "samples has shape (): give at least 2 samples"),
        (same, same, zeros[:1], BAD, "samples has shape (1,): give at least 2 samples"),
        (same, lambda x: 0.0, zeros, TypeError, "log_q(samples) is a float"),
        (same, lambda x: x.long(), zeros, TypeError, "log_q(samples) has dtype torch.int64"),
        (same, lambda x: x.float(), zeros, TypeError, "log_q(samples) is torch.float32 but log_p(samples) is"),
        (same, lambda x: x.to("meta"), zeros, BAD, "log_q(samples) is on meta but log_p(samples) is on cpu"),
        (lambda x: x.sum(), same, zeros, BAD, "log_p(samples) has shape (): it must begin with the number of samples"),
        (same, lambda x: x[:3], zeros, BAD, "log_q(samples) has shape (3,): it must begin with the number of samples"),
        (same, lambda x: x[:, None], zeros, BAD, "log_p(samples) has shape (4,) and log_q(samples) (4, 1)"),
        (lambda x: x - inf, same, zeros, BAD, "log_p(samples)[0] is -inf: every entry must be finite"),
        (same, lambda x: x + inf, zeros, BAD, "log_q(samples)[0] is inf: every entry must be finite"),
        (same, lambda x: x * nan, zeros, BAD, "log_q(samples)[0] is nan: every entry must be finite"),
    ],
)
@pytest.mark.parametrize("estimator", ["log_ratio", "r_minus_one"])
def test_bad_samples_are_refused_with_a_sentence(log_p, log_q, samples, error, sentence, estimator):
    with pytest.raises(error, match=re.escape(sentence)):
        unchecked(monte_carlo_kl)(log_p, log_q, samples, estimator)


def test_an_unknown_estimator_and_a_ratio_beyond_the_range_are_refused():
    with pytest.raises(ValueError, match="estimator is 'r': give 'log_ratio' or 'r_minus_one'"):
        unchecked(monte_carlo_kl)(same, same, zeros, "r")
    with pytest.raises(ValueError, match=r"of sample 2 is exp\(800\), beyond the range of torch.float64: use"):
        monte_carlo_kl(same, lambda x: x + 800 * (torch.arange(4) == 2), zeros, "r_minus_one")
    assert monte_carlo_kl(same, lambda x: x + 800, zeros).value.item() == -800


def test_annotations_refuse_what_the_function_refuses():
    with pytest.raises(Exception, match="q") as refused:
        kl_categorical(half, tensor(0.2, 0.3, 0.5))
    assert type(refused.value).__module__.startswith("jaxtyping")
