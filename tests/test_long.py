"""Runs of 1200 steps against torch's, on both sides of every branch; RAdam's series against exact numbers."""

import decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.algorithms import radam
from tests import comparison, long_cases
from tests.algorithms import ALGORITHMS, full, label
from tests.equality import relative

each_case = pytest.mark.parametrize("case", long_cases.CASES, ids=label)


def reference(case, dtype):
    return comparison.recorded_run(case, f"1200 {dtype}")


def without_subnormals(scalars):
    """Flush subnormals in NAdam's product to zero, as XLA does on a CPU."""
    return np.where(np.abs(scalars) < np.finfo(np.float32).tiny, 0, scalars).astype(scalars.dtype)


def error(actual, expected):
    """Return the worst error of a row of arrays, relative to the row's largest entry."""
    return np.max([relative(ours, right) for ours, right in zip(np.asarray(actual), expected, strict=True)])


@each_case
def test_functional_trajectory(case, x64):
    name, options = case
    tx, expected = getattr(fo, name)(**options), reference(case, "float64")
    start = jnp.asarray(long_cases.parameter(name, "float64"))

    def body(carry, grad):
        params, state = carry
        updates, state = tx.update(grad, state, params)
        params = fo.apply_updates(params, updates)
        return (params, state), {"param": params, **{k: v for k, v in state._asdict().items() if k in expected}}

    grads = jnp.asarray(long_cases.gradients(name, "float64"))
    _, rows = jax.lax.scan(body, (start, tx.init(start)), grads)
    assert rows.keys() == expected.keys()
    at = np.array(long_cases.RECORDED_AT) - 1
    for key, right in expected.items():
        if key in comparison.SCALARS:
            assert error(np.asarray(rows[key])[at], without_subnormals(right)) <= 1e-6
        else:
            assert error(np.asarray(rows[key])[at], right) <= 1e-10


@pytest.mark.full
@each_case
def test_float32_steps_from_torchs_state(case):
    name, options = case
    tx, rows = getattr(fo, name)(**options), reference(case, "float32")
    after = [long_cases.RECORDED_AT.index(step) for step in long_cases.CHECKED_AT]
    before = [index - 1 for index in after]
    grads = long_cases.gradients(name, "float32")[[step - 1 for step in long_cases.CHECKED_AT]]
    fresh = tx.init(jnp.asarray(rows["param"][0]))

    def body(_, at):
        grad, params, step, held = at
        updates, state = tx.update(grad, fresh._replace(step=step, **held), params)
        return None, (fo.apply_updates(params, updates), updates, state)

    held = {key: jnp.asarray(values[before]) for key, values in rows.items() if key != "param"}
    steps = jnp.asarray(long_cases.CHECKED_AT, jnp.int32) - 1
    xs = (jnp.asarray(grads), jnp.asarray(rows["param"][before]), steps, held)
    _, (params, updates, state) = jax.lax.scan(body, None, xs)
    size = np.maximum(np.abs(rows["param"][after]), np.abs(updates))
    assert np.max(comparison.ulps(params, rows["param"][after], size, "float32")) <= 8
    for key in held:
        was, right = (
            without_subnormals(rows[key][at]) if key in comparison.SCALARS else rows[key][at] for at in (before, after)
        )
        size = np.maximum(np.abs(was), np.abs(right))
        assert np.max(comparison.ulps(getattr(state, key), right, size, "float32")) <= 8


@pytest.mark.full
@each_case
def test_torch_face_trajectory(case, x64):
    name, options = case
    expected = reference(case, "float64")
    class_name = ALGORITHMS[name].title
    optimizer = getattr(optim, class_name)([jnp.asarray(long_cases.parameter(name, "float64"))], **options)
    rows = {key: [] for key in expected}
    for step, grad in enumerate(long_cases.gradients(name, "float64"), 1):
        optimizer.step([jnp.asarray(grad)])
        if step in long_cases.RECORDED_AT:
            held = {"param": optimizer.params[0], **optimizer.state[0]}
            for key in expected:
                rows[key].append(np.asarray(held[key]))
    for key, right in expected.items():
        assert error(rows[key], right) <= (0 if key in comparison.SCALARS else 1e-11)


def rectification(beta2, step):
    """Compute RAdam's rectification to sixty digits."""
    with decimal.localcontext(prec=60):
        beta = decimal.Decimal(beta2)
        rho_inf = 2 / (1 - beta) - 1
        rho = rho_inf - 2 * step * beta**step / (1 - beta**step)
        if not rho > 5:
            return 0.0
        return float(((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)).sqrt())


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("beta2", [0.5, 0.92, 0.999, *full(0.9, 0.95, 0.99, 0.9999, 1 - 1e-6)])
def test_radams_rectification_at_every_step(beta2, traced, x64):
    steps = np.unique([*range(1, 1500), *np.geomspace(1500, 1e8, 100).astype(int)]).astype(np.int32)
    exact = np.array([rectification(beta2, int(step)) for step in steps])
    beta = fo.Beta(jnp.asarray(beta2), jnp.asarray(1 - beta2)) if traced else fo.Beta.of(beta2)
    np.testing.assert_allclose(
        jax.jit(lambda step: radam.rectification(beta, step))(jnp.asarray(steps)), exact, rtol=1e-14
    )
    with jax.enable_x64(False):
        narrow = fo.Beta(*map(jnp.float32, (beta2, 1 - beta2))) if traced else beta
        single = jax.jit(lambda step: radam.rectification(narrow, step))(jnp.asarray(steps))
    np.testing.assert_allclose(single, exact, rtol=5e-7)


@pytest.mark.torch
@each_case
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_recorded_runs_are_torchs(case, dtype):
    pytest.importorskip("torch", reason="the live comparison needs torch; the recorded trajectories do not")
    from tests import torch_run

    recorded, live = reference(case, dtype), torch_run.run_long(case, dtype)
    assert set(live) == set(recorded)
    for key, rows in live.items():
        assert error(rows, recorded[key]) <= {"float64": 1e-10, "float32": 1e-4}[dtype]
