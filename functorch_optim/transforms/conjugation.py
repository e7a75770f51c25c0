"""Complex conjugation, to convert between JAX's gradients and torch's."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from functorch_optim import rows, trees
from functorch_optim.base import EmptyState, GradientTransformation, Transform, transformation
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
        return trees.map_arrays(conjugate_leaf, updates, "conjugate: the gradient"), state

    def norm_after(self, state: EmptyState, norm: jax.Array) -> jax.Array:
        del state
        return norm


def conjugate() -> GradientTransformation:
    """Conjugate complex updates; real ones pass unchanged.

    ``jax.grad`` of a real function of a complex parameter returns the conjugate of the direction of steepest ascent,
    along which torch, optax and this library descend: make this the first link of a chain that gets such gradients.

    Example:
        >>> tx = conjugate()
        >>> tx.update(jnp.array([1.0 + 2.0j]), tx.init(None))[0].tolist()
        [(1-2j)]
    """
    return transformation(Conjugate())
