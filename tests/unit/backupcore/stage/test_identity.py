"""One place under two addresses: found at the place itself, refused, nothing removed; a copied place is another one."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
from backupcore.hookspecs import Asleep, TargetContext, TargetError
from stage_world import BEGUN, World

from backupcore import clock
from backupcore.app import check_targets
from backupcore.settings import CopyRule
from backupcore.stage import prune
from backupcore.stage.identity import Identities, SamePlace
from backupcore.targets.directory import DirectoryOptions, DirectoryTarget

DAY = 86400 * clock.NS


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.catalog.close()


def another_address(world, name="disk", of="nas"):
    """The target name is the place of another, as by another mount of it."""
    (world.root / of).mkdir(exist_ok=True)
    link = world.root / f"{name}-link"
    link.symlink_to(world.root / of)
    context = TargetContext(name, world.server, world.settings.state / "targets" / name)
    world.opened[name] = DirectoryTarget(DirectoryOptions(path=link), context)


def mark(world, name):
    return (world.root / name / ".stowage" / world.server).read_text().splitlines()


def identities(world):
    return Identities(world.settings, world.server, world.opened.__getitem__)


def test_every_target_gets_a_mark_of_its_own(world):
    world.dump()
    assert all(one.ok for one in world.stage())
    assert mark(world, "nas")[0] == mark(world, "disk")[0] == world.server
    assert len(mark(world, "nas")[1]) == 32 and mark(world, "nas")[1] != mark(world, "disk")[1]
    before = mark(world, "nas"), mark(world, "disk")
    world.dump()
    assert all(one.ok for one in world.stage())
    assert (mark(world, "nas"), mark(world, "disk")) == before


def test_a_mark_of_an_older_version_gets_an_id(world):
    world.dump()
    world.stage()
    (world.root / "nas/.stowage" / world.server).write_text(world.server + "\n")
    world.dump()
    assert all(one.ok for one in world.stage())
    assert len(mark(world, "nas")) == 2 and list(identities(world).twins()) == []


@pytest.mark.parametrize("attempt", range(5))
def test_one_place_under_two_addresses_is_refused_though_both_come_at_once(world, attempt):
    another_address(world)
    dumps = [world.dump(), world.dump(client="web2")]
    results = world.stage()
    failed = [one for one in results if one.failed]
    refused = {one.target for one in failed}
    assert len(refused) == 1 and len(failed) == 2 and sum(one.ok for one in results) == 2
    assert all("are one place under two addresses" in one.message for one in failed)
    assert all(one.hint == "take one of the two out of the configuration" for one in failed)
    for _again in range(2):  # it stays so
        assert {one.target for one in world.stage() if one.failed} == refused
    (good,) = {"nas", "disk"} - refused
    assert all(world.states(dump)[good] == "verified" for dump in dumps)


def test_what_old_configurations_copied_to_both_is_not_removed_by_either(world):
    dumps = [world.dump() for _number in range(3)]
    world.policy(CopyRule("nas", keep={"last": 1}))
    assert all(one.ok for one in world.stage())
    another_address(world)
    for dump in dumps:  # as a version before this one would have
        (row,) = world.catalog.copies(dump=dump.id, target="nas")
        world.catalog.put_copy(replace(row, target="disk"))
        world.catalog.set_holding(dump.id, None)
    world.policy(CopyRule("nas", keep={"last": 1}), CopyRule("disk"))
    before = world.files(world.root / "nas")
    for days in (10, 40):
        done = prune.prune(world.settings, world.catalog, world.opened.__getitem__, BEGUN + days * DAY)
    assert done.removed == () and any("one place under two addresses" in one for one in done.problems)
    assert set(world.files(world.root / "nas")) == set(before)


def test_prune_removes_where_targets_are_places_of_their_own(world):
    world.policy(CopyRule("nas", keep={"last": 1}), CopyRule("disk", keep={"last": 1}))
    dumps = [world.dump() for _number in range(3)]
    assert all(one.ok for one in world.stage())
    for dump in dumps:
        world.catalog.set_holding(dump.id, None)
    for days in (10, 40):
        done = prune.prune(world.settings, world.catalog, world.opened.__getitem__, BEGUN + days * DAY)
    assert len(done.removed) == 4 and done.problems == ()


def test_a_place_that_was_copied_whole_is_another_one_from_then_on(world):
    dump = world.dump()
    world.policy(CopyRule("nas"))
    world.stage()
    shutil.copytree(world.root / "nas", world.root / "disk")
    world.policy(CopyRule("nas"), CopyRule("disk"))
    assert all(one.ok for one in world.stage())
    assert world.states(dump) == {"nas": "verified", "disk": "verified"}
    assert mark(world, "nas")[1] != mark(world, "disk")[1] and list(identities(world).twins()) == []


def test_while_the_other_is_away_it_is_not_guessed(world):
    world.policy(CopyRule("nas"))
    world.dump()
    world.stage()
    shutil.copytree(world.root / "nas", world.root / "disk")
    world.policy(CopyRule("disk"))
    before = mark(world, "disk")

    def away(name):
        raise TargetError("no connection")

    good, world.opened["nas"] = world.opened["nas"], SimpleNamespace(stat=away)
    (result,) = [one for one in world.stage() if one.target == "disk"]
    assert result.failed and mark(world, "disk") == before
    assert "shows the mark of target nas, which cannot be asked now: no connection" in result.message
    world.opened["nas"] = good
    assert all(one.ok for one in world.stage())


def test_a_target_that_moved_leaves_its_place_to_another(world):
    """What is remembered of other options says nothing."""
    world.policy(CopyRule("nas"))
    world.dump()
    world.stage()
    targets = dict(world.settings.targets)
    targets["nas"] = replace(targets["nas"], options={"path": "/elsewhere"})
    world.settings = replace(world.settings, targets=targets)
    another_address(world)
    identities(world).settle("disk", world.opened["disk"])


def test_a_mark_that_sleeps_or_says_nonsense_is_put_anew(world):
    world.policy(CopyRule("nas"))
    world.dump()
    world.stage()
    path, real = world.root / "nas/.stowage" / world.server, world.opened["nas"].read
    first = mark(world, "nas")

    def asleep(name, *where):
        raise Asleep("archived")

    world.opened["nas"].read = asleep
    identities(world).settle("nas", world.opened["nas"])
    world.opened["nas"].read = real
    assert mark(world, "nas")[1] != first[1]
    for content in (b"", b"\xff\n" * 5000, f"{world.server}\n../../x\n".encode()):
        path.write_bytes(content)
        identities(world).settle("nas", world.opened["nas"])
        assert len(mark(world, "nas")[1]) == 32


def test_where_an_old_mark_cannot_be_replaced_copies_are_made_all_the_same(world):
    world.policy(CopyRule("nas"))
    world.dump()
    world.stage()
    (world.root / "nas/.stowage" / world.server).write_text(world.server + "\n")
    real = world.opened["nas"].put

    def put(name, *args, **more):
        if name.endswith(world.server):
            raise TargetError("access denied")
        return real(name, *args, **more)

    world.opened["nas"].put = put
    world.dump()
    assert all(one.ok for one in world.stage())


def test_two_that_become_ready_at_once_see_each_other(world):
    another_address(world)
    found = []

    def settle(name):
        try:
            identities(world).settle(name, world.opened[name])
        except SamePlace as error:
            found.append(error.names)

    threads = [threading.Thread(target=settle, args=(name,)) for name in ("nas", "disk")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 1 and set(found[0]) == {"nas", "disk"}


def test_check_says_so_and_writes_nothing(world):
    world.policy(CopyRule("nas"))
    world.dump()
    world.stage()
    before = mark(world, "nas")
    another_address(world)
    engine = SimpleNamespace(settings=world.settings, server_id=world.server, target=world.opened.__getitem__)
    told = [one for one in check_targets.look(engine, "disk") if one.status == "FAIL"]
    assert [one.message for one in told] == [
        "it shows the mark of target nas: one place under two addresses, or a copy of that"
    ]
    assert not [one for one in check_targets.look(engine, "nas") if one.status == "FAIL"]
    assert mark(world, "nas") == before


def asked(world, *names):
    engine = SimpleNamespace(settings=world.settings, server_id=world.server, target=world.opened.__getitem__)
    return [(one.status, one.name, one.message) for one in check_targets.alike(engine, names)]


def test_a_first_check_sees_one_place_under_two_addresses_and_leaves_nothing(world):
    another_address(world)
    ((status, name, told),) = asked(world, "nas", "disk")
    assert (status, name) == ("FAIL", "disk")
    assert told.startswith("targets nas and disk are one place under two addresses")
    assert not [one for one in (world.root / "nas").rglob("*") if one.is_file()]
    assert asked(world, "nas") == [] == asked(world, "disk")


def test_a_first_check_of_two_places_says_nothing_and_leaves_nothing(world):
    assert asked(world, "nas", "disk") == []
    assert not [one for name in ("nas", "disk") for one in (world.root / name).rglob("*") if one.is_file()]


def test_a_place_that_refuses_the_trial_says_nothing_of_the_others(world):
    another_address(world)
    real = world.opened["nas"]

    class Refuses:
        def __getattr__(self, name):
            return getattr(real, name)

        def put(self, *_args, **_more):
            raise TargetError("no room")

    world.opened["nas"] = Refuses()
    assert asked(world, "nas", "disk") == []


def test_a_marked_place_is_not_tried(world):
    world.dump()
    world.stage()
    put = []
    for name in ("nas", "disk"):
        world.opened[name].put = lambda *args, **more: put.append(args)
    assert asked(world, "nas", "disk") == [] and put == []
