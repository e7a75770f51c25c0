"""Newton-Schulz iterations: they bring the singular values of a matrix to about 1, and keep its singular vectors."""

import jax
import jax.numpy as jnp

from functorch_optim.base import Frozen
from functorch_optim.core.numerics import sqrt
from functorch_optim.placement import whole
from functorch_optim.typing import PyTree


class Iterations(Frozen):
    """:func:`orthogonalize` with a number of iterations: ``(matrices, (coefficients, eps)) -> matrices``."""

    steps: int

    def __call__(self, matrices: jax.Array, numbers: tuple[PyTree, PyTree]) -> jax.Array:
        coefficients, eps = numbers
        return orthogonalize(matrices, coefficients, self.steps, eps)


def _bf16(array: jax.Array) -> jax.Array:
    """Round float32 numbers to bfloat16's; XLA may drop a conversion there and back."""
    return jax.lax.reduce_precision(array, exponent_bits=8, mantissa_bits=7)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """The float32 product of matrices whose entries bfloat16 holds."""
    return jnp.matmul(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), preferred_element_type=jnp.float32)


def orthogonalize(matrices: jax.Array, coefficients: PyTree, steps: int, eps: PyTree) -> jax.Array:
    """Run Newton-Schulz iterations on every matrix of a stack.

    Products are formed in float32 and rounded to bfloat16 once each, as torch does on the CPU. The result is float32,
    with entries that bfloat16 holds.

    Args:
        matrices: an array of shape (..., rows, columns), of any real dtype.
        coefficients: a, b, c of the polynomial ``a X + b X X^T X + c (X X^T)^2 X``.
        steps: the number of iterations.
        eps: smallest norm to divide a matrix by.

    Example:
        >>> x = orthogonalize(jnp.diag(jnp.array([3.0, 0.5])), (3.4445, -4.775, 2.0315), 5, 1e-7)
        >>> bool(jnp.all((jnp.diag(x) > 0.5) & (jnp.diag(x) < 1.2)))
        True
    """
    if matrices.size == 0:
        return jnp.zeros(matrices.shape, jnp.float32)
    a, b, c, floor = (jnp.asarray(value, jnp.float32) for value in (*coefficients, eps))
    placed = whole(matrices, range(matrices.ndim - 2, matrices.ndim))
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = _bf16(jnp.matrix_transpose(placed) if tall else placed).astype(jnp.float32)
    norm = _bf16(sqrt(jnp.sum(x * x, axis=(-2, -1), keepdims=True)))
    x = _bf16(x / jnp.maximum(norm, _bf16(floor)))

    def iterate(_: object, x: jax.Array) -> jax.Array:
        gram = _bf16(_product(x, jnp.matrix_transpose(x)))
        polynomial = _bf16(b * gram + c * _product(gram, gram))
        return _bf16(a * x + _product(polynomial, x))

    x = jax.lax.fori_loop(0, steps, iterate, x)
    x = jnp.matrix_transpose(x) if tall else x
    return x if placed is matrices else jax.sharding.reshard(x, jax.typeof(matrices).sharding)
