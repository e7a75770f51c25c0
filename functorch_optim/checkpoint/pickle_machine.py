"""A pickle reader that calls only the functions it is given and returns only plain containers and arrays."""

import pickletools
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from functorch_optim.checkpoint.errors import CheckpointError, shown
from functorch_optim.checkpoint.plain_tree import Refused, Skip, Unfinished, finished, plain
from functorch_optim.checkpoint.work import Work
from functorch_optim.typing import PyTree

_SCALARS = (str, int, float, bool, bytes, complex, type(None))
_CONSTANTS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
_SIZED = (dict, OrderedDict, Counter, list, tuple, set, frozenset)
_IGNORED = {"PROTO", "FRAME"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Known:
    """A name that a pickle may use, and the function it calls here; if ``lenient``, even on refused arguments."""

    def __init__(self, name: str, call: Callable[..., PyTree], lenient: bool = False) -> None:
        self.name = name
        self.call = call
        self.lenient = lenient


class _Made(Unfinished):
    """An object that an unknown class builds from several values alone: a namedtuple, or as good as one."""

    def __init__(self, kind: Refused, values: tuple[PyTree, ...]) -> None:
        self.kind, self.values = kind, values

    def build(self, state: PyTree) -> None:
        del state  # it holds more than its values
        self.refusal = self.kind

    def finish(self) -> PyTree:
        return self.values


class PickleMachine:
    """Runs one pickle.

    Args:
        find: ``find(module, name)`` resolves a global name; :class:`Refused` if it means nothing here.
        load: ``load(persistent_id)`` returns an object stored outside the pickle.
        work: the work that the file may still cause.

    Raises:
        CheckpointError: from :meth:`run`, for any error.
    """

    def __init__(self, find: Callable[[str, str], PyTree], load: Callable[[PyTree], PyTree], work: Work) -> None:
        self.find = find
        self.load = load
        self.work = work
        self.stack: list[PyTree] = []
        self.marks: list[int] = []  # their positions in the stack
        self.memo: dict[int, PyTree] = {}

    def run(self, pickle: bytes, skip: Skip = ()) -> PyTree:
        """Build what the pickle describes, without the refused entries that ``skip`` selects."""
        try:
            for opcode, argument, _ in pickletools.genops(pickle):
                if opcode.name == "STOP":
                    break
                self._step(opcode.name, argument)
            (result,) = self.stack
            return plain(result, skip, self.work)
        except CheckpointError:
            raise
        except Exception as error:  # a damaged pickle can raise anything
            raise CheckpointError(f"the pickle in the file is damaged: {shown(error)}") from error

    def _step(self, name: str, argument: object) -> None:
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

    def _pop(self) -> PyTree:
        if self.marks and self.marks[-1] >= len(self.stack):
            raise CheckpointError("the pickle in the file is damaged: it pops what is below a mark")
        return self.stack.pop()

    def _until_mark(self) -> list[PyTree]:
        begin = self.marks.pop()
        items = self.stack[begin:]
        del self.stack[begin:]
        return items

    def _put(self, place: int) -> None:
        self.memo[self.work.key(self.memo, place)] = self.stack[-1]

    def _append(self, items: list[PyTree]) -> None:
        if not isinstance(self.stack[-1], Refused):
            _expect(self.stack[-1], list).extend(items)

    def _set_items(self, items: list[PyTree]) -> None:
        if not isinstance(self.stack[-1], Refused):
            target = _expect(self.stack[-1], dict)
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[as_key(self.work, target, key)] = value

    def _add_items(self) -> None:
        items = self._until_mark()
        if not isinstance(self.stack[-1], Refused):
            add_all(self.work, _expect(self.stack[-1], set), items)

    def _global(self, module: PyTree, name: object) -> None:
        self.stack.append(self.find(_expect(module, str), _expect(name, str)))

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        repeated = "a pickle that makes its calls copy the same things again and again"
        self.work.spend(100 * len(_expect(arguments, tuple)), repeated)
        given = tuple(map(finished, arguments))
        self.work.spend(100 * sum(len(one) for one in given if isinstance(one, (str, bytes, *_SIZED))), repeated)
        refused = refusal((function,) if isinstance(function, Known) and function.lenient else (function, *given))
        if refused is None and not isinstance(function, Known):
            raise CheckpointError(f"refused: the pickle calls {type(function).__name__!r}, which is no function")
        self.stack.append(function.call(*given) if refused is None else refused)

    def _new(self, name: str, arguments: Any, kind: Any) -> None:
        """Push an object of a class."""
        if not isinstance(kind, Refused):
            raise CheckpointError(f"refused: the pickle uses {name}")
        several = type(arguments) is tuple and len(arguments) > 1
        self.stack.append(_Made(kind, arguments) if several else kind)

    def _new_with_names(self) -> None:
        self._pop()
        self._new("NEWOBJ_EX", (), [self._pop(), self._pop()][1])

    def _build(self) -> None:
        """Set the state of the object on top; an OrderedDict's attributes (a module's ``_metadata``) are dropped."""
        state, target = self._pop(), self.stack[-1]
        if isinstance(target, Unfinished):
            given = tuple(map(finished, state)) if type(state) is tuple and len(state) < 100 else state
            target.refusal = refusal(given) if type(given) is tuple else None
            if target.refusal is None:
                target.build(given)
        elif not isinstance(target, Refused):
            _expect(target, OrderedDict)
            _expect(state, dict)

    def _load(self, identity: Hashable) -> None:
        refused = refusal(identity) if type(identity) is tuple and len(identity) < 100 else None
        self.stack.append(self.load(identity) if refused is None else refused)


_ACTIONS: dict[str, Callable[[PickleMachine, PyTree], PyTree]] = {
    "MARK": lambda self, _: self.marks.append(len(self.stack)),
    "POP": lambda self, _: self._pop(),
    "POP_MARK": lambda self, _: self._until_mark(),
    "TUPLE": lambda self, _: self.stack.append(tuple(self._until_mark())),
    "FROZENSET": lambda self, _: self.stack.append(frozenset(add_all(self.work, set(), self._until_mark()))),
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
    "NEWOBJ": lambda self, _: self._new("NEWOBJ", self._pop(), self._pop()),
    "NEWOBJ_EX": lambda self, _: self._new_with_names(),
    "BINPERSID": lambda self, _: self._load(self._pop()),
}


def _expect(value: object, kind: type) -> PyTree:
    if not isinstance(value, kind):
        raise CheckpointError(f"the pickle has {type(value).__name__!r} where it should have {kind.__name__!r}")
    return value


def refusal(values: tuple[object, ...]) -> Refused | None:
    """The first refused value, if any."""
    return next((value for value in values if isinstance(value, Refused)), None)


def as_key(work: Work, held: dict[Hashable, PyTree] | set[PyTree], given: object) -> PyTree:
    """Return a key that is cheap to hash, or a refusal: nested tuples that share parts take forever."""
    key = finished(given)
    if isinstance(key, Refused):
        return key
    items = key if type(key) is tuple and len(key) <= 16 else (key,)
    if all(type(item) in _SCALARS and not (type(item) is int and item.bit_length() > 64) for item in items):
        return work.key(held, key)
    return Refused(f"refused: a key of the type {type(key).__name__!r}")


def add_all(work: Work, held: set[PyTree], items: PyTree) -> set[PyTree]:
    """Add items to a set, with the rules for keys, and return it."""
    for item in items:
        held.add(as_key(work, held, item))
    return held
