"""Runs torch on the shared cases. Only this file and what records the references imports torch."""

from typing import Any

import numpy as np
import torch

from tests import cases

Trajectory = dict[str, np.ndarray]


def run(case: cases.Case, dtype: str, steps: int) -> Trajectory:
    """Parameters and slots before the first step and after each: arrays of shape (steps + 1, entries).

    NumPy has no bfloat16: its values are held in float32, which is exact.
    """
    name, options = case
    class_name, slots, _ = cases.ALGORITHMS[name]
    kind, numpy_dtype = getattr(torch, dtype), np.dtype("float32" if dtype == "bfloat16" else dtype)
    start = cases.parameters(numpy_dtype)
    params = {key: torch.tensor(value, dtype=kind, requires_grad=True) for key, value in start.items()}
    optimizer = getattr(torch.optim, class_name)(list(params.values()), foreach=False, **options)
    rows: dict[str, list[np.ndarray]] = {"param": [_flat(params)]}
    for step in range(steps):
        optimizer.param_groups[0].update(cases.changing_options(name, step, options))
        grads = cases.gradients(step, numpy_dtype)
        for key, param in params.items():
            param.grad = torch.tensor(grads[key], dtype=kind)
        optimizer.step()
        rows["param"].append(_flat(params))
        for slot in slots:
            values = {key: optimizer.state[param].get(slot) for key, param in params.items()}
            if values["scalar"] is not None:
                rows.setdefault(slot, [np.zeros_like(rows["param"][0])]).append(_flat(values))
    return {key: np.stack(value) for key, value in rows.items()}


def _flat(tree: dict[str, Any]) -> np.ndarray:
    exact = {key: value.float() if value.dtype == torch.bfloat16 else value for key, value in tree.items()}
    return cases.flatten({key: value.detach().numpy().copy() for key, value in exact.items()})
