"""A loaded state stays on the devices of the state that it replaces, and steps work on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.checkpoint import from_arrays, load_safetensors, save_safetensors, to_arrays
from tests.algorithms import full

SPECS = {"w": P("x"), "b": P()}


def on_mesh(kind):
    mesh = jax.make_mesh((2,), ("x",), axis_types=(kind,))
    params = {"w": jnp.ones((4, 2)), "b": jnp.ones(3)}
    return mesh, jax.tree.map(lambda p, spec: jax.device_put(p, NamedSharding(mesh, spec)), params, SPECS)


@pytest.mark.parametrize(
    ("kind", "abstract"),
    [(AxisType.Auto, False), (AxisType.Explicit, True), *full((AxisType.Auto, True), (AxisType.Explicit, False))],
)
def test_a_state_resumes_on_a_mesh_with_the_state_that_init_makes(kind, abstract, tmp_path):
    mesh, params = on_mesh(kind)
    tx = fo.chain(fo.clip_by_global_norm(1.0), fo.adam(lr=0.1))
    with jax.set_mesh(mesh):
        _, state = tx.update(params, tx.init(params), params)
        like = jax.eval_shape(tx.init, params) if abstract else tx.init(params)
        save_safetensors(state, tmp_path / "state")
        for found in (load_safetensors(tmp_path / "state", like=like), from_arrays(to_arrays(state), like=like)):
            updates, after = jax.jit(tx.update)(params, found, params)
            assert after.states[1].step == 2 and updates["w"].sharding.is_equivalent_to(params["w"].sharding, 2)
            if not abstract or kind is AxisType.Explicit:
                assert found.states[1].exp_avg["w"].sharding.is_equivalent_to(params["w"].sharding, 2)


@pytest.mark.parametrize("kind", [AxisType.Explicit, *full(AxisType.Auto)])
def test_flat_params_on_a_mesh_join_what_is_whole_and_resume_there(kind, tmp_path):
    mesh, params = on_mesh(kind)
    params["c"] = jax.device_put(jnp.ones((2, 2)), NamedSharding(mesh, P()))
    tx = fo.chain(fo.clip_by_global_norm(1.0), fo.adam(lr=0.1))

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda params: sum(jnp.sum(p**2) for p in fo.unflatten(params).values()))(params)
        updates, state = tx.update(grads, state, params)
        return fo.apply_updates(params, updates), state

    with jax.set_mesh(mesh):
        flat = fo.flat_params(params)
        assert flat.form.names == ("w", "packed.float32")
        wanted, found = step(params, tx.init(params)), step(flat, tx.init(flat))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), fo.unflatten(found), wanted)
        save_safetensors(found, tmp_path / "both")
        again = load_safetensors(tmp_path / "both", like=found)
        for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(found), strict=True):
            assert np.array_equal(one, other) and one.sharding.is_equivalent_to(other.sharding, one.ndim)
        step(*again)


def test_a_composition_in_the_torch_face_resumes_on_a_mesh():
    _, params = on_mesh(AxisType.Auto)
    make = lambda lr: fo.chain(fo.clip_by_global_norm(1.0), fo.adam(lr=lr))  # noqa: E731 one line
    optimizer = optim.Optimizer.from_transform(make, params, {"lr": 0.1})
    optimizer.step(params)
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step(params)
    assert optimizer.params["w"].sharding.is_equivalent_to(params["w"].sharding, 2)


def test_adafactors_statistics_of_rows_and_columns_keep_their_placement():
    _, params = on_mesh(AxisType.Auto)
    optimizer, other = optim.Adafactor(params, lr=0.1), optim.Adafactor(params, lr=0.1)
    optimizer.step(params)
    saved = optimizer.state_dict()
    other.load_state_dict(jax.tree.map(lambda x: np.asarray(x) if hasattr(x, "dtype") else x, saved))
    for slot in ("row_var", "col_var"):
        found, wanted = other.state["w"][slot], optimizer.state["w"][slot]
        assert found.sharding.is_equivalent_to(wanted.sharding, 2)


@pytest.mark.parametrize("spec", [P("x"), P(None, "x")])
@pytest.mark.parametrize("ids_spec", [P(), P("x")])
def test_a_sharded_table_is_looked_up_under_an_explicit_mesh(spec, ids_spec):
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Explicit,))
    table, ids = jnp.arange(12.0).reshape(6, 2), jnp.array([3, -1, 3, 0])
    loss = lambda table, ids: jnp.sum(table[ids] ** 2)  # noqa: E731 one line
    value, grads = fo.value_and_sparse_grad(loss, "")(table, ids)
    with jax.set_mesh(mesh):
        put = lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))  # noqa: E731 one line
        found, rows = jax.jit(fo.value_and_sparse_grad(loss, ""))(put(table, spec), put(ids, ids_spec))
    np.testing.assert_array_equal(rows.data, grads.data)
    np.testing.assert_array_equal(rows.indices, grads.indices)
    assert found == value
