"""Schedulers that follow :mod:`functorch_optim.schedules`, in closed form or by torch's recursion."""

import warnings
from collections import Counter
from collections.abc import Sequence

from functorch_optim import schedules
from functorch_optim.optim.lr_scheduler.base import LRScheduler
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.options import value_at
from functorch_optim.schedules.cosine import next_cosine
from functorch_optim.schedules.decay import next_constant, next_linear, next_polynomial
from functorch_optim.schedules.schedule import check_milestones, check_number, number
from functorch_optim.typing import PyTree


class ScheduledLR(LRScheduler):
    """Base class of schedulers that name a schedule.

    As in torch, each value follows from the previous one: two schedulers on one optimizer compound, and a learning rate
    set by hand persists.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self._check_options()  # before anything is written
        super().__init__(optimizer, last_epoch)

    def _check_options(self) -> None:
        """Raise if an option is invalid, and hold the options as the schedule does: steps compute with them."""
        options = {name: number(value) for name, value in vars(self.schedule(1.0)).items()}
        for name in options:
            if hasattr(self, name):
                setattr(self, name, options[name])

    def schedule(self, base: float) -> PyTree:
        """Return the schedule with this base learning rate."""
        raise NotImplementedError(f"{type(self).__name__} does not define schedule")  # abstract: every subclass does

    def get_lr(self) -> list[float]:
        if not self._get_lr_called_within_step:
            warnings.warn(
                "To get the last learning rate computed by the scheduler, please use `get_last_lr()`.",
                UserWarning,
                stacklevel=2,
            )
        if self._is_initial:  # resumed at a later epoch: the groups hold that epoch's value
            return [self.schedule(lr)(0) for lr in self._lrs()] if self.last_epoch == 0 else self._lrs()
        rates: list[float] = []
        for index, group in enumerate(self.optimizer.param_groups):
            lr = group["lr"]
            rates.append(self._next(lr if type(lr) is float else value_at(lr, 0), self.base_lrs[index]))
        return rates

    def _next(self, lr: PyTree, base: PyTree) -> PyTree:
        """Compute the rate at ``last_epoch`` from the previous one and the base rate, as the schedule's ``next``."""
        raise NotImplementedError(f"{type(self).__name__} does not define _next")  # abstract: every recursion does

    def _get_closed_form_lr(self) -> list[float]:
        return self._closed(self.base_lrs)

    def _closed(self, rates: list[float]) -> list[float]:
        return [self.schedule(rate)(self.last_epoch) for rate in rates]


class _FactorLR(ScheduledLR):
    """Base class of schedulers that scale the base learning rate.

    A group added midway starts at its share for that epoch; torch's recursion from the given rate would lead elsewhere.
    """

    def get_lr(self) -> list[float]:
        values, known = ScheduledLR.get_lr(self), len(self._last_lr)
        if self._is_initial or known == len(values):
            return values
        return values[:known] + self._closed(self._lrs()[known:])


class StepLR(ScheduledLR):
    """Multiplies every group's learning rate by ``gamma`` every ``step_size`` epochs.

    The schedule is :class:`functorch_optim.schedules.step_decay`. Unlike torch, it does not multiply again when resumed
    with ``last_epoch`` at a multiple of ``step_size``.

    Args:
        optimizer: the optimizer.
        step_size: number of epochs between reductions.
        gamma: the factor.
        last_epoch: -1 to start.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> optimizer = optim.SGD([jnp.zeros(1)], lr=1.0)
        >>> scheduler = StepLR(optimizer, step_size=2, gamma=0.5)
        >>> rates = []
        >>> for epoch in range(5):
        ...     rates.append(scheduler.get_last_lr()[0])
        ...     optimizer.step([jnp.ones(1)])
        ...     scheduler.step()
        >>> rates
        [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def schedule(self, base: float) -> schedules.step_decay:
        return schedules.step_decay(base, self.step_size, self.gamma)

    def _next(self, lr: PyTree, base: PyTree) -> PyTree:
        return lr * self.gamma if self.last_epoch % self.step_size == 0 else lr


class MultiStepLR(ScheduledLR):
    """Multiplies every group's learning rate by ``gamma`` at each milestone; one listed twice multiplies twice.

    The schedule is :class:`functorch_optim.schedules.multi_step_decay`.

    Args:
        optimizer: the optimizer.
        milestones: epochs.
        gamma: the factor.
        last_epoch: -1 to start.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> scheduler = MultiStepLR(optim.SGD([jnp.zeros(1)], lr=1.0), milestones=[0, 3], gamma=0.5)
        >>> scheduler.get_last_lr()
        [0.5]
    """

    def __init__(
        self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.milestones: Counter[int] = milestones  # pyright: ignore[reportAttributeAccessIssue] counted by the check
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _check_options(self) -> None:
        check_milestones(self.milestones)
        self.milestones = Counter(self.milestones)
        super()._check_options()
        self.milestones = Counter(self.milestones)

    def schedule(self, base: float) -> schedules.multi_step_decay:
        return schedules.multi_step_decay(base, tuple(self.milestones.elements()), self.gamma)

    def _next(self, lr: PyTree, base: PyTree) -> PyTree:
        return lr * self.gamma ** self.milestones.get(self.last_epoch, 0)


class ConstantLR(_FactorLR):
    """Multiplies every group's learning rate by ``factor`` until epoch ``total_iters``.

    The schedule is :class:`functorch_optim.schedules.constant_factor`. After a factor of 0 the rates return to the
    initial ones (torch divides by zero); to combine it with other schedulers then, use a :class:`ChainedScheduler`.

    Args:
        optimizer: the optimizer.
        factor: from 0 to 1.
        total_iters: number of epochs to apply the factor.
        last_epoch: -1 to start.

    Raises:
        ValueError: ``factor`` is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> ConstantLR(optim.SGD([jnp.zeros(1)], lr=1.0), factor=0.5).get_last_lr()
        [0.5]
    """

    def __init__(
        self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1
    ) -> None:
        self.factor = factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def _check_options(self) -> None:
        _check_factor("factor", self.factor, "Constant multiplicative factor expected to be between 0 and 1.")
        super()._check_options()

    def schedule(self, base: float) -> schedules.constant_factor:
        return schedules.constant_factor(base, self.factor, self.total_iters)

    def _next(self, lr: PyTree, base: PyTree) -> PyTree:
        return next_constant(lr, self.last_epoch, base, self.factor, self.total_iters)


def _check_factor(name: str, factor: float, message: str) -> None:
    check_number(name, factor)
    if factor > 1.0 or factor < 0:
        raise ValueError(message)


class LinearLR(_FactorLR):
    """Multiplies every group's learning rate by a factor that changes linearly over ``total_iters`` epochs.

    The schedule is :class:`functorch_optim.schedules.linear`. After a start of 0, which torch rejects, the rates come
    from the initial ones; to combine it with other schedulers then, use a :class:`ChainedScheduler`.

    Args:
        optimizer: the optimizer.
        start_factor: the factor at epoch 0, from 0 to 1.
        end_factor: the factor from ``total_iters`` on, from 0 to 1.
        total_iters: number of epochs.
        last_epoch: -1 to start.

    Raises:
        ValueError: a factor is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> LinearLR(optim.SGD([jnp.zeros(1)], lr=1.0), start_factor=0.5).get_last_lr()
        [0.5]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def _check_options(self) -> None:
        start = "Starting multiplicative factor expected to be greater than 0 and less or equal to 1, or 0."
        _check_factor("start_factor", self.start_factor, start)
        _check_factor("end_factor", self.end_factor, "Ending multiplicative factor expected to be between 0 and 1.")
        super()._check_options()

    def schedule(self, base: float) -> schedules.linear:
        return schedules.linear(base, self.start_factor, self.end_factor, self.total_iters)

    def _next(self, lr: PyTree, base: PyTree) -> PyTree:
        return next_linear(lr, self.last_epoch, base, self.start_factor, self.end_factor, self.total_iters)


class ExponentialLR(ScheduledLR):
    """Multiplies every group's learning rate by ``gamma`` every epoch.

    The schedule is :class:`functorch_optim.schedules.exponential_decay`.

    Args:
        optimizer: the optimizer.
        gamma: the factor.
        last_epoch: -1 to start.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> ExponentialLR(optim.SGD([jnp.zeros(1)], lr=1.0), gamma=0.5).get_last_lr()
        [1.0]
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def schedule(self, base: float) -> schedules.exponential_decay:
        return schedules.exponential_decay(base, self.gamma)

    def _next(self, lr: PyTree, base: PyTree) -> PyTree:
        return lr * self.gamma


class PolynomialLR(ScheduledLR):
    """Lowers every group's learning rate to 0 in ``total_iters`` epochs as a power of the remaining fraction.

    The schedule is :class:`functorch_optim.schedules.polynomial_decay`.

    Args:
        optimizer: the optimizer.
        total_iters: number of epochs.
        power: the exponent.
        last_epoch: -1 to start.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> PolynomialLR(optim.SGD([jnp.zeros(1)], lr=1.0), total_iters=2).get_last_lr()
        [1.0]
    """

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        self.total_iters = total_iters
        self.power = power
        super().__init__(optimizer, last_epoch)

    def schedule(self, base: float) -> schedules.polynomial_decay:
        return schedules.polynomial_decay(base, self.total_iters, self.power)

    def _next(self, lr: PyTree, base: PyTree) -> PyTree:
        return next_polynomial(lr, self.last_epoch, self.total_iters, self.power)


class CosineAnnealingLR(ScheduledLR):
    """Lowers every group's learning rate to ``eta_min`` in ``T_max`` epochs along half a cosine, then raises it.

    The schedule is :class:`functorch_optim.schedules.cosine_annealing`.

    Args:
        optimizer: the optimizer.
        T_max: number of epochs down to ``eta_min``.
        eta_min: the lowest learning rate.
        last_epoch: -1 to start.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> optimizer = optim.SGD([jnp.zeros(1)], lr=1.0)
        >>> scheduler = CosineAnnealingLR(optimizer, T_max=4, eta_min=0.1)
        >>> optimizer.step([jnp.ones(1)])
        >>> scheduler.step()
        >>> [round(lr, 6) for lr in scheduler.get_last_lr()]
        [0.868198]
    """

    def __init__(self, optimizer: Optimizer, T_max: float, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def _check_options(self) -> None:
        check_number("eta_min", self.eta_min, 0)
        super()._check_options()

    def schedule(self, base: float) -> schedules.cosine_annealing:
        return schedules.cosine_annealing(base, self.T_max, self.eta_min)

    def _next(self, lr: PyTree, base: PyTree) -> PyTree:
        return next_cosine(lr, self.last_epoch, base, self.T_max, self.eta_min)
