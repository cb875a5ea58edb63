"""The frame table: a line per frame; where it lies in its part and what of the archive it holds.

Here live the record, its line, and finding the frames of a piece of the archive; not compression (codec)
and not the part's file name (layout).

The table of a large image is large, too (55 bytes a frame). So the server keeps a copy of it that can be searched where
it lies: a record of fixed size for each frame, each with a check of its own, and behind them TRAILER: what it is, the
digest of the table's file as the manifest has it, how many. It is a cache: without it the table is read.
"""

from __future__ import annotations

import os
import struct
import zlib
from bisect import bisect_right
from typing import IO, Any, Iterable, Iterator, List, NamedTuple

from ..errors import ImageDamaged
from .lines import whole_lines

CONTINUES = 1  # the frame begins inside a member
LAST = 2  # the last frame of the archive
MAX_LENGTH = 16 << 20  # of one frame in the archive; a frame is unpacked in memory
SMALL = 16384  # frames; a table of no more is held in memory, and the server keeps no copy of it
_FLAGS = {b"-": 0, b"c": CONTINUES, b"l": LAST, b"cl": CONTINUES | LAST}
_LETTERS = {value: letters for letters, value in _FLAGS.items()}
_BODY = struct.Struct("<IIQIQI32sB")
_CHECK = struct.Struct("<I")
_WIDTH = _BODY.size + _CHECK.size
_TRAILER = struct.Struct("<16s32sQ")
_MAGIC = b"Stowage frames1\n"
SMALL_COPY = SMALL * _WIDTH  # bytes of the records of a small table
_STEP = 4096  # records that are read at once


class Frame(NamedTuple):
    """A frame: part 0…; number in the dump 0…; place and stored bytes in the part; offset and length in the
    archive; digest: SHA-256 of the stored bytes; flags."""

    part: int
    number: int
    place: int
    stored: int
    offset: int
    length: int
    digest: bytes
    flags: int


def format_frame(frame: Frame) -> bytes:
    """The line of a frame, with its newline."""
    return b"%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\n" % (frame[:6] + (frame[6].hex().encode("ascii"), _LETTERS[frame[7]]))


def parse_frame(line: bytes) -> Frame:
    """The frame of a line without its newline. Raises ImageDamaged."""
    fields = line.split(b"\t")
    try:
        if len(fields) != 8 or len(fields[6]) != 64 or not all(map(bytes.isdigit, fields[:6])):
            raise ValueError
        numbers = [int(field) for field in fields[:6]]
        return Frame(*numbers, bytes.fromhex(fields[6].decode("ascii")), _FLAGS[fields[7]])  # type: ignore[arg-type]
    except (ValueError, KeyError):
        raise ImageDamaged("a line of the frame table cannot be read: %r" % line[:200]) from None


def write(frames: Iterable[Frame]) -> Iterator[bytes]:
    """The lines of frames."""
    return map(format_frame, frames)


def read(chunks: Iterable[bytes]) -> Iterator[Frame]:
    """The frames of a frame table given in chunks (unpacked). Raises ImageDamaged for gaps, too."""
    before = None
    for line in whole_lines(chunks):
        frame = parse_frame(line)
        if before is None:
            fits = frame[:3] == (0, 0, 0) and frame.offset == 0 and not frame.flags & CONTINUES
        else:
            same = frame.part == before.part and frame.place == before.place + before.stored
            fits = frame.number == before.number + 1 and frame.offset == before.offset + before.length
            fits = fits and (same or (frame.part == before.part + 1 and frame.place == 0))
            fits = fits and not before.flags & LAST
        if not fits or not 0 < frame.length <= MAX_LENGTH or frame.stored == 0:
            raise ImageDamaged("the frame table has a gap or an impossible length at frame %d" % frame.number)
        yield frame
        before = frame
    if before is not None and not before.flags & LAST:
        raise ImageDamaged("the frame table is cut after frame %d" % before.number)


class Table:
    """A whole frame table, to look up the frames that hold a piece of the archive."""

    def __init__(self, frames: Iterable[Frame]):
        self.frames: List[Frame] = list(frames)
        self._offsets = [frame.offset for frame in self.frames]

    @property
    def archive_size(self) -> int:
        """Bytes of the archive."""
        return self.frames[-1].offset + self.frames[-1].length if self.frames else 0

    def cover(self, offset: int, length: int) -> List[Frame]:
        """The frames that hold length bytes of the archive from offset. Raises ImageDamaged when none do."""
        if offset < 0 or length < 0 or offset + length > self.archive_size:
            raise ImageDamaged("the index names a place behind the end of the archive: %d" % (offset + length))
        if not length:
            return []
        first = bisect_right(self._offsets, offset) - 1
        last = bisect_right(self._offsets, offset + length - 1)
        return self.frames[first:last]


def record(frame: Frame) -> bytes:
    """The record of a frame in the server's copy. Raises struct.error for numbers that no dump has."""
    body = _BODY.pack(*frame)
    return body + _CHECK.pack(zlib.crc32(body))


def trailer(count: int, digest: bytes) -> bytes:
    """What ends a copy of count records; digest: SHA-256 of the stored frame table."""
    body = _TRAILER.pack(_MAGIC, digest, count)
    return body + _CHECK.pack(zlib.crc32(body))


class CopyDamaged(ImageDamaged):
    """The server's copy of a frame table is not right: the table itself may be."""


class Copy:
    """A copy of a frame table, searched in its file: some twenty small reads for a piece of the archive.

    Does what Table does, but cover() gives the frames one after the other. Raises CopyDamaged, first for a file that is
    not the copy of the table with that digest. Thread-safe.
    """

    def __init__(self, file: IO[bytes], digest: bytes):
        self._file = file  # kept, so that its descriptor stays
        size = file.seek(0, 2)
        end = self._read(size - _TRAILER.size - _CHECK.size, _TRAILER.size + _CHECK.size)
        self._count = (size - len(end)) // _WIDTH
        if end != trailer(self._count, digest) or size != self._count * _WIDTH + len(end) or not self._count:
            raise CopyDamaged("the copy of a frame table is damaged, or that of another")

    def _read(self, place: int, count: int) -> bytes:
        try:
            return os.pread(self._file.fileno(), count, max(0, place))
        except OSError as error:
            raise CopyDamaged("the copy of a frame table cannot be read: %s" % error.strerror) from None

    def _some(self, first: int, count: int) -> Iterator[Frame]:
        data = self._read(first * _WIDTH, count * _WIDTH)
        for place in range(count):
            start = place * _WIDTH
            body = data[start : start + _BODY.size]
            frame = Frame(*_BODY.unpack(body)) if len(body) == _BODY.size else None
            check = data[start + _BODY.size : start + _WIDTH]
            if frame is None or check != _CHECK.pack(zlib.crc32(body)) or frame.number != first + place:
                raise CopyDamaged("the copy of a frame table is damaged at frame %d" % (first + place))
            yield frame

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: Any) -> Frame:
        return next(self._some(number, 1))

    @property
    def archive_size(self) -> int:
        """Bytes of the archive."""
        last = self[self._count - 1]
        return last.offset + last.length

    def cover(self, offset: int, length: int) -> Iterator[Frame]:
        """The frames that hold length bytes of the archive from offset. Raises ImageDamaged when none do."""
        if offset < 0 or length < 0 or offset + length > self.archive_size:
            raise ImageDamaged("the index names a place behind the end of the archive: %d" % (offset + length))
        return self._cover(offset, offset + length) if length else iter(())

    def _cover(self, offset: int, end: int) -> Iterator[Frame]:
        low, high = 0, self._count
        while high - low > 1:  # the last that does not begin behind offset
            middle = (low + high) // 2
            if self[middle].offset <= offset:
                low = middle
            else:
                high = middle
        count = 4  # most pieces lie in a frame or two
        while low < self._count:
            for frame in self._some(low, min(count, self._count - low)):
                if frame.offset >= end:
                    return
                yield frame
            low += min(count, self._count - low)
            count = min(_STEP, 4 * count)
