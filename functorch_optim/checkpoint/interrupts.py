"""Interrupts that wait: a process that leaves in the middle of an exchange would leave the others in it."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

_held: list[int] = []  # signals that wait


@contextmanager
def held() -> Generator[None]:
    """Within it Ctrl-C waits until :func:`let_through`, or until the end; the second one does not wait."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return

    def hold(number: int, frame: FrameType | None) -> None:
        if _held:
            before(number, frame)
        _held.append(number)

    _held.clear()
    signal.signal(signal.SIGINT, hold)
    try:
        yield
        let_through()
    finally:
        signal.signal(signal.SIGINT, before)
        _held.clear()


def let_through() -> None:
    """Raise the interrupt that waits.

    Raises:
        KeyboardInterrupt: there is one.
    """
    if _held:
        _held.clear()
        raise KeyboardInterrupt
