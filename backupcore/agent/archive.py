"""The archive: entries become members, members fill frames, each member gets its line in the index.

Here live reading of contents, hashing, hard links, files with holes and what happens to a file that changes under
our hands; which entries are dumped lives in dump, what a header looks like in image.pax. Everything is relative to
the current folder (the walk has changed into it), so that no path is long and no link is followed.
"""

from __future__ import annotations

import json
import os
import stat
import time
from binascii import hexlify
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from ..image import pax
from ..image.escape import search_unsafe
from ..image.index import NS, format_entry
from ..image.order import member_name
from ..image.state import SUSPECT, Row, signed
from ..text import escape
from ..wire import CONTINUES, LAST, MARK
from . import hashes, linux
from .links import Link, Links
from .outbox import FRAME_SIZE, Outbox
from .resume import Half, member_head

WHOLE = 1 << 20  # a file of at most this size never straddles two frames
SMALLER = min(2 * WHOLE, FRAME_SIZE)  # bytes of archive in a frame, where the line was cut before
TINY = 2048  # up to here content is read as bytes, above it straight into the frame
SMALL = 64 << 10  # the same, where it does not matter
LINES = 2048  # index lines sent together, fewer of long ones
LINES_SIZE = 4 << 20
SAFE_AGE = 2_000_000_000  # ns: what changed this shortly before it was read may have changed again unseen
_HALF = 1 << 63
_EMPTY = hashes.own(b"").digest()
_ZEROS = bytes(FRAME_SIZE)


class Archive:
    """Writes members. note(level, path, message) tells the server. Counters: what was written.

    cut: of a segment. marks: the server is told where the dump can go on should the line be cut: lines and marks come
    before the frame that they are of, so that whatever came up to the end of a frame is a place to go on. small: frames
    are smaller, since a frame is what a cut costs.
    Methods that dump an entry return its row for the state, None when it has vanished, and raise OSError when it
    cannot be read.
    """

    def __init__(
        self, outbox: Outbox, note: Callable[[str, bytes, str], None], progress: Dict[str, int], cut: bool = False,
        marks: bool = False, small: bool = False,
    ):  # fmt: skip
        self._outbox, self._note, self._progress = outbox, note, progress
        self._several = "x" if cut else ""  # flag of a file with several names, some of which another dump may have
        self._buffer = outbox.buffer()
        self._place = 0  # in the frame
        self._start = 0  # of the frame in the archive
        self._flags = 0
        self._lines: List[bytes] = []
        self._offsets: List[int] = []
        self._marks = marks
        self._size = SMALLER if small else FRAME_SIZE  # of a frame, at most
        self._half: Optional[Half] = None  # the file whose member is being written
        self.links: Any = Links()  # a crew's process has one that asks
        if marks:
            self.links.tell()
        self.entries = self.files = self.bytes = self.suspects = 0
        self._sha256 = hashes.at_hand()

    def sums(self) -> Dict[str, int]:
        """The counters."""
        return {"entries": self.entries, "files": self.files, "bytes": self.bytes, "suspects": self.suspects}

    # frames

    def _cut(self, flags: int = 0) -> None:
        """Ends the frame; flags are the next one's."""
        if self._place:
            self.flush_lines()
            if flags and self._marks:
                half = self._half.mark() if self._half is not None else None
                self._outbox.plain(MARK, json.dumps({"file": half}).encode("ascii"))
            self._outbox.frame(self._buffer, self._place, self._flags)
            self._start += self._place
            self._place = 0
            self._progress["bytes"] = self.bytes
            self._buffer = self._outbox.buffer()
        self._flags = flags

    def _add(self, data: Any) -> None:
        """Data that may straddle frames."""
        view = memoryview(data)
        while len(view):
            if self._place == self._size:
                self._cut(CONTINUES)
            count = min(len(view), self._size - self._place)
            self._buffer[self._place : self._place + count] = view[:count]
            self._place += count
            view = view[count:]

    def _reserve(self, length: int) -> int:
        """Makes room so that what is not too large stays in one frame; the offset in the archive."""
        if length > self._size - self._place and (length <= WHOLE + WHOLE or self._place == self._size):
            self._cut()
        return self._start + self._place

    def line(self, *fields: Any) -> None:
        """A line of the index, of an entry without a member."""
        self._put_line(format_entry(*fields).replace(b"%", b"%%"))

    def absent(self, path: bytes, reason: bytes, flags: str) -> None:
        """A line for what is there and not dumped; flags d for a folder."""
        self.line(path, "n", 0, 0, 0, 0, 0, 0, 0, reason, None, 0, 0, flags)

    def _put_line(self, line: bytes) -> None:
        self._lines.append(line)
        self.entries += 1
        if len(self._lines) >= LINES or len(line) * len(self._lines) > LINES_SIZE:
            self.flush_lines()

    def flush_lines(self) -> None:
        """Hands on the lines held."""
        if self._lines:
            self._outbox.index(b"".join(self._lines), self._offsets)
            self._lines, self._offsets = [], []
        told = self.links.told()
        if told:
            self._outbox.links(told)

    def flush(self) -> None:
        """Hands on everything held; the frame ends here."""
        self._cut()
        self.flush_lines()

    def close(self) -> None:
        """Ends the archive; all lines and frames are handed on."""
        self._reserve(len(pax.END))
        self._add(pax.END)
        self.flush_lines()
        self._outbox.frame(self._buffer, self._place, self._flags | LAST)

    # members

    def folder(
        self, path: bytes, status: os.stat_result, xattrs: Dict[bytes, bytes], dumpdir: Any, flags: Optional[str]
    ) -> None:
        """The member of a folder; flags None: a member that is written again, without a line."""
        header = pax.pieces(
            member_name(path, True), "d", status.st_mode & 0o7777, status.st_uid, status.st_gid,
            mtime_ns=status.st_mtime_ns, xattrs=xattrs, dumpdir=dumpdir,
        )  # fmt: skip
        offset, length = self._header(header, (dumpdir.length if dumpdir else 0) + 4096)
        if flags is not None:
            self._line(path, "d", status, b"", None, offset, length, flags)

    def _header(self, pieces: Iterable[bytes], about: int) -> Tuple[int, int]:
        """Writes a header; (offset, length). One that is about small stays in one frame."""
        if about <= WHOLE:
            pieces = (b"".join(pieces),)
            about = len(pieces[0])
        offset = self._reserve(about)
        for piece in pieces:
            self._add(piece)
        return offset, self._start + self._place - offset

    def _line(
        self, path: bytes, kind: str, status: os.stat_result, link: bytes, digest: Optional[bytes], offset: int,
        length: int, flags: str,
    ) -> None:  # fmt: skip
        line = format_entry(
            path, kind, status.st_mode & 0o7777, status.st_uid, status.st_gid,
            status.st_size if kind in "fh" else 0, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, link,
            digest, 0, length, flags,
        )  # fmt: skip
        front, _offset, stored, letters = line.rsplit(b"\t", 3)
        self._offsets.append(offset)
        self._put_line(b"%b\t%%d\t%b\t%b" % (front.replace(b"%", b"%%"), stored, letters))

    def entry(self, name: bytes, path: bytes) -> Optional[Row]:
        """Any entry that is no folder, whatever it is by now. Raises OSError; IsADirectoryError for a folder."""
        try:
            status = os.lstat(name)
            mode = status.st_mode
            if stat.S_ISREG(mode):
                return self.regular(name, path)
            kind = linux.KIND.get(mode & 0o170000, "s")
            if kind == "d" or kind == "s":
                raise IsADirectoryError(21, "it became a folder or a socket")
            target = os.readlink(name) if kind == "l" else b""
            xattrs = linux.read_xattrs(name)
            suspect = self._is_young(status) or _times(os.lstat(name)) != _times(status)
        except FileNotFoundError:
            return None
        if status.st_nlink > 1:
            row = self._linked(path, status, suspect)
            if row:
                return row
        device = linux.device(status) if kind in "cb" else (0, 0)
        header = pax.member(
            member_name(path, False), kind, mode & 0o7777, status.st_uid, status.st_gid, 0, status.st_mtime_ns,
            target, device, xattrs,
        )  # fmt: skip
        offset = self._reserve(len(header))
        self._add(header)
        shown = target if kind == "l" else b"%d,%d" % device if kind in "cb" else b""
        flags = ("s" if suspect else "") + (self._several if status.st_nlink > 1 else "")
        self._line(path, kind, status, shown, None, offset, len(header), flags)
        return self._row(path, status, suspect, True)

    def _row(self, path: bytes, status: os.stat_result, suspect: bool, first: bool) -> Row:
        """The row of an entry just written; remembers the first name of a file with several."""
        if first and status.st_nlink > 1:
            link = Link(path, suspect, False, _times(status))
            self.links.put((status.st_dev, status.st_ino), link, status.st_nlink)
        mode = status.st_mode
        if suspect:
            self.suspects += 1
            mode |= SUSPECT
        return (
            mode, status.st_size, signed(status.st_mtime_ns), signed(status.st_ctime_ns), signed(status.st_ino),
            status.st_nlink,
        )  # fmt: skip

    def _linked(self, path: bytes, status: os.stat_result, suspect: bool) -> Optional[Row]:
        """Writes a hard link when another name of the file is in the dump (or unchanged in its base)."""
        key = (status.st_dev, status.st_ino)
        first = self.links.find(key)
        if first is None or first.path == path:
            return None
        if first.times != _times(status):
            if first.kept or first.before:
                return None  # what the base has, or came before the cut, is not this any more
            suspect = True
        suspect = suspect or first.suspect
        header = pax.member(
            member_name(path, False), "h", status.st_mode & 0o7777, status.st_uid, status.st_gid, 0,
            status.st_mtime_ns, member_name(first.path, False),
        )  # fmt: skip
        offset = self._reserve(len(header))
        self._add(header)
        self._line(path, "h", status, first.path, None, offset, len(header), "s" if suspect else "")
        return self._row(path, status, suspect, False)

    @staticmethod
    def _is_young(status: os.stat_result) -> bool:
        return max(status.st_mtime_ns, status.st_ctime_ns) > time.time_ns() - SAFE_AGE

    def begin(self, start: int = 0) -> None:
        """From here on offsets count from start: what comes now has a place of its own."""
        self._start = start

    def plain_files(self, names: List[bytes], begin: int, prefix: bytes, put: Callable[[bytes, Row], None]) -> int:
        """Dumps regular files of the current folder from names[begin] on, put(name, row) for each, up to one that is
        not small and plain, for regular(); its place. The one loop that a million small files go through: all of it
        is in one function, and everything that is rare is not."""
        open_file, fstat, read, readv, close, listxattr = os.open, os.fstat, os.read, os.readv, os.close, os.listxattr
        regular, flags, frame_size = pax.regular, linux.FILE_FLAGS, self._size
        buffer, place, start, lines, offsets = self._buffer, self._place, self._start, self._lines, self._offsets
        young = time.time_ns() - SAFE_AGE
        view, sha256 = memoryview(buffer), self._hash_for(0)
        little = hashes.LITTLE - self.bytes if sha256 is hashes.own else _HALF
        most = min(LINES, 1 + LINES_SIZE // (4 * len(prefix) + 1400))
        count = total = 0
        turn = begin
        for turn in range(begin, len(names)):
            name = names[turn]
            try:
                fd = open_file(name, flags)
            except OSError:
                break
            try:
                status = fstat(fd)
                mode, size, mtime, ctime = status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns
                if (
                    status.st_nlink != 1 or size > WHOLE or mode & 0o170000 != 0o100000
                    or not 0 <= mtime <= young or ctime > young or status.st_blocks * 512 < size or listxattr(fd)
                ):  # fmt: skip
                    break
                path = prefix + name
                uid, gid, inode = status.st_uid, status.st_gid, status.st_ino
                header = regular(b"./" + path, mode & 0o7777, uid, gid, size, mtime)
                head = len(header)
                length = head + size + -size % 512
                if length > frame_size - place:
                    self._place = place
                    self._cut()
                    buffer, place, start = self._buffer, 0, self._start
                    lines, offsets = self._lines, self._offsets
                    view = memoryview(buffer)
                if size > TINY:
                    content = view[place + head : place + head + size]
                    done = readv(fd, (content,))
                    digest = sha256(content).digest()
                elif size:
                    data = read(fd, size)
                    done = len(data)
                    digest = sha256(data).digest()
                else:
                    done, data, digest = 0, b"", _EMPTY
                after = fstat(fd)
            except OSError:  # among them a file system without xattrs
                break
            finally:
                close(fd)
            if done != size or after.st_mtime_ns != mtime or after.st_ctime_ns != ctime:
                break
            end = place + length
            if size > TINY:
                buffer[place : place + head] = header
                buffer[place + head + size : end] = _ZEROS[: -size % 512]
            else:
                buffer[place:end] = b"%b%b%b" % (header, data, _ZEROS[: -size % 512])
            lines.append(
                regular_line(path, mode & 0o7777, uid, gid, size, mtime, ctime, inode, digest, length)
            )  # fmt: skip
            offsets.append(start + place)
            place = end
            count += 1
            total += size
            if total > little:
                sha256, little = self._hash_for(total), _HALF
            put(name, (mode, size, mtime, ctime, inode if inode < _HALF else signed(inode), 1))
            if len(lines) >= most:
                self.flush_lines()
                lines, offsets = self._lines, self._offsets
        else:
            turn = len(names)
        self._place = place
        self.entries += count
        self.files += count
        self.bytes += total
        return turn

    def regular(self, name: bytes, path: bytes) -> Optional[Row]:
        """A regular file; anything else that stands there by now goes the slow way."""
        try:
            fd = linux.open_file(name)
        except OSError as error:
            if error.errno not in linux.GONE:
                raise
            return self._changed_kind(name, path)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                os.close(fd)
                fd = -1
                return self._changed_kind(name, path)
            suspect = self._is_young(status)
            if status.st_nlink > 1:
                row = self._linked(path, status, suspect)
                if row:
                    return row
            return self._content(fd, path, status, suspect)
        finally:
            if fd >= 0:
                os.close(fd)

    def _changed_kind(self, name: bytes, path: bytes) -> Optional[Row]:
        """What was a regular file is gone or something else; regular() is not tried again."""
        try:
            if stat.S_ISREG(os.lstat(name).st_mode):
                raise OSError(116, "it changes all the time")
        except FileNotFoundError:
            return None
        return self.entry(name, path)

    def _hash_for(self, size: int) -> Any:
        """The SHA-256 for so many bytes more."""
        if self._sha256 is hashes.own and self.bytes + size > hashes.LITTLE:
            self._sha256 = hashes.quick()
        return self._sha256

    def _content(self, fd: int, path: bytes, status: os.stat_result, suspect: bool) -> Row:
        header, segments, stored = member_head(fd, path, status)
        length = len(header) + stored + -stored % 512
        offset = self._start + self._place
        if length > self._size - self._place:
            if stored <= WHOLE:
                self._cut()
            else:
                self._reserve(len(header))
            offset = self._start + self._place
        missing = 0
        if stored <= SMALL and segments is None and length <= self._size - self._place:
            data = os.read(fd, stored) if stored else b""
            if len(data) < stored:
                data, missing = self._read_rest(fd, data, stored, path)
            digest = self._hash_for(stored)(data).digest() if stored else _EMPTY
            place = self._place
            self._buffer[place : place + length] = b"%b%b%b" % (header, data, _ZEROS[: -stored % 512])
            self._place = place + length
        else:
            hashed = self._hash_for(stored)()
            self._half = Half(path, status, suspect, offset, header, stored, hashed)
            self._add(header)
            for start, count in segments if segments is not None else ((0, stored),):
                if start:
                    os.lseek(fd, start, os.SEEK_SET)
                missing += self._stream(fd, count, hashed, path)
            self._add(_ZEROS[: -stored % 512])
            self._half = None
            digest = hashed.digest()
        flags = "h" if segments is not None else ""
        return self._written(fd, path, status, suspect, offset, length, digest, missing, flags)

    def rest(self, begun: Any) -> None:
        """What is still to come of a member that a cut line left half in the archive (resume.Begun)."""
        fd, half, header = begun.fd, begun.half, begun.half.header
        self._start, self._flags, self._half = begun.place, CONTINUES, half
        done = begun.place - half.offset
        self._add(header[done:])
        done = left = max(0, done - len(header))
        missing = 0
        for start, count in begun.segments if begun.segments is not None else ((0, half.stored),):
            skip = min(left, count)
            left -= skip
            if skip < count:
                os.lseek(fd, start + skip, os.SEEK_SET)
                missing += self._stream(fd, count - skip, half.hashed, half.path)
        self._add(_ZEROS[: -half.stored % 512 - max(0, done - half.stored)])
        self._half = None
        length = len(header) + half.stored + -half.stored % 512
        flags = "h" if begun.segments is not None else ""
        self._written(
            fd, half.path, half.status, half.suspect, half.offset, length, half.hashed.digest(), missing, flags
        )  # fmt: skip

    def _written(
        self, fd: int, path: bytes, status: os.stat_result, suspect: bool, offset: int, length: int, digest: bytes,
        missing: int, flags: str,
    ) -> Row:  # fmt: skip
        """A regular file's member is in the archive."""
        after = os.fstat(fd)
        if after.st_mtime_ns != status.st_mtime_ns or after.st_ctime_ns != status.st_ctime_ns or missing:
            suspect = True
            self._say_changed(path, status, after, missing)
        if status.st_nlink > 1:
            flags += self._several
        self.files += 1
        self.bytes += status.st_size
        self._line(path, "f", status, b"", digest, offset, length, "s" + flags if suspect else flags)
        return self._row(path, status, suspect, True)

    def _read_rest(self, fd: int, data: bytes, size: int, path: bytes) -> Tuple[bytes, int]:
        """Goes on after a short read; (content filled up with zeros, how many zeros)."""
        try:
            while len(data) < size:
                more = os.read(fd, size - len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            self._note("error", path, "cannot be read: " + linux.what_was_refused(error))
        missing = size - len(data)
        return data + bytes(missing), missing

    def _stream(self, fd: int, size: int, hashed: Any, path: bytes) -> int:
        """Content of any size into frames; what cannot be read becomes zeros, whose number is returned."""
        left = size
        while left:
            if self._place == self._size:
                self._cut(CONTINUES)
            place = self._place
            with memoryview(self._buffer)[place : place + min(left, self._size - place)] as room:
                try:
                    count = os.readv(fd, [room])
                except OSError as error:
                    self._note("error", path, "cannot be read: " + linux.what_was_refused(error))
                    count = 0
                if not count:
                    break
                hashed.update(room[:count])
            self._place += count
            left -= count
        missing = left
        while left:
            zeros = _ZEROS[: min(left, self._size)]
            hashed.update(zeros)
            self._add(zeros)
            left -= len(zeros)
        return missing

    def _say_changed(self, path: bytes, before: os.stat_result, after: os.stat_result, missing: int) -> None:
        if missing:
            message = "became shorter while it was read; the last %d bytes are zeros" % missing
        elif after.st_size > before.st_size:
            message = "grew while it was read; it is cut at %d bytes" % before.st_size
        elif after.st_mtime_ns != before.st_mtime_ns:
            message = "changed while it was read"
        else:
            return  # only the inode changed: a link, a mode
        self._note("warning", path, message)


def regular_line(
    path: bytes, mode: int, uid: int, gid: int, size: int, mtime_ns: int, ctime_ns: int, inode: int, digest: bytes,
    length: int,
) -> bytes:  # fmt: skip
    """What format_entry() gives for a plain file, in half the time; `%d` in place of the offset."""
    if mtime_ns < 0 or ctime_ns < 0 or search_unsafe(path) or b"%" in path or path == b"-":
        line = format_entry(path, "f", mode, uid, gid, size, mtime_ns, ctime_ns, inode, b"", digest, 0, length, "")
        return line.replace(b"%", b"%%").replace(b"\t0\t%d\t-\n" % length, b"\t%%d\t%d\t-\n" % length)
    return b"%b\tf\t%o\t%d\t%d\t%d\t%d.%09d\t%d.%09d\t%d\t-\t%b\t%%d\t%d\t-\n" % (
        path, mode, uid, gid, size, mtime_ns // NS, mtime_ns % NS, ctime_ns // NS, ctime_ns % NS, inode,
        hexlify(digest), length,
    )  # fmt: skip


def _times(status: os.stat_result) -> Tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def note_bytes(level: str, path: bytes, message: str) -> bytes:
    """The payload of a NOTE."""
    return json.dumps({"level": level, "path": escape(path), "message": message}).encode("ascii")
