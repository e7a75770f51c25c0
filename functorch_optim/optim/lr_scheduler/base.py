"""The base of all schedulers: counts epochs, asks for the learning rates, and writes them into the groups."""

import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

from functorch_optim.optim.lr_scheduler.writing import (
    all_or_nothing,
    check_epoch,
    check_optimizer,
    copied,
    reset_rates,
    restore,
    write_momentum,
)
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.options import value_at
from functorch_optim.optim.regrouping import (
    GROUP_NAMES,
    LoadedGroups,
    Sources,
    Waiting,
    names_of,
    regrouped,
    sources_of,
)
from functorch_optim.option_names import explain_constructor, explains_names
from functorch_optim.schedules.schedule import check_number
from functorch_optim.typing import PyTree

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


# The progress of every scheduler, and what only some versions of torch save.
_PROGRESS = frozenset({"base_lrs", "last_epoch", "_step_count", "_last_lr"})
_OF_VERSIONS = frozenset({"_is_initial", "_get_lr_called_within_step", "verbose", GROUP_NAMES})


class LRScheduler:
    """Base class of schedulers: a subclass defines ``get_lr`` and may define ``_get_closed_form_lr``.

    Args:
        optimizer: the optimizer; the constructor already writes its groups' learning rates.
        last_epoch: -1 to start; otherwise the epoch to continue after, which needs ``initial_lr`` in every group.

    Raises:
        TypeError: ``optimizer`` is not an optimizer; ValueError: a group's learning rate is itself a schedule;
            KeyError: a group has no ``initial_lr``.

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

    _is_initial: bool = False
    _goes_on: ClassVar[bool] = False  # whether it starts from the current rates instead of the initial ones
    _written: ClassVar[tuple[str, ...]] = ("lr",)  # the group entries that the scheduler writes
    _progress: ClassVar[frozenset[str]] = _PROGRESS  # attributes that ``keep`` cannot name
    _per_group: ClassVar[frozenset[str]] = frozenset({"base_lrs", "_last_lr"})  # lists with a value per group
    _of_versions: ClassVar[frozenset[str]] = _OF_VERSIONS  # attributes that a state may have or lack

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        explain_constructor(cls)

    @explains_names
    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        check_optimizer(optimizer, last_epoch)
        with all_or_nothing(optimizer.param_groups):
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", value_at(group["lr"], 0))
            self.optimizer = optimizer
            if not hasattr(self, "base_lrs"):  # CyclicLR sets its own
                self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
            self.last_epoch = last_epoch
            self._step_count = 0
            self._is_initial = True
            self._get_lr_called_within_step = False  # so that a state_dict has torch's keys
            self._last_lr: list[float] = []
            optimizer._hooks.scheduled = vars(optimizer).get("step")
            self.__dict__ = dict(self.__dict__)  # not one that shares its keys: steps, which copy it, read it faster
            self.step()
            self._is_initial = False

    def get_lr(self) -> list[float]:
        """Compute the groups' learning rates for epoch ``last_epoch`` from what the groups hold now."""
        raise NotImplementedError(f"{type(self).__name__} does not define get_lr")

    def get_momentum(self) -> list[float] | None:
        """Compute the momenta (or first betas) for epoch ``last_epoch``; None if the scheduler does not cycle them."""
        return None

    def get_last_lr(self) -> list[float]:
        """Return the learning rates that the last :meth:`step` wrote."""
        return list(self._last_lr)

    def step(self, epoch: Any = None) -> None:
        """Advance to the next epoch, or to ``epoch``, and write the learning rates; call it after ``optimizer.step``.

        Raises:
            ValueError, TypeError: ``epoch`` is negative, or it or a rate is not a number. Nothing changes then.
        """
        lives = self._attributes()
        for group in self.optimizer.param_groups:  # for this few, loops are faster than an extension or comprehension
            lives.append(group)
        before: list[dict[str, PyTree]] = []
        for live in lives:
            before.append(live.copy())
        try:
            self._advance(epoch)
        except BaseException:
            restore(lives, before)
            raise
        if not self._is_initial:
            self.optimizer._loaded = None  # they are for a scheduler that is loaded before its next step

    def _advance(self, given: Any) -> None:
        """Make a step with what :meth:`step` was given, here the epoch; on an error the caller undoes it."""
        if given is not None:
            check_epoch(given)
            warnings.warn(EPOCH_WARNING, UserWarning, stacklevel=3)
        if self._step_count == 1:
            self._check_order()
        self._step_count += 1
        if given is None:
            self.last_epoch += 1
            self._write(self.get_lr)
        else:
            self.last_epoch = given
            self._write(getattr(self, "_get_closed_form_lr", self.get_lr))

    def _attributes(self) -> list[dict[str, PyTree]]:
        """Return the attributes of the scheduler, and of what it holds: with the groups, all that a step changes."""
        return [self.__dict__]

    def _check_order(self) -> None:
        if vars(self.optimizer).get("step") is not self.optimizer._hooks.scheduled:
            warnings.warn(_OVERRIDDEN, UserWarning, stacklevel=4)
        elif not self.optimizer._opt_called:
            warnings.warn(_ORDER, UserWarning, stacklevel=4)

    def _write(self, values_of: Callable[[], list[float]]) -> None:
        """Write the learning rates, and the momenta if they are cycled, into the groups."""
        groups = self.optimizer.param_groups
        count, known = len(groups), len(self.base_lrs)
        if known < count:
            added = [group.setdefault("initial_lr", value_at(group["lr"], 0)) for group in groups[known:]]
            self.base_lrs = [*self.base_lrs, *added]
        self._get_lr_called_within_step = True
        values = list(values_of())
        momenta = self.get_momentum()
        self._get_lr_called_within_step = False
        if len(values) != count:
            name = type(self).__name__
            raise ValueError(f"{name} gives {len(values)} learning rates, but the optimizer has {count} groups")
        index = 0
        for group in groups:
            value = values[index]
            if type(value) is not float:
                self._check_rate(index, value)
            group["lr"] = value
            if momenta is not None:
                write_momentum(group, momenta[index])
            index += 1  # noqa: SIM113 faster than enumerate for this few
        self._last_lr = values

    def _check_rate(self, index: int, value: PyTree) -> None:
        if isinstance(value, str) or not hasattr(value, "__float__"):
            name = type(self).__name__
            raise TypeError(f"{name} gives {value!r} as the learning rate of parameter group {index}, not a number")

    def _begin(self, reset: bool = True) -> None:
        """Restart at epoch 0: with ``reset`` from the initial learning rates, otherwise from those in the groups."""
        if reset:
            reset_rates(self.optimizer)
        self.last_epoch, self._is_initial = 0, True
        self._write(self.get_lr)
        self._is_initial = False

    def _lrs(self) -> list[float]:
        """Return the groups' current learning rates as numbers."""
        rates = []
        for group in self.optimizer.param_groups:
            lr = group["lr"]
            rates.append(lr if type(lr) is float else value_at(lr, 0))
        return rates

    def _closed(self, rates: list[float]) -> list[float]:
        """Compute the rates at ``last_epoch`` from the base rates ``rates``, whatever the groups hold now."""
        values = list(getattr(self, "_get_closed_form_lr", self.get_lr)())
        return values + rates[len(values) :]  # groups added since the last step

    def state_dict(self) -> dict[str, PyTree]:
        """Return a copy of the scheduler's state with torch's keys.

        If there are several groups with names, it has one more: their order, to be told from that of another state.
        """
        state = {key: copied(value) for key, value in vars(self).items() if key != "optimizer"}
        names = names_of(self.optimizer.param_groups)
        if names:
            state.setdefault(GROUP_NAMES, names)
        if "base_lrs" in state:  # include groups added since the last step
            added = self.optimizer.param_groups[len(self.base_lrs) :]
            state["base_lrs"] += [group.get("initial_lr", value_at(group["lr"], 0)) for group in added]
        return state

    def load_state_dict(self, state_dict: Mapping[str, PyTree], keep: Collection[str] = ()) -> None:
        """Continue from a ``state_dict`` of this library or of torch, with the learning rates that it was saved with.

        The optimizer may be loaded before or after this call, and the scheduler created before or after that. The rates
        come from the state loaded into the optimizer or, without one, from the scheduler's state. This overwrites a
        rate that was written into a group by hand.

        Args:
            state_dict: the state of a scheduler of the same class with as many groups, or with fewer if the parameters
                are in more groups now; groups missing from the state continue from their current rates.
            keep: names of options to keep as this scheduler has them, for example to train longer. The rates become
                those at this epoch of a run that had these options from the start.

        Raises:
            ValueError, TypeError: the state is of another class, has more groups or holds an invalid option, or
                ``keep`` names an option that the scheduler does not have. Nothing changes then.

        Example:
            >>> import jax.numpy as jnp
            >>> from functorch_optim import optim
            >>> def begin(T_max):
            ...     optimizer = optim.SGD([jnp.zeros(1)], lr=1.0)
            ...     return optimizer, optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max)
            >>> optimizer, scheduler = begin(T_max=2)
            >>> for _ in range(2):
            ...     optimizer.step([jnp.ones(1)])
            ...     scheduler.step()
            >>> saved = scheduler.state_dict()
            >>> optimizer, scheduler = begin(T_max=4)
            >>> scheduler.load_state_dict(saved, keep=["T_max"])  # at the second of four epochs now
            >>> round(optimizer.param_groups[0]["lr"], 6)
            0.5
        """
        if isinstance(keep, str):
            raise TypeError(f"keep must be a collection of names, but it is the string {keep!r}")
        with all_or_nothing([*self._attributes(), *self.optimizer.param_groups]):
            unknown = set(keep) - self._take(state_dict, frozenset(keep))
            if unknown:
                raise ValueError(f"keep names {sorted(unknown)}, no options that a {type(self).__name__} can keep")
            if keep:
                self._recalculate()
            else:
                self._put_back()
            if self.optimizer._loaded is None:
                self.optimizer._loaded = Waiting()
            if isinstance(self.optimizer._loaded, Waiting):
                self.optimizer._loaded.put(self, waits=sources_of(state_dict, self.optimizer.param_groups) is None)

    def _take(self, state_dict: Mapping[str, PyTree], keep: frozenset[str]) -> set[str]:
        """Load a state except the options in ``keep``; return those of them that the scheduler has."""
        own = self.state_dict().keys()
        self._check_state(state_dict, own)
        named = {key.lstrip("_"): key for key in own - self._progress - self._of_versions}
        kept = {named[name] for name in keep & named.keys()}
        values = {key: copied(value) for key, value in state_dict.items() if key not in kept}
        values.pop(GROUP_NAMES, None)
        sources = sources_of(state_dict, self.optimizer.param_groups, self.optimizer._loaded)
        if sources is not None:
            lists = self._per_group & values.keys()
            values |= {key: regrouped(values[key], sources, self._present(key)) for key in lists}
        self._update(values)
        self._check_options()
        return set(keep & named.keys())

    def _update(self, values: dict[str, PyTree]) -> None:
        """Set the attributes in a state."""
        vars(self).update(values)

    def _present(self, key: str) -> list[PyTree]:
        """Return a list with a value per group, as a state has it."""
        return self.state_dict()[key]

    def _regroup(self, sources: Sources) -> None:
        """Follow an optimizer that was loaded after this scheduler, from groups in another order."""
        present = {key: self._present(key) for key in self._per_group & vars(self).keys()}
        self._update({key: regrouped(values, sources, values) for key, values in present.items()})

    def _check_state(self, state_dict: object, own: Collection[str]) -> None:
        """Raise unless a state is of this class and has no more groups than the optimizer."""
        name, count = type(self).__name__, len(self.optimizer.param_groups)
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"a {name} is loaded from a mapping, but this is a {type(state_dict).__name__}")
        missing = sorted(set(own) - state_dict.keys() - self._of_versions)
        unknown = sorted(state_dict.keys() - set(own) - self._of_versions)
        if missing or unknown:
            raise ValueError(f"this is not the state of a {name}: it lacks {missing}, and {name} has no {unknown}")
        for key in ("last_epoch", "_step_count"):
            check_number(f"{key} in the state", state_dict.get(key, 0), -1)
        for key in {"base_lrs", "_last_lr"} & state_dict.keys():
            rates = state_dict[key]
            for rate in rates:
                check_number(f"a rate of {key} in the state", rate)
            if len(rates) > count:
                raise ValueError(f"the state is of {len(rates)} parameter groups, but the optimizer has {count}")

    def _check_options(self) -> None:
        """Raise if an option is invalid; classes with options override this."""

    def _put_back(self) -> None:
        """Write the due values into the groups: those loaded with the optimizer, otherwise the last rates."""
        groups, loaded = self.optimizer.param_groups, self.optimizer._loaded
        if isinstance(loaded, LoadedGroups):
            for group, saved in zip(groups, loaded.groups, strict=False):
                group.update({key: saved[key] for key in self._written if key in saved})
        else:
            self._put_back_own(groups)
        bases = getattr(self, "base_lrs", None)
        if bases is not None and len(bases) < len(groups):  # more groups than when the state was saved
            self.base_lrs = [*bases, *[group.get("initial_lr", group["lr"]) for group in groups[len(bases) :]]]
            self._last_lr = self._lrs()

    def _put_back_own(self, groups: list[dict[str, PyTree]]) -> None:
        for group, momentum in zip(groups, self.get_momentum() or [], strict=False):
            write_momentum(group, momentum)
        for group, lr in zip(groups, self._last_lr, strict=False):  # groups added after the last step have none
            group["lr"] = value_at(lr, 0)

    def _recalculate(self) -> None:
        """Write the rates that follow from the options alone."""
        self._write(lambda: self._closed(self.base_lrs))
