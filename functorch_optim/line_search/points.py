"""Points on a line: what the line searches know of the objective along a direction, and vectors as trees."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Vector = Any  # a tree of real arrays of one dtype


class Point(NamedTuple):
    """The objective at ``x + t * d``: its value, gradient and slope along d. A non-finite one has the value inf."""

    t: jax.Array
    value: jax.Array
    slope: jax.Array
    grad: Vector


class Search(NamedTuple):
    """What a line search found: the point to go to, and how often it evaluated the objective."""

    point: Point
    evaluations: jax.Array


Objective = Callable[[Vector], tuple[jax.Array, Vector]]
Line = Callable[[jax.Array], Point]


def dot(a: Vector, b: Vector) -> jax.Array:
    """The inner product."""
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)
    return jax.tree.reduce(jnp.add, products)


def largest(a: Vector) -> jax.Array:
    """The largest magnitude of an entry."""
    return jax.tree.reduce(jnp.maximum, jax.tree.map(lambda x: jnp.max(jnp.abs(x), initial=0), a))


def axpy(t: Any, d: Vector, x: Vector) -> Vector:
    """``x + t * d``."""
    return jax.tree.map(lambda d, x: x + t * d, d, x)


def select(condition: Any, a: Any, b: Any) -> Any:
    """``a`` where ``condition``, else ``b``: trees alike."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def along(objective: Objective, x: Vector, d: Vector) -> Line:
    """The objective on the line from ``x`` in the direction ``d``."""

    def line(t: jax.Array) -> Point:
        value, grad = objective(axpy(t, d, x))
        slope = dot(grad, d)
        sound = jnp.isfinite(value) & jnp.isfinite(slope)
        return Point(t, jnp.where(sound, value, jnp.inf), jnp.where(sound, slope, 0), grad)

    return line
