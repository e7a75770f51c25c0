"""Combinators of schedules: in sequence, or multiplied; they nest without limit."""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim.hyperparams import AnyNumber, Scalar
from functorch_optim.schedules.decay import reached
from functorch_optim.schedules.schedule import Schedule, check_milestones, number
from functorch_optim.typing import Numeric, PyTree, StepFunction

SubSchedule = StepFunction | float


def at(schedule: SubSchedule, step: Any, xp: ModuleType) -> PyTree:
    """Evaluate a schedule, a function of the step, or a number at ``step``."""
    if isinstance(schedule, Schedule):
        return schedule.evaluate(step, xp)
    value = schedule(step) if callable(schedule) else number(schedule)
    return value if xp is np else jnp.broadcast_to(jnp.asarray(value, jnp.result_type(float)), jnp.shape(step))


def as_part(name: str, part: PyTree) -> PyTree:
    """Convert a part of a composition for storage: to a function of the step, or a number."""
    if callable(part) or isinstance(part, Scalar):
        return part
    if isinstance(part, jax.Array):
        return Scalar(part)
    if isinstance(part, bool) or not isinstance(part, int | float | np.number):
        raise TypeError(f"{name} must hold schedules, functions of the step or numbers, but it holds {part!r}")
    return float(part)


def _parts(schedules: object) -> tuple[SubSchedule, ...]:
    if not isinstance(schedules, list | tuple):
        raise TypeError(f"schedules must be a list of schedules, but it is {schedules!r}")
    return tuple(as_part("schedules", part) for part in schedules)


class Composite(Schedule):
    """Base class of schedules that hold other schedules."""

    def _holds_arrays(self) -> bool:
        parts: list[PyTree] = []
        for value in vars(self).values():
            parts += value if isinstance(value, tuple) else [value]
        return any(p._holds_arrays() if isinstance(p, Schedule) else isinstance(p, Scalar) for p in parts)


class sequential(Composite):
    """Runs schedules in sequence: at each milestone the next one starts from its own step 0.

    Args:
        schedules: schedules, functions of the step, or numbers.
        milestones: ascending steps, one fewer than schedules; a milestone of 0 skips the first schedule.

    Raises:
        ValueError: the numbers of schedules and milestones do not match, or the milestones do not ascend.

    Source: torch's ``SequentialLR``.

    Example:
        >>> import functorch_optim as fo
        >>> parts = [fo.schedules.linear(1.0, 0.5, total_iters=2), fo.schedules.exponential_decay(1.0, 0.1)]
        >>> [round(sequential(parts, milestones=[2])(step), 6) for step in range(5)]
        [0.5, 0.75, 1.0, 0.1, 0.01]
    """

    schedules: tuple[SubSchedule, ...]
    milestones: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_milestones(self.milestones)
        object.__setattr__(self, "schedules", _parts(self.schedules))
        object.__setattr__(self, "milestones", tuple(self.milestones))
        if len(self.schedules) != len(self.milestones) + 1:
            raise ValueError(
                "Sequential Schedulers expects number of schedulers provided to be one more than the number of "
                f"milestone points, but got number of schedulers {len(self.schedules)} and the number of milestones to "
                f"be equal to {len(self.milestones)}"
            )
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones must ascend, but they are {list(self.milestones)}")

    def evaluate(self, step: Numeric, xp: ModuleType) -> Numeric:
        index = reached(self.milestones, step, xp)
        starts = (0, *self.milestones)
        if xp is np:
            return at(self.schedules[int(index)], step - starts[int(index)], xp)
        value = at(self.schedules[0], step, xp)
        for number_of, (part, start) in enumerate(zip(self.schedules[1:], self.milestones, strict=True), 1):
            value = xp.where(index >= number_of, at(part, xp.maximum(step - start, 0), xp), value)
        return value


class chained(Composite):
    """Multiplies ``lr`` by every schedule; the schedules are factors, so create them with ``lr=1.0``.

    Args:
        lr: the value to scale.
        schedules: schedules, functions of the step, or numbers.

    Raises:
        ValueError: there are no schedules.

    Source: torch's ``ChainedScheduler`` of multiplicative schedulers.

    Example:
        >>> import functorch_optim as fo
        >>> factors = [fo.schedules.constant_factor(1.0, 0.5, total_iters=2), fo.schedules.exponential_decay(1.0, 0.1)]
        >>> [round(chained(2.0, factors)(step), 6) for step in range(4)]
        [1.0, 0.1, 0.02, 0.002]
    """

    lr: AnyNumber
    schedules: tuple[SubSchedule, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "schedules", _parts(self.schedules))
        if not self.schedules:
            raise ValueError("chained expects at least one schedule")

    def evaluate(self, step: Numeric, xp: ModuleType) -> Numeric:
        value = number(self.lr)
        for part in self.schedules:
            value = value * at(part, step, xp)
        return value
