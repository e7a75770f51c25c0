"""The cases in which row-sparse gradients are compared with torch."""

from typing import Any

import numpy as np

from tests.algorithms import FULL, Case, covering

SHAPES = {"table": (20, 4), "vector": (30,), "cube": (8, 2, 3), "empty": (0, 3)}
STEPS = 40
NARROW_STEPS = 12

CLASSES = {
    "sparse_adam": ("SparseAdam", ("exp_avg", "exp_avg_sq")),
    "sgd": ("SGD", ()),
    "adagrad": ("Adagrad", ("sum",)),
}
CASES: list[Case] = [
    (name, {**options, "maximize": maximize})
    for name, options in (
        ("sparse_adam", {"lr": 0.05}),
        ("sgd", {"lr": 0.05}),
        ("sgd", {"lr": 0.05, "momentum": 0.9}),
        ("sgd", {"lr": 0.05, "momentum": 0.9, "dampening": 0.5}),
        ("sgd", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
        ("adagrad", {"lr": 0.05}),
        ("adagrad", {"lr": 0.05, "lr_decay": 0.1, "initial_accumulator_value": 0.1}),
    )
    for maximize in (False, True)
]


def cases_of(name: str) -> list[Case]:
    """Return all cases of an algorithm, or enough for every pair of options."""
    every = tuple(options for of, options in CASES if of == name)
    return [(name, options) for options in (every if FULL else covering(every))]


def parameters(dtype: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {key: np.asarray(rng.standard_normal(shape), dtype) for key, shape in SHAPES.items()}


def gradients(step: int, dtype: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the rows and their values for every parameter: some rows twice, at some steps no rows at all."""
    rng = np.random.default_rng(100 + step)
    result = {}
    for key, shape in SHAPES.items():
        count = 0 if not shape[0] or step % 7 == 5 else 6
        rows = rng.integers(0, max(shape[0], 1), count)
        rows[1:2] = rows[:1]
        result[key] = rows.astype(np.int32), np.asarray(rng.standard_normal((count, *shape[1:])), dtype)
    return result


def missing(step: int) -> set[str]:
    """Return the parameters without a gradient at a step of the runs with gaps."""
    return ({"vector"} if step < 3 else set()) | ({"table"} if step % 10 == 4 else set())


def changing_options(name: str, step: int, options: dict[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {"lr": float(options["lr"] * (1 + 0.5 * np.sin(step)))}
    if name == "sparse_adam":
        changed["betas"] = (0.9 - 0.002 * (step % 7), 0.999 - 0.0005 * (step % 5))
    if options.get("momentum"):
        changed["momentum"] = float(options["momentum"] - 0.01 * (step % 3))
    return changed


def flatten(tree: dict[str, Any]) -> np.ndarray:
    return np.concatenate([np.asarray(tree[key]).reshape(-1) for key in SHAPES])


def unflatten(flat: np.ndarray) -> dict[str, np.ndarray]:
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES.values()])
    parts = np.split(flat, ends[:-1])
    return {key: part.reshape(shape) for (key, shape), part in zip(SHAPES.items(), parts, strict=True)}
