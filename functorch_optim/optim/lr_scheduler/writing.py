"""Helpers of the schedulers: argument checks, and all-or-nothing writes into the groups."""

import copy
import math
import types
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from functorch_optim.hyperparams import as_count
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.options import is_schedule
from functorch_optim.schedules.schedule import check_number
from functorch_optim.typing import PyTree


@contextmanager
def all_or_nothing(lives: Sequence[dict[str, PyTree]]) -> Generator[None]:
    """Restore the dicts ``lives``, of groups and attributes, if the body raises."""
    before = [live.copy() for live in lives]
    try:
        yield
    except BaseException:
        restore(lives, before)
        raise


def restore(lives: Sequence[dict[str, PyTree]], before: Sequence[dict[str, PyTree]]) -> None:
    """Make dicts again what they were."""
    for live, old in zip(lives, before, strict=True):
        for key in live.keys() - old.keys():
            del live[key]
        live.update({key: value for key, value in old.items() if live.get(key) is not value})


def copied(value: object) -> PyTree:
    """Copy a value into or out of a state_dict; only containers are copied."""
    return copy.deepcopy(value) if isinstance(value, list | dict) else value


def reset_rates(optimizer: Optimizer) -> None:
    """Write the initial learning rates into the groups; the scheduler created last may set them, as OneCycleLR does."""
    for group in optimizer.param_groups:
        group["lr"] = group.get("initial_lr", group["lr"])


def check_epoch(epoch: Any) -> None:
    """Raise, with torch's message, unless ``epoch`` is None or a non-negative number."""
    if epoch is None:
        return
    if isinstance(epoch, bool | str) or not hasattr(epoch, "__float__"):
        raise TypeError(f"Expected non-negative epoch, but got {epoch!r}, which is not a number")
    if not 0 <= float(epoch) < math.inf:
        raise ValueError(f"Expected non-negative epoch, but got {epoch}")


def check_optimizer(optimizer: object, last_epoch: int = -1) -> None:
    """Raise, before anything is written, unless a scheduler may start, or continue after ``last_epoch``.

    Raises:
        TypeError: not an optimizer, or ``last_epoch`` is not an integer; ValueError: a group's learning rate is itself
            a schedule, or ``last_epoch`` is below -1; KeyError: a group has no ``initial_lr`` to continue from.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
    as_count("last_epoch", last_epoch, -1)
    for index, group in enumerate(optimizer.param_groups):
        if last_epoch != -1 and "initial_lr" not in group:
            raise KeyError(
                f"param 'initial_lr' is not specified in param_groups[{index}] when resuming scheduler with "
                "last_epoch >= 0: load the optimizer's state_dict first, or start with last_epoch=-1"
            )
        if is_schedule(group["lr"]):
            raise ValueError(
                f"the lr of parameter group {index} is a schedule, {group['lr']!r}, which a scheduler would overwrite: "
                "use one of the two"
            )


def write_momentum(group: dict[str, PyTree], momentum: float) -> None:
    """Write a momentum into a group; with betas, as the first of them."""
    if "betas" in group:
        group["betas"] = (momentum,) + tuple(group["betas"][1:])  # noqa: RUF005 faster than unpacking
    else:
        group["momentum"] = momentum


def lengthened(values: list[Any], count: int) -> list[Any]:
    """Return a value for each of ``count`` groups; groups added later get the last one."""
    return values if len(values) >= count else values + values[-1:] * (count - len(values))


def attributes_of(functions: Sequence[object]) -> list[dict[str, PyTree]]:
    """Return the attributes of those functions that have any."""
    lives: list[dict[str, PyTree]] = []
    for function in functions:
        attributes = getattr(function, "__dict__", None)
        if attributes is not None:
            lives.append(attributes)
    return lives


def saved_function(function: object) -> dict[str, PyTree] | None:
    """Return what a state_dict saves of a function: None, or the attributes of a callable object."""
    if function is None or isinstance(function, types.FunctionType | types.BuiltinFunctionType):
        return None
    return dict(vars(function))


def per_group(name: str, optimizer: Optimizer, value: Any) -> list[float]:
    """Expand an argument to one float per group: a single value for all, or a list of as many.

    Raises:
        ValueError: the list has the wrong length, or a number is negative or not finite; TypeError: a value is not a
            number.
    """
    count = len(optimizer.param_groups)
    values = list(value) if isinstance(value, list | tuple) else [value] * count
    for each in values:
        check_number(name, each, 0)
    if len(values) != count:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. {name} has {len(values)} values, "
            f"param_groups has {count}."
        )
    return list(map(float, values))
