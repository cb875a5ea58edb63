"""A drill on the client restores into the scratch folder, reads all of it again, and leaves nothing there."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backupcore.agent import drill
from backupcore.errors import AgentRefused, RequestError, WireError

sys.path.insert(0, str(Path(__file__).resolve().parents[4] / "tests" / "lab"))
import packing  # noqa: E402
import tree  # noqa: E402


def run(messages, config, workers=0, **request):
    return packing.restore(messages, config, workers, **request)


def packed(path, data):
    (path / "deep" / "er").mkdir(parents=True)
    for number, content in enumerate(data):
        (path / "deep" / "er" / f"f{number}").write_bytes(content)
    (path / "link").symlink_to("/etc/passwd")
    return packing.messages(*packing.pack(path))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_drill_tells_the_digests_of_what_is_on_the_disk_and_takes_it_away(tmp_path, workers):
    data = [b"one", b"two" * 1000, b"", os.urandom(3 << 20)]
    messages = packed(tmp_path / "tree", data)
    scratch = tmp_path / "scratch"
    done, notes = run(messages, {"scratch": str(scratch)}, workers, destination=None, drill=4 << 20)
    assert done["files"] == 4 and done["failed"] == 0 and not notes
    told = done["drill"]
    assert told["files"] == 4 and told["bytes"] == sum(map(len, data)) and told["removed"] is True
    assert told["digests"] == sorted(hashlib.sha256(one).hexdigest() for one in data)
    assert os.listdir(scratch) == ["drill"] and os.listdir(scratch / "drill") == []


def test_a_restore_that_is_no_drill_stays(tmp_path):
    messages = packed(tmp_path / "tree", [b"one"])
    done, _notes = run(messages, {"scratch": str(tmp_path / "scratch")}, destination=None, name="dump")
    assert "drill" not in done and (tmp_path / "scratch" / "dump" / "deep" / "er" / "f0").read_bytes() == b"one"


@pytest.mark.slow
def test_a_hostile_tree_leaves_nothing_and_nothing_outside_is_touched(tmp_path):
    tree.make_hostile_tree(tmp_path / "tree")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    before = tree.snapshot(tmp_path / "tree")
    scratch = tmp_path / "scratch"
    messages = packing.messages(*packing.pack(tmp_path / "tree"))
    done, _notes = run(messages, {"scratch": str(scratch)}, destination=None, drill=1 << 20)
    assert done["drill"]["files"] > 3 and os.listdir(scratch / "drill") == []
    assert tree.snapshot(tmp_path / "tree") == before and (outside / "mine").read_text() == "mine"


def test_what_a_killed_drill_left_goes_first(tmp_path):
    messages = packed(tmp_path / "tree", [b"one"])
    left = tmp_path / "scratch" / "drill" / "deep"
    left.mkdir(parents=True, mode=0o700)
    for path in (tmp_path / "scratch", tmp_path / "scratch" / "drill"):
        path.chmod(0o700)
    (left / "old").write_text("old")
    (left / "out").symlink_to(tmp_path / "tree")
    done, notes = run(messages, {"scratch": str(tmp_path / "scratch")}, destination=None, drill=3)
    assert done["drill"]["files"] == 1 and not notes
    assert os.listdir(tmp_path / "scratch" / "drill") == [] and (tmp_path / "tree" / "deep").exists()


def test_a_cut_drill_leaves_nothing(tmp_path):
    messages = packed(tmp_path / "tree", [b"small", os.urandom(1_000_000)])
    with pytest.raises(WireError):
        run(messages[:700_000], {"scratch": str(tmp_path / "scratch")}, destination=None, drill=100_000)
    assert os.listdir(tmp_path / "scratch" / "drill") == []


def test_content_with_another_digest_is_not_among_those_told(tmp_path):
    data, digests = packing.pack(_one(tmp_path / "tree", b"right"))
    messages = packing.messages(data, [hashlib.sha256(b"wrong").digest()])
    done, notes = run(messages, {"scratch": str(tmp_path / "scratch")}, destination=None, drill=5)
    assert done["failed"] == 1 and len(notes) == 1 and digests[0].hex() not in done["drill"]["digests"]


def _one(path, data):
    path.mkdir()
    (path / "f").write_bytes(data)
    return path


def test_one_drill_at_a_time(tmp_path):
    messages = packed(tmp_path / "tree", [b"one"])
    folder = tmp_path / "scratch" / "drill"
    folder.mkdir(parents=True)
    (tmp_path / "scratch").chmod(0o700)
    folder.chmod(0o700)
    (folder / "of the other").write_text("x")
    held = os.open(folder, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        with pytest.raises(AgentRefused, match="another drill"):
            run(messages, {"scratch": str(tmp_path / "scratch")}, destination=None, drill=3)
    finally:
        os.close(held)
    assert (folder / "of the other").exists()


def test_a_drill_asks_for_room_first(tmp_path):
    messages = packed(tmp_path / "tree", [b"one"])
    with pytest.raises(AgentRefused, match="no room"):
        run(messages, {"scratch": str(tmp_path / "scratch")}, destination=None, drill=1 << 60)
    assert os.listdir(tmp_path / "scratch" / "drill") == []


def test_a_drill_writes_nowhere_but_in_scratch_or_an_empty_folder(tmp_path):
    messages = packed(tmp_path / "tree", [b"one"])
    with pytest.raises(AgentRefused, match="scratch folder and nowhere else"):
        run(messages, {"scratch": str(tmp_path / "s")}, destination="/etc", permit="p", drill=3)
    full = _one(tmp_path / "full", b"mine")
    with pytest.raises(AgentRefused, match="not empty"):
        run(messages, {"to": str(full)}, drill=3)
    assert (full / "f").read_bytes() == b"mine"
    done, _notes = run(messages, {"to": str(tmp_path / "new")}, drill=3)
    assert done["drill"]["files"] == 1 and os.listdir(tmp_path / "new") == []


@pytest.mark.parametrize("value", [-1, "1", True, 1.5, []])
def test_a_drill_that_is_no_number_is_refused(tmp_path, value):
    with pytest.raises(RequestError):
        run(packing.messages(b"", []), {"scratch": str(tmp_path / "s")}, destination=None, drill=value)


def test_without_root_what_forbids_its_owner_goes_too(tmp_path):
    folder = tmp_path / "shut" / "in"
    folder.mkdir(parents=True)
    (folder / "f").write_bytes(b"secret")
    (folder / "f").chmod(0)
    folder.chmod(0)
    subprocess.check_call(["chown", "-R", "65534:65534", tmp_path / "shut"])
    program = (
        "import os, sys, json; sys.path.insert(0, sys.argv[1]); from backupcore.agent import drill\n"
        "os.chdir(sys.argv[2]); os.setgid(65534); os.setuid(65534)\n"
        "found = set(); print(json.dumps([drill.take_away(os.open('.', os.O_RDONLY), found), sorted(found)]))"
    )
    root = str(Path(drill.__file__).parents[2])
    out = subprocess.check_output([sys.executable, "-c", program, root, str(tmp_path / "shut")])
    assert hashlib.sha256(b"secret").hexdigest().encode() in out and b"[1, 6]" in out
    assert os.listdir(tmp_path / "shut") == []


def test_more_files_than_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(drill, "DIGESTS", 2)
    messages = packed(tmp_path / "tree", [b"1", b"2", b"3"])
    done, _notes = run(messages, {"scratch": str(tmp_path / "s")}, destination=None, drill=3)
    assert done["drill"]["files"] == 3 and len(done["drill"]["digests"]) == 2


