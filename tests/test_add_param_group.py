"""Groups added to a running optimizer."""

import copy
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import functorch_optim as fo
from functorch_optim import optim
from tests.algorithms import ALGORITHMS, oracle

CLASSES = {row.title: {**row.resumed, "lr": 0.1} for row in ALGORITHMS.values()}


def values(seed, shape=(2, 3)):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.torch
@pytest.mark.parametrize("name", CLASSES)
def test_histories_are_torchs(name, x64):
    """Three steps with one group, four with two (the first without gradients for two of them), saved in between."""
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    tensors = [torch.nn.Parameter(torch.tensor(values(seed))) for seed in (1, 2)]
    theirs = oracle(name)([tensors[0]], **CLASSES[name])
    ours = getattr(optim, name)([jnp.asarray(values(1))], **CLASSES[name])
    schedulers = [package.lr_scheduler.ExponentialLR(o, 0.9) for package, o in ((torch.optim, theirs), (optim, ours))]
    for step in range(7):
        if step == 3:
            theirs.add_param_group({"params": [tensors[1]], "lr": 0.5})
            ours.add_param_group({"params": [jnp.asarray(values(2))], "lr": 0.5})
        if step == 5:
            again = getattr(optim, name)(ours.params[0], **CLASSES[name])
            again.add_param_group({"params": ours.params[1]})
            again.load_state_dict(ours.state_dict())
            schedulers[1].optimizer = ours = again
        grads = [None if index == 0 and step in (3, 4) else values(10 * step + index) for index in range(2)]
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.grad = None if grad is None else torch.tensor(grad)
        theirs.step()
        arrays = [[None if grad is None else jnp.asarray(grad)] for grad in grads]
        ours.step(arrays if step >= 3 else arrays[0])
        for scheduler in schedulers:
            scheduler.step()
        for leaf, tensor in zip(jax.tree.leaves(ours.params), tensors, strict=False):
            np.testing.assert_allclose(leaf, tensor.detach().numpy(), rtol=1e-10, atol=1e-12)
        rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in (ours, theirs)]
        np.testing.assert_allclose(*rates, rtol=1e-12)
        saved = ours.state_dict(), theirs.state_dict()
        assert [group["params"] for group in saved[0]["param_groups"]] == [
            g["params"] for g in saved[1]["param_groups"]
        ]
        assert saved[0]["state"].keys() == saved[1]["state"].keys()
        for key, entry in saved[1]["state"].items():
            for slot, tensor in entry.items():
                np.testing.assert_allclose(saved[0]["state"][key][slot], tensor.numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "make",
    [
        lambda lr: fo.chain(fo.clip_by_value(1.0), fo.adam(lr=lr)),
        lambda lr: optax.adam(lr),
        lambda lr: fo.chain(fo.sgd(lr=lr, momentum=0.9), fo.ema(0.9)),
    ],
)
def test_a_composition_keeps_what_it_knows(make, standard_promotion):
    """Existing parameters continue as if nothing had happened; new ones start fresh."""

    def run(optimizer, tree, steps):
        for step in range(steps):
            optimizer.step(jax.tree.map(lambda p, step=step: p * (1.0 + step), tree))

    old, new = {"w": jnp.ones((2, 2)), "b": jnp.zeros(2)}, {"v": jnp.full(3, 2.0)}
    both, alone, fresh = (optim.Optimizer.from_transform(make, tree, {"lr": 0.1}) for tree in (old, old, new))
    grads = {"w": jnp.full((2, 2), 0.5), "b": jnp.ones(2)}
    run(both, grads, 3)
    run(alone, grads, 3)
    both.add_param_group({"params": new, "lr": 0.3})
    fresh.param_groups[0]["lr"] = 0.3
    run(both, [grads, new], 3)
    run(alone, grads, 3)
    run(fresh, new, 3)
    chex.assert_trees_all_close(both.params, [alone.params, fresh.params], rtol=1e-6)
    assert both.param_groups[1]["param_names"] == ["v"]


def test_trees_names_gradients_and_schedules():
    optimizer = optim.SGD({"w": jnp.ones(2), "b": jnp.ones(1)}, lr=fo.schedules.exponential_decay(1.0, 0.5))
    optimizer.step({"w": jnp.ones(2), "b": jnp.ones(1)})
    optimizer.grads = {"w": jnp.ones(2), "b": None}
    optimizer.add_param_group({"params": {"w": jnp.ones(3)}, "note": "late"})
    assert optimizer.param_groups[1]["param_names"] == ["1.w"]
    assert optimizer.param_groups[1]["note"] == "late"
    assert len(optimizer.param_groups[1]["params"]) == 1
    np.testing.assert_array_equal(optimizer.grads[0]["w"], jnp.ones(2))
    assert optimizer.grads[1]["w"] is None
    loss = lambda params: jnp.sum(params[0]["w"]) + jnp.sum(params[1]["w"] ** 2)  # noqa: E731 one line
    optimizer.zero_grad()
    optimizer.backward(loss)
    optimizer.step()  # the new group's schedule starts at its first value, the old one's continues
    first, second = (float(optimizer.param_groups[0]["lr"](step)) for step in range(2))
    np.testing.assert_allclose(optimizer.params[1]["w"], [1.0 - 2 * first] * 3)
    np.testing.assert_allclose(optimizer.params[0]["w"], [1.0 - first - second] * 2)
    optimizer.add_param_group({"params": [("mine", jnp.ones(1))]})
    assert [sorted(tree) if isinstance(tree, dict) else len(tree) for tree in optimizer.params] == [
        ["b", "w"],
        ["w"],
        1,
    ]
    tx, params, state = optimizer.functional()
    updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
    optimizer.restore(fo.apply_updates(params, updates), state)
    twin = copy.deepcopy(optimizer)
    twin.add_param_group({"params": [("more", jnp.ones(1))]})
    assert len(optimizer.param_groups) == 3


def test_group_rules_and_group_dicts_grow():
    ruled = optim.AdamW({"w": jnp.ones(1), "b": jnp.ones(1)}, group_rules=[("b", {"weight_decay": 0.0})])
    ruled.add_param_group({"params": {"head": jnp.ones(1)}, "lr": 0.5})
    assert [group["param_names"] for group in ruled.param_groups] == [["b"], ["w"], ["head"]]
    assert jax.tree.map(jnp.shape, ruled.params) == [{"w": (1,), "b": (1,)}, {"head": (1,)}]
    listed = optim.SGD([{"params": [jnp.ones(1)]}, {"params": [jnp.ones(2)]}])
    listed.add_param_group({"params": jnp.ones(3)})
    assert jax.tree.map(jnp.shape, listed.params) == [[(1,)], [(2,)], [(3,)]]
    empty = optim.SGD([{"params": []}])
    empty.add_param_group({"params": [("w", jnp.ones(1))]})
    empty.step([[], [jnp.ones(1)]])
    assert empty.param_groups[1]["param_names"] == ["w"]
    mixed = optim.MuonAdamW({"w": jnp.ones((2, 2))})
    mixed.add_param_group({"params": {"b": jnp.ones(2)}, "algorithm": "adamw", "lr": 0.5})
    mixed.step([{"w": jnp.ones((2, 2))}, {"b": jnp.ones(2)}])
    assert sorted(mixed.state["b"]) == ["exp_avg", "exp_avg_sq", "step"]
    with pytest.raises(ValueError, match="parameter group 2 must say its algorithm, 'muon' or 'adamw'"):
        mixed.add_param_group({"params": {"c": jnp.ones(2)}})


@pytest.mark.parametrize(
    "name", ["LambdaLR", "CosineAnnealingWarmRestarts", "CyclicLR", "OneCycleLR", "SWALR", "StepLR"]
)
def test_schedulers_take_the_new_group_in(name):
    """torch raises for most of them."""
    optimizer = optim.SGD([jnp.ones(1)], lr=0.1, momentum=0.9)
    make = {
        "LambdaLR": functools.partial(optim.lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 0.5**epoch),
        "CosineAnnealingWarmRestarts": functools.partial(optim.lr_scheduler.CosineAnnealingWarmRestarts, T_0=5),
        "CyclicLR": functools.partial(optim.lr_scheduler.CyclicLR, base_lr=0.1, max_lr=0.5, step_size_up=4),
        "OneCycleLR": functools.partial(optim.lr_scheduler.OneCycleLR, max_lr=0.5, total_steps=10),
        "SWALR": functools.partial(optim.swa_utils.SWALR, swa_lr=0.5, anneal_epochs=3),
        "StepLR": functools.partial(optim.lr_scheduler.StepLR, step_size=1),
    }[name]
    scheduler = make(optimizer)
    optimizer.step([jnp.ones(1)])
    scheduler.step()
    optimizer.add_param_group({"params": [jnp.ones(1)], "lr": 0.2})
    for _ in range(2):
        optimizer.step([[jnp.ones(1)], [jnp.ones(1)]])
        scheduler.step()
        assert scheduler.get_last_lr() == [group["lr"] for group in optimizer.param_groups]
    assert all(np.isfinite(group["lr"]) and group["lr"] != 0.2 for group in optimizer.param_groups[1:])


def test_errors_are_torchs_and_change_nothing():
    given = jnp.ones(2)
    named, unnamed = optim.Adam({"w": given}), optim.Adam([given])
    for optimizer in (named, unnamed):
        optimizer.step(jax.tree.map(jnp.ones_like, optimizer.params))
    new = jnp.ones(3)
    for optimizer, group, error, message in (
        (named, [new], TypeError, r"param_group must be a dict, but got <class 'list'>"),
        (named, {"lr": 0.1}, KeyError, "params"),
        (unnamed, {"params": {new.item for _ in range(1)}}, TypeError, "need to be organized in ordered collections"),
        (
            unnamed,
            {"params": [("a", new), jnp.ones(1)]},
            ValueError,
            "with/without names. Some param names are missing",
        ),
        (unnamed, {"params": [3]}, TypeError, "optimizer can only optimize Tensors"),
        (unnamed, {"params": [jnp.ones(1, int)]}, TypeError, "optimizer can only optimize floating"),
        (unnamed, {"params": [new, new]}, ValueError, "a parameter group with duplicate parameters"),
        (named, {"params": [new]}, ValueError, "cannot add param group without names to the optimizer"),
        (unnamed, {"params": [("a", new)]}, ValueError, "cannot add param group with names to the optimizer"),
        (named, {"params": {"v": given}}, ValueError, "some parameters appear in more than one parameter group"),
        (named, {"params": {"v": named.params["w"]}}, ValueError, "some parameters appear in more than one parameter"),
        (named, {"params": [("w", new)]}, ValueError, "several parameters have the name 'w'"),
        (named, {"params": {"v": new}, "lr": -1.0}, ValueError, "Invalid learning rate: -1.0.*in parameter group 1"),
        (named, {"params": {"v": new}, "weight_decya": 0.1}, ValueError, "did you mean 'weight_decay'"),
        (optim.LBFGS([given]), {"params": [new]}, ValueError, "LBFGS doesn't support per-parameter options"),
        (optim.Muon([jnp.ones((2, 2))]), {"params": [new]}, ValueError, "Muon only supports 2D parameters"),
    ):
        before = repr(optimizer), jax.tree.map(np.asarray, optimizer.params), optimizer.state_dict()["state"]
        with pytest.raises(error, match=message):
            optimizer.add_param_group(group)
        after = repr(optimizer), jax.tree.map(np.asarray, optimizer.params), optimizer.state_dict()["state"]
        assert before[0] == after[0]
        chex.assert_trees_all_equal(before[1:], after[1:])
    named.step({"w": jnp.ones(2)})


def test_the_users_dict_is_left_alone():
    group = {"params": {"v": jnp.ones(1)}, "lr": 0.5}
    optimizer = optim.Adam({"w": jnp.ones(1)})
    optimizer.add_param_group(group)
    assert sorted(group) == ["lr", "params"]
    assert list(optimizer.param_groups[1])[:4] == ["params", "lr", "param_names", "betas"]


def test_modules_and_trees_with_none_in_several_groups():
    equinox = pytest.importorskip("equinox", reason="needs equinox")
    mlp = equinox.filter(equinox.nn.MLP(2, 2, 3, 1, key=jax.random.key(0)), equinox.is_inexact_array)
    for tree, new in ((mlp, {"v": jnp.ones(1)}), ({"a": jnp.ones(2), "n": None}, {"b": jnp.ones(1)})):
        for make in (
            lambda tree: optim.AdamW(tree, lr=0.1),
            lambda tree: optim.Optimizer.from_transform(lambda lr: fo.adamw(lr=lr), tree, {"lr": 0.1}),
        ):
            optimizer = make(tree)
            optimizer.step(tree)
            optimizer.add_param_group({"params": new})
            optimizer.step([tree, new])
            tx, params, state = optimizer.functional()
            updates, state = tx.update([tree, new], state, params)
            optimizer.restore(jax.tree.map(jnp.add, params, updates), state)


def test_a_group_without_parameters():
    optimizer = optim.Adam([jnp.ones(1)])
    optimizer.add_param_group({"params": {}})
    optimizer.step([[jnp.ones(1)], {}])
    assert optimizer.params[0][0].tolist() != [1.0]


@pytest.mark.parametrize("given", ["a tree", "group dicts", "rules"])
def test_a_composition_sees_the_same_paths_before_and_after(given):
    """A mask by path selects the same parameters, and a stateful rule behind it keeps its state."""

    def make(lr):
        return fo.chain(
            fo.masked(fo.adam(lr=lr), lambda path: path != "b"), fo.masked(fo.scale(0.0), lambda p: p == "b")
        )

    tree = {"a": jnp.ones(1), "b": jnp.ones(1)}
    if given == "group dicts":
        optimizer = optim.Optimizer.from_transform(make, [{"params": tree}], {"lr": 0.1})
    else:
        rules = [("a", {})] if given == "rules" else []
        optimizer = optim.Optimizer.from_transform(make, tree, {"lr": 0.1}, group_rules=rules)
    ones = lambda: jax.tree.map(jnp.ones_like, optimizer.params)  # noqa: E731 one line
    optimizer.step(ones())
    optimizer.add_param_group({"params": {"c": jnp.ones(1), "b": jnp.ones(2)}})
    optimizer.step(ones())
    first, second = optimizer.params[0], optimizer.params[1]
    np.testing.assert_allclose(first["a"], [0.8], rtol=1e-5)
    np.testing.assert_allclose(second["c"], [0.9], rtol=1e-5)
    assert (first["b"].tolist(), second["b"].tolist()) == ([1.0], [1.0, 1.0])
    assert optimizer.state["a"]["exp_avg"].shape == (1,)
    assert optimizer.state[f"{len(optimizer.param_groups) - 1}.c"]["exp_avg"].shape == (1,)
    twin = copy.deepcopy(optimizer)
    twin.load_state_dict(optimizer.state_dict())
    for each in (optimizer, twin):
        each.step(ones())
    chex.assert_trees_all_equal(twin.params, optimizer.params)


def test_compositions_with_not_a_number_and_other_chains_grow():
    def make(lr, clip):
        return fo.chain(fo.clip_by_value(1.0), fo.sgd(lr=lr, momentum=0.9)) if clip else fo.adam(lr=lr)

    optimizer = optim.Optimizer.from_transform(make, {"a": jnp.ones(1)}, {"lr": 0.1, "clip": True}, static=["clip"])
    optimizer.step({"a": jnp.full(1, jnp.nan)})
    optimizer.add_param_group({"params": {"b": jnp.ones(1)}, "clip": False})
    optimizer.step([{"a": jnp.ones(1)}, {"b": jnp.ones(1)}])
    optimizer.load_state_dict(optimizer.state_dict())
    assert np.isnan(optimizer.state["a"]["momentum_buffer"])
    assert optimizer.state["b"]["exp_avg"].tolist() != [0.0]


def test_tables_are_known_by_their_names():
    optimizer = optim.SGD({"embed": jnp.zeros((5, 2))}, lr=1.0)
    optimizer.add_param_group({"params": {"out": jnp.ones(2)}})
    loss = lambda params, ids: jnp.sum(params[0]["embed"][ids] @ params[1]["out"])  # noqa: E731 one line
    optimizer.backward(loss, jnp.array([1, 3]), sparse="embed")
    optimizer.step()
    assert optimizer.params[0]["embed"][:, 0].tolist() == [0.0, -1.0, 0.0, -1.0, 0.0]
