"""Dumps of segments: each path in one of them; unpacked by GNU tar in the order of time they are the tree."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from pathlib import Path

import pytest
from agent_peer import Peer

from backupcore.agent.segment import ALL, NONE, PART, Segment
from backupcore.errors import StowageError

_SPEC = importlib.util.spec_from_file_location("lab_tree", Path(__file__).parents[3] / "lab" / "tree.py")
lab = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(lab)

CUT = {"s1": ["home/ann", "www"], "s2": ["home/bob", "home/none"]}
REQUESTS = {name: {"folders": folders, "rest": False} for name, folders in CUT.items()}
REQUESTS["rest"] = {"folders": sorted(path for folders in CUT.values() for path in folders), "rest": True}


@pytest.fixture
def peer(tmp_path):
    tree = tmp_path / "tree"
    for name in ("home/ann/docs", "home/bob/mail/old", "www/site", "etc", "home/carl"):
        (tree / name).mkdir(parents=True)
        (tree / name / "file").write_text(name)
    (tree / "top").write_text("top")
    (tree / "home" / "readme").write_text("read me")
    os.symlink("../ann/docs", tree / "home/bob/link")
    peer = Peer(tmp_path / "agent").hurry()
    peer.declare("s", tree)
    time.sleep(0.2)
    return peer


def dump(peer, bases=None):
    return {
        name: peer.dump(base=None if bases is None else bases[name], segment=request)
        for name, request in REQUESTS.items()
    }


def test_each_path_is_in_one_segment_and_others_are_told(peer):
    whole, parts = peer.dump(), dump(peer)
    ways = {b".", b"home"}
    own = {
        name: {path for path, row in got.rows().items() if row.kind != "n" and (name == "rest" or path not in ways)}
        for name, got in parts.items()
    }
    assert sorted(path for paths in own.values() for path in paths) == sorted(whole.rows())
    assert b"home/ann/docs/file" in own["s1"] and b"home/bob/link" in own["s2"] and b"home/carl/file" in own["rest"]
    told = {path: row.link for path, row in parts["s1"].rows().items() if row.kind == "n"}
    assert set(told) == {b"etc", b"top", b"home/bob", b"home/carl", b"home/readme"}
    assert set(told.values()) == {b"segment"}
    assert {path for path, row in parts["rest"].rows().items() if row.kind == "n"} == {b"www", b"home/ann", b"home/bob"}
    assert parts["s1"].start["segment"] == REQUESTS["s1"] and "segment" not in whole.start
    talk = peer.start()
    try:
        assert talk.greet()["segments"] is True
    finally:
        talk.end()


def test_nights_of_segments_unpacked_in_the_order_of_time_are_the_tree(peer, tmp_path):
    tree = tmp_path / "tree"
    fulls = dump(peer)
    time.sleep(0.2)
    (tree / "www/site/file").write_text("changed")
    shutil.move(tree / "home/ann/docs", tree / "home/bob/docs")  # across the cut
    (tree / "home/new").mkdir()  # nobody's: the rest has it
    (tree / "home/new/file").write_text("new")
    (tree / "home/none").mkdir()  # came after the cut was made
    (tree / "home/none/file").write_text("late")
    (tree / "top").unlink()
    shutil.rmtree(tree / "home/carl")
    time.sleep(0.2)
    first = dump(peer, fulls)
    time.sleep(0.2)
    shutil.rmtree(tree / "www")  # a folder of a segment goes, and comes back as a file
    (tree / "www").write_text("a file")
    shutil.rmtree(tree / "home/none")
    (tree / "etc/more").write_text("more")
    time.sleep(0.2)
    second = dump(peer, first)
    kinds = [(row.kind, row.link) for row in second["s1"].entries() if row.path == b"www"]
    assert kinds == [("f", b""), ("-", b"d")]
    assert (b"www", "n", b"segment") in [(row.path, row.kind, row.link) for row in second["rest"].entries()]
    for order in (("s1", "s2", "rest"), ("rest", "s2", "s1")):
        into = tmp_path / "-".join(order)
        into.mkdir()
        for night in (fulls, first, second):
            for name in order:
                night[name].unpack(into)
        assert not lab.differences(lab.snapshot(tree), lab.snapshot(into)), order
    # a full of one of them in the middle of the others' nights
    middle = {"s2": peer.dump(segment=REQUESTS["s2"])}
    into = tmp_path / "middle"
    into.mkdir()
    for got in (fulls["s1"], fulls["rest"], first["s1"], first["rest"], second["rest"], second["s1"], middle["s2"]):
        got.unpack(into)
    assert not lab.differences(lab.snapshot(tree), lab.snapshot(into))


def test_unchanged_segments_hold_nothing(peer):
    fulls = dump(peer)
    again = dump(peer, fulls)
    assert all(not got.entries() and got.done["changed"] == 0 for got in again.values())


def test_files_with_several_names_are_marked_in_segments_only(peer, tmp_path):
    tree = tmp_path / "tree"
    os.link(tree / "www/site/file", tree / "home/bob/name")
    time.sleep(0.2)
    parts, whole = dump(peer), peer.dump()
    rows = [parts["s1"].rows()[b"www/site/file"], parts["s2"].rows()[b"home/bob/name"]]
    assert [row.flags for row in rows] == ["x", "x"] and rows[0].inode == rows[1].inode
    assert parts["rest"].rows()[b"top"].flags == ""
    assert not any(row.flags for row in whole.entries())


def test_segments_compose_with_patterns(tmp_path, peer):
    peer.declare("s", tmp_path / "tree", exclude=["docs", "home/bob"], include=["home", "www"])
    rows = peer.dump(segment=REQUESTS["s1"]).rows()
    assert rows[b"home/ann/docs"].link == b"excluded" and rows[b"etc"].link == b"segment" and rows[b"www"].kind == "d"
    rows = peer.dump(segment=REQUESTS["rest"]).rows()
    assert rows[b"etc"].link == b"excluded" and rows[b"home/bob"].link == b"segment" and rows[b"home/carl"].kind == "d"


@pytest.mark.parametrize(
    "value",
    [
        1, [], {}, {"folders": [], "rest": True}, {"folders": ["a"]}, {"folders": "a", "rest": True},
        {"folders": [1], "rest": True}, {"folders": ["../a"], "rest": True}, {"folders": ["/a"], "rest": False},
        {"folders": ["."], "rest": False}, {"folders": ["a", "a/b"], "rest": False}, {"folders": ["a/"], "rest": True},
        {"folders": ["a\0"], "rest": True}, {"folders": ["\ud800"], "rest": True},
        {"folders": [f"f{n}" for n in range(10001)], "rest": True}, {"folders": ["a"], "rest": 1},
    ],
)  # fmt: skip
def test_what_is_no_segment_is_refused(peer, value):
    with pytest.raises(StowageError, match="no right segment"):
        peer.dump(segment=value)


def test_what_a_folder_holds():
    one, rest = Segment([b"a/b", b"c"], False), Segment([b"a/b", b"c"], True)
    assert [one.has(path) for path in (b".", b"a", b"a/b", b"c", b"d")] == [PART, PART, ALL, ALL, NONE]
    assert [rest.has(path) for path in (b".", b"a", b"a/b", b"c", b"d")] == [PART, PART, NONE, NONE, ALL]
    assert one.is_out(b"a", False) and not one.is_out(b"a", True) and not one.is_out(b"c", False)
    assert not rest.is_out(b"a", False) and rest.is_out(b"c", False) and not rest.is_out(b"d", True)
