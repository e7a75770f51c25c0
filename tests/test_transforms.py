"""The other links of a chain, against torch's formulas: clipping, decay, scaling, accumulation, skipping."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo

PARAMS = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}


def one(tx, grads, params=PARAMS):
    return tx.update(grads, tx.init(params), params)[0]


@pytest.mark.parametrize("max_norm", [0.0, 1.0, 5.0, 100.0])
def test_clip_by_global_norm_has_torchs_coefficient(max_norm):
    factor = min(1.0, max_norm / (5.0 + 1e-6))
    clipped = one(fo.clip_by_global_norm(max_norm), PARAMS)
    chex.assert_trees_all_close(clipped, jax.tree.map(lambda x: x * factor, PARAMS), rtol=1e-6)


@pytest.mark.torch
def test_clip_grad_norm_against_torch():
    torch = pytest.importorskip("torch", reason="the live comparison needs torch")
    rng = np.random.default_rng(0)
    grads = {"a": rng.standard_normal((4, 5)).astype(np.float32), "b": rng.standard_normal(7).astype(np.float32)}
    tensors = [torch.nn.Parameter(torch.zeros(g.shape)) for g in grads.values()]
    for tensor, grad in zip(tensors, grads.values(), strict=True):
        tensor.grad = torch.tensor(grad)
    norm = torch.nn.utils.clip_grad_norm_(tensors, 1.5)
    clipped = one(fo.clip_by_global_norm(1.5), jax.tree.map(jnp.asarray, grads))
    np.testing.assert_allclose(fo.global_norm(grads | {"c": None}), norm.numpy(), rtol=1e-6)
    for ours, tensor in zip(jax.tree.leaves(clipped), tensors, strict=True):
        np.testing.assert_allclose(ours, tensor.grad.numpy(), rtol=1e-6)


def test_global_norm_of_low_precision_complex_and_nothing():
    assert fo.global_norm({}) == 0.0
    assert fo.global_norm(jnp.array([3 + 4j])).item() == 5.0
    many = fo.global_norm(jnp.ones(10_000, jnp.bfloat16))
    assert many.dtype == jnp.float32
    assert many.item() == 100.0


def test_clip_by_value_clips_the_parts_of_complex_numbers():
    assert one(fo.clip_by_value(1.0), jnp.array([3 - 0.5j]), jnp.array([0j])).item() == 1 - 0.5j


def test_add_decayed_weights_and_its_mask():
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    chex.assert_trees_all_close(
        one(fo.add_decayed_weights(0.5), zeros), jax.tree.map(lambda x: 0.5 * x, PARAMS), rtol=1e-6
    )
    chex.assert_trees_all_equal(one(fo.add_decayed_weights(0.5, mask={"a": False, "b": True}), zeros)["a"], zeros["a"])


def test_scale_by_schedule_starts_at_zero_and_wants_a_function():
    tx = fo.scale_by_schedule(lambda step: step.astype(jnp.float32))
    state, factors = tx.init(PARAMS), []
    for _ in range(3):
        updates, state = tx.update(PARAMS, state)
        factors.append(float(updates["a"][0]) / 3)
    assert factors == [0.0, 1.0, 2.0]
    with pytest.raises(TypeError, match="needs a function of the step"):
        fo.scale_by_schedule(0.1)  # pyright: ignore[reportArgumentType] the mistake under test


def test_conjugate_makes_jaxs_gradient_the_descent_direction():
    loss = lambda z: jnp.abs(z - (1 + 2j)) ** 2  # noqa: E731 a helper of one line
    tx, z = fo.chain(fo.conjugate(), fo.sgd(lr=0.25)), jnp.asarray(0j, jnp.complex64)
    state = tx.init(z)
    for _ in range(40):
        updates, state = tx.update(jax.grad(loss)(z), state, z)
        z = fo.apply_updates(z, updates)
    np.testing.assert_allclose(z, 1 + 2j, rtol=1e-5)


@pytest.mark.parametrize("average", [True, False])
def test_accumulate_equals_one_step_with_the_mean_or_sum(average):
    inner = fo.adamw(lr=0.1)
    tx = fo.accumulate(inner, every=3, average=average)
    params, state = PARAMS, tx.init(PARAMS)
    plain, plain_state = PARAMS, inner.init(PARAMS)
    step = jax.jit(tx.update)
    for outer in range(3):
        grads = [jax.tree.map(lambda x, k=k, outer=outer: x * k + outer + 1.0, PARAMS) for k in (0.5, -1.0, 2.0)]
        for index, grad in enumerate(grads):
            before = params
            updates, state = step(grad, state, params)
            params = fo.apply_updates(params, updates)
            assert int(fo.find_state(state, fo.AdamState).step) == outer + (index == 2)
            if index < 2:
                chex.assert_trees_all_equal(params, before)
        whole = jax.tree.map(lambda *gs: sum(gs[1:], gs[0]) / (3 if average else 1), *grads)
        updates, plain_state = inner.update(whole, plain_state, plain)
        plain = fo.apply_updates(plain, updates)
        chex.assert_trees_all_close(params, plain, rtol=1e-6)
    with pytest.raises(ValueError, match="every must be a positive integer"):
        fo.accumulate(inner, every=0)


@pytest.mark.parametrize("average", [True, False])
def test_accumulate_sums_bfloat16_gradients_in_float32(average):
    params, grads = jnp.zeros(2, jnp.bfloat16), jnp.ones(2, jnp.bfloat16)
    tx = fo.accumulate(fo.sgd(lr=1.0), every=512, average=average)
    step = jax.jit(lambda _, carry: tx.update(grads, carry[1], params))
    updates, state = jax.lax.fori_loop(0, 512, step, (jnp.zeros(2), tx.init(params)))
    assert state.accumulated.dtype == jnp.float32
    assert updates.tolist() == ([-1.0, -1.0] if average else [-512.0, -512.0])


def test_accumulate_keeps_the_sum_of_a_gradient_that_is_none_at_the_last_step():
    tx = fo.accumulate(fo.sgd(lr=1.0), every=2, average=False)
    state = tx.init(PARAMS)
    _, state = tx.update(PARAMS, state, PARAMS)
    updates, state = tx.update({"a": None, "b": PARAMS["b"]}, state, PARAMS)
    assert updates["a"] is None
    assert updates["b"].item() == -8.0
    chex.assert_trees_all_equal(state.accumulated["a"], PARAMS["a"])
    chex.assert_trees_all_equal(state.accumulated["b"], jnp.zeros((1, 1)))


def test_skip_nonfinite_changes_nothing_counts_and_gives_up():
    tx = fo.skip_nonfinite(fo.adam(lr=0.1), max_consecutive=2)
    params, state = {"a": jnp.array([-0.0, 1.0])}, tx.init({"a": jnp.zeros(2)})
    good, bad = {"a": jnp.ones(2)}, {"a": jnp.array([jnp.inf, 1.0])}
    step = jax.jit(tx.update)

    def run(grads, state):
        updates, state = step(grads, state, params)
        return fo.apply_updates(params, updates), state

    for consecutive in (1, 2):
        moved, new = run(bad, state)
        assert np.asarray(moved["a"]).tobytes() == np.asarray(params["a"]).tobytes()
        chex.assert_trees_all_equal(new.inner, state.inner)
        assert int(new.consecutive) == consecutive
        state = new
    moved, through = run(bad, state)
    assert not np.all(np.isfinite(moved["a"]))
    assert int(through.total) == 3
    moved, state = run(good, state)
    assert int(state.consecutive) == 0
    assert int(state.total) == 2
    assert not np.array_equal(moved["a"], params["a"])
    with pytest.raises(ValueError, match="max_consecutive must be an integer"):
        fo.skip_nonfinite(fo.adam(), max_consecutive=-1)


def test_sgd_damps_the_first_buffer_of_a_late_gradient():
    """The documented difference from torch: the shared step has advanced."""
    tx = fo.sgd(lr=1.0, momentum=0.5, dampening=0.75)
    state = tx.init(PARAMS)
    _, state = tx.update({"a": None, "b": PARAMS["b"]}, state, PARAMS)
    assert state.momentum_buffer["b"].item() == 4.0
    _, state = tx.update(PARAMS, state, PARAMS)
    assert state.momentum_buffer["a"].tolist() == [0.75, 0.0]
