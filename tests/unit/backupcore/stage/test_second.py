"""Second copies: which dumps they are of, in which order, and what an older dump gets when a policy gains a target."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from backupcore.hookspecs import TargetError
from stage_world import World

from backupcore import clock, hours
from backupcore.catalog.records import CopyRow
from backupcore.dump.space import Asker, Space
from backupcore.settings import CopyRule, HoldingDisk
from backupcore.stage import prune, release, second, stager


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    world.policy(CopyRule("nas"))
    yield world
    world.catalog.close()


def copied(world, **asked):
    chosen = second.choose(world.catalog, "nas", "disk", **asked)
    return world.stage(jobs=chosen.jobs, origin="nas", now=True)


def names(chosen):
    return [job.dump.id for job in chosen.jobs]


def released(world):
    """All images but the newest of each source leave the holding disk."""
    return release.release(world.settings, world.catalog).dumps


def test_what_one_target_has_gets_to_another_that_no_rule_names(world):
    dumps = [world.dump(), world.dump(level=1), world.dump(client="web2")]
    assert all(one.ok for one in world.stage())
    image = world.files(world.holding)
    assert released(world)
    results = copied(world)
    assert [one.dump for one in results] == [one.id for one in sorted(dumps, key=lambda one: one.begun_ns)]
    assert all(one.ok for one in results)
    assert world.files(world.root / "disk") == image
    assert all(world.states(dump) == {"nas": "verified", "disk": "verified"} for dump in dumps)
    assert not list(world.holding.rglob("*copies*")), "what they came through is gone"
    assert second.choose(world.catalog, "nas", "disk").jobs == ()
    assert len(second.choose(world.catalog, "nas", "disk").there) == 3


def test_the_copy_is_made_from_the_target_that_was_named_alone(world):
    """An image on the holding disk is nearer; who asks for that target wants to know that its copy is good."""
    dump = world.dump()
    assert all(one.ok for one in world.stage())
    there = next((world.root / "nas").rglob("image-0000*"))
    there.write_bytes(bytes(there.stat().st_size))
    (result,) = copied(world)
    assert result.failed and "copy of" in result.message and "nas is damaged" in result.message
    # what was not begun, and what no rule asks for, is not noted any more
    assert world.states(dump)["nas"] == "damaged" and world.states(dump).get("disk") in (None, "failed")
    assert not any(name.endswith("/manifest.json") for name in world.files(world.root / "disk"))


def test_bases_come_first_and_along(world):
    full, first, top = world.dump(), world.dump(level=1), world.dump(level=2)
    other = world.dump(client="web2")
    world.stage()
    assert names(second.choose(world.catalog, "nas", "disk", dumps=[top.id])) == [full.id, first.id, top.id]
    assert names(second.choose(world.catalog, "nas", "disk", clients=["web2"])) == [other.id]
    assert names(second.choose(world.catalog, "nas", "disk", sources=["web1:etc"], since_ns=top.begun_ns)) == [
        full.id, first.id, top.id,
    ]  # fmt: skip
    assert second.choose(world.catalog, "nas", "disk", since_ns=top.begun_ns + 10**15).jobs == ()


def test_a_base_that_is_nowhere_there_is_told(world):
    full, top = world.dump(), world.dump(level=1)
    world.stage()
    world.catalog.put_copy(replace(world.catalog.copies(dump=full.id)[0], state="failed"))
    chosen = second.choose(world.catalog, "nas", "disk")
    assert names(chosen) == [top.id] and chosen.lacking == ((top.id, full.id),)


def test_what_retention_removed_there_is_not_brought_back(world):
    dump = world.dump()
    world.stage()
    world.catalog.put_copy(CopyRow(dump.id, "disk", state="expired"))
    chosen = second.choose(world.catalog, "nas", "disk")
    assert chosen.jobs == () and chosen.removed == (dump.id,)


def test_damaged_dumps_and_copies_that_are_not_verified_are_no_origin(world):
    dump = world.dump()
    assert second.choose(world.catalog, "nas", "disk").jobs == ()
    world.stage()
    world.catalog.mark_damaged(dump.id)
    assert second.choose(world.catalog, "nas", "disk").jobs == ()


def test_prune_leaves_second_copies_where_no_rule_copies_their_source(world):
    world.policy(CopyRule("nas", keep={"last": 1}))
    dumps = [world.dump() for _number in range(3)]
    assert all(one.ok for one in world.stage()) and released(world)
    assert all(one.ok for one in copied(world))
    now = dumps[-1].begun_ns + 100 * 86400 * clock.NS
    for days in (0, 30, 60):  # marked, removed, and once more
        prune.prune(world.settings, world.catalog, world.opened.__getitem__, now + days * 86400 * clock.NS)
    assert [world.states(dump)["nas"] for dump in dumps] == ["expired", "expired", "verified"]
    assert [world.states(dump)["disk"] for dump in dumps] == ["verified"] * 3
    assert sum(name.endswith("/manifest.json") for name in world.files(world.root / "disk")) == 3


# -- a policy that gains a target


def test_old_dumps_get_to_a_target_that_a_policy_gains_within_its_windows_and_at_its_rate(world, monkeypatch):
    dumps = [world.dump(level=min(number, 1)) for number in range(4)]
    assert all(one.ok for one in world.stage())
    image = world.files(world.holding)
    assert released(world) == tuple(one.id for one in dumps[:3])
    never = hours.parse_windows("03:00-03:01")
    monkeypatch.setattr("backupcore.clock.now_ns", lambda: 1_790_000_000 * 10**9 + 30 * 86400 * 10**9)
    world.policy(CopyRule("nas"), CopyRule("disk", windows=never, rate=hours.parse_rates("8 Gbit/s")))
    assert {one.waits for one in world.stage()} == {True}
    assert world.files(world.root / "disk") == {}
    paced = []
    put = world.opened["disk"].put

    def counted(name, path, *, pace=None, **more):
        paced.append(pace is not None)
        return put(name, path, pace=pace, **more)

    monkeypatch.setattr(world.opened["disk"], "put", counted)
    order = []
    results = world.stage(now=True, progress=lambda event: order.append((event["dump"], event["phase"])))
    assert [one.message for one in results] == [""] * 4
    assert paced.count(True) >= 4 * 7
    assert world.files(world.root / "disk") == image
    assert hashlib.sha256(b"".join(image.values())).digest()


def test_copies_at_work_are_told_with_their_bytes(world):
    world.dump(parts=(2_000_000,))
    world.stage()
    events = []
    chosen = second.choose(world.catalog, "nas", "disk")
    world.stage(jobs=chosen.jobs, origin="nas", progress=events.append)
    assert chosen.bytes == chosen.jobs[0].dump.stored_size
    assert events[-1]["phase"] == "verified" and events[-1]["target"] == "disk"


# -- by way of a holding disk that has a limit


def through(world, use):
    """A second copy while the holding disk may take so many bytes."""
    dump = world.dump(parts=(2_000_000,))
    assert all(one.ok for one in world.stage())
    release.remove(world.settings, world.catalog, dump)
    world.settings = replace(world.settings, holding=(HoldingDisk(world.holding, use),))
    return copied(world)


def test_a_copy_by_way_of_the_holding_disk_keeps_to_its_limit(world):
    (result,) = through(world, 3 << 20)
    assert result.ok, result.message


def test_and_says_so_where_it_does_not_fit(world):
    (result,) = through(world, 2 << 20)
    assert result.failed and result.code == "holding-full"
    assert "no holding disk has room for" in result.message and result.hint.endswith("raise holding: use")
    assert not list(world.holding.rglob("*copies*"))


def test_what_dumps_have_reserved_is_not_lent(world):
    space = Space([HoldingDisk(world.holding, 10 << 20)])
    room = space.reserve(6 << 20)
    first = space.borrow(1 << 20)
    assert first.disk.path == world.holding and space.borrow(1 << 20) is None
    assert space.borrow(1, world.root) is None
    (lacks,) = space.lacks(1 << 20).values()
    assert lacks > 0
    first.close()
    assert space.borrow(1 << 20, world.holding) is not None
    room.close()


def test_while_a_dump_waits_for_room_none_is_lent(world):
    asker = Asker((0, 0), ("web1", "etc"))
    space = Space([HoldingDisk(world.holding, 10 << 20)], relief=lambda missing, dumped: ("copies", "", ""),
                  asker=lambda: asker)  # fmt: skip
    room = space.reserve(6 << 20)
    waiter = threading.Thread(target=lambda: space.reserve(6 << 20).close(), daemon=True)
    waiter.start()
    until = time.monotonic() + 60
    while not space._waiting and time.monotonic() < until:
        time.sleep(0.01)
    assert space._waiting and space.borrow(100_000) is None
    room.close()
    waiter.join(20)
    assert not waiter.is_alive() and space.borrow(100_000) is not None


# -- opened when they are read


def test_other_targets_are_left_alone_while_the_holding_image_is_there(world):
    world.dump()
    assert all(one.ok for one in world.stage())
    world.policy(CopyRule("nas"), CopyRule("disk"))
    opened = []

    def target(name):
        opened.append(name)
        return real[name]

    real = dict(world.opened)
    results = stager.stage(world.settings, world.catalog, target)
    assert [one.ok for one in results] == [True] and opened == ["disk"]


def test_an_origin_that_is_away_is_named(world):
    dump = world.dump()
    assert all(one.ok for one in world.stage())
    world.catalog.set_holding(dump.id, None)
    world.policy(CopyRule("nas"), CopyRule("disk"))

    def away(name):
        raise TargetError("no connection to nas", "look at the network", True)

    world.opened["nas"] = SimpleNamespace(
        capabilities=world.opened["nas"].capabilities, stat=away, list=away, put=away, read=away
    )
    (result,) = world.stage()
    assert (result.code, result.message) == ("target-down", "target nas: no connection to nas")
