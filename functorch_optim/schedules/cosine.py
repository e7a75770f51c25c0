"""Cosine schedules: plain, with warm restarts, or after a warm-up."""

import math
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from functorch_optim.hyperparams import AnyNumber, as_count, as_integer
from functorch_optim.schedules.decay import reached
from functorch_optim.schedules.schedule import (
    Schedule,
    as_float,
    between,
    check_positive,
    fraction,
    number,
    wrapped,
)
from functorch_optim.typing import Numeric, PyTree


class cosine_annealing(Schedule):
    """Falls from ``lr`` to ``eta_min`` in ``T_max`` steps along half a cosine, then rises again; period ``2 T_max``.

    ``eta_min + (lr - eta_min) * (1 + cos(pi * step / T_max)) / 2``, the closed form of torch's
    ``CosineAnnealingLR``. The step is reduced modulo the period before the cosine, so large steps lose no digits.

    Args:
        lr: value at step 0.
        T_max: number of steps down to ``eta_min``, above 0.
        eta_min: value at step ``T_max``.

    Raises:
        ValueError, TypeError: ``T_max`` is not a number above 0.

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017, without restarts.

    Example:
        >>> schedule = cosine_annealing(1.0, T_max=4, eta_min=0.1)
        >>> [round(schedule(step), 6) for step in range(6)]
        [1.0, 0.868198, 0.55, 0.231802, 0.1, 0.231802]
    """

    lr: AnyNumber
    T_max: float
    eta_min: AnyNumber = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("T_max", self.T_max)

    def evaluate(self, step: Numeric, xp: ModuleType) -> Numeric:
        period = 2 * self.T_max
        _, phase = wrapped(step, period, xp)
        done = xp.minimum(phase, period - phase)
        return between(number(self.lr), number(self.eta_min), done, self.T_max, xp, "cos")

    def next(self, lr: Numeric, step: int) -> Numeric:
        """Compute the value at ``step`` (at least 1) from the previous value, in doubles."""
        return next_cosine(lr, step, number(self.lr), self.T_max, number(self.eta_min))


def next_cosine(lr: PyTree, step: int, base: PyTree, T_max: float, eta_min: PyTree) -> PyTree:
    """Compute the next value of a :class:`cosine_annealing` from ``base``, in doubles."""
    if (step - 1 - T_max) % (2 * T_max) == 0:  # the previous value was eta_min: there is no ratio to it
        return lr + (base - eta_min) * (1 - math.cos(math.pi / T_max)) / 2
    now, before = 1 + math.cos(math.pi * step / T_max), 1 + math.cos(math.pi * (step - 1) / T_max)
    return now / before * (lr - eta_min) + eta_min


class cosine_annealing_warm_restarts(Schedule):
    """Falls from ``lr`` to ``eta_min`` along half a cosine and restarts; each period is ``T_mult`` times the last.

    ``eta_min + (lr - eta_min) * (1 + cos(pi * T_cur / T_i)) / 2`` where T_cur counts the steps since the
    last restart, and T_i is the length of the current period: ``T_0``, ``T_0 * T_mult``, ...

    Args:
        lr: value at a restart.
        T_0: length of the first period, an integer of at least 1.
        T_mult: ratio of each period's length to the last, an integer of at least 1.
        eta_min: the lowest value.

    Raises:
        ValueError: ``T_0`` or ``T_mult`` is not such an integer.

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017.

    Example:
        >>> schedule = cosine_annealing_warm_restarts(1.0, T_0=2, T_mult=2)
        >>> [round(schedule(step), 6) for step in range(7)]
        [1.0, 0.5, 1.0, 0.853553, 0.5, 0.146447, 1.0]
    """

    lr: AnyNumber
    T_0: int
    T_mult: int = 1
    eta_min: AnyNumber = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("T_0", "T_mult"):
            value = getattr(self, name)
            if (as_integer(value) or 0) < 1:
                kind = "positive integer" if name == "T_0" else "integer T_mult >= 1"
                raise ValueError(f"Expected {kind}{' T_0' if name == 'T_0' else ''}, but got {value}")

    def evaluate(self, step: Any, xp: ModuleType) -> Numeric:
        if self.T_mult == 1:
            done, length = step % self.T_0, self.T_0
        elif xp is np:
            start = self.starts(step)[-1]
            done, length = step - start, self.T_0 + start * (self.T_mult - 1)
        else:
            whole = jnp.issubdtype(step.dtype, jnp.integer)
            starts = self.starts(jnp.iinfo(step.dtype if whole else jnp.int32).max)
            index = reached(starts, step, xp) - 1
            lengths = [float(self.T_0 + start * (self.T_mult - 1)) for start in starts]
            start, length = (xp.asarray(table)[index] for table in (starts, lengths))
            done = as_float(step - start.astype(step.dtype), xp)
        return between(number(self.lr), number(self.eta_min), done, length, xp, "cos")

    def starts(self, last: float) -> tuple[int, ...]:
        """Return the first step of every period up to step ``last``; the lengths grow geometrically."""
        starts = [0]
        while self.T_0 + starts[-1] * self.T_mult <= last:
            starts.append(self.T_0 + starts[-1] * self.T_mult)
        return tuple(starts)


class warmup_cosine(Schedule):
    """Rises linearly from 0 to ``peak``, falls to ``end`` along half a cosine, and stays there.

    ``peak * step / warmup_steps`` before ``warmup_steps``, then
    ``end + (peak - end) * (1 + cos(pi * (step - warmup_steps) / (total_steps - warmup_steps))) / 2``.

    Args:
        peak: value at ``warmup_steps``.
        warmup_steps: length of the rise in steps, at least 0.
        total_steps: the step at which the value reaches ``end``; greater than ``warmup_steps``.
        end: the final value.

    Raises:
        ValueError, TypeError: the steps are not integers in this order.

    Example:
        >>> schedule = warmup_cosine(1.0, warmup_steps=2, total_steps=6)
        >>> [round(schedule(step), 6) for step in range(8)]
        [0.0, 0.5, 1.0, 0.853553, 0.5, 0.146447, 0.0, 0.0]
    """

    peak: AnyNumber
    warmup_steps: int
    total_steps: int
    end: AnyNumber = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        as_count("warmup_steps", self.warmup_steps, 0)
        as_count("total_steps", self.total_steps, self.warmup_steps + 1)

    def evaluate(self, step: Numeric, xp: ModuleType) -> Numeric:
        peak, end = number(self.peak), number(self.end)
        rise = peak * fraction(step, max(self.warmup_steps, 1), xp)
        length = self.total_steps - self.warmup_steps
        fall = between(peak, end, step - self.warmup_steps, length, xp, "cos")
        return xp.where(step < self.warmup_steps, rise, fall)
