"""Cosine annealing with warm restarts."""

import math
from typing import ClassVar

from functorch_optim import schedules
from functorch_optim.optim.lr_scheduler.base import LRScheduler
from functorch_optim.optim.lr_scheduler.writing import check_epoch
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.schedules.schedule import check_number


class CosineAnnealingWarmRestarts(LRScheduler):
    """Lowers every group's learning rate to ``eta_min`` along half a cosine, then restarts.

    The schedule is :class:`functorch_optim.schedules.cosine_annealing_warm_restarts`. ``step(epoch)`` accepts
    fractions; ``step()`` continues from them.

    Args:
        optimizer: the optimizer.
        T_0: length of the first period, a positive integer.
        T_mult: ratio of each period's length to the last, an integer of at least 1.
        eta_min: the lowest learning rate.
        last_epoch: -1 to start.

    Raises:
        ValueError: an option is out of range, with torch's message if torch rejects it too; ``step`` gets a negative
            epoch.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> scheduler = CosineAnnealingWarmRestarts(optim.SGD([jnp.zeros(1)], lr=1.0), T_0=4)
        >>> scheduler.step(5.0)
        >>> round(scheduler.get_last_lr()[0], 6)
        0.853553
    """

    _progress: ClassVar[frozenset[str]] = LRScheduler._progress | {"T_cur", "T_i"}

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        self.T_0 = T_0
        self.T_i = T_0
        self.T_mult = T_mult
        self.eta_min = eta_min
        self.T_cur: float = last_epoch
        self._check_options()
        super().__init__(optimizer, last_epoch)

    def _check_options(self) -> None:
        if not isinstance(self.eta_min, float | int):
            raise ValueError(f"Expected float or int eta_min, but got {self.eta_min} of type {type(self.eta_min)}")
        check_number("eta_min", self.eta_min, 0)
        check_number("T_cur", self.T_cur)
        schedules.cosine_annealing_warm_restarts(1.0, self.T_0, self.T_mult)
        schedules.cosine_annealing_warm_restarts(1.0, self.T_i, self.T_mult)

    def get_lr(self) -> list[float]:
        return self._between(self.base_lrs)

    def _between(self, rates: list[float]) -> list[float]:
        low, share = self.eta_min, (1 + math.cos(math.pi * self.T_cur / self.T_i)) / 2
        return [low + (rate - low) * share for rate in rates]

    def _advance(self, given: float | None) -> None:
        check_epoch(given)
        if given is None and self.last_epoch >= 0:
            self._go_on()
        else:
            self._go_to(max(self.last_epoch + 1, 0) if given is None else given)
        self._write(self.get_lr)

    def _go_on(self) -> None:
        self.T_cur += 1
        self.last_epoch += 1
        if self.T_cur >= self.T_i:
            self.T_cur = self.T_cur % self.T_i
            self.T_i = self.T_i * self.T_mult

    def _go_to(self, epoch: float) -> None:
        schedule = schedules.cosine_annealing_warm_restarts(1.0, self.T_0, self.T_mult)
        if self.T_mult == 1:
            self.T_cur, self.T_i = epoch % self.T_0, self.T_0
        else:
            start = schedule.starts(epoch)[-1]
            self.T_cur, self.T_i = epoch - start, self.T_0 + start * (self.T_mult - 1)
        self.last_epoch = math.floor(epoch)

    def _closed(self, rates: list[float]) -> list[float]:
        self._go_to(self.last_epoch + self.T_cur % 1)
        return self._between(rates)

    def _begin(self, reset: bool = True) -> None:
        self.T_cur, self.T_i = 0, self.T_0
        super()._begin(reset)
