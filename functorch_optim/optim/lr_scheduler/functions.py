"""Schedulers defined by functions of the epoch."""

from collections.abc import Callable
from typing import Any, ClassVar

from functorch_optim import schedules
from functorch_optim.optim.lr_scheduler.base import LRScheduler
from functorch_optim.optim.lr_scheduler.writing import attributes_of, lengthened, saved_function
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.typing import PyTree


class _ByFunctions(LRScheduler):
    """Base class with one function per group; a state_dict saves the attributes of those that are objects."""

    _per_group: ClassVar[frozenset[str]] = LRScheduler._per_group | {"lr_lambdas"}

    def __init__(self, optimizer: Optimizer, lr_lambda: Any, last_epoch: int = -1) -> None:
        count = len(optimizer.param_groups) if isinstance(optimizer, Optimizer) else 1
        given = list(lr_lambda) if isinstance(lr_lambda, list | tuple) else [lr_lambda] * count
        if len(given) != count:
            raise ValueError(f"Expected {count} lr_lambdas, but got {len(given)}")
        for function in given:
            if not callable(function):
                raise TypeError(f"lr_lambda should be a function, but got {type(function).__name__}")
        self.lr_lambdas: list[Callable[[int], float]] = given
        super().__init__(optimizer, last_epoch)

    def _times_functions(self, rates: list[float]) -> list[float]:
        """Return each group's rate times its function's value."""
        functions, epoch = lengthened(self.lr_lambdas, len(rates)), self.last_epoch
        values: list[float] = []
        for index, rate in enumerate(rates):
            values.append(rate * functions[index](epoch))
        return values

    def state_dict(self) -> dict[str, PyTree]:
        """Return a copy of the scheduler's state, with the attributes of callable objects but no functions."""
        state = super().state_dict()
        del state["lr_lambdas"]
        return {**state, "lr_lambdas": [saved_function(function) for function in self.lr_lambdas]}

    def _attributes(self) -> list[dict[str, PyTree]]:
        return [self.__dict__, *attributes_of(self.lr_lambdas)]

    def _update(self, values: dict[str, PyTree]) -> None:
        """Keep the present functions; callable objects take the saved attributes."""
        for function, attributes in zip(self.lr_lambdas, values.pop("lr_lambdas", []), strict=False):
            if attributes is not None:
                vars(function).update(attributes)
        super()._update(values)


class LambdaLR(_ByFunctions):
    """Sets every group's learning rate to its base rate times a function of the epoch.

    A function is already a schedule: as a group's option it needs no scheduler.

    Args:
        optimizer: the optimizer.
        lr_lambda: the function, or a list with one per group.
        last_epoch: -1 to start.

    Raises:
        ValueError: the numbers of functions and groups differ; TypeError: one is not a function.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> LambdaLR(optim.SGD([jnp.zeros(1)], lr=2.0), lambda epoch: 0.5**(epoch + 1)).get_last_lr()
        [1.0]
    """

    def get_lr(self) -> list[float]:
        return self._times_functions(self.base_lrs)


class MultiplicativeLR(_ByFunctions):
    """Multiplies every group's learning rate by a function of the epoch, every epoch.

    Args:
        optimizer: the optimizer.
        lr_lambda: the function, or a list with one per group.
        last_epoch: -1 to start.

    Raises:
        ValueError: the numbers of functions and groups differ; TypeError: one is not a function.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> MultiplicativeLR(optim.SGD([jnp.zeros(1)], lr=2.0), lambda epoch: 0.5).get_last_lr()
        [2.0]
    """

    def get_lr(self) -> list[float]:
        return self._lrs() if self._is_initial else self._times_functions(self._lrs())

    def _closed(self, rates: list[float]) -> list[float]:
        pairs = zip(rates, lengthened(self.lr_lambdas, len(rates)), strict=False)
        return [schedules.multiplicative(rate, function)(self.last_epoch) for rate, function in pairs]
