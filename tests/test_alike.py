"""Slots and parameters stay in their place on a mesh, whatever function init and update stand in."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
from functorch_optim import alike, optim
from functorch_optim.core.numerics import full_like, wide_zeros_like, zeros_like
from tests.algorithms import FULL, full

AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit


def mesh_of(kind, *others):
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind, *(others or (kind,))))


def put(mesh, spec, value=0.5, shape=(8, 4), dtype=jnp.float32):
    return jax.device_put(jnp.full(shape, value, dtype), NamedSharding(mesh, spec))


def same_place(leaf, sharding):
    return leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


MAKERS = {
    "adam": (fo.adam(amsgrad=True), lambda state: jax.tree.leaves(state[1:])),
    "rprop": (fo.rprop(), lambda state: jax.tree.leaves(state[1:])),
    "ema": (fo.ema(0.9), lambda state: [state.average]),
    "lookahead": (fo.lookahead(fo.sgd(momentum=0.9)), lambda state: [state.slow, state.inner.momentum_buffer]),
    "accumulate": (fo.accumulate(fo.adam(), 2), lambda state: [state.accumulated, state.inner.exp_avg]),
    "master": (fo.master_weights(fo.adam()), lambda state: [state.inner.exp_avg]),
    "lbfgs": (fo.lbfgs(history_size=2), lambda state: [state.d, state.prev_flat_grad, state.old_dirs[0]]),
}


@pytest.mark.parametrize("name", MAKERS if FULL else ["adam", "ema", "lbfgs"])
def test_init_under_jit_puts_slots_beside_their_parameters(name):
    tx, slots = MAKERS[name]
    param = put(mesh_of(AUTO), P("x", "y"), jnp.nan)
    state, eager = jax.jit(tx.init)(param), tx.init(param)
    assert all(same_place(slot, param.sharding) for slot in slots(state))
    jax.tree.map(np.testing.assert_array_equal, state, eager)
    assert jax.tree.map(jnp.result_type, state) == jax.tree.map(jnp.result_type, eager)


@pytest.mark.parametrize(
    ("make", "value"), [(zeros_like, 0), (wide_zeros_like, 0), (lambda p: full_like(p, 0.25), 0.25)]
)
def test_makers_keep_values_dtypes_and_places(make, value):
    mesh = mesh_of(AUTO)
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16, jnp.complex64):
        param = put(mesh, P(None, "y"), jnp.inf, dtype=dtype)
        made, eager = jax.jit(make)(param), make(param)
        assert made.dtype == eager.dtype and same_place(made, param.sharding)
        np.testing.assert_array_equal(made, eager)
        assert complex(eager[0, 0]).real == value


def in_manual(over):
    return lambda call, mesh: jax.shard_map(call, mesh=mesh, in_specs=P("x"), out_specs=P("x"), axis_names=over)


WITHIN = {
    "vmap": lambda call, mesh: jax.vmap(call),
    "remat": lambda call, mesh: jax.checkpoint(call),
    "jvp": lambda call, mesh: lambda x: jax.jvp(call, (x,), (x,))[0],
    "scan": lambda call, mesh: lambda x: jax.lax.scan(lambda x, _: (call(x), None), x, None, length=2)[0],
    "cond": lambda call, mesh: lambda x: jax.lax.cond(jnp.all(x != 3), call, call, x),
    "while": lambda call, mesh: lambda x: jax.lax.fori_loop(0, jnp.sum(x != x), lambda _, x: call(x), call(x)),
    "some manual axes": in_manual({"x"}),
    "manual axes": in_manual({"x", "y"}),
}


@pytest.mark.parametrize("within", WITHIN if FULL else ["vmap", "jvp", "scan", "some manual axes"])
def test_places_are_kept_inside_every_transformation(within):
    mesh = mesh_of(AUTO)
    param, update = put(mesh, P("x")), put(mesh, P("x", "y"), 0.25)
    made = jax.jit(WITHIN[within](zeros_like, mesh))(update)
    assert within == "manual axes" or same_place(made, update.sharding)
    np.testing.assert_array_equal(made, np.zeros((8, 4)))
    wrapped = WITHIN[within](lambda both: jnp.stack([fo.apply_updates(*both), both[1]]), mesh)
    if "manual" in within or within in ("scan", "while", "cond"):
        inner = (lambda x: fo.apply_updates(x, jnp.sin(x))) if "manual" in within else functools.partial(add, update)
        new = jax.jit(WITHIN[within](inner, mesh))(param)
    else:
        new = jax.jit(lambda p, u: wrapped((p, u))[0])(param, update) if within != "jvp" else None
    if within == "jvp":
        new, tangent = jax.jit(lambda p, u: jax.jvp(fo.apply_updates, (p, u), (p, u)))(param, update)
        np.testing.assert_array_equal(tangent, np.full((8, 4), 0.75))
    assert within in ("vmap", "remat") or same_place(new, param.sharding)


def add(update, param):
    return fo.apply_updates(param, update)


def test_derivatives_pass_through_a_sum_that_is_kept_in_its_place():
    mesh = mesh_of(AUTO)
    param, update = put(mesh, P()), put(mesh, P("x"))
    loss = lambda p, u: jnp.sum(fo.apply_updates(p, u) ** 2)  # noqa: E731 one line
    for slope in jax.jit(jax.grad(loss, argnums=(0, 1)))(param, update):
        np.testing.assert_array_equal(slope, np.full((8, 4), 2.0))
    curved = jax.jit(jax.hessian(lambda a: loss(param * a, update * a)))(jnp.float32(1))
    np.testing.assert_allclose(curved, 2 * 32)
    np.testing.assert_array_equal(jax.jit(jax.vmap(fo.apply_updates))(param, update), np.ones((8, 4)))


@pytest.mark.parametrize("kinds", [(AUTO, AUTO), (EXPLICIT, EXPLICIT), *full((AUTO, EXPLICIT), (EXPLICIT, AUTO))])
@pytest.mark.parametrize(
    ("own", "other"), [(P(None, "y"), P("x", "y")), *full((P(), P("x")), (P("x"), P()), (P("x"), P("x")))]
)
def test_a_parameter_keeps_its_place_whatever_the_place_of_its_update(kinds, own, other):
    mesh = mesh_of(*kinds)
    param, update = put(mesh, own, dtype=jnp.bfloat16), put(mesh, other)
    with jax.set_mesh(mesh):
        for call in (jax.jit(fo.apply_updates), fo.apply_updates):
            new = call({"w": param}, {"w": update})["w"]
            assert same_place(new, param.sharding), (call, new.sharding)
            np.testing.assert_array_equal(np.asarray(new, np.float32), np.ones((8, 4)))


def test_on_one_device_nothing_is_added():
    tx, params = fo.chain(fo.adamw(), fo.ema(0.9)), {"w": jnp.ones((8, 4)), "b": jnp.ones(4)}

    def step(params):
        state = tx.init(params)
        updates, state = tx.update(params, state, params)
        return fo.apply_updates(params, updates), state

    text = jax.jit(step).lower(params).as_text()
    assert "barrier" not in text and "sdy." not in text


def numbers_of(text):
    """What a compiled program does, without names."""
    return sorted(re.findall(r" = \S+ ([a-z][a-z0-9-]*)\(", text))


@pytest.mark.parametrize("spec", [P("x", "y"), P()])
def test_where_nothing_moves_the_same_program_is_compiled(spec, monkeypatch):
    mesh, tx = mesh_of(AUTO), fo.adamw(lr=0.1)
    params = {"w": put(mesh, spec)}
    state = fo.init_sharded(tx, params)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return fo.apply_updates(params, updates), state

    kept = jax.jit(step).lower(params, state, params).compile().as_text()
    monkeypatch.setattr(alike, "is_hidden", lambda array: False)
    plain = jax.jit(lambda *args: step(*args)).lower(params, state, params).compile().as_text()
    assert numbers_of(kept) == numbers_of(plain) and "all-" not in kept


def test_exported_steps_keep_places():
    mesh = mesh_of(AUTO)
    param, update = put(mesh, P()), put(mesh, P("x"))
    exported = jax.export.export(jax.jit(fo.apply_updates))(param, update).serialize()
    assert same_place(jax.jit(jax.export.deserialize(exported).call)(param, update), param.sharding)


@pytest.mark.parametrize(("kind", "foreach"), [(AUTO, False), (EXPLICIT, True), *full((AUTO, True), (EXPLICIT, False))])
def test_the_torch_face_keeps_places(kind, foreach):
    mesh = mesh_of(kind)
    params = {"w": put(mesh, P("x")), "v": put(mesh, P()), "b": put(mesh, P(), shape=(4,))}
    grads = {"w": put(mesh, P()), "v": put(mesh, P("x", "y")), "b": put(mesh, P("x"), shape=(4,))}
    plain = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), (params, grads))
    with jax.set_mesh(mesh):
        one, other = (optim.Adam(tree, lr=0.1, foreach=foreach) for tree in (params, plain[0]))
        for _ in range(2):
            one.step(grads)
        found = one.params
    other.step(plain[1])
    other.step(plain[1])
    for name, leaf in found.items():
        assert same_place(leaf, params[name].sharding), name
        np.testing.assert_allclose(leaf, other.params[name], rtol=1e-6)
