"""Gradients in the form in which the parameters are stored, with flat buffers for packs."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from functorch_optim.core.packing import Assembly
from functorch_optim.optim.engine.packs import cut_all, joined_grads
from functorch_optim.typing import PyTree

ONE = np.int32(1)


class Shared:
    """A key that stands for an equal value: quick to compare and to hash."""

    def __init__(self, value: Any) -> None:
        self.value = value


@functools.lru_cache(maxsize=256)
def shared(value: Any) -> Shared:
    """Return the one key that stands for this value."""
    return Shared(value)


@jax.tree_util.register_pytree_node_class
class PackedGrads:
    """Gradients in an :class:`Assembly`'s form: ``arrays`` has those of the leaves alone, and then flat buffers.

    They are split into one array per leaf when someone asks for that.
    """

    def __init__(self, assembly: Assembly, arrays: list[PyTree]) -> None:
        self.assembly = assembly
        self.arrays = arrays
        self._leaves: list[PyTree] | None = None

    def tree_flatten(self) -> tuple[list[PyTree], Assembly]:
        return self.arrays, self.assembly

    @classmethod
    def tree_unflatten(cls, assembly: Assembly, arrays: list[PyTree]) -> "PackedGrads":
        return cls(assembly, list(arrays))

    def marks(self) -> list[PyTree]:
        """Return an array for each leaf that has a gradient, not always its own."""
        return self.assembly.leaves(self.arrays, lambda flat, segments: [flat] * len(segments.indices))

    def leaves(self) -> list[PyTree]:
        """Return the gradient of each leaf."""
        if self._leaves is None:
            self._leaves = self.assembly.leaves(self.arrays, cut_all)
        return self._leaves


Grads = list[PyTree] | PackedGrads


def leaves_of(grads: Grads | None) -> list[PyTree]:
    """Return the gradient of each leaf; no entries if there are none."""
    return grads.leaves() if isinstance(grads, PackedGrads) else grads or []


def differentiated_packed(assembly: Assembly, has_aux: bool, loss: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Return ``(arrays, one, *args) -> (what the loss returns, gradients in the form of arrays)``."""
    whole = jax.value_and_grad(loss, has_aux=has_aux)

    def value_and_grad(arrays: list[PyTree], one: jax.Array, *args: PyTree) -> PyTree:
        found, grads = whole(assembly.tree(arrays, one), *args)
        columns = zip(assembly.columns(jax.tree.leaves(grads)), arrays, strict=True)
        return found, [joined_grads(each, flat) if isinstance(each, list) else each for each, flat in columns]

    return value_and_grad
