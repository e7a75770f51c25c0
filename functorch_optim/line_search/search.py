"""The line search interface: an object that sees only scalars, and the one loop that runs it along a direction."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import axes
from functorch_optim.base import Frozen
from functorch_optim.line_search.vectors import Vector, select
from functorch_optim.typing import Numeric, PyTree

Objective = Callable[[Vector], tuple[jax.Array, Vector]]  # the value and the gradient


class Trial(NamedTuple):
    """The objective at ``x + t * d``: its value, and its slope along d."""

    t: jax.Array
    value: jax.Array
    slope: jax.Array


def measured(t: jax.Array, value: jax.Array, slope: jax.Array) -> Trial:
    """The trial at ``t``; one that is not finite counts as infinitely high and flat."""
    sound = jnp.isfinite(value) & jnp.isfinite(slope)
    return Trial(t, jnp.where(sound, value, jnp.inf), jnp.where(sound, slope, 0))


class SearchState(NamedTuple):
    """The state of a search; ``bracket`` is the search's own memory."""

    start: Trial
    best: Trial  # what the search would return if it ended now
    t: jax.Array  # where to evaluate next
    evaluations: jax.Array
    max_iterations: jax.Array  # how many evaluations may follow the first
    size: jax.Array  # the direction's largest magnitude
    done: jax.Array
    bracket: PyTree

    def counted(self) -> "SearchState":
        """Count one more evaluation."""
        return self._replace(evaluations=self.evaluations + 1)

    @property
    def spent(self) -> jax.Array:
        """Whether no evaluation is left."""
        return self.evaluations - 1 >= self.max_iterations


class LineSearch(Frozen):
    """Base of the line searches: a subclass has its constants as fields, and defines what follows a trial."""

    def init(
        self, start: Trial, t: PyTree, size: Numeric, max_iterations: Numeric, skip: Numeric = False
    ) -> SearchState:
        """The state before the first trial.

        Args:
            start: the trial at ``t = 0``, finite and with a negative slope.
            t: where to start.
            size: the direction's largest magnitude, as the length of a step of 1.
            max_iterations: how many evaluations may follow the first.
            skip: whether to stay at the start without an evaluation.
        """
        return SearchState(
            start=start,
            best=start,
            t=jnp.asarray(t, start.value.dtype),
            evaluations=jnp.asarray(0, jnp.int32),
            max_iterations=jnp.asarray(max_iterations, jnp.int32),
            size=jnp.asarray(size, start.value.dtype),
            done=jnp.asarray(skip),
            bracket=self.bracket_at(start),
        )

    def bracket_at(self, start: Trial) -> PyTree:
        """The search's memory before the first trial."""
        del start
        return ()

    def step(self, state: SearchState, trial: Trial) -> SearchState:
        """The state after the trial at ``state.t``.

        Its ``best`` must be this trial, the previous ``best``, or the start: only their gradients are kept.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define step")  # abstract: every subclass does


class Found(NamedTuple):
    """Where a line search ended, the gradient there, and how often it evaluated the objective."""

    trial: Trial
    grad: Vector
    evaluations: jax.Array


def search_along(
    search: LineSearch, objective: Objective, x: Vector, d: Vector, state: SearchState, grad: Vector
) -> Found:
    """Run a search from its ``state`` along ``d``, starting at ``x``, where the gradient is ``grad``.

    The loop carries only the gradient at ``best``. We identify a trial by its t: equal t have equal gradients.
    """

    def body(carry: tuple[SearchState, Vector]) -> tuple[SearchState, Vector]:
        state, kept = carry
        value, new = objective(x + state.t * d)
        trial = measured(state.t, value, new.dot(d))
        state = search.step(state, trial)
        return state, select(state.best.t == trial.t, new, kept)

    state = jax.tree.map(lambda leaf: axes.vary_as(leaf, state.start), state)  # each device may search on its own
    state, kept = jax.lax.while_loop(lambda carry: ~carry[0].done, body, (state, grad))
    return Found(state.best, select(state.best.t == 0, grad, kept), state.evaluations)
