"""Schedule-Free methods: both points, both modes, and what crosses with the authors' package."""

import copy
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from functorch_optim import optim
from tests.algorithms import ALGORITHMS

NAMES = [name for name in ALGORITHMS if name.startswith("schedule_free")]
TYPICAL = {
    "schedule_free_sgd": {"lr": 0.1, "weight_decay": 0.1, "warmup_steps": 4},
    "schedule_free_adamw": {"lr": 0.1, "weight_decay": 0.1, "warmup_steps": 4},
    "schedule_free_radam": {"lr": 0.1, "betas": (0.9, 0.9), "weight_decay": 0.1},
}
TOLERANCE = {"float64": 1e-12, "float32": 2e-6}
each_name = pytest.mark.parametrize("name", NAMES)
SHAPES = {"bias": (3,), "kernel": (4, 3)}


def draw(seed, dtype="float64"):
    rng = np.random.default_rng(seed)
    return {key: rng.standard_normal(shape).astype(dtype) for key, shape in SHAPES.items()}


def arrays(tree, dtype=None):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def run(tx, params, steps, state=None):
    """Take steps with gradients that depend on the parameters."""
    state = tx.init(params) if state is None else state
    step = jax.jit(tx.update)
    for seed in steps:
        grads = jax.tree.map(
            lambda p, g: (0.5 * p.astype(g.dtype) + g).astype(p.dtype), params, arrays(draw(seed), float)
        )
        updates, state = step(grads, state, params)
        params = fo.apply_updates(params, updates)
    return params, state


def made(name, params):
    return getattr(optim, ALGORITHMS[name].title)(params, **TYPICAL[name])


@each_name
def test_eval_params_is_the_average_of_all_z(name, x64):
    """x is defined as the weighted average of z after each update."""
    options = {**TYPICAL[name], "r": 0.5}
    tx, y = getattr(fo, name)(**options), arrays(draw(0))
    state, total, average = tx.init(y), 0.0, y
    for seed in range(1, 12):
        before = float(state.weight_sum)
        updates, state = tx.update(arrays(draw(seed)), state, y)
        y = fo.apply_updates(y, updates)
        weight = float(state.weight_sum) - before
        total += weight
        share = weight / total if total else 0.0
        average = jax.tree.map(lambda a, z, share=share: a + share * (z - a), average, state.z)
    chex.assert_trees_all_close(fo.eval_params(state, y), average, rtol=1e-11)
    chex.assert_trees_all_close(fo.train_params(state, fo.eval_params(state, y)), y, rtol=1e-12)


@each_name
def test_wherever_the_state_stands(name, x64):
    make, params = getattr(fo, name), arrays(draw(0))
    plain = run(make(**TYPICAL[name]), params, range(1, 9))
    expected = fo.eval_params(plain[1], plain[0])
    labels = {"bias": "one", "kernel": "other"}
    forms = {
        "chain": fo.chain(fo.clip_by_global_norm(1e9), make(**TYPICAL[name])),
        "packed": make(**TYPICAL[name], foreach=True),
        "partition": fo.partition({"one": make(**TYPICAL[name]), "other": make(**TYPICAL[name])}, labels),
        "injected": fo.inject(make, **TYPICAL[name]),
    }
    for form, tx in forms.items():
        found, state = run(tx, params, range(1, 9))
        chex.assert_trees_all_close(fo.eval_params(state, found), expected, rtol=1e-11, custom_message=form)
    masked, state = run(fo.masked(make(**TYPICAL[name]), {"bias": False, "kernel": True}), params, range(1, 9))
    averaged = fo.eval_params(state, masked)
    chex.assert_trees_all_equal(averaged["bias"], masked["bias"])
    chex.assert_trees_all_close(averaged["kernel"], expected["kernel"], rtol=1e-11)


def test_what_has_no_average_is_told():
    tx, params = fo.adam(), arrays(draw(0))
    with pytest.raises(KeyError, match="no state of a Schedule-Free method"):
        fo.eval_params(tx.init(params), params)
    tx = fo.schedule_free_adamw(betas=(0.0, 0.9))
    params, state = run(tx, params, [1])
    with pytest.raises(ValueError, match=r"the momentum, or betas\[0\], is 0"):
        fo.eval_params(state, params)


@each_name
def test_bfloat16_parameters_with_float32_masters_stay_within_their_rounding(name):
    """The float32 run from the same numbers, with the gradients of the bfloat16 parameters."""
    start = arrays(draw(0), jnp.bfloat16)
    narrow, wide = fo.master_weights(getattr(fo, name)(**TYPICAL[name])), getattr(fo, name)(**TYPICAL[name])
    y, reference = start, jax.tree.map(lambda x: x.astype(jnp.float32), start)
    state, exact = narrow.init(y), wide.init(reference)
    for seed in range(1, 60):
        grads = jax.tree.map(lambda p, g: 0.5 * p + g, y, arrays(draw(seed), jnp.bfloat16))
        updates, state = narrow.update(grads, state, y)
        y = fo.apply_updates(y, updates)
        updates, exact = wide.update(jax.tree.map(lambda g: g.astype(jnp.float32), grads), exact, reference)
        reference = fo.apply_updates(reference, updates)
    for ours, right in ((y, reference), (fo.eval_params(state, y), fo.eval_params(exact, reference))):
        for leaf, wide_leaf in zip(jax.tree.leaves(ours), jax.tree.leaves(right), strict=True):
            assert leaf.dtype == jnp.bfloat16
            bound = 2.0**-8 * np.abs(wide_leaf) + 1e-6
            assert np.all(np.abs(leaf.astype(jnp.float32) - wide_leaf) <= bound)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.inner.z))
    chex.assert_trees_all_equal(fo.train_params(state, fo.eval_params(state, y)), y)


@each_name
def test_the_modes_of_the_torch_face(name, x64):
    optimizer = made(name, arrays(draw(0)))
    for seed in range(1, 8):
        optimizer.step(arrays(draw(seed)))
    y = dict(optimizer.params)
    _, params, state = optimizer.functional()
    expected = fo.eval_params(state, params)
    optimizer.restore(params, state)
    optimizer.eval()
    optimizer.eval()
    chex.assert_trees_all_close(dict(optimizer.params), expected, rtol=1e-12)
    before = optimizer.state_dict()
    for act in (lambda: optimizer.step(arrays(draw(9))), optimizer.functional):
        with pytest.raises(RuntimeError, match=r"^Optimizer was not in train mode when \w+ is called"):
            act()
    chex.assert_trees_all_equal(optimizer.state_dict(), before)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        with pytest.raises(RuntimeError, match="not in train mode"):
            other.step(arrays(draw(9)))
    optimizer.train()
    optimizer.train()
    chex.assert_trees_all_close(dict(optimizer.params), y, rtol=1e-12)


@each_name
@pytest.mark.parametrize("evaluates", [False, True])
def test_a_resumed_run_is_the_run(name, evaluates, x64):
    """A checkpoint of either mode, through its own parameters and state dict."""
    whole, parted = made(name, arrays(draw(0))), made(name, arrays(draw(0)))
    for seed in range(1, 7):
        whole.step(arrays(draw(seed)))
        parted.step(arrays(draw(seed)))
    if evaluates:
        parted.eval()
    resumed = made(name, dict(parted.params))
    resumed.load_state_dict(parted.state_dict())
    assert [group["train_mode"] for group in resumed.state_dict()["param_groups"]] == [not evaluates]
    resumed.train()
    for seed in range(7, 13):
        whole.step(arrays(draw(seed)))
        resumed.step(arrays(draw(seed)))
    chex.assert_trees_all_close(dict(resumed.params), dict(whole.params), rtol=1e-12)
    whole.eval()
    resumed.eval()
    chex.assert_trees_all_close(dict(resumed.params), dict(whole.params), rtol=1e-12)


def theirs(name, tensors):
    schedulefree = pytest.importorskip("schedulefree", reason="compares with the authors' package")
    return getattr(schedulefree, ALGORITHMS[name].title)(tensors, **TYPICAL[name])


def tensors_of(values, dtype):
    import torch

    return {
        key: torch.nn.Parameter(torch.tensor(np.array(value), dtype=getattr(torch, dtype)))
        for key, value in values.items()
    }


def step_theirs(optimizer, tensors, seed, dtype):
    import torch

    for key, grad in draw(seed, dtype).items():
        tensors[key].grad = torch.tensor(grad)
    optimizer.step()


def close(ours, tensors, dtype):
    for key, leaf in ours.items():
        right = tensors[key].detach().numpy()
        np.testing.assert_allclose(leaf, right, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * np.abs(right).max())


@pytest.mark.torch
@each_name
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("evaluates", [False, True])
def test_checkpoints_cross_with_the_authors_package(name, dtype, evaluates, x64):
    """Six steps here and there, each going on where the other stopped, in either mode; both points are the same."""
    import torch

    tensors = tensors_of(draw(0), dtype)
    right, ours = theirs(name, list(tensors.values())), made(name, arrays(draw(0), dtype))
    right.train()
    for seed in range(1, 7):
        step_theirs(right, tensors, seed, dtype)
        ours.step(arrays(draw(seed, dtype)))
    close(ours.params, tensors, dtype)
    if evaluates:
        right.eval()
        ours.eval()
        close(ours.params, tensors, dtype)
    there_tensors = tensors_of({key: np.asarray(value) for key, value in ours.params.items()}, dtype)
    there = theirs(name, list(there_tensors.values()))
    saved = ours.state_dict()
    as_tensors = jax.tree.map(lambda leaf: torch.tensor(np.array(leaf)), saved["state"])
    there.load_state_dict({**saved, "state": as_tensors})
    here = made(name, {key: jnp.asarray(value.detach().numpy()) for key, value in tensors.items()})
    here.load_state_dict(right.state_dict(), match="position")
    for each in (right, there, here, ours):
        each.train()
    for seed in range(7, 13):
        step_theirs(right, tensors, seed, dtype)
        step_theirs(there, there_tensors, seed, dtype)
        here.step(arrays(draw(seed, dtype)))
        ours.step(arrays(draw(seed, dtype)))
    for each in (ours, here):
        close(each.params, tensors, dtype)
    close({key: value.detach().numpy() for key, value in there_tensors.items()}, tensors, dtype)
    for each in (right, there, here, ours):
        each.eval()
    for each in (ours, here):
        close(each.params, tensors, dtype)
    close({key: value.detach().numpy() for key, value in there_tensors.items()}, tensors, dtype)


@each_name
def test_links_that_would_part_y_from_z_are_refused(name):
    tx = getattr(fo, name)()
    for last in (fo.scale(0.1), fo.clip_by_global_norm(0.05), fo.keep_nonnegative()):
        with pytest.raises(ValueError, match="would not get the parameters of the step"):
            fo.chain(tx, last).init(jnp.ones(2))
    fo.chain(fo.clip_by_global_norm(1.0), tx, fo.ema(0.9)).init(jnp.ones(2))


def test_evaluation_tells_what_does_not_fit():
    tx, params = fo.schedule_free_sgd(), {"w": jnp.ones((2, 3))}
    with pytest.raises(ValueError, match="the slot z of the parameter 'w' has shape"):
        fo.eval_params(tx.init(params), {"w": jnp.zeros(3)})
    several = jax.vmap(tx.init)(params)
    with pytest.raises(ValueError, match=r"inside jax\.vmap too"):
        fo.eval_params(several, params)
    masked = fo.masked(fo.schedule_free_sgd(foreach=True), {"a": True, "b": False})
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    with pytest.raises(ValueError, match="leave foreach out there"):
        fo.eval_params(masked.init(params), params)


@each_name
def test_state_and_mode_change_together(name, x64):
    optimizer = made(name, arrays(draw(0)))
    for seed in range(1, 8):
        optimizer.step(arrays(draw(seed)))
    y = dict(optimizer.params)
    _, params, state = optimizer.functional()
    optimizer.eval()
    optimizer.restore(params, state)
    optimizer.train()  # it already is in train mode
    chex.assert_trees_all_equal(dict(optimizer.params), y)
    optimizer.eval()
    other = made(name, dict(optimizer.params))

    def fail(_):
        raise KeyError("a hook")

    other.register_load_state_dict_pre_hook(lambda _, saved: saved["inside"])
    other.register_load_state_dict_post_hook(fail)
    with pytest.raises(KeyError, match="a hook"):
        other.load_state_dict({"inside": optimizer.state_dict()})
    with pytest.raises(RuntimeError, match="not in train mode"):
        other.step(arrays(draw(9)))
    assert "k" not in other.param_groups[0]
    optimizer.register_state_dict_post_hook(lambda _, saved: {"inside": saved})
    assert optimizer.state_dict()["inside"]["param_groups"][0]["train_mode"] is False


def test_an_average_of_what_is_not_the_state_s_is_refused():
    y = {"w": jnp.ones(4096), "b": jnp.ones(2)}
    narrow = fo.quantized(fo.schedule_free_sgd(), {"z": "dynamic8"}).init(y)
    with pytest.raises(ValueError, match="the slot z of the parameter 'w' is kept in few bits: leave z out"):
        fo.eval_params(narrow, y)
    state = fo.schedule_free_sgd().init(y)
    with pytest.raises(ValueError, match="the slots z do not have the structure of the parameters"):
        fo.eval_params(state, y["w"])
    masked = fo.masked(fo.schedule_free_sgd(), {"w": True, "b": False}).init(y)
    assert fo.eval_params(masked, y)["b"].tolist() == [1.0, 1.0]


def test_one_dtype_for_all_slots_spares_z():
    state = fo.state_dtype(fo.schedule_free_adamw(), "bfloat16").init(jnp.ones(2))
    assert (state.z.dtype, state.exp_avg_sq.dtype) == (jnp.float32, jnp.bfloat16)
