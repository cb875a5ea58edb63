"""The tables of the catalog and how an older one becomes them.

Here live the columns and the migrations; what is read and written is store.py, the records are records.py.
"""

from __future__ import annotations

from typing import Callable, List

import sqlalchemy as sa

meta = sa.MetaData()
_text, _int, _bool, _json = sa.Text, sa.BigInteger, sa.Boolean, sa.Text

schema = sa.Table(
    "schema_version", meta,
    sa.Column("version", sa.Integer, primary_key=True), sa.Column("applied_ns", _int, nullable=False),
)  # fmt: skip
runs = sa.Table(
    "runs", meta,
    sa.Column("id", _text, primary_key=True), sa.Column("kind", _text, nullable=False),
    sa.Column("begun_ns", _int, nullable=False), sa.Column("ended_ns", _int), sa.Column("status", _text),
    sa.Column("pid", sa.Integer, nullable=False), sa.Column("summary", _json, nullable=False),
)  # fmt: skip
dumps = sa.Table(
    "dumps", meta,
    sa.Column("id", _text, primary_key=True), sa.Column("client", _text, nullable=False),
    sa.Column("source", _text, nullable=False), sa.Column("segment", _text, nullable=False),
    sa.Column("type", _text, nullable=False), sa.Column("path", _text, nullable=False),
    sa.Column("level", sa.Integer, nullable=False), sa.Column("counter", _int, nullable=False),
    sa.Column("begun_ns", _int, nullable=False), sa.Column("ended_ns", _int, nullable=False),
    sa.Column("base", _text), sa.Column("previous", _text), sa.Column("run", _text, nullable=False),
    sa.Column("codec", _text, nullable=False), sa.Column("archive_size", _int, nullable=False),
    sa.Column("stored_size", _int, nullable=False), sa.Column("entries", _int, nullable=False),
    sa.Column("files", _int, nullable=False), sa.Column("holding", _text),
    sa.Column("manifest_sha256", _text, nullable=False), sa.Column("warnings", _int, nullable=False),
    sa.Column("suspects", _int, nullable=False), sa.Column("notes", _json, nullable=False),
    sa.Column("state", _text), sa.Column("damaged", _bool, nullable=False), sa.Column("options", _json, nullable=False),
    sa.UniqueConstraint("client", "source", "segment", "counter"),
    sa.Index("dumps_by_time", "client", "source", "begun_ns"),
)  # fmt: skip
copies = sa.Table(
    "copies", meta,
    sa.Column("dump", _text, sa.ForeignKey("dumps.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("target", _text, primary_key=True), sa.Column("state", _text, nullable=False),
    sa.Column("upload", _json, nullable=False), sa.Column("bytes", _int, nullable=False),
    sa.Column("verified_ns", _int), sa.Column("updated_ns", _int, nullable=False),
    sa.Column("error", _text, nullable=False),
    sa.Index("copies_by_target", "target", "state"),
)  # fmt: skip
results = sa.Table(
    "results", meta,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("run", _text, sa.ForeignKey("runs.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("client", _text, nullable=False), sa.Column("source", _text, nullable=False),
    sa.Column("ok", _bool, nullable=False), sa.Column("level", sa.Integer), sa.Column("dump", _text),
    sa.Column("code", _text, nullable=False), sa.Column("message", _text, nullable=False),
    sa.Column("hint", _text, nullable=False), sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("warning", _bool, nullable=False), sa.Column("segment", _text, nullable=False, server_default=""),
)  # fmt: skip
counters = sa.Table(
    "counters", meta,
    sa.Column("client", _text, primary_key=True), sa.Column("source", _text, primary_key=True),
    sa.Column("last", _int, nullable=False),
)  # fmt: skip

proofs = sa.Table(
    "proofs", meta,
    sa.Column("dump", _text, sa.ForeignKey("dumps.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("place", _text, primary_key=True), sa.Column("kind", _text, primary_key=True),
    sa.Column("part", _int, primary_key=True), sa.Column("start", _int, primary_key=True),
    sa.Column("length", _int, nullable=False), sa.Column("when_ns", _int, nullable=False),
    sa.Column("ok", _bool, nullable=False), sa.Column("note", _text, nullable=False),
    sa.Index("proofs_by_time", "kind", "when_ns"),
)  # fmt: skip
estimates = sa.Table(
    "estimates", meta,
    sa.Column("dump", _text, sa.ForeignKey("dumps.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("how", _text, primary_key=True), sa.Column("client", _text, nullable=False),
    sa.Column("source", _text, nullable=False), sa.Column("segment", _text, nullable=False),
    sa.Column("run", _text, nullable=False), sa.Column("level", sa.Integer, nullable=False),
    sa.Column("used", _bool, nullable=False), sa.Column("estimated", _int, nullable=False),
    sa.Column("full", _int, nullable=False), sa.Column("actual", _int, nullable=False),
    sa.Column("when_ns", _int, nullable=False),
    sa.Index("estimates_by_time", "when_ns"), sa.Index("estimates_by_source", "client", "source"),
)  # fmt: skip

marks = sa.Table(
    "marks", meta,
    sa.Column("dump", _text, sa.ForeignKey("dumps.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("target", _text, primary_key=True), sa.Column("when_ns", _int, nullable=False),
    sa.Column("why", _text, nullable=False),
)  # fmt: skip
holds = sa.Table(
    "holds", meta,
    sa.Column("kind", _text, primary_key=True), sa.Column("name", _text, primary_key=True),
    sa.Column("when_ns", _int, nullable=False), sa.Column("why", _text, nullable=False),
)  # fmt: skip

locks = sa.Table(
    "locks", meta,
    sa.Column("dump", _text, sa.ForeignKey("dumps.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("target", _text, primary_key=True), sa.Column("until_ns", _int, nullable=False),
    sa.Column("mode", _text, nullable=False), sa.Column("held", _bool, nullable=False),
)  # fmt: skip

spent = sa.Table(
    "spent", meta,
    sa.Column("target", _text, primary_key=True), sa.Column("month", _text, primary_key=True),
    *(sa.Column(name, _int, nullable=False) for name in ("write", "read", "delete", "sent", "got", "woken")),
)  # fmt: skip
# No foreign key: a stay outlives its dump, since places bill by the time.
stays = sa.Table(
    "stays", meta,
    sa.Column("dump", _text, primary_key=True), sa.Column("target", _text, primary_key=True),
    sa.Column("came_ns", _int, primary_key=True), sa.Column("client", _text, nullable=False),
    sa.Column("source", _text, nullable=False), sa.Column("bytes", _int, nullable=False),
    sa.Column("objects", _int, nullable=False), sa.Column("small", _int, nullable=False),
    sa.Column("small_bytes", _int, nullable=False), sa.Column("gone_ns", _int),
    sa.Index("stays_by_time", "gone_ns"),
)  # fmt: skip


def _first(connection: sa.Connection) -> None:
    # the tables as they are above; a later migration alters what this one made, and new catalogs run all of them
    meta.create_all(connection, tables=[runs, dumps, copies, results, counters], checkfirst=False)


def _second(connection: sa.Connection) -> None:
    proofs.create(connection)


def _third(connection: sa.Connection) -> None:
    estimates.create(connection)


def _fourth(connection: sa.Connection) -> None:
    there = [row[1] for row in connection.exec_driver_sql("PRAGMA table_info(results)")]
    if "segment" not in there:  # the first makes the tables as they are now
        connection.exec_driver_sql("ALTER TABLE results ADD COLUMN segment TEXT NOT NULL DEFAULT ''")


def _fifth(connection: sa.Connection) -> None:
    marks.create(connection)
    holds.create(connection)


def _sixth(connection: sa.Connection) -> None:
    locks.create(connection)


def _seventh(connection: sa.Connection) -> None:
    spent.create(connection)
    stays.create(connection)
    # what lies there now; when what is gone lay there nobody kept
    connection.exec_driver_sql(
        "INSERT INTO stays (dump, target, came_ns, client, source, bytes, objects, small, small_bytes) "
        "SELECT c.dump, c.target, COALESCE(c.verified_ns, d.ended_ns), d.client, d.source, "
        "CASE WHEN c.bytes > 0 THEN c.bytes ELSE d.stored_size END, 0, 0, 0 "
        "FROM copies c JOIN dumps d ON d.id = c.dump "
        "WHERE c.target <> 'holding' AND c.state IN ('done', 'verified', 'damaged')"
    )


# Version n is reached by running the first n. Never edit one that was released: append.
MIGRATIONS: List[Callable[[sa.Connection], None]] = [_first, _second, _third, _fourth, _fifth, _sixth, _seventh]
