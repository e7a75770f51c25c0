"""Pure schedules paired with the torch scheduler classes whose closed forms they are."""

from typing import Any

from functorch_optim import schedules as s

STEPS = 2001


def half(cycle: Any) -> Any:
    """A scale function that both faces can call."""
    return 0.5**cycle


# label -> schedule, torch's class, its arguments; the optimizer's lr is 0.3
CASES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "step": (s.step_decay(0.3, 7), "StepLR", {"step_size": 7}),
    "step-slow": (s.step_decay(0.3, 30, 0.9), "StepLR", {"step_size": 30, "gamma": 0.9}),
    "milestones": (
        s.multi_step_decay(0.3, (90, 10, 10, 500), 0.5),
        "MultiStepLR",
        {"milestones": [90, 10, 10, 500], "gamma": 0.5},
    ),
    "milestone-zero": (s.multi_step_decay(0.3, (0, 20)), "MultiStepLR", {"milestones": [0, 20]}),
    "constant": (s.constant_factor(0.3), "ConstantLR", {}),
    "constant-long": (s.constant_factor(0.3, 0.7, 100), "ConstantLR", {"factor": 0.7, "total_iters": 100}),
    "linear": (s.linear(0.3), "LinearLR", {}),
    "linear-down": (
        s.linear(0.3, 1.0, 0.1, 1000),
        "LinearLR",
        {"start_factor": 1.0, "end_factor": 0.1, "total_iters": 1000},
    ),
    "exponential": (s.exponential_decay(0.3, 0.99), "ExponentialLR", {"gamma": 0.99}),
    "exponential-up": (s.exponential_decay(0.3, 1.001), "ExponentialLR", {"gamma": 1.001}),
    "polynomial": (s.polynomial_decay(0.3), "PolynomialLR", {}),
    "polynomial-power": (
        s.polynomial_decay(0.3, 1500, 2.5),
        "PolynomialLR",
        {"total_iters": 1500, "power": 2.5},
    ),
    "cosine": (s.cosine_annealing(0.3, 100, 0.01), "CosineAnnealingLR", {"T_max": 100, "eta_min": 0.01}),
    "cosine-short": (s.cosine_annealing(0.3, 3), "CosineAnnealingLR", {"T_max": 3}),
    "restarts": (s.cosine_annealing_warm_restarts(0.3, 10), "CosineAnnealingWarmRestarts", {"T_0": 10}),
    "restarts-longer": (
        s.cosine_annealing_warm_restarts(0.3, 7, 3, 0.02),
        "CosineAnnealingWarmRestarts",
        {"T_0": 7, "T_mult": 3, "eta_min": 0.02},
    ),
    "cyclic": (
        s.cyclic(0.1, 0.5, 13, 29),
        "CyclicLR",
        {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 13, "step_size_down": 29, "cycle_momentum": False},
    ),
    "cyclic-halving": (
        s.cyclic(0.1, 0.5, 50, mode="triangular2"),
        "CyclicLR",
        {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 50, "mode": "triangular2", "cycle_momentum": False},
    ),
    "cyclic-exponential": (
        s.cyclic(0.1, 0.5, 50, mode="exp_range", gamma=0.999),
        "CyclicLR",
        {
            "base_lr": 0.1,
            "max_lr": 0.5,
            "step_size_up": 50,
            "mode": "exp_range",
            "gamma": 0.999,
            "cycle_momentum": False,
        },
    ),
    "cyclic-own-scale": (
        s.cyclic(0.1, 0.5, 100, scale_fn=half),
        "CyclicLR",
        {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 100, "scale_fn": half, "cycle_momentum": False},
    ),
    "one-cycle": (s.one_cycle(0.3, 2001), "OneCycleLR", {"max_lr": 0.3, "total_steps": 2001}),
    "one-cycle-linear": (
        s.one_cycle(0.3, 2001, 0.45, "linear", 10.0, 100.0),
        "OneCycleLR",
        {
            "max_lr": 0.3,
            "total_steps": 2001,
            "pct_start": 0.45,
            "anneal_strategy": "linear",
            "div_factor": 10.0,
            "final_div_factor": 100.0,
        },
    ),
    "one-cycle-three": (
        s.one_cycle(0.3, 2001, three_phase=True),
        "OneCycleLR",
        {"max_lr": 0.3, "total_steps": 2001, "three_phase": True},
    ),
}

# label -> schedule of the momentum, torch's class, its arguments
MOMENTUM: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "cyclic-momentum": (
        s.cyclic_momentum(0.8, 0.9, 13, 29),
        "CyclicLR",
        {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 13, "step_size_down": 29},
    ),
    "cyclic-momentum-halving": (
        s.cyclic_momentum(0.7, 0.95, 50, mode="triangular2"),
        "CyclicLR",
        {
            "base_lr": 0.1,
            "max_lr": 0.5,
            "step_size_up": 50,
            "mode": "triangular2",
            "base_momentum": 0.7,
            "max_momentum": 0.95,
        },
    ),
    "one-cycle-momentum": (s.one_cycle_momentum(2001), "OneCycleLR", {"max_lr": 0.3, "total_steps": 2001}),
    "one-cycle-momentum-three": (
        s.one_cycle_momentum(2001, 0.8, 0.99, 0.25, "linear", True),
        "OneCycleLR",
        {
            "max_lr": 0.3,
            "total_steps": 2001,
            "base_momentum": 0.8,
            "max_momentum": 0.99,
            "pct_start": 0.25,
            "anneal_strategy": "linear",
            "three_phase": True,
        },
    ),
}
ALL = {**CASES, **MOMENTUM}

PLATEAUS = [
    {},
    {"patience": 2, "factor": 0.5, "cooldown": 3},
    {"mode": "max", "patience": 1, "threshold": 0.1},
    {"threshold_mode": "abs", "threshold": 0.05, "patience": 0, "min_lr": 0.01},
    {"mode": "max", "threshold_mode": "abs", "patience": 3, "eps": 1e-3},
]
