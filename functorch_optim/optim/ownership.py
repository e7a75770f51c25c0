"""Arrays that the optimizer may overwrite: its own, unless somebody else holds them too."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from functorch_optim.placement import divides, sharding_of
from functorch_optim.typing import PyTree


def own(array: PyTree) -> jax.Array:
    """A copy in a buffer that nobody else has, not weakly typed, with the array's sharding."""
    array = array if hasattr(array, "dtype") else np.asarray(array)
    return jnp.array(array, dtype=jax.dtypes.canonicalize_dtype(array.dtype), copy=True)


def own_beside(array: PyTree, model: PyTree) -> jax.Array:
    """A copy as :func:`own` makes it, which stands where ``model`` stands unless the array is committed elsewhere."""
    copied = own(array)
    if isinstance(copied, Tracer) or isinstance(model, Tracer) or not model.committed:
        return copied
    if getattr(array, "committed", False):
        return copied
    sharding = model.sharding if divides(model.sharding, copied.shape) else sharding_of(model, copied.shape)
    return copied if sharding is None else jax.device_put(copied, sharding)


def _references(tree: PyTree) -> list[int]:
    """How many references each leaf has, counted in one and the same way at import and later."""
    leaves = jax.tree.leaves(tree)
    return [sys.getrefcount(leaf) for leaf in leaves]


# What the counter itself contributes, and the container: it differs between versions of Python.
_ALONE = _references([(object(),)])[0]


def exclusive(tree: PyTree, holders: int = 1) -> PyTree:
    """``tree`` with a copy in the place of every array that somebody besides ``holders`` containers refers to.

    An array that a user keeps, from ``params`` or ``state_dict`` say, is thereby left alone when the tree is donated.
    """
    counts = _references(tree)
    alone = _ALONE + holders - 1
    if max(counts, default=0) <= alone:
        return tree
    count = iter(counts)
    return jax.tree.map(lambda leaf: own(leaf) if next(count) > alone else leaf, tree)
