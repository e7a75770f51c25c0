"""Run an inner transformation only if a condition holds; the base class of those that skip bad updates."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp

from functorch_optim import axes, trees
from functorch_optim.base import GradientTransformation, effects_of, needs_of, update_of
from functorch_optim.combinators import Wrapper
from functorch_optim.core.numerics import next_step
from functorch_optim.core.options import Options
from functorch_optim.effects import Effects, Kind, Leaves
from functorch_optim.hyperparams import as_integer
from functorch_optim.typing import PyTree


def _run_if(
    condition: jax.Array, run: Callable[..., tuple[PyTree, PyTree]], state: PyTree, *operands: object
) -> tuple[PyTree, PyTree]:
    """Call ``run(state, *operands)`` if ``condition`` holds; otherwise return zero updates, and ``state``.

    Arrays go in as operands, not by closure, so that both branches see their sharding. Both branches return arrays
    that vary over every manual axis that either's do.

    To run always and select the results would be slower for Adam: the old slots must outlive the new ones, from which
    the updates are computed, and so XLA copies them.
    """
    shapes = jax.eval_shape(run, state, *operands)

    def active(state: PyTree, *operands: object) -> tuple[PyTree, PyTree]:
        updates, new = run(state, *operands)
        return updates, jax.tree.map(axes.vary_as, new, state)

    def idle(state: PyTree, *operands: object) -> tuple[PyTree, PyTree]:
        del operands
        # Adding -0.0 leaves every number unchanged, 0.0 and -0.0 included.
        zeros = jax.tree.map(lambda x: jnp.full(x.shape, -0.0, x.dtype, device=x.sharding), shapes[0])
        return jax.tree.map(axes.vary_as, (zeros, state), shapes)

    return jax.lax.cond(condition, active, idle, state, *operands)


def refuse_own_gradients(who: str, inner: GradientTransformation, reason: str) -> None:
    """Raise if ``inner`` computes gradients of its own, which the wrapper ``who`` would not see.

    These are :func:`functorch_optim.sam` and :func:`functorch_optim.exact_mars`; ``reason`` has a place for the name.
    """
    if "grad_fn" not in needs_of(inner):
        return
    exact = any(effect.who == "exact_mars" for effects in effects_of(inner, None) for effect in effects)
    instead = f"Take the approximate form: fo.{who}(fo.mars(...))" if exact else f"Put it inside: fo.sam(fo.{who}(...))"
    raise ValueError(f"{who}: {reason.format('exact_mars' if exact else 'sam')}. {instead}")


class Skip(Options, Wrapper):
    """Base of the transformations that skip updates: a subclass decides which are bad, and its state has counters.

    ``step`` counts updates, the others bad ones, skipped or not. A good one resets ``consecutive``; nothing resets
    ``total``.
    """

    max_consecutive: int

    hands_on: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        count = as_integer(self.max_consecutive)
        if count is None or count < 0:
            raise ValueError(
                f"{self._call_name()}: max_consecutive must be an integer of at least 0, not {self.max_consecutive!r}"
            )
        object.__setattr__(self, "max_consecutive", count)
        if self.judges_gradient():
            reason = "it judges the gradient that you pass, but {} computes one at another point"
            refuse_own_gradients(self._call_name(), self.inner, reason)

    def judges_gradient(self) -> bool:
        """Whether the gradient decides which updates are bad."""
        return True

    def effects(self, at: Leaves | None) -> list[Effects]:
        return self.effects_and(Kind.PAUSES, at) if self.max_consecutive else super().effects(at)

    def judge(self, updates: PyTree, state: PyTree, extra: Mapping[str, PyTree]) -> tuple[jax.Array, PyTree]:
        """Decide whether the update is bad; return that, and the state with the subclass's own fields updated."""
        raise NotImplementedError(f"{type(self).__name__} does not define judge")  # abstract: every subclass does

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        bad, state = self.judge(updates, state, extra)
        state = state._replace(step=next_step(state.step))
        trees.check_arrays(updates, params)
        consecutive = jnp.where(bad, next_step(state.consecutive), 0)
        total = jnp.where(bad, next_step(state.total), state.total)
        new, inner = _run_if(
            self._runs(consecutive),
            lambda inner, updates, params: update_of(self.inner, updates, inner, params, extra),
            state.inner,
            updates,
            params,
        )
        return new, state._replace(consecutive=consecutive, total=total, inner=inner)

    def _runs(self, consecutive: jax.Array) -> jax.Array:
        """Whether ``inner`` runs, if ``consecutive`` counts this update too."""
        return (consecutive == 0) | (consecutive > min(self.max_consecutive, jnp.iinfo(jnp.int32).max))

    def clips(self, state: PyTree, norm: jax.Array, new: PyTree) -> jax.Array | None:
        clipped = super().clips(state, norm, new)
        return None if clipped is None else clipped & self._runs(new.consecutive)
