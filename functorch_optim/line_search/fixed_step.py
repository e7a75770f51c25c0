"""A step of given length instead of a search, shortened until the objective is finite."""

import jax.numpy as jnp

from functorch_optim.line_search.search import LineSearch, SearchState, Trial
from functorch_optim.line_search.vectors import select


class FixedStep(LineSearch):
    """Take the first trial, a nearer one if the objective is not finite there, or the start if it never is.

    Args:
        backtracks: how often to shorten the step, tenfold each time. The search has no other limit.
    """

    backtracks: int = 10

    def step(self, state: SearchState, trial: Trial) -> SearchState:
        state, sound = state.counted(), jnp.isfinite(trial.value)
        best = select(sound, trial, state.best)
        return state._replace(best=best, t=0.1 * trial.t, done=sound | (state.evaluations > self.backtracks))
