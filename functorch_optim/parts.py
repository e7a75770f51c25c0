"""Whole arrays from the parts that devices have inside ``shard_map``, and the parts from the whole."""

import jax

from functorch_optim import axes


def whole_shape(shape: tuple[int, ...], split: axes.Split) -> tuple[int, ...]:
    """Return the shape of an array whose shards have shape ``shape``."""
    return tuple(n * axes.shards(over) for n, over in zip(shape, split, strict=True)) if split else shape


def gathered(array: jax.Array, split: axes.Split) -> jax.Array:
    """Gather the whole array from its shards, the same on every device."""
    for dimension, over in enumerate(split):
        if over:
            array = gather(array, over, dimension)
    return array


def gather(array: jax.Array, over: axes.Axes, dimension: int = 0) -> jax.Array:
    """Join the shards in a dimension; the result is the same on all devices, also by its type (``vmap`` has none)."""
    to = "invarying" if {*over} <= {*axes.manual_axes()} else "varying"
    return jax.lax.all_gather(array, over, axis=dimension, tiled=True, to=to)


def part(array: jax.Array, split: axes.Split) -> jax.Array:
    """Slice this device's shard out of a whole array."""
    for dimension, over in enumerate(split):
        if over:
            size = array.shape[dimension] // axes.shards(over)
            array = jax.lax.dynamic_slice_in_dim(array, jax.lax.axis_index(over) * size, size, dimension)
    return array
