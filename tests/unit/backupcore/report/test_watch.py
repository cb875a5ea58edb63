"""What is wrong between two nights, and who is told of it when: judgements on numbers, over weeks of nights."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from zoneinfo import ZoneInfo

from backupcore import clock
from backupcore.report import watch
from backupcore.report.night import SourceLine
from backupcore.report.watch import Disk, Trouble

HOUR, DAY = 3600 * clock.NS, watch.DAY_NS
BERLIN = ZoneInfo("Europe/Berlin")


def at(text, zone=BERLIN):
    """The moment at which a clock there shows that, in ns."""
    shown = datetime.fromisoformat(text).replace(tzinfo=zone)
    return int(shown.astimezone(timezone.utc).timestamp()) * clock.NS


def nights(first, count, hour="21:30", days=range(7)):
    """So many nights from a date on, those on these weekdays."""
    dates = [datetime.fromisoformat(first) + timedelta(days=number) for number in range(count)]
    return [at(f"{one:%Y-%m-%d} {hour}") for one in dates if one.weekday() in days]


def missing(begun, now, cycle=7.0, first="2026-01-01 00:00"):
    found = watch.missing(begun, at(first), at(now), cycle, BERLIN)
    return bool(found)


def when_missing(begun, since, cycle=7.0, until=40):
    """The first full hour after since at which the night is missing."""
    for hour in range(until * 24):
        now = at(since) + hour * HOUR
        if watch.missing(begun, 1, now, cycle, BERLIN):
            return (datetime.fromisoformat(since) + timedelta(hours=hour)).strftime("%a %H")
    return None


def test_a_night_is_missing_two_hours_after_its_usual_time():
    begun = nights("2026-06-01", 20)  # the last on Saturday the 20th
    assert not missing(begun, "2026-06-21 23:29")
    assert missing(begun, "2026-06-21 23:31")
    found = watch.missing(begun, 0, at("2026-06-22 09:00"), 7, BERLIN)
    assert found[0].facts == {"last": clock.iso(begun[-1]), "due": clock.iso(at("2026-06-21 21:30"))}
    assert found[0].kind == "night-missing" and found[0].hint == "stowage run"


def test_one_by_hand_in_the_night_counts_and_one_the_day_before_does_not():
    begun = nights("2026-06-01", 20)
    assert missing([*begun, at("2026-06-21 10:00")], "2026-06-21 23:45")  # of the night before
    assert not missing([*begun, at("2026-06-21 15:00")], "2026-06-22 12:00")
    assert not missing([*begun, at("2026-06-22 01:00")], "2026-06-22 12:00")


def test_nights_after_midnight_are_the_same():
    begun = nights("2026-06-01", 10, "02:15")
    assert not missing(begun, "2026-06-11 04:00") and missing(begun, "2026-06-11 04:20")


@pytest.mark.parametrize("change", ["2026-03-28", "2026-10-24"])
def test_the_clock_of_the_wall_counts_where_summer_begins_and_ends(change):
    whole = nights("2026-03-01" if "-03-" in change else "2026-10-01", 40)
    begun = [one for one in whole if one < at(change + " 23:00")]
    day = (datetime.fromisoformat(change) + timedelta(days=1)).strftime("%Y-%m-%d")
    assert not missing(begun, f"{day} 23:25") and missing(begun, f"{day} 23:35")


def test_weekdays_without_nights_are_not_missed():
    begun = nights("2026-06-01", 26, days=range(5))  # Monday to Friday, the last on Friday the 26th
    assert when_missing(begun, "2026-06-27 12:00") == "Tue 00"


def test_a_weekly_night_is_missed_after_a_week():
    begun = nights("2026-05-03", 50, days=[6])
    assert when_missing(begun, "2026-06-22 12:00", cycle=28) == "Mon 00"


def test_three_nights_in_a_rhythm_are_enough_to_know_it():
    assert when_missing(nights("2026-06-07", 15, days=[6]), "2026-06-22 12:00", cycle=28) == "Mon 00"


def test_no_rhythm_is_longer_than_the_cycle():
    begun = nights("2026-01-04", 180, days=[6])
    assert when_missing(begun, "2026-06-29 12:00", cycle=3) == "Thu 00"  # three nights after Sunday


def test_an_outage_teaches_no_rhythm_and_does_not_end_by_being_long():
    begun = [*nights("2026-05-01", 20), *nights("2026-05-28", 3)]
    assert when_missing(begun, "2026-05-31 12:00") == "Mon 00"
    for weeks in range(1, 60):
        assert watch.missing(begun, 0, begun[-1] + weeks * 7 * DAY + 3 * HOUR, 7, BERLIN)


def test_a_server_that_never_had_a_night_says_so_after_a_day():
    assert not missing([], "2026-01-02 01:00")
    assert missing([], "2026-01-02 03:00")


def line(source, **more):
    return SourceLine(**{"client": "web1", "source": source, "status": "FAIL", "message": "m", "rpo": 100.0, **more})


def test_what_is_past_its_rpo_is_overdue_whatever_else_is_wrong_with_it():
    lines = [line("a", age=50.0, status="OK"), line("b", age=150.0), line("c", code="past-rpo"),
             line("d", age=150.0, code="image-damaged"), line("e", code="never-dumped")]  # fmt: skip
    assert [one.name for one in watch.overdue(lines)] == ["web1:b", "web1:c", "web1:d"]
    assert [one.name for one in watch.damaged([], lines)] == ["web1:d"]


def test_a_disk_that_was_too_full_is_until_it_is_clearly_less():
    def names(used, lasting=()):
        return [one.name for one in watch.filling([Disk("/h", used, 1000, 0.9)], lasting)]

    assert names(900) == [] and names(901) == ["/h"]
    key = "holding-filling /h"
    assert names(860, [key]) == ["/h"] and names(850, [key]) == []
    assert names(1000, []) == ["/h"] and watch.filling([Disk("/h", 1000, 1000, 1.0)]) == []
    (gone,) = watch.filling([Disk("/h", wrong="not there", hint="mount it")])
    assert (gone.status, gone.message, gone.hint) == ("FAIL", "not there", "mount it")


# who is told


def late(*names):
    return [Trouble("source-overdue", one, f"{one} is late", "stowage run") for one in names]


class Ear:
    """One who listens, hour by hour."""

    def __init__(self, *kinds):
        self.kinds, self.told, self.now = kinds or watch.KINDS, {}, 1000 * DAY

    def hear(self, troubles, hours=1):
        self.now += hours * HOUR
        found = watch.tellings(self.kinds, troubles, self.told, self.now)
        for one in found:
            self.told = watch.after(self.told, one, self.now)
        return [(one.kind, one.state, len(one.keys)) for one in found]


def test_it_is_told_once_again_daily_and_once_when_it_ends():
    ear = Ear()
    said = [ear.hear(late("a")) for _hour in range(49)]
    assert [(hour, one) for hour, one in enumerate(said) if one] == [
        (0, [("source-overdue", "begun", 1)]), (24, [("source-overdue", "lasts", 1)]),
        (48, [("source-overdue", "lasts", 1)]),
    ]  # fmt: skip
    assert ear.hear([]) == [("source-overdue", "ended", 1)]
    assert [ear.hear([]) for _hour in range(48)] == [[]] * 48 and ear.told == {}


def test_all_of_a_kind_is_one_message_and_one_reminder_a_day():
    ear = Ear()
    assert ear.hear(late(*map(str, range(300)))) == [("source-overdue", "begun", 300)]
    assert ear.hear(late(*map(str, range(301))), 12) == [("source-overdue", "begun", 1)]
    said = [ear.hear(late(*map(str, range(301)))) for _hour in range(48)]
    assert [one for one in said if one] == [[("source-overdue", "lasts", 301)]] * 2
    assert ear.hear(late("1")) == [("source-overdue", "ended", 300)]


def test_only_what_was_asked_for_is_heard_and_a_new_listener_hears_what_lasts():
    troubles = [*late("a"), Trouble("holding-filling", "/h", "full", status="WARN")]
    assert Ear("night-missing").hear(troubles) == []
    assert Ear("holding-filling").hear(troubles) == [("holding-filling", "begun", 1)]


def test_a_clock_that_went_back_makes_nobody_deaf():
    ear = Ear()
    ear.hear(late("a"))
    ear.now -= 300 * DAY
    assert ear.hear(late("a")) == [("source-overdue", "lasts", 1)]
    assert ear.hear(late("a")) == []


def test_words_for_one_for_some_and_for_many():
    (one,) = watch.tellings(watch.KINDS, late("web1:etc"), {}, 5)
    assert one.subject == "stowage FAIL web1:etc is late -> stowage run" and one.text == one.subject[8:]
    (many,) = watch.tellings(watch.KINDS, late(*(f"web{number}:etc" for number in range(30))), {}, 5)
    assert many.subject == "stowage FAIL 30 sources are past their rpo: web0:etc, web1:etc, web2:etc and 27 more"
    assert many.text.splitlines()[-2:] == ["FAIL web19:etc is late -> stowage run", "and 10 more"]
    told = watch.after({}, many, 5)
    begun, over = watch.tellings(watch.KINDS, late("new:etc", "web0:etc"), told, 6)
    assert begun.text.splitlines()[-1] == "as before: 1 source is past its rpo"
    assert over.subject.startswith("stowage OK   29 sources are no longer past their rpo: web1:etc")
    data = over.as_dict({})
    assert (data["state"], data["count"], data["lasting"], len(data["over"])) == ("ended", 29, 2, 29)
    copies = [Trouble("copy-damaged", str(number), "broken") for number in range(2)]
    assert "2 damaged copies are not made anew: 0, 1" in watch.tellings(watch.KINDS, copies, {}, 5)[0].subject
