"""Room on several holding disks: which is taken, who waits for it, who gets it, and who gives way."""

from __future__ import annotations

import threading
import time

import pytest

from backupcore.dump import space as spaces
from backupcore.dump.space import Asker, GaveWay, Space, Spilled
from backupcore.errors import HoldingFull
from backupcore.settings import HoldingDisk

MIB = 1 << 20


class World:
    """A space of which tests free room by hand; each thread asks as the test says."""

    def __init__(self, tmp_path, *uses, relief=None):
        self.local, self.found = threading.local(), ("", "", "")
        self.asked, self.told, self.disks = [], {}, []
        for number, use in enumerate(uses):
            path = tmp_path / f"disk{number}"
            path.mkdir()
            self.disks.append(HoldingDisk(path, use))
        self.space = Space(self.disks, relief or self.relief, lambda: getattr(self.local, "asker", Asker()))

    def relief(self, missing, dumped):
        self.asked.append((dict(missing), list(dumped)))
        return self.found

    def put(self, number, size, name="web9/etc/old/image"):
        """An image of a dump that is whole."""
        path = self.disks[number].path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as stream:
            stream.truncate(size)
        return path

    def asker(self, name, place, again=True):
        told = self.told.setdefault(name, [])
        return Asker((-1, place), (name, "etc"), told.append, again)

    def dump(self, name, place, expected, takes, again=True, meet=None, removes=0.0):
        """A dump in a thread of its own: its result is in thread.found. meet: a barrier after the first 80 MiB.
        removes: seconds until what it had is removed, when it gives way."""

        def work():
            self.local.asker = self.asker(name, place, again)
            try:
                room = self.space.reserve(expected)
            except (HoldingFull, GaveWay) as error:
                thread.found = error
                return
            try:
                for number in range(takes // MIB):
                    if meet and number == 80:
                        meet.wait(60)
                    room.take(MIB)
                thread.found = room.disk.path.name
            except (HoldingFull, GaveWay) as error:
                thread.found = error
                time.sleep(removes)
            finally:
                room.close()

        thread = threading.Thread(target=work)
        thread.found = None
        thread.start()
        return thread


def until(check):
    for _ in range(6000):
        if check():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to it")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(spaces, "LOOK", 0.05)


def test_a_dump_takes_another_disk_than_those_being_written_when_both_have_room(tmp_path):
    world = World(tmp_path, 500 * MIB, 400 * MIB)
    one, two, three = (world.space.reserve(20 * MIB) for _ in range(3))
    assert [room.disk.path.name for room in (one, two, three)] == ["disk0", "disk1", "disk0"]
    one.close()
    three.close()
    assert world.space.reserve(20 * MIB).disk.path.name == "disk0"


def test_a_disk_with_little_room_is_not_taken_only_because_nobody_writes_to_it(tmp_path):
    world = World(tmp_path, 1000 * MIB, 100 * MIB)
    assert [world.space.reserve(None).disk.path.name for _ in range(3)] == ["disk0"] * 3
    with pytest.raises(HoldingFull, match="disk0 has .* left, .*disk1 has .* left"):
        world.space.reserve(2000 * MIB)


def test_a_disk_that_went_away_or_fails_is_not_taken_any_more(tmp_path):
    world = World(tmp_path, 500 * MIB, 400 * MIB)
    world.disks[0].path.rename(tmp_path / "away")
    assert [world.space.reserve(20 * MIB).disk.path.name for _ in range(2)] == ["disk1"] * 2
    (tmp_path / "away").rename(world.disks[0].path)
    assert world.space.leave(world.disks[1].path, world.asker("a", 0), 20 * MIB, failed=True)
    assert [world.space.reserve(20 * MIB).disk.path.name for _ in range(2)] == ["disk0"] * 2
    # the last one is tried on: an error of one file is not the end of a night
    assert not world.space.leave(world.disks[0].path, world.asker("a", 0), 20 * MIB, failed=True)
    assert world.space.reserve(20 * MIB).disk.path.name == "disk0"


def test_what_waits_says_for_what_and_goes_on_when_there_is_room(tmp_path):
    world = World(tmp_path, 100 * MIB)
    image = world.put(0, 80 * MIB)
    world.found = ("copying web9:etc to nas", "", "")
    dump = world.dump("a", 0, 50 * MIB, 50 * MIB)
    until(lambda: world.told.get("a"))
    missing, dumped = world.asked[-1]
    assert missing[world.disks[0].path] == 31 * MIB and dumped == []
    image.unlink()
    dump.join(60)
    assert dump.found == "disk0"
    assert world.told["a"] == ["copying web9:etc to nas", ""]


def test_nothing_that_frees_room_is_said_with_its_reason(tmp_path):
    world = World(tmp_path, 100 * MIB)
    world.put(0, 80 * MIB)
    world.found = ("", "copies to nas wait for their window: Mon 22:00", "stowage stage --now")
    with pytest.raises(HoldingFull, match="no holding disk has room for .*Mon 22:00") as full:
        world.space.reserve(50 * MIB)
    assert full.value.hint == "stowage stage --now"


def test_the_dump_that_matters_more_gets_the_room_first_and_small_ones_do_not_slip_past(tmp_path):
    world = World(tmp_path, 100 * MIB)
    image = world.put(0, 60 * MIB)
    world.found = ("copying", "", "")
    large = world.dump("large", 1, 80 * MIB, 80 * MIB)
    until(lambda: world.told.get("large"))
    small = world.dump("small", 2, 10 * MIB, 10 * MIB)  # fits at once, and would keep the large one waiting
    until(lambda: world.told.get("small"))
    assert small.is_alive()
    first = world.dump("first", 0, 10 * MIB, 10 * MIB)  # matters more than both
    first.join(60)
    assert first.found == "disk0"
    image.unlink()
    large.join(60)
    small.join(60)
    assert (large.found, small.found) == ("disk0", "disk0")


def test_who_gives_way_is_waited_for_however_long_it_takes_to_remove_what_it_had(tmp_path):
    world = World(tmp_path, 200 * MIB)
    meet = threading.Barrier(2)
    important = world.dump("important", 0, 90 * MIB, 150 * MIB, meet=meet)
    other = world.dump("other", 1, 90 * MIB, 150 * MIB, meet=meet, removes=1.0)
    important.join(60)
    other.join(60)
    assert isinstance(other.found, GaveWay) and important.found == "disk0"


def test_two_dumps_that_hold_half_each_do_not_wait_for_each_other_for_ever(tmp_path):
    world = World(tmp_path, 200 * MIB)
    meet = threading.Barrier(2)
    important = world.dump("important", 0, 90 * MIB, 150 * MIB, meet=meet)
    other = world.dump("other", 1, 90 * MIB, 150 * MIB, meet=meet)
    important.join(60)
    other.join(60)
    assert important.found == "disk0"
    assert isinstance(other.found, GaveWay) and other.found.came >= 90 * MIB
    # it is known how much it needs, also when nobody expects it
    world.put(0, 120 * MIB)
    again = world.dump("other", 1, 10 * MIB, 150 * MIB, again=False)
    again.join(60)
    assert isinstance(again.found, HoldingFull) and "no holding disk has room" in again.found.message


def test_a_dump_at_work_gives_way_to_one_that_matters_more_only_when_nothing_else_helps(tmp_path):
    world = World(tmp_path, 200 * MIB)
    world.found = ("copying", "", "")
    low = world.dump("low", 5, 100 * MIB, 250 * MIB)
    until(lambda: world.told.get("low"))
    high = world.dump("high", 0, 150 * MIB, 150 * MIB)
    until(lambda: world.told.get("high"))
    time.sleep(0.5)
    assert low.is_alive() and high.is_alive()
    world.found = ("", "", "")
    low.join(60)
    high.join(60)
    assert isinstance(low.found, GaveWay) and high.found == "disk0"


def test_a_dump_at_work_that_finds_no_room_does_not_give_way_to_lesser_ones(tmp_path):
    world = World(tmp_path, 200 * MIB)
    world.found = ("copying", "", "")
    high = world.dump("high", 0, 100 * MIB, 250 * MIB)
    until(lambda: world.told.get("high"))
    low = world.dump("low", 5, 50 * MIB, 50 * MIB)
    until(lambda: world.told.get("low"))
    world.found = ("", "", "")
    high.join(60)
    low.join(60)
    assert isinstance(high.found, HoldingFull) and "no more fits" in high.found.message and low.found == "disk0"


def test_two_that_may_not_be_begun_anew_end_as_well_the_lesser_one_first(tmp_path):
    world = World(tmp_path, 200 * MIB)
    meet = threading.Barrier(2)
    important = world.dump("important", 0, 90 * MIB, 150 * MIB, again=False, meet=meet)
    other = world.dump("other", 1, 90 * MIB, 150 * MIB, again=False, meet=meet)
    important.join(60)
    other.join(60)
    assert important.found == "disk0" and isinstance(other.found, HoldingFull)


def test_one_that_outgrows_its_disk_gives_way_where_another_has_room(tmp_path):
    world = World(tmp_path, 100 * MIB, 300 * MIB)
    image = world.put(1, 260 * MIB)
    meet = threading.Barrier(2)
    dump = world.dump("a", 0, 20 * MIB, 120 * MIB, meet=meet)
    until(lambda: world.space._rooms and world.space._rooms[0].written == 80 * MIB)
    image.unlink()
    meet.wait(60)
    dump.join(60)
    assert isinstance(dump.found, GaveWay) and "another holding disk" in dump.found.why
    assert dump.found.came >= 80 * MIB
    world.put(0, 1 * MIB)
    again = world.dump("a", 0, 20 * MIB, 120 * MIB)  # 20 MiB were expected; by now it is known better
    again.join(60)
    assert again.found == "disk1"


def test_another_disk_counts_though_it_is_a_little_over_full_by_now(tmp_path):
    world = World(tmp_path, 100 * MIB, 300 * MIB)
    world.put(1, 301 * MIB)
    dump = world.dump("a", 0, 20 * MIB, 120 * MIB)
    dump.join(60)
    assert isinstance(dump.found, GaveWay) and "another holding disk" in dump.found.why


def test_one_that_can_go_on_without_a_disk_does_instead_of_being_begun_anew(tmp_path):
    world = World(tmp_path, 100 * MIB, 300 * MIB)
    world.local.asker = world.asker("a", 0)._replace(spills=True)
    world.put(1, 260 * MIB)
    room = world.space.reserve(20 * MIB)
    with pytest.raises(Spilled) as spilled:
        for _ in range(120):
            room.take(MIB)
    assert isinstance(spilled.value, HoldingFull) and "another holding disk" in spilled.value.way.why


def test_an_end_of_the_run_ends_who_waits(tmp_path):
    world = World(tmp_path, 100 * MIB)
    world.put(0, 80 * MIB)
    world.found = ("copying", "", "")
    errors = []

    def work():
        try:
            world.space.reserve(50 * MIB)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: len(world.asked) > 1)
    world.space.stop()
    thread.join(60)
    assert "stopped" in errors[0].message and world.space._waiting == []


def test_nobody_waits_for_longer_than_a_night_allows(tmp_path, monkeypatch):
    monkeypatch.setattr(spaces, "LONGEST", 0.2)
    world = World(tmp_path, 100 * MIB)
    world.put(0, 80 * MIB)
    world.found = ("copying", "", "")
    with pytest.raises(HoldingFull, match="waited for hours"):
        world.space.reserve(50 * MIB)


def test_many_at_once_end_all_and_never_take_more_than_there_is(tmp_path):
    """Twelve dumps on two disks, room comes as they end: each is made, or gave way and is made then."""
    world = World(tmp_path, 100 * MIB, 100 * MIB)
    most = [0, 0]

    def relief(missing, dumped):
        with world.space._changed:
            for number, disk in enumerate(world.disks):
                taken = sum(room.reserved for room in world.space._rooms if room.disk is disk)
                most[number] = max(most[number], taken)
        return ("", "", "")

    world.space._relief = relief
    waiting = [world.dump(f"c{number}", number, 30 * MIB, (30 + number * 4) * MIB) for number in range(12)]
    for dump in waiting:
        dump.join(60)
    assert not any(dump.is_alive() for dump in waiting)
    assert max(most) <= 100 * MIB
    assert sum(dump.found in ("disk0", "disk1") for dump in waiting) >= 2
    assert all(isinstance(dump.found, (str, HoldingFull, GaveWay)) for dump in waiting)
