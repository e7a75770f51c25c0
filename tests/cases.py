"""The shapes, the gradients and the changing options with which the algorithms are compared with torch."""

from typing import Any

import numpy as np

from tests.algorithms import ALGORITHMS, FULL

SHAPES = {"scalar": (), "one": (1,), "vector": (5,), "matrix": (3, 4), "cube": (2, 3, 4), "empty": (0, 3)}
MATRICES = {"matrix": (3, 4), "tall": (8, 3), "wide": (5, 8), "empty": (0, 3)}
LEFT_OUT = () if FULL else ("one", "cube")  # for element-wise algorithms: each shape takes time to compile
STEPS = 50
GAPS_AT = (1, 3, 10, 11, 13, 30, 33, 50)  # the steps at which a trajectory with missing gradients is recorded
LONG_AT = (50, 100, 150, 200)


def changing_options(name: str, step: int, options: dict[str, Any]) -> dict[str, Any]:
    """Return the changing options as they are before update number ``step`` (the first is 0)."""
    changed: dict[str, Any] = {"lr": options["lr"] * (1 + 0.5 * np.sin(step))}
    if options.get("weight_decay"):
        changed["weight_decay"] = options["weight_decay"] * (1 + 0.3 * np.cos(step))
    if ALGORITHMS[name].has_betas:
        betas = (0.9 - 0.002 * (step % 7), 0.999 - 0.0005 * (step % 5), 0.99 - 0.001 * (step % 3))
        changed["betas"] = betas[: len(ALGORITHMS[name].exact["betas"])]
    if options.get("momentum"):
        changed["momentum"] = options["momentum"] - 0.01 * (step % 3)
    return {key: tuple(map(float, v)) if isinstance(v, tuple) else float(v) for key, v in changed.items()}


def rewritten_options(name: str, step: int, options: dict[str, Any]) -> dict[str, Any]:
    """Like :func:`changing_options` for the torch face, whose trajectories also change eps."""
    changed = changing_options(name, step, options)
    return {**changed, "eps": 1e-8 * (1 + step % 4)} if ALGORITHMS[name].has_betas else changed


def missing(step: int) -> set[str]:
    """Return the parameters without a gradient at a step of the trajectories with gaps: two start late, one of them
    ends early, one is missing now and then. There are few different sets, because each is compiled."""
    absent = {"vector", "one"} if step < 10 else {"vector"} if step >= 30 else set()
    return absent | {"matrix"} if step % 10 == 2 else absent


def parameters(name: str, dtype: Any, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    drawn = {key: np.asarray(_draw(rng, shape, dtype)).astype(dtype) for key, shape in every_shape(name).items()}
    return {key: drawn[key] for key in shapes(name)}


def gradients(name: str, step: int, dtype: Any) -> dict[str, np.ndarray]:
    """Return ordinary gradients at most steps; at some, entries are zero, or 1e-30 or 1e15 times as large."""
    rng = np.random.default_rng(1000 + step)
    result = {}
    for key, shape in every_shape(name).items():
        size = np.ones(shape)
        if step % 5 == 3:
            size = rng.choice([1.0, 0.0, 1e-30], size=shape)
        if step % 25 == 9:  # also within the 12 steps of the shorter recordings
            size = rng.choice([1.0, 1e15], size=shape)
        result[key] = np.asarray(_draw(rng, shape, dtype) * size).astype(dtype)
    return {key: result[key] for key in shapes(name)}


def _draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Any:
    values = rng.standard_normal(shape)
    return values + 1j * rng.standard_normal(shape) if np.issubdtype(dtype, np.complexfloating) else values


def shapes(name: str, slot: str = "param") -> dict[str, tuple[int, ...]]:
    """Return a slot's shape for each parameter of this run that has the slot."""
    left_out = LEFT_OUT if ALGORITHMS[name].packs else ()
    return {key: shape for key, shape in every_shape(name, slot).items() if key not in left_out}


def every_shape(name: str, slot: str = "param") -> dict[str, tuple[int, ...]]:
    """Return a slot's shape for each recorded parameter that has the slot."""
    own = SHAPES if ALGORITHMS[name].takes_vectors else MATRICES
    if not ALGORITHMS[name].takes_empty:
        own = {key: shape for key, shape in own.items() if 0 not in shape}
    shape_of = ALGORITHMS[name].slot_shapes.get(slot, lambda shape: shape)
    shapes = {key: shape_of(shape) for key, shape in own.items()}
    return {key: shape for key, shape in shapes.items() if shape is not None}


def flatten(name: str, tree: dict[str, Any], slot: str = "param") -> np.ndarray:
    """Concatenate the arrays of a tree, in the order of the shapes."""
    return np.concatenate([np.asarray(tree[key]).reshape(-1) for key in shapes(name, slot)])


def unflatten(name: str, flat: np.ndarray, slot: str = "param") -> dict[str, np.ndarray]:
    result, start = {}, 0
    for key, shape in shapes(name, slot).items():
        size = int(np.prod(shape))
        result[key] = flat[start : start + size].reshape(shape)
        start += size
    return result


def of_this_run(rows: np.ndarray, sizes: dict[str, int], kept: dict[str, Any]) -> np.ndarray:
    """Return the columns of recorded rows for the parameters of this run; each parameter has ``sizes`` columns."""
    return rows[:, np.repeat([key in kept for key in sizes], list(sizes.values()))]
