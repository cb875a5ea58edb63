"""The archive, read: members out of a stream of bytes, one after the other, strict and bounded.

Here live the reader and the member record. It reads what pax.py writes and refuses all else with
ImageDamaged: the bytes may come from a hostile client or bucket. It makes no files.
"""

from __future__ import annotations

import re
from typing import Callable, Dict, Iterator, List, Optional, Tuple
from zlib import adler32

from ..errors import ImageDamaged
from . import acl
from .order import index_path
from .ustar import BLOCK, MAX_SEGMENTS, REST, TAIL, TYPES, X30, byte_sum

RECORDS_LIMIT = 512 << 20  # all records of one member: a folder of 10,000,000 names
_KINDS = {letter[0]: kind for kind, letter in TYPES.items()}
_EMPTY = bytes(BLOCK)
_FOLDER_TAIL = TYPES["d"] + TAIL[1:]
_FOLDER_REST = REST + TYPES["d"][0] - TAIL[0]
_MAGIC = b"ustar\00000"
NS = 1_000_000_000
_DECIMAL = re.compile(rb"(?:0|[1-9][0-9]{0,18})\Z")
_MTIME = re.compile(rb"(-?)(0|[1-9][0-9]{0,17})(?:\.([0-9]{9}))?\Z")
_MAX_MAP = 4 << 20
_ODD = re.compile(rb"/\.{0,2}(?:/|\Z)|\0")  # an empty name, `.` or `..`, or a NUL


def _damaged(why: str, *values: object) -> ImageDamaged:
    return ImageDamaged("the archive holds what Stowage does not write: " + (why % values if values else why))


class Member:
    """An entry of an archive.

    name: as in the archive (`./a/b`, folders with a slash); path: as in the index. size: of the content,
    holes included; stored: bytes of content that content() gives (of a sparse file its segments one after
    the other). link: of a symbolic link as it is, of a hard link the path of the first name. xattrs: as
    setxattr takes them, ACLs among them. dumpdir, names: values of GNU.dumpdir and STOWAGE.names or None.
    sparse: the segments (offset, length) or None. offset: place of its first header in the stream.
    """

    name: bytes
    path: bytes
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    stored: int
    mtime_ns: int
    offset: int
    link = b""
    dev: Tuple[int, int] = (0, 0)
    xattrs: Dict[bytes, bytes] = {}  # noqa: RUF012  (shared by all that have none, never written to)
    dumpdir: Optional[bytes] = None
    names: Optional[bytes] = None
    sparse: Optional[List[Tuple[int, int]]] = None
    _reader: "Reader"

    def content(self) -> Iterator[memoryview]:
        """The stored content in pieces, once, before the next member is asked for."""
        return self._reader.content(self)

    def read(self) -> bytes:
        """The whole stored content, which must be small; once, before the next member is asked for."""
        return self._reader.read_content(self)


class Reader:
    """The members of an archive, for `for member in Reader(read)`.

    read(n): some bytes, about n, b"" at the end; what a memoryview shows may go when it is asked for more. many:
    archives may follow each other, and the end need not be marked (members cut out of images); else two empty
    blocks must end it and nothing follow.
    Content that was not read is skipped. offset: bytes consumed so far.
    """

    def __init__(self, read: Callable[[int], bytes], many: bool = False, records_limit: int = RECORDS_LIMIT):
        self._read = read
        self._many = many
        self._limit = records_limit
        self._chunk = b""
        self._place = 0
        self._base = 0  # place of the chunk in the stream
        self._left = 0  # content and padding of the current member not read yet
        self._pad = 0
        self._current: Optional[Member] = None
        self._owners: Dict[bytes, Tuple[int, int, int]] = {}
        self._lengths: Dict[bytes, int] = {}
        self._xattrs: Dict[bytes, Dict[bytes, bytes]] = {}
        self._ended = False

    @property
    def offset(self) -> int:
        """Bytes consumed so far."""
        return self._base + self._place

    def __iter__(self) -> "Reader":
        return self

    def _more(self) -> bool:
        """The next chunk in place of a used-up one; False at the end of the stream."""
        self._base += len(self._chunk)
        self._chunk = self._read(1 << 20)
        self._place = 0
        return bool(self._chunk)

    def _take(self, count: int) -> bytes:
        """Exactly count bytes; b"" at the end of the stream. Raises ImageDamaged in between."""
        place = self._place
        data = bytes(self._chunk[place : place + count])
        self._place = place + len(data)
        if len(data) == count:
            return data
        found = [data]
        have = len(data)
        while have < count:
            if not self._more():
                if have:
                    raise ImageDamaged("the archive is cut inside a member")
                return b""
            data = bytes(self._chunk[: count - have])
            self._place = len(data)
            have += len(data)
            found.append(data)
        return b"".join(found)

    def _skip(self, count: int) -> None:
        while count:
            step = min(count, len(self._chunk) - self._place)
            self._place += step
            count -= step
            if count and not self._more():
                raise ImageDamaged("the archive is cut inside a member")

    def content(self, member: Member) -> Iterator[memoryview]:
        """The stored content of the current member in pieces."""
        if member is not self._current:
            raise RuntimeError("the archive is already behind %r" % member.name)
        while self._left > self._pad:
            step = min(self._left - self._pad, len(self._chunk) - self._place)
            if not step:
                if not self._more():
                    raise ImageDamaged("the archive is cut inside a member")
                continue
            piece = memoryview(self._chunk)[self._place : self._place + step]
            if not isinstance(self._chunk, bytes):
                piece = memoryview(bytes(piece))  # its taker may want it for longer than the chunk is there
            self._place += step
            self._left -= step
            yield piece

    def read_content(self, member: Member) -> bytes:
        """The whole stored content of the current member."""
        if member is not self._current:
            raise RuntimeError("the archive is already behind %r" % member.name)
        count = self._left - self._pad
        self._left = self._pad
        data = self._take(count)
        if len(data) < count:
            raise ImageDamaged("the archive is cut inside a member")
        return data

    def __next__(self) -> Member:
        if self._left:
            left = self._left
            if left <= len(self._chunk) - self._place:
                self._place += left
            else:
                self._skip(left)
            self._left = 0
        self._current = None
        if self._ended:
            raise StopIteration
        member = self._plain()
        if member is not None:
            return member
        while True:
            offset = self.offset
            header = self._take(BLOCK)
            if not header:
                self._ended = True
                if not self._many:
                    raise ImageDamaged("the archive is cut: its end is missing")
                raise StopIteration
            if header != _EMPTY:
                return self._member(header, offset)
            if self._many:
                continue
            self._finish()

    def _plain(self) -> Optional[Member]:
        """The next member when it is a file or folder as most are, all in the chunk: its name fits, its records are
        a time of today and perhaps xattrs just seen, its owner was seen. A million of them must be quick. None: look
        the long way, which refuses what is wrong."""
        chunk = self._chunk
        place = self._place
        ns = 0
        xattrs = None
        if place + 156 < len(chunk) and chunk[place + 156] == 0x78:  # x
            head = bytes(chunk[place : place + BLOCK])
            length = 30 if head == X30 else self._lengths.get(head, 0)
            place += BLOCK
            text = bytes(chunk[place : place + length])
            if not (text[:9] == b"30 mtime=" and text[19:20] == b"." and (text[9:19] + text[20:29]).isdigit()):
                return None
            if length > 30:
                xattrs = self._xattrs.get(text[30:])
                if xattrs is None:
                    return None
            pad = -length % BLOCK
            if text[29:30] != b"\n" or bytes(chunk[place + length : place + length + pad]) != _EMPTY[:pad]:
                return None
            ns = int(text[9:19] + text[20:29])
            place += length + pad
        header = bytes(chunk[place : place + BLOCK])
        tail = header[156:]
        if tail == TAIL:
            is_dir, rest = False, REST
        elif tail == _FOLDER_TAIL:
            is_dir, rest = True, _FOLDER_REST
        else:
            return None
        owner = self._owners.get(header[100:124])
        size, mtime = header[124:135], header[136:147]
        if owner is None or not (size + mtime).isdigit() or header[135] or header[147]:
            return None
        if header[148:156] != b"%06o\0 " % ((adler32(header[:148], 0) & 0xFFFF) + rest):
            return None
        name = header[:100].rstrip(b"\0")
        try:
            stored, seconds = int(size, 8), int(mtime, 8)
        except ValueError:
            return None
        member = Member()
        member._reader = self
        member.name = name
        if is_dir:
            if stored or not _inside(name, True):
                return None
            member.path = index_path(name)
            member.kind = "d"
        else:
            if name[:2] != b"./" or _ODD.search(name, 1):
                return None
            member.path = name[2:]
            member.kind = "f"
        member.mode, member.uid, member.gid = owner
        member.size = member.stored = stored
        member.mtime_ns = ns or seconds * NS
        if xattrs is not None:
            member.xattrs = xattrs
        member.offset = self._base + self._place
        self._place = place + BLOCK
        self._pad = -stored % BLOCK
        self._left = stored + self._pad
        self._current = member
        return member

    def _remember(self, head: bytes, text: bytes, member: Member) -> None:
        """For _plain(): records that were read and found good, a time of today and xattrs, come again and again."""
        if len(text) < 4 * BLOCK and text.startswith(b"30 mtime="):
            if len(self._lengths) > 1024 or len(self._xattrs) > 1024:
                self._lengths.clear()
                self._xattrs.clear()
            self._lengths[head] = len(text)
            self._xattrs[text[30:]] = member.xattrs

    def _finish(self) -> None:
        """After the first empty block: one more, and the end."""
        self._ended = True
        if self._take(BLOCK) != _EMPTY or self._take(1):
            raise _damaged("something stands behind its end")
        raise StopIteration

    def _member(self, header: bytes, offset: int) -> Member:
        records = None
        head = text = b""
        if header[156] == 0x78:  # x
            head = header
            text, records = self._records(header)
            header = self._take(BLOCK)
        member = Member()
        member._reader = self
        member.offset = offset
        self._check(header)
        kind = _KINDS.get(header[156])
        if kind is None:
            raise _damaged("a member of type %r", header[156:157])
        owner = self._owners.get(header[100:124])
        if owner is None:
            if len(self._owners) > 4096:
                self._owners.clear()
            owner = self._owners[header[100:124]] = tuple(
                _octal(header[start : start + 8]) for start in (100, 108, 116)
            )  # type: ignore[assignment]
            if owner[0] > 0o7777:
                raise _damaged("a mode of %o", owner[0])
        member.kind = kind
        member.mode, member.uid, member.gid = owner
        stored = _octal(header[124:136])
        member.mtime_ns = _octal(header[136:148]) * NS
        name = header[:100].rstrip(b"\0")
        if header[345]:
            name = header[345:500].rstrip(b"\0") + b"/" + name
        link = header[157:257].rstrip(b"\0") if header[157] else b""
        if kind == "c" or kind == "b":
            member.dev = (_octal(header[329:337]), _octal(header[337:345]))
        sparse = None
        if records is not None:
            name, link, stored, sparse = self._apply(member, records, name, link, stored)
        member.name = name
        member.link = link
        _check_names(member)
        if stored and kind != "f":
            raise _damaged("content behind %r, which is no file", name[:200])
        self._left = stored + -stored % BLOCK
        self._pad = -stored % BLOCK
        member.stored = member.size = stored
        if sparse is not None:
            self._map(member, sparse)
        if member.xattrs and len(records or ()) == len(member.xattrs) + 1:
            self._remember(head, text, member)
        self._current = member
        return member

    def _check(self, header: bytes) -> None:
        """Magic and checksum: of unsigned bytes, its own field counted as blanks."""
        if header[257:265] != _MAGIC:
            raise _damaged("a header without magic")
        total = 256 + byte_sum(header) - byte_sum(header[148:156])
        if header[148:156] != b"%06o\0 " % total:
            raise ImageDamaged("a header of the archive has a wrong checksum")

    def _records(self, header: bytes) -> Tuple[bytes, Dict[bytes, bytes]]:
        """The records of an x header, as they are and taken apart."""
        self._check(header)
        length = _octal(header[124:136])
        if not 0 < length <= self._limit:
            raise _damaged("an extended header of %d bytes", length)
        data = self._take(length)
        if len(data) != length or self._take(-length % BLOCK).strip(b"\0"):
            raise ImageDamaged("the archive is cut inside a member")
        found: Dict[bytes, bytes] = {}
        place = 0
        while place < length:
            blank = data.find(b" ", place, place + 12)
            digits = data[place:blank] if blank > 0 else b""
            end = place + int(digits) if _DECIMAL.match(digits) else 0
            equals = data.find(b"=", blank, end)
            if not blank < equals < end <= length or data[end - 1 : end] != b"\n":
                raise _damaged("an extended header that cannot be read")
            key = data[blank + 1 : equals]
            if key in found or not key:
                raise _damaged("the record %r twice", key[:80])
            found[key] = data[equals + 1 : end - 1]
            place = end
        return data, found

    def _apply(self, member: Member, records: Dict[bytes, bytes], name: bytes, link: bytes, stored: int):  # type: ignore[no-untyped-def]
        """Puts records into member; (name, link, stored, real size of a sparse file or None)."""
        sparse = None
        xattrs: Dict[bytes, bytes] = {}
        for key, value in records.items():
            if key == b"mtime":
                match = _MTIME.match(value)
                if not match:
                    raise _damaged("a time of %r", value[:80])
                ns = int(match.group(2)) * NS + int(match.group(3) or 0)
                member.mtime_ns = -ns if match.group(1) else ns
            elif key == b"path":
                name = value
            elif key == b"linkpath":
                link = value
            elif key == b"size":
                stored = _decimal(value)
            elif key == b"uid":
                member.uid = _decimal(value)
            elif key == b"gid":
                member.gid = _decimal(value)
            elif key.startswith(b"SCHILY.xattr."):
                xattrs[_xattr_name(key[13:])] = value
            elif key == b"SCHILY.acl.access" or key == b"SCHILY.acl.default":
                try:
                    xattrs[b"system.posix_acl_" + key[11:]] = acl.from_text(value)
                except ValueError as error:
                    raise _damaged("an ACL with %s", error) from None
            elif key == b"RHT.security.selinux":
                xattrs[b"security.selinux"] = value + b"\0"
            elif key == b"GNU.dumpdir":
                member.dumpdir = value
            elif key == b"STOWAGE.names":
                member.names = value
            elif key == b"GNU.sparse.name":
                name = value
            elif key == b"GNU.sparse.realsize":
                sparse = _decimal(value)
            elif key not in (b"GNU.sparse.major", b"GNU.sparse.minor"):
                raise _damaged("the record %r", key[:80])
        if xattrs:
            member.xattrs = xattrs
        if any(key.startswith(b"GNU.sparse.") for key in records):
            version = records.get(b"GNU.sparse.major"), records.get(b"GNU.sparse.minor")
            if version != (b"1", b"0") or sparse is None or b"GNU.sparse.name" not in records or member.kind != "f":
                raise _damaged("a sparse file of another kind than 1.0")
        if (member.dumpdir is not None or member.names is not None) and member.kind != "d":
            raise _damaged("a list of names at %r, which is no folder", name[:200])
        return name, link, stored, sparse

    def _map(self, member: Member, size: int) -> None:
        """Reads the map before a sparse file's data."""
        text = b""
        numbers: List[int] = []
        needed = 1
        taken = 0
        while len(numbers) < needed:
            if taken >= self._left or taken > _MAX_MAP:
                raise _damaged("a sparse map without end")
            *lines, text = (text + self._take(BLOCK)).split(b"\n")
            taken += BLOCK
            for line in lines:
                numbers.append(_decimal(line))
                needed = 1 + 2 * numbers[0]
                if numbers[0] > MAX_SEGMENTS + 1:
                    raise _damaged("a sparse map of %d segments", numbers[0])
        if text.strip(b"\0") or len(numbers) > needed:
            raise _damaged("a sparse map followed by text")
        pairs = list(zip(numbers[1::2], numbers[2::2]))
        if not pairs or pairs.pop() != (size, 0):
            raise _damaged("a sparse map that does not end with the size")
        reach = 0
        for offset, length in pairs:
            if offset < reach or not length or offset % BLOCK or (length % BLOCK and offset + length != size):
                raise _damaged("a sparse map out of order")
            reach = offset + length
        if reach > size or sum(length for _offset, length in pairs) != member.stored - taken:
            raise _damaged("a sparse map that does not fit its data")
        member.sparse = pairs
        member.size = size
        member.stored -= taken
        self._left -= taken


def _octal(field: bytes) -> int:
    """A number of a header: octal digits, filling the field but for a NUL."""
    digits = field[:-1]
    if field[-1] or not digits.isdigit():
        raise _damaged("a number %r", field)
    try:
        return int(digits, 8)
    except ValueError:
        raise _damaged("a number %r", field) from None


def _decimal(value: bytes) -> int:
    if not _DECIMAL.match(value):
        raise _damaged("a number %r", value[:80])
    return int(value)


def _xattr_name(written: bytes) -> bytes:
    name = written.replace(b"%3D", b"=").replace(b"%25", b"%")
    if not name or b"\0" in name or name.replace(b"%", b"%25").replace(b"=", b"%3D") != written:
        raise _damaged("an xattr named %r", written[:80])
    return name


def _check_names(member: Member) -> None:
    """Names stay below the root: `./`, then names with single slashes, none of them `.` or `..`."""
    name = member.name
    kind = member.kind
    if not _inside(name, kind == "d"):
        raise _damaged("a name %r", name[:200])
    member.path = index_path(name)
    if kind == "h":
        if not _inside(member.link, False):
            raise _damaged("a hard link to %r", member.link[:200])
        member.link = index_path(member.link)
    elif kind == "l":
        if not member.link or b"\0" in member.link:
            raise _damaged("a symbolic link to nothing at %r", name[:200])
    elif member.link:
        raise _damaged("a link at %r, which is none", name[:200])


def _inside(name: bytes, is_dir: bool) -> bool:
    if not is_dir:
        return name[:2] == b"./" and not _ODD.search(name, 1)
    return name == b"./" or (name[:2] == b"./" and name[-1:] == b"/" and not _ODD.search(name[1:-1]))
