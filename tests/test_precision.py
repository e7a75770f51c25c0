"""Slots in narrower dtypes, stochastic rounding, master weights."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from functorch_optim import optim


def tree(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return {"kernel": jnp.asarray(rng.normal(size=(8, 5)), dtype), "bias": jnp.asarray(rng.normal(size=5), dtype)}


def run(tx, params, steps=20):
    @jax.jit
    def step(params, state):
        grads = jax.tree.map(lambda p: jnp.sin(3 * p.astype(jnp.float32)).astype(p.dtype), params)
        updates, state = tx.update(grads, state, params)
        return fo.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def test_a_slot_in_bfloat16_is_calculated_in_float32():
    plain, _ = run(fo.adam(lr=0.01), tree())
    for tx in (
        fo.state_dtype(fo.adam(lr=0.01), {"exp_avg": jnp.bfloat16}),
        fo.state_dtype(fo.chain(fo.clip_by_global_norm(1e9), fo.adam(lr=0.01, foreach=True)), {"exp_avg": "bfloat16"}),
    ):
        params, state = run(tx, tree())
        assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} == {"bfloat16", "float32", "int32"}
        pairs = zip(*map(jax.tree.leaves, (params, plain)), strict=True)
        assert 0 < max(float(jnp.max(jnp.abs(a - b))) for a, b in pairs) < 5e-3
    # One step from the same state matches float32's, with the slot rounded once.
    one, _ = run(fo.adam(lr=0.01), tree(), 1)
    other, state = run(fo.state_dtype(fo.adam(lr=0.01), {"exp_avg": jnp.bfloat16}), tree(), 1)
    for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        assert np.allclose(a, b, rtol=1e-6)
    assert state.exp_avg["kernel"].dtype == jnp.bfloat16 and state.exp_avg_sq["kernel"].dtype == jnp.float32


def test_state_dtype_in_the_torch_face():
    def make(lr):
        return fo.state_dtype(fo.adamw(lr=lr), {"exp_avg": "bfloat16"})

    optimizer = optim.Optimizer.from_transform(make, tree(), {"lr": 0.1})
    optimizer.step(tree())
    assert optimizer.state["bias"]["exp_avg"].dtype == jnp.bfloat16
    again = optim.Optimizer.from_transform(make, tree(), {"lr": 0.1})
    again.load_state_dict(optimizer.state_dict())
    assert again.state["bias"]["exp_avg"].tolist() == optimizer.state["bias"]["exp_avg"].tolist()


def test_state_dtype_says_what_is_wrong():
    with pytest.raises(TypeError, match="the dtype of exp_avg must be a floating one, but it is int32"):
        fo.state_dtype(fo.adam(), {"exp_avg": jnp.int32})
    with pytest.raises(ValueError, match=r"the state has no slot momentum; it has .*exp_avg"):
        fo.state_dtype(fo.adam(), {"momentum": jnp.bfloat16}).init(tree())
    with pytest.raises(ValueError, match="the state has no slot mu_product; it has exp_avg, exp_avg_sq"):
        fo.state_dtype(fo.nadam(), {"mu_product": jnp.bfloat16}).init(tree())  # a scalar, which must not be rounded
    state = fo.state_dtype(fo.nadam(), {"exp_avg": jnp.bfloat16}).init(jnp.ones(()))
    assert state.exp_avg.dtype == jnp.bfloat16 and state.mu_product.dtype == jnp.float32
    with pytest.raises(ValueError, match=r"has no slot max_exp_avg_sq; it has exp_avg, exp_avg_sq$"):
        fo.state_dtype(fo.adam(), {"max_exp_avg_sq": "bfloat16"}).init(tree())
    with pytest.raises(ValueError, match="has no slot mu_product"):
        fo.state_dtype(fo.nadam(), {"mu_product": jnp.bfloat16}).init(jnp.ones(3))
    model = collections.namedtuple("Model", "weight scale")(jnp.ones(3), jnp.ones(()))
    state = fo.state_dtype(fo.adam(), {"exp_avg": jnp.bfloat16}).init(model)
    assert [leaf.dtype.name for leaf in state.exp_avg] == ["bfloat16", "bfloat16"]
    frozen = fo.masked(fo.adam(), jax.tree.map(lambda _: False, tree()))
    assert not jax.tree.leaves(fo.state_dtype(frozen, {"exp_avg": "bfloat16"}).init(tree())[0].exp_avg)


def test_stochastic_rounding_loses_nothing_on_average():
    params = {"w": jnp.ones(20_000, jnp.bfloat16), "v": jnp.ones(2)}
    tx = fo.stochastic_rounding(fo.sgd(lr=1.0), 0)
    state, grads = tx.init(params), {"w": jnp.full(20_000, -0.001, jnp.float32), "v": jnp.full(2, -0.001)}
    updates, state = jax.jit(tx.update)(grads, state, params)
    new = fo.apply_updates(params, updates)
    assert new["w"].dtype == jnp.bfloat16 and set(np.unique(np.asarray(new["w"], np.float32))) == {1.0, 1.0078125}
    assert abs(float(jnp.mean(new["w"].astype(jnp.float32))) - 1.001) < 1e-4  # three deviations
    assert np.allclose(new["v"], 1.001)  # float32 is not rounded
    again, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    other, _ = jax.jit(tx.update)(grads, state, params)
    assert np.array_equal(updates["w"], again["w"]) and not np.array_equal(updates["w"], other["w"])
    nearest = fo.apply_updates(params, jax.jit(fo.sgd(lr=1.0).update)(grads, fo.sgd(lr=1.0).init(params), params)[0])
    assert np.all(np.asarray(nearest["w"], np.float32) == 1.0)  # rounding to nearest loses the updates
    assert fo.stochastic_rounding(fo.sgd(), jax.random.key(0)) == fo.stochastic_rounding(fo.sgd(), 0)


def test_keys_of_stochastic_rounding():
    params, made = jnp.ones(64, jnp.bfloat16), fo.stochastic_rounding(fo.sgd(lr=1.0), 7)
    for key in (np.int64(7), np.array(7), jnp.array(7), jax.random.key(7), jax.random.PRNGKey(7)):
        assert fo.stochastic_rounding(fo.sgd(lr=1.0), key) == made
    other = fo.stochastic_rounding(fo.sgd(lr=1.0), jax.random.key(7, impl="rbg"))
    updates, state = jax.jit(other.update)(jnp.full(64, 1e-3), other.init(params), params)
    assert len(np.unique(np.asarray(updates))) == 2 and state.key.shape == (4,)
    for key in (0.5, jax.random.split(jax.random.key(0)), np.ones(2), "seed", None):
        with pytest.raises(TypeError, match="stochastic_rounding: the key must be a key of"):
            fo.stochastic_rounding(fo.sgd(), key)
    with pytest.raises(TypeError, match="stochastic_rounding: the key is traced"):
        jax.jit(lambda key: fo.stochastic_rounding(fo.sgd(), key).init(params))(jax.random.key(0))


def test_stochastic_rounding_of_what_is_exact_or_no_number():
    values = jnp.array([0.0, -0.0, 1.0, -3.0, jnp.inf, -jnp.inf, jnp.nan, 3.3895314e38], jnp.bfloat16)
    tx = fo.stochastic_rounding(fo.sgd(lr=1.0), 1)
    updates, state = tx.update(jnp.zeros(8, jnp.bfloat16), tx.init(values), values)
    assert np.array_equal(np.asarray(fo.apply_updates(values, updates), np.float32)[:4], [0, 0, 1, -3])
    assert not np.any(np.isfinite(np.asarray(fo.apply_updates(values, updates), np.float32)[4:7]))
    updates, _ = tx.update(jnp.full(8, 1e-30, jnp.bfloat16), state, values)
    assert np.asarray(fo.apply_updates(values, updates), np.float32)[2] in (1.0, np.float32(1 - 2**-8))
    still, _ = tx.update(jnp.zeros(8, jnp.bfloat16), state, values)
    assert np.isposinf(np.asarray(fo.apply_updates(values, still), np.float32)[4])
    nested = fo.state_dtype(fo.accumulate(fo.adam(lr=0.1), 2), {"exp_avg": "bfloat16"})
    assert fo.current_hyperparams(nested, nested.init(values))["lr"] == 0.1
    made = optim.Optimizer.from_transform(
        lambda lr: fo.stochastic_rounding(fo.sgd(lr=lr), 0), [values[:2]], {"lr": 0.1}
    )
    made.step([values[:2]])
    with pytest.raises(ValueError, match="stochastic_rounding needs the parameters"):
        tx.update(values, state)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_master_weights_are_a_float32_run(dtype):
    """With gradients at the rounded parameters, the masters move as float32 parameters would, bit for bit."""
    tx, params = fo.master_weights(fo.adamw(lr=0.01)), tree(dtype)
    inner = fo.adamw(lr=0.01)
    state, wide = tx.init(params), jax.tree.map(lambda p: p.astype(jnp.float32), params)
    plain = inner.init(wide)
    update, update_plain = jax.jit(tx.update), jax.jit(inner.update)
    for _ in range(10):
        grads = jax.tree.map(lambda p: jnp.sin(3 * p.astype(jnp.float32)).astype(p.dtype), params)
        updates, state = update(grads, state, params)
        params = fo.apply_updates(params, updates)
        others, plain = update_plain(grads, plain, wide)
        wide = fo.apply_updates(wide, others)
        for master, own, param in zip(*map(jax.tree.leaves, (state.master, wide, params)), strict=True):
            assert np.allclose(master, own, rtol=1e-6, atol=1e-9)
            assert np.array_equal(np.asarray(master.astype(dtype)), np.asarray(param))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.inner)} == {"float32", "int32"}


def test_master_weights_keep_small_numbers():
    params = jnp.full(3, 3e-5, jnp.float16)
    tx = fo.master_weights(fo.sgd(lr=1.0))
    updates, state = jax.jit(tx.update)(jnp.full(3, -1e-6, jnp.float32), tx.init(params), params)
    assert np.array_equal(fo.apply_updates(params, updates), state.master.astype(jnp.float16))
    assert np.all(np.asarray(fo.apply_updates(params, updates), np.float32) > 3e-5)


def test_master_weights_beyond_the_range_come_back():
    params, tx = jnp.full(2, 6e4, jnp.float16), fo.master_weights(fo.sgd(lr=1.0))
    state, seen = tx.init(params), []
    for grad in (-2e4, 3e4, jnp.inf):
        updates, state = jax.jit(tx.update)(jnp.array([grad, 0.0], jnp.float32), state, params)
        params = fo.apply_updates(params, updates)
        seen.append((float(state.master[0]), float(params[0])))
    assert seen == [(8e4, 65504.0), (5e4, float(np.float16(5e4))), (-np.inf, -np.inf)]
    assert params[1] == np.float16(6e4)


def test_master_weights_of_mixed_trees():
    params = {"narrow": jnp.ones(3, jnp.bfloat16), "wide": jnp.ones(2), "still": jnp.ones(2, jnp.bfloat16)}
    tx = fo.master_weights(fo.sgd(lr=0.1, momentum=0.9))
    state = tx.init(params)
    assert state.master["wide"] is None and state.master["narrow"].dtype == jnp.float32
    updates, after = tx.update({**params, "still": None}, state, params)
    new = fo.apply_updates(params, updates)
    assert new["still"].tolist() == [1.0, 1.0] and after.master["still"].tolist() == [1.0, 1.0]
    assert np.allclose(new["wide"], 0.9) and np.allclose(after.master["narrow"], 0.9)
    with pytest.raises(ValueError, match="master_weights needs the parameters"):
        tx.update(params, state)
