"""value_fn and grad_fn with further arguments: which keywords they get, how often they are called, and on what part."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.base import needs_of, update_of
from functorch_optim.objectives import with_arguments

each = pytest.mark.parametrize("make", [fo.lbfgs, fo.bfgs])
INPUTS = jnp.asarray(np.random.default_rng(0).standard_normal((20, 3)), jnp.float32)
TARGETS = INPUTS @ jnp.array([1.0, -2.0, 3.0]) + 0.5


def loss(params, x, y, scale=1.0):
    return scale * jnp.mean((x @ params["w"] + params["b"] - y) ** 2)


def start():
    return {"w": jnp.zeros(3), "b": jnp.zeros(())}


def whole(params):
    return loss(params, INPUTS, TARGETS)


@each
def test_the_objective_gets_the_keywords_that_it_takes(make):
    tx, params = make(line_search_fn="strong_wolfe"), start()
    grads, keywords = jax.grad(whole)(params), {"x": INPUTS, "y": TARGETS}
    wanted = tx.update(grads, tx.init(params), params, value_fn=whole)
    found = tx.update(grads, tx.init(params), params, value_fn=loss, other=1, **keywords)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    moved = fo.apply_updates(params, found[0])
    np.testing.assert_allclose(moved["w"], [1.0, -2.0, 3.0], rtol=1e-3)

    @jax.jit
    def step(params, state, x, y):
        updates, state = tx.update(jax.grad(loss)(params, x, y), state, params, value_fn=loss, x=x, y=y)
        return fo.apply_updates(params, updates), state

    compiled, _ = step(params, tx.init(params), **keywords)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3), compiled, moved)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'y'"):
        tx.update(grads, tx.init(params), params, value_fn=loss, x=INPUTS)


@each
def test_a_known_value_saves_an_evaluation(make):
    calls = []

    def counted(params, x, y):
        calls.append(isinstance(params["w"], jax.core.Tracer))
        return loss(params, x, y)

    tx, params = make(), start()
    value, grads = jax.value_and_grad(whole)(params)
    counts, results = [], []
    for known in ({}, {"value": value}):
        calls.clear()
        results.append(
            tx.update(grads, tx.init(params), params, value_fn=counted, x=INPUTS, y=TARGETS, grad=grads, **known)
        )
        counts.append(len([traced for traced in calls if not traced]))
    assert counts == [1, 0]  # outside the loop; inside it the objective is traced
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), *results)


@each
def test_in_chains_partitions_masks_and_optax(make):
    tx, params, keywords = make(), start(), {"value_fn": loss, "x": INPUTS, "y": TARGETS}
    grads = jax.grad(whole)(params)
    alone, _ = tx.update(grads, tx.init(params), params, **keywords)
    chain = fo.chain(tx, fo.scale(0.5), fo.skip_nonfinite(fo.identity(), 2))
    half, _ = chain.update(grads, chain.init(params), params, **keywords)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 0.5 * b, rtol=1e-6), half, alone)
    theirs = optax.chain(fo.interop.to_optax(tx), optax.scale(0.5))
    same, _ = theirs.update(grads, theirs.init(params), params, **keywords)
    jax.tree.map(np.testing.assert_array_equal, same, half)

    own = lambda w: loss({"w": w, "b": params["b"]}, INPUTS, TARGETS)  # noqa: E731 one line
    wanted, _ = tx.update(grads["w"], tx.init(params["w"]), params["w"], value_fn=own)
    parts = fo.partition({"newton": tx, "sgd": fo.sgd(lr=0.5)}, {"w": "newton", "b": "sgd"})
    for tree in (parts, fo.masked(tx, {"w": True, "b": False}), fo.chain(fo.chain(parts))):
        updates, _ = tree.update(grads, tree.init(params), params, **keywords)
        np.testing.assert_allclose(updates["w"], wanted, rtol=1e-6)


def test_which_keywords_a_function_takes():
    def named(params, x, *, y=2):
        return params, x, y

    def open_ended(params, **batch):
        return params, batch

    keywords = {"params": 0, "x": 1, "y": 3, "z": 4, "value": 5, "value_fn": 6}
    assert with_arguments(named, keywords)("p") == ("p", 1, 3)
    assert with_arguments(open_ended, keywords)("p") == ("p", {"x": 1, "y": 3, "z": 4})
    assert with_arguments(functools.partial(named, x=7), {"y": 3})("p") == ("p", 7, 3)
    assert with_arguments(jax.jit(lambda p, x: p + x), keywords)(2) == 3
    assert with_arguments(lambda x: x, keywords)("p") == "p"  # its first argument is the parameters, whatever its name
    assert with_arguments(max, keywords) is max


def stepped(make, defaults, params=None, steps=5, **options):
    optimizer = optim.Optimizer.from_transform(make, start() if params is None else params, defaults, **options)
    values = [float(optimizer.step(loss, INPUTS, TARGETS)) for _ in range(steps)]
    return optimizer, values


def functional(tx, steps=5):
    params, state = start(), tx.init(start())
    for _ in range(steps):
        value, grads = jax.value_and_grad(whole)(params)
        keywords = {"value": value, "value_fn": whole, "grad_fn": jax.grad(whole)}
        updates, state = tx.update(grads, state, params, **keywords)
        params = fo.apply_updates(params, updates)
    return params, state


NEEDING = {
    "sam": (lambda lr: fo.chain(fo.sam(fo.sgd(lr=lr), rho=0.1), fo.ema(0.9)), {"lr": 0.1}),
    "plateau": (
        lambda lr, factor: fo.chain(fo.sgd(lr=lr), fo.reduce_on_plateau(factor, 0)),
        {"lr": 0.5, "factor": 0.5},
    ),
    "spikes": (lambda lr: fo.skip_spikes(fo.sgd(lr=lr), window=2, factor=0.0), {"lr": 0.6}),
    "lbfgs": (lambda lr: fo.masked(fo.lbfgs(lr=lr, max_iter=3), lambda path: path == "w"), {"lr": 1.0}),
    "inject": (lambda lr: fo.inject(lambda rho: fo.sam(fo.sgd(lr=0.1), rho=rho), rho=lr), {"lr": 0.1}),
}


@pytest.mark.parametrize("name", NEEDING)
def test_the_torch_face_gives_the_loss_to_those_that_need_it(name, compilations):
    make, defaults = NEEDING[name]
    optimizer, values = stepped(make, defaults)
    wanted, _ = functional(make(**defaults))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-6), optimizer.params, wanted)
    np.testing.assert_allclose(values[0], whole(start()), rtol=1e-6)
    assert all(entry["step"] == 5 for entry in optimizer.state.values() if "step" in entry)
    compilations.clear()
    optimizer.param_groups[0]["lr"] = 0.05
    optimizer.step(loss, INPUTS, TARGETS)
    assert not compilations
    twin = optim.Optimizer.from_transform(make, optimizer.params, defaults)
    twin.load_state_dict(optimizer.state_dict())
    for one in (optimizer, twin):
        one.step(loss, INPUTS, TARGETS)
    jax.tree.map(np.testing.assert_array_equal, twin.params, optimizer.params)


@pytest.mark.parametrize("name", ["sam", "plateau", "spikes"])
def test_the_torch_face_says_what_is_missing(name):
    optimizer, _ = stepped(*NEEDING[name], steps=1)
    optimizer.backward(loss, INPUTS, TARGETS)
    needed = "the gradient as a function" if name == "sam" else "the loss"
    for step in (optimizer.step, lambda: optimizer.step(start())):
        with pytest.raises(ValueError, match=rf"needs {needed}: .*; in the torch face call step\(closure\)"):
            step()


def test_sam_by_groups_and_by_elements_perturbs_each_group_by_itself():
    def make(lr):
        return fo.sam(fo.sgd(lr=lr), rho=0.5)

    ruled, _ = stepped(make, {"lr": 0.1}, steps=2, group_rules=[("b", {"lr": 0.05})])
    listed = optim.Optimizer.from_transform(
        make, [{"params": {"w": jnp.zeros(3)}}, {"params": {"b": jnp.zeros(())}, "lr": 0.05}], {"lr": 0.1}
    )

    def of_list(params, x, y):
        return loss({**params[0], **params[1]}, x, y)

    for _ in range(2):
        listed.step(of_list, INPUTS, TARGETS)
    parts = fo.partition({"w": make(0.1), "b": make(0.05)}, lambda path: path)
    wanted, _ = functional(parts, steps=2)
    for found in (ruled.params, {**listed.params[0], **listed.params[1]}):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), found, wanted)


def test_complex_parameters_get_the_direction_of_descent():
    def distance(params):
        return jnp.abs(params["z"] - (1 + 2j)) ** 2

    optimizer = optim.Optimizer.from_transform(
        lambda lr: fo.sam(fo.sgd(lr=lr), rho=0.01), {"z": jnp.zeros((), jnp.complex64)}, {"lr": 0.25}
    )
    for _ in range(20):
        optimizer.step(distance)
    np.testing.assert_allclose(optimizer.params["z"], 1 + 2j, atol=0.02)


def test_a_closure_of_others_is_differentiated_as_before():
    optimizer, values = stepped(lambda lr: fo.sgd(lr=lr), {"lr": 0.1})
    wanted, _ = functional(fo.sgd(lr=0.1))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), optimizer.params, wanted)
    assert values[0] > values[-1] and needs_of(fo.chain(fo.sgd())) == frozenset()
    assert needs_of(fo.chain(fo.skip_spikes(fo.sam(fo.sgd())))) == {"value", "grad_fn"}
    assert needs_of(fo.skip_spikes(fo.sgd(), of="norm")) == frozenset()


def test_a_line_search_of_optax_works_in_a_partition(standard_promotion):
    params = {"a": jnp.array([3.0, -1.0]), "b": jnp.array([2.0])}
    loss = lambda params: jnp.sum(params["a"] ** 4) + jnp.sum(params["b"] ** 2)  # noqa: E731 one line
    alone = lambda a: loss({"a": a, "b": params["b"]})  # noqa: E731 one line
    (value, grads), inner = jax.value_and_grad(loss)(params), optax.lbfgs()
    tx = fo.partition({"a": inner, "b": fo.sgd(lr=0.1)}, {"a": "a", "b": "b"})
    updates, _ = tx.update(grads, tx.init(params), params, value=value, grad=grads, value_fn=loss)
    own = {"value": value, "grad": grads["a"], "value_fn": alone}
    wanted, _ = inner.update(grads["a"], inner.init(params["a"]), params["a"], **own)
    np.testing.assert_allclose(updates["a"], wanted, rtol=1e-6)
    np.testing.assert_allclose(updates["b"], [-0.4], rtol=1e-6)
    with pytest.raises(ValueError, match="gradients do not have the structure of the parameters: missing 'b'"):
        tx.update(grads, tx.init(params), params, value=value, grad={"a": grads["a"]}, value_fn=loss)


@pytest.mark.parametrize("wrap", [fo.masked, lambda tx, mask: fo.partition({True: tx, False: fo.sgd()}, mask)])
def test_a_line_search_of_optax_gets_the_data_of_the_loss_in_a_mask(standard_promotion, wrap):
    def of_data(params, x):
        return jnp.sum((params["k"] * x + params["b"] ** 2) ** 2)

    params, x = {"k": jnp.array([1.0, 2.0]), "b": jnp.array([3.0, -1.0])}, jnp.array([0.5, 0.7])
    (value, grads), inner = jax.value_and_grad(of_data)(params, x), optax.lbfgs()
    tx = wrap(inner, re.compile("k"))
    given = {"value": value, "grad": grads, "value_fn": of_data, "x": x}
    updates, _ = tx.update(grads, tx.init(params), params, **given)
    own = {**given, "grad": grads["k"], "value_fn": lambda k, x: of_data({"k": k, "b": params["b"]}, x)}
    wanted, _ = inner.update(grads["k"], inner.init(params["k"]), params["k"], **own)
    np.testing.assert_allclose(updates["k"], wanted, rtol=1e-6)


def test_a_gradient_as_a_function_gets_further_positional_arguments(standard_promotion):
    batches = jnp.array([[1.0, 2.0], [3.0, 5.0]])
    grad_fn = jax.grad(lambda params, i: jnp.sum((params["k"] * batches[i]) ** 2))
    params = {"k": jnp.array([1.0, 2.0])}
    inner = optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.05), opaque_mode=True, sync_period=3)
    grads = grad_fn(params, 0)
    wanted, _ = inner.update(grads, inner.init(params), params, grad_fn=grad_fn)
    for tx in (fo.masked(inner, lambda path: True), fo.chain(fo.conjugate(), inner)):
        updates, _ = tx.update(grads, tx.init(params), params, grad_fn=grad_fn)
        np.testing.assert_allclose(updates["k"], wanted["k"], rtol=1e-6)


FOREIGN = {
    "plateau": lambda lr: fo.chain(fo.sgd(lr=lr), optax.contrib.reduce_on_plateau(patience=0, factor=0.5)),
    "chained": lambda lr: optax.chain(optax.sgd(lr), optax.contrib.reduce_on_plateau(patience=0, factor=0.5)),
    "polyak": lambda lr: optax.polyak_sgd(max_learning_rate=lr),
    "lbfgs": lambda lr: fo.chain(optax.lbfgs(), fo.scale(lr)),
    "group": lambda lr: fo.partition({"w": optax.lbfgs(), "b": fo.sgd(lr=lr)}, lambda path: path),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("calls_back", [False, True])
def test_the_torch_face_gives_the_loss_to_transformations_of_optax(name, calls_back, standard_promotion):
    def closure(params, x, y):
        value = loss(params, x, y)
        if calls_back:
            jax.debug.callback(lambda _: None, value)
        return value

    tx, params = FOREIGN[name](lr=0.5), start()
    optimizer = optim.Optimizer.from_transform(FOREIGN[name], params, {"lr": 0.5})
    state = tx.init(params)
    for _ in range(3):
        optimizer.step(closure, INPUTS, TARGETS)
        value, grads = jax.value_and_grad(whole)(params)
        more = {"value": value, "grad": grads, "value_fn": whole}
        updates, state = update_of(tx, grads, state, params, more)
        params = optax.apply_updates(params, updates)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=1e-4), optimizer.params, params)


def test_other_transformations_of_optax_take_gradients_and_every_option_of_a_closure():
    optimizer = optim.Optimizer.from_transform(lambda lr: optax.chain(optax.sgd(lr)), start(), {"lr": 0.1})
    optimizer.step({"w": jnp.ones(3), "b": jnp.ones(())})
    optimizer.step(lambda params: (whole(params), 3), has_aux=True, clip_norm=1.0)
    assert np.all(np.isfinite(optimizer.params["w"]))
    plain = fo.GradientTransformation(lambda params: (), lambda updates, state, params=None: (updates, state))
    optim.Optimizer.from_transform(lambda lr: plain, start(), {"lr": 0.1}).step(whole)


@pytest.mark.parametrize("value", [1, True, np.int64(1), jnp.array(1), jnp.array(True)])
def test_a_metric_that_is_whole_is_a_number(value):
    params = {"w": jnp.ones(2)}
    for tx in (fo.chain(fo.sgd(lr=1.0), fo.reduce_on_plateau()), fo.skip_spikes(fo.sgd(lr=1.0)), fo.lbfgs(lr=1.0)):
        found, wanted = (
            tx.update(params, tx.init(params), params, value=one, value_fn=lambda p: jnp.sum(p["w"] ** 2))
            for one in (value, jnp.array(1.0))
        )
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
