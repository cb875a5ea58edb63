"""The target `directory`: a folder of a mounted file system (a NAS, a second disk, a removable disk).

Here lives how a file gets there whole or not at all, and why nothing leaves the folder: every component
is opened below its parent without following links. Not here: what the files mean.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import threading
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

from pydantic import BaseModel, ConfigDict, field_validator

from backupcore import text
from backupcore.hookspecs import (
    Finding,
    Stored,
    TargetCapabilities,
    TargetContext,
    TargetDriver,
    TargetError,
    safe_name,
    to_the_end,
)

from . import _filesystem as filesystem
from . import _streaming as streaming
from ._below import PIECE, below, copy_into, is_mounted, listing, lstat, odd, read_at, told
from ._directory_stream import DirectoryStream
from ._prove import INCOMING, MARK, proven

_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)


class DirectoryOptions(BaseModel):
    """path: the folder, absolute. mount: it must lie on a mounted file system, not on the system's own disk."""

    model_config = ConfigDict(extra="forbid")

    path: Path
    mount: bool = False

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        if not value.is_absolute():
            raise ValueError("path must be absolute")
        return value


class DirectoryTarget:
    """Files below one folder. A file is written in `.stowage/incoming/<server id>`, synced, then linked in place."""

    def __init__(self, options: DirectoryOptions, context: TargetContext):
        self._root = self.root = os.fspath(options.path)
        self._mount = options.mount
        self._server = self.server = context.server_id
        self._context = context
        self.folder = context.folder
        self._seen = context.folder / "used"  # there once this server has used the target: which file system it was
        self._known = (-1, -1)  # device and identity that were found to be that one
        self._hard_links = True
        self._noting = threading.Lock()
        self._note: Optional[streaming.Note] = None  # of all that is put: its names begin with _mine
        self._mine = ""
        self._left = False  # something that clean() has to remove

    @property
    def capabilities(self) -> TargetCapabilities:
        """Ranges and deletion always; overwrite protection where the file system has hard links."""
        return TargetCapabilities(
            ranged_reads=True, overwrite_protection=self._hard_links, delete=True, tells_others=True, streams=True
        )  # fmt: skip

    # -- the contract

    def put(self, name, path, *, if_absent=False, sha256=None, resume=None, checkpoint=None, progress=None,
            pace=None) -> Stored:  # fmt: skip
        """Copies the file; resume and checkpoint are not used: a cut file is copied anew, so a begun one is ended."""
        folders, last = _split(name)
        if pace:
            pace(0)
        with told(f"cannot write {name} in {self._root}"), self.opened(first_use=True) as root:
            if if_absent:
                self.refuse_existing(root, name)
            with below(root, [*INCOMING.split("/"), self._server], make=True) as incoming:
                temporary = self._temporary()
                try:
                    size = copy_into(path, incoming, temporary, sha256, progress, to_the_end(pace))
                    self.place(root, incoming, temporary, folders, last, if_absent, name)
                except BaseException:
                    with contextlib.suppress(OSError):
                        os.unlink(temporary, dir_fd=incoming)
                    with contextlib.suppress(OSError):
                        self._left = self._left or lstat(incoming, temporary) is not None
                    raise
            return self.found(root, name) or Stored(name, size)

    def stream(self, name, *, if_absent=False, pace=None) -> DirectoryStream:
        """Begins a file whose length nobody knows yet."""
        folders, last = _split(name)
        if pace:
            pace(0)
        return DirectoryStream(self, name, folders, last, if_absent, pace)

    def read(self, name, offset=0, length=None) -> Iterator[bytes]:
        """The bytes, read as they are asked for."""
        folders, last = _split(name)
        with contextlib.ExitStack() as stack:
            with told(f"cannot read {name} in {self._root}"):
                root = stack.enter_context(self.opened())
                folder = stack.enter_context(below(root, folders))
                fd = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
                stack.callback(os.close, fd)
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise TargetError(f"{name} in {self._root} is no plain file")
                left = os.fstat(fd).st_size - offset if length is None else length
            while left > 0:
                with told(f"cannot read {name} in {self._root}"):
                    data = read_at(fd, min(PIECE, left), offset, f"cannot read {name} in {self._root}")
                if not data:
                    raise TargetError(f"{name} in {self._root} ends {left} bytes too early")
                offset += len(data)
                left -= len(data)
                yield data

    def stat(self, name) -> Optional[Stored]:
        """The file, None when there is none."""
        safe_name(name)
        if self._unborn():
            return None
        with told(f"cannot look at {name} in {self._root}"), self.opened() as root:
            return self.found(root, name)

    def list(self, prefix="") -> Iterator[Stored]:
        """All files in order of their names; what is no plain file or no safe name is passed over."""
        if prefix:
            safe_name(prefix.rstrip("/") or "x")
        if self._unborn():
            return
        start = prefix.rpartition("/")[0]
        with told(f"cannot list {self._root}"), self.opened() as root:
            try:
                with below(root, start.split("/") if start else []) as folder:
                    found = listing(folder, start + "/" if start else "")
                    for item, is_folder in found:
                        if is_folder and (item.startswith(prefix) or prefix.startswith(item)):
                            yield from self._tree(root, item, prefix)
                        elif not is_folder and item.startswith(prefix):
                            yield from self._shown(root, item)
            except FileNotFoundError:
                return

    def others(self, folder) -> Iterator[str]:
        """Folders, links, devices and files with names that are not safe, in the folder."""
        parts = safe_name(folder).split("/")
        if self._unborn():
            return
        with told(f"cannot list {folder} in {self._root}"), self.opened() as root:
            try:
                with below(root, parts) as found:
                    yield from odd(found, folder + "/")
            except FileNotFoundError:
                return

    def delete(self, name) -> None:
        """Removes the file and the folders that it leaves empty."""
        folders, last = _split(name)
        with told(f"cannot remove {name} in {self._root}"), self.opened() as root:
            try:
                with below(root, folders) as folder:
                    os.unlink(last, dir_fd=folder)
                    os.fsync(folder)
            except FileNotFoundError:
                return
            while folders and folders != [MARK]:
                with below(root, folders[:-1]) as parent:
                    try:
                        os.rmdir(folders[-1], dir_fd=parent)
                    except OSError:
                        return
                    os.fsync(parent)
                folders = folders[:-1]

    def probe(self) -> Iterator[Finding]:
        """Writes, reads, lists and removes a file of its own; says whether this is a mounted file system."""
        if not self._mount and os.path.isdir(self._root) and os.stat(self._root).st_dev == os.stat("/").st_dev:
            message = f"{self._root} lies on the system's own file system"
            yield Finding(True, "mount", message, "if a NAS or disk belongs there, mount it and set mount: true", True)
        yield from proven(self, self._context, self._root)
        with contextlib.suppress(OSError):
            free = os.statvfs(self._root)
            yield Finding(True, "space", text.size(free.f_bavail * free.f_frsize) + " free")

    def clean(self, older_than_ns) -> int:
        """Removes this server's files in `incoming` that were last written before that time, or that somebody who was
        killed left."""
        removed = 0
        with told(f"cannot clean {self._root}"), self.opened() as root:
            notes = {str(facts.get("temporary")): path for path, facts in streaming.left(self.folder)}
            try:
                with below(root, [*INCOMING.split("/"), self._server]) as folder:
                    for item in os.listdir(folder):
                        old = os.stat(item, dir_fd=folder, follow_symlinks=False).st_mtime_ns < older_than_ns
                        if old or item.partition("-")[0] in notes:
                            os.unlink(item, dir_fd=folder)
                            removed += 1
            except FileNotFoundError:
                pass
            for note in notes.values():
                note.unlink(missing_ok=True)
        return removed

    def close(self) -> None:
        """Nothing is on its way any more."""
        with self._noting:
            if self._note is not None:
                self._note.close(keep=self._left)
                self._note = None

    def _temporary(self) -> str:
        """A name for what is put until it is whole. A note tells how such names begin, before the first is used: what a
        killed process left is known by it. One for all, since a cut file is of no use to anybody."""
        with self._noting:
            if self._note is None:
                self._mine, self._left = secrets.token_hex(8), False
                self._note = streaming.Note(self.folder, {"temporary": self._mine})
            return f"{self._mine}-{secrets.token_hex(8)}"

    # -- for the stream, too

    def refuse_existing(self, root: int, name: str) -> None:
        """Raises TargetError when there is such a file."""
        if self.found(root, name) is not None:
            raise _exists(name, self._root)

    @contextlib.contextmanager
    def opened(self, first_use: bool = False) -> Iterator[int]:
        """The root as descriptor, once it is sure that this is the place and not an unmounted mount point."""
        with told(f"cannot open {self._root}"):
            root = self._open_root(first_use)
        try:
            yield root
        finally:
            os.close(root)

    def _unborn(self) -> bool:
        """Whether the first put would make the folder."""
        missing = not self._mount and not self._seen.exists() and not os.path.lexists(self._root)
        return missing and os.path.isdir(os.path.dirname(self._root))

    def _open_root(self, first_use: bool) -> int:
        used = self._seen.exists()
        if self._mount and not is_mounted(self._root):
            raise TargetError(f"{self._root} is not on a mounted file system", "mount it, or drop mount: true", True)
        if first_use and not used:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._root, 0o700)
        try:
            root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            hint = "is it mounted?" if used else "make it, or mount it"
            raise TargetError(f"{self._root} is not there", hint, True) from None
        try:
            if lstat(root, MARK) is None:
                if used:
                    hint = f"mount it; if it is a new and empty place on purpose: rm {self._seen}"
                    raise TargetError(f"{self._root} lost its {MARK} folder: is it mounted?", hint, True)
                if first_use:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(MARK, 0o700, dir_fd=root)
                    os.fsync(root)
            self._recognise(root, used, first_use)
        except BaseException:
            os.close(root)
            raise
        return root

    def _recognise(self, root: int, used: bool, first_use: bool) -> None:
        """Whether this is the file system of the first use, which is remembered."""
        # a disk that takes the place of another often gets its device number
        found = (os.fstat(root).st_dev, os.fstatvfs(root).f_fsid)
        if found == self._known and used:
            return
        now = filesystem.of(root, self._root)
        before = filesystem.load(self._seen)
        wrong = filesystem.differs(before, now) if before else ""
        if wrong:
            hint = f"mount the right one; if this is the place from now on: rm {self._seen}"
            raise TargetError(f"{self._root} {wrong}", hint, True)
        if before is None and not first_use:
            return
        if before is None:
            filesystem.save(self._seen, now)
        self._known = found

    def place(self, root, incoming, temporary, folders, last, if_absent, name) -> None:
        """The finished file under its name. Folders may be removed by a delete() beside us: made again."""
        for attempt in range(5):
            try:
                with below(root, folders, make=True) as folder:
                    if if_absent:
                        self._link(incoming, temporary, folder, last, name)
                    else:
                        os.rename(temporary, last, src_dir_fd=incoming, dst_dir_fd=folder)
                    os.fsync(folder)
                return
            except FileNotFoundError:
                if attempt == 4:
                    raise

    def _link(self, incoming, temporary, folder, last, name) -> None:
        """Never over an existing file: a hard link, then the old name goes; else a look and a rename."""
        try:
            os.link(temporary, last, src_dir_fd=incoming, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            raise _exists(name, self._root) from None
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            self._hard_links = False
            if lstat(folder, last) is not None:
                raise _exists(name, self._root) from None
            os.rename(temporary, last, src_dir_fd=incoming, dst_dir_fd=folder)
        else:
            os.unlink(temporary, dir_fd=incoming)
            os.fsync(incoming)  # its note goes, too

    def found(self, root: int, name: str) -> Optional[Stored]:
        folders, last = _split(name)
        try:
            with below(root, folders) as folder:
                found = lstat(folder, last)
        except FileNotFoundError:
            return None
        if found is None or not stat.S_ISREG(found.st_mode):
            return None
        return Stored(name, found.st_size, found.st_mtime_ns)

    def _tree(self, root: int, folder_name: str, prefix: str) -> Iterator[Stored]:
        if folder_name == INCOMING + "/":
            return
        try:
            with below(root, folder_name.rstrip("/").split("/")) as folder:
                found = listing(folder, folder_name)
        except FileNotFoundError:
            return
        for item, is_folder in found:
            if is_folder:
                yield from self._tree(root, item, prefix)
            elif item.startswith(prefix):
                yield from self._shown(root, item)

    def _shown(self, root: int, name: str) -> Iterator[Stored]:
        stored = self.found(root, name)
        if stored is not None:
            yield stored


def _split(name: str) -> Tuple[List[str], str]:
    parts = safe_name(name).split("/")
    return parts[:-1], parts[-1]


def _exists(name: str, root: str) -> TargetError:
    return TargetError(f"{name} is already in {root}", "another server or an earlier run put it there")


DRIVER = TargetDriver("directory", "a folder of a mounted file system", DirectoryOptions, DirectoryTarget)
