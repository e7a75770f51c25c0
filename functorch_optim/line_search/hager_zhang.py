"""The line search of Hager and Zhang: secant steps in a bracket, until the approximate Wolfe conditions hold."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.line_search.points import Line, Point, Search, select

# EXPAND: no upper end yet; SHRINK: the upper end lies too high; then the rounds of secant2 and a bisection.
EXPAND, SHRINK, SECANT, SECANT_AGAIN, BISECT, DONE = range(6)
EXPANSION, REDUCTION = 5.0, 0.66  # rho and gamma of the paper


class _Progress(NamedTuple):
    """The bracket [a, b]: at a the slope is negative and the value low; at b the slope is not negative, or, for a
    while, the value is high. ``before`` has the ends of the round's beginning."""

    stage: jax.Array
    t: jax.Array  # to be evaluated next
    evaluations: jax.Array
    a: Point
    b: Point
    before: tuple[jax.Array, jax.Array, jax.Array, jax.Array]  # t and slope of a, then of b
    best: Point


def hager_zhang(
    line: Line,
    start: Point,
    t: jax.Array,
    direction_size: jax.Array,
    max_iterations: jax.Array,
    skip: Any = False,
    error: Any = 0.0,
    delta: float = 0.1,
    sigma: float = 0.9,
    tolerance_change: Any = 1e-9,
) -> Search:
    """A point with ``(2 delta - 1) f'(0) >= f'(t) >= sigma f'(0)`` and ``f(t) <= f(0) + error``.

    Args:
        line: evaluates the objective at a ``t``.
        start: the point at ``t = 0``, with a negative slope.
        t: where to begin.
        direction_size: the largest magnitude in the direction; the search ends when the bracket times it is below
            ``tolerance_change``.
        max_iterations: how many evaluations may follow the first.
        skip: whether to stay at the start without an evaluation.
        error: how much of the values is rounding; :class:`functorch_optim.algorithms.bfgs.BFGS` adapts it.
        delta, sigma: the constants of the conditions.
        tolerance_change: see ``direction_size``.

    Where the search ends without such a point it returns the lowest one seen, the start included.

    Source: Hager and Zhang, "A new conjugate gradient method with guaranteed descent and an efficient line search",
    SIAM J. Optim. 2005, section 4.
    """
    dtype = start.value.dtype
    bound = start.value + error

    def satisfied(new: Point) -> jax.Array:
        slopes = ((2 * delta - 1) * start.slope >= new.slope) & (new.slope >= sigma * start.slope)
        return slopes & (new.value <= bound)

    def middle(a: Point, b: Point) -> jax.Array:
        return a.t + jnp.where(jnp.isfinite(b.value), 0.5, 0.1) * (b.t - a.t)

    def begin_round(p: _Progress) -> _Progress:
        """Secant, or where it falls outside, bisection."""
        c = secant(p.a.t, p.a.slope, p.b.t, p.b.slope)
        inside = (c > p.a.t) & (c < p.b.t)
        return p._replace(
            stage=jnp.where(inside, SECANT, BISECT).astype(jnp.int32),
            t=jnp.where(inside, c, middle(p.a, p.b)),
            before=(p.a.t, p.a.slope, p.b.t, p.b.slope),
        )

    def end_of_secants(p: _Progress) -> _Progress:
        a_t, _, b_t, _ = p.before
        wide = p.b.t - p.a.t > REDUCTION * (b_t - a_t)
        bisect = p._replace(stage=jnp.asarray(BISECT, jnp.int32), t=middle(p.a, p.b))
        return select(wide, bisect, begin_round(p))

    def second_secant(p: _Progress, c: jax.Array) -> _Progress:
        a_t, a_slope, b_t, b_slope = p.before
        from_b = secant(b_t, b_slope, p.b.t, p.b.slope)
        from_a = secant(a_t, a_slope, p.a.t, p.a.slope)
        again = jnp.where(c == p.b.t, from_b, from_a)
        useful = ((c == p.b.t) | (c == p.a.t)) & (again > p.a.t) & (again < p.b.t)
        return select(useful, p._replace(stage=jnp.asarray(SECANT_AGAIN, jnp.int32), t=again), end_of_secants(p))

    def advance(p: _Progress, new: Point) -> _Progress:
        rising, low = new.slope >= 0, new.value <= bound
        p = p._replace(
            a=select(~rising & low, new, p.a),
            b=select(rising | ~low, new, p.b),
            best=select(new.value < p.best.value, new, p.best),
        )
        growing = (p.stage == EXPAND) & ~rising & low
        high = ~growing & (p.b.slope < 0)
        onward = select(p.stage == SECANT, second_secant(p, new.t), begin_round(p))
        onward = select(p.stage == SECANT_AGAIN, end_of_secants(p), onward)
        shrinking = p._replace(stage=jnp.where(p.stage == EXPAND, SHRINK, p.stage), t=middle(p.a, p.b))
        following = select(high, shrinking, onward)
        return select(growing, p._replace(t=EXPANSION * new.t), following)

    def body(p: _Progress) -> _Progress:
        new = line(p.t)
        found = satisfied(new)
        following = advance(p._replace(evaluations=p.evaluations + 1), new)
        spent = following.evaluations - 1 >= max_iterations
        narrow = (following.stage != EXPAND) & ((following.b.t - following.a.t) * direction_size < tolerance_change)
        stage = jnp.where(found | spent | narrow, DONE, following.stage).astype(jnp.int32)
        return following._replace(stage=stage, best=select(found, new, following.best))

    first = _Progress(
        stage=jnp.where(skip, DONE, EXPAND).astype(jnp.int32),
        t=jnp.asarray(t, dtype),
        evaluations=jnp.asarray(0, jnp.int32),
        a=start,
        b=start,
        before=(start.t, start.slope, start.t, start.slope),
        best=start,
    )
    last = jax.lax.while_loop(lambda p: p.stage != DONE, body, first)
    return Search(last.best, last.evaluations)


def secant(a: Any, a_slope: Any, b: Any, b_slope: Any) -> jax.Array:
    """Where a slope that falls on a straight line through two would be zero; NaN where it never is."""
    rise = b_slope - a_slope
    return jnp.where(rise == 0, jnp.nan, (a * b_slope - b * a_slope) / jnp.where(rise == 0, 1, rise))
