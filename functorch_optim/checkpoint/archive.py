"""The zip container of torch's files: records are views of the file, neither unpacked nor copied."""

import errno
import mmap
import os
import struct
import zipfile
import zlib
from typing import NamedTuple

from functorch_optim.checkpoint.errors import CheckpointError, shown

_LOCAL = struct.Struct("<4s5H3L2H")  # the header before each record's bytes
_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # start of files from before torch 1.6, after the protocol
_LARGE = 1 << 24  # smaller files are read, not mapped


class Record(NamedTuple):
    """Where a record's bytes are, and their checksum."""

    start: int
    size: int
    checksum: int


class Archive:
    """A file's records by name, without their common folder.

    Raises:
        CheckpointError: the file is not such an archive, or is damaged: records are compressed, encrypted,
            overlapping, outside the file, or have names that lead elsewhere.
    """

    def __init__(self, path: str | os.PathLike[str], verify: bool = True, mapped: bool = True) -> None:
        self.verify = verify
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            try:
                large = mapped and size >= _LARGE
                self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if large else file.read()
            except (ValueError, MemoryError, OverflowError, OSError) as error:
                if isinstance(error, OSError) and error.errno != errno.ENOMEM:
                    raise
                raise CheckpointError(f"{path} with its {size} bytes does not fit into memory: {error}") from error
            if not size:
                raise CheckpointError(f"{path} is empty")
            self._refuse_others(path)
            try:
                with zipfile.ZipFile(file) as archive:
                    entries = archive.infolist()
            except Exception as error:  # a damaged directory can raise anything
                if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a seek to before the file
                    raise
                raise CheckpointError(f"{path} is no whole zip archive, as torch writes it: {shown(error)}") from error
        self.records = self._read(entries)

    def _refuse_others(self, path: object) -> None:
        if self.bytes[2 : 2 + len(_LEGACY)] == _LEGACY:
            raise CheckpointError(
                f"{path} is in the format of torch before 1.6 (_use_new_zipfile_serialization=False): load it in torch "
                "and save it again"
            )
        if self.bytes[:4] != b"PK\x03\x04":
            raise CheckpointError(f"{path} is not a file of torch.save")

    def _read(self, entries: list[zipfile.ZipInfo]) -> dict[str, Record]:
        records: dict[str, Record] = {}
        folders = {entry.filename.partition("/")[0] for entry in entries}
        if len(folders) != 1:
            raise CheckpointError(f"the records of the archive must be in one folder, but they are in {len(folders)}")
        for entry in entries:
            name = entry.filename.partition("/")[2]
            if not name or "\\" in name or any(part in ("", ".", "..") for part in name.split("/")):
                raise CheckpointError(f"refused: a record with the name '{shown(entry.filename)}'")
            if name in records:
                raise CheckpointError(f"the record '{shown(name)}' is there twice")
            if (
                entry.compress_type != zipfile.ZIP_STORED
                or entry.flag_bits & 1
                or entry.compress_size != entry.file_size
            ):
                raise CheckpointError(
                    f"refused: the record '{shown(name)}' is compressed or encrypted, which torch never does"
                )
            records[name] = Record(self._start(entry, name), entry.file_size, entry.CRC)
        end, before = 0, ""
        for name, record in sorted(records.items(), key=lambda item: item[1].start):
            if record.size and record.start < end:
                raise CheckpointError(f"the records '{shown(before)}' and '{shown(name)}' overlap")
            end, before = max(end, record.start + record.size), name
        return records

    def _start(self, entry: zipfile.ZipInfo, name: str) -> int:
        """Where the record's bytes start, after its local header."""
        head = self.bytes[entry.header_offset : entry.header_offset + _LOCAL.size] if entry.header_offset >= 0 else b""
        if len(head) < _LOCAL.size or head[:4] != b"PK\x03\x04":
            raise CheckpointError(f"the record '{shown(name)}' has no header where it should be")
        *_, name_length, extra_length = _LOCAL.unpack(head)
        start = entry.header_offset + _LOCAL.size + name_length + extra_length
        if start + entry.file_size > len(self.bytes):
            raise CheckpointError(
                f"the record '{shown(name)}' should have {entry.file_size} bytes, but the file ends before"
            )
        return start

    def read(self, name: str) -> memoryview:
        """Return a record's bytes as a view of the file.

        Raises:
            CheckpointError: the record does not exist, or its checksum differs.
        """
        if name not in self.records:
            raise CheckpointError(f"the archive has no record '{shown(name)}'")
        start, size, checksum = self.records[name]
        view = memoryview(self.bytes)[start : start + size]
        if self.verify and zlib.crc32(view) != checksum:
            absent = all(record.checksum == 0 for record in self.records.values())
            why = "has no checksum" if absent else "is damaged: its checksum is wrong"
            raise CheckpointError(f"the record '{shown(name)}' {why}. verify=False reads files without checksums")
        return view
