"""A transformation's state is beside its parameters on a mesh, however it is made, and stays there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
from tests import mesh_rows
from tests.algorithms import FULL, full
from tests.equality import relative
from tests.mesh_matrix import CONTROL, tolerance
from tests.mesh_rows import every_of, specs_from, tree
from tests.table import TABLE

PLACES = {name: specs for name, specs in mesh_rows.PLACES.items() if name != "zero"}
PLACES["one dimension over both"] = {"dense.kernel": P(("x", "y"))}
TRANSFORMATIONS = {
    **TABLE,
    "lbfgs": fo.lbfgs(history_size=3),
    "lbfgs_direction": fo.lbfgs(line_search_fn="strong_wolfe", history_size=3),
    "bfgs": fo.bfgs(),
}


every = every_of(TRANSFORMATIONS)


def named(params):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def placed(kind, place, params):
    """Return a mesh of eight devices, and the parameters on it."""
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind,) * 2)
    put = lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec))  # noqa: E731 one line
    return mesh, jax.tree.map(put, params, specs_from(PLACES[place]))


def expected(path, leaf, params):
    """The spec of a leaf of the state, from its path and shape."""
    scales, path = path.endswith(".scales"), slot(path)
    for end, param in named(params).items():
        if path.endswith(end):
            if scales:  # a tile is in one shard
                return param.sharding.spec
            if leaf.ndim < param.ndim:  # one number for the parameter
                return P()
            parts = [*param.sharding.spec, *[None] * param.ndim][: param.ndim]
            added = leaf.ndim - param.ndim  # the history of L-BFGS, in front
            pairs = zip(leaf.shape[added:], param.shape, parts, strict=True)
            return P(*[None] * added, *[part if size == own else None for size, own, part in pairs])
    return P()


def slot(path):
    """The path of a slot, from that of its codes, scales or values in few bits."""
    return path.removesuffix(".codes").removesuffix(".scales").removesuffix(".values")


def same_place(leaf, mesh, spec):
    return leaf.sharding.is_equivalent_to(NamedSharding(mesh, spec), leaf.ndim)


CELLS = [(kind, place) for kind in (AxisType.Auto, AxisType.Explicit) for place in PLACES]
FIRST = (AxisType.Auto, "both axes")
matrix = pytest.mark.parametrize(("kind", "place"), [FIRST, *full(*[cell for cell in CELLS if cell != FIRST])])


@matrix
def test_every_state_is_made_beside_its_parameters(kind, place):
    mesh, params = placed(kind, place, tree())
    shardings, state = fo.state_shardings(every, params), fo.init_sharded(every, params)
    abstract = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=p.sharding), params)
    assert fo.state_shardings(every, abstract) == shardings
    assert jax.tree.structure(state) == jax.tree.structure(shardings)
    eager = every.init(params)
    assert jax.tree.structure(state) == jax.tree.structure(eager)
    for (path, leaf), sharding, own in zip(
        jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(shardings), jax.tree.leaves(eager), strict=True
    ):
        name = jax.tree_util.keystr(path)
        assert leaf.sharding == sharding and leaf.sharding.mesh == mesh, name
        assert same_place(leaf, mesh, expected(name, leaf, params)), (name, leaf.sharding)
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            np.testing.assert_array_equal(leaf, own, err_msg=name)


STEPPED = list(TABLE) if FULL else ["adam", "adafactor", "adam_foreach", "chain", "muon_adamw", "accumulate"]


def stepped(tx, params, state, grads):
    updates, state = tx.update(grads, state, params)
    return fo.apply_updates(params, updates), state


def all_stepped(rows, params, states, grads):
    """A step of each row. What loops or branches is compiled alone: on the CPU, collectives of several loops in one
    program may wait for each other."""
    alone = [name for name in rows if CONTROL.match(name)]
    results = {}
    for names in ([name for name in rows if name not in alone], *([name] for name in alone)):
        run = lambda params, states, grads, names=names: {  # noqa: E731 one line
            name: stepped(rows[name], params, states[name], grads) for name in names
        }
        results |= jax.jit(run)(params, {name: states[name] for name in names}, grads)
    return {name: results[name] for name in rows}


def allowed(name):
    return tolerance("auto", name, "float32") if name.startswith(("muon", "quantized", "soap")) else 2e-6


@pytest.mark.full  # with the numbers and the collectives, and in both tiers: test_mesh_matrix.py
@matrix
def test_steps_keep_every_place_and_are_those_of_one_device(kind, place):
    mesh, params = placed(kind, place, tree())
    _, grads = placed(kind, place, tree(1))
    state = fo.init_sharded(every, params)

    rows = {name: TABLE[name] for name in STEPPED}
    whole = all_stepped(rows, tree(), every.init(tree()), tree(1))
    with jax.set_mesh(mesh):
        found = all_stepped(rows, params, state, grads)
    for name, (new, after) in found.items():
        for (path, leaf), own in zip(jax.tree_util.tree_leaves_with_path(new), jax.tree.leaves(params), strict=True):
            assert leaf.sharding.is_equivalent_to(own.sharding, leaf.ndim), (name, path)
        for (path, leaf), own in zip(
            jax.tree_util.tree_leaves_with_path(after), jax.tree.leaves(state[name]), strict=True
        ):
            assert leaf.sharding.is_equivalent_to(own.sharding, leaf.ndim), (name, path, leaf.sharding)
        errors = jax.tree.map(relative, new, whole[name][0])
        assert max(jax.tree.leaves(errors)) < allowed(name), (name, errors)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_the_first_step_is_compiled_once(kind, compilations):
    mesh, params = placed(kind, "both axes", tree())
    tx = fo.chain(fo.clip_by_global_norm(1.0), fo.adamw(lr=0.1), fo.ema(0.9))
    state = fo.init_sharded(tx, params)
    step = jax.jit(functools.partial(stepped, tx))
    with jax.set_mesh(mesh):
        after = step(params, state, params)
        compilations.clear()
        for _ in range(2):
            after = step(*after, after[0])
    assert not compilations


def test_other_libraries_states_are_placed(standard_promotion):
    mesh, params = placed(AxisType.Auto, "both axes", tree())
    for tx in (optax.adamw(0.1), optax.chain(optax.clip_by_global_norm(1.0), optax.adafactor(0.1)), optax.lbfgs()):
        state = fo.init_sharded(tx, params)
        assert jax.tree.map(lambda leaf: leaf.sharding, state) == fo.state_shardings(tx, params)
        assert jax.tree.structure(state) == jax.tree.structure(tx.init(tree()))
    assert same_place(fo.init_sharded(optax.adam(0.1), params)[0].mu["dense"]["kernel"], mesh, P("x", "y"))


def test_rules_and_kinds_of_memory():
    _, params = placed(AxisType.Auto, "replicated", tree())
    rules = [(r"exp_avg_sq\.dense\.kernel", P("y")), (r"exp_avg\.dense", P("x"))]
    state = fo.init_sharded(fo.adam(), params, rules=rules)
    assert state.exp_avg["dense"]["kernel"].sharding.spec == P("x")
    assert state.exp_avg_sq["dense"]["kernel"].sharding.spec == P("y")
    assert state.exp_avg_sq["dense"]["bias"].sharding.spec == P()
    kinds = {each.memory_kind for each in jax.tree.leaves(fo.state_shardings(fo.adam(), params))}
    assert kinds == {params["scale"].sharding.memory_kind}
    on_host = fo.state_shardings(fo.adam(), params, memory_kind="pinned_host")
    assert {each.memory_kind for each in jax.tree.leaves(on_host)} == {"pinned_host"}
    host = fo.init_sharded(fo.adam(), params, memory_kind="pinned_host")
    assert jax.tree.map(lambda leaf: leaf.sharding, host) == on_host


ZERO = ["adam", "adafactor", "lookahead", "ema", "lbfgs"]


def zero_spec(name, leaf, params):
    """The spec of a leaf of the state with ``zero="x"``, from its path and shape."""
    own = next((param for end, param in named(params).items() if name.endswith(end)), None)
    spec = expected(name, leaf, params)
    if own is None or leaf.shape[leaf.ndim - own.ndim :] != own.shape or "x" in str(spec):
        return spec
    parts = [*spec, *[None] * leaf.ndim][: leaf.ndim]
    for place in range(leaf.ndim - own.ndim, leaf.ndim):
        if parts[place] is None and leaf.shape[place] % 4 == 0:
            return P(*parts[:place], "x", *parts[place + 1 :])
    return spec


@pytest.mark.parametrize("kind", [AxisType.Auto, *full(AxisType.Explicit)])
@pytest.mark.parametrize("place", ["replicated", *full("last axis", "both axes")])
def test_zero_splits_slots_over_an_axis_and_steps_keep_all_places(kind, place):
    table = {**TRANSFORMATIONS, "ema": fo.ema(0.9)}
    chosen = {name: table[name] for name in (ZERO if not FULL else table) if name in table}
    mesh, params = placed(kind, place, tree())
    _, grads = placed(kind, place, tree(1))
    states = {name: fo.init_sharded(tx, params, zero="x") for name, tx in chosen.items() if name in ("adam", "lbfgs")}
    assert fo.state_shardings(fo.adam(), params, zero="x").exp_avg == jax.tree.map(
        lambda leaf: leaf.sharding, states["adam"].exp_avg
    )
    together = every_of(chosen)
    states = fo.init_sharded(together, params, zero="x")
    for path, leaf in jax.tree_util.tree_leaves_with_path(states):
        name = jax.tree_util.keystr(path)
        assert same_place(leaf, mesh, zero_spec(name, leaf, params)), (name, leaf.sharding)
    stepping = {name: tx for name, tx in chosen.items() if "bfgs" not in name}

    whole = all_stepped(stepping, tree(), together.init(tree()), tree(1))
    with jax.set_mesh(mesh):
        found = all_stepped(stepping, params, states, grads)
    for name, (new, after) in found.items():
        for leaf, own in zip(jax.tree.leaves((new, after)), jax.tree.leaves((params, states[name])), strict=True):
            assert leaf.sharding.is_equivalent_to(own.sharding, leaf.ndim), (name, leaf.sharding, own.sharding)
        errors = jax.tree.map(relative, new, whole[name][0])
        assert max(jax.tree.leaves(errors)) < allowed(name), (name, errors)


def test_parameters_on_one_device_are_replicated_on_the_mesh_of_the_others():
    mesh, params = placed(AxisType.Auto, "both axes", tree())
    params["scale"] = jnp.ones(())
    assert fo.state_shardings(fo.adam(), params).exp_avg["scale"] == NamedSharding(mesh, P())
    assert fo.init_sharded(fo.adam(), params).exp_avg["scale"].sharding == NamedSharding(mesh, P())
    with jax.set_mesh(mesh):
        assert fo.state_shardings(fo.adam(), tree()).step == NamedSharding(mesh, P())


def test_what_has_no_place_is_told():
    _, params = placed(AxisType.Auto, "both axes", tree())
    other = jax.make_mesh((8,), ("z",), axis_types=(AxisType.Auto,))
    with pytest.raises(ValueError, match=r"no parameter is on a mesh: place them, jax\.device_put"):
        fo.state_shardings(fo.adam(), tree())
    mixed = {**params, "scale": jax.device_put(jnp.ones(()), NamedSharding(other, P()))}
    with pytest.raises(ValueError, match=r"on different meshes: 'dense\.bias' on Mesh.*'scale' on Mesh"):
        fo.init_sharded(fo.adam(), mixed)
    with pytest.raises(ValueError, match=r"the rule for 'kernle' is found in no parameter"):
        fo.state_shardings(fo.adam(), params, rules=[("kernle", P("x"))])
    with pytest.raises(ValueError, match=r"the rule for 'exp_avg\.odd\.kernel' gives .*'x'.*does not fit its shape"):
        fo.state_shardings(fo.adam(), params, rules=[("odd", P("x"))])
    with pytest.raises(ValueError, match=r"the rule for 'exp_avg\.dense\.kernel' gives .* does not fit its shape"):
        fo.state_shardings(fo.adam(), params, rules=[("exp_avg.dense.kernel", P("x", "x"))])
    with pytest.raises(TypeError, match=r"state_shardings: the rule for 'exp_avg' gives 'x', which is no Part"):
        fo.state_shardings(fo.adam(), params, rules=[("exp_avg", "x")])
    with pytest.raises(TypeError, match=r"state_shardings needs arrays or jax\.Sh.*, but the parameter 'scale' is 1"):
        fo.state_shardings(fo.adam(), {**params, "scale": 1.0})
    abstract = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=p.sharding), params)
    with pytest.raises(TypeError, match=r"init_sharded needs arrays, but the parameter 'dense\.bias' is ShapeDtype"):
        fo.init_sharded(fo.adam(), abstract)
    with pytest.raises(TypeError, match=r"init_sharded needs arrays, but the parameter 'dense\.bias' is"):
        jax.jit(lambda params: fo.init_sharded(fo.adam(), params))(params)
    with pytest.raises(ValueError, match=r"state_shardings: zero='data' is no axis of the mesh; its axes are 'x', 'y'"):
        fo.init_sharded(fo.adam(), params, zero="data")
    with pytest.raises(TypeError, match="state_shardings"):
        fo.state_shardings(fo.adam, params)
