"""What a hidden test is written with: comparisons, random numbers from the secret seed, and a few random inputs.

A test fails by raising. What `same` raises says what differs without showing a value, because students read it.
"""

import hashlib
import os
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from course_lib._comparison import difference, kind_of

__all__ = ["Mismatch", "raises", "random_covariance", "random_distribution", "same", "secret", "secret_generator"]

SECRET = "COURSE_LIB_SECRET"
SECRET_FILE = "COURSE_LIB_SECRET_FILE"
PRACTICE = "practice"

_chosen: list[str] = []


class Mismatch(AssertionError):
    """What differs, without values; the values are in `detail`, for the teacher.

    Examples:
        >>> error = Mismatch("the value is not right", "expected 1.0, got 2.0")
        >>> str(error), error.detail
        ('the value is not right', 'expected 1.0, got 2.0')
    """

    def __init__(self, sentence: str, detail: str = ""):
        super().__init__(sentence)
        self.detail = detail


def same(
    actual: Any,
    expected: Any,
    *,
    rtol: float | int | None = None,
    atol: float | int | None = None,
    dtype: bool = True,
    what: str = "",
) -> None:
    """Raise Mismatch unless two values agree in type, structure, shape, dtype, and within the tolerance.

    Args:
        actual: what the student's function returned
        expected: what it should be
        rtol, atol: relative and absolute tolerance; by default those of the dtype, 1e-7 and 1e-9 in float64
        dtype: whether the dtypes must be equal
        what: what was tried, in words that a student may read, such as "a batch of three"

    Raises:
        Mismatch: they differ

    Examples:
        >>> same(torch.ones(2), torch.ones(2))
        >>> same(torch.ones(2), torch.ones(3), what="a batch")
        Traceback (most recent call last):
        ...
        course_lib.grading.testing.Mismatch: a batch: the shape is (2,) and should be (3,)
    """
    found = difference(actual, expected, rtol=rtol, atol=atol, dtype=dtype)
    if found is not None:
        raise Mismatch(f"{what}: {found.sentence}" if what else found.sentence, found.detail)


def raises(kinds: type | tuple[type, ...], function: Callable, *arguments: Any, what: str = "", **named: Any) -> None:
    """Raise Mismatch unless the function raises an error of one of these kinds.

    The error of a function in the sandbox is of the built-in kind that the student raised, and has a `kind` or, where
    the process came to an end, a `status`. That nothing is written yet (NotImplementedError) is not caught.

    Args:
        kinds: an exception, or several
        function: the student's function
        arguments, named: what it is called with
        what: what was tried, in words that a student may read

    Raises:
        Mismatch: it raises nothing, or something else

    Examples:
        >>> raises(ValueError, int, "x")
        >>> raises(ValueError, int, "1", what="a digit")
        Traceback (most recent call last):
        ...
        course_lib.grading.testing.Mismatch: a digit: it should raise ValueError, and returns an int
    """
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    wanted = " or ".join(kind.__name__ for kind in kinds)
    before = f"{what}: " if what else ""
    try:
        value = function(*arguments, **named)
    except Exception as error:
        if isinstance(error, NotImplementedError):  # which is a RuntimeError, too
            raise
        if isinstance(error, kinds):
            return
        name = getattr(error, "kind", None) or getattr(error, "status", None) or type(error).__name__
        raise Mismatch(f"{before}it should raise {wanted}, and raises {name}") from None
    raise Mismatch(f"{before}it should raise {wanted}, and returns {kind_of(value)}")


# Random inputs


def secret_generator(label: str) -> torch.Generator:
    """A generator on the CPU, seeded by the secret and a label, so that each test draws its own numbers.

    The secret is the environment variable COURSE_LIB_SECRET, or the first line of the file that COURSE_LIB_SECRET_FILE
    names; without them it is the word for practice, which is no secret.

    Args:
        label: the id of the hidden test

    Raises:
        RuntimeError: the file cannot be read, or is empty

    Examples:
        >>> one, other = secret_generator("2.1a"), secret_generator("2.1b")
        >>> one.initial_seed() == secret_generator("2.1a").initial_seed(), one.initial_seed() == other.initial_seed()
        (True, False)
    """
    digest = hashlib.sha256(f"{_secret()}\0{label}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@contextmanager
def secret(word: str):
    """Within the body, `secret_generator` uses this secret.

    Args:
        word: the secret

    Examples:
        >>> with secret("another"):
        ...     seed = secret_generator("2.1a").initial_seed()
        >>> seed == secret_generator("2.1a").initial_seed()
        False
    """
    _chosen.append(word)
    try:
        yield
    finally:
        _chosen.pop()


def _secret():
    if _chosen:
        return _chosen[-1]
    if word := os.environ.get(SECRET, "").strip():
        return word
    if name := os.environ.get(SECRET_FILE, "").strip():
        try:
            word = Path(name).read_text(encoding="utf-8").partition("\n")[0].strip()
        except (OSError, UnicodeDecodeError) as error:
            raise RuntimeError(f"{SECRET_FILE} names {name!r}, which cannot be read: {error}") from None
        if not word:
            raise RuntimeError(f"{SECRET_FILE} names {name!r}, whose first line is empty: write the secret into it")
        return word
    return PRACTICE


def random_distribution(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random distributions, (*batch, K), none of whose probabilities is zero.

    Args:
        generator: as `secret_generator` makes it
        shape: the batch and the number of outcomes
        dtype: of the result

    Examples:
        >>> p = random_distribution(secret_generator("example"), 2, 4)
        >>> p.shape, bool((p > 0).all()), bool(torch.allclose(p.sum(-1), torch.ones(2, dtype=p.dtype)))
        (torch.Size([2, 4]), True, True)
    """
    return torch.randn(*shape, generator=generator, dtype=torch.float64).softmax(-1).to(dtype)


def random_covariance(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random covariance matrices, (*batch, d, d), symmetric, with eigenvalues from about 1/2 on.

    Args:
        generator: as `secret_generator` makes it
        shape: the batch and the dimension d
        dtype: of the result

    Examples:
        >>> cov = random_covariance(secret_generator("example"), 5, 3)
        >>> cov.shape, bool((cov == cov.mT).all()), bool((torch.linalg.eigvalsh(cov) > 0.49).all())
        (torch.Size([5, 3, 3]), True, True)
    """
    *batch, d = shape
    root = torch.randn(*batch, d, d, generator=generator, dtype=torch.float64)
    product = root @ root.mT / d + torch.eye(d, dtype=torch.float64) / 2
    return ((product + product.mT) / 2).to(dtype)
