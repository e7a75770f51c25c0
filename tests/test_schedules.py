"""Schedules: torch's values, in doubles on the host and with their digits in float32, at any step in any order."""

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
# torch's recursion has drifted from its own closed form by then; ours does not drift
TOLERANCE = {"cosine": 1e-11, "cosine-short": 1e-11}


@each_case
def test_values_are_torchs(label, x64):
    """All steps from 0 to 2000, in doubles on the host, traced in float64, and out of order."""
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
    """torch goes on along the last phase: up again, or below zero."""
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
    """Sequential of chained of ..., up to three deep: the value is what the parts say, on the host and traced."""
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
    """A schedule, and the same as a plain function."""
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
    """A negative metric that stands still does not get better; torch says it does."""
    schedule = schedules.reduce_on_plateau(1.0, patience=2, factor=0.5)
    state = schedule.init()
    for _ in range(5):
        lr, state = schedule.update(-1.0, state)
    assert float(lr) == 0.5


def test_an_option_may_be_any_schedule():
    """In the functional face and as a group's option; the next value is readable from the state."""
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
    compiled = jax.jit(schedule)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=5e-7 * np.max(np.abs(host)))
    close([compiled(step) for step in jnp.asarray(steps, jnp.int32)], host)
    close(jax.vmap(schedule)(jnp.asarray(steps, jnp.int32)), host)
    close(schedule(jnp.asarray(steps, jnp.int32)), host)
    close(schedule(jnp.asarray(steps, jnp.float32)), host)
    close(schedule(2.5), schedule(jnp.float32(2.5)))
    assert compiled(jnp.int32(0)).dtype == jnp.float32


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
