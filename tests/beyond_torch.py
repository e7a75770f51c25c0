"""The rows of the algorithms that torch does not have, in the order of their names."""

import functools

from tests.row import B2, BETAS, EPS, Algorithm, Shape, crossed, negative


def _accumulator(index: int, shape: Shape) -> Shape | None:
    """The shape of SM3's accumulator of one dimension."""
    if index >= max(len(shape), 1):
        return None
    return tuple(size if own == index else 1 for own, size in enumerate(shape))


BEYOND_TORCH: dict[str, Algorithm] = {
    "lamb": Algorithm(
        "LAMB",
        ("exp_avg", "exp_avg_sq"),
        (
            {"lr": 0.01, "weight_decay": 0.0},
            {"lr": 0.01, "weight_decay": 0.1, "maximize": True},
            {"lr": 0.01, "weight_decay": 0.0, "bias_correction": True, "trust_clip": True},
            {"lr": 0.01, "weight_decay": 0.1, "bias_correction": True, "trust_clip": True, "always_adapt": False},
            {"lr": 0.01, "weight_decay": 0.0, "bias_correction": True, "always_adapt": False, "maximize": True},
        ),
        typical={"lr": 0.01, "weight_decay": 0.1},
        exact={"lr": 0.0625, "betas": (0.875, B2), "eps": 2.0**-20, "weight_decay": 0.125},
        resumed={"lr": 0.01, "weight_decay": 0.1, "bias_correction": True},
        learned=("lr", "eps", "weight_decay"),
        long=({}, {"weight_decay": 0.1, "bias_correction": True}),
        edges=(
            {"betas": (0.0, 0.0), "eps": 0.1},
            {"betas": (0.0, 0.99), "lr": 0.5, "weight_decay": 2.0, "bias_correction": True},
            {"lr": 0.25, "betas": (0.99, 0.0)},
        ),
        by_hand=(
            ({"lr": 0.1}, [0.279831825173, -1.743668750847]),
            (
                {
                    "lr": 0.1,
                    "betas": (0.5, 0.9),
                    "weight_decay": 0.1,
                    "bias_correction": True,
                    "trust_clip": True,
                    "maximize": True,
                },
                [1.21218264479, -1.989199917203],
            ),
            ({"lr": 0.1, "bias_correction": True, "always_adapt": False}, [0.740676870534, -1.878675271887]),
        ),
        has_betas=True,
        packs=False,
        copies=1.0,  # the direction, which is scaled by its own norm
        module="tests.oracles",
        refused=(*negative(**EPS), *BETAS),
    ),
    "lars": Algorithm(
        "LARS",
        ("momentum_buffer",),
        (
            {"lr": 2.0, "weight_decay": 0.001, "trust_coefficient": 0.01, "nesterov": True},
            {"lr": 2.0, "weight_decay": 0.1, "trust_coefficient": 0.01, "maximize": True},
            {"lr": 2.0, "weight_decay": 0.1, "trust_coefficient": 0.01, "nesterov": True, "always_adapt": False},
            {"lr": 0.05, "weight_decay": 0.0, "momentum": 0.8, "always_adapt": False},
            {"lr": 2.0, "weight_decay": 0.1, "momentum": 0.0},
        ),
        typical={"lr": 2.0, "trust_coefficient": 0.01, "weight_decay": 0.1},
        exact={"lr": 2.0, "momentum": 0.875, "weight_decay": 0.125, "trust_coefficient": 2.0**-6},
        resumed={"lr": 2.0, "trust_coefficient": 0.01, "weight_decay": 0.1, "nesterov": True},
        learned=("lr", "momentum", "weight_decay", "trust_coefficient"),
        long=({"trust_coefficient": 0.01}, {"trust_coefficient": 0.01, "weight_decay": 0.1, "nesterov": True}),
        edges=(
            {"momentum": 0.99, "trust_coefficient": 0.0},
            {"lr": 0.5, "momentum": 0.0, "weight_decay": 2.0, "trust_coefficient": 1.0, "nesterov": True},
        ),
        by_hand=(
            ({}, [0.992393435352, -1.998048512284]),
            (
                {"lr": 2.0, "trust_coefficient": 0.05, "weight_decay": 0.1, "nesterov": True, "maximize": True},
                [1.524519378694, -1.615245687103],
            ),
        ),
        has_step=False,
        packs=False,
        copies=1.0,  # the step, which is scaled by the gradient's norm
        module="tests.oracles",
        refused=negative(momentum="momentum value", trust_coefficient="trust_coefficient value"),
    ),
    "lion": Algorithm(
        "Lion",
        ("exp_avg",),
        crossed({"lr": 0.01}),
        typical={"lr": 0.01},
        exact={"lr": 0.0625, "betas": (0.875, B2), "weight_decay": 0.125},
        resumed={"lr": 0.01, "weight_decay": 0.1},
        learned=("lr",),
        long=({"weight_decay": 0.1},),
        edges=({"betas": (0.0, 0.0)}, {"lr": 0.5, "betas": (0.0, 0.9), "weight_decay": 2.0}),
        by_hand=(({"lr": 0.1, "weight_decay": 0.1}, [0.76257611, -1.92117212]),),
        has_step=False,
        has_betas=True,
        smooth=False,
        copies=1.0,  # like Rprop
        module="tests.oracles",
        refused=(*negative(), *BETAS),
    ),
    "novograd": Algorithm(
        "NovoGrad",
        ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
        (
            {"lr": 0.01, "weight_decay": 0.0},
            {"lr": 0.01, "weight_decay": 0.1, "maximize": True},
            {"lr": 0.01, "weight_decay": 0.0, "amsgrad": True, "grad_averaging": True, "maximize": True},
            {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True},
            {"lr": 0.01, "weight_decay": 0.1, "grad_averaging": True},
        ),
        typical={"lr": 0.01, "amsgrad": True},
        exact={"lr": 0.0625, "betas": (0.875, B2), "eps": 2.0**-27, "weight_decay": 0.125},
        resumed={"lr": 0.01, "weight_decay": 0.1, "amsgrad": True},
        learned=("lr", "eps", "weight_decay"),
        long=({}, {"weight_decay": 0.1, "amsgrad": True, "grad_averaging": True}),
        edges=(
            {"betas": (0.0, 0.0), "eps": 0.1},
            {"betas": (0.0, 0.99), "lr": 0.5, "weight_decay": 2.0, "amsgrad": True},
            {"lr": 0.25, "betas": (0.99, 0.0), "grad_averaging": True},
        ),
        by_hand=(
            ({"lr": 0.1}, [0.695316718214, -1.859880587784]),
            (
                {
                    "lr": 0.1,
                    "betas": (0.5, 0.9),
                    "weight_decay": 0.1,
                    "grad_averaging": True,
                    "amsgrad": True,
                    "maximize": True,
                },
                [1.071780651206, -1.965871882661],
            ),
        ),
        has_betas=True,
        slot_shapes={"exp_avg_sq": lambda shape: (), "max_exp_avg_sq": lambda shape: ()},
        packs=False,
        copies=1.0,  # the gradient, which is divided by its own norm
        module="tests.oracles",
        refused=(*negative(**EPS), *BETAS),
    ),
    "signum": Algorithm(
        "Signum",
        ("momentum_buffer",),
        (*crossed({"lr": 0.01, "momentum": 0.9}), {"lr": 0.01, "momentum": 0.0, "weight_decay": 0.1}),
        typical={"lr": 0.01, "momentum": 0.9},
        exact={"lr": 0.0625, "momentum": 0.875, "weight_decay": 0.125},
        resumed={"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1},
        learned=("lr",),
        long=({"momentum": 0.8, "weight_decay": 0.1},),
        edges=({"momentum": 0.0, "weight_decay": 2.0, "lr": 0.5}, {"momentum": 0.99, "lr": 0.25}),
        by_hand=(
            ({"lr": 0.1, "weight_decay": 0.1}, [0.56655611, -1.52715212]),
            ({"lr": 0.25, "momentum": 0.5, "maximize": True}, [1.75, -2.0]),
        ),
        has_step=False,
        smooth=False,
        copies=1.0,  # like Rprop
        module="tests.oracles",
        refused=(*negative(momentum="momentum value"), ({"momentum": 1.0}, "Invalid momentum value: 1.0")),
    ),
    "sm3": Algorithm(
        "SM3",
        ("momentum_buffer", *(f"accumulator_{index}" for index in range(6))),
        (
            {"lr": 0.05, "momentum": 0.9},
            {"lr": 0.05, "momentum": 0.9, "maximize": True},
            {"lr": 0.05, "momentum": 0.0},
        ),
        typical={"lr": 0.05, "momentum": 0.9},
        exact={"lr": 0.0625, "momentum": 0.875, "eps": 2.0**-40},
        resumed={"lr": 0.05, "momentum": 0.9},
        learned=("lr", "eps"),
        long=({"momentum": 0.8},),
        edges=({"momentum": 0.0, "eps": 0.1}, {"momentum": 0.99, "lr": 0.5}),
        by_hand=(
            ({}, [0.958611726795, -1.981810160761]),
            ({"lr": 0.5, "momentum": 0.0, "maximize": True}, [1.839489081998, -2.238877311954]),
        ),
        has_step=False,
        takes_complex=False,
        takes_empty=False,
        slot_shapes={f"accumulator_{index}": functools.partial(_accumulator, index) for index in range(6)},
        packs=False,
        copies=1.0,  # the bound of the sums of squares
        module="tests.oracles",
        refused=(*negative(weight_decay="", momentum="momentum value", **EPS),),
    ),
}
