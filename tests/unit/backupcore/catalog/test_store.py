"""The catalog: what is written is there after a kill, for every thread, and only for its owner."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from backupcore.catalog import database, locked, marks, statements
from backupcore.catalog.records import CopyRow, DumpRow, EstimateRow, ProofRow, ResultRow
from backupcore.catalog.store import Catalog
from backupcore.errors import CatalogError


def dump_row(name="20261122T120000Z-L0-00000001", **values):
    level = int(name.split("-L")[1][0])
    known = {
        "id": name, "client": "web1", "source": "etc", "segment": "", "type": "tree", "path": "/etc", "level": level,
        "counter": int(name[-8:], 16), "begun_ns": int(name[-8:], 16) * 10, "ended_ns": 99, "base": None,
        "previous": None, "run": "20261122T120000Z-0000", "codec": "zstd", "archive_size": 10240, "stored_size": 512,
        "entries": 3, "files": 1, "holding": "/srv/holding/web1/etc/" + name, "manifest_sha256": "ab" * 32,
        "notes": ("one", "two"), "state": name + ".state", "options": {"path": "/etc", "exclude": ["*.tmp"]},
    }  # fmt: skip
    return DumpRow(**{**known, **values})


@pytest.fixture
def catalog(tmp_path):
    with Catalog(tmp_path / "state" / "catalog.sqlite") as opened:
        yield opened


def test_rows_come_back_as_they_were(catalog):
    row = dump_row(suspects=4, warnings=2, damaged=True)
    catalog.add_dump(row)
    assert catalog.dump(row.id) == row
    assert catalog.dump("20261122T120000Z-L0-ffffffff") is None
    copy = CopyRow(row.id, "cloud", "copying", {"id": "u1", "parts": [{"n": 1, "etag": "x"}]}, 5, None, 77, "")
    catalog.put_copy(copy)
    assert catalog.copies() == [copy]
    done = CopyRow(row.id, "cloud", "verified", {}, 512, 88, 99, "")
    catalog.put_copy(done)
    assert catalog.copies(dump=row.id) == [done] == catalog.copies(target="cloud")
    assert catalog.copies(target="nas") == []


def test_everything_is_there_for_the_next_process(tmp_path):
    path = tmp_path / "catalog.sqlite"
    code = (
        "import os, sys; sys.path[:0] = [os.getcwd(), 'tests/unit/backupcore/catalog']\n"
        "from test_store import *\n"
        f"catalog = Catalog({os.fspath(path)!r}); run = catalog.begin_run('run')\n"
        "catalog.add_dump(dump_row()); catalog.add_result(ResultRow(run.id, 'web1', 'etc', True))\n"
        "print(run.id, flush=True); os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert killed.returncode == -9, killed.stderr
    run = killed.stdout.strip()
    with Catalog(path) as catalog:
        assert catalog.dump(dump_row().id) == dump_row()
        assert [result.client for result in catalog.results(run)] == ["web1"]
        assert catalog.run(run).ended_ns is None
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_files_of_the_catalog_are_their_owners_only(catalog):
    catalog.begin_run("run")
    modes = {entry.name: entry.stat().st_mode & 0o777 for entry in os.scandir(catalog.path.parent)}
    assert modes["catalog.sqlite"] == 0o600
    assert set(modes.values()) == {0o600}
    assert catalog.path.parent.stat().st_mode & 0o777 == 0o700


def test_power_loss_after_an_answer_loses_nothing(catalog):
    with catalog._read() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL: a commit is an fsync
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_a_copy_of_an_unknown_dump_is_refused(catalog):
    with pytest.raises(CatalogError):
        catalog.put_copy(CopyRow("20261122T120000Z-L0-00000001", "cloud"))
    with pytest.raises(CatalogError):
        catalog.add_result(ResultRow("20261122T120000Z-0000", "web1", "etc", True))


def test_a_dump_is_added_once(catalog):
    catalog.add_dump(dump_row())
    with pytest.raises(CatalogError):
        catalog.add_dump(dump_row())
    with pytest.raises(CatalogError):  # nor two of one counter
        catalog.add_dump(dump_row("20261122T120001Z-L0-00000002", counter=1))


def test_counters_are_given_once_and_never_behind_a_dump(catalog):
    assert [catalog.next_counter("web1", "etc") for _ in range(3)] == [1, 2, 3]
    assert catalog.next_counter("web1", "home") == 1
    catalog.add_dump(dump_row(counter=40))
    assert catalog.next_counter("web1", "etc") == 41
    catalog.add_dump(dump_row("20261122T120000Z-L0-00000005", counter=5))
    assert catalog.next_counter("web1", "etc") == 42


def test_threads_write_and_read_at_once(catalog):
    got, errors = [], []

    def work(number):
        try:
            for _ in range(10):
                got.append(catalog.next_counter("web1", "etc"))
                catalog.add_dump(dump_row(f"20261122T120000Z-L0-{got[-1]:08x}", source=f"s{number}"))
                catalog.dumps("web1", f"s{number}")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(got) == list(range(1, 61))
    assert len(catalog.dumps()) == 60


def test_two_processes_share_it(catalog):
    with Catalog(catalog.path) as other:
        numbers = [here.next_counter("web1", "etc") for _ in range(5) for here in (catalog, other)]
    assert numbers == list(range(1, 11))


def test_dumps_are_found_by_source_and_moment(catalog):
    names = ["20261122T120000Z-L0-00000001", "20261123T120000Z-L1-00000002", "20261124T120000Z-L1-00000003"]
    for name in names:
        catalog.add_dump(dump_row(name, base=names[0] if "-L1" in name else None))
    catalog.add_dump(dump_row("20261122T120000Z-L0-00000004", source="home"))
    assert [row.id for row in catalog.dumps("web1", "etc")] == names
    assert [row.id for row in catalog.dumps("web1", "etc", until_ns=20)] == names[:2]
    assert catalog.dumps("web1", "etc", until_ns=9) == []
    assert len(catalog.dumps("web1")) == 4 and catalog.dumps("web2") == []
    assert catalog.latest("web1", "etc").id == names[2]
    assert catalog.latest("web1", "etc", below_level=1).id == names[0]
    assert catalog.latest("web1", "etc", below_level=0) is None


def test_order_is_the_counter_and_not_the_time(catalog):
    catalog.add_dump(dump_row("20261122T120000Z-L0-00000001", counter=2, begun_ns=5))
    catalog.add_dump(dump_row("20261122T120000Z-L0-00000002", counter=1, begun_ns=9))
    assert [row.counter for row in catalog.dumps("web1", "etc")] == [1, 2]
    assert catalog.latest("web1", "etc").counter == 2


def test_a_chain_goes_from_the_full_to_the_dump(catalog):
    names = ["20261122T120000Z-L0-00000001", "20261123T120000Z-L1-00000002", "20261124T120000Z-L2-00000003"]
    for name, base in zip(names, [None, *names]):
        catalog.add_dump(dump_row(name, base=base))
    assert [row.id for row in catalog.chain(names[2])] == names
    assert [row.id for row in catalog.chain(names[0])] == names[:1]


def test_a_torn_or_circular_chain_is_an_error(catalog):
    catalog.add_dump(dump_row("20261123T120000Z-L1-00000002", base="20261122T120000Z-L0-00000001"))
    with pytest.raises(CatalogError, match="L0-00000001, which .* is based on"):
        catalog.chain("20261123T120000Z-L1-00000002")
    catalog.add_dump(dump_row("20261123T120000Z-L1-00000003", base="20261123T120000Z-L1-00000003"))
    with pytest.raises(CatalogError, match="no lower level"):
        catalog.chain("20261123T120000Z-L1-00000003")


def test_marks_reach_one_dump_only(catalog):
    for number in (1, 2):
        catalog.add_dump(dump_row(f"20261122T120000Z-L0-{number:08x}"))
    catalog.set_holding("20261122T120000Z-L0-00000001", None)
    catalog.mark_damaged("20261122T120000Z-L0-00000002")
    catalog.forget_state("20261122T120000Z-L0-00000001")
    first, second = catalog.dumps("web1", "etc")
    assert (first.holding, first.damaged, first.state) == (None, False, None)
    assert second == dump_row("20261122T120000Z-L0-00000002", damaged=True)
    with pytest.raises(CatalogError, match="no dump"):
        catalog.set_holding("20261122T120000Z-L0-00000009", None)


def test_runs_are_listed_newest_last(catalog):
    made = [catalog.begin_run("run", begun_ns=number * 10**9) for number in (3, 1, 2)]
    catalog.begin_run("stage", begun_ns=10**10)
    assert [row.begun_ns // 10**9 for row in catalog.runs(kind="run")] == [1, 2, 3]
    assert [row.kind for row in catalog.runs(limit=2)] == ["run", "stage"]
    assert catalog.run(made[0].id).status is None and made[0].pid == os.getpid()
    catalog.end_run(made[0].id, "WARN", {"dumps": 3})
    ended = catalog.run(made[0].id)
    assert ended.status == "WARN" and ended.summary == {"dumps": 3} and ended.ended_ns > ended.begun_ns


def test_a_newer_schema_is_refused_and_untouched(catalog):
    catalog.close()
    with sqlite3.connect(catalog.path) as raw:
        raw.execute("INSERT INTO schema_version VALUES (99, 0)")
    raw.close()
    before = catalog.path.read_bytes()
    with pytest.raises(CatalogError, match="schema 99, this program knows up to") as refused:
        Catalog(catalog.path)
    assert "newer" in refused.value.hint
    assert catalog.path.read_bytes() == before


def test_an_older_schema_is_migrated_in_order_and_keeps_its_rows(catalog, monkeypatch):
    catalog.add_dump(dump_row())
    catalog.close()

    def second(connection):
        connection.exec_driver_sql("ALTER TABLE dumps ADD COLUMN colour TEXT NOT NULL DEFAULT 'blue'")

    def third(connection):
        connection.exec_driver_sql("UPDATE dumps SET colour = 'green'")

    monkeypatch.setattr(database, "MIGRATIONS", [*database.MIGRATIONS, second, third])
    with Catalog(catalog.path) as migrated:
        assert migrated.dump(dump_row().id) == dump_row()
        with migrated._read() as connection:
            assert connection.exec_driver_sql("SELECT colour FROM dumps").scalar() == "green"
            newest = connection.exec_driver_sql("SELECT max(version) FROM schema_version").scalar()
            assert newest == len(database.MIGRATIONS)


def test_a_migration_that_fails_leaves_the_catalog_as_it_was(catalog, monkeypatch):
    catalog.add_dump(dump_row())
    catalog.close()

    def breaks(connection):
        connection.exec_driver_sql("DROP TABLE copies")
        connection.exec_driver_sql("SELECT no_such_column FROM dumps")

    with monkeypatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", [*database.MIGRATIONS, breaks])
        with pytest.raises(CatalogError):
            Catalog(catalog.path)
    with Catalog(catalog.path) as again:
        assert again.dump(dump_row().id) == dump_row() and again.copies() == []


def test_a_file_that_is_no_catalog_is_said_in_one_line(tmp_path):
    path = tmp_path / "catalog.sqlite"
    path.write_bytes(b"this is no database, it is a text\n" * 100)
    with pytest.raises(CatalogError) as refused:
        Catalog(path)
    assert "\n" not in refused.value.message and str(path) in refused.value.message and "rebuild" in refused.value.hint
    with pytest.raises(CatalogError, match="cannot be opened"):
        Catalog(tmp_path)


def test_a_lock_held_too_long_is_an_error_that_says_so(catalog, monkeypatch):
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    with Catalog(catalog.path) as other, catalog._write(), pytest.raises(CatalogError, match="held by another"):
        other.next_counter("web1", "etc")


def test_processes_that_open_a_new_catalog_at_once_all_get_it(tmp_path):
    begin, children = time.monotonic() + 0.2, []
    for _ in range(4):
        child = os.fork()
        if not child:
            try:
                time.sleep(max(0.0, begin - time.monotonic()))
                Catalog(tmp_path / "catalog.sqlite").next_counter("web1", "etc")
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    with Catalog(tmp_path / "catalog.sqlite") as catalog:
        assert catalog.next_counter("web1", "etc") == 5


class _TurnedByAnother:
    """A connection's cursor while another process turns the database to WAL: SQLite answers it without waiting."""

    def __init__(self, *answers):
        self.left = list(answers)

    def execute(self, _sql):
        if self.left:
            raise sqlite3.OperationalError(self.left.pop(0))


def test_a_new_catalog_that_another_process_turns_to_wal_just_now_is_waited_for(monkeypatch):
    cursor = _TurnedByAnother("database is locked", "database is locked")
    database._to_wal(cursor)
    assert not cursor.left
    with pytest.raises(sqlite3.OperationalError, match="disk I/O"):
        database._to_wal(_TurnedByAnother("disk I/O error"))
    monkeypatch.setattr(database, "BUSY_SECONDS", 0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        database._to_wal(_TurnedByAnother("database is locked"))


def test_a_proof_takes_the_place_of_the_one_before_of_its_kind_and_range(catalog):
    first, second = dump_row(), dump_row("20261122T120000Z-L0-00000002")
    catalog.add_dump(first)
    catalog.add_dump(second)
    catalog.add_proofs([
        ProofRow(first.id, "nas", "sample", True, 10, 0, 0, 100),
        ProofRow(first.id, "nas", "sample", True, 10, 0, 100, 50),
        ProofRow(first.id, "holding", "full", False, 20, length=150, note="part 0 is damaged"),
        ProofRow(second.id, "nas", "drill", True, 30),
        ProofRow("20260101T000000Z-L0-00000000", "nas", "quick", True, 5),
    ])  # fmt: skip
    catalog.add_proofs([ProofRow(first.id, "nas", "sample", False, 40, 0, 100, 60, "other bytes")])
    assert [(one.start, one.length, one.ok, one.when_ns) for one in catalog.proofs(first.id, "nas")] == [
        (0, 100, True, 10), (100, 60, False, 40),
    ]  # fmt: skip
    assert [one.kind for one in catalog.proofs(since_ns=20)] == ["full", "sample", "drill"]
    assert catalog.proofs(kind="drill") == [ProofRow(second.id, "nas", "drill", True, 30)]
    with pytest.raises(ValueError):
        catalog.add_proofs([ProofRow(first.id, "nas", "look", True)])


@pytest.mark.parametrize("version", [1, 2])
def test_a_catalog_of_a_version_before_gets_the_new_tables(tmp_path, version):
    with Catalog(tmp_path / "c.sqlite") as catalog:
        catalog.add_dump(dump_row())
    with sqlite3.connect(tmp_path / "c.sqlite") as database:
        for table in ("proofs", "estimates")[version - 1 :] + ("marks", "holds", "locks", "spent", "stays"):
            database.execute(f"DROP TABLE {table}")
        database.execute("DELETE FROM schema_version WHERE version > ?", (version,))
    with Catalog(tmp_path / "c.sqlite") as catalog:
        catalog.add_proofs([ProofRow(dump_row().id, "nas", "quick", True)])
        assert catalog.proofs()[0].when_ns > 0
        catalog.add_estimates([estimate_row()])
        assert catalog.estimates() == [replace(estimate_row(), when_ns=catalog.estimates()[0].when_ns)]
        marks.mark(catalog, [marks.Mark(dump_row().id, "nas", 5, "past its keep")])
        marks.mark(catalog, [marks.Mark(dump_row().id, "nas", 9, "still")])
        assert [one.when_ns for one in marks.marked(catalog).values()] == [5]
        assert marks.hold(catalog, marks.CLIENT, dump_row().client, "") and marks.marked(catalog) == {}
        locked.put_held(catalog, dump_row().id, "nas", True)
        locked.put_until(catalog, dump_row().id, "nas", 7, "governance")
        locked.put_until(catalog, "20260101T000000Z-L0-00000000", "nas", 7, "governance")  # of a dump unknown here
        assert list(locked.known(catalog).values()) == [locked.LockRow(dump_row().id, "nas", 7, "governance", True)]


def estimate_row(**values):
    row = dump_row()
    known = EstimateRow(row.id, "history", row.client, row.source, "", row.run, 0, True, 90, 90, 100)
    return replace(known, **values)


def test_estimates_are_kept_by_dump_and_way_and_asked_by_source_and_time(catalog):
    catalog.add_dump(dump_row())
    rows = [estimate_row(when_ns=5), estimate_row(how="walk", used=False, when_ns=6)]
    catalog.add_estimates([*rows, estimate_row(dump="gone")])  # of a dump that is not there
    assert catalog.estimates() == rows
    catalog.add_estimates([replace(rows[0], actual=7)])
    assert catalog.estimates(dump_row().client, dump_row().source)[0].actual == 7
    assert catalog.estimates(since_ns=6) == rows[1:]
    assert catalog.estimates("another") == []
    catalog.add_estimates([])


def test_a_copy_that_is_forgotten_is_gone(catalog):
    catalog.add_dump(dump_row())
    catalog.put_copy(CopyRow(dump_row().id, "nas", "damaged"))
    catalog.remove_copy(dump_row().id, "nas")
    catalog.remove_copy(dump_row().id, "nas")
    assert catalog.copies() == []


def test_keys_that_a_copy_got_are_noted_in_the_row_as_it_is_now(catalog):
    """A renewal of keys notes what it put; what a copy or a prune wrote meanwhile stays."""
    row = dump_row()
    catalog.add_dump(row)
    catalog.put_copy(CopyRow(row.id, "nas", "verified", {"keys": {"keys-2.tsv": "aa"}, "lock": 1}, 512, 88, 99, ""))
    assert catalog.note_keys(row.id, "nas", "keys-3.tsv", "bb")
    (copy,) = catalog.copies()
    assert copy.upload == {"keys": {"keys-2.tsv": "aa", "keys-3.tsv": "bb"}, "lock": 1}
    assert (copy.state, copy.bytes, copy.verified_ns) == ("verified", 512, 88)
    gone = replace(copy, state="expired", upload={"removing": True}, verified_ns=None, updated_ns=0)
    catalog.put_copy(gone)
    assert not catalog.note_keys(row.id, "nas", "keys-4.tsv", "cc")
    assert not catalog.note_keys(row.id, "cloud", "keys-4.tsv", "cc")
    (copy,) = catalog.copies()
    assert (copy.state, copy.upload) == ("expired", {"removing": True})


HOLD = """
import os, sys; sys.path[:0] = [os.getcwd()]
from backupcore.catalog.store import Catalog
catalog = Catalog(sys.argv[1])
with catalog._write() as connection:
    connection.exec_driver_sql("INSERT INTO counters VALUES ('a', 'b', 1)")
    print("held", flush=True); sys.stdin.readline()
"""


def test_a_writer_that_is_killed_holds_the_catalog_no_longer_and_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "catalog.sqlite"
    Catalog(path).close()
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.2)
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             text=True)  # fmt: skip
    try:
        assert other.stdout.readline() == "held\n"
        with Catalog(path) as catalog:
            assert catalog.runs() == []  # who reads is not held up
            with pytest.raises(CatalogError, match="is held by another process"):
                catalog.next_counter("a", "b")
            other.kill()
            other.wait(60)
            assert catalog.next_counter("a", "b") == 1
    finally:
        other.kill()
        other.communicate(timeout=60)


def test_every_answer_waits_for_an_fsync_that_began_after_its_commit(catalog, monkeypatch):
    real, syncs, late = os.fdatasync, [], []

    def sync(fd):
        assert os.readlink(f"/proc/self/fd/{fd}") == f"{catalog.path}-wal"
        with sqlite3.connect(catalog.path) as other:  # what is committed now will be there for good
            syncs.append(dict(other.execute("select source, last from counters")))
        other.close()
        real(fd)

    def ask(name):
        for count in range(1, 6):
            assert catalog.next_counter("web1", name) == count
            if not any(one.get(name, 0) >= count for one in list(syncs)):
                late.append((name, count))

    monkeypatch.setattr(database.os, "fdatasync", sync)
    threads = [threading.Thread(target=ask, args=(f"s{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not late and 5 <= len(syncs) <= 40


def test_only_what_can_be_found_out_again_is_not_waited_for(catalog, monkeypatch):
    real, syncs = os.fdatasync, []
    monkeypatch.setattr(database.os, "fdatasync", lambda fd: (syncs.append(fd), real(fd)))

    def waited(step, *args, **more):
        syncs.clear()
        step(*args, **more)
        return len(syncs)

    row, run = dump_row(), catalog.begin_run("run").id
    assert waited(catalog.add_dump, row) == 1
    assert waited(catalog.put_copy, CopyRow(row.id, "nas", "verified")) == 1
    assert waited(catalog.put_copy, CopyRow(row.id, "cloud"), lasting=False) == 0
    assert waited(catalog.add_result, ResultRow(run, row.client, row.source, True)) == 0
    with Catalog(catalog.path) as other:  # it is seen all the same, also by others
        assert [one.target for one in other.copies(dump=row.id)] == ["cloud", "nas"] and other.results(run)
    assert waited(catalog.end_run, run, "OK") == 1  # and is there for good with it


def test_what_goes_past_sqlalchemy_comes_back_as_it_went(catalog):
    rows = [dump_row(), dump_row("20261123T120000Z-L0-00000009", damaged=True, notes=("a", "b"))]
    for row in rows:
        catalog.add_dump(row)
    with catalog._look() as connection:
        by_it = connection.execute(statements.DUMP, {"id": rows[1].id}).one()
    assert catalog._rows(statements.DUMP, {"id": rows[1].id}) == [tuple(by_it)]
    found = catalog.dumps(rows[0].client, rows[0].source)
    assert found == rows and [one.damaged for one in found] == [False, True]
    assert all(type(one.damaged) is bool for one in found)


def test_a_statement_that_fails_leaves_nothing_behind_it(catalog):
    row = dump_row()
    catalog.add_dump(row)
    with pytest.raises(CatalogError):  # the dump's row went in before the copy, whose dump is unknown
        catalog.add_dump(dump_row("20261123T120000Z-L0-00000009"), (CopyRow("gone", "nas", "verified"),))
    assert [one.id for one in catalog.dumps()] == [row.id]
    assert catalog.next_counter(row.client, row.source) == row.counter + 1


def test_after_an_fsync_that_failed_nothing_is_believed(catalog, monkeypatch):
    def fail(_fd):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(database.os, "fdatasync", fail)
        with pytest.raises(CatalogError, match="cannot be written: Input/output error"):
            catalog.begin_run("run")
    with pytest.raises(CatalogError, match="cannot be written"):
        catalog.begin_run("run")
