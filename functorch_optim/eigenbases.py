"""Eigenbases of symmetric matrices, which follow these from step to step; on a mesh each is found on one device."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import axes
from functorch_optim.dealing import Stack, dealt
from functorch_optim.typing import PyTree

EXACT = jax.lax.Precision.HIGHEST  # the default of some accelerators would round the factors
KEEP, BEGIN, REFRESH = 0.0, 1.0, 2.0  # what a step does with a parameter's bases


class Basis(NamedTuple):
    """A basis, as columns, and for each column its place in the basis before."""

    basis: jax.Array
    order: jax.Array


class Followed(NamedTuple):
    """The matrices of one parameter with their bases, and what a step does with these: KEEP, BEGIN or REFRESH."""

    action: PyTree
    matrices: list[jax.Array]
    bases: list[jax.Array]


def eigenbases(matrices: jax.Array) -> jax.Array:
    """Return the eigenvectors of positive semidefinite matrices as columns, those of large eigenvalues first.

    Where eigenvalues are zero up to rounding, every basis of their space would do, and rounding would choose one. There
    it is the basis that diagonalizes ``diag(n, ..., 2, 1)``, the same wherever it is computed; for a matrix of zeros
    the identity. For a matrix that is not finite all is NaN.

    Example:
        >>> matrices = jnp.stack([jnp.diag(jnp.array([1.0, 4.0])), jnp.zeros((2, 2))])
        >>> abs(eigenbases(matrices)).tolist()
        [[[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]
    """
    size = matrices.shape[-1]
    values, vectors = jnp.linalg.eigh(matrices)
    empty = values <= _rounding(matrices) * jnp.max(values, -1, keepdims=True, initial=0)
    numbers = jnp.arange(size, dtype=matrices.dtype)[None]
    slope = _product(_transposed(vectors) * (1 - numbers / size)[:, None], vectors)
    others = jnp.where(empty, 0, 2 + numbers)[:, :, None] * jnp.eye(size, dtype=matrices.dtype)[None]
    _, turned = jnp.linalg.eigh(jnp.where(empty[:, :, None] & empty[:, None], slope, others))
    return _if_finite(matrices, _product(vectors, turned)[:, :, ::-1])


def refreshed(matrices: jax.Array, bases: jax.Array) -> Basis:
    """Return the bases after one step of the power iteration: Q of ``matrix @ basis``, large eigenvalues first.

    Columns about which a matrix of lower rank says nothing come from the basis before. For a matrix that is not finite
    all is NaN.

    Example:
        >>> matrices, bases = jnp.diag(jnp.array([1.0, 4.0]))[None], jnp.eye(2)[None]
        >>> basis, order = refreshed(matrices, bases)
        >>> abs(basis[0]).tolist(), order[0].tolist()
        ([[0.0, 1.0], [1.0, 0.0]], [1, 0])
    """
    products = _product(matrices, bases)
    values = jnp.sum(bases * products, -2)
    empty = values <= _rounding(matrices) * jnp.max(values, -1, keepdims=True, initial=0)
    order = jnp.argsort(jnp.where(empty, 0, values), axis=-1, descending=True)  # stable among the empty
    products, before = (_columns(each, order) for each in (products, bases))
    new, triangles = jnp.linalg.qr(products)
    sizes = jnp.abs(jnp.diagonal(triangles, axis1=-2, axis2=-1))
    empty = sizes <= _rounding(matrices) * jnp.max(sizes, -1, keepdims=True, initial=0)

    def filled(new: jax.Array) -> jax.Array:
        del new  # whose other columns depend on the empty ones before them
        last = jnp.argsort(empty, axis=-1)
        found, _ = jnp.linalg.qr(_columns(jnp.where(empty[:, None], before, products), last))
        return _columns(found, jnp.argsort(last, axis=-1))

    new = jax.lax.cond(jnp.any(empty), filled, lambda new: new, new)
    return Basis(_if_finite(matrices, new), order)


def _rounding(matrices: jax.Array) -> float:
    """The relative size of eigenvalues that are zero up to rounding."""
    return max(matrices.shape[-1], 10) * float(jnp.finfo(matrices.dtype).eps)


def _columns(matrices: jax.Array, places: jax.Array) -> jax.Array:
    return jnp.take_along_axis(matrices, places[:, None], -1)


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, precision=EXACT)


def _transposed(matrices: jax.Array) -> jax.Array:
    return jnp.swapaxes(matrices, -1, -2)


def _if_finite(matrices: jax.Array, results: jax.Array) -> jax.Array:
    return jnp.where(jnp.all(jnp.isfinite(matrices), (-2, -1), keepdims=True), results, jnp.nan)


def followed(asked: Sequence[Followed]) -> list[list[Basis]]:
    """Return the next bases of several parameters; where all keep theirs, nothing is computed.

    On a mesh, equal shapes are dealt out over its devices. For derivatives the bases are constants.
    """
    actions = [one.action for one in asked for _ in one.matrices]
    matrices = jax.lax.stop_gradient([matrix for one in asked for matrix in one.matrices])
    bases = [basis for one in asked for basis in one.bases]
    each = zip(bases, matrices, strict=True)
    found = [Basis(*(axes.vary_as(x, matrix) for x in _unmoved(basis))) for basis, matrix in each]
    if matrices:
        found = _where(BEGIN, actions, _begun, matrices, found)
        found = _where(REFRESH, actions, _refreshed, matrices, found)
    rest = iter(found)
    return [[next(rest) for _ in one.matrices] for one in asked]


def _unmoved(basis: jax.Array) -> Basis:
    return Basis(basis, jnp.arange(len(basis)))


def _where(
    action: float,
    actions: list[PyTree],
    compute: Callable[[list[jax.Array], list[jax.Array]], list[Basis]],
    matrices: list[jax.Array],
    old: list[Basis],
) -> list[Basis]:
    """Return the bases that ``compute`` finds for the matrices with this action, and the old ones of the others."""
    chosen = [own == action for own in actions]

    def computed(old: list[Basis]) -> list[Basis]:
        new = compute(matrices, jax.lax.stop_gradient([basis for basis, _ in old]))
        return [
            jax.tree.map(functools.partial(jnp.where, own), *each) for own, *each in zip(chosen, new, old, strict=True)
        ]

    return jax.lax.cond(functools.reduce(jnp.logical_or, chosen), computed, lambda old: old, old)


def _begun(matrices: list[jax.Array], bases: list[jax.Array]) -> list[Basis]:
    found = _dealt(_all_eigenbases, [matrix[None] for matrix in matrices])
    return [Basis(new[0], jnp.arange(len(old))) for new, old in zip(found, bases, strict=True)]


def _refreshed(matrices: list[jax.Array], bases: list[jax.Array]) -> list[Basis]:
    pairs = zip(matrices, bases, strict=True)
    found = _dealt(_all_refreshed, [jnp.concatenate(pair, 1)[None] for pair in pairs])
    return [Basis(both[0, :, :-1], both[0, :, -1].astype(int)) for both in found]


def _dealt(function: Callable[[jax.Array, PyTree], jax.Array], stacks: list[jax.Array]) -> list[jax.Array]:
    """Apply a function to stacks, whose dtypes may differ, in these dtypes."""
    results: dict[int, jax.Array] = {}
    for dtype in dict.fromkeys(stack.dtype for stack in stacks):
        places = [place for place, stack in enumerate(stacks) if stack.dtype == dtype]
        results |= zip(places, dealt(function, [Stack(stacks[place]) for place in places], (), dtype), strict=True)
    return [results[place] for place in range(len(stacks))]


def _all_eigenbases(stack: jax.Array, extra: PyTree) -> jax.Array:
    del extra
    return eigenbases(stack)


def _all_refreshed(stack: jax.Array, extra: PyTree) -> jax.Array:
    """Refresh the bases that stand beside the matrices; one more column is the order."""
    del extra
    size = stack.shape[1]
    basis, order = refreshed(stack[:, :, :size], stack[:, :, size:])
    return jnp.concatenate([basis, order[:, :, None].astype(basis.dtype)], 2)
