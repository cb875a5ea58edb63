"""Durable files: written under a temporary name, synced, renamed, their folder synced.

Here live the few steps every room uses to put a file or folder in place for good; nothing here
knows what the bytes mean. Files are made 0600, folders 0700.
"""

from __future__ import annotations

import os
from typing import Union

PathLike = Union[str, "os.PathLike[str]"]


def make_folder(path: PathLike) -> None:
    """Makes path and its parents, 0700; existing folders stay as they are."""
    os.makedirs(path, mode=0o700, exist_ok=True)


def sync_folder(path: PathLike) -> None:
    """fsync of a folder: what was made or renamed in it stays."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def create(path: PathLike) -> int:
    """A descriptor for writing a new file, 0600; raises FileExistsError."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def write_all(fd: int, data: Union[bytes, memoryview]) -> None:
    """Writes all of data to fd."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_synced(path: PathLike, data: bytes) -> None:
    """A new file with data, synced; raises FileExistsError. Its folder is not synced."""
    fd = create(path)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def replace(path: PathLike, data: bytes, mode: int = 0o600) -> None:
    """Puts data at path at once or not at all, for good: temporary name, fsync, rename, fsync of the folder."""
    temporary = "%s.%s.tmp" % (os.fspath(path), os.urandom(4).hex())
    try:
        write_synced(temporary, data)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        raise
    sync_folder(os.path.dirname(os.path.abspath(path)))
