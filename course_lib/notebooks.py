"""What a chapter needs from the notebook it runs in; it works in Jupyter, in Colab and while the book is built."""

import re
from importlib import metadata

__all__ = ["glue", "report_versions"]

# The names that MyST-NB looks for. Outputs of this kind are stored in the notebook and shown nowhere.
_HIDDEN_TEXT = "application/papermill.record/text/plain"
_HIDDEN_PREFIX = "application/papermill.record/"


def glue(name: str, value: str | int | float) -> None:
    """Store a value that the text of the chapter shows with ``{glue:text}`name` ``.

    It does what ``myst_nb.glue(name, value, display=False)`` does, without MyST-NB, which Colab lacks.
    Nothing is printed; outside a notebook nothing happens at all.

    Args:
        name: what the text calls the value; letters, digits, ``_``, ``-`` and ``.``
        value: a number or a short text, already rounded as the reader shall see it

    Raises:
        ValueError: the name contains other characters
        TypeError: the value is neither a number nor text; for a tensor give ``value.item()``

    Example:
        >>> glue("kl", f"{0.4431471805:.3f}")
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"the name {name!r} may contain letters, digits, '_', '-' and '.' only")
    if not isinstance(value, (str, int, float)):
        raise TypeError(f"{name!r} has type {type(value).__name__}; glue takes a number or a text")
    plain = float(value) if isinstance(value, float) else value  # numpy's floats print with their type's name
    from IPython import get_ipython  # every notebook has it, and a script that imports course_lib need not

    if get_ipython() is not None:
        from IPython.display import display

        scrapbook = {"name": name, "mime_prefix": _HIDDEN_PREFIX}
        display({_HIDDEN_TEXT: repr(plain)}, metadata={"scrapbook": scrapbook}, raw=True)


def report_versions(expected: str) -> None:
    """Print which course_lib is installed, and what is older than this notebook or course_lib expects.

    Nothing is installed or changed.

    Args:
        expected: the version of course_lib that the notebook was made with

    Raises:
        importlib.metadata.PackageNotFoundError: course_lib is not installed

    Example:
        >>> from course_lib import __version__
        >>> report_versions("0.0.1")  # doctest: +ELLIPSIS
        course_lib ... is installed; this notebook was made with 0.0.1, so numbers and names may differ.
    """
    installed = metadata.version("course_lib")
    if installed == expected:
        print(f"course_lib {installed} is installed, the version that this notebook was made with.")
    else:
        print(
            f"course_lib {installed} is installed; this notebook was made with {expected}, "
            "so numbers and names may differ."
        )
    for line in _older_than_required(metadata.requires("course_lib") or []):
        print(line)


def _older_than_required(requirements: list[str]) -> list[str]:
    """One sentence for each requirement, extras left out, whose installed version is below its lower bound.

    Example:
        >>> _older_than_required(["torch>=999", "numpy>=1", "absent>=3", "ruff>=999; extra == 'test'"])
        ... # doctest: +ELLIPSIS
        ['torch ... is older than ... 999 ...', 'absent is not installed; course_lib needs at least 3.']
    """
    lines = []
    for requirement in requirements:
        bound = re.match(r"([\w.-]+)[^;]*>=\s*([\w.]+)", requirement)
        if bound is None or "extra ==" in requirement:
            continue
        name, lowest = bound.groups()
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            lines.append(f"{name} is not installed; course_lib needs at least {lowest}.")
            continue
        if _release(installed) < _release(lowest):
            lines.append(
                f"{name} {installed} is older than the {lowest} that course_lib is tested with. "
                "It may still work; nothing was changed."
            )
    return lines


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version without trailing zeros, to compare: 2.13.0+cpu gives (2, 13).

    Example:
        >>> _release("2.13.0+cpu"), _release("2.13") <= _release("2.13.1rc1")
        ((2, 13), True)
    """
    numbers = re.match(r"\d+(?:\.\d+)*", version)
    parts = [int(part) for part in numbers.group().split(".")] if numbers else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)
