"""All dumps and where good images of them are, as little of each as judgements over everything need.

Here live quick readings of the catalog: a report would ask for hundreds of thousands of rows, of which it needs seven
words, or the last few. Whole rows are store.py.
"""

from __future__ import annotations

from typing import Dict, FrozenSet, List, NamedTuple, Optional, Tuple

import sqlalchemy as sa

from .records import HOLDING, CopyRow, DumpRow
from .store import Catalog
from .tables import copies, dumps

Source = Tuple[str, str]


class Slim(NamedTuple):
    """A dump. places: the targets that have it whole, and HOLDING; one that is damaged has none."""

    id: str
    segment: str
    level: int
    counter: int
    begun_ns: int
    base: Optional[str]
    places: FrozenSet[str]
    run: str = ""


def read(catalog: Catalog, begun_ns: int = 0, source: Optional[Source] = None) -> Dict[Source, List[Slim]]:
    """(client, source) -> its dumps, oldest first. begun_ns: only what began then or later. source: only of this."""
    here = [dumps.c.begun_ns >= begun_ns] if begun_ns else []
    here += [dumps.c.client == source[0], dumps.c.source == source[1]] if source is not None else []
    places: Dict[str, set] = {}
    spoiled = set()
    found: Dict[Source, List[Slim]] = {}
    with catalog._read() as connection:
        good = sa.select(copies.c.dump, copies.c.target, copies.c.state).where(
            copies.c.state.in_(("verified", "done", "damaged"))
        )
        if here:
            good = good.join(dumps, dumps.c.id == copies.c.dump).where(*here)
        for dump, target, state in connection.execute(good):
            if state != "damaged":
                places.setdefault(dump, set()).add(target)
            elif target == HOLDING:
                spoiled.add(dump)
        query = sa.select(
            dumps.c.client, dumps.c.source, dumps.c.id, dumps.c.segment, dumps.c.level, dumps.c.counter,
            dumps.c.begun_ns, dumps.c.base, dumps.c.holding, dumps.c.damaged, dumps.c.run,
        ).where(*here).order_by(dumps.c.counter)  # fmt: skip
        rows = connection.execute(query)
        for client, source, name, segment, level, counter, begun, base, holding, damaged, run in rows:
            where = set() if damaged else places.get(name, set())
            if holding is not None and not damaged and name not in spoiled:
                where = where | {HOLDING}
            row = Slim(name, segment, level, counter, begun, base, frozenset(where), run)
            found.setdefault((client, source), []).append(row)
    return found


def damaged(catalog: Catalog) -> List[CopyRow]:
    """The copies that are damaged."""
    return catalog._all(CopyRow, sa.select(copies).where(copies.c.state == "damaged").order_by(copies.c.dump))


def since(catalog: Catalog, source: Source, begun_ns: int) -> Tuple[List[DumpRow], Dict[str, Dict[str, CopyRow]]]:
    """The dumps of a source that began then or later, and their copies by dump and target."""
    here = (dumps.c.client == source[0], dumps.c.source == source[1], dumps.c.begun_ns >= begun_ns)
    rows = catalog._all(DumpRow, sa.select(dumps).where(*here).order_by(dumps.c.counter))
    found: Dict[str, Dict[str, CopyRow]] = {}
    query = sa.select(copies).join(dumps, dumps.c.id == copies.c.dump).where(*here)
    for row in catalog._all(CopyRow, query):
        found.setdefault(row.dump, {})[row.target] = row
    return rows, found
