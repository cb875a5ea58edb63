"""`stowage prune`, `hold` and `release` from the command line, on a directory target."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from backupcore.hookspecs import TargetContext, TargetError
from lock_place import LockPlace
from stage_world import World

from backupcore import clock
from backupcore.app import check_copies, pruning, rebuilding
from backupcore.app.engine import Engine
from backupcore.catalog import locked
from backupcore.report.text import render
from backupcore.settings import CopyRule
from backupcore.stage.release import release
from backupcore.targets.directory import DirectoryOptions

CONFIG = """\
state: {base}/state
keys: {{folder: {base}/keys}}
holding: [{{path: {base}/holding, use: 1 GB}}]
targets:
  nas: {{type: directory, path: {base}/nas}}
  disk: {{type: directory, path: {base}/disk}}
policies:
  standard: {{copies: [{{target: nas, keep: {{last: 2}}}}, {{target: disk}}]}}
prune: {{grace: 0}}
clients:
  web1: {{sources: {{etc: /etc}}}}
"""


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    (tmp_path / "stowage.yml").write_text(CONFIG.format(base=tmp_path))
    world.policy(CopyRule("nas"), CopyRule("disk"))
    world.dumps = [world.dump() for _ in range(5)]
    world.stage()
    release(world.settings, world.catalog)
    world.dump_again = lambda: _dump(world)
    world.catalog.close()
    return world


def _dump(world):
    """One more, by another process."""
    from backupcore.catalog import places
    from backupcore.catalog.store import Catalog

    world.catalog = Catalog(places.catalog_file(world.settings.state))
    try:
        return world.dump()
    finally:
        world.catalog.close()


def manifests(world):
    return len(list((world.root / "nas").rglob("manifest.json")))


def test_it_says_what_would_go_and_why_the_rest_stays(world, stowage):
    status, out, err = stowage("prune", "--dry-run")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["source", "target", "copies", "size", "what", "goes", "from"]
    assert lines[1].split()[:3] == ["web1:etc", "nas", "3"]
    assert any(line.split()[:3] == ["disk", "5", "1"] and line.endswith("no keep: for ever") for line in lines)
    assert any("disk: no keep, so for ever; it grew by" in line for line in lines)
    assert lines[-2].startswith("OK   3 of 10 copies are past their keep")
    assert manifests(world) == 5
    one_by_one = stowage("prune", "--dry-run", "--all")[1]
    assert all(one_by_one.count(row.id) == 2 for row in world.dumps)


def test_marked_then_removed(world, stowage):
    status, out, _err = stowage("prune")
    assert status == 0 and "3 copies are past their keep" in out
    assert stowage("list", "copies")[1].count("verified (marked)") == 3
    assert manifests(world) == 5
    status, out, _err = stowage("prune", "--json")
    answer = json.loads(out)
    assert {one["dump"] for one in answer["removed"]} == {row.id for row in world.dumps[:3]}
    assert manifests(world) == 2
    assert "nothing to remove" in stowage("prune")[1]


def test_undo_hold_and_release(world, stowage):
    assert "nothing was marked" in stowage("prune", "--undo")[1]
    stowage("prune")
    assert "OK   1 copies are no longer marked" in stowage("prune", "--undo", world.dumps[0].id)[1]
    assert stowage("hold", world.dumps[0].id, "--why", "court")[0] == 0
    assert "court" in stowage("hold")[1]
    stowage("prune")
    assert manifests(world) == 3
    assert "as before" in stowage("hold", world.dumps[0].id)[1]
    assert "no longer held" in stowage("release", world.dumps[0].id)[1]
    stowage("prune")
    stowage("prune")
    assert manifests(world) == 2


def test_all_of_a_client_is_held(world, stowage):
    assert stowage("hold", "web1")[0] == 0
    stowage("prune")
    stowage("prune")
    assert manifests(world) == 5
    assert "nothing is held" not in stowage("hold")[1]


@pytest.mark.parametrize("words, told", [
    (("hold", "web9"), "there is no dump and no client web9"),
    (("release", "20260101T000000Z-L0-00000000"), "there is no dump and no client"),
    (("prune", "--undo", "x"), "there is no dump x"),
    (("prune", "--target", "nsa"), "nsa"),
    (("prune", "--undo", "--dry-run"), "--undo stands alone"),
    (("prune", "--all"), "--all with --dry-run"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(stowage, words, told):
    status, _out, err = stowage(*words)
    assert status == 2 and told in err


def test_a_night_prunes_only_where_a_keep_is_written_and_nobody_forbids_it(world):
    file = world.root / "stowage.yml"
    plain = file.read_text()
    for other in (plain.replace("{grace: 0}", "{grace: 0, nightly: false}"), plain.replace(", keep: {last: 2}", "")):
        file.write_text(other)
        for _night in range(2):
            with Engine(file) as engine:
                assert pruning.nightly(engine, None) == pruning.Night()
    file.write_text(plain)
    with Engine(file) as engine:
        night = pruning.nightly(engine, None)
        assert len(night.notes) == 1 and night.notes[0].startswith("prune: 3 copies are past their keep")
        assert manifests(world) == 5
        run = replace(engine.catalog.begin_run("run"), summary=night.summary)
        report = engine.report_of(run, None)
        assert report.as_dict()["prune"] == list(night.notes)
        assert night.notes[0] in render(report).splitlines()
        assert pruning.nightly(engine, None).notes == ("prune: 3 copies were removed",)
    assert manifests(world) == 2


@pytest.fixture
def vault(world, monkeypatch):
    """nas locks; opened: with which credential it was."""
    world.place, world.opened_as = {}, []

    def open_target(engine, name, pruning=False):
        world.opened_as.append((name, pruning))
        context = TargetContext(name, world.server, world.root / "state/targets" / name, pruning)
        kind = LockPlace if name == "nas" else type(world.opened["disk"])
        found = kind(DirectoryOptions(path=world.root / name), context)
        if name == "nas":
            found.now_ns = clock.now_ns
            found.forgets = world.place.setdefault("forgets", set())
            world.place["nas"] = found
        return found

    monkeypatch.setattr(Engine, "_open_target", open_target)
    monkeypatch.setattr(rebuilding, "_open", open_target)
    return world


def held_there(world):
    nas = world.place["nas"]
    return {name.name.split("/")[2] for name in nas.list("web1/") if nas.locked(name.name).held}


def test_a_hold_is_set_at_a_target_that_locks_and_released_there(vault, stowage):
    dumps = vault.dumps
    status, out, _err = stowage("hold", dumps[1].id, "--why", "court")
    assert status == 0 and "1 copies are held by their targets themselves" in out
    assert held_there(vault) == {dumps[1].id}
    assert "4 copies are held by their targets" in stowage("hold", "web1")[1]
    assert held_there(vault) == {row.id for row in dumps}
    answer = json.loads(stowage("release", "web1", "--json")[1])
    assert answer["names"] == ["web1"] and answer["at_targets"] == 4 and answer["still"] == [dumps[1].id]
    assert held_there(vault) == {dumps[1].id}
    status, out, _err = stowage("release", "web1", "--dumps")
    assert status == 0 and "web1 was not held" in out and "1 of its dumps are no longer held" in out
    assert held_there(vault) == set() and ("nas", True) in vault.opened_as
    assert stowage("release", dumps[1].id, "--dumps")[0] == 2


def test_a_hold_counts_here_when_its_target_refuses(vault, stowage, monkeypatch):
    def refuse(_self, name, _on):
        raise TargetError(f"{name}: AccessDenied")

    with monkeypatch.context() as patch:
        patch.setattr(LockPlace, "legal_hold", refuse)
        status, out, _err = stowage("hold", vault.dumps[0].id)
        assert status == 0 and "WARN target nas: " in out and "AccessDenied" in out
        assert stowage("--strict", "hold", vault.dumps[0].id)[0] == 1
    stowage("prune")
    assert held_there(vault) == {vault.dumps[0].id}


def test_a_staging_locks_what_it_copied_and_says_what_is_not(vault, stowage, monkeypatch):
    file = vault.root / "stowage.yml"
    file.write_text(file.read_text().replace("keep: {last: 2}", "keep: {last: 2}, lock: 20000 days"))
    status, out, _err = stowage("stage")
    assert status == 0
    with Engine(file) as engine:
        assert {row.mode for row in locked.known(engine.catalog).values()} == {"compliance"}
        assert len(locked.known(engine.catalog)) == 5
    assert "locked until" in stowage("prune", "--dry-run")[1]
    assert stowage("list", "copies")[1].count("verified (locked until 2081-") == 5
    with monkeypatch.context() as patch:  # what is over is not said
        patch.setattr(clock, "now_ns", lambda: clock.parse_iso("2090-01-01T00:00:00Z"))
        assert "(locked until" not in stowage("list", "copies")[1]
    new = vault.dump_again()
    vault.place["forgets"].add(f"web1/etc/{new.id}/manifest.json")
    status, out, _err = stowage("stage")
    assert status == 1
    (line,) = [line for line in out.splitlines() if line.startswith("FAIL lock: ")]
    assert "target nas" in line and "is locked not at all" in line and line.endswith("-> stowage check")
    assert json.loads(stowage("stage", "--json")[1])["unlocked"]
    vault.place["forgets"].clear()
    assert stowage("stage")[0] == 0


def test_a_prune_judges_what_is_not_locked_as_stage_does(vault, stowage):
    file = vault.root / "stowage.yml"
    file.write_text(file.read_text().replace("keep: {last: 2}", "keep: {last: 2}, lock: 20000 days"))
    stowage("stage")
    vault.place["forgets"].add(f"web1/etc/{vault.dumps[0].id}/manifest.json")
    vault.place["nas"].kept.unlink()
    with Engine(file) as engine:
        for dump in vault.dumps:
            locked.forget(engine.catalog, dump.id, "nas")
    status, out, _err = stowage("prune")
    (line,) = [line for line in out.splitlines() if line.startswith("FAIL lock: ")]
    assert status == 1 and "is locked not at all" in line and line.endswith("-> stowage check")
    told = json.loads(stowage("prune", "--json")[1])
    assert told["status"] == "fail" and told["unlocked"] == [line.removeprefix("FAIL ")] and told["problems"] == []
    with Engine(file) as engine:
        assert engine.catalog.runs(limit=1, kind="prune")[0].status == "FAIL"
    vault.place["forgets"].clear()
    assert stowage("prune")[0] == 0


def test_what_a_verify_makes_anew_is_locked_again(vault, stowage):
    file = vault.root / "stowage.yml"
    file.write_text(file.read_text().replace("keep: {last: 2}", "keep: {last: 2}, lock: 20000 days"))
    assert stowage("stage")[0] == 0
    nas = vault.place["nas"]
    part = vault.root / "nas/web1/etc" / vault.dumps[0].id / "image-0000.tar.zst"
    part.write_bytes(b"spoiled")
    nas.kept.unlink()  # other files than those that were locked
    assert stowage("verify")[0] == 1 and part.stat().st_size == 3000
    names = [one.name for one in nas.list(f"web1/etc/{vault.dumps[0].id}/")]
    assert len(names) == 8 and all(nas.locked(name).until_ns > clock.now_ns() for name in names)


def test_a_rebuild_reads_locks_and_holds_back(vault, stowage):
    stowage("hold", vault.dumps[1].id)
    for name in ("catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"):
        (vault.root / "state" / name).unlink(missing_ok=True)
    status, out, _err = stowage("rebuild", "--from", "nas")
    assert "1 dumps are held there" in out
    assert vault.dumps[1].id in stowage("hold")[1]
    assert "no longer held" in stowage("release", vault.dumps[1].id)[1] and held_there(vault) == set()


def test_what_stays_for_ever_is_said_with_its_growth(world, monkeypatch):
    file = world.root / "stowage.yml"
    with Engine(file) as engine:
        monkeypatch.setattr(clock, "now_ns", lambda: world.dumps[2].begun_ns + pruning.MONTH_NS)
        bytes_of = {copy.dump: copy.bytes for copy in engine.catalog.copies(target="disk")}
        assert pruning.for_ever(engine) == {"disk": sum(bytes_of[row.id] for row in world.dumps[2:])}
        assert pruning.growth(engine, pruning.look(engine)) == pruning.for_ever(engine)
        (told,) = check_copies.endless(engine)
        assert told.startswith("copies on disk without keep stay for ever: it grew by ")
    file.write_text(file.read_text().replace("{target: disk}", "{target: disk, keep: {days: 9}}"))
    with Engine(file) as engine:
        assert list(check_copies.endless(engine)) == []


def test_a_retired_client_keeps_its_rules_and_a_source_that_left_keeps_its_copies(world, stowage):
    file = world.root / "stowage.yml"
    plain = file.read_text()
    file.write_text(plain.replace("{sources: {etc: /etc}}", "{sources: {}}"))
    for _prune in range(2):
        stowage("prune")
    assert manifests(world) == 5
    assert "its source is no longer in the configuration" in stowage("prune", "--dry-run")[1]
    file.write_text(plain.replace("{sources: {etc: /etc}}", "{state: retired, sources: {etc: /etc}}"))
    for _prune in range(2):
        stowage("prune")
    assert manifests(world) == 2
    file.write_text(plain.replace("web1: {sources: {etc: /etc}}", ""))
    for _prune in range(2):
        stowage("prune")
    assert manifests(world) == 2
