"""Locked files: a lock ends with the process that took it, however that ends.

Here live taking, looking and giving back, by the kernel's flock. A child that was forked has none of its parent's
locks: its copies of the files would keep them locked after the parent was killed. What a locked file says, who waits
for it, and what is done under a lock stands where it is used.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import Set

from .files import PathLike

OPEN = os.O_RDWR | os.O_CREAT


class LockFile:
    """An open file, to be locked; made 0600. fd: -1 once it is closed, which it is in a child, too. Raises OSError."""

    def __init__(self, path: PathLike, flags: int = OPEN):
        self.fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
        _open.add(self)

    def take(self, wait: bool = False) -> bool:
        """Locks it until it is closed; False: another process has it, or looks at it this moment."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def is_taken(self) -> bool:
        """Whether another has it. Shared until it is closed: two who look do not take each other for a holder."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False

    @property
    def is_open(self) -> bool:
        """False after close(), and in a child that was forked since: then it is not for this process to clear up."""
        return self.fd >= 0

    def close(self) -> None:
        """Gives it back. A file that others lock, too, is not removed: two would then have locked two files."""
        _open.discard(self)
        fd, self.fd = self.fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)  # a program that is being started has a copy for a moment
            os.close(fd)


_open: Set[LockFile] = set()


def _forget() -> None:
    for one in _open:
        with contextlib.suppress(OSError):
            os.close(one.fd)
        one.fd = -1
    _open.clear()


os.register_at_fork(after_in_child=_forget)
