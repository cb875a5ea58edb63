"""The holding disks: who they belong to, and the folders dumps land in.

    <holding>/.stowage                                   the id of the server this disk belongs to
    <holding>/.incoming/<client>/<source>/<dump>/        a dump on its way; <dump>.state and <dump>.row beside it
                                                         (of a sealed one in <state>/pending: no name is on this disk)
    <holding>/.incoming/<client>/<source>/<dump>.cut/    what came of one that was cut, see resume.py
    <holding>/<client>/<source>/<dump>/                  a dump that is whole

Here live names, and what errors of a disk mean. Who may write how much is space.py; when a dump is whole is decided in
accept.py, what killed runs left is cleared by sweep.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

from .. import files
from ..catalog.places import source_folder
from ..errors import ConfigError, HoldingFull, StowageError
from ..image import layout
from .space import Room, Space
from .stored import CUT, INCOMING

__all__ = ["CUT", "INCOMING", "OWNER", "DiskFailed", "DiskFull", "Landing", "Room", "Space"]
OWNER = ".stowage"

# What says that a disk as a whole cannot be written, not only one name on it.
_DISK_IS_GONE = (
    errno.EROFS, errno.EIO, errno.ENODEV, errno.ENXIO, errno.ENOENT, errno.ESTALE, errno.ENOTCONN, errno.EACCES,
    errno.EPERM, errno.EBADMSG, errno.EUCLEAN,
)  # fmt: skip


class DiskFull(HoldingFull):
    """A disk has no room although it was reserved: others' files are on it. disk: which."""

    disk = Path()


class DiskFailed(StowageError):
    """A disk went away, or takes nothing any more. disk: which."""

    disk = Path()


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

    @property
    def came(self) -> Path:
        """The journal of what came, while it comes in and after a cut."""
        return self._beside(".came")

    @property
    def cut(self) -> Path:
        """In place of folder, once its line was cut."""
        return self.folder.with_name(self.folder.name + CUT)

    def make(self) -> None:
        """Makes the folders."""
        with writing(self.disk):
            again(lambda: files.make_folder(self.folder))
        if self.private is not None:
            private = self.private
            with writing(private):
                again(lambda: files.make_folder(private))

    def remove(self) -> None:
        """Removes all that came in; what is not there is no error, nor is a disk that lets nothing go."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.cut, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.remove_beside()

    def remove_beside(self) -> None:
        """Removes what lies beside the folder, and folders that are empty then."""
        for path in (self.state, self.row, self.index, self.table, self.came):
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
                full = DiskFull(f"the holding disk {self.disk} is full", "stowage stage, or more room")
                full.disk = self.disk
                raise full from None
            told = f"the holding disk {self.disk} cannot be written: {error.strerror}"
            if error.errno not in _DISK_IS_GONE:
                raise StowageError(told) from None
            failed = DiskFailed(told, "stowage check")
            failed.disk = self.disk
            raise failed from None


def claim(disk: Path, server: str, catalog: Optional[Any] = None) -> None:
    """Makes sure that the disk belongs to this server. Raises ConfigError when it is another's, or not usable.

    The disk's own folder must be there: an unmounted disk must not become a folder on the root file system. catalog:
    when it has images on this disk, the marker must be there too: a bare mount point is not claimed as a new disk.
    """
    claimed = is_claimed(disk, server, catalog)
    if os.statvfs(disk).f_flag & os.ST_RDONLY:
        raise ConfigError(f"the holding disk {disk} is read-only", f"find out why; then: mount -o remount,rw {disk}")
    if not claimed:
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
