"""Objectives for the quasi-Newton algorithms, which accept JAX and torch arrays, and L-BFGS's cases."""

from typing import Any

import numpy as np


def rosenbrock(leaves: Any, m: Any) -> Any:
    """The Rosenbrock function of one vector."""
    (x,) = leaves
    return m.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def quartic(leaves: Any, m: Any) -> Any:
    """A quartic that couples leaves of any shapes."""
    total = sum(m.sum(leaf) for leaf in leaves)
    return sum(m.sum((leaf - 1) ** 4) for leaf in leaves) + 0.1 * (total - 2) ** 2


def complex_bowl(leaves: Any, m: Any) -> Any:
    """A bowl over complex vectors that weights real and imaginary parts differently."""
    (z,) = leaves
    real, imag = m.real(z), m.imag(z)
    return m.sum((real - 1) ** 2 + 3 * (imag + 2) ** 2 + 0.1 * (real * imag) ** 2)


def start(objective: Any, size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(size)
    if objective is rosenbrock:
        return [np.where(np.arange(size) % 2 == 0, -1.2, 1.0)]
    if objective is complex_bowl:
        return [rng.standard_normal(size) + 1j * rng.standard_normal(size)]
    return [np.asarray(rng.standard_normal(shape)) for shape in ((size, 3), (), (4,))]


WOLFE = {"line_search_fn": "strong_wolfe"}

# The cases outside full runs: each objective with each search, and a history that fills up.
SOME = ("plain-history", "plain-tree", "plain-complex", "wolfe-history", "wolfe-tree", "wolfe-complex")
# label -> objective, size, options, number of steps
LBFGS: dict[str, tuple[Any, int, dict[str, Any], int]] = {
    "plain": (rosenbrock, 2, {"lr": 0.05}, 6),
    "plain-history": (rosenbrock, 10, {"lr": 0.01, "max_iter": 9, "history_size": 3}, 8),
    "plain-one-iteration": (rosenbrock, 2, {"lr": 0.01, "max_iter": 1}, 12),
    "plain-few-evaluations": (rosenbrock, 2, {"lr": 0.01, "max_eval": 5}, 6),
    "plain-tree": (quartic, 2, {"lr": 0.5, "max_iter": 5}, 8),
    "plain-complex": (complex_bowl, 3, {"lr": 0.3, "max_iter": 5}, 6),
    "wolfe": (rosenbrock, 2, {**WOLFE}, 4),
    "wolfe-history": (rosenbrock, 10, {"max_iter": 7, "history_size": 5, **WOLFE}, 8),
    "wolfe-one-iteration": (rosenbrock, 2, {"max_iter": 1, **WOLFE}, 4),
    "wolfe-small-steps": (
        rosenbrock,
        2,
        {"lr": 0.01, "max_iter": 4, "max_eval": 30, **WOLFE},
        8,
    ),
    "wolfe-large-steps": (quartic, 2, {"lr": 20.0, "max_iter": 4, **WOLFE}, 6),
    "wolfe-tree": (quartic, 3, {**WOLFE, "max_iter": 3}, 8),
    "wolfe-complex": (complex_bowl, 4, {**WOLFE, "max_iter": 4}, 4),
}
