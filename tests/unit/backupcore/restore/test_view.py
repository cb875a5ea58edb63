"""The tree at any moment of any history is what it was: by the whole way from images to the agent's wire."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from maker import BEGIN, MEMORY, Maker, Node, expected, folder_node, received

from backupcore.image.index import Entry
from backupcore.restore import choose, view

NAMES = [b"a", b"a-b", b"b", b"\n", b"-", b"\xff", b"c\\d"]


@st.composite
def trees(draw, before=None):
    """A tree, made from another one by some changes."""
    tree = dict(before) if before else {b".": folder_node()}
    for _step in range(draw(st.integers(0 if before else 3, 8))):
        folders = [path for path in tree if tree[path].kind == "d"]
        above = draw(st.sampled_from(sorted(folders)))
        name = draw(st.sampled_from(NAMES))
        path = name if above == b"." else above + b"/" + name
        if path.count(b"/") > 3:
            continue
        what = draw(st.sampled_from(["file", "file", "folder", "link", "hard", "gone", "gone", "fifo", "mode"]))
        if what == "folder" and path in tree and tree[path].kind == "d":
            continue
        if what == "mode":
            if path in tree:
                node = tree[path]
                new = Node(node.kind, node.data, node.link, node.mode ^ 0o011, node.mtime_ns, node.xattrs)
                for other in [other for other in tree if tree[other] is node]:
                    tree[other] = new
            continue
        hard = draw(st.sampled_from(sorted(p for p in tree if tree[p].kind == "f") or [b""])) if what == "hard" else b""
        if hard and (hard == path or hard.startswith(path + b"/")):
            continue
        for other in [other for other in tree if other == path or other.startswith(path + b"/")]:
            del tree[other]
        if what == "file":
            size = draw(st.sampled_from([0, 1, 511, 512, 3000, 20000]))
            data = bytes([draw(st.integers(0, 255))]) * size
            xattrs = {b"user.x": b"1"} if size == 1 else {}
            tree[path] = Node("f", data, mtime_ns=BEGIN + draw(st.integers(-3, 3)), xattrs=xattrs)
        elif what == "folder":
            tree[path] = folder_node()
        elif what == "link":
            tree[path] = Node("l", link=b"to " + name, mode=0o777)
        elif what == "fifo":
            tree[path] = Node("p")
        elif what == "hard" and hard:
            tree[path] = tree[hard]
    return tree


@st.composite
def histories(draw):
    """[(level, tree)]: a full first, then anything."""
    tree = draw(trees())
    found = [(0, tree)]
    for _step in range(draw(st.integers(1, 4))):
        tree = draw(trees(tree))
        # a level needs a lower one before it
        found.append((draw(st.integers(0, min(3, len(found)))), tree))
    return found


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    histories(),
    st.sampled_from(["zstd", "gzip", "none"]),
    st.sampled_from([1024, 4096, 65536]),
    st.sampled_from([1, 2, 3, 512]),
    st.booleans(),
    st.data(),
)
def test_each_moment_of_a_history_is_what_it_was(history, compress, frame, block, zstd, data):
    base = Path(tempfile.mkdtemp(prefix="stowage-test-", dir=MEMORY))
    maker = Maker(base / "server", compress, frame, part=3000)
    choose.BLOCK = block
    try:
        rows = [(maker.dump(tree, level), tree) for level, tree in history]
        for row, tree in rows:
            report, peer = maker.restore("web1:/", at=row.begun_ns, zstd=zstd)
            assert (report.failed, report.notes) == ([], [])
            assert received(peer) == expected(tree)
        row, tree = rows[-1]
        path = data.draw(st.sampled_from(sorted(tree)))
        word = (b"/srv/data" if path == b"." else b"/srv/data/" + path).replace(b"\\", b"\\\\")
        report, peer = maker.restore(b"web1:".decode() + word.decode("utf-8", "surrogateescape"), at=row.begun_ns)
        below = b"" if path == b"." else path + b"/"
        assert received(peer) == expected(tree, keep=lambda one: one == path or one.startswith(below))
        assert report.failed == []
    finally:
        choose.BLOCK = 512
        maker.close()
        shutil.rmtree(base)


def entries(*rows):
    return [Entry(path, kind, link=link, flags=flags) for path, kind, link, flags in rows]


def shown(*levels):
    return [(row.entry.path, row.entry.kind, row.level, row.stale) for row in view.merge(levels)]


def test_a_gone_folder_takes_what_older_dumps_have_below_it():
    full = entries((b".", "d", b"", ""), (b"a", "d", b"", ""), (b"a/x", "f", b"", ""), (b"b", "f", b"", ""))
    full.sort(key=Entry.key)
    first = entries((b".", "d", b"", ""), (b"a", "-", b"d", ""))
    again = entries((b".", "d", b"", ""), (b"a", "d", b"", ""), (b"a/y", "f", b"", ""))
    assert shown(full, first) == [(b".", "d", 1, False), (b"b", "f", 0, False)]
    assert shown(full, first, again) == [
        (b".", "d", 2, False), (b"b", "f", 0, False), (b"a", "d", 2, False), (b"a/y", "f", 2, False)
    ]  # fmt: skip


def test_what_could_not_be_read_keeps_its_older_version_and_says_so():
    full = entries((b".", "d", b"", ""), (b"x", "f", b"", ""))
    assert shown(full, entries((b"x", "n", b"unreadable", ""))) == [(b".", "d", 0, False), (b"x", "f", 0, True)]


def test_a_folder_that_could_not_be_read_keeps_what_was_below_it():
    full = entries((b".", "d", b"", ""), (b"a", "d", b"", ""), (b"a/x", "f", b"", ""))
    later = entries((b"a", "n", b"unreadable", "d"))
    assert shown(full, later) == [(b".", "d", 0, False), (b"a", "d", 0, True), (b"a/x", "f", 0, False)]


def test_what_is_excluded_since_is_no_longer_there_with_all_below_it():
    full = entries((b".", "d", b"", ""), (b"a", "d", b"", ""), (b"a/x", "f", b"", ""))
    later = entries((b"a", "n", b"excluded", "d"))
    assert shown(full, later) == [(b".", "d", 0, False), (b"a", "n", 1, False)]


def test_what_was_gone_and_then_unreadable_does_not_come_back():
    full = entries((b".", "d", b"", ""), (b"x", "f", b"", ""))
    gone = entries((b"x", "-", b"f", ""))
    assert shown(full, gone, entries((b"x", "n", b"unreadable", ""))) == [
        (b".", "d", 0, False), (b"x", "n", 2, False)
    ]  # fmt: skip


def test_a_glob_sees_that_a_folder_above_its_matches_went(maker):
    tree = {b".": folder_node(), b"a": folder_node(), b"a/b": folder_node(), b"a/b/x.c": Node("f", b"1")}
    maker.dump(tree)
    row = maker.dump({b".": folder_node(), b"a": Node("f", b"2"), b"y.c": Node("f", b"3")}, 1)
    _report, peer = maker.restore("web1:/srv/data/**/*.c")
    assert sorted(peer.tree) == [b"/srv/data/y.c"] and row.level == 1
