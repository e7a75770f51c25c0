"""The line search of Hager and Zhang: secant steps in a bracket, until the approximate Wolfe conditions hold."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.line_search.search import LineSearch, SearchState, Trial
from functorch_optim.line_search.vectors import select
from functorch_optim.typing import Numeric

# EXPAND: no upper end yet; SHRINK: the upper end lies too high; then the rounds of secant2 and a bisection.
EXPAND, SHRINK, SECANT, SECANT_AGAIN, BISECT = range(5)
EXPANSION, REDUCTION = 5.0, 0.66  # rho and gamma of the paper


class Bracket(NamedTuple):
    """The bracket [a, b] of a search.

    At a the slope is negative and the value low; at b the slope is not negative or, for a while, the value is high.
    ``before`` has the ends at the start of the round.
    """

    stage: jax.Array
    t: jax.Array  # where to evaluate next
    a: Trial
    b: Trial
    before: tuple[Trial, Trial]


class HagerZhang(LineSearch):
    """Find a point with ``(2 delta - 1) f'(0) >= f'(t) >= sigma f'(0)`` and ``f(t) <= f(0) + error``.

    Args:
        error: the rounding error of the values; :class:`functorch_optim.algorithms.bfgs.BFGS` adapts it.
        delta, sigma: the constants of the conditions.
        tolerance_change: the search ends when the bracket times the direction's largest magnitude is below it.

    If the search ends without such a point, it returns the lowest one seen, the start included.

    Source: Hager and Zhang, "A new conjugate gradient method with guaranteed descent and an efficient line search",
    SIAM J. Optim. 2005, section 4.
    """

    error: Numeric = 0.0
    delta: float = 0.1
    sigma: float = 0.9
    tolerance_change: Numeric = 1e-9

    def bracket_at(self, start: Trial) -> Bracket:
        return Bracket(jnp.asarray(EXPAND, jnp.int32), start.t, a=start, b=start, before=(start, start))

    def step(self, state: SearchState, trial: Trial) -> SearchState:
        state, start = state.counted(), state.start
        bound = start.value + self.error
        slopes = ((2 * self.delta - 1) * start.slope >= trial.slope) & (trial.slope >= self.sigma * start.slope)
        found = slopes & (trial.value <= bound)
        bracket = narrowed(state.bracket, trial, trial.value <= bound)
        narrow = (bracket.stage != EXPAND) & ((bracket.b.t - bracket.a.t) * state.size < self.tolerance_change)
        best = select(found | (trial.value < state.best.value), trial, state.best)
        return state._replace(best=best, t=bracket.t, done=found | state.spent | narrow, bracket=bracket)


def narrowed(p: Bracket, trial: Trial, low: jax.Array) -> Bracket:
    """Make the trial an end of the bracket and choose the next one; ``low`` says whether the trial's value is low."""
    rising = trial.slope >= 0
    p = p._replace(a=select(~rising & low, trial, p.a), b=select(rising | ~low, trial, p.b))
    growing = (p.stage == EXPAND) & ~rising & low
    onward = select(p.stage == SECANT, _second_secant(p, trial.t), _begin_round(p))
    onward = select(p.stage == SECANT_AGAIN, _end_of_secants(p), onward)
    shrinking = p._replace(stage=jnp.where(p.stage == EXPAND, SHRINK, p.stage), t=_middle(p))
    following = select(~growing & (p.b.slope < 0), shrinking, onward)
    return select(growing, p._replace(t=EXPANSION * trial.t), following)


def _middle(p: Bracket) -> jax.Array:
    return p.a.t + jnp.where(jnp.isfinite(p.b.value), 0.5, 0.1) * (p.b.t - p.a.t)


def _begin_round(p: Bracket) -> Bracket:
    """Try the secant, or bisect if it falls outside."""
    c = secant(p.a, p.b)
    inside = (c > p.a.t) & (c < p.b.t)
    stage = jnp.where(inside, SECANT, BISECT).astype(jnp.int32)
    return p._replace(stage=stage, t=jnp.where(inside, c, _middle(p)), before=(p.a, p.b))


def _second_secant(p: Bracket, c: jax.Array) -> Bracket:
    """Try the secant through the end that moved to ``c`` and its previous place."""
    a, b = p.before
    again = jnp.where(c == p.b.t, secant(b, p.b), secant(a, p.a))
    useful = ((c == p.b.t) | (c == p.a.t)) & (again > p.a.t) & (again < p.b.t)
    return select(useful, p._replace(stage=jnp.asarray(SECANT_AGAIN, jnp.int32), t=again), _end_of_secants(p))


def _end_of_secants(p: Bracket) -> Bracket:
    """Bisect if the bracket has not become much shorter, else begin the next round."""
    a, b = p.before
    wide = p.b.t - p.a.t > REDUCTION * (b.t - a.t)
    return select(wide, p._replace(stage=jnp.asarray(BISECT, jnp.int32), t=_middle(p)), _begin_round(p))


def secant(a: Trial, b: Trial) -> jax.Array:
    """Where the straight line through two slopes is zero; NaN if it never is."""
    rise = b.slope - a.slope
    return jnp.where(rise == 0, jnp.nan, (a.t * b.slope - b.t * a.slope) / jnp.where(rise == 0, 1, rise))
