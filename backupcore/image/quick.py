"""Many plain files of one folder, read out of an archive at once: what most of every tree is made of.

Here lives the quick way past unpax.Reader's loop, for the extractor. It takes only what is whole in the reader's
present chunk and looks exactly as pax.py writes it; it leaves everything else, and everything that is wrong, where
it is: the reader's own way comes next, and refuses it.
"""

from __future__ import annotations

from struct import Struct
from typing import Dict, List, Optional, Tuple
from zlib import adler32

from .unpax import NS, Reader
from .ustar import BLOCK, REST, TAIL, X30

_EMPTY = bytes(BLOCK)
_HEADER = Struct("100s24s11sc11sc8s356s")  # name, owner, size, NUL, time, NUL, checksum, the rest
_PREFIX, _BEHIND = 345 - 156, 500 - 156  # of the field prefix in the rest
_TYPE = 156  # place of a header's type
_RECORDS = 32 << 10  # bytes of xattrs after which it is enough
_DOTS = (b"", b".", b"..")
# (name, place of its content in the chunk, size, (mode, uid, gid), mtime_ns, xattrs or None)
File = Tuple[bytes, int, int, Tuple[int, int, int], int, Optional[Dict[bytes, bytes]]]


def plain_files(
    reader: Reader, folder: bytes, most: int, largest: int, enough: int
) -> Tuple[List[File], int, int, bool]:
    """The files that come next, as long as they lie in folder (path as in the index, b"" the root).

    most: how many at most; largest: no file with more bytes; enough: none more after so many bytes. Returns them,
    their bytes, the bytes of their xattrs, and whether it was one of these bounds that ended them. The content of the
    member before must not be wanted any more.
    """
    found: List[File] = []
    total = extra = 0
    chunk, place = reader._chunk, reader._place + reader._left
    end = len(chunk) - BLOCK
    owners = reader._owners
    full = b"./" + folder + b"/" if folder else b"./"
    tails: Dict[bytes, Optional[Tuple[int, bytes]]] = {TAIL: (REST, full)}
    unpack = _HEADER.unpack
    bounded = False
    while place <= end:
        if len(found) >= most or total >= enough or extra >= _RECORDS:
            bounded = True
            break
        at, ns, xattrs = place, 0, None
        if chunk[at + _TYPE] == 0x78:  # x
            record = _record(reader, chunk, at)
            if record is None:
                break
            at, ns, xattrs, more = record
            extra += more
            if at > end:
                break
        header = bytes(chunk[at : at + BLOCK])  # a chunk that is a memoryview is slow to look at
        name, owner_text, size_text, nul, time_text, other_nul, check, tail = unpack(header)
        try:
            rule = tails[tail]
        except KeyError:
            rule = tails[tail] = _rule(tail, full)
        owner = owners.get(owner_text)
        if rule is None or owner is None or nul != b"\0" or other_nul != b"\0":
            break
        rest, head = rule
        if check != b"%06o\0 " % ((adler32(header[:148], 0) & 0xFFFF) + rest) or not name.startswith(head):
            break
        name = name[len(head) :].rstrip(b"\0")
        if b"/" in name or b"\0" in name or name in _DOTS or not (size_text + time_text).isdigit():
            break
        try:
            size, seconds = int(size_text, 8), int(time_text, 8)
        except ValueError:
            break
        at += BLOCK
        behind = at + size + -size % BLOCK
        if size > largest or behind > end + BLOCK:
            break
        found.append((name, at, size, owner, ns or seconds * NS, xattrs))
        total += size
        place = behind
    if found:
        reader._place, reader._left, reader._current = place, 0, None
    return found, total, extra, bounded


def _rule(tail: bytes, full: bytes) -> Optional[Tuple[int, bytes]]:
    """What a header with this end adds to the checksum, and how the name field of a file in folder begins; None when
    it is no plain file, or one of another folder."""
    prefix = tail[_PREFIX:_BEHIND].rstrip(b"\0")
    same = tail[:_PREFIX] == TAIL[:_PREFIX] and tail[_BEHIND:] == TAIL[_BEHIND:]
    if not same or not full.startswith(prefix + b"/"):
        return None
    return 256 + sum(tail), full[len(prefix) + 1 :]


def _record(reader: Reader, chunk: bytes, at: int) -> Optional[Tuple[int, int, Optional[Dict[bytes, bytes]], int]]:
    """(where the header stands, nanoseconds, xattrs, their bytes) of a file whose records are a time of today and
    perhaps xattrs that were read before."""
    head = bytes(chunk[at : at + BLOCK])
    length = 30 if head == X30 else reader._lengths.get(head, 0)
    at += BLOCK
    pad = -length % BLOCK
    behind = at + length + pad + _TYPE
    if behind >= len(chunk) or chunk[behind] != TAIL[0]:
        return None  # mostly the folder that comes next
    text = bytes(chunk[at : at + length])
    if not (text[:9] == b"30 mtime=" and text[19:20] == b"." and (text[9:19] + text[20:29]).isdigit()):
        return None
    xattrs = None
    if length > 30:
        xattrs = reader._xattrs.get(text[30:])
        if xattrs is None:
            return None
    if text[29:30] != b"\n" or bytes(chunk[at + length : at + length + pad]) != _EMPTY[:pad]:
        return None
    return at + length + pad, int(text[9:19] + text[20:29]), xattrs, length - 30
