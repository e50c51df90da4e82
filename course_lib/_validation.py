"""Checks of tensors, and the sentences that say what is wrong with them, where, and what to do.

What needs values is asked in as few reductions as possible: the search for the culprit starts only when the answer is
bad. Where there are no values to look at, as under FakeTensorMode, they are not asked for.
"""

import math

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.linalg import diagonal

FLOATS = (torch.float64, torch.float32)


def check_form(vectors, matrices):
    """Types, devices and shapes, which cost no arithmetic."""
    named = vectors | matrices
    check_types(named)
    first_name, first = next(iter(named.items()))
    shape = first.shape
    plain = [shape] * len(vectors) + [shape + shape[-1:]] * len(matrices)
    if [tensor.shape for tensor in named.values()] != plain or not all(shape[-1:] or (0,)):
        _check_shapes(vectors, matrices, first_name, shape)  # it may still broadcast


def check_types(named):
    """Tensors of one floating type, on one device."""
    first_name, first = next(iter(named.items()))
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is a {type(tensor).__name__}: give a torch.Tensor")
    dtype, device = first.dtype, first.device
    for name, tensor in named.items():
        if tensor.dtype is not dtype or dtype not in FLOATS:
            if tensor.dtype not in FLOATS:
                raise TypeError(f"{name} has dtype {tensor.dtype}: give float32 or float64")
            raise TypeError(f"{name} is {tensor.dtype} but {first_name} is {dtype}: convert one of them")
        if tensor.device != device:
            raise ValueError(f"{name} is on {tensor.device} but {first_name} is on {device}: move one of them")


def _check_shapes(vectors, matrices, first_name, first):
    if len(first) == 0 or first[-1] == 0:
        raise ValueError(f"{first_name} has shape {tuple(first)}: it must end in the dimension d >= 1")
    batches = {}
    for rank, group in ((1, vectors), (2, matrices)):
        for name, tensor in group.items():
            if tensor.shape[-rank:] != first[-1:] * rank:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}: it must end in {tuple(first[-1:] * rank)}, "
                    f"because {first_name} has shape {tuple(first)}"
                )
            batches[name] = tuple(tensor.shape[:-rank])
    try:
        torch.broadcast_shapes(*batches.values())
    except RuntimeError:
        shapes = ", ".join(f"{name} {batch}" for name, batch in batches.items())
        raise ValueError(f"the batch shapes do not broadcast ({shapes}): make them equal, 1 or absent") from None


def check_symmetric(name, cov, dtype):
    if _clearly_symmetric(cov, dtype):
        return
    check_finite(name, cov)
    asymmetry = cov - cov.mT
    excess = asymmetry.amax((-2, -1)) - _tolerance(dtype) * diagonal(cov).abs().amax(-1)
    if (excess > 0).any():
        index = (excess > 0).nonzero()[0].tolist() if excess.ndim else []
        worst = asymmetry[tuple(index)]
        row, column = divmod(worst.argmax().item(), worst.shape[-1])
        raise ValueError(
            f"{member(name, index)} is not symmetric (entries [{row}, {column}] and [{column}, {row}] differ by "
            f"{worst.amax().item():.4g}): give (cov + cov.mT) / 2 if you mean its symmetric part"
        )


def _clearly_symmetric(cov, dtype):
    """Whether the whole batch passes by the measure of its strictest member, which two numbers decide."""
    if not values_are_known(cov) or torch.equal(cov, cov.mT):
        return True
    # cov - cov' is antisymmetric: its largest entry is its largest absolute value. Infinity minus itself is NaN.
    return (cov - cov.mT).amax().item() <= _tolerance(dtype) * diagonal(cov).amin().item()


def _tolerance(dtype):
    return math.sqrt(torch.finfo(dtype).eps)  # half the digits, relative to the largest variance


def check_tril(name, tril):
    if not values_are_known(tril):
        return
    if tril.triu(1).count_nonzero().item():  # NaN is not zero, and counted
        check_finite(name, tril)
        *index, row, column = tril.triu(1).nonzero()[0].tolist()
        raise ValueError(
            f"{member(name, index)} is not lower triangular (entry [{row}, {column}] is "
            f"{tril[(*index, row, column)].item():.4g}): give torch.linalg.cholesky(cov), or its .tril()"
        )
    if not diagonal(tril).amin().item() > 0:
        check_finite(name, tril)
        *index, row = (diagonal(tril) <= 0).nonzero()[0].tolist()
        raise ValueError(
            f"{member(name, index)} has {diagonal(tril)[(*index, row)].item():.4g} on its diagonal at row {row}: "
            "every diagonal entry of a Cholesky factor must be positive"
        )


def check_finite(name, tensor):
    if values_are_known(tensor) and not tensor.isfinite().all():
        index = (~tensor.isfinite()).nonzero()[0].tolist()
        value = tensor[tuple(index)].item()
        raise ValueError(f"{member(name, index)} is {value}: every entry must be finite")


def checked(result, what, named, advice):
    """The result, if it is finite: what is not shows in it, so the inputs are searched only then."""
    if not all(map(math.isfinite, bounds(result))):
        for name, tensor in named.items():
            check_finite(name, tensor.detach())
        raise ValueError(f"the {what} is beyond the range of {result.dtype}: {advice}")
    return result


def check_count(name, value):
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is a {type(value).__name__}: give an int")
    if value < 1:
        raise ValueError(f"{name} is {value}: it must be 1 or more")
    return value


def check_positive(name, value):
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a {type(value).__name__}: give a number")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {value}: it must be positive and finite")
    return value


def check_device(device):
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device} and PyTorch finds no CUDA device here: leave device out, or give 'cpu'")
    return device


def one_of(what, name, names):
    if name not in names:
        raise ValueError(f"{what} is {name!r}: give one of {', '.join(names)}")
    return name


def check_samples_against_data(x, z):
    """Samples of z have dimensions of their own, before those of the data."""
    try:
        torch.broadcast_shapes(x.shape[:-1], z.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and z {tuple(z.shape)}: for samples against data give z (S, 1, m) "
            "and x (N, d)"
        ) from None


def check_generator(generator, name, tensor):
    """Random numbers are drawn where they are used."""
    if generator is not None and generator.device.type != tensor.device.type:
        raise ValueError(
            f"generator is on {generator.device} and {name} on {tensor.device}: "
            f"make it with torch.Generator({tensor.device.type!r})"
        )


def member(name, index):
    return f"{name}{index}" if index else name


def bounds(result):
    """The smallest and the largest value (NaN if there is one), 1 where values are not known."""
    if not values_are_known(result):
        return 1.0, 1.0
    if result.numel() == 1:  # no reduction needed
        return (result.item(),) * 2
    smallest, largest = result.detach().aminmax()
    return smallest.item(), largest.item()


def any_of(flags):
    if not values_are_known(flags):
        return False
    return bool(flags.item() if flags.numel() == 1 else flags.max().item())  # flags.any() takes twice as long


def values_are_known(tensor):
    """Whether there are values to look at: not under FakeTensorMode, on the meta device, or in an empty batch."""
    return not (isinstance(tensor, FakeTensor) or tensor.is_meta or tensor.numel() == 0)
