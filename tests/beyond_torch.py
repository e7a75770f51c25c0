"""The rows of the algorithms that torch does not have, in the order of their names."""

from tests.row import B2, BETAS, Algorithm, crossed, negative

BEYOND_TORCH: dict[str, Algorithm] = {
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
}
