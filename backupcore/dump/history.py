"""What the levels of tonight are planned by: each source's dumps, and what each is still worth as a base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, Set, Tuple

from ..catalog import places
from ..catalog.records import DumpRow
from ..image import layout
from ..schedule.plain import Past
from ..settings import Settings

if TYPE_CHECKING:  # loading the database takes a while: whoever has a catalog has loaded it
    from ..catalog.store import Catalog


def gather(settings: Settings, catalog: Catalog) -> Dict[Tuple[str, str], List[Past]]:
    """(client, source) -> its dumps by counter, oldest first."""
    verified = {copy.dump for copy in catalog.copies() if copy.state == "verified"}
    rows: Dict[Tuple[str, str], List[DumpRow]] = {}
    for row in catalog.dumps():
        rows.setdefault((row.client, row.source), []).append(row)
    return {
        key: [_past(settings, row, verified) for row in sorted(of_one, key=lambda row: row.counter)]
        for key, of_one in rows.items()
    }


def _past(settings: Settings, row: DumpRow, verified: Set[str]) -> Past:
    held = row.holding is not None and (Path(row.holding) / layout.MANIFEST).is_file()
    return Past(
        row.id,
        row.level,
        row.base,
        row.begun_ns,
        damaged=row.damaged,
        restorable=held or row.id in verified,
        has_state=state_path(settings, row) is not None,
    )


def state_path(settings: Settings, row: DumpRow) -> Path | None:
    """The file of a dump's state blocks, None when there is none."""
    if row.state is None or row.state != f"{row.id}.state":
        return None
    path = places.state_folder(settings.state, row.client, row.source, row.segment) / row.state
    return path if path.is_file() else None
