"""Marks, grace and removal, and a kill between any two steps of it."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from backupcore.hookspecs import TargetError
from stage_world import BEGUN

from backupcore import clock, files
from backupcore.catalog import marks, places
from backupcore.catalog.records import CopyRow
from backupcore.catalog.store import Catalog
from backupcore.errors import CatalogError
from backupcore.image import layout
from backupcore.settings import CopyRule, PruneSettings
from backupcore.stage import prune as pruning
from backupcore.stage.origins import prefix_of
from backupcore.stage.prune import MARK, REMOVE, STAYS, WAITS, look, prune
from backupcore.stage.release import release

DAY = 86400 * clock.NS
NOW = BEGUN + 100 * DAY


class Killed(BaseException):
    """The process ends here."""


def grown(world, count=6, keep=2):
    """Fulls that are on both targets, the newest on the holding disk too; nas keeps so many, disk for ever."""
    world.policy(CopyRule("nas", keep={"last": keep}), CopyRule("disk", keep={"last": keep + 1}))
    dumps = [world.dump() for _ in range(count)]
    assert all(one.ok for one in world.stage())
    release(world.settings, world.catalog)
    for row in dumps:
        folder = places.index_folder(world.settings.state, row.client, row.source)
        files.make_folder(folder)
        (folder / f"{row.id}.tsv.zst").write_bytes(b"x")
        (folder / f"{row.id}.frames").write_bytes(b"x")
        states = places.state_folder(world.settings.state, row.client, row.source)
        files.make_folder(states)
        (states / f"{row.id}.state").write_bytes(b"x")
    return dumps


def at(world, days, **more):
    return prune(world.settings, world.catalog, world.opened.__getitem__, NOW + days * DAY, **more)


def there(world, target):
    """The dumps that a target has, by their manifests; every one of them whole."""
    found = {name.split("/")[2] for name in world.files(world.root / target) if name.endswith("/" + layout.MANIFEST)}
    assert all(len(of(world, target, name)) == 8 for name in found)
    return found


def of(world, target, dump):
    return [name for name in world.files(world.root / target) if f"/{dump}/" in name]


def kept(world, dump):
    return sorted(path.name for path in world.settings.state.rglob(dump.id + ".*"))


def test_the_first_prune_only_marks_and_the_grace_has_to_pass(world):
    dumps = grown(world)
    assert {one.phase for one in look(world.settings, world.catalog, NOW)} == {MARK, STAYS}
    first = at(world, 0)
    assert (first.removed, first.forgotten, first.problems) == ((), (), ())
    assert len(there(world, "nas")) == 6
    assert {one.phase for one in at(world, 2.9).verdicts} == {WAITS, STAYS}
    assert len(there(world, "nas")) == 6
    last = at(world, 3)
    assert {dump for dump, target in last.removed if target == "nas"} == {row.id for row in dumps[:4]}
    assert there(world, "nas") == {row.id for row in dumps[4:]}
    assert there(world, "disk") == {row.id for row in dumps[3:]}
    assert marks.marked(world.catalog) == {}
    assert at(world, 9).removed == ()


def test_no_grace_still_needs_a_second_prune(world):
    grown(world)
    world.settings = replace(world.settings, prune=PruneSettings(grace=0.0))
    assert at(world, 0).removed == ()
    assert at(world, 0).removed != ()


def test_of_a_dump_that_is_gone_everywhere_nothing_is_left(world):
    dumps = grown(world)
    at(world, 0)
    done = at(world, 4)
    assert set(done.forgotten) == {row.id for row in dumps[:3]}
    assert [world.catalog.dump(row.id) is None for row in dumps] == [True] * 3 + [False] * 3
    assert [kept(world, row) for row in dumps[:3]] == [[], [], []]
    assert len(kept(world, dumps[3])) == 3
    assert world.states(dumps[3]) == {"nas": "expired", "disk": "verified"}
    assert not any(of(world, "nas", row.id) for row in dumps[:4])


def test_what_was_pruned_is_not_copied_again(world):
    grown(world)
    at(world, 0)
    at(world, 4)
    assert world.stage() == ()
    assert release(world.settings, world.catalog).dumps == ()


def test_without_keep_nothing_is_even_marked(world):
    grown(world)
    world.policy(CopyRule("nas"), CopyRule("disk"))
    assert {one.phase for one in at(world, 0).verdicts} == {STAYS}
    at(world, 50)
    assert len(there(world, "nas")) == 6


def test_undo_within_the_grace(world):
    dumps = grown(world)
    at(world, 0)
    assert marks.unmark(world.catalog, dumps[0].id) == 2
    at(world, 4)
    assert dumps[0].id in there(world, "nas") and dumps[1].id not in there(world, "nas")
    at(world, 8)
    assert dumps[0].id not in there(world, "nas")


@pytest.mark.parametrize("kind", [marks.DUMP, marks.CLIENT])
def test_what_is_held_stays_until_it_is_released(world, kind):
    dumps = grown(world)
    at(world, 0)
    name = dumps[0].id if kind == marks.DUMP else "web1"
    assert marks.hold(world.catalog, kind, name, "court")
    assert not marks.hold(world.catalog, kind, name, "again")
    for days in (4, 8):
        at(world, days)
        assert dumps[0].id in there(world, "nas") & there(world, "disk")
    assert [(one.kind, one.name, one.why) for one in marks.held(world.catalog)] == [(kind, name, "court")]
    assert marks.release(world.catalog, kind, name)
    at(world, 12)
    assert dumps[0].id in there(world, "nas")
    at(world, 16)
    assert dumps[0].id not in there(world, "nas")


def test_a_hold_that_comes_while_it_prunes_counts(world):
    dumps = grown(world)
    at(world, 0)
    target = world.opened["disk"]
    held = []

    def open_target(name):
        if not held:
            held.append(marks.hold(world.catalog, marks.CLIENT, "web1", ""))
        return {"nas": world.opened["nas"], "disk": target}[name]

    prune(world.settings, world.catalog, open_target, NOW + 4 * DAY)
    assert len(there(world, "disk")) >= len(dumps) - 1


def test_a_mark_goes_when_something_needs_the_copy_again(world):
    dumps = grown(world)
    at(world, 0)
    world.policy(CopyRule("nas", keep={"last": 4}), CopyRule("disk", keep={"last": 4}))
    at(world, 1)
    assert {dump for dump, _target in marks.marked(world.catalog)} == {row.id for row in dumps[:2]}


def test_a_copy_found_damaged_meanwhile_saves_the_other(world):
    dumps = grown(world)
    at(world, 0)
    world.catalog.put_copy(CopyRow(dumps[3].id, "disk", "damaged"))
    at(world, 4)
    assert dumps[3].id in there(world, "nas")


def test_a_target_that_cannot_delete_is_named(world):
    grown(world)
    at(world, 0)
    target = world.opened["nas"]
    world.opened["nas"] = type("Worm", (), {"capabilities": replace(target.capabilities, delete=False)})()
    done = at(world, 4)
    assert done.problems == ("target nas cannot delete: what is past its keep stays there",)
    assert {target for _dump, target in done.removed} == {"disk"}
    assert len(there(world, "nas")) == 6


def test_an_empty_folder_in_the_place_of_the_target_is_no_work_done(world):
    dumps = grown(world)
    at(world, 0)
    shutil.move(world.root / "nas", world.root / "away")
    (world.root / "nas").mkdir()
    done = at(world, 4)
    assert len(done.problems) == 1 and "nas" in done.problems[0]
    shutil.rmtree(world.root / "nas")
    shutil.move(world.root / "away", world.root / "nas")
    assert world.states(dumps[0])["nas"] == "verified"
    at(world, 5)
    assert there(world, "nas") == {row.id for row in dumps[4:]}


def test_a_refusal_costs_that_target_this_prune_and_no_more(world, monkeypatch):
    dumps = grown(world)
    at(world, 0)

    def refuse(name):
        raise TargetError("no such luck")

    monkeypatch.setattr(world.opened["nas"], "delete", refuse)
    done = at(world, 4)
    assert done.problems == ("target nas: no such luck",)
    assert {target for _dump, target in done.removed} == {"disk"}
    monkeypatch.undo()
    at(world, 5)
    assert there(world, "nas") == {row.id for row in dumps[4:]}
    assert world.catalog.dump(dumps[0].id) is None


def test_what_another_target_keeps_goes_only_when_it_is_seen_there(world):
    dumps = grown(world)
    at(world, 0)
    (world.root / "disk" / prefix_of(dumps[3]) / layout.MANIFEST).rename(world.root / "manifest")
    done = at(world, 4)
    assert done.problems == (f"target disk lacks {dumps[3].id}, which it should keep: no other copy of it is removed",)
    assert there(world, "nas") == {row.id for row in dumps[3:]}
    (world.root / "manifest").rename(world.root / "disk" / prefix_of(dumps[3]) / layout.MANIFEST)
    assert at(world, 5).removed == ((dumps[3].id, "nas"),)


@pytest.mark.parametrize("targets", [None, ["nas"]])
def test_what_a_target_that_is_away_keeps_goes_nowhere_else(world, targets):
    dumps = grown(world)
    at(world, 0)

    def open_target(name):
        if name == "disk":
            raise TargetError("no route")
        return world.opened[name]

    done = prune(world.settings, world.catalog, open_target, NOW + 4 * DAY, targets)
    assert "target disk: no route: what it keeps is removed nowhere else" in done.problems
    assert there(world, "nas") == {row.id for row in dumps[3:]}


def test_a_target_that_left_the_configuration_keeps_the_dump_known(world):
    dumps = grown(world)
    at(world, 0)
    nas = world.settings.targets["nas"]
    world.settings = replace(world.settings, targets={"disk": world.settings.targets["disk"]})
    world.policy(CopyRule("disk", keep={"last": 1}))
    at(world, 1)
    at(world, 5)
    assert there(world, "disk") == {dumps[5].id}
    assert world.catalog.dump(dumps[0].id) is not None
    assert len(there(world, "nas")) == 6 and nas.name == "nas"


def test_the_row_of_a_dump_that_is_somewhere_cannot_be_forgotten(world):
    dumps = grown(world)
    with pytest.raises(CatalogError):
        marks.forget(world.catalog, dumps[0].id)


def test_only_the_targets_that_are_named(world):
    grown(world)
    at(world, 0, targets=["disk"])
    assert {target for _dump, target in marks.marked(world.catalog)} == {"disk"}
    assert at(world, 4, targets=["nas"]).removed == ()


def killing(world, monkeypatch, after):
    """After so many steps (files removed at a target or here, rows written) the process ends."""
    steps = [0]

    def step(call):
        def stepped(*args, **more):
            steps[0] += 1
            if steps[0] > after:
                raise Killed
            return call(*args, **more)

        return stepped

    for target in world.opened.values():
        monkeypatch.setattr(target, "delete", step(target.delete))
    for name in ("put_copy",):
        monkeypatch.setattr(world.catalog, name, step(getattr(world.catalog, name)))
    for name in ("unmark", "mark", "forget"):
        monkeypatch.setattr(pruning.marks, name, step(getattr(marks, name)))
    monkeypatch.setattr(pruning._Work, "_forget_files", step(pruning._Work._forget_files))


def test_a_kill_between_any_two_steps_is_taken_up(world, monkeypatch):
    world.policy(CopyRule("nas", keep={"last": 1}), CopyRule("disk", keep={"last": 1}))
    dumps = [world.dump(), world.dump(level=1), world.dump(), world.dump()]
    assert all(one.ok for one in world.stage())
    release(world.settings, world.catalog)
    at(world, 0)
    saved = world.root / "saved"
    parts = ("nas", "disk", "state")
    for part in parts:
        shutil.copytree(world.root / part, saved / part)
    after, whole = 0, False
    while not whole:
        with monkeypatch.context() as patch:
            killing(world, patch, after)
            try:
                at(world, 4)
                whole = True
            except Killed:
                pass
        for target in ("nas", "disk"):
            manifests = there(world, target)  # whatever has a manifest is whole
            for row in world.catalog.dumps():
                state = world.states(row).get(target)
                assert state != "verified" or row.id in manifests
        at(world, 4)
        assert there(world, "nas") == there(world, "disk") == {dumps[3].id}
        assert len(world.files(world.root / "nas")) == 8
        assert [row.id for row in world.catalog.dumps()] == [dumps[3].id]
        assert [row.state for row in world.catalog.copies()] == ["verified", "verified"]
        assert marks.marked(world.catalog) == {}
        world.catalog.close()
        for part in parts:
            shutil.rmtree(world.root / part)
            shutil.copytree(saved / part, world.root / part)
        world.catalog = Catalog(places.catalog_file(world.settings.state))
        world.opened = {name: world.directory(name) for name in world.settings.targets}
        after += 1
    assert after > 50


def test_only_files_of_that_dump_are_removed(world):
    dumps = grown(world)
    near = world.root / "nas" / (prefix_of(dumps[0]) + "0")
    near.mkdir()
    (near / "image-0000.tar.zst").write_bytes(b"not mine")
    at(world, 0)
    at(world, 4)
    assert (near / "image-0000.tar.zst").exists()


def test_grace_is_over_at_its_end(world):
    grown(world)
    at(world, 0)
    found = {one.phase for one in look(world.settings, world.catalog, NOW + 3 * DAY)}
    assert found == {REMOVE, STAYS}
