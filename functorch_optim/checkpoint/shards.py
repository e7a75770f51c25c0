"""One file per process with the parts of arrays that it holds, and an index of them."""

import json
import os
import re
import secrets
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import BinaryIO

import numpy as np

from functorch_optim.checkpoint import host, in_step, interrupts, safetensors_format
from functorch_optim.checkpoint.atomic import atomic_write
from functorch_optim.checkpoint.chunks import Lazy
from functorch_optim.checkpoint.errors import CheckpointError, shown
from functorch_optim.checkpoint.safetensors_format import File, Source, as_bytes
from functorch_optim.typing import PyTree

INDEX = "__functorch_optim_shards__"  # the text with the files, and which part of which array is where
PART_OF = "__functorch_optim_part_of__"  # the text of a shard with the name of the index
_OWN_NAME = "__functorch_optim_file__"  # the text of a shard with the name of its file
_NAME = re.compile(r".*-[0-9a-f]{8}-[0-9]{5}-of-[0-9]{5}\.safetensors", re.DOTALL)
_STEM = 180  # bytes, so that a name and what follows are no longer than file systems allow

Owned = list[tuple[int, host.Ranges]]  # the parts of an array, and which file has each


def write(
    arrays: Mapping[str, PyTree], texts: Mapping[str, str], path: str | os.PathLike[str], sync: bool, team: in_step.Team
) -> None:
    """Write this process's shard, and in process 0 the index, after all shards are there.

    The new shards have new names, so that the old checkpoint is whole until the new index replaces the old one.
    """
    folder, name = os.path.split(os.path.realpath(os.fsdecode(path)))
    token = in_step.agreed(secrets.randbelow(1 << 31), team, "save_safetensors")
    stem = f"{os.fsdecode(os.fsencode(name.removesuffix('.safetensors'))[:_STEM])}-{token:08x}"
    files = [f"{stem}-{i + 1:05d}-of-{team.processes:05d}.safetensors" for i in range(team.processes)]
    owned = {name: _owned(array, number, team) for number, (name, array) in enumerate(sorted(arrays.items()))}
    own = {
        _entry(name, ranges): _source(arrays[name], ranges)
        for name, parts in owned.items()
        for file, ranges in parts
        if file == team.rank
    }
    paths = [os.path.join(folder, file) for file in files]
    try:
        with atomic_write(paths[team.rank], sync, permissions_of=path) as file:
            safetensors_format.write(file, own, {PART_OF: _printed(name), _OWN_NAME: _printed(files[team.rank])})
        interrupts.let_through()
    except BaseException:
        _remove([paths[team.rank]])
        raise
    try:
        in_step.check(team, "save_safetensors")
    except CheckpointError:  # another has not written its own; an interrupt would not say so
        _remove([paths[team.rank]])
        raise
    if team.rank == 0:
        listed = {name: [array.dtype.name, array.shape, owned[name]] for name, array in sorted(arrays.items())}
        try:
            _check_seen(paths)
            with replacing(path, sync) as file:
                safetensors_format.write(file, {}, {**texts, INDEX: json.dumps({"files": files, "arrays": listed})})
        except BaseException:
            if files != _listed(path):
                _remove(paths)
            raise
    in_step.check(team, "save_safetensors")


def _printed(name: str) -> str:
    """A file's name as text that JSON can hold."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _remove(paths: Sequence[str]) -> None:
    for path in paths:
        with suppress(OSError):
            os.unlink(path)


def _check_seen(paths: Sequence[str]) -> None:
    """Raise unless this process sees the files of all."""
    for number, path in enumerate(paths):
        if not os.path.exists(path):
            folder, name = os.path.split(path)
            raise CheckpointError(
                f"process 0 does not see {name}, which process {number} has written: save into a folder that all "
                f"processes see; {folder} is none"
            )


def _entry(name: str, ranges: host.Ranges) -> str:
    """The name of a part of an array in a shard."""
    return f"{name}[{','.join(f'{begin}:{end}' for begin, end in ranges)}]"


def _owned(array: PyTree, number: int, team: in_step.Team) -> Owned:
    """Which process writes which part; of those that have it, another one for every array."""
    if not host.is_global(array):
        return [(0, tuple((0, size) for size in array.shape))]
    return [(part.holders[number % len(part.holders)], part.ranges) for part in host.parts(array)]


def _source(array: PyTree, ranges: host.Ranges) -> Source:
    shape = tuple(end - begin for begin, end in ranges)
    return as_bytes(Source(array.dtype, shape, lambda: host.part(array, ranges)))


@contextmanager
def replacing(path: str | os.PathLike[str], sync: bool) -> Generator[BinaryIO]:
    """Open a file that replaces a checkpoint, as ``atomic_write`` does; then the shards of the old one are removed.

    Those that another index in the folder lists, a copy of the old one, stay.
    """
    target = os.path.realpath(os.fsdecode(path))
    old = _listed(target)
    with atomic_write(path, sync) as file:
        yield file
    if not old:
        return
    folder = os.path.dirname(target)
    names = [name for name in os.listdir(folder) if not _NAME.fullmatch(name)]
    kept = {name for other in names for name in _listed(os.path.join(folder, other))}
    _remove([os.path.join(folder, name) for name in set(old) - kept])


def _listed(path: str | os.PathLike[str]) -> list[str]:
    """The names of the shards of an index; none if the file is no index, or there is no file."""
    if not os.path.isfile(path):
        return []
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError), open(path, "rb") as file:
        return _files(safetensors_format.opened(file, verify=False))
    return []


def _files(index: File) -> list[str]:
    """The names of the shards, each in the folder of the index."""
    if INDEX not in index.texts:
        return []
    files = json.loads(index.texts[INDEX])["files"]
    if not all(type(name) is str and os.path.basename(name) == name and _NAME.fullmatch(name) for name in files):
        raise ValueError("it names shards that are none")
    return files


def arrays_of(index: File, path: str, verify: bool, stack: ExitStack) -> dict[str, Lazy]:
    """The arrays of an index; a shard is opened when a part in it is read, and closed with the stack.

    Raises:
        ValueError: the index is damaged.
    """
    shards = _Shards(os.path.dirname(os.path.realpath(path)), _files(index), verify, stack)
    found: dict[str, Lazy] = {}
    for name, (dtype, shape, owned) in json.loads(index.texts[INDEX])["arrays"].items():
        parts = [(file, tuple((begin, end) for begin, end in ranges)) for file, ranges in owned]
        found[name] = _Parts(name, np.dtype(dtype), tuple(shape), parts, shards)
    return found


class _Shards:
    """The files of an index, opened as they are needed."""

    def __init__(self, folder: str, files: Sequence[str], verify: bool, stack: ExitStack) -> None:
        self._folder, self._files, self._verify, self._stack = folder, files, verify, stack
        self._opened: dict[int, File] = {}

    @contextmanager
    def reading(self, number: int) -> Generator[File]:
        """Open a file for the block, whose errors then name it.

        Raises:
            CheckpointError: it is missing, damaged, or of another checkpoint.
        """
        name = self._files[number]
        path = os.path.join(self._folder, name)
        if number not in self._opened and not os.path.exists(path):
            raise CheckpointError(
                f"its arrays are in {len(self._files)} files beside it, and {name} is missing: save into a folder that "
                "all processes see, or copy the files of all into one. If it was there, the checkpoint has been "
                "replaced: read it again, and keep a copy with its files"
            )
        try:
            if number not in self._opened:
                self._opened[number] = self._open(path, name)
            yield self._opened[number]
        except CheckpointError as error:
            raise CheckpointError(f"{name}: {error}") from error
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise CheckpointError(f"{name} is no safetensors file, or damaged: {shown(error)}") from error

    def _open(self, path: str, name: str) -> File:
        handle = self._stack.enter_context(open(path, "rb"))  # noqa: SIM115 the stack closes it
        file = safetensors_format.opened(handle, self._verify)
        if self._verify and not file.whole:
            raise CheckpointError("it is damaged: its checksum is wrong. verify=False reads it nevertheless")
        if file.texts.get(_OWN_NAME, _printed(name)) != _printed(name):
            raise CheckpointError(f"it was written as {shown(file.texts[_OWN_NAME])}, for another checkpoint")
        return file


class _Parts(Lazy):
    """An array whose parts are in several files."""

    def __init__(self, name: str, dtype: np.dtype, shape: tuple[int, ...], owned: Owned, shards: _Shards) -> None:
        super().__init__(dtype, shape)
        self._name, self._owned, self._shards = name, owned, shards

    def read(self, out: np.ndarray, ranges: Sequence[range]) -> None:
        filled = 0
        for number, place in self._owned:
            met = [(max(a.start, b), min(a.stop, e)) for a, (b, e) in zip(ranges, place, strict=True)]
            if any(begin >= end for begin, end in met):
                continue
            inside = tuple(slice(b - start, e - start) for (b, e), (start, _) in zip(met, place, strict=True))
            target = tuple(slice(b - a.start, e - a.start) for (b, e), a in zip(met, ranges, strict=True))
            with self._shards.reading(number) as file:
                written = file.arrays[_entry(self._name, place)]
                stored = written.seen_as(self.dtype, tuple(e - b for b, e in place))
                if out[target].shape == out.shape:  # without a copy
                    stored.read(out, [range(one.start, one.stop) for one in inside])
                else:
                    out[target] = stored[inside]
            filled += out[target].size
        if filled != out.size:
            raise ValueError(f"parts of {shown(self._name)!r} are missing or in two places")
