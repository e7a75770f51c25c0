"""The bytes of safetensors files: a JSON header, the arrays after it, and a checksum over both."""

import json
import math
import os
import re
import struct
import zlib
from collections.abc import Mapping
from typing import BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from functorch_optim.checkpoint.errors import CheckpointError, shown
from functorch_optim.typing import PyTree

CHECKSUM = "__functorch_optim_checksum__"  # the text with the file's CRC-32, computed with zeros in its place
_UNSET = b"00000000"
_DIGITS = re.compile(rf'"{CHECKSUM}":"([0-9a-f]{{8}})"'.encode())
_LARGEST_HEADER = 100_000_000  # that other readers of the format accept
_CODES = {
    **{np.dtype(f"{kind}{bits // 8}"): f"{kind.upper()}{bits}" for kind in "iu" for bits in (8, 16, 32, 64)},
    **{np.dtype(f"f{bits // 8}"): f"F{bits}" for bits in (16, 32, 64)},
    np.dtype(np.bool_): "BOOL",
    np.dtype(np.complex64): "C64",
    np.dtype(ml_dtypes.bfloat16): "BF16",
}
_DTYPES = {code: dtype for dtype, code in _CODES.items()} | {
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}


class Content(NamedTuple):
    """A file's contents, and whether they match its checksum; None if it has none."""

    arrays: dict[str, np.ndarray]
    texts: dict[str, str]
    whole: bool | None


class _Entry(NamedTuple):
    name: str
    dtype: np.dtype
    shape: tuple[int, ...]


def is_kept(dtype: np.dtype) -> bool:
    """Whether arrays of this dtype are written unchanged."""
    return dtype.newbyteorder("=") in _CODES


def write(file: BinaryIO, arrays: Mapping[str, PyTree], texts: Mapping[str, str]) -> None:
    """Write texts, and arrays of NumPy or JAX one after the other.

    Raises:
        CheckpointError: a name or text cannot be encoded, or the header would be too large.
    """
    sizes = {name: array.dtype.itemsize for name, array in arrays.items()}
    names = sorted(arrays, key=lambda name: (-sizes[name], name))  # so that each is aligned
    header = _header({name: arrays[name] for name in names}, texts)
    file.write(header)
    checksum = zlib.crc32(header)
    for name in names:
        data = _bytes(np.asarray(arrays[name]))
        checksum = zlib.crc32(data, checksum)
        file.write(data)
    file.seek(header.index(_UNSET))
    file.write(f"{checksum:08x}".encode())


def _header(arrays: Mapping[str, PyTree], texts: Mapping[str, str]) -> bytes:
    """The length and the JSON, padded with spaces so that the arrays start at a multiple of eight."""
    entries: dict[str, PyTree] = {"__metadata__": {CHECKSUM: _UNSET.decode(), **texts}}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.size * array.dtype.itemsize
        code = _CODES[array.dtype.newbyteorder("=")]
        entries[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [begin, end]}
    try:
        told = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"safetensors does not take this tree: {shown(error)}") from error
    told += b" " * (-len(told) % 8)
    if len(told) > _LARGEST_HEADER:
        raise CheckpointError(f"safetensors does not take this tree: names and texts have {len(told)} bytes")
    return struct.pack("<Q", len(told)) + told


def _bytes(array: np.ndarray) -> memoryview:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data


def read(path: str | os.PathLike[str]) -> Content:
    """Read a file, each array into its own memory.

    Raises:
        ValueError: the file has another format or is damaged.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        (length,) = struct.unpack("<Q", start) if len(start) == 8 else (size,)
        if length > min(size - 8, _LARGEST_HEADER):
            raise ValueError("it ends within its header")
        told = file.read(length)
        texts, entries = _contents(told, size - 8 - length)
        plain, digits = _without_checksum(start + told, texts)
        checksum = zlib.crc32(plain)
        arrays = {}
        for entry in entries:
            arrays[entry.name] = np.empty(entry.shape, entry.dtype)
            data = arrays[entry.name].reshape(-1).view(np.uint8)
            if file.readinto(data.data) != len(data):
                raise ValueError("it became shorter while it was read")
            if entry.dtype == np.bool_ and data.max(initial=0) > 1:
                raise ValueError(f"the booleans {shown(entry.name)!r} have bytes other than 0 and 1")
            checksum = zlib.crc32(data.data, checksum)
    return Content(arrays, texts, None if digits is None else digits == f"{checksum:08x}")


def _without_checksum(header: bytes, texts: dict[str, str]) -> tuple[bytes, str | None]:
    """The header with zeros instead of its checksum's digits, and these digits, which are popped from the texts."""
    digits = texts.pop(CHECKSUM, None)
    if digits is None:
        return header, None
    places = list(_DIGITS.finditer(header))
    if len(places) != 1:
        raise ValueError("its checksum is where none is written")
    return header[: places[0].start(1)] + _UNSET + header[places[0].end(1) :], digits


def _contents(told: bytes, room: int) -> tuple[dict[str, str], list[_Entry]]:
    """Parse a header: its texts, and its arrays in the order of their bytes, which fill ``room`` without gaps."""
    header = json.loads(told.decode(), object_pairs_hook=_unique)
    texts = dict(header.pop("__metadata__", None) or {})
    if not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("its metadata are not texts")
    entries, end = [], 0
    for name, info in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        shape, dtype = info["shape"], _DTYPES.get(info["dtype"])
        if dtype is None:
            raise ValueError(f"{shown(name)!r} has the dtype {shown(info['dtype'])!r}, which NumPy does not have")
        if len(shape) > 64 or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
            raise ValueError(f"{shown(name)!r} has an invalid shape")
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        if info["data_offsets"] != [begin, end]:
            raise ValueError(f"{shown(name)!r} is not where it should be")
        entries.append(_Entry(name, dtype, tuple(shape)))
    if end != room:
        raise ValueError(f"its arrays have {end} bytes, but the file has {room} for them")
    return texts, entries


def _unique(items: list[tuple[str, PyTree]]) -> dict[str, PyTree]:
    held = dict(items)
    if len(held) < len(items):
        raise ValueError("a name occurs twice")
    return held
