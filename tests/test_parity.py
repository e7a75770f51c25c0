"""Every algorithm and flag against torch: recorded trajectories always, a live torch if installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from tests import cases, comparison
from tests.algorithms import ALGORITHMS, CASES, cases_of, few_of, label, names

each_algorithm = pytest.mark.parametrize("name", ALGORITHMS)
each_case = pytest.mark.parametrize("case", CASES, ids=label)


@each_algorithm
def test_float64_trajectory(name, x64):
    errors = comparison.trajectory_errors(cases_of(name), "float64")
    assert not comparison.above(errors, ALGORITHMS[name].tolerance)


@pytest.mark.parametrize("name", names(takes_complex=True))
def test_complex_trajectory(name, x64):
    errors = comparison.trajectory_errors(few_of(name), "complex128")
    assert not comparison.above(errors, ALGORITHMS[name].tolerance)


@each_algorithm
def test_float32_synchronised_steps(name):
    assert not comparison.above(comparison.synchronised_ulps(few_of(name)), *comparison.ULPS)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_first_adam_step_within_4_ulp_of_the_update(name):
    many = cases_of(name)
    runs = [comparison.initial(case, np.float32) for case in many]
    grads = jax.tree.map(jnp.asarray, cases.gradients(name, 0, np.float32))
    narrow = [updates for _, _, updates in comparison.stepped(many, 0, runs, grads)]
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), (runs, grads))
        wide_runs = [(p, s._replace(step=state.step)) for (p, s), (_, state) in zip(wide[0], runs, strict=True)]
        exact = [updates for _, _, updates in comparison.stepped(many, 0, wide_runs, wide[1])]
    for case, ours, right in zip(many, narrow, exact, strict=True):
        ours, right = (cases.flatten(name, tree) for tree in (ours, right))
        assert ours.shape == right.shape == comparison.reference(case, "float64")["param"][0].shape
        difference = np.abs(ours.astype(np.float64) - right)
        assert np.max(difference / np.spacing(np.abs(right).astype(np.float32))) <= 4, label(case)


BY_HAND = [(name, *each) for name, row in ALGORITHMS.items() for each in row.by_hand]


@pytest.mark.parametrize(("name", "options", "expected"), BY_HAND)
def test_four_steps_by_hand(name, options, expected, x64):
    tx, params = getattr(fo, name)(**options), jnp.array([1.0, -2.0])
    state = tx.init(params)
    for grad in ([0.5, -1.0], [-0.25, 0.75], [1.0, 0.1], [0.3, -0.2]):
        updates, state = tx.update(jnp.array(grad), state, params)
        params = fo.apply_updates(params, updates)
    np.testing.assert_allclose(params, expected, rtol=max(1e-11, ALGORITHMS[name].tolerance))


def test_adafactor_of_a_matrix_by_hand(x64):
    tx, params = fo.adafactor(lr=0.5), jnp.array([[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]])
    state = tx.init(params)
    for step in (1, 2):
        grad = jnp.array([[0.5, -1.0, 2.0], [0.1, 0.2, -0.3]]) * step
        updates, state = tx.update(grad, state, params)
        params = fo.apply_updates(params, updates)
    expected = [-0.235634302097, -0.764365697903, -0.746163330043, -1.263336774409, 1.486663225591, 0.14467411054]
    np.testing.assert_allclose(params.reshape(-1), expected, rtol=1e-11)


@pytest.mark.parametrize("name", names(takes_vectors=True))
def test_bfloat16_step_is_the_float64_step_rounded_once(name):
    """From synchronized bfloat16 state: parameters and slots within 1 ulp of the exact step, the update in float32."""
    many, runs = few_of(name), []
    for case in many:
        params, state = comparison.initial(case, np.float32)
        kept = {key: getattr(state, key) for key in ALGORITHMS[name].carried}  # float32 whatever the arrays' dtype
        narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, (params, state))
        runs.append((narrow[0], narrow[1]._replace(**kept)))
    for step in range(6):
        grads = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), cases.gradients(name, step, np.float32))
        narrow = comparison.stepped(many, step, runs, grads)
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.bfloat16 else x, (runs, grads))
            exact = comparison.stepped(many, step, *wide)
        runs = [(params, state) for params, state, _ in narrow]
        for case, (*ours, updates), (*right, _) in zip(many, narrow, exact, strict=True):
            assert all(update.dtype == jnp.float32 for update in jax.tree.leaves(updates)), label(case)
            assert within_an_ulp_of_bfloat16(ours, right), label(case)


def within_an_ulp_of_bfloat16(ours, right):
    """Whether a tree's bfloat16 arrays are a wider tree's, rounded to one of the two neighbors."""
    for one, exact in zip(jax.tree.leaves(ours), map(np.asarray, jax.tree.leaves(right)), strict=True):
        if one.dtype == jnp.bfloat16:
            spacing = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(exact), 1e-30))) - 7)
            if not np.all(np.abs(np.asarray(one).astype(np.float64) - exact) <= spacing):
                return False
    return True


@pytest.mark.torch
@each_case
@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128", "bfloat16"])
def test_recorded_trajectories_are_torchs(case, dtype):
    """The recorded references equal what an installed torch computes now."""
    pytest.importorskip("torch", reason="the live comparison needs torch; the recorded trajectories do not")
    from tests import torch_run

    if dtype == "complex128" and not ALGORITHMS[case[0]].takes_complex:
        pytest.skip("torch refuses complex parameters here")
    recorded = comparison.reference(case, dtype)
    live = torch_run.run(case, dtype, len(recorded["param"]) - 1)
    assert set(live) == set(recorded)
    # Other processors round differently: the error is a few units in the last place of the dtype, carried along.
    tolerance = {"float64": 1e-12, "complex128": 1e-12, "float32": 1e-5, "bfloat16": 5e-2}[dtype]
    for slot, rows in live.items():
        np.testing.assert_allclose(rows, recorded[slot], rtol=tolerance, atol=tolerance * np.max(np.abs(rows)))
