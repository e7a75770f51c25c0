"""A reader of pickles that calls nothing but what it is given, and gives nothing but plain containers and arrays."""

import pickletools
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from functorch_optim.checkpoint.errors import CheckpointError, shown

_SCALARS = (str, int, float, bool, bytes, complex, type(None))
_CONSTANTS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
_CONTAINERS = (dict, OrderedDict, Counter, list, tuple, set, frozenset)
_IGNORED = {"PROTO", "FRAME"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Known:
    """A name that a pickle may use, and what calling it does here."""

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self.name = name
        self.call = call


class PickleMachine:
    """Runs one pickle.

    Args:
        find: ``find(module, name)`` is what a global name stands for; it raises where it stands for nothing.
        load: ``load(persistent_id)`` is an object kept outside of the pickle.

    Raises:
        CheckpointError: from :meth:`run`, whatever is wrong.
    """

    def __init__(self, find: Callable[[str, str], Any], load: Callable[[Any], Any]) -> None:
        self.find = find
        self.load = load
        self.stack: list[Any] = []
        self.marks: list[int] = []  # where in the stack they are
        self.memo: dict[int, Any] = {}
        self.budget = 0  # what calls may still be given: a small pickle must not make them copy for ever

    def run(self, pickle: bytes) -> Any:
        self.budget = 8 * len(pickle) + 10_000
        try:
            for opcode, argument, _ in pickletools.genops(pickle):
                if opcode.name == "STOP":
                    break
                self._step(opcode.name, argument)
            (result,) = self.stack
        except CheckpointError:
            raise
        except Exception as error:  # whatever a wrong pickle makes of the steps
            raise CheckpointError(f"the pickle in the file is damaged: {shown(error)}") from error
        _check(result)
        return result

    def _step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(argument)
        elif name in _VALUES:
            self.stack.append(_VALUES[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            items = [self._pop() for _ in range(_TUPLES[name])]
            self.stack.append(tuple(reversed(items)))
        elif name not in _IGNORED:
            action = _ACTIONS.get(name)
            if action is None:
                raise CheckpointError(f"refused: the pickle uses {name}")
            action(self, argument)

    def _pop(self) -> Any:
        if self.marks and self.marks[-1] >= len(self.stack):
            raise CheckpointError("the pickle in the file is damaged: it takes what is before a mark")
        return self.stack.pop()

    def _until_mark(self) -> list[Any]:
        begin = self.marks.pop()
        items = self.stack[begin:]
        del self.stack[begin:]
        return items

    def _put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def _append(self, items: list[Any]) -> None:
        _expect(self.stack[-1], list).extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = _expect(self.stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[hashable(key)] = value

    def _add_items(self) -> None:
        items = self._until_mark()
        _expect(self.stack[-1], set).update(map(hashable, items))

    def _global(self, module: Any, name: Any) -> None:
        self.stack.append(self.find(_expect(module, str), _expect(name, str)))

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Known):
            raise CheckpointError(f"refused: the pickle calls {type(function).__name__!r}, which is no function")
        given = _expect(arguments, tuple)
        self.budget -= sum(len(one) for one in given if isinstance(one, (str, bytes, *_CONTAINERS)))
        if self.budget < 0:
            raise CheckpointError("refused: a pickle that makes its calls copy the same things again and again")
        self.stack.append(function.call(*given))

    def _build(self) -> None:
        """What an OrderedDict has beside its items, a module's ``_metadata`` say, is left out."""
        state = self._pop()
        _expect(self.stack[-1], OrderedDict)
        _expect(state, dict)


_ACTIONS: dict[str, Callable[[PickleMachine, Any], Any]] = {
    "MARK": lambda self, _: self.marks.append(len(self.stack)),
    "POP": lambda self, _: self._pop(),
    "POP_MARK": lambda self, _: self._until_mark(),
    "TUPLE": lambda self, _: self.stack.append(tuple(self._until_mark())),
    "FROZENSET": lambda self, _: self.stack.append(frozenset(map(hashable, self._until_mark()))),
    "APPEND": lambda self, _: self._append([self._pop()]),
    "APPENDS": lambda self, _: self._append(self._until_mark()),
    "SETITEM": lambda self, _: self._set_items([self._pop(), self._pop()][::-1]),
    "SETITEMS": lambda self, _: self._set_items(self._until_mark()),
    "ADDITEMS": lambda self, _: self._add_items(),
    "BINPUT": lambda self, place: self._put(place),
    "LONG_BINPUT": lambda self, place: self._put(place),
    "MEMOIZE": lambda self, _: self._put(len(self.memo)),
    "BINGET": lambda self, place: self.stack.append(self.memo[place]),
    "LONG_BINGET": lambda self, place: self.stack.append(self.memo[place]),
    "GLOBAL": lambda self, name: self._global(*name.split(" ", 1)),
    "STACK_GLOBAL": lambda self, _: self._global(*[self._pop(), self._pop()][::-1]),
    "REDUCE": lambda self, _: self._reduce(),
    "BUILD": lambda self, _: self._build(),
    "BINPERSID": lambda self, _: self.stack.append(self.load(self._pop())),
}


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise CheckpointError(f"the pickle has {type(value).__name__!r} where it should have {kind.__name__!r}")
    return value


def hashable(key: Any) -> Any:
    """A key that is cheap to hash: nested tuples that share their parts take for ever."""
    items = key if type(key) is tuple and len(key) <= 16 else (key,)
    if all(type(item) in _SCALARS and not (type(item) is int and item.bit_length() > 64) for item in items):
        return key
    raise CheckpointError(f"refused: a key of the type {type(key).__name__!r}")


def _check(tree: Any) -> None:
    """Raise unless there are plain containers, numbers, strings, arrays and dtypes, in a tree that can be walked.

    None is inside of itself, none deeper than 500, and they are not more than ten million, a shared one counted
    wherever it stands.
    """
    sizes: dict[int, int] = {}
    path: set[int] = set()
    pending: list[tuple[Any, bool]] = [(tree, False)]
    while pending:
        node, leaving = pending.pop()
        if type(node) not in _CONTAINERS:
            if type(node) not in (*_SCALARS, bytearray, np.ndarray) and not isinstance(node, np.dtype):
                raise CheckpointError(f"refused: {type(node).__name__!r} as a value")
            continue
        children = list(node.values() if isinstance(node, dict) else node)
        if leaving:
            path.remove(id(node))
            sizes[id(node)] = 1 + sum(sizes.get(id(child), 1) for child in children)
            if sizes[id(node)] > 10_000_000:
                raise CheckpointError("refused: containers that hold each other more than ten million times")
        elif id(node) in path:
            raise CheckpointError("refused: a container that is inside of itself")
        elif id(node) not in sizes:
            path.add(id(node))
            if len(path) > 500:
                raise CheckpointError("refused: containers nested more than 500 deep")
            pending.append((node, True))
            pending += [(child, False) for child in children]
