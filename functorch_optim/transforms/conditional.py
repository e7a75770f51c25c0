"""Transformations that run an inner one only at some updates: gradient accumulation, and skipping non-finite ones."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import axes, trees
from functorch_optim.base import GradientTransformation, exportable, transformation
from functorch_optim.combinators import Wrapper
from functorch_optim.core.numerics import next_step
from functorch_optim.hyperparams import as_integer
from functorch_optim.transforms.scaling import multiply
from functorch_optim.typing import Array, PyTree


@exportable
class AccumulateState(NamedTuple):
    """``micro_step`` counts gradients since the last inner update; ``accumulated`` is their sum, at least float32."""

    micro_step: PyTree
    accumulated: PyTree
    inner: PyTree


@exportable
class SkipNonfiniteState(NamedTuple):
    """``consecutive`` counts the non-finite gradients since the last finite one, ``total`` all of them."""

    consecutive: PyTree
    total: PyTree
    inner: PyTree


def _run_if(
    condition: jax.Array, run: Callable[..., tuple[PyTree, PyTree]], state: PyTree, *operands: object
) -> tuple[PyTree, PyTree]:
    """``run(state, *operands)`` if ``condition`` holds; otherwise updates that change nothing, and ``state``.

    Arrays go in as operands, not by closure, so that both branches see their sharding. Both branches return arrays
    that vary over every manual axis that either's do.
    """
    shapes = jax.eval_shape(run, state, *operands)

    def something(state: PyTree, *operands: object) -> tuple[PyTree, PyTree]:
        updates, new = run(state, *operands)
        return updates, jax.tree.map(axes.vary_as, new, state)

    def nothing(state: PyTree, *operands: object) -> tuple[PyTree, PyTree]:
        del operands
        # Adding -0.0 leaves every number unchanged, 0.0 and -0.0 included.
        zeros = jax.tree.map(lambda x: jnp.full(x.shape, -0.0, x.dtype, device=x.sharding), shapes[0])
        return jax.tree.map(axes.vary_as, (zeros, state), shapes)

    return jax.lax.cond(condition, something, nothing, state, *operands)


class Accumulate(Wrapper):
    every: int
    average: bool

    def init(self, params: PyTree) -> AccumulateState:
        return AccumulateState(jnp.zeros((), jnp.int32), jax.tree.map(_no_sum, params), self.inner.init(params))

    def update(
        self, updates: PyTree, state: AccumulateState, params: PyTree = None, **extra: object
    ) -> tuple[PyTree, AccumulateState]:
        sums, grads, treedef = trees.pair(state.accumulated, updates, "accumulate")
        sums = [s if g is None else _plus(s, g) for g, s in zip(grads, sums, strict=True)]
        last = state.micro_step == self.every - 1
        factor = 1.0 / self.every if self.average else 1.0

        def run(state: tuple[PyTree, PyTree], params: PyTree) -> tuple[PyTree, tuple[PyTree, PyTree]]:
            sums, inner = jax.tree.leaves(state[0]), state[1]
            whole = [None if g is None else multiply(_wide(s), factor) for g, s in zip(grads, sums, strict=True)]
            new, inner = self.inner.update(treedef.unflatten(whole), inner, params, **extra)
            left = [s if g is None else jnp.zeros_like(s) for g, s in zip(grads, sums, strict=True)]
            return new, (treedef.unflatten(left), inner)

        new, (accumulated, inner) = _run_if(last, run, (treedef.unflatten(sums), state.inner), params)
        return new, AccumulateState(jnp.where(last, 0, state.micro_step + 1), accumulated, inner)


def _no_sum(param: Array) -> jax.Array:
    """An empty sum of a parameter's gradients; bfloat16 would stop counting at 256."""
    inexact = jnp.issubdtype(param.dtype, jnp.inexact)
    return jnp.zeros_like(param, dtype=trees.compute_dtype(param) if inexact else param.dtype)


def _wide(array: jax.Array) -> jax.Array:
    return array.astype(trees.compute_dtype(array))


def _plus(held: jax.Array, grad: jax.Array) -> jax.Array:
    """The next sum, in the state's dtype."""
    return (_wide(held) + grad.astype(_wide(held).dtype)).astype(held.dtype)


def accumulate(inner: GradientTransformation, every: int, average: bool = True) -> GradientTransformation:
    """Collect ``every`` gradients, then update once with their mean; the updates in between change nothing.

    The inner update runs only at the last micro-step (under ``lax.cond``). Sums are kept in at least float32, whatever
    the parameters' dtype, and the inner update gets the mean in that dtype; ``state_dtype`` of ``accumulated`` makes
    the sums narrower. A gradient that is None at the last micro-step is None for the inner update; its sum is kept for
    the next one.

    Args:
        inner: the transformation to run, usually the whole chain.
        every: number of gradients per update, at least 1.
        average: whether to divide the sum by ``every``; False matches repeated ``backward()`` calls in torch.

    Raises:
        ValueError: ``every`` is not a positive integer.

    Example:
        >>> import functorch_optim as fo
        >>> tx = accumulate(fo.sgd(lr=1.0), every=2)
        >>> params = jnp.array([1.0])
        >>> first, state = tx.update(jnp.array([1.0]), tx.init(params), params)
        >>> second, state = tx.update(jnp.array([3.0]), state, params)
        >>> first.item(), second.item()
        (-0.0, -2.0)
    """
    count = as_integer(every)
    if count is None or count < 1:
        raise ValueError(f"accumulate: every must be a positive integer, but it is {every!r}")
    return transformation(Accumulate(inner, count, average))


class SkipNonfinite(Wrapper):
    max_consecutive: int
    axis_name: axes.Labels | None

    def init(self, params: PyTree) -> SkipNonfiniteState:
        return SkipNonfiniteState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), self.inner.init(params))

    def update(
        self, updates: PyTree, state: SkipNonfiniteState, params: PyTree = None, **extra: object
    ) -> tuple[PyTree, SkipNonfiniteState]:
        finite = ~axes.any_entry(lambda x: ~jnp.isfinite(x), updates, self.axis_name, "skip_nonfinite")
        consecutive = jnp.where(finite, 0, next_step(state.consecutive))
        total = jnp.where(finite, state.total, next_step(state.total))
        new, inner = _run_if(
            finite | (consecutive > self.max_consecutive),
            lambda inner, updates, params: self.inner.update(updates, inner, params, **extra),
            state.inner,
            updates,
            params,
        )
        return new, SkipNonfiniteState(consecutive, total, inner)


def skip_nonfinite(
    inner: GradientTransformation, max_consecutive: int, axis_name: PyTree = None
) -> GradientTransformation:
    """Skip an update whose gradient holds an infinity or a NaN: only the counters change.

    After ``max_consecutive`` such gradients in a row the next one passes, so that a diverged run fails visibly instead
    of standing still.

    Args:
        inner: the transformation to guard.
        max_consecutive: how many non-finite gradients in a row to skip, at least 0.
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes; see :mod:`functorch_optim.axes`. If one
            shard is not finite, no shard is updated.

    Raises:
        ValueError: ``max_consecutive`` is not an integer of at least 0; from ``update``, inside ``shard_map`` without
            ``axis_name``, a gradient varies or may vary over the mesh.

    Example:
        >>> import functorch_optim as fo
        >>> tx = skip_nonfinite(fo.sgd(lr=1.0), max_consecutive=3)
        >>> params = jnp.array([1.0])
        >>> updates, state = tx.update(jnp.array([jnp.nan]), tx.init(params), params)
        >>> fo.apply_updates(params, updates).item(), state.total.item()
        (1.0, 1)
    """
    count = as_integer(max_consecutive)
    if count is None or count < 0:
        raise ValueError(f"skip_nonfinite: max_consecutive must be an integer of at least 0, not {max_consecutive!r}")
    return transformation(SkipNonfinite(inner, count, axes.as_axes(axis_name, "skip_nonfinite")))
