"""The runs in which SAM and ASAM are compared with a package, in float64: parameters, and a slope in any library."""

from typing import Any

import numpy as np

SHAPES = {"bias": (3,), "weight": (3, 4)}
STEPS = 20
CASES: dict[str, dict[str, Any]] = {"sam": {"rho": 0.3, "adaptive": False}, "asam": {"rho": 0.5, "adaptive": True}}
SGD = {"lr": 0.05, "momentum": 0.9}


def parameters() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {key: rng.standard_normal(shape) for key, shape in SHAPES.items()}


def slope(param: Any, library: Any) -> Any:
    """The gradient of the objective with respect to a parameter, an array or a tensor."""
    return library.tanh(3 * param - 1) + 0.2 * param * param * param
