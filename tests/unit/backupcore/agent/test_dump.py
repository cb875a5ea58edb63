"""Dumps by a real agent, opened by GNU tar: a chain of images is the tree at each moment."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest
from agent_peer import Got, Peer, Talk

from backupcore.image import dumpdir, order, state
from backupcore.image.unpax import Reader

_SPEC = importlib.util.spec_from_file_location("lab_tree", Path(__file__).parents[3] / "lab" / "tree.py")
lab = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(lab)
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """(peer, [(dump, the tree at that moment, unpacked chain at that moment)]) of a hostile tree and two changes."""
    folder = tmp_path_factory.mktemp("hostile")
    tree, chain = folder / "tree", folder / "chain"
    lab.make_hostile_tree(tree)
    peer = Peer(folder / "agent").hurry()
    peer.declare("s", tree)
    chain.mkdir()
    steps, base = [], None
    for step in range(3):
        if step:
            lab.change_hostile_tree(tree, step)
        else:
            time.sleep(0.15)  # so that not all of it is suspect
        moment = lab.snapshot(tree)
        base = peer.dump(base=base, part_size=1 << 20)
        base.unpack(chain)
        steps.append((base, moment, lab.snapshot(chain)))
    yield peer, steps
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_gnu_tar_makes_the_tree_of_each_moment(hostile, step):
    _got, moment, unpacked = hostile[1][step]
    assert lab.differences(moment, unpacked) == []


def test_an_incremental_holds_only_what_changed(hostile):
    for got, _moment, _unpacked in hostile[1][1:]:
        paths = got.rows()
        assert b"content/1048576" not in paths and b"sparse/nine gigabytes" not in paths
        assert b"swap/quiet edit" in paths
        assert got.done["archive_size"] < 300000


@pytest.mark.parametrize("step", [0, 1, 2])
def test_rows_say_what_is_in_the_archive_and_where(hostile, step):
    got = hostile[1][step][0]
    archive = got.archive()
    assert len(archive) == got.done["archive_size"]
    assert archive.endswith(bytes(1024))
    end = 0
    for entry in got.entries():
        if entry.kind in "-n":
            assert (entry.offset, entry.length) == (0, 0)
            continue
        assert entry.offset >= end and not (entry.offset | entry.length) % 512
        end = entry.offset + entry.length
        reader = Reader(io.BytesIO(archive[entry.offset : end]).read, many=True)
        ((one, content),) = [(one, b"".join(bytes(piece) for piece in one.content())) for one in reader]
        assert (one.path, one.kind, one.mode, one.uid, one.gid) == entry[:5]
        assert one.mtime_ns == entry.mtime_ns
        if entry.kind == "f":
            assert one.size == entry.size
            assert hashlib.sha256(content).digest() == entry.sha256
            assert (one.sparse is not None) == ("h" in entry.flags)
        if entry.kind in "hl":
            assert one.link == entry.link


def test_small_files_never_straddle_frames_and_continued_frames_are_marked(hostile):
    got = hostile[1][0][0]
    starts = {frame.offset: frame for frame in got.frames}
    inside = set()
    for entry in got.entries():
        if entry.kind in "-n":
            continue
        cuts = [start for start in starts if entry.offset < start < entry.offset + entry.length]
        inside.update(cuts)
        if entry.size <= 1 << 20:
            assert not cuts, entry
    assert inside and {start for start, frame in starts.items() if frame.flags & 1} == inside
    assert [frame.flags & 2 for frame in got.frames] == [0] * (len(got.frames) - 1) + [2]


def test_parts_hold_at_most_their_size(hostile):
    got = hostile[1][0][0]
    sizes = {}
    for frame, stored in zip(got.frames, got.stored, strict=True):
        sizes.setdefault(frame.part, []).append(len(stored))
    assert len(sizes) > 2 and list(sizes) == list(range(len(sizes)))
    assert all(sum(one) <= 1 << 20 or len(one) == 1 for one in sizes.values())


def test_a_full_has_no_lists_of_names_and_an_incremental_only_right_ones(hostile):
    for number, (got, moment, _unpacked) in enumerate(hostile[1]):
        for member in Reader(io.BytesIO(got.archive()).read):
            if member.dumpdir is None:
                continue
            assert number and member.kind == "d"
            prefix = b"" if member.path == b"." else member.path + b"/"
            here = sorted(path[len(prefix) :] for path in moment if path.startswith(prefix) and path != b"."
                          and b"/" not in path[len(prefix) :])  # fmt: skip
            assert [name for name, _letter in dumpdir.parse(member.dumpdir)] == here


def unchanged(peer: Peer, base: Got) -> Got:
    got = peer.dump(base=base)
    assert got.done["archive_size"] == 1024 and not got.lines and got.done["changed"] == 0
    return got


def test_nothing_changed_is_an_empty_archive_and_the_same_state(tmp_path):
    tree = tmp_path / "tree"
    lab.make_hostile_tree(tree)
    for name in os.listdir(tree / "times"):  # times to come are always suspect
        if name in ("2106", "2200", "2038"):
            os.unlink(tree / "times" / name)
    peer = Peer(tmp_path / "agent").hurry()
    peer.declare("s", tree)
    time.sleep(0.15)
    full = peer.dump()
    assert full.done["suspects"] == 0
    again = unchanged(peer, full)
    assert again.state == full.state
    shutil.rmtree(tree)


def test_what_is_young_is_read_again_though_nothing_shows(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "young").write_text("a")
    (tree / "old").write_text("b")
    peer = Peer(tmp_path / "agent")
    peer.declare("s", tree)
    time.sleep(2.1)
    # two seconds are short for a process to begin in
    full = peer.dump(meanwhile=lambda: (tree / "young").write_text("c"))
    assert {path: row.flags for path, row in full.rows().items()} == {b".": "", b"old": "", b"young": "s"}
    time.sleep(2.1)
    again = peer.dump(base=full)
    assert {path: row.flags for path, row in again.rows().items()} == {b".": "", b"young": ""}
    assert again.done["changed"] == 1
    unchanged(peer, again)


def test_sockets_excluded_and_mounted_names_are_told_and_survive_tar(tmp_path):
    tree, chain = tmp_path / "tree", tmp_path / "chain"
    for name in ("cache/sub", "keep", "logs"):
        (tree / name).mkdir(parents=True)
    for name in ("cache/sub/f", "keep/a.tmp", "keep/b", "logs/x"):
        (tree / name).write_text(name)
    here = os.getcwd()
    os.chdir(tree)  # names of sockets are short
    try:
        server = socket.socket(socket.AF_UNIX)
        server.bind("sock")
    finally:
        os.chdir(here)
    peer = Peer(tmp_path / "agent").hurry()
    peer.declare("s", tree)
    first = peer.dump()
    assert first.rows()[b"sock"].kind == "n" and first.rows()[b"sock"].link == b"socket"
    chain.mkdir()
    first.unpack(chain)
    # now some is excluded: what the chain had of it stays, also when the names around change
    peer.declare("s", tree, exclude=["*.tmp", "/cache"])
    (tree / "new").write_text("new")
    (tree / "keep" / "c").write_text("c")
    second = peer.dump(base=first)
    rows = second.rows()
    assert (rows[b"cache"].kind, rows[b"cache"].link, rows[b"cache"].flags) == ("n", b"excluded", "d")
    assert (rows[b"keep/a.tmp"].kind, rows[b"keep/a.tmp"].flags) == ("n", "")
    assert b"cache/sub" not in rows and b"sock" not in rows
    second.unpack(chain)
    assert (chain / "cache/sub/f").read_text() == "cache/sub/f" and (chain / "keep/a.tmp").exists()
    # it is said once, and a folder gone after that is gone with all the chain has of it
    time.sleep(0.15)
    third = peer.dump(base=second)
    assert not [row for row in third.entries() if row.kind == "n"]
    shutil.rmtree(tree / "cache")
    os.unlink(tree / "keep" / "a.tmp")
    fourth = peer.dump(base=third)
    gone = {row.path: row.link for row in fourth.entries() if row.kind == "-"}
    assert gone == {b"cache": b"d", b"cache/sub": b"d", b"cache/sub/f": b"f", b"keep/a.tmp": b"f"}
    third.unpack(chain)
    fourth.unpack(chain)
    assert not (chain / "cache").exists() and not (chain / "keep/a.tmp").exists()
    server.close()


def test_what_is_not_excluded_any_more_is_dumped_again(tmp_path):
    tree = tmp_path / "tree"
    (tree / "cache").mkdir(parents=True)
    (tree / "cache/f").write_text("f")
    (tree / "a.tmp").write_text("a")
    peer = Peer(tmp_path / "agent").hurry()
    peer.declare("s", tree)
    time.sleep(0.15)
    full = peer.dump()
    peer.declare("s", tree, exclude=["cache", "*.tmp"])
    without = peer.dump(base=full)
    assert {row.path: row.kind for row in without.entries()} == {b".": "d", b"a.tmp": "n", b"cache": "n"}
    peer.declare("s", tree)
    back = peer.dump(base=without)
    assert {b"cache": "d", b"cache/f": "f", b"a.tmp": "f", b".": "d"} == {r.path: r.kind for r in back.entries()}
    unchanged(peer, back)


@root_only
def test_another_file_system_is_an_empty_folder_and_what_the_chain_had_stays(tmp_path):
    tree, chain = tmp_path / "tree", tmp_path / "chain"
    (tree / "mnt").mkdir(parents=True)
    (tree / "mnt" / "below").write_text("precious")
    (tree / "f").write_text("f")
    peer = Peer(tmp_path / "agent").hurry()
    peer.declare("s", tree)
    full = peer.dump()
    chain.mkdir()
    full.unpack(chain)
    subprocess.run(["mount", "-t", "tmpfs", "none", tree / "mnt"], check=True)
    try:
        (tree / "mnt" / "inside").write_text("not dumped")
        (tree / "g").write_text("g")
        got = peer.dump(base=full)
        rows = got.rows()
        assert (rows[b"mnt"].kind, rows[b"mnt"].flags) == ("d", "m") and b"mnt/inside" not in rows
        assert b"mnt/below" not in rows
        records = {one.path: one.dumpdir for one in Reader(io.BytesIO(got.archive()).read)}
        assert dict(dumpdir.parse(records[b"."]))[b"mnt"] == "N" and records[b"mnt"] is None
        got.unpack(chain)
        assert (chain / "mnt" / "below").read_text() == "precious" and not (chain / "mnt" / "inside").exists()
        time.sleep(0.15)
        calm = peer.dump(base=got)
        unchanged(peer, calm)
        peer.declare("s", tree, one_file_system=False)
        assert peer.dump(base=calm).rows()[b"mnt/inside"].kind == "f"
        assert peer.dump().rows()[b"mnt/inside"].kind == "f"
    finally:
        subprocess.run(["umount", tree / "mnt"], check=True)


def test_hard_links_stay_together_whichever_name_comes_or_goes(tmp_path):
    tree, chain = tmp_path / "tree", tmp_path / "chain"
    (tree / "m").mkdir(parents=True)
    (tree / "m" / "x").write_text("content")
    os.link(tree / "m" / "x", tree / "y")
    peer = Peer(tmp_path / "agent").hurry()
    peer.declare("s", tree)
    chain.mkdir()
    time.sleep(0.15)
    base = peer.dump()
    base.unpack(chain)
    steps = [
        lambda: os.rename(tree / "m", tree / "z"),  # the inodes below keep their ctime
        lambda: os.rename(tree / "z", tree / "a"),
        lambda: (os.mkdir(tree / "b"), os.link(tree / "y", tree / "b" / "third")),
        lambda: os.rename(tree / "b", tree / "0"),
        lambda: os.unlink(tree / "y"),
        lambda: (tree / "0" / "third").write_text("other content"),
    ]
    for step in steps:
        step()
        time.sleep(0.15)
        moment = lab.snapshot(tree)
        base = peer.dump(base=base)
        base.unpack(chain)
        assert lab.differences(moment, lab.snapshot(chain)) == []
    unchanged(peer, base)


def test_a_folder_moved_over_another_and_names_around_the_slash(tmp_path):
    tree, chain = tmp_path / "tree", tmp_path / "chain"
    for name in ("a/x", "a-b/x", "a.d/x/y", "b/x"):
        (tree / name).mkdir(parents=True)
        (tree / name / "f").write_text(name)
    peer = Peer(tmp_path / "agent").hurry()
    peer.declare("s", tree)
    chain.mkdir()
    base = peer.dump()
    base.unpack(chain)
    shutil.rmtree(tree / "a")
    os.rename(tree / "a.d", tree / "a")
    os.rename(tree / "b", tree / "a" / "f")
    moment = lab.snapshot(tree)
    got = peer.dump(base=base)
    got.unpack(chain)
    assert lab.differences(moment, lab.snapshot(chain)) == []
    assert {row.path for row in got.entries() if row.kind == "-"} == {
        b"a.d", b"a.d/x", b"a.d/x/y", b"a.d/x/y/f", b"b", b"b/x", b"b/x/f", b"a/x/f",
    }  # fmt: skip


def test_folders_of_more_names_than_a_block_holds(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    count = state.ENTRIES * 5 + 3
    for number in range(count):
        (tree / ("%05d" % number)).touch()
    for number in range(10):
        (tree / ("d%d" % number)).mkdir()
    peer = Peer(tmp_path / "agent").hurry()
    peer.declare("s", tree)
    time.sleep(0.15)
    full = peer.dump()
    assert full.done["entries"] == count + 11
    sizes = [block.entries + block.folders for block in state.read(full.state) if block.path == b"."]
    assert sizes == [state.ENTRIES] * 5 + [13]
    unchanged(peer, full)
    os.unlink(tree / "00000")
    os.unlink(tree / "12345")
    (tree / "12345x").write_text("new")
    (tree / "d3").rmdir()
    got = peer.dump(base=full)
    assert {row.path: row.kind for row in got.entries()} == {
        b".": "d", b"00000": "-", b"12345": "-", b"12345x": "f", b"d3": "-",
    }  # fmt: skip
    time.sleep(0.15)
    again = peer.dump(base=got)
    assert {row.path for row in again.entries()} <= {b".", b"12345x"}
    unchanged(peer, again)
    shutil.rmtree(tree)


def test_a_path_deeper_than_the_descriptors_held(tmp_path):
    tree, chain = tmp_path / "tree", tmp_path / "chain"
    tree.mkdir()
    chain.mkdir()
    fd = os.open(tree, os.O_RDONLY)
    depth = 300
    for number in range(depth):
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.mkdir("z", dir_fd=fd)
        os.mkdir("d%d" % number, dir_fd=fd)
        below = os.open("d%d" % number, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    peer = Peer(tmp_path / "agent").hurry()
    peer.declare("s", tree)
    time.sleep(0.15)
    got = peer.dump()
    assert got.done["entries"] == 1 + 3 * depth and not got.notes
    unchanged(peer, got)
    for place in (tree, chain):
        subprocess.run(["rm", "-rf", place], check=True)


@root_only
def test_unreadable_entries_are_told_and_their_older_copies_stay(tmp_path):
    tree, chain = tmp_path / "tree", tmp_path / "chain"
    (tree / "d").mkdir(parents=True)
    for name in ("f", "g", "d/inside"):
        (tree / name).write_text("first")
    subprocess.run(["chown", "-R", "65534:65534", tree], check=True)
    peer = Peer(tmp_path / "agent").hurry()
    peer.declare("s", tree)
    peer.folder.chmod(0o755)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(0o755)
    peer.config.chmod(0o644)
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    start = peer.start

    def as_nobody(*words):
        return Talk([*nobody, peer.python, "-I", str(peer.pyz), "--config", str(peer.config), "serve"])

    peer.start = as_nobody
    chain.mkdir()
    time.sleep(0.15)
    full = peer.dump()
    assert full.done["root"] is False and full.done["unreadable"] == 0 and full.done["not_kept"]
    full.unpack(chain)
    (tree / "new").write_text("n")
    for name in ("f", "d", "new"):
        (tree / name).chmod(0)
        os.chown(tree / name, 0, 0)
    second = peer.dump(base=full)
    rows = second.rows()
    assert second.done["unreadable"] == 3 and len([n for n in second.notes if n["level"] == "error"]) == 3
    assert {rows[name].kind + rows[name].flags for name in (b"f", b"new")} == {"n"}
    assert (rows[b"d"].kind, rows[b"d"].flags, rows[b"d"].link) == ("n", "d", b"unreadable")
    second.unpack(chain)
    assert (chain / "f").read_text() == "first" == (chain / "d/inside").read_text()
    # they can be read again: nothing about them counts as known
    peer.start = start
    third = peer.dump(base=second)
    assert {b"f", b"new", b"d", b"d/inside"} <= set(third.rows())
    third.unpack(chain)
    assert lab.differences(lab.snapshot(tree), lab.snapshot(chain)) == []


def test_an_excluded_or_included_part(tmp_path):
    tree = tmp_path / "tree"
    for name in ("home/a/mail/x", "home/a/other", "home/b/mail/y", "etc/c"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    peer = Peer(tmp_path / "agent").hurry()
    peer.declare("s", tree, include=["/home/*/mail"], exclude=["y"])
    got = {path.decode(): row.kind for path, row in peer.dump().rows().items()}
    assert got == {
        ".": "d", "etc": "n", "home": "d", "home/a": "d", "home/a/mail": "d", "home/a/mail/x": "f",
        "home/a/other": "n", "home/b": "d", "home/b/mail": "d", "home/b/mail/y": "n",
    }  # fmt: skip


def test_the_state_is_in_walk_order_and_whole(hostile):
    for got, moment, _unpacked in hostile[1]:
        blocks = list(state.read(got.state))
        keys = [order.key(block.path, True) for block in blocks]
        assert keys == sorted(keys)
        names = {b"."}
        for block in blocks:
            entries, _rows, folders = block.parts()
            prefix = b"" if block.path == b"." else block.path + b"/"
            names.update(prefix + name for name in entries + folders)
        assert names == set(moment)


def test_without_compression_and_with_gzip_the_archive_is_the_same(hostile):
    peer = hostile[0]
    plain = peer.dump(compress="none")
    assert plain.start["codec"] == "none" and b"".join(plain.stored) == plain.archive()
    packed = peer.dump(compress="gzip:6")
    assert packed.start["codec"] == "gzip" and packed.archive() == plain.archive()
    assert [order.key(*one) for one in ((row.path, row.is_dir) for row in plain.entries())]
    # a state packed one way is read by a dump packed another way
    assert peer.dump(base=packed).done["entries"] < 100


def test_devices_are_not_opened(hostile):
    rows = hostile[1][0][0].rows()
    if os.geteuid() == 0:
        assert rows[b"special/null"].link == b"1,3" and rows[b"special/null"].kind == "c"
    assert rows[b"special/fifo"].kind == "p"
    assert stat.S_IMODE(rows[b"special/fifo"].mode) == rows[b"special/fifo"].mode


def test_of_very_many_notes_only_the_first_are_sent_and_the_others_counted(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(1100):
        (tree / ("%04d" % number)).write_text("young")
        (tree / ("%04d" % number)).chmod(0)
    tree.chmod(0o755)
    peer = Peer(tmp_path / "agent").hurry()
    peer.declare("s", tree)
    if os.geteuid() == 0:
        for folder in (tmp_path, *tmp_path.parents):
            if folder.stat().st_mode & 0o005 != 0o005:
                folder.chmod(0o755)
        peer.folder.chmod(0o755)
        peer.config.chmod(0o644)
        os.chown(peer.config, 0, 0)
        nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
        argv = [*nobody, peer.python, "-I", str(peer.pyz), "--config", str(peer.config), "serve"]
        peer.start = lambda: Talk(argv)
    got = peer.dump()
    assert got.done["unreadable"] == 1100 and len(got.entries()) == 1101
    assert len(got.notes) == 1001 and got.notes[-1]["message"] == "100 more notes are not shown"
