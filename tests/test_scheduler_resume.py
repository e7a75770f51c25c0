"""Schedulers saved and resumed: in any order the rates are those of an uninterrupted run."""

import copy
import functools
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from functorch_optim import optim
from tests.algorithms import full
from tests.test_lr_scheduler import CASES, nested, rates, scheduler_class

s = optim.lr_scheduler


def optimizer_of(groups, lr=None):
    """Return an optimizer with one group or two."""
    lrs = (0.5, 2.0)[:groups] if lr is None else (lr,) * groups
    return optim.SGD([{"params": [jnp.ones(1)], "lr": lr} for lr in lrs], lr=1.0, momentum=0.9)


def zero_warm_up(optimizer):
    return s.ChainedScheduler([s.LinearLR(optimizer, 0.0, total_iters=9), s.ConstantLR(optimizer, 0.5, 12)])


def one_cycle_second(optimizer):
    return s.SequentialLR(optimizer, [s.ExponentialLR(optimizer, 0.9), s.OneCycleLR(optimizer, 0.7, 60)], [4])


def two_cycles(optimizer):
    parts = [s.CyclicLR(optimizer, 0.1, 1.0, 3), s.OneCycleLR(optimizer, 0.7, 60), s.ExponentialLR(optimizer, 0.9)]
    return s.SequentialLR(optimizer, parts, [4, 12])


def average_at_the_end(optimizer):
    return s.SequentialLR(optimizer, [s.ExponentialLR(optimizer, 0.9), optim.swa_utils.SWALR(optimizer, 0.05, 6)], [4])


def plateau_in_a_chain(optimizer):
    plateau = s.ReduceLROnPlateau(optimizer, patience=1, factor=0.5)
    return s.ChainedScheduler([s.LinearLR(optimizer, 0.1, total_iters=9), plateau])


COMPOSED = [nested, zero_warm_up, one_cycle_second, two_cycles, average_at_the_end, plateau_in_a_chain]
MAKERS = {each.__name__: each for each in COMPOSED}
MAKERS["plateau"] = lambda optimizer: s.ReduceLROnPlateau(optimizer, patience=1, factor=0.5)
WITHOUT_TORCH = [
    ("ConstantLR", {"factor": 0.0, "total_iters": 9}),
    ("WarmupStableDecay", {"warmup_steps": 4, "stable_steps": 5, "decay_steps": 8, "end": 0.01}),
    ("WarmupStableDecay", {"warmup_steps": 10, "stable_steps": 0, "decay_steps": 3}),
]
for _index, (_name, _arguments) in enumerate([*CASES, *WITHOUT_TORCH]):
    MAKERS[f"{_name}-{_index}"] = functools.partial(
        lambda optimizer, name, arguments: scheduler_class(optim, name)(optimizer, **copy.deepcopy(arguments)),
        name=_name,
        arguments=_arguments,
    )
FOR_TWO = {key for key, make in MAKERS.items() if "[" in str(getattr(make, "keywords", {}).get("arguments", ""))}
CELLS = [(key, groups) for key in MAKERS for groups in (1, 2) if groups == 2 or key not in FOR_TWO]
each_maker = pytest.mark.parametrize(("key", "groups"), CELLS)
each_order = pytest.mark.parametrize("order", ["made, loaded", "loaded, made", "the optimizer last"])


def advance(optimizer, schedulers, steps):
    """Return the rates after each step; schedulers that take a metric get one that never improves."""
    values = []
    for _ in range(steps):
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step(*[1.0] * isinstance(scheduler, s.ReduceLROnPlateau | s.ChainedScheduler | s.SequentialLR))
        values.append(rates(optimizer))
    return values


def resumed(optimizer, makers, saved, order):
    """Return a new optimizer and new schedulers, loaded in the given order."""
    if order == "loaded, made":
        optimizer.load_state_dict(saved[0])
    schedulers = [make(optimizer) for make in makers]
    if order == "made, loaded":
        optimizer.load_state_dict(saved[0])
    for scheduler, state in zip(schedulers, saved[1:], strict=True):
        scheduler.load_state_dict(state)
    if order == "the optimizer last":
        optimizer.load_state_dict(saved[0])
    return schedulers


def saved_of(optimizer, *schedulers):
    return copy.deepcopy([each.state_dict() for each in (optimizer, *schedulers)])


@each_order
@each_maker
def test_resumed_in_any_order_is_a_run_that_was_not_interrupted(key, groups, order):
    make = MAKERS[key]
    source = optimizer_of(groups)
    scheduler = make(source)
    advance(source, [scheduler], 7)
    target = optimizer_of(groups, lr=0.123)
    (again,) = resumed(target, [make], saved_of(source, scheduler), order)
    assert rates(target) == rates(source)
    assert advance(target, [again], 15) == advance(source, [scheduler], 15)


def named_optimizer(names, lr=None):
    lrs = {"a": 0.5, "b": 2.0, "c": 1.0}
    groups = [{"params": [(name, jnp.ones(1))], "lr": lr or lrs[name]} for name in names]
    return optim.SGD(groups, lr=1.0, momentum=0.9)


def by_name(optimizer):
    return {group["param_names"][0]: (group["lr"], group["momentum"]) for group in optimizer.param_groups}


def reversed_lists(key, optimizer):
    """Make a scheduler whose options per group are in the opposite order."""
    make = MAKERS[key]
    if key not in FOR_TWO:
        return make(optimizer)
    name, arguments = make.keywords["name"], copy.deepcopy(make.keywords["arguments"])
    lists = {option: value[::-1] for option, value in arguments.items() if isinstance(value, list) and len(value) == 2}
    lists.pop("milestones", None)
    return scheduler_class(optim, name)(optimizer, **{**arguments, **lists})


@pytest.mark.parametrize("order", ["made, loaded", *full("loaded, made"), "the optimizer last"])
@pytest.mark.parametrize("key", MAKERS)
def test_groups_in_another_order_keep_their_own_rates(key, order):
    """The optimizer matches groups by name, and what a scheduler holds per group follows."""
    source, target = named_optimizer("ab"), named_optimizer("ba", lr=0.123)
    scheduler = MAKERS[key](source)
    advance(source, [scheduler], 7)
    (again,) = resumed(target, [functools.partial(reversed_lists, key)], saved_of(source, scheduler), order)
    assert by_name(target) == by_name(source)
    assert again.get_last_lr() == [group["lr"] for group in target.param_groups]
    for _ in range(15):
        advance(source, [scheduler], 1)
        advance(target, [again], 1)
        assert by_name(target) == by_name(source)


@pytest.mark.parametrize("key", MAKERS)
def test_a_state_in_the_order_of_the_groups_is_loaded_as_it_is(key):
    """A scheduler's own state, after an optimizer was loaded whose groups stand in another order."""
    source, target = named_optimizer("ab"), named_optimizer("ba", lr=0.123)
    scheduler, again = MAKERS[key](source), reversed_lists(key, target)
    before = saved_of(target, again)
    advance(source, [scheduler], 7)
    saved = saved_of(source, scheduler)
    target.load_state_dict(saved[0])
    for state in (saved[1], saved_of(again)[0], saved[1]):
        again.load_state_dict(state)
        assert by_name(target) == by_name(source)
        own = saved_of(again)[0]
        again.load_state_dict(own)
        assert saved_of(again)[0] == own
    for order in (0, 1), (1, 0):  # back to the snapshot, in both orders
        for index in order:
            (target, again)[index].load_state_dict(before[index])
        assert saved_of(again)[0] == before[1]
    for order in (0, 1), (1, 0):
        for index in order:
            (target, again)[index].load_state_dict(saved[index])
        target.load_state_dict(saved[0])  # and once more
        assert again.get_last_lr() == [group["lr"] for group in target.param_groups]
    for _ in range(9):
        advance(source, [scheduler], 1)
        advance(target, [again], 1)
        assert by_name(target) == by_name(source)


def test_a_group_that_was_not_saved_keeps_its_base_rate():
    source, target = named_optimizer("ab"), named_optimizer("cba")
    scheduler, again = (s.LambdaLR(each, lambda epoch: 0.5**epoch) for each in (source, target))
    advance(source, [scheduler], 2)
    target.load_state_dict(source.state_dict(), strict=False)
    again.load_state_dict(scheduler.state_dict())
    advance(source, [scheduler], 1)
    advance(target, [again], 1)
    assert by_name(target) == {**by_name(source), "c": (0.125, 0.9)}


def test_a_scheduler_that_stepped_since_it_was_loaded_stays_as_it_is():
    source, target = named_optimizer("ab"), named_optimizer("ba")
    again = s.LambdaLR(target, lambda epoch: 0.5**epoch)
    again.load_state_dict(again.state_dict())
    advance(target, [again], 1)
    target.load_state_dict(source.state_dict())
    assert again.base_lrs == [2.0, 0.5]
    assert copy.deepcopy(target).param_groups[0]["lr"] == 2.0


@each_maker
def test_a_schedulers_state_alone_brings_its_rates(key, groups):
    make = MAKERS[key]
    source = optimizer_of(groups)
    scheduler = make(source)
    for steps in (1, 9):
        advance(source, [scheduler], steps)
        target = optimizer_of(groups)
        make(target).load_state_dict(saved_of(scheduler)[0])
        assert rates(target) == rates(source)


@pytest.mark.torch
@each_order
@pytest.mark.parametrize("name", sorted({name for name, _ in CASES}))
def test_torchs_states_in_any_order(name, order):
    torch = pytest.importorskip("torch", reason="continues from a live torch")
    for arguments in [arguments for each, arguments in CASES if each == name][:2]:
        groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.5, 2.0)]
        source = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
        scheduler = scheduler_class(torch.optim, name)(source, **copy.deepcopy(arguments))
        advance(source, [scheduler], 7)
        target = optimizer_of(2, lr=0.123)
        make = functools.partial(scheduler_class(optim, name), **copy.deepcopy(arguments))
        (again,) = resumed(target, [make], saved_of(source, scheduler), order)
        np.testing.assert_allclose(advance(target, [again], 15), advance(source, [scheduler], 15), rtol=1e-12)


@each_order
def test_a_rate_set_by_hand_before_saving_comes_back(order):
    make = functools.partial(s.StepLR, step_size=5)
    source = optimizer_of(2)
    scheduler = make(source)
    advance(source, [scheduler], 3)
    source.param_groups[0]["lr"] = 0.3
    target = optimizer_of(2)
    (again,) = resumed(target, [make], saved_of(source, scheduler), order)
    assert rates(target)[0] == 0.3
    assert advance(target, [again], 9) == advance(source, [scheduler], 9)


@each_order
@pytest.mark.parametrize("reverse", [False, True])
def test_several_schedulers_of_one_optimizer_load_in_any_order(order, reverse):
    """Side by side, with one that waits for its turn, as SWALR does in torch's recipe."""
    makers = [
        functools.partial(s.ExponentialLR, gamma=0.9),
        functools.partial(s.LinearLR, start_factor=0.5, total_iters=4),
        functools.partial(optim.swa_utils.SWALR, swa_lr=0.05, anneal_epochs=4),
    ][:: -1 if reverse else 1]
    source = optimizer_of(2)
    schedulers = [make(source) for make in makers]
    active = [each for each in schedulers if not isinstance(each, optim.swa_utils.SWALR)]
    advance(source, active, 3)
    target = optimizer_of(2)
    again = resumed(target, makers, saved_of(source, *schedulers), order)
    now = [each for each in again if not isinstance(each, optim.swa_utils.SWALR)]
    assert advance(target, now, 5) == advance(source, active, 5)
    waiting = [[each for each in both if isinstance(each, optim.swa_utils.SWALR)] for both in (again, schedulers)]
    assert advance(target, waiting[0], 6) == advance(source, waiting[1], 6)


def test_a_rate_set_by_hand_is_overwritten_by_loading_only():
    optimizer = optimizer_of(1)
    scheduler = s.ExponentialLR(optimizer, 0.5)
    advance(optimizer, [scheduler], 2)
    saved = saved_of(optimizer, scheduler)
    optimizer.load_state_dict(saved[0])
    optimizer.param_groups[0]["lr"] = 0.3
    assert advance(optimizer, [scheduler], 1)[0][0] == 0.15
    optimizer.param_groups[0]["lr"] = 0.3
    scheduler.load_state_dict(saved[1])
    assert rates(optimizer)[0] == 0.125


def test_a_group_that_was_added_after_the_last_step_is_resumed():
    make = functools.partial(s.LinearLR, start_factor=0.5, total_iters=6)
    source = optimizer_of(1)
    scheduler = make(source)
    advance(source, [scheduler], 2)
    source.add_param_group({"params": [jnp.ones(1)], "lr": 2.0})
    target = optimizer_of(2)
    (again,) = resumed(target, [make], saved_of(source, scheduler), "loaded, made")
    assert rates(target) == rates(source)
    assert advance(target, [again], 6) == advance(source, [scheduler], 6)


FOREIGN = [
    ("StepLR", {"step_size": 3}, "CosineAnnealingLR", {"T_max": 9}, r"it lacks \['gamma', 'step_size'\], and StepLR"),
    ("ExponentialLR", {"gamma": 0.5}, "StepLR", {"step_size": 3}, r"ExponentialLR has no \['step_size'\]"),
    ("LambdaLR", {"lr_lambda": abs}, "StepLR", {"step_size": 3}, r"it lacks \['lr_lambdas'\]"),
    ("StepLR", {"step_size": 3}, "ReduceLROnPlateau", {}, "this is not the state of a StepLR"),
    ("ReduceLROnPlateau", {}, "StepLR", {"step_size": 3}, "this is not the state of a ReduceLROnPlateau"),
    ("SWALR", {"swa_lr": 0.1}, "StepLR", {"step_size": 3}, "this is not the state of a SWALR"),
]


def make_of(name, arguments):
    return lambda optimizer: scheduler_class(optim, name)(optimizer, **arguments)


def refused(target, scheduler, state, error, message, **options):
    """Whether loading raises, and leaves the groups and the scheduler unchanged."""
    before = copy.deepcopy((scheduler.state_dict(), repr(target)))
    with pytest.raises(error, match=message):
        scheduler.load_state_dict(state, **options)
    return (scheduler.state_dict(), repr(target)) == before


@pytest.mark.parametrize(("name", "arguments", "other", "others", "message"), FOREIGN)
def test_the_state_of_another_class_is_refused(name, arguments, other, others, message):
    source, target = optimizer_of(2), optimizer_of(2)
    state = make_of(other, others)(source).state_dict()
    assert refused(target, make_of(name, arguments)(target), state, ValueError, message)


@pytest.mark.parametrize("key", [key for key in MAKERS if key not in FOR_TWO])
def test_the_state_of_more_groups_is_refused(key):
    source, target = optimizer_of(2), optimizer_of(1)
    scheduler = MAKERS[key](source)
    advance(source, [scheduler], 2)
    message = "the state is of 2 parameter groups, but the optimizer has 1"
    assert refused(target, MAKERS[key](target), scheduler.state_dict(), ValueError, message)


@pytest.mark.parametrize("order", ["made, loaded", "loaded, made"])
def test_parameters_in_more_groups_than_before_go_on_together(order):
    make = functools.partial(s.LinearLR, start_factor=0.1, total_iters=9)
    source = optim.SGD([("a", jnp.ones(1)), ("b", jnp.ones(1))], lr=0.5, momentum=0.9)
    scheduler = make(source)
    advance(source, [scheduler], 4)
    target = optim.SGD([{"params": [("a", jnp.ones(1))]}, {"params": [("b", jnp.ones(1))]}], lr=9.0, momentum=0.9)
    (again,) = resumed(target, [make], saved_of(source, scheduler), order)
    expected = [row[:1] * 2 for row in advance(source, [scheduler], 9)]
    assert [row[:2] for row in advance(target, [again], 9)] == expected


def test_another_composition_is_refused():
    source, target = optimizer_of(1), optimizer_of(1)
    two = s.ChainedScheduler([s.StepLR(source, 3), s.ExponentialLR(source, 0.5)])
    message = "the state is of 2 schedulers, but here are 1"
    assert refused(target, s.ChainedScheduler([s.StepLR(target, 3)]), two.state_dict(), ValueError, message)
    other = s.ChainedScheduler([s.ExponentialLR(target, 0.5), s.StepLR(target, 3)])
    assert refused(target, other, two.state_dict(), ValueError, "this is not the state of a ExponentialLR")


DAMAGED = [
    ("StepLR", {"step_size": 3}, {"step_size": 0}, ValueError, "step_size must be an integer of at least 1"),
    ("StepLR", {"step_size": 3}, {"step_size": "3"}, TypeError, "step_size must be an integer"),
    ("StepLR", {"step_size": 3}, {"last_epoch": "3"}, TypeError, "last_epoch in the state must be a number"),
    ("StepLR", {"step_size": 3}, {"last_epoch": -7}, ValueError, "last_epoch in the state must be a finite number"),
    ("StepLR", {"step_size": 3}, {"_last_lr": [None]}, TypeError, "a rate of _last_lr in the state must be a number"),
    ("LinearLR", {}, {"start_factor": 7.0}, ValueError, "Starting multiplicative factor expected to be greater than 0"),
    ("CosineAnnealingWarmRestarts", {"T_0": 3}, {"T_i": 0}, ValueError, "Expected positive integer T_0, but got 0"),
    ("ReduceLROnPlateau", {}, {"factor": 2.0}, ValueError, "Factor should be < 1.0."),
    ("OneCycleLR", {"max_lr": 1.0, "total_steps": 9}, {"_schedule_phases": [{}]}, ValueError, "_schedule_phases must"),
    ("OneCycleLR", {"max_lr": 1.0, "total_steps": 9}, {"last_epoch": 99}, ValueError, "Tried to step 99 times"),
    ("CyclicLR", {"base_lr": 0.1, "max_lr": 1.0}, {"total_size": -1.0}, ValueError, "step_size_up must be a number"),
    ("SWALR", {"swa_lr": 0.1}, {"anneal_epochs": -1}, ValueError, "anneal_epochs must be equal or greater than 0"),
]


@pytest.mark.parametrize(("name", "arguments", "change", "error", "message"), DAMAGED)
def test_a_state_that_holds_no_options_is_refused(name, arguments, change, error, message):
    optimizer = optimizer_of(1)
    scheduler = make_of(name, arguments)(optimizer)
    assert refused(optimizer, scheduler, {**scheduler.state_dict(), **change}, error, message)
    assert refused(optimizer, scheduler, 3, TypeError, "is loaded from a mapping, but this is a int")


LONGER = [
    ("CosineAnnealingLR", {"T_max": 10}, {"T_max": 30}),
    ("CosineAnnealingLR", {"T_max": 10, "eta_min": 0.1}, {"T_max": 30, "eta_min": 0.2}),
    ("CosineAnnealingWarmRestarts", {"T_0": 4}, {"T_0": 7, "T_mult": 2}),
    ("OneCycleLR", {"max_lr": 1.0, "total_steps": 11}, {"total_steps": 40}),
    ("StepLR", {"step_size": 3}, {"step_size": 7, "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [3, 5]}, {"milestones": [4, 20]}),
    ("LinearLR", {"start_factor": 0.0}, {"total_iters": 20}),
    ("PolynomialLR", {"total_iters": 9}, {"total_iters": 30}),
    ("LambdaLR", {"lr_lambda": lambda epoch: 0.5**epoch}, {}),
    ("CyclicLR", {"base_lr": 0.1, "max_lr": 1.0, "step_size_up": 3}, {"gamma": 0.9, "mode": "exp_range"}),
]


@pytest.mark.parametrize("order", ["made, loaded", "loaded, made"])
@pytest.mark.parametrize(("name", "arguments", "longer"), LONGER)
def test_options_that_are_kept_give_the_rates_of_a_run_that_always_had_them(name, arguments, longer, order):
    """Even at the end of the shorter run, where the rate is zero."""
    source, uninterrupted, target = (optimizer_of(2) for _ in range(3))
    scheduler = make_of(name, arguments)(source)
    always = make_of(name, {**arguments, **longer})(uninterrupted)
    advance(source, [scheduler], 10)
    expected = advance(uninterrupted, [always], 20)[9:]
    saved, keep = saved_of(source, scheduler), list(longer)
    if order == "loaded, made":
        target.load_state_dict(saved[0])
    again = make_of(name, {**arguments, **longer})(target)
    if order == "made, loaded":
        target.load_state_dict(saved[0])
    again.load_state_dict(saved[1], keep=[*keep, "scale_mode"] if name == "CyclicLR" else keep)
    np.testing.assert_allclose([rates(target), *advance(target, [again], 10)], expected, rtol=1e-10)


@pytest.mark.parametrize("epochs", [2, 5, 12])
def test_a_longer_cosine_after_a_warm_up(epochs):
    def make(optimizer, T_max):
        parts = [s.LinearLR(optimizer, 0.1, total_iters=3), s.CosineAnnealingLR(optimizer, T_max)]
        return s.SequentialLR(optimizer, parts, [3])

    source, uninterrupted, target = (optimizer_of(2) for _ in range(3))
    scheduler, always, again = make(source, 9), make(uninterrupted, 30), make(target, 30)
    advance(source, [scheduler], epochs)
    expected = advance(uninterrupted, [always], epochs + 9)[epochs - 1 :]
    again.load_state_dict(scheduler.state_dict(), keep=["T_max"])
    np.testing.assert_allclose([rates(target), *advance(target, [again], 9)], expected, rtol=1e-10)


def test_what_cannot_be_kept_is_refused():
    target = optimizer_of(1)
    cosine = s.CosineAnnealingLR(target, 9)
    for keep in (["T_mix"], ["last_epoch"], ["T_max", "gamma"]):
        assert refused(target, cosine, cosine.state_dict(), ValueError, r"keep names \[", keep=keep)
    message = "keep must be a collection of names"
    assert refused(target, cosine, cosine.state_dict(), TypeError, message, keep="T_max")
    chained = plateau_in_a_chain(target)
    message = "a ReduceLROnPlateau is held here"
    assert refused(target, chained, chained.state_dict(), ValueError, message, keep=["total_iters"])
    average = optim.swa_utils.SWALR(target, 0.1)
    assert refused(
        target, average, average.state_dict(), ValueError, "no options that a SWALR can keep", keep=["swa_lr"]
    )


def test_the_present_options_of_the_groups_can_be_kept():
    source, target = optimizer_of(2), optimizer_of(2, lr=0.01)
    target.param_groups[1]["note"] = "mine"
    source.param_groups[0]["momentum"] = 0.5
    target.load_state_dict(source.state_dict(), keep=("lr", "note"))
    assert rates(target) == [0.01, 0.01, 0.5, 0.9]
    assert target.param_groups[1]["note"] == "mine"
    before = repr(target)
    for keep, error, message in (
        (["lrr"], ValueError, r"keep names \['lrr'\], which no parameter group has: the options are \["),
        (["params"], ValueError, r"keep names \['params'\]"),
        ("lr", TypeError, "keep must be a collection of names, but it is the string 'lr'"),
    ):
        with pytest.raises(error, match=message):
            target.load_state_dict(source.state_dict(), keep=keep)
    assert repr(target) == before


def test_a_rate_that_the_optimizer_kept_stays_when_the_scheduler_is_loaded():
    source, target = optimizer_of(1), optimizer_of(1, lr=0.01)
    scheduler, again = s.StepLR(source, 3), s.StepLR(target, 3)
    advance(source, [scheduler], 2)
    target.load_state_dict(source.state_dict(), keep=["lr"])
    again.load_state_dict(scheduler.state_dict())
    assert [row[0] for row in advance(target, [again], 2)] == pytest.approx([0.001, 0.001])


LATE = {
    "LinearLR": functools.partial(s.LinearLR, start_factor=0.25, total_iters=6),
    "LinearLR down to zero": functools.partial(s.LinearLR, start_factor=1.0, end_factor=0.0, total_iters=6),
    "LinearLR from zero": functools.partial(s.LinearLR, start_factor=0.0, total_iters=6),
    "ConstantLR": functools.partial(s.ConstantLR, factor=0.5, total_iters=6),
    "ConstantLR of zero": functools.partial(s.ConstantLR, factor=0.0, total_iters=6),
    "SWALR": functools.partial(optim.swa_utils.SWALR, swa_lr=0.05, anneal_epochs=6),
    "LambdaLR": functools.partial(s.LambdaLR, lr_lambda=lambda epoch: 1 / (1 + epoch)),
    "CosineAnnealingWarmRestarts": functools.partial(s.CosineAnnealingWarmRestarts, T_0=4, eta_min=0.1),
    "CyclicLR": functools.partial(s.CyclicLR, base_lr=0.5, max_lr=1.0, step_size_up=4),
    "chained warm-ups": lambda o: s.ChainedScheduler([s.LinearLR(o, 0.25, total_iters=6), s.ConstantLR(o, 0.5, 4)]),
}


@pytest.mark.parametrize(("key", "joins"), list(itertools.product(LATE, [1, 3, 7])))
def test_a_group_that_joins_late_has_its_base_times_the_factor_of_the_epoch(key, joins):
    """From its first scheduled epoch on, its rate is what it would be had it joined at the start."""
    early, late = optimizer_of(1), optimizer_of(1)
    early.add_param_group({"params": [jnp.ones(1)], "lr": 0.5})
    schedulers = [LATE[key](early), LATE[key](late)]
    advance(early, schedulers[:1], joins)
    advance(late, schedulers[1:], joins)
    late.add_param_group({"params": [jnp.ones(1)], "lr": 0.5})
    expected = [row[:2] for row in advance(early, schedulers[:1], 9)]
    np.testing.assert_allclose([row[:2] for row in advance(late, schedulers[1:], 9)], expected, rtol=1e-12, atol=1e-15)


@pytest.mark.torch
@pytest.mark.parametrize("joins", [1, 3, 7])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("StepLR", {"step_size": 3}),
        ("MultiStepLR", {"milestones": [2, 5]}),
        ("ExponentialLR", {"gamma": 0.9}),
        ("PolynomialLR", {"total_iters": 10}),
        ("CosineAnnealingLR", {"T_max": 10, "eta_min": 0.1}),
    ],
)
def test_a_group_that_joins_a_decay_goes_on_from_its_rate_as_in_torch(name, arguments, joins):
    """These final rates do not depend on when it joins."""
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    values = []
    for package, array in ((optim, jnp.ones), (torch.optim, lambda n: torch.nn.Parameter(torch.ones(n)))):
        optimizer = package.SGD([array(1)], lr=0.5, momentum=0.9)
        scheduler = getattr(package.lr_scheduler, name)(optimizer, **arguments)
        advance(optimizer, [scheduler], joins)
        optimizer.add_param_group({"params": [array(1)], "lr": 0.3})
        values.append(advance(optimizer, [scheduler], 10 - joins))
    np.testing.assert_allclose(*values, rtol=1e-12, atol=1e-15)
