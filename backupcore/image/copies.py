"""A copy of a dump where it lies, on a holding disk or at a target: its files' sizes and bytes.

Here lives reading, and the difference that matters to whoever judges a copy: ImageDamaged says that the bytes are
not there though the place answers, TargetRefused that the place did not answer, which says nothing of the copy.
What the bytes must be is the manifest's business.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any, Dict, Iterator, Optional

from .. import text
from ..errors import ImageDamaged, StillAsleep, StowageError, TargetRefused
from ..hookspecs import Asleep, TargetError, Unreadable

PIECE = 1 << 20
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR)
_BAD = (errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA)


class FolderCopy:
    """A dump's folder on a holding disk. name: for people."""

    def __init__(self, folder: Any, name: str):
        self.folder, self.name = os.fspath(folder), name

    def sizes(self) -> Dict[str, int]:
        """File name -> size; empty when the folder is not there. Raises TargetRefused."""
        try:
            with os.scandir(self.folder) as entries:
                return {
                    entry.name: entry.stat(follow_symlinks=False).st_size
                    for entry in entries
                    if entry.is_file(follow_symlinks=False)
                }
        except OSError as error:
            if error.errno in _GONE:
                return {}
            raise TargetRefused("%s cannot be listed: %s" % (self.folder, error.strerror)) from None

    def others(self) -> Iterator[str]:
        """Names of what is no plain file; of a folder with a slash behind it. Raises TargetRefused."""
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    if not entry.is_file(follow_symlinks=False):
                        yield entry.name + ("/" if entry.is_dir(follow_symlinks=False) else "")
        except OSError as error:
            raise TargetRefused("%s cannot be listed: %s" % (self.folder, error.strerror)) from None

    def pieces(self, name: str, offset: int = 0, length: Optional[int] = None) -> Iterator[bytes]:
        """The bytes of a range (length None: to the end). Raises ImageDamaged, also when it is shorter, and
        TargetRefused."""
        path = os.path.join(self.folder, name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise ImageDamaged("%s is no file" % name)
                while length is None or length > 0:
                    piece = os.pread(fd, PIECE if length is None else min(PIECE, length), offset)
                    if not piece:
                        break
                    offset += len(piece)
                    length = None if length is None else length - len(piece)
                    yield piece
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno in _GONE:
                raise ImageDamaged("%s is missing" % name) from None
            if error.errno in _BAD:
                raise ImageDamaged("%s cannot be read: %s" % (name, error.strerror)) from None
            raise TargetRefused("%s cannot be read: %s" % (path, error.strerror)) from None
        if length:
            raise ImageDamaged("%s ends %d bytes too early" % (name, length))

    def small(self, name: str, limit: int) -> bytes:
        """The whole of a small file. Raises ImageDamaged, also when it is larger than limit, and TargetRefused."""
        return _small(self.pieces(name), name, limit)

    def kept_sha256(self, _name: str) -> Optional[str]:
        """No file system keeps one."""
        return None


class TargetCopy:
    """A dump's folder at an open target. name: the target's."""

    def __init__(self, target: Any, name: str, prefix: str):
        self.target, self.name, self.prefix = target, name, prefix

    def sizes(self) -> Dict[str, int]:
        """File name -> size; empty when nothing is there. Raises TargetRefused."""
        below = self.prefix + "/"
        try:
            return {found.name[len(below) :]: found.size for found in self.target.list(below)}
        except TargetError as error:
            raise self._refused(error) from None

    def others(self) -> Iterator[str]:
        """As FolderCopy.others(); nothing where the place has none, or tells of files only. Raises TargetRefused."""
        below = self.prefix + "/"
        try:
            if getattr(self.target.capabilities, "tells_others", False):
                for name in self.target.others(self.prefix):
                    yield name[len(below) :]
        except TargetError as error:
            raise self._refused(error) from None

    def pieces(self, name: str, offset: int = 0, length: Optional[int] = None) -> Iterator[bytes]:
        """As FolderCopy.pieces()."""
        at = "%s/%s" % (self.prefix, name)
        try:
            yield from self.target.read(at, offset, length)
        except Unreadable as error:
            raise ImageDamaged("%s cannot be read: %s" % (name, text.escape(error.message))) from None
        except TargetError as error:
            self._raise_if_gone(at, name, offset + (length or 0), error)
            raise self._refused(error) from None

    def _raise_if_gone(self, at: str, name: str, end: int, error: TargetError) -> None:
        if error.retry:
            return
        try:
            found = self.target.stat(at)
        except TargetError as second:
            raise self._refused(second) from None
        if found is None:
            raise ImageDamaged("%s is missing" % name) from None
        if found.size < end:
            raise ImageDamaged("%s has %d bytes, %d are needed" % (name, found.size, end)) from None

    def small(self, name: str, limit: int) -> bytes:
        """As FolderCopy.small()."""
        return _small(self.pieces(name), name, limit)

    def kept_sha256(self, name: str) -> Optional[str]:
        """The hex SHA-256 that the place itself keeps of the whole file, None when it keeps none."""
        try:
            if not getattr(self.target.capabilities, "kept_checksums", False):
                return None
            return self.target.kept_sha256("%s/%s" % (self.prefix, name))
        except TargetError as error:
            raise self._refused(error) from None

    def _refused(self, error: TargetError) -> StowageError:
        kind = StillAsleep if isinstance(error, Asleep) else TargetRefused
        return kind("target %s: %s" % (self.name, text.escape(error.message)), error.hint or "stowage check")


def _small(pieces: Iterator[bytes], name: str, limit: int) -> bytes:
    found = bytearray()
    for piece in pieces:
        found += piece
        if len(found) > limit:
            raise ImageDamaged("%s is larger than %d bytes" % (name, limit))
    return bytes(found)


def asleep_told(target: str, files: int, size: int, usual: str, price: Any) -> str:
    """Files of a target that sleep in an archive, for people: how much, how long it usually takes to wake, what that
    costs if a price is known."""
    many = "%d file%s" % (files, "s" * (files > 1))
    said = "%s (%s) of target %s" % (many, text.size(size), target) if size else "%s of target %s" % (many, target)
    each = getattr(price, "woken_gb", 0.0) if price is not None else 0.0
    cost = "; waking them costs about %s %.2f" % (price.currency, each * size / price.gb) if each and size else ""
    return said + (": " + usual if usual else "") + cost
