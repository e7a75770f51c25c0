"""Row-sparse gradients: a ``BCOO`` with one sparse dimension, which touches only the rows that it names."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO
from jax.sharding import PartitionSpec

from functorch_optim.typing import PyTree


def is_rows(leaf: PyTree) -> bool:
    """Whether a leaf of a gradient tree, already checked, is row-sparse."""
    return isinstance(leaf, BCOO)


def signature(leaf: PyTree) -> PyTree:
    """Return what the checks of a gradient depend on; equal to nothing else if that is unknown."""
    if is_rows(leaf):
        return leaf.shape, leaf.dtype, leaf.n_sparse, leaf.n_batch
    return leaf if leaf is None else getattr(leaf, "aval", object())


def indices_of(array: BCOO) -> jax.Array:
    """Return the row index of each entry; negative ones become out of range too."""
    indices = array.indices[:, 0]
    return jnp.where(indices < 0, array.shape[0], indices)


def make(
    data: jax.Array, indices: jax.Array, shape: tuple[int, ...], unique: bool = False, ordered: bool = False
) -> BCOO:
    """Create a row-sparse array with ``data[k]`` in row ``indices[k]``; rows out of range are padding.

    Example:
        >>> make(jnp.ones((2, 3)), jnp.array([0, 4]), (5, 3)).todense().sum(axis=1).tolist()
        [3.0, 0.0, 0.0, 0.0, 3.0]
    """
    return BCOO((data, indices[:, None]), shape=shape, unique_indices=unique, indices_sorted=ordered)


def map_values(function: Callable[[jax.Array], jax.Array], leaf: PyTree) -> PyTree:
    """Apply a linear elementwise function to a leaf, which may be row-sparse."""
    if not is_rows(leaf):
        return function(leaf)
    return BCOO(
        (function(leaf.data), leaf.indices),
        shape=leaf.shape,
        unique_indices=leaf.unique_indices,
        indices_sorted=leaf.indices_sorted,
    )


def summed(array: BCOO) -> BCOO:
    """Name every row once: sum duplicates, and turn the entries that this frees into padding.

    Example:
        >>> twice = make(jnp.array([[1.0], [2.0]]), jnp.array([3, 3]), (5, 1))
        >>> indices_of(summed(twice)).tolist(), summed(twice).data.tolist()
        ([3, 5], [[3.0], [0.0]])
    """
    if array.unique_indices or not array.nse:
        return array
    count = jnp.arange(array.nse, dtype=jnp.int32)
    ordered, order = jax.lax.sort((indices_of(array), count), num_keys=1)
    new = jnp.concatenate([jnp.zeros((1,), jnp.int32), (ordered[1:] != ordered[:-1]).astype(jnp.int32)])
    place = jnp.cumsum(new)  # of each named row, in row order
    data = jnp.zeros_like(array.data).at[jnp.zeros_like(place).at[order].set(place)].add(array.data)
    unused = jnp.full_like(ordered, array.shape[0])
    return make(data, unused.at[place].set(ordered), array.shape, unique=True, ordered=True)


def entries(array: BCOO) -> jax.Array:
    """Return the entries of the rows that are there, each row once: zeros for padding."""
    once = summed(array)
    inside = indices_of(once) < array.shape[0]
    return jnp.where(inside.reshape(-1, *[1] * (once.data.ndim - 1)), once.data, 0)


def take(array: jax.Array, indices: jax.Array) -> jax.Array:
    """Take rows of a dense array, with zeros for padding."""
    sharding = jax.typeof(array).sharding
    if not any(sharding.spec[:1]):
        return array.at[indices].get(mode="fill", fill_value=0)
    whole = sharding.update(spec=PartitionSpec(None, *sharding.spec[1:]))  # the rows are split over devices
    return array.at[indices].get(mode="fill", fill_value=0, out_sharding=whole)


def look_up(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Return ``table[ids]`` of a table that may be sharded; the result is sharded as the ids are."""
    sharding = jax.typeof(table).sharding
    if not any(sharding.spec):
        return table[ids]
    of_ids = [*jax.typeof(ids).sharding.spec, *[None] * ids.ndim][: ids.ndim]
    taken = {axis for part in of_ids for axis in _axes(part)}
    of_row = [None if taken & _axes(part) else part for part in sharding.spec[1:]]
    return table.at[ids].get(out_sharding=sharding.update(spec=PartitionSpec(*of_ids, *of_row)))


def _axes(part: PyTree) -> set[str]:
    """Return the axes in one entry of a spec."""
    return set() if part is None else {part} if isinstance(part, str) else set(part)


def put(array: jax.Array, indices: jax.Array, values: jax.Array) -> jax.Array:
    """Set rows of a dense array, each named once; drop padding."""
    sharding = jax.typeof(array).sharding
    return array.at[indices].set(values, mode="drop", out_sharding=sharding if any(sharding.spec[:1]) else None)


def dense(array: BCOO) -> jax.Array:
    """Return the dense array; the rows may be split over devices by columns."""
    sharding = jax.typeof(array.data).sharding
    if not any(sharding.spec):
        return array.todense()
    whole = sharding.update(spec=PartitionSpec(None, *sharding.spec[1:]))
    empty = jax.sharding.reshard(jnp.zeros(array.shape, array.dtype), whole)
    data = jax.sharding.reshard(array.data, whole)
    return empty.at[indices_of(array)].add(data, mode="drop", out_sharding=whole)


def added(param: jax.Array, update: BCOO, add_update: Callable[[PyTree, PyTree], PyTree]) -> jax.Array:
    """Add a row-sparse array to a dense one; ``add_update`` adds dense ones of different dtypes."""
    sharding = jax.typeof(param).sharding
    if param.dtype == update.dtype and not any(sharding.spec[:1]):
        return param.at[indices_of(update)].add(update.data, mode="drop")
    once = summed(update)
    return put(param, indices_of(once), add_update(take(param, indices_of(once)), once.data))


def add(held: PyTree, new: PyTree) -> PyTree:
    """Add two gradients of one parameter; two row-sparse ones give a row-sparse one with the entries of both."""
    if is_rows(held) and is_rows(new):
        data = jnp.concatenate([held.data, new.data])
        return make(data, jnp.concatenate([indices_of(held), indices_of(new)]), held.shape)
    held, new = (dense(leaf) if is_rows(leaf) else leaf for leaf in (held, new))
    return held + new


def zeros_like(leaf: PyTree) -> PyTree:
    """Return a zero gradient of the same kind; a row-sparse one has no rows."""
    return make(leaf.data[:0], indices_of(leaf)[:0], leaf.shape) if is_rows(leaf) else jnp.zeros_like(leaf)
