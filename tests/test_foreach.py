"""Small leaves packed in flat buffers: the numbers are the same, and users see nothing packed."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.optim.engine import histories
from tests.algorithms import ALGORITHMS, FULL, names
from tests.equality import relative

PACKED = names(packs=True)
OF_EACH_KIND = PACKED if FULL else ["adam", "asgd", "rprop", "sgd"]  # with betas, scalars, selections and without slots


def params():
    rng = np.random.default_rng(0)
    dtypes = [jnp.float32, jnp.bfloat16, jnp.float32, jnp.float32]
    small = {
        f"{index}": {
            "kernel": jnp.asarray(rng.normal(size=(3, 4)), dtype),
            "bias": jnp.asarray(rng.normal(size=4), dtype),
        }
        for index, dtype in enumerate(dtypes)
    }
    return {**small, "large": jnp.asarray(rng.normal(size=(100, 100)), jnp.float32), "scalar": jnp.ones(())}


def gradients(tree, step):
    return jax.tree.map(lambda x: jnp.sin(x.astype(jnp.float32) * (step + 1)).astype(x.dtype), tree)


def near(found, expected):
    """Whether trees agree to a few units in the last place of each array's largest value: scalars, arrays and joint
    buffers use different instructions, and the gradients of these tests depend on the parameters."""

    def equal(one, other):
        tolerance = 1e-2 if one.dtype == jnp.bfloat16 else 5e-7
        return one.dtype == other.dtype and relative(one, other) <= tolerance

    if jax.tree.structure(found) != jax.tree.structure(expected):
        return False
    return all(map(equal, *map(jax.tree.leaves, (found, expected))))


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_the_functional_face_has_the_same_numbers(name):
    """Over several steps, one with missing gradients; the packed state unpacks to the plain one and packs again."""
    plain, packed = (getattr(fo, name)(foreach=foreach, **ALGORITHMS[name].typical) for foreach in (False, True))
    one = other = params()
    state, small = plain.init(one), packed.init(one)
    assert isinstance(small, fo.ForeachState)
    assert near(small.unpack(one), state)
    update, update_packed = jax.jit(plain.update), jax.jit(packed.update)
    for step in range(4):
        grads = gradients(one, step)
        if step == 1:
            grads["1"]["kernel"], grads["large"] = None, None
        updates, state = update(grads, state, one)
        again, small = update_packed(grads, small, other)
        one, other = fo.apply_updates(one, updates), fo.apply_updates(other, again)
        assert near(other, one)
        assert near(small.unpack(one), state)
    assert near(packed.update.of.pack(state, one), small)
    assert len(jax.tree.leaves(small)) < len(jax.tree.leaves(state))


def test_what_packing_needs_and_says():
    tx = fo.adam(lr=0.1, foreach=True)
    tree = params()
    state = tx.init(tree)
    assert set(state.packed.exp_avg) == {"float32", "bfloat16"}
    assert state.leaves.exp_avg["large"].shape == (100, 100) and state.leaves.exp_avg["scalar"] is None
    assert "foreach=True" in repr(tx) and tx == fo.adam(lr=0.1, foreach=True) != fo.adam(lr=0.1)
    with pytest.raises(ValueError, match=r"Adam with foreach=True needs the parameters"):
        tx.update(tree, state)
    with pytest.raises(ValueError, match=r"gradient of the parameter '0.bias' has shape"):
        tx.update({**tree, "0": {**tree["0"], "bias": jnp.ones(3)}}, state, tree)
    with pytest.raises(ValueError, match="foreach=True joins parameters, and Adafactor does not"):
        fo.lift(fo.adafactor().update.of.rule, foreach=True)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), tree)
    with pytest.raises(ValueError, match="the packed state is of parameters of bfloat16, float32, but these are of"):
        tx.update(wide, state, wide)
    with pytest.raises(ValueError, match="has no place in a state_dict: leave foreach out here"):
        optim.Optimizer.from_transform(lambda lr: fo.adam(lr=lr, foreach=True), tree, {"lr": 0.1})
    assert fo.current_hyperparams(fo.adam(lr=fo.schedules.constant(0.5), foreach=True), state)["lr"] == 0.5
    assert isinstance(fo.sgd(lr=0.1, foreach=True).init(tree), fo.ForeachState)  # no slots to pack without momentum


def test_a_state_is_packed_in_its_own_dtype_and_unpacked_whatever_its_form():
    tx, tree = fo.adam(lr=0.1, foreach=True), {"a": jnp.arange(2.0), "b": jnp.ones((2, 2)), "large": jnp.ones(9000)}
    plain = fo.adam(lr=0.1).init(tree)
    mixed = plain._replace(exp_avg={**plain.exp_avg, "b": jnp.ones((2, 2), jnp.bfloat16)})
    with pytest.raises(ValueError, match=r"the leaves 'a' \(float32\) and 'b' \(bfloat16\) are joined in one buffer"):
        tx.update.of.pack(mixed, tree)
    abstract = jax.eval_shape(tx.init, tree).unpack(tree)
    assert jax.tree.map(jnp.shape, abstract) == jax.tree.map(jnp.shape, plain)
    assert tx.update.of.pack(abstract, tree).packed.exp_avg["float32"].shape == (6,)
    many = jax.vmap(lambda rate: tx.update(tree, tx.init(tree), jax.tree.map(lambda x: x * rate, tree))[1])(jnp.ones(3))
    found = many.unpack(tree).exp_avg
    assert near(found, jax.tree.map(lambda x: jnp.broadcast_to(0.1 * x, (3, *x.shape)), tree))
    with pytest.raises(ValueError, match=r"float32 of the slot exp_avg has shape \(6,\), but .* the 7 entries"):
        tx.init(tree).unpack({**tree, "a": jnp.ones(3)})


def test_it_composes():
    """In a chain with clipping and an average, in a partition, in a scan; unpacked out of the chain."""
    tree = params()
    for make in (
        lambda foreach: fo.chain(fo.clip_by_global_norm(1.0), fo.adamw(lr=0.1, foreach=foreach), fo.ema(0.9)),
        lambda foreach: fo.partition(
            {"a": fo.adam(lr=0.1, foreach=foreach), "b": fo.sgd(lr=0.1, momentum=0.9, foreach=foreach)},
            lambda path: "b" if path.endswith("bias") else "a",
        ),
        lambda foreach: fo.accumulate(fo.radam(lr=0.1, foreach=foreach), every=2),
    ):
        results = []
        for foreach in (False, True):
            tx = make(foreach)

            def body(carry, step, tx=tx):
                now, state = carry
                updates, state = tx.update(jax.tree.map(jnp.sin, now), state, now)
                return (fo.apply_updates(now, updates), state), step

            run = jax.jit(lambda tx=tx, body=body: jax.lax.scan(body, (tree, tx.init(tree)), jnp.arange(5)))
            results.append(run()[0])
        for one, other in zip(jax.tree.leaves(results[1][0]), jax.tree.leaves(results[0][0]), strict=True):
            assert np.allclose(np.asarray(one, np.float32), np.asarray(other, np.float32), rtol=1e-5, atol=1e-6)


def test_row_sparse_gradients_of_packed_leaves():
    tree = {"table": jnp.ones((5, 2)), "bias": jnp.ones(3), "other": jnp.ones(2)}
    ids = jnp.array([1, 3, 1])
    grads = {"table": fo.value_and_sparse_grad(lambda p: jnp.sum(p["table"][ids]), "table")(tree)[1]["table"]}
    grads |= {"bias": jnp.ones(3), "other": None}
    for make in (fo.sgd, fo.adagrad):
        kwargs = {"momentum": 0.9} if make is fo.sgd else {}
        plain, packed = make(lr=0.1, **kwargs), make(lr=0.1, foreach=True, **kwargs)
        expected, state = plain.update(grads, plain.init(tree), tree)
        found, small = packed.update(grads, packed.init(tree), tree)
        assert near(fo.apply_updates(tree, found), fo.apply_updates(tree, expected))
        assert near(small.unpack(tree), state)


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_the_torch_face_has_the_same_numbers(name, tmp_path):
    """With missing gradients, an added group, changing options, copies, and loaded states."""
    options, make = ALGORITHMS[name].typical, getattr(optim, ALGORITHMS[name].title)
    late = {"late": jnp.ones(3), "later": jnp.ones(2)}
    one, other = (make(params(), foreach=foreach, **options) for foreach in (False, True))
    for step in range(9):
        if step == 4:
            for optimizer in (one, other):
                optimizer.add_param_group({"params": late, "foreach": optimizer is other})
        grads = gradients(one.params, step)
        if step in (2, 3):
            grads["1"]["kernel"] = grads["0"]["bias"] = None
        if step == 5:
            one.param_groups[0]["lr"] = other.param_groups[0]["lr"] = 0.05
        if step == 6:
            other = copy.deepcopy(other)
        if step == 7:
            other = pickle.loads(pickle.dumps(other))
        if step == 8:
            fresh = make([{"params": params()}, {"params": late}], foreach=True, **options)
            fresh.load_state_dict(other.state_dict(), match="position")
            fresh.params = other.params
            other = fresh
        one.step(grads)
        other.step(grads)
        assert other._engine._known.packs and not one._engine._known.packs
        if step % 3 == 2:
            assert near(other.params, one.params)
    assert near(other.state_dict()["state"], one.state_dict()["state"])
    assert near(other.params, one.params)
    _, _, state = other.functional()
    assert "ForeachState" not in str(jax.tree.structure(state))


def test_arrays_that_were_read_stay_as_they_are():
    optimizer = optim.Adam(params(), lr=0.1, foreach=True)
    held = []
    for step in range(4):
        held.append((optimizer.params, jax.tree.map(np.array, optimizer.params)))
        optimizer.step(gradients(optimizer.params, step))
        state = optimizer.state
        held.append((state, jax.tree.map(np.array, state)))
    for live, before in held:
        assert near(jax.tree.map(np.asarray, live), before)
    optimizer.step(optimizer.params)
    traced = jax.jit(lambda x: optimizer.params["scalar"] + optimizer.state["scalar"]["exp_avg"] + x)(1.0)
    assert float(traced) == float(optimizer.params["scalar"] + optimizer.state["scalar"]["exp_avg"]) + 1.0
    held[-1] = (optimizer.state, jax.tree.map(np.array, optimizer.state))
    with pytest.raises(ValueError, match="has shape"):
        optimizer.step({**optimizer.params, "scalar": jnp.ones(2)})
    assert near(optimizer.state, held[-1][0])


def test_the_rule_of_foreach(monkeypatch, compilations):
    many = {str(index): jnp.ones(2) for index in range(histories.FEWEST)}
    few = {str(index): jnp.ones(2) for index in range(histories.FEWEST - 1)}
    for tree, foreach, expected in ((many, None, True), (few, None, False), (few, True, True), (many, False, False)):
        optimizer = optim.SGD(tree, lr=0.1, momentum=0.9, foreach=foreach)
        optimizer.step(tree)
        assert bool(optimizer._engine._known.packs) is expected
    optimizer = optim.Adam(few, lr=0.1, foreach=True)
    for _ in range(2):
        optimizer.step(few)
        jax.block_until_ready(optimizer.params)
    before = len(compilations)
    optimizer.param_groups[0]["lr"] = 0.2
    for _ in range(2):
        optimizer.step(few)
        jax.block_until_ready(optimizer.params)
    assert len(compilations) == before


def test_sharded_leaves_stay_alone():
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    tree = {"a": jax.device_put(jnp.ones((4, 2)), rows), "b": jax.device_put(jnp.ones(3), whole)}
    tree |= {"c": jax.device_put(jnp.ones(2), whole)}
    tx = fo.adam(lr=0.1, foreach=True)
    state = tx.init(tree)
    assert state.leaves.exp_avg["a"].sharding == rows and state.packed.exp_avg["float32"].sharding.is_fully_replicated
    updates, state = jax.jit(tx.update)(tree, state, tree)
    plain = fo.adam(lr=0.1)
    expected, _ = jax.jit(plain.update)(tree, plain.init(tree), tree)
    assert near(updates, expected)
    optimizer = optim.Adam(tree, lr=0.1, foreach=True)
    optimizer.step(tree)
    assert [pack.indices for pack in optimizer._engine._known.packs] == [[1, 2]]
    assert optimizer.params["a"].sharding.is_equivalent_to(rows, 2)


def placed(kind):
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2], axis_types=(kind,))
    put = lambda spec, *shape: jax.device_put(jnp.ones(shape), NamedSharding(mesh, spec))  # noqa: E731 one line
    return mesh, {"split": put(P("data"), 4, 2), "one": put(P(), 3), "other": put(P(), 2)}


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_mesh_has_one_structure_however_the_state_is_made(kind):
    """On automatic axes nothing is packed, since a traced leaf does not say whether it is whole."""
    mesh, tree = placed(kind)
    tx, plain = fo.adam(lr=0.1, foreach=True), fo.adam(lr=0.1)
    with jax.set_mesh(mesh):
        abstract = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=p.sharding), tree)
        shardings = fo.state_shardings(tx, abstract)
        states = [tx.init(tree), jax.jit(tx.init)(tree), fo.init_sharded(tx, tree)]
        states += [jax.jit(tx.init, out_shardings=shardings)(tree)]
        structures = {jax.tree.structure(state) for state in (*states, jax.eval_shape(tx.init, abstract), shardings)}
        assert len(structures) == 1
        assert bool(states[0].packed.exp_avg) is (kind is AxisType.Explicit)
        expected, _ = jax.jit(plain.update)(tree, plain.init(tree), tree)
        for state in states:
            assert state.leaves.exp_avg["split"].sharding.is_equivalent_to(tree["split"].sharding, 2)
            step = jax.jit(tx.update).lower(tree, state, tree).compile()
            assert "all-" not in step.as_text() and near(step(tree, state, tree)[0], expected)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_packed_state_of_split_parameters_is_refused(kind):
    mesh, tree = placed(kind)
    tx = fo.adam(lr=0.1, foreach=True)
    packed = tx.init(jax.tree.map(lambda leaf: jnp.ones(leaf.shape), tree))
    with jax.set_mesh(mesh):
        state = jax.device_put(packed, NamedSharding(mesh, P()))
        name = "one" if kind is AxisType.Auto else "split"
        for update in (tx.update, jax.jit(tx.update)):
            with pytest.raises(ValueError, match=rf"parameter '{name}' is in a packed buffer.*init_shar"):
                update(tree, state, tree)
        plain = fo.adam(lr=0.1)
        found, _ = jax.jit(plain.update)(tree, state.unpack(tree), tree)
        assert near(found, jax.jit(plain.update)(tree, plain.init(tree), tree)[0])


def test_trace_and_compile_do_not_grow_with_the_leaves():
    """The leaf function is traced once per shape; cutting a packed update takes one kernel per shape."""
    tree = {str(index): jnp.ones((2, 3) if index % 2 else 4) for index in range(60)}
    for foreach in (False, True):
        tx = fo.adam(lr=0.1, foreach=foreach)
        text = jax.jit(tx.update).lower(tree, tx.init(tree), tree).as_text()
        assert text.count("stablehlo.sqrt") <= 4  # for two shapes or one buffer, and for the step's coefficients


def test_packs_that_missing_gradients_break_up_again_and_again_are_given_up():
    tree = [jnp.ones(3) for _ in range(histories.FEWEST + 10)]
    automatic, wanted = (optim.SGD(tree, lr=0.1, momentum=0.9, foreach=foreach) for foreach in (None, True))
    for skipped in range(histories.FEW_BREAKS + 2):
        for optimizer in (automatic, wanted):
            optimizer.step([None if index == skipped else grad for index, grad in enumerate(tree)])
    assert not automatic._engine._known.packs and wanted._engine._known.packs
    assert near(automatic.params, wanted.params)
