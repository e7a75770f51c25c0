"""Options: numbers, arrays, tracers and schedules give the same trajectory; they compile once, compare by value, and
are checked."""

import copy
import functools
import pickle
import re

import chex
import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.core.rule import step_scalars
from functorch_optim.core.scalar_math import one_minus_power
from functorch_optim.hyperparams import Beta
from tests.algorithms import ALGORITHMS
from tests.comparison import slots_of

NUMBERS = {name: row.exact for name, row in ALGORITHMS.items() if row.exact}


def params():
    rng = np.random.default_rng(0)
    return {"w": jnp.asarray(rng.standard_normal((3, 4)), jnp.float32), "b": jnp.asarray(1.5, jnp.float32)}


def grads(step):
    rng = np.random.default_rng(step)
    return {"w": jnp.asarray(rng.standard_normal((3, 4)), jnp.float32), "b": jnp.asarray(0.1 * step, jnp.float32)}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_tracers_and_schedules_give_the_same_steps(name):
    """Each step from the same state: 8 ulp of max(|p|, |update|)."""
    numbers = NUMBERS[name]

    def stepping(tx, p, s, g):
        updates, s = tx.update(g, s, p)
        return fo.apply_updates(p, updates), s, updates

    make = getattr(fo, name)
    constants = jax.tree.map(fo.schedules.constant, numbers)
    functions = jax.tree.map(lambda x: lambda step: x + 0 * step.astype(jnp.float32), numbers)

    @jax.jit
    def every_kind(p, s, g, data):
        return [stepping(make(**options), p, s, g) for options in (numbers, data, constants, functions)]

    data = jax.tree.map(jnp.float32, numbers)
    p, s = params(), make(**numbers).init(params())
    for index in range(10):
        g = grads(index)
        (p_next, s_next, _), *others = every_kind(p, s, g, data)
        for other in others:
            for a, b, u in zip(*map(jax.tree.leaves, (p_next, other[0], other[2])), strict=True):
                size = np.maximum(np.abs(a), np.abs(u))
                assert np.max(np.abs(np.asarray(a) - np.asarray(b)) / np.spacing(size)) <= 8
            for a, b in zip(jax.tree.leaves(s_next), jax.tree.leaves(other[1]), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
        p, s = p_next, s_next
    assert every_kind._cache_size() == 1


@pytest.mark.parametrize("name", NUMBERS)
def test_changing_numbers_compiles_nothing(name):
    @jax.jit
    def step(p, s, g, data):
        updates, s = getattr(fo, name)(**data).update(g, s, p)
        return fo.apply_updates(p, updates), s

    p, s = params(), getattr(fo, name)(**NUMBERS[name]).init(params())
    for factor in (1.0, 0.5, 0.25, 0.0):
        p, s = step(p, s, grads(1), jax.tree.map(lambda x, factor=factor: jnp.float32(x * factor), NUMBERS[name]))
    assert step._cache_size() == 1


def test_a_pair_keeps_the_digits_of_a_beta_that_float32_does_not_hold():
    def second_moment(beta2):
        tx = fo.adam(betas=(0.9, beta2))
        return tx.update(jnp.float32(1.0), tx.init(jnp.float32(0.0)))[1].exp_avg_sq

    pair = jax.jit(second_moment)(Beta(jnp.float32(0.999), jnp.float32(0.001)))
    single = jax.jit(second_moment)(jnp.float32(0.999))
    assert abs(float(pair) / 1e-3 - 1) < 1e-7
    assert abs(float(single) / 1e-3 - 1) > 1e-6


@given(st.floats(0.0, 1 - 1e-7), st.integers(1, 100_000))
def test_bias_correction_keeps_its_digits_in_float32(beta, step):
    exact = -np.expm1(np.float64(step) * np.log1p(-(1 - beta))) if 1 - beta < 1 else 1.0
    traced = one_minus_power(Beta.of(beta), jnp.asarray(step, jnp.int32))
    np.testing.assert_allclose(traced, exact, rtol=5e-7)
    pair = Beta(jnp.asarray(beta, jnp.float32), jnp.asarray(1 - beta, jnp.float32))
    np.testing.assert_allclose(one_minus_power(pair, jnp.asarray(step, jnp.int32)), exact, rtol=1e-6)


def test_on_the_host_it_is_torchs_expression_in_doubles():
    assert one_minus_power(Beta.of(0.999), 7) == 1 - 0.999**7


@pytest.mark.parametrize(
    "make",
    [
        lambda: fo.adam(lr=1e-3),
        lambda: fo.adam(lr=jnp.float32(1e-3)),
        lambda: fo.adam(lr=np.float64(1e-3), betas=[0.9, 0.99]),
        lambda: fo.adam(lr=fo.schedules.cosine_annealing(1e-3, 10)),
        lambda: fo.adam(betas=(Beta.of(0.9), fo.schedules.constant(0.99))),
        lambda: fo.sgd(lr=1, momentum=jnp.asarray([0.5])),
    ],
)
def test_equal_hash_pickle_copy(make):
    tx = make()
    for other in (make(), pickle.loads(pickle.dumps(tx)), copy.deepcopy(tx)):
        assert other == tx
        assert hash(other) == hash(tx)
        assert repr(other) == repr(tx)
    assert tx != fo.adam(lr=2e-3)


def test_numbers_are_normalised_and_printed():
    assert fo.sgd(lr=1) == fo.sgd(lr=1.0) == fo.sgd(lr=np.float64(1))
    assert fo.adam(betas=[0.9, 0.999]) == fo.adam()
    assert fo.sgd(lr=jnp.float32(1)) != fo.sgd(lr=jnp.bfloat16(1))
    expected = (
        "adam(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0, amsgrad=False, maximize=False, "
        "decoupled_weight_decay=False)"
    )
    assert repr(fo.adam()) == expected
    assert eval(repr(fo.adam()), vars(fo).copy()) == fo.adam()


def test_an_equal_transformation_shares_a_trace():
    step = jax.jit(lambda tx, p, s, g: tx.update(g, s, p), static_argnums=0)
    p, s = params(), fo.adam().init(params())
    step(fo.adam(), p, s, grads(0))
    step(fo.adam(), p, s, grads(1))
    assert step._cache_size() == 1


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: fo.chain(fo.adam(lr=lambda step: 0.1)), "adam: the option 'lr' holds <lambda>"),
        (lambda: fo.masked(fo.adam(betas=(lambda step: 0.9, 0.99)), {"w": True}), "adam: the option 'betas' holds"),
        (lambda: fo.masked(fo.adam(), lambda path: path == "w"), "labels: the option 'function' holds <lambda>"),
        (lambda: fo.sgd(lr=fo.schedules.warmup(lambda step: 0.1, 3)), "warmup: the option 'schedule' holds <lambda>"),
    ],
)
def test_a_lambda_is_copied_and_pickled_by_value_and_else_names_the_option(make, option):
    tx, p = make(), {"w": jnp.ones(2)}
    for copied in (copy.copy(tx), copy.deepcopy(tx)):
        assert copied == tx
    by_value = cloudpickle.loads(cloudpickle.dumps(tx))
    chex.assert_trees_all_equal(*(one.update(p, one.init(p), p)[0] for one in (tx, by_value)))
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(
            pickle.PicklingError, match=f"{option}.*, which cannot be pickled: use a function defined at"
        ):
            pickle.dumps(tx, protocol)


COUNTS = {
    "lbfgs: max_iter": lambda n: fo.lbfgs(max_iter=n),
    "lbfgs: max_eval": lambda n: fo.lbfgs(max_eval=n),
    "lbfgs: history_size": lambda n: fo.lbfgs(history_size=n),
    "bfgs: max_iter": lambda n: fo.bfgs(max_iter=n),
    "ns_steps": lambda n: fo.muon(ns_steps=n),
    "every": lambda n: fo.ema(every=n),
    "start_step": lambda n: fo.swa(start_step=n),
    "accumulate": lambda n: fo.accumulate(fo.sgd(), n),
    "skip_nonfinite": lambda n: fo.skip_nonfinite(fo.sgd(), n),
    "T_max": lambda n: fo.schedules.cosine_annealing(1.0, T_max=n),
    "T_0": lambda n: fo.schedules.cosine_annealing_warm_restarts(1.0, n),
    "step_size": lambda n: fo.schedules.step_decay(1.0, n),
    "total_steps": lambda n: fo.schedules.one_cycle(1.0, n),
    "anneal_epochs": lambda n: fo.schedules.swa_annealing(1.0, 0.1, n),
    "optim.LBFGS max_iter": lambda n: optim.LBFGS([jnp.ones(2)], max_iter=n),
    "optim.LBFGS history_size": lambda n: optim.LBFGS([jnp.ones(2)], history_size=n),
    "optim.Muon ns_steps": lambda n: optim.Muon([jnp.ones((2, 2))], ns_steps=n),
    "optim.lr_scheduler.OneCycleLR epochs": lambda n: optim.lr_scheduler.OneCycleLR(
        optim.SGD([jnp.ones(2)]), 1.0, epochs=n, steps_per_epoch=3
    ),
}


@pytest.mark.parametrize("name", COUNTS)
def test_a_boolean_is_no_count_and_an_integer_of_numpy_is_one(name):
    for value in (True, np.True_):
        with pytest.raises((TypeError, ValueError), match=name.split()[-1]):
            COUNTS[name](value)
    made, expected = COUNTS[name](np.int64(3)), COUNTS[name](3)
    assert made == expected or isinstance(made, optim.Optimizer | optim.lr_scheduler.LRScheduler)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fo.sgd(lr=-1.0), "Invalid learning rate: -1.0"),
        (lambda: fo.sgd(lr=float("nan")), "Invalid learning rate: nan"),
        (lambda: fo.sgd(lr=jnp.float32(-1.0)), "Invalid learning rate: -1.0"),
        (lambda: fo.sgd(momentum=-0.5), "Invalid momentum value: -0.5"),
        (lambda: fo.sgd(weight_decay=-0.5), "Invalid weight_decay value: -0.5"),
        (lambda: fo.sgd(nesterov=True), "Nesterov momentum requires a momentum and zero dampening"),
        (
            lambda: fo.sgd(nesterov=True, momentum=0.9, dampening=0.1),
            "Nesterov momentum requires a momentum and zero dampening",
        ),
        (lambda: fo.adam(lr=-1.0), "Invalid learning rate: -1.0"),
        (lambda: fo.adam(eps=-1.0), "Invalid epsilon value: -1.0"),
        (lambda: fo.adam(betas=(1.0, 0.9)), "Invalid beta parameter at index 0: 1.0"),
        (lambda: fo.adamw(betas=(0.9, -0.1)), "Invalid beta parameter at index 1: -0.1"),
        (lambda: fo.adamw(weight_decay=-0.1), "Invalid weight_decay value: -0.1"),
        (lambda: fo.adam(lr=jnp.ones(3)), "Tensor lr must be 1-element"),
        (lambda: fo.adam(betas=(0.9,)), "betas must hold 2 values"),
    ],
)
def test_options_outside_torchs_ranges(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        make()


@pytest.mark.parametrize("value", ["0.1", None, True, [0.1]])
def test_options_of_the_wrong_type(value):
    with pytest.raises(TypeError, match="lr must be a number"):
        fo.adam(lr=value)


def test_a_schedule_that_returns_no_scalar():
    tx = fo.sgd(lr=lambda step: jnp.ones(3))
    with pytest.raises(ValueError, match="the schedule of lr must return a scalar"):
        tx.update(jnp.ones(()), tx.init(jnp.ones(())))


def test_current_hyperparams():
    tx = fo.chain(fo.clip_by_global_norm(1.0), fo.adamw(lr=fo.schedules.warmup_cosine(1.0, 2, 4)), fo.scale(1.0))
    state = tx.init(params())
    rates = []
    for _ in range(3):
        rates.append(float(fo.current_hyperparams(tx, state)["lr"]))
        _, state = tx.update(grads(0), state, params())
    assert rates == [0.0, 0.5, 1.0]
    assert fo.current_hyperparams(tx, state)["betas"] == (0.9, 0.999)
    twice = fo.chain(
        fo.masked(fo.sgd(lr=0.1), {"w": True, "b": False}), fo.masked(fo.sgd(lr=0.2), lambda path: path == "b")
    )
    assert fo.current_hyperparams(twice, twice.init(params()))["1.lr"] == 0.2
    split = fo.partition({"a": fo.sgd(lr=0.1), "b": fo.adam()}, {"w": "a", "b": "b"})
    assert fo.current_hyperparams(split, split.init(params()))["a"]["lr"] == 0.1


def test_gradient_with_respect_to_the_learning_rate_through_ten_steps(x64):
    start = {"w": jnp.linspace(-1.0, 1.0, 6)}

    def final_loss(lr, make):
        p, tx = start, make(lr)
        s = tx.init(p)
        for _ in range(10):
            g = jax.tree.map(lambda x: 2 * (x - 0.3), p)
            updates, s = tx.update(g, s, p)
            p = fo.apply_updates(p, updates)
        return jnp.sum((p["w"] - 0.3) ** 2)

    for make in (lambda lr: fo.sgd(lr=lr, momentum=0.9), lambda lr: fo.adam(lr=lr), lambda lr: fo.adamw(lr=lr)):
        loss, step = functools.partial(jax.jit(final_loss, static_argnums=1), make=make), 1e-6
        derivative = jax.grad(loss)(0.05)
        difference = (loss(0.05 + step) - loss(0.05 - step)) / (2 * step)
        np.testing.assert_allclose(derivative, difference, rtol=1e-6)


@pytest.mark.parametrize("name", NUMBERS)
def test_gradient_with_respect_to_the_state(name):
    tx = getattr(fo, name)(**NUMBERS[name])
    state = tx.update(grads(1), tx.init(params()), params())[1]

    def loss(state):
        moved = fo.apply_updates(params(), tx.update(grads(2), state, params())[0])
        return jnp.sum(moved["w"] ** 2)

    derivative = jax.jit(jax.grad(loss, allow_int=True))(state)
    slots = [slot["w"] for slot in slots_of(derivative).values() if slot["w"] is not None]
    assert all(np.all(np.isfinite(slot)) for slot in slots)
    scalars = [getattr(derivative, scalar) for scalar in tx.update.of.rule.carried]
    assert any(np.any(value != 0) for value in (*slots, *scalars)) is ALGORITHMS[name].smooth


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("step", [1, 2, 100])
def test_scalars_made_on_the_host_are_doubles_and_give_the_same_update(name, step):
    tx = getattr(fo, name)(**NUMBERS[name])
    lifted = tx.update.of
    carried = {key: np.asarray(getattr(tx.init(params()), key)).item() for key in lifted.rule.carried}
    scalars, _ = step_scalars(lifted.rule, step, lifted.rule.at(step - 1), carried)
    assert all(type(scalar) is float for scalar in jax.tree.leaves(scalars))
    state = tx.init(params())._replace(step=jnp.int32(step - 1))
    traced, after = tx.update(grads(1), state, params())
    hosted, _ = lifted.update_with(scalars, grads(1), after._replace(**slots_of(state)), params())
    for a, b in zip(jax.tree.leaves(traced), jax.tree.leaves(hosted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_host_scalars_are_torchs():
    rule = fo.adam(lr=0.1).update.of.rule
    scalars = step_scalars(rule, 7, rule.at(6))[0].rule
    assert scalars.step_size == 0.1 / (1 - 0.9**7)
    assert scalars.bias_correction2_sqrt == (1 - 0.999**7) ** 0.5


def test_vmap_over_learning_rates():
    def two_steps(lr):
        p, tx = params(), fo.adamw(lr=lr)
        s = tx.init(p)
        for index in range(2):
            updates, s = tx.update(grads(index), s, p)
            p = fo.apply_updates(p, updates)
        return p

    rates = jnp.array([0.1, 0.01])
    together = jax.vmap(two_steps)(rates)
    for index, rate in enumerate((0.1, 0.01)):
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(two_steps(rate)), strict=True):
            np.testing.assert_allclose(a[index], b, rtol=1e-5)


@pytest.mark.parametrize("returned", [None, "0.1"])
def test_a_schedule_that_returns_no_number_is_named(returned):
    tx, params = fo.sgd(lr=lambda step: returned), {"w": jnp.ones(2)}
    with pytest.raises(TypeError, match=f"the schedule of lr must return a number, but it returned {returned!r}"):
        tx.update(params, tx.init(params), params)
