"""A tree source in segments, over real ssh: nights of different levels, and every moment restored as one source.

What came back is compared by a judge of its own (tests/lab/tree.py): by Stowage at each moment, and by hand by GNU tar.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_lab import Server
from dump_lab import Lab, Sshd, forced

from backupcore import clock
from backupcore.catalog.store import Catalog
from backupcore.dump import cut, driver, history, runlock, transport
from backupcore.restore import deliver, request
from backupcore.restore.images import Images
from backupcore.restore.report import Options
from backupcore.schedule import bases, segments
from backupcore.schedule.segments import REST, Segment

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))
import tree as judge  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="sshd and owners need root")
SEGMENTS = (
    Segment("s01", (b"home/ann", b"www/\xff odd"), 0), Segment("s02", (b"home/bob", b"srv"), 0), Segment(REST, (), 0),
)  # fmt: skip


class World:
    """A client behind sshd with one source, its tree, and what it was at each moment."""

    def __init__(self, base: Path):
        base.chmod(0o700)
        self.lab = Lab(base)
        self.lab.make_key()
        self.tree = base / "tree"
        for name in ("home/ann/docs", "home/bob/mail", "home/carl", "srv/data", "etc", os.fsdecode(b"www/\xff odd")):
            (self.tree / name).mkdir(parents=True)
            for number in range(5):
                (self.tree / name / f"file{number}").write_bytes(os.urandom(3000))
        (self.tree / "top").write_text("top")
        (self.tree / "home/readme").write_text("read me")
        self.sshd = None
        self.moments = []
        self.host = None

    def serve(self, policy=None):
        lab = self.lab
        client = lab.client("web1", {"data": {"path": str(self.tree)}}, policy, transport="ssh", address="127.0.0.41",
                            user="root", port=2310)  # fmt: skip
        self.host = Sshd(lab, "web1", client.address, forced(client))

    def cut(self):
        made = cut.make(SEGMENTS, 0, 0.0)
        cut.keep(self.lab.settings, "web1", "data", made)
        self.names = made.names
        return made

    def dump(self, **levels):
        """Dumps units at levels, each in a second of its own: whole=0, s1=1, s2=0, rest=2."""
        time.sleep(2.1)  # nothing is young any more, and no two dumps are of one second
        lab = self.lab
        units = {"whole": ""}
        if getattr(self, "names", None):
            units.update(zip(("s1", "s2", "rest"), self.names))
        with runlock.hold(lab.settings):
            past = history.gather(lab.settings, lab.catalog)
            planned = []
            for word, level in levels.items():
                key = ("web1", "data", units[word]) if units[word] else ("web1", "data")
                chosen = bases.choose(past.get(key, ()), level)
                assert chosen[0] == level
                planned.append(bases.Planned("web1", "data", *chosen, segment=units[word]))
            run = lab.catalog.begin_run("run")
            results = driver.run_dumps(lab.settings, lab.catalog, planned, run=run)
        assert [(one.ok, one.message) for one in results] == [(True, "")] * len(levels), results
        assert [one.segment for one in results] == [units[word] for word in levels]
        time.sleep(1.1)  # a moment after all of them
        self.moments.append((clock.now_ns(), judge.snapshot(self.tree)))
        return [lab.catalog.dump(one.dump) for one in results]

    def images(self, ring=None):
        return Images(self.lab.settings, self.lab.catalog, {}.__getitem__, ring=ring)

    def wanted(self, *words, at=None):
        return request.resolve(self.lab.settings, self.lab.catalog, words, at)

    def restore(self, *words, at=None, to=None, ring=None, options=None):
        target = to or self.lab.base / f"out{len(list(self.lab.base.glob('out*')))}"
        connect = lambda: transport.connect_extract(self.lab.settings, str(target), self.lab.agent)  # noqa: E731
        report = deliver.restore(self.images(ring), self.wanted(*words, at=at), options or Options(), connect)
        return report, target / str(self.tree)[1:]

    def same_at_each_moment(self):
        for number, (moment, expected) in enumerate(self.moments):
            report, out = self.restore("web1", "data", at=moment)
            assert report.failed_count == 0, (number, report.failed)
            assert not judge.differences(expected, judge.snapshot(out)), number
            shutil.rmtree(out)

    def by_hand(self, into, key=None):
        """The newest moment by the commands of a RESTORE.txt, of whichever segment."""
        for number, row in enumerate(self.wanted("web1", "data")[0].chain):
            blocks = [[]]
            for line in (Path(row.holding) / "RESTORE.txt").read_text().splitlines():
                blocks[-1].append(line) if line.startswith("    ") else blocks.append([])
            script = "\n".join(line for block in blocks if any('mkdir -p "$DEST"' in line for line in block[:40])
                               for line in block if "FILE" not in "".join(block))  # fmt: skip
            keys = "\n".join(line for block in blocks if any("export LC_ALL=C; tab" in one for one in block)
                             for line in block)  # fmt: skip
            dest = Path(f"{into}{number}")
            done = subprocess.run(
                ["sh", "-c", keys + "\n" + script], cwd=row.holding, capture_output=True, text=True, check=False,
                env={**os.environ, "DEST": str(dest), "KEY": str(key or "")},
            )  # fmt: skip
            assert done.returncode == 0 and "restored to" in done.stdout, (done.stdout, done.stderr, script)
            yield dest


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    if made.host is not None:
        made.host.stop()
    made.lab.catalog.close()


def test_every_moment_of_a_source_in_segments_comes_back_as_one(world):
    world.serve()
    tree = world.tree
    world.dump(whole=0)
    world.cut()
    (tree / "etc/new").write_text("new")
    world.dump(whole=1, s1=0)
    (tree / "home/ann/docs/file0").write_text("changed")
    world.dump(whole=1, s1=1, s2=0)
    shutil.move(tree / "home/ann/docs", tree / "home/bob/docs")  # across the cut
    (tree / "home/dora").mkdir()
    (tree / "home/dora/file").write_text("a new home: the rest has it")
    world.dump(whole=1, s1=2, s2=1, rest=0)
    assert [one.segment for one in world.wanted("web1", "data")[0].chain][-1] == world.names[-1]
    os.link(tree / "srv/data/file1", tree / "home/ann/linked")  # across the cut, after it was made
    os.link(tree / "srv/data/file1", tree / "etc/linked")
    (tree / "top").unlink()
    world.dump(s1=1, s2=2, rest=1)
    shutil.rmtree(tree / "srv")
    (tree / "srv").write_text("a file now")
    shutil.rmtree(tree / "home/carl")
    os.rename(tree / "etc", tree / "etc2")
    world.dump(s1=2, s2=0, rest=2)
    (tree / "srv").unlink()
    (tree / "srv/data").mkdir(parents=True)
    (tree / "srv/data/again").write_text("again")
    (tree / "home/ann").rename(tree / "home/anna")
    world.dump(s1=0, s2=1, rest=1)
    (tree / "home/anna/last").write_text("last")
    world.dump(rest=2, s2=2, s1=1)
    world.same_at_each_moment()
    for hand in world.by_hand(world.lab.base / "hand"):
        assert not judge.differences(world.moments[-1][1], judge.snapshot(hand))


@pytest.fixture
def server(tmp_path):
    base = tmp_path / "server"
    base.mkdir()
    made = Server(base)
    made.write(planning={"estimate": "history"})
    yield made
    made.close()


@pytest.fixture
def moved(monkeypatch):
    """A clock that can be moved from night to night; trees above 3 MB are large."""
    shift = [0]
    real = time.time_ns
    monkeypatch.setattr(clock, "now_ns", lambda: real() + shift[0])
    monkeypatch.setattr(segments, "WHOLE_LEAST", 3_000_000)

    def move(hours):
        shift[0] += int(hours * 3600 * clock.NS)

    move((21 - time.localtime().tm_hour) % 24)
    return move


def big(path, names=("a", "b", "c"), size=1_300_000):
    for name in names:
        (path / name / "d0").mkdir(parents=True)
        for number in range(4):
            (path / name / f"file{number}").write_bytes(os.urandom(size // 4))
    (path / "small").mkdir()
    (path / "small/file").write_text("small")
    time.sleep(2.2)
    return path


def units(server):
    """The segments (whole for "") of each source -> levels, oldest first, by the catalog."""
    found = {}
    with Catalog(server.base / "state" / "catalog.sqlite") as catalog:
        for row in catalog.dumps("web1", "data"):
            found.setdefault(row.segment or "whole", []).append(row.level)
    return found


def test_a_big_source_is_cut_after_its_full_and_its_segments_get_nights_of_their_own(server, tmp_path, moved):
    tree = big(tmp_path / "tree")
    server.write(cycle={"days": 4})
    server.client("web1", {"data": tree}, address="127.9.0.1")
    told = server.json("run")
    assert units(server) == {"whole": [0]}
    assert "it is cut into 4 segments" in " ".join(told["notes"])
    loads = []
    for night in range(10):
        moved(24)
        (tree / "a/d0" / f"new{night}").write_bytes(os.urandom(1000))
        (tree / f"folder{night}").mkdir()
        (tree / f"folder{night}/file").write_text(str(night))
        if night == 6:
            (tree / "b/file1").rename(tree / "c/moved")
            os.link(tree / "c/file2", tree / "a/d0/name")
        time.sleep(2.2)
        plan = server.json("plan")
        assert plan["night"]
        answer = server.json("run")
        assert answer["headline"].startswith("OK"), answer
        loads.append(answer["bytes"])
        out = tmp_path / f"out{night}"
        server.stowage("restore", "web1", "data", "--to", out)
        assert not judge.differences(judge.snapshot(tree), judge.snapshot(out / str(tree)[1:])), night
        shutil.rmtree(out)
    found = units(server)
    whole = found.pop("whole")
    assert whole[0] == 0 and 0 not in whole[1:] and len(whole) < 8  # it ended when all segments had a full
    assert len(found) == 4 and all(levels[0] == 0 for levels in found.values())
    assert max(loads[5:]) < 3_500_000, loads  # a full of all of it would be 4 MB
    assert server.stowage("report")[0].startswith("OK")
