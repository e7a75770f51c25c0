"""Preconditioners that are Kronecker products, fitted to whiten: a triangular or diagonal factor for each dimension."""

import math
import string
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from functorch_optim import axes, parts
from functorch_optim.alike import automatic_axes, constrained, kept
from functorch_optim.core.numerics import coefficient, sqrt
from functorch_optim.core.scalar_math import power
from functorch_optim.placement import whole
from functorch_optim.typing import Numeric, PyTree

_PRECISION = jax.lax.Precision.HIGHEST
MODES = (None, "smart_one_diag", "one_diag", "all_diag")


class Place:
    """Where a parameter is, and the ways from there to a whole array on every device and back."""

    def __init__(self, array: PyTree, split: axes.Split) -> None:
        self._array, self._split = array, split
        self._is_manual = bool(split) and axes.is_manual(split, array)
        self.shape: tuple[int, ...] = parts.whole_shape(array.shape, split) if self._is_manual else array.shape

    def whole(self, array: jax.Array) -> jax.Array:
        """Return the whole of an array that is split as the parameter is."""
        return parts.gathered(array, self._split) if self._is_manual else self.everywhere(array)

    def everywhere(self, array: jax.Array) -> jax.Array:
        """Return an array that every device has as a whole, if it may be split; what comes before stays split."""
        if automatic_axes(array):
            return constrained(array, NamedSharding(jax.typeof(array).sharding.mesh, PartitionSpec()))
        return whole(array, range(array.ndim))

    def part(self, array: jax.Array) -> jax.Array:
        """Return what the parameter's place has of a whole array of the parameter's shape."""
        return parts.part(array, self._split) if self._is_manual else kept(self._array, self.everywhere(array))


def diagonal_sides(shape: Sequence[int], max_size: int, min_ndim: int, mode: str | None) -> tuple[bool, ...]:
    """Whether the factor of each dimension is diagonal.

    Example:
        >>> diagonal_sides((64, 10000), 8192, 2, None), diagonal_sides((4, 8), 8192, 2, "one_diag")
        ((False, True), (False, True))
    """
    largest = max(range(len(shape)), key=lambda side: (shape[side], side)) if shape else 0
    if mode == "smart_one_diag" and (len(shape) < 2 or sorted(shape)[-1] == sorted(shape)[-2]):
        largest = -1
    by_mode = [mode == "all_diag" or (mode is not None and side == largest) for side in range(len(shape))]
    small = len(shape) < min_ndim
    return tuple(own or small or size == 1 or size > max_size for size, own in zip(shape, by_mode, strict=True))


def identity(shape: Sequence[int], diagonal: Sequence[bool], scale: Numeric, dtype: PyTree) -> list[jax.Array]:
    """The factors of ``scale`` times the identity."""
    own = coefficient(power(scale, 1 / max(len(shape), 1)), dtype)
    sides = zip(shape, diagonal, strict=True)
    return [own * (jnp.ones(size, dtype) if flat else jnp.eye(size, dtype=dtype)) for size, flat in sides]


def draws(key: PyTree, shape: Sequence[int], dtype: PyTree) -> tuple[jax.Array, jax.Array]:
    """Return what a fit draws: a number in [0, 1) that decides whether to balance, and normal numbers, the probe.

    They are drawn in float32, so that they are the same in every dtype.
    """
    chance, probe = jax.random.split(key)
    normal = jax.random.normal(probe, tuple(shape), jnp.float32)
    return jax.random.uniform(chance, dtype=jnp.float32), normal.astype(dtype)


def fitted(factors: list[jax.Array], gradient: jax.Array, key: PyTree, rate: Numeric, balance: Numeric) -> list[PyTree]:
    """Return the factors after one step toward those that whiten the gradient; a zero one leaves them as they are.

    With Q their product, v a probe, A = Q gradient and B = Q^-T v, each factor q moves against the difference of the
    Gram matrices of A and B along its dimension, in the group of triangular matrices: ``q <- q - rate * triu(A A^T -
    B B^T) q / norm(A A^T + B B^T)``.
    """
    chance, probe = draws(key, gradient.shape, gradient.dtype)
    if gradient.ndim > 1:
        factors = _balanced(factors, chance < jnp.asarray(balance, chance.dtype))
    damping = math.sqrt(jnp.finfo(jnp.float32).eps)
    seen = gradient + damping * jnp.mean(jnp.abs(gradient)) * probe
    a, b = applied(factors, seen), _solved(factors, probe)
    down = _power_of_two(jnp.maximum(jnp.max(jnp.abs(a)), jnp.max(jnp.abs(b))))
    a, b = a * down, b * down  # their squares must not overflow
    new = [_moved(factor, _gram(a, side, factor), _gram(b, side, factor), rate) for side, factor in enumerate(factors)]
    is_zero = jnp.all(gradient == 0)
    return [jnp.where(is_zero, old, own) for old, own in zip(factors, new, strict=True)]


def preconditioned(factors: list[jax.Array], gradient: jax.Array) -> jax.Array:
    """Return ``Q^T Q gradient`` for the product Q of the factors."""
    for side, factor in enumerate(factors):
        gradient = _along(factor, _along(factor, gradient, side), side, transpose=True)
    return gradient


def applied(factors: list[jax.Array], gradient: jax.Array) -> jax.Array:
    """Return ``Q gradient``."""
    for side, factor in enumerate(factors):
        gradient = _along(factor, gradient, side)
    return gradient


def clipped(array: jax.Array, limit: float) -> jax.Array:
    """Return an array scaled down so that its root mean square is at most ``limit``."""
    down = _power_of_two(jnp.max(jnp.abs(array)))
    scaled = array * down  # its squares neither overflow nor vanish
    size = sqrt(jnp.mean(scaled * scaled))
    return array * jnp.minimum(1, limit * down / (size + down * 1e-12))


def _along(factor: jax.Array, array: jax.Array, side: int, transpose: bool = False) -> jax.Array:
    """Multiply a dimension of an array by its factor."""
    if factor.ndim < 2:
        return array * _beside(factor, array, side)
    own = string.ascii_lowercase[: array.ndim]
    matrix = factor.T if transpose else factor
    return jnp.einsum(f"z{own[side]},{own}->{own.replace(own[side], 'z')}", matrix, array, precision=_PRECISION)


def _solved(factors: list[jax.Array], array: jax.Array) -> jax.Array:
    """Return ``Q^-T array``; an entry of a diagonal that has become 0 counts as the smallest number."""
    for side, factor in enumerate(factors):
        tiny = jnp.finfo(factor.dtype).tiny
        if factor.ndim < 2:
            array = array / _beside(jnp.where(factor == 0, tiny, factor), array, side)
        else:
            safe = factor + jnp.diag(jnp.where(jnp.diag(factor) == 0, tiny, 0))
            last = jnp.moveaxis(array, side, -1)
            flat = last.reshape(-1, last.shape[-1])
            solved = jax.lax.linalg.triangular_solve(safe, flat, left_side=False, lower=False)
            array = jnp.moveaxis(solved.reshape(last.shape), -1, side)
    return array


def _gram(array: jax.Array, side: int, factor: jax.Array) -> jax.Array:
    """Return the Gram matrix of an array along a dimension, or its diagonal for a diagonal factor."""
    if factor.ndim < 2:
        return jnp.sum(array * array, [d for d in range(array.ndim) if d != side])
    own = string.ascii_lowercase[: array.ndim]
    other = own.replace(own[side], "z")
    return jnp.einsum(f"{own},{other}->{own[side]}z", array, array, precision=_PRECISION)


def _moved(factor: jax.Array, of_a: jax.Array, of_b: jax.Array, rate: Numeric) -> jax.Array:
    """Return a factor after its step."""
    tiny = jnp.finfo(factor.dtype).tiny
    difference, total = rate * (of_a - of_b), of_a + of_b
    if factor.ndim < 2:
        return factor - difference * factor / jnp.maximum(jnp.max(jnp.abs(total)), tiny)
    step = jnp.triu(difference) / jnp.maximum(_norm_bound(total), tiny)
    return factor - jnp.matmul(step, factor, precision=_PRECISION)


def _norm_bound(matrix: jax.Array) -> jax.Array:
    """A lower bound of a positive matrix's spectral norm, at most about the square root of 2 below it.

    It is two steps of the power iteration from the largest column.
    """
    largest = jnp.max(jnp.abs(matrix))
    scaled = matrix / jnp.where(largest > 0, largest, 1)
    column = jnp.take(scaled, jnp.argmax(jnp.sum(scaled * scaled, 0)), axis=1)
    vector = jnp.matmul(column, scaled, precision=_PRECISION)
    size = sqrt(jnp.sum(vector * vector))
    vector = jnp.matmul(scaled, vector / jnp.where(size > 0, size, 1), precision=_PRECISION)
    return largest * sqrt(jnp.sum(vector * vector))


def _balanced(factors: list[jax.Array], due: jax.Array) -> list[PyTree]:
    """Return the factors scaled to one largest entry, if it is due; their product stays."""
    norms = jnp.stack([jnp.max(jnp.abs(factor)) for factor in factors])
    due = due & jnp.all((norms > 0) & jnp.isfinite(norms))
    safe = jnp.where(due, norms, 1)
    scales = jnp.exp(jnp.mean(jnp.log(safe))) / safe
    return [factor * scale for factor, scale in zip(factors, scales, strict=True)]


def _power_of_two(largest: jax.Array) -> jax.Array:
    """A power of two that brings a magnitude to about 1, so that a product with it is exact."""
    _, exponent = jnp.frexp(jax.lax.stop_gradient(largest))
    bound = int(-jnp.finfo(largest.dtype).minexp) - 2
    return jnp.ldexp(jnp.ones_like(largest), jnp.clip(-exponent, -bound, bound))


def _beside(factor: jax.Array, array: jax.Array, side: int) -> jax.Array:
    """A diagonal factor as an array that multiplies a dimension."""
    return factor.reshape([-1 if d == side else 1 for d in range(array.ndim)])
