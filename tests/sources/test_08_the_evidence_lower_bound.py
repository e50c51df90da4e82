"""What the sources print on the evidence lower bound, beside what is right: each test shows that the two differ.

The names of the tests stand in the appendix "Notes on the sources", one for each note.
"""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from course_lib.elbo import elbo, exact_elbo, minibatch_elbo, pathwise_gradient, score_function_gradient
from course_lib.gaussians import kl_gaussian, kl_to_standard_normal
from course_lib.latent import GaussianPosterior, ProbabilisticPCA

F64 = torch.float64
X = torch.tensor([[2.0, 1.0], [-0.3, 0.8], [1.5, -2.0]], dtype=F64)


@pytest.fixture
def model():
    W = torch.tensor([[1.0, 0.6], [0.4, 1.1]], dtype=F64)
    return ProbabilisticPCA.from_parameters(W, torch.zeros(2, dtype=F64), 0.5)


@pytest.fixture
def q():
    return GaussianPosterior(torch.tensor([0.3, -0.5], dtype=F64), torch.diag(torch.tensor([0.7, 1.2], dtype=F64)))


def gaps(model, q):
    posterior = model.posterior(X)
    return kl_gaussian(q.mean, q.cov, posterior.mean, posterior.cov)


def test_the_posterior_is_not_its_approximation(model):
    """Even the best q with a diagonal covariance leaves a gap for every datum."""
    G = model.W_.T @ model.W_ + 0.5 * torch.eye(2, dtype=F64)
    log_v = (0.5 / G.diagonal()).log().expand(3, 2)
    best = GaussianPosterior.diagonal(model.posterior(X).mean, log_v)
    assert (gaps(model, best) > 0.1).all()


def test_the_bound_is_below_the_logarithm_of_the_likelihood(model, q):
    """Likelihood minus divergence: even the sign is wrong."""
    likelihood = model.log_likelihood(X).sum().exp()
    total_gap = gaps(model, q).sum()
    right = exact_elbo(model, X, q).sum()
    torch.testing.assert_close(right, likelihood.log() - total_gap)
    as_printed = likelihood - total_gap
    assert abs(as_printed - right) > 1


def test_the_covariance_is_a_function_of_x():
    """Two data with the same mean and different covariances: no function of the mean can give both."""
    x = torch.tensor([0.8, 2.0], dtype=F64)
    z = torch.linspace(-4, 4, 4001, dtype=F64)
    log_joint = -0.5 * z**2 - 0.5 * (x[:, None] - z**2) ** 2  # of the decoder z^2 and noise of variance 1
    density = log_joint.softmax(1)
    mean = density @ z
    variance = density @ z**2 - mean**2
    torch.testing.assert_close(mean, torch.zeros(2, dtype=F64), atol=1e-12, rtol=0)
    assert variance[1] - variance[0] > 0.3


def test_the_mean_covers_both_terms(model, q):
    """Without brackets only the first term is averaged, and the second is that of some one sample."""
    z = q.rsample(4, generator=torch.Generator().manual_seed(0))
    first = q.log_prob(z) - model.log_prior(z)
    second = model.log_conditional(X[0], z)
    right = (first - second).mean()
    joint = elbo(model, X[0], q, 4, form="joint", generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(right, -joint)
    for m in range(4):
        assert abs(first.mean() - second[m] - right) > 0.05


def test_q_should_be_near_the_prior(model, q):
    """Read as printed, the divergence of q from itself: zero, and no regularisation. The term is the one from p(z)."""
    with_itself = kl_gaussian(q.mean, q.cov, q.mean, q.cov)
    assert with_itself == 0
    reconstruction = exact_elbo(model, X, q) + q.kl_to_standard_normal()
    assert (reconstruction - with_itself - exact_elbo(model, X, q) > 0.1).all()


def test_the_factor_of_a_minibatch():
    """All batches of 2 of 6: M / N is unbiased neither for the sum nor for the mean."""
    terms = torch.tensor([-3.0, -1.0, -4.0, -1.5, -5.0, -9.5], dtype=F64)
    batches = [terms[list(chosen)] for chosen in itertools.combinations(range(6), 2)]
    as_printed = torch.stack([2 / 6 * batch.sum() for batch in batches]).mean()
    torch.testing.assert_close(as_printed, (2 / 6) ** 2 * terms.sum())
    for reduction, aim in (("sum", terms.sum()), ("mean", terms.mean())):
        found = torch.stack([minibatch_elbo(batch, 6, reduction) for batch in batches]).mean()
        torch.testing.assert_close(found, aim)
        assert abs(as_printed - aim) > 1


def test_the_term_that_regularises(model, q):
    """For a fixed q the gap changes with x; the divergence from the prior does not know x. Only it is in the bound."""
    divergence, gap = q.kl_to_standard_normal(), gaps(model, q)
    assert gap.max() - gap.min() > 1
    reconstruction = model.log_conditional(X, q.mean) - (model.W_ @ q.tril).square().sum() / (2 * model.noise_var_)
    torch.testing.assert_close(reconstruction - divergence, exact_elbo(model, X, q))
    assert (reconstruction - gap - exact_elbo(model, X, q)).abs().min() > 0.1


def test_it_is_the_sampling_that_has_no_derivative():
    """log q is smooth in its mean; a sample from a random generator carries no derivative to it."""
    mu = torch.tensor(0.3, dtype=F64, requires_grad=True)
    log_q = torch.distributions.Normal(mu, 1.0).log_prob(torch.tensor(1.1, dtype=F64))
    (slope,) = torch.autograd.grad(log_q, mu)
    assert slope.item() == pytest.approx(0.8)
    assert not torch.distributions.Normal(mu, 1.0).sample().requires_grad
    assert torch.distributions.Normal(mu, 1.0).rsample().requires_grad  # mean + deviation * noise


def test_a_map_is_no_law():
    """z = G(eps) is one number for each eps; that z ~ q must be shown of G: with sigma^2 for sigma it is not so."""
    eps = np.random.default_rng(0).normal(size=20_000)
    mu, sigma = 0.4, 0.5
    assert stats.kstest(mu + sigma * eps, stats.norm(mu, sigma).cdf).pvalue > 0.01
    assert stats.kstest(mu + sigma**2 * eps, stats.norm(mu, sigma).cdf).pvalue < 1e-10
    assert np.unique(mu + sigma * np.full(5, eps[0])).size == 1


def test_the_overall_loss_is_to_be_maximised():
    """Minimised, its part with the variance falls without bound: -496 at a variance of 1000."""
    mean = torch.zeros(1, dtype=F64)
    printed = [-kl_to_standard_normal(mean, torch.tensor([v], dtype=F64).log()).item() for v in (1.0, 10.0, 1000.0)]
    assert printed == pytest.approx([0.0, -3.3487, -496.0461], abs=1e-4)


def test_the_dependence_is_not_lost():
    """d/dphi E[z^2] = 2 phi from samples that know nothing of phi: by the score function, with more variance."""
    at = torch.tensor([2.0], dtype=F64), torch.zeros(1, dtype=F64), 200_000
    found = {}
    for estimator in (score_function_gradient, pathwise_gradient):
        rows = estimator(lambda z: z.square().sum(-1), *at, generator=torch.Generator().manual_seed(0)).mean
        assert rows.mean().item() == pytest.approx(4.0, abs=4 * rows.std().item() / 200_000**0.5)
        found[estimator] = rows.var().item()
    assert found[score_function_gradient] > 15 * found[pathwise_gradient]


def test_the_direction_matters():
    """Between a Gaussian with correlation and the best product, by each direction: other variances."""
    rho, zero = 0.9, torch.zeros(2, dtype=F64)
    cov = torch.tensor([[1, rho], [rho, 1]], dtype=F64)
    v = torch.linspace(0.05, 1.5, 1451, dtype=F64)
    products = v[:, None, None] * torch.eye(2, dtype=F64)
    zeros = zero.expand(len(v), 2)
    reverse = kl_gaussian(zeros, products, zero, cov)
    forward = kl_gaussian(zero, cov, zeros, products)
    assert v[reverse.argmin()].item() == pytest.approx(1 - rho**2, abs=1e-3)
    assert v[forward.argmin()].item() == pytest.approx(1.0, abs=1e-3)


def test_one_datum_is_not_all_and_a_penalty_ensures_nothing(model):
    """The best q for one datum is not the best for three; and at the best, q is far from the prior."""
    posterior = model.posterior(X)
    of_first = GaussianPosterior(posterior.mean[0], posterior.tril)
    assert exact_elbo(model, X, of_first)[0] == pytest.approx(model.log_likelihood(X)[0].item())
    assert exact_elbo(model, X, of_first).sum() < model.log_likelihood(X).sum() - 1
    assert posterior.kl_to_standard_normal().min() > 0.5


def test_the_error_can_only_be_bounded(model, q):
    """Two models with the same bound at one q, and different gaps: the bound does not tell the error."""
    bound = exact_elbo(model, X[:1], q).item()

    def other(noise_var):
        W = torch.tensor([[0.2, 0.1], [0.1, 0.3]], dtype=F64)
        return ProbabilisticPCA.from_parameters(W, torch.zeros(2, dtype=F64), noise_var)

    low, high = 0.05, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if exact_elbo(other(middle), X[:1], q).item() < bound else (low, middle)
    same = other(middle)
    assert exact_elbo(same, X[:1], q).item() == pytest.approx(bound, abs=1e-9)
    assert abs(gaps(same, q)[0] - gaps(model, q)[0]) > 0.5


def test_brackets_are_paired():
    """As read, seven frames print one closing bracket too many."""
    as_printed = r"KL(Q_{Z|X}(z|x))||P_{Z|X}(z|x))"
    right = r"KL(Q_{Z|X}(z|x)||P_{Z|X}(z|x))"
    assert as_printed.count(")") == as_printed.count("(") + 1
    assert right.count(")") == right.count("(")


def test_equal_while_the_expectation_is_exact(model, q):
    """1/2 sum(1 + log s^2 - m^2 - s^2) + E[log p(x | z)] is the bound itself, not near it; samples are near it."""
    var = q.tril.diagonal().square()
    first = 0.5 * (1 + var.log() - q.mean.square() - var).sum()
    nodes, weights = (torch.tensor(a, dtype=F64) for a in np.polynomial.hermite_e.hermegauss(4))
    grid = torch.cartesian_prod(nodes, nodes)
    weight = torch.cartesian_prod(weights, weights).prod(1) / (2 * torch.pi)
    expectation = weight @ model.log_conditional(X[0], q.mean + grid * var.sqrt())
    torch.testing.assert_close(first + expectation, exact_elbo(model, X[0], q), rtol=1e-12, atol=1e-12)
    estimate = elbo(model, X[0], q, 10, generator=torch.Generator().manual_seed(0))
    assert (estimate - exact_elbo(model, X[0], q)).abs() > 1e-3


def test_a_higher_bound_is_not_a_higher_likelihood():
    """With the variance of q held, a step to a better bound lowers the likelihood (the toy of the chapter)."""
    x = torch.tensor([[1.2], [-0.4], [2.1], [-1.7]], dtype=F64)
    tau, var, v = x.square().mean().item(), 0.5, 0.05
    w = {"likelihood": (tau - var) ** 0.5, "bound": ((var * tau / v) ** 0.5 - var) ** 0.5}
    values = {}
    for name, one in w.items():
        model = ProbabilisticPCA.from_parameters(torch.full((1, 1), one, dtype=F64), torch.zeros(1, dtype=F64), var)
        q = GaussianPosterior(model.posterior(x).mean, torch.full((1, 1), v**0.5, dtype=F64))
        values[name] = exact_elbo(model, x, q).mean().item(), model.log_likelihood(x).mean().item()
    assert values["bound"][0] > values["likelihood"][0] + 0.05
    assert values["bound"][1] < values["likelihood"][1] - 0.05


def test_an_expectation_over_the_data(model, q):
    """E over X of something that holds one x does nothing; over all data it is the mean of the bounds."""
    bounds = exact_elbo(model, X, q)
    literal = torch.stack([bounds[0] for _ in X]).mean()  # X is drawn, x stays
    assert abs(literal - bounds.mean()) > 0.5
    best = exact_elbo(model, X, model.posterior(X)).mean()  # and a maximum is not the value at some q
    assert best > bounds.mean() + 0.5
