"""What the sources print on variational Bayesian inference, beside what is right: each test shows that the two differ.

The names of the tests stand in the appendix "Notes on the sources", one for each note.
"""

import inspect
import math

import pytest
import torch

from course_lib.bayes import BayesianLinearRegression, MeanFieldNetwork, mean_field_gradients
from course_lib.elbo import exact_elbo
from course_lib.latent import GaussianPosterior, ProbabilisticPCA

F64 = torch.float64


def tensor(values):
    return torch.tensor(values, dtype=F64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def line(n=6, seed=0):
    """Features with a column of ones, and targets."""
    x = torch.randn(n, 1, dtype=F64, generator=generator(seed))
    y = 0.7 * x[:, 0] - 0.2 + 0.5 * torch.randn(n, dtype=F64, generator=generator(seed + 1))
    return torch.cat((x, torch.ones_like(x)), 1), y


def one_weight(mean, sd, likelihood_sd=1.0):
    """A model in which only a bias counts: prior N(0, 1), one target 1; the other weight has the prior for its q."""
    model = MeanFieldNetwork((1, 1), 1.0, likelihood_sd, dtype=F64)
    with torch.no_grad():
        model.means.copy_(tensor([0.0, mean]))
        model.log_vars.copy_(tensor([0.0, 2 * math.log(sd)]))
    return model, torch.zeros(1, 1, dtype=F64), torch.ones(1, 1, dtype=F64)


def test_the_posterior_is_given_the_inputs():
    """The same targets at other inputs: another posterior. The targets alone do not determine one."""
    X, y = line()
    other = X.clone()
    other[:, 0] = X[:, 0].flip(0)
    means = [BayesianLinearRegression(1.0, 0.5).fit(inputs, y).posterior.mean for inputs in (X, other)]
    assert (means[0] - means[1]).abs().max() > 0.3


def test_the_logarithm_covers_the_product():
    """(log l) pi is another number than log(l pi); only with the latter is the bound the evidence at the posterior."""
    X, y = line()
    model = BayesianLinearRegression(1.0, 0.5).fit(X, y)
    q = model.posterior
    theta = q.rsample(20_000, generator=generator())
    log_l = torch.distributions.Normal(theta @ X.mT, 0.5).log_prob(y).sum(-1)
    log_prior = torch.distributions.Normal(tensor(0.0), tensor(1.0)).log_prob(theta).sum(-1)
    log_q = q.log_prob(theta)
    right, as_read = log_q - (log_l + log_prior), log_q - log_l * log_prior.exp()
    torch.testing.assert_close(right, -model.log_evidence().expand(20_000))
    assert (as_read.mean() + model.log_evidence()).abs() > 1
    # and what is minimised over eta is the difference: the divergence alone would be least at the prior
    prior = GaussianPosterior.diagonal(torch.zeros(2, dtype=F64), torch.zeros(2, dtype=F64))
    assert prior.kl_to_standard_normal() == 0 < q.kl_to_standard_normal()
    assert model.free_energy(q) < model.free_energy(prior) - 1


def test_the_free_energy_is_minus_the_elbo_and_bounds_the_evidence():
    """And the three things that are called l are three numbers."""
    X, y = line()
    model = BayesianLinearRegression(1.0, 0.5).fit(X, y)
    ppca = ProbabilisticPCA.from_parameters(X, torch.zeros(6, dtype=F64), 0.25)  # weights for latent variables
    for seed in range(5):
        mean, log_var = torch.randn(2, 2, dtype=F64, generator=generator(seed))
        q = GaussianPosterior.diagonal(mean, log_var)
        assert model.free_energy(q).item() == pytest.approx(-exact_elbo(ppca, y, q).item(), rel=1e-10)
        assert model.free_energy(q) > -model.log_evidence() + 0.1
    assert model.free_energy(model.posterior).item() == pytest.approx(-model.log_evidence().item(), rel=1e-10)
    log_l = torch.distributions.Normal(X @ model.posterior.mean, 0.5).log_prob(y).sum()
    evidence, conditional = model.log_evidence().exp(), log_l.exp()
    assert evidence < 0.5 * conditional
    assert log_l < 0 < conditional


def test_the_mean_covers_all_terms():
    """With a free m in the last term, that of one draw, more draws do not make the estimate better."""
    model, x, y = one_weight(0.2, 0.9)
    theta = model.draw(50 * 2000, generator()).view(2000, 50, 2)
    log_l = torch.distributions.Normal(theta[..., 1], 1.0).log_prob(y)
    q, prior = (torch.distributions.Normal(m, s) for m, s in ((tensor(0.2), tensor(0.9)), (tensor(0.0), tensor(1.0))))
    log_ratio = q.log_prob(theta[..., 1]) - prior.log_prob(theta[..., 1])
    as_printed, right = log_ratio.mean(1) - log_l[:, 0], (log_ratio - log_l).mean(1)
    assert as_printed.var() > 10 * right.var()
    options = {"n_samples": 50, "estimate": "sampled", "sampling": "weights", "generator": generator(1)}
    found = torch.stack([model.free_energy(x, y, 1, **options).detach() for _ in range(400)])
    assert found.var().item() == pytest.approx(right.var().item(), rel=0.25)


def test_minus_the_logarithm_with_its_constant():
    """Minus the likelihood is no squared error. And without its constant a larger variance is always better."""
    residuals = tensor([0.3, -0.5, 0.9, -0.1])
    total = residuals.square().sum()
    variances = torch.linspace(0.05, 10, 2000, dtype=F64)
    as_printed = total / (2 * variances)
    right = as_printed + 4 / 2 * (2 * math.pi * variances).log()
    assert variances[as_printed.argmin()] == 10
    assert variances[right.argmin()].item() == pytest.approx(total.item() / 4, abs=0.01)
    for variance in (0.1, 2.0):
        model, _, _ = one_weight(0.0, 1e-14, variance**0.5)
        with torch.no_grad():
            model.log_vars.fill_(2 * math.log(1e-14))  # no noise in the weights: the likelihood of the zero function
        minus_log = model.expected_nll(torch.zeros(4, 1, dtype=F64), residuals).item()
        printed = total.item() / (2 * variance)
        assert minus_log == pytest.approx(printed + 2 * math.log(2 * math.pi * variance), rel=1e-9)
        assert -math.exp(-minus_log) < 0 < printed  # minus the likelihood is negative


def test_each_datum_has_noise_of_its_own():
    """One epsilon for all data would make the residuals equal; then the sum over the data is not their log-density."""
    residuals = tensor([0.3, -0.5, 0.9])
    own, shared = torch.eye(3, dtype=F64), torch.full((3, 3), 0.99, dtype=F64) + 0.01 * torch.eye(3, dtype=F64)
    zero = torch.zeros(3, dtype=F64)
    by_sum = torch.distributions.Normal(0.0, 1.0).log_prob(residuals).sum()
    for cov, agrees in ((own, True), (shared, False)):
        joint = torch.distributions.MultivariateNormal(zero, cov).log_prob(residuals)
        assert ((joint - by_sum).abs() < 1e-12) == agrees
    # draws of theta that are not independent have the right mean, and no smaller variance
    model, x, y = one_weight(0.2, 0.9)
    alone = torch.stack([model.free_energy(x, y, 1, sampling="weights", generator=generator(s)) for s in range(300)])
    many = torch.stack([model.free_energy(x, y, 1, 20, sampling="weights", generator=generator(s)) for s in range(300)])
    assert many.var() < 0.1 * alone.var()


def test_the_map_must_make_the_law():
    """theta = mu + L xi with Sigma = L L^T. With Sigma for L, as good a map, the law is another one."""
    cov = tensor([[2.0, 0.6], [0.6, 0.5]])
    L = torch.linalg.cholesky(cov)
    xi = torch.randn(100_000, 2, dtype=F64, generator=generator())
    torch.testing.assert_close((xi @ L.mT).T.cov(), cov, atol=0.03, rtol=0)
    assert ((xi @ cov.mT).T.cov() - cov).abs().max() > 1
    q = GaussianPosterior(torch.zeros(2, dtype=F64), L)
    torch.testing.assert_close(q.rsample(100_000, generator=generator()).T.cov(), cov, atol=0.03, rtol=0)
    # another law, another base: an exponential of rate eta from a uniform variable, and the slope of its mean
    eta = tensor(0.8).requires_grad_()
    theta = -torch.rand(200_000, dtype=F64, generator=generator(1)).log() / eta
    (slope,) = torch.autograd.grad(theta.mean(), eta)
    assert theta.mean().item() == pytest.approx(1 / 0.8, rel=0.01)
    assert slope.item() == pytest.approx(-1 / 0.8**2, rel=0.01)


def test_the_explicit_divergence_is_used_and_which_is_better_depends():
    """Variances of the value and of the slopes, with the divergence in closed form and from samples."""
    assert inspect.signature(MeanFieldNetwork.free_energy).parameters["estimate"].default == "kl"

    def variances(mean, sd):
        found = {}
        for estimate in ("kl", "sampled"):
            model, x, y = one_weight(mean, sd)
            options, rows = {"n_data": 1, "estimate": estimate, "sampling": "weights", "generator": generator()}, []
            for _ in range(500):
                value, grads = mean_field_gradients(model, x, y, **options)
                rows.append([value, grads[0][1], grads[1][1]])
            rows = tensor(rows)
            found[estimate] = rows.var(0).tolist()
            if (mean, sd, estimate) == (
                0.5,
                0.5**0.5,
                "sampled",
            ):  # every draw gives minus the log-evidence, that of N(1; 0, 2)
                evidence = 0.5 * math.log(4 * math.pi) + 0.25
                assert rows[:, 0].tolist() == pytest.approx([evidence] * 500, rel=1e-9)
        return found["kl"], found["sampled"]

    (value, by_mean, _), (sampled_value, sampled_by_mean, _) = variances(0.5, 0.5**0.5)  # the posterior
    assert sampled_value < 1e-20
    assert (value, by_mean, sampled_by_mean) == pytest.approx((0.25, 0.5, 2.0), rel=0.2)
    (value, by_mean, _), (sampled_value, sampled_by_mean, _) = variances(4.0, 0.5**0.5)  # far from it
    assert value < 0.5 * sampled_value
    assert by_mean < 0.5 * sampled_by_mean
    (_, _, by_log_var), (_, _, sampled_by_log_var) = variances(0.5, 0.1)  # a q too narrow at the posterior's mean
    assert by_log_var > 2 * sampled_by_log_var


def test_for_one_layer_of_rectifiers_the_expectation_is_explicit():
    """The moments of a rectified Gaussian give the expectation that many draws have for their mean."""
    model = MeanFieldNetwork((2, 4, 1), (1.0, 0.5), 0.6, "relu", initial_sd=0.4, dtype=F64, generator=generator())
    x, y = torch.randn(5, 2, dtype=F64, generator=generator(1)), torch.randn(5, 1, dtype=F64, generator=generator(2))
    (W, b), (w, c) = model.layers(model.means.detach())
    (W_var, b_var), (w_var, c_var) = model.layers(model.log_vars.detach().exp())
    mean, sd = x @ W.mT + b, (x**2 @ W_var.mT + b_var).sqrt()
    below, density = torch.special.ndtr(mean / sd), torch.exp(-((mean / sd) ** 2) / 2) / math.sqrt(2 * math.pi)
    first = mean * below + sd * density
    second = (mean**2 + sd**2) * below + mean * sd * density
    f = first @ w.mT + c
    spread = second @ (w**2 + w_var).mT - first**2 @ (w**2).mT + c_var
    explicit = ((y - f) ** 2 + spread).sum() / (2 * 0.6**2) + 5 / 2 * math.log(2 * math.pi * 0.6**2)
    with torch.no_grad():
        draws = torch.stack([model.expected_nll(x, y, 500, generator=generator(s)) for s in range(40)])
    assert draws.mean().item() == pytest.approx(explicit.item(), abs=5 * draws.std().item() / 40**0.5)
    assert draws.std() / 40**0.5 < 0.01 * explicit


def test_a_prior_of_weights_is_a_prior_of_functions():
    """With N(0, I) for all weights the functions grow with the width; with narrower weights they do not."""
    x = torch.full((1, 1), 2.0, dtype=F64)

    def deviation(width, second):
        model = MeanFieldNetwork((1, width, 1), (1.0, second), 0.1, dtype=F64)
        with torch.no_grad():
            model.means.zero_()
            model.log_vars.copy_(2 * model.prior_sd.log())
        return model.functions(x, 4000, generator()).std().item()

    assert deviation(400, 1.0) > 3.5 * deviation(25, 1.0) > 10
    assert deviation(400, 400**-0.5) == pytest.approx(deviation(25, 25**-0.5), rel=0.1)
