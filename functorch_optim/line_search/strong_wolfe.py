"""A line search for the strong Wolfe conditions: bracketing, then zooming, by cubic interpolation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.line_search.points import Line, Point, Search, select

BRACKET, ZOOM, DONE = 0, 1, 2


class _Progress(NamedTuple):
    """``ends`` are the two ends of the bracket; while bracketing the first is the point before."""

    phase: jax.Array
    t: jax.Array  # to be evaluated next
    evaluations: jax.Array
    ends: tuple[Point, Point]
    low: jax.Array  # which end has the lower value
    stalled: jax.Array  # whether the last interpolation fell close to an end


def cubic_interpolate(a: Point, b: Point, low: Any, high: Any) -> jax.Array:
    """The minimum of the cubic through two points and their slopes, limited to [low, high].

    Where there is none, the middle; where the value of a point is not finite, a tenth of the way from the other.
    """
    first, last = select(a.t <= b.t, (a, b), (b, a))
    apart = jnp.where(a.t == b.t, 1, a.t - b.t)
    d1 = a.slope + b.slope - 3 * (a.value - b.value) / apart
    square = d1 * d1 - a.slope * b.slope
    d2 = jnp.sqrt(jnp.maximum(square, 0))
    width, curve = last.t - first.t, last.slope - first.slope + 2 * d2
    minimum = last.t - width * ((last.slope + d2 - d1) / jnp.where(curve == 0, 1, curve))
    minimum = jnp.where(curve == 0, jnp.where(last.slope + d2 - d1 > 0, -jnp.inf, jnp.inf), minimum)
    inside = jnp.where(square >= 0, jnp.clip(minimum, low, high), (low + high) / 2)
    careful = jnp.where(jnp.isfinite(a.value), a.t + 0.1 * (b.t - a.t), b.t + 0.1 * (a.t - b.t))
    return jnp.where(jnp.isfinite(a.value) & jnp.isfinite(b.value), inside, careful)


def strong_wolfe(
    line: Line,
    start: Point,
    t: jax.Array,
    direction_size: jax.Array,
    max_iterations: jax.Array,
    skip: Any = False,
    c1: float = 1e-4,
    c2: float = 0.9,
    tolerance_change: float = 1e-9,
) -> Search:
    """A point with ``f(t) <= f(0) + c1 t f'(0)`` and ``|f'(t)| <= c2 |f'(0)|``, or the lowest one found.

    Args:
        line: evaluates the objective at a ``t``.
        start: the point at ``t = 0``, with a negative slope.
        t: where to begin.
        direction_size: the largest magnitude in the direction; the search ends when the bracket times it is below
            ``tolerance_change``.
        max_iterations: how many evaluations may follow the first.
        skip: whether to stay at the start without an evaluation.
        c1, c2: the constants of the conditions.
        tolerance_change: see ``direction_size``.

    A point where value or slope is not finite counts as infinitely high: the search steps back from it, and what it
    returns is never higher than the start.

    Source: Nocedal and Wright, "Numerical Optimization", 2006, algorithms 3.5 and 3.6, in the form of torch's LBFGS.
    """
    dtype = start.value.dtype

    def above(new: Point) -> jax.Array:
        return new.value > start.value + c1 * new.t * start.slope

    def flat(new: Point) -> jax.Array:
        return jnp.abs(new.slope) <= -c2 * start.slope

    def lower_end(ends: tuple[Point, Point]) -> jax.Array:
        return jnp.where(ends[0].value <= ends[1].value, 0, 1).astype(jnp.int32)

    def bracket(p: _Progress, new: Point) -> _Progress:
        before, iterations = p.ends[0], p.evaluations - 1
        exhausted = iterations >= max_iterations
        failed = above(new) | ((iterations > 1) & (new.value >= before.value))
        found = ~exhausted & ~failed & flat(new)
        onward = ~exhausted & ~failed & ~found & (new.slope < 0)
        longer = cubic_interpolate(before, new, new.t + 0.01 * (new.t - before.t), new.t * 10)
        ends = select(exhausted, (start, new), (before, new))
        ends = select(found | onward, (new, new), ends)
        phase = jnp.where(exhausted | found, DONE, jnp.where(onward, BRACKET, ZOOM))
        return p._replace(phase=phase.astype(jnp.int32), t=longer, ends=ends, low=lower_end(ends))

    def zoom(p: _Progress, new: Point) -> _Progress:
        low, high = select(p.low == 0, p.ends, p.ends[::-1])
        worse = above(new) | (new.value >= low.value)
        found = ~worse & flat(new)
        turned = ~worse & ~found & (new.slope * (high.t - low.t) >= 0)
        new_low, new_high = select(worse, low, new), select(worse, new, select(turned, low, high))
        ends = select(p.low == 0, (new_low, new_high), (new_high, new_low))
        return p._replace(
            phase=jnp.where(found, DONE, ZOOM).astype(jnp.int32),
            ends=ends,
            low=jnp.where(worse, lower_end(ends), p.low),
        )

    def next_trial(p: _Progress) -> _Progress:
        one, other = p.ends
        left, right = jnp.minimum(one.t, other.t), jnp.maximum(one.t, other.t)
        spent = (p.evaluations - 1 >= max_iterations) | ((right - left) * direction_size < tolerance_change)
        t = cubic_interpolate(one, other, left, right)
        margin = 0.1 * (right - left)
        near = jnp.minimum(right - t, t - left) < margin
        forced = near & (p.stalled | (t >= right) | (t <= left))
        pushed = jnp.where(jnp.abs(t - right) < jnp.abs(t - left), right - margin, left + margin)
        return p._replace(
            phase=jnp.where(spent, DONE, ZOOM).astype(jnp.int32), t=jnp.where(forced, pushed, t), stalled=near & ~forced
        )

    def body(p: _Progress) -> _Progress:
        new = line(p.t)
        p = p._replace(evaluations=p.evaluations + 1)
        p = select(p.phase == BRACKET, bracket(p, new), zoom(p, new))
        return select(p.phase == ZOOM, next_trial(p), p)

    first = _Progress(
        phase=jnp.where(skip, DONE, BRACKET).astype(jnp.int32),
        t=jnp.asarray(t, dtype),
        evaluations=jnp.asarray(0, jnp.int32),
        ends=(start, start),
        low=jnp.asarray(0, jnp.int32),
        stalled=jnp.asarray(False),
    )
    last = jax.lax.while_loop(lambda p: p.phase != DONE, body, first)
    return Search(select(last.low == 0, *last.ends), last.evaluations)
