"""Averages of float16 and bfloat16 arrays in float32, beside a model that holds their rounding.

In their own dtype they would stand still: a share of 0.001 of the next parameters is less than the last place.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from functorch_optim import trees
from functorch_optim.optim.swa_utils.models import is_array
from functorch_optim.transforms.precision import narrowed
from functorch_optim.typing import PyTree


def is_narrow(leaf: PyTree) -> bool:
    """Whether the average of a leaf needs a wider dtype than its own."""
    return is_array(leaf) and trees.is_narrow(leaf)


@jax.jit
def recalled(kept: Sequence[PyTree], held: Sequence[jax.Array]) -> list[jax.Array]:
    """The averages: ``kept``, but ``held``, what stands in the model, where that is no longer their rounding."""
    return [_recalled(wide, leaf) for wide, leaf in zip(kept, held, strict=True)]


def _recalled(wide: PyTree, leaf: jax.Array) -> jax.Array:
    exact = leaf.astype(trees.compute_dtype(leaf))
    return exact if wide is None else jnp.where(narrowed(wide, leaf.dtype) == exact, wide, exact)


@functools.partial(jax.jit, static_argnums=1)
def roundings(averages: Sequence[jax.Array], dtypes: tuple[PyTree, ...]) -> list[jax.Array]:
    """What stands in the model for the averages, in the dtypes that it has."""
    return [narrowed(wide, dtype).astype(dtype) for wide, dtype in zip(averages, dtypes, strict=True)]
