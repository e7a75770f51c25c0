"""What a function's code reads from outside: variables around it and attributes of these, found in its bytecode."""

import dis
import functools
import types
from collections.abc import Iterator
from typing import NamedTuple

_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD")
_PASSING = ("COPY", "EXTENDED_ARG", "PUSH_NULL")  # between a value and what is read of it


class Chain(NamedTuple):
    """A variable and the attributes that are read of it one after another: ``self.data.x``."""

    kind: str  # "first": the function's first argument, "cell" or "global"
    name: str
    attributes: tuple[str, ...]


class Reads(NamedTuple):
    """The chains of a function, the attributes and keys that are read of other values, and those that are written."""

    chains: tuple[Chain, ...]
    loose: frozenset[str]
    written: frozenset[str]


@functools.lru_cache(maxsize=4096)
def reads_of(code: types.CodeType) -> Reads:
    """What a function of this code reads, the functions within it included.

    Example:
        >>> reads_of((lambda self, x: self.data.scale * x.size).__code__)[:2]
        ((Chain(kind='first', name='self', attributes=('data', 'scale')),), frozenset({'size'}))
    """
    chains: dict[Chain, None] = {}
    loose: set[str] = set()
    written: set[str] = set()
    for part in _parts(code):
        loose.update(constant for constant in part.co_consts if isinstance(constant, str))
        chain: Chain | None = None
        for instruction in dis.get_instructions(part):
            operation, name = instruction.opname, instruction.argval
            if operation in _PASSING:
                continue
            if operation in _ATTRIBUTES and chain is not None:
                chain = chain._replace(attributes=(*chain.attributes, name))
                continue
            if chain is not None and not (operation == "STORE_ATTR" and not chain.attributes):
                chains[chain] = None
            if operation in ("STORE_ATTR", "DELETE_ATTR"):
                written.add(name)
            elif operation in _ATTRIBUTES or operation == "LOAD_SUPER_ATTR":
                loose.add(name)
            chain = _begun(code, part, operation, name)
    return Reads(tuple(chains), frozenset(loose), frozenset(written))


def _parts(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _parts(constant)


def _begun(code: types.CodeType, part: types.CodeType, operation: str, name: object) -> Chain | None:
    """The chain that begins where ``part`` of ``code`` loads a variable from outside, or the first argument."""
    first = code.co_varnames[0] if code.co_argcount else None
    if isinstance(name, tuple):  # two variables are loaded at once: the second lies on top
        name = name[-1] if name else None  # or an empty tuple is loaded itself
    if not isinstance(name, str) or "LOAD" not in operation:
        return None
    if name == "super" or (name == first and ("DEREF" in operation or ("FAST" in operation and part is code))):
        return Chain("first", first or "", ())
    if operation in ("LOAD_GLOBAL", "LOAD_NAME"):
        return Chain("global", name, ())
    return Chain("cell", name, ()) if "DEREF" in operation and name in code.co_freevars else None
