"""Norms of gradients and parameters: of a whole tree, and of each leaf.

A norm is the root of a sum of squares, and is infinite if that overflows: in float32 from 1.8e19. To scale the arrays
down first would take a second pass over them, and a step in which the updates are not fused.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from functorch_optim import axes, trees
from functorch_optim.core.numerics import sqrt
from functorch_optim.typing import Numeric, PyTree


def global_norm(tree: PyTree, axis_name: PyTree = None) -> jax.Array:
    """Compute the Euclidean norm of all leaves together, summed in float32 or wider; None leaves are ignored.

    It is infinite if the sum of squares overflows, in float32 from a norm of 1.8e19.

    Args:
        tree: a pytree of dense arrays.
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes; see :mod:`functorch_optim.axes`.

    Raises:
        ValueError: inside ``shard_map`` without ``axis_name``, a leaf varies or may vary over the mesh.

    Example:
        >>> global_norm({"a": jnp.array([3.0]), "b": jnp.array([4.0]), "c": None}).item()
        5.0
    """
    return norm_of(tree, axes.as_axes(axis_name, "global_norm"), "global_norm")


def norm_of(tree: PyTree, axis_name: axes.Labels | None, who: str) -> jax.Array:
    """Compute :func:`global_norm` with a stored ``axis_name``; errors name ``who``."""
    squares = _squares_of(tree, who)
    return sqrt(axes.total(squares, axes.over(axis_name, tree, who), trees.compute_dtype(*squares)))


def bounded(size: jax.Array) -> jax.Array:
    """Limit a size to the largest finite number, so that no product or ratio of sizes is NaN; NaN stays."""
    return jnp.minimum(size, jnp.finfo(size.dtype).max)


def trust_ratio(size: jax.Array, of: jax.Array, coefficient: Numeric = 1) -> jax.Array:
    """Return ``coefficient * size / of`` of two norms, as LARS and LAMB have it: 1 where one of them is 0 or NaN."""
    both = (size > 0) & (of > 0)
    return jnp.where(both, coefficient * size / jnp.where(both, of, 1), 1)


def norm_dtype(params: PyTree) -> DTypeLike:
    """Find the dtype of gradient norms for these parameters."""
    arrays = [leaf for leaf in jax.tree.leaves(params) if hasattr(leaf, "dtype")]
    floating = [array for array in arrays if jnp.issubdtype(array.dtype, jnp.inexact)]
    return jnp.finfo(trees.compute_dtype(*floating)).dtype


def norms_of_groups(
    tree: PyTree, groups: Sequence[Callable[[str], bool]], axis_name: axes.Labels | None, who: str
) -> list[jax.Array]:
    """Compute the norm of all leaves, then one norm per group: over the leaves whose dotted names it selects."""
    squares, over = _squares_of(tree, who), axes.over(axis_name, tree, who)
    names, leaves, _ = trees.named_leaves(tree, none_is_leaf=True)
    present = [name for name, leaf in zip(names, leaves, strict=True) if not trees.is_absent(leaf)]
    dtype = trees.compute_dtype(*squares)
    totals = axes.totals(squares, over, dtype) if groups else []
    sums = [[x for name, x in zip(present, totals, strict=True) if holds(name)] for holds in groups]
    parts = [sqrt(sum(own, jnp.zeros((), dtype))) for own in sums]
    return [sqrt(axes.total(squares, over, dtype)), *parts]


def leaf_norms(tree: PyTree, axis_name: axes.Labels | None, who: str) -> PyTree:
    """Compute the norm of each leaf, as a tree of scalars; None where there is no gradient."""
    return _by_leaf(tree, axis_name, who, lambda square, size: sqrt(square))


def leaf_rms(tree: PyTree, axis_name: axes.Labels | None, who: str) -> PyTree:
    """Compute the root mean square of each leaf, as a tree of scalars: None without a gradient, 0 if empty."""
    return _by_leaf(tree, axis_name, who, lambda square, size: sqrt(square / max(size, 1)))


def _by_leaf(
    tree: PyTree, axis_name: axes.Labels | None, who: str, measure: Callable[[jax.Array, int], jax.Array]
) -> PyTree:
    squares, over = _squares_of(tree, who), axes.over(axis_name, tree, who)
    totals = iter(zip(axes.totals(squares, over, trees.compute_dtype(*squares)), squares, over, strict=True))

    def one(leaf: jax.Array) -> jax.Array:
        total, square, own = next(totals)
        return measure(total.astype(square.dtype), leaf.size * axes.shards(own))

    leaves, treedef = jax.tree.flatten(tree, is_leaf=trees.is_leaf)
    return treedef.unflatten([None if trees.is_absent(leaf) else one(leaf) for leaf in leaves])


def _squares_of(tree: PyTree, who: str) -> list[PyTree]:
    """Sum the squares of each leaf that is present."""
    squares: list[PyTree] = []
    trees.map_dense(lambda leaf: squares.append(sum_of_squares(leaf)), who, tree)
    return squares


def sum_of_squares(leaf: jax.Array) -> jax.Array:
    """Sum the squared magnitudes of an array, in float32 or wider."""
    return jnp.sum(squares(leaf.astype(trees.compute_dtype(leaf))))


def squares(array: jax.Array) -> jax.Array:
    """Compute the squared magnitudes of an array."""
    return jnp.real(array) ** 2 + jnp.imag(array) ** 2 if jnp.iscomplexobj(array) else array**2


def any_entry(
    test: Callable[[jax.Array], jax.Array], tree: PyTree, axis_name: axes.Labels | None, who: str
) -> jax.Array:
    """Whether ``test`` holds for an entry of a tree of dense arrays, on any device."""
    found: list[jax.Array] = []
    trees.map_dense(lambda leaf: found.append(jnp.any(test(leaf))), who, tree)
    return axes.total(found, axes.over(axis_name, tree, who, once=False), jnp.int32) > 0
