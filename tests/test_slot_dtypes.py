"""Slot dtypes: those that an algorithm creates, those that it loads, and those that a functional loop returns."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from functorch_optim import optim, trees
from tests.algorithms import ALGORITHMS, names, oracle

SHAPE = (2, 3)
each_rule = pytest.mark.parametrize("name", ALGORITHMS)


def optimizer_of(name, dtype, **options):
    return getattr(optim, ALGORITHMS[name].title)({"w": jnp.ones(SHAPE, dtype)}, **ALGORITHMS[name].typical, **options)


def slots(optimizer):
    return {key: value for key, value in optimizer.state["w"].items() if np.shape(value)}


def dtypes(optimizer):
    return {str(value.dtype) for value in slots(optimizer).values()}


def gradient(step, dtype):
    """Return gradients whose squares are zero in float16."""
    return {"w": jnp.asarray(1e-4 * np.random.default_rng(step).standard_normal(SHAPE), dtype)}


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "float32"), ("float8_e4m3fn", "float32")],
)
def test_the_dtype_of_a_slot(dtype, kept):
    assert trees.slot_dtype(jax.ShapeDtypeStruct((), dtype)) == kept


@each_rule
@pytest.mark.parametrize("foreach", [False, True])
def test_float16_parameters_have_float32_slots_and_do_not_run_away(name, foreach):
    """The step matches that of float32 parameters, up to rounding of the parameters themselves."""
    several = {"foreach": True} if foreach and ALGORITHMS[name].packs else {}
    tx = getattr(fo, name)(**ALGORITHMS[name].typical, **several)
    params, exact = {"w": jnp.ones(SHAPE, jnp.float16)}, {"w": jnp.ones(SHAPE)}
    state, right = tx.init(params), tx.init(exact)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} <= {jnp.dtype("int32"), jnp.dtype("float32")}
    for step in range(6):
        grads = gradient(step, jnp.float16)
        updates, state = tx.update(grads, state, params)
        expected, right = tx.update({"w": grads["w"].astype(jnp.float32)}, right, exact)
        params, exact = fo.apply_updates(params, updates), fo.apply_updates(exact, expected)
    np.testing.assert_allclose(params["w"].astype(jnp.float32), exact["w"], rtol=4e-3, atol=4e-3)


@each_rule
def test_the_torch_face_makes_and_keeps_float32_slots_for_float16(name):
    optimizer = optimizer_of(name, jnp.float16)
    for step in range(6):
        optimizer.step(gradient(step, jnp.float16))
    assert dtypes(optimizer) == {"float32"} and optimizer.params["w"].dtype == jnp.float16
    assert np.max(np.abs(optimizer.params["w"].astype(jnp.float32) - 1)) < 2
    other = optimizer_of(name, jnp.float16)
    narrow = {key: np.asarray(v, np.float16) if np.shape(v) else v for key, v in optimizer.state["w"].items()}
    other.load_state_dict({**optimizer.state_dict(), "state": {0: narrow}})  # as torch has them
    assert dtypes(other) == {"float32"}


def test_sparse_adam_and_lbfgs_keep_float32_for_float16():
    assert fo.sparse_adam().init(jnp.ones(SHAPE, jnp.float16)).exp_avg_sq.dtype == jnp.float32
    assert fo.lbfgs().init(jnp.ones(2, jnp.float16)).old_dirs.dtype == jnp.float32

    def closure(params):
        return jnp.sum((params[0].astype(jnp.float32) - 3e-3) ** 2)

    optimizer = optim.LBFGS([jnp.ones(2, jnp.float16)], line_search_fn="strong_wolfe")
    for _ in range(3):
        optimizer.step(closure)
    assert closure(optimizer.params) < 1e-4 and optimizer.params[0].dtype == jnp.float16


def test_a_zero_gradient_moves_no_float16_parameter():
    """An eps of 1e-8 is zero in float16: 0 / (sqrt(0) + eps) would be NaN."""
    for name in names(takes_vectors=True):
        known = inspect.signature(getattr(fo, name)).parameters
        if "eps" not in known:
            continue
        decays = [option for option in getattr(fo, name)().update.of.rule.decay_options if option in known]
        tx, params = getattr(fo, name)(lr=0.1, **dict.fromkeys(decays, 0.0)), jnp.ones(2, jnp.float16)
        updates, _ = tx.update(jnp.zeros(2, jnp.float16), tx.init(params), params)
        np.testing.assert_array_equal(updates, 0)


def narrowed(state_dict, dtype):
    """Return a state dict whose slots were saved in another dtype."""
    entry = {
        key: value.astype(dtype) if getattr(value, "ndim", 0) else value
        for key, value in state_dict["state"][0].items()
    }
    return {**state_dict, "state": {0: entry}}


@each_rule
def test_a_loaded_slot_is_never_narrower_than_a_new_one(name):
    source = optimizer_of(name, jnp.float32)
    source.step(gradient(0, jnp.float32))
    target = optimizer_of(name, jnp.float32)
    target.load_state_dict(narrowed(source.state_dict(), jnp.bfloat16))
    assert dtypes(target) == {"float32"}
    target.load_state_dict(source.state_dict(), dtype="bfloat16")
    assert dtypes(target) == {"bfloat16"}
    half = optimizer_of(name, jnp.bfloat16)
    half.load_state_dict(source.state_dict())
    assert dtypes(half) == {"float32"}
    half.load_state_dict(narrowed(source.state_dict(), jnp.float16))
    assert dtypes(half) == {"float32"}, "neither of the two dtypes holds the other's numbers"


def test_second_moments_loaded_in_bfloat16_decay():
    """In bfloat16 a product with .999 rounds back to its old value."""
    optimizer = optim.Adam({"w": jnp.ones(1)}, lr=1e-3)
    entry = {"step": np.float32(1), "exp_avg": jnp.ones(1, jnp.bfloat16), "exp_avg_sq": jnp.ones(1, jnp.bfloat16)}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: entry}})
    for _ in range(10):
        optimizer.step({"w": jnp.zeros(1)})
    np.testing.assert_allclose(optimizer.state["w"]["exp_avg_sq"], 0.999**10, rtol=1e-6)


def test_a_slot_that_the_options_do_not_use_is_widened_too():
    source = optim.Adam({"w": jnp.ones(2)}, amsgrad=True)
    source.step({"w": jnp.ones(2)})
    target = optim.Adam({"w": jnp.ones(2)})
    saved = narrowed(source.state_dict(), jnp.bfloat16)
    saved["param_groups"][0]["amsgrad"] = False
    target.load_state_dict(saved)
    assert target.state["w"]["max_exp_avg_sq"].dtype == jnp.float32


def test_restoring_keeps_what_runs_and_widens_what_is_narrower():
    optimizer = optimizer_of("adam", jnp.float32)
    optimizer.step(gradient(0, jnp.float32))
    narrow = functools.partial(jax.tree.map, lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x)
    _, params, state = optimizer.functional()
    optimizer.restore(params, narrow(state))
    assert dtypes(optimizer) == {"float32"}
    optimizer.load_state_dict(optimizer.state_dict(), dtype="bfloat16")  # requested, so it stays
    optimizer.restore(*optimizer.functional()[1:])
    assert dtypes(optimizer) == {"bfloat16"}


def test_swapped_in_slots_are_widened():
    optimizer = optimizer_of("adam", jnp.float32)
    optimizer.step(gradient(0, jnp.float32))
    saved = narrowed(optimizer.state_dict(), jnp.bfloat16)
    with optim.swap_in_optimizer_params_and_state(optimizer, optimizer.params, saved):
        assert dtypes(optimizer) == {"float32"}


def test_compositions_and_lbfgs_widen_what_they_load():
    made = optim.Optimizer.from_transform(lambda lr: fo.adam(lr=lr), {"w": jnp.ones(SHAPE)}, {"lr": 0.1})
    made.step(gradient(0, jnp.float32))
    made.load_state_dict(narrowed(made.state_dict(), jnp.bfloat16))
    assert dtypes(made) == {"float32"}
    optimizer = optim.LBFGS([jnp.ones(2)])
    optimizer.step(lambda params: jnp.sum(params[0] ** 4))
    optimizer.load_state_dict(narrowed(optimizer.state_dict(), jnp.bfloat16))
    assert optimizer.state[0]["d"].dtype == jnp.float32


def test_lbfgs_of_two_dtypes_loads_its_own_state():
    def loss(params):
        return jnp.sum(params["a"].astype(jnp.float32) ** 2) + jnp.sum(params["b"] ** 4)

    optimizer = optim.LBFGS({"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2)})
    optimizer.step(loss)
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step(loss)


def test_state_dtype_and_packing_hold_for_float16():
    tx = fo.state_dtype(fo.adam(lr=0.1), {"exp_avg": "float16"})
    state = tx.init(jnp.ones(3, jnp.float16))
    assert (state.exp_avg.dtype, state.exp_avg_sq.dtype) == (jnp.float16, jnp.float32)
    params = {"a": jnp.ones(3, jnp.float16), "b": jnp.ones(2, jnp.float16)}
    packed = fo.adam(foreach=True).init(params)
    assert packed.packed.exp_avg_sq["float16"].dtype == jnp.float32
    assert packed.unpack(params).exp_avg_sq["a"].dtype == jnp.float32
    optimizer = optim.Adam(params, foreach=True)
    for _ in range(2):
        optimizer.step({"a": jnp.ones(3, jnp.float16), "b": None})
    assert optimizer.state["a"]["exp_avg_sq"].dtype == jnp.float32


@each_rule
@pytest.mark.parametrize("foreach", [False, True])
def test_one_dtype_is_that_of_all_slots_in_both_faces(name, foreach):
    options = {**ALGORITHMS[name].typical, **({"foreach": True} if foreach and ALGORITHMS[name].packs else {})}
    params = {"w": jnp.ones(SHAPE), "v": jnp.ones((2, 2))}
    tx = fo.state_dtype(getattr(fo, name)(**options), jnp.bfloat16)
    assert tx == fo.state_dtype(getattr(fo, name)(**options), "bfloat16")
    state = tx.init(params)
    optimizer = optimizer_of(name, jnp.float32, state_dtype="bfloat16")
    optimizer.step(gradient(0, jnp.float32))
    _, one = jax.jit(tx.update)(jax.tree.map(jnp.ones_like, params), state, params)
    assert jax.tree.map(jnp.result_type, one) == jax.tree.map(jnp.result_type, state)
    copies = getattr(fo, name)().update.of.rule.copies  # of the parameters, which stay float32
    for entry in (state, one):
        unpacked = entry.unpack(params) if hasattr(entry, "unpack") else entry
        for field, tree in unpacked._asdict().items():
            held = optimizer.state["w"].get(field)
            if field == "step" or not isinstance(tree, dict):
                assert field == "step" or tree is None or tree.dtype == jnp.float32, field
            else:
                dtype = jnp.dtype("float32" if field in copies else "bfloat16")
                assert held is None or held.dtype == dtype
                assert {leaf.dtype for leaf in jax.tree.leaves(tree)} <= {dtype}, field


def test_one_dtype_leaves_what_no_algorithm_keeps():
    params = {"z": jnp.ones(2, jnp.complex64), "w": jnp.ones(2)}
    chain = fo.chain(fo.clip_by_global_norm(1.0), fo.accumulate(fo.nadam(), 2), fo.ema(0.9))
    state = fo.state_dtype(chain, "bfloat16").init(params)
    found = {jax.tree_util.keystr(path): str(leaf.dtype) for path, leaf in jax.tree.leaves_with_path(state)}
    narrow = {path for path, dtype in found.items() if dtype == "bfloat16"}
    assert narrow == {f".states[1].inner.{slot}['w']" for slot in ("exp_avg", "exp_avg_sq")}
    single = fo.state_dtype(fo.nadam(), "bfloat16").init(jnp.ones(()))
    assert (single.exp_avg.dtype, single.mu_product.dtype) == (jnp.bfloat16, jnp.float32)
    parts = {"a": fo.adam(), "b": fo.sgd(momentum=0.9)}
    split = fo.state_dtype(fo.partition(parts, {"z": "a", "w": "b"}), "bfloat16").init(params)
    assert [str(leaf.dtype) for leaf in jax.tree.leaves(split) if leaf.shape] == ["complex64", "complex64", "bfloat16"]
    injected = fo.state_dtype(fo.inject(fo.adam, lr=0.1), "bfloat16").init({"w": jnp.ones(2)})
    assert fo.find_state(injected, fo.AdamState).exp_avg["w"].dtype == jnp.bfloat16
    assert fo.state_dtype(fo.sgd(), "bfloat16").init(params) == fo.sgd().init(params)  # has no slots
    with pytest.raises(ValueError, match="state_dtype: the state is of no algorithm that has slots, but of type Emp"):
        fo.state_dtype(fo.clip_by_global_norm(1.0), "bfloat16").init(params)
    for bad in (None, "int8", ["bfloat16"], "torch.bfloat16", 16):
        with pytest.raises(
            TypeError, match=r"state_dtype: the dtype must be a floating one, but it is .*; write a dtype"
        ):
            fo.state_dtype(fo.adam(), bad)


def test_a_safetensors_file_keeps_float32_slots_of_float16(tmp_path):
    params = {"w": jnp.ones(3, jnp.float16)}
    state = fo.adam().init(params)
    fo.checkpoint.save_safetensors(state, tmp_path / "state.safetensors")
    loaded = fo.checkpoint.load_safetensors(tmp_path / "state.safetensors", like=fo.adam().init(params))
    assert loaded.exp_avg_sq["w"].dtype == jnp.float32


@pytest.mark.torch
@each_rule
def test_torch_takes_the_float32_slots_of_float16_parameters_and_gives_its_own(name):
    torch = pytest.importorskip("torch", reason="a state goes to torch and back")
    ours = optimizer_of(name, jnp.float16)
    ours.step(gradient(0, jnp.float16))
    param = torch.ones(SHAPE, dtype=torch.float16, requires_grad=True)
    theirs = oracle(ALGORITHMS[name].title)([param], **ALGORITHMS[name].typical)
    state = jax.tree.map(lambda x: torch.tensor(np.asarray(x)) if hasattr(x, "dtype") else x, ours.state_dict())
    theirs.load_state_dict(state)
    param.grad = torch.full(SHAPE, 0.5, dtype=torch.float16)
    theirs.step()
    assert torch.isfinite(param).all()
    ours.load_state_dict(theirs.state_dict(), match="position")
    assert dtypes(ours) == {"float32"}
