"""Warnings at the line of the user's program that should change."""

import sys
import warnings

_PACKAGE = __name__.partition(".")[0] + "."


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the last line outside this package that led here."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
