"""Putting metadata on entries, on Linux: owner, extended attributes, mode, time; and taking entries away.

Here live functions on open descriptors and on plain names in an open folder: no function takes a path, none
follows a link. What cannot be kept is no error: its word lands in the set `lost`. Reading is linux.py.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from typing import List, Mapping, NamedTuple, Optional, Set, Tuple

OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
SPECIAL_BITS = 0o6000
ACL_ACCESS = b"system.posix_acl_access"
ACL_DEFAULT = b"system.posix_acl_default"
_UNSUPPORTED = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT)


class Rights(NamedTuple):
    """What may be kept. root: owners and the rest of root's; trusted: setuid bits, capabilities, devices too."""

    root: bool
    trusted: bool
    groups: Tuple[int, ...]


class Attributes(NamedTuple):
    """The metadata of a member, as the archive has it."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: Mapping[bytes, bytes]


def rights_of_caller(scratch: bool) -> Rights:
    """The rights of this process; scratch: in the scratch folder, where nothing may gain rights."""
    root = os.geteuid() == 0
    return Rights(root, root and not scratch, () if root else (os.getegid(), *os.getgroups()))


def final_mode(mode: int, rights: Rights, lost: Set[str]) -> int:
    """The mode that an entry other than a folder gets."""
    if mode & SPECIAL_BITS and not rights.trusted:
        lost.add("setuid bits")
        return mode & ~SPECIAL_BITS
    return mode


def owner_to_set(have: Tuple[int, int], want: Attributes, rights: Rights, lost: Set[str]) -> Optional[Tuple[int, int]]:
    """(uid, gid) for chown, -1 where it stays; None when nothing is to do or may be done."""
    uid = -1 if want.uid == have[0] else want.uid
    gid = -1 if want.gid == have[1] else want.gid
    if not rights.root:
        if uid != -1 or (gid != -1 and gid not in rights.groups):
            lost.add("owners")
        uid, gid = -1, gid if gid in rights.groups else -1
    return None if uid == gid == -1 else (uid, gid)


def put_on_descriptor(fd: int, have: Tuple[int, int], want: Attributes, mode: int, rights: Rights,
                      lost: Set[str], now: int) -> None:  # fmt: skip
    """Owner, xattrs, mode and time on an open file or folder, in the order that keeps them all.

    have: its owner now; mode: what final_mode() said. chown takes setuid bits and capabilities away, so it
    comes first; xattrs need the owner's write permission, so the mode comes behind; time last.
    """
    owner = owner_to_set(have, want, rights, lost)
    if owner:
        _try(lost, "owners", os.chown, fd, *owner)
    if want.xattrs:
        put_xattrs(fd, want.xattrs, rights, lost)
    os.chmod(fd, mode)
    os.utime(fd, ns=(now, want.mtime_ns))


def put_xattrs(place: object, xattrs: Mapping[bytes, bytes], rights: Rights, lost: Set[str]) -> None:
    """Sets xattrs on a descriptor, or on what a name in /proc/self/fd stands for."""
    for name, value in xattrs.items():
        word = word_of_xattr(name)
        if word == "capabilities" and not rights.trusted:
            lost.add(word)
        else:
            _try(lost, word, os.setxattr, place, name, value)


def word_of_xattr(name: bytes) -> str:
    """What people call an extended attribute."""
    if name in (ACL_ACCESS, ACL_DEFAULT):
        return "ACLs"
    return {b"security.capability": "capabilities", b"security.selinux": "SELinux labels"}.get(name, "xattrs")


def only_these_xattrs(fd: int, wanted: Mapping[bytes, bytes]) -> None:
    """Takes away the xattrs of an existing folder that are not wanted; labels of the system stay."""
    try:
        names = [os.fsencode(name) for name in os.listxattr(fd)]
    except OSError:
        return
    for name in names:
        if name not in wanted and (name.startswith((b"user.", b"trusted.")) or name in (ACL_ACCESS, ACL_DEFAULT)):
            _try(set(), "", os.removexattr, fd, name)


def drop_inherited_acl(fd: int, folder: bool) -> None:
    """Takes away what a default ACL of the folder above gave to a new entry."""
    for name in (ACL_ACCESS, ACL_DEFAULT) if folder else (ACL_ACCESS,):
        try:
            os.removexattr(fd, name)
        except OSError as error:
            if error.errno not in (errno.ENODATA, *_UNSUPPORTED):
                raise


def has_default_acl(fd: int) -> bool:
    """Whether new entries of an open folder inherit an ACL."""
    try:
        return bool(os.getxattr(fd, ACL_DEFAULT))
    except OSError:
        return False


def put_on_name(folder: int, name: bytes, made: os.stat_result, want: Attributes, mode: int, rights: Rights,
                lost: Set[str], now: int) -> None:  # fmt: skip
    """Owner, xattrs, mode and time on a link, fifo or device just made as `name` in an open folder.

    made: lstat after making it. It is pinned before its owner changes: what somebody moved in its place
    meanwhile gets nothing.
    """
    owner = owner_to_set((made.st_uid, made.st_gid), want, rights, lost)
    link = stat.S_ISLNK(made.st_mode)
    other_mode = not link and stat.S_IMODE(made.st_mode) != mode
    if owner or want.xattrs or other_mode:
        pinned = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            found = os.fstat(pinned)
            if (found.st_dev, found.st_ino) != (made.st_dev, made.st_ino):
                raise OSError(errno.EBUSY, "it was replaced while it was restored")
            place = b"/proc/self/fd/%d" % pinned
            if owner:
                _try(lost, "owners", os.chown, place, *owner)
            if want.xattrs:
                put_xattrs(place, want.xattrs, rights, lost)
            if not link and (other_mode or (owner and mode & SPECIAL_BITS)):
                os.chmod(place, mode)
        finally:
            os.close(pinned)
    os.utime(name, ns=(now, want.mtime_ns), dir_fd=folder, follow_symlinks=False)


def _try(lost: Set[str], word: str, call: object, *args: object, **more: object) -> None:
    """A call whose refusal costs one attribute, not the entry."""
    try:
        call(*args, **more)  # type: ignore[operator]
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.E2BIG, errno.ENOSPC, errno.ERANGE, *_UNSUPPORTED):
            raise
        lost.add(word)


def mount_id(fd: int) -> int:
    """The number of the mount that a descriptor is on: bind mounts have the same device number. -1: unknown."""
    try:
        info = os.open("/proc/self/fdinfo/%d" % fd, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        for line in os.read(info, 4096).split(b"\n"):
            if line.startswith(b"mnt_id:"):
                return int(line[7:])
    finally:
        os.close(info)
    return -1


def remove_tree(folder: int, name: bytes) -> None:
    """Takes away whatever `name` in an open folder is; never follows a link, never crosses into another mount.

    Raises OSError: EBUSY when a mount point lies in it (nothing of that mount is touched).
    """
    try:
        os.unlink(name, dir_fd=folder)
        return
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
    top = os.open(name, OPEN_FOLDER, dir_fd=folder)
    here = mount_id(folder), os.fstat(folder).st_dev
    trail: List[Tuple[int, bytes, List[str]]] = []
    try:
        trail.append((top, name, os.listdir(top)))
        if (mount_id(top), os.fstat(top).st_dev) != here:
            raise OSError(errno.EBUSY, "another file system is mounted there")
        while trail:
            fd, own, names = trail[-1]
            if not names:
                trail.pop()
                os.close(fd)
                os.rmdir(own, dir_fd=trail[-1][0] if trail else folder)
                continue
            inner = os.fsencode(names.pop())
            try:
                os.unlink(inner, dir_fd=fd)
            except OSError as error:
                if error.errno not in (errno.EISDIR, errno.EPERM):
                    raise
                below = os.open(inner, OPEN_FOLDER, dir_fd=fd)
                trail.append((below, inner, []))
                if (mount_id(below), os.fstat(below).st_dev) != here:
                    raise OSError(errno.EBUSY, "another file system is mounted in it") from None
                trail[-1][2].extend(os.listdir(below))
    finally:
        for fd, _name, _names in trail:
            os.close(fd)


def sync_file_system(fd: int) -> None:
    """Waits until everything on the file system of a descriptor is on its disk. Raises OSError."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        syncfs = library.syncfs
    except (OSError, AttributeError):
        os.sync()
        return
    if syncfs(fd):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
