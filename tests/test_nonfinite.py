"""What is not finite spreads as it does in torch, and no further: every entry of every algorithm is compared."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from functorch_optim import optim
from tests import cases, comparison, nonfinite_cases

each_case = pytest.mark.parametrize("case", nonfinite_cases.CASES, ids=cases.label)


def reference(case):
    prefix = f"{cases.label(case)}/"
    found = {k.removeprefix(prefix): v for k, v in comparison.recorded("nonfinite").items() if k.startswith(prefix)}
    assert found, f"no recorded run {prefix}"
    return found


def assert_rows(rows, expected):
    assert rows.keys() == expected.keys()
    for key, right in expected.items():
        np.testing.assert_allclose(np.stack(rows[key]), right, rtol=1e-11, atol=1e-13, err_msg=key)


@each_case
def test_functional(case, x64):
    name, options = case
    data = {key: jnp.asarray(value) for key, value in options.items() if type(value) is float and value}
    stepper = comparison.stepper(name, tuple((key, value) for key, value in options.items() if key not in data))
    params, rows = jax.tree.map(jnp.asarray, nonfinite_cases.parameters(name)), {}
    state = getattr(fo, name)(**options).init(params)
    for step in range(nonfinite_cases.STEPS):
        grads = jax.tree.map(jnp.asarray, nonfinite_cases.gradients(name, step))
        params, state, _ = stepper(params, state, grads, data)
        if step + 1 in nonfinite_cases.RECORDED_AT:
            for slot, tree in {"param": params, **comparison.slots_of(state)}.items():
                held = nonfinite_cases.flatten(tree[key] for key in nonfinite_cases.shapes(name))
                rows.setdefault(slot, []).append(held)
    assert_rows(rows, reference(case))


@each_case
def test_torch_face(case, x64):
    name, options = case
    start = [jnp.asarray(array) for array in nonfinite_cases.parameters(name).values()]
    optimizer, rows = getattr(optim, cases.ALGORITHMS[name][0])(start, **options), {}
    for step in range(nonfinite_cases.STEPS):
        optimizer.step([jnp.asarray(grad) for grad in nonfinite_cases.gradients(name, step).values()])
        if step + 1 in nonfinite_cases.RECORDED_AT:
            rows.setdefault("param", []).append(nonfinite_cases.flatten(optimizer.params))
            for slot in cases.ALGORITHMS[name][1]:
                held = [entry.get(slot) for entry in optimizer.state.values()]
                if any(array is not None for array in held):
                    rows.setdefault(slot, []).append(nonfinite_cases.flatten(held))
    assert_rows(rows, reference(case))


def test_rprop_leaves_an_entry_without_a_number_where_it_is():
    tx, params = fo.rprop(lr=0.5), jnp.array([1.0, 1.0])
    state = tx.init(params)
    for grad in ([1.0, 1.0], [jnp.nan, jnp.inf]):
        updates, state = tx.update(jnp.array(grad), state, params)
        params = fo.apply_updates(params, updates)
    np.testing.assert_allclose(params, [0.5, -0.1], rtol=1e-6)


@pytest.mark.torch
@each_case
def test_recorded_runs_are_torchs(case):
    pytest.importorskip("torch", reason="the live comparison needs torch; the recorded runs do not")
    from tests import torch_run

    assert_rows(torch_run.run_nonfinite(case), reference(case))
