"""State in the host's memory: the numbers of the transformation inside, and the order in which it streams.

Every row of the table is run inside ``fo.offload`` here. It is no row itself: its state is in another memory than its
parameters, and a derivative through several steps raises.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
from functorch_optim import memory, optim
from functorch_optim.checkpoint import load_safetensors, save_safetensors
from functorch_optim.streaming import AHEAD, streamed
from tests.algorithms import full
from tests.equality import same_trees
from tests.mesh_rows import tree
from tests.table import TABLE

SHAPES = {"a": (8, 4), "b": (4,), "c": (6, 4), "d": (16, 2), "e": (3, 3), "scale": ()}
WHOLE = {"chain": fo.chain(fo.clip_by_global_norm(0.5), fo.adamw(lr=0.1), fo.ema(0.9))}


def params_of(seed=0):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in SHAPES.items()}


def kinds(tree):
    return {(leaf.ndim > 0, leaf.sharding.memory_kind) for leaf in jax.tree.leaves(tree)}


def ran(tx, params, steps=3):
    @jax.jit
    def step(params, state):
        updates, state = tx.update(
            jax.tree.map(jnp.sin, params), state, params, value_fn=None, grad_fn=jax.grad(cosine)
        )
        return fo.apply_updates(params, updates), state

    state = jax.jit(tx.init)(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def cosine(params):
    return -sum(jnp.sum(jnp.cos(leaf)) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", [*WHOLE, *full(*TABLE)])
def test_the_numbers_and_the_state_are_those_of_the_transformation_inside(name):
    inner = {**TABLE, **WHOLE}[name]
    found, wanted = ran(fo.offload(inner), tree()), ran(inner, tree())
    assert same_trees(found, wanted)
    assert kinds(found[1]) <= {(True, "pinned_host"), (False, "device")}
    assert kinds(found[0]) == {(True, "device"), (False, "device")}


@pytest.mark.full
def test_searches_stream_too(x64):
    tx = fo.lbfgs(max_iter=3, line_search_fn="strong_wolfe")
    results = []
    for each in (tx, fo.offload(tx)):
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params_of())
        state = jax.jit(each.init)(params)
        for _ in range(3):
            updates, state = jax.jit(lambda g, s, p, each=each: each.update(g, s, p, value_fn=cosine))(
                jax.grad(cosine)(params), state, params
            )
            params = fo.apply_updates(params, updates)
        results.append(params)
    assert same_trees(*results)


def lives(jaxpr):
    """For each point of a traced function, how many arrays have come from the host and are still needed."""
    last = {var: at for at, eqn in enumerate(jaxpr.eqns) for var in eqn.invars if not hasattr(var, "val")}
    fetched, counts = [], []
    for at, eqn in enumerate(jaxpr.eqns):
        if eqn.primitive.name == "device_put" and eqn.outvars[0].aval.memory_space == jax.memory.Space.Device:
            fetched.append((at, last[eqn.outvars[0]]))
        counts.append(sum(begin <= at <= end for begin, end in fetched))
    return fetched, counts


def test_a_step_holds_the_slots_of_one_leaf_at_a_time_and_fetches_those_of_the_next():
    tx, params = fo.offload(fo.chain(fo.clip_by_global_norm(0.5), fo.adamw(lr=0.1))), params_of()
    state = jax.jit(tx.init)(params)
    jaxpr = jax.make_jaxpr(tx.update)(params, state, params).jaxpr
    fetched, counts = lives(jaxpr)
    assert len(fetched) == 10 and max(counts) == 2  # both moments of five leaves
    updates = list(jaxpr.outvars[: len(params)])
    waits = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "optimization_barrier"]
    made = {var: eqn for eqn in jaxpr.eqns for var in eqn.outvars}
    waited = [updates.index(eqn.invars[1]) for eqn in waits]
    assert waited == [0, 0, 1, 1, 2, 2]  # the fetches of the third leaf wait for the update of the first
    assert AHEAD == 2
    starts = {eqn.outvars[0] for eqn in waits}
    moved = [
        var
        for var in starts
        if any(eqn.invars[:1] == [var] and eqn.primitive.name == "device_put" for eqn in jaxpr.eqns)
    ]
    assert len(moved) == len(waits) and not any(var in made for var in jaxpr.invars)


def test_results_are_computed_in_turn_with_what_they_need():
    order = []

    def noted(name, value):
        order.append(name)
        return value

    def function(x, y, z):
        return [x + y, x * z, x], [noted("sum", y + z), y + y, jnp.float32(3)]

    inputs = [jnp.asarray([number] * 2, jnp.float32) for number in (1, 2, 3)]
    inputs[1:] = map(memory.to_host, inputs[1:])
    found = streamed(function, inputs)
    assert [np.asarray(one).tolist() for one in found] == [[3, 3], [3, 3], [1, 1], [5, 5], [4, 4], 3]
    assert order == ["sum"]  # the function is traced, and run once
    primitives = [eqn.primitive.name for eqn in jax.make_jaxpr(lambda *given: streamed(function, given))(*inputs).eqns]
    assert primitives == ["device_put", "add", "add", "device_put", "mul", "add"]


@pytest.mark.full
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("form", ["alone", "in zero", "around zero"])
def test_on_a_mesh_and_in_checkpoints(form, kind, tmp_path):
    inner = fo.chain(fo.clip_by_global_norm(0.5), fo.adamw(lr=0.1))
    tx = {
        "alone": fo.offload(inner), "in zero": fo.zero(fo.offload(inner)), "around zero": fo.offload(fo.zero(inner)),
    }[form]  # fmt: skip
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        params = jax.device_put(params_of(), NamedSharding(mesh, P()))
        state = fo.init_sharded(tx, params)
        assert jax.tree.map(lambda leaf: leaf.sharding, state) == fo.state_shardings(tx, params)

        @jax.jit
        def step(params, state):
            updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params)
            return fo.apply_updates(params, updates), state

        run = step(*step(params, state))
        assert kinds(run[1]) == {(True, "pinned_host"), (False, "device")}
        split = fo.find_state(run[1], fo.AdamState).exp_avg["a"].sharding
        assert split.is_fully_replicated == (form == "alone")
        wanted = ran(inner, params_of(), 2)[0]
        for name, leaf in run[0].items():
            np.testing.assert_allclose(leaf, wanted[name], rtol=1e-5, atol=1e-6)
        for sharded in (False, True):
            save_safetensors(run, tmp_path / "run", sharded=sharded)
            for like in (run, (params, fo.abstract_state(tx, params))):
                found = load_safetensors(tmp_path / "run", like=like)
                assert same_trees(found, run) and kinds(found[1]) == kinds(run[1])


@pytest.mark.full
def test_without_a_mesh_a_checkpoint_comes_back_to_the_host(tmp_path):
    tx, params = fo.offload(fo.adam()), params_of()
    state = jax.jit(tx.init)(params)
    save_safetensors(state, tmp_path / "run")
    assert kinds(load_safetensors(tmp_path / "run", like=state)) == kinds(state)
    plain = load_safetensors(tmp_path / "run", like=fo.adam().init(params))
    assert kinds(plain) == {(True, "device"), (False, "device")}
    _, after = tx.update(params, plain, params)  # and a state on the device goes to the host
    assert kinds(after) == kinds(state)


@pytest.mark.full
def test_parameters_in_the_hosts_memory_stay_there():
    tx = fo.offload(fo.adamw(lr=0.1))
    there = jax.device_put(params_of(), jax.memory.Space.Host)
    state = jax.jit(tx.init)(there)
    updates, state = jax.jit(tx.update)(params_of(1), state, there)
    new = jax.jit(fo.apply_updates)(there, updates)
    assert {kind for _, kind in kinds(new)} == {"pinned_host"} and kinds(state) == {
        (True, "pinned_host"),
        (False, "device"),
    }
    plain = fo.adamw(lr=0.1)
    updates, _ = jax.jit(plain.update)(params_of(1), plain.init(params_of()), params_of())
    assert same_trees(new, fo.apply_updates(params_of(), updates))
    assert same_trees(fo.apply_updates(there, updates), new)


@pytest.mark.full
def test_the_torch_face():
    def make(lr):
        return fo.offload(fo.chain(fo.clip_by_global_norm(0.5), fo.adamw(lr=lr)))

    one = optim.Optimizer.from_transform(make, params_of(), {"lr": 0.1})
    other = optim.Optimizer.from_transform(
        lambda lr: fo.chain(fo.clip_by_global_norm(0.5), fo.adamw(lr=lr)), params_of(), {"lr": 0.1}
    )
    for _ in range(2):
        one.step(cosine)
        other.step(cosine)
        one.load_state_dict(one.state_dict())
        assert one.state["a"]["exp_avg"].sharding.memory_kind == "pinned_host"
    assert same_trees(one.params, other.params)


def test_what_a_function_does_besides_its_results_is_done():
    seen = []

    def rate(count):
        jax.debug.callback(lambda at: seen.append(int(at)), count)
        return 0.1

    tx, params = fo.offload(fo.sgd(lr=rate)), params_of()
    jax.block_until_ready(jax.jit(tx.update)(params, jax.jit(tx.init)(params), params))
    jax.effects_barrier()
    assert seen == [0]


def test_other_memories_are_refused():
    with pytest.raises(ValueError, match=r"offload: memory_kind must be 'pinned_host', .*, but it is 'device'"):
        fo.offload(fo.adam(), "device")
    with pytest.raises(TypeError, match="inner of offload must be a transformation"):
        fo.offload(fo.adam)
