"""What the sources print on the Gaussian divergence, beside what is right: each test shows that the two differ.

The names of the tests stand in the appendix "Notes on the sources", one for each note.
"""

import numpy as np
import pytest
import torch
from scipy import stats

from course_lib import gaussians


@pytest.fixture
def pair():
    """Means and covariances of two Gaussians in three dimensions, and their divergence by SciPy and Monte Carlo."""
    rng = np.random.default_rng(3)
    mu_1, mu_2 = rng.normal(size=(2, 3))
    root_1, root_2 = rng.normal(size=(2, 3, 3))
    S_1, S_2 = root_1 @ root_1.T + np.eye(3), root_2 @ root_2.T + np.eye(3)
    x = rng.multivariate_normal(mu_1, S_1, size=400_000)
    ratio = stats.multivariate_normal(mu_1, S_1).logpdf(x) - stats.multivariate_normal(mu_2, S_2).logpdf(x)
    return mu_1, S_1, mu_2, S_2, ratio.mean(), 4 * ratio.std() / len(x) ** 0.5


def parts(mu_1, S_1, mu_2, S_2):
    """Log-determinant, trace and Mahalanobis term."""
    inverse, gap = np.linalg.inv(S_2), mu_1 - mu_2
    return np.log(np.linalg.det(S_2) / np.linalg.det(S_1)), np.trace(inverse @ S_1), gap @ inverse @ gap


def test_decoder_density_without_minus_sign():
    """With a plus sign the "density" has no finite integral: each wider interval holds more."""
    inside = [np.trapezoid(np.exp(x**2 / 2), x) for x in (np.linspace(-r, r, 2001) for r in (1, 2, 4))]
    assert inside[0] < inside[1] < inside[2] > 1e3
    grid = np.linspace(-12, 12, 4001)
    assert np.trapezoid(np.exp(-(grid**2) / 2), grid) == pytest.approx((2 * np.pi) ** 0.5)


def test_log_density_is_not_proportional_to_the_squared_distance():
    """At residual 1 the squared distance falls as the variance grows; the log-density rises and then falls."""
    variance = np.array([0.01, 0.1, 1.0, 10.0])
    log_density = stats.norm(0, variance**0.5).logpdf(1.0)
    assert log_density == pytest.approx([-48.616, -4.768, -1.419, -2.120], abs=1e-3)
    assert np.all(np.diff(1 / variance) < 0)
    assert np.argmax(log_density) == 2


def test_halves_lost_in_the_proof(pair):
    *gaussian_pair, exact, error = pair
    log_det, trace, mahalanobis = parts(*gaussian_pair)
    right = 0.5 * (log_det - 3 + trace + mahalanobis)
    trace_unhalved = 0.5 * (log_det + trace + mahalanobis) - 3
    mahalanobis_unhalved = 0.5 * (log_det - 3 + trace) + mahalanobis
    assert abs(right - exact) < error
    assert abs(trace_unhalved - exact) > 10 * error
    assert abs(mahalanobis_unhalved - exact) > 10 * error


def test_bracket_closed_before_the_mahalanobis_term(pair):
    *gaussian_pair, exact, error = pair
    log_det, trace, mahalanobis = parts(*gaussian_pair)
    as_read = 0.5 * (log_det - 3 + trace) + mahalanobis
    assert as_read - exact == pytest.approx(mahalanobis / 2, abs=error)
    assert mahalanobis / 2 > 10 * error


def test_sum_where_an_integral_belongs():
    """A sum over grid points depends on the grid; the integral does not."""
    p, q = stats.norm(0, 1), stats.norm(1, 2)
    sums, integrals = [], []
    for n in (1001, 2001):
        x = np.linspace(-12, 12, n)
        integrand = p.pdf(x) * (p.logpdf(x) - q.logpdf(x))
        sums.append(integrand.sum())
        integrals.append(np.trapezoid(integrand, x))
    assert integrals == pytest.approx([0.443147] * 2, abs=1e-6)
    assert sums[1] / sums[0] == pytest.approx(2, abs=1e-6)


def test_one_symbol_for_variance_and_log_variance():
    """The last formula of the notes is right if Sigma is the log-variance, and wrong if it is the variance."""
    mean, variance = np.array([0.5, -1.0]), np.array([0.3, 2.0])

    def formula(sigma):
        return 0.5 * np.sum(np.exp(sigma) + mean**2 - 1 - sigma)

    exact = sum(
        np.trapezoid(p.pdf(x) * (p.logpdf(x) - stats.norm.logpdf(x)), x)
        for p in map(stats.norm, mean, variance**0.5)
        for x in [np.linspace(-15, 15, 20_001)]
    )
    assert formula(np.log(variance)) == pytest.approx(exact, abs=1e-9)
    assert abs(formula(variance) - exact) > 1


def test_trace_of_a_swapped_product():
    """tr(ABC) and tr(ACB) differ in general, and never for three symmetric matrices."""
    a, b, c = np.random.default_rng(0).normal(size=(3, 4, 4))
    assert abs(np.trace(a @ b @ c) - np.trace(a @ c @ b)) > 0.1
    a, b, c = a + a.T, b + b.T, c + c.T
    assert np.trace(a @ b @ c) == pytest.approx(np.trace(a @ c @ b))


def test_constant_is_the_dimension(pair):
    """The divergence of a distribution from itself is zero for one constant only."""
    mu, S, *_ = pair
    log_det, trace, mahalanobis = parts(mu, S, mu, S)
    assert log_det + trace + mahalanobis == pytest.approx(3)


def test_bracket_missing_in_the_expectation():
    """sum P log P - log Q, without brackets, still depends on x. (For a uniform Q the slip would not show.)"""
    p, q = np.full(3, 1 / 3), np.array([0.36, 0.48, 0.16])
    exact = 0.0974550
    assert np.sum(p * (np.log(p) - np.log(q))) == pytest.approx(exact, abs=1e-6)
    assert np.all(np.abs(np.sum(p * np.log(p)) - np.log(q) - exact) > 0.01)


def test_determinants_missing(pair):
    """A quotient of matrices, entry by entry, has no logarithm that is a number."""
    _, S_1, _, S_2, *_ = pair
    quotient = S_2 / S_1
    assert quotient.shape == (3, 3)
    assert quotient.min() < 0
    assert np.log(np.linalg.det(S_2) / np.linalg.det(S_1)) == pytest.approx(
        np.log(np.linalg.eigvalsh(S_2)).sum() - np.log(np.linalg.eigvalsh(S_1)).sum()
    )


def test_singular_covariance():
    """Towards a singular first covariance the divergence grows without bound; at it, course_lib refuses."""
    mean, eye = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)

    def divergence(small):
        return gaussians.kl_gaussian(mean, torch.diag(torch.tensor([1.0, small], dtype=torch.float64)), mean, eye)

    assert divergence(1e-300) > divergence(1e-30) > divergence(1e-3) > 2
    with pytest.raises(ValueError, match="positive definite"):
        divergence(0.0)


def test_expectation_moves_past_the_fixed_matrix():
    """E[tr(A x x')] = tr(A E[x x']), and E[x x'] is Sigma + mu mu', not Sigma."""
    rng = np.random.default_rng(2)
    mu, a = rng.normal(size=2) + 1, rng.normal(size=(2, 2))
    x = mu + np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * [0.5, 2.0]  # four equally likely points
    second_moment = np.mean([np.outer(row, row) for row in x], axis=0)
    assert np.mean([np.trace(a @ np.outer(row, row)) for row in x]) == pytest.approx(np.trace(a @ second_moment))
    assert second_moment == pytest.approx(np.diag([0.25, 4.0]) + np.outer(mu, mu))
    assert np.abs(second_moment - np.diag([0.25, 4.0])).max() > 0.1


def test_cross_terms_merge_only_for_a_symmetric_matrix():
    rng = np.random.default_rng(4)
    u, v, a = rng.normal(size=3), rng.normal(size=3), rng.normal(size=(3, 3))
    assert abs(u @ a @ v - v @ a @ u) > 0.1
    symmetric = a + a.T
    assert u @ symmetric @ v == pytest.approx(v @ symmetric @ u)


def test_only_a_part_of_the_cross_term_is_constant(pair):
    """The product under the brace "constant" has mean zero, and a variance."""
    mu_1, S_1, mu_2, S_2, *_ = pair
    constant = np.linalg.inv(S_2) @ (mu_1 - mu_2)
    values = (np.random.default_rng(5).multivariate_normal(mu_1, S_1, size=100_000) - mu_1) @ constant
    assert abs(values.mean()) < 4 * values.std() / len(values) ** 0.5
    assert values.var() == pytest.approx(constant @ S_1 @ constant, rel=0.05)
    assert values.var() > 0.1


def test_standard_normal_has_the_identity_for_covariance():
    """Read as a matrix of ones, "1" is singular; the trace adds diagonal entries, not diagonal matrices."""
    assert np.linalg.det(np.ones((3, 3))) == pytest.approx(0)
    assert np.linalg.det(np.eye(3)) == 1
    S = np.diag([1.0, 2.0, 3.0])
    assert np.trace(S) == S[0, 0] + S[1, 1] + S[2, 2] == 6


def test_terms_of_the_sum_carry_an_index():
    """Whole vectors inside the sum over K dimensions count every dimension K times."""
    mean, log_var = torch.tensor([0.5, -1.0, 0.2]).double(), torch.tensor([-2.0, 0.3, 1.0]).double()
    indexed = 0.5 * sum(log_var[k].exp() + mean[k] ** 2 - 1 - log_var[k] for k in range(3))
    not_indexed = 0.5 * sum((log_var.exp() + mean**2 - 1 - log_var).sum() for _ in range(3))
    reference = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (log_var / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    ).sum()
    assert indexed.item() == pytest.approx(reference.item())
    assert not_indexed.item() == pytest.approx(3 * reference.item())


def test_why_the_log_variance():
    """The log of an underflowed variance is lost, the stored log-variance is not; and exp overflows in float32."""
    log_var = torch.tensor(-120.0)
    assert log_var.exp() == 0
    assert log_var.exp().log() == -torch.inf
    assert torch.isfinite(gaussians.kl_to_standard_normal(torch.zeros(1), log_var[None]))
    assert torch.isfinite(torch.tensor(88.0).exp())
    assert torch.isinf(torch.tensor(89.0).exp())
