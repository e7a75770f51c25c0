"""Schedulers of schedulers: in sequence, or all together; they nest without limit."""

import warnings
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from functorch_optim.hyperparams import as_count
from functorch_optim.optim.lr_scheduler.base import LRScheduler
from functorch_optim.optim.lr_scheduler.plateau import ReduceLROnPlateau
from functorch_optim.optim.lr_scheduler.writing import all_or_nothing, reset_rates, restore
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.regrouping import Sources
from functorch_optim.typing import Numeric, PyTree


class _Composed(LRScheduler):
    """Base class of schedulers that hold other schedulers of one optimizer."""

    _schedulers: list[LRScheduler]
    _progress: ClassVar[frozenset[str]] = LRScheduler._progress | {"_schedulers"}

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
        self.__dict__ = dict(self.__dict__)  # faster, see the base

    def _step_one(self, scheduler: LRScheduler, metrics: Any) -> None:
        if getattr(scheduler.step, "__func__", None) is LRScheduler.step:
            scheduler._advance(None)  # an error is undone by our own step
        elif isinstance(scheduler, ReduceLROnPlateau):
            if metrics is None:
                raise TypeError(f"{type(self).__name__} holds a ReduceLROnPlateau now: step(metrics) needs its metric")
            scheduler.step(metrics)
        elif isinstance(scheduler, _Composed):
            scheduler.step(metrics)
        else:
            scheduler.step()

    def state_dict(self) -> dict[str, PyTree]:
        """Return a copy of the scheduler's state, with the states of the schedulers that it holds."""
        state = super().state_dict()
        return {**state, "_schedulers": [scheduler.state_dict() for scheduler in self._schedulers]}

    def _attributes(self) -> list[dict[str, PyTree]]:
        lives = [self.__dict__]
        for scheduler in self._schedulers:
            lives += scheduler._attributes()
        return lives

    def _take(self, state_dict: Mapping[str, PyTree], keep: frozenset[str]) -> set[str]:
        found, states = super()._take(state_dict, keep), state_dict["_schedulers"]
        if len(states) != len(self._schedulers):
            raise ValueError(f"the state is of {len(states)} schedulers, but here are {len(self._schedulers)}")
        for scheduler, state in zip(self._schedulers, states, strict=True):
            found |= scheduler._take(state, keep)
        return found

    def _update(self, values: dict[str, PyTree]) -> None:
        super()._update({key: value for key, value in values.items() if key != "_schedulers"})

    def _regroup(self, sources: Sources) -> None:
        for scheduler in self._schedulers:
            scheduler._regroup(sources)
        super()._regroup(sources)

    def _put_back(self) -> None:
        for scheduler in self._in_turn():
            scheduler._put_back()
        super()._put_back()

    def _holds_a_plateau(self) -> bool:
        return any(
            isinstance(each, ReduceLROnPlateau) or (isinstance(each, _Composed) and each._holds_a_plateau())
            for each in self._schedulers
        )

    def _in_turn(self) -> Sequence[LRScheduler]:
        """Return the held schedulers; the one that wrote last comes last."""
        return self._schedulers

    def _recalculate(self) -> None:
        if self._holds_a_plateau():
            raise ValueError("keep needs rates that follow from the options, but a ReduceLROnPlateau is held here")
        for scheduler in self._in_turn():
            scheduler._recalculate()
        for group, lr in zip(self.optimizer.param_groups, self._closed(self._initial()), strict=True):
            group["lr"] = lr
        self._last_lr = self._lrs()

    def _initial(self) -> list[float]:
        return [group.get("initial_lr", lr) for group, lr in zip(self.optimizer.param_groups, self._lrs(), strict=True)]


class SequentialLR(_Composed):
    """Runs schedulers in sequence: at its milestone each starts at its epoch 0 from the initial learning rate.

    The schedule is :class:`functorch_optim.schedules.sequential`. Unlike torch's, it may hold others of its kind,
    chained schedulers and a :class:`ReduceLROnPlateau` (then call ``step(metrics)``), have a milestone of 0, and resume
    by ``last_epoch``.

    Args:
        optimizer: the optimizer.
        schedulers: the schedulers, created for this optimizer.
        milestones: ascending epochs, at least 0, one fewer than schedulers.
        last_epoch: -1 to start; otherwise the epoch to continue after, reached by repeating all steps.

    Raises:
        ValueError, TypeError: the schedulers or their number do not match, with torch's message.

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
        as_count("last_epoch", last_epoch, -1)
        self._milestones = list(milestones)
        self._check_options()
        self.last_epoch = 0
        self._last_lr: list[float] = []
        with all_or_nothing([*self._attributes(), *optimizer.param_groups]), warnings.catch_warnings():
            self._begin()
            warnings.simplefilter("ignore")  # about the order of calls: these steps repeat earlier ones
            for _ in range(last_epoch + 1):
                self.step()

    def _check_options(self) -> None:
        for milestone in self._milestones:
            as_count("a milestone", milestone, 0)
        if len(self._milestones) != len(self._schedulers) - 1 or self._milestones != sorted(self._milestones):
            raise ValueError(
                f"milestones must ascend, one fewer than the {len(self._schedulers)} schedulers, but they are "
                f"{self._milestones}"
            )

    def _active(self) -> int:
        return bisect_right(self._milestones, self.last_epoch)

    def _begin(self, reset: bool = True) -> None:
        if reset:
            reset_rates(self.optimizer)
        self.last_epoch = 0
        active = self._schedulers[self._active()]
        active._begin(reset)
        self._last_lr = self._lrs()

    def step(self, metrics: Numeric | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] as torch
        """Advance to the next epoch; ``metrics`` goes to the active scheduler if it is a :class:`ReduceLROnPlateau`."""
        held = self.last_epoch, self._last_lr  # faster than the base's step, which copies all that is held here
        epoch = self.last_epoch + 1
        index = bisect_right(self._milestones, epoch)
        active = self._schedulers[index]
        lives = active._attributes()  # the others do not change
        for group in self.optimizer.param_groups:
            lives.append(group)
        before: list[dict[str, PyTree]] = []
        for live in lives:
            before.append(live.copy())
        try:
            self.last_epoch = epoch
            if index > 0 and self._milestones[index - 1] == epoch:
                active._begin()
            else:
                self._step_one(active, metrics)
            self._last_lr = active._last_lr
        except BaseException:
            self.last_epoch, self._last_lr = held
            restore(lives, before)
            raise
        self.optimizer._loaded = None

    def _in_turn(self) -> Sequence[LRScheduler]:
        active = self._active()
        return [*self._schedulers[:active], *self._schedulers[active + 1 :], self._schedulers[active]]

    def _closed(self, rates: list[float]) -> list[float]:
        active = self._schedulers[self._active()]
        if active._goes_on and self._active():  # from where the previous one ended
            rates = self._schedulers[self._active() - 1]._closed(rates)
        return active._closed(rates)


class ChainedScheduler(_Composed):
    """Steps several schedulers together; their factors multiply.

    Args:
        schedulers: the schedulers, created for one optimizer.
        optimizer: the optimizer; by default the first scheduler's.

    Raises:
        ValueError, TypeError: the schedulers do not match, with torch's message.

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
        """Step every scheduler; ``metrics`` goes to each :class:`ReduceLROnPlateau` among them."""
        LRScheduler.step(self, metrics)

    def _advance(self, given: Any) -> None:
        lost = self._zeros()
        for scheduler in self._schedulers:
            self._step_one(scheduler, given)
        if lost:
            due = self._closed(self._initial())
            for index in lost:
                self.optimizer.param_groups[index]["lr"] = due[index]
        self._last_lr = self._lrs()

    def _zeros(self) -> list[int]:
        """Return the groups whose rate the schedulers made zero, which hides what the next factors multiply."""
        rates = self._lrs()
        if 0.0 not in rates:
            return []
        pairs = zip(rates, self._closed(self._initial()), strict=True)
        return [index for index, (rate, due) in enumerate(pairs) if rate == due == 0.0]

    def _closed(self, rates: list[float]) -> list[float]:
        for scheduler in self._schedulers:
            rates = scheduler._closed(rates)
        return rates

    def _begin(self, reset: bool = True) -> None:
        if reset:
            reset_rates(self.optimizer)
        for scheduler in self._schedulers:
            scheduler._begin(reset=False)
        self._last_lr = self._lrs()
