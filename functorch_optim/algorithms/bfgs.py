"""BFGS: quasi-Newton steps with a dense inverse Hessian."""

import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from functorch_optim import axes, parts
from functorch_optim.algorithms.quasi_newton import QuasiNewton, flattened
from functorch_optim.alike import in_place_of
from functorch_optim.base import GradientTransformation, exportable, transformation
from functorch_optim.hyperparams import Hyperparameter
from functorch_optim.line_search.hager_zhang import HagerZhang
from functorch_optim.line_search.search import LineSearch
from functorch_optim.line_search.vectors import Vector
from functorch_optim.option_names import explains_names
from functorch_optim.typing import PyTree

ERROR, FORGETTING = 1e-6, 0.7  # epsilon and Delta of Hager and Zhang


@exportable
class BFGSState(NamedTuple):
    """``H`` is the inverse Hessian over all parameters as one vector; ``d`` and ``prev_flat_grad`` are such vectors.

    A vector has leaf after leaf, complex entries as pairs of real and imaginary part. ``prev_loss`` has the sign of
    the minimized objective; ``careful`` says that a fixed step once led to a point without a finite value.
    ``loss_weight`` and ``loss_size`` are Q and C of Hager and Zhang, a running average of the loss's magnitude.
    """

    step: PyTree
    func_evals: PyTree
    n_iter: PyTree
    careful: PyTree
    d: PyTree
    t: PyTree
    H: PyTree
    prev_flat_grad: PyTree
    prev_loss: PyTree
    loss_weight: PyTree
    loss_size: PyTree


@exportable
class Curvature(NamedTuple):
    """The inverse Hessian, and the running average of the loss's magnitude with its weight."""

    inverse: jax.Array
    weight: jax.Array
    size: jax.Array


class BFGS(QuasiNewton):
    entrywise: ClassVar[bool] = False  # the rows of H are in the order of the leaves

    @classmethod
    def _call_name(cls) -> str:
        return "bfgs"

    def searches(self) -> tuple[str, ...]:
        return ("strong_wolfe", "hager_zhang")

    def init(self, params: PyTree) -> BFGSState:
        leaves = self.checked_leaves(params)
        shapes = [
            parts.whole_shape(leaf.shape, split) for leaf, split in zip(leaves, self.placement_of(params), strict=True)
        ]
        dtype, size = self.dtype_of(leaves), sum(map(_entries, leaves, shapes))
        return BFGSState(
            step=jnp.zeros((), jnp.int32),
            func_evals=jnp.zeros((), jnp.int32),
            n_iter=jnp.zeros((), jnp.int32),
            careful=jnp.zeros((), bool),
            d=jnp.zeros((size,), dtype),
            t=jnp.zeros((), dtype),
            H=jnp.eye(size, dtype=dtype),
            prev_flat_grad=jnp.zeros((size,), dtype),
            prev_loss=jnp.zeros((), dtype),
            loss_weight=jnp.zeros((), dtype),
            loss_size=jnp.zeros((), dtype),
        )

    def to_vector(self, tree: PyTree, dtype: DTypeLike) -> Vector:
        leaves = jax.tree.leaves(tree)
        whole = [_whole(leaf, split) for leaf, split in zip(leaves, self._splits(leaves), strict=True)]
        return Vector((flattened(whole, dtype),))

    def placement_of(self, tree: PyTree) -> tuple[PyTree, ...]:
        return tuple(axes.splits(self.axis_name, tree, "bfgs"))

    def _splits(self, leaves: list[PyTree]) -> tuple[axes.Split, ...]:
        return self.placement or ((),) * len(leaves)

    def from_vector(self, vector: Vector, like: PyTree) -> PyTree:
        leaves, treedef = jax.tree.flatten(like)
        (flat,), result, start = vector.parts, [], 0
        for leaf, split in zip(leaves, self._splits(leaves), strict=True):
            shape = parts.whole_shape(leaf.shape, split)
            part = flat[start : start + _entries(leaf, shape)]
            start += _entries(leaf, shape)
            if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
                part = jax.lax.complex(part[0::2], part[1::2])
            result.append(_sharded_like(parts.part(part.reshape(shape).astype(leaf.dtype), split), leaf))
        return treedef.unflatten(result)

    def vector_of(self, stored: PyTree, dtype: DTypeLike) -> Vector:
        return Vector((stored.astype(dtype),))

    def stored_vector(self, vector: Vector, stored: PyTree) -> PyTree:
        return in_place_of(stored, vector.parts[0].astype(stored.dtype))

    def memory_of(self, state: BFGSState, dtype: DTypeLike) -> Curvature:
        return Curvature(*(x.astype(dtype) for x in (state.H, state.loss_weight, state.loss_size)))

    def stored(self, state: BFGSState, memory: Curvature) -> BFGSState:
        inverse, weight, size = (x.astype(state.H.dtype) for x in memory)
        return state._replace(H=in_place_of(state.H, inverse), loss_weight=weight, loss_size=size)

    def advance(
        self, memory: Curvature, y: Vector, s: Vector, value: jax.Array, grad: Vector, first: jax.Array
    ) -> tuple[Curvature, Vector]:
        (flat_y,), (flat_s,), (flat_grad,) = y.parts, s.parts, grad.parts
        ys = jnp.dot(flat_y, flat_s)
        accepted = ~first & (ys > 1e-10)
        updated = updated_inverse(memory.inverse, flat_y, flat_s, jnp.where(accepted, ys, 1))
        inverse = jnp.where(accepted, updated, memory.inverse)
        weight = 1 + FORGETTING * memory.weight
        memory = Curvature(inverse, weight, memory.size + (jnp.abs(value) - memory.size) / weight)
        return memory, Vector((-jnp.dot(inverse, flat_grad),))

    def line_search(self, memory: Curvature, tolerance_change: jax.Array) -> LineSearch:
        if self.line_search_fn != "hager_zhang":
            return super().line_search(memory, tolerance_change)
        return HagerZhang(error=ERROR * memory.size, tolerance_change=tolerance_change)


def updated_inverse(inverse: jax.Array, y: jax.Array, s: jax.Array, ys: jax.Array) -> jax.Array:
    """The inverse Hessian nearest to the previous one that maps y to s.

    ``(I - s y' / ys) H (I - y s' / ys) + s s' / ys``, with ys the inner product of the two.

    Example:
        >>> y, s = jnp.array([1.0, 2.0]), jnp.array([0.5, 0.25])
        >>> (updated_inverse(jnp.eye(2), y, s, jnp.dot(y, s)) @ y).tolist()
        [0.5, 0.25]
    """
    hy = jnp.dot(inverse, y)
    scaled = s / ys
    crossed = jnp.outer(scaled, hy)
    return inverse - crossed - crossed.T + (jnp.dot(y, hy) + ys) * jnp.outer(scaled, scaled)


def _entries(leaf: PyTree, shape: tuple[int, ...]) -> int:
    """How many entries a leaf of this shape has in the vector."""
    return math.prod(shape) * (2 if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else 1)


def _whole(leaf: jax.Array, split: axes.Split) -> jax.Array:
    """Gather a sharded leaf on every device, as the inverse Hessian mixes all entries."""
    if split:
        return parts.gathered(leaf, split)
    sharding = jax.typeof(leaf).sharding
    return jax.sharding.reshard(leaf, sharding.update(spec=PartitionSpec())) if any(sharding.spec) else leaf


def _sharded_like(leaf: jax.Array, like: PyTree) -> jax.Array:
    sharding = jax.typeof(like).sharding if isinstance(like, jax.Array) else None
    return jax.sharding.reshard(leaf, sharding) if sharding is not None and any(sharding.spec) else leaf


@explains_names
def bfgs(
    lr: Hyperparameter = 1.0,
    max_iter: int = 20,
    max_eval: int | None = None,
    tolerance_grad: Hyperparameter = 1e-7,
    tolerance_change: Hyperparameter = 1e-9,
    line_search_fn: str | None = None,
    maximize: bool = False,
    axis_name: PyTree = None,
) -> GradientTransformation:
    r"""BFGS with a dense inverse Hessian H: one update runs up to ``max_iter`` iterations in one compiled loop.

    Like :func:`functorch_optim.lbfgs`, but the direction is ``d = -H g``, H starts as the identity, and after a step
    ``s = t * d`` that changes the gradient by y, if the inner product ``y.s > 1e-10``::

        H <- (I - s @ y.T / y.s) @ H @ (I - y @ s.T / y.s) + s @ s.T / y.s

    so that ``H y = s``. Memory and time grow with the square of the number of entries.

    Args:
        lr, max_iter, max_eval, tolerance_grad, tolerance_change, maximize: as for :func:`functorch_optim.lbfgs`.
        line_search_fn: None, ``"strong_wolfe"``, or ``"hager_zhang"``, which accepts a point where the approximate
            Wolfe conditions hold, and compares values up to 1e-6 of the running average of their magnitude: it
            converges to the last digits, where values differ only by rounding, and may end that much higher.
        axis_name: inside ``shard_map``, the tree of the parameters' PartitionSpecs; otherwise as for
            :func:`functorch_optim.lbfgs`. Every device keeps the whole state.

    Returns:
        A transformation with the state :class:`BFGSState`, used like that of :func:`functorch_optim.lbfgs`.

    Raises:
        ValueError, RuntimeError: as for :func:`functorch_optim.lbfgs`.

    Source: Nocedal and Wright, "Numerical Optimization", 2006, algorithm 6.1; Hager and Zhang, SIAM J. Optim. 2005. The
    interface follows PyTorch's pull request 141778, whose update of H counts ``s @ s.T / y.s`` twice.

    Example:
        >>> import functorch_optim as fo
        >>> def rosenbrock(p):
        ...     return 100 * (p[1] - p[0] ** 2) ** 2 + (1 - p[0]) ** 2
        >>> tx, p = bfgs(max_iter=100, line_search_fn="hager_zhang"), jnp.array([-1.2, 1.0])
        >>> updates, state = tx.update(jax.grad(rosenbrock)(p), tx.init(p), p, value_fn=rosenbrock)
        >>> fo.apply_updates(p, updates).round(3).tolist()
        [1.0, 1.0]
    """
    options = (lr, max_iter, max_eval, tolerance_grad, tolerance_change, line_search_fn, maximize)
    return transformation(BFGS(*options, axes.as_axes(axis_name, "bfgs")))
