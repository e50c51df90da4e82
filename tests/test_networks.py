"""Networks against loops over indices, torch.nn, autograd, and what their definition promises."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from course_lib.networks import ACTIVATIONS, MLP, Activation, count_parameters

close = torch.testing.assert_close
unchecked = inspect.unwrap
quick = settings(max_examples=30, deadline=None, derandomize=True)
sizes_of_networks = st.lists(st.integers(1, 5), min_size=2, max_size=5)
seeds = st.integers(0, 2**32 - 1)

NUMPY = {
    "identity": lambda a: a,
    "tanh": np.tanh,
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "relu": lambda a: np.maximum(a, 0),
    "silu": lambda a: a / (1 + np.exp(-a)),
}


def network(sizes, activation="tanh", output="identity", seed=0, dtype=torch.float64):
    """With biases that are not zero, so that a lost one shows."""
    generator = torch.Generator().manual_seed(seed)
    mlp = MLP(sizes, activation, output, generator=generator, dtype=dtype)
    with torch.no_grad():
        for b in mlp.biases:
            b.copy_(torch.randn(b.shape, generator=generator, dtype=dtype))
    return mlp


def by_indices(mlp, x):
    """a_j = sum_m w_jm h_m + b_j and h_j = g(a_j), one number at a time."""
    h, all_a, all_h = [float(value) for value in x], [], [x.numpy()]
    for layer, (W, b) in enumerate(zip(mlp.weights, mlp.biases, strict=True)):
        g = NUMPY[mlp.output if layer == len(mlp.weights) - 1 else mlp.activation]
        a = []
        for j in range(W.shape[0]):
            a.append(b[j].item() + sum(W[j, m].item() * h[m] for m in range(W.shape[1])))
        h = [g(value) for value in a]
        all_a.append(np.array(a))
        all_h.append(np.array(h))
    return all_a, all_h


# Values


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("output", ACTIVATIONS)
def test_layers_agree_with_a_loop_over_indices(activation, output, generator):
    mlp = network((3, 4, 2, 5), activation, output)
    x = torch.randn(3, generator=generator, dtype=torch.float64)
    a, h = mlp.layers(x)
    all_a, all_h = by_indices(mlp, x)
    for ours, loop in zip(a + h, all_a + all_h, strict=True):
        assert ours.detach().numpy() == pytest.approx(loop, rel=1e-13, abs=1e-13)
    assert torch.equal(mlp(x), h[-1])


@quick
@given(sizes_of_networks, seeds)
def test_agrees_with_torch_nn(sizes, seed):
    mlp = network(sizes, "relu", "sigmoid", seed)
    layers = []
    for W, b in zip(mlp.weights, mlp.biases, strict=True):
        linear = torch.nn.Linear(W.shape[1], W.shape[0], dtype=torch.float64)
        linear.load_state_dict({"weight": W.detach(), "bias": b.detach()})
        layers += [linear, torch.nn.ReLU()]
    oracle = torch.nn.Sequential(*layers[:-1], torch.nn.Sigmoid())
    x = torch.randn(7, sizes[0], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    close(mlp(x), oracle(x))
    x = x.clone().requires_grad_()
    ours, theirs = torch.autograd.grad(mlp(x).sum(), x)[0], torch.autograd.grad(oracle(x).sum(), x)[0]
    close(ours, theirs)


@quick
@given(sizes_of_networks, seeds)
def test_a_batch_equals_its_rows(sizes, seed):
    mlp = network(sizes, seed=seed)
    x = torch.randn(2, 3, sizes[0], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = torch.stack([mlp(row) for row in x.reshape(6, -1)])
    close(mlp(x).reshape(6, -1), rows)


@quick
@given(sizes_of_networks)
def test_count_parameters(sizes):
    assert count_parameters(sizes) == sum(p.numel() for p in MLP(sizes).parameters())


def test_count_of_a_network_that_one_can_count_by_hand():
    assert count_parameters((2, 3, 1)) == 2 * 3 + 3 + 3 * 1 + 1


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives_agree_with_autograd(name, generator):
    g = ACTIVATIONS[name]
    a = torch.randn(50, generator=generator, dtype=torch.float64, requires_grad=True)
    h = g.function(a)
    (expected,) = torch.autograd.grad(h.sum(), a)
    close(g.derivative(a.detach(), h.detach()), expected)


def test_relu_at_zero_has_the_derivative_zero():
    zero = torch.zeros(1)
    assert ACTIVATIONS["relu"].derivative(zero, torch.relu(zero)) == 0
    assert Activation(torch.square, lambda a, h: 2 * a).gain == 1.0


def test_parameters_are_weights_then_biases():
    mlp = network((3, 4, 2))
    assert [tuple(p.shape) for p in mlp.parameters()] == [(4, 3), (2, 4), (4,), (2,)]
    assert all(p is q for p, q in zip(mlp.parameters(), [*mlp.weights, *mlp.biases], strict=True))
    assert [name for name, _ in mlp.named_parameters()] == ["weights.0", "weights.1", "biases.0", "biases.1"]


# The first weights


@pytest.mark.parametrize(("activation", "gain"), [("tanh", 1), ("sigmoid", 1), ("identity", 1), ("relu", 2)])
def test_first_weights_are_uniform_with_the_variance_of_the_docstring(activation, gain):
    mlp = MLP((300, 400, 500), activation, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for W, variance in zip(mlp.weights, (1 / 300, gain / 400), strict=True):
        limit = (3 * variance) ** 0.5
        assert W.abs().max().item() == pytest.approx(limit, rel=1e-3)
        assert W.abs().max().item() <= limit
        assert W.var().item() == pytest.approx(variance, rel=0.02)
        assert abs(W.mean().item()) < 4 * (variance / W.numel()) ** 0.5
    assert all(b.eq(0).all() for b in mlp.biases)


@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_the_signal_keeps_its_size_through_many_layers(activation):
    generator = torch.Generator().manual_seed(0)
    mlp = MLP((400,) * 11, activation, generator=generator, dtype=torch.float64)
    x = torch.randn(50, 400, generator=generator, dtype=torch.float64)
    a, _ = mlp.layers(x)
    assert 0.5 < a[-1].square().mean() / a[0].square().mean() < 2


def test_a_generator_makes_the_weights_repeatable_and_the_global_one_serves_without():
    one, two = (MLP((2, 3, 1), generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    state = torch.get_rng_state()
    MLP((2, 3, 1), generator=torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), state)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        three = MLP((2, 3, 1))
    assert torch.equal(one.weights[0], three.weights[0])


# Dtype and device


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_device_follow_the_arguments(dtype, device, generator):
    mlp = MLP((3, 4, 2), "relu", "sigmoid", dtype=dtype, device=device)
    output = mlp(torch.zeros(5, 3, dtype=dtype, device=device))
    assert (output.dtype, output.device.type) == (dtype, device.type)
    assert all(p.dtype == dtype and p.device.type == device.type for p in mlp.parameters())
    assert MLP((1, 1)).weights[0].dtype == torch.get_default_dtype()


def test_cuda_equals_cpu(device, generator):
    mlp, x = network((3, 4, 2)), torch.randn(5, 3, generator=generator, dtype=torch.float64)
    expected = mlp(x)
    close(mlp.to(device)(x.to(device)).cpu(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_makes_no_cpu_tensor_for_a_gpu(activation):
    with FakeTensorMode(), torch.no_grad():  # fake gradients would need a GPU's library
        mlp = MLP((3, 4, 2), activation, activation, device="cuda")
        a, h = mlp.layers(torch.ones(5, 3, device="cuda"))
        assert {t.device.type for t in (*a, *h, *mlp.parameters())} == {"cuda"}
        for g in mlp.activations():
            assert g.derivative(a[0], h[1]).device.type == "cuda"


def test_state_dict_and_repr():
    mlp, other = network((2, 3, 1), seed=1), network((2, 3, 1), seed=2)
    other.load_state_dict(mlp.state_dict())
    x = torch.ones(1, 2, dtype=torch.float64)
    assert torch.equal(mlp(x), other(x))
    assert "(2, 3, 1), activation='tanh', output='identity'" in repr(mlp)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (((3,),), ValueError, "give at least two"),
        (((3, 0, 1),), ValueError, r"sizes\[1\] is 0: every layer needs"),
        (((3, 2.5, 1),), TypeError, r"sizes\[1\] is a float"),
        (((3, True),), TypeError, r"sizes\[1\] is a bool"),
        (((3, 1), "gelu"), ValueError, "activation is 'gelu': give one of identity, tanh, sigmoid, relu"),
        (((3, 1), "tanh", "softmax"), ValueError, "output is 'softmax'"),
    ],
)
def test_bad_sizes_and_names(arguments, error, message):
    with pytest.raises(error, match=message):
        unchecked(MLP.__init__)(MLP.__new__(MLP), *arguments)
    if len(arguments) == 1:
        with pytest.raises(error, match=message):
            unchecked(count_parameters)(*arguments)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(5, 2, dtype=torch.float64), ValueError, r"x has shape \(5, 2\): its last dimension must be 3"),
        (torch.zeros((), dtype=torch.float64), ValueError, r"x has shape \(\): its last dimension must be 3"),
        (torch.zeros(5, 3, dtype=torch.float32), TypeError, "x is torch.float32 but the weights are torch.float64"),
        (torch.zeros(5, 3, dtype=torch.int64), TypeError, "x is torch.int64 but the weights are torch.float64"),
    ],
)
def test_bad_x(x, error, message):
    with pytest.raises(error, match=message):
        unchecked(MLP.layers)(network((3, 4, 2)), x)


def test_x_on_another_device():
    mlp = MLP((3, 4, 2))
    with pytest.raises(ValueError, match="x is on meta but the weights are on cpu"):
        mlp._explain(torch.zeros(5, 3, device="meta"))


def test_generator_of_another_device():
    with FakeTensorMode(), pytest.raises(ValueError, match="generator is on cpu and the weights on cuda"):
        MLP((3, 1), device="cuda", generator=torch.Generator())


def test_an_error_inside_an_activation_is_passed_on(monkeypatch):
    def broken(a):
        raise RuntimeError("out of luck")

    monkeypatch.setitem(ACTIVATIONS, "tanh", Activation(broken, None))
    with pytest.raises(RuntimeError, match="out of luck"):
        network((3, 4, 2))(torch.zeros(1, 3, dtype=torch.float64))
