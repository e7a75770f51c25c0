"""How runs with row-sparse gradients are compared with torch's; the tests and the parity table share it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import functorch_optim as fo
from functorch_optim import optim, rows
from tests import cases, comparison, sparse_cases

WITH_RECORDED_STATE = [case for case in sparse_cases.CASES if not case[1].get("momentum")]


def recorded(case: cases.Case, kind: str) -> dict[str, np.ndarray]:
    prefix = f"{cases.label(case)}/{kind}/"
    return {k.removeprefix(prefix): v for k, v in comparison.recorded("sparse").items() if k.startswith(prefix)}


def gradient_tree(step: int, dtype: str, absent: Any = ()) -> dict[str, Any]:
    return {
        key: None if key in absent else rows.make(jnp.asarray(values), jnp.asarray(indices), sparse_cases.SHAPES[key])
        for key, (indices, values) in sparse_cases.gradients(step, np.dtype(dtype)).items()
    }


@functools.cache
def stepper(name: str, static: tuple[tuple[str, Any], ...]) -> Any:
    """One compiled step whose numbers come in as data."""

    @jax.jit
    def step(params: Any, state: Any, grads: Any, data: dict[str, Any]) -> Any:
        updates, state = getattr(fo, name)(**dict(static), **data).update(grads, state, params)
        return fo.apply_updates(params, updates), state

    return step


def functional_step(case: cases.Case, step: int, params: Any, state: Any, dtype: str) -> Any:
    name, options = case
    changing = sparse_cases.changing_options(name, step, options)
    static = tuple((key, value) for key, value in options.items() if key not in changing)

    def array(value: float) -> jax.Array:
        return jnp.asarray(value, jnp.result_type(float))

    data = {key: array(value) for key, value in changing.items() if key != "betas"}
    if "betas" in changing:
        data["betas"] = tuple(fo.Beta(array(b), array(1 - b)) for b in changing["betas"])
    return stepper(name, static)(params, state, gradient_tree(step, dtype), data)


def _relative(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.max(np.abs(actual - expected)) / np.max(np.abs(expected)))


def trajectory_error(case: cases.Case) -> float:
    """The worst relative difference from torch's free-running float64 trajectory, parameters and slots."""
    expected = recorded(case, "float64")
    params = jax.tree.map(jnp.asarray, sparse_cases.parameters(np.float64))
    state, errors = getattr(fo, case[0])(**case[1]).init(params), []
    for step in range(sparse_cases.STEPS):
        params, state = functional_step(case, step, params, state, "float64")
        trees = {slot: params if slot == "param" else getattr(state, slot) for slot in expected}
        errors += [_relative(sparse_cases.flatten(tree), expected[slot][step + 1]) for slot, tree in trees.items()]
    return max(errors)


def face_trajectory_error(case: cases.Case) -> float:
    """The same for the stateful face, some parameters being without gradients at some steps; parameters only."""
    name, options = case
    expected = recorded(case, "gaps")
    params = sparse_cases.parameters(np.float64)
    optimizer = getattr(optim, sparse_cases.CLASSES[name][0])(list(params.values()), **options)
    errors = []
    for step in range(sparse_cases.STEPS):
        optimizer.param_groups[0].update(sparse_cases.changing_options(name, step, options))
        optimizer.step(list(gradient_tree(step, "float64", sparse_cases.missing(step)).values()))
        ours = np.concatenate([np.asarray(array).reshape(-1) for array in optimizer.params])
        errors.append(_relative(ours, expected["param"][step + 1]))
    return max(errors)


def synchronised_ulps(case: cases.Case) -> tuple[float, float]:
    """Each float32 step from torch's state: parameters in ulp of max(|p|, |update|), slots of their largest."""
    expected = recorded(case, "float32")
    state = getattr(fo, case[0])(**case[1]).init(sparse_cases.parameters(np.float32))
    slots = [slot for slot in expected if slot != "param"]
    param_ulps, slot_ulps = 0.0, 0.0
    for step in range(sparse_cases.NARROW_STEPS):
        held = {slot: jax.tree.map(jnp.asarray, sparse_cases.unflatten(expected[slot][step])) for slot in slots}
        state = state._replace(step=jnp.asarray(step, jnp.int32), **held)
        before, after = expected["param"][step], expected["param"][step + 1]
        start = jax.tree.map(jnp.asarray, sparse_cases.unflatten(before))
        params, new = functional_step(case, step, start, state, "float32")
        size = np.maximum(np.abs(after), np.abs(after - before))
        off = comparison.ulps(sparse_cases.flatten(params), after, size, "float32")
        param_ulps = max(param_ulps, float(np.max(off)))
        for slot in slots:
            right = expected[slot][step + 1]
            off = comparison.ulps(sparse_cases.flatten(getattr(new, slot)), right, np.max(np.abs(right)), "float32")
            slot_ulps = max(slot_ulps, float(np.max(off)))
    return param_ulps, slot_ulps
