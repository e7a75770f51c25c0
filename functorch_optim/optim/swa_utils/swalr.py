"""The learning rate of stochastic weight averaging."""

from typing import ClassVar

from functorch_optim import schedules
from functorch_optim.optim.lr_scheduler.base import LRScheduler
from functorch_optim.optim.lr_scheduler.writing import all_or_nothing, check_optimizer, per_group
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.schedules.schedule import between_numbers


class SWALR(LRScheduler):
    """Anneals every group's learning rate from its current value to ``swa_lr``, where it stays.

    The schedule is :class:`functorch_optim.schedules.swa_annealing`. It may start late: until its first step, another
    scheduler may move the learning rates.

    Args:
        optimizer: the optimizer.
        swa_lr: the final learning rate, or a list with one per group.
        anneal_epochs: number of epochs to get there, at least 0.
        anneal_strategy: ``"cos"`` or ``"linear"``.
        last_epoch: -1 to start.

    Raises:
        ValueError, TypeError: an option is out of range, or a list has the wrong length.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> optimizer = optim.SGD([jnp.zeros(1)], lr=1.0)
        >>> scheduler = SWALR(optimizer, swa_lr=0.5, anneal_epochs=2, anneal_strategy="linear")
        >>> rates = []
        >>> for _ in range(4):
        ...     optimizer.step([jnp.ones(1)])
        ...     scheduler.step()
        ...     rates += scheduler.get_last_lr()
        >>> rates
        [0.75, 0.5, 0.5, 0.5]
    """

    _goes_on: ClassVar[bool] = True
    _written: ClassVar[tuple[str, ...]] = ("lr", "swa_lr")
    # Its options are needed to recover the rates that it started from, so ``keep`` cannot change them.
    _progress: ClassVar[frozenset[str]] = LRScheduler._progress | {"anneal_epochs", "_anneal_strategy"}

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float | list[float],
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer, last_epoch)
        self._anneal_strategy = anneal_strategy
        self.anneal_epochs = anneal_epochs
        self._check_options()
        values = per_group("swa_lr", optimizer, swa_lr)
        with all_or_nothing(optimizer.param_groups):
            for group, value in zip(optimizer.param_groups, values, strict=True):
                group["swa_lr"] = value
            super().__init__(optimizer, last_epoch)
        self._step_count = self.last_epoch + 1  # also when resumed by last_epoch; torch then restarts the annealing

    def _check_options(self) -> None:
        schedules.swa_annealing(1.0, 1.0, self.anneal_epochs, self._anneal_strategy)

    def _share(self, step: int) -> float:
        """Return the share of ``swa_lr`` in the learning rate after ``step`` steps."""
        return between_numbers(0.0, 1.0, max(0, step), self.anneal_epochs, self._anneal_strategy)

    def get_lr(self) -> list[float]:
        """Remove the last share of ``swa_lr`` from each current rate, and mix in the new share."""
        step, model = self._step_count - 1, self.optimizer.param_groups[0]  # groups added later take its swa_lr
        before, share = self._share(step - 1), self._share(step)
        rates = []
        for index, (lr, group) in enumerate(zip(self._lrs(), self.optimizer.param_groups, strict=True)):
            last = group.setdefault("swa_lr", model["swa_lr"])
            if self._is_initial or index < len(self._last_lr):
                lr = last if before == 1 else (lr - before * last) / (1 - before)
            rates.append(last * share + lr * (1 - share))
        return rates

    def _closed(self, rates: list[float]) -> list[float]:
        share = self._share(self._step_count - 1)
        pairs = zip(self.optimizer.param_groups, rates, strict=True)
        return [group["swa_lr"] * share + rate * (1 - share) for group, rate in pairs]

    def _recalculate(self) -> None:
        """Restore the last rates: the options alone do not determine them."""
        self._put_back()

    def _begin(self, reset: bool = True) -> None:
        """Restart from the learning rates in the groups: there is nothing to anneal from the initial ones."""
        del reset
        self._step_count = 1
        super()._begin(reset=False)
