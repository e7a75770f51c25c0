"""What the demo tells its user instead of a traceback."""

import pathlib
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager


class DemoError(Exception):
    """An error that the user can fix; printed as one line."""


class NothingLeftError(Exception):
    """A run to resume that has all its epochs."""

    def __init__(self, epochs: int) -> None:
        super().__init__(epochs)
        self.epochs = epochs


def exit_status(run: Callable[[], int]) -> int:
    """Run a demo and return its exit status; an error that the user can fix is one line."""
    try:
        return run()
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        print(f"error: the demo needs {error.name}: pip install 'functorch-optim[demo]'", file=sys.stderr)
    return 2


@contextmanager
def writing(path: pathlib.Path) -> Generator[None]:
    """Say in one line which file cannot be written."""
    try:
        yield
    except OSError as error:
        raise DemoError(f"cannot write {path}: {error.strerror or error}. Name another folder with --out") from None
