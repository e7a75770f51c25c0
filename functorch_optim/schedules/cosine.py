"""Half a cosine: from a value to another, with or without a warm-up."""

import math
from typing import Any

import numpy as np

from functorch_optim.hyperparams import AnyNumber
from functorch_optim.schedules.schedule import Schedule, fraction, number


def _falling(step: Any, period: int, xp: Any) -> Any:
    """``(1 + cos(pi * step / period)) / 2`` for 0 <= step <= period, with all its digits near zero too."""
    return xp.sin(fraction(period - step, period, xp) * (math.pi / 2)) ** 2


class cosine_annealing(Schedule):
    """Falls from ``lr`` to ``eta_min`` in ``T_max`` steps along half a cosine, then rises again; period ``2 T_max``.

    ``eta_min + (lr - eta_min) * (1 + cos(pi * step / T_max)) / 2``, which is the closed form of torch's
    ``CosineAnnealingLR``. The step is reduced before the cosine, so no digits are lost at large steps.

    Args:
        lr: value at step 0.
        T_max: number of steps down to ``eta_min``, at least 1.
        eta_min: value at step ``T_max``.

    Raises:
        ValueError: ``T_max`` is not a positive integer.

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017, without restarts.

    Example:
        >>> schedule = cosine_annealing(1.0, T_max=4, eta_min=0.1)
        >>> [round(schedule(step), 6) for step in range(6)]
        [1.0, 0.868198, 0.55, 0.231802, 0.1, 0.231802]
    """

    lr: AnyNumber
    T_max: int
    eta_min: AnyNumber = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count("T_max", self.T_max, 1)

    def evaluate(self, step: Any, xp: Any) -> Any:
        phase = step % (2 * self.T_max)
        share = _falling(xp.minimum(phase, 2 * self.T_max - phase), self.T_max, xp)
        low = number(self.eta_min)
        return low + (number(self.lr) - low) * share


class warmup_cosine(Schedule):
    """Rises linearly from 0 to ``peak``, then falls to ``end`` along half a cosine, and stays there.

    ``peak * step / warmup_steps`` before ``warmup_steps``, then
    ``end + (peak - end) * (1 + cos(pi * (step - warmup_steps) / (total_steps - warmup_steps))) / 2``.

    Args:
        peak: value at ``warmup_steps``.
        warmup_steps: number of steps of the rise, at least 0.
        total_steps: the step from which the value is ``end``; larger than ``warmup_steps``.
        end: the last value.

    Raises:
        ValueError: the steps are not integers in this order.

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
        _check_count("warmup_steps", self.warmup_steps, 0)
        _check_count("total_steps", self.total_steps, self.warmup_steps + 1)

    def evaluate(self, step: Any, xp: Any) -> Any:
        peak, end = number(self.peak), number(self.end)
        rise = peak * fraction(step, max(self.warmup_steps, 1), xp)
        length = self.total_steps - self.warmup_steps
        share = _falling(xp.clip(step - self.warmup_steps, 0, length), length, xp)
        return xp.where(step < self.warmup_steps, rise, end + (peak - end) * share)


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, but it is {value!r}")
