"""The holding disks: who they belong to, the space on them, and the folders dumps land in.

    <holding>/.stowage                                   the id of the server this disk belongs to
    <holding>/.incoming/<client>/<source>/<dump>/        a dump on its way; <dump>.state and <dump>.row beside it
                                                         (of a sealed one in <state>/pending: no name is on this disk)
    <holding>/<client>/<source>/<dump>/                  a dump that is whole

Here live reservations and names; when a dump is whole is decided in accept.py, what killed runs left is
cleared by sweep.py.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence

from .. import files
from ..catalog.places import source_folder
from ..errors import ConfigError, HoldingFull, StowageError
from ..image import layout
from ..settings import HoldingDisk
from ..text import size

INCOMING = ".incoming"
OWNER = ".stowage"
UNKNOWN = 64 << 20  # what a dump without a past is expected to take
STEP = 64 << 20  # a reservation grows by this much, or by a tenth of itself
SLACK = 1 << 20  # manifest, RESTORE.txt and such


@dataclass(frozen=True)
class Landing:
    """The places of one dump on one holding disk. folder: while it comes in. final: when it is whole.

    private: a folder on the state disk for what a sealed dump must not put on the holding disk in the clear.
    """

    disk: Path
    folder: Path
    final: Path
    private: Optional[Path] = None

    def _beside(self, ending: str) -> Path:
        return (self.private or self.folder.parent) / (self.folder.name + ending)

    @property
    def state(self) -> Path:
        """Its state blocks while it comes in."""
        return self._beside(".state")

    @property
    def row(self) -> Path:
        """Its row for the catalog, once all of it is known."""
        return self._beside(".row")

    @property
    def index(self) -> Path:
        """Of a sealed dump the index as it was before it was sealed, while it comes in."""
        return self._beside(".index")

    @property
    def table(self) -> Path:
        """The server's copy of a large frame table, while it comes in."""
        return self._beside(".frames")

    def make(self) -> None:
        """Makes the folders."""
        with writing(self.disk):
            again(lambda: files.make_folder(self.folder))
        if self.private is not None:
            private = self.private
            with writing(private):
                again(lambda: files.make_folder(private))

    def remove(self) -> None:
        """Removes all that came in; what is not there is no error."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.remove_beside()

    def remove_beside(self) -> None:
        """Removes what lies beside the folder, and folders that are empty then."""
        for path in (self.state, self.row, self.index, self.table):
            path.unlink(missing_ok=True)
        remove_empty(self.folder.parent, self.disk)
        if self.private is not None:
            remove_empty(self.private, self.private.parents[1])


def landing(
    disk: Path, client: str, source: str, dump: str, segment: str = "", private: Optional[Path] = None
) -> Landing:  # fmt: skip
    """The places of a dump on a holding disk; private: places.pending_folder(), for a sealed one."""
    below = Path(client) / source_folder(source, segment)
    final = disk / layout.dump_prefix(client, source, dump, segment or None)
    return Landing(disk, disk / INCOMING / below / dump, final, private / below if private else None)


def again(step: Callable[[], None]) -> None:
    """Runs step, again when a folder it stands on was just removed as empty."""
    for _attempt in range(20):
        try:
            return step()
        except FileNotFoundError:
            continue
    return step()


def remove_empty(folder: Path, up_to: Path) -> None:
    """Removes folder and its parents below up_to as long as they are empty."""
    while folder != up_to and up_to in folder.parents:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


class writing:
    """Turns errors of writing to a holding disk into errors for people."""

    def __init__(self, disk: Path):
        self.disk = disk

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, OSError):
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise HoldingFull(f"the holding disk {self.disk} is full", "stowage stage, or more room") from None
            raise StowageError(f"the holding disk {self.disk} cannot be written: {error.strerror}") from None


def claim(disk: Path, server: str, catalog: Optional[Any] = None) -> None:
    """Makes sure that the disk belongs to this server. Raises ConfigError when it is another's, or not usable.

    The disk's own folder must be there: an unmounted disk must not become a folder on the root file system. catalog:
    when it has images on this disk, the marker must be there too: a bare mount point is not claimed as a new disk.
    """
    if not is_claimed(disk, server, catalog):
        with writing(disk):
            files.replace(disk / OWNER, (server + "\n").encode())


def is_claimed(disk: Path, server: str, catalog: Optional[Any] = None) -> bool:
    """Whether the disk is this server's already; False when claim() would make it so. Raises as claim() does."""
    owner = disk / OWNER
    try:
        known = owner.read_text("ascii", "replace").strip()
    except FileNotFoundError:
        if not disk.is_dir():
            raise ConfigError(
                f"the holding disk {disk} is not there", f"mount it, or: install -d -m 0700 {disk}"
            ) from None
        if catalog is not None and any(disk in Path(row.holding).parents for row in catalog.dumps() if row.holding):
            raise ConfigError(
                f"the holding disk {disk} is not mounted: images are known on it, and {OWNER} is not there",
                f"mount it; if it is a new, empty disk: echo {server} > {owner}, then stowage verify",
            ) from None
        return False
    except OSError as error:
        raise ConfigError(f"the holding disk {disk} cannot be used: {error.strerror}") from None
    if known != server:
        raise ConfigError(
            f"the holding disk {disk} belongs to the backup server {known[:16]!r}, this is {server}",
            f"give it a folder of its own; if that server is no more: rm {owner}",
        )
    return True


class Space:
    """Who may write how much on which holding disk. Thread-safe; one for a run."""

    def __init__(self, disks: Sequence[HoldingDisk]):
        self.disks = list(disks)
        self._lock = threading.Lock()
        self._rooms: List[Room] = []

    def reserve(self, expected: int | None) -> Room:
        """Room for a dump of expected bytes (None: unknown) on the disk that has most. Raises HoldingFull."""
        wanted = (UNKNOWN if expected is None else expected + expected // 10) + SLACK
        least = SLACK if expected is None else expected + SLACK
        with self._lock:
            free = [(self._free(disk), disk) for disk in self.disks]
            if not free:
                raise HoldingFull("no holding disk is configured")
            most, disk = max(free, key=lambda pair: pair[0])
            if most < least:
                left = ", ".join(f"{disk.path} has {size(max(0, room))} left" for room, disk in free)
                raise HoldingFull(
                    f"no holding disk has room for {size(least)}: {left}", "stowage stage, or raise holding: use"
                )
            room = Room(self, disk, min(wanted, most))
            self._rooms.append(room)
            return room

    def _grow(self, room: Room, total: int) -> None:
        with self._lock:
            if total <= room.reserved:
                return
            missing = total - room.reserved
            free = self._free(room.disk)
            if free < missing:
                raise HoldingFull(
                    f"the holding disk {room.disk.path} is full: {size(total)} of this dump came, no more fits",
                    "stowage stage, or raise holding: use",
                )
            room.reserved += min(free, max(missing, STEP, room.reserved // 10))

    def _close(self, room: Room) -> None:
        with self._lock:
            if room in self._rooms:
                self._rooms.remove(room)

    def _free(self, disk: HoldingDisk) -> int:
        """Bytes that no dump has and none has reserved."""
        try:
            found = os.statvfs(disk.path)
        except OSError:
            return -1
        mine = [room for room in self._rooms if room.disk is disk]
        # what is reserved but not yet written looks free to the file system
        free = found.f_bavail * found.f_frsize - sum(max(0, room.reserved - room.written) for room in mine)
        if disk.use < 0:
            return free + disk.use
        return min(free, disk.use - _stored(disk.path) - sum(room.reserved for room in mine))


class Room:
    """What one dump may write. written: what it has."""

    def __init__(self, space: Space, disk: HoldingDisk, reserved: int):
        self.disk = disk
        self.reserved = reserved
        self.written = 0
        self._space = space

    def take(self, count: int) -> None:
        """count bytes more will be written; grows the reservation. Raises HoldingFull."""
        total = self.written + count
        if total > self.reserved:
            self._space._grow(self, total)
        self.written = total

    def close(self) -> None:
        """Nothing more comes: what is not written is free again."""
        self._space._close(self)


def _stored(disk: Path) -> int:
    """Bytes of the dumps that are whole (what comes in is counted by its reservation)."""
    total = 0
    folders = [os.fspath(disk)]
    top = folders[0]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if not (folder == top and entry.name == INCOMING):
                            folders.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:  # released by a stage at work
            continue
    return total
