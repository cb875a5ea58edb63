"""Keys by Ansible: made once, proven, revoked, renewed; no passphrase or private key where anybody sees it."""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json

import pytest

pytest.importorskip("ansible.module_utils.testing")
import engine_command  # noqa: E402
from ansible.module_utils.testing import patch_module_args  # noqa: E402
from ansible_collections.stowage.backup.plugins.modules import key as module  # noqa: E402

from backupcore.image import recipients  # noqa: E402
from backupcore.keys import store  # noqa: E402

SECRET = "four words or more"


@pytest.fixture(scope="module")
def pair():
    return recipients.generate(bits=3072)


@pytest.fixture
def server(tmp_path):
    """The engine's command; it notes what others could have seen of it."""
    (tmp_path / "stowage.yml").write_text(f"state: {tmp_path}/state\nholding: [{{path: {tmp_path}/h, use: 1 GiB}}]\n")
    engine_command.make(tmp_path, note=True)
    return tmp_path


def play(server, capsys, check=False, **args):
    """Runs the module; its result."""
    args = {
        "engine": str(server / "stowage"),
        "config": str(server / "stowage.yml"),
        "_ansible_check_mode": check,
        **args,
    }
    with patch_module_args(args), pytest.raises(SystemExit):
        module.main()
    said = capsys.readouterr().out
    seen = (server / "seen").read_text() if (server / "seen").exists() else ""
    for secret in (SECRET, "PRIVATE KEY"):
        assert secret not in said and secret not in seen
    return json.loads(said)


def test_pairs_are_made_once_and_the_kit_is_written(server, capsys):
    kit = server / "kit.txt"
    args = {"name": ["operations", "escrow"], "passphrase": SECRET, "kit": str(kit)}
    assert play(server, capsys, check=True, **args)["changed"] is True and not kit.exists()
    result = play(server, capsys, **args)
    assert result["changed"] is True and [one["name"] for one in result["keys"]] == ["escrow", "operations"]
    assert all(one["active"] and one["private"] == "protected" for one in result["keys"])
    assert kit.stat().st_mode & 0o777 == 0o600 and kit.read_text().count("BEGIN ENCRYPTED PRIVATE KEY") == 2
    assert result["signing"]["fingerprint"] in kit.read_text()
    again = play(server, capsys, **args)
    assert again["changed"] is False and again["keys"] == result["keys"]
    result = play(server, capsys, name="operations", state="revoked")
    assert result["changed"] is True and [one["active"] for one in result["keys"]] == [True, False]
    assert play(server, capsys, name="operations", state="revoked")["changed"] is False
    assert play(server, capsys, rewrap=True, passphrase=SECRET)["rewrapped"]["recipients"] == ["escrow"]


def test_a_key_from_elsewhere_is_taken_and_proven_by_the_vault(server, capsys, pair):
    public = pair.recipient.public.decode()
    result = play(server, capsys, name="auditor", public=public)
    assert result["changed"] is True and result["keys"][0]["proven"] is None
    assert play(server, capsys, name="auditor", public=public)["changed"] is False
    private = pair.protect_pem(SECRET.encode()).decode()
    assert play(server, capsys, True, name="auditor", public=public, private=private, passphrase=SECRET)["changed"]
    result = play(server, capsys, name="auditor", public=public, private=private, passphrase=SECRET)
    assert result["changed"] is True and result["keys"][0]["active"] is True
    assert play(server, capsys, name="auditor", public=public, private=private, passphrase=SECRET)["changed"] is False
    assert not store.private_file(server / "state" / "keys", "auditor").exists()
    other = recipients.generate(bits=3072).recipient.public.decode()
    assert "another key auditor" in play(server, capsys, name="auditor", public=other)["msg"]


def test_a_key_without_passphrase_and_one_that_is_only_known(server, capsys):
    result = play(server, capsys, name="operations", protect=False)
    assert result["keys"][0]["private"] == "open"
    result = play(server, capsys, name="words", type="passphrase", passphrase=SECRET)
    assert [one["private"] for one in result["keys"]] == ["open", "passphrase"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"name": ["a", "b"], "public": "x"}, "one name"),
        ({"name": ["a"], "type": "passphrase", "protect": False}, "contradicts"),
        ({"name": ["a"], "passphrase": "two\nlines"}, "one line"),
        ({"name": ["a"]}, "no terminal"),
        ({"name": ["a"], "passphrase": "tiny one"}, "shorter than 12"),
        ({"name": ["a"], "public": "x"}, "cannot be read"),
        ({"name": ["a"], "state": "revoked"}, "there is no key"),
        ({"rewrap": True}, "no active key"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_fails_with_the_next_step(server, capsys, args, told):
    result = play(server, capsys, **args)
    assert result["failed"] is True and told in result["msg"]


def test_without_anything_asked_it_only_tells(server, capsys):
    result = play(server, capsys)
    assert (result["changed"], result["keys"], result["signing"]) == (False, [], None)
