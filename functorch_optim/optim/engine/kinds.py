"""The algorithms that parameter groups may have, and the rule that the options of a group make."""

import inspect
from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple

from functorch_optim.base import GradientTransformation, Update
from functorch_optim.core.lifted import Lifted
from functorch_optim.core.options import Deferred, checked, data_options, hyperparams_of
from functorch_optim.hyperparams import Option
from functorch_optim.optim.engine.protocol import Group
from functorch_optim.optim.engine.slot_dtypes import SlotDtypes, slot_dtypes
from functorch_optim.optim.engine.templates import hashable
from functorch_optim.optim.engine.torch_habits import FUNCTIONAL_ONLY, habits_of
from functorch_optim.optim.options import is_zero
from functorch_optim.typing import OptionValues, PyTree


class Kind:
    """An algorithm that groups may have: what makes its lifted rule, and of which options."""

    def __init__(self, constructor: Callable[..., GradientTransformation], defaults: OptionValues) -> None:
        self.constructor = constructor
        self._parameters = tuple(
            name for name in inspect.signature(constructor).parameters if name not in FUNCTIONAL_ONLY
        )
        self._required = {name for name in self._parameters if name in defaults}
        self.rule_type = type(self.made(defaults).rule)
        self.data_names = data_options(self.rule_type).keys() & set(self._parameters)

    def options_of(self, group: OptionValues) -> list[str]:
        """The options of a group: those that it must have, and of those that torch lacks the ones it has."""
        return [name for name in self._parameters if name in self._required or name in group]

    def checked(self, options: OptionValues) -> dict[str, PyTree]:
        """The options with stand-ins for their numbers, each of which was checked by itself."""
        stand_ins = {}
        for name in self.data_names & set(self.options_of(options)):
            option = data_options(self.rule_type)[name]
            stand_ins[name] = _deferred(option, checked(name, option, options[name]))
        return {**options, **stand_ins}

    def held(self, options: OptionValues, drop_decay: bool) -> dict[str, PyTree]:
        """The options with stand-ins for their numbers, and with 0.0 for those zeros that mean another rule."""
        data, habits = data_options(self.rule_type), habits_of(self.rule_type)
        zeros = {*habits.static_zeros, *(["weight_decay"] if drop_decay else [])}
        held: dict[str, PyTree] = {}
        for name in self.options_of(options):
            if name not in data:
                held[name] = hashable(name, options[name])
            elif name in zeros and is_zero(options[name]):
                held[name] = 0.0
            else:
                held[name] = _deferred(data[name], options[name])
        for flag, name in habits.idle_flags.items():
            if held.get(name) == 0.0 and isinstance(held.get(name), float):
                held[flag] = False
        return held

    def numbers(self, algorithm: Lifted, options: OptionValues) -> PyTree:
        """The named tuple of the numbers among the options of a rule that :meth:`held` made."""
        return hyperparams_of(self.rule_type, {**vars(algorithm.rule), **options}, 0)

    def made(self, options: OptionValues) -> Lifted:
        return lifted(self.constructor(**{name: options[name] for name in self.options_of(options)}))


class Record(NamedTuple):
    """What a step reads of a group, records once and for as long as the group stays as it is."""

    algorithm: Lifted  # without its numbers: one object for all options that differ in numbers only, dtypes included
    numbers: PyTree  # the named tuple of its numbers
    foreach: bool | None
    decays: bool  # whether its weight decay is not zero
    dtypes: SlotDtypes  # in which it keeps its slots, where that is an option


class Algorithms:
    """What makes a lifted rule of a group's options.

    ``constructors`` has a factory of the functional face for each algorithm, and ``defaults`` its options: those of the
    one algorithm under None, or of several under the names that a group's ``algorithm`` may have.
    """

    def __init__(
        self,
        constructors: Mapping[str | None, Callable[..., GradientTransformation]],
        defaults: Mapping[str | None, OptionValues],
    ) -> None:
        self.kinds = {name: Kind(constructor, defaults[name]) for name, constructor in constructors.items()}
        self.data_names: set[str] = set().union(*(kind.data_names for kind in self.kinds.values()))
        self._made: dict[Hashable, Lifted] = {}
        self._decayed: set[int] = set()  # the groups whose weight decay was once not zero

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_made": {}, "_decayed": set(self._decayed)}

    def kind(self, options: Group) -> Kind:
        """The algorithm of a group."""
        if None in self.kinds:
            return self.kinds[None]
        if options.get("algorithm") not in self.kinds:
            names = " or ".join(map(repr, self.kinds))
            raise ValueError(f"algorithm must be {names}, but it is {options.get('algorithm')!r}")
        return self.kinds[options["algorithm"]]

    def reads(self, options: Group) -> tuple[tuple[str, ...], set[str]]:
        """The names of the options of a group that a step reads, and those among them that are numbers."""
        kind = self.kind(options)
        others = ("algorithm",) if None not in self.kinds else ()
        more = [name for name in ("foreach", "state_dtype") if name in options]
        return (*kind.options_of(options), *others, *more), kind.data_names

    def check(self, options: Group, live: bool = False) -> None:
        """Raise unless the algorithm takes these options; of ``live`` ones it takes more combinations."""
        kind = self.kind(options)
        for name in kind.options_of(options):
            if name not in kind.data_names and isinstance(options[name], list | dict | set):
                raise TypeError(f"{name} must be a plain value, but it is {options[name]!r}")
        slot_dtypes(options.get("state_dtype"), kind.rule_type)
        kind.made(kind.checked(options) if live else options)

    def record(self, options: Group, group: int) -> Record:
        """What a step needs of the options of a group, which are numbers by now.

        A weight decay of zero is left out until the group has another: reading the parameters for it costs a fifth of
        a step of Adam.
        """
        kind = self.kind(options)
        decays = not is_zero(options.get("weight_decay", 0.0))
        if decays:
            self._decayed.add(group)
        held = kind.held(options, drop_decay=group not in self._decayed)
        dtypes = slot_dtypes(options.get("state_dtype"), kind.rule_type)
        key = (kind.rule_type, tuple(held.items()), dtypes)
        if key not in self._made:
            self._made[key] = kind.made(held)
        algorithm = self._made[key]
        return Record(algorithm, kind.numbers(algorithm, options), options.get("foreach"), decays, dtypes)


def _deferred(option: Option, value: PyTree) -> PyTree:
    """A stand-in for an option that is data, in its form; None stays, which is not data."""
    if not option.length:
        return Deferred()
    return tuple([None if item is None else Deferred() for item in value])


def lifted(tx: GradientTransformation) -> Lifted:
    """The lifted rule inside a transformation that one of the algorithms' constructors made."""
    assert isinstance(tx.update, Update) and isinstance(tx.update.of, Lifted)
    return tx.update.of
