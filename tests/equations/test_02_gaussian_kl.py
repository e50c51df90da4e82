"""Every equation of chapter 2, both sides computed by routes that share no code.

The left sides use quadrature that is exact for the polynomials at hand, densities from SciPy, finite differences and
Monte Carlo; the right sides are written here in NumPy as the book prints them, and evaluated from the print itself by
SymPy (``printed``), at dimension one. ``course_lib`` is measured against the same left sides.
"""

import itertools

import numpy as np
import printed
import pytest
import torch
from scipy import integrate, stats
from scipy.linalg import solve_triangular

from course_lib import gaussians

DIMENSIONS = (1, 2, 3)
SEEDS = range(4)
CLOSE = {"rel": 1e-9, "abs": 1e-9}


class Pair:
    """Two random Gaussians, and expectations under the first."""

    def __init__(self, d, seed, condition=10.0):
        rng = np.random.default_rng([d, seed])
        self.d = d
        self.rng = rng
        self.mu_p, self.mu_q = rng.normal(size=(2, d))
        self.S_p, self.S_q = (self.covariance(rng, d, condition) for _ in range(2))
        self.L_p, self.L_q = np.linalg.cholesky(self.S_p), np.linalg.cholesky(self.S_q)
        self.x = rng.normal(size=d)

    @staticmethod
    def covariance(rng, d, condition):
        axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
        return axes * np.geomspace(1.0, condition, d) * rng.uniform(0.5, 2) @ axes.T

    def log_p(self, x):
        return stats.multivariate_normal(self.mu_p, self.S_p).logpdf(x)

    def log_q(self, x):
        return stats.multivariate_normal(self.mu_q, self.S_q).logpdf(x)

    def expectation(self, f):
        """E_p[f(x)] by a Gauss-Hermite product rule, exact for polynomials of degree 9 in each coordinate.

        The nodes are placed by the eigenvectors of the covariance, not by its Cholesky factor.
        """
        nodes, weights = np.polynomial.hermite_e.hermegauss(5)
        values, vectors = np.linalg.eigh(self.S_p)
        grid = np.array(list(itertools.product(nodes, repeat=self.d)))
        weight = np.prod(list(itertools.product(weights, repeat=self.d)), axis=1)
        points = self.mu_p + grid * np.sqrt(values) @ vectors.T
        return np.tensordot(weight / weight.sum(), np.array([f(point) for point in points]), axes=1)

    def kl(self):
        """The divergence as its definition says: the expected log-ratio, which is a polynomial of degree 2 in x."""
        return self.expectation(lambda x: self.log_p(x) - self.log_q(x))

    def at_one(self):
        """The values of the symbols, for a formula that is read at dimension one."""
        return {
            r"\mu_p": self.mu_p[0], r"\mu_q": self.mu_q[0], r"\Sigma_p": self.S_p[0, 0], r"\Sigma_q": self.S_q[0, 0],
            r"\sigma_p": self.S_p[0, 0] ** 0.5, r"\sigma_q": self.S_q[0, 0] ** 0.5, "x": self.x[0], "d": 1,
        }  # fmt: skip


@pytest.fixture(params=list(itertools.product(DIMENSIONS, SEEDS)), ids=lambda p: f"d{p[0]}-seed{p[1]}")
def pair(request):
    return Pair(*request.param)


@pytest.fixture(params=SEEDS)
def line(request):
    """A pair in one dimension, where SymPy can read the formulas."""
    return Pair(1, request.param)


def course_kl(mu_p, S_p, mu_q, S_q):
    return gaussians.kl_gaussian(*map(torch.as_tensor, (mu_p, S_p, mu_q, S_q))).item()


def print_value(label, line, side=-1, **more):
    return printed.evaluate(printed.sides(label)[side], line.at_one() | more)


# --- the toy and the density ---


@pytest.mark.equation(
    "eq-kl-univariate",
    r"\KL(p \,\|\, q) = \frac{1}{2}\left( \log\left(\frac{\sigma_q^2}{\sigma_p^2}\right) - 1 + "
    r"\frac{\sigma_p^2}{\sigma_q^2} + \frac{(\mu_p - \mu_q)^2}{\sigma_q^2} \right) .",
)
def test_univariate_kl(line):
    p, q = (stats.norm(m[0], s[0, 0] ** 0.5) for m, s in ((line.mu_p, line.S_p), (line.mu_q, line.S_q)))
    reach = 12 * p.std()
    integral, _ = integrate.quad(
        lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), p.mean() - reach, p.mean() + reach, epsabs=1e-12
    )
    assert print_value("eq-kl-univariate", line) == pytest.approx(integral, **CLOSE)
    assert course_kl(line.mu_p, line.S_p, line.mu_q, line.S_q) == pytest.approx(integral, **CLOSE)


@pytest.mark.parametrize(("direction", "exact"), [((0, 1, 1, 4), 0.443147), ((1, 4, 0, 1), 1.306853)])
@pytest.mark.equation(
    "eq-kl-univariate",
    r"\KL(p \,\|\, q) = \frac{1}{2}\left( \log\left(\frac{\sigma_q^2}{\sigma_p^2}\right) - 1 + "
    r"\frac{\sigma_p^2}{\sigma_q^2} + \frac{(\mu_p - \mu_q)^2}{\sigma_q^2} \right) .",
)
def test_univariate_kl_anchors(direction, exact):
    mu_p, var_p, mu_q, var_q = direction
    names = {r"\mu_p": mu_p, r"\mu_q": mu_q, r"\sigma_p": var_p**0.5, r"\sigma_q": var_q**0.5}
    assert printed.evaluate(printed.sides("eq-kl-univariate")[-1], names) == pytest.approx(exact, abs=5e-7)


@pytest.mark.equation(
    "eq-log-density",
    r"\log \Normal(x; \mu, \Sigma) = -\frac{d}{2} \log(2\pi) - \frac{1}{2} \log|\Sigma| - \frac{1}{2} "
    r"(x-\mu)^\T \Sigma^{-1} (x-\mu) .",
)
def test_log_density(pair):
    gap = pair.x - pair.mu_p
    log_det, mahalanobis = np.log(np.linalg.det(pair.S_p)), gap @ np.linalg.inv(pair.S_p) @ gap
    right = -pair.d / 2 * np.log(2 * np.pi) - log_det / 2 - mahalanobis / 2
    assert right == pytest.approx(pair.log_p(pair.x), **CLOSE)
    ours = gaussians.log_prob(*map(torch.as_tensor, (pair.x, pair.mu_p, pair.S_p)))
    assert ours.item() == pytest.approx(pair.log_p(pair.x), **CLOSE)


@pytest.mark.equation(
    "eq-log-density",
    r"\log \Normal(x; \mu, \Sigma) = -\frac{d}{2} \log(2\pi) - \frac{1}{2} \log|\Sigma| - \frac{1}{2} "
    r"(x-\mu)^\T \Sigma^{-1} (x-\mu) .",
)
def test_log_density_as_printed_and_its_integral(line):
    values = {r"\mu": line.mu_p[0], r"\Sigma": line.S_p[0, 0]}

    def density(x):
        return np.exp(printed.evaluate(printed.sides("eq-log-density")[-1], values | {"x": x, "d": 1}))

    assert density(line.x[0]) == pytest.approx(np.exp(line.log_p(line.x)), **CLOSE)
    grid = line.mu_p[0] + np.linspace(-9, 9, 61) * line.S_p[0, 0] ** 0.5
    assert np.trapezoid([density(x) for x in grid], grid) == pytest.approx(1, abs=1e-9)


@pytest.mark.equation("eq-log-det", r"\log|\Sigma| = 2 \sum_{i=1}^{d} \log L_{ii} .")
def test_log_det(pair):
    by_eigenvalues = np.log(np.linalg.eigvalsh(pair.S_p)).sum()
    assert 2 * np.log(np.diag(pair.L_p)).sum() == pytest.approx(by_eigenvalues, **CLOSE)
    as_printed = printed.evaluate(printed.sides("eq-log-det")[-1], {"L_{ii}": np.diag(pair.L_p)})
    assert as_printed == pytest.approx(by_eigenvalues, **CLOSE)


@pytest.mark.equation("eq-mahalanobis", r"(x-\mu)^\T \Sigma^{-1} (x-\mu) = \| L^{-1} (x-\mu) \|^2 ,")
def test_mahalanobis(pair):
    gap = pair.x - pair.mu_p
    left = gap @ np.linalg.solve(pair.S_p, gap)
    assert np.sum(solve_triangular(pair.L_p, gap, lower=True) ** 2) == pytest.approx(left, **CLOSE)


@pytest.mark.equation("eq-mahalanobis", r"(x-\mu)^\T \Sigma^{-1} (x-\mu) = \| L^{-1} (x-\mu) \|^2 ,")
def test_mahalanobis_as_printed(line):
    values = {"x": line.x[0], r"\mu": line.mu_p[0], r"\Sigma": line.S_p[0, 0], "L": line.L_p[0, 0]}
    left, right = (printed.evaluate(side, values) for side in printed.sides("eq-mahalanobis"))
    assert left == pytest.approx((line.x[0] - line.mu_p[0]) ** 2 / line.S_p[0, 0], **CLOSE)
    assert right == pytest.approx(left, **CLOSE)


@pytest.mark.equation(
    "eq-sampling",
    r"x = \mu + L z, \; z \sim \Normal(0, I) \quad\Longrightarrow\quad \E[x] = \mu, \quad "
    r"\E[(x-\mu)(x-\mu)^\T] = \Sigma .",
)
def test_sampling(pair):
    n = 200_000
    samples = pair.mu_p + pair.rng.normal(size=(n, pair.d)) @ pair.L_p.T
    # five standard errors: of a mean, and of a second moment of a Gaussian
    deviation = np.sqrt(np.diag(pair.S_p))
    assert np.all(np.abs(samples.mean(0) - pair.mu_p) < 5 * deviation / n**0.5)
    scatter = np.sqrt((np.outer(deviation, deviation) ** 2 + pair.S_p**2) / n)
    assert np.all(np.abs(np.cov(samples.T).reshape(pair.S_p.shape) - pair.S_p) < 5 * scatter)


@pytest.mark.equation("eq-whitening", r"L^{-1} \, \Sigma \, L^{-\T} = I .")
def test_whitening(pair):
    inverse = np.linalg.inv(pair.L_p)
    assert inverse @ pair.S_p @ inverse.T == pytest.approx(np.eye(pair.d), **CLOSE)


# --- the trace lemma ---


@pytest.mark.equation("eq-trace-cyclic", r"\tr(A B C) = \tr(B C A) = \tr(C A B) .")
def test_trace_is_cyclic():
    a, b, c = np.random.default_rng(0).normal(size=(3, 4, 4))
    entries = np.einsum("ij,jk,ki->", a, b, c)  # the sum over entries, no matrix product
    assert [np.trace(a @ b @ c), np.trace(b @ c @ a), np.trace(c @ a @ b)] == pytest.approx([entries] * 3)
    # also for factors that are not square
    a, b, c = a[:2], b[:, :3], c[:3, :2]
    assert np.trace(a @ b @ c) == pytest.approx(np.trace(b @ c @ a)) == pytest.approx(np.trace(c @ a @ b))


@pytest.mark.equation("eq-scalar-trace", r"x^\T A x = \tr(x^\T A x) = \tr(A x x^\T) .")
def test_scalar_is_its_own_trace(pair):
    a = pair.rng.normal(size=(pair.d, pair.d))
    left = sum(pair.x[i] * a[i, j] * pair.x[j] for i in range(pair.d) for j in range(pair.d))
    assert np.trace(a @ np.outer(pair.x, pair.x)) == pytest.approx(left, **CLOSE)


@pytest.mark.equation("eq-second-moment", r"\E[x x^\T] = \Sigma + \mu \mu^\T .")
def test_second_moment(pair):
    left = pair.expectation(lambda x: np.outer(x, x))
    assert pair.S_p + np.outer(pair.mu_p, pair.mu_p) == pytest.approx(left, **CLOSE)


@pytest.mark.equation("eq-trace-lemma", r"\E[x^\T A x] = \tr(A \Sigma) + \mu^\T A \mu .")
def test_trace_lemma(pair):
    a = pair.rng.normal(size=(pair.d, pair.d))  # not symmetric
    left = pair.expectation(lambda x: x @ a @ x)
    assert np.trace(a @ pair.S_p) + pair.mu_p @ a @ pair.mu_p == pytest.approx(left, **CLOSE)


@pytest.mark.equation("eq-trace-lemma", r"\E[x^\T A x] = \tr(A \Sigma) + \mu^\T A \mu .")
def test_trace_lemma_needs_no_gaussian():
    """A two-point distribution in each coordinate: the expectation is a sum of four terms."""
    rng = np.random.default_rng(1)
    mu, a = rng.normal(size=2), rng.normal(size=(2, 2))
    spread = np.array([0.5, 2.0])
    points = [mu + spread * sign for sign in itertools.product((-1, 1), repeat=2)]
    left = np.mean([point @ a @ point for point in points])
    assert np.trace(a @ np.diag(spread**2)) + mu @ a @ mu == pytest.approx(left)


@pytest.mark.equation("eq-trace-lemma", r"\E[x^\T A x] = \tr(A \Sigma) + \mu^\T A \mu .")
def test_trace_lemma_as_printed(line):
    values = {"A": 1.7, r"\Sigma": line.S_p[0, 0], r"\mu": line.mu_p[0]}
    right = printed.evaluate(printed.sides("eq-trace-lemma")[-1], values)
    assert right == pytest.approx(line.expectation(lambda x: 1.7 * x[0] ** 2), **CLOSE)


# --- the theorem and its proof ---


@pytest.mark.equation(
    "eq-gaussian-kl",
    r"\KL(p \,\|\, q) = \frac{1}{2} \left( \log \frac{|\Sigma_q|}{|\Sigma_p|} - d + \tr(\Sigma_q^{-1} "
    r"\Sigma_p) + (\mu_p - \mu_q)^\T \Sigma_q^{-1} (\mu_p - \mu_q) \right) .",
)
def test_gaussian_kl(pair):
    precision, gap = np.linalg.inv(pair.S_q), pair.mu_p - pair.mu_q
    log_det = np.log(np.linalg.det(pair.S_q) / np.linalg.det(pair.S_p))
    right = (log_det - pair.d + np.trace(precision @ pair.S_p) + gap @ precision @ gap) / 2
    assert right == pytest.approx(pair.kl(), **CLOSE)
    assert course_kl(pair.mu_p, pair.S_p, pair.mu_q, pair.S_q) == pytest.approx(pair.kl(), **CLOSE)


@pytest.mark.equation(
    "eq-gaussian-kl",
    r"\KL(p \,\|\, q) = \frac{1}{2} \left( \log \frac{|\Sigma_q|}{|\Sigma_p|} - d + \tr(\Sigma_q^{-1} "
    r"\Sigma_p) + (\mu_p - \mu_q)^\T \Sigma_q^{-1} (\mu_p - \mu_q) \right) .",
)
def test_gaussian_kl_by_monte_carlo():
    pair = Pair(3, 9)
    x = pair.mu_p + pair.rng.standard_normal((400_000, 3)) @ pair.L_p.T
    ratio = pair.log_p(x) - pair.log_q(x)
    ours = course_kl(pair.mu_p, pair.S_p, pair.mu_q, pair.S_q)
    assert abs(ours - ratio.mean()) < 4 * ratio.std() / len(x) ** 0.5


@pytest.mark.equation(
    "eq-gaussian-kl",
    r"\KL(p \,\|\, q) = \frac{1}{2} \left( \log \frac{|\Sigma_q|}{|\Sigma_p|} - d + \tr(\Sigma_q^{-1} "
    r"\Sigma_p) + (\mu_p - \mu_q)^\T \Sigma_q^{-1} (\mu_p - \mu_q) \right) .",
)
def test_gaussian_kl_as_printed(line):
    assert print_value("eq-gaussian-kl", line) == pytest.approx(line.kl(), **CLOSE)


@pytest.mark.equation(
    "eq-gaussian-kl",
    r"\KL(p \,\|\, q) = \frac{1}{2} \left( \log \frac{|\Sigma_q|}{|\Sigma_p|} - d + \tr(\Sigma_q^{-1} "
    r"\Sigma_p) + (\mu_p - \mu_q)^\T \Sigma_q^{-1} (\mu_p - \mu_q) \right) .",
)
def test_gaussian_kl_at_the_edges():
    """Equal distributions, a far mean, and covariances of condition 1e6."""
    pair = Pair(3, 0)
    assert course_kl(pair.mu_p, pair.S_p, pair.mu_p, pair.S_p) == 0
    pair.mu_q = pair.mu_q + 1e3
    assert course_kl(pair.mu_p, pair.S_p, pair.mu_q, pair.S_q) == pytest.approx(pair.kl(), rel=1e-9)
    stretched = Pair(3, 0, condition=1e6)
    ours = course_kl(stretched.mu_p, stretched.S_p, stretched.mu_q, stretched.S_q)
    assert ours == pytest.approx(stretched.kl(), rel=1e-7)


@pytest.mark.equation(
    "eq-step-log-ratio",
    r"\begin{aligned} \log \frac{p(x)}{q(x)} = {}& \frac{1}{2} \log \frac{|\Sigma_q|}{|\Sigma_p|} + "
    r"\frac{1}{2} (x-\mu_q)^\T \Sigma_q^{-1} (x-\mu_q) \\ & - \frac{1}{2} (x-\mu_p)^\T \Sigma_p^{-1} (x-\mu_p) "
    r". \end{aligned}",
)
def test_step_log_ratio(pair):
    def right(x):
        own = (x - pair.mu_p) @ np.linalg.inv(pair.S_p) @ (x - pair.mu_p)
        other = (x - pair.mu_q) @ np.linalg.inv(pair.S_q) @ (x - pair.mu_q)
        return (np.log(np.linalg.det(pair.S_q) / np.linalg.det(pair.S_p)) + other - own) / 2

    for x in (pair.x, pair.mu_p, pair.mu_q, 10 * pair.x):
        assert right(x) == pytest.approx(pair.log_p(x) - pair.log_q(x), **CLOSE)


@pytest.mark.equation(
    "eq-step-log-ratio",
    r"\begin{aligned} \log \frac{p(x)}{q(x)} = {}& \frac{1}{2} \log \frac{|\Sigma_q|}{|\Sigma_p|} + "
    r"\frac{1}{2} (x-\mu_q)^\T \Sigma_q^{-1} (x-\mu_q) \\ & - \frac{1}{2} (x-\mu_p)^\T \Sigma_p^{-1} (x-\mu_p) "
    r". \end{aligned}",
)
def test_step_log_ratio_as_printed(line):
    left = line.log_p(line.x) - line.log_q(line.x)
    assert print_value("eq-step-log-ratio", line) == pytest.approx(left, **CLOSE)


@pytest.mark.equation(
    "eq-step-expectation",
    r"\begin{aligned} \KL(p \,\|\, q) = {}& \frac{1}{2} \log \frac{|\Sigma_q|}{|\Sigma_p|} + \frac{1}{2} "
    r"\E_p\left[(x-\mu_q)^\T \Sigma_q^{-1} (x-\mu_q)\right] \\ & - \frac{1}{2} \E_p\left[(x-\mu_p)^\T "
    r"\Sigma_p^{-1} (x-\mu_p)\right] . \end{aligned}",
)
def test_step_expectation(pair):
    other = pair.expectation(lambda x: (x - pair.mu_q) @ np.linalg.inv(pair.S_q) @ (x - pair.mu_q))
    own = pair.expectation(lambda x: (x - pair.mu_p) @ np.linalg.inv(pair.S_p) @ (x - pair.mu_p))
    log_det = np.log(np.linalg.det(pair.S_q) / np.linalg.det(pair.S_p))
    assert log_det / 2 + other / 2 - own / 2 == pytest.approx(pair.kl(), **CLOSE)


@pytest.mark.equation("eq-step-own", r"\E_p\left[(x-\mu_p)^\T \Sigma_p^{-1} (x-\mu_p)\right] = d .")
def test_step_own(pair):
    left = pair.expectation(lambda x: (x - pair.mu_p) @ np.linalg.inv(pair.S_p) @ (x - pair.mu_p))
    assert left == pytest.approx(pair.d, **CLOSE)


@pytest.mark.equation(
    "eq-step-split",
    r"\begin{aligned} (x-\mu_q)^\T \Sigma_q^{-1} (x-\mu_q) = {}& (x-\mu_p)^\T \Sigma_q^{-1} (x-\mu_p) \\ & + 2 "
    r"(x-\mu_p)^\T \Sigma_q^{-1} (\mu_p-\mu_q) \\ & + (\mu_p-\mu_q)^\T \Sigma_q^{-1} (\mu_p-\mu_q) . "
    r"\end{aligned}",
)
def test_step_split(pair):
    precision, gap = np.linalg.inv(pair.S_q), pair.mu_p - pair.mu_q
    for x in (pair.x, pair.mu_p, pair.mu_q):
        u = x - pair.mu_p
        left = (x - pair.mu_q) @ precision @ (x - pair.mu_q)
        assert u @ precision @ u + 2 * u @ precision @ gap + gap @ precision @ gap == pytest.approx(left, **CLOSE)


@pytest.mark.equation(
    "eq-step-split",
    r"\begin{aligned} (x-\mu_q)^\T \Sigma_q^{-1} (x-\mu_q) = {}& (x-\mu_p)^\T \Sigma_q^{-1} (x-\mu_p) \\ & + 2 "
    r"(x-\mu_p)^\T \Sigma_q^{-1} (\mu_p-\mu_q) \\ & + (\mu_p-\mu_q)^\T \Sigma_q^{-1} (\mu_p-\mu_q) . "
    r"\end{aligned}",
)
def test_step_split_as_printed(line):
    left, right = (print_value("eq-step-split", line, side) for side in (0, 1))
    assert left == pytest.approx((line.x[0] - line.mu_q[0]) ** 2 / line.S_q[0, 0], **CLOSE)
    assert right == pytest.approx(left, **CLOSE)


@pytest.mark.equation(
    "eq-step-spread",
    r"\E_p\left[(x-\mu_p)^\T \Sigma_q^{-1} (x-\mu_p)\right] = \tr(\Sigma_q^{-1} \Sigma_p) .",
)
def test_step_spread(pair):
    precision = np.linalg.inv(pair.S_q)
    left = pair.expectation(lambda x: (x - pair.mu_p) @ precision @ (x - pair.mu_p))
    assert np.trace(precision @ pair.S_p) == pytest.approx(left, **CLOSE)


@pytest.mark.equation(
    "eq-step-cross",
    r"\E_p\left[(x-\mu_p)^\T \Sigma_q^{-1} (\mu_p-\mu_q)\right] = (\E_p[x] - \mu_p)^\T \Sigma_q^{-1} "
    r"(\mu_p-\mu_q) = 0 .",
)
def test_step_cross(pair):
    constant = np.linalg.inv(pair.S_q) @ (pair.mu_p - pair.mu_q)
    assert pair.expectation(lambda x: (x - pair.mu_p) @ constant) == pytest.approx(0, abs=1e-9)
    assert (pair.expectation(lambda x: x) - pair.mu_p) @ constant == pytest.approx(0, abs=1e-9)


@pytest.mark.equation(
    "eq-step-other",
    r"\E_p\left[(x-\mu_q)^\T \Sigma_q^{-1} (x-\mu_q)\right] = \tr(\Sigma_q^{-1} \Sigma_p) + "
    r"(\mu_p-\mu_q)^\T \Sigma_q^{-1} (\mu_p-\mu_q) .",
)
def test_step_other(pair):
    precision, gap = np.linalg.inv(pair.S_q), pair.mu_p - pair.mu_q
    left = pair.expectation(lambda x: (x - pair.mu_q) @ precision @ (x - pair.mu_q))
    assert np.trace(precision @ pair.S_p) + gap @ precision @ gap == pytest.approx(left, **CLOSE)


@pytest.mark.equation(
    "eq-step-other",
    r"\E_p\left[(x-\mu_q)^\T \Sigma_q^{-1} (x-\mu_q)\right] = \tr(\Sigma_q^{-1} \Sigma_p) + "
    r"(\mu_p-\mu_q)^\T \Sigma_q^{-1} (\mu_p-\mu_q) .",
)
def test_step_other_as_printed(line):
    left = line.expectation(lambda x: (x[0] - line.mu_q[0]) ** 2 / line.S_q[0, 0])
    assert print_value("eq-step-other", line) == pytest.approx(left, **CLOSE)


# --- what each term measures ---


def distorted(d, change):
    """A pair whose first member is a distortion of the second."""
    pair = Pair(d, 5)
    pair.S_q, pair.mu_q = np.diag(np.array([4.0, 1.0, 2.5])[:d]), np.zeros(d)
    change(pair)
    return pair


@pytest.mark.parametrize("s", [0.3, 1.0, 2.2])
@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.equation("eq-kl-scale", r"\KL(p \,\|\, q) = \frac{d}{2} \left( s^2 - 1 - \log(s^2) \right) .")
def test_scale(d, s):
    def change(pair):
        pair.mu_p, pair.S_p = pair.mu_q, s**2 * pair.S_q

    as_printed = printed.evaluate(printed.sides("eq-kl-scale")[-1], {"s": s, "d": d})
    assert as_printed == pytest.approx(distorted(d, change).kl(), **CLOSE)


@pytest.mark.parametrize("t", [-3.0, 0.0, 0.7])
@pytest.mark.equation("eq-kl-shift", r"\KL(p \,\|\, q) = \frac{t^2}{2 a} .")
def test_shift(t):
    def change(pair):
        pair.mu_p, pair.S_p = np.array([t, 0.0]), pair.S_q

    as_printed = printed.evaluate(printed.sides("eq-kl-shift")[-1], {"t": t, "a": 4.0})
    assert as_printed == pytest.approx(distorted(2, change).kl(), **CLOSE)


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 2, 2.5])
@pytest.mark.equation("eq-kl-rotate", r"\KL(p \,\|\, q) = \frac{(a - b)^2}{2 a b} \sin^2(\theta) .")
def test_rotate(angle):
    def change(pair):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        pair.mu_p, pair.S_p = pair.mu_q, turn @ pair.S_q @ turn.T

    as_printed = printed.evaluate(printed.sides("eq-kl-rotate")[-1], {r"\theta": angle, "a": 4.0, "b": 1.0})
    assert as_printed == pytest.approx(distorted(2, change).kl(), **CLOSE)


# --- special cases ---


def diagonal(pair):
    """The same pair with the covariances cut down to their diagonals."""
    pair.S_p, pair.S_q = np.diag(np.diag(pair.S_p)), np.diag(np.diag(pair.S_q))
    return pair


@pytest.mark.equation(
    "eq-kl-diagonal",
    r"\KL(p \,\|\, q) = \frac{1}{2} \sum_{j=1}^{d} \left( "
    r"\log\left(\frac{\sigma_{q,j}^2}{\sigma_{p,j}^2}\right) - 1 + "
    r"\frac{\sigma_{p,j}^2}{\sigma_{q,j}^2} + \frac{(\mu_{p,j} - \mu_{q,j})^2}{\sigma_{q,j}^2} \right) "
    r".",
)
def test_diagonal(pair):
    pair = diagonal(pair)
    var_p, var_q = np.diag(pair.S_p), np.diag(pair.S_q)
    names = {
        r"\sigma_{p,j}": np.sqrt(var_p),
        r"\sigma_{q,j}": np.sqrt(var_q),
        r"\mu_{p,j}": pair.mu_p,
        r"\mu_{q,j}": pair.mu_q,
    }
    assert printed.evaluate(printed.sides("eq-kl-diagonal")[-1], names) == pytest.approx(pair.kl(), **CLOSE)
    arguments = (pair.mu_p, np.log(var_p), pair.mu_q, np.log(var_q))
    ours = gaussians.kl_diagonal_gaussian(*map(torch.as_tensor, arguments))
    assert ours.item() == pytest.approx(pair.kl(), **CLOSE)


def to_standard(pair):
    pair.mu_q, pair.S_q = np.zeros(pair.d), np.eye(pair.d)
    return pair


@pytest.mark.equation(
    "eq-kl-standard-normal",
    r"\KL(\Normal(\mu, \Sigma) \,\|\, \Normal(0, I)) = \frac{1}{2} \left( \tr(\Sigma) + \mu^\T \mu - d "
    r"- \log|\Sigma| \right) .",
)
def test_to_standard_normal(pair):
    pair = to_standard(pair)
    right = (np.trace(pair.S_p) + pair.mu_p @ pair.mu_p - pair.d - np.log(np.linalg.det(pair.S_p))) / 2
    assert right == pytest.approx(pair.kl(), **CLOSE)


@pytest.mark.equation(
    "eq-kl-standard-normal",
    r"\KL(\Normal(\mu, \Sigma) \,\|\, \Normal(0, I)) = \frac{1}{2} \left( \tr(\Sigma) + \mu^\T \mu - d "
    r"- \log|\Sigma| \right) .",
)
def test_to_standard_normal_as_printed(line):
    values = {r"\mu": line.mu_p[0], r"\Sigma": line.S_p[0, 0], "d": 1}
    as_printed = printed.evaluate(printed.sides("eq-kl-standard-normal")[-1], values)
    assert as_printed == pytest.approx(to_standard(line).kl(), **CLOSE)


@pytest.mark.equation(
    "eq-kl-log-variance",
    r"\KL(\Normal(\mu, \Sigma) \,\|\, \Normal(0, I)) = \frac{1}{2} \sum_{j=1}^{d} \left( "
    r"\exp(\lambda_j) + \mu_j^2 - 1 - \lambda_j \right) .",
)
def test_log_variance_form(pair):
    pair = to_standard(diagonal(pair))
    log_var = np.log(np.diag(pair.S_p))
    as_printed = printed.evaluate(printed.sides("eq-kl-log-variance")[-1], {r"\mu_j": pair.mu_p, r"\lambda_j": log_var})
    assert as_printed == pytest.approx(pair.kl(), **CLOSE)
    ours = gaussians.kl_to_standard_normal(torch.as_tensor(pair.mu_p), torch.as_tensor(log_var))
    assert ours.item() == pytest.approx(pair.kl(), **CLOSE)


# --- properties ---


@pytest.mark.equation(
    "eq-kl-eigenvalues",
    r"\KL(p \,\|\, q) = \frac{1}{2} \sum_{i=1}^{d} \left( m_i - 1 - \log(m_i) \right) + \frac{1}{2} "
    r"\|\delta\|^2 .",
)
def test_eigenvalue_form(pair):
    whiten = np.linalg.inv(pair.L_q)
    m = np.linalg.eigvalsh(whiten @ pair.S_p @ whiten.T)
    delta = np.linalg.norm(whiten @ (pair.mu_p - pair.mu_q))
    as_printed = printed.evaluate(printed.sides("eq-kl-eigenvalues")[-1], {"m_i": m, r"\delta": delta})
    assert as_printed == pytest.approx(pair.kl(), **CLOSE)


@pytest.mark.equation("eq-log-inequality", r"m - 1 - \log(m) \geq 0 ,")
def test_log_inequality():
    left, right = printed.book()["eq-log-inequality"].rstrip(" ,.").split(r"\geq")
    grid = np.geomspace(1e-6, 1e6, 241)  # holds m = 1, its middle
    values = np.array([printed.evaluate(left, {"m": m}) for m in grid])
    assert float(right) == 0
    assert np.argmin(values) == 120
    assert abs(values[120]) < 1e-12
    assert np.all(np.delete(values, 120) > 0)


@pytest.mark.equation(
    "eq-affine-invariance",
    r"\begin{aligned} & \KL\left(\Normal(A \mu_p + b, A \Sigma_p A^\T) \,\|\, \Normal(A \mu_q + b, A \Sigma_q "
    r"A^\T)\right) \\ & = \KL\left(\Normal(\mu_p, \Sigma_p) \,\|\, \Normal(\mu_q, \Sigma_q)\right) . "
    r"\end{aligned}",
)
def test_affine_invariance(pair):
    a, b = pair.rng.normal(size=(pair.d, pair.d)), pair.rng.normal(size=pair.d)
    before = pair.kl()
    pair.mu_p, pair.mu_q = a @ pair.mu_p + b, a @ pair.mu_q + b
    pair.S_p, pair.S_q = a @ pair.S_p @ a.T, a @ pair.S_q @ a.T
    assert pair.kl() == pytest.approx(before, rel=1e-6)


@pytest.mark.equation(
    "eq-kl-gradient",
    r"\frac{\partial \KL(p \,\|\, q)}{\partial \mu_p} = \Sigma_q^{-1} (\mu_p - \mu_q), \qquad "
    r"\frac{\partial \KL(p \,\|\, q)}{\partial \Sigma_p} = \frac{1}{2} \left( \Sigma_q^{-1} - "
    r"\Sigma_p^{-1} \right) .",
)
def test_gradient(pair):
    """Central differences of the definition, coordinate by coordinate."""
    inverse_p, inverse_q = np.linalg.inv(pair.S_p), np.linalg.inv(pair.S_q)

    def slope(move, h=1e-5):
        values = []
        for step in (h, -h):
            moved = Pair.__new__(Pair)
            moved.__dict__.update(pair.__dict__)
            move(moved, step)
            values.append(moved.kl())
        return (values[0] - values[1]) / (2 * h)

    for i in range(pair.d):
        def move_mean(moved, step, i=i):
            moved.mu_p = pair.mu_p + step * np.eye(pair.d)[i]

        assert slope(move_mean) == pytest.approx((inverse_q @ (pair.mu_p - pair.mu_q))[i], abs=1e-6)
    for i, j in itertools.combinations_with_replacement(range(pair.d), 2):
        direction = np.zeros((pair.d, pair.d))
        direction[i, j] = direction[j, i] = 1.0  # the covariance stays symmetric

        def move_cov(moved, step, direction=direction):
            moved.S_p = pair.S_p + step * direction

        expected = np.sum((inverse_q - inverse_p) / 2 * direction)
        assert slope(move_cov) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.equation(
    "eq-kl-gradient",
    r"\frac{\partial \KL(p \,\|\, q)}{\partial \mu_p} = \Sigma_q^{-1} (\mu_p - \mu_q), \qquad "
    r"\frac{\partial \KL(p \,\|\, q)}{\partial \Sigma_p} = \frac{1}{2} \left( \Sigma_q^{-1} - "
    r"\Sigma_p^{-1} \right) .",
)
def test_gradient_by_autograd(pair):
    mean, cov = (torch.tensor(value, requires_grad=True) for value in (pair.mu_p, pair.S_p))
    gaussians.kl_gaussian(mean, cov, torch.tensor(pair.mu_q), torch.tensor(pair.S_q)).backward()
    inverse_p, inverse_q = np.linalg.inv(pair.S_p), np.linalg.inv(pair.S_q)
    assert mean.grad.numpy() == pytest.approx(inverse_q @ (pair.mu_p - pair.mu_q), **CLOSE)
    # only the symmetric part of the derivative has a meaning: a covariance moves symmetrically
    assert ((cov.grad + cov.grad.T) / 2).numpy() == pytest.approx((inverse_q - inverse_p) / 2, **CLOSE)


@pytest.mark.equation(
    "eq-log-ratio-variance",
    r"\Var_p\left[\log \frac{p(x)}{q(x)}\right] = \frac{1}{2} \| M - I \|_F^2 + \delta^\T M \delta ,",
)
def test_log_ratio_variance(pair):
    mean = pair.kl()
    left = pair.expectation(lambda x: (pair.log_p(x) - pair.log_q(x) - mean) ** 2)
    whiten = np.linalg.inv(pair.L_q)
    m, delta = whiten @ pair.S_p @ whiten.T, whiten @ (pair.mu_p - pair.mu_q)
    right = np.sum((m - np.eye(pair.d)) ** 2) / 2 + delta @ m @ delta
    assert right == pytest.approx(left, **CLOSE)


@pytest.mark.equation(
    "eq-log-ratio-variance",
    r"\Var_p\left[\log \frac{p(x)}{q(x)}\right] = \frac{1}{2} \| M - I \|_F^2 + \delta^\T M \delta ,",
)
def test_log_ratio_variance_as_printed(line):
    mean = line.kl()
    left = line.expectation(lambda x: (line.log_p(x) - line.log_q(x) - mean) ** 2)
    values = {"M": line.S_p[0, 0] / line.S_q[0, 0], "I": 1, r"\delta": (line.mu_p - line.mu_q)[0] / line.L_q[0, 0]}
    assert printed.evaluate(printed.sides("eq-log-ratio-variance")[-1], values) == pytest.approx(left, **CLOSE)


@pytest.mark.equation(
    "eq-kl-factors",
    r"\KL(p \,\|\, q) = \sum_{i=1}^{d} \log \frac{L_{q,ii}}{L_{p,ii}} + \frac{1}{2} \left( \| L_q^{-1} "
    r"L_p \|_F^2 - d + \| L_q^{-1} (\mu_p - \mu_q) \|^2 \right) .",
)
def test_factor_form(pair):
    ratio = solve_triangular(pair.L_q, pair.L_p, lower=True)
    gap = solve_triangular(pair.L_q, pair.mu_p - pair.mu_q, lower=True)
    log_det = np.log(np.diag(pair.L_q) / np.diag(pair.L_p)).sum()
    assert log_det + (np.sum(ratio**2) - pair.d + gap @ gap) / 2 == pytest.approx(pair.kl(), **CLOSE)
    ours = gaussians.kl_gaussian_tril(*map(torch.as_tensor, (pair.mu_p, pair.L_p, pair.mu_q, pair.L_q)))
    assert ours.item() == pytest.approx(pair.kl(), **CLOSE)


@pytest.mark.equation(
    "eq-kl-factors",
    r"\KL(p \,\|\, q) = \sum_{i=1}^{d} \log \frac{L_{q,ii}}{L_{p,ii}} + \frac{1}{2} \left( \| L_q^{-1} "
    r"L_p \|_F^2 - d + \| L_q^{-1} (\mu_p - \mu_q) \|^2 \right) .",
)
def test_factor_form_as_printed(line):
    factors = {"L_p": line.L_p[0, 0], "L_q": line.L_q[0, 0], "L_{p,ii}": line.L_p[0], "L_{q,ii}": line.L_q[0]}
    as_printed = printed.evaluate(printed.sides("eq-kl-factors")[-1], line.at_one() | factors)
    assert as_printed == pytest.approx(line.kl(), **CLOSE)


@pytest.mark.equation(
    "eq-kl-differences",
    r"\KL(p \,\|\, q) = \sum_{i=1}^{d} \left( w_i - \log(1 + w_i) \right) + \frac{1}{2} \| W \|_F^2 + "
    r"\frac{1}{2} \| L_q^{-1} (\mu_p - \mu_q) \|^2 .",
)
def test_difference_form(pair):
    w = solve_triangular(pair.L_q, pair.L_p - pair.L_q, lower=True)
    gap = solve_triangular(pair.L_q, pair.mu_p - pair.mu_q, lower=True)
    right = np.sum(np.diag(w) - np.log(1 + np.diag(w))) + np.sum(w**2) / 2 + gap @ gap / 2
    assert right == pytest.approx(pair.kl(), **CLOSE)


@pytest.mark.equation(
    "eq-kl-differences",
    r"\KL(p \,\|\, q) = \sum_{i=1}^{d} \left( w_i - \log(1 + w_i) \right) + \frac{1}{2} \| W \|_F^2 + "
    r"\frac{1}{2} \| L_q^{-1} (\mu_p - \mu_q) \|^2 .",
)
def test_difference_form_as_printed(line):
    w = line.L_p[0, 0] / line.L_q[0, 0] - 1
    values = line.at_one() | {"L_q": line.L_q[0, 0], "w_i": [w], "W": w}
    assert printed.evaluate(printed.sides("eq-kl-differences")[-1], values) == pytest.approx(line.kl(), **CLOSE)
