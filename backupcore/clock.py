"""Time: the one place that reads the clock, writes times and understands what people type.

All times inside the engine are whole nanoseconds since 1970 (UTC) or aware datetimes.
"""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta, timezone

from .errors import RequestError

NS = 1_000_000_000
_AGO = re.compile(r"(\d+)\s*(second|minute|hour|day|week|month|year)s?\s+ago\Z")
_DAYS = {"month": 30, "year": 365}


def now_ns() -> int:
    """Nanoseconds since 1970."""
    return time.time_ns()


def now() -> datetime:
    """Now, aware, UTC."""
    return datetime.now(timezone.utc)


def stamp(ns: int) -> str:
    """`YYYYMMDDTHHMMSSZ`, as in names of dumps."""
    return datetime.fromtimestamp(ns // NS, timezone.utc).strftime("%Y%m%dT%H%M%SZ")


def parse_stamp(text: str) -> int:
    """Nanoseconds of what stamp() wrote. Raises ValueError."""
    return int(datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc).timestamp()) * NS


def iso(ns: int) -> str:
    """`YYYY-MM-DDTHH:MM:SSZ`, as in manifests and JSON."""
    return datetime.fromtimestamp(ns // NS, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def local(ns: int) -> str:
    """`YYYY-MM-DD HH:MM`, local time, for tables."""
    return datetime.fromtimestamp(ns // NS).strftime("%Y-%m-%d %H:%M")


def parse_iso(text: str) -> int:
    """Nanoseconds of what iso() wrote. Raises ValueError."""
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp()) * NS


def parse_moment(text: str, at: datetime | None = None) -> int:
    """The moment a person means, in ns: ISO date or time, `now`, `yesterday`, `3 days ago`; local time.

    A bare date (or today, yesterday) means the end of that day: the newest dump begun on it counts.
    at: the moment of asking, for tests. Raises RequestError.
    """
    asked = (at or datetime.now().astimezone()).astimezone()
    word = text.strip().lower()
    if word in ("now", "latest"):
        return int(asked.timestamp() * 1e6) * 1000
    if word in ("today", "yesterday"):
        day = asked.replace(tzinfo=None) - timedelta(days=word == "yesterday")
        return _end_of_day(day)
    ago = _AGO.match(word)
    if ago:
        count, unit = int(ago.group(1)), ago.group(2)
        days = _DAYS.get(unit)
        try:
            step = timedelta(days=count * days) if days else timedelta(**{unit + "s": count})
            return int((asked - step).timestamp() * 1e6) * 1000
        except OverflowError:
            pass
    try:
        if re.match(r"\d{4}-\d{2}-\d{2}\Z", word):
            return _end_of_day(datetime.strptime(word, "%Y-%m-%d"))
        # a name of a dump or its stamp means that very second
        compact = re.match(r"(\d{8}t\d{6}z)", word)
        if compact:
            parsed = datetime.strptime(compact.group(1), "%Y%m%dt%H%M%Sz").replace(tzinfo=timezone.utc)
        else:
            parsed = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
        return int(parsed.astimezone().timestamp()) * NS + NS - 1
    except (ValueError, OverflowError):
        raise RequestError(
            f"{text!r} is no time",
            "write 2026-11-22, '2026-11-22 14:30', yesterday or '3 days ago' (local time)",
        ) from None


def _end_of_day(day: datetime) -> int:
    end = day.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return int(end.astimezone().timestamp()) * NS - 1
