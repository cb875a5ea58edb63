"""One dump from the wire into the files of an image: every byte is touched once, every length is checked.

Here live the checks of what an agent sends and the files it becomes: parts, index, frame table, state, sealed before
they are written when the policy says so. The agent is hostile until checked: whatever it sends, it costs its own dump
only. Tables are tables.py's; what a whole dump needs besides (sums, manifest, its place, its row) is accept.py.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

from .. import wire
from ..errors import ImageDamaged, WireError
from ..image import codec as codecs
from ..image import frames, layout, seal
from ..image.manifest import FileRecord
from . import journal, resume, statefile
from .agreed import count_of
from .direct import Direct
from .holding import Landing, Room
from .newfile import Beside, HashedFile
from .notes import Notes
from .sealing import Sealing
from .tables import FrameTable, checked_lines

PIECE = 256 << 10  # of a frame taken at once: small enough to be hashed and written while the processor has it at hand
IDLE_LIMIT = 100_000  # messages in a row that bring nothing of the dump; a heartbeat of 5 s lasts six days


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
    direct: Optional[Direct] = None,
    head: Optional[Mapping[str, Any]] = None,
    came: Optional[resume.Came] = None,
) -> Received:
    """Takes the stream after START up to DONE. progress(entries, bytes stored) is called for every message.
    sealing: the dump is sealed, and landing has a private folder. direct: takes the parts, at once or when the holding
    disk is full. head: of the journal by which another attempt could go on, None: none is kept. came: what the agent
    goes on with.

    Raises WireError, HoldingFull or the agent's own error; what came until then is the caller's to remove, or to keep.
    Raises resume.Anew when the agent cannot go on with what came.
    """
    receiver = Receiver(channel, landing, room, codec, part_size, progress, sealing, direct)
    receiver.head, receiver.came = head, came
    try:
        return receiver.run()
    finally:
        receiver.close()


class Receiver:
    """The files of one dump while they come."""

    head: Optional[Mapping[str, Any]] = None
    came: Optional[resume.Came] = None

    def __init__(
        self,
        channel: wire.Channel,
        landing: Landing,
        room: Room,
        codec: str,
        part_size: int,
        progress: Callable[[int, int], None],
        sealing: Optional[Sealing] = None,
        direct: Optional[Direct] = None,
    ):
        self.channel, self.landing, self.codec, self.part_size = channel, landing, codec, part_size
        self.peer, self.progress = channel.peer, progress
        self._codec = codecs.get(codec)
        self._room, self._sealing, self._direct = room, sealing, direct
        if direct is not None:
            direct.lands(landing.folder, room)
        self._by_client = sealing is not None and sealing.by_client
        self._suffix = layout.SEALED if sealing else ""
        self._sealers: Dict[str, seal.Sealer] = {}  # of the files this server seals that are being written
        self._notes = Notes(channel.peer)
        self._index: Any = None
        self._table: Any = None
        self._plain_index: Optional[Beside] = None
        self._journal: Optional[journal.Journal] = None
        self._before = resume.Counts()  # what came before the line was cut
        self._state: Any = None
        self._frames: Optional[FrameTable] = None
        self._part: Any = None
        self._key_of = -1  # the part whose key came last, when the agent seals
        self._parts: List[FileRecord] = []
        self._number = self._offset = self._stored = self._entries = self._agent_entries = 0
        self._last = False
        self._passing = memoryview(bytearray(PIECE))

    def _begin(self, came: int = 0) -> None:
        """Opens what every dump has. came: bytes of the index that came before the line was cut."""
        if self._sealing is not None:
            self._plain_index = self._beside(self.landing.index, "find has to fetch it again", came)
        self._index = self._open(layout.index_name(self.codec), seal.INDEX, size=0 if self._sealing else came)
        table = self._table = self._open(layout.frames_name(self.codec), seal.FRAMES)
        self._frames = FrameTable(
            self._codec, lambda data: self._write_table(table, data), lambda: self._finish_table(table),
            lambda: self._beside(self.landing.table, "the first restore of a file has to read it all"),
        )  # fmt: skip

    def _go_on(self, came: resume.Came) -> None:
        """Waits for the agent to say where, and opens what came up to there."""
        self._notes.goes_on = True
        again = self._again()
        point = next((one for one in came.points if one.count == again), None)
        if again and point is None:
            raise WireError(f"{self.peer} goes on where it was not asked to")
        if point is None:
            raise resume.Anew("the file in which the line was cut has changed since")
        folder, records = self.landing.folder, came.parts(point)
        names = {number: layout.part_name(number, self.codec) + self._suffix for number in records}
        index = self.landing.index if self._sealing is not None else folder / layout.index_name(self.codec)
        for path in list(folder.iterdir()):
            if path.name not in names.values() and path != index:
                path.unlink()
        try:
            self._before = resume.counts(index, point.index, self._codec)
        except (ImageDamaged, OSError):
            raise resume.Anew("the index that came is damaged") from None
        if self._before.entries != point.entries:
            raise resume.Anew("the index that came is damaged")
        for number, name in names.items():
            if came.note is None:  # else it lies at targets, and ends there
                os.truncate(folder / name, records[number].size)
            self._parts.append(replace(records[number], name=name))
        self._begin(point.index)
        if self._sealing is not None:
            for piece in resume.pieces(index, point.index):
                self._write_table(self._index, piece)
        if self._direct is not None:
            self._direct.has(self._parts)
        for value in came.values(point):
            if "frame" in value:
                self._tabulate(journal.frame_of(value))
            elif "key" in value and self._sealing is not None:
                name, commitment, text = value["key"]
                if name in names.values():
                    self._sealing.again(name, commitment, text.encode("ascii"))
            elif "note" in value:
                self._notes.take(value["note"], value["warning"])
        self._entries = point.entries
        self._journal = journal.Journal(self.landing, self._room, self.head or {}, point)

    def _again(self) -> int:
        """How many frames of what came the agent goes on with."""
        for _message in range(IDLE_LIMIT):
            kind, payload = self.channel.expect(wire.AGAIN, wire.NOTE, wire.PROGRESS)
            if kind == wire.AGAIN:
                return count_of(payload, "frame", self.peer)
            if kind == wire.NOTE:
                self._note(payload)
            self.progress(0, 0)
        raise WireError(f"{self.peer} sends messages without end and nothing of the dump")

    def _open(self, name: str, kind: bytes, part: int = 0, size: int = 0) -> Any:
        """A new file of the image; one that this server seals gets its key."""
        name += self._suffix
        if self._sealing is not None and not (kind == seal.PART and self._by_client):
            self._sealers[name] = self._sealing.sealer(name, kind, part)
            if self._journal is not None and kind == seal.PART:
                self._journal.key(name, *self._sealing.known(name))
        path, direct = self.landing.folder / name, self._direct
        if direct is None:
            return HashedFile(path, self.landing.disk, self._room, size=size)
        if kind == seal.PART:
            return direct.part(name, lambda: HashedFile(path, self.landing.disk, self._room))
        return HashedFile(path, self.landing.disk, self._room, direct.spill, size)

    def _beside(self, path: Path, loss: str, size: int = 0) -> Beside:
        return Beside(path, lambda why: self._notes.add(f"{path.parent} cannot be written: {why}; {loss}"), size)

    def run(self) -> Received:
        """Receives until DONE."""
        idle = 0
        if self.came is not None:
            self._go_on(self.came)
        else:
            self._begin()
            if self.head is not None:
                self._journal = journal.Journal(self.landing, self._room, self.head)
        if self._direct is not None:
            self._direct.frames = self._direct.ready and self._journal is not None
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
            elif kind in (wire.NOTE, wire.PROGRESS) or (self.head is not None and kind in (wire.MARK, wire.LINKS)):
                idle += 1
                if idle > IDLE_LIMIT:
                    raise WireError(f"{self.peer} sends messages without end and nothing of the dump")
                if kind == wire.LINKS:
                    if self._journal is not None:
                        self._journal.links(payload)
                    continue
                value = self.channel.json(payload)
                if kind == wire.NOTE:
                    self._note(value)
                elif kind == wire.MARK:
                    if self._journal is not None:
                        self._journal.mark(value)
                else:
                    self._agent_entries = count_of(value, "entries", self.peer)
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
        name = layout.part_name(part, self.codec) + self._suffix
        self._sealing.take(name, value, self.peer)
        if self._journal is not None:
            self._journal.key(name, *self._sealing.known(name))
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
        if self._direct is not None:
            part.frame()
        frame = frames.Frame(number, head.number, place, stored, head.offset, head.length, digest, head.flags)
        self._tabulate(frame)
        if self._journal is not None:
            self._journal_frame(frame)

    def _tabulate(self, frame: frames.Frame) -> None:
        """A frame is written."""
        self._frames.add(frame)
        self._number += 1
        self._offset += frame.length
        self._stored += frame.stored
        self._last = bool(frame.flags & wire.LAST)

    def _journal_frame(self, frame: frames.Frame) -> None:
        text = self._index if self._plain_index is None else self._plain_index
        if text.size < 0 or (self._direct is not None and self._direct.spilt):
            self._journal.drop()
            self._journal = None
        else:
            self._journal.frame(frame, self._part.digest().hex(), self._entries, text.size, text.digest().hex())

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

    def _index_lines(self, payload: bytes) -> None:
        count, last = checked_lines(payload, self._codec, self.peer, journal.LONG)
        self._entries += count
        self._write_index(payload)
        if self._journal is not None:
            self._journal.last(last)

    def _write_index(self, data: bytes) -> None:
        self._write_table(self._index, data)
        if self._plain_index is not None:
            self._plain_index.write(data)

    def _state_blocks(self, payload: bytes) -> None:
        if not payload or self.came is not None:
            raise WireError(f"{self.peer} sent a state that cannot be one")
        if self._state is None:
            if self._sealing is None:
                spill = self._direct.spill if self._direct is not None else None
                self._state = HashedFile(self.landing.state, self.landing.disk, self._room, spill)
            else:
                self._state = self._beside(self.landing.state, "the next dump will be a full")
            self._state.write(statefile.MAGIC)
        self._state.write(statefile.head(payload))
        self._state.write(payload)

    def _note(self, value: Dict[str, Any]) -> None:
        self._notes.say(value, self._journal.note if self._journal is not None else lambda text, warning: None)

    def _done(self, done: Dict[str, Any]) -> Received:
        if not self._last:
            raise WireError(f"{self.peer} ended the dump before its last frame")
        before = self._before
        for name, found in (("archive_size", self._offset), ("entries", self._entries - before.entries)):
            if count_of(done, name, self.peer) != found:
                raise WireError(f"{self.peer} sent {found} as {name.replace('_', ' ')} and says {done[name]}")
        for name, came in (("files", before.files), ("bytes", before.bytes), ("suspects", before.suspects)):
            done[name] = count_of(done, name, self.peer) + came
        self._close_part()
        if not self._index.size:
            self._write_index(self._codec.compress(b""))  # nothing changed; an empty file is none that unpacks
        index, table = self._finish_table(self._index), self._frames.finish()
        if self._plain_index is not None:
            self._plain_index.finish()
        state = self._state
        if state is not None:
            state.write(statefile.END)
            state.write(state.digest())
            state.finish()
        return Received(
            self.codec, tuple(self._parts), index, table, self._offset,
            sum(record.size for record in (*self._parts, index, table)),
            self._entries, state is not None, done, self._notes.told(), self._notes.warnings,
        )  # fmt: skip

    def close(self) -> None:
        """Closes what is still open."""
        journal = self._journal
        for file in (self._index, self._table, self._plain_index, self._frames, self._state, self._part, journal):
            if file is not None:
                file.close()
        self._frames = None  # it calls back: in a circle both, and what they compress with, would outlive the dump
