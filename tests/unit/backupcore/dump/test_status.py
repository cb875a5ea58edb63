"""What is told of a run at work: dumps, copies beside them, what waits for what."""

from __future__ import annotations

import json
import time

from backupcore.catalog import places
from backupcore.cli import status as verb
from backupcore.dump import status as statuses
from backupcore.dump.status import Status

DUMP = {"client": "web1", "source": "etc", "phase": "dumping", "bytes": 5, "total": None}
COPY = {"client": "web1", "source": "etc", "dump": "d", "target": "nas", "phase": "copying", "bytes": 4, "total": 9}


def test_copies_stand_beside_the_dumps_and_leave_when_they_are_over(server, monkeypatch):
    monkeypatch.setattr(statuses, "INTERVAL", 0.02)
    now = [100.0]

    def shown():
        asked = time.time_ns()
        while (told := json.loads(places.status_file(server.settings.state).read_bytes()))["heartbeat_ns"] <= asked:
            time.sleep(0.01)
        return told["copied"], [(one["phase"], one.get("target")) for one in told["dumps"]]

    with Status(server.settings, "run", now=lambda: now[0]) as status:
        status.event(DUMP)
        status.event(COPY)
        assert shown() == (0, [("dumping", None), ("copying", "nas")])
        status.event({**COPY, "phase": "verified"})
        status.event({**COPY, "phase": "copying", "dump": "later"})
        status.event({**DUMP, "phase": "done"})
        assert shown() == (1, [("done", None), ("verified", "nas"), ("copying", "nas")])
        now[0] += statuses.SHOWN + 0.1
        assert shown() == (1, [("done", None), ("copying", "nas")])
        lines = verb._running(statuses.read(server.settings))
    assert lines[0].endswith("1 of 1 done")
    assert any(line.startswith("copies ") and "; 1 made; " in line for line in lines)
    assert any("web1:etc -> nas" in line and "44 %" in line for line in lines)


def test_what_waits_is_shown_with_its_reason(server):
    waits = {**DUMP, "phase": "waiting", "why": "waits for room on the holding disk: copying web2:etc to nas"}
    lines = verb._running({"run": "r", "pid": 1, "begun_ns": time.time_ns(), "dumps": [waits]})
    assert any("web1:etc" in line and "copying web2:etc to nas" in line for line in lines)
