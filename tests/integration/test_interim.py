"""Sources that wait for their first full: interim dumps of their recent files, by real agents, until the full is there."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from cli_lab import Server

from backupcore import clock

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
        self.now()

    def now(self, **more):
        """What is newer than the moment between counts as recent, when the next run begins."""
        days = (clock.now_ns() - self.moment) / (24 * HOUR)
        self.server.write(cycle={"days": 3, "first_nights": 3, "interim": days, **more})

    @property
    def moment(self):
        return self.between + clock.now_ns() - time.time_ns()  # by the server's clock, that was moved

    def rows(self):
        return self.server.json("list", "dumps", "--limit", 0)["dumps"]


@pytest.fixture
def world(tmp_path, moved, request):
    made = World(tmp_path, **getattr(request, "param", {}))
    yield made
    made.server.close()


def by_kind(rows):
    fulls = {row["source"] for row in rows if row["level"] == 0 and not row["segment"]}
    return fulls, {row["source"] for row in rows if row["segment"] == "interim"}


@pytest.mark.parametrize("world", [{}, {"address": True}], indirect=True, ids=["local", "ssh"])
def test_three_nights(world, moved, tmp_path):
    server = world.server
    world.now()
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
