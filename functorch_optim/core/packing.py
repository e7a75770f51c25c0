"""Many small leaves as one: their state in flat buffers, updated together.

Handing a buffer into and out of a compiled step costs more than the arithmetic of a leaf of a few thousand entries. So
the slots of small leaves stand in one flat buffer a dtype; their gradients are joined and updated in one go, and what
is to be added to the parameters is cut into leaves again.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike

from functorch_optim import axes, rows, trees
from functorch_optim.base import exportable
from functorch_optim.core.lifted import Lifted
from functorch_optim.core.scalars import StepScalars
from functorch_optim.typing import Numeric, PyTree

LARGEST = 8192  # entries of a leaf that is packed: beyond, joining and cutting cost more than the buffers do


@exportable
class ForeachState(NamedTuple):
    """The state of a transformation made with ``foreach=True``.

    ``leaves`` is the state that there would be without, with None in the place of what is packed; ``packed`` has the
    same slots, each a dict of flat buffers by dtype, in the order of the leaves.
    """

    leaves: PyTree
    packed: PyTree

    def unpack(self, params: PyTree) -> PyTree:
        """The state that the same transformation has without ``foreach``.

        Args:
            params: the parameters, or their shapes and dtypes.

        Example:
            >>> import functorch_optim as fo
            >>> params = {"a": jnp.ones(2), "b": jnp.ones((2, 2))}
            >>> state = fo.adam(foreach=True).init(params)
            >>> state.packed.exp_avg["float32"].shape, state.unpack(params).exp_avg["b"].shape
            ((6,), (2, 2))
        """
        _, models, treedef = trees.named_leaves(params)
        unpacked = {}
        for slot, flat in self.packed._asdict().items():
            if flat is None:
                continue
            held = treedef.flatten_up_to(getattr(self.leaves, slot))
            for key, indices in groups_of(models, [leaf is None for leaf in held]).items():
                pieces = cut(flat[key], [models[i].shape for i in indices])
                for index, piece in zip(indices, pieces, strict=True):
                    held[index] = piece
            unpacked[slot] = treedef.unflatten(held)
        return self.leaves._replace(**unpacked)


class Packed(Lifted):
    """A rule over a pytree whose small leaves are packed."""

    def __repr__(self) -> str:
        return self._repr(", foreach=True")

    def init(self, params: PyTree) -> ForeachState:
        return self.pack(super().init(params), params)

    def pack(self, state: PyTree, params: PyTree) -> ForeachState:
        """The packed state of what the same transformation has without ``foreach``."""
        _, leaves, treedef = trees.named_leaves(params)
        small = packable(leaves) if self.slot_names else [False] * len(leaves)
        packed, kept = {}, {}
        for slot in self.slot_names:
            held = trees.align(params, getattr(state, slot), f"slots {slot}")
            packed[slot] = {
                key: joined([held[i] for i in indices], held[indices[0]].dtype)
                for key, indices in groups_of(leaves, small).items()
            }
            kept[slot] = treedef.unflatten([None if gone else leaf for gone, leaf in zip(small, held, strict=True)])
        return ForeachState(state._replace(**kept), self.rule.empty()._replace(**packed))

    def hyperparams(self, state: PyTree) -> dict[str, PyTree]:
        return super().hyperparams(state.leaves)

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        del extra
        if params is None:
            raise ValueError(f"{self.rule.title} with foreach=True needs the parameters: update(grads, state, params)")
        scalars, leaves = self.advanced(state.leaves)
        given = self.aligned(scalars, updates, leaves, params)
        updates_of = self.leaf_updates(scalars, given.decays)
        small = [bool(self.slot_names) and all(slot is None for slot in row) for row in given.slots]
        groups = groups_of(given.params, small)
        self._check_dtypes(groups, state.packed)
        deltas, new_slots = [None] * len(small), list(given.slots)
        for index, (grad, param, row) in enumerate(zip(given.grads, given.params, given.slots, strict=True)):
            if not small[index]:
                deltas[index], new_slots[index] = updates_of[given.decays[index]](grad, param, row)
        packed = {slot: {} for slot in self.slot_names}
        for key, indices in groups.items():
            row = self.rule.empty()._replace(**{slot: getattr(state.packed, slot)[key] for slot in self.slot_names})
            own = [(given.grads[i], given.params[i], given.decays[i]) for i in indices]
            parts, row = self._update_group(own, row, scalars, leaves.step)
            for index, part in zip(indices, parts, strict=True):
                deltas[index] = part
            for slot in self.slot_names:
                packed[slot][key] = getattr(row, slot)
        carried = {name: getattr(leaves, name) for name in self.rule.carried}
        new = self.state_of(given.treedef, new_slots, leaves.step, carried)
        return given.treedef.unflatten(deltas), ForeachState(new, self.rule.empty()._replace(**packed))

    def _check_dtypes(self, groups: dict[str, list[int]], packed: PyTree) -> None:
        """Raise unless the buffers are those of parameters of these dtypes."""
        held = {key for slot in self.slot_names for key in getattr(packed, slot)}
        if groups.keys() != held:
            raise ValueError(
                f"the packed state is of parameters of {', '.join(sorted(held))}, but these are of "
                f"{', '.join(sorted(groups))}: unpack it, cast it, and pack it anew"
            )

    def _update_group(
        self, own: PyTree, row: PyTree, scalars: StepScalars, step: Numeric
    ) -> tuple[list[PyTree], PyTree]:
        """The updates of the leaves of one flat buffer, and its next slots."""
        decays = [decay for _, _, decay in own]
        updates, shapes = self.leaf_updates(scalars, decays), [param.shape for _, param, _ in own]
        dense = [grad if grad is not None and not rows.is_rows(grad) else None for grad, _, _ in own]
        dtype = trees.compute_dtype(*dense, *[param for _, param, _ in own])
        flat = joined([jnp.zeros(s, dtype) if g is None else g for g, s in zip(dense, shapes, strict=True)], dtype)
        needed = scalars.needs_params or self.rule.needs_params
        whole = joined([param for _, param, _ in own], own[0][1].dtype) if needed else None
        if len(updates) == 1:
            update_flat = updates[decays[0]]
        else:
            update_flat = self.leaf_update(scalars, np.repeat(decays, [param.size for _, param, _ in own]))
        delta, new = update_flat(flat, whole, row)
        parts = cut(delta, shapes, runtime_starts(shapes, step))
        bounds = bounds_of(shapes)
        for index, (grad, param, decay) in enumerate(own):
            if dense[index] is not None:
                continue
            begin, end = bounds[index], bounds[index + 1]  # a leaf that is updated alone, or not at all
            before = jax.tree.map(lambda slot, b=begin, e=end, s=param.shape: slot[b:e].reshape(s), row)
            parts[index], after = updates[decay](grad, param, before)
            new = jax.tree.map(
                lambda slot, part, b=begin: jax.lax.dynamic_update_slice(slot, part.reshape(-1), (b,)), new, after
            )
        return parts, new


def packable(leaves: Sequence[PyTree]) -> list[bool]:
    """Which leaves are small, and whole on every device that has them, the same for all."""
    found, placement = [], None
    for leaf in leaves:
        small = int(np.prod(leaf.shape)) <= LARGEST and leaf.size > 0
        sharding = getattr(leaf, "sharding", None) if not isinstance(leaf, Tracer) else None
        if small and sharding is not None:
            whole = sharding.is_fully_replicated
            devices = frozenset(sharding.device_set)
            placement = placement or devices
            small = whole and devices == placement
        elif small and isinstance(leaf, Tracer):
            small = not any(jax.typeof(leaf).sharding.spec) and not axes.varying(leaf)
        found.append(small)
    return found


def groups_of(leaves: Sequence[PyTree], small: Sequence[bool]) -> dict[str, list[int]]:
    """The numbers of the small leaves by dtype."""
    groups: dict[str, list[int]] = {}
    for index, (leaf, packed) in enumerate(zip(leaves, small, strict=True)):
        if packed:
            groups.setdefault(str(jax.dtypes.canonicalize_dtype(leaf.dtype)), []).append(index)
    return groups


def joined(leaves: Sequence[PyTree], dtype: DTypeLike) -> jax.Array:
    """The leaves as one flat array of a dtype."""
    return jnp.concatenate([jnp.asarray(leaf, dtype).reshape(-1) for leaf in leaves])


def cut(flat: jax.Array, shapes: Sequence[tuple[int, ...]], starts: Sequence[PyTree] | None = None) -> list[PyTree]:
    """The leaves that were joined."""
    bounds = bounds_of(shapes)
    if starts is None:
        return [flat[bounds[i] : bounds[i + 1]].reshape(shape) for i, shape in enumerate(shapes)]
    return [
        jax.lax.dynamic_slice(flat, (start,), (int(np.prod(shape)),)).reshape(shape)
        for start, shape in zip(starts, shapes, strict=True)
    ]


def bounds_of(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """Where each leaf starts in a flat buffer, and where the last ends."""
    return np.cumsum([0, *[int(np.prod(shape)) for shape in shapes]]).tolist()


def runtime_starts(shapes: Sequence[tuple[int, ...]], step: Numeric) -> Sequence[PyTree] | None:
    """Where each leaf starts, as scalars that the compiler does not know.

    Cuts at known places are so many different kernels, of 8 ms of compile time each; cuts that read their place are
    one kernel for each shape. The branches of a conditional are not looked into.
    """
    if not isinstance(step, Tracer):
        return None
    known = tuple(np.int32(start) for start in bounds_of(shapes)[:-1])
    return jax.lax.cond(step > 0, lambda: known, lambda: tuple(np.int32(0) for _ in known))
