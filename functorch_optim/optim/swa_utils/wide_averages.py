"""Averages of float16 and bfloat16 arrays in float32, next to a model that holds them rounded.

In their own dtype they would stall: a share of 0.001 of the next parameters is less than one unit in the last place.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from functorch_optim import trees
from functorch_optim.optim.swa_utils.models import is_array
from functorch_optim.transforms.master_weights import narrowed
from functorch_optim.typing import PyTree


def is_narrow(leaf: PyTree) -> bool:
    """Whether the average of a leaf needs a wider dtype than its own."""
    return is_array(leaf) and trees.is_narrow(leaf)


@jax.jit
def recalled(kept: Sequence[PyTree], held: Sequence[jax.Array]) -> list[jax.Array]:
    """Return ``kept``, or the model's values ``held`` where these are no longer its rounding."""
    return [_recalled(wide, leaf) for wide, leaf in zip(kept, held, strict=True)]


def _recalled(wide: PyTree, leaf: jax.Array) -> jax.Array:
    exact = leaf.astype(trees.compute_dtype(leaf))
    return exact if wide is None else jnp.where(narrowed(wide, leaf.dtype) == exact, wide, exact)


@functools.partial(jax.jit, static_argnums=1)
def roundings(averages: Sequence[jax.Array], dtypes: tuple[PyTree, ...]) -> list[jax.Array]:
    """Round the averages to the model's dtypes."""
    return [narrowed(wide, dtype).astype(dtype) for wide, dtype in zip(averages, dtypes, strict=True)]
