"""The implementations that the book derives, one module for each chapter, in chapter order."""

from course_lib._version import __version__

__all__ = ["__version__"]
