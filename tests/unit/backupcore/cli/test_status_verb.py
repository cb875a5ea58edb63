"""`stowage status` from another terminal: in place, in lines, as a stream; a run that was killed is named."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from types import SimpleNamespace

import pytest

from backupcore.app import at_work
from backupcore.cli import _output
from backupcore.cli import status as verb
from backupcore.dump import runlock, status

LIMIT = 60.0
RUN = """
import pathlib, signal, sys, time, types
from backupcore.dump import runlock, status
status.INTERVAL = 0.05
settings = types.SimpleNamespace(state=pathlib.Path(sys.argv[1]), clients={}, networks={})
with runlock.hold(settings, command="stowage run"), status.Status(settings, "20261122T120000Z-0000") as told:
    told.event({"client": "web1", "source": "etc", "phase": "dumping", "bytes": 5, "total": 10, "level": 0})
    told.event({"client": "web1", "source": "www", "phase": "done", "bytes": 5, "total": 10, "level": 0})
    print("held", flush=True)
    sys.stdin.readline()
"""
WATCH = """
import pathlib, sys, types
from backupcore.app import at_work
from backupcore.cli import _main, _output, status
status.EVERY = status.PLAIN = 0.1
report = types.SimpleNamespace(as_dict=dict, headline="OK   all is well", run="r", status="OK", warnings=0)
engine = types.SimpleNamespace(settings=types.SimpleNamespace(state=pathlib.Path(sys.argv[1])), report=lambda: report)
engine.status = lambda: at_work.look(engine)
_main._take_signals()
answer = status.run(types.SimpleNamespace(watch=True, json="json" in sys.argv), lambda: engine)
sys.exit(_output.give(answer, "json" in sys.argv, False))
"""


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def other(state):
    process = subprocess.Popen([sys.executable, "-c", RUN, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True)  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    if process.poll() is None:
        process.kill()
    process.wait(LIMIT)
    process.stdin.close()
    process.stdout.close()


def engine(state):
    return SimpleNamespace(settings=SimpleNamespace(state=state, clients={}, networks={}))


def end(other):
    other.stdin.write("\n")
    other.stdin.flush()
    other.wait(LIMIT)


def watch(state, *words, **more):
    return subprocess.Popen([sys.executable, "-c", WATCH, str(state), *words], stderr=subprocess.PIPE, **more)


def test_what_runs_is_seen_with_whose_it_is(state, other):
    until = time.monotonic() + LIMIT
    while len((seen := at_work.look(engine(state)))["running"]["dumps"]) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)
    running = seen["running"]
    assert (running["pid"], running["command"], running["alive"]) == (other.pid, "stowage run", True)
    assert running["user"] == runlock.who.shown(runlock.who.who()) and running["begun"] and running["since"]
    assert running["dumps"][0]["ends"] is None and "ends_ns" in running["dumps"][0]
    lines = verb._told(seen)
    assert f"(pid {other.pid}): 1 of 2 done" in lines[0] and lines[1].endswith(": stowage run")
    assert any(line.startswith("web1:etc") and "50 %" in line for line in lines)
    json.dumps(seen)


def test_a_run_that_was_killed_is_named_until_the_next_one(state, other):
    other.kill()
    other.wait(LIMIT)
    seen = at_work.look(engine(state))
    assert seen["running"] is None and seen["killed"]["pid"] == other.pid
    (line,) = verb._killed(seen["killed"])
    assert line.startswith(f"WARN run 20261122T120000Z-0000 was killed (process {other.pid}), last seen at ")
    settings = engine(state).settings
    with runlock.hold(settings), status.Status(settings, "next"):
        seen = at_work.look(engine(state))
        assert seen["running"]["run"] == "next" and seen["killed"] is None
    assert at_work.look(engine(state)) == {"running": None, "killed": None, "waiting": []}


def test_between_the_steps_of_a_run_its_lock_tells(state):
    settings = engine(state).settings
    with runlock.hold(settings, what="prune", command="stowage prune"):
        seen = at_work.look(engine(state))
        assert seen["running"]["what"] == "prune" and seen["running"]["dumps"] == []
        lines = verb._told(seen)
        assert lines[0].startswith("prune is at work since ") and lines[1].endswith(": stowage prune")


def test_a_run_that_stands_still_says_so(state, other):
    until = time.monotonic() + LIMIT
    while not (state / "status.json").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    other.send_signal(signal.SIGSTOP)
    path = state / "status.json"
    value = json.loads(path.read_bytes())
    path.write_text(json.dumps({**value, "heartbeat_ns": value["heartbeat_ns"] - 300 * 10**9}))
    running = at_work.look(engine(state))["running"]
    other.send_signal(signal.SIGCONT)
    assert running["pid"] == other.pid and running["silent"] >= 300
    assert "no sign of life for " in verb._told({"running": running, "waiting": []}, 200)[0]


def test_watch_writes_lines_where_there_is_no_terminal_and_ends_with_the_run(state, other):
    process = watch(state, stdout=subprocess.PIPE, text=True)
    first = process.stdout.readline()
    assert "is at work for" in first or "is at work since" in first
    end(other)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0 and err == ""
    assert out.splitlines()[-2:] == ["OK   all is well", "-> stowage report"]
    assert "\x1b" not in first + out


def test_watch_with_json_is_a_stream_of_objects(state, other):
    process = watch(state, "json", stdout=subprocess.PIPE, text=True)
    first = json.loads(process.stdout.readline())
    assert first["schema"] == 1 and first["running"]["pid"] == other.pid
    end(other)
    out, _err = process.communicate(timeout=LIMIT)
    last = [json.loads(line) for line in out.splitlines()][-1]
    assert last["running"] is None and last["status"] == "ok"


def test_watch_paints_over_itself_on_a_terminal_and_ctrl_c_leaves_it(state, other):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    process = watch(state, stdout=slave, env={k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")})
    os.close(slave)
    try:
        said, until = b"", time.monotonic() + LIMIT
        while said.count(b"\x1b[J") < 2:
            assert time.monotonic() < until
            said += os.read(master, 65536)
        painted = [line for line in said.decode().replace("\x1b[J", "\n").splitlines() if "\x1b" not in line]
        assert max(map(len, painted)) <= 60, painted
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 0
        assert process.stderr.read() == b""
        assert other.poll() is None  # it goes on
    finally:
        process.kill()
        process.wait(LIMIT)
        process.stderr.close()
        os.close(master)


def test_an_error_of_one_look_ends_nothing(state, monkeypatch):
    from backupcore.errors import CatalogError

    looks = iter([CatalogError("the disk is ill"), {"running": None, "killed": None, "waiting": []}])

    def look():
        found = next(looks)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(verb, "EVERY", 0.0)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(_output, "say", lambda _line: None)
    seen = verb._watch(SimpleNamespace(status=look), {"running": {"dumps": []}, "killed": None, "waiting": []}, False)
    assert seen["running"] is None


def test_the_time_of_the_next_try_is_seen_however_long_the_reason_is():
    waits = {"client": "web1", "source": "etc", "phase": "waiting", "bytes": 0, "total": None, "tries": 3,
             "not_before_ns": 1_795_476_600 * 10**9,
             "why": "web1 cannot be reached: ssh: connect to host 127.77.11.9 port 2310: refused"}  # fmt: skip
    (line,) = [line for line in verb._running({"pid": 1, "begun_ns": 1, "dumps": [waits]}) if line.startswith("web1:")]
    at = time.strftime("%H:%M", time.localtime(waits["not_before_ns"] // 10**9))
    assert line.endswith(f".., again at {at}, try 3") and len(line) == 80 and "web1 cannot be reached: ssh: " in line
