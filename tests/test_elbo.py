"""The bounds against the exact model and torch.distributions, the gradients against closed forms and autograd.

Statistical tests have fixed seeds and wide error bars. Tests of wrong shapes call the function without its shape
annotations (`unchecked`): conftest.py has jaxtyping check them, so it would speak first.
"""

import inspect
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from course_lib import elbo as module
from course_lib.elbo import (
    elbo,
    exact_elbo,
    importance_weighted_bound,
    minibatch_elbo,
    pathwise_gradient,
    score_function_gradient,
)
from course_lib.latent import GaussianLatentModel, GaussianPosterior, ProbabilisticPCA

unchecked = inspect.unwrap
close = torch.testing.assert_close
both_forms = pytest.mark.parametrize("form", ["kl", "joint"])
both_gradients = pytest.mark.parametrize("estimator", [pathwise_gradient, score_function_gradient])
F64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def linear_model(d=4, m=2, N=3, seed=0, dtype=F64, device=None):
    """A model, N data and a q for each datum."""
    generator = seeded(seed)

    def randn(*shape):
        return torch.randn(shape, generator=generator, dtype=F64)

    tril = 0.5 * randn(N, m, m).tril(-1) + torch.diag_embed(0.5 + randn(N, m).abs())
    tensors = randn(d, m), randn(d), 1.5 * randn(N, d), randn(N, m), tril
    W, mu, x, mean, tril = (t.to(device=device, dtype=dtype) for t in tensors)
    return ProbabilisticPCA.from_parameters(W, mu, 0.6), x, GaussianPosterior(mean, tril)


def curved(noise_sd=0.7):
    return GaussianLatentModel(lambda z: torch.cat((z, z.square()), -1), 1, noise_sd)


def gap(model, x, q):
    """KL(q || posterior) by torch.distributions, from the posterior in textbook form."""
    W, var = model.W_, model.noise_var_
    G = W.T @ W + var * torch.eye(W.shape[1], dtype=W.dtype)
    mean = torch.linalg.solve(G, W.T @ (x - model.mean_).mT).mT
    return kl_divergence(
        MultivariateNormal(q.mean, scale_tril=q.tril, validate_args=False),
        MultivariateNormal(mean, var * torch.linalg.inv(G), validate_args=False),
    )


def log_evidence(model, x):
    C = model.W_ @ model.W_.T + model.noise_var_ * torch.eye(len(model.mean_), dtype=x.dtype)
    return MultivariateNormal(model.mean_, C, validate_args=False).log_prob(x)


def log_weights(model, x, q, z):
    """log p(x, z) - log q(z), by torch.distributions."""
    prior = Normal(torch.zeros_like(z), 1.0).log_prob(z).sum(-1)
    conditional = Normal(model.decoder(z), model.noise_sd).log_prob(x).sum(-1)
    return conditional + prior - MultivariateNormal(q.mean, scale_tril=q.tril).log_prob(z)


def agrees(samples, expected, errors=4.5):
    """Whether the mean over the first dimension is the expected one, but for its error bar."""
    error = samples.std(0) / len(samples) ** 0.5
    assert ((samples.mean(0) - expected).abs() <= errors * error + 1e-12).all(), (samples.mean(0), expected, error)


# --- the exact bound ---


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), d=st.integers(1, 6), m=st.integers(1, 4), N=st.integers(1, 4))
def test_evidence_is_bound_plus_gap(seed, d, m, N):
    model, x, q = linear_model(d, m, N, seed)
    bound, evidence = exact_elbo(model, x, q), log_evidence(model, x)
    close(bound + gap(model, x, q), evidence, rtol=1e-10, atol=1e-10)
    assert (bound <= evidence).all()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), d=st.integers(1, 6), m=st.integers(1, 4))
def test_no_gap_at_the_posterior(seed, d, m):
    model, x, _ = linear_model(d, m, seed=seed)
    close(exact_elbo(model, x, model.posterior(x)), log_evidence(model, x), rtol=1e-10, atol=1e-10)


def test_the_bound_is_highest_at_the_posterior():
    model, x, _ = linear_model(N=1)
    best = model.posterior(x)
    mean, tril = best.mean.clone().requires_grad_(), best.tril.expand(1, 2, 2).clone().requires_grad_()
    grads = torch.autograd.grad(exact_elbo(model, x, GaussianPosterior(mean, tril)).sum(), (mean, tril))
    assert grads[0].abs().max() < 1e-12
    assert grads[1].tril().abs().max() < 1e-12


def test_the_known_numbers_of_the_toy():
    """w = 1, sigma = 0.75, x = 1.25: by hand."""
    one = torch.ones(1, 1, dtype=F64)
    model = ProbabilisticPCA.from_parameters(one, torch.zeros(1, dtype=F64), 0.75**2)
    x = 1.25 * one
    for mean, sd, bound in ((0.8, 0.6, -1.6420820845188826), (0.0, 1.0, -2.9090342385306696)):
        q = GaussianPosterior(mean * one[0], sd * one)
        assert exact_elbo(model, x, q).item() == pytest.approx(bound, abs=1e-13)


def test_one_q_for_all_data():
    model, x, q = linear_model(N=5)
    one = GaussianPosterior(q.mean[0], q.tril[0])
    repeated = GaussianPosterior(q.mean[0].expand(5, 2), q.tril[0].expand(5, 2, 2))
    close(exact_elbo(model, x, one), exact_elbo(model, x, repeated))
    same = x[:1].expand(5, 4)
    for values in (
        elbo(model, same, one, generator=seeded()),
        importance_weighted_bound(model, same, one, 3, generator=seeded()),
    ):
        assert values.shape == (5,)
        assert len(values.unique()) == 5  # each datum has samples of its own


def test_a_single_datum_and_a_grid_of_data():
    model, x, q = linear_model(N=6)
    for shape in ((2, 3), (6,)):
        q_shaped = GaussianPosterior(q.mean.reshape(*shape, 2), q.tril.reshape(*shape, 2, 2))
        close(exact_elbo(model, x.reshape(*shape, 4), q_shaped).flatten(), exact_elbo(model, x, q))
        assert elbo(model, x.reshape(*shape, 4), q_shaped, 7).shape == shape
    single = GaussianPosterior(q.mean[0], q.tril[0])
    assert exact_elbo(model, x[0], single).shape == elbo(model, x[0], single).shape == ()
    assert importance_weighted_bound(model, x[0], single, 4, n_repeats=3).shape == (3,)


# --- estimates of the bound ---


def test_both_forms_equal_torch_distributions_on_the_same_samples():
    model, x, q = linear_model()
    z = q.rsample(6, generator=seeded(3))
    close(elbo(model, x, q, 6, form="joint", generator=seeded(3)), log_weights(model, x, q, z).mean(0))
    conditional = Normal(model.decoder(z), model.noise_sd).log_prob(x).sum(-1).mean(0)
    prior = MultivariateNormal(torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
    divergence = kl_divergence(MultivariateNormal(q.mean, scale_tril=q.tril), prior)
    close(elbo(model, x, q, 6, form="kl", generator=seeded(3)), conditional - divergence)


@both_forms
@pytest.mark.parametrize("n_samples", [1, 10])
def test_unbiased(form, n_samples):
    model, x, q = linear_model(N=1)
    n = 20_000
    many = GaussianPosterior(q.mean.expand(n, 2), q.tril[0])
    runs = elbo(model, x.expand(n, 4), many, n_samples, form=form, generator=seeded(1))
    agrees(runs, exact_elbo(model, x, q)[0])


def test_more_samples_vary_less():
    model, x, q = linear_model(N=1)
    many = GaussianPosterior(q.mean.expand(4000, 2), q.tril[0])
    one, hundred = (elbo(model, x.expand(4000, 4), many, n, generator=seeded(2)).var() for n in (1, 100))
    assert 80 < one / hundred < 125


def test_at_the_posterior_one_sample_is_enough_in_the_joint_form():
    model, x, _ = linear_model()
    q = model.posterior(x)
    close(elbo(model, x, q, form="joint", generator=seeded()), log_evidence(model, x), rtol=1e-11, atol=1e-11)
    assert (elbo(model, x, q, form="kl", generator=seeded()) - log_evidence(model, x)).abs().min() > 1e-3


@both_forms
def test_a_curved_decoder_against_its_moments(form):
    model, n, mu, v, sd = curved(), 50_000, 0.4, 0.5, 0.7
    x = torch.tensor([0.3, 1.1], dtype=F64)
    misfit = (0.3 - mu) ** 2 + v + 1.1**2 - 2 * 1.1 * (mu**2 + v) + mu**4 + 6 * mu**2 * v + 3 * v**2
    exact = -math.log(2 * math.pi * sd**2) - misfit / (2 * sd**2) - 0.5 * (mu**2 + v - 1 - math.log(v))
    q = GaussianPosterior(torch.tensor([mu], dtype=F64), torch.tensor([[v**0.5]], dtype=F64))
    agrees(elbo(model, x.expand(n, 2), q, form=form, generator=seeded(4)), exact)


@both_forms
def test_gradients_reach_q_and_are_unbiased(form):
    """Of the mean and the factor of q, against autograd through the exact bound."""
    model, x, q = linear_model(N=1)
    n = 20_000
    exact_parameters = [t[0].clone().requires_grad_() for t in (q.mean, q.tril)]
    exact = torch.autograd.grad(exact_elbo(model, x[0], GaussianPosterior(*exact_parameters)), exact_parameters)
    mean, tril = q.mean.repeat(n, 1).requires_grad_(), q.tril.repeat(n, 1, 1).requires_grad_()
    bound = elbo(model, x.expand(n, 4), GaussianPosterior(mean, tril), form=form, generator=seeded(5))
    for rows, expected in zip(torch.autograd.grad(bound.sum(), (mean, tril)), exact, strict=True):
        agrees(rows.tril() if rows.ndim == 3 else rows, expected.tril() if rows.ndim == 3 else expected)


def test_gradients_reach_the_model():
    model, x, q = linear_model()
    W = model.W_.clone().requires_grad_()
    model = ProbabilisticPCA.from_parameters(W, model.mean_, model.noise_var_)
    for bound in (
        exact_elbo(model, x, q), elbo(model, x, q, 3, generator=seeded()),
        importance_weighted_bound(model, x, q, 3, generator=seeded()),
    ):  # fmt: skip
        assert torch.autograd.grad(bound.sum(), W)[0].abs().min() > 0


# --- importance weights ---


def test_weighted_bound_equals_torch_distributions_on_the_same_samples():
    model, x, q = linear_model()
    z = q.rsample(8, generator=seeded(6))
    expected = log_weights(model, x, q, z).exp().mean(0).log()
    close(importance_weighted_bound(model, x, q, 8, generator=seeded(6)), expected)
    repeats = importance_weighted_bound(model, x, q, 4, n_repeats=2, generator=seeded(6))
    halves = log_weights(model, x, q, z).exp().reshape(2, 4, 3).mean(1).log()
    close(repeats, halves)


def test_one_weight_is_the_joint_form():
    model, x, q = linear_model()
    close(
        importance_weighted_bound(model, x, q, 1, generator=seeded()),
        elbo(model, x, q, form="joint", generator=seeded()),
    )


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_between_the_smallest_and_the_largest_weight(seed):
    model, x, q = linear_model(seed=seed)
    z = q.rsample(9, generator=seeded(seed))
    weights = log_weights(model, x, q, z)
    bound = importance_weighted_bound(model, x, q, 9, generator=seeded(seed))
    assert (bound <= weights.amax(0) + 1e-9).all()
    assert (bound >= weights.mean(0) - 1e-9).all()  # Jensen


def test_ordered_with_error_bars_and_below_the_evidence():
    model, x, _ = linear_model(N=1)
    posterior = model.posterior(x)
    q = GaussianPosterior(posterior.mean + 0.3, 1.3 * posterior.tril)
    evidence, lower = log_evidence(model, x).item(), exact_elbo(model, x, q).item()
    for M in (1, 5, 50, 500):
        runs = importance_weighted_bound(model, x, q, M, n_repeats=4000, generator=seeded(M))[:, 0]
        error = runs.std().item() / len(runs) ** 0.5
        if M == 1:
            assert runs.mean().item() == pytest.approx(lower, abs=4 * error)
        else:
            assert runs.mean().item() > lower + 4 * error
        assert runs.mean().item() < evidence + 4 * error
        lower = runs.mean().item()
    assert evidence - lower < 5e-3


def test_all_weights_are_equal_at_the_posterior():
    model, x, _ = linear_model()
    bound = importance_weighted_bound(model, x, model.posterior(x), 5, n_repeats=4, generator=seeded())
    close(bound, log_evidence(model, x).expand(4, 3), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_weights_that_underflow(dtype):
    """In 3000 dimensions every weight is 0 in float32 and in float64; the logarithms are not."""
    model, x, q = linear_model(d=3000, dtype=dtype)
    bound = importance_weighted_bound(model, x, q, 10, generator=seeded())
    assert bound.dtype is dtype
    assert bound.exp().max() == 0
    assert bound.isfinite().all()


def test_draws_in_parts(monkeypatch):
    """What is too much for one go is drawn in parts, which are independent."""
    model, x, q = linear_model()
    monkeypatch.setattr(module, "AT_ONCE", 5 * x.numel() * 2)  # two repeats of five samples
    drawn, rsample = [], GaussianPosterior.rsample

    def spy(self, n_samples, **options):
        drawn.append(n_samples)
        return rsample(self, n_samples, **options)

    monkeypatch.setattr(GaussianPosterior, "rsample", spy)
    runs = importance_weighted_bound(model, x, q, 5, n_repeats=7, generator=seeded())
    assert drawn == [10, 10, 10, 5]
    assert runs.shape == (7, 3)
    assert len(runs.unique()) == 21


# --- batches ---


def test_all_fifteen_batches():
    """N = 6, b = 2: unbiased for the sum with N / b, for the mean with 1 / b; b / N is neither."""
    terms = torch.tensor([-3.0, -1.0, -4.0, -1.5, -5.0, -9.5], dtype=F64)
    batches = [terms[list(chosen)] for chosen in itertools.combinations(range(6), 2)]
    assert len(batches) == 15
    for reduction, aim in (("sum", terms.sum()), ("mean", terms.mean())):
        close(torch.stack([minibatch_elbo(batch, 6, reduction) for batch in batches]).mean(), aim)
    as_printed = torch.stack([2 / 6 * batch.sum() for batch in batches]).mean()
    assert abs(as_printed - terms.sum()) > 20
    assert abs(as_printed - terms.mean()) > 1


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8), st.integers(0, 100))
def test_the_sum_is_n_data_times_the_mean(values, more):
    terms, N = torch.tensor(values, dtype=F64), len(values) + more
    close(minibatch_elbo(terms, N), N * minibatch_elbo(terms, N, "mean"))
    close(minibatch_elbo(terms, len(terms)), terms.sum())


def test_minibatch_gradient():
    terms = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    (grad,) = torch.autograd.grad(minibatch_elbo(terms, 12), terms)
    close(grad, torch.full((3,), 4.0))


# --- gradients of an expectation ---


def square(z):
    return z.square().sum(-1)


def gaussian(m=3, seed=0, dtype=F64):
    generator = seeded(seed)
    return [torch.randn(m, generator=generator, dtype=F64).to(dtype) for _ in range(2)]


@both_gradients
def test_gradients_of_a_quadratic_form_are_unbiased(estimator):
    """E[z'Az + b'z] = mean'A mean + tr(A diag(var)) + b'mean."""
    mean, log_var = gaussian()
    A, b = torch.randn(3, 3, generator=seeded(1), dtype=F64), torch.randn(3, generator=seeded(2), dtype=F64)
    rows = estimator(lambda z: ((z @ A) * z).sum(-1) + z @ b, mean, log_var, 200_000, generator=seeded(3))
    agrees(rows.mean, (A + A.T) @ mean + b)
    agrees(rows.log_var, A.diagonal() * log_var.exp())


@both_gradients
def test_gradients_of_an_exponential_are_unbiased(estimator):
    """E[exp(c'z)] = exp(c'mean + c' diag(var) c / 2)."""
    mean, log_var = gaussian(2, seed=4)
    c = torch.tensor([0.4, -0.3], dtype=F64)
    value = (c @ mean + 0.5 * c.square() @ log_var.exp()).exp()
    rows = estimator(lambda z: (z @ c).exp(), mean, log_var, 200_000, generator=seeded(5))
    agrees(rows.mean, c * value)
    agrees(rows.log_var, 0.5 * c.square() * log_var.exp() * value)


@both_gradients
def test_rows_against_autograd(estimator):
    """Each row is the derivative of f(z), or f times that of log q(z), at the same noise."""
    mean, log_var = gaussian()
    noise = torch.randn(5, 3, generator=seeded(6), dtype=F64)
    rows = estimator(lambda z: z.sin().sum(-1), mean, log_var, 5, generator=seeded(6))
    for k in range(5):
        params = [t.clone().requires_grad_() for t in (mean, log_var)]
        z = params[0] + (params[1] / 2).exp() * noise[k]
        if estimator is pathwise_gradient:
            value = z.sin().sum()
        else:
            z = z.detach()
            value = z.sin().sum() * Normal(params[0], (params[1] / 2).exp()).log_prob(z).sum()
        for found, expected in zip(rows, torch.autograd.grad(value, params), strict=True):
            close(found[k], expected, rtol=1e-11, atol=1e-11)


def test_variances_of_the_worked_example():
    """87 and 4, and 38 with the best baseline."""
    at, n = (torch.tensor([2.0], dtype=F64), torch.zeros(1, dtype=F64)), 400_000
    for rows, variance in (
        (pathwise_gradient(square, *at, n, generator=seeded(7)), 4),
        (score_function_gradient(square, *at, n, generator=seeded(7)), 87),
        (score_function_gradient(square, *at, n, baseline=7.0, generator=seeded(7)), 38),
    ):
        agrees(rows.mean, 4.0)
        agrees((rows.mean - 4).square(), variance)


def test_a_baseline_takes_away_a_multiple_of_the_score():
    mean, log_var = gaussian()
    without, with_5, of_one = (
        score_function_gradient(f, mean, log_var, 9, baseline=c, generator=seeded(8))
        for f, c in ((square, None), (square, 5.0), (lambda z: torch.ones_like(z[:, 0]), None))
    )
    for a, b, score in zip(without, with_5, of_one, strict=True):
        close(b, a - 5 * score)


def test_leave_one_out():
    """Against loops; and unbiased: the baseline of a row does not depend on the row."""
    mean, log_var = gaussian()
    z = mean + (log_var / 2).exp() * torch.randn(4, 3, generator=seeded(9), dtype=F64)
    rows = score_function_gradient(square, mean, log_var, 4, baseline="leave_one_out", generator=seeded(9))
    for k in range(4):
        others = torch.stack([square(z[j : j + 1])[0] for j in range(4) if j != k]).mean()
        close(rows.mean[k], (square(z[k : k + 1])[0] - others) * (z[k] - mean) / log_var.exp())
    runs = torch.stack([
        score_function_gradient(square, mean, log_var, 3, baseline="leave_one_out", generator=seeded(k)).mean.mean(0)
        for k in range(3000)
    ])  # fmt: skip
    agrees(runs, 2 * mean)


def test_leave_one_out_lowers_the_variance_of_an_f_that_is_far_from_zero():
    at = torch.tensor([2.0], dtype=F64), torch.zeros(1, dtype=F64), 20_000
    plain, better = (
        score_function_gradient(lambda z: square(z) + 100, *at, baseline=b, generator=seeded()).mean.var()
        for b in (None, "leave_one_out")
    )
    assert plain > 100 * better


def test_the_score_function_needs_no_derivative():
    """A step: d/dmean P(z > 0) is the density of z at 0."""
    mean, log_var = torch.tensor([0.4], dtype=F64), torch.tensor([0.3], dtype=F64)
    rows = score_function_gradient(lambda z: (z[:, 0] > 0).double(), mean, log_var, 200_000, generator=seeded(1))
    agrees(rows.mean, Normal(mean, (log_var / 2).exp()).log_prob(torch.zeros(1, dtype=F64)).exp())
    with pytest.raises(ValueError, match="autograd can follow"):
        pathwise_gradient(lambda z: (z[:, 0] > 0).double(), mean, log_var, 5)
    weight = torch.ones((), dtype=F64, requires_grad=True)
    with pytest.raises(ValueError, match="autograd can follow"):
        pathwise_gradient(lambda z: weight * (z[:, 0] > 0).double(), mean, log_var, 5)


@both_gradients
def test_no_graph_is_kept(estimator):
    mean, log_var = (t.requires_grad_() for t in gaussian())
    rows = estimator(square, mean, log_var, 4)
    assert not rows.mean.requires_grad
    assert not rows.log_var.requires_grad
    with torch.no_grad():
        assert estimator(square, mean, log_var, 4).mean.shape == (4, 3)


# --- randomness, dtypes, devices ---


def calls(model, x, q, mean, log_var, generator=None):
    """Every function that draws."""
    return {
        "elbo kl": lambda: elbo(model, x, q, 3, generator=generator),
        "elbo joint": lambda: elbo(model, x, q, 3, form="joint", generator=generator),
        "weighted": lambda: importance_weighted_bound(model, x, q, 3, n_repeats=2, generator=generator),
        "pathwise": lambda: pathwise_gradient(square, mean, log_var, 3, generator=generator).log_var,
        "score": lambda: score_function_gradient(square, mean, log_var, 3, generator=generator).log_var,
    }


each_call = pytest.mark.parametrize("name", ["elbo kl", "elbo joint", "weighted", "pathwise", "score"])


@each_call
def test_a_generator_repeats_and_leaves_the_global_one_alone(name):
    arguments = *linear_model(), *gaussian()
    before = torch.get_rng_state()
    first, again, other = (calls(*arguments, seeded(s))[name]() for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@each_call
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_dtype_and_device_follow_the_inputs(name, dtype, device):
    arguments = *linear_model(dtype=dtype, device=device), *(t.to(device) for t in gaussian(dtype=dtype))
    result = calls(*arguments, torch.Generator(device).manual_seed(0))[name]()
    assert (result.dtype, result.device.type) == (dtype, device.type)


def test_float32_is_near_float64():
    for name in ("elbo kl", "elbo joint", "weighted"):
        model, x, q = linear_model(dtype=torch.float32)
        z = q.rsample(3, generator=seeded())
        narrow = calls(model, x, q, None, None, seeded())[name]()
        wide = linear_model()
        close(exact_elbo(model, x, q).double(), exact_elbo(*wide), rtol=1e-5, atol=1e-5)
        if name == "elbo joint":
            close(narrow.double(), log_weights(*wide, z.double()).mean(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["elbo kl", "elbo joint", "weighted", "score"])
def test_no_hidden_cpu_tensors(name):
    with FakeTensorMode():
        model = ProbabilisticPCA.from_parameters(
            torch.ones(4, 2, device="cuda"), torch.ones(4, device="cuda"), torch.ones((), device="cuda")
        )
        q = GaussianPosterior(torch.ones(3, 2, device="cuda"), torch.eye(2, device="cuda"))
        x, mean, log_var = torch.ones(3, 4, device="cuda"), *(torch.ones(2, device="cuda") for _ in "ab")
        assert calls(model, x, q, mean, log_var)[name]().device.type == "cuda"
        assert exact_elbo(model, x, q).device.type == "cuda"
        assert minibatch_elbo(torch.ones(3, device="cuda"), 9).device.type == "cuda"
        with pytest.raises(ValueError, match="generator is on cpu"):
            calls(model, x, q, mean, log_var, torch.Generator())[name]()


def test_no_hidden_cpu_tensors_in_the_pathwise_gradient():
    """On the meta device, which needs no GPU's library for gradients."""
    rows = pathwise_gradient(square, torch.ones(2, device="meta"), torch.ones(2, device="meta"), 5)
    assert (rows.mean.device.type, rows.log_var.shape) == ("meta", (5, 2))


# --- bad input ---


MODEL, X, Q = linear_model()
MEAN, LOG_VAR = gaussian()
NAN = X.clone()
NAN[1, 2] = math.nan


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: elbo(MODEL, X, Q, 0), ValueError, "n_samples is 0"),
        (lambda: unchecked(elbo)(MODEL, X, Q, True), ValueError, "n_samples is True"),
        (lambda: unchecked(elbo)(MODEL, X, Q, 2.0), ValueError, "whole number"),
        (lambda: unchecked(elbo)(MODEL, X, Q, form="both"), ValueError, "form is 'both'"),
        (lambda: elbo(MODEL, NAN, Q), ValueError, r"x\[1, 2\] is nan"),
        (lambda: exact_elbo(MODEL, NAN, Q), ValueError, r"x\[1, 2\] is nan"),
        (lambda: elbo(MODEL, X.float(), Q), TypeError, "float32"),
        (lambda: elbo(MODEL, X[:2], Q), ValueError, r"batch \(3,\) and x has \(2,\)"),
        (lambda: unchecked(elbo)(MODEL, torch.tensor(1.0, dtype=F64), Q), ValueError, "dimension d >= 1"),
        (lambda: elbo(MODEL, X[:, :3], Q), ValueError, "shape"),
        (lambda: elbo(curved(), X, Q), ValueError, "latent_dim = 1"),
        (lambda: elbo(torch.nn.Linear(2, 4), X, Q), TypeError, "Linear without log_joint"),
        (lambda: unchecked(elbo)(MODEL, X, MEAN), TypeError, "q is a Tensor"),
        (lambda: unchecked(exact_elbo)(curved(), X, Q), TypeError, "give a ProbabilisticPCA, or use elbo"),
        (lambda: importance_weighted_bound(MODEL, X, Q, 0), ValueError, "n_samples is 0"),
        (lambda: importance_weighted_bound(MODEL, X, Q, 3, n_repeats=0), ValueError, "n_repeats is 0"),
        (lambda: unchecked(minibatch_elbo)(X, 9), ValueError, r"terms has shape \(3, 4\)"),
        (lambda: minibatch_elbo(X[0, :0], 9), ValueError, "b >= 1"),
        (lambda: minibatch_elbo(X[0], 3), ValueError, "n_data is 3, and the batch alone has 4"),
        (lambda: unchecked(minibatch_elbo)(X[0], 9.0), ValueError, "n_data is 9.0"),
        (lambda: unchecked(minibatch_elbo)(X[0], 9, "total"), ValueError, "reduction is 'total'"),
        (lambda: minibatch_elbo(NAN[1], 9), ValueError, r"terms\[2\] is nan"),
        (lambda: unchecked(minibatch_elbo)([1.0], 9), TypeError, "terms is a list"),
        (lambda: unchecked(pathwise_gradient)(square, X, X, 5), ValueError, r"one Gaussian, shape \(m,\)"),
        (lambda: pathwise_gradient(square, MEAN, LOG_VAR / 0, 5), ValueError, "log_var"),
        (lambda: pathwise_gradient(square, MEAN, LOG_VAR - 2000, 5), ValueError, "leaves the range of torch.float64"),
        (lambda: score_function_gradient(square, MEAN, LOG_VAR + 2000, 5), ValueError, "log_var lies between"),
        (lambda: pathwise_gradient(square, MEAN, LOG_VAR, 0), ValueError, "n_samples is 0"),
        (lambda: pathwise_gradient(lambda z: z, MEAN, LOG_VAR, 5), ValueError, "one number for each row"),
        (lambda: pathwise_gradient(lambda z: 1.0, MEAN, LOG_VAR, 5), ValueError, "a float for z"),
        (lambda: score_function_gradient(lambda z: z.sum(), MEAN, LOG_VAR, 5), ValueError, "f gave shape"),
        (lambda: score_function_gradient(lambda z: square(z) / 0, MEAN, LOG_VAR, 5), ValueError, r"f\(z\)\[0\] is inf"),
        (
            lambda: score_function_gradient(square, MEAN, LOG_VAR, 1, baseline="leave_one_out"),
            ValueError, "n_samples >= 2",
        ),
        (
            lambda: unchecked(score_function_gradient)(square, MEAN, LOG_VAR, 5, baseline="mean"),
            ValueError, "baseline is 'mean'",
        ),
        (lambda: score_function_gradient(square, MEAN, LOG_VAR, 5, baseline=math.nan), ValueError, "baseline is nan"),
    ],
)  # fmt: skip
def test_bad_input_is_explained(call, error, says):
    with pytest.raises(error, match=says):
        call()
