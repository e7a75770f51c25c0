"""Matrices inside parameters of any number of dimensions: which dimensions are rows, and which are columns."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from functorch_optim import axes, parts, trees
from functorch_optim.alike import constrained, kept
from functorch_optim.base import Frozen
from functorch_optim.dealing import Stack, split_of
from functorch_optim.labels import Labels, as_labels
from functorch_optim.placement import whole
from functorch_optim.typing import Array, PyTree


class MatrixAxes(NamedTuple):
    """Which dimensions of a parameter are the outputs and the inputs of its matrices; any others number them.

    ``outputs`` and ``inputs`` are a dimension or a tuple of them, which together are one side of the matrix; negative
    ones count from the end. A dense kernel of flax is ``MatrixAxes(outputs=1, inputs=0)``; one of attention, (inputs,
    heads, head size), is ``MatrixAxes(outputs=(1, 2), inputs=0)`` as one matrix, and ``MatrixAxes(outputs=2,
    inputs=0)`` as a matrix for each head; a convolution of flax is ``MatrixAxes(outputs=-1, inputs=(0, 1, 2))``.

    Example:
        >>> import functorch_optim as fo, jax.numpy as jnp
        >>> params = {"query": jnp.zeros((8, 2, 4)), "up": jnp.zeros((8, 16))}
        >>> per_head = fo.MatrixAxes(outputs=2, inputs=0)
        >>> tx = fo.muon(matrix_axes=lambda path: per_head if path == "query" else None)
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> updates["query"].shape
        (8, 2, 4)
    """

    outputs: int | tuple[int, ...]
    inputs: int | tuple[int, ...]

    def layout(self, ndim: int) -> "Layout":
        """The layout of a parameter of ``ndim`` dimensions.

        Raises:
            ValueError: a dimension is out of range, or named twice, or a side has none.
        """
        sides = [(side,) if isinstance(side, int) else side for side in self]
        named = [d for side in sides for d in side]
        outputs, inputs = (tuple(d % ndim for d in side) for side in sides) if ndim else sides
        fits = all(sides) and all(-ndim <= d < ndim for d in named)
        if not fits or len({*outputs, *inputs}) != len(named):
            raise ValueError(
                f"{self} does not name two different sides among {ndim} dimensions, 0 to {ndim - 1} or -{ndim} to -1"
            )
        return Layout(outputs, inputs)


class Layout(NamedTuple):
    """The dimensions of a parameter that are a matrix's rows and columns; the others number the matrices."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    outputs_are_columns: bool = False

    def sizes(self, shape: Sequence[int]) -> tuple[int, int]:
        """The rows and columns of a matrix in an array of this shape."""
        return self.size_of(self.rows, shape), self.size_of(self.columns, shape)

    def size_of(self, side: Sequence[int], shape: Sequence[int]) -> int:
        """The number of rows, or columns, in an array of this shape."""
        return math.prod(shape[d] for d in side)

    @property
    def sides(self) -> tuple[int, ...]:
        """The dimensions of a matrix."""
        return (*self.rows, *self.columns)

    def outputs_and_inputs(self, shape: Sequence[int]) -> tuple[int, int]:
        """The outputs and inputs of a matrix in an array of this shape."""
        rows, columns = self.sizes(shape)
        return (columns, rows) if self.outputs_are_columns else (rows, columns)

    @property
    def inputs(self) -> tuple[int, ...]:
        """The dimensions over which an output takes its inputs."""
        return self.rows if self.outputs_are_columns else self.columns


class Stacked:
    """A parameter's matrices as one stack, and the way back.

    Dimensions that become one may be split in the first of them only. Their order does not matter, as the singular
    values of a matrix stay if its rows are permuted, so a split one comes first; of several, all but one are gathered.
    """

    def __init__(self, array: jax.Array, layout: Layout, split: axes.Split) -> None:
        self._array, self._split = array, split
        self.whole_shape = parts.whole_shape(array.shape, split) if self._is_manual() else array.shape
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
            return parts.gathered(array, self._gathered)
        if self._split:
            return constrained(array, self._sharding(self._gathered))
        return whole(array, dimensions)

    def _reshaped(self, array: jax.Array, shape: Sequence[int], named: Sequence[axes.Axes]) -> jax.Array:
        """Reshape an array to one that is split over these axes, where types say it."""
        mesh = jax.typeof(self._array).sharding.mesh
        if AxisType.Explicit not in mesh.axis_types or self._is_manual():
            return array.reshape(shape)
        kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
        typed = [tuple(axis for axis in part if kinds[axis] == AxisType.Explicit) for part in named]
        spec = PartitionSpec(*[part or None for part in typed])
        return jax.lax.reshape(array, tuple(shape), out_sharding=NamedSharding(mesh, spec))

    def _is_manual(self) -> bool:
        return axes.is_manual(self._split, self._array)

    def _sharding(self, without: Sequence[axes.Axes]) -> NamedSharding:
        parts = [own if own and not gone else None for own, gone in zip(self._split, without, strict=True)]
        return NamedSharding(jax.typeof(self._array).sharding.mesh, PartitionSpec(*parts))

    def back(self, matrices: jax.Array) -> jax.Array:
        """Return an array of the stack's shape in the form and the place of the parameter."""
        inverse = [self._order.index(d) for d in range(len(self._order))]
        array = self._reshaped(matrices, self._shape, self._named).transpose(inverse)
        if self._is_manual():
            return parts.part(array, self._gathered)
        if self._split:
            return constrained(array, self._sharding([()] * array.ndim))
        return kept(self._array, array)


def as_matrix_axes(option: PyTree) -> PyTree:
    """Convert the option ``matrix_axes`` for storage: one for all, or labels.

    Raises:
        TypeError: something in it is not a :class:`MatrixAxes`.
    """
    if option is None or isinstance(option, MatrixAxes):
        return _checked(option, "it")
    labels = as_labels(option, is_leaf=lambda node: trees.is_leaf(node) or isinstance(node, MatrixAxes))
    return replace(labels, leaves=tuple(_checked(label, "it") for label in labels.leaves))


def matrix_axes_of(option: PyTree, tree: PyTree) -> list[MatrixAxes | None]:
    """The matrix axes of each leaf of a tree; None where they are the usual ones.

    Raises:
        TypeError: a function returns something else. ValueError: a tree of them has another structure.
    """
    if not isinstance(option, Labels):
        return [option] * len(jax.tree.leaves(tree))
    names, leaves, _ = trees.named_leaves(tree, none_is_leaf=True)
    labels = zip(names, leaves, option.of(names, tree), strict=True)
    return [_checked(label, f"for {trees.quote(name)} it") for name, leaf, label in labels if leaf is not None]


class HasMatrices(Frozen):
    """Whether a parameter has two dimensions, or ``matrix_axes`` gives the dimensions of its matrices: for a routing.

    Example:
        >>> import jax.numpy as jnp
        >>> takes = HasMatrices(as_matrix_axes({"query": MatrixAxes(2, 0), "bias": None}))
        >>> takes("query", jnp.zeros((8, 2, 4))), takes("bias", jnp.zeros(4))
        (True, False)
    """

    option: PyTree

    def __call__(self, name: str, array: Array) -> bool:
        return array.ndim == 2 or self._axes_of(name, array) is not None

    def _axes_of(self, name: str, array: Array) -> PyTree:
        if not isinstance(self.option, Labels):
            return self.option if array.ndim > 2 else None
        if self.option.function is not None:
            return matrix_axes_of(self.option, _nested(name))[0]
        places = self.option.structure.unflatten(range(len(self.option.leaves)))
        known = zip(trees.named_leaves(places, none_is_leaf=True)[0], self.option.leaves, strict=True)
        return next((label for own, label in known if name == own or name.startswith(f"{own}.") or not own), None)


def _nested(name: str) -> PyTree:
    """A tree with one leaf of this dotted name."""
    tree: PyTree = 0
    for part in reversed(name.split(".")):
        tree = {part: tree}
    return tree


def _checked(label: PyTree, where: str) -> MatrixAxes | None:
    if label is None:
        return None
    if not isinstance(label, MatrixAxes):
        raise TypeError(
            f"matrix_axes must give a fo.MatrixAxes or None for each parameter, but {where} gives {label!r}"
        )
    return MatrixAxes(*[_side(label, side) for side in label])


def _side(label: MatrixAxes, side: PyTree) -> int | tuple[int, ...]:
    """A side as an integer or a tuple of them."""
    several = isinstance(side, list | tuple)
    dimensions = side if several else [side]
    if not all(isinstance(d, int | np.integer) and not isinstance(d, bool) for d in dimensions):
        raise TypeError(f"matrix_axes: a side must be a dimension or a tuple of them, but {label} has {side!r}")
    return tuple(map(int, dimensions)) if several else int(side)
