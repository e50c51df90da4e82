"""The arithmetic of `latex_reader`: values, the entries of families, and operations that refuse what NumPy would do.

NumPy stretches a number to a matrix, multiplies matrices entry by entry, and counts from 0. A printed formula does not.
"""

import math
import numbers

import numpy as np


class Indexed:
    """A family whose entry is a function of its indices, the layer first and then the subscripts."""

    def __init__(self, function):
        self.function = function


class Depends:
    """A value that is computed from the other values at the moment when it is needed."""

    def __init__(self, function):
        self.function = function


def resolved(value, names):
    return value.function(names) if isinstance(value, Depends) else value


def number(value):
    """A matrix with one entry is a number."""
    return value.item() if isinstance(value, np.ndarray | np.generic) and value.size == 1 else value


def operand(value):
    """A number or an array; Python would also add lists, and multiply tensors entry by entry."""
    value = number(value)
    if callable(value):
        raise ValueError(f"a function stands here without its arguments: {value}")
    if not isinstance(value, numbers.Number | np.ndarray):
        raise ValueError(f"a number or a NumPy array is wanted here, not {value!r}")
    if isinstance(value, np.ndarray) and value.ndim == 1:
        raise ValueError(f"a vector is a column, of shape ({len(value)}, 1)")
    return value


def product(a, b):
    a, b = operand(a), operand(b)
    return a @ b if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) else a * b


def same_shape(a, b, what):
    a, b = operand(a), operand(b)
    if np.shape(a) != np.shape(b):
        raise ValueError(f"{what} of shapes {np.shape(a)} and {np.shape(b)}")
    return a, b


def added(a, b):
    a, b = same_shape(a, b, "a sum")
    return a + b


def scalar(value):
    value = number(value)
    if not isinstance(value, numbers.Number):
        raise ValueError(f"a number is wanted here, not {value!r}")
    return value


def size(value):
    """``|A|``: the number of elements of a set, the determinant of a matrix, the absolute value of a number."""
    if isinstance(value, set | frozenset | list | tuple):
        return len(value)
    value = operand(value)
    return np.linalg.det(value) if np.ndim(value) else abs(value)


def determinant(value):
    return float(np.linalg.det(np.atleast_2d(operand(value))))


def raised(value, exponent):
    """A power of a number; of a symmetric matrix also the powers 1/2 and -1/2."""
    value, exponent = number(value), scalar(exponent)
    if np.ndim(value) == 2 and abs(exponent) == 0.5:
        if np.shape(value) != np.shape(np.transpose(value)) or not np.allclose(value, np.transpose(value)):
            raise ValueError("the square root is that of a symmetric matrix")
        eigenvalues, vectors = np.linalg.eigh(value)
        return vectors @ np.diag(eigenvalues**exponent) @ vectors.T
    return scalar(value) ** exponent


def normal_density(x, mean, cov):
    """The density of a normal distribution, whose mean may be the number 0 in any dimension."""
    x, cov = np.atleast_2d(operand(x)), np.atleast_2d(operand(cov))
    mean = np.atleast_2d(operand(mean))
    if mean.shape == (1, 1) and not mean.any():
        mean = np.zeros(x.shape)
    if x.shape != mean.shape or cov.shape != (len(x), len(x)):
        raise ValueError(f"a normal density at {x.shape} with a mean {mean.shape} and a covariance {cov.shape}")
    gap = x - mean
    return math.exp(-0.5 * (gap.T @ np.linalg.solve(cov, gap)).item()) / determinant(2 * math.pi * cov) ** 0.5


# --- families ---


def entry(value, index, name):
    """One entry of a family."""
    if isinstance(value, dict) and index in value:
        return value[index]
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim):
        if isinstance(index, int) and 1 <= index <= len(value):
            return value[index - 1]
    elif not isinstance(value, dict):
        raise ValueError(f"{name} was given without entries, as {value!r}")
    raise ValueError(f"{name} has no entry {index!r}")


def entries(value, indices, name):
    """The entry of a family at all its indices; a row of an array is a vector, so it becomes a column."""
    if isinstance(value, Indexed):
        return value.function(*indices)
    for index in indices:
        value = entry(value, index, name)
    return value[:, None] if indices and isinstance(value, np.ndarray) and value.ndim == 1 else value


def index_value(value):
    """An index is a whole number; the key of a dict may be anything else."""
    value = number(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def whole_number(value):
    value = index_value(value)
    if not isinstance(value, int):
        raise ValueError(f"a whole number is wanted here, not {value!r}")
    return value
