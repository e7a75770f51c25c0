"""ZeRO: the numbers of the transformation inside, a part of the state on each device, and what a step sends."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
from benchmarks.collectives import collectives
from functorch_optim import optim
from functorch_optim.checkpoint import load_safetensors, save_safetensors
from tests.algorithms import full
from tests.equality import same_trees

INNER = {
    "adamw": fo.adamw(lr=0.1),
    "chain": fo.chain(fo.clip_by_global_norm(0.1), fo.adamw(lr=0.1), fo.ema(0.9)),
    "adafactor": fo.adafactor(lr=0.1),
}
RNG = np.random.default_rng(0)
PARAMS = {"bias": RNG.standard_normal(16), "kernel": RNG.standard_normal((4, 16)), "odd": RNG.standard_normal((3, 5))}
BATCH = RNG.standard_normal((16, 4))


def mesh_of(kind):
    return jax.make_mesh((8,), ("data",), axis_types=(kind,))


def loss_of(params, x):
    """The mean over a batch, in products that explicit axes can type."""
    hidden = jnp.tanh(x @ params["kernel"])
    whole = jnp.mean(hidden**2) + jnp.mean(jnp.sin(hidden @ params["bias"]))
    return whole + jnp.sum(jnp.cos(params["odd"])) / 15


GRAD = jax.grad(loss_of)


def run(tx, params, state, x, steps=4, grad=GRAD):
    @jax.jit
    def step(params, state):
        updates, state = tx.update(grad(params, x), state, params)
        return fo.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def alone(name):
    params = jax.tree.map(jnp.asarray, PARAMS)
    return run(INNER[name], params, INNER[name].init(params), jnp.asarray(BATCH))[0]


def close(found, wanted):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


KINDS = [AxisType.Explicit, *full(AxisType.Auto)]
NAMES = ["chain", *full("adamw", "adafactor")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_data_parallel_run_has_the_numbers_of_one_device_and_a_part_of_the_state(kind, name, x64):
    for stage in (1, 2):
        mesh = mesh_of(kind)
        tx = fo.zero(INNER[name], "data", stage)
        with jax.set_mesh(mesh):
            params = jax.device_put(jax.tree.map(jnp.asarray, PARAMS), NamedSharding(mesh, P()))
            x = jax.device_put(jnp.asarray(BATCH), NamedSharding(mesh, P("data")))
            state = fo.init_sharded(tx, params)
            found, after = run(tx, params, state, x)
        close(found, alone(name))
        for leaf in jax.tree.leaves(found):
            assert leaf.sharding.is_fully_replicated
        before = jax.tree.map(lambda leaf: leaf.sharding, state)
        for leaf, place in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
            assert leaf.sharding.is_equivalent_to(place, leaf.ndim)
        split = [leaf for leaf in jax.tree.leaves(after) if 16 in leaf.shape]
        assert split and all(leaf.addressable_shards[0].data.size * 8 == leaf.size for leaf in split)


@pytest.mark.full
@pytest.mark.parametrize("name", ["chain", "adamw"])
def test_unreduced_gradients_of_explicit_axes(name, x64):
    mesh = mesh_of(AxisType.Explicit)

    def grad(params, x):
        spread = {name: jax.sharding.reshard(params[name], P(reduced={"data"})) for name in ("bias", "kernel")}
        found = GRAD({**params, **spread}, x)
        assert jax.typeof(found["kernel"]).sharding.spec.unreduced == {"data"}
        return found

    with jax.set_mesh(mesh):
        params = jax.device_put(jax.tree.map(jnp.asarray, PARAMS), NamedSharding(mesh, P()))
        x = jax.device_put(jnp.asarray(BATCH), NamedSharding(mesh, P("data")))
        tx = fo.zero(INNER[name], "data", stage=2)
        close(run(tx, params, tx.init(params), x, grad=grad)[0], alone(name))
        tx = fo.zero(INNER[name], "data")
        with pytest.raises(ValueError, match=r"parameter 'bias' is unreduced over 'data', which stage=2 takes"):
            run(tx, params, tx.init(params), x, grad=grad)


def in_shard_map(tx, stage, check_vma, steps=4):
    """Run with each device's own share of the mean, whose gradient is summed before, or by stage 2."""
    mesh = mesh_of(AxisType.Auto)
    params = jax.tree.map(jnp.asarray, PARAMS)
    places = jax.tree.map(
        lambda one: one.spec, fo.state_shardings(tx, jax.device_put(params, NamedSharding(mesh, P())))
    )

    def step(params, state, x):
        own = jax.tree.map(lambda p: jax.lax.pcast(p, "data", to="varying"), params) if check_vma else params
        grads = jax.tree.map(lambda grad: grad / 8, jax.grad(loss_of)(own, x))
        if stage == 1:
            grads = jax.lax.psum(grads, "data")
        updates, state = tx.update(grads, state, params)
        return fo.apply_updates(params, updates), state

    def spread(function, into, out):
        return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=into, out_specs=out, check_vma=check_vma))

    state = spread(tx.init, P(), places)(params)
    stepped = spread(step, (P(), places, P("data")), (P(), places))
    program = stepped.lower(params, state, jnp.asarray(BATCH)).compile()
    for _ in range(steps):
        params, state = program(params, state, jnp.asarray(BATCH))
    return params, state, program


@pytest.mark.parametrize("check_vma", [True, *full(False)])
@pytest.mark.parametrize("stage", [2, *full(1)])
@pytest.mark.parametrize("name", NAMES)
def test_inside_shard_map(name, stage, check_vma, x64):
    tx = fo.zero(INNER[name], "data", stage)
    params, state, _ = in_shard_map(tx, stage, check_vma)
    close(params, alone(name))
    split = [leaf for leaf in jax.tree.leaves(state) if 16 in leaf.shape]
    assert split and all(leaf.addressable_shards[0].data.size * 8 == leaf.size for leaf in split)


def test_the_second_stage_sends_half_of_the_gradients_bytes(x64):
    """An all-reduce sends what a reduce-scatter and an all-gather send, so that stage 2 sends no more than none."""
    moved = (16 + 64) * 8  # bytes of the leaves that divide
    left = 15 * 8  # of the one that does not
    plain = [one for one in collectives(in_shard_map(INNER["adamw"], 1, True)[2].as_text(), 8) if one.size > 8]
    first, second = (
        collectives(in_shard_map(fo.zero(INNER["adamw"], "data", stage), stage, True)[2].as_text(), 8)
        for stage in (1, 2)
    )

    def sizes(found, kind):
        return sum(one.size for one in found if one.kind == kind)

    assert {one.kind for one in plain} == {"all-reduce"} and sizes(plain, "all-reduce") == moved + left
    assert sizes(first, "all-reduce") == moved + left and sizes(first, "all-gather") == moved
    assert sizes(second, "all-reduce") == left
    assert sizes(second, "reduce-scatter") == sizes(second, "all-gather") == moved
    sent = [sum(one.sent for one in found) for found in (plain, first, second)]
    assert sent[2] == sent[0] < sent[1]


@pytest.mark.full
def test_the_state_is_that_of_the_transformation_inside(tmp_path):
    """So a checkpoint of a run without it resumes with it, and the other way round."""
    mesh = mesh_of(AxisType.Auto)
    params = jax.device_put(jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), PARAMS), NamedSharding(mesh, P()))
    inner = INNER["chain"]
    tx = fo.zero(inner)
    x = jnp.asarray(BATCH, jnp.float32)
    params, state = run(inner, params, inner.init(params), x)
    save_safetensors({"params": params, "state": state}, tmp_path / "run")
    like = {"params": params, "state": fo.abstract_state(tx, params)}
    found = load_safetensors(tmp_path / "run", like=like)
    assert same_trees(found["state"], state)
    assert found["state"].states[1].exp_avg["bias"].sharding.spec == P("data")
    one, other = run(tx, found["params"], found["state"], x)[0], run(inner, params, state, x)[0]
    for name, leaf in one.items():
        np.testing.assert_allclose(leaf, other[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert fo.current_hyperparams(tx, state) == fo.current_hyperparams(inner, state)


@pytest.mark.full
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_objectives_get_the_parameters_in_their_own_place(kind, x64):
    mesh = mesh_of(kind)
    with jax.set_mesh(mesh):
        params = jax.device_put(jax.tree.map(jnp.asarray, PARAMS), NamedSharding(mesh, P()))
        x = jax.device_put(jnp.asarray(BATCH), NamedSharding(mesh, P("data")))

        def objective(params):
            assert kind == AxisType.Auto or all(not any(jax.typeof(p).sharding.spec) for p in jax.tree.leaves(params))
            return loss_of(params, x)

        sam = fo.sam(fo.sgd(lr=0.1, momentum=0.9), rho=0.1)
        lbfgs = fo.lbfgs(max_iter=3, line_search_fn="strong_wolfe")
        for inner, extra in ((sam, {"grad_fn": jax.grad(objective)}), (lbfgs, {"value_fn": objective})):
            results = []
            for tx in (inner, fo.zero(inner)):
                state, at = fo.init_sharded(tx, params), params
                for _ in range(3):
                    update = jax.jit(functools.partial(tx.update, **extra))
                    updates, state = update(jax.grad(objective)(at), state, at)
                    at = fo.apply_updates(at, updates)
                results.append(at)
            close(*results)


@pytest.mark.full
def test_the_torch_face_splits_too():
    mesh = mesh_of(AxisType.Auto)
    params = jax.device_put(jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), PARAMS), NamedSharding(mesh, P()))
    x = jax.device_put(jnp.asarray(BATCH, jnp.float32), NamedSharding(mesh, P("data")))
    plain = lambda lr: fo.chain(fo.clip_by_global_norm(0.1), fo.adamw(lr=lr))  # noqa: E731 one line
    one, other = (
        optim.Optimizer.from_transform(make, jax.tree.map(jnp.copy, params), {"lr": 0.1})
        for make in (lambda lr: fo.zero(plain(lr)), plain)
    )
    for _ in range(3):
        one.step(loss_of, x)
        other.step(loss_of, x)
    for name, leaf in one.params.items():
        np.testing.assert_allclose(leaf, other.params[name], rtol=1e-5, atol=1e-6, err_msg=name)
        assert leaf.sharding.is_fully_replicated
        assert one.state[name]["exp_avg"].sharding.is_fully_replicated == (name == "odd")


@pytest.mark.full
def test_init_and_steps_without_jit_and_inside_it():
    mesh = mesh_of(AxisType.Auto)
    params = jax.device_put(jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), PARAMS), NamedSharding(mesh, P()))
    tx = fo.zero(fo.adam())
    for state in (tx.init(params), jax.jit(tx.init)(params), fo.init_sharded(tx, params)):
        assert state.exp_avg["kernel"].sharding.is_equivalent_to(NamedSharding(mesh, P(None, "data")), 2)
        assert state.exp_avg["odd"].sharding.is_fully_replicated
        updates, after = tx.update(params, state, params)
        assert updates["kernel"].sharding.is_fully_replicated
        assert after.exp_avg["kernel"].sharding.is_equivalent_to(NamedSharding(mesh, P(None, "data")), 2)
    tx = fo.zero(fo.adamw(lr=0.1), stage=2)  # whose decay reads the parameters too

    def step(run, _):
        updates, state = tx.update(jax.tree.map(jnp.sin, run[0]), run[1], run[0])
        return (fo.apply_updates(run[0], updates), state), None

    looped = jax.jit(lambda *run: jax.lax.scan(step, run, None, length=2)[0])
    after, state = looped(params, fo.init_sharded(tx, params))
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(after))
    assert state.exp_avg["kernel"].sharding.is_equivalent_to(NamedSharding(mesh, P(None, "data")), 2)
    updates, _ = tx.update({**params, "bias": None}, tx.init(params), params)
    assert updates["bias"] is None


def test_parameters_that_are_split_over_other_axes_must_say_so_inside_shard_map():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    specs, params = {"w": P("model")}, {"w": jnp.ones((4, 4))}
    for check_vma, message in ((True, "'w' varies over 'model'"), (False, "is split over 'model': give specs=")):
        for given in (None, specs):
            tx = fo.zero(fo.chain(fo.clip_by_global_norm(0.1), fo.sgd(lr=1.0)), "data", specs=given)
            step = lambda p, tx=tx: tx.update(p, tx.init(p), p)[0]  # noqa: E731 one line
            run = jax.shard_map(step, mesh=mesh, in_specs=(specs,), out_specs=specs, check_vma=check_vma)
            if given is None:
                with pytest.raises(ValueError, match=message):
                    run(params)
            else:
                np.testing.assert_allclose(run(params)["w"], np.full((4, 4), -0.1 / 4), rtol=1e-5)


def test_specs_of_a_part_of_the_tree():
    mesh = mesh_of(AxisType.Auto)
    params = jax.device_put({"a": jnp.ones(8), "b": jnp.ones(8), "none": jnp.ones((0, 8))}, NamedSharding(mesh, P()))
    for specs in (P(), {"a": P(), "b": P(), "none": P()}):
        labels = {"a": "x", "b": "y", "none": "x"}
        state = fo.partition({"x": fo.zero(fo.adam(), specs=specs), "y": fo.sgd()}, labels).init(params)
        found = fo.find_state(state, fo.AdamState).exp_avg
        assert found["a"].sharding.spec == P("data") and found["b"] is None and found["none"].sharding.spec == P()


def test_what_cannot_be_split_is_told():
    params = jax.tree.map(jnp.asarray, {"w": np.ones((8, 4), np.float32)})
    with pytest.raises(TypeError, match="inner of zero must be a transformation"):
        fo.zero(fo.adam)
    with pytest.raises(TypeError, match="zero: axis must be the name of a mesh axis, but it is 0"):
        fo.zero(fo.adam(), 0)
    for stage in (3, True, "1"):
        with pytest.raises(ValueError, match="zero: stage must be 1 or 2, but it is"):
            fo.zero(fo.adam(), stage=stage)
    with pytest.raises(TypeError, match="zero: specs must be a PartitionSpec or a tree of them, but it has 'data'"):
        fo.zero(fo.adam(), specs="data")
    with pytest.raises(ValueError, match="zero: there is no mesh with an axis 'data' here; axes are none"):
        fo.zero(fo.adam()).init(params)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    placed = jax.device_put(params, NamedSharding(mesh, P(None, "model")))
    with pytest.raises(ValueError, match="there is no mesh with an axis 'batch' here; axes are 'data', 'model'"):
        fo.zero(fo.adam(), "batch").init(placed)
    with pytest.raises(
        ValueError, match=r"the traced parameter 'w' does not say how it is split over 'model': give spec"
    ):
        jax.jit(fo.zero(fo.adam()).init)(placed)
    with pytest.raises(TypeError, match=r"zero: specs is 'model' at the parameter 'w', which is no PartitionSpec"):
        jax.jit(fo.zero(fo.adam(), specs=lambda path: "model").init)(placed)
    state = jax.jit(fo.zero(fo.adam(), specs=P(None, "model")).init)(placed)
    assert state.exp_avg["w"].sharding.is_equivalent_to(NamedSharding(mesh, P("data", "model")), 2)


@pytest.mark.full
def test_sums_that_are_open_are_told_inside_shard_map():
    mesh = mesh_of(AxisType.Auto)
    params = {"w": jnp.ones((8, 4))}

    def init(tx, spec):
        return jax.shard_map(tx.init, mesh=mesh, in_specs=spec, out_specs=P())(params)

    def stepped(params):
        tx = fo.zero(fo.sgd(lr=0.1))
        own = jax.tree.map(lambda p: p * jax.lax.axis_index("data").astype(p.dtype), params)
        return tx.update(own, tx.init(params), params)[0]

    with pytest.raises(ValueError, match=r"gradient of the parameter 'w' varies over 'data': stage=2 sums it"):
        jax.shard_map(stepped, mesh=mesh, in_specs=P(), out_specs=P())(params)
    with pytest.raises(ValueError, match=r"the parameter 'w' varies over 'data', so it is split over it already"):
        init(fo.zero(fo.adam()), P("data"))
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    nested = fo.zero(fo.zero(fo.adam(), "model", specs=P()), specs=P())
    with pytest.raises(ValueError, match=r"fo\.zero stands inside another"):
        jax.shard_map(nested.init, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)(params)
