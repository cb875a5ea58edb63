"""Nights and the clock: which night a moment belongs to, and what a schedule of its own asks for at a moment.

Here live pure functions: a moment in nanoseconds and a time zone in, a night or moments out; nothing here asks what
time it is. A *night* goes from noon to noon by the wall clock and is the ordinal of the day it begins on, so that
dumps before and after midnight belong together, and a night of summer time's end is one night of 25 hours. zone
None is the zone of this process.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta, timezone, tzinfo
from typing import FrozenSet, Iterator, Optional, Tuple

from ..hours import ALL, NS, day_of, night_of, parse_days, parse_time, shown_days, wall, weekday_of

__all__ = [
    "ALL", "NS", "Own", "Times", "at", "begin_of", "day_of", "longest_gap", "moment", "night_of", "parse_days",
    "parse_own", "parse_time", "parse_times", "shown_days", "wall", "weekday_of",
]  # fmt: skip

DAY_NS = 86_400 * NS
LOOK_BACK = 400  # days: who was away longer is due whatever the schedule says


def moment(shown: datetime, zone: Optional[tzinfo] = None) -> int:
    """The moment at which a clock showed that, in ns; the first of two, and past the gap where it never did."""
    if zone is not None:
        return int(shown.replace(tzinfo=zone, fold=0).astimezone(timezone.utc).timestamp()) * NS
    return int(shown.timestamp()) * NS


def begin_of(night: int, zone: Optional[tzinfo] = None) -> int:
    """When a night begins, noon, in ns."""
    return moment(datetime.combine(day_of(night), time(12)), zone)


def at(night: int, minutes: int, zone: Optional[tzinfo] = None) -> int:
    """When the clock shows that many minutes after midnight in a night, in ns: 22:00 is before 03:00."""
    day = day_of(night) + timedelta(days=minutes < 12 * 60)
    return moment(datetime.combine(day, time()) + timedelta(minutes=minutes), zone)


@dataclass(frozen=True)
class Times:
    """Some moments of each week: at these minutes after midnight on these days; every: each so many hours instead."""

    days: FrozenSet[int] = ALL
    minutes: Tuple[int, ...] = ()
    every: int = 0

    def between(self, after_ns: int, until_ns: int, zone: Optional[tzinfo] = None) -> Iterator[int]:
        """Its moments after after_ns, until_ns included, in order."""
        if self.every:
            yield from self._hours(after_ns, until_ns, zone)
            return
        first, last = wall(after_ns, zone).toordinal() - 1, wall(until_ns, zone).toordinal() + 1
        for day in range(first, last + 1):
            if weekday_of(day) in self.days:
                for minutes in self.minutes:
                    shown = datetime.combine(day_of(day), time()) + timedelta(minutes=minutes)
                    found = moment(shown, zone)
                    if after_ns < found <= until_ns:
                        yield found

    def _hours(self, after_ns: int, until_ns: int, zone: Optional[tzinfo]) -> Iterator[int]:
        # full hours as they pass, so that the hour that comes twice in autumn has its two turns
        step = 3600 * NS
        shown = wall(after_ns, zone)
        now = after_ns - (shown.minute * 60 + shown.second) * NS - after_ns % NS
        while now <= until_ns:
            shown = wall(now, zone)
            if now > after_ns and shown.weekday() in self.days and shown.hour % self.every == 0:
                yield now
            now += step

    def latest(self, after_ns: int, until_ns: int, zone: Optional[tzinfo] = None) -> Optional[int]:
        """The last of its moments after after_ns and until until_ns; None when there is none."""
        after_ns = max(after_ns, until_ns - LOOK_BACK * 86400 * NS)
        span = 2 * 86400 * NS
        while True:  # from behind, a few days at a time: it is nearly always in the last ones
            begin = max(after_ns, until_ns - span)
            found = list(self.between(begin, until_ns, zone))
            if found or begin == after_ns:
                return found[-1] if found else None
            span *= 4

    def a_night(self) -> float:
        """How many of its moments a night has, on average."""
        return len(self.days) * (24 // self.every if self.every else len(self.minutes)) / 7


def parse_times(text: str) -> Times:
    """`sun 20:00`, `mon-sat 21:00`, `12:30, 18:30`, `hourly`, `mon-fri hourly`, `every 4 h`. Raises ValueError."""
    words = str(text).strip().lower()
    match = re.match(r"(?:([a-z][a-z, -]*?)\s+)?(hourly|every\s+(\d+)\s*h(?:ours?)?)\Z", words)
    if match and match.group(1) != "every":
        every = int(match.group(3) or 1)
        if not 1 <= every <= 12 or 24 % every:
            raise ValueError(f"{text!r}: write every 1, 2, 3, 4, 6, 8 or 12 h")
        return Times(parse_days(match.group(1)) if match.group(1) else ALL, (), every)
    match = re.match(r"(?:([a-z][a-z, -]*?)\s+)?(\d{1,2}:\d{2}(?:\s*,\s*\d{1,2}:\d{2})*)\Z", words)
    if not match:
        raise ValueError(f"{text!r} is no schedule: write 'sun 20:00', 'mon-sat 21:00', '12:30, 18:30' or hourly")
    minutes = sorted({parse_time(one) for one in match.group(2).split(",")})
    return Times(parse_days(match.group(1)) if match.group(1) else ALL, tuple(minutes))


@dataclass(frozen=True)
class Own:
    """A source's own schedule. full None: the scheduler says when its fulls are, in the night."""

    incremental: Optional[Times] = None
    full: Optional[Times] = None

    def due(self, full_ns: int, last_ns: int, until_ns: int, zone: Optional[tzinfo] = None) -> Optional[str]:
        """What is due, full, incremental or None, when the last full and the last dump began at these moments."""
        if self.full and self.full.latest(full_ns, until_ns, zone) is not None:
            return "full"
        if self.incremental and self.incremental.latest(last_ns, until_ns, zone) is not None:
            return "incremental"
        return None

    def fulls(self, night: int, count: int, zone: Optional[tzinfo] = None) -> Tuple[int, ...]:
        """The nights of its fulls, of count nights from night on."""
        if self.full is None:
            return ()
        moments = self.full.between(begin_of(night, zone) - 1, begin_of(night + count, zone) - 1, zone)
        return tuple(sorted({night_of(one, zone) for one in moments}))


def longest_gap(own: Own) -> int:
    """The longest time between two dumps of a schedule, in ns."""
    begin, end = 1_800_000_000 * NS, 1_800_000_000 * NS + 15 * DAY_NS
    moments = sorted(one for times in (own.full, own.incremental) if times
                     for one in times.between(begin, end, timezone.utc))  # fmt: skip
    return max((later - one for one, later in zip(moments, moments[1:])), default=15 * DAY_NS)


def parse_own(full: Optional[str], incremental: Optional[str]) -> Own:
    """A schedule from its two texts. Raises ValueError."""
    return Own(parse_times(incremental) if incremental else None, parse_times(full) if full else None)
