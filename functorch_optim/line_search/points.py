"""Points on a line: what the line searches know of the objective along a direction, and vectors as trees."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import axes
from functorch_optim.base import Frozen

Vector = Any  # a tree of real arrays of one dtype


class Spread(Frozen):
    """A vector whose arrays are shards: ``over`` has the axes over which the sums of each run."""

    parts: Any
    over: tuple[axes.Axes, ...]


jax.tree_util.register_dataclass(Spread, ["parts"], ["over"])


def _over(a: Vector) -> tuple[axes.Axes, ...]:
    return a.over if isinstance(a, Spread) else ((),) * len(jax.tree.leaves(a))


def _total(terms: list[jax.Array], a: Vector) -> jax.Array:
    """The sum of one number for each array of a vector."""
    return axes.total(terms, _over(a), terms[0].dtype)


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
    return _total([jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)], a)


def magnitude(a: Vector) -> jax.Array:
    """The sum of the entries' magnitudes."""
    return _total([jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(a)], a)


def largest(a: Vector) -> jax.Array:
    """The largest magnitude of an entry."""
    each = [jnp.max(jnp.abs(x), initial=0) for x in jax.tree.leaves(a)]
    return functools.reduce(jnp.maximum, map(axes.max_over, each, _over(a)))


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
