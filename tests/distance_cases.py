"""The parameters, gradients and options with which Prodigy and D-Adapt Adam are compared with their authors' code."""

from typing import Any

import numpy as np

ROWS = {  # title, slots, scalars of the estimate
    "prodigy": ("Prodigy", ("exp_avg", "exp_avg_sq", "s"), ("d", "d_max", "d_numerator")),
    "dadapt_adam": ("DAdaptAdam", ("exp_avg", "exp_avg_sq", "s"), ("d", "numerator_weighted")),
}
# From a small d0, the first differences p0 - p cancel: what is rounded in p is 1e10 times as large in them.
_BOTH: list[dict[str, Any]] = [
    {},
    {"d0": 1e-3, "weight_decay": 0.1, "decouple": True, "growth_rate": 1.1},
    {"weight_decay": 0.1, "decouple": False, "maximize": True},
    {"use_bias_correction": True, "betas": (0.8, 0.99), "eps": 1e-6},
    {"growth_rate": 1.5, "lr": 0.5},
]
_PRODIGY: list[dict[str, Any]] = [
    {"d_coef": 0.5, "safeguard_warmup": True},
    {"beta3": 0.9, "betas": (0.0, 0.99), "growth_rate": 1.02},
]
CASES = [(name, options) for name in ROWS for options in _BOTH] + [("prodigy", options) for options in _PRODIGY]
STEPS = {"float64": 50, "float32": 12}
SHAPES = {"scalar": (), "vector": (5,), "matrix": (3, 4), "zeros": (2, 3), "late": (3,)}


def parameters(dtype: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    drawn = {key: np.asarray(rng.standard_normal(shape)).astype(dtype) for key, shape in SHAPES.items()}
    return {**drawn, "zeros": np.zeros(SHAPES["zeros"], dtype)}


def gradients(step: int, dtype: str) -> dict[str, np.ndarray | None]:
    """Return gradients that first point to one side and then swing; all are zero at two steps, some are missing."""
    rng, start = np.random.default_rng(1000 + step), parameters(dtype)
    size = 0.0 if step in (0, 7) else np.cos(0.25 * step)
    grads = {key: size * (0.5 * p + 0.5 + 0.1 * rng.standard_normal(p.shape)) for key, p in start.items()}
    absent = ["late"] * (step < 4) + ["vector"] * (step % 10 == 2)
    return {key: None if key in absent else np.asarray(grad).astype(dtype) for key, grad in grads.items()}


def changing_options(step: int, options: dict[str, Any]) -> dict[str, float]:
    """Return the options as they are before update number ``step`` (the first is 0): a rate of 0 now and then."""
    rate = options.get("lr", 1.0)
    return {"lr": 0.0 if step == 20 else float(rate * (0.5 if step < 3 else 1.0))}


def flatten(tree: dict[str, Any]) -> np.ndarray:
    return np.concatenate([np.asarray(tree[key]).reshape(-1) for key in SHAPES])
