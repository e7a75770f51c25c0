"""The rows of the algorithms that torch does not have, in the order of their names."""

from tests.row import B2, BETAS, EPS, Algorithm, crossed, negative

BEYOND_TORCH: dict[str, Algorithm] = {
    "grams": Algorithm(
        "Grams",
        ("exp_avg", "exp_avg_sq"),
        crossed({"lr": 0.01}),
        typical={"lr": 0.01},
        exact={"lr": 0.0625, "betas": (0.875, B2), "eps": 2.0**-20, "weight_decay": 0.125},
        resumed={"lr": 0.01, "weight_decay": 0.1},
        learned=("lr", "eps", "weight_decay"),
        long=({"weight_decay": 0.1},),
        edges=({"betas": (0.0, 0.0)}, {"betas": (0.3, 0.5), "eps": 0.1, "weight_decay": 2.0}),
        by_hand=(
            ({"lr": 0.1, "weight_decay": 0.1}, [0.757646254424, -1.824078600776]),
            ({"lr": 0.1, "eps": 0.1, "correct_bias": False, "maximize": True}, [1.211909843357, -2.079239847759]),
        ),
        has_betas=True,
        module="tests.oracles",
        refused=(*negative(**EPS), *BETAS),
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
    "mars": Algorithm(
        "MARS",
        ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "last_grad"),
        (
            {"lr": 0.01},
            {"lr": 0.01, "weight_decay": 0.1, "maximize": True},
            {"lr": 0.01, "amsgrad": True, "optimize_1d": True, "weight_decay": 0.1, "gamma": 0.1},
            {"lr": 0.01, "mars_type": "lion", "optimize_1d": True, "weight_decay": 0.1},
            {"lr": 0.01, "lr_1d_factor": 0.5, "betas_1d": (0.8, 0.9), "weight_decay_1d": 0.0, "eps": 1e-3},
        ),
        typical={"lr": 0.01, "amsgrad": True},
        exact={
            "lr": 0.0625,
            "betas": (0.875, B2),
            "eps": 2.0**-27,
            "weight_decay": 0.125,
            "gamma": 0.125,
            "lr_1d_factor": 0.5,
            "betas_1d": (0.75, 0.875),
            "weight_decay_1d": 0.25,
        },
        resumed={"lr": 0.01, "weight_decay": 0.1, "optimize_1d": True},
        long=({"weight_decay": 0.1},),
        edges=({"betas": (0.0, 0.0)}, {"gamma": 0.0, "optimize_1d": True, "weight_decay": 1.0}),
        by_hand=(
            ({"lr": 0.1, "lr_1d_factor": 0.5}, [0.852021472733, -1.900254914686]),
            (
                {"lr": 0.1, "weight_decay": 0.1, "gamma": 0.1, "optimize_1d": True},
                [0.799432791037, -1.786101776731],
            ),
            ({"lr": 0.1, "weight_decay": 0.1, "mars_type": "lion", "optimize_1d": True}, [0.56655611, -1.72317212]),
        ),
        has_betas=True,
        takes_complex=False,
        packs=False,
        copies=1.0,  # like Adafactor
        module="tests.oracles",
        refused=(
            *negative(**EPS),
            *BETAS,
            ({"gamma": -0.5}, "Invalid value, it must not be negative: -0.5"),
            ({"mars_type": "shampoo"}, "mars_type must be 'adamw' or 'lion', but it is 'shampoo'"),
        ),
    ),
}
