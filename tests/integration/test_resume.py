"""A dump whose line is cut goes on where it was, however it is sealed, and gives the tree."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import subprocess
import time
from pathlib import Path

import pytest
import pythons
import sealed
from cutline import Line
from powercut import PowerCut
from resume_lab import CutLab

from backupcore.catalog import places
from backupcore.catalog.store import Catalog
from backupcore.dump import cut, resume, runlock, syncing
from backupcore.image.folder import check_folder
from backupcore.image.manifest import load_public_keys
from backupcore.schedule.segments import REST, Segment
from backupcore.settings import Policy

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
_SPEC = importlib.util.spec_from_file_location("lab_tree", Path(__file__).parents[1] / "lab" / "tree.py")
tree_lab = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(tree_lab)
MIB = 1 << 20


@pytest.fixture
def lab(tmp_path):
    made = CutLab(tmp_path)
    yield made
    made.catalog.close()


@pytest.fixture
def tree(tmp_path):
    """14 MiB that do not compress: small files, a file of several frames, holes, hard links from end to end."""
    top, chance = tmp_path / "tree", random.Random(3)
    for number in range(160):
        folder = top / f"d{number % 8}" / f"sub{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_bytes(chance.randbytes(chance.choice([0, 100, 5000, 40_000])))
    (top / "d2/not so big").write_bytes(chance.randbytes(3 * MIB))
    (top / "d4/big").write_bytes(chance.randbytes(7 * MIB))
    with open(top / "d6/holes", "wb") as file:
        for place in (0, 3 * MIB, 50 * MIB):
            file.seek(place)
            file.write(chance.randbytes(MIB))
        file.truncate(80 * MIB)
    for number in range(4):
        os.link(top / f"d0/sub0/f{24 * number}", top / f"d7/another{number}")
    os.link(top / "d4/big", top / "d7/big too")
    return top


def settle(tree):
    """What is there is older than two seconds."""
    for path in tree.rglob("*"):
        if not path.is_symlink():
            os.utime(path, ns=(10**18, 10**18 + len(path.name)))
    time.sleep(2.1)


def whole(lab, row, tree, dest):
    check_folder(Path(row.holding), load_public_keys(lab.settings.keys), full=True)
    lab.restore_by_hand("here", "data", dest)
    assert tree_lab.differences(tree_lab.snapshot(tree), tree_lab.snapshot(dest)) == []
    assert lab.left() == []


@pytest.mark.parametrize("python", ["", *(pytest.param(one, marks=pytest.mark.slow) for one in ("3.8", "3.13"))])
def test_a_full_cut_five_times_goes_on_where_it_was(lab, tree, tmp_path, python):
    if python:
        lab.line.agent_by(pythons.require(python))
    lab.here(tree, Policy("p"))
    row = lab.cut_night([5 * MIB + 17, 2 * MIB, 5 * MIB, 10, 3 * MIB])
    whole(lab, row, tree, tmp_path / "out")
    passed = lab.line.passed()
    assert len(passed) == 6 and passed[-1] < 9 * MIB
    # what is sent twice is at most the frame in which the cut fell, and what a hello costs
    assert sum(passed) < row.stored_size + 5 * 4.5 * MIB
    assert "went on" in row.notes[0]


slow = pytest.mark.slow
ANYWHERE = [
    pytest.param("none", 1, ""), pytest.param("client", 1, ""), pytest.param("server", 1, "", marks=slow),
    *[pytest.param(encrypt, seed, "", marks=slow) for encrypt in ("none", "client", "server") for seed in (2, 3)],
    *[pytest.param(encrypt, 4, "3.8", marks=slow) for encrypt in ("none", "server")],
]  # fmt: skip


def change(tree, chance):
    """Changes of every kind, before and behind any place."""
    (tree / "d0/sub0/f0").write_bytes(chance.randbytes(70_000))  # has two names
    (tree / "d1/sub1/f1").unlink()
    (tree / "d2/sub2/f2").rename(tree / "d5/moved here")
    (tree / "d3/sub0").rename(tree / "d3/renamed")
    (tree / "d7/sub1").rename(tree / "a renamed folder")
    for number in range(8):
        (tree / f"d{number}/new").write_bytes(chance.randbytes(600_000))
        os.link(tree / f"d{number}/new", tree / f"d{7 - number}/new link{number}")
    (tree / "d4/big").write_bytes(chance.randbytes(6 * MIB))
    (tree / "zz new folder/deep").mkdir(parents=True)
    (tree / "zz new folder/deep/file").write_bytes(chance.randbytes(1_500_000))
    for path in (tree / "d6/sub0").iterdir():
        path.unlink()
    (tree / "d6/sub0").rmdir()


@pytest.mark.parametrize(("encrypt", "seed", "python"), ANYWHERE)
def test_cuts_anywhere_at_both_levels_give_the_tree(lab, tree, tmp_path, encrypt, seed, python):
    chance = random.Random(seed)
    if python:
        lab.line.agent_by(pythons.require(python))
    if encrypt != "none":
        sealed.prove(lab.settings.keys)
    lab.here(tree, Policy("p", encrypt=encrypt, part_size=6 * MIB))
    settle(tree)
    rows = [lab.cut_night([chance.randrange(1, 6 * MIB) for _ in range(5)], 0)]
    moments = [tree_lab.snapshot(tree)]
    change(tree, chance)
    rows.append(lab.cut_night([chance.randrange(1, 5 * MIB) for _ in range(5)]))
    moments.append(tree_lab.snapshot(tree))
    rows.append(lab.cut_night([]))  # the state it builds on is made from the index
    assert [row.level for row in rows] == [0, 1, 1] and rows[2].stored_size < MIB + rows[1].stored_size
    out = tmp_path / "out"
    out.mkdir()
    for row, moment in zip(rows, moments):
        manifest = check_folder(Path(row.holding), load_public_keys(lab.settings.keys), full=True)
        if encrypt == "none":
            archive = b"".join(
                subprocess.run(["zstd", "-dcq", Path(row.holding) / part.name], stdout=-1, check=True).stdout
                for part in manifest.parts
            )
        else:
            archive, text = sealed.opens(row)[:2]
            commitments = list(manifest.sealed.commitments.values())
            assert len(set(commitments)) == len(commitments) == len(manifest.parts) + 2
            plain = places.find_index(lab.settings.state, "here", "data", row.id)
            assert subprocess.run(["zstd", "-dcq", plain], stdout=-1, check=True).stdout == text
        tar = ["tar", "-xpG", "--numeric-owner", "-C", str(out), "-f", "-"]
        subprocess.run(tar, input=archive, check=True, env={**os.environ, "LC_ALL": "C"})
        assert tree_lab.differences(moment, tree_lab.snapshot(out)) == []
    if encrypt == "none":
        assert tree_lab.differences(moments[-1], tree_lab.snapshot(lab.restore(tmp_path / "own"))) == []
    assert lab.left() == []


def test_what_is_changed_between_the_attempts_is_in_this_dump_or_the_next(lab, tree, tmp_path):
    """A big file begun anew, names that came, went and moved before and behind the cut."""
    lab.here(tree, Policy("p"))
    settle(tree)

    def between(number):
        (tree / "d0/sub0/f0").write_text(f"before the cut {number}")
        (tree / f"d0/came{number}").write_text("a name that came before the cut")
        (tree / "d1/sub1" / f"f{1 + 24 * number}").unlink()
        os.rename(tree / f"d7/another{number}", tree / f"d0/moved before the cut{number}")
        os.utime(tree / "d4/big", ns=(10**18, 10**18 + number))
        (tree / "d4" / f"big{number}").write_text("a name that came behind it")

    row = lab.cut_night([9 * MIB, 5 * MIB], 0, between)
    assert sum(lab.line.passed()) > row.stored_size + 4 * MIB  # what came of the big file came for nothing
    assert any("went on" in note for note in row.notes)
    lab.restore(tmp_path / "of two moments")
    time.sleep(2.1)
    lab.cut_night([])
    whole(lab, lab.latest("here", "data"), tree, tmp_path / "out")
    assert lab.latest("here", "data").level == 1


def test_a_source_with_other_words_begins_anew(lab, tree, tmp_path):
    lab.here(tree, Policy("p"))

    def between(_number):
        lab.here({"path": str(tree), "exclude": ["d5/sub*"]}, Policy("p"))

    row = lab.cut_night([9 * MIB], 0, between)
    assert "begun again" in row.notes[0] and lab.left() == []
    assert lab.line.passed()[-1] > 9 * MIB


@pytest.mark.parametrize("rule", [pytest.param("night", marks=slow), "next", pytest.param("never", marks=slow)])
def test_the_next_night_goes_on_where_the_policy_says_so(lab, tree, tmp_path, rule):
    lab.here(tree, Policy("p", resume=rule))
    with runlock.hold(lab.settings):
        lab.begin()
        lab.line.cut_after([9 * MIB])
        row, error = lab.attempt()
        assert row is None and error.again
    assert bool(lab.left()) == (rule != "never")
    row = lab.cut_night([3 * MIB])
    assert (sum(lab.line.passed()) < 12 * MIB) == (rule == "next")
    whole(lab, row, tree, tmp_path / "out")


@pytest.mark.parametrize(("encrypt", "harm"), [
    ("none", "part"), ("server", ""),
    *[pytest.param("none", harm, marks=slow) for harm in ("", "index", "journal")],
    *[pytest.param("server", harm, marks=slow) for harm in ("part", "index", "journal")],
])  # fmt: skip
def test_what_a_killed_server_left_is_gone_on_with_as_far_as_it_is_whole(lab, tree, tmp_path, encrypt, harm):
    sealed.prove(lab.settings.keys)
    lab.here(tree, Policy("p", resume="next", encrypt=encrypt))
    pid = os.fork()
    if not pid:
        lab.begin()
        lab.line.cut_after([10 * MIB])
        resume.keep = lambda place: os.kill(os.getpid(), 9)
        lab.attempt()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 9
    incoming = lab.base / "holding/.incoming"
    if harm == "part":
        part = next(incoming.rglob("image-0000*"))
        with open(part, "r+b") as file:
            file.seek(5 * MIB)
            file.write(b"a sector that never came")
    elif harm == "index":
        top = incoming if encrypt == "none" else places.pending_folder(lab.settings.state)
        index = next(top.rglob("index.tsv.zst" if encrypt == "none" else "*.index"))
        os.truncate(index, index.stat().st_size - 100)
    elif harm == "journal":
        top = incoming if encrypt == "none" else places.pending_folder(lab.settings.state)
        journal = next(top.rglob("*.came"))
        os.truncate(journal, journal.stat().st_size - 10)
    row = lab.cut_night([])
    assert lab.line.passed()[-1] < 11 * MIB
    check_folder(Path(row.holding), load_public_keys(lab.settings.keys), full=True)
    if encrypt == "none":
        whole(lab, row, tree, tmp_path / "out")
    assert lab.left() == []


def journal_syncs(log):
    """Where in a log of powerdisk the journal of a dump was synced."""
    (journal,) = {op.rest[1] for op in log if op.kind == "link" and op.rest[0].endswith(".came")}
    return [at for at, op in enumerate(log) if op.kind == "sync" and op.ino == journal]


@slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("encrypt", ["none", "server"])
def test_a_power_cut_of_the_server_costs_what_came_since_the_last_sync(tree, tmp_path, encrypt):
    (tmp_path / "mount").mkdir()
    with contextlib.ExitStack() as ends:
        disk = PowerCut(tmp_path / "mount")
        ends.callback(disk.close)
        (tmp_path / "mount/server").mkdir()
        lab = CutLab(tmp_path / "mount/server")
        lab.line = Line(tmp_path / "line")  # has the power
        sealed.prove(lab.settings.keys)
        lab.here(tree, Policy("p", resume="next", encrypt=encrypt))
        disk.begin()
        pid = os.fork()
        if not pid:
            syncing.EVERY = 2 * MIB
            lab.begin()
            lab.line.cut_after([12 * MIB])
            resume.keep = lambda place: os.kill(os.getpid(), 9)  # what was being synced is through by then
            lab.attempt()
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 9
        lab.catalog.close()
        log = disk.log()
        syncs = journal_syncs(log)
        sent = {}
        for at, model in ((syncs[0], "lost"), (syncs[0] + 1, "lost"), (len(log), "lost"), (len(log), "some")):
            disk.cut(at, model)
            lab.catalog = Catalog(lab.base / "state" / "catalog.sqlite")
            row = lab.cut_night([])
            check_folder(Path(row.holding), load_public_keys(lab.settings.keys), full=True)
            if encrypt == "none":
                lab.restore_by_hand("here", "data", tmp_path / f"out{len(sent)}")
                found = tree_lab.snapshot(tmp_path / f"out{len(sent)}")
                assert tree_lab.differences(tree_lab.snapshot(tree), found) == []
            assert lab.left() == []
            lab.catalog.close()
            sent[at, model] = lab.line.passed()[-1]
        whole_again, *rest = sent.values()
        assert whole_again > row.stored_size - MIB  # nothing was promised by then
        assert all(one < whole_again - 3 * MIB for one in rest), sent  # a frame at least
        print(f"{len(syncs)} syncs; sent after the cut: {sent}")


@slow
def test_segments_and_interim_dumps_go_on_too(lab, tree, tmp_path):
    lab.here(tree, Policy("p"))
    row = lab.cut_night([9 * MIB], newer_ns=1)
    assert row.segment and row.options["newer_ns"] == 1 and "went on" in row.notes[0]
    assert lab.line.passed()[-1] < 9 * MIB
    lab.cut_night([])
    made = cut.make((Segment("s01", (b"d4", b"d7"), 0), Segment(REST, (), 0)), 0, 0.0)
    cut.keep(lab.settings, "here", "data", made)
    for name, limit in zip(made.names, (6 * MIB, 5 * MIB)):
        row = lab.cut_night([limit], 0, base=None, segment=name)
        assert row.segment == name and "went on" in row.notes[0]
        check_folder(Path(row.holding), load_public_keys(lab.settings.keys), full=True)
    assert tree_lab.differences(tree_lab.snapshot(tree), tree_lab.snapshot(lab.restore(tmp_path / "own"))) == []
    assert lab.left() == []
