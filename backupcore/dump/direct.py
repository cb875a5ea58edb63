"""Dumps that go straight to targets: no holding disk takes their parts, or only until it is full.

    <state>/direct/<dump>.json                          which targets were sent something, noted before the first byte
    <state>/direct/.incoming/<client>/<source>/<dump>/  index, frame table, keys, sums, manifest of a dump that never
                                                        was on a holding disk (of one that outgrew its disk: there)

Parts go to all targets at once, each a lane of its own; the slowest sets the pace, one that fails drops out. Only when
all parts are proven at one target at least is the manifest signed; then the small files follow, manifest.json last, and
the row comes with its verified copies in one step. Here live the dump's ways and the choice of what still counts; one
part is part.py, one target lanes.py, which targets there are is app/direct.py's, what a killed run left
direct_left.py's, how a dump whose line was cut waits for the next attempt straight.py's.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Protocol, Sequence, Tuple

from .. import files
from ..catalog import places
from ..catalog.records import CopyRow, DumpRow
from ..errors import HoldingFull, StowageError, TargetDown, TargetRefused
from ..hookspecs import TargetError
from ..image.manifest import FileRecord
from ..settings import HoldingDisk, Settings
from .accept import SPARE
from .lanes import Lane, Place
from .newfile import HashedFile
from .part import Part

STEP = 16 << 20  # bytes after which the room on the state disk is looked at again


class Targets(Protocol):
    """What app/ hands in: the targets of the configuration."""

    def of(self, row: DumpRow) -> Tuple[List[Place], List[str], bool]:
        """The targets that want this dump and take streams now; why others do not; whether any of these may later."""
        ...

    def open(self, name: str, pruning: bool = False) -> Any:
        """The open target; pruning: with the credential that may delete. Raises StowageError, TargetError."""
        ...

    def bring(self, row: DumpRow, folder: Path, target: str, there: Mapping[str, str]) -> CopyRow:
        """Brings what is in folder to where the parts are, manifest.json last: the row of the verified copy. there:
        Lane.files. May be called again. Raises StowageError, TargetError."""
        ...


@dataclass
class Note:
    """What is known of a direct dump if its process is killed. disk: below which its folder is. sent: targets that may
    have something of it. there: target -> its parts, once all are proven. leave: only to be taken away."""

    dump: str
    client: str
    source: str
    segment: str
    prefix: str
    disk: str
    private: bool
    sent: List[str] = field(default_factory=list)
    there: Dict[str, Dict[str, str]] = field(default_factory=dict)
    leave: bool = False
    cut: bool = False

    def save(self, state: Path) -> None:
        """For good, before what it says is done."""
        folder = places.direct_folder(state)
        try:
            if not folder.is_dir():
                files.make_folder(folder)
                files.sync_folder(folder.parent)
            files.replace(folder / f"{self.dump}.json", json.dumps(self.__dict__).encode())
        except OSError as error:
            raise StowageError(f"{folder} cannot be written: {error.strerror}") from None

    def remove(self, state: Path) -> None:
        """Nothing of the dump is where it does not belong."""
        (places.direct_folder(state) / f"{self.dump}.json").unlink(missing_ok=True)


class StateRoom:
    """As a Room, for the small files of a dump that has no holding disk: the disk of the catalog is not filled."""

    def __init__(self, settings: Settings):
        self.disk = HoldingDisk(places.direct_folder(settings.state), 0)
        self.written = 0
        self._sure = 0
        files.make_folder(self.disk.path)

    def take(self, count: int) -> None:
        """count bytes more will be written. Raises HoldingFull."""
        self.written += count
        if self.written > self._sure:
            found = os.statvfs(self.disk.path)
            if found.f_bavail * found.f_frsize < count + STEP + SPARE:
                raise HoldingFull(f"no room in {self.disk.path}: {os.strerror(errno.ENOSPC)}", "make room there")
            self._sure = self.written + STEP

    def close(self) -> None:
        """As Room's."""


class Direct:
    """The parts of one dump. ready: it goes to its targets from the beginning; else when the holding disk is full."""

    def __init__(self, targets: Targets, settings: Settings, row: DumpRow, prefix: str, private: bool):
        self._targets, self._settings, self._row, self._private, self.prefix = targets, settings, row, private, prefix
        self.lanes: List[Lane] = []
        self.problems: List[str] = []  # targets that could not take part, and why
        self._later = False  # whether one of them may, a little later
        self.ready = self.whole = False
        self.spilt = False  # some of it was on a holding disk
        self.frames = False  # targets get whole frames only: the dump may go on behind any
        self.kept = False  # what came waits for another attempt
        self.came = False  # all of it is sent
        self.check: Callable[[], None] = lambda: None  # called while something is waited for; may raise
        self.hold: Callable[[bool], None] = lambda on: None  # told when the agent is held up, and when no longer
        self._note: Optional[Note] = None
        self._late: List[str] = []  # targets that have some of it since before a cut, and get no more of it now
        self._folder = self._room = None
        self._on_disk: List[FileRecord] = []
        self._part: Optional[Part] = None

    def begin(self, disk: Path) -> None:
        """Opens the lanes. disk: where the other files are. Raises TargetRefused when no target takes part, TargetDown
        when one may later."""
        found, row = self._places(), self._row
        note = Note(row.id, row.client, row.source, row.segment, self.prefix, os.fspath(disk), self._private,
                    [place.name for place in found])  # fmt: skip
        note.save(self._settings.state)
        self._note = note
        self.lanes = [Lane(place, self.prefix) for place in found]
        self.ready = True

    def _places(self) -> List[Place]:
        found, self.problems, self._later = self._targets.of(self._row)
        if not found:
            raise self._none(self.problems or ["no copy rule wants it on a target that takes streams"])
        return found

    def _none(self, why: Sequence[str]) -> StowageError:
        told = f"{self._row.client}:{self._row.source} cannot go straight to a target: {'; '.join(why)}"
        return (TargetDown if self._later else TargetRefused)(told, "stowage check")

    def again(self, note: Note, parts: Mapping[str, str]) -> bool:
        """Opens the lanes to those targets that still have all these parts; the others get their copy later. Whether
        there is one. Raises TargetRefused, TargetDown as begin()."""
        have: List[Place] = []
        down = False
        for place in self._places():
            try:
                lacks = note.there.get(place.name) != parts or not _has(place, self.prefix, parts)
            except Exception as error:  # a third party's driver may raise anything
                down = down or getattr(error, "retry", False)
                self.problems.append(f"target {place.name}: {error}")
                continue
            if lacks:
                self.problems.append(f"target {place.name} has not all that came before the line was cut")
            else:
                have.append(place)
        if not have:
            self._later = self._later or down
            if down:
                raise self._none(self.problems)
            return False
        self._note = note
        self._late = [name for name in note.sent if name not in {place.name for place in have}]
        self.lanes = [Lane(place, self.prefix) for place in have]
        for lane in self.lanes:
            lane.files.update(parts)
        self.ready = True
        return True

    # parts

    def lands(self, folder: Path, room: Any) -> None:
        """Until the disk is full parts lie in folder, and take room."""
        self._folder, self._room = folder, room

    def part(self, name: str, make: Callable[[], HashedFile]) -> Part:
        """The next part. make(): its file on the holding disk, where it still goes there."""
        self._part = Part(self, name, None if self.ready else make())
        if self.ready:
            self._tell(lambda lane: lane.begin(name))
        return self._part

    def has(self, records: Sequence[FileRecord]) -> None:
        """Parts that lie on the holding disk since before the line was cut."""
        self._on_disk = list(records)

    def finished(self, record: FileRecord, on_disk: bool) -> None:
        """A part is whole."""
        self._part = None
        if on_disk:
            self._on_disk.append(record)
        else:
            self._tell(lambda lane: lane.finish(record))

    def send(self, data: bytes) -> None:
        """The next bytes of the open part, to every target. Raises TargetRefused when there is none any more."""
        lanes = self._alive()
        if all(lane.has_room(len(data)) for lane in lanes):
            for lane in lanes:
                lane.write(data, self.check)
            return
        self.hold(True)
        try:
            for lane in lanes:
                lane.write(data, self.check)
        finally:
            self.hold(False)

    def spill(self, full: HoldingFull) -> None:
        """The holding disk is full: what lies there goes to the targets, and all that follows. Returns once that is
        through and the disk has its room back. Raises full when there is no target to go to."""
        if self.ready or self._room is None:
            raise full
        try:
            self.begin(self._room.disk.path)
        except TargetRefused as error:
            full.message, full.again = f"{full.message}; {error.message}", error.again
            raise full from None
        self.spilt = True
        part, moved = self._part, 0
        for record in self._on_disk:
            path = self._folder / record.name
            self._tell(lambda lane, path=path, record=record: (
                lane.begin(record.name), lane.feed(path, record.size), lane.finish(record)
            ))  # fmt: skip
            moved += record.size
        if part is not None:
            path, size = self._folder / part.name, part.size
            self._tell(lambda lane: (lane.begin(part.name), lane.feed(path, size)))
            moved += size
            part.leave_disk()
        self.hold(True)
        try:
            for lane in self.lanes:
                lane.settle(self.check)
        finally:
            self.hold(False)
        self._alive()
        for name in [record.name for record in self._on_disk] + ([part.name] if part is not None else []):
            (self._folder / name).unlink(missing_ok=True)
        # what is reserved beyond that is the next dump's
        self._room.written -= moved
        self._room.reserved = min(self._room.reserved, self._room.written + STEP)

    def settle(self) -> None:
        """All parts are sent: waits until they are proven. Raises TargetRefused when no target has them all."""
        self.came = True
        for lane in self.lanes:
            lane.settle(self.check)
        self._proven(False)

    def _proven(self, cut: bool) -> None:
        self._note.there, self._note.cut = {lane.name: dict(lane.files) for lane in self._alive()}, cut
        self._note.save(self._settings.state)

    def cut(self, end: Optional[Tuple[int, str]]) -> Note:
        """The line was cut: what was sent of the open part is a part, where end (its bytes, and their SHA-256) is what
        the journal says of it; else it is none. Waits until all is proven. Raises StowageError."""
        part, self._part = self._part, None
        if part is not None and not part.torn and (part.size, part.digest().hex()) == end:
            part.finish()
        for lane in self.lanes:
            lane.settle(self.check)
        self._proven(True)
        return self._note

    def _tell(self, what: Callable[[Lane], Any]) -> None:
        for lane in self._alive():
            what(lane)

    def _alive(self) -> List[Lane]:
        found = [lane for lane in self.lanes if lane.error is None]
        if not found:
            errors = [lane.error for lane in self.lanes]
            hint = next((error.hint for error in errors if error.hint), "stowage check")
            later = self._later or any(error.again for error in errors)
            kind = TargetDown if later else TargetRefused
            raise kind("; ".join(dict.fromkeys(error.message for error in errors)), hint)
        return found

    # once the manifest is signed

    def bring(self, row: DumpRow, folder: Path) -> List[CopyRow]:
        """The rows of the copies: verified, and of those that dropped out what the next staging can use. Raises when
        none is verified."""
        for lane in self._alive():
            try:
                verified = self._targets.bring(row, folder, lane.name, lane.files)
            except TargetError as error:
                lane.error = TargetRefused.of(lane.name, error)
            except StowageError as error:
                lane.error = error
            else:
                lane.verified = verified
                self.whole = True
        self._alive()
        return [
            lane.verified if lane.error is None
            else CopyRow(row.id, lane.name, "failed", {"files": dict(lane.files)}, error=lane.error.message)
            for lane in self.lanes
        ] + [
            CopyRow(row.id, name, "failed", {"files": {}}, error="it has not all that came before the line was cut")
            for name in self._late if name in self._settings.targets
        ]  # fmt: skip

    def told(self) -> List[str]:
        """What a person should know: targets that dropped out, or did not take part."""
        late = [f"{lane.error.message}; its copy is made later" for lane in self.lanes if lane.error is not None]
        return late + [f"{why}; its copy is made later" for why in self.problems]

    def over(self) -> None:
        """The dump stands in the catalog."""
        if self._note is not None:
            self._note.remove(self._settings.state)

    def close(self) -> None:
        """Ends the lanes. Nothing half is left of what was not whole: files that cannot be removed now stay noted."""
        for lane in self.lanes:
            lane.leave()
        for lane in self.lanes:
            lane.stop()

    def abandon(self) -> bool:
        """The dump came to nothing. Whether parts of it stay at targets until a sweep can take them away."""
        self.close()
        if self._note is None or self.whole or self.kept:
            return False
        return bool(clean(self._note, self._settings.state, self._targets.open))


def _has(place: Place, prefix: str, parts: Mapping[str, str]) -> bool:
    """Whether a target has these parts, by their sizes: what it was given was proven then."""
    for name, proof in parts.items():
        found = place.target.stat(f"{prefix}/{name}")
        if found is None or found.size != int(proof.partition(" ")[0]):
            return False
    return True


def clean(note: Note, state: Path, open_target: Callable[..., Any]) -> List[str]:
    """Takes away what a dump that came to nothing sent, its manifest first; what stands against it. The note stays as
    long as there is something. open_target: as Targets.open."""
    problems: List[str] = []
    left: List[str] = []
    for name in note.sent:
        try:
            target = open_target(name)
            target.clean(0)  # what this dump streamed when it was killed; nothing else is that young and nobody's
            found = sorted(target.list(note.prefix + "/"), key=lambda one: not one.name.endswith("/manifest.json"))
            for one in found:
                try:
                    target.delete(one.name)
                except TargetError:  # the night's credential may not
                    target = open_target(name, True)
                    target.delete(one.name)
        except (TargetError, StowageError) as error:
            left.append(name)
            problems.append(f"target {name} keeps parts of {note.prefix}, which came to nothing: {error.message}")
        except Exception as error:  # a third party's driver may raise anything
            left.append(name)
            problems.append(f"target {name} keeps parts of {note.prefix}: {type(error).__name__}: {error}")
    if left:
        note.sent, note.leave = left, True
        with contextlib.suppress(StowageError):
            note.save(state)
    else:
        note.remove(state)
    return problems


def notes(state: Path) -> Sequence[Note]:
    """The notes of all direct dumps that are not over."""
    found = []
    for path in sorted(places.direct_folder(state).glob("*.json")):
        try:
            value = json.loads(path.read_bytes())
            found.append(Note(**value))
        except (OSError, ValueError, TypeError):
            continue
    return found
