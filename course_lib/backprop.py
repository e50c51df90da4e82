r"""Backpropagation by hand, and a small automatic differentiation (chapter 5).

With delta^(l) = dR/da^(l), a row for each datum, the backward step goes from layer D down to layer 1:

    delta^(l) = (delta^(l+1) W^(l+1)) * g_l'(a^(l)),    dR/dW^(l) = delta^(l)' h^(l-1),    dR/db^(l) = sum of the rows.

Nothing here asks autograd for anything. `Scalar` differentiates any expression of numbers by the same idea.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor, mm
from torch.nn.functional import linear

from course_lib._validation import bounds, check_finite, check_types, member, values_are_known
from course_lib.losses import cross_entropy_loss, squared_error
from course_lib.networks import ACTIVATIONS, MLP

__all__ = ["Scalar", "backward", "count_multiply_adds", "forward_backward", "numerical_gradient"]


# Networks


def forward_backward(
    mlp: MLP, x: Float[Tensor, "N d"], y: Tensor, loss: str | Callable
) -> tuple[Float[Tensor, ""], list[Tensor]]:
    """Mean loss of a network over the rows of x, and its gradient by backpropagation, without autograd.

    loss is "squared_error" or "cross_entropy", or one of the functions `squared_error` and `cross_entropy_loss` of
    course_lib.losses. For the cross-entropy the output of the network holds the logits.
    Shapes: x (N, d); y (N, K) for the squared error, (N) integer classes for the cross-entropy. Returns the loss, a
    scalar in the unit of the loss for each datum, and the gradients in the order of mlp.parameters().
    Raises TypeError or ValueError for wrong types, shapes or devices, classes out of range, no data, NaN anywhere,
    infinity in x or y, and a loss that is not finite. An infinite weight or bias that only saturates a neuron, so that
    the loss and the gradient of the first weights stay finite, is not looked for.
    Chapter 5, equations eq-bp-rows-recurrence and eq-bp-rows-parameters. D. E. Rumelhart, G. E. Hinton, R. J.
    Williams, Learning representations by back-propagating errors, Nature 323 (1986).

    Examples:
        >>> mlp = MLP((1, 1), output="sigmoid", dtype=torch.float64)
        >>> with torch.no_grad():
        ...     _ = mlp.weights[0].fill_(0.5), mlp.biases[0].fill_(-1.0)
        >>> x, y = torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([[1.0]], dtype=torch.float64)
        >>> value, (weight, bias) = forward_backward(mlp, x, y, "squared_error")
        >>> value.item(), weight.item(), bias.item()
        (0.25, -0.5, -0.25)
    """
    check_y, loss_and_slope = _loss(loss)
    W, b, g = _layers_of(mlp)
    with torch.no_grad():
        try:
            a, h = _forward(W, b, g, x)
            value, slope = loss_and_slope(y, h[-1])
        except Exception:  # only now is it asked what is wrong: on a small network, to ask takes a tenth of the step
            _check_x(x, W[1])
            check_y(y, x, len(W[-1]))
            raise
        gradients, _ = _backward(W, g, a, h, slope, to_input=False)
        # NaN reaches the loss; infinity in x or y reaches the loss, or the gradient of the first weight
        if values_are_known(value) and not math.isfinite(value.item() + gradients[0].sum().item()):
            _explain_not_finite(value, gradients, x=x, y=y, **dict(mlp.named_parameters()))
    return value, gradients


def backward(
    mlp: MLP, a: Sequence[Tensor], h: Sequence[Tensor], grad_output: Float[Tensor, "N K"]
) -> tuple[list[Tensor], Float[Tensor, "N d"]]:
    """The backward step alone, for a loss of your own: gradients from the derivative of the loss by the output.

    Shapes: a and h as mlp.layers(x) returns them, with x (N, d); grad_output (N, K), the derivative of the loss by each
    entry of h[-1]. Returns the gradients in the order of mlp.parameters(), and the gradient by x, (N, d).
    Raises TypeError or ValueError for layers or a grad_output that do not fit the network.
    Chapter 5, equation eq-bp-rows-recurrence. D. E. Rumelhart, G. E. Hinton, R. J. Williams, Learning representations
    by back-propagating errors, Nature 323 (1986).

    Examples:
        >>> mlp = MLP((2, 3, 1), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> x = torch.ones(5, 2, dtype=torch.float64)
        >>> a, h = mlp.layers(x)
        >>> gradients, by_x = backward(mlp, a, h, torch.ones(5, 1, dtype=torch.float64))
        >>> [tuple(gradient.shape) for gradient in gradients], tuple(by_x.shape)
        ([(3, 2), (1, 3), (3,), (1,)], (5, 2))
    """
    W, _, g = _layers_of(mlp)
    if len(a) != len(W) - 1 or len(h) != len(W):
        raise ValueError(f"a has {len(a)} entries and h {len(h)}: give both as mlp.layers(x) returns them")
    _check_x(h[0], W[1])
    check_types({"h[-1]": h[-1], "grad_output": grad_output})
    if grad_output.shape != h[-1].shape:
        raise ValueError(
            f"grad_output has shape {tuple(grad_output.shape)} and the output {tuple(h[-1].shape)}: give the "
            "derivative of the loss by each entry of the output"
        )
    with torch.no_grad():
        return _backward(W, g, [None, *a], h, grad_output.clone(), to_input=True)


def _forward(W, b, g, x):
    """a^(1), ..., a^(D) and h^(0), ..., h^(D), where the number of the layer is the index."""
    if x.ndim != 2 or x.size(0) == 0:
        raise _MisfitError
    a, h = [None], [x]
    for ell in range(1, len(W)):
        a.append(linear(h[ell - 1], W[ell], b[ell]))
        h.append(g[ell].function(a[ell]))
    return a, h


def _backward(W, g, a, h, slope, to_input):
    """The recurrence. `slope` is the derivative by h^(l); delta, the derivative by a^(l), overwrites it."""
    by_W, by_b = [], []
    for ell in range(len(W) - 1, 0, -1):
        delta = _times_derivative(slope, g[ell], a[ell], h[ell])
        by_W.append(mm(delta.T, h[ell - 1]))
        by_b.append(delta.sum(0))
        if ell > 1 or to_input:
            slope = mm(delta, W[ell])
    return by_W[::-1] + by_b[::-1], slope


def _times_derivative(slope, g, a, h):
    """slope * g'(a), written over slope."""
    fused = _FUSED.get(g)
    return fused(slope, h) if fused else slope.mul_(g.derivative(a, h))


# The same products in fewer operations, which save a tenth of the step of a small network.
_FUSED = {
    ACTIVATIONS["identity"]: lambda slope, h: slope,
    ACTIVATIONS["tanh"]: lambda slope, h: slope.addcmul_(slope, h * h, value=-1),  # s (1 - h^2) = s - s h^2
    ACTIVATIONS["relu"]: lambda slope, h: slope.mul_(h.sign()),  # h is not negative
}


def _squared_error(y, prediction):
    """The mean over the rows, and its derivative by the prediction."""
    if y.shape != prediction.shape or y.dtype is not prediction.dtype:  # else one would be stretched or converted
        raise _MisfitError
    gap = prediction - y
    return gap.square().sum() / len(y), gap.mul_(2 / len(y))


def _cross_entropy(y, logits):
    """The mean over the rows, and its derivative by the logits: softmax minus one-hot."""
    n = logits.size(0)
    if y.ndim != 1 or y.size(0) != n or y.dtype not in _INTEGERS:
        raise _MisfitError
    if not y.is_cpu:  # there a class out of range is an exception; on other devices it may end the process
        if y.device != logits.device:
            raise _MisfitError
        _check_range(y, logits.size(1))
    log_softmax = logits.log_softmax(1)
    minus_one_hot = torch.zeros_like(logits).scatter_(1, y.long().unsqueeze(1), -1 / n)
    value = (minus_one_hot * log_softmax).sum()
    return value, minus_one_hot.add_(log_softmax.exp_(), alpha=1 / n)


class _MisfitError(Exception):
    """Something does not fit; the checks below find out what, and say it."""


def count_multiply_adds(sizes: Sequence[int]) -> tuple[int, int]:
    """Multiplications with an addition that one datum costs: in the forward step, and in the backward step.

    sizes are those of the network, from the input to the output. Only products with weights are counted, not the
    activations and biases, whose number grows with the widths and not with their products.
    Raises ValueError for fewer than two sizes, or one below 1.
    Chapter 5, equations eq-bp-cost-forward and eq-bp-cost-backward. A. Griewank, A. Walther, Evaluating Derivatives
    (2008), chapter 4.

    Examples:
        >>> count_multiply_adds((64, 256, 256, 10))
        (84480, 152576)
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes is {tuple(sizes)}: give the width of the input and of each layer, each at least 1")
    products = [into * out for into, out in pairwise(sizes)]
    return sum(products), sum(products) + sum(products[1:])


def numerical_gradient(
    function: Callable[[], Tensor], params: Sequence[Tensor], step: float | None = None
) -> list[Tensor]:
    """Gradient of a scalar function by central differences, to check another one: two calls for each parameter.

    Every entry of every tensor is moved in place by the step and back, and the function called without arguments.
    The step defaults to the cube root of the machine's epsilon, near the best one for numbers of order one. There about
    four digits are right in float32, and ten in float64.
    Shapes: the function returns a scalar. Returns tensors of the shapes of params.
    Raises TypeError or ValueError for parameters that are no finite floating-point tensors, a function that returns
    more than one number, and a step that is not positive, or lost beside a large entry.
    Chapter 5, equation eq-bp-step-central. J. Nocedal, S. J. Wright, Numerical Optimization (2006), section 8.1.

    Examples:
        >>> t = torch.tensor([1.0, 2.0], dtype=torch.float64)
        >>> [gradient] = numerical_gradient(lambda: (t**3).sum(), [t])
        >>> gradient.round(decimals=6)
        tensor([ 3., 12.], dtype=torch.float64)
    """
    if step is not None and not 0 < step < math.inf:
        raise ValueError(f"step is {step}: it must be positive")
    with torch.no_grad():
        return [_differences(function, param, step, f"params[{k}]") for k, param in enumerate(params)]


def _differences(function, param, step, name):
    check_types({name: param})
    check_finite(name, param)
    step = step or torch.finfo(param.dtype).eps ** (1 / 3)
    gradient = torch.empty_like(param)
    for index in map(tuple, torch.ones_like(param).nonzero().tolist()):
        middle, ends = param[index].clone(), []
        try:
            for end in (middle + step, middle - step):
                param[index] = end
                ends.append((function(), end))
        finally:
            param[index] = middle
        (above, right), (below, left) = ends
        if not left < right:
            raise ValueError(
                f"{member(name, list(index))} is {middle.item():g}: a step of {step:g} is lost in rounding there; "
                "scale the parameters, or give a larger step"
            )
        if not isinstance(above, Tensor) or above.numel() != 1:
            what = f"shape {tuple(above.shape)}" if isinstance(above, Tensor) else f"a {type(above).__name__}"
            raise ValueError(f"function returned {what}: it must return a tensor with one number")
        gradient[index] = (above - below) / (right - left)  # the step as it was after rounding
    return gradient


# Numbers


class Scalar:
    """A number that remembers what it was computed from, so that derivatives can go back through it.

    After `R.backward()`, the attribute `grad` of every Scalar that R was computed from is dR by it. `parents` are the
    Scalars that a result was computed from, `local` its derivatives by them, `name` the operation or the name given.
    Raises TypeError for what is not a real number, ValueError for NaN, infinity, and results or slopes that are none.
    Chapter 5, equation eq-bp-chain-rule. A. Griewank, A. Walther, Evaluating Derivatives (2008), chapter 3;
    the shape of the class follows A. Karpathy, micrograd (2020).

    Examples:
        >>> u, v = Scalar(2.0), Scalar(3.0)
        >>> R = u * v + u**2
        >>> R.backward()
        >>> R.value, u.grad, v.grad  # u is used twice: v + 2 u
        (10.0, 7.0, 2.0)
    """

    def __init__(self, value, parents=(), local=(), name=""):
        if not isinstance(value, Real):
            raise TypeError(f"{name or 'the value'} is a {type(value).__name__}: give a real number or a Scalar")
        self.value, self.grad = _unbounded(float, value), 0.0  # an integer may be too large for a float
        self.parents, self.local, self.name = parents, local, name
        if not all(map(math.isfinite, (self.value, *local))):
            of = ", ".join(f"{parent.value:g}" for parent in parents)
            raise ValueError(f"{name}({of}) is {self.value:g}, slopes {list(local)}: every number must be finite")

    def __repr__(self):
        return f"Scalar({self.value:g}, grad={self.grad:g})"

    def __add__(self, other):
        other = _as_scalar(other)
        return Scalar(self.value + other.value, (self, other), (1.0, 1.0), "+")

    def __sub__(self, other):
        other = _as_scalar(other)
        return Scalar(self.value - other.value, (self, other), (1.0, -1.0), "-")

    def __mul__(self, other):
        other = _as_scalar(other)
        return Scalar(self.value * other.value, (self, other), (other.value, self.value), "*")

    def __truediv__(self, other):
        other = _as_scalar(other)
        if other.value == 0:
            raise ValueError(f"{self.value:g} / 0: a divisor must not be zero")
        ratio = self.value / other.value
        return Scalar(ratio, (self, other), (1 / other.value, -ratio / other.value), "/")

    def __pow__(self, n):
        if isinstance(n, Scalar):  # the exponent has a derivative too
            return (n * self.log()).exp()
        n = Scalar(n).value
        if (self.value < 0 and n != int(n)) or (self.value == 0 and n < 1 and n != 0):
            raise ValueError(f"{self.value:g} ** {n:g} has no value or no slope: the base must be positive here")
        slope = n * _unbounded(pow, self.value, n - 1) if n else 0.0
        return Scalar(_unbounded(pow, self.value, n), (self,), (slope,), f"**{n:g}")

    def __neg__(self):
        return 0.0 - self

    def __radd__(self, other):
        return _as_scalar(other) + self

    def __rsub__(self, other):
        return _as_scalar(other) - self

    def __rmul__(self, other):
        return _as_scalar(other) * self

    def __rtruediv__(self, other):
        return _as_scalar(other) / self

    def __rpow__(self, other):
        return _as_scalar(other) ** self

    def exp(self):
        """Exponential function, with itself for slope.

        Raises ValueError for a result beyond the range of float64.

        Examples:
            >>> Scalar(0.0).exp()
            Scalar(1, grad=0)
        """
        value = _unbounded(math.exp, self.value)
        return Scalar(value, (self,), (value,), "exp")

    def log(self):
        """Natural logarithm, with slope 1 / value.

        Raises ValueError for a number that is not positive.

        Examples:
            >>> Scalar(1.0).log()
            Scalar(0, grad=0)
        """
        if self.value <= 0:
            raise ValueError(f"log({self.value:g}) does not exist: the number must be positive")
        return Scalar(math.log(self.value), (self,), (1 / self.value,), "log")

    def tanh(self):
        """Hyperbolic tangent h, with slope 1 - h**2.

        Examples:
            >>> Scalar(0.0).tanh()
            Scalar(0, grad=0)
        """
        h = math.tanh(self.value)
        return Scalar(h, (self,), (1 - h**2,), "tanh")

    def relu(self):
        """The number if it is positive, else zero; its slope at zero is zero, by convention.

        Examples:
            >>> Scalar(-2.0).relu()
            Scalar(0, grad=0)
        """
        return Scalar(max(self.value, 0.0), (self,), (float(self.value > 0),), "relu")

    def graph(self):
        """All Scalars that this one was computed from, itself last, each after its parents.

        Examples:
            >>> (Scalar(2.0, name="u") * 3).graph()
            [Scalar(3, grad=0), Scalar(2, grad=0), Scalar(6, grad=0)]
        """
        order, seen, stack = [], set(), [(self, False)]
        while stack:  # a loop and not a recursion, which ends at a thousand levels
            node, parents_are_done = stack.pop()
            if parents_are_done:
                order.append(node)
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend((parent, False) for parent in node.parents)
        return order

    def backward(self):
        """Set `grad` of every Scalar in the graph to the derivative of this one by it, starting afresh.

        Chapter 5, equation eq-bp-chain-rule.

        Examples:
            >>> u = Scalar(3.0)
            >>> (u * u).backward()
            >>> u.grad
            6.0
        """
        order = self.graph()
        for node in order:
            node.grad = 0.0
        self.grad = 1.0
        for node in reversed(order):
            for parent, local in zip(node.parents, node.local, strict=True):
                parent.grad += node.grad * local  # a value that is used twice receives twice


def _as_scalar(other):
    return other if isinstance(other, Scalar) else Scalar(other)


def _unbounded(function, *arguments):
    """The value of a function, infinite where Python would speak of an overflow."""
    try:
        return function(*arguments)
    except OverflowError:
        return math.inf


# Checks


def _layers_of(mlp):
    """Weights, biases and activations, each a list in which the number of the layer is the index: 1, ..., D."""
    if not isinstance(mlp, MLP):
        raise TypeError(f"mlp is a {type(mlp).__name__}: give a course_lib.networks.MLP")
    # A loop over a ParameterList looks each entry up by name; on a small network it would take a tenth of the step.
    weights, biases = mlp._modules["weights"]._parameters.values(), mlp._modules["biases"]._parameters.values()
    return [None, *weights], [None, *biases], [None, *mlp.activations()]


def _loss(loss):
    """What checks y for this loss, and what computes the loss and its slope."""
    try:
        return _LOSSES[loss]
    except (KeyError, TypeError):
        raise ValueError(
            f'loss is {loss!r}: give "squared_error" or "cross_entropy", or that function of course_lib.losses'
        ) from None


def _check_x(x, W):
    check_types({"x": x, "the first weight": W})
    if x.ndim != 2 or x.shape[1] != W.shape[1]:
        raise ValueError(
            f"x has shape {tuple(x.shape)}: the network takes (N, {W.shape[1]}), a row for each datum; "
            "a single datum is x[None]"
        )
    if len(x) == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: there are no data, and so there is no mean")


def _check_targets(y, x, n_outputs):
    check_types({"x": x, "y": y})
    if y.shape != (len(x), n_outputs):
        hint = "y[:, None]" if n_outputs == 1 and y.shape == (len(x),) else "a row for each datum"
        raise ValueError(f"y has shape {tuple(y.shape)} and the output ({len(x)}, {n_outputs}): give {hint}")


def _check_classes(y, x, n_outputs):
    if not isinstance(y, Tensor):
        raise TypeError(f"y is a {type(y).__name__}: give a torch.Tensor of integers")
    if y.dtype not in _INTEGERS:
        raise TypeError(f"y has dtype {y.dtype}: give the classes as integers, for instance y.long()")
    if y.device != x.device:
        raise ValueError(f"y is on {y.device} but x is on {x.device}: move one of them")
    if y.shape != x.shape[:1]:
        raise ValueError(f"y has shape {tuple(y.shape)}: give one class for each of the {len(x)} rows of x")
    _check_range(y, n_outputs)


def _check_range(y, n_outputs):
    smallest, largest = bounds(y)
    if values_are_known(y) and (smallest < 0 or largest >= n_outputs):
        index = ((y < 0) | (y >= n_outputs)).nonzero()[0].tolist()
        raise ValueError(f"{member('y', index)} is {y[tuple(index)].item()}: the classes are 0 to {n_outputs - 1}")


def _explain_not_finite(value, gradients, **inputs):
    for name, tensor in inputs.items():
        check_finite(name, tensor.detach())
    if not all(tensor.isfinite().all() for tensor in (value, *gradients)):
        raise ValueError(
            f"the loss or its gradient is beyond the range of {value.dtype}: the data or the weights are too "
            "large; scale the data, or lower the learning rate"
        )


_INTEGERS = {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}

_LOSSES = {
    "squared_error": (_check_targets, _squared_error),
    squared_error: (_check_targets, _squared_error),
    "cross_entropy": (_check_classes, _cross_entropy),
    cross_entropy_loss: (_check_classes, _cross_entropy),
}
