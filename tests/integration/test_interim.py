"""Sources that wait for their first full: interim dumps by real agents, until the full is there."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
import sealed
from cli_lab import Server

from backupcore import clock
from backupcore.app import drill_choice, engine, plan_ask
from backupcore.dump import transport, warm
from backupcore.keys import store

HOUR = 3600 * clock.NS
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="sshd and owners need root")
NAMES = ("a", "b", "c")


@pytest.fixture
def moved(monkeypatch):
    """A clock that can be moved: moved(hours) adds to it. It begins in an evening: a night goes from noon to noon."""
    shift = [0]
    real = time.time_ns
    monkeypatch.setattr(clock, "now_ns", lambda: real() + shift[0])

    def move(hours):
        shift[0] += int(hours * HOUR)

    move((21 - time.localtime().tm_hour) % 24)
    return move


class World:
    """Three clients with a tree each, old and recent; first fulls spread over three nights."""

    def __init__(self, base: Path, address=None, policy=None):
        (base / "server").mkdir(parents=True)
        self.server, self.trees = Server(base / "server"), {}
        self.server.config["targets"] = {"nas": {"type": "directory", "path": str(base / "nas")}}
        (base / "nas").mkdir()
        if policy:
            self.server.config["policies"] = {"standard": policy}
        for name in NAMES:
            tree = self.trees[name] = base / name
            (tree / "old/deep").mkdir(parents=True)
            for number in range(30):
                (tree / "old/deep" / f"f{number}").write_bytes(os.urandom(20_000))
            (tree / "old/text").write_text("old text")
        time.sleep(2.5)  # an estimate counts what came shortly before, too
        self.between = time.time_ns()
        time.sleep(2.0)  # longer than a request is on its way
        for name, tree in self.trees.items():
            (tree / "recent").mkdir()
            (tree / "recent/letter").write_text(f"dear {name}")
            os.link(tree / "recent/letter", tree / "old/a copy")
        for number, name in enumerate(NAMES):
            self.server.client(f"c{name}", {name: self.trees[name]}, address and f"127.9.1.{number + 1}")
        self.server.write(cycle={"days": 3, "first_nights": 3})

    def newer(self, source, _now_ns):
        """In the place of plan_ask.newer_of: what is newer than the moment between the old and the recent files, by the
        server's clock, which was moved."""
        return self.between + clock.now_ns() - time.time_ns() if source.timing.interim else None

    def rows(self):
        return self.server.json("list", "dumps", "--limit", 0)["dumps"]


@pytest.fixture
def world(tmp_path, moved, request, monkeypatch):
    made = World(tmp_path, **getattr(request, "param", {}))
    monkeypatch.setattr(plan_ask, "newer_of", made.newer)
    yield made
    made.server.close()


def by_kind(rows):
    fulls = {row["source"] for row in rows if row["level"] == 0 and not row["segment"]}
    return fulls, {row["source"] for row in rows if row["segment"] == "interim"}


@pytest.mark.parametrize("world", [{}, {"address": True}], indirect=True, ids=["local", "ssh"])
def test_three_nights(world, moved, tmp_path):
    server = world.server
    answer = server.json("run")
    fulls, interims = by_kind(world.rows())
    assert len(fulls) == 1 and interims == set(NAMES) - fulls, answer
    name = sorted(interims)[0]
    out = tmp_path / "out"
    told, err = server.stowage("restore", f"c{name}:{world.trees[name]}", "--to", out)
    back = out / str(world.trees[name])[1:]
    assert (back / "recent/letter").read_text() == f"dear {name}"
    assert (back / "old/a copy").stat().st_ino == (back / "recent/letter").stat().st_ino
    assert (back / "old/deep").is_dir() and not (back / "old/text").exists()
    assert "only files changed since" in told and f"the first full of c{name}:{name} is planned for" in told, told
    old = f"c{name}:{world.trees[name]}/old/text"
    _out, err = server.stowage("restore", old, "--to", tmp_path / "none", status=2)
    assert "was there, but was not changed since" in err and "is planned for" in err, err
    _out, err = server.stowage("restore", f"{old}x", "--to", tmp_path / "none", status=2)
    assert "was not there" in err
    listed = server.json("list", "files", f"c{name}:{world.trees[name]}/old")
    kinds = {Path(one["path"]).name: (one["kind"], one["link"]) for one in listed["files"]}
    assert kinds["text"] == ("n", "older") and kinds["a copy"][0] in "fh" and kinds["deep"][0] == "d"
    assert "only files changed since" in listed["notes"][0]
    found = server.json("find", "letter", "--client", f"c{name}")
    assert [one["gone"] for one in found["found"]] == [False] and "only files changed since" in found["notes"][0]
    told, _err = server.stowage("report")
    line = next(one for one in told.splitlines() if f"c{name}:{name}" in one)
    assert "waits for its first dump, planned for" in line and "interim dump has its files changed since" in line
    assert answer["status"] == "warn" and "1 of 3 sources within RPO" in answer["headline"]
    dumps, _err = server.stowage("list", "dumps")
    assert dumps.count(" interim ") == 2 and dumps.count("only files changed since") == 2
    assert server.json("verify")["status"] == "ok"
    with engine.Engine(server.base / "stowage.yml") as opened:  # a drill proves nothing of who has no full
        assert drill_choice.standing(opened, f"c{name}", ["nas"]) == {}
        first = next(iter(fulls))
        assert list(drill_choice.standing(opened, f"c{first}", ["nas"])) == [first]
    # the second night: another full, and one of the two waits on; what it has is told again, nothing is gone
    moved(24)
    (world.trees[name] / "recent/second").write_text("of the second day")
    plan = server.json("plan", "--estimate", "new")
    waits = [one for one in plan["interim"] if one["dumped"]]
    assert len(waits) == 1 and {one["source"] for one in plan["sources"] if one["newer"]} == {waits[0]["source"]}
    assert "interim" in server.stowage("plan", "--estimate", "new")[0]
    server.stowage("run")
    fulls, interims = by_kind(world.rows())
    assert len(fulls) == 2 and waits[0]["source"] not in fulls
    # the third: all have a full; now the source is read from it, and moments before it from the interim dumps
    moment = clock.iso(clock.now_ns())
    moved(24)
    assert server.json("plan", "--estimate", "new")["interim"] == []
    server.stowage("run")
    fulls, _interims = by_kind(world.rows())
    assert fulls == set(NAMES)
    last = waits[0]["source"]
    told, _err = server.stowage("restore", f"c{last}:{world.trees[last]}", "--to", tmp_path / "whole")
    assert "only files changed" not in told
    assert (tmp_path / "whole" / str(world.trees[last])[1:] / "old/text").read_text() == "old text"
    told, _err = server.stowage("restore", f"c{last}:{world.trees[last]}", "--at", moment, "--to", tmp_path / "before")
    assert "only files changed since" in told and f"the first full of c{last}:{last} was made on" in told
    assert not (tmp_path / "before" / str(world.trees[last])[1:] / "old/text").exists()
    assert server.json("find", "text")["notes"] == []
    moved(24)
    assert {one["level"] for one in server.json("run")["sources"]} <= {0, 1}
    assert not list((server.base / "holding").glob("*/*.interim/*"))  # copied, and others have followed


def test_a_rebuild_knows_them(world, tmp_path):
    server = world.server
    server.stowage("run")
    before = world.rows()
    for path in (server.base / "state").glob("catalog.sqlite*"):
        path.unlink()
    server.stowage("rebuild", "--from", "nas")
    after = world.rows()
    keys = ("dump", "client", "source", "segment", "level", "base", "newer", "entries", "begun_ns")
    assert [[row[key] for key in keys] for row in after] == [[row[key] for key in keys] for row in before]
    name = next(row["source"] for row in after if row["newer"])
    told, _err = server.stowage("restore", f"c{name}:{world.trees[name]}/recent", "--to", tmp_path / "out")
    assert "only files changed since" in told and "is not planned yet" in told
    server.stowage("run", "--source", name)
    assert [row["level"] for row in world.rows() if row["source"] == name and not row["segment"]] == [0]



def by_hand(holding, dest, key):
    """What the commands of RESTORE.txt beside a dump make."""
    blocks = [[]]
    for line in (Path(holding) / "RESTORE.txt").read_text().splitlines():
        blocks[-1].append(line) if line.startswith("    ") else blocks.append([])
    texts = ["\n".join(block) for block in blocks]
    script = [one for one in texts if "export LC_ALL=C; tab" in one]
    script += [one for one in texts if 'mkdir -p "$DEST"' in one and "FILE" not in one]
    done = subprocess.run(
        ["sh", "-c", "\n".join(script)], cwd=holding, capture_output=True, text=True, check=False,
        env={**os.environ, "DEST": str(dest), "KEY": str(key)},
    )  # fmt: skip
    assert done.returncode == 0 and "restored to" in done.stdout, (done.stdout, done.stderr)


@pytest.mark.parametrize("world", [{}, {"policy": {"encrypt": "server"}}], indirect=True, ids=["plain", "sealed"])
def test_one_opens_by_its_own_text_and_by_stowage(world, tmp_path):
    server, keys = world.server, world.server.base / "state" / "keys"
    sealed.prove(keys)
    server.stowage("run")
    row = next(row for row in world.rows() if row["newer"])
    name, tree = row["source"], world.trees[row["source"]]
    told, _err = server.stowage("restore", f"c{name}:{tree}", "--to", tmp_path / "out")
    assert "only files changed since" in told
    by_hand(row["holding"], tmp_path / "hand", store.private_file(keys, "operations"))
    for found in (tmp_path / "out" / str(tree)[1:], tmp_path / "hand"):
        there = {str(path.relative_to(found)) for path in found.rglob("*")}
        assert there == {"old", "old/deep", "old/a copy", "recent", "recent/letter"}
        assert (found / "recent/letter").read_text() == f"dear {name}"
    assert server.json("verify", "--full")["status"] == "ok"


def test_an_agent_that_knows_none_of_it_makes_no_full_in_its_place(world, monkeypatch):
    greet = transport.AgentConnection._check

    def older(self, hello):
        hello.pop("interim")
        greet(self, hello)

    monkeypatch.setattr(transport.AgentConnection, "_check", older)
    answer = world.server.json("run")
    assert len(world.rows()) == 1 and not world.rows()[0]["newer"] and answer["status"] == "warn"
    told, _err = world.server.stowage("report")
    assert told.count("gets no interim dump while it waits") == 2 and "too old for interim dumps" in told


def test_a_dump_that_was_planned_is_refused_by_an_older_agent(world, monkeypatch):
    greet = transport.AgentConnection._check

    def older(self, hello):
        if threading.current_thread().name.startswith("dump"):
            hello.pop("interim")  # it was exchanged since it was asked for sizes
        greet(self, hello)

    monkeypatch.setattr(transport.AgentConnection, "_check", older)
    monkeypatch.setattr(warm.Warm, "keep", lambda self, settings, client, agent: agent.close(clean=True))
    world.server.stowage("run", status=1)
    assert len(world.rows()) == 1 and not world.rows()[0]["newer"]
    told, _err = world.server.stowage("report", status=1)
    assert told.count("is too old for interim dumps -> run the playbook site again") >= 2


def test_where_nothing_is_wanted_or_no_room_is_left_there_is_none(world):
    server = world.server
    server.write(cycle={"days": 3, "first_nights": 3, "interim": "off"})
    plan = server.json("plan", "--estimate", "new")
    assert plan["interim"] == [] and len(plan["sources"]) == 1
    only = round(plan["sources"][0]["bytes"] * 1.001)
    server.write(cycle={"days": 3, "first_nights": 3}, limits={"bytes": f"{only} B"})
    plan = server.json("plan", "--estimate", "new")
    assert len(plan["interim"]) == 2 and not any(one["dumped"] for one in plan["interim"])
    assert all("leave no room for its recent files" in one["why"] for one in plan["interim"])
    assert server.json("plan")["interim"][0]["why"].startswith("how much of it is recent is asked when")
