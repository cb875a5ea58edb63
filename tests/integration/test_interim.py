"""Sources that wait for their first full: interim dumps by real agents, until the full is there."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from cli_lab import Server

from backupcore import clock
from backupcore.app import plan_ask

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
