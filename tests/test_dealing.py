"""Muon on a mesh: each matrix is computed once, travels in bfloat16, and has one device's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
from benchmarks.collectives import collectives
from functorch_optim import optim
from tests.algorithms import full

KINDS = ["explicit", *full("automatic", "shard_map")]
OUTSIDE = ["explicit", *full("automatic")]  # of shard_map
MATRIX = {f"w{index}": (256, 128) for index in range(8)}
MIXED = {
    "tall": (32, 16),
    "wide": (16, 32),
    "odd": (16, 32),
    "stack": (3, 16, 8),
    "experts": (8, 4, 6),
    "layers": (2, 8, 8, 4),
    "small": (3, 5),
}
SPECS = {
    "tall": P("x", "y"),
    "wide": P("y", "x"),
    "odd": P(None, ("x", "y")),
    "stack": P(None, "x", "y"),
    "experts": P("x", "y"),
    "layers": P(None, ("y", "x"), None, None),
    "small": P(),
}


def draw(shapes, seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.standard_normal(shape), dtype) for name, shape in shapes.items()}


def mesh_of(kind):
    axis_type = AxisType.Explicit if kind == "explicit" else AxisType.Auto
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(axis_type,) * 2)


def on_mesh(kind, specs, tree):
    mesh = mesh_of(kind)
    return {name: jax.device_put(leaf, NamedSharding(mesh, specs[name])) for name, leaf in tree.items()}


def compiled(kind, specs, make, grads, params):
    """The update on a mesh, compiled, with its arguments."""
    tx = make(None if kind == "explicit" else specs)
    params, grads = on_mesh(kind, specs, params), on_mesh(kind, specs, grads)
    state, update = fo.init_sharded(tx, params), tx.update
    if kind == "shard_map":
        places = fo.MuonState(P(), specs)
        update = jax.shard_map(update, in_specs=(specs, places, specs), out_specs=(specs, places))
    with jax.set_mesh(mesh_of(kind)):
        return jax.jit(update).lower(grads, state, params).compile(), (grads, state, params)


def same(found, wanted, tolerance=2e-2):
    for name, leaf in wanted.items():
        error = np.linalg.norm(np.asarray(found[name] - leaf)) / max(np.linalg.norm(np.asarray(leaf)), 1e-30)
        assert error <= tolerance, (name, error)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", [P("x", "y"), *full(P(("x", "y")), P(None, ("y", "x")))])
def test_eight_devices_do_an_eighth_each_and_send_each_matrix_twice(kind, spec):
    make = lambda axis: fo.muon(lr=0.1, axis_name=axis)  # noqa: E731 one line
    specs, grads, params = dict.fromkeys(MATRIX, spec), draw(MATRIX, 1), draw(MATRIX)
    program, arguments = compiled(kind, specs, make, grads, params)
    alone = jax.jit(make(None).update).lower(grads, make(None).init(params), params).compile()
    assert 0.9 <= program.cost_analysis()["flops"] * 8 / alone.cost_analysis()["flops"] <= 1.15
    found = collectives(program.as_text(), 8)
    assert {one.kind for one in found} == {"all-to-all"}
    assert sum(one.sent for one in found) == 7 / 8 * 2 * 2 * 256 * 128  # bfloat16, there and back, of one of eight
    same(program(*arguments)[0], make(None).update(grads, make(None).init(params), params)[0], 1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_replicated_matrices_are_divided_and_gathered(kind):
    make = lambda axis: fo.muon(lr=0.1, axis_name=axis)  # noqa: E731 one line
    specs, grads, params = dict.fromkeys(MATRIX, P()), draw(MATRIX, 1), draw(MATRIX)
    program, arguments = compiled(kind, specs, make, grads, params)
    alone = jax.jit(make(None).update).lower(grads, make(None).init(params), params).compile()
    assert program.cost_analysis()["flops"] * 8 / alone.cost_analysis()["flops"] <= 1.4  # all average all gradients
    (gather,) = collectives(program.as_text(), 8)
    assert gather.kind == "all-gather"
    assert gather.size == 2 * 8 * 256 * 128
    same(program(*arguments)[0], make(None).update(grads, make(None).init(params), params)[0], 1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reshape", [None, *full("out_first", "out_last")])
def test_all_shapes_and_splits_have_one_devices_numbers(kind, reshape):
    make = lambda axis: fo.muon(lr=0.1, reshape=reshape, axis_name=axis)  # noqa: E731 one line
    grads, params = draw(MIXED, 1), draw(MIXED)
    program, arguments = compiled(kind, SPECS, make, grads, params)
    updates, state = program(*arguments)
    wanted, after = make(None).update(grads, make(None).init(params), params)
    same(updates, wanted)
    same(state.momentum_buffer, after.momentum_buffer, 1e-6)
    for name, leaf in updates.items():
        assert leaf.sharding.is_equivalent_to(arguments[2][name].sharding, leaf.ndim), name


@pytest.mark.parametrize("kind", OUTSIDE)
def test_outside_of_jit_and_with_gradients_left_out(kind):
    grads, params = draw(MATRIX, 1), draw(MATRIX)
    tx = fo.muon(lr=0.1, weight_decay=0.0)
    wanted, _ = tx.update({**grads, "w3": None}, tx.init(params), params)
    specs = dict.fromkeys(MATRIX, P("x", "y"))
    placed = on_mesh(kind, specs, params)
    updates, _ = tx.update({**on_mesh(kind, specs, grads), "w3": None}, fo.init_sharded(tx, placed), placed)
    assert updates.pop("w3") is wanted.pop("w3") is None
    same(updates, wanted, 1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_go_through_the_exchange(kind):
    shapes = {f"w{index}": (8, 16) for index in range(3)}
    specs, grads, params = dict.fromkeys(shapes, P("x", "y")), draw(shapes, 1), draw(shapes)

    def outcome(update, state, params):
        def value(grads):
            updates, _ = update(grads, state, params)
            return sum(jnp.sum(updates[name] * params[name]) for name in shapes)

        return value

    tx = fo.muon(lr=0.1, weight_decay=0.0)
    wanted = jax.jit(jax.grad(outcome(tx.update, tx.init(params), params)))(grads)
    assert min(float(jnp.linalg.norm(leaf)) for leaf in wanted.values()) > 1e-3
    tx = fo.muon(lr=0.1, weight_decay=0.0, axis_name=None if kind == "explicit" else specs)
    update, placed = tx.update, on_mesh(kind, specs, params)
    if kind == "shard_map":
        places = fo.MuonState(P(), specs)
        update = jax.shard_map(update, mesh=mesh_of(kind), in_specs=(specs, places, specs), out_specs=(specs, places))
    with jax.set_mesh(mesh_of(kind)):
        found = jax.jit(jax.grad(outcome(update, fo.init_sharded(tx, placed), placed)))
        same(found(on_mesh(kind, specs, grads)), wanted, 3e-2)


@pytest.mark.parametrize("kind", OUTSIDE)
def test_inside_zero_the_parts_travel(kind):
    """Parameters are replicated, the momentum is split: an exchange there and back, and a gather of the updates."""
    params, grads = draw(MATRIX), draw(MATRIX, 1)
    specs = dict.fromkeys(MATRIX, P())
    tx = fo.zero(fo.muon(lr=0.1), "x", specs=P())
    placed = on_mesh(kind, specs, params)
    with jax.set_mesh(mesh_of(kind)):
        state = fo.init_sharded(tx, placed)
        program = jax.jit(tx.update).lower(on_mesh(kind, specs, grads), state, placed).compile()
        updates, _ = program(on_mesh(kind, specs, grads), state, placed)
    plain = fo.muon(lr=0.1)
    same(updates, plain.update(grads, plain.init(params), params)[0], 1e-3)
    assert sum(one.kind == "all-to-all" for one in collectives(program.as_text(), 8)) == 2


def test_the_torch_face_deals_out_too():
    params = draw(MATRIX)
    specs = dict.fromkeys(MATRIX, P("x", "y"))
    one, other = optim.Muon(on_mesh("explicit", specs, params), lr=0.1), optim.Muon(params, lr=0.1)
    one.step(on_mesh("explicit", specs, draw(MATRIX, 1)))
    other.step(draw(MATRIX, 1))
    same(one.params, other.params, 1e-4)
    assert one.params["w0"].sharding.spec == P("x", "y")


@pytest.mark.parametrize("make", [fo.muon, fo.normuon])
def test_under_vmap_with_a_named_axis_the_parts_are_of_one_matrix(make):
    params, grads = draw({"w": (8, 6)}), draw({"w": (8, 6)}, 1)
    tx, plain = make(lr=0.1, axis_name=P(None, "x")), make(lr=0.1)
    wanted, _ = plain.update(grads, plain.init(params), params)
    parts = [{"w": jnp.stack(jnp.split(leaf["w"], 2, 1))} for leaf in (params, grads)]

    def step(params, grads):
        return tx.update(grads, tx.init(params), params)

    updates, _ = jax.vmap(step, axis_name="x")(*parts)
    same({"w": jnp.concatenate(list(updates["w"]), 1)}, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_normuon_and_matrix_axes_on_a_mesh(kind):
    shapes = {"query": (8, 4, 8), "out": (4, 8, 16)}
    specs = {"query": P("x", "y"), "out": P("y", None, "x")}
    axes = {"query": fo.MatrixAxes(outputs=(1, 2), inputs=0), "out": fo.MatrixAxes(outputs=2, inputs=1)}
    make = lambda axis: fo.normuon(lr=0.1, axis_name=axis, matrix_axes=axes)  # noqa: E731 one line
    grads, params = draw(shapes, 1), draw(shapes)
    tx = make(None if kind == "explicit" else specs)
    placed, given = on_mesh(kind, specs, params), on_mesh(kind, specs, grads)
    update = tx.update
    if kind == "shard_map":
        squares = {"query": P(None, "y"), "out": P("y", None, "x")}
        places = fo.NorMuonState(P(), specs, squares)
        update = jax.shard_map(update, mesh=mesh_of(kind), in_specs=(specs, places, specs), out_specs=(specs, places))
    with jax.set_mesh(mesh_of(kind)):
        state = fo.init_sharded(tx, placed)
        for _ in range(2):
            updates, state = jax.jit(update)(given, state, placed)
    wanted, after = make(None).update(grads, make(None).init(params), params)
    wanted, after = make(None).update(grads, after, params)
    same(updates, wanted)
    same(state.second_momentum_buffer, after.second_momentum_buffer, 1e-2)


@pytest.mark.parametrize("kinds", [(AxisType.Auto, AxisType.Explicit), *full((AxisType.Explicit, AxisType.Auto))])
@pytest.mark.parametrize("spec", [P(None, "y"), *full(P("x"), P("x", "y"))])
def test_a_mesh_of_explicit_and_automatic_axes(kinds, spec):
    params, grads = draw({"w": (16, 8), "v": (16, 8)}), draw({"w": (16, 8), "v": (16, 8)}, 1)
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=kinds)
    placed, given = (jax.device_put(tree, NamedSharding(mesh, spec)) for tree in (params, grads))
    plain = fo.muon(lr=0.1)
    wanted, _ = plain.update(grads, plain.init(params), params)
    for tx in (plain, fo.muon(lr=0.1, axis_name=dict.fromkeys(params, spec)), fo.zero(plain, "x", specs=spec)):
        with jax.set_mesh(mesh):
            state = fo.init_sharded(tx, placed)
            updates, after = jax.jit(tx.update)(given, state, placed)
        same(updates, wanted, 1e-3)
        eager, _ = tx.update(given, state, placed)
        same(eager, wanted, 1e-3)
        for name, leaf in updates.items():
            assert leaf.sharding.is_equivalent_to(placed[name].sharding, 2)
            assert after.momentum_buffer[name].sharding.is_equivalent_to(state.momentum_buffer[name].sharding, 2)


@pytest.mark.parametrize("kind", OUTSIDE)
@pytest.mark.parametrize("make", [fo.muon, fo.normuon])
def test_an_ensemble_over_the_devices_is_no_stack_to_deal_out(make, kind):
    stacks, mesh = draw({"v": (4, 6, 4), "w": (4, 6, 4)}), mesh_of(kind)
    tx = make(lr=0.1)
    step = lambda params: tx.update(params, tx.init(params), params)[0]  # noqa: E731 one line
    wanted = {name: jnp.stack([step({"w": matrix})["w"] for matrix in leaf]) for name, leaf in stacks.items()}
    placed = jax.device_put(stacks, NamedSharding(mesh, P("x")))
    mapped = jax.vmap(step) if kind == "explicit" else jax.vmap(step, spmd_axis_name="x")
    with jax.set_mesh(mesh):
        same(jax.jit(mapped)(placed), wanted, 1e-3)


@pytest.mark.parametrize("spec", [P("y"), *full(P(None, "y"))])
def test_inside_shard_map_over_some_explicit_axes(spec):
    mesh, params = mesh_of("explicit"), draw({"a": (8, 8), "b": (8, 8)})
    specs = {"a": P(None, "y"), "b": spec}
    tx = fo.muon(lr=0.1, axis_name=specs)
    wanted, _ = fo.muon(lr=0.1).update(params, fo.muon().init(params), params)
    placed = {
        "a": jax.device_put(params["a"], NamedSharding(mesh, P("x", "y"))),
        "b": jax.device_put(params["b"], NamedSharding(mesh, P("y", "x") if spec == P("y") else P(None, "y"))),
    }
    step = lambda params: tx.update(params, tx.init(params), params)[0]  # noqa: E731 one line
    with jax.set_mesh(mesh):
        run = jax.shard_map(step, mesh=mesh, in_specs=(specs,), out_specs=specs, axis_names={"y"})
        same(jax.jit(run)(placed), wanted, 1e-3)


def test_a_told_split_that_does_not_fit_is_left():
    params, mesh = draw({"odd": (3, 5), "w": (16, 8)}), mesh_of("automatic")
    tx, plain = fo.muon(lr=0.1, axis_name={"odd": P("x"), "w": P("x")}), fo.muon(lr=0.1)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, NamedSharding(mesh, P()))
        updates, _ = jax.jit(tx.update)(placed, tx.init(placed), placed)
    same(updates, plain.update(params, plain.init(params), params)[0], 1e-3)
