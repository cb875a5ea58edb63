"""Whose turn a drill is, which lines it looks at, and what a whole restore would take."""

from __future__ import annotations

import random

import pytest

from backupcore.catalog.drills import FAILED, PROVEN, UNPROVEN, Drilled
from backupcore.settings import Price
from backupcore.verify import drill

MB = 10**6


def tried(client, when, status=PROVEN):
    return Drilled(client, "s", "files", "cloud", "client", status, when_ns=when)


def test_everybody_has_a_turn_before_anybody_has_two():
    names = [f"c{number}" for number in range(20)]
    dice, seen, results = random.Random(1), [], []
    for night in range(1, 5):
        chosen = drill.turns(names, drill.last_tries(results), 5, dice)
        assert len(set(chosen)) == 5
        seen += chosen
        results += [tried(name, night) for name in chosen]
    assert sorted(seen) == sorted(names)


def test_who_failed_comes_again_but_leaves_half_of_the_turns_to_others():
    names = [f"c{number}" for number in range(10)]
    results = [tried(name, 1, FAILED) for name in names[:4]] + [tried(name, 1) for name in names[4:]]
    chosen = drill.turns(names, drill.last_tries(results), 4, random.Random(1))
    assert len([name for name in chosen if name in names[:4]]) >= 2
    # they fail night after night, and still all others get their turn
    night, seen = 2, set()
    for night in range(2, 14):
        chosen = drill.turns(names, drill.last_tries(results), 4, random.Random(night))
        seen.update(chosen)
        results += [tried(name, night, FAILED if name in names[:4] else PROVEN) for name in chosen]
    assert seen == set(names)


def test_one_turn_goes_round_too():
    names, results, seen = ["a", "b", "c"], [tried("a", 1, FAILED)], []
    for night in range(2, 8):
        chosen = drill.turns(names, drill.last_tries(results), 1, random.Random(night))
        seen += chosen
        results += [tried(chosen[0], night, FAILED if chosen == ["a"] else PROVEN)]
    assert sorted(seen) == ["a", "a", "b", "b", "c", "c"]


def test_a_try_with_one_bad_source_is_a_bad_one_and_a_later_good_one_counts():
    results = [tried("a", 1), tried("a", 1, UNPROVEN), tried("a", 1)]
    assert drill.last_tries(results)["a"] == drill.Last(1, False)
    assert drill.last_tries([*results, tried("a", 2)])["a"] == drill.Last(2, True)


def test_turns_are_by_lot_among_equals():
    names = [f"c{number}" for number in range(50)]
    assert len({drill.turns(names, {}, 1, random.Random(seed))[0] for seed in range(60)}) > 20


def test_lines_are_drawn_from_all_dumps_alike():
    counts, sizes = {"full": 0, "small": 0}, {"full": 900, "small": 100}
    dice = random.Random(7)
    for _round in range(200):
        found = drill.lines({"full": 900, "empty": 0, "small": 100}, 10, dice)
        assert sum(map(len, found.values())) == 10 and "empty" not in found
        for dump, numbers in found.items():
            assert numbers == sorted(set(numbers)) and 0 <= numbers[0] and numbers[-1] < sizes[dump]
            counts[dump] += len(numbers)
    assert 0.05 < counts["small"] / sum(counts.values()) < 0.15
    assert drill.lines({"a": 2}, 10, dice) == {"a": [0, 1]} and drill.lines({}, 3, dice) == {}


def test_a_place_is_as_fast_as_its_large_restores_were_without_their_begin():
    small = [drill.Measure("cloud", 1000, 1.0), drill.Measure("cloud", 3000, 1.2)]
    speed = drill.speed([*small, drill.Measure("cloud", 100 * MB, 11.0), drill.Measure("cloud", 50 * MB, 6.0)])
    assert speed.setup == 1.0 and speed.rate == pytest.approx(10 * MB)
    assert speed.seconds(66_000 * MB, 1) == pytest.approx(6601)


def test_the_newest_measurements_count():
    old = [drill.Measure("cloud", 10 * MB, 100.0)] * 50
    assert drill.speed([*old, *[drill.Measure("cloud", 10 * MB, 1.0)] * drill.KEPT]).rate == pytest.approx(10 * MB)


def test_a_large_restore_that_was_quicker_than_any_begin_is_no_division_by_nothing():
    found = drill.speed([drill.Measure("nas", 100, 5.0), drill.Measure("nas", 8 * MB, 0.1)])
    assert found.rate == pytest.approx(8 * MB / 0.025)


def test_small_restores_tell_nothing_of_large_ones():
    speed = drill.speed([drill.Measure("cloud", 100_000, 1.0)])
    assert speed.seconds(200_000, 1) == pytest.approx(3.0)
    assert speed.seconds(10**9, 1) is None
    assert drill.speed([]).seconds(1, 1) is None
    assert drill.speed([drill.Measure("cloud", 0, 1.0), drill.Measure("cloud", 10, 0.0)]).rate is None


def test_an_estimate_adds_up_time_and_money():
    speeds = {"cloud": drill.Speed(1.0, 10 * MB), "nas": drill.Speed(0.5, 100 * MB)}
    prices = {"cloud": Price(0.09, 0.4, "$"), "nas": None}
    loads = [drill.Load("dumps", "cloud", 34_000 * MB, 2), drill.Load("etc", "nas", 100 * MB, 1)]
    found = drill.estimate(loads, speeds, prices)
    assert found.seconds == pytest.approx(3401 + 1.5) and found.bytes == 34_100 * MB
    requests = 2 * drill.SMALL_FILES - (-34_000 * MB // drill.RANGE)
    assert found.money == {"$": pytest.approx(34 * 0.09 + requests / 1000 * 0.4)}
    assert found.places == ("cloud", "nas")


def test_an_estimate_with_one_unknown_place_is_unknown():
    loads = [drill.Load("dumps", "cloud", 10, 1), drill.Load("etc", "nas", 10, 1)]
    assert drill.estimate(loads, {"nas": drill.Speed(0.5, 100.0)}, {}).seconds is None
    assert drill.estimate([], {}, {}).seconds is None


def test_what_was_not_found_again_is_named():
    expected = {"aa": b"/etc/a", "bb": b"/etc/b"}
    assert drill.missing(expected, ["aa", "bb", "cc"], 100) == []
    assert drill.missing(expected, ["aa"], 100) == [b"/etc/b"]
    assert drill.missing(expected, None, 100) == [b"/etc/a", b"/etc/b"]
    assert drill.missing(expected, [1, {}, "bb"], 100) == [b"/etc/a"]
    assert drill.missing(expected, ["xx", "yy"], 2) == []  # it told as many as it may: nothing can be said
