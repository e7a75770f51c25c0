"""AdaHessian and Sophia: equal to the authors' steps, fed by an estimator that runs when an estimate is due."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
from functorch_optim import optim
from tests.algorithms import full

SHAPES = {"kernel": (3, 2), "bias": (2,), "conv": (4, 3, 2, 2)}
STEPS = 33
MAKERS = {"adahessian": fo.adahessian, "sophia": fo.sophia}
each = pytest.mark.parametrize("name", MAKERS)


def drawn(seed):
    draw = np.random.default_rng(seed)
    return {name: draw.standard_normal(shape) for name, shape in SHAPES.items()}


def slope(p, batch):
    return np.tanh(p - batch) + 0.1 * p


def loss(params, batch):
    parts = jax.tree.map(lambda p, x: jnp.sum(jnp.log(jnp.cosh(p - x)) + 0.05 * p**2), params, batch)
    mixed = jnp.sum(params["kernel"]) * jnp.sum(params["bias"])  # a Hessian that is not diagonal
    return sum(jax.tree.leaves(parts)) + 0.1 * mixed


def estimated(params, key):
    return jax.tree.map(lambda p: jax.random.normal(key, p.shape, p.dtype) ** 2 * jnp.cos(p), params)


def estimates_at(params, step, seed=0):
    key = jax.random.fold_in(jax.random.key(seed), step)
    found = estimated(jax.tree.map(jnp.asarray, params), key)
    return {name: np.asarray(found[name]) for name in params}


def run(tx, steps=STEPS, curvature_fn=estimated, dtype="float64"):
    """The parameters after each step, and the last state; compiled once."""
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), drawn(0))
    state, rows, traces = tx.init(params), [], []

    @jax.jit
    def step(state, params, batch):
        traces.append(1)
        grads = jax.tree.map(lambda p, x: jnp.tanh(p - x) + 0.1 * p, params, batch)
        updates, state = tx.update(grads, state, params, curvature_fn=curvature_fn)
        return fo.apply_updates(params, updates), state

    for seed in range(1, steps + 1):
        params, state = step(state, params, jax.tree.map(lambda x: jnp.asarray(x, dtype), drawn(seed)))
        rows.append(params)
    assert len(traces) == 1
    return rows, state


def adahessian_by_hand(
    steps=STEPS, lr=0.15, betas=(0.9, 0.999), eps=1e-4, decay=0.0, power=1.0, period=1, block=(), turn=1
):
    """The authors' step in NumPy; between the updates of the estimate it is davda54's, which keeps the last one."""
    params = drawn(0)
    m, v, last = [{name: np.zeros(shape) for name, shape in SHAPES.items()} for _ in range(3)]
    rows = []
    for t in range(1, steps + 1):
        estimates = estimates_at(params, t) if (t - 1) % period == 0 else None
        for name, p in params.items():
            g = turn * slope(p, drawn(t)[name])
            if estimates is not None:
                size = np.abs(estimates[name])
                last[name] = size.mean(block, keepdims=True) * np.ones_like(p) if block and p.ndim == 4 else size
            m[name] = betas[0] * m[name] + (1 - betas[0]) * g
            v[name] = betas[1] * v[name] + (1 - betas[1]) * last[name] ** 2
            denom = np.sqrt(v[name]) ** power / np.sqrt(1 - betas[1] ** t) ** power + eps
            params[name] = p - lr * (m[name] / (1 - betas[0] ** t) / denom + decay * p)
        rows.append(dict(params))
    return rows


def sophia_by_hand(steps=STEPS, lr=1e-4, betas=(0.965, 0.99), rho=0.04, decay=0.1, period=10, turn=1, size=5120):
    """The authors' step in NumPy, with its ``bs``, for an average that leaves out this factor."""
    params = drawn(0)
    m, h = [{name: np.zeros(shape) for name, shape in SHAPES.items()} for _ in range(2)]
    rows = []
    for t in range(1, steps + 1):
        estimates = estimates_at(params, t) if (t - 1) % period == 0 else None
        for name, p in params.items():
            g = turn * slope(p, drawn(t)[name])
            if estimates is not None:
                h[name] = betas[1] * h[name] + (1 - betas[1]) * estimates[name] / size
            m[name] = betas[0] * m[name] + (1 - betas[0]) * g
            ratio = np.minimum(np.abs(m[name]) / (rho * size * np.maximum(h[name], 0) + 1e-15), 1)
            params[name] = p * (1 - lr * decay) - lr * np.sign(m[name]) * ratio
        rows.append(dict(params))
    return rows


def assert_close(found, wanted, tolerance=1e-10):
    for ours, theirs in zip(found, wanted, strict=True):
        for name, array in theirs.items():
            np.testing.assert_allclose(ours[name], array, rtol=0, atol=tolerance * np.max(np.abs(array)))


def spatial(shape):
    return (2, 3) if len(shape) == 4 else ()


ADAHESSIAN = {
    "plain": ({}, {}),
    "decay": ({"weight_decay": 0.1, "lr": 0.05}, {"decay": 0.1, "lr": 0.05}),
    "maximize": ({"maximize": True, "betas": (0.8, 0.9)}, {"turn": -1, "betas": (0.8, 0.9)}),
    "period": ({"update_period": 4, "eps": 1e-8, "lr": 0.01}, {"period": 4, "eps": 1e-8, "lr": 0.01}),
    "power": ({"hessian_power": 0.5}, {"power": 0.5}),
    "momentum": ({"hessian_power": 0.0}, {"power": 0.0}),
    "blocks": ({"block_axes": spatial}, {"block": (2, 3)}),
}
SOPHIA = {
    "plain": ({}, {}),
    "large": ({"lr": 0.05, "rho": 1.0, "weight_decay": 0.0}, {"lr": 0.05, "rho": 1.0, "decay": 0.0}),
    "each step": ({"lr": 0.05, "update_period": 1.0, "rho": 0.5}, {"lr": 0.05, "period": 1, "rho": 0.5}),
    "maximize": ({"lr": 0.05, "maximize": True, "betas": (0.9, 0.9)}, {"lr": 0.05, "turn": -1, "betas": (0.9, 0.9)}),
}


@pytest.mark.parametrize("label", ["period", *full(*sorted(ADAHESSIAN.keys() - {"period"}))])
def test_adahessian_makes_the_authors_steps(label, x64):
    options, by_hand = ADAHESSIAN[label]
    assert_close(run(fo.adahessian(**options))[0], adahessian_by_hand(**by_hand))


@pytest.mark.parametrize("label", ["large", *full(*sorted(SOPHIA.keys() - {"large"}))])
def test_sophia_makes_the_authors_steps(label, x64):
    options, by_hand = SOPHIA[label]
    assert_close(run(fo.sophia(**options))[0], sophia_by_hand(**by_hand))


@pytest.mark.full
@each
def test_float32_steps_are_float64s_within_8_ulp(name):
    options = {"lr": 0.0625, "betas": (0.875, 0.9375), "eps": 2.0**-10, "weight_decay": 0.125, "update_period": 1}
    options |= {"rho": 0.5} if name == "sophia" else {}

    def step(dtype, state, params, grads, estimate):
        tx = MAKERS[name](**options)
        cast = functools.partial(jax.tree.map, lambda x: jnp.asarray(x, dtype))
        state = (
            tx.init(cast(params))
            if state is None
            else state._replace(**{slot: cast(getattr(state, slot)) for slot in state._fields[1:]})
        )
        return tx.update(cast(grads), state, cast(params), curvature=cast(estimate))

    # Everything is positive, so that nothing cancels.
    positive = lambda seed: {key: np.float32(np.abs(x)) for key, x in drawn(seed).items()}  # noqa: E731
    state, params = None, jax.tree.map(lambda x: x + 1, positive(0))
    for seed in range(1, 6):
        grads, estimate = positive(seed), positive(seed + 50)
        with jax.enable_x64(True):
            wanted, _ = step(np.float64, state, params, grads, estimate)
            wanted = jax.device_get(wanted)
        found, state = step(np.float32, state, params, grads, estimate)
        for key, array in found.items():
            assert np.max(np.abs(array - wanted[key]) / np.spacing(np.float32(np.abs(wanted[key])))) <= 8
        state = jax.device_get(state)
        params = {key: np.float32(params[key] + np.asarray(found[key])) for key in params}


@pytest.mark.torch
@pytest.mark.full
@pytest.mark.parametrize("label", ["plain", "decay", "power", "blocks", "maximize"])
def test_adahessian_is_torch_optimizers(label, x64):
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    from tests.oracles import given_adahessian

    options, _ = ADAHESSIAN[label]
    found, state = run(fo.adahessian(**options))
    params = {name: torch.tensor(value, requires_grad=True) for name, value in drawn(0).items()}
    step = given_adahessian(list(params.values()), **{"hessian_power": 1.0, **options})
    for t in range(1, STEPS + 1):
        here = {name: p.detach().numpy().copy() for name, p in params.items()}
        grads = [torch.tensor(slope(p, drawn(t)[name])) for name, p in here.items()]
        optimizer = step(grads, [torch.tensor(x) for x in estimates_at(here, t).values()])
        assert_close([found[t - 1]], [{name: p.detach().numpy() for name, p in params.items()}])
    for name, p in params.items():
        for slot in ("exp_avg", "exp_hessian_diag_sq"):
            theirs = optimizer.state[p][slot].numpy()
            np.testing.assert_allclose(getattr(state, slot)[name], theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.torch
@pytest.mark.full
@pytest.mark.parametrize("period", [1, 4])
def test_sophia_is_pytorch_optimizers(period, x64):
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    import pytorch_optimizer

    positive = lambda params, key: jax.tree.map(lambda x: jnp.abs(x) + 1e-3, estimated(params, key))  # noqa: E731
    found, state = run(fo.sophia(lr=0.05 * 0.2, rho=0.2, eps=0.0, update_period=period), curvature_fn=positive)
    params = {name: torch.tensor(value, requires_grad=True) for name, value in drawn(0).items()}
    # Its steps are clipped to p, ours to 1, so that its rate is ours divided by p; its decay is lr * weight_decay.
    theirs = pytorch_optimizer.SophiaH(
        list(params.values()), lr=0.05, betas=(0.965, 0.99), p=0.2, weight_decay=0.1 * 0.2, update_period=10**9
    )
    theirs.param_groups[0]["step"] = 1  # no estimate of its own
    for t in range(1, STEPS + 1):
        here = {name: p.detach().numpy().copy() for name, p in params.items()}
        for name, p in params.items():
            p.grad = torch.tensor(slope(here[name], drawn(t)[name]))
        given = [torch.tensor(np.abs(x) + 1e-3) for x in estimates_at(here, t).values()]
        theirs.step(hessian=given if (t - 1) % period == 0 else None)
        assert_close([found[t - 1]], [{name: p.detach().numpy() for name, p in params.items()}])
    for name, p in params.items():
        np.testing.assert_allclose(state.hessian[name], theirs.state[p]["hessian_moment"].numpy(), rtol=1e-10)


@pytest.mark.parametrize("name", ["adahessian", *full("sophia")])
def test_the_estimator_runs_only_when_due_and_a_new_period_compiles_nothing(name):
    calls = []

    def counted(params, key):
        jax.debug.callback(lambda: calls.append(1))
        return estimated(params, key)

    _, _ = run(MAKERS[name](update_period=lambda step: 5.0), 11, counted, "float32")
    jax.effects_barrier()
    assert len(calls) == 3
    calls.clear()
    tx, params = fo.inject(MAKERS[name], update_period=2.0), jax.tree.map(jnp.asarray, drawn(0))
    params = jax.tree.map(lambda x: x.astype("float32"), params)
    traces = []

    @jax.jit
    def step(state):
        traces.append(1)
        return tx.update(params, state, params, curvature_fn=counted)[1]

    state = step(step(step(tx.init(params))))  # at 1 and 3
    state = step(step(fo.set_hyperparams(state, update_period=4.0)))  # at 5
    jax.effects_barrier()
    assert len(calls) == 3 and len(traces) == 1


@pytest.mark.full
@each
def test_the_eager_step_is_the_compiled_one(name, x64):
    tx, params = MAKERS[name](update_period=2), jax.tree.map(jnp.asarray, drawn(0))
    state, rows = tx.init(params), []
    for seed in range(1, 4):
        grads = jax.tree.map(slope, params, drawn(seed))
        updates, state = tx.update(grads, state, params, curvature_fn=estimated)
        params = fo.apply_updates(params, updates)
        rows.append(params)
    assert_close(rows, run(tx, 3)[0], 1e-14)


@pytest.mark.full
@each
def test_the_estimate_itself_is_taken_at_once_and_false_leaves_it(name):
    tx, params = MAKERS[name](update_period=10), {"a": jnp.ones(2), "b": jnp.ones(3)}
    grads, estimate = params, {"a": jnp.full(2, 2.0), "b": None}
    _, state = tx.update(grads, tx.init(params), params, curvature=estimate)
    share = 1.0 if name == "adahessian" else 0.01
    np.testing.assert_allclose(state.hessian["a"], 2.0 * share, rtol=1e-6)
    assert not jnp.any(state.hessian["b"])
    _, kept = tx.update(grads, state, params, curvature=False)
    chex.assert_trees_all_equal(kept.hessian, state.hessian)
    _, taken = tx.update({"a": None, "b": grads["b"]}, kept, params, curvature=jax.tree.map(jnp.ones_like, params))
    np.testing.assert_array_equal(taken.hessian["a"], state.hessian["a"])  # no gradient, no estimate
    np.testing.assert_allclose(taken.hessian["b"], share, rtol=1e-6)


@pytest.mark.full
@each
def test_an_estimator_of_the_transformation_takes_the_keywords_of_update(name):
    def scaled(params, key, *, scale):
        return jax.tree.map(lambda x: scale * x, estimated(params, key))

    params = {"w": jnp.ones(3)}
    tx = MAKERS[name](estimator=scaled)
    _, found = tx.update(params, tx.init(params), params, scale=3.0, value=1.0)
    plain = MAKERS[name]()
    given = lambda params, key: scaled(params, key, scale=3.0)  # noqa: E731
    _, wanted = plain.update(params, plain.init(params), params, curvature_fn=given)
    chex.assert_trees_all_equal(found, wanted)


@pytest.mark.full
@each
def test_words_for_what_is_missing_or_wrong(name):
    tx, params = MAKERS[name](weight_decay=0.0), {"w": jnp.ones((2, 2))}
    state = tx.init(params)
    with pytest.raises(ValueError, match=rf"{name} needs the curvature: update\(grads, state, params, curvature_fn=f"):
        tx.update(params, state, params)
    with pytest.raises(ValueError, match=f"{name} needs the parameters"):
        tx.update(params, state, curvature_fn=estimated)
    with pytest.raises(ValueError, match=re.escape("curvature of the parameter 'w' has shape (2,)")):
        tx.update(params, state, params, curvature={"w": jnp.ones(2)})
    with pytest.raises(ValueError, match=f"estimates of the curvature for {name} do not have the structure"):
        tx.update(params, state, params, curvature_fn=lambda params, key: {"v": params["w"]})
    with pytest.raises(RuntimeError, match="does not support complex parameters: the parameter 'w'"):
        tx.init({"w": jnp.ones(2, jnp.complex64)})
    with pytest.raises(ValueError, match=re.escape("Invalid update_period: 0.0")):
        MAKERS[name](update_period=0)
    with pytest.raises(TypeError, match="seed must be an integer"):
        MAKERS[name](seed=0.5)
    with pytest.raises(TypeError, match="estimator must be a function"):
        MAKERS[name](estimator=params)
    with pytest.raises(ValueError, match=r"Invalid beta parameter at index 1: 1\.0"):
        MAKERS[name](betas=(0.9, 1.0))


@pytest.mark.full
def test_ranges_of_the_options():
    with pytest.raises(ValueError, match=r"Invalid Hessian power value: 1\.5"):
        fo.adahessian(hessian_power=1.5)
    with pytest.raises(ValueError, match=r"Invalid rho parameter at index 1: -1\.0"):
        fo.sophia(rho=-1.0)
    tx = fo.adahessian(block_axes=(0, 1))
    params = jnp.ones(2)
    with pytest.raises(ValueError, match="block_axes: the parameter has no dimension 1"):
        tx.update(params, tx.init(params), params, curvature=params)


@pytest.mark.full
@each
def test_curvature_of_zero_below_zero_and_not_finite(name):
    tx, params = MAKERS[name](lr=0.1, weight_decay=0.0), jnp.ones(4)
    grads, estimate = jnp.array([1.0, -1.0, 0.0, 1.0]), jnp.array([0.0, -4.0, 0.0, jnp.nan])
    updates, state = tx.update(grads, tx.init(params), params, curvature=estimate)
    assert jnp.isfinite(updates).tolist() == [True, True, True, False]  # NaN stays in its entry, and is seen
    assert jnp.isnan(state.hessian).tolist() == [False, False, False, True]
    if name == "sophia":
        np.testing.assert_allclose(updates[:3], [-0.1, 0.1, 0.0])
    else:
        np.testing.assert_allclose(updates[:3], [-0.1 / 1e-4, 0.1 / (4 + 1e-4), 0.0], rtol=1e-5)


@pytest.mark.full
@each
def test_derivatives_are_finite_where_gradient_and_curvature_are_zero(name, x64):
    def after(inputs):
        lr, grads, estimate = inputs
        tx, params = MAKERS[name](lr=lr), jnp.ones(3)
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(grads, state, params, curvature=estimate)
            params = fo.apply_updates(params, updates)
        return jnp.sum(params**2)

    for start in (jnp.zeros(3), jnp.array([0.0, 1e-3, 2.0])):
        found = jax.grad(after)((jnp.asarray(0.1), start, jnp.array([0.0, 0.0, 3.0])))
        assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(found))


@pytest.mark.full
@each
def test_a_decay_mask(name):
    params = {"w": jnp.full(3, 2.0), "b": jnp.full(3, 2.0)}
    grads, curvature = jax.tree.map(jnp.ones_like, params), jax.tree.map(jnp.ones_like, params)
    tx = MAKERS[name](lr=0.1, weight_decay=0.5, decay_mask=re.compile("w"))
    updates, _ = tx.update(grads, tx.init(params), params, curvature=curvature)
    np.testing.assert_allclose(updates["w"], updates["b"] - 0.1 * 0.5 * 2.0, rtol=1e-6)


@pytest.mark.full
@each
def test_scan_and_vmap(name):
    tx, params = MAKERS[name](update_period=2), {"w": jnp.linspace(-1.0, 1.0, 3)}

    def last(params):
        def body(carry, _):
            params, state = carry
            updates, state = tx.update(params, state, params, curvature_fn=estimated)
            return (fo.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, tx.init(params)), None, length=5)[0][0]

    ensemble = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params)
    found = jax.jit(jax.vmap(last))(ensemble)
    for index in range(2):
        alone = jax.jit(last)(jax.tree.map(lambda x, index=index: x[index], ensemble))
        np.testing.assert_allclose(found["w"][index], alone["w"], rtol=1e-6)


@pytest.mark.full
@each
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_parameters(name, dtype):
    found, state = run(MAKERS[name](lr=0.01), 3, lambda params, key: jax.tree.map(jnp.cos, params), dtype)
    assert all(leaf.dtype == dtype and jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(found[-1]))
    assert state.hessian["bias"].dtype == jnp.float32


@pytest.mark.full
@each
def test_wrappers_hand_the_curvature_on(name, x64):
    own = MAKERS[name](update_period=2)
    wanted = run(own, 4)[0]
    same = [fo.chain(fo.identity(), own), fo.skip_nonfinite(own, 2), fo.masked(own, dict.fromkeys(SHAPES, True))]
    same += [fo.partition({"a": own, "b": own}, {"kernel": "a", "bias": "b", "conv": "a"})]
    same += [fo.inject(functools.partial(MAKERS[name], update_period=2), lr=0.15 if name == "adahessian" else 1e-4)]
    for tx in same:
        assert_close(run(tx, 4)[0], wanted, 1e-14)
    direction = fo.chain(fo.scale_by(MAKERS[name](weight_decay=0.0)), fo.scale_by_learning_rate(0.1))
    assert_close(run(direction, 3)[0], run(MAKERS[name](lr=0.1, weight_decay=0.0), 3)[0], 1e-14)
    run(fo.cautious(own), 2)


@pytest.mark.full
@pytest.mark.parametrize("kind", [AxisType.Explicit, *full(AxisType.Auto)])
@each
def test_estimates_on_a_mesh_are_those_of_one_device(name, kind):
    params = {"w": jnp.linspace(-1.0, 1.0, 64).reshape(8, 8), "b": jnp.ones(8)}
    x = jnp.linspace(0.0, 1.0, 32).reshape(4, 8)
    objective = lambda params, x: jnp.mean(jnp.tanh(x @ params["w"] + params["b"][None]) ** 2)  # noqa: E731
    tx = MAKERS[name](lr=0.01)

    @jax.jit
    def step(params, state, x):
        curvature = functools.partial(fo.hutchinson, objective)
        updates, state = tx.update(jax.grad(objective)(params, x), state, params, curvature_fn=curvature, x=x)
        return fo.apply_updates(params, updates), state

    wanted, alone = step(params, tx.init(params), x)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        placed = {
            "w": jax.device_put(params["w"], NamedSharding(mesh, P(None, "data"))),
            "b": jax.device_put(params["b"], NamedSharding(mesh, P("data"))),
        }
        found, state = step(placed, fo.init_sharded(tx, placed), jax.device_put(x, NamedSharding(mesh, P())))
    chex.assert_trees_all_close(jax.device_get(found), jax.device_get(wanted), rtol=1e-5, atol=1e-6)
    assert state.hessian["w"].sharding.is_equivalent_to(placed["w"].sharding, 2)
    chex.assert_trees_all_close(jax.device_get(state.hessian), jax.device_get(alone.hessian), rtol=1e-4, atol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize("stage", [1, 2])
@each
def test_zero_and_eight_bits_hand_the_curvature_on(name, stage):
    params = {"w": jnp.linspace(-1.0, 1.0, 64 * 8).reshape(64, 8), "b": jnp.ones(8)}
    objective = lambda params: jnp.mean(jnp.tanh(params["w"] + params["b"][None]) ** 2)  # noqa: E731
    slots = {"exp_avg": "dynamic8", "hessian": "dynamic8"}

    def trained(tx, params, state):
        curvature = functools.partial(fo.hutchinson, objective)

        @jax.jit
        def step(params, state):
            updates, state = tx.update(jax.grad(objective)(params), state, params, curvature_fn=curvature)
            return fo.apply_updates(params, updates), state

        for _ in range(3):
            params, state = step(params, state)
        return params

    plain = MAKERS[name](lr=1e-3, update_period=2)
    wanted = trained(plain, params, plain.init(params))
    few = fo.quantized(plain, slots, 16, 16)
    close = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), trained(few, params, few.init(params)), wanted)
    assert max(jax.tree.leaves(close)) < 3e-3
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, NamedSharding(mesh, P()))
        tx = fo.zero(plain, "data", stage=stage)
        state = fo.init_sharded(tx, placed)
        assert state.hessian["w"].sharding.spec[0] == "data"
        if stage == 1:
            found = trained(tx, placed, state)
            chex.assert_trees_all_close(jax.device_get(found), jax.device_get(wanted), rtol=1e-5, atol=1e-6)


@pytest.mark.full
@each
def test_checkpoints_hold_the_curvature(name, tmp_path):
    tx, params = MAKERS[name](), {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    _, state = tx.update(params, tx.init(params), params, curvature=params)
    path = tmp_path / "state.safetensors"
    fo.checkpoint.save_safetensors(state, path)
    chex.assert_trees_all_equal(fo.checkpoint.load_safetensors(path, like=tx.init(params)), state)


@pytest.mark.full
def test_hutchinson_is_exact_for_a_diagonal_and_unbiased_for_a_matrix(x64):
    params = {"w": jnp.array([0.5, -1.0]), "v": jnp.array(2.0)}
    single = lambda params: jnp.sum(params["w"] ** 3) + params["v"] ** 4  # noqa: E731
    found = fo.hutchinson(single, params, jax.random.key(0))
    np.testing.assert_allclose(found["w"], [3.0, -6.0])
    np.testing.assert_allclose(found["v"], 48.0)
    matrix = jnp.array([[2.0, 1.0, 0.5], [1.0, -3.0, 0.2], [0.5, 0.2, 4.0]])
    quadratic = lambda p, scale=1.0: scale * p @ matrix @ p / 2  # noqa: E731
    keys = jax.random.split(jax.random.key(1), 4000)
    many = jax.vmap(lambda key: fo.hutchinson(quadratic, jnp.ones(3), key, scale=2.0))(keys)
    np.testing.assert_allclose(jnp.mean(many, 0), 2 * jnp.diag(matrix), atol=0.15)
    # Every draw is the product with a vector of signs.
    signs = jnp.array([[a, b, c] for a in (1.0, -1.0) for b in (1.0, -1.0) for c in (1.0, -1.0)])
    possible = signs * (signs @ (2 * matrix))
    assert all(jnp.any(jnp.all(jnp.isclose(row[None], possible), 1)) for row in many[:20])


@pytest.mark.full
def test_hutchinson_averages_samples(x64):
    matrix = jnp.array([[2.0, 1.0], [1.0, -3.0]])
    quadratic = lambda p: p @ matrix @ p / 2  # noqa: E731
    key = jax.random.key(2)
    found = fo.hutchinson(quadratic, jnp.ones(2), key, samples=5)
    own = [fo.hutchinson(quadratic, jnp.ones(2), one) for one in jax.random.split(key, 5)]
    np.testing.assert_allclose(found, sum(own) / 5, rtol=1e-12)
    with pytest.raises(ValueError, match="samples must be an integer of at least 1"):
        fo.hutchinson(quadratic, jnp.ones(2), key, samples=0)
    with pytest.raises(RuntimeError, match="hutchinson does not support complex parameters"):
        fo.hutchinson(quadratic, jnp.ones(2, complex), key)


@pytest.mark.full
def test_gauss_newton_bartlett_squares_the_gradient_of_drawn_labels(x64):
    x, key = jnp.linspace(-1.0, 1.0, 12).reshape(2, 2, 3), jax.random.key(4)
    params = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4)}
    logits = lambda params, x: jnp.tanh(x @ params["w"])  # noqa: E731
    labels = jax.random.categorical(key, logits(params, x))

    def mean_loss(params):
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits(params, x)), labels[..., None], -1)
        return -jnp.mean(chosen)

    found = fo.gauss_newton_bartlett(logits, params, key, x)
    np.testing.assert_allclose(found["w"], 4 * jax.grad(mean_loss)(params)["w"] ** 2, rtol=1e-12)
    # Its expectation is the diagonal of J^T (diag(p) - p p^T) J, averaged over the rows.
    jacobian = jax.jacobian(lambda w: logits({"w": w}, x).reshape(4, 4))(params["w"])
    p = jax.nn.softmax(logits(params, x).reshape(4, 4))
    middle = jax.vmap(jnp.diag)(p) - p[:, :, None] * p[:, None, :]
    exact = jnp.einsum("rcij,rcd,rdij->ij", jacobian, middle, jacobian) / 4
    many = jax.vmap(lambda key: fo.gauss_newton_bartlett(logits, params, key, x)["w"])(jax.random.split(key, 4000))
    np.testing.assert_allclose(jnp.mean(many, 0), exact, atol=0.1 * jnp.max(exact))


@pytest.mark.full
def test_gauss_newton_bartlett_says_what_it_cannot_do():
    params, key = {"w": jnp.ones((3, 4))}, jax.random.key(0)
    with pytest.raises(ValueError, match="logits with the classes last"):
        fo.gauss_newton_bartlett(lambda params: jnp.sum(params["w"]), params, key)
    with pytest.raises(RuntimeError, match="does not support complex parameters"):
        fo.gauss_newton_bartlett(lambda params: params["w"].real, {"w": jnp.ones((3, 4), jnp.complex64)}, key)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    part = lambda params: fo.gauss_newton_bartlett(lambda params: params["w"], params, key)  # noqa: E731
    with pytest.raises(ValueError, match="inside shard_map a device has only its part"):
        jax.shard_map(part, mesh=mesh, in_specs=P(), out_specs=P())(params)


def parameters():
    return jax.tree.map(jnp.asarray, drawn(0))


def batch(seed):
    return jax.tree.map(jnp.asarray, drawn(seed))


@pytest.mark.parametrize("period", [3, *full(1)])
def test_the_torch_face_of_adahessian_is_the_functional_one(period, x64):
    options = {"lr": 0.05, "weight_decay": 0.1, "update_period": period, "seed": 5}
    optimizer, tx, params = optim.AdaHessian(parameters(), **options), fo.adahessian(**options), parameters()
    composed = optim.Optimizer.from_transform(
        lambda lr: fo.adahessian(**{**options, "lr": lr}), parameters(), {"lr": 0.05}
    )
    state = tx.init(params)
    curvature = functools.partial(fo.hutchinson, loss)

    @jax.jit
    def step(state, params, batch):
        grads = jax.grad(loss)(params, batch)
        updates, state = tx.update(grads, state, params, curvature_fn=curvature, batch=batch)
        return fo.apply_updates(params, updates), state

    for seed in range(1, 10):
        value = optimizer.step(loss, batch(seed))
        np.testing.assert_allclose(value, loss(params, batch(seed)), rtol=1e-11)
        composed.step(loss, batch(seed))
        params, state = step(state, params, batch(seed))
    assert_close([optimizer.params, composed.params], [params, params], 1e-11)
    for name, entry in optimizer.state.items():
        np.testing.assert_allclose(entry["hessian"], state.hessian[name], rtol=1e-10)


def logits(params, x, labels):
    del labels
    return jnp.tanh(x @ params["hidden"]) @ params["out"]


def cross_entropy(params, x, labels):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits(params, x, labels)), labels[:, None], 1))


def classified(seed):
    draw = np.random.default_rng(seed)
    return jnp.asarray(draw.standard_normal((6, 3))), jnp.asarray(draw.integers(0, 4, 6))


def model():
    draw = np.random.default_rng(9)
    return {"hidden": jnp.asarray(draw.standard_normal((3, 5))), "out": jnp.asarray(draw.standard_normal((5, 4)))}


@pytest.mark.full
def test_the_torch_face_of_sophia_is_the_functional_one(x64):
    options = {"lr": 0.05, "update_period": 3}
    optimizer, tx, params = optim.SophiaG(model(), **options), fo.sophia(**options), model()
    state, sampled = tx.init(params), functools.partial(fo.gauss_newton_bartlett, logits)

    @jax.jit
    def step(state, params, x, labels):
        grads = jax.grad(cross_entropy)(params, x, labels)
        updates, state = tx.update(grads, state, params, curvature_fn=sampled, x=x, labels=labels)
        return fo.apply_updates(params, updates), state

    first = cross_entropy(params, *classified(0))
    for _ in range(1, 20):
        optimizer.step(cross_entropy, *classified(0), curvature=sampled)
        params, state = step(state, params, *classified(0))
    assert_close([optimizer.params], [params], 1e-11)
    assert cross_entropy(params, *classified(0)) < first
    for name, entry in optimizer.state.items():
        np.testing.assert_allclose(entry["hessian"], state.hessian[name], rtol=1e-10)


@pytest.mark.full
def test_each_parameter_has_its_own_count_and_is_left_alone_without_a_gradient(x64):
    optimizer = optim.AdaHessian({"a": jnp.ones(2), "b": jnp.ones(2)}, update_period=2)
    one, both = {"a": jnp.ones(2), "b": None}, {"a": jnp.ones(2), "b": jnp.ones(2)}
    calls = []

    def curvature(params, key):
        jax.debug.callback(lambda: calls.append(1))
        return jax.tree.map(lambda x: 2.0 * x, params)

    before = optimizer.params["b"]
    optimizer.step(one, curvature=curvature)  # a is due
    assert optimizer.state["b"]["step"] == 0 and not np.any(optimizer.state["b"]["hessian"])
    np.testing.assert_array_equal(optimizer.params["b"], before)
    optimizer.step(both, curvature=curvature)  # b is due, a is not
    jax.effects_barrier()
    assert len(calls) == 2
    np.testing.assert_allclose(optimizer.state["a"]["hessian"], 2.0)
    np.testing.assert_allclose(optimizer.state["b"]["hessian"], 2.0)
    with pytest.raises(ValueError, match=r"AdaHessian\.step: an estimate of the curvature is due: pass closure"):
        optimizer.step(one)
    optimizer.step({"a": None, "b": jnp.ones(2)})  # b is not due
    optimizer.step(one, curvature=False)
    assert (int(optimizer.state["a"]["step"]), int(optimizer.state["b"]["step"])) == (3, 2)


@pytest.mark.full
@pytest.mark.parametrize("name", ["AdaHessian", "SophiaG"])
def test_groups_states_and_resumed_runs(name, x64):
    def made():
        groups = [("bias", {"lr": 0.01, "update_period": 2.0})]
        return getattr(optim, name)(parameters(), lr=0.05, update_period=3.0, group_rules=groups)

    curvature = functools.partial(fo.hutchinson, loss)
    whole, first = made(), made()
    for seed in range(1, 8):
        whole.step(loss, batch(seed), curvature=curvature)
    for seed in range(1, 4):
        first.step(loss, batch(seed), curvature=curvature)
    second = made()
    second.load_state_dict(first.state_dict())
    second.params = first.params
    for seed in range(4, 8):
        second.step(loss, batch(seed), curvature=curvature)
    chex.assert_trees_all_equal(second.params, whole.params)
    assert [group["update_period"] for group in whole.param_groups] == [2.0, 3.0]
    tx, params, state = first.functional()
    grads = jax.grad(loss)(params, batch(4))
    updates, state = tx.update(grads, state, params, curvature_fn=curvature, batch=batch(4))
    first.restore(fo.apply_updates(params, updates), state)
    assert int(first.state["bias"]["step"]) == 4


@pytest.mark.full
def test_a_step_that_fails_changes_nothing(x64):
    optimizer = optim.AdaHessian(parameters())
    optimizer.step(loss, batch(1))
    before = jax.device_get((optimizer.params, dict(optimizer.state)))

    def broken(params, batch):
        raise ArithmeticError("broken")

    with pytest.raises(ArithmeticError):
        optimizer.step(broken, batch(2), curvature=estimates_at(drawn(0), 1))
    with pytest.raises(ValueError, match="the curvature of the parameter 'bias' has shape"):
        optimizer.step(loss, batch(2), curvature={**batch(1), "bias": jnp.ones(3)})
    with pytest.raises(ValueError, match="batches do not go with a function that gives it"):
        optimizer.step(loss, batches=jax.tree.map(lambda x: x[None], batch(2)))
    chex.assert_trees_all_equal(jax.device_get((optimizer.params, dict(optimizer.state))), before)
    optimizer.step(loss, batch(2))


@pytest.mark.full
def test_closures_of_each_kind(x64):
    with_aux, plain = optim.AdaHessian(parameters()), optim.AdaHessian(parameters())
    value, aux = with_aux.step(lambda params, batch: (loss(params, batch), params["bias"]), batch(1), has_aux=True)
    plain.step(loss, batch(1))
    chex.assert_trees_all_equal(with_aux.params, plain.params)
    np.testing.assert_allclose(value, loss(parameters(), batch(1)))
    assert aux.shape == (2,)
    torch_like = optim.SophiaG(parameters())

    def closure():
        torch_like.zero_grad()
        return torch_like.backward(loss, batch(1))

    torch_like.step(closure, curvature=batch(2))
    given = optim.SophiaG(parameters())
    given.step(jax.grad(loss)(parameters(), batch(1)), curvature=batch(2))
    assert_close([torch_like.params], [given.params], 1e-14)
    with pytest.raises(ValueError, match=r"SophiaG\.step: an estimate of the curvature is due: pass curvature=f"):
        optim.SophiaG(parameters()).step(loss, batch(1))
