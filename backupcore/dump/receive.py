"""One dump from the wire into the files of an image: every byte is touched once, every length is checked.

Here live the checks of what an agent sends and the files it becomes: parts, index, frame table, state. The
agent is hostile until checked: whatever it sends, it costs its own dump only. What a whole dump needs besides
(sums, manifest, its place, its row) is accept.py.
"""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from .. import files, wire
from ..errors import ImageDamaged, WireError
from ..image import codec as codecs
from ..image import frames, layout
from ..image.manifest import FileRecord
from ..text import escape
from . import statefile
from .holding import Landing, Room, writing

FLUSH = 16 << 20  # written bytes after which the kernel is told to begin, so that the last sync is quick
TABLE_LINES = 4096  # lines in a frame of the frame table
INDEX_LIMIT = 256 << 20  # unpacked bytes in one INDEX message: no bomb, but 2048 lines of paths of any length
NOTES_KEPT = 200
NOTES_LIMIT = 1_000_000
IDLE_LIMIT = 100_000  # messages in a row that bring nothing of the dump; a heartbeat of 5 s lasts six days
_COUNT_LIMIT = 1 << 62


class Received(NamedTuple):
    """What came: the files, all synced, and what the agent said of them. notes: escaped; warnings: how many."""

    codec: str
    parts: Tuple[FileRecord, ...]
    index: FileRecord
    frames: FileRecord
    archive_size: int
    stored_size: int
    entries: int
    has_state: bool
    done: Dict[str, Any]
    notes: Tuple[str, ...]
    warnings: int


def receive(
    channel: wire.Channel,
    landing: Landing,
    room: Room,
    codec: str,
    part_size: int,
    progress: Callable[[int, int], None] = lambda entries, size: None,
) -> Received:
    """Takes the stream after START up to DONE. progress(entries, bytes stored) is called for every message.

    Raises WireError, HoldingFull or the agent's own error; what came until then is the caller's to remove.
    """
    receiver = Receiver(channel, landing, room, codec, part_size, progress)
    try:
        return receiver.run()
    finally:
        receiver.close()


class Receiver:
    """The files of one dump while they come."""

    def __init__(
        self,
        channel: wire.Channel,
        landing: Landing,
        room: Room,
        codec: str,
        part_size: int,
        progress: Callable[[int, int], None],
    ):
        self.channel, self.landing, self.codec, self.part_size = channel, landing, codec, part_size
        self.peer, self.progress = channel.peer, progress
        self._codec = codecs.get(codec)
        self._open = functools.partial(HashedFile, disk=landing.disk, room=room)
        self._index = self._open(landing.folder / layout.index_name(codec))
        self._table = self._open(landing.folder / layout.frames_name(codec))
        self._state: Optional[HashedFile] = None
        self._part: Optional[HashedFile] = None
        self._parts: List[FileRecord] = []
        self._lines: List[bytes] = []
        self._number = self._offset = self._stored = self._entries = self._agent_entries = 0
        self._last = False
        self._notes: List[str] = []
        self._said = self._warnings = 0

    def run(self) -> Received:
        """Receives until DONE."""
        idle = 0
        take = {wire.FRAME: self._frame, wire.INDEX: self._index_lines, wire.STATE: self._state_blocks}
        while True:
            kind, payload = self.channel.receive()
            if kind in take:
                idle = 0
                take[kind](payload)
            elif kind in (wire.NOTE, wire.PROGRESS):
                idle += 1
                if idle > IDLE_LIMIT:
                    raise WireError(f"{self.peer} sends messages without end and nothing of the dump")
                value = self.channel.json(payload)
                if kind == wire.NOTE:
                    self._note(value)
                else:
                    self._agent_entries = _count(value, "entries", self.peer)
            elif kind == wire.DONE:
                return self._done(self.channel.json(payload))
            elif kind == wire.ERROR:
                raise wire.received_error(self.channel.json(payload))
            else:
                raise WireError(f"{self.peer} sent {kind!r} in the middle of a dump")
            self.progress(max(self._entries, self._agent_entries), self._stored)

    def _frame(self, payload: bytes) -> None:
        head, stored = wire.unpack_frame(payload)
        part = self._part
        number = len(self._parts)  # of the part that is open, or comes next
        wrong = ""
        if self._last:
            wrong = "comes after the last"
        elif head.number != self._number or head.offset != self._offset:
            wrong = "is not the next"
        elif not 0 < head.length <= frames.MAX_LENGTH or not len(stored):
            wrong = "has an impossible length"
        elif head.flags & ~(wire.CONTINUES | wire.LAST) or (not self._number and head.flags & wire.CONTINUES):
            wrong = "has impossible flags"
        elif self.codec == "none" and len(stored) != head.length:
            wrong = "is longer or shorter than it says"
        elif part is not None and part.size + len(stored) > self.part_size:
            number += 1
            if number >= layout.MAX_PARTS:
                wrong = "would be in one part too many"
        if not wrong and head.part != number:
            wrong = f"is in part {head.part} where part {number} goes on"
        if wrong:
            raise WireError(f"{self.peer} sent a frame that {wrong} (frame {head.number} at {head.offset})")
        if part is None or number != len(self._parts):
            self._close_part()
            part = self._part = self._open(self.landing.folder / layout.part_name(number, self.codec))
        digest = hashlib.sha256(stored).digest()
        place = part.size
        part.write(stored)
        self._lines.append(
            frames.format_frame(
                frames.Frame(number, head.number, place, len(stored), head.offset, head.length, digest, head.flags)
            )
        )
        self._number += 1
        self._offset += head.length
        self._stored += len(stored)
        self._last = bool(head.flags & wire.LAST)
        if len(self._lines) >= TABLE_LINES:
            self._flush_table()

    def _close_part(self) -> None:
        if self._part is not None:
            self._parts.append(self._part.finish())
            self._part = None

    def _flush_table(self) -> None:
        if self._lines:
            self._table.write(self._codec.compress(b"".join(self._lines)))
            self._lines = []

    def _index_lines(self, payload: bytes) -> None:
        # unpacked once here: an index that nobody could read would make the image half worth
        count = size = 0
        piece = b""
        try:
            for piece in self._codec.unpack((payload,)):
                count += piece.count(b"\n")
                size += len(piece)
                if size > INDEX_LIMIT:
                    raise WireError(f"{self.peer} sent index lines that unpack to more than {INDEX_LIMIT} bytes")
        except ImageDamaged as error:
            raise WireError(f"{self.peer} sent index lines that cannot be unpacked: {error.message}") from None
        if not piece.endswith(b"\n"):
            raise WireError(f"{self.peer} sent a piece of an index line")
        self._entries += count
        self._index.write(payload)

    def _state_blocks(self, payload: bytes) -> None:
        if not payload:
            raise WireError(f"{self.peer} sent an empty state")
        if self._state is None:
            self._state = self._open(self.landing.state)
            self._state.write(statefile.MAGIC)
        self._state.write(statefile.head(payload))
        self._state.write(payload)

    def _note(self, value: Dict[str, Any]) -> None:
        self._said += 1
        if self._said > NOTES_LIMIT:
            raise WireError(f"{self.peer} sends notes without end")
        self._warnings += value.get("level") != "info"
        if len(self._notes) < NOTES_KEPT:
            path, message = (escape(str(value.get(name, ""))[:1000]) for name in ("path", "message"))
            self._notes.append(f"{path}: {message}" if path else message)

    def _done(self, done: Dict[str, Any]) -> Received:
        if not self._last:
            raise WireError(f"{self.peer} ended the dump before its last frame")
        for name, found in (("archive_size", self._offset), ("entries", self._entries)):
            if _count(done, name, self.peer) != found:
                raise WireError(f"{self.peer} sent {found} as {name.replace('_', ' ')} and says {done[name]}")
        for name in ("files", "bytes", "suspects"):
            _count(done, name, self.peer)
        self._close_part()
        self._flush_table()
        if not self._index.size:
            self._index.write(self._codec.compress(b""))  # nothing changed; an empty file is none that unpacks
        index, table = self._index.finish(), self._table.finish()
        state = self._state
        if state is not None:
            state.write(statefile.END)
            state.write(state.digest())
            state.finish()
        if self._said > len(self._notes):
            self._notes.append(f"and {self._said - len(self._notes)} more")
        return Received(
            self.codec, tuple(self._parts), index, table, self._offset,
            sum(record.size for record in (*self._parts, index, table)),
            self._entries, state is not None, done, tuple(self._notes), self._warnings,
        )  # fmt: skip

    def close(self) -> None:
        """Closes what is still open."""
        for file in (self._index, self._table, self._state, self._part):
            if file is not None:
                file.close()


def _count(value: Dict[str, Any], name: str, peer: str) -> int:
    number = value.get(name, 0)
    if type(number) is not int or not 0 <= number < _COUNT_LIMIT:
        raise WireError(f"{peer} sent no number as {name}")
    return number


class HashedFile:
    """A new file whose bytes are hashed as they are written."""

    def __init__(self, path: Path, disk: Path, room: Room):
        self.name, self.size = path.name, 0
        self._disk, self._room = disk, room
        self._hasher = hashlib.sha256()
        self._flushed = 0
        self._fd = -1
        with writing(disk):
            self._fd = files.create(path)

    def write(self, data: Any) -> None:
        """Appends data. Raises HoldingFull."""
        self._room.take(len(data))
        self._hasher.update(data)
        with writing(self._disk):
            files.write_all(self._fd, data)
        self.size += len(data)
        if self.size - self._flushed >= FLUSH:
            _begin_writing(self._fd, self._flushed, self.size - self._flushed)
            self._flushed = self.size

    def digest(self) -> bytes:
        """SHA-256 of what was written."""
        return self._hasher.digest()

    def finish(self) -> FileRecord:
        """Syncs and closes."""
        with writing(self._disk):
            os.fsync(self._fd)
        self.close()
        return FileRecord(self.name, self.size, self._hasher.hexdigest())

    def close(self) -> None:
        """Closes without syncing; safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@functools.lru_cache(maxsize=None)
def _sync_file_range() -> Optional[Callable[..., int]]:
    import ctypes  # small dumps do without

    function = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


def _begin_writing(fd: int, offset: int, count: int) -> None:
    # only a hint: what did not reach the disk by it is waited for, and its errors told, by fsync
    function = _sync_file_range()
    if function is not None:
        function(fd, offset, count, 2)  # SYNC_FILE_RANGE_WRITE
