"""Only the server's memory is lost, and its holding disk lives: docs/restore.md, with the real command.

What a person types on a real host is typed by the molecule scenario lost; here is what comes of it.
"""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import shutil

import pytest
from cli_lab import Server

from backupcore.image.signing import fingerprint, read_public


@pytest.fixture
def server(tmp_path):
    one = Server(tmp_path)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/one").write_text("one")
    one.client("c", {"tree": tmp_path / "tree"})
    yield one
    one.close()


def run(server):
    """A night that makes an incremental where there is something to build on; its level. Left to itself the planner
    makes a full of a tree so young that an incremental has all of it, too."""
    server.stowage("run", "--level", 1)
    return dumps(server)[-1]["level"]


def dumps(server):
    rows = json.loads(server.stowage("--json", "list", "dumps", "--limit", "0")[0])["dumps"]
    return sorted(rows, key=lambda row: row["begun_ns"])  # two of one second have no order by name


def lose(server):
    """The state goes; what the page says is put in place. The fingerprint that signed the last dumps."""
    state, kit = server.base / "state", server.base / "signing.pub"
    shutil.copy(state / "keys/signing.pub", kit)
    signer = fingerprint(read_public(kit.read_bytes()))
    shutil.rmtree(state)
    (state / "keys").mkdir(parents=True, mode=0o700)
    shutil.copy(server.base / "holding/.stowage", state / "server-id")
    shutil.copy(kit, state / "keys/old.pub")
    return signer


def test_the_next_run_takes_up_what_lies_on_the_holding_disk(server):
    assert [run(server), run(server)] == [0, 1]
    before = [row["dump"] for row in dumps(server)]
    lose(server)
    assert run(server) == 1
    after = dumps(server)
    assert [row["dump"] for row in after[:2]] == before
    assert len(after) == 3
    server.stowage("restore", "c:/", "--at", before[1], "--to", server.base / "out")
    assert (server.base / "out" / str(server.base).lstrip("/") / "tree/one").read_text() == "one"


def test_what_only_a_target_has_is_rebuilt_before_it(server):
    server.write(targets={"nas": {"type": "directory", "path": str(server.base / "nas")}})
    assert [run(server), run(server)] == [0, 1]
    assert [row["holding"] is None for row in dumps(server)] == [True, False]
    signers = [lose(server)]
    server.stowage("rebuild", "--from", "nas", "--signer", signers[0])
    assert run(server) == 1
    # once more: two keys have signed by now, and the newer one is trusted
    before = [row["dump"] for row in dumps(server)]
    signers.append(lose(server))
    assert len(set(signers)) == 2
    server.stowage("rebuild", "--from", "nas", "--signer", signers[1][:16], "--signer", signers[0][:16])
    assert run(server) == 1
    assert [row["dump"] for row in dumps(server)[:3]] == before
