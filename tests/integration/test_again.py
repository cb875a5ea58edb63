"""Clients that come up late, lines that are cut, and the rate of a network, with real sshd's and agents."""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from cli_lab import Server
from dump_lab import PORT, Lab, Sshd, forced

from backupcore.dump import admission, again, streams, underway
from backupcore.dump.again import Patience
from backupcore.hours import parse_rates
from backupcore.image.folder import check_folder
from backupcore.image.manifest import load_public_keys
from backupcore.settings import Network, Policy

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
MB = 10**6


@pytest.fixture
def lab(tmp_path, monkeypatch):
    monkeypatch.setattr(again, "FIRST", 0.5)
    monkeypatch.setattr(again, "SOON", 0.2)
    made = Lab(tmp_path)
    made.make_key()
    made.hosts = []
    yield made
    for host in made.hosts:
        host.stop()
    made.catalog.close()


def trees(base, *names, size=50_000):
    made = {}
    for name in names:
        made[name] = base / "trees" / name
        made[name].mkdir(parents=True)
        (made[name] / "file").write_bytes(os.urandom(size))
    return made


def host(lab, name, number, of, command=None, **values):
    client = lab.client(
        name, of, transport="ssh", address=f"127.77.11.{number}", port=PORT, user="root", **values
    )  # fmt: skip
    made = Sshd(lab, name, client.address, (command or "%s") % forced(client))
    lab.hosts.append(made)
    return made


def size_of(reader):
    return fcntl.fcntl(reader._fd, 1032)  # F_GETPIPE_SZ, which Python knows since 3.10


def wait_for(what, seconds=60):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_client_that_comes_up_later_in_the_night_is_served_and_one_that_does_not_is_named(lab, tmp_path):
    late = host(lab, "late", 1, trees(tmp_path, "a", "b", "c"))
    host(lab, "here", 2, trees(tmp_path, "d"))
    host(lab, "never", 3, trees(tmp_path, "e")).stop()
    late.stop()

    def come_up():
        wait_for(lambda: sum(one["phase"] == "waiting" and one["client"] == "late" for one in list(lab.events)) >= 2)
        late.start()

    thread = threading.Thread(target=come_up)
    thread.start()
    results = lab.night(patience=Patience(3.0))
    thread.join(30)
    assert {name for name, one in results.items() if one.ok} == {"late:a", "late:b", "late:c", "here:d"}
    assert not any(one.warning for one in results.values())
    lost = results["never:e"]
    assert lost.code == "client-unreachable" and "Connection refused (tried " in lost.message
    waits = [one for one in lab.events if one["phase"] == "waiting" and one["client"] == "late"]
    assert all("Connection refused" in one["why"] and one["not_before_ns"] for one in waits)
    assert len(lab.catalog.results(lab.run.id)) == 5


def test_a_dump_whose_line_is_cut_once_is_whole_by_the_next_try_also_by_hand(lab, tmp_path):
    of = trees(tmp_path, "data", size=14 * MB)
    made = host(lab, "web1", 1, of, policy=Policy("p", compress="none"))
    agent = forced(lab.settings.clients["web1"])
    part = "(head -c 5000000; sleep 0.5; head -c 5000000)"  # long enough for how far it is to be told
    made.force(f"if mkdir {tmp_path}/cut 2>/dev/null; then {agent} | {part}; else {agent}; fi")
    result = lab.night()["web1:data"]
    assert (tmp_path / "cut").is_dir()
    assert result.ok and not result.warning and result.message.startswith("begun 2 times: "), result.message
    row = lab.latest("web1", "data")
    check_folder(Path(row.holding), load_public_keys(lab.settings.keys), full=True)
    lab.restore_by_hand("web1", "data", tmp_path / "r")
    subprocess.run(["diff", "-r", of["data"], tmp_path / "r"], check=True)
    assert len(lab.catalog.dumps()) == 1 and not list((tmp_path / "holding" / ".incoming").rglob("*"))


def test_the_rate_of_a_network_is_kept_by_all_its_dumps_together(lab, tmp_path, monkeypatch):
    pipes, narrow = [], streams.Reader.narrow
    monkeypatch.setattr(streams.Reader, "narrow", lambda reader: (narrow(reader), pipes.append(size_of(reader))))
    rate = 4 * MB
    lab.set(networks={"wan": Network("wan", parse_rates(f"{rate * 8} bit/s"))})
    plain = {"policy": Policy("p", compress="none"), "network": "wan"}
    for number, name in enumerate(("far1", "far2"), 1):
        host(lab, name, number, trees(tmp_path, name, size=5 * MB), **plain)
    begun = time.monotonic()
    results = lab.night()
    seconds = time.monotonic() - begun
    assert all(one.ok for one in results.values())
    stored = sum(row.stored_size for row in lab.catalog.dumps())
    assert pipes == [1 << 16, 1 << 16]  # no MiB waits in them ahead of its rate
    assert stored >= 10 * MB and seconds >= stored / rate * 0.95  # the last piece is not waited for


def test_a_slow_client_does_not_keep_others_from_their_dumps(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(admission, "WINDOW", 0.5)
    lab.set(dumps_at_once=1)
    slow = host(lab, "slow", 1, trees(tmp_path, "data", size=3 * MB), policy=Policy("p", compress="none"))
    go = tmp_path / "go"
    wait = f"for i in $(seq 300); do test -e {go} && break; sleep 0.1; done"
    slow.force(f"{forced(lab.settings.clients['slow'])} | (head -c 100000; {wait}; cat)")
    for number, name in enumerate(("one", "two"), 2):
        host(lab, name, number, trees(tmp_path, name))
    ended = []

    def made(client, _source):
        ended.append(client)
        if len(ended) == 2:
            go.touch()

    results = lab.night(made=made)
    assert all(one.ok for one in results.values()), results
    assert ended == ["one", "two", "slow"]


def test_dumps_whose_frames_take_long_do_not_fill_the_night_with_others_of_their_line(lab, tmp_path, monkeypatch):
    """Nothing of a frame is told before it is whole, and yet the queue knows that the network's rate is used up."""
    monkeypatch.setattr(admission, "WINDOW", 0.5)
    monkeypatch.setattr(underway, "EVERY", 0.05)
    lab.set(dumps_at_once=1, networks={"wan": Network("wan", parse_rates("8 Mbit/s"))})
    plain = {"policy": Policy("p", compress="none"), "network": "wan"}
    for number, name in enumerate(("far1", "far2"), 1):
        host(lab, name, number, trees(tmp_path, name, size=int((2.5, 0.1)[number - 1] * MB)), **plain)
    host(lab, "near", 3, trees(tmp_path, "near"))
    results = lab.night()
    assert all(one.ok for one in results.values())
    begun = [one["client"] for one in lab.events if one["phase"] == "connecting"]
    assert begun == ["far1", "near", "far2"]
    of_a_frame = [one["bytes"] for one in lab.events if one["client"] == "far1" and one["phase"] == "dumping"]
    assert of_a_frame == sorted(of_a_frame) and len({one for one in of_a_frame if 0 < one < 2 * MB}) > 2


def test_run_waits_for_a_client_that_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(again, "SOON", 1.0)
    server = Server(tmp_path)
    try:
        server.client("nb1", trees(tmp_path, "data", "more"), address="127.77.11.9")
        sshd = server.sshds["nb1"]
        sshd.stop()
        out, _err = server.stowage("run", "--client", "nb1", status=1)
        assert "nb1" in out and "tried" not in out  # by hand nobody waits

        def come_up():
            wait_for(lambda: '"tries"' in status_of(server))
            sshd.start()

        thread = threading.Thread(target=come_up)
        thread.start()
        _out, err = server.stowage("run", "--client", "nb1", "--wait-for", "nb1=90s")
        thread.join(30)
        assert "Connection refused, again at" in err
        assert sorted(server.dumps()) == ["nb1:data", "nb1:more"]
        assert "nb9" in server.stowage("run", "--client", "nb1", "--wait-for", "nb9", status=2)[1]
    finally:
        server.close()


def status_of(server):
    try:
        return (server.base / "state" / "status.json").read_text()
    except OSError:
        return ""
