"""The tables of a dump that comes in: the lines of its index, checked, and its frame table with a copy for the server.

Here lives what is in them; when what comes is receive.py's, single files are newfile.py's.
"""

from __future__ import annotations

from typing import Any, Callable, List, Optional, Tuple

from ..errors import ImageDamaged, WireError
from ..image import frames, lines
from ..image.manifest import FileRecord
from .newfile import Beside

TABLE_LINES = 4096  # lines in a frame of the frame table
INDEX_LIMIT = 256 << 20  # unpacked bytes in one INDEX message: no bomb, but 2048 lines of paths of any length


def checked_lines(payload: Any, codec: Any, peer: str, keep: int) -> Tuple[int, bytes]:
    """(how many lines of an index a message brings, the last of them; when that is longer than keep, its end). Raises
    WireError when they are none."""
    # unpacked once here: an index that nobody could read would make the image half worth
    count = size = line = 0
    piece = tail = b""
    try:
        for piece in codec.unpack((payload,)):
            tail = piece if len(tail) > keep or piece.count(b"\n") > 1 else tail + piece
            count += piece.count(b"\n")
            size += len(piece)
            if size > INDEX_LIMIT:
                raise WireError(f"{peer} sent index lines that unpack to more than {INDEX_LIMIT} bytes")
            first = piece.find(b"\n")
            line += len(piece) if first < 0 else first
            if line > lines.MAX_LINE:  # whoever reads the index would refuse it, or need that much memory
                raise WireError(f"{peer} sent an index line of more than {lines.MAX_LINE} bytes")
            if first >= 0:
                line = len(piece) - piece.rfind(b"\n") - 1
    except ImageDamaged as error:
        raise WireError(f"{peer} sent index lines that cannot be unpacked: {error.message}") from None
    if not piece.endswith(b"\n"):
        raise WireError(f"{peer} sent a piece of an index line")
    return count, tail[:-1].rpartition(b"\n")[2]


class FrameTable:
    """The frame table. write(data), finish(): of its file. beside(): makes the file of the copy, once it is no small
    one."""

    def __init__(
        self, codec: Any, write: Callable[[bytes], None], finish: Callable[[], FileRecord],
        beside: Callable[[], Beside],
    ):  # fmt: skip
        self._codec, self._write, self._finish, self._beside = codec, write, finish, beside
        self._lines: List[bytes] = []
        self._copy: Optional[Beside] = None
        self._records = bytearray()  # what is still to come into it
        self._count = 0

    def add(self, frame: frames.Frame) -> None:
        """A frame is written."""
        self._lines.append(frames.format_frame(frame))
        self._records += frames.record(frame)
        self._count += 1
        if len(self._records) > frames.SMALL_COPY:
            self._flush_records()
        if len(self._lines) >= TABLE_LINES:
            self._flush()

    def finish(self) -> FileRecord:
        """No more comes."""
        self._flush()
        record = self._finish()
        if self._copy is not None:
            self._flush_records(frames.trailer(self._count, bytes.fromhex(record.sha256)))
            self._copy.finish()
        return record

    def close(self) -> None:
        """Closes what is open of it without syncing."""
        if self._copy is not None:
            self._copy.close()

    def _flush(self) -> None:
        if self._lines:
            self._write(self._codec.compress(b"".join(self._lines)))
            self._lines = []

    def _flush_records(self, end: bytes = b"") -> None:
        if self._copy is None:
            self._copy = self._beside()
        self._copy.write(bytes(self._records) + end)
        self._records = bytearray()
