"""Each line search alone, on scalar functions; and the gradient that the loop around them returns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from functorch_optim.line_search.fixed_step import FixedStep
from functorch_optim.line_search.hager_zhang import HagerZhang
from functorch_optim.line_search.search import Trial, measured, search_along
from functorch_optim.line_search.strong_wolfe import StrongWolfe
from functorch_optim.line_search.vectors import Vector

pytestmark = pytest.mark.usefixtures("x64")

# Value and slope; at 0 the slope is negative.
FUNCTIONS = {
    "quartic": lambda t: ((t - 3) ** 4, 4 * (t - 3) ** 3),
    "bend": lambda t: (np.sqrt(1 + (t - 5) ** 2), (t - 5) / np.sqrt(1 + (t - 5) ** 2)),
    "waves": lambda t: (0.1 * t**2 - np.sin(3 * t), 0.2 * t - 3 * np.cos(3 * t)),
    "valley": lambda t: (-t / (t**2 + 2), (t**2 - 2) / (t**2 + 2) ** 2),  # by Moré and Thuente
}
SEARCHES = {"fixed step": FixedStep(), "strong Wolfe": StrongWolfe(), "Hager-Zhang": HagerZhang()}
each_search = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)


@functools.cache
def step_of(search):
    return jax.jit(search.step)


def run(search, function, t=1.0, max_iterations=30, skip=False):
    """Return the last state, and all trials including the start."""

    def at(t):
        with np.errstate(all="ignore"):
            value, slope = function(np.float64(t))
        return measured(*(jnp.asarray(x, float) for x in (t, value, slope)))

    trials = [at(0.0)]
    state = search.init(trials[0], t, 1.0, max_iterations, skip)
    while not state.done:
        before = state
        trials.append(at(state.t))
        state = step_of(search)(state, trials[-1])
        assert state.evaluations == len(trials) - 1
        assert any(same(state.best, other) for other in (trials[-1], before.best, trials[0]))
    return state, trials


def same(a: Trial, b: Trial):
    return np.array_equal(a, b)


def barrier(t):
    """Not finite for t >= 1."""
    return -np.log(1 - t) - 3 * t, 1 / (1 - t) - 3


def nowhere(t):
    """Finite only at the start."""
    return (0.0, -1.0) if t == 0 else (np.nan, np.nan)


def waves(seed):
    """A random function with many valleys."""
    sizes, shifts = np.random.default_rng(seed).uniform(0, [[1], [6]], (2, 4))
    speeds = np.arange(1, 5)

    def function(t):
        angles = speeds * t + shifts
        return np.sum(sizes * np.sin(angles)), np.sum(sizes * speeds * np.cos(angles))

    return function if function(0)[1] < -0.1 else waves(seed + 1000)


starts = pytest.mark.parametrize("t", [1e-3, 0.1, 1.0, 30.0])
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


@starts
@each_function
def test_strong_wolfe_ends_where_its_conditions_hold(function, t):
    search = StrongWolfe(c2=0.1)
    state, trials = run(search, function, t)
    start, best = trials[0], state.best
    assert best.t > 0
    assert best.value <= start.value + search.c1 * best.t * start.slope
    assert abs(best.slope) <= search.c2 * abs(start.slope)


@starts
@each_function
@pytest.mark.parametrize("error", [0.0, 0.5])
def test_hager_zhang_ends_where_its_conditions_hold(function, t, error):
    search = HagerZhang(error=error)
    state, trials = run(search, function, t)
    start, best = trials[0], state.best
    assert best.t > 0
    assert (2 * search.delta - 1) * start.slope >= best.slope >= search.sigma * start.slope
    assert best.value <= start.value + error


def test_strong_wolfe_forgets_all_but_start_and_end_where_evaluations_end_before_a_bracket():
    """As torch does, even if a trial between them was lower."""
    state, trials = run(StrongWolfe(), lambda t: (-t, -1.0) if t <= 1 else (1.0, 1.0), max_iterations=1)
    assert trials[1].value < trials[0].value < trials[2].value
    assert same(state.best, trials[0])


def test_strong_wolfe_goes_on_between_the_two_lowest():
    """Even if the lower of them violates the condition of sufficient decrease."""

    def function(t):
        return (-0.4 * t, -0.4 if t else -1.0) if t < 1 else (-0.1, 0.1)

    state, trials = run(StrongWolfe(c1=0.5), function, max_iterations=1)
    assert trials[2].value < trials[1].value < trials[0].value
    assert same(state.best, trials[2]) and same(state.bracket.high, trials[1])


@pytest.mark.parametrize(("value", "ends"), [(0.0, [0.0, 0.0, 0.0]), (-0.1, [1.0, 0.7, 0.7])])
def test_strong_wolfe_keeps_torchs_end_where_values_are_equal(value, ends):
    """It keeps the first end: the start, or the trial that replaced it."""
    search = StrongWolfe(c1=0.5)
    state = search.init(Trial(*map(jnp.asarray, (0.0, 0.0, -1.0))), 1.0, 1.0, 9)
    for t, end in zip([1.0, 0.7, 0.8], ends, strict=True):
        state = step_of(search)(state, Trial(*map(jnp.asarray, (t, value, 0.6))))
        assert state.best.t == end


@pytest.mark.parametrize(
    ("search", "value", "slope", "ended"),
    [
        (StrongWolfe(c1=0.25), -0.2, 0.1, False),
        (StrongWolfe(c1=0.25), -0.3, 0.1, True),
        (StrongWolfe(c2=0.5), -0.3, -0.4, True),
        (StrongWolfe(c2=0.5), -0.3, -0.6, False),
        (StrongWolfe(c2=0.5), -0.3, 0.6, False),
        (HagerZhang(), 0.3, 0.5, False),
        (HagerZhang(error=0.2), 0.3, 0.5, False),
        (HagerZhang(error=0.4), 0.3, 0.5, True),
        (HagerZhang(delta=0.3), -0.3, 0.5, False),
        (HagerZhang(sigma=0.5), -0.3, -0.6, False),
        (HagerZhang(sigma=0.5), -0.3, -0.4, True),
    ],
)
def test_the_first_trial_ends_the_search_where_the_conditions_hold(search, value, slope, ended):
    """The start is at 0 with a slope of -1, the trial at 1."""
    start, trial = (Trial(*map(jnp.asarray, numbers)) for numbers in ((0.0, 0.0, -1.0), (1.0, value, slope)))
    state = search.step(search.init(start, 1.0, 1.0, 9), trial)
    assert bool(state.done) is ended
    assert not ended or same(state.best, trial)


@each_search
def test_a_trial_that_is_not_finite_is_left_tenfold(search):
    state, trials = run(search, barrier, 100.0)
    np.testing.assert_allclose([trial.t for trial in trials[:5]], [0, 100, 10, 1, 0.1])
    assert state.best.value < trials[0].value


@each_search
def test_a_trial_stands_somewhere_also_where_the_squares_of_slopes_overflow(search):
    state, trials = run(search, lambda t: (-1e155 * min(t, 1), -1e154 if t < 1 else -0.95e154), max_iterations=6)
    assert all(np.isfinite(trial.t) for trial in trials)
    assert state.best.t > 0


@each_search
def test_where_nothing_is_finite_the_search_returns_the_start(search):
    state, trials = run(search, nowhere)
    assert same(state.best, trials[0])
    assert 1e-11 <= trials[-1].t <= 1e-8


def test_a_fixed_step_is_the_first_that_is_finite():
    for function, t, wanted in ((FUNCTIONS["quartic"], 50.0, 50.0), (barrier, 5.0, 0.5), (barrier, 0.9, 0.9)):
        state, trials = run(FixedStep(), function, t)
        assert state.best.t == wanted and same(state.best, trials[-1])


@pytest.mark.parametrize("backtracks", [0, 3])
def test_a_fixed_step_is_shortened_so_often(backtracks):
    state, trials = run(FixedStep(backtracks=backtracks), nowhere)
    assert state.evaluations == backtracks + 1 and same(state.best, trials[0])


@pytest.mark.parametrize("max_iterations", [-3, 0, 1, 2, 4])
@each_search
def test_the_bound_on_evaluations(search, max_iterations):
    for seed in range(20):
        for t in (1e-3, 1.0, 20.0):
            state, trials = run(search, waves(seed), t, max_iterations)
            assert 1 <= state.evaluations <= max(max_iterations, 0) + 1
            if not isinstance(search, FixedStep):
                assert state.best.value <= trials[0].value
    ended = run(search, waves(0), 1e-9, max_iterations)[0].evaluations  # the minimum is far from there
    assert isinstance(search, FixedStep) or ended == max(max_iterations, 0) + 1


@each_search
def test_a_skipped_search_stays_at_its_start(search):
    state, trials = run(search, FUNCTIONS["quartic"], skip=True)
    assert state.evaluations == 0 and same(state.best, trials[0])


def test_hager_zhang_returns_the_lowest_trial_where_none_is_good_enough():
    search = HagerZhang(delta=0.4999, sigma=1e-4)
    for seed in range(20):
        state, trials = run(search, waves(seed), 3.0, max_iterations=3)
        assert state.evaluations == 4
        assert state.best.value == min(trial.value for trial in trials)


@each_search
def test_the_gradient_is_that_of_the_point(search):
    """Even if a search returns to a point other than its last."""
    direction = Vector((jnp.array([1.0, -2.0]), jnp.array(0.5)))
    base = Vector((jnp.array([0.3, 0.2]), jnp.array(-0.1)))

    def objective(x, shift):
        value = sum(jnp.sum(jnp.sin(3 * part + shift) + 0.1 * part**2) for part in x.parts)
        return jnp.where(jnp.abs(x.parts[1]) < 3, value, jnp.nan)

    @jax.jit
    def found(shift, t, max_iterations):
        of = jax.value_and_grad(functools.partial(objective, shift=shift))
        value, grad = of(base)
        d = -jnp.sign(grad.dot(direction)) * direction
        start = Trial(jnp.zeros(()), value, grad.dot(d))
        state = search.init(start, t, d.largest(), max_iterations)
        found = search_along(search, of, base, d, state, grad)
        right_value, right = of(base + found.trial.t * d)
        return found.trial, right_value, (found.grad - right).largest(), right.dot(d) - found.trial.slope

    ends = []
    for shift in np.linspace(0, 6, 13):
        for t in (0.01, 1.0, 50.0):
            for max_iterations in (0, 1, 3, 10):
                trial, value, *errors = found(shift, t, max_iterations)
                np.testing.assert_allclose([trial.value - value, *errors], 0, atol=1e-12)
                ends.append(float(trial.t))
    if isinstance(search, FixedStep):
        assert set(ends) == {0.01, 1.0, 5.0}
    else:
        assert 0 in ends and len(set(ends)) > 10


@pytest.mark.torch
def test_strong_wolfe_tries_what_torch_tries():
    torch = pytest.importorskip("torch", reason="it is torch's line search")
    from torch.optim.lbfgs import _strong_wolfe

    def rounded(function):
        """Round the values, so that many are equal."""
        return lambda t: (np.round(2 * function(t)[0]), 2 * function(t)[1])

    random = [*map(waves, range(15))]
    for function in (*FUNCTIONS.values(), *random, *map(rounded, random)):
        for t in (0.1, 1.0, 30.0):  # shorter steps would expose the cubic's rounding
            for most in (1, 3, 25):
                tried = []

                def objective(x, t, d, function=function, tried=tried):
                    tried.append(float(t))
                    value, slope = function(np.float64(t))
                    return float(value), torch.tensor([slope], dtype=torch.float64)

                (value, grad), one = objective(None, 0.0, None), torch.ones(1, dtype=torch.float64)
                ended = _strong_wolfe(objective, 0 * one, t, one, value, grad, grad.dot(one), max_ls=most)
                state, trials = run(StrongWolfe(), function, t, most)
                np.testing.assert_allclose([trial.t for trial in trials], tried, rtol=1e-9)
                np.testing.assert_allclose(state.best.t, float(ended[2]), rtol=1e-9)
