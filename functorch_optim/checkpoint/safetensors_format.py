"""The bytes of safetensors files: a JSON header, the arrays after it, and checksums over both."""

import json
import math
import os
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from functorch_optim.checkpoint import host
from functorch_optim.checkpoint.chunks import DIGITS, Chunks, Stored, Sums, count
from functorch_optim.checkpoint.errors import CheckpointError, shown
from functorch_optim.typing import PyTree

CHECKSUM = "__functorch_optim_checksum__"  # the text with the header's CRC-32, computed with zeros in its place
CHUNKS = "__functorch_optim_chunks__"  # the text with the chunks' checksums; without it the other is of all bytes
_UNSET = b"00000000"
_DIGITS = re.compile(rf'"{CHECKSUM}":"([0-9a-f]{{8}})"'.encode())
_LARGEST_HEADER = 100_000_000  # that other readers of the format accept
_PIECE = 1 << 24
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


class File(NamedTuple):
    """An open file: its texts, its arrays, which are read when they are needed, and whether its checksum is right.

    The checksum is of the header; that of an older file is of all bytes. None if there is none.
    """

    texts: dict[str, str]
    arrays: dict[str, Stored]
    whole: bool | None


class Source(NamedTuple):
    """An array to write; ``read`` makes it when its turn comes."""

    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class _Entry(NamedTuple):
    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int


def is_kept(dtype: np.dtype) -> bool:
    """Whether arrays of this dtype are written unchanged."""
    return dtype.newbyteorder("=") in _CODES


def as_bytes(source: Source) -> Source:
    """The same, as bytes if the format lacks the dtype."""
    if is_kept(source.dtype):
        return source
    return Source(np.dtype(np.uint8), (source.nbytes,), lambda: np.frombuffer(source.read().tobytes(), np.uint8))


def in_order(sources: Mapping[str, Source]) -> list[str]:
    """The names of arrays as they are written: by size of an entry, so that each is aligned."""
    return sorted(sources, key=lambda name: (-sources[name].dtype.itemsize, name))


def write(file: BinaryIO, sources: Mapping[str, Source], texts: Mapping[str, str]) -> None:
    """Write texts, and arrays one after the other.

    Raises:
        CheckpointError: a name or text cannot be encoded, or the header would be too large.
    """
    sources = {name: sources[name] for name in in_order(sources)}
    size = sum(source.nbytes for source in sources.values())
    file.write(_header(sources, {**texts, CHUNKS: "0" * DIGITS * count(size)}))
    sums = Sums()
    for source in sources.values():
        data = host.raw(source.read())
        sums.add(data)
        file.write(data)
    header = _header(sources, {**texts, CHUNKS: sums.text()})
    place = header.index(_UNSET)
    file.seek(0)
    file.write(header[:place] + f"{zlib.crc32(header):08x}".encode() + header[place + len(_UNSET) :])


def _header(sources: Mapping[str, Source], texts: Mapping[str, str]) -> bytes:
    """The length and the JSON, padded with spaces so that the arrays start at a multiple of eight."""
    entries: dict[str, PyTree] = {"__metadata__": {CHECKSUM: _UNSET.decode(), **texts}}
    end = 0
    for name, source in sources.items():
        begin, end = end, end + source.nbytes
        code = _CODES[source.dtype.newbyteorder("=")]
        entries[name] = {"dtype": code, "shape": list(source.shape), "data_offsets": [begin, end]}
    try:
        told = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"safetensors does not take this tree: {shown(error)}") from error
    told += b" " * (-len(told) % 8)
    if len(told) > _LARGEST_HEADER:
        raise CheckpointError(f"safetensors does not take this tree: names and texts have {len(told)} bytes")
    return struct.pack("<Q", len(told)) + told


def opened(file: BinaryIO, verify: bool) -> File:
    """Read an open file's header; its arrays are read later, while it is open.

    Raises:
        ValueError: the file has another format or is damaged.
        OSError: the file cannot be read.
    """
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    (length,) = struct.unpack("<Q", start) if len(start) == 8 else (size,)
    if length > min(size - 8, _LARGEST_HEADER):
        raise ValueError("it ends within its header")
    told = file.read(length)
    texts, entries = _contents(told, size - 8 - length)
    plain, digits = _without_checksum(start + told, texts)
    sums = texts.pop(CHUNKS, None)
    if digits is None:  # another program has left out this one, and may have changed what the others are of
        sums = None
    checksum = zlib.crc32(plain)
    if digits is not None and sums is None and verify:
        while data := file.read(_PIECE):
            checksum = zlib.crc32(data, checksum)
    chunks = Chunks(file, 8 + length, size - 8 - length, _sums(sums, size - 8 - length) if verify else None)
    arrays = {entry.name: Stored(chunks, entry.begin, entry.dtype, entry.shape) for entry in entries}
    return File(texts, arrays, None if digits is None else digits == f"{checksum:08x}")


def _sums(text: str | None, size: int) -> list[int] | None:
    if text is None:
        return None
    if len(text) != DIGITS * count(size):
        raise ValueError("it has checksums for fewer or more bytes")
    return [int(text[place : place + DIGITS], 16) for place in range(0, len(text), DIGITS)]


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
        entries.append(_Entry(name, dtype, tuple(shape), begin))
    if end != room:
        raise ValueError(f"its arrays have {end} bytes, but the file has {room} for them")
    return texts, entries


def _unique(items: list[tuple[str, PyTree]]) -> dict[str, PyTree]:
    held = dict(items)
    if len(held) < len(items):
        raise ValueError("a name occurs twice")
    return held
