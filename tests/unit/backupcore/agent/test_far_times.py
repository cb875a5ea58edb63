"""Times that do not fit into 64 bits of nanoseconds: anybody may give them to a file, and the source is dumped."""

from __future__ import annotations

import os
import time

import pytest
from agent_peer import Peer

from backupcore.dump import fold
from backupcore.image import state

YEAR_2290, YEAR_1600, YEAR_300000 = 10_098_000_000, -11_676_000_000, 10**13
NS = 10**9


def times(tree):
    """Path -> mtime as it is there."""
    return {os.fsencode(path.relative_to(tree)): path.lstat().st_mtime_ns for path in tree.rglob("*")}


@pytest.mark.parametrize("seconds", [YEAR_2290, YEAR_1600, YEAR_300000])
def test_files_of_any_time_are_dumped_and_opened_and_found_unchanged(tmp_path, seconds):
    tree, chain = tmp_path / "tree", tmp_path / "chain"
    (tree / "folder").mkdir(parents=True)
    chain.mkdir()
    for number in range(5):
        (tree / f"f{number}").write_text("x" * number)
    (tree / "link").symlink_to("f1")
    os.mkfifo(tree / "fifo")
    os.link(tree / "f1", tree / "again")
    for path in [*tree.rglob("*"), tree]:
        os.utime(path, ns=(seconds * NS + 7, seconds * NS + 7), follow_symlinks=False)
    there = times(tree)
    if there[b"f1"] // NS != seconds:
        pytest.skip("this file system keeps no such time")
    peer = Peer(tmp_path / "agent").hurry()
    peer.declare("s", tree)
    if seconds < 0:
        time.sleep(2.1)  # what changed within 2 s of its dump is suspect, and may be so in one of the two only
    full = peer.dump()
    assert {path: row.mtime_ns for path, row in full.rows().items() if path != b"."} == there
    full.unpack(chain)
    assert times(chain) == there
    again = peer.dump(base=full)
    assert again.done["gone"] == 0 and set(again.rows()) <= set(full.rows())
    assert seconds > 0 or again.state == full.state  # what is of the future is suspect for ever
    # the server makes the same state of the index
    payloads = []
    fold.fold([lambda: iter(full.lines)], tmp_path, payloads.append)
    assert [one.raw for one in state.read(payloads)] == [one.raw for one in state.read(full.state)]
