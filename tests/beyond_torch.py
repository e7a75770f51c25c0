"""The rows of the algorithms that torch does not have, in the order of their names."""

from tests.row import B2, BETAS, EPS, THREE_BETAS, Algorithm, crossed, negative

BEYOND_TORCH: dict[str, Algorithm] = {
    "adan": Algorithm(
        "Adan",
        ("exp_avg", "exp_avg_sq", "exp_avg_diff", "neg_pre_grad"),
        (
            {"lr": 0.01, "weight_decay": 0.0, "no_prox": False, "maximize": False},
            {"lr": 0.01, "weight_decay": 0.1, "no_prox": False, "maximize": True},
            {"lr": 0.01, "weight_decay": 0.1, "no_prox": True, "maximize": False},
        ),
        typical={"lr": 0.01},
        exact={"lr": 0.0625, "betas": (0.875, 0.75, B2), "eps": 2.0**-27, "weight_decay": 0.125},
        resumed={"lr": 0.01, "weight_decay": 0.1},
        learned=("lr", "eps", "weight_decay"),
        long=({"weight_decay": 0.1},),
        edges=(
            {"betas": (0.0, 0.0, 0.0)},
            {"lr": 0.5, "betas": (0.0, 0.9, 0.99), "weight_decay": 2.0},
            {"lr": 0.0, "eps": 0.1},
        ),
        by_hand=(
            ({"lr": 0.1}, [0.859870375291, -1.963298317548]),
            ({"lr": 0.1, "betas": (0.5, 0.75, 0.9), "weight_decay": 0.1}, [0.816579710286, -1.905845034749]),
            ({"lr": 0.1, "weight_decay": 0.1, "no_prox": True, "maximize": True}, [1.097948122328, -1.955898982138]),
        ),
        has_betas=True,
        copies=2.0,
        module="tests.oracles",
        refused=(*negative(**EPS), *THREE_BETAS),
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
}
