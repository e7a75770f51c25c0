"""ZeRO, state in few bits, the host's memory, clipping and an average in one transformation, on each kind of mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
from functorch_optim.checkpoint import load_safetensors, save_safetensors
from tests.algorithms import full

BOTH = {"exp_avg": "dynamic8", "exp_avg_sq": "dynamic8"}
CHAIN = fo.chain(fo.quantized(fo.chain(fo.clip_by_global_norm(1.0), fo.adamw(lr=0.1)), BOTH), fo.ema(0.9))
PLAIN = fo.chain(fo.chain(fo.clip_by_global_norm(1.0), fo.adamw(lr=0.1)), fo.ema(0.9))
RNG = np.random.default_rng(0)
PARAMS = {"bias": RNG.standard_normal(16), "kernel": RNG.standard_normal((64, 64)), "odd": RNG.standard_normal((3, 5))}
FORMS = {
    "zero around offload": lambda: fo.zero(fo.offload(CHAIN), "data"),
    "offload around zero": lambda: fo.offload(fo.zero(CHAIN, "data", stage=2)),
}


def params_of(mesh=None):
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), PARAMS)
    return params if mesh is None else jax.device_put(params, NamedSharding(mesh, P()))


def ran(tx, params, state, steps=3):
    traces = []

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        traces.append(1)
        updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params)
        return fo.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    assert len(traces) == 1
    return params, state


@pytest.mark.parametrize("kind", [AxisType.Explicit, *full(AxisType.Auto)])
@pytest.mark.parametrize("form", ["zero around offload", *full("offload around zero")])
def test_the_combined_run_has_one_devices_numbers_and_keeps_its_places(form, kind, tmp_path):
    wanted, alone = ran(CHAIN, params_of(), CHAIN.init(params_of()))
    plain, _ = ran(PLAIN, params_of(), PLAIN.init(params_of()))
    mesh, tx = jax.make_mesh((8,), ("data",), axis_types=(kind,)), FORMS[form]()
    with jax.set_mesh(mesh):
        params = params_of(mesh)
        state = fo.init_sharded(tx, params)
        places = jax.tree.map(lambda leaf: leaf.sharding, state)
        found, state = ran(tx, params, state)
    for leaf, place in zip(jax.tree.leaves(state), jax.tree.leaves(places), strict=True):
        assert leaf.sharding.is_equivalent_to(place, leaf.ndim)
    moment, average = fo.find_state(state, fo.AdamState).exp_avg["kernel"], fo.averaged_params(state)["kernel"]
    for leaf, shard in ((moment.codes, (8, 64)), (moment.scales, (2, 1)), (average, (8, 64))):
        assert leaf.sharding.shard_shape(leaf.shape) == shard
        assert leaf.sharding.memory_kind == "pinned_host"
    for name, leaf in found.items():
        assert leaf.sharding.is_fully_replicated
        np.testing.assert_allclose(leaf, wanted[name], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(leaf, plain[name], atol=0.01)  # of three steps of 0.1
    save_safetensors(state, tmp_path / "state")  # which one device goes on with, without the wrappers
    resumed = load_safetensors(tmp_path / "state", like=CHAIN.init(params_of()))
    assert jax.tree.structure(resumed) == jax.tree.structure(alone)
    one, _ = ran(CHAIN, jax.tree.map(jnp.asarray, jax.device_get(found)), resumed, 1)
    other, _ = ran(CHAIN, wanted, alone, 1)
    for name, leaf in one.items():
        np.testing.assert_allclose(leaf, other[name], rtol=1e-4, atol=1e-4)


@pytest.mark.full
def test_the_combined_run_inside_shard_map():
    """There arrays stay in the memory where the program begins, so the state is split and in few bits alone."""
    tx, mesh = fo.zero(CHAIN, "data"), jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    wanted, _ = ran(CHAIN, params_of(), CHAIN.init(params_of()))
    with jax.set_mesh(mesh):
        params = params_of(mesh)
        state = fo.init_sharded(tx, params)
        places = jax.tree.map(lambda leaf: leaf.spec, fo.state_shardings(tx, params))
        update = jax.shard_map(tx.update, in_specs=(P(), places, P()), out_specs=(P(), places))
        for _ in range(3):
            updates, state = jax.jit(update)(jax.tree.map(jnp.sin, params), state, params)
            params = fo.apply_updates(params, updates)
    for name, leaf in params.items():
        np.testing.assert_allclose(leaf, wanted[name], rtol=1e-5, atol=1e-5)
