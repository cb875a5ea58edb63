"""State: what an incremental compares the tree with, a binary block per folder, in walk order.

Here live packing and reading of blocks and of the compressed payloads they travel in; what counts as changed
lives in agent.dump. The server keeps payloads as the agent made them and streams them back: constant memory on
both sides, and an unchanged folder is one comparison of bytes.

A block is HEAD (magic, length of the whole block, length of the path, number of entries, number of folders, flags),
the path (`.` or `a/b`), the folder's own row if FIRST, the names of the entries and then of the sub-folders,
each ended by NUL, and a row for each entry. A folder with more than ENTRIES names has more than one block, the first
with FIRST, the last with LAST; entries (all that are no folders, sorted) come before folders (sorted).
A row is six signed 64-bit numbers, little endian: type and mode with flags above, size, mtime, ctime, inode
(2**63 and above as negative numbers), number of links. A folder's own row has size and links 0.
"""

from __future__ import annotations

import struct
import sys
from array import array
from typing import Any, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from ..errors import ImageDamaged
from . import codec as codecs
from .index import check_path

ENTRIES = 4096  # names in a block
PAYLOAD = 512 << 10  # a payload is closed at this many bytes of blocks
LEAST = 16 << 10  # from which on one is closed where the base's was; smaller ones grow together
LIMIT = 12 << 20  # a payload never unpacks to more: a block of 4096 names of 255 bytes below a path of 8 MiB
PATH_LIMIT = 8 << 20

FIRST, LAST = 1, 2
# Flags in a row, above the 16 bits of type and mode.
SUSPECT = 1 << 16  # changed while it was read, or perhaps: never equals
ABSENT = 1 << 17  # there, but not dumped, and no older dump of the chain has it
CARRIED = 1 << 18  # there, but not dumped now; an older dump of the chain has it
MOUNT = 1 << 19  # a folder on which another file system is mounted

Row = Tuple[int, int, int, int, int, int]
ABSENT_ROW: Row = (ABSENT, 0, 0, 0, 0, 0)
WIDTH = 6

_HALF = 1 << 63
_MAGIC = b"SWs1"
_HEAD = struct.Struct("<4sIIHHB")  # 17 bytes
_ROW = struct.Struct("<6q")  # 48 bytes
_ZSTD, _GZIP = b"\x28\xb5\x2f\xfd", b"\x1f\x8b"


def signed(number: int) -> int:
    """A number as it stands in a row: inodes go up to 2^64, times (in nanoseconds) before 1678 and from 2262 on are
    beyond what fits, and go round."""
    return number if -_HALF <= number < _HALF else (number + _HALF) % (2 * _HALF) - _HALF


def unsigned(number: int) -> int:
    """The inode number of a row."""
    return number + (1 << 64) if number < 0 else number


def rows_bytes(rows: "array[int]") -> bytes:
    """The bytes of rows (array of 'q', WIDTH numbers each) in a block."""
    if sys.byteorder == "big":
        rows = array("q", rows)
        rows.byteswap()
    return rows.tobytes()


def pack(
    path: bytes, own: Optional[Row], names: List[bytes], rows: "array[int]", folders: List[bytes], last: bool
) -> bytes:
    """A block. own: the folder's row in its first block, else None."""
    joined = b"\0".join(names + folders) + b"\0" if names or folders else b""
    own_bytes = b"" if own is None else _ROW.pack(*own)
    length = _HEAD.size + len(path) + len(own_bytes) + len(joined) + len(rows) * 8
    flags = (0 if own is None else FIRST) | (LAST if last else 0)
    head = _HEAD.pack(_MAGIC, length, len(path), len(names), len(folders), flags)
    return b"".join((head, path, own_bytes, joined, rows_bytes(rows)))


class Packed(NamedTuple):
    """A payload as it came, and the blocks in it."""

    payload: bytes
    blocks: bytes


class Block(NamedTuple):
    """A block read. raw: all its bytes, for comparing. packed: of the first block of a payload, all of it."""

    raw: bytes
    path: bytes
    own: Optional[Row]
    last: bool
    entries: int
    folders: int
    start: int  # of the names in raw
    packed: Optional[Packed] = None

    def parts(self) -> Tuple[List[bytes], "array[int]", List[bytes]]:
        """(names of entries, their rows, names of sub-folders). Raises ImageDamaged."""
        if not check_path(self.path):
            raise ImageDamaged("a block of state has a path that cannot be")
        end = len(self.raw) - self.entries * WIDTH * 8
        names = self.raw[self.start : end].split(b"\0")
        if names.pop() or len(names) != self.entries + self.folders:
            raise ImageDamaged("a block of state has another number of names than it says")
        rows = array("q")
        rows.frombytes(self.raw[end:])
        if sys.byteorder == "big":
            rows.byteswap()
        return names[: self.entries], rows, names[self.entries :]

    def flagged(self, flags: int, own: Optional[Row] = None) -> bytes:
        """The bytes of this block with flags added to all rows, and own in place of the folder's row."""
        names, rows, folders = self.parts()
        for place in range(0, len(rows), WIDTH):
            if not rows[place] & ABSENT:
                rows[place] |= flags
        if own is None and self.own is not None:
            own = self.own if self.own[0] & ABSENT else (self.own[0] | flags,) + self.own[1:]
        return pack(self.path, own if self.own is not None else None, names, rows, folders, self.last)


def _read(raw: bytes, start: int) -> Block:
    """The block at start of raw. Raises ImageDamaged. Names and path are checked by parts(): most blocks are only
    compared."""
    try:
        magic, length, path_length, entries, folders, flags = _HEAD.unpack_from(raw, start)
        names = place = start + 17 + path_length
        own = None
        if flags & FIRST:
            own = _ROW.unpack_from(raw, place)
            names += 48
    except struct.error:
        raise ImageDamaged("a block of state is cut") from None
    least = names - start + entries * WIDTH * 8 + 2 * (entries + folders)
    if magic != _MAGIC or not least <= length <= len(raw) - start or entries + folders > ENTRIES or flags > 3:
        raise ImageDamaged("a block of state is not what it says")
    if path_length > PATH_LIMIT:
        raise ImageDamaged("a block of state has a path that is too long")
    return Block(
        raw[start : start + length], raw[start + 17 : place], own, flags & LAST != 0, entries, folders, names - start
    )  # fmt: skip


def one(raw: bytes) -> Block:
    """The block that raw is. Raises ImageDamaged."""
    return _read(raw, 0)


def unpack(payload: bytes) -> bytes:
    """The blocks in a payload, compressed by whatever the agent had then. Raises StowageError."""
    word = "zstd" if payload.startswith(_ZSTD) else "gzip" if payload.startswith(_GZIP) else "none"
    return codecs.get(word).decompress(payload, LIMIT)


def read(payloads: Iterable[bytes]) -> Iterator[Block]:
    """The blocks of a state given as payloads. Raises ImageDamaged, StowageError."""
    open_path: Optional[bytes] = None
    for payload in payloads:
        raw = unpack(payload)
        start = 0
        while start < len(raw):
            block = _read(raw, start)
            if (block.own is None) != (block.path == open_path):
                raise ImageDamaged("a block of state is out of turn")
            if not start:
                block = block._replace(packed=Packed(payload, raw))
            open_path = None if block.last else block.path
            start += len(block.raw)
            yield block
    if open_path is not None:
        raise ImageDamaged("the state ends inside a folder")


class Writer:
    """Collects blocks and hands on payloads: `sink(blocks: bytes)`, which compresses and sends them, or
    `again(payload: bytes)`, which sends one of the base that came whole as it was: packing it anew takes time."""

    def __init__(self, sink: Any, again: Any = None):
        self._sink, self._again = sink, again
        self._blocks: List[bytes] = []
        self._length = 0
        self._base: Optional[Packed] = None  # the payload of the base whose blocks may be held, from its first one on

    def same(self, block: Block) -> None:
        """Takes a whole block of the base that is as it was."""
        if block.packed is not None and self._again is not None:
            if self._length >= LEAST:
                self.flush()
            self._base = block.packed if not self._blocks and len(block.packed.blocks) >= LEAST else None
        self.add(block.raw)
        if self._is_base():
            self.flush()

    def _is_base(self) -> bool:
        base = self._base
        return base is not None and len(base.blocks) == self._length and b"".join(self._blocks) == base.blocks

    def add(self, block: bytes) -> None:
        """Takes a whole block."""
        if self._length and self._length + len(block) > PAYLOAD:
            self.flush()
        self._blocks.append(block)
        self._length += len(block)

    def flush(self) -> None:
        """Hands on what is held."""
        if self._blocks:
            if self._is_base():
                self._again(self._base.payload)
            else:
                self._sink(b"".join(self._blocks))
            self._blocks, self._length, self._base = [], 0, None
