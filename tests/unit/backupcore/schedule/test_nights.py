"""Nights by the wall clock, also where it jumps; schedules of one's own and what is wrong with them."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zoneinfo import ZoneInfo

from backupcore.schedule import nights
from backupcore.schedule.nights import NS, Own, Times, parse_own, parse_times

BERLIN, SANTIAGO, UTC = ZoneInfo("Europe/Berlin"), ZoneInfo("America/Santiago"), timezone.utc
# in Berlin the clock jumps at 2026-03-29 02:00 and 2026-10-25 03:00, in Santiago at midnight of 2026-04-05, 2026-09-06
ZONES = [BERLIN, SANTIAGO, UTC, ZoneInfo("Asia/Kolkata"), ZoneInfo("Pacific/Apia")]


def ns(text, zone=BERLIN, fold=0):
    return int(datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()) * NS


def shown(found, zone=BERLIN):
    return [str(nights.wall(one, zone)) for one in found]


def test_a_night_goes_from_noon_to_noon():
    night = nights.night_of(ns("2026-11-23T21:30"), BERLIN)
    assert nights.day_of(night) == date(2026, 11, 23)
    assert nights.weekday_of(night) == 0  # a Monday
    assert nights.night_of(ns("2026-11-23T12:00"), BERLIN) == night
    assert nights.night_of(ns("2026-11-24T11:59:59"), BERLIN) == night
    assert nights.night_of(ns("2026-11-24T12:00"), BERLIN) == night + 1


@pytest.mark.parametrize("zone, day", [
    (BERLIN, "2026-03-28"), (BERLIN, "2026-10-24"), (SANTIAGO, "2026-04-04"), (SANTIAGO, "2026-09-05"),
])  # fmt: skip
def test_a_night_in_which_the_clock_jumps_is_one_night(zone, day):
    begin = ns(f"{day}T12:00", zone)
    night = nights.night_of(begin, zone)
    assert str(nights.day_of(night)) == day
    hours = 0
    while nights.night_of(begin + hours * 3600 * NS, zone) == night:
        hours += 1
    assert hours in (23, 25)
    assert nights.begin_of(night + 1, zone) == begin + hours * 3600 * NS
    # nightly runs at 21:30 by the clock are one a night all the same
    days = [date.fromisoformat(day) + timedelta(days=n) for n in range(-3, 4)]
    runs = [nights.night_of(ns(f"{one}T21:30", zone), zone) for one in days]
    assert runs == list(range(night - 3, night + 4))


@given(st.integers(1_700_000_000, 1_900_000_000), st.sampled_from(ZONES))
def test_nights_never_go_back_and_hold_their_moments(second, zone):
    night = nights.night_of(second * NS, zone)
    assert nights.begin_of(night, zone) <= second * NS < nights.begin_of(night + 1, zone)
    assert nights.night_of((second + 3600) * NS, zone) - night in (0, 1)
    for minutes in (0, 3 * 60, 12 * 60, 22 * 60):
        assert nights.night_of(nights.at(night, minutes, zone), zone) == night


def test_without_a_zone_the_clock_of_this_machine_counts(monkeypatch):
    import time

    for name, zone in (("Europe/Berlin", BERLIN), ("America/Santiago", SANTIAGO)):
        monkeypatch.setenv("TZ", name)
        time.tzset()
        try:
            for text in ("2026-03-28T23:30", "2026-10-25T11:30", "2026-09-06T11:59", "2026-07-01T12:00"):
                when = ns(text, zone)
                assert nights.night_of(when) == nights.night_of(when, zone)
                assert nights.begin_of(nights.night_of(when)) == nights.begin_of(nights.night_of(when, zone), zone)
        finally:
            monkeypatch.delenv("TZ")
            time.tzset()


def test_a_server_that_moves_counts_its_past_anew_and_its_nights_stay_a_day_apart():
    runs = [ns(f"2026-11-{day}T21:30") for day in range(10, 17)]
    there = ZoneInfo("Asia/Tokyo")
    moved = [nights.night_of(one, there) for one in runs]
    assert [later - one for one, later in zip(moved, moved[1:])] == [1] * 6
    # the next run, 21:30 there: no night twice
    assert nights.night_of(ns("2026-11-17T21:30", there), there) - moved[-1] == 1


@pytest.mark.parametrize("text, days", [
    ("mon-fri", {0, 1, 2, 3, 4}), ("sat,sun", {5, 6}), ("Fri-Mon", {4, 5, 6, 0}), ("daily", set(range(7))),
    ("mon, wed , fri", {0, 2, 4}), ("sunday", {6}), ("tue-tue", {1}), ("mon-sun", set(range(7))),
])  # fmt: skip
def test_weekdays(text, days):
    assert nights.parse_days(text) == days
    assert nights.parse_days(nights.shown_days(frozenset(days))) == days


@pytest.mark.parametrize("text", ["", "mo", "mon-", "-fri", "mon..fri", "5", "weekdays", "mon-fri-sun"])
def test_what_is_no_weekday_is_told(text):
    with pytest.raises(ValueError, match="weekdays"):
        nights.parse_days(text)


@pytest.mark.parametrize("text, minutes", [("22:00", 1320), ("0:00", 0), ("9:05", 545), ("23:59", 1439)])
def test_times_of_day(text, minutes):
    assert nights.parse_time(text) == minutes


@pytest.mark.parametrize("text", ["24:00", "22", "22:60", "-1:00", "10pm", "79200", ""])
def test_what_is_no_time_is_told(text):
    with pytest.raises(ValueError, match="time of day"):
        nights.parse_time(text)


def test_an_earliest_time_is_one_of_the_night():
    night = nights.night_of(ns("2026-11-23T21:30"), BERLIN)
    assert nights.at(night, 22 * 60, BERLIN) == ns("2026-11-23T22:00")
    assert nights.at(night, 3 * 60, BERLIN) == ns("2026-11-24T03:00")


@pytest.mark.parametrize("text, expected", [
    ("sun 20:00", Times(frozenset({6}), (1200,))),
    ("mon-sat 21:00", Times(frozenset(range(6)), (1260,))),
    ("12:30, 18:30", Times(nights.ALL, (750, 1110))),
    ("mon,wed 6:00", Times(frozenset({0, 2}), (360,))),
    ("hourly", Times(nights.ALL, (), 1)),
    ("mon-fri hourly", Times(frozenset(range(5)), (), 1)),
    ("every 4 h", Times(nights.ALL, (), 4)),
    ("sat every 12 hours", Times(frozenset({5}), (), 12)),
])  # fmt: skip
def test_schedules(text, expected):
    assert parse_times(text) == expected


@pytest.mark.parametrize("text", [
    "", "sun", "20:00 sun", "sun 25:00", "sun 20:60", "funday 20:00", "every 5 h", "every 0 h", "every day", "weekly",
    "mon 20:00 21:00", "hourly mon", "* * * * *",
])  # fmt: skip
def test_what_is_no_schedule_is_told(text):
    with pytest.raises(ValueError, match="write|names no"):
        parse_times(text)


def test_moments_of_a_schedule_where_the_clock_jumps():
    at_half_past_two = parse_times("2:30")
    spring = at_half_past_two.between(ns("2026-03-28T00:00"), ns("2026-03-31T00:00"), BERLIN)
    assert shown(spring) == ["2026-03-28 02:30:00", "2026-03-29 03:30:00", "2026-03-30 02:30:00"]
    autumn = list(at_half_past_two.between(ns("2026-10-24T12:00"), ns("2026-10-26T12:00"), BERLIN))
    assert shown(autumn) == ["2026-10-25 02:30:00", "2026-10-26 02:30:00"]
    assert autumn[1] - autumn[0] == 25 * 3600 * NS
    hours = list(parse_times("hourly").between(ns("2026-10-25T01:00"), ns("2026-10-25T04:00"), BERLIN))
    assert shown(hours) == [f"2026-10-25 {hour}:00:00" for hour in ("02", "02", "03", "04")]
    assert [later - one for one, later in zip(hours, hours[1:])] == [3600 * NS] * 3


def test_full_hours_are_those_of_the_clock_on_the_wall():
    kolkata = ZoneInfo("Asia/Kolkata")
    begin, end = ns("2026-11-23T01:00", kolkata), ns("2026-11-23T23:00", kolkata)
    found = list(parse_times("every 6 h").between(begin, end, kolkata))
    assert shown(found, kolkata) == [f"2026-11-23 {hour}:00:00" for hour in ("06", "12", "18")]


def test_what_is_due_is_what_came_since_the_last_dump():
    own = parse_own("sun 20:00", "mon-sat 21:00")

    def due(full, last, now):
        return own.due(ns(full), ns(last), ns(now), BERLIN)

    before, sunday, monday = "2026-11-15T20:00", "2026-11-22", "2026-11-23"
    assert due(before, f"{sunday}T19:00", f"{sunday}T19:59") is None
    assert due(before, f"{sunday}T19:00", f"{sunday}T20:00") == "full"
    assert due(f"{sunday}T20:01", f"{sunday}T20:01", f"{monday}T20:59") is None
    assert due(f"{sunday}T20:01", f"{sunday}T20:01", f"{monday}T21:00") == "incremental"
    # a server that was off for days makes up for the full, once
    assert due(before, "2026-11-20T21:01", "2026-11-25T10:00") == "full"
    assert own.due(0, 0, ns("2026-11-25T10:00"), BERLIN) == "full"
    # an incremental by hand does not put the full off
    assert due(before, f"{sunday}T20:30", f"{sunday}T20:31") == "full"


def test_the_full_of_a_schedule_is_not_made_twice_though_its_incremental_is_due_too():
    own = parse_own("sun 20:00", "daily 21:00")
    made = ns("2026-11-22T20:01")
    assert own.due(made, made, ns("2026-11-22T21:00"), BERLIN) == "incremental"


def test_an_hourly_source_leaves_its_fulls_to_the_scheduler():
    own = parse_own(None, "hourly")
    made = ns("2026-11-22T20:10")
    assert own.full is None and own.fulls(739_000, 28) == ()
    assert own.due(0, made, ns("2026-11-22T20:59"), BERLIN) is None
    assert own.due(0, made, ns("2026-11-22T21:00"), BERLIN) == "incremental"
    assert own.incremental.a_night() == 24


def test_the_coming_fulls_of_a_schedule_by_night():
    own = parse_own("sun 20:00", "mon-sat 21:00")
    night = nights.night_of(ns("2026-11-23T21:30"), BERLIN)  # a Monday
    assert own.fulls(night, 14, BERLIN) == (night + 6, night + 13)
    early = Own(None, parse_times("sun 3:00"))  # before noon: it belongs to the night that began on Saturday
    assert early.fulls(night, 14, BERLIN) == (night + 5, night + 12)
    assert early.fulls(night + 5, 1, BERLIN) == (night + 5,)


@given(st.integers(1_750_000_000, 1_800_000_000), st.integers(1, 40 * 86400), st.sampled_from(ZONES),
       st.sampled_from(["hourly", "sun 20:00", "mon-fri 2:30", "every 12 h", "0:00, 23:45"]))  # fmt: skip
def test_the_latest_moment_is_the_last_of_all(begin, length, zone, text):
    times = parse_times(text)
    begin, end = begin * NS, (begin + length) * NS
    found = list(times.between(begin, end, zone))
    assert found == sorted(set(found)) and all(begin < one <= end for one in found)
    assert times.latest(begin, end, zone) == (found[-1] if found else None)
