"""Non-finite values spread as in torch, and no further: every entry of every algorithm is compared."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from tests import comparison, nonfinite_cases
from tests.algorithms import ALGORITHMS, FULL, label
from tests.cases import of_this_run

each_algorithm = pytest.mark.parametrize("name", ALGORITHMS)
each_case = pytest.mark.parametrize("case", nonfinite_cases.CASES, ids=label)


def reference(case):
    """Return torch's results for the parameters of this run."""
    every, kept = nonfinite_cases.every_shape(case[0]), nonfinite_cases.shapes(case[0])
    found, sizes = comparison.recorded_run(case, "nonfinite"), {key: math.prod(every[key]) for key in every}
    return found if kept == every else {slot: of_this_run(rows, sizes, kept) for slot, rows in found.items()}


def differing(rows, expected):
    """Return the slots that only one side has, or whose numbers differ; non-finite entries must coincide."""
    missing = rows.keys() ^ expected.keys()
    close = {key: np.allclose(rows[key], expected[key], 1e-11, 1e-13, equal_nan=True) for key in rows.keys() - missing}
    return missing | {key for key, equal in close.items() if not equal}


@each_algorithm
def test_functional(name, x64):
    many, rows = nonfinite_cases.cases_of(name), {}
    data = [{k: jnp.asarray(v) for k, v in options.items() if type(v) is float and v} for _, options in many]
    static = [
        tuple((k, v) for k, v in case[1].items() if k not in numbers) for case, numbers in zip(many, data, strict=True)
    ]
    step_all = comparison.stepper(name, tuple(static))
    start = jax.tree.map(jnp.asarray, nonfinite_cases.parameters(name))
    runs = [(start, getattr(fo, name)(**options).init(start)) for _, options in many]
    for step in range(nonfinite_cases.STEPS):
        grads = jax.tree.map(jnp.asarray, nonfinite_cases.gradients(name, step))
        runs = [(params, state) for params, state, _ in step_all(runs, grads, data)]
        if step + 1 in nonfinite_cases.RECORDED_AT:
            for case, (params, state) in zip(many, runs, strict=True):
                for slot, tree in {"param": params, **comparison.slots_of(state)}.items():
                    held = nonfinite_cases.flatten(tree[key] for key in nonfinite_cases.shapes(name))
                    rows.setdefault(label(case), {}).setdefault(slot, []).append(held)
    for case in many:
        assert not differing(rows[label(case)], reference(case)), label(case)


@each_algorithm
def test_torch_face(name, x64):
    """Compare the first and the last case; in a full run, all of them."""
    every, rows = nonfinite_cases.cases_of(name), {}
    many = every if FULL else [every[0], every[-1]]
    face = comparison.Face(many, "float64", nonfinite_cases.parameters(name))
    for step in range(nonfinite_cases.STEPS):
        face.step(jax.tree.map(jnp.asarray, nonfinite_cases.gradients(name, step)))
        if step + 1 in nonfinite_cases.RECORDED_AT:
            for case, params, entries in zip(many, face.params(), face.entries(), strict=True):
                held = {slot: [entry.get(slot) for entry in entries.values()] for slot in ALGORITHMS[name].slots}
                for slot, arrays in {"param": list(params.values()), **held}.items():
                    if any(array is not None for array in arrays):
                        flat = nonfinite_cases.flatten(arrays)
                        rows.setdefault(label(case), {}).setdefault(slot, []).append(flat)
    for case in many:
        assert not differing(rows[label(case)], reference(case)), label(case)


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

    assert not differing(torch_run.run_nonfinite(case), reference(case))
