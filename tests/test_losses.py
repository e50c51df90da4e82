"""Losses against torch.nn.functional, scipy and 60-digit arithmetic, and the sentences that refuse bad input."""

import inspect
import math
import re

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from scipy.stats import norm
from torch._subclasses import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from course_lib import losses
from course_lib.losses import cross_entropy_loss, empirical_risk, gaussian_negative_log_likelihood, squared_error

unchecked = inspect.unwrap
close = torch.testing.assert_close
BATCHES = [(), (5,), (2, 3)]


def randn(generator, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=generator, dtype=dtype)


def labels(generator, *shape, K):
    return torch.randint(K, shape, generator=generator)


# Values


@pytest.mark.parametrize("batch", BATCHES)
def test_squared_error_agrees_with_torch(generator, batch):
    y, prediction = randn(generator, *batch, 4), randn(generator, *batch, 4)
    expected = functional.mse_loss(prediction, y, reduction="none").sum(-1)
    assert squared_error(y, prediction).shape == batch
    close(squared_error(y, prediction), expected)
    assert torch.equal(squared_error(y, y), torch.zeros(batch, dtype=torch.float64))


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("K", [1, 2, 10])
def test_cross_entropy_agrees_with_torch_and_scipy(generator, batch, K):
    y, logits = labels(generator, *batch, K=K), 3 * randn(generator, *batch, K)
    ours = cross_entropy_loss(y, logits)
    assert ours.shape == batch
    flat = functional.cross_entropy(logits.reshape(-1, K), y.reshape(-1), reduction="none")
    close(ours, flat.reshape(batch))
    log_p = log_softmax(logits.numpy(), axis=-1)
    by_scipy = -np.take_along_axis(log_p, y.numpy()[..., None], -1)[..., 0]
    close(ours, torch.as_tensor(by_scipy))


def test_cross_entropy_by_hand():
    """Equal logits give log K. Logits log 1, log 2, log 5 give probabilities 1/8, 2/8 and 5/8."""
    assert cross_entropy_loss(torch.tensor(3), torch.zeros(7).double()).item() == pytest.approx(math.log(7), rel=1e-15)
    logits = torch.tensor([1.0, 2.0, 5.0]).double().log()
    for k, probability in enumerate((1 / 8, 2 / 8, 5 / 8)):
        assert cross_entropy_loss(torch.tensor(k), logits).item() == pytest.approx(-math.log(probability), rel=1e-14)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_classes_may_be_any_integers(generator, dtype):
    y, logits = labels(generator, 6, K=4), randn(generator, 6, 4)
    assert torch.equal(cross_entropy_loss(y.to(dtype), logits), cross_entropy_loss(y, logits))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
def test_cross_entropy_to_the_last_digits(generator, dtype, scale):
    """Against 60 digits, from the same logits. No digit may be lost to their size, only to the sum itself."""
    logits, y = (scale * randn(generator, 20, 5)).to(dtype), labels(generator, 20, K=5)
    eps = torch.finfo(dtype).eps
    for row, k, loss in zip(logits.tolist(), y.tolist(), cross_entropy_loss(y, logits).tolist(), strict=True):
        with mpmath.workdps(60):
            exact = mpmath.log(sum(mpmath.exp(mpmath.mpf(a)) for a in row)) - mpmath.mpf(row[k])
        assert abs(loss - float(exact)) <= 4 * eps * (1 + abs(float(exact)))
        assert loss >= 0


def test_a_common_shift_of_the_logits_costs_no_digit():
    """In float32, log sum exp - logit has an error of 1e-3 here; the loss is log(1 + e)."""
    logits = torch.tensor([16384.0, 16385.0])
    assert cross_entropy_loss(torch.tensor(0), logits).item() == pytest.approx(math.log1p(math.e), rel=1e-6)
    assert logits.exp().isinf().all()


@pytest.mark.parametrize("shape", [(), (1,), (6, 1), (1, 3), (6, 3)])
def test_gaussian_likelihood_agrees_with_scipy(generator, shape):
    y, mean = randn(generator, 6, 3), randn(generator, 6, 3)
    variance = 0.1 + randn(generator, *shape).square()
    if len(shape) == 1:
        variance = variance[0]
    expected = -norm.logpdf(y, mean, variance.sqrt()).sum(-1)
    close(gaussian_negative_log_likelihood(y, mean, variance), torch.as_tensor(expected))
    full = functional.gaussian_nll_loss(mean, y, variance.expand(6, 3), full=True, reduction="none", eps=0)
    close(gaussian_negative_log_likelihood(y, mean, variance), full.sum(-1))


def test_the_constant_is_counted_once_for_each_dimension():
    zero, half = torch.zeros(4, 64).double(), torch.tensor(0.5).double()
    expected = 32 * math.log(2 * math.pi * 0.5)
    close(gaussian_negative_log_likelihood(zero, zero, half), torch.full((4,), expected).double())


def test_empirical_risk_is_the_mean(generator):
    y, prediction = randn(generator, 7, 2), randn(generator, 7, 2)
    assert empirical_risk(squared_error, y, prediction).shape == ()
    close(empirical_risk(squared_error, y, prediction), 2 * functional.mse_loss(prediction, y))
    classes, logits = labels(generator, 7, K=3), randn(generator, 7, 3)
    close(empirical_risk(cross_entropy_loss, classes, logits), functional.cross_entropy(logits, classes))
    deep = randn(generator, 3, 4, 2)
    assert empirical_risk(squared_error, deep, deep + 1).item() == pytest.approx(2)


def test_the_truth_comes_first():
    """A loss that is not symmetric in its arguments: the risk passes y first."""
    order = []
    empirical_risk(lambda y, f: order.append((y, f)) or y, torch.tensor([1.0]), torch.tensor([2.0]))
    assert order == [(torch.tensor([1.0]), torch.tensor([2.0]))]


# Properties

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=40, deadline=None, derandomize=True)


@quick
@given(seeds, st.integers(1, 6), st.integers(1, 6), st.floats(-100, 100), st.sampled_from([1e-3, 1.0, 100.0]))
def test_cross_entropy_properties(seed, n, K, shift, scale):
    """Unchanged by a shift of all logits, permuted with the classes, never negative, and a distribution."""
    generator = torch.Generator().manual_seed(seed)
    y, logits = labels(generator, n, K=K), scale * randn(generator, n, K)
    loss = cross_entropy_loss(y, logits)
    assert (loss >= 0).all()
    close(cross_entropy_loss(y, logits + shift), loss, rtol=1e-9, atol=1e-9)
    order = torch.randperm(K, generator=generator)
    close(cross_entropy_loss(order.argsort()[y], logits[:, order]), loss)
    every = torch.stack([cross_entropy_loss(torch.full((n,), k), logits) for k in range(K)], -1)
    close((-every).exp().sum(-1), torch.ones(n).double())


@quick
@given(seeds, st.integers(1, 5), st.integers(1, 5), st.floats(0.01, 100))
def test_gaussian_likelihood_is_the_squared_error_up_to_factor_and_constant(seed, n, d, variance):
    generator = torch.Generator().manual_seed(seed)
    y, mean = randn(generator, n, d), randn(generator, n, d)
    v = torch.tensor(variance).double()
    constant = d / 2 * math.log(2 * math.pi * variance)
    close(gaussian_negative_log_likelihood(y, mean, v), squared_error(y, mean) / (2 * variance) + constant)


# Gradients


def test_gradient_of_cross_entropy_is_softmax_minus_one_hot(generator):
    y, logits = labels(generator, 8, K=5), randn(generator, 8, 5).requires_grad_()
    (grad,) = torch.autograd.grad(cross_entropy_loss(y, logits).sum(), logits)
    close(grad, logits.detach().softmax(-1) - functional.one_hot(y, 5))


def test_first_and_second_derivatives(generator):
    y, f = randn(generator, 3, 2), randn(generator, 3, 2).requires_grad_()
    classes = labels(generator, 3, K=2)
    variance = (0.5 + randn(generator, 3, 1).square()).requires_grad_()
    for function, inputs in (
        (lambda f: squared_error(y, f), (f,)),
        (lambda f: cross_entropy_loss(classes, f), (f,)),
        (lambda f, v: gaussian_negative_log_likelihood(y, f, v), (f, variance)),
    ):
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


def test_gradient_is_finite_for_large_logits():
    logits = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    (grad,) = torch.autograd.grad(cross_entropy_loss(torch.tensor([2]), logits).sum(), logits)
    close(grad, torch.tensor([[1.0, 0.0, -1.0]]))


# Device and dtype


def calls(x, classes):
    """Each public name on a tensor (N, 3) and N classes."""
    one = x.detach().abs() + 1
    return {
        "squared_error": lambda: squared_error(x, x + 1),
        "cross_entropy_loss": lambda: cross_entropy_loss(classes, x),
        "gaussian_negative_log_likelihood": lambda: gaussian_negative_log_likelihood(x, x * x, one),
        "empirical_risk": lambda: empirical_risk(cross_entropy_loss, classes, x),
    }


def test_every_public_name_is_called_below():
    assert set(calls(torch.ones(1, 3), torch.tensor([0]))) == set(losses.__all__)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", losses.__all__)
def test_follows_device_and_dtype(device, dtype, name):
    x = torch.ones(2, 3, device=device, dtype=dtype, requires_grad=True)
    result = calls(x, torch.tensor([0, 2], device=device))[name]()
    assert (result.device.type, result.dtype) == (device.type, dtype)
    assert result.shape == (() if name == "empirical_risk" else (2,))
    result.sum().backward()
    assert (x.grad.device.type, x.grad.dtype) == (device.type, dtype)


@pytest.mark.parametrize("name", losses.__all__)
def test_makes_no_cpu_tensor_for_a_gpu(name):
    with FakeTensorMode():
        x, classes = torch.ones(2, 3, device="cuda"), torch.zeros(2, dtype=torch.int64, device="cuda")
        assert calls(x, classes)[name]().device.type == "cuda"
    x = torch.ones(2, 3, device="meta", requires_grad=True)
    result = calls(x, torch.zeros(2, dtype=torch.int64, device="meta"))[name]()
    (grad,) = torch.autograd.grad(result.sum(), x)
    assert (grad.device.type, grad.shape) == ("meta", x.shape)


def test_cuda_equals_cpu(device, generator):
    y, logits = labels(generator, 9, K=4), randn(generator, 9, 4)
    close(cross_entropy_loss(y.to(device), logits.to(device)).cpu(), cross_entropy_loss(y, logits))


def test_an_empty_batch_gives_an_empty_batch():
    nothing = torch.ones(0, 3)
    assert squared_error(nothing, nothing).shape == (0,)
    assert cross_entropy_loss(torch.ones(0).long(), nothing).shape == (0,)
    assert gaussian_negative_log_likelihood(nothing, nothing, torch.tensor(1.0)).shape == (0,)


def test_inputs_are_left_alone(generator):
    y, logits = labels(generator, 3, K=3), randn(generator, 3, 3)
    before = logits.clone()
    for call in calls(logits, y).values():
        call()
    assert torch.equal(logits, before)


# Bad input

x = torch.zeros(4, 3, dtype=torch.float64)
column = torch.zeros(4, 1, dtype=torch.float64)
classes = torch.tensor([0, 2, 1, 1])
one = torch.tensor(1.0, dtype=torch.float64)

SQUARED, CROSS, GAUSS, RISK = squared_error, cross_entropy_loss, gaussian_negative_log_likelihood, empirical_risk
BAD = ValueError
FAR_APART = torch.tensor([-1e308, 1e308, 0.0], dtype=torch.float64)


def replaced(tensor, index, value):
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


@pytest.mark.parametrize(
    ("function", "arguments", "error", "sentence"),
    [
        (SQUARED, ([0.0], x), TypeError, "y is a list: give a torch.Tensor"),
        (SQUARED, (x.long(), x), TypeError, "y has dtype torch.int64: give float32 or float64"),
        (SQUARED, (x, x.float()), TypeError, "prediction is torch.float32 but y is torch.float64"),
        (SQUARED, (x, x.to("meta")), BAD, "prediction is on meta but y is on cpu"),
        (SQUARED, (one, one), BAD, "y has shape (): it must end in the dimension d >= 1"),
        (SQUARED, (x[:, :0], x[:, :0]), BAD, "y has shape (4, 0)"),
        (SQUARED, (column[:, 0], column), BAD, "y has shape (4,) and prediction (4, 1): give both as (N, 1)"),
        (SQUARED, (column, column[:, 0]), BAD, "(N,) against (N, 1) would be stretched to N x N"),
        (SQUARED, (x, x[:1]), BAD, "y has shape (4, 3) and prediction (1, 3): make them equal"),
        (SQUARED, (x, replaced(x, (1, 2), math.nan)), BAD, "prediction[1, 2] is nan"),
        (SQUARED, (replaced(x, (3, 0), -math.inf), x), BAD, "y[3, 0] is -inf"),
        (SQUARED, (x + 1e200, x), BAD, "the squared error is beyond the range of torch.float64"),
        (CROSS, ([0], x), TypeError, "y is a list: give a torch.Tensor of integers"),
        (CROSS, (classes, [0.0]), TypeError, "logits is a list"),
        (CROSS, (classes, x.long()), TypeError, "logits has dtype torch.int64"),
        (CROSS, (classes.double(), x), TypeError, "y has dtype torch.float64: give the classes as integers"),
        (CROSS, (classes > 1, x), TypeError, "y has dtype torch.bool: give the classes as integers"),
        (CROSS, (x, classes), TypeError, "y has dtype torch.float64: give the classes first, and then the logits"),
        (CROSS, (classes.to("meta"), x), BAD, "y is on meta but logits is on cpu"),
        (CROSS, (classes[:3], x), BAD, "y has shape (3,) and logits (4, 3): y must have the shape of logits without"),
        (CROSS, (classes[:, None], x), BAD, "y has shape (4, 1) and logits (4, 3): give y as (N,)"),
        (CROSS, (torch.eye(3).long(), x[:3]), BAD, "give the index of the class, y.argmax(-1), and not one-hot"),
        (CROSS, (classes, x[:, :0]), BAD, "logits (4, 0)"),
        (CROSS, (classes[0], one), BAD, "logits ()"),
        (CROSS, (replaced(classes, 2, 3), x), BAD, "y[2] is 3: with 3 logits the classes are the integers from 0 to 2"),
        (CROSS, (replaced(classes, 1, -1), x), BAD, "y[1] is -1"),
        (CROSS, (replaced(classes, 1, -100), x), BAD, "y[1] is -100"),
        (CROSS, (torch.tensor(5), x[0]), BAD, "y is 5: with 3 logits"),
        (CROSS, (classes, replaced(x, (0, 1), math.nan)), BAD, "logits[0, 1] is nan"),
        (CROSS, (classes, replaced(x, (0, 1), -math.inf)), BAD, "logits[0, 1] is -inf"),
        (CROSS, (classes, replaced(x, (1, 2), math.inf)), BAD, "logits[1, 2] is inf"),
        (CROSS, (torch.tensor(0), FAR_APART), BAD, "the cross-entropy is beyond the range of torch.float64"),
        (GAUSS, (x, x, 1.0), TypeError, "variance is a float: give a torch.Tensor"),
        (GAUSS, (x, x[:2], one), BAD, "y has shape (4, 3) and mean (2, 3)"),
        (GAUSS, (column, column, one.expand(4)), BAD, "variance has shape (4,) and y (4, 1): give one number"),
        (GAUSS, (x, x, one.expand(3, 1)), BAD, "variance has shape (3, 1) and y (4, 3)"),
        (GAUSS, (x, x, 0 * one), BAD, "variance is 0: it must be positive"),
        (GAUSS, (x, x, replaced(x + 1, (2, 1), -2.0)), BAD, "variance[2, 1] is -2"),
        (GAUSS, (x, x, one * math.nan), BAD, "variance is nan: every entry must be finite"),
        (GAUSS, (x, x, one * math.inf), BAD, "variance is inf"),
        (GAUSS, (x, replaced(x, (0, 0), math.nan), one), BAD, "mean[0, 0] is nan"),
        (RISK, (SQUARED, column[:, 0], column[:, 0]), BAD, "loss returned one number for all data (y has shape (4,))"),
        (RISK, (lambda y, f: 0.0, x, x), TypeError, "loss returned a float"),
        (RISK, (lambda y, f: f[:2, 0], x, x), BAD, "loss returned shape (2,) and y has (4, 3)"),
        (RISK, (SQUARED, x[:0], x[:0]), BAD, "y has shape (0, 3): there are no data"),
        (RISK, (SQUARED, column[:, 0], column), BAD, "would be stretched to N x N"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_a_sentence(function, arguments, error, sentence):
    arguments = [unchecked(a) if inspect.isfunction(a) else a for a in arguments]
    with pytest.raises(error, match=re.escape(sentence)) as refused:
        unchecked(function)(*arguments)
    assert ": " in str(refused.value)  # what was wrong and where, then what to do


def test_annotations_refuse_what_the_function_refuses():
    with pytest.raises(Exception, match="prediction") as refused:
        squared_error(column[:, 0], column)
    assert type(refused.value).__module__.startswith("jaxtyping")
