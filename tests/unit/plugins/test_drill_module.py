"""A drill by Ansible: what came back in lines, secrets on standard input only, a failure fails the task."""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("ansible.module_utils.testing")
import engine_command  # noqa: E402
from ansible.module_utils.testing import patch_module_args  # noqa: E402
from ansible_collections.stowage.backup.plugins.modules import drill as module  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "integration"))
SECRET = "four words or more"


@pytest.fixture
def server(tmp_path):
    from cli_lab import Server

    server = Server(tmp_path)
    (tmp_path / "nas").mkdir()
    server.write(targets={"nas": {"type": "directory", "path": str(tmp_path / "nas")}})
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    server.client("web1", {"etc": tmp_path / "etc"})
    server.stowage("run")
    engine_command.make(tmp_path, note=True)
    yield tmp_path
    server.close()


def play(server, capsys, check=False, **args):
    """Runs the module; its result."""
    where = {"engine": str(server / "stowage"), "config": str(server / "stowage.yml")}
    args = {**where, "_ansible_check_mode": check, **args}
    with patch_module_args(args), pytest.raises(SystemExit):
        module.main()
    said = capsys.readouterr().out
    seen = (server / "seen").read_text()
    assert SECRET not in said and SECRET not in seen and "PRIVATE KEY" not in said + seen
    return json.loads(said)


def test_what_came_back_is_told_and_nothing_has_changed(server, capsys):
    result = play(server, capsys, clients=["web1"], files=2, target="nas", passphrase=SECRET)
    assert (result["changed"], result["status"]) == (False, "ok")
    assert result["headline"].startswith("proven: 1 of 1 client")
    assert result["lines"][0].startswith("OK   web1:etc all of it from nas")
    assert result["drill"]["results"][0]["status"] == "proven"


def test_check_mode_says_what_would_be_tried(server, capsys):
    result = play(server, capsys, check=True)
    assert [one["source"] for one in result["picks"]] == ["etc"] and result["lines"]
    assert not (server / "web1.scratch").exists()


def test_what_does_not_come_back_fails_the_task(server, capsys):
    (part,) = (server / "nas").rglob("image-0000*")
    part.write_bytes(b"x" * part.stat().st_size)
    result = play(server, capsys)
    assert result["failed"] is True and result["msg"].startswith("web1:etc from nas: ")
    assert "unknown target" in play(server, capsys, target="cloud")["msg"]
