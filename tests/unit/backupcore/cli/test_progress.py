"""Progress: plain lines where there is no terminal, bars where there is one, nothing beside JSON."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time

from backupcore.cli import _progress, status

EVENTS = [
    {"client": "web1", "source": "etc", "phase": "waiting"},
    {"client": "web1", "source": "etc", "phase": "dumping", "level": 1, "bytes": 0, "total": 2000},
    {"client": "web1", "source": "etc", "phase": "dumping", "level": 1, "bytes": 3000, "total": 2000},
    {"client": "web1", "source": "etc", "phase": "done", "level": 1, "bytes": 3000},
    {"client": "web1", "source": "etc", "target": "nas", "phase": "copying", "bytes": 10, "total": None},
    {"client": "web\x1b[31m", "source": "[bold]x[/bold]", "phase": "failed", "bytes": 0},
]


def test_lines_tell_begin_and_end_and_are_escaped(capsys):
    with _progress.progress(False) as event:
        for one in EVENTS:
            event(one)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "stowage: web1:etc: dumping, level 1, 0 B",
        "stowage: web1:etc: done, level 1, 3 kB",
        "stowage: web1:etc -> nas: copying, 10 B",
        "stowage: web\\x1b[31m:[bold]x[/bold]: failed, 0 B",
    ]


LATER = {"client": "web1", "source": "db", "phase": "waiting", "bytes": 0, "not_before_ns": 1_795_476_600 * 10**9}


def test_what_waits_for_its_time_is_told_with_the_time_and_the_way_out(capsys):
    at = time.strftime("%H:%M", time.localtime(LATER["not_before_ns"] // 10**9))
    with _progress.progress(False) as event:
        event(LATER)
    told = f"stowage: web1:db begins at {at}, as its earliest says; a run that names it begins at once\n"
    assert capsys.readouterr().err == told
    lines = status._running({"run": "r", "pid": 1, "begun_ns": time.time_ns(), "dumps": [LATER]})
    assert f"web1:db   begins at {at}" in lines[2], lines


def test_a_long_work_shows_a_sign_of_life(capsys, monkeypatch):
    monkeypatch.setattr(_progress, "HEARTBEAT", 0.0)
    with _progress.progress(False) as event:
        for count in (1, 2):
            event({"client": "web1", "source": "etc", "phase": "dumping", "bytes": count})
    assert capsys.readouterr().err.splitlines() == [
        "stowage: web1:etc: dumping, 1 B", "stowage: web1:etc: dumping, 2 B",
    ]  # fmt: skip


def test_nothing_is_said_beside_json(capsys):
    with _progress.progress(True) as event:
        assert event is None
    assert capsys.readouterr() == ("", "")


def test_bars_on_a_terminal_show_what_ended_and_let_no_client_draw():
    code = f"""
from backupcore.cli import _progress
with _progress.progress(False) as event:
    for one in {EVENTS!r}:
        event(one)
"""
    master, slave = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stderr=slave, stdout=subprocess.PIPE,
                               env={**os.environ, "TERM": "xterm", "COLUMNS": "100"})  # fmt: skip
    os.close(slave)
    said = b""
    try:
        while data := os.read(master, 65536):
            said += data
    except OSError:
        pass  # the end of a terminal
    assert process.wait() == 0
    assert b"web1:etc: done, 3 kB" in said
    assert b"web\\x1b[31m:[bold]x[/bold]: failed" in said
    assert b"\x1b[31m" not in said
