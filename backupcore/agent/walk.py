"""The walk: a source's folders in walk order, each with its names sorted and those apart that are not dumped.

Here live descriptors of folders, listing, selection (exclude, include, one file system) and the stack of the way
down; what is done with a folder lives in dump. The walk changes into each folder and opens sub-folders relative
to their parent, never through a link: a tree that changes under it cannot lead it outside.
"""

from __future__ import annotations

import os
from array import array
from itertools import chain
from operator import attrgetter
from typing import Dict, FrozenSet, List, NamedTuple, Optional, Tuple

from ..image.dumpdir import Dumpdir
from . import linux
from .patterns import IN, OUT, Exclude, Include
from .segment import ALL, REASON, Segment

OPEN = 256  # descriptors held for the levels of a deep tree; those between are opened again on the way up
_FAR, _PASSED = -1, -2  # in place of a descriptor: of a level that was closed; of one that was never opened


_ROW = attrgetter("st_mode", "st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_nlink")


def look(names: List[bytes]) -> "array[int]":
    """Rows of state of names of the current folder as they are now. Raises OSError, and OverflowError for an inode
    of 2**63 or more."""
    return array("q", chain.from_iterable(map(_ROW, map(os.lstat, names))))


class Plan(NamedTuple):
    """Which tree, and what of it. segment: None for all of it. newer: of an interim dump, what but folders was changed
    before this moment (ns) is left out, None for all."""

    path: bytes
    include: Include
    exclude: Exclude
    one_file_system: bool
    segment: Optional[Segment] = None
    newer: Optional[int] = None

    def holds(self, path: bytes) -> bool:
        """Whether all that is in a folder belongs to the segment."""
        return self.segment is None or self.segment.has(path) == ALL


class Names(NamedTuple):
    """A listing. entries: all but folders, sorted; plain: those that are regular files for sure, when exact;
    absent: name -> reason, of those of entries that are not dumped; folders: sorted; left_out: name -> reason, of
    folders not to be entered (`mount` for one to be written empty)."""

    entries: List[bytes]
    others: FrozenSet[bytes]
    absent: Dict[bytes, bytes]
    folders: List[bytes]
    left_out: Dict[bytes, bytes]


MOUNT = b"mount"
_NONE: FrozenSet[bytes] = frozenset()


class Level:
    """A folder on the way down. inside: include needs no look below it; held: nor does the segment."""

    __slots__ = ("path", "prefix", "fd", "identity", "status", "inside", "held", "names", "next", "record")

    def __init__(
        self, path: bytes, fd: int, status: Optional[os.stat_result], inside: bool, held: bool,
        identity: Tuple[int, int] = (0, 0),
    ):  # fmt: skip
        self.path, self.fd, self.status, self.inside, self.held = path, fd, status, inside, held
        self.prefix = b"" if path == b"." else path + b"/"
        self.identity = (status.st_dev, status.st_ino) if status is not None else identity
        self.names: Optional[Names] = None
        self.next = 0  # sub-folder to enter next
        self.record: Optional[Dumpdir] = None  # the list of names that is in the dump


class Walk:
    """The way through one tree."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.stack: List[Level] = []
        self.device = 0

    def begin(self) -> Level:
        """Opens the root, once. Raises OSError."""
        if self.stack:
            return self.stack[0]
        fd = linux.open_root(self.plan.path)
        status = os.fstat(fd)
        self.device = status.st_dev
        level = Level(b".", fd, status, self.plan.include.empty, self.plan.segment is None)
        self.stack.append(level)
        return level

    def enter(self, name: bytes) -> Level:
        """Opens a sub-folder of the level on top, which becomes the top. Raises OSError."""
        parent = self.stack[-1]
        if parent.fd < 0:
            self._open_again()
        fd = linux.open_folder(name, parent.fd)
        path = parent.prefix + name
        inside = parent.inside or self.plan.include.matches(path, True) == IN
        level = Level(path, fd, os.fstat(fd), inside, parent.held or self.plan.holds(path))
        self._push(level)
        return level

    def pass_by(self, name: bytes, identity: Tuple[int, int], folders: List[bytes]) -> None:
        """In place of enter() and list() for a sub-folder that needs no look, whose sub-folders are these, all to be
        entered: it becomes the top and is opened only when one of them is. identity: its device and inode."""
        parent = self.stack[-1]
        path = parent.prefix + name
        inside = parent.inside or self.plan.include.matches(path, True) == IN
        level = Level(path, _PASSED, None, inside, parent.held or self.plan.holds(path), identity)
        level.names = Names([], _NONE, {}, folders, {})
        self._push(level)

    def _push(self, level: Level) -> None:
        self.stack.append(level)
        if len(self.stack) > OPEN + 1:
            far = self.stack[-OPEN]
            if far.fd >= 0:
                os.close(far.fd)
                far.fd = _FAR

    def leave(self) -> None:
        """Closes the level on top. Raises OSError when the one below it, closed meanwhile, is not there any more."""
        level = self.stack.pop()
        if level.fd >= 0:
            os.close(level.fd)
        if self.stack and self.stack[-1].fd == _FAR:
            self._open_again()

    def _open_again(self) -> None:
        place = len(self.stack) - 1
        while self.stack[place].fd < 0:
            place -= 1
        fd = os.dup(self.stack[place].fd)
        try:
            for level in self.stack[place + 1 :]:
                below = linux.open_folder(level.path.rpartition(b"/")[2], fd)
                os.close(fd)
                fd = below
                status = os.fstat(fd)
                if (status.st_dev, status.st_ino) != level.identity:
                    raise FileNotFoundError(2, "it was moved away")
        except OSError:
            os.close(fd)
            raise
        self.stack[-1].fd = fd

    def close(self) -> None:
        """Closes all."""
        for level in self.stack:
            if level.fd >= 0:
                os.close(level.fd)
        self.stack = []

    def list(self, level: Level, exact: bool, most: Optional[int] = None) -> Names:
        """Changes into the level's folder and lists it. Raises OSError, OverflowError when it has `most` names."""
        os.fchdir(level.fd)
        files, others, folders, sockets = linux.read_names(exact, most)
        absent: Dict[bytes, bytes] = dict.fromkeys(sockets, b"socket") if sockets else {}
        plan = self.plan
        if not (plan.exclude.empty and level.inside):
            for name in files + others + sockets if exact else files + sockets:
                if self._is_out(level, name, False):
                    absent[name] = b"excluded"
        if not level.held:
            for name in files + others + sockets if exact else files + sockets:
                if plan.segment.is_out(level.prefix + name, False):
                    absent[name] = REASON
        if plan.newer is not None:
            _leave_old(files + others if exact else files, plan.newer, absent)
        entries = files
        if exact and others:
            entries += others
        if sockets:
            entries += sockets
        entries.sort()
        folders.sort()
        left_out = self._left_out(level, folders) if folders else {}
        level.names = Names(entries, frozenset(others) if exact and others else _NONE, absent, folders, left_out)
        return level.names

    def _left_out(self, level: Level, folders: List[bytes]) -> Dict[bytes, bytes]:
        """Which sub-folders of the current folder are not entered, and why."""
        left_out: Dict[bytes, bytes] = {}
        if not (self.plan.exclude.empty and level.inside):
            for name in folders:
                if self._is_out(level, name, True):
                    left_out[name] = b"excluded"
        if not level.held:
            for name in folders:
                if self.plan.segment.is_out(level.prefix + name, True):
                    left_out[name] = REASON
        if self.plan.one_file_system:
            device, lstat = self.device, os.lstat
            for name in folders:
                try:
                    if lstat(name).st_dev != device:
                        left_out.setdefault(name, MOUNT)
                except OSError:
                    continue  # said when it is entered
        return left_out

    def _is_out(self, level: Level, name: bytes, is_dir: bool) -> bool:
        path = level.prefix + name
        if not level.inside and self.plan.include.matches(path, is_dir) == OUT:
            return True
        return self.plan.exclude.matches(path, name, is_dir)


def _leave_old(names: List[bytes], newer: int, absent: Dict[bytes, bytes]) -> None:
    """Puts the names of the current folder into absent whose file was last changed before newer. Names of one file have
    the same times, so all of them are kept or none."""
    lstat = os.lstat
    for name in names:
        try:
            status = lstat(name)
        except OSError:
            continue  # vanished, or said when it is opened
        if status.st_mtime_ns < newer and status.st_ctime_ns < newer:
            absent.setdefault(name, REASON)
