"""Loaded groups in another order: what a scheduler holds per group follows the groups' names."""

import weakref
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from functorch_optim.typing import OptionValues, PyTree

Sources = list[list[int]]  # for each group, the saved groups that its parameters come from


class Regrouped(Protocol):
    """A scheduler that can change the order of what it holds per group."""

    def _regroup(self, sources: Sources) -> None: ...


class LoadedGroups(NamedTuple):
    """The groups as they were loaded, for a scheduler that is loaded before the next step."""

    groups: list[OptionValues]
    sources: Sources

    def regrouped(self, values: list[PyTree], present: Sequence[PyTree]) -> list[PyTree]:
        return values if in_order(self.sources) else regrouped(values, self.sources, present)


class Waiting:
    """The schedulers that were loaded, for an optimizer that is loaded before their next step."""

    def __init__(self) -> None:
        self._schedulers: list[weakref.ref[Regrouped]] = []

    def add(self, scheduler: Regrouped) -> None:
        self._schedulers = [each for each in self._schedulers if each() not in (None, scheduler)]
        self._schedulers.append(weakref.ref(scheduler))

    def regroup(self, sources: Sources) -> None:
        """Give them the order of the optimizer's groups."""
        for scheduler in () if in_order(sources) else [each() for each in self._schedulers]:
            if scheduler is not None:
                scheduler._regroup(sources)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Waiting, ()  # a copy of the optimizer has no schedulers


def in_order(sources: Sources) -> bool:
    """Whether every group comes from the saved group in its place, or from none."""
    return all(source in ([], [index]) for index, source in enumerate(sources))


def regrouped(values: Sequence[PyTree], sources: Sources, present: Sequence[PyTree]) -> list[PyTree]:
    """Return each group's value out of the saved ``values``; the ``present`` one if no or differing groups have it.

    Example:
        >>> regrouped([0.1, 1.0], [[1], [0], []], [5.0, 6.0, 7.0])
        [1.0, 0.1, 7.0]
    """
    result: list[PyTree] = []
    for own, indices in enumerate(sources):
        found = [values[index] for index in indices if index < len(values)]
        if found and all(value == found[0] for value in found):
            result.append(found[0])
        elif own < len(present):
            result.append(present[own])
    return result
