"""One run at a time: by the kernel's lock, which a killed run cannot keep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from backupcore.dump import runlock, status
from backupcore.errors import Busy

HOLD = """
import sys, time, types, pathlib
from backupcore.dump import runlock, status
settings = types.SimpleNamespace(state=pathlib.Path(sys.argv[1]))
with runlock.hold(settings), status.Status(settings, "20261122T120000Z-0000"):
    print("held", flush=True); time.sleep(60)
"""


@pytest.fixture
def other(server):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(server.settings.state)], stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_is_told_since_when_and_by_whom(server, other):
    with pytest.raises(Busy, match=rf"since \d{{4}}-\d\d-\d\d \d\d:\d\d \(process {other.pid}\)") as busy:
        with runlock.hold(server.settings):
            pass
    assert busy.value.hint == "stowage status" and busy.value.exit_status == 1
    found = status.read(server.settings)
    assert (found["pid"], found["alive"], found["run"]) == (other.pid, True, "20261122T120000Z-0000")


def test_a_killed_run_holds_nothing_and_is_not_alive(server, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    found = status.read(server.settings)
    assert found is not None and found["alive"] is False
    with runlock.hold(server.settings):
        pass


def test_the_lock_is_free_after_and_its_file_stays(server):
    for _ in range(2):
        with runlock.hold(server.settings):
            with pytest.raises(Busy), runlock.hold(server.settings):
                pass
    assert (server.settings.state / "run.lock").stat().st_mode & 0o777 == 0o600


def test_a_child_does_not_inherit_the_lock(server):
    with runlock.hold(server.settings):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"], close_fds=False)
    try:
        with runlock.hold(server.settings):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_night_waits_for_a_small_run_and_no_small_run_for_anything(server, monkeypatch):
    monkeypatch.setattr(runlock, "STEP", 0.02)
    begun, ended = threading.Event(), []

    def small():
        with runlock.hold(server.settings, due=True):
            begun.set()
            with pytest.raises(Busy), runlock.hold(server.settings, due=True):
                pass
            time.sleep(0.3)
            ended.append(time.monotonic())

    thread = threading.Thread(target=small)
    thread.start()
    begun.wait(10)
    with runlock.hold(server.settings):
        assert ended  # not before its end
        with pytest.raises(Busy), runlock.hold(server.settings, due=True):
            pass
        with pytest.raises(Busy), runlock.hold(server.settings):
            pass
    thread.join()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1, "heartbeat_ns": null}'])
def test_a_status_that_is_none_is_none(server, content):
    server.settings.state.mkdir(exist_ok=True)
    (server.settings.state / "status.json").write_text(content)
    assert status.read(server.settings) is None


def test_a_heartbeat_that_stopped_is_not_alive(server):
    (server.settings.state / "status.json").write_text('{"pid": %d, "heartbeat_ns": 1}' % os.getpid())
    assert status.read(server.settings)["alive"] is False


def test_a_small_run_hears_that_another_waits_for_its_end(server):
    with runlock.hold(server.settings, due=True):
        assert not runlock.is_waited_for(server.settings)
        waiting = threading.Thread(target=_hold_once, args=(server.settings,))
        waiting.start()
        deadline = time.monotonic() + 20
        while not runlock.is_waited_for(server.settings) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert runlock.is_waited_for(server.settings)
    waiting.join(20)
    assert not waiting.is_alive() and not runlock.is_waited_for(server.settings)


def _hold_once(settings):
    with runlock.hold(settings):
        pass
