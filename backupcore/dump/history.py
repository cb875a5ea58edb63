"""What the levels of tonight are planned by: each source's dumps, and what each is still worth as a base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Dict, Iterable, List, Mapping, Optional, Set, Tuple

from .. import clock
from ..catalog import places
from ..catalog.records import DumpRow
from ..image import layout
from ..schedule.bases import Past
from ..settings import Settings
from . import remake

if TYPE_CHECKING:  # loading the database takes a while: whoever has a catalog has loaded it
    from ..catalog.store import Catalog


Key = Tuple[str, str]
Unit = Tuple[str, ...]  # (client, source) of what is dumped whole, (client, source, segment)


def gather(
    settings: Settings, catalog: Catalog, keys: Optional[Iterable[Key]] = None, since_ns: Optional[int] = None
) -> Dict[Unit, List[Past]]:
    """(client, source), or (client, source, segment) -> its dumps by counter, oldest first.

    keys: of these sources only. since_ns: dumps before it are left out of a source whose newer ones do without: years
    of nights must not make the next one slower.
    """
    copied = catalog.copied()
    wanted = None if keys is None else set(keys)
    rows: Dict[Unit, List[DumpRow]] = {key: [] for key in wanted or ()}
    for row in catalog.dumps(since_ns=since_ns):
        if wanted is None or (row.client, row.source) in wanted:
            rows.setdefault(unit_of(row), []).append(row)
    found = {}
    for key, newer in rows.items():
        known = {row.id for row in newer}
        whole = any(row.level == 0 for row in newer) and all(row.base is None or row.base in known for row in newer)
        of_one = newer
        if not whole and since_ns is not None:
            of_one = [row for row in catalog.dumps(*key[:2]) if unit_of(row) == key]
        by_id = {row.id: row for row in of_one}
        ordered = sorted(of_one, key=lambda row: row.counter)
        found[key] = [_past(settings, row, copied, by_id) for row in ordered]
    return found


def unit_of(row: DumpRow) -> Unit:
    """What the dump is one of."""
    return (row.client, row.source, row.segment) if row.segment else (row.client, row.source)


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
