"""How two values differ, in words: shared by the public check and by the hidden tests.

Values are compared from the outside in: type, structure, shape, dtype, then the numbers. A list of two numbers says
where a number differs. The numbers themselves are in `detail` only, because a hidden test must not show them.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Relative and absolute tolerance: room for another order of summation, and not for another formula.
TOLERANCES = {
    torch.float16: (1e-2, 1e-3),
    torch.bfloat16: (2e-2, 1e-2),
    torch.float32: (1e-4, 1e-5),
    torch.complex64: (1e-4, 1e-5),
}
DEFAULT = (1e-7, 1e-9)


@dataclass(frozen=True)
class Difference:
    """Of which kind it is, a sentence without any value of the inputs or results, and the values."""

    kind: str  # "type", "structure", "shape", "dtype" or "value"
    sentence: str
    detail: str = ""


def difference(actual, expected, *, rtol=None, atol=None, dtype=True, where="") -> Difference | None:
    """The first difference between what was returned and what was expected; None if there is none."""
    if isinstance(expected, Tensor | np.ndarray):
        return _tensors(actual, expected, rtol, atol, dtype, where)
    if isinstance(expected, tuple | list):
        return _sequences(actual, expected, rtol, atol, dtype, where)
    if isinstance(expected, dict):
        return _dicts(actual, expected, rtol, atol, dtype, where)
    return _plain(actual, expected, rtol, atol, where)


def kind_of(value) -> str:
    """What a value is, in words: "a tensor", "None", "a tuple of 2"."""
    if value is None:
        return "None"
    if isinstance(value, Tensor):
        return "a tensor"
    if isinstance(value, np.ndarray):
        return "a NumPy array"
    if isinstance(value, list | tuple):
        return f"a {'list' if isinstance(value, list) else 'tuple'} of {len(value)}"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def show(value, at_most: int = 6, form: bool = True) -> str:
    """A value as a person reads it: small tensors whole, large ones by their form, that is, shape and dtype."""
    if isinstance(value, Tensor | np.ndarray):
        tensor = _tensor(value)
        said = f"shape {tuple(tensor.shape)}, {str(tensor.dtype).removeprefix('torch.')}"
        if tensor.numel() > at_most:
            return f"({said})"
        return _numbers(tensor.tolist()) + (f" ({said})" if form else "")
    if isinstance(value, bool | int | str | None):
        return repr(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, list | tuple):
        inner = ", ".join(show(one, at_most, form) for one in value[:8]) + (", …" if len(value) > 8 else "")
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {show(one, at_most, form)}" for key, one in list(value.items())[:8]) + "}"
    return kind_of(value)


def _tensors(actual, expected, rtol, atol, dtype, where):
    if isinstance(expected, np.ndarray) and isinstance(actual, np.ndarray):
        if actual.dtype.kind not in "biufc":
            return _types(actual, expected, where)
    elif not (isinstance(expected, Tensor) and isinstance(actual, Tensor)):
        return _types(actual, expected, where)
    got, want = _tensor(actual), _tensor(expected)
    if got.shape != want.shape:
        said = f"{where}the shape is {tuple(got.shape)} and should be {tuple(want.shape)}"
        return Difference("shape", said)
    if dtype and got.dtype != want.dtype:
        names = [str(one).removeprefix("torch.") for one in (got.dtype, want.dtype)]
        return Difference("dtype", f"{where}the dtype is {names[0]} and should be {names[1]}")
    if not dtype and got.dtype != want.dtype:
        got = got.to(want.dtype)
    relative, absolute = _tolerance(want.dtype, rtol, atol)
    if got.dtype.is_floating_point or got.dtype.is_complex:
        wrong = ~torch.isclose(got, want, rtol=relative, atol=absolute, equal_nan=True)
    else:
        wrong = got != want
    if not wrong.any():
        return None
    index = wrong.nonzero()[0].tolist()
    first, right = got[tuple(index)].item(), want[tuple(index)].item()
    place = f"{where}at {index} " if index else where
    count = f" ({int(wrong.sum())} of {wrong.numel()} values differ)" if wrong.numel() > 1 else ""
    return Difference("value", _not_right(first, right, place), f"{place}{_pair(first, right)}{count}")


def _sequences(actual, expected, rtol, atol, dtype, where):
    if not isinstance(actual, list | tuple) or isinstance(actual, list) != isinstance(expected, list):
        return _types(actual, expected, where)
    if len(actual) != len(expected):
        said = (
            f"{where}it has {len(actual)} {'entry' if len(actual) == 1 else 'entries'} and should have {len(expected)}"
        )
        return Difference("structure", said)
    for index, (one, other) in enumerate(zip(actual, expected, strict=True)):
        inner = f"{where}entry {index}: "
        if found := difference(one, other, rtol=rtol, atol=atol, dtype=dtype, where=inner):
            return found
    return None


def _dicts(actual, expected, rtol, atol, dtype, where):
    if not isinstance(actual, dict):
        return _types(actual, expected, where)
    if missing := [key for key in expected if key not in actual]:
        return Difference("structure", f"{where}the key {missing[0]!r} is missing")
    if unknown := [key for key in actual if key not in expected]:
        return Difference("structure", f"{where}there is a key {show(unknown[0])} that should not be there")
    for key, other in expected.items():
        inner = f"{where}key {key!r}: "
        if found := difference(actual[key], other, rtol=rtol, atol=atol, dtype=dtype, where=inner):
            return found
    return None


def _plain(actual, expected, rtol, atol, where):
    numbers = (int, float, complex)
    if isinstance(expected, numbers) and not isinstance(expected, bool):
        fits = isinstance(actual, numbers) and not isinstance(actual, bool)
        # 1 for 1.0 is no mistake, but 1.0 for 1 may be
        if not fits or (isinstance(expected, int) and not isinstance(actual, int)):
            return _types(actual, expected, where)
        if isinstance(expected, int):
            right = actual == expected
        else:
            relative, absolute = _tolerance(torch.float64, rtol, atol)
            gap = abs(actual - expected)  # between infinities it says nothing
            right = actual == expected or (gap < math.inf and gap <= max(absolute, relative * abs(expected)))
            right = right or (actual != actual and expected != expected)
    else:
        if type(actual) is not type(expected):
            return _types(actual, expected, where)
        right = actual == expected
    if right:
        return None
    return Difference("value", _not_right(actual, expected, where), where + _pair(actual, expected))


def _types(actual, expected, where):
    return Difference("type", f"{where}it is {kind_of(actual)} and should be {kind_of(expected)}")


def _not_right(first, right, place):
    if isinstance(first, float) and isinstance(right, float):
        if math.isnan(first):
            return f"{place}the value is not a number (nan)"
        if math.isinf(first) and not math.isinf(right):
            return f"{place}the value is infinite"
    return f"{place}the value is not right"


def _pair(first, right):
    digits = 4
    while digits < 17 and _number(first, digits) == _number(right, digits):
        digits += 1
    return f"expected {_number(right, digits)}, got {_number(first, digits)}"


def _number(value, digits=5):
    return f"{value:.{digits}g}" if isinstance(value, float) else repr(value)


def _numbers(values):
    return "[" + ", ".join(map(_numbers, values)) + "]" if isinstance(values, list) else _number(values)


def _tensor(value):
    """Plain, detached, on the CPU: a subclass could answer as it likes."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.array(value))
    return value.detach().as_subclass(Tensor).cpu()


def _tolerance(dtype, rtol, atol):
    relative, absolute = TOLERANCES.get(dtype, DEFAULT)
    return (relative if rtol is None else rtol), (absolute if atol is None else atol)
