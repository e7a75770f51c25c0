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
    "ademamix": Algorithm(
        "AdEMAMix",
        ("exp_avg_fast", "exp_avg_slow", "exp_avg_sq"),
        (
            {"lr": 0.01, "weight_decay": 0.0, "maximize": False},
            {"lr": 0.01, "weight_decay": 0.1, "alpha_warmup": 20.0, "beta3_warmup": 30.0, "maximize": True},
        ),
        typical={"lr": 0.01},
        exact={
            "lr": 0.0625,
            "betas": (0.875, B2, 0.9375),
            "alpha": 3.0,
            "eps": 2.0**-27,
            "weight_decay": 0.125,
            "beta3_warmup": 8.0,
            "alpha_warmup": 4.0,
        },
        resumed={"lr": 0.01, "weight_decay": 0.1, "beta3_warmup": 12.0, "alpha_warmup": 4.0},
        learned=("lr", "eps", "weight_decay"),
        long=({}, {"betas": (0.9, 0.99, 0.9995), "beta3_warmup": 500.0, "alpha_warmup": 700.0}),
        edges=(
            {"betas": (0.0, 0.0, 0.0)},
            {"betas": (0.0, 0.99, 0.9), "alpha": 0.0, "eps": 0.1, "beta3_warmup": 3.0},
            {"lr": 0.0, "weight_decay": 2.0, "alpha_warmup": 1.0, "beta3_warmup": 1.0},
        ),
        by_hand=(
            ({"lr": 0.1}, [0.740553621862, -1.878634320918]),
            (
                {"lr": 0.1, "betas": (0.5, 0.9, 0.99), "alpha": 5.0, "beta3_warmup": 6.0, "alpha_warmup": 3.0},
                [0.655038931203, -1.86168472184],
            ),
            ({"lr": 0.1, "weight_decay": 0.1, "maximize": True}, [1.215882942353, -2.039391250024]),
        ),
        has_betas=True,
        module="tests.oracles",
        refused=(
            *negative(**EPS, alpha="alpha value", beta3_warmup="warmup value", alpha_warmup="warmup value"),
            *THREE_BETAS,
        ),
    ),
    "adopt": Algorithm(
        "ADOPT",
        ("exp_avg", "exp_avg_sq"),
        (
            {"lr": 0.01, "weight_decay": 0.0, "decoupled_weight_decay": False, "maximize": False},
            {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": False, "maximize": True},
            {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": False},
            {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True, "clip_exp": None},
        ),
        typical={"lr": 0.01},
        exact={"lr": 0.0625, "betas": (0.875, B2), "eps": 2.0**-20, "clip_exp": 0.5, "weight_decay": 0.125},
        resumed={"lr": 0.01, "weight_decay": 0.1},
        learned=("lr", "eps", "weight_decay"),
        long=({}, {"clip_exp": None, "betas": (0.9, 0.92)}),
        edges=(
            {"betas": (0.0, 0.0)},
            {"betas": (0.3, 0.5), "eps": 0.1, "clip_exp": 0.0},
            {"betas": (0.99, 0.0), "lr": 0.0, "weight_decay": 2.0, "decoupled_weight_decay": True},
        ),
        by_hand=(
            ({"lr": 0.1}, [0.984955739724, -2.020224898803]),
            (
                {"lr": 0.1, "betas": (0.5, 0.9), "clip_exp": None, "weight_decay": 0.1, "maximize": True},
                [1.115717563054, -1.86976039438],
            ),
            (
                {"lr": 0.1, "clip_exp": 1.0, "weight_decay": 0.1, "decoupled_weight_decay": True},
                [0.939905174909, -1.960596148584],
            ),
        ),
        has_betas=True,
        copies=2.0,
        module="tests.oracles",
        refused=(*negative(**EPS, clip_exp="clip_exp value"), *BETAS),
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
