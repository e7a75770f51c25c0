"""WarmupStableDecay, a scheduler that torch lacks, against its schedule, its formula and torch's LambdaLR.

``tests/test_scheduler_resume.py`` saves and resumes it with the others.
"""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from functorch_optim import optim, schedules
from functorch_optim.optim.lr_scheduler import ConstantLR, LinearLR, SequentialLR, WarmupStableDecay
from tests.test_lr_scheduler import learning_rates, ours, run, theirs, told

OPTIONS = [(4, 5, 8, 0.01), (0, 3, 4, 0.0), (3, 0, 0, 0.2), (0, 0, 0, 0.1), (5, 2, 10, 1.0), (100, 100, 50, 0.0)]
BASES = (0.5, 2.0)
each_form = pytest.mark.parametrize("options", OPTIONS)


def formula(base, step, warmup, stable, decay, end):
    """Return the rate as the paper has it, with a linear decay."""
    if step < warmup:
        return base * step / warmup
    done = step - warmup - stable
    return base + (end - base) * min(max(done, 0) / decay, 1) if decay else base if done < 0 else end


@each_form
def test_every_group_follows_the_formula_and_the_schedule(options):
    optimizer, _ = ours("StepLR", {})
    values = run(optimizer, WarmupStableDecay(optimizer, *options), 300)
    assert told(values)
    found = [row[:2] for row in values]
    expected = [[formula(base, step, *options) for base in BASES] for step in range(301)]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
    forms = [schedules.warmup_stable_decay(base, *options) for base in BASES]
    assert found == [[form(step) for form in forms] for step in range(301)]


@pytest.mark.torch
def test_without_an_end_it_is_torchs_lambda_lr():
    options = (4, 5, 8, 0.0)
    optimizer, _ = ours("StepLR", {})
    other, make = theirs("LambdaLR", {"lr_lambda": lambda step: formula(1.0, step, *options)})
    expected = learning_rates(other, make(other), 40)
    found = learning_rates(optimizer, WarmupStableDecay(optimizer, *options), 40)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_it_may_go_to_an_epoch_and_take_groups_that_come_later():
    optimizer, _ = ours("StepLR", {})
    scheduler = WarmupStableDecay(optimizer, 4, 5, 8)
    optimizer.step()
    for epoch in (3, 12, 1):
        with pytest.warns(UserWarning, match="The epoch parameter"):
            scheduler.step(epoch)
        assert scheduler.get_last_lr() == [formula(base, epoch, 4, 5, 8, 0.0) for base in BASES]
    optimizer.add_param_group({"params": [jnp.ones(1)], "lr": 8.0})
    scheduler.step()
    assert scheduler.get_last_lr() == [0.25, 1.0, 4.0]
    assert scheduler.base_lrs == [0.5, 2.0, 8.0]


def test_a_rate_set_by_hand_is_overwritten_and_a_longer_plateau_is_kept():
    optimizer, _ = ours("StepLR", {})
    scheduler = WarmupStableDecay(optimizer, 2, 3, 5)
    run(optimizer, scheduler, 6)
    optimizer.param_groups[0]["lr"] = 9.0
    scheduler.step()
    assert scheduler.get_last_lr() == [formula(base, 7, 2, 3, 5, 0.0) for base in BASES]
    longer, _ = ours("StepLR", {})
    resumed = WarmupStableDecay(longer, 2, 30, 5)
    resumed.load_state_dict(scheduler.state_dict(), keep=["stable_steps"])
    assert resumed.last_epoch == 7 and resumed.get_last_lr() == [0.5, 2.0]
    assert (
        scheduler.state_dict().items() >= {"warmup_steps": 2, "stable_steps": 3, "decay_steps": 5, "end": 0.0}.items()
    )


def test_it_goes_on_after_an_epoch_and_in_a_sequence():
    optimizer, _ = ours("StepLR", {})
    with pytest.raises(KeyError, match="initial_lr"):
        WarmupStableDecay(optimizer, 2, 3, 5, last_epoch=4)
    for group, base in zip(optimizer.param_groups, BASES, strict=True):
        group["initial_lr"] = base
    assert WarmupStableDecay(optimizer, 2, 3, 5, last_epoch=5).get_last_lr() == [
        formula(base, 6, 2, 3, 5, 0.0) for base in BASES
    ]
    fresh, _ = ours("StepLR", {})
    parts = [ConstantLR(fresh, 0.1, 100), WarmupStableDecay(fresh, 2, 2, 4), LinearLR(fresh, 0.5, total_iters=2)]
    found = learning_rates(fresh, SequentialLR(fresh, parts, [3, 9]), 11)
    middle = [[formula(base, step, 2, 2, 4, 0.0) for base in BASES] for step in range(6)]
    np.testing.assert_allclose(found[3:9], middle, rtol=1e-12)


def test_what_the_last_rate_is_needs_no_warning():
    optimizer, _ = ours("StepLR", {})
    scheduler = WarmupStableDecay(optimizer, 0, 3, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scheduler.get_lr() == scheduler.get_last_lr() == [0.5, 2.0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ((-1, 2, 3), ValueError, "warmup_steps must be an integer of at least 0"),
        ((1, 2.5, 3), TypeError, "stable_steps must be an integer of at least 0"),
        ((1, 2, 3, -0.1), ValueError, "end must be a finite number of at least 0"),
        ((1, 2, 3, "low"), TypeError, "end must be a number"),
    ],
)
def test_bad_options_raise_before_anything_is_written(options, error, message):
    optimizer = optim.SGD([jnp.ones(1)], lr=1.0)
    before = dict(optimizer.param_groups[0])
    with pytest.raises(error, match=message):
        WarmupStableDecay(optimizer, *options)
    assert before == dict(optimizer.param_groups[0])
