"""What becomes of damage: marked, and the holding image made anew from a good copy.

Here live the marks that staging leaves when an origin turned out damaged, and the way of an image from a copy back to
the holding disk. A damaged copy at a target is made anew by copy.py, as any copy. What was damaged is removed only when
what takes its place is verified.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, Tuple

from .. import files
from ..catalog import aside
from ..catalog.records import HOLDING, CopyRow, DumpRow
from ..catalog.store import Catalog
from ..errors import HoldingFull, StowageError
from ..image.folder import check_folder
from ..settings import Settings
from ..text import size
from . import waking
from .origins import OriginDamaged, Rooms, prefix_of
from .wanted import source_of, wanted_of

INCOMING = ".incoming"  # below a holding disk; a sweep clears it, since it is nobody's while the run lock is held


def spoiled(settings: Settings, catalog: Catalog, dump: str, place: str, why: str) -> None:
    """A place was found damaged while it was copied from. Without a good copy left, the dump is damaged."""
    row = catalog.dump(dump)
    copies = {one.target: one for one in catalog.copies(dump=dump)}
    if row is None:
        return
    if place != HOLDING and place in copies and copies[place].state in ("verified", "done"):
        catalog.put_copy(replace(copies[place], state="damaged", error=why, upload={"repair": True}, updated_ns=0))
    good = [name for name, one in copies.items() if one.state == "verified" and name not in (place, HOLDING)]
    if place == HOLDING and row.holding is not None:
        if good and aside.disk_of(settings, row, row.holding) is not None:
            aside.put_aside(settings, catalog, row, why)
        else:
            aside.note_damage(catalog, row, why)  # it stays: what it still has is more than nothing
    held = row.holding is not None and place != HOLDING and HOLDING not in copies
    if not good and not held:
        catalog.mark_damaged(dump)


def lost(catalog: Catalog, sources: Optional[Sequence[Tuple[str, str]]] = None) -> List[DumpRow]:
    """Dumps whose holding image is damaged or gone. sources: only of these (client, source)."""
    named = {one.dump for one in catalog.copies(target=HOLDING) if one.state == "damaged"}
    found = [row for row in (catalog.dump(name) for name in sorted(named)) if row is not None]
    return [row for row in found if sources is None or (row.client, row.source) in sources]


def is_needed(settings: Settings, catalog: Catalog, dump: DumpRow) -> bool:
    """Whether an image of this dump belongs on the holding disk: it is among the newest, or copies of it are wanted."""
    rows = catalog.copies(dump=dump.id)
    states = {row.target: row.state for row in rows}
    wanted = wanted_of(settings, catalog, dump)
    if not wanted or any(states.get(target) != "verified" for target in wanted):
        return True
    source = source_of(settings, dump)
    newer = [
        one for one in catalog.dumps(dump.client, dump.source)
        if one.segment == dump.segment and one.counter > dump.counter and one.holding is not None
    ]  # fmt: skip
    return len(newer) < (source.policy.keep_on_holding if source else 1)


def holding(settings: Settings, catalog: Catalog, dump: DumpRow, origins: Callable[[], List[Any]],
            rooms: Optional[Rooms]) -> Optional[int]:  # fmt: skip
    """Brings the image of a damaged holding copy back; its bytes, None when there was nothing to do.

    Raises StowageError when no origin has it right, waking.Sleeping when one may have, which sleeps in an archive; the
    damaged one stays then.
    """
    rows = {one.target: one for one in catalog.copies(dump=dump.id)}
    row = rows[HOLDING]
    folder = (row.upload or {}).get("folder") or dump.holding
    disk = aside.disk_of(settings, dump, folder)
    verified = any(one.state == "verified" for one in rows.values())
    if disk is None or not verified:
        return None
    if not is_needed(settings, catalog, dump):
        if dump.holding is not None:
            aside.put_aside(settings, catalog, dump, row.error)
        aside.forget(settings, catalog, dump, row)
        return None
    room = rooms.borrow(dump.stored_size, disk) if rooms is not None else None
    if room is None:
        told = f"the holding disk {disk} has no room for {size(dump.stored_size)}"
        raise HoldingFull(told, "make room on it, or raise holding: use")
    try:
        return _anew(settings, catalog, dump, row, disk, origins)
    finally:
        room.close()


def _anew(settings: Settings, catalog: Catalog, dump: DumpRow, row: CopyRow, disk: Path,
          origins: Callable[[], List[Any]]) -> int:  # fmt: skip
    final = disk / prefix_of(dump)
    incoming = disk / INCOMING / "healed" / dump.id
    shutil.rmtree(incoming, ignore_errors=True)
    error: Optional[StowageError] = None
    for origin in origins():
        try:
            count = _fetch(origin, incoming)
            break
        except StowageError as failure:
            shutil.rmtree(incoming, ignore_errors=True)
            if isinstance(failure, OriginDamaged):
                spoiled(settings, catalog, dump.id, failure.origin, failure.message)
            error = waking.worth_more(error, failure, origin)
    else:
        raise error or StowageError(f"no place that has {dump.id} can be reached", "stowage check")
    if dump.holding is not None:
        aside.put_aside(settings, catalog, dump, row.error)
    files.make_folder(final.parent)
    os.rename(incoming, final)
    files.sync_folder(final.parent)
    catalog.set_holding(dump.id, final)
    aside.forget(settings, catalog, dump, row)
    return count


def _fetch(origin: Any, folder: Path) -> int:
    """All files of an origin into folder, each checked as it comes, then the whole once more as a folder."""
    items = origin.items()
    files.make_folder(folder)
    for item in items:
        origin.fetch(item, folder / item.name)
    files.sync_folder(folder)
    check_folder(folder, origin.public_keys)
    return sum(item.size for item in items)
