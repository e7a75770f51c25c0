"""fo.inject and fo.set_hyperparams: numbers in the state are data, which are found, checked and kept in place."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import functorch_optim as fo

PARAMS = {"bias": jnp.ones(3), "kernel": jnp.linspace(-1, 1, 6).reshape(2, 3)}


def grads(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape), p.dtype), PARAMS)


def run(tx, state=None, steps=4, params=PARAMS):
    """Return the parameters and the state after some compiled steps."""
    step, state = jax.jit(tx.update), tx.init(params) if state is None else state
    for seed in range(steps):
        updates, state = step(jax.tree.map(lambda g, p: g.astype(p.dtype), grads(seed), params), state, params)
        params = fo.apply_updates(params, updates)
    return params, state


def clipped(lr, max_norm, betas=(0.9, 0.999), nesterov=False):
    del nesterov
    return fo.chain(fo.clip_by_global_norm(max_norm), fo.adam(lr=lr, betas=betas))


MASK = {"bias": False, "kernel": True}
BUILT = {
    "adamw": (fo.adamw, {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.1, "decay_mask": MASK, "amsgrad": True}),
    "sgd": (fo.sgd, {"lr": 1, "momentum": 0.9, "nesterov": True}),
    "foreach": (fo.adam, {"lr": 0.1, "eps": 1e-3, "foreach": True}),
    "adafactor": (fo.adafactor, {"lr": 0.1, "eps": (None, 1e-3), "d": 1.5}),
    "adagrad": (fo.adagrad, {"lr": 0.1, "initial_accumulator_value": 0.5}),
    "muon_adamw": (lambda lr: fo.muon_adamw({"lr": lr}, {"lr": 0.1}), {"lr": 0.02}),
    "link": (fo.add_decayed_weights, {"weight_decay": 0.1, "mask": lambda path: path != "bias"}),
    "average": (fo.ema, {"decay": 0.5, "every": 2}),
    "lookahead": (fo.lookahead, {"inner": fo.sgd(lr=0.1), "alpha": 0.25, "every": 2}),
    "partial": (functools.partial(fo.rmsprop, centered=True), {"lr": 0.1, "alpha": 0.9}),
    "own": (clipped, {"lr": 0.1, "max_norm": np.float64(0.5), "betas": (fo.Beta.of(0.8), 0.9), "nesterov": True}),
    "arrays": (clipped, {"lr": jnp.float32(0.1), "max_norm": np.ones((1,))}),
    "optax": (optax.adamw, {"learning_rate": 0.1, "b1": 0.8, "mask": MASK}),
}


@pytest.mark.parametrize("name", BUILT)
def test_it_is_the_transformation_with_these_options(name, standard_promotion):
    factory, options = BUILT[name]
    tx = fo.inject(factory, **options)
    found, wanted = run(tx), run(factory(**options))
    chex.assert_trees_all_close((found[0], found[1].inner), wanted, rtol=2e-6, atol=1e-7)
    assert hash(tx) == hash(fo.inject(factory, **options)) and tx == fo.inject(factory, **options)


def test_in_float64_the_digits_are_those_of_the_options(x64):
    options = {"lr": 0.1, "betas": (0.9, 0.999), "weight_decay": 0.01}
    wide = jax.tree.map(lambda p: p.astype(jnp.float64), PARAMS)
    found, wanted = (run(tx, params=wide)[0] for tx in (fo.inject(fo.adamw, **options), fo.adamw(**options)))
    chex.assert_trees_all_close(found, wanted, rtol=1e-12)


def test_it_is_optaxs(x64, standard_promotion):
    schedule = optax.linear_schedule(0.1, 0.0, 4)
    ours = fo.inject(optax.adamw, learning_rate=schedule, b1=0.8)
    theirs = optax.inject_hyperparams(optax.adamw)(learning_rate=schedule, b1=0.8)
    wide = jax.tree.map(lambda p: p.astype(jnp.float64), PARAMS)
    (found, state), (wanted, last) = run(ours, params=wide), run(theirs, params=wide)
    chex.assert_trees_all_close(found, wanted, rtol=1e-10)
    assert last.hyperparams["learning_rate"] == schedule(3) and state.hyperparams["learning_rate"] == schedule(4)


def test_a_thousand_changes_compile_nothing(compilations):
    tx = fo.chain(fo.clip_by_global_norm(1.0), fo.inject(fo.adamw, lr=1e-3, betas=(0.9, 0.999), eps=1e-8))
    traces = []

    @jax.jit
    def step(params, state, grads):
        traces.append(None)
        updates, state = tx.update(grads, state, params)
        return fo.apply_updates(params, updates), state

    params, state, gradients = PARAMS, tx.init(PARAMS), grads(0)
    for index in range(1000):
        if index == 2:
            compilations.clear()
        rate = 1e-3 / (1 + index % 7)
        state = fo.set_hyperparams(state, lr=rate, betas=(0.9, 1 - rate), eps=1e-8 * (index + 1))
        params, state = step(params, state, gradients)
    assert len(traces) == 1 and not compilations
    assert fo.find_state(state, fo.InjectState).hyperparams["lr"] == jnp.float32(rate)


def test_a_pair_keeps_the_digits_of_a_beta():
    for tx in (
        fo.inject(fo.adam, betas=(0.9, 0.5)),
        fo.inject(clipped, lr=0.1, max_norm=9.0, betas=(fo.Beta.of(0.9), fo.Beta.of(0.5))),
    ):
        state = fo.set_hyperparams(tx.init(jnp.float32(0.0)), betas=(0.9, 0.999))
        assert state.hyperparams["betas"][1] == fo.Beta(jnp.float32(0.999), jnp.float32(0.001))
        moment = fo.find_state(tx.update(jnp.float32(1.0), state)[1], fo.AdamState).exp_avg_sq
        assert abs(float(moment) / 1e-3 - 1) < 1e-7


def held(tx):
    return jax.tree.map(lambda x: (x.dtype.name, x.shape), tx.init(PARAMS).hyperparams)


def test_which_options_are_data():
    number = ("float32", ())
    assert held(fo.inject(fo.muon_adamw, muon_options={"lr": 0.1}, adamw_options={"lr": 0.1})) == {
        "muon_options": {"lr": number},
        "adamw_options": {"lr": number},
    }
    assert held(fo.inject(fo.adamw, lr=1, betas=(0.9, 0.99), amsgrad=False)) == {
        "lr": number,
        "betas": (fo.Beta(number, number), fo.Beta(number, number)),
    }
    assert held(fo.inject(fo.ema, decay=0.5, every=2)) == {"decay": fo.Beta(number, number)}

    def own(rates, count, mode, mask, fixed):
        assert (count, mode, mask("kernel"), fixed) == (2, "fast", True, 0.5)
        return fo.accumulate(fo.sgd(lr=rates[0] * rates[1]), every=count)

    options = {"rates": [1, jnp.float32(0.1)], "mode": "fast", "mask": lambda path: path == "kernel"}
    tx = fo.inject(own, static=("count", "fixed"), count=2, fixed=0.5, **options)
    assert held(tx) == {"rates": [number, number]}
    wide = fo.inject(lambda scale: fo.chain(fo.scale(scale.sum()), fo.scale(2.0)), scale=np.ones(3, np.float32))
    assert held(wide) == {"scale": ("float32", (3,))}


WRONG = {
    "range": (lambda: fo.inject(fo.adamw, lr=-1.0), ValueError, r"^Invalid learning rate: -1\.0"),
    "range in a factory": (lambda: fo.inject(clipped, lr=0.1, max_norm=-1.0), ValueError, "must not be negative: -1"),
    "unknown": (lambda: fo.inject(fo.sgd, lr=0.1, rate=0.1), TypeError, "unexpected keyword argument 'rate'"),
    "static": (lambda: fo.inject(fo.sgd, static="evry", lr=0.1), ValueError, "static names no options: evry; .* lr"),
    "another tx": (
        lambda: fo.set_hyperparams(
            fo.chain(fo.inject(fo.sgd, lr=0.1)).init(jnp.ones(2)), tx=fo.inject(fo.sgd, lr=0.1), lr=0.2
        ),
        ValueError,
        "tx must be the transformation whose init built this state, but it reads another one",
    ),
    "nothing": (lambda: fo.inject(fo.sgd, nesterov=False), ValueError, "no option of sgd is data; name its numbers"),
    "hash": (
        lambda: fo.inject(lambda lr, seen: fo.sgd(lr=lr), lr=0.1, seen={1}),
        TypeError,
        r"the static option 'seen' must have a hash, but it holds \{1\}",
    ),
    "count": (
        lambda: fo.inject(lambda lr, every: fo.accumulate(fo.sgd(lr=lr), every), lr=0.1, every=2),
        TypeError,
        r"must know a number that is data, one of lr, every: name it in static=\..*every must be a positive",
    ),
    "branch": (
        lambda: fo.inject(lambda lr: fo.sgd(lr=lr) if lr > 0.5 else fo.adam(lr=lr), lr=0.1),
        TypeError,
        "<lambda> must know a number that is data, one of lr: name it in static",
    ),
}


@pytest.mark.parametrize(("build", "error", "message"), WRONG.values(), ids=WRONG)
def test_errors_at_construction(build, error, message):
    with pytest.raises(error, match=message):
        build()


def falling(step):
    return 0.9 - 0.1 * jnp.asarray(step, jnp.float32)


def rising(step):
    return 1.0 + jnp.asarray(step, jnp.float32)


def test_a_schedule_is_evaluated_and_its_value_stands_in_the_state():
    schedule = fo.schedules.warmup_cosine(0.5, 2, 6)
    tx = fo.inject(fo.adamw, lr=schedule, betas=(falling, 0.99))
    params, state = PARAMS, tx.init(PARAMS)
    wanted, plain = PARAMS, fo.adamw(lr=schedule, betas=(falling, 0.99))
    other = plain.init(PARAMS)
    for seed in range(4):
        np.testing.assert_allclose(state.hyperparams["lr"], schedule(seed), rtol=1e-6)
        values = fo.current_hyperparams(tx, state)
        assert values["lr"] == state.hyperparams["lr"] and values["betas"][0] == falling(seed)
        updates, state = tx.update(grads(seed), state, params)
        moves, other = plain.update(grads(seed), other, wanted)
        params, wanted = fo.apply_updates(params, updates), fo.apply_updates(wanted, moves)
    chex.assert_trees_all_close(params, wanted, rtol=1e-5)


def test_what_is_written_in_the_place_of_a_schedule_holds_until_it_is_handed_back():
    tx = fo.inject(fo.sgd, lr=rising, weight_decay=0.0)
    state, moves = tx.init(PARAMS), []
    for index in range(6):
        if index == 2:
            state = jax.jit(lambda state: fo.set_hyperparams(state, lr=10.0))(state)
        if index == 4:
            state = fo.set_hyperparams(state, lr=None)
        moves.append(float(fo.current_hyperparams(tx, state)["lr"]))
        updates, state = jax.jit(tx.update)(PARAMS, state, PARAMS)
        assert updates["bias"].tolist() == [-moves[-1]] * 3
    assert moves == [1.0, 2.0, 10.0, 10.0, 5.0, 6.0]
    with pytest.raises(ValueError, match="weight_decay has no schedule to which None could hand it back"):
        fo.set_hyperparams(state, weight_decay=None)


def test_a_schedule_that_gives_pairs_and_functions_that_are_none():
    pairs = fo.inject(fo.adam, betas=(0.9, lambda step: fo.Beta.of(0.999)))
    chex.assert_trees_all_close(run(pairs)[0], run(fo.adam())[0], rtol=1e-5)

    def own(lr, path, flag):
        assert path("w") and flag(3) is True
        return fo.sgd(lr=lr)

    tx = fo.inject(own, lr=fo.schedules.constant(0.5), path=lambda p: p == "w", flag=lambda step: True)
    assert list(tx.init(PARAMS).scheduled) == ["lr"]


COMPOSED = {
    "chain": lambda tx: fo.chain(fo.clip_by_value(1.0), tx, fo.ema(0.9)),
    "named_chain": lambda tx: fo.named_chain(("clip", fo.clip_by_value(1.0)), ("own", tx)),
    "masked": lambda tx: fo.masked(tx, MASK),
    "partition": lambda tx: fo.partition({"own": tx, "other": fo.sgd(lr=0.1)}, {"bias": "other", "kernel": "own"}),
    "accumulate": lambda tx: fo.accumulate(fo.skip_nonfinite(tx, 2), 1),
    "master_weights": lambda tx: fo.master_weights(fo.lookahead(tx)),
    "optax": lambda tx: optax.chain(optax.clip(1.0), tx),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_it_is_found_inside_of_any_composition(name, standard_promotion):
    tx = COMPOSED[name](fo.inject(fo.adam, lr=0.1))
    state = tx.init(PARAMS)
    new = jax.jit(lambda state, lr: fo.set_hyperparams(state, lr=lr))(state, 0.25)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert fo.find_state(new, fo.InjectState).hyperparams["lr"] == 0.25
    other = COMPOSED[name](fo.inject(fo.adam, lr=0.25))
    wanted = other.update(grads(0), other.init(PARAMS), PARAMS)
    chex.assert_trees_all_close(tx.update(grads(0), new, PARAMS), wanted, rtol=1e-6)


def test_several_are_told_apart():
    links = [("clip", fo.inject(fo.clip_by_global_norm, max_norm=1.0)), ("head", fo.inject(fo.adam, lr=0.1))]
    tx = fo.partition(
        {"two": fo.named_chain(*links), "body": fo.inject(fo.sgd, lr=0.2)}, {"bias": "two", "kernel": "body"}
    )
    state = fo.set_hyperparams(tx.init(PARAMS), max_norm=2.0)
    for name in ("head", "states.body"):
        state = fo.set_hyperparams(state, name=name, lr=0.5)
    values = fo.current_hyperparams(tx, state)
    assert values["two"]["clip"]["max_norm"] == 2.0 and values["two"]["head"]["lr"] == values["body"]["lr"] == 0.5
    with pytest.raises(
        KeyError, match=r"2 states have a hyperparameter 'lr': .* 'states.body', 'states.two.states.head'"
    ):
        fo.set_hyperparams(state, lr=0.1)
    with pytest.raises(KeyError, match=r"no state of the name or path 'tail'; there are: 'states.body', "):
        fo.set_hyperparams(state, name="tail", lr=0.1)


def test_one_inside_another():
    tx = fo.inject(lambda max_norm: fo.chain(fo.clip_by_global_norm(max_norm), fo.inject(fo.sgd, lr=0.5)), max_norm=1.0)
    state = fo.set_hyperparams(tx.init(jnp.zeros(1)), max_norm=3.0, lr=2.0)
    updates, _ = tx.update(jnp.full(1, 9.0), state, jnp.zeros(1))
    assert updates.item() == pytest.approx(-6.0)
    assert fo.set_hyperparams(state, name="inner.states.1", lr=1.0).inner.states[1].hyperparams["lr"] == 1.0


UNFIT = {
    "name": (
        {"momentum": 0.9},
        KeyError,
        "no hyperparameter 'momentum' in the state, only lr, betas, rates: give it to",
    ),
    "shape": ({"lr": np.ones(3)}, ValueError, r"lr has shape \(\) in the state, but the value has \(3,\)"),
    "nan": ({"lr": float("nan")}, ValueError, "lr is nan, which is not a number"),
    "text": ({"lr": "0.1"}, TypeError, "lr must be a real number or an array, but it is '0.1'"),
    "flag": ({"lr": True}, TypeError, "lr must be a real number or an array, but it is True"),
    "complex": ({"lr": 1j}, TypeError, "lr must be a real number or an array, but it is 1j"),
    "schedule": (
        {"lr": fo.schedules.constant(0.1)},
        TypeError,
        "lr must be a number, but it is a function: give schedules",
    ),
    "beta": ({"betas": (0.9, 1.5)}, ValueError, r"betas\[1\] is a decay rate, from 0 to 1, but it is 1.5"),
    "length": ({"betas": (0.9,)}, ValueError, r"betas must hold 2 values, but it is \(0.9,\)"),
    "form": ({"rates": {"a": 0.1}}, ValueError, r"rates must be a dict of 'a', 'n', but it is \{'a': 0.1\}"),
    "integer": (
        {"rates": {"a": 0.1, "n": 0.5}},
        TypeError,
        r"rates\['n'\] is int32 in the state, but the value is 0.5",
    ),
    "fixed": ({"rates": {"a": 0.1, "n": 5, "m": 1}}, ValueError, "rates must be a dict"),
}


def unfit_factory(lr, betas, rates):
    return fo.adam(lr=lr * rates["a"], betas=betas)


@pytest.mark.parametrize(("values", "error", "message"), UNFIT.values(), ids=UNFIT)
def test_what_does_not_fit_is_refused(values, error, message):
    rates = {"a": 0.1, "n": np.ones((), np.int32)}
    tx = fo.inject(unfit_factory, lr=0.1, betas=(fo.Beta.of(0.9), fo.Beta.of(0.99)), rates=rates)
    with pytest.raises(error, match=message):
        fo.set_hyperparams(tx.init(PARAMS), **values)


def test_ranges_are_those_of_the_transformation():
    tx = fo.chain(fo.scale(1.0), fo.inject(fo.adamw, lr=0.1))
    state = fo.set_hyperparams(tx.init(PARAMS), lr=-1.0)
    for raises in (
        lambda: fo.set_hyperparams(tx.init(PARAMS), tx=tx, lr=-1.0),
        lambda: fo.current_hyperparams(tx, state),
        lambda: tx.update(grads(0), state, PARAMS),
    ):
        with pytest.raises(ValueError, match=r"Invalid learning rate: -1\.0"):
            raises()
    assert fo.set_hyperparams(state, tx=tx, lr=0.5) is not None
    with pytest.raises(KeyError, match=r"there is no state of fo\.inject"):
        fo.set_hyperparams(fo.adam().init(PARAMS), lr=0.1)


def test_dtype_form_and_devices_stay():
    tx = fo.inject(lambda lr, scale: fo.chain(fo.scale(scale[0]), fo.sgd(lr=lr)), lr=0.1, scale=[jnp.bfloat16(2)])
    state = fo.set_hyperparams(tx.init(PARAMS), lr=np.float64(0.5), scale=(1,))
    assert state.hyperparams == {"lr": jnp.float32(0.5), "scale": [jnp.bfloat16(1)]}
    assert not jax.typeof(state.hyperparams["lr"]).weak_type
    device = jax.devices()[1]
    moved = fo.set_hyperparams(jax.device_put(tx.init(PARAMS), device), lr=0.25)
    assert moved.hyperparams["lr"].devices() == {device} and moved.hyperparams["lr"].committed
    mesh = jax.make_mesh((2,), ("x",))
    placed = jax.device_put(tx.init(PARAMS), NamedSharding(mesh, P()))
    assert fo.set_hyperparams(placed, lr=0.25).hyperparams["lr"].sharding == NamedSharding(mesh, P())


def test_a_number_written_by_hand_is_used_and_a_tree_of_another_form_is_refused():
    tx = fo.inject(fo.adam, lr=0.1, betas=(0.9, 0.99))
    state = tx.init(PARAMS)
    by_hand = state._replace(hyperparams={**state.hyperparams, "lr": 0.5})
    updates, after = tx.update(grads(0), by_hand, PARAMS)
    chex.assert_trees_all_equal(updates, tx.update(grads(0), fo.set_hyperparams(state, lr=0.5), PARAMS)[0])
    assert fo.set_hyperparams(by_hand, lr=0.25).hyperparams["lr"] == 0.25
    assert not jax.typeof(after.hyperparams["lr"]).weak_type
    with pytest.raises(ValueError, match=r"does not have the form of the option \(0.9, 0.99\): write it with"):
        tx.update(grads(0), state._replace(hyperparams={**state.hyperparams, "betas": 0.9}), PARAMS)


def test_a_population_with_rates_of_its_own():
    tx, rates = (
        fo.chain(fo.clip_by_global_norm(1.0), fo.inject(fo.adam, lr=0.1, betas=(0.9, 0.99))),
        jnp.array([0.1, 0.2, 0.4]),
    )
    states = jax.vmap(lambda lr: fo.set_hyperparams(tx.init(PARAMS), lr=lr))(rates)
    params = jax.tree.map(lambda p: jnp.stack([p] * 3), PARAMS)

    @jax.jit
    def step(params, states, seed_grads):
        updates, states = jax.vmap(tx.update, in_axes=(None, 0, 0))(seed_grads, states, params)
        return fo.apply_updates(params, updates), states

    for seed in range(3):
        params, states = step(params, states, grads(seed))
    for index, rate in enumerate((0.1, 0.2, 0.4)):
        alone, _ = run(fo.chain(fo.clip_by_global_norm(1.0), fo.adam(lr=rate, betas=(0.9, 0.99))), steps=3)
        chex.assert_trees_all_close(jax.tree.map(lambda p, i=index: p[i], params), alone, rtol=1e-5)
    bred = fo.set_hyperparams(states, lr=np.array([0.4, 0.4, 0.2]), betas=(0.5, jnp.array([0.9, 0.99, 0.999])))
    own = fo.find_state(bred, fo.InjectState).hyperparams
    assert own["lr"].tolist() == pytest.approx([0.4, 0.4, 0.2]) and own["betas"][0].value.tolist() == [0.5] * 3
    step(params, bred, grads(3))
    assert step._cache_size() == 1
    with pytest.raises(ValueError, match=r"lr has shape \(3,\) in the state, but the value has \(2,\)"):
        fo.set_hyperparams(states, lr=np.ones(2))


def test_in_a_train_state(standard_promotion):
    tx = fo.chain(fo.clip_by_global_norm(1.0), fo.inject(fo.adam, lr=0.1))
    train = TrainState.create(apply_fn=lambda p, x: x, params=PARAMS, tx=tx)
    step = jax.jit(lambda train, grads: train.apply_gradients(grads=grads))
    train = step(step(train, grads(0)), grads(0))
    compiled = step._cache_size()
    train = train.replace(opt_state=fo.set_hyperparams(train.opt_state, lr=0.5))
    same = fo.set_hyperparams(train, lr=0.5)  # the whole of it is a tree with the state in it
    chex.assert_trees_all_equal(same.opt_state, train.opt_state)
    after = step(train, grads(1))
    plain = fo.chain(fo.clip_by_global_norm(1.0), fo.adam(lr=0.5))
    inner = fo.ChainState((train.opt_state.states[0], train.opt_state.states[1].inner))
    updates, _ = plain.update(grads(1), inner, train.params)
    chex.assert_trees_all_close(after.params, fo.apply_updates(train.params, updates), atol=1e-6)
    assert step._cache_size() == compiled


def test_in_an_nnx_optimizer(standard_promotion):
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, fo.inject(fo.sgd, lr=0.1, momentum=0.9), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        gradients = nnx.grad(lambda model: jnp.sum(model(jnp.ones((4, 3)))))(model)
        optimizer.update(model, gradients)

    step(model, optimizer)
    before = np.array(model.bias[...])
    optimizer.opt_state = nnx.data(fo.set_hyperparams(optimizer.opt_state, lr=0.0, momentum=0.5))
    step(model, optimizer)
    np.testing.assert_array_equal(model.bias[...], before)
    optimizer.opt_state = nnx.data(fo.set_hyperparams(optimizer.opt_state, lr=1.0))
    step(model, optimizer)
    np.testing.assert_allclose(model.bias[...], before - (0.5 * (0.5 * 4 + 4) + 4))
    values = fo.current_hyperparams(optimizer.tx, nnx.as_pure(optimizer.opt_state))
    assert (float(values["lr"]), float(values["momentum"])) == (1.0, 0.5)


def test_a_chain_knows_what_is_inside():
    with pytest.raises(ValueError, match="the updates of adam are negated already, and sgd negates them again"):
        fo.chain(fo.inject(fo.adam, lr=0.1), fo.inject(fo.sgd, lr=0.1))
    with pytest.raises(ValueError, match="the weights would grow"):
        fo.chain(fo.inject(fo.adam, lr=0.1), fo.add_decayed_weights(0.1))
    fo.chain(fo.adam(), fo.inject(fo.scale, factor=-1.0))  # another number may stand there later


def test_it_prints_as_the_call():
    assert repr(fo.inject(fo.adam, lr=0.1, betas=(0.9, 0.99), amsgrad=True)).endswith(
        ", lr=0.1, betas=(0.9, 0.99), amsgrad=True)"
    )


def test_the_gradient_with_respect_to_a_number_in_the_state(x64):
    tx = fo.inject(fo.adam, lr=0.1)

    def final(lr, tx=tx):
        state, params = fo.set_hyperparams(tx.init(jnp.ones(2)), lr=lr), jnp.ones(2)
        for _ in range(3):
            updates, state = tx.update(2 * params, state, params)
            params = fo.apply_updates(params, updates)
        return jnp.sum(params**2)

    difference = (final(0.1 + 1e-6) - final(0.1 - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(final)(0.1), difference, rtol=1e-6)


def test_a_dtype_is_no_schedule():
    params = {"w": jnp.ones(2)}
    for dtype in (jnp.bfloat16, np.float16, jnp.dtype("bfloat16")):
        tx = fo.inject(lambda lr, dtype: fo.state_dtype(fo.adamw(lr=lr), dtype), lr=0.1, dtype=dtype)
        state = tx.init(params)
        assert set(state.hyperparams) == {"lr"}
        assert state.inner.exp_avg["w"].dtype == dtype
    with pytest.raises(TypeError, match="lr must be a number, an array of one element or a schedule, but it is <class"):
        fo.inject(fo.sgd, lr=jnp.float32)


def test_a_conversion_inside_reaches_the_links_after_it():
    params, grad_fn = {"z": jnp.array([1.0 + 2.0j])}, jax.grad(lambda p: jnp.sum(jnp.abs(p["z"] - 1j) ** 2))
    sharp, grads = fo.sam(fo.sgd(lr=0.1), rho=0.1), grad_fn(params)
    wrapped = fo.inject(lambda unused: fo.conjugate(), unused=1.0)
    found, wanted = (
        tx.update(grads, tx.init(params), params, grad_fn=grad_fn)[0]
        for tx in (fo.chain(wrapped, sharp), fo.chain(fo.conjugate(), sharp))
    )
    np.testing.assert_allclose(found["z"], wanted["z"], rtol=1e-6)
