"""Lookahead: slow weights that follow the parameters; every few updates the parameters return to them."""

from typing import Annotated, Any, ClassVar, NamedTuple

import jax.numpy as jnp

from functorch_optim import trees
from functorch_optim.alike import kept
from functorch_optim.averaging.average import mix
from functorch_optim.base import GradientTransformation, effects_of, exportable, transformation, update_of
from functorch_optim.combinators import Wrapper, current_hyperparams
from functorch_optim.core.numerics import next_step, wide_zeros_like
from functorch_optim.core.options import Options
from functorch_optim.effects import Effects, Kind, Leaves, check_within
from functorch_optim.hyperparams import Beta, Hyperparameter, Option, as_count
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Numeric, PyTree


@exportable
class LookaheadState(NamedTuple):
    """``step`` counts updates; ``slow`` has the slow weights in at least float32, zeros before the first update."""

    step: PyTree
    slow: PyTree
    inner: PyTree


class Lookahead(Options, Wrapper):
    every: int
    alpha: Annotated[Hyperparameter, Option("Invalid alpha value: {}", low=0.0, high=1.0)]

    hands_on: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "every", as_count("lookahead: every", self.every, 1))
        for effects in effects_of(self.inner, None):
            check_within("lookahead", effects)

    def init(self, params: PyTree) -> LookaheadState:
        inner = self.inner.init(params)
        return LookaheadState(jnp.zeros((), jnp.int32), trees.map_arrays(wide_zeros_like, params), inner)

    def update(
        self, updates: PyTree, state: LookaheadState, params: PyTree = None, **extra: object
    ) -> tuple[PyTree, LookaheadState]:
        if params is None:
            raise ValueError("lookahead needs the parameters: update(grads, state, params)")
        updates, inner = update_of(self.inner, updates, state.inner, params, extra)
        leaves, moves, treedef = trees.pair(params, updates, "lookahead", what="update")
        held = trees.align(params, state.slow, "the slow weights")
        alpha = self.at(state.step).alpha
        keep, first = Beta(1 - alpha, alpha), state.step == 0
        sync = (state.step + 1) % self.every == 0
        results = []
        for param, move, slow in zip(leaves, moves, held, strict=True):
            own = jnp.where(first, kept(slow, param.astype(slow.dtype)), slow)
            results.append((None, own) if move is None else _update_leaf(param, move, own, keep, sync))
        slow = treedef.unflatten([slow for _, slow in results])
        return treedef.unflatten([move for move, _ in results]), LookaheadState(next_step(state.step), slow, inner)

    def effects(self, at: Leaves | None) -> list[Effects]:
        return self.effects_and(Kind.FOLLOWS, at)

    def hyperparams(self, state: LookaheadState) -> dict[Any, PyTree]:
        return {**current_hyperparams(self.inner, state.inner), **self.hyperparams_at(state.step)}


def _update_leaf(param: PyTree, move: PyTree, slow: PyTree, keep: Beta, sync: Numeric) -> tuple[PyTree, PyTree]:
    """Compute the update and the slow weights of one parameter; with ``sync`` the two become equal."""
    dtype = trees.compute_dtype(param, move)
    wide, step = kept(slow, param.astype(dtype)), kept(slow, move.astype(dtype))
    met = mix(slow.astype(dtype), wide + step, keep)
    return jnp.where(sync, met - wide, step), jnp.where(sync, met.astype(slow.dtype), slow)


@explains_names
def lookahead(inner: GradientTransformation, every: int = 6, alpha: Hyperparameter = 0.5) -> GradientTransformation:
    """Look ahead with the updates of ``inner``, and every few updates return part of the way.

    The parameters p are the fast weights, updated by ``inner``. At every ``every``-th update the slow weights s move
    towards them, and then the parameters move onto the slow weights::

        s <- s + alpha * (p - s),    p <- s

    The first update sets the slow weights to the parameters before it. They are in the state, in at least float32:
    ``fo.find_state(state, fo.LookaheadState).slow``. At every ``every``-th update the parameters become equal to
    them, up to rounding, so evaluate then, or evaluate the slow weights.

    Args:
        inner: the transformation that updates the fast weights, usually the whole chain; later links would keep the
            parameters from reaching the slow weights.
        every: the number of updates between two returns to the slow weights, at least 1.
        alpha: how far the slow weights move towards the parameters, from 0 to 1; a number, a scalar array or a schedule
            of the number of updates.

    Returns:
        A transformation with the state :class:`LookaheadState`; ``update`` needs ``params`` and dense updates. A
        parameter whose gradient is None stays where it is, and so does its slow weight.

    Raises:
        ValueError: an option is out of range; from ``update``, ``params`` is missing.

    Source: Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back", 2019. ``optax.lookahead`` is the same
    with both weights in a ``LookaheadParams`` instead of plain parameters.

    Example:
        >>> import functorch_optim as fo
        >>> tx, params = lookahead(fo.sgd(lr=1.0), every=2, alpha=0.5), jnp.array([0.0])
        >>> state, places = tx.init(params), []
        >>> for _ in range(4):
        ...     updates, state = tx.update(jnp.array([-1.0]), state, params)
        ...     params = fo.apply_updates(params, updates)
        ...     places.append(params.item())
        >>> places, state.slow.item()
        ([1.0, 1.0, 2.0, 2.0], 2.0)
    """
    return transformation(Lookahead(inner, every, alpha))
