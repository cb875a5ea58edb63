"""Interim dumps: all folders, of the rest what was changed since a moment; what is left out is told, not gone."""

from __future__ import annotations

import os
import subprocess
import time

import pytest
from agent_peer import Peer

from backupcore import wire
from backupcore.errors import StowageError

DAY = 86400 * 10**9


@pytest.fixture
def peer(tmp_path):
    return Peer(tmp_path / "agent").hurry()


@pytest.fixture
def moment(tmp_path, peer):
    """A tree with old and recent entries, and the moment between them by this machine's clock."""
    tree = tmp_path / "tree"
    (tree / "old/deep").mkdir(parents=True)
    (tree / "new").mkdir()
    for name in ("old/file", "old/deep/file", "touched", "chmodded", "linked", "new/old name"):
        (tree / name).write_text(name)
    (tree / "old/pointer").symlink_to("file")
    os.mkfifo(tree / "old/pipe")
    os.link(tree / "linked", tree / "old/deep/linked too")
    time.sleep(0.02)
    moment = time.time_ns()
    time.sleep(2.0)  # longer than a request is on its way
    (tree / "touched").write_text("touched again")
    (tree / "chmodded").chmod(0o600)
    (tree / "new/file").write_text("new")
    (tree / "new/pointer").symlink_to("../touched")
    os.link(tree / "linked", tree / "new/a name of it")  # which changes the ctime of all three
    past = time.time_ns() - 400 * DAY
    os.utime(tree / "new/file", ns=(past, past))  # an old mtime does not hide what came just now
    peer.declare("s", tree)
    return moment


def interim(peer, newer, ahead=0):
    """A dump of what is newer, by a server whose clock is ahead."""
    talk = peer.start()
    try:
        talk.greet()
        talk.channel.send_json(wire.REQUEST, talk.request("s", None, newer=newer, now_ns=time.time_ns() + ahead))
        return talk.take()
    finally:
        talk.end()


KEPT = {b"touched": "f", b"chmodded": "f", b"new/file": "f", b"new/pointer": "l"}
FOLDERS = {b".": "d", b"old": "d", b"old/deep": "d", b"new": "d"}
LEFT = {b"old/file", b"old/deep/file", b"new/old name", b"old/pointer", b"old/pipe"}
LINKS = {b"linked", b"old/deep/linked too", b"new/a name of it"}


def test_it_has_what_changed_and_tells_the_rest(peer, moment):
    got = interim(peer, moment)
    rows = got.rows()
    assert {path for path, row in rows.items() if row.kind == "n"} == LEFT
    assert {rows[path].link for path in LEFT} == {b"segment"}
    assert {path: rows[path].kind for path in (*KEPT, *FOLDERS)} == {**KEPT, **FOLDERS}
    assert sorted(rows[path].kind for path in LINKS) == ["f", "h", "h"]  # one file, whole
    assert not any("x" in row.flags for row in rows.values())
    assert set(rows) == {*KEPT, *FOLDERS, *LEFT, *LINKS}
    assert got.start["newer"] == moment and got.done["gone"] == 0


def test_gnu_tar_opens_it(peer, moment, tmp_path):
    got = interim(peer, moment)
    out = tmp_path / "out"
    out.mkdir()
    (out / "stays").write_text("not the dump's affair")
    subprocess.run(["tar", "-xpG", "-C", str(out), "-f", "-"], input=got.archive(), check=True)
    found = {str(path.relative_to(out)).encode() for path in out.rglob("*") if path.is_symlink() or not path.is_dir()}
    assert found == {*KEPT, *LINKS, b"stays"}
    assert (out / "linked").stat().st_nlink == 3


def test_the_moment_is_by_the_servers_clock(peer, moment):
    ahead = 3 * DAY  # the server's clock shows another day
    rows = interim(peer, moment + ahead, ahead).rows()
    assert {path for path, row in rows.items() if row.kind == "n"} == LEFT
    rows = interim(peer, moment - 10 * DAY).rows()
    assert not any(row.kind == "n" for row in rows.values())


def test_it_composes_with_patterns_and_an_agent_says_that_it_knows(tmp_path, peer, moment):
    peer.declare("s", tmp_path / "tree", exclude=["new/**"])
    rows = interim(peer, moment).rows()
    assert rows[b"new/file"].link == b"excluded" and rows[b"old/file"].link == b"segment"
    talk = peer.start()
    try:
        assert talk.greet()["interim"] is True
    finally:
        talk.end()


def test_dumps_without_it_are_as_before(peer, moment):
    got = peer.dump()
    assert "newer" not in got.start and not any(row.kind == "n" for row in got.rows().values())


@pytest.mark.parametrize("newer, now", [
    ("1", 2), (0, 5), (-1, 5), (True, 5), (1.5, 5), (6, 5), (5, None), (5, "6"), (1 << 63, 1 << 63), ([1], 5),
])  # fmt: skip
def test_what_is_no_moment_is_refused(peer, moment, newer, now):
    with pytest.raises(StowageError, match="no right newer"):
        peer.dump(newer=newer, now_ns=now)


def test_it_is_a_full_of_no_segment(peer, moment):
    whole = peer.dump()
    with pytest.raises(StowageError, match="no right newer"):
        peer.dump(base=whole, newer=moment, now_ns=time.time_ns())
    with pytest.raises(StowageError, match="no right newer"):
        peer.dump(newer=moment, now_ns=time.time_ns(), segment={"folders": ["old"], "rest": True})
