"""Copies made from other copies, and what is damaged made anew: nothing good is lost on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from backupcore.hookspecs import TargetError

from backupcore.catalog import aside
from backupcore.catalog.records import HOLDING, CopyRow
from backupcore.settings import CopyRule, TargetSettings
from backupcore.stage import heal

PART = "image-0001.tar.zst"


def at(world, target, dump, name=PART):
    return world.root / target / "web1/etc" / dump.id / name


def flip(path, place=100):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def damage(world, dump, target, files=None):
    """As verify marks a copy."""
    (row,) = world.catalog.copies(dump=dump.id, target=target)
    world.catalog.put_copy(replace(row, state="damaged", upload={"files": files or {}, "repair": True}))


def staged(world):
    dump = world.dump()
    world.stage()
    return dump, world.files(world.holding)


def test_a_target_that_came_later_gets_what_left_the_holding_disk(world):
    world.policy(CopyRule("nas"))
    dump, image = staged(world)
    world.catalog.set_holding(dump.id, None)
    world.policy(CopyRule("nas"), CopyRule("disk"))
    assert [(one.target, one.ok) for one in world.stage()] == [("disk", True)]
    assert world.files(world.root / "disk") == image
    assert world.stage() == ()
    assert not (world.holding / ".incoming").exists() or not list((world.holding / ".incoming").rglob("*.zst"))


def test_an_origin_that_is_damaged_is_found_out_marked_and_never_copied_further(world):
    world.policy(CopyRule("nas"))
    dump, _image = staged(world)
    world.catalog.set_holding(dump.id, None)
    flip(at(world, "nas", dump))
    world.policy(CopyRule("nas"), CopyRule("disk"))
    (result,) = world.stage()
    assert (result.ok, result.code) == (False, "image-damaged")
    assert world.states(dump) == {"nas": "damaged", "disk": "failed"}
    assert world.catalog.dump(dump.id).damaged  # the next run makes a full
    assert not at(world, "disk", dump).exists()


def test_a_damaged_copy_is_made_anew_from_another_and_only_its_bad_file_is_sent(world):
    dump, image = staged(world)
    world.catalog.set_holding(dump.id, None)
    flip(at(world, "nas", dump))
    damage(world, dump, "nas")
    sent = []
    inner = world.opened["nas"]

    class Watched:
        def __getattr__(self, name):
            return getattr(inner, name)

        def put(self, name, path, **options):
            sent.append(name.rpartition("/")[2])
            return inner.put(name, path, **options)

    world.opened["nas"] = Watched()
    assert [(one.target, one.ok) for one in world.stage()] == [("nas", True)]
    assert sent == [PART]
    assert world.files(world.root / "nas") == image
    assert world.states(dump) == {"nas": "verified", "disk": "verified"}


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig", "SHA256SUMS", "RESTORE.txt", "index.tsv.zst"])
@pytest.mark.parametrize("how", ["flip", "gone"])
def test_every_file_of_a_copy_is_made_anew(world, name, how):
    dump, image = staged(world)
    flip(at(world, "nas", dump, name), 20) if how == "flip" else at(world, "nas", dump, name).unlink()
    damage(world, dump, "nas")
    assert [(one.target, one.ok) for one in world.stage()] == [("nas", True)]
    assert world.files(world.root / "nas") == image


def test_a_manifest_of_another_is_still_refused_where_no_copy_of_ours_was(world):
    world.policy(CopyRule("nas"))
    dump = world.dump()
    path = at(world, "nas", dump, "manifest.json")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"{}")
    (result,) = world.stage()
    assert "holds another dump" in result.message
    assert path.read_bytes() == b"{}"


def test_while_the_place_is_away_the_damaged_copy_stays_and_is_tried_again(world):
    dump, image = staged(world)
    flip(at(world, "nas", dump))
    damage(world, dump, "nas")
    inner = world.opened["nas"]

    class Away:
        def __getattr__(self, name):
            return getattr(inner, name)

        def put(self, *_args, **_options):
            raise TargetError("no answer", retry=True)

    world.opened["nas"] = Away()
    before = world.files(world.root / "nas")
    assert [one.ok for one in world.stage()] == [False]
    assert world.files(world.root / "nas") == before
    world.opened["nas"] = inner
    flip(at(world, "nas", dump, "manifest.json"))  # a try that was cut must still know that this is a repair
    assert [one.ok for one in world.stage()] == [True]
    assert world.files(world.root / "nas") == image


def test_two_damaged_copies_heal_each_other(world):
    dump, image = staged(world)
    world.catalog.set_holding(dump.id, None)
    flip(at(world, "nas", dump))
    flip(at(world, "disk", dump, "image-0000.tar.zst"))
    for target in ("nas", "disk"):
        damage(world, dump, target)
    world.catalog.mark_damaged(dump.id)
    assert world.stage() == ()  # night after night nothing is tried without a good origin
    assert all(one.ok for one in world.stage(repair={dump.id}))
    assert world.files(world.root / "nas") == world.files(world.root / "disk") == image
    assert not world.catalog.dump(dump.id).damaged


def test_a_damaged_holding_image_is_put_aside_and_made_anew(world):
    dump, image = staged(world)
    flip(Path(dump.holding) / PART)
    aside.put_aside(world.settings, world.catalog, dump, "it rotted")
    assert world.catalog.dump(dump.id).holding is None
    put = world.holding / ".damaged/web1/etc" / dump.id
    assert put.is_dir() and not Path(dump.holding).exists()
    assert [(one.target, one.ok) for one in world.stage()] == [("holding", True)]
    assert world.catalog.dump(dump.id).holding == dump.holding
    assert world.files(world.holding) == image
    assert world.catalog.copies(dump=dump.id, target=HOLDING) == []
    assert not (world.holding / ".damaged").exists()


def test_a_damaged_holding_image_that_nobody_needs_any_more_is_only_removed(world):
    old, _image = staged(world)
    staged(world)
    aside.put_aside(world.settings, world.catalog, old, "it rotted")
    assert world.stage() == ()
    assert world.catalog.dump(old.id).holding is None and not (world.holding / ".damaged").exists()


def test_a_holding_image_is_made_anew_from_the_next_place_where_the_first_has_it_wrong(world):
    dump, image = staged(world)
    flip(at(world, "nas", dump))  # which is asked first
    aside.put_aside(world.settings, world.catalog, dump, "it rotted")
    assert [(one.target, one.ok) for one in world.stage()] == [("holding", True)]
    assert world.files(world.holding) == image
    assert world.states(dump) == {"nas": "damaged", "disk": "verified"}
    assert not (world.holding / ".damaged").exists()


def test_the_damaged_image_stays_while_no_origin_is_right(world):
    dump, _image = staged(world)
    for target in ("nas", "disk"):
        flip(at(world, target, dump))
    aside.put_aside(world.settings, world.catalog, dump, "it rotted")
    (result,) = world.stage()
    assert not result.ok and result.code == "image-damaged"
    assert world.states(dump) == {"nas": "damaged", "disk": "damaged", HOLDING: "damaged"}
    assert world.catalog.dump(dump.id).damaged
    assert (world.holding / ".damaged/web1/etc" / dump.id / "manifest.json").exists()


def test_a_last_holding_image_stays_where_it_is_for_what_it_still_has(world):
    dump = world.dump()
    heal.spoiled(world.settings, world.catalog, dump.id, HOLDING, "a part is damaged")
    assert world.catalog.dump(dump.id).damaged and world.catalog.dump(dump.id).holding == dump.holding
    assert [(one.target, one.state) for one in world.catalog.copies(dump=dump.id)] == [(HOLDING, "damaged")]


def test_a_copy_on_a_target_that_left_the_configuration_is_no_origin(world):
    world.policy(CopyRule("nas"))
    dump, _image = staged(world)
    world.catalog.set_holding(dump.id, None)
    world.settings = replace(world.settings, targets={"disk": TargetSettings("disk", "directory", {})})
    world.policy(CopyRule("disk"))
    assert world.stage() == ()
    world.catalog.put_copy(CopyRow(dump.id, "disk", "wanted"))
    assert world.stage() == ()
