"""Many small leaves as one: their state in flat buffers, updated together.

Passing a buffer into and out of a compiled step costs more than the arithmetic of a leaf with a few thousand entries.
So the slots of small leaves share one flat buffer per dtype: we join their gradients, run one update, and split the
result into leaves again.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from functorch_optim import axes, rows, trees
from functorch_optim.alike import is_hidden, on_automatic
from functorch_optim.base import exportable
from functorch_optim.core.lifted import Aligned, Lifted
from functorch_optim.core.rule import StepScalars
from functorch_optim.placement import whole
from functorch_optim.typing import Numeric, PyTree

LARGEST = 8192  # entries of the largest leaf to pack: beyond that, joining and splitting cost more than the buffers do


@exportable
class ForeachState(NamedTuple):
    """The state of a transformation with ``foreach=True``.

    ``leaves`` is the state without ``foreach``, with None for packed leaves; ``packed`` has the same slots, each a dict
    of flat buffers by dtype, in leaf order.
    """

    leaves: PyTree
    packed: PyTree

    def unpack(self, params: PyTree) -> PyTree:
        """Return the state that the same transformation has without ``foreach``.

        Args:
            params: the parameters, or their shapes and dtypes.

        Raises:
            ValueError: the last axis of a buffer has another size than the leaves joined in it.

        Example:
            >>> import functorch_optim as fo
            >>> params = {"a": jnp.ones(2), "b": jnp.ones((2, 2))}
            >>> state = fo.adam(foreach=True).init(params)
            >>> state.packed.exp_avg["float32"].shape, state.unpack(params).exp_avg["b"].shape
            ((6,), (2, 2))
        """
        _, models, treedef = trees.named_leaves(params)
        unpacked: dict[str, PyTree] = {}
        for slot, flat in self.packed._asdict().items():
            if flat is None:
                continue
            leaves = treedef.flatten_up_to(getattr(self.leaves, slot))
            for key, segments in segments_of(models, [leaf is None for leaf in leaves]).items():
                segments.check(f"{key} of the slot {slot}", flat[key])
                for index, piece in zip(segments.indices, segments.cut(flat[key]), strict=True):
                    leaves[index] = piece
            unpacked[slot] = treedef.unflatten(leaves)
        return self.leaves._replace(**unpacked)


class Packed(Lifted):
    """A rule over a pytree whose small leaves are packed."""

    def __repr__(self) -> str:
        return self._repr(", foreach=True")

    def init(self, params: PyTree) -> ForeachState:
        if trees.has_flat(params):
            raise ValueError(
                f"{self!r} joins small leaves itself, so it needs the parameters as a tree and not in fo.flat_params: "
                "leave foreach out, or pass the tree"
            )
        return self.pack(super().init(params), params)

    def pack(self, state: PyTree, params: PyTree) -> ForeachState:
        """Pack a state that the same transformation has without ``foreach``.

        Raises:
            ValueError: slots that would share a buffer have different dtypes.
        """
        names, leaves, treedef = trees.named_leaves(params)
        # On automatic axes a traced leaf does not say whether it is whole: pack none, traced or not.
        hidden = not self.slot_names or any(map(on_automatic, leaves))
        small = [False] * len(leaves) if hidden else packable(leaves)
        packed, loose = {}, {}
        for slot in self.slot_names:
            slots = trees.align(params, getattr(state, slot), f"slots {slot}")
            packed[slot] = {
                key: joined(segments.of(slots), segments.dtype_of(slots, names))
                for key, segments in segments_of(leaves, small).items()
            }
            loose[slot] = treedef.unflatten([None if gone else leaf for gone, leaf in zip(small, slots, strict=True)])
        return ForeachState(state._replace(**loose), self.rule.empty()._replace(**packed))

    def hyperparams(self, state: PyTree) -> dict[str, PyTree]:
        return super().hyperparams(state.leaves)

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        del extra
        if params is None:
            raise ValueError(f"{self.rule.title} with foreach=True needs the parameters: update(grads, state, params)")
        scalars, leaves = self.advanced(state.leaves)
        aligned = self.aligned(scalars, updates, leaves, params)
        updates_of = self.leaf_updates(scalars, aligned.decays)
        small = [bool(self.slot_names) and all(slot is None for slot in row) for row in aligned.slots]
        buffers = segments_of(aligned.params, small)
        self._check_whole(params, small)
        self._check_dtypes(buffers, state.packed)
        deltas, new_slots = [None] * len(small), list(aligned.slots)
        for index, (grad, param, row) in enumerate(zip(aligned.grads, aligned.params, aligned.slots, strict=True)):
            if not small[index]:
                deltas[index], new_slots[index] = updates_of[aligned.decays[index]](grad, param, row)
        packed = {slot: {} for slot in self.slot_names}
        for key, segments in buffers.items():
            row = self.rule.empty()._replace(**{slot: getattr(state.packed, slot)[key] for slot in self.slot_names})
            parts, row = self._update_buffer(segments, aligned, row, scalars, leaves.step)
            for index, part in zip(segments.indices, parts, strict=True):
                deltas[index] = part
            for slot in self.slot_names:
                packed[slot][key] = getattr(row, slot)
        carried = {name: getattr(leaves, name) for name in self.rule.carried}
        new = self.state_of(aligned.treedef, new_slots, leaves.step, carried)
        return aligned.treedef.unflatten(deltas), ForeachState(new, self.rule.empty()._replace(**packed))

    def _check_whole(self, params: PyTree, packed: Sequence[bool]) -> None:
        """Raise if a packed parameter is split over devices, or if nothing says that it is not."""
        names, leaves, _ = trees.named_leaves(params)
        for name, leaf, gone in zip(names, leaves, packed, strict=True):
            if gone and (on_automatic(leaf) or _is_split(leaf)):
                raise ValueError(
                    f"{self!r}: the state of the parameter {trees.quote(name)} is in a packed buffer, but the "
                    "parameter is split over a mesh, or on automatic axes, where it may be: make the state from the "
                    "parameters in their place, fo.init_sharded(tx, params), or leave foreach out and continue with "
                    "state.unpack(params)"
                )

    def _check_dtypes(self, buffers: "dict[str, Segments]", packed: PyTree) -> None:
        """Raise unless the buffers belong to parameters of these dtypes."""
        held = {key for slot in self.slot_names for key in getattr(packed, slot)}
        if buffers.keys() != held:
            raise ValueError(
                f"the packed state is of parameters of {', '.join(sorted(held))}, but these are of "
                f"{', '.join(sorted(buffers))}: unpack it, cast it, and pack it again"
            )

    def _update_buffer(
        self, segments: "Segments", aligned: Aligned, row: PyTree, scalars: StepScalars, step: Numeric
    ) -> tuple[list[PyTree], PyTree]:
        """Return the updates of the leaves in one flat buffer, and its next slots."""
        grads, params, decays = (segments.of(column) for column in (aligned.grads, aligned.params, aligned.decays))
        updates = self.leaf_updates(scalars, decays)
        dense = [grad if grad is not None and not rows.is_rows(grad) else None for grad in grads]
        dtype = trees.compute_dtype(*dense, *params)
        zeroed = [jnp.zeros(s, dtype) if g is None else g for g, s in zip(dense, segments.shapes, strict=True)]
        needed = scalars.needs_params or self.rule.needs_params
        flat = joined(params, params[0].dtype) if needed else None
        if len(updates) == 1:
            update_flat = updates[decays[0]]
        else:
            update_flat = self.leaf_update(scalars, np.repeat(decays, [param.size for param in params]))
        delta, new = update_flat(joined(zeroed, dtype), flat, row)
        parts, bounds = segments.cut(delta, step), segments.bounds
        for place, (grad, param, decay) in enumerate(zip(grads, params, decays, strict=True)):
            if dense[place] is not None:
                continue
            begin, end = bounds[place : place + 2]  # this leaf is updated alone, or not at all
            before = jax.tree.map(lambda slot, b=begin, e=end, s=param.shape: slot[b:e].reshape(s), row)
            parts[place], after = updates[decay](grad, param, before)
            new = jax.tree.map(
                lambda slot, part, b=begin: jax.lax.dynamic_update_slice(slot, part.reshape(-1), (b,)), new, after
            )
        return parts, new


def _is_split(leaf: PyTree) -> bool:
    """Whether an array says that it is split over devices."""
    if isinstance(leaf, Tracer):
        return any(jax.typeof(leaf).sharding.spec)
    return isinstance(leaf, jax.Array) and not leaf.sharding.is_fully_replicated


def packable(leaves: Sequence[PyTree]) -> list[bool]:
    """Whether each leaf is small, and known to be fully replicated over the same devices as the others."""
    flags, placement, known = [], None, not axes.unknown()
    for leaf in leaves:
        small = int(np.prod(leaf.shape)) <= LARGEST and leaf.size > 0
        sharding = getattr(leaf, "sharding", None) if not isinstance(leaf, Tracer) else None
        if small and sharding is not None:
            devices = frozenset(sharding.device_set)
            placement = placement or devices
            small = sharding.is_fully_replicated and devices == placement
        elif small and isinstance(leaf, Tracer):
            small = known and not is_hidden(leaf) and not _is_split(leaf) and not axes.varying(leaf)
        flags.append(small)
    return flags


class Segments(NamedTuple):
    """The leaves in a flat buffer, in order: their positions among all leaves, and their shapes."""

    indices: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def bounds(self) -> list[int]:
        """The start of each leaf in the buffer, and then the end of the last."""
        return np.cumsum([0, *[int(np.prod(shape)) for shape in self.shapes]]).tolist()

    def check(self, name: str, flat: PyTree) -> None:
        """Raise unless the last axis of a buffer of this name has the size of the leaves."""
        size, shape = sum(map(math.prod, self.shapes)), jnp.shape(flat)
        if shape[-1:] != (size,):
            raise ValueError(
                f"{name} has shape {shape}, but its last axis must have the {size} entries of the leaves joined in it"
            )

    def dtype_of(self, leaves: Sequence[PyTree], names: trees.Names) -> PyTree:
        """Return the dtype that the leaves in this buffer share, out of all; None if they all are None.

        Raises:
            ValueError: they share none; the message has their names.
        """
        dtypes = [None if leaf is None else leaf.dtype for leaf in self.of(leaves)]
        for place, dtype in enumerate(dtypes):
            if dtype != dtypes[0]:
                one, other = (f"{trees.quote(names[self.indices[i]])} ({dtypes[i]})" for i in (0, place))
                raise ValueError(
                    f"the leaves {one} and {other} are joined in one buffer, which has one dtype: give them the same"
                )
        return dtypes[0]

    def of(self, column: Sequence[Any]) -> list[Any]:
        """Return the entries of ``column`` (one per leaf) that belong to these leaves."""
        return [column[index] for index in self.indices]

    def cut(self, flat: jax.Array, step: Numeric | None = None) -> list[PyTree]:
        """Split the buffer back into leaves; a traced ``step`` saves compile time (:meth:`_runtime_starts`).

        Without ``step`` it may have axes in front, which every leaf gets. An abstract buffer gives abstract leaves.
        """
        if trees.is_abstract(flat):
            return self._abstract(flat)
        starts, bounds, front = self._runtime_starts(step), self.bounds, flat.shape[:-1]
        if starts is None:
            return [flat[..., bounds[i] : bounds[i + 1]].reshape((*front, *s)) for i, s in enumerate(self.shapes)]
        return [
            jax.lax.dynamic_slice(flat, (start,), (int(np.prod(shape)),)).reshape(shape)
            for start, shape in zip(starts, self.shapes, strict=True)
        ]

    def _abstract(self, flat: PyTree) -> list[PyTree]:
        """Return the shape and dtype of each leaf, and its placement if that of the buffer is whole."""
        front, sharding = flat.shape[:-1], flat.sharding
        if isinstance(sharding, NamedSharding):
            sharding = sharding.update(spec=PartitionSpec()) if sharding.is_fully_replicated else None
        return [jax.ShapeDtypeStruct((*front, *shape), flat.dtype, sharding=sharding) for shape in self.shapes]

    def _runtime_starts(self, step: Numeric | None) -> Sequence[PyTree] | None:
        """Return the start of each leaf as scalars that XLA does not know, or None if ``step`` is not traced.

        Slices at constant offsets compile to one kernel each, which takes 8 ms. Slices that read their offset compile
        to one kernel per shape. XLA does not look into the branches of a conditional.
        """
        if not isinstance(step, Tracer):
            return None
        constants = tuple(np.int32(start) for start in self.bounds[:-1])
        return jax.lax.cond(step > 0, lambda: constants, lambda: tuple(np.int32(0) for _ in constants))


Pieces = Callable[[Any, Segments], list[Any]]  # splits a buffer into its leaves


class Assembly(NamedTuple):
    """Which leaves of the tree come alone, which in flat buffers, and which are not differentiated."""

    structure: trees.Structure
    alone: tuple[int, ...]
    packs: tuple[Segments, ...]
    others: tuple[int, ...] = ()

    def leaves(self, arrays: list[PyTree], pieces: Pieces, others: Sequence[PyTree] = ()) -> list[PyTree]:
        """Return what belongs to each leaf of ``arrays``, which are the leaves alone and then the buffers.

        ``pieces`` splits what stands for a buffer; None stays None. ``others`` belongs to the leaves of that name.
        """
        leaves: list[PyTree] = [None] * self.structure.treedef.num_leaves
        for index, leaf in [*zip(self.alone, arrays, strict=False), *zip(self.others, others, strict=True)]:
            leaves[index] = leaf
        for segments, flat in zip(self.packs, arrays[len(self.alone) :], strict=True):
            if flat is not None:
                for index, piece in zip(segments.indices, pieces(flat, segments), strict=True):
                    leaves[index] = piece
        return leaves

    def tree(self, arrays: list[PyTree], one: jax.Array, others: Sequence[PyTree] = ()) -> PyTree:
        """Return the tree of ``arrays``; ``one`` is 1, and traced."""
        return self.structure.unflatten(self.leaves(arrays, lambda flat, segments: segments.cut(flat, one), others))

    def columns(self, leaves: list[PyTree]) -> list[PyTree]:
        """Return what belongs to the leaves alone, and then a list for each buffer."""
        return [*[leaves[index] for index in self.alone], *[segments.of(leaves) for segments in self.packs]]


def segments_of(leaves: Sequence[PyTree], small: Sequence[bool]) -> dict[str, Segments]:
    """Group the small leaves by dtype: one flat buffer each."""
    groups: dict[str, list[int]] = {}
    for index, (leaf, packed) in enumerate(zip(leaves, small, strict=True)):
        if packed:
            groups.setdefault(str(jax.dtypes.canonicalize_dtype(leaf.dtype)), []).append(index)
    return {key: Segments(tuple(indices), tuple([leaves[i].shape for i in indices])) for key, indices in groups.items()}


def joined(leaves: Sequence[PyTree], dtype: DTypeLike, front: int = 0) -> jax.Array:
    """Join the leaves into one flat array of a dtype; they share their ``front`` first axes, and keep them.

    The array is abstract if one of the leaves is.
    """
    if any(map(trees.is_abstract, leaves)):
        return jax.eval_shape(lambda leaves: joined(leaves, dtype, front), list(leaves))
    return jnp.concatenate([_flat(jnp.asarray(leaf, dtype), front) for leaf in leaves], -1)


def _flat(leaf: jax.Array, front: int) -> jax.Array:
    leaf = whole(leaf, range(front, leaf.ndim))  # a gradient may be split where its parameter is not
    return leaf.reshape((*leaf.shape[:front], math.prod(leaf.shape[front:])))
