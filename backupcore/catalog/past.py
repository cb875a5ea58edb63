"""How long the catalog remembers what happened: runs, their results, what lay where.

Here lives the forgetting, of rows and of the records that runs left beside the catalog. What is still needed stays
whatever its age: a run of which a dump is known, the last runs of each kind, what lies on a target. Records of runs on
targets stay, too: they are what a lost server is rebuilt by, and nothing here has a target.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from . import places
from .store import Catalog
from .tables import dumps, runs, stays

LEAST = 60  # runs of each kind that are remembered however old
AT_ONCE = 2000  # runs forgotten in one step: that an old catalog shrinks must not hold up a night


def forget(catalog: Catalog, state: Path, before_ns: int) -> int:
    """Forgets runs that ended before a moment, with their results and records, and stays that ended by then. How many
    runs; the rest of them is the next call's. Call under the run lock. Raises OSError, CatalogError."""
    ranked = sa.select(
        runs.c.id, runs.c.ended_ns, runs.c.begun_ns,
        sa.func.row_number().over(partition_by=runs.c.kind, order_by=(runs.c.begun_ns.desc(), runs.c.id)).label("rank"),
    ).subquery()  # fmt: skip
    old = (
        sa.select(ranked.c.id)
        .where(
            sa.func.coalesce(ranked.c.ended_ns, ranked.c.begun_ns) < before_ns, ranked.c.rank > LEAST,
            ranked.c.id.not_in(sa.select(dumps.c.run)),
        )
        .order_by(ranked.c.begun_ns).limit(AT_ONCE)
    )  # fmt: skip
    with catalog._read() as connection:
        gone = list(connection.execute(old).scalars())
        stayed = connection.execute(sa.select(stays.c.dump).where(stays.c.gone_ns < before_ns).limit(1)).first()
    if not gone and stayed is None:
        return 0
    for name in gone:  # the files first: their rows say which they were
        record = places.run_record(state, name)
        for path in (record, record.with_suffix(".sig")):
            path.unlink(missing_ok=True)
    with catalog._write() as connection:
        for first in range(0, len(gone), 500):
            connection.execute(sa.delete(runs).where(runs.c.id.in_(gone[first : first + 500])))
        connection.execute(sa.delete(stays).where(stays.c.gone_ns < before_ns))
    return len(gone)
