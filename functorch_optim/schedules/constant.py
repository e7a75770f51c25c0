"""A value that does not change."""

from typing import Any

from functorch_optim.hyperparams import AnyNumber
from functorch_optim.schedules.schedule import Schedule, number


class constant(Schedule):
    """The same value at every step.

    Args:
        value: a Python number or a scalar array.

    Example:
        >>> constant(0.1)(1000)
        0.1
    """

    value: AnyNumber

    def evaluate(self, step: Any, xp: Any) -> Any:
        del step, xp
        return number(self.value)
