"""Gaussians against torch.distributions, scipy, high-precision arithmetic, simulation and their own invariances.

Tests of wrong shapes call the function without its shape annotations (`unchecked`): conftest.py has jaxtyping check
them, so it would speak first, whereas a user, who runs without that hook, sees the function's own sentence.
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
from scipy.stats import multivariate_normal
from torch._subclasses import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from benchmarks.exact import exact_kl, ill_conditioned, relative_error
from course_lib import gaussians
from course_lib.gaussians import (
    kl_diagonal_gaussian,
    kl_gaussian,
    kl_gaussian_tril,
    kl_to_standard_normal,
    log_prob,
    log_prob_tril,
    sample,
    sample_tril,
)

unchecked = inspect.unwrap
close = torch.testing.assert_close


def randn(generator, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=generator, dtype=dtype)


def random_gaussian(generator, *batch, d=3, dtype=torch.float64):
    root = randn(generator, *batch, d, d, dtype=dtype)
    cov = root @ root.mT + torch.eye(d, dtype=dtype)
    return randn(generator, *batch, d, dtype=dtype), (cov + cov.mT) / 2


def random_pair(generator, *batch, d=3, dtype=torch.float64):
    return *random_gaussian(generator, *batch, d=d, dtype=dtype), *random_gaussian(generator, *batch, d=d, dtype=dtype)


def factors(mean_p, cov_p, mean_q, cov_q):
    return mean_p, torch.linalg.cholesky(cov_p), mean_q, torch.linalg.cholesky(cov_q)


def torch_kl(mean_p, cov_p, mean_q, cov_q):
    return kl_divergence(MultivariateNormal(mean_p, cov_p), MultivariateNormal(mean_q, cov_q))


# Values


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
@pytest.mark.parametrize("d", [1, 2, 7])
def test_kl_agrees_with_torch(generator, batch, d):
    pair = random_pair(generator, *batch, d=d)
    expected = torch_kl(*pair)
    close(kl_gaussian(*pair), expected, rtol=1e-11, atol=1e-12)
    close(kl_gaussian_tril(*factors(*pair)), expected, rtol=1e-11, atol=1e-12)


def test_an_empty_batch_gives_an_empty_batch(generator):
    pair = random_pair(generator, 0)
    assert kl_gaussian(*pair).shape == kl_gaussian_tril(*pair).shape == (0,)
    assert kl_diagonal_gaussian(pair[0], pair[0], pair[2], pair[2]).shape == (0,)
    assert log_prob(*pair[:1], *pair[:2]).shape == (0,)


@pytest.mark.parametrize(
    "shapes", [[(5,), (), (5,), ()], [(), (5,), (), ()], [(4, 1), (), (5,), (4, 5)], [(2,), (1,), (), (2,)]]
)
def test_kl_broadcasts_as_if_expanded(generator, shapes):
    arguments = [random_gaussian(generator, *shape)[i % 2] for i, shape in enumerate(shapes)]
    batch = torch.broadcast_shapes(*shapes)
    expanded = [t.expand(*batch, *t.shape[-1 - i % 2 :]) for i, t in enumerate(arguments)]
    expected = torch_kl(*expanded)
    for function, inputs in ((kl_gaussian, arguments), (kl_gaussian_tril, factors(*arguments))):
        assert function(*inputs).shape == batch
        close(function(*inputs), expected, rtol=1e-11, atol=1e-12)
        inputs = [t.clone().requires_grad_() for t in inputs]
        grads = torch.autograd.grad(function(*inputs).sum(), inputs)
        big = [t.detach().expand(e.shape).clone().requires_grad_() for t, e in zip(inputs, expanded, strict=True)]
        for grad, t, big_grad in zip(grads, inputs, torch.autograd.grad(function(*big).sum(), big), strict=True):
            close(grad, big_grad.sum_to_size(t.shape), rtol=1e-10, atol=1e-11)


def test_kl_of_the_known_pair():
    """KL(N(0, 1) || N(1, 4)) and its reverse, by hand."""
    zero, one, four = (torch.tensor([value], dtype=torch.float64) for value in (0.0, 1.0, 4.0))
    forward, reverse = math.log(2) + 2 / 8 - 0.5, -math.log(2) + 5 / 2 - 0.5
    assert round(forward, 6) == 0.443147
    assert round(reverse, 6) == 1.306853
    for kl, matrix in (
        (kl_gaussian, lambda var: var[:, None]),
        (kl_gaussian_tril, lambda var: var.sqrt()[:, None]),
        (kl_diagonal_gaussian, torch.log),
    ):
        assert kl(zero, matrix(one), one, matrix(four)).item() == pytest.approx(forward, rel=1e-14)
        assert kl(one, matrix(four), zero, matrix(one)).item() == pytest.approx(reverse, rel=1e-14)
    assert kl_to_standard_normal(one, four.log()).item() == pytest.approx(reverse, rel=1e-14)


def test_diagonal_agrees_with_torch_and_with_full_covariances(generator):
    mean_p, log_var_p, mean_q, log_var_q = (randn(generator, 6, 4) for _ in range(4))
    kl = kl_diagonal_gaussian(mean_p, log_var_p, mean_q, log_var_q)
    p, q = (
        Independent(Normal(mean, (log_var / 2).exp()), 1)
        for mean, log_var in ((mean_p, log_var_p), (mean_q, log_var_q))
    )
    close(kl, kl_divergence(p, q))
    close(kl, kl_gaussian(mean_p, log_var_p.exp().diag_embed(), mean_q, log_var_q.exp().diag_embed()))
    close(kl_diagonal_gaussian(mean_p[0], log_var_p, mean_q, log_var_q[:1])[0], kl[0])
    zero = torch.zeros_like(mean_p)
    close(kl_to_standard_normal(mean_p, log_var_p), kl_diagonal_gaussian(mean_p, log_var_p, zero, zero))


def test_log_prob_agrees_with_scipy(generator):
    mean, cov = random_gaussian(generator, d=4)
    x = randn(generator, 5, 2, 4)
    expected = torch.from_numpy(multivariate_normal(mean.numpy(), cov.numpy()).logpdf(x.numpy()))
    close(log_prob(x, mean, cov), expected)
    close(log_prob_tril(x, mean, torch.linalg.cholesky(cov)), expected)
    close(log_prob(x[0, 0], mean, cov), expected[0, 0])
    means, covs = random_gaussian(generator, 2, d=4)
    close(log_prob(x, means, covs), MultivariateNormal(means, covs).log_prob(x))


def test_kl_agrees_with_monte_carlo(generator):
    """The mean log-ratio under p, within four standard errors, narrow enough to tell the two directions apart."""
    mean_p, cov_p, mean_q, cov_q = pair = random_pair(generator, d=3)
    x = sample(mean_p, cov_p, 200_000, generator=generator)
    ratios = log_prob(x, mean_p, cov_p) - log_prob(x, mean_q, cov_q)
    error = (ratios.std() / len(ratios) ** 0.5).item()
    assert ratios.mean().item() == pytest.approx(kl_gaussian(*pair).item(), abs=4 * error)
    assert abs(ratios.mean().item() - kl_gaussian(mean_q, cov_q, mean_p, cov_p).item()) > 40 * error


# Accuracy: the goals, against 80 digits


@pytest.mark.parametrize(("condition", "goal"), [(1e8, 6e-10), (1e12, 3e-6)])
def test_float64_covariances_at_a_condition_number(generator, condition, goal):
    """p, q or both ill-conditioned: the median error, and none beyond what rounding the covariances does."""
    errors, of_torch = [], []
    for kind in ("p", "q", "pq") * 6:
        cov_p, cov_q = (
            ill_conditioned(generator, condition, d=10) if name in kind else random_gaussian(generator, d=10)[1]
            for name in "pq"
        )
        pair = randn(generator, 10), cov_p, randn(generator, 10), cov_q
        exact = exact_kl(*pair)
        errors.append(relative_error(kl_gaussian(*pair), exact))
        of_torch.append(relative_error(torch_kl(*pair), exact))
    assert np.median(errors) <= goal
    assert np.median(errors) <= 1.1 * np.median(of_torch)
    assert max(errors) <= condition * torch.finfo(torch.float64).eps


@pytest.mark.parametrize("condition", [1e2, 1e8, 1e15])
def test_graded_factors_are_right_to_the_last_digits(generator, condition):
    """With rows that shrink by the square root of the condition number: the covariance itself has lost them."""
    deviations = torch.logspace(0, -math.log10(condition) / 2, 5, dtype=torch.float64)
    for _ in range(10):
        trils = [
            deviations[:, None] * torch.eye(5) + deviations[:, None] * randn(generator, 5, 5).tril(-1) / 2 for _ in "pq"
        ]
        pair = randn(generator, 5), trils[0], randn(generator, 5), trils[1]
        assert relative_error(kl_gaussian_tril(*pair), exact_kl(*pair, from_factors=True)) <= 2e-15


@pytest.mark.parametrize("condition", [1e8, 1e15])
def test_factors_in_a_random_basis(generator, condition):
    """The factor of a randomly turned covariance, R' of a QR decomposition, so that the covariance is never formed."""
    deviations = torch.logspace(0, -math.log10(condition) / 2, 5, dtype=torch.float64)
    errors = []
    for _ in range(15):
        trils = []
        for _ in "pq":
            upper = torch.linalg.qr(deviations[:, None] * torch.linalg.qr(randn(generator, 5, 5)).Q).R
            trils.append((upper.mT * upper.diagonal().sign()).tril())
        pair = randn(generator, 5), trils[0], randn(generator, 5), trils[1]
        errors.append(relative_error(kl_gaussian_tril(*pair), exact_kl(*pair, from_factors=True)))
    assert np.median(errors) <= 2e-15
    assert max(errors) <= 1e-13


@pytest.mark.parametrize("condition", [1e2, 1e8, 1e12, 1e15])
def test_error_from_factors_grows_like_the_root_of_the_condition(generator, condition):
    """tril_p = tril_q C with a moderate C: the hardest case, because the answer rests on every direction of tril_q."""
    deviations = torch.logspace(0, -math.log10(condition) / 2, 5, dtype=torch.float64)
    for _ in range(10):
        upper = torch.linalg.qr(deviations[:, None] * torch.linalg.qr(randn(generator, 5, 5)).Q).R
        tril_q = (upper.mT * upper.diagonal().sign()).tril()
        tril_p = (tril_q @ (torch.eye(5) + 0.3 * randn(generator, 5, 5).tril(-1))).tril()
        pair = torch.zeros(5, dtype=torch.float64), tril_p, torch.zeros(5, dtype=torch.float64), tril_q
        error = relative_error(kl_gaussian_tril(*pair), exact_kl(*pair, from_factors=True))
        assert error <= 4 * math.sqrt(condition) * torch.finfo(torch.float64).eps


def test_float32_covariances_are_worked_on_in_float64(generator):
    """At condition 1e8, which float32 cannot factorise. The answer is the float64 one, rounded once."""
    errors = []
    while len(errors) < 10:
        covs = [ill_conditioned(generator, 1e8).float() for _ in "pq"]
        if any(torch.linalg.eigvalsh(cov.double())[0] < 1e-9 for cov in covs):
            continue  # rounding to float32 made it singular
        pair = randn(generator, 5).float(), covs[0], randn(generator, 5).float(), covs[1]
        in_float64 = kl_gaussian(*(t.double() for t in pair))
        errors.append(relative_error(in_float64, exact_kl(*pair)))
        assert torch.equal(kl_gaussian(*pair), in_float64.float())
        density = log_prob(*(t.double() for t in (pair[2], *pair[:2])))
        close(log_prob(pair[2], *pair[:2]), density.float(), rtol=1e-6, atol=0)
    assert np.median(errors) <= 1e-9


NEAR = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]


@pytest.mark.parametrize("distance", NEAR)
@pytest.mark.parametrize(("dtype", "goal"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_nearly_equal_gaussians(generator, distance, dtype, goal):
    """Down to divergences of 1e-12, by all four routes."""
    for _ in range(3):
        mean_p, cov_p = random_gaussian(generator, d=4, dtype=dtype)
        step, root = randn(generator, 4, dtype=dtype), randn(generator, 4, 4, dtype=dtype)
        near = mean_p + distance * step, cov_p + distance * (root + root.mT) / 2
        pair = mean_p, cov_p, *near
        exact = exact_kl(*pair)
        assert relative_error(kl_gaussian(*pair), exact) <= goal
        tril = torch.linalg.cholesky(cov_p)
        pair = mean_p, tril, near[0], tril + distance * root.tril() / 4
        assert relative_error(kl_gaussian_tril(*pair), exact_kl(*pair, from_factors=True)) <= goal
        log_var = randn(generator, 4, dtype=dtype)
        other = log_var + distance * randn(generator, 4, dtype=dtype)
        with mpmath.workdps(60):
            pairs = [(mpmath.mpf(a), mpmath.mpf(b)) for a, b in zip(log_var.tolist(), other.tolist(), strict=True)]
            shift = [mpmath.mpf(a) - mpmath.mpf(b) for a, b in zip(mean_p.tolist(), near[0].tolist(), strict=True)]
            terms = [
                mpmath.exp(a - b) - 1 - (a - b) + m**2 / mpmath.exp(b) for (a, b), m in zip(pairs, shift, strict=True)
            ]
            exact = sum(terms) / 2
        assert relative_error(kl_diagonal_gaussian(mean_p, log_var, near[0], other), exact) <= goal
        step, log_var = distance * step, log_var * distance
        with mpmath.workdps(60):
            values = [mpmath.mpf(t) for t in log_var.tolist()]
            exact = (sum(mpmath.exp(t) - 1 - t for t in values) + sum(mpmath.mpf(m) ** 2 for m in step.tolist())) / 2
        assert relative_error(kl_to_standard_normal(step, log_var), exact) <= goal


def test_float32_never_negative_where_torch_is(generator):
    mean, cov = random_gaussian(generator, 2000, d=5, dtype=torch.float32)
    noise = 1e-6 * randn(generator, 2000, 5, 5, dtype=torch.float32)
    near = cov + noise + noise.mT
    assert (torch_kl(mean, cov, mean, near) < 0).any()
    assert (kl_gaussian(mean, cov, mean, near) >= 0).all()
    tril = torch.linalg.cholesky(cov)
    assert (kl_gaussian_tril(mean, tril, mean, tril + noise.tril()) >= 0).all()
    assert (kl_diagonal_gaussian(mean, cov[..., 0], mean, near[..., 0]) >= 0).all()
    assert (kl_to_standard_normal(noise[..., 0], noise[..., 1]) >= 0).all()


def test_never_negative_where_covariances_are_nearly_singular(generator):
    """Too ill-conditioned to be accurate, and still not negative."""
    for condition in (1e13, 1e14, 3e15):
        for _ in range(50):
            cov = ill_conditioned(generator, condition) + 1e-16 * torch.eye(5, dtype=torch.float64)
            noise = 1e-17 * randn(generator, 5, 5)
            mean = randn(generator, 5)
            try:
                kl = kl_gaussian(mean, cov, mean, cov + noise + noise.mT)
            except ValueError as error:
                assert "not positive definite" in str(error)  # noqa: PT017  rounding may say so
            else:
                assert kl >= 0


# Properties

seeds = st.integers(0, 2**32 - 1)
dims = st.integers(1, 6)
quick = settings(max_examples=40, deadline=None, derandomize=True)


@quick
@given(seeds, dims, st.sampled_from([1e-8, 1e-4, 1.0, 1e3]), st.sampled_from([torch.float32, torch.float64]))
def test_never_negative_and_zero_only_if_equal(seed, d, distance, dtype):
    generator = torch.Generator().manual_seed(seed)
    mean_p, cov_p, mean_q, cov_q = random_pair(generator, d=d, dtype=dtype)
    for kl, of_p, of_q in (
        (kl_gaussian, cov_p, cov_q),
        (kl_gaussian_tril, torch.linalg.cholesky(cov_p), torch.linalg.cholesky(cov_q)),
        (kl_diagonal_gaussian, cov_p.diagonal().log(), cov_q.diagonal().log()),
    ):
        assert kl(mean_p, of_p, mean_p, of_p) == 0
        if kl is kl_diagonal_gaussian:
            distance = min(distance, 1.0)  # a thousand more in the logarithm overflows
        moved = mean_p + distance * mean_q, of_p + distance * of_q
        if not (torch.equal(moved[0], mean_p) and torch.equal(moved[1], of_p)):
            assert kl(*moved, mean_p, of_p) > 0


@quick
@given(seeds, dims)
def test_invariant_under_affine_maps(seed, d):
    generator = torch.Generator().manual_seed(seed)
    mean_p, cov_p, mean_q, cov_q = random_pair(generator, d=d)
    _, scale = random_gaussian(generator, d=d)
    offset = randn(generator, d)
    mapped = (
        scale @ mean_p + offset,
        scale @ cov_p @ scale.mT,
        scale @ mean_q + offset,
        scale @ cov_q @ scale.mT,
    )
    close(kl_gaussian(*mapped), kl_gaussian(mean_p, cov_p, mean_q, cov_q), rtol=1e-8, atol=1e-10)


@quick
@given(seeds, dims, dims)
def test_adds_over_independent_blocks(seed, d, other_d):
    generator = torch.Generator().manual_seed(seed)
    pair, other = random_pair(generator, d=d), random_pair(generator, d=other_d)
    joined = [torch.block_diag(a, b) if a.ndim == 2 else torch.cat((a, b)) for a, b in zip(pair, other, strict=True)]
    close(kl_gaussian(*joined), kl_gaussian(*pair) + kl_gaussian(*other), rtol=1e-12, atol=1e-12)


@quick
@given(seeds, dims, st.integers(1, 5))
def test_a_batch_equals_the_loop(seed, d, n):
    generator = torch.Generator().manual_seed(seed)
    pair = random_pair(generator, n, d=d)
    pair[2][0], pair[3][0] = pair[0][0] + 1e-7, pair[1][0]  # one nearly equal member among the others
    for function, arguments in (
        (kl_gaussian, pair),
        (kl_gaussian_tril, factors(*pair)),
        (kl_diagonal_gaussian, [t if t.ndim == 2 else t.diagonal(dim1=-2, dim2=-1).log() for t in pair]),
    ):
        loop = torch.stack([function(*members) for members in zip(*arguments, strict=True)])
        close(function(*arguments), loop, rtol=1e-12, atol=0)


# Gradients


def symmetric(cov):
    return (cov + cov.mT) / 2


def route_covariances(mean_p, cov_p, mean_q, cov_q):
    return kl_gaussian(mean_p, symmetric(cov_p), mean_q, symmetric(cov_q))


def route_factors(mean_p, tril_p, mean_q, tril_q):
    return kl_gaussian_tril(mean_p, tril_p.tril(), mean_q, tril_q.tril())


def cases(generator):
    pair = random_pair(generator, 2, d=3)
    vectors = [randn(generator, 2, 3) for _ in range(4)]
    mean, cov = random_gaussian(generator, d=3)
    return {
        "covariances": (route_covariances, pair),
        "covariances broadcast": (route_covariances, (pair[0], cov, mean, pair[3])),
        "factors": (route_factors, factors(*pair)),
        "factors broadcast": (route_factors, factors(pair[0], cov, mean, pair[3])),
        "diagonal": (kl_diagonal_gaussian, vectors),
        "diagonal broadcast": (kl_diagonal_gaussian, (vectors[0], mean, mean, vectors[3])),
        "standard normal": (kl_to_standard_normal, vectors[:2]),
        "log-density": (lambda x, m, c: log_prob(x, m, symmetric(c)), (vectors[0], mean, cov)),
        "log-density from a factor": (
            lambda x, m, t: log_prob_tril(x, m, t.tril()),
            (vectors[0], mean, torch.linalg.cholesky(cov)),
        ),
        "sample": (
            lambda m, c: sample(m, symmetric(c), 2, generator=torch.Generator().manual_seed(1)),
            (mean, cov),
        ),
    }


@pytest.mark.parametrize("case", cases(torch.Generator().manual_seed(0)))
def test_first_and_second_derivatives(generator, case):
    function, arguments = cases(generator)[case]
    arguments = [argument.clone().requires_grad_() for argument in arguments]
    assert gradcheck(function, arguments)
    assert gradgradcheck(function, arguments)


def test_gradients_agree_with_torch_and_keep_float32(generator):
    for dtype, rtol in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        pair = [t.requires_grad_() for t in random_pair(generator, 3, d=4, dtype=dtype)]
        ours = torch.autograd.grad(kl_gaussian(*pair).sum(), pair)
        for grad, expected in zip(ours, torch.autograd.grad(torch_kl(*pair).sum(), pair), strict=True):
            assert grad.dtype == dtype
            close(grad, expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("distance", [0.0, 1e-9, 1e-6, 1e-3])
def test_gradients_at_near_equality(generator, distance):
    """dKL/dcov_p = 1/2 cov_q^-1 (cov_p - cov_q) cov_p^-1 and dKL/dmean_p = cov_q^-1 (mean_p - mean_q)."""
    mean_q, cov_q = random_gaussian(generator, d=4)
    root = randn(generator, 4, 4)
    mean_p, cov_p = mean_q + distance * root[0], cov_q + distance * symmetric(root)
    pair = [t.clone().requires_grad_() for t in (mean_p, cov_p, mean_q, cov_q)]
    grads = torch.autograd.grad(kl_gaussian(*pair), pair)
    precision_p, precision_q = torch.linalg.inv(cov_p), torch.linalg.inv(cov_q)
    shift = precision_q @ (mean_p - mean_q)
    of_p = 0.5 * precision_q @ (cov_p - cov_q) @ precision_p
    of_q = -0.5 * (precision_q @ (cov_p - cov_q) @ precision_q + shift[:, None] * shift)
    for grad, expected in zip(grads, (shift, of_p, -shift, of_q), strict=True):
        close(grad, expected, rtol=1e-9, atol=1e-12 * distance)
    log_vars = [t.clone().requires_grad_() for t in (root[0] + distance, root[0])]
    grads = torch.autograd.grad(kl_diagonal_gaussian(mean_q, log_vars[0], mean_q, log_vars[1]), log_vars)
    close(grads[0], 0.5 * torch.expm1(log_vars[0] - log_vars[1]).detach(), rtol=1e-12, atol=0)


def test_second_derivative_at_equality_is_the_fisher_information():
    """For N(0, v), the second derivative of KL(N(0, v) || N(0, 1)) at v = 1 is 1/2."""
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    var = one.clone().requires_grad_()
    (slope,) = torch.autograd.grad(kl_gaussian(zero, var, zero, one), var, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), var)
    assert slope.item() == 0
    assert curvature.item() == pytest.approx(0.5)


# Sampling


def test_samples_have_the_mean_and_covariance(generator):
    mean, cov = random_gaussian(generator, 2, d=3)
    n = 50_000
    draws = sample(mean, cov, n, generator=generator)
    assert draws.shape == (n, 2, 3)
    deviations = cov.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((draws.mean(0) - mean).abs() < 5 * deviations / n**0.5).all()
    empirical = torch.stack([member.mT.cov() for member in draws.unbind(1)])
    scale = deviations[:, :, None] * deviations[:, None, :]
    assert ((empirical - cov).abs() < 5 * scale * 2**0.5 / n**0.5).all()


def test_samples_repeat_with_the_seed(generator):
    mean, cov = random_gaussian(generator)
    tril = torch.linalg.cholesky(cov)
    draw = [sample(mean, cov, 4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    close(sample_tril(mean, tril, 4, generator=torch.Generator().manual_seed(1)), draw[0])
    assert sample(mean.expand(5, 3), cov, 2).shape == (2, 5, 3)
    assert sample(mean, cov.expand(5, 3, 3), 0).shape == (0, 5, 3)


# Device and dtype


def calls(mean, cov):
    tril, log_var = torch.linalg.cholesky_ex(cov).L, mean - mean
    return {
        "kl_gaussian": lambda: kl_gaussian(mean, cov, mean + 1, cov),
        "kl_gaussian_tril": lambda: kl_gaussian_tril(mean, tril, mean + 1, tril),
        "kl_diagonal_gaussian": lambda: kl_diagonal_gaussian(mean, log_var, mean + 1, log_var),
        "kl_to_standard_normal": lambda: kl_to_standard_normal(mean, log_var),
        "log_prob": lambda: log_prob(mean + 1, mean, cov),
        "log_prob_tril": lambda: log_prob_tril(mean + 1, mean, tril),
        "sample": lambda: sample(mean, cov, 3),
        "sample_tril": lambda: sample_tril(mean, tril, 3),
    }


def test_every_public_name_is_called_below():
    assert set(calls(torch.ones(1), torch.ones(1, 1))) == set(gaussians.__all__)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", gaussians.__all__)
def test_follows_device_and_dtype(device, dtype, name):
    mean, cov = torch.ones(2, 3, device=device, dtype=dtype), torch.eye(3, device=device, dtype=dtype)
    mean.requires_grad_()
    result = calls(mean, cov)[name]()
    assert (result.device.type, result.dtype) == (device.type, dtype)
    result.sum().backward()
    assert (mean.grad.device.type, mean.grad.dtype) == (device.type, dtype)


@pytest.mark.parametrize("name", gaussians.__all__)
@pytest.mark.parametrize("batch", [(), (2,)])
def test_makes_no_cpu_tensor_for_a_gpu(name, batch):
    """On fake tensors, which know their device and shape but no values; mixing devices raises there too."""
    with FakeTensorMode():
        mean = torch.ones(*batch, 3, device="cuda")
        result = calls(mean, torch.eye(3, device="cuda").expand(*batch, 3, 3))[name]()
        assert result.device.type == "cuda"
        assert result.shape == ((3, *batch, 3) if name.startswith("sample") else batch)
    # Gradients on the meta device, which needs no GPU's library for them.
    mean = torch.ones(*batch, 3, device="meta", requires_grad=True)
    cov = torch.eye(3, device="meta").expand(*batch, 3, 3)
    (grad,) = torch.autograd.grad(calls(mean, cov)[name]().sum(), mean)
    assert (grad.device.type, grad.shape) == ("meta", mean.shape)


def test_cuda_equals_cpu(device, generator):
    pair = random_pair(generator, 3)
    for function, arguments in ((kl_gaussian, pair), (kl_gaussian_tril, factors(*pair))):
        moved = function(*(t.to(device) for t in arguments))
        close(moved.cpu(), function(*arguments), rtol=1e-12, atol=1e-12)


# Bad input

mean = torch.zeros(3, dtype=torch.float64)
eye = torch.eye(3, dtype=torch.float64)
indefinite = torch.tensor([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
asymmetric = torch.tensor([[1.0, 0.5, 0.0], [0.2, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


FULL, TRIL, DIAGONAL, BAD = kl_gaussian, kl_gaussian_tril, kl_diagonal_gaussian, ValueError  # for short lines


def replaced(tensor, index, value):
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


def batch_with(matrix, index, n=5):
    return torch.stack([matrix if i == index else eye for i in range(n)])


@pytest.mark.parametrize(
    ("function", "arguments", "error", "sentence"),
    [
        (FULL, ([0.0], eye, mean, eye), TypeError, "mean_p is a list: give a torch.Tensor"),
        (FULL, (mean, eye, mean, eye.long()), TypeError, "cov_q has dtype torch.int64: give float32 or float64"),
        (FULL, (mean, eye.half(), mean, eye), TypeError, "cov_p has dtype torch.float16"),
        (FULL, (mean, eye, mean, eye.to(torch.complex128)), TypeError, "cov_q has dtype torch.complex128"),
        (FULL, (mean, eye, mean.float(), eye), TypeError, "mean_q is torch.float32 but mean_p is torch.float64"),
        (FULL, (mean, eye, mean, eye.to("meta")), BAD, "cov_q is on meta but mean_p is on cpu"),
        (FULL, (mean[0], eye, mean, eye), BAD, "mean_p has shape (): it must end in the dimension d >= 1"),
        (FULL, (mean[:0], eye[:0, :0], mean[:0], eye[:0, :0]), BAD, "mean_p has shape (0,)"),
        (FULL, (mean, eye, mean[:2], eye), BAD, "mean_q has shape (2,): it must end in (3,)"),
        (FULL, (mean, eye, mean, eye[:2, :2]), BAD, "cov_q has shape (2, 2): it must end in (3, 3)"),
        (FULL, (mean, eye[:2], mean, eye), BAD, "cov_p has shape (2, 3): it must end in (3, 3)"),
        (FULL, (mean, mean, mean, eye), BAD, "cov_p has shape (3,): it must end in (3, 3)"),
        (FULL, (mean.expand(2, 3), eye, mean, eye.expand(4, 3, 3)), BAD, "do not broadcast (mean_p (2,)"),
        (FULL, (replaced(mean, 1, math.nan), eye, mean, eye), BAD, "mean_p[1] is nan"),
        (FULL, (mean, eye, replaced(mean, 2, math.inf), eye), BAD, "mean_q[2] is inf"),
        (FULL, (mean, eye, mean, replaced(eye, (0, 2), math.nan)), BAD, "cov_q[0, 2] is nan"),
        (FULL, (mean, replaced(eye, (2, 0), math.nan), mean, eye), BAD, "cov_p[2, 0] is nan"),
        (FULL, (mean, replaced(eye, (1, 1), math.inf), mean, eye), BAD, "cov_p[1, 1] is inf"),
        (FULL, (mean, eye * math.inf, mean, eye), BAD, "cov_p[0, 0] is inf"),
        (FULL, (mean, asymmetric, mean, eye), BAD, "cov_p is not symmetric (entries [0, 1] and [1, 0] differ by"),
        (FULL, (mean, eye, mean, batch_with(asymmetric, 4)), BAD, "cov_q[4] is not symmetric"),
        (FULL, (mean, eye, mean, indefinite), BAD, "cov_q is not positive definite (its leading minor of order 2"),
        (FULL, (mean, -eye, mean, eye), BAD, "cov_p is not positive definite (its leading minor of order 1"),
        (FULL, (mean, eye, mean, 0 * eye), BAD, "cov_q is not positive definite"),
        (FULL, (mean, eye, mean, batch_with(indefinite, 3)), BAD, "cov_q[3] is not positive definite"),
        (FULL, (mean, batch_with(indefinite, 1), mean, batch_with(indefinite, 3)), BAD, "cov_p[1] is not"),
        (FULL, (mean, batch_with(eye, 1), mean, batch_with(indefinite, 3)), BAD, "cov_q[3] is not"),
        (FULL, (mean, eye, mean, batch_with(indefinite, 5, 6).view(2, 3, 3, 3)), BAD, "cov_q[1, 2] is not positive"),
        (FULL, (mean, eye, mean, batch_with(indefinite, 901, 1000)), BAD, "cov_q[901] is not positive"),
        (FULL, (mean + 1e200, eye, mean, eye), BAD, "the divergence is beyond the range of torch.float64"),
        (TRIL, (mean, asymmetric, mean, eye), BAD, "tril_p is not lower triangular (entry [0, 1] is 0.5)"),
        (TRIL, (mean, eye, mean, batch_with(asymmetric, 2)), BAD, "tril_q[2] is not lower triangular"),
        (TRIL, (mean, -eye, mean, -eye), BAD, "tril_p has -1 on its diagonal at row 0"),
        (TRIL, (mean, eye, mean, batch_with(replaced(eye, (2, 2), 0.0), 1)), BAD, "tril_q[1] has 0 on"),
        (TRIL, (mean, replaced(eye, (2, 0), math.nan), mean, eye), BAD, "tril_p[2, 0] is nan"),
        (TRIL, (mean, eye, mean, replaced(eye, (0, 0), math.nan)), BAD, "tril_q[0, 0] is nan"),
        (TRIL, (mean, replaced(eye, (0, 2), math.nan), mean, eye), BAD, "tril_p[0, 2] is nan"),
        (TRIL, (mean, replaced(eye, (2, 0), math.inf), mean, eye), BAD, "tril_p[2, 0] is inf"),
        (TRIL, (mean, eye, mean, replaced(eye, (2, 0), math.inf)), BAD, "tril_q[2, 0] is inf"),
        (TRIL, (mean, eye, mean, replaced(eye, (2, 2), math.inf)), BAD, "tril_q[2, 2] is inf"),
        (DIAGONAL, (mean, mean, mean, mean[:1]), BAD, "log_var_q has shape (1,): it must end in (3,)"),
        (DIAGONAL, (mean, replaced(mean, 0, math.nan), mean, mean), BAD, "log_var_p[0] is nan"),
        (DIAGONAL, (mean, mean, mean, replaced(mean, 0, math.inf)), BAD, "log_var_q[0] is inf"),
        (DIAGONAL, (mean, mean, mean, replaced(mean, 1, -math.inf)), BAD, "log_var_q[1] is -inf"),
        (DIAGONAL, (mean, mean + 710, mean, mean), BAD, "the divergence is beyond the range of torch.float64"),
        (kl_to_standard_normal, (mean.float(), mean.float() + 89), BAD, "beyond the range of torch.float32"),
        (kl_to_standard_normal, (mean.expand(2, 3), mean.expand(3, 3)), BAD, "do not broadcast"),
        (kl_to_standard_normal, (mean, replaced(mean, 2, -math.inf)), BAD, "log_var[2] is -inf"),
        (log_prob, (replaced(mean, 0, math.nan), mean, eye), BAD, "x[0] is nan"),
        (log_prob, (mean[:2], mean, eye), BAD, "mean has shape (3,): it must end in (2,), because x has shape (2,)"),
        (log_prob, (mean, mean, indefinite), BAD, "cov is not positive definite"),
        (log_prob_tril, (mean, mean, indefinite), BAD, "tril is not lower triangular"),
        (log_prob_tril, (mean, mean, -eye), BAD, "tril has -1 on its diagonal"),
        (sample, (replaced(mean, 0, math.inf), eye, 2), BAD, "mean[0] is inf"),
        (sample, (mean, indefinite, 2), BAD, "cov is not positive definite"),
        (sample, (mean, eye, -1), BAD, "n is -1"),
        (sample_tril, (mean, -eye, 2), BAD, "tril has -1 on its diagonal"),
        (sample_tril, (mean, replaced(eye, (1, 0), math.inf), 2), BAD, "tril[1, 0] is inf"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_a_sentence(function, arguments, error, sentence):
    with pytest.raises(error, match=re.escape(sentence)) as refused:
        unchecked(function)(*arguments)
    assert ": " in str(refused.value)  # what was wrong and where, then what to do
    if all(isinstance(a, torch.Tensor) and a.is_floating_point() for a in arguments):
        differentiable = [a.clone().requires_grad_() for a in arguments]
        with pytest.raises(error, match=re.escape(sentence)):
            unchecked(function)(*differentiable)


def test_annotations_refuse_what_the_function_refuses():
    """The shape annotations are checked in this suite, so the wrong shape stops at the signature."""
    with pytest.raises(Exception, match="mean_q") as refused:
        kl_gaussian(mean, eye, mean[:2], eye)
    assert type(refused.value).__module__.startswith("jaxtyping")


def test_generator_of_another_device_is_refused():
    with FakeTensorMode():
        mean, cov = torch.zeros(2, device="cuda"), torch.eye(2, device="cuda")
        with pytest.raises(ValueError, match="generator is on cpu and mean on cuda"):
            sample(mean, cov, 3, generator=torch.Generator())


def test_rounding_is_not_called_asymmetry(generator):
    """A A' + I differs from its transpose in the last digit; the strict measure and the one by member both pass."""
    mean, cov = random_gaussian(generator, 3, d=6)
    rounded = cov * (1 + 1e-15 * randn(generator, 3, 6, 6))
    assert not torch.equal(rounded, rounded.mT)
    close(kl_gaussian(mean, rounded, mean + 1, cov), kl_gaussian(mean, cov, mean + 1, cov), rtol=1e-10, atol=0)
    scales = torch.tensor([1.0, 1e12, 1e-12], dtype=torch.float64)[:, None, None]
    assert kl_gaussian(mean, rounded * scales, mean, cov).isfinite().all()


def test_inputs_are_left_alone(generator):
    """W is formed in place, on a tensor of its own."""
    pair = random_pair(generator, 2)
    for function, arguments in ((kl_gaussian, pair), (kl_gaussian_tril, factors(*pair))):
        before = [t.clone() for t in arguments]
        for arguments_ in (arguments, [t.clone().requires_grad_() for t in arguments]):
            function(*arguments_)
            assert all(torch.equal(t, b) for t, b in zip(arguments_, before, strict=True))


def test_numpy_sees_the_same_numbers(generator):
    """The textbook formula, with inverse and determinants, in NumPy."""
    pair = random_pair(generator, d=4)
    m, s, n, t = (tensor.numpy() for tensor in pair)
    trace, mahalanobis = np.trace(np.linalg.inv(t) @ s), (m - n) @ np.linalg.inv(t) @ (m - n)
    log_ratio = np.linalg.slogdet(t)[1] - np.linalg.slogdet(s)[1]
    assert kl_gaussian(*pair).item() == pytest.approx((trace - 4 + mahalanobis + log_ratio) / 2, rel=1e-12)
