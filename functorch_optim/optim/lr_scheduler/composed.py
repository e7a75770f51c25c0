"""Schedulers of schedulers: one after the other, or all together; nested in each other without limit."""

import warnings
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from functorch_optim.optim.lr_scheduler.base import LRScheduler, reset_rates
from functorch_optim.optim.lr_scheduler.plateau import ReduceLROnPlateau
from functorch_optim.optim.optimizer import Optimizer


class _Composed(LRScheduler):
    """What both have in common: the schedulers they hold, of one optimizer."""

    _schedulers: list[LRScheduler]

    def _hold(self, schedulers: Sequence[LRScheduler], optimizer: Any) -> None:
        name = type(self).__name__
        for index, scheduler in enumerate(schedulers):
            if not hasattr(scheduler, "optimizer"):
                raise TypeError(f"{name} at index {index} should have `optimizer` as its attribute.")
            if optimizer is not scheduler.optimizer:
                raise ValueError(
                    f"{name} expects all schedulers to belong to the same optimizer, but got scheduler "
                    f"{type(scheduler).__name__} at index {index} has {scheduler.optimizer}, which is different from "
                    f"{type(optimizer).__name__}."
                )
        self._schedulers, self.optimizer = list(schedulers), optimizer

    def _step_one(self, scheduler: LRScheduler, metrics: Any) -> None:
        if isinstance(scheduler, ReduceLROnPlateau):
            if metrics is None:
                raise TypeError(f"{type(self).__name__} holds a ReduceLROnPlateau now: step(metrics) needs its metric")
            scheduler.step(metrics)
        elif isinstance(scheduler, SequentialLR | ChainedScheduler):
            scheduler.step(metrics)
        else:
            scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """What the scheduler remembers, and the states of those it holds."""
        state = super().state_dict()
        return {**state, "_schedulers": [scheduler.state_dict() for scheduler in self._schedulers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken."""
        held = state_dict["_schedulers"]
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "_schedulers"})
        for scheduler, state in zip(self._schedulers, held, strict=True):
            scheduler.load_state_dict(state)


class SequentialLR(_Composed):
    """One scheduler after the other: each begins at its epoch 0, from the initial learning rate, at its milestone.

    As :class:`functorch_optim.schedules.sequential`. Unlike torch's it may hold others of its kind, chained schedulers
    and a :class:`ReduceLROnPlateau` (then ``step(metrics)``), begin at a milestone of 0, and be resumed by
    ``last_epoch``.

    Args:
        optimizer: the optimizer.
        schedulers: the schedulers, made for this optimizer.
        milestones: epochs in ascending order, one fewer than there are schedulers.
        last_epoch: -1 to begin; else the epoch to continue after, to which all steps are taken again.

    Raises:
        ValueError, TypeError: the schedulers or their number do not fit, with torch's message.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> optimizer = optim.SGD([jnp.zeros(1)], lr=1.0)
        >>> first = optim.lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=2)
        >>> then = optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.1)
        >>> scheduler, rates = SequentialLR(optimizer, [first, then], milestones=[2]), []
        >>> for _ in range(4):
        ...     rates.append(round(optimizer.param_groups[0]["lr"], 6))
        ...     optimizer.step([jnp.ones(1)])
        ...     scheduler.step()
        >>> rates
        [0.5, 0.5, 1.0, 0.1]
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int], last_epoch: int = -1
    ) -> None:
        if len(schedulers) < 1:
            raise ValueError(f"{type(self).__name__} expects at least one scheduler, but got no scheduler.")
        self._hold(schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                "Sequential Schedulers expects number of schedulers provided to be one more than the number of "
                f"milestone points, but got number of schedulers {len(schedulers)} and the number of milestones to be "
                f"equal to {len(milestones)}"
            )
        self._milestones = list(milestones)
        self.last_epoch = 0
        self._last_lr: list[float] = []
        self._begin()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the order of calls: these steps were taken before
            for _ in range(last_epoch + 1):
                self.step()

    def _active(self) -> int:
        return bisect_right(self._milestones, self.last_epoch)

    def _begin(self, reset: bool = True) -> None:
        if reset:
            reset_rates(self.optimizer)
        self.last_epoch = 0
        active = self._schedulers[self._active()]
        active._begin(reset)
        self._last_lr = self._lrs()

    def step(self, metrics: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] as torch
        """Go to the next epoch; ``metrics`` is for a :class:`ReduceLROnPlateau` whose turn it is."""
        self.last_epoch += 1
        index = self._active()
        if index > 0 and self._milestones[index - 1] == self.last_epoch:
            self._schedulers[index]._begin()
        else:
            self._step_one(self._schedulers[index], metrics)
        self._last_lr = self._lrs()


class ChainedScheduler(_Composed):
    """Steps several schedulers together, whose factors multiply.

    Args:
        schedulers: the schedulers, made for one optimizer.
        optimizer: the optimizer, that of the first scheduler by default.

    Raises:
        ValueError, TypeError: the schedulers do not fit, with torch's message.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> optimizer = optim.SGD([jnp.zeros(1)], lr=1.0)
        >>> one = optim.lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=2)
        >>> two = optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.1)
        >>> scheduler = ChainedScheduler([one, two])
        >>> optimizer.step([jnp.ones(1)])
        >>> scheduler.step()
        >>> round(scheduler.get_last_lr()[0], 6)
        0.05
    """

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None) -> None:
        if len(schedulers) < 1:
            raise ValueError(
                f"{type(self).__name__} expects at least one scheduler to be chained, but got no scheduler."
            )
        self._hold(schedulers, optimizer or getattr(schedulers[0], "optimizer", None))
        self._last_lr = self._lrs()

    def step(self, metrics: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] as torch
        """Step every scheduler; ``metrics`` is for a :class:`ReduceLROnPlateau` among them."""
        for scheduler in self._schedulers:
            self._step_one(scheduler, metrics)
        self._last_lr = self._lrs()

    def _begin(self, reset: bool = True) -> None:
        if reset:
            reset_rates(self.optimizer)
        for scheduler in self._schedulers:
            scheduler._begin(reset=False)
        self._last_lr = self._lrs()
