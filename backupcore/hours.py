"""Hours of the week: when something may happen (Windows), and how fast (Rates), by the clock on the wall.

Here live pure functions and records: words of the configuration in, and of a moment in ns whether it is inside, until
when, and from when on; nothing here asks what time it is. zone None is the zone of this process. A span over midnight
belongs to the day on which it begins. A time that the clock shows twice counts the first time; one that it passes over
is where it jumps. Not here: schedules (schedule/nights.py), and who waits (stage/pace.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from typing import Any, Dict, FrozenSet, Iterator, List, Optional, Tuple

from .text import parse_size

NS = 1_000_000_000
HALF = timedelta(hours=12)
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ALL = frozenset(range(7))
WHOLE = 24 * 60  # minutes of a day
AHEAD = 16  # days looked ahead: a window that a clock's jump swallows comes again a week later
_TIME = re.compile(r"([01]?\d|2[0-4]):([0-5]\d)\Z")
_SPAN = re.compile(r"(\d{1,2}:\d{2})\s*-\s*(\d{1,2}:\d{2})\Z")
_KEY = re.compile(r"(?:([a-z][a-z, -]*?)\s+)?(\d.*)\Z")
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGT]i?)?(bit|B)/s\Z")
_LONG = {"monday": "mon", "tuesday": "tue", "wednesday": "wed", "thursday": "thu", "friday": "fri", "saturday": "sat",
         "sunday": "sun", "tues": "tue", "thur": "thu", "thurs": "thu"}  # fmt: skip


def wall(ns: int, zone: Optional[tzinfo] = None) -> datetime:
    """What a clock on the wall showed at that moment, naive."""
    return datetime.fromtimestamp(ns // NS, zone).replace(tzinfo=None)


def night_of(ns: int, zone: Optional[tzinfo] = None) -> int:
    """The night of a moment."""
    return (wall(ns, zone) - HALF).toordinal()


def day_of(night: int) -> date:
    """The day on which a night begins."""
    return date.fromordinal(night)


def weekday_of(night: int) -> int:
    """0 for a night that begins on a Monday."""
    return (night - 1) % 7


def _moment(shown: datetime, zone: Optional[tzinfo], fold: int) -> int:
    shown = shown.replace(tzinfo=zone, fold=fold)
    return int((shown if zone is None else shown.astimezone(timezone.utc)).timestamp()) * NS


def reached(shown: datetime, zone: Optional[tzinfo] = None) -> int:
    """The first moment, in ns, at which a clock has come to shown: where it jumps over it, the jump."""
    late = _moment(shown, zone, 0)
    if wall(late, zone) <= shown:
        return late
    early = _moment(shown, zone, 1)  # in a jump forward this is before it, and fold 0 behind it
    while late - early > NS:
        middle = (early + late) // (2 * NS) * NS
        early, late = (early, middle) if wall(middle, zone) >= shown else (middle, late)
    return late


def parse_days(text: str) -> FrozenSet[int]:
    """Weekdays (0 is Monday) of `mon-fri`, `sat,sun`, `fri-mon`, `daily`. Raises ValueError."""
    found: set = set()
    for part in str(text).lower().split(","):
        part = part.strip()
        if part in ("daily", "all"):
            found |= ALL
            continue
        first, dash, last = part.partition("-")
        one, two = _day(first, text), _day(last if dash else first, text)
        found |= {day % 7 for day in range(one, two + 1 if two >= one else two + 8)}
    return frozenset(found)


def _day(word: str, text: str) -> int:
    word = word.strip()
    word = _LONG.get(word, word)
    if word not in DAYS:
        raise ValueError(f"{text!r} names no weekdays: write mon-fri, or sat,sun, or daily")
    return DAYS.index(word)


def parse_time(text: str) -> int:
    """Minutes after midnight of `22:00`. Raises ValueError."""
    match = _TIME.match(str(text).strip())
    minutes = int(match.group(1)) * 60 + int(match.group(2)) if match else -1
    if not 0 <= minutes < WHOLE:
        raise ValueError(f"{text!r} is no time of day: write '22:00', in quotes")
    return minutes


@dataclass(frozen=True)
class Windows:
    """Spans of each week. spans: (weekday, minutes after its midnight, where it ends, over 1440 on the next day)."""

    spans: Tuple[Tuple[int, int, int], ...]

    def open_at(self, ns: int, zone: Optional[tzinfo] = None) -> bool:
        """Whether that moment is inside."""
        return any(begin <= ns < end for begin, end in self._near(ns, zone, 1))

    def until(self, ns: int, zone: Optional[tzinfo] = None) -> Optional[int]:
        """When what is open at that moment closes; None: never, or it is not open."""
        end = next((end for begin, end in self._near(ns, zone, 9) if begin <= ns < end), None)
        # what is open for more than a week never closes
        return None if end is None or end - ns > 8 * 86400 * NS else end

    def opens(self, ns: int, zone: Optional[tzinfo] = None) -> Optional[int]:
        """The first moment from then on that is inside; None: there is none."""
        return next((max(begin, ns) for begin, end in self._near(ns, zone, AHEAD) if ns < end), None)

    def on(self, days: FrozenSet[int]) -> "Windows":
        """Only what begins on these days."""
        return Windows(tuple(span for span in self.spans if span[0] in days))

    def _near(self, ns: int, zone: Optional[tzinfo], days: int) -> Iterator[Tuple[int, int]]:
        """Its spans around a moment and some days on, in order; those that touch are one."""
        today = wall(ns, zone).date()
        last: Optional[Tuple[int, int]] = None
        for number in range(-2, days + 1):
            for begin, end in self._of_day(today + timedelta(days=number), zone):
                if end <= begin:  # all of it fell into a jump
                    continue
                if last is not None and begin <= last[1]:
                    last = (last[0], max(last[1], end))
                    continue
                if last is not None:
                    yield last
                last = (begin, end)
        if last is not None:
            yield last

    def _of_day(self, day: date, zone: Optional[tzinfo]) -> List[Tuple[int, int]]:
        midnight = datetime.combine(day, time())
        return [
            (reached(midnight + timedelta(minutes=begin), zone), reached(midnight + timedelta(minutes=end), zone))
            for weekday, begin, end in sorted(self.spans)
            if weekday == day.weekday()
        ]


ALWAYS = Windows(tuple((day, 0, WHOLE) for day in range(7)))


def parse_windows(value: Any) -> Windows:
    """`22:00-06:00`, `12:00-13:00, 22:00-06:00`, `any`, or of days: {"mon-fri": ..., "sat,sun": any}.

    Days that a mapping does not name are closed. Raises ValueError.
    """
    given = _by_days(value if isinstance(value, dict) else {"daily": value})
    found = [(day, begin, end) for day, spans in given.items() for begin, end in _spans(spans)]
    if not found:
        raise ValueError("names no day on which it is open")
    return Windows(tuple(sorted(found)))


def _by_days(value: Dict[Any, Any]) -> Dict[int, Any]:
    found: Dict[int, Any] = {}
    for key, spans in value.items():
        for day in parse_days(key):
            if day in found:
                raise ValueError(f"{key!r}: {DAYS[day]} stands twice")
            found[day] = spans
    return found


def _spans(value: Any) -> List[Tuple[int, int]]:
    """Minutes (begin, end) of `22:00-06:00, 12:00-13:00`, any, none."""
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no window: write '22:00-06:00', in quotes, or any")
    word = value.strip().lower()
    if word in ("any", "none"):
        return [(0, WHOLE)] if word == "any" else []
    return [_span(one.strip(), value) for one in word.split(",")]


def _span(text: str, value: str) -> Tuple[int, int]:
    match = _SPAN.match(text)
    if match is None:
        raise ValueError(f"{value!r} is no window: write '22:00-06:00', or any")
    begin, end = parse_time(match.group(1)), WHOLE if match.group(2) == "24:00" else parse_time(match.group(2))
    if begin == end:
        raise ValueError(f"{value!r} is empty: write any for all day")
    return begin, end if end > begin else end + WHOLE


@dataclass(frozen=True)
class Rates:
    """Bytes a second, by the hours of the week: the first rule whose windows are open; None: as fast as it goes."""

    rules: Tuple[Tuple[Windows, Optional[float]], ...] = ()
    rest: Optional[float] = None

    def at(self, ns: int, zone: Optional[tzinfo] = None) -> Optional[float]:
        """The rate at a moment."""
        return next((rate for windows, rate in self.rules if windows.open_at(ns, zone)), self.rest)

    def until(self, ns: int, zone: Optional[tzinfo] = None) -> Optional[int]:
        """Up to when that rate holds at least: one of the windows opens or closes then; None: for ever."""
        edges = []
        for windows, _rate in self.rules:
            is_open = windows.open_at(ns, zone)
            edges.append(windows.until(ns, zone) if is_open else windows.opens(ns, zone))
        return min((one for one in edges if one is not None), default=None)


def parse_rate(value: Any) -> Optional[float]:
    """Bytes a second of `20 Mbit/s`, `2 MB/s`; None of `unlimited`. Raises ValueError."""
    word = value.strip() if isinstance(value, str) else ""
    if word == "unlimited":
        return None
    match = _RATE.match(word)
    if match is None:
        raise ValueError(f"{value!r} is no rate: write 20 Mbit/s, 2 MB/s or unlimited")
    number, prefix, unit = match.groups()
    rate = float(number) * parse_size("1 " + (prefix or "") + "B") / (8 if unit == "bit" else 1)
    if rate < 1:
        raise ValueError(f"{value!r} is too slow to end: close the window instead")
    return rate


def parse_rates(value: Any) -> Rates:
    """`20 Mbit/s`, or by hours: {"mon-fri 08:00-18:00": 2 Mbit/s, "else": unlimited}; no else: unlimited.

    Where keys overlap the first one counts. Raises ValueError.
    """
    if not isinstance(value, dict):
        return Rates((), parse_rate(value))
    rules, rest = [], None
    for key, given in value.items():
        rate = parse_rate(given)
        if key == "else":
            rest = rate
            continue
        match = _KEY.match(str(key).strip().lower())
        days = parse_days((match.group(1) or "daily") if match else key)
        spans = _spans(match.group(2)) if match else [(0, WHOLE)]
        rules.append((Windows(tuple((day, *span) for day in sorted(days) for span in spans)), rate))
    return Rates(tuple(rules), rest)


def shown_days(days: FrozenSet[int]) -> str:
    """`mon-fri`, `sat, sun`, `daily`"""
    if days == ALL:
        return "daily"
    listed = sorted(days)
    runs: List[List[int]] = []
    for day in listed:
        if runs and runs[-1][-1] == day - 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    words = [DAYS[run[0]] if len(run) == 1 else f"{DAYS[run[0]]}-{DAYS[run[-1]]}" for run in runs]
    return ", ".join(words)


def shown(ns: int, zone: Optional[tzinfo] = None) -> str:
    """`Mon 22:00`: when a window opens, at most a week on."""
    at = wall(ns, zone)
    return f"{DAYS[at.weekday()].capitalize()} {at:%H:%M}"


def shown_windows(windows: Optional[Windows]) -> str:
    """`22:00-06:00`, `sat, sun any; mon-fri 22:00-06:00`; any time for None."""
    by_span: Dict[Tuple[Tuple[int, int], ...], List[int]] = {}
    for day in range(7) if windows is not None else ():
        spans = tuple(sorted((begin, end) for weekday, begin, end in windows.spans if weekday == day))
        if spans:
            by_span.setdefault(spans, []).append(day)
    told = []
    for spans, days in by_span.items():
        hours = ", ".join("any" if span == (0, WHOLE) else f"{_time(span[0])}-{_time(span[1])}" for span in spans)
        told.append(hours if len(days) == 7 else f"{shown_days(frozenset(days))} {hours}")
    return "; ".join(told) or "any time"


def shown_rates(rates: Optional[Rates]) -> str:
    """`2 Mbit/s`, `mon-fri 08:00-18:00 2 Mbit/s, else unlimited`."""
    if rates is None:
        return "unlimited"
    rules = [f"{shown_windows(windows)} {_rate(rate)}" for windows, rate in rates.rules]
    return ", ".join([*rules, f"else {_rate(rates.rest)}"]) if rules else _rate(rates.rest)


def _time(minutes: int) -> str:
    if minutes == WHOLE:
        return "24:00"
    return f"{minutes % WHOLE // 60:02d}:{minutes % 60:02d}"


def _rate(rate: Optional[float]) -> str:
    if rate is None:
        return "unlimited"
    for word, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if rate * 8 >= size:
            return f"{rate * 8 / size:g} {word}bit/s"
    return f"{rate:g} B/s"
