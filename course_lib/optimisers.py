r"""Optimisers as step functions, learning rate schedules and minibatches (chapter 4).

A step function changes the parameters in place: `momentum(params, grads, state, lr)`. What it must remember from one
step to the next stands in `state`, a dict that is {} before the first step; it holds tensors and numbers only, so that
it can be saved. Gradients are those of a mean over the batch.

The step functions call torch._foreach_* and torch._fused_*, one operation for a whole list of tensors, as torch.optim
does: on small networks the Python loop over the parameters would take longer than the arithmetic. Chapter 4 writes the
loop.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["OPTIMISERS", "Schedule", "adam", "learning_rate_schedule", "minibatches", "momentum", "nesterov", "sgd"]


# Step functions


@torch.no_grad()
def sgd(params: Sequence[Tensor], grads: Sequence[Tensor], state: dict, lr: float) -> None:
    """One step of gradient descent in place: theta <- theta - lr grad.

    Shapes: params and grads are lists (or tuples) of tensors of the same shapes. state is {} before the first step.
    Raises TypeError or ValueError for a rate that is not positive and finite, and, at the first step, for lists
    that are empty or do not fit each other.
    Chapter 4, equation def-sgd-step. H. Robbins and S. Monro, A Stochastic Approximation Method (1951).

    Examples:
        >>> theta, state = torch.tensor([1.0, 2.0]), {}
        >>> sgd([theta], [torch.tensor([4.0, 0.0])], state, lr=0.5)
        >>> theta
        tensor([-1.,  2.])
    """
    _begin(params, grads, state, lr)
    torch._foreach_add_(params, grads, alpha=-lr)


@torch.no_grad()
def momentum(params: Sequence[Tensor], grads: Sequence[Tensor], state: dict, lr: float, beta: float = 0.9) -> None:
    """One step with momentum in place: v <- beta v + grad, then theta <- theta - lr v.

    Shapes: params and grads are lists (or tuples) of tensors of the same shapes. state is {} before the first
    step, and holds the velocity v afterwards.
    Raises TypeError or ValueError as `sgd` does, and for beta outside [0, 1).
    Chapter 4, equation def-momentum. B. T. Polyak, Some methods of speeding up the convergence
    of iteration methods (1964), in the form of torch.optim.SGD.

    Examples:
        >>> theta, state = torch.tensor([0.0]), {}
        >>> for _ in range(2):
        ...     momentum([theta], [torch.tensor([1.0])], state, lr=0.1, beta=0.5)
        >>> theta  # -0.1 (1 + 1.5)
        tensor([-0.2500])
    """
    if _begin(params, grads, state, lr, beta=beta):
        state["velocity"] = [torch.zeros_like(grad) for grad in grads]
    velocity = state["velocity"] = torch._foreach_add(grads, state["velocity"], alpha=beta)
    torch._foreach_add_(params, velocity, alpha=-lr)


@torch.no_grad()
def nesterov(params: Sequence[Tensor], grads: Sequence[Tensor], state: dict, lr: float, beta: float = 0.9) -> None:
    """One step with Nesterov's momentum in place: v <- beta v + grad, then theta <- theta - lr (grad + beta v).

    Shapes: params and grads are lists (or tuples) of tensors of the same shapes. state is {} before the first
    step, and holds the velocity v afterwards.
    Raises TypeError or ValueError as `sgd` does, and for beta outside [0, 1).
    Chapter 4, equation eq-nesterov. Y. Nesterov, A method of solving a convex programming problem with convergence
    rate O(1/k^2) (1983), in the form of I. Sutskever et al. (2013) and torch.optim.SGD.

    Examples:
        >>> theta, state = torch.tensor([0.0]), {}
        >>> for _ in range(2):
        ...     nesterov([theta], [torch.tensor([1.0])], state, lr=0.1, beta=0.5)
        >>> theta  # -0.1 (1.5 + 1.75)
        tensor([-0.3250])
    """
    if _begin(params, grads, state, lr, beta=beta):
        state["velocity"] = [torch.zeros_like(grad) for grad in grads]
    velocity = state["velocity"] = torch._foreach_add(grads, state["velocity"], alpha=beta)
    torch._foreach_add_(params, grads, alpha=-lr)
    torch._foreach_add_(params, velocity, alpha=-lr * beta)


@torch.no_grad()
def adam(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    state: dict,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> None:
    """One step of Adam in place: theta <- theta - lr v' / (sqrt(s') + eps), entry by entry.

    v and s are running means of the gradient and of its square, v' and s' the same without the bias towards their
    start at zero: v' = v / (1 - betas[0]^t) and s' = s / (1 - betas[1]^t) in step t.
    Shapes: params and grads are lists (or tuples) of tensors of the same shapes. state is {} before the first
    step, and holds t, v and s afterwards.
    Raises TypeError or ValueError as `sgd` does, and for betas outside [0, 1) and an eps that is not positive and
    finite.
    Chapter 4, equations def-adam-means to def-adam-step. D. P. Kingma and J. Ba, Adam: A Method for Stochastic
    Optimization (2015), algorithm 1.

    Examples:
        >>> theta, state = torch.tensor([0.0, 0.0], dtype=torch.float64), {}
        >>> adam([theta], [torch.tensor([5.0, -0.001], dtype=torch.float64)], state, lr=0.1)
        >>> theta.round(decimals=4)  # the first step goes by lr, whatever the size of the gradient
        tensor([-0.1000,  0.1000], dtype=torch.float64)
    """
    if not 0 < eps < math.inf:
        raise ValueError(f"eps is {eps}: it must be positive and finite")
    if _begin(params, grads, state, lr, beta_1=betas[0], beta_2=betas[1]):
        state["mean"], state["square"] = ([torch.zeros_like(g).contiguous() for g in grads] for _ in range(2))
    mean, square, t = state["mean"], state["square"], state["step"]
    if _in_one_kernel(params, grads, mean, square):
        steps = [torch.scalar_tensor(t, dtype=torch.float32)] * len(params)
        options = {"beta1": betas[0], "beta2": betas[1], "eps": eps, "weight_decay": 0.0}
        torch._fused_adam_(params, grads, mean, square, [], steps, lr=lr, amsgrad=False, maximize=False, **options)
        return
    torch._foreach_lerp_(mean, grads, 1 - betas[0])
    torch._foreach_mul_(square, betas[1])
    torch._foreach_addcmul_(square, grads, grads, 1 - betas[1])
    scale = torch._foreach_sqrt(square)
    torch._foreach_div_(scale, math.sqrt(1 - betas[1] ** t))
    torch._foreach_add_(scale, eps)
    torch._foreach_addcdiv_(params, mean, scale, -lr / (1 - betas[0] ** t))


def _in_one_kernel(*lists):
    """Whether torch's one operation for the whole step may be used: it looks at neither shapes nor strides itself.

    It runs a tenth as long as the seven operations on small networks on the CPU; elsewhere each of the seven is one
    kernel for all tensors already.
    """
    return all(
        p.is_cpu and g.is_cpu and m.is_cpu and s.is_cpu and p.shape == g.shape == m.shape == s.shape
        and p.is_contiguous() and g.is_contiguous() and m.is_contiguous() and s.is_contiguous()
        for p, g, m, s in zip(*lists, strict=True)
    )  # fmt: skip


OPTIMISERS = {"sgd": sgd, "momentum": momentum, "nesterov": nesterov, "adam": adam}


def _begin(params, grads, state, lr, **betas):
    """Count the step; at the first one, look at everything else and return True."""
    if not 0 < lr < math.inf:
        raise ValueError(f"lr is {lr}: the learning rate must be positive and finite")
    if state:
        state["step"] += 1
        return False
    for name, beta in betas.items():
        if not 0 <= beta < 1:
            raise ValueError(f"{name} is {beta}: it must be at least 0 and less than 1")
    if not params:
        raise ValueError("params is empty: there is nothing to change")
    if len(params) != len(grads):
        raise ValueError(f"there are {len(params)} parameters and {len(grads)} gradients: give one for each")
    for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
        _check_pair(i, param, grad)
    state["step"] = 1
    return True


def _check_pair(i, param, grad):
    if not isinstance(param, Tensor):
        raise TypeError(f"params[{i}] is a {type(param).__name__}: give a list of tensors")
    if not isinstance(grad, Tensor):
        raise TypeError(f"grads[{i}] is a {type(grad).__name__}: give a gradient for each parameter")
    if not param.is_floating_point():
        raise TypeError(f"params[{i}] has dtype {param.dtype}: a parameter that is learned is a floating-point tensor")
    for what in ("shape", "dtype", "device"):
        of_param, of_grad = getattr(param, what), getattr(grad, what)
        if of_param != of_grad:
            of_param, of_grad = (tuple(v) if what == "shape" else v for v in (of_param, of_grad))
            raise ValueError(f"grads[{i}] has {what} {of_grad} but params[{i}] has {what} {of_param}: they must agree")


# Learning rates


@dataclass(frozen=True)
class Schedule:
    """A learning rate for each step: called with the number of steps done before, it returns the rate of the next.

    Made by `learning_rate_schedule`, which checks the numbers and explains them. Its repr says all that it depends on.
    Chapter 4, equation def-robbins-monro.

    Examples:
        >>> Schedule("constant", 0.1)(7)
        0.1
    """

    kind: str
    lr: float
    n_steps: int | None = None
    decay: float = 0.0
    power: float = 1.0
    warmup: int = 0

    def __call__(self, step: int) -> float:
        """The rate of the step that comes after `step` others.

        Raises ValueError for a cosine that is asked beyond its last step.

        Examples:
            >>> Schedule("inverse", 0.1, decay=1.0)(3)
            0.025
        """
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.lr * warm * SHAPES[self.kind](self, step)


def _constant(schedule, step):
    return 1.0


def _inverse(schedule, step):
    return (1 + schedule.decay * step) ** -schedule.power


def _cosine(schedule, step):
    if step >= schedule.n_steps:
        raise ValueError(
            f"this cosine schedule was made for {schedule.n_steps} steps and is asked for one more: "
            "give n_steps = number of epochs times number of batches"
        )
    return 0.5 * (1 + math.cos(math.pi * step / schedule.n_steps))


SHAPES = {"constant": _constant, "inverse": _inverse, "cosine": _cosine}


def learning_rate_schedule(
    kind: str,
    lr: float,
    *,
    n_steps: int | None = None,
    decay: float | None = None,
    power: float = 1.0,
    warmup: int = 0,
) -> Callable[[int], float]:
    """A function that gives the learning rate of step t = 0, 1, 2, ..., one for each batch and not for each epoch.

    kind "constant": lr. kind "inverse": lr / (1 + decay t)^power; it satisfies the conditions of Robbins and Monro for
    1/2 < power <= 1. kind "cosine": lr (1 + cos(pi t / n_steps)) / 2, which ends after n_steps steps.
    With warmup, the rates of the first `warmup` steps are multiplied by 1 / warmup, 2 / warmup, ..., 1.
    Raises TypeError or ValueError for an unknown kind, a missing number or one that the kind does not use, and numbers
    out of their range (lr > 0, decay > 0, power > 0, n_steps >= 1, warmup >= 0).
    Chapter 4, equation def-robbins-monro. H. Robbins and S. Monro, A Stochastic Approximation Method (1951).

    Examples:
        >>> rate = learning_rate_schedule("inverse", 0.5, decay=0.1)
        >>> rate(0), rate(10)
        (0.5, 0.25)
        >>> rate = learning_rate_schedule("cosine", 1.0, n_steps=100, warmup=10)
        >>> round(rate(0), 6), round(rate(50), 6)
        (0.1, 0.5)
    """
    needs = {"constant": (), "inverse": ("decay",), "cosine": ("n_steps",)}
    if kind not in needs:
        raise ValueError(f"kind is {kind!r}: give one of {', '.join(needs)}")
    for name, value in {"decay": decay, "n_steps": n_steps}.items():
        if name in needs[kind] and value is None:
            raise ValueError(f"a schedule of kind {kind!r} needs {name}=")
        if name not in needs[kind] and value is not None:
            raise ValueError(f"a schedule of kind {kind!r} does not use {name}: leave it out")
    if power != 1.0 and kind != "inverse":
        raise ValueError(f"a schedule of kind {kind!r} does not use power: leave it out")
    for name, value in {"lr": lr, "decay": decay, "power": power}.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}: it must be positive and finite")
    for name, value, least in (("n_steps", n_steps, 1), ("warmup", warmup, 0)):
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}: it must be {least} or more")
    return Schedule(kind, float(lr), n_steps, decay or 0.0, float(power), warmup)


# Minibatches


def minibatches(n: int, batch_size: int, generator: torch.Generator | None = None) -> tuple[Int[Tensor, " batch"], ...]:
    """The batches of one epoch: a fresh permutation of 0, ..., n - 1, cut into pieces.

    Every index comes exactly once. The last batch is shorter where batch_size does not divide n.
    Shapes: returns ceil(n / batch_size) tensors (batch_size), the last possibly shorter, on the generator's device.
    Raises TypeError or ValueError for n < 1 and a batch size outside 1, ..., n.
    Chapter 4, equation eq-number-of-batches.

    Examples:
        >>> batches = minibatches(5, 2, torch.Generator().manual_seed(0))
        >>> [len(batch) for batch in batches], torch.cat(batches).sort().values
        ([2, 2, 1], tensor([0, 1, 2, 3, 4]))
    """
    for name, value in {"n": n, "batch_size": batch_size}.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} is a {type(value).__name__}: give an int")
        if value < 1:
            raise ValueError(f"{name} is {value}: it must be 1 or more")
    if batch_size > n:
        raise ValueError(f"batch_size is {batch_size} and there are {n} data: a batch cannot be larger than the data")
    device = generator.device if generator is not None else None
    return torch.randperm(n, generator=generator, device=device).split(batch_size)
