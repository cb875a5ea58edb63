"""Many agents asked at once: what one says or does not say costs nobody else, and what cannot be is not believed."""

from __future__ import annotations

import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupcore.catalog.records import DumpRow
from backupcore.dump import estimate, warm
from backupcore.dump.estimate import Ask, Part, ask, read, rows_of
from backupcore.dump.warm import Warm
from backupcore.errors import AgentMissing, ClientUnreachable
from backupcore.schedule.estimates import Expected, Walked

ANSWER = """
def answer(request, **more):
    parts = {one["name"]: {"bytes": 5000, "entries": 9, "since": [[3000 - n, 5 - n] for n in range(len(one["since"]))]}
             for one in request["parts"]}
    known = {"complete": True, "share": 1.0, "used": 10**9, "seconds": 0.1, "parts": parts}
    channel.send_json(wire.DONE, {**known, **more})
"""
GOOD = ANSWER + """
request = greet(estimate=True)
while True:
    answer(request)
    request = channel.expect(wire.REQUEST)[1]
"""
TWO = (Ask("data", (Part({1: 100, 2: 200}),)),)
WALKED = Walked(5000, 9, {1: 3000, 2: 2999}, True, 1.0, 10**9, 0.1)


def test_what_was_found_comes_by_source_part_and_level(server):
    server.client("web1", script=GOOD)
    parts = (Part({1: 200, 2: 100, 3: 200}), Part({}, "s01", (b"a/b", b"\xff")))
    heard = ask(server.settings, {"web1": [Ask("data", parts)]})["web1"]
    assert heard.reachable and not heard.away and heard.notes == ()
    assert heard.walked["data", ""].since == {1: 2999, 2: 3000, 3: 2999}
    assert heard.walked["data", "s01"] == Walked(5000, 9, {}, True, 1.0, 10**9, 0.1)


def test_clients_are_asked_at_once_and_a_silent_one_is_cut_off_in_time(server, monkeypatch):
    monkeypatch.setattr(estimate, "GRACE", 0.5)
    server.client("web1", script=GOOD)
    for number in range(4):
        server.client(f"slow{number}", script="greet(estimate=True); time.sleep(60)")
    beat = "while True: channel.send_json(wire.PROGRESS, {}), time.sleep(.1)"
    server.client("beats", script=f"greet(estimate=True)\n{beat}")
    begun = time.monotonic()
    heard = ask(server.settings, dict.fromkeys(server.settings.clients, TWO), limit=1.0)
    assert time.monotonic() - begun < 45  # and not 60
    assert heard["web1"].walked == {("data", ""): WALKED}
    for name in ("slow0", "slow3", "beats"):
        assert heard[name].walked == {} and heard[name].reachable
        assert heard[name].notes == (f"{name}:data was not estimated: its agent did not answer in 1 s",)
    assert list(heard) == list(server.settings.clients)


def test_an_older_agent_is_not_asked_and_dumps_over_the_same_connection(server):
    server.client("old", script="greet(); start(); good()")
    with Warm() as ready:
        heard = ask(server.settings, {"old": TWO}, connect=ready.connect, keep=ready.keep)["old"]
        assert heard.reachable and not heard.walked and not heard.notes
        assert len(ready._waiting) == 1
        assert all(result.ok for result in server.night(connect=ready.connect))


def test_a_dump_follows_its_estimate_over_the_same_connection(server):
    counted = f"open({str(server.base / 'begun')!r}, 'a').write('x')\n"
    script = counted + ANSWER + "answer(greet(estimate=True)); channel.expect(wire.REQUEST); start(); good()"
    server.client("web1", script=script)
    with Warm() as ready:
        assert ask(server.settings, {"web1": TWO}, connect=ready.connect, keep=ready.keep)["web1"].walked
        assert all(result.ok for result in server.night(connect=ready.connect))
    assert (server.base / "begun").read_text() == "x"


def test_no_more_connections_are_kept_than_dumps_run_at_once(server):
    server.set(dumps_at_once=2)
    for number in range(4):
        server.client(f"web{number}", script=GOOD)
    with Warm() as ready:
        asks = dict.fromkeys(server.settings.clients, TWO)
        heard = ask(server.settings, asks, connect=ready.connect, keep=ready.keep)
        assert len(ready._waiting) == 2 and all(one.walked for one in heard.values())


def test_connections_that_waited_too_long_make_room(server, monkeypatch):
    server.set(dumps_at_once=1)
    first, second = server.client("web1", script=GOOD), server.client("web2", script=GOOD)
    with Warm() as ready:
        for client in (first, second):
            agent = ready.connect(server.settings, client)
            agent.hello()
            ready.keep(server.settings, client, agent)
            assert list(ready._waiting) == [client.name]
            monkeypatch.setattr(warm, "FRESH", 0.0)
        assert [agent.over()] == [False]


def test_presence_alone_can_be_asked(server):
    server.client("web1", script=GOOD)
    server.client("none", script="", agent_python="/nowhere/python")
    server.client("laptop", transport="ssh", address="127.9.9.9", port=9)
    server.settings.known_hosts.mkdir(parents=True)
    (server.settings.known_hosts / "laptop").write_text("")
    server.set(ssh_key=server.agent)
    heard = ask(server.settings, {"web1": (), "none": (), "laptop": ()})
    assert heard["web1"].reachable
    assert isinstance(heard["none"].error, AgentMissing) and not heard["none"].reachable and not heard["none"].away
    assert isinstance(heard["laptop"].error, ClientUnreachable) and heard["laptop"].away


@pytest.mark.parametrize("script", [
    "answer(request, parts={})", "answer(request, parts=[])", "answer(request, complete=1)",
    "answer(request, parts={'': {'bytes': -1, 'entries': 1, 'since': [[1, 1], [1, 1]]}})",
    "answer(request, parts={'': {'bytes': 2**60, 'entries': 1, 'since': [[1, 1], [1, 1]]}})",
    "answer(request, parts={'': {'bytes': 9, 'entries': 1, 'since': [[1, 1]]}})",
    "answer(request, parts={'': {'bytes': 9, 'entries': 1, 'since': [[1, 1], [2, 1]]}})",
    "answer(request, parts={'': {'bytes': 9, 'entries': True, 'since': [[1, 1], [1, 1]]}})",
    "answer(request, parts={'': {'bytes': 9.5, 'entries': 1, 'since': [[1, 1], [1, 1]]}})",
    "answer(request, parts={'': {'bytes': 9, 'entries': 1, 'since': [[1, 1], ['a', 1]]}})",
    "answer(request, parts={'': {'bytes': 9, 'entries': 1, 'since': [[1, 2], [1, 2]]}})",
    "channel.send_json(wire.DONE, {'problem': 'a\\x1b[31mb'})", "channel.send_json(wire.START, {})",
    "out.write(b'garbage' * 100); out.flush()", "channel.send(wire.DONE, b'[1]'); out.flush()", "sys.exit(3)",
    "channel.send_json(wire.ERROR, {'code': 'source-failed', 'message': 'no\\nway'})",
])  # fmt: skip
def test_what_cannot_be_is_one_line_and_the_other_source_is_still_asked(server, script):
    """What an agent says of one source is judged alone; when the conversation is over, there is another."""
    server.client("web1", "bad", "good", script=ANSWER + f"""
request = greet(estimate=True)
while True:
    if request["source"] == "bad":
        {script}
    else:
        answer(request)
    request = channel.expect(wire.REQUEST)[1]
""")  # fmt: skip
    heard = ask(server.settings, {"web1": [Ask("bad", TWO[0].parts), Ask("good", TWO[0].parts)]})["web1"]
    assert heard.reachable and heard.walked == {("good", ""): WALKED}
    assert len(heard.notes) == 1 and heard.notes[0].startswith("web1:bad was not estimated: ")
    assert "\n" not in heard.notes[0] and "\x1b" not in heard.notes[0]


def test_a_client_that_goes_away_half_way_keeps_what_it_told(server):
    mark = server.base / "mark"
    server.client("web1", script=ANSWER + f"""
import os.path
if os.path.exists({str(mark)!r}): sys.exit(1)
open({str(mark)!r}, "w").close()
answer(greet(estimate=True))
""")  # fmt: skip
    heard = ask(server.settings, {"web1": [Ask("a", TWO[0].parts), Ask("b"), Ask("c")]})["web1"]
    assert list(heard.walked) == [("a", "")] and heard.reachable
    assert [note.partition(" ")[0] for note in heard.notes] == ["web1:b", "web1:c"]


def test_an_interrupt_cuts_all_at_once(server, monkeypatch):
    for number in range(3):
        server.client(f"slow{number}", script="greet(estimate=True); time.sleep(60)")
    begun = time.monotonic()

    def interrupt(self):
        time.sleep(0.5)
        raise KeyboardInterrupt

    monkeypatch.setattr(estimate._Round, "_watch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ask(server.settings, dict.fromkeys(server.settings.clients, TWO))
    assert time.monotonic() - begun < 45  # and not 60
    assert not [one for one in threading.enumerate() if one.name.startswith("estimate")]


def test_a_fault_of_ours_is_one_clients_answer(server):
    server.client("web1", script=GOOD)
    heard = ask(server.settings, {"web1": TWO, "unknown": TWO})
    assert heard["web1"].walked and "KeyError" in heard["unknown"].error.message


def test_an_incomplete_walk_says_what_share_it_saw(server):
    told = {"complete": False, "share": 0.25, "used": 7, "seconds": 2, "parts": {"": {"bytes": 5, "entries": 1,
            "since": []}}}  # fmt: skip
    assert read(told, Part()) == Walked(5, 1, {}, False, 0.25, 7, 2.0)
    for share in (None, 0, 1.5, "1", -0.5, True, float("nan")):
        assert read({**told, "share": share}, Part()).share is None
    assert read({**told, "used": -1, "seconds": "x"}, Part()) == Walked(5, 1, {}, False, 0.25, 0, 0.0)


_any = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers())
_count = st.integers(0, 1 << 51) | _any
_pairs = st.lists(st.lists(_count, max_size=3), max_size=2)
_part = st.fixed_dictionaries({"bytes": _count, "entries": _count, "since": _pairs})


@given(st.fixed_dictionaries({
    "parts": _any | st.fixed_dictionaries({"": _any | _part}), "complete": st.booleans() | _any, "share": _any,
    "used": _any, "seconds": _any,
}))  # fmt: skip
def test_whatever_is_told_is_nothing_or_a_right_estimate(told):
    found = read(told, Part({1: 5}))
    assert found is None or (0 <= found.bytes <= 1 << 50 and 0 <= found.since[1] <= 1 << 50 and found.used >= 0)


def test_rows_hold_what_was_used_and_what_history_would_have_told():
    row = DumpRow("d", "web1", "etc", "", "tree", "/etc", 1, 5, 1, 2, "b", "b", "r", "zstd", 100, 70, 3, 2, None, "")
    beside = Expected(1000, {1: 50}, "history")
    expected = Expected(900, {1: 71.5}, "walk", beside=beside)
    told = [(one.how, one.used, one.estimated, one.full, one.actual, one.level) for one in rows_of(row, expected, 1)]
    assert told == [("walk", True, 71, 900, 70, 1), ("history", False, 50, 1000, 70, 1)]
    assert rows_of(row, expected, 0) == []  # it became another level than planned
    assert [one.how for one in rows_of(row, Expected(9, {2: 4}, "history"), 1)] == []
    guessed = Expected(1000, {1: 50}, "history", guessed=True)
    assert [one.how for one in rows_of(row, guessed, 1)] == ["default"]
    assert os.path.basename(rows_of(row, expected, 1)[0].dump) == "d"
