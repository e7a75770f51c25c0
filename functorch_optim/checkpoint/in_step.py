"""What all processes of a run do together: one writes what all hold, and an error in one is raised in all."""

import zlib
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import jax
import numpy as np

from functorch_optim import agreement
from functorch_optim.checkpoint import host, interrupts
from functorch_optim.checkpoint.errors import CheckpointError
from functorch_optim.typing import PyTree

_MESSAGE = 256  # bytes of an error's text
_ALIGNMENT = 16  # a multiple of every entry's bytes
_BLOCK = 1 << 22  # bytes that a process receives at once; larger ones stay in the allocator


class _OtherProcessError(CheckpointError):
    """An error of another process, which the others know already."""


class Team(NamedTuple):
    """The processes that save or load a tree together: this one's number, and how many they are."""

    rank: int
    processes: int


@contextmanager
def in_step(tree: PyTree, who: str, together: bool = False) -> Generator[Team]:
    """Run a block in every process if a tree has global arrays; if the block fails in one, it raises in all.

    A process whose tree is its own works alone, unless it says that all work ``together``.

    Raises:
        CheckpointError: the block failed in another process.
    """
    several = jax.distributed.is_initialized() and jax.process_count() > 1  # NumPy's arrays start no backend
    if not several or not (together or any(map(host.is_global, jax.tree.leaves(tree)))):
        yield Team(0, 1)
        return
    team = Team(jax.process_index(), jax.process_count())
    jax.block_until_ready(tree)  # or what makes it may run, with exchanges of its own, beside ours
    with interrupts.held():
        try:
            yield team
            check(team, who)
        except _OtherProcessError as error:
            raise CheckpointError(str(error)) from None
        except BaseException as error:
            _tell(f"{type(error).__name__}: {error}")
            raise


def check(team: Team, who: str) -> None:
    """Wait for the other processes; a held interrupt is raised before.

    Raises:
        CheckpointError: one of them has failed.
    """
    if team.processes == 1:
        return
    interrupts.let_through()
    for rank, text in enumerate(_tell("")):
        if text:
            raise _OtherProcessError(f"{who} failed in process {rank} of {team.processes}: {text}")


def _tell(text: str) -> list[str]:
    """Send a text to all processes, and return those of all."""
    own = np.zeros(_MESSAGE, np.uint8)
    data = text.encode(errors="replace")[:_MESSAGE]
    own[: len(data)] = np.frombuffer(data, np.uint8)
    return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in agreement.exchanged(own)]


def agreed(number: int, team: Team, who: str) -> int:
    """Return the number that process 0 gives, less than 2 ** 31."""
    check(team, who)
    return number if team.processes == 1 else int(agreement.exchanged(np.array([number], np.int32))[0, 0])


def refuse_differences(given: Iterable[tuple[str, str]], team: Team, who: str) -> None:
    """Raise in every process unless all give the same for everything that has a name here, in the same order."""
    if team.processes == 1:
        return
    lines = [f"{name!a}: {what}" for name, what in given]
    check(team, who)
    found = agreement.differing([line.encode(errors="backslashreplace") for line in lines])
    if found:
        here = lines[found[0]][:300] if found[0] < len(lines) else "nothing more"
        raise _OtherProcessError(
            f"{who}: the processes give different trees or arguments; process {team.rank} of {team.processes} gives "
            f"{here}, another one not. Give the same in all: the same names, global arrays split alike, equal numbers "
            "in all that each holds alone, the same path and options"
        )


def described(array: PyTree) -> str:
    """Say of an array what must be the same in all processes: how it is split, or else its numbers."""
    told = f"{array.dtype.name}[{','.join(map(str, array.shape))}]"
    if not host.is_global(array):
        return f"{told}, which each holds alone, of the checksum {zlib.crc32(host.raw(host.whole(array))):08x}"
    split = getattr(array.sharding, "spec", array.sharding)
    return f"{told}, split as {split} over parts of the checksum {zlib.crc32(repr(host.parts(array)).encode()):08x}"


def gathered(arrays: Iterable[PyTree], team: Team, who: str) -> Generator[np.ndarray]:
    """Bring arrays to process 0, in order; the others get empty ones. Every process of the team iterates over all.

    Small arrays are sent together.
    """
    group: list[PyTree] = []
    size = 0
    for array in arrays:
        if group and size + array.nbytes > _BLOCK:
            yield from _gathered(group, team, who)
            group, size = [], 0
        group.append(array)
        size += array.nbytes
    yield from _gathered(group, team, who)


def _gathered(arrays: list[PyTree], team: Team, who: str) -> Generator[np.ndarray]:
    """Bring some arrays to process 0."""
    outs = [np.empty(array.shape if team.rank == 0 else 0, array.dtype) for array in arrays if host.is_global(array)]
    spread = [array for array in arrays if host.is_global(array)]
    sent: dict[int, list[_Sent]] = {}
    for number, array in enumerate(spread):
        for part in host.parts(array):
            if 0 not in part.holders:
                sent.setdefault(part.holders[0], []).append(_Sent(number, part))
            elif team.rank == 0:
                outs[number][part.slices] = host.part(array, part.ranges)
    own = _Bytes(spread, sent.get(team.rank, ()))
    targets = {sender: _Targets(outs, parts) for sender, parts in sent.items()} if team.rank == 0 else {}
    totals = [sum(_padded(spread[n].dtype.itemsize * part.size) for n, part in parts) for parts in sent.values()]
    left = max(totals, default=0)
    while left > 0:
        block = min(max(_BLOCK // team.processes // 64 * 64, 64), 1 << max(left - 1, 63).bit_length())
        padded = np.zeros(block, np.uint8)
        own.fill(padded)
        check(team, who)  # what can fail in one process is behind it
        received = agreement.exchanged(padded)
        for sender, target in targets.items():
            target.take(received[sender])
        left -= block
    collected = iter(outs)
    for array in arrays:
        if host.is_global(array):
            yield next(collected)
        else:
            yield host.whole(array) if team.rank == 0 else np.empty(0, array.dtype)


def _padded(size: int) -> int:
    """The bytes that a part takes: no entry of the next one is cut between two blocks."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


class _Sent(NamedTuple):
    """A part that is sent to process 0, of the array with this number."""

    number: int
    part: host.Part


class _Bytes:
    """The bytes of the parts that this process sends, one after the other."""

    def __init__(self, arrays: Sequence[PyTree], parts: Iterable[_Sent]) -> None:
        self._arrays, self._parts = arrays, iter(parts)
        self._rest, self._pad = memoryview(b""), 0

    def fill(self, into: np.ndarray) -> None:
        """Fill an array of bytes with the next ones, as far as there are any."""
        done = 0
        while done < len(into):
            if not len(self._rest):
                done, self._pad = done + self._pad, 0
                sent = next(self._parts, None)
                if sent is None:
                    return
                self._rest = host.raw(host.part(self._arrays[sent.number], sent.part.ranges))
                self._pad = _padded(len(self._rest)) - len(self._rest)
            count = min(len(self._rest), len(into) - done)
            into[done : done + count] = self._rest[:count]
            self._rest, done = self._rest[count:], done + count


class _Targets:
    """Where the bytes of one sender go."""

    def __init__(self, outs: Sequence[np.ndarray], parts: Iterable[_Sent]) -> None:
        self._outs, self._parts = outs, iter(parts)
        self._target = np.empty(0, np.uint8)
        self._done = 0  # entries of the target

    def take(self, data: np.ndarray) -> None:
        """Set the next entries; what is behind the last is padding."""
        while len(data):
            while self._done == self._target.size:
                data = data[_padded(self._target.nbytes) - self._target.nbytes :]
                sent = next(self._parts, None)
                if sent is None:
                    return
                self._target, self._done = self._outs[sent.number][(*sent.part.slices, ...)], 0
            count = min(len(data) // self._target.itemsize, self._target.size - self._done)
            _put(self._target, self._done, data[: count * self._target.itemsize].view(self._target.dtype))
            self._done += count
            data = data[count * self._target.itemsize :]


def _put(target: np.ndarray, start: int, entries: np.ndarray) -> None:
    """Set entries in row-major order."""
    if target.flags.c_contiguous:
        target.reshape(-1)[start : start + len(entries)] = entries
    else:
        target.flat[start : start + len(entries)] = entries
