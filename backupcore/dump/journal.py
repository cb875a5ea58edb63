"""The journal of a dump that comes in: what had come by the end of each of its frames.

    <dump>.came     beside the dump: a line as each frame is written; its first line is the head, what dump it is

The order of messages is the agent's promise: what stands in the journal up to the line of a frame belongs together, so
every frame is a place to go on, unless the agent said that it is none. Here live its lines, written and read; what they
and the files beside them are worth is resume.py's, who writes them receive.py's.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, NamedTuple, Optional

from ..image import frames, index
from .holding import Landing
from .newfile import Beside, HashedFile
from .syncing import Syncing

FORMAT = 1
LONG = 64 << 10  # a last line of the index that is longer makes no point
MARK_LIMIT = 128 << 10


class Point(NamedTuple):
    """Where the dump may go on: behind this frame. entries, index: lines and bytes of the index that belong to it.
    last: its last line; mark: the agent's, of a file that is half in the archive; place: bytes of the journal."""

    frame: frames.Frame
    entries: int
    index: int
    last: bytes
    mark: Optional[Dict[str, Any]]
    place: int

    @property
    def count(self) -> int:
        """Frames up to here."""
        return self.frame.number + 1

    def asked(self) -> Dict[str, Any]:
        """As REQUEST has it."""
        entry = index.parse(self.last)
        return {
            "frame": self.count, "part": self.frame.part + 1, "offset": self.frame.offset + self.frame.length,
            "path": os.fsdecode(entry.path), "folder": entry.is_dir, "mark": self.mark,
        }  # fmt: skip


class Journal:
    """The journal of a dump that comes in. point: it goes on behind that, and has a head but for the run already."""

    def __init__(self, place: Landing, room: Any, head: Mapping[str, Any], point: Optional[Point] = None):
        self._place = place
        self._mark: Any = False  # False: none came for the frame to come; None: nothing can go on there
        self._last = point.last if point is not None else b""
        self._file: Any = None
        size = point.place if point is not None else 0
        if place.private is not None:
            self._file = Beside(place.came, lambda why: None, size)
        else:
            self._file = HashedFile(place.came, place.disk, room, size=size)
        self._syncing = Syncing(place)
        self._add({"run": head.get("run")} if size else {"format": FORMAT, **head})

    def _add(self, value: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n")

    def mark(self, value: Mapping[str, Any]) -> None:
        """What the agent says of the frame to come."""
        mark = value.get("file")
        self._mark = mark if isinstance(mark, dict) and len(json.dumps(mark)) <= MARK_LIMIT else None

    def last(self, line: bytes) -> None:
        """The last line of the index that came."""
        self._last = line

    def links(self, payload: bytes) -> None:
        """What the agent wants back."""
        self._add({"links": base64.b64encode(payload).decode("ascii")})

    def key(self, name: str, commitment: str, lines: bytes) -> None:
        """The key of a part."""
        self._add({"key": [name, commitment, lines.decode("ascii")]})

    def note(self, text: str, warning: bool) -> None:
        """A note for people."""
        self._add({"note": text, "warning": warning})

    def frame(self, frame: frames.Frame, part: str, entries: int, lines: int, sha256: str) -> None:
        """A frame is written; part, sha256: SHA-256 so far of its part, and of the index, of which `lines` bytes are
        there."""
        value: Dict[str, Any] = {"frame": [*frame[:6], frame.digest.hex(), frame.flags], "part": part,
                                 "entries": entries, "index": [lines, sha256]}  # fmt: skip
        over = frame.flags & frames.LAST  # of the archive: nothing can come behind it
        if self._mark is None or not self._last or len(self._last) > LONG or over:
            value["none"] = True
        else:
            value["last"] = os.fsdecode(self._last)
            if self._mark:
                value["mark"] = self._mark
        self._mark = False
        self._add(value)
        self._syncing.wrote(frame.stored)

    def drop(self) -> None:
        """Nothing is to go on with this dump."""
        if self._file is not None:
            self.close()
            self._file = None
            with contextlib.suppress(OSError):  # as a disk that has failed
                self._place.came.unlink()

    def close(self) -> None:
        """No more comes."""
        if self._file is not None:
            self._file.close()
            self._syncing.close()


def lines(path: Path, limit: Optional[int] = None) -> Iterator[Any]:
    """(value, bytes up to its end) of each whole line, up to limit bytes; a line that was cut ends it."""
    place = 0
    with open(path, "rb") as file:
        for line in file:
            place += len(line)
            if not line.endswith(b"\n") or (limit is not None and place > limit):
                return
            try:
                value = json.loads(line)
            except ValueError:
                return
            if not isinstance(value, dict):
                return
            yield value, place


def frame_of(value: Mapping[str, Any]) -> frames.Frame:
    """The frame that a line of the journal tells of."""
    numbers = value["frame"]
    return frames.Frame(*numbers[:6], bytes.fromhex(numbers[6]), numbers[7])
