"""A line search for the strong Wolfe conditions: bracketing, then zooming, by cubic interpolation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.line_search.search import LineSearch, SearchState, Trial
from functorch_optim.line_search.vectors import select
from functorch_optim.typing import Numeric


class Bracket(NamedTuple):
    """The best point is the bracket's low end; before there is a bracket, it is the last point."""

    zooming: jax.Array  # whether there is a bracket
    high: Trial
    low_is_first: jax.Array  # if both ends are equally high, torch takes the first as the low one
    stalled: jax.Array  # whether the last interpolation fell close to an end


class StrongWolfe(LineSearch):
    """Find a point with ``f(t) <= f(0) + c1 t f'(0)`` and ``|f'(t)| <= c2 |f'(0)|``, else return the lowest found.

    Args:
        c1, c2: the constants of the conditions.
        tolerance_change: the search ends when the bracket times the direction's largest magnitude is below it.

    A point where value or slope is not finite counts as infinitely high: the search steps back from it, and never
    returns a point higher than the start.

    Two gradients are enough, at the start and at ``best``. A high end never becomes the low one: the next low end is
    the previous one or the new point. If the evaluations run out before there is a bracket, torch returns the start
    or the new point.

    Source: Nocedal and Wright, "Numerical Optimization", 2006, algorithms 3.5 and 3.6, in the form of torch's LBFGS.
    """

    c1: float = 1e-4
    c2: float = 0.9
    tolerance_change: float = 1e-9

    def bracket_at(self, start: Trial) -> Bracket:
        no = jnp.asarray(False)
        return Bracket(zooming=no, high=start, low_is_first=no, stalled=no)

    def step(self, state: SearchState, trial: Trial) -> SearchState:
        state = state.counted()
        state = select(state.bracket.zooming, self._zoom(state, trial), self._extend(state, trial))
        return select(state.bracket.zooming & ~state.done, self._interpolate(state), state)

    def _above(self, start: Trial, trial: Trial) -> jax.Array:
        return trial.value > start.value + self.c1 * trial.t * start.slope

    def _flat(self, start: Trial, trial: Trial) -> jax.Array:
        return jnp.abs(trial.slope) <= -self.c2 * start.slope

    def _extend(self, state: SearchState, trial: Trial) -> SearchState:
        """Try longer steps until there is a bracket."""
        before, iterations, ended = state.best, state.evaluations - 1, state.spent
        failed = self._above(state.start, trial) | ((iterations > 1) & (trial.value >= before.value))
        found = ~ended & ~failed & self._flat(state.start, trial)
        onward = ~ended & ~failed & ~found & (trial.slope < 0)
        other = select(ended, state.start, before)
        lower = ~found & ~onward & (other.value <= trial.value)
        return state._replace(
            best=select(lower, other, trial),
            t=cubic_interpolate(before, trial, trial.t + 0.01 * (trial.t - before.t), trial.t * 10),
            done=ended | found,
            bracket=state.bracket._replace(
                zooming=~ended & ~found & ~onward, high=select(lower, trial, other), low_is_first=lower
            ),
        )

    def _zoom(self, state: SearchState, trial: Trial) -> SearchState:
        """Replace an end with the trial."""
        low, (_, high, low_is_first, _) = state.best, state.bracket
        worse = self._above(state.start, trial) | (trial.value >= low.value)
        found = ~worse & self._flat(state.start, trial)
        turned = ~worse & ~found & (trial.slope * (high.t - low.t) >= 0)
        lower = jnp.where(low_is_first, low.value <= trial.value, low.value < trial.value)
        stays, swapped = worse & lower, worse & ~lower
        return state._replace(
            best=select(stays, low, trial),
            done=found,
            bracket=state.bracket._replace(
                high=select(stays, trial, select(turned | swapped, low, high)), low_is_first=low_is_first ^ swapped
            ),
        )

    def _interpolate(self, state: SearchState) -> SearchState:
        """Choose the next trial between the ends."""
        low, high = state.best, state.bracket.high
        left, right = jnp.minimum(low.t, high.t), jnp.maximum(low.t, high.t)
        t, margin = cubic_interpolate(low, high, left, right), 0.1 * (right - left)
        near = jnp.minimum(right - t, t - left) < margin
        forced = near & (state.bracket.stalled | (t >= right) | (t <= left))
        pushed = jnp.where(jnp.abs(t - right) < jnp.abs(t - left), right - margin, left + margin)
        return state._replace(
            t=jnp.where(forced, pushed, t),
            done=state.spent | ((right - left) * state.size < self.tolerance_change),
            bracket=state.bracket._replace(stalled=near & ~forced),
        )


def cubic_interpolate(a: Trial, b: Trial, low: Numeric, high: Numeric) -> jax.Array:
    """The minimum of the cubic through two points with their slopes, limited to [low, high].

    If there is none, the middle; if the value of one point is not finite, a tenth of the way from the other.
    """
    first, last = select(a.t <= b.t, (a, b), (b, a))
    apart = jnp.where(a.t == b.t, 1, a.t - b.t)
    d1 = a.slope + b.slope - 3 * (a.value - b.value) / apart
    square = d1 * d1 - a.slope * b.slope
    d2 = jnp.sqrt(jnp.maximum(square, 0))
    width, curve = last.t - first.t, last.slope - first.slope + 2 * d2
    minimum = last.t - width * ((last.slope + d2 - d1) / jnp.where(curve == 0, 1, curve))
    minimum = jnp.where(curve == 0, jnp.where(last.slope + d2 - d1 > 0, -jnp.inf, jnp.inf), minimum)
    known = (square >= 0) & ~jnp.isnan(minimum)  # NaN where the square overflows
    inside = jnp.where(known, jnp.clip(minimum, low, high), (low + high) / 2)
    careful = jnp.where(jnp.isfinite(a.value), a.t + 0.1 * (b.t - a.t), b.t + 0.1 * (a.t - b.t))
    return jnp.where(jnp.isfinite(a.value) & jnp.isfinite(b.value), inside, careful)
