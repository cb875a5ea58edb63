"""Statements that a night or a rebuild runs for each dump, put together once: that takes longer than to run them.

Here live statements over the tables of tables.py, their values as bound parameters. When they are run, and in which
transaction, is store.py.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Tuple

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import dialect, insert

from .tables import copies, counters, dumps, results


def _is(*columns: sa.Column) -> Tuple[sa.ColumnElement, ...]:
    return tuple(column == sa.bindparam(column.name) for column in columns)


@lru_cache(maxsize=None)
def text_of(statement: sa.Executable, names: Tuple[str, ...]) -> str:
    """The statement as SQLite takes it, for values of these names."""
    return str(statement.compile(dialect=dialect(paramstyle="named"), column_keys=list(names)))


@lru_cache(maxsize=None)
def dumps_of(names: Tuple[str, ...]) -> sa.Select:
    """Dumps by any of client, source, until_ns and since_ns; of one source in the order of its counter, else by their
    begin."""
    one = "client" in names and "source" in names
    begun = dumps.c.begun_ns
    order = (dumps.c.counter,) if one else (begun, dumps.c.client, dumps.c.source, dumps.c.counter)
    where = {
        "client": dumps.c.client == sa.bindparam("client"), "source": dumps.c.source == sa.bindparam("source"),
        "until_ns": begun <= sa.bindparam("until_ns"), "since_ns": begun >= sa.bindparam("since_ns"),
    }  # fmt: skip
    return sa.select(dumps).where(*(where[name] for name in names)).order_by(*order)


@lru_cache(maxsize=None)
def copies_of(names: Tuple[str, ...]) -> sa.Select:
    """Copies by any of dump, target, client and source, by the begin of their dumps."""
    query = sa.select(copies).join(dumps, dumps.c.id == copies.c.dump)
    columns = {"dump": copies.c.dump, "target": copies.c.target, "client": dumps.c.client, "source": dumps.c.source}
    query = query.where(*(columns[name] == sa.bindparam(name) for name in names))
    return query.order_by(dumps.c.begun_ns, copies.c.dump, copies.c.target)


def _newest() -> sa.Select:
    mine = _is(dumps.c.client, dumps.c.source)
    last = sa.select(dumps.c.segment, sa.func.max(dumps.c.counter).label("last")).where(*mine)
    last = last.group_by(dumps.c.segment).subquery()
    return (
        sa.select(dumps).where(*mine)
        .join(last, sa.and_(dumps.c.segment == last.c.segment, dumps.c.counter == last.c.last))
    )  # fmt: skip


DUMP = sa.select(dumps).where(*_is(dumps.c.id))
MANIFEST = sa.select(dumps.c.manifest_sha256).where(*_is(dumps.c.id))
# the dump of a source, or of a segment of it, that has this number
OF_COUNTER = sa.select(dumps.c.id).where(*_is(dumps.c.client, dumps.c.source, dumps.c.segment, dumps.c.counter))
NEWEST = _newest()
NEW_DUMP = sa.insert(dumps)
NEW_RESULT = sa.insert(results)
NEW_COPY = sa.insert(copies)
# its_dump, its_target: which; to write, all columns of the row too
_ITS = (copies.c.dump == sa.bindparam("its_dump"), copies.c.target == sa.bindparam("its_target"))
SAME_COPY = sa.update(copies).where(*_ITS).values({name: sa.bindparam(name) for name in copies.c.keys()})
STATE = sa.select(copies.c.state).where(*_ITS)
COUNTER = sa.select(counters.c.last).where(*_is(counters.c.client, counters.c.source))
_RAISED = insert(counters)
# last: never lower than it was
RAISED = _RAISED.on_conflict_do_update(
    index_elements=[counters.c.client, counters.c.source],
    set_={"last": sa.func.max(counters.c.last, _RAISED.excluded.last)},
)
