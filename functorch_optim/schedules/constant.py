"""A constant schedule."""

from types import ModuleType

from functorch_optim.hyperparams import AnyNumber
from functorch_optim.schedules.schedule import Schedule, number
from functorch_optim.typing import Numeric


class constant(Schedule):
    """The same value at every step.

    Args:
        value: a Python number or a scalar array.

    Example:
        >>> constant(0.1)(1000)
        0.1
    """

    value: AnyNumber

    def evaluate(self, step: Numeric, xp: ModuleType) -> Numeric:
        del step, xp
        return number(self.value)
