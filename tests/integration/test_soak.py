"""Nights in a loop: what they need and leave behind stays as it was, but for what is kept."""

from __future__ import annotations

import os
import time

import planned
import pytest
import soak

from backupcore.catalog import past

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="an agent as root")

MIB = 1 << 20
# Logs and histories that are made to grow, with how many of each a night may add at most (a look is a few runs more).
GROWING = {
    "bytes state/audit.log": 4000, "files state/runs": 2, "bytes state/runs": 2500, "files nas": 2, "bytes nas": 2500,
    "files far": 2, "bytes far": 2500, "rows runs": 4, "rows results": 3, "rows stays": 4,
    "bytes state/catalog.sqlite": 6000, "pages catalog": 2,
}  # fmt: skip
SAME = ("descriptors", "threads", "children", "other")
# Which copies a night's sample reads hangs on what was read last: proofs go with their dump, and one dump has at most
# these: the whole, a sample and a drill, on the holding disk and two targets.
PROOFS = 3 * 3


@pytest.fixture
def world(tmp_path, monkeypatch):
    kept = tmp_path / "tmp"
    kept.mkdir()
    monkeypatch.setenv("TMPDIR", str(kept))
    for server in planned.server(tmp_path):
        yield soak.Soak(server, tmp_path, planned.moved(monkeypatch))


def cycles(world, count, look=1):
    """So many cycles of nights; what there was after each."""
    found = []
    for number in range(count):
        for _ in range(soak.CYCLE):
            world.night()
        if number % look == look - 1:
            world.look()
        found.append(world.count())
    return found


def grown(found, nights, growing=GROWING):
    """What is more at the end than it ever was in the first half, and may not be."""
    half = len(found) // 2
    wrong = {}
    for name in found[-1]:
        if name in ("memory", "rows proofs"):
            continue
        before, now = max(one.get(name, 0) for one in found[:half]), found[-1][name]
        spare = growing.get(name, 0) * nights
        if name.startswith(("bytes", "pages")):
            spare += max(before // 8, 4096 if name.startswith("bytes") else 2)  # compressed sizes are never quite equal
        if now > before + spare:
            wrong[name] = [one.get(name, 0) for one in found]
    for one in found:
        if one["rows proofs"] > PROOFS * one["rows dumps"]:
            wrong["rows proofs"] = [one["rows proofs"] for one in found]
    return wrong


def test_some_nights_leave_nothing_but_what_is_kept(world):
    cycles(world, 2)  # until what is kept goes in and out
    found = cycles(world, 2)
    assert grown(found, soak.CYCLE) == {}
    assert [found[-1][name] for name in SAME] == [found[0][name] for name in SAME]
    assert not os.listdir(os.environ["TMPDIR"]) and found[-1]["children"] == 0
    assert found[-1]["memory"] - found[0]["memory"] < 16 * MIB


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_minutes_of_nights_leave_nothing_but_what_is_kept(world, monkeypatch):
    monkeypatch.setattr(past, "LEAST", 8)
    world.server.write(prune={"grace": 0, "history": "35 days"})
    cycles(world, 20, look=2)  # 60 days: histories have reached their length too
    begun, found = time.monotonic(), []
    while time.monotonic() - begun < 600 or len(found) < 12:
        found += cycles(world, 2, look=2)[1:]
    nights = 2 * soak.CYCLE * len(found)
    # the records that a target keeps for a rebuild, and the log, are all that grows now
    logs = ("bytes state/audit.log", "files nas", "files far", "bytes nas", "bytes far")
    log = {name: GROWING[name] for name in logs}
    assert grown(found, nights, log) == {}
    assert [found[-1][name] for name in SAME] == [found[0][name] for name in SAME]
    assert not os.listdir(os.environ["TMPDIR"])
    half = len(found) // 2
    before, after = (sorted(one["memory"] for one in part)[len(part) // 2] for part in (found[:half], found[half:]))
    assert after - before < 4 * MIB, [one["memory"] for one in found]
