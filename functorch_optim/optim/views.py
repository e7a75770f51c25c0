"""Trees and dicts that an optimizer hands out, and how writes to them reach the optimizer."""

import operator
import sys
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import jax

from functorch_optim import trees
from functorch_optim.typing import PyTree


class Watched:
    """A tree of current arrays that was handed out, and its leaves at the last check."""

    def __init__(self, tree: PyTree, leaves: list[PyTree]) -> None:
        self.tree = tree
        self.leaves = leaves

    def has_other_holders(self) -> bool:
        """Whether something else refers to the tree, and may still write into it."""
        return _references(self) > _ALONE

    def written(
        self, structure: trees.Structure, present: Sequence[PyTree], what: str
    ) -> tuple[list[PyTree], list[PyTree] | None]:
        """The tree's leaves now, and ``present`` updated with those that were written, or None if none were.

        Raises:
            ValueError: the tree has another structure now.
        """
        leaves, treedef = jax.tree.flatten(self.tree)
        if treedef != structure.treedef:  # some leaves are None, or it was written to
            try:
                leaves = structure.treedef.flatten_up_to(self.tree)
            except ValueError:
                leaves = trees.align(structure.unflatten(self.leaves), self.tree, f"the written {what}")
        if all(map(operator.is_, leaves, self.leaves)):
            return leaves, None
        whole = zip(leaves, self.leaves, present, strict=True)
        return leaves, [held if new is old else new for new, old, held in whole]


def _references(watched: Watched) -> int:
    """The number of references to the tree, counted the same way at import and later."""
    return sys.getrefcount(watched.tree)


_ALONE = _references(Watched([], []))


def watch(watched: list[Watched], structure: trees.Structure, leaves: list[PyTree]) -> PyTree:
    """Hand out the arrays in their structure as a watched tree: the last one if it has these arrays."""
    if watched and all(map(operator.is_, watched[-1].leaves, leaves)):
        return watched[-1].tree
    watched.append(Watched(structure.unflatten(leaves), list(leaves)))
    return watched[-1].tree


@contextmanager
def unwatch_on_error(watched: list[Watched], one: Watched) -> Generator[None]:
    """Stop watching a tree if what was written to it does not fit."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError):
        watched.remove(one)
        raise


class _Written(dict[Any, Any]):
    """A dict that applies changes to the optimizer first, and stays unchanged if the optimizer refuses them.

    ``change(f)`` replaces the optimizer's own dict ``d`` with ``f(d)`` and returns what is there then. Without it, in
    a copy, this is an ordinary dict.
    """

    def __init__(self, items: Mapping[Any, Any], change: Callable[[Any], Mapping[Any, Any]] | None = None) -> None:
        super().__init__(items)
        self._change = change

    def _become(self, new: Callable[[dict[Any, Any]], dict[Any, Any]]) -> None:
        held = new(dict(self)) if self._change is None else self._change(new)
        super().clear()
        super().update(held)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._become(lambda held: {**held, key: value})

    def __delitem__(self, key: Any) -> None:
        if key not in self:
            raise KeyError(key)
        self._become(lambda held: {name: value for name, value in held.items() if name != key})

    def pop(self, key: Any, *default: object) -> Any:
        if key not in self and default:
            return default[0]
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[Any, Any]:
        key = next(reversed(self))
        return key, self.pop(key)

    def setdefault(self, key: Any, default: object = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: object, **kwargs: object) -> None:
        added = dict(*args, **kwargs)
        self._become(lambda held: {**held, **added})

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self

    def clear(self) -> None:
        self._become(lambda held: {})

    def __reduce__(self) -> tuple[object, ...]:
        return dict, (dict(self),)

    def __copy__(self) -> dict[Hashable, Any]:
        return dict(self)


class Entry(_Written):
    """The slots of one parameter."""


class State(_Written):
    """The entries of the parameters that have one."""


def _flat(node: _Written) -> tuple[list[tuple[Hashable, PyTree]], tuple[Hashable, ...]]:
    keys = tuple(sorted(node))
    return [(jax.tree_util.DictKey(key), node[key]) for key in keys], keys


for _kind in (Entry, State):
    jax.tree_util.register_pytree_with_keys(
        _kind, _flat, lambda keys, values, kind=_kind: kind(dict(zip(keys, values, strict=True)))
    )


REFUSED = (
    "the list of the groups, and that of a group's parameters, is not edited: add_param_group() takes parameters in, "
    "replace() exchanges one, a gradient of None leaves one alone; for other groups build a new optimizer, and load "
    "the state with load_state_dict(..., match='name')"
)


def _refuse(self: object, *args: object, **kwargs: object) -> NoReturn:
    """Raise: groups and their parameters are added and replaced in other ways."""
    raise TypeError(REFUSED)


class ParamGroups(list[dict[str, PyTree]]):
    """The groups: their dicts may be written to, but only ``add_param_group`` changes the list."""

    def __reduce__(self) -> tuple[object, ...]:
        return list, (list(self),)


def refuse_edits(kind: type) -> None:
    """Make all methods that edit a list raise."""
    methods = ("append", "extend", "insert", "pop", "remove", "clear", "reverse", "sort", "__iadd__", "__imul__")
    for name in (*methods, "__delitem__", "__setitem__"):
        if name not in vars(kind):
            setattr(kind, name, _refuse)


refuse_edits(ParamGroups)


def added(groups: list[PyTree], group: object) -> None:
    """Append to a :class:`ParamGroups`."""
    list.append(groups, group)


def replaced(groups: list[PyTree], new: Iterable[PyTree]) -> None:
    """Replace all groups of a :class:`ParamGroups`."""
    list.__setitem__(groups, slice(None), new)
