"""The loss of the mean-field network, its gradient by hand against autograd, and what training finds.

The network itself is tested in test_mean_field.py, the exact regression in test_linear_bayes.py, predictions in
test_predictions.py.
"""

import functools
import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mean_fields import F64, KINDS, data, each_kind, made, normal, replaced, seeded, spoilt
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import bayes as benchmark
from course_lib import bayes as module
from course_lib.backprop import numerical_gradient
from course_lib.bayes import (
    BayesianLinearRegression,
    ClassPrediction,
    GaussianPrediction,
    MeanFieldNetwork,
    SampledPrediction,
    batch_weights,
    mean_field_gradients,
    mean_field_loss,
)
from course_lib.latent_models import GaussianPosterior
from course_lib.networks import ACTIVATIONS
from course_lib.optimisers import learning_rate_schedule
from course_lib.training import TrainingDiverged, fit

unchecked = inspect.unwrap
close = functools.partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
OPTIONS = {
    "local": {},
    "local, 3 samples": {"n_samples": 3},
    "local, cold": {"temperature": 0.2, "n_samples": 2},
    "weights": {"sampling": "weights"},
    "weights, 3 samples": {"sampling": "weights", "n_samples": 3},
    "sampled": {"sampling": "weights", "estimate": "sampled"},
    "sampled, 3 samples, warm": {"sampling": "weights", "estimate": "sampled", "n_samples": 3, "temperature": 2.0},
}
each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def prepared(model, x, y, **options):
    """The second of two calls of what fit calls, on the same data: it finds all memory used."""
    step = mean_field_gradients.prepare(model, x, y)
    step(model, x, y, **options | {"generator": seeded(9)})
    return step(model, x, y, **options)


each_way = pytest.mark.parametrize("way", [mean_field_gradients, prepared], ids=lambda way: way.__name__)


def compare(model, x, y, way=mean_field_gradients, n_data=20, **options):
    """Loss and gradient by hand, equal to those of autograd to 1e-10."""
    value = mean_field_loss(model, x, y, n_data=n_data, generator=seeded(5), **options)
    by_autograd = torch.autograd.grad(value, list(model.parameters()))
    by_hand, gradients = way(model, x, y, n_data=n_data, generator=seeded(5), **options)
    close(by_hand, value.detach())
    assert len(gradients) == len(by_autograd)
    for ours, theirs in zip(gradients, by_autograd, strict=True):
        close(ours, theirs)
        assert not ours.requires_grad


# --- the gradient by hand ---


@each_kind
@each_option
@each_way
def test_the_gradient_by_hand_equals_autograd(kind, options, way):
    compare(made(kind), *data(kind), way, **options)


@pytest.mark.parametrize("kind", ["learned", "categorical"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [(2, 3), (2, 4, 1, 3)], ids=str)
def test_the_gradient_by_hand_for_all_networks(kind, activation, sizes):
    for name in ("local, 3 samples", "weights", "sampled, 3 samples, warm"):
        compare(made(kind, sizes, activation), *data(kind), **OPTIONS[name])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(list(KINDS)),
    options=st.sampled_from(list(OPTIONS.values())),
    sizes=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    b=st.integers(1, 6),
    more=st.integers(0, 1000),
    temperature=st.floats(0.01, 100),
    seed=st.integers(0, 10**6),
)
def test_the_gradient_by_hand_for_all_sizes(kind, options, sizes, b, more, temperature, seed):
    x, y = data(kind, b, sizes[0], sizes[-1], seed)
    options = options | {"temperature": temperature}
    compare(made(kind, tuple(sizes), seed=seed), x, y, prepared, n_data=b + more, **options)


@pytest.mark.parametrize("options", [{}, {"sampling": "weights", "estimate": "sampled", "n_samples": 2}])
def test_the_gradient_by_hand_equals_finite_differences(options):
    model, (x, y) = made("learned"), data()
    options = options | {"n_data": 20, "temperature": 0.7}
    _, gradients = mean_field_gradients(model, x, y, generator=seeded(), **options)
    by_differences = numerical_gradient(
        lambda: mean_field_loss(model, x, y, generator=seeded(), **options), list(model.parameters())
    )
    for ours, theirs in zip(gradients, by_differences, strict=True):
        close(ours, theirs, rtol=1e-6, atol=1e-7)


@each_kind
@each_option
def test_the_loss_is_the_free_energy_for_each_datum(kind, options):
    model, (x, y) = made(kind), data(kind)
    loss = mean_field_loss(model, x, y, n_data=50, generator=seeded(3), **options)
    close(loss, model.free_energy(x, y, 50, generator=seeded(3), **options) / 50)


class _Operations(TorchDispatchMode):
    """The names of the operations, and whether any result belongs to a graph of autograd."""

    def __init__(self):
        super().__init__()
        self.names, self.graph = [], False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.names.append(str(func))
        self.graph |= any(isinstance(t, torch.Tensor) and t.requires_grad for t in tree_leaves(result))
        return result


@pytest.mark.parametrize(("options", "most"), [({}, 55), ({"sampling": "weights"}, 45)])
def test_the_gradient_by_hand_needs_no_graph_and_few_operations(options, most):
    model, (x, y) = made(), data()
    step = mean_field_gradients.prepare(model, x, y)
    step(model, x, y, n_data=6, **options)
    with _Operations() as watched:
        _, gradients = step(model, x, y, n_data=6, **options)
    assert not watched.graph
    assert all(gradient.grad_fn is None for gradient in gradients)
    assert len(watched.names) <= most, watched.names


def test_prepared_gradients_follow_the_parameters():
    """Steps in place, other values, other memory, another prior, another size of the batch, other options."""
    model, (x, y) = made("learned"), data()
    step = mean_field_gradients.prepare(model, x, y)
    params = list(model.parameters())
    for change in (
        lambda param: param.sub_(0.1),
        lambda param: param.copy_(normal(*param.shape, seed=3)),
        lambda param: setattr(param, "data", param.data.clone() + 0.1),
        lambda param: model.prior_sd.mul_(1.3),
        lambda param: setattr(model, "prior_sd", model.prior_sd * 1.1),
    ):
        with torch.no_grad():
            for param in params:
                change(param)
        for rows, temperature, n_data in ((slice(0, 4), 1.0, 9), (slice(4, 6), 2.0, 9), (slice(0, 4), 1.0, 8)):
            for options in OPTIONS.values():
                options = options | {"temperature": temperature, "n_data": n_data}
                torch.manual_seed(1)
                value, gradients = step(model, x[rows], y[rows], **options)
                torch.manual_seed(1)
                loss = mean_field_loss(model, x[rows], y[rows], **options)
                close([value, *gradients], [loss.detach(), *torch.autograd.grad(loss, params)])
    with pytest.raises(ValueError, match="prepared for another model"):
        step(made("learned"), x, y, n_data=6)


def test_a_temperature_that_changes_at_each_step_takes_no_more_memory():
    model, (x, y) = made(), data()
    step = mean_field_gradients.prepare(model, x, y)
    for k in range(1, 30):
        compare(model, x, y, step, temperature=k / 30)
    assert len(step.workspaces) == 1


def test_prepared_gradients_use_their_memory_again_and_others_do_not():
    model, (x, y) = made(), data()
    step = mean_field_gradients.prepare(model)
    for call, again in ((step, True), (mean_field_gradients, False)):
        (first_value, first), (value, gradients) = (call(model, x, y, n_data=6) for _ in range(2))
        assert first_value.data_ptr() != value.data_ptr()
        assert [g.data_ptr() == h.data_ptr() for g, h in zip(first, gradients, strict=True)] == [again] * len(first)


def test_what_is_prepared_for_data_looks_again_at_others():
    model, (x, y) = made(), data()
    for step in (mean_field_gradients.prepare(model), mean_field_gradients.prepare(model, x, y)):
        step(model, x, y, n_data=6)
        with pytest.raises(ValueError, match=r"x has shape \(6, 3\): its last dimension must be 2"):
            step(model, y, y, n_data=6)
        with pytest.raises(TypeError, match=r"but x is torch\.float32"):
            step(model, x.float(), y, n_data=6)
        with pytest.raises(ValueError, match=r"y has shape \(5, 3\) and the output \(6, 3\)"):
            step(model, x, y[:5], n_data=6)
        with pytest.raises(ValueError, match="n_data is 5 and the batch has 6 data"):
            step(model, x, y, n_data=5)
        step(model, x[:5], y[:5], n_data=5)
        with pytest.raises(ValueError, match="n_data is 5 and the batch has 6 data"):
            step(model, x, y, n_data=5)
        with pytest.raises(ValueError, match=r"x\[2, 0\] is nan"):
            step(model, replaced(x, (2, 0), math.nan), y, n_data=6)
    with pytest.raises(ValueError, match=r"y has shape \(6, 2\) and the output"):
        mean_field_gradients.prepare(model, x, x)


def test_frozen_parameters_are_left_out():
    model, (x, y) = made("learned"), data()
    model.log_vars.requires_grad_(False)
    _, gradients = mean_field_gradients(model, x, y, n_data=6, generator=seeded())
    trained = [param for param in model.parameters() if param.requires_grad]
    by_autograd = torch.autograd.grad(mean_field_loss(model, x, y, n_data=6, generator=seeded()), trained)
    close(gradients, list(by_autograd))
    assert mean_field_gradients(made().requires_grad_(False), x, y, n_data=6)[1] == []


@each_kind
@each_option
def test_each_call_has_fresh_noise(kind, options):
    """Noise that is used again would let the loss sink below the free energy."""
    model, (x, y) = made(kind), data(kind)
    step = mean_field_gradients.prepare(model, x, y)
    for call in (mean_field_loss, lambda *a, **o: step(*a, **o)[0], lambda *a, **o: mean_field_gradients(*a, **o)[0]):
        values = [call(model, x, y, n_data=6, **options).item() for _ in range(4)]
        assert len(set(values)) == 4


def test_each_datum_has_noise_of_its_own_in_local_sampling_and_not_in_draws_of_the_weights():
    """Variance of the mean over 300 equal data: 300 times less, and not less."""
    model, generator = made(sizes=(1, 1)), seeded()
    x, y = torch.ones(1, 1, dtype=F64), torch.zeros(1, 1, dtype=F64)

    def variance(n, sampling, call):
        rows, targets = x.expand(n, 1).contiguous(), y.expand(n, 1).contiguous()
        options = {"n_data": n, "sampling": sampling, "generator": generator, "temperature": 1e-9}
        return torch.stack([call(model, rows, targets, **options) for _ in range(100)]).var().item()

    step = mean_field_gradients.prepare(model)
    for call in (mean_field_loss, lambda *batch, **options: step(*batch, **options)[0]):
        assert variance(1, "local", call) / variance(300, "local", call) == pytest.approx(300, rel=0.6)
        assert variance(1, "weights", call) / variance(300, "weights", call) == pytest.approx(1, rel=0.6)


# --- training ---


def trained(model, x, y, steps, lr=0.02, batch_size=None, **options):
    loss = functools.partial(mean_field_loss, n_data=len(x), **options)
    batch_size = batch_size or len(x)
    n_epochs = steps // math.ceil(len(x) / batch_size)
    rate = learning_rate_schedule("cosine", lr, n_steps=n_epochs * math.ceil(len(x) / batch_size))
    common = {"n_epochs": n_epochs, "batch_size": batch_size, "lr": rate, "progress": False}
    return fit(model, (x, y), loss, gradients="analytic", **common)


@each_kind
@each_option
def test_fit_by_hand_and_by_autograd_gives_the_same_weights(kind, options):
    loss = functools.partial(mean_field_loss, n_data=6, **options)
    models = made(kind), made(kind)
    common = {"n_epochs": 3, "batch_size": 4, "lr": 0.01, "seed": 2}
    by_autograd = fit(models[0], data(kind), loss, **common)
    by_hand = fit(models[1], data(kind), loss, gradients="analytic", **common)
    assert by_hand.loss == pytest.approx(by_autograd.loss, rel=1e-9)
    for ours, theirs in zip(models[1].parameters(), models[0].parameters(), strict=True):
        close(ours, theirs, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("temperature", "batch_size"), [(1.0, None), (1.0, 10), (0.2, None)], ids=["all data", "batches", "cold"]
)
def test_a_network_of_one_layer_finds_the_exact_mean_field_optimum(temperature, batch_size):
    x = normal(40, 2, seed=4) @ torch.tensor([[1.0, 0.6], [0.0, 0.8]], dtype=F64) + 0.5  # correlated weights
    y = x @ torch.tensor([[1.0], [-0.5]], dtype=F64) + 0.3 + 0.4 * normal(40, 1, seed=5)
    features = torch.cat((x, torch.ones(40, 1, dtype=F64)), 1)
    exact = BayesianLinearRegression(0.9, 0.4).fit(features, y, temperature)
    best = exact.mean_field()
    model = MeanFieldNetwork((2, 1), 0.9, 0.4, dtype=F64, generator=seeded())
    options = {"temperature": temperature, "n_samples": 8}
    trained(model, x, y, 1000, lr=0.04, batch_size=batch_size, **options)
    sd = best.cov.diagonal().sqrt()
    assert ((model.means - best.mean) / sd).abs().max() < 0.15
    assert (0.5 * model.log_vars - sd.log()).abs().max() < 0.1
    found = GaussianPosterior.diagonal(model.means.detach(), model.log_vars.detach())
    gap = exact.free_energy(found, temperature) - exact.free_energy(best, temperature)
    assert 0 <= gap < 0.02 * temperature
    posterior = exact.posterior.cov.diagonal().sqrt()
    assert (sd < 0.95 * posterior).any()  # which is not the posterior


def test_the_full_posterior_is_a_stationary_point_where_it_is_a_product():
    """Orthogonal features: no gradient is left at the exact posterior, in the mean over the noise."""
    x = torch.tensor([[1.0], [-1.0]], dtype=F64).repeat(10, 1)
    y = normal(20, 1)
    exact = BayesianLinearRegression(0.9, 0.4).fit(torch.cat((x, torch.ones(20, 1, dtype=F64)), 1), y)
    model = MeanFieldNetwork((1, 1), 0.9, 0.4, dtype=F64)
    with torch.no_grad():
        model.means.copy_(exact.posterior.mean)
        model.log_vars.copy_(exact.posterior.cov.diagonal().log())
    for options in ({}, {"sampling": "weights", "estimate": "sampled"}):
        value, gradients = mean_field_gradients(model, x, y, n_data=20, n_samples=20_000, generator=seeded(), **options)
        assert value.item() * 20 == pytest.approx(-exact.log_evidence().item(), abs=0.05)
        for gradient in gradients:
            close(gradient, torch.zeros(2, dtype=F64), rtol=0, atol=0.02)
    # there the sampled estimate has no variance at all: it is -log p(y | X) for each draw
    options = {"n_data": 20, "sampling": "weights", "estimate": "sampled"}
    values = torch.stack([mean_field_loss(model, x, y, **options) for _ in range(5)]).detach() * 20
    close(values, -exact.log_evidence().expand(5))


def test_noise_used_again_lets_the_bound_climb_above_the_evidence(monkeypatch):
    """One draw that is kept is fitted; fresh draws are not."""
    x = normal(6, 1)
    y, ones = x + 0.5 * normal(6, 1, seed=3), torch.ones(6, 1, dtype=F64)
    evidence = BayesianLinearRegression(1.0, 0.5).fit(torch.cat((x, ones), 1), y).log_evidence().item()
    model = MeanFieldNetwork((1, 1), 1.0, 0.5, dtype=F64, generator=seeded())
    step = mean_field_gradients.prepare(model)
    params = list(model.parameters())
    from course_lib.optimisers import adam

    state, options = {}, {"n_data": 6, "sampling": "weights"}
    for _ in range(600):
        value, grads = step(model, x, y, generator=seeded(11), **options)
        adam(params, grads, state, 0.05)
    assert -6 * value.item() > evidence + 1
    truth = -model.free_energy(x, y, 6, 4000, sampling="weights", generator=seeded(1)).item()
    assert truth < evidence


def test_the_learned_noise_is_the_best_one_for_its_q():
    """At the optimum sigma^2 is the mean expected squared error."""
    x = normal(300, 1, seed=2)
    y = 0.8 * x + 0.3 * normal(300, 1, seed=3)
    model = MeanFieldNetwork((1, 1), 1.0, noise="learned", dtype=F64, generator=seeded())
    trained(model, x, y, 500, lr=0.05)
    with torch.no_grad():
        error = (y - model.functions(x, 500, seeded())).square().mean()
    close(model.noise_sd.detach() ** 2, error, rtol=0.05, atol=0)
    assert model.noise_sd.item() == pytest.approx(0.3, rel=0.1)


def test_classes_are_learned_and_doubt_is_kept():
    x = normal(60, 2, seed=3)
    labels = (x[:, 0] > 0).long()
    model = MeanFieldNetwork((2, 2), 2.0, likelihood="categorical", dtype=F64, generator=seeded())
    trained(model, x, labels, 300, lr=0.05)
    prediction = model.predict(x, 200, generator=seeded())
    assert (prediction.probabilities.argmax(1) == labels).double().mean() > 0.95
    near, far = torch.tensor([[0.0, 0.0]], dtype=F64), torch.tensor([[3.0, 0.0]], dtype=F64)
    entropies = [model.predict(at, 200, generator=seeded()).entropy for at in (near, far)]
    assert entropies[0] > 0.5 > entropies[1]


def test_training_on_the_gap_is_where_the_peers_are_or_better():
    """A tenth of the benchmark's steps."""
    x, y = (t.double() for t in benchmark.data())
    model = MeanFieldNetwork((1, 50, 1), (1.5, 0.3), 0.2, dtype=F64, generator=seeded())
    trained(model, x, y, 1000, lr=0.02)
    assert model.free_energy(x, y, 60, 500, generator=seeded()) < 230


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    loss = functools.partial(mean_field_loss, n_data=6)
    common = {"batch_size": 4, "lr": 0.01, "gradients": "analytic", "progress": False}
    for kind in ("learned", "categorical"):
        whole = made(kind)
        fit(whole, data(kind), loss, n_epochs=4, **common)
        for n_epochs in (2, 4):
            parts = made(kind)
            fit(parts, data(kind), loss, n_epochs=n_epochs, checkpoint=tmp_path / kind, **common)
        for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_a_run_that_diverges_says_so():
    model, (x, y) = made("learned", dtype=torch.float32), data(dtype=torch.float32)
    with pytest.raises((ValueError, TrainingDiverged), match=r"learning rate|scale the data"):
        trained(model, x, y, 100, lr=200.0)


# --- dtype, device, generators, errors ---


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_dtype_and_device_follow_the_inputs(kind, dtype, device):
    model, (x, y) = made(kind, dtype=dtype, device=device), data(kind, dtype=dtype, device=device)
    for options in OPTIONS.values():
        value, gradients = mean_field_gradients(model, x, y, n_data=9, **options)
        results = [value, *gradients, mean_field_loss(model, x, y, n_data=9, **options)]
        assert {(t.dtype, t.device.type) for t in results} == {(dtype, device.type)}


@each_kind
def test_makes_no_cpu_tensor_for_a_gpu(kind):
    """On fake tensors, which know their device and shape but no values; mixing devices raises there too."""
    with FakeTensorMode(), torch.no_grad():  # autograd on fake tensors would want a GPU's library
        model = MeanFieldNetwork((2, 4, 3), device="cuda", **KINDS[kind])
        x = torch.ones(5, 2, device="cuda")
        y = torch.ones(5, dtype=torch.long, device="cuda") if kind == "categorical" else torch.ones(5, 3, device="cuda")
        for name, options in OPTIONS.items():
            results = [mean_field_loss(model, x, y, n_data=9, **options)]
            if kind != "categorical" or "local," not in name:  # a copy in softmax would want a GPU's library
                value, gradients = mean_field_gradients(model, x, y, n_data=9, **options)
                results += [value, *gradients]
            assert {t.device.type for t in results} == {"cuda"}
        for call in (mean_field_loss, mean_field_gradients):
            with pytest.raises(ValueError, match=r"generator is on cpu and .* on cuda"):
                call(model, x, y, n_data=9, generator=torch.Generator())
            with pytest.raises(ValueError, match="the means is on cuda:0 but x is on cpu"):
                call(model, torch.ones(5, 2), y, n_data=9)


def test_a_generator_decides_and_the_global_one_is_left_alone():
    model, (x, y) = made(), data()
    before = torch.get_rng_state()
    for options in OPTIONS.values():
        for call in (mean_field_loss, lambda *a, **o: mean_field_gradients(*a, **o)[1][0].sum()):
            one, same, other = (call(model, x, y, n_data=6, generator=seeded(s), **options).item() for s in (0, 0, 1))
            assert one == same != other
    assert torch.equal(torch.get_rng_state(), before)








x, y = data()
MODEL, CLASSES = made(), made("categorical")
labels = data("categorical")[1]


@pytest.mark.parametrize(
    ("model", "batch", "options", "error", "message"),
    [
        ("network", (x, y), {}, TypeError, "model is a str: give a MeanFieldNetwork"),
        (MODEL, (x, y), {"n_data": 5}, ValueError, "n_data is 5 and the batch has 6 data: n_data is the number of all"),
        (MODEL, (x, y), {"n_samples": 0}, ValueError, "n_samples is 0: it must be 1 or more"),
        (MODEL, (x, y), {"estimate": "sampled"}, ValueError, '"sampled" needs draws of the weights: give sampling='),
        (MODEL, (x, y), {"estimate": "mc"}, ValueError, "estimate is 'mc': give one of kl, sampled"),
        (MODEL, (x, y), {"sampling": "flip"}, ValueError, "sampling is 'flip': give one of local, weights"),
        (MODEL, (x, y), {"temperature": -1.0}, ValueError, "temperature is -1.0: it must be positive and finite"),
        (MODEL, (x[:, :1], y), {}, ValueError, r"x has shape \(6, 1\): its last dimension must be 2"),
        (MODEL, (x[:0], y[:0]), {}, ValueError, r"x has shape \(0, 2\): give \(b, 2\) with b >= 1"),
        (MODEL, (x, y[:4]), {}, ValueError, r"y has shape \(4, 3\) and the output \(6, 3\)"),
        (MODEL, (x.float(), y), {}, TypeError, "x is torch.float32"),
        (MODEL, (x, y.tolist()), {}, TypeError, "y is a list: give a torch.Tensor"),
        (MODEL, (replaced(x, (4, 1), math.nan), y), {}, ValueError, r"x\[4, 1\] is nan: every entry must be finite"),
        (MODEL, (x, replaced(y, (4, 1), math.inf)), {}, ValueError, r"y\[4, 1\] is inf: every entry must be finite"),
        (CLASSES, (x, y), {}, TypeError, "y has dtype torch.float64: give the classes as integers"),
        (CLASSES, (x, replaced(labels, 2, 3)), {}, ValueError, r"y\[2\] is 3: the classes are 0 to 2"),
        (spoilt("means", math.nan), (x, y), {}, ValueError, r"means\[0\] is nan"),
        (spoilt("means", math.inf), (x, y), {}, ValueError, r"means\[0\] is inf"),
        (spoilt("log_vars", math.nan), (x, y), {}, ValueError, r"log_vars\[0\] is nan"),
        (spoilt("log_vars", 800.0), (x, y), {}, ValueError, "beyond the range of torch.float64: scale the data, lower"),
        (spoilt("log_noise_var", math.nan, "learned"), (x, y), {}, ValueError, "log_noise_var is nan"),
        (MODEL.pruned(0.5), (x, y), {}, ValueError, "minus infinity, as a pruned network has"),
    ],
)
@pytest.mark.parametrize("call", [mean_field_loss, mean_field_gradients], ids=lambda f: f.__name__)
def test_bad_input_is_refused_with_a_sentence(call, model, batch, options, error, message, monkeypatch):
    monkeypatch.setattr(MeanFieldNetwork, "free_energy", unchecked(MeanFieldNetwork.free_energy))
    with pytest.raises(error, match=message):
        unchecked(call)(model, *batch, **{"n_data": 6} | options)


def test_an_infinite_mean_that_only_saturates_a_neuron_is_found():
    """The likelihood stays finite; a divergence in closed form does not."""
    with pytest.raises(ValueError, match=r"means\[0\] is inf"):
        mean_field_gradients(spoilt("means", math.inf), x, y, n_data=6)


@pytest.mark.parametrize("way", [mean_field_gradients, prepared], ids=lambda way: way.__name__)
@pytest.mark.parametrize("sizes", [(2, 4, 3), (2, 3)], ids=["by all", "by log_vars only"])
def test_a_gradient_that_is_not_finite_is_found_beside_a_finite_loss(way, sizes):
    """Variances that underflow to zero: the root of their sum has no slope."""
    model = made(sizes=sizes)
    with torch.no_grad():
        model.log_vars.fill_(-800.0)
    assert mean_field_loss(model, x, y, n_data=6).isfinite()
    with pytest.raises(ValueError, match=r"or its gradient is beyond the range of torch\.float64"):
        way(model, x, y, n_data=6)


def test_fit_refuses_bad_data_before_the_first_step():
    model = made("categorical")
    before = model.means.clone()
    loss = functools.partial(mean_field_loss, n_data=6)
    with pytest.raises(ValueError, match=r"y\[5\] is 7: the classes are 0 to 2"):
        fit(model, (x, replaced(labels, 5, 7)), loss, n_epochs=1, batch_size=2, lr=0.1, gradients="analytic")
    assert torch.equal(model.means, before)


def test_all_names_of_the_chapter_are_here():
    assert set(module.__all__) == {
        *("BayesianLinearRegression", "ClassPrediction", "GaussianPrediction", "MeanFieldNetwork", "SampledPrediction"),
        *("batch_weights", "mean_field_gradients", "mean_field_loss"),
    }
    assert all(map(callable, (ClassPrediction, GaussianPrediction, SampledPrediction, batch_weights)))


# --- the benchmark ---


def test_the_benchmark_compares_the_same_work():
    x, y = benchmark.data()
    assert benchmark.difference_after_steps(x, y, 20) <= 1e-6
    assert benchmark.difference_after_steps(x, y, 20, F64) <= 1e-12
    for make in (benchmark.plain_autograd, functools.partial(benchmark.plain_autograd, way=DRAWN)):
        assert benchmark.distance_of_losses(make, x, y, 150) < 4
    steps = [make(x, y) for make in (benchmark.by_hand, benchmark.plain_autograd, benchmark.our_autograd)]
    values = [[step() for _ in range(30)] for step in steps]
    assert all(10 < run[0] < 1e3 and sum(run[-5:]) < sum(run[:5]) for run in values)
    benchmark.in_fit(x, y)(2)


DRAWN = benchmark.Reference.with_drawn_weights
