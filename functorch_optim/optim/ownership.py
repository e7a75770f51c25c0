"""Copies that the optimizer owns and may overwrite."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from functorch_optim.placement import divides, sharding_of
from functorch_optim.typing import PyTree


def own(array: PyTree) -> jax.Array:
    """Copy an array into its own buffer, not weakly typed, with the array's sharding."""
    array = array if hasattr(array, "dtype") else np.asarray(array)
    return jnp.array(array, dtype=jax.dtypes.canonicalize_dtype(array.dtype), copy=True)


def own_beside(array: PyTree, model: PyTree) -> jax.Array:
    """Copy an array like :func:`own`, and place it where ``model`` is unless the array is committed elsewhere."""
    copied = own(array)
    if isinstance(copied, Tracer) or isinstance(model, Tracer) or not model.committed:
        return copied
    if getattr(array, "committed", False):
        return copied
    sharding = model.sharding if divides(model.sharding, copied.shape) else sharding_of(model, copied.shape)
    return copied if sharding is None else jax.device_put(copied, sharding)
