"""Temporary files of processes that were killed: they go at the next look, those of the living stay."""

from __future__ import annotations

import os
import subprocess
import sys

from backupcore import files
from backupcore.dump import runlock
from backupcore.settings import Settings

CODE = """
import os, signal, sys
from backupcore import files
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
files.replace(sys.argv[1], b"new")
"""


def test_what_a_killed_process_was_about_to_rename_goes(tmp_path):
    place = tmp_path / "planner.json"
    files.replace(place, b"old")
    done = subprocess.run([sys.executable, "-c", CODE, place], check=False)
    assert done.returncode == -9 and len(os.listdir(tmp_path)) == 2
    (removed,) = files.clear_killed(tmp_path)
    assert removed.startswith(str(place) + ".") and place.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["planner.json"] and files.clear_killed(tmp_path) == []


def test_what_a_living_process_is_about_to_rename_stays(tmp_path, monkeypatch):
    seen = []
    real = os.replace

    def looked(source, dest):
        seen.append(files.clear_killed(tmp_path))
        real(source, dest)

    monkeypatch.setattr(os, "replace", looked)
    files.replace(tmp_path / "a", b"new")
    assert seen == [[]] and (tmp_path / "a").read_bytes() == b"new"


def test_others_files_stay_and_so_do_other_names(tmp_path):
    names = {"a.tmp", "a.12.tmp", "a.4194305-0123abcd.tmp.x", "a.4194305-0123ABCD.tmp", "b.4194305-0123abcd.tmp"}
    for name in names:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.4194305-0123abcd.tmp").mkdir()
    assert files.clear_killed(tmp_path, "a.") == [] and files.clear_killed(tmp_path / "none") == []
    assert [os.path.basename(one) for one in files.clear_killed(tmp_path)] == ["b.4194305-0123abcd.tmp"]
    assert (tmp_path / "folder.4194305-0123abcd.tmp").is_dir()


def test_whoever_takes_the_lock_clears_what_was_left_in_the_state_folder(tmp_path):
    state = tmp_path / "state"
    left = [state / name for name in ("planner.json", "runs/1.json", "targets/nas/marker", "keys/signing.pub")]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / f"{path.name}.4194305-0123abcd.tmp").write_bytes(b"half")
    settings = Settings(
        file=tmp_path / "stowage.yml", state=state, keys=state / "keys", holding=(), cycle_days=7, targets={},
        policies={}, clients={},
    )  # fmt: skip
    with runlock.hold(settings):
        assert list(state.rglob("*.tmp")) == []


def test_a_server_id_that_was_being_made_is_cleared_by_whoever_takes_the_lock(tmp_path):
    code = """
import os, pathlib, signal, sys
from backupcore.catalog import places
os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
places.server_id(pathlib.Path(sys.argv[1]))
"""
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == -9
    assert [one.partition(".")[0] for one in os.listdir(tmp_path)] == ["server-id"]
    assert len(files.clear_killed(tmp_path)) == 1 and os.listdir(tmp_path) == []


def test_a_folder_that_lasts_is_synced_with_what_it_is_in(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync_folder", lambda path: synced.append(os.fspath(path)))
    for _again in range(2):
        files.make_lasting(tmp_path / "a" / "b" / "c")
    assert synced == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a/b")]
    assert (tmp_path / "a/b/c").is_dir() and os.stat(tmp_path / "a/b/c").st_mode & 0o777 == 0o700
