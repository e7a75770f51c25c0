"""Files that are there whole or not at all."""

import errno
import os
import secrets
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import BinaryIO


@contextmanager
def atomic_write(path: str | os.PathLike[str], sync: bool = True) -> Generator[BinaryIO]:
    """A file to write to that takes the place of ``path`` when the block ends without an error.

    Until then ``path`` is what it was, also when the process is killed; what is left of it then is a file whose name
    begins with that of ``path`` and ends with ``.partial``. With ``sync`` the bytes are on the disk before the name is,
    so that this holds when the machine stops, too. A link stays one: the file that it leads to is replaced.

    Raises:
        OSError: there is no such folder, or ``path`` is no file.

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
    with atomic_path(path, sync) as partial, open(partial, "r+b") as file:
        yield file


@contextmanager
def atomic_path(path: str | os.PathLike[str], sync: bool = True) -> Generator[str]:
    """The name of an empty file, for what writes files by name; as :func:`atomic_write` otherwise."""
    target = _target(os.fsdecode(path))
    folder, name = os.path.split(target)
    partial = os.path.join(folder, f"{name.encode()[:180].decode(errors='ignore')}.{secrets.token_hex(4)}.partial")
    os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        mode = stat.S_IMODE(os.stat(partial).st_mode)
        yield partial
        with suppress(OSError):  # who writes files by name may have made another
            os.chmod(partial, mode)
        if sync:
            with open(partial, "r+b") as file:
                os.fsync(file.fileno())
        with suppress(OSError):  # there was no file before, or the file system has no permissions
            os.chmod(partial, stat.S_IMODE(os.stat(target).st_mode))
        os.replace(partial, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise
    if sync:
        _sync_folder(folder)


def _target(path: str) -> str:
    """The file that is replaced, through links.

    Raises:
        OSError: it is something else than a file, or its folder is not there.
    """
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", folder)
    if path.endswith((os.sep, "/")) or (os.path.exists(target) and not os.path.isfile(target)):
        raise OSError(errno.EINVAL, "only a file can be replaced by a file", path)
    return target


def _sync_folder(folder: str) -> None:
    """Put the new name on the disk, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
