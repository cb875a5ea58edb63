"""What happened is forgotten in time, and nothing that is still needed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backupcore import clock
from backupcore.catalog import past, places, spending
from backupcore.catalog.records import CopyRow, DumpRow, ResultRow
from backupcore.catalog.store import Catalog

DAY = 86400 * clock.NS
NOW = 1000 * DAY
DUMP = DumpRow(
    id="20261122T120000Z-L0-00000001", client="web1", source="etc", segment="", type="tree", path="/etc", level=0,
    counter=1, begun_ns=NOW, ended_ns=NOW, base=None, previous=None, run="", codec="zstd", archive_size=1,
    stored_size=1, entries=1, files=1, holding=None, manifest_sha256="0" * 64,
)  # fmt: skip


@pytest.fixture
def catalog(tmp_path):
    with Catalog(tmp_path / "catalog.sqlite") as made:
        yield made


def run(catalog, tmp_path, monkeypatch, day, kind="run", end=True):
    monkeypatch.setattr(clock, "now_ns", lambda: day * DAY)
    made = catalog.begin_run(kind, day * DAY)
    catalog.add_result(ResultRow(made.id, "web1", "etc", True, 0, None, code="", message="", hint="", seconds=1.0,
                                 warning=False))  # fmt: skip
    if end:
        catalog.end_run(made.id, "OK")
    record = places.run_record(tmp_path, made.id)
    record.parent.mkdir(exist_ok=True)
    for path in (record, record.with_suffix(".sig")):
        path.write_text("x")
    return made.id


def test_old_runs_go_with_results_and_records(catalog, tmp_path, monkeypatch):
    monkeypatch.setattr(past, "LEAST", 2)
    old = [run(catalog, tmp_path, monkeypatch, day) for day in range(100, 110)]
    unended = run(catalog, tmp_path, monkeypatch, 111, end=False)
    other = run(catalog, tmp_path, monkeypatch, 100, kind="verify")
    used = old[3]
    catalog.add_dump(replace(DUMP, run=used))
    new = [run(catalog, tmp_path, monkeypatch, day) for day in (900, 950)]
    assert past.forget(catalog, tmp_path, 99 * DAY) == 0
    assert past.forget(catalog, tmp_path, 500 * DAY) == 10
    assert {one.id for one in catalog.runs()} == {used, other, *new}
    assert unended not in {one.id for one in catalog.runs()}
    kept = {used, other, *new}
    assert {path.stem for path in (tmp_path / "runs").iterdir()} == kept
    assert catalog.results(old[0]) == [] and len(catalog.results(used)) == 1
    assert past.forget(catalog, tmp_path, 500 * DAY) == 0


def test_the_last_of_each_kind_are_remembered_however_old(catalog, tmp_path, monkeypatch):
    monkeypatch.setattr(past, "LEAST", 3)
    for kind in ("run", "drill"):
        for day in range(10):
            run(catalog, tmp_path, monkeypatch, day, kind)
    past.forget(catalog, tmp_path, NOW)
    assert [(one.kind, one.begun_ns // DAY) for one in catalog.runs() if one.kind == "drill"] == [
        ("drill", 7), ("drill", 8), ("drill", 9)]  # fmt: skip
    assert len(catalog.runs()) == 6


def test_what_is_forgotten_at_once_is_bounded_and_the_next_goes_on(catalog, tmp_path, monkeypatch):
    monkeypatch.setattr(past, "LEAST", 0)
    monkeypatch.setattr(past, "AT_ONCE", 4)
    for day in range(10):
        run(catalog, tmp_path, monkeypatch, day)
    assert [past.forget(catalog, tmp_path, NOW) for _ in range(4)] == [4, 4, 2, 0]


def test_stays_that_ended_long_ago_go_and_those_that_last_do_not(catalog, tmp_path, monkeypatch):
    for number, (came, gone) in enumerate(((10, 20), (10, 600), (10, None))):
        name = f"20261122T120000Z-L0-0000000{number}"
        catalog.add_dump(replace(DUMP, id=name, counter=number + 1))
        monkeypatch.setattr(clock, "now_ns", lambda came=came: came * DAY)
        row = CopyRow(name, "nas", "verified", {}, 5)
        catalog.put_copy(row)
        if gone is not None:
            monkeypatch.setattr(clock, "now_ns", lambda gone=gone: gone * DAY)
            catalog.put_copy(replace(row, state="expired", updated_ns=0))
    assert len(spending.stays_between(catalog, 0, NOW)) == 3
    past.forget(catalog, tmp_path, 500 * DAY)
    assert sorted(one.gone_ns is None for one in spending.stays_between(catalog, 0, NOW)) == [False, True]
