"""What a scan found, on disk while a rebuild decides: a place may hold more dumps than fit into memory.

Here lives a scratch database below <state>/rebuild/, worth nothing after a crash; the catalog is another one.
"""

from __future__ import annotations

import sqlite3
import zlib
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from ..image.manifest import Manifest, RunRecord
from .scan import GOOD, Found

Source = Tuple[str, str, str]  # client, source, segment

_TABLES = """
CREATE TABLE found (
    prefix TEXT PRIMARY KEY, state TEXT, why TEXT, signer TEXT, server TEXT, dump TEXT, client TEXT, source TEXT,
    segment TEXT, counter INTEGER, begun_ns INTEGER, base TEXT, base_sha256 TEXT, previous TEXT, previous_sha256 TEXT,
    sha256 TEXT, lacks TEXT, bytes INTEGER, sealed INTEGER, data BLOB, ours INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX by_source ON found (ours, client, source, segment, counter);
CREATE INDEX by_dump ON found (dump);
CREATE TABLE made (dump TEXT PRIMARY KEY, client TEXT, source TEXT, segment TEXT, counter INTEGER, sha256 TEXT,
    run TEXT) WITHOUT ROWID;
"""
_WIDTH = 20  # columns of found, without ours


class Row(NamedTuple):
    """A dump that was found and is ours, without its manifest."""

    prefix: str
    dump: str
    client: str
    source: str
    segment: str
    counter: int
    begun_ns: int
    base: Optional[str]
    base_sha256: Optional[str]
    previous: Optional[str]
    previous_sha256: Optional[str]
    sha256: str
    lacks: str
    bytes: int
    sealed: int

    @property
    def of(self) -> Source:
        """Whose dump it is."""
        return self.client, self.source, self.segment

    @property
    def name(self) -> str:
        """`client:source` as people write it."""
        return f"{self.client}:{self.source}" + (f".{self.segment}" if self.segment else "")


_COLUMNS = ", ".join(Row._fields)


class Spool:
    """Everything found at one target."""

    def __init__(self, path: Path):
        self._base = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # only the writing thread uses it; a crash throws it away
        self._base.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN;" + _TABLES)

    def close(self) -> None:
        """Frees the file."""
        self._base.close()

    def add(self, found: Found) -> None:
        """One folder."""
        values: Tuple[Any, ...] = (found.prefix, found.state, found.why, found.signer)
        one = found.manifest
        if one is not None:
            base = (one.base.dump, one.base.manifest_sha256) if one.base else (None, None)
            previous = (one.previous.dump, one.previous.manifest_sha256) if one.previous else (None, None)
            values += (
                one.server, one.dump, one.client, one.source, one.segment or "", one.counter, one.begun_ns, *base,
                *previous, found.sha256, found.lacks, found.bytes, one.seal is not None, zlib.compress(found.data, 1),
            )  # fmt: skip
        values += (None,) * (_WIDTH - len(values))
        self._base.execute(f"INSERT OR REPLACE INTO found VALUES ({', '.join('?' * _WIDTH)}, 0)", values)

    def add_record(self, record: RunRecord) -> None:
        """What a run made."""
        self._base.executemany(
            "INSERT OR REPLACE INTO made VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (one.dump, one.client, one.source, one.segment, one.counter, one.manifest_sha256, record.run)
                for one in record.manifests
            ),
        )

    # whom it is from

    def count(self, state: Optional[str] = None) -> int:
        """How many folders were found, in a state or in all."""
        where, words = ("WHERE state = ?", (state,)) if state else ("", ())
        return self._base.execute(f"SELECT count(*) FROM found {where}", words).fetchone()[0]

    def signers(self) -> Dict[str, Dict[str, int]]:
        """Signer -> state (good or foreign) -> how many."""
        found: Dict[str, Dict[str, int]] = {}
        query = "SELECT signer, state, count(*) FROM found WHERE signer != '' GROUP BY signer, state"
        for signer, state, count in self._base.execute(query):
            found.setdefault(signer, {})[state] = count
        return found

    def servers(self, signers: List[str]) -> Dict[str, int]:
        """Server id -> how many good dumps of it these signers have signed."""
        marks = ", ".join("?" * len(signers))
        query = f"SELECT server, count(*) FROM found WHERE state = ? AND signer IN ({marks}) GROUP BY server"
        return dict(self._base.execute(query, (GOOD, *signers)))

    def newest_server(self, signers: List[str]) -> str:
        """The server whose dump is the newest."""
        marks = ", ".join("?" * len(signers))
        query = f"SELECT server FROM found WHERE state = ? AND signer IN ({marks}) ORDER BY begun_ns DESC LIMIT 1"
        return self._base.execute(query, (GOOD, *signers)).fetchone()[0]

    def claim(self, signers: List[str], server: str) -> int:
        """From here on these dumps are ours; of two of one name none is. How many."""
        marks = ", ".join("?" * len(signers))
        self._base.execute(
            f"UPDATE found SET ours = 1 WHERE state = ? AND server = ? AND signer IN ({marks})",
            (GOOD, server, *signers),
        )
        twice = "SELECT dump FROM found WHERE ours = 1 GROUP BY dump HAVING count(*) > 1"
        self._base.execute(
            f"UPDATE found SET ours = 0, why = 'another dump has the same name' WHERE dump IN ({twice}) AND ours = 1"
        )
        return self._base.execute("SELECT count(*) FROM found WHERE ours = 1").fetchone()[0]

    def left(self) -> Iterator[Tuple[str, str, str, str]]:
        """(prefix, state, why, server) of what is not ours."""
        yield from self._base.execute("SELECT prefix, state, why, server FROM found WHERE ours = 0 ORDER BY prefix")

    # ours

    def rows(self) -> Iterator[Row]:
        """Ours, source by source, by counter."""
        query = f"SELECT {_COLUMNS} FROM found WHERE ours = 1 ORDER BY client, source, segment, counter, begun_ns"
        yield from map(Row._make, self._base.execute(query))

    def get(self, dump: str) -> Optional[Row]:
        """One of ours by its name."""
        row = self._base.execute(f"SELECT {_COLUMNS} FROM found WHERE dump = ? AND ours = 1", (dump,)).fetchone()
        return Row._make(row) if row else None

    def manifest(self, prefix: str) -> Manifest:
        """The manifest of one."""
        data = self._base.execute("SELECT data FROM found WHERE prefix = ?", (prefix,)).fetchone()[0]
        return Manifest.from_bytes(zlib.decompress(data))

    def newest(self) -> Dict[Source, Tuple[int, str]]:
        """(client, source, segment) -> (highest counter, its dump)."""
        query = """SELECT client, source, segment, max(counter), dump FROM found WHERE ours = 1
                   GROUP BY client, source, segment"""
        return {(one[0], one[1], one[2]): (one[3], one[4]) for one in self._base.execute(query)}

    # records of runs

    def made(self) -> Iterator[Tuple[Source, str, int, str, str]]:
        """(source, dump, counter, sha256, run) of what runs have made, by source and counter."""
        for client, source, segment, *rest in self._base.execute(
            "SELECT client, source, segment, dump, counter, sha256, run FROM made"
            " ORDER BY client, source, segment, counter"
        ):
            yield ((client, source, segment), *rest)

    def counters(self) -> Dict[Tuple[str, str], int]:
        """(client, source) -> the highest number that a dump here or a record of a run has."""
        query = """SELECT client, source, max(counter) FROM
                   (SELECT client, source, counter FROM found WHERE ours = 1
                    UNION ALL SELECT client, source, counter FROM made) GROUP BY client, source"""
        return {(client, source): counter for client, source, counter in self._base.execute(query)}
