"""What is to go, and what must not: marks on copies, holds on dumps and clients.

Here live their rows and the removal of a dump's own; who is marked and when it goes is decided by stage/. A mark is no
state of a copy: until it is removed, a marked copy is as good as any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Iterable, List, Optional, Tuple

import sqlalchemy as sa

from .. import clock
from ..errors import CatalogError
from .store import Catalog
from .tables import copies, dumps, holds, marks

DUMP, CLIENT = "dump", "client"


@dataclass(frozen=True)
class Mark:
    """The copy of a dump on a target is to go: since when it is known, and why."""

    dump: str
    target: str
    when_ns: int
    why: str


@dataclass(frozen=True)
class Hold:
    """Nothing of it goes until it is released. kind: dump or client."""

    kind: str
    name: str
    when_ns: int
    why: str


def marked(catalog: Catalog) -> Dict[Tuple[str, str], Mark]:
    """(dump, target) -> its mark."""
    with catalog._read() as connection:
        rows = [Mark(*row) for row in connection.execute(sa.select(marks))]
    return {(row.dump, row.target): row for row in rows}


def mark(catalog: Catalog, rows: Iterable[Mark]) -> None:
    """Marks copies, in one transaction; what is marked keeps its date."""
    values = [{"dump": one.dump, "target": one.target, "when_ns": one.when_ns, "why": one.why} for one in rows]
    if values:
        with catalog._write() as connection:
            connection.execute(sa.insert(marks).prefix_with("OR IGNORE"), values)


def unmark(catalog: Catalog, dump: Optional[str] = None, target: Optional[str] = None) -> int:
    """Takes marks away: of one dump, on one target, or all; how many."""
    query = sa.delete(marks)
    if dump is not None:
        query = query.where(marks.c.dump == dump)
    if target is not None:
        query = query.where(marks.c.target == target)
    with catalog._write() as connection:
        return connection.execute(query).rowcount


def held(catalog: Catalog) -> List[Hold]:
    """All holds, oldest first."""
    with catalog._read() as connection:
        return [Hold(*row) for row in connection.execute(sa.select(holds).order_by(holds.c.when_ns, holds.c.name))]


def hold(catalog: Catalog, kind: str, name: str, why: str) -> bool:
    """Holds a dump or a client, and takes the marks from it; whether it was not held before."""
    of_it = sa.select(dumps.c.id).where((dumps.c.id if kind == DUMP else dumps.c.client) == name)
    with catalog._write() as connection:
        values = {"kind": kind, "name": name, "when_ns": clock.now_ns(), "why": why}
        new = connection.execute(sa.insert(holds).prefix_with("OR IGNORE").values(**values)).rowcount > 0
        connection.execute(sa.delete(marks).where(marks.c.dump.in_(of_it)))
    return new


def release(catalog: Catalog, kind: str, name: str) -> bool:
    """Takes a hold away; whether there was one."""
    with catalog._write() as connection:
        return connection.execute(sa.delete(holds).where(holds.c.kind == kind, holds.c.name == name)).rowcount > 0


def forget(catalog: Catalog, dump: str) -> None:
    """Removes the row of a dump of which nothing is left anywhere. Raises CatalogError when something is."""
    with catalog._write() as connection:
        row = connection.execute(sa.select(dumps.c.holding).where(dumps.c.id == dump)).first()
        if row is None:
            return
        states = set(connection.execute(sa.select(copies.c.state).where(copies.c.dump == dump)).scalars())
        above = connection.execute(sa.select(dumps.c.id).where(dumps.c.base == dump).limit(1)).scalar()
        if row.holding is not None or states - {"expired", "wanted"} or above is not None:
            raise CatalogError(f"{dump} is not gone everywhere, or {above} builds on it")
        connection.execute(sa.delete(dumps).where(dumps.c.id == dump))
