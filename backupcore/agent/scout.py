"""A scout: a process that walks the same tree ahead of an incremental and looks at half of its folders.

Looking at every name is what an incremental of an unchanged tree costs, and one Python process looks at some 250,000
names a second. The scout makes the blocks of state of its half as the agent would and sends them in walk order; a
block that is the base's to the byte spares the agent its own look: it does not even open the folder. Anything else,
and a scout that ended, only means that the agent looks itself.

From DEPTH folders down a subtree belongs to one of both as a whole, so that each opens the folders of its own only;
above, folders are divided one by one, and the scout walks through all.
"""

from __future__ import annotations

import gc
import os
import signal
import struct
from array import array
from typing import BinaryIO, List, NamedTuple, Optional
from zlib import crc32

from ..image import state
from ..image.order import key
from . import linux
from .full import folder_status, own_row
from .walk import Plan, Walk, look

TOO_MANY = 50000  # names in a folder: a second list of them would cost too much memory
DEPTH = 4  # low enough to divide most trees evenly, high enough that little is walked by both
_HEAD = struct.Struct("<IIQQ")
_WORD = (1 << 64) - 1


def is_scouts(path: bytes) -> bool:
    """Whether the scout looks at the folder of this path."""
    names = path.split(b"/", DEPTH)
    return crc32(path if len(names) <= DEPTH else b"/".join(names[:DEPTH])) & 1 == 1


class Seen(NamedTuple):
    """What the scout saw of a folder: its one block of state, b"" when it cannot say; device and inode."""

    raw: bytes
    device: int
    inode: int


_NOTHING = Seen(b"", 0, 0)


class Scout:
    """The process, seen from the agent. Made before there are threads; go() when the walk may begin."""

    def __init__(self, plan: Plan, wire_fds: List[int]):
        said, say = os.pipe()
        wait, self._go = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            for fd in (said, self._go, *wire_fds):
                os.close(fd)
            _be_scout(plan, wait, say)
        os.close(say)
        os.close(wait)
        try:
            import fcntl

            fcntl.fcntl(said, getattr(fcntl, "F_SETPIPE_SZ", 1031), 1 << 20)
        except OSError:
            pass  # more than this user may have
        self._said: Optional[BinaryIO] = os.fdopen(said, "rb", 1 << 18)
        self._path: Optional[bytes] = None
        self._seen = _NOTHING

    def go(self) -> None:
        """The scout sets out."""
        try:
            os.write(self._go, b"!")
        except BrokenPipeError:
            pass  # it is not needed

    def has(self, path: bytes) -> bool:
        """Whether it looks at the folder of this path."""
        return is_scouts(path)

    def seen(self, path: bytes) -> Seen:
        """A folder as the scout found it. Paths are asked in walk order."""
        wanted = key(path, True)
        while self._said is not None and (self._path is None or key(self._path, True) < wanted):
            self._next()
        if self._path != path:
            return _NOTHING
        self._path = None
        return self._seen

    def _next(self) -> None:
        head = self._said.read(_HEAD.size)
        if len(head) == _HEAD.size:
            path_length, length, device, inode = _HEAD.unpack(head)
            data = self._said.read(path_length + length)
            if len(data) == path_length + length:
                self._path, self._seen = data[:path_length], Seen(data[path_length:], device, inode)
                return
        self._said.close()
        self._said = self._path = None

    def end(self) -> None:
        """Ends it, whatever it does."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(self.pid, 0)
        os.close(self._go)
        if self._said is not None:
            self._said.close()
            self._said = None


def _be_scout(plan: Plan, wait: int, say: int) -> None:
    """The scout, to its end. Whatever goes wrong ends it: the agent looks itself then."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        gc.disable()
        linux.raise_limits()
        if os.read(wait, 1):
            with os.fdopen(say, "wb", 1 << 16) as out:
                _walk(Walk(plan), out)
    except BaseException:  # noqa: S110
        pass
    finally:
        os._exit(0)


def _walk(walk: Walk, out: BinaryIO) -> None:
    level = walk.begin()
    while True:
        names = walk.list(level, False, TOO_MANY)
        if is_scouts(level.path):
            raw, status = b"", level.status
            plain = not names.absent and not names.left_out and len(names.entries) + len(names.folders) <= state.ENTRIES
            if plain and (status.st_dev == walk.device or not walk.plan.one_file_system):
                rows = look(names.entries) if names.entries else array("q")
                raw = state.pack(level.path, own_row(folder_status(status)), names.entries, rows, names.folders, True)
            head = _HEAD.pack(len(level.path), len(raw), status.st_dev & _WORD, status.st_ino & _WORD)
            out.write(head + level.path + raw)
        while True:
            level = walk.stack[-1]
            if level.next >= len(level.names.folders):
                walk.leave()
                if not walk.stack:
                    return
                continue
            name = level.names.folders[level.next]
            level.next += 1
            if name in level.names.left_out or (len(walk.stack) >= DEPTH and not is_scouts(level.prefix + name)):
                continue
            try:
                level = walk.enter(name)
            except OSError:
                continue  # the agent meets it, too, and says so
            break
