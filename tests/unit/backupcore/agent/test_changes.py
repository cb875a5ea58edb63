"""A tree that changes under the dump: what shrinks, grows, vanishes or turns into something else never ruins it.

The walk runs in this process, so that the change can come at an exact moment.
"""

from __future__ import annotations

import io
import os
import shutil
import stat

import pytest
from agent_peer import Got, dump_here

from backupcore.agent import archive, hands, linux, walk
from backupcore.image import dumpdir
from backupcore.image.unpax import Reader


@pytest.fixture
def dump(monkeypatch, tmp_path):
    """dump(base=None) -> what came of a dump of tmp_path/tree; tests fiddle with monkeypatch between."""
    monkeypatch.setattr(archive, "SAFE_AGE", -1 << 62)
    monkeypatch.setattr(hands, "NAMES", 1)  # what is listed is dumped at once
    (tmp_path / "tree").mkdir()
    return lambda base=None: dump_here(tmp_path / "tree", base)


def content(got: Got) -> dict:
    return {one.path: b"".join(map(bytes, one.content())) for one in Reader(io.BytesIO(got.archive()).read)}


def meddle(monkeypatch, what):
    """what(name of a descriptor's file) is called between the look at a file and its reading."""
    real = os.listxattr

    def listxattr(target, **more):
        if isinstance(target, int):
            what(os.readlink("/proc/self/fd/%d" % target))
        return real(target, **more)

    monkeypatch.setattr(os, "listxattr", listxattr)
    # the quick way gives up when something moves, and the slow way looks again: here only the slow way
    monkeypatch.setattr(archive.Archive, "plain_files", lambda self, names, begin, prefix, put: begin)


def after_listing(monkeypatch, path: bytes, what):
    """what() is called when the folder of that path has been listed."""
    real = walk.Walk.list

    def listing(self, level, exact):
        names = real(self, level, exact)
        if level.path == path:
            what()
        return names

    monkeypatch.setattr(walk.Walk, "list", listing)


@pytest.mark.parametrize("size", [100, 300000, 9 << 20])
@pytest.mark.parametrize("rest", [0, 57])
def test_a_file_that_shrinks_is_filled_with_zeros_told_and_suspect(dump, monkeypatch, tmp_path, size, rest):
    tree = tmp_path / "tree"
    (tree / "a").write_bytes(b"a" * size)
    (tree / "b").write_bytes(b"b")
    meddle(monkeypatch, lambda path: path.endswith("/a") and os.truncate(path, rest))
    got = dump()
    assert content(got)[b"a"] == b"a" * rest + bytes(size - rest) and content(got)[b"b"] == b"b"
    assert got.rows()[b"a"].flags == "s"
    assert [(note["path"], note["level"]) for note in got.notes] == [("a", "warning")]
    assert "%d bytes are zeros" % (size - rest) in got.notes[0]["message"]
    assert got.done["suspects"] == 1


@pytest.mark.parametrize("size", [0, 57, 200])
def test_a_small_file_that_moves_is_looked_at_again(dump, monkeypatch, tmp_path, size):
    tree = tmp_path / "tree"
    for name in "abc":
        (tree / name).write_bytes(b"1" * 100)
    real, seen = os.listxattr, []

    def listxattr(target, **more):
        if isinstance(target, int) and os.readlink("/proc/self/fd/%d" % target).endswith("/b") and not seen:
            seen.append(1)
            (tree / "b").write_bytes(b"2" * size)
        return real(target, **more)

    monkeypatch.setattr(os, "listxattr", listxattr)
    got = dump()
    assert seen and got.rows()[b"b"].size == size and content(got)[b"b"] == b"2" * size and not got.notes
    assert set(dump(got).rows()) <= {b"."}  # the folder's own time


@pytest.mark.parametrize("size", [100, 300000, 9 << 20])
def test_a_file_that_grows_is_cut_and_suspect(dump, monkeypatch, tmp_path, size):
    tree = tmp_path / "tree"
    (tree / "a").write_bytes(b"a" * size)

    def grow(path):
        if path.endswith("/a"):
            with open(path, "ab") as stream:
                stream.write(b"more")

    meddle(monkeypatch, grow)
    got = dump()
    assert content(got)[b"a"] == b"a" * size
    assert got.rows()[b"a"].flags == "s" and "grew" in got.notes[0]["message"]


def test_what_changed_while_it_was_read_is_read_again_next_time(dump, monkeypatch, tmp_path):
    tree = tmp_path / "tree"
    for name in "abc":
        (tree / name).write_bytes(b"before")

    def write(path):
        if path.endswith("/b"):
            with open(path, "r+b") as stream:
                stream.write(b"behind")

    with monkeypatch.context() as patch:
        meddle(patch, write)
        got = dump()
    assert {path: row.flags for path, row in got.rows().items()} == {b".": "", b"a": "", b"b": "s", b"c": ""}
    again = dump(got)
    assert set(again.rows()) == {b".", b"b"} and content(again)[b"b"] == b"behind"


@pytest.mark.parametrize("base", [False, True])
def test_a_file_that_vanished_is_left_out_and_told(dump, monkeypatch, tmp_path, base):
    tree = tmp_path / "tree"
    for name in ("a", "b", "c"):
        (tree / name).write_text(name)
    first = dump() if base else None
    (tree / "b").write_text("changed")
    (tree / "new").write_text("new")
    with monkeypatch.context() as patch:
        after_listing(patch, b".", lambda: (os.unlink(tree / "b"), os.unlink(tree / "new")))
        got = dump(first)
    assert got.done["vanished"] == 2 and len(got.notes) == 2
    rows = got.rows()
    assert b"new" not in rows and (rows[b"b"].kind == "-" if base else b"b" not in rows)
    assert set(dump(got).rows()) <= {b"."}  # the folder's own time


def test_a_name_that_vanished_after_the_list_is_out_of_it_in_the_folders_second_member(dump, monkeypatch, tmp_path):
    tree, chain = tmp_path / "tree", tmp_path / "chain"
    for name in ("d/a", "d/b", "d/sub/x"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    first = dump()
    chain.mkdir()
    first.unpack(chain)
    (tree / "d" / "b").write_text("changed")
    (tree / "d" / "new").write_text("new")  # so that there is a list
    real = linux.open_file

    def gone(name):
        if name == b"b":
            os.unlink(tree / "d" / "b")
        return real(name)

    real_folder = linux.open_folder

    def gone_folder(name, parent):
        if name == b"sub":
            shutil.rmtree(tree / "d" / "sub")
        return real_folder(name, parent)

    with monkeypatch.context() as patch:
        patch.setattr(linux, "open_file", gone)
        patch.setattr(linux, "open_folder", gone_folder)
        got = dump(first)
    lists = [[name for name, _ in dumpdir.parse(one.dumpdir)] for one in Reader(io.BytesIO(got.archive()).read)
             if one.path == b"d"]  # fmt: skip
    assert lists == [[b"a", b"b", b"new", b"sub"], [b"a", b"new", b"sub"], [b"a", b"new"]]
    assert {row.path for row in got.entries() if row.kind == "-"} == {b"d/b", b"d/sub", b"d/sub/x"}
    mtime = os.stat(tree / "d").st_mtime_ns
    got.unpack(chain)
    assert sorted(os.listdir(chain / "d")) == ["a", "new"]
    second = dump(got)  # the folder's time is another by now
    second.unpack(chain)
    assert os.stat(chain / "d").st_mtime_ns == mtime


def test_a_file_that_became_something_else_is_dumped_as_what_it_is(dump, monkeypatch, tmp_path):
    tree = tmp_path / "tree"
    for name in ("fifo", "folder", "link", "z"):
        (tree / name).write_text("file")

    def swap():
        for name in ("fifo", "folder", "link"):
            os.unlink(tree / name)
        os.mkfifo(tree / "fifo")
        os.mkdir(tree / "folder")
        os.symlink("/etc/passwd", tree / "link")

    after_listing(monkeypatch, b".", swap)
    got = dump()
    assert got.kinds() == {".": "d", "fifo": "p", "link": "l", "z": "f"}
    assert got.done["vanished"] == 1


def test_a_folder_swapped_for_a_link_is_never_followed(dump, monkeypatch, tmp_path):
    tree, secret = tmp_path / "tree", tmp_path / "secret"
    (tree / "d").mkdir(parents=True)
    secret.mkdir()
    (secret / "password").write_text("x")

    def swap():
        os.rmdir(tree / "d")
        os.symlink(secret, tree / "d")

    after_listing(monkeypatch, b".", swap)
    got = dump()
    assert got.kinds() == {".": "d"} and got.done["vanished"] == 1


def test_a_read_error_becomes_zeros_and_the_dump_goes_on(dump, monkeypatch, tmp_path):
    tree = tmp_path / "tree"
    (tree / "bad").write_bytes(b"x" * 200000)
    (tree / "good").write_text("good")
    real = os.readv

    def readv(fd, buffers):
        if os.readlink("/proc/self/fd/%d" % fd).endswith("/bad"):
            raise OSError(5, "Input/output error")
        return real(fd, buffers)

    monkeypatch.setattr(os, "readv", readv)
    got = dump()
    assert content(got)[b"bad"] == bytes(200000) and content(got)[b"good"] == b"good"
    assert got.rows()[b"bad"].flags == "s"
    assert {note["level"] for note in got.notes} == {"error", "warning"}


def test_the_time_of_access_stays(dump, tmp_path):
    tree = tmp_path / "tree"
    (tree / "f").write_text("f")
    (tree / "big").write_bytes(bytes(100000))
    for name in ("f", "big"):
        os.utime(tree / name, ns=(10**18, os.stat(tree / name).st_mtime_ns))
    dump()
    assert {os.stat(tree / name).st_atime_ns for name in ("f", "big")} == {10**18}


def test_a_line_of_the_hot_path_is_that_of_the_index(tmp_path):
    from backupcore.image.index import format_entry

    for path in (b"a/b", b"-", b"new\nline", b"\\", b"\xff", b"%d", b"100%"):
        for times in ((1, 2), (-1, 5), (10**18 + 7, -(10**18) - 1), (0, 0)):
            values = (path, 0o7644, 1, 2, 33, *times, (1 << 64) - 1, bytes(range(32)))
            line = archive.regular_line(*values, 2048) % 1024
            assert line == format_entry(path, "f", *values[1:8], b"", values[8], 1024, 2048, "")


def test_a_second_name_of_a_file_that_changed_meanwhile_is_suspect(dump, monkeypatch, tmp_path):
    tree = tmp_path / "tree"
    (tree / "d").mkdir()
    (tree / "a").write_text("before")
    os.link(tree / "a", tree / "d" / "b")
    real = walk.Walk.list
    after_listing(monkeypatch, b"d", lambda: (tree / "a").write_text("behind and longer"))
    got = dump()
    rows = got.rows()
    assert (rows[b"a"].kind, rows[b"d/b"].kind, rows[b"d/b"].flags) == ("f", "h", "s")
    monkeypatch.setattr(walk.Walk, "list", real)
    again = dump(got).rows()
    assert {path: row.kind for path, row in again.items()} == {b".": "d", b"a": "f", b"d": "d", b"d/b": "h"}
    assert stat.S_ISREG(os.stat(tree / "a").st_mode)
