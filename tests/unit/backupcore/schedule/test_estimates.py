"""What past dumps tell of tonight's sizes: right for what is regular, sane for anything, weekdays where they matter."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupcore.schedule import estimates
from backupcore.schedule.estimates import (
    DAY_NS,
    DEFAULTS,
    Dumped,
    Habits,
    Walked,
    accuracy,
    error_of,
    expect,
    fleet,
    learn,
    median_error,
    needs_walk,
)
from backupcore.schedule.habits import EVEN, week_of
from backupcore.schedule.nights import weekday_of

GIB = 1 << 30
START = 739000  # a night


class Source:
    """A source by the simulator's model: size, growth, change of the nights, a hot share, noise."""

    def __init__(self, size=100 * GIB, growth=0.0, change=0.03, hot=1.0, week=EVEN, ratio=0.5, noise=0.0, seed=1):
        self.size, self.growth, self.hot, self.ratio = size, growth, hot, ratio
        self.random, self.noise = random.Random(seed), noise
        self.rates = {}
        self.change, self.week = change, week
        self.past = []

    def rate(self, night):
        if night not in self.rates:
            factor = self.random.lognormvariate(0, self.noise) if self.noise else 1.0
            self.rates[night] = min(1.0, self.change * self.week[weekday_of(night)] * factor)
        return self.rates[night]

    def at(self, night):
        return max(0.0, self.size + self.growth * (night - START))

    def archive(self, night, base=None):
        if base is None:
            return self.at(night)
        kept = 1 - self.hot * (1 - math.prod(1 - self.rate(one) for one in range(base + 1, night + 1)))
        return min(self.at(night), max(0.0, self.at(night) - self.at(base) * kept))

    def dump(self, night, level=0, base=None):
        size = self.archive(night, base.night if base else None)
        made = Dumped(f"{night}-{level}", level, base.id if base else None, night, night * DAY_NS, int(size),
                      int(size * self.ratio), 10, 30 + size / 60e6)  # fmt: skip
        self.past.append(made)
        return made

    def cycles(self, nights, cycle=7, deeper=False):
        """Fulls each cycle nights; between them level 1, or ever deeper ones."""
        last = full = None
        for night in range(START, START + nights):
            if (night - START) % cycle == 0:
                full = last = self.dump(night)
            elif deeper and last.level < 9:
                last = self.dump(night, last.level + 1, last)
            else:
                self.dump(night, 1, full)
        return self

    def expected(self, night, *bases, **more):
        levels = {level: (base, base * DAY_NS) for level, base in enumerate(bases, 1)}
        return expect(learn(self.past), (night, night * DAY_NS), levels, **more)


def near(found, right, share=0.05):
    assert abs(found - right) <= share * right, (found, right)


# regular sources


def test_an_even_source_is_known_to_a_few_percent():
    source = Source().cycles(22)
    tonight = source.expected(START + 22, START + 21)
    assert tonight.how == "history"
    near(tonight.full, 50 * GIB)
    near(tonight.levels[1], source.archive(START + 22, START + 21) / 2)
    for age in (3, 6):
        near(source.expected(START + 22, START + 22 - age).levels[1], source.archive(START + 22, START + 22 - age) / 2)


def test_growth_goes_on():
    source = Source(growth=GIB).cycles(22)
    near(source.expected(START + 27).full, source.at(START + 27) / 2, 0.01)


def test_growth_is_believed_only_so_far():
    source = Source(size=GIB, growth=10 * GIB).cycles(15)
    assert source.expected(START + 1000).full <= source.past[-1].stored * 1.5 + 1


def test_one_strange_full_makes_no_trend():
    source = Source().cycles(43)
    fulls = [place for place, dump in enumerate(source.past) if dump.level == 0]
    odd = source.past[fulls[-3]]
    source.past[fulls[-3]] = Dumped(**{**odd.__dict__, "archive": odd.archive * 5, "stored": odd.stored * 5})
    near(source.expected(START + 45).full, 50 * GIB, 0.01)


def test_where_only_some_files_change_a_rate_is_taken_from_dumps_of_that_age():
    source = Source(change=0.5, hot=0.05).cycles(29)
    for age in (1, 2, 4, 6):
        near(source.expected(START + 30, START + 30 - age).levels[1],
             source.archive(START + 30, START + 30 - age) / 2, 0.15)  # fmt: skip


def test_chains_of_deeper_levels_teach_too():
    source = Source(change=0.1).cycles(21, deeper=True)
    for age in (1, 5):
        near(source.expected(START + 21, START + 21 - age).levels[1],
             source.archive(START + 21, START + 21 - age) / 2, 0.15)  # fmt: skip


def test_all_changed_is_a_full_and_nothing_changed_is_nothing():
    assert Source(change=1.0).cycles(15).expected(START + 15, START + 14).levels[1] > 49 * GIB
    assert Source(change=0.0).cycles(15).expected(START + 15, START + 1).levels[1] == 0


def test_noise_of_single_nights_is_averaged():
    errors = []
    for seed in range(30):
        source = Source(noise=0.4, seed=seed).cycles(29)
        expected = source.expected(START + 29, START + 28).levels[1]
        errors.append(expected / (0.03 * 50 * GIB) - 1)
    assert sorted(map(abs, errors))[15] < 0.15 and sorted(map(abs, errors))[27] < 0.4


def test_the_new_habit_of_a_source_is_taken_up_in_a_week():
    source = Source().cycles(30)
    source.change, source.rates = 0.12, {}
    full = source.dump(START + 30)
    for night in range(START + 31, START + 38):
        source.dump(night, 1, full)
    near(source.expected(START + 38, START + 37).levels[1], source.archive(START + 38, START + 37) / 2, 0.25)


# weekdays


def test_a_quiet_weekend_is_known_after_three_weeks_and_not_before():
    week = (1.4, 1.4, 1.4, 1.4, 1.4, 0.0, 0.0)
    source = Source(week=week).cycles(29)
    assert learn(source.past).week[5] < 0.2 < 1.2 < learn(source.past).week[0]
    for night in range(START + 29, START + 36):
        right = source.archive(night, night - 1) / 2
        assert abs(source.expected(night, night - 1).levels[1] - right) < 0.2 * 0.03 * 1.4 * 50 * GIB
    assert learn(Source(week=week).cycles(15).past).week == EVEN


def test_equal_weekdays_stay_equal_whatever_the_noise():
    wrong = 0
    for seed in range(200):
        rng = random.Random(seed)
        steps = [(night % 7, rng.lognormvariate(0, 1)) for night in range(35)]
        wrong += week_of(steps) != EVEN
    assert wrong <= 8  # 1 % by chance


def test_weekdays_that_differ_are_found_in_noise():
    found = 0
    for seed in range(50):
        rng = random.Random(seed)
        steps = [(night % 7, rng.lognormvariate(0, 0.3) * (0.2 if night % 7 > 4 else 1)) for night in range(35)]
        week = week_of(steps)
        assert abs(sum(week) - 7) < 1e-9
        found += week != EVEN and max(week[5:]) < 0.6 < 0.7 < min(week[:5])
    assert found >= 48


def test_no_change_at_all_has_no_weekdays():
    assert week_of([(night % 7, 0.0) for night in range(70)]) == EVEN
    assert week_of([]) == EVEN


# several a night, moved clocks


def test_dumps_of_every_hour_are_told_by_their_hours():
    source = Source().cycles(8)
    base = source.past[-1]
    for hour in range(1, 20):
        now = base.begun_ns + DAY_NS // 24
        base = Dumped(f"h{hour}", 9, base.id, base.night, now, GIB // 8, GIB // 16, 5, 1.0)
        source.past.append(base)
    now = base.begun_ns + DAY_NS // 24
    found = expect(learn(source.past), (base.night, now), {9: (base.night, base.begun_ns)})
    near(found.levels[9], GIB / 16, 0.3)


def test_a_base_from_the_future_counts_as_made_just_now():
    source = Source().cycles(9)
    found = source.expected(START + 9, START + 50)
    assert 0 <= found.levels[1] < found.full / 100


# walks


def test_a_walk_tells_better_and_history_stands_beside():
    source = Source().cycles(15)
    found = source.expected(START + 15, START + 14, walked=Walked(80 * GIB, 10, {1: 9 * GIB}))
    assert found.how == "walk"
    near(found.full, 40 * GIB, 1e-6)
    near(found.levels[1], 4.5 * GIB, 1e-6)
    assert found.beside.how == "history" and found.beside.beside is None
    near(found.beside.full, 50 * GIB)


def test_a_walk_of_a_first_dump_uses_the_default_ratio_and_none_when_nothing_is_compressed():
    walked = Walked(100 * GIB, 10)
    assert expect(Habits(), (START, 0), {}, walked).full == 100 * GIB * DEFAULTS.ratio
    assert expect(Habits(), (START, 0), {}, walked, compressed=False).full == 100 * GIB


def test_a_walk_that_took_too_long_is_a_lower_bound_or_extrapolated():
    known = learn(Source().cycles(15).past)
    part = Walked(10 * GIB, 10, {1: 4 * GIB}, False, 0.1, 0)
    now, bases = (START + 15, 0), {1: (START + 14, (START + 14) * DAY_NS)}
    found = expect(known, now, bases, part)
    assert found.how == "history"
    near(found.full, 50 * GIB)
    near(found.levels[1], 2 * GIB)  # more than history tells was seen
    assert expect(known, now, bases, Walked(300 * GIB, 10, {}, False, 0.1)).full == 150 * GIB
    fresh = expect(Habits(), now, {}, part)
    assert fresh.how == "walk" and fresh.full == 100 * GIB * DEFAULTS.ratio
    assert expect(Habits(), now, {}, Walked(10 * GIB, 10, {}, False, 0.01, 20 * GIB)).full == 30 * GIB * DEFAULTS.ratio
    assert expect(Habits(), now, {}, Walked(10, 10, {}, False, None)).how == "default"


def test_a_level_never_has_more_than_a_full():
    walked = Walked(10 * GIB, 10, {1: 10 * GIB + 50000})  # the lists of names come on top
    found = expect(Habits(), (START, 0), {1: (START - 1, 0)}, walked)
    assert found.levels[1] == found.full


# defaults, seconds


def test_nothing_known_is_the_default_with_its_reason():
    found = expect(learn([]), (START, 0), {})
    assert (found.how, found.why, found.archive) == ("default", DEFAULTS.why, DEFAULTS.full)
    assert found.use[0] > 0


def test_defaults_come_from_the_other_sources_once_there_are_three():
    habits = [learn(Source(size=size * GIB, ratio=0.25).cycles(9).past) for size in (1, 2, 30)]
    assert fleet(habits[:2]) == DEFAULTS
    known = fleet(habits)
    assert known.full == 2 * GIB and abs(known.ratio - 0.25) < 0.01 and abs(known.change - 0.03) < 0.001
    assert known.why == "taken from the other sources"


def test_a_byte_of_a_dump_in_which_little_changed_costs_more_seconds():
    source = Source(change=0.001).cycles(15)
    found = source.expected(START + 15, START + 12)
    near(found.fixed + found.use[0] * found.full, 30 + 100 * GIB / 60e6, 0.05)
    near(found.fixed + found.use[1] * found.levels[1], 30 + source.archive(START + 15, START + 12) / 60e6, 0.2)


def test_a_tiny_dump_of_tonight_makes_no_hours_of_an_ordinary_one():
    source = Source(change=0.01).cycles(15)
    walked = Walked(100 * GIB, 1, {1: 1024})  # this night nothing changed
    found = source.expected(START + 15, START + 14, walked=walked)
    assert found.fixed + found.use[1] * 0.01 * 50 * GIB < 2 * (30 + GIB / 60e6)


def test_a_dump_takes_its_fixed_seconds_however_little_it_has():
    source = Source(size=GIB // 1000, change=0.01).cycles(15)
    found = source.expected(START + 15, START + 14)
    near(found.fixed, 30, 0.05)
    near(found.fixed + found.use[1] * found.levels[1], 30, 0.05)
    near(found.fixed + found.use[0] * found.full, 30, 0.05)
    assert found.use[1] * 1000 < 0.01  # and no hours for a night with more
    fresh = expect(Habits(), (START, 0), {}, Walked(1000, 1))
    assert fresh.fixed == DEFAULTS.fixed and fresh.use[0] * fresh.full < 0.1


# whatever


_dump = st.tuples(
    st.integers(0, 9), st.integers(0, 40), st.integers(0, 1 << 50), st.integers(0, 1 << 50),
    st.floats(0, 1e9, allow_nan=False), st.integers(0, 30),
)  # fmt: skip


@given(st.lists(_dump, max_size=30), st.lists(st.integers(-3, 60), max_size=5), st.booleans(),
       st.floats(0, 1), st.integers(0, 1 << 50))  # fmt: skip
def test_sizes_are_never_negative_never_more_than_a_full_whatever_the_past(dumps, ages, complete, share, size):
    past, night = [], START
    for number, (level, nights, archive, stored, seconds, back) in enumerate(dumps):
        night += nights - 10
        base = past[-1 - back % len(past)].id if past and level else None
        past.append(Dumped(str(number), level if base else 0, base, night, night * DAY_NS, archive, stored, 1, seconds))
    habits = learn(past)
    assert abs(sum(habits.week) - 7) < 1e-6 and min(habits.week) >= 0
    now = (night, night * DAY_NS)
    bases = {level: (night - age, (night - age) * DAY_NS) for level, age in enumerate(ages, 1)}
    for walked in (None, Walked(size, 1, {1: size * 2}, complete, share or None, size)):
        found = expect(habits, now, bases, walked)
        assert math.isfinite(found.full) and found.full >= 0 and set(found.levels) == set(bases)
        assert all(0 <= one <= found.full for one in found.levels.values())
        assert all(math.isfinite(one) and one >= 0 for one in found.use)
        again = expect(learn(past), now, bases, walked)
        assert again == found


@given(st.floats(0.001, 1), st.integers(1, 6), st.integers(1, 6))
def test_an_older_base_never_means_less(change, one, two):
    source = Source(change=change).cycles(15)
    low, high = sorted((one, two))
    found = source.expected(START + 15, START + 15 - high, START + 15 - low)
    assert found.levels[1] >= found.levels[2] * 0.999


# when to walk


def test_a_walk_is_made_only_where_it_can_change_the_plan():
    fresh, known = Habits(), learn(Source().cycles(15).past)
    young = learn(Source().cycles(1).past)
    assert needs_walk("auto", fresh) == "it has no full yet"
    assert needs_walk("auto", young, share=0.5) == "it has too few incrementals yet"
    assert needs_walk("auto", young, share=0.5, leveled=False) == ""
    assert needs_walk("auto", young, share=0.001) == ""
    assert needs_walk("auto", known, share=0.5) == ""
    assert needs_walk("auto", known, share=0.5, error=lambda: 0.34) == "estimates by its history were 34% off"
    assert needs_walk("auto", known, share=0.5, error=lambda: 0.19) == ""
    assert needs_walk("auto", known, share=0.5, error=lambda: None) == ""
    assert needs_walk("auto", known, share=0.001, error=lambda: pytest.fail("asked for nothing")) == ""
    for habits in (fresh, young):
        assert needs_walk("auto", habits, alone=True) == needs_walk("auto", habits, forced=True) == ""
        assert needs_walk("history", habits, share=1.0) == ""
    assert needs_walk("walk", known, alone=True, forced=True) == "planning.estimate is walk"


# how far off


def row(estimated, actual, how="history", used=True, full=100 * GIB, source="etc"):
    names = {"client": "web1", "source": source, "segment": ""}
    return SimpleNamespace(**names, estimated=estimated, actual=actual, full=full, how=how, used=used)


def test_an_error_counts_by_what_it_matters():
    assert error_of(120 * GIB, 100 * GIB, 100 * GIB) == pytest.approx(0.2)
    assert error_of(3 * GIB, GIB, 100 * GIB) == pytest.approx(1.0)
    assert error_of(2 << 20, 1, 100 * GIB) < 0.001  # of 100 GiB nobody feels it
    assert error_of(5000, 0, 0) < 0.01


def test_the_error_of_a_source_is_the_median_of_its_newest_dumps():
    assert median_error([0.5, 0.5]) is None
    assert median_error([9.0, 0.1, 0.2]) == 0.2
    assert median_error([5.0] * 50 + [0.1] * estimates.ERRORS) == 0.1


def test_what_history_would_have_told_counts_beside_what_was_used():
    rows = []
    for _ in range(5):
        rows += [row(101 * GIB, 100 * GIB, "walk"), row(150 * GIB, 100 * GIB, used=False), row(1, 1, source="home")]
    found = accuracy(rows)
    known = found["web1", "etc", ""]
    assert (round(known.used, 3), round(known.history, 3), known.dumps) == (0.01, 0.5, 5)
    assert found["web1", "home", ""].used == 0
    assert needs_walk("auto", learn(Source().cycles(15).past), error=lambda: known.history)
