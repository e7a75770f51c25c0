"""The current numbers of a parameter group: what a step reads from ``param_groups``."""

from collections.abc import Collection, Iterable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from functorch_optim.base import Frozen
from functorch_optim.hyperparams import Beta
from functorch_optim.typing import OptionValues, PyTree


def value_at(value: Any, count: int) -> PyTree:
    """Return an option's value before update number ``count``, from 0: a Python float, unless it is not a number.

    Schedules are evaluated, arrays of one element are read, lists and tuples (betas) become tuples. Tracers stay.
    """
    if type(value) is float or value is None or isinstance(value, bool | str | float | Tracer):
        return value
    if isinstance(value, Beta):
        return Beta(value_at(value.value, count), value_at(value.complement, count))
    if isinstance(value, tuple | list):
        return tuple(value_at(item, count) for item in value)
    if callable(value):
        return value_at(value(count), count)
    if hasattr(value, "item"):
        return float(value.item())
    return float(value) if hasattr(value, "__float__") else value


def is_number(value: object) -> bool:
    """Whether a result of :func:`value_at` is a number, or a tuple of numbers."""
    if isinstance(value, tuple) and not isinstance(value, Beta):
        return any(map(is_number, value)) and all(item is None or is_number(item) for item in value)
    return isinstance(value, float | Beta | Tracer)


def is_traced(value: object) -> bool:
    """Whether an option is traced, or a tuple that contains a tracer."""
    return isinstance(value, Tracer) or (isinstance(value, tuple | list) and any(map(is_traced, value)))


def is_zero(value: object) -> bool:
    """Whether an option is known to be zero; a traced one is not."""
    return not isinstance(value, Tracer) and value == 0


def check_flags(options: OptionValues) -> None:
    """Apply torch's rules for flags that exclude each other.

    Raises:
        RuntimeError, AssertionError: with torch's message.
    """
    if options.get("fused") and options.get("differentiable"):
        raise RuntimeError("`fused` does not support `differentiable`")
    if options.get("foreach") and options.get("differentiable"):  # torch raises it at the first step
        raise AssertionError("_foreach ops don't support autograd")
    if options.get("fused") and options.get("foreach"):
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")


def plain(value: object, count: int) -> PyTree:
    """Return an option's value for ``state_dict``: Python numbers as they are, a :class:`Beta` as its value."""
    if isinstance(value, int):
        return value
    value = value_at(value, count)
    if isinstance(value, Beta):
        return value.value
    return tuple(plain(item, count) for item in value) if isinstance(value, tuple) else value


def scalar_or_same(value: Any) -> PyTree:
    """Convert a NumPy or JAX scalar to a Python number; return anything else as it is."""
    scalar = isinstance(value, np.generic) or (isinstance(value, jax.Array) and value.shape == ())
    return value.item() if scalar and not isinstance(value, Tracer) else value


def is_schedule(value: object) -> bool:
    """Whether an option is a schedule, or a tuple that contains one."""
    return callable(value) or (isinstance(value, tuple | list) and any(map(is_schedule, value)))


def read_options(
    group: OptionValues, names: Iterable[str], data: Collection[str], strict: bool, count: int, index: int
) -> dict[str, PyTree]:
    """Read the options ``names`` of a group; those in ``data`` as numbers, which ``strict`` requires them to be.

    Raises:
        KeyError: an option is missing.
        TypeError: an option should be a number, but is not. Both messages name the group and the option.
    """
    values = {}
    for name in names:
        if name not in group:
            raise KeyError(f"{name!r} is missing from parameter group {index}")
        try:
            values[name] = value_at(group[name], count) if name in data else group[name]
        except (TypeError, ValueError) as error:
            kind = ValueError if isinstance(error, ValueError) else TypeError
            raise kind(f"option {name!r} of parameter group {index}: {error}") from error
        if name in data and callable(group[name]) and not is_number(values[name]):
            raise TypeError(
                f"option {name!r} of parameter group {index} is a function that gives no number; a "
                "schedule does, and any other function belongs in static="
            )
        if strict and name in data and not is_number(values[name]):
            raise TypeError(f"option {name!r} of parameter group {index} must be a number, but it is {group[name]!r}")
    return values


def is_constant(value: object) -> bool:
    """Whether an option is a plain value, which changes only if someone writes another into the group, or into it."""
    if isinstance(value, tuple):
        return all(type(item) is not dict and is_constant(item) for item in value)
    if type(value) is dict:
        return all(map(is_constant, value.values()))
    return value is None or type(value) in (float, int, bool, str) or isinstance(value, np.dtype)


class Delayed(Frozen):
    """A schedule as seen from a count that started ``by`` updates later."""

    schedule: Any
    by: int

    def __call__(self, step: Any) -> PyTree:
        return self.schedule(step + self.by)


def delay(value: object, by: int) -> PyTree:
    """Return an option for a functional transformation whose step runs ``by`` updates behind the group's count."""
    if isinstance(value, tuple | list) and not isinstance(value, Beta):
        return tuple(delay(item, by) for item in value)
    if callable(value):
        return Delayed(value, by) if by else value
    return value_at(value, 0)
