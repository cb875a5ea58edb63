"""What clients are asked before a plan of sources in segments: one walk tells of all segments of a cut."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from backupcore.app.plan_ask import Round
from backupcore.app.plan_state import unit_id
from backupcore.dump import cut, estimate
from backupcore.schedule.records import Wish
from backupcore.schedule.segments import Segment
from backupcore.settings import Client, PlanningSettings, Policy, Settings, Source, Timing

FOLDERS = (Segment("a", (b"a", b"b/\xff"), 1), Segment("b", (b"c",), 1), Segment("rest", (), 1))


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """asked(units) -> what the agent was asked, and what came of it; units: (segment, its share, bases since)."""
    source = Source("web1", "data", "tree", Policy("standard"), {"path": "/data"}, Timing())
    settings = Settings(
        file=tmp_path / "stowage.yml", state=tmp_path, keys=tmp_path, holding=(), cycle_days=7, targets={}, policies={},
        clients={"web1": Client("web1", {"data": source})}, planning=PlanningSettings(),
    )  # fmt: skip
    heard = []

    def ask(_settings, asks, **_more):
        heard.extend(asks["web1"])
        walked = {}
        for number, one in enumerate(asks["web1"]):
            for place, part in enumerate(one.parts):
                levels = {level: 10 + level for level in part.since}
                walked[one.source, part.name] = estimate.Walked(1000 * number + place, 1, levels)
        return {"web1": estimate.Heard("web1", None, walked)}

    monkeypatch.setattr(estimate, "ask", ask)

    def asked_of(units):
        ones = {}
        for segment, share, since in units:
            unit = unit_id("web1", "data", segment) if segment else unit_id("web1", "data")
            rungs = [(level, None, SimpleNamespace(begun_ns=begun)) for level, begun in since.items()]
            habits = SimpleNamespace(size=None, fulls=0)
            ones[unit] = SimpleNamespace(
                id=unit, source=source, key=("web1", "data"), segment=segment, share=share, rungs=rungs, habits=habits,
                past=(), leaving=not share,
            )  # fmt: skip
        round_ = Round(settings, None, SimpleNamespace(away=()), 10**18, SimpleNamespace(connect=None, keep=None))
        answer = round_.ask(ones, {("web1", "data")}, dict.fromkeys(ones, Wish()), True, False)
        return heard, answer[1]

    return asked_of


def test_one_walk_tells_of_all_segments_of_a_cut(asked):
    made = cut.make(FOLDERS, 1, 1.0)
    heard, walked = asked([(one.name, one, {1: 5, 2: 9}) for one in made.shares])
    (one,) = heard
    assert [part.name for part in one.parts] == list(made.names)
    assert [part.folders for part in one.parts] == [(b"a", b"b/\xff"), (b"c",), ()]  # the last: what no other has
    assert all(part.since == {1: 5, 2: 9} for part in one.parts)
    assert set(walked) == {unit_id("web1", "data", name) for name in made.names}


def test_who_goes_on_until_a_cut_is_complete_has_a_walk_of_its_own(asked):
    """The whole has all of the rest, too, and an older cut the same folders: a walk counts each folder once."""
    old, made = cut.make(FOLDERS[1:], 1, 1.0), cut.make(FOLDERS, 1, 1.0)
    shares = [(one.name, one, {}) for one in (*old.shares, *made.shares)]
    heard, walked = asked([("", None, {1: 5}), *shares])
    assert [[part.name for part in one.parts] for one in heard] == [[""], list(old.names), list(made.names)]
    for one in heard:
        folders = [path for part in one.parts for path in part.folders]
        assert len(folders) == len(set(folders)) and sum(not part.folders for part in one.parts) == 1
    assert len(walked) == 6


def test_the_engine_asks_for_the_drivers_that_tell_sizes(monkeypatch):
    from backupcore.app import engine, plan_interim, planning
    from backupcore.sources.tree import DRIVER

    told = []

    class Planner:
        def __init__(self, _settings, _catalog, untold):
            told.append(untold)

        def plan(self, *_sources, **_more):
            return None

    monkeypatch.setattr(planning, "Planner", Planner)
    monkeypatch.setattr(plan_interim, "add", lambda _planner, tonight: tonight)
    made = object.__new__(engine.Engine)
    made.settings = SimpleNamespace(clients={})
    made.__dict__["catalog"] = None
    silent = SimpleNamespace(type="stream", estimate=False)
    made.drivers = SimpleNamespace(of=lambda _kind: {"tree": DRIVER, "stream": silent})
    made.plan()
    assert told == [frozenset({"stream"})]
