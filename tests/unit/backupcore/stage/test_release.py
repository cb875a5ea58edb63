"""Which images leave the holding disk, and how."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from backupcore.catalog.records import CopyRow
from backupcore.settings import CopyRule
from backupcore.stage.release import TRASH, release


def held(world):
    return {row.id for row in world.catalog.dumps() if row.holding}


def verified(world, *dumps, targets=("nas", "disk")):
    for dump in dumps:
        for target in targets:
            world.catalog.put_copy(CopyRow(dump.id, target, "verified"))


@pytest.mark.parametrize("keep, expected", [(0, 0), (1, 1), (2, 2), (3, 3), (9, 3)])
def test_the_newest_stay(world, keep, expected):
    world.policy(CopyRule("nas"), CopyRule("disk"), keep=keep)
    dumps = [world.dump(), world.dump(level=1), world.dump(level=1)]
    verified(world, *dumps)
    released = release(world.settings, world.catalog)
    stay = dumps[len(dumps) - expected :]
    assert set(released.dumps) == {dump.id for dump in dumps} - {dump.id for dump in stay}
    assert held(world) == {dump.id for dump in stay}
    assert [Path(dump.holding).exists() for dump in dumps] == [dump in stay for dump in dumps]
    assert released.problems == ()


@pytest.mark.parametrize("state", ["wanted", "copying", "done", "failed", "expired", None])
def test_every_wanted_copy_must_be_verified(world, state):
    old, new = world.dump(), world.dump()
    verified(world, old, new)
    if state:
        world.catalog.put_copy(CopyRow(old.id, "disk", state))
    else:
        world.policy(CopyRule("nas"), CopyRule("disk"), CopyRule("third"))
    assert release(world.settings, world.catalog).dumps == ()
    assert Path(old.holding).is_dir()


def test_without_wanted_copies_nothing_ever_goes(world):
    dumps = [world.dump() for _ in range(3)]
    verified(world, *dumps)
    world.policy()
    assert release(world.settings, world.catalog).dumps == ()
    assert held(world) == {dump.id for dump in dumps}


def test_an_incremental_that_only_fulls_are_copied_of_stays(world):
    world.policy(CopyRule("nas", dumps="full"))
    full, change, new = world.dump(), world.dump(level=1), world.dump()
    verified(world, full, new, targets=["nas"])
    assert release(world.settings, world.catalog).dumps == (full.id,)
    assert held(world) == {change.id, new.id}


def test_each_source_keeps_its_own_newest(world):
    dumps = [world.dump("web1"), world.dump("web1"), world.dump("web2"), world.dump("web2")]
    verified(world, *dumps)
    assert set(release(world.settings, world.catalog).dumps) == {dumps[0].id, dumps[2].id}


def test_the_newest_by_counter_stay_whatever_the_clock_said(world):
    world.policy(CopyRule("nas"))
    first, second = world.dump(counter=5), world.dump(counter=4)
    verified(world, first, second, targets=["nas"])
    assert release(world.settings, world.catalog).dumps == (second.id,)


def test_a_damaged_dump_stays_for_a_person(world):
    old, new = world.dump(), world.dump()
    verified(world, old, new)
    world.catalog.mark_damaged(old.id)
    assert release(world.settings, world.catalog).dumps == ()


def test_a_place_that_is_no_dumps_place_is_never_removed(world, tmp_path):
    old, other, new = world.dump(), world.dump(), world.dump()
    verified(world, old, other, new)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    world.catalog.set_holding(old.id, precious)
    shutil.rmtree(other.holding)
    Path(other.holding).symlink_to(precious)
    released = release(world.settings, world.catalog)
    assert released.dumps == () and len(released.problems) == 2
    assert (precious / "file").read_text() == "x"
    assert old.id in held(world)


def test_an_unmounted_holding_disk_loses_no_row(world):
    old, new = world.dump(), world.dump()
    verified(world, old, new)
    world.holding.rename(world.root / "away")
    released = release(world.settings, world.catalog)
    assert released.dumps == () and "mounted" in released.problems[0]
    assert old.id in held(world)


def test_the_catalog_forgets_first_and_a_cut_removal_is_nobodys(world, monkeypatch):
    old, new = world.dump(), world.dump()
    verified(world, old, new)
    seen = []

    def cut(path):
        seen.append((Path(path), held(world), sorted(os.listdir(path))))
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("backupcore.stage.release.shutil.rmtree", cut)
    released = release(world.settings, world.catalog)
    ((place, known, left),) = seen
    assert place == world.holding / TRASH / old.id
    assert known == {new.id}
    assert "manifest.json" not in left and "image-0000.tar.zst" in left
    assert released.dumps == () and "Input/output" in released.problems[0]
    assert not Path(old.holding).exists()


def test_the_next_sweep_clears_what_a_cut_removal_left(world, monkeypatch):
    from backupcore.dump.sweep import sweep

    old, new = world.dump(), world.dump()
    verified(world, old, new)
    with monkeypatch.context() as patched:
        patched.setattr("backupcore.stage.release.shutil.rmtree", lambda path: None)
        release(world.settings, world.catalog)
    assert (world.holding / TRASH / old.id / "image-0000.tar.zst").exists()
    sweep(world.settings, world.catalog)
    assert not (world.holding / TRASH).exists()
    assert held(world) == {new.id} and Path(new.holding).is_dir()


def test_empty_folders_go_too(world):
    world.policy(CopyRule("nas"), keep=0)
    dump = world.dump("web2")
    verified(world, dump, targets=["nas"])
    release(world.settings, world.catalog)
    assert {path.name for path in world.holding.iterdir()} <= {".incoming", ".stowage"}


def test_a_source_that_left_the_configuration_keeps_one(world):
    old, new = world.dump("web2"), world.dump("web2")
    verified(world, old, new)
    world.settings = replace(world.settings, clients={})
    assert release(world.settings, world.catalog).dumps == (old.id,)


def test_many_leave_by_few_steps_and_one_that_cannot_keeps_no_other(world, monkeypatch):
    from backupcore.stage import release as room

    dumps = [world.dump() for _ in range(5)]
    verified(world, *dumps)
    monkeypatch.setattr(room, "AT_ONCE", 3)
    commits, rename, forget = [], os.rename, world.catalog.set_holding

    def counted(first, folder, also):
        commits.append(1 + len(also))
        forget(first, folder, also)

    monkeypatch.setattr(world.catalog, "set_holding", counted)

    def refuse(source, dest):
        if str(source).endswith(dumps[1].id):
            raise OSError(5, "Input/output error")
        rename(source, dest)

    monkeypatch.setattr(room.os, "rename", refuse)
    done = release(world.settings, world.catalog)
    assert commits == [3, 1] and list(done.dumps) == [dumps[number].id for number in (0, 2, 3)]
    assert [dump.id for dump in dumps if Path(dump.holding).exists()] == [dumps[1].id, dumps[4].id]
    assert done.problems == (f"{dumps[1].holding} cannot be removed: Input/output error",)
    assert not (world.holding / TRASH).exists()
