"""The target `directory`: a folder of a mounted file system (a NAS, a second disk, a removable disk).

Here lives how a file gets there whole or not at all, and why nothing leaves the folder: every component
is opened below its parent without following links. Not here: what the files mean.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
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
    WrongDigest,
    safe_name,
)

MARK = ".stowage"
INCOMING = MARK + "/incoming"
PIECE = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
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
        self._root = os.fspath(options.path)
        self._mount = options.mount
        self._server = context.server_id
        self._folder = context.folder
        self._seen = context.folder / "used"  # there once this server has used the target
        self._hard_links = True

    @property
    def capabilities(self) -> TargetCapabilities:
        """Ranges and deletion always; overwrite protection where the file system has hard links."""
        return TargetCapabilities(ranged_reads=True, overwrite_protection=self._hard_links, delete=True)

    # -- the contract

    def put(self, name, path, *, if_absent=False, sha256=None, resume=None, checkpoint=None, progress=None) -> Stored:
        """Copies the file; resume and checkpoint are not used: a cut file is copied anew."""
        folders, last = _split(name)
        with _told(f"cannot write {name} in {self._root}"), self._opened(first_use=True) as root:
            if if_absent and self._stat(root, name) is not None:
                raise _exists(name, self._root)
            with _below(root, [*INCOMING.split("/"), self._server], make=True) as incoming:
                temporary = secrets.token_hex(8)
                try:
                    size = _copy(path, incoming, temporary, sha256, progress)
                    self._place(root, incoming, temporary, folders, last, if_absent, name)
                except BaseException:
                    with contextlib.suppress(OSError):
                        os.unlink(temporary, dir_fd=incoming)
                    raise
            return self._stat(root, name) or Stored(name, size)

    def read(self, name, offset=0, length=None) -> Iterator[bytes]:
        """The bytes, read as they are asked for."""
        folders, last = _split(name)
        with contextlib.ExitStack() as stack:
            with _told(f"cannot read {name} in {self._root}"):
                root = stack.enter_context(self._opened())
                folder = stack.enter_context(_below(root, folders))
                fd = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
                stack.callback(os.close, fd)
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise TargetError(f"{name} in {self._root} is no plain file")
                left = os.fstat(fd).st_size - offset if length is None else length
            while left > 0:
                with _told(f"cannot read {name} in {self._root}"):
                    data = os.pread(fd, min(PIECE, left), offset)
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
        with _told(f"cannot look at {name} in {self._root}"), self._opened() as root:
            return self._stat(root, name)

    def list(self, prefix="") -> Iterator[Stored]:
        """All files in order of their names; what is no plain file or no safe name is passed over."""
        if prefix:
            safe_name(prefix.rstrip("/") or "x")
        if self._unborn():
            return
        start = prefix.rpartition("/")[0]
        with _told(f"cannot list {self._root}"), self._opened() as root:
            try:
                with _below(root, start.split("/") if start else []) as folder:
                    found = _listing(folder, start + "/" if start else "")
                    for item, is_folder in found:
                        if is_folder and (item.startswith(prefix) or prefix.startswith(item)):
                            yield from self._tree(root, item, prefix)
                        elif not is_folder and item.startswith(prefix):
                            yield from self._shown(root, item)
            except FileNotFoundError:
                return

    def delete(self, name) -> None:
        """Removes the file and the folders that it leaves empty."""
        folders, last = _split(name)
        with _told(f"cannot remove {name} in {self._root}"), self._opened() as root:
            try:
                with _below(root, folders) as folder:
                    os.unlink(last, dir_fd=folder)
                    os.fsync(folder)
            except FileNotFoundError:
                return
            while folders and folders != [MARK]:
                with _below(root, folders[:-1]) as parent:
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
        content = secrets.token_bytes(4096)
        name = f"{MARK}/probe-{self._server}-{secrets.token_hex(4)}"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"probe-{secrets.token_hex(4)}"
        try:
            path.write_bytes(content)
            yield from self._probe_with(name, path, content)
        except TargetError as error:
            yield Finding(False, "write", error.message, error.hint)
            return
        finally:
            path.unlink(missing_ok=True)
        free = os.statvfs(self._root)
        yield Finding(True, "space", text.size(free.f_bavail * free.f_frsize) + " free")

    def _probe_with(self, name: str, path: Path, content: bytes) -> Iterator[Finding]:
        self.put(name, path, if_absent=True)
        try:
            yield Finding(True, "write", f"{self._root} takes files")
            right = b"".join(self.read(name)) == content and b"".join(self.read(name, 1000, 100)) == content[1000:1100]
            yield Finding(right, "read", "files and ranges come back" if right else "other bytes came back")
            listed = [found.name for found in self.list(name)] == [name]
            yield Finding(listed, "list", "files are listed" if listed else "a file that was written is not listed")
            try:
                self.put(name, path, if_absent=True)
                yield Finding(False, "overwrite", "a file that exists was overwritten")
            except TargetError:
                kind = "by the file system" if self._hard_links else "only by a look before (no hard links here)"
                yield Finding(True, "overwrite", f"files are protected {kind}", warning=not self._hard_links)
        finally:
            self.delete(name)
        gone = self.stat(name) is None
        yield Finding(gone, "delete", "files are removed" if gone else "a removed file is still there")

    def clean(self, older_than_ns) -> int:
        """Removes this server's files in `incoming` that were last written before that time."""
        removed = 0
        with _told(f"cannot clean {self._root}"), self._opened() as root:
            try:
                with _below(root, [*INCOMING.split("/"), self._server]) as folder:
                    for item in os.listdir(folder):
                        if os.stat(item, dir_fd=folder, follow_symlinks=False).st_mtime_ns < older_than_ns:
                            os.unlink(item, dir_fd=folder)
                            removed += 1
            except FileNotFoundError:
                pass
        return removed

    def close(self) -> None:
        """Nothing is held open."""

    # -- inside

    @contextlib.contextmanager
    def _opened(self, first_use: bool = False) -> Iterator[int]:
        """The root as descriptor, once it is sure that this is the place and not an unmounted mount point."""
        with _told(f"cannot open {self._root}"):
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
        if self._mount and not _is_mounted(self._root):
            raise TargetError(f"{self._root} is not on a mounted file system", "mount it, or drop mount: true")
        if first_use and not used:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._root, 0o700)
        try:
            root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            hint = "is it mounted?" if used else "make it, or mount it"
            raise TargetError(f"{self._root} is not there", hint) from None
        try:
            if _lstat(root, MARK) is None:
                if used:
                    hint = f"mount it; if it is a new and empty place on purpose: rm {self._seen}"
                    raise TargetError(f"{self._root} lost its {MARK} folder: is it mounted?", hint)
                if first_use:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(MARK, 0o700, dir_fd=root)
                    os.fsync(root)
            if first_use and not used:
                self._seen.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._seen.touch(0o600)
        except BaseException:
            os.close(root)
            raise
        return root

    def _place(self, root, incoming, temporary, folders, last, if_absent, name) -> None:
        """The finished file under its name. Folders may be removed by a delete() beside us: made again."""
        for attempt in range(5):
            try:
                with _below(root, folders, make=True) as folder:
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
            if _lstat(folder, last) is not None:
                raise _exists(name, self._root) from None
            os.rename(temporary, last, src_dir_fd=incoming, dst_dir_fd=folder)
        else:
            os.unlink(temporary, dir_fd=incoming)

    def _stat(self, root: int, name: str) -> Optional[Stored]:
        folders, last = _split(name)
        try:
            with _below(root, folders) as folder:
                found = _lstat(folder, last)
        except FileNotFoundError:
            return None
        if found is None or not stat.S_ISREG(found.st_mode):
            return None
        return Stored(name, found.st_size, found.st_mtime_ns)

    def _tree(self, root: int, folder_name: str, prefix: str) -> Iterator[Stored]:
        if folder_name == INCOMING + "/":
            return
        try:
            with _below(root, folder_name.rstrip("/").split("/")) as folder:
                found = _listing(folder, folder_name)
        except FileNotFoundError:
            return
        for item, is_folder in found:
            if is_folder:
                yield from self._tree(root, item, prefix)
            elif item.startswith(prefix):
                yield from self._shown(root, item)

    def _shown(self, root: int, name: str) -> Iterator[Stored]:
        stored = self._stat(root, name)
        if stored is not None:
            yield stored


def _split(name: str) -> Tuple[List[str], str]:
    parts = safe_name(name).split("/")
    return parts[:-1], parts[-1]


def _exists(name: str, root: str) -> TargetError:
    return TargetError(f"{name} is already in {root}", "another server or an earlier run put it there")


@contextlib.contextmanager
def _below(root: int, folders: List[str], make: bool = False) -> Iterator[int]:
    """The folder below root, component by component, never through a link; made and synced if asked."""
    current = os.dup(root)
    try:
        for part in folders:
            if make:
                try:
                    os.mkdir(part, 0o700, dir_fd=current)
                    os.fsync(current)
                except FileExistsError:
                    pass
            following = os.open(part, _FOLDER, dir_fd=current)
            os.close(current)
            current = following
        yield current
    finally:
        os.close(current)


def _lstat(folder: int, name: str):
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _listing(folder: int, prefix: str) -> List[Tuple[str, bool]]:
    """(name below the root, is a folder), folders with a slash at the end, in the order of whole names' bytes."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            is_folder = entry.is_dir(follow_symlinks=False)
            name = prefix + entry.name
            with contextlib.suppress(TargetError):
                safe_name(name)
                if is_folder or entry.is_file(follow_symlinks=False):
                    found.append((name + "/" if is_folder else name, is_folder))
    return sorted(found, key=lambda item: item[0].encode("utf-8"))


def _copy(path, folder: int, name: str, sha256: Optional[str], progress) -> int:
    """A synced copy of path as name in folder; its pages are dropped, so that reading it back asks the disk."""
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise TargetError(f"cannot read {path}: {error.strerror}") from None
    fd = -1
    try:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
        size, done, found = os.fstat(source).st_size, 0, hashlib.sha256()
        while done <= size and (data := os.read(source, PIECE)):
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            done += len(data)
            if sha256:
                found.update(data)
            if progress:
                progress(len(data))
        if done != size:
            raise TargetError(f"{path} changed while it was copied")
        if sha256 and found.hexdigest() != sha256:
            raise WrongDigest(f"{path} is not what its checksum says")
        os.fsync(fd)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return done
    finally:
        os.close(source)
        if fd >= 0:
            os.close(fd)


def _is_mounted(path: str) -> bool:
    """Whether path, or a folder above it other than /, is a mount point."""
    path = os.path.realpath(path)
    while path != "/":
        if os.path.ismount(path):
            return True
        path = os.path.dirname(path)
    return False


_HINTS = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "raise the quota there, or make room",
    errno.EROFS: "mount it read-write",
    errno.EACCES: "give the user that runs stowage the right to it",
    errno.EPERM: "give the user that runs stowage the right to it",
    errno.ELOOP: "something there is a symbolic link: stowage does not follow links below a target",
    errno.ENOTDIR: "something there is a symbolic link or a file where a folder belongs",
    errno.ESTALE: "mount it again",
    errno.EIO: "look at the disk and the kernel's log",
    errno.ENOENT: "it is not there",
}
_RETRY = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR, errno.EAGAIN, errno.EHOSTDOWN)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Any OSError inside becomes a TargetError of one line."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise TargetError(f"{what}: {reason}", _HINTS.get(error.errno, ""), error.errno in _RETRY) from None


DRIVER = TargetDriver("directory", "a folder of a mounted file system", DirectoryOptions, DirectoryTarget)
