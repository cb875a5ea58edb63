"""The hard limits of a night, kept by what dumps really take: without threads, by a clock of our own."""

from __future__ import annotations

import random

import pytest

from backupcore.dump.budget import Budget, OverLimit
from backupcore.schedule.bases import Claim, Planned


class Time:
    now = 0.0

    def __call__(self):
        return self.now


def dump(name, level, size, instead=(), *, seconds=0.0, most=None, segment="", **claim):
    takes = claim.pop("takes", {"bytes": size})
    if seconds:
        takes = {**takes, "seconds": seconds}
    claim = Claim(takes, size if most is None else most, **claim)
    return Planned("c", name, level, "base" if level else None, "", segment=segment, claim=claim,
                   instead=tuple(instead))  # fmt: skip


def gone(budget):
    return [(one.planned.source, one.planned.level) for one in budget.given_up]


def test_what_is_expected_to_fit_begins():
    budget = Budget({"bytes": 100})
    waiting = [dump("a", 1, 40), dump("b", 1, 60)]
    for one in list(waiting):
        assert budget.settle(one, waiting, 0) == (one, True)
        waiting.remove(one)
        budget.begin(one)
    for one in (dump("a", 1, 40), dump("b", 1, 60)):
        budget.grown(one, int(one.claim.takes["bytes"]), whole=True)
        budget.done(one, int(one.claim.takes["bytes"]))
    assert budget.given_up == []


def test_a_full_gives_way_to_its_changes_when_others_were_larger():
    budget = Budget({"bytes": 100})
    a, full = dump("a", 1, 10), dump("b", 0, 80, [dump("b", 1, 5)])
    budget.begin(a)
    budget.grown(a, 30, whole=True)
    # it waits for what is at work, and only then gives way
    assert budget.settle(full, [full], 0) == (None, False)
    budget.done(a, 30)
    made, left = budget.settle(full, [full], 0)
    assert (made.level, left) == (1, True)
    (given,) = budget.given_up
    assert given.planned is full
    assert given.why == "the limit of tonight's bytes has 70 B left, no room for 80 B"


def test_a_full_waits_for_incrementals_that_could_spoil_it_and_only_for_those():
    budget = Budget({"bytes": 100})
    small, full = dump("a", 1, 10, most=15), dump("b", 0, 80)
    budget.begin(small)
    assert budget.settle(full, [full], 0) == (full, True)  # at its worst it takes 15
    budget = Budget({"bytes": 100})
    large = dump("a", 1, 10, most=50)
    budget.begin(large)
    assert budget.settle(full, [full], 0) == (None, False)
    budget.grown(large, 12, whole=True)
    assert budget.settle(full, [full], 0) == (full, True)


def test_changes_of_all_matter_more_than_a_full():
    budget = Budget({"bytes": 100})
    later = dump("z", 0, 90, [dump("z", 1, 30)])
    first = dump("a", 0, 80, [dump("a", 1, 10)])
    made, _left = budget.settle(first, [first, later], 0)
    assert made.level == 1  # 80 leave no room for the 30 that z changed
    assert gone(budget) == [("a", 0)]


def test_an_incremental_that_does_not_fit_goes_deeper_and_else_is_left_out():
    budget = Budget({"bytes": 20})
    made, left = budget.settle(dump("a", 1, 30, [dump("a", 2, 10)]), [], 0)
    assert (made.level, left) == (2, True)
    assert budget.settle(dump("b", 1, 30), [], 0) == (None, True)
    full = dump("c", 0, 300, [dump("c", 1, 30)])
    assert budget.settle(full, [full], 0) == (None, True)
    assert gone(budget) == [("a", 1), ("b", 1), ("c", 0), ("c", 1)]


def test_the_least_important_is_ended_and_only_when_real_bytes_are_over():
    budget = Budget({"bytes": 100})
    due, waits = dump("due", 0, 30), dump("waits", 0, 30, may_wait=True)
    low, high = dump("low", 1, 10, priority=0), dump("high", 1, 10, priority=2)
    for one in (due, waits, low, high):
        budget.begin(one)
    for one, count in ((due, 30), (waits, 30), (low, 10), (high, 30)):
        budget.grown(one, count)
    budget.grown(high, 31)  # 101
    with pytest.raises(OverLimit, match="tonight's bytes was reached: 30 B of it had come, 30 B were expected"):
        budget.grown(waits, 30)
    assert budget.ended(waits, "why") is None
    budget.done(waits, None)
    budget.grown(high, 60)  # exactly the limit
    budget.grown(high, 61)
    with pytest.raises(OverLimit):
        budget.grown(due, 30)
    budget.done(due, None)
    budget.grown(high, 91)
    with pytest.raises(OverLimit):
        budget.grown(low, 10)
    budget.done(low, None)
    with pytest.raises(OverLimit):
        budget.grown(high, 101)


def test_what_is_whole_is_ended_no_more():
    budget = Budget({"bytes": 100})
    full, small = dump("full", 0, 80), dump("small", 1, 10)
    budget.begin(full)
    budget.begin(small)
    budget.grown(full, 80, whole=True)
    with pytest.raises(OverLimit):
        budget.grown(small, 21)
    budget.grown(full, 80, whole=True)


def test_what_takes_nothing_of_a_resource_is_not_ended_for_it():
    budget = Budget({"target:tape": 50})
    incremental = dump("a", 1, 10, takes={})
    full = dump("b", 0, 40, takes={"target:tape": 40})
    budget.begin(incremental)
    budget.begin(full)
    budget.grown(incremental, 1000)
    with pytest.raises(OverLimit, match="tonight's bytes for tape"):
        budget.grown(full, 51)


def test_time_that_is_used_up_lets_nothing_begin_and_ends_nothing():
    clock = Time()
    budget = Budget({"seconds": 200}, window=100, clock=clock)
    a, b = dump("a", 1, 1, seconds=50), dump("b", 0, 1, seconds=60)
    budget.begin(a)
    clock.now = 50.0
    budget.grown(a, 1, whole=True)
    budget.done(a, 1)
    assert budget.settle(b, [b], 0) == (None, True)
    assert budget.given_up[0].why == "the window has 50 s left, and it is expected to take 60 s"
    c = dump("c", 1, 1, seconds=50)
    assert budget.settle(c, [c], 0) == (c, True)
    budget.begin(c)
    clock.now = 500.0
    budget.grown(c, 10**9, whole=True)  # it is finished
    budget.done(c, 10**9)


def test_hours_in_which_nothing_is_at_work_do_not_count_for_the_window():
    clock = Time()
    budget = Budget({"seconds": 1000}, window=100, clock=clock)
    clock.now = 5000.0
    late = dump("late", 1, 1, seconds=90)
    assert budget.settle(late, [late], 0) == (late, True)


def test_clients_that_were_away_keep_no_room_and_come_last():
    budget = Budget({"bytes": 100})
    away, full = dump("away", 1, 50, perhaps=True), dump("full", 0, 90)
    assert budget.order(away) > budget.order(full)
    assert budget.settle(full, [away, full], 0) == (full, True)


@pytest.mark.parametrize("seed", range(40))
def test_real_bytes_never_go_over_whatever_comes_and_nothing_is_stuck(seed):
    chance = random.Random(seed)
    limits = {"bytes": 1000, "target:cloud": 600}
    budget = Budget(limits)
    waiting = []
    for number in range(chance.randrange(1, 25)):
        level = chance.choice((0, 1, 1, 2))
        size = chance.randrange(1, 300)
        cloud = {"target:cloud": size} if chance.random() < 0.5 else {}
        small = [dump(f"s{number}", 3, size // 4)] if chance.random() < 0.6 and size > 8 else []
        waiting.append(dump(f"s{number}", level, size, small, takes={"bytes": size, **cloud}, most=300,
                            priority=chance.randrange(3), may_wait=not level and chance.random() < 0.5))  # fmt: skip
    waiting.sort(key=lambda one: one.level == 0)
    names = {one.source for one in waiting}
    real, running, kept = {}, [], {"bytes": 0, "target:cloud": 0}
    made = set()
    while waiting or running:
        left = True
        while waiting and left and len(running) < 3:
            first = min(waiting, key=budget.order)
            one, left = budget.settle(first, waiting, 0)
            if left:
                waiting.remove(first)
            if one is not None:
                budget.begin(one)
                running.append(one)
                real[one.source] = int(one.claim.takes["bytes"] * chance.choice((0.5, 1, 1, 1.5, 4)))
        assert running or not waiting
        if not running:
            break
        one = running.pop(chance.randrange(len(running)))
        try:
            for part in (3, 2, 1):
                budget.grown(one, real[one.source] // part, whole=part == 1)
        except OverLimit as over:
            other = budget.ended(one, over.why)
            budget.done(one, None)
            waiting[:0] = [other] if other else []
            continue
        budget.done(one, real[one.source])
        made.add(one.source)
        for name in kept:
            kept[name] += real[one.source] if name in one.claim.takes else 0
        assert all(kept[name] <= limits[name] for name in limits), kept
    assert made | {one.planned.source for one in budget.given_up} == names
