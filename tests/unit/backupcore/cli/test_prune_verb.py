"""`stowage prune`, `hold` and `release` from the command line, on a directory target."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from stage_world import World

from backupcore import cli
from backupcore.app import pruning
from backupcore.app.engine import Engine
from backupcore.report.text import render
from backupcore.settings import CopyRule
from backupcore.stage.release import release

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
    world.catalog.close()
    return world


@pytest.fixture
def stowage(world, capsys):
    def stowage(*words):
        status = cli.main(["--config", str(world.root / "stowage.yml"), *words])
        told = capsys.readouterr()
        return status, told.out, told.err

    return stowage


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
        report = engine._report(run, None)
        assert report.as_dict()["prune"] == list(night.notes)
        assert night.notes[0] in render(report).splitlines()
        assert pruning.nightly(engine, None).notes == ("prune: 3 copies were removed",)
    assert manifests(world) == 2
