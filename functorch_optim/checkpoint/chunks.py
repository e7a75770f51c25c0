"""Bytes with a checksum for every chunk: who reads a part of a file verifies that part alone."""

import math
import zlib
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from functorch_optim.checkpoint.errors import CheckpointError

CHUNK = 1 << 20
DIGITS = 8  # of each checksum, a CRC-32


def count(size: int) -> int:
    """How many chunks so many bytes have; the last may be shorter."""
    return -(-size // CHUNK)


class Sums:
    """The checksums of bytes that are written one after the other."""

    def __init__(self) -> None:
        self._whole: list[int] = []
        self._last, self._size = 0, 0  # of the chunk that is not full yet

    def add(self, data: memoryview) -> None:
        while data:
            part, data = data[: CHUNK - self._size], data[CHUNK - self._size :]
            self._last, self._size = zlib.crc32(part, self._last), self._size + len(part)
            if self._size == CHUNK:
                self._whole.append(self._last)
                self._last, self._size = 0, 0

    def text(self) -> str:
        """The checksums as digits, one after the other."""
        return "".join(f"{one:08x}" for one in [*self._whole, *([self._last] if self._size else [])])


class Chunks:
    """The bytes of an open file from ``start`` on; a chunk is verified when a byte of it is read for the first time."""

    def __init__(self, file: BinaryIO, start: int, size: int, sums: Sequence[int] | None) -> None:
        self._file, self._start, self._size, self._sums = file, start, size, sums
        self._verified: set[int] = set()

    def read(self, begin: int, into: memoryview) -> None:
        """Fill ``into`` with the bytes from ``begin`` on.

        Raises:
            CheckpointError: they are not what was written. ValueError: the file has fewer.
        """
        done = 0
        while done < len(into):
            number = (begin + done) // CHUNK
            first, last = number * CHUNK, min((number + 1) * CHUNK, self._size)
            part = into[done : done + last - begin - done]
            if begin + done == first and len(part) == last - first:
                self._fill(first, part)
                self._verify(number, part)
            elif self._sums is None or number in self._verified:
                self._fill(begin + done, part)
            else:
                whole = memoryview(bytearray(last - first))
                self._fill(first, whole)
                self._verify(number, whole)
                offset = begin + done - first
                part[:] = whole[offset : offset + len(part)]
            done += len(part)

    def _fill(self, begin: int, part: memoryview) -> None:
        self._file.seek(self._start + begin)
        if self._file.readinto(part) != len(part):  # pyright: ignore[reportAttributeAccessIssue] BinaryIO lacks it
            raise ValueError("it became shorter while it was read")

    def _verify(self, number: int, data: memoryview) -> None:
        if self._sums is not None and zlib.crc32(data) != self._sums[number]:
            raise CheckpointError(
                f"it is damaged in the {len(data)} bytes from {self._start + number * CHUNK} on: its checksum is "
                "wrong. verify=False reads it nevertheless"
            )
        self._verified.add(number)


class Lazy:
    """An array in files, of which parts are read: ``lazy[index]``, or all of it: ``np.asarray(lazy)``."""

    def __init__(self, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        self.dtype, self.shape = dtype, shape

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return self[tuple(slice(None) for _ in self.shape)]

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        ranges = [range(size)[one] for one, size in zip(index, self.shape, strict=True)]
        out = np.empty([len(one) for one in ranges], self.dtype)
        if out.size:
            self.read(out, ranges)
        if self.dtype == np.bool_ and out.view(np.uint8).max(initial=0) > 1:
            raise ValueError("booleans have bytes other than 0 and 1")
        return out

    def read(self, out: np.ndarray, ranges: Sequence[range]) -> None:
        """Fill ``out`` with the part in these ranges, of step 1."""
        raise NotImplementedError(f"{type(self).__name__} does not define read")  # abstract: every subclass does


class Stored(Lazy):
    """An array in the bytes of one file."""

    def __init__(self, chunks: Chunks, begin: int, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        super().__init__(dtype, shape)
        self._chunks, self._begin = chunks, begin

    def seen_as(self, dtype: np.dtype, shape: tuple[int, ...]) -> "Stored":
        """The same bytes as an array of another dtype and shape."""
        if _bytes(dtype, shape) != _bytes(self.dtype, self.shape):
            raise ValueError(f"an array of {dtype} and the shape {shape} has another number of bytes")
        return Stored(self._chunks, self._begin, dtype, shape)

    def read(self, out: np.ndarray, ranges: Sequence[range]) -> None:
        self._read(out, self._begin, self.shape, ranges)

    def _read(self, out: np.ndarray, begin: int, shape: tuple[int, ...], ranges: Sequence[range]) -> None:
        """Read a part of the array of this shape at ``begin``: whole rows at once, or a chunk of rows to cut them."""
        row = _bytes(self.dtype, shape[1:])
        if all(len(one) == size for one, size in zip(ranges[1:], shape[1:], strict=True)):
            start = ranges[0].start if ranges else 0
            self._chunks.read(begin + start * row, out.reshape(-1).view(np.uint8).data)
            return
        first = ranges[0]
        if row > CHUNK:
            for number, at in enumerate(first):
                self._read(out[number], begin + at * row, shape[1:], ranges[1:])
            return
        inner = tuple(slice(one.start, one.stop) for one in ranges[1:])
        for at in range(first.start, first.stop, CHUNK // row):
            rows = np.empty((min(CHUNK // row, first.stop - at), *shape[1:]), self.dtype)
            self._chunks.read(begin + at * row, rows.reshape(-1).view(np.uint8).data)
            out[at - first.start : at - first.start + len(rows)] = rows[(slice(None), *inner)]


def _bytes(dtype: np.dtype, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * dtype.itemsize
