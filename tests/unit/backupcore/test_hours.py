"""Windows and rates of the week: words, midnight, weekdays, and the clock's jumps in many zones."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoneinfo import ZoneInfo

from backupcore import hours
from backupcore.hours import NS, parse_rates, parse_windows

UTC = timezone.utc
BERLIN = ZoneInfo("Europe/Berlin")
# summer time at midnight, at half past, half an hour of it, a day that never was, none at all
ZONES = [ZoneInfo(name) for name in (
    "Europe/Berlin", "America/New_York", "Asia/Beirut", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kolkata",
    "America/St_Johns", "UTC",
)]  # fmt: skip


def ns(text, zone=UTC, fold=0):
    return int(datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()) * NS


def told(moment, zone=UTC):
    return None if moment is None else hours.wall(moment, zone).isoformat(" ", "minutes")


# 2026-11-23 is a Monday


def test_a_window_over_midnight_belongs_to_the_day_it_begins():
    night = parse_windows({"mon-fri": "22:00-06:00", "sun": "any"})
    assert not night.open_at(ns("2026-11-23 05:00"))  # a Monday's morning is Sunday's night, and Sunday ends at 24:00
    assert told(night.opens(ns("2026-11-23 05:00"))) == "2026-11-23 22:00"
    assert night.open_at(ns("2026-11-28 05:59")) and not night.open_at(ns("2026-11-28 06:00"))  # Saturday, of Friday
    assert told(night.until(ns("2026-11-27 23:00"))) == "2026-11-28 06:00"
    assert told(night.opens(ns("2026-11-28 06:00"))) == "2026-11-29 00:00"
    assert told(night.until(ns("2026-11-29 12:00"))) == "2026-11-30 00:00"


def test_windows_that_touch_are_one_and_a_whole_week_never_closes():
    weekend = parse_windows({"fri": "22:00-06:00", "sat,sun": "any"})
    assert told(weekend.until(ns("2026-11-27 22:00"))) == "2026-11-30 00:00"
    assert parse_windows("any").until(ns("2026-11-27 22:00")) is None
    assert parse_windows({"daily": "any"}) == hours.ALWAYS


def test_days_take_away_what_begins_on_others():
    found = parse_windows("22:00-06:00").on(hours.parse_days("sat"))
    assert found.open_at(ns("2026-11-29 03:00")) and not found.open_at(ns("2026-11-28 03:00"))
    assert told(found.opens(ns("2026-11-29 06:00"))) == "2026-12-05 22:00"


def test_several_spans_of_a_day():
    found = parse_windows(["12:00-13:00", "18:00-24:00"])
    assert found == parse_windows("12:00-13:00, 18:00-24:00")
    assert [found.open_at(ns(f"2026-11-23 {at}")) for at in ("12:30", "13:00", "23:59")] == [True, False, True]
    assert told(found.until(ns("2026-11-23 23:00"))) == "2026-11-24 00:00"


def test_the_nights_of_the_clocks_jumps_are_as_long_as_they_are():
    night = parse_windows("22:00-06:00")
    for begin, length in (("2026-03-28 22:00", 7), ("2026-10-24 22:00", 9), ("2026-11-23 22:00", 8)):
        moment = ns(begin, BERLIN)
        assert night.until(moment, BERLIN) - moment == length * 3600 * NS
    odd = parse_windows("02:10-02:40")
    assert told(odd.opens(ns("2026-03-29 00:00", BERLIN), BERLIN), BERLIN) == "2026-03-30 02:10"  # it never was
    twice = odd.opens(ns("2026-10-25 00:00", BERLIN), BERLIN)
    assert twice == ns("2026-10-25 02:10", BERLIN) and odd.until(twice, BERLIN) - twice == 1800 * NS
    assert not odd.open_at(ns("2026-10-25 02:20", BERLIN, fold=1), BERLIN)
    early = parse_windows("02:30-05:00")
    assert told(early.opens(ns("2026-03-29 00:00", BERLIN), BERLIN), BERLIN) == "2026-03-29 03:00"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("22-6", "'22-6' is no window: write '22:00-06:00', or any"),
        ("22:00-25:00", "'25:00' is no time of day: write '22:00', in quotes"),
        ("24:00-06:00", "'24:00' is no time of day: write '22:00', in quotes"),
        ("06:00-06:00", "'06:00-06:00' is empty: write any for all day"),
        (1320, "1320 is no window: write '22:00-06:00', in quotes, or any"),
        ({"mon-fry": "any"}, "'mon-fry' names no weekdays: write mon-fri, or sat,sun, or daily"),
        ({"mon-fri": "any", "fri": "22:00-23:00"}, "'fri': fri stands twice"),
        ({"mon-fri": "none"}, "names no day on which it is open"),
        ("none", "names no day on which it is open"),
        ({}, "names no day on which it is open"),
    ],
)
def test_wrong_windows_are_told(value, message):
    with pytest.raises(ValueError) as caught:
        parse_windows(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("value", "rate"),
    [("20 Mbit/s", 2.5e6), ("2 MB/s", 2e6), ("1 MiB/s", 1 << 20), ("512 kbit/s", 64e3), ("unlimited", None)],
)
def test_rates(value, rate):
    assert hours.parse_rate(value) == rate
    assert parse_rates(value).at(0) == rate and parse_rates(value).until(0) is None


def test_rates_by_hours():
    found = parse_rates(
        {"mon-fri 08:00-18:00": "2 Mbit/s", "20:00-24:00": "1 MB/s", "sat": "8 Mbit/s", "else": "4 MB/s"}
    )
    expected = {"2026-11-23 07:59": 4e6, "2026-11-23 08:00": 250e3, "2026-11-23 18:00": 4e6, "2026-11-28 21:00": 1e6,
                "2026-11-29 21:00": 1e6}  # fmt: skip
    assert {at: found.at(ns(at)) for at in expected} == expected
    assert told(found.until(ns("2026-11-23 07:00"))) == "2026-11-23 08:00"
    assert told(found.until(ns("2026-11-23 08:00"))) == "2026-11-23 18:00"
    assert parse_rates({"mon 08:00-18:00": "2 Mbit/s"}).at(ns("2026-11-24 09:00")) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("fast", "'fast' is no rate: write 20 Mbit/s, 2 MB/s or unlimited"),
        (20, "20 is no rate: write 20 Mbit/s, 2 MB/s or unlimited"),
        ("0 Mbit/s", "'0 Mbit/s' is too slow to end: close the window instead"),
        ({"mon 8-18": "2 MB/s"}, "'8-18' is no window: write '22:00-06:00', or any"),
        ({"elsewhere": "2 MB/s"}, "'elsewhere' names no weekdays: write mon-fri, or sat,sun, or daily"),
    ],
)
def test_wrong_rates_are_told(value, message):
    with pytest.raises(ValueError) as caught:
        parse_rates(value)
    assert str(caught.value) == message


minutes = st.integers(0, 287).map(lambda number: number * 5)
spans = st.tuples(minutes, minutes).filter(lambda pair: pair[0] != pair[1])
windows = st.dictionaries(
    st.sampled_from(["mon", "tue", "wed", "thu", "fri", "sat", "sun"]),
    st.one_of(st.just("any"), st.lists(spans, min_size=1, max_size=2).map(
        lambda found: ", ".join(f"{a // 60:02d}:{a % 60:02d}-{b // 60:02d}:{b % 60:02d}" for a, b in found))),
    min_size=1,
)  # fmt: skip
moments = st.integers(1_262_304_000, 1_893_456_000).map(lambda seconds: seconds * NS)


def jumps(zone, moment):
    """Whether the clock jumps within a few days of a moment."""
    at = datetime.fromtimestamp(moment // NS, UTC)
    return len({(at + timedelta(days=days)).astimezone(zone).utcoffset() for days in range(-3, 18)}) > 1


@given(windows, moments, st.sampled_from(ZONES))
@settings(max_examples=300, deadline=None)
def test_what_opens_is_open_until_it_closes(value, moment, zone):
    found = parse_windows(value)
    opens = found.opens(moment, zone)
    assert opens is not None and opens >= moment
    assert found.open_at(moment, zone) == (opens == moment)
    assert found.open_at(opens, zone) and (opens == moment or not found.open_at(opens - NS, zone))
    closes = found.until(opens, zone)
    if closes is None:
        assert set(value) == {*hours.DAYS} and all(found.open_at(opens + n * 3600 * NS, zone) for n in range(200))
        return
    assert closes > opens and found.open_at(closes - NS, zone) and not found.open_at(closes, zone)
    middle = opens + (closes - opens) // (2 * NS) * NS
    assert found.open_at(middle, zone) and found.until(middle, zone) == closes


@given(windows, moments, st.sampled_from(ZONES))
@settings(max_examples=300, deadline=None)
def test_it_is_open_when_the_clock_on_the_wall_says_so(value, moment, zone):
    if jumps(zone, moment):
        return  # the test above, and that of the jumps
    shown = hours.wall(moment, zone)
    minute = shown.hour * 60 + shown.minute
    said = False
    for weekday, begin, end in parse_windows(value).spans:
        for days in (0, 1):
            if (shown - timedelta(days=days)).weekday() == weekday and begin <= minute + days * 1440 < end:
                said = True
    assert parse_windows(value).open_at(moment, zone) == said
