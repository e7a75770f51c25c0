"""Manual axes: the mesh axes over which an array varies inside ``shard_map``, and sums over them.

A transformation that looks beyond single entries takes ``axis_name=``, which describes what is spread over which mesh
axes. It is one of

- a name, or a tuple of names: an array is summed over those that it varies over, so that a replicated one counts once.
  Under ``check_vma=False`` (and under ``vmap``) JAX does not know which these are: for several arrays pass a tree.
- a ``PartitionSpec``, as ``shard_map`` takes it, which also gives the dimension that is split.
- a tree of these with the parameters' structure (one may stand for a subtree), or a function of the dotted path.
  Leaves that ``flat_params`` joined must have the same axes; the tree may be flat too.
- ``()``: no axis; every shard counts as whole.

Without it such a transformation raises if its input varies, or might.
"""

import contextlib
import itertools
import math
from collections.abc import Generator, Mapping, Sequence
from contextvars import ContextVar
from types import MappingProxyType

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from functorch_optim import trees
from functorch_optim.alike import automatic_axes
from functorch_optim.labels import Labels, as_labels
from functorch_optim.typing import PyTree

Axes = tuple[str, ...]
Split = tuple[Axes, ...]  # the axes over which each dimension is split; () if none is


_PARTS: ContextVar[Mapping[str, PartitionSpec]] = ContextVar("parts", default=MappingProxyType({}))


@contextlib.contextmanager
def spread_as(parts: Mapping[str, PartitionSpec]) -> Generator[None]:
    """Within it the parameters with these names are split as a wrapper has split them, besides ``axis_name``.

    Raises:
        ValueError: another wrapper around this one splits them already.
    """
    if parts and _PARTS.get():
        raise ValueError("fo.zero stands inside another: one of them splits the state, over one axis")
    token = _PARTS.set(parts or _PARTS.get())
    try:
        yield
    finally:
        _PARTS.reset(token)


def varying(array: PyTree) -> frozenset[str]:
    """Return the manual axes over which an array or a tree is known to vary; none under ``check_vma=False``."""
    found: frozenset[str] = frozenset()
    for leaf in jax.tree.leaves(array):
        kind = jax.typeof(leaf)
        manual = getattr(kind, "manual_axis_type", None)  # older versions have the set itself, under another name
        found |= frozenset(getattr(kind, "vma", ()) if manual is None else manual.varying)
    return found


def vary_over(array: jax.Array, axes: frozenset[str]) -> jax.Array:
    """Mark the array as varying over these axes too."""
    missing = axes - varying(array)
    return jax.lax.pcast(array, tuple(sorted(missing)), to="varying") if missing else array


def vary_as(array: jax.Array, model: PyTree) -> jax.Array:
    """Mark the array as varying over the axes over which ``model`` varies."""
    return vary_over(array, varying(model))


def named(placement: PyTree) -> frozenset[str]:
    """Return all axes in a result of :func:`over` or :func:`splits`."""
    return frozenset(jax.tree.leaves(placement))


def check_known(axes: frozenset[str], what: str) -> None:
    """Raise if it is unknown what varies over one of the axes."""
    unknown = sorted(axis for axis in axes if not is_known(axis))
    if unknown:
        raise ValueError(f"{what}, over the axis {', '.join(map(repr, unknown))}, is known with check_vma=True only")


def is_known(axis: str) -> bool:
    """Whether it is known which arrays vary over this axis.

    Raises:
        NameError: the surrounding ``shard_map`` has no such axis.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if axis in mesh.axis_names and axis not in mesh.manual_axes:
        return True  # arrays are whole here, and XLA ensures that their sums are
    try:
        return axis in varying(jax.lax.axis_index(axis))
    except NameError:
        if mesh.manual_axes:
            raise
        return True  # outside shard_map arrays are whole


def unknown() -> str:
    """Name the manual axes over which an array may vary without saying so: those of ``shard_map(check_vma=False)``."""
    return ", ".join(repr(axis) for axis in manual_axes() if not is_known(axis))


def _check_known(who: str) -> None:
    """Raise inside ``shard_map(check_vma=False)``."""
    over = unknown()
    if over:
        raise ValueError(
            f"{who} looks beyond single entries, and inside shard_map(check_vma=False) no array says whether it is "
            f"split over the axis {over}: give axis_name= the tree of the PartitionSpecs (or "
            "axis names) of the parameters, or () if every array is whole"
        )


def _is_entry(node: PyTree) -> bool:
    return trees.is_leaf(node) or (type(node) is tuple and all(isinstance(name, str) for name in node))


def as_axes(axis_name: PyTree, who: str) -> Labels | None:
    """Convert the option ``axis_name`` for storage.

    Raises:
        TypeError: something in it does not name axes.
    """
    if axis_name is None:
        return None
    labels = as_labels(trees.spread(axis_name), is_leaf=_is_entry)
    for entry in labels.leaves:
        _named(entry, who)
    return labels


def _named(entry: PyTree, who: str) -> list[Axes]:
    """Return the axes that an entry of ``axis_name`` names; for a spec, dimension by dimension."""
    parts = list(entry) if isinstance(entry, PartitionSpec) else [() if entry is None else entry]
    parts = [(part,) if isinstance(part, str) else () if part is None else part for part in parts]
    if all(isinstance(part, tuple) and all(isinstance(name, str) for name in part) for part in parts):
        return parts
    raise TypeError(
        f"{who}: axis_name must be the name of an axis, a tuple of names, a PartitionSpec, or a tree of these, but it "
        f"has {entry!r}"
    )


def _entries(axis_name: Labels | None, tree: PyTree, who: str, remedy: str = "") -> list[PyTree]:
    """Return the entry of ``axis_name`` for each leaf, even if None; without ``axis_name``, () for each.

    Raises:
        ValueError: there is no ``axis_name``, and a leaf varies over a manual axis, or might.
    """
    names, leaves, _ = trees.named_leaves(tree, none_is_leaf=True)
    parts = _PARTS.get()
    if axis_name is not None:
        own = _of_joined(axis_name, tree, who) if trees.has_flat(tree) else axis_name.of(names, tree)
        return [_besides(*each, parts, who) for each in zip(own, names, leaves, strict=True)]
    if parts:
        return [_besides((), *each, parts, who) for each in zip(names, leaves, strict=True)]
    if any(isinstance(part, Tracer) for part in jax.tree.leaves(leaves)):
        for name, leaf in zip(names, leaves, strict=True):
            found = ", ".join(map(repr, sorted(varying(leaf))))
            if found:
                raise ValueError(
                    f"{who} looks beyond single entries, and inside shard_map the gradient of the parameter "
                    f"{trees.quote(name)} varies over the axis {found}: give axis_name= {remedy}the tree of "
                    "the parameters' PartitionSpecs, or () to treat every shard as whole"
                )
        _check_known(who)
    return [()] * len(leaves)


def _besides(entry: PyTree, name: str, leaf: PyTree, parts: Mapping[str, PartitionSpec], who: str) -> PyTree:
    """An entry of ``axis_name``, and the axes over which a wrapper has split the leaf besides."""
    if not parts or trees.is_absent(leaf):
        return entry
    if name not in parts:
        raise ValueError(f"{who}: fo.zero around it has no parameter {trees.quote(name)}")
    if not isinstance(entry, PartitionSpec) and entry not in ((), None):
        return (*_named(entry, who)[0], *(axis for part in _named(parts[name], who) for axis in part))
    pairs = itertools.zip_longest(_named(entry, who), _named(parts[name], who), fillvalue=())
    return PartitionSpec(*(tuple(dict.fromkeys((*one, *other))) for one, other in pairs))


def _of_joined(axis_name: Labels, tree: PyTree, who: str) -> list[PyTree]:
    """Return :func:`_entries` of a tree with joined leaves: an array has the axes of all leaves that it holds.

    Raises:
        ValueError: leaves in one array have different axes.
    """
    leaves, treedef = jax.tree.flatten(tree, is_leaf=trees.is_leaf)
    places = trees.spread(treedef.unflatten(range(len(leaves))))
    names, holders, _ = trees.named_leaves(places)
    firsts: dict[int, tuple[str, PyTree]] = {}
    for name, holder, entry in zip(names, holders, axis_name.of(names, places), strict=True):
        other, first = firsts.setdefault(holder, (name, entry))
        if len({frozenset(axis for part in _named(one, who) for axis in part) for one in (first, entry)}) > 1:
            raise ValueError(
                f"{who}: fo.flat_params joined {trees.quote(other)} and {trees.quote(name)}, so they must be spread "
                f"over the same axes, but axis_name= gives them different ones ({first!r} and {entry!r}): keep the tree"
            )
    return [firsts[index][1] for index in range(len(leaves))]


def _check_told(entries: list[PyTree], axis_name: Labels | None, who: str, joined: bool) -> None:
    """Raise if one name stands for several leaves, or for ``joined`` ones, and it is unknown which of them vary."""
    alone = axis_name is not None and axis_name.structure is not None and axis_name.structure.treedef.num_nodes == 1
    if alone and (joined or len(entries) > 1) and not isinstance(entries[0], PartitionSpec):
        unknown = [axis for part in _named(entries[0], who) for axis in part if not is_known(axis)]
        if unknown:
            raise ValueError(
                f"{who}: where nothing says which arrays are split over the axis {', '.join(map(repr, unknown))} "
                "(check_vma=False, vmap), one name for all of them is not enough, since a replicated one must count "
                "once: give axis_name= the tree of the parameters' PartitionSpecs or axis names"
            )


def _of(leaf: PyTree, named: Axes, told: Sequence[str] = ()) -> Axes:
    """Return those of the axes over which a leaf varies, or might, or is told to be split."""
    found = varying(leaf) | {*told}
    return tuple(axis for axis in named if axis in found or not is_known(axis))


def over(axis_name: Labels | None, tree: PyTree, who: str, once: bool = True) -> list[Axes]:
    """Return the axes to sum over for each present leaf of ``tree``; with ``once`` every array must count once.

    Raises:
        ValueError: there is no ``axis_name``, and a leaf varies over a manual axis, or might; or neither
            ``axis_name`` nor anything else determines which leaves vary.
    """
    entries = _entries(axis_name, tree, who, "that name or ")
    if once:
        _check_told(entries, axis_name, who, trees.has_flat(tree))
    leaves = jax.tree.leaves(tree, is_leaf=trees.is_leaf)
    each = [tuple(axis for part in _named(entry, who) for axis in part) for entry in entries]
    return [_of(leaf, axes) for leaf, axes in zip(leaves, each, strict=True) if not trees.is_absent(leaf)]


def over_or_varying(axis_name: Labels | None, tree: PyTree, who: str) -> list[Axes]:
    """Like :func:`over`, but without ``axis_name`` return the axes over which each leaf is known to vary.

    Raises:
        ValueError: there is no ``axis_name``, and the axes are unknown.
    """
    if axis_name is not None or _PARTS.get():
        return over(axis_name, tree, who)
    leaves = jax.tree.leaves(tree)
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        _check_known(who)
    return [tuple(sorted(varying(leaf))) for leaf in leaves]


def splits(axis_name: Labels | None, tree: PyTree, who: str, automatic: bool = False) -> list[Split]:
    """Return the axes over which each dimension is split, for each present leaf of ``tree``; () if none is.

    With ``automatic``, count automatic axes too, for traced leaves, which do not say how they are split over them.

    Raises:
        ValueError: as :func:`over`; ``axis_name`` does not give the split dimension, or has too many dimensions.
    """
    entries = _entries(axis_name, tree, who)
    names, leaves, _ = trees.named_leaves(tree, none_is_leaf=True)
    result: list[Split] = []
    for name, leaf, entry in zip(names, leaves, entries, strict=True):
        if trees.is_absent(leaf):
            continue
        spec = entry if automatic and isinstance(entry, PartitionSpec) and not manual_axes() else None
        told = () if spec is None else automatic_axes(leaf, spec)
        parts = [_of(leaf, part, told) for part in _named(entry, who)]
        if not any(parts):
            result.append(())
        elif not isinstance(entry, PartitionSpec) or len(parts) > leaf.ndim:
            raise ValueError(
                f"{who} must know which dimension of the parameter {trees.quote(name)} is split, of {leaf.ndim}: give "
                f"axis_name= the tree of the parameters' PartitionSpecs instead of {entry!r}"
            )
        else:
            result.append((*parts, *[()] * (leaf.ndim - len(parts))))
    return result


def manual_axes() -> Sequence[str]:
    """The axes of the surrounding ``shard_map``."""
    return jax.sharding.get_abstract_mesh().manual_axes


def is_manual(split: Split, array: jax.Array) -> bool:
    """Whether an array is this device's part of a whole, split so; on automatic axes it is the whole."""
    return bool(named(split) - {*automatic_axes(array)})


def sum_over(array: jax.Array, axes: Axes) -> jax.Array:
    """Sum an array's shards."""
    for axis in axes:
        array = jax.lax.psum(array, axis)
    return array


def max_over(array: jax.Array, axes: Axes) -> jax.Array:
    """Take the elementwise maximum of the shards."""
    for axis in axes:
        array = jax.lax.pmax(array, axis)
    return array


def total(values: Sequence[PyTree], each: Sequence[Axes], dtype: DTypeLike | None) -> jax.Array:
    """Sum scalars, each over its own axes, with one sum over devices for each set of axes."""
    groups: dict[Axes, jax.Array] = {}
    for value, axes in zip(values, each, strict=True):
        groups[axes] = groups.get(axes, jnp.zeros((), dtype)) + value.astype(dtype)
    return sum((sum_over(value, axes) for axes, value in groups.items()), jnp.zeros((), dtype))


def totals(values: Sequence[PyTree], each: Sequence[Axes], dtype: DTypeLike | None) -> list[jax.Array]:
    """Sum each scalar over its own axes, with one sum over devices for each set of axes."""
    sums = [value.astype(dtype) for value in values]
    groups: dict[Axes, list[int]] = {}
    for index, axes in enumerate(each):
        groups.setdefault(axes, []).append(index)
    for axes, members in groups.items():
        if axes:
            together = sum_over(jnp.stack([sums[index] for index in members]), axes)
            for place, index in enumerate(members):
                sums[index] = together[place]
    return sums


def shards(axes: Axes) -> int:
    """Return the number of shards over these axes."""
    return math.prod(jax.lax.axis_size(axis) for axis in axes)
