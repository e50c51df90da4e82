r"""Every equation of chapter 2, both sides computed by routes that share no code.

``agree`` reads all sides of an equation from the chapter itself and computes each: expectations, divergences and
derivatives by quadrature and differences over SciPy's densities, the rest by NumPy. Beside it, ``course_lib`` is held
against the same left sides. ``test_latex_reader.py`` shows that small changes of each print are seen.
"""

import itertools

import numpy as np
import printed
import pytest
import torch
from gaussian_pairs import Pair, divergence, over_noise, rotated, scaled, shifted, whole_line
from scipy import stats

from course_lib import gaussians

CLOSE = {"rel": 1e-9, "abs": 1e-9}


@pytest.fixture(params=list(itertools.product((1, 2, 3), range(3))), ids=lambda p: f"d{p[0]}-seed{p[1]}")
def pair(request):
    return Pair(*request.param)


def agree(label, names, **tolerance):
    """All sides of the equation, as the chapter prints them, have the same value."""
    first, *others = [side(names) for side in printed.readers(label)]
    for other in others:
        assert np.shape(other) == np.shape(first)
        assert other == pytest.approx(first, **(tolerance or CLOSE))


def course(function, *arguments):
    """A function of course_lib on arrays."""
    return function(*map(torch.tensor, arguments)).item()


def course_kl(pair):
    return course(gaussians.kl_gaussian, pair.mu_p[:, 0], pair.S_p, pair.mu_q[:, 0], pair.S_q)


# --- the toy and the density ---


@pytest.mark.equation(
    "def-kl",
    r"\KL(p \,\|\, q) = \E_p\left[\log \frac{p(x)}{q(x)}\right] = \int p(x) \log \frac{p(x)}{q(x)} \, dx .",
)
def test_definition_as_expectation_and_as_integral():
    agree("def-kl", whole_line(Pair(1, 0)))


@pytest.mark.equation(
    "eq-kl-univariate",
    r"\KL(p \,\|\, q) = \frac{1}{2}\left( \log\left(\frac{\sigma_q^2}{\sigma_p^2}\right) - 1 + "
    r"\frac{\sigma_p^2}{\sigma_q^2} + \frac{(\mu_p - \mu_q)^2}{\sigma_q^2} \right) .",
)
def test_univariate_kl():
    for seed in range(4):
        pair = Pair(1, seed)
        agree("eq-kl-univariate", pair.names())
        assert course_kl(pair) == pytest.approx(pair.kl(), **CLOSE)


@pytest.mark.parametrize(("moments", "exact"), [((0, 1, 1, 4), 0.443147), ((1, 4, 0, 1), 1.306853)])
@pytest.mark.equation(
    "eq-kl-univariate",
    r"\KL(p \,\|\, q) = \frac{1}{2}\left( \log\left(\frac{\sigma_q^2}{\sigma_p^2}\right) - 1 + "
    r"\frac{\sigma_p^2}{\sigma_q^2} + \frac{(\mu_p - \mu_q)^2}{\sigma_q^2} \right) .",
)
def test_univariate_kl_of_the_toy(moments, exact):
    mu_p, var_p, mu_q, var_q = moments
    names = {r"\mu_p": mu_p, r"\mu_q": mu_q, r"\sigma_p": var_p**0.5, r"\sigma_q": var_q**0.5}
    assert printed.readers("eq-kl-univariate")[-1](names) == pytest.approx(exact, abs=5e-7)


@pytest.mark.equation(
    "def-multivariate-normal",
    r"\Normal(x; \mu, \Sigma) = \frac{1}{\sqrt{(2\pi)^d |\Sigma|}} \exp\left(-\frac{1}{2} (x-\mu)^\T "
    r"\Sigma^{-1} (x-\mu)\right) .",
)
def test_density(pair):
    agree("def-multivariate-normal", pair.names())


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.equation(
    "def-multivariate-normal",
    r"\Normal(x; \mu, \Sigma) = \frac{1}{\sqrt{(2\pi)^d |\Sigma|}} \exp\left(-\frac{1}{2} (x-\mu)^\T "
    r"\Sigma^{-1} (x-\mu)\right) .",
)
def test_density_integrates_to_one(d):
    pair = Pair(d, 0, condition=2.0)
    density = printed.readers("def-multivariate-normal")[-1]
    reach = [(m - 9 * s**0.5, m + 9 * s**0.5) for m, s in zip(pair.mu_p[:, 0], np.diag(pair.S_p), strict=True)]
    axes = [np.linspace(*ends, 61) for ends in reach]
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    total = sum(density(pair.names() | {"x": np.reshape(point, (d, 1))}) for point in itertools.product(*axes))
    assert total * cell == pytest.approx(1, abs=1e-8)


@pytest.mark.equation(
    "eq-log-density",
    r"\log \Normal(x; \mu, \Sigma) = -\frac{d}{2} \log(2\pi) - \frac{1}{2} \log|\Sigma| - \frac{1}{2} "
    r"(x-\mu)^\T \Sigma^{-1} (x-\mu) .",
)
def test_log_density(pair):
    agree("eq-log-density", pair.names())
    ours = course(gaussians.log_prob, pair.x[:, 0], pair.mu_p[:, 0], pair.S_p)
    assert ours == pytest.approx(pair.p.log_density(pair.x), **CLOSE)


@pytest.mark.equation("def-cholesky", r"\Sigma = L L^\T")
def test_cholesky(pair):
    agree("def-cholesky", pair.names())
    assert np.all(np.triu(pair.names()["L"], 1) == 0)


@pytest.mark.equation("eq-log-det", r"\log|\Sigma| = 2 \sum_{i=1}^{d} \log L_{ii} .")
def test_log_det(pair):
    agree("eq-log-det", pair.names())


@pytest.mark.equation("eq-mahalanobis", r"(x-\mu)^\T \Sigma^{-1} (x-\mu) = \| L^{-1} (x-\mu) \|^2 ,")
def test_mahalanobis(pair):
    agree("eq-mahalanobis", pair.names())


@pytest.mark.equation("def-sampling", r"x = \mu + L z")
@pytest.mark.equation(
    "eq-sampling",
    r"\E\left[(x - \mu) (x - \mu)^\T\right] = L \, \E\left[z z^\T\right] L^\T = \Sigma .",
)
def test_sampling(pair):
    """x is a function of z here, so the expectation is over z alone."""
    names = over_noise(pair, printed.readers("def-sampling")[-1])
    agree("eq-sampling", names)
    assert np.ravel(names[r"\E"](lambda x, z: x)) == pytest.approx(pair.mu_p[:, 0])


@pytest.mark.equation(
    "eq-sampling",
    r"\E\left[(x - \mu) (x - \mu)^\T\right] = L \, \E\left[z z^\T\right] L^\T = \Sigma .",
)
def test_samples_of_course_lib():
    """Mean and covariance of 200,000 samples, within five standard errors."""
    pair, n = Pair(3, 0), 200_000
    arguments = torch.tensor(pair.mu_p[:, 0]), torch.tensor(pair.S_p)
    samples = gaussians.sample(*arguments, n, generator=torch.Generator().manual_seed(0)).numpy()
    deviation = np.sqrt(np.diag(pair.S_p))
    assert np.all(np.abs(samples.mean(0) - pair.mu_p[:, 0]) < 5 * deviation / n**0.5)
    scatter = np.sqrt((np.outer(deviation, deviation) ** 2 + pair.S_p**2) / n)
    assert np.all(np.abs(np.cov(samples.T) - pair.S_p) < 5 * scatter)


@pytest.mark.equation("eq-whitening", r"L^{-1} \, \Sigma \, L^{-\T} = I .")
def test_whitening(pair):
    agree("eq-whitening", pair.names())


# --- the trace lemma ---


@pytest.mark.equation("eq-trace-cyclic", r"\tr(A B C) = \tr(B C A) = \tr(C A B) .")
def test_trace_is_cyclic(pair):
    names = pair.names()
    agree("eq-trace-cyclic", names)
    by_entries = np.einsum("ij,jk,ki->", names["A"], names["B"], names["C"])  # no matrix product
    assert printed.readers("eq-trace-cyclic")[0](names) == pytest.approx(by_entries)


@pytest.mark.equation("eq-trace-cyclic", r"\tr(A B C) = \tr(B C A) = \tr(C A B) .")
def test_trace_is_cyclic_for_factors_that_are_not_square():
    rng = np.random.default_rng(0)
    agree("eq-trace-cyclic", {"A": rng.normal(size=(2, 4)), "B": rng.normal(size=(4, 3)), "C": rng.normal(size=(3, 2))})


@pytest.mark.equation("eq-scalar-trace", r"x^\T A x = \tr(x^\T A x) = \tr(A x x^\T) .")
def test_scalar_is_its_own_trace(pair):
    names = pair.names()
    agree("eq-scalar-trace", names)
    by_entries = np.einsum("i,ij,j->", pair.x[:, 0], names["A"], pair.x[:, 0])
    assert printed.readers("eq-scalar-trace")[0](names) == pytest.approx(by_entries)


@pytest.mark.equation("eq-second-moment", r"\E[x x^\T] = \Sigma + \mu \mu^\T .")
def test_second_moment(pair):
    agree("eq-second-moment", pair.names())


@pytest.mark.equation("eq-trace-lemma", r"\E[x^\T A x] = \tr(A \Sigma) + \mu^\T A \mu .")
def test_trace_lemma(pair):
    agree("eq-trace-lemma", pair.names())


@pytest.mark.equation("eq-trace-lemma", r"\E[x^\T A x] = \tr(A \Sigma) + \mu^\T A \mu .")
def test_trace_lemma_needs_no_gaussian():
    """Two equally likely points in each coordinate: the expectation is a mean of four values."""
    rng = np.random.default_rng(1)
    mu, spread = rng.normal(size=(2, 1)), np.array([[0.5], [2.0]])
    points = [mu + spread * np.reshape(signs, (2, 1)) for signs in itertools.product((-1, 1), repeat=2)]
    names = {"A": rng.normal(size=(2, 2)), r"\mu": mu, r"\Sigma": np.diag(spread[:, 0] ** 2)}
    agree("eq-trace-lemma", names | {r"\E": lambda f: np.mean([f(x=x) for x in points])})


# --- the theorem and its proof ---


@pytest.mark.equation(
    "eq-gaussian-kl",
    r"\begin{aligned} \KL(p \,\|\, q) = \frac{1}{2} \Bigl( & \log \frac{|\Sigma_q|}{|\Sigma_p|} - d + "
    r"\tr(\Sigma_q^{-1} \Sigma_p) \\ & + (\mu_p - \mu_q)^\T \Sigma_q^{-1} (\mu_p - \mu_q) \Bigr) . "
    r"\end{aligned}",
)
def test_gaussian_kl(pair):
    agree("eq-gaussian-kl", pair.names())
    assert course_kl(pair) == pytest.approx(pair.kl(), **CLOSE)


@pytest.mark.equation(
    "eq-gaussian-kl",
    r"\begin{aligned} \KL(p \,\|\, q) = \frac{1}{2} \Bigl( & \log \frac{|\Sigma_q|}{|\Sigma_p|} - d + "
    r"\tr(\Sigma_q^{-1} \Sigma_p) \\ & + (\mu_p - \mu_q)^\T \Sigma_q^{-1} (\mu_p - \mu_q) \Bigr) . "
    r"\end{aligned}",
)
def test_gaussian_kl_by_monte_carlo():
    pair = Pair(3, 9)
    x = pair.rng.multivariate_normal(pair.mu_p[:, 0], pair.S_p, size=400_000)
    log_p, log_q = (stats.multivariate_normal(g.mean[:, 0], g.cov).logpdf(x) for g in (pair.p, pair.q))
    error = 4 * (log_p - log_q).std() / len(x) ** 0.5
    assert abs(printed.readers("eq-gaussian-kl")[-1](pair.names()) - (log_p - log_q).mean()) < error
    assert abs(course_kl(pair) - (log_p - log_q).mean()) < error


@pytest.mark.equation(
    "eq-gaussian-kl",
    r"\begin{aligned} \KL(p \,\|\, q) = \frac{1}{2} \Bigl( & \log \frac{|\Sigma_q|}{|\Sigma_p|} - d + "
    r"\tr(\Sigma_q^{-1} \Sigma_p) \\ & + (\mu_p - \mu_q)^\T \Sigma_q^{-1} (\mu_p - \mu_q) \Bigr) . "
    r"\end{aligned}",
)
def test_gaussian_kl_at_the_edges():
    """Equal distributions, a far mean, and covariances of condition 1e6."""
    pair = Pair(3, 0)
    pair.mu_q, pair.S_q = pair.mu_p, pair.S_p
    assert printed.readers("eq-gaussian-kl")[-1](pair.names()) == pytest.approx(0, abs=1e-12)
    assert course_kl(pair) == 0
    far = Pair(3, 0)
    far.mu_q = far.mu_q + 1e3
    agree("eq-gaussian-kl", far.names(), rel=1e-9)
    assert course_kl(far) == pytest.approx(far.kl(), rel=1e-9)
    stretched = Pair(3, 0, condition=1e6)
    agree("eq-gaussian-kl", stretched.names(), rel=1e-7)
    assert course_kl(stretched) == pytest.approx(stretched.kl(), rel=1e-7)


@pytest.mark.equation(
    "eq-step-log-ratio",
    r"\begin{aligned} \log \frac{p(x)}{q(x)} = {}& \frac{1}{2} \log \frac{|\Sigma_q|}{|\Sigma_p|} + "
    r"\frac{1}{2} (x-\mu_q)^\T \Sigma_q^{-1} (x-\mu_q) \\ & - \frac{1}{2} (x-\mu_p)^\T \Sigma_p^{-1} "
    r"(x-\mu_p) . \end{aligned}",
)
def test_step_log_ratio(pair):
    for x in (pair.x, pair.mu_p, pair.mu_q, 3 * pair.x):
        agree("eq-step-log-ratio", pair.names() | {"x": x})


@pytest.mark.equation(
    "eq-step-expectation",
    r"\begin{aligned} \KL(p \,\|\, q) = {}& \frac{1}{2} \log \frac{|\Sigma_q|}{|\Sigma_p|} + \frac{1}{2} "
    r"\E_p\left[(x-\mu_q)^\T \Sigma_q^{-1} (x-\mu_q)\right] \\ & - \frac{1}{2} \E_p\left[(x-\mu_p)^\T "
    r"\Sigma_p^{-1} (x-\mu_p)\right] . \end{aligned}",
)
def test_step_expectation(pair):
    agree("eq-step-expectation", pair.names())


@pytest.mark.equation("eq-step-own", r"\E_p\left[(x-\mu_p)^\T \Sigma_p^{-1} (x-\mu_p)\right] = d .")
def test_step_own(pair):
    agree("eq-step-own", pair.names())


@pytest.mark.equation(
    "eq-step-split",
    r"\begin{aligned} (x-\mu_q)^\T \Sigma_q^{-1} (x-\mu_q) = {}& (x-\mu_p)^\T \Sigma_q^{-1} (x-\mu_p) \\ & "
    r"+ 2 (x-\mu_p)^\T \Sigma_q^{-1} (\mu_p-\mu_q) \\ & + (\mu_p-\mu_q)^\T \Sigma_q^{-1} (\mu_p-\mu_q) . "
    r"\end{aligned}",
)
def test_step_split(pair):
    for x in (pair.x, pair.mu_p, pair.mu_q):
        agree("eq-step-split", pair.names() | {"x": x})


@pytest.mark.equation(
    "eq-step-spread",
    r"\E_p\left[(x-\mu_p)^\T \Sigma_q^{-1} (x-\mu_p)\right] = \tr(\Sigma_q^{-1} \Sigma_p) .",
)
def test_step_spread(pair):
    agree("eq-step-spread", pair.names())


@pytest.mark.equation(
    "eq-step-cross",
    r"\E_p\left[(x-\mu_p)^\T \Sigma_q^{-1} (\mu_p-\mu_q)\right] = (\E_p[x] - \mu_p)^\T \Sigma_q^{-1} "
    r"(\mu_p-\mu_q) = 0 .",
)
def test_step_cross(pair):
    agree("eq-step-cross", pair.names())


@pytest.mark.equation(
    "eq-step-other",
    r"\E_p\left[(x-\mu_q)^\T \Sigma_q^{-1} (x-\mu_q)\right] = \tr(\Sigma_q^{-1} \Sigma_p) + "
    r"(\mu_p-\mu_q)^\T \Sigma_q^{-1} (\mu_p-\mu_q) .",
)
def test_step_other(pair):
    agree("eq-step-other", pair.names())


# --- what each term measures ---


@pytest.mark.parametrize("s", [0.3, 1.0, 2.2])
@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.equation("eq-kl-scale", r"\KL(p \,\|\, q) = \frac{d}{2} \left( s^2 - 1 - \log(s^2) \right) .")
def test_scale(d, s):
    agree("eq-kl-scale", scaled(d, s))


@pytest.mark.parametrize("t", [-3.0, 0.0, 0.7])
@pytest.mark.equation("eq-kl-shift", r"\KL(p \,\|\, q) = \frac{t^2}{2 a} .")
def test_shift(t):
    agree("eq-kl-shift", shifted(t))


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 2, 2.5])
@pytest.mark.equation("eq-kl-rotate", r"\KL(p \,\|\, q) = \frac{(a - b)^2}{2 a b} \sin^2(\alpha) .")
def test_rotate(angle):
    agree("eq-kl-rotate", rotated(angle))


# --- special cases ---


@pytest.mark.equation(
    "eq-kl-diagonal",
    r"\KL(p \,\|\, q) = \frac{1}{2} \sum_{j=1}^{d} \left( "
    r"\log\left(\frac{\sigma_{q,j}^2}{\sigma_{p,j}^2}\right) - 1 + \frac{\sigma_{p,j}^2}{\sigma_{q,j}^2} + "
    r"\frac{(\mu_{p,j} - \mu_{q,j})^2}{\sigma_{q,j}^2} \right) .",
)
def test_diagonal(pair):
    pair = pair.diagonal()
    agree("eq-kl-diagonal", pair.names())
    log_vars = np.log(np.diag(pair.S_p)), np.log(np.diag(pair.S_q))
    ours = course(gaussians.kl_diagonal_gaussian, pair.mu_p[:, 0], log_vars[0], pair.mu_q[:, 0], log_vars[1])
    assert ours == pytest.approx(pair.kl(), **CLOSE)


@pytest.mark.equation(
    "eq-kl-standard-normal",
    r"\KL(\Normal(\mu, \Sigma) \,\|\, \Normal(0, I)) = \frac{1}{2} \left( \tr(\Sigma) + \mu^\T \mu - d - "
    r"\log|\Sigma| \right) .",
)
def test_to_standard_normal(pair):
    agree("eq-kl-standard-normal", pair.to_standard().names())


@pytest.mark.equation(
    "eq-kl-log-variance",
    r"\KL(\Normal(\mu, \Sigma) \,\|\, \Normal(0, I)) = \frac{1}{2} \sum_{j=1}^{d} \left( \exp(\gamma_j) + "
    r"\mu_j^2 - 1 - \gamma_j \right) .",
)
def test_log_variance_form(pair):
    pair = pair.diagonal().to_standard()
    agree("eq-kl-log-variance", pair.names())
    ours = course(gaussians.kl_to_standard_normal, pair.mu_p[:, 0], np.log(np.diag(pair.S_p)))
    assert ours == pytest.approx(pair.kl(), **CLOSE)


# --- properties ---


@pytest.mark.equation(
    "eq-kl-eigenvalues",
    r"\KL(p \,\|\, q) = \frac{1}{2} \sum_{i=1}^{d} \left( m_i - 1 - \log(m_i) \right) + \frac{1}{2} "
    r"\|\delta\|^2 .",
)
def test_eigenvalue_form(pair):
    agree("eq-kl-eigenvalues", pair.names())


@pytest.mark.equation("eq-log-inequality", r"m - 1 - \log(m) \geq 0 ,")
def test_log_inequality():
    left, right = printed.book()["eq-log-inequality"].split(r"\geq")
    reader = printed.reader(left)
    values = np.array([reader({"m": m}) for m in np.geomspace(1e-6, 1e6, 241)])  # m = 1 in the middle
    assert float(right.strip(" ,.")) == 0
    assert np.argmin(values) == 120
    assert abs(values[120]) < 1e-12
    assert np.all(np.delete(values, 120) > 0)


@pytest.mark.equation(
    "eq-affine-invariance",
    r"\begin{aligned} & \KL\left(\Normal(A \mu_p + b, A \Sigma_p A^\T) \,\|\, \Normal(A \mu_q + b, A "
    r"\Sigma_q A^\T)\right) \\ & = \KL\left(\Normal(\mu_p, \Sigma_p) \,\|\, \Normal(\mu_q, "
    r"\Sigma_q)\right) . \end{aligned}",
)
def test_affine_invariance(pair):
    agree("eq-affine-invariance", pair.names(), rel=1e-6)


@pytest.mark.equation(
    "eq-kl-gradient-mean",
    r"\frac{\partial \KL(p \,\|\, q)}{\partial \mu_p} = \Sigma_q^{-1} (\mu_p - \mu_q) ,",
)
def test_gradient_in_the_mean(pair):
    agree("eq-kl-gradient-mean", pair.names(), rel=1e-6, abs=1e-6)


@pytest.mark.equation(
    "eq-kl-gradient-cov",
    r"\frac{\partial \KL(p \,\|\, q)}{\partial \Sigma_p} = \frac{1}{2} \left( \Sigma_q^{-1} - "
    r"\Sigma_p^{-1} \right) .",
)
def test_gradient_in_the_covariance(pair):
    agree("eq-kl-gradient-cov", pair.names(), rel=1e-5, abs=1e-5)


@pytest.mark.equation(
    "eq-kl-gradient-mean",
    r"\frac{\partial \KL(p \,\|\, q)}{\partial \mu_p} = \Sigma_q^{-1} (\mu_p - \mu_q) ,",
)
@pytest.mark.equation(
    "eq-kl-gradient-cov",
    r"\frac{\partial \KL(p \,\|\, q)}{\partial \Sigma_p} = \frac{1}{2} \left( \Sigma_q^{-1} - "
    r"\Sigma_p^{-1} \right) .",
)
def test_gradient_of_course_lib(pair):
    mean, cov = (torch.tensor(value, requires_grad=True) for value in (pair.mu_p[:, 0], pair.S_p))
    gaussians.kl_gaussian(mean, cov, torch.tensor(pair.mu_q[:, 0]), torch.tensor(pair.S_q)).backward()
    by_mean, by_cov = (printed.readers(f"eq-kl-gradient-{name}")[0](pair.names()) for name in ("mean", "cov"))
    assert mean.grad.numpy() == pytest.approx(np.ravel(by_mean), rel=1e-6, abs=1e-6)
    # only the symmetric part of the derivative has a meaning: a covariance moves symmetrically
    assert ((cov.grad + cov.grad.T) / 2).numpy() == pytest.approx(np.atleast_2d(by_cov), rel=1e-5, abs=1e-5)


@pytest.mark.equation(
    "eq-log-ratio-variance",
    r"\Var_p\left[\log \frac{p(x)}{q(x)}\right] = \frac{1}{2} \| M - I \|_F^2 + \delta^\T M \delta ,",
)
def test_log_ratio_variance(pair):
    agree("eq-log-ratio-variance", pair.names())


@pytest.mark.equation(
    "eq-kl-factors",
    r"\KL(p \,\|\, q) = \sum_{i=1}^{d} \log \frac{L_{q,ii}}{L_{p,ii}} + \frac{1}{2} \left( \| L_q^{-1} L_p "
    r"\|_F^2 - d + \| L_q^{-1} (\mu_p - \mu_q) \|^2 \right) .",
)
def test_factor_form(pair):
    names = pair.names()
    agree("eq-kl-factors", names)
    ours = course(gaussians.kl_gaussian_tril, pair.mu_p[:, 0], names["L_p"], pair.mu_q[:, 0], names["L_q"])
    assert ours == pytest.approx(pair.kl(), **CLOSE)


@pytest.mark.equation(
    "eq-kl-differences",
    r"\KL(p \,\|\, q) = \sum_{i=1}^{d} \left( w_i - \log(1 + w_i) \right) + \frac{1}{2} \| W \|_F^2 + "
    r"\frac{1}{2} \| L_q^{-1} (\mu_p - \mu_q) \|^2 .",
)
def test_difference_form(pair):
    agree("eq-kl-differences", pair.names())


@pytest.mark.parametrize("distance", [1e-2, 1e-3])
@pytest.mark.equation(
    "eq-kl-differences",
    r"\KL(p \,\|\, q) = \sum_{i=1}^{d} \left( w_i - \log(1 + w_i) \right) + \frac{1}{2} \| W \|_F^2 + "
    r"\frac{1}{2} \| L_q^{-1} (\mu_p - \mu_q) \|^2 .",
)
def test_difference_form_of_nearly_equal_gaussians(distance, pair):
    """Here course_lib takes this form. The sums of the print are exact enough at these distances."""
    pair.mu_q = pair.mu_p + distance * pair.x
    pair.S_q = pair.S_p + distance * pair.covariance(2.0)
    exact = divergence(pair.p, pair.q)
    assert exact < gaussians.NEARLY_EQUAL
    names = pair.names()
    agree("eq-kl-differences", names, rel=1e-6, abs=1e-12)
    assert course_kl(pair) == pytest.approx(exact, rel=1e-6, abs=1e-12)
    ours = course(gaussians.kl_gaussian_tril, pair.mu_p[:, 0], names["L_p"], pair.mu_q[:, 0], names["L_q"])
    assert ours == pytest.approx(exact, rel=1e-6, abs=1e-12)
