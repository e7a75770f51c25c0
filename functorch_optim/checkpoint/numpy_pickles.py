"""Build NumPy's scalars, arrays and dtypes from pickles without calling NumPy's own functions for it."""

import math
import re
from collections.abc import Callable

import ml_dtypes
import numpy as np
from jax.typing import DTypeLike

from functorch_optim.checkpoint.errors import CheckpointError, shown
from functorch_optim.checkpoint.pickle_machine import Known
from functorch_optim.checkpoint.plain_tree import Refused, Unfinished
from functorch_optim.checkpoint.work import Work
from functorch_optim.typing import PyTree

_PLAIN = re.compile(r"[?biufcSU]\d{0,9}|b1")  # numbers, booleans and texts: no objects, records or dates
_ORDERS = ("<", ">", "|", "=")
_LARGEST = {"b": (np.uint8, 1), "U": (np.uint32, 0x10FFFF)}  # the largest entry of such an array


class _Dtype(Unfinished):
    """A dtype whose byte order follows later in the pickle."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype

    def build(self, state: PyTree) -> None:
        if type(state) is not tuple or len(state) < 2 or state[1] not in _ORDERS:
            raise CheckpointError("refused: a dtype of NumPy's with an invalid state")
        self.dtype = self.dtype.newbyteorder(state[1])

    def finish(self) -> PyTree:
        return self.dtype


class _Array(Unfinished):
    """An array whose contents follow later in the pickle."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.array: np.ndarray | None = None

    def build(self, state: PyTree) -> None:
        if type(state) is not tuple or len(state) != 5:
            raise CheckpointError("refused: an array of NumPy's with an invalid state")
        _, shape, dtype, is_fortran, data = state
        self.array = _array(self.work, data, dtype, shape, "F" if is_fortran is True else "C")

    def finish(self) -> PyTree:
        if self.array is None:
            raise CheckpointError("refused: an array of NumPy's without contents")
        return self.array


def _dtype(name: object, align: object = False, copy: object = False) -> _Dtype | Refused:
    del align, copy
    if isinstance(name, np.dtype):
        return _Dtype(name)
    if type(name) is not str or not _PLAIN.fullmatch(name):
        return Refused(f"refused: NumPy's dtype {shown(name)!r}, which holds neither numbers nor texts")
    return _Dtype(np.dtype(name))


def _array(work: Work, data: PyTree, dtype: DTypeLike, shape: object, order: object = "C") -> np.ndarray:
    """Build an array from bytes, in this machine's byte order."""
    if type(data) not in (bytes, bytearray) or not isinstance(dtype, np.dtype) or order not in ("C", "F"):
        raise CheckpointError("refused: an array of NumPy's that is not built from bytes")
    if type(shape) is not tuple or len(shape) > 32 or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise CheckpointError("refused: an array of NumPy's without a shape")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise CheckpointError(f"an array of size {shape} and {dtype} has {len(data)} bytes")
    work.spend(len(data), "arrays of NumPy's that are built from the same bytes again and again")
    native = dtype.newbyteorder("=")
    array = np.frombuffer(data, dtype).astype(native, copy=False) if data else np.empty(0, native)
    if dtype.kind in _LARGEST:
        whole, largest = _LARGEST[dtype.kind]
        if array.view(whole).max(initial=0) > largest:
            raise CheckpointError(f"an array of {dtype} has invalid entries")
    array = array.reshape(shape, order=order)
    array.flags.writeable = False
    return array


def _scalar(work: Work, dtype: DTypeLike, data: PyTree) -> PyTree:
    """Build a scalar as a Python number or string."""
    return _array(work, data, dtype, ()).item()


def names(work: Work) -> dict[tuple[str, str], PyTree]:
    """Map NumPy's names in a pickle to what they build here."""

    def known(name: str, call: Callable[..., PyTree]) -> dict[tuple[str, str], PyTree]:
        module, _, function = name.rpartition(".")
        spelt = (module, module.replace("_core", "core"))  # its name before NumPy 2
        return {(each, function): Known(name, call) for each in spelt}

    return {
        **known("numpy.dtype", _dtype),
        **known("numpy._core.multiarray.scalar", lambda dtype, data: _scalar(work, dtype, data)),
        **known("numpy._core.multiarray._reconstruct", lambda kind, shape, letter: _Array(work)),
        **known(
            "numpy._core.numeric._frombuffer",
            lambda data, dtype, shape, order="C": _array(work, data, dtype, shape, order),
        ),
        ("numpy", "ndarray"): Known("numpy.ndarray", _no_class),
        **{
            ("ml_dtypes", name): np.dtype(getattr(ml_dtypes, name))
            for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")
        },
    }


def _no_class(*_: object) -> PyTree:
    raise CheckpointError("refused: an array of NumPy's that is built by calling its class")
