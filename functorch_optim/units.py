"""Units of an array, such as the weights of one neuron: which dimensions make up a unit, and sums over units."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from functorch_optim import axes
from functorch_optim.hyperparams import as_integer
from functorch_optim.typing import PyTree

Shape = tuple[int, ...]
UnitAxes = Shape | Callable[[Shape], PyTree] | None


def as_unit_axes(axis: PyTree, who: str) -> UnitAxes:
    """Convert an option that says which dimensions make up one unit, for storage.

    Raises:
        TypeError: it is neither None, an integer, a tuple of integers, nor a function of the shape.
    """
    if axis is None or callable(axis):
        return axis
    one = as_integer(axis)
    several = (one,) if one is not None else tuple(map(as_integer, axis)) if isinstance(axis, tuple | list) else (None,)
    if None in several:
        raise TypeError(f"{who}: axis must be an integer, a tuple of integers or a function of the shape, not {axis!r}")
    return tuple(place for place in several if place is not None)


def unit_axes(axis: UnitAxes, shape: Shape, where: str) -> Shape | None:
    """Return the dimensions of one unit of such an array, ascending; None if the option leaves them to the default.

    Raises:
        ValueError: there is no such dimension; the message begins with ``where``.
    """
    wanted = as_unit_axes(axis(shape), where) if callable(axis) else axis
    if wanted is None or callable(wanted):
        return None
    several = (wanted,) if isinstance(wanted, int) else wanted
    for place in several:
        if not -len(shape) <= place < len(shape):
            raise ValueError(f"{where} has no dimension {place}: its shape is {shape}")
    return tuple(sorted({place % len(shape) for place in several}))


def sum_over_unit(array: jax.Array, dimensions: Shape, split: axes.Split) -> jax.Array:
    """Sum over some dimensions of the whole array, which stay with size 1; ``split`` says how the array is spread."""
    summed = jnp.sum(array, dimensions, keepdims=True)
    return axes.sum_over(summed, _across(dimensions, split))


def unit_size(array: jax.Array, dimensions: Shape, split: axes.Split) -> int:
    """Count the entries of one unit of the whole array."""
    return math.prod(array.shape[d] for d in dimensions) * axes.shards(_across(dimensions, split))


def _across(dimensions: Shape, split: axes.Split) -> axes.Axes:
    return tuple(axis for dimension in dimensions for axis in split[dimension]) if split else ()
