"""Schedulers that cycle the learning rate and, inversely, the momentum."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from functorch_optim import schedules
from functorch_optim.hyperparams import as_integer
from functorch_optim.optim.lr_scheduler.base import LRScheduler
from functorch_optim.optim.lr_scheduler.writing import (
    all_or_nothing,
    attributes_of,
    check_optimizer,
    lengthened,
    per_group,
    saved_function,
    write_momentum,
)
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.schedules.cyclic import scale, triangle
from functorch_optim.schedules.one_cycle import phase_ends
from functorch_optim.schedules.schedule import between_numbers, check_number
from functorch_optim.typing import PyTree


def _check_momentum(optimizer: Optimizer) -> bool:
    """Whether the momentum to cycle is the first beta.

    Raises:
        ValueError: the optimizer has neither momentum nor betas.
    """
    if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
        raise ValueError("optimizer must support momentum or beta1 with `cycle_momentum` option enabled")
    return "betas" in optimizer.defaults


def _set_momenta(optimizer: Optimizer, largest: list[float], smallest: list[float]) -> None:
    for group, high, low in zip(optimizer.param_groups, largest, smallest, strict=True):
        write_momentum(group, high)
        group["max_momentum"], group["base_momentum"] = high, low


def _set_ends(optimizer: Optimizer, highs: list[float], div_factor: float, final_div_factor: float) -> None:
    for group, high in zip(optimizer.param_groups, highs, strict=True):
        first = high / div_factor
        group.update(initial_lr=first, max_lr=high, min_lr=first / final_div_factor)


class CyclicLR(LRScheduler):
    """Cycles every group's learning rate between two values, and the momentum inversely.

    The schedules are :class:`functorch_optim.schedules.cyclic` and ``cyclic_momentum``.

    Args:
        optimizer: the optimizer.
        base_lr, max_lr: the two values, or lists with one value per group.
        step_size_up, step_size_down: lengths of the rise and the fall in steps; equal by default.
        mode, gamma, scale_fn, scale_mode: how the amplitude changes from cycle to cycle.
        cycle_momentum: whether to cycle the momentum, or the first beta, too.
        base_momentum, max_momentum: the momentum's two values, or lists.
        last_epoch: -1 to start.

    Raises:
        ValueError, TypeError: an option is out of range, a list has the wrong length, or no momentum can be cycled.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> optimizer = optim.SGD([jnp.zeros(1)], lr=1.0, momentum=0.9)
        >>> CyclicLR(optimizer, base_lr=0.1, max_lr=0.5).get_last_lr()
        [0.1]
    """

    _written: ClassVar[tuple[str, ...]] = ("lr", "momentum", "betas", "max_momentum", "base_momentum")
    _per_group: ClassVar[frozenset[str]] = LRScheduler._per_group | {"max_lrs", "base_momentums", "max_momentums"}
    _of_versions: ClassVar[frozenset[str]] = LRScheduler._of_versions | {
        "use_beta1",
        "base_momentums",
        "max_momentums",
    }

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: float = 2000,
        step_size_down: float | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[PyTree], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.8,
        max_momentum: float | list[float] = 0.9,
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer, last_epoch)
        self.base_lrs = per_group("base_lr", optimizer, base_lr)
        self.max_lrs = per_group("max_lr", optimizer, max_lr)
        schedules.cyclic(0.0, 1.0, step_size_up, step_size_down, mode, gamma, scale_fn, scale_mode)  # checks
        up = float(step_size_up)
        down = up if step_size_down is None else float(step_size_down)
        self.total_size = up + down
        self.step_ratio = up / self.total_size
        self.mode = mode
        self.gamma = float(gamma)
        self._scale_fn_custom = scale_fn
        self.scale_mode = scale_mode if scale_fn is not None else "iterations" if mode == "exp_range" else "cycle"
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self.use_beta1 = _check_momentum(optimizer)
            self.base_momentums = per_group("base_momentum", optimizer, base_momentum)
            self.max_momentums = per_group("max_momentum", optimizer, max_momentum)
        with all_or_nothing(optimizer.param_groups):
            if last_epoch == -1:
                self._write_options(optimizer)
            super().__init__(optimizer, last_epoch)

    def _write_options(self, optimizer: Optimizer) -> None:
        if self.cycle_momentum:
            _set_momenta(optimizer, self.max_momentums, self.base_momentums)
        for group, value in zip(optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = value

    def _check_options(self) -> None:
        check_number("total_size", self.total_size)
        check_number("step_ratio", self.step_ratio)
        up = self.total_size * self.step_ratio
        shape = (up, self.total_size - up, self.mode, self.gamma, self._scale_fn_custom, self.scale_mode)
        schedules.cyclic(0.0, 1.0, *shape)
        self.gamma = float(self.gamma)

    def _height(self) -> PyTree:
        epoch, size, function = self.last_epoch, self.total_size, self._scale_fn_custom
        up = size * self.step_ratio
        cycle, height = triangle(epoch, up, size - up, np)
        if function is None and self.mode == "triangular":  # the scale is 1
            return height
        return height * scale(cycle, epoch, np, self.mode, self.gamma, function, self.scale_mode)

    def get_lr(self) -> list[float]:
        height = self._height()
        highs = lengthened(self.max_lrs, len(self.base_lrs))
        rates: list[float] = []
        for index, low in enumerate(self.base_lrs):
            rates.append(float(low * (1 - height) + highs[index] * height))
        return rates

    def get_momentum(self) -> list[float] | None:
        if not self.cycle_momentum:
            return None
        height, count = self._height(), len(self.optimizer.param_groups)
        lows, highs = lengthened(self.base_momentums, count), lengthened(self.max_momentums, count)
        momenta: list[float] = []
        for index, high in enumerate(highs):
            momenta.append(float(high * (1 - height) + lows[index] * height))
        return momenta

    def state_dict(self) -> dict[str, PyTree]:
        """Return a copy of the scheduler's state; of a ``scale_fn`` that is an object, it has the attributes."""
        state = super().state_dict()
        kept = saved_function(state.pop("_scale_fn_custom"))
        return {**state, "_scale_fn_custom": kept}

    def _attributes(self) -> list[dict[str, PyTree]]:
        return [self.__dict__, *attributes_of((self._scale_fn_custom,))]

    def _update(self, values: dict[str, PyTree]) -> None:
        """Keep the present ``scale_fn``; an object takes the saved attributes."""
        attributes = values.pop("_scale_fn_custom", None)
        if attributes is not None:
            vars(self._scale_fn_custom).update(attributes)
        super()._update(values)


class OneCycleLR(LRScheduler):
    """Raises every group's learning rate to ``max_lr`` once, then lowers it far below; the momentum moves inversely.

    The schedules are :class:`functorch_optim.schedules.one_cycle` and ``one_cycle_momentum``. After the last step the
    values stay; torch continues along the last phase.

    Args:
        optimizer: the optimizer.
        max_lr: the highest value, or a list with one value per group.
        total_steps: number of steps; or ``epochs`` times ``steps_per_epoch``.
        pct_start: the fraction of steps spent rising, a float from 0 to 1.
        anneal_strategy: ``"cos"`` or ``"linear"``.
        cycle_momentum: whether to cycle the momentum, or the first beta, too.
        base_momentum, max_momentum: the momentum's two values, or lists.
        div_factor: ``max_lr`` divided by the first value.
        final_div_factor: the first value divided by the last.
        three_phase: whether to fall back to the first value in as many steps as it rose, then to the last.
        last_epoch: -1 to start.

    Raises:
        TypeError: a value is not a number, or ``optimizer`` is not an optimizer. ValueError: an option is out of range,
            a list has the wrong length, or no momentum can be cycled; ``step`` is called more than ``total_steps``
            times.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> optimizer = optim.Adam([jnp.zeros(1)], lr=1.0)
        >>> OneCycleLR(optimizer, max_lr=0.5, total_steps=10).get_last_lr(), optimizer.param_groups[0]["betas"]
        ([0.02], (0.95, 0.999))
    """

    _written: ClassVar[tuple[str, ...]] = (*CyclicLR._written, "initial_lr", "max_lr", "min_lr")
    _of_versions: ClassVar[frozenset[str]] = LRScheduler._of_versions | {"use_beta1"}

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer, last_epoch)
        self.total_steps = _total_steps(total_steps, epochs, steps_per_epoch)
        schedules.one_cycle(1.0, self.total_steps, pct_start, anneal_strategy, div_factor, final_div_factor)  # checks
        self._schedule_phases = _phases(phase_ends(self.total_steps, pct_start, three_phase))
        self._anneal_func_type = anneal_strategy
        highs = per_group("max_lr", optimizer, max_lr)
        self.cycle_momentum = cycle_momentum
        momenta: list[list[float]] = []
        if cycle_momentum:
            self.use_beta1 = _check_momentum(optimizer)
            given = {"max_momentum": max_momentum, "base_momentum": base_momentum}
            momenta = [per_group(name, optimizer, value) for name, value in given.items()]
        with all_or_nothing(optimizer.param_groups):
            if last_epoch == -1:
                _set_ends(optimizer, highs, div_factor, final_div_factor)
                if momenta:
                    _set_momenta(optimizer, *momenta)
            super().__init__(optimizer, last_epoch)

    def _take(self, state_dict: Mapping[str, PyTree], keep: frozenset[str]) -> set[str]:
        """Keep the ends of the phases together with the number of steps, from which they follow."""
        phases = {"schedule_phases"} if "total_steps" in keep else set[str]()
        return super()._take(state_dict, keep | phases) - (phases - keep)

    def _check_options(self) -> None:
        _total_steps(self.total_steps, None, None)
        schedules.one_cycle(1.0, self.total_steps, anneal_strategy=self._anneal_func_type)
        names = [list(phase) for phase in _phases((0.0,) * len(self._schedule_phases))]
        if [list(phase) for phase in self._schedule_phases] != names:
            raise ValueError(f"_schedule_phases must hold phases with {names[0]}, but it is {self._schedule_phases}")
        for phase in self._schedule_phases:
            check_number("end_step", phase["end_step"])

    def _values(self, start: str, end: str) -> list[float]:
        """Compute the groups' values at ``last_epoch``; ``start`` and ``end`` are keys of a phase."""
        epoch = self.last_epoch
        if epoch > self.total_steps:
            raise ValueError(f"Tried to step {epoch} times. The specified number of total steps is {self.total_steps}")
        phase, begin, finish = {}, 0.0, 0.0
        for phase in self._schedule_phases:  # the first that ends later, otherwise the last
            begin, finish = finish, phase["end_step"]
            if epoch <= finish:
                break
        done, length, strategy = epoch - begin, finish - begin, self._anneal_func_type
        start, end, groups = phase[start], phase[end], self.optimizer.param_groups
        values: list[float] = []
        for group in groups:
            try:
                first, last = group[start], group[end]
            except KeyError:  # added later: it takes the values of the first
                group = {**groups[0], **group}
                first, last = group[start], group[end]
            values.append(between_numbers(first, last, done, length, strategy))
        return values

    def get_lr(self) -> list[float]:
        return self._values("start_lr", "end_lr")

    def get_momentum(self) -> list[float] | None:
        return self._values("start_momentum", "end_momentum") if self.cycle_momentum else None


def _total_steps(total_steps: Any, epochs: Any, steps_per_epoch: Any) -> int:
    def positive(name: str, value: Any) -> int:
        if (as_integer(value) or 0) <= 0:
            raise ValueError(f"Expected positive integer {name}, but got {value}")
        return value

    if total_steps is not None:
        return positive("total_steps", total_steps)
    if epochs is None or steps_per_epoch is None:
        raise ValueError("You must define either total_steps OR (epochs AND steps_per_epoch)")
    return positive("epochs", epochs) * positive("steps_per_epoch", steps_per_epoch)


def _phases(ends: tuple[float, ...]) -> list[dict[str, PyTree]]:
    """Describe each phase by group keys, as torch's state_dict does."""
    lrs = ("initial_lr", "max_lr", "min_lr") if len(ends) == 2 else ("initial_lr", "max_lr", "initial_lr", "min_lr")
    momenta = ("max_momentum", "base_momentum", "max_momentum", "max_momentum")
    return [
        {
            "end_step": end,
            "start_lr": lrs[index],
            "end_lr": lrs[index + 1],
            "start_momentum": momenta[index],
            "end_momentum": momenta[index + 1],
        }
        for index, end in enumerate(ends)
    ]
