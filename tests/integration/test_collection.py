"""The collection as it ships, on real hosts: roll-out, run, restore with a permit, check mode, removal.

The tests of this file are one story, in order: each stands on the one before.
"""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import shutil
import signal
import stat
import tempfile
import time
from pathlib import Path

import pytest
from collection_lab import Lab, hosts
from listener import Listener

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="lab hosts need root"),
    pytest.mark.timeout(900),
]
SERVER, CLIENT = "backup1.lab", "web1.lab"
FILL = (
    "mkdir -p /var/www/html /var/www/cache && cp -a /usr/share/zoneinfo/Europe /var/www/html/ "
    "&& echo secret > /var/www/html/private && chmod 600 /var/www/html/private && chown 33:33 /var/www/html/private "
    "&& echo junk > /var/www/cache/junk"
)


@pytest.fixture(scope="module")
def lab():
    """A backup server and a client, nothing installed yet; the collection installed on the controller."""
    # not pytest's own folder, which another pytest of the same user may sweep while ours runs for minutes
    one = Lab(Path(tempfile.mkdtemp(prefix="stowage-collection-", dir="/var/tmp")))
    one.folder.chmod(0o755)
    try:
        hosts.up(one.folder, SERVER, "127.77.31.1")
        hosts.up(one.folder, CLIENT, "127.77.31.2")
        one.on(CLIENT, FILL)
        one.on(
            SERVER, "rm -rf /etc/stowage /usr/local/lib/stowage; mkdir -p /srv/nas /srv/holding"
        )  # as mount points are
        one.on(CLIENT, "rm -rf /etc/stowage /usr/local/lib/stowage; mkdir -p /etc/stowage")
        one.install()
        write(one)
        yield one
    finally:
        hosts.down(one.folder, [])
        shutil.rmtree(one.folder, ignore_errors=True)


def write(lab, **client):
    """The inventory; client: more variables of the client."""
    sources = {
        "backup_client_sources": {"etc": "/etc"},
        "backup_client_sources_web": {"www": {"path": "/var/www", "exclude": ["cache/**"]}},
    }
    lab.write_inventory(
        SERVER,
        {CLIENT: {**sources, **client}},
        backup_server_holding=[{"path": "/srv/holding", "use": "1 GiB"}],
        backup_server_targets={"nas": {"type": "directory", "path": "/srv/nas"}},
    )


def wait_until(true, seconds=120):
    """Asks until the answer is true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.5)


def mode(path):
    status = path.stat()
    return f"{stat.S_IMODE(status.st_mode):04o} {status.st_uid}:{status.st_gid}"


@pytest.fixture(scope="module")
def there():
    """Somebody who listens, and as what an inventory knows him."""
    with Listener() as listener:
        listener.events = {"chat": {"type": "webhook", "url": listener.url + "/hidden-hook", "secret": "hidden-key"}}
        yield listener


def test_check_mode_passes_on_bare_hosts_touches_nothing_and_shows_no_secret(lab):
    nas = {"type": "directory", "path": "/srv/nas"}
    cloud = {"type": "s3", "bucket": "acme-backup", "access_key": "AKIAHIDDEN", "secret_key": "hidden-secret"}
    played = lab.play(
        "site", "--check", "--diff", "-vvv", backup_server_targets={"nas": nas, "cloud": cloud},
        backup_server_mail="a@b.example", backup_server_mail_options={"user": "u", "password": "hidden-password"},
        backup_server_events={"chat": {"type": "webhook", "url": "https://hidden-hook/", "secret": "hidden-key"}},
    )  # fmt: skip
    assert played.status == 0, played.text
    assert played.changed() > 10
    for host in (SERVER, CLIENT):
        assert not list(lab.root(host).glob("etc/stowage/*"))
        assert lab.on(host, "id stowage", check=False).returncode != 0
    assert "/etc/stowage/credentials/cloud.json" in played.text
    assert "/etc/stowage/credentials/chat.url" in played.text
    for secret in ("AKIAHIDDEN", "hidden-secret", "hidden-password", "hidden-hook", "hidden-key"):
        assert secret not in played.text


def test_site_sets_up_server_and_client_and_ends_in_one_line(lab, there):
    played = lab.play("site", backup_server_events=there.events)
    assert played.status == 0 and "hidden" not in played.text, played.text
    line = played.said("ready")
    assert "1 client ready" in line and "no timer here" in line, played.text
    server, client = lab.root(SERVER), lab.root(CLIENT)
    group = lab.on(SERVER, "id -g stowage").stdout.strip()
    user = lab.on(SERVER, "id -u stowage").stdout.strip()
    assert mode(server / "etc/stowage") == f"0750 0:{group}"
    assert mode(server / "etc/stowage/stowage.yml") == f"0640 0:{group}"
    assert mode(server / "etc/stowage/ssh/id_ed25519") == f"0600 {user}:{group}"
    assert mode(server / "var/lib/stowage") == f"1770 0:{group}"
    for path in ("var/lib/stowage", "var/lib/stowage/.ssh", "usr/local/lib/stowage"):
        assert mode(client / path) == "0755 0:0"
    assert mode(client / "var/lib/stowage/.ssh/authorized_keys") == "0644 0:0"
    assert mode(client / "var/lib/stowage/restore") == "0700 0:0"
    assert mode(client / "etc/stowage/agent.json") == "0600 0:0"
    serve = "/usr/bin/python3 -I /usr/local/lib/stowage/agent.pyz --config /etc/stowage/agent.json serve"
    assert (client / "etc/sudoers.d/stowage").read_text() == f"stowage ALL=(root) NOPASSWD: {serve}\n"
    allowed = (client / "var/lib/stowage/.ssh/authorized_keys").read_text()
    assert allowed.startswith(f'restrict,command="sudo -n {serve}" ssh-ed25519 ') and allowed.count("\n") == 1


def test_the_second_time_nothing_changes(lab, there):
    played = lab.play("site", backup_server_events=there.events)
    assert (played.status, played.changed()) == (0, 0), played.text


def test_who_is_told_is_told_by_the_server_and_its_secrets_are_files(lab, there):
    units = lab.root(SERVER) / "etc/systemd/system"
    assert {one.name for one in units.glob("stowage-watch.*")} == {"stowage-watch.service", "stowage-watch.timer"}
    keys = lab.root(SERVER) / "etc/stowage/credentials"
    user = lab.on(SERVER, "id -u stowage; id -g stowage").stdout.split()
    assert [mode(keys / one) for one in ("chat.url", "chat.secret")] == [f"0600 {':'.join(user)}"] * 2
    assert "hidden" not in (lab.root(SERVER) / "etc/stowage/stowage.yml").read_text()
    assert there.got == []
    assert lab.stowage(SERVER, "watch", "--test")["told"] == ["chat"]
    unit = (units / "stowage-watch.service").read_text()
    assert "\nUser=stowage\n" in unit
    lab.on(SERVER, "runuser -u stowage -- " + unit.split("ExecStart=")[1].split("\n")[0])
    (got,) = there.got
    assert got.path == "/hidden-hook" and got.headers["x-stowage-signature"].startswith("sha256=")
    assert lab.play("site", "--limit", SERVER).status == 0  # and then nobody is
    assert "chat" not in (lab.root(SERVER) / "etc/stowage/stowage.yml").read_text()


def test_one_client_is_registered_without_the_server_in_the_play(lab):
    (lab.root(SERVER) / f"etc/stowage/clients.d/{CLIENT}.yml").unlink()
    (lab.root(SERVER) / f"etc/stowage/known_hosts.d/{CLIENT}").unlink()
    played = lab.play("site", "--limit", CLIENT)
    assert played.status == 0, played.text
    assert set(played.recap) == {CLIENT} and played.changed() == 1
    assert "1 client ready" in played.text
    key = hosts.read(lab.folder, CLIENT)["host_key"]
    assert (lab.root(SERVER) / f"etc/stowage/known_hosts.d/{CLIENT}").read_text() == f"{CLIENT} {key}\n"


def test_a_registration_that_the_engine_refuses_is_taken_back_and_named(lab):
    before = (lab.root(SERVER) / f"etc/stowage/clients.d/{CLIENT}.yml").read_bytes()
    played = lab.play("site", "--limit", CLIENT, backup_client_sources={"etc": {"path": "/etc", "policy": "gold"}})
    assert played.status != 0
    assert 'no policy "gold"' in played.text
    assert (lab.root(SERVER) / f"etc/stowage/clients.d/{CLIENT}.yml").read_bytes() == before


def test_run_in_check_mode_is_the_plan(lab):
    played = lab.play("run", "--check")
    assert played.status == 0, played.text
    assert f"{CLIENT} etc 0 the first full" in played.text
    assert lab.stowage(SERVER, "list", "dumps")["dumps"] == []


def test_run_dumps_and_copies_everything(lab):
    played = lab.play("run")
    assert played.status == 0, played.text
    dumps = lab.stowage(SERVER, "list", "dumps")["dumps"]
    assert sorted((one["client"], one["source"], one["level"]) for one in dumps) == [
        (CLIENT, "etc", 0),
        (CLIENT, "www", 0),
    ]
    assert all(one["copies"] == {"nas": "verified"} for one in dumps)
    assert "2 sources within RPO" in played.said("within RPO")


def test_a_run_of_one_source_by_a_short_name(lab):
    lab.on(CLIENT, "echo more > /var/www/html/more")
    played = lab.play("run", run_client="web1", run_source="www")
    assert played.status == 0, played.text
    assert [one["level"] for one in lab.stowage(SERVER, "list", "dumps", "--source", "www")["dumps"]] == [0, 1]


def test_an_unknown_client_is_one_clear_line(lab):
    played = lab.play("run", run_client="wbe1.lab")
    assert played.status != 0
    assert 'unknown client "wbe1.lab", did you mean "web1.lab"?' in played.text
    assert "Traceback" not in played.text


def test_nothing_is_written_in_place_without_a_permit(lab):
    answer = lab.stowage(SERVER, "restore", f"{CLIENT}:/var/www/html", "--in-place")
    assert answer["status"] == "fail", answer
    assert "permit" in str(answer)


def test_restore_in_check_mode_says_what_would_be_read_and_what_is_there(lab):
    lab.on(CLIENT, "rm -rf /var/www/html/Europe /var/www/html/private")
    played = lab.play("restore", "--check", restore_what="web1:/var/www/html", restore_in_place=True)
    assert played.status == 0, played.text
    line = played.said("(existing: refuse)")
    assert "from holding" in line and "/var/www/html (existing: refuse)" in line
    assert not (lab.root(CLIENT) / "var/www/html/private").exists()
    assert not (lab.root(CLIENT) / "run/stowage/permit").exists()


def test_restore_brings_the_lost_tree_back_and_takes_the_permit_away(lab):
    played = lab.play("restore", restore_what="web1:/var/www/html", restore_in_place=True, restore_existing="overwrite")
    assert played.status == 0, played.text
    private = lab.root(CLIENT) / "var/www/html/private"
    assert (private.read_text(), mode(private)) == ("secret\n", "0600 33:33")
    assert lab.on(CLIENT, "diff -r --no-dereference /usr/share/zoneinfo/Europe /var/www/html/Europe").stdout == ""
    assert (lab.root(CLIENT) / "var/www/html/more").read_text() == "more\n"
    assert list((lab.root(CLIENT) / "run/stowage/permit").iterdir()) == []
    assert "are in /" in played.text


def test_a_restore_goes_to_the_scratch_folder_when_nothing_is_said(lab):
    played = lab.play("restore", restore_what="web1 www html/private")
    assert played.status == 0, played.text
    (found,) = lab.on(CLIENT, "find /var/lib/stowage/restore -name private").stdout.split()
    assert found.endswith("/var/www/html/private")


def test_a_restore_to_another_folder_of_the_client_and_to_one_of_the_server(lab):
    played = lab.play("restore", restore_what="web1:/var/www/html/*", restore_to="web1:/srv/back", restore_from="nas")
    assert played.status == 0, played.text
    assert (lab.root(CLIENT) / "srv/back/var/www/html/private").read_text() == "secret\n"
    assert list((lab.root(CLIENT) / "run/stowage/permit").iterdir()) == []
    played = lab.play("restore", restore_what="web1:/var/www/html/private", restore_to="/srv/here")
    assert played.status == 0, played.text
    assert mode(lab.root(SERVER) / "srv/here/var/www/html/private") == "0600 33:33"
    # root restored; the user of the nights still owns all of the state
    owned = lab.on(SERVER, "find /var/lib/stowage -mindepth 1 -not -user stowage").stdout
    assert owned == ""
    assert lab.stowage(SERVER, "status")["status"] in ("ok", "warn")


def test_the_permit_goes_when_the_restore_fails_too(lab):
    played = lab.play("restore", restore_what="web1:/var/www/html", restore_in_place=True)  # existing: refuse
    assert played.status != 0
    assert "not restored" in played.text
    assert list((lab.root(CLIENT) / "run/stowage/permit").iterdir()) == []


def test_a_client_that_left_the_inventory_is_listed_and_kept(lab):
    server = lab.root(SERVER) / "etc/stowage"
    for path in (f"clients.d/{CLIENT}.yml", f"known_hosts.d/{CLIENT}"):
        text = (server / path).read_text().replace(CLIENT, "old1.lab")
        (server / path.replace(CLIENT, "old1.lab")).write_text(text)
    lab.on(SERVER, "chgrp stowage /etc/stowage/clients.d/old1.lab.yml /etc/stowage/known_hosts.d/old1.lab")
    write(lab, backup_client_sources_slow={"slow": {"path": "/srv", "before": "sleep 300"}})  # for the next test
    played = lab.play("site", "--limit", CLIENT)
    assert played.status == 0, played.text
    assert "no longer in the inventory: old1" in played.text
    assert (server / "clients.d/old1.lab.yml").exists()
    (server / "clients.d/old1.lab.yml").unlink()


def test_stopping_ansible_stops_the_run_and_leaves_nothing_half(lab):
    before = lab.stowage(SERVER, "list", "dumps")["dumps"]
    played = lab.start("run", run_source="slow")
    try:
        wait_until(lambda: lab.stowage(SERVER, "status").get("running"))
        played.send_signal(signal.SIGINT)
        wait_until(lambda: not lab.stowage(SERVER, "status").get("running"))
        played.wait(60)
    finally:
        played.kill()
    assert lab.stowage(SERVER, "list", "dumps")["dumps"] == before
    assert lab.stowage(SERVER, "list", "runs")["runs"][-1]["status"] == "FAIL"


def test_an_absent_client_is_gone_there_retired_here_and_its_images_stay(lab):
    write(lab, backup_client_state="absent")
    played = lab.play("site", "--limit", CLIENT)
    assert played.status == 0, played.text
    client = lab.root(CLIENT)
    for path in ("etc/sudoers.d/stowage", "usr/local/lib/stowage", "etc/stowage", "var/lib/stowage/.ssh"):
        assert not (client / path).exists(), path
    assert lab.on(CLIENT, "id stowage", check=False).returncode != 0
    assert list((client / "var/lib/stowage/restore").iterdir())  # what was restored is somebody's
    assert 'state: "retired"' in (lab.root(SERVER) / f"etc/stowage/clients.d/{CLIENT}.yml").read_text()
    assert len(lab.stowage(SERVER, "list", "dumps")["dumps"]) == 3
    again = lab.play("site", "--limit", CLIENT)
    assert (again.status, again.changed()) == (0, 0), again.text


def test_an_absent_server_keeps_what_a_restore_needs(lab):
    played = lab.play("site", "--limit", SERVER, backup_server_state="absent")
    assert played.status == 0, played.text
    server = lab.root(SERVER)
    assert not (server / "opt/stowage").exists() and not (server / "usr/local/bin/stowage").exists()
    for path in ("etc/stowage/stowage.yml", "etc/stowage/ssh/id_ed25519", "var/lib/stowage", "srv/holding"):
        assert (server / path).exists(), path
