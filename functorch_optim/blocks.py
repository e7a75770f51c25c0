"""Preconditioned dimensions of a parameter: small neighbouring ones become one, and all are whole on every device."""

from collections.abc import Sequence

import jax
from jax.sharding import NamedSharding, PartitionSpec

from functorch_optim import axes, parts
from functorch_optim.alike import constrained, kept
from functorch_optim.placement import whole
from functorch_optim.typing import PyTree


def merged_shape(shape: Sequence[int], limit: int) -> tuple[int, ...]:
    """Return a shape with the same number of entries, whose neighbouring dimensions are one where that is small.

    Dimensions become one while their product is at most ``limit``; sizes of 1 vanish. It is ``merge_small_dims`` of the
    authors' Shampoo and SOAP.

    Example:
        >>> merged_shape((3, 3, 64, 128), 64), merged_shape((1, 1), 64), merged_shape((5, 1, 7), 8)
        ((9, 64, 128), (1,), (5, 7))
    """
    sizes, product = [], 1
    for size in shape:
        if product * size <= limit:
            product *= size
        else:
            sizes.append(product)
            product = size
    sizes.append(product)
    return tuple(size for size in sizes if size != 1) or (1,)


class Place:
    """Where a parameter is, and the ways from there to a whole array on every device and back."""

    def __init__(self, array: PyTree, split: axes.Split) -> None:
        self._array, self._split = array, split
        self._is_manual = bool(split) and axes.is_manual(split, array)
        self.shape: tuple[int, ...] = parts.whole_shape(array.shape, split) if self._is_manual else array.shape

    def whole(self, array: jax.Array) -> jax.Array:
        """Return the whole of an array that is split as the parameter is."""
        if self._is_manual:
            return parts.gathered(array, self._split)
        if self._split:
            return constrained(array, NamedSharding(jax.typeof(self._array).sharding.mesh, PartitionSpec()))
        return self.everywhere(array)

    def everywhere(self, array: jax.Array) -> jax.Array:
        """Return an array that every device has as a whole, if its type says that it is split."""
        return whole(array, range(array.ndim))

    def part(self, array: jax.Array) -> jax.Array:
        """Return what the parameter's place has of a whole array of the parameter's shape."""
        return parts.part(array, self._split) if self._is_manual else kept(self._array, array)
