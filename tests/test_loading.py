"""Runs saved midway and resumed elsewhere: from torch, in torch, and by name in other groups."""

import functools
import warnings
from copy import deepcopy

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import functorch_optim as fo
from functorch_optim import optim, rows
from tests.algorithms import ALGORITHMS, oracle
from tests.equality import relative, same

CLASSES = {row.title: row.resumed for row in ALGORITHMS.values()}
CLASSES |= {"SparseAdam": {"lr": 0.1}, "LBFGS": {"lr": 0.5, "max_iter": 3, "history_size": 4}}
SHAPES = {"c": (2, 3), "a": (4,), "b": ()}
TOLERANCE = {"float64": 1e-9, "float32": 2e-5, "bfloat16": 6e-2}  # of the largest magnitude, after 20 steps


def shapes_of(name):
    return {"c": (2, 3), "a": (4, 2), "b": (2, 2)} if name in ("Muon", "SparseAdam") else SHAPES


def draw(name, seed):
    rng = np.random.default_rng(seed)
    return {key: rng.standard_normal(shape) for key, shape in shapes_of(name).items()}


def gradients(name, step):
    grads = draw(name, 100 + step)
    if step == 4 and name not in ("SparseAdam", "LBFGS"):
        grads["a"] = None  # a step without a gradient: its count lags behind
    return grads


class Torch:
    """A run in torch: an optimizer, a scheduler and an average."""

    def __init__(self, name, dtype):
        self.torch = pytest.importorskip("torch", reason="goes on from a live torch")
        self.name, self.dtype = name, getattr(self.torch, dtype)
        self.module = self.torch.nn.Module()
        for key, value in draw(name, 0).items():
            self.module.register_parameter(key, self.torch.nn.Parameter(self.torch.tensor(value).to(self.dtype)))
        self.optimizer = oracle(name)(list(self.module.named_parameters()), **CLASSES[name])
        self.scheduler = self.torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=7, gamma=0.5)
        swa = self.torch.optim.swa_utils
        self.averaged = swa.AveragedModel(self.module, multi_avg_fn=swa.get_ema_multi_avg_fn(0.9))

    def step(self, step):
        named = dict(self.module.named_parameters())
        targets = {key: self.torch.tensor(value).to(self.dtype) for key, value in draw(self.name, 7).items()}

        def closure():
            self.optimizer.zero_grad()
            loss = sum(((named[key] - targets[key]) ** 2).sum() for key in named)
            loss.backward()
            return loss

        if self.name == "LBFGS":
            self.optimizer.step(closure)
        else:
            for key, grad in gradients(self.name, step).items():
                tensor = None if grad is None else self.torch.tensor(grad).to(self.dtype)
                named[key].grad = tensor.to_sparse(1) if self.name == "SparseAdam" else tensor
            self.optimizer.step()
        self.averaged.update_parameters(self.module)
        self.scheduler.step()

    def save(self):
        return deepcopy([each.state_dict() for each in (self.optimizer, self.scheduler, self.averaged)])

    def load(self, saved, params):
        with self.torch.no_grad():
            for key, value in params.items():
                getattr(self.module, key).copy_(self.torch.tensor(value))
        as_tensors = jax.tree.map(self.tensor, saved[0]["state"], is_leaf=lambda leaf: leaf is None)
        self.optimizer.load_state_dict({**saved[0], "state": as_tensors})
        self.scheduler.load_state_dict(saved[1])
        self.averaged.load_state_dict({key: self.tensor(value) for key, value in saved[2].items()})

    def through_a_file(self, saved, path):
        self.torch.save(saved, path)
        return fo.checkpoint.load_torch(path)

    def tensor(self, leaf):
        if isinstance(leaf, self.torch.Tensor) or not hasattr(leaf, "dtype"):
            return leaf
        array = np.array(leaf)
        if array.dtype == ml_dtypes.bfloat16:
            return self.torch.from_numpy(array.view(np.int16)).view(self.torch.bfloat16)
        return self.torch.from_numpy(array)

    def values(self):
        return {key: value.detach().double().numpy() for key, value in self.module.named_parameters()}

    def averages(self):
        return {key: value.detach().double().numpy() for key, value in self.averaged.module.named_parameters()}


class Ours:
    """A run in this library, like :class:`Torch`; ``groups`` has each group's parameter names, in order."""

    def __init__(self, name, dtype, groups=(("c", "a", "b"),)):
        self.name, self.dtype, self.groups = name, dtype, groups
        start = {key: jnp.asarray(value).astype(dtype) for key, value in draw(name, 0).items()}
        params = [{"params": [(key, start[key]) for key in group]} for group in groups]
        if len(groups) == 1:
            params = params[0]["params"]
        self.optimizer = getattr(optim, name)(params, **CLASSES[name])
        self.scheduler = optim.lr_scheduler.StepLR(self.optimizer, step_size=7, gamma=0.5)
        self.averaged = optim.swa_utils.AveragedModel(start, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.9))

    def tree(self, values):
        lists = [[values[key] for key in group] for group in self.groups]
        return lists[0] if len(lists) == 1 else lists

    @property
    def params(self):
        leaves = iter(jax.tree.leaves(self.optimizer.params))
        return {key: next(leaves) for group in self.groups for key in group}

    @functools.cached_property
    def loss(self):
        targets = jax.tree.leaves(
            self.tree({key: jnp.asarray(v).astype(self.dtype) for key, v in draw(self.name, 7).items()})
        )
        return lambda params: sum(
            jnp.sum((leaf - target) ** 2) for leaf, target in zip(jax.tree.leaves(params), targets, strict=True)
        )

    def step(self, step):
        if self.name == "LBFGS":
            self.optimizer.step(self.loss)
        else:
            self.optimizer.step(self.tree({k: self.array(v) for k, v in gradients(self.name, step).items()}))
        self.averaged.update_parameters(self.params)
        self.scheduler.step()

    def array(self, grad):
        array = None if grad is None else jnp.asarray(grad).astype(self.dtype)
        return rows.make(array, jnp.arange(len(array)), array.shape) if self.name == "SparseAdam" else array

    def save(self):
        return [each.state_dict() for each in (self.optimizer, self.scheduler, self.averaged)]

    def through_a_file(self, saved, path):
        fo.checkpoint.save_torch(saved, path)
        return pytest.importorskip("torch").load(path, weights_only=True)

    def load(self, saved, params):
        values = {key: jnp.asarray(value).astype(self.dtype) for key, value in params.items()}
        self.optimizer.params = self.tree(values)
        self.not_loaded = self.optimizer.load_state_dict(saved[0])
        self.scheduler.load_state_dict(saved[1])
        self.averaged.load_state_dict(saved[2])

    def values(self):
        return {key: np.asarray(value, np.float64) for key, value in self.params.items()}

    def averages(self):
        return {key: np.asarray(value, np.float64) for key, value in self.averaged.params.items()}


def run(start, steps):
    for step in steps:
        start.step(step)
    return start


def distance(one, other):
    """Return the largest relative difference of parameters, averages and learning rates."""
    pairs = [(one.values(), other.values()), (one.averages(), other.averages())]
    errors = [relative(found[key], right[key]) for found, right in pairs for key in right]
    rates = relative(one.optimizer.param_groups[-1]["lr"], other.optimizer.param_groups[0]["lr"])
    return np.max([*errors, rates])


def moved_to(target, source, path=None):
    """Load the state of ``source`` into ``target`` and return it; with a path, through one of torch's files."""
    saved = source.save()
    target.load(saved if path is None else source.through_a_file(saved, path), source.values())
    return target


@pytest.mark.torch
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CLASSES)
def test_ten_steps_then_ten_elsewhere(name, dtype, x64, tmp_path):
    whole, parted = run(Torch(name, dtype), range(20)), run(Torch(name, dtype), range(10))
    first = run(Ours(name, dtype), range(10))
    here = moved_to(Ours(name, dtype), parted, tmp_path / "theirs.pt")
    assert not any(here.not_loaded)
    assert same(here.save(), moved_to(Ours(name, dtype), parted).save(), ordered=True)
    assert distance(run(here, range(10, 20)), whole) <= TOLERANCE[dtype]
    there = moved_to(Torch(name, dtype), first, tmp_path / "ours.pt")
    assert same(there.save(), moved_to(Torch(name, dtype), first).save(), ordered=True)
    assert distance(run(there, range(10, 20)), whole) <= TOLERANCE[dtype]
    groups = [["b", "c", "a"]] if name == "LBFGS" else [["a"], ["b", "c"]]
    other = moved_to(Ours(name, dtype, groups), first)
    assert not any(other.not_loaded)
    assert distance(run(other, range(10, 20)), whole) <= TOLERANCE[dtype]
    run(first, range(10, 20))
    if name == "LBFGS":  # it sums in another order
        assert distance(other, first) <= TOLERANCE[dtype]
    else:
        chex.assert_trees_all_equal(other.values(), first.values())


def adam(names, lr=0.1, shape=(2,), **more):
    return optim.Adam({name: jnp.ones(shape) for name in names}, lr=lr, **more)


def stepped(optimizer, times=1):
    for _ in range(times):
        optimizer.step(jax.tree.map(jnp.ones_like, optimizer.params))
    return optimizer


def test_groups_that_become_one_keep_the_later_count_of_their_schedule():
    schedule = fo.schedules.warmup_cosine(1.0, 0, 10)
    source = optim.SGD({"a": jnp.ones(2)}, lr=schedule)
    for _ in range(2):
        source.step({"a": jnp.ones(2)})
    source.add_param_group({"params": {"b": jnp.ones(2)}})
    source.step([{"a": jnp.ones(2)}, {"b": jnp.ones(2)}])
    saved = source.state_dict()
    assert [group["schedule_step"] for group in saved["param_groups"]] == [3, 1]
    target = optim.SGD({"a": jnp.ones(2), "b": jnp.ones(2)}, lr=schedule)
    with pytest.warns(UserWarning, match="the groups' options differ: the present 'lr' of group 0"):
        target.load_state_dict(saved)
    assert [group["schedule_step"] for group in target.state_dict()["param_groups"]] == [3]


def test_by_name_a_group_takes_the_options_its_parameters_had():
    source = adam(["a", "b", "c"], group_rules=[("a", {"lr": 0.5, "note": 1}), ("b", {"lr": 0.25, "note": 1})])
    stepped(source)
    target = adam(["a", "b", "c"], lr=9.0, group_rules=[("c", {}), ("b", {})])
    target.load_state_dict(source.state_dict())
    assert [(g["param_names"], g["lr"]) for g in target.param_groups] == [(["c"], 0.1), (["b"], 0.25), (["a"], 0.5)]
    one = adam(["a", "b", "c"], lr=9.0)
    with pytest.warns(
        UserWarning, match="the groups' options differ: the present 'lr' of group 0, 'note' of group 0 stay"
    ):
        one.load_state_dict(source.state_dict())
    assert (one.param_groups[0]["lr"], "note" in one.param_groups[0]) == (9.0, False)
    assert all(one.state[name]["step"] == 1 for name in "abc")


def test_a_schedules_count_comes_along_by_name():
    schedule = fo.schedules.exponential_decay(1.0, 0.5)
    source = stepped(adam(["a", "b"], lr=schedule), 3)
    target = adam(["a", "b"], lr=schedule, group_rules=[("b", {})])
    target.load_state_dict(source.state_dict())
    assert target.state_dict()["param_groups"][0]["lr"] == source.state_dict()["param_groups"][0]["lr"] == 0.125


def test_everything_that_does_not_fit_is_in_one_error():
    source, target = stepped(adam(["a", "b", "x"])), adam(["a", "c"])
    target.add_param_group({"params": {"b": jnp.ones((2, 2))}})
    before = repr(target)
    with pytest.raises(ValueError, match="the names in the state dict are not those of the optimizer") as caught:
        target.load_state_dict(source.state_dict())
    for part in (
        "missing 'c'",
        "unexpected 'x'",
        "exp_avg of the parameter 'b' has shape (2,), but it should have (2, 2)",
    ):
        assert part in str(caught.value)
    assert (repr(target), dict(target.state)) == (before, {})


def test_what_fits_is_loaded_where_that_is_asked_for():
    source, target = stepped(adam(["a", "b", "x"], lr=0.5), 3), adam(["a", "c"])
    target.add_param_group({"params": {"b": jnp.ones((2, 2))}, "lr": 0.25})
    stepped(target)
    kept = jax.tree.map(np.asarray, {name: dict(target.state[name]) for name in "bc"})
    result = target.load_state_dict(source.state_dict(), strict=False)
    assert (result.missing, result.unexpected, list(result.refused)) == (["c"], ["x"], ["b"])
    assert "exp_avg of the parameter 'b' has shape (2,)" in result.refused["b"]
    assert target.state["a"]["step"] == 3
    chex.assert_trees_all_equal({name: dict(target.state[name]) for name in "bc"}, kept)
    assert [group["lr"] for group in target.param_groups] == [0.5, 0.5]
    stepped(target)
    assert [int(target.state[name]["step"]) for name in "abc"] == [4, 2, 2]


def test_by_position_what_fits():
    source = optim.Adam([{"params": [jnp.ones(2), jnp.ones(3)]}, {"params": [jnp.ones(1)]}], lr=0.5)
    stepped(source)
    target = optim.Adam([jnp.ones(2), jnp.ones(4), jnp.ones(5)])
    result = target.load_state_dict(source.state_dict(), strict=False)
    assert (result.missing, result.unexpected, list(result.refused)) == (["2"], ["2"], ["1"])
    assert list(target.state) == [0]
    with pytest.raises(ValueError, match="loaded state dict has a different number of parameter groups"):
        target.load_state_dict(source.state_dict())


def test_precision_is_lowered_only_where_that_is_asked_for():
    names = ["a"]
    with jax.enable_x64(True):
        wide = adam(names, shape=(3,))
        wide.params = {"a": wide.params["a"]}
        double = optim.Adam({"a": jnp.ones(3, jnp.float64)})
        stepped(double)
        saved = double.state_dict()
        assert saved["state"][0]["exp_avg"].dtype == jnp.float64
    target = adam(names, shape=(3,))
    with pytest.raises(TypeError, match=r"exp_avg of the parameter 'a' is float64, but here it is kept in float32"):
        target.load_state_dict(saved)
    target.load_state_dict(saved, dtype="float32")
    assert target.state["a"]["exp_avg"].dtype == jnp.float32
    target.load_state_dict(target.state_dict(), dtype=jnp.bfloat16)
    assert target.state["a"]["exp_avg"].dtype == jnp.bfloat16
    assert target.state["a"]["step"].dtype == jnp.float32
    stepped(target)
    composed = optim.Optimizer.from_transform(lambda lr: fo.adam(lr=lr), {"a": jnp.ones(3, jnp.bfloat16)}, {"lr": 0.1})
    with pytest.raises(TypeError, match="exp_avg of the parameter 'a' is float32, but here it is kept in bfloat16"):
        composed.load_state_dict(stepped(adam(names, shape=(3,))).state_dict())
    composed.load_state_dict(stepped(adam(names, shape=(3,))).state_dict(), dtype="bfloat16")
    stepped(composed)
    complex_state = optim.Adam({"a": jnp.ones(3, jnp.complex64)})
    stepped(complex_state)
    with pytest.raises(TypeError, match="exp_avg of the parameter 'a' is complex64, but it should be float32"):
        target.load_state_dict(complex_state.state_dict())


def test_a_composition_by_name_in_other_groups():
    def make(lr):
        return fo.chain(fo.clip_by_value(1.0), fo.adam(lr=lr))

    def build(names, **more):
        return optim.Optimizer.from_transform(make, {name: jnp.ones(2) for name in names}, {"lr": 0.1}, **more)

    source = stepped(build(["a", "b"]), 2)
    target = build(["a", "b"], group_rules=[("b", {})])
    target.params = source.params
    target.load_state_dict(source.state_dict())
    chex.assert_trees_all_equal(stepped(target).params, stepped(source).params)
    grown = build(["a", "b", "c"])
    assert grown.load_state_dict(source.state_dict(), strict=False).missing == ["c"]
    assert grown.state["a"]["exp_avg"].tolist() == source.state["a"]["exp_avg"].tolist()
    assert grown.state["c"]["exp_avg"].tolist() == [0.0, 0.0]


# The three examples in torch's documentation; the hooks are verbatim.


def clone(entry):
    return {key: value.clone() if hasattr(value, "clone") else deepcopy(value) for key, value in entry.items()}


def adapted(lookup):
    def hook(optimizer, state_dict):
        result = deepcopy(optimizer.state_dict())
        for key, value in state_dict["param_groups"][0].items():
            if key not in ["params", "param_names"]:
                result["param_groups"][0][key] = value
        group = optimizer.state_dict()["param_groups"][0]
        for param_id, name in zip(group["params"], group["param_names"], strict=True):
            saved = state_dict["param_groups"][0]
            if lookup[name] in saved["param_names"]:
                number = saved["params"][saved["param_names"].index(lookup[name])]
                if number in state_dict["state"]:
                    result["state"][param_id] = clone(state_dict["state"][number])
        return result

    return hook


def names_matching(optimizer, state_dict):
    assert len(state_dict["param_groups"]) == len(optimizer.state_dict()["param_groups"])
    result = deepcopy(optimizer.state_dict())
    for index, saved in enumerate(state_dict["param_groups"]):
        group = optimizer.state_dict()["param_groups"][index]
        assert len(saved["params"]) == len(group["params"])
        for key, value in saved.items():
            if key not in ["params", "param_names"]:
                result["param_groups"][index][key] = value
        for param_id, name in zip(group["params"], group["param_names"], strict=True):
            number = saved["params"][saved["param_names"].index(name)]
            if number in state_dict["state"]:
                result["state"][param_id] = deepcopy(state_dict["state"][number])
    return result


EXAMPLES = {
    "two experts": (
        {"fc.weight": (4, 3), "fc.bias": (4,)},
        {"fc1.weight": (4, 3), "fc1.bias": (4,), "fc2.weight": (4, 3), "fc2.bias": (4,)},
        adapted({"fc1.weight": "fc.weight", "fc1.bias": "fc.bias", "fc2.weight": "fc.weight", "fc2.bias": "fc.bias"}),
    ),
    "a bypass": (
        {"fc.weight": (5, 5), "fc.bias": (5,)},
        {"fc.weight": (5, 5), "fc.bias": (5,), "bypass.weight": (5, 5)},
        adapted({"fc.weight": "fc.weight", "fc.bias": "fc.bias", "bypass.weight": None}),
    ),
    "by name": (
        {"fc.weight": (5, 5), "fc.bias": (5,)},
        {"fc.bias": (5,), "fc.weight": (5, 5)},
        names_matching,
    ),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_torchs_documentation(name, x64):
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    before, after, hook = EXAMPLES[name]

    def value(key, step):
        shape = before.get(key) or after[key]
        return np.random.default_rng([len(key), step, *shape]).standard_normal(shape)

    def ours(shapes):
        optimizer = optim.SGD([(key, jnp.asarray(value(key, 0))) for key in shapes], lr=0.01, momentum=0.9)
        return optimizer, lambda step: optimizer.step([jnp.asarray(value(key, step)) for key in shapes])

    def theirs(shapes):
        named = {key: torch.nn.Parameter(torch.tensor(value(key, 0))) for key in shapes}
        optimizer = torch.optim.SGD(named.items(), lr=0.01, momentum=0.9)

        def step(number):
            for key, parameter in named.items():
                parameter.grad = torch.tensor(value(key, number))
            optimizer.step()

        return optimizer, step

    finals = []
    for make in (ours, theirs):
        first, step = make(before)
        for number in (1, 2, 3):
            step(number)
        first.param_groups[0]["lr"] = 0.02
        second, step = make(after)
        second.register_load_state_dict_pre_hook(hook)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            second.load_state_dict(first.state_dict())
        assert second.param_groups[0]["lr"] == 0.02
        for number in (4, 5):
            step(number)
        finals.append([np.array(parameter.tolist()) for parameter in second.param_groups[0]["params"]])
    for found, right in zip(*finals, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-12)


def test_what_is_refused_leaves_all_of_a_parameters_state_in_a_composition():
    def build():
        tree = {"a": jnp.ones(2), "b": jnp.ones(2)}
        return optim.Optimizer.from_transform(lambda lr: fo.adam(lr=lr), tree, {"lr": 0.1})

    source, target = stepped(build(), 5), stepped(build())
    saved, before = source.state_dict(), jax.tree.map(np.asarray, dict(target.state))
    saved["state"][0]["exp_avg_sq"] = jnp.ones(3)
    result = target.load_state_dict(saved, strict=False)
    assert list(result.refused) == ["a"]
    slots = ("exp_avg", "exp_avg_sq")
    chex.assert_trees_all_equal({k: target.state["a"][k] for k in slots}, {k: before["a"][k] for k in slots})
    chex.assert_trees_all_equal({k: target.state["b"][k] for k in slots}, {k: source.state["b"][k] for k in slots})


def test_options_that_do_not_equal_themselves_and_arrays():
    source = stepped(adam(["a", "b"], group_rules=[("a", {"mask": np.ones(3), "note": float("nan")})]))
    source.param_groups[1]["mask"] = np.ones(2)
    split = adam(["a", "b"], group_rules=[("a", {})])
    split.load_state_dict(source.state_dict())
    assert np.isnan(split.param_groups[0]["note"])
    together = adam(["a", "b"])
    with pytest.warns(UserWarning, match="'mask' of group 0, 'note' of group 0"):
        together.load_state_dict(source.state_dict())


def entry(saved, **changes):
    return {**saved, "state": {**saved["state"], 0: {**saved["state"][0], **changes}}}


def test_counts_and_forms_that_are_none():
    optimizer = stepped(adam(["a"]))
    saved, before = optimizer.state_dict(), jax.tree.map(np.asarray, dict(optimizer.state))
    for state, message in (
        *(
            (entry(saved, step=step), "step of the parameter 'a' must be one")
            for step in (-1, 2.5, np.nan, "a", [1, 2])
        ),
        ({**saved, "state": [1]}, "the 'state' of a state_dict must be a dict by number, but it is list"),
        ({**saved, "state": {0: 3}}, "the state of number 0 must be a dict, but it is int"),
        ({**saved, "param_groups": [{}]}, "the 'param_groups' of a state_dict must be a list of dicts with the key"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(state)
        chex.assert_trees_all_equal(dict(optimizer.state), before)
    assert optimizer.load_state_dict(entry(saved, step=-1), strict=False).refused.keys() == {"a"}


BAD_OPTIONS = {
    "lr": [([1], TypeError), (-1.0, ValueError), (float("nan"), ValueError), ("a", TypeError), (None, TypeError)],
    "eps": [([1], TypeError), (-1e-8, ValueError)],
    "betas": [((0.9, 2.0), ValueError), ((0.9,), ValueError), (0.9, TypeError), ((0.9, "a"), TypeError)],
    "weight_decay": [(float("nan"), ValueError), ((0.1, 0.1), TypeError)],
}


@pytest.mark.parametrize(("option", "value", "kind"), [(o, v, k) for o, each in BAD_OPTIONS.items() for v, k in each])
def test_an_option_that_no_constructor_takes_is_not_loaded(option, value, kind):
    optimizer = stepped(optim.Adam([{"params": {"a": jnp.ones(2)}}, {"params": {"b": jnp.ones(2)}}]))
    saved = optimizer.state_dict()
    saved["param_groups"][1][option] = value
    before = jax.tree.map(np.asarray, (optimizer.state_dict(), optimizer.params))
    for strict in (True, False):
        with pytest.raises(kind, match=rf"(?s){option}.*parameter group 1"):
            optimizer.load_state_dict(saved, strict=strict)
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, (optimizer.state_dict(), optimizer.params)), before)
    stepped(optimizer)


def test_every_engine_checks_the_options_that_it_loads():
    made = optim.Optimizer.from_transform(lambda lr: fo.adam(lr=lr), {"a": jnp.ones(2)}, {"lr": 0.1})
    both = optim.MuonAdamW({"a": jnp.ones((2, 2)), "b": jnp.ones(2)})
    for optimizer in (optim.LBFGS({"a": jnp.ones(2)}), optim.BFGS({"a": jnp.ones(2)}), made, both):
        saved = optimizer.state_dict()
        saved["param_groups"][0]["lr"] = -1.0
        with pytest.raises(ValueError, match=r"-1\.0.*parameter group 0"):
            optimizer.load_state_dict(saved)
    saved = optim.LBFGS({"a": jnp.ones(2)}).state_dict()
    saved["param_groups"][0]["history_size"] = 0
    with pytest.raises(ValueError, match=r"history_size must be an integer of at least 1.*parameter group 0"):
        optim.LBFGS({"a": jnp.ones(2)}).load_state_dict(saved)


def test_options_that_a_running_group_may_have_are_loaded():
    """Edits of a running group are unchecked, as in torch, so their combinations must be resumable."""
    for name, value in (("momentum", 0.0), ("dampening", 0.5)):
        optimizer = stepped(optim.SGD({"a": jnp.ones(2)}, lr=0.1, momentum=0.9, nesterov=True))
        optimizer.param_groups[0][name] = value
        stepped(optimizer)
        other = optim.SGD({"a": jnp.ones(2)}, lr=0.1, momentum=0.9, nesterov=True)
        other.load_state_dict(optimizer.state_dict())
        assert other.param_groups[0][name] == value
    scheduled = optim.Adam({"a": jnp.ones(2)}, lr=fo.schedules.cosine_annealing(0.1, T_max=4))
    stepped(scheduled).load_state_dict(scheduled.state_dict())


def test_lists_of_numbers_have_no_precision():
    saved = stepped(adam(["a"])).state_dict()
    optimizer = adam(["a"])
    optimizer.load_state_dict(entry(saved, exp_avg=[0.5, 0.25]))
    assert optimizer.state["a"]["exp_avg"].dtype == jnp.float32
    assert optimizer.state["a"]["exp_avg"].tolist() == [0.5, 0.25]


def test_a_dtype_that_is_asked_for_is_had_or_refused():
    saved = stepped(adam(["a"])).state_dict()
    composed = optim.Optimizer.from_transform(lambda lr: fo.adam(lr=lr), {"a": jnp.ones(2)}, {"lr": 0.1})
    with pytest.raises(TypeError, match="is kept in float32 here, and cannot be cast to bfloat16"):
        composed.load_state_dict(saved, dtype="bfloat16")
    with pytest.raises(TypeError, match="dtype is float64, but 64-bit numbers are disabled"):
        adam(["a"]).load_state_dict(saved, dtype="float64")
    with pytest.raises(TypeError, match="dtype must be a floating one, but it is int32"):
        adam(["a"]).load_state_dict(saved, dtype="int32")


def test_a_group_added_later_has_the_name_it_has_at_construction():
    grown = optim.Adam({"w": jnp.ones(1)})
    grown.add_param_group({"params": {"w": jnp.ones(2)}})
    built = optim.Adam([{"params": {"w": jnp.ones(1)}}, {"params": {"w": jnp.ones(2)}}], lr=9.0)
    assert [group["param_names"] for group in built.param_groups] == [["w"], ["1.w"]]
    stepped(grown)
    built.load_state_dict(grown.state_dict())
    assert built.state["1.w"]["exp_avg"].shape == (2,)
    missing = grown.state_dict()
    del missing["param_groups"][0]["lr"]
    built.param_groups[0]["lr"] = 0.77
    built.load_state_dict(missing)
    assert built.param_groups[0]["lr"] == 0.77


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("amsgrad", [1], r"amsgrad must be a plain value, but it is \[1\], in parameter group 0"),
        ("lr", np.ones(2), "'lr' of the loaded state dict is no number"),
    ],
)
def test_a_loaded_option_of_another_kind_is_named(option, value, message):
    optimizer = optim.Adam({"a": jnp.ones(2)})
    saved = optimizer.state_dict()
    saved["param_groups"][0][option] = value
    with pytest.raises((TypeError, ValueError), match=message):
        optimizer.load_state_dict(saved)
