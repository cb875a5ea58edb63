"""Connections begun early are used, renewed when they are stale, and ended when nobody wants them."""

from __future__ import annotations

import time

import pytest

from backupcore.dump import warm
from backupcore.dump.warm import Warm
from backupcore.errors import AgentMissing

SCRIPT = "open(%r, 'a').write('x'); greet(); start(); good()"


def begun(server, name="begun"):
    path = server.base / name
    return len(path.read_text()) if path.exists() else 0


def wait_for(server, count):
    for _ in range(100):
        if begun(server) >= count:
            return
        time.sleep(0.05)


def test_a_night_uses_what_was_begun(server):
    server.client("web1", "a", "b", script=SCRIPT % str(server.base / "begun"))
    with Warm(server.settings, list(server.settings.clients.values())) as ready:
        wait_for(server, 1)
        assert begun(server) == 1
        assert all(result.ok for result in server.night(connect=ready.connect))
    assert begun(server) == 2  # one for each source, none twice


def test_no_more_are_begun_than_dumps_run_at_once(server):
    for number in range(5):
        server.client(f"web{number}", script=SCRIPT % str(server.base / "begun"))
    server.set(dumps_at_once=2)
    with Warm(server.settings, list(server.settings.clients.values())):
        wait_for(server, 2)
        time.sleep(0.3)
    assert begun(server) == 2


@pytest.mark.parametrize("why", ["ended", "old"])
def test_a_connection_that_is_stale_costs_no_dump(server, monkeypatch, why):
    script = "import os.path\nif not os.path.exists(%r):\n  open(%r, 'w').close(); sys.exit()\ngreet(); start(); good()"
    mark = str(server.base / "mark")
    client = server.client("web1", script=script % (mark, mark) if why == "ended" else SCRIPT % mark)
    with Warm(server.settings, [client]) as ready:
        for _began, agent in ready._waiting.values():
            if why == "ended":
                assert agent._ended_within(10)
        if why == "old":
            monkeypatch.setattr(warm, "FRESH", 0.0)
        assert server.one(connect=ready.connect).ok


def test_what_cannot_be_begun_is_said_by_the_dump(server):
    client = server.client("web1", agent_python="/nonexistent")
    with Warm(server.settings, [client]) as ready:
        with pytest.raises(AgentMissing):
            ready.connect(server.settings, client)
        assert server.one(connect=ready.connect).code == "agent-missing"


def test_what_nobody_used_is_ended(server):
    client = server.client("web1", script="channel.receive()")
    with Warm(server.settings, [client]) as ready:
        ((_began, agent),) = ready._waiting.values()
        assert not agent.over()
    assert agent._process.returncode is not None
