"""How large a source's dumps will be tonight: by a walk, by its habits, or by a default; and how far off that was.

Here live pure functions: habits and a walk in, the bytes of a full and of every level that could be made tonight out;
when a walk is worth its time; the errors of the past. What past dumps tell is habits.py, who walks is dump.estimate,
where rows are kept is the catalog.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from .habits import DAY_NS, FULLS, Dumped, Habits, age_of, learn
from .nights import weekday_of

__all__ = [
    "DAY_NS", "FULLS", "DEFAULTS", "Accuracy", "Defaults", "Dumped", "Expected", "Habits", "Walked", "accuracy",
    "error_of", "expect", "fleet", "learn", "median_error", "needs_walk",
]  # fmt: skip

ERRORS = 10  # newest records of a source that its error is the median of
ERROR_WALK = 0.20
SHARE_WALK = 0.01  # a source of a smaller share of all bytes changes no plan
INCREMENTALS_WALK = 2  # so many tell the rate of change
ERROR_FLOOR = 0.02  # of a full: to be off by less of it changes no plan
ERROR_LEAST = 1 << 20


@dataclass(frozen=True)
class Walked:
    """What a walk found, in bytes of an archive; since: level -> bytes changed since its base.

    complete: all was walked. share: of the tree, about, when not (None: nothing tells). used: bytes that the whole
    file system holds, 0 when unknown. recent: bytes changed since the moment of an interim dump, None when not asked.
    """

    bytes: int
    entries: int
    since: Mapping[int, int] = field(default_factory=dict)
    complete: bool = True
    share: Optional[float] = 1.0
    used: int = 0
    seconds: float = 0.0
    recent: Optional[int] = None


@dataclass(frozen=True)
class Defaults:
    """What is taken where nothing is known. why: for people."""

    full: float = 16.0 * 1024**3  # a server's system and some data: rather too much, a night is not to overflow
    change: float = 0.03  # of all bytes a night: servers of offices and of web sites change 1 to 5 %
    ratio: float = 0.6  # what zstd leaves of mixed files: text a quarter, media all
    speed: float = 50e6  # bytes of an archive a second: a gigabit line is not filled by one disk with small files
    fixed: float = 2.0  # seconds of a dump in which nothing changed
    why: str = "nothing is known of it yet"


DEFAULTS = Defaults()


@dataclass(frozen=True)
class Expected:
    """Tonight's sizes, in bytes of an image. how: walk, history or default; why: for people, in short.

    levels: of each that was asked. use: seconds that a byte takes, of a full and of an incremental; fixed: those that
    each dump takes besides. archive: of a full, before compression. guessed: no incremental has shown yet how much
    changes. beside: what history alone would have told, where a walk told better.
    """

    full: float
    levels: Mapping[int, float]
    how: str
    why: str = ""
    use: Tuple[float, float] = (0.0, 0.0)
    archive: float = 0.0
    guessed: bool = False
    beside: Optional["Expected"] = None
    fixed: float = 0.0

    def of(self, level: int) -> Optional[float]:
        """Of one level, None when it was not asked."""
        return self.full if level == 0 else self.levels.get(level)


def fleet(habits: Iterable[Habits], known: Defaults = DEFAULTS) -> Defaults:
    """Defaults from what the other sources do, where at least three of them tell."""
    every = list(habits)

    def middle(values: Iterable[Optional[float]], default: float) -> float:
        told = [value for value in values if value is not None]
        return median(told) if len(told) >= 3 else default

    sizes = [one.size for one in every]
    found = replace(
        known,
        full=middle(sizes, known.full), change=middle((one.daily_change for one in every), known.change),
        ratio=middle((one.ratio[0] for one in every), known.ratio),
        speed=middle((one.speed for one in every), known.speed),
        fixed=middle((one.fixed for one in every), known.fixed),
    )  # fmt: skip
    return found if found == known else replace(found, why="taken from the other sources")


def like(habits: Iterable[Habits], known: Defaults) -> Defaults:
    """Defaults of what has been dumped as a part of others, by these: all but the size."""
    every = list(habits)

    def middle(values: Iterable[Optional[float]], default: float) -> float:
        told = [value for value in values if value is not None]
        return median(told) if told else default

    return replace(
        known,
        change=middle((one.daily_change for one in every), known.change),
        ratio=middle((one.ratio[0] for one in every), known.ratio),
        speed=middle((one.speed for one in every), known.speed),
        fixed=middle((one.fixed for one in every), known.fixed),
    )


# tonight


def expect(
    habits: Habits, now: Tuple[int, int], bases: Mapping[int, Tuple[int, int]], walked: Optional[Walked] = None,
    defaults: Defaults = DEFAULTS, weekday: Callable[[int], int] = weekday_of, compressed: bool = True,
) -> Expected:  # fmt: skip
    """The sizes of tonight. now: (night, ns); bases: level that could be made -> (night, begun_ns) of its base."""
    archive, how, why = _whole(habits, now[0], walked, defaults)
    levels = {level: _changed(habits, archive, level, now, base, walked, defaults, weekday)
              for level, base in sorted(bases.items())}  # fmt: skip
    plain = defaults.ratio if compressed else 1.0
    of_full = habits.ratio[0] if habits.ratio[0] is not None else plain
    of_rest = habits.ratio[1] if habits.ratio[1] is not None else of_full
    full = archive * of_full
    stored = {level: min(size * of_rest, full) for level, size in levels.items()}
    beside = None
    if walked is not None and habits.size is not None:
        beside = expect(habits, now, bases, None, defaults, weekday, compressed)
    fixed = defaults.fixed if habits.fixed is None else habits.fixed
    use = _use(habits, archive, full, of_rest, fixed, defaults)
    return Expected(full, stored, how, why, use, archive, not habits.rates and how != "walk", beside, fixed)


def _whole(habits: Habits, night: int, walked: Optional[Walked], defaults: Defaults) -> Tuple[float, str, str]:
    """(archive bytes of a full, how, why)."""
    known = habits.size_at(night)
    if walked is not None and walked.complete:
        return float(walked.bytes), "walk", ""
    if walked is not None:
        seen = float(walked.bytes)
        if known is not None:  # what was seen is there for sure
            return max(seen, known), "walk" if seen > known else "history", "its walk took too long"
        if walked.share is not None and walked.share > 0:
            most = max(seen, walked.used * 1.5) if walked.used else math.inf
            return min(seen / min(walked.share, 1.0), most), "walk", "its walk took too long: extrapolated"
        return max(seen, defaults.full), "default", "its walk took too long"
    if known is not None:
        return known, "history", ""
    return defaults.full, "default", defaults.why


def _changed(
    habits: Habits, archive: float, level: int, now: Tuple[int, int], base: Tuple[int, int],
    walked: Optional[Walked], defaults: Defaults, weekday: Callable[[int], int],
) -> float:  # fmt: skip
    """Archive bytes of an incremental, never more than a full has."""
    if walked is not None and walked.complete and level in walked.since:
        return min(float(walked.since[level]), archive)
    age = age_of(base, now, habits.week, weekday)
    rate = habits.rate_at(age)
    if rate is None:
        rate = -math.log1p(-min(defaults.change, 0.999))
    least = min(float(walked.since.get(level, 0)), archive) if walked is not None else 0.0
    return max(least, archive * -math.expm1(-rate * age))


def _use(
    habits: Habits, archive: float, full: float, of_rest: float, fixed: float, defaults: Defaults
) -> Tuple[float, float]:  # fmt: skip
    """Seconds for a byte of an image of a full and of an incremental, beside those that each dump takes: speeds that
    were learnt are of whole fulls, so that what is fixed is taken off again."""
    if not habits.speed or archive <= 0:
        a_byte = 1.0 / (habits.speed or defaults.speed)
    else:
        a_byte = max(0.0, archive / habits.speed - fixed) / archive
    return a_byte * archive / full if full > 0 else 0.0, a_byte / max(of_rest, 1e-3)


# walk or not


def needs_walk(
    mode: str, habits: Habits, *, alone: bool = False, forced: bool = False, share: Optional[float] = None,
    error: Optional[Callable[[], Optional[float]]] = None, leveled: bool = True,
) -> str:  # fmt: skip
    """Why a source is to be walked before the plan; "" when it is not.

    mode: planning.estimate. alone: it is the only one of the run. forced: its level is given. share: of the bytes of
    all sources, by history; None: unknown. error: gives the recorded one of its estimates by history; only asked where
    it matters. leveled: it may get an incremental.
    """
    if mode == "walk":
        return "planning.estimate is walk"
    if mode == "history" or alone or forced:
        return ""
    if not habits.fulls:
        return "it has no full yet"
    if share is not None and share < SHARE_WALK:
        return ""
    if leveled and habits.incrementals < INCREMENTALS_WALK:
        return "it has too few incrementals yet"
    off = error() if error is not None else None
    return f"estimates by its history were {off:.0%} off" if off is not None and off > ERROR_WALK else ""


# how far off


def error_of(estimated: float, actual: float, full: float) -> float:
    """How far off an estimate was, as a share of what came; of a small dump as a share of what would matter."""
    return abs(estimated - actual) / max(actual, ERROR_FLOOR * full, ERROR_LEAST)


def median_error(errors: Sequence[float]) -> Optional[float]:
    """Of the newest errors, oldest first; None of fewer than three: one strange night is no habit."""
    newest = list(errors)[-ERRORS:]
    return median(newest) if len(newest) >= 3 else None


@dataclass(frozen=True)
class Accuracy:
    """How far off a unit's estimates were, medians of the newest dumps; None of fewer than three. used: of those that
    plans were made with; history: of those that history alone gave, which decides on walks. dumps: how many."""

    used: Optional[float]
    history: Optional[float]
    dumps: int


def accuracy(rows: Iterable[Any]) -> Dict[Tuple[str, str, str], Accuracy]:
    """(client, source, segment) -> how far off, of the catalog's rows of estimates, oldest first."""
    used: Dict[Tuple[str, str, str], List[float]] = {}
    history: Dict[Tuple[str, str, str], List[float]] = {}
    for row in rows:
        key = (row.client, row.source, row.segment)
        error = error_of(row.estimated, row.actual, row.full)
        if row.used:
            used.setdefault(key, []).append(error)
        if row.how == "history":
            history.setdefault(key, []).append(error)
    return {
        key: Accuracy(median_error(used.get(key, ())), median_error(history.get(key, ())), len(used.get(key, ())))
        for key in sorted({*used, *history})
    }
