"""Rates and ends by a clock that the test moves: what is known is right, what is not known is not told."""

from __future__ import annotations

import pytest

from backupcore import clock
from backupcore.cli import status as verb
from backupcore.dump import status as statuses
from backupcore.dump.rates import ENOUGH, AtWork, Coming, Rate, Todo, ends, left, over_lines, with_copies
from backupcore.dump.status import Status

NS = clock.NS


def fed(points):
    rate = Rate()
    for now, count in points:
        rate.feed(count, now)
    return rate.value


def test_a_steady_rate_is_told_right_from_the_first_seconds_on():
    assert fed([(0, 0), (1, 100)]) is None  # watched for too short
    assert fed([(second, 100 * second) for second in range(int(ENOUGH) + 1)]) == pytest.approx(100)
    assert fed([(second, 100 * second) for second in range(600)]) == pytest.approx(100)


def test_a_rate_is_smoothed_and_forgets():
    jumps = fed([(second, 1000 * (second // 2)) for second in range(200)])  # a burst every other second
    assert jumps == pytest.approx(500, rel=0.1)
    stands = [(second, 1000 * min(second, 100)) for second in range(200)]
    assert fed(stands[:101]) == pytest.approx(1000)
    assert fed(stands) < 10  # nothing came for a hundred seconds
    assert fed([(0, 0), (5, 500), (5, 900), (4, 950)]) == pytest.approx(100)  # a clock that stands or goes back


def test_another_try_begins_anew():
    assert fed([(0, 0), (10, 10_000), (11, 0)]) is None
    assert fed([(0, 0), (10, 10_000), (11, 0), (15, 40)]) == pytest.approx(10)


def test_the_end_of_a_dump():
    assert left(50, 100, 10.0, None, 5.0) == 5.0
    assert left(50, 100, 10.0, 500.0, 5.0) == 5.0  # bytes know better than habits
    assert left(0, 100, None, 30.0, 5.0) == 25.0  # it still looks for what changed: habits
    for unknown in ((50, None, 10.0, None), (50, 100, None, None), (50, 100, 0.0, None), (0, 100, 10.0, None),
                    (120, 100, 10.0, 500.0), (50, None, 10.0, 4.0)):  # fmt: skip
        assert left(*unknown, took=5.0) is None, unknown


def dumps(*seconds, client=None):
    return [Todo(client or f"c{place}", "s", 0, None, one) for place, one in enumerate(seconds)]


def test_the_end_of_a_night_is_that_of_dumps_side_by_side():
    assert ends([], dumps(10, 10, 10, 10), 2, 2, 0) == (20, 0)
    assert ends([AtWork("a", 5.0), AtWork("b", 30.0)], dumps(10, 10), 2, 2, 0) == (30, 0)
    assert ends([], dumps(10, 10, 10, 10, client="one"), 4, 2, 0) == (20, 0)  # two of a client at once
    assert ends([], [*dumps(10), Todo("b", "s", 0, None, 10.0, 100 * NS)], 4, 2, 40 * NS) == (70, 0)  # its earliest
    assert ends([], [], 4, 2, 0) == (0, 0)


def test_what_nobody_knows_is_counted_and_takes_no_time():
    assert ends([AtWork("a", None)], dumps(10, None), 1, 2, 0) == (10, 2)


class Clock:
    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(clock, "now_ns", lambda: round((1_000_000 + self.now) * NS))

    def __call__(self):
        return self.now


@pytest.fixture
def moving(monkeypatch):
    return Clock(monkeypatch)


def event(source, phase, count=0, total=None, **more):
    return {"client": "web1", "source": source, "phase": phase, "bytes": count, "total": total, "level": 0, **more}


def play(status, moving, seconds, at):
    """So many seconds, one at a time, as the file is written; at(second) gives the events of it. The last value."""
    for second in range(seconds):
        for one in at(second):
            status.event(one)
        value = status.value()
        moving.now += 1
    return value


def test_a_run_of_two_dumps_one_after_the_other(server, moving):
    status = Status(server.settings, "run", now=moving)
    status.expect([Todo("web1", "a", 0, 1000, 100.0), Todo("web1", "b", 0, 3000, 300.0)], 1)
    first = status.value()
    assert (first["waiting"], first["at_work"], first["expected"], first["bytes"]) == (2, 0, 4000, 0)
    assert first["ends_ns"] == clock.now_ns() + 400 * NS
    value = play(status, moving, 51, lambda second: [event("a", "dumping", 10 * second)])
    (a, b) = value["dumps"]
    assert (a["rate"], a["total"], value["rate"]) == (10, 1000, 10)
    assert a["ends_ns"] == pytest.approx((1_000_050 + 50) * NS)
    assert value["ends_ns"] == pytest.approx((1_000_050 + 50 + 300) * NS)
    assert (b["phase"], b["rate"], b["ends_ns"]) == ("waiting", None, None)
    status.event(event("a", "done", 900))
    value = status.value()
    assert (value["done"], value["expected"], value["bytes"]) == (1, 3900, 900)
    value = play(status, moving, 60, lambda second: [event("b", "dumping", 0)])
    (a, b) = value["dumps"]
    assert (a["rate"], a["ends_ns"]) == (None, None)
    assert b["rate"] == 0 and b["ends_ns"] == pytest.approx(clock.now_ns() - NS + (300 - 59) * NS)


def test_of_what_nobody_knows_no_end_is_told(server, moving):
    status = Status(server.settings, "run", now=moving)
    status.expect([Todo("web1", "a", 0, 1000, 100.0), Todo("web1", "new", 0)], 1)
    value = status.value()
    assert (value["ends_ns"], value["unknown"], value["expected"]) == (None, 1, None)
    assert value["not_before_ns"] == clock.now_ns() + 100 * NS
    lines = verb._running({**value, "dumps": value["dumps"]})
    assert any("or later (1 unknown)" in line for line in lines), lines
    value = play(status, moving, 10, lambda second: [event("new", "dumping", 10 * second)])
    assert value["dumps"][1]["ends_ns"] is None and value["dumps"][1]["rate"] == 10


def test_a_full_in_the_place_of_an_incremental_does_not_end_when_the_plan_said(server, moving):
    status = Status(server.settings, "run", now=moving)
    status.expect([Todo("web1", "a", 1, 50, 5.0)], 1)
    value = play(status, moving, 10, lambda second: [event("a", "dumping", second * 100, 2000, level=0)])
    assert value["dumps"][0]["total"] == 2000
    assert value["dumps"][0]["ends_ns"] == pytest.approx(clock.now_ns() - NS + 11 * NS)


def test_sizes_without_history_take_the_speed_of_those_at_work(server, moving):
    status = Status(server.settings, "run", now=moving)
    status.expect([Todo("web1", "a", 0, 1000), Todo("web1", "b", 0, 500)], 1)
    assert status.value()["ends_ns"] is None
    value = play(status, moving, 51, lambda second: [event("a", "dumping", 10 * second)])
    assert value["unknown"] == 0 and value["ends_ns"] == pytest.approx((1_000_050 + 50 + 50) * NS)


def test_tries_are_counted_and_what_is_tried_again_waits(server, moving):
    status = Status(server.settings, "run", now=moving)
    status.expect([Todo("web1", "a", 0, 1000, 100.0)], 1)
    play(status, moving, 5, lambda second: [event("a", "dumping", 10 * second)])
    later = clock.now_ns() + 600 * NS
    status.event(event("a", "waiting", why="the line was cut", not_before_ns=later))
    value = status.value()
    assert (value["at_work"], value["waiting"]) == (0, 1)
    assert value["ends_ns"] == later + 100 * NS
    (line,) = [line for line in verb._running(value) if line.startswith("web1:a")]
    assert "the line was cut, again at " in line and "try" not in line
    value = play(status, moving, 5, lambda second: [event("a", "dumping", 10 * second)])
    assert value["dumps"][0]["tries"] == 2
    assert any("dumping, try 2" in line for line in verb._running(value))


def test_who_waits_for_room_is_at_the_same_try(server, moving):
    status = Status(server.settings, "run", now=moving)
    status.expect([Todo("web1", "a", 0, 1000, 100.0)], 1)
    play(status, moving, 2, lambda second: [event("a", "connecting")])
    status.event(event("a", "waiting", why="waits for room", held=True))
    assert status.value()["dumps"][0]["tries"] == 1
    play(status, moving, 2, lambda second: [event("a", "connecting"), event("a", "dumping", 10)])
    assert status.value()["dumps"][0]["tries"] == 1
    status.event(event("a", "waiting", why="is made again when the others are through"))
    play(status, moving, 2, lambda second: [event("a", "connecting")])
    assert status.value()["dumps"][0]["tries"] == 2


def copy(target, phase, count=0, total=1000, dump="d"):
    return {"client": "web1", "source": "a", "dump": dump, "target": target, "phase": phase, "bytes": count,
            "total": total}  # fmt: skip


def test_copies_have_speed_and_end_and_those_that_wait_their_reason(server, moving):
    status = Status(server.settings, "run", now=moving)
    value = play(status, moving, 21, lambda second: [copy("nas", "copying", 20 * second)])
    assert value["dumps"][0]["rate"] == 20 and value["dumps"][0]["ends_ns"] == pytest.approx((1_000_020 + 30) * NS)
    assert value["copies"]["left"] == 600 and value["copies"]["ends_ns"] == pytest.approx((1_000_020 + 30) * NS)
    waits = {"client": "web1", "source": "b", "dump": "e", "target": "nas", "bytes": 2000, "why": ""}
    status.queue = lambda: [waits]
    value = status.value()
    assert (value["copies"]["waiting"], value["copies"]["left"]) == (1, 2600)
    assert value["copies"]["ends_ns"] is not None
    status.queue = lambda: [{**waits, "why": "its window opens at 22:00"}]
    value = status.value()
    assert value["copies"]["ends_ns"] is None  # who knows how long that takes
    assert any("nas: 1 wait: its window opens at 22:00" in line for line in verb._running(value))
    status.event(copy("nas", "verified", 1000))
    value = status.value()
    assert value["copied"] == 1 and value["copies"]["at_work"] == 0


def test_a_fleet_fits_into_eighty_columns(server, moving):
    status = Status(server.settings, "run", now=moving)
    long = "database-of-the-accounting-department-in-the-main-building"
    status.expect([Todo(f"client-{number}.a-rather-long-domain.example.org", long, 0, 10**13, 9e4)
                   for number in range(300)], 8)  # fmt: skip

    def at(second):
        return [{"client": f"client-{number}.a-rather-long-domain.example.org", "source": long, "phase": "dumping",
                 "level": 0, "bytes": 123_456_789 * second, "total": None} for number in range(8)]  # fmt: skip

    value = play(status, moving, 10, at)
    status.event({**at(0)[0], "phase": "failed"})
    status.event({**at(0)[1], "phase": "waiting", "why": "waits for room on the holding disk: " + "x" * 200})
    seen = {"running": {**status.value(), "user": "stowage", "command": "stowage run " + "--client c " * 50},
            "killed": None, "waiting": [{"pid": 1, "since": clock.iso(clock.now_ns()), "what": "run", "user": "anna",
                                         "command": "stowage run --join"}]}  # fmt: skip
    for width in (80, 100, 200):
        lines = verb._told(seen, width)
        assert max(map(len, lines)) <= width
        assert len(lines) < 25
    assert value["rate"] == pytest.approx(8 * 123_456_789, rel=0.01)
    text = "\n".join(verb._told(seen, 80))
    for words in (" MB/s", "end about", "292 more wait for their turn", "anna: stowage run --join"):
        assert words in text
    assert len(verb._told(seen, 80, 12)) <= 10 and "more lines" in verb._told(seen, 80, 12)[-1]
    assert statuses.QUEUED < 300


def test_lines_with_a_rate_and_clients_with_an_own_limit_are_reckoned_with():
    assert over_lines([Coming(900, 100, 0, "wan"), Coming(None, 0, 0, "wan"), Coming(10**9)], {"wan": 10, "x": 1}) == 80
    assert over_lines([], {}) == 0
    mine = [Todo("a", str(number), 0, None, 10.0) for number in range(3)]
    assert ends([], mine, 4, 2, 0) == (20, 0) and ends([], mine, 4, 2, 0, {"a": 1}) == (30, 0)


def test_the_end_of_dumps_and_copies_together():
    assert with_copies(50, 0, [Coming(100)], 0, None) == (50, 0)  # nothing is copied
    assert with_copies(50, 0, [Coming(100, 0, 2)], 0, 10) == (70, 0)  # both copies behind the dump
    assert with_copies(50, 0, [Coming(100, 90, 1), Coming(300, 0, 1)], 800, 10) == (120, 0)  # the copies take longer
    assert with_copies(50, 0, [Coming(100, 0, 1)], 0, None) == (50, 1)  # nobody knows how fast
    assert with_copies(50, 1, [Coming(None, 0, 1)], 100, 10) == (50, 2)
    assert with_copies(0, 0, [], 100, 10) == (10, 0)


def test_a_run_tells_one_end_of_dumps_and_copies(server, moving):
    status = Status(server.settings, "run", now=moving)
    status.expect([Todo("web1", "a", 0, 1000, 100.0, 0, 1), Todo("web1", "b", 0, 1000, 100.0, 0, 1)], 1)
    value = status.value()
    assert value["ends_ns"] == value["run_not_before_ns"] == clock.now_ns() + 200 * NS and value["run_ends_ns"] is None
    assert any(line.startswith("in all  end at ") and "or later" in line for line in verb._running(value))
    play(status, moving, 101, lambda second: [event("a", "dumping", 10 * second)])
    status.event(event("a", "done", 1000))
    both = ((event("b", "dumping", 10 * second), copy("nas", "copying", 20 * second)) for second in range(21))
    value = play(status, moving, 21, lambda second: next(both))
    # 800 bytes more of b in 80 s, 600 of its brother's copy, then 1000 at 20 a second
    assert value["run_ends_ns"] == pytest.approx(clock.now_ns() + (79 + 50) * NS, abs=4 * NS)
    assert any(line.startswith("in all  end about ") for line in verb._running(value))
    status.event(event("b", "done", 1000))
    status.event(copy("nas", "verified", 1000))
    waits = {"client": "web1", "source": "b", "dump": "e", "target": "nas", "bytes": 5000, "why": "a closed window"}
    status.queue = lambda: [waits]
    assert status.value()["run_ends_ns"] is None  # there is nothing that it waits for
