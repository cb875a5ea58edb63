"""The new files of a dump: hashed as they are written, sent on to the disk early, and those that the dump can spare.

Here live single files; which there are, and what goes into them, is receive.py.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
from pathlib import Path
from typing import Any, Callable, Optional

from .. import files
from ..errors import HoldingFull, StowageError
from ..image.manifest import FileRecord
from .accept import SPARE
from .holding import writing

FLUSH = 16 << 20  # written bytes after which the kernel is told to begin, so that the last sync is quick


class HashedFile:
    """A new file whose bytes are hashed as they are written. when_full(error): makes room, or raises; without it a full
    disk is the end. size: it is there, and goes on behind so many of its bytes."""

    def __init__(
        self, path: Path, disk: Path, room: Any, when_full: Optional[Callable[[HoldingFull], None]] = None,
        size: int = 0,
    ):  # fmt: skip
        self.name, self.size = path.name, 0
        self._disk, self._room, self._when_full = disk, room, when_full
        self.hasher = hashlib.sha256()
        self._flushed = 0
        self._fd = -1
        with writing(disk):
            self._fd = files.create(path) if not size else self._again(path, size)

    def _again(self, path: Path, size: int) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            while self.size < size:
                data = os.read(fd, min(size - self.size, 1 << 20))
                if not data:
                    raise OSError(errno.EIO, os.strerror(errno.EIO), os.fspath(path))  # it was checked before
                self.hasher.update(data)
                self.size += len(data)
            os.ftruncate(fd, size)
        except BaseException:
            os.close(fd)
            raise
        self._flushed = size
        return fd

    def write(self, data: Any) -> None:
        """Appends data. Raises HoldingFull: then it is as long as before."""
        try:
            self._append(data)
        except HoldingFull as full:
            if self._when_full is None:
                raise
            self._when_full(full)
            self._append(data)
        self.hasher.update(data)
        self.size += len(data)
        if self.size - self._flushed >= FLUSH:
            _begin_writing(self._fd, self._flushed, self.size - self._flushed)
            self._flushed = self.size

    def _append(self, data: Any) -> None:
        self._room.take(len(data))
        try:
            with writing(self._disk):
                files.write_all(self._fd, data)
        except HoldingFull:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self.size)
                os.lseek(self._fd, self.size, os.SEEK_SET)
            raise

    def digest(self) -> bytes:
        """SHA-256 of what was written."""
        return self.hasher.digest()

    def finish(self) -> FileRecord:
        """Syncs and closes."""
        with writing(self._disk):
            os.fsync(self._fd)
        self.close()
        return FileRecord(self.name, self.size, self.hasher.hexdigest())

    def close(self) -> None:
        """Closes without syncing; safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Beside:
    """A file on the state disk while a sealed dump comes. The dump is good without it: an error ends the file only,
    and is told once."""

    def __init__(self, path: Path, tell: Callable[[str], None], size: int = 0):
        self._path, self._tell, self._begun = path, tell, size
        self._file: Optional[HashedFile] = None
        self._do(self._begin)

    def _begin(self) -> None:
        self._file = HashedFile(self._path, self._path.parent, self, size=self._begun)

    def take(self, count: int) -> None:
        """As a Room's: a client that sends an endless index or state must not fill the disk of the catalog."""
        if self._file is None or self._file.size % FLUSH + count < FLUSH and self._file.size:
            return
        found = os.statvfs(self._path.parent)
        if count + FLUSH > found.f_bavail * found.f_frsize - SPARE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _do(self, step: Callable[[], Any]) -> None:
        try:
            step()
        except (OSError, StowageError) as error:
            cause = error.__context__ if isinstance(error, StowageError) else error
            self._tell(getattr(cause, "strerror", None) or str(error))
            self.close()
            self._file = None
            self._path.unlink(missing_ok=True)

    def write(self, data: Any) -> None:
        """Appends data."""
        file = self._file
        if file is not None:
            self._do(lambda: file.write(data))

    @property
    def size(self) -> int:
        """Bytes of it, -1 when it is no more."""
        return self._file.size if self._file is not None else -1

    def digest(self) -> bytes:
        """SHA-256 of what was written."""
        return self._file.digest() if self._file is not None else b""

    def finish(self) -> None:
        """Syncs and closes."""
        if self._file is not None:
            self._do(self._file.finish)

    def close(self) -> None:
        """Closes without syncing."""
        if self._file is not None:
            self._file.close()


@functools.lru_cache(maxsize=None)
def _sync_file_range() -> Optional[Callable[..., int]]:
    import ctypes  # small dumps do without

    function = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


def _begin_writing(fd: int, offset: int, count: int) -> None:
    # only a hint: what did not reach the disk by it is waited for, and its errors told, by fsync
    function = _sync_file_range()
    if function is not None:
        function(fd, offset, count, 2)  # SYNC_FILE_RANGE_WRITE
