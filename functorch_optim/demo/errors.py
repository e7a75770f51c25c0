"""What the demo tells its user instead of a traceback."""

import pathlib
from collections.abc import Generator
from contextlib import contextmanager


class DemoError(Exception):
    """An error that the user can fix; printed as one line."""


class NothingLeftError(Exception):
    """A run to resume that has all its epochs."""

    def __init__(self, epochs: int) -> None:
        super().__init__(epochs)
        self.epochs = epochs


@contextmanager
def writing(path: pathlib.Path) -> Generator[None]:
    """Say in one line which file cannot be written."""
    try:
        yield
    except OSError as error:
        raise DemoError(f"cannot write {path}: {error.strerror or error}. Name another folder with --out") from None
