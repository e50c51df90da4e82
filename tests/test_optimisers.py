"""Optimisers against torch.optim, exact recursions and their definitions; schedules and minibatches."""

import inspect
import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from course_lib import optimisers
from course_lib.networks import MLP
from course_lib.optimisers import (
    OPTIMISERS,
    Schedule,
    adam,
    learning_rate_schedule,
    minibatches,
    momentum,
    nesterov,
    sgd,
)

close = torch.testing.assert_close
unchecked = inspect.unwrap
quick = settings(max_examples=50, deadline=None, derandomize=True)

TORCH = {
    "sgd": lambda params, lr: torch.optim.SGD(params, lr=lr),
    "momentum": lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9),
    "nesterov": lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9, nesterov=True),
    "adam": lambda params, lr: torch.optim.Adam(params, lr=lr),
}
each = pytest.mark.parametrize("name", OPTIMISERS)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


# Values


@each
@pytest.mark.parametrize("foreach", [False, True])
def test_a_hundred_steps_on_a_network_equal_torch(name, foreach, generator):
    """With minibatches, so that the gradient is another one in each step."""
    x, y = (torch.randn(60, n, generator=generator, dtype=torch.float64) for n in (3, 2))
    ours = MLP((3, 8, 2), generator=generator, dtype=torch.float64)
    theirs = MLP((3, 8, 2), dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    state, reference = {}, TORCH[name](theirs.parameters(), 0.01)
    reference.param_groups[0]["foreach"] = foreach
    params = list(ours.parameters())
    for _ in range(10):
        for batch in minibatches(60, 6, generator):
            grads = torch.autograd.grad((ours(x[batch]) - y[batch]).square().mean(), params)
            OPTIMISERS[name](params, list(grads), state, 0.01)
            reference.zero_grad()
            (theirs(x[batch]) - y[batch]).square().mean().backward()
            reference.step()
    assert state["step"] == 100
    for p, q in zip(params, theirs.parameters(), strict=True):
        close(p, q, rtol=0, atol=1e-12)


@each
def test_a_hundred_steps_on_a_quadratic_equal_torch(name):
    ours, theirs = tensor(1.0, -2.0, 3.0), tensor(1.0, -2.0, 3.0).requires_grad_()
    eigenvalues = tensor(1.0, 5.0, 0.0)  # one direction has no slope at all
    state, reference = {}, TORCH[name]([theirs], 0.05)
    for _ in range(100):
        OPTIMISERS[name]([ours], [eigenvalues * ours], state, 0.05)
        reference.zero_grad()
        (0.5 * eigenvalues * theirs.square()).sum().backward()
        reference.step()
    close(ours, theirs.detach(), rtol=0, atol=1e-12)


def test_options_equal_torch(generator):
    theta = torch.randn(4, generator=generator, dtype=torch.float64)
    for ours, theirs in (
        (lambda *a: momentum(*a, beta=0.5), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5)),
        (lambda *a: nesterov(*a, beta=0.99), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.99, nesterov=True)),
        (lambda *a: adam(*a, (0.8, 0.95), 1e-3), lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.95), eps=1e-3)),
        (lambda *a: adam(*a, (0.0, 0.0)), lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.0, 0.0))),
    ):
        p, q, state = theta.clone(), theta.clone().requires_grad_(), {}
        reference = theirs([q])
        for _ in range(100):
            ours([p], [p.sin()], state, 0.1)
            q.grad = q.detach().sin()
            reference.step()
        close(p, q.detach(), rtol=0, atol=1e-12)


@quick
@given(st.floats(0.01, 2.5), st.floats(0.1, 3), st.integers(1, 30))
def test_gradient_descent_on_a_quadratic_is_a_power(lr, eigenvalue, steps):
    theta, state = tensor(1.0), {}
    for _ in range(steps):
        sgd([theta], [eigenvalue * theta], state, lr)
    assert theta.item() == pytest.approx((1 - lr * eigenvalue) ** steps, rel=1e-9, abs=1e-12)


def test_without_momentum_all_three_are_gradient_descent(generator):
    grads = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    results = []
    for step in (sgd, lambda *a: momentum(*a, beta=0.0), lambda *a: nesterov(*a, beta=0.0)):
        theta, state = tensor(0.0, 0.0, 0.0), {}
        for grad in grads:
            step([theta], [grad], state, 0.1)
        results.append(theta)
    assert torch.equal(results[0], results[1])
    close(results[0], results[2], rtol=1e-15, atol=1e-15)


@quick
@given(st.floats(1e-5, 1e5))
def test_adam_does_not_see_the_unit_of_the_loss(scale):
    """With a tiny eps, a loss that is multiplied by a number gives the same steps."""
    one, other, states = tensor(1.0, -3.0), tensor(1.0, -3.0), ({}, {})
    for _ in range(20):
        adam([one], [one.sin()], states[0], 0.1, eps=1e-300)
        adam([other], [scale * other.sin()], states[1], 0.1, eps=1e-300)
    close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adam_in_one_kernel_equals_adam_in_seven(dtype, generator, monkeypatch):
    shapes = [(3, 2), (), (5,), (2, 1, 4)]
    grads = [[torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes] for _ in range(50)]
    results = []
    for kernels in (1, 7):
        if kernels == 7:
            monkeypatch.setattr(optimisers, "_in_one_kernel", lambda *lists: False)
            monkeypatch.setattr(torch, "_fused_adam_", None)
        else:
            monkeypatch.setattr(torch, "_foreach_addcdiv_", None)
        params, state = [torch.ones(shape, dtype=dtype) for shape in shapes], {}
        for t, gradients in enumerate(grads):
            adam(params, gradients, state, 0.1 / (1 + t), (0.8, 0.99), 1e-3)
        monkeypatch.undo()
        results.append([*params, *state["mean"], *state["square"]])
    close(*results)


@pytest.mark.parametrize("params_too", [True, False])
def test_adam_on_tensors_that_do_not_lie_in_one_piece(params_too, generator):
    """Transposed, cut out, stretched: torch's kernel would take one entry for another. Now in one list, now in one."""

    def made(n):
        square, wide = (torch.randn(n, 2 * n, generator=generator, dtype=torch.float64) for _ in range(2))
        return [square.T, wide[:, ::2], torch.ones(n, dtype=torch.float64)]

    params, state = made(3), {}
    params = params if params_too else [param.contiguous() for param in params]
    theirs = [param.clone().contiguous().requires_grad_() for param in params]
    reference = torch.optim.Adam(theirs, lr=0.1)
    for step in range(20):
        grads = made(3)
        grads[2] = torch.tensor(1.0 + step, dtype=torch.float64).expand(3)
        if step % 2:
            grads = [grad.contiguous() for grad in grads]
        adam(params, grads, state, 0.1)
        for param, grad in zip(theirs, grads, strict=True):
            param.grad = grad.contiguous()
        reference.step()
    for ours, other in zip(params, theirs, strict=True):
        close(ours, other.detach(), rtol=0, atol=1e-12)


def test_adam_does_not_read_beyond_a_gradient_that_became_too_short():
    params, state = [torch.ones(4)], {}
    adam(params, [torch.ones(4)], state)
    for grads in ([torch.ones(2)], [torch.ones(4, dtype=torch.float64)]):
        with pytest.raises(RuntimeError):
            adam(params, grads, state)


@each
def test_steps_are_in_place_and_leave_the_gradients_alone(name, generator):
    params = [torch.nn.Parameter(torch.randn(3, 2, generator=generator)), torch.nn.Parameter(torch.zeros(2))]
    grads = [torch.ones(3, 2), torch.ones(2)]
    places, state = [p.data_ptr() for p in params], {}
    for _ in range(3):
        OPTIMISERS[name](params, grads, state, 0.1)
    assert [p.data_ptr() for p in params] == places
    assert all(torch.equal(grad, torch.ones_like(grad)) for grad in grads)
    assert all(p.grad is None and p.requires_grad for p in params)


@each
def test_a_saved_state_goes_on_as_if_nothing_had_happened(name):
    theta, state = tensor(1.0, 2.0), {}
    for _ in range(5):
        OPTIMISERS[name]([theta], [theta.sin()], state, 0.1)
    file = io.BytesIO()
    torch.save({"theta": theta, "state": state}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    for _ in range(5):
        OPTIMISERS[name]([theta], [theta.sin()], state, 0.1)
        OPTIMISERS[name]([saved["theta"]], [saved["theta"].sin()], saved["state"], 0.1)
    assert torch.equal(theta, saved["theta"])


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_device_are_kept(name, dtype, device):
    theta, state = torch.ones(3, dtype=dtype, device=device), {}
    OPTIMISERS[name]([theta], [theta.clone()], state, 0.1)
    assert (theta.dtype, theta.device.type) == (dtype, device.type)
    for entry in state.values():
        assert isinstance(entry, int) or all((t.dtype, t.device.type) == (dtype, device.type) for t in entry)


@each
def test_makes_no_cpu_tensor_for_a_gpu(name):
    with FakeTensorMode(), torch.no_grad():
        theta, state = torch.ones(3, device="cuda"), {}
        for _ in range(2):
            OPTIMISERS[name]([theta], [torch.ones(3, device="cuda")], state, 0.1)
        assert all(isinstance(entry, int) or entry[0].device.type == "cuda" for entry in state.values())


# Bad input


@each
@pytest.mark.parametrize(
    ("params", "grads", "lr", "error", "message"),
    [
        ([tensor(1.0)], [tensor(1.0)], 0.0, ValueError, "lr is 0.0: the learning rate must be positive"),
        ([tensor(1.0)], [tensor(1.0)], -1.0, ValueError, "lr is -1.0"),
        ([tensor(1.0)], [tensor(1.0)], math.nan, ValueError, "lr is nan"),
        ([tensor(1.0)], [tensor(1.0)], math.inf, ValueError, "lr is inf"),
        ([], [], 0.1, ValueError, "params is empty"),
        ([tensor(1.0)], [], 0.1, ValueError, "there are 1 parameters and 0 gradients"),
        ([tensor(1.0)], [None], 0.1, TypeError, r"grads\[0\] is a NoneType: give a gradient for each parameter"),
        ([1.0], [tensor(1.0)], 0.1, TypeError, r"params\[0\] is a float"),
        ([torch.ones(1, dtype=torch.int64)], [tensor(1.0)], 0.1, TypeError, r"params\[0\] has dtype torch.int64"),
        ([tensor(1.0, 2.0)], [tensor(1.0)], 0.1, ValueError, r"grads\[0\] has shape \(1,\) but params\[0\] has shape"),
        ([tensor(1.0)], [torch.ones(1)], 0.1, ValueError, r"grads\[0\] has dtype torch.float32 but params\[0\]"),
        ([tensor(1.0)], [tensor(1.0).to("meta")], 0.1, ValueError, r"grads\[0\] has device meta but params\[0\]"),
    ],
)
def test_bad_parameters_and_rates(name, params, grads, lr, error, message):
    with pytest.raises(error, match=message):
        unchecked(OPTIMISERS[name])(params, grads, {}, lr)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda *a: momentum(*a, beta=1.0), "beta is 1.0: it must be at least 0 and less than 1"),
        (lambda *a: nesterov(*a, beta=-0.1), "beta is -0.1"),
        (lambda *a: adam(*a, betas=(0.9, 1.0)), "beta_2 is 1.0"),
        (lambda *a: adam(*a, betas=(math.nan, 0.9)), "beta_1 is nan"),
        (lambda *a: adam(*a, eps=0.0), "eps is 0.0: it must be positive"),
    ],
)
def test_bad_options(step, message):
    with pytest.raises(ValueError, match=message):
        step([tensor(1.0)], [tensor(1.0)], {}, 0.1)


@pytest.mark.parametrize(
    "step",
    [
        lambda *a: momentum(*a, -1.0),
        lambda *a: momentum(*a, 0.1, beta=1.0),
        lambda *a: adam(*a, eps=0.0),
        lambda params, grads, state: adam(params, [], state),
    ],
)
def test_a_refused_first_step_leaves_the_state_empty(step):
    state = {}
    with pytest.raises(ValueError, match=r"must be|there are"):
        step([tensor(1.0)], [tensor(1.0)], state)
    assert state == {}


# Schedules


def test_schedules_have_the_values_of_their_formulas():
    inverse = learning_rate_schedule("inverse", 0.3, decay=0.2, power=0.75)
    cosine = learning_rate_schedule("cosine", 0.3, n_steps=40)
    warm = learning_rate_schedule("constant", 0.3, warmup=5)
    for t in range(40):
        assert learning_rate_schedule("constant", 0.3)(t) == 0.3
        assert inverse(t) == pytest.approx(0.3 / (1 + 0.2 * t) ** 0.75)
        assert cosine(t) == pytest.approx(0.3 * math.cos(math.pi * t / 80) ** 2)  # the half-angle formula
        assert warm(t) == pytest.approx(0.3 * min(t + 1, 5) / 5)
    assert cosine(39) > 0


def test_schedules_agree_with_torch(generator):
    """torch's schedulers count the same steps."""
    falling = {"lr_lambda": lambda t: 1 / (1 + 0.5 * t)}
    for ours, theirs in (
        (
            learning_rate_schedule("cosine", 0.3, n_steps=20),
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=20),
        ),
        (
            learning_rate_schedule("inverse", 0.3, decay=0.5),
            lambda o: torch.optim.lr_scheduler.LambdaLR(o, **falling),
        ),
    ):
        optimiser = torch.optim.SGD([tensor(1.0).requires_grad_()], lr=0.3)
        scheduler = theirs(optimiser)
        for t in range(20):
            assert ours(t) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9, abs=1e-12)
            optimiser.step()
            scheduler.step()


@pytest.mark.parametrize(("power", "sum_diverges", "squares_converge"), [(1.0, True, True), (0.5, True, False)])
def test_the_inverse_schedule_and_the_conditions_of_robbins_and_monro(power, sum_diverges, squares_converge):
    """The sums over the second half of ever longer runs: of the rates, and of their squares."""
    rate = learning_rate_schedule("inverse", 1.0, decay=1.0, power=power)
    halves = [[rate(t) for t in range(n, 2 * n)] for n in (100, 1000, 10_000)]
    assert (min(map(sum, halves)) > 0.6) == sum_diverges
    assert (sum(r * r for r in halves[-1]) < 1e-4) == squares_converge


def test_a_schedule_says_what_it_is():
    rate = learning_rate_schedule("cosine", 0.3, n_steps=40, warmup=2)
    assert rate == Schedule("cosine", 0.3, n_steps=40, warmup=2)
    assert repr(rate) == "Schedule(kind='cosine', lr=0.3, n_steps=40, decay=0.0, power=1.0, warmup=2)"


@pytest.mark.parametrize(
    ("kind", "lr", "options", "message"),
    [
        ("linear", 0.1, {}, "kind is 'linear': give one of constant, inverse, cosine"),
        ("inverse", 0.1, {}, "kind 'inverse' needs decay="),
        ("cosine", 0.1, {}, "kind 'cosine' needs n_steps="),
        ("constant", 0.1, {"decay": 1.0}, "kind 'constant' does not use decay"),
        ("cosine", 0.1, {"n_steps": 5, "power": 0.5}, "kind 'cosine' does not use power"),
        ("constant", 0.0, {}, "lr is 0.0: it must be positive"),
        ("constant", math.nan, {}, "lr is nan"),
        ("inverse", 0.1, {"decay": -1.0}, "decay is -1.0"),
        ("inverse", 0.1, {"decay": 1.0, "power": 0.0}, "power is 0.0"),
        ("cosine", 0.1, {"n_steps": 0}, "n_steps is 0: it must be 1 or more"),
        ("constant", 0.1, {"warmup": -1}, "warmup is -1: it must be 0 or more"),
    ],
)
def test_bad_schedules(kind, lr, options, message):
    with pytest.raises(ValueError, match=message):
        learning_rate_schedule(kind, lr, **options)


def test_a_cosine_ends():
    rate = learning_rate_schedule("cosine", 0.3, n_steps=40)
    with pytest.raises(ValueError, match="made for 40 steps and is asked for one more"):
        rate(40)


# Minibatches


@quick
@given(st.integers(1, 40), st.data())
def test_every_index_comes_once(n, data):
    b = data.draw(st.integers(1, n))
    batches = minibatches(n, b, torch.Generator().manual_seed(0))
    assert len(batches) == math.ceil(n / b)
    assert [len(batch) for batch in batches[:-1]] == [b] * (len(batches) - 1)
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(n))


def test_each_epoch_has_its_own_permutation(generator):
    one, two = minibatches(50, 5, generator), minibatches(50, 5, generator)
    assert not torch.equal(torch.cat(one), torch.cat(two))
    again = minibatches(50, 5, torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat(one), torch.cat(again))


def test_every_batch_is_equally_likely(generator):
    """All 15 pairs of 6 data, over 10,000 epochs of three batches."""
    counts = torch.zeros(6, 6, dtype=torch.int64)
    for _ in range(10_000):
        for i, j in minibatches(6, 2, generator):
            counts[min(i, j), max(i, j)] += 1
    counts = counts[counts > 0]
    assert len(counts) == 15
    assert (counts - 2000).abs().max() < 5 * 2000**0.5


@pytest.mark.parametrize(
    ("n", "b", "error", "message"),
    [
        (5, 6, ValueError, "batch_size is 6 and there are 5 data"),
        (5, 0, ValueError, "batch_size is 0: it must be 1 or more"),
        (0, 1, ValueError, "n is 0: it must be 1 or more"),
        (5, 2.0, TypeError, "batch_size is a float: give an int"),
        (True, 1, TypeError, "n is a bool"),
    ],
)
def test_bad_batches(n, b, error, message):
    with pytest.raises(error, match=message):
        unchecked(minibatches)(n, b)
