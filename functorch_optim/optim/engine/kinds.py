"""The algorithms that parameter groups may have, and the rule that a group's options build."""

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
    """An algorithm that groups may have: it builds a lifted rule from a group's options.

    ``title`` is the name of the optimizer's class, for messages.
    """

    def __init__(
        self, constructor: Callable[..., GradientTransformation], defaults: OptionValues, title: str = ""
    ) -> None:
        self.constructor, self._title = constructor, title
        self._parameters = tuple(
            name for name in inspect.signature(constructor).parameters if name not in FUNCTIONAL_ONLY
        )
        self._required = {name for name in self._parameters if name in defaults}
        self.rule_type = type(self.build(defaults).rule)
        self.data_names = data_options(self.rule_type).keys() & set(self._parameters)

    def options_of(self, group: OptionValues) -> list[str]:
        """List the options of a group: the required ones, and those beyond torch's that it has."""
        return [name for name in self._parameters if name in self._required or name in group]

    def checked(self, options: OptionValues) -> dict[str, PyTree]:
        """Check each number among the options by itself, and replace it with a stand-in."""
        stand_ins = {}
        for name in self.data_names & set(self.options_of(options)):
            option = data_options(self.rule_type)[name]
            stand_ins[name] = _deferred(name, option, checked(name, option, options[name]))
        return {**options, **stand_ins}

    def arguments(self, options: OptionValues, drop_decay: bool, where: str = "") -> dict[str, PyTree]:
        """Return the options with stand-ins for their numbers, and with 0.0 for zeros that mean another rule.

        ``where`` says in errors where the options stand.
        """
        data = data_options(self.rule_type)
        zeros = {*self.rule_type.static_zeros, *(self.rule_type.decay_options if drop_decay else ())}
        arguments: dict[str, PyTree] = {}
        for name in self.options_of(options):
            if name not in data:
                arguments[name] = hashable(name, options[name])
            elif name in zeros and is_zero(options[name]):
                arguments[name] = 0.0
            else:
                arguments[name] = _deferred(f"option {name!r}{where}", data[name], options[name])
        for flag, name in habits_of(self.rule_type).idle_flags.items():
            if arguments.get(name) == 0.0 and isinstance(arguments.get(name), float):
                arguments[flag] = False
        return arguments

    def numbers(self, algorithm: Lifted, options: OptionValues) -> PyTree:
        """Return the numbers among the options of a rule built from :meth:`arguments`."""
        return hyperparams_of(self.rule_type, {**vars(algorithm.rule), **options}, 0)

    def slot_dtypes(self, options: OptionValues) -> SlotDtypes:
        """Return the dtypes of the slots that a group's option ``state_dtype`` names."""
        return slot_dtypes(options.get("state_dtype"), self.rule_type, self._title)

    def build(self, options: OptionValues) -> Lifted:
        return lifted(self.constructor(**{name: options[name] for name in self.options_of(options)}))


class Record(NamedTuple):
    """What a step reads of a group; it stays valid until the group changes."""

    algorithm: Lifted  # without numbers: options that differ only in numbers share one object
    numbers: PyTree  # its numbers, as hyperparams_of returns them
    foreach: bool | None
    decays: bool  # whether its weight decay is nonzero
    dtypes: SlotDtypes  # of its slots, if that is an option


class Algorithms:
    """Builds lifted rules from groups' options.

    ``constructors`` has each algorithm's function from the functional face, and ``defaults`` its options. The key is
    None if there is one algorithm; if there are several, it is the value of a group's ``algorithm``. ``title`` is the
    name of the optimizer's class, for messages.
    """

    def __init__(
        self,
        constructors: Mapping[str | None, Callable[..., GradientTransformation]],
        defaults: Mapping[str | None, OptionValues],
        title: str,
    ) -> None:
        self.kinds = {name: Kind(constructor, defaults[name], title) for name, constructor in constructors.items()}
        self.data_names: set[str] = set().union(*(kind.data_names for kind in self.kinds.values()))
        self._made: dict[Hashable, Lifted] = {}
        self._decayed: set[int] = set()  # the groups whose weight decay was ever nonzero

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_made": {}, "_decayed": set(self._decayed)}

    def kind(self, options: Group) -> Kind:
        """Return the algorithm of a group."""
        if None in self.kinds:
            return self.kinds[None]
        if options.get("algorithm") not in self.kinds:
            names = " or ".join(map(repr, self.kinds))
            raise ValueError(f"algorithm must be {names}, but it is {options.get('algorithm')!r}")
        return self.kinds[options["algorithm"]]

    def reads(self, options: Group) -> tuple[tuple[str, ...], set[str]]:
        """Return the names of the options of a group that a step reads, and which of them are numbers."""
        kind = self.kind(options)
        others = ("algorithm",) if None not in self.kinds else ()
        more = [name for name in ("foreach", "state_dtype") if name in options]
        data = data_options(kind.rule_type)
        left_out = {name for name in kind.data_names if data[name].optional and options.get(name) is None}
        return (*kind.options_of(options), *others, *more), kind.data_names - left_out

    def check(self, options: Group, live: bool = False) -> None:
        """Raise unless the algorithm accepts these options; it accepts more combinations of ``live`` ones."""
        kind = self.kind(options)
        for name in kind.options_of(options):
            if name not in kind.data_names and isinstance(options[name], list | dict | set):
                raise TypeError(f"{name} must be a plain value, but it is {options[name]!r}")
        kind.slot_dtypes(options)
        kind.build(kind.checked(options) if live else options)

    def record(self, options: Group, group: int) -> Record:
        """Build the record of a group from its options, which are numbers by now.

        A weight decay of zero is left out until the group gets another: reading the parameters for it costs a fifth of
        an Adam step.
        """
        kind = self.kind(options)
        decays = not all(is_zero(options.get(name, 0.0)) for name in kind.rule_type.decay_options)
        if decays:
            self._decayed.add(group)
        arguments = kind.arguments(options, group not in self._decayed, f" of parameter group {group}")
        dtypes = kind.slot_dtypes(options)
        key = (kind.rule_type, tuple(arguments.items()), dtypes)
        if key not in self._made:
            self._made[key] = kind.build(arguments)
        algorithm = self._made[key]
        return Record(algorithm, kind.numbers(algorithm, options), options.get("foreach"), decays, dtypes)


def _deferred(name: str, option: Option, value: PyTree) -> PyTree:
    """Return a stand-in for a data option, in the option's form; None stays, because it is not data."""
    if not option.length:
        return None if value is None and option.optional else Deferred()
    if not isinstance(value, tuple) or len(value) != option.length:
        raise TypeError(f"{name} must hold {option.length} values, but it is {value!r}")
    return tuple([None if item is None else Deferred() for item in value])


def lifted(tx: GradientTransformation) -> Lifted:
    """Return the lifted rule inside a transformation that an algorithm's constructor built."""
    assert isinstance(tx.update, Update) and isinstance(tx.update.of, Lifted)
    return tx.update.of
