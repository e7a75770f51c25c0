"""Files of ``torch.save``, read without torch and without executing anything that is in them."""

import os
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from functorch_optim.checkpoint.archive import Archive
from functorch_optim.checkpoint.dtypes import DTYPES, STORAGES
from functorch_optim.checkpoint.errors import CheckpointError
from functorch_optim.checkpoint.pickle_machine import Known, PickleMachine


class _Kind(NamedTuple):
    """The class of a storage: what its elements are."""

    name: str
    dtype: np.dtype[Any]


def load_torch(path: str | os.PathLike[str], verify: bool = True) -> Any:
    """What ``torch.save`` wrote, with NumPy's arrays in the place of tensors.

    Nothing of the file is executed: of the names in it only those that tensors and containers need mean something, and
    each of them only what it does here. The arrays are views of the file, which is mapped and not read into memory;
    writing into them changes the copy in memory alone. Parameters become arrays, a ``torch.Size`` a tuple, a dtype
    NumPy's, a device its name. bfloat16 and float8 are the dtypes of ``ml_dtypes``, which JAX takes.

    Args:
        path: a file in the format of torch 1.6 and newer, of a little-endian machine.
        verify: whether to compare the checksums of what is read.

    Raises:
        CheckpointError: the file is none of these, is damaged, or has in it what is not known here; the message names
            it. OSError: there is no such file.

    Example:
        >>> import tempfile
        >>> from functorch_optim.checkpoint import save_torch
        >>> path = tempfile.mkdtemp() + "/checkpoint.pt"
        >>> save_torch({"weight": np.ones(2, np.float32), "epoch": 3}, path)
        >>> load_torch(path)
        {'weight': array([1., 1.], dtype=float32), 'epoch': 3}
    """
    archive = Archive(path, verify)
    order = bytes(archive.read("byteorder")) if "byteorder" in archive.records else b"little"
    if order != b"little":
        raise CheckpointError(
            f"the arrays in {path} are {order.decode('ascii', 'replace')}-endian: only little is read"
        )
    storages: dict[str, np.ndarray] = {}
    machine = PickleMachine(_find, partial(_storage, archive, storages))
    return machine.run(bytes(archive.read("data.pkl")))


class _Storage(NamedTuple):
    data: np.ndarray
    dtype: np.dtype[Any]


def _storage(archive: Archive, storages: dict[str, np.ndarray], identity: Any) -> _Storage:
    """The storage that a persistent id names: its bytes, and the dtype of its elements."""
    if not (isinstance(identity, tuple) and len(identity) == 5 and identity[0] == "storage"):
        raise CheckpointError(f"refused: {type(identity).__name__!r} in the place of a storage")
    _, kind, key, _, count = identity
    if not (isinstance(kind, _Kind) and isinstance(key, str) and type(count) is int):
        raise CheckpointError("refused: a storage that is not named as torch names it")
    if key not in storages:
        storages[key] = np.frombuffer(archive.read(f"data/{key}"), np.uint8)
    data = storages[key]
    if count < 0 or count * kind.dtype.itemsize != data.nbytes:
        raise CheckpointError(
            f"the storage {key!r} should have {count} elements of {kind.name}, it has {data.nbytes} bytes"
        )
    return _Storage(data, kind.dtype)


def _tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> np.ndarray:
    """A tensor as a view of its storage."""
    del requires_grad, hooks
    return _view(storage, storage.dtype if isinstance(storage, _Storage) else None, offset, size, stride, metadata)


def _tensor_of_dtype(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> np.ndarray:
    """The same where the storage is one of bytes."""
    del requires_grad, hooks
    return _view(storage, dtype, offset, size, stride, metadata)


def _view(storage: Any, dtype: Any, offset: Any, size: Any, stride: Any, metadata: Any) -> np.ndarray:
    if not (isinstance(storage, _Storage) and isinstance(dtype, np.dtype)):
        raise CheckpointError("refused: a tensor without a storage")
    shape, steps = _numbers(size), _numbers(stride)
    (offset,) = _numbers((offset,))
    if len(shape) != len(steps):
        raise CheckpointError(f"a tensor has the size {shape}, but the stride {steps}")
    held = storage.data.nbytes // dtype.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(shape, steps, strict=True)) if all(shape) else offset - 1
    if last >= held:
        raise CheckpointError(f"a tensor of size {shape} and stride {steps} at {offset} leaves its storage of {held}")
    array = np.ndarray(shape, dtype, storage.data, offset * dtype.itemsize, [n * dtype.itemsize for n in steps])
    return _resolved(array, metadata, held)


def _resolved(array: np.ndarray, metadata: Any, held: int) -> np.ndarray:
    """A tensor whose sign or conjugation is noted beside it, with both carried out."""
    if not metadata:
        return array
    if not isinstance(metadata, Mapping) or not set(metadata) <= {"conj", "neg"}:
        raise CheckpointError("refused: a tensor with something unknown beside it")
    if array.size > held:
        raise CheckpointError("refused: a tensor that is larger than its storage, to be copied")
    array = np.conj(array) if metadata.get("conj") else array
    return np.negative(array) if metadata.get("neg") else array


def _numbers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or not all(type(value) is int and 0 <= value < 2**62 for value in values):
        raise CheckpointError("a size, stride or offset of a tensor is not one of whole numbers from 0 on")
    return tuple(values)


def _parameter(data: Any, requires_grad: Any = True, hooks: Any = None, state: Any = None) -> np.ndarray:
    del requires_grad, hooks, state
    if not isinstance(data, np.ndarray):
        raise CheckpointError("refused: a parameter that is no tensor")
    return data


def _ordered(items: Any = ()) -> OrderedDict[Any, Any]:
    if not isinstance(items, Sequence) or not all(isinstance(i, Sequence) and len(i) == 2 for i in items):
        raise CheckpointError("refused: an OrderedDict of what is no list of pairs")
    if not all(isinstance(key, str | int) for key, _ in items):
        raise CheckpointError("refused: an OrderedDict with keys that are no names or numbers")
    return OrderedDict(tuple(item) for item in items)


def _counter(counts: Any = None) -> Counter[Any]:
    if not isinstance(counts or {}, dict) or not all(type(n) is int for n in (counts or {}).values()):
        raise CheckpointError("refused: a Counter of what are no counts")
    return Counter(counts or {})


def _bytes(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise CheckpointError(f"refused: an encoding other than latin1, {encoding!r:.40}")
    return text.encode("latin1")


def _set(items: Any = ()) -> set[Any]:
    if not isinstance(items, list | tuple) or not all(isinstance(item, str | int | float) for item in items):
        raise CheckpointError("refused: a set of what are no names or numbers")
    return set(items)


def _complex(real: Any, imag: Any) -> complex:
    if not (isinstance(real, float | int) and isinstance(imag, float | int)):
        raise CheckpointError("refused: a complex number of what are no numbers")
    return complex(real, imag)


def _device(kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str) or not (index is None or type(index) is int):
        raise CheckpointError("refused: a device that is no name and number")
    return kind if index is None else f"{kind}:{index}"


_FUNCTIONS = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_dtype,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch", "Size"): _numbers,
    ("torch", "device"): _device,
    ("collections", "OrderedDict"): _ordered,
    ("collections", "Counter"): _counter,
    ("_codecs", "encode"): _bytes,
    **{(module, "set"): _set for module in ("builtins", "__builtin__")},
    **{(module, "complex"): _complex for module in ("builtins", "__builtin__")},
}
_NAMES: dict[tuple[str, str], Any] = {
    **{key: Known(".".join(key), function) for key, function in _FUNCTIONS.items()},
    **{("torch", name): _Kind(name, dtype) for name, dtype in STORAGES.items()},
    ("torch.storage", "UntypedStorage"): _Kind("UntypedStorage", np.dtype(np.uint8)),
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
}


def _find(module: str, name: str) -> Any:
    if (module, name) not in _NAMES:
        raise CheckpointError(
            f"refused: the file uses {module}.{name}, which is not known here. Save a state_dict, not whole modules or "
            "other objects"
        )
    return _NAMES[module, name]
