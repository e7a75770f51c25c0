"""Run torch on the shared cases. Only this file and the recorder of the references import torch."""

from typing import Any
from unittest import mock

import numpy as np
import torch

from tests import (
    cases,
    cautious_cases,
    distance_cases,
    long_cases,
    nonfinite_cases,
    quasi_newton_cases,
    sam_cases,
    schedule_cases,
    soap_cases,
    sparse_cases,
)
from tests.algorithms import ALGORITHMS, Case, oracle

Trajectory = dict[str, np.ndarray]


def run(case: Case, dtype: str, steps: int) -> Trajectory:
    """Return parameters and slots before the first step and after each: arrays of shape (steps + 1, entries).

    NumPy has no bfloat16, so its values are stored in float32, which is exact.
    """
    name, options = case
    class_name, slots = ALGORITHMS[name].title, ALGORITHMS[name].slots
    kind, numpy_dtype = getattr(torch, dtype), np.dtype("float32" if dtype == "bfloat16" else dtype)
    start = cases.parameters(name, numpy_dtype)
    params = {key: torch.tensor(value, dtype=kind, requires_grad=True) for key, value in start.items()}
    optimizer = oracle(class_name)(list(params.values()), **options)
    rows: dict[str, list[Any]] = {"param": [_flat(name, params)]}
    for step in range(steps):
        optimizer.param_groups[0].update(cases.changing_options(name, step, options))
        grads = cases.gradients(name, step, numpy_dtype)
        for key, param in params.items():
            param.grad = torch.tensor(grads[key], dtype=kind)
        optimizer.step()
        rows["param"].append(_flat(name, params))
        for slot in slots:
            values = {key: optimizer.state[param].get(slot) for key, param in params.items()}
            if any(value is not None for value in values.values()):
                flat = _flat(name, values, slot)
                rows.setdefault(slot, [np.zeros_like(flat)]).append(flat)
        for scalar in ALGORITHMS[name].carried:
            value = _wide(name)(optimizer.state[next(iter(params.values()))][scalar])
            rows.setdefault(scalar, [_wide(name)(0)]).append(value)  # row 0 is a placeholder
    return {key: np.stack(value) for key, value in rows.items()}


def run_with_gaps(case: Case, steps: tuple[int, ...], gaps: bool) -> Trajectory:
    """Return a float64 run with rewritten options and, with ``gaps``, missing gradients, at the given steps.

    Besides parameters and slots (NaN if torch has none yet) it has each parameter's step count, or -1.
    """
    name, options = case
    class_name, slots = ALGORITHMS[name].title, ALGORITHMS[name].slots
    params = {key: torch.tensor(value, requires_grad=True) for key, value in cases.parameters(name, np.float64).items()}
    optimizer = oracle(class_name)(list(params.values()), **options)
    rows: dict[str, list[np.ndarray]] = {}
    for step in range(max(steps)):
        optimizer.param_groups[0].update(cases.rewritten_options(name, step, options))
        grads, absent = cases.gradients(name, step, np.float64), cases.missing(step) if gaps else set()
        for key, param in params.items():
            param.grad = None if key in absent else torch.tensor(grads[key])
        optimizer.step()
        if step + 1 not in steps:
            continue
        states = {key: optimizer.state.get(param, {}) for key, param in params.items()}
        filled = [states[key] for key, param in params.items() if param.numel()]
        rows.setdefault("param", []).append(_flat(name, params))
        rows.setdefault("step", []).append(np.array([float(state.get("step", -1)) for state in filled]))
        for slot in slots:
            if any(slot in state for state in states.values()):
                held = {
                    key: states[key].get(slot, torch.full(shape, torch.nan, dtype=torch.float64))
                    for key, shape in cases.shapes(name, slot).items()
                }
                rows.setdefault(slot, []).append(_flat(name, held, slot))
        for scalar in ALGORITHMS[name].carried:
            values = [float(state.get(scalar, torch.nan)) for state in filled]
            rows.setdefault(scalar, []).append(np.array(values, _wide(name)))
    return {key: np.stack(value) for key, value in rows.items()}


def run_nonfinite(case: Case) -> Trajectory:
    """Return parameters and slots at the recorded steps of a run with non-finite values."""
    name, options = case
    class_name, slots = ALGORITHMS[name].title, ALGORITHMS[name].slots
    params = {key: torch.tensor(value, requires_grad=True) for key, value in nonfinite_cases.parameters(name).items()}
    optimizer = oracle(class_name)(list(params.values()), **options)
    rows: dict[str, list[np.ndarray]] = {}
    for step in range(nonfinite_cases.STEPS):
        for key, grad in nonfinite_cases.gradients(name, step).items():
            params[key].grad = torch.tensor(grad)
        optimizer.step()
        if step + 1 in nonfinite_cases.RECORDED_AT:
            rows.setdefault("param", []).append(nonfinite_cases.flatten(p.detach() for p in params.values()))
            for slot in slots:
                held = [optimizer.state[param].get(slot) for param in params.values()]
                if any(value is not None for value in held):
                    rows.setdefault(slot, []).append(nonfinite_cases.flatten(held))
    return {key: np.stack(value) for key, value in rows.items()}


def run_long(case: Case, dtype: str) -> Trajectory:
    """Return parameters, slots and carried scalars at the recorded steps of a long run."""
    name, options = case
    class_name, slots = ALGORITHMS[name].title, ALGORITHMS[name].slots
    param = torch.tensor(long_cases.parameter(name, dtype), requires_grad=True)
    optimizer = oracle(class_name)([param], **options)
    rows: dict[str, list[np.ndarray]] = {}
    for step, grad in enumerate(long_cases.gradients(name, dtype), 1):
        param.grad = torch.tensor(grad)
        optimizer.step()
        if step in long_cases.RECORDED_AT:
            state = optimizer.state[param]
            held = {slot: state[slot] for slot in (*slots, *ALGORITHMS[name].carried) if state.get(slot) is not None}
            for key, value in {"param": param.detach(), **held}.items():
                rows.setdefault(key, []).append(value.numpy().copy())
    return {key: np.stack(value) for key, value in rows.items()}


def _wide(name: str) -> Any:
    """The dtype of the scalars that an algorithm carries."""
    return np.float64 if ALGORITHMS[name].carries_doubles else np.float32


def _flat(name: str, tree: dict[str, Any], slot: str = "param") -> np.ndarray:
    there = {key: value for key, value in tree.items() if value is not None}
    exact = {key: value.float() if value.dtype == torch.bfloat16 else value for key, value in there.items()}
    return cases.flatten(name, {key: value.detach().numpy().copy() for key, value in exact.items()}, slot)


def run_sparse(case: Case, dtype: str, steps: int, gaps: bool) -> Trajectory:
    """Return a run with row-sparse gradients: parameters and slots before the first step and after each.

    torch keeps SGD's momentum in a sparse tensor, which is compared only through the parameters.
    """
    name, options = case
    class_name, slots = sparse_cases.CLASSES[name]
    start = sparse_cases.parameters(np.dtype(dtype))
    params = {key: torch.tensor(value, requires_grad=True) for key, value in start.items()}
    optimizer = oracle(class_name)(list(params.values()), **options)
    rows: dict[str, list[Any]] = {"param": [_whole(params)]}
    for step in range(steps):
        optimizer.param_groups[0].update(sparse_cases.changing_options(name, step, options))
        absent = sparse_cases.missing(step) if gaps else set()
        for key, (indices, values) in sparse_cases.gradients(step, np.dtype(dtype)).items():
            shape = sparse_cases.SHAPES[key]
            places = torch.tensor(indices[None].astype(np.int64))
            sparse = torch.sparse_coo_tensor(places, torch.tensor(values), shape, check_invariants=True)
            params[key].grad = None if key in absent else sparse
        optimizer.step()
        rows["param"].append(_whole(params))
        for slot in slots:
            held = {key: optimizer.state[param].get(slot) for key, param in params.items()}
            held = {key: torch.zeros_like(params[key]) if value is None else value for key, value in held.items()}
            flat = _whole(held)
            rows.setdefault(slot, [np.full_like(flat, options.get("initial_accumulator_value", 0))]).append(flat)
    return {key: np.stack(value) for key, value in rows.items()}


def _whole(tree: dict[str, Any]) -> np.ndarray:
    return sparse_cases.flatten({key: value.detach().numpy().copy() for key, value in tree.items()})


def run_distance(case: Case, dtype: str) -> Trajectory:
    """Return parameters and slots (flat) and the scalars before the first step and after each."""
    from tests import oracles

    name, options = case
    title, slots, scalars = distance_cases.ROWS[name]
    start = distance_cases.parameters(dtype)
    params = {key: torch.tensor(value, requires_grad=True) for key, value in start.items()}
    optimizer = getattr(oracles, title)(list(params.values()), **options)
    rows: dict[str, list[Any]] = {"param": [distance_cases.flatten(start)]}
    for step in range(distance_cases.STEPS[dtype]):
        optimizer.param_groups[0].update(distance_cases.changing_options(step, options))
        for key, grad in distance_cases.gradients(step, dtype).items():
            params[key].grad = None if grad is None else torch.tensor(grad)
        optimizer.step()
        rows["param"].append(distance_cases.flatten({key: value.detach().numpy() for key, value in params.items()}))
        for slot in slots:
            held = {key: optimizer.state.get(param, {}).get(slot) for key, param in params.items()}
            zeros = {key: np.zeros_like(start[key]) for key in start}
            filled = {key: zeros[key] if v is None else v.numpy().reshape(start[key].shape) for key, v in held.items()}
            rows.setdefault(slot, [distance_cases.flatten(zeros)]).append(distance_cases.flatten(filled))
        for scalar in ("k", *scalars):
            rows.setdefault(scalar, [np.float64(0)]).append(np.float64(optimizer.param_groups[0][scalar]))
    return {key: np.stack(value) for key, value in rows.items()}


def run_soap(options: dict[str, Any], kind: str) -> Trajectory:
    """Return every array ``slot/parameter`` before the first step (zeros) and after each that is kept."""
    from tests import oracles

    dtype, gaps = kind.replace("gaps", "float64"), kind == "gaps"
    params = {key: torch.tensor(value, requires_grad=True) for key, value in soap_cases.parameters(dtype).items()}
    optimizer = oracles.SOAP(list(params.values()), **options)
    rows: dict[str, list[Any]] = {f"param/{key}": [param.detach().numpy().copy()] for key, param in params.items()}
    for step in range(soap_cases.STEPS[kind]):
        optimizer.param_groups[0].update(soap_cases.changing_options(step, options))
        for key, grad in soap_cases.gradients(step, dtype, gaps).items():
            params[key].grad = None if grad is None else torch.tensor(grad)
        optimizer.step()
        for key, param in params.items():
            arrays = {"param": param, **optimizer.state.get(param, {})}
            for slot, value in arrays.items():
                array = value.detach().numpy().copy()
                held = rows.setdefault(f"{slot}/{key}", [np.zeros_like(array)] * (step + 1))
                held.append(array)
    return {key: np.stack(value[:: soap_cases.KEPT[kind]]) for key, value in rows.items()}


def run_lbfgs(label: str) -> Trajectory:
    """Return parameters (flat) and counts after every step, and torch's whole state after the last step but one."""
    objective, size, options, steps = quasi_newton_cases.LBFGS[label]
    params = [torch.tensor(array, requires_grad=True) for array in quasi_newton_cases.start(objective, size)]
    optimizer = torch.optim.LBFGS(params, **options)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = objective(params, torch)
        loss.backward()
        return loss

    rows: dict[str, list[Any]] = {"param": [], "counts": [], "loss": []}
    for _ in range(steps):
        rows["loss"].append(optimizer.step(closure).item())
        state = optimizer.state[params[0]]
        rows["param"].append(np.concatenate([param.detach().numpy().copy().reshape(-1) for param in params]))
        rows["counts"].append([state["func_evals"], state["n_iter"]])
    return {key: np.stack(value) for key, value in rows.items()}


def run_schedule(label: str) -> np.ndarray:
    """Return the values that a torch scheduler writes at each step from 0 on."""
    _, class_name, arguments = schedule_cases.ALL[label]
    key = "momentum" if label in schedule_cases.MOMENTUM else "lr"
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3, momentum=0.9)
    scheduler = getattr(torch.optim.lr_scheduler, class_name)(optimizer, **arguments)
    values = []
    for _ in range(schedule_cases.STEPS):
        values.append(optimizer.param_groups[0][key])
        optimizer.step()
        if len(values) < schedule_cases.STEPS:
            scheduler.step()
    return np.array(values)


def run_cautious(label: str) -> np.ndarray:
    """Return the parameters of a cautious optimizer after every step."""
    from tests import oracles  # which the other runs need only for what torch does not have

    title, options, steps = cautious_cases.CASES[label]
    params = {key: torch.tensor(value, requires_grad=True) for key, value in cautious_cases.parameters().items()}
    optimizer = getattr(oracles, title)(list(params.values()), **options)
    rows = []
    for step in range(steps):
        for key, grad in cautious_cases.gradients(step).items():
            params[key].grad = torch.tensor(grad)
        optimizer.step()
        rows.append(np.concatenate([param.detach().numpy().copy().reshape(-1) for param in params.values()]))
    return np.stack(rows)


def run_sam(label: str) -> np.ndarray:
    """Return the parameters of a package's SAM or ASAM after every step.

    The package rounds the norm to float32, which would hide all differences below 1e-7; here it stays float64.
    """
    import pytorch_optimizer

    params = {key: torch.tensor(value, requires_grad=True) for key, value in sam_cases.parameters().items()}
    own = {**sam_cases.SGD, **sam_cases.CASES[label]}
    optimizer = pytorch_optimizer.SAM(list(params.values()), torch.optim.SGD, foreach=False, perturb_eps=0.0, **own)

    def closure() -> None:
        for param in params.values():
            param.grad = sam_cases.slope(param.detach(), torch)

    rows = []
    for _ in range(sam_cases.STEPS):
        closure()
        with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
            optimizer.step(closure)
        rows.append(np.concatenate([param.detach().numpy().copy().reshape(-1) for param in params.values()]))
    return np.stack(rows)
