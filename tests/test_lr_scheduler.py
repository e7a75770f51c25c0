"""The scheduler classes against torch's."""

import functools
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from functorch_optim import optim

pytestmark = pytest.mark.torch

SCHEDULERS = {
    "StepLR": [{"step_size": 1}, {"step_size": 3, "gamma": 0.5}, {"step_size": 10, "gamma": 1.1}],
    "CosineAnnealingLR": [{"T_max": 4}, {"T_max": 10, "eta_min": 0.1}, {"T_max": 1}, {"T_max": 7, "eta_min": 2.0}],
}
CASES = [(name, arguments) for name, each in SCHEDULERS.items() for arguments in each]
each_case = pytest.mark.parametrize(("name", "arguments"), CASES)


def ours(name, arguments, groups=(0.5, 2.0)):
    optimizer = optim.SGD([{"params": [jnp.ones(1)], "lr": lr} for lr in groups], lr=1.0)
    return optimizer, functools.partial(getattr(optim.lr_scheduler, name), **arguments)


def theirs(name, arguments, groups=(0.5, 2.0)):
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in groups], lr=1.0)
    return optimizer, functools.partial(getattr(torch.optim.lr_scheduler, name), **arguments)


def rates(optimizer):
    return [float(group["lr"]) for group in optimizer.param_groups]


def run(optimizer, scheduler, steps):
    values = [rates(optimizer)]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        assert scheduler.get_last_lr() == rates(optimizer)
        values.append(rates(optimizer))
    return values


@each_case
def test_300_steps(name, arguments):
    values = []
    for optimizer, make in (ours(name, arguments), theirs(name, arguments)):
        values.append(run(optimizer, make(optimizer), 300))
    np.testing.assert_allclose(*values, rtol=1e-12, atol=1e-15)


@each_case
def test_a_rate_set_by_hand_is_carried_on(name, arguments):
    values = []
    for optimizer, make in (ours(name, arguments), theirs(name, arguments)):
        scheduler = make(optimizer)
        run(optimizer, scheduler, 5)
        optimizer.param_groups[0]["lr"] = 0.3
        values.append(run(optimizer, scheduler, 20))
    np.testing.assert_allclose(*values, rtol=1e-12, atol=1e-15)


@each_case
def test_step_with_an_epoch(name, arguments):
    values = []
    for optimizer, make in (ours(name, arguments), theirs(name, arguments)):
        scheduler = make(optimizer)
        optimizer.step()
        for epoch in (3, 1, 8, 20):
            with pytest.warns(UserWarning, match="The epoch parameter in `scheduler.step"):
                scheduler.step(epoch)
            values.append(rates(optimizer))
    np.testing.assert_allclose(values[:4], values[4:], rtol=1e-12, atol=1e-15)


@each_case
@pytest.mark.parametrize("direction", ["ours to ours", "theirs to ours", "ours to theirs"])
def test_saved_and_continued(name, arguments, direction):
    source_kind, target_kind = (theirs if part == "theirs" else ours for part in direction.split(" to "))
    source, make = source_kind(name, arguments)
    scheduler = make(source)
    run(source, scheduler, 7)
    target, make = target_kind(name, arguments)
    resumed = make(target)
    saved, state = source.state_dict(), scheduler.state_dict()
    target.load_state_dict(saved)
    resumed.load_state_dict(state)
    assert rates(target) == rates(source)
    np.testing.assert_allclose(run(source, scheduler, 20), run(target, resumed, 20), rtol=1e-12, atol=1e-15)


@each_case
def test_state_dict_has_torchs_keys(name, arguments):
    keys = []
    for optimizer, make in (ours(name, arguments), theirs(name, arguments)):
        keys.append(list(make(optimizer).state_dict()))
    assert sorted(keys[0]) == sorted(keys[1])


def test_resumed_by_last_epoch():
    for name, arguments in (("CosineAnnealingLR", {"T_max": 10}), ("StepLR", {"step_size": 3})):
        optimizer, make = ours(name, arguments)
        scheduler = make(optimizer)
        values = run(optimizer, scheduler, 12)
        again, make = ours(name, arguments)
        first = make(again)
        run(again, first, 6)
        resumed = make(again, last_epoch=first.last_epoch - 1)  # torch applies a boundary's factor twice here
        np.testing.assert_allclose(run(again, resumed, 6), values[6:], rtol=1e-12)


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
