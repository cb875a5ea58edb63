"""A tree source in segments, over real ssh: nights of different levels, and every moment restored as one source.

What came back is compared by a judge of its own (tests/lab/tree.py): by Stowage at each moment, and by hand by GNU tar.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import planned
import pytest
import sealed
from dump_lab import PORT, Lab, Sshd, forced

from backupcore import clock
from backupcore.catalog.store import Catalog
from backupcore.dump import cut, driver, history, runlock, transport
from backupcore.errors import NothingThatOld, RequestError
from backupcore.report import night
from backupcore.restore import deliver, find, histories, request
from backupcore.restore.images import Images
from backupcore.restore.report import Options
from backupcore.schedule import bases, segments
from backupcore.schedule.segments import REST, Segment
from backupcore.settings import Policy

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
                            user="root", port=PORT)  # fmt: skip
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
    yield from planned.server(tmp_path)


@pytest.fixture
def moved(monkeypatch):
    """A clock that can be moved from night to night; trees above 3 MB are large."""
    monkeypatch.setattr(segments, "WHOLE_LEAST", 3_000_000)
    return planned.moved(monkeypatch)


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


@pytest.mark.slow
def test_a_big_source_is_cut_after_its_full_and_its_segments_get_nights_of_their_own(server, tmp_path, moved):
    tree = big(tmp_path / "tree")
    server.write(cycle={"days": 4})
    server.client("web1", {"data": tree}, address="127.9.0.1")
    told = server.json("run")
    assert units(server) == {"whole": [0]}
    assert "it is cut into 4 segments" in " ".join(told["notes"])
    loads = []
    for turn in range(10):
        moved(24)
        (tree / "a/d0" / f"new{turn}").write_bytes(os.urandom(1000))
        (tree / f"folder{turn}").mkdir()
        (tree / f"folder{turn}/file").write_text(str(turn))
        if turn == 6:
            (tree / "b/file1").rename(tree / "c/moved")
            os.link(tree / "c/file2", tree / "a/d0/name")
        time.sleep(2.2)
        plan = server.json("plan")
        assert plan["night"]
        answer = server.json("run")
        assert answer["headline"].startswith("OK"), answer
        loads.append(answer["bytes"])
        out = tmp_path / f"out{turn}"
        server.stowage("restore", "web1", "data", "--to", out)
        assert not judge.differences(judge.snapshot(tree), judge.snapshot(out / str(tree)[1:])), turn
        shutil.rmtree(out)
    found = units(server)
    whole = found.pop("whole")
    assert whole[0] == 0 and 0 not in whole[1:] and len(whole) < 8  # it ended when all segments had a full
    assert len(found) == 4 and all(levels[0] == 0 for levels in found.values())
    assert max(loads[5:]) < 3_500_000, loads  # a full of all of it would be 4 MB
    assert server.stowage("report")[0].startswith("OK")


def killed_after(server, count):
    """A run that is killed as soon as so many dumps of it are in the catalog; a process of its own, with this clock."""
    child = os.fork()
    if not child:
        try:
            add, made = Catalog.add_dump, []

            def add_dump(catalog, row, *words, **more):
                add(catalog, row, *words, **more)
                made.append(row)
                if len(made) == count:
                    os.kill(os.getpid(), signal.SIGKILL)

            Catalog.add_dump = add_dump
            server.stowage("run")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.slow
def test_a_night_of_segments_that_was_killed_is_made_good_without_a_jump(server, tmp_path, moved):
    tree = big(tmp_path / "tree")
    server.write(cycle={"days": 4})
    server.client("web1", {"data": tree}, address="127.9.0.1")
    server.stowage("run")
    loads, killed = [], 0
    for turn in range(12):
        moved(24)
        for name in "abc":
            (tree / name / "d0" / f"new{turn}").write_bytes(os.urandom(2000))
        time.sleep(2.2)
        before = {unit: len(levels) for unit, levels in units(server).items()}
        plan = server.json("plan")
        if turn in (2, 6):  # in the morning the timer's next run is a night away
            killed_after(server, 2)
            assert sum(map(len, units(server).values())) == sum(before.values()) + 2
            continue
        answer = server.json("run")
        killed = killed + 1 if turn in (3, 7) else killed
        assert answer["headline"].startswith("OK"), answer
        made = {unit: levels[before.get(unit, 0) :] for unit, levels in units(server).items()}
        planned = {one["segment"] or "whole": [one["level"]] for one in plan["sources"]}
        assert {unit: levels for unit, levels in made.items() if levels} == planned
        expected = sum(one["bytes"] for one in plan["sources"])
        assert answer["bytes"] <= expected * 1.1 + 50_000, (turn, answer["bytes"], expected)
        loads.append((turn, answer["bytes"]))
    assert killed == 2
    # a night has a full or two of the four; that of all of them would be 4 MB
    late = [size for turn, size in loads if turn >= 3]
    assert max(late) < 3_000_000, loads
    for levels in units(server).values():
        assert levels[0] == 0
    out = tmp_path / "out"
    server.stowage("restore", "web1", "data", "--to", out)
    assert not judge.differences(judge.snapshot(tree), judge.snapshot(out / str(tree)[1:]))
    assert server.stowage("report")[0].startswith("OK")


def in_segments(world, policy=None):
    """A source in segments that has two nights of them, with a file whose names lie in all three."""
    world.serve(policy)
    os.link(world.tree / "home/bob/mail/file0", world.tree / "home/ann/docs/same")
    os.link(world.tree / "home/bob/mail/file0", world.tree / "etc/same")
    world.dump(whole=0)
    world.cut()
    world.dump(s1=0, s2=0, rest=0)
    (world.tree / "home/bob/mail/new").write_text("new")
    (world.tree / "home/carl/file1").unlink()
    world.dump(s1=1, s2=1, rest=1)


@pytest.mark.slow
@pytest.mark.parametrize("parted", [False, True])
def test_hard_links_whose_first_name_went_with_its_folder(world, parted):
    world.serve()
    os.link(world.tree / "home/bob/mail/file0", world.tree / "home/bob/zwei")
    os.link(world.tree / "home/ann/docs/file0", world.tree / "home/zwei")
    (world.tree / "home/bob/a").mkdir()
    os.link(world.tree / "home/bob/mail/file1", world.tree / "home/bob/a/first")
    names = ("s1", "s2", "rest") if parted else ("whole",)
    if parted:
        world.cut()
    world.dump(**dict.fromkeys(names, 0))
    for folder in ("home/bob/a", "home/ann/docs", "home/bob/mail"):
        os.rename(world.tree / folder, world.tree / (folder + "x"))
    world.dump(**dict.fromkeys(names, 1))
    os.rename(world.tree / "home/bob/ax", world.tree / "home/bob/z")
    world.dump(**dict.fromkeys(names, 2))
    world.same_at_each_moment()
    root = f"web1:{world.tree}"
    for name in ("home/zwei", "home/bob/zwei", "home/bob/mailx/file1", "home/bob/z/first"):
        expected = (world.tree / name).read_bytes()
        assert b"".join(deliver.cat(world.images(), world.wanted(f"{root}/{name}"))) == expected
        report, out = world.restore(f"{root}/{name}")
        assert report.failed_count == 0 and (out / name).read_bytes() == expected
    report, out = world.restore("web1", "data", options=Options(exact=True))
    assert report.failed_count == 0 and not judge.differences(world.moments[-1][1], judge.snapshot(out))


def test_parts_of_a_source_in_segments(world):
    in_segments(world)
    world.same_at_each_moment()
    root = f"web1:{world.tree}"
    images = world.images()

    def listed(*words, recursive=False, at=None):
        found = find.list_files(images, world.wanted(*words, at=at), recursive)
        return sorted(os.fsdecode(one.path)[len(str(world.tree)) + 1 :] for one in found)

    assert listed(f"{root}/home") == ["home/ann", "home/bob", "home/carl", "home/readme"]
    assert listed(f"{root}/home/bob/mail") == [f"home/bob/mail/{name}" for name in
                                               ("file0", "file1", "file2", "file3", "file4", "new")]  # fmt: skip
    assert listed(root) == ["etc", "home", "srv", "top", "www"]
    assert len(listed(root, recursive=True)) == len(judge.snapshot(world.tree))
    # one path opens the segments that can have it, no others
    assert {row.segment for row in world.wanted(f"{root}/home/bob/mail/new")[0].chain} == {world.names[1]}
    assert {row.segment for row in world.wanted(f"{root}/top")[0].chain} == {world.names[2]}
    assert b"".join(deliver.cat(images, world.wanted(f"{root}/home/bob/mail/new"))) == b"new"
    # names of one file, from two segments, asked for alone, and across a glob
    _report, out = world.restore(f"{root}/home/*/*/same", f"{root}/home/bob/mail/file0")
    kept = judge.snapshot(out)
    assert kept[b"home/ann/docs/same"]["links"] == (b"home/bob/mail/file0",)
    _report, out = world.restore(f"{root}/etc/same")
    assert (out / "etc/same").read_bytes() == (world.tree / "home/bob/mail/file0").read_bytes()
    # --exact takes away what no segment has, and nothing else
    report, out = world.restore("web1", "data")
    for name in ("home/bob/stray", "home/stray", "stray"):
        (out / name).write_text("does not belong here")
    (out / "home/ann/docs/file2").unlink()
    report, out = world.restore("web1", "data", to=world.lab.base / out.relative_to(world.lab.base).parts[0],
                                options=Options(existing="overwrite", exact=True))  # fmt: skip
    assert report.failed_count == 0 and not judge.differences(judge.snapshot(world.tree), judge.snapshot(out))
    # find: each path once, by the segment it belongs to
    asked = find.Asked("readme")
    found = list(find.find(world.lab.settings, world.lab.catalog, images, asked))
    assert {one.path for one in found} == {os.fsencode(world.tree / "home/readme")}
    asked = find.Asked("bob", source="data")
    kinds = {(one.kind, one.last) for one in find.find(world.lab.settings, world.lab.catalog, images, asked)}
    assert {kind for kind, _last in kinds} == {"d"} and not images.notes


def told(world, pattern, **more):
    """What find tells: path -> (content's dumps, newest dump, first dump without it), the newest first."""
    found = {}
    for one in find.find(world.lab.settings, world.lab.catalog, world.images(), find.Asked(pattern, **more)):
        name = os.fsdecode(one.path)[len(str(world.tree)) + 1 :]
        found.setdefault(name, []).append((one.dumps, one.last, one.gone))
    return found


def test_find_and_list_know_no_chain_that_segments_have_followed(world):
    world.serve()
    tree = world.tree
    (tree / "home/bob/mail/never").write_text("no segment ever saw it")
    (whole,) = world.dump(whole=0)
    world.cut()
    (tree / "home/bob/mail/never").unlink()
    fulls = world.dump(s1=0, s2=0, rest=0)
    (tree / "home/bob/mail/file3").unlink()
    (tree / "top").unlink()
    (tree / "home/bob/mail/file1").write_text("other")
    (tree / "home/ann/docs/file1").unlink()
    _s1, s2, rest = world.dump(s1=1, s2=1, rest=1)
    found = told(world, f"{tree}/home/bob/mail/*")
    assert found["home/bob/mail/never"] == [(1, whole.id, fulls[1].id)]
    assert found["home/bob/mail/file3"] == [(2, fulls[1].id, s2.id)]  # one content, of a dump of each
    assert found["home/bob/mail/file1"] == [(1, s2.id, None), (2, fulls[1].id, None)]
    assert found["home/bob/mail/file2"] == [(3, s2.id, None)]
    assert told(world, "top") == {"top": [(2, fulls[2].id, rest.id)]}
    gone = {"home/ann/docs/file1", "home/bob/mail/never", "home/bob/mail/file3", "top"}
    assert set(told(world, "*", deleted=True)) == gone
    assert set(told(world, "*", larger=3000, deleted=True)) == gone - {"top", "home/bob/mail/never"}
    assert len(told(world, "*", limit=None)) == len(judge.snapshot(tree)) + len(gone)
    assert told(world, "file1", limit=1).keys() < told(world, "file1").keys()
    # the whole is listed as of its own moments only
    for moment, expected in world.moments:
        for recursive in (False, True):
            wanted = world.wanted(f"web1:{tree}/home/bob/mail", at=moment)
            listed = {one.path.rpartition(b"/")[2] for one in find.list_files(world.images(), wanted, recursive)}
            names = {path.rpartition(b"/")[2] for path in expected if path.startswith(b"home/bob/mail/")}
            assert listed - {b"mail"} == names


def test_what_find_names_while_a_cut_is_not_complete_is_restored_and_the_rest_is_told(world):
    world.serve()
    tree, lab = world.tree, world.lab
    (first,) = world.dump(whole=0)
    world.cut()
    (tree / "home/ann/docs/file0").write_text("ann's, of the first segment's full")
    (tree / "top").write_text("top, when only the first segment had a full")
    (s1,) = world.dump(s1=0)
    (tree / "home/ann/docs/file0").unlink()
    (tree / "top").write_text("other")
    s1_later, whole = world.dump(s1=1, whole=1)
    (rest,) = world.dump(rest=0)  # before the second segment's: it tells the folders of a segment without a dump
    root = f"web1:{tree}"

    def cat(name, at=None):
        row = lab.catalog.dump(at) if at else None
        found = request.resolve(lab.settings, lab.catalog, [f"{root}/{name}"], named=row)
        return b"".join(deliver.cat(world.images(), found)).decode()

    # each version of each path that find tells of, by the dump it names
    versions = list(find.find(lab.settings, lab.catalog, world.images(), find.Asked("*", limit=None)))
    assert {one.last for one in versions if one.kind == "f"} == {first.id, s1.id, whole.id, rest.id}
    for one in versions:
        row = lab.catalog.dump(one.last)
        found = request.resolve(lab.settings, lab.catalog, ["web1:" + os.fsdecode(one.path)], named=row)
        if one.kind == "f":
            assert hashlib.sha256(b"".join(deliver.cat(world.images(), found))).hexdigest() == one.sha256
        listed = list(find.list_files(world.images(), found))
        assert one.kind == "d" or [each.path for each in listed] == [one.path]
    assert cat("home/ann/docs/file0", s1.id) == "ann's, of the first segment's full"
    # a path of another segment is as of that moment
    assert cat("top", s1.id) == "top" and cat("top", first.id) == "top" and cat("top") == "other"
    assert [row.segment for row in world.wanted(f"{root}/home/ann/docs/file1")[0].chain] == ["", ""]  # newer than s1
    assert {row.segment for row in world.wanted(f"{root}/srv/data/file1")[0].chain} == {""}  # s2 has no dump yet
    assert {row.segment for row in world.wanted(f"{root}/home")[0].chain} == {""}
    # all of it by a segment's dump: what can be had instead is said
    for words in (["web1", "data"], [f"{root}/home"]):
        with pytest.raises(NothingThatOld, match="one segment of web1:data.* as of ") as caught:
            request.resolve(lab.settings, lab.catalog, words, named=rest)
        assert "cannot be read" not in caught.value.message and caught.value.hint.endswith(f"--at {whole.id}")
        again = shlex.split(caught.value.hint)[2:-2]
        assert request.resolve(lab.settings, lab.catalog, again, named=whole)[0].dump.id == whole.id
    shutil.rmtree(s1_later.holding)
    lab.catalog.set_holding(s1_later.id, None)
    with pytest.raises(NothingThatOld, match="cannot be read"):
        request.resolve(lab.settings, lab.catalog, [f"{root}/home/ann"], named=s1_later)
    # without the whole nothing shows all of it, but what segments have can still be had
    for row in (first, whole):
        shutil.rmtree(row.holding)
        lab.catalog.set_holding(row.id, None)
    assert cat("top") == "other" and cat("home/ann/docs/file0") == "ann's, of the first segment's full"
    with pytest.raises(NothingThatOld, match="cannot|can all be read"):
        world.wanted("web1", "data")
    with pytest.raises(NothingThatOld):
        world.wanted(f"{root}/home/bob")
    with pytest.raises(NothingThatOld, match="one segment") as caught:
        request.resolve(lab.settings, lab.catalog, ["web1", "data"], named=rest)
    assert caught.value.hint == "stowage list dumps --client web1 --source data"


def test_a_segment_that_cannot_be_read_costs_other_paths_nothing(world):
    in_segments(world)
    lab, root = world.lab, f"web1:{world.tree}"
    for row in lab.catalog.dumps("web1", "data"):
        if row.segment == world.names[0]:
            shutil.rmtree(row.holding)
            lab.catalog.set_holding(row.id, None)
    (one,) = world.wanted(f"{root}/home/bob/mail")
    assert {row.segment for row in one.chain} == {world.names[1]} and not one.notes
    (one,) = world.wanted(f"{root}/home/bob/mail", f"{root}/etc", f"{root}/home/carl")
    assert {row.segment for row in one.chain} == set(world.names[1:]) and not one.notes
    report, out = world.restore(f"{root}/home/bob/mail", f"{root}/home/carl")
    assert report.failed_count == 0 and (out / "home/bob/mail/new").read_text() == "new"
    assert not (out / "home/carl/file1").exists() and not (out / "home/ann").exists()
    # a folder above needs it, and its own paths
    for path in (f"{root}/home", f"{root}/home/ann/docs", f"{root}/home/*/docs"):
        (one,) = world.wanted(path)
        assert {row.segment for row in one.chain} == {""} and "cannot be read" in " ".join(one.notes)


def test_listing_segments_takes_the_search_and_tells_what_the_indexes_tell(world, monkeypatch):
    in_segments(world)
    (world.tree / "home/ann").rename(world.tree / "home/anna")
    (world.tree / "home/bob").chmod(0o700)
    (world.tree / "etc").rename(world.tree / "home/etc")
    world.dump(s1=2, s2=2, rest=2)
    images, root = world.images(), f"web1:{world.tree}"
    rows = world.lab.catalog.dumps()
    assert not histories.bring(world.lab.settings.state, images, rows).failed

    def unasked(*_words):
        raise AssertionError("the indexes were read")

    seen = 0
    for moment, _expected in world.moments:
        for path in ("", "/home", "/home/ann", "/home/anna", "/home/ann/docs", "/home/bob/mail", "/home/bob/mail/file0",
                     "/top", "/etc", "/home/etc", "/www", "/srv/data"):  # fmt: skip
            wanted = world.wanted(root + path, at=moment)
            try:
                expected = list(find._from_indexes(images, wanted, False))
            except RequestError:
                continue  # it was not there, which the indexes say
            with monkeypatch.context() as patch:
                patch.setattr(find, "_from_indexes", unasked)
                assert list(find.list_files(images, wanted)) == expected, (moment, path)
            seen += 1
    assert seen > 25
    monkeypatch.setattr(find, "_from_indexes", unasked)
    above = world.wanted(f"web1:{world.tree.parent}")  # of all of it only the source itself is told
    assert [one.path for one in find.list_files(images, above)] == [os.fsencode(world.tree)]


def test_a_cut_that_was_lost_is_told_by_the_dumps(world):
    in_segments(world)
    settings, catalog = world.lab.settings, world.lab.catalog
    before = cut.read(settings, "web1", "data")
    cut.place(settings, "web1", "data").unlink()
    again = cut.current(settings, catalog, "web1", "data")
    assert [(one.name, one.folders) for one in again.shares] == [(one.name, one.folders) for one in before.shares]
    assert cut.read(settings, "web1", "data").names == world.names
    world.dump(s1=2, s2=2, rest=2)
    cut.place(settings, "web1", "data").write_text("{}")
    assert cut.read(settings, "web1", "data") is None


def test_a_segment_that_cannot_be_read_is_said_and_an_older_whole_is_taken(world):
    in_segments(world)
    rows = [row for row in world.lab.catalog.dumps("web1", "data") if row.segment == world.names[1]]
    for row in rows:
        shutil.rmtree(row.holding)
        world.lab.catalog.set_holding(row.id, None)
    wanted = world.wanted("web1", "data")[0]
    assert [row.segment for row in wanted.chain] == [""] and rows[-1].id in " ".join(wanted.notes)
    # what the others have can still be had
    report = night.make(world.lab.settings, world.lab.catalog, clock.now_ns())
    assert report.status == "FAIL" and "cannot be restored" in report.lines[0].message


@pytest.mark.slow
def test_sealed_segments_are_opened_by_hand_and_by_stowage(world):
    sealed.prove(world.lab.settings.keys)
    pem = world.lab.base / "operations.pem"
    pem.write_bytes(sealed.recipient().to_pem())
    in_segments(world, Policy("sealed", encrypt="server"))
    assert world.lab.catalog.dumps("web1", "data")[-1].options["encrypt"] == "server"
    report, out = world.restore("web1", "data")
    expected = judge.snapshot(world.tree)
    assert report.failed_count == 0 and not judge.differences(expected, judge.snapshot(out))
    for hand in world.by_hand(world.lab.base / "hand", pem):
        # names of one file in several segments come once in each
        assert not judge.differences(expected, judge.snapshot(hand), ("links",))


@pytest.mark.slow
def test_segments_are_copied_verified_drilled_and_rebuilt(server, tmp_path, moved):
    tree = big(tmp_path / "tree")
    (tmp_path / "nas").mkdir(mode=0o700)
    server.write(targets={"nas": {"type": "directory", "path": str(tmp_path / "nas")}}, cycle={"days": 2})
    server.client("web1", {"data": tree}, address="127.9.0.1")
    server.json("run")
    for turn in range(4):
        moved(24)
        (tree / f"a/new{turn}").write_text(str(turn))
        time.sleep(2.2)
        answer = server.json("run")
        assert answer["headline"].startswith("OK"), answer
    before = units(server)
    assert len(before) == 5 and all(levels[0] == 0 for levels in before.values())
    rows = server.json("list", "dumps", "--limit", 0)["dumps"]
    kept = {row["segment"] for row in rows if row["holding"]}
    assert "" not in kept and len(kept) == 4  # what segments have followed left the holding disk
    server.stowage("verify", "--full")
    server.stowage("drill")
    server.stowage("check", "--client", "web1")
    shutil.rmtree(server.base / "state")
    server.stowage("rebuild", "--from", "nas")
    assert units(server) == before
    for number, name in enumerate(kept):  # any segment's newest dump names a moment of the source
        at = max((row["begun"], row["dump"]) for row in rows if row["segment"] == name)[1]
        server.stowage("restore", "web1", "data", "--at", at, "--to", tmp_path / f"at{number}")
    out = tmp_path / "out"
    server.stowage("restore", "web1", "data", "--to", out)
    assert not judge.differences(judge.snapshot(tree), judge.snapshot(out / str(tree)[1:]))
    moved(24)
    assert server.json("run")["headline"].startswith("OK")
    after = units(server)
    assert set(after) == set(before) and after["whole"] == before["whole"]  # the cut is told by the dumps


@pytest.mark.slow
def test_a_source_that_is_cut_anew_goes_on_by_the_old_cut_until_the_new_one_is_complete(world):
    in_segments(world)
    old = cut.read(world.lab.settings, "web1", "data")
    other = (Segment("s01", (b"home",), 0), Segment("s02", (b"etc", b"srv"), 0), Segment(REST, (), 0))
    made = replace(cut.make(other, 1, 1.0), before=old.names)
    cut.keep(world.lab.settings, "web1", "data", made)
    assert cut.read(world.lab.settings, "web1", "data").leaving == old.shares
    (world.tree / "home/ann/again").write_text("again")
    world.dump(s1=2, s2=2, rest=2)  # the old ones go on
    world.names = made.names
    world.dump(s1=0, rest=0)
    assert {row.segment for row in world.wanted("web1", "data")[0].chain} == set(old.names)
    world.dump(s2=0)
    assert {row.segment for row in world.wanted("web1", "data")[0].chain} == set(made.names)
    (world.tree / "home/ann").rename(world.tree / "srv/ann")
    world.dump(s1=1, s2=1, rest=1)
    world.same_at_each_moment()
