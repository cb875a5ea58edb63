"""A lost server rebuilt by Ansible: changed once, secrets on standard input only, refusals in one line."""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json

import pytest

pytest.importorskip("ansible.module_utils.testing")
import engine_command  # noqa: E402
import sealed  # noqa: E402
from ansible.module_utils.testing import patch_module_args  # noqa: E402
from ansible_collections.stowage.backup.plugins.modules import rebuild as module  # noqa: E402

from backupcore.image.manifest import Signer  # noqa: E402

SECRET = "four words or more"


@pytest.fixture
def signer(tmp_path):
    """Of the one dump at the target, a sealed one."""
    signer = Signer.make(tmp_path / "old")
    sealed.make(tmp_path / "nas", {"a": b"b"}, signer=signer, private=tmp_path / "pending")
    (tmp_path / "nas/.stowage/keys").mkdir(parents=True)
    (tmp_path / "nas/.stowage/keys" / f"{signer.fingerprint}.pub").write_bytes(signer.public_pem)
    return signer


@pytest.fixture
def server(tmp_path):
    """The engine's command; it notes what others could have seen of it."""
    (tmp_path / "stowage.yml").write_text(
        f"state: {tmp_path}/state\nholding: [{{path: {tmp_path}/h, use: 1 GiB}}]\n"
        f"targets: {{nas: {{type: directory, path: {tmp_path}/nas}}}}\n"
    )
    engine_command.make(tmp_path, note=True)
    return tmp_path


def play(server, capsys, **args):
    """Runs the module; its result."""
    args = {"engine": str(server / "stowage"), "config": str(server / "stowage.yml"), "target": "nas", **args}
    with patch_module_args(args), pytest.raises(SystemExit):
        module.main()
    said = capsys.readouterr().out
    seen = (server / "seen").read_text()
    for secret in (SECRET, "PRIVATE KEY"):
        assert secret not in said and secret not in seen
    return json.loads(said)


def test_the_catalog_is_made_once_and_its_indexes_when_there_is_a_key(server, signer, capsys):
    result = play(server, capsys, signers=[signer.fingerprint[:16]])
    assert (result["changed"], result["status"], result["rebuilt"]["added"]) == (True, "ok", 1)
    assert result["rebuilt"]["adopted"] == [signer.fingerprint] and result["rebuilt"]["indexes"]["closed"] == 1
    assert play(server, capsys)["changed"] is False
    private = sealed.recipient().protect_pem(SECRET.encode()).decode()
    result = play(server, capsys, private=private, passphrase=SECRET)
    assert result["changed"] is True and result["rebuilt"]["indexes"]["fetched"] == 1
    assert play(server, capsys, private=private, passphrase=SECRET)["changed"] is False


def test_a_signer_that_is_not_the_kits_is_refused(server, signer, capsys):
    result = play(server, capsys, signers=["0" * 64])
    assert result["failed"] is True and "no dump on nas is signed by" in result["msg"]
    assert "unknown target" in play(server, capsys, target="cloud")["msg"]


def test_what_was_replaced_is_a_failure(server, signer, capsys):
    play(server, capsys)
    (manifest,) = (server / "nas").glob("web1/etc/*/manifest.json")
    data = manifest.read_bytes().replace(b'"warnings": 0', b'"warnings": 7')
    manifest.write_bytes(data)
    manifest.with_name("manifest.sig").write_bytes(signer.sign(data))
    result = play(server, capsys)
    assert result["failed"] is True and "another dump of this name" in result["msg"]
