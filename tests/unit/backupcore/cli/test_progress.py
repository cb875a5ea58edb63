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


def test_what_is_tried_again_is_told_with_why_and_when(capsys):
    at = time.strftime("%H:%M", time.localtime(LATER["not_before_ns"] // 10**9))
    failed = {**LATER, "why": "web1 cannot be reached", "tries": 2}
    with _progress.progress(False) as event:
        event(failed)
        event(failed)
    assert capsys.readouterr().err == f"stowage: web1:db: web1 cannot be reached, again at {at}\n"


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


def test_of_a_fleet_one_line_tells_all_and_only_what_is_at_work_has_a_bar():
    events = [{"phase": "planned", "count": 300, "bytes": 300_000}]
    for number in range(300):
        name = {"client": f"c{number}", "source": "etc", "level": 0}
        events += [{**name, "phase": "waiting", "bytes": 0}, {**name, "phase": "dumping", "bytes": 500, "total": 1000},
                   {**name, "phase": "failed" if number == 7 else "done", "bytes": 1000}]  # fmt: skip
    bars = _progress._Bars()
    said = []
    with bars as event:
        bars.bars.console.print = lambda *words, **_more: said.extend(words)
        most = 0
        for one in events:
            event(one)
            most = max(most, len(bars.bars.tasks))
        (whole,) = bars.bars.tasks
    assert most == 2 and said == ["c7:etc: failed, 1 kB"]
    assert whole.completed == whole.total == 300
    assert whole.fields["told"].startswith("300 of 300, 1 failed; 300 kB of about 300 kB")


def test_the_plan_is_no_line_of_its_own(capsys):
    with _progress.progress(False) as event:
        event({"phase": "planned", "count": 300, "bytes": None})
        event({"phase": "over", "name": "its turn"})
    assert capsys.readouterr().err == ""


ESTIMATES = [{"phase": "estimated", "client": f"web{number}", "done": number, "total": 9} for number in range(1, 10)]


def test_estimates_are_one_line_and_say_no_bytes(capsys):
    with _progress.progress(False) as event:
        for one in ESTIMATES:
            event(one)
    assert capsys.readouterr().err == "stowage: estimated: 9 of 9 clients\n"


def test_estimates_are_one_bar_that_goes_when_the_dumps_come():
    bars = _progress._Bars()
    with bars as event:
        for one in ESTIMATES[:-1]:
            event(one)
        (task,) = bars.bars.tasks
        assert (task.completed, task.total, task.fields["told"]) == (8, 9, "8 of 9 clients")
        event({"phase": "planned", "count": 9, "bytes": 1})
        assert not bars.bars.tasks
        event(EVENTS[1])
        assert [one.fields["name"] for one in bars.bars.tasks] == ["web1:etc"]
