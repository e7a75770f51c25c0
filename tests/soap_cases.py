"""The parameters, gradients and options with which SOAP is compared with its reference."""

from typing import Any

import numpy as np

SHAPES = {"scalar": (), "vector": (5,), "square": (4, 4), "wide": (3, 5), "cube": (2, 3, 4), "late": (3, 3)}
CASES: list[dict[str, Any]] = [
    {},
    {"precondition_frequency": 1.0, "betas": (0.9, 0.8), "shampoo_beta": 0.7, "weight_decay": 0.0},
    {"merge_dims": True, "max_precond_dim": 8, "precondition_1d": True, "precondition_frequency": 6.0},
    {"max_precond_dim": 4, "normalize_grads": True, "correct_bias": False, "maximize": True, "eps": 1e-3},
]
STEPS = {"float64": 40, "gaps": 40, "float32": 14}
KEPT = {"float64": 1, "gaps": 5, "float32": 1}  # the steps from one that is recorded to the next


def parameters(dtype: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {key: np.asarray(rng.standard_normal(shape)).astype(dtype) for key, shape in SHAPES.items()}


def gradients(step: int, dtype: str, gaps: bool) -> dict[str, np.ndarray | None]:
    """Return gradients of several sizes, which are all zero at one step; with ``gaps`` some are missing."""
    rng = np.random.default_rng(1000 + step)
    size = 0.0 if step == 7 else 10.0 ** np.cos(step)
    grads = {key: size * np.asarray(rng.standard_normal(shape)) for key, shape in SHAPES.items()}
    absent = ["late"] * (step < 4) + ["vector"] * (step == 12) + ["wide"] * (step > 26) if gaps else []
    return {key: None if key in absent else np.asarray(grad).astype(dtype) for key, grad in grads.items()}


def changing_options(step: int, options: dict[str, Any]) -> dict[str, float]:
    """Return the options as they are before update number ``step`` (the first is 0)."""
    changed = {"lr": options.get("lr", 3e-3) * (1 + 0.5 * np.sin(step))}
    decay = options.get("weight_decay", 0.01)
    changed |= {"weight_decay": decay * (1 + 0.3 * np.cos(step))} if decay else {}
    return {key: float(value) for key, value in changed.items()}
