"""One dump from the wire into the files of an image: every byte is touched once, every length is checked.

Here live the checks of what an agent sends and the files it becomes: parts, index, frame table, state, sealed
before they are written when the policy says so. The agent is hostile until checked: whatever it sends, it costs
its own dump only. What a whole dump needs besides (sums, manifest, its place, its row) is accept.py.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from .. import wire
from ..errors import ImageDamaged, WireError
from ..image import codec as codecs
from ..image import frames, layout, seal
from ..image.manifest import FileRecord
from ..text import escape
from . import statefile
from .holding import Landing, Room
from .newfile import Beside, HashedFile
from .sealing import Sealing

PIECE = 256 << 10  # of a frame taken at once: small enough to be hashed and written while the processor has it at hand
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
    sealing: Optional[Sealing] = None,
) -> Received:
    """Takes the stream after START up to DONE. progress(entries, bytes stored) is called for every message.
    sealing: the dump is sealed, and landing has a private folder.

    Raises WireError, HoldingFull or the agent's own error; what came until then is the caller's to remove.
    """
    receiver = Receiver(channel, landing, room, codec, part_size, progress, sealing)
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
        sealing: Optional[Sealing] = None,
    ):
        self.channel, self.landing, self.codec, self.part_size = channel, landing, codec, part_size
        self.peer, self.progress = channel.peer, progress
        self._codec = codecs.get(codec)
        self._room, self._sealing = room, sealing
        self._by_client = sealing is not None and sealing.by_client
        self._suffix = layout.SEALED if sealing else ""
        self._sealers: Dict[str, seal.Sealer] = {}  # of the files this server seals that are being written
        self._notes: List[str] = []
        self._index = self._open(layout.index_name(codec), seal.INDEX)
        self._table = self._open(layout.frames_name(codec), seal.FRAMES)
        self._plain_index = self._beside(landing.index, "find has to fetch it again") if sealing else None
        self._state: Any = None
        self._copy: Optional[Beside] = None  # of a frame table that is no small one
        self._records = bytearray()  # what is still to come into it
        self._part: Optional[HashedFile] = None
        self._key_of = -1  # the part whose key came last, when the agent seals
        self._parts: List[FileRecord] = []
        self._lines: List[bytes] = []
        self._number = self._offset = self._stored = self._entries = self._agent_entries = 0
        self._last = False
        self._passing = memoryview(bytearray(PIECE))
        self._said = self._warnings = 0

    def _open(self, name: str, kind: bytes, part: int = 0) -> HashedFile:
        """A new file of the image; one that this server seals gets its key."""
        name += self._suffix
        if self._sealing is not None and not (kind == seal.PART and self._by_client):
            self._sealers[name] = self._sealing.sealer(name, kind, part)
        return HashedFile(self.landing.folder / name, self.landing.disk, self._room)

    def _beside(self, path: Path, loss: str) -> Beside:
        return Beside(path, lambda why: self._notes.append(f"{path.parent} cannot be written: {why}; {loss}"))

    def run(self) -> Received:
        """Receives until DONE."""
        idle = 0
        take = {wire.INDEX: self._index_lines, wire.STATE: self._state_blocks}
        if self._by_client:
            take[wire.KEY] = self._key
        while True:
            kind, length = self.channel.receive_head()
            if kind == wire.FRAME:
                idle = 0
                self._frame(length)
                self.progress(max(self._entries, self._agent_entries), self._stored)
                continue
            payload = self.channel.read(length)
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

    def _key(self, payload: bytes) -> None:
        """The key of the part that comes next, sealed by the agent."""
        value = self.channel.json(payload)
        part = len(self._parts) + (self._part is not None)
        if value.get("part") != part or type(value["part"]) is not int or self._key_of >= part or self._last:
            raise WireError(f"{self.peer} sent a key that is not the next part's")
        if part >= layout.MAX_PARTS:
            raise WireError(f"{self.peer} sent the key of one part too many")
        self._sealing.take(layout.part_name(part, self.codec) + self._suffix, value, self.peer)
        self._key_of = part

    def _frame(self, size: int) -> None:
        head = wire.unpack_frame_head(self.channel.read(min(size, wire.FRAME_HEAD)))
        stored = size - wire.FRAME_HEAD
        mac = b""
        if self._by_client:
            mac = bytes(self.channel.read(max(0, min(stored, seal.MAC_LENGTH))))
            stored -= len(mac)
        part = self._part
        number = len(self._parts)  # of the part that is open, or comes next
        wrong = ""
        if self._last:
            wrong = "comes after the last"
        elif head.number != self._number or head.offset != self._offset:
            wrong = "is not the next"
        elif not 0 < head.length <= frames.MAX_LENGTH or not stored:
            wrong = "has an impossible length"
        elif head.flags & ~(wire.CONTINUES | wire.LAST) or (not self._number and head.flags & wire.CONTINUES):
            wrong = "has impossible flags"
        elif self.codec == "none" and stored != head.length:
            wrong = "is longer or shorter than it says"
        elif part is not None and part.size + stored > self.part_size:
            number += 1
            if number >= layout.MAX_PARTS:
                wrong = "would be in one part too many"
        if not wrong and head.part != number:
            wrong = f"is in part {head.part} where part {number} goes on"
        if not wrong and self._by_client and number != self._key_of:
            wrong = f"comes without the key of part {number}, or behind that of another"
        if wrong:
            raise WireError(f"{self.peer} sent a frame that {wrong} (frame {head.number} at {head.offset})")
        if part is None or number != len(self._parts):
            self._close_part()
            part = self._part = self._open(layout.part_name(number, self.codec), seal.PART, number)
        sealer = self._sealers.get(part.name)
        place = part.size
        if sealer is not None:
            authenticated = sealer.hasher(head.number, stored, bool(head.flags & wire.LAST))
            for piece in self.channel.pieces(stored, self._passing):
                sealed = sealer.seal(piece)
                authenticated.update(sealed)
                part.write(sealed)
            digest = authenticated.digest()
        elif mac:
            for piece in self.channel.pieces(stored, self._passing):
                part.write(piece)
            digest = mac
        else:
            hashed = hashlib.sha256()
            for piece in self.channel.pieces(stored, self._passing):
                hashed.update(piece)
                part.write(piece)
            digest = hashed.digest()
        frame = frames.Frame(number, head.number, place, stored, head.offset, head.length, digest, head.flags)
        self._lines.append(frames.format_frame(frame))
        self._records += frames.record(frame)
        if len(self._records) > frames.SMALL_COPY:
            self._flush_records()
        self._number += 1
        self._offset += head.length
        self._stored += stored
        self._last = bool(head.flags & wire.LAST)
        if len(self._lines) >= TABLE_LINES:
            self._flush_table()

    def _close_part(self) -> None:
        if self._part is not None:
            self._parts.append(self._part.finish())
            self._sealers.pop(self._part.name, None)
            self._part = None

    def _write_table(self, file: HashedFile, data: Any) -> None:
        """Appends to index or frame table."""
        sealer = self._sealers.get(file.name)
        file.write(data if sealer is None else sealer.seal(data))

    def _finish_table(self, file: HashedFile) -> FileRecord:
        record = file.finish()
        if self._sealing is not None:
            self._sealing.table(self._sealers[file.name], record)
        return record

    def _flush_table(self) -> None:
        if self._lines:
            self._write_table(self._table, self._codec.compress(b"".join(self._lines)))
            self._lines = []

    def _flush_records(self, end: bytes = b"") -> None:
        if self._copy is None:
            self._copy = self._beside(self.landing.table, "the first restore of a file has to read it all")
        self._copy.write(bytes(self._records) + end)
        self._records = bytearray()

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
        self._write_index(payload)

    def _write_index(self, data: bytes) -> None:
        self._write_table(self._index, data)
        if self._plain_index is not None:
            self._plain_index.write(data)

    def _state_blocks(self, payload: bytes) -> None:
        if not payload:
            raise WireError(f"{self.peer} sent an empty state")
        if self._state is None:
            if self._sealing is None:
                self._state = HashedFile(self.landing.state, self.landing.disk, self._room)
            else:
                self._state = self._beside(self.landing.state, "the next dump will be a full")
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
            self._write_index(self._codec.compress(b""))  # nothing changed; an empty file is none that unpacks
        index, table = self._finish_table(self._index), self._finish_table(self._table)
        if self._plain_index is not None:
            self._plain_index.finish()
        if self._copy is not None:
            self._flush_records(frames.trailer(self._number, bytes.fromhex(table.sha256)))
            self._copy.finish()
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
        for file in (self._index, self._table, self._plain_index, self._copy, self._state, self._part):
            if file is not None:
                file.close()


def _count(value: Dict[str, Any], name: str, peer: str) -> int:
    number = value.get(name, 0)
    if type(number) is not int or not 0 <= number < _COUNT_LIMIT:
        raise WireError(f"{peer} sent no number as {name}")
    return number
