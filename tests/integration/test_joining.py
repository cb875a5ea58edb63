"""Two runs of one configuration at once, by the real command: refused, waiting, taking over from one that was killed.

A source's scripts say when its dump begins and hold it up, so that each moment of the other run is met for certain; the
log of all of them shows that no source was dumped twice at once.
"""

from __future__ import annotations

import json
import signal
import time

import pytest
from cli_lab import Server

from backupcore.catalog.store import Catalog

LIMIT = 120.0  # seconds, also on a machine that is busy with other things


class Gates:
    """Sources whose dump waits for a file. log: a line when a dump begins and one when it has ended."""

    def __init__(self, server, base):
        self.server, self.base, self.log = server, base, base / "log"
        self.log.touch()

    def client(self, name, *sources):
        trees = {}
        for source in sources:
            tree = self.base / name / source
            tree.mkdir(parents=True)
            (tree / "file").write_text(source)
            key = f"{name}:{source}"
            # who was killed stops to wait, too: its own file is taken away with everything else
            before = (f"echo begin {key} >> {self.log}; for n in $(seq 600); do"
                      f" test -e {self.gate(name, source)} && exit 0; test -e {self.base}/all && exit 0;"
                      " sleep 0.1; done")  # fmt: skip
            trees[source] = {"path": str(tree), "before": before, "after": f"echo end {key} >> {self.log}"}
        # of the client too: a dump that waits for its gate is a slow one, beside which another may begin after a while
        self.server.client(name, trees, dumps_at_once=1)

    def gate(self, name, source):
        return self.base / f"{name}-{source}.go"

    def open(self, name, source):
        self.gate(name, source).touch()

    def open_all(self):
        (self.base / "all").touch()

    def lines(self):
        return self.log.read_text().splitlines()

    def wait_for(self, line, count=1):
        until = time.monotonic() + LIMIT
        while self.lines().count(line) < count:
            assert time.monotonic() < until, (line, self.lines())
            time.sleep(0.05)


@pytest.fixture
def world(tmp_path):
    base = tmp_path / "server"
    base.mkdir()
    server = Server(base)
    server.write(dumps_at_once=1)
    (tmp_path / "gates").mkdir()
    made = Gates(server, tmp_path / "gates")
    made.started = []
    yield made
    made.open_all()
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=LIMIT)
    server.close()


def begin(world, *words):
    process = world.server.start("--json", "run", *words)
    world.started.append(process)
    return process


def joins(world, *words):
    """A run that waits by now."""
    process = begin(world, "--join", *words)
    until = time.monotonic() + LIMIT
    while not (world.server.base / "state" / "waiting" / str(process.pid)).exists():
        assert process.poll() is None and time.monotonic() < until, process.poll()
        time.sleep(0.05)
    return process


def answer(process, status=0):
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == status, (out, err)
    return json.loads(out)


def dumps(world, run=None):
    with Catalog(world.server.base / "state" / "catalog.sqlite") as catalog:
        return sorted(f"{one.client}:{one.source}" for one in catalog.dumps() if run is None or one.run == run)


def never_twice_at_once(world):
    at_work = set()
    for word, key in (line.split() for line in world.lines()):
        if word == "begin":
            assert key not in at_work, world.lines()
            at_work.add(key)
        else:
            at_work.discard(key)


def test_who_joins_takes_what_is_begun_after_and_dumps_the_rest(world):
    world.client("web1", "a", "b")
    first = begin(world)
    world.wait_for("begin web1:a")
    busy = world.server.json("run", status=1)
    assert f"(process {first.pid})" in busy["error"]["message"] and "stowage" in busy["error"]["message"]
    other = joins(world)
    waits = world.server.json("status")["waiting"]
    assert [one["pid"] for one in waits] == [other.pid]
    world.open_all()
    one, two = answer(first), answer(other)
    assert dumps(world, one["run"]["id"]) == ["web1:a", "web1:b"]
    assert dumps(world, two["run"]["id"]) == ["web1:a"]  # that one was begun before it was asked for
    assert any(f"1 dump was made by run {one['run']['id']}" in note for note in two["notes"]), two["notes"]
    assert {line["source"]: line["status"] for line in two["sources"]} == {"a": "OK", "b": "OK"}
    assert all(line["dump"] for line in two["sources"])  # results of both runs
    never_twice_at_once(world)


def test_when_the_first_is_killed_who_joined_goes_on_with_what_is_not_whole(world):
    world.client("web1", "a", "b", "c", "d")
    first = begin(world)
    world.wait_for("begin web1:a")
    other = joins(world)
    world.open("web1", "a")
    world.open("web1", "b")
    world.wait_for("begin web1:c")  # b is whole by now, and was begun after the other asked
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=LIMIT)
    world.open_all()
    two = answer(other)
    assert dumps(world, two["run"]["id"]) == ["web1:a", "web1:c", "web1:d"]
    assert dumps(world) == ["web1:a", "web1:a", "web1:b", "web1:c", "web1:d"]
    assert {line["source"]: line["status"] for line in two["sources"]} == dict.fromkeys("abcd", "OK")
    assert not (world.server.base / "holding" / ".incoming").exists()


def test_other_sources_wait_for_their_turn_and_a_level_is_kept(world):
    world.client("web1", "a", "b")
    world.client("web2", "c")
    first = begin(world, "--client", "web1")
    world.wait_for("begin web1:a")
    other, full = joins(world, "--client", "web2"), joins(world, "--source", "b", "--level", "0")
    assert world.lines() == ["begin web1:a"]
    world.open_all()
    ended = [answer(process) for process in (first, other, full)]
    assert [dumps(world, one["run"]["id"]) for one in ended] == [["web1:a", "web1:b"], ["web2:c"], []]
    # b's first dump is a full anyway, so the level was kept without another one
    assert ended[2]["sources"][0]["level"] == 0
    again = begin(world, "--join", "--source", "b", "--level", "0")  # nobody is at work: an ordinary run
    assert dumps(world, answer(again)["run"]["id"]) == ["web1:b"]
    never_twice_at_once(world)


def test_who_is_stopped_while_it_waits_leaves_nothing_and_does_nothing(world):
    world.client("web1", "a")
    first = begin(world)
    world.wait_for("begin web1:a")
    killed, stopped = joins(world), joins(world)
    killed.kill()
    killed.communicate(timeout=LIMIT)
    stopped.send_signal(signal.SIGTERM)
    stopped.communicate(timeout=LIMIT)
    assert stopped.returncode == 143
    assert world.server.json("status")["waiting"] == []
    world.open_all()
    answer(first)
    assert dumps(world) == ["web1:a"]
    assert len(world.server.json("list", "runs")["runs"]) == 1


def test_another_terminal_follows_a_real_run_to_its_end(world):
    """Plain lines while it runs, and how it ended; its exit status is that of the report."""
    world.client("web1", "a", "b")
    first = begin(world)
    world.wait_for("begin web1:a")
    watch = world.server.start("status", "--watch")
    world.started.append(watch)
    line = watch.stdout.readline().decode()
    assert "is at work" in line and f"(pid {first.pid})" in line, line
    assert watch.stdout.readline().startswith(b"by ")
    world.open_all()
    answer(first)
    out, err = watch.communicate(timeout=LIMIT)
    assert (watch.returncode, err) == (0, b"")
    assert out.decode().splitlines()[-2:] == [world.server.json("status")["headline"], "-> stowage report"]
