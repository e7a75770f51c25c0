"""Accumulation by schedules and with gradients left out, against optax.MultiSteps; skips, against MaxText's and
Levanter's statistics."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import functorch_optim as fo

PARAMS = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}


def grads(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(scale * rng.standard_normal(p.shape), p.dtype), PARAMS)


def run(tx, sequence, params=PARAMS, **keywords):
    """Return the parameters and the state after every update; ``keywords`` have one value for each."""
    state, step, seen = tx.init(params), jax.jit(tx.update), []
    for index, grad in enumerate(sequence):
        updates, state = step(grad, state, params, **{name: values[index] for name, values in keywords.items()})
        params = fo.apply_updates(params, updates)
        seen.append((params, state))
    return seen


def wide(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float64), tree)


SCHEDULES = {
    "growing": lambda step: step + 1,
    "falling": lambda step: jnp.maximum(4 - step, 1),
    "in steps": lambda step: jnp.where(step < 2, 3, 2),
}


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("name", SCHEDULES)
def test_accumulation_by_a_schedule_is_that_of_optax(name, average, x64, standard_promotion):
    schedule, sequence = SCHEDULES[name], [wide(grads(seed)) for seed in range(14)]
    ours = fo.accumulate(fo.adam(lr=0.1), schedule, average)
    theirs = optax.MultiSteps(optax.adam(0.1), schedule, average, accumulator_dtype=jnp.float64)
    found, wanted = run(ours, sequence, wide(PARAMS)), run(theirs, sequence, wide(PARAMS))
    for (params, state), (expected, their_state) in zip(found, wanted, strict=True):
        chex.assert_trees_all_close(params, expected, rtol=1e-10)
        assert (state.micro_step, state.step) == (their_state.mini_step, their_state.gradient_step)
        assert fo.current_hyperparams(ours, state)["every"] == schedule(their_state.gradient_step)


LEFT_OUT = {
    "nonfinite": (fo.if_nonfinite(), optax.skip_not_finite),
    "large": (fo.if_large(3.0), functools.partial(optax.skip_large_updates, max_squared_norm=9.0)),
    "annealed": (
        fo.if_large(lambda step: 4.0 - 0.5 * step.astype(jnp.result_type(float))),
        lambda updates, step, params: optax.skip_large_updates(updates, step, params, (4.0 - 0.5 * step) ** 2),
    ),
    "own": (
        lambda updates, params, step: (updates["b"][0, 0] > params["b"][0, 0] - 4.0) & (step > 0),
        lambda updates, step, params: ((updates["b"][0, 0] > params["b"][0, 0] - 4.0) & (step > 0), ()),
    ),
}


@pytest.mark.parametrize("every", [2, SCHEDULES["growing"]], ids=["constant", "schedule"])
@pytest.mark.parametrize("name", LEFT_OUT)
def test_gradients_are_left_out_as_in_optax(name, every, x64, standard_promotion):
    ours, theirs = LEFT_OUT[name]
    sequence = [wide(grads(seed, scale=1 + 2 * (seed % 3 == 1))) for seed in range(16)]
    if name == "nonfinite":
        for seed in (0, 3, 4):
            sequence[seed]["b"] = sequence[seed]["b"] * jnp.nan
    found = run(fo.accumulate(fo.adam(lr=0.1), every, skip=ours), sequence, wide(PARAMS))
    multi = optax.MultiSteps(optax.adam(0.1), every, True, theirs, jnp.float64)
    wanted = run(multi, sequence, wide(PARAMS))
    for (params, state), (expected, their_state) in zip(found, wanted, strict=True):
        chex.assert_trees_all_close(params, expected, rtol=1e-10)
        assert (state.micro_step, state.step) == (their_state.mini_step, their_state.gradient_step)
    assert 2 <= found[-1][1].skipped <= 10 and np.all(np.isfinite(found[-1][0]["b"]))


def test_the_state_of_a_constant_count_is_what_it_was():
    """Checkpoints depend on it."""
    state = fo.accumulate(fo.sgd(), 2).init(PARAMS)
    assert type(state) is fo.AccumulateState and state._fields == ("micro_step", "accumulated", "inner")
    for counted in (fo.accumulate(fo.sgd(), lambda step: 2), fo.accumulate(fo.sgd(), 2, skip=fo.if_nonfinite())):
        assert type(counted.init(PARAMS)) is fo.CountedAccumulateState


def test_a_state_of_more_gradients_than_are_wanted_now_gives_their_mean():
    seen = run(fo.accumulate(fo.sgd(lr=1.0), 5), [grads(0), grads(1), grads(2)])
    updates, state = fo.accumulate(fo.sgd(lr=1.0), 2).update(grads(3), seen[-1][1], PARAMS)
    mean = jax.tree.map(lambda *gs: -sum(gs[1:], gs[0]) / 4, *map(grads, range(4)))
    chex.assert_trees_all_close(updates, mean, rtol=1e-6)
    assert state.micro_step == 0


def test_values_of_a_schedule_are_rounded_and_at_least_one():
    for value, every in ((2.4, 2), (2.6, 3), (0.0, 1), (-3, 1)):
        tx = fo.accumulate(fo.sgd(lr=1.0), fo.schedules.constant(value))
        seen = run(tx, [grads(0)] * every)
        assert [int(state.step) for _, state in seen] == [0] * (every - 1) + [1]


def test_left_out_gradients_with_none_low_precision_and_a_missing_last_one():
    params = {"a": jnp.zeros(2, jnp.bfloat16), "b": jnp.zeros(())}
    tx = fo.accumulate(fo.sgd(lr=1.0), 2, average=False, skip=fo.if_large(10.0))
    state = tx.init(params)
    for grad in ({"a": jnp.ones(2, jnp.bfloat16), "b": None}, {"a": jnp.full(2, 99, jnp.bfloat16), "b": None}):
        updates, state = tx.update(grad, state, params)
    assert (int(state.micro_step), int(state.skipped)) == (1, 1) and state.accumulated["a"].dtype == jnp.float32
    updates, state = tx.update({"a": None, "b": jnp.ones(())}, state, params)
    assert updates["a"] is None and updates["b"] == -1.0 and state.accumulated["a"].tolist() == [1.0, 1.0]


ACCUMULATE_ERRORS = {
    "zero": (lambda: fo.accumulate(fo.sgd(), 0), ValueError, "every must be a positive integer or a schedule, .* 0"),
    "fraction": (lambda: fo.accumulate(fo.sgd(), 2.5), ValueError, "every must be a positive integer or a schedule"),
    "number": (lambda: fo.accumulate(fo.sgd(), 2, skip=1.0), TypeError, r"skip must be a function of \(updates, par"),
    "transformation": (
        lambda: fo.accumulate(fo.sgd(), 2, skip=fo.skip_nonfinite),
        TypeError,
        r"skip must be a function of \(updates, params, step\) .* such as fo.if_nonfinite\(\), but it is .*skip_nonfin",
    ),
    "not called": (lambda: fo.accumulate(fo.sgd(), 2, skip=fo.if_large), TypeError, r"\(updates, params, step\) that"),
    "two arguments": (
        lambda: fo.accumulate(fo.sgd(), 2, skip=lambda updates, step: True),
        TypeError,
        "skip must be a f",
    ),
    "optax's": (
        lambda: run(fo.accumulate(fo.sgd(), 2, skip=optax.skip_not_finite), [PARAMS]),
        TypeError,
        r"accumulate: skip must return a boolean scalar, but it returned \(.*if_nonfinite\(\) or fo.if_large",
    ),
    "answer": (
        lambda: run(fo.accumulate(fo.sgd(), 2, skip=lambda *_: jnp.zeros(2, bool)), [PARAMS]),
        TypeError,
        "skip must return a boolean scalar, but it returned",
    ),
    "schedule": (
        lambda: run(fo.accumulate(fo.sgd(), lambda step: jnp.ones(2)), [PARAMS]),
        ValueError,
        "the schedule of every must return a scalar",
    ),
    "norm": (lambda: fo.if_large(-1.0), ValueError, "must not be negative: -1.0"),
    "large": (lambda: fo.skip_large_updates(fo.sgd(), -1.0, 2), ValueError, "must not be negative: -1.0"),
    "consecutive": (
        lambda: fo.skip_large_updates(fo.sgd(), 1.0, -2),
        ValueError,
        "skip_large_updates: max_consecutive",
    ),
    "window": (lambda: fo.skip_spikes(fo.sgd(), window=1), ValueError, "skip_spikes: window must be an integer of at"),
    "of": (lambda: fo.skip_spikes(fo.sgd(), of="grad"), ValueError, "of must be 'loss' or 'norm' or 'both', but it is"),
    "factor": (lambda: fo.skip_spikes(fo.sgd(), factor=-1.0), ValueError, "must not be negative: -1.0"),
    "no loss": (
        lambda: run(fo.skip_spikes(fo.sgd()), [PARAMS]),
        ValueError,
        r'skip_spikes needs the loss: update\(grads, state, params, value=loss\), or watch .* with of="norm"',
    ),
    "losses": (
        lambda: run(fo.skip_spikes(fo.sgd()), [PARAMS], value=[jnp.ones(2)]),
        TypeError,
        "skip_spikes: the objective must give a real scalar, but it gave",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), ACCUMULATE_ERRORS.values(), ids=ACCUMULATE_ERRORS)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def moved(seen):
    """Return at which updates the parameters changed."""
    places = [PARAMS, *(params for params, _ in seen)]
    pairs = itertools.pairwise(places)
    return [not all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b))) for a, b in pairs]


def test_large_updates_are_skipped_counted_and_let_through():
    tx = fo.skip_large_updates(fo.adam(lr=0.1), max_norm=5.0, max_consecutive=2)
    sizes = [1.0, 2.0, 1.0, np.inf, np.nan, 2.0, 1.0, 2.0]  # of gradients with the norm 5
    sequence = [
        jax.tree.map(lambda p, s=size: p * s if np.isfinite(s) else jnp.full_like(p, s), PARAMS) for size in sizes
    ]
    seen = run(tx, sequence)
    assert moved(seen[:3]) == [True, False, True]
    assert [int(state.consecutive) for _, state in seen] == [0, 1, 0, 1, 2, 3, 0, 1]
    assert [int(state.total) for _, state in seen] == [0, 1, 1, 2, 3, 4, 4, 5]
    assert moved(seen)[3:] == [False, False, True, True, False]
    counts = [int(state.inner.step) for _, state in seen]
    assert counts == [1, 1, 2, 2, 2, 3, 4, 4] and seen[-1][1].step == 8


def test_the_largest_norm_may_be_scheduled_and_is_data(compilations):
    tx = fo.skip_large_updates(fo.sgd(lr=1.0), lambda step: 4.0 + step.astype(jnp.float32), 9)
    assert moved(run(tx, [PARAMS] * 3)) == [False, True, True]
    assert [float(fo.current_hyperparams(tx, state)["max_norm"]) for _, state in run(tx, [PARAMS])] == [5.0]
    data = fo.inject(fo.skip_large_updates, inner=fo.sgd(lr=1.0), max_norm=9.0, max_consecutive=9)
    step, state, results = jax.jit(data.update), data.init(PARAMS), []
    for index, limit in enumerate((9.0, 4.0, 9.0)):
        if index == 1:
            compilations.clear()
        updates, state = step(PARAMS, fo.set_hyperparams(state, max_norm=limit), PARAMS)
        results.append(bool(np.any(updates["a"] != 0)))
    assert results == [True, False, True] and not compilations


def test_large_updates_are_those_of_optax():
    """Its condition for MultiSteps, with one gradient an update."""
    skip = functools.partial(optax.skip_large_updates, max_squared_norm=4.0)
    with jax.numpy_dtype_promotion("standard"):
        theirs = run(optax.MultiSteps(optax.adam(0.1), 1, should_skip_update_fn=skip), list(map(grads, range(12))))
        ours = run(fo.skip_large_updates(fo.adam(lr=0.1), 2.0, 99), list(map(grads, range(12))))
    chex.assert_trees_all_close([p for p, _ in ours], [p for p, _ in theirs], rtol=1e-5)
    assert 2 <= ours[-1][1].total <= 10


def maxtexts(values, interval, factor):
    """Return which values MaxText's skip_step_on_spikes calls spikes, and from which on it looks."""
    spikes = []
    for index, value in enumerate(values):
        window = values[max(0, index - interval) : index]
        deviation = np.std(window, ddof=1) if len(window) > 1 else 0.0
        spikes.append(len(window) > 0 and value - np.mean(window) > factor * deviation)
    return spikes, max(2, interval // 2) - 1


def levanters(values, interval, factor):
    """Return which values Levanter's SkipStepConfig calls spikes, and from which on it looks."""
    spikes = []
    for index, value in enumerate(values):
        window = values[max(0, index - interval - 1) : index]
        spikes.append(len(window) > 0 and value > np.mean(window) + factor * max(np.std(window), 1e-6))
    return spikes, max(2, interval // 2)


def losses(seed, length=60):
    rng = np.random.default_rng(seed)
    values = 3.0 + 0.1 * rng.standard_normal(length)
    values[rng.integers(10, length, 6)] += rng.uniform(0.1, 2.0, 6)
    return values


@pytest.mark.parametrize("seed", range(3))
def test_spikes_are_maxtexts(seed, x64):
    values, interval, factor = losses(seed), 16, 2.0
    tx = fo.skip_spikes(fo.sgd(lr=1.0), interval, factor, max_consecutive=99)
    found = [not run for run in moved(run(tx, [PARAMS] * len(values), value=list(values)))]
    spikes, first = maxtexts(values, interval, factor)
    known = max(first, max(2, interval // 2))
    assert found[known:] == spikes[known:] and not any(found[:known]) and 3 <= sum(found) <= 12
    others, begin = levanters(values, interval, factor)
    assert begin == known and np.mean(np.array(found[known:]) == others[known:]) > 0.9


def test_both_are_watched_and_the_norm_alone():
    rng = np.random.default_rng(0)
    sizes, values = 1 + 0.01 * rng.standard_normal(20), 3 + 0.01 * rng.standard_normal(20)
    sizes[12], values[15] = 3.0, 9.0
    sequence = [jax.tree.map(lambda p, s=size: p * jnp.float32(s), PARAMS) for size in sizes]
    skipped = {}
    for of in ("loss", "norm", "both"):
        tx = fo.skip_spikes(fo.sgd(lr=1e-9), 8, 6.0, of=of)
        seen = run(tx, sequence, value=list(map(jnp.float32, values)))
        skipped[of] = [index for index, (_, state) in enumerate(seen) if state.consecutive > 0]
        state = seen[-1][1]
        assert (state.losses is None, state.norms is None) == (of == "norm", of == "loss")
        assert fo.current_hyperparams(tx, state)["factor"] == 6.0
    assert skipped == {"loss": [15], "norm": [12], "both": [12, 15]}


def test_a_run_that_stays_high_goes_on():
    tx = fo.skip_spikes(fo.sgd(lr=1.0), window=4, factor=3.0, max_consecutive=2)
    values = [1.0, 1.1, 0.9, 1.0, 9.0, 90.0, 900.0, 9e3, 1.0, np.inf, 1.0]
    seen = run(tx, [PARAMS] * len(values), value=values)
    assert [int(state.consecutive) for _, state in seen] == [0, 0, 0, 0, 1, 2, 3, 4, 0, 1, 0]
    assert moved(seen) == [True, True, True, True, False, False, True, True, True, False, True]
    state = seen[-1][1]
    assert state.total == 5 and state.recorded == 10 and sorted(state.losses.tolist()) == [1.0, 1.0, 900.0, 9000.0]


def test_no_spikes_of_rounding_and_of_the_first_values():
    tx = fo.skip_spikes(fo.sgd(lr=1.0), window=100)
    seen = run(tx, [PARAMS] * 120, value=[jnp.bfloat16(0.1)] * 120)
    assert seen[-1][1].total == 0
    tx = fo.skip_spikes(fo.sgd(lr=1.0), window=6, factor=0.0)
    assert moved(run(tx, [PARAMS] * 5, value=[1.0, 50.0, np.nan, 900.0, 999.0])) == [True, True, False, True, False]


def test_the_loss_must_be_that_of_all_devices():
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))

    def step(grads, value, axis_name):
        tx = fo.skip_spikes(fo.sgd(lr=1.0), of="loss", axis_name=axis_name)
        return tx.update(grads, tx.init(grads), grads, value=value[0])[0]

    def mapped(axis_name):
        own = functools.partial(step, axis_name=axis_name)
        return jax.jit(jax.shard_map(own, mesh=mesh, in_specs=(P("x"), P("x")), out_specs=P("x")))(
            jnp.ones(2), jnp.ones(2)
        )

    assert mapped(()).tolist() == [-1.0, -1.0]  # every device for itself
    with pytest.raises(
        ValueError, match="skip_spikes: the loss varies over the axis 'x' of shard_map, but all devices"
    ):
        mapped("x")


def test_numbers_that_are_no_arrays_are_refused_though_the_loss_alone_decides():
    tx, params, grads = fo.skip_spikes(fo.sgd(lr=1.0)), {"w": jnp.ones(())}, {"w": jnp.ones(())}
    state = tx.init(params)
    with pytest.raises(TypeError, match="the gradient of the parameter 'w' is not an array but float"):
        tx.update({"w": 0.5}, state, params, value=1.0)
    with pytest.raises(TypeError, match="one of the params is float: the parameter 'w'"):
        tx.update(grads, state, {"w": 1.0}, value=1.0)
    with pytest.raises(TypeError, match="one of the params is float: the parameter 'w'"):
        fo.accumulate(fo.sgd(lr=1.0), 2).update(grads, fo.accumulate(fo.sgd(), 2).init(params), {"w": 1.0})


def test_they_nest_and_pass_keywords_on():
    tx = fo.accumulate(fo.skip_nonfinite(fo.skip_large_updates(fo.skip_spikes(fo.adam(lr=0.1)), 99.0, 2), 2), 1)
    params, state = run(tx, [grads(0)], value=[1.0])[-1]
    wanted, _ = run(fo.adam(lr=0.1), [grads(0)])[-1]
    chex.assert_trees_all_close(params, wanted, rtol=1e-6)
    assert fo.find_state(state, fo.SkipSpikesState).losses[0] == 1.0


def test_the_deviation_is_that_of_a_sample():
    tx = fo.skip_spikes(fo.sgd(lr=1.0), window=2, factor=1.0)  # of 0 and 2: 1 + sqrt(2)
    for value, runs in ((2.4, True), (2.43, False)):
        assert moved(run(tx, [PARAMS] * 3, value=[0.0, 2.0, value])) == [True, True, runs]


def test_max_consecutive_may_be_larger_than_any_count():
    params, bad = jnp.ones(2), jnp.full(2, jnp.nan)
    tx = fo.skip_nonfinite(fo.sgd(lr=1.0), 10**12)
    state = tx.init(params)._replace(consecutive=jnp.asarray(2**31 - 2, jnp.int32))
    for _ in range(2):
        updates, state = tx.update(bad, state, params)
        assert updates.tolist() == [0.0, 0.0] and state.consecutive == 2**31 - 1
