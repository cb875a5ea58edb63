"""Staging by Ansible: what changed, what check mode says, failures, second copies."""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json

import pytest

pytest.importorskip("ansible.module_utils.testing")
import engine_command  # noqa: E402
from ansible.module_utils.testing import patch_module_args  # noqa: E402
from ansible_collections.stowage.backup.plugins.modules import stage  # noqa: E402
from stage_world import World  # noqa: E402

CONFIG = """\
state: {base}/state
keys: {{folder: {base}/keys}}
holding: [{{path: {base}/holding, use: 1 GB}}]
targets: {{nas: {{type: directory, path: {base}/nas}}, disk: {{type: directory, path: {base}/disk}}}}
policies: {{standard: {{copies: [{{target: nas}}]}}}}
clients: {{web1: {{sources: {{etc: /etc}}}}}}
"""


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    (tmp_path / "stowage.yml").write_text(CONFIG.format(base=tmp_path))
    world.dump(), world.dump(level=1)
    world.catalog.close()
    engine_command.make(tmp_path)
    return world


@pytest.fixture
def play(world, capsys):
    def play(check=False, **args):
        where = {"engine": str(world.root / "stowage"), "config": str(world.root / "stowage.yml")}
        with patch_module_args({**where, "_ansible_check_mode": check, **args}), pytest.raises(SystemExit):
            stage.main()
        return json.loads(capsys.readouterr().out)

    return play


def manifests(world, name):
    return len(list((world.root / name).rglob("manifest.json")))


def test_copies_are_made_once(world, play):
    told = play(check=True)
    assert told["changed"] and told["plan"][0]["copies"] == 2 and manifests(world, "nas") == 0
    done = play()
    assert done["changed"] and [one["ok"] for one in done["copies"]] == [True, True] and manifests(world, "nas") == 2
    assert done["status"] == "ok" and done["next"] == ["stowage list copies"]
    assert not play(targets=["nas"], now=True)["changed"] and not play(check=True)["changed"]
    second = {"from": "nas", "to": "disk"}
    told = play(check=True, **second)
    assert told["changed"] and [(one["from"], one["target"]) for one in told["plan"]] == [("nas", "disk")]
    assert manifests(world, "disk") == 0
    assert play(clients=["web1"], **second)["changed"] and manifests(world, "disk") == 2
    assert not play(**second)["changed"]


def test_what_fails_fails_the_task(world, play):
    (world.root / "nas").write_text("no folder")
    done = play()
    assert done["failed"] and done["msg"].startswith("web1:etc nas: target nas: ") and not done["changed"]
    assert " -> " in done["msg"]
    done = play(fail=False)
    assert not done.get("failed") and done["status"] == "fail"


def test_what_makes_no_sense_fails(play):
    assert "from" in play(to="disk")["msg"]
    assert "without --target" in play(**{"from": "nas", "to": "disk", "targets": ["disk"]})["msg"]
    assert "unknown target" in play(targets=["tape"])["msg"]
