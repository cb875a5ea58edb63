"""The scout of an incremental: it only ever spares the agent a look, whatever happens to it or to the tree."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from agent_peer import Peer

from backupcore import wire
from backupcore.agent.patterns import Exclude, Include
from backupcore.agent.scout import Scout, is_scouts
from backupcore.agent.walk import Plan
from backupcore.image import state

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a scout needs two processors")


@pytest.fixture
def peer(tmp_path):
    """Of a tree of 40 folders with 3 files each, in 4 folders, none of it young."""
    for number in range(40):
        folder = tmp_path / "tree" / str(number % 4) / str(number)
        folder.mkdir(parents=True)
        for name in "abc":
            (folder / name).write_text("%d %s" % (number, name))
    made = Peer(tmp_path / "agent").crowd()
    made.declare("s", tmp_path / "tree")
    time.sleep(0.15)
    return made


def found(path: Path, exclude=(), kill=False) -> dict:
    """What a scout says of each folder of a tree, asked in walk order."""
    scout = Scout(Plan(os.fsencode(path), Include(()), Exclude(exclude), True), [])
    try:
        if kill:
            os.kill(scout.pid, signal.SIGKILL)
        scout.go()
        paths = [b"."]
        for number in range(4):
            paths.append(b"%d" % number)
            paths += sorted(b"%d/%s" % (number, os.fsencode(one)) for one in os.listdir(path / str(number)))
        return {one: scout.seen(one).raw for one in paths}
    finally:
        scout.end()


def test_it_finds_what_the_base_has_in_its_half(peer, tmp_path):
    full = peer.dump()
    said = found(tmp_path / "tree")
    blocks = {block.path: block.raw for block in state.read(full.state)}
    assert {path: raw for path, raw in blocks.items() if is_scouts(path)} == {p: raw for p, raw in said.items() if raw}
    assert 10 < sum(map(is_scouts, blocks)) < 35


def test_it_says_nothing_of_folders_with_absent_names_and_nothing_when_it_died(peer, tmp_path):
    said = found(tmp_path / "tree", exclude=["b"])
    assert not any(said[path] for path in said if path.count(b"/") == 1)
    assert not any(found(tmp_path / "tree", kill=True).values())


@pytest.mark.parametrize("name", ["a", "new", "b"])
def test_a_change_in_any_folder_is_found(peer, tmp_path, name):
    full = peer.dump()
    changed = set()
    for folder in sorted((tmp_path / "tree").glob("*/*")):
        if name == "b":
            os.chmod(folder / "b", 0o600)  # only its ctime tells
        else:
            (folder / name).write_text("changed")
        changed.add(os.fsencode("%s/%s" % (folder.relative_to(tmp_path / "tree"), name)))
    got = peer.dump(base=full)
    assert {path for path, row in got.rows().items() if row.kind == "f"} == changed
    assert not {path for path, row in got.rows().items() if row.kind == "-"}


def test_folders_that_came_and_went_are_found(peer, tmp_path):
    full = peer.dump()
    for number in range(0, 40, 3):
        folder = tmp_path / "tree" / str(number % 4)
        os.rename(folder / str(number), folder / ("x%d" % number))
    got = peer.dump(base=full)
    kinds = [row.kind for row in got.entries() if row.path.count(b"/")]
    assert kinds.count("-") == kinds.count("d") + kinds.count("f") == 14 * 4
    (tmp_path / "chain").mkdir()
    full.unpack(tmp_path / "chain")
    got.unpack(tmp_path / "chain")
    here = sorted(path.relative_to(tmp_path / "tree") for path in (tmp_path / "tree").rglob("*"))
    assert here == sorted(path.relative_to(tmp_path / "chain") for path in (tmp_path / "chain").rglob("*"))


def test_nothing_changed_is_the_same_state(peer):
    full = peer.dump()
    got = peer.dump(base=full)
    assert not got.lines and got.state == full.state


def test_it_does_not_outlive_the_agent(peer):
    full = peer.dump()
    talk = peer.start()
    talk.ask(talk.request("s", full))
    talk.channel.send(wire.STATE, full.state[0])
    talk.channel.flush()
    end = time.monotonic() + 60
    children = []
    while len(children) != 1:  # then it waits for more state
        assert time.monotonic() < end
        time.sleep(0.02)
        children = Path("/proc/%d/task/%d/children" % (talk.process.pid, talk.process.pid)).read_text().split()
    talk.process.kill()
    talk.process.wait()
    while Path("/proc/%s/stat" % children[0]).exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    talk.end()


def deep(top: Path) -> list[Path]:
    """A tree that is divided by whole subtrees: folders of a, b, c six levels down; those of the lowest level."""
    lowest = [top]
    for _ in range(6):
        lowest = [folder / name for folder in lowest for name in "ab"]
    for folder in lowest:
        folder.mkdir(parents=True)
        (folder / "file").write_text(str(folder))
    return lowest


def test_below_some_folders_a_subtree_is_looked_at_by_one_of_both_as_a_whole(tmp_path):
    paths = [os.fsencode(folder.relative_to(tmp_path)) for folder in deep(tmp_path)]
    owners = {(path[:7], is_scouts(path)) for path in paths} | {(path[:7], is_scouts(path[:9])) for path in paths}
    assert len(owners) == len({path[:7] for path in paths})
    assert {owner for _path, owner in owners} == {True, False}
    assert not any(is_scouts(path[:7] + b"x") != is_scouts(path[:7] + b"x/y") for path in paths)


def test_changes_far_below_folders_that_were_passed_by_are_found(tmp_path):
    lowest = deep(tmp_path / "tree")
    made = Peer(tmp_path / "agent").crowd()
    made.declare("s", tmp_path / "tree")
    time.sleep(0.15)
    full = made.dump()
    unchanged = made.dump(base=full)
    assert not unchanged.rows() and unchanged.state == full.state
    touched, gone, new = lowest[::7], lowest[3::7], lowest[5::7]
    for folder in touched:
        (folder / "file").write_text("changed")
    for folder in gone:
        (folder / "file").unlink()
        folder.rmdir()
    for folder in new:
        (folder / "new" / "below").mkdir(parents=True)
        (folder / "new" / "below" / "file").write_text("new")

    def inside(folders, name):
        return {os.fsencode(folder.relative_to(tmp_path / "tree") / name) for folder in folders}

    rows = made.dump(base=full).rows()
    assert {path for path, row in rows.items() if row.kind == "f"} == inside(touched, "file") | inside(
        new, "new/below/file"
    )
    assert {path for path, row in rows.items() if row.kind == "-"} == inside(gone, "file") | inside(gone, "")


def test_what_did_not_change_comes_back_packed_as_it_was(peer, tmp_path):
    for number in range(400):
        (tmp_path / "tree" / "1" / ("name-%d" % number)).write_text("x")
    time.sleep(0.15)
    full = peer.dump(compress="gzip:9")
    assert any(len(state.unpack(payload)) >= state.LEAST for payload in full.state)
    again = peer.dump(base=full, compress="none")
    assert again.done["changed"] == 0
    assert [one for one in again.state if one[:2] == b"\x1f\x8b"] == [
        one for one in full.state if len(state.unpack(one)) >= state.LEAST
    ]
