"""Metropolis against quadrature and exact probabilities, and its diagnostics against processes whose answer is known.

Every comparison with simulation has an error bar. Those of chains come from the effective sample size, which has tests
of its own; single steps of many chains are independent, and need none.
"""

import inspect
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from torch._subclasses import FakeTensorMode

from course_lib.sampling import autocorrelation, effective_sample_size, metropolis

unchecked = inspect.unwrap
close = torch.testing.assert_close


def randn(generator, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=generator, dtype=dtype)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def standard_normal(z):
    return -0.5 * z.square().sum(-1)


def zeros(*shape):
    return torch.zeros(*shape, dtype=torch.float64)


# One step: what is accepted, and where the chain is afterwards


@pytest.mark.parametrize(("at", "step_sd"), [(0.0, 1.0), (0.7, 2.5), (-2.5, 1.3)])
def test_one_step_moves_with_the_right_probability(at, step_sd):
    """Chains that all start at one point: how many move, and how their squares change, against quadrature."""
    n = 100_000
    chain = metropolis(standard_normal, torch.full((n, 1), at, dtype=torch.float64), 1, step_sd, generator=seeded(0))
    end = chain.samples[0, :, 0]

    def moving(f):
        density = stats.norm(at, step_sd).pdf
        points = [-abs(at), abs(at)]  # where the smaller of 1 and the ratio has a corner
        return integrate.quad(
            lambda z: f(z) * min(1.0, math.exp((at**2 - z**2) / 2)) * density(z), -20, 20, points=points, limit=200
        )[0]

    moved = (end != at).double()
    assert moved.mean().item() == pytest.approx(moving(lambda z: 1.0), abs=4 * moved.std().item() / n**0.5)
    assert torch.equal(chain.acceptance, moved)
    gained = end.square() - at**2
    expected = moving(lambda z: z**2 - at**2)
    assert gained.mean().item() == pytest.approx(expected, abs=4 * gained.std().item() / n**0.5)


@pytest.mark.parametrize("step_sd", [0.5, 3.0])
def test_a_step_leaves_the_target_alone(generator, step_sd):
    """Started with exact samples, chains still have the target's distribution after a few steps."""

    def log_density(z):  # gamma, with a wall at zero
        return torch.where(z[:, 0] > 0, 2 * z[:, 0].clamp(min=1e-300).log() - z[:, 0], -math.inf)

    start = randn(generator, 40_000, 6).square().sum(-1, keepdim=True) / 2  # gamma with shape 3: half of chi squared
    chain = metropolis(log_density, start, 3, step_sd, generator=generator)
    assert 0.1 < chain.acceptance.mean() < 0.95
    for samples in chain.samples:
        assert stats.kstest(samples[:, 0].numpy(), stats.gamma(3).cdf).pvalue > 1e-4


def test_detailed_balance():
    """A density of three steps: the chain is in each as often as its weight says, and goes to and fro equally often."""
    generator = seeded(0)
    weights = torch.tensor([1.0, 5.0, 2.0], dtype=torch.float64)

    def log_density(z):
        outside = (z < 0) | (z >= 3)
        return torch.where(outside, -math.inf, weights.log()[z.clamp(0, 2.999).long()]).squeeze(-1)

    n_chains, n_steps = 2000, 100
    start = torch.multinomial(weights, n_chains, replacement=True, generator=generator).double()[:, None]
    start += torch.rand(start.shape, generator=generator, dtype=torch.float64)
    chain = metropolis(log_density, start, n_steps, 0.8, generator=generator)
    bins = torch.cat((start[None], chain.samples)).squeeze(-1).long()
    assert ((bins >= 0) & (bins < 3)).all()
    for j in range(3):
        share = (bins == j).double().mean(0)  # of each chain; chains are independent
        expected = (weights[j] / weights.sum()).item()
        assert share.mean().item() == pytest.approx(expected, abs=4 * share.std().item() / n_chains**0.5)
    for i, j in ((0, 1), (1, 2), (0, 2)):
        there = ((bins[:-1] == i) & (bins[1:] == j)).double().sum(0)
        back = ((bins[:-1] == j) & (bins[1:] == i)).double().sum(0)
        assert there.sum() > 500
        assert abs((there - back).mean()) < 4 * (there - back).std() / n_chains**0.5 + 1 / n_chains


# Whole chains


def with_error_bar(values):
    """The mean over all chains of a function of the samples (n, chains), and its standard error."""
    size = effective_sample_size(values.unsqueeze(-1)).item()
    return values.mean().item(), values.std().item() / size**0.5


def test_a_correlated_gaussian(generator):
    mean, cov = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([[1.0, 0.8], [0.8, 2.0]]).double()
    precision = cov.inverse()

    def log_density(z):
        return -0.5 * ((z - mean) @ precision * (z - mean)).sum(-1) + 17.0  # any constant

    start = mean + 2 * randn(generator, 20, 2)
    chain = metropolis(log_density, start, 4000, 1.5, generator=generator, burn_in=200)
    assert chain.samples.shape == (4000, 20, 2)
    shift = chain.samples - mean
    checked = 0
    for i in range(2):
        value, error = with_error_bar(shift[..., i])
        assert value == pytest.approx(0, abs=4 * error)
        for j in range(2):
            value, error = with_error_bar(shift[..., i] * shift[..., j])
            assert value == pytest.approx(cov[i, j].item(), abs=4 * error)
            checked += error < 0.1
        for level in (0.05, 0.5, 0.9):
            below = shift[..., i] < stats.norm.ppf(level) * cov[i, i].item() ** 0.5
            value, error = with_error_bar(below.double())
            assert value == pytest.approx(level, abs=4 * error)
            assert error < 0.01
    assert checked == 4


def banana(z):
    return -0.5 * (z[..., 0] ** 2 + 4 * (z[..., 1] - 0.5 * z[..., 0] ** 2) ** 2)


def two_hills(z):
    centre = z.new_tensor([1.5, 0.0])
    return torch.logaddexp(-2 * (z - centre).square().sum(-1), math.log(0.5) - 2 * (z + centre).square().sum(-1))


@pytest.mark.parametrize(("log_density", "step_sd"), [(banana, 1.2), (two_hills, [2.0, 0.8])])
def test_a_target_that_is_no_gaussian(generator, log_density, step_sd):
    axes = torch.linspace(-5, 5, 401).double(), torch.linspace(-4, 16, 401).double()
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    density = log_density(grid).exp()
    step_sd = torch.tensor(step_sd, dtype=torch.float64)
    start = 0.5 * randn(generator, 30, 2)
    chain = metropolis(log_density, start, 4000, step_sd, generator=generator, burn_in=200)
    for f in (
        lambda z: z[..., 0],
        lambda z: z[..., 1],
        lambda z: z[..., 0] ** 2,
        lambda z: (z[..., 0] > 0.5).double(),
        lambda z: (z[..., 1] < z[..., 0]).double(),
    ):
        expected = ((f(grid) * density).sum() / density.sum()).item()
        value, error = with_error_bar(f(chain.samples))
        assert value == pytest.approx(expected, abs=4 * error + 0.004)  # the grid sees an indicator this well
        assert error < 0.05


def test_rejected_states_count_again(generator):
    chain = metropolis(standard_normal, zeros(5, 1), 200, 3.0, generator=generator)
    stayed = (chain.samples.diff(dim=0) == 0).squeeze(-1).double().mean(0)
    close(1 - stayed, chain.acceptance, atol=0.01, rtol=0)
    assert (stayed > 0.3).all()


# Its arguments


def test_burn_in_cuts_off_the_beginning():
    whole = metropolis(standard_normal, zeros(3, 2) + 9, 700, 0.9, generator=seeded(1))
    for burn_in in (1, 255, 256, 300, 699):
        part = metropolis(standard_normal, zeros(3, 2) + 9, 700 - burn_in, 0.9, generator=seeded(1), burn_in=burn_in)
        assert torch.equal(part.samples, whole.samples[burn_in:])
        changed = (whole.samples[burn_in:] != whole.samples[burn_in - 1 : -1]).any(-1).double().mean(0)
        close(part.acceptance, changed)
    assert metropolis(standard_normal, zeros(2), 0, 1.0, burn_in=3).samples.shape == (0, 2)


def test_a_longer_run_begins_like_a_shorter_one():
    long = metropolis(standard_normal, zeros(3, 2), 600, 0.9, generator=seeded(1)).samples
    for n_steps in (1, 100, 256, 257):
        assert torch.equal(
            metropolis(standard_normal, zeros(3, 2), n_steps, 0.9, generator=seeded(1)).samples, long[:n_steps]
        )


def test_the_generator_decides_and_inputs_are_left_alone():
    start = zeros(4, 2)
    runs = [metropolis(standard_normal, start, 50, 1.0, generator=seeded(seed)).samples for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert torch.equal(start, zeros(4, 2))
    assert (runs[0][:, 0] != runs[0][:, 1]).any(), "chains differ"


def test_each_coordinate_has_its_step():
    step_sd = torch.tensor([1e-3, 1.0], dtype=torch.float64)
    chain = metropolis(lambda z: 0 * z[..., 0], zeros(200, 2), 50, step_sd, generator=seeded(0))
    close(chain.samples.diff(dim=0).flatten(0, 1).std(0), step_sd, rtol=0.05, atol=0)
    assert (chain.acceptance == 1).all()


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_dtypes_and_gradients(device, batch, dtype):
    start = torch.zeros(*batch, 2, dtype=dtype, device=device, requires_grad=True)
    chain = metropolis(standard_normal, start, 7, 1.0, generator=torch.Generator(device).manual_seed(0))
    assert chain.samples.shape == (7, *batch, 2)
    assert chain.acceptance.shape == batch
    for result in (*chain, effective_sample_size(chain.samples), autocorrelation(chain.samples, 3)):
        assert (result.dtype, result.device.type, result.requires_grad) == (dtype, device.type, False)


# Autocorrelation and effective sample size


def autoregressive(generator, rho, *shape):
    """z_t = rho z_(t-1) + noise, in equilibrium: its autocorrelation at lag t is rho^t."""
    noise = randn(generator, *shape)
    steps = [noise[0]]
    for term in noise[1:]:
        steps.append(rho * steps[-1] + (1 - rho**2) ** 0.5 * term)
    return torch.stack(steps)


def test_autocorrelation_is_its_definition(generator):
    samples = randn(generator, 50, 3, 2).cumsum(0)
    found = autocorrelation(samples, 49)
    x = samples.numpy() - samples.numpy().mean(0)
    for lag in range(50):
        expected = (x[: 50 - lag] * x[lag:]).sum(0) / (x * x).sum(0)
        np.testing.assert_allclose(found[lag].numpy(), expected, atol=1e-13)
    close(autocorrelation(samples[:, 0, 0], 5), found[:6, 0, 0])


def test_autocorrelation_of_an_autoregressive_process(generator):
    found = autocorrelation(autoregressive(generator, 0.8, 20_000, 20), 5).mean(1)
    close(found, 0.8 ** torch.arange(6).double(), atol=0.01, rtol=0)


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.6, 0.95])
@pytest.mark.parametrize("n_chains", [1, 4])
def test_effective_sample_size_of_an_autoregressive_process(generator, rho, n_chains):
    """n (1 - rho) / (1 + rho), from the sum of all rho^|t|."""
    sizes = effective_sample_size(autoregressive(generator, rho, 20_000, n_chains, 30))
    expected = 20_000 * n_chains * (1 - rho) / (1 + rho)
    assert sizes.shape == (30,)
    assert sizes.mean().item() == pytest.approx(expected, rel=0.05)
    assert (sizes / expected - 1).abs().max() < 0.5


def ess_by_loops(samples):
    """Geyer's rule as Stan prints it, for one coordinate (chains, n), with plain sums."""
    n_chains, n = samples.shape
    acov = np.zeros((n_chains, n))
    for c in range(n_chains):
        x = samples[c] - samples[c].mean()
        for t in range(n):
            acov[c, t] = np.dot(x[: n - t], x[t:]) / n
    within = acov[:, 0].mean() * n / (n - 1)
    var_plus = within * (n - 1) / n + (samples.mean(1).var(ddof=1) if n_chains > 1 else 0)
    rho = 1 - (within * (n - 1) / n - acov.mean(0)) / var_plus
    rho[0], total, previous = 1.0, 0.0, math.inf
    for k in range(0, n - n % 2, 2):
        pair = rho[k] + rho[k + 1]
        if pair <= 0:
            break
        previous = min(previous, pair)
        total += previous
    return n_chains * n / max(2 * total - 1, 1 / math.log10(n_chains * n))


@given(n=st.integers(4, 60), n_chains=st.integers(1, 4), rho=st.floats(-0.9, 0.99), seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_effective_sample_size_is_its_definition(n, n_chains, rho, seed):
    samples = autoregressive(seeded(seed), rho, n, n_chains, 1)
    expected = ess_by_loops(samples.squeeze(-1).T.numpy())
    assert effective_sample_size(samples).item() == pytest.approx(expected, rel=1e-9)
    close(effective_sample_size(3 * samples - 7), effective_sample_size(samples), rtol=1e-6, atol=0)


def test_chains_that_disagree_are_worth_little(generator):
    samples = randn(generator, 1000, 4, 1)
    assert effective_sample_size(samples) > 3000
    samples[:, :2] += 5
    assert effective_sample_size(samples) < 20
    assert effective_sample_size(samples[:, :2]) > 1500


def test_an_effective_sample_size_has_an_upper_bound():
    """Alternating samples have a sum of correlations that is nearly zero."""
    there_and_back = torch.tensor([1.0, -1.0]).double().repeat(500)[:, None]
    assert effective_sample_size(there_and_back).item() == pytest.approx(1000 * math.log10(1000))


# Devices, and bad input


def test_device_mistakes_are_caught_without_a_gpu():
    with FakeTensorMode():
        start = torch.zeros(3, 2, device="cuda")
        chain = metropolis(standard_normal, start, 4, 1.0)
        assert {result.device.type for result in chain} == {"cuda"}
        assert [tuple(result.shape) for result in chain] == [(4, 3, 2), (3,)]
        with pytest.raises(ValueError, match="generator is on cpu and start on cuda"):
            metropolis(standard_normal, start, 4, 1.0, generator=torch.Generator())


z = zeros(3, 2)
walk = torch.arange(12.0, dtype=torch.float64).reshape(6, 2).sin()
BAD = ValueError


def starts(**changed):
    arguments = {"log_density": standard_normal, "start": z, "n_steps": 5, "step_sd": 1.0} | changed
    return metropolis, arguments


def replaced(tensor, index, value):
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (starts(start=[0.0]), TypeError, "start is a list: give a torch.Tensor"),
        (starts(start=z.long()), TypeError, "start has dtype torch.int64: give float32 or float64"),
        (starts(start=z[0, 0]), BAD, "start has shape (): it must end in the dimension m >= 1"),
        (starts(start=z[:, :0]), BAD, "start has shape (3, 0)"),
        (starts(start=replaced(z, (1, 0), math.nan)), BAD, "start[1, 0] is nan"),
        (starts(n_steps=-1), BAD, "n_steps is -1: it must be 0 or more"),
        (starts(burn_in=-2), BAD, "burn_in is -2"),
        (starts(step_sd=0.0), BAD, "step_sd is 0.0: it must be positive and finite"),
        (starts(step_sd=torch.tensor([1.0, -1.0])), BAD, "step_sd is [1.0, -1.0]"),
        (starts(step_sd=math.inf), BAD, "step_sd is inf"),
        (starts(step_sd=torch.ones(3)), BAD, "step_sd has shape (3,): give one number, or one for each of the 2"),
        (starts(log_density=lambda z: 0.0), BAD, "log_density returned float for states of shape (3, 2)"),
        (starts(log_density=lambda z: -(z**2)), BAD, "log_density returned (3, 2) for states of shape (3, 2): it must"),
        (starts(log_density=lambda z: -z.sum()), BAD, "it must return one number for each state, shape (3,)"),
        (starts(log_density=lambda z: z[:, 0].log()), BAD, "log_density at start[0] is -inf: start where"),
        (starts(log_density=lambda z: z[:, 0] * math.nan), BAD, "log_density at start[0] is nan"),
        (starts(log_density=lambda z: (z[:, 0] == 0) / (z[:, 0] == 0)), BAD, "log_density returned nan for the prop"),
        (starts(log_density=lambda z: torch.where(z[:, 0] == 0, 0.0, math.inf)), BAD, "in step 0: return -inf where"),
        ((autocorrelation, {"samples": [1.0], "max_lag": 0}), TypeError, "samples is a list"),
        ((autocorrelation, {"samples": walk, "max_lag": 6}), BAD, "max_lag is 6: with 6 samples the lags are 0 to 5"),
        ((autocorrelation, {"samples": walk, "max_lag": -1}), BAD, "max_lag is -1"),
        ((autocorrelation, {"samples": walk[:0], "max_lag": 0}), BAD, "samples has shape (0, 2): it must be (n, *rest"),
        ((autocorrelation, {"samples": walk * 0, "max_lag": 2}), BAD, "samples[:, 0] never changes"),
        ((autocorrelation, {"samples": replaced(walk, 1, 9.9) * math.nan, "max_lag": 1}), BAD, "samples[0, 0] is nan"),
        ((effective_sample_size, {"samples": walk[:, 0]}), BAD, "samples has shape (6,): it must be (n, *chains, m)"),
        ((effective_sample_size, {"samples": walk[:3]}), BAD, "samples has 3 steps: give at least 4"),
        ((effective_sample_size, {"samples": torch.stack((walk[:, 0], 0 * walk[:, 0]), 1)}), BAD, "samples[:, 1] nev"),
        ((effective_sample_size, {"samples": replaced(walk, (2, 1), math.inf)}), BAD, "samples[2, 1] is inf"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_a_sentence(call, error, sentence):
    function, arguments = call
    with pytest.raises(error, match=re.escape(sentence)) as refused:
        unchecked(function)(**arguments)
    assert ": " in str(refused.value)


def test_a_bad_density_is_found_in_the_step_that_met_it():
    def log_density(z):
        return torch.where(z[..., 0] > 3, math.nan, -z[..., 0].abs())

    start = zeros(4, 1)
    with pytest.raises(ValueError, match=r"nan for the proposal of chain\[\d\] in step \d+") as refused:
        metropolis(log_density, start, 5000, 1.0, generator=seeded(0), burn_in=7)
    step = int(re.search(r"step (\d+)", str(refused.value)).group(1))
    assert metropolis(log_density, start, step, 1.0, generator=seeded(0)).samples.max() <= 3
