"""The places outside a compiled function where its constants come from, each as the steps that lead there."""

import inspect
import operator
import types
import weakref
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import numpy as np

from functorch_optim.typing import PyTree

PLAIN = bool | int | float | complex | str | bytes | np.generic | np.dtype | types.NoneType


class Node(NamedTuple):
    """A value, and the number of its place."""

    value: Any
    place: int


class Check(NamedTuple):
    """A step from value number ``parent``, and what must be there: the same object, an equal one, or anything.

    ``key`` says in data what the step does.
    """

    parent: int
    key: object
    step: Callable[[Any], Any]
    kind: str = ""
    expected: Any = None


class Watch(NamedTuple):
    """The places to check before calling a compiled function again; ``unseen`` says in words what has no place."""

    checks: list[Check]
    unseen: str

    def holds(self, function: object) -> bool:
        """Whether everything that ``function`` reads is unchanged."""
        return self._first_changed([function]) is None

    def _first_changed(self, values: list[object]) -> int | None:
        """The number of the first check that fails; ``values`` gets what is at the places before it."""
        index = 0
        try:
            for index, (parent, _, step, kind, expected) in enumerate(self.checks):
                value = step(values[parent])
                values.append(value)
                if kind == "same":
                    if expected() is not value:
                        return index
                elif kind and value is not expected and not (type(value) is type(expected) and value == expected):
                    return index
        except Exception:  # the place is gone, or raises something of its own
            return index
        return None

    def passed(self, function: object) -> list[object]:
        """The objects on the way to what ``function`` reads."""
        values = [function]
        self._first_changed(values)
        return values

    def changed(self, function: object) -> "Changed | None":
        """The first variable or attribute that has changed; None if there is no name for it."""
        values: list[object] = [function]
        index = self._first_changed(values)
        return None if index is None else _named(self.checks, values, index)


class Changed(NamedTuple):
    """A variable or an attribute, as code spells it, without what lies behind its items.

    ``value`` is what it has now; ``direct`` says whether the watched function itself reads it, by this name.
    """

    name: str
    value: object
    direct: bool


def _named(checks: list[Check], values: list[object], index: int) -> Changed | None:
    path: list[int] = []
    while index >= 0:
        path.insert(0, index)
        index = checks[index].parent - 1
    found = Changed("", None, True)
    for number in path:
        check, value = checks[number], values[number + 1] if number + 1 < len(values) else None
        key: PyTree = check.key
        match key:
            case ("attribute", "__self__") if not found.name:
                function = getattr(values[0], "__func__", None)
                found = Changed(_first_argument(function), value, True)
            case ("attribute", "__globals__" | "__closure__"):
                scope = values[check.parent]  # the function that reads
                found = Changed("", scope, found.direct and not found.name)
            case ("item", str(name)) if not found.name:
                found = Changed(name, value, found.direct)
            case ("item", int(cell)) if not found.name and isinstance(found.value, types.FunctionType):
                found = Changed(found.value.__code__.co_freevars[cell], value, found.direct)
            case ("attribute", "cell_contents"):
                found = found._replace(value=value)
            case ("attribute", str(part)) if found.name and not part.startswith("__"):
                found = Changed(f"{found.name}.{part}", value, found.direct)
            case ("attribute", "__func__"):
                pass
            case _:
                break
    return found if found.name else None


def _first_argument(function: object) -> str:
    code = getattr(function, "__code__", None)
    return code.co_varnames[0] if isinstance(code, types.CodeType) and code.co_argcount else ""


def original(array: Any) -> Any:
    """The NumPy array that a constant or an attribute is a view of; anything else unchanged."""
    while isinstance(array, np.ndarray) and isinstance(array.base, np.ndarray):
        array = array.base
    return array


class Places:
    """The places that steps lead to from a function, number 0, and what must be at some of them."""

    def __init__(self) -> None:
        self.found: set[int] = set()  # the identities of watched arrays
        self._steps: list[tuple[int, object, Any]] = [(0, None, None)]
        self._numbers: dict[Hashable, int] = {}
        self._watched: dict[int, tuple[str, Any]] = {}

    def step(self, node: Node, key: object, step: Callable[[Any], Any], value: object) -> Node:
        place = node.place, key
        if place not in self._numbers:
            self._numbers[place] = len(self._steps)
            self._steps.append((node.place, key, step))
        return Node(value, self._numbers[place])

    def attribute(self, node: Node, name: str, value: object) -> Node:
        return self.step(node, ("attribute", name), operator.attrgetter(name), value)

    def item(self, node: Node, key: Any) -> Node:
        return self.step(node, ("item", key), operator.itemgetter(key), node.value[key])

    def member(self, node: Node, name: str) -> Node:
        """The value that an object itself has under a name, whatever its class makes of the name."""
        value = vars(node.value)[name]
        if inspect.getattr_static(type(node.value), name, None) is None and getattr(node.value, name, None) is value:
            return self.attribute(node, name, value)
        return self.item(self.attribute(node, "__dict__", vars(node.value)), name)

    def watch(self, node: Node) -> None:
        if isinstance(node.value, PLAIN):
            self._watched[node.place] = "equal", node.value
            return
        self.found.add(id(original(node.value)))
        try:
            self._watched[node.place] = "same", weakref.ref(node.value)
        except TypeError:  # no weak references: its contents identify it
            return

    def checks(self) -> list[Check]:
        """The steps to everything watched, each once."""
        needed = {0}
        for place in self._watched:
            while place not in needed:
                needed.add(place)
                place = self._steps[place][0]
        order = sorted(needed)
        number = {place: index for index, place in enumerate(order)}
        return [
            Check(number[parent], key, step, *self._watched.get(place, ()))
            for place, (parent, key, step) in ((place, self._steps[place]) for place in order[1:])
        ]
