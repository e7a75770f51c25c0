"""How much a file may ask for: what would grow faster than the file is refused."""

from collections.abc import Hashable, Iterable
from typing import Any

from functorch_optim.checkpoint.errors import CheckpointError
from functorch_optim.typing import PyTree

_ALWAYS = 1 << 28  # comparisons of numbers, of which a machine makes some hundred million in a second
_PER_BYTE = 256


class Work:
    """What is left of the work that a file of this size may ask for, counted in comparisons of two numbers."""

    def __init__(self, size: int) -> None:
        self.left = _ALWAYS + _PER_BYTE * size

    def spend(self, amount: int, what: str) -> None:
        """Take so much work off.

        Raises:
            CheckpointError: there is less left; ``what`` says what the file does.
        """
        self.left -= amount
        if self.left < 0:
            raise CheckpointError(f"refused: {what}")

    def key(self, held: dict[Any, PyTree] | set[PyTree], key: Hashable) -> PyTree:
        """A key that is to be put among those that are held.

        Python hashes texts with a secret. Of everything else a file can choose keys that all meet in one place, so
        that each may be compared with all before it; numbers that count up do not meet.
        """
        if type(key) not in (str, bytes) and held and not _counts_up(held, key):
            self.spend(len(held) * _weight(key), "keys that are no texts, more than a file of this size may have")
        return key

    def keyed(self, items: Iterable[tuple[PyTree, PyTree]]) -> dict[Hashable, PyTree]:
        """A dict of these items."""
        held: dict[Hashable, PyTree] = {}
        for key, value in items:
            held[self.key(held, key)] = value
        return held


def _counts_up(held: dict[Hashable, PyTree] | set[PyTree], key: Hashable) -> bool:
    last = next(reversed(held)) if isinstance(held, dict) else None
    return type(key) is int and type(last) is int and key == last + 1


def _weight(key: Hashable) -> int:
    """How much longer than that of two numbers a comparison takes."""
    if type(key) is int:
        return 1 + (key.bit_length() >> 8)
    return 8 * (1 + len(key)) if type(key) is tuple else 8
