"""Errors about unknown options: a misspelled name, or what another library calls the option."""

import inspect
import pickle
import re

import jax.numpy as jnp
import pytest

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.foreign_names import meaning_of

PARAMS = {"w": jnp.ones(2), "b": jnp.ones(1)}


def sgd():
    return optim.SGD(PARAMS, lr=0.1)


def by_public_name():
    """Every public function and class that takes options, by name."""
    spaces = {"fo": fo, "fo.schedules": fo.schedules, "optim": optim, "optim.lr_scheduler": optim.lr_scheduler}
    found = {}
    for space, module in spaces.items():
        for name in getattr(module, "__all__", dir(module)):
            value = getattr(module, name)
            if inspect.isclass(value):
                taught = value.__init__ if issubclass(value, (fo.schedules.Schedule, optim.Optimizer)) else None
                taught = value.__init__ if space == "optim.lr_scheduler" else taught
                if taught is None or value in (fo.schedules.Schedule, optim.Optimizer):
                    continue
            elif not inspect.isfunction(value) or "GradientTransformation" not in str(
                inspect.signature(value).return_annotation
            ):
                continue
            kinds = [p.kind for p in inspect.signature(value).parameters.values()]
            if kinds and not {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL} & set(kinds):
                found[f"{space}.{name}"] = value
    return found


PUBLIC = by_public_name()


@pytest.mark.parametrize("name", PUBLIC)
def test_a_misspelled_option_is_recognized(name):
    function, names = PUBLIC[name], list(inspect.signature(PUBLIC[name]).parameters)
    own = function.__init__ if inspect.isclass(function) else function
    called = re.escape(f"{own.__qualname__}()")
    for option in names:
        if len(option) < 4:
            continue
        wrong = option[:-2] + option[-1] if option[:-2] + option[-1] not in names else option + "x"
        if meaning_of(wrong, names) is not None:
            continue
        start = rf"^{called} got an unexpected keyword argument '{wrong}': did you mean \w+\?$"
        with pytest.raises(TypeError, match=start):
            function(**{wrong: 1})
    with pytest.raises(TypeError, match=rf"^{called} got an unexpected keyword argument 'qqqqq'; the options are "):
        function(qqqqq=1)


def test_a_taught_function_is_found_by_name():
    for name, function in PUBLIC.items():
        assert pickle.loads(pickle.dumps(function)) is function, name
        assert function.__doc__ and function.__doc__.strip(), name


FOREIGN = {
    "optax lr": (lambda: fo.adam(learning_rate=0.1), "adam", "learning_rate", "did you mean lr?"),
    "torch face lr": (lambda: optim.Adam(PARAMS, learning_rate=0.1), "Adam.__init__", "learning_rate", "mean lr?"),
    "L-BFGS": (lambda: optim.LBFGS(PARAMS, learning_rate=1.0), "LBFGS.__init__", "learning_rate", "mean lr?"),
    "optax b1": (lambda: fo.adamw(b1=0.9), "adamw", "b1", "betas=(b1, b2)"),
    "keras beta_1": (lambda: optim.AdamW(PARAMS, beta_1=0.9), "AdamW.__init__", "beta_1", "betas=(b1, b2)"),
    "keras epsilon": (lambda: fo.rmsprop(epsilon=0.9), "rmsprop", "epsilon", "mean eps?"),
    "keras rho": (lambda: fo.rmsprop(rho=0.9), "rmsprop", "rho", "mean alpha?"),
    "optax decay": (lambda: fo.rmsprop(decay=0.9), "rmsprop", "decay", "mean alpha?"),
    "eps_root": (lambda: fo.adam(eps_root=0.0), "adam", "eps_root", "leave it out"),
    "mu_dtype": (lambda: fo.adam(mu_dtype="bfloat16"), "adam", "mu_dtype", 'fo.state_dtype(tx, {"exp_avg": dtype})'),
    "mu_dtype, torch face": (
        lambda: optim.Adam(PARAMS, mu_dtype="bfloat16"),
        "Adam.__init__",
        "mu_dtype",
        'state_dtype={"exp_avg": dtype}',
    ),
    "mask": (lambda: fo.adamw(mask=PARAMS), "adamw", "mask", "mean decay_mask?"),
    "mask, torch face": (lambda: optim.AdamW(PARAMS, mask=PARAMS), "AdamW.__init__", "mask", "group_rules=["),
    "decay_mask": (lambda: optim.AdamW(PARAMS, decay_mask=PARAMS), "AdamW.__init__", "decay_mask", "group_rules=["),
    "no decay": (lambda: fo.rprop(decay_mask=PARAMS), "rprop", "decay_mask", "nothing decays here"),
    "wd": (lambda: fo.sgd(wd=0.1), "sgd", "wd", "mean weight_decay?"),
    "clipnorm": (lambda: fo.adam(clipnorm=1.0), "adam", "clipnorm", "fo.clip_by_global_norm"),
    "clipnorm, torch face": (lambda: optim.Adam(PARAMS, clipnorm=1.0), "Adam.__init__", "clipnorm", "clip_grad_norm"),
    "use_ema": (lambda: fo.adam(use_ema=True), "adam", "use_ema", "fo.ema(decay)"),
    "params": (lambda: fo.adam(params=PARAMS), "adam", "params", "tx.init(params)"),
    "T_max": (
        lambda: optim.lr_scheduler.CosineAnnealingLR(sgd(), t_max=10),
        "CosineAnnealingLR.__init__",
        "t_max",
        "mean T_max?",
    ),
    "verbose": (lambda: optim.lr_scheduler.StepLR(sgd(), 1, verbose=True), "StepLR.__init__", "verbose", "get_last_lr"),
    "peak_value": (
        lambda: fo.schedules.warmup_cosine(peak_value=1.0, decay_steps=9),
        "warmup_cosine.__init__",
        "peak_value",
        "mean peak?",
    ),
    "decay_steps": (
        lambda: fo.schedules.warmup_cosine(1.0, decay_steps=9),
        "warmup_cosine.__init__",
        "decay_steps",
        "mean total_steps?",
    ),
    "in a chain": (lambda: fo.chain(fo.clip_by_norm(1.0), fo.sgd(learning_rate=1.0)), "sgd", "learning_rate", "lr?"),
    "from_transform": (
        lambda: optim.Optimizer.from_transform(lambda lr: fo.sgd(lr), PARAMS, {"learning_rate": 0.1}),
        "<lambda>.<locals>.<lambda>",
        "learning_rate",
        "mean lr?",
    ),
    "inject": (lambda: fo.inject(fo.adam, learning_rate=0.1), "adam", "learning_rate", "mean lr?"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_foreign_name_is_translated(case):
    call, function, name, words = FOREIGN[case]
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value).startswith(f"{function}() got an unexpected keyword argument {name!r}: ")
    assert words in str(caught.value)
    assert "did you mean" in str(caught.value) or "mean" not in words


@pytest.mark.parametrize(
    ("key", "option"),
    [
        ("learning_rate", "lr"),
        ("beta_1", "betas"),
        ("b2", "betas"),
        ("epsilon", "eps"),
        ("weight_dekay", "weight_decay"),
    ],
)
def test_a_foreign_name_in_a_group_is_translated(key, option):
    words = rf": '{key}' is no option of this optimizer; did you mean '{option}'\?"
    with pytest.raises(ValueError, match=f"^parameter group 0{words}"):
        optim.Adam([{"params": PARAMS, key: 0.1}])
    with pytest.raises(ValueError, match=rf"^group rule 0 \('w'\){words}"):
        optim.Adam(PARAMS, group_rules=[("w", {key: 0.1})])
    optimizer = optim.Adam([{"params": PARAMS}])
    with pytest.raises(ValueError, match=f"^parameter group 1{words}"):
        optimizer.add_param_group({"params": {"c": jnp.ones(1)}, key: 0.1})
    assert len(optimizer.param_groups) == 1


def test_keys_of_the_user_stay_in_a_group():
    optimizer = optim.Adam([{"params": PARAMS, "mask": 1, "schedule": "cosine", "momentum": 0.5, "lr_scale": 2.0}])
    assert optimizer.param_groups[0]["mask"] == 1
    assert optimizer.param_groups[0]["schedule"] == "cosine"
