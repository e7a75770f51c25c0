"""Tiles of an array, each of which has a scale of its own.

The tiles form a grid with as many dimensions as the array. A dimension of n entries in g tiles has tiles of
ceil(n / g) entries, the last of which may have fewer, so that the shapes of the array and of the grid say it all.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from functorch_optim.dealing import sharding_in, split_of
from functorch_optim.typing import PyTree

LEAST, MOST = 0.8, 1.6  # how many entries a tile has, in blocks

Shape = tuple[int, ...]


def grid_of(shape: Shape, block: int, shards: Sequence[int], even: bool = False) -> Shape:
    """The number of tiles in each dimension, for tiles of 0.8 to 1.6 blocks where the array has so many entries.

    A tile has all entries of the last dimension, if they are not too many, then those of the dimension before it, and
    so on. Tiles are equal if the sizes allow it.

    Args:
        shape: the array's shape.
        block: how many entries a tile has, about.
        shards: in how many shards each dimension is split. A tile is in one of them, so tiles are equal there.
        even: whether tiles are equal in every dimension.

    Example:
        >>> [grid_of(shape, 256, (1, 1)) for shape in ((128, 64), (8, 768), (8, 300), (8, 1021))]
        [(32, 1), (8, 3), (8, 1), (8, 4)]
    """
    grid, wanted = [], float(block)
    for size, count in zip(reversed(shape), reversed(shards), strict=True):
        own = size // count if size % count == 0 else size
        tiles = _tiles(own, wanted, even or count > 1)
        wanted /= max(own, 1) / tiles
        grid.append(tiles * (size // own) if own else 1)
    return tuple(reversed(grid))


def _tiles(size: int, wanted: float, even: bool) -> int:
    """The number of tiles of about ``wanted`` entries."""
    if size <= MOST * wanted:
        return 1
    fitting = range(max(math.ceil(LEAST * wanted), 1), math.floor(MOST * wanted) + 1)
    exact = [length for length in fitting if size % length == 0]
    if not exact and even:
        lower = [length for length in range(1, math.isqrt(size) + 1) if size % length == 0]
        exact = [*lower, *(size // length for length in lower)]
    if exact:
        return size // min(exact, key=lambda length: abs(math.log(length / wanted)))
    return -(-size // -(-size // round(size / wanted)))


def shards_of(array: jax.Array) -> Shape:
    """In how many shards each dimension of an array is split, as far as it says so."""
    sharding = sharding_in(array)
    if not isinstance(sharding, NamedSharding):
        return (1,) * array.ndim
    return tuple(math.prod(sharding.mesh.shape[axis] for axis in part) for part in split_of(array))


def split(array: jax.Array, grid: Shape) -> jax.Array:
    """The array with two dimensions for each: the tile, and the place in it; ragged tiles are filled with zeros."""
    lengths = [-(-size // count) for size, count in zip(array.shape, grid, strict=True)]
    missing = [count * length - size for size, count, length in zip(array.shape, grid, lengths, strict=True)]
    if any(missing):
        array = jnp.pad(array, [(0, one) for one in missing])
    shape = [size for pair in zip(grid, lengths, strict=True) for size in pair]
    return _reshaped(array, shape, [entry for part in _parts(array) for entry in (part, None)])


def joined(tiles: jax.Array, shape: Shape) -> jax.Array:
    """The array of this shape that :func:`split` split."""
    whole = [count * length for count, length in zip(tiles.shape[::2], tiles.shape[1::2], strict=True)]
    array = _reshaped(tiles, whole, _parts(tiles)[::2])
    return array if array.shape == shape else array[tuple(slice(size) for size in shape)]


def over_tiles(scales: jax.Array) -> jax.Array:
    """The scales, with the dimensions of :func:`split`."""
    shape = [size for count in scales.shape for size in (count, 1)]
    return _reshaped(scales, shape, [entry for part in _parts(scales) for entry in (part, None)])


def without_tiles(scales: jax.Array) -> jax.Array:
    """The scales, from what has the dimensions of :func:`split`."""
    return _reshaped(scales, scales.shape[::2], _parts(scales)[::2])


def _parts(array: jax.Array) -> list[PyTree]:
    """How each dimension is split, as far as the type says so."""
    sharding = jax.typeof(array).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return [None] * array.ndim
    return [*sharding.spec, *[None] * (array.ndim - len(sharding.spec))]


def _reshaped(array: jax.Array, shape: Sequence[int], parts: Sequence[PyTree]) -> jax.Array:
    if all(part is None for part in parts):
        return array.reshape(shape)
    place = NamedSharding(jax.typeof(array).sharding.mesh, PartitionSpec(*parts))
    return jax.lax.reshape(array, tuple(shape), out_sharding=place)
