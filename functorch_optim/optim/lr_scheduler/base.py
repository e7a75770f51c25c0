"""What every scheduler does: count epochs, ask for the learning rates, write them into the groups."""

import copy
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.options import is_schedule, number

_ORDER = (
    "Detected call of `lr_scheduler.step()` before `optimizer.step()`. "
    "In PyTorch 1.1.0 and later, you should call them in the opposite order: "
    "`optimizer.step()` before `lr_scheduler.step()`. Failure to do this skips the first value of the learning rate "
    "schedule."
)
_OVERRIDDEN = (
    "Seems like `optimizer.step()` has been overridden after learning rate scheduler initialization. Please, make sure "
    "to call `optimizer.step()` before `lr_scheduler.step()`."
)
EPOCH_WARNING = (
    "The epoch parameter in `scheduler.step()` was not necessary and is being deprecated where possible. "
    "Please use `scheduler.step()` to step the scheduler."
)


class LRScheduler:
    """Base of the schedulers; a subclass defines :meth:`get_lr`, and may define ``_get_closed_form_lr``.

    Args:
        optimizer: the optimizer whose groups' learning rates are written, at construction already.
        last_epoch: -1 to begin; else the epoch to continue after, for which every group must have ``initial_lr``.

    Raises:
        TypeError: ``optimizer`` is none; ValueError: a group's learning rate is a schedule itself; KeyError: a group
            has no ``initial_lr``.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> optimizer = optim.SGD([jnp.zeros(1)], lr=1.0)
        >>> class Halving(LRScheduler):
        ...     def get_lr(self):
        ...         return [base / 2**self.last_epoch for base in self.base_lrs]
        >>> scheduler = Halving(optimizer)
        >>> optimizer.step([jnp.ones(1)])
        >>> scheduler.step()
        >>> scheduler.get_last_lr()
        [0.5]
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        check_optimizer(optimizer, last_epoch)
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", number(group["lr"], 0))
        self.optimizer = optimizer
        if "base_lrs" not in vars(self):  # CyclicLR brings its own
            self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._step_count = 0
        self._is_initial = True
        self._get_lr_called_within_step = False  # kept so that a state_dict has torch's keys
        self._last_lr: list[float] = []
        optimizer._hooks.scheduled = vars(optimizer).get("step")
        self.step()
        self._is_initial = False

    def get_lr(self) -> list[float]:
        """The learning rates of the groups for the epoch ``last_epoch``, from what the groups hold now."""
        raise NotImplementedError(f"{type(self).__name__} does not define get_lr")

    def get_momentum(self) -> list[float] | None:
        """The momenta (with betas: the first of them) for the epoch ``last_epoch``, where the scheduler cycles them."""
        return None

    def get_last_lr(self) -> list[float]:
        """The learning rates that the last :meth:`step` wrote."""
        return list(self._last_lr)

    def step(self, epoch: int | None = None) -> None:
        """Go to the next epoch, or to ``epoch``, and write the learning rates; call it after ``optimizer.step``."""
        if self._step_count == 1 and vars(self.optimizer).get("step") is not self.optimizer._hooks.scheduled:
            warnings.warn(_OVERRIDDEN, UserWarning, stacklevel=2)
        elif self._step_count == 1 and not self.optimizer._opt_called:
            warnings.warn(_ORDER, UserWarning, stacklevel=2)
        self._step_count += 1
        if epoch is None:
            self.last_epoch += 1
            self._write(self.get_lr)
        else:
            warnings.warn(EPOCH_WARNING, UserWarning, stacklevel=2)
            self.last_epoch = epoch
            self._write(getattr(self, "_get_closed_form_lr", self.get_lr))

    def _write(self, values_of: Callable[[], list[float]]) -> None:
        """Write the learning rates, and the momenta where they are cycled, into the groups."""
        for group in self.optimizer.param_groups[len(self.base_lrs) :]:  # added since
            self.base_lrs.append(group.setdefault("initial_lr", number(group["lr"], 0)))
        self._get_lr_called_within_step = True
        try:
            values, momenta = values_of(), self.get_momentum()
        finally:
            self._get_lr_called_within_step = False
        for group, value in zip(self.optimizer.param_groups, values, strict=True):
            group["lr"] = value
        for group, momentum in zip(self.optimizer.param_groups, momenta or [], strict=momenta is not None):
            write_momentum(group, momentum)
        self._last_lr = list(values)

    def _begin(self, reset: bool = True) -> None:
        """Begin anew at epoch 0, with ``reset`` from the initial learning rates, else from those in the groups."""
        if reset:
            reset_rates(self.optimizer)
        self.last_epoch, self._is_initial = 0, True
        self._write(self.get_lr)
        self._is_initial = False

    def _lrs(self) -> list[float]:
        """The learning rates that the groups hold now, as numbers."""
        return [number(group["lr"], 0) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What the scheduler remembers, with torch's keys; nothing in it is the live object."""
        state = {key: value for key, value in vars(self).items() if key != "optimizer"}
        return {key: copy.deepcopy(value) if isinstance(value, list | dict) else value for key, value in state.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken. The optimizer's learning rates come with its own state_dict."""
        own = {key: copy.deepcopy(v) if isinstance(v, list | dict) else v for key, v in state_dict.items()}
        vars(self).update(own)


def reset_rates(optimizer: Optimizer) -> None:
    """Write the initial learning rates into the groups; a scheduler made last may have set them, OneCycleLR does."""
    for group in optimizer.param_groups:
        group["lr"] = group.get("initial_lr", group["lr"])


def check_optimizer(optimizer: Any, last_epoch: int = -1) -> None:
    """Raise unless a scheduler may begin, or continue after ``last_epoch``; before it writes anything.

    Raises:
        TypeError: it is no optimizer; ValueError: a group's learning rate is a schedule itself; KeyError: a group has
            no ``initial_lr`` to continue with.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
    for index, group in enumerate(optimizer.param_groups):
        if last_epoch != -1 and "initial_lr" not in group:
            raise KeyError(
                f"param 'initial_lr' is not specified in param_groups[{index}] when resuming scheduler with "
                "last_epoch >= 0: load the optimizer's state_dict first, or begin with last_epoch=-1"
            )
        if is_schedule(group["lr"]):
            raise ValueError(
                f"the lr of parameter group {index} is a schedule, {group['lr']!r}, which a scheduler would overwrite: "
                "use one of the two"
            )


def write_momentum(group: dict[str, Any], momentum: float) -> None:
    """Write a momentum, or the first of the betas, into a group."""
    if "betas" in group:
        group["betas"] = (momentum, *group["betas"][1:])
    else:
        group["momentum"] = momentum


def saved_function(function: Any) -> dict[str, Any] | None:
    """What a state_dict keeps of a function: nothing, but of a callable object its attributes."""
    if function is None or isinstance(function, types.FunctionType | types.BuiltinFunctionType):
        return None
    return dict(vars(function))


def per_group(name: str, optimizer: Optimizer, value: Any) -> list[float]:
    """An argument for every group: one for all, or a list of as many as there are groups.

    Raises:
        ValueError: the list has another length; TypeError: something is no number.
    """
    count = len(optimizer.param_groups)
    values = list(value) if isinstance(value, list | tuple) else [value] * count
    if not all(hasattr(each, "__float__") for each in values):
        raise TypeError(f"{name} must be a number, or a list with one for every group, but it is {value!r}")
    if len(values) != count:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. {name} has {len(values)} values, "
            f"param_groups has {count}."
        )
    return values
