"""Sealing as an operator gets it: a policy in the inventory, and the playbooks do the rest, keys included.

The tests of this file are one story, in order, as those of test_collection.py.
"""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import sealed
import yaml
from collection_lab import BIN, Lab, hosts

pytestmark = [
    pytest.mark.slow,  # six playbooks on hosts of its own; make demo seals by the roles, too
    pytest.mark.skipif(os.geteuid() != 0, reason="lab hosts need root"),
    pytest.mark.timeout(900),
]
SERVER, CLIENT = "backup3.lab", "web3.lab"
PASSPHRASE = "vier-alte-kisten-am-kai"


@pytest.fixture(scope="module")
def lab():
    """A backup server and a client, nothing installed yet."""
    one = Lab(Path(tempfile.mkdtemp(prefix="stowage-sealed-", dir="/var/tmp")))
    one.folder.chmod(0o755)
    try:
        hosts.up(one.folder, SERVER, "127.77.31.21")
        hosts.up(one.folder, CLIENT, "127.77.31.22")
        one.on(CLIENT, "mkdir -p /var/www/wichtig && echo secret > /var/www/wichtig/unterlagen")
        one.on(SERVER, "rm -rf /etc/stowage /usr/local/lib/stowage; mkdir -p /srv/nas /srv/holding")
        one.on(CLIENT, "rm -rf /etc/stowage /usr/local/lib/stowage; mkdir -p /etc/stowage")
        one.install()
        write(one)
        yield one
    finally:
        hosts.down(one.folder, [])
        shutil.rmtree(one.folder, ignore_errors=True)


def write(lab, **policies):
    """The inventory: everything is sealed by the server, what lies in www by the client."""
    lab.write_inventory(
        SERVER,
        {CLIENT: {
            "backup_client_sources": {"etc": "/etc", "www": {"path": "/var/www", "policy": "private"}},
        }},
        backup_server_holding=[{"path": "/srv/holding", "use": "1 GiB"}],
        backup_server_targets={"nas": {"type": "directory", "path": "/srv/nas"}},
        backup_server_policies={"standard": {"encrypt": "server"}, "private": {"encrypt": "client"}, **policies},
    )  # fmt: skip


def test_check_mode_passes_on_bare_hosts(lab):
    played = lab.play("site", "--check", "--diff")
    assert played.status == 0, played.text
    assert not list(lab.root(SERVER).glob("var/lib/stowage/keys"))


def test_site_makes_keys_and_says_what_to_do_with_them(lab):
    played = lab.play("site", "-vvv", backup_server_key_passphrase=PASSPHRASE)
    assert played.status == 0, played.text
    assert "operations and escrow were made." in played.text and "key kit --out" in played.text
    shown = [line for line in played.text.splitlines() if PASSPHRASE in line and "EXEC" in line]
    assert not shown
    listed = {one["name"]: one for one in lab.stowage(SERVER, "key", "list")["keys"]}
    assert {name: one["private"] for name, one in listed.items()} == {"operations": "protected", "escrow": "protected"}
    agent = json.loads((lab.root(CLIENT) / "etc/stowage/agent.json").read_text())["sources"]
    assert (agent["etc"]["encrypt"], agent["etc"]["recipients"]) == ("none", [])
    assert agent["www"]["encrypt"] == "client"
    assert sorted(agent["www"]["recipients"]) == sorted(one["public"] for one in listed.values())


def test_the_second_time_nothing_changes(lab):
    played = lab.play("site")  # a key that is there needs no passphrase
    assert (played.status, played.changed()) == (0, 0), played.text


def test_a_run_seals_by_server_and_by_client(lab):
    played = lab.play("run")
    assert played.status == 0, played.text
    for place in ("srv/holding", "srv/nas"):
        found = {}
        for path in (lab.root(SERVER) / place).rglob("manifest.json"):
            manifest = json.loads(path.read_text())
            found[manifest["source"]] = manifest["seal"]["by"]
            assert len(manifest["seal"]["recipients"]) == 2 and (path.parent / "keys.tsv").exists()
        assert found == {"etc": "server", "www": "client"}
        assert not sealed.names_in(lab.root(SERVER) / place, (b"wichtig", b"unterlagen", b"nsswitch.conf"))


def vaulted(lab, **secrets):
    """Words of ansible-playbook that bring secrets from a vault, as a person keeps them."""
    password, file = lab.folder / "vault-password", lab.folder / "vault.yml"
    password.write_text("of the vault\n")
    file.write_text(yaml.safe_dump({f"vault_{name}": value for name, value in secrets.items()}))
    words = [str(BIN / "ansible-vault"), "encrypt", "--vault-password-file", str(password), str(file)]
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, "ANSIBLE_LOCAL_TEMP": str(lab.folder)})
    assert file.read_text().startswith("$ANSIBLE_VAULT")
    given = [word for name in secrets for word in ("-e", f"restore_{name}={{{{ vault_{name} }}}}")]
    return ["--vault-password-file", str(password), "-e", f"@{file}", *given]


def restored(lab):
    """What the scratch folder of the client has of the one file; nothing is left there."""
    script = "find /var/lib/stowage/restore -name unterlagen -exec cat {} +; rm -rf /var/lib/stowage/restore/*"
    return lab.on(CLIENT, script).stdout


def test_a_restore_opens_by_a_passphrase_from_the_vault_and_shows_it_nowhere(lab):
    played = lab.play("restore", restore_what=f"{CLIENT}:/var/www")
    assert played.status != 0 and "sealed" in played.text and restored(lab) == ""
    words = vaulted(lab, passphrase="the wrong one")
    played = lab.play("restore", *words, restore_what=f"{CLIENT}:/var/www")
    assert played.status != 0 and "the wrong one" not in played.text and restored(lab) == ""
    words = vaulted(lab, passphrase=PASSPHRASE)
    played = lab.play("restore", "-vvv", *words, restore_what=f"{CLIENT}:/var/www")
    assert played.status == 0, played.text
    assert restored(lab) == "secret\n" and PASSPHRASE not in played.text


def test_a_restore_opens_by_a_key_from_the_vault_that_is_not_on_the_server(lab):
    keys, away = "/var/lib/stowage/keys/private", "/srv/in-a-safe"
    private = lab.on(SERVER, f"cat {keys}/escrow.pem; mv {keys} {away}").stdout
    lines = private.splitlines()[1:-1]
    try:
        words = vaulted(lab, passphrase=PASSPHRASE)
        played = lab.play("restore", *words, restore_what=f"{CLIENT}:/var/www")
        assert played.status != 0 and restored(lab) == ""
        words = vaulted(lab, passphrase=PASSPHRASE, key=private)
        played = lab.play("restore", "-vvv", *words, restore_what=f"{CLIENT}:/var/www")
        assert played.status == 0, played.text
        assert restored(lab) == "secret\n" and PASSPHRASE not in played.text
        assert not [line for line in lines if line in played.text]
        left = f"grep -rlF -e '{lines[1]}' /tmp /var/tmp /run /etc /var/lib /root/.ansible 2>/dev/null || true"
        assert lab.on(SERVER, left).stdout == ""
    finally:
        lab.on(SERVER, f"mv {away} {keys}")


def test_a_new_key_reaches_the_clients_by_site(lab):
    made = lab.on(SERVER, f"echo {PASSPHRASE} | stowage key generate --only third --passphrase-file -")
    assert made.returncode == 0
    checked = lab.stowage(SERVER, "check")
    assert any("is to be sealed for" in one["message"] for one in checked["findings"]), checked
    played = lab.play("site", "--limit", CLIENT)
    assert played.status == 0, played.text
    agent = json.loads((lab.root(CLIENT) / "etc/stowage/agent.json").read_text())["sources"]
    assert len(agent["www"]["recipients"]) == 3
    assert lab.play("run").status == 0


def test_a_policy_that_seals_no_more_takes_the_recipients_away(lab):
    write(lab, private={})
    assert lab.play("site").status == 0
    agent = json.loads((lab.root(CLIENT) / "etc/stowage/agent.json").read_text())["sources"]
    assert (agent["www"]["encrypt"], agent["www"]["recipients"]) == ("none", [])
    assert lab.play("run").status == 0
