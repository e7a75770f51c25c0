"""Schedules: torch's values, in doubles on the host and to full precision in float32, at any step in any order."""

import functools
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import functorch_optim as fo
from functorch_optim import optim, schedules
from tests import comparison, schedule_cases
from tests.algorithms import names
from tests.schedule_cases import PLATEAUS

OTHERS = [
    schedules.constant(0.1),
    schedules.cosine_annealing(1.0, T_max=4, eta_min=0.1),
    schedules.cosine_annealing(3e-4, T_max=1000),
    schedules.warmup_cosine(1.0, warmup_steps=3, total_steps=11, end=0.1),
    schedules.warmup_cosine(3e-4, warmup_steps=0, total_steps=5),
    schedules.warmup_stable_decay(1.0, 2, 3, 4, end=0.1),
    schedules.warmup_stable_decay(1.0, 0, 3, 0),
    schedules.inverse_sqrt(1.0, 4),
    schedules.inverse_sqrt(1.0, 0),
    schedules.swa_annealing(0.1, 0.05, 4),
    schedules.swa_annealing(0.1, 0.05, 5, "linear"),
    schedules.warmup(schedules.exponential_decay(1.0, 0.9), 3, 0.25),
    schedules.warmup(0.5, 0),
    schedules.sequential([schedules.linear(1.0), schedules.cosine_annealing(1.0, 5), 0.25], [5, 8]),
    schedules.sequential([schedules.linear(1.0), schedules.exponential_decay(2.0, 0.5)], [0]),
    schedules.chained(0.1, [schedules.linear(1.0), schedules.step_decay(1.0, 3, 0.5)]),
    schedules.chained(0.1, [schedules.sequential([0.5, schedules.chained(1.0, [schedules.linear(1.0)])], [4])]),
]
ALL = OTHERS + [schedule for schedule, _, _ in schedule_cases.ALL.values()]
every = pytest.mark.parametrize("schedule", ALL, ids=[f"{i}-{type(one).__name__}" for i, one in enumerate(ALL)])


each_case = pytest.mark.parametrize("label", schedule_cases.ALL)
# torch's recursion has drifted from its own closed form by then; ours does not
TOLERANCE = {"cosine": 1e-11, "cosine-short": 1e-11}


@each_case
def test_values_are_torchs(label, x64):
    """At all steps from 0 to 2000, in doubles on the host, traced in float64, and out of order."""
    schedule, expected = schedule_cases.ALL[label][0], comparison.recorded("schedules")[label]
    error = TOLERANCE.get(label, 1e-12) * np.max(np.abs(expected))
    np.testing.assert_allclose([schedule(step) for step in range(len(expected))], expected, rtol=0, atol=error)
    order = np.random.default_rng(0).permutation(len(expected))
    together = jax.jit(jax.vmap(schedule))(jnp.asarray(order))
    np.testing.assert_allclose(together, expected[order], rtol=0, atol=error)


@each_case
def test_values_in_float32(label):
    schedule, expected = schedule_cases.ALL[label][0], comparison.recorded("schedules")[label]
    values = jax.jit(schedule)(jnp.arange(len(expected), dtype=jnp.int32))
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, expected, rtol=0, atol=5e-7 * np.max(np.abs(expected)))


@pytest.mark.torch
@each_case
def test_recorded_values_are_torchs(label):
    pytest.importorskip("torch", reason="the live comparison needs torch; the recorded values do not")
    from tests import torch_run

    np.testing.assert_allclose(torch_run.run_schedule(label), comparison.recorded("schedules")[label], rtol=1e-13)


RECURSIVE = {label for label, (schedule, _, _) in schedule_cases.ALL.items() if hasattr(schedule, "next")}


@pytest.mark.parametrize("label", sorted(RECURSIVE))
def test_each_value_from_the_one_before(label):
    schedule = schedule_cases.ALL[label][0]
    value = schedule(0)
    for step in range(1, 301):
        value = schedule.next(value, step)
        assert value == pytest.approx(schedule(step), rel=1e-10, abs=1e-12)


def test_one_cycle_stays_after_the_last_step():
    """torch continues along the last phase: up again, or below zero."""
    for strategy in ("cos", "linear"):
        schedule = schedules.one_cycle(1.0, 10, anneal_strategy=strategy)
        assert schedule(10) == pytest.approx(schedule(9)) == pytest.approx(1 / 25e4)
    assert schedules.one_cycle_momentum(10)(50) == 0.95
    assert schedules.one_cycle(1.0, 10, pct_start=0.1)(0) == 1.0  # torch divides by zero


def test_unsigned_and_large_steps():
    schedule = schedules.warmup_stable_decay(1.0, 2, 5, 4)
    for step in (jnp.uint32(3), np.uint32(3), np.uint64(3), np.int64(3)):
        assert float(schedule(step)) == 1.0
    assert float(schedules.multi_step_decay(1.0, (16_777_217,), 0.5)(jnp.asarray(16_777_217))) < 0.51


def test_a_warm_up_of_an_array():
    schedule = schedules.warmup(jnp.array(0.5), 4)
    assert hash(schedule) == hash(schedules.warmup(jnp.array(0.5), 4))
    assert float(jax.jit(lambda a: schedules.warmup(a, 4)(2))(0.5)) == 0.25
    with pytest.raises(TypeError, match="schedule must hold schedules, functions of the step or numbers"):
        schedules.warmup("x", 4)


def test_multiplicative():
    factor = lambda step: 1 / (1 + step)  # noqa: E731 one line
    schedule = schedules.multiplicative(2.0, factor)
    expected = [2.0 / math.factorial(step + 1) for step in range(8)]
    np.testing.assert_allclose([schedule(step) for step in range(8)], expected, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(schedule)(jnp.arange(8)), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(schedule)(jnp.int32(7)), expected[7], rtol=1e-6)


@given(st.data())
def test_compositions_are_their_parts(data):
    """Sequential of chained of ..., up to three deep: the value follows from the parts, on the host and traced."""
    schedule, direct = data.draw(compositions(3))
    step = data.draw(st.integers(0, 60))
    assert schedule(step) == pytest.approx(direct(step), rel=1e-12, abs=1e-15)
    assert float(schedule(jnp.int32(step))) == pytest.approx(direct(step), rel=1e-5, abs=1e-6)


SIMPLE = [
    (schedules.linear(1.0, 0.2, 1.0, 7), lambda k: 0.2 + 0.8 * min(k, 7) / 7),
    (schedules.exponential_decay(1.0, 0.9), lambda k: 0.9**k),
    (schedules.constant_factor(1.0, 0.5, 3), lambda k: 0.5 if k < 3 else 1.0),
    (schedules.step_decay(1.0, 4, 0.5), lambda k: 0.5 ** (k // 4)),
    (schedules.cosine_annealing(1.0, 6, 0.1), lambda k: 0.1 + 0.45 * (1 + math.cos(math.pi * (k % 12) / 6))),
]


@st.composite
def compositions(draw, depth):
    """Draw a schedule, and the same as a plain function."""
    kind = draw(st.sampled_from(["simple", "sequential", "chained", "warmup"])) if depth else "simple"
    if kind == "simple":
        return draw(st.sampled_from(SIMPLE))
    parts = draw(st.lists(compositions(depth - 1), min_size=2, max_size=3))
    if kind == "chained":
        return schedules.chained(0.5, [s for s, _ in parts]), lambda k: 0.5 * math.prod(f(k) for _, f in parts)
    if kind == "warmup":
        (inner, function), steps = parts[0], draw(st.integers(1, 9))
        rising = lambda k: function(0) * k / steps if k < steps else function(k - steps)  # noqa: E731 one line
        return schedules.warmup(inner, steps), rising
    milestones = sorted(draw(st.lists(st.integers(0, 40), min_size=len(parts) - 1, max_size=len(parts) - 1)))

    def direct(k):
        index = sum(k >= milestone for milestone in milestones)
        return parts[index][1](k - (milestones[index - 1] if index else 0))

    return schedules.sequential([s for s, _ in parts], milestones), direct


@pytest.mark.torch
@pytest.mark.parametrize("options", PLATEAUS)
def test_reduce_on_plateau_is_torchs_for_positive_metrics(options, x64):
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
    schedule = schedules.reduce_on_plateau(0.5, **options)
    state, update = schedule.init(), jax.jit(schedule.update)
    rng = np.random.default_rng(0)
    for step in range(120):
        metric = float("nan") if step == 60 else 1 / (1 + 0.1 * min(step, 30)) + 0.02 * rng.random()
        scheduler.step(metric)
        lr, state = update(metric, state)
        assert lr == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        assert (int(state.num_bad_epochs), int(state.cooldown_counter)) == (
            scheduler.num_bad_epochs,
            scheduler.cooldown_counter,
        )
    assert lr < 0.5


def test_reduce_on_plateau_with_negative_metrics():
    """A constant negative metric is not an improvement; torch says it is."""
    schedule = schedules.reduce_on_plateau(1.0, patience=2, factor=0.5)
    state = schedule.init()
    for _ in range(5):
        lr, state = schedule.update(-1.0, state)
    assert float(lr) == 0.5


def test_reduce_on_plateau_makes_no_change_that_is_at_most_eps():
    for eps, expected in ((0.6, 1.0), (0.4, 0.5)):
        schedule = schedules.reduce_on_plateau(1.0, patience=0, factor=0.5, eps=eps)
        _, state = schedule.update(1.0, schedule.init())
        lr, _ = schedule.update(1.0, state)
        assert float(lr) == expected


def test_an_option_may_be_any_schedule():
    """In the functional face and as a group's option; the next value can be read from the state."""
    tx = fo.sgd(lr=schedules.one_cycle(0.1, 10), momentum=schedules.one_cycle_momentum(10))
    state = tx.init(jnp.ones(2))
    optimizer = optim.SGD([jnp.ones(2)], lr=schedules.one_cycle(0.1, 10), momentum=schedules.one_cycle_momentum(10))
    params = jnp.ones(2)
    update = jax.jit(tx.update)
    for step in range(12):
        current = fo.current_hyperparams(tx, state)
        np.testing.assert_allclose(current["lr"], schedules.one_cycle(0.1, 10)(step), rtol=1e-5)
        updates, state = update(jnp.ones(2), state, params)
        params = fo.apply_updates(params, updates)
        optimizer.step([jnp.ones(2)])
    assert update._cache_size() == 1
    np.testing.assert_allclose(optimizer.params[0], params, rtol=1e-5)


def test_cosine_annealing_is_torchs():
    golden = [1, 0.868198, 0.55, 0.231802, 0.1, 0.231802, 0.55, 0.868198, 1]
    schedule = schedules.cosine_annealing(1.0, T_max=4, eta_min=0.1)
    np.testing.assert_allclose([schedule(step) for step in range(9)], golden, atol=5e-7)


@given(st.integers(1, 5000), st.integers(0, 2_000_000))
def test_cosine_annealing_equals_the_closed_form_in_double_and_in_float32(T_max, step):
    exact = 0.1 + 0.9 * (1 + math.cos(math.pi * (step % (2 * T_max)) / T_max)) / 2
    schedule = schedules.cosine_annealing(1.0, T_max=T_max, eta_min=0.1)
    assert schedule(step) == pytest.approx(exact, rel=1e-12)
    assert float(schedule(jnp.asarray(step, jnp.int32))) == pytest.approx(exact, rel=5e-7)


def test_the_last_digits_of_a_cosine_that_ends_at_zero():
    schedule = schedules.cosine_annealing(1.0, T_max=100_000)
    exact = math.sin(math.pi / 200_000) ** 2
    assert schedule(99_999) == pytest.approx(exact, rel=1e-12)
    assert float(schedule(jnp.int32(99_999))) == pytest.approx(exact, rel=1e-6)


def test_warmup_cosine():
    schedule = schedules.warmup_cosine(2.0, warmup_steps=4, total_steps=8, end=1.0)
    expected = [0, 0.5, 1, 1.5, 2, 1.5 + math.sqrt(0.125), 1.5, 1.5 - math.sqrt(0.125), 1, 1, 1]
    np.testing.assert_allclose([schedule(step) for step in range(11)], expected, rtol=1e-12)
    assert schedules.warmup_cosine(2.0, 0, 8)(0) == 2.0


@every
def test_host_traced_vmapped_and_fractional_agree(schedule):
    steps = np.arange(12)
    host = np.array([schedule(int(step)) for step in steps])
    assert isinstance(schedule(3), float)

    @jax.jit
    def compiled(steps, fraction):
        at = steps.astype(jnp.int32)
        of_arrays = [jax.lax.map(schedule, at), jax.vmap(schedule)(at), schedule(at), schedule(steps)]
        return [schedule(at[0]), *of_arrays, schedule(fraction)]

    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=5e-7 * np.max(np.abs(host)))
    one, *several, between = compiled(np.float32(steps), np.float32(2.5))
    close(one, host[0])
    for values in several:
        close(values, host)
    close(schedule(2.5), between)
    close(schedule(jnp.int32(5)), host[5])
    assert one.dtype == jnp.float32


@every
def test_value_equal(schedule):
    again = pickle.loads(pickle.dumps(schedule))
    assert again == schedule
    assert hash(again) == hash(schedule)
    if "function" not in repr(schedule):
        assert eval(repr(schedule), vars(schedules).copy()) == schedule


def test_traced_options():
    value = jax.jit(lambda peak, step: schedules.warmup_cosine(peak, 2, 4)(step))(jnp.float32(0.5), jnp.int32(1))
    assert float(value) == 0.25
    slope = jax.grad(lambda lr: schedules.cosine_annealing(lr, 4)(1))(jnp.float32(1.0))
    np.testing.assert_allclose(slope, (1 + math.cos(math.pi / 4)) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.cosine_annealing(1.0, T_max=0), "T_max must be a number above 0"),
        (lambda: schedules.step_decay(1.0, 0), "step_size must be an integer of at least 1"),
        (lambda: schedules.multi_step_decay(1.0, (3, -1)), "a milestone must be an integer of at least 0"),
        (lambda: schedules.polynomial_decay(1.0, 0), "total_iters must be an integer of at least 1"),
        (lambda: schedules.cosine_annealing_warm_restarts(1.0, 0), "Expected positive integer T_0, but got 0"),
        (lambda: schedules.cosine_annealing_warm_restarts(1.0, 2, 0), "Expected integer T_mult >= 1, but got 0"),
        (lambda: schedules.cyclic(0.1, 0.2, mode="square"), "mode is invalid and scale_fn is None"),
        (lambda: schedules.cyclic(0.1, 0.2, scale_mode="week"), "scale_mode must be 'cycle' or 'iterations'"),
        (lambda: schedules.one_cycle(1.0, 0), "Expected positive integer total_steps"),
        (lambda: schedules.one_cycle(1.0, 10, pct_start=1), "Expected float between 0 and 1 pct_start, but got 1"),
        (
            lambda: schedules.one_cycle(1.0, 10, anneal_strategy="sin"),
            "anneal_strategy must be one of 'cos' or 'linear'",
        ),
        (lambda: schedules.swa_annealing(1.0, 0.1, -1), "anneal_epochs must be equal or greater than 0, got -1"),
        (lambda: schedules.sequential([1.0], [3]), "Sequential Schedulers expects number of schedulers"),
        (lambda: schedules.sequential([1.0, 2.0, 3.0], [3, 2]), "milestones must ascend"),
        (lambda: schedules.chained(1.0, []), "chained expects at least one schedule"),
        (lambda: schedules.reduce_on_plateau(1.0, factor=1.0), "Factor should be < 1.0."),
        (lambda: schedules.reduce_on_plateau(1.0, mode="mid"), "mode mid is unknown!"),
        (lambda: schedules.reduce_on_plateau(1.0, threshold_mode="x"), "threshold mode x is unknown!"),
        (lambda: schedules.warmup_cosine(1.0, -1, 4), "warmup_steps must be an integer of at least 0"),
        (lambda: schedules.warmup_cosine(1.0, 4, 4), "total_steps must be an integer of at least 5"),
    ],
)
def test_counts_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


LENGTH = 100_003  # not a power of two: compilers multiply by the reciprocal, and the product with it is not 1
ENDS = [  # schedule, the step at which it ends, its first and last value
    (schedules.warmup_stable_decay(0.3, 0, 0, LENGTH), LENGTH, 0.3, 0.0),
    (schedules.warmup_stable_decay(0.3, 0, 2, 7, end=0.07), 9, 0.3, 0.07),
    (schedules.warmup_stable_decay(0.3, 0, 0, 0, end=0.07), 0, 0.07, 0.07),
    (schedules.linear(0.3, 1.0, 0.0, 7), 7, 0.3, 0.0),
    (schedules.linear(0.3, 0.1, 0.0, LENGTH), LENGTH, 0.3 * 0.1, 0.0),
    (schedules.linear(0.3, 0.0, 1.0, LENGTH), LENGTH, 0.0, 0.3),
    (schedules.linear(0.3, 0.25, 0.7, LENGTH), LENGTH, 0.3 * 0.25, 0.3 * 0.7),
    (schedules.polynomial_decay(0.3, LENGTH), LENGTH, 0.3, 0.0),
    (schedules.polynomial_decay(0.3, 7, 2.5), 7, 0.3, 0.0),
    (schedules.constant_factor(0.3, 0.0, 7), 7, 0.0, 0.3),
    (schedules.warmup_cosine(0.3, 0, LENGTH), LENGTH, 0.3, 0.0),
    (schedules.warmup_cosine(0.3, 0, 7, end=0.07), 7, 0.3, 0.07),
    (schedules.one_cycle(0.3, LENGTH), LENGTH - 1, 0.3 / 25, 0.3 / 25 / 1e4),
    (schedules.one_cycle(0.3, LENGTH, anneal_strategy="linear"), LENGTH - 1, 0.3 / 25, 0.3 / 25 / 1e4),
    (schedules.one_cycle(0.3, LENGTH, three_phase=True), LENGTH - 1, 0.3 / 25, 0.3 / 25 / 1e4),
    (schedules.one_cycle_momentum(LENGTH), LENGTH - 1, 0.95, 0.95),
    (schedules.swa_annealing(0.3, 0.07, LENGTH), LENGTH, 0.3, 0.07),
    (schedules.swa_annealing(0.3, 0.0, 7, "linear"), 7, 0.3, 0.0),
    (schedules.swa_annealing(0.3, 0.07, 0), 0, 0.07, 0.07),
    (schedules.warmup(0.3, LENGTH), LENGTH, 0.0, 0.3),
]


@pytest.mark.parametrize(("schedule", "end", "first", "last"), ENDS)
def test_the_first_and_the_last_value_are_exact_in_float32_too(schedule, end, first, last):
    steps = [end, end + 1, end + 12_345, 2**31 - 1]
    traced = jax.jit(schedule)(jnp.asarray([*([0] if end else []), *steps], jnp.int32))
    assert traced.tolist() == [*([float(np.float32(first))] if end else []), *[float(np.float32(last))] * 4]
    assert [schedule(step) for step in steps] == [last] * 4
    assert schedule(0) == first


@pytest.mark.parametrize(("schedule", "end", "first", "last"), ENDS)
def test_nothing_is_beyond_the_largest_and_smallest_value(schedule, end, first, last):
    """A rate that decays to zero never goes below it."""
    values = np.asarray(jax.jit(schedule)(jnp.arange(max(0, end - 2000), end + 10, dtype=jnp.int32)))
    low, high = (0.85, 0.95) if isinstance(schedule, schedules.one_cycle_momentum) else (min(first, last), 0.3)
    assert values.min() >= np.float32(low)
    assert values.max() <= np.float32(high)


@pytest.mark.parametrize("eta_min", [0.0, 0.07])
def test_cosines_turn_exactly_at_their_ends(eta_min):
    low, high = float(np.float32(eta_min)), float(np.float32(0.3))
    cosine = jax.jit(schedules.cosine_annealing(0.3, LENGTH, eta_min))
    assert [float(cosine(jnp.int32(k * LENGTH))) for k in (0, 1, 2, 3, 20_000, 20_001)] == [high, low] * 3
    for factor, restarts in ((1, [0, 7, 7 * 10**8]), (2, [0, 7, 21, 7 * (2**27 - 1)])):
        schedule = schedules.cosine_annealing_warm_restarts(0.3, 7, factor, eta_min)
        assert jax.jit(schedule)(jnp.asarray(restarts, jnp.int32)).tolist() == [high] * len(restarts)
        assert [schedule(step) for step in restarts] == [0.3] * len(restarts)
    assert schedules.cosine_annealing_warm_restarts(0.3, 7, 2)(7 * (2**40 - 1)) == 0.3  # beyond int32


LARGE = [10**8 + 3, 123_456_789, 2_000_000_011, 2**31 - 1]


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.cyclic(0.1, 0.5, 2000),
        schedules.cyclic(0.1, 0.5, 13, 29),
        schedules.cyclic(0.1, 0.5, 50, mode="triangular2"),
        schedules.cyclic(0.1, 0.5, 12.5, 30.25),
        schedules.cyclic(0.1, 0.5, 97, mode="exp_range", gamma=1 - 1e-9),
        schedules.cyclic(0.1, 0.5, 97, scale_fn=lambda cycle: 1 / (1 + 1e-6 * cycle)),
        schedules.cyclic_momentum(0.8, 0.9, 2000),
        schedules.cosine_annealing(0.3, 1000, 0.1),
        schedules.cosine_annealing(0.3, 12.5, 0.1),
        schedules.cosine_annealing_warm_restarts(0.3, 1000, 1, 0.1),
        schedules.cosine_annealing_warm_restarts(0.3, 1000, 2, 0.1),
        schedules.step_decay(0.3, 10**7, 0.9),
        schedules.multi_step_decay(0.3, (10**8 + 3, 10**8 + 4), 0.5),
        schedules.exponential_decay(0.3, 1 - 1e-9),
        schedules.inverse_sqrt(0.3, 1000),
        schedules.linear(0.3, 0.1, 1.0, 2**31 - 1),
        schedules.one_cycle(0.3, 2**31 - 1),
        schedules.sequential([0.1, schedules.cyclic(0.1, 0.5, 2000)], [77]),
    ],
    ids=lambda schedule: repr(schedule).partition(" at 0x")[0],
)
def test_large_steps_keep_their_digits_in_float32(schedule):
    expected = [schedule(step) for step in LARGE]
    np.testing.assert_allclose(jax.jit(schedule)(jnp.asarray(LARGE, jnp.int32)), expected, rtol=1e-6)


@pytest.mark.parametrize("name", names(has_step=True))
def test_algorithms_are_finite_at_the_largest_counts(name):
    tx = getattr(fo, name)(lr=0.1)
    params = {"w": jnp.ones((2, 3))}
    update, state = jax.jit(tx.update), tx.init(params)
    for count in (2**31 - 3, 2**31 - 2, 2**31 - 1):
        at = jax.tree.map(lambda x, count=count: jnp.full_like(x, count) if x.dtype == jnp.int32 else x, state)
        updates, new = update(params, at, params)
        assert np.isfinite(updates["w"]).all()
        assert max(int(x) for x in jax.tree.leaves(new) if x.dtype == jnp.int32) == min(count + 1, 2**31 - 1)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: schedules.step_decay(1.0, 2, -0.1), ValueError, "must not be negative: -0.1"),
        (lambda: schedules.step_decay(1.0, 2.5), TypeError, "step_size must be an integer of at least 1"),
        (lambda: schedules.step_decay("1", 2), TypeError, "lr must be a number"),
        (lambda: schedules.multi_step_decay(1.0, 3), TypeError, "milestones must be a list of epochs, but it is 3"),
        (lambda: schedules.multi_step_decay(1.0, (2.5,)), TypeError, "a milestone must be an integer"),
        (lambda: schedules.exponential_decay(1.0, -0.5), ValueError, "must not be negative: -0.5"),
        (lambda: schedules.polynomial_decay(1.0, 3, -1.0), ValueError, "must not be negative: -1.0"),
        (lambda: schedules.linear(1.0, total_iters=2.5), TypeError, "total_iters must be an integer of at least 0"),
        (lambda: schedules.linear(1.0, None), TypeError, "start_factor must be a number"),
        (lambda: schedules.cosine_annealing(1.0, "a"), TypeError, "T_max must be a number"),
        (lambda: schedules.cosine_annealing(1.0, float("inf")), ValueError, "T_max must be a finite number"),
        (lambda: schedules.cyclic(0.1, 0.2, gamma=-1.0), ValueError, "must not be negative: -1.0"),
        (lambda: schedules.cyclic_momentum(0.1, 0.2, gamma=-1.0), ValueError, "must not be negative: -1.0"),
        (lambda: schedules.cyclic(0.1, 0.2, scale_fn=3), TypeError, "scale_fn must be a function, but it is 3"),
        (lambda: schedules.one_cycle(1.0, 9, div_factor=0.0), ValueError, "div_factor divides a learning rate"),
        (lambda: schedules.one_cycle(1.0, 9, final_div_factor=-1.0), ValueError, "final_div_factor divides"),
        (lambda: schedules.sequential(1.0, []), TypeError, "schedules must be a list of schedules"),
        (lambda: schedules.sequential([1.0, 2.0], 3), TypeError, "milestones must be a list of epochs, but it is 3"),
        (lambda: schedules.chained(1.0, 0.5), TypeError, "schedules must be a list of schedules"),
        (lambda: schedules.warmup_stable_decay(1.0, 2, 2, -1), ValueError, "decay_steps must be an integer"),
        (lambda: schedules.inverse_sqrt(1.0, "a"), TypeError, "warmup_steps must be an integer"),
        (lambda: schedules.reduce_on_plateau(1.0, factor=0.0), ValueError, "Factor should be > 0.0, but it is 0.0"),
        (
            lambda: schedules.reduce_on_plateau(1.0, patience=-1),
            ValueError,
            "patience must be an integer of at least 0",
        ),
        (lambda: schedules.reduce_on_plateau(1.0, patience="a"), TypeError, "patience must be an integer"),
        (lambda: schedules.reduce_on_plateau(1.0, min_lr="a"), TypeError, "min_lr must be a number"),
    ],
)
def test_what_is_no_option_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
