"""The audit log as a file: what is in it stays, whoever is killed or writes too, however full the disk."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess

import pytest

from backupcore.audit import chain, log
from backupcore.errors import AuditFailed

WHO = {"uid": 0, "user": "root"}


def put(state, number=1, **more):
    return log.append(state, log.ONCE, "restore", {"number": number}, WHO, **more)


def whole(state):
    found = chain.check(state, [])
    assert found.broken is None, found.broken
    return found


def test_a_line_holds_the_digest_of_the_line_before_it(tmp_path):
    for number in range(3):
        put(tmp_path, number)
    lines = log.log_file(tmp_path).read_bytes().splitlines(keepends=True)
    before = b""
    for number, line in enumerate(lines, 1):
        plain = json.loads(line)
        assert (plain["seq"], plain["before"]) == (number, hashlib.sha256(before).hexdigest())
        before = line
    assert log.head(tmp_path) == log.Head(3, hashlib.sha256(before).hexdigest())
    assert log.log_file(tmp_path).stat().st_mode & 0o777 == 0o600


def test_no_log_is_an_empty_one(tmp_path):
    assert (log.head(tmp_path), log.last(tmp_path), list(log.entries(tmp_path))) == (log.Head(), None, [])
    assert whole(tmp_path).entries == 0


def _many(state, name, count):
    for number in range(count):
        log.append(state, log.ONCE, "hold", {"by": name, "number": number}, WHO)


def test_two_writers_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_many, args=(tmp_path, name, 25)) for name in "abc"]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
        assert one.exitcode == 0
    assert whole(tmp_path).entries == 75
    found = [(one.what["by"], one.what["number"]) for one in log.entries(tmp_path)]
    assert sorted(found) == [(name, number) for name in "abc" for number in range(25)]
    for name in "abc":
        assert [number for by, number in found if by == name] == list(range(25))


STEPS = ("open", "flock", "pread", "half a write", "write", "fsync", "return")


def _killed_at(state, step):
    """In a child: an entry that a kill ends at that step."""

    def die(*_args, **_more):
        os.kill(os.getpid(), signal.SIGKILL)

    if step == "flock":
        log.fcntl.flock = die
    elif step == "half a write":

        def half(fd, data):
            os.write(fd, bytes(data)[: len(data) // 2])
            die()

        log.files.write_all = half
    elif step == "write":
        real = log.files.write_all
        log.files.write_all = lambda fd, data: (real(fd, data), die())
    elif step == "return":
        put(state, 99)
        die()
    else:
        setattr(log.os, step, die)
    put(state, 99)


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_leaves_a_log_that_goes_on(tmp_path, step):
    put(tmp_path, 1)
    before = log.log_file(tmp_path).read_bytes()
    child = multiprocessing.get_context("fork").Process(target=_killed_at, args=(tmp_path, step))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert log.log_file(tmp_path).read_bytes().startswith(before), "what was there is as it was"
    whole(tmp_path)
    put(tmp_path, 2)
    found = whole(tmp_path)
    kept = step in ("write", "fsync", "return")
    assert [one.what["number"] for one in log.entries(tmp_path)] == ([1, 99, 2] if kept else [1, 2])
    assert found.torn == ([2] if step == "half a write" else [])


@pytest.mark.parametrize("rest", [b"\0" * 4096, b"\0" * 100 + b"\n", b'{"seq":2', b"\n\n\n"])
def test_what_a_power_cut_leaves_is_covered_by_the_next_entry(tmp_path, rest):
    put(tmp_path, 1)
    with open(log.log_file(tmp_path), "ab") as stream:
        stream.write(rest)
    put(tmp_path, 2)
    assert whole(tmp_path).entries == 2
    spoiled = log.log_file(tmp_path).read_bytes().replace(rest[:1] + rest[1:2], rest[:1] + b"x" * len(rest[1:2]), 1)
    log.log_file(tmp_path).write_bytes(spoiled)
    assert chain.check(tmp_path, []).broken is not None


def test_a_log_that_begins_with_a_torn_line_goes_on(tmp_path):
    log.log_file(tmp_path).write_bytes(b'{"seq":1,"wh')
    put(tmp_path)
    assert whole(tmp_path).entries == 1 and whole(tmp_path).torn == [1]


def test_a_full_disk_is_said_and_nothing_half_is_left(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)], check=True)
    try:
        put(place, 1)
        before = log.log_file(place).read_bytes()
        with open(place / "filler", "wb", buffering=0) as stream, pytest.raises(OSError, match="No space"):
            while True:
                stream.write(b"x" * 4096)
        long = {str(number): "x" * 300 for number in range(30)}  # more than what is left of the file's last page
        with pytest.raises(AuditFailed, match="No space left"):
            log.append(place, log.ONCE, "prune", long, WHO)
        assert log.log_file(place).read_bytes() == before
        os.unlink(place / "filler")
        put(place, 2)
        assert whole(place).entries == 2 and not whole(place).torn
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_log_may_be_append_only_for_the_file_system(tmp_path):
    put(tmp_path, 1)
    path = log.log_file(tmp_path)
    if subprocess.run(["chattr", "+a", str(path)], capture_output=True).returncode:
        pytest.skip("this file system knows no append-only files")
    try:
        put(tmp_path, 2)
    finally:
        subprocess.run(["chattr", "-a", str(path)], check=True)
    assert whole(tmp_path).entries == 2


def test_texts_and_lists_without_end_are_cut_and_hostile_ones_stay_one_line(tmp_path):
    what = {"words": ["x\n" * 10000] * 5000, "why": "\ud800\u2028\x1b[2J", "number": 7, "none": None}
    entry = log.append(tmp_path, log.ONCE, "hold", what, WHO)
    assert entry.end - entry.at <= log.LONGEST
    huge = {f"key {number}": "y" * 400 for number in range(500)}
    assert set(log.append(tmp_path, log.ONCE, "hold", huge, WHO).what) == {"cut"}
    assert whole(tmp_path).entries == 2
    data = log.log_file(tmp_path).read_bytes()
    assert data.count(b"\n") == 2 and data.isascii() and b"\x1b" not in data


def test_a_link_or_a_pipe_in_the_place_of_the_log_is_refused(tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"")
    os.symlink(tmp_path / "elsewhere", log.log_file(tmp_path))
    with pytest.raises(AuditFailed):
        put(tmp_path)
    assert (tmp_path / "elsewhere").read_bytes() == b""
    os.unlink(log.log_file(tmp_path))
    os.mkfifo(log.log_file(tmp_path))
    with pytest.raises(AuditFailed, match="no file"):
        put(tmp_path)
    with pytest.raises(AuditFailed, match="no file"):
        chain.check(tmp_path, [])


def test_one_that_holds_the_log_for_ever_stops_nobody_for_ever(tmp_path, monkeypatch):
    put(tmp_path)
    monkeypatch.setattr(log, "WAIT", 0.1)
    with open(log.log_file(tmp_path), "rb") as stream:
        log.fcntl.flock(stream, log.fcntl.LOCK_EX)
        with pytest.raises(AuditFailed, match="another process"):
            put(tmp_path)
    put(tmp_path)
    assert whole(tmp_path).entries == 2


def test_an_end_far_behind_the_last_entry_is_not_guessed_over(tmp_path):
    put(tmp_path)
    with open(log.log_file(tmp_path), "ab") as stream:
        stream.write(b"\0" * (log.BACK + 2 * log.LONGEST))
    with pytest.raises(AuditFailed, match="audit verify"):
        put(tmp_path)


def test_who_writes_as_root_leaves_the_log_to_the_owner_of_the_state(tmp_path):
    os.chown(tmp_path, 12345, 12346)
    put(tmp_path)
    found = log.log_file(tmp_path).stat()
    assert (found.st_uid, found.st_gid) == (12345, 12346)


def test_where_the_state_is_roots_the_log_goes_to_the_owner_of_the_catalog(tmp_path):
    (tmp_path / "catalog.sqlite").touch()
    os.chown(tmp_path / "catalog.sqlite", 12345, 12346)
    put(tmp_path)
    found = log.log_file(tmp_path).stat()
    assert (found.st_uid, found.st_gid) == (12345, 12346)
