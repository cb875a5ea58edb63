"""Pruning and holding by Ansible: what changed, what check mode and diff say, problems as warnings."""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json

import pytest

pytest.importorskip("ansible.module_utils.testing")
import engine_command  # noqa: E402
from ansible.module_utils.testing import patch_module_args  # noqa: E402
from ansible_collections.stowage.backup.plugins.modules import hold, prune  # noqa: E402
from stage_world import World  # noqa: E402

from backupcore.stage.release import release  # noqa: E402

CONFIG = """\
state: {base}/state
keys: {{folder: {base}/keys}}
holding: [{{path: {base}/holding, use: 1 GB}}]
targets: {{nas: {{type: directory, path: {base}/nas}}, disk: {{type: directory, path: {base}/disk}}}}
policies: {{standard: {{copies: [{{target: nas, keep: {{last: 2}}}}, {{target: disk, keep: {{last: 4}}}}]}}}}
prune: {{grace: 0}}
clients: {{web1: {{sources: {{etc: /etc}}}}}}
"""


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    (tmp_path / "stowage.yml").write_text(CONFIG.format(base=tmp_path))
    world.dumps = [world.dump() for _ in range(4)]
    assert all(one.ok for one in world.stage())
    release(world.settings, world.catalog)
    world.catalog.close()
    engine_command.make(tmp_path)
    return world


@pytest.fixture
def play(world, capsys):
    def play(module, check=False, **args):
        where = {"engine": str(world.root / "stowage"), "config": str(world.root / "stowage.yml")}
        with patch_module_args({**where, "_ansible_check_mode": check, **args}), pytest.raises(SystemExit):
            module.main()
        return json.loads(capsys.readouterr().out)

    return play


def there(world):
    return {path.parent.name for path in (world.root / "nas").rglob("manifest.json")}


def test_marked_removed_and_then_nothing(world, play):
    first, second = (row.id for row in world.dumps[:2])
    told = play(prune, check=True)
    assert told["changed"] and told["removed"] == [] and told["staying"] == 6
    assert told["diff"]["before"] == f"web1:etc {first} on nas: kept\nweb1:etc {second} on nas: kept\n"
    assert told["diff"]["after"] == told["diff"]["before"].replace("kept", "marked")
    done = play(prune)
    assert done["changed"] and [one["phase"] for one in done["going"]] == ["mark", "mark"]
    assert done["diff"] == told["diff"] and len(there(world)) == 4
    told = play(prune, check=True, targets=["nas"])
    assert told["changed"] and told["diff"]["after"].count(": gone\n") == 2 and len(there(world)) == 4
    assert not play(prune, targets=["disk"])["changed"]
    done = play(prune)
    assert done["changed"] and {one["dump"] for one in done["removed"]} == {first, second}
    assert done["diff"] == told["diff"] and len(there(world)) == 2
    last = play(prune)
    assert not last["changed"] and last["going"] == [] and last["diff"] == {"before": "", "after": ""}


def test_a_mistake_is_undone(world, play):
    assert not play(prune, undo=True)["changed"]
    play(prune)
    first = world.dumps[0].id
    told = play(prune, check=True, undo=True, dump=first)
    assert (told["changed"], told["unmarked"]) == (True, 1)
    done = play(prune, undo=True, dump=first)
    assert done["unmarked"] == 1 and done["diff"] == told["diff"]
    assert done["diff"]["after"] == f"{first} on nas: kept\n"
    assert play(prune, undo=True)["unmarked"] == 1
    assert "there is no dump x" in play(prune, undo=True, dump="x")["msg"]


def test_what_makes_no_sense_fails(play):
    assert play(prune, undo=True, targets=["nas"])["failed"]
    assert "goes with undo alone" in play(prune, dump="x")["msg"]
    assert 'unknown target "nsa"' in play(prune, targets=["nsa"])["msg"]


def test_what_could_not_be_removed_is_a_warning(world, play):
    play(prune)
    (world.root / "nas").rename(world.root / "away")
    (world.root / "nas").mkdir()
    done = play(prune)
    assert done["status"] == "warn" and done["removed"] == [] and not done["changed"]
    assert any("target nas" in one for one in done["problems"])


def test_held_and_released(world, play):
    first = world.dumps[0].id
    assert play(hold)["held"] == [] and not play(hold)["changed"]
    told = play(hold, check=True, name=["web1", first], why="case 4711")
    assert told["changed"] and told["held"] == [] and told["diff"]["after"].count("\n") == 2
    done = play(hold, name=["web1", first], why="-- case 4711")
    assert done["changed"] and {(one["kind"], one["name"], one["why"]) for one in done["held"]} == {
        ("client", "web1", "-- case 4711"), ("dump", first, "-- case 4711"),
    }  # fmt: skip
    assert not play(hold, name=[first, "web1"])["changed"]
    play(prune)
    play(prune)
    assert len(there(world)) == 4
    assert play(hold, check=True, name="web1", state="absent")["changed"]
    done = play(hold, name="web1", state="absent")
    assert done["changed"] and [one["name"] for one in done["held"]] == [first]
    assert not play(hold, name="web1", state="absent")["changed"]
    assert play(hold, name="web1", state="absent", dumps=True)["changed"]
    assert play(hold)["held"] == []
    assert "there is no dump and no client web9" in play(hold, name="web9")["msg"]
