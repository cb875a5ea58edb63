"""The catalog's database: SQLite in WAL mode, its connections, transactions and schema.

Here lives Database: how a transaction is begun, comes to be there for good, and what its errors are to people. Which
tables there are, with their migrations, is tables.py; what is asked of them is store.py and the rooms beside it.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, List, Mapping, Optional, Self

import sqlalchemy as sa

from .. import clock, files, text
from ..errors import CatalogError
from .statements import text_of
from .tables import MIGRATIONS, schema

BUSY_SECONDS = 60.0
IDLE = 4  # connections that are kept for the next who asks


class Plain:
    """A connection past SQLAlchemy, whose own work is several times that of SQLite: for statements.py."""

    def __init__(self, path: Path, synchronous: str):
        self.raw = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
        _prepare(self.raw, synchronous)

    def execute(self, statement: sa.Executable, values: Mapping[str, Any]) -> sqlite3.Cursor:
        """Runs one of them; its rows are tuples, with what SQLite has in place of a bool."""
        return self.raw.execute(text_of(statement, tuple(values)), values)


class Database:
    """One file. Made when it does not exist; a newer schema is refused. Every method raises CatalogError when it cannot
    be used."""

    def __init__(self, path: os.PathLike[str] | str):
        self.path = Path(path)
        self._writing = threading.Lock()
        self._syncing = threading.Lock()
        self._written = self._synced = 0  # transactions of this process: in the log, and there for good
        self._unsynced: Optional[OSError] = None
        try:
            files.make_folder(self.path.parent)
            # SQLite makes its -wal and -shm files with the mode of the database
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise CatalogError(f"the catalog {self.path} cannot be opened: {error.strerror}") from None
        self._engine = self._connected(4, "FULL")
        # what it commits is synced by _sync(), outside its lock
        self._writer = self._connected(1, "NORMAL")
        self._idle: List[Plain] = []
        self._plain_writer: Optional[Plain] = None
        try:
            self._migrate()
        except BaseException:
            self.close()
            raise

    def _connected(self, pool: int, synchronous: str) -> sa.Engine:
        engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(self.path)),
            connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False}, pool_size=pool, max_overflow=-1,
        )  # fmt: skip
        sa.event.listen(engine, "connect", lambda connection, _record: _prepare(connection, synchronous))
        return engine

    def close(self) -> None:
        """Gives the database back; the catalog cannot be used after."""
        self._engine.dispose()
        self._writer.dispose()
        while self._idle:
            self._idle.pop().raw.close()
        with self._writing:
            if self._plain_writer is not None:
                self._plain_writer.raw.close()
                self._plain_writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @contextmanager
    def _look(self) -> Iterator[sa.Connection]:
        """For one statement that only reads: it needs no transaction around it."""
        try:
            with self._engine.connect() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            raise self._error(error) from None

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        """For several that are to see one moment."""
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("BEGIN")
                try:
                    yield connection
                finally:
                    connection.rollback()
        except sa.exc.SQLAlchemyError as error:
            raise self._error(error) from None

    def _rows(self, statement: sa.Executable, asked: Mapping[str, Any]) -> List[tuple]:
        """What one of statements.py reads, as _look()."""
        try:
            connection = self._plain()
            try:
                rows = connection.execute(statement, asked).fetchall()
            except BaseException:
                connection.raw.close()
                raise
        except sqlite3.Error as error:
            raise self._error(error) from None
        if len(self._idle) < IDLE:
            self._idle.append(connection)
        else:
            connection.raw.close()
        return rows

    def _plain(self) -> Plain:
        try:
            return self._idle.pop()
        except IndexError:
            return Plain(self.path, "FULL")

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        """All or nothing; what is written is there for good when this is left."""
        # one writer of this process at a time, so that threads queue here and not in SQLite's busy loop. The disk is
        # waited for outside: a night of hundreds of clients commits by twenty threads, and one fsync serves all of them
        try:
            with self._writing, self._writer.connect() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.commit()
                except BaseException:
                    connection.rollback()
                    raise
                self._written += 1
                mine = self._written
        except sa.exc.SQLAlchemyError as error:
            raise self._error(error) from None
        self._sync(mine)

    @contextmanager
    def _put(self, lasting: bool = True) -> Iterator[Plain]:
        """_write() for statements.py. lasting False: it is seen by all at once, but a power cut may take it, until the
        next that lasts; whoever is killed loses nothing."""
        try:
            with self._writing:
                connection = self._plain_writer = self._plain_writer or Plain(self.path, "NORMAL")
                connection.raw.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.raw.execute("COMMIT")
                except BaseException:
                    connection.raw.rollback()
                    raise
                self._written += 1
                mine = self._written
        except sqlite3.Error as error:
            raise self._error(error) from None
        if lasting:
            self._sync(mine)

    def _sync(self, number: int) -> None:
        """Waits until a transaction is there for good. Raises CatalogError; after that nothing is believed any more,
        since a second fsync would not tell of what the first one lost."""
        with self._syncing:
            if self._unsynced is None and self._synced < number:
                upto = self._written  # all of these are in the log by now
                try:
                    fd = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
                    try:
                        os.fdatasync(fd)
                    finally:
                        os.close(fd)
                except FileNotFoundError:  # another process has brought all of it into the database, which it synced
                    pass
                except OSError as error:
                    self._unsynced = error
                self._synced = upto
            if self._unsynced is not None:
                cause = self._unsynced.strerror
                raise CatalogError(f"the catalog {self.path} cannot be written: {cause}", f"df {self.path.parent}")

    def _error(self, error: Exception) -> CatalogError:
        cause = str(getattr(error, "orig", None) or error).split("\n")[0]
        if "locked" in cause or "busy" in cause:
            return CatalogError(f"the catalog {self.path} is held by another process", "stowage status")
        broken = "malformed" in cause or "not a database" in cause
        hint = "move it away and run: stowage rebuild --from TARGET" if broken else ""
        if "I/O" in cause or "full" in cause:  # mostly a full disk
            hint = f"df {self.path.parent}"
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


def _prepare(connection: Any, synchronous: str) -> None:
    # we write BEGIN ourselves: Python's driver would begin late and leave reads and DDL outside
    connection.isolation_level = None
    cursor = connection.cursor()
    _to_wal(cursor)
    for pragma in (f"synchronous={synchronous}", "foreign_keys=ON"):
        cursor.execute("PRAGMA " + pragma)
    cursor.close()


def _to_wal(cursor: Any) -> None:
    # two processes that turn a new database to WAL at once wait for each other's lock: SQLite answers one of them
    # `locked` without asking its busy handler
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= until:
                raise
        time.sleep(random.uniform(0.001, 0.02))
