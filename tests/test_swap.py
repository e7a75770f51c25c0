"""Temporarily swap other parameters and another state into an optimizer."""

import copy

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from functorch_optim import optim
from functorch_optim.optim import swap_in_optimizer_params_and_state

KINDS = ["SGD", "Adam", "AdamW", "NAdam", "Adafactor", "Rprop", "from_transform"]


def make(kind):
    groups = [
        {"params": [("w", jnp.arange(6.0).reshape(2, 3) + 1)], "lr": 0.1},
        {"params": [("b", jnp.ones(3))], "lr": 0.2},
    ]
    if kind == "from_transform":
        import functorch_optim as fo

        return optim.Optimizer.from_transform(lambda lr: fo.sgd(lr=lr, momentum=0.9), groups, {"lr": 0.1})
    return getattr(optim, kind)(groups, **({"momentum": 0.9} if kind == "SGD" else {}))


def grads(k):
    return [[jnp.full((2, 3), 0.5 + k)], [jnp.full(3, 1.0 - k)]]


def everything(optimizer):
    state = optimizer.state_dict()
    return jax.tree.map(np.asarray, (optimizer.params, state["state"])), repr(optimizer), optimizer._counts


@pytest.mark.parametrize("kind", KINDS)
def test_inside_another_run_goes_on_and_outside_nothing_has_changed(kind):
    """Inside, the optimizer behaves like one that has loaded that state."""
    source, target = make(kind), make(kind)
    for k in range(3):
        source.step(grads(k))
    target.step(grads(5))
    target.grads = grads(1)
    saved, params = copy.deepcopy(source.state_dict()), source.params
    saved["param_groups"][0]["lr"] = 0.03
    source.param_groups[0]["lr"] = 0.03
    before, groups = everything(target), target.param_groups
    with swap_in_optimizer_params_and_state(target, {"w": params[0][0], "b": params[1][0]}, saved):
        assert target.grads is None
        source.step(grads(7))
        target.step(grads(7))
        chex.assert_trees_all_equal(everything(target)[0], everything(source)[0])
        assert target.param_groups[0]["lr"] == 0.03
    assert target.param_groups is groups
    chex.assert_trees_all_equal(everything(target)[0], before[0])
    assert everything(target)[1:] == before[1:]
    fresh = make(kind)
    fresh.step(grads(5))
    for each in (fresh, target):
        each.step(grads(2))
    chex.assert_trees_all_equal(everything(target)[0], everything(fresh)[0])


def test_an_error_inside_restores_too():
    optimizer = make("Adam")
    optimizer.step(grads(0))
    before = everything(optimizer)

    def fail():
        with swap_in_optimizer_params_and_state(optimizer, optimizer.params, optimizer.state_dict()):
            optimizer.step(grads(1))
            raise OSError("inside")

    with pytest.raises(OSError, match="inside"):
        fail()
    chex.assert_trees_all_equal(everything(optimizer)[0], before[0])


def test_errors_change_nothing():
    fresh, optimizer = make("Adam"), make("Adam")
    optimizer.step(grads(0))
    saved = optimizer.state_dict()

    def edited(edit):
        state = copy.deepcopy(saved)
        edit(state)
        return state

    before = everything(optimizer)
    for who, params, state, message in (
        (fresh, fresh.params, saved, "swap_in_optimizer_params_and_state requires initialized optimizer state."),
        (optimizer, optimizer.params, {}, "requires a DCP-style optimizer state_dict"),
        (optimizer, optimizer.params, edited(lambda s: s["param_groups"].pop()), "a different number of parameter gr"),
        (
            optimizer,
            optimizer.params,
            edited(lambda s: s["param_groups"][1]["params"].append(2)),
            "swapin_optim_state param group 1 has a different number of params than the live optimizer",
        ),
        (
            optimizer,
            optimizer.params,
            edited(lambda s: s["param_groups"][1].pop("eps")),
            r"Keys only in live: \['eps'\]",
        ),
        (optimizer, optimizer.params, edited(lambda s: s["state"].update({9: {}})), r"got extra keys \[9\]"),
        (optimizer, {"w": jnp.ones(1)}, saved, "the parameters do not have the structure"),
        (optimizer, {"w": jnp.ones(1), "b": jnp.ones(3)}, saved, r"'w' has shape \(1,\)"),
        (optimizer, optimizer.params, edited(lambda s: s["state"][0].pop("exp_avg")), "'w' is not one of Adam"),
    ):
        with pytest.raises(RuntimeError, match=message), swap_in_optimizer_params_and_state(who, params, state):
            raise AssertionError("not reached")
        chex.assert_trees_all_equal(everything(optimizer)[0], before[0])
        assert everything(optimizer)[1:] == before[1:]


def test_by_name_where_there_are_names():
    optimizer = optim.Adam({"b": {"w": jnp.ones(1)}, "a": {"w": jnp.zeros(1)}})
    optimizer.step(optimizer.params)
    saved = optimizer.state_dict()
    with swap_in_optimizer_params_and_state(optimizer, {"b.w": jnp.array([2.0]), "a.w": jnp.array([3.0])}, saved):
        assert jax.tree.map(float, jax.tree.map(jnp.squeeze, optimizer.params)) == {"b": {"w": 2.0}, "a": {"w": 3.0}}
        optimizer.param_groups[0].clear()
    assert len(optimizer.param_groups) == 1 and optimizer.param_groups[0]["lr"] == 1e-3
    with (
        pytest.raises(RuntimeError, match="the parameters do not have the structure"),
        swap_in_optimizer_params_and_state(optimizer, {"x": jnp.ones(1), "y": jnp.ones(1)}, saved),
    ):
        raise AssertionError("not reached")


def test_no_hooks_of_loading_and_nothing_remembered():
    optimizer, calls = make("Adam"), []
    optimizer.step(grads(0))
    optimizer.register_load_state_dict_pre_hook(lambda own, state: calls.append("pre"))
    optimizer.register_load_state_dict_post_hook(lambda own: calls.append("post"))
    new = jnp.ones(1)
    with swap_in_optimizer_params_and_state(optimizer, optimizer.params, optimizer.state_dict()):
        optimizer.add_param_group({"params": [("v", new)]})
    assert calls == []
    optimizer.add_param_group({"params": [("v", new)]})
