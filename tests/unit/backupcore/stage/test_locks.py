"""Locks at targets: which dates, set and read back, held and released; at a place that keeps them, and at others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from backupcore.hookspecs import TargetContext, TargetError
from lock_place import LockPlace
from stage_world import BEGUN

from backupcore import clock
from backupcore.catalog import locked, marks
from backupcore.catalog.records import CopyRow
from backupcore.image import layout
from backupcore.settings import CopyRule
from backupcore.stage import locks
from backupcore.stage.origins import prefix_of
from backupcore.stage.release import release
from backupcore.targets.directory import DirectoryOptions

DAY = 86400 * clock.NS
MONTH = 30 * 86400.0


@pytest.fixture
def vault(world):
    """The target nas locks; its clock stands at world.now."""
    world.now = BEGUN
    context = TargetContext("nas", world.server, world.settings.state / "targets" / "nas")
    world.opened["nas"] = LockPlace(DirectoryOptions(path=world.root / "nas"), context, lambda: world.now)
    return world


def made(world, *levels):
    dumps = [world.dump(level=level) for level in levels]
    assert all(one.ok for one in world.stage())
    release(world.settings, world.catalog)
    return dumps


def applied(world, now=BEGUN, **more):
    return locks.apply(world.settings, world.catalog, world.opened.__getitem__, now, **more)


def until(world, dump):
    """The dates of all files of a dump at nas, and the row's."""
    nas = world.opened["nas"]
    found = {nas.locked(one.name).until_ns for one in nas.list(prefix_of(dump) + "/")}
    row = locked.known(world.catalog).get((dump.id, "nas"))
    assert row is None and found == {0} or found == {row.until_ns}
    return found.pop() - dump.begun_ns if row and row.until_ns else 0


def test_a_base_is_locked_as_long_as_the_newest_that_needs_it(vault):
    vault.policy(CopyRule("nas", lock=MONTH), CopyRule("disk"))
    full, change = made(vault, 0, 1)
    done = applied(vault)
    assert set(done.locked) == {(full.id, "nas"), (change.id, "nas")} and done.problems == ()
    assert until(vault, change) == 30 * DAY
    assert until(vault, full) == 31 * DAY
    (later,) = made(vault, 2)
    assert later.base == change.id
    assert len(applied(vault).locked) == 3
    assert [until(vault, one) for one in (full, change, later)] == [32 * DAY, 31 * DAY, 30 * DAY]


def test_what_is_dated_in_the_future_is_locked_from_when_it_was_copied(vault):
    """The clock ran a year ahead, and dumps are dated behind the last since; now it is right again."""
    vault.policy(CopyRule("nas", lock=MONTH), CopyRule("disk"))
    full, change = made(vault, 0, 1)
    copied = BEGUN - 365 * DAY
    for number, dump in enumerate((full, change)):
        (row,) = vault.catalog.copies(dump=dump.id, target="nas")
        vault.catalog.put_copy(replace(row, verified_ns=copied + number * DAY))
    now = copied + 2 * DAY
    applied(vault, now)
    known = locked.known(vault.catalog)
    assert known[change.id, "nas"].until_ns == copied + 31 * DAY  # not a year later
    assert known[full.id, "nas"].until_ns == copied + 31 * DAY  # as long as what needs it
    assert applied(vault, now + 5 * DAY) == locks.Applied()  # and it does not slide


def test_what_is_locked_is_not_asked_for_again(vault):
    vault.policy(CopyRule("nas", lock=MONTH), CopyRule("disk"))
    made(vault, 0, 1)
    applied(vault)
    vault.opened["nas"].calls.clear()
    assert applied(vault) == locks.Applied()
    assert vault.opened["nas"].calls == []


def test_nothing_is_locked_that_nobody_wants_locked_or_whose_date_is_past(vault):
    vault.policy(CopyRule("nas"), CopyRule("disk"))
    (full,) = made(vault, 0)
    assert applied(vault) == locks.Applied()
    assert not locks.needed(vault.settings, vault.catalog)
    vault.policy(CopyRule("nas", lock=MONTH), CopyRule("disk"))
    assert locks.needed(vault.settings, vault.catalog)
    assert applied(vault, BEGUN + 40 * DAY) == locks.Applied()
    assert until(vault, full) == 0


def test_a_base_elsewhere_is_locked_there(vault):
    context = TargetContext("disk", vault.server, vault.settings.state / "targets" / "disk")
    vault.opened["disk"] = LockPlace(DirectoryOptions(path=vault.root / "disk"), context)
    vault.policy(CopyRule("nas", dumps="incremental", lock=MONTH), CopyRule("disk", dumps="full", lock=86400.0))
    full, change = made(vault, 0, 1)
    applied(vault)
    row = locked.known(vault.catalog)[full.id, "disk"]
    assert row.until_ns == change.begun_ns + 30 * DAY and row.mode == "compliance"


def test_a_place_that_does_not_keep_a_lock_is_named(vault):
    vault.policy(CopyRule("nas", lock=MONTH), CopyRule("disk"))
    (full,) = made(vault, 0)
    name = f"{prefix_of(full)}/{layout.MANIFEST}"
    vault.opened["nas"].forgets.add(name)
    (problem,) = applied(vault).problems
    assert problem.startswith(f"target nas: {name} is locked not at all, and was to be until ")
    assert locked.known(vault.catalog) == {}
    vault.opened["nas"].forgets.clear()
    assert applied(vault).locked == ((full.id, "nas"),)


def test_a_place_that_cannot_lock_is_named_each_time(world):
    world.policy(CopyRule("nas", lock=MONTH), CopyRule("disk"))
    made(world, 0)
    for _night in range(2):
        (problem,) = applied(world).problems
        assert problem.startswith("target nas cannot lock: 1 copies there can be removed")


def test_a_place_that_is_away_costs_that_place_alone(vault):
    context = TargetContext("disk", vault.server, vault.settings.state / "targets" / "disk")
    vault.opened["disk"] = LockPlace(DirectoryOptions(path=vault.root / "disk"), context)
    vault.policy(CopyRule("nas", lock=MONTH), CopyRule("disk", lock=MONTH))
    (full,) = made(vault, 0)
    disk = vault.opened["disk"]

    def open_target(name):
        if name == "nas":
            raise TargetError("no route")
        return disk

    done = locks.apply(vault.settings, vault.catalog, open_target, BEGUN)
    assert done.locked == ((full.id, "disk"),)
    assert done.problems == ("target nas: no route: 1 copies there are not locked as they should be",)


def test_a_copy_that_was_made_anew_is_locked_anew(vault):
    vault.policy(CopyRule("nas", lock=MONTH), CopyRule("disk"))
    (full,) = made(vault, 0)
    applied(vault)
    (vault.root / "nas.locks").unlink()  # other files under the same names
    assert applied(vault).locked == ()
    assert applied(vault, anew={(full.id, "nas")}).locked == ((full.id, "nas"),)
    assert until(vault, full) == 30 * DAY


@pytest.mark.parametrize("state", ["failed", "copying", "damaged", "expired"])
def test_only_what_is_whole_is_locked(vault, state):
    vault.policy(CopyRule("nas", lock=MONTH), CopyRule("disk"))
    (full,) = made(vault, 0)
    vault.catalog.put_copy(CopyRow(full.id, "nas", state))
    assert applied(vault) == locks.Applied()


def test_a_hold_is_set_at_the_place_with_its_chain_and_ended_there(vault):
    full, change, other = made(vault, 0, 1, 0)
    marks.hold(vault.catalog, marks.DUMP, change.id, "court")
    assert set(applied(vault).held) == {(full.id, "nas"), (change.id, "nas")}
    nas = vault.opened["nas"]
    for dump, on in ((full, True), (change, True), (other, False)):
        assert {nas.locked(one.name).held for one in nas.list(prefix_of(dump) + "/")} == {on}
    assert applied(vault) == locks.Applied()
    marks.hold(vault.catalog, marks.DUMP, full.id, "too")
    marks.release(vault.catalog, marks.DUMP, change.id)
    assert applied(vault).released == ((change.id, "nas"),)
    assert {nas.locked(one.name).held for one in nas.list(prefix_of(full) + "/")} == {True}
    marks.release(vault.catalog, marks.DUMP, full.id)
    assert applied(vault).released == ((full.id, "nas"),)
    assert not any(row.held for row in locked.known(vault.catalog).values())


def test_a_hold_ends_with_the_credential_that_may_remove(vault):
    (full,) = made(vault, 0)
    marks.hold(vault.catalog, marks.CLIENT, "web1", "")
    applied(vault)
    marks.release(vault.catalog, marks.CLIENT, "web1")

    def refused(_name):
        raise TargetError("wrong key")

    done = applied(vault, open_pruning=refused)
    assert done.released == () and done.problems == ("target nas: wrong key: what was released is still held there",)
    nas = vault.opened["nas"]
    vault.opened["nas"] = None
    assert locks.apply(vault.settings, vault.catalog, lambda _name: nas, BEGUN).released == ((full.id, "nas"),)


def test_a_hold_that_comes_back_meanwhile_stays(vault):
    (full,) = made(vault, 0)
    marks.hold(vault.catalog, marks.CLIENT, "web1", "")
    applied(vault)
    marks.release(vault.catalog, marks.CLIENT, "web1")
    nas = vault.opened["nas"]

    def open_target(_name):
        marks.hold(vault.catalog, marks.CLIENT, "web1", "again")
        return nas

    assert locks.apply(vault.settings, vault.catalog, open_target, BEGUN).released == ()
    assert {nas.locked(one.name).held for one in nas.list(prefix_of(full) + "/")} == {True}


def test_what_a_rebuilt_catalog_reads_back(vault):
    vault.policy(CopyRule("nas", lock=MONTH), CopyRule("disk"))
    full, change, other = made(vault, 0, 1, 0)
    marks.hold(vault.catalog, marks.DUMP, change.id, "court")
    applied(vault)
    before = locked.known(vault.catalog)
    for row in (full, change, other):
        locked.forget(vault.catalog, row.id)
    marks.release(vault.catalog, marks.DUMP, change.id)
    assert locks.read_back(vault.catalog, vault.opened["nas"], "nas") == (3, 2)
    assert locked.known(vault.catalog) == before
    assert {(one.name, one.why) for one in marks.held(vault.catalog)} == {
        (full.id, "found held on nas"), (change.id, "found held on nas"),
    }  # fmt: skip
    assert locks.read_back(vault.catalog, vault.opened["disk"], "disk") == (0, 0)


def test_a_place_that_refuses_is_left_alone_soon(vault, monkeypatch):
    vault.policy(CopyRule("nas", lock=MONTH), CopyRule("disk"))
    made(vault, *[0] * 12)
    asked = []

    def refuse(name, _until_ns):
        asked.append(name)
        raise TargetError("AccessDenied")

    monkeypatch.setattr(vault.opened["nas"], "lock", refuse)
    assert applied(vault).problems == ("target nas: AccessDenied (and 7 more)",)
    assert len(asked) == 8


def test_sources_that_are_not_named_are_left_alone(vault):
    vault.policy(CopyRule("nas", lock=MONTH), CopyRule("disk"))
    one, other = vault.dump(), vault.dump(client="web2")
    assert all(found.ok for found in vault.stage())
    assert applied(vault, sources=[("web2", "etc"), ("web9", "etc")]).locked == ((other.id, "nas"),)
    assert until(vault, one) == 0


def test_for_ever_ends_somewhere(vault):
    vault.policy(CopyRule("nas", lock=3e12), CopyRule("disk"))
    (full,) = made(vault, 0)
    assert applied(vault).problems == ()
    assert clock.iso(locked.known(vault.catalog)[full.id, "nas"].until_ns).startswith("2200-01-01")


def test_a_copy_that_was_mended_is_locked_anew(vault):
    vault.policy(CopyRule("nas", lock=MONTH), CopyRule("disk"))
    (full,) = made(vault, 0)
    applied(vault)
    (part,) = (vault.root / "nas").rglob("image-0000.tar.zst")
    part.write_bytes(b"spoiled")
    vault.catalog.put_copy(CopyRow(full.id, "nas", "damaged"))
    assert [one.ok for one in vault.stage()] == [True]
    assert locked.known(vault.catalog) == {}
    assert applied(vault).locked == ((full.id, "nas"),) and until(vault, full) == 30 * DAY
