"""Runs long enough to cover every branch of every algorithm: RAdam's threshold and the end of its series, NAdam's
product down to zero, ASGD's t0, all of Adafactor's decay, Rprop's smallest and largest step."""

import numpy as np

from tests.algorithms import ALGORITHMS, Case

STEPS = 1200
# Steps on both sides of each branch, at the beta2 or t0 of a case here.
CHECKED_AT = (2, 3, 6, 7, 12, 50, 100, 101, 102, 103, 300, 499, 500, 700, 1000, 1200)
RECORDED_AT = tuple(sorted({*CHECKED_AT, *(step - 1 for step in CHECKED_AT)}))  # and the step before each

CASES: list[Case] = [(name, options) for name, row in ALGORITHMS.items() for options in row.long]


def shape(name: str) -> tuple[int, ...]:
    return (3,) if ALGORITHMS[name].takes_vectors and ALGORITHMS[name].packs else (2, 2)


def parameter(name: str, dtype: str) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape(name)).astype(dtype)


def gradients(name: str, dtype: str) -> np.ndarray:
    """Return one gradient per step, with alternating stretches of constant sign and of noise."""
    noise = np.random.default_rng(4).standard_normal((STEPS, *shape(name)))
    step = np.arange(STEPS).reshape(-1, *[1] * len(shape(name)))
    return np.where(step // 40 % 2, np.abs(noise), noise).astype(dtype)
