"""Random keys: the forms in which they are given, keys of shards, and a hash that takes their place."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from functorch_optim import axes
from functorch_optim.typing import PyTree


def as_key(given: Any, who: str) -> tuple[tuple[int, ...], str]:
    """Return a key's data and its implementation's name, from an integer, a typed key, or a key of the older form.

    Raises:
        TypeError: it is none of these, or traced; the message begins with ``who``.
    """
    if isinstance(given, Tracer):
        raise TypeError(f"{who}: the key is traced, but a transformation is built from concrete values")
    with jax.ensure_compile_time_eval():  # even if the transformation is built inside a traced function
        key = _typed(given, who)
        return tuple(jax.random.key_data(key).tolist()), str(jax.random.key_impl(key))


def _typed(given: Any, who: str) -> jax.Array:
    shape, dtype = getattr(given, "shape", None), getattr(given, "dtype", type(None))
    if isinstance(given, numbers.Integral) or (shape == () and jnp.issubdtype(dtype, jnp.integer)):
        return jax.random.key(int(given))
    if shape == () and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return given
    if shape is not None and len(shape) == 1 and dtype == jnp.uint32:
        return jax.random.wrap_key_data(jnp.asarray(given))
    raise TypeError(f"{who}: the key must be a key of jax.random or an integer, but it is {given!r}")


def of_shard(key: PyTree, split: axes.Axes) -> PyTree:
    """Derive a separate key for each shard."""
    for axis in split:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis))
    return key


def hashed(x: jax.Array) -> jax.Array:
    """A 32-bit hash in which every bit depends on all bits of x: Wellons' lowbias32.

    It is computed in the same pass over memory that adds it; :mod:`jax.random` takes ten times as long as the step.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
