r"""Losses of one datum and their mean over the data (chapter 3).

The truth comes first, the prediction second. A loss is in nats for each datum, or in the squared unit of y; it sums
over the dimensions of one datum, and the empirical risk is the mean over the data. Device and dtype follow the inputs.

Shapes must be equal. PyTorch would stretch y (N,) against a prediction (N, 1) to N x N numbers, without a word.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from course_lib._validation import FLOATS, any_of, bounds, check_finite, check_types, checked, member

__all__ = ["cross_entropy_loss", "empirical_risk", "gaussian_negative_log_likelihood", "squared_error"]


def squared_error(y: Float[Tensor, "*batch d"], prediction: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """Squared Euclidean distance of the prediction from y, for each datum, in the squared unit of y.

    Shapes: both (*batch, d); a single target for each of N data is (N, 1). Returns (*batch), summed over d.
    Raises TypeError or ValueError for wrong types or devices, unequal shapes, NaN or infinity, and an overflow.
    Chapter 3, equation def-squared-error. C. M. Bishop, Pattern Recognition and Machine Learning (2006), section 1.5.5.

    Examples:
        >>> y = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
        >>> squared_error(y, torch.zeros(2, 2))
        tensor([5., 0.])
    """
    _check_equal({"y": y, "prediction": prediction})
    return _checked((y - prediction).square().sum(-1), "squared error", {"y": y, "prediction": prediction})


def cross_entropy_loss(y: Integer[Tensor, "*batch"], logits: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch"]:
    """Minus the log-probability of class y under softmax(logits), in nats for each datum.

    Give logits and not probabilities: the softmax is taken here, together with the logarithm, so that neither
    overflows nor underflows.
    Shapes: y (*batch) with integers from 0 to K - 1, logits (*batch, K). Returns (*batch), never negative.
    Raises TypeError or ValueError for wrong types or devices, labels that are not integers or out of range (the first
    is named), shapes that do not fit, NaN or infinity, and logits too far apart for their dtype.
    Chapter 3, equation eq-cross-entropy-logits. C. M. Bishop, Pattern Recognition and Machine Learning (2006),
    section 4.3.4.

    Examples:
        >>> cross_entropy_loss(torch.tensor([0, 1]), torch.tensor([[0.0, 0.0], [0.0, 1e4]]))
        tensor([0.6931, 0.0000])
    """
    _check_labels(y, logits)
    # The logit of the true class is zero after this subtraction, so that no term of the sum below it is negative.
    against_truth = logits - logits.gather(-1, y.long().unsqueeze(-1))
    return _checked(against_truth.logsumexp(-1), "cross-entropy", {"logits": logits})


def gaussian_negative_log_likelihood(
    y: Float[Tensor, "*batch d"], mean: Float[Tensor, "*batch d"], variance: Float[Tensor, "..."]
) -> Float[Tensor, "*batch"]:
    """Minus the log-density of y under a Gaussian with independent entries, in nats for each datum.

    The constant log(2 pi) / 2 is kept, once for each dimension, and so is log(variance) / 2: with a variance that is
    learned, the value means nothing without them.
    Shapes: y and mean (*batch, d); variance one number, or as many dimensions as y with sizes 1 or those of y.
    Returns (*batch), summed over d.
    Raises TypeError or ValueError for wrong types or devices, shapes that do not fit, a variance that is not positive,
    NaN or infinity, and an overflow.
    Chapter 3, equation eq-gaussian-nll. C. M. Bishop, Pattern Recognition and Machine Learning (2006), section 3.1.1.

    Examples:
        >>> y, mean = torch.zeros(1, 2, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
        >>> one = torch.tensor(1.0, dtype=torch.float64)
        >>> round(gaussian_negative_log_likelihood(y, mean, one).item(), 6)  # log(2 pi): twice one half of it
        1.837877
    """
    named = {"y": y, "mean": mean, "variance": variance}
    _check_equal({"y": y, "mean": mean}, also={"variance": variance})
    fits = variance.ndim == y.ndim and all(v in (1, n) for v, n in zip(variance.shape, y.shape, strict=True))
    if variance.ndim and not fits:
        raise ValueError(
            f"variance has shape {tuple(variance.shape)} and y {tuple(y.shape)}: give one number, "
            "or as many dimensions as y has, each 1 or as long as that of y"
        )
    if not bounds(variance)[0] > 0:
        check_finite("variance", variance)
        index = (variance <= 0).nonzero()[0].tolist()
        raise ValueError(f"{member('variance', index)} is {variance[tuple(index)].item():.4g}: it must be positive")
    terms = math.log(2 * math.pi) + variance.log() + (y - mean).square() / variance
    return _checked(0.5 * terms.sum(-1), "negative log-likelihood", named)


def empirical_risk(loss: Callable[[Tensor, Tensor], Tensor], y: Tensor, prediction: Tensor) -> Float[Tensor, ""]:
    """Mean of a loss over the data, in the unit of the loss.

    Shapes: y and prediction have the data in their first dimension; loss(y, prediction) returns one number for each
    datum. Returns a scalar.
    Raises what the loss raises, TypeError for a loss that returns no tensor, and ValueError for no data or for losses
    that are not shaped like the data.
    Chapter 3, equation def-empirical-risk. V. N. Vapnik, The Nature of Statistical Learning Theory (1995), section 1.5.

    Examples:
        >>> y, prediction = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [3.0]])
        >>> empirical_risk(squared_error, y, prediction)
        tensor(0.5000)
        >>> empirical_risk(cross_entropy_loss, torch.tensor([0, 1]), torch.zeros(2, 10))  # log 10
        tensor(2.3026)
    """
    losses = loss(y, prediction)
    if not isinstance(losses, Tensor):
        raise TypeError(f"loss returned a {type(losses).__name__}: it must return a torch.Tensor")
    if losses.ndim == 0:
        raise ValueError(
            f"loss returned one number for all data (y has shape {tuple(y.shape)}): it must return one for each "
            "datum. N single targets have shape (N, 1), y[:, None], because (N,) is one datum of N dimensions"
        )
    if losses.shape != y.shape[: losses.ndim]:
        raise ValueError(
            f"loss returned shape {tuple(losses.shape)} and y has {tuple(y.shape)}: it must return one number for "
            "each datum"
        )
    if losses.numel() == 0:
        raise ValueError(f"y has shape {tuple(y.shape)}: there are no data, and so there is no mean")
    return losses.mean()


# Checks


def _check_equal(named, also=None):
    check_types(named | (also or {}))
    (name, first), (other_name, other) = named.items()
    if first.ndim == 0 or first.shape[-1] == 0:
        raise ValueError(f"{name} has shape {tuple(first.shape)}: it must end in the dimension d >= 1")
    if first.shape != other.shape:
        hint = "make them equal"
        if {first.ndim, other.ndim} == {1, 2} and first.numel() == other.numel():
            hint = "give both as (N, 1), for instance y[:, None]; (N,) against (N, 1) would be stretched to N x N"
        raise ValueError(f"{name} has shape {tuple(first.shape)} and {other_name} {tuple(other.shape)}: {hint}")


def _check_labels(y, logits):
    if not isinstance(y, Tensor):
        raise TypeError(f"y is a {type(y).__name__}: give a torch.Tensor of integers")
    if y.is_floating_point() or y.is_complex() or y.dtype is torch.bool:
        hint = "give the classes as integers from 0 to K - 1, for instance y.long()"
        if isinstance(logits, Tensor) and logits.dtype not in FLOATS:
            hint = "give the classes first, and then the logits"
        raise TypeError(f"y has dtype {y.dtype}: {hint}")
    check_types({"logits": logits})
    if y.device != logits.device:
        raise ValueError(f"y is on {y.device} but logits is on {logits.device}: move one of them")
    if logits.ndim == 0 or logits.shape[-1] == 0 or y.shape != logits.shape[:-1]:
        hint = "y must have the shape of logits without its last dimension, the K classes"
        if y.shape == logits.shape:
            hint = "give the index of the class, y.argmax(-1), and not one-hot vectors"
        elif y.shape == (*logits.shape[:-1], 1):
            hint = "give y as (N,), for instance y[:, 0], because (N, 1) would be one class for each of N x 1 data"
        raise ValueError(f"y has shape {tuple(y.shape)} and logits {tuple(logits.shape)}: {hint}")
    check_finite("logits", logits.detach())
    K = logits.shape[-1]
    wrong = (y < 0) | (y >= K)
    if any_of(wrong):
        index = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{member('y', index)} is {y[tuple(index)].item()}: with {K} logits the classes are the integers from "
            f"0 to {K - 1}"
        )


def _checked(losses, what, named):
    return checked(losses, what, named, "bring y and the prediction to a scale")
