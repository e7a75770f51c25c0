"""Triangular schedules between two values, for a learning rate and, inverted, for a momentum."""

from types import ModuleType

import numpy as np

from functorch_optim.hyperparams import AnyNumber, NonNegative
from functorch_optim.schedules.schedule import (
    Schedule,
    between,
    check_choice,
    check_positive,
    exact_power,
    number,
    wrapped,
)
from functorch_optim.typing import Numeric, PyTree, StepFunction

MODES = ("triangular", "triangular2", "exp_range")


class cyclic(Schedule):
    """Cycles linearly from ``base_lr`` up to ``max_lr`` and back.

    ``base_lr + (max_lr - base_lr) * height * scale``. The height rises from 0 to 1 in ``step_size_up`` steps and falls
    back to 0 in ``step_size_down``. The scale is 1 (``"triangular"``), ``1 / 2 ** (cycle - 1)`` (``"triangular2"``),
    ``gamma ** step`` (``"exp_range"``), or ``scale_fn`` of the cycle (counted from 1) or of the step.

    Args:
        base_lr, max_lr: the two values.
        step_size_up, step_size_down: lengths of the rise and the fall in steps, above 0; equal by default.
        mode: see above.
        gamma: for ``"exp_range"``, at least 0.
        scale_fn: replaces the mode; inside a compiled function it must be traceable.
        scale_mode: what ``scale_fn`` receives, ``"cycle"`` or ``"iterations"``.

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks", 2017; torch's ``CyclicLR``.

    Example:
        >>> [cyclic(1.0, 2.0, step_size_up=2)(step) for step in range(6)]
        [1.0, 1.5, 2.0, 1.5, 1.0, 1.5]
    """

    base_lr: AnyNumber
    max_lr: AnyNumber
    step_size_up: float = 2000
    step_size_down: float | None = None
    mode: str = "triangular"
    gamma: NonNegative = 1.0
    scale_fn: StepFunction | None = None
    scale_mode: str = "cycle"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("step_size_up", self.step_size_up)
        if self.step_size_down is not None:
            check_positive("step_size_down", self.step_size_down)
        if self.scale_fn is None and self.mode not in MODES:
            raise ValueError(f"mode is invalid and scale_fn is None: mode must be one of {', '.join(MODES)}")
        if self.scale_fn is not None and not callable(self.scale_fn):
            raise TypeError(f"scale_fn must be a function, but it is {self.scale_fn!r}")
        check_choice("scale_mode", self.scale_mode, ("cycle", "iterations"))

    def evaluate(self, step: Numeric, xp: ModuleType) -> Numeric:
        low, high = number(self.base_lr), number(self.max_lr)
        height = self.height(step, xp)
        return low * (1 - height) + high * height

    def height(self, step: Numeric, xp: ModuleType) -> Numeric:
        """Compute the height of the scaled triangle, from 0 to 1."""
        up = self.step_size_up
        down = up if self.step_size_down is None else self.step_size_down
        cycle, height = triangle(step, up, down, xp)
        return height * scale(cycle, step, xp, self.mode, number(self.gamma), self.scale_fn, self.scale_mode)


def triangle(step: PyTree, up: float, down: float, xp: ModuleType) -> tuple[PyTree, PyTree]:
    """Return the cycle at ``step``, counted from 1, and the height of its triangle."""
    if xp is np:
        cycles, place = divmod(step, up + down)
        left = down - (place - up)
        height = place / up if place <= up else left / down if left > 0 else 0.0
        return float(cycles) + 1, height
    cycle, place = wrapped(step, up + down, xp)
    rise, fall = between(0.0, 1.0, place, up, xp), between(1.0, 0.0, place - up, down, xp)
    return cycle + 1, xp.where(place <= up, rise, fall)


def scale(
    cycle: PyTree, step: PyTree, xp: ModuleType, mode: str, gamma: PyTree, scale_fn: StepFunction | None, of: str
) -> PyTree:
    """Return the factor of a cycle's height; ``of`` is the ``scale_mode``."""
    if scale_fn is not None:
        return scale_fn(cycle if of == "cycle" else step)
    if mode == "exp_range":
        return exact_power(gamma, step, xp)
    return 0.5 ** (cycle - 1) if mode == "triangular2" else 1.0


class cyclic_momentum(Schedule):
    """Cycles from ``max_momentum`` down to ``base_momentum`` and back, opposite to a :class:`cyclic` learning rate.

    ``max_momentum - (max_momentum - base_momentum) * height * scale``

    Args:
        base_momentum, max_momentum: the two values.
        step_size_up, step_size_down, mode, gamma, scale_fn, scale_mode: as for :class:`cyclic`.

    Source: torch's ``CyclicLR``.

    Example:
        >>> [round(cyclic_momentum(0.8, 0.9, step_size_up=2)(step), 6) for step in range(5)]
        [0.9, 0.85, 0.8, 0.85, 0.9]
    """

    base_momentum: AnyNumber = 0.8
    max_momentum: AnyNumber = 0.9
    step_size_up: float = 2000
    step_size_down: float | None = None
    mode: str = "triangular"
    gamma: NonNegative = 1.0
    scale_fn: StepFunction | None = None
    scale_mode: str = "cycle"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._cycle()

    def _cycle(self) -> cyclic:
        gamma = 1.0 if self.mode != "exp_range" else number(self.gamma)
        shape = (self.step_size_up, self.step_size_down, self.mode, gamma, self.scale_fn, self.scale_mode)
        return cyclic(0.0, 1.0, *shape)

    def evaluate(self, step: Numeric, xp: ModuleType) -> Numeric:
        low, high = number(self.base_momentum), number(self.max_momentum)
        height = self._cycle().height(step, xp)
        return high * (1 - height) + low * height
