"""What targets were used for, and how long which copies took room there: what a bill is made of.

Here live two tables. `spent` has a row for each target and month (UTC): requests and bytes, added up as targets report
them. `stays` has a row for each time a copy lay on a target, from the moment it was whole until its last file was gone;
it outlives copy and dump, since places bill by the time. Its rows follow those of the copies, in the same transaction
(store.py calls follow). Not here: prices, and what any of it costs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Tuple

import sqlalchemy as sa

from .. import clock
from ..hookspecs import Spent
from .records import HOLDING, CopyRow
from .tables import dumps, spent, stays

if TYPE_CHECKING:
    from .store import Catalog

SMALL = 128 << 10  # what places that bill a least size of an object take for it
_COUNTED = tuple(Spent.__dataclass_fields__)


@dataclass(frozen=True)
class Stay:
    """A copy on a target for a time. objects: its files, 0: unknown; small, small_bytes: those below SMALL, and what
    they have together. gone_ns: None while it is there."""

    dump: str
    target: str
    came_ns: int
    client: str
    source: str
    bytes: int
    objects: int = 0
    small: int = 0
    small_bytes: int = 0
    gone_ns: Optional[int] = None


def month_of(ns: int) -> str:
    """`2026-11`, by UTC: places bill so."""
    return clock.iso(ns)[:7]


def add_spent(catalog: Catalog, target: str, used: Spent, month: str = "") -> None:
    """Adds to what a target was used for in a month (this one)."""
    values = {"target": target, "month": month or month_of(clock.now_ns()), **asdict(used)}
    where = (spent.c.target == target, spent.c.month == values["month"])
    with catalog._write() as connection:
        more = {name: spent.c[name] + values[name] for name in _COUNTED}
        if connection.execute(sa.update(spent).where(*where).values(**more)).rowcount == 0:
            connection.execute(sa.insert(spent).values(**values))


def spent_by_month(catalog: Catalog) -> Dict[Tuple[str, str], Spent]:
    """(target, month) -> what it was used for."""
    with catalog._read() as connection:
        rows = connection.execute(sa.select(spent)).mappings()
        return {(row["target"], row["month"]): Spent(**{name: row[name] for name in _COUNTED}) for row in rows}


def stays_between(catalog: Catalog, begin_ns: int, end_ns: int) -> List[Stay]:
    """What lay anywhere for some of that time, by when it came."""
    there = sa.or_(stays.c.gone_ns.is_(None), stays.c.gone_ns > begin_ns)
    query = sa.select(stays).where(stays.c.came_ns < end_ns, there)
    with catalog._read() as connection:
        return [Stay(**row) for row in connection.execute(query.order_by(stays.c.came_ns, stays.c.dump)).mappings()]


def follow(connection: Any, row: CopyRow, now_ns: int) -> None:
    """Brings the stay of a copy up to its row that is being written."""
    if row.target == HOLDING or row.state not in ("done", "verified", "expired"):
        return  # on its way, or as it was: what is damaged takes room, too
    here = {"its_dump": row.dump, "its_target": row.target}
    if row.state == "expired":
        if not row.upload:  # else files of it are there still
            connection.execute(_GONE, {**here, "gone_ns": now_ns})
        return
    sizes = _sizes(row.upload)
    told = {"bytes": row.bytes}
    if sizes:
        small = [size for size in sizes if size < SMALL]
        told.update(objects=len(sizes), small=len(small), small_bytes=sum(small))
    if connection.execute(_there(tuple(told)), {**here, **told}).rowcount:
        return
    for client, source in connection.execute(_WHOSE, here):
        values = {"objects": 0, "small": 0, "small_bytes": 0, **told, "client": client, "source": source}
        connection.execute(_CAME, {"dump": row.dump, "target": row.target, "came_ns": now_ns, **values})


# A night runs these for each copy: put together once (statements.py says why).
_HERE = (
    stays.c.dump == sa.bindparam("its_dump"), stays.c.target == sa.bindparam("its_target"), stays.c.gone_ns.is_(None)
)  # fmt: skip
_GONE = sa.update(stays).where(*_HERE).values(gone_ns=sa.bindparam("gone_ns"))
_WHOSE = sa.select(dumps.c.client, dumps.c.source).where(dumps.c.id == sa.bindparam("its_dump"))
_CAME = sa.insert(stays).prefix_with("OR IGNORE")


@lru_cache(maxsize=None)
def _there(names: Tuple[str, ...]) -> sa.Update:
    return sa.update(stays).where(*_HERE).values({name: sa.bindparam(name) for name in names})


def _sizes(upload: Mapping) -> List[int]:
    """Sizes of the files that a copy's row names (`<size> <sha256>`), the manifest's too; [] where it names none."""
    files = upload.get("files") if isinstance(upload, Mapping) else None
    try:
        return [int(proof.split(" ", 1)[0]) for proof in files.values()] if files else []
    except (AttributeError, ValueError):
        return []
