"""chain, named_chain, partition, masked and find_state: what each leaf gets, and the errors."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import functorch_optim as fo
from functorch_optim import optim

PARAMS = {"layer": {"bias": jnp.ones(3), "kernel": jnp.full((2, 3), 2.0)}, "scale": jnp.ones(())}
GRADS = jax.tree.map(lambda x: 0.5 * x, PARAMS)


def one(tx, grads=GRADS, params=PARAMS):
    return tx.update(grads, tx.init(params), params)[0]


def test_chain_applies_in_order():
    tx = fo.chain(fo.scale(4.0), fo.clip_by_value(1.0), fo.scale(0.5))
    chex.assert_trees_all_equal(one(tx), jax.tree.map(lambda x: 0.5 * jnp.minimum(2.0 * x, 1.0), PARAMS))


def test_chain_gives_extra_keywords_to_every_link():
    seen = []
    spy = fo.GradientTransformation(
        lambda params: fo.EmptyState(), lambda u, s, p=None, **extra: (seen.append(extra["value"]), (u, s))[1]
    )
    tx = fo.chain(spy, fo.chain(spy), fo.masked(spy, True), fo.accumulate(spy, 1))
    tx.update(GRADS, tx.init(PARAMS), PARAMS, value=3.0)
    assert set(seen) == {3.0}
    assert len(seen) >= 4


def test_chain_takes_optax_transformations(standard_promotion):
    ours = one(fo.chain(fo.clip_by_value(0.2), fo.sgd(lr=0.1)))
    mixed = one(fo.chain(optax.clip(0.2), optax.sgd(0.1)))
    chex.assert_trees_all_close(ours, mixed)


@pytest.mark.parametrize(
    ("tx", "state"),
    [
        (fo.adam(), fo.chain(fo.adam()).init(jnp.ones(2))),
        (fo.nadam(), fo.adam().init(jnp.ones(2))),
        (fo.adam(foreach=True), fo.adam().init(jnp.ones(2))),
        (fo.chain(fo.adam()), None),
        (fo.chain(fo.adam()), jnp.ones(2)),  # the parameters
        (fo.monitor(fo.sgd()), fo.sgd().init(jnp.ones(2))),
        (fo.clip_by_zscore(), ()),
    ],
)
def test_a_state_of_another_transformation_is_named(tx, state):
    message = rf"\w+: the state is of the class {type(state).__name__}, which its init does not return"
    with pytest.raises(TypeError, match=message):
        tx.update(jnp.ones(2), state, jnp.ones(2))


@pytest.mark.parametrize(
    "state", [fo.chain(fo.sgd()).init(jnp.ones(2)), fo.named_chain(("x", fo.sgd())).init(jnp.ones(2))]
)
@pytest.mark.parametrize("tx", [fo.named_chain(("a", fo.sgd())), fo.partition({"a": fo.sgd()}, "a")])
def test_a_state_without_a_named_part_is_refused(tx, state):
    with pytest.raises(TypeError, match="the state has no part 'a', so another transformation made it"):
        tx.update(jnp.ones(2), state, jnp.ones(2))


def test_an_error_of_a_rule_is_not_blamed_on_the_state():
    class Wrong(fo.base.Transform):
        def init(self, params):
            return fo.EmptyState()

        def update(self, updates, state, params=None, **extra):
            return updates.wrong, state

    with pytest.raises(AttributeError, match="wrong"):
        fo.base.transformation(Wrong()).update(jnp.ones(2), fo.EmptyState())


def test_chain_refuses_the_state_of_another_chain():
    with pytest.raises(ValueError, match="a chain of 2 transformations got a state of 1"):
        fo.chain(fo.scale(1.0), fo.scale(1.0)).update(GRADS, fo.chain(fo.scale(1.0)).init(PARAMS), PARAMS)


def test_named_chain_equals_chain_and_is_found_by_name():
    links = [("clip", fo.clip_by_value(0.3)), ("optimizer", fo.adam())]
    named, plain = fo.named_chain(*links), fo.chain(*(link for _, link in links))
    chex.assert_trees_all_equal(one(named), one(plain))
    state = named.init(PARAMS)
    assert fo.find_state(state, "optimizer") is fo.find_state(state, fo.AdamState)
    with pytest.raises(ValueError, match="the name 'a' occurs more than once"):
        fo.named_chain(("a", fo.identity()), ("a", fo.identity()))


@pytest.mark.parametrize(
    "labels",
    [
        lambda path: "plain" if path == "layer.bias" else "decay",
        {"layer": {"bias": "plain", "kernel": "decay"}, "scale": "decay"},
    ],
)
def test_partition_gives_each_leaf_to_its_transformation(labels):
    tx = fo.partition({"decay": fo.sgd(lr=0.1, weight_decay=0.5), "plain": fo.sgd(lr=1.0)}, labels)
    updates = one(tx)
    decayed, plain = one(fo.sgd(lr=0.1, weight_decay=0.5)), one(fo.sgd(lr=1.0))
    chex.assert_trees_all_equal(updates["layer"]["bias"], plain["layer"]["bias"])
    chex.assert_trees_all_equal(updates["layer"]["kernel"], decayed["layer"]["kernel"])
    chex.assert_trees_all_equal(updates["scale"], decayed["scale"])
    hash(tx)


def test_partition_label_of_a_subtree_and_none_gradients():
    tx = fo.partition({"a": fo.sgd(lr=1.0), "b": fo.sgd(lr=2.0)}, {"layer": "a", "scale": "b"})
    updates = one(tx, {"layer": {"bias": None, "kernel": GRADS["layer"]["kernel"]}, "scale": GRADS["scale"]})
    assert updates["layer"]["bias"] is None
    chex.assert_trees_all_equal(updates["layer"]["kernel"], -GRADS["layer"]["kernel"])
    chex.assert_trees_all_equal(updates["scale"], -2 * GRADS["scale"])


def test_partition_without_params():
    tx = fo.partition({"a": fo.sgd(lr=1.0), "b": fo.sgd(lr=2.0)}, lambda path: "b" if path == "scale" else "a")
    updates, _ = tx.update(GRADS, tx.init(PARAMS))
    chex.assert_trees_all_equal(updates["scale"], -2 * GRADS["scale"])


def test_partition_of_a_tree_with_holes():
    params, labels = {"a": None, "b": jnp.ones(2), "c": None, "d": jnp.ones(3)}, {"a": 0, "b": "x", "c": "x", "d": "y"}
    tx = fo.partition({"x": fo.sgd(lr=1.0), "y": fo.sgd(lr=2.0)}, labels)
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["a"] is None
    assert updates["d"].tolist() == [-2.0] * 3


def test_partition_sees_the_norm_of_its_own_part():
    tx = fo.partition({"clip": fo.clip_by_global_norm(1.0), "pass": fo.identity()}, {"layer": "pass", "scale": "clip"})
    grads = jax.tree.map(lambda x: 100.0 * x, GRADS)
    updates = one(tx, grads)
    assert float(updates["scale"]) == pytest.approx(1.0)
    chex.assert_trees_all_equal(updates["layer"], grads["layer"])


def test_partition_errors():
    with pytest.raises(ValueError, match=r"the parameter 'layer\.bias' has the label 'x', which is none of 'a'"):
        fo.partition({"a": fo.sgd()}, lambda path: "x" if path == "layer.bias" else "a").init(PARAMS)
    with pytest.raises(ValueError, match="the labels do not have the structure of the parameters"):
        fo.partition({"a": fo.sgd()}, {"layer": "a"}).init(PARAMS)


@pytest.mark.parametrize(
    "mask", [lambda path: path.endswith("kernel"), {"layer": {"bias": False, "kernel": True}, "scale": False}]
)
def test_masked_passes_the_rest_unchanged(mask):
    updates = one(fo.masked(fo.scale(0.0), mask))
    chex.assert_trees_all_equal(updates["layer"]["kernel"], jnp.zeros((2, 3)))
    chex.assert_trees_all_equal(updates["layer"]["bias"], GRADS["layer"]["bias"])
    chex.assert_trees_all_equal(updates["scale"], GRADS["scale"])


def test_masked_keeps_no_slots_for_the_rest():
    state = fo.masked(fo.adam(), lambda path: path == "scale").init(PARAMS)
    assert fo.find_state(state, fo.AdamState).exp_avg == {"layer": {"bias": None, "kernel": None}, "scale": 0.0}


def test_masked_integers_stay_out():
    params = {"count": jnp.zeros((), jnp.int32), "w": jnp.ones(())}
    with pytest.raises(TypeError, match="the parameter 'count' has dtype int32"):
        fo.adam().init(params)
    fo.masked(fo.adam(), {"count": False, "w": True}).init(params)


def test_find_state_inside_everything_and_its_errors():
    mask, rest = {"layer": True, "scale": False}, {"layer": False, "scale": True}
    both = fo.chain(fo.masked(fo.adam(), mask), fo.masked(fo.sgd(momentum=0.9), rest))
    tx = fo.accumulate(fo.skip_nonfinite(both, 2), 2)
    state = tx.init(PARAMS)
    assert isinstance(fo.find_state(state, fo.AdamState), fo.AdamState)
    assert isinstance(fo.find_state(state, fo.SGDState), fo.SGDState)
    with pytest.raises(KeyError, match="no state of the name or type 'adam'"):
        fo.find_state(state, "adam")
    with pytest.raises(KeyError, match="2 states of the name or type 'SGDState'"):
        fo.find_state(fo.chain(fo.masked(fo.sgd(), mask), fo.masked(fo.sgd(), rest)).init(PARAMS), fo.SGDState)
    optax_state = optax.chain(optax.identity(), fo.adam()).init(PARAMS)
    assert isinstance(fo.find_state(optax_state, fo.AdamState), fo.AdamState)


def test_a_list_and_a_tuple_are_different_structures():
    with pytest.raises(ValueError, match="gradients do not have the structure of the parameters"):
        one(fo.adamw(), (jnp.ones(1),), [jnp.ones(1)])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"a": "text"}, "one of the params is str: the parameter 'a'"),
        ({"a": [1.0]}, r"one of the params is float: the parameter 'a\.0'"),
        ({"a": jnp.ones(2, bool)}, "the parameter 'a' has dtype bool"),
    ],
)
@pytest.mark.parametrize("tx", [fo.sgd(), fo.adam(), fo.adamw()])
def test_a_parameter_that_is_no_array(tx, params, message):
    with pytest.raises(TypeError, match=message):
        tx.init(params)


def test_gradients_of_the_wrong_kind():
    with pytest.raises(ValueError, match=r"'layer\.bias' has shape \(4,\), the parameter has shape \(3,\)"):
        one(fo.adam(), {"layer": {"bias": jnp.ones(4), "kernel": jnp.ones((2, 3))}, "scale": jnp.ones(())})
    with pytest.raises(TypeError, match=r"'scale' is complex64, the parameter is float32"):
        one(fo.adam(), GRADS | {"scale": jnp.ones((), jnp.complex64)})
    with pytest.raises(TypeError, match="'scale' has dtype int32"):
        one(fo.adam(), GRADS | {"scale": jnp.ones((), jnp.int32)})
    with pytest.raises(TypeError, match="'scale' is not an array but str"):
        one(fo.adam(), GRADS | {"scale": "text"})
    with pytest.raises(ValueError, match=r"unexpected 'more'"):
        one(fo.adam(), GRADS | {"more": jnp.ones(())})


def test_weight_decay_needs_the_parameters():
    for tx in (fo.sgd(weight_decay=0.1), fo.adamw(), fo.add_decayed_weights(0.1)):
        with pytest.raises(ValueError, match=r"needs the parameters: update\("):
            tx.update(GRADS, tx.init(PARAMS))
    fo.adamw(weight_decay=0.0).update(GRADS, fo.adam().init(PARAMS))


def test_apply_updates():
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2)}
    moved = fo.apply_updates(params, {"a": jnp.full(2, 2.0**-8), "b": None})
    assert moved["a"].dtype == jnp.bfloat16
    assert moved["b"] is params["b"]
    with pytest.raises(ValueError, match="missing 'b'"):
        fo.apply_updates(params, {"a": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"the update of the parameter 'b' has shape \(3,\)"):
        fo.apply_updates(params, {"a": None, "b": jnp.ones(3)})


def test_apply_updates_leaves_integers_alone():
    params = {"count": jnp.array(3), "w": jnp.ones(2)}
    grads = jax.grad(lambda p: p["w"].sum() * p["count"], allow_int=True)(params)
    moved = fo.apply_updates(params, grads)
    assert moved["count"] is params["count"]
    assert moved["w"].tolist() == [4.0, 4.0]


KERNELS = lambda path: path.endswith("kernel")  # noqa: E731 a mask
OTHERS = lambda path: not path.endswith("kernel")  # noqa: E731 a mask


@pytest.mark.parametrize(
    "build",
    [
        lambda: fo.chain(fo.adam(), fo.add_decayed_weights(0.1)),
        lambda: fo.named_chain(("optimizer", fo.sgd()), ("decay", fo.add_decayed_weights(0.1))),
        lambda: fo.chain(fo.clip_by_value(1.0), fo.chain(fo.lbfgs()), fo.clip_by_value(1.0), fo.add_decayed_weights(1)),
        lambda: fo.chain(fo.muon_adamw(), fo.add_decayed_weights(0.1)),
        lambda: fo.chain(fo.accumulate(fo.skip_nonfinite(fo.adamw(), 2), 2), fo.add_decayed_weights(0.1)),
        lambda: fo.chain(fo.master_weights(fo.freeze(fo.adamw(), KERNELS)), fo.add_decayed_weights(0.1)),
        lambda: fo.chain(fo.scale(-0.1), fo.add_decayed_weights(0.1)),
        lambda: fo.chain(fo.add_decayed_weights(0.1), fo.scale(-1.0), fo.adam()),
        lambda: fo.masked(fo.chain(fo.sgd(), fo.add_decayed_weights(0.1)), True),
    ],
)
def test_a_chain_that_turns_decay_into_growth_is_refused(build):
    with pytest.raises(ValueError, match=r"the weights would grow: what add_decayed_weights adds .* weight_decay= "):
        build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: fo.chain(fo.adam(), fo.sgd()), "the updates of adam are negated already, and sgd negates them again"),
        (lambda: fo.chain(fo.adamw(), fo.scale(2.0), fo.ema(), fo.bfgs()), "the updates of adam .* and bfgs"),
        (lambda: fo.chain(fo.partition({0: fo.sgd(), 1: fo.adam()}, lambda path: 0), fo.muon()), "two algorithms"),
    ],
)
def test_a_chain_of_two_algorithms_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("tx", "message"),
    [
        (
            fo.chain(fo.sgd(), fo.add_decayed_weights(0.1, KERNELS)),
            r"weights would grow at the parameter 'layer\.kernel'",
        ),
        (fo.chain(fo.masked(fo.sgd(), KERNELS), fo.adam()), r"would ascend at the parameter 'layer\.kernel'"),
        (
            fo.chain(
                fo.partition({0: fo.sgd(), 1: fo.identity()}, {"layer": 1, "scale": 0}), fo.add_decayed_weights(1)
            ),
            "weights would grow at the parameter 'scale'",
        ),
    ],
)
def test_a_chain_that_is_wrong_for_some_parameters_is_refused_by_init(tx, message):
    with pytest.raises(ValueError, match=message):
        tx.init(PARAMS)


@pytest.mark.parametrize(
    "tx",
    [
        fo.chain(fo.add_decayed_weights(0.1), fo.adam()),
        fo.chain(fo.masked(fo.sgd(), KERNELS), fo.masked(fo.adam(), OTHERS)),
        fo.chain(fo.masked(fo.sgd(), KERNELS), fo.add_decayed_weights(0.1, OTHERS), fo.masked(fo.adam(), OTHERS)),
        fo.chain(fo.scale(-1.0), fo.add_decayed_weights(0.1), fo.adam()),  # ascends, and decays
        fo.chain(optax.scale_by_adam(), fo.add_decayed_weights(0.1), fo.scale(-1e-3)),
        fo.chain(fo.sgd(), fo.scale(-1.0), fo.sgd()),
        fo.chain(fo.clip_by_value(1.0), fo.add_decayed_weights(0.1)),  # part of another chain
        fo.chain(optax.sgd(0.1), fo.add_decayed_weights(0.1)),  # nothing is known about optax's
        fo.chain(fo.sgd(), fo.scale_by_schedule(fo.schedules.constant(-1.0)), fo.sgd()),
    ],
)
def test_chains_that_descend_and_decay_are_built(tx):
    tx.init(PARAMS)


def test_decay_right_before_the_learning_rate_shrinks():
    tx = fo.chain(fo.add_decayed_weights(0.1), fo.scale(-0.1))
    params = {"w": jnp.ones(())}
    state = tx.init(params)
    for _ in range(10):
        updates, state = tx.update({"w": jnp.zeros(())}, state, params)
        params = fo.apply_updates(params, updates)
    assert float(params["w"]) == pytest.approx(0.99**10, rel=1e-6)


@pytest.mark.parametrize("wrap", [fo.masked, fo.freeze])
def test_a_mask_of_something_else_than_booleans_is_refused(wrap):
    with pytest.raises(TypeError, match="or a compiled regular expression, but it holds 'yes'"):
        wrap(fo.sgd(), {"layer": "yes", "scale": False})


@pytest.mark.parametrize("build", [fo.chain, lambda *links: fo.named_chain(*zip("ab", links, strict=True))])
def test_updates_are_not_negated_twice(build):
    with pytest.raises(ValueError, match="the chain would ascend: the updates of adam are negated already, and scale"):
        build(fo.adam(lr=0.1), fo.scale(-1.0))
    assert fo.chain(fo.scale(-1.0), fo.adam(lr=0.1)) is not None  # the gradient of an objective to maximize


AROUND_FOREIGN = {
    "chain": fo.chain,
    "named_chain": lambda tx: fo.named_chain(("inner", tx)),
    "masked": lambda tx: fo.masked(tx, True),
    "selective": lambda tx: fo.selective(tx, True),
    "freeze": lambda tx: fo.freeze(tx, lambda path: path == "scale"),
    "partition": lambda tx: fo.partition({"all": tx}, lambda path: "all"),
    "inject": lambda tx: fo.inject(lambda unused: tx, unused=1.0),
    "accumulate": lambda tx: fo.accumulate(tx, 1),
    "skip_nonfinite": lambda tx: fo.skip_nonfinite(tx, 1),
    "skip_large_updates": lambda tx: fo.skip_large_updates(tx, 1e3, 1),
    "skip_spikes": fo.skip_spikes,
    "lookahead": fo.lookahead,
    "sam": lambda tx: fo.sam(tx, rho=0.0),
    "monitor": fo.monitor,
    "monitor, every second": lambda tx: fo.monitor(tx, every=2),
    "master_weights": fo.master_weights,
    "stochastic_rounding": lambda tx: fo.stochastic_rounding(tx, jax.random.key(0)),
    "state_dtype": lambda tx: fo.state_dtype(tx, {}),
}
FOREIGN = {
    "optax.clip": optax.clip(0.2),
    "optax.sgd": optax.sgd(-1.0),
    "jitted": optax.GradientTransformation(optax.clip(0.2).init, jax.jit(optax.clip(0.2).update)),
}


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("around", AROUND_FOREIGN.values(), ids=AROUND_FOREIGN)
def test_another_librarys_transformation_gets_only_the_keywords_that_it_takes(around, foreign, standard_promotion):
    tx = around(foreign)
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS, value=3.0, grad_fn=lambda params: GRADS, own=4.0)
    wanted, _ = foreign.update(GRADS, foreign.init(PARAMS), PARAMS)
    chex.assert_trees_all_close(updates["layer"], wanted["layer"])  # freeze keeps the scale


def test_another_librarys_transformation_gets_the_keyword_that_it_names():
    def update(updates, state, params=None, *, value):
        return jax.tree.map(lambda u: value * u, updates), state

    own = fo.GradientTransformation(lambda params: fo.EmptyState(), update)
    tx = fo.chain(fo.identity(), optax.clip(9.0), own, fo.reduce_on_plateau())
    chex.assert_trees_all_close(
        tx.update(GRADS, tx.init(PARAMS), PARAMS, value=3.0, own=4.0)[0], jax.tree.map(lambda g: 3.0 * g, GRADS)
    )
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'value'"):
        tx.update(GRADS, tx.init(PARAMS), PARAMS)


@pytest.mark.parametrize("around", AROUND_FOREIGN.values(), ids=AROUND_FOREIGN)
def test_what_is_no_transformation_is_named_at_once(around):
    with pytest.raises(
        TypeError, match=r"must be a transformation, such as fo\.adam\(\), but it is <function sgd .*: call it"
    ):
        around(fo.sgd)
    with pytest.raises(
        TypeError, match=r"must be a transformation, such as fo\.adam\(\), but it is \[.*: combine several"
    ):
        around([fo.scale(0.5), fo.sgd()])
    with pytest.raises(TypeError, match=r"must be a transformation, such as fo\.adam\(\), but it is None"):
        around(None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fo.chain(fo.identity(), fo.sgd), "a link of chain must be a transformation"),
        (lambda: fo.monitor(fo.sgd), "inner of monitor must be a transformation"),
        (lambda: fo.partition({"a": fo.sgd}, "a"), "partition: what belongs to the label 'a' must be a transformation"),
        (lambda: fo.partition([fo.sgd()], "a"), "partition needs a dict of transformations by label, but it got"),
        (lambda: fo.named_chain(fo.sgd()), "named_chain needs pairs of a name and a transformation, but it got sgd"),
        (lambda: fo.named_chain([("a", fo.sgd())]), "named_chain needs pairs of a name and a transformation"),
        (lambda: fo.inject(fo.sgd(), lr=0.1), r"inject needs a function that builds .*, such as fo\.adam, not sgd\(lr"),
        (lambda: fo.inject(lambda lr: fo.sgd, lr=0.1), "inject: what .*<lambda> returns must be a transformation"),
        (lambda: fo.interop.to_optax(fo.sgd), "to_optax: tx must be a transformation"),
        (
            lambda: optim.Optimizer.from_transform(lambda lr: fo.sgd, PARAMS, {"lr": 0.1}),
            "what make returns must be a transformation",
        ),
    ],
)
def test_messages_say_where_no_transformation_stands(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_a_packed_state_is_found_by_what_packed_it():
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    state = fo.chain(fo.identity(), fo.adam(foreach=True)).init(params)
    with pytest.raises(KeyError, match=r"2 states of the name or type 'AdamState': foreach=True has packed it"):
        fo.find_state(state, fo.AdamState)
    assert fo.find_state(state, fo.ForeachState).unpack(params).exp_avg["b"].shape == (3,)
