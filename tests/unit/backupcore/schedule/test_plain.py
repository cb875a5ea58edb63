"""The plain rule: every level has its reason, and no incremental builds on what cannot be restored."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backupcore.schedule.plain import DAY_NS, Past, plan, plan_one

NOW = 1_795_000_000 * 10**9


def past(name, days_ago, base=None, **values):
    return Past(name, int(name[1]), base, NOW - int(days_ago * DAY_NS), **values)


def test_the_first_dump_is_a_full():
    assert plan_one([], NOW, 7) == (0, None, "the first dump")
    assert plan_one([], NOW, 7, forced=3)[:2] == (0, None)
    assert "level 3 was asked for" in plan_one([], NOW, 7, forced=3)[2]


def test_within_the_cycle_level_1_builds_on_the_newest_full():
    history = [past("L0-a", 9), past("L0-b", 3), past("L1-c", 2, "L0-b"), past("L1-d", 1, "L0-b")]
    assert plan_one(history, NOW, 7)[:2] == (1, "L0-b")


@pytest.mark.parametrize(
    "age, cycle, level", [(6.4, 7, 1), (6.6, 7, 0), (7.1, 7, 0), (0.8, 1, 1), (0.95, 1, 0), (0, 0.01, 1), (1, 0.01, 0)]
)
def test_a_full_is_due_at_the_end_of_the_cycle_and_not_a_night_late(age, cycle, level):
    assert plan_one([past("L0-a", age)], NOW, cycle)[0] == level


def test_nightly_runs_make_a_full_every_seventh_night_though_none_begins_to_the_second():
    history, levels = [], []
    for night in range(22):
        now = NOW + night * DAY_NS + (night * 7919 % 600 - 300) * 10**9
        level, base, _reason = plan_one(history, now, 7)
        levels.append(level)
        history.append(Past(f"L{level}-{night}", level, base, now))
    assert [night for night, level in enumerate(levels) if level == 0] == [0, 7, 14, 21]


@pytest.mark.parametrize(
    "fault, word", [({"damaged": True}, "damaged"), ({"restorable": False}, "copy"), ({"has_state": False}, "state")]
)
def test_what_is_no_good_is_no_base(fault, word):
    level, base, reason = plan_one([past("L0-a", 2), past("L0-b", 1, **fault)], NOW, 7)
    assert (level, base) == (0, None) and word in reason and "L0-b" in reason


@pytest.mark.parametrize("fault", [{"damaged": True}, {"restorable": False}])
def test_a_base_is_as_good_as_what_it_builds_on(fault):
    history = [past("L0-a", 3), past("L1-b", 2, "L0-a"), past("L2-c", 1, "L1-b")]
    assert plan_one(history, NOW, 7, forced=3)[:2] == (3, "L2-c")
    history[1] = replace(history[1], **fault)
    assert plan_one(history, NOW, 7, forced=3)[:2] == (3, "L0-a")
    assert "L1-b" in plan_one(history, NOW, 7, forced=3)[2]
    history[0] = replace(history[0], **fault)
    assert plan_one(history, NOW, 7, forced=3)[:2] == (0, None)


def test_state_is_asked_of_the_base_only():
    history = [past("L0-a", 3, has_state=False), past("L1-b", 2, "L0-a")]
    assert plan_one(history, NOW, 7, forced=2)[:2] == (2, "L1-b")
    assert plan_one(history, NOW, 7)[:2] == (0, None)


def test_a_torn_chain_is_no_base():
    assert plan_one([past("L1-b", 2, "L0-a")], NOW, 7)[:2] == (0, None)
    assert plan_one([past("L1-b", 2, "L0-a")], NOW, 7, forced=2)[:2] == (0, None)
    assert plan_one([past("L1-b", 2, None)], NOW, 7, forced=2)[:2] == (0, None)
    assert plan_one([past("L1-b", 2, "L1-b")], NOW, 7, forced=2)[:2] == (0, None)


def test_a_level_that_was_asked_for_builds_on_the_newest_lower_one():
    history = [past("L0-a", 30), past("L1-b", 20, "L0-a"), past("L1-c", 10, "L0-a")]
    assert plan_one(history, NOW, 7, forced=0)[:2] == (0, None)
    assert plan_one(history, NOW, 7, forced=1)[:2] == (1, "L0-a")
    assert plan_one(history, NOW, 7, forced=2)[:2] == (2, "L1-c")
    with pytest.raises(ValueError):
        plan_one(history, NOW, 7, forced=10)


def test_a_full_from_the_future_does_not_hold_off_fulls_for_ever():
    history = [past("L0-a", -4000)]
    levels = []
    for night in range(8):
        level, base, _reason = plan_one(history, NOW, 7)
        levels.append(level)
        history.append(Past(f"L{level}-{night}", level, base, history[-1].begun_ns + 10**9))
    assert levels == [1, 1, 1, 1, 1, 1, 0, 1]
    assert plan_one([past("L0-a", -0.5)], NOW, 7)[0] == 1  # an hour of summer time is no broken clock


def test_each_source_has_its_own_history_and_the_order_stays():
    wanted = [("web2", "etc"), ("web1", "etc"), ("web1", "home")]
    planned = plan(wanted, {("web1", "etc"): [past("L0-a", 1)]}, NOW, 7)
    assert [(one.client, one.source) for one in planned] == wanted
    assert [one.level for one in planned] == [0, 1, 0]
