"""What all processes of a run do together: one writes what all hold, and an error in one is raised in all."""

import zlib
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import NamedTuple

import jax
import numpy as np

from functorch_optim import agreement
from functorch_optim.checkpoint import host
from functorch_optim.checkpoint.errors import CheckpointError
from functorch_optim.typing import PyTree

_MESSAGE = 256  # bytes of an error's text
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
    try:
        yield team
    except _OtherProcessError as error:
        raise CheckpointError(str(error)) from None
    except BaseException as error:
        _tell(f"{type(error).__name__}: {error}")
        raise
    check(team, who)


def check(team: Team, who: str) -> None:
    """Wait for the other processes.

    Raises:
        CheckpointError: one of them has failed.
    """
    if team.processes == 1:
        return
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


def gathered(array: PyTree, team: Team, who: str) -> np.ndarray:
    """Bring an array to process 0, piece by piece; the others get an empty one. Every process of the team calls it."""
    if not host.is_global(array):
        return host.whole(array) if team.rank == 0 else np.empty(0, array.dtype)
    out = np.empty(array.shape, array.dtype) if team.rank == 0 else None
    sent: dict[int, list[host.Part]] = {}
    for part in host.parts(array):
        if 0 not in part.holders:
            sent.setdefault(part.holders[0], []).append(part)
        elif out is not None:
            out[part.slices] = host.part(array, part.ranges)
    for turn in range(max(map(len, sent.values()), default=0)):
        parts = {sender: parts[turn] for sender, parts in sent.items() if turn < len(parts)}
        own = host.raw(host.part(array, parts[team.rank].ranges)) if team.rank in parts else memoryview(b"")
        check(team, who)  # what can fail in one process is behind it
        _receive(out, parts, own, array.dtype)
    return np.empty(0, array.dtype) if out is None else out


def _receive(out: np.ndarray | None, parts: dict[int, host.Part], own: memoryview, dtype: np.dtype) -> None:
    """Send one part of each sender to process 0, in blocks."""
    sizes = {sender: int(np.prod(part.shape)) * dtype.itemsize for sender, part in parts.items()}
    block = max(_BLOCK // jax.process_count() // 64 * 64, 64)
    block = min(block, 1 << (max(sizes.values()) - 1).bit_length()) if max(sizes.values()) else block
    targets = {} if out is None else {sender: out[(*part.slices, ...)] for sender, part in parts.items()}
    for begin in range(0, max(sizes.values()), block):
        padded = np.zeros(block, np.uint8)
        padded[: len(own[begin : begin + block])] = own[begin : begin + block]
        received = agreement.exchanged(padded)
        for sender, target in targets.items():
            entries = received[sender, : max(sizes[sender] - begin, 0)].view(dtype)
            _put(target, begin // dtype.itemsize, entries)


def _put(target: np.ndarray, start: int, entries: np.ndarray) -> None:
    """Set entries in row-major order."""
    if target.flags.c_contiguous:
        target.reshape(-1)[start : start + len(entries)] = entries
    else:
        target.flat[start : start + len(entries)] = entries
