"""Notes of those who read: seen while they live, gone with them, whatever they leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from backupcore.catalog import reading

ROOT = Path(__file__).parents[4]
READER = """
import sys, pathlib
from backupcore.catalog import reading
with reading.keep(pathlib.Path(sys.argv[1]), ["one", "two"], "stowage drill") as why:
    print(why, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def reader(tmp_path):
    words = [sys.executable, "-c", READER, str(tmp_path)]
    child = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"\n"
    yield child
    child.kill()
    child.communicate()


def notes(state):
    return os.listdir(state / "reading")


def test_what_another_process_reads_is_known_until_it_ends(tmp_path, reader):
    found = reading.now(tmp_path)
    assert set(found) == {"one", "two"}
    assert found["one"].startswith(f"stowage drill (process {reader.pid}, since 2")
    reader.communicate()
    assert reading.now(tmp_path) == {} and notes(tmp_path) == []


def test_what_a_killed_one_left_keeps_nothing_and_is_taken_away(tmp_path, reader):
    reader.send_signal(signal.SIGKILL)
    reader.wait()
    (left,) = notes(tmp_path)
    hidden = tmp_path / "reading" / f".{left}"  # it was killed while it made one
    hidden.write_text("half")
    (tmp_path / "reading" / "what is this").write_text("")
    (tmp_path / "reading" / ".and this").write_text("")
    assert reading.now(tmp_path) == {} and notes(tmp_path) == [".and this"]


def test_two_of_one_process_keep_each_their_own(tmp_path):
    with reading.keep(tmp_path, ["one"], "a"), reading.keep(tmp_path, ["two"], "b\n\x1b"):
        found = reading.now(tmp_path)
        assert set(found) == {"one", "two"} and "\x1b" not in found["two"] and "\n" not in found["two"]
    with reading.keep(tmp_path, ["one"], "a"):
        assert set(reading.now(tmp_path)) == {"one"}
    assert reading.now(tmp_path) == {} and notes(tmp_path) == []


def test_a_forked_child_keeps_nothing_when_its_parent_is_gone(tmp_path):
    wait, go = os.pipe()
    begun, told = os.pipe()
    middle = os.fork()
    if not middle:
        with reading.keep(tmp_path, ["one"], "a"):
            if not os.fork():
                os.close(go)
                os.write(told, b"!")
                os.read(wait, 1)
                os._exit(0)
            os.read(begun, 1)  # it has begun, and forgotten
            os._exit(0)
    for fd in (wait, begun, told):
        os.close(fd)
    os.waitpid(middle, 0)
    try:
        assert notes(tmp_path) and reading.now(tmp_path) == {} and notes(tmp_path) == []
    finally:
        os.close(go)


def test_a_note_that_cannot_be_written_is_told_and_nothing_stops(tmp_path):
    (tmp_path / "reading").write_text("no folder")
    with reading.keep(tmp_path, ["one"], "a") as why:
        assert why.startswith(f"what is read may be pruned meanwhile: {tmp_path}/reading cannot be written: ")
    assert reading.now(tmp_path) == {}
