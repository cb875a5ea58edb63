"""The frame table: a line per frame; where it lies in its part and what of the archive it holds.

Here live the record, its line, and finding the frames of a piece of the archive; not compression (codec)
and not the part's file name (layout).
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Iterable, Iterator, List, NamedTuple

from ..errors import ImageDamaged
from .lines import whole_lines

CONTINUES = 1  # the frame begins inside a member
LAST = 2  # the last frame of the archive
MAX_LENGTH = 16 << 20  # of one frame in the archive; a frame is unpacked in memory
_FLAGS = {b"-": 0, b"c": CONTINUES, b"l": LAST, b"cl": CONTINUES | LAST}
_LETTERS = {value: letters for letters, value in _FLAGS.items()}


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
