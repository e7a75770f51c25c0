"""The cases in which the algorithms are compared with torch: options, shapes, gradients, and how options change."""

import itertools
from typing import Any

import numpy as np

SHAPES = {"scalar": (), "one": (1,), "vector": (5,), "matrix": (3, 4), "cube": (2, 3, 4), "empty": (0, 3)}
MATRICES = {"matrix": (3, 4), "tall": (8, 3), "wide": (5, 8), "empty": (0, 3)}
STEPS = 50
GAPS_AT = (1, 3, 10, 11, 13, 30, 33, 50)  # the steps at which a trajectory with missing gradients is recorded
LONG_AT = (50, 100, 150, 200)

Case = tuple[str, dict[str, Any]]


def _flags(*names: str) -> list[dict[str, bool]]:
    return [dict(zip(names, values, strict=True)) for values in itertools.product([False, True], repeat=len(names))]


def _sgd() -> list[dict[str, Any]]:
    momenta: list[dict[str, Any]] = [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.5},
        {"momentum": 0.9, "nesterov": True},
    ]
    return [
        {"lr": 0.05, **momentum, "weight_decay": decay, **flag}
        for momentum in momenta
        for decay in (0.0, 0.1)
        for flag in _flags("maximize")
    ]


def _adam() -> list[dict[str, Any]]:
    return [
        {"lr": 0.01, "weight_decay": decay, **flags}
        for decay in (0.0, 0.1)
        for flags in _flags("amsgrad", "maximize", "decoupled_weight_decay")
    ]


def _adamw() -> list[dict[str, Any]]:
    return [
        {"lr": 0.01, "weight_decay": decay, **flags} for decay in (0.0, 0.1) for flags in _flags("amsgrad", "maximize")
    ]


def _crossed(base: dict[str, Any], *choices: dict[str, Any], flags: tuple[str, ...] = ("maximize",)) -> Any:
    """Every choice with and without weight decay and every combination of flags."""
    return [
        {**base, **choice, "weight_decay": decay, **flag}
        for choice in choices or ({},)
        for decay in (0.0, 0.1)
        for flag in _flags(*flags)
    ]


def _rprop() -> list[dict[str, Any]]:
    choices: list[dict[str, Any]] = [{}, {"etas": (0.3, 1.5), "step_sizes": (1e-3, 0.02)}]
    return [{"lr": 0.01, **choice, **flag} for choice in choices for flag in _flags("maximize")]


def _muon() -> list[dict[str, Any]]:
    choices: list[dict[str, Any]] = [
        {},
        {"adjust_lr_fn": "match_rms_adamw"},
        {"momentum": 0.9, "ns_steps": 3, "ns_coefficients": (2.0, -1.5, 0.5)},
    ]
    return _crossed({"lr": 0.02}, *choices, flags=("nesterov",))


# functional name -> torch's class, its state_dict's slots, and every combination of flags
ALGORITHMS: dict[str, tuple[str, tuple[str, ...], list[dict[str, Any]]]] = {
    "sgd": ("SGD", ("momentum_buffer",), _sgd()),
    "adam": ("Adam", ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"), _adam()),
    "adamw": ("AdamW", ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"), _adamw()),
    "adadelta": ("Adadelta", ("square_avg", "acc_delta"), _crossed({"lr": 1.0})),
    "adafactor": (
        "Adafactor",
        ("row_var", "col_var", "variance"),
        _crossed({"lr": 0.05}, {}, {"eps": (1e-3, 1e-2), "d": 1.5}),
    ),
    "adagrad": (
        "Adagrad",
        ("sum",),
        _crossed({"lr": 0.05}, {}, {"lr_decay": 0.1, "initial_accumulator_value": 0.1}),
    ),
    "adamax": ("Adamax", ("exp_avg", "exp_inf"), _crossed({"lr": 0.01})),
    "asgd": ("ASGD", ("ax",), _crossed({"lr": 0.05}, {}, {"t0": 3.0, "lambd": 0.01})),
    "nadam": ("NAdam", ("exp_avg", "exp_avg_sq"), _crossed({"lr": 0.01}, flags=("maximize", "decoupled_weight_decay"))),
    "radam": ("RAdam", ("exp_avg", "exp_avg_sq"), _crossed({"lr": 0.01}, flags=("maximize", "decoupled_weight_decay"))),
    "rmsprop": (
        "RMSprop",
        ("square_avg", "momentum_buffer", "grad_avg"),
        _crossed({"lr": 0.01}, {}, {"momentum": 0.9}, flags=("maximize", "centered")),
    ),
    "rprop": ("Rprop", ("prev", "step_size"), _rprop()),
    "muon": ("Muon", ("momentum_buffer",), _muon()),
}

WITH_BETAS = {"adam", "adamw", "adamax", "nadam", "radam"}
REAL_ONLY = {"adafactor", "muon"}
NOT_EMPTY = {"adafactor"}  # torch divides by the number of entries
NO_STEP = {"sgd", "muon"}  # torch counts no steps there
CARRIED = {"asgd": ("eta", "mu"), "nadam": ("mu_product",)}  # scalars beside the step in torch's state

CASES: list[Case] = [(name, options) for name, (_, _, cases) in ALGORITHMS.items() for options in cases]


def label(case: Case) -> str:
    name, options = case
    return f"{name}-" + "-".join(f"{key}={value}" for key, value in options.items())


def changing_options(name: str, step: int, options: dict[str, Any]) -> dict[str, Any]:
    """The options that change from step to step, as they are before update number ``step`` (the first is 0)."""
    changed: dict[str, Any] = {"lr": options["lr"] * (1 + 0.5 * np.sin(step))}
    if options.get("weight_decay"):
        changed["weight_decay"] = options["weight_decay"] * (1 + 0.3 * np.cos(step))
    if name in WITH_BETAS:
        changed["betas"] = (0.9 - 0.002 * (step % 7), 0.999 - 0.0005 * (step % 5))
    if options.get("momentum"):
        changed["momentum"] = options["momentum"] - 0.01 * (step % 3)
    return {key: tuple(map(float, v)) if isinstance(v, tuple) else float(v) for key, v in changed.items()}


def rewritten_options(name: str, step: int, options: dict[str, Any]) -> dict[str, Any]:
    """The same for the stateful face, whose trajectories also change eps."""
    changed = changing_options(name, step, options)
    return {**changed, "eps": 1e-8 * (1 + step % 4)} if name in WITH_BETAS else changed


def missing(step: int) -> set[str]:
    """The parameters without a gradient at a step of the trajectories with gaps: two begin late, one of them ends
    early, one is left out now and then. Few different sets, for each is compiled."""
    absent = {"vector", "one"} if step < 10 else {"vector"} if step >= 30 else set()
    return absent | {"matrix"} if step % 10 == 2 else absent


def parameters(name: str, dtype: Any, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {key: np.asarray(_draw(rng, shape, dtype)).astype(dtype) for key, shape in shapes(name).items()}


def gradients(name: str, step: int, dtype: Any) -> dict[str, np.ndarray]:
    """Gradients of ordinary size in most steps; in some, entries that are zero, 1e-30 or 1e15 times as large."""
    rng = np.random.default_rng(1000 + step)
    result = {}
    for key, shape in shapes(name).items():
        size = np.ones(shape)
        if step % 5 == 3:
            size = rng.choice([1.0, 0.0, 1e-30], size=shape)
        if step % 25 == 9:  # also within the 12 steps that the shorter recordings have
            size = rng.choice([1.0, 1e15], size=shape)
        result[key] = np.asarray(_draw(rng, shape, dtype) * size).astype(dtype)
    return result


def _draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Any:
    values = rng.standard_normal(shape)
    return values + 1j * rng.standard_normal(shape) if np.issubdtype(dtype, np.complexfloating) else values


def shapes(name: str, slot: str = "param") -> dict[str, tuple[int, ...]]:
    """The shape that a slot has for each parameter of an algorithm's cases that has it."""
    own = MATRICES if name == "muon" else SHAPES
    if name in NOT_EMPTY:
        own = {key: shape for key, shape in own.items() if 0 not in shape}
    if slot in ("row_var", "col_var"):
        matrices = {key: shape for key, shape in own.items() if len(shape) > 1}
        row = slot == "row_var"
        return {n: (*s[:-1], 1) if row else (*s[:-2], 1, s[-1]) for n, s in matrices.items()}
    if slot == "variance":
        return {key: shape for key, shape in own.items() if len(shape) < 2}
    return own


def flatten(name: str, tree: dict[str, Any], slot: str = "param") -> np.ndarray:
    """The arrays of a tree one after the other, in the order of the shapes."""
    return np.concatenate([np.asarray(tree[key]).reshape(-1) for key in shapes(name, slot)])


def unflatten(name: str, flat: np.ndarray, slot: str = "param") -> dict[str, np.ndarray]:
    result, start = {}, 0
    for key, shape in shapes(name, slot).items():
        size = int(np.prod(shape))
        result[key] = flat[start : start + size].reshape(shape)
        start += size
    return result
