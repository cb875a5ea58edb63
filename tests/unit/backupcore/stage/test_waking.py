"""Copies made from what sleeps in an archive: asked for all at once, told in one line, gone on with later."""

from __future__ import annotations

from dataclasses import replace

import pytest
from backupcore.hookspecs import Asleep, TargetError
from stage_world import World

from backupcore import clock
from backupcore.catalog import aside
from backupcore.catalog.records import HOLDING, CopyRow
from backupcore.settings import CopyRule
from backupcore.stage import second, waking, wanted


class Archive:
    """A folder whose larger files sleep until they were asked for and somebody let them wake."""

    def __init__(self, target, least=600):
        self._target, self._least = target, least
        self.awake, self.asked, self.refuses = set(), [], ""

    def __getattr__(self, name):
        return getattr(self._target, name)

    @property
    def capabilities(self):
        return replace(self._target.capabilities, archives=True)

    def _sleeps(self, name):
        found = self._target.stat(name)
        return found is not None and found.size >= self._least and name.rpartition("/")[2] not in self.awake

    def read(self, name, *where):
        if self._sleeps(name):
            raise Asleep(f"{name} is archived and asleep", "GLACIER wakes in 3 to 5 hours (Standard)")
        yield from self._target.read(name, *where)

    def wake(self, name, days):
        if self.refuses:
            raise TargetError(self.refuses)
        if self._sleeps(name):
            self.asked.append(name.rpartition("/")[2])
        return not self._sleeps(name)


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    world.policy(CopyRule("nas"), keep=0)
    yield world
    world.catalog.close()


def archived(world, *dumps, least=600):
    """All that is on nas sleeps there, and nowhere else is a copy."""
    assert all(one.ok for one in world.stage())
    for dump in dumps:
        world.catalog.set_holding(dump.id, None)
    world.opened["nas"] = Archive(world.opened["nas"], least)
    return world.opened["nas"]


def copied(world, **asked):
    chosen = second.choose(world.catalog, "nas", "disk", **asked)
    return world.stage(jobs=chosen.jobs, origin="nas", now=True)


def test_a_second_copy_asks_for_what_sleeps_and_says_so_in_one_line(world):
    dumps = [world.dump(), world.dump(level=1), world.dump(client="web2")]
    place = archived(world, *dumps)
    results = copied(world)
    assert [one.code for one in results] == ["asleep"] * 3 and all(one.waits and not one.failed for one in results)
    assert len(place.asked) == 3 * 5  # two parts, the index, RESTORE.txt, manifest.json
    (line,) = waking.lines(results, world.settings)
    assert line.startswith("3 copies to disk: asleep in an archive, asked for: 15 files (")
    assert line.endswith("of target nas: GLACIER wakes in 3 to 5 hours (Standard)")
    assert not world.files(world.root / "disk") or not any(
        name.endswith("manifest.json") for name in world.files(world.root / "disk")
    )


def test_what_woke_is_copied_and_nothing_is_sent_or_asked_for_twice(world):
    dump = world.dump()
    place = archived(world, dump, least=1000)
    place.awake = {"image-0000.tar.zst", "RESTORE.txt", "manifest.json"}
    (first,) = copied(world)
    assert first.sleep is not None and first.sleep.files == 1 and place.asked == ["image-0001.tar.zst"]
    (row,) = world.catalog.copies(dump=dump.id, target="disk")
    assert row.state == "copying" and "image-0000.tar.zst" in row.upload["files"] and "asked for" in row.error
    sent = []
    real = world.opened["disk"].put
    world.opened["disk"].put = lambda name, *args, **more: sent.append(name.rpartition("/")[2]) or real(
        name, *args, **more
    )
    (again,) = copied(world)
    assert again.waits and sent == []
    place.awake.add("image-0001.tar.zst")
    (last,) = copied(world)
    assert last.ok and "image-0000.tar.zst" not in sent and "image-0001.tar.zst" in sent
    assert world.states(dump) == {"nas": "verified", "disk": "verified"}
    (row,) = world.catalog.copies(dump=dump.id, target="disk")
    assert row.error == "" and row.upload == {}


def test_how_far_it_is_outlasts_other_stagings_but_not_for_ever(world, monkeypatch):
    dump = world.dump()
    archived(world, dump)
    copied(world)
    assert world.stage() == ()
    (row,) = world.catalog.copies(dump=dump.id, target="disk")
    assert row.upload["asked"] == "nas"
    now = clock.now_ns()
    monkeypatch.setattr(clock, "now_ns", lambda: now + 8 * 86400 * clock.NS)
    wanted.note(world.settings, world.catalog)
    assert world.catalog.copies(dump=dump.id, target="disk") == []


def test_a_rule_that_comes_later_wakes_what_it_needs_too(world):
    dump = world.dump()
    place = archived(world, dump)
    world.policy(CopyRule("nas"), CopyRule("disk"), keep=0)
    (result,) = world.stage()
    assert result.code == "asleep" and place.asked
    place._least = 10**9
    (result,) = world.stage()
    assert result.ok


def test_what_wakes_at_once_is_copied_at_once(world):
    dump = world.dump()
    place = archived(world, dump)
    real = place.wake

    def wake(name, days):
        real(name, days)
        place.awake.add(name.rpartition("/")[2])
        return True

    place.wake = wake
    (result,) = copied(world)
    assert result.ok and world.states(dump)["disk"] == "verified"


def test_a_place_that_says_it_is_awake_and_does_not_give_it_is_an_error(world):
    dump = world.dump()
    place = archived(world, dump)
    place.wake = lambda name, days: True
    (result,) = copied(world)
    assert result.failed and "archived and asleep" in result.message


def test_a_place_that_does_not_let_them_be_woken_is_an_error(world):
    place = archived(world, world.dump())
    place.refuses = "access denied"
    (result,) = copied(world)
    assert result.failed and result.message.endswith("of target nas and cannot be asked for: access denied")


def test_a_night_does_not_ask_again_and_again_while_dumps_are_made(world):
    """What sleeps is not begun anew at once, as a copy is whose window may open."""
    from backupcore.stage import stager

    dump = world.dump()
    place = archived(world, dump)
    world.policy(CopyRule("nas"), CopyRule("disk"), keep=0)
    with stager.beside_dumps(world.settings, world.catalog, world.opened.__getitem__) as service:
        service.made("web1", "etc")
        while not service._results:
            service.made("web1", "etc")
        service.made("web1", "etc")
        (result,) = service.finish()
    assert result.code == "asleep" and len(place.asked) == 5


def test_a_copy_that_a_rebuild_found_whole_is_not_forgotten_while_its_origin_sleeps(world):
    dump = world.dump()
    archived(world, dump)
    world.policy(CopyRule("nas"), CopyRule("disk"), keep=0)
    world.catalog.put_copy(CopyRow(dump.id, "disk", "done", {}))
    world.stage()
    assert world.states(dump)["disk"] == "done"


def test_a_holding_image_that_is_made_anew_wakes_what_it_is_made_from(world):
    world.policy(CopyRule("nas"))
    dump = world.dump()
    place = archived(world)
    image = world.files(world.holding)
    aside.put_aside(world.settings, world.catalog, dump, "it rotted")
    (first,) = world.stage()
    assert (first.target, first.waits, first.failed, first.code) == (HOLDING, True, False, "asleep")
    assert len(place.asked) == 5 and first.sleep.files == 5
    assert waking.lines([first], world.settings)[0].startswith("1 copy to holding: asleep in an archive, asked for: 5 ")
    place._least = 10**9
    assert [(one.target, one.ok) for one in world.stage()] == [(HOLDING, True)]
    assert world.files(world.holding) == image and not (world.holding / ".damaged").exists()


def test_a_place_that_is_awake_makes_a_holding_image_anew_before_one_that_sleeps_is_asked(world):
    world.policy(CopyRule("nas"), CopyRule("disk"))
    dump = world.dump()
    place = archived(world)
    aside.put_aside(world.settings, world.catalog, dump, "it rotted")
    assert [(one.target, one.ok) for one in world.stage()] == [(HOLDING, True)]
    assert not place.asked


def test_a_holding_image_waits_for_no_place_that_says_it_is_awake_and_is_not(world):
    world.policy(CopyRule("nas"))
    dump = world.dump()
    archived(world).wake = lambda name, days: True
    aside.put_aside(world.settings, world.catalog, dump, "it rotted")
    (result,) = world.stage()
    assert result.failed and "archived and asleep" in result.message
