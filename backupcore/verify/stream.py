"""The parts of an image, each read once from its first byte to its last: digests of parts and frames, and the archive.

Here lives the way from a copy's bytes to the bytes of the archive, with everything on it checked. A part that is
damaged ends the archive, but not the reading: which parts are good is known in the end. What the archive holds is
content.py.
"""

from __future__ import annotations

import hashlib
import threading
from queue import Empty, Full, Queue
from typing import Any, Callable, Iterable, Iterator, Mapping, Optional

from ..errors import ImageDamaged
from ..image import codec, frames
from ..image.manifest import FileRecord, Manifest
from ..image.seal import PART, FileKey, Opener
from .verdict import Report, Verdict

AHEAD = 8  # pieces that are read before they are needed
SLACK = 1 << 20  # what packing may add to a frame that does not compress


class Parts:
    """All parts of a copy. table: the frames, None when there is no frame table to be had: then only whole parts are
    checked. keys: of a sealed image whose frames are to be opened."""

    def __init__(
        self, copy: Any, manifest: Manifest, table: Optional[Iterable[frames.Frame]], verdict: Verdict, report: Report,
        keys: Optional[Mapping[str, FileKey]] = None,
    ):  # fmt: skip
        self.copy, self.manifest, self.verdict, self.report, self.keys = copy, manifest, verdict, report, keys
        self.whole = table is not None  # whether the archive so far is right and more of it may be given out
        self._frames = iter(table or ())
        self._next: Optional[frames.Frame] = None
        self._packer = codec.get(manifest.codec)
        self._length = 0
        self._fault = ""
        self._fault_number = 0

    def archive(self) -> Iterator[bytes]:
        """The archive, frame by frame, as long as it is right; all parts are read when this has ended."""
        if self.whole:
            self._advance()
        for number, record in enumerate(self.manifest.parts):
            yield from self._part(number, record)
        if self.whole and (self._next is not None or self._length != self.manifest.archive_size):
            self._stop("the frame table does not fit the image's parts")
            self.verdict.is_wrong(self._fault)

    def read_on(self) -> None:
        """Nobody wants the archive any more: only parts are checked from here on."""
        self.whole = False

    def _part(self, number: int, record: FileRecord) -> Iterator[bytes]:
        self._fault = ""
        found = hashlib.sha256()
        opener = None
        if self.keys is not None and self.whole:
            opener = Opener(self.keys[record.name], self.manifest.prefix, PART, number)
        waiting, place = bytearray(), 0
        try:
            for piece in ahead(self.copy.pieces(record.name, 0, record.size), found.update):
                self.verdict.bytes += len(piece)
                self.report(len(piece))
                if not self.whole:
                    continue
                waiting += piece
                while self.whole and self._next is not None and self._next.part == number:
                    frame = self._next
                    if frame.stored > frames.MAX_LENGTH + SLACK or frame.place != place:
                        self._stop(f"frame {frame.number} cannot be where the frame table has it")
                    if not self.whole or len(waiting) < frame.stored:
                        break
                    stored = bytes(memoryview(waiting)[: frame.stored])
                    del waiting[: frame.stored]
                    place += frame.stored
                    plain = self._open(frame, stored, opener)
                    if plain is None:
                        break
                    self._length += len(plain)
                    self._advance()
                    yield plain
        except ImageDamaged as error:
            self.whole = False
            self.verdict.damaged(record.name, error.message)
            return
        if found.hexdigest() != record.sha256:
            self.whole = False
            at = f" (frame {self._fault_number})" if self._fault else ""
            self.verdict.damaged(record.name, f"{record.name} is not what was signed{at}")
            return
        self.verdict.is_good(record.name, record.size, record.sha256)
        if self.whole and (waiting or (self._next is not None and self._next.part <= number)):
            self._stop(f"the frames do not cover {record.name}")
        if self._fault:
            self.verdict.is_wrong(self._fault)

    def _open(self, frame: frames.Frame, stored: bytes, opener: Optional[Opener]) -> Optional[bytes]:
        """What a frame holds of the archive; None when it is not right."""
        self._fault_number = frame.number
        try:
            if opener is not None:
                last = bool(frame.flags & frames.LAST)
                stored = opener.frame(frame.number, frame.place, stored, last, frame.digest)
            elif hashlib.sha256(stored).digest() != frame.digest:
                raise ImageDamaged("it is not what the frame table says")
            plain = self._packer.decompress(stored, frame.length)
            if len(plain) != frame.length:
                raise ImageDamaged("it is shorter than the frame table says")
        except ImageDamaged as error:
            self._stop(f"frame {frame.number}: {error.message}")
            return None
        return plain

    def _advance(self) -> None:
        try:
            self._next = next(self._frames, None)
        except ImageDamaged as error:  # the table is what was signed: then this was never right
            self._stop(error.message)
            self.verdict.is_wrong(error.message)

    def _stop(self, why: str) -> None:
        self.whole = False
        self._fault = self._fault or why


def ahead(pieces: Iterator[bytes], each: Callable[[bytes], object]) -> Iterator[bytes]:
    """The pieces, read by a thread that calls each() for every one while the one before is worked on."""
    waiting: "Queue[Any]" = Queue(maxsize=AHEAD)
    over = threading.Event()

    def put(item: Any) -> bool:
        while not over.is_set():
            try:
                waiting.put(item, timeout=0.2)
                return True
            except Full:
                continue
        return False

    def read() -> None:
        try:
            for piece in pieces:
                each(piece)
                if not put(piece):
                    return
            put(None)
        except BaseException as error:  # raised where the pieces are taken
            put(error)
        finally:
            close = getattr(pieces, "close", None)
            if close:
                close()

    thread = threading.Thread(target=read, name="reading", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item = waiting.get(timeout=60)
            except Empty:
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        over.set()
        thread.join()
