"""Estimates over real ssh, held against the dumps that follow; the real command walks first, then learns."""

from __future__ import annotations

import os
import random
import time

import pytest
import yaml
from cli_lab import Server
from dump_lab import PORT, Lab, Sshd, forced

from backupcore.catalog.store import Catalog
from backupcore.dump import driver, estimate, history
from backupcore.dump.estimate import Ask, Part
from backupcore.dump.warm import Warm
from backupcore.schedule import bases, estimates, nights

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def fill(top, seed, files=300):
    """A tree of text that shrinks to a third and of noise that does not."""
    rng = random.Random(seed)
    for number in range(files):
        folder = top / f"d{number % 13}" / f"e{number % 5}"
        folder.mkdir(parents=True, exist_ok=True)
        size = int(rng.lognormvariate(9, 1.3))
        noise = rng.randbytes(size) if number % 3 else b""
        (folder / f"f{number}").write_bytes(noise or b"the same words again and again\n" * (size // 31))


def change(top, seed, count):
    rng = random.Random(seed)
    for number in range(count):
        (top / f"d{number % 13}" / "e1" / f"new-{seed}-{number}").write_bytes(rng.randbytes(20000))


@pytest.fixture
def lab(tmp_path):
    made = Lab(tmp_path)
    made.make_key()
    made.hosts = []
    yield made
    for host in made.hosts:
        host.stop()
    made.catalog.close()


def host(lab, number, path):
    name = f"web{number}"
    client = lab.client(name, {"www": path}, transport="ssh", address=f"127.77.10.{number}", port=PORT, user="root")
    made = Sshd(lab, name, client.address, forced(client))
    lab.hosts.append(made)
    return made


def dump_all(lab, ready, level=None):
    """A night over connections that may have been used for estimates; the rows by client."""
    past = history.gather(lab.settings, lab.catalog)
    names = [(client.name, name) for client in lab.settings.clients.values() for name in client.sources]
    planned = [bases.Planned(*one, *bases.choose(past.get(one, ()), level)) for one in names]
    run = lab.catalog.begin_run("run")
    results = driver.run_dumps(lab.settings, lab.catalog, planned, run=run, connect=ready.connect)
    assert all(result.ok for result in results), results
    return {result.client: lab.catalog.dump(result.dump) for result in results}


def logins(host):
    return (host.folder / "log").read_text().count("Accepted publickey")


def test_three_clients_at_once_are_estimated_as_their_dumps_turn_out_over_one_login_each(lab, tmp_path):
    for number in (1, 2, 3):
        fill(tmp_path / f"tree{number}", number)
        host(lab, 210 + number, tmp_path / f"tree{number}")
    time.sleep(2.1)
    asks = {name: [Ask("www")] for name in lab.settings.clients}
    with Warm() as ready:
        heard = estimate.ask(lab.settings, asks, connect=ready.connect, keep=ready.keep)
        rows = dump_all(lab, ready)
    assert [logins(one) for one in lab.hosts] == [1, 1, 1]  # the dump went over the estimate's connection
    for name, row in rows.items():
        walked = heard[name].walked["www", ""]
        assert (walked.bytes, walked.entries) == (row.archive_size, row.entries)

    for number in (1, 2, 3):
        change(tmp_path / f"tree{number}", number, 10 * number)
    asks = {name: [Ask("www", (Part({1: row.begun_ns}),))] for name, row in rows.items()}
    with Warm() as ready:
        heard = estimate.ask(lab.settings, asks, connect=ready.connect, keep=ready.keep)
        rows = dump_all(lab, ready, 1)
    sizes = {name: (heard[name].walked["www", ""].since[1], row.archive_size) for name, row in rows.items()}
    assert all(abs(told / came - 1) < 0.02 for told, came in sizes.values()), sizes
    assert len({came for _told, came in sizes.values()}) == 3


def test_a_client_that_is_off_is_known_at_once_and_holds_up_nobody(lab, tmp_path):
    fill(tmp_path / "tree", 1, 30)
    host(lab, 221, tmp_path / "tree")
    host(lab, 222, tmp_path / "tree").stop()
    host(lab, 223, tmp_path / "tree").force("sleep 60")
    lab.set(connect_timeout=6)
    begun = time.monotonic()
    heard = estimate.ask(lab.settings, {name: [Ask("www")] for name in lab.settings.clients}, limit=10)
    assert time.monotonic() - begun < 45  # and not 60
    assert heard["web221"].walked and heard["web222"].away and not heard["web222"].walked
    assert heard["web223"].error is not None and not heard["web223"].away


@pytest.fixture
def server(tmp_path):
    base = tmp_path / "server"
    base.mkdir()
    made = Server(base)
    yield made
    made.close()


def test_the_command_walks_what_it_does_not_know_then_learns_and_keeps_how_far_off_it_was(
    server, tmp_path, monkeypatch
):  # fmt: skip
    marks = []  # a night begins where a mark is
    monkeypatch.setattr(nights, "night_of", lambda ns, _zone=None: 739000 + sum(mark <= ns for mark in marks))
    for number in (1, 2):
        fill(tmp_path / f"tree{number}", number, 100)
        www = {"path": str(tmp_path / f"tree{number}"), "strategy": "incremental"}
        declared = {"www": {"path": www["path"]}}
        server.client(f"web{number}", {"www": www}, f"127.77.10.{230 + number}", agent_sources=declared)
    time.sleep(2.1)  # what is young comes again
    server.stowage("run")
    catalog = Catalog(server.base / "state" / "catalog.sqlite")
    rows = sorted(catalog.estimates(), key=lambda row: row.client)
    assert [(row.client, row.how, row.level, row.used) for row in rows] == [
        ("web1", "walk", 0, True), ("web2", "walk", 0, True)
    ]  # fmt: skip
    full = {row.client: row for row in catalog.dumps()}
    for row in rows:
        assert row.actual == full[row.client].stored_size
        # the size of the archive is exact, what compression leaves of a first dump is a guess
        assert 0.4 < row.estimated / row.actual < 2.5
    for night in (1, 2, 3, 4):
        for number in (1, 2):
            change(tmp_path / f"tree{number}", 100 * night + number, 5)
        marks.append(time.time_ns())
        time.sleep(1.1)  # a run's stamp has seconds
        server.stowage("run")
    told = [(row.how, row.used) for row in catalog.estimates("web1")]
    assert told == [
        ("walk", True), ("default", False), ("walk", True), ("history", False), ("walk", True),  # as long as it must
        ("history", True), ("history", True),
    ]  # fmt: skip
    found = estimate.accuracy(catalog, time.time_ns(), "web1")
    assert found["web1", "www", ""].dumps == 5
    plan = server.json("plan", "--why", "web1:www")
    assert plan["estimates"]["sources"]["web1:www"]["dumps"] == 5
    assert plan["estimates"]["sources"]["web1:www"]["error"] == round(found["web1", "www", ""].used, 4)
    assert any("Estimates of it were" in line for line in plan["why"]["web1:www"])
    walks = [row for row in catalog.estimates() if row.how == "walk" and row.level]
    assert walks and all(estimates.error_of(row.estimated, row.actual, row.full) < 0.2 for row in walks), walks
    catalog.close()


def test_an_estimate_setting_of_history_never_walks(server, tmp_path):
    for number in (1, 2):
        fill(tmp_path / f"tree{number}", number, 20)
        server.client(f"web{number}", {"www": tmp_path / f"tree{number}"})
    config = yaml.safe_load((server.base / "stowage.yml").read_text())
    server.write(**{**config, "planning": {"estimate": "history"}})
    server.stowage("run")
    catalog = Catalog(server.base / "state" / "catalog.sqlite")
    assert {row.how for row in catalog.estimates()} == {"default"}
    catalog.close()


def test_nothing_is_walked_where_nothing_is_to_be_decided(server, tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "ask", lambda *_args, **_more: pytest.fail("a client was asked"))
    for number in (1, 2):
        fill(tmp_path / f"tree{number}", number, 20)
        server.client(f"web{number}", {"www": tmp_path / f"tree{number}"})
    server.stowage("run", "--client", "web1")  # one source
    server.stowage("run", "--level", "0")  # a level that was given
    catalog = Catalog(server.base / "state" / "catalog.sqlite")
    assert sorted(row.client for row in catalog.dumps()) == ["web1", "web1", "web2"]
    catalog.close()
