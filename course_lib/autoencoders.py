r"""Autoencoders: a network that squeezes its input through a short code and restores it (chapter 6).

An encoder makes the code z from x, a decoder restores x from z; the model itself, called on x, does both. The loss is
chapter 3's reconstruction error: the squared distance of a datum from what is restored of it, **summed over the
entries** of the datum and averaged over the data. Divide by the dimension of x for the error of one entry (one pixel).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from course_lib._validation import check_count, check_generator, check_positive, one_of
from course_lib.losses import empirical_risk, squared_error
from course_lib.networks import MLP
from course_lib.training import History, fit

__all__ = [
    "Autoencoder",
    "DenoisingAutoencoder",
    "LinearAutoencoder",
    "StackedAutoencoder",
    "denoising_loss",
    "reconstruction_loss",
]

CORRUPTIONS = ("gaussian", "masking")


def reconstruction_loss(model: Callable[[Tensor], Tensor], x: Float[Tensor, "*batch d"]) -> Float[Tensor, ""]:
    """Mean over the data of the squared distance between a datum and what the model restores of it.

    It sums over the d entries of a datum and has the squared unit of x; divide by d for the error of one entry. It can
    be the `loss` of `course_lib.training.fit`.
    Shapes: x (*batch, d), and model(x) the same. Returns a scalar.
    Raises TypeError or ValueError as `squared_error` does, for NaN, infinity and a model that returns another shape.
    Chapter 6, equation def-ae-risk; chapter 3, equation def-reconstruction-error.

    Examples:
        >>> x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
        >>> reconstruction_loss(torch.nn.Identity(), x), reconstruction_loss(torch.zeros_like, x)
        (tensor(0.), tensor(12.5000))
    """
    return empirical_risk(squared_error, x, model(x))


def denoising_loss(
    model: torch.nn.Module, x: Float[Tensor, "*batch d"], generator: torch.Generator | None = None
) -> Float[Tensor, ""]:
    """Mean over the data of the squared distance between a datum and what the model restores of its corrupted copy.

    model is a DenoisingAutoencoder, or another module with a method `corrupt`. The noise goes to the input only: the
    target is the clean x. It is drawn anew at each call, without a generator from PyTorch's global one, which `fit`
    seeds.
    Shapes: x (*batch, d). Returns a scalar, in the squared unit of x, summed over the d entries.
    Raises what `DenoisingAutoencoder.corrupt` and `reconstruction_loss` raise.
    Chapter 6, equation def-ae-denoising-risk. P. Vincent, H. Larochelle, Y. Bengio, P.-A. Manzagol, Extracting and
    Composing Robust Features with Denoising Autoencoders (2008).

    Examples:
        >>> model = DenoisingAutoencoder(4, 2, corruption="masking", level=0.0)
        >>> x = torch.ones(3, 4)
        >>> bool(denoising_loss(model, x) == reconstruction_loss(model, x))  # nothing is masked at level 0
        True
    """
    return empirical_risk(squared_error, x, model(model.corrupt(x, generator)))


class _EncoderDecoder(torch.nn.Module):
    """What all autoencoders have in common: x -> encode -> decode, with `encoder` and `decoder`."""

    def __init__(self, data_dim, code_dim):
        super().__init__()
        self.data_dim, self.code_dim = check_count("data_dim", data_dim), check_count("code_dim", code_dim)

    def encode(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch m"]:
        """The code z of each row of x.

        Shapes: x (*batch, data_dim). Returns (*batch, code_dim).
        Raises ValueError or TypeError for an x of another width, device or dtype than the weights.
        Chapter 6, equation def-ae-risk.

        Examples:
            >>> Autoencoder(5, 2).encode(torch.zeros(3, 5)).shape
            torch.Size([3, 2])
        """
        _check_rows("x", x, self.data_dim, "data_dim", self)
        return self.encoder(x)

    def decode(self, z: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch d"]:
        """What is restored from each row of codes.

        Shapes: z (*batch, code_dim). Returns (*batch, data_dim).
        Raises ValueError or TypeError for a z of another width, device or dtype than the weights.
        Chapter 6, equation def-ae-risk.

        Examples:
            >>> Autoencoder(5, 2).decode(torch.zeros(3, 2)).shape
            torch.Size([3, 5])
        """
        _check_rows("z", z, self.code_dim, "code_dim", self)
        return self.decoder(z)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """The reconstruction of each row of x: the decoded code.

        Shapes: x (*batch, data_dim). Returns the same shape.
        Raises ValueError or TypeError for an x of another width, device or dtype than the weights.
        Chapter 6, equation def-ae-risk.

        Examples:
            >>> Autoencoder(5, 2)(torch.zeros(3, 5)).shape
            torch.Size([3, 5])
        """
        return self.decode(self.encode(x))


class Autoencoder(_EncoderDecoder):
    """An encoder and a decoder of fully connected layers, the one the mirror image of the other.

    The encoder has the widths (data_dim, *hidden, code_dim), the decoder the same in reverse order. activation is that
    of the hidden layers, output that of the decoder's last layer, both names from `networks.ACTIVATIONS`; the code
    itself has none, so that it may be any vector. `encoder` and `decoder` are `MLP`s with weights of their own.
    Shapes: (*batch, data_dim) -> (*batch, data_dim), through codes (*batch, code_dim).
    Raises TypeError or ValueError for sizes that are not positive integers, unknown names, and a generator on another
    device than the weights.
    Chapter 6, equation def-ae-risk. G. E. Hinton and R. R. Salakhutdinov, Reducing the Dimensionality of Data with
    Neural Networks (2006).

    Examples:
        >>> model = Autoencoder(64, 2, hidden=(32,), generator=torch.Generator().manual_seed(0))
        >>> model.encoder.sizes, model.decoder.sizes
        ((64, 32, 2), (2, 32, 64))
    """

    def __init__(
        self,
        data_dim: int,
        code_dim: int,
        hidden: Sequence[int] = (64,),
        activation: str = "tanh",
        output: str = "identity",
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__(data_dim, code_dim)
        sizes = (data_dim, *hidden, code_dim)
        options = {"generator": generator, "dtype": dtype, "device": device}
        self.encoder = MLP(sizes, activation, **options)
        self.decoder = MLP(sizes[::-1], activation, output, **options)


class LinearAutoencoder(_EncoderDecoder):
    """An encoder z = W_e x + b_e and a decoder W_d z + b_d.

    Without a bias it is meant for centred data. The weights start as those of an `MLP` do, multiplied by scale: a small
    scale starts it close to the saddle at zero. The biases start at 0.
    Shapes: W_e (code_dim, data_dim), W_d (data_dim, code_dim), b_e (code_dim), b_d (data_dim); without a bias, b_e and
    b_d are None. Maps (*batch, data_dim) to the same, through codes (*batch, code_dim).
    Raises TypeError or ValueError for sizes that are not positive integers, a scale that is not a positive number, and
    a generator on another device than the weights.
    Chapter 6, equation def-ae-linear. P. Baldi and K. Hornik, Neural Networks and Principal Component Analysis:
    Learning from Examples without Local Minima (1989).

    Examples:
        >>> model = LinearAutoencoder(64, 2, generator=torch.Generator().manual_seed(0))
        >>> tuple(model.W_e.shape), tuple(model.W_d.shape), sum(param.numel() for param in model.parameters())
        ((2, 64), (64, 2), 322)
    """

    def __init__(
        self,
        data_dim: int,
        code_dim: int,
        *,
        bias: bool = True,
        scale: float = 1.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__(data_dim, code_dim)
        check_positive("scale", scale)
        options = {"generator": generator, "dtype": dtype, "device": device}
        up, down = (MLP(sizes, **options) for sizes in ((data_dim, code_dim), (code_dim, data_dim)))
        self.W_e, self.W_d = (Parameter(scale * mlp.weights[0].detach()) for mlp in (up, down))
        self.b_e, self.b_d = (mlp.biases[0] if bias else None for mlp in (up, down))

    def encoder(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch m"]:
        """W_e x + b_e for each row of x, as `encode` without its checks.

        Shapes: x (*batch, data_dim). Returns (*batch, code_dim).

        Examples:
            >>> LinearAutoencoder(5, 2).encoder(torch.zeros(3, 5))
            tensor([[0., 0.],
                    [0., 0.],
                    [0., 0.]], grad_fn=<AddBackward0>)
        """
        return _affine(x, self.W_e, self.b_e)

    def decoder(self, z: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch d"]:
        """W_d z + b_d for each row of z, as `decode` without its checks.

        Shapes: z (*batch, code_dim). Returns (*batch, data_dim).

        Examples:
            >>> LinearAutoencoder(5, 2).decoder(torch.zeros(3, 2)).shape
            torch.Size([3, 5])
        """
        return _affine(z, self.W_d, self.b_d)


class DenoisingAutoencoder(Autoencoder):
    """An autoencoder that is trained to restore a datum from a corrupted copy, see `denoising_loss`.

    corruption "gaussian" adds noise of standard deviation level to every entry; "masking" sets every entry to 0 with
    probability level. The other arguments are those of `Autoencoder`. Encoder, decoder and the call itself take their
    input as it is: it is `corrupt` that adds the noise.
    Shapes: (*batch, data_dim) -> (*batch, data_dim).
    Raises what `Autoencoder` raises, and TypeError or ValueError for an unknown corruption and for a level that is
    negative, or above 1 for masking.
    Chapter 6, equation def-ae-denoising-risk. P. Vincent, H. Larochelle, Y. Bengio, P.-A. Manzagol, Extracting and
    Composing Robust Features with Denoising Autoencoders (2008).

    Examples:
        >>> model = DenoisingAutoencoder(3, 2, corruption="masking", level=0.5)
        >>> model.corrupt(torch.ones(2, 3), torch.Generator().manual_seed(0))
        tensor([[0., 1., 0.],
                [0., 0., 1.]])
    """

    def __init__(
        self,
        data_dim: int,
        code_dim: int,
        hidden: Sequence[int] = (64,),
        activation: str = "tanh",
        output: str = "identity",
        *,
        corruption: str = "gaussian",
        level: float,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        options = {"generator": generator, "dtype": dtype, "device": device}
        super().__init__(data_dim, code_dim, hidden, activation, output, **options)
        self.corruption = one_of("corruption", corruption, CORRUPTIONS)
        if not isinstance(level, int | float) or isinstance(level, bool):
            raise TypeError(f"level is a {type(level).__name__}: give a number")
        if corruption == "masking" and not 0 <= level <= 1:
            raise ValueError(f"level is {level}: the probability that an entry is masked must be from 0 to 1")
        if not 0 <= level < float("inf"):
            raise ValueError(f"level is {level}: the standard deviation of the noise must be finite and not negative")
        self.level = level

    def corrupt(
        self, x: Float[Tensor, "*batch d"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch d"]:
        """A corrupted copy of x; each entry has noise of its own.

        Without a generator the noise comes from PyTorch's global one.
        Shapes: x (*batch, d), of any width. Returns the same shape.
        Raises TypeError for an x that is not floating point, and ValueError for a generator on another device than x.
        Chapter 6, equation def-ae-denoising-risk.

        Examples:
            >>> model = DenoisingAutoencoder(2, 1, level=0.1)
            >>> bool((model.corrupt(torch.zeros(1000, 2)).std() - 0.1).abs() < 0.01)
            True
        """
        if not x.is_floating_point():
            raise TypeError(f"x is {x.dtype}: noise needs a floating-point dtype, convert x")
        check_generator(generator, "x", x)
        if self.corruption == "gaussian":
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            return x + self.level * noise
        # of rand, which is below 1: level 1 masks all, level 0 nothing
        keep = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device) >= self.level
        return x * keep


class StackedAutoencoder(_EncoderDecoder):
    """An autoencoder whose layers can be trained one after the other, and then together.

    sizes = (n_0, ..., n_D): the dimension of x, the widths of the encoder's hidden layers, the dimension of the code.
    The decoder has the same widths in reverse order. Level l = 1, ..., D is an autoencoder by itself: layer l of the
    encoder, from n_(l-1) to n_l, and the layer of the decoder that goes back from n_l to n_(l-1).
    activation is that of the hidden layers, output that of the decoder's last layer; the code has none.
    `pretrain` trains the levels from the outside in; `fit` with `reconstruction_loss` then trains them together.
    Shapes: (*batch, n_0) -> (*batch, n_0), through codes (*batch, n_D).
    Raises TypeError or ValueError for sizes that are not two or more positive integers, unknown names, and a generator
    on another device than the weights.
    Chapter 6, equation def-ae-level. G. E. Hinton and R. R. Salakhutdinov, Reducing the Dimensionality of Data with
    Neural Networks (2006); Y. Bengio, P. Lamblin, D. Popovici, H. Larochelle, Greedy Layer-Wise Training of Deep
    Networks (2007).

    Examples:
        >>> x = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
        >>> model = StackedAutoencoder((6, 4, 2), generator=torch.Generator().manual_seed(1))
        >>> before = reconstruction_loss(model, x)
        >>> histories = model.pretrain(x, n_epochs=20, batch_size=20, lr=0.01)
        >>> len(histories), bool(reconstruction_loss(model, x) < before)
        (2, True)
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
        sizes = tuple(sizes)
        options = {"generator": generator, "dtype": dtype, "device": device}
        encoder = MLP(sizes, activation, **options)  # it looks at the sizes
        super().__init__(sizes[0], sizes[-1])
        self.encoder, self.decoder = encoder, MLP(sizes[::-1], activation, output, **options)

    def pretrain(
        self,
        x: Float[Tensor, "n d"],
        n_epochs: int,
        *,
        batch_size: int,
        lr: float,
        optimiser: str = "adam",
        seed: int = 0,
        progress: bool = False,
    ) -> list[History]:
        """Train level 1 to restore x, then level 2 to restore what level 1 has made of x, and so on.

        Each level is trained for n_epochs with the levels below it fixed; the levels above it do not take part. The
        other arguments are those of `course_lib.training.fit`.
        Shapes: x (N, n_0). Returns the histories of the levels; each loss is the error of what that level restores.
        Raises what `fit` raises.
        Chapter 6, equation def-ae-level. Y. Bengio, P. Lamblin, D. Popovici, H. Larochelle, Greedy Layer-Wise Training
        of Deep Networks (2007).

        Examples:
            >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
            >>> model = StackedAutoencoder((3, 2, 1), generator=torch.Generator().manual_seed(1))
            >>> [len(history.loss) for history in model.pretrain(x, n_epochs=4, batch_size=10, lr=0.01)]
            [4, 4]
        """
        _check_rows("x", x, self.data_dim, "sizes[0]", self)
        histories, h = [], x
        for level in self._levels():
            options = {"n_epochs": n_epochs, "batch_size": batch_size, "lr": lr, "optimiser": optimiser}
            histories.append(fit(level, (h,), reconstruction_loss, seed=seed, progress=progress, **options))
            with torch.no_grad():
                h = level.encode(h)
        return histories

    def _levels(self):
        """The autoencoders of the levels; their parameters are those of the stack, not copies."""
        D = len(self.encoder.weights)
        for level, (into, out) in enumerate(pairwise(self.encoder.sizes)):
            layers = [(self.encoder, level), (self.decoder, D - 1 - level)]
            yield _Level(into, out, [(mlp.weights[k], mlp.biases[k], mlp.activations()[k]) for mlp, k in layers])


class _Level(_EncoderDecoder):
    """One layer of an encoder and the layer of the decoder that undoes it."""

    def __init__(self, data_dim, code_dim, layers):
        super().__init__(data_dim, code_dim)
        (self.W_e, self.b_e, self.g_e), (self.W_d, self.b_d, self.g_d) = layers

    def encoder(self, x):
        return self.g_e.function(_affine(x, self.W_e, self.b_e))

    def decoder(self, z):
        return self.g_d.function(_affine(z, self.W_d, self.b_d))


def _affine(x, W, b):
    return x @ W.T if b is None else x @ W.T + b


# Checks


def _check_rows(name, rows, width, meaning, model):
    """Shapes, dtype and device, which cost no arithmetic."""
    if not isinstance(rows, Tensor):
        raise TypeError(f"{name} is a {type(rows).__name__}: give a torch.Tensor")
    if rows.ndim == 0 or rows.shape[-1] != width:
        raise ValueError(f"{name} has shape {tuple(rows.shape)}: its last dimension must be {width}, the {meaning}")
    weight = next(model.parameters())
    if rows.dtype != weight.dtype:
        raise TypeError(f"{name} is {rows.dtype} but the weights are {weight.dtype}: convert one of them")
    if rows.device != weight.device:
        raise ValueError(f"{name} is on {rows.device} but the weights are on {weight.device}: move one of them")
