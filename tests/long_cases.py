"""Runs long enough to cross every branch of every algorithm: RAdam's threshold and the end of its series, NAdam's
product down to zero, ASGD's t0, the whole of Adafactor's decay, Rprop's smallest and largest step."""

from typing import Any

import numpy as np

from tests import cases

STEPS = 1200
# Steps on both sides of what a branch depends on, at the beta2 or t0 of a case here.
CHECKED_AT = (2, 3, 6, 7, 12, 50, 100, 101, 102, 103, 300, 499, 500, 700, 1000, 1200)
RECORDED_AT = tuple(sorted({*CHECKED_AT, *(step - 1 for step in CHECKED_AT)}))  # and what each starts from

_BETAS: list[dict[str, Any]] = [{}, {"betas": (0.8, 0.92)}]
_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "sgd": [{"momentum": 0.9, "dampening": 0.5}],
    "adam": [*_BETAS, {"amsgrad": True}],
    "adamw": [{"weight_decay": 0.1}],
    "adadelta": [{}],
    "adafactor": [{"lr": 0.05}],
    "adagrad": [{"lr_decay": 0.01}],
    "adamax": [*_BETAS],
    "asgd": [{"t0": 100.0, "lambd": 0.01}],
    "nadam": [*_BETAS, {"momentum_decay": 0.0}],
    "radam": [*_BETAS, {"betas": (0.9, 0.99), "weight_decay": 0.1}, {"betas": (0.9, 0.9999)}, {"betas": (0.9, 0.5)}],
    "rmsprop": [{"momentum": 0.9, "centered": True}],
    "rprop": [{"step_sizes": (1e-3, 0.02)}],
    "muon": [{"lr": 0.02}],
}
CASES: list[cases.Case] = [(name, options) for name, several in _OPTIONS.items() for options in several]


def shape(name: str) -> tuple[int, ...]:
    return (2, 2) if name in ("adafactor", "muon") else (3,)


def parameter(name: str, dtype: str) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape(name)).astype(dtype)


def gradients(name: str, dtype: str) -> np.ndarray:
    """One a step; stretches in which the signs stay, and stretches of noise."""
    noise = np.random.default_rng(4).standard_normal((STEPS, *shape(name)))
    step = np.arange(STEPS).reshape(-1, *[1] * len(shape(name)))
    return np.where(step // 40 % 2, np.abs(noise), noise).astype(dtype)
