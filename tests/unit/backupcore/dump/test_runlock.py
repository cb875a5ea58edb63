"""One run at a time: by the kernel's lock, which a killed run cannot keep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from backupcore import locks
from backupcore.dump import runlock, status
from backupcore.errors import Busy

HOLD = """
import sys, time, types, pathlib
from backupcore.dump import runlock, status
settings = types.SimpleNamespace(state=pathlib.Path(sys.argv[1]), clients={}, networks={})
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
    begun.wait(60)
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
        deadline = time.monotonic() + 60
        while not runlock.is_waited_for(server.settings) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert runlock.is_waited_for(server.settings)
    waiting.join(60)
    assert not waiting.is_alive() and not runlock.is_waited_for(server.settings)


def _hold_once(settings):
    with runlock.hold(settings):
        pass


SAY = """
import sys, time, types, pathlib
from backupcore.dump import runlock
settings = types.SimpleNamespace(state=pathlib.Path(sys.argv[1]))
"""
WAIT = SAY + """
def told(holder):
    print("waits for", holder.pid, flush=True)
with runlock.hold(settings, command="stowage run --join", join=told) as turn:
    print("turn", turn.waited, flush=True); time.sleep(60)
"""


def start(code, server):
    return subprocess.Popen([sys.executable, "-c", code, str(server.settings.state)], stdout=subprocess.PIPE, text=True)


def end(process):
    process.kill()
    process.communicate()


def test_busy_names_what_is_at_work_its_command_and_its_user(server):
    holder = start(SAY + """
with runlock.hold(settings, what="prune", command="stowage prune --target 'a b'"):
    print("held", flush=True); time.sleep(60)
""", server)  # fmt: skip
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Busy) as busy, runlock.hold(server.settings):
            pass
        user = runlock.who.shown(runlock.who.who())
        assert busy.value.message.startswith("a prune is at work since ")
        assert busy.value.message.endswith(f"(process {holder.pid}), by {user}: stowage prune --target 'a b'")
        found = runlock.holder(server.settings)
        assert (found.pid, found.what, found.alive) == (holder.pid, "prune", True)
    finally:
        end(holder)
    assert runlock.holder(server.settings) is None


def test_who_only_looks_is_no_run(server):
    """`status` asks for the lock for a moment: a night that begins then must not be refused."""
    with runlock.hold(server.settings):
        pass
    stop = threading.Event()

    def look():
        while not stop.is_set():
            assert runlock.holder(server.settings) is None or held.is_set()
            time.sleep(0.001)

    held = threading.Event()
    lookers = [threading.Thread(target=look) for _ in range(4)]
    for one in lookers:
        one.start()
    try:
        for _ in range(50):
            held.set()
            with runlock.hold(server.settings):
                pass
    finally:
        stop.set()
        for one in lookers:
            one.join(60)


def test_what_a_killed_holder_said_is_not_taken_for_the_next_one(server, other):
    other.kill()
    other.wait()
    # its words still stand in the file; the next holder has the lock and has not said anything yet
    lock = locks.LockFile(server.settings.state / "run.lock")
    assert lock.take()
    try:
        threading.Timer(0.3, lambda: runlock._say(lock, runlock.Holder(os.getpid(), 1, "stage"))).start()
        with pytest.raises(Busy, match=f"a staging of copies is at work since .* .process {os.getpid()}"):
            with runlock.hold(server.settings):
                pass
    finally:
        lock.close()


def test_a_process_of_the_same_number_is_not_the_holder():
    mine = runlock.Holder(os.getpid(), 0, started=runlock.started(os.getpid()))
    assert mine.alive
    assert not runlock.Holder(os.getpid(), 0, started="1").alive
    child = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.monotonic() + 60
    while runlock.started(child.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert runlock.started(child.pid) == ""  # it has ended, and nobody has asked how
    child.wait()


CHILDREN = {
    "forked": "if not os.fork(): time.sleep(60); os._exit(0)",
    "forked by multiprocessing": "multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,)).start()",
    "a program, as ssh": "subprocess.Popen(['sleep', '60'])",
    "a program that takes all files": "subprocess.Popen(['sleep', '60'], close_fds=False)",
}


@pytest.mark.parametrize("way", CHILDREN)
def test_children_of_a_killed_holder_hold_nothing(server, way):
    code = SAY + f"""
import multiprocessing, os, subprocess
with runlock.hold(settings):
    {CHILDREN[way]}
    print("held", flush=True); time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code, str(server.settings.state)], stdout=subprocess.PIPE,
                              text=True, start_new_session=True)  # fmt: skip
    try:
        assert holder.stdout.readline() == "held\n"
        with open(f"/proc/{holder.pid}/task/{holder.pid}/children") as stream:
            children = stream.read().split()
        assert len(children) == 1
        with pytest.raises(Busy), runlock.hold(server.settings):
            pass
        holder.kill()
        holder.wait()
        assert runlock.started(int(children[0]))  # it lives on
        with runlock.hold(server.settings):
            pass
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.communicate()


def test_who_joins_waits_is_seen_and_has_its_turn_when_the_first_is_killed(server, other):
    waiter = start(WAIT, server)
    try:
        assert waiter.stdout.readline() == f"waits for {other.pid}\n"
        (seen,) = runlock.waiting(server.settings)
        assert (seen.pid, seen.command) == (waiter.pid, "stowage run --join")
        with pytest.raises(Busy), runlock.hold(server.settings):  # who does not join does not overtake either
            pass
        other.kill()
        other.wait()
        while (line := waiter.stdout.readline()).startswith("waits"):
            pass
        assert line == "turn True\n"
        assert runlock.waiting(server.settings) == []
        assert runlock.holder(server.settings).pid == waiter.pid
    finally:
        end(waiter)
    with runlock.hold(server.settings) as turn:
        assert not turn.waited


def test_a_killed_waiter_is_forgotten(server, other):
    waiter = start(WAIT, server)
    assert waiter.stdout.readline().startswith("waits for")
    assert [one.pid for one in runlock.waiting(server.settings)] == [waiter.pid]
    end(waiter)
    assert runlock.waiting(server.settings) == []
    assert [path.name for path in (server.settings.state / "waiting").iterdir()] == []
