"""Steps inside traced functions, and torch's rules for flags."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from functorch_optim import optim
from tests.algorithms import ALGORITHMS, full

START = {"w": jnp.array([1.0, -2.0]), "b": jnp.array([0.5])}


def loss(params):
    return jnp.sum((params["w"] - 3.0) ** 2) + jnp.sum(jnp.sin(params["b"]))


LEARNED = [name for name, row in ALGORITHMS.items() if row.learned]


def test_gradients_through_steps_are_the_functional_ones():
    """With respect to options and to the initial parameters; traced, and for some algorithms executed eagerly."""
    values = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "eps": 1e-8, "rho": 0.9, "alpha": 0.9}

    def face(numbers, params, name):
        optimizer = getattr(optim, ALGORITHMS[name].title)(params, differentiable=True, **numbers)
        for _ in range(4):
            optimizer.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        return loss(optimizer.params)

    def functional(numbers, params, name):
        tx = getattr(fo, name)(**numbers)
        state = tx.init(params)
        for _ in range(4):
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            params = fo.apply_updates(params, updates)
        return loss(params)

    def derivatives(function, name):
        numbers = {option: jnp.asarray(values.get(option, 0.01)) for option in ALGORITHMS[name].learned}
        return jax.value_and_grad(function, argnums=(0, 1))(numbers, START, name)

    expected, traced = jax.jit(lambda: [{n: derivatives(f, n) for n in LEARNED} for f in (functional, face)])()
    at_once = {name: derivatives(face, name) for name in ("asgd", "adam", *full(*LEARNED))}
    for found in (traced, at_once):
        for name, tree in found.items():
            for one, right in zip(*map(jax.tree.leaves, (tree, expected[name])), strict=True):
                np.testing.assert_allclose(one, right, rtol=2e-4, atol=1e-5, err_msg=name)
                assert np.all(np.isfinite(right)), name


def test_a_learning_rate_learned():
    """The gradient that torch's differentiable=True gives, by hand: p - lr*g, with g = 2*(p - 3)."""

    def after(lr):
        optimizer = optim.SGD([jnp.array(1.0)], lr=lr, differentiable=True)
        optimizer.step([2 * (optimizer.params[0] - 3.0)])
        return (optimizer.params[0] - 3.0) ** 2

    np.testing.assert_allclose(jax.grad(after)(0.1), 2 * (1.0 + 0.4 - 3.0) * 4.0, rtol=1e-6)
    losses = jax.vmap(after)(jnp.array([0.1, 0.5]))
    np.testing.assert_allclose(losses, [2.56, 0.0], atol=1e-6)


def test_groups_schedulers_and_gaps_inside_a_traced_function():
    def after(lr):
        groups = [{"params": START["w"]}, {"params": START["b"], "lr": 2 * lr}]
        optimizer = optim.NAdam(groups, lr=lr, differentiable=True)
        for step in range(3):
            optimizer.param_groups[0]["lr"] = lr * 0.5**step
            optimizer.step([[2 * optimizer.params[0][0]], [None if step == 1 else optimizer.params[1][0]]])
        return jnp.sum(optimizer.params[0][0]) + jnp.sum(optimizer.params[1][0])

    slope = (after(jnp.asarray(0.1 + 1e-3)) - after(jnp.asarray(0.1 - 1e-3))) / 2e-3
    np.testing.assert_allclose(jax.jit(jax.grad(after))(0.1), slope, rtol=2e-2)


def test_without_the_flag_it_is_an_error_and_nothing_has_changed():
    message = "inside one, use functional.., or an optimizer that is made there with differentiable=True"
    plain = optim.SGD([jnp.ones(2)], lr=0.1)
    for call in (
        lambda x: plain.step([x]),
        lambda x: setattr(plain, "params", [x]),
        lambda x: optim.SGD([jnp.ones(2)], lr=x[0]).step([jnp.ones(2)]),
    ):
        with pytest.raises(RuntimeError, match=message):
            jax.jit(call)(jnp.ones(2))
    assert plain.params[0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_flags_that_exclude_each_other(name):
    make = getattr(optim, name)
    with pytest.raises(RuntimeError, match="`fused` does not support `differentiable`"):
        make([jnp.ones(1)], fused=True, differentiable=True)
    with pytest.raises(RuntimeError, match="`fused` and `foreach` cannot be `True` together"):
        make([jnp.ones(1)], fused=True, foreach=True)
    optimizer = make([jnp.ones(1)], fused=True, foreach=False)
    assert (optimizer.param_groups[0]["fused"], optimizer.param_groups[0]["foreach"]) == (True, False)


def test_an_optimizer_from_outside_keeps_no_tracers():
    for optimizer in (
        optim.SGD([jnp.ones(2)], lr=0.1, differentiable=True),
        optim.SGD([{"params": [jnp.ones(2)], "differentiable": True}], lr=0.1),
    ):
        with pytest.raises(RuntimeError, match="the optimizer keeps its parameters outside of a traced function"):
            jax.jit(lambda x, o=optimizer: o.step(jax.tree.map(lambda p: x, o.params)))(jnp.ones(2))
        assert jax.tree.leaves(optimizer.params)[0].tolist() == [1.0, 1.0]
        optimizer.step(optimizer.params)


@pytest.mark.parametrize("differentiable", [False, True])
def test_concrete_arrays_change_nothing_inside_a_traced_function(differentiable):
    optimizer = optim.Adam([jnp.ones(2)], lr=0.1, differentiable=differentiable)
    saved = optimizer.state_dict()
    optimizer.backward(lambda p: jnp.sum(p[0] ** 2))
    _, params, state = optimizer.functional()
    for change in (
        lambda: optimizer.step([jnp.ones(2)]),
        lambda: optimizer.step(),
        lambda: optimizer.clip_grad_norm(0.1),
        lambda: optimizer.clip_grad_value(0.1),
        lambda: optimizer.zero_grad(set_to_none=False),
        lambda: setattr(optimizer, "params", [np.zeros(2, np.float32)]),
        lambda: optimizer.load_state_dict(saved),
        lambda: optimizer.add_param_group({"params": [np.zeros(2)]}),
        lambda: optimizer.restore(params, state),
    ):
        with pytest.raises(RuntimeError, match="the optimizer keeps its parameters outside of a traced function"):
            jax.jit(lambda x, change=change: (change(), x)[1])(1.0)
        assert optimizer.params[0].tolist() == [1.0, 1.0] and optimizer.grads[0].tolist() == [2.0, 2.0]
        assert not optimizer.state and len(optimizer.param_groups) == 1

    def at_once(x):
        with jax.ensure_compile_time_eval():
            optimizer.step()
        return x

    if not differentiable:  # eager code may change it, and so may code under vmap
        jax.jit(at_once)(1.0)
        assert optimizer.params[0].tolist() == pytest.approx([0.9, 0.9])
        jax.vmap(lambda x: (optimizer.step(), x)[1])(jnp.ones(2))
        assert optimizer.state[0]["step"] == 2 and optimizer.params[0].tolist() == pytest.approx([0.8, 0.8])


@pytest.mark.parametrize("transform", [jax.vmap, *(lambda f, t=t: t(lambda x: f(x[0])) for t in (jax.grad, jax.jit))])
def test_traced_values_do_not_stay(transform):
    optimizer = optim.Adam([jnp.ones(2)], lr=0.1)
    optimizer.step([jnp.ones(2)])
    optimizer.backward(lambda p: jnp.sum(p[0] ** 2))
    saved, before = optimizer.state_dict(), optimizer.params[0].tolist()
    for change in (
        lambda x: optimizer.clip_grad_norm(x),
        lambda x: optimizer.clip_grad_value(x),
        lambda x: optimizer.add_param_group({"params": [x * jnp.ones(3)]}),
        lambda x: optimizer.load_state_dict(
            {**saved, "state": {0: {**saved["state"][0], "exp_avg": x * saved["state"][0]["exp_avg"]}}}
        ),
    ):
        with pytest.raises(RuntimeError, match="the optimizer keeps its parameters outside of a traced function"):
            transform(lambda x, change=change: (change(x), x)[1])(jnp.ones(2))
        assert optimizer.params[0].tolist() == before and len(optimizer.param_groups) == 1
        assert not any(
            isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((optimizer.grads, optimizer.state))
        )
    optimizer.step()


def test_lbfgs_keeps_no_tracers():
    optimizer = optim.LBFGS([jnp.ones(2)], history_size=4)

    def loss(params):
        return jnp.sum(params[0] ** 4)

    optimizer.step(loss)
    optimizer.param_groups[0]["history_size"] = 2
    with pytest.raises(RuntimeError, match="the optimizer keeps its parameters outside of a traced function"):
        jax.jit(lambda x: (optimizer.step(loss), x)[1])(1.0)
    jax.jit(lambda x: (optimizer.functional(), x)[1])(1.0)
    optimizer.step(loss)
    assert loss(optimizer.params) < 2.0


def test_state_dicts_and_functional_loops_inside_a_traced_function():
    def after(lr):
        first = optim.ASGD(START, lr=lr, differentiable=True)
        first.step(jax.grad(loss)(first.params))
        second = optim.ASGD(first.params, lr=lr, differentiable=True)
        second.load_state_dict(first.state_dict())
        tx, params, state = second.functional()
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        second.restore(fo.apply_updates(params, updates), state)
        second.step(jax.grad(loss)(second.params))
        return loss(second.params)

    def plain(lr):
        optimizer = optim.ASGD(START, lr=lr, differentiable=True)
        for _ in range(3):
            optimizer.step(jax.grad(loss)(optimizer.params))
        return loss(optimizer.params)

    np.testing.assert_allclose(jax.grad(after)(0.1), jax.grad(plain)(0.1), rtol=1e-4)


def test_foreach_is_not_differentiable():
    with pytest.raises(AssertionError, match="_foreach ops don't support autograd"):
        optim.Adam([jnp.ones(1)], foreach=True, differentiable=True)
    grown = optim.Adam([jnp.ones(1)], fused=True)
    grown.add_param_group({"params": [jnp.ones(1)], "foreach": True})  # as in torch, which checks the constructor's
