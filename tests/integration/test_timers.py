"""The timers of the roles under a systemd that really runs: they are enabled, due when they should be, and they fire.

The tests of this file are one story, in order, on a server that systemd booted. Only its zone of time is changed, so
that the night and the full hour are minutes away; units and schedules are those that the roles write.
"""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import booted
import pytest
from collection_lab import Lab, hosts

pytestmark = [
    pytest.mark.slow,  # waits for a night and for an hour, by the clock
    pytest.mark.skipif(os.geteuid() != 0, reason="lab hosts need root"),
    pytest.mark.timeout(1200),
]
SERVER, CLIENT = "backup1.lab", "web1.lab"
NIGHT, DUE = "stowage-run.timer", "stowage-run-due.timer"


@pytest.fixture(scope="module")
def lab():
    """A server that systemd booted, and a client with a source that has an hourly schedule of its own."""
    one = Lab(Path(tempfile.mkdtemp(prefix="stowage-timers-", dir="/var/tmp")))
    one.folder.chmod(0o755)
    try:
        booted.boot(one.folder, SERVER, "127.77.34.1")
        hosts.up(one.folder, CLIENT, "127.77.34.2")
        one.on(SERVER, "rm -rf /etc/stowage /usr/local/lib/stowage; mkdir -p /srv/holding")
        one.on(CLIENT, "rm -rf /etc/stowage; mkdir -p /etc/stowage /srv/log /srv/data; "
                       "echo one > /srv/log/app.log; echo two > /srv/data/file")  # fmt: skip
        one.install()
        write(one)
        yield one
    finally:
        booted.halt(one.folder, SERVER)
        hosts.down(one.folder, [])
        shutil.rmtree(one.folder, ignore_errors=True)


def write(lab, **server):
    """The inventory; server: more variables of the server."""
    sources = {"log": {"path": "/srv/log", "schedule": {"incremental": "hourly"}}, "data": "/srv/data"}
    lab.write_inventory(
        SERVER, {CLIENT: {"backup_client_sources": sources}},
        backup_server_holding=[{"path": "/srv/holding", "use": "1 GiB"}], **server,
    )  # fmt: skip


def timer(lab, unit):
    """What systemd says of a timer: when it is due next (None while its service is at work) and was last (None), as the
    server's clock shows them."""
    listed = {one["unit"]: one for one in json.loads(lab.on(SERVER, "systemctl list-timers --all -o json").stdout)}
    found = {}
    for key in ("next", "last"):
        seconds = (listed[unit][key] or 0) // 10**6
        found[key] = lab.on(SERVER, f"date -d @{seconds} '+%F %T'").stdout.strip() if seconds else None
    return found


def of_unit(lab, unit, name):
    return lab.on(SERVER, f"systemctl show --value -p {name} {unit}").stdout.strip()


def dumps(lab):
    """client:source -> levels of its dumps, oldest first."""
    found = {}
    rows = lab.stowage(SERVER, "list", "dumps", "--limit", "0").get("dumps", [])
    for row in sorted(rows, key=lambda row: row["dump"]):
        found.setdefault(row["source"], []).append(row["level"])
    return found


def wait_until(lab, true, seconds):
    """Asks until the answer is true."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            told = lab.on(SERVER, "date; systemctl list-timers --all; journalctl -n 60 --no-pager", check=False).stdout
            raise AssertionError(f"waited for too long: {dumps(lab)}\n{told}")
        time.sleep(2)


def test_site_enables_and_starts_both_timers(lab):
    played = lab.play("site")
    assert played.status == 0, played.text
    assert "no timer here" not in played.text and "first fulls from 21:30" in played.said("ready"), played.text
    for unit in (NIGHT, DUE):
        assert lab.on(SERVER, f"systemctl is-enabled {unit}; systemctl is-active {unit}").stdout == "enabled\nactive\n"
    assert of_unit(lab, NIGHT, "Persistent") == "yes"
    for unit in (NIGHT, DUE):
        assert of_unit(lab, unit, "RandomizedDelayUSec") == "0"
    said = lab.on(SERVER, "systemd-analyze verify /etc/systemd/system/stowage-run*.timer "
                          "/etc/systemd/system/stowage-run*.service", check=False)  # fmt: skip
    assert (said.returncode, said.stderr) == (0, "")
    again = lab.play("site")
    assert (again.status, again.changed()) == (0, 0), again.text


def test_they_are_due_when_the_inventory_says(lab):
    booted.at(lab.folder, SERVER, 20 * 3600 + 2 * 60)
    wait_until(lab, lambda: (timer(lab, NIGHT)["next"] or "")[11:] == "21:30:00", 30)
    today = lab.on(SERVER, "date +%F").stdout.strip()
    assert timer(lab, NIGHT)["next"] == f"{today} 21:30:00"
    # by the clock it had before it may be at work right now
    wait_until(lab, lambda: timer(lab, DUE)["next"] == f"{today} 20:05:00", 60)
    # another time of night takes the place of the old one in the timer that runs
    write(lab, backup_server_start="21:58")
    played = lab.play("site", "--limit", SERVER)
    assert played.status == 0, played.text
    assert timer(lab, NIGHT)["next"] == f"{today} 21:58:00"


def test_the_night_and_then_the_full_hour_come_by_themselves(lab):
    assert dumps(lab) == {}
    booted.at(lab.folder, SERVER, 21 * 3600 + 57 * 60 + 30)
    wait_until(lab, lambda: sum(map(len, dumps(lab).values())) == 2, 120)
    assert dumps(lab) == {"log": [0], "data": [0]}
    assert timer(lab, NIGHT)["last"][11:16] in ("21:58", "21:59")
    wait_until(lab, lambda: of_unit(lab, "stowage-run.service", "ActiveState") == "inactive", 60)
    assert of_unit(lab, "stowage-run.service", "Result") == "success"
    # it hears of the hour, at 22:00, and of nothing before
    (lab.root(CLIENT) / "srv/log/app.log").write_text("three\n")
    wait_until(lab, lambda: len(dumps(lab)["log"]) == 2, 240)
    assert dumps(lab) == {"log": [0, 9], "data": [0]}
    assert timer(lab, DUE)["last"][11:16] == "22:00"
    (row,) = [one for one in lab.stowage(SERVER, "list", "dumps")["dumps"] if one["level"]]
    assert lab.on(SERVER, f"ls -d /srv/holding/{CLIENT}/log/{row['dump']}").returncode == 0
    wait_until(lab, lambda: of_unit(lab, "stowage-run-due.service", "ActiveState") == "inactive", 60)
    assert of_unit(lab, "stowage-run-due.service", "Result") == "success"


def test_a_night_that_was_slept_through_is_made_up_for(lab):
    before = dumps(lab)["data"]
    tomorrow = timer(lab, NIGHT)["next"]
    # as a machine that was off at 21:58: the timer starts, and its last time is longer ago than a night
    stamp = "/var/lib/systemd/timers/stamp-stowage-run.timer"
    lab.on(SERVER, f"systemctl stop {NIGHT} && touch -d '3 days ago' {stamp} && systemctl start {NIGHT}")
    wait_until(lab, lambda: len(dumps(lab)["data"]) == len(before) + 1, 120)
    assert timer(lab, NIGHT)["next"] == tomorrow


def test_a_server_without_schedules_of_their_own_is_left_alone(lab):
    lab.on(SERVER, f"sed -i '/schedule/,+1d' /etc/stowage/clients.d/{CLIENT}.yml")
    lab.on(SERVER, "systemctl start stowage-run-due.service")
    assert of_unit(lab, "stowage-run-due.service", "Result") == "exec-condition"
    # but where a copy has a window, somebody has to look whether it is open
    lab.on(SERVER, "echo '# window' >> /etc/stowage/stowage.yml")
    lab.on(SERVER, "systemctl start stowage-run-due.service")
    assert of_unit(lab, "stowage-run-due.service", "Result") == "success"


def test_absent_takes_them_away(lab):
    played = lab.play("site", "--limit", SERVER, backup_server_state="absent")
    assert played.status == 0, played.text
    assert "stowage" not in lab.on(SERVER, "systemctl list-timers --all -o json; ls /etc/systemd/system").stdout
