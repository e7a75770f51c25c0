"""Writes to state, parameters, gradients and groups work as in torch, or raise a clear error."""

import copy
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from functorch_optim import optim


def params():
    return {"v": jnp.array([1.0, 2.0]), "w": jnp.array([3.0, 4.0, 5.0])}


def ones():
    return {"v": jnp.ones(2), "w": jnp.ones(3)}


def stepped(make=optim.Adam, steps=2, **options):
    optimizer = make(params(), lr=0.1, **options)
    for _ in range(steps):
        optimizer.step(ones())
    return optimizer


def composition(params, lr):
    return optim.Optimizer.from_transform(
        lambda lr: fo.chain(fo.clip_by_global_norm(9.0), fo.adam(lr=lr)), params, {"lr": lr}
    )


each_engine = pytest.mark.parametrize("make", [optim.Adam, composition], ids=["adam", "composition"])


@each_engine
def test_a_slot_is_written_through(make):
    optimizer, reference = stepped(make), stepped(make)
    optimizer.state["w"]["exp_avg"] *= 0
    assert optimizer.state["w"]["exp_avg"].tolist() == [0.0] * 3
    for key in ("exp_avg", "exp_avg_sq"):
        assert optimizer.state["v"][key].tolist() == reference.state["v"][key].tolist()
    assert optimizer.state["w"]["exp_avg_sq"].tolist() == reference.state["w"]["exp_avg_sq"].tolist()
    optimizer.step(ones())
    reference.step(ones())
    assert optimizer.params["w"].tolist() != reference.params["w"].tolist()
    assert optimizer.params["v"].tolist() == reference.params["v"].tolist()


def test_a_slot_takes_numpy_arrays_in_its_own_dtype():
    optimizer = stepped()
    optimizer.state["w"]["exp_avg"] = np.full(3, 0.25)
    assert optimizer.state["w"]["exp_avg"].dtype == jnp.float32
    optimizer.state["w"].update(exp_avg=jnp.zeros(3), step=7)
    assert optimizer.state["w"]["step"] == 7 and optimizer.state["w"]["exp_avg"].tolist() == [0.0] * 3


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda state: state["w"].__setitem__("exp_avg", jnp.zeros(2)), "exp_avg of the parameter 'w' has shape"),
        (lambda state: state["w"].__setitem__("momentum", jnp.zeros(3)), "the state of the parameter 'w' is not one"),
        (lambda state: state["w"].pop("exp_avg"), "the state of the parameter 'w' is not one of Adam"),
        (lambda state: state.__setitem__("note", 1), "the state of 'note' must be a dict of slots"),
        (
            lambda state: state.__setitem__("note", {"step": 1}),
            "the optimizer has no parameter 'note'; it has 'v', 'w'",
        ),
        (lambda state: state["w"].__setitem__("step", -1), "step of the parameter 'w' must be"),
    ],
)
def test_what_is_no_state_is_refused_at_once(write, message):
    optimizer = stepped()
    before = jax.tree.map(np.asarray, dict(optimizer.state))
    with pytest.raises((KeyError, TypeError, ValueError), match=message):
        write(optimizer.state)
    jax.tree.map(np.testing.assert_array_equal, dict(optimizer.state), before)


@each_engine
@pytest.mark.parametrize("forget", ["pop", "del", "clear", "reset", "reset all"])
def test_a_state_that_is_removed_begins_anew(make, forget):
    optimizer = stepped(make)
    if forget == "pop":
        assert optimizer.state.pop("v")["step"] == 2
    elif forget == "del":
        del optimizer.state["v"]
    elif forget == "reset":
        optimizer.reset_state(["v"])
    elif forget == "clear":
        optimizer.state.clear()
    else:
        optimizer.reset_state()
    begun = optimizer.state.get("v", {}).get("exp_avg", jnp.zeros(2))
    assert begun.tolist() == [0.0, 0.0]
    kept = "clear" not in forget and forget != "reset all"
    assert bool(np.any(optimizer.state.get("w", {}).get("exp_avg", np.zeros(3)))) is kept
    optimizer.step(ones())
    fresh = make(params(), lr=0.1)
    fresh.step(ones())
    if make is optim.Adam or not kept:  # a composition counts steps globally
        np.testing.assert_allclose(optimizer.state["v"]["exp_avg"], fresh.state["v"]["exp_avg"], rtol=1e-6)


def test_a_reset_adagrad_begins_with_its_first_sum():
    optimizer = optim.Adagrad(params(), lr=0.1, initial_accumulator_value=0.5)
    optimizer.step(ones())
    optimizer.reset_state("v")
    assert optimizer.state["v"]["sum"].tolist() == [0.5, 0.5] and optimizer.state["v"]["step"] == 0


def test_lbfgs_begins_anew_as_a_whole():
    optimizer = optim.LBFGS(params(), max_iter=2)
    optimizer.step(lambda params: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)))
    assert optimizer.state
    optimizer.reset_state()
    assert not optimizer.state


def test_a_stale_view_writes_its_own_slot_only():
    optimizer = stepped()
    view = optimizer.state["w"]
    optimizer.step(ones())
    later = optimizer.state["w"]["exp_avg_sq"]
    view["exp_avg"] = jnp.zeros(3)
    assert optimizer.state["w"]["exp_avg_sq"].tolist() == later.tolist() and optimizer.state["w"]["step"] == 3


def test_a_copy_of_the_state_is_a_plain_dict():
    optimizer = stepped()
    for copied in (copy.deepcopy(optimizer.state), copy.copy(optimizer.state), jax.tree.map(np.array, optimizer.state)):
        copied["w"] = {}
    assert optimizer.state["w"]["step"] == 2


def test_parameters_are_written_through():
    optimizer = stepped(foreach=True)
    optimizer.params["w"] = jnp.zeros(3)
    assert optimizer.params["w"].tolist() == [0.0] * 3 and optimizer.state["w"]["step"] == 2
    optimizer.param_groups[0]["params"][0] = jnp.zeros(2)
    assert optimizer.params["v"].tolist() == [0.0, 0.0]
    optimizer.params["w"] = jnp.ones(3)
    optimizer.step(ones())
    assert 0.8 < optimizer.params["w"][0] < 1.0


def test_a_tree_is_watched_until_a_step():
    optimizer = stepped()
    tree = optimizer.params
    assert optimizer.params is tree
    optimizer.state_dict()
    optimizer.backward(lambda params: jnp.sum(params["w"]))
    tree["w"] = jnp.zeros(3)
    assert optimizer.params["w"].tolist() == [0.0] * 3
    tree["v"] = jnp.zeros(2)  # still the first tree
    assert [leaf.tolist() for leaf in jax.tree.leaves(optimizer.params)] == [[0.0] * 2, [0.0] * 3]
    grads = optimizer.grads
    assert grads["w"].tolist() == [1.0] * 3
    optimizer.state_dict()
    grads["w"] = None
    optimizer.step()
    assert optimizer.params["w"].tolist() == [0.0] * 3 and optimizer.state["w"]["step"] == 2


def test_written_parameters_that_do_not_fit_are_refused_and_forgotten():
    optimizer = stepped()
    before = optimizer.params["w"]
    optimizer.params["w"] = jnp.zeros(7)
    with pytest.raises(ValueError, match=r"the new value of the parameter 'w' has shape \(7,\)"):
        optimizer.step(ones())
    assert optimizer.params["w"].tolist() == before.tolist()
    optimizer.params["note"] = jnp.zeros(7)
    with pytest.raises(ValueError, match="the written parameters do not have the structure"):
        optimizer.state_dict()
    optimizer.step(ones())


def test_gradients_are_written_through():
    optimizer = stepped()
    v = optimizer.params["v"]
    optimizer.grads = ones()
    optimizer.grads["v"] = None
    optimizer.grads["w"] = optimizer.grads["w"] * 2
    assert optimizer.grads["v"] is None and optimizer.grads["w"].tolist() == [2.0] * 3
    optimizer.step()
    assert optimizer.params["v"].tolist() == v.tolist() and optimizer.state["w"]["step"] == 3


@pytest.mark.parametrize(
    "edit",
    [
        lambda groups: groups.pop(),
        lambda groups: groups.append({"params": [jnp.ones(1)]}),
        lambda groups: groups.extend([{"params": [jnp.ones(1)]}]),
        lambda groups: groups.reverse(),
        lambda groups: groups.clear(),
        lambda groups: groups.__delitem__(0),
        lambda groups: groups.__setitem__(0, {}),
        lambda groups: groups[0]["params"].append(jnp.ones(1)),
    ],
)
def test_groups_are_not_edited_as_a_list(edit):
    optimizer = optim.SGD([{"params": [jnp.ones(1)], "lr": 0.5}, {"params": [jnp.ones(1)], "lr": 0.25}], lr=0.1)
    with pytest.raises(TypeError, match=r"is not edited: add_param_group\(\) takes parameters in"):
        edit(optimizer.param_groups)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.25]
    optimizer.step([[jnp.ones(1)], [jnp.ones(1)]])
    assert [float(tree[0][0]) for tree in optimizer.params] == [0.5, 0.75]


def test_parameters_of_a_group_are_not_exchanged_in_its_dict():
    optimizer = stepped()
    own = optimizer.param_groups[0]["params"]
    for value in ([], [jnp.ones(1)]):
        optimizer.param_groups[0]["params"] = value
        with pytest.raises(TypeError, match="'params' of parameter group 0 was written to"):
            optimizer.step(ones())
        with pytest.raises(TypeError, match="'params' of parameter group 0 was written to"):
            optimizer.state_dict()
    optimizer.param_groups[0]["params"] = own
    optimizer.param_groups = list(optimizer.param_groups)
    with pytest.raises(TypeError, match="param_groups was replaced by list"):
        optimizer.step(ones())


@each_engine
def test_a_parameter_is_exchanged_with_its_state_carried_along(make):
    optimizer = stepped(make)
    before = optimizer.state["w"]["exp_avg"]
    keep = jnp.array([0, 2])
    optimizer.backward(lambda p: jnp.sum(p["w"]))
    optimizer.replace("w", optimizer.params["w"][keep], state=lambda slot: slot[keep])
    assert optimizer.state["w"]["exp_avg"].tolist() == before[keep].tolist() and optimizer.state["w"]["step"] == 2
    assert optimizer.params["w"].shape == (2,) and optimizer.grads["w"] is None
    grown = lambda slot: jnp.concatenate([slot, jnp.zeros(1)])  # noqa: E731
    optimizer.replace("w", grown(optimizer.params["w"]), state=grown)
    optimizer.step(ones())
    reference = stepped(make, steps=3)
    np.testing.assert_allclose(optimizer.params["w"][0], reference.params["w"][0], rtol=1e-6)
    np.testing.assert_allclose(optimizer.params["v"], reference.params["v"], rtol=1e-6)
    optimizer.replace("w", jnp.zeros(5), state={})
    assert not np.any(optimizer.state.get("w", {}).get("exp_avg", 0)) and optimizer.params["w"].shape == (5,)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda o: o.replace("x", jnp.ones(3)), KeyError, "the optimizer has no parameter 'x'"),
        (
            lambda o: o.replace("w", jnp.ones(4)),
            ValueError,
            r"has shape \(3,\), the new array \(4,\): say what becomes",
        ),
        (lambda o: o.replace("w", jnp.ones(3, jnp.bfloat16)), TypeError, "the parameter 'w' is float32"),
        (
            lambda o: o.replace("w", jnp.ones(4), state=lambda s: s),
            ValueError,
            "exp_avg of the parameter 'w' has shape",
        ),
        (lambda o: o.replace("w", jnp.ones(4), state=1), TypeError, "state must be None, a function or a dict"),
        (lambda o: o.reset_state(["v", "x"]), KeyError, "the optimizer has no parameter 'x'"),
    ],
)
def test_an_exchange_that_does_not_fit_changes_nothing(call, kind, message):
    optimizer = stepped()
    before = jax.tree.map(np.asarray, (optimizer.params, dict(optimizer.state)))
    with pytest.raises(kind, match=message):
        call(optimizer)
    jax.tree.map(np.testing.assert_array_equal, (optimizer.params, dict(optimizer.state)), before)


def test_lbfgs_exchanges_a_parameter_and_begins_anew():
    loss = lambda params: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))  # noqa: E731
    optimizer = optim.LBFGS(params(), max_iter=2)
    optimizer.step(loss)
    optimizer.replace("w", jnp.ones(5), state={})
    assert not optimizer.state
    optimizer.step(loss)
    assert optimizer.params["w"].shape == (5,)


def test_what_only_the_functional_face_has_is_refused_in_a_group():
    with pytest.raises(ValueError, match="'decay_mask' belongs to the functional face; here make groups"):
        optim.AdamW([{"params": params(), "decay_mask": {"v": True, "w": False}}])


@pytest.mark.parametrize("make", [composition, lambda params, lr: optim.LBFGS(params, max_iter=2)])
def test_a_slot_that_there_is_not_is_refused(make):
    optimizer = make(params(), lr=0.1)
    optimizer.step(lambda params: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)))
    with pytest.raises(KeyError, match="the state of 'v' has no slot 'note'"):
        optimizer.state["v"]["note"] = 1


def test_written_arrays_stand_where_the_parameter_stood():
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    optimizer = optim.SGD({"w": jax.device_put(jnp.ones(4), split)}, lr=0.1)
    optimizer.params["w"] = np.zeros(4, np.float32)
    assert optimizer.params["w"].sharding == split
    optimizer.replace("w", jnp.ones(8), state={})
    assert optimizer.params["w"].sharding == split
    optimizer.step({"w": jnp.ones(8)})
    assert optimizer.params["w"].sharding.is_equivalent_to(split, 1)


@pytest.mark.torch
def test_tensors_of_torch_are_written():
    torch = pytest.importorskip("torch", reason="writes a tensor of torch")
    optimizer = stepped()
    optimizer.params["w"] = torch.zeros(3)
    optimizer.grads = ones()
    optimizer.grads["v"] = torch.full((2,), 3.0)
    optimizer.state["w"]["exp_avg"] = torch.ones(3)
    assert optimizer.params["w"].tolist() == [0.0] * 3 and optimizer.grads["v"].tolist() == [3.0] * 2
    assert optimizer.state["w"]["exp_avg"].tolist() == [1.0] * 3


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam])
def test_parameters_that_were_replaced_are_kept_by_nobody(kind):
    optimizer = kind([jnp.ones(1 << 10), jnp.ones(2)], lr=0.1)
    for _ in range(2):
        optimizer.step(optimizer.params)
    old, other = (weakref.ref(leaf) for leaf in optimizer._leaves)
    optimizer.params[0] = jnp.zeros(1 << 10)
    optimizer.state_dict()
    gc.collect()
    assert old() is None and other() is not None


def test_a_shallow_copy_counts_by_itself():
    one = optim.SGD([jnp.ones(2)], lr=lambda count: 1.0 / (1 + count))
    other = copy.copy(one)
    other.step([jnp.ones(2)])
    other.add_param_group({"params": [jnp.zeros(1)]})
    one.step([jnp.ones(2)])
    assert one.params[0].tolist() == [0.0, 0.0]


def test_the_decay_of_adamw_is_coupled_once_its_option_says_so():
    """As in torch, where the option of the group decides."""
    optimizer, adam = (cls([jnp.ones(1)], lr=0.1, weight_decay=0.5) for cls in (optim.AdamW, optim.Adam))
    optimizer.param_groups[0]["decoupled_weight_decay"] = False
    for each in (optimizer, adam):
        each.step([jnp.array([0.25])])
    assert optimizer.params[0] == adam.params[0]
    optimizer.param_groups[0]["decoupled_weight_decay"] = True
    optimizer.step([jnp.array([0.25])])
    assert optimizer.params[0] < adam.params[0] - 0.1


@pytest.mark.parametrize("betas", [0.9, (0.9,), (0.9, 0.99, 0.999)])
def test_options_of_another_length_are_named(betas):
    optimizer = optim.Adam([jnp.ones(1)])
    optimizer.param_groups[0]["betas"] = betas
    with pytest.raises(TypeError, match="option 'betas' of parameter group 0 must hold 2 values, but it is"):
        optimizer.step([jnp.ones(1)])
