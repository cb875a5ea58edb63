"""Direct dumps whose line was cut, and what lies at their targets until the next attempt goes on with it.

    <state>/direct/<dump>.json                               its note, with the parts that targets have whole and proven
    <state>/direct/.incoming/<client>/<source>/<dump>.cut/   index; its journal beside it, as of other cut dumps

What was sent when the line was cut was ended at the last whole frame, and is a part like any other. Nothing can be cut
off there, so a dump goes on behind the last part, or begins anew. Here live such dumps: kept, found, gone on with,
taken away. The lanes to targets are direct.py's, which attempt fits going_on.py's, journal and files resume.py's.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Set, Tuple

from ..catalog import places
from ..errors import StowageError
from ..image import layout
from ..settings import Settings
from . import journal, resume
from .direct import Direct, Note, StateRoom, Targets, clean, notes
from .holding import Landing, landing


def keep(place: Landing, direct: Direct) -> bool:
    """Ends at the targets what came, and sets it aside; False when nothing can go on there. Raises StowageError,
    OSError."""
    if direct.spilt or direct.came or not place.came.exists():
        return False
    direct.check()
    last: Optional[Dict[str, Any]] = None
    for value, _place in journal.lines(place.came):
        last = value if "frame" in value else last
    end = None
    if last is not None and "none" not in last:
        frame = journal.frame_of(last)
        end = (frame.place + frame.stored, str(last["part"]))
    note = direct.cut(end)
    if _read(note, place) is None:
        return False
    resume.set_aside(place)
    direct.kept = True
    return True


def left(settings: Settings, client: str, source: str, segment: str) -> List[resume.Came]:
    """The cut dumps of a source that go straight to their targets."""
    mine = [one for one in notes(settings.state) if (one.client, one.source, one.segment) == (client, source, segment)]
    found = [_found(settings, note) for note in mine]
    return [came for came in found if came is not None]


def check(came: resume.Came) -> Optional[resume.Came]:
    """As resume.check(): None when the index is not to the byte what the journal says."""
    point, hashed = came.points[0], hashlib.sha256()
    lines = came.place.index
    if came.place.private is None:
        lines = came.place.cut / layout.index_name(came.head["codec"])
    try:
        told = [value["index"] for value in came.values(point) if "frame" in value][-1]
        for piece in resume.pieces(lines, point.index):
            hashed.update(piece)
    except (OSError, LookupError, TypeError, ValueError):
        return None
    return came if told == [point.index, hashed.hexdigest()] else None


def go_on(came: resume.Came, direct: Optional[Direct], settings: Settings) -> StateRoom:
    """Opens the same targets under the same name. Raises resume.Anew when none has all that came, TargetRefused,
    TargetDown when none can be used now."""
    if direct is None:
        raise resume.Anew("it went straight to its targets, and may not any more")
    room = StateRoom(settings)
    if not direct.again(came.note, next(iter(came.note.there.values()))):
        raise resume.Anew("no target has all that came")
    return room


def drop(settings: Settings, note: Note, targets: Optional[Targets]) -> List[str]:
    """Takes away what targets have of a dump that nothing goes on with; what stands against it."""
    note.leave = True
    with contextlib.suppress(StowageError):  # clean() tries again
        note.save(settings.state)
    return clean(note, settings.state, targets.open) if targets is not None else []


def spared(settings: Settings, known: Callable[[], Mapping[str, Any]]) -> Dict[str, Landing]:
    """Names and places of those that a coming night goes on with. known(): the catalog's dumps by name."""
    found = {}
    for note in notes(settings.state):
        came = _found(settings, note)
        if came is not None and note.dump not in known() and resume.is_kept(came, settings, known()):
            found[note.dump] = came.place
    return found


def clear(settings: Settings, known: Callable[[], Mapping[str, Any]], targets: Optional[Targets]) -> None:
    """Removes what no later night goes on with, whatever way it went. Call at the end of a run."""
    resume.clear(settings, known)
    waits = [note for note in notes(settings.state) if note.cut and not note.leave]
    kept = spared(settings, known) if waits else {}
    for note in waits:
        if note.dump not in kept:
            with contextlib.suppress(OSError):  # a disk that went away: the next sweep does it
                _place(settings, note).remove()
                drop(settings, note, targets)


def _place(settings: Settings, note: Note) -> Landing:
    private = places.pending_folder(settings.state) if note.private else None
    return landing(Path(note.disk), note.client, note.source, note.dump, note.segment, private)


def _found(settings: Settings, note: Note) -> Optional[resume.Came]:
    if not note.cut or note.leave or Path(note.disk) != places.direct_folder(settings.state):
        return None
    place = _place(settings, note)
    return _read(note, place) if place.cut.is_dir() else None


def _read(note: Note, place: Landing) -> Optional[resume.Came]:
    """What came, up to the end of the last part that targets have; None when nothing can go on there."""
    sets = list(note.there.values())
    if not sets or not sets[0] or any(one != sets[0] for one in sets):
        return None
    try:
        ends: Set[Tuple[int, str]] = {(len(sets[0]) - 1, proof) for proof in sets[0].values()}
        count = limit = 0
        for value, _place in journal.lines(place.came):
            if "frame" in value:
                count += 1
                frame = journal.frame_of(value)
                if (frame.part, f"{frame.place + frame.stored} {value['part']}") in ends:
                    limit = count
        came = resume.read(place, limit) if limit else None
        if came is None or came.points[0].count != limit:
            return None
        point, suffix = came.points[0], layout.SEALED if place.private is not None else ""
        parts = {
            layout.part_name(number, came.head["codec"]) + suffix: f"{one.size} {one.sha256}"
            for number, one in came.parts(point).items()
        }  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    if parts != sets[0]:
        return None
    came.points, came.note = [point], note
    return came
