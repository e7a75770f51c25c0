"""Loaded groups in another order: what a scheduler holds per group follows the groups' names."""

import weakref
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from functorch_optim.typing import OptionValues, PyTree

Sources = list[list[int]]  # for each group, the saved groups that its parameters come from


GROUP_NAMES = "_group_names"  # the key of a scheduler's state that has the order of the optimizer's groups


class Regrouped(Protocol):
    """A scheduler that can change the order of what it holds per group."""

    def _regroup(self, sources: Sources) -> None: ...


class LoadedGroups(NamedTuple):
    """The groups as they were loaded, for a scheduler that is loaded before the next step."""

    groups: list[OptionValues]
    sources: Sources


def names_of(groups: Sequence[OptionValues]) -> list[str]:
    """The first name of each group; empty if there is one group, or if a group has no names."""
    firsts = [group["param_names"][0] for group in groups if group.get("param_names")]
    return firsts if len(firsts) == len(groups) > 1 else []


def sources_of(state: Mapping[str, PyTree], groups: Sequence[OptionValues], loaded: object = None) -> Sources | None:
    """For each group the group of a scheduler's state that it comes from; None if they may be in another order.

    The names in the state tell, or else how the optimizer was ``loaded``.

    Example:
        >>> sources_of({"_group_names": ["b", "a"]}, [{"param_names": ["a"]}, {"param_names": ["b", "c"]}])
        [[1], [0]]
    """
    saved, present = state.get(GROUP_NAMES), names_of(groups)
    if isinstance(saved, list) and present and sorted(saved) == sorted(present):
        return [[saved.index(name)] for name in present]
    return loaded.sources if isinstance(loaded, LoadedGroups) else None


class Waiting:
    """The schedulers that were loaded, for an optimizer that is loaded before their next step."""

    def __init__(self) -> None:
        self._schedulers: list[weakref.ref[Regrouped]] = []

    def put(self, scheduler: Regrouped, waits: bool) -> None:
        """Note whether a scheduler waits for the order of the optimizer's groups."""
        self._schedulers = [each for each in self._schedulers if each() not in (None, scheduler)]
        if waits:
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
    if in_order(sources):
        return list(values)
    result: list[PyTree] = []
    for own, indices in enumerate(sources):
        found = [values[index] for index in indices if index < len(values)]
        if found and all(value == found[0] for value in found):
            result.append(found[0])
        elif own < len(present):
            result.append(present[own])
    return result
