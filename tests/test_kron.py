"""PSGD-Kron beyond the table: its forms of factors by dense Kronecker products, its draws, and its safety."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from functorch_optim import kronecker, optim
from tests.algorithms import full

FORMS = [
    ({}, (3, 4)),
    ({"memory_save_mode": "one_diag"}, (3, 4)),
    ({"memory_save_mode": "smart_one_diag"}, (4, 4)),
    ({"memory_save_mode": "all_diag", "momentum_into_precond_update": False}, (3, 4)),
    ({"max_size_triangular": 3, "precond_init_scale": 2.0}, (3, 4)),
    ({"merge_dims": False}, (2, 3, 2)),
    ({"merge_dims": False, "min_ndim_triangular": 4}, (2, 1, 3)),
    ({"min_ndim_triangular": 1}, (4,)),
]


def drawn(seed, shape):
    return np.random.default_rng(seed).standard_normal(shape)


def by_dense_products(tx, options, shape, steps, lr, b1=0.9):
    """The updates by the whole matrix Q, of as many rows as the parameter has entries."""
    rule, sizes = tx.update.of.rule, shape
    flat = kronecker.diagonal_sides(sizes, rule.max_size_triangular, rule.min_ndim_triangular, rule.memory_save_mode)
    start = options.get("precond_init_scale", 1.0) ** (1 / len(sizes))
    factors, momentum = [start * np.eye(n) for n in sizes], np.zeros(shape)
    for t in range(1, steps + 1):
        g = drawn(t, shape)
        momentum = b1 * momentum + (1 - b1) * g
        u = momentum / (1 - b1**t)
        chance, v = map(np.asarray, kronecker.draws(rule.key_at(0, t), shape, jnp.float64))
        if len(shape) > 1 and chance < rule.balance_probability:
            tops = [np.abs(q).max() for q in factors]
            factors = [q * np.exp(np.mean(np.log(tops))) / top for q, top in zip(factors, tops, strict=True)]
        seen = u if rule.momentum_into_precond_update else g
        seen = seen + np.sqrt(np.finfo(np.float32).eps) * np.abs(seen).mean() * v
        whole = functools.reduce(np.kron, factors)
        a, b = (whole @ seen.reshape(-1)).reshape(shape), np.linalg.solve(whole.T, v.reshape(-1)).reshape(shape)
        factors = [_step(q, a, b, side, flat[side]) for side, q in enumerate(factors)]
        whole = functools.reduce(np.kron, factors)
        d = (whole.T @ whole @ u.reshape(-1)).reshape(shape)
        yield -lr * d * min(1, 1.1 / np.sqrt(np.mean(d**2)))


def _step(q, a, b, side, is_flat):
    one, two = (np.moveaxis(x, side, 0).reshape(len(q), -1) for x in (a, b))
    one, two = one @ one.T, two @ two.T
    total = one + two
    if is_flat:
        return q - 0.1 * np.diag(np.diag(one - two)) @ q / np.diag(total).max()
    x = total[np.argmax((total**2).sum(0))] @ total
    return q - 0.1 * np.triu(one - two) @ q / np.linalg.norm(total @ (x / np.linalg.norm(x)))


@pytest.mark.parametrize(("options", "shape"), [FORMS[1], *full(FORMS[0], *FORMS[2:])])
def test_every_form_of_factors_is_the_dense_product(options, shape, x64):
    tx = fo.kron(lr=0.1, balance_probability=0.5, **options)
    state, update = tx.init(jnp.zeros(shape)), jax.jit(tx.update)
    for t, wanted in enumerate(by_dense_products(tx, options, shape, 12, 0.1), 1):
        updates, state = update(jnp.asarray(drawn(t, shape)), state)
        np.testing.assert_allclose(updates, wanted, rtol=1e-10, atol=1e-12)


def test_all_dimensions_but_the_last_become_one():
    state = fo.kron().init({"conv": jnp.zeros((3, 3, 8, 5)), "scalar": jnp.zeros(())})
    assert (state.factor_0["conv"].shape, state.factor_1["conv"].shape) == ((72, 72), (5, 5))
    assert state.factor_0["scalar"].shape == (1,)
    assert state.factor_1["scalar"] is None is state.factor_2
    with pytest.raises(RuntimeError, match=r"at most 6 dimensions: the parameter 'w' has 7; merge_dims=True"):
        fo.kron(merge_dims=False).init({"w": jnp.zeros((1,) * 7)})


def test_the_preconditioner_moves_as_often_as_the_probability_says_and_nothing_is_traced_again():
    traced = []

    @jax.jit
    def step(grad, state, share):
        traced.append(1)
        return fo.kron(preconditioner_update_probability=share).update(grad, state)[1]

    state, moved = fo.kron().init(jnp.zeros((2, 2))), []
    for t, share in enumerate([1.0] * 3 + [0.4] * 9 + [0.0] * 3):
        before, state = state.factor_0, step(jnp.asarray(drawn(t, (2, 2)), jnp.float32), state, jnp.float32(share))
        moved.append(not jnp.array_equal(before, state.factor_0))
    assert moved == [True] * 3 + [False, False, True] * 3 + [False] * 3
    assert len(traced) == 1


def test_the_schedule_of_the_probability():
    schedule = fo.precond_update_prob_schedule()
    wanted = [np.clip(np.exp(-0.001 * (t - 500)), 0.03, 1.0) for t in (0, 500, 501, 1000, 3999, 10000)]
    np.testing.assert_allclose([schedule(t) for t in (0, 500, 501, 1000, 3999, 10000)], wanted, rtol=1e-12)
    at = jnp.array([0, 500, 501, 1000, 3999, 10000])
    np.testing.assert_allclose(jax.jit(schedule)(at), wanted, rtol=1e-5)
    assert fo.precond_update_prob_schedule(0.5, 0.1, 0.01, 10)(0) == 0.5


@pytest.mark.full
def test_a_key_decides_the_draws_in_both_faces_and_in_an_ensemble():
    params, grads = {"w": jnp.ones((3, 2))}, [{"w": jnp.asarray(drawn(t, (3, 2)), jnp.float32)} for t in range(4)]
    found = {}
    for key in (0, 1):
        tx, face = fo.kron(lr=0.1, key=key), optim.Kron(params, lr=0.1, key=key)
        own, state = params, tx.init(params)
        many = jax.tree.map(lambda x: jnp.stack([x, x]), params)
        states = jax.vmap(tx.init)(many)
        for grad in grads:
            updates, state = tx.update(grad, state, own)
            own = fo.apply_updates(own, updates)
            face.step(grad)
            moves, states = jax.vmap(tx.update, (None, 0, 0))(grad, states, many)
            many = fo.apply_updates(many, moves)
        chex.assert_trees_all_close(face.params, own, rtol=1e-5)
        chex.assert_trees_all_close(jax.tree.map(lambda x: x[1], many), own, rtol=1e-5)
        found[key] = own["w"]
    assert not jnp.allclose(found[0], found[1], rtol=1e-4)
    with pytest.raises(TypeError, match="kron: the key is traced"):
        jax.jit(lambda key: fo.kron(key=key).init(params))(0)


@pytest.mark.parametrize("size", [1e30, *full(0.0, 1e-38, 1e-30, 1e20)])
def test_gradients_of_any_size_leave_everything_finite(size):
    tx = fo.kron(lr=0.1, balance_probability=0.1)
    grads = {"matrix": jnp.full((4, 3), size), "low": jnp.outer(jnp.ones(4), jnp.eye(3)[0]) * size}

    @jax.jit
    def run(state):
        return jax.lax.scan(lambda state, _: tx.update(grads, state)[::-1], state, None, 400)

    state, updates = run(tx.init(grads))
    chex.assert_tree_all_finite((state, updates))
    sizes = jax.tree.map(lambda x: jnp.sqrt(jnp.mean(x[-1] ** 2)), updates)
    assert all((float(one) > 0.01) == (size > 1e-35) for one in jax.tree.leaves(sizes)), sizes


def test_zero_gradients_leave_the_factors_alone_and_nan_is_not_hidden():
    tx, params = fo.kron(), jnp.ones((2, 2))
    updates, state = tx.update(jnp.zeros((2, 2)), tx.init(params))
    assert not updates.any()
    assert jnp.array_equal(state.factor_0, jnp.eye(2))
    updates, state = tx.update(jnp.array([[jnp.nan, 1.0], [1.0, 1.0]]), state)
    assert jnp.isnan(updates).all()
    assert jnp.isnan(state.factor_0).any()


def test_a_factor_whose_diagonal_is_zero_does_not_divide_by_it():
    tx, grad = fo.kron(lr=0.1), jnp.asarray(drawn(0, (2, 2)), jnp.float32)
    state = tx.init(jnp.zeros((2, 2)))
    state = state._replace(factor_0=jnp.array([[0.0, 1.0], [0.0, 1.0]]), factor_1=jnp.eye(2))
    updates, state = tx.update(grad, state)
    chex.assert_tree_all_finite((updates, state))


@pytest.mark.full
@pytest.mark.parametrize("grad", [jnp.zeros((2, 2)), jnp.array([[1.0, -2.0], [0.5, 0.0]])])
def test_derivatives_are_finite(grad):
    def loss(grad, lr):
        state = fo.kron().init(grad)
        for _ in range(3):
            updates, state = fo.kron(lr=lr, balance_probability=0.5).update(grad, state)
        return jnp.sum(updates**2)

    chex.assert_tree_all_finite(jax.grad(loss, (0, 1))(grad, 0.1))


@pytest.mark.full
def test_eight_bits_take_the_momentum_and_leave_the_factors():
    tx, params = fo.quantized(fo.kron(lr=0.1), {"momentum_buffer": "dynamic8"}, min_size=1), jnp.ones((16, 16))
    state, whole = tx.init(params), fo.kron(lr=0.1)
    updates, state = tx.update(jnp.asarray(drawn(0, (16, 16)), jnp.float32), state, params)
    wanted, _ = whole.update(jnp.asarray(drawn(0, (16, 16)), jnp.float32), whole.init(params), params)
    np.testing.assert_allclose(updates, wanted, rtol=1e-5)
    assert state.momentum_buffer.codes.dtype == jnp.uint8
    assert state.factor_0.dtype == jnp.float32


def test_narrow_parameters_have_factors_in_float32():
    params = jnp.ones((3, 3), jnp.bfloat16)
    tx = fo.kron()
    updates, state = tx.update(params, tx.init(params), params)
    assert (state.momentum_buffer.dtype, state.factor_0.dtype, updates.dtype) == (jnp.bfloat16, *[jnp.float32] * 2)
    with pytest.raises(RuntimeError, match="Kron does not support complex parameters: the parameter 'w'"):
        tx.init({"w": jnp.ones(2, jnp.complex64)})
