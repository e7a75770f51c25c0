"""Array math that algorithms, transformations and averages share."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from functorch_optim import trees
from functorch_optim.alike import beside
from functorch_optim.hyperparams import Beta
from functorch_optim.typing import Numeric, PyTree


def coefficient(value: Numeric, dtype: DTypeLike) -> Numeric:
    """Round a real coefficient once, to the precision of the calculation; a known number stays a constant."""
    real = jnp.finfo(dtype).dtype
    return (jnp.asarray(value, real) if isinstance(value, jax.Array) else real.type(value)).astype(dtype)


def next_step(step: jax.Array) -> jax.Array:
    """Return ``step + 1``, which stays at int32's largest value instead of wrapping."""
    return jnp.where(step < np.iinfo(np.int32).max, step + 1, step)


def zeros_like(param: PyTree) -> jax.Array | None:
    """Create a slot: zeros in their own buffer, with the parameter's shape and sharding, never weakly typed.

    Its dtype is the parameter's, but float32 for float16.

    Example:
        >>> zeros_like(jnp.ones(2, jnp.bfloat16)).dtype, zeros_like(jnp.ones(2, jnp.float16)).dtype
        (dtype(bfloat16), dtype('float32'))
    """
    return None if param is None else beside(param, jnp.zeros_like(param, dtype=trees.slot_dtype(param)))


def wide_zeros_like(param: PyTree) -> jax.Array:
    """Zeros with a parameter's shape and sharding in at least float32, for sums over many steps."""
    inexact = jnp.issubdtype(param.dtype, jnp.inexact)
    return beside(param, jnp.zeros_like(param, dtype=trees.compute_dtype(param) if inexact else param.dtype))


def copy_of(param: PyTree) -> jax.Array | None:
    """Create a slot that begins as the parameter, in its own buffer and in the dtype of :func:`zeros_like`.

    An abstract parameter has no values: its slot begins with zeros.
    """
    if isinstance(param, jax.ShapeDtypeStruct):
        return zeros_like(param)
    return beside(param, jnp.array(param, dtype=trees.slot_dtype(param), copy=True))


def full_like(param: PyTree, value: Numeric) -> jax.Array | None:
    """Create a slot filled with ``value``, or if it is complex, with ``value + value * 1j``.

    Example:
        >>> full_like(jnp.ones(2), 0.5).tolist(), full_like(jnp.ones(1, jnp.complex64), 0.5).tolist()
        ([0.5, 0.5], [(0.5+0.5j)])
    """
    if param is None:
        return None
    if jnp.issubdtype(param.dtype, jnp.complexfloating):
        part = jnp.full_like(param, value, dtype=jnp.finfo(param.dtype).dtype)
        return beside(param, jax.lax.complex(part, part))
    return beside(param, jnp.full_like(param, value, dtype=trees.slot_dtype(param)))


def decay_of(decay: jax.Array, param: jax.Array) -> jax.Array:
    """Return ``decay * param``, to subtract; 0 for an infinite entry, since ``inf - inf`` would be NaN.

    Example:
        >>> decay_of(jnp.float32(0.5), jnp.array([4.0, jnp.inf])).tolist()
        [2.0, 0.0]
    """
    return decay * jnp.where(jnp.isfinite(param), param, 0)


def lerp(start: jax.Array, end: jax.Array, beta: Beta) -> jax.Array:
    """Return ``beta * start + (1 - beta) * end`` as torch's lerp with weight ``1 - beta`` computes it.

    Example:
        >>> lerp(jnp.array([0.0]), jnp.array([4.0]), Beta.of(0.75)).tolist()
        [1.0]
    """
    weight = beta.complement
    return jnp.where(weight < 0.5, start + weight * (end - start), end - (end - start) * beta.value)


def average(start: jax.Array, end: jax.Array, beta: Beta) -> jax.Array:
    """Return ``beta * start + (1 - beta) * end`` as torch's ``mul_`` and ``add_`` compute it.

    Example:
        >>> average(jnp.array([0.0]), jnp.array([4.0]), Beta.of(0.75)).tolist()
        [1.0]
    """
    return beta.complement * end + beta.value * start


def average_of_squares(start: jax.Array, end: jax.Array, beta: Beta) -> jax.Array:
    """Return ``beta * start + (1 - beta) * end**2``; a fused multiply-add leaves the square's product unrounded.

    Example:
        >>> average_of_squares(jnp.array([0.0]), jnp.array([4.0]), Beta.of(0.75)).tolist()
        [4.0]
    """
    return beta.complement * end * end + beta.value * start


@jax.custom_jvp
def sqrt(x: jax.Array) -> jax.Array:
    """Return the square root; its derivative at zero is zero, so that a zero gradient does not give NaN.

    Example:
        >>> sqrt(jnp.array([0.0, 4.0])).tolist(), jax.grad(sqrt)(0.0).item()
        ([0.0, 2.0], 0.0)
    """
    return jnp.sqrt(x)


@sqrt.defjvp
def _sqrt_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    root = jnp.sqrt(x)
    positive = root > 0
    return root, jnp.where(positive, dx / (2 * jnp.where(positive, root, 1)), 0)
