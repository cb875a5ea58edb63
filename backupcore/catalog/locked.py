"""What targets said of the locks of their copies, when they were asked last.

Here live the rows. They are a cache: a target keeps its locks whatever stands here, and a rebuild or the next prune
asks it again. Which locks there are to be is decided by stage/.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional, Tuple

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from .store import Catalog
from .tables import dumps, locks


@dataclass(frozen=True)
class LockRow:
    """No file of this copy can be removed before until_ns (0: no lock by time). mode: governance or compliance, '' when
    there is none. held: each of its files has a legal hold there."""

    dump: str
    target: str
    until_ns: int = 0
    mode: str = ""
    held: bool = False


def known(catalog: Catalog, source: Optional[Tuple[str, str]] = None) -> Dict[Tuple[str, str], LockRow]:
    """(dump, target) -> its row; of all, or of one (client, source)."""
    query = sa.select(locks)
    if source is not None:
        query = query.join(dumps, dumps.c.id == locks.c.dump)
        query = query.where(dumps.c.client == source[0], dumps.c.source == source[1])
    with catalog._read() as connection:
        rows = [LockRow(*row[:4], bool(row[4])) for row in connection.execute(query)]
    return {(row.dump, row.target): row for row in rows}


def put_until(catalog: Catalog, dump: str, target: str, until_ns: int, mode: str) -> None:
    """A copy is locked; of a dump that is not in the catalog nothing is written."""
    _put(catalog, dump, target, until_ns=until_ns, mode=mode)


def put_held(catalog: Catalog, dump: str, target: str, held: bool) -> None:
    """A copy is held at its target, or is not any more."""
    _put(catalog, dump, target, held=held)


def _put(catalog: Catalog, dump: str, target: str, **values: object) -> None:
    # only what is said: a person may hold while a night locks
    row = {"dump": dump, "target": target, "until_ns": 0, "mode": "", "held": False, **values}
    with catalog._write() as connection:
        if connection.execute(sa.select(dumps.c.id).where(dumps.c.id == dump)).first() is not None:
            query = insert(locks).values(**row)
            connection.execute(query.on_conflict_do_update(index_elements=["dump", "target"], set_=values))


def forget(catalog: Catalog, dump: str, target: Optional[str] = None) -> None:
    """The target has to be asked again: of one copy of a dump, or of all."""
    query = sa.delete(locks).where(locks.c.dump == dump)
    if target is not None:
        query = query.where(locks.c.target == target)
    with catalog._write() as connection:
        connection.execute(query)
