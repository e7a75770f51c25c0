"""Gradient accumulation: one inner update for several gradients."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import trees
from functorch_optim.base import GradientTransformation, exportable, needs_of, transformation, update_of
from functorch_optim.combinators import Wrapper, current_hyperparams
from functorch_optim.core.numerics import next_step, wide_zeros_like
from functorch_optim.effects import Effects, Kind, Leaves
from functorch_optim.hyperparams import Schedule, as_integer, resolve
from functorch_optim.labels import is_flag
from functorch_optim.option_names import explains_names
from functorch_optim.transforms.conditional import _run_if, refuse_own_gradients
from functorch_optim.transforms.scaling import multiply
from functorch_optim.typing import PyTree

SkipFunction = Callable[[PyTree, PyTree, jax.Array], Any]
"""A function ``skip(updates, params, step)`` that returns a boolean scalar; ``step`` counts inner updates."""


@exportable
class AccumulateState(NamedTuple):
    """``micro_step`` counts gradients since the last inner update; ``accumulated`` is their sum, at least float32."""

    micro_step: PyTree
    accumulated: PyTree
    inner: PyTree


@exportable
class CountedAccumulateState(NamedTuple):
    """An :class:`AccumulateState` with a schedule or ``skip``.

    ``step`` counts inner updates, and ``skipped`` the gradients that were left out.
    """

    micro_step: PyTree
    step: PyTree
    skipped: PyTree
    accumulated: PyTree
    inner: PyTree


class Accumulate(Wrapper):
    every: int | Schedule
    average: bool
    skip: SkipFunction | None

    def init(self, params: PyTree) -> AccumulateState | CountedAccumulateState:
        sums, inner = trees.map_arrays(wide_zeros_like, params), self.inner.init(params)
        if self.skip is None and not callable(self.every):
            return AccumulateState(jnp.zeros((), jnp.int32), sums, inner)
        micro_step, step, skipped = (jnp.zeros((), jnp.int32) for _ in range(3))
        return CountedAccumulateState(micro_step, step, skipped, sums, inner)

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        trees.check_arrays(updates, params)
        sums, grads, treedef = trees.pair(state.accumulated, updates, "accumulate")
        left_out = None if self.skip is None else self._left_out(self.skip(updates, params, state.step))
        sums = [s if g is None else _plus(s, g, left_out) for g, s in zip(grads, sums, strict=True)]
        number = state.micro_step + 1
        last = number >= self._every(state)
        if left_out is not None:
            last, number = last & ~left_out, jnp.where(left_out, state.micro_step, number)
        factor = 1 / number.astype(jnp.result_type(float)) if self.average else 1.0

        def run(state: tuple[PyTree, PyTree], params: PyTree) -> tuple[PyTree, tuple[PyTree, PyTree]]:
            sums, inner = jax.tree.leaves(state[0]), state[1]
            whole = [None if g is None else multiply(_wide(s), factor) for g, s in zip(grads, sums, strict=True)]
            new, inner = update_of(self.inner, treedef.unflatten(whole), inner, params, extra)
            left = [s if g is None else jnp.zeros_like(s) for g, s in zip(grads, sums, strict=True)]
            return new, (treedef.unflatten(left), inner)

        new, (accumulated, inner) = _run_if(last, run, (treedef.unflatten(sums), state.inner), params)
        if left_out is not None:
            state = state._replace(skipped=jnp.where(left_out, next_step(state.skipped), state.skipped))
        if isinstance(state, CountedAccumulateState):
            state = state._replace(step=jnp.where(last, next_step(state.step), state.step))
        return new, state._replace(micro_step=jnp.where(last, 0, number), accumulated=accumulated, inner=inner)

    def effects(self, at: Leaves | None) -> list[Effects]:
        always = self.every == 1 and self.skip is None
        return super().effects(at) if always else self.effects_and(Kind.PAUSES, at)

    def _every(self, state: PyTree) -> int | jax.Array:
        """Return the number of gradients for the current inner update."""
        if not callable(self.every):
            return self.every
        count = jnp.asarray(resolve("every", self.every, state.step))
        return jnp.maximum(jnp.round(count), 1).astype(jnp.int32)

    def _left_out(self, answer: Any) -> jax.Array:
        """Check the result of ``skip``.

        Raises:
            TypeError: it is not a boolean scalar.
        """
        if not is_flag(answer):
            raise TypeError(
                f"accumulate: skip must return a boolean scalar, but it returned {answer!r:.100}. Instead of "
                "optax's conditions, which return pairs, use fo.if_nonfinite() or fo.if_large(max_norm)"
            )
        return jnp.asarray(answer)

    def hyperparams(self, state: PyTree) -> dict[Any, PyTree]:
        inner = current_hyperparams(self.inner, state.inner)
        return {**inner, "every": self._every(state)} if callable(self.every) else inner


def _wide(array: jax.Array) -> jax.Array:
    return array.astype(trees.compute_dtype(array))


def _is_condition(skip: object) -> bool:
    """Whether ``skip`` can be called with three arguments, and does not make a transformation."""
    if not callable(skip):
        return False
    try:
        signature = inspect.signature(skip)
        signature.bind(None, None, None)
    except TypeError:
        return False
    except ValueError:  # a callable without a signature
        return True
    return signature.return_annotation is not GradientTransformation


def _plus(held: jax.Array, grad: jax.Array, left_out: jax.Array | None) -> jax.Array:
    """Compute the next sum, in the state's dtype."""
    whole = (_wide(held) + grad.astype(_wide(held).dtype)).astype(held.dtype)
    return whole if left_out is None else jnp.where(left_out, held, whole)


def _check_batches(inner: GradientTransformation) -> None:
    """Raise if ``inner`` evaluates the objective of the last batch, which does not fit the mean gradient of several."""
    reason = "grad_fn knows only the last of several batches, so {} must get each gradient itself"
    refuse_own_gradients("accumulate", inner, reason)
    if "value_fn" in needs_of(inner):
        raise ValueError(
            "accumulate: value_fn knows only the last of several batches, so L-BFGS and BFGS would search along the "
            "mean gradient for a point that is good for that batch alone. Leave accumulate out, and let value_fn "
            "return the mean over the batches"
        )


@explains_names
def accumulate(
    inner: GradientTransformation, every: int | Schedule, average: bool = True, skip: SkipFunction | None = None
) -> GradientTransformation:
    """Collect ``every`` gradients, then update once with their mean; the updates in between change nothing.

    The inner update runs only at the last micro-step (under ``lax.cond``). Sums are kept in at least float32, whatever
    the parameters' dtype, and the inner update gets the mean in that dtype; :func:`functorch_optim.state_dtype` can
    make ``accumulated`` narrower. A gradient that is None at the last micro-step is None for the inner update; its sum
    is kept for the next one.

    Args:
        inner: the transformation to run, usually the whole chain: an algorithm after ``accumulate`` would take the
            zeros in between for gradients, and :func:`functorch_optim.chain` rejects it.
        every: number of gradients per update, at least 1; or a schedule, a function of the number of inner updates so
            far, whose values are rounded, and raised to 1 if they are lower.
        average: whether to divide the sum by the number of collected gradients; False matches repeated ``backward()``
            calls in torch.
        skip: decides which gradients to leave out: ``skip(updates, params, step)`` returns a boolean scalar, and
            ``step`` counts the inner updates so far. A gradient that is left out does not count; a later one takes its
            place. :func:`functorch_optim.if_nonfinite` and :func:`functorch_optim.if_large` build such functions.

    Returns:
        A transformation with the state :class:`AccumulateState`; with a schedule or ``skip``
        :class:`CountedAccumulateState`.

    Raises:
        ValueError: ``every`` is neither a positive integer nor a function, or ``inner`` contains
            :func:`functorch_optim.sam`, :func:`functorch_optim.lbfgs` or :func:`functorch_optim.bfgs`. TypeError:
            ``skip`` is not a function of three arguments; from ``update``, it does not return a boolean scalar.

    Source: ``optax.MultiSteps``, whose ``skip`` takes the arguments in another order.

    Example:
        >>> import functorch_optim as fo
        >>> tx = accumulate(fo.sgd(lr=1.0), every=2, skip=fo.if_nonfinite())
        >>> params = jnp.array([1.0])
        >>> state, moves = tx.init(params), []
        >>> for grad in (1.0, jnp.nan, 3.0):
        ...     updates, state = tx.update(jnp.array([grad]), state, params)
        ...     moves.append(updates.item())
        >>> moves, state.skipped.item()
        ([-0.0, -0.0, -2.0], 1)
    """
    count = every if callable(every) else as_integer(every)
    if count is None or (isinstance(count, int) and count < 1):
        raise ValueError(f"accumulate: every must be a positive integer or a schedule, but it is {every!r}")
    if count != 1:
        _check_batches(inner)
    if skip is not None and not _is_condition(skip):
        raise TypeError(
            "accumulate: skip must be a function of (updates, params, step) that returns a boolean scalar, such as "
            f"fo.if_nonfinite(), but it is {skip!r}"
        )
    return transformation(Accumulate(inner, count, average, skip))
