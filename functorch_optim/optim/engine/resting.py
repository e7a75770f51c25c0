"""Frozen groups: their transformation changes neither parameters nor state."""

import jax

from functorch_optim import trees
from functorch_optim.base import GradientTransformation, transformation
from functorch_optim.combinators import Wrapper, current_hyperparams
from functorch_optim.transforms.freezing import zero_update
from functorch_optim.typing import PyTree


class Resting(Wrapper):
    """Stand for ``inner`` while it is frozen: the updates change nothing, and the state stays, counts included."""

    def init(self, params: PyTree) -> PyTree:
        return self.inner.init(params)

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        del params, extra
        return jax.tree.map(zero_update, updates, is_leaf=trees.is_sparse), state

    def hyperparams(self, state: PyTree) -> dict[str, PyTree]:
        return current_hyperparams(self.inner, state)


def resting(tx: GradientTransformation) -> GradientTransformation:
    """Return the transformation of a group while it is frozen."""
    return transformation(Resting(tx))
