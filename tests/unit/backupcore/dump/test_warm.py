"""Connections begun early are used, renewed when they are stale, and ended when nobody wants them."""

from __future__ import annotations

import dataclasses
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
    for _ in range(1200):
        if begun(server) >= count:
            return
        time.sleep(0.05)


def test_a_night_uses_what_was_begun(server, monkeypatch):
    monkeypatch.setattr(warm, "FRESH", 300.0)  # however long the first one takes to begin here
    server.client("web1", "a", "b", script=SCRIPT % str(server.base / "begun"))
    with Warm() as ready:
        ready.begin(server.settings, list(server.settings.clients.values()))
        wait_for(server, 1)
        assert begun(server) == 1
        assert all(result.ok for result in server.night(connect=ready.connect))
    assert begun(server) == 2  # one for each source, none twice


def test_no_more_are_begun_than_dumps_run_at_once(server):
    for number in range(5):
        server.client(f"web{number}", script=SCRIPT % str(server.base / "begun"))
    server.set(dumps_at_once=2)
    with Warm() as ready:
        ready.begin(server.settings, list(server.settings.clients.values()))
        wait_for(server, 2)
        time.sleep(0.3)
    assert begun(server) == 2


@pytest.mark.parametrize("why", ["ended", "old"])
def test_a_connection_that_is_stale_costs_no_dump(server, monkeypatch, why):
    script = "import os.path\nif not os.path.exists(%r):\n  open(%r, 'w').close(); sys.exit()\ngreet(); start(); good()"
    mark = str(server.base / "mark")
    client = server.client("web1", script=script % (mark, mark) if why == "ended" else SCRIPT % mark)
    with Warm() as ready:
        ready.begin(server.settings, [client])
        if why == "ended":
            assert all(begun.agent._ended_within(60) for begun in ready._waiting.values())
        if why == "old":
            monkeypatch.setattr(warm, "FRESH", 0.0)
        assert server.one(connect=ready.connect).ok


def test_what_cannot_be_begun_is_said_by_the_dump(server):
    client = server.client("web1", agent_python="/nonexistent")
    with Warm() as ready:
        ready.begin(server.settings, [client])
        with pytest.raises(AgentMissing):
            ready.connect(server.settings, client)
        assert server.one(connect=ready.connect).code == "agent-missing"


def test_what_nobody_used_is_ended(server):
    client = server.client("web1", script="channel.receive()")
    with Warm() as ready:
        ready.begin(server.settings, [client])
        ((_when, _way, agent),) = ready._waiting.values()
        assert not agent.over()
    assert agent._process.returncode is not None


def test_a_connection_begun_by_other_words_is_not_used(server):
    mark = server.base / "mark"
    right = server.client("web1", script=SCRIPT % str(server.base / "begun"))
    wrong = dataclasses.replace(right, agent=str(server.base / "other"))
    (server.base / "other").write_text(f"open({str(mark)!r}, 'w').close()\nimport time; time.sleep(60)")
    with Warm() as ready:
        ready.begin(server.settings, [wrong])
        ((_when, _way, agent),) = ready._waiting.values()
        while not mark.exists():
            time.sleep(0.01)
        assert server.one(connect=ready.connect).ok
    assert agent._process.returncode is not None
    assert begun(server) == 1


def test_beginning_twice_begins_once_unless_the_words_are_others(server):
    client = server.client("web1", script="channel.receive()")
    with Warm() as ready:
        ready.begin(server.settings, [client])
        (first,) = ready._waiting.values()
        ready.begin(server.settings, [client])
        assert [one.agent for one in ready._waiting.values()] == [first.agent]
        ready.begin(server.settings, [dataclasses.replace(client, user="other")])
        assert [one.agent for one in ready._waiting.values()] != [first.agent]
        assert first.agent._process.returncode is not None
