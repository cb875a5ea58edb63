"""Files below a folder, reached component by component and never through a symbolic link.

Here live the steps of the directory target that know descriptors and errno; not what a target is.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from typing import Iterator, List, Optional, Tuple

from backupcore.hookspecs import TargetError, Unreadable, WrongDigest, safe_name

PIECE = 1 << 20
_LOST = (errno.EIO, errno.EUCLEAN, errno.EBADMSG)
_FAR = (" nfs", " cifs", " smb", " fuse", " ceph", " 9p", " afs", " gluster")  # types in mountinfo, behind ` - `
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def below(root: int, folders: List[str], make: bool = False) -> Iterator[int]:
    """The folder below root, component by component, never through a link; made and synced if asked."""
    current = os.dup(root)
    try:
        for part in folders:
            try:
                following = os.open(part, FOLDER, dir_fd=current)
            except FileNotFoundError:
                if not make:
                    raise
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=current)
                    os.fsync(current)
                following = os.open(part, FOLDER, dir_fd=current)
            os.close(current)
            current = following
        yield current
    finally:
        os.close(current)


def lstat(folder: int, name: str) -> Optional[os.stat_result]:
    """What name in folder is, links not followed; None when it is not there."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def listing(folder: int, prefix: str) -> List[Tuple[str, bool]]:
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


def odd(folder: int, prefix: str) -> Iterator[str]:
    """What is no plain file with a safe name in folder, as names below the root; a folder with a slash at the end."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            try:
                safe_name(name)
            except TargetError:
                pass
            else:
                if entry.is_file(follow_symlinks=False):
                    continue
            yield name + "/" if entry.is_dir(follow_symlinks=False) else name


def copy_into(path, folder: int, name: str, sha256: Optional[str], progress, pace=None) -> int:
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
            if pace:
                pace(len(data))
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


def is_mounted(path: str) -> bool:
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


def read_at(fd: int, count: int, offset: int, what: str) -> bytes:
    """Some of the bytes from offset. Raises Unreadable when a disk here has lost them: the same error of a file
    system behind a network says only that the other side is away."""
    try:
        return os.pread(fd, count, offset)
    except OSError as error:
        if error.errno in _LOST and not _is_far(os.fstat(fd).st_dev):
            raise Unreadable(f"{what}: {os.strerror(error.errno)}", "look at the disk: smartctl -a") from None
        raise


def _is_far(device: int) -> bool:
    """Whether a file system is not on a disk of this machine; when nobody can tell, it is taken as far."""
    number = f" {os.major(device)}:{os.minor(device)} "
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            kinds = [line.partition(" - ")[2] for line in mounts if number in line]
    except OSError:
        return True
    return not kinds or any((" " + kind).startswith(_FAR) for kind in kinds)


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Any OSError inside becomes a TargetError of one line."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise TargetError(f"{what}: {reason}", _HINTS.get(error.errno, ""), error.errno in _RETRY) from None
