"""Backpropagation against autograd, differences and its own invariances; Scalar against PyTorch on random formulas.

Tests of wrong shapes call the function without its shape annotations (`unchecked`): conftest.py has jaxtyping check
them, so it would speak first, whereas a user, who runs without that hook, sees the function's own sentence.
"""

import ast
import inspect
import math
import operator
import re
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from benchmarks import backprop as benchmark
from course_lib import backprop
from course_lib.backprop import Scalar, backward, count_multiply_adds, forward_backward, numerical_gradient
from course_lib.losses import cross_entropy_loss, empirical_risk, squared_error
from course_lib.networks import ACTIVATIONS, MLP
from course_lib.training import fit

unchecked = inspect.unwrap
close = torch.testing.assert_close
FUNCTIONS = {"squared_error": squared_error, "cross_entropy": cross_entropy_loss}
LOSSES = list(FUNCTIONS)
each_loss = pytest.mark.parametrize("loss", LOSSES)


def network(*sizes, activation="tanh", output="identity", seed=0, dtype=torch.float64, device=None):
    """Weights and biases of order one, on the CPU's random numbers whatever the device."""
    mlp = MLP(sizes, activation, output, dtype=dtype, device=device)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for param in mlp.parameters():
            param.copy_(torch.randn(param.shape, generator=generator, dtype=torch.float64) * param.shape[-1] ** -0.5)
    return mlp


def data(mlp, loss, N=5, seed=1):
    generator, like = torch.Generator().manual_seed(seed), mlp.weights[0]
    x = torch.randn(N, mlp.sizes[0], generator=generator, dtype=torch.float64).to(like)
    if loss == "cross_entropy":
        return x, torch.randint(mlp.sizes[-1], (N,), generator=generator).to(like.device)
    return x, torch.randn(N, mlp.sizes[-1], generator=generator, dtype=torch.float64).to(like)


def by_autograd(mlp, x, y, loss):
    value = empirical_risk(FUNCTIONS[loss], y, mlp(x))
    return value.detach(), list(torch.autograd.grad(value, list(mlp.parameters())))


def agree(ours, theirs, **tolerance):
    close(ours[0], theirs[0], **tolerance)
    for a, b in zip(ours[1], theirs[1], strict=True):
        close(a, b, **tolerance)


# --- networks ---


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=6),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    output=st.sampled_from(sorted(ACTIVATIONS)),
    loss=st.sampled_from(LOSSES),
    N=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_equals_autograd_to_1e_12(sizes, activation, output, loss, N, seed):
    mlp = network(*sizes, activation=activation, output=output, seed=seed)
    x, y = data(mlp, loss, N, seed)
    agree(forward_backward(mlp, x, y, loss), by_autograd(mlp, x, y, loss), rtol=1e-12, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    loss=st.sampled_from(LOSSES),
    seed=st.integers(0, 1000),
)
def test_equals_autograd_in_float32(sizes, activation, loss, seed):
    mlp = network(*sizes, activation=activation, seed=seed, dtype=torch.float32)
    x, y = data(mlp, loss, 4, seed)
    ours = forward_backward(mlp, x, y, loss)
    assert {tensor.dtype for tensor in (ours[0], *ours[1])} == {torch.float32}
    agree(ours, by_autograd(mlp, x, y, loss), rtol=1e-4, atol=1e-5)


@each_loss
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "identity"])  # a difference may step over a kink of relu
def test_equals_differences(activation, loss):
    mlp = network(3, 4, 5, 2, activation=activation, output="sigmoid")
    x, y = data(mlp, loss)
    ours = forward_backward(mlp, x, y, loss)[1]
    numerical = numerical_gradient(lambda: empirical_risk(FUNCTIONS[loss], y, mlp(x)), list(mlp.parameters()))
    for a, b in zip(ours, numerical, strict=True):
        close(a, b, rtol=1e-8, atol=1e-9)


def test_one_neuron_with_the_known_answer():
    mlp = network(1, 1, output="sigmoid")
    with torch.no_grad():
        mlp.weights[0].fill_(0.5)
        mlp.biases[0].fill_(-1.0)
    x, y = torch.tensor([[2.0]]).double(), torch.tensor([[1.0]]).double()
    value, (weight, bias) = forward_backward(mlp, x, y, "squared_error")
    assert (value.item(), weight.item(), bias.item()) == (0.25, -0.5, -0.25)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_fused_products_are_those_of_the_derivative(name):
    g, a = ACTIVATIONS[name], torch.linspace(-3, 3, 31, dtype=torch.float64)  # zero is among them
    h, slope = g.function(a), torch.linspace(1, 2, 31, dtype=torch.float64)
    expected = slope * g.derivative(a, h)
    close(backprop._times_derivative(slope.clone(), g, a, h), expected, rtol=1e-15, atol=0)


@each_loss
def test_the_loss_may_be_given_as_the_function(loss):
    mlp = network(3, 4, 2)
    x, y = data(mlp, loss)
    agree(forward_backward(mlp, x, y, FUNCTIONS[loss]), forward_backward(mlp, x, y, loss), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8])
def test_classes_may_be_any_integers(dtype):
    mlp = network(3, 4, 2)
    x, y = data(mlp, "cross_entropy")
    agree(
        forward_backward(mlp, x, y.to(dtype), "cross_entropy"), forward_backward(mlp, x, y, "cross_entropy"),
        rtol=0, atol=0,
    )  # fmt: skip


@each_loss
def test_the_gradient_of_a_batch_is_the_mean_of_those_of_its_rows(loss):
    mlp = network(3, 4, 5, 2)
    x, y = data(mlp, loss, N=6)
    rows = [forward_backward(mlp, x[i : i + 1], y[i : i + 1], loss) for i in range(6)]
    mean = sum(value for value, _ in rows) / 6, [sum(grads) / 6 for grads in zip(*(g for _, g in rows), strict=True)]
    agree(forward_backward(mlp, x, y, loss), mean)
    twice = forward_backward(mlp, x.repeat(2, 1), torch.cat([y, y]), loss)
    agree(twice, forward_backward(mlp, x, y, loss))


def test_a_perfect_fit_has_no_gradient():
    mlp = network(3, 4, 2)
    x, _ = data(mlp, "squared_error")
    value, gradients = forward_backward(mlp, x, mlp(x).detach(), "squared_error")
    assert value == 0
    assert all(gradient.count_nonzero() == 0 for gradient in gradients)


@each_loss
def test_gradients_come_in_the_order_and_shapes_of_the_parameters(loss):
    mlp = network(3, 4, 5, 2)
    x, y = data(mlp, loss)
    value, gradients = forward_backward(mlp, x, y, loss)
    assert value.shape == ()
    assert [g.shape for g in gradients] == [p.shape for p in mlp.parameters()]
    assert not any(tensor.requires_grad for tensor in (value, *gradients))
    assert len({gradient.untyped_storage().data_ptr() for gradient in gradients}) == len(gradients)


@each_loss
def test_nothing_that_is_given_changes(loss):
    mlp = network(3, 4, 5, 2)
    x, y = data(mlp, loss)
    before = [tensor.clone() for tensor in (x, y, *mlp.parameters())]
    forward_backward(mlp, x, y, loss)
    assert all(map(torch.equal, before, (x, y, *mlp.parameters())))
    assert all(param.grad is None and param.requires_grad for param in mlp.parameters())
    assert torch.is_grad_enabled()


def test_autograd_is_not_asked(monkeypatch):
    """Every way into autograd is closed, and inputs that want gradients change nothing."""
    mlp = network(3, 4, 2)
    x, y = data(mlp, "squared_error")
    expected = forward_backward(mlp, x, y, "squared_error")
    for way in ("backward", "grad"):
        monkeypatch.setattr(torch.autograd, way, None)
    monkeypatch.setattr(torch.Tensor, "backward", None)
    ours = forward_backward(mlp, x.clone().requires_grad_(), y, "squared_error")
    agree(ours, expected, rtol=0, atol=0)
    assert ours[0].grad_fn is None


def test_large_logits_do_not_overflow():
    mlp = network(2, 3, dtype=torch.float32)
    with torch.no_grad():
        mlp.weights[0].mul_(1e4)
    x, y = data(mlp, "cross_entropy")
    agree(forward_backward(mlp, x, y, "cross_entropy"), by_autograd(mlp, x, y, "cross_entropy"), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_is_found_wherever_it_is(activation, place):
    """In x, in y and in every weight and bias; infinity in x and y, also where a neuron is saturated."""
    mlp = network(3, 4, 2, activation=activation, output=activation)
    x, y = data(mlp, "squared_error")
    for bad in (math.nan, math.inf, -math.inf)[: None if place < 2 else 1]:
        tensors = [x.clone(), y.clone(), *(param.detach().clone() for param in mlp.parameters())]
        tensors[place][-1] = bad
        wrong = network(3, 4, 2, activation=activation, output=activation)
        with torch.no_grad():
            for param, tensor in zip(wrong.parameters(), tensors[2:], strict=True):
                param.copy_(tensor)
        with pytest.raises(ValueError, match=rf"is {bad}: every entry must be"):
            forward_backward(wrong, *tensors[:2], "squared_error")


def test_no_target_is_ignored():
    """-100 is the class that torch.nn.functional.cross_entropy leaves out in silence."""
    mlp = network(2, 3)
    with pytest.raises(ValueError, match=r"y\[1\] is -100"):
        forward_backward(mlp, torch.zeros(2, 2).double(), torch.tensor([0, -100]), "cross_entropy")


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("case", benchmark.CASES, ids=lambda case: f"{case[0]}")
def test_twenty_steps_with_momentum_end_where_pytorch_ends(case, activation):
    """In float32, to 1e-6: what the benchmark asks for."""
    sizes, batch, _ = case
    given_to = (sizes, activation, *benchmark.data(sizes, batch))
    assert benchmark.largest_difference(benchmark.by_hand(*given_to), benchmark.sequential(*given_to)) <= 1e-6


def test_fit_takes_the_gradient_by_hand():
    """The same losses in every epoch, with the gradient by hand and by autograd."""
    x, y = data(network(3, 8, 2), "cross_entropy", N=40)

    def risk(mlp, x, y):
        return empirical_risk(cross_entropy_loss, y, mlp(x))

    def by_hand(mlp, x, y):
        return forward_backward(mlp, x, y, "cross_entropy")

    losses = [
        fit(network(3, 8, 2), (x, y), risk, n_epochs=5, batch_size=7, lr=0.1, gradients=way, progress=False).loss
        for way in (by_hand, "autograd")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-11)


# The backward step alone


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    output=st.sampled_from(sorted(ACTIVATIONS)),
    seed=st.integers(0, 1000),
)
def test_backward_of_any_loss_equals_autograd(sizes, activation, output, seed):
    mlp = network(*sizes, activation=activation, output=output, seed=seed)
    x, weights = data(mlp, "squared_error", 4, seed)
    x.requires_grad_()
    a, h = mlp.layers(x)
    loss = (weights * h[-1]).sin().sum()
    grad_output = (weights * h[-1]).cos() * weights
    expected = torch.autograd.grad(loss, [*mlp.parameters(), x], materialize_grads=True)
    given_to = grad_output.detach().clone()
    gradients, by_x = backward(mlp, a, h, given_to)
    agree((by_x, gradients), (expected[-1], expected[:-1]), rtol=1e-12, atol=1e-12)
    assert torch.equal(given_to, grad_output)


def test_backward_of_a_chain_of_two_networks():
    """The gradient by x of the second is the gradient by the output of the first."""
    first, second = network(3, 4, 2, seed=2), network(2, 5, 1, seed=3)
    x, _ = data(first, "squared_error")
    a, h = first.layers(x)
    b, k = second.layers(h[-1])
    loss = k[-1].square().sum()
    expected = torch.autograd.grad(loss, [*first.parameters(), *second.parameters()])
    of_second, by_code = backward(second, b, k, 2 * k[-1])
    of_first, _ = backward(first, a, h, by_code)
    agree((loss, [*of_first, *of_second]), (loss, expected))


# Differences and counts


def test_numerical_gradient_of_a_polynomial_and_what_it_leaves():
    t, u = torch.tensor([1.0, -2.0]).double(), torch.tensor(3.0).double().requires_grad_()
    before = t.clone()
    by_t, by_u = numerical_gradient(lambda: (t**2).sum() * u, [t, u])
    close(by_t, 2 * before * 3, rtol=1e-9, atol=0)
    close(by_u, torch.tensor(5.0).double(), rtol=1e-9, atol=0)
    assert torch.equal(t, before)
    assert (u.item(), by_u.shape, by_u.requires_grad) == (3.0, (), False)


def test_numerical_gradient_follows_the_step_and_the_dtype():
    t = torch.tensor([1.0]).double()
    (by_t,) = numerical_gradient(lambda: (t**3).sum(), [t], step=0.5)
    assert by_t.item() == pytest.approx(3 + 0.25)  # s^2 phi''' / 6
    t = torch.tensor([1.0])
    (by_t,) = numerical_gradient(lambda: (t**3).sum(), [t])
    assert by_t.dtype == torch.float32
    assert by_t.item() == pytest.approx(3, rel=1e-3)
    assert numerical_gradient(lambda: t.sum(), [torch.zeros(0)])[0].shape == (0,)


def test_numerical_gradient_divides_by_the_step_as_it_was_after_rounding():
    """At 1000 in float32 the numbers lie 6e-5 apart, and 0.0049 is not what is added."""
    t = torch.tensor([1000.0])
    (by_t,) = numerical_gradient(lambda: t.sum(), [t])
    assert by_t.item() == 1.0


def test_numerical_gradient_sees_a_wrong_gradient():
    mlp = network(3, 4, 2)
    x, y = data(mlp, "squared_error")
    numerical = numerical_gradient(lambda: empirical_risk(squared_error, y, mlp(x)), list(mlp.parameters()))
    right = forward_backward(mlp, x, y, "squared_error")[1]
    for k in range(len(right)):
        assert (right[k] * 1.01 - numerical[k]).abs().max() > 1e-4 * right[k].abs().max()


@pytest.mark.parametrize("step", [0.0, -1e-5, math.nan, math.inf])
def test_a_step_must_be_positive(step):
    with pytest.raises(ValueError, match="step is"):
        numerical_gradient(lambda: torch.zeros(()), [torch.zeros(1)], step=step)


@pytest.mark.parametrize(
    ("function", "param", "error", "sentence"),
    [
        (lambda: 3.0, torch.zeros(2), ValueError, "function returned a float: it must return a tensor with one number"),
        (lambda: torch.zeros(2), torch.zeros(2), ValueError, "function returned shape (2,): it must return"),
        (lambda: torch.zeros(()), torch.zeros(2).long(), TypeError, "params[0] has dtype torch.int64: give float32"),
        (lambda: torch.zeros(()), [0.0], TypeError, "params[0] is a list: give a torch.Tensor"),
        (lambda: torch.zeros(()), torch.tensor([0, 1e6]), ValueError, "params[0][1] is 1e+06: a step of 0.00492157 is"),
        (lambda: torch.zeros(()), torch.tensor([math.nan]), ValueError, "params[0][0] is nan: every entry must be"),
    ],
)
def test_numerical_gradient_refuses_with_a_sentence(function, param, error, sentence):
    with pytest.raises(error, match=re.escape(sentence)):
        unchecked(numerical_gradient)(function, [param])


def test_numerical_gradient_puts_back_what_it_moved_when_the_function_fails():
    t = torch.tensor([1.0, 2.0])
    with pytest.raises(ZeroDivisionError):
        numerical_gradient(lambda: 1 / 0, [t])
    assert t.tolist() == [1.0, 2.0]


def test_multiply_adds_of_the_benchmark():
    assert count_multiply_adds((64, 256, 256, 10)) == (84480, 152576)
    assert count_multiply_adds((3, 2)) == (6, 6)
    for sizes in ((3,), (), (3, 0)):
        with pytest.raises(ValueError, match="sizes is"):
            count_multiply_adds(sizes)


# Device and dtype


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_follows_device_and_dtype(device, dtype, loss):
    mlp = network(3, 4, 2, dtype=dtype, device=device)
    x, y = data(mlp, loss)
    value, gradients = forward_backward(mlp, x, y, loss)
    assert {(t.device.type, t.dtype) for t in (value, *gradients)} == {(device.type, dtype)}
    cpu = network(3, 4, 2, dtype=dtype)
    expected = forward_backward(cpu, *data(cpu, loss), loss)
    agree((value.cpu(), [g.cpu() for g in gradients]), expected, rtol=1e-4, atol=1e-5)
    numerical_gradient(lambda: empirical_risk(FUNCTIONS[loss], y, mlp(x)), list(mlp.parameters()))


@each_loss
def test_classes_out_of_range_are_found_on_a_gpu_too(device, loss):
    mlp = network(2, 3, device=device)
    with pytest.raises(ValueError, match=r"y\[0\] is 3: the classes are 0 to 2"):
        forward_backward(mlp, torch.zeros(1, 2).to(mlp.weights[0]), torch.tensor([3], device=device), "cross_entropy")


@each_loss
def test_makes_no_cpu_tensor_for_a_gpu(loss):
    """On fake tensors, which know their device and shape but no values; mixing devices raises there too."""
    with FakeTensorMode():
        mlp = MLP((3, 4, 2), "tanh", device="cuda", dtype=torch.float64)
        x = torch.ones(5, 3, device="cuda", dtype=torch.float64)
        y = torch.ones(5, 2, device="cuda", dtype=torch.float64)
        if loss == "cross_entropy":
            y = torch.ones(5, device="cuda", dtype=torch.int64)
        value, gradients = forward_backward(mlp, x, y, loss)
        with torch.no_grad():  # autograd on fake tensors would want a GPU's library
            a, h = mlp.layers(x)
        more, by_x = backward(mlp, a, h, h[-1])
        tensors = [value, *gradients, *more, by_x]
        assert {tensor.device.type for tensor in tensors} == {"cuda"}
        assert [g.shape for g in gradients] == [p.shape for p in mlp.parameters()]


# Bad input

x, y, k = torch.zeros(4, 3).double(), torch.zeros(4, 2).double(), torch.zeros(4, dtype=torch.int64)
mlp = network(3, 5, 2)


def replaced(tensor, index, value):
    tensor = tensor.detach().clone()
    tensor[index] = value
    return tensor


def with_weight(value):
    changed = network(3, 5, 2)
    with torch.no_grad():
        changed.weights[1][1, 2] = value
    return changed


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ((torch.nn.Linear(3, 2), x, y, "squared_error"), TypeError, "mlp is a Linear: give a course_lib.networks.MLP"),
        ((mlp, [[0.0]], y, "squared_error"), TypeError, "x is a list: give a torch.Tensor"),
        ((mlp, x.long(), y, "squared_error"), TypeError, "x has dtype torch.int64: give float32 or float64"),
        ((mlp, x.float(), y, "squared_error"), TypeError, "the first weight is torch.float64 but x is torch.float32"),
        ((mlp, x.to("meta"), y, "squared_error"), ValueError, "the first weight is on cpu but x is on meta: move one"),
        ((mlp, x[0], y, "squared_error"), ValueError, "x has shape (3,): the network takes (N, 3), a row for each"),
        ((mlp, x[None], y, "squared_error"), ValueError, "x has shape (1, 4, 3): the network takes (N, 3)"),
        ((mlp, x[:, :2], y, "squared_error"), ValueError, "x has shape (4, 2): the network takes (N, 3)"),
        ((mlp, x[:0], y[:0], "squared_error"), ValueError, "x has shape (0, 3): there are no data"),
        ((mlp, x, y.numpy(), "squared_error"), TypeError, "y is a ndarray: give a torch.Tensor"),
        ((mlp, x, y.float(), "squared_error"), TypeError, "y is torch.float32 but x is torch.float64: convert one"),
        ((mlp, x, k, "squared_error"), TypeError, "y has dtype torch.int64: give float32 or float64"),
        ((mlp, x, y.to("meta"), "squared_error"), ValueError, "y is on meta but x is on cpu: move one of them"),
        ((mlp, x, y[:, :1], "squared_error"), ValueError, "y has shape (4, 1) and the output (4, 2): give a row"),
        ((mlp, x, y[:3], "squared_error"), ValueError, "y has shape (3, 2) and the output (4, 2): give a row"),
        ((network(3, 1), x, y[:, 0], "squared_error"), ValueError, "the output (4, 1): give y[:, None]"),
        ((mlp, x, [0, 1], "cross_entropy"), TypeError, "y is a list: give a torch.Tensor of integers"),
        ((mlp, x, y, "cross_entropy"), TypeError, "y has dtype torch.float64: give the classes as integers"),
        ((mlp, x, k.bool(), "cross_entropy"), TypeError, "y has dtype torch.bool: give the classes as integers"),
        ((mlp, x, k.to("meta"), "cross_entropy"), ValueError, "y is on meta but x is on cpu: move one of them"),
        ((mlp, x, k[:3], "cross_entropy"), ValueError, "y has shape (3,): give one class for each of the 4 rows"),
        ((mlp, x, k[:, None], "cross_entropy"), ValueError, "y has shape (4, 1): give one class for each"),
        ((mlp, x, replaced(k, 2, 2), "cross_entropy"), ValueError, "y[2] is 2: the classes are 0 to 1"),
        ((mlp, x, replaced(k, 3, -1), "cross_entropy"), ValueError, "y[3] is -1: the classes are 0 to 1"),
        ((mlp, x, y, "hinge"), ValueError, "loss is 'hinge': give \"squared_error\" or \"cross_entropy\""),
        ((mlp, x, y, torch.nn.functional.mse_loss), ValueError, "loss is <function mse_loss"),
        ((mlp, x, y, ["squared_error"]), ValueError, "loss is ['squared_error']: give"),
        ((mlp, replaced(x, (1, 2), math.nan), y, "squared_error"), ValueError, "x[1, 2] is nan: every entry must be"),
        ((mlp, replaced(x, (1, 2), math.inf), y, "squared_error"), ValueError, "x[1, 2] is inf: every entry must be"),
        ((mlp, replaced(x, (0, 0), math.nan), k, "cross_entropy"), ValueError, "x[0, 0] is nan: every entry must be"),
        ((mlp, x, replaced(y, (3, 1), math.nan), "squared_error"), ValueError, "y[3, 1] is nan: every entry must be"),
        ((mlp, x, replaced(y, (3, 1), -math.inf), "squared_error"), ValueError, "y[3, 1] is -inf: every entry must"),
        ((with_weight(math.nan), x, y, "squared_error"), ValueError, "weights.1[1, 2] is nan: every entry must be"),
        ((with_weight(math.inf), x, k, "cross_entropy"), ValueError, "weights.1[1, 2] is inf: every entry must be"),
        ((mlp, x, y + 1e200, "squared_error"), ValueError, "the loss or its gradient is beyond the range of torch.flo"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_a_sentence(arguments, error, sentence):
    with pytest.raises(error, match=re.escape(sentence)) as refused:
        unchecked(forward_backward)(*arguments)
    assert ": " in str(refused.value)  # what was wrong and where, then what to do


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (lambda a, h, grad: (a[:1], h, grad), ValueError, "a has 1 entries and h 3: give both as mlp.layers(x)"),
        (lambda a, h, grad: (a, h[1:], grad), ValueError, "a has 2 entries and h 2: give both"),
        (lambda a, h, grad: (a, [h[1], h[1], h[2]], grad), ValueError, "x has shape (4, 5): the network takes (N, 3)"),
        (lambda a, h, grad: (a, h, grad[:, :1]), ValueError, "grad_output has shape (4, 1) and the output (4, 2)"),
        (lambda a, h, grad: (a, h, grad.float()), TypeError, "grad_output is torch.float32 but h[-1] is"),
        (lambda a, h, grad: (a, h, None), TypeError, "grad_output is a NoneType: give a torch.Tensor"),
    ],
)
def test_backward_refuses_what_does_not_fit(change, error, sentence):
    a, h = mlp.layers(x)
    with pytest.raises(error, match=re.escape(sentence)):
        unchecked(backward)(mlp, *change(a, h, torch.ones(4, 2).double()))


def test_annotations_refuse_what_the_function_refuses():
    """The shape annotations are checked in this suite, so the wrong shape stops at the signature."""
    with pytest.raises(Exception, match="x") as refused:
        forward_backward(mlp, x[0], y, "squared_error")
    assert type(refused.value).__module__.startswith("jaxtyping")


# --- Scalar ---

UNARY = ("exp", "log", "tanh", "relu")
BINARY = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "**": operator.pow}


def possible(name, u, v):
    """Whether an operation has a value and a slope at these numbers, not too near a place where it has none."""
    if name in UNARY:
        return {"exp": abs(u) < 5, "log": u > 0.05, "relu": abs(u) > 1e-6}.get(name, True)
    return {"/": abs(v) > 0.05, "**": 0.05 < u < 20 and abs(v) < 3}.get(name, True) and max(abs(u), abs(v)) < 1e3


def grown(leaves, steps, ours):
    """An expression that grows step by step; every step may use any number before, so numbers are shared."""
    numbers = list(leaves)
    for name, i, j in steps:
        u, v = numbers[i % len(numbers)], numbers[j % len(numbers)]
        value = (lambda t: t.value) if ours else (lambda t: t.item())
        if possible(name, value(u), value(v)):
            numbers.append(getattr(u, name)() if name in UNARY else BINARY[name](u, v))
    return numbers[-1]


@settings(max_examples=300, deadline=None)
@given(
    leaves=st.lists(st.floats(-2, 2).filter(lambda v: abs(v) > 1e-3), min_size=2, max_size=4),
    steps=st.lists(
        st.tuples(st.sampled_from([*UNARY, *BINARY]), st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=20
    ),
)
def test_scalar_equals_pytorch_over_random_expressions(leaves, steps):
    ours = [Scalar(value) for value in leaves]
    theirs = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in leaves]
    result, expected = grown(ours, steps, True), grown(theirs, steps, False)
    result.backward()
    gradients = torch.autograd.grad(expected, theirs, allow_unused=True)
    assert result.value == pytest.approx(expected.item(), rel=1e-9)
    for leaf, gradient in zip(ours, gradients, strict=True):
        used = 0.0 if gradient is None else gradient.item()
        assert leaf.grad == pytest.approx(used, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize(
    ("function", "slope"),
    [
        (lambda u: u + 3, 1), (lambda u: 3 + u, 1), (lambda u: u - 3, 1), (lambda u: 3 - u, -1),
        (lambda u: u * 3, 3), (lambda u: 3 * u, 3), (lambda u: u / 4, 0.25), (lambda u: 1 / u, -4),
        (lambda u: -u, -1), (lambda u: u**3, 0.75), (lambda u: u**-1, -4), (lambda u: u**0.5, 0.5**0.5),
        (lambda u: u**0, 0), (lambda u: 2**u, 2**0.5 * math.log(2)), (lambda u: u**u, 0.5**0.5 * (1 + math.log(0.5))),
        (lambda u: u.exp(), math.exp(0.5)), (lambda u: u.log(), 2), (lambda u: u.tanh(), 1 - math.tanh(0.5) ** 2),
        (lambda u: u.relu(), 1), (lambda u: (-u).relu(), 0), (lambda u: u * 0 + 1, 0),
        (lambda u: np.float64(3) * u, 3), (lambda u: u * np.float32(0.5), 0.5), (lambda u: u * u * u, 0.75),
    ],
)  # fmt: skip
def test_each_operation_at_one_half(function, slope):
    u = Scalar(0.5)
    R = function(u)
    R.backward()
    assert isinstance(R, Scalar)
    assert u.grad == pytest.approx(slope, rel=1e-12)
    h = 1e-5
    assert (function(Scalar(0.5 + h)).value - function(Scalar(0.5 - h)).value) / (2 * h) == pytest.approx(
        slope, rel=1e-6, abs=1e-9
    )


@pytest.mark.parametrize(
    ("function", "value", "slope"),
    [
        (lambda u: u**2, -3.0, -6.0), (lambda u: u**-2, -2.0, 0.25), (lambda u: u**2, 0.0, 0.0),
        (lambda u: u**1, 0.0, 1.0), (lambda u: u**0, 0.0, 0.0), (lambda u: u**1.5, 0.0, 0.0),
        (lambda u: u.relu(), 0.0, 0.0), (lambda u: u.tanh(), 1000.0, 0.0), (lambda u: u.exp(), -800.0, 0.0),
    ],
)  # fmt: skip
def test_edges(function, value, slope):
    u, t = Scalar(value), torch.tensor(value, dtype=torch.float64, requires_grad=True)
    R, expected = function(u), function(t)
    R.backward()
    expected.backward()
    assert (R.value, u.grad) == (expected.item(), t.grad.item())
    assert u.grad == slope


def test_contributions_are_added():
    u, v = Scalar(3.0), Scalar(4.0)
    (u * u).backward()
    assert u.grad == 6.0
    (u + u).backward()
    assert u.grad == 2.0
    shared = u * v
    R = shared * shared + shared  # a diamond
    R.backward()
    assert (shared.grad, u.grad, v.grad) == (25.0, 100.0, 75.0)


def test_each_backward_starts_afresh():
    u = Scalar(2.0)
    square = u * u
    R = square * u
    for _ in range(3):
        R.backward()
        assert (u.grad, square.grad, R.grad) == (12.0, 2.0, 1.0)
    square.backward()
    assert (u.grad, square.grad) == (4.0, 1.0)


def test_numbers_outside_the_graph_keep_their_derivative():
    u, v = Scalar(2.0), Scalar(5.0)
    (v * 2).backward()
    (u * u).backward()
    assert (u.grad, v.grad) == (4.0, 2.0)


def test_the_order_has_each_number_once_after_its_parents():
    u, v = Scalar(0.3), Scalar(0.7)
    w = u * v
    R = (w + u).tanh() * w - v / w
    order = R.graph()
    assert len(order) == len(set(map(id, order))) == 8
    assert order[-1] is R
    place = {id(node): k for k, node in enumerate(order)}
    assert all(place[id(parent)] < place[id(node)] for node in order for parent in node.parents)


def test_a_chain_of_ten_thousand_numbers():
    """No recursion: Python allows a thousand levels."""
    u = Scalar(1.0)
    R = u
    for _ in range(10_000):
        R = R + u
    R.backward()
    assert (R.value, u.grad, len(R.graph())) == (10_001.0, 10_001.0, 10_001)


def test_a_graph_that_branches_fifty_times_is_walked_once():
    """2^50 paths, 51 numbers."""
    u = Scalar(1.0)
    R = u
    for _ in range(50):
        R = R + R
    R.backward()
    assert (u.grad, len(R.graph())) == (2.0**50, 51)


def test_a_network_of_scalars_equals_forward_backward():
    small = network(2, 3, 2)
    points, targets = data(small, "squared_error", N=2)
    W = [[[Scalar(w) for w in row] for row in weight.tolist()] for weight in small.weights]
    b = [[Scalar(number) for number in bias.tolist()] for bias in small.biases]
    total = Scalar(0.0)
    for point, target in zip(points.tolist(), targets.tolist(), strict=True):
        h = point
        for ell in range(2):
            h = [sum(map(operator.mul, row, h), c) for row, c in zip(W[ell], b[ell], strict=True)]
            h = [a.tanh() for a in h] if ell == 0 else h
        total = total + sum(((output - t) ** 2 for output, t in zip(h, target, strict=True)), Scalar(0.0))
    (total / 2).backward()
    value, gradients = forward_backward(small, points, targets, "squared_error")
    assert total.value / 2 == pytest.approx(value.item(), rel=1e-12)
    for ours, theirs in zip([*W, *b], gradients, strict=True):
        grads = [[w.grad for w in row] for row in ours] if isinstance(ours[0], list) else [c.grad for c in ours]
        close(torch.tensor(grads, dtype=torch.float64), theirs)


def test_scalar_takes_under_100_lines():
    """Of code, its two helpers too: docstrings and empty lines are not counted, comments are."""
    parts = (Scalar, backprop._as_scalar, backprop._unbounded)
    lines = "\n".join(textwrap.dedent(inspect.getsource(part)) for part in parts).splitlines()
    tree = ast.parse("\n".join(lines))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            first = node.body[0]
            lines[first.lineno - 1 : first.end_lineno] = [""] * (first.end_lineno - first.lineno + 1)
    assert 50 < sum(bool(line.strip()) for line in lines) < 100


def test_names_and_repr():
    u = Scalar(2.0, name="u")
    R = u**2 + 1
    assert [node.name for node in R.graph()] == ["", "u", "**2", "+"]
    R.backward()
    assert (repr(u), repr(R)) == ("Scalar(2, grad=4)", "Scalar(5, grad=1)")


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: Scalar("2"), TypeError, "the value is a str: give a real number or a Scalar"),
        (lambda: Scalar(torch.ones(())), TypeError, "the value is a Tensor: give a real number or a Scalar"),
        (lambda: Scalar(1 + 2j, name="u"), TypeError, "u is a complex: give a real number"),
        (lambda: Scalar(2.0) + "3", TypeError, "the value is a str: give a real number or a Scalar"),
        (lambda: Scalar(2.0) ** "3", TypeError, "the value is a str: give a real number or a Scalar"),
        (lambda: [1.0] * Scalar(2.0), TypeError, "list"),
        (lambda: Scalar(math.nan), ValueError, "is nan, slopes []: every number must be finite"),
        (lambda: Scalar(math.inf, name="u"), ValueError, "u() is inf, slopes []: every number must be finite"),
        (lambda: Scalar(10**400), ValueError, "() is inf"),
        (lambda: Scalar(1e308) * 10, ValueError, "*(1e+308, 10) is inf"),
        (lambda: Scalar(1e200) ** 2, ValueError, "**2(1e+200) is inf"),
        (lambda: Scalar(1000.0).exp(), ValueError, "exp(1000) is inf"),
        (lambda: Scalar(1e-320).log(), ValueError, "slopes [inf]"),
        (lambda: Scalar(1.0) / 1e-320, ValueError, "is inf"),
        (lambda: Scalar(0.0).log(), ValueError, "log(0) does not exist: the number must be positive"),
        (lambda: Scalar(-1.0).log(), ValueError, "log(-1) does not exist: the number must be positive"),
        (lambda: Scalar(1.0) / 0, ValueError, "1 / 0: a divisor must not be zero"),
        (lambda: 1 / Scalar(0.0), ValueError, "1 / 0: a divisor must not be zero"),
        (lambda: Scalar(0.0) ** -1, ValueError, "0 ** -1 has no value or no slope: the base must be positive here"),
        (lambda: Scalar(0.0) ** 0.5, ValueError, "0 ** 0.5 has no value or no slope"),
        (lambda: Scalar(-8.0) ** (1 / 3), ValueError, "-8 ** 0.333333 has no value or no slope"),
        (lambda: Scalar(-2.0) ** Scalar(2.0), ValueError, "log(-2) does not exist"),
        (lambda: (-2) ** Scalar(2.0), ValueError, "log(-2) does not exist"),
    ],
)  # fmt: skip
def test_scalar_refuses_with_a_sentence(call, error, sentence):
    with pytest.raises(error, match=re.escape(sentence)):
        call()
