"""The options of parameter groups in a ``state_dict``: merged where groups were joined, and taken over."""

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from functorch_optim.hyperparams import Beta
from functorch_optim.optim.options import is_schedule, plain
from functorch_optim.torch_tensors import as_array
from functorch_optim.typing import OptionValues, PyTree

COUNT = "schedule_step"  # a group's count of updates, stored if the group has a schedule


def merged_options(saved: Sequence[Mapping[str, PyTree]]) -> tuple[dict[str, PyTree], list[str]]:
    """The options that saved groups have in common, and the names of those that differ."""
    if len(saved) == 1:
        return {key: value for key, value in saved[0].items() if key not in ("params", "param_names")}, []
    merged, unequal = {}, []
    for key in dict.fromkeys(key for group in saved for key in group if key not in ("params", "param_names")):
        if all(key in group and _equal(group[key], saved[0][key]) for group in saved):
            merged[key] = saved[0][key]
        elif key == COUNT:
            merged[key] = max(group.get(key, 0) for group in saved)
        else:
            unequal.append(key)
    return merged, unequal


def _equal(one: Any, other: PyTree) -> bool:
    if one is other:
        return True
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    one, other = as_array(one), as_array(other)
    if hasattr(one, "dtype") or hasattr(other, "dtype"):
        return np.shape(one) == np.shape(other) and bool(np.all(np.asarray(one) == np.asarray(other)))
    return type(one) is type(other) and one == other


def loaded_options(
    live: OptionValues, saved: Mapping[str, PyTree], unequal: Collection[str], numbers: Collection[str]
) -> dict[str, PyTree]:
    """A group's options after loading: the saved ones, except the live names, live schedules and ``unequal`` ones."""
    options = {
        key: _like(live.get(key), _number(key, value)) if key in numbers else copy.deepcopy(as_array(value))
        for key, value in saved.items()
        if key != COUNT
    }
    stay = {
        key: value
        for key, value in live.items()
        if key == "param_names" or key in unequal or (key in numbers and is_schedule(value))
    }
    return {**options, **stay}


def _number(key: str, value: object) -> PyTree:
    try:
        return plain(as_array(value), 0)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key!r} of the loaded state dict is no number: {error}") from error


def _like(live: PyTree, value: object) -> PyTree:
    """A saved number, as a :class:`Beta` if the live option is one."""
    if isinstance(live, Beta):
        return Beta.of(value)
    if isinstance(live, tuple) and isinstance(value, tuple) and len(live) == len(value):
        return tuple(map(_like, live, value))
    return value
