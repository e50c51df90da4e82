r"""Networks of fully connected layers, with their weights in plain sight (chapter 4).

Layer l of D turns h^(l-1) into a^(l) = W^(l) h^(l-1) + b^(l) and h^(l) = g_l(a^(l)), from h^(0) = x to the output
h^(D). Data lie in rows, so that the code says h @ W' + b.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from course_lib._validation import check_generator, one_of

__all__ = ["ACTIVATIONS", "MLP", "Activation", "count_parameters"]


class Activation(NamedTuple):
    """A function g applied to each entry, and its derivative written with what the forward pass has: a and h = g(a).

    Shapes: function (*any) -> (*any); derivative two tensors (*any) -> (*any). `gain` multiplies the first variance of
    the weights that receive h: 2 for relu, which sets half of its inputs to zero, and silu, its smooth form; else 1.
    Chapter 4, equation def-layer.

    Examples:
        >>> square = Activation(torch.square, lambda a, h: 2 * a)
        >>> a = torch.tensor([1.0, -3.0])
        >>> square.derivative(a, square.function(a))
        tensor([ 2., -6.])
    """

    function: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor, Tensor], Tensor]
    gain: float = 1.0


ACTIVATIONS = {
    "identity": Activation(lambda a: a, lambda a, h: torch.ones_like(h)),
    "tanh": Activation(torch.tanh, lambda a, h: 1 - h * h),
    "sigmoid": Activation(torch.sigmoid, lambda a, h: h * (1 - h)),
    "relu": Activation(torch.relu, lambda a, h: (h > 0).to(h.dtype), gain=2.0),  # at 0, where it has none: 0
    "silu": Activation(torch.nn.functional.silu, lambda a, h: _silu_slope(torch.sigmoid(a), h), gain=2.0),
}


def _silu_slope(s, h):
    """The derivative of h = a s, where s = sigmoid(a): s + a s (1 - s)."""
    return s + h * (1 - s)


class MLP(torch.nn.Module):
    """A network of D fully connected layers, its weights in the lists `weights` and `biases`.

    sizes = (n_0, ..., n_D): the dimension of x, the widths of the hidden layers, the dimension of the output.
    activation is the name of g_1, ..., g_(D-1), and output that of g_D, both from ACTIVATIONS.
    The weights of layer l are drawn uniformly with mean 0 and variance gain / n_(l-1), the biases start at 0.
    Shapes: weights[l] (n_(l+1), n_l), biases[l] (n_(l+1)); the lists count from 0. `list(mlp.parameters())` holds all
    weights, then all biases.
    Raises TypeError or ValueError for sizes that are not two or more positive integers, unknown names, and a generator
    on another device than the weights.
    Chapter 4, equation def-network. I. Goodfellow, Y. Bengio, A. Courville, Deep Learning (2016), chapter 6.

    Examples:
        >>> mlp = MLP((2, 3, 1), "tanh", generator=torch.Generator().manual_seed(0))
        >>> mlp(torch.zeros(5, 2)).shape
        torch.Size([5, 1])
        >>> [tuple(W.shape) for W in mlp.weights]
        [(3, 2), (1, 3)]
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str = "tanh",
        output: str = "identity",
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        self.sizes = _check_sizes(sizes)
        self.activation = one_of("activation", activation, ACTIVATIONS)
        self.output = one_of("output", output, ACTIVATIONS)
        like = torch.empty(0, dtype=dtype, device=device)  # on the default device and of the default type, if not given
        check_generator(generator, "the weights", like)
        gains = [1.0] + [ACTIVATIONS[activation].gain] * (len(self.sizes) - 2)  # of what each layer receives
        self.weights = torch.nn.ParameterList(
            _first_weights(like, into, out, gain, generator)
            for (into, out), gain in zip(pairwise(self.sizes), gains, strict=True)
        )
        self.biases = torch.nn.ParameterList(like.new_zeros(out) for out in self.sizes[1:])

    def activations(self) -> list[Activation]:
        """The activations g_1, ..., g_D.

        Examples:
            >>> [g.gain for g in MLP((2, 3, 3, 1), "relu").activations()]
            [2.0, 2.0, 1.0]
        """
        return [ACTIVATIONS[self.activation]] * (len(self.sizes) - 2) + [ACTIVATIONS[self.output]]

    def layers(
        self, x: Float[Tensor, "*batch n_in"]
    ) -> tuple[list[Float[Tensor, "*batch _"]], list[Float[Tensor, "*batch _"]]]:
        """All that the forward pass computes: [a^(1), ..., a^(D)] and [h^(0), ..., h^(D)].

        Shapes: x (*batch, n_0); a^(l) and h^(l) (*batch, n_l).
        Raises ValueError or TypeError for an x of another width, device or dtype than the weights.
        Chapter 4, equation eq-layer-matrix.

        Examples:
            >>> a, h = MLP((2, 3, 1)).layers(torch.zeros(5, 2))
            >>> [tuple(t.shape) for t in a], [tuple(t.shape) for t in h]
            ([(5, 3), (5, 1)], [(5, 2), (5, 3), (5, 1)])
        """
        a, h = [], [x]
        try:
            for W, b, g in zip(self.weights, self.biases, self.activations(), strict=True):
                a.append(h[-1] @ W.T + b)
                h.append(g.function(a[-1]))
        except RuntimeError:  # it costs nothing to ask only now
            self._explain(x)
            raise
        return a, h

    def forward(self, x: Float[Tensor, "*batch n_in"]) -> Float[Tensor, "*batch n_out"]:
        """The output h^(D) for each row of x.

        Shapes: x (*batch, n_0). Returns (*batch, n_D).
        Raises ValueError or TypeError for an x of another width, device or dtype than the weights.
        Chapter 4, equation def-network.

        Examples:
            >>> MLP((2, 3, 1))(torch.zeros(4, 5, 2)).shape
            torch.Size([4, 5, 1])
        """
        return self.layers(x)[1][-1]

    def extra_repr(self) -> str:
        """The arguments that the network was made with, for print.

        Examples:
            >>> print(MLP((2, 1)).extra_repr())
            (2, 1), activation='tanh', output='identity'
        """
        return f"{self.sizes}, activation={self.activation!r}, output={self.output!r}"

    def _explain(self, x):
        W = self.weights[0]
        if x.ndim == 0 or x.shape[-1] != self.sizes[0]:
            raise ValueError(
                f"x has shape {tuple(x.shape)}: its last dimension must be {self.sizes[0]}, the first of the sizes"
            ) from None
        if x.device != W.device:
            raise ValueError(f"x is on {x.device} but the weights are on {W.device}: move one of them") from None
        if x.dtype != W.dtype:
            raise TypeError(f"x is {x.dtype} but the weights are {W.dtype}: convert one of them") from None


def count_parameters(sizes: Sequence[int]) -> int:
    """The number of weights and biases of a network with these sizes.

    sizes = (n_0, ..., n_D), as for MLP.
    Raises TypeError or ValueError for sizes that are not two or more positive integers.
    Chapter 4, equation eq-count.

    Examples:
        >>> count_parameters((64, 32, 10))  # 32 (64 + 1) + 10 (32 + 1)
        2410
    """
    sizes = _check_sizes(sizes)
    return sum(out * (into + 1) for into, out in pairwise(sizes))


def _first_weights(like, into, out, gain, generator):
    uniform = torch.rand(out, into, generator=generator, dtype=like.dtype, device=like.device)
    return (2 * uniform - 1) * (3 * gain / into) ** 0.5  # uniform on (-c, c) has the variance c^2 / 3


def _check_sizes(sizes):
    sizes = tuple(sizes)
    for position, size in enumerate(sizes):
        if not isinstance(size, int) or isinstance(size, bool):
            raise TypeError(f"sizes[{position}] is a {type(size).__name__}: every size must be an int")
        if size < 1:
            raise ValueError(f"sizes[{position}] is {size}: every layer needs at least one neuron")
    if len(sizes) < 2:
        raise ValueError(f"sizes is {sizes}: give at least two, the dimension of x and that of the output")
    return sizes


def _check_name(what, name):
    if name not in ACTIVATIONS:
        raise ValueError(f"{what} is {name!r}: give one of {', '.join(ACTIVATIONS)}")
    return name
