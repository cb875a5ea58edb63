"""The catalog: SQLite in WAL mode through SQLAlchemy Core.

Here lives Catalog, the only door to the tables, which tables.py has with their migrations. A call is one transaction
and is thread-safe; what a call returns is a record of catalog.records. What a dump is worth is decided
elsewhere: a row is written only when its image is whole (dump/), and nothing here touches an image.
"""

from __future__ import annotations

import json
import os
import threading
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

import sqlalchemy as sa

from .. import clock, files, ids, text
from ..errors import CatalogError
from .records import COPY_STATES, PROOF_KINDS, CopyRow, DumpRow, EstimateRow, ProofRow, ResultRow, RunRow
from .tables import MIGRATIONS, copies, counters, dumps, estimates, proofs, results, runs, schema

BUSY_SECONDS = 60.0

_JSON_COLUMNS = {"summary", "notes", "options", "upload"}


def _plain(row: Any) -> dict:
    values = asdict(row)
    for name in _JSON_COLUMNS & set(values):
        values[name] = json.dumps(values[name], sort_keys=True)
    return values


def _record(cls: type, row: Any) -> Any:
    values = {field.name: row[field.name] for field in fields(cls)}
    for name in _JSON_COLUMNS & set(values):
        values[name] = json.loads(values[name])
    if cls is DumpRow:
        values["notes"] = tuple(values["notes"])
    return cls(**values)


class Catalog:
    """The server's memory of runs, dumps and copies. Made when it does not exist; a newer schema is refused.

    Every method raises CatalogError when the database cannot be used.
    """

    def __init__(self, path: os.PathLike[str] | str):
        self.path = Path(path)
        self._writing = threading.Lock()
        try:
            files.make_folder(self.path.parent)
            # SQLite makes its -wal and -shm files with the mode of the database
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise CatalogError(f"the catalog {self.path} cannot be opened: {error.strerror}") from None
        self._engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(self.path)),
            connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
            pool_size=4,
            max_overflow=-1,
        )
        sa.event.listen(self._engine, "connect", _prepare)
        try:
            self._migrate()
        except BaseException:
            self._engine.dispose()
            raise

    def close(self) -> None:
        """Gives the database back; the catalog cannot be used after."""
        self._engine.dispose()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("BEGIN")
                try:
                    yield connection
                finally:
                    connection.rollback()
        except sa.exc.SQLAlchemyError as error:
            raise self._error(error) from None

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        # one writer of this process at a time, so that threads queue here and not in SQLite's busy loop
        try:
            with self._writing, self._engine.connect() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.commit()
                except BaseException:
                    connection.rollback()
                    raise
        except sa.exc.SQLAlchemyError as error:
            raise self._error(error) from None

    def _error(self, error: Exception) -> CatalogError:
        cause = str(getattr(error, "orig", None) or error).split("\n")[0]
        if "locked" in cause or "busy" in cause:
            return CatalogError(f"the catalog {self.path} is held by another process", "stowage status")
        broken = "malformed" in cause or "not a database" in cause
        hint = "move it away and run: stowage rebuild --from TARGET" if broken else ""
        return CatalogError(f"the catalog {self.path} cannot be used: {text.escape(cause)}", hint)

    def _migrate(self) -> None:
        with self._read() as connection:
            version = self._version(connection)
        self._refuse_newer(version)
        if version == len(MIGRATIONS):
            return
        with self._write() as connection:
            version = self._version(connection)
            self._refuse_newer(version)
            if version == 0:
                schema.create(connection, checkfirst=True)
            for number in range(version, len(MIGRATIONS)):
                MIGRATIONS[number](connection)
                connection.execute(sa.insert(schema).values(version=number + 1, applied_ns=clock.now_ns()))

    @staticmethod
    def _version(connection: sa.Connection) -> int:
        there = connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'").first()
        return connection.execute(sa.select(sa.func.max(schema.c.version))).scalar() or 0 if there else 0

    def _refuse_newer(self, version: int) -> None:
        if version > len(MIGRATIONS):
            raise CatalogError(
                f"the catalog {self.path} has schema {version}, this program knows up to {len(MIGRATIONS)}",
                "install the stowage that wrote it, or a newer one",
            )

    # runs

    def begin_run(self, kind: str, begun_ns: int | None = None) -> RunRow:
        """A new run of kind run, stage or restore, begun now by this process."""
        begun = clock.now_ns() if begun_ns is None else begun_ns
        row = RunRow(ids.new_run_id(clock.stamp(begun)), kind, begun, pid=os.getpid())
        with self._write() as connection:
            connection.execute(sa.insert(runs).values(**_plain(row)))
        return row

    def end_run(self, run: str, status: str, summary: dict | None = None) -> None:
        """The run ended with status OK, WARN or FAIL."""
        values = {"ended_ns": clock.now_ns(), "status": status, "summary": json.dumps(summary or {}, sort_keys=True)}
        with self._write() as connection:
            connection.execute(sa.update(runs).where(runs.c.id == run).values(**values))

    def runs(self, limit: int | None = None, kind: str | None = None) -> List[RunRow]:
        """The newest runs, newest last."""
        query = sa.select(runs).order_by(runs.c.begun_ns.desc(), runs.c.id.desc()).limit(limit)
        if kind is not None:
            query = query.where(runs.c.kind == kind)
        return self._all(RunRow, query)[::-1]

    def run(self, run: str) -> Optional[RunRow]:
        """One run, None when unknown."""
        return self._one(RunRow, sa.select(runs).where(runs.c.id == run))

    def add_result(self, row: ResultRow) -> None:
        """What became of one source in a run."""
        with self._write() as connection:
            connection.execute(sa.insert(results).values(**_plain(row)))

    def results(self, run: str) -> List[ResultRow]:
        """The results of a run, in the order they came."""
        return self._all(ResultRow, sa.select(results).where(results.c.run == run).order_by(results.c.number))

    # dumps

    def next_counter(self, client: str, source: str) -> int:
        """The next number of this source, 1…; given out once, also when the dump comes to nothing."""
        where = (counters.c.client == client, counters.c.source == source)
        with self._write() as connection:
            known = connection.execute(sa.select(counters.c.last).where(*where)).scalar()
            value = (known or 0) + 1
            if known is None:
                connection.execute(sa.insert(counters).values(client=client, source=source, last=value))
            else:
                connection.execute(sa.update(counters).where(*where).values(last=value))
        return value

    def add_dump(self, row: DumpRow) -> None:
        """A dump whose image is whole, synced and signed. Raises CatalogError when it is there already."""
        where = (counters.c.client == row.client, counters.c.source == row.source)
        with self._write() as connection:
            connection.execute(sa.insert(dumps).values(**_plain(row)))
            known = connection.execute(sa.select(counters.c.last).where(*where)).scalar()
            if known is None:
                connection.execute(sa.insert(counters).values(client=row.client, source=row.source, last=row.counter))
            elif known < row.counter:
                connection.execute(sa.update(counters).where(*where).values(last=row.counter))

    def merge(self, found: Sequence[Tuple[DumpRow, CopyRow]]) -> List[Optional[str]]:
        """Adds dumps that a target holds, with their copies there; what is known already stays as it is.

        For each: None, or why it cannot be added. All or nothing; found: few enough for one transaction.
        """
        told: List[Optional[str]] = []
        last: Dict[Tuple[str, str], int] = {}
        with self._write() as connection:
            for row, copy in found:
                known = connection.execute(sa.select(dumps.c.manifest_sha256).where(dumps.c.id == row.id)).scalar()
                if known is None:
                    rival = connection.execute(
                        sa.select(dumps.c.id).where(
                            dumps.c.client == row.client, dumps.c.source == row.source,
                            dumps.c.segment == row.segment, dumps.c.counter == row.counter,
                        )
                    ).scalar()  # fmt: skip
                    if rival is not None:
                        told.append(f"it has the number {row.counter}, as has {rival}, which the catalog knows")
                        continue
                    connection.execute(sa.insert(dumps).values(**_plain(row)))
                elif known != row.manifest_sha256:
                    told.append("the catalog knows another dump of this name")
                    continue
                where = (copies.c.dump == copy.dump, copies.c.target == copy.target)
                state = connection.execute(sa.select(copies.c.state).where(*where)).scalar()
                values = {**_plain(copy), "updated_ns": copy.updated_ns or clock.now_ns()}
                if state is None:
                    connection.execute(sa.insert(copies).values(**values))
                elif state == "wanted" and copy.state == "done":
                    connection.execute(sa.update(copies).where(*where).values(**values))
                key = (row.client, row.source)
                last[key] = max(last.get(key, 0), row.counter)
                told.append(None)
            for (client, source), counter in last.items():
                where = (counters.c.client == client, counters.c.source == source)
                known = connection.execute(sa.select(counters.c.last).where(*where)).scalar()
                if known is None:
                    connection.execute(sa.insert(counters).values(client=client, source=source, last=counter))
                elif known < counter:
                    connection.execute(sa.update(counters).where(*where).values(last=counter))
        return told

    def raise_counter(self, client: str, source: str, least: int) -> None:
        """The next dump of this source gets a higher number than least."""
        where = (counters.c.client == client, counters.c.source == source)
        with self._write() as connection:
            known = connection.execute(sa.select(counters.c.last).where(*where)).scalar()
            if known is None:
                connection.execute(sa.insert(counters).values(client=client, source=source, last=least))
            elif known < least:
                connection.execute(sa.update(counters).where(*where).values(last=least))

    def has_dumps(self) -> bool:
        """Whether there is any."""
        with self._read() as connection:
            return connection.execute(sa.select(dumps.c.id).limit(1)).scalar() is not None

    def newest_on(self, target: str) -> Dict[Tuple[str, str, str], DumpRow]:
        """(client, source, segment) -> the dump with the highest counter of which target has a whole copy."""
        query = (
            sa.select(dumps).join(copies, dumps.c.id == copies.c.dump)
            .where(copies.c.target == target, copies.c.state.in_(("done", "verified"))).order_by(dumps.c.counter)
        )  # fmt: skip
        with self._read() as connection:
            rows = (_record(DumpRow, row) for row in connection.execute(query).mappings())
            return {(row.client, row.source, row.segment): row for row in rows}

    def dumps(
        self, client: str | None = None, source: str | None = None, until_ns: int | None = None,
        since_ns: int | None = None,
    ) -> List[DumpRow]:  # fmt: skip
        """Dumps, newest last: of one source in the order of its counter, else by their begin."""
        query = sa.select(dumps)
        if client is not None:
            query = query.where(dumps.c.client == client)
        if source is not None:
            query = query.where(dumps.c.source == source)
        if until_ns is not None:
            query = query.where(dumps.c.begun_ns <= until_ns)
        if since_ns is not None:
            query = query.where(dumps.c.begun_ns >= since_ns)
        one = client is not None and source is not None
        order = (dumps.c.counter,) if one else (dumps.c.begun_ns, dumps.c.client, dumps.c.source, dumps.c.counter)
        return self._all(DumpRow, query.order_by(*order))

    def dump(self, dump: str) -> Optional[DumpRow]:
        """One dump by its name, None when unknown."""
        return self._one(DumpRow, sa.select(dumps).where(dumps.c.id == dump))

    def newest(self, client: str, source: str) -> Dict[str, DumpRow]:
        """segment -> its dump with the highest counter; "" is the whole source."""
        where = (dumps.c.client == client, dumps.c.source == source)
        last = sa.select(dumps.c.segment, sa.func.max(dumps.c.counter).label("last")).where(*where)
        last = last.group_by(dumps.c.segment).subquery()
        query = sa.select(dumps).where(*where).join(
            last, sa.and_(dumps.c.segment == last.c.segment, dumps.c.counter == last.c.last)
        )  # fmt: skip
        return {row.segment: row for row in self._all(DumpRow, query)}

    def latest(self, client: str, source: str, below_level: int | None = None) -> Optional[DumpRow]:
        """The source's dump with the highest counter (of a level below below_level); None when there is none."""
        query = sa.select(dumps).where(dumps.c.client == client, dumps.c.source == source)
        if below_level is not None:
            query = query.where(dumps.c.level < below_level)
        return self._one(DumpRow, query.order_by(dumps.c.counter.desc()).limit(1))

    def chain(self, dump: str) -> List[DumpRow]:
        """What a restore of dump needs, the full first, dump last. Raises CatalogError when a link is missing."""
        found: List[DumpRow] = []
        wanted: str | None = dump
        while wanted is not None:
            row = self.dump(wanted)
            if row is None:
                needed = f", which {found[-1].id} is based on" if found else ""
                raise CatalogError(f"the catalog has no dump {wanted}{needed}", "stowage rebuild --from TARGET")
            if found and row.level >= found[-1].level:
                raise CatalogError(f"dump {found[-1].id} is based on {row.id}, which is of no lower level")
            found.append(row)
            wanted = row.base
        return found[::-1]

    def set_holding(self, dump: str, folder: os.PathLike[str] | str | None) -> None:
        """Where the image lies on a holding disk now; None: it is no longer on any."""
        self._update_dump(dump, holding=None if folder is None else os.fspath(folder))

    def mark_damaged(self, dump: str, damaged: bool = True) -> None:
        """No good copy of dump is known any more (or one was found after all); it is no base for another."""
        self._update_dump(dump, damaged=damaged)

    def forget_state(self, dump: str) -> None:
        """The dump's state blocks are gone; it can be restored, but is no base for another."""
        self._update_dump(dump, state=None)

    def keep_state(self, dump: str, name: str) -> None:
        """The dump's state blocks are there (again), in the file of that name."""
        self._update_dump(dump, state=name)

    def set_files(self, counts: Mapping[str, int]) -> None:
        """How many regular files dumps hold, which no manifest tells; what a dump's own run said of it stays."""
        if counts:
            with self._write() as connection:
                for dump, count in counts.items():
                    which = dumps.c.id == dump, dumps.c.files <= 0  # 0: unknown to an older catalog
                    connection.execute(sa.update(dumps).where(*which).values(files=count))

    def _update_dump(self, dump: str, **values: Any) -> None:
        with self._write() as connection:
            if connection.execute(sa.update(dumps).where(dumps.c.id == dump).values(**values)).rowcount != 1:
                raise CatalogError(f"the catalog has no dump {dump}")

    # copies

    def put_copy(self, row: CopyRow) -> None:
        """Writes the row of one dump on one target, new or not; updated_ns 0 becomes now."""
        if row.state not in COPY_STATES:
            raise ValueError(f"{row.state!r} is no state of a copy")
        values = _plain(row)
        values["updated_ns"] = row.updated_ns or clock.now_ns()
        where = (copies.c.dump == row.dump, copies.c.target == row.target)
        with self._write() as connection:
            if connection.execute(sa.update(copies).where(*where).values(**values)).rowcount == 0:
                connection.execute(sa.insert(copies).values(**values))

    def copies(
        self, dump: str | None = None, target: str | None = None, source: Tuple[str, str] | None = None
    ) -> List[CopyRow]:
        """Copies, of one dump, on one target, of one (client, source), or all, by the begin of their dumps."""
        query = sa.select(copies).join(dumps, dumps.c.id == copies.c.dump)
        if source is not None:
            query = query.where(dumps.c.client == source[0], dumps.c.source == source[1])
        if dump is not None:
            query = query.where(copies.c.dump == dump)
        if target is not None:
            query = query.where(copies.c.target == target)
        return self._all(CopyRow, query.order_by(dumps.c.begun_ns, copies.c.dump, copies.c.target))

    def copied(self) -> Set[str]:
        """The dumps that a target has whole: verified, or found whole by a rebuild."""
        query = sa.select(copies.c.dump).where(copies.c.state.in_(("done", "verified"))).distinct()
        with self._read() as connection:
            return set(connection.execute(query).scalars())

    def remove_copy(self, dump: str, target: str) -> None:
        """Forgets the row of one dump on one target; no error when there is none."""
        with self._write() as connection:
            connection.execute(sa.delete(copies).where(copies.c.dump == dump, copies.c.target == target))

    # proofs

    def add_proofs(self, rows: Iterable[ProofRow]) -> None:
        """What was proven, in one transaction; each takes the place of the one before of its kind and range.

        when_ns 0 becomes now. A dump that is not in the catalog any more is passed over.
        """
        now = clock.now_ns()
        values = []
        for row in rows:
            if row.kind not in PROOF_KINDS:
                raise ValueError(f"{row.kind!r} is no kind of a proof")
            values.append({**_plain(row), "when_ns": row.when_ns or now})
        if not values:
            return
        with self._write() as connection:
            named = {one["dump"] for one in values}
            there = set(connection.execute(sa.select(dumps.c.id).where(dumps.c.id.in_(named))).scalars())
            values = [one for one in values if one["dump"] in there]
            if values:
                connection.execute(sa.insert(proofs).prefix_with("OR REPLACE"), values)

    def proofs(
        self, dump: str | None = None, place: str | None = None, kind: str | None = None, since_ns: int | None = None
    ) -> List[ProofRow]:
        """Proofs of one dump, at one place, of one kind, not older than since_ns, by dump, place, part and range."""
        query = sa.select(proofs)
        for column, value in ((proofs.c.dump, dump), (proofs.c.place, place), (proofs.c.kind, kind)):
            if value is not None:
                query = query.where(column == value)
        if since_ns is not None:
            query = query.where(proofs.c.when_ns >= since_ns)
        order = (proofs.c.dump, proofs.c.place, proofs.c.kind, proofs.c.part, proofs.c.start)
        return self._all(ProofRow, query.order_by(*order))

    # estimates

    def add_estimates(self, rows: Iterable[EstimateRow]) -> None:
        """What was expected of dumps and what came, in one transaction; when_ns 0 becomes now. A dump that is not in
        the catalog is passed over."""
        now = clock.now_ns()
        values = [{**_plain(row), "when_ns": row.when_ns or now} for row in rows]
        if not values:
            return
        with self._write() as connection:
            named = sorted({one["dump"] for one in values})
            there: set = set()
            for start in range(0, len(named), 500):
                query = sa.select(dumps.c.id).where(dumps.c.id.in_(named[start : start + 500]))
                there |= set(connection.execute(query).scalars())
            values = [one for one in values if one["dump"] in there]
            if values:
                connection.execute(sa.insert(estimates).prefix_with("OR REPLACE"), values)

    def estimates(
        self, client: str | None = None, source: str | None = None, since_ns: int | None = None
    ) -> List[EstimateRow]:
        """What was expected and what came, oldest first: of one client, one source, not older than since_ns."""
        query = sa.select(estimates)
        for column, value in ((estimates.c.client, client), (estimates.c.source, source)):
            if value is not None:
                query = query.where(column == value)
        if since_ns is not None:
            query = query.where(estimates.c.when_ns >= since_ns)
        query = query.order_by(estimates.c.when_ns, estimates.c.dump, estimates.c.how)
        with self._read() as connection:  # there may be hundreds of thousands
            return [EstimateRow(*row) for row in connection.execute(query)]

    def _all(self, cls: type, query: sa.Select) -> list:
        with self._read() as connection:
            return [_record(cls, row) for row in connection.execute(query).mappings()]

    def _one(self, cls: type, query: sa.Select) -> Any:
        with self._read() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else _record(cls, row)


def _prepare(connection: Any, _record_of_pool: Any) -> None:
    # we write BEGIN ourselves: Python's driver would begin late and leave reads and DDL outside
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute("PRAGMA " + pragma)
    cursor.close()
