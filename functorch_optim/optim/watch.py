"""Find where a compiled function's constants come from outside it, and whether they have changed.

What a function reads from its surroundings while it is traced becomes constant. We find the sources in two ways. The
code shows which variables and attributes the function reads, itself and in the functions and methods that it calls.
And the arrays that tracing captured are known by identity: we search the objects that the function reaches for what
holds them. Each place is stored as the steps that lead to it from the function; nothing there is kept alive.
"""

import functools
import inspect
import itertools
import operator
import sys
import types
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from functorch_optim.optim.places import PLAIN, Node, Places, Watch, original
from functorch_optim.optim.reads import Chain, Reads, reads_of

_ARRAY = jax.Array | np.ndarray
_FUNCTION = types.FunctionType | types.MethodType | functools.partial  # pyright: ignore[reportMissingTypeArgument] isinstance takes none
_CLOSED = frozenset({"jax", "jaxlib", "numpy", "functorch_optim", *sys.stdlib_module_names} - {"__main__"})
_INSTALLED = ("site-packages", "dist-packages")
_MANY = 1000  # containers with more items are not followed
_FAR = 20_000  # maximum number of objects to visit
_WAYS = 3  # from how many places to follow one object; references may be circular
_ABSTRACT = frozenset({"dtype", "ndim", "shape", "size"})  # what is read of an array without its values
_NOTHING = object()


class Closed:
    """Base of objects that are not searched for captured arrays because they keep them themselves."""


def watch(function: object, captured: Iterable[object]) -> Watch:
    """Find what to check for a function that captured these arrays when it was traced.

    It looks at objects of any class, whose own methods may raise anything; then what they read is unseen.
    """
    try:
        return _watch(function, captured)
    except Exception as error:  # an object's own methods may raise anything
        return Watch([], f"something that it reads raises {type(error).__name__} when it is looked at")


def _watch(function: object, captured: Iterable[object]) -> Watch:
    arrays = {id(array): array for array in map(original, captured) if not isinstance(array, Tracer)}
    walk = _Walk(function, arrays)
    walk.follow_code()
    walk.search_objects()
    lost = [array for key, array in arrays.items() if key not in walk.found and isinstance(array, jax.Array)]
    unseen = f"{len(lost)} of the arrays that it reads stand where no change is seen" if lost else ""
    return Watch(walk.checks(), "it takes what an iterator gives" if walk.iterators else unseen)


def captured_arrays(jaxpr: Any) -> Iterator[Any]:
    """The constants of a traced function and of the functions within it."""
    yield from getattr(jaxpr, "consts", ())
    for equation in jaxpr.eqns:
        for parameter in equation.params.values():
            for inner in parameter if isinstance(parameter, tuple | list) else (parameter,):
                if hasattr(inner, "eqns"):
                    yield from captured_arrays(inner)


class _Walk(Places):
    """Walks from a function to what it reads."""

    def __init__(self, function: object, captured: dict[int, Any]) -> None:
        super().__init__()
        self.iterators = False
        self._root, self._captured = Node(function, 0), captured
        self._loose: set[str] = set()  # attributes read from values whose origin the code does not show
        self._written: set[str] = set()
        self._used: dict[Hashable, Node] = {}
        self._ways: Counter[object] = Counter()
        self._todo: deque[tuple[Callable[..., None], tuple[object, ...]]] = deque()

    def follow_code(self) -> None:
        """Follow what the code reads until it names nothing new."""
        names = -1
        while names < len(self._loose):
            names = len(self._loose)
            self._used, self._ways = {}, Counter()
            self._value(self._root)
            while self._todo and len(self._used) < _FAR:
                function, arguments = self._todo.popleft()
                function(*arguments)

    def _later(self, function: Callable[..., None], *arguments: object) -> None:
        self._todo.append((function, arguments))

    def _is_known(self, *key: int) -> bool:
        """Whether an object, or a function with its owner, was already followed from several places."""
        self._ways[key] += 1
        return self._ways[key] > _WAYS

    def _value(self, node: Node) -> None:
        """Follow a value that the code uses as a whole."""
        value = node.value
        if isinstance(value, types.ModuleType | type) or (node.place, id(value)) in self._used:
            return
        self._used[node.place, id(value)] = node
        self.iterators |= isinstance(value, Iterator)
        if isinstance(value, dict | list | tuple):
            if not self._is_known(id(value)):
                self._items(node)
            return
        if node.place and not isinstance(value, types.MethodType) and not _is_installed(value):
            self.watch(node)
        if isinstance(value, PLAIN | _ARRAY) or self._is_known(id(value)):
            return
        self._calls(node)
        if node.place and not isinstance(value, _FUNCTION):
            named = itertools.chain(getattr(value, "__dict__", ()), *map(vars, type(value).__mro__))
            for name in self._loose.intersection(named):
                self._attribute(node, (name,))

    def _items(self, node: Node) -> None:
        """Follow the items of a container; plain values of a dict only if the code names their keys."""
        container = node.value
        self.watch(self.step(node, "len", len, len(container)))
        for key in _keys(container) if len(container) <= _MANY else ():
            value = container[key]
            unnamed = isinstance(container, dict) and isinstance(value, PLAIN) and key not in self._loose
            if not unnamed and not (isinstance(value, jax.Array) and id(value) not in self._captured):
                self._later(self._value, self.item(node, key))

    def _calls(self, node: Node) -> None:
        """Follow what a call reads, of a function, a method, a partial, a wrapper or an object."""
        value = node.value
        if isinstance(value, types.FunctionType):
            self._function(node, None)
        elif isinstance(value, types.MethodType) and isinstance(value.__func__, types.FunctionType):
            owner = self.attribute(node, "__self__", value.__self__)
            self._function(self.attribute(node, "__func__", value.__func__), owner)
        elif "__wrapped__" in getattr(value, "__dict__", ()):
            self._later(self._value, self.member(node, "__wrapped__"))
        elif isinstance(value, _FUNCTION):
            for part in _parts(self, node):
                self._later(self._value, part)
        elif callable(value):
            self._methods(node, "__call__")

    def _function(self, node: Node, owner: Node | None) -> None:
        """Follow what a function reads; ``owner`` is its first argument, if known."""
        function = node.value
        home, installed = (function.__module__ or "").partition(".")[0], _is_installed(function)
        if home in _CLOSED or (installed and owner is None) or self._is_known(id(function), id(owner and owner.value)):
            return
        reads: Reads = reads_of(function.__code__)
        self._written |= reads.written
        self._loose |= frozenset() if installed else reads.loose
        for chain in reads.chains:
            start = owner if chain.kind == "first" else self._variable(node, chain)
            if start is not None:
                self._later(self._attribute, start, chain.attributes)
            elif chain.kind == "first":
                self._loose.update(chain.attributes)
        for name in () if installed else ("__defaults__", "__kwdefaults__"):
            if getattr(function, name):
                self._later(self._value, self.attribute(node, name, getattr(function, name)))

    def _variable(self, node: Node, chain: Chain) -> Node | None:
        """A variable that a function reads from its surroundings, if it has a value there."""
        function = node.value
        if chain.kind == "global":
            scope = self.attribute(node, "__globals__", function.__globals__)
            return self.item(scope, chain.name) if chain.name in function.__globals__ else None
        cells = self.attribute(node, "__closure__", function.__closure__)
        cell = self.item(cells, function.__code__.co_freevars.index(chain.name))
        try:
            return self.attribute(cell, "cell_contents", cell.value.cell_contents)
        except ValueError:  # not assigned yet
            return None

    def _attribute(self, node: Node, names: tuple[str, ...]) -> None:
        """Follow the value at the end of a chain of attributes, and the methods on the way."""
        owner = node.value
        if not names or (isinstance(owner, PLAIN | _ARRAY) and names[0] not in _ABSTRACT):
            self._value(node)  # what an array's methods return depends on the whole array
            return
        if isinstance(owner, types.ModuleType) and owner.__name__.partition(".")[0] in _CLOSED:
            return
        name, rest = names[0], names[1:]
        found = inspect.getattr_static(owner, name, _NOTHING)
        if isinstance(owner, _ARRAY):
            self._attribute(self.attribute(node, name, getattr(owner, name)), rest)
        elif name in getattr(owner, "__dict__", ()):
            if name not in self._written or rest:  # else the code itself wrote it
                self._attribute(self.member(node, name), rest)
        elif isinstance(found, property | types.FunctionType):
            self._methods(node, name)
        elif isinstance(found, types.MemberDescriptorType | staticmethod | classmethod) or (
            found is not _NOTHING and not hasattr(type(found), "__get__")
        ):
            value = getattr(owner, name, _NOTHING)
            if value is not _NOTHING:
                self._attribute(self.attribute(node, name, value), rest)

    def _methods(self, node: Node, name: str) -> None:
        """Follow a method, or the function of a property, and those that it overrides."""
        kinds = type(node.value).__mro__
        for index, kind in enumerate(kinds):
            found = vars(kind).get(name)
            function = found.fget if isinstance(found, property) else found
            if isinstance(function, types.FunctionType):
                order = self.step(node, "mro", operator.attrgetter("__class__.__mro__"), kinds)
                held = self.item(self.attribute(self.item(order, index), "__dict__", vars(kind)), name)
                own = held if function is found else self.attribute(held, "fget", function)
                self._later(self._function, own, node)

    def search_objects(self) -> None:
        """Search everything the code reaches for captured arrays that it does not name."""
        missing, seen = self._captured.keys() - self.found, set[int]()
        ends = PLAIN | _ARRAY | types.ModuleType | type | Closed
        queue = deque([self._root, *self._used.values()] if missing else [])
        while queue and len(seen) < _FAR:
            node = queue.popleft()
            if id(original(node.value)) in missing:
                self.watch(node)
            elif id(node.value) not in seen and not isinstance(node.value, ends):
                seen.add(id(node.value))
                queue.extend(_parts(self, node))


def _parts(places: Places, node: Node) -> Iterator[Node]:
    """The values that an object refers to."""
    value = node.value
    if isinstance(value, dict | list | tuple):
        yield from (places.item(node, key) for key in _keys(value))
        return
    names = ("__self__", "__func__", "__closure__", "cell_contents", "func", "args", "keywords")
    for name in names if isinstance(value, _FUNCTION | types.CellType) else ():
        part = getattr(value, name, None) if name != "cell_contents" else _contents(value)
        if part is not None:
            yield places.attribute(node, name, part)
    yield from (places.member(node, name) for name in list(getattr(value, "__dict__", ())))
    for kind in (kind for kind in type(value).__mro__ if "__slots__" in vars(kind)):
        for name, found in vars(kind).items():
            if isinstance(found, types.MemberDescriptorType) and hasattr(value, name):
                yield places.attribute(node, name, getattr(value, name))


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except (AttributeError, ValueError):  # not a cell, or an empty one
        return None


def _keys(container: Any) -> list[Any]:
    return list(container) if isinstance(container, dict) else list(range(len(container)))


def _is_installed(function: object) -> bool:
    """Whether this is a function of an installed package, which does not change in a running program."""
    code = getattr(function, "__code__", None)
    return isinstance(code, types.CodeType) and any(part in code.co_filename for part in _INSTALLED)
