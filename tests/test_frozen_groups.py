"""Groups that are frozen by an option: parameters, slots and counts stay, whatever the gradients are."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from functorch_optim import optim

RULES = [("body", {"frozen": True})]
MATRICES = {"Muon", "MuonAdamW"}
KINDS = {
    "SGD": {"lr": 0.1, "momentum": 0.9},
    "Adam": {"lr": 0.1, "weight_decay": 0.1},
    "ASGD": {"lr": 0.1},
    "Adagrad": {"lr": 0.1},
    "Muon": {"lr": 0.1},
    "MuonAdamW": {},
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def params():
    return {"body": jnp.full((2, 2), 2.0), "head": jnp.ones((2, 2))}


def grads(step=0, value=None):
    body = jnp.full((2, 2), 1.0 + step) if value is None else jnp.full((2, 2), value)
    return {"body": body, "head": jnp.array([[1.0, -2.0], [0.5, 1.0 + step]])}


def composition(tree, group_rules=()):
    def make(lr):
        return fo.chain(fo.clip_by_global_norm(1.0), fo.adamw(lr=lr))

    return optim.Optimizer.from_transform(make, tree, {"lr": 0.1}, group_rules=group_rules)


def made(kind, tree, **more):
    if kind == "composition":
        return composition(tree, **more)
    if kind == "MuonAdamW":
        groups = [{"params": {name: array}, "algorithm": "muon"} for name, array in tree.items()]
        if more:
            groups[0]["frozen"] = True
        return optim.MuonAdamW(groups)
    return getattr(optim, kind)(tree, **KINDS[kind], **more)


def given(kind, tree):
    """Return gradients in the structure of the optimizer's parameters."""
    return [{name: leaf} for name, leaf in tree.items()] if kind == "MuonAdamW" else tree


def entries(optimizer):
    return jax.tree.map(np.asarray, optimizer.state_dict()["state"])


def values(optimizer):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(optimizer.params)]


@pytest.mark.parametrize("kind", [*KINDS, "composition"])
def test_a_frozen_group_stays_and_the_others_train_as_alone(kind):
    optimizer, alone = made(kind, params(), group_rules=RULES), made(kind, {"head": params()["head"]})
    for step in range(3):
        optimizer.step(given(kind, grads(step, jnp.nan if step == 1 else None)))
        alone.step(given(kind, {"head": grads(step)["head"]}))
    body, head = values(optimizer)
    np.testing.assert_array_equal(body, params()["body"])
    np.testing.assert_array_equal(head, values(alone)[0])
    assert optimizer._counts == [0, 3]


@pytest.mark.parametrize("kind", [*KINDS, "composition"])
def test_a_group_that_was_frozen_for_a_while_goes_on_as_if_it_had_been_paused(kind):
    optimizer, paused = (made(kind, params(), group_rules=[("body", {})]) for _ in range(2))
    paused.param_groups[0]["frozen"] = False
    for step in (0, 1, 2, 3):
        optimizer.param_groups[0]["frozen"] = step in (1, 2)
        before = entries(optimizer)
        optimizer.step(given(kind, grads(step)))
        if step in (1, 2):
            key = min(before)
            jax.tree.map(np.testing.assert_array_equal, before[key], entries(optimizer)[key])
        else:
            paused.step(given(kind, grads(step)))
    np.testing.assert_array_equal(values(optimizer)[0], values(paused)[0])
    assert optimizer._counts == [2, 4]


def test_packed_parameters_may_be_frozen_and_thawed():
    tree = {f"{part}{index}": jnp.full(3, 1.0 + index) for part in ("body", "head") for index in range(3)}
    gradient = jax.tree.map(jnp.ones_like, tree)
    optimizer = optim.Adam(tree, lr=0.1, foreach=True, group_rules=[("body", {})])
    optimizer.step(gradient)
    optimizer.param_groups[0]["frozen"] = True
    held = optimizer.params["body1"]
    optimizer.step(gradient)
    np.testing.assert_array_equal(optimizer.params["body1"], held)
    assert (optimizer.state["body1"]["step"], optimizer.state["head1"]["step"]) == (1, 2)
    optimizer.param_groups[0]["frozen"] = False
    optimizer.step(gradient)
    assert optimizer.state["body1"]["step"] == 2
    np.testing.assert_allclose(optimizer.params["body1"], held - 0.1, rtol=1e-6)


@pytest.mark.parametrize("jit", [True, False])
def test_backward_leaves_the_gradients_of_a_frozen_group_out(jit):
    optimizer = optim.SGD(params(), lr=0.1, group_rules=RULES)

    def loss(tree, factor):
        return factor * jnp.sum(tree["body"] * tree["head"]), tree["head"]

    value, _ = optimizer.backward(loss, 2.0, has_aux=True, jit=jit)
    optimizer.backward(loss, 2.0, has_aux=True, jit=jit)
    assert value == 16.0 and optimizer.grads["body"] is None
    np.testing.assert_array_equal(optimizer.grads["head"], jnp.full((2, 2), 8.0))
    assert optimizer.clip_grad_norm(1.0) == 16.0  # the norm of what trains
    optimizer.step()
    optimizer.param_groups[0]["frozen"] = False
    optimizer.zero_grad()
    optimizer.backward(loss, 2.0, has_aux=True, jit=jit)
    assert optimizer.grads["body"] is not None


def test_a_compiled_backward_does_not_compute_what_is_dropped():
    optimizer = optim.SGD({"body": jnp.ones((8, 8)), "head": jnp.ones(8)}, group_rules=RULES)
    x = jnp.ones((4, 8))

    def loss(tree, x):
        return jnp.sum(jnp.tanh(x @ tree["body"]) @ tree["head"])

    programs = [
        optimizer._losses.value_and_grad(loss, False, True, (), dropped).lower(optimizer._tree(), x).compile().as_text()
        for dropped in (frozenset(), frozenset({0}))
    ]
    assert programs[0].count(" dot(") - programs[1].count(" dot(") == 1


def test_closures_and_sparse_tables_of_a_frozen_group():
    optimizer = optim.SGD({"head": jnp.ones(2), "table": jnp.ones((4, 2))}, lr=0.5, group_rules=[("table", {})])
    optimizer.param_groups[0]["frozen"] = True

    def loss(tree, ids):
        return jnp.sum(tree["table"][ids] @ tree["head"])

    ids = jnp.array([1, 1])
    assert optimizer.step(loss, ids) == 4.0
    optimizer.backward(loss, ids, sparse="table")
    assert optimizer.grads["table"] is None
    optimizer.step()
    np.testing.assert_array_equal(optimizer.params["table"], jnp.ones((4, 2)))
    np.testing.assert_array_equal(optimizer.params["head"], jnp.full(2, -1.0))


@pytest.mark.parametrize("kind", [optim.LBFGS, optim.BFGS])
def test_a_frozen_minimizer_only_evaluates(kind):
    optimizer = kind({"w": jnp.ones(2)})
    optimizer.param_groups[0]["frozen"] = True
    assert optimizer.step(lambda tree: jnp.sum(tree["w"] ** 2)) == 2.0
    assert not optimizer.state and optimizer.params["w"].tolist() == [1.0, 1.0]
    optimizer.param_groups[0]["frozen"] = False
    optimizer.step(lambda tree: jnp.sum(tree["w"] ** 2))
    assert optimizer.state


@pytest.mark.parametrize("kind", ["Adam", "Adagrad", "composition"])
def test_a_functional_loop_leaves_it_alone_too(kind):
    optimizer, twin = made(kind, params(), group_rules=RULES), made(kind, params(), group_rules=RULES)
    tx, tree, state = optimizer.functional()
    for step in range(3):
        updates, state = tx.update(grads(step, jnp.nan), state, tree)
        tree = fo.apply_updates(tree, updates)
        twin.step(grads(step, jnp.nan))
    optimizer.restore(tree, state)
    np.testing.assert_array_equal(optimizer.params["body"], params()["body"])
    np.testing.assert_allclose(optimizer.params["head"], twin.params["head"], rtol=1e-6)
    assert optimizer._counts == twin._counts == [0, 3]
    optimizer.step(grads(3))
    twin.step(grads(3))
    np.testing.assert_allclose(optimizer.params["head"], twin.params["head"], rtol=1e-6)


def test_a_schedule_waits_with_its_group():
    optimizer = optim.SGD({"body": jnp.zeros(1), "head": jnp.zeros(1)}, lr=lambda step: step + 1.0, group_rules=RULES)
    gradient = {"body": jnp.ones(1), "head": jnp.ones(1)}
    for _ in range(2):
        optimizer.step(gradient)
    optimizer.param_groups[0]["frozen"] = False
    optimizer.step(gradient)
    assert (optimizer.params["body"].item(), optimizer.params["head"].item()) == (-1.0, -6.0)


def test_everything_may_be_frozen_and_groups_come_later():
    optimizer = optim.Adam([{"params": {"a": jnp.ones(1)}, "frozen": True}])
    optimizer.step([{"a": jnp.ones(1)}])
    assert not optimizer.state
    optimizer.add_param_group({"params": {"b": jnp.ones(1)}, "frozen": True})
    optimizer.add_param_group({"params": {"c": jnp.ones(1)}})
    optimizer.step([{name: jnp.ones(1)} for name in "abc"])
    assert list(optimizer.state) == ["c"]


def test_it_stands_in_a_group_and_a_state_dict_only_where_it_was_given():
    plain = optim.Adam(params(), group_rules=[("body", {})])
    assert not any("frozen" in group for group in plain.state_dict()["param_groups"])
    frozen = optim.Adam(params(), group_rules=RULES)
    frozen.step(grads())
    saved = frozen.state_dict()
    assert [group.get("frozen") for group in saved["param_groups"]] == [True, None]
    plain.load_state_dict(saved)
    assert plain.param_groups[0]["frozen"] is True
    for twin in (copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen)), plain):
        twin.step(grads())
        assert list(twin.state) == ["head"]
    untouched = optim.Adam(params(), group_rules=[("body", {})])
    untouched.step(grads())
    frozen.load_state_dict(untouched.state_dict())  # which says nothing of it: it stays
    assert frozen.param_groups[0]["frozen"] is True
    frozen.param_groups[0]["frozen"] = False
    thawed = optim.Adam(params(), group_rules=RULES)
    thawed.load_state_dict(frozen.state_dict())  # a group that was thawed says so
    assert thawed.param_groups[0]["frozen"] is False
    thawed.load_state_dict(saved, keep=["frozen"])
    assert thawed.param_groups[0]["frozen"] is False


@pytest.mark.torch
def test_torch_loads_the_state_dict_and_gives_the_option_back():
    torch = pytest.importorskip("torch", reason="a state goes to torch and back")
    ours = optim.Adam(params(), group_rules=RULES)
    ours.step(grads())
    tensors = [torch.ones(2, 2, requires_grad=True) for _ in range(2)]
    theirs = torch.optim.Adam([{"params": [tensor]} for tensor in tensors])
    theirs.load_state_dict(
        jax.tree.map(lambda x: torch.tensor(np.asarray(x)) if hasattr(x, "dtype") else x, ours.state_dict())
    )
    tensors[1].grad = torch.ones(2, 2)
    theirs.step()
    other = optim.Adam(params(), group_rules=[("body", {})])
    other.load_state_dict(theirs.state_dict(), match="position")
    assert other.param_groups[0]["frozen"] is True and other.state["head"]["step"] == 2


def test_bad_values_and_misspelled_names_raise():
    with pytest.raises(TypeError, match="frozen must be True or False, but it is 'yes', in parameter group 0"):
        optim.Adam(params(), group_rules=[("body", {"frozen": "yes"})])
    with pytest.raises(ValueError, match="'frozn' is no option of this optimizer; did you mean 'frozen'"):
        optim.Adam(params(), group_rules=[("body", {"frozn": True})])
    with pytest.raises(ValueError, match="'freeze' is no option of this optimizer; did you mean 'frozen'"):
        optim.Adam(params(), group_rules=[("body", {"freeze": True})])


def test_a_transformation_may_have_an_option_of_that_name():
    def make(lr, frozen):
        return fo.sgd(lr=0.0 if frozen else lr)

    optimizer = optim.Optimizer.from_transform(make, params(), {"lr": 0.5, "frozen": "no"}, static=["frozen"])
    optimizer.param_groups[0]["frozen"] = ""
    optimizer.step(grads())
    assert optimizer.params["body"][0, 0] == 1.5
    optimizer.param_groups[0]["frozen"] = "yes"
    optimizer.step(grads())
    assert optimizer.params["body"][0, 0] == 1.5 and optimizer._counts == [2]
