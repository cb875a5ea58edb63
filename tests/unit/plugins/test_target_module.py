"""Targets by Ansible: made and written once, secrets on standard input only, check mode, a test that fails."""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import shutil

import pytest

pytest.importorskip("ansible.module_utils.testing")
import engine_command  # noqa: E402
from ansible.module_utils.testing import patch_module_args  # noqa: E402
from ansible_collections.stowage.backup.plugins.modules import target as module  # noqa: E402
from moto.server import ThreadedMotoServer  # noqa: E402

SECRET = "hunter2-of-the-bucket"


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def server(tmp_path):
    """The engine's command; it notes what others could have seen of it."""
    (tmp_path / "h").mkdir()
    (tmp_path / "nas").mkdir()
    (tmp_path / "stowage.yml").write_text(
        f"state: {tmp_path}/state\nholding: [{{path: {tmp_path}/h, use: 1 GiB}}]\n"
        f"targets: {{nas: {{type: directory, path: {tmp_path}/nas}}}}\n"
    )
    engine_command.make(tmp_path, note=True)
    return tmp_path


def play(server, capsys, check=False, **args):
    """Runs the module; its result."""
    args = {"engine": str(server / "stowage"), "config": str(server / "stowage.yml"), "_ansible_check_mode": check,
            **args}  # fmt: skip
    with patch_module_args(args), pytest.raises(SystemExit):
        module.main()
    said = capsys.readouterr().out
    seen = (server / "seen").read_text() if (server / "seen").exists() else ""
    assert SECRET not in seen
    result = json.loads(said)
    result.pop("invocation", None)
    assert SECRET not in json.dumps(result)
    return result


def cloud(endpoint, **more):
    options = {"bucket": "by-ansible", "endpoint": endpoint, "addressing": "path", "part_size": "5 MiB"}
    return {"name": "cloud", "type": "s3", "options": options, "create": True, "versions": True,
            "secrets": {"access_key": "AKID", "secret_key": SECRET}, **more}  # fmt: skip


def test_a_target_is_made_once_and_check_mode_tells_it_before(server, endpoint, capsys):
    told = play(server, capsys, check=True, **cloud(endpoint))
    assert told["changed"] and not (server / "targets.d").exists()
    told = play(server, capsys, **cloud(endpoint))
    assert told["changed"] and told["target"]["written"] and told["status"] in ("ok", "warn")
    assert {one["name"] for one in told["target"]["steps"]} == {"bucket", "versions", "public access", "lifecycle"}
    assert json.loads((server / "targets.d/cloud.json").read_text())["secret_key"] == SECRET
    assert not play(server, capsys, **cloud(endpoint))["changed"]
    assert not play(server, capsys, check=True, **cloud(endpoint))["changed"]
    told = play(server, capsys, state="listed")
    assert [(one["name"], one["type"]) for one in told["targets"]] == [("nas", "directory"), ("cloud", "s3")]
    told = play(server, capsys, **cloud(endpoint, options={**cloud(endpoint)["options"], "prefix": "prod"}))
    assert told["changed"] and "prefix: prod" in (server / "targets.d/cloud.yml").read_text()


def test_a_test_fails_where_the_place_does(server, capsys):
    told = play(server, capsys, name="nas", state="tested", size="1 MiB")
    assert not told["changed"] and told["target"]["up"] > 0
    assert play(server, capsys, check=True, name="nas", state="tested")["changed"] is False
    shutil.rmtree(server / "nas")
    (server / "nas").write_text("")
    told = play(server, capsys, name="nas", state="tested", size="1 MiB")
    assert told["failed"] and told["msg"].startswith("target nas: ")


def test_what_is_wrong_is_told_in_one_line(server, endpoint, capsys):
    told = play(server, capsys, name="nas", type="directory", options={"path": "/x"})
    assert told["failed"] and "stowage.yml" in told["msg"] and "change it there" in told["msg"]
    told = play(server, capsys, **cloud(endpoint, create=False, options={"bucket": "missing", "endpoint": endpoint}))
    assert told["failed"] and "there is no such bucket" in told["msg"] and not (server / "targets.d").exists()
    told = play(server, capsys, **cloud(endpoint, options={"bucket": "abc", "regoin": "x"}))
    assert 'did you mean "region"' in told["msg"]
    assert "state is present but" in play(server, capsys, name="cloud")["msg"]
