"""The crew: a full made by several processes is the one that a single process makes, and none outlives the agent."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from agent_peer import Peer

from backupcore import wire
from backupcore.errors import SourceFailed, StowageError

_SPEC = importlib.util.spec_from_file_location("lab_tree", Path(__file__).parents[3] / "lab" / "tree.py")
lab = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(lab)
pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a crew needs two processors")


def processes(parent: int) -> list:
    return [int(one) for one in Path("/proc/%d/task/%d/children" % (parent, parent)).read_text().split()]


def is_gone(pid: int) -> bool:
    try:
        return Path("/proc/%d/stat" % pid).read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def big(tmp_path):
    """(peer, a tree whose dump fills all buffers when nobody reads it)."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(16):
        (tree / str(number)).write_bytes(random.Random(number).randbytes(8 << 20))
    peer = Peer(tmp_path / "agent").crowd()
    peer.declare("s", tree)
    yield peer
    shutil.rmtree(tree)


def test_a_full_of_many_batches_is_right_and_links_cross_them(tmp_path):
    tree, chain = tmp_path / "tree", tmp_path / "chain"
    chain.mkdir()
    dice = random.Random(7)
    seen = []
    for number in range(240):
        folder = tree / ("%03d" % number)
        folder.mkdir(parents=True)
        for name in range(dice.randrange(0, 30)):
            path = folder / ("f%d" % name)
            if seen and dice.random() < 0.2:
                os.link(dice.choice(seen), path)
            else:
                path.write_bytes(dice.randbytes(dice.choice((0, 5, 600, 5000, 70000))))
                seen.append(path)
    (tree / "100" / "large").write_bytes(dice.randbytes(9 << 20))
    (tree / "200" / "%s percent %d").write_text("%")
    peer = Peer(tmp_path / "agent").hurry()
    peer.declare("s", tree)
    time.sleep(0.15)
    got = peer.dump(part_size=1 << 22)
    assert [entry.path for entry in got.entries()] and got.done["entries"] == len(got.entries())
    assert sum(frame.flags & 1 for frame in got.frames) >= 2
    got.unpack(chain)
    assert lab.differences(lab.snapshot(tree), lab.snapshot(chain)) == []
    rows = got.rows()
    for path, row in rows.items():
        if row.kind == "h":
            assert rows[row.link].kind == "f" and rows[row.link].inode == row.inode, path
    assert sum(row.kind == "h" for row in rows.values()) > 300
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(every)})
    try:
        single = peer.dump(part_size=1 << 22)
    finally:
        os.sched_setaffinity(0, every)
    assert single.archive() == got.archive() and b"".join(single.lines) == b"".join(got.lines)
    assert {key: value for key, value in single.done.items() if key != "ended_ns"} == {
        key: value for key, value in got.done.items() if key != "ended_ns"
    }
    again = peer.dump(base=got)
    assert not again.lines


def test_a_killed_process_fails_the_dump_in_one_line(big):
    talk = big.start()
    talk.ask(talk.request("s", None))
    talk.channel.expect(wire.START)
    wait_for(lambda: len(processes(talk.process.pid)) == 2)
    for pid in processes(talk.process.pid):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(SourceFailed, match="ended before its time"):
        while True:
            talk.channel.expect(wire.FRAME, wire.INDEX, wire.STATE, wire.NOTE, wire.PROGRESS)
    assert talk.process.wait(60) == 1 and talk.process.stderr.read() == b""
    talk.end()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_the_agent(big, number):
    talk = big.start()
    talk.ask(talk.request("s", None))
    talk.channel.expect(wire.START)
    wait_for(lambda: len(processes(talk.process.pid)) == 2)
    crew = processes(talk.process.pid)
    time.sleep(0.3)
    talk.process.send_signal(number)
    talk.process.wait(60)
    wait_for(lambda: all(map(is_gone, crew)))
    with pytest.raises(StowageError):
        while True:
            talk.channel.expect(wire.FRAME, wire.INDEX, wire.STATE, wire.NOTE, wire.PROGRESS)
    talk.end()


def test_no_process_outlives_the_line(big):
    talk = big.start()
    talk.ask(talk.request("s", None))
    talk.channel.expect(wire.START)
    wait_for(lambda: len(processes(talk.process.pid)) == 2)
    crew = processes(talk.process.pid)
    talk.process.stdout.close()
    talk.process.stdin.close()
    assert talk.process.wait(60) == 1
    assert all(map(is_gone, crew))
    assert talk.process.stderr.read() == b""
    talk.process.stderr.close()
