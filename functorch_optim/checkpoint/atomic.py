"""Atomic writes: a file appears whole or not at all."""

import errno
import os
import secrets
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import BinaryIO


@contextmanager
def atomic_write(
    path: str | os.PathLike[str], sync: bool = True, permissions_of: str | os.PathLike[str] | None = None
) -> Generator[BinaryIO]:
    """Open a file for writing that replaces ``path`` when the block ends without an error.

    Until then ``path`` does not change, even if the process is killed; that only leaves a file whose name starts with
    the name of ``path`` and ends with ``.partial``. With ``sync`` the bytes reach the disk before the name does, so
    this holds even if the machine stops. A link stays a link: its target is replaced. The file keeps the permissions of
    the one before, or gets those of ``permissions_of``, if there is such a file.

    Raises:
        OSError: the folder does not exist, or ``path`` is not a file.

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
    with atomic_path(path, sync, permissions_of) as partial, open(partial, "r+b") as file:
        yield file


@contextmanager
def atomic_path(
    path: str | os.PathLike[str], sync: bool = True, permissions_of: str | os.PathLike[str] | None = None
) -> Generator[str]:
    """Like :func:`atomic_write`, but yield the name of an empty file, for code that writes files by name."""
    target = _target(os.fsdecode(path))
    folder, name = os.path.split(target)
    partial = os.path.join(folder, f"{os.fsdecode(os.fsencode(name)[:180])}.{secrets.token_hex(4)}.partial")
    os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        mode = stat.S_IMODE(os.stat(partial).st_mode)
        yield partial
        with suppress(OSError):  # code that writes by name may have created a new file
            os.chmod(partial, mode)
        if sync:
            with open(partial, "r+b") as file:
                os.fsync(file.fileno())
        with suppress(OSError):  # there was no file before, or the file system has no permissions
            os.chmod(partial, stat.S_IMODE(os.stat(permissions_of or target).st_mode))
        os.replace(partial, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise
    if sync:
        _sync_folder(folder)


def _target(path: str) -> str:
    """Follow links to the file to replace.

    Raises:
        OSError: it is not a file, or its folder does not exist.
    """
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", folder)
    if path.endswith((os.sep, "/")) or (os.path.exists(target) and not os.path.isfile(target)):
        raise OSError(errno.EINVAL, "only a file can be replaced by a file", path)
    return target


def _sync_folder(folder: str) -> None:
    """Flush the new name to the disk, if the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
