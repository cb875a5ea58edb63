"""Which dumps are due where: every, made_on, levels, after, priority, min_copies, and old dumps for new rules."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupcore import clock, hours
from backupcore.catalog import wants
from backupcore.catalog.records import CopyRow, DumpRow
from backupcore.settings import CopyRule, Policy, Source
from backupcore.stage.release import may_go
from backupcore.stage.stager import begins_now
from backupcore.stage.wanted import Wishes, dropped, due, wanted_of

SUNDAY = datetime(2026, 11, 22)  # of ISO week 47, which ends with it


def at(day: int, hour: float = 21.5) -> int:
    """A moment so many days after that Sunday's midnight."""
    return int((SUNDAY.timestamp() + day * 86400 + hour * 3600) * clock.NS)


def row(number, day, level=0, base=None, segment="", hour=21.5, run="", **more):
    return DumpRow(
        id=f"dump{number}", client="web1", source="etc", segment=segment, type="tree", path="/etc", level=level,
        counter=number, begun_ns=at(day, hour), ended_ns=at(day, hour) + 5, base=base, previous=None, run=run,
        codec="zstd", archive_size=9, stored_size=9, entries=1, files=1,
        **{"holding": f"/holding/dump{number}", "manifest_sha256": "0" * 64, **more},
    )  # fmt: skip


def names(rule, rows, copies=None):
    source = Source("web1", "etc", "tree", Policy("p", copies=(rule,)), {})
    found = wants.wanted(source, rows, copies or {})
    return [one.id for one in rows if rule.target in found[one.id]]


def copied(**states):
    return {name: {"nas": CopyRow(name, "nas", state)} for name, state in states.items()}


def test_levels():
    rows = [row(1, 0), row(2, 1, 1), row(3, 2, 2), row(4, 3, 1, segment="interim")]
    assert names(CopyRule("nas", "full"), rows) == ["dump1"]
    assert names(CopyRule("nas", "1"), rows) == ["dump2", "dump4"]
    assert names(CopyRule("nas", "2"), rows) == ["dump3"]
    assert names(CopyRule("nas", "incremental"), rows) == ["dump2", "dump3", "dump4"]


def test_the_night_is_the_one_in_which_the_run_began():
    sunday = row(1, 1, hour=3.0, run=clock.stamp(at(0)) + "-0011aabb")
    late = row(2, 1, hour=13.0, run=clock.stamp(at(0)) + "-0011aabb")
    alone = row(3, 1, hour=3.0)
    monday = row(4, 1)
    for one in (sunday, late, alone):
        assert hours.weekday_of(wants.night_of(one)) == 6
    rule = CopyRule("nas", made_on=frozenset({6}))
    assert names(rule, [sunday, late, alone, monday]) == ["dump1", "dump2", "dump3"]


def test_the_first_of_each_day_week_and_month():
    rows = [row(1, 0), row(2, 0, hour=23.0), row(3, 1), row(4, 7), row(5, 8), row(6, 9)]
    assert names(CopyRule("nas", every="day"), rows) == ["dump1", "dump3", "dump4", "dump5", "dump6"]
    assert names(CopyRule("nas", every="week"), rows) == ["dump1", "dump3", "dump5"]  # 22 Nov | 23-29 | 30 Nov on
    assert names(CopyRule("nas", every="month"), rows) == ["dump1", "dump6"]  # dump6: 1 Dec


def test_the_first_full_of_the_week_on_whatever_night_and_of_each_segment():
    rows = [row(1, 1, 1), row(2, 3), row(3, 4, segment="s1"), row(4, 5), row(5, 5, segment="s1")]
    assert names(CopyRule("nas", "full", every="week"), rows) == ["dump2", "dump3"]


@pytest.mark.parametrize("state", ["verified", "done", "expired", "copying", "failed", "wanted", "damaged"])
def test_a_choice_stays_when_an_earlier_one_turns_up(state):
    rows = [row(1, 1), row(2, 2), row(3, 3)]
    assert names(CopyRule("nas", every="week"), rows, copied(dump2=state)) == ["dump2"]


@pytest.mark.parametrize("state", ["copying", "failed", "wanted", "damaged"])
def test_what_is_lost_before_it_was_copied_gives_way(state):
    rows = [row(1, 1, damaged=True), row(2, 2, holding=None), row(3, 3), row(4, 4)]
    assert names(CopyRule("nas", every="week"), rows, copied(dump1=state)) == ["dump3"]
    assert names(CopyRule("nas", every="week"), rows[:2], copied(dump1=state)) == []


def test_a_copy_elsewhere_is_an_image_too():
    rows = [row(1, 1, holding=None), row(2, 2)]
    away = {"dump1": {"disk": CopyRow("dump1", "disk", "verified")}}
    assert names(CopyRule("nas", every="week"), rows, away) == ["dump1"]
    broken = {"dump1": {"holding": CopyRow("dump1", "holding", "damaged")}}
    assert names(CopyRule("nas", every="week"), [row(1, 1), row(2, 2)], broken) == ["dump2"]


def test_self_contained_takes_what_the_chosen_one_builds_on():
    rows = [row(1, 0), row(2, 1, 1, "dump1"), row(3, 2, 2, "dump2"), row(4, 3, 2, "dump2")]
    assert names(CopyRule("nas", "2", every="week", self_contained=True), rows) == ["dump1", "dump2", "dump3"]
    gone = {"dump3": {"nas": CopyRow("dump3", "nas", "expired")}}
    assert names(CopyRule("nas", "2", every="week", self_contained=True), rows, gone) == ["dump3"]


def names_state(copies, name):
    return copies.get(name, {}).get("nas", CopyRow(name, "nas", "wanted")).state


STATES = st.sampled_from(["", "", "verified", "done", "expired", "copying", "failed", "wanted", "damaged"])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_one_of_each_span_and_never_another_one_later(data):
    """Whatever happens between two looks, a span has one copy at most that was made on its account."""
    every = data.draw(st.sampled_from(["day", "week", "month"]))
    rule = CopyRule("nas", every=every)
    days = sorted(data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=12)))
    rows, copies = [], {}
    for number, day in enumerate(days):
        rows.append(row(number, day, damaged=data.draw(st.booleans())))
        for name in names(rule, rows, copies):
            state = copies.get(name, {}).get("nas", CopyRow(name, "nas", "")).state
            new = data.draw(STATES)
            if state in ("", "wanted", "copying", "failed") and new:
                copies.setdefault(name, {})["nas"] = CopyRow(name, "nas", new)
            if state not in ("verified", "done", "expired") and new:
                mine = wants.span_of(every, wants.night_of(next(one for one in rows if one.id == name)))
                others = [
                    one for one in rows
                    if wants.span_of(every, wants.night_of(one)) == mine and one.id != name and not one.damaged
                    and names_state(copies, one.id) in ("verified", "done", "expired")
                ]  # fmt: skip
                assert not others, "a second copy for the same span"
        if data.draw(st.booleans()):  # one is forgotten, found damaged, or good again
            victim = data.draw(st.integers(0, len(rows) - 1))
            rows[victim] = replace(rows[victim], damaged=not rows[victim].damaged)
        wanted = names(rule, rows, copies)
        spans = [wants.span_of(every, wants.night_of(one)) for one in rows if one.id in wanted]
        assert len(spans) == len(set(spans))
        for one in rows:  # a span with a good dump has one that is wanted
            if wants.is_at_hand(one, copies):
                assert wants.span_of(every, wants.night_of(one)) in spans


def test_after_waits_for_the_other_copy_and_takes_it_for_an_origin(world):
    world.policy(CopyRule("nas"), CopyRule("disk", after="nas"))
    dump = world.dump()
    assert [job.row.target for job in due(world.settings, world.catalog)] == ["nas"]
    assert [(job.row.target, job.after) for job in due(world.settings, world.catalog, waiting=True)] == [
        ("nas", ""), ("disk", "nas")
    ]  # fmt: skip
    for state in ("copying", "failed", "done", "damaged"):
        world.catalog.put_copy(CopyRow(dump.id, "nas", state))
        assert "disk" not in [job.row.target for job in due(world.settings, world.catalog)], state
    world.catalog.put_copy(CopyRow(dump.id, "nas", "verified"))
    world.catalog.set_holding(dump.id, None)
    assert [job.row.target for job in due(world.settings, world.catalog)] == ["disk"]


def test_after_waits_for_nothing_where_the_dump_does_not_go(world):
    world.policy(CopyRule("nas", "full"), CopyRule("disk", after="nas"))
    world.dump()
    changes = world.dump(level=1)
    assert [(job.dump.id, job.row.target) for job in due(world.settings, world.catalog)][1] == (changes.id, "disk")


def test_the_higher_priority_first(world):
    world.policy(CopyRule("nas"), CopyRule("disk", priority=2))
    first, second = world.dump(), world.dump(level=1)
    assert [(job.dump.id, job.row.target) for job in due(world.settings, world.catalog)] == [
        (first.id, "disk"), (second.id, "disk"), (first.id, "nas"), (second.id, "nas")
    ]  # fmt: skip


def with_least(world, least):
    clients = {}
    for name, client in world.settings.clients.items():
        sources = {key: replace(source, min_copies=least) for key, source in client.sources.items()}
        clients[name] = replace(client, sources=sources)
    world.settings = replace(world.settings, clients=clients)


@pytest.mark.parametrize("least, gone", [(None, False), (1, True), (2, False), (5, False)])
def test_min_copies_lets_a_holding_image_go(world, least, gone):
    world.policy(CopyRule("nas"), CopyRule("disk"), keep=0)
    dump = world.dump()
    with_least(world, least)
    world.catalog.put_copy(CopyRow(dump.id, "nas", "verified"))
    assert bool(may_go(world.settings, world.catalog)) is gone
    world.catalog.put_copy(CopyRow(dump.id, "disk", "verified"))
    assert may_go(world.settings, world.catalog)


def test_a_dump_that_every_passes_over_stays_on_the_holding_disk(world):
    world.policy(CopyRule("nas", every="month"), keep=0)
    first, second = world.dump(), world.dump()
    for dump in (first, second):
        world.catalog.put_copy(CopyRow(dump.id, "nas", "verified" if dump == first else "wanted"))
    assert [one.id for one in may_go(world.settings, world.catalog)] == [first.id]
    assert wanted_of(world.settings, world.catalog, second) == ()
    assert [one.dump for one in dropped(world.settings, world.catalog)] == [second.id]


def test_old_dumps_come_to_a_new_target_as_far_as_it_keeps_them(world):
    world.policy(CopyRule("nas"))
    dumps = [world.dump(level=0 if number % 3 == 0 else 1) for number in range(6)]
    for dump in dumps:
        world.catalog.put_copy(CopyRow(dump.id, "nas", "verified"))
    for dump in dumps[:5]:
        world.catalog.set_holding(dump.id, None)

    def wanted(rule):
        world.policy(CopyRule("nas"), rule)
        return [job.dump.id for job in due(world.settings, world.catalog)]

    assert wanted(CopyRule("disk")) == [dump.id for dump in dumps]
    assert wanted(CopyRule("disk", keep={"last": 2})) == [dumps[4].id, dumps[5].id]
    assert wanted(CopyRule("disk", keep={"last": 2}, self_contained=True)) == [dump.id for dump in dumps[3:]]
    assert wanted(CopyRule("disk", "full", keep={"last": 1})) == [dumps[3].id]
    # what lies on the holding disk is copied in any case, and what was begun goes on
    world.catalog.set_holding(dumps[0].id, dumps[0].holding)
    world.catalog.put_copy(CopyRow(dumps[1].id, "disk", "failed", {"files": {"x": "1"}}))
    assert wanted(CopyRule("disk", keep={"last": 1})) == [dumps[0].id, dumps[1].id, dumps[5].id]
    world.catalog.put_copy(CopyRow(dumps[2].id, "disk", "wanted"))
    assert [one.dump for one in dropped(world.settings, world.catalog)] == [dumps[2].id]


def test_a_look_at_one_source_is_the_same_as_at_all(world):
    world.policy(CopyRule("nas", every="week"), CopyRule("disk", "full"))
    dumps = [world.dump("web1"), world.dump("web2"), world.dump("web1", level=1)]
    every = Wishes(world.settings, world.catalog)
    assert [wanted_of(world.settings, world.catalog, dump) for dump in dumps] == [every.of(dump) for dump in dumps]


def test_one_staging_makes_a_copy_and_what_waits_for_it(world):
    world.policy(CopyRule("disk", after="nas"), CopyRule("nas"))
    dump = world.dump()
    results = world.stage()
    assert [one.ok for one in results] == [True, True]
    assert world.states(dump) == {"nas": "verified", "disk": "verified"}


def test_what_waits_keeps_its_origin_from_being_pruned(world):
    world.policy(CopyRule("nas"), CopyRule("disk", after="nas"))
    dump = world.dump()
    world.stage(targets=["disk"])
    assert world.states(dump) == {"disk": "wanted"}
    world.policy(CopyRule("nas"))
    world.stage(targets=["disk"])
    assert world.states(dump) == {}
    world.stage()
    assert world.states(dump) == {"nas": "verified"}


def test_what_waited_for_a_copy_begins_between_the_nights(world):
    world.policy(CopyRule("nas"), CopyRule("disk", after="nas"))
    dump = world.dump()
    assert begins_now(world.settings, world.catalog) == []
    world.stage(targets=["nas"])
    assert [(job.dump.id, job.row.target) for job in begins_now(world.settings, world.catalog)] == [(dump.id, "disk")]


@pytest.mark.parametrize("state", ["wanted", "failed", "copying"])
def test_what_no_rule_asks_for_any_more_is_given_up_and_what_was_begun_by_one_is_not(world, state):
    world.policy(CopyRule("nas"), CopyRule("disk"))
    dump = world.dump()
    world.catalog.put_copy(CopyRow(dump.id, "disk", state, {"files": {"x": "1"}}))
    assert dropped(world.settings, world.catalog) == []
    world.policy(CopyRule("nas"))
    assert [(one.dump, one.target) for one in dropped(world.settings, world.catalog)] == [(dump.id, "disk")]
    world.policy(CopyRule("nas"), clients=("web2",))  # a source that left keeps what was begun
    assert dropped(world.settings, world.catalog) == []
