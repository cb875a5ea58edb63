"""A folder of a full dump: its member, its entries, its blocks of state.

Here lives what is done with one folder that is dumped whole, in the agent itself or in a process beside it (crew);
the walk and everything about incrementals live in dump.
"""

from __future__ import annotations

import os
from array import array
from typing import Callable, Dict, FrozenSet, List, NamedTuple, Optional

from ..image import state
from ..image.state import ABSENT_ROW, ENTRIES, Row, signed
from . import linux
from .archive import Archive


class Status(NamedTuple):
    """What is needed of a folder's os.stat_result, to be sent to another process."""

    st_mode: int
    st_uid: int
    st_gid: int
    st_size: int
    st_mtime_ns: int
    st_ctime_ns: int
    st_ino: int


class Task(NamedTuple):
    """A folder, or some of the entries of a large one. first: its member comes with them; folders: the names of its
    sub-folders, with the last of its entries, else None. others, absent: as in walk.Names."""

    path: bytes
    status: Status
    first: bool
    entries: List[bytes]
    others: FrozenSet[bytes]
    absent: Dict[bytes, bytes]
    folders: Optional[List[bytes]]


class Totals:
    """What DONE tells besides the archive's own counters."""

    def __init__(self) -> None:
        self.changed = self.gone = self.unreadable = self.vanished = 0


def own_row(status: Status) -> Row:
    """A folder's own row."""
    times = signed(status.st_mtime_ns), signed(status.st_ctime_ns)
    return (status.st_mode, 0, *times, signed(status.st_ino), 0)


class Full:
    """Dumps folders whole. note(level, path, message)."""

    def __init__(
        self, archive: Archive, blocks: state.Writer, note: Callable[[str, bytes, str], None], totals: Totals
    ):
        self._archive, self._blocks, self._note, self._totals = archive, blocks, note, totals

    def dump(self, task: Task, fd: int) -> None:
        """Dumps what the task says; the folder, open as fd, is the current one."""
        archive, absent, others, entries = self._archive, task.absent, task.others, task.entries
        prefix = b"" if task.path == b"." else task.path + b"/"
        if task.first:
            archive.folder(task.path, task.status, linux.read_xattrs(fd), None, "")
        blocks = _Blocks(self._blocks, task.path, own_row(task.status) if task.first else None)
        simple = not absent and not others
        place = 0
        while place < len(entries):
            if simple:
                place = archive.plain_files(entries, place, prefix, blocks.add)
                if place == len(entries):
                    break
            name = entries[place]
            place += 1
            path = prefix + name
            if absent and name in absent:
                row: Optional[Row] = ABSENT_ROW
                archive.absent(path, absent[name], "")
            else:
                try:
                    row = archive.entry(name, path) if others and name in others else archive.regular(name, path)
                except IsADirectoryError:
                    row = None
                except OSError as error:
                    self._totals.unreadable += 1
                    self._note("error", path, "cannot be read: " + linux.what_was_refused(error))
                    archive.absent(path, b"unreadable", "")
                    row = ABSENT_ROW
            if row is None:
                self._totals.vanished += 1
                self._note("info", path, "vanished during the dump")
            else:
                blocks.add(name, row)
        if task.folders is None:
            blocks.put([], False)
        else:
            blocks.close(task.folders)


    def absent_folder(self, path: bytes, reason: bytes) -> None:
        """A folder that is there but not dumped."""
        self._archive.absent(path, reason, "d")
        self._blocks.add(state.pack(path, ABSENT_ROW, [], array("q"), [], True))

    def mount(self, path: bytes, status: Status) -> None:
        """A folder on which another file system is mounted: an empty folder."""
        self._archive.folder(path, status, linux.NO_XATTRS, None, "m")
        self._blocks.add(state.pack(path, mount_row(status), [], array("q"), [], True))


def mount_row(status: Status) -> Row:
    """The own row of a folder on which another file system is mounted: times and inode are that one's affair."""
    return (status.st_mode | state.MOUNT, 0, 0, 0, 0, 0)


def folder_status(status: os.stat_result) -> Status:
    """Of an os.stat_result."""
    return Status(
        status.st_mode, status.st_uid, status.st_gid, 0, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
    )  # fmt: skip


def tasks(path: bytes, status: os.stat_result, entries: List[bytes], others: FrozenSet[bytes],
          absent: Dict[bytes, bytes], folders: List[bytes]) -> List[Task]:  # fmt: skip
    """The tasks of a folder: cut where its blocks of state are."""
    kept = folder_status(status)
    if len(entries) <= ENTRIES:
        return [Task(path, kept, True, entries, others, absent, folders)]
    found = []
    for start in range(0, len(entries), ENTRIES):
        part = entries[start : start + ENTRIES]
        found.append(Task(
            path, kept, not start, part, others.intersection(part) if others else others,
            {name: absent[name] for name in part if name in absent} if absent else absent,
            folders if start + ENTRIES >= len(entries) else None,
        ))  # fmt: skip
    return found


class _Blocks:
    """Blocks of a folder, filled entry by entry; cut at the same places as when they are compared."""

    def __init__(self, writer: state.Writer, path: bytes, own: Optional[Row]):
        self._writer, self._path = writer, path
        self._own = own
        self._names: List[bytes] = []
        self._rows = array("q")

    def add(self, name: bytes, row: Row) -> None:
        """The next entry."""
        if len(self._names) == ENTRIES:
            self.put([], False)
        self._names.append(name)
        self._rows.extend(row)

    def put(self, folders: List[bytes], last: bool) -> None:
        """Writes what is held as a block."""
        self._writer.add(state.pack(self._path, self._own, self._names, self._rows, folders, last))
        self._own, self._names, self._rows = None, [], array("q")

    def close(self, folders: List[bytes]) -> None:
        """No more entries; the sub-folders follow them."""
        place = min(ENTRIES - len(self._names), len(folders))
        self.put(folders[:place], place == len(folders))
        while place < len(folders):
            part = folders[place : place + ENTRIES]
            place += len(part)
            self.put(part, place == len(folders))
