"""The catalog: what is asked of its tables and written to them, by SQLAlchemy Core.

Here lives Catalog, the door to the tables, which tables.py has; connections and transactions are database.py. A call is
one transaction and is thread-safe; what a call returns is a record of catalog.records. What a dump is worth is decided
elsewhere: a row is written only when its image is whole (dump/), and nothing here touches an image.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields
from functools import lru_cache
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

import sqlalchemy as sa

from .. import clock, ids
from ..errors import CatalogError
from . import statements
from .database import Database
from .records import COPY_STATES, PROOF_KINDS, CopyRow, DumpRow, EstimateRow, ProofRow, ResultRow, RunRow
from .spending import follow
from .tables import copies, dumps, estimates, proofs, results, runs

_JSON_COLUMNS = {"summary", "notes", "options", "upload"}


def _plain(row: Any) -> dict:
    values = {name: getattr(row, name) for name in row.__dataclass_fields__}
    for name in _JSON_COLUMNS & values.keys():
        values[name] = json.dumps(values[name], sort_keys=True)
    return values


_TABLES = {DumpRow: dumps, CopyRow: copies, ProofRow: proofs, ResultRow: results, RunRow: runs}


@lru_cache(maxsize=None)
def _places(cls: type) -> Tuple[Tuple[int, Optional[Callable[[str], Any]]], ...]:
    """For each field of a record: where its column stands in a row of its table, and what makes it of a text."""
    columns = _TABLES[cls].c
    names = columns.keys()
    made = {"notes": lambda value: tuple(json.loads(value))} if cls is DumpRow else {}
    how = {name: made.get(name, json.loads) for name in _JSON_COLUMNS}
    how.update({one.name: bool for one in columns if isinstance(one.type, sa.Boolean)})
    return tuple((names.index(one.name), how.get(one.name)) for one in fields(cls))


def _record(cls: type, row: Sequence[Any]) -> Any:
    return cls(*[row[place] if make is None else make(row[place]) for place, make in _places(cls)])


def _dated(row: CopyRow) -> dict:
    return {**_plain(row), "updated_ns": row.updated_ns or clock.now_ns()}


class Catalog(Database):
    """The server's memory of runs, dumps and copies. Every method raises CatalogError when it cannot be used."""

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
        """What became of one source in a run; there for good with what is written next, the run's end at the latest."""
        with self._put(lasting=False) as connection:
            connection.execute(statements.NEW_RESULT, _plain(row))

    def results(self, run: str) -> List[ResultRow]:
        """The results of a run, in the order they came."""
        return self._all(ResultRow, sa.select(results).where(results.c.run == run).order_by(results.c.number))

    # dumps

    def next_counter(self, client: str, source: str) -> int:
        """The next number of this source, 1…; given out once, also when the dump comes to nothing."""
        asked = {"client": client, "source": source}
        with self._put() as connection:
            (last,) = connection.execute(statements.COUNTER, asked).fetchone() or (0,)
            value = last + 1
            connection.execute(statements.RAISED, {**asked, "last": value})
        return value

    def add_dump(self, row: DumpRow, made: Sequence[CopyRow] = ()) -> None:
        """A dump whose image is whole, synced and signed; made: its copies that are there already, in the same step.
        Raises CatalogError when it is there already."""
        with self._put() as connection:
            connection.execute(statements.NEW_DUMP, _plain(row))
            for copy in made:
                connection.execute(statements.NEW_COPY, _dated(copy))
            _raise(connection, row.client, row.source, row.counter)

    def merge(self, found: Sequence[Tuple[DumpRow, CopyRow]]) -> List[Optional[str]]:
        """Adds dumps that a target holds, with their copies there; what is known already stays as it is.

        For each: None, or why it cannot be added. All or nothing; found: few enough for one transaction.
        """
        told: List[Optional[str]] = []
        last: Dict[Tuple[str, str], int] = {}
        with self._write() as connection:
            for row, copy in found:
                values = _plain(row)
                known = connection.execute(statements.MANIFEST, {"id": row.id}).scalar()
                if known is None:
                    rival = connection.execute(statements.OF_COUNTER, values).scalar()
                    if rival is not None:
                        told.append(f"it has the number {row.counter}, as has {rival}, which the catalog knows")
                        continue
                    connection.execute(statements.NEW_DUMP, values)
                elif known != row.manifest_sha256:
                    told.append("the catalog knows another dump of this name")
                    continue
                it = {"its_dump": copy.dump, "its_target": copy.target}
                state = connection.execute(statements.STATE, it).scalar()
                if state is None:
                    connection.execute(statements.NEW_COPY, _dated(copy))
                elif state == "wanted" and copy.state == "done":
                    connection.execute(statements.SAME_COPY, {**_dated(copy), **it})
                if state in (None, "wanted"):
                    follow(connection, copy, row.ended_ns)  # it came there about then, and has been billed since
                key = (row.client, row.source)
                last[key] = max(last.get(key, 0), row.counter)
                told.append(None)
            for (client, source), counter in last.items():
                _raise(connection, client, source, counter)
        return told

    def raise_counter(self, client: str, source: str, least: int) -> None:
        """The next dump of this source gets a higher number than least."""
        with self._write() as connection:
            _raise(connection, client, source, least)

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
            rows = (_record(DumpRow, row) for row in connection.execute(query))
            return {(row.client, row.source, row.segment): row for row in rows}

    def dumps(
        self, client: str | None = None, source: str | None = None, until_ns: int | None = None,
        since_ns: int | None = None,
    ) -> List[DumpRow]:  # fmt: skip
        """Dumps, newest last: of one source in the order of its counter, else by their begin."""
        asked = {"client": client, "source": source, "until_ns": until_ns, "since_ns": since_ns}
        asked = {name: value for name, value in asked.items() if value is not None}
        return self._all(DumpRow, statements.dumps_of(tuple(asked)), asked)

    def held(self) -> List[DumpRow]:
        """The dumps whose image is on a holding disk, by their begin."""
        query = sa.select(dumps).where(dumps.c.holding.is_not(None))
        return self._all(DumpRow, query.order_by(dumps.c.begun_ns, dumps.c.id))

    def dump(self, dump: str) -> Optional[DumpRow]:
        """One dump by its name, None when unknown."""
        return self._one(DumpRow, statements.DUMP, {"id": dump})

    def newest(self, client: str, source: str) -> Dict[str, DumpRow]:
        """segment -> its dump with the highest counter; "" is the whole source."""
        rows = self._all(DumpRow, statements.NEWEST, {"client": client, "source": source})
        return {row.segment: row for row in rows}

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

    def set_holding(self, dump: str, folder: os.PathLike[str] | str | None, also: Sequence[str] = ()) -> None:
        """Where the image lies on a holding disk now; None: it is no longer on any. also: dumps of which the same is
        so, in the same step."""
        self._update_dump(dump, *also, holding=None if folder is None else os.fspath(folder))

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

    def _update_dump(self, *names: str, **values: Any) -> None:
        with self._write() as connection:
            for dump in names:
                if connection.execute(sa.update(dumps).where(dumps.c.id == dump).values(**values)).rowcount != 1:
                    raise CatalogError(f"the catalog has no dump {dump}")

    # copies

    def put_copy(self, row: CopyRow, lasting: bool = True) -> None:
        """Writes the row of one dump on one target, new or not; updated_ns 0 becomes now. lasting False: a power cut
        may take it, as long as nothing else is written."""
        if row.state not in COPY_STATES:
            raise ValueError(f"{row.state!r} is no state of a copy")
        values = _dated(row)
        known = {**values, "its_dump": row.dump, "its_target": row.target}
        with self._put(lasting) as connection:
            if connection.execute(statements.SAME_COPY, known).rowcount == 0:
                connection.execute(statements.NEW_COPY, values)
            follow(connection, row, values["updated_ns"])

    def note_keys(self, dump: str, target: str, name: str, sha256: str) -> bool:
        """A copy has got a file of keys, of that digest: noted in its row as it is in this moment, since a prune may be
        removing it. False when it is no copy any more."""
        where = (copies.c.dump == dump, copies.c.target == target, copies.c.state != "expired")
        with self._write() as connection:
            known = connection.execute(sa.select(copies.c.upload).where(*where)).scalar()
            if known is None:
                return False
            upload = json.loads(known)
            upload["keys"] = {**upload.get("keys", {}), name: sha256}
            values = {"upload": json.dumps(upload, sort_keys=True), "updated_ns": clock.now_ns()}
            connection.execute(sa.update(copies).where(*where).values(**values))
        return True

    def copies(
        self, dump: str | None = None, target: str | None = None, source: Tuple[str, str] | None = None
    ) -> List[CopyRow]:
        """Copies, of one dump, on one target, of one (client, source), or all, by the begin of their dumps."""
        of_it = {} if source is None else {"client": source[0], "source": source[1]}
        asked = {name: value for name, value in (("dump", dump), ("target", target)) if value is not None}
        asked = {**of_it, **asked}
        return self._all(CopyRow, statements.copies_of(tuple(asked)), asked)

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
            values = _of_known(connection, values)
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
            values = _of_known(connection, values)
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

    def _all(self, cls: type, query: sa.Select, asked: Optional[Mapping[str, Any]] = None) -> list:
        if asked is not None:
            return [_record(cls, row) for row in self._rows(query, asked)]
        with self._look() as connection:
            return [_record(cls, row) for row in connection.execute(query)]

    def _one(self, cls: type, query: sa.Select, asked: Optional[Mapping[str, Any]] = None) -> Any:
        return next(iter(self._all(cls, query, asked)), None)


def _raise(connection: Any, client: str, source: str, least: int) -> None:
    """The source's next dump gets a higher number than least."""
    connection.execute(statements.RAISED, {"client": client, "source": source, "last": least})


def _of_known(connection: sa.Connection, values: List[dict]) -> List[dict]:
    """The rows whose dump is in the catalog."""
    named = sorted({one["dump"] for one in values})
    there: Set[str] = set()
    for start in range(0, len(named), 500):
        query = sa.select(dumps.c.id).where(dumps.c.id.in_(named[start : start + 500]))
        there.update(connection.execute(query).scalars())
    return [one for one in values if one["dump"] in there]
