"""Complex conjugation, to convert between JAX's gradients and torch's."""

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from functorch_optim import rows, trees
from functorch_optim.base import EmptyState, GradientTransformation, Transform, transformation
from functorch_optim.effects import Effect, Effects, Kind, Leaves, for_each
from functorch_optim.typing import PyTree


def conjugate_leaf(leaf: PyTree) -> PyTree:
    """The complex conjugate of an array, which may be row-sparse; a real array unchanged."""
    return rows.map_values(jnp.conj, leaf) if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else leaf


class Conjugate(Transform):
    entrywise: ClassVar[bool] = True

    def update(
        self, updates: PyTree, state: EmptyState, params: PyTree = None, **extra: object
    ) -> tuple[PyTree, EmptyState]:
        del params, extra
        return _conjugate_all(updates), state

    def conversion(self) -> Callable[[PyTree], PyTree]:
        return _conjugate_all

    def norm_after(self, state: EmptyState, norm: jax.Array) -> jax.Array:
        del state
        return norm

    def effects(self, at: Leaves | None) -> list[Effects]:
        if at is None:  # whether a parameter is complex is not known yet
            return for_each(at, ())
        _, leaves, _ = trees.named_leaves(at.tree, none_is_leaf=True)
        own = Effect(Kind.CONJUGATES, self._call_name())
        return [(own,) if jnp.iscomplexobj(leaf) else () for leaf in leaves]


def _conjugate_all(grads: PyTree) -> PyTree:
    return trees.map_arrays(conjugate_leaf, grads, "conjugate: the gradient")


def conjugate() -> GradientTransformation:
    """Conjugate complex updates; real ones pass unchanged.

    ``jax.grad`` of a real function of a complex parameter returns the conjugate of the direction of steepest ascent,
    along which torch, optax and this library descend: make this the first link of a chain that gets such gradients.
    The links after it get conjugates from ``grad_fn`` too, so put :func:`functorch_optim.sam` after it, not around it.

    Example:
        >>> tx = conjugate()
        >>> tx.update(jnp.array([1.0 + 2.0j]), tx.init(None))[0].tolist()
        [(1-2j)]
    """
    return transformation(Conjugate())
