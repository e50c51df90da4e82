"""Posteriors, models and integrals over the latent variable, against torch.distributions, quadrature and exact models.

Comparisons with simulation have error bars from independent repetitions.
"""

import inspect
import math
import re
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from tensor_sizes import Largest
from torch._subclasses import FakeTensorMode
from torch.autograd import gradcheck
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from course_lib import latent, latent_models
from course_lib.gaussians import kl_to_standard_normal
from course_lib.latent import (
    GaussianLatentModel,
    GaussianPosterior,
    ProbabilisticPCA,
    marginal_by_quadrature,
    marginal_log_likelihood,
    metropolis,
    posterior_on_grid,
)
from course_lib.networks import MLP

unchecked = inspect.unwrap
close = torch.testing.assert_close


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def randn(generator, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=generator, dtype=dtype)


def random_tril(generator, *batch, m=3):
    tril = randn(generator, *batch, m, m).tril(-1)
    return tril + (0.3 + randn(generator, *batch, m).abs()).diag_embed()


def random_ppca(generator, d=4, m=2, noise_var=0.3):
    return ProbabilisticPCA.from_parameters(randn(generator, d, m), randn(generator, d), noise_var)


def circle(z):
    return torch.cat((z.cos(), z.sin()), -1)


def dome(z):
    return torch.cat((z, 0.5 * z.square().sum(-1, keepdim=True)), -1)


def test_every_name_of_the_chapter_is_here():
    assert set(latent.__all__) == {
        *("GaussianPosterior", "GaussianLatentModel", "ProbabilisticPCA", "marginal_log_likelihood", "Chain"),
        *("marginal_by_quadrature", "posterior_on_grid", "metropolis", "autocorrelation", "effective_sample_size"),
    }
    assert all(hasattr(latent, name) for name in latent.__all__)


# The Gaussian posterior


@pytest.mark.parametrize(
    ("means", "trils", "points"),
    [
        ((), (), ()), ((), (), (5,)), ((4,), (), (4,)), ((4,), (4,), (4,)), ((4,), (4,), (7, 4)), ((4,), (4,), (7, 1)),
        ((2, 4), (), (3, 2, 4)), ((2, 4), (2, 4), (5, 3, 2, 4)), ((4,), (1,), (4,)), ((), (4,), (6, 1)),
        ((4,), (), (1,)), ((1,), (4,), ()),
    ],
)  # fmt: skip
def test_the_posterior_is_the_gaussian_of_torch(generator, means, trils, points):
    mean, tril, z = randn(generator, *means, 3), random_tril(generator, *trils), randn(generator, *points, 3)
    q, expected = GaussianPosterior(mean, tril), MultivariateNormal(mean, scale_tril=tril)
    close(q.log_prob(z), expected.log_prob(z), rtol=1e-12, atol=1e-12)
    close(q.entropy(), expected.entropy(), rtol=1e-12, atol=1e-12)
    standard = MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    close(q.kl_to_standard_normal(), kl_divergence(expected, standard), rtol=1e-11, atol=1e-12)
    close(q.cov, tril @ tril.mT)
    assert q.rsample(6, generator=generator).shape == (6, *expected.batch_shape, 3)


@pytest.mark.parametrize("trils", [(), (2,)])
def test_samples_have_the_moments(generator, trils):
    n = 200_000
    q = GaussianPosterior(randn(generator, 2, 3), random_tril(generator, *trils))
    samples = q.rsample(n, generator=generator)
    for i in range(2):
        cov = q.cov.expand(2, 3, 3)[i]
        deviations = cov.diagonal().sqrt()
        assert ((samples[:, i].mean(0) - q.mean[i]).abs() < 5 * deviations / n**0.5).all()
        assert ((samples[:, i].T.cov() - cov).abs() < 5 * torch.outer(deviations, deviations) * (2 / n) ** 0.5).all()
    log_p = q.log_prob(samples)
    close(log_p.mean(0), -q.entropy(), atol=5 * log_p.std().item() / n**0.5, rtol=0)
    shifts = torch.outer(samples[:, 0, 0] - q.mean[0, 0], torch.ones(1).double()) * (samples[:, 1] - q.mean[1])
    assert (shifts.mean(0).abs() < 5 * shifts.std(0) / n**0.5).all()  # members of a batch are independent


def test_the_diagonal_posterior(generator):
    mean, log_var = randn(generator, 5, 3), randn(generator, 5, 3)
    q, expected = GaussianPosterior.diagonal(mean, log_var), Independent(Normal(mean, (log_var / 2).exp()), 1)
    z = randn(generator, 2, 5, 3)
    close(q.log_prob(z), expected.log_prob(z))
    close(q.entropy(), expected.entropy())
    close(q.kl_to_standard_normal(), kl_to_standard_normal(mean, log_var))
    close(q.cov, log_var.exp().diag_embed())
    assert GaussianPosterior.diagonal(mean, log_var[0]).mean.shape == (5, 3)


def test_gradients_reach_mean_and_factor(generator):
    mean, log_var, tril = randn(generator, 2, 2), randn(generator, 2, 2), random_tril(generator, 2, m=2)
    z, weights = randn(generator, 3, 2, 2), randn(generator, 4, 2, 2)

    def values(q):
        sampled = q.rsample(4, generator=seeded(0))
        return q.log_prob(z), q.entropy(), q.kl_to_standard_normal(), (weights * sampled).sum(), q.log_prob(sampled)

    inputs = [t.requires_grad_() for t in (mean, log_var)]
    assert gradcheck(lambda mean, log_var: values(GaussianPosterior.diagonal(mean, log_var)), inputs)
    assert gradcheck(lambda tril: values(GaussianPosterior(mean.detach(), tril.tril())), tril.requires_grad_())
    assert gradcheck(
        lambda tril: values(GaussianPosterior(mean.detach(), tril.tril())), tril[0].detach().requires_grad_()
    )


def test_a_posterior_is_frozen(generator):
    q = GaussianPosterior(randn(generator, 2), torch.eye(2).double())
    with pytest.raises(FrozenInstanceError):
        q.mean = randn(generator, 2)


def test_samples_take_no_copies_of_the_factor(generator):
    """Of a batch of factors: S n m numbers are needed for S samples, and S n m m are not."""
    q = GaussianPosterior(torch.zeros(5, 20).double(), random_tril(generator, 5, m=20))
    with Largest() as largest:
        q.log_prob(q.rsample(300, generator=generator))
        q.log_prob(torch.zeros(300, 1, 20).double())
    assert largest.numel <= 300 * 5 * 20


# The model


def test_the_densities_are_those_of_torch(generator):
    model = GaussianLatentModel(dome, 2, 0.4)
    x, z = randn(generator, 5, 3), randn(generator, 7, 5, 2)
    prior = Independent(Normal(torch.zeros(2).double(), 1), 1).log_prob(z)
    conditional = Independent(Normal(dome(z), 0.4), 1).log_prob(x)
    assert conditional.shape == (7, 5)
    close(model.log_prior(z), prior)
    close(model.log_conditional(x, z), conditional)
    close(model.log_joint(x, z), prior + conditional)
    grid = randn(generator, 6, 1, 2)  # samples that serve all data
    close(
        model.log_conditional(x, grid), torch.stack([model.log_conditional(x, row.expand(5, 2)) for row in grid[:, 0]])
    )
    close(model.log_joint(x[0], z[0, 0]), (prior[0, 0] + model.log_conditional(x[0], z[0, 0])))


def test_a_linear_model_is_probabilistic_pca(generator):
    exact = random_ppca(generator)
    model = GaussianLatentModel(lambda z: z @ exact.W_.T + exact.mean_, 2, exact.noise_sd)
    x, z = exact.sample(6, generator=generator)
    for method in ("log_conditional", "log_joint"):
        close(getattr(model, method)(x, z), getattr(exact, method)(x, z))
    close(model.log_prior(z), exact.log_prior(z))
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.sample(3, generator=seeded(0)), exact.sample(3, generator=seeded(0)), strict=True)
    )


def test_samples_come_from_the_joint_density(generator):
    model = GaussianLatentModel(lambda z: 2 * z, 1, 0.5)
    n = 100_000
    x, z = model.sample(n, generator=generator, dtype=torch.float64)
    assert z.mean().item() == pytest.approx(0, abs=5 / n**0.5)
    assert z.var().item() == pytest.approx(1, abs=5 * (2 / n) ** 0.5)
    assert (x - 2 * z).std().item() == pytest.approx(0.5, abs=5 * 0.5 / (2 * n) ** 0.5)
    assert ((x - 2 * z) * z).mean().item() == pytest.approx(0, abs=5 * 0.5 / n**0.5)
    assert model.sample(0)[0].shape == (0, 1)


def test_dtype_and_device_of_samples(device):
    network = MLP((2, 4, 3), dtype=torch.float64, device=device)
    for model, settings_ in (
        (GaussianLatentModel(network, 2, 0.1), {}),
        (GaussianLatentModel(dome, 2, torch.tensor(0.1, dtype=torch.float64, device=device)), {}),
        (GaussianLatentModel(dome, 2, 0.1), {"dtype": torch.float64, "device": device}),
    ):
        for sample in model.sample(3, **settings_):
            assert (sample.dtype, sample.device.type) == (torch.float64, device.type)
    sample = GaussianLatentModel(dome, 2, 0.1).sample(3, generator=torch.Generator(device))[0]
    assert (sample.dtype, sample.device.type) == (torch.get_default_dtype(), device.type)


def test_gradients_reach_decoder_noise_and_z(generator):
    slope, noise_sd = torch.tensor(0.7).double().requires_grad_(), torch.tensor(0.4).double().requires_grad_()
    x, z = randn(generator, 3, 2), randn(generator, 3, 1).requires_grad_()

    def joint(slope, noise_sd, z):
        return GaussianLatentModel(lambda z: circle(slope * z), 1, noise_sd).log_joint(x, z)

    assert gradcheck(joint, (slope, noise_sd, z))


# Monte Carlo


@given(
    d=st.integers(1, 5),
    m=st.integers(1, 3),
    n_samples=st.integers(1, 9),
    log_noise=st.floats(-8, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_with_the_exact_posterior_every_sample_gives_the_answer(d, m, n_samples, log_noise, seed):
    model = random_ppca(seeded(seed), d, m, math.exp(log_noise))
    x = model.sample(4, generator=seeded(seed))[0]
    for chunk_size in (None, 1, 4):
        found = marginal_log_likelihood(
            model, x, n_samples, proposal=model.posterior(x), generator=seeded(seed), chunk_size=chunk_size
        )
        close(found, model.log_likelihood(x), rtol=1e-9, atol=1e-9)
    holes = x.clone()
    holes[0, 0] = math.nan  # a proposal with a factor for each datum, which is not the posterior of x
    if d > 1:
        many = marginal_log_likelihood(model, x, 5, proposal=model.posterior(holes), generator=seeded(seed))
        close(many[1:], model.log_likelihood(x)[1:], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["prior", "wide", "shifted"])
def test_the_mean_of_the_weights_is_unbiased(generator, kind):
    """The mean of many small estimates of p(x), against the exact value; the logarithm is too small on average."""
    model = random_ppca(generator, d=3, m=2, noise_var=0.5)
    x = model.sample(1, generator=generator)[0]
    posterior = model.posterior(x)
    if kind == "prior":  # whose samples serve a whole batch
        estimates = [marginal_log_likelihood(model, x, 20, generator=generator) for _ in range(2000)]
        estimates = torch.cat(estimates)
    else:
        data, tril = x.expand(20_000, 3), posterior.tril
        proposal = {
            "wide": GaussianPosterior(posterior.mean, 1.5 * tril),
            "shifted": GaussianPosterior((posterior.mean + 0.3).expand(20_000, 2), 1.2 * tril.expand(20_000, 2, 2)),
        }[kind]
        estimates = marginal_log_likelihood(model, data, 5, proposal=proposal, generator=generator)
        assert len(estimates.unique()) == 20_000
    logs = estimates - model.log_likelihood(x)
    for values, expected in ((logs.exp(), 1.0), (logs, None)):
        error = values.std() / len(values) ** 0.5
        assert error < 0.05
        if expected is not None:
            assert abs(values.mean() - expected) < 4 * error
        else:
            assert values.mean() < -4 * error


def test_samples_of_the_prior_make_a_density_of_x():
    """They serve all x, so that the estimate is a mixture of Gaussians, and its integral is 1."""
    model = GaussianLatentModel(circle, 1, 0.5)
    axis = torch.linspace(-5, 5, 201, dtype=torch.float64)
    x = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    density = marginal_log_likelihood(model, x, 3, generator=seeded(0)).exp()
    assert density.shape == (201, 201)
    assert density.sum().item() * (axis[1] - axis[0]).item() ** 2 == pytest.approx(1, abs=1e-12)


def test_more_samples_come_nearer(generator):
    model = GaussianLatentModel(circle, 1, 0.3)
    x = model.sample(20, generator=generator, dtype=torch.float64)[0]
    exact = marginal_by_quadrature(model, x)
    gaps = [
        (marginal_log_likelihood(model, x, n, generator=generator) - exact).abs().mean() for n in (10, 1000, 100_000)
    ]
    assert gaps[0] > 3 * gaps[1] > 9 * gaps[2]
    assert gaps[2] < 0.01


def test_far_below_the_smallest_number(generator):
    """Densities of exp(-40,000): only their logarithms exist."""
    model = random_ppca(generator, d=3, m=2, noise_var=1e-4)
    x = model.mean_ + torch.tensor([2.0, -2.0, 2.0])
    found = marginal_log_likelihood(model, x, 50, generator=generator)
    assert -1e7 < found < -1e3
    assert found < model.log_likelihood(x)


def test_memory_is_bounded(generator):
    """What the decoder is given at once, and what comes back."""
    seen = []

    def decoder(z):
        seen.append(z.shape)
        return z.repeat_interleave(20, -1)

    model = GaussianLatentModel(decoder, 1, 1.0)
    x = randn(generator, 1000, 20)
    proposal = GaussianPosterior(torch.zeros(1000, 1).double(), torch.eye(1).double())
    for q in (None, proposal):
        seen.clear()
        marginal_log_likelihood(model, x, 300, proposal=q, generator=generator)
        assert sum(shape[0] for shape in seen) == 300
        assert max(shape[0] for shape in seen) * x.numel() <= 2**20
        seen.clear()
        marginal_log_likelihood(model, x[:3], 10, proposal=q and model_part(q), generator=generator, chunk_size=4)
        assert [shape[0] for shape in seen] == [4, 4, 2]
    seen.clear()
    marginal_by_quadrature(model, x, 401)
    assert max(shape[0] for shape in seen) * x.numel() <= 2**20


def model_part(q):
    return GaussianPosterior(q.mean[:3], q.tril)


def test_generators(generator):
    model, x = random_ppca(generator), randn(generator, 3, 4)
    for q in (None, GaussianPosterior.diagonal(torch.zeros(3, 2).double(), torch.zeros(3, 2).double())):
        first, again, other = (
            marginal_log_likelihood(model, x, 40, proposal=q, generator=seeded(seed)) for seed in (0, 0, 1)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


# Quadrature and grids


@pytest.mark.parametrize(("d", "m"), [(1, 1), (3, 1), (2, 2), (4, 2)])
@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_quadrature_is_exact_for_linear_models(generator, d, m, batch):
    model = random_ppca(generator, d, m)
    x = model.mean_ + randn(generator, *batch, d)
    close(marginal_by_quadrature(model, x), model.log_likelihood(x), rtol=1e-12, atol=1e-12)


def test_quadrature_of_a_curve_against_scipy(generator):
    model = GaussianLatentModel(circle, 1, 0.2)
    x = model.sample(5, generator=generator, dtype=torch.float64)[0]
    for row, found in zip(x, marginal_by_quadrature(model, x), strict=True):

        def joint(z, row=row):
            gap = (row.numpy() - [math.cos(z), math.sin(z)]) / 0.2
            return math.exp(-0.5 * (gap @ gap + z * z)) / ((2 * math.pi) ** 1.5 * 0.2**2)

        exact = integrate.quad(joint, -9, 9, points=np.arange(-8, 9), limit=500, epsabs=1e-13)[0]
        assert found.item() == pytest.approx(math.log(exact), abs=1e-10)


def narrow(noise_sd, slope=1.0):
    return GaussianLatentModel(lambda z: slope * z, 1, noise_sd)


@pytest.mark.parametrize("x", [0.0, 0.004, 0.008, 1.0, 1.2345])
@pytest.mark.parametrize("noise_sd", [0.02, 0.012, 0.006, 0.003, 1e-3, 1e-5, 1e-9])
def test_a_grid_that_is_too_coarse_is_refused(x, noise_sd):
    """Whatever the place of a narrow posterior between the nodes, the answer is right, or there is none."""
    model, x = narrow(noise_sd), torch.tensor([x], dtype=torch.float64)
    spacing = 16 / 2000
    exact = ProbabilisticPCA.from_parameters(torch.ones(1, 1).double(), torch.zeros(1).double(), noise_sd**2)
    found, refusal = attempt(lambda: marginal_by_quadrature(model, x))
    if refusal:
        assert "too narrow for the grid" in refusal
        assert "raise n_nodes" in refusal
        assert noise_sd < 2 * spacing
    else:
        assert noise_sd > 0.5 * spacing
        assert found.item() == pytest.approx(exact.log_likelihood(x).item(), abs=1e-9)


def attempt(call):
    """What the call returns, and what it says if it refuses."""
    try:
        return call(), ""
    except ValueError as refused:
        return None, str(refused)


def test_more_nodes_and_reach_help():
    x = torch.tensor([1.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="raise n_nodes"):
        marginal_by_quadrature(narrow(0.003), x)
    exact = -0.5 * (math.log(2 * math.pi) + math.log(1 + 0.003**2) + 1 / (1 + 0.003**2))
    assert marginal_by_quadrature(narrow(0.003), x, 20_001).item() == pytest.approx(exact, abs=1e-12)
    far = torch.tensor([1.0, 9.5], dtype=torch.float64)[:, None]
    with pytest.raises(ValueError, match=r"the posterior of x\[1\] is not small at the ends of the grid: raise reach"):
        marginal_by_quadrature(narrow(0.1), far)
    found = marginal_by_quadrature(narrow(0.1), far, reach=12.0)[1]
    assert found.item() == pytest.approx(-0.5 * (math.log(2 * math.pi * 1.01) + 9.5**2 / 1.01), abs=1e-10)


def test_a_narrow_posterior_in_two_dimensions_is_refused():
    x = torch.tensor([0.5, 0.3], dtype=torch.float64)
    W = torch.tensor([[1.0, 0.0], [0.0, 30.0]], dtype=torch.float64)
    model = ProbabilisticPCA.from_parameters(W, torch.zeros(2).double(), 1.0)
    close(marginal_by_quadrature(model, x, 801), model.log_likelihood(x))
    with pytest.raises(ValueError, match="too narrow"):
        marginal_by_quadrature(model, x, 201)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_the_posterior_on_a_grid_is_the_exact_one(generator, batch):
    model = random_ppca(generator, m=1)
    x = model.sample(24, generator=generator)[0][: math.prod(batch)].reshape(*batch, 4)
    even = torch.linspace(-6, 6, 601, dtype=torch.float64)
    uneven = even + 0.005 * even.sin()
    exact = model.posterior(x)
    for axis, atol in ((even, 1e-12), (uneven, 2e-4)):
        density = posterior_on_grid(model, x, axis)
        assert density.shape == (601, *batch)
        z = axis.reshape(-1, *[1] * len(batch), 1)
        close(density, exact.log_prob(z.expand(601, *batch, 1)).exp(), rtol=0, atol=atol)
        close(torch.trapezoid(density, axis, dim=0), torch.ones(batch).double())
        assert torch.equal(density, posterior_on_grid(model, x, axis[:, None]))


def test_the_posterior_on_a_grid_of_two_dimensions(generator):
    model = random_ppca(generator, m=2)
    x = model.sample(3, generator=generator)[0]
    axes = torch.linspace(-6, 6, 201).double(), torch.linspace(-7, 5, 151).double()
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    density = posterior_on_grid(model, x, grid)
    assert density.shape == (201, 151, 3)
    close(density, model.posterior(x).log_prob(grid.unsqueeze(2)).exp(), rtol=0, atol=1e-8)
    close(torch.trapezoid(torch.trapezoid(density, axes[1], dim=1), axes[0], dim=0), torch.ones(3).double())


def test_a_grid_must_hold_the_posterior():
    x = torch.tensor([1.0], dtype=torch.float64)
    model = narrow(0.5)
    axis = torch.linspace(-3, 4, 101, dtype=torch.float64)
    assert posterior_on_grid(model, x, axis).shape == (101,)
    with pytest.raises(ValueError, match="the posterior of x is not small at the ends of the grid"):
        posterior_on_grid(model, x, axis[:60])
    with pytest.raises(ValueError, match="the posterior of x is too narrow for the grid"):
        posterior_on_grid(narrow(0.02), x, axis)
    for n in range(100, 104):  # also where it lies right on a node, or right between two
        with pytest.raises(ValueError, match="the posterior of x is too narrow for the grid"):
            posterior_on_grid(narrow(0.01), 0 * x, torch.linspace(-3, 3, n, dtype=torch.float64))


def test_metropolis_agrees_with_grid_and_exact_posterior(generator):
    """The three ways to a posterior that the chapter shows."""
    model = random_ppca(generator, d=3, m=2)
    x = model.sample(1, generator=generator)[0][0]
    exact = model.posterior(x)
    start = exact.rsample(200, generator=generator)
    chain = metropolis(lambda z: model.log_joint(x, z), start, 400, 0.8, generator=generator)
    means = chain.samples.mean(0)  # of each chain; they are independent
    assert ((means.mean(0) - exact.mean).abs() < 4 * means.std(0) / 200**0.5).all()
    shifts = chain.samples - exact.mean
    covs = (shifts.unsqueeze(-1) * shifts.unsqueeze(-2)).mean(0)
    assert ((covs.mean(0) - exact.cov).abs() < 4 * covs.std(0) / 200**0.5).all()


# Types and devices


def test_float32_follows_its_inputs(device):
    on_device = torch.Generator(device).manual_seed(0)
    model = ProbabilisticPCA.from_parameters(
        torch.tensor([[1.0], [2.0]], device=device), torch.zeros(2, device=device), 0.25
    )
    curve = GaussianLatentModel(circle, 1, 0.3)
    x = model.sample(5, generator=on_device)[0]
    q = GaussianPosterior.diagonal(torch.zeros(5, 1, device=device), torch.zeros(5, 1, device=device))
    results = [
        *(
            marginal_log_likelihood(m, x, 10, proposal=p, generator=on_device)
            for m in (model, curve)
            for p in (q, None)
        ),
        *(marginal_by_quadrature(m, x) for m in (model, curve)),
        *(posterior_on_grid(m, x, torch.linspace(-7, 7, 601, device=device)) for m in (model, curve)),
        *(q.rsample(2, generator=on_device), q.log_prob(torch.ones(3, 5, 1, device=device)), q.entropy(), q.cov),
        *(q.kl_to_standard_normal(), curve.log_joint(x, q.mean)),
    ]
    assert {(r.dtype, r.device.type) for r in results} == {(torch.float32, device.type)}
    close(marginal_by_quadrature(model, x), model.log_likelihood(x), atol=2e-5, rtol=1e-5)


def test_device_mistakes_are_caught_without_a_gpu():
    with FakeTensorMode():
        x = torch.randn(5, 3, device="cuda")
        model = ProbabilisticPCA.from_parameters(torch.randn(3, 2, device="cuda"), torch.zeros(3, device="cuda"), 0.1)
        curve = GaussianLatentModel(dome, 2, 0.1)
        q = GaussianPosterior(torch.zeros(5, 2, device="cuda"), torch.eye(2, device="cuda"))
        wide = GaussianPosterior.diagonal(torch.zeros(5, 2, device="cuda"), torch.zeros(5, 2, device="cuda"))
        z = wide.rsample(4)
        results = [*(q.log_prob(z), wide.log_prob(z), q.entropy(), wide.kl_to_standard_normal(), wide.cov)]
        for m in (model, curve):
            results += [m.log_joint(x, z), *m.sample(2, device="cuda")]
            results += [marginal_log_likelihood(m, x, 7, proposal=p, chunk_size=3) for p in (None, q, wide)]
        assert {r.device.type for r in results} == {"cuda"}
        for call in (
            lambda: q.rsample(2, generator=torch.Generator()),
            lambda: marginal_log_likelihood(model, x, 7, generator=torch.Generator()),
            lambda: model.sample(2, generator=torch.Generator()),
        ):
            with pytest.raises(ValueError, match=r"generator is on cpu and .* on cuda"):
                call()


def test_empty_batches():
    model = random_ppca(seeded(0))
    x = torch.zeros(0, 4, dtype=torch.float64)
    assert marginal_log_likelihood(model, x, 3).shape == (0,)
    assert model.posterior(x).entropy().shape == (0,)
    assert model.posterior(x).rsample(2).shape == (2, 0, 2)
    assert marginal_by_quadrature(model, x, 11).shape == (0,)


# Bad input

zero, eye = torch.zeros(2).double(), torch.eye(2).double()
x = torch.zeros(4, 3).double()
q = GaussianPosterior(zero, eye)
model = GaussianLatentModel(dome, 2, 0.5)
line = narrow(0.5)
axis = torch.linspace(-5, 5, 101).double()
BAD = ValueError


def replaced(tensor, index, value):
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


def posterior(mean, tril):
    made = object.__new__(GaussianPosterior)
    object.__setattr__(made, "mean", mean)
    object.__setattr__(made, "tril", tril)
    made.__post_init__()


def diagonal(mean, log_var):
    unchecked(GaussianPosterior.diagonal.__func__)(GaussianPosterior, mean, log_var)


def new_model(*arguments):
    unchecked(GaussianLatentModel.__init__)(object.__new__(GaussianLatentModel), *arguments)


def marginal(model=model, x=x, n_samples=3, **arguments):
    unchecked(marginal_log_likelihood)(model, x, n_samples, **arguments)


def quadrature(model=model, x=x, *arguments, **named):
    unchecked(marginal_by_quadrature)(model, x, *arguments, **named)


def conditional(x, z, model=model):
    unchecked(GaussianLatentModel.log_conditional)(model, x, z)


def on_grid(grid, model=line, x=x[:, :1]):
    unchecked(posterior_on_grid)(model, x, grid)


def batch_of(*shape):
    return GaussianPosterior(torch.zeros(*shape).double(), torch.eye(shape[-1]).double())


@pytest.mark.parametrize(
    ("call", "arguments", "error", "sentence"),
    [
        (posterior, ([0.0], eye), TypeError, "mean is a list: give a torch.Tensor"),
        (posterior, (zero, eye.float()), TypeError, "tril is torch.float32 but mean is torch.float64"),
        (posterior, (zero, torch.eye(3).double()), BAD, "tril has shape (3, 3): it must end in (2, 2)"),
        (posterior, (zero, replaced(eye, (0, 1), 0.5)), BAD, "tril is not lower triangular (entry [0, 1] is 0.5)"),
        (posterior, (zero, replaced(eye, (1, 1), 0.0)), BAD, "tril has 0 on its diagonal at row 1"),
        (posterior, (zero, replaced(eye, (1, 0), math.inf)), BAD, "tril[1, 0] is inf"),
        (posterior, (replaced(zero, 1, math.nan), eye), BAD, "mean[1] is nan"),
        (posterior, (torch.zeros(3, 2).double(), eye.expand(4, 2, 2)), BAD, "the batch shapes do not broadcast"),
        (diagonal, (zero, zero[:1]), BAD, "log_var has shape (1,): it must end in (2,)"),
        (diagonal, (zero, zero - 2000), BAD, "log_var lies between -2000 and -2000: its exponential leaves the range"),
        (diagonal, (zero, zero + 2000), BAD, "log_var lies between 2000 and 2000"),
        (diagonal, (zero, zero * math.nan), BAD, "log_var[0] is nan"),
        (q.rsample, (-1,), BAD, "n_samples is -1: the number of samples must be 0 or more"),
        (unchecked(GaussianPosterior.log_prob), (q, x), BAD, "mean has shape (2,): it must end in (3,)"),
        (unchecked(GaussianPosterior.log_prob), (q, zero * math.inf), BAD, "z[0] is nan"),
        (unchecked(GaussianPosterior.log_prob), (q, zero + 1e200), BAD, "the log-density is beyond the range"),
        (new_model, (3.0, 2, 0.5), TypeError, "decoder is a float: give a function of z, or a network"),
        (new_model, (dome, 0, 0.5), BAD, "latent_dim is 0: it must be 1 or more"),
        (new_model, (dome, 2, 0.0), BAD, "noise_sd is 0.0: it must be positive and finite"),
        (new_model, (dome, 2, torch.tensor(-1.0)), BAD, "noise_sd is -1.0"),
        (new_model, (dome, 2, math.nan), BAD, "noise_sd is nan"),
        (new_model, (dome, 2, math.inf), BAD, "noise_sd is inf"),
        (new_model, (dome, 2, torch.ones(3)), BAD, "noise_sd has shape (3,): give one number"),
        (unchecked(GaussianLatentModel.log_prior), (model, x), BAD, "z has shape (4, 3): its last dimension must"),
        (unchecked(GaussianLatentModel.log_prior), (model, [0.0]), TypeError, "z is a list"),
        (unchecked(GaussianLatentModel.log_prior), (model, zero * math.nan), BAD, "z[0] is nan"),
        (model.sample, (-1,), BAD, "n is -1"),
        (conditional, (x.float(), zero), TypeError, "z is torch.float64 but x is torch.float32"),
        (conditional, (x[:, :2], zero), BAD, "decoder returned shape (3,) for z of shape (2,), and x has shape (4, 2)"),
        (conditional, (x, torch.zeros(5, 2).double()), BAD, "x has shape (4, 3) and z (5, 2): for samples"),
        (conditional, (replaced(x, (1, 2), math.nan), zero), BAD, "x[1, 2] is nan"),
        (conditional, (x, zero * math.inf), BAD, "z[0] is nan"),
        (conditional, (x, zero + 1e200), BAD, "decoder(z)[2] is inf"),
        (conditional, (x + 1e200, zero), BAD, "the log-density is beyond the range of torch.float64"),
        (conditional, (x, zero, GaussianLatentModel(lambda z: z.sum(), 2, 1.0)), BAD, "decoder returned shape ()"),
        (marginal, (model, [0.0]), TypeError, "x is a list"),
        (marginal, (model, x[0, 0]), BAD, "x has shape (): it must end in the dimension d >= 1"),
        (marginal, (model, replaced(x, (0, 1), math.nan)), BAD, "x[0, 1] is nan"),
        (marginal, (model, x, 0), BAD, "n_samples is 0: give at least one"),
        (quadrature, (GaussianLatentModel(lambda z: z, 3, 1.0),), BAD, "latent_dim is 3: quadrature serves 1 or 2"),
        (quadrature, (model, x, 100), BAD, "n_nodes is 100: give an odd number from 5 on"),
        (quadrature, (model, x, 3), BAD, "n_nodes is 3"),
        (quadrature, (model, replaced(x, (0, 1), math.inf)), BAD, "x[0, 1] is inf"),
        (on_grid, ([0.0],), TypeError, "grid is a list"),
        (on_grid, (axis.float(),), TypeError, "grid is torch.float32 but x is torch.float64"),
        (on_grid, (axis.flip(0),), BAD, "axis 0 of grid is short or does not ascend: give at least 5"),
        (on_grid, (axis[:4],), BAD, "axis 0 of grid is short or does not ascend: give at least 5"),
        (on_grid, (replaced(axis, 3, math.nan),), BAD, "grid[3, 0] is nan"),
        (on_grid, (torch.zeros(9, 2).double(),), BAD, "grid has shape (9, 2) and latent_dim is 1: give (n) for one"),
        (on_grid, (axis, model, x), BAD, "grid has shape (101, 1) and latent_dim is 2"),
        (on_grid, (torch.rand(9, 9, 2).double(), model, x), BAD, "grid is not a product of two axes: make it as"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_a_sentence(call, arguments, error, sentence):
    with pytest.raises(error, match=re.escape(sentence)) as refused:
        call(*arguments)
    assert ": " in str(refused.value)


@pytest.mark.parametrize(
    ("named", "error", "sentence"),
    [
        ({"proposal": zero}, TypeError, "proposal is a Tensor: give a GaussianPosterior"),
        ({"proposal": batch_of(5, 2)}, BAD, "proposal.mean has shape (5, 2): for x of shape (4, 3) its batch must"),
        ({"proposal": batch_of(2, 4, 2)}, BAD, "proposal.mean has shape (2, 4, 2)"),
        ({"proposal": batch_of(4, 3)}, BAD, "its dimension must be latent_dim = 2"),
        ({"proposal": GaussianPosterior(zero, eye.expand(5, 2, 2))}, BAD, "proposal.tril has shape (5, 2, 2)"),
        ({"proposal": GaussianPosterior(zero.float(), eye.float())}, TypeError, "proposal.mean is torch.float32 but x"),
        ({"chunk_size": 0}, BAD, "chunk_size is 0: give at least one sample at a time"),
    ],
)
def test_bad_settings_are_refused(named, error, sentence):
    with pytest.raises(error, match=re.escape(sentence)):
        marginal(**named)
    with pytest.raises(ValueError, match="reach is 0: it must be positive and finite"):
        quadrature(reach=0)


def test_inputs_are_left_alone(generator):
    data, points = randn(generator, 3, 2), randn(generator, 5, 3, 1)
    before = data.clone(), points.clone()
    curve = GaussianLatentModel(circle, 1, 0.3)
    curve.log_joint(data, points)
    marginal_by_quadrature(curve, data)
    marginal_log_likelihood(curve, data, 3, proposal=GaussianPosterior(points[0], torch.eye(1).double()))
    assert torch.equal(data, before[0])
    assert torch.equal(points, before[1])
    assert latent_models.GaussianPosterior is GaussianPosterior
