"""Warm-ups, and schedules that start with one."""

from types import ModuleType

from functorch_optim.hyperparams import AnyNumber, as_count
from functorch_optim.schedules.combinators import Composite, SubSchedule, as_part, at
from functorch_optim.schedules.schedule import Schedule, as_float, between, fraction, number
from functorch_optim.typing import Numeric


class warmup(Composite):
    """Warms up to another schedule's first value, then runs that schedule from its step 0.

    ``schedule(0) * (start_factor + (1 - start_factor) * step / steps)`` before ``steps``, then
    ``schedule(step - steps)``.

    Args:
        schedule: what follows: a schedule, a function of the step, or a number.
        steps: length of the rise in steps, at least 0.
        start_factor: the factor at step 0.

    Example:
        >>> schedule = warmup(lambda step: 1.0 / (1 + step), steps=2)
        >>> [schedule(step) for step in range(5)]
        [0.0, 0.5, 1.0, 0.5, 0.3333333333333333]
    """

    schedule: SubSchedule
    steps: int
    start_factor: AnyNumber = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "schedule", as_part("schedule", self.schedule))
        as_count("steps", self.steps, 0)

    def evaluate(self, step: Numeric, xp: ModuleType) -> Numeric:
        factor = between(number(self.start_factor), 1.0, step, self.steps, xp)
        value = at(self.schedule, xp.maximum(step - self.steps, 0), xp)
        return xp.where(step < self.steps, value * factor, value)


class warmup_stable_decay(Schedule):
    """Rises linearly from 0 to ``peak``, holds it, falls linearly to ``end``, and stays there.

    ``peak * step / warmup_steps``; ``peak`` for ``stable_steps``; then
    ``peak + (end - peak) * (step - warmup_steps - stable_steps) / decay_steps``.

    Args:
        peak: the highest value.
        warmup_steps, stable_steps, decay_steps: the lengths of the phases in steps, at least 0.
        end: the final value.

    Source: Hu et al., "MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training Strategies",
    2024, with a linear decay.

    Example:
        >>> schedule = warmup_stable_decay(1.0, warmup_steps=2, stable_steps=2, decay_steps=4)
        >>> [schedule(step) for step in range(10)]
        [0.0, 0.5, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    peak: AnyNumber
    warmup_steps: int
    stable_steps: int
    decay_steps: int
    end: AnyNumber = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("warmup_steps", "stable_steps", "decay_steps"):
            as_count(name, getattr(self, name), 0)

    def evaluate(self, step: Numeric, xp: ModuleType) -> Numeric:
        peak, end = number(self.peak), number(self.end)
        rise = peak * fraction(step, max(self.warmup_steps, 1), xp)
        fall = between(peak, end, step - self.warmup_steps - self.stable_steps, self.decay_steps, xp)
        return xp.where(step < self.warmup_steps, rise, fall)


class inverse_sqrt(Schedule):
    """Rises linearly from 0 to ``peak`` in ``warmup_steps`` steps, then falls with the inverse square root of the step.

    ``peak * step / warmup_steps``, then ``peak * sqrt(warmup_steps / step)``; without a warm-up ``peak / sqrt(step)``,
    and ``peak`` at step 0.

    Args:
        peak: value at ``warmup_steps``.
        warmup_steps: length of the rise in steps, at least 0.

    Source: Vaswani et al., "Attention Is All You Need", 2017.

    Example:
        >>> [round(inverse_sqrt(1.0, warmup_steps=2)(step), 4) for step in (0, 1, 2, 8, 32)]
        [0.0, 0.5, 1.0, 0.5, 0.25]
    """

    peak: AnyNumber
    warmup_steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        as_count("warmup_steps", self.warmup_steps, 0)

    def evaluate(self, step: Numeric, xp: ModuleType) -> Numeric:
        length = max(self.warmup_steps, 1)
        rise = fraction(step, length, xp)
        fall = xp.sqrt(length / as_float(xp.maximum(step, length), xp))
        return number(self.peak) * xp.where(step < self.warmup_steps, rise, fall)
