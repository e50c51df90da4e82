"""What the sources print on models of a density and on latent variables, beside what is right.

The names of the tests stand in the appendix "Notes on the sources", one for each note.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from course_lib import latent
from course_lib.latent import GaussianLatentModel, ProbabilisticPCA

# The toy of the chapter: z ~ N(0, 1), x = z + 0.75 times noise, and one x.
SIGMA, X = 0.75, 1.25
Z = np.linspace(-10, 10, 4001)
PRIOR = stats.norm.pdf(Z)
LIKELIHOOD = stats.norm.pdf(X, Z, SIGMA)
MARGINAL = np.trapezoid(LIKELIHOOD * PRIOR, Z)
POSTERIOR = LIKELIHOOD * PRIOR / MARGINAL


def toy():
    one = torch.ones(1, 1, dtype=torch.float64)
    return ProbabilisticPCA.from_parameters(one, one[0] * 0, SIGMA**2)


def curved(m=1):
    return GaussianLatentModel(torch.sin, m, 0.5)


def x_of(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_a_density_near_the_data_is_not_near_one():
    assert stats.norm.pdf(0, 0, 0.1) == pytest.approx(3.99, abs=0.005)
    # the same data in other units: the density of likely points may be anything
    data = np.random.default_rng(0).normal(size=1000)
    typical = [np.median(stats.norm.pdf(unit * data, 0, unit)) for unit in (1e-3, 1.0, 1e3)]
    assert typical[0] > 100
    assert typical[2] < 1e-2
    # of a discrete variable at most one value has a probability above one half
    for p in np.random.default_rng(1).dirichlet(np.full(6, 0.2), size=200):
        assert (p > 0.5).sum() <= 1


def test_a_spectral_density_is_not_a_density_of_x():
    """Two laws with the same flat spectrum: normal noise, and a fair coin that shows -1 or 1."""
    rng = np.random.default_rng(2)
    for x in (rng.normal(size=2**16), rng.choice([-1.0, 1.0], size=2**16)):
        power = (np.abs(np.fft.rfft(x)) ** 2 / len(x))[1:-1].reshape(31, -1).mean(1)
        assert power == pytest.approx(np.ones(31), abs=0.15)
        assert (np.abs(x) < 0.5).mean() == pytest.approx(0.383 if len(set(x)) > 2 else 0, abs=0.01)


def test_the_likelihood_must_fit_the_kind_of_data():
    """A Gaussian for letters as numbers depends on the order of the alphabet; a categorical law does not."""
    letters = list("abracadabra")
    gaussian, categorical = [], []
    for alphabet in ("abcdr", "rdacb"):
        codes = np.array([alphabet.index(letter) for letter in letters])
        gaussian.append(stats.norm.logpdf(codes, codes.mean(), codes.std()).sum())
        share = np.bincount(codes) / len(codes)
        categorical.append(np.log(share[codes]).sum())
    assert categorical[0] == pytest.approx(categorical[1])
    assert abs(gaussian[0] - gaussian[1]) > 0.1


def test_the_marginal_averages_the_likelihood_and_not_the_posterior():
    printed = np.trapezoid(POSTERIOR * PRIOR, Z)
    assert pytest.approx(0.1936, abs=5e-5) == MARGINAL
    assert printed == pytest.approx(0.2704, abs=5e-5)
    assert toy().log_likelihood(x_of(X)).exp().item() == pytest.approx(MARGINAL)


def test_the_prior_is_an_assumption_and_exact():
    """Two priors with the same mean and variance are approximately alike; they give different marginals."""
    uniform = stats.uniform.pdf(Z, -math.sqrt(3), 2 * math.sqrt(3))
    assert np.trapezoid(uniform * Z**2, Z) == pytest.approx(1, abs=0.01)
    other = np.trapezoid(LIKELIHOOD * uniform, Z)
    assert abs(math.log(other / MARGINAL)) > 0.05


def test_the_prior_has_no_parameters():
    x, z = x_of(0.3), x_of(0.7)
    narrow, wide = (GaussianLatentModel(lambda z, a=a: a * z, 1, sd) for a, sd in ((1.0, 0.1), (5.0, 2.0)))
    assert narrow.log_prior(z) == wide.log_prior(z)
    assert narrow.log_conditional(x, z) != wide.log_conditional(x, z)


def test_the_prior_is_chosen_but_not_the_value():
    """The law of z is ours; the z of a datum has the posterior, and that depends on the datum."""
    model = toy()
    means = [model.posterior(x_of(x)).mean.item() for x in (-1.25, 0.0, 1.25)]
    assert means == pytest.approx([-0.8, 0.0, 0.8])


def test_no_chain_is_needed_for_the_integral():
    model, x = toy(), x_of(X)
    z = torch.randn(100_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    terms = model.log_conditional(x, z).exp()
    assert terms.mean().item() == pytest.approx(MARGINAL, abs=4 * terms.std().item() / math.sqrt(100_000))
    # and a chain does not know the normaliser: any other factor gives the very same chain
    chains = [
        latent.metropolis(
            lambda z, c=c: model.log_joint(x, z) + c, torch.zeros(1, 1, dtype=torch.float64), 500, 1.0,
            generator=torch.Generator().manual_seed(1),
        ).samples
        for c in (0.0, 7.0)
    ]  # fmt: skip
    torch.testing.assert_close(chains[0], chains[1])


def test_the_posterior_gives_the_marginal_only_with_its_normaliser():
    for z in (-1.0, 0.0, 2.0):
        k = np.argmin(np.abs(Z - z))
        assert LIKELIHOOD[k] * PRIOR[k] / POSTERIOR[k] == pytest.approx(MARGINAL)
        unnormalised = 5 * POSTERIOR[k]  # known up to a factor, as always before the integral is known
        assert LIKELIHOOD[k] * PRIOR[k] / unnormalised == pytest.approx(MARGINAL / 5)


def test_with_a_linear_decoder_all_is_explicit():
    W = torch.tensor([[1.0], [0.5], [-0.3]], dtype=torch.float64)
    model, x = ProbabilisticPCA.from_parameters(W, x_of(0.1, 0.2, 0.3), 0.4), x_of(0.5, -0.4, 0.9)
    torch.testing.assert_close(model.log_likelihood(x), latent.marginal_by_quadrature(model, x))


def test_the_likelihood_is_a_product_of_small_integrals():
    """Two data: one integral over both z is the product of two integrals over one z each."""
    model, x = curved(), x_of(0.4, -0.7)[:, None]
    axis = torch.linspace(-8, 8, 321, dtype=torch.float64)
    joint = model.log_joint(x, axis[:, None, None].expand(-1, 2, 1)).exp()
    together = torch.trapezoid(torch.trapezoid(joint[:, :1] * joint[:, 1], axis), axis)
    torch.testing.assert_close(together, latent.marginal_by_quadrature(model, x).exp().prod())


def test_closed_form_and_exponential_cost_are_two_things():
    """In 30 dimensions a grid is hopeless; the linear model has its closed form there."""
    m = 30
    W = torch.randn(40, m, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    zero = torch.zeros(40, dtype=torch.float64)
    model = ProbabilisticPCA.from_parameters(W, zero, 1.0)
    exact = model.log_likelihood(zero).item()
    assert exact == pytest.approx(stats.multivariate_normal(zero.numpy(), model.covariance().numpy()).logpdf(zero))
    with pytest.raises(ValueError, match="1 or 2 dimensions"):
        latent.marginal_by_quadrature(model, zero)
    # and without a closed form, a sum over all samples of a discrete z is unbiased, whatever m
    places = ((-1.0, 0.3), (0.5, 0.7))  # values and their probabilities
    draws = [(math.sin(u) + math.cos(v), p * q) for (u, p), (v, q) in itertools.product(places, repeat=2)]
    right = sum(p * stats.norm.pdf(0.2, mean, 0.5) for mean, p in draws)
    pairs = itertools.product(draws, repeat=2)
    mean = sum(p * q * (stats.norm.pdf(0.2, a, 0.5) + stats.norm.pdf(0.2, b, 0.5)) / 2 for (a, p), (b, q) in pairs)
    assert mean == pytest.approx(right)


def test_one_noise_variance_and_its_inverse():
    """c and sigma^2 are one quantity, and the weight C of the squared distance is 1 / (2 c)."""
    x, c = np.array([0.3, -0.5, 1.1]), 0.4
    for mean in (np.zeros(3), np.array([1.0, 0.2, -0.6])):
        log_density = stats.norm.logpdf(x, mean, math.sqrt(c)).sum()
        constant = -1.5 * math.log(2 * math.pi * c)
        assert log_density == pytest.approx(constant - np.sum((x - mean) ** 2) / (2 * c))
        assert log_density != pytest.approx(constant - c * np.sum((x - mean) ** 2))
