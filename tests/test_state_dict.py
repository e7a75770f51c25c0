"""state_dict in torch's layout, to a real torch optimizer and back, and what is rejected."""

import copy

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import functorch_optim as fo
from functorch_optim import optim
from tests.algorithms import ALGORITHMS, oracle

CLASSES = {ALGORITHMS[name].title: ALGORITHMS[name].resumed for name in ("sgd", "adam", "adamw")}
SHAPES = [(2, 3), (3,), ()]
each_class = pytest.mark.parametrize("name", CLASSES)


def arrays(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape), dtype) for shape in SHAPES]


def to_torch(tree):
    """Return our state_dict with torch tensors."""
    import torch

    def tensor(leaf):
        array = np.array(leaf)
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    state = {index: {key: tensor(value) for key, value in entry.items()} for index, entry in tree["state"].items()}
    return {**tree, "state": state}


class Pair:
    """The same optimizer here and in torch, on the same parameters in two groups."""

    def __init__(self, name, kind="float64"):
        torch = pytest.importorskip("torch", reason="crosses to a real torch optimizer and back")
        self.kind, self.torch, self.name = getattr(torch, kind), torch, name
        self.tensors = [torch.nn.Parameter(torch.tensor(array).to(self.kind)) for array in arrays(0)]
        groups = [{"params": self.tensors[:1]}, {"params": self.tensors[1:], "weight_decay": 0.2}]
        self.theirs = oracle(name)(groups, **CLASSES[name])
        self.ours = self.fresh()

    def fresh(self):
        leaves = [jnp.asarray(tensor.detach().double().numpy()).astype(str(self.kind)[6:]) for tensor in self.tensors]
        groups = [{"params": leaves[:1]}, {"params": leaves[1:], "weight_decay": 0.2}]
        return getattr(optim, self.name)(groups, **CLASSES[self.name])

    def grads(self, seed):
        values = [None if seed == 1 and index == 1 else array for index, array in enumerate(arrays(10 + seed))]
        ours = [None if value is None else jnp.asarray(value).astype(str(self.kind)[6:]) for value in values]
        return values, [ours[:1], ours[1:]]

    def step_theirs(self, seed):
        for tensor, value in zip(self.tensors, self.grads(seed)[0], strict=True):
            tensor.grad = None if value is None else self.torch.tensor(value).to(self.kind)
        self.theirs.step()

    def error(self):
        """Return the largest difference of the parameters, relative for those above one."""
        pairs = zip(jax.tree.leaves(self.ours.params), self.tensors, strict=True)
        pairs = [(np.asarray(ours, np.float64), theirs.detach().double().numpy()) for ours, theirs in pairs]
        return np.max([np.max(np.abs(ours - right) / (1 + np.abs(right))) for ours, right in pairs])


@pytest.mark.torch
@each_class
@pytest.mark.parametrize(("kind", "rtol"), [("float64", 1e-12), ("float32", 2e-6), ("bfloat16", 3e-2)])
def test_across_and_back_in_mid_training(name, kind, rtol, x64):
    """Three steps here, three in torch from our state, three here again; torch runs all nine in parallel."""
    pair = Pair(name, kind)
    for seed in range(3):
        pair.step_theirs(seed)
        pair.ours.step(pair.grads(seed)[1])
    assert pair.error() <= rtol
    pair.theirs.load_state_dict(to_torch(pair.ours.state_dict()))
    with pair.torch.no_grad():
        for tensor, leaf in zip(pair.tensors, jax.tree.leaves(pair.ours.params), strict=True):
            tensor.copy_(pair.torch.tensor(np.asarray(leaf, np.float64)))
    for seed in range(3, 6):
        pair.step_theirs(seed)
        pair.ours.step(pair.grads(seed)[1])
    assert pair.error() <= rtol
    pair.ours = pair.fresh()
    pair.ours.load_state_dict(pair.theirs.state_dict())
    for seed in range(6, 9):
        pair.step_theirs(seed)
        pair.ours.step(pair.grads(seed)[1])
    assert pair.error() <= rtol


@pytest.mark.torch
@each_class
def test_layout_keys_and_dtypes_are_torchs(name):
    pair = Pair(name, "float32")
    for seed in (1,):  # the second parameter has no gradient: no entry
        pair.step_theirs(seed)
        pair.ours.step(pair.grads(seed)[1])
    ours, theirs = pair.ours.state_dict(), pair.theirs.state_dict()
    assert list(ours) == list(theirs)
    assert [list(group) for group in ours["param_groups"]] == [list(group) for group in theirs["param_groups"]]
    assert ours["param_groups"] == theirs["param_groups"]
    assert list(ours["state"]) == list(theirs["state"]) == [0, 2]
    for index, entry in theirs["state"].items():
        assert list(ours["state"][index]) == list(entry)
        for key, tensor in entry.items():
            assert str(tensor.dtype) == f"torch.{ours['state'][index][key].dtype}"
            assert tuple(tensor.shape) == ours["state"][index][key].shape


def test_sgd_without_momentum_has_no_state():
    optimizer = optim.SGD({"w": jnp.ones(2)}, lr=0.1)
    optimizer.step({"w": jnp.ones(2)})
    assert optimizer.state_dict()["state"] == {}
    assert dict(optimizer.state) == {}
    optimizer.load_state_dict(optimizer.state_dict())


def trained(name="Adam", steps=2, **options):
    optimizer = getattr(optim, name)({"a": jnp.ones(2), "b": jnp.ones((2, 2))}, **{**CLASSES[name], **options})
    for step in range(steps):
        optimizer.step({"a": jnp.full(2, 1.0 + step), "b": jnp.ones((2, 2)) if step else None})
    return optimizer


def rename(state_dict, names):
    groups = [{**group, "param_names": names} for group in state_dict["param_groups"]]
    return {**state_dict, "param_groups": groups}


@each_class
def test_by_name_in_any_order(name):
    source = trained(name)
    saved = source.state_dict()
    turned = {
        "state": {1 - index: entry for index, entry in saved["state"].items()},
        "param_groups": [{**saved["param_groups"][0], "param_names": ["b", "a"]}],
    }
    fresh = trained(name, steps=0)
    fresh.load_state_dict(turned)
    for key in ("a", "b"):
        jax.tree.map(np.testing.assert_array_equal, fresh.state[key], source.state[key])
    assert fresh.param_groups[0]["param_names"] == ["a", "b"]


def test_by_position_warns_where_there_are_names_unless_asked_for():
    saved = trained().state_dict()
    unnamed = {
        **saved,
        "param_groups": [{k: v for k, v in g.items() if k != "param_names"} for g in saved["param_groups"]],
    }
    fresh = trained(steps=0)
    with pytest.warns(UserWarning, match=r"were given to the parameters in their order: a, b"):
        fresh.load_state_dict(unnamed)
    fresh.load_state_dict(unnamed, match="position")
    fresh.load_state_dict(rename(saved, ["x", "y"]), match="position")
    assert fresh.state["a"]["step"] == 2
    assert fresh.param_groups[0]["param_names"] == ["a", "b"]


def test_a_loaded_state_is_nobody_elses():
    source, twin = trained(), trained(steps=0)
    saved = source.state_dict()
    kept = jax.tree.map(np.array, saved["state"])
    twin.params = source.params
    twin.load_state_dict(saved)
    saved["param_groups"][0]["lr"] = 100.0
    saved["state"][0].clear()
    for _ in range(3):
        twin.step({"a": jnp.ones(2), "b": jnp.ones((2, 2))})
        source.step({"a": jnp.ones(2), "b": jnp.ones((2, 2))})
    jax.tree.map(np.testing.assert_array_equal, dict(twin.state), dict(source.state))
    np.testing.assert_array_equal(saved["state"][1]["exp_avg"], kept[1]["exp_avg"])


def test_json_turned_keys_and_lists():
    """Numbers become strings, betas lists, and entries nested lists, which the user turns back into arrays."""
    saved = trained().state_dict()
    state = {str(index): jax.tree.map(np.asarray, entry) for index, entry in saved["state"].items()}
    groups = [{**group, "betas": list(group["betas"])} for group in saved["param_groups"]]
    twin, source = trained(steps=0), trained()
    twin.params = source.params
    twin.load_state_dict({"state": state, "param_groups": groups})
    for optimizer in (twin, source):
        optimizer.step({"a": jnp.ones(2), "b": jnp.ones((2, 2))})
    jax.tree.map(np.testing.assert_array_equal, twin.params, source.params)


def test_options_come_with_the_state_and_missing_ones_stay():
    saved = trained(lr=0.25).state_dict()
    saved["param_groups"][0]["note"] = "mine"
    del saved["param_groups"][0]["maximize"]
    twin = trained(steps=0)
    group = twin.param_groups[0]
    twin.load_state_dict(saved)
    assert twin.param_groups[0] is group
    assert (group["lr"], group["note"], group["maximize"]) == (0.25, "mine", False)
    assert len(group["params"]) == 2


def test_adam_becomes_decoupled_with_an_adamw_state_and_adamw_stays_so():
    """As in torch, the flag comes with the group; AdamW sets it again."""
    adam, adamw = trained(steps=0, amsgrad=False), trained("AdamW", steps=0)
    saved = adam.state_dict()
    adam.load_state_dict(trained("AdamW").state_dict())
    adamw.load_state_dict(saved)
    assert adam.param_groups[0]["decoupled_weight_decay"] is True
    assert adamw.param_groups[0]["decoupled_weight_decay"] is True
    reference = trained("AdamW")
    adam.params = reference.params
    for optimizer in (adam, reference):
        optimizer.step({"a": jnp.ones(2), "b": jnp.ones((2, 2))})
    jax.tree.map(np.testing.assert_array_equal, adam.params, reference.params)


def edited(edit):
    saved = copy.deepcopy(trained().state_dict())
    edit(saved)
    return saved


LOAD_ERRORS = {
    "no state_dict": (lambda: {"lr": 1}, ValueError, "a state_dict is a mapping with the keys"),
    "another number of groups": (
        lambda: edited(lambda d: d["param_groups"].append({"params": d["param_groups"][0].pop("param_names")})),
        ValueError,
        "loaded state dict has a different number of parameter groups",
    ),
    "a name twice": (
        lambda: edited(lambda d: d["param_groups"].append(d["param_groups"][0])),
        ValueError,
        "several parameters of the loaded state dict have the name a, b",
    ),
    "another number of parameters": (
        lambda: edited(lambda d: d["param_groups"][0].update(params=[0])),
        ValueError,
        "loaded state dict contains a parameter group that doesn't match the size of optimizer's group",
    ),
    "other names": (lambda: rename(trained().state_dict(), ["a", "c"]), ValueError, "missing 'b'; unexpected 'c'"),
    "another shape": (
        lambda: edited(lambda d: d["state"][0].update(exp_avg=np.ones(3, np.float32))),
        ValueError,
        r"exp_avg of the parameter 'a' has shape \(3,\), but it should have \(2,\)",
    ),
    "another algorithm": (
        lambda: {**trained().state_dict(), "state": {0: {"step": 1.0, "square_avg": np.ones(2, np.float32)}}},
        KeyError,
        "the state of the parameter 'a' is not one of Adam: it has step, square_avg",
    ),
    "no step": (lambda: edited(lambda d: d["state"][0].pop("step")), KeyError, "is not one of Adam"),
    "no number": (
        lambda: edited(lambda d: d["param_groups"][0].update(lr="high")),
        TypeError,
        "option 'lr' of parameter group 0 must be a number",
    ),
}


@pytest.mark.parametrize(("build", "error", "message"), LOAD_ERRORS.values(), ids=LOAD_ERRORS)
def test_what_does_not_fit_is_refused_and_changes_nothing(build, error, message):
    optimizer = trained()
    before = jax.tree.map(np.array, (optimizer.params, dict(optimizer.state))), repr(optimizer)
    with pytest.raises(error, match=message):
        optimizer.load_state_dict(build())
    jax.tree.map(np.testing.assert_array_equal, (optimizer.params, dict(optimizer.state)), before[0])
    assert repr(optimizer) == before[1]
    optimizer.step({"a": jnp.ones(2), "b": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match="match must be None, 'name' or 'position'"):
        optimizer.load_state_dict(optimizer.state_dict(), match="path")


def test_slots_keep_the_wider_precision_they_were_saved_in():
    """torch casts them to the parameter's dtype; float32 moments of bfloat16 parameters stay float32 here."""
    optimizer = optim.Adam({"w": jnp.ones(3, jnp.bfloat16)}, lr=0.1)
    wide = {"step": np.float32(2), "exp_avg": np.full(3, 1e-3, np.float32), "exp_avg_sq": np.ones(3, np.float32)}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: wide}})
    optimizer.step({"w": jnp.ones(3, jnp.bfloat16)})
    assert optimizer.state["w"]["exp_avg"].dtype == jnp.float32
    assert optimizer.params["w"].dtype == jnp.bfloat16


@each_class
def test_functional_and_back_is_the_same_trajectory(name):
    """Ten steps of a functional loop in the middle match ten steps of the optimizer."""
    grads = {"a": jnp.ones(2), "b": jnp.full((2, 2), -0.5)}
    whole, parted = trained(name), trained(name)
    tx, params, state = parted.functional()

    def body(carry, _):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return (fo.apply_updates(params, updates), state), None

    (params, state), _ = jax.jit(lambda carry: jax.lax.scan(body, carry, length=10))((params, state))
    parted.restore(params, state)
    for _ in range(10):
        whole.step(grads)
    for _ in range(3):
        whole.step(grads)
        parted.step(grads)
    for ours, right in zip(*map(jax.tree.leaves, (parted.params, whole.params)), strict=True):
        np.testing.assert_allclose(ours, right, rtol=1e-5)
    assert {k: v.get("step") for k, v in parted.state.items()} == {k: v.get("step") for k, v in whole.state.items()}


def test_functional_forms():
    one = optim.Adam({"w": jnp.ones(2)}, lr=0.25)
    tx, _, state = one.functional()
    assert tx == fo.adam(lr=0.25)
    assert jax.tree.structure(state) == jax.tree.structure(tx.init({"w": jnp.ones(2)}))
    tree = {"bias": jnp.ones(1), "kernel": jnp.ones(2)}
    two = optim.AdamW(tree, lr=0.1, group_rules=[("bias", {"weight_decay": 0.0})])
    tx, params, state = two.functional()
    assert repr(tx).startswith("partition({'group0': adam(")
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))
    lists = optim.SGD([{"params": [jnp.ones(1)]}, {"params": [jnp.ones(2)], "lr": 0.5}], momentum=0.9)
    tx, params, state = lists.functional()
    updates, state = tx.update(params, state, params)
    lists.restore(fo.apply_updates(params, updates), state)
    assert lists.params[1][0].tolist() == [0.5, 0.5]
    assert lists.state[1]["momentum_buffer"].tolist() == [1.0, 1.0]
    half = optim.Adam([{"params": []}, {"params": [jnp.ones(1)]}], lr=0.25)
    half.restore(*half.functional()[1:])


def test_a_schedule_goes_along_at_its_count():
    schedule = fo.schedules.cosine_annealing(1.0, T_max=20)
    optimizer = optim.Adam({"a": jnp.ones(1), "b": jnp.ones(1)}, lr=schedule)
    optimizer.step({"a": jnp.ones(1), "b": None})
    optimizer.step({"a": jnp.ones(1), "b": jnp.ones(1)})
    tx, params, state = optimizer.functional()  # a has had two updates, b one; the schedule is at two
    rates = [values["lr"] for values in fo.current_hyperparams(tx, state).values()]
    assert [float(rate) for rate in rates] == pytest.approx([schedule(2), schedule(2)])
    updates, state = tx.update(params, state, params)
    optimizer.restore(fo.apply_updates(params, updates), state)
    assert optimizer.state_dict()["param_groups"][0]["schedule_step"] == 3


def test_restore_refuses_what_does_not_fit():
    optimizer = trained()
    _, params, state = optimizer.functional()
    before = jax.tree.map(np.array, (optimizer.params, dict(optimizer.state)))
    for bad_params, bad_state, error in [
        ({"a": params["a"]}, state, ValueError),
        ({**params, "a": jnp.ones(3)}, state, ValueError),
        (jax.tree.map(lambda p: p.astype(jnp.bfloat16), params), state, TypeError),
        (params, fo.sgd(momentum=0.9).init(params), ValueError),
        (params, fo.adam().init(params)._replace(step=jnp.int32(1)), KeyError),  # no max_exp_avg_sq
    ]:
        with pytest.raises(error):
            optimizer.restore(bad_params, bad_state)
        jax.tree.map(np.testing.assert_array_equal, (optimizer.params, dict(optimizer.state)), before)
    optimizer.restore(params, state)


def test_donated_parameters_are_asked_back():
    optimizer = optim.SGD({"w": jnp.ones(3)}, lr=0.1)
    _, params, state = optimizer.functional()
    step = jax.jit(lambda params, state: (params, state), donate_argnums=(0, 1))
    params, state = step(params, state)
    with pytest.raises(RuntimeError, match=r"'w' was donated to another function.*restore\(params, state\)"):
        optimizer.step({"w": jnp.ones(3)})
    optimizer.restore(params, state)
    optimizer.step({"w": jnp.ones(3)})


def test_options_follow_the_names_of_their_group():
    """With groups in another order, each group's options stay with its parameters."""

    def make(order):
        groups = {"bias": {"params": [("bias", jnp.ones(1))], "weight_decay": 0.0}}
        groups["kernel"] = {"params": [("kernel", jnp.ones(1))], "weight_decay": 0.5}
        return optim.SGD([groups[name] for name in order], lr=0.1, momentum=0.9)

    one, other = make(["bias", "kernel"]), make(["kernel", "bias"])
    one.step([[jnp.ones(1)], [jnp.full(1, 2.0)]])
    other.load_state_dict(one.state_dict())
    assert [group["weight_decay"] for group in other.param_groups] == [0.5, 0.0]
    assert other.state["kernel"]["momentum_buffer"].item() == 2.5


def test_what_is_no_option_is_kept_as_it_is():
    """A function among the user's own keys is not a schedule."""
    calls = []
    optimizer = optim.SGD([{"params": [jnp.ones(1)], "hook": calls.append}], lr=0.1)
    saved = optimizer.state_dict()["param_groups"][0]
    assert "schedule_step" not in saved
    assert callable(saved["hook"])
    assert not calls


def test_slots_go_to_their_parameters_devices():
    mesh = jax.make_mesh((2,), ("x",))
    split = jax.NamedSharding(mesh, jax.P("x"))
    source = optim.Adam({"w": jnp.ones((4, 2))}, lr=0.1)
    source.step({"w": jnp.ones((4, 2))})
    target = optim.Adam({"w": jax.device_put(jnp.ones((4, 2)), split)}, lr=0.1)
    target.load_state_dict(source.state_dict())
    assert target.state["w"]["exp_avg"].sharding.is_equivalent_to(split, 2)
    target.step({"w": jax.device_put(jnp.ones((4, 2)), split)})


def test_momentum_switched_on_and_off_around_functional():
    """A late buffer starts undamped in the functional loop too; an idle one comes back from it."""
    optimizer = optim.SGD([jnp.zeros(1)], lr=1.0, dampening=0.5)
    optimizer.step([jnp.ones(1)])
    optimizer.param_groups[0]["momentum"] = 0.5
    tx, params, state = optimizer.functional()
    updates, state = tx.update([jnp.ones(1)], state, params)
    optimizer.restore(fo.apply_updates(params, updates), state)
    assert optimizer.params[0].item() == -2.0
    assert optimizer.state[0]["momentum_buffer"].item() == 1.0
    optimizer.param_groups[0]["momentum"] = 0
    optimizer.restore(*optimizer.functional()[1:])
    assert optimizer.state[0]["momentum_buffer"].item() == 1.0
