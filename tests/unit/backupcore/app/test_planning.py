"""From history to the driver's list and back: nights of a small world without clients, files and database."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from backupcore import clock
from backupcore.app import plan_ask, plan_kept, plan_state, plan_told
from backupcore.app.planning import Planner
from backupcore.catalog import places
from backupcore.catalog.records import ResultRow
from backupcore.dump import history
from backupcore.schedule import nights
from backupcore.schedule.bases import Past
from backupcore.settings import Client, CopyRule, NightLimit, PlanningSettings, Policy, Settings, Source, Timing

GB = 10**9


class World:
    """Sources of some size that change by 2 % a night; dumps are as large as that says."""

    def __init__(self, tmp_path, monkeypatch):
        self.policy = Policy("standard")
        self.settings = Settings(
            file=tmp_path / "stowage.yml", state=tmp_path / "state", keys=tmp_path / "keys", holding=(), cycle_days=7,
            targets={}, policies={}, clients={},
        )  # fmt: skip
        self.past, self.rows, self.sizes, self.estimates = {}, {}, {}, []
        self.now = datetime(2026, 11, 23, 21, 30)  # a Monday
        self.number = 0
        monkeypatch.setattr(history, "gather", lambda _settings, _catalog, _keys, _since: self.past)

    @property
    def ns(self):
        return nights.moment(self.now)

    @property
    def night_number(self):
        return nights.night_of(self.ns)

    # what Planner and plan_kept ask of a catalog
    def dump(self, name):
        return self.rows.get(name)

    def add_estimates(self, rows):
        self.estimates += rows

    def set(self, **values):
        self.settings = replace(self.settings, **values)

    def plans(self, **values):
        self.set(planning=replace(self.settings.planning, **values))

    def source(self, client, name, size=10 * GB, presence="always", policy=None, **timing):
        made = Source(client, name, "tree", policy or self.policy, {"path": "/x"}, Timing(**timing))
        old = self.settings.clients.get(client)
        sources = {**(old.sources if old else {}), name: made}
        clients = {**self.settings.clients, client: Client(client, sources, presence=presence)}
        self.set(clients=clients)
        self.sizes[client, name] = size

    def remove(self, client, name):
        old = self.settings.clients[client]
        kept = {key: one for key, one in old.sources.items() if key != name}
        self.set(clients={**self.settings.clients, client: replace(old, sources=kept)})

    def everyone(self):
        return [source for client in self.settings.clients.values() for source in client.sources.values()]

    def named(self, *names):
        return [one for one in self.everyone() if f"{one.client}:{one.name}" in names]

    def plan(self, names=None, level=None, due=False):
        chosen = None if names is None else self.named(*names)
        return Planner(self.settings, self, self.ns).plan(self.everyone(), chosen, level, due=due)

    def begin(self, names=None, level=None, due=False):
        """Plans and notes that it begins; (what was planned, the run)."""
        tonight = self.plan(names, level, due)
        run = f"{clock.stamp(self.ns)}-{self.number:04x}"
        self.number += 1
        plan_kept.begin(self.settings, tonight, run)
        return tonight, run

    def make(self, planned, run, minutes=1):
        """A dump as planned; its name."""
        key = (planned.client, planned.source)
        self.number += 1
        name = f"{clock.stamp(self.ns)}-L{planned.level}-{self.number:08x}"
        mine = self.past.setdefault(key, [])
        begun = self.ns + self.number * clock.NS
        size = self.sizes[key]
        if planned.level:
            base = next(one for one in mine if one.id == planned.base)
            size *= 1 - 0.98 ** max(1, (begun - base.begun_ns) / (86400 * clock.NS))
        mine.append(Past(name, planned.level, planned.base, begun, run=run, archive=int(size), stored=int(size),
                         entries=100, seconds=size / 1e8))  # fmt: skip
        self.rows[name] = SimpleNamespace(
            id=name, client=key[0], source=key[1], segment="", level=planned.level, stored_size=int(size), entries=100,
            archive_size=int(size), begun_ns=begun, ended_ns=begun, codec="zstd", run=run,
        )  # fmt: skip
        return name

    def night(self, names=None, level=None, away=(), fail=(), due=False):
        """A run; {client:source: level} of what was made."""
        tonight, run = self.begin(names, level, due)
        results = []
        for one in tonight.planned:
            unit = f"{one.client}:{one.source}"
            if one.client in away:
                results.append(ResultRow(run, one.client, one.source, False, one.level, code="client-unreachable"))
            elif unit in fail:
                results.append(ResultRow(run, one.client, one.source, False, one.level, code="source-failed"))
            else:
                results.append(ResultRow(run, one.client, one.source, True, one.level, self.make(one, run)))
        plan_kept.end(self.settings, self, tonight, results)
        self.tonight, self.results = tonight, results
        self.summary = plan_told.summary(tonight, plan_kept.done(self, results))
        json.dumps(self.summary)  # a run keeps it
        return {f"{one.client}:{one.source}": one.level for one in results if one.ok}

    def next(self, days=1):
        self.now += timedelta(days=days)
        return self

    def bytes(self, made):
        return sum(self.past[tuple(unit.split(":"))][-1].stored for unit in made)


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


def test_a_source_gets_its_full_and_then_changes_and_a_full_within_the_cycle(world):
    world.source("web1", "etc")
    levels = [world.night()["web1:etc"]]
    for _night in range(21):
        levels.append(world.next().night()["web1:etc"])
    fulls = [night for night, level in enumerate(levels) if level == 0]
    assert fulls[0] == 0 and all(later - one <= 7 for one, later in zip(fulls, fulls[1:]))
    assert 3 <= len(fulls) <= 4
    for dump in world.past["web1", "etc"]:
        assert (dump.base is None) == (dump.level == 0)


def test_fulls_that_began_together_come_to_lie_on_different_nights(world):
    for number in range(14):
        world.source(f"c{number}", "home")
    assert len(world.night()) == 14  # small enough to begin at once
    loads = [world.bytes(world.next().night()) for _night in range(28)]
    late = loads[14:]
    assert max(late) < 2 * sum(late) / len(late)


def test_large_first_fulls_are_spread_and_the_report_says_who_waits(world):
    for number in range(14):
        world.source(f"c{number}", "home")
    world.plans(first_nights=7)
    first = world.night()
    assert 0 < len(first) < 14
    told = plan_told.as_dict(world.tonight, {})
    assert told["first_fulls"]["sources"] == 14 and told["first_fulls"]["nights"] == 7
    seen = set(first)
    for _night in range(6):
        seen |= set(world.next().night())
    assert len(seen) == 14
    world.next().night()
    assert plan_told.as_dict(world.tonight, {})["first_fulls"] == {"sources": 0, "nights": 0}


def test_all_first_fulls_at_once_when_asked(world):
    world.set(dumps_at_once=1)
    for number in range(30):
        world.source(f"c{number}", "home")
    assert len(world.plan().planned) < 30  # by default a flood is spread
    world.plans(first_nights=1)
    assert len(world.night()) == 30


def test_a_source_that_waits_is_dumped_by_its_name(world):
    world.set(dumps_at_once=1)
    for number in range(30):
        world.source(f"c{number}", "home")
    plan = world.plan()
    waits = next(unit for unit in plan.ones if unit not in plan.choices)
    assert world.night([waits]) == {waits: 0}


def test_a_run_of_some_sources_leaves_the_others_as_they_were(world):
    for number in range(8):
        world.source(f"c{number}", "home")
    world.night()
    for _night in range(3):
        world.next().night()
    before = plan_state.read(world.settings.state).memory
    world.next()
    assert set(world.night(["c1:home"])) == {"c1:home"}
    after = plan_state.read(world.settings.state).memory
    assert {unit: trace.full for unit, trace in after.units.items() if unit != "c1:home"} == {
        unit: trace.full for unit, trace in before.units.items() if unit != "c1:home"}  # fmt: skip
    assert all(trace.missed is None for trace in after.units.values())
    assert set(world.night()) == {f"c{number}:home" for number in range(8)}  # the night itself still has all


def test_a_second_run_in_a_night_makes_changes_and_moves_no_full(world):
    for number in range(8):
        world.source(f"c{number}", "home")
    first = world.night()
    assert set(first.values()) == {0}
    world.now += timedelta(hours=4)  # after midnight: the same night
    second = world.night()
    assert second == dict.fromkeys(first, 1)
    assert all("once more" in one.reason for one in world.tonight.planned)
    for _night in range(3):
        made = world.next().night()
    world.now += timedelta(hours=3)
    again = world.night()
    # what was an incremental is one of the same level, what was a full gets its changes
    assert again == {unit: level or 1 for unit, level in made.items()}


def test_a_level_by_hand_is_made_whatever_the_plan_says(world):
    world.source("web1", "etc", days=frozenset({5}))
    world.source("web1", "home")
    world.source("web1", "never", strategy="skip")
    assert world.night(["web1:etc"], level=3) == {"web1:etc": 0}  # nothing to build on
    assert "level 3 was asked for" in world.tonight.planned[0].reason
    assert world.night(level=0) == {"web1:etc": 0, "web1:home": 0}  # on a Monday, though etc is for Saturdays
    world.next()
    assert world.night(level=2) == {"web1:etc": 2, "web1:home": 2}
    assert set(world.next().night()) == {"web1:home"}


def test_a_forced_full_waits_for_the_next_run_and_is_made_once(world):
    world.source("web1", "etc")
    world.source("web1", "home")
    world.night()
    world.next()
    plan_state.force(world.settings.state, "web1", "etc", 0)
    assert {one.source: one.level for one in world.plan().planned} == {"etc": 0, "home": 1}
    assert world.night(["web1:home"]) == {"web1:home": 1}
    world.night(fail=["web1:etc"])
    assert plan_state.forced(world.settings.state) == {("web1", "etc"): 0}  # not made: it still holds
    assert world.night()["web1:etc"] == 0
    assert plan_state.forced(world.settings.state) == {}
    assert world.next().night()["web1:etc"] == 1


def test_what_is_no_forced_level_is_left_alone(world):
    folder = places.forced_folder(world.settings.state)
    folder.mkdir(parents=True)
    for name, content in {"web1:etc": "x", "web1": "0", "..:etc": "0", "web1:home": "12", "a:b": "3\n"}.items():
        (folder / name).write_text(content)
    assert plan_state.forced(world.settings.state) == {("a", "b"): 3}


def test_days_skip_and_earliest(world):
    world.source("web1", "week", days=frozenset(range(5)), earliest=22 * 60)
    world.source("web1", "never", strategy="skip")
    world.source("web1", "late", earliest=3 * 60)
    world.source("web1", "gone", earliest=12 * 60)
    planned = {one.source: one for one in world.plan().planned}
    assert set(planned) == {"week", "late", "gone"}
    begin = {name: clock.local(one.not_before_ns) if one.not_before_ns else "" for name, one in planned.items()}
    assert begin == {"week": "2026-11-23 22:00", "late": "2026-11-24 03:00", "gone": ""}
    assert all(not one.not_before_ns for one in world.plan(["web1:week"]).planned)  # by its name: now
    world.now += timedelta(days=5)  # a Saturday
    assert {one.source for one in world.plan().planned} == {"late", "gone"}
    assert {one.source for one in world.plan(["web1:week", "web1:never"]).planned} == {"week", "never"}


def test_strategies(world):
    world.source("web1", "fulls", strategy="full")
    world.source("web1", "changes", strategy="incremental", cycle=3)
    made = [world.night()]
    made += [world.next().night() for _night in range(9)]
    assert [one["web1:fulls"] for one in made] == [0] * 10
    assert made[0]["web1:changes"] == 0 and all(one["web1:changes"] for one in made[1:])


def test_chains_are_as_short_as_asked(world):
    world.source("web1", "etc", size=100 * GB, cycle=28, max_chain=3)
    world.night()
    for _night in range(40):
        world.next().night()
        chain, dump = 1, world.past["web1", "etc"][-1]
        by_id = {one.id: one for one in world.past["web1", "etc"]}
        while dump.base:
            dump, chain = by_id[dump.base], chain + 1
        assert chain <= 3


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": "stowage-plan/0"}', '{"format": "stowage-plan/1"}',
                                  '{"format":"stowage-plan/1","night":"x","runs":[],"since":{},"away":[],"memory":{}}',
                                  "[" * 100_000, "\x00\xff", None])  # fmt: skip
def test_a_lost_or_damaged_memory_costs_nothing_but_smoothness(world, text):
    for number in range(4):
        world.source(f"c{number}", "home")
    world.night()
    for _night in range(10):
        world.next().night()
    path = places.planner_file(world.settings.state)
    path.unlink() if text is None else path.write_bytes(text.encode("latin-1"))
    for _night in range(10):
        made = world.next().night()
        assert len(made) == 4
        for unit in made:
            fulls = [one for one in world.past[tuple(unit.split(":"))] if one.level == 0]
            assert world.night_number - nights.night_of(fulls[-1].begun_ns) < 7
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_kept_comes_back_the_same(world):
    for number in range(3):
        world.source(f"c{number}", "home")
    world.night(away=["c1"])
    kept = plan_state.read(world.settings.state)
    assert kept.away == ("c1",) and kept.night == world.night_number and len(kept.runs) == 1
    plan_state.write(world.settings.state, kept)
    assert plan_state.read(world.settings.state) == kept


def test_a_night_that_was_killed_is_made_good_by_the_next(world):
    for number in range(8):
        world.source(f"c{number}", "home")
    world.night()
    for _night in range(8):
        world.next().night()
    world.next()
    tonight, run = world.begin()
    for one in tonight.planned[:4]:
        world.make(one, run)  # and then the power went
    rest = {f"{one.client}:{one.source}": one.level for one in tonight.planned[4:]}
    once_more = world.night()  # the same night, by hand in the morning
    assert len(once_more) == 8
    for one in tonight.planned[:4]:
        assert once_more[f"{one.client}:{one.source}"] == (one.level or 1)
    for unit, level in rest.items():
        if level == 0:
            assert once_more[unit] == 0  # a full that was due and not made
    for _night in range(10):
        made = world.next().night()
        for unit in made:
            fulls = [nights.night_of(one.begun_ns) for one in world.past[tuple(unit.split(":"))] if one.level == 0]
            assert world.night_number - fulls[-1] < 7


def test_a_client_that_was_away_gets_its_full_when_it_is_back(world):
    world.source("nb1", "home", presence="roaming")
    world.source("web1", "home")
    world.night()
    for _night in range(8):
        made = world.next().night(away=["nb1"])
        assert made["web1:home"] is not None and "nb1:home" not in made
    assert "nb1" in plan_state.read(world.settings.state).away
    late = [one for one in world.summary["late"] if one["client"] == "nb1"]
    assert late and late[0]["nights"] == 1 and late[0]["why"]
    # without asking it counts as away; the run tries it all the same, at the end
    tried = world.next().plan().planned
    assert (tried[-1].client, tried[-1].level) == ("nb1", 1) and "in case" in tried[-1].reason
    levels = []
    for _night in range(4):
        levels.append(world.night()["nb1:home"])
        world.next()
    assert 0 in levels  # within its grace of 3 nights
    assert plan_state.read(world.settings.state).away == ()


def test_a_changed_cycle_and_a_removed_source_are_planned_anew_at_once(world):
    for name in ("a", "b", "c"):
        world.source("web1", name)
    world.night()
    for _night in range(3):
        world.next().night()
    world.source("web1", "a", cycle=2)
    world.remove("web1", "c")
    world.source("web1", "renamed")
    world.next()
    plan = world.plan()
    assert {one.source for one in plan.planned} == {"a", "b", "renamed"}
    due = plan.choices["web1:a"].due
    assert due is not None and due <= world.night_number + 1
    assert plan.choices["web1:renamed"].level == 0
    world.night()
    memory = plan_state.read(world.settings.state)
    assert set(memory.memory.units) == {"web1:a", "web1:b", "web1:renamed"} == set(memory.since)
    fulls = []
    for night in range(8):
        if world.next().night()["web1:a"] == 0:
            fulls.append(night)
    assert len(fulls) >= 3


def test_a_hard_limit_holds_and_what_is_given_up_is_said(world):
    policy = Policy("standard", copies=(CopyRule("cloud"), CopyRule("tape", dumps="full")))
    for number in range(6):
        world.source(f"c{number}", "home", size=10 * GB, policy=policy)
    world.night()
    limits = {"bytes": NightLimit(12 * GB), "target:tape": NightLimit(11 * GB)}
    world.plans(limits=limits)
    for _night in range(14):
        made = world.next().night()
        assert world.bytes(made) <= 12 * GB * 1.01
        assert len(made) == 6
    world.plans(limits={"bytes": NightLimit(1 * GB)})  # no full fits
    for _night in range(8):
        world.next().night()
    given = plan_told.as_dict(world.tonight, {})["given_up"]
    assert given and all(one["why"] and one["what"] in ("full", "level", "incremental") for one in given)
    assert world.summary["given_up_count"] == len(given) and world.summary["late"]
    assert any("Given up" in line for line in plan_told.why(world.tonight, f"{given[0]['client']}:home"))


def test_what_this_night_took_counts_against_its_limits_only(world):
    for number in range(3):
        world.source(f"c{number}", "home", size=10 * GB)
    world.plans(limits={"bytes": NightLimit(35 * GB)})
    assert len(world.night()) == 3
    plan = world.plan()
    assert plan.view.limits["bytes"].amount == 35 * GB
    assert plan.view.coming[world.night_number]["bytes"].amount == pytest.approx(5 * GB)
    assert world.next().plan().view.coming == {}


def test_a_dump_that_took_until_noon_belongs_to_the_night_of_its_run(world):
    world.source("web1", "home")
    world.night()
    dump = world.past["web1", "home"][0]
    world.past["web1", "home"] = [replace(dump, begun_ns=dump.begun_ns + 20 * 3600 * clock.NS)]
    (unit,) = world.next().plan().view.units
    assert unit.last_full == world.night_number - 1
    world.past["web1", "home"] = [replace(dump, run="")]  # as a rebuild finds it
    assert world.plan().view.units[0].last_full == world.night_number - 1


def test_own_schedules_are_due_by_the_clock_and_the_night_leaves_them_alone(world):
    world.source("web1", "home")
    world.source("db1", "dumps", full="sun 20:00", incremental="mon-sat 21:00")
    assert world.night() == {"web1:home": 0, "db1:dumps": 0}  # the first time it is due at once
    world.now = datetime(2026, 11, 24, 20, 58)
    assert world.night(due=True) == {}
    world.now = datetime(2026, 11, 24, 21, 0)
    assert world.night(due=True) == {"db1:dumps": 1}
    assert "own schedule" in world.tonight.planned[0].reason
    assert world.night(due=True) == {}
    world.now = datetime(2026, 11, 24, 21, 30)
    assert set(world.night()) == {"web1:home"}
    assert world.night(["db1:dumps"]) == {"db1:dumps": 1}  # by its name, always
    world.now = datetime(2026, 11, 29, 20, 1)
    assert world.night(due=True) == {"db1:dumps": 0}
    world.now = datetime(2026, 11, 29, 21, 30)
    night = nights.night_of(world.ns)
    unit = next(one for one in world.plan().view.units if one.id == "db1:dumps")
    assert unit.last_full == night and unit.wish.own and unit.wish.forced is None
    assert unit.wish.own_fulls == (night, night + 7)
    # where no timer runs, the night itself makes up for it
    world.now = datetime(2026, 11, 30, 21, 30)
    assert set(world.night()) == {"web1:home", "db1:dumps"}


def test_hourly_dumps_build_on_the_last_night_and_no_night_on_them(world):
    world.source("web1", "home", incremental="hourly")
    assert world.night(due=True) == {}  # its first full is the night's
    world.night()
    for night in range(3):
        for _hour in range(3):
            world.now += timedelta(hours=1)
            assert world.night(due=True) == {"web1:home": 9}
            assert world.night(due=True) == {}
        world.now = datetime(2026, 11, 24 + night, 21, 30)
        made = world.night()["web1:home"]
        assert made < 9
        dump = world.past["web1", "home"][-1]
        base = next(one for one in world.past["web1", "home"] if one.id == dump.base) if dump.base else None
        assert base is None or base.level < 9
    assert world.plan().between > 0
    told = plan_told.as_dict(world.plan(), {})
    assert told["forecast"][1]["bytes"] >= world.plan().between


def test_own_schedules_are_in_the_forecast_with_time_and_targets_too(world):
    """Twenty-four dumps a day are bytes, time and copies of each night, and what they take is no room for others."""
    nas = Policy("standard", copies=(CopyRule("nas"),))
    world.source("web1", "home", policy=nas, incremental="hourly")
    world.source("web2", "etc", policy=nas)
    world.plans(limits={name: NightLimit(amount, True) for name, amount in (
        ("bytes", 1e12), ("seconds", 1e6), ("target:nas", 1e12))})  # fmt: skip
    world.night()
    world.next()
    with_it = world.plan()
    world.source("web1", "home", policy=nas)
    without = world.plan()
    hourly = 24 * 0.5 * 0.03 * 10 * GB  # 3 % a night, as nothing is known yet, and half of that at a time
    one, other = (plan_told.as_dict(plan, {})["forecast"][2] for plan in (with_it, without))
    assert one["bytes"] - other["bytes"] == pytest.approx(hourly, rel=0.05)
    assert one["targets"]["nas"] - other["targets"]["nas"] == pytest.approx(hourly, rel=0.05)
    assert one["seconds"] > other["seconds"]
    for name in ("bytes", "seconds", "target:nas"):
        assert with_it.view.limits[name].amount < without.view.limits[name].amount, name


def test_a_schedule_of_its_own_is_nobodys_wish(world):
    world.source("web1", "home", full="sun 20:00", incremental="mon-sat 21:00")
    world.night()
    (planned,) = world.next().plan().planned
    assert (planned.level, planned.reason) == (1, "its own schedule: level 1")


def test_a_default_is_no_estimate_that_was_off(world):
    world.source("web1", "tiny", size=10_000)
    tonight, run = world.begin()
    (planned,) = tonight.planned
    world.make(planned, run)
    done = [plan_kept.Done("web1:tiny", 0, 10_000.0, True)]
    assert tonight.expected["web1:tiny"].how == "default" and plan_kept.off(tonight, done) == []
    world.next()
    tonight, _run = world.begin()
    assert plan_kept.off(tonight, [plan_kept.Done("web1:tiny", 0, 5_000_000.0, True)])[0] > 0.5


def test_why_tells_all_of_a_source_in_sentences(world):
    world.source("web1", "home", cycle=14, max_chain=4, priority=2, days=frozenset(range(5)))
    world.source("web1", "skipped", strategy="skip")
    world.night()
    for _night in range(3):
        world.next().night()
    told = "\n".join(plan_told.why(world.plan(), "web1:home"))
    for word in ("gets level", "changed since", "last good full", "a full would take 10 GB", "dumps to restore",
                 "within 14 nights", "at most 4 dumps", "priority high", "mon-fri", "due by"):  # fmt: skip
        assert word in told, (word, told)
    assert all(line.endswith(".") for line in told.split("\n"))
    assert "up to 3 nights later after its client was away and 13 nights after the server was" in told
    assert "strategy skip" in plan_told.why(world.plan(), "web1:skipped")[0]
    assert not any(str(world.night_number + ahead) in told for ahead in range(-30, 30))  # nobody knows nights by number


def test_the_chart_shows_each_night_with_bars_of_the_terminal(world):
    for number in range(4):
        world.source(f"c{number}", "home")
    world.night()
    plan = world.next().plan()
    for blocks in (True, False):
        rows = plan_told.chart(plan, blocks)
        assert len(rows) == len(plan.plan.outlook) >= 7
        assert rows[0][0] == "tonight" and rows[1][0] == "tomorrow"
        assert max(len(row[1]) for row in rows) == plan_told.WIDTH
        assert all(row[1].isascii() for row in rows) or blocks
    assert plan_told.bar(0.5, 4, False) == "##" and plan_told.bar(0.5, 4, True) == "██"
    assert plan_told.bar(0, 4, True) == ""
    assert plan_told.bar(7, 4, True) == "████" and plan_told.bar(0.125, 1, True) == "▏"


def test_who_may_be_away_is_knocked_at_and_others_are_not(world, monkeypatch):
    world.source("nb1", "home", presence="roaming")
    world.source("nb2", "home", presence="roaming")
    world.source("web1", "home")
    knocked = []

    def knock(clients):
        knocked.append([client.name for client in clients])
        return frozenset({"nb1"})

    monkeypatch.setattr(plan_ask, "_unreachable", knock)
    world.plans(estimate="history")
    planner = Planner(world.settings, world, world.ns)
    tonight = planner.plan(world.everyone(), ready=SimpleNamespace(connect=None, keep=None))
    assert knocked == [["nb1", "nb2"]]
    assert tonight.plan.absent == ("nb1:home",)
    assert [one.client for one in tonight.planned][-1] == "nb1"  # tried all the same, last
    planner.plan(world.everyone(), world.named("nb1:home"), ready=SimpleNamespace(connect=None, keep=None))
    assert len(knocked) == 1  # of one client alone the dump itself is the question


def test_a_port_that_nobody_listens_at_is_away(monkeypatch):
    import socket

    monkeypatch.setattr(plan_ask, "PROBE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as there:
        port = there.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as closed:
            free = closed.getsockname()[1]
        found = plan_ask._unreachable([
            Client("here", {}, address="127.0.0.1", port=port), Client("gone", {}, address="127.0.0.1", port=free),
            Client("odd", {}, address="no such name.invalid"), Client("bad", {}, address="\u0130" * 80),
        ])  # fmt: skip
    assert found == {"gone", "odd", "bad"}


def test_planning_settings_are_the_planners_rules(world):
    world.source("web1", "home", grace=5)
    world.plans(server_grace=2, first_nights=4)
    view = world.plan().view
    assert (view.rules.server_grace, view.rules.first_nights) == (2, 4)
    assert view.units[0].wish.grace == 5 and view.weekday == 0
    world.set(planning=PlanningSettings())
    assert world.plan().view.rules.first_nights == 1  # one source is no flood


def test_nothing_is_planned_of_nothing(world):
    tonight = world.plan()
    assert tonight.planned == () and plan_told.as_dict(tonight, {})["sources"] == []
    assert Path(world.settings.state).exists() is False


@pytest.mark.parametrize("told, shown", [
    ("tonight's limit of 1.2e+06 bytes is used up", "tonight's limit of 1.2 MB is used up"),
    ("tonight's limit of 28800 seconds is used up", "tonight's limit of 8 h 00 of dumps is used up"),
    ("tonight's limit of 5e+10 target:cloud is used up", "tonight's limit of 50 GB on cloud is used up"),
    ("its full alone takes more holding than a night's limit of 1e+09",
     "its full alone takes more than a night's limit of 1 GB on the holding disks"),
    ("level 2 would take more of tonight's target:cloud than its limit leaves",
     "level 2 would take more of tonight's cloud than its limit leaves"),
    ("full: due on night 739943, taken 1 night earlier", "full: due on the night of Mon 23 Nov, taken 1 night earlier"),
    ("bad\x1b[31m", "bad\\x1b[31m"),
])  # fmt: skip
def test_nobody_reads_bare_numbers(told, shown):
    assert plan_told.worded(told) == shown


def test_segments_are_planned_one_by_one(world):
    from backupcore.dump import cut
    from backupcore.schedule.segments import Segment

    world.source("web1", "data", size=30 * GB)
    segments = [Segment("a", (b"a",), 10 * GB), Segment("b", (b"b/c",), 10 * GB), Segment("rest", (), 10 * GB)]
    made = cut.make(segments, world.night_number, 1e9)
    cut.keep(world.settings, "web1", "data", made)
    tonight = world.plan()
    assert set(tonight.ones) == {f"web1:data/{name}" for name in made.names}
    assert {one.segment for one in tonight.planned} == set(made.names)
    assert all(one.source == "data" and one.level == 0 for one in tonight.planned)
    assert {expected.how for expected in tonight.expected.values()} == {"walk"}  # what the cut was made by
    assert len(plan_told.as_dict(tonight, {})["sources"]) == 3
    assert all(plan_told.why(tonight, unit) for unit in tonight.ones)


def test_first_fulls_of_segments_are_spread_while_their_source_goes_on(world):
    from backupcore.dump import cut
    from backupcore.schedule.segments import Segment

    world.source("web1", "data", size=30 * GB)
    for _day in range(3):  # half of it is left by compression
        world.night()
        key = ("web1", "data")
        world.past[key] = [replace(one, stored=one.archive // 2) for one in world.past[key]]
        world.next()
    parts = [*(Segment(name, (name.encode(),), 5 * GB) for name in "abcde"), Segment("rest", (), 5 * GB)]
    made = cut.make(parts, world.night_number, 1e9)
    cut.keep(world.settings, "web1", "data", made)
    tonight = world.plan()
    nights_ = plan_told.as_dict(tonight, {})["forecast"]
    fulls = [len(one["fulls"]) for one in nights_[:7]]
    assert max(fulls) <= 3 and sum(fulls) >= 6, fulls
    assert [one.level for one in tonight.planned if not one.segment] == [1]
    for name in made.names:  # as what they are parts of
        assert tonight.expected[f"web1:data/{name}"].full == pytest.approx(2.5 * GB, rel=0.05)


def test_a_fault_of_the_planner_costs_no_night(world, monkeypatch):
    from backupcore.app import planning
    from backupcore.schedule import planner
    from backupcore.schedule.memory import Memory

    for number in range(3):
        world.source(f"c{number}", "home", cycle=3)
    world.source("c0", "never", strategy="skip")
    world.source("c0", "fulls", strategy="full")
    world.source("c0", "own", full="sun 20:00")
    made = [world.night()]

    def forgetful(view, memory):
        if memory != Memory():
            raise ZeroDivisionError("no night")
        return planner.plan(view, memory)

    monkeypatch.setattr(planning, "make_plan", forgetful)
    assert set(world.next().night()) == {"c0:home", "c1:home", "c2:home", "c0:fulls"}
    assert "without what it remembered" in world.tonight.fault and "ZeroDivisionError" in world.tonight.fault

    def broken(_view, _memory):
        raise KeyError("c0:home")

    monkeypatch.setattr(planning, "make_plan", broken)
    monkeypatch.setattr(plan_kept, "remember", broken)
    for _night in range(8):
        made.append(world.next().night())
        assert set(made[-1]) >= {"c0:home", "c1:home", "c2:home", "c0:fulls"} and "c0:never" not in made[-1]
        assert made[-1]["c0:fulls"] == 0
    assert "plain rule" in world.tonight.fault
    for number in range(3):
        fulls = [nights.night_of(one.begun_ns) for one in world.past[f"c{number}", "home"] if one.level == 0]
        assert all(later - one <= 3 for one, later in zip(fulls, fulls[1:])) and len(fulls) >= 3
    assert world.night(["c0:home"], level=0) == {"c0:home": 0}
    assert plan_told.table_rows(world.tonight) and plan_told.chart(world.plan(), False)


def test_estimates_that_were_far_off_never_keep_everything_from_being_dumped(world):
    from backupcore.schedule.memory import Memory
    from backupcore.schedule.planner import plan as make_plan

    for number in range(3):
        world.source(f"c{number}", "home", size=10 * GB)
    world.night()
    world.plans(limits={"bytes": NightLimit(11 * GB)})
    view = world.next().plan().view
    units = tuple(replace(unit, levels={1: 10.0 * GB}) for unit in view.units)
    made = make_plan(replace(view, units=units), Memory(error=0.5, measured=3))
    assert len(made.choices) == 1 and len(made.given_up) == 2  # one fits, whatever is doubted


def test_a_window_counts_the_fixed_seconds_of_many_small_sources(world):
    for number in range(40):
        world.source(f"c{number}", "etc", size=50_000_000)
    world.set(dumps_at_once=1)
    slow = 60.0  # seconds that each dump takes, whatever is in it
    for _night in range(9):
        tonight, run = world.begin()
        for one in tonight.planned:
            world.make(one, run)
            mine = world.past[one.client, one.source]
            mine[-1] = replace(mine[-1], seconds=slow + mine[-1].archive / 1e8)
        world.next()
    told = plan_told.as_dict(world.plan(), {})
    near = [one["seconds"] for one in told["sources"]]
    assert len(near) == 40 and all(abs(one - slow) < 6 for one in near)
    assert all(abs(one["seconds"] - 40 * slow) < 240 for one in told["forecast"][:5])
    world.plans(limits={"seconds": NightLimit(20 * slow)})
    made = world.plan()
    given = [one for one in made.plan.given_up if one.what == "incremental"]
    assert 19 <= len(made.planned) <= 21 and len(given) >= 19  # bytes alone would have let all of them in


def test_a_source_whose_driver_tells_no_sizes_is_not_asked(world, monkeypatch):
    from backupcore.dump import estimate

    world.source("c1", "tree")
    world.source("c1", "stream")
    client = world.settings.clients["c1"]
    stream = replace(client.sources["stream"], type="stream")
    world.set(clients={"c1": replace(client, sources={**client.sources, "stream": stream})})
    asked = []

    def ask(_settings, asks, **_more):
        asked.extend(one.source for one in asks["c1"])
        walked = {(one.source, ""): estimate.Walked(10**9, 5) for one in asks["c1"]}
        return {"c1": estimate.Heard("c1", None, walked)}

    monkeypatch.setattr(estimate, "ask", ask)
    ready = SimpleNamespace(connect=None, keep=None)
    for walk in (False, True):
        asked.clear()
        planner = Planner(world.settings, world, world.ns, frozenset({"stream"}))
        tonight = planner.plan(world.everyone(), ready=ready, walk=walk)
        assert asked == ["tree"]
        how = {unit: one.how for unit, one in tonight.expected.items()}
        assert how == {"c1:tree": "walk", "c1:stream": "default"}
        assert len(tonight.planned) == 2 and not tonight.notes
    world.night()
    tonight = Planner(world.settings, world, world.ns, frozenset({"stream"})).plan(world.everyone())
    assert tonight.expected["c1:stream"].how == "history"


def test_a_dump_that_was_ended_is_walked_before_it_is_tried_again(world, monkeypatch):
    from backupcore.dump import estimate

    for number in range(3):
        world.source(f"c{number}", "home")
    for _night in range(4):
        world.night()
        world.next()
    asked = []

    def ask(_settings, asks, **_more):
        asked.extend(asks)
        return {client: estimate.Heard(client) for client in asks}

    monkeypatch.setattr(estimate, "ask", ask)
    monkeypatch.setattr(plan_ask.Round, "_error", lambda _self, _one: None)
    ready = SimpleNamespace(connect=None, keep=None)
    Planner(world.settings, world, world.ns).plan(world.everyone(), ready=ready)
    assert asked == []
    kept = plan_state.read(world.settings.state)
    plan_state.write(world.settings.state, replace(kept, ended={"c1:home": (1, 7 * GB, world.night_number - 1)}))
    tonight = Planner(world.settings, world, world.ns).plan(world.everyone(), ready=ready)
    assert asked == ["c1"]
    assert tonight.expected["c1:home"].levels[1] == 7 * GB  # what had come of it, as long as nothing tells better
    world.now += timedelta(days=8)
    again = Planner(world.settings, world, world.ns).plan(world.everyone())
    assert again.expected["c1:home"].levels[1] < 7 * GB


def test_where_not_all_changes_ever_fit_all_have_their_turn(world):
    slow = 60.0  # seconds that each dump takes, whatever is in it
    for number in range(6):
        world.source(f"c{number}", "home", size=50_000_000, priority=0 if number == 5 else 1)
    world.set(dumps_at_once=1)
    last = dict.fromkeys([f"c{number}:home" for number in range(6)], 0)
    longest = dict(last)
    for night in range(1, 50):
        if night == 9:
            world.plans(limits={"seconds": NightLimit(4.5 * slow)})
        tonight, run = world.begin()
        for one in tonight.planned:
            world.make(one, run)
            mine = world.past[one.client, one.source]
            mine[-1] = replace(mine[-1], seconds=slow + mine[-1].archive / 1e8)
            last[f"{one.client}:{one.source}"] = night
        if night >= 9:
            assert len(tonight.planned) == 4
            longest = {unit: max(longest[unit], night - last[unit]) for unit in last}
        world.next()
    assert max(longest[unit] for unit in list(longest)[:5]) <= 3, longest
    assert longest["c5:home"] <= 9, longest  # of low priority: after a cycle, and not never
