"""Prodigy and D-Adapt Adam: the authors' trajectories, groups that share the estimate, and state dicts that cross."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from functorch_optim import optim
from tests import distance_cases
from tests.algorithms import label
from tests.comparison import recorded_run, ulps

NAMES = list(distance_cases.ROWS)
TITLES = {name: title for name, (title, _, _) in distance_cases.ROWS.items()}
each_name = pytest.mark.parametrize("name", NAMES)
each_case = pytest.mark.parametrize("case", distance_cases.CASES, ids=label)


def reference(case, dtype):
    return recorded_run(case, dtype, "distance")


def grads_at(step, dtype):
    return {k: None if g is None else jnp.asarray(g) for k, g in distance_cases.gradients(step, dtype).items()}


def slots_of(case):
    """The slots that the authors have too: without a first beta, they keep no first moment."""
    _, slots, _ = distance_cases.ROWS[case[0]]
    return slots if case[1].get("betas", (0.9,))[0] else slots[1:]


def options_at(case, step):
    return {**case[1], **distance_cases.changing_options(step, case[1])}


def flat(tree):
    return distance_cases.flatten({key: np.asarray(value) for key, value in tree.items()})


def compiled(case):
    """A step whose rate is data."""
    static = {key: value for key, value in case[1].items() if key != "lr"}

    @jax.jit
    def step(params, state, grads, lr):
        updates, state = getattr(fo, case[0])(**static, lr=lr).update(grads, state, params)
        return fo.apply_updates(params, updates), state, updates

    return step


def state_at(case, step, rows, fresh):
    """The state with the authors' slots and scalars after so many updates."""
    _, slots, scalars = distance_cases.ROWS[case[0]]
    own = {name: rows[name][step] for name in scalars} if step else {}
    trees = {slot: unflat(rows[slot][step], fresh.exp_avg) for slot in slots}
    return fresh._replace(step=jnp.asarray(int(rows["k"][step]), jnp.int32), **jax.tree.map(jnp.asarray, own | trees))


def unflat(vector, like):
    found, start = {}, 0
    for key in distance_cases.SHAPES:
        found[key] = vector[start : start + like[key].size].reshape(like[key].shape)
        start += like[key].size
    return found


@each_case
def test_float64_trajectory_is_the_authors(case, x64):
    rows, (_, _, scalars) = reference(case, "float64"), distance_cases.ROWS[case[0]]
    slots = slots_of(case)
    params = jax.tree.map(jnp.asarray, distance_cases.parameters("float64"))
    state, step = getattr(fo, case[0])(**case[1]).init(params), compiled(case)
    for index in range(distance_cases.STEPS["float64"]):
        lr = options_at(case, index)["lr"]
        params, state, _ = step(params, state, grads_at(index, "float64"), lr)
        found = {"param": flat(params), **{slot: flat(getattr(state, slot)) for slot in slots}}
        for key, value in found.items():
            right = rows[key][index + 1]
            np.testing.assert_allclose(value, right, rtol=1e-10, atol=1e-10 * np.abs(right).max(), err_msg=key)
        assert int(state.step) == rows["k"][index + 1]
        for scalar in scalars:
            if rows["k"][index + 1]:
                np.testing.assert_allclose(getattr(state, scalar), rows[scalar][index + 1], rtol=1e-10, err_msg=scalar)


@each_case
def test_float32_synchronised_steps(case):
    rows, slots = reference(case, "float32"), slots_of(case)
    start = jax.tree.map(jnp.asarray, distance_cases.parameters("float32"))
    fresh, step = getattr(fo, case[0])(**case[1]).init(start), compiled(case)
    for index in range(distance_cases.STEPS["float32"]):
        params = jax.tree.map(jnp.asarray, unflat(rows["param"][index], start))
        state = jax.tree.map(
            lambda x: x.astype(jnp.float32) if x.dtype != jnp.int32 else x, state_at(case, index, rows, fresh)
        )
        after, state, updates = step(params, state, grads_at(index, "float32"), options_at(case, index)["lr"])
        right = rows["param"][index + 1]
        moves = {key: jnp.zeros_like(params[key]) if u is None else u for key, u in updates.items()}
        size = np.maximum(np.abs(right), np.abs(flat(moves)))
        assert np.max(ulps(flat(after), right, size, "float32")) <= 8, index
        for slot in slots:
            right, largest = rows[slot][index + 1], np.abs(np.stack([rows[slot][index], rows[slot][index + 1]])).max()
            assert np.max(ulps(flat(getattr(state, slot)), right, np.full_like(right, largest), "float32")) <= 8, slot


@pytest.mark.torch
@each_case
@pytest.mark.parametrize("dtype", distance_cases.STEPS)
def test_recorded_trajectories_are_the_authors(case, dtype):
    pytest.importorskip("torch", reason="compares with the authors' packages")
    from tests import torch_run

    recorded, live = reference(case, dtype), torch_run.run_distance(case, dtype)
    assert set(live) == set(recorded)
    tolerance = {"float64": 1e-9, "float32": 1e-4}[dtype]
    for key, rows in live.items():
        np.testing.assert_allclose(rows, recorded[key], rtol=tolerance, atol=tolerance * np.max(np.abs(rows)))


def made(name, groups=None, **options):
    start = {key: jnp.asarray(value) for key, value in distance_cases.parameters("float64").items()}
    named = (
        list(start.items())
        if groups is None
        else [{"params": [(key, start[key]) for key in keys], **more} for keys, more in groups]
    )
    return getattr(optim, TITLES[name])(named, **options)


def values(optimizer):
    names = [name for group in optimizer.param_groups for name in group["param_names"]]
    return dict(zip(names, jax.tree.leaves(optimizer.params), strict=True))


def step(optimizer, index):
    grads = grads_at(index, "float64")
    groups = [[grads[name] for name in group["param_names"]] for group in optimizer.param_groups]
    optimizer.step(groups if isinstance(optimizer.params[0], list) else groups[0])


@each_name
def test_the_torch_face_has_the_same_numbers(name, x64):
    case = (name, {"weight_decay": 0.1, "d0": 1e-3})
    optimizer, tx = made(name, **case[1]), getattr(fo, name)(**case[1])
    params = jax.tree.map(jnp.asarray, distance_cases.parameters("float64"))
    state = tx.init(params)
    for index in range(12):
        updates, state = tx.update(grads_at(index, "float64"), state, params)
        params = fo.apply_updates(params, updates)
        step(optimizer, index)
    chex.assert_trees_all_close(values(optimizer), params, rtol=1e-12)
    entry = optimizer.state["matrix"]
    np.testing.assert_allclose(entry["d"], state.d, rtol=1e-12)
    other_tx, other, held = optimizer.functional()
    optimizer.restore(other, held)
    assert jax.tree.structure(held) == jax.tree.structure(other_tx.init(other))


@each_name
def test_groups_share_the_estimate_and_decay_by_themselves(name, x64):
    groups = [(("scalar", "vector", "matrix"), {"weight_decay": 0.1}), (("zeros", "late"), {"weight_decay": 0.0})]
    optimizer = made(name, groups, decouple=True, d0=1e-3)
    tx = getattr(fo, name)(weight_decay=0.1, decouple=True, d0=1e-3, decay_mask=lambda n: n not in ("zeros", "late"))
    params = jax.tree.map(jnp.asarray, distance_cases.parameters("float64"))
    state = tx.init(params)
    for index in range(12):
        step(optimizer, index)
        updates, state = tx.update(grads_at(index, "float64"), state, params)
        params = fo.apply_updates(params, updates)
    chex.assert_trees_all_close(values(optimizer), params, rtol=1e-11)
    before = optimizer.state_dict()
    optimizer.param_groups[0]["lr"] = 0.5
    with pytest.raises(RuntimeError, match=r"^Setting different lr values in different"):
        step(optimizer, 12)
    optimizer.param_groups[0]["lr"] = 1.0
    chex.assert_trees_all_equal(optimizer.state_dict(), before)
    frozen = values(optimizer)
    optimizer.param_groups[1]["lr"] = 0.0
    step(optimizer, 13)
    moved = values(optimizer)
    assert all(np.array_equal(moved[key], frozen[key]) for key in ("zeros", "late"))
    assert not np.array_equal(moved["matrix"], frozen["matrix"])


@each_name
def test_a_group_that_is_added_takes_part(name, x64):
    optimizer = made(name, [(("scalar", "vector"), {})])
    whole = made(name, [(("scalar", "vector"), {}), (("matrix",), {})])
    for index in (1, 3):
        step(optimizer, index)
        grads = grads_at(index, "float64")
        whole.step([[grads["scalar"], grads["vector"]], [None]])
    start = jnp.asarray(distance_cases.parameters("float64")["matrix"])
    optimizer.add_param_group({"params": [("matrix", start)]})
    for index in (4, 5):
        step(optimizer, index)
        step(whole, index)
    chex.assert_trees_all_close(values(optimizer), values(whole), rtol=1e-12)


@each_name
def test_a_resumed_run_is_the_run(name, x64):
    groups = [(("scalar", "vector", "late"), {"weight_decay": 0.1}), (("matrix", "zeros"), {})]
    whole, parted = made(name, groups), made(name, groups)
    for index in range(6):
        step(whole, index)
        step(parted, index)
    resumed = made(name, groups)
    for group, other in zip(resumed.params, parted.params, strict=True):
        group[:] = other
    resumed.load_state_dict(parted.state_dict())
    for index in range(6, 12):
        step(whole, index)
        step(resumed, index)
    chex.assert_trees_all_equal(values(resumed), values(whole))
    bad = parted.state_dict()
    bad["param_groups"][0]["fsdp_in_use"] = True
    with pytest.raises(ValueError, match="fsdp_in_use of group 0 is True"):
        resumed.load_state_dict(bad)


@pytest.mark.torch
@each_name
def test_state_dicts_cross_with_the_authors_package(name, x64):
    torch = pytest.importorskip("torch", reason="compares with the authors' packages")
    from tests import oracles

    options = {"weight_decay": 0.1, "d0": 1e-3}

    def theirs(start):
        tensors = {key: torch.nn.Parameter(torch.tensor(np.array(value))) for key, value in start.items()}
        return getattr(oracles, TITLES[name])(list(tensors.values()), **options), tensors

    def step_theirs(optimizer, tensors, index):
        for key, grad in distance_cases.gradients(index, "float64").items():
            tensors[key].grad = None if grad is None else torch.tensor(grad)
        optimizer.step()

    ours = made(name, **options)
    right, tensors = theirs(distance_cases.parameters("float64"))
    for index in range(8):
        step(ours, index)
        step_theirs(right, tensors, index)
    there, there_tensors = theirs(values(ours))
    saved = ours.state_dict()
    as_tensors = jax.tree.map(lambda x: x if isinstance(x, int) else torch.tensor(np.array(x)), saved["state"])
    there.load_state_dict({**saved, "state": as_tensors})
    here = made(name, **options)
    here.load_state_dict(right.state_dict(), match="position")
    here.params = [jnp.asarray(tensors[key].detach().numpy()) for key in distance_cases.SHAPES]
    for index in range(8, 16):
        step(ours, index)
        step(here, index)
        step_theirs(right, tensors, index)
        step_theirs(there, there_tensors, index)
    for key, tensor in tensors.items():
        for other in (values(ours)[key], values(here)[key], there_tensors[key].detach().numpy()):
            np.testing.assert_allclose(other, tensor.detach().numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tx", [fo.prodigy(), fo.dadapt_adam()])
def test_complex_parameters_are_refused(tx):
    with pytest.raises(RuntimeError, match="does not support complex parameters: the parameter 'w'"):
        tx.init({"w": jnp.ones(2, jnp.complex64)})


@each_name
def test_a_step_by_closure_is_the_step_of_its_gradient(name, x64):
    def loss(params, scale):
        return scale * sum(jnp.sum((leaf - 1.0) ** 2) for leaf in params)

    start = [jnp.array([3.0, -1.0]), jnp.array(2.0)]
    one, other = (getattr(optim, TITLES[name])(start, d0=0.1) for _ in range(2))
    for _ in range(3):
        one.step(loss, 0.5)
        other.backward(loss, 0.5)
        other.step()
        other.zero_grad()
    chex.assert_trees_all_close(one.params, other.params, rtol=1e-12)


@each_name
def test_one_gradient_that_is_nan_leaves_the_other_parameters_alone(name, x64):
    tx, params = getattr(fo, name)(d0=0.1), {"good": jnp.ones(2), "bad": jnp.ones(2)}
    state = tx.init(params)
    for bad in (jnp.nan, 1.0, 1.0):
        updates, state = tx.update({"good": jnp.ones(2), "bad": jnp.full(2, bad)}, state, params)
        params = fo.apply_updates(params, updates)
    assert np.all(np.isnan(params["bad"])) and np.all(np.isfinite(params["good"])) and np.isfinite(state.d)


@each_name
def test_cautious_sees_what_it_must_not_mask(name):
    make = getattr(fo, name)
    for options in ({"maximize": True}, {"weight_decay": 0.1, "decouple": True}):
        with pytest.raises(ValueError, match="cautious"):
            fo.cautious(make(**options)).init(jnp.ones(2))
    fo.cautious(make(weight_decay=0.1, decouple=False)).init(jnp.ones(2))


@each_name
def test_hooks_may_rewrite_state_dicts(name, x64):
    optimizer, other = made(name, d0=1e-3), made(name)
    for index in (1, 2):
        step(optimizer, index)
    optimizer.register_state_dict_post_hook(lambda _, saved: {"inside": saved})
    other.register_load_state_dict_pre_hook(lambda _, saved: saved["inside"])
    other.load_state_dict(optimizer.state_dict())
    np.testing.assert_array_equal(other.state["matrix"]["d"], optimizer.state["matrix"]["d"])


def test_one_dtype_for_all_slots_spares_p0():
    state = fo.state_dtype(fo.prodigy(), "bfloat16").init(jnp.ones(2))
    assert (state.p0.dtype, state.exp_avg.dtype, state.s.dtype) == (jnp.float32, jnp.bfloat16, jnp.bfloat16)


def test_a_growth_rate_below_one_is_refused():
    with pytest.raises(ValueError, match=r"Invalid growth_rate value, it must be at least 1: 0\.5"):
        fo.prodigy(growth_rate=0.5)
