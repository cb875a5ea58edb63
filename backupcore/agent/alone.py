"""One dump of a source at a time on this machine, by a lock that the kernel takes back when its owner is gone.

A run that was killed leaves its agent behind for some seconds, or for as long as what must run after the dump takes;
the next run's agent is not to begin meanwhile. The lock is the name of a socket that is no file: nothing of it is left
behind, no user can be kept from making it by a folder's mode, and whose it is the kernel says: a name that another user
has taken is no lock. Here lives taking it, and telling who has it; the keeper of a source's scripts has a copy.
"""

from __future__ import annotations

import errno
import os
import time
from typing import Any, Optional

from ..errors import SourceBusy
from ..text import escape
from . import hashes

try:
    import _socket as socket  # all that is needed of it; the rest takes 2 ms to load
except ImportError:
    import socket  # type: ignore[no-redef]

WAIT = 20.0  # seconds: an agent whose line is gone ends within 15
STEP = 0.2
SETTLE = 2.0  # seconds for which somebody may have the name and not say who he is
_PEERCRED = 12  # bytes: pid, uid, gid
_QUEUE = 64  # of those who asked; nobody ever answers them


class Lock:
    """The lock, while it is held; fd: to be left open in whom it is shared with."""

    def __init__(self, taken: Any):
        self._taken = taken
        self.fd = taken.fileno()

    def close(self) -> None:
        """Gives it back, when no other process has a copy."""
        self._taken.close()


def take(config: str, client: str, source: str) -> Optional[Lock]:
    """Holds the source; waits for whoever has it for WAIT seconds. None where this system knows no such names, or
    another user has taken this one. Raises SourceBusy."""
    name = _name(config, client, source)
    until = time.monotonic() + WAIT
    unknown = time.monotonic() + SETTLE
    holder = 0
    while name is not None:
        taken = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            taken.bind(name)
            taken.listen(_QUEUE)
            return Lock(taken)
        except OSError as error:
            taken.close()
            if error.errno != errno.EADDRINUSE:
                return None
        if not holder:  # asked once: nobody takes what we asked from his queue
            holder = _holder(name)
        now = time.monotonic()
        if holder < 0 or not holder and now >= unknown:
            return None
        if now >= until:
            raise SourceBusy(
                "source %s is being dumped on this client already, %s" % (escape(source), _told(holder)),
                "wait for its end, or end that process there",
            )
        time.sleep(STEP)
    return None


def _name(config: str, client: str, source: str) -> Optional[bytes]:
    """What the socket is called: it says nothing to others, and is the same however often the file is written anew."""
    real = os.path.realpath(config)
    try:
        folder = os.stat(os.path.dirname(real))
    except OSError:
        return None
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    words = (os.geteuid(), folder.st_dev, folder.st_ino, os.path.basename(real), client, source)
    told = hashes.own(repr(words).encode("utf-8", "backslashreplace")).hexdigest()
    return b"\0stowage/" + told.encode()


def _holder(name: bytes) -> int:
    """The process that took the name; 0: nobody says so, or not yet; below 0: it is another user's."""
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        asking.setblocking(False)
        asking.connect(name)
        said = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED)
    except OSError:
        return 0
    finally:
        asking.close()
    pid, uid = memoryview(said).cast("i")[:2]
    return pid if uid == os.geteuid() and pid > 0 else -1


def _told(pid: int) -> str:
    since = _since(pid)
    if not since:
        return "by process %d, which has ended; what must run after its dump has not" % pid
    return "by process %d since %s" % (pid, since)


def _since(pid: int) -> str:
    """When a process began, '' when it has ended."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as stream:
            words = stream.read().rpartition(b")")[2].split()
        with open("/proc/stat", "rb") as stream:
            booted = next(int(line.split()[1]) for line in stream if line.startswith(b"btime "))
        if words[0] in (b"Z", b"X"):
            return ""
        moment = booted + int(words[19]) / os.sysconf("SC_CLK_TCK")
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))
    except (OSError, ValueError, IndexError, StopIteration):
        return ""
