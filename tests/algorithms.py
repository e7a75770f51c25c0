"""The table of the algorithms: a row has everything that the shared tests need to know about an algorithm.

``make test`` covers every pair of options, ``make test-all`` (the environment variable FULL) every combination.
"""

import importlib
import itertools
import os
from collections.abc import Iterable
from typing import Any

from tests.beyond_torch import BEYOND_TORCH
from tests.row import B2, BETAS, EPS, Algorithm, Case, Options, crossed, negative

FULL = bool(os.environ.get("FULL"))

ALGORITHMS: dict[str, Algorithm] = {
    "sgd": Algorithm(
        "SGD",
        ("momentum_buffer",),
        crossed(
            {"lr": 0.05},
            {},
            {"momentum": 0.9},
            {"momentum": 0.9, "dampening": 0.5},
            {"momentum": 0.9, "nesterov": True},
        ),
        typical={"lr": 0.1, "momentum": 0.9},
        exact={"lr": 0.0625, "momentum": 0.875, "dampening": 0.25, "weight_decay": 0.125},
        resumed={"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
        learned=("lr", "momentum", "weight_decay"),
        long=({"momentum": 0.9, "dampening": 0.5},),
        edges=(
            {"lr": 0.1, "momentum": 1.5},
            {"lr": 0.1, "momentum": 0.9, "dampening": 1.0},
            {"lr": 0.1, "momentum": 0.9, "dampening": -0.5, "weight_decay": 2.0},
            {"lr": 0.0, "momentum": 0.9, "nesterov": True},
        ),
        by_hand=(
            ({}, [0.99845, -1.99965]),
            (
                {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1, "maximize": True},
                [1.1839417575, -2.1152707025],
            ),
            (
                {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
                [0.446287654626, -1.613511956752],
            ),
        ),
        has_step=False,
        takes_rows=True,
        refused=(
            *negative(momentum="momentum value"),
            ({"nesterov": True}, "Nesterov momentum requires a momentum and zero dampening"),
            (
                {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
                "Nesterov momentum requires a momentum and zero dampening",
            ),
        ),
    ),
    "adam": Algorithm(
        "Adam",
        ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
        crossed({"lr": 0.01}, flags=("amsgrad", "maximize", "decoupled_weight_decay")),
        typical={"lr": 0.01, "amsgrad": True},
        exact={"lr": 0.0625, "betas": (0.875, B2), "eps": 2.0**-27, "weight_decay": 0.125},
        resumed={"lr": 0.1, "amsgrad": True, "weight_decay": 0.1},
        learned=("lr", "eps", "weight_decay"),
        long=({}, {"betas": (0.8, 0.92)}, {"amsgrad": True}),
        edges=(
            {"betas": (0.0, 0.0)},
            {"betas": (0.3, 0.5), "eps": 0.1},
            {"betas": (0.0, 0.99), "amsgrad": True, "eps": 0.0},
            {"betas": (0.99, 0.0), "lr": 0.0},
        ),
        by_hand=(
            ({"lr": 0.1}, [0.740676395539, -1.878675143892]),
            (
                {"lr": 0.1, "betas": (0.5, 0.9), "weight_decay": 0.1, "amsgrad": True, "maximize": True},
                [1.204041792823, -1.989143577391],
            ),
        ),
        has_betas=True,
        refused=(*negative(**EPS), *BETAS),
    ),
    "adamw": Algorithm(
        "AdamW",
        ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
        crossed({"lr": 0.01}, flags=("amsgrad", "maximize")),
        typical={"lr": 0.01},
        exact={"lr": 0.0625, "betas": (0.875, B2), "eps": 2.0**-27, "weight_decay": 0.125},
        learned=("lr", "weight_decay"),
        long=({"weight_decay": 0.1},),
        edges=({"lr": 1.0, "weight_decay": 1.0}, {"lr": 0.5, "weight_decay": 3.0, "maximize": True}),
        by_hand=(({"lr": 0.1, "weight_decay": 0.1}, [0.705430627766, -1.80303286498]),),
        has_betas=True,
        refused=(*negative(**EPS), *BETAS),
    ),
    "adadelta": Algorithm(
        "Adadelta",
        ("square_avg", "acc_delta"),
        crossed({"lr": 1.0}),
        typical={"lr": 1.0},
        exact={"lr": 0.5, "rho": 0.875, "eps": 2.0**-20, "weight_decay": 0.125},
        resumed={"weight_decay": 0.1},
        learned=("lr", "rho"),
        edges=({"rho": 0.0, "eps": 0.1}, {"rho": 1.0}),
        by_hand=(({"lr": 1.0, "weight_decay": 0.1}, [0.99203979993, -1.99684977309]),),
        copies=1.5,  # like Rprop
        refused=(*negative(**EPS), ({"rho": 1.5}, "Invalid rho value: 1.5")),
    ),
    "adafactor": Algorithm(
        "Adafactor",
        ("row_var", "col_var", "variance"),
        crossed({"lr": 0.05}, {}, {"eps": (1e-3, 1e-2), "d": 1.5}),
        typical={"lr": 0.01, "eps": (1e-7, 1e-3)},  # eps1=None means the parameter dtype's epsilon, in torch too
        exact={"lr": 0.5, "beta2_decay": -0.75, "eps": (2.0**-20, 2.0**-10), "d": 1.5, "weight_decay": 0.125},
        long=({"lr": 0.05},),
        edges=({"lr": 1.0, "beta2_decay": 0.0, "d": 2.0}, {"lr": 0.5, "eps": (0.1, 1.0), "weight_decay": 0.5}),
        by_hand=(
            ({"lr": 0.5}, [-0.62908301858, -1.456508493001]),
            ({"lr": 0.5, "weight_decay": 0.1, "eps": (0.001, 0.01), "d": 1.5}, [-0.573774962924, -1.151142394939]),
        ),
        takes_complex=False,
        takes_empty=False,
        slot_shapes={
            "row_var": lambda shape: (*shape[:-1], 1) if len(shape) > 1 else None,
            "col_var": lambda shape: (*shape[:-2], 1, shape[-1]) if len(shape) > 1 else None,
            "variance": lambda shape: shape if len(shape) < 2 else None,
        },
        packs=False,
        copies=1.0,  # the update, which is scaled by its own norm
        refused=(
            ({"lr": -0.5}, "Learning rate should be >= 0 but is: -0.5"),
            ({"beta2_decay": 0.5}, "beta2_decay should be <= 0 but is: 0.5"),
            ({"eps": (-0.5, 0.1)}, "epsilon1 should be >= 0 but is: -0.5"),
            ({"eps": (None, -0.5)}, "epsilon2 should be >= 0 but is: -0.5"),
            ({"d": 0.5}, "Clipping threshold d should be >= 1 but is: 0.5"),
            ({"weight_decay": -0.5}, "weight_decay should be >= 0 but is: -0.5"),
        ),
    ),
    "adagrad": Algorithm(
        "Adagrad",
        ("sum",),
        crossed({"lr": 0.05}, {}, {"lr_decay": 0.1, "initial_accumulator_value": 0.1}),
        typical={"lr": 0.01, "initial_accumulator_value": 1e-9},
        exact={"lr": 0.0625, "lr_decay": 0.125, "weight_decay": 0.125, "eps": 2.0**-30},
        resumed={"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.1},
        learned=("lr", "lr_decay"),
        long=({"lr_decay": 0.01},),
        edges=({"lr": 0.5, "lr_decay": 1.0, "eps": 0.0, "initial_accumulator_value": 1.0},),
        by_hand=(
            (
                {"lr": 0.1, "lr_decay": 0.5, "weight_decay": 0.1, "initial_accumulator_value": 0.1},
                [0.873089930337, -1.916235190711],
            ),
        ),
        takes_rows=True,
        refused=negative(**EPS, lr_decay="lr_decay value", initial_accumulator_value="initial_accumulator_value value"),
    ),
    "adamax": Algorithm(
        "Adamax",
        ("exp_avg", "exp_inf"),
        crossed({"lr": 0.01}),
        typical={"lr": 0.01},
        exact={"lr": 0.0625, "betas": (0.875, B2), "eps": 2.0**-27, "weight_decay": 0.125},
        learned=("lr",),
        long=({}, {"betas": (0.8, 0.92)}),
        edges=({"betas": (0.0, 0.0), "eps": 0.1},),
        by_hand=(({"lr": 0.1, "weight_decay": 0.1}, [0.773450951756, -1.838509852724]),),
        has_betas=True,
        refused=(*negative(**EPS), *BETAS),
    ),
    "asgd": Algorithm(
        "ASGD",
        ("ax",),
        crossed({"lr": 0.05}, {}, {"t0": 3.0, "lambd": 0.01}),
        typical={"lr": 0.1, "t0": 1.0},
        exact={"lr": 0.0625, "lambd": 2.0**-10, "alpha": 0.75, "t0": 3.0, "weight_decay": 0.125},
        resumed={"lr": 0.1, "t0": 5, "lambd": 0.01},
        learned=("lr", "lambd"),
        long=({"t0": 100.0, "lambd": 0.01},),
        edges=({"lr": 0.1, "t0": 0.0, "lambd": 0.5, "alpha": 0.25},),
        by_hand=(({"lr": 0.1, "lambd": 0.1, "t0": 1, "weight_decay": 0.1}, [0.774005208905, -1.813839511234]),),
        carried=("eta", "mu"),
        refused=negative(),
    ),
    "nadam": Algorithm(
        "NAdam",
        ("exp_avg", "exp_avg_sq"),
        crossed({"lr": 0.01}, flags=("maximize", "decoupled_weight_decay")),
        typical={"lr": 0.01},
        exact={"lr": 0.0625, "betas": (0.875, B2), "weight_decay": 0.125, "momentum_decay": 2.0**-8},
        resumed={"lr": 0.1, "weight_decay": 0.1},
        learned=("lr", "momentum_decay"),
        long=({}, {"betas": (0.8, 0.92)}, {"momentum_decay": 0.0}),
        edges=({"lr": 0.1, "momentum_decay": 0.0}, {"lr": 0.1, "betas": (0.0, 0.5), "momentum_decay": 2.0}),
        by_hand=(
            ({"lr": 0.1}, [0.796061230963, -1.940419429737]),
            ({"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True}, [0.759975002119, -1.863520187652]),
        ),
        carried=("mu_product",),
        has_betas=True,
        refused=(*negative(**EPS, momentum_decay="momentum_decay value"), *BETAS),
    ),
    "radam": Algorithm(
        "RAdam",
        ("exp_avg", "exp_avg_sq"),
        crossed({"lr": 0.01}, flags=("maximize", "decoupled_weight_decay")),
        typical={"lr": 0.01, "betas": (0.9, 0.9)},
        exact={"lr": 0.0625, "betas": (0.875, B2), "weight_decay": 0.125},
        learned=("lr",),
        long=(
            {},
            {"betas": (0.8, 0.92)},
            {"betas": (0.9, 0.99), "weight_decay": 0.1},
            {"betas": (0.9, 0.9999)},
            {"betas": (0.9, 0.5)},
        ),
        edges=({"lr": 0.1, "betas": (0.5, 0.5)}, {"lr": 0.1, "betas": (0.0, 0.75), "eps": 0.1}),
        by_hand=(
            ({"lr": 0.1}, [0.856326712584, -1.884082142217]),
            ({"lr": 0.1, "betas": (0.9, 0.9), "weight_decay": 0.1}, [0.817876467881, -1.80681107351]),
            (
                {
                    "lr": 0.1,
                    "betas": (0.5, 0.999),
                    "weight_decay": 0.1,
                    "decoupled_weight_decay": True,
                    "maximize": True,
                },
                [1.108349055238, -1.993825015238],
            ),
        ),
        has_betas=True,
        # torch's rho_t cancels in doubles at the first steps; our traced form does not. The torch face, which computes
        # the scalars as torch does, is held to 1e-12.
        tolerance=1e-10,
        refused=(*negative(**EPS), *BETAS),
    ),
    "rmsprop": Algorithm(
        "RMSprop",
        ("square_avg", "momentum_buffer", "grad_avg"),
        crossed({"lr": 0.01}, {}, {"momentum": 0.9}, flags=("maximize", "centered")),
        typical={"lr": 0.01, "momentum": 0.9, "centered": True},
        exact={"lr": 0.0625, "alpha": 0.9921875, "weight_decay": 0.125, "momentum": 0.875},
        resumed={"lr": 0.1, "momentum": 0.5, "centered": True},
        learned=("lr", "alpha"),
        long=({"momentum": 0.9, "centered": True},),
        edges=({"lr": 0.1, "alpha": 0.0, "momentum": 0.5}, {"lr": 0.1, "alpha": 0.5, "centered": True, "eps": 0.1}),
        by_hand=(
            ({"lr": 0.1}, [-0.680749415633, -1.522788835188]),
            ({"lr": 0.1, "centered": True, "momentum": 0.9, "weight_decay": 0.1}, [-3.091426959387, 0.260993918339]),
        ),
        refused=negative(**EPS, momentum="momentum value", alpha="alpha value"),
    ),
    "rprop": Algorithm(
        "Rprop",
        ("prev", "step_size"),
        crossed({"lr": 0.01}, {}, {"etas": (0.3, 1.5), "step_sizes": (1e-3, 0.02)}, decay=False),
        typical={"lr": 1e-3, "step_sizes": (1e-8, 1e-2)},
        exact={"lr": 0.0625, "etas": (0.5, 1.25), "step_sizes": (2.0**-20, 32.0)},
        long=({"step_sizes": (1e-3, 0.02)},),
        edges=({"lr": 100.0}, {"lr": 0.1, "etas": (0.9, 1.1), "step_sizes": (0.05, 0.2)}),
        by_hand=(({"lr": 0.1}, [0.79, -1.95]),),
        copies=2.0,  # XLA copies arrays that one result overwrites and another reads; not in the one-pass form
        refused=(*negative(weight_decay=""), ({"etas": (0.5, 0.9)}, "Invalid eta values: 0.5, 0.9")),
    ),
    "muon": Algorithm(
        "Muon",
        ("momentum_buffer",),
        crossed(
            {"lr": 0.02},
            {},
            {"adjust_lr_fn": "match_rms_adamw"},
            {"momentum": 0.9, "ns_steps": 3, "ns_coefficients": (2.0, -1.5, 0.5)},
            flags=("nesterov",),
        ),
        typical={"lr": 0.01},
        exact=None,
        long=({"lr": 0.02},),
        has_step=False,
        takes_complex=False,
        takes_vectors=False,
        packs=False,
    ),
    **BEYOND_TORCH,
}
# Algorithms that do not fit the common tests, and the files that test them.
ELSEWHERE = {
    "sparse_adam": ("SparseAdam", "test_sparse.py"),
    "lbfgs": ("LBFGS", "test_quasi_newton.py"),
    "bfgs": ("BFGS", "test_quasi_newton.py"),
    "normuon": ("NorMuon", "test_muon.py"),
    "prodigy": ("Prodigy", "test_distance.py"),
    "dadapt_adam": ("DAdaptAdam", "test_distance.py"),
    "muon_adamw": ("MuonAdamW", "test_muon.py"),
    "soap": ("SOAP", "test_soap.py"),
    "adahessian": ("AdaHessian", "test_curvature.py"),
    "sophia": ("SophiaG", "test_curvature.py"),
}


CASES: list[Case] = [(name, options) for name, row in ALGORITHMS.items() for options in row.cases]


def oracle(title: str) -> Any:
    """Return the reference class for this title; needs torch."""
    modules = {row.title: row.module for row in ALGORITHMS.values()}
    return getattr(importlib.import_module(modules.get(title, "torch.optim")), title)


def label(case: Case) -> str:
    name, options = case
    return f"{name}-" + "-".join(f"{key}={value}" for key, value in options.items())


def full(*values: Any) -> tuple[Any, ...]:
    """Return these values in a full run, otherwise none."""
    return values if FULL else ()


def names(**wanted: bool) -> list[str]:
    """Return the algorithms whose rows have these values, as in ``names(packs=True)``."""
    return [name for name, row in ALGORITHMS.items() if all(getattr(row, key) is v for key, v in wanted.items())]


def covering(options: Iterable[Options]) -> tuple[Options, ...]:
    """Return a subset that contains every pair of values that occurs in the whole set."""
    every = list(options)
    keys = {key: None for each in every for key in each}
    pairs = [set(itertools.combinations([(key, repr(each.get(key))) for key in keys], 2)) for each in every]
    left, chosen = set().union(*pairs), set()
    while left:
        best = max(range(len(every)), key=lambda index: len(pairs[index] & left))
        chosen.add(best)
        left -= pairs[best]
    return tuple(each for index, each in enumerate(every) if index in chosen)


def few_of(name: str) -> list[Case]:
    """Return the first and last of :func:`cases_of`, all in a full run; for tests that hardly depend on flags."""
    cases = cases_of(name)
    return cases if FULL else [cases[0], cases[-1]]


def cases_of(name: str) -> list[Case]:
    """Return the cases of an algorithm that this run compares: all, or enough for every pair of options."""
    options = ALGORITHMS[name].cases
    return [(name, each) for each in (options if FULL else covering(options))]
