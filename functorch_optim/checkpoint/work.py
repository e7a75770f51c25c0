"""How much work a file may cause: work that would grow faster than the file is refused."""

from collections.abc import Hashable, Iterable
from typing import Any

from functorch_optim.checkpoint.errors import CheckpointError
from functorch_optim.typing import PyTree

_ALWAYS = 1 << 28  # comparisons of numbers; a machine makes some hundred million a second
_PER_BYTE = 256


class Work:
    """The work that a file of this size may still cause, counted in comparisons of two numbers."""

    def __init__(self, size: int) -> None:
        self.left = _ALWAYS + _PER_BYTE * size

    def spend(self, amount: int, what: str) -> None:
        """Subtract ``amount`` from the work that is left.

        Raises:
            CheckpointError: less is left; ``what`` says what the file does.
        """
        self.left -= amount
        if self.left < 0:
            raise CheckpointError(f"refused: {what}")

    def key(self, held: dict[Any, PyTree] | set[PyTree], key: Hashable) -> PyTree:
        """Return a key that is about to be added to ``held``, after charging for its comparisons.

        Python hashes strings with a secret. Of all other types a file can choose keys that all collide, so that each
        may be compared with all before it; numbers that count up do not collide.
        """
        if type(key) not in (str, bytes) and held and not _counts_up(held, key):
            self.spend(len(held) * _weight(key), "keys that are not texts, more than a file of this size may have")
        return key

    def keyed(self, items: Iterable[tuple[PyTree, PyTree]]) -> dict[Hashable, PyTree]:
        """Build a dict of these items."""
        held: dict[Hashable, PyTree] = {}
        for key, value in items:
            held[self.key(held, key)] = value
        return held


def _counts_up(held: dict[Hashable, PyTree] | set[PyTree], key: Hashable) -> bool:
    last = next(reversed(held)) if isinstance(held, dict) else None
    return type(key) is int and type(last) is int and key == last + 1


def _weight(key: Hashable) -> int:
    """How much more a comparison of this key costs than one of two numbers."""
    if type(key) is int:
        return 1 + (key.bit_length() >> 8)
    return 8 * (1 + len(key)) if type(key) is tuple else 8
