"""What came of a dump whose line was cut, so that the next attempt goes on behind it.

    <dump>.came     its journal, see journal.py
    <dump>.cut/     in place of the folder <dump>/ once the line was cut and all is synced; its bytes count as used

Here live cut dumps as they lie on a disk: found, checked where a killed server left them, set aside, removed. Which of
them an attempt goes on with is going_on.py's, the files are written by receive.py.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional

from .. import clock, files, ids
from ..catalog import places
from ..errors import ImageDamaged
from ..image import index, layout
from ..image.lines import whole_lines
from ..image.manifest import FileRecord
from ..settings import Settings
from . import journal
from .holding import CUT, INCOMING, Landing, writing
from .journal import Point

NEXT_NIGHT = 36 * 3600.0  # seconds after the cut for which `resume: next` keeps it
POINTS = 8  # that the agent may choose from
STEP = 1 << 20


class Anew(Exception):
    """The agent cannot go on with what came: the dump begins again. reason: for people."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class Counts(NamedTuple):
    """What an index holds."""

    entries: int = 0
    files: int = 0
    bytes: int = 0
    suspects: int = 0


def pieces(path: Path, size: int) -> Iterator[bytes]:
    """The first size bytes of a file. Raises OSError."""
    with open(path, "rb") as file:
        while size > 0:
            data = file.read(min(size, STEP))
            if not data:
                return
            size -= len(data)
            yield data


def counts(path: Path, size: int, codec: Any) -> Counts:
    """What the first size bytes of an index hold. Raises ImageDamaged, OSError."""
    entries = files_ = bytes_ = suspects = 0
    for line in whole_lines(codec.unpack(pieces(path, size))):
        fields = line.split(b"\t")
        entries += 1
        suspects += b"s" in fields[-1]
        try:
            if fields[1] == b"f":
                files_ += 1
                bytes_ += int(fields[5])
        except (IndexError, ValueError):  # it comes from the client as it is
            raise ImageDamaged("a line of the index cannot be read: %r" % line[:200]) from None
    return Counts(entries, files_, bytes_, suspects)


# what is left


@dataclass
class Came:
    """A dump whose line was cut. head: what it was, as Journal was told. points: the newest first, of each file one,
    since a file may have changed; then the newest that lies in none. size: bytes on its disk. since: seconds."""

    place: Landing
    head: Dict[str, Any]
    points: List[Point]
    size: int
    since: float
    note: Any = None  # of one that goes straight to its targets, see straight.py

    def asked(self) -> Dict[str, Any]:
        """As REQUEST has it."""
        return {"identity": self.head["identity"], "points": [one.asked() for one in self.points]}

    def values(self, point: Point) -> Iterator[Dict[str, Any]]:
        """The lines of the journal up to a point."""
        for value, _place in journal.lines(self.place.came, point.place):
            yield value

    def links(self) -> Iterator[bytes]:
        """What the agent wants back."""
        if self.points:
            for value in self.values(self.points[0]):
                if "links" in value:
                    yield base64.b64decode(value["links"])

    def parts(self, point: Point) -> Dict[int, FileRecord]:
        """Number -> the parts up to a point, without the endings of their names."""
        found: Dict[int, FileRecord] = {}
        for value in self.values(point):
            if "frame" in value:
                one = journal.frame_of(value)
                found[one.part] = FileRecord("", one.place + one.stored, value["part"])
        return found

    def take_up(self) -> None:
        """It comes in again."""
        if self.place.cut.is_dir():
            with writing(self.place.disk):
                os.rename(self.place.cut, self.place.folder)

    def remove(self) -> None:
        """Removes all of it."""
        self.place.remove()


def read(place: Landing, frames_limit: Optional[int] = None) -> Optional[Came]:
    """What lies at place, in `<dump>.cut` or left by a kill; None when nothing can go on there."""
    folder = place.cut if place.cut.is_dir() else place.folder
    head: Dict[str, Any] = {}
    inside: Dict[Any, Point] = {}  # of the last files that a frame ended in
    clean: Optional[Point] = None
    count = 0
    try:
        for value, at in journal.lines(place.came):
            if not head:
                if value.get("format") != journal.FORMAT:
                    return None
                head = value
            elif "run" in value:
                head["run"] = value["run"]  # what came before was checked by it
            elif "frame" in value:
                if frames_limit is not None and count >= frames_limit:
                    break
                count += 1
                if "none" in value:
                    continue
                last = os.fsencode(value["last"])
                index.parse(last)  # a hostile agent spoils its own dump only
                found = Point(journal.frame_of(value), value["entries"], value["index"][0], last, value.get("mark"), at)
                if found.mark is None:
                    clean = found
                    inside.clear()
                else:
                    path = found.mark.get("path")
                    inside.pop(path, None)
                    inside[path] = found
                    if len(inside) >= POINTS:
                        del inside[next(iter(inside))]
        chosen = [*reversed(inside.values()), *([clean] if clean is not None else [])]
        if not chosen or not folder.is_dir():
            return None
        size = sum(path.stat().st_size for path in folder.iterdir()) + place.came.stat().st_size
        since = time.time() - place.came.stat().st_mtime
        return Came(place, head, chosen, size, since)
    except (OSError, ValueError, KeyError, TypeError, IndexError, ImageDamaged):
        return None


def check(came: Came) -> Optional[Came]:
    """As much of a cut dump as is on its disk to the byte: what a killed server, or a power cut, left. None when
    nothing is."""
    folder = came.place.cut if came.place.cut.is_dir() else came.place.folder
    codec, suffix = came.head["codec"], layout.SEALED if came.place.private is not None else ""
    lines = came.place.index if came.place.private is not None else folder / layout.index_name(codec)
    good = 0
    try:
        with open(lines, "rb") as text:
            hashed, length = hashlib.sha256(), 0
            part = file = None
            try:
                for value, _place in journal.lines(came.place.came):
                    if "frame" not in value:
                        continue
                    frame = journal.frame_of(value)
                    if frame.part != part:
                        if file is not None:
                            file.close()
                        part, whole = frame.part, hashlib.sha256()
                        file = open(folder / (layout.part_name(part, codec) + suffix), "rb")  # noqa: SIM115
                    if not _take(file, whole, frame.stored) or whole.hexdigest() != value["part"]:
                        break
                    if not _take(text, hashed, value["index"][0] - length) or hashed.hexdigest() != value["index"][1]:
                        break
                    length = value["index"][0]
                    good += 1
            finally:
                if file is not None:
                    file.close()
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return read(came.place, good) if good else None


def _take(file: Any, hashed: Any, count: int) -> bool:
    while count > 0:
        data = file.read(min(count, STEP))
        if not data:
            return False
        hashed.update(data)
        count -= len(data)
    return count == 0


def keep(place: Landing) -> bool:
    """Syncs what came and sets it aside as `<dump>.cut`; False when nothing can go on there."""
    found = read(place)
    if found is not None and not place.cut.is_dir():
        set_aside(place)
    return found is not None


def set_aside(place: Landing) -> None:
    """Syncs what came and makes it `<dump>.cut`. Raises StowageError, OSError."""
    for path in (place.state, place.table, place.row):
        path.unlink(missing_ok=True)
    with writing(place.disk):
        for path in [*place.folder.iterdir(), place.came, *([place.index] if place.index.exists() else [])]:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        files.sync_folder(place.folder)
        if place.private is not None:
            files.sync_folder(place.private)
        os.rename(place.folder, place.cut)
        files.sync_folder(place.cut.parent)


def left(settings: Settings, client: str, source: str, segment: str) -> List[Came]:
    """The cut dumps of a source, the newest first."""
    found = []
    for disk in settings.holding:
        below = disk.path / INCOMING / client / places.source_folder(source, segment)
        with contextlib.suppress(OSError):  # of a disk that failed nothing is known
            for path in sorted(below.glob("*" + CUT)):
                place = _place(settings, disk.path, path)
                came = read(place) if place is not None else None
                if came is not None:
                    found.append(came)
    return sorted(found, key=lambda one: one.place.folder.name, reverse=True)


def is_for(came: Came, head: Mapping[str, Any], run: str, rule: str) -> bool:
    """Whether an attempt may go on with it: it is the same dump, and the policy's `resume` allows it in this run."""
    same = all(came.head.get(name) == value for name, value in head.items())
    if not same or rule == "never":
        return False
    return came.head.get("run") == run or (rule == "next" and came.since < NEXT_NIGHT)


def is_kept(came: Came, settings: Settings, known: Mapping[str, Any]) -> bool:
    """Whether a sweep leaves it for the next night: the source's policy says so, and its base is still there."""
    head = came.head
    source = settings.source(str(head.get("client")), str(head.get("source")))
    if source is None or source.policy.resume != "next" or came.since >= NEXT_NIGHT:
        return False
    base = head.get("base")
    return base is None or (base in known and not known[base].damaged)


def clear(settings: Settings, known: Callable[[], Mapping[str, Any]]) -> None:
    """Removes what no later night goes on with. Call at the end of a run. known(): the catalog's dumps by name."""
    rows: Optional[Mapping[str, Any]] = None
    for disk in settings.holding:
        with contextlib.suppress(OSError):  # a disk that went away: the next sweep does it
            for path in list((disk.path / INCOMING).glob("*/*/*" + CUT)):
                place = _place(settings, disk.path, path)
                came = read(place) if place is not None else None
                rows = known() if rows is None else rows
                if place is not None and (came is None or not is_kept(came, settings, rows)):
                    place.remove()


def _place(settings: Settings, disk: Path, cut: Path) -> Optional[Landing]:
    """Where a cut dump lies; None when nothing here made that."""
    name = cut.name[: -len(CUT)]
    if ids.parse_dump_name(name) is None:
        return None
    below = cut.parent.relative_to(disk / INCOMING)
    place = Landing(disk, cut.with_name(name), disk / below / name)
    private = replace(place, private=places.pending_folder(settings.state) / below)
    return private if private.came.exists() else place


def noted(came: Came) -> str:
    """For people: that, and how much, had come before."""
    return f"the line was cut: went on behind what had come since {clock.iso(came.head['begun_ns'])}"
