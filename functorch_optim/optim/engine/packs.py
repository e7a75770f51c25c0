"""Small parameters of the torch face in flat buffers, until someone asks for a single one."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from functorch_optim import trees
from functorch_optim.core.packing import Segments, joined
from functorch_optim.optim.transaction import Uninterrupted
from functorch_optim.typing import PyTree

_CUT_LATER: Any = None


class Pack:
    """Parameters that share a history, in flat buffers: ``param``, and the row of slots in ``history``."""

    def __init__(self, indices: Sequence[int], arrays: Sequence[jax.Array], group: int, history: Any) -> None:
        self.segments = Segments(tuple(indices), tuple([array.shape for array in arrays]))
        self.group = group
        self.history = history
        self.param = join_all(arrays)

    @property
    def indices(self) -> list[int]:
        """The positions of its parameters among all of the optimizer's."""
        return list(self.segments.indices)


class Leaves:
    """The parameters of an optimizer; packed ones are split into arrays when someone asks for them.

    ``loose`` has every parameter's array, or None if a pack has a newer value.
    """

    def __init__(self, arrays: Iterable[jax.Array]) -> None:
        self.loose = list(arrays)
        self._behind: list[Pack] = []  # the packs that were updated since they were split

    def __len__(self) -> int:
        return len(self.loose)

    def arrays(self) -> list[jax.Array]:
        """Return every parameter's current array."""
        if self._behind:
            with Uninterrupted(committing=False):  # a signal handler that reads them too must wait
                # In this order, the list gets no gap if another reader splits the packs in between.
                behind = self._behind
                arrays = list(self.loose)
                for pack in behind:
                    for index, array in zip(pack.indices, cut_all(pack.param, pack.segments), strict=True):
                        arrays[index] = array
                self.loose, self._behind = arrays, []
        return self.loose

    def updated(self, packs: Sequence[Pack]) -> None:
        """Drop the arrays that were split from these packs, which have new values."""
        for pack in packs:
            if pack not in self._behind:
                for index in pack.segments.indices:
                    self.loose[index] = _CUT_LATER
        self._behind = list(packs)


@functools.lru_cache(maxsize=64)
def _cutter(segments: Segments) -> PyTree:
    return jax.jit(lambda buffers, step: [segments.cut(flat, step) for flat in buffers])


def cut_all(flat: object, segments: Segments) -> list[PyTree]:
    """Split a tree of flat buffers back into one tree per leaf."""
    buffers, treedef = jax.tree.flatten(flat)
    with (
        Uninterrupted(committing=False),
        jax.ensure_compile_time_eval(),
    ):  # arrays that are read inside a traced function outlive it
        columns = _cutter(segments)(buffers, np.int32(1))
    return [treedef.unflatten(row) for row in zip(*columns, strict=True)]


@jax.jit
def _joined(columns: list[list[jax.Array]]) -> list[jax.Array]:
    return [joined(column, column[0].dtype) for column in columns]


def joined_grads(grads: Sequence[PyTree], param: PyTree) -> jax.Array:
    """Join the gradients of a pack, in a dtype that holds them all."""
    dtypes = {grad.dtype for grad in grads}
    return joined(grads, dtypes.pop() if len(dtypes) == 1 else trees.compute_dtype(*grads, param))


def join_all(nodes: Sequence[object]) -> PyTree:
    """Join trees of one structure into one tree of flat buffers."""
    columns = [list(column) for column in zip(*map(jax.tree.leaves, nodes), strict=True)]
    return jax.tree.unflatten(jax.tree.structure(nodes[0]), _joined(columns))
