"""Runs with one gradient entry that is NaN, infinite, or has an infinite square; or one infinite parameter entry."""

from typing import Any

import numpy as np

from tests import algorithms

BAD = {"nan": np.nan, "inf": np.inf, "minus_inf": -np.inf, "huge": 1e200}  # the second entry of a gradient
INFINITE = "infinite"  # ordinary gradients, but the parameter's second entry is minus infinity
STEPS, BAD_STEP = 6, 2
RECORDED_AT = (3, 6)  # after the bad gradient, and after three more good ones


def cases_of(name: str, every: bool = False) -> list[algorithms.Case]:
    """Return an algorithm's cases; non-finite behavior does not depend on the gradient's sign."""
    cases = [(name, options) for options in algorithms.ALGORITHMS[name].cases] if every else algorithms.cases_of(name)
    plain = [
        (name, {**options, "maximize": False}) if "maximize" in options else (name, options) for _, options in cases
    ]
    return [case for index, case in enumerate(plain) if case not in plain[:index]]


CASES = [case for name in algorithms.ALGORITHMS for case in cases_of(name, every=True)]


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Return a vector and a matrix of each kind; outside full runs, only the matrix if entries are independent."""
    left_out = "_vector" if algorithms.ALGORITHMS[name].packs and not algorithms.FULL else None
    return {key: shape for key, shape in every_shape(name).items() if not left_out or not key.endswith(left_out)}


def every_shape(name: str) -> dict[str, tuple[int, ...]]:
    own = {"vector": (3,), "matrix": (2, 3)} if algorithms.ALGORITHMS[name].takes_vectors else {"matrix": (2, 3)}
    return {f"{bad}_{key}": shape for bad in (*BAD, INFINITE) for key, shape in own.items()}


def parameters(name: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    result = {key: rng.standard_normal(shape) for key, shape in every_shape(name).items()}
    for key, param in result.items():
        if key.startswith(INFINITE):
            param.reshape(-1)[1] = -np.inf
    return {key: result[key] for key in shapes(name)}


def gradients(name: str, step: int) -> dict[str, np.ndarray]:
    """Return ordinary gradients, except at one step."""
    rng = np.random.default_rng(100 + step)
    result = {key: rng.standard_normal(shape) for key, shape in every_shape(name).items()}
    if step == BAD_STEP:
        for key, grad in result.items():
            grad.reshape(-1)[1] = BAD.get(key.rsplit("_", 1)[0], grad.reshape(-1)[1])
    return {key: result[key] for key in shapes(name)}


def flatten(arrays: Any) -> np.ndarray:
    """Concatenate the arrays that are not None."""
    return np.concatenate([np.asarray(array).reshape(-1) for array in arrays if array is not None])
