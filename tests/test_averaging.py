"""Parameter averages: torch's numbers, in chains and alone."""

import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
from functorch_optim import rows as rows_of

AVERAGES = {
    "ema": fo.ema(0.9),
    "ema-warm": fo.ema(fo.ema_warmup(0.99)),
    "ema-debiased": fo.ema(0.9, debias=True),
    "ema-later": fo.ema(0.9, start_step=3, every=2),
    "swa": fo.swa(),
    "swa-later": fo.swa(start_step=2, every=3),
}
every = pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES.keys())


def values(steps=60, dtype=np.float64):
    rng = np.random.default_rng(0)
    return [
        {"w": np.asarray(rng.standard_normal((3, 4)), dtype), "b": np.asarray(rng.standard_normal(()), dtype)}
        for _ in range(steps)
    ]


def averaged(average, trees):
    """Return the average of all trees, and how often its update compiled."""
    state = average.init(jax.tree.map(jnp.asarray, trees[0]))
    update = jax.jit(lambda state, params: fo.update_average(average, state, params))
    for tree in trees:
        state = update(state, jax.tree.map(jnp.asarray, tree))
    return fo.averaged_params(state), update._cache_size()


def direct(trees, keep, start=0, every=1):
    """Compute the average in NumPy; ``keep`` is a function of the number of trees so far."""
    average, n = None, 0
    for step, tree in enumerate(trees):
        if step >= start and (step - start) % every == 0:
            share = keep(n) if n else 0.0
            average = tree if n == 0 else jax.tree.map(lambda a, p: share * a + (1 - share) * p, average, tree)  # noqa: B023
            n += 1
        elif n == 0:
            average = tree
    return average


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ema", {"keep": lambda n: 0.9}),
        ("ema-warm", {"keep": lambda n: min(0.99, (1 + n) / (10 + n))}),
        ("ema-later", {"keep": lambda n: 0.9, "start": 3, "every": 2}),
        ("swa", {"keep": lambda n: n / (n + 1)}),
        ("swa-later", {"keep": lambda n: n / (n + 1), "start": 2, "every": 3}),
    ],
)
def test_against_the_recursion(name, arguments, x64):
    for count in (1, 2, 4, 60):
        expected = direct(values(count), **arguments)
        found, compilations = averaged(AVERAGES[name], values(count))
        chex.assert_trees_all_close(found, expected, rtol=1e-12, atol=1e-14)
        assert compilations == 1


def test_debiasing_keeps_its_digits():
    average, params = fo.ema(0.99999, debias=True), jnp.array([3.0])
    state = average.init(params)
    for _ in range(3):
        state = fo.update_average(average, state, params)
        np.testing.assert_allclose(fo.averaged_params(state), [3.0], rtol=3e-7)


def test_the_warm_up_keeps_the_digits_of_one_minus_the_decay():
    average = fo.ema(fo.ema_warmup(0.9999))
    state = average.init(jnp.zeros(()))._replace(n_averaged=jnp.asarray(10**6, jnp.int32))
    np.testing.assert_allclose(fo.averaged_params(fo.update_average(average, state, jnp.ones(()))), 1e-4, rtol=1e-6)


def test_masked_and_partitioned_averages():
    params = {"a": jnp.ones(2), "b": jnp.zeros(3)}
    for tx in (
        fo.chain(fo.sgd(lr=0.1), fo.masked(fo.ema(0.5), {"a": True, "b": False})),
        fo.partition({"x": fo.chain(fo.sgd(lr=0.1), fo.ema(0.5)), "y": fo.sgd()}, {"a": "x", "b": "y"}),
    ):
        _, state = tx.update(params, tx.init(params), params)
        averaged, swapped = fo.swap_params(params, state)
        np.testing.assert_allclose(averaged["a"], [0.9, 0.9])
        assert averaged["b"] is params["b"]
        chex.assert_trees_all_equal(fo.swap_params(averaged, swapped)[0], params)


def test_debiasing_takes_the_zeros_out(x64):
    trees = values(10)
    weights = 0.9 ** np.arange(9, -1, -1)
    expected = jax.tree.map(lambda *xs: sum(w * x for w, x in zip(weights, xs, strict=True)) / sum(weights), *trees)
    found, compilations = averaged(AVERAGES["ema-debiased"], trees)
    chex.assert_trees_all_close(found, expected, rtol=1e-12)
    assert compilations == 1


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_is_torchs_averaged_model(kind, dtype):
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    trees = values(dtype=np.dtype(dtype))
    model = torch.nn.Module()
    model.w, model.b = (torch.nn.Parameter(torch.tensor(trees[0][key])) for key in ("w", "b"))
    function = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9) if kind == "ema" else None
    theirs = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=function)
    for tree in trees:
        with torch.no_grad():
            model.w.copy_(torch.tensor(tree["w"]))
            model.b.copy_(torch.tensor(tree["b"]))
        theirs.update_parameters(model)
    with jax.enable_x64(dtype == "float64"):
        ours, compilations = averaged(AVERAGES[kind], trees)
        assert compilations == 1
        for key in ("w", "b"):
            right = getattr(theirs.module, key).detach().numpy()
            tolerance = 1e-12 if dtype == "float64" else 2 * np.finfo(np.float32).eps * 2
            np.testing.assert_allclose(ours[key], right, rtol=0, atol=tolerance * np.max(np.abs(right)))


def start():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731 one line
    return {"bias": draw(4), "kernel": draw(4, 4)}


@every
def test_in_a_chain_under_jit_and_scan(average):
    """It averages the resulting parameters, and passes the updates through unchanged."""
    tx, alone = fo.chain(fo.adam(lr=0.1), average), fo.adam(lr=0.1)
    params = start()

    def step(carry, grads):
        params, state, plain = carry
        updates, state = tx.update(grads, state, params)
        expected, plain = alone.update(grads, plain, params)
        moved = fo.apply_updates(params, updates)
        same = jax.tree.reduce(jnp.logical_and, jax.tree.map(lambda u, e: jnp.all(u == e), updates, expected))
        return (moved, state, plain), (moved, same)

    grads = jax.tree.map(lambda p: jnp.stack([p * k for k in (1.0, -2.0, 0.5, 3.0, 1.0, -1.0)]), params)
    (_, state, _), (trail, same) = jax.lax.scan(step, (params, tx.init(params), alone.init(params)), grads)
    assert bool(jnp.all(same))
    trees = [jax.tree.map(lambda x, k=k: x[k], trail) for k in range(6)]
    found, compilations = averaged(average, trees)
    chex.assert_trees_all_close(fo.averaged_params(state), found, rtol=1e-5, atol=1e-6)
    assert compilations == 1


@every
def test_sharded_parameters(average):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    tx, params = fo.chain(fo.sgd(lr=0.1), average), start()
    specs = {"bias": P("data"), "kernel": P(None, "data")}
    with jax.set_mesh(mesh):
        placed = jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), params, specs)
        state = tx.init(placed)
        assert state.states[1].average["kernel"].sharding.spec == specs["kernel"]
        for _ in range(4):
            _, state = jax.jit(tx.update)(placed, state, placed)
        result = fo.averaged_params(state)
    assert jax.tree.map(lambda x: x.sharding.spec, result) == specs
    plain = tx.init(params)
    for _ in range(4):
        _, plain = tx.update(params, plain, params)
    chex.assert_trees_all_close(jax.tree.map(np.asarray, result), fo.averaged_params(plain), rtol=1e-6)


def test_low_precision_parameters_have_a_float32_average():
    """A bfloat16 accumulator would not move with a decay of 0.9999."""
    average, steps = fo.ema(0.9999), 20_000
    rng = np.random.default_rng(0)
    trail = jnp.asarray(1 + 0.3 * np.sin(np.arange(steps) / 3000) + 0.05 * rng.standard_normal(steps), jnp.bfloat16)
    state = average.init(jnp.zeros((), jnp.bfloat16))
    assert state.average.dtype == jnp.float32

    def step(state, param):
        return fo.update_average(average, state, param), None

    state, _ = jax.lax.scan(step, state, trail)
    exact = np.asarray(trail, np.float64)
    expected = exact[0]
    for value in exact[1:]:
        expected = 0.9999 * expected + 0.0001 * value
    np.testing.assert_allclose(float(fo.averaged_params(state)), expected, rtol=1e-2)
    assert fo.averaged_params(state, jnp.zeros((), jnp.bfloat16)).dtype == jnp.bfloat16
    assert fo.ema(dtype=jnp.bfloat16).init(jnp.zeros(2)).average.dtype == jnp.bfloat16
    assert fo.ema(dtype=jnp.float32).init(jnp.zeros(2, jnp.complex64)).average.dtype == jnp.complex64


def test_the_count_of_an_average_does_not_wrap_around():
    average, largest = fo.swa(), np.iinfo(np.int32).max
    state = average.init(jnp.ones(1))._replace(step=jnp.int32(largest), n_averaged=jnp.int32(largest))
    state = fo.update_average(average, state._replace(average=jnp.ones(1)), jnp.full(1, 2.0))
    assert state.n_averaged == largest
    assert fo.averaged_params(state).tolist() == [1.0]


@every
def test_swapping_loses_nothing(average):
    tx = fo.chain(fo.sgd(lr=0.1), average)
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), start())
    state = tx.init(params)
    for _ in range(4):
        updates, state = tx.update(params, state, params)
        params = fo.apply_updates(params, updates)
    inside, swapped = fo.swap_params(params, state)
    chex.assert_trees_all_equal_dtypes(inside, params)
    chex.assert_trees_all_equal(inside, fo.averaged_params(state, params))
    with pytest.raises(ValueError, match="the parameters are swapped; swap them back"):
        tx.update(params, swapped, params)
    back, again = fo.swap_params(inside, swapped)
    chex.assert_trees_all_equal((back, again), (params, state))


@every
def test_the_pair_is_a_value_and_the_state_a_slot(average):
    again = pickle.loads(pickle.dumps(average))
    assert again == average
    assert hash(again) == hash(average)
    params = start()
    state = average.init(params)
    assert jax.tree.map(jax.typeof, average.init(jax.eval_shape(start))) == jax.tree.map(jax.typeof, state)
    pointers = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((params, state))}
    assert len(pointers) == len(jax.tree.leaves((params, state)))
    marked = optax.tree_utils.tree_map_params(
        average, lambda slot: "slot", state, transform_non_params=lambda x: "other"
    )
    assert set(jax.tree.leaves(marked.average)) == {"slot"}
    assert (marked.step, marked.n_averaged) == ("other", "other")
    empty, _ = average.update({}, average.init({}), {})
    assert empty == {}


def test_missing_updates_and_row_sparse_ones():
    """A parameter without an update is averaged with its current value."""
    params = {"a": jnp.ones(2), "table": jnp.zeros((4, 1))}
    average = fo.swa()
    rows = rows_of.make(jnp.ones((1, 1)), jnp.array([2]), (4, 1))
    state = average.init(params)
    updates, state = average.update({"a": None, "table": rows}, state, params)
    assert updates["a"] is None
    np.testing.assert_array_equal(fo.averaged_params(state)["a"], np.ones(2))
    np.testing.assert_array_equal(fo.averaged_params(state)["table"][:, 0], [0, 0, 1, 0])


def test_complex_parameters_and_derivatives():
    z = jnp.array([1 + 2j, -1j], jnp.complex64)
    average = fo.ema(0.5)
    state = fo.update_average(average, average.init(z), z)
    state = fo.update_average(average, state, 3 * z)
    np.testing.assert_allclose(fo.averaged_params(state), 2 * z)

    def through(x):
        state = fo.update_average(average, average.init(x), x)
        return jnp.sum(fo.averaged_params(fo.update_average(average, state, x**2)))

    np.testing.assert_allclose(jax.grad(through)(jnp.array([3.0])), [0.5 + 0.5 * 6])


def test_the_decay_is_data(compilations):
    @jax.jit
    def update(state, params, decay):
        return fo.update_average(fo.ema(fo.Beta.of(decay)), state, params)

    state = fo.ema().init(jnp.ones(2))
    state = update(state, jnp.ones(2), 0.9)
    before = len(compilations)
    for decay in (0.8, 0.5):
        state = update(state, jnp.zeros(2), decay)
    assert len(compilations) == before
    np.testing.assert_allclose(fo.averaged_params(state), [0.4, 0.4], rtol=1e-6)


def test_errors():
    for decay in (-0.1, 1.5):
        with pytest.raises(ValueError, match=r"Invalid decay value .* provided. Please provide a value in \[0,1\]"):
            fo.ema(decay)
    with pytest.raises(ValueError, match="every must be an integer of at least 1"):
        fo.swa(every=0)
    with pytest.raises(TypeError, match="start_step must be an integer"):
        fo.ema(start_step=1.5)
    with pytest.raises(TypeError, match="dtype must be a floating one"):
        fo.swa(dtype=jnp.int32)
    average, params = fo.ema(), {"a": jnp.ones(2)}
    with pytest.raises(ValueError, match="ema needs the parameters"):
        average.update(params, average.init(params))
    with pytest.raises(ValueError, match="nothing was averaged yet"):
        fo.averaged_params(average.init(params))
    with pytest.raises(KeyError, match="no state of the name or type 'AverageState'"):
        fo.averaged_params(fo.sgd().init(params))
    with pytest.raises(ValueError, match="missing 'a'"):
        average.update({"b": jnp.ones(2)}, average.init(params), params)


def test_what_comes_out_is_a_copy():
    """A later donated step deletes the state's own arrays."""
    tx, params = fo.chain(fo.sgd(lr=0.1), fo.ema(0.5)), {"w": jnp.ones(3)}
    step = jax.jit(lambda p, s: tx.update(p, s, p), donate_argnums=(0, 1))
    _, state = tx.update(params, tx.init(params), params)
    first, second = fo.averaged_params(state), fo.averaged_params(state, params)
    evaluation, state = fo.swap_params(params, state)
    jax.jit(lambda p: jax.tree.map(jnp.negative, p), donate_argnums=0)(evaluation)
    trained, state = fo.swap_params(evaluation, state)
    step(trained, state)
    for kept in (first, second):
        np.testing.assert_allclose(kept["w"], [0.9, 0.9, 0.9])


def test_a_debiased_average_follows_the_parameters_until_it_starts():
    tx, params = fo.chain(fo.sgd(lr=1.0), fo.ema(0.9, debias=True, start_step=2)), jnp.array([5.0])
    state = tx.init(params)
    seen = []
    for _ in range(4):
        updates, state = tx.update(jnp.ones(1), state, params)
        params = fo.apply_updates(params, updates)
        seen.append(float(jax.jit(fo.averaged_params)(state)[0]))
    np.testing.assert_allclose(seen, [4.0, 3.0, 2.0, (0.09 * 2 + 0.1 * 1) / 0.19], rtol=1e-6)
    with pytest.raises(ValueError, match="with a decay of 1 no parameters come in"):
        fo.ema(1.0, debias=True)


def test_averages_of_ensembles_and_of_what_is_no_parameter():
    tx = fo.chain(fo.sgd(lr=0.1), fo.ema(0.5))
    members = jnp.arange(6.0).reshape(3, 2)
    state = jax.vmap(tx.init)(members)
    _, state = jax.vmap(tx.update)(members, state, members)
    np.testing.assert_allclose(fo.averaged_params(state), members * 0.9, rtol=1e-6)
    with pytest.raises(TypeError, match="the parameter 'n' has dtype int32"):
        fo.ema().init({"w": jnp.ones(1), "n": jnp.ones(1, int)})
