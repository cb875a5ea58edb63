"""What killed direct dumps left, at targets and here: taken up when all was proven and signed, else taken away.

Only while the run lock is held. What lies on holding disks without a note is sweep.py's.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Collection, List, Mapping

from ..catalog import places
from ..catalog.records import CopyRow
from ..catalog.rows import row_of
from ..errors import ImageDamaged, StowageError
from ..hookspecs import TargetError
from ..image import layout
from ..image.folder import check_folder
from ..image.manifest import digest
from ..settings import Settings
from . import direct
from .accept import accept, read_row
from .holding import Landing, landing

if TYPE_CHECKING:
    from ..catalog.store import Catalog


def take_up(
    settings: Settings, catalog: Catalog, targets: direct.Targets, keys: Mapping[str, bytes], server: str, swept: Any,
    spared: Collection[str] = (),
) -> None:  # fmt: skip
    """Every direct dump that was under way gets its row, or leaves nothing behind; not so spared, which a later attempt
    goes on with. What is done stands in swept."""
    for note in direct.notes(settings.state):
        if note.dump in spared:
            continue
        private = places.pending_folder(settings.state) if note.private else None
        place = landing(Path(note.disk), note.client, note.source, note.dump, note.segment, private)
        gone = [name for name in note.sent if name not in settings.targets]
        note.sent = [name for name in note.sent if name in settings.targets]
        if gone:
            swept.problems.append(f"{', '.join(gone)} left the configuration and may have parts of {note.prefix}")
        if catalog.dump(note.dump) is not None:  # the row is the last step
            place.remove()
            note.remove(settings.state)
            continue
        try:
            if not note.leave and note.there and _adopted(settings, catalog, targets, keys, server, note, place):
                note.remove(settings.state)
                swept.adopted.append(note.dump)
                continue
        except ImageDamaged:
            pass  # killed while it was signed
        if not note.leave:
            swept.removed.append(f"{note.prefix} on {', '.join(note.sent)}")
        _forget(settings, note)
        place.remove()
        swept.problems.extend(direct.clean(note, settings.state, targets.open))


def _forget(settings: Settings, note: Any) -> None:
    """Removes its state and index, where they were kept already and its row did not come."""
    which = (settings.state, note.client, note.source)
    index = places.find_index(*which, note.dump, note.segment)
    state = places.state_folder(*which, note.segment) / (note.dump + ".state")
    for path in (state, places.frames_copy(*which, note.dump, note.segment), *([index] if index else [])):
        path.unlink(missing_ok=True)


def _adopted(
    settings: Settings, catalog: Catalog, targets: direct.Targets, keys: Mapping[str, bytes], server: str,
    note: direct.Note, place: Landing,
) -> bool:  # fmt: skip
    """Brings what is missing to where all parts are; whether that made a copy. Raises ImageDamaged."""
    if note.cut or not (place.folder / layout.MANIFEST).exists():
        return False
    manifest = check_folder(place.folder, keys, parts=False)
    if manifest.prefix != note.prefix or manifest.server != server:
        return False
    sha256 = digest((place.folder / layout.MANIFEST).read_bytes())
    row = read_row(place)
    if row is not None and (row.id, row.counter) == (manifest.dump, manifest.counter):
        row = replace(row, manifest_sha256=sha256)
    else:
        row = row_of(manifest, sha256, ("found on its way to its targets, without a row in the catalog",))
    made: List[CopyRow] = []
    for name in note.sent:
        if name not in note.there:
            continue  # it dropped out; the next staging makes its copy, and finds what it has of it
        try:
            made.append(targets.bring(row, place.folder, name, note.there[name]))
        except (StowageError, TargetError) as error:
            made.append(CopyRow(row.id, name, "failed", {"files": note.there[name]}, error=error.message))
    if not any(one.state == "verified" for one in made):
        return False
    accept(settings, catalog, place, row, made)
    return True
