"""Build Python's own types from pickles: only plain containers, texts and numbers."""

from collections import Counter, OrderedDict
from collections.abc import Hashable
from functools import partial
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from functorch_optim.checkpoint.errors import CheckpointError
from functorch_optim.checkpoint.pickle_machine import Known, add_all, as_key
from functorch_optim.checkpoint.work import Work
from functorch_optim.typing import PyTree


def _ordered(work: Work, items: PyTree = ()) -> OrderedDict[PyTree, PyTree]:
    if type(items) not in (list, tuple) or not all(type(item) in (list, tuple) and len(item) == 2 for item in items):
        raise CheckpointError("refused: an OrderedDict of something other than a list of pairs")
    held: OrderedDict[PyTree, PyTree] = OrderedDict()
    for key, value in items:
        held[as_key(work, held, key)] = value
    return held


def _counter(work: Work, counts: object = None) -> Counter[PyTree]:
    if counts is not None and type(counts) is not dict:
        raise CheckpointError("refused: a Counter of something other than counts")
    held: Counter[PyTree] = Counter()
    for key, count in (counts or {}).items():
        held[as_key(work, held, key)] = count
    return held


def _set(work: Work, items: PyTree = ()) -> set[PyTree]:
    if type(items) not in (list, tuple):
        raise CheckpointError("refused: a set of something other than a list")
    return add_all(work, set(), items)


def _frozenset(work: Work, items: PyTree = ()) -> frozenset[PyTree]:
    return frozenset(_set(work, items))


def _default_dict(factory: object = None) -> dict[Hashable, PyTree]:
    del factory  # only existing entries are read
    return {}


def _deque(items: PyTree = (), maxlen: object = None) -> list[PyTree]:
    del maxlen
    if type(items) not in (list, tuple):
        raise CheckpointError("refused: a deque of something other than a list")
    return list(items)


def _path(kind: type, *parts: object) -> str:
    if not all(type(part) is str for part in parts):
        raise CheckpointError("refused: a path of something other than texts")
    return str(kind(*parts))


def _bytes(text: object = "", encoding: object = "latin1") -> bytes:
    if type(text) is not str or type(encoding) is not str or encoding != "latin1":
        raise CheckpointError("refused: an encoding other than latin1")
    return text.encode("latin1")


def _bytearray(data: PyTree = b"", encoding: object = "latin1") -> bytearray:
    return bytearray(data if type(data) is bytes else _bytes(data, encoding))


def _complex(real: object, imag: object) -> complex:
    if type(real) is not float or type(imag) is not float:
        raise CheckpointError("refused: a complex number of something other than numbers")
    return complex(real, imag)


def _device(kind: Any, index: Any = None) -> str:
    if type(kind) is not str or not (index is None or type(index) is int):
        raise CheckpointError("refused: a device that is not a name and a number")
    return kind if index is None else f"{kind}:{index}"


def names(work: Work) -> dict[tuple[str, str], Known]:
    """Map these names in a pickle to what they build here."""
    builtins = {
        "set": partial(_set, work),
        "frozenset": partial(_frozenset, work),
        "complex": _complex,
        "bytes": _bytes,
        "bytearray": _bytearray,
    }
    paths = {
        f"{pure}{kind}": partial(_path, PureWindowsPath if kind == "WindowsPath" else PurePosixPath)
        for pure in ("", "Pure")
        for kind in ("PosixPath", "WindowsPath")
    }
    calls = {
        ("torch", "device"): _device,
        ("collections", "OrderedDict"): partial(_ordered, work),
        ("collections", "Counter"): partial(_counter, work),
        ("collections", "deque"): _deque,
        ("_codecs", "encode"): _bytes,
        **{(module, name): call for module in ("builtins", "__builtin__") for name, call in builtins.items()},
        **{(module, name): call for module in ("pathlib", "pathlib._local") for name, call in paths.items()},
    }
    known = {key: Known(".".join(key), call) for key, call in calls.items()}
    return {**known, ("collections", "defaultdict"): Known("collections.defaultdict", _default_dict, lenient=True)}
