"""Read files of ``torch.save`` without torch, and without executing anything in them."""

import os
from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jax.typing import DTypeLike

from functorch_optim.checkpoint import numpy_pickles, plain_pickles
from functorch_optim.checkpoint.archive import Archive
from functorch_optim.checkpoint.dtypes import DTYPES, STORAGES
from functorch_optim.checkpoint.errors import CheckpointError, shown
from functorch_optim.checkpoint.flat import flatten, unflatten
from functorch_optim.checkpoint.pickle_machine import Known, PickleMachine
from functorch_optim.checkpoint.plain_tree import Refused, Skip, checked_skip
from functorch_optim.checkpoint.work import Work
from functorch_optim.typing import PyTree


@dataclass(frozen=True)
class _Kind:
    """A storage class, and the dtype of its elements."""

    name: str
    dtype: np.dtype


class _Class:
    """A class that a file may give a tensor."""


def load_torch(
    path: str | os.PathLike[str], verify: bool = True, mapped: bool = True, *, skip: Skip = (), like: PyTree = None
) -> PyTree:
    """Read a file of ``torch.save``, with NumPy's arrays instead of tensors.

    Nothing in the file is executed: only names that tensors and containers need are known, and each does only what
    this reader defines. The arrays are read-only views of the file. Parameters become arrays, a ``torch.Size`` a
    tuple, a dtype NumPy's, a device its name. bfloat16 and float8 become dtypes of ``ml_dtypes``, which JAX accepts.
    NumPy's arrays stay arrays, and its scalars become numbers. A defaultdict becomes a dict, a deque a list, a path a
    string, and a namedtuple of two or more values a tuple. Everything else is refused, and the message says where.
    Time and memory are proportional to the file's size.

    Args:
        path: a file in the format of torch 1.6 or newer, from a little-endian machine.
        verify: whether to verify the checksums of what is read.
        mapped: whether to map files of 16 MB and more instead of reading them into memory. While its arrays are in
            use, a mapped file must not be overwritten in place, as ``torch.save`` does; replacing it by another, as
            :func:`functorch_optim.checkpoint.save_torch` does, is safe.
        skip: which refused entries to leave out: their places as the message shows them, with everything inside
            (``["['args']"]``), or a function of the place (``lambda place: True``). Entries that are not refused stay.
        like: as for :func:`load_safetensors`: a tree with the saved structure, whose leaves say where the result's
            leaves are placed. With ``mapped`` and without ``verify`` only the parts that this process's devices need
            are read.

    Raises:
        CheckpointError: the file is in another format, is damaged, or contains something unknown; the message names
            it, and says where it is. OSError: the file does not exist.

    Example:
        >>> import tempfile
        >>> from functorch_optim.checkpoint import save_torch
        >>> path = tempfile.mkdtemp() + "/checkpoint.pt"
        >>> save_torch({"weight": np.ones(2, np.float32), "epoch": 3}, path)
        >>> load_torch(path)
        {'weight': array([1., 1.], dtype=float32), 'epoch': 3}
    """
    skip = checked_skip(skip)
    archive = Archive(path, verify, mapped)
    order = bytes(archive.read("byteorder")) if "byteorder" in archive.records else b"little"
    if order != b"little":
        kind = shown(order.decode("ascii", "replace"))
        raise CheckpointError(f"the arrays in {path} are {kind}-endian: only little is read")
    work = Work(len(archive.bytes))
    names = {**_NAMES, **plain_pickles.names(work), **numpy_pickles.names(work)}
    machine = PickleMachine(partial(_find, names), _Storages(archive), work)
    tree = machine.run(bytes(archive.read("data.pkl")), skip)
    if like is None:
        return tree
    try:
        return unflatten(flatten(tree), like)
    except CheckpointError as error:
        raise CheckpointError(f"{os.fsdecode(path)}: {error}") from error


@dataclass
class _Copies:
    """How many bytes may still be copied: views cost nothing, conjugated tensors do."""

    left: int


@dataclass(frozen=True)
class _Storage:
    data: np.ndarray
    dtype: np.dtype
    copies: _Copies


class _Storages:
    """Finds storages by persistent id, and reads and checks each once."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._read: dict[str, np.ndarray] = {}
        self._booleans: set[str] = set()  # storages known to hold only 0 and 1
        self._copies = _Copies(len(archive.bytes))

    def __call__(self, identity: Hashable) -> _Storage:
        if type(identity) is not tuple or [type(part) for part in identity[:6]] != [str, _Kind, str, str, int]:
            raise CheckpointError("refused: a storage that is not named as torch names it")
        _, kind, key, _, count = identity
        if key not in self._read:
            self._read[key] = np.frombuffer(self._archive.read(f"data/{key}"), np.uint8)
        data = self._read[key]
        if count < 0 or count * kind.dtype.itemsize != data.nbytes:
            raise CheckpointError(
                f"the storage '{shown(key)}' should have {shown(count)} elements of {kind.name}, it has {data.nbytes} "
                "bytes"
            )
        if self._archive.verify and kind.dtype == np.bool_ and key not in self._booleans:
            if data.max(initial=0) > 1:
                raise CheckpointError(f"the storage '{shown(key)}' of booleans has bytes other than 0 and 1")
            self._booleans.add(key)
        return _Storage(data, kind.dtype, self._copies)


def _tensor(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    requires_grad: object = False,
    hooks: object = None,
    metadata: object = None,
) -> np.ndarray:
    """A tensor as a view of its storage."""
    del requires_grad, hooks
    return _view(storage, storage.dtype if isinstance(storage, _Storage) else None, offset, size, stride, metadata)


def _tensor_of_dtype(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    requires_grad: object,
    hooks: object,
    dtype: DTypeLike,
    metadata: object = None,
) -> np.ndarray:
    """A tensor of the given dtype as a view of a storage of bytes."""
    del requires_grad, hooks
    return _view(storage, dtype, offset, size, stride, metadata)


def _view(
    storage: object, dtype: DTypeLike | None, offset: object, size: object, stride: object, metadata: object
) -> np.ndarray:
    if not (isinstance(storage, _Storage) and isinstance(dtype, np.dtype)):
        raise CheckpointError("refused: a tensor without a storage")
    shape, steps = _numbers(size), _numbers(stride)
    (offset,) = _numbers((offset,))
    if len(shape) != len(steps):
        raise CheckpointError(f"a tensor has {len(shape)} sizes, but {len(steps)} strides")
    if not all(shape):
        return np.empty(shape, dtype)
    steps = tuple(0 if n == 1 else step for n, step in zip(shape, steps, strict=True))  # no step is ever taken there
    held = storage.data.nbytes // dtype.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    if last >= held:
        raise CheckpointError(f"a tensor of size {shape} and stride {steps} at {offset} leaves its storage of {held}")
    strides = [step * dtype.itemsize for step in steps]
    array = np.ndarray(shape, dtype, storage.data, offset * dtype.itemsize, strides)  # NumPy checks the bounds again
    return _resolved(array, metadata, storage.copies)


def _resolved(array: np.ndarray, metadata: object, copies: _Copies) -> np.ndarray:
    """Carry out a negation or conjugation that a tensor's metadata notes."""
    if metadata is None:
        return array
    if type(metadata) is not dict or not set(metadata) <= {"conj", "neg"}:
        raise CheckpointError("refused: a tensor with unknown metadata")
    if not metadata:
        return array
    copies.left -= array.nbytes
    if copies.left < 0:
        raise CheckpointError("refused: conjugated tensors that are larger than the file")
    array = np.conj(array) if metadata.get("conj") is True else array
    return np.negative(array) if metadata.get("neg") is True else array


def _numbers(values: Any) -> tuple[int, ...]:
    if type(values) not in (tuple, list) or not all(type(value) is int and 0 <= value < 2**62 for value in values):
        raise CheckpointError("a size, stride or offset of a tensor is not one of whole numbers from 0 on")
    return tuple(values)


def _parameter(data: PyTree, requires_grad: object = True, hooks: object = None, state: PyTree = None) -> np.ndarray:
    del requires_grad, hooks, state
    if not isinstance(data, np.ndarray):
        raise CheckpointError("refused: a parameter that is not a tensor")
    return data


def _with_attributes(function: Any, kind: type, arguments: Any, state: PyTree) -> np.ndarray:
    """The tensor alone of one that has attributes, or is a ``Buffer``."""
    del state
    tensors = [
        _NAMES["torch._utils", name] for name in ("_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter")
    ]
    if not any(function is known for known in tensors) or not isinstance(kind, _Class) or type(arguments) is not tuple:
        raise CheckpointError("refused: a tensor that is not built as torch builds its own")
    return function.call(*arguments)


_FUNCTIONS = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_dtype,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch", "Size"): _numbers,
    ("torch._tensor", "_rebuild_from_type_v2"): _with_attributes,
}
_NAMES: dict[tuple[str, str], PyTree] = {
    **{key: Known(".".join(key), function) for key, function in _FUNCTIONS.items()},
    **{("torch", name): _Kind(name, dtype) for name, dtype in STORAGES.items()},
    ("torch.storage", "UntypedStorage"): _Kind("UntypedStorage", np.dtype(np.uint8)),
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
    ("torch", "Tensor"): _Class(),
    ("torch.nn.parameter", "Parameter"): _Class(),
    ("torch.nn.parameter", "Buffer"): _Class(),
}


def _find(names: dict[tuple[str, str], PyTree], module: str, name: str) -> PyTree:
    if (module, name) in names:
        return names[module, name]
    if module in ("torch", "torch._utils"):
        hint = "this kind of tensor or dtype cannot be read; in torch, make it dense, or cast it, and save it again"
    else:
        hint = "it is not known here. Save a state_dict, not whole modules or other objects"
    return Refused(f"refused: the file uses {shown(f'{module[:100]}.{name[:100]}')}, and {hint}")
