"""A drill: what was restored is read again from its disk, told by its digests, and taken away.

Here live the folder of drills (`drill` in the scratch folder, one drill at a time) and its emptying; the restore itself
is extract.py's and differs in nothing. Nothing of a drill stays: what a killed one left, the next one takes away first.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from typing import Any, Dict, List, Optional, Set, Tuple

from ..errors import AgentRefused
from ..text import escape
from .linux_write import OPEN_FOLDER, mount_id

NAME = "drill"  # in the scratch folder; a restore is called by the name of its dump
SPARE = 64 << 20  # what must stay free beside the files of a drill
DIGESTS = 20000  # are told at most; a drill is small
_STEP = 1 << 20


class Drill:
    """The folder of a drill: fd is held and locked until end(). bytes: what will be restored. Raises AgentRefused."""

    def __init__(self, fd: int, path: bytes, bytes_: int, may_empty: bool):
        shown = escape(path)
        self._fd = os.dup(fd)
        self._open = True
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if may_empty:
                take_away(self._fd, None)
            elif os.listdir(self._fd):
                raise AgentRefused("%s is not empty, and a drill takes away what it restored" % shown)
            room = os.fstatvfs(self._fd)
        except BlockingIOError:
            os.close(self._fd)
            raise AgentRefused("another drill is at work in %s" % shown, "wait for it") from None
        except OSError as error:
            os.close(self._fd)
            raise AgentRefused("%s cannot be used for a drill: %s" % (shown, error.strerror)) from None
        except BaseException:
            os.close(self._fd)
            raise
        if room.f_bavail * room.f_frsize < bytes_ + SPARE:
            os.close(self._fd)
            raise AgentRefused(
                "%s has no room for a drill of %d MiB" % (shown, bytes_ >> 20), "free some space on the client"
            )

    def read_again(self) -> Dict[str, Any]:
        """Reads all that is in the folder and takes it away: for DONE. Raises OSError."""
        digests: Set[str] = set()
        files, size = take_away(self._fd, digests)
        return {"files": files, "bytes": size, "digests": sorted(digests)[:DIGESTS], "removed": True}

    def end(self) -> None:
        """Takes away whatever is still there, and lets the folder go. Raises nothing."""
        if not self._open:
            return
        self._open = False
        try:
            take_away(self._fd, None)
        except OSError:
            pass  # the next drill tries again, and says so
        os.close(self._fd)


def take_away(top: int, digests: Optional[Set[str]]) -> Tuple[int, int]:
    """Empties an open folder; returns (regular files, their bytes). digests: gets the hex SHA-256 of each content.

    Never follows a link, never crosses into another mount. Raises OSError.
    """
    root = os.geteuid() == 0
    here = mount_id(top), os.fstat(top).st_dev
    files = size = 0
    trail: List[Tuple[int, bytes, List[str]]] = []
    try:
        trail.append((os.open(b".", OPEN_FOLDER, dir_fd=top), b"", os.listdir(top)))
        while trail:
            fd, own, names = trail[-1]
            if not names:
                trail.pop()
                os.close(fd)
                if trail:
                    os.rmdir(own, dir_fd=trail[-1][0])
                continue
            name = os.fsencode(names.pop())
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                if not root:
                    os.chmod(name, 0o700, dir_fd=fd)  # what was restored may forbid even its owner to look
                below = os.open(name, OPEN_FOLDER, dir_fd=fd)
                trail.append((below, name, []))
                if (mount_id(below), os.fstat(below).st_dev) != here:
                    raise OSError(errno.EBUSY, "another file system is mounted in it")
                trail[-1][2].extend(os.listdir(below))
                continue
            if stat.S_ISREG(status.st_mode):
                files += 1
                size += status.st_size
                if digests is not None:
                    if not root:
                        os.chmod(name, 0o600, dir_fd=fd)
                    digests.add(_digest(fd, name))
            os.unlink(name, dir_fd=fd)
    finally:
        for fd, _name, _names in trail:
            os.close(fd)
    return files, size


def _digest(folder: int, name: bytes) -> str:
    """The SHA-256 of a file as it is on its disk: what was synced leaves the cache first, where the system lets it."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError:
            pass
        digest = hashlib.sha256()
        while True:
            piece = os.read(fd, _STEP)
            if not piece:
                return digest.hexdigest()
            digest.update(piece)
    finally:
        os.close(fd)
