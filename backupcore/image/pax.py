"""The archive, written: pax headers for members of every kind. Reading is unpax.py; both names are here.

A member is `header + content + padding(len of content)`. regular() makes the header of a plain file and is
the hot path of every dump: a million files a dump. member() makes any header, pieces() the same in pieces
for folders with very long lists of names. The same values always give the same bytes.
"""

from __future__ import annotations

from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple
from zlib import adler32

from . import acl
from .dumpdir import Dumpdir
from .unpax import Member, Reader
from .ustar import BLOCK, MAX_SEGMENTS, REST, TAIL, TYPES, X30, XATTR, extended_header, plain_header

__all__ = [
    "BLOCK", "END", "Dumpdir", "Member", "Reader", "align_segments", "header_length", "member", "padding", "pieces",
    "record", "regular", "sparse_map",
]  # fmt: skip

NS = 1_000_000_000
END = bytes(2 * BLOCK)  # what closes an archive
_MAX_ID = 0o7777777
_MAX_NUMBER = 0o77777777777
_NULS = bytes(BLOCK)
_PAD = [_NULS[:count] for count in range(BLOCK + 1)]
_MODES: Dict[Tuple[int, int, int], bytes] = {}
_LABELS: Dict[Tuple[bytes, bytes], bytes] = {}
_X30_PAD = bytes(BLOCK - 30)


def _owner(mode: int, uid: int, gid: int) -> bytes:
    if len(_MODES) > 4096:
        _MODES.clear()
    text = b""
    if uid <= _MAX_ID and gid <= _MAX_ID:
        text = b"%07o\0%07o\0%07o\0" % (mode, uid, gid)
    _MODES[mode, uid, gid] = text
    return text


def regular(
    name: bytes, mode: int, uid: int, gid: int, size: int, mtime_ns: int, xattrs: Optional[Mapping[bytes, bytes]] = None
) -> bytes:
    """The header of a regular file without holes; name as in the archive: `./a/b`; mode: 12 bits."""
    owner = _MODES.get((mode, uid, gid))
    if owner is None:
        owner = _owner(mode, uid, gid)
    seconds, ns = divmod(mtime_ns, NS)
    length = len(name)
    if length > 100 or not owner or size > _MAX_NUMBER or not (NS if ns else 0) <= seconds <= _MAX_NUMBER:
        return b"".join(pieces(name, "f", mode, uid, gid, size, mtime_ns, xattrs=xattrs))
    front = b"%b%b%b%011o\0%011o\0" % (name, _PAD[100 - length], owner, size, seconds)
    check = (adler32(front, 0) & 0xFFFF) + REST  # as byte_sum() does
    if xattrs:
        records = _xattr_text(xattrs)
        if ns:
            records = b"30 mtime=%d.%09d\n%b" % (seconds, ns, records)
        total = len(records)
        return b"%b%b%b%b%06o\0 %b" % (extended_header(total), records, _PAD[-total % BLOCK], front, check, TAIL)
    if ns:
        return b"%b30 mtime=%d.%09d\n%b%b%06o\0 %b" % (X30, seconds, ns, _X30_PAD, front, check, TAIL)
    return b"%b%06o\0 %b" % (front, check, TAIL)


def padding(length: int) -> bytes:
    """What follows length bytes of content."""
    return _PAD[-length % BLOCK]


def record(key: bytes, value: bytes) -> bytes:
    """A pax record; its length counts itself."""
    rest = len(key) + len(value) + 3
    return b"%d %b=%b\n" % (_record_length(rest), key, value)


def _record_length(rest: int) -> int:
    length = rest + len(str(rest))
    return rest + len(str(length))


def _time(ns: int) -> bytes:
    seconds, rest = divmod(abs(ns), NS)
    sign = b"-" if ns < 0 else b""
    return b"%b%d.%09d" % (sign, seconds, rest) if rest else b"%b%d" % (sign, seconds)


def align_segments(segments: Iterable[Tuple[int, int]], size: int) -> List[Tuple[int, int]]:
    """The data segments (offset, length) of a file with holes as they are stored: whole 512-byte blocks but
    the last of the file, ascending, neighbours joined; of more than MAX_SEGMENTS those across small holes too."""
    found: List[Tuple[int, int]] = []
    gap = 0
    wanted = sorted(segments)
    while True:
        for offset, length in wanted:
            start, end = offset - offset % BLOCK, min(offset + length + -(offset + length) % BLOCK, size)
            if start >= end:
                continue
            if found and start <= found[-1][0] + found[-1][1] + gap:
                before, reach = found[-1]
                found[-1] = (before, max(reach, end - before))
            else:
                found.append((start, end - start))
        if len(found) <= MAX_SEGMENTS:
            return found
        wanted, found, gap = found, [], max(4096, 2 * gap)


def sparse_map(segments: Sequence[Tuple[int, int]], size: int) -> bytes:
    """The map that stands before the data of a sparse member, padded. It always ends with (size, 0), without
    which GNU tar makes the file too short."""
    numbers = [len(segments) + 1]
    for segment in segments:
        numbers += segment
    text = b"\n".join(b"%d" % number for number in [*numbers, size, 0]) + b"\n"
    return text + padding(len(text))


def _xattr_text(xattrs: Mapping[bytes, bytes]) -> bytes:
    """The records of xattrs. A lone one is remembered: where there are labels, every file has one of few."""
    if len(xattrs) > 1:
        return b"".join(_xattr_records(xattrs))
    (pair,) = xattrs.items()
    text = _LABELS.get(pair)
    if text is None:
        text = b"".join(_xattr_records(xattrs))
        if len(text) < BLOCK:
            if len(_LABELS) > 1024:
                _LABELS.clear()
            _LABELS[pair] = text
    return text


def _xattr_records(xattrs: Mapping[bytes, bytes]) -> Iterator[bytes]:
    """Records of xattrs as listxattr and getxattr give them; ACLs and SELinux labels under the names that
    tar uses for them."""
    plain: List[bytes] = []
    for name in sorted(xattrs):
        value = xattrs[name]
        special = XATTR.get(name)
        if special == b"RHT.security.selinux":
            yield record(special, value[:-1] if value.endswith(b"\0") else value)
            continue
        if special:
            try:
                yield record(special, acl.to_text(value))
                continue
            except ValueError:
                pass  # no ACL that we understand: kept as the bytes it is
        plain.append(record(b"SCHILY.xattr." + name.replace(b"%", b"%25").replace(b"=", b"%3D"), value))
    yield from plain


def _split(name: bytes) -> Optional[Tuple[bytes, bytes]]:
    """(prefix, name) when name fits the header."""
    if len(name) <= 100:
        return b"", name
    cut = name.find(b"/", max(len(name) - 101, 1), 156)
    return (name[:cut], name[cut + 1 :]) if 0 < cut < len(name) - 1 else None


def pieces(
    name: bytes,
    kind: str,
    mode: int,
    uid: int,
    gid: int,
    size: int = 0,
    mtime_ns: int = 0,
    link: bytes = b"",
    dev: Tuple[int, int] = (0, 0),
    xattrs: Optional[Mapping[bytes, bytes]] = None,
    dumpdir: Optional[Dumpdir] = None,
    sparse: Optional[Sequence[Tuple[int, int]]] = None,
    names: Optional[Dumpdir] = None,
) -> Iterator[bytes]:
    """The header of any member, in pieces.

    name: `./a/b`, folders with a slash behind. kind: f d l h c b p. size: of a regular file's content.
    link: where a symbolic link points; of a hard link the member name of the first. dev: major, minor.
    xattrs: as the system gives them, ACLs and SELinux labels among them. dumpdir: for folders of an
    incremental. sparse: what align_segments() gave; the map follows the header here, then the caller writes
    the segments one after the other. names: STOWAGE.names, like dumpdir, for the extractor only.
    """
    records: List[bytes] = []
    prefix, short = b"", name
    stored, mapping = (size, b"") if kind == "f" else (0, b"")
    if sparse is not None:
        mapping = sparse_map(sparse, size)
        stored = len(mapping) + sum(length for _offset, length in sparse)
        records.append(b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n")
        records.append(record(b"GNU.sparse.name", name))
        records.append(record(b"GNU.sparse.realsize", b"%d" % size))
        short = b"./GNUSparseFile.0/" + name.rpartition(b"/")[2][:80]
    else:
        fits = _split(name)
        if fits:
            prefix, short = fits
        else:
            records.append(record(b"path", name))
            short = name[:100].rstrip(b"/")
    if len(link) > 100:
        records.append(record(b"linkpath", link))
    numbers = []
    for key, value, limit in ((b"size", stored, _MAX_NUMBER), (b"uid", uid, _MAX_ID), (b"gid", gid, _MAX_ID)):
        if value > limit:
            records.append(record(key, b"%d" % value))
            value = 0
        numbers.append(value)
    seconds, ns = divmod(mtime_ns, NS)
    if ns or not 0 <= seconds <= _MAX_NUMBER:
        records.append(record(b"mtime", _time(mtime_ns)))
        seconds = min(max(seconds, 0), _MAX_NUMBER)
    if xattrs:
        records.append(_xattr_text(xattrs))
    if max(dev) > _MAX_ID or min(dev) < 0:
        raise ValueError("no device number: %r" % (dev,))
    long = [(key, value) for key, value in ((b"STOWAGE.names", names), (b"GNU.dumpdir", dumpdir)) if value is not None]
    if records or long:
        lengths = [_record_length(len(key) + value.length + 3) for key, value in long]
        total = sum(map(len, records)) + sum(lengths)
        yield b"".join((extended_header(total), *records))
        for (key, value), length in zip(long, lengths):
            yield b"%d %b=" % (length, key)
            yield from value.pieces()
            yield b"\n"
        yield padding(total)
    yield plain_header(
        short, mode, numbers[1], numbers[2], numbers[0], seconds, TYPES[kind], link[:100],
        b"%07o\0%07o\0" % dev, prefix,
    ) + mapping  # fmt: skip


def member(
    name: bytes,
    kind: str,
    mode: int,
    uid: int,
    gid: int,
    size: int = 0,
    mtime_ns: int = 0,
    link: bytes = b"",
    dev: Tuple[int, int] = (0, 0),
    xattrs: Optional[Mapping[bytes, bytes]] = None,
    dumpdir: Optional[Dumpdir] = None,
    sparse: Optional[Sequence[Tuple[int, int]]] = None,
    names: Optional[Dumpdir] = None,
) -> bytes:
    """What pieces() gives, as one."""
    if kind == "f" and sparse is None:
        return regular(name, mode, uid, gid, size, mtime_ns, xattrs)
    return b"".join(
        pieces(name, kind, mode, uid, gid, size, mtime_ns, link, dev, xattrs, dumpdir, sparse, names)
    )  # fmt: skip


def header_length(header: Iterable[bytes]) -> int:
    """Bytes of a header given in pieces."""
    return sum(map(len, header))
