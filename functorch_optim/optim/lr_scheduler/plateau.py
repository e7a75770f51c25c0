"""A learning rate that falls when a metric stops improving."""

import contextlib
import math
import warnings
from typing import ClassVar, SupportsFloat

import numpy as np

from functorch_optim.optim.lr_scheduler.base import EPOCH_WARNING, LRScheduler
from functorch_optim.optim.lr_scheduler.writing import check_epoch, check_optimizer, reset_rates
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.processes import check_same_metric
from functorch_optim.schedules.plateau import check_plateau, is_better
from functorch_optim.schedules.schedule import check_number
from functorch_optim.typing import PyTree


class ReduceLROnPlateau(LRScheduler):
    """Multiplies every group's learning rate by ``factor`` when a metric has not improved for a while.

    :class:`functorch_optim.schedules.reduce_on_plateau` does the same inside a compiled function. Unlike in torch, a
    constant negative metric does not count as improving.

    Args:
        optimizer: the optimizer.
        mode: ``"min"`` or ``"max"``.
        factor: above 0 and below 1.
        patience: number of steps without improvement to tolerate.
        threshold, threshold_mode: by how much a metric must improve: ``"rel"``, relative to the best, or ``"abs"``.
        cooldown: number of steps after a reduction in which none counts as bad.
        min_lr: the lowest value, or a list with one value per group.
        eps: skip reductions no larger than this.

    Raises:
        ValueError, TypeError: an option is out of range, with torch's message if torch rejects it too.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> scheduler = ReduceLROnPlateau(optim.SGD([jnp.zeros(1)], lr=1.0), factor=0.5, patience=0)
        >>> for loss in (3.0, 2.0, 2.0):
        ...     scheduler.step(loss)
        >>> scheduler.get_last_lr()
        [0.5]
    """

    _of_versions: ClassVar[frozenset[str]] = LRScheduler._of_versions | {"default_min_lr"}
    _per_group: ClassVar[frozenset[str]] = LRScheduler._per_group | {"min_lrs"}
    _progress: ClassVar[frozenset[str]] = LRScheduler._progress | {"best", "num_bad_epochs", "cooldown_counter"}

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | list[float] = 0,
        eps: float = 1e-8,
    ) -> None:
        check_optimizer(optimizer)
        count, several = len(optimizer.param_groups), isinstance(min_lr, list | tuple)
        if isinstance(min_lr, list | tuple) and len(min_lr) != count:
            raise ValueError(f"expected {count} min_lrs, got {len(min_lr)}")
        self.factor = factor
        self.optimizer = optimizer
        self.default_min_lr = None if several else min_lr
        self.min_lrs: list[PyTree] = list(min_lr) if isinstance(min_lr, list | tuple) else [min_lr] * count
        self.patience = patience
        self.cooldown = cooldown
        self.eps = eps
        self.last_epoch = 0
        self._last_lr = self._lrs()
        self.mode_worse = math.inf if mode == "min" else -math.inf
        self.mode = mode
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self._reset()
        self._check_options()
        self.__dict__ = dict(self.__dict__)  # faster, see the base

    def _check_options(self) -> None:
        check_plateau(self)
        for lowest in self.min_lrs:
            check_number("min_lr", lowest, 0)

    def _reset(self) -> None:
        self.best = self.mode_worse
        self.cooldown_counter = 0
        self.num_bad_epochs = 0

    @property
    def in_cooldown(self) -> bool:
        """Whether the last reduction is so recent that no step counts as bad."""
        return self.cooldown_counter > 0

    def step(self, metrics: SupportsFloat, epoch: int | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] as torch
        """Take a metric into account; call it after every epoch."""
        try:
            best, bad, cooling = float(metrics), 0, self.cooldown_counter
        except (TypeError, ValueError) as error:
            who, kind = type(self).__name__, ValueError if isinstance(error, ValueError) else TypeError
            with contextlib.suppress(ValueError):  # the other processes wait for this one's metric
                check_same_metric(None, self.optimizer, f"{who}.step")
            raise kind(f"{who}.step: metrics must be a number, but it is {metrics!r:.100}") from error
        check_same_metric(best, self.optimizer, f"{type(self).__name__}.step")
        if epoch is None:
            epoch = self.last_epoch + 1
        else:
            check_epoch(epoch)
            warnings.warn(EPOCH_WARNING, UserWarning, stacklevel=2)
        if not is_better(best, self.best, self.mode, self.threshold, self.threshold_mode, np):
            best, bad = self.best, self.num_bad_epochs + 1
        if cooling > 0:
            cooling, bad = cooling - 1, 0
        rates = self._lrs()
        if bad > self.patience:
            bad, cooling, lower = 0, self.cooldown, self._lowered(rates)
            if lower != rates:
                LRScheduler.step(self, (epoch, best, lower))
                return
        after = epoch, best, bad, cooling, rates  # then one statement, which no signal interrupts
        self.last_epoch, self.best, self.num_bad_epochs, self.cooldown_counter, self._last_lr = after
        self.optimizer._loaded = None

    def _advance(self, given: tuple[int, float, list[float]]) -> None:
        """Make a step that lowers the rates; an error is undone by the base's ``step``."""
        self.last_epoch, self.best, lower = given
        self.num_bad_epochs, self.cooldown_counter = 0, self.cooldown
        self.min_lrs = self._lowest(len(lower))
        for group, before, after in zip(self.optimizer.param_groups, self._lrs(), lower, strict=True):
            if after != before:
                group["lr"] = after
        self._last_lr = self._lrs()

    def _lowered(self, rates: list[float]) -> list[float]:
        """Return the rates after a reduction; a rate that would fall by no more than ``eps`` stays."""
        lowest, lower = self._lowest(len(rates)), list[float]()
        for index, lr in enumerate(rates):
            new = max(lr * self.factor, lowest[index])
            lower.append(new if lr - new > self.eps else lr)
        return lower

    def _lowest(self, count: int) -> list[PyTree]:
        """Return the lowest rate of each of ``count`` groups."""
        if len(self.min_lrs) == count:
            return self.min_lrs
        if self.default_min_lr is None:
            raise RuntimeError(
                f"The number of param groups in the `optimizer` ({count}) differs from when `ReduceLROnPlateau` was "
                f"initialized ({len(self.min_lrs)}), usually due to a new param group being added to the optimizer. "
                "Please modify the `min_lrs` field to match the length of the `optimizer` param groups."
            )
        return [self.default_min_lr] * count

    def _begin(self, reset: bool = True) -> None:
        if reset:
            reset_rates(self.optimizer)
        self.last_epoch = 0
        self._reset()
        self._last_lr = self._lrs()

    def state_dict(self) -> dict[str, PyTree]:
        """Return a copy of the scheduler's state with torch's keys."""
        state = super().state_dict()
        return {**state, "_last_lr": self._last_lr + self._lrs()[len(self._last_lr) :]}  # added groups

    def _closed(self, rates: list[float]) -> list[float]:
        """Return the rates unchanged: how often they were reduced is unknown, and zero cannot be reduced."""
        return rates

    def _recalculate(self) -> None:
        """Restore the last rates: the options alone do not determine them."""
        self._put_back()
