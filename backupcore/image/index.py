"""The index: a line per entry of a dump, in walk order; in an incremental also one per entry that is gone.

Here live the record and its line. Columns, tab between: path, kind, mode, uid, gid, size, mtime, ctime,
inode, link, sha256, offset, length, flags. `-` alone: missing.

kind    f file, d folder, l symbolic link, h hard link to an earlier entry, c b devices, p fifo,
        - gone since the base, n there but not dumped
link    l where it points; h path of the first name; c b `major,minor`; - what is gone: f or d;
        n why: excluded, other-filesystem, unreadable, socket, segment (it belongs to another one of the source)
size    of the content of f and h, else 0
sha256  of the content of f; of a sparse file (flag h) of its data segments one after the other
offset, length   place of the member in the archive: headers, content, padding. 0 and 0 when there is none
flags   s suspect: never counts as unchanged; m another file system is mounted here, written as an empty
        folder; h stored with holes; d an n row of a folder; x (only of a segment) the file has several names, and
        another segment may hold some of them
A name that changed between folder and anything else has two rows: the gone row at its old place in the
order, the new one at its own. - and n rows have numbers only where they are known.
"""

from __future__ import annotations

import re
from binascii import hexlify
from typing import Iterable, Iterator, NamedTuple, Optional

from ..errors import ImageDamaged
from . import order
from .escape import escape, search_unsafe, unescape
from .lines import whole_lines

NS = 1_000_000_000
KINDS = frozenset("fdlhcbp-n")
REASONS = frozenset((b"excluded", b"other-filesystem", b"unreadable", b"socket", b"segment"))
FLAGS = re.compile("s?m?h?d?x?\\Z")
_TIME = re.compile(rb"(-?)([0-9]{1,18})\.([0-9]{9})\Z")
_ODD = re.compile(rb"(?:\A|/)\.{0,2}(?:/|\Z)|\0")  # an empty name, `.` or `..`, or a NUL
_COUNT = rb"(0|[1-9][0-9]{0,19})"
_LENGTH = rb"(0|[1-9][0-9]{0,17})"
LARGEST = (1 << 63) - 1  # bytes of a file, and of an archive: more no system can tell
# A line as most are; the others are taken apart step by step, or refused.
_COMMON = re.compile(
    rb"([^\x00-\x1f\x7f\\]+)\t([fd])\t(0|[1-7][0-7]{0,3})\t" + _COUNT + rb"\t" + _COUNT + rb"\t" + _LENGTH
    + rb"\t(-?[0-9]{1,18}\.[0-9]{9})\t(-?[0-9]{1,18}\.[0-9]{9})\t" + _COUNT + rb"\t-\t(-|[0-9a-f]{64})\t" + _LENGTH
    + rb"\t" + _LENGTH + rb"\t(-|s?m?h?d?x?)\Z"
)  # fmt: skip
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_NUMBER = re.compile(rb"(?:0|[1-9][0-9]{0,19})\Z")


class Entry(NamedTuple):
    """A row. path: `.` or `a/b`. sha256: 32 bytes or None. flags: letters, '' for none."""

    path: bytes
    kind: str
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    inode: int = 0
    link: bytes = b""
    sha256: Optional[bytes] = None
    offset: int = 0
    length: int = 0
    flags: str = ""

    @property
    def is_dir(self) -> bool:
        """Whether the row stands at a folder's place in walk order."""
        kind = self.kind
        return kind == "d" or (kind == "-" and self.link == b"d") or (kind == "n" and "d" in self.flags)

    def key(self) -> bytes:
        """Its place in walk order."""
        return order.key(self.path, self.is_dir)


def _time(ns: int) -> bytes:
    return b"%d.%09d" % divmod(ns, NS) if ns >= 0 else b"-%d.%09d" % divmod(-ns, NS)


def format_entry(
    path: bytes,
    kind: str,
    mode: int = 0,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime_ns: int = 0,
    ctime_ns: int = 0,
    inode: int = 0,
    link: bytes = b"",
    sha256: Optional[bytes] = None,
    offset: int = 0,
    length: int = 0,
    flags: str = "",
) -> bytes:
    """The line of an entry, with its newline; the fields of Entry in their order."""
    if search_unsafe(path) or path == b"-":
        path = escape(path)
    if kind == "f" and mtime_ns >= NS and ctime_ns >= NS:  # most lines: as quick as can be
        changed, inode_changed = b"%d" % mtime_ns, b"%d" % ctime_ns
        return b"%b\tf\t%o\t%d\t%d\t%d\t%b.%b\t%b.%b\t%d\t-\t%b\t%d\t%d\t%b\n" % (
            path, mode, uid, gid, size, changed[:-9], changed[-9:], inode_changed[:-9], inode_changed[-9:], inode,
            hexlify(sha256) if sha256 else b"-", offset, length, flags.encode("ascii") if flags else b"-",
        )  # fmt: skip
    if kind == "-" or kind == "n":
        numbers = (mode, uid, gid, size, mtime_ns, ctime_ns, inode)
        columns = b"\t".join((
            path, kind.encode("ascii"), b"%o" % mode if mode else b"-",
            *(b"%d" % number if number else b"-" for number in numbers[1:4]),
            *(_time(number) if number else b"-" for number in numbers[4:6]),
            b"%d" % inode if inode else b"-", escape(link), b"-\t-\t-", flags.encode("ascii") or b"-",
        ))  # fmt: skip
        return columns + b"\n"
    return b"%b\t%c\t%o\t%d\t%d\t%d\t%b\t%b\t%d\t%b\t%b\t%d\t%d\t%b\n" % (
        path, ord(kind), mode, uid, gid, size, _time(mtime_ns), _time(ctime_ns), inode, escape(link),
        hexlify(sha256) if sha256 else b"-", offset, length, flags.encode("ascii") if flags else b"-",
    )  # fmt: skip


def _number(field: bytes, missing: bool, base: int = 10) -> int:
    if missing and field == b"-":
        return 0
    if not _NUMBER.match(field):
        raise ValueError(field)
    return int(field, base)


def _moment(field: bytes, missing: bool) -> int:
    if missing and field == b"-":
        return 0
    match = _TIME.match(field)
    if not match:
        raise ValueError(field)
    ns = int(match.group(2)) * NS + int(match.group(3))
    return -ns if match.group(1) else ns


def parse(line: bytes) -> Entry:
    """The entry of a line without its newline. Raises ImageDamaged for anything that is no such line."""
    match = _COMMON.match(line)
    if match:
        (path, letter, mode, uid, gid, size, mtime, ctime, inode, digest, offset, length, flags_) = match.groups()
        if flags_ and path != b"-" and (path == b"." or not _ODD.search(path)) and (digest == b"-" or letter == b"f"):
            return Entry(
                path, "f" if letter == b"f" else "d", int(mode, 8), int(uid), int(gid), int(size),
                int(mtime.replace(b".", b"")), int(ctime.replace(b".", b"")), int(inode), b"",
                None if digest == b"-" else bytes.fromhex(digest.decode("ascii")), int(offset), int(length),
                "" if flags_ == b"-" else flags_.decode("ascii"),
            )  # fmt: skip
    return _parse_step_by_step(line)


def _parse_step_by_step(line: bytes) -> Entry:
    fields = line.split(b"\t")
    try:
        if _CONTROL.search(line) or fields[0] == b"-" or b"" in fields:
            raise ValueError
        path_, kind_, mode, uid, gid, size, mtime, ctime, inode, link_, digest, offset, length, flags_ = fields
        kind, flags = kind_.decode("ascii"), flags_.decode("ascii")
        missing = kind in ("-", "n")
        entry = Entry(
            path_ if b"\\" not in path_ else unescape(path_), kind, _number(mode, missing, 8), _number(uid, missing),
            _number(gid, missing), _number(size, missing), _moment(mtime, missing), _moment(ctime, missing),
            _number(inode, missing), b"" if link_ == b"-" else unescape(link_),
            None if digest == b"-" else bytes.fromhex(digest.decode("ascii")), _number(offset, missing),
            _number(length, missing), "" if flags == "-" else flags,
        )  # fmt: skip
    except ValueError:
        raise ImageDamaged("a line of the index cannot be read: %r" % line[:200]) from None
    _check(entry, line)
    return entry


def check_path(path: bytes) -> bool:
    """Whether path can be one of an index: `.` or names with single slashes, none of them `.` or `..`."""
    return path == order.ROOT or not _ODD.search(path)


def _check(entry: Entry, line: bytes) -> None:
    good = entry.kind in KINDS and FLAGS.match(entry.flags) and check_path(entry.path) and entry.mode <= 0o7777
    good = good and max(entry.size, entry.offset, entry.length) <= LARGEST
    good = good and (entry.sha256 is None or (len(entry.sha256) == 32 and entry.kind == "f"))
    if entry.kind in "-n":
        good = good and not entry.offset and not entry.length
    if entry.kind == "-":
        good = good and entry.link in (b"f", b"d")
    elif entry.kind == "n":
        good = good and entry.link in REASONS
    elif entry.kind == "h":
        good = good and check_path(entry.link)
    elif entry.kind == "l":
        good = good and bool(entry.link) and b"\0" not in entry.link
    elif entry.kind in "cb":
        good = good and re.match(rb"[0-9]{1,10},[0-9]{1,10}\Z", entry.link)
    else:
        good = good and not entry.link
    if not good:
        raise ImageDamaged("a line of the index holds what cannot be: %r" % line[:200])


def read(chunks: Iterable[bytes]) -> Iterator[Entry]:
    """The entries of an index given in chunks (unpacked), which must be in walk order. Raises ImageDamaged."""
    before: Optional[bytes] = None
    for line in whole_lines(chunks):
        entry = parse(line)
        key = entry.key()
        if before is not None and key <= before:
            raise ImageDamaged("the index is out of order at %r" % entry.path[:200])
        before = key
        yield entry
