"""A frame on a slow line takes minutes: what of it came is told meanwhile, and only to those who look."""

from __future__ import annotations

import pytest

from backupcore.dump import underway
from backupcore.dump.underway import UnderWay


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(underway.time, "monotonic", lambda: now[0])
    return now


def test_what_is_read_in_a_frame_is_told_once_a_second_and_never_becomes_less(clock):
    told, waited = [], []
    known = UnderWay(told.append)
    known.begin()
    assert known.last() is None
    read = known.reading(lambda count, check: waited.append(count))

    def come(seconds, count):
        clock[0] += seconds
        read(count, lambda: None)

    come(5.0, 1000)  # HELLO: nothing of a dump
    assert known.event({"phase": "connecting", "bytes": 0}) == {"phase": "connecting", "bytes": 0}
    come(5.0, 1000)
    assert told == []
    known.event({"phase": "dumping", "bytes": 50})
    for _ in range(8):
        come(0.25, 100)
    assert [one["bytes"] for one in told] == [450, 850]
    assert known.last()["bytes"] == 50  # what is whole
    # a frame is whole: less than was read, since its head and the index came too
    assert known.event({"phase": "dumping", "bytes": 800})["bytes"] == 850
    assert known.last()["bytes"] == 800
    assert known.event({"phase": "dumping", "bytes": 900})["bytes"] == 900
    assert known.event({"phase": "finishing", "bytes": 700})["bytes"] == 700
    come(2.0, 100)
    assert len(told) == 2 and len(waited) == 11
    known.event({"phase": "connecting", "bytes": 0})  # another attempt
    assert known.event({"phase": "dumping", "bytes": 10})["bytes"] == 10
    known.begin()
    assert known.last() is None
    come(2.0, 100)
    assert len(told) == 2
