"""The result of a pickle: plain containers, numbers, texts and arrays, without refused entries."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from functorch_optim.checkpoint.errors import CheckpointError
from functorch_optim.checkpoint.work import Work
from functorch_optim.typing import PyTree

Skip = Iterable[str] | Callable[[str], bool]
_Place = tuple[PyTree, PyTree] | None  # the place of the container, and the key in it

_SETS = (set, frozenset)
_CONTAINERS = (dict, OrderedDict, Counter, list, tuple, *_SETS)
_LEAVES = (str, int, float, bool, bytes, complex, type(None), bytearray, np.ndarray)
_LEFT_OUT = object()
_NAMED = 5  # how many refused entries a message lists


class Refused:
    """Stands for something that is not read, until its place is known."""

    def __init__(self, why: str) -> None:
        self.why = why


class Unfinished:
    """An object that the pickle completes later."""

    refusal: Refused | None = None

    def build(self, state: PyTree) -> None:
        """Take the state that the pickle gives."""
        raise NotImplementedError(f"{type(self).__name__} does not define build")  # abstract: every subclass does

    def finish(self) -> PyTree:
        """Return the finished object, always the same one."""
        raise NotImplementedError(f"{type(self).__name__} does not define finish")  # abstract: every subclass does


def finished(value: object) -> PyTree:
    """Return the value itself, or what an unfinished one has become."""
    if isinstance(value, Unfinished):
        return value.finish() if value.refusal is None else value.refusal
    return value


def checked_skip(skip: object) -> PyTree:
    """Normalize the option ``skip`` to a function of the place, or a tuple of places.

    Raises:
        TypeError: it is neither.
    """
    if callable(skip):
        return skip
    places = (skip,) if isinstance(skip, str) else tuple(skip) if isinstance(skip, Iterable) else (skip,)
    for place in places:
        if not isinstance(place, str):
            raise TypeError(f"skip must be places as the message has them, or a function of the place, not {place!r}")
    return places


def plain(tree: PyTree, skip: Skip, work: Work) -> PyTree:
    """Return the tree without skipped entries; lists and dicts that lose one are changed in place.

    No container may contain itself or be nested more than 500 deep, and all together hold at most ten million entries,
    where a shared container counts each time it occurs.

    Raises:
        CheckpointError: it is not such a tree, or has refused entries that are not skipped; the message says where.
    """
    if not callable(skip):
        named = tuple(skip)
        return _Walk(lambda place: place.startswith(named), work).over(tree)
    return _Walk(skip, work).over(tree)


class _Walk:
    def __init__(self, skip: Callable[[str], bool], work: Work) -> None:
        self._skip = skip
        self._work = work
        self._done: dict[int, tuple[PyTree, PyTree, int]] = {}  # a container, its replacement, and its size
        self._open: set[int] = set()
        self._refused: list[str] = []

    def over(self, tree: PyTree) -> PyTree:
        root = [finished(tree)]
        pending: list[tuple[PyTree, _Place, bool]] = [(root[0], None, False)] if type(root[0]) in _CONTAINERS else []
        while pending:
            node, place, leaving = pending.pop()
            if leaving:
                self._close(node, place)
            elif id(node) in self._open:
                raise CheckpointError("refused: a container that is inside of itself")
            elif id(node) not in self._done:
                self._open.add(id(node))
                if len(self._open) > 500:
                    raise CheckpointError("refused: containers nested more than 500 deep")
                pending.append((node, place, True))
                inside = [((place, key), child) for key, child in _entries(node) if type(child) in _CONTAINERS]
                pending += [(child, own, False) for own, child in reversed(inside)]
        result = self._kept(root[0], None)
        if self._refused or result is _LEFT_OUT:
            raise CheckpointError(_listed(self._refused or ["everything in the file is refused and skipped"]))
        return result

    def _close(self, node: PyTree, place: _Place) -> None:
        """Decide what becomes of a container whose entries are done."""
        self._open.remove(id(node))
        size, kept, changed = 1, [], False
        for key, child in _entries(node):
            own = self._kept(child, (place, key))
            size += self._done[id(child)][2] if id(child) in self._done else 1
            changed = changed or own is not child
            if own is not _LEFT_OUT:
                kept.append((key, own))
        if size > 10_000_000:
            raise CheckpointError("refused: containers that hold each other more than ten million times")
        keys = node if isinstance(node, (dict, *_SETS)) else ()
        why = next((key.why for key in keys if isinstance(key, Refused)), None)
        result = node
        if why is not None:
            self._refuse(place, why)
            result = _LEFT_OUT
        elif changed or _has_unfinished(node):
            result = _replaced(node, kept)
        self._done[id(node)] = (node, result, size)

    def _kept(self, child: object, place: _Place) -> PyTree:
        """What remains of an entry."""
        if type(child) in _CONTAINERS:
            return self._done[id(child)][1]
        if type(child) in _LEAVES or isinstance(child, np.dtype):
            return child
        self._refuse(
            place, child.why if isinstance(child, Refused) else f"refused: {type(child).__name__!r} as a value"
        )
        return _LEFT_OUT

    def _refuse(self, place: _Place, why: str) -> None:
        where = _written(place)
        self._work.spend(10 * len(where), "entries that are refused in places with long names")
        if not self._skip(where):
            self._refused.append(f"{where[:300]}: {why}" if where else why)


def _entries(node: PyTree) -> Iterator[tuple[PyTree, PyTree]]:
    """A container's values by key or number; a set has only keys, so none."""
    if isinstance(node, _SETS):
        return iter(())
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    return ((key, finished(value)) for key, value in pairs)


def _has_unfinished(node: PyTree) -> bool:
    values = node.values() if isinstance(node, dict) else node
    return any(isinstance(value, Unfinished) for value in values)


def _replaced(node: PyTree, kept: list[tuple[PyTree, PyTree]]) -> PyTree:
    """Return the container with only these entries."""
    if isinstance(node, dict):
        remaining = {id(key) for key, _ in kept}
        for key in [key for key in node if id(key) not in remaining]:
            del node[key]
        for key, value in kept:
            node[key] = value
        return node
    values = [value for _, value in kept]
    if type(node) is tuple:
        return tuple(values)
    node[:] = values
    return node


def _written(place: _Place) -> str:
    """Write a place as Python would index it: ``['args'][0]``."""
    keys = []
    while place is not None:
        place, key = place
        keys.append(f"[{key!a}]")
    return "".join(reversed(keys))


def _listed(refused: list[str]) -> str:
    more = f"\n  and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
    if len(refused) == 1:
        return f"{refused[0]}. skip= leaves out what is refused"
    first = "\n  ".join(refused[:_NAMED])
    return f"{len(refused)} entries are refused; skip= leaves them out:\n  {first}{more}"
