"""The table "optax -> here": complete, true about what exists, and equal in numbers where it names no difference."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import functorch_optim as fo

PAGE = (Path(__file__).parents[1] / "docs" / "from-optax.md").read_text()
ROWS = re.findall(r"^\| `optax\.([\w.]+)` \| (`fo\.[\w.]+`|planned|none) \| (.*?) ?\|$", PAGE, re.MULTILINE)
S = fo.schedules


def functions(module):
    """Return the lower-case callables of a module."""
    return {name for name in dir(module) if name[0].islower() and callable(getattr(module, name))}


def test_the_table_has_every_function_of_optax_once():
    names = [name for name, *_ in ROWS]
    expected = functions(optax) | {f"contrib.{name}" for name in functions(contrib)}
    assert len(names) == len(set(names)) and set(names) == expected


def test_every_counterpart_exists():
    for _, here, _ in ROWS:
        if here.startswith("`fo."):
            found = fo
            for part in here.strip("`").split(".")[1:]:
                found = getattr(found, part)


def test_most_functions_have_a_counterpart_and_the_others_a_reason():
    top = [row for row in ROWS if "." not in row[0]]
    assert sum(here.startswith("`fo.") for _, here, _ in top) >= 85
    assert all(note for _, here, note in ROWS if here == "none")


def updates(tx, params, grads, steps=6):
    """Return the parameters after every step, with gradients that differ from step to step."""
    state, seen = tx.init(params), []
    for step in range(steps):
        own = jax.tree.map(lambda g, step=step: g * jnp.cos(1.0 + step) + 0.1 * step, grads)
        change, state = tx.update(own, state, params)
        params = optax.apply_updates(params, change)
        seen.append(params)
    return seen


TRANSFORMATIONS = {
    "adadelta": (fo.adadelta(lr=0.5, rho=0.9, eps=1e-6), optax.adadelta(0.5, rho=0.9, eps=1e-6)),
    "adam": (fo.adam(lr=0.1), optax.adam(0.1)),
    "adamax": (fo.adamax(lr=0.1, eps=1e-3), optax.adamax(0.1, eps=1e-3)),
    "adamw": (fo.adamw(lr=0.1, weight_decay=0.1), optax.adamw(0.1, weight_decay=0.1)),
    "adaptive_grad_clip": (fo.adaptive_grad_clip(0.1), optax.adaptive_grad_clip(0.1)),
    "add_decayed_weights": (fo.add_decayed_weights(0.1), optax.add_decayed_weights(0.1)),
    "apply_if_finite": (fo.skip_nonfinite(fo.sgd(lr=0.1), 3), optax.apply_if_finite(optax.sgd(0.1), 3)),
    "centralize": (fo.centralize(), optax.centralize()),
    "chain": (fo.chain(fo.clip_by_value(0.5), fo.sgd(lr=0.1)), optax.chain(optax.clip(0.5), optax.sgd(0.1))),
    "clip": (fo.clip_by_value(0.5), optax.clip(0.5)),
    "clip_by_block_rms": (fo.clip_by_block_rms(0.5), optax.clip_by_block_rms(0.5)),
    "identity": (fo.identity(), optax.identity()),
    "keep_params_nonnegative": (fo.keep_nonnegative(), optax.keep_params_nonnegative()),
    "masked": (
        fo.masked(fo.scale(0.5), {"a": True, "b": False}),
        optax.masked(optax.scale(0.5), {"a": True, "b": False}),
    ),
    "multi_transform": (
        fo.partition({"one": fo.sgd(lr=0.1), "two": fo.adam(lr=0.1)}, {"a": "one", "b": "two"}),
        optax.multi_transform({"one": optax.sgd(0.1), "two": optax.adam(0.1)}, {"a": "one", "b": "two"}),
    ),
    "named_chain": (
        fo.named_chain(("clip", fo.clip_by_value(0.5)), ("sgd", fo.sgd(lr=0.1))),
        optax.named_chain(("clip", optax.clip(0.5)), ("sgd", optax.sgd(0.1))),
    ),
    "normalize_by_update_norm": (fo.normalize(), optax.normalize_by_update_norm()),
    "partition": (
        fo.partition({"one": fo.sgd(lr=0.1), "two": fo.adam(lr=0.1)}, {"a": "one", "b": "two"}),
        optax.partition({"one": optax.sgd(0.1), "two": optax.adam(0.1)}, {"a": "one", "b": "two"}),
    ),
    "radam": (fo.radam(lr=0.1, eps=0.0), optax.radam(0.1, eps=0.0)),
    "scale": (fo.scale(0.5), optax.scale(0.5)),
    "scale_by_adam": (fo.scale_by_adam(), optax.scale_by_adam()),
    "scale_by_learning_rate": (fo.scale_by_learning_rate(0.1), optax.scale_by_learning_rate(0.1)),
    "scale_by_radam": (fo.scale_by_radam(eps=0.0), optax.scale_by_radam(eps=0.0)),
    "scale_by_schedule": (fo.scale_by_schedule(S.constant(0.5)), optax.scale_by_schedule(lambda step: 0.5)),
    "scale_by_sign": (fo.scale_by_sign(), optax.scale_by_sign()),
    "scale_by_trust_ratio": (fo.scale_by_trust_ratio(), optax.scale_by_trust_ratio()),
    "selective_transform": (
        fo.selective(fo.sgd(lr=0.1), {"a": True, "b": False}),
        optax.selective_transform(optax.sgd(0.1), freeze_mask={"a": False, "b": True}),
    ),
    "set_to_zero": (fo.set_to_zero(), optax.set_to_zero()),
    "sgd": (fo.sgd(lr=0.1, momentum=0.9, nesterov=True), optax.sgd(0.1, momentum=0.9, nesterov=True)),
    "trace": (fo.scale_by_momentum(momentum=0.9), optax.trace(0.9)),
    "zero_nans": (fo.zero_nans(), optax.zero_nans()),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_transformations_equal_those_of_optax(name, x64):
    draw = np.random.default_rng(0)
    params, grads = ({"a": jnp.asarray(draw.normal(size=(3, 4))), "b": jnp.asarray(draw.normal(size=4))} for _ in "pg")
    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
        ours, theirs = (jax.jit(lambda p, g, tx=tx: updates(tx, p, g))(params, grads) for tx in TRANSFORMATIONS[name])
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


SCHEDULES = {
    "constant_schedule": (S.constant(0.5), optax.constant_schedule(0.5)),
    "cosine_decay_schedule": (S.cosine_annealing(0.5, 10), optax.cosine_decay_schedule(0.5, 10)),
    "cosine_onecycle_schedule": (S.one_cycle(0.5, 11, pct_start=4 / 11), optax.cosine_onecycle_schedule(10, 0.5)),
    "exponential_decay": (S.exponential_decay(0.5, 0.9), optax.exponential_decay(0.5, 1, 0.9)),
    "linear_schedule": (S.linear(0.5, 1.0, 0.2, 10), optax.linear_schedule(0.5, 0.1, 10)),
    "polynomial_schedule": (S.polynomial_decay(0.5, 10, 2.0), optax.polynomial_schedule(0.5, 0.0, 2.0, 10)),
    "warmup_constant_schedule": (S.warmup(0.5, 4), optax.warmup_constant_schedule(0.0, 0.5, 4)),
    "warmup_cosine_decay_schedule": (
        S.warmup_cosine(0.5, 4, 10, 0.1),
        optax.warmup_cosine_decay_schedule(0.0, 0.5, 4, 10, 0.1),
    ),
    "join_schedules": (
        S.sequential((S.constant(0.5), S.exponential_decay(0.5, 0.9)), (4,)),
        optax.join_schedules([optax.constant_schedule(0.5), optax.exponential_decay(0.5, 1, 0.9)], [4]),
    ),
    "piecewise_constant_schedule": (
        S.multi_step_decay(0.5, (3, 7), 0.1),
        optax.piecewise_constant_schedule(0.5, {3: 0.1, 7: 0.1}),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_equal_those_of_optax(name, x64):
    ours, theirs = SCHEDULES[name]
    with jax.numpy_dtype_promotion("standard"):
        for step in range(11):
            assert float(ours(step)) == pytest.approx(float(theirs(step)), rel=1e-6, abs=1e-9), step


def test_functions_of_trees_equal_those_of_optax():
    params, change = {"a": jnp.array([3.0, 4.0]), "b": None}, {"a": jnp.array([0.5, -0.5]), "b": None}
    assert fo.global_norm(params) == optax.tree.norm(params)  # optax.global_norm is an old name of it
    assert fo.apply_updates(params, change)["a"].tolist() == optax.apply_updates(params, change)["a"].tolist()


ELSEWHERE = {  # the file that compares the function with optax's
    "contrib.normalize": "test_cleaning.py",
    "contrib.reduce_on_plateau": "test_wrappers.py",
    "inject_hyperparams": "test_injection.py",
    "scale_by_adadelta": "test_directions.py",
    "scale_by_adamax": "test_directions.py",
    "scale_by_param_block_norm": "test_cleaning.py",
    "scale_by_param_block_rms": "test_cleaning.py",
    "scale_by_rms": "test_directions.py",
    "scale_by_rss": "test_directions.py",
    "skip_large_updates": "test_skipping.py",
    "skip_not_finite": "test_skipping.py",
}
HERE = {"apply_updates", "global_norm"}


def test_rows_that_name_no_difference_are_compared():
    silent = {name for name, here, note in ROWS if here.startswith("`fo.") and not note}
    assert silent <= TRANSFORMATIONS.keys() | SCHEDULES.keys() | ELSEWHERE.keys() | HERE
    for name, file in ELSEWHERE.items():
        text = (Path(__file__).parent / file).read_text()
        assert re.search(rf"(optax|contrib)\.{name.split('.')[-1]}\b", text), name
