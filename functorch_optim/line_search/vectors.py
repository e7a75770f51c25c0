"""Vectors: points, steps and gradients in the quasi-Newton algorithms."""

import functools
from typing import Any, Self

import jax
import jax.numpy as jnp

from functorch_optim import axes
from functorch_optim.base import Frozen
from functorch_optim.typing import Numeric, PyTree


class Vector(Frozen):
    """Real arrays of one dtype that form one long vector.

    If they are shards, ``over`` has the axes over which to sum each; if all are whole, it is empty.

    Example:
        >>> x = Vector((jnp.array([3.0, -4.0]), jnp.array(1.0)))
        >>> float(x.dot(x)), float(x.largest()), float((x - 2 * x).magnitude())
        (26.0, 4.0, 8.0)
    """

    parts: tuple[jax.Array, ...]
    over: tuple[axes.Axes, ...] = ()

    def __add__(self, other: Self) -> Self:
        return jax.tree.map(jnp.add, self, other)

    def __sub__(self, other: Self) -> Self:
        return jax.tree.map(jnp.subtract, self, other)

    def __neg__(self) -> Self:
        return jax.tree.map(jnp.negative, self)

    def __rmul__(self, factor: Numeric) -> Self:
        return jax.tree.map(lambda x: factor * x, self)

    def dot(self, other: Self) -> jax.Array:
        """The inner product."""
        return self._total([jnp.sum(x * y) for x, y in zip(self.parts, other.parts, strict=True)])

    def magnitude(self) -> jax.Array:
        """The sum of the entries' magnitudes."""
        return self._total([jnp.sum(jnp.abs(x)) for x in self.parts])

    def largest(self) -> jax.Array:
        """The largest magnitude of an entry."""
        each = [jnp.max(jnp.abs(x), initial=0) for x in self.parts]
        return functools.reduce(jnp.maximum, map(axes.max_over, each, self._over()))

    def _over(self) -> tuple[axes.Axes, ...]:
        return self.over or ((),) * len(self.parts)

    def _total(self, terms: list[jax.Array]) -> jax.Array:
        """The sum of one number for each array."""
        return axes.total(terms, self._over(), terms[0].dtype)


jax.tree_util.register_dataclass(Vector, ["parts"], ["over"])


def select(condition: Numeric, a: Any, b: Any) -> PyTree:
    """``a`` if ``condition`` holds, else ``b``, for trees of the same structure."""
    return jax.tree.map(lambda x, y: x if x is y else jnp.where(condition, x, y), a, b)
