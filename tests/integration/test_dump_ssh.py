"""Dumps over a real ssh: what is pinned and forced holds, and every failure is one clear line about its client."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from dump_lab import PORT, Lab, Sshd, forced

from backupcore.dump import transport
from backupcore.image.folder import check_folder
from backupcore.image.manifest import load_public_keys
from backupcore.settings import Policy

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def lab(tmp_path):
    made = Lab(tmp_path)
    made.make_key()
    made.hosts = []
    yield made
    for host in made.hosts:
        host.stop()
    made.catalog.close()


@pytest.fixture
def tree(tmp_path):
    top = tmp_path / "tree"
    top.mkdir()
    for number in range(50):
        (top / f"f{number}").write_bytes(os.urandom(number * 3000))
    return top


def host(lab, name, number, trees, command=None, **values):
    """A client behind an sshd at 127.77.10.<number>."""
    client = lab.client(
        name, trees, transport="ssh", address=f"127.77.10.{number}", port=PORT, user="root", **values
    )  # fmt: skip
    made = Sshd(lab, name, client.address, command or forced(client))
    lab.hosts.append(made)
    return made


def processes():
    """The ssh programs this test process has started and that still run."""
    found = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(os.getpid())], capture_output=True, text=True)
    return [line for line in found.stdout.splitlines() if line.split()[1].startswith("ssh") and "sshd" not in line]


def test_a_dump_over_ssh_is_whole_by_aes_gcm_and_leaves_no_process(lab, tree, tmp_path):
    host(lab, "web1", 1, {"data": tree})
    assert lab.night()["web1:data"].ok, lab.results
    row = lab.latest("web1", "data")
    check_folder(Path(row.holding), load_public_keys(lab.settings.keys), full=True)
    lab.restore_by_hand("web1", "data", tmp_path / "r")
    subprocess.run(["diff", "-r", tree, tmp_path / "r"], check=True)
    assert lab.night()["web1:data"].level == 1
    assert processes() == []


def test_the_cipher_is_aes_gcm(lab, tree):
    made = host(lab, "web1", 1, {"data": tree})
    config = made.folder / "config"
    config.write_text(config.read_text() + "LogLevel DEBUG1\n")
    made.restart()
    assert lab.night()["web1:data"].ok
    assert "aes128-gcm@openssh.com" in (made.folder / "log").read_text()


def test_the_forced_command_wins_over_what_the_server_asks_for(lab, tree):
    host(lab, "web1", 1, {"data": tree})
    client = lab.settings.clients["web1"]
    lab.set(clients={"web1": replace(client, agent="/nonexistent; touch /tmp/owned")})
    assert lab.night()["web1:data"].ok, lab.results


def test_every_failure_names_its_client_and_the_next_step_and_costs_one_dump(lab, tree):
    host(lab, "good", 1, {"data": tree})
    host(lab, "changed", 2, {"data": tree}).new_host_key()
    lab.hosts[-1].restart()
    host(lab, "unpinned", 3, {"data": tree})
    (lab.settings.known_hosts / "unpinned").unlink()
    host(lab, "other-name", 4, {"data": tree})
    pin = lab.settings.known_hosts / "other-name"
    pin.write_text(pin.read_text().replace("other-name", "somebody"))
    host(lab, "denied", 5, {"data": tree})
    (lab.hosts[-1].folder / "authorized_keys").write_text("")
    host(lab, "no-agent", 6, {"data": tree}, command="/usr/bin/python3 -I /nonexistent/agent.pyz serve")
    host(lab, "no-python", 7, {"data": tree}, command="/nonexistent/python3 -I agent.pyz serve")
    host(lab, "motd", 8, {"data": tree}, command="echo Welcome to the machine; sleep 20")
    host(lab, "no-sudo", 9, {"data": tree}, command="sudo -n -u nobody sudo -n /usr/bin/python3 -I agent.pyz")
    lab.client("down", {"data": tree}, transport="ssh", address="127.77.10.99", port=PORT, user="root")
    lab.client("nowhere", {"data": tree}, transport="ssh", address="no-such-host.invalid", port=PORT, user="root")
    for name in ("down", "nowhere"):
        (lab.settings.known_hosts / name).write_text((lab.settings.known_hosts / "good").read_text())
    results = {name.split(":")[0]: result for name, result in lab.night().items()}
    codes = {name: result.code for name, result in results.items()}
    assert codes == {
        "good": "", "changed": "host-key-changed", "unpinned": "host-key-changed", "other-name": "host-key-changed",
        "denied": "access-denied", "no-agent": "agent-missing", "no-python": "agent-missing", "motd": "wire",
        "no-sudo": "access-denied", "down": "client-unreachable", "nowhere": "client-unreachable",
    }, {name: result.message for name, result in results.items()}  # fmt: skip
    for name, result in results.items():
        assert name == "good" or (name in result.message and result.hint), result
        assert len(result.message.splitlines()) <= 1 and len(result.message) < 500
    assert "another host key" in results["changed"].message and "known_hosts.d/changed" in results["changed"].message
    assert "Welcome to the machine" in results["motd"].message
    assert "refused" in results["down"].message
    assert [row.client for row in lab.catalog.dumps()] == ["good"]
    assert processes() == []


def test_the_words_of_a_hostile_ssh_are_bounded_and_escaped(lab, tree):
    host(
        lab,
        "web1",
        1,
        {"data": tree},
        command="printf '\\\\033[2J\\\\033]0;owned\\\\007' >&2; yes xxxx | head -c 50000000 >&2; exit 9",
    )
    result = lab.night()["web1:data"]
    assert not result.ok and "\x1b" not in result.message and len(result.message) < 600


def test_a_line_that_is_cut_in_the_middle_costs_that_dump_and_leaves_nothing(lab, tmp_path):
    top = tmp_path / "big"
    top.mkdir()
    for number in range(30):
        (top / f"f{number}").write_bytes(os.urandom(4 << 20))
    # the agent is held up in the middle: what it sends goes through a pipe that stops, for a while
    client = lab.client("web1", {"data": top}, transport="ssh", address="127.77.10.1", port=PORT, user="root",
                        policy=Policy("p", compress="none"))  # fmt: skip
    made = Sshd(lab, "web1", client.address, f"{forced(client)} | (head -c 8000000; sleep 15)")
    lab.hosts.append(made)

    came = []

    def cut():
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not came:
            parts = (lab.settings.holding[0].path / ".incoming").rglob("image-0000.tar")
            came.extend(size for size in [path.stat().st_size for path in parts] if size > 2 << 20)
            time.sleep(0.05)
        made.process.terminate()
        for pid in subprocess.run(
            ["pgrep", "-P", str(os.getpid()), "-x", "ssh"], capture_output=True, text=True
        ).stdout.split():
            os.kill(int(pid), signal.SIGKILL)

    thread = threading.Thread(target=cut)
    thread.start()
    result = lab.night()["web1:data"]
    thread.join()
    assert not result.ok and result.code in ("wire", "client-unreachable") and "web1" in result.message
    assert came
    assert lab.catalog.dumps() == [] and not (lab.settings.holding[0].path / ".incoming").exists()
    assert processes() == []


def test_a_client_that_falls_silent_is_cut_after_the_timeout(lab, tree):
    lab.set(silence_timeout=2.0)
    host(lab, "web1", 1, {"data": tree}, command="sleep 60")
    lab.set(connect_timeout=2.0)
    begun = time.monotonic()
    result = lab.night()["web1:data"]
    assert not result.ok and "nothing for 4 s" in result.message
    assert time.monotonic() - begun < 45  # and not 60
    assert processes() == []


def test_a_shell_without_forced_command_still_starts_the_agent(lab, tree):
    made = host(lab, "web1", 1, {"data": tree})
    config = made.folder / "config"
    config.write_text(config.read_text().replace("forced-commands-only", "prohibit-password"))
    (made.folder / "authorized_keys").write_text((lab.base / "id.pub").read_text())
    made.restart()
    assert lab.night()["web1:data"].ok, lab.results


def test_hello_is_one_round_and_checked(lab, tree):
    host(lab, "web1", 1, {"data": tree})
    with transport.connect(lab.settings, lab.settings.clients["web1"]) as agent:
        hello = agent.hello()
        assert hello["protocol"] == 1 and list(hello["sources"]) == ["data"] and hello["client"] == "web1"
        assert agent.hello() is hello
    assert processes() == []


def test_odd_paths_of_pinned_keys_are_found(lab, tree):
    odd = lab.base / "known hosts 100%h.d"
    odd.mkdir()
    lab.set(known_hosts=odd)
    host(lab, "web1", 1, {"data": tree})
    assert lab.night()["web1:data"].ok, lab.results
