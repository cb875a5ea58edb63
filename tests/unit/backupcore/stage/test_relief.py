"""Room in need: what leaves, what comes first, what is said; and copies as a service beside dumps."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from backupcore.hookspecs import TargetError

from backupcore import clock, hours
from backupcore.app.beside import Beside
from backupcore.dump import space
from backupcore.settings import CopyRule
from backupcore.stage import release, stager
from backupcore.stage.relief import Relief


class Slow:
    """A target around another that waits where the test says, or fails."""

    def __init__(self, inner):
        self.inner, self.go, self.begun, self.error = inner, threading.Event(), threading.Event(), None
        self.go.set()
        self.order = []

    def put(self, name, path, **options):
        if name.endswith("image-0000.tar.zst"):
            self.order.append(name.split("/")[0])
            self.begun.set()
            assert self.go.wait(60)
        if self.error:
            raise self.error
        return self.inner.put(name, path, **options)

    def __getattr__(self, name):
        return getattr(self.inner, name)


@pytest.fixture
def nas(world):
    world.policy(CopyRule("nas"), clients=("web1", "web2", "web3"))
    world.opened["nas"] = Slow(world.opened["nas"])
    return world.opened["nas"]


def service(world, **how):
    return stager.beside_dumps(world.settings, world.catalog, world.opened.__getitem__, **how)


def until(check):
    for _ in range(6000):
        if check():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to it")


def held(world):
    return [row.client for row in world.catalog.held()]


def test_a_dump_is_copied_as_soon_as_it_is_in_the_catalog(world, nas):
    with service(world) as made:
        dump = world.dump("web1")
        made.made("web1", "etc")
        until(lambda: world.states(dump) == {"nas": "verified"})
        later = world.dump("web2")
        made.made("web2", "etc")
        results = made.finish()
    assert [one.dump for one in results] == [dump.id, later.id] and all(one.ok for one in results)


def test_dumps_of_other_sources_than_asked_for_are_not_copied(world, nas):
    old = world.dump("web2")
    with service(world, sources=[("web1", "etc")]) as made:
        dump = world.dump("web1")
        made.made("web1", "etc")
        made.made("web2", "etc")
        assert [one.dump for one in made.finish()] == [dump.id]
    assert world.states(old) == {}


def test_while_dumps_are_at_work_a_target_gets_one_copy_at_a_time_and_then_as_many_as_may_be(world, nas):
    dumps = [world.dump(f"web{number % 3 + 1}") for number in range(4)]
    nas.go.clear()
    with service(world) as made:
        until(lambda: len(nas.order) == 1)
        time.sleep(0.2)
        assert len(nas.order) == 1
        threading.Timer(0.3, nas.go.set).start()
        results = made.finish()
    assert [one.dump for one in results] == [dump.id for dump in dumps]  # the oldest first, whoever was quicker


def test_an_end_without_finish_stops_what_is_at_work(world, nas):
    dump = world.dump("web1")
    nas.go.clear()
    with pytest.raises(KeyboardInterrupt), service(world):
        nas.begun.wait(60)
        threading.Timer(0.2, nas.go.set).start()
        raise KeyboardInterrupt
    assert world.states(dump)["nas"] in ("copying", "wanted")
    assert not [one for one in threading.enumerate() if one.name.startswith("copy ")]


def test_in_need_what_is_verified_leaves_the_oldest_first_and_no_more_than_is_needed(world, nas):
    for number, client in enumerate(("web1", "web2", "web3"), 1):
        world.dump(client, counter=number)
    world.stage()
    assert held(world) == ["web1", "web2", "web3"]  # the newest of each stays, while nobody is in need
    with service(world) as made:
        relief = Relief(made)
        relief({world.holding: 0}, [])  # there is room, and others come first
        assert held(world) == ["web1", "web2", "web3"]
        assert relief({world.holding: 1}, [])[0] == "room was made"
        assert held(world) == ["web2", "web3"]
        assert relief({world.holding: 20_000}, [])[0] == "room was made"
        assert held(world) == []
        assert relief({world.holding: 1}, []) == ("", "", "")
        assert len(relief.released) == 3
        made.finish()
    assert len(list(world.holding.rglob("manifest.json"))) == 0


def test_what_a_newer_one_follows_leaves_before_a_newest_one(world, nas):
    world.dump("web1", counter=1)
    world.dump("web2", level=0, counter=5)
    world.dump("web2", level=0, counter=6)
    world.stage()
    with service(world) as made:
        Relief(made)({world.holding: 1}, [])
        made.finish()
    assert sorted(held(world)) == ["web1", "web2"]


def test_nothing_leaves_that_is_not_verified_often_enough(world, nas):
    world.policy(CopyRule("nas"), CopyRule("disk"), clients=("web1",))
    nas.error = TargetError("the line is cut")
    world.dump("web1")
    world.stage()
    with service(world) as made:
        until(lambda: made.failed())
        relief = Relief(made)
        coming, why, hint = relief({world.holding: 1}, [])
        assert (coming, why, hint) == ("", "the copies to nas fail", "stowage check")
        made.finish()
    assert held(world) == ["web1"]


def test_copies_that_free_most_and_matter_most_come_first_and_who_waits_hears_of_them(world, nas):
    world.dump("web1", parts=(1000,), counter=1)
    world.dump("web2", parts=(2000,), counter=2)
    world.dump("web3", parts=(90_000,), counter=3)
    world.settings = replace(world.settings, copies_at_once=1)  # two at once begin in order, and arrive as they may
    nas.go.clear()
    with service(world) as made:
        nas.begun.wait(60)
        relief = Relief(made)
        assert relief({world.holding: 10_000}, [])[0] == "copying web1:etc to nas"
        nas.go.set()
        until(lambda: len(nas.order) == 3)
        made.finish()
    assert nas.order[0] == "web1" and set(nas.order[1:]) == {"web2", "web3"}
    assert nas.order.index("web3") == 1


def test_a_run_of_one_source_copies_what_others_left_in_its_way(world, nas):
    old = world.dump("web2")
    with service(world, sources=[("web1", "etc")]) as made:
        relief = Relief(made)
        assert relief({world.holding: 1}, [])[0]
        until(lambda: relief({world.holding: 1}, [])[0] == "room was made")
        assert [one.dump for one in made.finish()] == [old.id]
    assert relief.released == [old.id] and held(world) == []


def test_more_than_all_images_there_is_no_hope_for(world, nas):
    world.dump("web1")
    nas.go.clear()
    with service(world) as made:
        nas.begun.wait(60)
        relief = Relief(made)
        assert relief({world.holding: 1 << 40}, [])[0] == ""
        # what is being dumped there leaves as well
        assert relief({world.holding: 1 << 30}, [(world.holding, ("web2", "etc"), 1 << 31)])[0]
        nas.go.set()
        made.finish()


def test_an_image_that_is_being_copied_from_does_not_leave(world, nas):
    world.policy(CopyRule("disk"), CopyRule("nas"), clients=("web1",))
    source = world.settings.clients["web1"].sources["etc"]
    object.__setattr__(source, "min_copies", 1)
    world.dump("web1")
    nas.go.clear()
    with service(world) as made:
        nas.begun.wait(60)
        until(lambda: any(row.state == "verified" for row in world.catalog.copies(target="disk")))
        relief = Relief(made)
        until(lambda: relief({world.holding: 1}, [])[0] == "copying web1:etc to nas" or held(world) == [])
        assert held(world) == ["web1"]
        nas.go.set()
        assert all(one.ok for one in made.finish())


def test_a_window_is_not_broken_in_need_and_said_with_its_end(world, nas):
    now = hours.wall(clock.now_ns())
    far, soon = (f"{(now + timedelta(minutes=minutes)):%H:%M}-{(now + timedelta(minutes=minutes + 60)):%H:%M}"
                 for minutes in (180, 10))  # fmt: skip
    world.policy(CopyRule("nas", windows=hours.parse_windows(far)), clients=("web1",))
    world.dump("web1")
    with service(world) as made:
        coming, why, hint = Relief(made)({world.holding: 1}, [])
        assert coming == "" and why.startswith("the copies to nas wait for their window: ")
        assert hint == "stowage stage --now"
        (result,) = made.finish()
        assert result.waits
    world.policy(CopyRule("nas", windows=hours.parse_windows(soon)), clients=("web1",))
    with service(world) as made:
        assert Relief(made)({world.holding: 1}, [])[0].startswith("the window of the copies to nas: ")
        made.finish()


def without_image(world, dump, target):
    """A dump that left the holding disk and is to be copied to a target from another."""
    release.remove(world.settings, world.catalog, world.catalog.dump(dump.id))
    world.catalog.remove_copy(dump.id, target)
    shutil.rmtree(world.root / target / dump.client)


@pytest.mark.parametrize("beside", [False, True])
def test_what_comes_by_way_of_a_full_holding_disk_gets_its_room(world, monkeypatch, beside):
    """Images that are verified everywhere stay only because there was room."""
    first, second = world.dump("web1"), world.dump("web2")
    world.stage()
    without_image(world, first, "disk")

    def full(path):
        used = sum(row.stored_size for row in world.catalog.held())
        return SimpleNamespace(f_bavail=space.SLACK + 1 + second.stored_size - used, f_frsize=1)

    monkeypatch.setattr(space.os, "statvfs", full)
    if beside:
        engine = SimpleNamespace(settings=world.settings, catalog=world.catalog, target=world.opened.__getitem__)
        started = Beside(engine, None, SimpleNamespace(event=None))
        started.lend(space.Space(world.settings.holding))
        with started:
            results = started.finish()
        assert started.released == (second.id,)
    else:
        results = world.stage()
    assert [(one.dump, one.target, one.ok) for one in results] == [(first.id, "disk", True)]
    assert world.states(first) == {"nas": "verified", "disk": "verified"} and held(world) == []


def test_no_image_leaves_for_a_copy_that_would_find_no_room_all_the_same(world, monkeypatch):
    first, _second = world.dump("web1"), world.dump("web2")
    world.stage()
    without_image(world, first, "disk")
    monkeypatch.setattr(space.os, "statvfs", lambda path: SimpleNamespace(f_bavail=1000, f_frsize=1))
    (result,) = world.stage()
    assert not result.ok and "no holding disk has room" in result.message and held(world) == ["web2"]
