"""Putting down single entries that are not the hot path: big files, files with holes, links, fifos, devices.

Here live functions from a member and an open folder to an entry in its place, whole or not at all. Small files,
which are nearly all, are in writers; folders and hard links in folders.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from queue import Queue
from typing import Callable, Optional, Set

from ..image.unpax import Member
from .linux_write import NEW_FILE, Attributes, drop_inherited_acl, final_mode, put_on_descriptor, put_on_name
from .writers import WRONG, How, Problem, exists, put_in_place, temporary_name


def attributes_of(member: Member) -> Attributes:
    """The metadata of a member."""
    return Attributes(member.mode, member.uid, member.gid, member.mtime_ns, member.xattrs)


def put_big_file(place: int, inherits: bool, name: bytes, member: Member, digest: Optional[bytes], how: How,
                 lost: Set[str]) -> Optional[Problem]:  # fmt: skip
    """A file written as it comes: under another name until it is whole and right. None, or the problem."""
    if how.existing != "overwrite" and _there(place, name):
        return exists(0, name, how)
    temporary = temporary_name()
    fd = os.open(temporary, NEW_FILE, 0o600, dir_fd=place)
    try:
        try:
            right = _write_content(fd, member, digest)
            if right:
                status = os.fstat(fd)
                if inherits:
                    drop_inherited_acl(fd, False)
                mode = final_mode(member.mode, how.rights, lost)
                owner = status.st_uid, status.st_gid
                put_on_descriptor(fd, owner, attributes_of(member), mode, how.rights, lost, how.now)
        finally:
            os.close(fd)
        if right:
            put_in_place(place, temporary, name, how.exact)
            return None
    except BaseException:
        os.unlink(temporary, dir_fd=place)
        raise
    os.unlink(temporary, dir_fd=place)
    return 0, name, True, WRONG


def put_other(place: int, name: bytes, member: Member, how: How, lost: Set[str]) -> Optional[Problem]:
    """A symbolic link, a fifo or a device. None, or the problem."""
    if member.kind in "cb" and not how.rights.trusted:
        lost.add("devices")
        why = "in the scratch folder" if how.rights.root else "without root"
        return 0, name, False, "a device is not made " + why
    mode = final_mode(member.mode, how.rights, lost)
    try:
        _make(place, name, member, mode)
        own = name
    except FileExistsError:
        if how.existing != "overwrite":
            return exists(0, name, how)
        own = temporary_name()
        _make(place, own, member, mode)
    try:
        made = os.stat(own, dir_fd=place, follow_symlinks=False)
        put_on_name(place, own, made, attributes_of(member), mode, how.rights, lost, how.now)
        if own is not name:
            put_in_place(place, own, name, how.exact)
    except BaseException:
        os.unlink(own, dir_fd=place)
        raise
    return None


def _make(place: int, name: bytes, member: Member, mode: int) -> None:
    if member.kind == "l":
        os.symlink(member.link, name, dir_fd=place)
    elif member.kind == "p":
        os.mkfifo(name, mode & 0o777, dir_fd=place)
    else:
        kind = stat.S_IFCHR if member.kind == "c" else stat.S_IFBLK
        os.mknod(name, mode & 0o777 | kind, os.makedev(*member.dev), dir_fd=place)


def _there(place: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=place, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _write_content(fd: int, member: Member, digest: Optional[bytes]) -> bool:
    """Writes a big or sparse file; False when its content has another digest. Hashing runs beside writing."""
    hashing = _Hashing() if digest is not None else None
    try:
        segments = iter(member.sparse if member.sparse is not None else [(0, member.size)])
        left = 0
        for piece in member.content():
            if hashing:
                hashing.add(piece)
            while piece:
                if not left:
                    start, left = next(segments)
                    os.lseek(fd, start, os.SEEK_SET)
                done = os.write(fd, piece[:left])
                left -= done
                piece = piece[done:]
        if member.sparse is not None:
            os.truncate(fd, member.size)
    finally:
        found = hashing.end() if hashing else None
    return found == digest


class _Hashing:
    """SHA-256 in a thread: pieces are put in order, end() gives the digest."""

    def __init__(self) -> None:
        self._pieces: "Queue[Optional[memoryview]]" = Queue(maxsize=4)
        self._hash = hashlib.sha256()
        self._thread = threading.Thread(target=self._run, name="hashing", daemon=True)
        self._thread.start()
        self.add: Callable[[memoryview], None] = self._pieces.put

    def _run(self) -> None:
        while True:
            piece = self._pieces.get()
            if piece is None:
                return
            self._hash.update(piece)

    def end(self) -> bytes:
        self._pieces.put(None)
        self._thread.join()
        return self._hash.digest()

