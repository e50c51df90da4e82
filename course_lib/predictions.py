r"""Predictions: the law of a new target, given by a Gaussian or by draws of the function (chapter 10).

Two laws of one input are kept apart. The law of the function f(x') says what is not known about f, and gives
`function_sd` and `function_interval`. The law of the target y' = f(x') + noise is wider, and gives `sd`, `interval`,
`log_prob` and `coverage`: an interval that should hold 90 % of the targets must have the noise in it.
Predictions of classes have no noise beside the classes themselves.

Entries of f and y stand in the last dimension, of size c; log-densities are in nats for each datum, summed over them.
Device and dtype follow the inputs.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from course_lib._validation import bounds, check_finite, check_types, member, values_are_known
from course_lib.gaussians import LOG_TWO_PI

__all__ = ["ClassPrediction", "GaussianPrediction", "SampledPrediction"]


class _Prediction:
    """What both predictions of numbers have in common: all that follows from `mean`, `sd` and `cdf`."""

    def coverage(self, y: Float[Tensor, "..."], level: float = 0.9) -> Float[Tensor, ""]:
        """The share of the targets, between 0 and 1, that lie in their `interval(level)`.

        Shapes: y (*batch, c), or (*batch) if c is 1. Returns a scalar, the mean over all entries.
        Raises TypeError or ValueError for a level outside (0, 1) and for targets that do not fit.
        Chapter 10.

        Examples:
            >>> prediction = GaussianPrediction(torch.zeros(2, 1), torch.zeros(2, 1), 1.0)
            >>> prediction.coverage(torch.tensor([1.0, 2.0])).item()  # the interval is (-1.64, 1.64)
            0.5
        """
        tail = 0.5 * (1 - _check_level(level))
        return (self.cdf(y) - 0.5).abs().le(0.5 - tail).to(self.mean.dtype).mean()

    def _targets(self, y):
        """y with the shape of the mean, and no other."""
        mean = self.mean
        check_types({"mean": mean, "y": y})
        if mean.shape[-1] == 1 and y.shape == mean.shape[:-1]:
            y = y.unsqueeze(-1)
        if y.shape != mean.shape:
            raise ValueError(f"y has shape {tuple(y.shape)} and the prediction {tuple(mean.shape)}: give one for each")
        check_finite("y", y.detach())
        return y


@dataclass(frozen=True, eq=False)
class GaussianPrediction(_Prediction):
    """The prediction f(x') ~ N(mean, function_sd^2), y' = f(x') + N(0, noise_sd^2), independent entries.

    Shapes: mean and function_sd (*batch, c); noise_sd one number, or a scalar tensor.
    Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, and negative deviations.
    Chapter 10, equation eq-vb-two-variances.

    Examples:
        >>> prediction = GaussianPrediction(torch.zeros(1, 1), torch.tensor([[3.0]]), 4.0)
        >>> prediction.sd  # the root of 9 + 16
        tensor([[5.]])
    """

    mean: Float[Tensor, "*batch c"]
    function_sd: Float[Tensor, "*batch c"]
    noise_sd: float | Float[Tensor, ""]

    def __post_init__(self):
        check_types({"mean": self.mean, "function_sd": self.function_sd})
        if self.mean.ndim == 0 or self.function_sd.shape != self.mean.shape:
            shapes = f"mean has shape {tuple(self.mean.shape)} and function_sd {tuple(self.function_sd.shape)}"
            raise ValueError(f"{shapes}: give (*batch, c) for both")
        check_finite("mean", self.mean.detach())
        check_finite("function_sd", self.function_sd.detach())
        if bounds(self.function_sd)[0] < 0:
            raise ValueError(f"function_sd is as small as {bounds(self.function_sd)[0]}: a deviation is not negative")
        _check_noise_sd(self.noise_sd, self.mean)

    @property
    def sd(self) -> Float[Tensor, "*batch c"]:
        """Deviation of the target y', in the unit of y: that of the function and the noise together.

        Chapter 10, equation eq-vb-two-variances.

        Examples:
            >>> GaussianPrediction(torch.zeros(1, 1), torch.zeros(1, 1), 2.0).sd
            tensor([[2.]])
        """
        return (self.function_sd.square() + self.noise_sd**2).sqrt()

    def cdf(self, y: Float[Tensor, "..."]) -> Float[Tensor, "*batch c"]:
        """The probability that the target y' is at most y, for each entry.

        Over many data whose law the prediction is, these numbers are uniform on (0, 1).
        Shapes: y (*batch, c), or (*batch) if c is 1. Returns (*batch, c).
        Raises TypeError or ValueError for targets that do not fit.

        Examples:
            >>> GaussianPrediction(torch.zeros(1, 1), torch.zeros(1, 1), 1.0).cdf(torch.zeros(1))
            tensor([[0.5000]])
        """
        return _normal_cdf((self._targets(y) - self.mean) / self.sd)

    def log_prob(self, y: Float[Tensor, "..."]) -> Float[Tensor, "*batch"]:
        """Log-density of the target at y, in nats for each datum.

        Shapes: y (*batch, c), or (*batch) if c is 1. Returns (*batch), summed over the entries.
        Raises TypeError or ValueError for targets that do not fit.
        Chapter 10, equation eq-blr-predictive.

        Examples:
            >>> prediction = GaussianPrediction(torch.zeros(1, 1), torch.zeros(1, 1), 1.0)
            >>> prediction.log_prob(torch.zeros(1))  # -log(2 pi) / 2
            tensor([-0.9189])
        """
        return _log_normal(self._targets(y), self.mean, self.sd).sum(-1)

    def interval(self, level: float = 0.9) -> tuple[Float[Tensor, "*batch c"], Float[Tensor, "*batch c"]]:
        """The ends of the central interval that holds a **target** with probability `level`.

        Shapes: returns two tensors (*batch, c), in the unit of y.
        Raises TypeError or ValueError for a level outside (0, 1).
        Chapter 10.

        Examples:
            >>> low, high = GaussianPrediction(torch.zeros(1, 1), torch.zeros(1, 1), 1.0).interval(0.95)
            >>> low, high
            (tensor([[-1.9600]]), tensor([[1.9600]]))
        """
        return self._central(self.sd, level)

    def function_interval(self, level: float = 0.9) -> tuple[Float[Tensor, "*batch c"], Float[Tensor, "*batch c"]]:
        """The ends of the central interval that holds the **function** with probability `level`: no noise in it.

        Shapes: returns two tensors (*batch, c), in the unit of y.
        Raises TypeError or ValueError for a level outside (0, 1).
        Chapter 10.

        Examples:
            >>> low, high = GaussianPrediction(torch.zeros(1, 1), torch.zeros(1, 1), 1.0).function_interval()
            >>> (high - low).item()
            0.0
        """
        return self._central(self.function_sd, level)

    def _central(self, sd, level):
        half = -sd * NormalDist().inv_cdf(0.5 * (1 - _check_level(level)))
        return self.mean - half, self.mean + half


@dataclass(frozen=True, eq=False)
class SampledPrediction(_Prediction):
    """The prediction of S draws of the function: y' has the law of the mixture of the N(f_s(x'), noise_sd^2).

    Draws of any origin will do: of a mean field, or of a Markov chain.
    Shapes: functions (S, *batch, c); noise_sd one number, or a tensor (S) with one for each draw.
    Raises TypeError or ValueError for wrong types, shapes or devices, NaN or infinity, and a noise_sd that is not
    positive.
    Chapter 10, equation def-vb-predictive.

    Examples:
        >>> prediction = SampledPrediction(torch.tensor([[[-3.0]], [[3.0]]]), 4.0)
        >>> prediction.mean, prediction.function_sd, prediction.sd
        (tensor([[0.]]), tensor([[3.]]), tensor([[5.]]))
    """

    functions: Float[Tensor, "S *batch c"]
    noise_sd: float | Float[Tensor, "..."]

    def __post_init__(self):
        check_types({"functions": self.functions})
        if self.functions.ndim < 2 or len(self.functions) == 0:
            raise ValueError(f"functions has shape {tuple(self.functions.shape)}: give (S, *batch, c) with S >= 1")
        check_finite("functions", self.functions.detach())
        _check_noise_sd(self.noise_sd, self.functions, n_draws=len(self.functions))

    @property
    def mean(self) -> Float[Tensor, "*batch c"]:
        """Mean of the function and of the target.

        Examples:
            >>> SampledPrediction(torch.tensor([[[1.0]], [[3.0]]]), 1.0).mean
            tensor([[2.]])
        """
        return self.functions.mean(0)

    @property
    def function_sd(self) -> Float[Tensor, "*batch c"]:
        """Deviation of the draws of the function, of the mixture itself (divided by S).

        Examples:
            >>> SampledPrediction(torch.tensor([[[1.0]], [[3.0]]]), 1.0).function_sd
            tensor([[1.]])
        """
        return self.functions.std(0, correction=0)

    @property
    def sd(self) -> Float[Tensor, "*batch c"]:
        """Deviation of the target: that of the draws, and the noise.

        Chapter 10, equation eq-vb-two-variances.

        Examples:
            >>> SampledPrediction(torch.zeros(2, 1, 1), 2.0).sd
            tensor([[2.]])
        """
        return (self.functions.var(0, correction=0) + self._noise_by_draw().square().mean(0)).sqrt()

    def cdf(self, y: Float[Tensor, "..."]) -> Float[Tensor, "*batch c"]:
        """The probability that the target y' is at most y, for each entry.

        Over many data whose law the prediction is, these numbers are uniform on (0, 1).
        Shapes: y (*batch, c), or (*batch) if c is 1. Returns (*batch, c).
        Raises TypeError or ValueError for targets that do not fit.

        Examples:
            >>> SampledPrediction(torch.tensor([[[-1.0]], [[1.0]]]), 1.0).cdf(torch.zeros(1))
            tensor([[0.5000]])
        """
        return self._cdf(self._targets(y), self.functions)

    def log_prob(self, y: Float[Tensor, "..."]) -> Float[Tensor, "*batch"]:
        """Log-density of the target at y, in nats for each datum: the logarithm of the mean density of the draws.

        Shapes: y (*batch, c), or (*batch) if c is 1. Returns (*batch); the entries of one draw are independent.
        Raises TypeError or ValueError for targets that do not fit.
        Chapter 10, equation def-vb-predictive.

        Examples:
            >>> prediction = SampledPrediction(torch.tensor([[[-1.0]], [[1.0]]]), 1.0)
            >>> prediction.log_prob(torch.zeros(1))  # -log(2 pi) / 2 - 1 / 2
            tensor([-1.4189])
        """
        by_draw = _log_normal(self._targets(y), self.functions, self._noise_by_draw()).sum(-1)
        return by_draw.logsumexp(0) - math.log(len(by_draw))

    def interval(self, level: float = 0.9) -> tuple[Float[Tensor, "*batch c"], Float[Tensor, "*batch c"]]:
        """The ends of the central interval that holds a **target** with probability `level`.

        They are quantiles of the mixture, found by bisection: the law of y' need not be a Gaussian.
        Shapes: returns two tensors (*batch, c), in the unit of y.
        Raises TypeError or ValueError for a level outside (0, 1).
        Chapter 10.

        Examples:
            >>> low, high = SampledPrediction(torch.zeros(5, 1, 1), 1.0).interval(0.95)
            >>> low, high
            (tensor([[-1.9600]]), tensor([[1.9600]]))
        """
        tail = 0.5 * (1 - _check_level(level))
        # the upper end is the lower one of the mirror image: near 1 a distribution function has lost its digits
        return self._quantile(self.functions, tail), -self._quantile(-self.functions, tail)

    def function_interval(self, level: float = 0.9) -> tuple[Float[Tensor, "*batch c"], Float[Tensor, "*batch c"]]:
        """The ends of the central interval that holds the **function** with probability `level`: no noise in it.

        They are quantiles of the draws, linear between two neighbours.
        Shapes: returns two tensors (*batch, c), in the unit of y.
        Raises TypeError or ValueError for a level outside (0, 1).
        Chapter 10.

        Examples:
            >>> low, high = SampledPrediction(torch.linspace(0, 10, 11)[:, None, None], 1.0).function_interval(0.8)
            >>> low, high
            (tensor([[1.]]), tensor([[9.]]))
        """
        tail = 0.5 * (1 - _check_level(level))
        ordered = self.functions.sort(0).values  # torch.quantile refuses large tensors
        return tuple(_between(ordered, share * (len(ordered) - 1)) for share in (tail, 1 - tail))

    def _noise_by_draw(self):
        """(S, 1, ..., 1) or (1, ..., 1): beside the functions."""
        noise_sd = torch.as_tensor(self.noise_sd, dtype=self.functions.dtype, device=self.functions.device)
        return noise_sd.reshape(-1, *[1] * (self.functions.ndim - 1))

    def _cdf(self, y, functions):
        return _normal_cdf((y - functions) / self._noise_by_draw()).mean(0)

    @torch.no_grad()
    def _quantile(self, functions, share):
        """Where the distribution function is `share`; it lies between the quantiles of the outermost components."""
        z = NormalDist().inv_cdf(share)
        ends = functions + z * self._noise_by_draw()
        low, high = ends.amin(0), ends.amax(0)
        for _ in range(-math.floor(math.log2(torch.finfo(low.dtype).eps)) + 4):
            middle = 0.5 * (low + high)
            left = self._cdf(middle, functions) < share
            low, high = torch.where(left, middle, low), torch.where(left, high, middle)
        return 0.5 * (low + high)


@dataclass(frozen=True, eq=False)
class ClassPrediction:
    """The prediction of a class by S draws of the logits: its probabilities are the mean over the draws.

    Shapes: logits (S, *batch, K).
    Raises TypeError or ValueError for wrong types or shapes, and NaN or infinity.
    Chapter 10, equations def-vb-classes and eq-vb-entropy-split.

    Examples:
        >>> prediction = ClassPrediction(torch.tensor([[9.0, -9.0], [-9.0, 9.0]]))  # two draws that disagree
        >>> prediction.probabilities, prediction.entropy, prediction.information
        (tensor([0.5000, 0.5000]), tensor(0.6931), tensor(0.6931))
    """

    logits: Float[Tensor, "S *batch K"]

    def __post_init__(self):
        check_types({"logits": self.logits})
        if self.logits.ndim < 2 or len(self.logits) == 0 or self.logits.shape[-1] == 0:
            raise ValueError(f"logits has shape {tuple(self.logits.shape)}: give (S, *batch, K) with S >= 1")
        check_finite("logits", self.logits.detach())

    @property
    def probabilities(self) -> Float[Tensor, "*batch K"]:
        """Probability of each class: the mean over the draws, of the probabilities and not of the logits.

        Chapter 10, equation def-vb-predictive.

        Examples:
            >>> ClassPrediction(torch.zeros(5, 2)).probabilities
            tensor([0.5000, 0.5000])
        """
        return self.logits.softmax(-1).mean(0)

    def log_prob(self, y: Integer[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Log-probability of class y, in nats for each datum.

        Shapes: y (*batch) with integers from 0 to K - 1. Returns (*batch), not positive.
        Raises TypeError or ValueError for labels that are not integers, out of range or of another shape.
        Chapter 10, equation def-vb-predictive.

        Examples:
            >>> ClassPrediction(torch.zeros(5, 2)).log_prob(torch.tensor(1))
            tensor(-0.6931)
        """
        _check_classes(y, self.logits.select(0, 0))
        return self._log_probabilities().gather(-1, y.long().unsqueeze(-1)).squeeze(-1)

    @property
    def entropy(self) -> Float[Tensor, "*batch"]:
        """Entropy of the mean probabilities, in nats: all that is not known about the class.

        Chapter 10, equation eq-vb-entropy-split.

        Examples:
            >>> ClassPrediction(torch.zeros(5, 2)).entropy
            tensor(0.6931)
        """
        return _entropy(self._log_probabilities())

    @property
    def expected_entropy(self) -> Float[Tensor, "*batch"]:
        """Mean entropy of the draws, in nats: what would stay unknown if the weights were known.

        Chapter 10, equation eq-vb-entropy-split.

        Examples:
            >>> ClassPrediction(torch.zeros(5, 2)).expected_entropy
            tensor(0.6931)
        """
        return _entropy(self.logits.log_softmax(-1)).mean(0)

    @property
    def information(self) -> Float[Tensor, "*batch"]:
        """Mean divergence of a draw's probabilities from their mean, in nats: how much the draws disagree.

        It is `entropy` minus `expected_entropy`, what the class would tell about the weights.
        Chapter 10, equation eq-vb-entropy-split.

        Examples:
            >>> ClassPrediction(torch.zeros(5, 2)).information
            tensor(0.)
        """
        log_p = self.logits.log_softmax(-1)
        # not negative but for rounding; as a difference of two entropies it would lose its digits
        return (log_p.exp() * (log_p - self._log_probabilities())).sum(-1).mean(0).clamp(min=0)

    def _log_probabilities(self):
        return self.logits.log_softmax(-1).logsumexp(0) - math.log(len(self.logits))


def _entropy(log_p):
    return -(log_p.exp() * log_p).sum(-1)


def _normal_cdf(z):
    return 0.5 * torch.erfc(-math.sqrt(0.5) * z)  # torch.special.ndtr has no digits left far below 0


def _log_normal(y, mean, sd):
    return -0.5 * (((y - mean) / sd).square() + LOG_TWO_PI) - sd.log()


def _between(ordered, position):
    """The value at a position that need not be an integer, along the first dimension."""
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return torch.lerp(ordered.select(0, below), ordered.select(0, above), position - below)


def _check_classes(y, logits):
    """Integers from 0 to K - 1, one for each row of logits (*batch, K)."""
    if not isinstance(y, Tensor):
        raise TypeError(f"y is a {type(y).__name__}: give a torch.Tensor of integers")
    if y.is_floating_point() or y.is_complex() or y.dtype is torch.bool:
        raise TypeError(f"y has dtype {y.dtype}: give the classes as integers, for instance y.long()")
    if y.device != logits.device:
        raise ValueError(f"y is on {y.device} but the rest is on {logits.device}: move one of them")
    if y.shape != logits.shape[:-1]:
        raise ValueError(f"y has shape {tuple(y.shape)}: give one class for each datum, {tuple(logits.shape[:-1])}")
    K = logits.shape[-1]
    smallest, largest = bounds(y)
    if values_are_known(y) and (smallest < 0 or largest >= K):
        index = ((y < 0) | (y >= K)).nonzero()[0].tolist()
        raise ValueError(f"{member('y', index)} is {y[tuple(index)].item()}: the classes are 0 to {K - 1}")


def _check_level(level):
    if isinstance(level, bool) or not isinstance(level, int | float):
        raise TypeError(f"level is a {type(level).__name__}: give a probability, such as 0.9")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: a probability between 0 and 1, such as 0.9")
    return level


def _check_noise_sd(noise_sd, tensor, n_draws=None):
    """A number, or a tensor of one or of one for each draw."""
    if isinstance(noise_sd, Tensor):
        check_types({"the prediction": tensor, "noise_sd": noise_sd})
        if noise_sd.shape not in {(), (n_draws,)}:
            also = "" if n_draws is None else f", or one for each of the {n_draws} draws"
            raise ValueError(f"noise_sd has shape {tuple(noise_sd.shape)}: give one number{also}")
        smallest, largest = bounds(noise_sd)
    elif isinstance(noise_sd, bool) or not isinstance(noise_sd, int | float):
        raise TypeError(f"noise_sd is a {type(noise_sd).__name__}: give a number, or a tensor")
    else:
        smallest = largest = noise_sd
    if not 0 < smallest <= largest < math.inf:
        raise ValueError(f"noise_sd is {smallest}: it must be positive and finite")
