"""Files that are there whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO


@contextmanager
def atomic_write(path: str | os.PathLike[str], sync: bool = True) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of ``path`` when the block ends without an error.

    Until then ``path`` is what it was, also when the process is killed; what is left of it then is a file whose name
    begins with that of ``path`` and ends with ``.partial``. With ``sync`` the bytes are on the disk before the name is,
    so that this holds when the machine stops, too.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "numbers"
        >>> with atomic_write(path) as file:
        ...     _ = file.write(b"1, 2, 3")
        ...     path.exists()
        False
        >>> path.read_bytes()
        b'1, 2, 3'
    """
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    handle, partial = tempfile.mkstemp(prefix=f"{name}.", suffix=".partial", dir=folder)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.chmod(partial, _mode(target))
        os.replace(partial, target)
    except BaseException:
        os.unlink(partial)
        raise
    if sync:
        _sync_folder(folder)


def _mode(target: str) -> int:
    """The permissions of the file that is replaced, or those of a new one."""
    try:
        return os.stat(target).st_mode & 0o7777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


def _sync_folder(folder: str) -> None:
    """Put the new name on the disk, where the system can."""
    flags: Any = getattr(os, "O_DIRECTORY", None)
    if flags is None:
        return
    handle = os.open(folder, os.O_RDONLY | flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
