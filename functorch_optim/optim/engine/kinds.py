"""The algorithms that parameter groups may have, and the rule that the options of a group make."""

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from functorch_optim.base import GradientTransformation, Update
from functorch_optim.core.lifted import Lifted
from functorch_optim.hyperparams import Named, checked, data_options
from functorch_optim.optim.engine.protocol import Group
from functorch_optim.optim.engine.torch_habits import FUNCTIONAL_ONLY, habits_of
from functorch_optim.optim.options import is_traced, is_zero
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
            value = checked(name, option, options[name])
            named = [Named(name, index) for index in range(option.length)]
            stand_ins[name] = tuple(None if value[n.index] is None else n for n in named) if named else Named(name)
        return {**options, **stand_ins}

    def made(self, options: OptionValues) -> Lifted:
        return lifted(self.constructor(**{name: options[name] for name in self.options_of(options)}))


class Resolved(NamedTuple):
    """What a group's settings came to."""

    settings: Group
    algorithm: Lifted
    numbers: Any


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
        self._resolved: dict[int, Resolved] = {}  # by group
        self._decayed: set[int] = set()  # the groups whose weight decay was once not zero

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_made": {}, "_resolved": {}, "_decayed": set(self._decayed)}

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
        packing = ("foreach",) if "foreach" in options else ()
        return (*kind.options_of(options), *others, *packing), kind.data_names

    def check(self, options: Group, live: bool = False) -> None:
        """Raise unless the algorithm takes these options; of ``live`` ones it takes more combinations."""
        kind = self.kind(options)
        for name in kind.options_of(options):
            if name not in kind.data_names and isinstance(options[name], list | dict | set):
                raise TypeError(f"{name} must be a plain value, but it is {options[name]!r}")
        kind.made(kind.checked(options) if live else options)

    def of(self, settings: Sequence[Group], group: int) -> Lifted:
        """The algorithm of a group without its numbers; the same object while the settings are the same."""
        return self.resolved(settings, group).algorithm

    def resolved(self, settings: Sequence[Group], group: int) -> Resolved:
        """The algorithm of a group, and its numbers as a rule takes them."""
        found, options = self._resolved.get(group), settings[group]
        if found is None or found.settings is not options:
            algorithm = self._algorithm(settings, group)
            found = Resolved(options, algorithm, algorithm.rule.at(options))
            if not any(map(is_traced, options.values())):
                self._resolved[group] = found
        return found

    def _algorithm(self, settings: Sequence[Group], group: int) -> Lifted:
        """The algorithm without its numbers: one object for all options that differ in numbers only.

        A weight decay of zero is left out until the group has another: reading the parameters for it costs a fifth of
        a step of Adam.
        """
        options = settings[group]
        kind = self.kind(options)
        data, zeros = data_options(kind.rule_type), set(habits_of(kind.rule_type).static_zeros)
        if not is_zero(options.get("weight_decay", 0.0)):
            self._decayed.add(group)
        elif group not in self._decayed:
            zeros.add("weight_decay")
        held: dict[str, PyTree] = {}
        for name in kind.options_of(options):
            if name not in data:
                held[name] = options[name]
            elif name in zeros and is_zero(options[name]):
                held[name] = 0.0
            elif data[name].length:
                held[name] = tuple(None if v is None else Named(name, i) for i, v in enumerate(options[name]))
            else:
                held[name] = Named(name)
        for flag, name in habits_of(kind.rule_type).idle_flags.items():
            if held.get(name) == 0.0 and isinstance(held.get(name), float):
                held[flag] = False
        key = (kind.rule_type, tuple(held.items()))
        if key not in self._made:
            self._made[key] = kind.made(held)
        return self._made[key]


def lifted(tx: GradientTransformation) -> Lifted:
    """The lifted rule inside a transformation that one of the algorithms' constructors made."""
    assert isinstance(tx.update, Update) and isinstance(tx.update.of, Lifted)
    return tx.update.of
