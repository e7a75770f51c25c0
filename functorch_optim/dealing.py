"""Dealing matrices out over the devices of a mesh: each device does some as a whole, instead of all doing all.

Equal shapes that are split equally form one stack. An all-to-all over the axes that split the matrices gives each
device an equal number of whole ones; over the other axes, where all have the same, each takes its share and an
all-gather brings the results together. Then the results go back to where the matrices came from.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax._src.core import get_axis_env  # the only place that knows over which axes of the mesh vmap maps
from jax.core import Tracer
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from functorch_optim import axes, parts
from functorch_optim.alike import kept
from functorch_optim.placement import whole
from functorch_optim.typing import PyTree

Function = Callable[[jax.Array, PyTree], jax.Array]  # (number, rows, columns) -> the same, each matrix by itself


class Stack(NamedTuple):
    """Matrices, (number, rows, columns), and the axes that split each dimension, where types do not say it; or ()."""

    matrices: jax.Array
    split: axes.Split = ()


class Place(NamedTuple):
    """Where a stack is: its mesh (None inside ``shard_map``), the axes that split it, and those that repeat it."""

    mesh: Mesh | AbstractMesh | None
    split: axes.Split
    spare: axes.Axes


def sharding_in(array: PyTree) -> PyTree:
    """Where an array is, as its type says if it is traced; None if nothing says it."""
    return jax.typeof(array).sharding if isinstance(array, Tracer) else getattr(array, "sharding", None)


def mesh_of(array: PyTree) -> Mesh | AbstractMesh | None:
    """The mesh of several devices that an array is on, also inside ``shard_map``; None if there is none."""
    sharding = sharding_in(array)
    mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
    return mesh if mesh is not None and not mesh.empty and mesh.size > 1 else None


def dealt(function: Function, stacks: Sequence[Stack], extra: PyTree, wire: DTypeLike) -> list[jax.Array]:
    """Apply a function to every matrix; each is computed on one device of its mesh. ``function`` must hash by content.

    Args:
        function: ``(matrices, extra) -> matrices``, which treats each of (number, rows, columns) by itself.
        stacks: the matrices.
        extra: arrays that all need, the same on all devices.
        wire: the dtype in which matrices travel; results must fit it too.
    """
    results: list[jax.Array | None] = [None] * len(stacks)
    groups: dict[PyTree, list[int]] = {}
    for index, (matrices, split) in enumerate(stacks):
        place = _place_of(matrices, split)
        if place is None:
            results[index] = function(matrices, extra)
        else:
            groups.setdefault((place, matrices.shape[1:], matrices.dtype), []).append(index)
    for (place, *_), members in groups.items():
        held = [stacks[index].matrices for index in members]
        if place.mesh is None:  # over the other axes, if any are explicit, matrices are made whole
            own = [whole(matrices, range(matrices.ndim)) for matrices in held]
            found = map(kept, held, _dealt_by_hand(own, extra, function, place, wire))
        else:
            found = _dealt_from_outside(held, extra, function, place, wire)
        for index, result in zip(members, found, strict=True):
            results[index] = result
    return [result for result in results if result is not None]


def _place_of(matrices: jax.Array, told: axes.Split) -> Place | None:
    """Where a stack is; None if one device does it all, or nothing says that devices could share the work."""
    mesh, manual = mesh_of(matrices), jax.sharding.get_abstract_mesh().manual_axes
    if matrices.size == 0:
        return None
    if manual or axes.is_manual(told, matrices):
        split, named = told or ((), (), ()), {axis for part in told for axis in part}
        own = axes.varying(matrices) | named
        spare = tuple(axis for axis in manual if axis not in own and axes.is_known(axis))
        return Place(None, split, spare) if named or spare else None
    if mesh is None:
        return None
    split = split_of(matrices)
    split = split if any(split) or not told else told
    taken = {axis for part in split for axis in part} | _mapped()
    spare = tuple(axis for axis in mesh.axis_names if axis not in taken)
    return Place(mesh, split, spare) if spare or any(split) else None


def _mapped() -> frozenset[str]:
    """The mesh axes over which a surrounding ``vmap`` splits its batch."""
    env = get_axis_env()
    return frozenset(map(str, (*env.spmd_axis_names, *env.explicit_mesh_axis_names)))


def split_of(array: jax.Array) -> axes.Split:
    """The axes that split each dimension of an array, as far as it says it."""
    sharding = sharding_in(array)
    spec = sharding.spec if isinstance(sharding, NamedSharding) else ()
    each = [() if part is PartitionSpec.UNCONSTRAINED else part or () for part in spec]
    named = [(part,) if isinstance(part, str) else tuple(part) for part in each]
    return (*named, *[()] * (array.ndim - len(named)))


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _dealt_from_outside(
    parts: list[jax.Array], extra: PyTree, function: Function, place: Place, wire: DTypeLike
) -> list[jax.Array]:
    spec = PartitionSpec(*[part or None for part in place.split])
    run = functools.partial(_dealt_by_hand, function=function, place=place, wire=wire)
    return jax.shard_map(run, mesh=place.mesh, in_specs=(spec, PartitionSpec()), out_specs=spec)(parts, extra)


def _dealt_by_hand(
    parts: list[jax.Array], extra: PyTree, function: Function, place: Place, wire: DTypeLike
) -> list[jax.Array]:
    """Deal out inside ``shard_map``, from this device's parts."""
    bounds = itertools.accumulate([len(part) for part in parts], initial=0)
    result = _on_one_device_each(jnp.concatenate(parts), extra, function, place, wire)
    return [result[start:stop] for start, stop in itertools.pairwise(bounds)]


def _on_one_device_each(
    stack: jax.Array, extra: PyTree, function: Function, place: Place, wire: DTypeLike
) -> jax.Array:
    _, rows, columns = place.split
    moving, stack = (*rows, *columns), stack.astype(wire)
    if not moving:
        return _shared(stack, extra, function, place.spare).astype(wire)
    grid = axes.shards(rows) if rows else 1, axes.shards(columns) if columns else 1
    number, takers = len(stack), axes.shards(moving)
    if number == 1:  # all compute it, as others would wait, and none has to send the result
        result = function(_joined(_gathered(stack, moving), grid), extra).astype(wire)
        return parts.part(result, place.split)
    stack = jnp.pad(stack, [(0, -number % takers), (0, 0), (0, 0)])
    exchange = functools.partial(jax.lax.all_to_all, axis_name=moving, split_axis=0, concat_axis=0, tiled=True)
    result = _shared(_joined(_moved(exchange, stack), grid), extra, function, place.spare)
    return _moved(exchange, _cut(result.astype(wire), grid))[:number]


def _shared(stack: jax.Array, extra: PyTree, function: Function, spare: axes.Axes) -> jax.Array:
    """Share work among devices that have the same matrices; with one matrix there is nothing to share."""
    number, dtype = len(stack), stack.dtype
    if not spare or number == 1:
        return function(stack, extra)
    sharers = axes.shards(spare)
    stack = jnp.pad(stack, [(0, -number % sharers), (0, 0), (0, 0)])
    each = len(stack) // sharers
    own = jax.lax.dynamic_slice_in_dim(stack, jax.lax.axis_index(spare) * each, each)
    return _gathered(function(own, extra).astype(dtype), spare)[:number]


def _gathered(stack: jax.Array, over: axes.Axes) -> jax.Array:
    return _moved(functools.partial(parts.gather, over=over), stack)


def _joined(pieces: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Put whole matrices together from their pieces, of which all first ones come first."""
    rows, columns = pieces.shape[1:]
    apart = pieces.reshape(*grid, -1, rows, columns).transpose(2, 0, 3, 1, 4)
    return apart.reshape(-1, grid[0] * rows, grid[1] * columns)


def _cut(matrices: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Cut matrices into pieces, the reverse of :func:`_joined`."""
    rows, columns = (size // parts for size, parts in zip(matrices.shape[1:], grid, strict=True))
    apart = matrices.reshape(-1, grid[0], rows, grid[1], columns).transpose(1, 3, 0, 2, 4)
    return apart.reshape(-1, rows, columns)


def _moved(move: Callable[[jax.Array], jax.Array], array: jax.Array) -> jax.Array:
    """Apply a function that only moves entries, to bits: XLA on the CPU would send bfloat16 as float32."""
    if array.dtype != jnp.bfloat16:
        return move(array)

    @jax.custom_jvp
    def moved(array: jax.Array) -> jax.Array:
        bits = move(jax.lax.bitcast_convert_type(array, jnp.uint16))
        return jax.lax.bitcast_convert_type(bits, jnp.bfloat16)

    @moved.defjvp
    def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
        return moved(*primals), move(*tangents)

    return moved(array)
