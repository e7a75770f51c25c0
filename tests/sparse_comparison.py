"""Compare runs with row-sparse gradients with torch's; shared by the tests and the parity table."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import functorch_optim as fo
from functorch_optim import optim, rows
from tests import comparison, sparse_cases
from tests.algorithms import Case, label
from tests.equality import relative

# torch's momentum is sparse and not recorded; the float64 trajectory covers it.
WITH_RECORDED_STATE = [case for case in sparse_cases.CASES if not case[1].get("momentum")]


def recorded(case: Case, kind: str) -> dict[str, np.ndarray]:
    return comparison.recorded_run(case, kind, file="sparse")


def gradient_tree(step: int, dtype: str, absent: Any = ()) -> dict[str, Any]:
    return {
        key: None if key in absent else rows.make(jnp.asarray(values), jnp.asarray(indices), sparse_cases.SHAPES[key])
        for key, (indices, values) in sparse_cases.gradients(step, np.dtype(dtype)).items()
    }


def stepped(many: Sequence[Case], step: int, runs: Any, dtype: str) -> Any:
    """Step all cases; return each one's (parameters, state)."""
    every = [(options, sparse_cases.changing_options(name, step, options)) for name, options in many]
    statics = tuple(tuple(pair for pair in options.items() if pair[0] not in data) for options, data in every)
    step_all = comparison.stepper(many[0][0], statics)
    results = step_all(list(runs), gradient_tree(step, dtype), [comparison.arrays(data) for _, data in every])
    return [(params, state) for params, state, _ in results]


def trajectory_errors(many: Sequence[Case]) -> dict[str, float]:
    """Return, by case, the worst relative difference of parameters and slots from torch's free-running float64 run."""
    expected = [recorded(case, "float64") for case in many]
    start = jax.tree.map(jnp.asarray, sparse_cases.parameters(np.float64))
    runs = [(start, getattr(fo, name)(**options).init(start)) for name, options in many]
    errors = [[] for _ in many]
    for step in range(sparse_cases.STEPS):
        runs = stepped(many, step, runs, "float64")
        for found, record, (params, state) in zip(errors, expected, runs, strict=True):
            for slot, right in record.items():
                tree = params if slot == "param" else getattr(state, slot)
                found.append(relative(sparse_cases.flatten(tree), right[step + 1]))
    return {label(case): comparison.largest(found) for case, found in zip(many, errors, strict=True)}


def face_trajectory_errors(many: Sequence[Case]) -> dict[str, float]:
    """Like :func:`trajectory_errors` for the torch face, with one group per case and missing gradients at some steps;
    parameters only."""
    name = many[0][0]
    expected = [recorded(case, "gaps")["param"] for case in many]
    start = list(sparse_cases.parameters(np.float64).values())
    groups = [{"params": [jnp.array(array) for array in start], **options} for _, options in many]
    optimizer = getattr(optim, sparse_cases.CLASSES[name][0])(groups)
    errors = [[] for _ in many]
    for step in range(sparse_cases.STEPS):
        for group, (_, options) in zip(optimizer.param_groups, many, strict=True):
            group.update(sparse_cases.changing_options(name, step, options))
        grads = list(gradient_tree(step, "float64", sparse_cases.missing(step)).values())
        optimizer.step([grads for _ in many])
        for found, record, arrays in zip(errors, expected, optimizer.params, strict=True):
            ours = np.concatenate([np.asarray(array).reshape(-1) for array in arrays])
            found.append(relative(ours, record[step + 1]))
    return {label(case): comparison.largest(found) for case, found in zip(many, errors, strict=True)}


def synchronised_ulps(many: Sequence[Case]) -> dict[str, tuple[float, float]]:
    """Take each float32 step from torch's state; return, by case, the errors of parameters in ulp of max(|p|, |update|)
    and of slots in ulp of their largest magnitude."""
    expected = [recorded(case, "float32") for case in many]
    fresh = [getattr(fo, name)(**options).init(sparse_cases.parameters(np.float32)) for name, options in many]
    worst = [(0.0, 0.0)] * len(many)
    for step in range(sparse_cases.NARROW_STEPS):
        runs = []
        for state, record in zip(fresh, expected, strict=True):
            held = {key: jax.tree.map(jnp.asarray, sparse_cases.unflatten(v[step])) for key, v in record.items()}
            params = held.pop("param")
            runs.append((params, state._replace(step=jnp.asarray(step, jnp.int32), **held)))
        for index, (params, new) in enumerate(stepped(many, step, runs, "float32")):
            before, after = ({key: record[at] for key, record in expected[index].items()} for at in (step, step + 1))
            size = np.maximum(np.abs(after["param"]), np.abs(after["param"] - before["param"]))
            off = comparison.ulps(sparse_cases.flatten(params), after["param"], size, "float32")
            slots = [
                comparison.ulps(sparse_cases.flatten(getattr(new, slot)), right, np.max(np.abs(right)), "float32")
                for slot, right in after.items()
                if slot != "param"
            ]
            worst[index] = (
                comparison.largest([worst[index][0], float(np.max(off))]),
                comparison.largest([worst[index][1], *[float(np.max(each)) for each in slots]]),
            )
    return {label(case): found for case, found in zip(many, worst, strict=True)}
