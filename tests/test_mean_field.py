"""The mean-field network against torch.distributions, quadrature and closed forms that share no code with it."""

import functools
import inspect
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mean_fields import F64, KINDS, data, each_kind, made, normal, replaced, seeded, spoilt
from torch._subclasses import FakeTensorMode
from torch.distributions import Categorical, Normal, kl_divergence

from course_lib import mean_field as module
from course_lib.linear_bayes import BayesianLinearRegression
from course_lib.mean_field import MeanFieldNetwork, batch_weights
from course_lib.networks import MLP
from course_lib.optimisers import minibatches
from course_lib.predictions import ClassPrediction, SampledPrediction

close = functools.partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
unchecked = inspect.unwrap
WAYS = [("kl", "local"), ("kl", "weights"), ("sampled", "weights")]
each_way = pytest.mark.parametrize(("estimate", "sampling"), WAYS)


def prior_and_q(model):
    q = Normal(model.means.detach(), (0.5 * model.log_vars.detach()).exp())
    sds = [torch.full(((n_in + 1) * n_out,), sd, dtype=F64) for n_in, n_out, sd in zip(
        model.sizes[:-1], model.sizes[1:], (0.5, 0.8, 1.1), strict=False)]  # fmt: skip
    return Normal(torch.zeros_like(q.mean), torch.cat(sds)), q


def as_mlp(model, weights):
    """The same function by chapter 4's network."""
    mlp = MLP(model.sizes, model.activation, dtype=F64)
    position = 0
    with torch.no_grad():
        for W, b in zip(mlp.weights, mlp.biases, strict=True):
            rows = weights[position : position + W.numel() + len(b)].view(len(W), -1)
            W.copy_(rows[:, :-1])
            b.copy_(rows[:, -1])
            position += rows.numel()
    return mlp


def log_likelihood(model, output, y):
    """The sum over the data, by torch.distributions."""
    if model.likelihood == "categorical":
        return Categorical(logits=output).log_prob(y).sum(-1)
    return Normal(output, model.noise_sd.detach()).log_prob(y).sum((-2, -1))


# --- the network ---


def test_one_vector_holds_all_weights_and_biases():
    model = made(sizes=(2, 4, 3))
    assert [tuple(t.shape) for pair in model.layers(model.means) for t in pair] == [(4, 2), (4,), (3, 4), (3,)]
    assert [name for name, _ in made("learned").named_parameters()] == ["means", "log_vars", "log_noise_var"]
    assert [name for name, _ in made("fixed").named_parameters()] == ["means", "log_vars"]
    close(model.prior_sd, prior_and_q(model)[0].stddev)
    close(made("fixed").noise_sd, torch.tensor(0.6, dtype=F64))
    assert made("categorical").noise_sd is None
    assert MeanFieldNetwork((1, 1), noise="learned").noise_sd == 1
    assert "(2, 4, 3), activation='tanh', likelihood='gaussian', noise='learned'" in str(made("learned"))


@pytest.mark.parametrize("activation", ["tanh", "relu", "silu", "sigmoid", "identity"])
def test_each_draw_is_a_network_of_chapter_4(activation):
    model, x = made(sizes=(2, 4, 3, 1), activation=activation), normal(2, 3, 2)
    weights = model.draw(5, seeded()).detach()
    outputs = model(x, weights)
    assert outputs.shape == (5, 2, 3, 1)
    for theta, output in zip(weights, outputs, strict=True):
        close(output, as_mlp(model, theta)(x).detach())
    close(model(x), as_mlp(model, model.means.detach())(x))
    functions = model.functions(x, 5, seeded())
    close(functions, outputs)
    assert not functions.requires_grad
    assert model(x, model.draw(2)).requires_grad


def test_draws_have_the_moments_of_q():
    model = made()
    draws, (_, q) = model.draw(40_000, seeded()).detach(), prior_and_q(model)
    close((draws.mean(0) - q.mean) / q.stddev, torch.zeros_like(q.mean), rtol=0, atol=0.02)
    close(draws.var(0) / q.variance, torch.ones_like(q.mean), rtol=0, atol=0.04)
    close(draws.T.corrcoef(), torch.eye(len(q.mean), dtype=F64), rtol=0, atol=0.03)
    close(model.draw(3, seeded(4)).detach(), q.mean + q.stddev * normal(3, len(q.mean), seed=4))


def test_the_start_is_drawn_from_the_prior_where_that_is_narrow():
    model = MeanFieldNetwork((4, 3000, 1), (0.2, 0.3), 1.0, initial_sd=0.07, dtype=F64, generator=seeded())
    (W, b), (last, _) = model.layers(model.means.detach())
    for tensor, sd in ((W, 0.2), (b, 0.2), (last, 3000**-0.5)):
        assert tensor.std().item() == pytest.approx(sd, rel=0.05)
    close((0.5 * model.log_vars).exp().detach(), torch.full_like(model.means, 0.07))


@each_kind
def test_the_prediction_wraps_draws_of_the_function(kind):
    model, (x, _) = made(kind), data(kind)
    prediction = model.predict(x, 7, generator=seeded())
    draws = model.functions(x, 7, seeded())
    if kind == "categorical":
        assert isinstance(prediction, ClassPrediction)
        close(prediction.logits, draws)
    else:
        assert isinstance(prediction, SampledPrediction)
        close(prediction.functions, draws)
        close(prediction.noise_sd, torch.tensor(0.6, dtype=F64))
        assert not prediction.noise_sd.requires_grad


def test_a_draw_is_one_function_for_all_inputs():
    """Equal inputs have equal outputs within a draw, and inputs far apart are not independent."""
    model = made(sizes=(1, 1), prior_sd=1.0)
    f = model.functions(torch.tensor([[1.0], [1.0], [2.0], [3.0]], dtype=F64), 50, seeded())[..., 0]
    assert torch.equal(f[:, 0], f[:, 1])
    close(f[:, 3] - f[:, 2], f[:, 2] - f[:, 1])  # each draw is a line


def test_many_draws_are_evaluated_in_pieces(monkeypatch):
    model, x = made(), normal(3, 2)
    whole = model.functions(x, 11, seeded())
    monkeypatch.setattr(module, "AT_ONCE", 2 * 3 * 4)
    pieces = []
    forward = MeanFieldNetwork.forward
    monkeypatch.setattr(MeanFieldNetwork, "forward", lambda *args: (pieces.append(len(args[2])), forward(*args))[1])
    close(model.functions(x, 11, seeded()), whole)
    assert pieces == [2] * 5 + [1]


# --- the free energy ---


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e2), kind=st.sampled_from(list(KINDS)))
def test_the_divergence_equals_torch_distributions(seed, scale, kind):
    model = made(kind, seed=seed)
    with torch.no_grad():
        model.means.mul_(scale)
        model.log_vars.mul_(min(scale, 5.0))
    prior, q = prior_and_q(model)
    expected = kl_divergence(q, prior).sum()
    close(model.kl().detach(), expected, rtol=1e-9, atol=1e-9)
    assert model.kl() >= 0


def test_the_divergence_keeps_its_digits_next_to_the_prior():
    for dtype, tol in ((torch.float32, 1e-3), (F64, 1e-9)):
        model = MeanFieldNetwork((3, 2), 0.5, 1.0, initial_sd=0.5, dtype=dtype)
        with torch.no_grad():
            model.means.zero_()
            log_ratio = model.log_vars.double() - 2 * math.log(0.5)
            model.log_vars.add_(1e-4)
            log_ratio = (model.log_vars - 2 * model.prior_sd.log()).double()
        assert model.kl().item() == pytest.approx((log_ratio**2 / 4).sum().item(), rel=tol + 1e-4)


@each_kind
@each_way
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_the_free_energy_equals_a_loop_over_torch_distributions(kind, estimate, sampling, temperature):
    model, (x, y), S, N = made(kind), data(kind), 3, 40
    ours = model.free_energy(
        x, y, N, S, estimate=estimate, sampling=sampling, temperature=temperature, generator=seeded(3)
    ).detach()
    prior, q = prior_and_q(model)
    divergence = kl_divergence(q, prior).sum()
    if sampling == "weights":
        thetas = q.mean + q.stddev * normal(S, len(q.mean), seed=3)
        costs = [-log_likelihood(model, as_mlp(model, theta)(x).detach(), y) for theta in thetas]
        if estimate == "sampled":
            divergence = torch.stack([(q.log_prob(t) - prior.log_prob(t)).sum() for t in thetas]).mean()
    else:
        # one neuron at a time: its input is a Gaussian with the mean and variance of the sum
        flat, costs = normal(S * 6 * (4 + 3), seed=3), []
        eps1, eps2 = flat[: S * 6 * 4].view(4, S, 6), flat[S * 6 * 4 :].view(3, S, 6)
        W1, W2 = (M.reshape(n, -1) for M, n in zip(q.mean.split([12, 15]), (4, 3), strict=True))
        V1, V2 = (M.reshape(n, -1) for M, n in zip(q.variance.split([12, 15]), (4, 3), strict=True))
        for s in range(S):
            output = torch.empty(6, 3, dtype=F64)
            for i in range(6):
                h = torch.cat((x[i], torch.ones(1, dtype=F64)))
                a = [(W1[j] @ h + (V1[j] @ h**2).sqrt() * eps1[j, s, i]).item() for j in range(4)]
                h = torch.tensor([math.tanh(v) for v in a] + [1.0], dtype=F64)
                for k in range(3):
                    output[i, k] = W2[k] @ h + (V2[k] @ h**2).sqrt() * eps2[k, s, i]
            costs.append(-log_likelihood(model, output, y))
    close(ours, temperature * divergence + N / 6 * torch.stack(costs).mean())


def test_the_parts_of_a_batch():
    """KL and expected negative log-likelihood make up the free energy, with the weight of the batch."""
    for kind, (_, sampling) in itertools.product(KINDS, WAYS):
        model, (x, y) = made(kind), data(kind)
        options = {"sampling": sampling, "generator": seeded(2)}
        nll = model.expected_nll(x, y, 4, **options)
        options["generator"].manual_seed(2)
        close(model.free_energy(x, y, 60, 4, **options), model.kl() + 10 * nll)


@each_way
def test_the_estimates_are_unbiased_on_a_linear_model(estimate, sampling):
    """The exact free energy is known there, for any q."""
    model = made(sizes=(2, 1), prior_sd=0.9)
    x, y = data(c=1, b=5)
    exact, features = linear_truth(model, x, y)
    truth = exact.free_energy(gaussian_q(model))
    draws = torch.stack(
        [model.free_energy(x, y, 5, estimate=estimate, sampling=sampling, generator=g).detach()
         for g in [seeded(1)] for _ in range(400)]
    )  # fmt: skip
    assert abs(draws.mean() - truth) < 4.5 * draws.std() / 400**0.5
    many = model.free_energy(x, y, 5, 40_000, estimate=estimate, sampling=sampling, generator=seeded(2)).detach()
    assert abs(many - truth) < 4.5 * draws.std() / 40_000**0.5
    assert features.shape == (5, 3)


def linear_truth(model, x, y):
    """The exact model of a network with one layer, whose bias is a feature of ones at the end."""
    features = torch.cat((x, torch.ones_like(x[:, :1])), 1)
    return BayesianLinearRegression(model.prior_sd[0].item(), model.noise_sd.item()).fit(features, y), features


def gaussian_q(model):
    from course_lib.latent_models import GaussianPosterior

    return GaussianPosterior.diagonal(model.means.detach(), model.log_vars.detach())


def test_the_variance_falls_with_the_number_of_draws_and_with_local_noise():
    model, (x, y) = made(sizes=(2, 1), prior_sd=0.9), data(c=1, b=40)
    generator = seeded(6)

    def variance(S, sampling):
        values = [model.expected_nll(x, y, S, sampling=sampling, generator=generator).item() for _ in range(200)]
        return np.var(values)

    for sampling in ("local", "weights"):
        assert variance(1, sampling) / variance(10, sampling) == pytest.approx(10, rel=0.5)
    assert variance(1, "weights") > 3 * variance(1, "local")


def test_the_value_variances_of_one_weight():
    """A network of one weight and one bias on data with x = 1: both closed forms, by their own formula."""
    model = MeanFieldNetwork((1, 1), 0.7, 0.5, initial_sd=0.3, dtype=F64)
    with torch.no_grad():
        model.means.copy_(torch.tensor([0.4, 0.0]))
        model.log_vars[1] = -60.0  # the bias is as good as fixed
    x, y = torch.ones(8, 1, dtype=F64), normal(8, 1) + 1
    lam, top, v, mu, tau = 8 / 0.25, y.mean().item(), 0.09, 0.4, 0.7
    generator = seeded(3)
    expected = {
        "kl": lam**2 * v * (mu - top) ** 2 + lam**2 * v**2 / 2,
        "sampled": v * (mu / tau**2 + lam * (mu - top)) ** 2 + (v * (lam + 1 / tau**2) - 1) ** 2 / 2 + 0.5,
    }  # the last half is of the bias, whose log q varies by its own noise
    for estimate, value in expected.items():
        options = {"estimate": estimate, "sampling": "weights", "generator": generator}
        draws = [model.free_energy(x, y, 8, **options).item() for _ in range(1000)]
        assert np.var(draws) == pytest.approx(value, rel=0.25), estimate


@pytest.mark.parametrize("kind", ["size", "halving"])
@pytest.mark.parametrize("batch_size", [2, 3, 7])
def test_the_parts_of_an_epoch_sum_to_the_free_energy(kind, batch_size, monkeypatch):
    """With the noise of each datum held fixed, exactly, for both weightings; unweighted, too large by (n - 1) KL."""
    model, (x, y) = made(), data(b=7)
    noise = [normal(2, 7, 4), normal(2, 7, 3, seed=1)]
    rows = slice(None)
    monkeypatch.setattr(module, "_noise", lambda *args: [eps[:, rows] for eps in noise])
    whole = model.free_energy(x, y, 7, 2).detach()
    batches = minibatches(7, batch_size, seeded())
    total = unweighted = by_size = 0.0
    for w, rows in zip(batch_weights([len(rows) for rows in batches], kind).tolist(), batches, strict=True):
        nll = model.expected_nll(x[rows], y[rows], 2).detach()
        total += w * model.kl().detach() + nll
        unweighted += model.kl().detach() + nll
        by_size += len(rows) / 7 * model.free_energy(x[rows], y[rows], 7, 2).detach()
    close(total, whole)
    close(by_size, whole)
    close(unweighted, whole + (len(batches) - 1) * model.kl().detach())


def test_a_batch_is_right_in_the_mean_over_all_batches(monkeypatch):
    model, (x, y) = made(), data(b=5)
    noise = [normal(1, 5, 4), normal(1, 5, 3, seed=1)]
    rows = slice(None)
    monkeypatch.setattr(module, "_noise", lambda *args: [eps[:, rows] for eps in noise])
    whole, values = model.free_energy(x, y, 5).detach(), []
    for rows in map(list, itertools.combinations(range(5), 2)):
        values.append(model.free_energy(x[rows], y[rows], 5).detach())
    close(torch.stack(values).mean(), whole)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=40))
def test_batch_weights_sum_to_one(sizes):
    for kind in ("size", "halving"):
        w = batch_weights(sizes, kind)
        assert w.sum().item() == pytest.approx(1, abs=1e-12)
        assert (w > 0).all()
    n = len(sizes)
    close(w, torch.tensor([2 ** (n - k) / (2**n - 1) for k in range(1, n + 1)], dtype=F64))
    close(batch_weights(sizes), torch.tensor([size / sum(sizes) for size in sizes], dtype=F64))


def test_many_batches_do_not_overflow():
    assert batch_weights([1] * 3000, "halving")[0] == 0.5


def test_the_elbo_is_below_the_evidence():
    """The evidence of a small network by the mean of its likelihood over many draws of the prior."""
    model, (x, y) = made(sizes=(1, 2, 1)), (normal(3, 1), normal(3, 1, seed=1))
    prior, _ = prior_and_q(model)
    thetas = prior.mean + prior.stddev * normal(200_000, 7, seed=9)
    log_p = log_likelihood(model, model(x, thetas).detach(), y)
    evidence = (log_p.logsumexp(0) - math.log(len(log_p))).item()
    for seed in range(5):
        model = made(sizes=(1, 2, 1), seed=seed)
        bound = -model.free_energy(x, y, 3, 4000, generator=seeded(seed)).item()
        assert bound < evidence


def test_targets_in_one_row_are_those_in_a_column():
    model, (x, y) = made(sizes=(2, 4, 1)), data(c=1)
    for way in WAYS:
        options = dict(zip(("estimate", "sampling"), way, strict=True))
        one, two = (model.free_energy(x, t, 6, generator=seeded(), **options) for t in (y, y[:, 0]))
        assert torch.equal(one, two)


# --- pruning ---


def test_signal_to_noise():
    model = made()
    close(model.signal_to_noise(), (model.means.abs() / (0.5 * model.log_vars).exp()).detach())


@pytest.mark.parametrize("by", ["signal_to_noise", "magnitude"])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.5, 1.0])
def test_pruned_weights_are_exactly_zero(by, fraction):
    model, x = made(sizes=(2, 5, 1)), normal(4, 2)
    before = model.means.clone()
    pruned = model.pruned(fraction, by)
    draws = pruned.draw(50, seeded())
    zero = (draws == 0).all(0)
    assert zero.sum() == round(fraction * 21)
    worth = model.signal_to_noise() if by == "signal_to_noise" else model.means.abs()
    if 0 < fraction < 1:
        assert worth[zero].max() < worth[~zero].min()
    assert torch.equal(draws[:, ~zero], model.draw(50, seeded())[:, ~zero])
    assert torch.equal(pruned.means[~zero], before[~zero])
    assert torch.equal(model.means, before)
    assert (pruned.signal_to_noise()[zero] == 0).all()
    assert pruned.predict(x, 5).sd.isfinite().all()
    if fraction == 1:
        assert (pruned.functions(x, 3) == 0).all()


def test_a_pruned_network_has_no_free_energy_and_says_so():
    pruned, (x, y) = made().pruned(0.3), data()
    for call in (pruned.kl, lambda: pruned.free_energy(x, y, 6)):
        with pytest.raises(ValueError, match="minus infinity, as a pruned network has"):
            call()
    again = pruned.pruned(0.5)
    assert (again.draw(2) == 0).all(0).sum() == round(0.5 * 27)


# --- dtype, device, generators ---


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_dtype_and_device_follow_the_inputs(kind, dtype, device):
    model, (x, y) = made(kind, dtype=dtype, device=device), data(kind, dtype=dtype, device=device)
    results = [model.free_energy(x, y, 6), model.expected_nll(x, y), model.kl(), model.signal_to_noise(), model(x)]
    results += [model.draw(2), model.functions(x, 2), model.pruned(0.5).means]
    assert {(t.dtype, t.device.type) for t in results} == {(dtype, device.type)}


@each_kind
@each_way
def test_float32_agrees_with_float64(kind, estimate, sampling, monkeypatch):
    noise = module._noise
    monkeypatch.setattr(module, "_noise", lambda model, *args: _as(model.means.dtype, noise(made(kind), *args)))
    values = []
    for dtype in (torch.float32, F64):
        model, (x, y) = made(kind, dtype=dtype), data(kind, dtype=dtype)
        options = {"estimate": estimate, "sampling": sampling, "generator": seeded()}
        values.append(model.free_energy(x, y, 6, 2, **options).item())
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def _as(dtype, noise):
    return noise.to(dtype) if isinstance(noise, torch.Tensor) else [eps.to(dtype) for eps in noise]


@each_kind
def test_makes_no_cpu_tensor_for_a_gpu(kind):
    """On fake tensors, which know their device and shape but no values; mixing devices raises there too."""
    with FakeTensorMode(), torch.no_grad():
        model = MeanFieldNetwork((2, 4, 3), device="cuda", **KINDS[kind])
        x = torch.ones(5, 2, device="cuda")
        y = torch.ones(5, dtype=torch.long, device="cuda") if kind == "categorical" else torch.ones(5, 3, device="cuda")
        results = [model.kl(), model.draw(3), model.functions(x, 3), model.signal_to_noise(), model.expected_nll(x, y)]
        for estimate, sampling in WAYS:
            results.append(model.free_energy(x, y, 9, 3, estimate=estimate, sampling=sampling))
        assert {t.device.type for t in results} == {"cuda"}
        for call in (
            lambda: model.free_energy(x, y, 9, generator=torch.Generator()),
            lambda: model.draw(3, torch.Generator()),
            lambda: model.predict(x, generator=torch.Generator()),
        ):
            with pytest.raises(ValueError, match=r"generator is on cpu and .* on cuda"):
                call()
        with pytest.raises(ValueError, match="the means is on cuda:0 but x is on cpu"):
            model.predict(torch.ones(5, 2))


def test_a_generator_decides_and_the_global_one_is_left_alone():
    model, (x, y) = made(), data()
    before = torch.get_rng_state()
    for call in (
        lambda g: model.free_energy(x, y, 6, generator=g),
        lambda g: model.free_energy(x, y, 6, sampling="weights", generator=g),
        lambda g: model.predict(x, 3, generator=g).mean.sum(),
        lambda g: MeanFieldNetwork((2, 1), noise_sd=1.0, generator=g).means.sum(),
    ):
        one, same, other = (call(seeded(s)).item() for s in (0, 0, 1))
        assert one == same != other
    assert torch.equal(torch.get_rng_state(), before)
    assert model.free_energy(x, y, 6).item() != model.free_energy(x, y, 6).item()  # fresh noise at each call


def test_the_state_is_saved_whole():
    model, other = made("learned", prior_sd=(2.0, 3.0)), made("learned", seed=5)
    other.load_state_dict(model.state_dict())
    x, y = data()
    assert torch.equal(model.free_energy(x, y, 6, generator=seeded()), other.free_energy(x, y, 6, generator=seeded()))
    assert "log_noise_var" in made("fixed").state_dict()


def test_no_inputs_have_no_predictions_but_are_no_error():
    assert made().predict(torch.zeros(0, 2, dtype=F64)).mean.shape == (0, 3)


# --- bad input ---








x, y = data()
MODEL, CLASSES = made(), made("categorical")
labels = data("categorical")[1]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: MODEL.free_energy(x, y, 5), ValueError, "n_data is 5 and the batch has 6 data"),
        (lambda: MODEL.free_energy(x, y, 6.0), TypeError, "n_data is a float: give an int"),
        (lambda: MODEL.free_energy(x, y, 6, 0), ValueError, "n_samples is 0: it must be 1 or more"),
        (
            lambda: MODEL.free_energy(x, y, 6, estimate="sampled"),
            ValueError,
            "needs draws of the weights: give sampling",
        ),
        (lambda: MODEL.free_energy(x, y, 6, estimate="mc"), ValueError, "estimate is 'mc': give one of kl, sampled"),
        (lambda: MODEL.free_energy(x, y, 6, sampling="flip"), ValueError, "sampling is 'flip': give one of local, wei"),
        (lambda: MODEL.free_energy(x, y, 6, temperature=0.0), ValueError, "temperature is 0.0: it must be positive"),
        (lambda: MODEL.free_energy(x, y, 6, temperature="1"), TypeError, "temperature is a str: give a number"),
        (lambda: MODEL.free_energy(x[0], y, 6), ValueError, r"x has shape \(2,\): give \(b, 2\)"),
        (lambda: MODEL.free_energy(x[:0], y[:0], 6), ValueError, r"x has shape \(0, 2\): give \(b, 2\) with b >= 1"),
        (lambda: MODEL.free_energy(x[:, :1], y, 6), ValueError, r"x has shape \(6, 1\): its last dimension must be 2"),
        (lambda: MODEL.free_energy(x.float(), y, 6), TypeError, "the means is torch.float64 but x is torch.float32"),
        (lambda: MODEL.free_energy(x.numpy(), y, 6), TypeError, "x is a ndarray: give a torch.Tensor"),
        (lambda: MODEL.free_energy(x, y[:, :1], 6), ValueError, r"y has shape \(6, 1\) and the output \(6, 3\)"),
        (lambda: MODEL.free_energy(x, y[:, 0], 6), ValueError, r"y has shape \(6,\) and the output \(6, 3\)"),
        (lambda: MODEL.free_energy(x, y.float(), 6), TypeError, "y is torch.float32 but x is torch.float64"),
        (lambda: MODEL.free_energy(x, labels, 6), TypeError, "y has dtype torch.int64"),
        (lambda: MODEL.free_energy(replaced(x, (3, 1), math.nan), y, 6), ValueError, r"x\[3, 1\] is nan"),
        (lambda: MODEL.free_energy(x, replaced(y, (3, 1), math.inf), 6), ValueError, r"y\[3, 1\] is inf"),
        (lambda: CLASSES.free_energy(x, y, 6), TypeError, "y has dtype torch.float64: give the classes as integers"),
        (lambda: CLASSES.free_energy(x, labels[:4], 6), ValueError, r"y has shape \(4,\): give one class for each"),
        (lambda: CLASSES.free_energy(x, replaced(labels, 2, 3), 6), ValueError, r"y\[2\] is 3: the classes are 0 to 2"),
        (lambda: CLASSES.free_energy(x, replaced(labels, 2, -1), 6), ValueError, r"y\[2\] is -1: the classes"),
        (lambda: CLASSES.free_energy(x, [0], 6), TypeError, "y is a list: give a torch.Tensor of integers"),
        (lambda: spoilt("means", math.nan).free_energy(x, y, 6), ValueError, r"means\[0\] is nan"),
        (lambda: spoilt("log_vars", math.inf).kl(), ValueError, r"log_vars\[0\] is inf"),
        (lambda: spoilt("log_vars", 800.0).kl(), ValueError, "beyond the range of torch.float64: scale the data"),
        (lambda: spoilt("log_noise_var", math.nan, "learned").free_energy(x, y, 6), ValueError, "log_noise_var is nan"),
        (lambda: MODEL.expected_nll(x, y, 0), ValueError, "n_samples is 0"),
        (lambda: MODEL.predict(replaced(x, (0, 0), math.nan)), ValueError, r"x\[0, 0\] is nan"),
        (lambda: MODEL.predict(x, 0), ValueError, "n_samples is 0: it must be 1 or more"),
        (lambda: MODEL.draw(2.0), TypeError, "n_samples is a float: give an int"),
        (lambda: MODEL(x, MODEL.means[:5]), ValueError, r"the vector has shape \(5,\): its last dimension must be 27"),
        (lambda: MODEL(x, MODEL.means.float()), TypeError, "weights is torch.float32 but the means is torch.float64"),
        (lambda: MODEL.pruned(1.5), ValueError, "fraction is 1.5: give a number from 0 to 1"),
        (lambda: MODEL.pruned("half"), TypeError, "fraction is a str: give a number from 0 to 1"),
        (lambda: MODEL.pruned(0.5, "size"), ValueError, "by is 'size': give one of signal_to_noise, magnitude"),
        (lambda: MeanFieldNetwork((2, 1)), ValueError, "a Gaussian likelihood needs noise_sd=, the deviation of y"),
        (lambda: MeanFieldNetwork((2, 1), noise_sd=0.0), ValueError, "noise_sd is 0.0: it must be positive and finite"),
        (lambda: MeanFieldNetwork((2, 1), noise_sd="1"), TypeError, "noise_sd is a str: give a number"),
        (lambda: MeanFieldNetwork((2, 1), -1.0, 1.0), ValueError, "prior_sd is -1.0: it must be positive"),
        (lambda: MeanFieldNetwork((2, 1), (1.0, 2.0), 1.0), ValueError, "prior_sd has 2 entries: give one number, or"),
        (lambda: MeanFieldNetwork((2, 1), noise_sd=1.0, initial_sd=0), ValueError, "initial_sd is 0: it must be posit"),
        (lambda: MeanFieldNetwork((2,), noise_sd=1.0), ValueError, "give at least two"),
        (lambda: MeanFieldNetwork((2, 0), noise_sd=1.0), ValueError, r"sizes\[1\] is 0"),
        (lambda: MeanFieldNetwork((2, 1), noise_sd=1.0, activation="x"), ValueError, "activation is 'x': give one of"),
        (lambda: MeanFieldNetwork((2, 1), likelihood="t"), ValueError, "likelihood is 't': give one of gaussian, cat"),
        (lambda: MeanFieldNetwork((2, 1), noise="free"), ValueError, "noise is 'free': give one of fixed, learned"),
        (lambda: MeanFieldNetwork((2, 3), noise_sd=1.0, likelihood="categorical"), ValueError, "has no noise: leave"),
        (lambda: MeanFieldNetwork((2, 3), noise="learned", likelihood="categorical"), ValueError, "has no noise"),
        (lambda: batch_weights([]), ValueError, "sizes is empty: give the size of each batch"),
        (lambda: batch_weights([2, 0]), ValueError, r"sizes\[1\] is 0: it must be 1 or more"),
        (lambda: batch_weights([2], "equal"), ValueError, "kind is 'equal': give one of size, halving"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, error, message, monkeypatch):
    for name in ("__init__", "free_energy", "expected_nll", "predict", "functions", "draw", "forward", "pruned"):
        monkeypatch.setattr(MeanFieldNetwork, name, unchecked(getattr(MeanFieldNetwork, name)))
    monkeypatch.setattr(MeanFieldNetwork, "layers", unchecked(MeanFieldNetwork.layers))
    monkeypatch.setitem(globals(), "batch_weights", unchecked(batch_weights))
    with pytest.raises(error, match=message):
        call()
