"""Arrays of devices as NumPy's: the parts that this process has, or whole."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from functorch_optim.typing import PyTree

Ranges = tuple[tuple[int, int], ...]  # where a part begins and ends in each dimension


class Part(NamedTuple):
    """A part of a global array, and the processes that have it."""

    ranges: Ranges
    holders: tuple[int, ...]

    @property
    def slices(self) -> tuple[slice, ...]:
        return tuple(slice(*one) for one in self.ranges)

    @property
    def size(self) -> int:
        return math.prod(end - begin for begin, end in self.ranges)


def is_global(array: PyTree) -> bool:
    """Whether other processes have a part of an array that this one lacks."""
    return isinstance(array, jax.Array) and not array.is_fully_addressable


def parts(array: jax.Array) -> tuple[Part, ...]:
    """The different parts of an array, in the same order in every process."""
    return _parts(array.sharding, array.shape)


@functools.lru_cache(maxsize=256)
def _parts(sharding: jax.sharding.Sharding, shape: tuple[int, ...]) -> tuple[Part, ...]:
    holders: dict[Ranges, set[int]] = {}
    for device, index in sharding.devices_indices_map(shape).items():
        holders.setdefault(_ranges(index, shape), set()).add(device.process_index)
    return tuple(Part(ranges, tuple(sorted(holders[ranges]))) for ranges in sorted(holders))


def part(array: PyTree, ranges: Ranges) -> np.ndarray:
    """Return a part that this process has.

    JAX keeps what ``np.asarray`` makes of an array as long as the array: the copy here is of another one.
    """
    if not is_global(array):
        return whole(array)
    for shard in array.addressable_shards:
        if _ranges(shard.index, array.shape) == ranges:
            return _copy(shard.data)
    raise AssertionError(f"this process has no part {ranges} of an array of {array.shape}")


def whole(array: PyTree) -> np.ndarray:
    """Return an array of which this process has all parts."""
    if not isinstance(array, jax.Array):
        return np.asarray(array)
    if array.is_fully_replicated:
        return _copy(array.addressable_data(0))
    out = np.empty(array.shape, array.dtype)
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            out[shard.index] = _copy(shard.data)
    return out


def raw(array: np.ndarray) -> memoryview:
    """The bytes of an array, in row-major order, little-endian."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data


def _copy(single: jax.Array) -> np.ndarray:
    return np.asarray(jax.make_array_from_single_device_arrays(single.shape, single.sharding, [single]))


def _ranges(index: Sequence[slice], shape: Sequence[int]) -> Ranges:
    return tuple(one.indices(size)[:2] for one, size in zip(index, shape, strict=True))
