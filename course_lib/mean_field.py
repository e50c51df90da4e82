r"""Networks with a law for each weight: mean field, its free energy and its predictions (chapter 10).

All weights and biases of a network form one vector theta of n_theta numbers. The prior is a product of N(0, tau_j^2),
the approximate posterior q a product of N(means_j, exp(log_vars_j)). prior_sd, noise_sd and initial_sd are standard
**deviations**; log_vars and log_noise_var are logarithms of **variances**.

The free energy is minus the evidence lower bound, in nats **for the whole data set**: the divergence KL(q || prior) is
a sum over all weights and counts once, while the likelihood of a batch of b data is scaled by n_data / b.
"""

import copy
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from course_lib._validation import (
    FLOATS,
    check_count,
    check_finite,
    check_generator,
    check_positive,
    check_types,
    one_of,
    values_are_known,
)
from course_lib.gaussians import LOG_TWO_PI
from course_lib.networks import ACTIVATIONS, count_parameters
from course_lib.predictions import ClassPrediction, SampledPrediction, _check_classes

__all__ = ["MeanFieldNetwork", "batch_weights"]

LIKELIHOODS = ("gaussian", "categorical")
NOISES = ("fixed", "learned")
ESTIMATES = ("kl", "sampled")
SAMPLINGS = ("local", "weights")
AT_ONCE = 1 << 22  # numbers in the widest layer when many draws are evaluated: 32 MiB in float64


class MeanFieldNetwork(torch.nn.Module):
    """A network with a law for each of its weights and biases: a product of Gaussians, under a Gaussian prior.

    sizes = (n_0, ..., n_D) and activation are those of `course_lib.networks.MLP`; the last layer is linear.
    prior_sd: the prior deviation of all weights and biases, or one for each layer.
    likelihood "gaussian": y = f(x) + noise of the deviation noise_sd, independent entries. With noise "fixed" noise_sd
    must be given and stays; with "learned" its log-variance is a parameter, which starts at noise_sd (or 1).
    likelihood "categorical": f(x) holds the logits of the classes; there is no noise.
    At the start the means are draws from the prior, narrowed to the deviation 1 / sqrt(n_in) where it is wider than
    that, and all deviations of q are initial_sd.
    Shapes: data (*batch, n_0). The parameters are `means` (n_theta), `log_vars` (n_theta) and, if it is learned,
    `log_noise_var` (). `layers` cuts such a vector into weights and biases.
    Raises TypeError or ValueError for sizes that are not two or more positive integers, unknown names, deviations that
    are not positive and finite, and a generator on another device than the weights.
    Chapter 10, equations def-vb-model, def-vb-prior and def-vb-mean-field. A. Graves, Practical Variational Inference
    for Neural Networks (2011); C. Blundell and others, Weight Uncertainty in Neural Networks (2015).

    Examples:
        >>> model = MeanFieldNetwork((1, 50, 1), prior_sd=(1.5, 0.3), noise_sd=0.2)
        >>> [tuple(W.shape) for W, b in model.layers(model.means)], model.means.shape
        ([(50, 1), (1, 50)], torch.Size([151]))
        >>> model.predict(torch.zeros(7, 1), generator=torch.Generator().manual_seed(0)).sd.shape
        torch.Size([7, 1])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        prior_sd: float | Sequence[float] = 1.0,
        noise_sd: float | None = None,
        activation: str = "tanh",
        *,
        likelihood: str = "gaussian",
        noise: str = "fixed",
        initial_sd: float = 0.05,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        n_weights = count_parameters(sizes)
        self.sizes = tuple(sizes)
        self.activation = one_of("activation", activation, ACTIVATIONS)
        self.likelihood = one_of("likelihood", likelihood, LIKELIHOODS)
        noise_sd = _check_noise(likelihood, noise, noise_sd)
        self.noise = None if noise_sd is None else noise
        like = torch.empty(0, dtype=dtype, device=device)
        check_generator(generator, "the weights", like)
        by_layer = [like.new_full((W + b,), sd) for (W, b), sd in zip(self._counts(), self._sds(prior_sd), strict=True)]
        self.register_buffer("prior_sd", torch.cat(by_layer))
        scale = [like.new_full((W + b,), n_in**-0.5) for (W, b), n_in in zip(self._counts(), sizes[:-1], strict=True)]
        start = torch.randn(n_weights, generator=generator, dtype=like.dtype, device=like.device)
        self.means = torch.nn.Parameter(start * torch.minimum(self.prior_sd, torch.cat(scale)))
        log_var = 2 * math.log(check_positive("initial_sd", initial_sd))
        self.log_vars = torch.nn.Parameter(torch.full_like(start, log_var))
        if noise_sd is None:
            self.log_noise_var = None
        elif noise == "fixed":
            self.register_buffer("log_noise_var", like.new_full((), 2 * math.log(noise_sd)))
        else:
            self.log_noise_var = torch.nn.Parameter(like.new_full((), 2 * math.log(noise_sd)))

    def _counts(self):
        """Numbers of weights and of biases of each layer."""
        return [(n_in * n_out, n_out) for n_in, n_out in pairwise(self.sizes)]

    def _sds(self, prior_sd):
        D = len(self.sizes) - 1
        by_layer = tuple(prior_sd) if isinstance(prior_sd, Sequence) else (prior_sd,) * D
        if len(by_layer) != D:
            raise ValueError(f"prior_sd has {len(by_layer)} entries: give one number, or one for each of {D} layers")
        return [check_positive("prior_sd", sd) for sd in by_layer]

    @property
    def noise_sd(self) -> Float[Tensor, ""] | None:
        """Deviation of the noise of y, in its unit; None if the likelihood is categorical.

        Examples:
            >>> MeanFieldNetwork((1, 1), noise_sd=2.0).noise_sd
            tensor(2.)
        """
        return None if self.log_noise_var is None else (0.5 * self.log_noise_var).exp()

    # Networks

    def layers(self, vector: Float[Tensor, "*S n"]) -> list[tuple[Float[Tensor, "..."], Float[Tensor, "..."]]]:
        """Weights and biases of each layer, cut from a vector with one number for each.

        Shapes: vector (*S, n_theta). Returns for each layer W (*S, n_out, n_in) and b (*S, n_out): views.
        Raises ValueError for a vector of another length.
        Chapter 10; chapter 4, equation def-layer.

        Examples:
            >>> [(W, b)] = MeanFieldNetwork((2, 1), noise_sd=1.0).layers(torch.tensor([1.0, 2.0, 3.0]))
            >>> W, b
            (tensor([[1., 2.]]), tensor([3.]))
        """
        if vector.ndim == 0 or vector.shape[-1] != len(self.prior_sd):
            raise ValueError(
                f"the vector has shape {tuple(vector.shape)}: its last dimension must be {len(self.prior_sd)}, the "
                "number of weights and biases"
            )
        pieces = vector.split([W + b for W, b in self._counts()], -1)
        matrices = [piece.unflatten(-1, (n_out, -1)) for piece, n_out in zip(pieces, self.sizes[1:], strict=True)]
        return [(M.narrow(-1, 0, M.shape[-1] - 1), M.select(-1, -1)) for M in matrices]  # each row ends in its bias

    def _activations(self):
        return [ACTIVATIONS[self.activation]] * (len(self.sizes) - 2) + [ACTIVATIONS["identity"]]

    def forward(
        self, x: Float[Tensor, "*batch d"], weights: Float[Tensor, "*S n"] | None = None
    ) -> Float[Tensor, "*S_batch c"]:
        """The output f_theta(x) of the network with given weights, or with the means of q if none are given.

        f at the means is one function. It is not the mean of the functions that `predict` gives.
        Shapes: x (*batch, n_0), weights (*S, n_theta). Returns (*S, *batch, n_D). Gradients reach weights and x.
        Raises TypeError or ValueError for wrong types, shapes or devices.
        Chapter 4, equation def-network.

        Examples:
            >>> model = MeanFieldNetwork((1, 3, 1), noise_sd=1.0)
            >>> model(torch.zeros(5, 1)).shape, model(torch.zeros(5, 1), model.draw(7)).shape
            (torch.Size([5, 1]), torch.Size([7, 5, 1]))
        """
        weights = self.means if weights is None else weights
        check_types({"the means": self.means, "weights": weights})
        self._check_rows(x)
        h = x.reshape(-1, self.sizes[0])
        for (W, b), g in zip(self.layers(weights), self._activations(), strict=True):
            h = g.function(h @ W.mT + b.unsqueeze(-2))
        return h.reshape(*weights.shape[:-1], *x.shape[:-1], self.sizes[-1])

    def draw(self, n_samples: int, generator: torch.Generator | None = None) -> Float[Tensor, "S n"]:
        """Draws of all weights and biases from q: means + exp(log_vars / 2) * noise.

        Shapes: returns (n_samples, n_theta). Gradients reach the means and log-variances.
        Raises TypeError or ValueError for a number of samples that is no positive int, and a generator on another
        device.
        Chapter 10, equation def-vb-sample.

        Examples:
            >>> MeanFieldNetwork((1, 3, 1), noise_sd=1.0).draw(4, torch.Generator().manual_seed(0)).shape
            torch.Size([4, 10])
        """
        check_generator(generator, "the model", self.means)
        return self._weights(_noise(self, check_count("n_samples", n_samples), 0, "weights", generator))

    def _weights(self, noise):
        return self.means + (0.5 * self.log_vars).exp() * noise

    @torch.no_grad()
    def functions(
        self, x: Float[Tensor, "*batch d"], n_samples: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "S *batch c"]:
        """Draws of the function from q, each one function for all x: outputs of the network with drawn weights.

        Shapes: x (*batch, n_0). Returns (n_samples, *batch, n_D), logits if the likelihood is categorical.
        Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity.
        Chapter 10, equation def-vb-sample.

        Examples:
            >>> model = MeanFieldNetwork((1, 3, 1), noise_sd=1.0)
            >>> model.functions(torch.zeros(5, 1), 4, torch.Generator().manual_seed(0)).shape
            torch.Size([4, 5, 1])
        """
        self._check_rows(x)
        check_finite("x", x)
        weights = self.draw(n_samples, generator)
        at_once = max(1, AT_ONCE // (max(1, x.numel() // self.sizes[0]) * max(self.sizes)))
        return torch.cat([self(x, part) for part in weights.split(at_once)])

    def predict(
        self, x: Float[Tensor, "*batch d"], n_samples: int = 100, *, generator: torch.Generator | None = None
    ) -> SampledPrediction | ClassPrediction:
        """The prediction at new inputs from n_samples draws of the function.

        Shapes: x (*batch, n_0). Returns a SampledPrediction, or a ClassPrediction if the likelihood is categorical.
        Raises what `functions` raises.
        Chapter 10, equation def-vb-predictive.

        Examples:
            >>> model = MeanFieldNetwork((1, 3, 1), noise_sd=1.0, generator=torch.Generator().manual_seed(0))
            >>> prediction = model.predict(torch.zeros(5, 1), generator=torch.Generator().manual_seed(0))
            >>> prediction.mean.shape, bool((prediction.sd > 1).all())
            (torch.Size([5, 1]), True)
        """
        functions = self.functions(x, n_samples, generator)
        if self.likelihood == "categorical":
            return ClassPrediction(functions)
        return SampledPrediction(functions, self.noise_sd.detach())

    # The free energy

    def kl(self) -> Float[Tensor, ""]:
        """The divergence KL(q || prior), the sum over all weights and biases, in nats.

        Shapes: returns a scalar. Differentiable.
        Raises ValueError for NaN or infinity, as in the log-variances of a pruned network.
        Chapter 10, equation eq-vb-kl; chapter 2, equation eq-kl-log-variance.

        Examples:
            >>> model = MeanFieldNetwork((1, 1), prior_sd=0.1, noise_sd=1.0, initial_sd=0.1)
            >>> with torch.no_grad():
            ...     _ = model.means.copy_(torch.tensor([0.1, 0.0]))
            >>> round(model.kl().item(), 6)
            0.5
        """
        return self._finite(self._kl())

    def _kl(self):
        log_ratio = self.log_vars - 2 * self.prior_sd.log()
        # expm1 keeps its digits where q and the prior have nearly the same variance
        return 0.5 * ((self.means / self.prior_sd).square() + (log_ratio.expm1() - log_ratio)).sum()

    def free_energy(
        self,
        x: Float[Tensor, "b d"],
        y: Tensor,
        n_data: int,
        n_samples: int = 1,
        *,
        estimate: Literal["kl", "sampled"] = "kl",
        sampling: Literal["local", "weights"] = "local",
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Estimate of the free energy from a batch, in nats of the whole data set of n_data data: minus the ELBO.

        The likelihood of the batch is scaled by n_data / b, the divergence counts once.
        estimate "kl": the divergence in closed form; "sampled": all from the draws of the weights.
        sampling "weights": each of the n_samples draws of all weights serves the whole batch. "local": the inputs of
        the neurons are drawn instead, with noise of its own for each datum (local reparametrisation); it has the same
        expectation, and as a rule a smaller variance.
        temperature T: the divergence is multiplied by T. For T < 1 this is no bound of the log evidence.
        Shapes: x (b, n_0); y (b, n_D), or (b) if n_D is 1; for a categorical likelihood y (b), integers. Returns a
        scalar. Differentiable.
        Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, classes out of range,
        options out of range, a sampled estimate with local sampling, and a result beyond the range of the dtype.
        Chapter 10, equations def-vb-free-energy, def-vb-estimates, def-vb-batch, def-vb-local and def-vb-tempered.
        D. P. Kingma, T. Salimans and M. Welling, Variational Dropout and the Local Reparameterization Trick (2015).

        Examples:
            >>> model = MeanFieldNetwork((1, 3, 1), noise_sd=1.0, generator=torch.Generator().manual_seed(0))
            >>> x = torch.linspace(-1, 1, 20)[:, None]
            >>> model.free_energy(x, x**2, n_data=20, generator=torch.Generator().manual_seed(0)).shape
            torch.Size([])
        """
        S = _check_options(n_samples, estimate, sampling, temperature)
        y = _check_batch(self, x, y, n_data, generator)
        noise = _noise(self, S, len(x), sampling, generator)
        cost = -self._log_likelihood(x, y, noise, sampling).sum(-1).mean() * (n_data / len(x))
        divergence = self._kl() if estimate == "kl" else self._log_ratio(noise).mean()
        return self._finite(temperature * divergence + cost, x, y)

    def expected_nll(
        self,
        x: Float[Tensor, "b d"],
        y: Tensor,
        n_samples: int = 1,
        *,
        sampling: Literal["local", "weights"] = "local",
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Estimate of -E_q[log p(y | X, theta)], the **sum** over the data given, in nats.

        Together with w * kl(), where the weights w of an epoch's batches sum to 1, this is the batch's part of the
        free energy, and the parts of an epoch sum to the whole; see `batch_weights`.
        Shapes, options and errors are those of `free_energy`.
        Chapter 10, equation eq-vb-epoch.

        Examples:
            >>> model = MeanFieldNetwork((1, 3, 1), noise_sd=1.0)
            >>> model.expected_nll(torch.zeros(5, 1), torch.zeros(5, 1)).shape
            torch.Size([])
        """
        S = _check_options(n_samples, "kl", sampling, 1.0)
        y = _check_batch(self, x, y, len(x), generator)
        noise = _noise(self, S, len(x), sampling, generator)
        return self._finite(-self._log_likelihood(x, y, noise, sampling).sum(-1).mean(), x, y)

    def _log_likelihood(self, x, y, noise, sampling):
        """log p(y_i | x_i, theta_s), shape (S, b)."""
        output = self._local(x, noise) if sampling == "local" else self(x, self._weights(noise))
        if self.likelihood == "categorical":
            return output.log_softmax(-1).gather(-1, y.expand(len(output), -1).unsqueeze(-1)).squeeze(-1)
        log_var = self.log_noise_var
        return -0.5 * ((y - output).square() * (-log_var).exp() + log_var + LOG_TWO_PI).sum(-1)

    def _local(self, x, noise):
        """Outputs (S, b, n_D) in which the input of each neuron has its law under q, given the layer's input."""
        h, layers = x.unsqueeze(0), zip(self.layers(self.means), self.layers(self.log_vars.exp()), strict=True)
        for ((W, b), (W_var, b_var)), eps, g in zip(layers, noise, self._activations(), strict=True):
            sd = linear(h.square(), W_var, b_var).sqrt()
            h = g.function(linear(h, W, b) + sd * eps)
        return h

    def _log_ratio(self, noise):
        """log q(theta_s) - log p(theta_s) of draws made with this noise, shape (S)."""
        of_prior = (self._weights(noise) / self.prior_sd).square() + 2 * self.prior_sd.log()
        return 0.5 * (of_prior - noise.square() - self.log_vars).sum(-1)

    # The weights that count

    @torch.no_grad()
    def signal_to_noise(self) -> Float[Tensor, " n"]:
        """|mean| / deviation of each weight and bias under q; 0 for those that are pruned.

        Shapes: returns (n_theta).
        Chapter 10, equation def-vb-snr.

        Examples:
            >>> model = MeanFieldNetwork((1, 1), noise_sd=1.0, initial_sd=0.5)
            >>> with torch.no_grad():
            ...     _ = model.means.copy_(torch.tensor([-1.0, 2.0]))
            >>> model.signal_to_noise()
            tensor([2., 4.])
        """
        ratio = self.means.abs() / (0.5 * self.log_vars).exp()
        return ratio.masked_fill(self.log_vars == -math.inf, 0.0)

    @torch.no_grad()
    def pruned(self, fraction: float, by: Literal["signal_to_noise", "magnitude"] = "signal_to_noise"):
        """A copy of the network in which this fraction of the weights and biases, the least, are exactly 0.

        Their means are 0 and their log-variances minus infinity, so that every draw has them at 0; such a network
        predicts, and has no free energy, since the divergence of a point from a density is infinite.
        by "signal_to_noise": those with the least |mean| / deviation; "magnitude": those with the least |mean|.
        Raises TypeError or ValueError for a fraction outside [0, 1] and an unknown name.
        Chapter 10, equation def-vb-snr. C. Blundell and others, Weight Uncertainty in Neural Networks (2015).

        Examples:
            >>> model = MeanFieldNetwork((1, 3, 1), noise_sd=1.0, generator=torch.Generator().manual_seed(0))
            >>> model.pruned(0.5).draw(100).eq(0).all(0).sum()
            tensor(5)
        """
        one_of("by", by, ("signal_to_noise", "magnitude"))
        if isinstance(fraction, bool) or not isinstance(fraction, int | float):
            raise TypeError(f"fraction is a {type(fraction).__name__}: give a number from 0 to 1")
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction is {fraction}: give a number from 0 to 1")
        worth = self.signal_to_noise() if by == "signal_to_noise" else self.means.abs()
        least = worth.argsort(stable=True).narrow(0, 0, round(fraction * len(worth)))
        result = copy.deepcopy(self)
        result.means.index_fill_(0, least, 0.0)
        result.log_vars.index_fill_(0, least, -math.inf)
        return result

    def extra_repr(self) -> str:
        """The arguments that the network was made with, for print.

        Examples:
            >>> print(MeanFieldNetwork((2, 1), noise_sd=1.0).extra_repr())
            (2, 1), activation='tanh', likelihood='gaussian', noise='fixed'
        """
        noise = "" if self.noise is None else f", noise={self.noise!r}"
        return f"{self.sizes}, activation={self.activation!r}, likelihood={self.likelihood!r}{noise}"

    # Checks

    def _check_rows(self, x):
        alike = isinstance(x, Tensor) and x.dtype is self.means.dtype in FLOATS and x.device == self.means.device
        if not alike:
            check_types({"x": x, "the means": self.means})
        if x.ndim == 0 or x.shape[-1] != self.sizes[0]:
            raise ValueError(
                f"x has shape {tuple(x.shape)}: its last dimension must be {self.sizes[0]}, the first of the sizes"
            )

    def _finite(self, value, x=None, y=None):
        if values_are_known(value) and not math.isfinite(value.item()):
            self._explain(x, y)
        return value

    def _explain(self, x=None, y=None):
        """Raise a sentence about what made a result NaN or infinite."""
        for name, tensor in {"x": x, "y": y}.items():
            if tensor is not None and tensor.is_floating_point():
                check_finite(name, tensor.detach())
        if (self.log_vars == -math.inf).any():
            raise ValueError(
                "log_vars has entries of minus infinity, as a pruned network has: the divergence of a point from the "
                "prior is infinite. Such a network predicts, and is not trained"
            )
        for name, parameter in self.named_parameters():
            check_finite(name, parameter.detach())
        raise ValueError(
            f"the free energy or its gradient is beyond the range of {self.means.dtype}: scale the data, lower the "
            "learning rate, or use float64"
        )


def batch_weights(sizes: Sequence[int], kind: Literal["size", "halving"] = "size") -> Float[Tensor, " n_batches"]:
    """The weight of the divergence for each batch of an epoch; they sum to 1.

    kind "size": b_k / N, by the sizes b_k of the batches. "halving": 2^(n - k) / (2^n - 1) for k = 1, ..., n, so that
    the prior speaks in the first batches, and hardly in the last.
    Shapes: sizes are n positive integers. Returns (n), float64.
    Raises TypeError or ValueError for no sizes, sizes that are no positive integers, and an unknown kind.
    Chapter 10, equation eq-vb-batch-weights. C. Blundell and others, Weight Uncertainty in Neural Networks (2015).

    Examples:
        >>> batch_weights([2, 2, 1]), batch_weights([2, 2], "halving")
        (tensor([0.4000, 0.4000, 0.2000], dtype=torch.float64), tensor([0.6667, 0.3333], dtype=torch.float64))
    """
    one_of("kind", kind, ("size", "halving"))
    sizes = [check_count(f"sizes[{k}]", size) for k, size in enumerate(sizes)]
    if not sizes:
        raise ValueError("sizes is empty: give the size of each batch")
    if kind == "halving":
        share = 0.5 ** torch.arange(1, len(sizes) + 1, dtype=torch.float64)  # 2^-k: the powers of 2 would overflow
    else:
        share = torch.tensor(sizes, dtype=torch.float64)
    return share / share.sum()


def _noise(model, S, b, sampling, generator):
    """For each layer (S, b, n_out) if the inputs of the neurons are drawn, or (S, n_theta) if the weights are."""
    like = model.means
    kind = {"generator": generator, "dtype": like.dtype, "device": like.device}
    if sampling == "weights":
        return torch.randn(S, len(like), **kind)
    widths = model.sizes[1:]
    flat = torch.randn(S * b * sum(widths), **kind)
    # in memory a row for each neuron, as the gradient by hand has it
    pieces = flat.split([S * b * n for n in widths])
    return [piece.view(n, S, b).permute(1, 2, 0) for piece, n in zip(pieces, widths, strict=True)]


# What they check


def _check_options(n_samples, estimate, sampling, temperature):
    one_of("estimate", estimate, ESTIMATES)
    one_of("sampling", sampling, SAMPLINGS)
    if estimate == "sampled" and sampling == "local":
        raise ValueError(
            'the estimate "sampled" needs draws of the weights: give sampling="weights", or the estimate "kl"'
        )
    check_positive("temperature", temperature)
    return check_count("n_samples", n_samples)


def _check_batch(model, x, y, n_data, generator):
    """Everything about one batch; returns the targets as they are compared with the output."""
    model._check_rows(x)
    check_generator(generator, "x", x)
    if x.ndim != 2 or len(x) == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: give (b, {model.sizes[0]}) with b >= 1, a row for each datum")
    if check_count("n_data", n_data) < len(x):
        raise ValueError(f"n_data is {n_data} and the batch has {len(x)} data: n_data is the number of all data")
    return _check_targets(model, x, y)


def _check_targets(model, x, y):
    b, c = len(x), model.sizes[-1]
    if model.likelihood == "categorical":
        _check_classes(y, x.narrow(1, 0, 1).expand(b, c))
        return y.long()
    check_types({"x": x, "y": y})
    if c == 1 and y.shape == (b,):
        y = y.unsqueeze(1)
    if y.shape != (b, c):
        raise ValueError(f"y has shape {tuple(y.shape)} and the output ({b}, {c}): give one target for each")
    return y


def _check_noise(likelihood, noise, noise_sd):
    """The deviation of the noise at the start; None without noise."""
    one_of("noise", noise, NOISES)
    if likelihood == "categorical":
        if noise != "fixed" or noise_sd is not None:
            raise ValueError("a categorical likelihood has no noise: leave out noise and noise_sd")
        return None
    if noise_sd is None:
        if noise == "fixed":
            raise ValueError('a Gaussian likelihood needs noise_sd=, the deviation of y, or noise="learned"')
        return 1.0
    return check_positive("noise_sd", noise_sd)
