"""Which parameters a transformation is for: trees, paths, regular expressions and rules; factors by path and depth."""

import pickle
import re
import warnings

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import FrozenDict

import functorch_optim as fo
from functorch_optim import optim

PARAMS = {"body": [{"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))}, {"bias": jnp.ones(3)}], "head": jnp.ones(1)}
BIAS = {"body": [{"bias": True, "kernel": False}, {"bias": True}], "head": False}
GRADS = jax.tree.map(lambda p: 2.0 * p, PARAMS)
MEMBERS = {"plain": fo.sgd(lr=0.5), "rest": fo.sgd(lr=1.0)}


def one(tx, grads=GRADS, params=PARAMS):
    return tx.update(grads, tx.init(params), params)[0]


def same_updates(tx, other, grads=GRADS, params=PARAMS):
    chex.assert_trees_all_equal(one(tx, grads, params), one(other, grads, params))


WRAPPERS = {
    "masked": lambda mask: fo.masked(fo.scale(0.0), mask),
    "freeze": lambda mask: fo.freeze(fo.sgd(lr=1.0), mask),
    "selective": lambda mask: fo.selective(fo.sgd(lr=1.0), mask),
    "decay_mask": lambda mask: fo.sgd(lr=1.0, weight_decay=0.5, decay_mask=mask),
    "decay_mask, packed": lambda mask: fo.sgd(lr=1.0, momentum=0.9, weight_decay=0.5, decay_mask=mask, foreach=True),
    "add_decayed_weights": lambda mask: fo.add_decayed_weights(0.5, mask),
    "partition": lambda mask: fo.partition({True: fo.sgd(lr=1.0), False: fo.sgd(lr=0.5)}, mask),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_regular_expression_is_true_where_it_is_found(wrap):
    for pattern in ("bias", r"\.bias$", "BIAS"):
        flags = re.IGNORECASE if pattern.isupper() else 0
        tx = wrap(re.compile(pattern, flags))
        same_updates(tx, wrap(BIAS))
        same_updates(tx, wrap(lambda path: path.endswith("bias")))
        assert pickle.loads(pickle.dumps(tx)) == tx == wrap(re.compile(pattern, flags)) != wrap(re.compile("x"))
        assert hash(tx) == hash(wrap(re.compile(pattern, flags)))
        assert f"re.compile({pattern!r}" in repr(tx)
    assert any(np.any(x != y) for x, y in zip(*map(jax.tree.leaves, (one(wrap(BIAS)), one(wrap(True)))), strict=True))


class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(2, 3, rngs=rngs)
        self.rest = nnx.List([nnx.Linear(3, 3, rngs=rngs), nnx.Linear(3, 1, rngs=rngs)])


def nnx_trees():
    state = nnx.state(Net(nnx.Rngs(0)), nnx.Param)
    return {"variables": state, "values": nnx.as_pure(state), "dict": nnx.to_pure_dict(state)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("kind", ["variables", "values", "dict"])
def test_masks_of_flaxs_states_and_dicts_fit_each_other(wrap, kind):
    params = nnx_trees()[kind]
    names = jax.tree_util.tree_leaves_with_path(params)
    by_path = wrap(lambda path: path.endswith("bias"))
    assert len(names) == 6
    for mask in nnx_trees().values():
        bias = jax.tree_util.tree_map_with_path(lambda path, _: "bias" in jax.tree_util.keystr(path), mask)
        same_updates(wrap(bias), by_path, params, params)
        assert wrap(bias) == wrap(nnx_trees_of(bias)) == pickle.loads(pickle.dumps(wrap(bias)))
    of_one = {"first": True, "rest": {0: {"bias": False, "kernel": True}, 1: False}}
    same_updates(wrap(of_one), wrap(lambda path: path.startswith("first") or path == "rest.0.kernel"), params, params)
    same_updates(wrap(nnx.State(of_one)), wrap(of_one), params, params)


def nnx_trees_of(mask):
    return mask if isinstance(mask, dict) else nnx.to_pure_dict(mask)


def test_frozen_dicts_and_dicts_fit_each_other():
    frozen, plain = FrozenDict(PARAMS), FrozenDict(BIAS)
    assert isinstance(frozen["body"], list)
    for wrap in WRAPPERS.values():
        for params, mask in ((frozen, BIAS), (PARAMS, plain), (frozen, plain)):
            grads = jax.tree.map(lambda p: 2.0 * p, params)
            same_updates(wrap(mask), wrap(re.compile("bias")), grads, params)
            assert type(one(wrap(mask), grads, params)) is type(params)
    with pytest.raises(ValueError, match="the labels do not have the structure of the parameters"):
        fo.masked(fo.sgd(), FrozenDict({"body": True})).init(PARAMS)


def test_the_first_rule_that_is_found_decides():
    rules = [(r"1\.bias", "rest"), (re.compile("BIAS", re.IGNORECASE), "plain"), ("", "rest")]
    tx = fo.partition(MEMBERS, rules)
    by_tree = {"body": [{"bias": "plain", "kernel": "rest"}, "rest"], "head": "rest"}
    same_updates(tx, fo.partition(MEMBERS, by_tree))
    assert pickle.loads(pickle.dumps(tx)) == tx == fo.partition(MEMBERS, list(rules)) != fo.partition(MEMBERS, by_tree)
    assert repr(rules) in repr(tx)
    jax.jit(lambda grads: one(tx, grads))(GRADS)


def test_every_parameter_must_be_covered():
    tx = fo.partition(MEMBERS, [("bias", "plain")])
    with pytest.raises(
        ValueError, match=r"partition: no rule is found in 'body\.0\.kernel', 'head'\. .* one that .*: \(\"\", \.\.\.\)"
    ):
        tx.init(PARAMS)
    many = {f"w{index}": jnp.ones(1) for index in range(100)}
    with pytest.raises(ValueError, match=r"'w0', .* and 80 more\. Add rules"):
        fo.partition(MEMBERS, [("x", "plain")]).init({**many, "x": jnp.ones(1)})
    fo.partition(MEMBERS, [("bias", "plain")]).init({"bias": jnp.ones(1), "activation": None})  # no parameter


def test_a_rule_that_is_found_nowhere_is_refused():
    with pytest.raises(ValueError, match=r"the rule for 'baises' is found in no parameter: .* are 'body\.0\.bias', "):
        fo.partition(MEMBERS, [("baises", "plain"), ("", "rest")]).init(PARAMS)
    fo.partition(MEMBERS, [("bias|kernel|head", "plain"), ("bias", "rest"), ("", "rest")]).init(PARAMS)  # catch-all
    frozen = fo.freeze(fo.partition(MEMBERS, [("head", "plain"), ("", "rest")]), re.compile("head"))
    assert one(frozen)["head"].item() == 0.0  # it is there, though not for the partition


def test_rules_that_are_none():
    with pytest.raises(ValueError, match=r"partition: 'bias\(' is not a regular expression: missing \)"):
        fo.partition(MEMBERS, [("bias(", "plain")])
    with pytest.raises(
        ValueError, match=r"the parameter 'body\.0\.kernel' has the label 'rst', which is none of 'plain', 'rest'"
    ):
        fo.partition(MEMBERS, [("bias", "plain"), ("", "rst")]).init(PARAMS)
    with pytest.raises(TypeError, match=r"a regular expression must be compiled: re\.compile\('bias'\)"):
        fo.masked(fo.sgd(), "bias")


def test_a_tree_of_labels_that_could_be_rules_is_a_tree_where_it_fits():
    params = [(jnp.ones(1), jnp.ones(2)), (jnp.ones(3), jnp.ones(4))]
    labels = [("plain", "rest"), ("rest", "plain")]
    moved = one(fo.partition(MEMBERS, labels), params, params)
    assert [leaf[0].item() for leaf in jax.tree.leaves(moved)] == [-0.5, -1.0, -1.0, -0.5]
    as_rules = fo.partition(MEMBERS, [("plain", "plain"), ("rest", "rest")])
    named = {"plain": jnp.ones(1), "rest": jnp.ones(1)}
    assert {name: leaf.item() for name, leaf in one(as_rules, named, named).items()} == {"plain": -0.5, "rest": -1.0}
    by_position = fo.partition(MEMBERS, [(r"^0\.", "plain"), (r"^1\.", "rest")])
    assert [leaf[0].item() for leaf in jax.tree.leaves(one(by_position, params, params))] == [-0.5, -0.5, -1.0, -1.0]


def test_selective_is_the_complement_of_freeze():
    poison = {**GRADS, "head": jnp.full(1, jnp.nan)}
    inner = fo.chain(fo.clip_by_global_norm(1.0), fo.adamw(lr=0.1, weight_decay=0.5))
    for mask, frozen in (
        (re.compile("body"), re.compile("head")),
        ({"body": True, "head": False}, lambda p: p == "head"),
    ):
        same_updates(fo.selective(inner, mask), fo.freeze(inner, frozen), poison)
    state = fo.selective(inner, re.compile("body")).init(PARAMS)
    assert fo.find_state(state, fo.AdamState).exp_avg["head"] is None
    assert repr(fo.selective(fo.scale(2.0), True)) == "selective(scale(factor=2.0), True)"
    with pytest.raises(TypeError, match="selective: a mask is a tree of booleans"):
        fo.selective(inner, {"body": 1})
    with pytest.raises(ValueError, match="a chain of two algorithms would ascend"):
        fo.chain(fo.selective(fo.sgd(), True), fo.sgd())


def test_scale_by_path_multiplies_by_the_first_factor_found():
    schedule = fo.schedules.linear(1.0, 1.0, 0.0, total_iters=2)
    tx = fo.scale_by_path([(r"1\.bias", 3.0), ("bias", schedule), (re.compile("KERNEL", re.I), jnp.array(-1.0))], 0.25)
    state, found = tx.init(PARAMS), []
    for _ in range(3):
        updates, state = jax.jit(tx.update)(GRADS, state)
        found.append([leaf.ravel()[0].item() for leaf in jax.tree.leaves(updates)])
    assert found == [[2.0, -2.0, 6.0, 0.5], [1.0, -2.0, 6.0, 0.5], [0.0, -2.0, 6.0, 0.5]]
    assert state == fo.StepState(3)
    now = fo.current_hyperparams(tx, tx.init(PARAMS))
    wanted = {r"1\.bias": 3.0, "bias": 1.0, "KERNEL": -1.0, "default": 0.25}
    assert {name: float(value) for name, value in now.items()} == wanted
    assert fo.scale_by_path([("x", 1)]) == fo.scale_by_path([("x", 1.0)]) != fo.scale_by_path([("x", 1.0)], 2.0)
    assert repr(fo.scale_by_path([("x", 1)])) == "scale_by_path([('x', 1.0)], default=1.0)"
    assert one(fo.scale_by_path([], 0.5))["head"].item() == 1.0


def test_factors_are_data():
    @jax.jit
    def step(factor, grads):
        return one(fo.chain(fo.sgd(lr=1.0), fo.scale_by_path([("head", factor)])), grads)["head"]

    assert [step(factor, GRADS).item() for factor in (0.5, 2.0)] == [-1.0, -4.0] and step._cache_size() == 1


def test_a_narrow_and_a_complex_update_keep_their_dtype():
    grads = {
        "a": jnp.full(2, 3.0, jnp.bfloat16),
        "b": jnp.array([1 + 2j]),
        "c": None,
        "d": np.zeros(1, jax.dtypes.float0),
    }
    for tx in (fo.scale_by_path([("", 0.5)]), fo.layerwise_decay(0.5, [("a|b|d", 0), ("c", 1)])):
        updates = tx.update(grads, tx.init(grads))[0]
        assert (updates["a"].dtype, updates["a"].tolist()) == (jnp.bfloat16, [1.5, 1.5])
        assert updates["b"].tolist() == [0.5 + 1j] and updates["c"] is None and updates["d"] is grads["d"]


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: fo.scale_by_path([("a[", 1.0)]), ValueError, r"scale_by_path: 'a\[' is not a regular expression"),
        (lambda: fo.scale_by_path([("a", "b")]), TypeError, "the factor of 'a' must be a number, an array of one elem"),
        (lambda: fo.scale_by_path({"a": 1.0}), TypeError, r"a list of pairs \(regular expression, factor\), but they"),
        (lambda: fo.scale_by_path([("a", 1.0, 2.0)]), TypeError, "a list of pairs"),
        (lambda: fo.scale_by_path([], None), TypeError, "default must be a number"),
        (lambda: fo.layerwise_decay(1.5, len), ValueError, r"must be in \(0, 1\], but it is 1.5 \(option 'decay'\)"),
        (lambda: fo.layerwise_decay(0.0, len), ValueError, r"must be in \(0, 1\], but it is 0.0"),
        (lambda: fo.layerwise_decay(0.5, "layer"), ValueError, "'layer' must have one group, .* but it has 0"),
        (lambda: fo.layerwise_decay(0.5, r"(a)(\d)"), ValueError, r"must have one group, .* but it has 2"),
        (lambda: fo.layerwise_decay(0.5, [(r"(a)(\d)", 1)]), ValueError, "must have one group, .* but it has 2"),
        (lambda: fo.layerwise_decay(0.5, [("a", -1)]), TypeError, "the depth of the rule 'a' must be an integer of at"),
        (lambda: fo.layerwise_decay(0.5, 3), TypeError, "depth is a function of the path, a regular expression with"),
    ],
)
def test_bad_factors_and_depths(build, error, message):
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize(
    ("tx", "error", "message"),
    [
        (fo.scale_by_path([("haed", 2.0)]), ValueError, "scale_by_path: the rule for 'haed' is found in no parameter"),
        (fo.layerwise_decay(0.5, r"(\d)"), ValueError, r"layerwise_decay: no rule is found in 'head'\. Add rules"),
        (fo.layerwise_decay(0.5, [("x", 0), ("", 1)]), ValueError, "the rule for 'x' is found in no parameter"),
        (fo.layerwise_decay(0.5, r"(\w+)"), TypeError, r"the depth of the parameter 'body\.0\.bias' must be .* 'body'"),
        (fo.layerwise_decay(0.5, lambda path: None), TypeError, r"the parameter 'body\.0\.bias' must be an integer"),
        (fo.layerwise_decay(0.5, lambda path: -1), TypeError, "must be an integer of at least 0, but it is -1"),
    ],
)
def test_factors_and_depths_that_do_not_fit_the_parameters(tx, error, message):
    with pytest.raises(error, match=message):
        tx.init(PARAMS)


def transformer(layers):
    block = {"attention": jnp.ones((2, 2)), "mlp": {"kernel": jnp.ones((2, 2))}}
    return {"blocks": [block] * layers, "embed": jnp.ones((3, 2)), "head": jnp.ones((2, 3)), "norm": jnp.ones(2)}


def depth(path):
    """The depth in a transformer of 12 blocks."""
    if path.startswith("embed"):
        return 0
    return int(path.split(".")[1]) + 1 if path.startswith("blocks") else 13


@pytest.mark.parametrize("how", [depth, [("embed", 0), (r"blocks\.(\d+)", 1), ("norm|head", 13)]])
def test_layers_of_a_transformer_learn_the_more_slowly_the_lower_they_are(how):
    params = transformer(12)
    tx = fo.chain(fo.scale_by_learning_rate(1.0), fo.layerwise_decay(0.75, how))
    updates = one(tx, params, params)
    found = {jax.tree_util.keystr(path): leaf.ravel()[0] for path, leaf in jax.tree_util.tree_leaves_with_path(updates)}
    wanted = {"['embed']": -(0.75**13), "['norm']": -1.0, "['head']": -1.0}
    for index in range(12):
        for name in ("['attention']", "['mlp']['kernel']"):
            wanted[f"['blocks'][{index}]{name}"] = -(0.75 ** (12 - index))
    assert found.keys() == wanted.keys()
    np.testing.assert_allclose([found[name] for name in wanted], list(wanted.values()), rtol=1e-6)


def test_a_regular_expression_has_the_depth_in_its_group():
    params = {"layers": [jnp.ones(1)] * 11}
    tx = fo.layerwise_decay(0.5, re.compile(r"layers\.(\d+)"))
    assert [leaf.item() for leaf in one(tx, params, params)["layers"]] == [0.5 ** (10 - index) for index in range(11)]
    assert pickle.loads(pickle.dumps(tx)) == tx
    assert "decay=0.5" in repr(tx) and r"layers\\.(\\d+)" in repr(tx)


def test_depths_are_those_of_the_whole_tree_inside_a_selection():
    """What a part does not see counts for the depth of the others."""
    inner = fo.chain(fo.sgd(lr=1.0), fo.layerwise_decay(0.5, [("body", 0), ("head", 1)]))
    for tx in (fo.freeze(inner, re.compile("head")), fo.partition({True: inner, False: fo.sgd()}, re.compile("body"))):
        assert one(tx)["body"][0]["bias"].tolist() == [-1.0, -1.0]


def test_a_decay_by_a_schedule_and_inside_jit():
    tx = fo.layerwise_decay(fo.schedules.linear(0.5, 1.0, 2.0, total_iters=1), [("body", 0), ("head", 2)])
    state, found = tx.init(PARAMS), []
    for _ in range(2):
        updates, state = jax.jit(tx.update)(GRADS, state)
        found.append(updates["body"][0]["bias"][0].item())
    assert found == [0.5, 2.0]
    assert float(fo.current_hyperparams(tx, state)["decay"]) == 1.0
    traced = jax.jit(lambda decay: one(fo.layerwise_decay(decay, [("body", 0), ("head", 2)])))(0.5)
    assert traced["body"][1]["bias"].tolist() == [0.5] * 3


def test_layerwise_decay_multiplies_the_rate_of_an_algorithm():
    rules = [("body", 0), ("head", 1)]
    layered = fo.chain(fo.adamw(lr=0.1, weight_decay=0.5), fo.layerwise_decay(0.5, rules))
    between = fo.chain(
        *(fo.scale_by_adam(), fo.add_decayed_weights(0.5), fo.layerwise_decay(0.5, rules)),
        fo.scale_by_learning_rate(0.1),
    )
    apart = fo.partition(
        {"body": fo.adamw(lr=0.05, weight_decay=0.5), "head": fo.adamw(lr=0.1, weight_decay=0.5)},
        {"body": "body", "head": "head"},
    )
    for tx in (layered, between):
        chex.assert_trees_all_close(one(tx), one(apart), rtol=1e-6)


def test_equinox_modules_and_the_torch_face():
    class Mlp(eqx.Module):
        layers: list
        scale: jax.Array
        activation: object = jax.nn.relu

    keys = jax.random.split(jax.random.key(0))
    model = eqx.filter(Mlp([eqx.nn.Linear(2, 2, key=key) for key in keys], jnp.ones(())), eqx.is_inexact_array)
    tx = fo.chain(
        fo.partition({"plain": fo.sgd(lr=0.5), "rest": fo.sgd(lr=1.0)}, [("bias", "plain"), ("layers|scale", "rest")]),
        fo.layerwise_decay(0.5, [(r"layers\.(\d)", 0), ("scale", 2)]),
    )
    grads = jax.tree.map(jnp.ones_like, model)
    updates = one(tx, grads, model)
    assert updates.layers[0].bias.tolist() == [-0.125] * 2 and updates.layers[1].weight.tolist() == [[-0.5] * 2] * 2
    optimizer = optim.Optimizer.from_transform(
        lambda lr: fo.selective(fo.sgd(lr=lr), re.compile("^body")), PARAMS, {"lr": 1.0}
    )
    optimizer.step(GRADS)
    assert optimizer.params["head"].item() == 1.0 and optimizer.params["body"][1]["bias"].tolist() == [-1.0] * 3


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_function_of_the_tree_is_told_that_it_gets_a_path(name):
    told = r"gets the dotted path of each one\. At the parameter 'body\.0\.bias' it raised"
    with pytest.raises(TypeError, match=told) as found:
        one(WRAPPERS[name](lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)))
    assert "AttributeError: 'str' object has no attribute 'ndim'" in str(found.value)
    assert str(found.value).endswith("pass function(params)") and isinstance(found.value.__cause__, AttributeError)


@pytest.mark.parametrize("name", [name for name in WRAPPERS if name != "partition"])
def test_a_mask_that_selects_nothing_is_no_secret(name):
    wrap = WRAPPERS[name]
    who = "masked" if name == "add_decayed_weights" else name.partition(",")[0]
    with pytest.warns(UserWarning, match=rf"{who}: the mask .* is True at no parameter.*'body\.0\.bias'") as found:
        state = wrap(lambda path: "gamma" in path).init(PARAMS)
    assert [warning.filename for warning in found] == [__file__]
    with pytest.warns(UserWarning, match=rf"{who}: the mask re.compile\('gamma'\) is True at no parameter"):
        wrap(re.compile("gamma")).init(PARAMS)
    labels = jax.tree.map(lambda is_bias: "b" if is_bias else "rest", BIAS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrap(lambda path: "gamma" in path).update(GRADS, state, PARAMS)  # told once, by init
        wrap(jax.tree.map(lambda _: False, PARAMS)).init(PARAMS)  # written out: meant
        wrap(lambda path: "gamma" in path).init({})
        elsewhere = fo.partition(
            {"b": wrap(lambda path: "head" in path), "rest": fo.sgd()}, [("bias", "b"), ("", "rest")]
        )
        elsewhere.init(PARAMS)  # the mask has what another member gets
        by_optax = optax.multi_transform({"b": wrap(lambda path: "head" in path), "rest": optax.sgd(1.0)}, labels)
        by_optax.init(PARAMS)
        wrap(lambda path: "gamma" in path).init(jax.tree.map(lambda _: None, PARAMS))


def test_a_mask_of_groups_may_be_true_in_one_of_them():
    def make(lr):
        return fo.adamw(lr=lr, decay_mask=lambda path: "b" not in path)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        groups = [{"params": {"w": jnp.ones(2)}}, {"params": {"b": jnp.ones(2)}, "lr": 0.2}]
        optimizer = optim.Optimizer.from_transform(make, groups, {"lr": 0.1})
        optimizer.step([{"w": jnp.ones(2)}, {"b": jnp.ones(2)}])
        fo.adamw(weight_decay=0.0, decay_mask=lambda path: False).init({"w": jnp.ones(2)})
