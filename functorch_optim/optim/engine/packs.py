"""Small parameters of the torch face as one: parameters and slots in flat buffers while nobody looks at them alone."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from functorch_optim import trees
from functorch_optim.core.packing import cut, joined, runtime_starts
from functorch_optim.optim.transaction import Uninterrupted
from functorch_optim.typing import PyTree

_CUT_LATER: Any = None


class Pack:
    """Parameters that share a history, in flat buffers: ``param``, and the row of slots in ``history``."""

    def __init__(self, indices: Sequence[int], arrays: Sequence[jax.Array], group: int, history: Any) -> None:
        self.indices = list(indices)
        self.shapes = tuple([array.shape for array in arrays])
        self.group = group
        self.history = history
        self.param = join_all(arrays)


class Leaves:
    """The parameters of an optimizer. What is packed is cut into arrays when somebody asks for them."""

    def __init__(self, arrays: Iterable[jax.Array]) -> None:
        self._arrays = list(arrays)
        self._behind: list[Pack] = []  # the packs that were updated since their parameters were cut

    def __len__(self) -> int:
        return len(self._arrays)

    def arrays(self) -> list[jax.Array]:
        """Every parameter as it is now."""
        if self._behind:
            with Uninterrupted(committing=False):  # a handler that reads them, too, waits
                # In this order: another reader's cut, between the lines, puts no gap into the list.
                behind = self._behind
                arrays = list(self._arrays)
                for pack in behind:
                    for index, array in zip(pack.indices, cut_all(pack.param, pack.shapes), strict=True):
                        arrays[index] = array
                self._arrays, self._behind = arrays, []
        return self._arrays

    def kept(self) -> list[PyTree]:
        """What is there of every parameter without cutting: its array, or None."""
        return self._arrays

    def some(self, indices: Iterable[int]) -> list[jax.Array]:
        """Parameters that are not packed; the list is the only one that has them beside this."""
        return [self._arrays[index] for index in indices]

    def put_all(self, arrays: list[jax.Array]) -> None:
        """The new values of all parameters."""
        self._arrays, self._behind = arrays, []

    def put(self, index: int, array: jax.Array) -> None:
        """The new value of a parameter that is not packed."""
        self._arrays[index] = array

    def all_alone(self) -> list[jax.Array]:
        """The list itself, where nothing is packed."""
        return self._arrays

    def fall_behind(self, packs: Sequence[Pack]) -> None:
        """The packs have new values, and the arrays that were cut before are not needed."""
        for pack in packs:
            if pack not in self._behind:
                for index in pack.indices:
                    self._arrays[index] = _CUT_LATER
        self._behind = list(packs)


@functools.lru_cache(maxsize=64)
def _cutter(shapes: tuple[tuple[int, ...], ...]) -> PyTree:
    return jax.jit(lambda flat, one: [cut(x, shapes, runtime_starts(shapes, one)) for x in flat])


def cut_all(flat: object, shapes: tuple[tuple[int, ...], ...]) -> list[PyTree]:
    """The arrays of which ``flat`` was joined, or trees of them."""
    buffers, treedef = jax.tree.flatten(flat)
    with jax.ensure_compile_time_eval():  # what is read inside a traced function is kept outside of it
        columns = _cutter(shapes)(buffers, np.int32(1))
    return [treedef.unflatten(row) for row in zip(*columns, strict=True)]


@jax.jit
def _joined(columns: list[list[jax.Array]]) -> list[jax.Array]:
    return [joined(column, column[0].dtype) for column in columns]


def joined_grads(grads: Sequence[PyTree], param: PyTree) -> jax.Array:
    """The gradients of a pack as one, in a dtype that holds them all."""
    dtypes = {grad.dtype for grad in grads}
    return joined(grads, dtypes.pop() if len(dtypes) == 1 else trees.compute_dtype(*grads, param))


def join_all(nodes: Sequence[object]) -> PyTree:
    """Trees of arrays of one structure as one tree of flat buffers."""
    columns = [list(column) for column in zip(*map(jax.tree.leaves, nodes), strict=True)]
    return jax.tree.unflatten(jax.tree.structure(nodes[0]), _joined(columns))
