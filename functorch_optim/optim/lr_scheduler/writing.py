"""What schedulers share: checks of their arguments, and writing into the groups as a whole or not at all."""

import copy
import math
import types
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from functorch_optim.hyperparams import as_count
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.options import is_schedule
from functorch_optim.schedules.schedule import check_number
from functorch_optim.typing import PyTree


@contextmanager
def all_or_nothing(optimizer: Optimizer, *objects: object) -> Generator[None]:
    """Leave the groups, and the attributes of the objects, as they were when something is raised inside."""
    lives = [*optimizer.param_groups, *map(vars, objects)]
    before = [dict(live) for live in lives]
    try:
        yield
    except BaseException:
        for live, old in zip(lives, before, strict=True):
            for key in live.keys() - old.keys():
                del live[key]
            live.update({key: value for key, value in old.items() if live.get(key) is not value})
        raise


def copied(value: object) -> PyTree:
    """A value for a state_dict, or out of one: containers are copied."""
    return copy.deepcopy(value) if isinstance(value, list | dict) else value


def reset_rates(optimizer: Optimizer) -> None:
    """Write the initial learning rates into the groups; a scheduler made last may have set them, OneCycleLR does."""
    for group in optimizer.param_groups:
        group["lr"] = group.get("initial_lr", group["lr"])


def check_epoch(epoch: Any) -> None:
    """Raise unless it is None, or a number that is not negative, with torch's message."""
    if epoch is None:
        return
    if isinstance(epoch, bool | str) or not hasattr(epoch, "__float__"):
        raise TypeError(f"Expected non-negative epoch, but got {epoch!r}, which is no number")
    if not 0 <= float(epoch) < math.inf:
        raise ValueError(f"Expected non-negative epoch, but got {epoch}")


def check_optimizer(optimizer: object, last_epoch: int = -1) -> None:
    """Raise unless a scheduler may begin, or continue after ``last_epoch``; before it writes anything.

    Raises:
        TypeError: it is no optimizer, or ``last_epoch`` no integer; ValueError: a group's learning rate is a schedule
            itself, or ``last_epoch`` below -1; KeyError: a group has no ``initial_lr`` to continue with.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
    as_count("last_epoch", last_epoch, -1)
    for index, group in enumerate(optimizer.param_groups):
        if last_epoch != -1 and "initial_lr" not in group:
            raise KeyError(
                f"param 'initial_lr' is not specified in param_groups[{index}] when resuming scheduler with "
                "last_epoch >= 0: load the optimizer's state_dict first, or begin with last_epoch=-1"
            )
        if is_schedule(group["lr"]):
            raise ValueError(
                f"the lr of parameter group {index} is a schedule, {group['lr']!r}, which a scheduler would overwrite: "
                "use one of the two"
            )


def write_momentum(group: dict[str, PyTree], momentum: float) -> None:
    """Write a momentum, or the first of the betas, into a group."""
    if "betas" in group:
        group["betas"] = (momentum, *group["betas"][1:])
    else:
        group["momentum"] = momentum


def saved_function(function: object) -> dict[str, PyTree] | None:
    """What a state_dict keeps of a function: nothing, but of a callable object its attributes."""
    if function is None or isinstance(function, types.FunctionType | types.BuiltinFunctionType):
        return None
    return dict(vars(function))


def per_group(name: str, optimizer: Optimizer, value: Any) -> list[float]:
    """An argument for every group: one for all, or a list of as many as there are groups.

    Raises:
        ValueError: the list has another length, or a number is negative or not finite; TypeError: something is no
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
    return values
