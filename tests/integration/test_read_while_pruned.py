"""What a restore reads is not pruned from under it, as long as it lives; killed, it keeps nothing."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cli_lab import Server

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="an agent as root")
SIZE = 12 << 20
WITHIN = 60.0


@pytest.fixture
def server(tmp_path):
    base = tmp_path / "server"
    base.mkdir()
    (base / "nas").mkdir()
    made = Server(base)
    made.write(
        targets={"nas": {"type": "directory", "path": str(base / "nas")}},
        policies={"p": {"copies": [{"target": "nas", "keep": {"last": 1}}], "keep_on_holding": 0}},
        prune={"grace": 0}, drill={"nightly": False}, verify={"night": 0},
    )  # fmt: skip
    yield made
    made.close()


@pytest.fixture
def reader(server, tmp_path):
    """A restore of the first of two fulls that has begun, and waits until somebody takes what it gives."""
    content = random.Random(5).randbytes(SIZE)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(content)
    server.client("web1", {"data": {"path": str(tmp_path / "tree"), "policy": "p"}})
    server.stowage("run")
    words = ("restore", f"web1:{tmp_path}/tree/file", "--stdout")
    child = server.start(*words, process_group=0, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        assert select.select([child.stdout], [], [], WITHIN)[0]
        child.begun = os.read(child.stdout.fileno(), 1)
        child.content = content
        (tmp_path / "tree" / "file").write_bytes(b"another")
        server.stowage("run", "--level", 0)
        yield child
    finally:
        child.kill()
        child.communicate()


def copies(server):
    return sorted(path.parent.name for path in server.base.joinpath("nas").rglob("manifest.json"))


def test_what_a_restore_reads_stays_until_it_has_ended(server, reader):
    both = copies(server)
    assert len(both) == 2
    for _again in range(2):  # marked, and past its grace
        out, _err = server.stowage("prune")
    assert f"web1:data {both[0]} is being read by stowage restore (process {reader.pid}, since " in out
    assert copies(server) == both and not server.json("prune")["removed"]
    rest, err = reader.communicate(timeout=WITHIN)
    assert reader.returncode == 0 and reader.begun + rest == reader.content, err
    assert [one["dump"] for one in server.json("prune")["removed"]] == both[:1]
    assert copies(server) == both[1:] and os.listdir(server.base / "state" / "reading") == []


def test_a_restore_that_was_stopped_while_nobody_took_what_it_gave_gives_all_of_it(reader):
    for _again in range(3):
        wait_for_a_full_pipe(reader)
        os.kill(reader.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, reader.pid, os.WSTOPPED)
        os.kill(reader.pid, signal.SIGCONT)
    rest, err = reader.communicate(timeout=WITHIN)
    assert reader.returncode == 0 and reader.begun + rest == reader.content, (len(rest), err)


def wait_for_a_full_pipe(reader):
    until = time.monotonic() + WITHIN
    while "pipe" not in Path(f"/proc/{reader.pid}/wchan").read_text():
        assert time.monotonic() < until and reader.poll() is None
        time.sleep(0.01)


@pytest.mark.slow
def test_a_restore_that_was_killed_keeps_nothing(server, reader):
    os.killpg(reader.pid, signal.SIGKILL)
    reader.wait()
    assert len(os.listdir(server.base / "state" / "reading")) == 1
    server.stowage("prune")
    server.stowage("prune")
    assert len(copies(server)) == 1 and os.listdir(server.base / "state" / "reading") == []


@pytest.mark.slow
def test_an_image_that_is_being_read_stays_on_the_holding_disk(server, reader, tmp_path):
    subprocess.run(["rm", "-rf", server.base / "state" / "reading"], check=True)  # of that reader
    server.write(policies={"p": {"copies": [{"target": "nas"}], "keep_on_holding": 1}})
    server.stowage("run", "--level", 0)
    image = next(server.base.glob("holding/web1/data/*"))
    (tmp_path / "tree" / "file").write_bytes(reader.content)
    server.stowage("run", "--level", 0)
    (newest,) = server.base.glob("holding/web1/data/*")
    assert newest != image
    child = server.start("restore", f"web1:{tmp_path}/tree/file", "--stdout", "--from", "holding")
    try:
        assert select.select([child.stdout], [], [], WITHIN)[0]
        begun = os.read(child.stdout.fileno(), 1)
        server.stowage("run", "--level", 0)
        assert newest.exists()
        rest, err = child.communicate(timeout=WITHIN)
        assert child.returncode == 0 and begun + rest == reader.content, err
        server.stowage("stage")
        assert not newest.exists()
    finally:
        child.kill()
        child.communicate()
