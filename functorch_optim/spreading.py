"""Splitting arrays over one more mesh axis, and putting them together again, wherever the code runs.

Inside ``shard_map`` (manual axes) it takes collectives. Elsewhere arrays are whole, and XLA moves what their new
shardings ask for: under explicit axes by type, under automatic ones by constraint.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from jax.core import Tracer
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from functorch_optim import axes, parts, trees
from functorch_optim.alike import constrained
from functorch_optim.labels import Labels
from functorch_optim.typing import PyTree


def split_besides(spec: PartitionSpec, shape: Sequence[int], axis: str, size: int, start: int = 0) -> PartitionSpec:
    """Split the first dimension from ``start`` on that is whole and divides over an axis, if it splits none."""
    parts = [*spec, *[None] * (len(shape) - len(spec))]
    if axis not in axes_in(spec) and 0 not in shape:
        for place in range(start, len(shape)):
            if not parts[place] and shape[place] % size == 0:
                parts[place] = axis
                break
    while parts and not parts[-1]:
        parts.pop()
    return PartitionSpec(*parts)


def axes_in(spec: PartitionSpec) -> frozenset[str]:
    """The axes that a spec names."""
    return frozenset(jax.tree.leaves([part for part in spec if part is not None]))


class Leaf(NamedTuple):
    """How a leaf is split by itself, and how with the axis besides."""

    name: str
    own: PartitionSpec
    parts: PartitionSpec


class _Spread:
    """How the leaves of a tree are split over one more axis."""

    def __init__(self, tree: PyTree) -> None:
        self.tree = tree
        self.leaves: list[Leaf] = []

    def map(self, function: Callable[[PyTree, Leaf], PyTree], tree: PyTree) -> PyTree:
        """Apply a function to each present leaf, with how it is split."""
        nodes = trees.align(self.tree, tree, "gradients")
        new = [
            node if trees.is_absent(node) else function(node, leaf)
            for node, leaf in zip(nodes, self.leaves, strict=True)
        ]
        return jax.tree.structure(self.tree).unflatten(new)


class Whole(_Spread):
    """Arrays that are whole where the code runs, on a mesh of explicit or automatic axes."""

    def __init__(self, mesh: Mesh | AbstractMesh, axis: str, specs: Labels | None, tree: PyTree, who: str) -> None:
        super().__init__(tree)
        self._mesh, self._axis, self._who = mesh, axis, who
        self._explicit = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))[axis] == AxisType.Explicit
        names, leaves, _ = trees.named_leaves(tree)
        told = _told(specs, tree, who)
        self.leaves = [self._leaf(*each) for each in zip(names, leaves, told, strict=True)]

    def _leaf(self, name: str, leaf: PyTree, told: PartitionSpec | None) -> Leaf:
        own, sharding = told, jax.typeof(leaf).sharding if isinstance(leaf, Tracer) else getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and (self._explicit or not isinstance(leaf, Tracer)):
            own = PartitionSpec(*sharding.spec)
        if own is None and self._mesh.size == self._mesh.shape[self._axis]:
            own = PartitionSpec()
        if own is None:
            others = ", ".join(repr(axis) for axis in self._mesh.axis_names if axis != self._axis)
            raise ValueError(
                f"{self._who}: on automatic axes the traced parameter {trees.quote(name)} does not say how it is split "
                f"over {others}: give specs=, the tree of the parameters' PartitionSpecs, or PartitionSpec() if all "
                "are whole"
            )
        return Leaf(name, own, split_besides(own, leaf.shape, self._axis, self._mesh.shape[self._axis]))

    def _placed(self, array: PyTree, spec: PartitionSpec) -> PyTree:
        if not hasattr(array, "shape") or trees.is_sparse(array):
            return array
        if not isinstance(array, Tracer):
            mesh = self._mesh if isinstance(self._mesh, Mesh) else jax.sharding.get_mesh()
            return jax.device_put(array, NamedSharding(mesh, spec))
        if self._explicit:
            return jax.sharding.reshard(array, NamedSharding(self._mesh, spec))
        kinds = dict(zip(self._mesh.axis_names, self._mesh.axis_types, strict=True))
        each = [(part,) if isinstance(part, str) else part or () for part in spec]
        # The type of an array says how it is split over explicit axes.
        automatic = [tuple(axis for axis in part if kinds[axis] == AxisType.Auto) or None for part in each]
        return constrained(array, NamedSharding(self._mesh, PartitionSpec(*automatic)))

    def part(self, array: PyTree, leaf: Leaf) -> PyTree:
        """An array that is split as the parameter is, split besides."""
        return self._placed(array, leaf.parts)

    def reduced(self, grad: PyTree, leaf: Leaf, scatter: bool) -> PyTree:
        """A gradient as the parts; with ``scatter`` its sum over the axis may still be open."""
        unreduced = getattr(jax.typeof(grad).sharding.spec, "unreduced", ()) if isinstance(grad, jax.Array) else ()
        if not scatter and self._axis in unreduced:
            raise ValueError(
                f"{self._who}: the gradient of the parameter {trees.quote(leaf.name)} is unreduced over "
                f"{self._axis!r}, which stage=2 takes"
            )
        return self._placed(grad if scatter else self._placed(grad, leaf.own), leaf.parts)

    def whole(self, array: PyTree, leaf: Leaf) -> PyTree:
        """An array in the parameter's own place, from its parts; what comes before is done on the parts."""
        return self._placed(self._placed(array, leaf.parts), leaf.own)

    def inside(self) -> dict[str, PartitionSpec]:
        """What code beyond single entries is told of the parts: how they are split, where arrays do not say it."""
        return {} if self._explicit else {leaf.name: leaf.parts for leaf in self.leaves}


class Manual(_Spread):
    """Arrays inside ``shard_map``, where code sees its device's part."""

    def __init__(self, axis: str, specs: Labels | None, tree: PyTree, who: str, are_params: bool) -> None:
        super().__init__(tree)
        self._axis, self._who, self._size = axis, who, jax.lax.axis_size(axis)
        names, leaves, _ = trees.named_leaves(tree)
        told = _told(specs, tree, who)
        others = [one for one in jax.sharding.get_abstract_mesh().manual_axes if one != axis and not axes.is_known(one)]
        if specs is None and others:
            raise ValueError(
                f"{who}: inside shard_map(check_vma=False) no parameter says whether it is split over "
                f"{', '.join(map(repr, others))}: give specs=, the tree of the parameters' PartitionSpecs, or "
                "PartitionSpec() if all are whole"
            )
        self.leaves = [self._leaf(*each, are_params) for each in zip(names, leaves, told, strict=True)]

    def _leaf(self, name: str, leaf: PyTree, told: PartitionSpec | None, is_param: bool) -> Leaf:
        own = PartitionSpec() if told is None else told
        untold = axes.varying(leaf) - axes_in(own) - (set() if is_param else {self._axis})
        if untold:
            raise ValueError(
                f"{self._who}: inside shard_map the parameter {trees.quote(name)} varies over "
                f"{', '.join(map(repr, sorted(untold)))}, so it is split over it already: give specs=, the tree of the "
                "parameters' PartitionSpecs"
            )
        return Leaf(name, own, split_besides(own, leaf.shape, self._axis, self._size))

    def _split(self, leaf: Leaf) -> axes.Split:
        """The axis at the dimension that it splits besides; () if it splits none."""
        if self._axis in axes_in(leaf.own) or self._axis not in axes_in(leaf.parts):
            return ()
        return tuple((self._axis,) if part == self._axis else () for part in leaf.parts)

    def _check_dense(self, array: PyTree, leaf: Leaf) -> None:
        trees.check_dense(leaf.name, array, self._who, "keep such a table out of it, with fo.partition")

    def part(self, array: PyTree, leaf: Leaf) -> PyTree:
        """This device's part of an array."""
        return parts.part(array, self._split(leaf))

    def reduced(self, grad: PyTree, leaf: Leaf, scatter: bool) -> PyTree:
        """This device's part of a gradient; with ``scatter`` of its sum over the axis, where that is still open."""
        self._check_dense(grad, leaf)
        split = self._split(leaf)
        if self._axis in axes_in(leaf.own):
            return grad
        open_sum = scatter and (not axes.is_known(self._axis) or self._axis in axes.varying(grad))
        if not open_sum:
            if self._axis in axes.varying(grad):
                raise ValueError(
                    f"{self._who}: the gradient of the parameter {trees.quote(leaf.name)} varies over {self._axis!r}: "
                    "stage=2 sums it; or sum it first, jax.lax.psum"
                )
            return parts.part(grad, split)
        if not split:
            return jax.lax.psum(grad, self._axis)
        return jax.lax.psum_scatter(grad, self._axis, scatter_dimension=split.index((self._axis,)), tiled=True)

    def whole(self, array: PyTree, leaf: Leaf) -> PyTree:
        """The whole of an array, from the parts of all devices."""
        self._check_dense(array, leaf)
        return parts.gathered(array, self._split(leaf))

    def inside(self) -> dict[str, PartitionSpec]:
        """How the parts are split, for code that looks beyond single entries."""
        return {leaf.name: leaf.parts for leaf in self.leaves}


def _told(specs: Labels | None, tree: PyTree, who: str) -> list[PartitionSpec | None]:
    """What ``specs`` says of each present leaf; None if it says nothing."""
    names, leaves, _ = trees.named_leaves(tree, none_is_leaf=True)
    if specs is None:
        return [None for leaf in leaves if leaf is not None]
    told: list[PartitionSpec | None] = []
    for name, leaf, spec in zip(names, leaves, specs.of(names, tree), strict=True):
        if leaf is None:
            continue
        if not isinstance(spec, PartitionSpec):
            raise TypeError(f"{who}: specs is {spec!r} at the parameter {trees.quote(name)}, which is no PartitionSpec")
        told.append(spec)
    return told


def over(axis: str, specs: Labels | None, params: PyTree, updates: PyTree, who: str) -> Whole | Manual:
    """Find how the leaves of a tree are split over one more axis, where the code runs now.

    Raises:
        ValueError: there is no such axis, or it is unknown how a leaf is split by itself.
    """
    tree = updates if params is None else params
    context = jax.sharding.get_abstract_mesh()
    if axis in context.manual_axes:
        return Manual(axis, specs, tree, who, params is not None)
    meshes = [mesh for leaf in jax.tree.leaves((params, updates)) if not (mesh := _mesh_of(leaf)).empty]
    for mesh in [*meshes, context]:
        if axis in mesh.axis_names:
            return Whole(mesh, axis, specs, tree, who)
    found = ", ".join(map(repr, meshes[0].axis_names)) if meshes else "none"
    raise ValueError(
        f"{who}: there is no mesh with an axis {axis!r} here; axes are {found}. Place the parameters on one, "
        "jax.device_put(params, NamedSharding(mesh, spec)), or name its axis for data"
    )


def _mesh_of(leaf: PyTree) -> Mesh | AbstractMesh:
    if isinstance(leaf, Tracer):
        return jax.typeof(leaf).sharding.mesh
    sharding = getattr(leaf, "sharding", None)
    return sharding.mesh if isinstance(sharding, NamedSharding) else AbstractMesh((), ())
