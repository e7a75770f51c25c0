"""The arguments of an optimizer, its groups and names, and every error at construction."""

import copy
import gc
import weakref

import equinox
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.sparse import BCOO

import functorch_optim as fo
from functorch_optim import optim
from tests.algorithms import ALGORITHMS
from tests.equality import same_trees

CLASSES = {
    "SGD": (optim.SGD, {"momentum": 0.9}),
    "Adam": (optim.Adam, {}),
    "AdamW": (optim.AdamW, {}),
}
each_class = pytest.mark.parametrize(("make", "options"), CLASSES.values(), ids=CLASSES)


def nnx_state():
    return nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Param)


def linen_params():
    return flax.linen.Dense(2).init(jax.random.key(0), jnp.ones((1, 3)))


def equinox_arrays():
    return equinox.filter(equinox.nn.MLP(3, 2, 4, 1, key=jax.random.key(0)), equinox.is_inexact_array)


def layers():
    return [{"weight": jnp.ones((2, 3)), "bias": jnp.zeros(2)}, {"weight": jnp.ones((1, 2)), "bias": jnp.zeros(1)}]


STRUCTURES = {
    "nnx": (nnx_state, ["bias", "kernel"]),
    "linen": (linen_params, ["params.bias", "params.kernel"]),
    "equinox": (equinox_arrays, ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"]),
    "layers": (layers, ["0.bias", "0.weight", "1.bias", "1.weight"]),
    "nested": (lambda: {"a": (jnp.ones(1), [jnp.ones(2)])}, ["a.0", "a.1.0"]),
}


@pytest.mark.usefixtures("standard_promotion")
@each_class
@pytest.mark.parametrize(("build", "names"), STRUCTURES.values(), ids=STRUCTURES)
def test_the_structure_that_went_in_comes_out(make, options, build, names):
    given = build()
    optimizer = make(given, lr=0.1, **options)
    for _ in range(2):
        optimizer.step(jax.tree.map(jnp.ones_like, optimizer.params))
    assert jax.tree.structure(optimizer.params) == jax.tree.structure(given)
    assert type(optimizer.params) is type(given)
    assert optimizer.param_groups[0]["param_names"] == names
    assert sorted(optimizer.state) == sorted(names)
    for before, after in zip(jax.tree.leaves(given), jax.tree.leaves(optimizer.params), strict=True):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)
        assert np.all(np.asarray(after) < np.asarray(before))
    again = copy.deepcopy(optimizer)
    assert jax.tree.structure(again.params) == jax.tree.structure(given)


@pytest.mark.usefixtures("standard_promotion")
def test_modules_train():
    """The parameters go back into their modules, as a new user would write it."""
    x, y = jnp.ones((4, 3)), jnp.zeros((4, 2))
    graph, state = nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    module = equinox.nn.Linear(3, 2, key=jax.random.key(0))
    arrays, static = equinox.partition(module, equinox.is_inexact_array)
    losses = [
        (state, lambda params: jnp.mean((nnx.merge(graph, params)(x) - y) ** 2)),
        (arrays, lambda params: jnp.mean((jax.vmap(equinox.combine(params, static))(x) - y) ** 2)),
    ]
    for params, loss in losses:
        optimizer = optim.SGD(params, lr=0.1)
        values = [float(optimizer.step(loss)) for _ in range(30)]
        assert values[-1] < 0.01 * values[0]


class Net(nnx.Module):
    """A module with every kind of variable: parameters, statistics, and a dropout's random state."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.linear, self.norm = nnx.Linear(3, 2, rngs=rngs), nnx.BatchNorm(2, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.linear(self.dropout(x)))


NAMES = ["linear.bias", "linear.kernel", "norm.bias", "norm.scale"]


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("kind", ["one", "group dict", "in a tree", "added"])
def test_a_module_of_nnx_means_its_parameters(kind):
    net, prefix = Net(), "net." if kind == "in a tree" else ""
    if kind == "added":
        optimizer = optim.AdamW({"first": jnp.ones(1)}, lr=0.1)
        optimizer.add_param_group({"params": net})
    else:
        optimizer = optim.AdamW({"one": net, "group dict": [{"params": net}], "in a tree": {"net": net}}[kind], lr=0.1)
    assert optimizer.param_groups[-1]["param_names"] == [prefix + name for name in NAMES]
    state = {"one": lambda p: p, "in a tree": lambda p: p["net"]}.get(kind, lambda p: p[-1])(optimizer.params)
    assert type(state) is nnx.State
    assert jax.tree.structure(state) == jax.tree.structure(nnx.state(net, nnx.Param))


@pytest.mark.usefixtures("standard_promotion")
def test_a_module_with_statistics_and_dropout_trains():
    x, y, net = jnp.linspace(0.0, 1.0, 12).reshape(4, 3), jnp.array([[0.0, 1.0]] * 2 + [[1.0, 0.0]] * 2), Net()
    graph, _, rest = nnx.split(net, nnx.Param, ...)

    def loss(params, rest):
        module = nnx.merge(graph, params, rest, copy=True)
        return jnp.mean((module(x) - y) ** 2), nnx.state(module, nnx.Not(nnx.Param))

    optimizer, values = optim.AdamW(net, lr=0.05), []
    for _ in range(100):
        optimizer.zero_grad()
        value, rest = optimizer.backward(loss, rest, has_aux=True)
        optimizer.step()
        values.append(float(value))
    assert np.mean(values[-10:]) < 0.7 * np.mean(values[:10])
    nnx.update(net, optimizer.params, rest)
    assert net.norm.mean[...].tolist() != [0.0, 0.0]
    assert int(net.dropout.rngs.count[...]) == 100


def linen_variables():
    return flax.linen.BatchNorm(use_running_average=False).init(jax.random.key(0), jnp.ones((2, 3)))


OTHER_KINDS = {
    "statistics": (lambda: nnx.state(nnx.BatchNorm(2, rngs=nnx.Rngs(0))), r"\(BatchStat\) in it: 'mean'.*nnx.Param\)"),
    "random keys": (
        lambda: nnx.state(Net()),
        r"\(BatchStat, RngCount, RngKey\) in it: '.*nnx.state\(model, nnx.Param\)",
    ),
    "linen": (linen_variables, r"'batch_stats' in them.*variables\[\"params\"\]"),
    "equinox": (
        lambda: equinox.nn.MLP(3, 2, 4, 1, key=jax.random.key(0)),
        r"optimizer can only optimize Tensors.*eqx.filter\(model, eqx.is_inexact_array\)",
    ),
}


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(("build", "message"), OTHER_KINDS.values(), ids=OTHER_KINDS)
def test_variables_that_are_no_parameters_are_refused(build, message):
    given, optimizer = build(), optim.SGD({"first": jnp.ones(1)}, lr=0.1)
    for make in (
        lambda: optim.AdamW(given),
        lambda: optim.AdamW([{"params": given}]),
        lambda: optim.LBFGS(given),
        lambda: optimizer.add_param_group({"params": given}),
        lambda: fo.adamw().init(given),
        lambda: fo.chain(fo.clip_by_global_norm(1.0), fo.adam(foreach=True)).init(given),
        lambda: fo.lbfgs().init(given),
    ):
        with pytest.raises(TypeError, match=message):
            make()
    assert len(optimizer.param_groups) == 1


@pytest.mark.usefixtures("standard_promotion")
def test_statistics_that_a_mask_leaves_out_are_no_harm():
    state = nnx.state(nnx.BatchNorm(2, rngs=nnx.Rngs(0)))
    tx = fo.masked(fo.adam(), lambda path: path in ("scale", "bias"))
    assert len(jax.tree.leaves(tx.init(state))) == 5  # two moments for two parameters, and a step


def test_flat_lists_and_iterables_have_no_names():
    arrays = [jnp.ones(2), jnp.ones(3)]
    for given in (arrays, tuple(arrays), iter(arrays), (array for array in arrays), {"a": arrays[0]}.values()):
        optimizer = optim.SGD(given, lr=1.0, momentum=0.5)
        assert "param_names" not in optimizer.param_groups[0]
        assert isinstance(optimizer.params, tuple if isinstance(given, tuple) else list)
        optimizer.step(jax.tree.map(jnp.ones_like, optimizer.params))
        assert list(optimizer.state) == list(range(len(optimizer.params)))


def test_named_pairs_give_names_and_a_list():
    for given in ([("w", jnp.ones(2)), ("b", jnp.ones(1))], {"w": jnp.ones(2), "b": jnp.ones(1)}.items()):
        optimizer = optim.SGD(given, lr=1.0, momentum=0.5)
        assert optimizer.param_groups[0]["param_names"] == ["w", "b"]
        optimizer.step([jnp.ones(2), None])
        assert list(optimizer.state) == ["w"]
        assert [leaf.tolist() for leaf in optimizer.params] == [[0.0, 0.0], [1.0]]


def test_group_dicts_have_their_own_options_and_keep_other_keys():
    w, b = jnp.ones(2), jnp.ones(1)
    groups = [{"params": [w], "name": "decay", "lr_scale": 2}, {"lr": 0.5, "params": (array for array in [b])}]
    optimizer = optim.SGD(groups, lr=0.25)
    keys = ["momentum", "dampening", "weight_decay", "nesterov", "maximize", "foreach", "differentiable", "fused"]
    assert list(optimizer.param_groups[0]) == ["params", "name", "lr_scale", "lr", *keys]
    assert set(groups[0]) == {"params", "name", "lr_scale"}  # the user's dicts are not modified
    assert [leaf.tolist() for leaf in optimizer.param_groups[0]["params"]] == [[1.0, 1.0]]
    optimizer.step([[jnp.ones(2)], [jnp.ones(1)]])
    assert [leaf.tolist() for leaf in jax.tree.leaves(optimizer.params)] == [[0.75, 0.75], [0.5]]
    assert optimizer.param_groups[1]["params"][-1].tolist() == [0.5]
    assert len(optimizer.param_groups[0]["params"]) == 1
    assert optim.SGD([{"params": []}, {"params": w}]).params[1][0].shape == (2,)


def test_names_that_two_groups_share_get_the_groups_number():
    tree = lambda: {"kernel": jnp.ones(1), "bias": jnp.ones(1)}  # noqa: E731 a helper of one line
    optimizer = optim.SGD([{"params": tree()}, {"params": tree(), "lr": 0.5}], lr=1.0)
    assert optimizer.param_groups[1]["param_names"] == ["1.bias", "1.kernel"]
    apart = optim.SGD([{"params": {"a": jnp.ones(1)}}, {"params": [("b", jnp.ones(1))]}], lr=1.0)
    assert [group["param_names"] for group in apart.param_groups] == [["a"], ["b"]]


def test_group_rules_make_groups_of_one_tree():
    tree = {"dense": {"kernel": jnp.ones(2), "bias": jnp.ones(1)}, "norm": {"scale": jnp.ones(3)}}
    rules = [("bias", {"weight_decay": 0.0}), ("norm|bias", {"lr": 0.5, "name": "norms"})]
    optimizer = optim.SGD(tree, lr=0.25, weight_decay=1.0, group_rules=rules)
    assert [group["param_names"] for group in optimizer.param_groups] == [
        ["dense.bias"],
        ["norm.scale"],
        ["dense.kernel"],
    ]
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.5, 0.25]
    optimizer.step(jax.tree.map(jnp.zeros_like, tree))
    assert jax.tree.structure(optimizer.params) == jax.tree.structure(tree)
    assert optimizer.params["dense"]["bias"].tolist() == [1.0]
    assert optimizer.params["dense"]["kernel"].tolist() == [0.75, 0.75]
    assert optimizer.params["norm"]["scale"].tolist() == [0.5, 0.5, 0.5]
    whole = optim.SGD(tree, group_rules=[("", {})])
    assert len(whole.param_groups) == 1


def test_the_keys_of_a_group_are_torchs_in_torchs_order():
    adam = ["params", "lr", "betas", "eps", "weight_decay", "amsgrad", "maximize", "foreach", "capturable"]
    adam += ["differentiable", "fused", "decoupled_weight_decay"]
    assert list(optim.Adam([jnp.ones(1)]).param_groups[0]) == adam
    assert list(optim.AdamW([jnp.ones(1)]).param_groups[0]) == adam
    named = list(optim.AdamW({"w": jnp.ones(1)}).param_groups[0])
    assert named == ["params", "param_names", *adam[1:]]
    assert optim.AdamW([jnp.ones(1)]).param_groups[0]["decoupled_weight_decay"] is True
    assert optim.AdamW([jnp.ones(1)]).defaults["weight_decay"] == 1e-2


CONSTRUCTOR_ERRORS = [
    *[(getattr(optim, row.title), *each) for row in ALGORITHMS.values() for each in row.refused],
    (optim.SGD, {"lr": jnp.ones(2)}, "Tensor lr must be 1-element"),
    *[
        (cls, options, message)
        for cls in (optim.Adam, optim.AdamW)
        for options, message in [
            ({"lr": jnp.ones(2)}, "Tensor lr must be 1-element"),
            ({"lr": jnp.ones(()), "foreach": True}, "lr as a Tensor is not supported for capturable=False and foreach"),
            ({"betas": (jnp.float32(0.9), 0.999)}, "betas must be either both floats or both Tensors"),
            (
                {"betas": (jnp.float32(0.9), jnp.float32(0.99)), "foreach": True},
                r"betas\[0\] as a Tensor is not supported for capturable=False and foreach=True",
            ),
        ]
    ],
]


@pytest.mark.parametrize(("cls", "options", "message"), CONSTRUCTOR_ERRORS)
def test_torchs_constructor_checks(cls, options, message):
    """With torch's messages, and before looking at params."""
    for params in ([jnp.ones(1)], None):
        with pytest.raises(ValueError, match=message):
            cls(params, **options)


def test_an_array_of_several_betas():
    with pytest.raises(ValueError, match=r"Tensor betas\[0\] must be 1-element"):
        optim.Adam([jnp.ones(1)], betas=(jnp.full(2, 0.9), jnp.full(2, 0.9)))


NUMBERS = {row.title: row.exact for row in ALGORITHMS.values() if row.exact}
NUMBERS["SparseAdam"] = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8}
SCALARS = {
    "NumPy": np.float32,
    "an array of NumPy": lambda v: np.asarray(v, np.float32),
    "an array of JAX": lambda v: jnp.asarray(v, jnp.float32),
    "one element": lambda v: jnp.full(1, v, jnp.float32),
}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("scalar", SCALARS.values(), ids=SCALARS)
def test_options_may_be_scalars_of_any_kind(name, scalar):
    assert not not_taken(name, scalar)


@pytest.mark.parametrize("scalar", [np.int32, jnp.int32], ids=["numpy", "jax"])
def test_flags_and_counts_may_be_scalars_of_any_kind(scalar):
    """In a group and in the constructor; a ``state_dict`` has Python's numbers, as torch's must."""
    truth = np.bool_ if scalar is np.int32 else jnp.bool_
    muon, adam = optim.Muon({"w": jnp.ones((2, 2))}), optim.Adam({"w": jnp.ones(2)})
    muon.param_groups[0]["ns_steps"] = scalar(3)
    adam.param_groups[0]["amsgrad"] = truth(True)
    lbfgs = optim.LBFGS({"w": jnp.ones(2)}, max_iter=scalar(2), history_size=scalar(4))
    muon.step({"w": jnp.ones((2, 2))})
    adam.step({"w": jnp.ones(2)})
    lbfgs.step(lambda params: jnp.sum(params["w"] ** 2))
    assert "max_exp_avg_sq" in adam.state["w"]
    for optimizer, name, value in (
        (muon, "ns_steps", 3),
        (adam, "amsgrad", True),
        (lbfgs, "max_iter", 2),
        (lbfgs, "history_size", 4),
    ):
        found = optimizer.state_dict()["param_groups"][0][name]
        assert found == value and type(found) is type(value)


@pytest.mark.torch
@pytest.mark.parametrize("name", NUMBERS)
def test_options_may_be_tensors_of_torch(name):
    torch, cls = pytest.importorskip("torch", reason="tensors of torch as options"), getattr(optim, name)
    assert not not_taken(name, torch.tensor)
    assert not not_taken(name, lambda value: torch.tensor([value]))
    with pytest.raises(ValueError, match=r"Tensor lr must be 1-element, but it has shape \(2,\)"):
        cls([jnp.ones(1)], lr=torch.ones(2))
    optimizer = cls([jnp.ones(1)])
    optimizer.param_groups[0]["lr"] = torch.tensor(0.25)
    assert optimizer.state_dict()["param_groups"][0]["lr"] == 0.25


def not_taken(name, scalar):
    """Return the options that, given as scalars of some type, are not saved as the same numbers."""
    cls, wrong = getattr(optim, name), set()
    for option, value in NUMBERS[name].items():
        given = tuple(map(scalar, value)) if isinstance(value, tuple) else scalar(value)
        saved = cls([jnp.ones(1)], **{option: given}).state_dict()["param_groups"][0][option]
        wrong |= set() if np.allclose(saved, value, rtol=1e-6, atol=0) else {option}
    return wrong


@pytest.mark.torch
@pytest.mark.parametrize("cls", ["Adam", "AdamW"])
def test_tensors_as_betas_have_torchs_rules(cls):
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    one = torch.tensor(0.9)
    for options, message in (
        ({"betas": (one, 0.999)}, "betas must be either both floats or both Tensors"),
        ({"betas": (0.9, one)}, "betas must be either both floats or both Tensors"),
        ({"betas": (one, one), "foreach": True}, r"betas\[0\] as a Tensor is not supported for capturable=False and"),
        ({"lr": one, "foreach": True}, "lr as a Tensor is not supported for capturable=False and foreach=True"),
        ({"lr": -one}, "Invalid learning rate: -0.8999"),
    ):
        for make, params in ((getattr(torch.optim, cls), torch.nn.Parameter(torch.ones(1))), (None, jnp.ones(1))):
            with pytest.raises(ValueError, match=message):
                (make or getattr(optim, cls))([params], **options)
    both = getattr(optim, cls)([jnp.ones(1)], betas=torch.tensor([0.5, 0.75]))
    assert both.state_dict()["param_groups"][0]["betas"] == (0.5, 0.75)


def pair_of_names():
    return [("w", jnp.ones(1)), ("w", jnp.ones(1))]


SHARED = jnp.ones(2)
PARAMS_ERRORS = {
    "empty list": (list, ValueError, "optimizer got an empty parameter list"),
    "empty dict": (dict, ValueError, "optimizer got an empty parameter list"),
    "empty generator": (lambda: iter(()), ValueError, "optimizer got an empty parameter list"),
    "an array": (
        lambda: jnp.ones(2),
        TypeError,
        "params argument given to the optimizer should be an iterable of Tensors or dicts, but got ",
    ),
    "None": (lambda: None, TypeError, "params argument given to the optimizer .* but got NoneType"),
    "a string": (lambda: "weights", TypeError, "params argument given to the optimizer .* but got str"),
    "a number": (lambda: 3, TypeError, "params argument given to the optimizer .* but got int"),
    "a set in a group": (
        lambda: [{"params": {1.0}}],
        TypeError,
        "optimizer parameters need to be organized in ordered collections",
    ),
    "no array": (lambda: [jnp.ones(1), "b"], TypeError, "optimizer can only optimize Tensors.* is str.*'1'"),
    "integers": (lambda: {"n": jnp.arange(3)}, TypeError, "'n' has dtype int32"),
    "twice in a list": (
        lambda: [SHARED, SHARED],
        ValueError,
        "optimizer contains a parameter group with duplicate parameters",
    ),
    "in two groups": (
        lambda: [{"params": [SHARED]}, {"params": {"w": SHARED}["w"]}],
        ValueError,
        "some parameters appear in more than one parameter group",
    ),
    "some names": (
        lambda: [("w", jnp.ones(1)), jnp.ones(1)],
        ValueError,
        "all optimizer params should be with/without names. Some param names are missing",
    ),
    "a named and an unnamed group": (
        lambda: [{"params": [("w", jnp.ones(1))]}, {"params": [jnp.ones(1)]}],
        ValueError,
        "all optimizer param groups should be with/without names. cannot add param group without names",
    ),
    "an unnamed and a named group": (
        lambda: [{"params": [jnp.ones(1)]}, {"params": [("w", jnp.ones(1))]}],
        ValueError,
        "all optimizer param groups should be with/without names. cannot add param group with names",
    ),
    "a name twice": (pair_of_names, ValueError, "several parameters have the name 'w'"),
    "a misspelt option": (
        lambda: [{"params": [jnp.ones(1)], "weight_decy": 0.1}],
        ValueError,
        "parameter group 0: 'weight_decy' is no option of this optimizer; did you mean 'weight_decay'",
    ),
    "another library's option": (
        lambda: [{"params": [jnp.ones(1)], "learning_rate": 0.1}],
        ValueError,
        "did you mean 'lr'",
    ),
    "a bad option in a group": (
        lambda: [{"params": [jnp.ones(1)]}, {"params": [jnp.ones(1)], "lr": -1.0}],
        ValueError,
        "Invalid learning rate: -1.0.*in parameter group 1",
    ),
}


@each_class
@pytest.mark.parametrize(("build", "error", "message"), PARAMS_ERRORS.values(), ids=PARAMS_ERRORS)
def test_bad_params(make, options, build, error, message):
    with pytest.raises(error, match=message):
        make(build(), lr=0.1, **options)


def test_equal_objects_in_one_tree_are_separate_parameters():
    zeros = jnp.zeros(2)
    optimizer = optim.SGD({"a": zeros, "b": zeros}, lr=1.0)
    optimizer.step({"a": jnp.ones(2), "b": jnp.zeros(2)})
    assert [leaf.tolist() for leaf in optimizer.params.values()] == [[-1.0, -1.0], [0.0, 0.0]]
    assert zeros.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        ([("bais", {})], ValueError, r"group rule 0 \('bais'\) matches no parameter.*the names are bias, kernel"),
        ([("bias", {}), ("^bias$", {})], ValueError, r"group rule 1 .* that the rules before it left"),
        ([("bias", {"momentun": 0.9})], ValueError, r"group rule 0 .*did you mean 'momentum'"),
        ([("bias", {"params": []})], ValueError, r"group rule 0 .*'params' belongs to group dicts"),
        ([("bias", {"lr": -1})], ValueError, r"Invalid learning rate: -1.*in parameter group 0"),
    ],
)
def test_bad_group_rules(rules, error, message):
    with pytest.raises(error, match=message):
        optim.SGD({"bias": jnp.ones(1), "kernel": jnp.ones(1)}, group_rules=rules)


def test_group_rules_need_names_and_one_tree():
    with pytest.raises(ValueError, match="group_rules need parameters with names"):
        optim.SGD([jnp.ones(1)], group_rules=[("0", {})])
    with pytest.raises(ValueError, match="give them, or group dicts, not both"):
        optim.SGD([{"params": [jnp.ones(1)]}], group_rules=[("0", {})])


def sparse():
    return BCOO.fromdense(jnp.ones((2, 3)))


GRADIENT_ERRORS = {
    "a missing key": (lambda: {"w": jnp.ones((2, 3))}, ValueError, "missing 'b'"),
    "another key": (lambda: {"w": jnp.ones((2, 3)), "c": jnp.ones(3)}, ValueError, "missing 'b'; unexpected 'c'"),
    "a list": (lambda: [jnp.ones((2, 3)), jnp.ones(3)], ValueError, "gradients do not have the structure"),
    "another shape": (lambda: {"w": jnp.ones((2, 3)), "b": jnp.ones(1)}, ValueError, r"'b' has shape \(1,\)"),
    "integers": (lambda: {"w": jnp.ones((2, 3)), "b": jnp.arange(3)}, TypeError, "'b' has dtype int32"),
    "complex": (lambda: {"w": jnp.ones((2, 3)), "b": jnp.ones(3) * 1j}, TypeError, "'b' is complex64"),
    "a number": (lambda: {"w": jnp.ones((2, 3)), "b": 1.0}, TypeError, "'b' is not an array but float"),
    "a string": (lambda: {"w": jnp.ones((2, 3)), "b": "x"}, TypeError, "'b' is not an array but str"),
    "sparse": (lambda: {"w": sparse(), "b": None}, RuntimeError, "supports? sparse gradients.*'w'"),
}


def snapshot(optimizer):
    return jax.tree.map(np.array, (optimizer.params, dict(optimizer.state))), repr(optimizer), optimizer.grads


def unchanged(optimizer, before):
    after = snapshot(optimizer)
    return same_trees(after[0], before[0]) and after[1:] == before[1:]


@pytest.mark.usefixtures("standard_promotion")
@each_class
@pytest.mark.parametrize(("build", "error", "message"), GRADIENT_ERRORS.values(), ids=GRADIENT_ERRORS)
def test_bad_gradients_change_nothing(make, options, build, error, message):
    optimizer = make({"w": jnp.ones((2, 3)), "b": jnp.ones(3)}, lr=0.1, **options)
    good = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    optimizer.step(good)
    before = snapshot(optimizer)
    with pytest.raises(error, match=message):
        optimizer.step(build())
    with pytest.raises(error, match=message):
        optimizer.grads = build()
    assert unchanged(optimizer, before)
    optimizer.step(good)


@each_class
def test_bad_options_in_a_group_change_nothing(make, options):
    optimizer = make({"w": jnp.ones(3)}, lr=0.1, **options)
    optimizer.step({"w": jnp.ones(3)})
    group = optimizer.param_groups[0]
    for value, error, message in [
        ("fast", TypeError, "option 'lr' of parameter group 0 must be a number, but it is 'fast'"),
        (None, TypeError, "option 'lr' of parameter group 0 must be a number"),
        (jnp.ones(2), ValueError, "option 'lr' of parameter group 0"),
        (lambda step: jnp.ones(2), ValueError, "option 'lr' of parameter group 0"),
    ]:
        group["lr"] = value
        before = snapshot(optimizer)
        with pytest.raises(error, match=message):
            optimizer.step({"w": jnp.ones(3)})
        assert unchanged(optimizer, before)
    del group["lr"]
    with pytest.raises(KeyError, match="'lr' is missing from parameter group 0"):
        optimizer.step({"w": jnp.ones(3)})
    group["lr"] = 0.1
    optimizer.step({"w": jnp.ones(3)})


def test_a_step_inside_a_traced_function_is_refused():
    optimizer = optim.SGD({"w": jnp.ones(3)}, lr=0.1)
    optimizer.step({"w": jnp.ones(3)})
    with pytest.raises(RuntimeError, match=r"inside one, use functional\(\)"):
        jax.jit(lambda grads: optimizer.step(grads))({"w": jnp.ones(3)})
    optimizer.step({"w": jnp.ones(3)})
    assert optimizer.params["w"].tolist() == pytest.approx([0.8] * 3)


def test_new_values_for_the_parameters():
    """The counterpart of ``p.data.clamp_`` in torch."""
    optimizer = optim.SGD({"w": jnp.array([-3.0, 0.5])}, lr=0.1)
    optimizer.params = jax.tree.map(lambda p: jnp.clip(p, -1, 1), optimizer.params)
    assert optimizer.params["w"].tolist() == [-1.0, 0.5]
    for bad, error in [
        ({"w": jnp.ones(3)}, ValueError),
        ({"w": jnp.ones(2, jnp.bfloat16)}, TypeError),
        ({"w": None}, TypeError),
        ({"v": jnp.ones(2)}, ValueError),
    ]:
        with pytest.raises(error):
            optimizer.params = bad
    assert optimizer.params["w"].tolist() == [-1.0, 0.5]


@pytest.mark.torch
@pytest.mark.parametrize("name", sorted(row.title for row in ALGORITHMS.values() if row.is_in_torch))
def test_groups_and_state_have_torchs_keys_in_torchs_order(name):
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    tensor = torch.nn.Parameter(torch.ones(2, 3))
    theirs, ours = getattr(torch.optim, name)([tensor]), getattr(optim, name)([jnp.ones((2, 3))])
    for _ in range(2):
        saved, right = ours.state_dict(), theirs.state_dict()
        assert saved["param_groups"] == right["param_groups"]
        assert [list(group) for group in saved["param_groups"]] == [list(group) for group in right["param_groups"]]
        assert list(saved["state"]) == list(right["state"])
        for index, entry in right["state"].items():
            assert list(saved["state"][index]) == list(entry)
            for key, value in entry.items():
                assert saved["state"][index][key].shape == tuple(value.shape), key
                assert str(value.dtype) == f"torch.{saved['state'][index][key].dtype}"
                np.testing.assert_allclose(saved["state"][index][key], value.numpy(), rtol=1e-6, err_msg=key)
        assert list(ours.defaults) == list(theirs.defaults)
        tensor.grad = torch.full((2, 3), 0.5)
        theirs.step()
        ours.step([jnp.full((2, 3), 0.5)])


@pytest.mark.torch
def test_torch_is_asked_for_the_same_errors():
    torch = pytest.importorskip("torch", reason="compares the first words with a live torch's")
    for cls, options, message in CONSTRUCTOR_ERRORS:
        if not hasattr(torch.optim, cls.__name__):
            continue
        given = {
            key: torch.tensor(np.array(value)) if isinstance(value, jax.Array) else value
            for key, value in options.items()
        }
        if "betas" in given:
            given["betas"] = tuple(
                torch.tensor(np.array(beta)) if isinstance(beta, jax.Array) else beta for beta in given["betas"]
            )
        with pytest.raises(ValueError, match=message):
            getattr(torch.optim, cls.__name__)([torch.nn.Parameter(torch.ones(1))], **given)


@pytest.mark.usefixtures("standard_promotion")
def test_a_module_of_gradients_may_have_none_in_it():
    module = equinox.filter(equinox.nn.Linear(3, 2, key=jax.random.key(0)), equinox.is_inexact_array)
    optimizer = optim.SGD(module, lr=1.0)
    grads = equinox.tree_at(lambda m: m.bias, jax.tree.map(jnp.ones_like, module), None)
    optimizer.step(grads)
    np.testing.assert_array_equal(optimizer.params.bias, module.bias)
    np.testing.assert_allclose(optimizer.params.weight, module.weight - 1.0, rtol=1e-6)


def test_two_leaves_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"several parameters have the name 'a\.b'"):
        optim.SGD({"a": {"b": jnp.ones(1)}, "a.b": jnp.ones(1)})


def test_nesterov_means_nothing_while_the_momentum_is_zero():
    optimizer = optim.SGD([jnp.ones(1)], lr=0.5, momentum=0.9, nesterov=True)
    optimizer.param_groups[0]["momentum"] = 0
    optimizer.step([jnp.ones(1)])
    assert optimizer.params[0].item() == 0.5


def test_traced_values_are_refused():
    optimizer = optim.SGD({"w": jnp.ones(2)}, lr=0.5)
    with pytest.raises(RuntimeError, match="outside of a traced function"):
        jax.jit(lambda x: setattr(optimizer, "params", {"w": x}))(jnp.zeros(2))
    assert optimizer.params["w"].tolist() == [1.0, 1.0]


def test_the_arrays_go_with_the_optimizer():
    optimizer = optim.SGD({"w": jnp.ones(2)}, lr=0.5)
    seen = weakref.ref(optimizer)
    gc.disable()
    try:
        del optimizer
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", ["a list", "an array of NumPy", "an int", "a schedule"])
def test_what_changes_in_a_group_reaches_the_next_step(kind):
    """Even if the value in the group is the same object as before."""
    optimizer = optim.SGD([jnp.ones(1)], lr=0.5) if kind != "a list" else optim.Adam([jnp.ones(1)], lr=0.5)
    group, calls = optimizer.param_groups[0], []
    if kind == "a list":
        group["betas"] = [0.5, 0.9]
    else:
        first = {"an array of NumPy": np.array(0.5), "an int": 2, "a schedule": lambda step: calls.append(step) or 0.5}
        group["lr"] = first[kind]
    optimizer.step([jnp.ones(1)])
    before = optimizer.params[0].item()
    if kind == "a list":
        group["betas"][0] = 0.0
    elif kind == "an array of NumPy":
        group["lr"] *= 2
    elif kind == "an int":
        group["lr"] = 1
    optimizer.step([-jnp.ones(1)])
    moved = optimizer.params[0].item() - before
    np.testing.assert_allclose(
        moved, {"a list": 0.5, "an array of NumPy": 1.0, "an int": 1.0, "a schedule": 0.5}[kind], rtol=1e-6
    )
    assert calls == ([0, 1] if kind == "a schedule" else [])
