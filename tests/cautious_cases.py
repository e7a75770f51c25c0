"""The runs in which cautious optimizers are compared with those of packages, in float64."""

from typing import Any

import numpy as np

SHAPES = {"vector": (7,), "matrix": (3, 4), "cube": (2, 3, 4)}
LION = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}
ADAMW = {"lr": 0.01, "betas": (0.9, 0.95), "betas_1d": (0.9, 0.95), "weight_decay_1d": 0.1, "eps": 1e-6}
# label -> the class in tests.oracles, its options, the number of steps
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "lion": ("CautiousLion", LION, 40),
    "lion of the paper": ("CautiousLionOfThePaper", LION, 40),
    "adamw of the paper": ("CautiousAdamWOfThePaper", ADAMW, 40),
    "adamw of the paper, ascending": ("CautiousAdamWOfThePaper", {**ADAMW, "maximize": True}, 40),
}


def parameters() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {key: rng.standard_normal(shape) for key, shape in SHAPES.items()}


def gradients(step: int) -> dict[str, np.ndarray]:
    """Return ordinary gradients at most steps; at some, entries are zero, or 1e-30 or 1e15 times as large."""
    rng = np.random.default_rng(500 + step)
    sizes = [1.0, 0.0, 1e-30] if step % 5 == 3 else [1.0, 1e15] if step % 25 == 9 else [1.0]
    return {key: rng.standard_normal(shape) * rng.choice(sizes, size=shape) for key, shape in SHAPES.items()}
