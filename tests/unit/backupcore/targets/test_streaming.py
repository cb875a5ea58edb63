"""Streams of all drivers: what a killed process leaves is found by its note, however young; patience; upload parts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from backupcore.hookspecs import TargetContext, TargetError

from backupcore.targets import _streaming
from backupcore.targets._s3_client import LARGEST_PART, MIB
from backupcore.targets._s3_stream import MOST_BYTES, part_size_at
from backupcore.targets._s3_upload import MOST_PARTS
from backupcore.targets.command import CommandOptions, CommandTarget
from backupcore.targets.directory import DirectoryOptions, DirectoryTarget

SERVER = "0123456789abcdef"
ROOT = Path(__file__).parents[4]
STORE = """#!/bin/sh
set -eu
cd "$1"; verb=$2; shift 2
case $verb in
put) mkdir -p "$(dirname "./$1")"; cat > "./$1" ;;
get) exec cat "./$1" ;;
list) find . -type f -printf '%s\\t%T@\\t%P\\n' ;;
delete) rm "./$1" ;;
move) mkdir -p "$(dirname "./$2")"; mv -- "./$1" "./$2" ;;
esac
"""
DIES = """
import os, sys
sys.path[:0] = [{tests!r}]
import test_streaming
target = getattr(test_streaming, {kind!r})(__import__("pathlib").Path({folder!r}))
stream = target.stream("web1/etc/dump/image-0000.tar.zst")
stream.write(b"x" * 300_000)
print("written", flush=True)
sys.stdin.read()
"""


def directory(tmp_path):
    return DirectoryTarget(DirectoryOptions(path=tmp_path / "nas"), TargetContext("nas", SERVER, tmp_path / "state"))


def command(tmp_path):
    script, place = tmp_path / "store.sh", tmp_path / "place"
    place.mkdir(exist_ok=True)
    if not script.exists():
        script.write_text(STORE)
        script.chmod(0o755)
    to = [str(script), str(place)]
    verbs = {verb: [*to, verb, "{name}"] for verb in ("put", "get", "delete")}
    options = CommandOptions(**verbs, list=[*to, "list"], move=[*to, "move", "{from}", "{to}"])
    return CommandTarget(options, TargetContext("cmd", SERVER, tmp_path / "state"))


def test_the_first_note_lasts_with_the_folders_it_is_in(tmp_path, monkeypatch):
    synced, real = [], _streaming.files.sync_folder
    monkeypatch.setattr(_streaming.files, "sync_folder", lambda path: (synced.append(os.fspath(path)), real(path)))
    folder = tmp_path / "state" / "targets" / "nas"
    for _again in range(2):
        _streaming.Note(folder, {}).close()
    once = [folder / "streams", folder, folder.parent, folder.parent.parent]
    assert synced[:4] == [str(one) for one in once] and synced[4:] == [str(folder / "streams")] * 4


@pytest.mark.parametrize("kind", ["directory", "command"])
def test_what_a_killed_process_left_is_removed_however_young_and_nothing_else(tmp_path, kind):
    target = globals()[kind](tmp_path)
    mine = target.stream("web1/etc/other/image-0000.tar.zst")
    mine.write(b"y" * 1000)
    code = DIES.format(tests=str(Path(__file__).parent), kind=kind, folder=str(tmp_path))
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert child.stdout.readline() == b"written\n"
    assert target.clean(0) == 0, "somebody is at it"
    os.kill(child.pid, 9)
    child.communicate()
    assert len(list((tmp_path / "state" / "streams").glob("*.json"))) == 2
    assert target.clean(0) == 1
    (note,) = (tmp_path / "state" / "streams").glob("*.json")
    assert json.loads(note.read_bytes())["temporary"]
    mine.write(b"y")
    mine.abort()
    assert list((tmp_path / "state" / "streams").iterdir()) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file() and "incoming" in path.parts] == []


def test_a_stream_that_cannot_be_removed_now_is_left_to_clean(tmp_path):
    target = directory(tmp_path)
    note = _streaming.Note(tmp_path / "state", {"temporary": "x" * 16})
    note.close(keep=True)
    other = _streaming.Note(tmp_path / "state", {"temporary": "y" * 16})
    assert [facts["temporary"] for _path, facts in _streaming.left(tmp_path / "state")] == ["x" * 16]
    other.close()
    target.put("name", tmp_path / "state" / "streams" / note.path.name)
    target.clean(0)
    assert list(_streaming.left(tmp_path / "state")) == []


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{"])
def test_a_note_that_was_cut_is_no_harm(tmp_path, content):
    (tmp_path / "streams").mkdir()
    (tmp_path / "streams" / "a.json").write_bytes(content)
    assert list(_streaming.left(tmp_path)) == []


@pytest.mark.parametrize("wanted", [5 * MIB, 16 * MIB, 64 * MIB])
def test_ten_thousand_upload_parts_reach_five_tebibytes(wanted):
    sizes = [part_size_at(number, wanted) for number in range(1, MOST_PARTS + 1)]
    assert sum(sizes) >= MOST_BYTES
    assert sizes == sorted(sizes) and sizes[0] == wanted and sizes[-1] <= LARGEST_PART
    assert all(size % MIB == 0 for size in sizes)
    # of one size for all parts of an image that are as large as they are by default: some places take no others
    assert sizes[4 * 1024**3 // wanted - 1] == wanted


def test_patience_ends_when_nothing_gets_there(monkeypatch):
    now, slept = [0.0], []
    monkeypatch.setattr(_streaming.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(
        _streaming.time, "sleep", lambda seconds: (slept.append(seconds), now.__setitem__(0, now[0] + seconds))
    )
    patience, busy = _streaming.Patience(None), TargetError("busy", "", True)
    for _ in range(3):
        patience.again(busy)
    assert now[0] == pytest.approx(0.5 + 1 + 2)
    patience.worked()
    with pytest.raises(TargetError, match="busy"):
        for _ in range(1000):
            patience.again(busy)
    assert _streaming.PATIENCE <= now[0] <= _streaming.PATIENCE + 2 * _streaming.LONGEST_PAUSE + 10
    assert max(slept) <= _streaming.STEP, "who ends a dump does not wait long"
    with pytest.raises(TargetError, match="denied"):
        patience.again(TargetError("denied"))


def test_patience_is_ended_by_its_pace():
    class Stopped(BaseException):
        pass

    def pace(_count):
        raise Stopped

    with pytest.raises(Stopped):
        _streaming.Patience(pace).again(TargetError("busy", "", True))
