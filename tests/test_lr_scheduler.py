"""The scheduler classes against torch's."""

import copy
import functools
import sys
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from functorch_optim import optim, schedules
from tests.schedule_cases import PLATEAUS
from tests.test_transactions import lines_until_injected

with_torch = pytest.mark.torch


def half(epoch):
    return 0.5 ** (epoch // 10)


def wave(epoch):
    return 1 / (1 + 0.1 * epoch)


class Decay:
    """A callable object, whose attributes a state_dict keeps."""

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, epoch):
        return self.rate**epoch


SCHEDULERS = {
    "LambdaLR": [{"lr_lambda": each} for each in (half, wave, [half, wave], Decay(0.99), [Decay(0.9), wave], np.cos)],
    "MultiplicativeLR": [{"lr_lambda": each} for each in (wave, [wave, half], Decay(0.999))],
    "StepLR": [
        {"step_size": 1},
        {"step_size": 3, "gamma": 0.5},
        {"step_size": 10, "gamma": 1.1},
        {"step_size": 7, "gamma": 0.0},
        {"step_size": 100},
        {"step_size": 300, "gamma": 0.9},
    ],
    "MultiStepLR": [{"milestones": each} for each in ([3], [0], [5, 5, 9], [], [250, 10])]
    + [{"milestones": [0, 2, 4], "gamma": 0.5}],
    "ConstantLR": [
        {},
        {"factor": 0.5},
        {"factor": 1.0},
        {"total_iters": 1},
        {"total_iters": 100, "factor": 0.1},
        {"factor": 0.9, "total_iters": 250},
    ],
    "LinearLR": [
        {},
        {"start_factor": 0.1},
        {"start_factor": 1.0, "end_factor": 0.0},
        {"total_iters": 100},
        {"start_factor": 0.25, "end_factor": 0.75, "total_iters": 33},
        {"total_iters": 1},
    ],
    "ExponentialLR": [{"gamma": gamma} for gamma in (0.9, 0.99, 1.0, 1.01, 0.5, 0.0)],
    "PolynomialLR": [
        {},
        {"total_iters": 100},
        {"power": 2.0},
        {"power": 0.5, "total_iters": 50},
        {"total_iters": 1},
        {"total_iters": 400, "power": 3.0},
    ],
    "CosineAnnealingLR": [
        {"T_max": 4},
        {"T_max": 10, "eta_min": 0.1},
        {"T_max": 1},
        {"T_max": 7, "eta_min": 2.0},
        {"T_max": 299},
        {"T_max": 1000, "eta_min": 0.01},
        {"T_max": 12.5},
    ],
    "CosineAnnealingWarmRestarts": [
        {"T_0": 1},
        {"T_0": 10},
        {"T_0": 7, "T_mult": 2},
        {"T_0": 3, "eta_min": 0.1},
        {"T_0": 5, "T_mult": 3, "eta_min": 0.01},
        {"T_0": 1000},
    ],
    "CyclicLR": [
        {"base_lr": 0.1, "max_lr": 1.0, **more}
        for more in (
            {},
            {"step_size_up": 10},
            {"step_size_up": 5, "step_size_down": 20, "mode": "triangular2"},
            {"step_size_up": 8, "mode": "exp_range", "gamma": 0.99},
            {"step_size_up": 10, "scale_fn": wave},
            {"step_size_up": 10, "scale_fn": Decay(0.9), "scale_mode": "iterations"},
            {"step_size_up": 10, "cycle_momentum": False},
            {"step_size_up": 4, "base_momentum": [0.5, 0.6], "max_momentum": [0.9, 0.8], "max_lr": [1.0, 2.0]},
        )
    ],
    "OneCycleLR": [
        {"max_lr": 1.0, "total_steps": 301, **more}
        for more in (
            {},
            {"pct_start": 0.1},
            {"anneal_strategy": "linear", "three_phase": True},
            {"max_lr": [1.0, 2.0], "base_momentum": [0.5, 0.6]},
            {"div_factor": 10.0, "final_div_factor": 10.0, "cycle_momentum": False},
            {"total_steps": None, "epochs": 7, "steps_per_epoch": 43},
            {"pct_start": 0.0},
        )
    ],
}
SCHEDULERS["SWALR"] = [
    {"swa_lr": 0.05},
    {"swa_lr": [0.05, 3.0]},
    {"swa_lr": 0.1, "anneal_strategy": "linear"},
    {"swa_lr": 0.1, "anneal_epochs": 0},
    {"swa_lr": 0.1, "anneal_epochs": 1},
    {"swa_lr": [0.1, 0.2], "anneal_epochs": 250, "anneal_strategy": "linear"},
    {"swa_lr": 0.0, "anneal_epochs": 290},
]
CASES = [(name, arguments) for name, each in SCHEDULERS.items() for arguments in each]
each_case = pytest.mark.parametrize(
    ("name", "arguments"), CASES, ids=[f"{name}-{index}" for index, (name, _) in enumerate(CASES)]
)


def arguments_of(arguments):
    """Return copies, because a scheduler's load_state_dict changes callable objects."""
    return copy.deepcopy(arguments)


def scheduler_class(package, name):
    return getattr(package.swa_utils if name == "SWALR" else package.lr_scheduler, name)


def ours(name, arguments, kind="SGD"):
    options = {"momentum": 0.9} if kind == "SGD" else {}
    groups = [{"params": [jnp.ones(1)], "lr": lr} for lr in (0.5, 2.0)]
    optimizer = getattr(optim, kind)(groups, lr=1.0, **options)
    return optimizer, functools.partial(scheduler_class(optim, name), **arguments_of(arguments))


def theirs(name, arguments, kind="SGD"):
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    options = {"momentum": 0.9} if kind == "SGD" else {}
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.5, 2.0)]
    optimizer = getattr(torch.optim, kind)(groups, lr=1.0, **options)
    return optimizer, functools.partial(scheduler_class(torch.optim, name), **arguments_of(arguments))


def rates(optimizer):
    """Return the groups' learning rates, and their momenta or first betas."""
    momenta = [group["betas"][0] if "betas" in group else group["momentum"] for group in optimizer.param_groups]
    return [float(group["lr"]) for group in optimizer.param_groups] + [float(momentum) for momentum in momenta]


def run(optimizer, scheduler, steps):
    """Return, at every step, the rates and what the scheduler reports as the rates."""
    values = [rates(optimizer) + scheduler.get_last_lr()]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        values.append(rates(optimizer) + scheduler.get_last_lr())
    return values


def told(values):
    """Whether the scheduler reported the rates correctly at each step of a run."""
    return [row[:2] for row in values] == [row[-2:] for row in values]


def learning_rates(optimizer, scheduler, steps):
    return [row[:2] for row in run(optimizer, scheduler, steps)]


@with_torch
@each_case
def test_300_steps(name, arguments):
    for kind in ("SGD", "Adam") if name in ("CyclicLR", "OneCycleLR") else ("SGD",):
        values = []
        for optimizer, make in (ours(name, arguments, kind), theirs(name, arguments, kind)):
            values.append(run(optimizer, make(optimizer), 300))
        assert told(values[0])
        np.testing.assert_allclose(*values, rtol=1e-12, atol=1e-15)


@with_torch
@each_case
def test_a_rate_set_by_hand_is_carried_on(name, arguments):
    values = []
    for optimizer, make in (ours(name, arguments), theirs(name, arguments)):
        scheduler = make(optimizer)
        run(optimizer, scheduler, 5)
        optimizer.param_groups[0]["lr"] = 0.3
        values.append(run(optimizer, scheduler, 20))
    np.testing.assert_allclose(*values, rtol=1e-12, atol=1e-15)


@with_torch
@each_case
def test_step_with_an_epoch(name, arguments):
    values = []
    for optimizer, make in (ours(name, arguments), theirs(name, arguments)):
        scheduler = make(optimizer)
        optimizer.step()
        for epoch in (3, 1, 8, 20):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                scheduler.step(epoch)
            assert any("The epoch parameter in `scheduler.step" in str(warning.message) for warning in caught) == (
                name != "CosineAnnealingWarmRestarts"
            )
            values.append(rates(optimizer))
    np.testing.assert_allclose(values[:4], values[4:], rtol=1e-12, atol=1e-15)


@with_torch
@each_case
@pytest.mark.parametrize("direction", ["ours to ours", "theirs to ours", "ours to theirs"])
def test_saved_and_continued(name, arguments, direction):
    source_kind, target_kind = (theirs if part == "theirs" else ours for part in direction.split(" to "))
    source, make = source_kind(name, arguments)
    scheduler = make(source)
    run(source, scheduler, 7)
    target, make = target_kind(name, arguments)
    resumed = make(target)
    saved, state = source.state_dict(), copy.deepcopy(scheduler.state_dict())
    target.load_state_dict(saved)
    resumed.load_state_dict(state)
    assert rates(target) == rates(source)
    np.testing.assert_allclose(run(source, scheduler, 20), run(target, resumed, 20), rtol=1e-12, atol=1e-15)


@with_torch
@each_case
def test_state_dict_has_torchs_keys(name, arguments):
    keys = []
    for optimizer, make in (ours(name, arguments), theirs(name, arguments)):
        keys.append(list(make(optimizer).state_dict()))
    assert sorted(keys[0]) == sorted(keys[1])


@with_torch
@pytest.mark.parametrize("options", PLATEAUS)
def test_reduce_on_plateau(options):
    rng, values = np.random.default_rng(0), []
    metrics = [float("nan") if k == 60 else 1 / (1 + 0.1 * min(k, 30)) + 0.02 * rng.random() for k in range(120)]
    states = []
    for optimizer, make in (ours("ReduceLROnPlateau", options), theirs("ReduceLROnPlateau", options)):
        scheduler = make(optimizer)
        states.append(scheduler)
        for metric in metrics:
            optimizer.step()
            scheduler.step(metric)
            values.append(rates(optimizer))
    np.testing.assert_allclose(values[:120], values[120:], rtol=1e-12)
    assert states[0].state_dict() == states[1].state_dict()
    optimizer, make = ours("ReduceLROnPlateau", options)
    again = make(optimizer)
    again.load_state_dict(states[1].state_dict())
    assert again.best == states[1].best


def test_reduce_on_plateau_with_negative_metrics():
    """torch takes a constant negative metric for an improvement."""
    optimizer, make = ours("ReduceLROnPlateau", {"patience": 1, "factor": 0.5})
    scheduler = make(optimizer)
    for _ in range(4):
        scheduler.step(-1.0)
    assert rates(optimizer)[:2] == [0.25, 1.0]


def composed(package, optimizer, kind):
    """Return one of the compositions that torch gets right."""
    s = package.lr_scheduler
    if kind == "sequential":
        parts = [s.LinearLR(optimizer, 0.1, total_iters=3), s.CosineAnnealingLR(optimizer, 4, 0.1)]
        return s.SequentialLR(optimizer, [*parts, s.ExponentialLR(optimizer, 0.9)], milestones=[3, 11])
    if kind == "chained":
        return s.ChainedScheduler([s.ConstantLR(optimizer, 0.1, 4), s.ExponentialLR(optimizer, 0.9)])
    return s.SequentialLR(optimizer, [s.ExponentialLR(optimizer, 0.9), s.StepLR(optimizer, 2, 0.1)], milestones=[3])


@with_torch
@pytest.mark.parametrize("kind", ["sequential", "chained", "two"])
def test_compositions(kind):
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    values, schedulers = [], []
    for package, (optimizer, _) in ((optim, ours("StepLR", {})), (torch.optim, theirs("StepLR", {}))):
        schedulers.append(composed(package, optimizer, kind))
        values.append(run(optimizer, schedulers[-1], 30))
    assert told(values[0])
    np.testing.assert_allclose(*values, rtol=1e-12)
    saved = [scheduler.state_dict() for scheduler in schedulers]
    assert sorted(saved[0]) == sorted(saved[1])
    optimizer, _ = ours("StepLR", {})
    again = composed(optim, optimizer, kind)
    again.load_state_dict(copy.deepcopy(saved[1]))
    for group, lr in zip(optimizer.param_groups, rates(schedulers[0].optimizer), strict=False):
        group["lr"] = lr
    np.testing.assert_allclose(run(optimizer, again, 10), run(schedulers[0].optimizer, schedulers[0], 10), rtol=1e-12)


def closed_form(lr):
    """Return the closed form of the nested composition below."""
    s = schedules
    inner = s.sequential([s.linear(1.0, 0.5, total_iters=2), s.exponential_decay(1.0, 0.9)], [3])
    return s.sequential([inner, s.chained(1.0, [s.step_decay(1.0, 2, 0.5), s.exponential_decay(1.0, 0.8)])], [7])


def nested(optimizer, last_epoch=-1):
    s = optim.lr_scheduler
    first = s.SequentialLR(optimizer, [s.LinearLR(optimizer, 0.5, total_iters=2), s.ExponentialLR(optimizer, 0.9)], [3])
    then = s.ChainedScheduler([s.StepLR(optimizer, 2, 0.5), s.ExponentialLR(optimizer, 0.8)])
    return s.SequentialLR(optimizer, [first, then], [7], last_epoch)


def test_nested_compositions_are_the_closed_form():
    """torch loses a step in the first, and raises at the second's milestone."""
    optimizer, _ = ours("StepLR", {})
    values = run(optimizer, nested(optimizer), 20)
    assert told(values)
    expected = [[lr * closed_form(1.0)(step) for lr in (0.5, 2.0)] for step in range(21)]
    np.testing.assert_allclose([row[:2] for row in values], expected, rtol=1e-12)


def test_a_sequence_resumed_by_last_epoch():
    optimizer, _ = ours("StepLR", {})
    values = learning_rates(optimizer, nested(optimizer), 20)
    for epoch in (1, 5, 8, 12):
        again, _ = ours("StepLR", {})
        resumed = nested(again, last_epoch=epoch - 1)
        np.testing.assert_allclose(learning_rates(again, resumed, 5), values[epoch : epoch + 6], rtol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda o, e: optim.lr_scheduler.CyclicLR(o, 0.1, 0.5, last_epoch=e),
        lambda o, e: optim.lr_scheduler.OneCycleLR(o, 0.5, total_steps=9, last_epoch=e),
        lambda o, e: optim.swa_utils.SWALR(o, 0.5, last_epoch=e),
        lambda o, e: optim.lr_scheduler.StepLR(o, 5, last_epoch=e),
    ],
)
def test_what_is_refused_writes_nothing(make):
    for lr, epoch, error in ((schedules.constant(0.1), -1, ValueError), (0.1, 4, KeyError)):
        optimizer = optim.SGD([jnp.zeros(1)], lr=lr, momentum=0.7)
        before = dict(optimizer.param_groups[0])
        with pytest.raises(error, match=r"is a schedule|param 'initial_lr' is not specified"):
            make(optimizer, epoch)
        assert optimizer.param_groups[0] == before


@pytest.mark.parametrize(
    "make",
    [
        lambda o: optim.lr_scheduler.CyclicLR(o, "a", 0.5),
        lambda o: optim.lr_scheduler.CyclicLR(o, 0.1, 0.5, max_momentum=[None]),
        lambda o: optim.lr_scheduler.OneCycleLR(o, "a", total_steps=9),
        lambda o: optim.lr_scheduler.OneCycleLR(o, 0.5, total_steps=9, div_factor="a"),
        lambda o: optim.swa_utils.SWALR(o, "a"),
    ],
)
def test_what_is_no_number_writes_nothing(make):
    optimizer = optim.SGD([jnp.zeros(1)], lr=0.1, momentum=0.7)
    before = dict(optimizer.param_groups[0])
    with pytest.raises(TypeError, match=r"must be a number"):
        make(optimizer)
    assert optimizer.param_groups[0] == before


def test_a_schedule_in_a_group_is_not_overwritten():
    optimizer, _ = ours("StepLR", {})
    optimizer.param_groups[0]["lr"] = schedules.linear(1.0)
    with pytest.raises(ValueError, match="the lr of parameter group 0 is a schedule"):
        optim.lr_scheduler.ReduceLROnPlateau(optimizer)


@with_torch
def test_one_cycle_in_a_sequence_sets_the_initial_rate():
    """As in torch, it writes initial_lr, from which the first member then starts."""
    values = []
    for package in (optim, pytest.importorskip("torch", reason="compares with a live torch").optim):
        optimizer, _ = ours("StepLR", {}) if package is optim else theirs("StepLR", {})
        s = package.lr_scheduler
        parts = [s.LinearLR(optimizer, 0.25, total_iters=3), s.OneCycleLR(optimizer, 0.7, total_steps=30)]
        values.append(run(optimizer, s.SequentialLR(optimizer, parts, [4]), 3))
    np.testing.assert_allclose(*values, rtol=1e-12)


def test_state_dicts_are_detached():
    optimizer, make = ours("MultiStepLR", {"milestones": [2]})
    scheduler = make(optimizer)
    scheduler.state_dict()["milestones"][9] = 1
    assert 9 not in scheduler.milestones


def test_a_milestone_of_zero_leaves_the_first_out():
    optimizer, _ = ours("StepLR", {})
    s = optim.lr_scheduler
    parts = [s.ConstantLR(optimizer, 0.1), s.ExponentialLR(optimizer, 0.5)]
    values = learning_rates(optimizer, s.SequentialLR(optimizer, parts, [0]), 3)
    np.testing.assert_allclose(values, [[0.5 * 0.5**k, 2 * 0.5**k] for k in range(4)])


def test_a_plateau_in_a_sequence_gets_its_metric():
    optimizer, _ = ours("StepLR", {})
    s = optim.lr_scheduler
    parts = [s.ConstantLR(optimizer, 0.5, 2), s.ReduceLROnPlateau(optimizer, patience=0, factor=0.1)]
    scheduler = s.SequentialLR(optimizer, parts, [2])
    optimizer.step()
    for metric in (9.0, 9.0, 1.0, 1.0):
        scheduler.step(metric)
    np.testing.assert_allclose(rates(optimizer)[:2], [0.05, 0.2])
    with pytest.raises(TypeError, match=r"holds a ReduceLROnPlateau now: step\(metrics\) needs its metric"):
        scheduler.step()


@pytest.mark.parametrize("name", [name for name, each in SCHEDULERS.items() if name not in ("MultiplicativeLR",)])
def test_resumed_by_last_epoch_at_every_epoch(name):
    """Even at boundaries, where torch applies a factor twice."""
    for arguments in SCHEDULERS[name][:3]:
        optimizer, make = ours(name, arguments)
        values = run(optimizer, make(optimizer), 14)
        assert told(values)
        for epoch in (1, 3, 5, 10):
            again, make = ours(name, arguments)
            first = make(again)
            run(again, first, epoch)
            resumed = make(again, last_epoch=first.last_epoch - 1)
            rest = run(again, resumed, 4)
            assert told(rest)
            np.testing.assert_allclose(rest, values[epoch : epoch + 5], rtol=1e-12)


def test_a_step_that_was_overridden_is_told_from_a_wrong_order():
    optimizer, _ = ours("StepLR", {})
    optimizer.step = functools.partial(type(optimizer).step, optimizer)  # overridden before there is a scheduler
    scheduler = optim.lr_scheduler.StepLR(optimizer, 2)
    with pytest.warns(UserWarning, match=r"Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`"):
        scheduler.step()
    scheduler = optim.lr_scheduler.StepLR(optimizer, 2)
    optimizer.step = lambda *args: None
    optimizer.step()
    with pytest.warns(
        UserWarning, match=r"Seems like `optimizer.step\(\)` has been overridden after learning rate sch"
    ):
        scheduler.step()


def test_errors_and_warnings():
    optimizer, _ = ours("StepLR", {})
    with pytest.raises(TypeError, match="int is not an Optimizer"):
        optim.lr_scheduler.StepLR(3, 2)
    with pytest.raises(KeyError, match=r"param 'initial_lr' is not specified in param_groups\[0\] when resuming"):
        optim.lr_scheduler.StepLR(optimizer, 2, last_epoch=3)
    optimizer.param_groups[1]["lr"] = lambda step: 0.1
    with pytest.raises(ValueError, match="the lr of parameter group 1 is a schedule"):
        optim.lr_scheduler.StepLR(optimizer, 2)
    optimizer.param_groups[1]["lr"] = 0.1
    assert "initial_lr" not in optimizer.param_groups[0]
    scheduler = optim.lr_scheduler.StepLR(optimizer, 2)
    with pytest.warns(UserWarning, match=r"Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`"):
        scheduler.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.step()
    with pytest.raises(NotImplementedError, match="LRScheduler does not define get_lr"):
        optim.lr_scheduler.LRScheduler(optimizer)


BAD = [
    ("StepLR", {"step_size": 0}, ValueError, "step_size must be an integer of at least 1"),
    ("LambdaLR", {"lr_lambda": [half]}, ValueError, "Expected 2 lr_lambdas, but got 1"),
    ("LambdaLR", {"lr_lambda": 0.5}, TypeError, "lr_lambda should be a function, but got float"),
    ("MultiplicativeLR", {"lr_lambda": 0.5}, TypeError, "lr_lambda should be a function, but got float"),
    ("ConstantLR", {"factor": 1.5}, ValueError, "Constant multiplicative factor expected to be between 0 and 1."),
    ("ConstantLR", {"factor": -0.5}, ValueError, "Constant multiplicative factor expected to be between 0 and 1."),
    ("LinearLR", {"start_factor": -0.1}, ValueError, "Starting multiplicative factor expected to be greater than 0"),
    ("LinearLR", {"end_factor": 1.5}, ValueError, "Ending multiplicative factor expected to be between 0 and 1."),
    ("CosineAnnealingWarmRestarts", {"T_0": 0}, ValueError, "Expected positive integer T_0, but got 0"),
    ("CosineAnnealingWarmRestarts", {"T_0": 2, "T_mult": 0}, ValueError, "Expected integer T_mult >= 1, but got 0"),
    ("CosineAnnealingWarmRestarts", {"T_0": 2, "eta_min": "0"}, ValueError, "Expected float or int eta_min, but got 0"),
    ("CyclicLR", {"base_lr": 0.1, "max_lr": 1.0, "mode": "x"}, ValueError, "mode is invalid and scale_fn is None"),
    ("CyclicLR", {"base_lr": [0.1], "max_lr": 1.0}, ValueError, "base_lr must have the same length as optimizer.param"),
    (
        "OneCycleLR",
        {"max_lr": 1.0},
        ValueError,
        r"You must define either total_steps OR \(epochs AND steps_per_epoch\)",
    ),
    ("OneCycleLR", {"max_lr": 1.0, "total_steps": 0}, ValueError, "Expected positive integer total_steps, but got 0"),
    ("OneCycleLR", {"max_lr": 1.0, "total_steps": 9, "pct_start": 2.0}, ValueError, "Expected float between 0 and 1"),
    (
        "OneCycleLR",
        {"max_lr": 1.0, "total_steps": 9, "anneal_strategy": "x"},
        ValueError,
        "anneal_strategy must be one",
    ),
    (
        "CyclicLR",
        {"base_lr": 0.1, "max_lr": 1.0, "step_size_up": 0},
        ValueError,
        "step_size_up must be a number above 0",
    ),
    (
        "OneCycleLR",
        {"max_lr": 1.0, "total_steps": 9, "div_factor": 0},
        ValueError,
        "div_factor divides a learning rate",
    ),
    (
        "SWALR",
        {"swa_lr": [0.1]},
        ValueError,
        "swa_lr must have the same length as optimizer.param_groups. swa_lr has 1",
    ),
    ("SWALR", {"swa_lr": 0.1, "anneal_strategy": "x"}, ValueError, "anneal_strategy must be one of 'cos' or 'linear'"),
    ("SWALR", {"swa_lr": 0.1, "anneal_epochs": -1}, ValueError, "anneal_epochs must be equal or greater than 0, got"),
    ("ReduceLROnPlateau", {"factor": 1.0}, ValueError, "Factor should be < 1.0."),
    ("ReduceLROnPlateau", {"mode": "x"}, ValueError, "mode x is unknown!"),
    ("ReduceLROnPlateau", {"threshold_mode": "x"}, ValueError, "threshold mode x is unknown!"),
    ("ReduceLROnPlateau", {"min_lr": [0.1]}, ValueError, "expected 2 min_lrs, got 1"),
]
CYCLE, ONE_CYCLE = {"base_lr": 0.1, "max_lr": 1.0}, {"max_lr": 1.0, "total_steps": 9}
BAD += [  # torch accepts these, or rejects them only at a later step
    ("StepLR", {"step_size": -2}, ValueError, "step_size must be an integer of at least 1"),
    ("StepLR", {"step_size": 2.5}, TypeError, "step_size must be an integer of at least 1"),
    ("StepLR", {"step_size": "2"}, TypeError, "step_size must be an integer of at least 1"),
    ("StepLR", {"step_size": True}, TypeError, "step_size must be an integer of at least 1"),
    ("StepLR", {"step_size": 2, "gamma": -0.1}, ValueError, "must not be negative: -0.1 .option 'gamma'"),
    ("StepLR", {"step_size": 2, "gamma": "a"}, TypeError, "gamma must be a number"),
    ("StepLR", {"step_size": 2, "gamma": float("nan")}, ValueError, "must not be negative: nan .option 'gamma'"),
    (
        "StepLR",
        {"step_size": 2, "last_epoch": -2},
        ValueError,
        "last_epoch must be an integer of at least -1, but it is -2",
    ),
    (
        "StepLR",
        {"step_size": 2, "last_epoch": "a"},
        TypeError,
        "last_epoch must be an integer of at least -1, but it is 'a'",
    ),
    ("MultiStepLR", {"milestones": 3}, TypeError, "milestones must be a list of epochs, but it is 3"),
    ("MultiStepLR", {"milestones": "30"}, TypeError, "milestones must be a list of epochs, but it is '30'"),
    ("MultiStepLR", {"milestones": [3, -1]}, ValueError, "a milestone must be an integer of at least 0"),
    ("MultiStepLR", {"milestones": [3.5]}, TypeError, "a milestone must be an integer of at least 0"),
    ("MultiStepLR", {"milestones": [3], "gamma": -1.0}, ValueError, "must not be negative: -1.0 .option 'gamma'"),
    ("ConstantLR", {"factor": "a"}, TypeError, "factor must be a number, but it is 'a'"),
    ("ConstantLR", {"factor": float("nan")}, ValueError, "factor must be a finite number, but it is nan"),
    ("ConstantLR", {"total_iters": -1}, ValueError, "total_iters must be an integer of at least 0"),
    ("ConstantLR", {"total_iters": 2.5}, TypeError, "total_iters must be an integer of at least 0"),
    ("LinearLR", {"start_factor": None}, TypeError, "start_factor must be a number, but it is None"),
    ("LinearLR", {"end_factor": -0.1}, ValueError, "Ending multiplicative factor expected to be between 0 and 1."),
    ("LinearLR", {"total_iters": -1}, ValueError, "total_iters must be an integer of at least 0"),
    ("ExponentialLR", {"gamma": -0.5}, ValueError, "must not be negative: -0.5 .option 'gamma'"),
    ("ExponentialLR", {"gamma": None}, TypeError, "gamma must be a number"),
    ("PolynomialLR", {"total_iters": 0}, ValueError, "total_iters must be an integer of at least 1"),
    ("PolynomialLR", {"power": -1.0}, ValueError, "must not be negative: -1.0 .option 'power'"),
    ("CosineAnnealingLR", {"T_max": 0}, ValueError, "T_max must be a number above 0"),
    ("CosineAnnealingLR", {"T_max": -3}, ValueError, "T_max must be a number above 0"),
    ("CosineAnnealingLR", {"T_max": "3"}, TypeError, "T_max must be a number"),
    ("CosineAnnealingLR", {"T_max": 3, "eta_min": -0.1}, ValueError, "eta_min must be a finite number of at least 0"),
    ("CosineAnnealingLR", {"T_max": 3, "eta_min": "0"}, TypeError, "eta_min must be a number"),
    ("CosineAnnealingWarmRestarts", {"T_0": 2.5}, ValueError, "Expected positive integer T_0, but got 2.5"),
    ("CosineAnnealingWarmRestarts", {"T_0": 2, "eta_min": -1.0}, ValueError, "eta_min must be a finite number"),
    ("CyclicLR", {**CYCLE, "base_lr": -0.1}, ValueError, "base_lr must be a finite number of at least 0"),
    ("CyclicLR", {**CYCLE, "max_momentum": -0.1}, ValueError, "max_momentum must be a finite number of at least 0"),
    ("CyclicLR", {**CYCLE, "step_size_down": -1}, ValueError, "step_size_down must be a number above 0"),
    ("CyclicLR", {**CYCLE, "step_size_up": "9"}, TypeError, "step_size_up must be a number"),
    ("CyclicLR", {**CYCLE, "scale_fn": 3}, TypeError, "scale_fn must be a function"),
    ("CyclicLR", {**CYCLE, "mode": "exp_range", "gamma": -1.0}, ValueError, "must not be negative: -1.0"),
    ("OneCycleLR", {**ONE_CYCLE, "max_lr": -1.0}, ValueError, "max_lr must be a finite number of at least 0"),
    ("OneCycleLR", {**ONE_CYCLE, "total_steps": True}, ValueError, "Expected positive integer total_steps, but got"),
    ("OneCycleLR", {**ONE_CYCLE, "div_factor": -25.0}, ValueError, "div_factor divides a learning rate"),
    ("OneCycleLR", {**ONE_CYCLE, "final_div_factor": 0}, ValueError, "final_div_factor divides a learning rate"),
    ("OneCycleLR", {**ONE_CYCLE, "base_momentum": float("nan")}, ValueError, "base_momentum must be a finite number"),
    ("SWALR", {"swa_lr": -0.1}, ValueError, "swa_lr must be a finite number of at least 0"),
    ("ReduceLROnPlateau", {"factor": 0.0}, ValueError, "Factor should be > 0.0, but it is 0.0"),
    ("ReduceLROnPlateau", {"factor": -0.5}, ValueError, "Factor should be > 0.0, but it is -0.5"),
    ("ReduceLROnPlateau", {"factor": "a"}, TypeError, "factor must be a number"),
    ("ReduceLROnPlateau", {"patience": -1}, ValueError, "patience must be an integer of at least 0"),
    ("ReduceLROnPlateau", {"patience": 2.5}, TypeError, "patience must be an integer of at least 0"),
    ("ReduceLROnPlateau", {"cooldown": -1}, ValueError, "cooldown must be an integer of at least 0"),
    ("ReduceLROnPlateau", {"threshold": -1.0}, ValueError, "threshold must be a finite number of at least 0"),
    ("ReduceLROnPlateau", {"min_lr": -1.0}, ValueError, "min_lr must be a finite number of at least 0"),
    ("ReduceLROnPlateau", {"min_lr": "a"}, TypeError, "min_lr must be a number"),
    ("ReduceLROnPlateau", {"eps": -1.0}, ValueError, "eps must be a finite number of at least 0"),
]


@pytest.mark.parametrize(("name", "arguments", "error", "message"), BAD)
def test_bad_arguments_change_nothing(name, arguments, error, message):
    optimizer, make = ours(name, arguments)
    before = repr(optimizer)
    with pytest.raises(error, match=message):
        make(optimizer)
    assert repr(optimizer) == before


def test_errors_of_compositions():
    optimizer, _ = ours("StepLR", {})
    other, _ = ours("StepLR", {})
    s = optim.lr_scheduler
    one, foreign = s.ExponentialLR(optimizer, 0.9), s.ExponentialLR(other, 0.9)
    for error, message, call in (
        (ValueError, "SequentialLR expects at least one scheduler", lambda: s.SequentialLR(optimizer, [], [])),
        (ValueError, "expects number of schedulers provided", lambda: s.SequentialLR(optimizer, [one], [3])),
        (TypeError, "at index 0 should have `optimizer`", lambda: s.SequentialLR(optimizer, [3], [])),
        (ValueError, "belong to the same optimizer", lambda: s.SequentialLR(optimizer, [one, foreign], [3])),
        (ValueError, "milestones must ascend", lambda: s.SequentialLR(optimizer, [one] * 3, [5, 3])),
        (
            ValueError,
            "a milestone must be an integer of at least 0",
            lambda: s.SequentialLR(optimizer, [one] * 2, [-1]),
        ),
        (TypeError, "a milestone must be an integer", lambda: s.SequentialLR(optimizer, [one] * 2, [2.5])),
        (
            ValueError,
            "last_epoch must be an integer of at least -1",
            lambda: s.SequentialLR(optimizer, [one], [], last_epoch=-3),
        ),
        (ValueError, "expects at least one scheduler to be chained", lambda: s.ChainedScheduler([])),
        (ValueError, "belong to the same optimizer", lambda: s.ChainedScheduler([one, foreign])),
    ):
        with pytest.raises(error, match=message):
            call()


def test_no_momentum_to_cycle():
    optimizer = optim.Adagrad([jnp.ones(1)])
    for make in (
        lambda: optim.lr_scheduler.CyclicLR(optimizer, 0.1, 1.0),
        lambda: optim.lr_scheduler.OneCycleLR(optimizer, 1.0, 10),
    ):
        with pytest.raises(ValueError, match="optimizer must support momentum or beta1 with `cycle_momentum`"):
            make()


def test_one_cycle_ends():
    optimizer, make = ours("OneCycleLR", {"max_lr": 1.0, "total_steps": 5})
    scheduler = make(optimizer)
    last = run(optimizer, scheduler, 5)[-2:]
    np.testing.assert_allclose(last[0], last[1])
    with pytest.raises(ValueError, match=r"Tried to step 6 times. The specified number of total steps is 5"):
        scheduler.step()


def test_one_cycle_ends_at_the_initial_rate_divided_once_more():
    optimizer, make = ours("OneCycleLR", {"max_lr": 1.0, "total_steps": 5, "div_factor": 10, "final_div_factor": 100})
    scheduler = make(optimizer)
    values = run(optimizer, scheduler, 4)
    np.testing.assert_allclose([values[0][0], values[-1][0]], [0.1, 0.001], rtol=1e-12)


def test_get_lr_outside_of_a_step_warns():
    optimizer, make = ours("ExponentialLR", {"gamma": 0.5})
    scheduler = make(optimizer)
    with pytest.warns(UserWarning, match="To get the last learning rate computed by the scheduler"):
        scheduler.get_lr()


def test_warm_restarts_take_fractions():
    optimizer, make = ours("CosineAnnealingWarmRestarts", {"T_0": 5, "T_mult": 2})
    scheduler = make(optimizer)
    for epoch in (0.5, 3.25, 17.75):
        scheduler.step(epoch)
        expected = schedules.cosine_annealing_warm_restarts(0.5, 5, 2)(epoch)
        np.testing.assert_allclose(scheduler.get_last_lr()[0], expected, rtol=1e-12)
    scheduler.step()
    expected = schedules.cosine_annealing_warm_restarts(0.5, 5, 2)(18.75)
    np.testing.assert_allclose(scheduler.get_last_lr()[0], expected, rtol=1e-12)
    with pytest.raises(ValueError, match="Expected non-negative epoch, but got -1"):
        scheduler.step(-1)


def test_one_cycle_of_rate_and_betas_compiles_once(compilations):
    optimizer = optim.Adam({"w": jnp.ones(2)}, lr=0.1)
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=1000)
    grads = {"w": jnp.ones(2)}
    for step in range(1000):
        optimizer.step(grads)
        scheduler.step()
        if step == 0:
            compilations.clear()
    assert not compilations


def test_a_scheduled_run_compiles_once(compilations):
    optimizer = optim.Adam({"w": jnp.ones(2)}, lr=0.1)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    grads = {"w": jnp.ones(2)}
    for step in range(100):
        optimizer.step(grads)
        scheduler.step()
        if step == 0:
            compilations.clear()
    assert not compilations


@with_torch
def test_swalr_begins_late():
    """torch's recipe: another scheduler first, SWALR from some epoch on; both are created before training."""
    values = []
    for make, package in ((ours, optim), (theirs, pytest.importorskip("torch").optim)):
        optimizer, _ = make("SWALR", {})
        first = package.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
        then = package.swa_utils.SWALR(optimizer, swa_lr=[0.05, 0.5], anneal_epochs=6)
        for epoch in range(30):
            optimizer.step()
            (then if epoch > 15 else first).step()
            values.append(rates(optimizer))
    np.testing.assert_allclose(values[:30], values[30:], rtol=1e-12)


def test_swalr_in_a_sequence_anneals_from_where_the_rates_stand():
    optimizer, _ = ours("SWALR", {})
    parts = [optim.lr_scheduler.ExponentialLR(optimizer, 0.5), optim.swa_utils.SWALR(optimizer, 0.0, 2, "linear")]
    scheduler = optim.lr_scheduler.SequentialLR(optimizer, parts, [2])
    optimizer.step()
    seen = []
    for _ in range(5):
        scheduler.step()
        seen.append(optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(seen, [0.25, 0.25, 0.125, 0.0, 0.0])


def raising(epoch):
    if epoch > 2:
        raise OSError("no table")
    return 0.5


EPOCHS = [(-3, ValueError), (float("nan"), ValueError), (float("inf"), ValueError), ("3", TypeError), ([3], TypeError)]


@pytest.mark.parametrize(("epoch", "error"), EPOCHS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_an_epoch_that_is_none_is_refused_and_changes_nothing(name, epoch, error):
    optimizer, make = ours(name, SCHEDULERS[name][0])
    scheduler = make(optimizer)
    optimizer.step()
    before = (repr(optimizer), scheduler.state_dict())
    with pytest.raises(error, match="Expected non-negative epoch, but got"):
        scheduler.step(epoch)
    assert (repr(optimizer), scheduler.state_dict()) == before


def test_a_plateau_refuses_a_bad_epoch_and_metric():
    optimizer, make = ours("ReduceLROnPlateau", {})
    scheduler = make(optimizer)
    before = scheduler.state_dict()
    for arguments, error in (((1.0, -3), ValueError), (("loss",), ValueError), ((None,), TypeError)):
        with pytest.raises(error):
            scheduler.step(*arguments)
    assert scheduler.state_dict() == before


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda o: optim.lr_scheduler.LambdaLR(o, raising), OSError),
        (lambda o: optim.lr_scheduler.LambdaLR(o, [half, lambda epoch: None if epoch > 2 else 1.0]), TypeError),
        (lambda o: optim.lr_scheduler.MultiplicativeLR(o, raising), OSError),
        (lambda o: optim.lr_scheduler.CyclicLR(o, 0.1, 1.0, 4, scale_mode="iterations", scale_fn=raising), OSError),
        (lambda o: optim.lr_scheduler.OneCycleLR(o, 1.0, 2), ValueError),
        (
            lambda o: optim.lr_scheduler.ChainedScheduler(
                [optim.lr_scheduler.ExponentialLR(o, 0.5), optim.lr_scheduler.LambdaLR(o, raising)]
            ),
            OSError,
        ),
        (
            lambda o: optim.lr_scheduler.SequentialLR(
                o, [optim.lr_scheduler.LambdaLR(o, raising), optim.lr_scheduler.ExponentialLR(o, 0.5)], [5]
            ),
            OSError,
        ),
    ],
)
def test_a_step_that_raises_changes_nothing(make, error):
    optimizer, _ = ours("StepLR", {})
    scheduler = make(optimizer)
    optimizer.step()
    for _ in range(2):
        scheduler.step()
    before = [repr(optimizer), scheduler.state_dict()]
    for _ in range(2):
        with pytest.raises(error):
            scheduler.step()
        assert [repr(optimizer), scheduler.state_dict()] == before


INTERRUPTED = {
    "plateau": (lambda s, o: s.ReduceLROnPlateau(o, patience=5), (1.0,)),
    "plateau that reduces": (lambda s, o: s.ReduceLROnPlateau(o, patience=0, cooldown=3), (2.0,)),
    "sequence": (lambda s, o: composed(optim, o, "sequential"), ()),
    "sequence at a milestone": (lambda s, o: s.SequentialLR(o, [s.StepLR(o, 1), s.ExponentialLR(o, 0.5)], [2]), ()),
    "sequence of a plateau": (lambda s, o: s.SequentialLR(o, [s.ReduceLROnPlateau(o, patience=0)], []), (2.0,)),
    "chain": (lambda s, o: composed(optim, o, "chained"), ()),
    "cycle": (lambda s, o: s.OneCycleLR(o, 1.0, 9), ()),
}


@pytest.mark.parametrize("case", INTERRUPTED)
def test_a_step_interrupted_at_any_line_happens_whole_or_not_at_all(case):
    make, given = INTERRUPTED[case]
    optimizer, _ = ours("StepLR", {})
    scheduler = make(optim.lr_scheduler, optimizer)
    optimizer.step()
    scheduler.step(*(1.0 for _ in given))
    optimizer.param_groups[0]["lr"] = 0.3  # by hand, so that each step changes what it reports
    start = copy.deepcopy(optimizer.state_dict()["param_groups"]), copy.deepcopy(scheduler.state_dict())

    def reached():
        groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        return copy.deepcopy(groups), scheduler.state_dict()

    def again():
        scheduler.load_state_dict(copy.deepcopy(start[1]))
        for group, held in zip(optimizer.param_groups, start[0], strict=True):
            group.update({key: value for key, value in held.items() if key != "params"})

    before = reached()
    lines, _ = lines_until_injected(None, lambda: scheduler.step(*given))
    after = reached()
    assert after != before
    for number in range(1, lines + 1):
        again()
        assert reached() == before
        lines_until_injected(number, lambda: scheduler.step(*given))
        assert reached() in (before, after), number


def test_a_scheduler_that_cannot_be_made_changes_nothing():
    optimizer, _ = ours("StepLR", {})
    before = repr(optimizer)
    for make in (
        lambda: optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: raising(3)),
        lambda: optim.lr_scheduler.CyclicLR(optimizer, 0.1, 1.0, scale_fn=lambda cycle: raising(3)),
    ):
        with pytest.raises(OSError, match="no table"):
            make()
        assert repr(optimizer) == before


def test_a_scheduler_of_ones_own_must_give_a_rate_for_every_group():
    class Short(optim.lr_scheduler.LRScheduler):
        def get_lr(self):
            return self.base_lrs[: 2 - self.last_epoch]

    optimizer, _ = ours("StepLR", {})
    scheduler = Short(optimizer)
    optimizer.step()
    with pytest.raises(ValueError, match="Short gives 1 learning rates, but the optimizer has 2 groups"):
        scheduler.step()
    assert scheduler.last_epoch == 0


ZEROS = [
    ("ConstantLR", {"factor": 0.0, "total_iters": 3}, schedules.constant_factor(1.0, 0.0, 3)),
    ("LinearLR", {"start_factor": 0, "total_iters": 4}, schedules.linear(1.0, 0.0, 1.0, 4)),
    ("LinearLR", {"start_factor": 0.0, "end_factor": 0.0}, schedules.constant(0.0)),
    ("LinearLR", {"start_factor": 0.0, "end_factor": 0.5, "total_iters": 1}, schedules.linear(1.0, 0.0, 0.5, 1)),
    ("LinearLR", {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 7}, schedules.linear(1.0, 1.0, 0.0, 7)),
    ("StepLR", {"step_size": 2, "gamma": 0.0}, schedules.step_decay(1.0, 2, 0.0)),
    ("ExponentialLR", {"gamma": 0.0}, schedules.exponential_decay(1.0, 0.0)),
    ("MultiplicativeLR", {"lr_lambda": lambda epoch: 0.0}, schedules.exponential_decay(1.0, 0.0)),
    ("CosineAnnealingLR", {"T_max": 3}, schedules.cosine_annealing(1.0, 3)),
    ("CosineAnnealingLR", {"T_max": 3, "eta_min": 0.5}, None),
]


@pytest.mark.parametrize(("name", "arguments", "closed"), ZEROS)
def test_rates_come_back_from_zero_from_the_base(name, arguments, closed):
    """torch divides by zero for the first, and rejects the second."""
    optimizer, make = ours(name, arguments)
    closed = closed or schedules.cosine_annealing(1.0, 3)
    low = arguments.get("eta_min", 0.0)
    values = learning_rates(optimizer, make(optimizer), 12)
    expected = [[low + (base - low) * closed(epoch) for base in (0.5, 2.0)] for epoch in range(13)]
    np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-15)


def test_rates_come_back_from_zero_in_compositions():
    s = optim.lr_scheduler
    optimizer, _ = ours("StepLR", {})
    parts = [s.ConstantLR(optimizer, 0.0, 3), s.ExponentialLR(optimizer, 0.9), s.LinearLR(optimizer, 0.0, 1.0, 5)]
    values = learning_rates(optimizer, s.ChainedScheduler([*parts, s.ConstantLR(optimizer, 0.5, 8)]), 12)
    f = schedules
    factors = [f.constant_factor(1.0, 0.0, 3), f.exponential_decay(1.0, 0.9), f.linear(1.0, 0.0, 1.0, 5)]
    closed = f.chained(1.0, [*factors, f.constant_factor(1.0, 0.5, 8)])
    np.testing.assert_allclose(values, [[lr * closed(k) for lr in (0.5, 2.0)] for k in range(13)], rtol=1e-12)


def calls_of(function):
    """Return the names of all functions that a call of ``function`` calls, with their modules."""
    seen = []

    def record(frame, event, argument):
        if event == "call":
            seen.append((frame.f_globals["__name__"], frame.f_code.co_name))
        elif event == "c_call":
            seen.append((str(argument.__module__), argument.__qualname__))

    sys.setprofile(record)
    try:
        function()
    finally:
        sys.setprofile(None)
    return seen[:-1]  # without setprofile


# The most functions that a step may call, for one group; torch calls 7 in a plateau, 32 in a chain, else 13 to 21.
MOST_CALLS = {
    "StepLR": 20,
    "CosineAnnealingLR": 22,
    "OneCycleLR": 26,
    "CyclicLR": 33,
    "LinearLR": 22,
    "LambdaLR": 27,
    "ReduceLROnPlateau": 9,
    "SequentialLR": 25,
    "ChainedScheduler": 50,
}


@pytest.mark.parametrize("name", MOST_CALLS)
def test_a_step_calls_few_functions_and_none_of_arrays(name):
    optimizer = optim.SGD([jnp.ones(1)], lr=0.5, momentum=0.9)
    s, metrics = optim.lr_scheduler, ()
    if name == "ReduceLROnPlateau":
        scheduler, metrics = s.ReduceLROnPlateau(optimizer), (1.0,)
    elif name == "SequentialLR":
        parts = [s.ConstantLR(optimizer), s.CosineAnnealingLR(optimizer, T_max=100)]
        scheduler = s.SequentialLR(optimizer, parts, milestones=[1])
    elif name == "ChainedScheduler":
        scheduler = s.ChainedScheduler([s.LinearLR(optimizer, total_iters=100), s.ExponentialLR(optimizer, 0.9)])
    else:
        own = {"CosineAnnealingLR": {"T_max": 100}, "LambdaLR": {"lr_lambda": half}, "LinearLR": {"total_iters": 100}}
        scheduler = getattr(s, name)(optimizer, **arguments_of(own.get(name, SCHEDULERS.get(name, [{}])[0])))
    optimizer.step()
    scheduler.step(*metrics)
    calls = calls_of(functools.partial(scheduler.step, *metrics))
    assert len(calls) <= MOST_CALLS[name]
    assert not [call for call in calls if call[0].partition(".")[0] in ("jax", "jaxlib", "numpy")]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("StepLR", {"step_size": np.int64(1), "gamma": np.float32(0.1)}),
        ("ExponentialLR", {"gamma": np.float32(0.1)}),
        ("MultiStepLR", {"milestones": np.array([1, 2]), "gamma": np.float32(0.1)}),
        ("LinearLR", {"start_factor": np.float32(0.1), "total_iters": np.int64(3)}),
        ("PolynomialLR", {"power": np.float32(0.1), "total_iters": np.int64(3)}),
        ("CosineAnnealingLR", {"T_max": np.int64(3), "eta_min": np.float32(0.1)}),
        ("CyclicLR", {"base_lr": np.float32(0.1), "max_lr": 1.0, "mode": "exp_range", "gamma": np.float32(0.9)}),
        ("OneCycleLR", {"max_lr": np.float32(0.1), "total_steps": 9}),
    ],
)
def test_options_of_numpy_give_the_rates_of_pythons_numbers(name, arguments):
    """In doubles, as Python floats."""
    values = []
    plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in arguments.items()}
    for options in (arguments, plain):
        optimizer, make = ours(name, options)
        values.append(run(optimizer, make(optimizer), 5))
    assert values[0] == values[1]
    assert {type(value) for row in values[0] for value in row} == {float}


def test_a_group_that_joins_one_cycle_takes_the_first_ones_highest_and_lowest_values():
    """In each of three phases, of which the second falls from a value that the group lacks."""
    optimizer = optim.SGD([jnp.ones(1)], lr=0.5, momentum=0.9)
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=20, three_phase=True)
    optimizer.step()
    scheduler.step()
    optimizer.add_param_group({"params": [jnp.ones(1)], "lr": 0.04})  # the first group's initial rate
    for _ in range(18):
        optimizer.step()
        scheduler.step()
        one, other = optimizer.param_groups
        assert (one["lr"], one["momentum"]) == (other["lr"], other["momentum"])


def test_a_group_that_joins_a_plateau_takes_its_single_lowest_rate():
    s = optim.lr_scheduler
    optimizer, _ = ours("StepLR", {})
    single = s.ReduceLROnPlateau(optimizer, patience=0, factor=0.5, min_lr=0.2)
    each = s.ReduceLROnPlateau(optimizer, patience=0, min_lr=[0.0, 0.0])
    single.step(1.0)
    each.step(1.0)
    optimizer.add_param_group({"params": [jnp.ones(1)], "lr": 0.3})
    single.step(1.0)
    assert rates(optimizer)[:3] == [0.25, 1.0, 0.2]
    assert single.state_dict()["min_lrs"] == [0.2] * 3
    before = (repr(optimizer), each.state_dict())
    with pytest.raises(RuntimeError, match=r"param groups in the `optimizer` \(3\) differs .* initialized \(2\)"):
        each.step(1.0)
    assert (repr(optimizer), each.state_dict()) == before


@pytest.mark.parametrize("metrics", [None, [1.0], "low", jnp.ones(2)])
def test_a_metric_that_is_no_number_is_named(metrics):
    optimizer = optim.SGD([jnp.ones(2)], lr=0.1)
    scheduler = optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    with pytest.raises((TypeError, ValueError), match=r"ReduceLROnPlateau\.step: metrics must be a number, but it is"):
        scheduler.step(metrics)
    assert scheduler.last_epoch == 0
