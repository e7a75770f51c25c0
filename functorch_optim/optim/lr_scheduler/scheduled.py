"""Schedulers that are the closed forms in :mod:`functorch_optim.schedules`, or torch's recursion through them."""

import warnings
from collections import Counter
from collections.abc import Sequence

from functorch_optim import schedules
from functorch_optim.optim.lr_scheduler.base import LRScheduler
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.schedules.schedule import check_milestones, check_number
from functorch_optim.typing import PyTree


class ScheduledLR(LRScheduler):
    """Base of the schedulers that name a schedule. The value follows from the one before, as in torch, so that two
    schedulers on one optimizer compound, and a learning rate set by hand is carried on."""

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self._check_options()  # before anything is written
        super().__init__(optimizer, last_epoch)

    def _check_options(self) -> None:
        self.schedule(1.0)  # raises where an option is not one

    def schedule(self, base: float) -> PyTree:
        """The schedule with this learning rate at its base."""
        raise NotImplementedError(f"{type(self).__name__} does not define schedule")  # abstract: every subclass does

    def get_lr(self) -> list[float]:
        if not self._get_lr_called_within_step:
            warnings.warn(
                "To get the last learning rate computed by the scheduler, please use `get_last_lr()`.",
                UserWarning,
                stacklevel=2,
            )
        if self._is_initial:  # resumed at a later epoch: that epoch's value is in the groups
            return [self.schedule(lr)(0) for lr in self._lrs()] if self.last_epoch == 0 else self._lrs()
        pairs = zip(self._lrs(), self.base_lrs, strict=True)
        return [self.schedule(base).next(lr, self.last_epoch) for lr, base in pairs]

    def _get_closed_form_lr(self) -> list[float]:
        return self._closed(self.base_lrs)

    def _closed(self, rates: list[float]) -> list[float]:
        return [self.schedule(rate)(self.last_epoch) for rate in rates]


class _FactorLR(ScheduledLR):
    """Base of the schedulers that lead to a share of the base learning rate. A group that joins under way is at that of
    its first epoch then; from the rate that it was given, torch's recursion would lead elsewhere."""

    def get_lr(self) -> list[float]:
        values, known = super().get_lr(), len(self._last_lr)
        return values if self._is_initial else values[:known] + self._closed(self._lrs()[known:])


class StepLR(ScheduledLR):
    """Multiplies the learning rate of every group by ``gamma`` every ``step_size`` epochs.

    The schedule is :class:`functorch_optim.schedules.step_decay`. Resumed with ``last_epoch`` at a multiple of
    ``step_size`` it does not multiply again, as torch does.

    Args:
        optimizer: the optimizer.
        step_size: number of epochs between two reductions.
        gamma: the factor.
        last_epoch: -1 to begin.

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


class MultiStepLR(ScheduledLR):
    """Multiplies the learning rate of every group by ``gamma`` at every milestone, at one listed twice twice.

    The schedule is :class:`functorch_optim.schedules.multi_step_decay`.

    Args:
        optimizer: the optimizer.
        milestones: epochs.
        gamma: the factor.
        last_epoch: -1 to begin.

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

    def schedule(self, base: float) -> schedules.multi_step_decay:
        return schedules.multi_step_decay(base, tuple(self.milestones.elements()), self.gamma)


class ConstantLR(_FactorLR):
    """Multiplies the learning rate of every group by ``factor`` until epoch ``total_iters``.

    The schedule is :class:`functorch_optim.schedules.constant_factor`. After a factor of 0 the rates come back from the
    initial ones (torch divides by zero); beside other schedulers hold it in a :class:`ChainedScheduler` then.

    Args:
        optimizer: the optimizer.
        factor: from 0 to 1.
        total_iters: number of epochs with the factor.
        last_epoch: -1 to begin.

    Raises:
        ValueError: ``factor`` outside its range.

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


def _check_factor(name: str, factor: float, message: str) -> None:
    check_number(name, factor)
    if factor > 1.0 or factor < 0:
        raise ValueError(message)


class LinearLR(_FactorLR):
    """Multiplies the learning rate of every group by a factor that changes linearly in ``total_iters`` epochs.

    The schedule is :class:`functorch_optim.schedules.linear`. After a start of 0, which torch refuses, the rates come
    from the initial ones; beside other schedulers hold it in a :class:`ChainedScheduler` then.

    Args:
        optimizer: the optimizer.
        start_factor: the factor at epoch 0, from 0 to 1.
        end_factor: the factor from ``total_iters`` on, from 0 to 1.
        total_iters: number of epochs.
        last_epoch: -1 to begin.

    Raises:
        ValueError: a factor outside its range.

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


class ExponentialLR(ScheduledLR):
    """Multiplies the learning rate of every group by ``gamma`` every epoch.

    The schedule is :class:`functorch_optim.schedules.exponential_decay`.

    Args:
        optimizer: the optimizer.
        gamma: the factor.
        last_epoch: -1 to begin.

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


class PolynomialLR(ScheduledLR):
    """Lowers the learning rate of every group to 0 in ``total_iters`` epochs along a power of what is left.

    The schedule is :class:`functorch_optim.schedules.polynomial_decay`.

    Args:
        optimizer: the optimizer.
        total_iters: number of epochs.
        power: the exponent.
        last_epoch: -1 to begin.

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


class CosineAnnealingLR(ScheduledLR):
    """Lowers the learning rate of every group to ``eta_min`` in ``T_max`` epochs along half a cosine, then raises it.

    The schedule is :class:`functorch_optim.schedules.cosine_annealing`.

    Args:
        optimizer: the optimizer.
        T_max: number of epochs down to ``eta_min``.
        eta_min: the lowest learning rate.
        last_epoch: -1 to begin.

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
