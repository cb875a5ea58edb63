"""Marks, grace and removal, and a kill between any two steps of it."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from backupcore.hookspecs import TargetContext, TargetError
from lock_place import LockPlace
from stage_world import BEGUN

from backupcore import clock, files
from backupcore.catalog import locked, marks, places
from backupcore.catalog.records import CopyRow
from backupcore.catalog.store import Catalog
from backupcore.errors import CatalogError
from backupcore.image import layout
from backupcore.settings import CopyRule, PruneSettings
from backupcore.stage import prune as pruning
from backupcore.stage.origins import prefix_of
from backupcore.stage.prune import MARK, REMOVE, STAYS, WAITS, look, prune
from backupcore.stage.release import release
from backupcore.targets.directory import DirectoryOptions

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


def test_a_mark_of_a_clock_that_ran_ahead_begins_anew(world):
    grown(world)
    at(world, 400)
    assert {one.phase for one in at(world, 1).verdicts} == {MARK, STAYS}
    assert {one.phase for one in at(world, 3.9).verdicts} == {WAITS, STAYS}
    assert at(world, 4).removed != ()


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


@pytest.mark.parametrize("kind", [marks.CLIENT, marks.DUMP])
def test_a_hold_in_the_very_moment_before_a_removal_counts(world, kind):
    dumps = grown(world)
    at(world, 0)
    before = there(world, "nas"), there(world, "disk")
    rows = {(row.dump, row.target): row.state for row in world.catalog.copies()}
    asked = []

    def progress(event):  # what is to go was looked at, nothing is removed yet
        asked.append(event["dump"])
        marks.hold(world.catalog, kind, "web1" if kind == marks.CLIENT else event["dump"], "a trial")

    done = prune(world.settings, world.catalog, world.opened.__getitem__, NOW + 4 * DAY, progress=progress)
    assert asked and not done.removed and (there(world, "nas"), there(world, "disk")) == before
    assert {(row.dump, row.target): row.state for row in world.catalog.copies()} == rows
    assert len(dumps) == 6


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


def test_what_somebody_keeps_has_so_many_copies_as_its_source_asks_for(world):
    dumps = grown(world)  # nas keeps 2, disk 3
    world.settings = replace(world.settings, clients={
        name: replace(client, sources={key: replace(one, min_copies=2) for key, one in client.sources.items()})
        for name, client in world.settings.clients.items()
    })  # fmt: skip
    at(world, 0)
    at(world, 4)
    assert there(world, "nas") == there(world, "disk") == {row.id for row in dumps[3:]}
    reasons = {one.decision.reason for one in look(world.settings, world.catalog, NOW) if
               (one.decision.dump.id, one.decision.copy.target) == (dumps[3].id, "nas")}  # fmt: skip
    assert reasons == {"min_copies 2"}


def vault(world, now=NOW):
    """nas locks what lies there; its clock stands at now."""
    context = TargetContext("nas", world.server, world.settings.state / "targets" / "nas")
    world.opened["nas"] = LockPlace(DirectoryOptions(path=world.root / "nas"), context, lambda: now)
    return world.opened["nas"]


def locking(world, days, keep=1):
    """Both keep so many; nas locks for so many days."""
    world.policy(CopyRule("nas", keep={"last": keep}, lock=days * 86400.0), CopyRule("disk", keep={"last": keep}))


def test_what_is_locked_stays_till_its_date_and_is_removed_then(world):
    dumps = grown(world)
    nas = vault(world, NOW + 4 * DAY)
    locking(world, 110)  # the first dump is locked until NOW + 11 days, the next a day longer, and so on
    assert len(at(world, 0).locked) == 6
    assert {one.decision.reason.split(" until")[0] for one in look(world.settings, world.catalog, NOW) if
            one.decision.copy.target == "nas"} == {"locked", "its image is still on the holding disk"}  # fmt: skip
    at(world, 4)
    assert there(world, "nas") == {row.id for row in dumps} and there(world, "disk") == {dumps[5].id}
    assert all(nas.locked(name).until_ns > NOW for name in world.files(world.root / "nas"))
    nas.now_ns = lambda: NOW + 20 * DAY
    assert at(world, 13.5).removed == ()
    done = at(world, 17)
    assert {dump for dump, _target in done.removed} == {row.id for row in dumps[:3]} and done.problems == ()
    assert there(world, "nas") == {row.id for row in dumps[3:]}
    assert {dump for dump, _target in locked.known(world.catalog)} == {row.id for row in dumps[3:]}


def test_what_only_the_place_knows_to_be_locked_stays_too(world):
    dumps = grown(world, keep=1)
    nas = vault(world)
    for name in world.files(world.root / "nas"):  # a default of the bucket, of which nothing stands in the catalog
        if name.endswith("image-0001.tar.zst") and dumps[0].id in name:
            nas.lock(name, NOW + 30 * DAY)
    at(world, 0)
    nas.now_ns = lambda: NOW + 4 * DAY
    done = at(world, 4)
    assert done.kept == ((dumps[0].id, "nas"),) and done.problems == ()
    assert dumps[0].id in there(world, "nas") and dumps[1].id not in there(world, "nas")
    assert (dumps[0].id, "nas") not in marks.marked(world.catalog)
    (why,) = [one.decision.reason for one in look(world.settings, world.catalog, NOW + 4 * DAY) if one.decision.dump.id
              == dumps[0].id and one.decision.copy.target == "nas"]  # fmt: skip
    assert why.startswith("locked until ")
    nas.now_ns = lambda: NOW + 40 * DAY
    at(world, 35)
    at(world, 39)
    assert there(world, "nas") == {dumps[5].id}


def test_what_somebody_holds_at_the_place_is_held_here(world):
    dumps = grown(world, keep=1)
    nas = vault(world)
    nas.legal_hold(f"{prefix_of(dumps[1])}/{layout.MANIFEST}", True)
    at(world, 0)
    done = at(world, 4)
    assert done.problems == (f"target nas holds {dumps[1].id}, which nobody held here: it stays -> stowage hold",)
    assert [(one.name, one.why) for one in marks.held(world.catalog)] == [(dumps[1].id, "found held on nas")]
    at(world, 8)
    assert there(world, "nas") == {dumps[1].id, dumps[5].id}
    marks.release(world.catalog, marks.DUMP, dumps[1].id)
    at(world, 9)
    assert not any(nas.locked(name).held for name in world.files(world.root / "nas"))
    at(world, 13)
    assert there(world, "nas") == {dumps[5].id}


def test_a_base_stays_when_what_builds_on_it_turns_out_to_be_locked(world):
    world.policy(CopyRule("nas", keep={"last": 1}))
    full, change, last = world.dump(), world.dump(level=1), world.dump()
    assert all(one.ok for one in world.stage())
    release(world.settings, world.catalog)
    nas = vault(world)
    nas.lock(f"{prefix_of(change)}/index.tsv.zst", NOW + 50 * DAY)
    for days in (0, 4, 8, 12):
        at(world, days)
    assert there(world, "nas") == {full.id, change.id, last.id}
    nas.now_ns = lambda: NOW + 60 * DAY
    for days in (51, 55):
        at(world, days)
    assert there(world, "nas") == {last.id}


def test_a_hold_that_comes_for_what_builds_on_it_saves_the_base(world, monkeypatch):
    world.policy(CopyRule("nas", keep={"last": 1}))
    full, change, last = world.dump(), world.dump(level=1), world.dump()
    assert all(one.ok for one in world.stage())
    release(world.settings, world.catalog)
    at(world, 0)
    delete = world.opened["nas"].delete
    monkeypatch.setattr(world.opened["nas"], "stat", lambda name, stat=world.opened["nas"].stat: (
        marks.hold(world.catalog, marks.DUMP, change.id, ""), stat(name))[1])  # fmt: skip
    at(world, 4)
    assert there(world, "nas") == {full.id, change.id, last.id} and delete is not None


def test_one_refusal_of_a_place_that_locks_keeps_no_other(world, monkeypatch):
    dumps = grown(world, keep=1)
    nas = vault(world)
    at(world, 0)
    delete = nas.delete

    def refuse(name):
        if dumps[2].id in name:
            raise TargetError(f"an older version of {name} is locked")
        delete(name)

    monkeypatch.setattr(nas, "delete", refuse)
    for days in (4, 5):
        done = at(world, days)
        assert len(done.problems) == 1 and there(world, "nas") == {dumps[2].id, dumps[5].id}
    assert world.states(dumps[2])["nas"] == "expired"
    monkeypatch.undo()
    at(world, 6)
    assert there(world, "nas") == {dumps[5].id} and world.catalog.dump(dumps[2].id) is None


def test_a_kill_between_any_two_steps_of_locking_is_taken_up(world, monkeypatch):
    locking(world, 120)
    dumps = [world.dump(), world.dump(level=1), world.dump()]
    assert all(one.ok for one in world.stage())
    release(world.settings, world.catalog)
    after, whole = 0, False
    while not whole:
        nas = vault(world)
        (world.root / "nas.locks").unlink(missing_ok=True)
        for row in dumps:
            locked.forget(world.catalog, row.id)
        steps = [0]

        def step(call, steps=steps, limit=after):
            def stepped(*args):
                steps[0] += 1
                if steps[0] > limit:
                    raise Killed
                return call(*args)

            return stepped

        with monkeypatch.context() as patch:
            patch.setattr(nas, "lock", step(nas.lock))
            patch.setattr(locked, "put_until", step(locked.put_until))
            patch.setattr("backupcore.stage.locks.AT_ONCE", 1)
            try:
                at(world, 0)
                whole = True
            except Killed:
                pass
        for (dump, _target), row in locked.known(world.catalog).items():  # what is written was kept
            assert {nas.locked(name).until_ns for name in of(world, "nas", dump)} == {row.until_ns}
        at(world, 0)
        dates = [{nas.locked(name).until_ns for name in of(world, "nas", row.id)} for row in dumps]
        assert dates == [{dumps[1].begun_ns + 120 * DAY}] * 2 + [{dumps[2].begun_ns + 120 * DAY}]
        after += 1
    assert after > 20


def test_what_removes_is_opened_with_the_credential_for_it(world):
    dumps = grown(world)
    at(world, 0)
    asked = []

    def open_pruning(name):
        asked.append(name)
        return world.directory(name)

    for name, target in world.opened.items():
        refusing = type("Refusing", (type(target),), {"delete": None})
        world.opened[name] = refusing(DirectoryOptions(path=world.root / name),
                                      TargetContext(name, world.server, world.root / "other" / name))  # fmt: skip
    refused = at(world, 4, open_pruning=lambda _name: type("Wrong", (), {"stat": _refuse})())
    assert refused.removed == () and set(refused.problems) == {"target disk: wrong key", "target nas: wrong key"}
    assert set(world.states(dumps[0]).values()) == {"verified"}
    done = at(world, 4, open_pruning=open_pruning)
    assert done.problems == () and sorted(asked) == ["disk", "nas"]
    assert there(world, "nas") == {row.id for row in dumps[4:]}


def _refuse(_target, _name):
    raise TargetError("wrong key")
