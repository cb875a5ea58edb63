"""From a finished folder to a row in the catalog: the last steps of a dump, each durable before the next.

    (receive: parts, index, frame table, state: written and synced)
    <dump>.row                      the row as it will be
    SHA256SUMS … manifest.sig       image.folder.finish: from here on the dump is whole
    rename to its final place       the folder above synced
    state and index into <state>    synced; a dump without them can still be restored
    the catalog row

Of a sealed dump, state, row and the index in the clear never lie on the holding disk: they wait in <state>/pending.

Of a dump that went straight to its targets (direct.py) what is not a part goes there between the second and the next
step, and there is no rename: its row says that no holding disk has it, and comes with its copies.

A kill between any two leaves either nothing that counts or a whole dump, whose row sweep.py adds by the same
steps. Here live those after finish.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, List, Optional, Sequence

from .. import files
from ..catalog import places
from ..catalog.records import CopyRow, DumpRow
from ..image import layout
from ..settings import Settings
from .holding import Landing, again, writing

if TYPE_CHECKING:  # loading the database takes a while: whoever has a catalog has loaded it
    from ..catalog.store import Catalog

STATES_KEPT = 2  # of each level of a source: the newest counts, the one before stands in when that is damaged
SPARE = 64 << 20  # bytes that copies of state and index leave free on the state disk


def write_row(landing: Landing, row: DumpRow) -> None:
    """Notes the row beside the incoming folder, for good."""
    with writing(landing.disk):
        files.write_synced(landing.row, json.dumps(row.as_dict()).encode("ascii"))
        # a dump whose parts are at their targets has nothing here but what lies in these folders
        files.sync_up(landing.folder.parent, landing.disk)
        if landing.private is not None:
            files.sync_up(landing.private, landing.private.parents[2])


def read_row(landing: Landing) -> Optional[DumpRow]:
    """The row noted there, None when there is none or it was cut."""
    try:
        value = json.loads(landing.row.read_bytes())
        value["notes"] = tuple(value["notes"])
        return DumpRow(**value)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def accept(
    settings: Settings, catalog: Catalog, landing: Landing, row: DumpRow, made: Optional[Sequence[CopyRow]] = None
) -> DumpRow:  # fmt: skip
    """Puts a whole dump in its place, its state and index beside the catalog, its row into it. Returns the row.

    made: it went straight to its targets: its copies, at least one of them verified; nothing stays on a holding disk.
    May be called again after a kill at any step.
    """
    here = landing.final if made is None else landing.folder
    if made is None:

        def move() -> None:
            _make_synced(landing.final.parent, landing.disk)
            os.rename(landing.folder, landing.final)

        with writing(landing.disk):
            if landing.folder.exists():
                again(move)
                files.sync_folder(landing.final.parent)
    notes = list(row.notes)
    folder = places.state_folder(settings.state, row.client, row.source, row.segment)
    state = folder / (row.id + ".state")
    index = here / layout.index_name(row.codec)
    kept = places.index_folder(settings.state, row.client, row.source, row.segment) / (row.id + _suffix(row.codec))
    if not _keep(settings, landing.state, state, notes, "the next dump will be a full"):
        state = None
    if landing.private is not None:
        index = landing.index
    _keep(settings, index, kept, notes, "find has to fetch it again", link=landing.private is None)
    table = places.frames_copy(settings.state, row.client, row.source, row.id, row.segment)
    _keep(settings, landing.table, table, notes, "the first restore of a file has to read it all")
    holding = os.fspath(landing.final) if made is None else None
    done = replace(row, holding=holding, state=None if state is None else state.name, notes=tuple(notes))
    if made is None:
        catalog.add_dump(done)
        with contextlib.suppress(OSError):  # it is taken; what a failing disk keeps beside it is the next sweep's
            landing.remove_beside()
    else:
        catalog.add_dump(done, made)
        landing.remove()
    _drop_old_states(settings, catalog, done)
    return done


def _suffix(codec: str) -> str:
    return layout.index_name(codec)[len("index") :]


def _make_synced(folder: Path, top: Path) -> None:
    missing = []
    while folder != top and not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)
        files.sync_folder(one.parent)


def _keep(settings: Settings, source: Path, dest: Path, notes: List[str], loss: str, link: bool = False) -> bool:
    """Keeps source at dest on the state disk: linked, moved or copied. False when it is not there then."""
    try:
        if dest.exists():
            return True  # a kill came after this step
        if not source.exists():
            return False
        _make_synced(dest.parent, Path(settings.state))
        files.clear_killed(dest.parent)  # of runs and restores
        try:
            if link:
                os.link(source, dest)
            else:
                os.rename(source, dest)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                raise
            _copy(source, dest)
        files.sync_folder(dest.parent)
        return True
    except OSError as error:
        notes.append(f"{dest.parent} cannot be written: {error.strerror}; {loss}")
        return False


def _copy(source: Path, dest: Path) -> None:
    # a client that sends an endless index or state must not fill the disk of the catalog
    free = os.statvfs(dest.parent)
    if source.stat().st_size > free.f_bavail * free.f_frsize - SPARE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    temporary = Path(files.temporary_of(dest))
    try:
        with open(files.create(temporary), "wb") as target, open(source, "rb") as stream:
            shutil.copyfileobj(stream, target, 1 << 20)
            target.flush()
            os.fsync(target.fileno())
        os.rename(temporary, dest)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _drop_old_states(settings: Settings, catalog: Catalog, row: DumpRow) -> None:
    """Removes the state of dumps that newer ones of the same level have replaced."""
    seen: dict = {}
    for old in reversed(catalog.dumps(row.client, row.source)):
        if old.state is None or old.segment != row.segment:
            continue
        seen[old.level] = seen.get(old.level, 0) + 1
        if seen[old.level] > STATES_KEPT:
            # the file first: a row without it is noticed and mended the next time, a file without a row never
            folder = places.state_folder(settings.state, old.client, old.source, old.segment)
            (folder / old.state).unlink(missing_ok=True)
            catalog.forget_state(old.id)
