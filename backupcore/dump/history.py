"""What the levels of tonight are planned by: each source's dumps, and what each is still worth as a base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, Mapping, Set, Tuple

from .. import clock
from ..catalog import places
from ..catalog.records import DumpRow
from ..image import layout
from ..schedule.bases import Past
from ..settings import Settings
from . import remake

if TYPE_CHECKING:  # loading the database takes a while: whoever has a catalog has loaded it
    from ..catalog.store import Catalog


def gather(settings: Settings, catalog: Catalog) -> Dict[Tuple[str, str], List[Past]]:
    """(client, source) -> its dumps by counter, oldest first."""
    # done: a rebuild found all of its files, signed and in their sizes
    copied = {copy.dump for copy in catalog.copies() if copy.state in ("verified", "done")}
    rows: Dict[Tuple[str, str], List[DumpRow]] = {}
    by_id = {row.id: row for row in catalog.dumps()}
    for row in by_id.values():
        rows.setdefault((row.client, row.source), []).append(row)
    return {
        key: [_past(settings, row, copied, by_id) for row in sorted(of_one, key=lambda row: row.counter)]
        for key, of_one in rows.items()
    }


def _past(settings: Settings, row: DumpRow, copied: Set[str], by_id: Mapping[str, DumpRow]) -> Past:
    held = row.holding is not None and (Path(row.holding) / layout.MANIFEST).is_file()
    return Past(
        row.id,
        row.level,
        row.base,
        row.begun_ns,
        damaged=row.damaged,
        restorable=held or row.id in copied,
        has_state=state_path(settings, row) is not None or remake.indexes(settings, row, by_id) is not None,
        run=row.run,
        archive=row.archive_size,
        stored=row.stored_size,
        entries=row.entries,
        seconds=max(0, row.ended_ns - row.begun_ns) / clock.NS,
    )


def state_path(settings: Settings, row: DumpRow) -> Path | None:
    """The file of a dump's state blocks, None when there is none."""
    if row.state is None or row.state != f"{row.id}.state":
        return None
    path = places.state_folder(settings.state, row.client, row.source, row.segment) / row.state
    return path if path.is_file() else None
