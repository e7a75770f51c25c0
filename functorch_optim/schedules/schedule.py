"""The base of all schedules: frozen functions of the step that compare by value.

A schedule's class is named like the function it acts as. Given a Python number, it computes in doubles and returns a
float; given an array, it computes in JAX's default float dtype.
"""

import math
from collections.abc import Iterable
from math import sin
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim.core.options import Options
from functorch_optim.hyperparams import Scalar, as_count
from functorch_optim.option_names import explain_constructor
from functorch_optim.typing import Numeric, PyTree

_QUARTER = math.pi / 2  # of a turn


class Schedule(Options):
    """Base class of schedules: a subclass declares its options and defines ``evaluate(step, xp)``.

    Example:
        >>> class triangle(Schedule):
        ...     period: int
        ...
        ...     def evaluate(self, step, xp):
        ...         return 1 - xp.abs(step % self.period / self.period * 2 - 1)
        >>> triangle(4)(1), triangle(4)(jnp.array([2, 3])).tolist()
        (0.5, [1.0, 0.5])
    """

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        explain_constructor(cls)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in list(vars(self).items()):
            if isinstance(value, np.integer):  # whose dtype must not mix with the step's
                object.__setattr__(self, name, int(value))

    def evaluate(self, step: Numeric, xp: ModuleType) -> Numeric:
        """Compute the value at ``step``; ``xp`` is numpy or jax.numpy."""
        raise NotImplementedError(f"{type(self).__name__} does not define evaluate")  # abstract: every subclass does

    def __call__(self, step: Numeric) -> PyTree:
        """Return the value at ``step``, the number of updates so far: an int, a fraction or an array of these."""
        traced = isinstance(step, jax.Array) or self._holds_arrays()
        if not traced and np.ndim(step) == 0:
            return float(self.evaluate(int(step) if isinstance(step, np.integer) else step, np))
        dtype, steps = jnp.result_type(float), jnp.asarray(step)
        if jnp.issubdtype(steps.dtype, jnp.unsignedinteger):
            steps = steps.astype(jnp.result_type(int))  # differences of unsigned steps would wrap around
        return jnp.broadcast_to(jnp.asarray(self.evaluate(steps, jnp), dtype), jnp.shape(step))

    def _holds_arrays(self) -> bool:
        """Whether an option is an array, so that the value is an array even for a Python step."""
        return any(isinstance(option, Scalar) for option in vars(self).values())


def number(option: Any) -> PyTree:
    """Convert an option for arithmetic: to a Python float, or a scalar of JAX's default float dtype."""
    return option.array.astype(jnp.result_type(float)) if isinstance(option, Scalar) else option


def fraction(numerator: Numeric, denominator: Numeric, xp: ModuleType) -> Numeric:
    """Divide integers or floats in the default float dtype."""
    return numerator / denominator if xp is np else as_float(numerator, xp) / denominator


def as_float(value: Numeric, xp: ModuleType) -> PyTree:
    """Convert a step to the default float dtype."""
    return value if xp is np else jnp.asarray(value).astype(jnp.result_type(float))


def exact_power(base: Numeric, exponent: Numeric, xp: ModuleType) -> Numeric:
    """``base ** exponent`` of a number and steps; if traced, a Python ``base`` keeps its digits at large steps.

    It is then ``exp(exponent * log(base))`` with the logarithm split in two: the first part has so few digits that its
    product with the exponent is exact.
    """
    if xp is np or not isinstance(base, float) or base <= 0:
        return base ** as_float(exponent, xp)
    log = math.log(base)
    mantissa, power_of_two = math.frexp(log)
    high = math.ldexp(round(mantissa * 2**10), power_of_two - 10)
    exponent = as_float(exponent, xp)
    return jnp.exp(exponent * high) * jnp.exp(exponent * (log - high))


def between(start: Any, end: Any, done: Numeric, length: Numeric, xp: ModuleType, strategy: str = "linear") -> Numeric:
    """Interpolate from ``start`` to ``end`` as ``done`` goes from 0 to ``length``, linearly or along half a cosine.

    The result is exactly ``start`` before and ``end`` after, and never beyond them in between. One product and one sum
    in float32 cannot ensure this: a compiler may multiply by the reciprocal of the length, and fuse product and sum.
    """
    if xp is np:
        return between_numbers(start, end, done, length, strategy)
    if isinstance(length, int | float) and length <= 0:
        return xp.where(done < 0, start, end)
    share, left = (fraction(each, length, xp) for each in (done, length - done))
    if strategy == "cos":
        share, left = (xp.sin(each * _QUARTER) ** 2 for each in (share, left))
    inside = xp.clip(start * left + end * share, xp.minimum(start, end), xp.maximum(start, end))
    return xp.where(done >= length, end, xp.where(done <= 0, start, inside))


def between_numbers(start: PyTree, end: PyTree, done: Any, length: Any, strategy: str = "linear") -> PyTree:
    """Compute :func:`between` of Python numbers."""
    if done >= length:
        return start if done < 0 else end  # both only if the length is negative
    if done <= 0:
        return start
    share, left = done / length, (length - done) / length
    if strategy == "cos":
        share, left = sin(share * _QUARTER) ** 2, sin(left * _QUARTER) ** 2
    inside = start * left + end * share
    if start < end:
        return start if inside < start else end if inside > end else inside
    return end if inside < end else start if inside > start else inside


def wrapped(step: Any, period: float, xp: ModuleType) -> tuple[Numeric, Numeric]:
    """Split ``step`` into whole periods, as a float, and the steps since; in integer arithmetic if possible."""
    if xp is np:
        cycles, place = divmod(step, period)
        return float(cycles), place
    whole, parts = float(period).as_integer_ratio()  # ``whole`` steps are ``parts`` periods
    if not jnp.issubdtype(step.dtype, jnp.integer) or whole > jnp.iinfo(step.dtype).max:
        step = as_float(step, xp)
        cycles = jnp.floor(step / period)
        return cycles, step - cycles * period
    turns, place = as_float(step // whole, xp), step % whole
    if isinstance(period, int):
        return turns, place
    place = as_float(place, xp)
    cycles = jnp.floor(place / period)
    return turns * parts + cycles, place - cycles * period


def check_milestones(milestones: object) -> None:
    """Raise unless ``milestones`` is a sequence (TypeError) of integers of at least 0."""
    if isinstance(milestones, str) or not isinstance(milestones, Iterable):
        raise TypeError(f"milestones must be a list of epochs, but it is {milestones!r}")
    for milestone in milestones:
        as_count("a milestone", milestone, 0)


def check_positive(name: str, value: Any) -> None:
    """Raise unless an option is a number (TypeError), finite and above 0 (ValueError)."""
    check_number(name, value)
    if not value > 0:
        raise ValueError(f"{name} must be a number above 0, but it is {value!r}")


def check_number(name: str, value: Any, least: float = -math.inf) -> None:
    """Raise unless a value is a number (TypeError), finite and at least ``least`` (ValueError)."""
    if isinstance(value, bool | np.bool_ | str | complex) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, but it is {value!r}")
    if not (math.isfinite(float(value)) and float(value) >= least):
        at_least = "" if least == -math.inf else f" of at least {least:g}"
        raise ValueError(f"{name} must be a finite number{at_least}, but it is {value!r}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise unless an option is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, but it is {value!r}")
