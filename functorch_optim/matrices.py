"""Matrices inside parameters of any number of dimensions: which dimensions are rows, and which are columns."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from functorch_optim import axes
from functorch_optim.alike import constrained, kept
from functorch_optim.dealing import Stack, split_of
from functorch_optim.placement import whole


class Layout(NamedTuple):
    """The dimensions of a parameter that are a matrix's rows and columns; the others number the matrices."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    outputs_are_columns: bool = False

    def sizes(self, shape: Sequence[int]) -> tuple[int, int]:
        """The rows and columns of a matrix in an array of this shape."""
        return math.prod(shape[d] for d in self.rows), math.prod(shape[d] for d in self.columns)

    def outputs_and_inputs(self, shape: Sequence[int]) -> tuple[int, int]:
        """The outputs and inputs of a matrix in an array of this shape."""
        rows, columns = self.sizes(shape)
        return (columns, rows) if self.outputs_are_columns else (rows, columns)


class Stacked:
    """A parameter's matrices as one stack, and the way back.

    Dimensions that become one may be split in the first of them only. Their order does not matter, as the singular
    values of a matrix stay if its rows are permuted, so a split one comes first; of several, all but one are gathered.
    """

    def __init__(self, array: jax.Array, layout: Layout, split: axes.Split) -> None:
        self._array, self._split = array, split
        self.whole_shape = axes.whole_shape(array.shape, split) if self._is_manual() else array.shape
        named = split or split_of(array)
        numbers = [d for d in range(array.ndim) if d not in (*layout.rows, *layout.columns)]
        groups = [sorted(group, key=lambda d: not named[d]) for group in (numbers, layout.rows, layout.columns)]
        gathered = {d for group in groups for d in group[1:] if named[d]}
        self._gathered = tuple(part if d in gathered else () for d, part in enumerate(split))
        self._order = tuple(d for group in groups for d in group)
        self._named = tuple(() if d in gathered else named[d] for d in self._order)
        array = self._whole(array, sorted(gathered)).transpose(self._order)
        self._shape = array.shape
        shape = [math.prod(array.shape[self._order.index(d)] for d in group) for group in groups]
        first = [named[group[0]] if group else () for group in groups]
        self.stack = Stack(self._reshaped(array, shape, first), tuple(first) if split else ())

    def _whole(self, array: jax.Array, dimensions: list[int]) -> jax.Array:
        if not dimensions:
            return array
        if self._is_manual():
            return axes.gathered(array, self._gathered)
        if self._split:
            return constrained(array, self._sharding(self._gathered))
        return whole(array, dimensions)

    def _reshaped(self, array: jax.Array, shape: Sequence[int], named: Sequence[axes.Axes]) -> jax.Array:
        """Reshape an array to one that is split over these axes, where types say it."""
        mesh = jax.typeof(self._array).sharding.mesh
        if AxisType.Explicit not in mesh.axis_types or self._is_manual():
            return array.reshape(shape)
        spec = PartitionSpec(*[part or None for part in named])
        return jax.lax.reshape(array, tuple(shape), out_sharding=NamedSharding(mesh, spec))

    def _is_manual(self) -> bool:
        return bool(self._split) and bool(jax.sharding.get_abstract_mesh().manual_axes)

    def _sharding(self, without: Sequence[axes.Axes]) -> NamedSharding:
        parts = [own if own and not gone else None for own, gone in zip(self._split, without, strict=True)]
        return NamedSharding(jax.typeof(self._array).sharding.mesh, PartitionSpec(*parts))

    def back(self, matrices: jax.Array) -> jax.Array:
        """Return an array of the stack's shape in the form and the place of the parameter."""
        inverse = [self._order.index(d) for d in range(len(self._order))]
        array = self._reshaped(matrices, self._shape, self._named).transpose(inverse)
        if self._is_manual():
            return axes.part(array, self._gathered)
        if self._split:
            return constrained(array, self._sharding([()] * array.ndim))
        return kept(self._array, array)
