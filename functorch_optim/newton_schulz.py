"""Newton-Schulz iterations: they bring the singular values of a matrix to about 1, and keep its singular vectors."""

from collections.abc import Sequence
from typing import cast

import jax
import jax.numpy as jnp

from functorch_optim.base import Frozen
from functorch_optim.core.numerics import sqrt
from functorch_optim.placement import whole
from functorch_optim.typing import PyTree

_POLAR_EXPRESS = (  # minimax polynomials for singular values of 0.001 to 1: Amsel et al., 2025
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
_RUN = 3
_MARGIN = 1.01  # rounding may leave a singular value a little above 1, where these polynomials grow fast

Polynomial = tuple[float, float, float]
POLAR_EXPRESS: tuple[Polynomial, ...] = (
    *((a / _MARGIN, b / _MARGIN**3, c / _MARGIN**5) for a, b, c in _POLAR_EXPRESS),
    (1.875, -1.25, 0.375),
)


def as_polynomials(option: str | Sequence[Polynomial] | None, steps: int) -> tuple[Polynomial, ...] | None:
    """Convert the coefficients of each of ``steps`` iterations for storage; those of Polar Express repeat at the end.

    Raises:
        ValueError: they are not as many triples of numbers, or the name is unknown.
    """
    if option is None:
        return None
    if isinstance(option, str):
        if option != "polar_express":
            raise ValueError(f"ns_polynomials must be 'polar_express' or a triple for each iteration, not {option!r}")
        return (POLAR_EXPRESS + POLAR_EXPRESS[-1:] * steps)[:steps]
    each = tuple(tuple(float(value) for value in triple) for triple in option)
    if len(each) != steps or any(len(triple) != 3 for triple in each):
        raise ValueError(f"ns_polynomials must hold three numbers for each of the {steps} iterations, not {option!r}")
    return cast("tuple[Polynomial, ...]", each)


class Iterations(Frozen):
    """:func:`orthogonalize` with its options: ``(matrices, (coefficients, eps)) -> matrices``."""

    steps: int
    polynomials: tuple[Polynomial, ...] | None = None
    gram: bool = False

    def __call__(self, matrices: jax.Array, numbers: tuple[PyTree, PyTree]) -> jax.Array:
        coefficients, eps = numbers
        return orthogonalize(matrices, self.polynomials or coefficients, self.steps, eps, self.gram)


def _bf16(array: jax.Array) -> jax.Array:
    """Round float32 numbers to bfloat16's; XLA may drop a conversion there and back."""
    return jax.lax.reduce_precision(array, exponent_bits=8, mantissa_bits=7)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """The float32 product of matrices whose entries bfloat16 holds."""
    return jnp.matmul(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), preferred_element_type=jnp.float32)


def orthogonalize(matrices: jax.Array, coefficients: PyTree, steps: int, eps: PyTree, gram: bool = False) -> jax.Array:
    """Run Newton-Schulz iterations on every matrix of a stack.

    Products are formed in float32 and rounded to bfloat16 once each, as torch does on the CPU. The result is float32,
    with entries that bfloat16 holds.

    Args:
        matrices: an array of shape (..., rows, columns), of any real dtype.
        coefficients: a, b, c of the polynomial ``a X + b X X^T X + c (X X^T)^2 X``; or a triple for each iteration.
        steps: the number of iterations.
        eps: smallest norm to divide a matrix by.
        gram: whether to iterate on the smaller square matrices ``X X^T``, if one side is at least twice the other.

    Example:
        >>> x = orthogonalize(jnp.diag(jnp.array([3.0, 0.5])), (3.4445, -4.775, 2.0315), 5, 1e-7)
        >>> bool(jnp.all((jnp.diag(x) > 0.5) & (jnp.diag(x) < 1.2)))
        True
    """
    if matrices.size == 0:
        return jnp.zeros(matrices.shape, jnp.float32)
    each = isinstance(coefficients[0], tuple)
    triples = [[jnp.asarray(value, jnp.float32) for value in one] for one in (coefficients if each else [coefficients])]
    placed = whole(matrices, range(matrices.ndim - 2, matrices.ndim))
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = _bf16(jnp.matrix_transpose(placed) if tall else placed).astype(jnp.float32)
    norm = _bf16(sqrt(jnp.sum(x * x, axis=(-2, -1), keepdims=True)))
    x = _bf16(x / jnp.maximum(_MARGIN * norm if each else norm, _bf16(jnp.asarray(eps, jnp.float32))))
    if gram and 2 * x.shape[-2] <= x.shape[-1]:
        x = _iterated_on_gram(x, triples if each else triples * steps)
    else:
        x = _iterated(x, triples, steps)
    x = jnp.matrix_transpose(x) if tall else x
    return x if placed is matrices else jax.sharding.reshard(x, jax.typeof(matrices).sharding)


def _iterated(x: jax.Array, triples: Sequence[Sequence[jax.Array]], steps: int) -> jax.Array:
    table = jnp.stack([jnp.stack(triple) for triple in triples]) if len(triples) > 1 else None

    def iterate(step: jax.Array, x: jax.Array) -> jax.Array:
        a, b, c = triples[0] if table is None else table[step]
        gram = _bf16(_product(x, jnp.matrix_transpose(x)))
        polynomial = _bf16(b * gram + c * _product(gram, gram))
        return _bf16(a * x + _product(polynomial, x))

    return jax.lax.fori_loop(0, steps, iterate, x)


def _iterated_on_gram(x: jax.Array, triples: Sequence[Sequence[jax.Array]]) -> jax.Array:
    """Do :func:`_iterated` with products of the smaller side's size, but for two of X in each run of iterations.

    With P the polynomial of ``G = X X^T``, an iteration is ``X <- P X`` and so ``G <- P G P``. Rounding errors of G
    grow, so it is formed anew after ``_RUN`` iterations.
    """
    identity = jnp.broadcast_to(jnp.eye(x.shape[-2], dtype=x.dtype), (*x.shape[:-1], x.shape[-2]))
    for start in range(0, len(triples), _RUN):
        run = triples[start : start + _RUN]
        gram, together = _bf16(_product(x, jnp.matrix_transpose(x))), None
        for place, (a, b, c) in enumerate(run):
            polynomial = _bf16(a * identity + b * gram + c * _product(gram, gram))
            together = polynomial if together is None else _bf16(_product(polynomial, together))
            if place + 1 < len(run):
                gram = _bf16(_product(_bf16(_product(polynomial, gram)), polynomial))
        x = x if together is None else _bf16(_product(together, x))
    return x
