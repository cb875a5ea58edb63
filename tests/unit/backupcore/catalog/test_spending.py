"""What targets were used for, and how long copies lay there: rows that follow the copies, and outlive them."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest
from backupcore.hookspecs import Spent
from stage_world import World

from backupcore.catalog import marks, spending
from backupcore.catalog.records import CopyRow
from backupcore.catalog.spending import Stay
from backupcore.catalog.store import Catalog
from backupcore.settings import CopyRule

EVER = 1 << 62


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    world.policy(CopyRule("nas"), CopyRule("disk"))
    yield world
    world.catalog.close()


def stays(world):
    return spending.stays_between(world.catalog, 0, EVER)


def test_what_targets_were_used_for_is_added_up_by_month(world):
    spending.add_spent(world.catalog, "cloud", Spent(1, 2, 3, 4, 5, 6), "2026-10")
    spending.add_spent(world.catalog, "cloud", Spent(10, 20, 30, 40, 50, 60), "2026-10")
    spending.add_spent(world.catalog, "cloud", Spent(write=7), "2026-11")
    spending.add_spent(world.catalog, "nas", Spent(sent=1 << 60), "2026-11")
    assert spending.spent_by_month(world.catalog) == {
        ("cloud", "2026-10"): Spent(11, 22, 33, 44, 55, 66), ("cloud", "2026-11"): Spent(write=7),
        ("nas", "2026-11"): Spent(sent=1 << 60),
    }  # fmt: skip


def test_a_staged_copy_stays_with_its_files_and_bytes(world):
    dump = world.dump()
    world.stage()
    for stay in stays(world):
        files = [path.stat().st_size for path in (world.root / stay.target).rglob(f"{dump.id}/*")]
        row = world.catalog.copies(dump.id, stay.target)[0]
        assert (stay.dump, stay.client, stay.source, stay.gone_ns) == (dump.id, "web1", "etc", None)
        assert stay.bytes == row.bytes == sum(files)
        assert stay.objects == stay.small in (len(files), len(files) - 1)  # a manifest that was read back is not named
        assert stay.came_ns <= row.verified_ns
    assert len(stays(world)) == 2


def test_a_copy_that_is_removed_has_been_there_until_its_last_file_was_gone(world):
    dump = world.dump()
    world.stage()
    row = world.catalog.copies(dump.id, "nas")[0]
    going = replace(row, state="expired", upload={"removing": True}, verified_ns=None, updated_ns=0)
    world.catalog.put_copy(going)
    assert all(stay.gone_ns is None for stay in stays(world))
    world.catalog.put_copy(replace(going, upload={}, bytes=0, updated_ns=1 << 61))
    (gone,) = [stay for stay in stays(world) if stay.gone_ns is not None]
    assert (gone.target, gone.bytes, gone.gone_ns) == ("nas", row.bytes, 1 << 61)
    world.catalog.put_copy(replace(row, updated_ns=(1 << 61) + 5))  # staged anew: a time of its own
    assert [(stay.came_ns, stay.gone_ns) for stay in stays(world) if stay.target == "nas"][1] == ((1 << 61) + 5, None)


def test_a_stay_outlives_its_dump(world):
    dump = world.dump()
    world.stage()
    world.catalog.set_holding(dump.id, None)
    for row in world.catalog.copies(dump.id):
        world.catalog.put_copy(replace(row, state="expired", upload={}, bytes=0))
    marks.forget(world.catalog, dump.id)
    assert world.catalog.dump(dump.id) is None
    assert [stay.dump for stay in stays(world)] == [dump.id] * 2


def test_only_what_lay_there_in_that_time_is_told(world):
    dump = world.dump()
    world.catalog.put_copy(CopyRow(dump.id, "nas", "verified", {}, 7, 1000, 1000))
    world.catalog.put_copy(CopyRow(dump.id, "nas", "expired", {}, 0, None, 2000))
    told = Stay(dump.id, "nas", 1000, "web1", "etc", 7, gone_ns=2000)
    for begin, end, found in ((0, 1000, []), (0, 1001, [told]), (1999, 5000, [told]), (2000, 5000, [])):
        assert spending.stays_between(world.catalog, begin, end) == found


@pytest.mark.parametrize("state", ["wanted", "copying", "failed"])
def test_what_is_not_whole_is_no_stay(world, state):
    dump = world.dump()
    world.catalog.put_copy(CopyRow(dump.id, "nas", state, {}, 7))
    assert stays(world) == []


def test_a_catalog_of_before_knows_what_lies_there_now(world):
    first, second = world.dump(), world.dump()
    world.stage()
    world.catalog.put_copy(CopyRow(second.id, "nas", "expired", {}, 0))
    before = {(stay.dump, stay.target): stay.bytes for stay in stays(world) if stay.gone_ns is None}
    when = {(row.dump, row.target): row.verified_ns for row in world.catalog.copies()}
    world.catalog.close()
    path = world.catalog.path
    with sqlite3.connect(path) as database:
        database.executescript("DROP TABLE spent; DROP TABLE stays; DELETE FROM schema_version WHERE version > 6")
    world.catalog = Catalog(path)
    assert {(stay.dump, stay.target): stay.bytes for stay in stays(world)} == before
    assert len(before) == 3 and first.id in {name for name, _target in before}
    assert all(stay.came_ns == when[stay.dump, stay.target] for stay in stays(world))
