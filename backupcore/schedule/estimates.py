"""How large a source's dumps will be tonight: what its past dumps tell, or a walk, or a default.

Here live pure functions: the past dumps of a unit in, its habits out (size and growth, rate of change by age and
weekday, compression, speed), then the bytes of a full and of every level that could be made tonight; when a walk is
worth its time; how far estimates were off. Who walks is dump.estimate, where rows are kept is the catalog.

Statistics are medians, the newest counting most: one strange night moves nothing. Changes saturate: x = -ln(1 - share
changed) adds up from night to night as long as every byte is as likely to change as another. Where only some are, the
rate x / age falls with age: as a power of it, when dumps of several ages show so, and dumps of about the age that is
asked count most.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .nights import weekday_of

DAY_NS = 86_400 * 10**9
FULLS, INCREMENTALS = 8, 40  # the newest that are looked at
RECENT = 0.87  # what a dump counts less than the one after it
MOST_X = 7.0  # 99.9 % changed: all
LEAST_AGE = 1 / 24  # nights between a dump and its base, at least
NEAR = 0.7  # in the logarithm of ages: what is near
BETTER = 0.7  # to what a rule must lower what is missed before it is believed
USUAL_AGE = 3.0  # nights: of an ordinary incremental
GOOD, FAIR = 0.02, 0.15  # what is missed: no rule is needed; the simpler one will do
GROWTH_MOST = 0.5  # of the last full: no trend is believed further
WEEKS, DAYS_KNOWN = 3, 5  # weekdays count when so many weeks are known of so many of them
# Kruskal-Wallis: chi square at 1 % for 1 to 6 degrees of freedom
_CHI = (6.63, 9.21, 11.34, 13.28, 15.09, 16.81)
_FADING = tuple(RECENT**place for place in range(INCREMENTALS - 1, -1, -1))
EVEN = (1.0,) * 7
ERRORS = 10  # newest records of a source that its error is the median of
ERROR_WALK = 0.20
SHARE_WALK = 0.01  # a source of a smaller share of all bytes changes no plan
INCREMENTALS_WALK = 2  # so many tell the rate of change
ERROR_FLOOR = 0.02  # of a full: to be off by less of it changes no plan
ERROR_LEAST = 1 << 20


@dataclass(frozen=True)
class Dumped:
    """A past dump. base: of an incremental. archive: bytes before compression, stored: of the image, after."""

    id: str
    level: int
    base: Optional[str]
    night: int
    begun_ns: int
    archive: int
    stored: int
    entries: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Walked:
    """What a walk found, in bytes of an archive; since: level -> bytes changed since its base.

    complete: all was walked. share: of the tree, about, when not (None: nothing tells). used: bytes that the whole
    file system holds, 0 when unknown.
    """

    bytes: int
    entries: int
    since: Mapping[int, int] = field(default_factory=dict)
    complete: bool = True
    share: Optional[float] = 1.0
    used: int = 0
    seconds: float = 0.0


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


class Rate(NamedTuple):
    """One observed rate of change: x a night, at an age in nights, of a weight."""

    age: float
    rate: float
    weight: float


@dataclass(frozen=True)
class Habits:
    """What a unit's past dumps tell. size: archive bytes of a full on size_night, None when there was none; growth:
    bytes a night. week: factors of the rate by weekday, 0 a Monday, mean 1. ratio: stored to archive bytes, of a full
    and of an incremental. speed: archive bytes a second of a full; fixed: seconds an incremental takes besides."""

    size: Optional[float] = None
    size_night: int = 0
    growth: float = 0.0
    rates: Tuple[Rate, ...] = ()
    fall: float = 0.0  # the rate falls as age to this power
    week: Tuple[float, ...] = EVEN
    ratio: Tuple[Optional[float], Optional[float]] = (None, None)
    speed: Optional[float] = None
    fixed: Optional[float] = None
    fulls: int = 0
    incrementals: int = 0

    def size_at(self, night: float) -> Optional[float]:
        """Archive bytes of a full of that night."""
        if self.size is None:
            return None
        moved = self.growth * (night - self.size_night)
        most = GROWTH_MOST * self.size
        return max(0.0, self.size + min(max(moved, -most), most))

    def rate_at(self, age: float) -> Optional[float]:
        """The rate of change of a base of that age."""
        age = max(age, LEAST_AGE)
        values = []
        for one in self.rates:
            apart = math.log(age / one.age)
            near = max(1e-9, math.exp(-apart * apart / (2 * NEAR * NEAR)))
            values.append((one.rate * math.exp(-self.fall * apart), one.weight * near))
        return _weighted_median(values)

    @property
    def daily_change(self) -> Optional[float]:
        """The share of all bytes that a night changes."""
        rate = self.rate_at(1.0)
        return None if rate is None else -math.expm1(-rate)


@dataclass(frozen=True)
class Expected:
    """Tonight's sizes, in bytes of an image. how: walk, history or default; why: for people, in short.

    levels: of each that was asked. use: seconds that a byte takes, of a full and of an incremental. archive: of a full,
    before compression. guessed: no incremental has shown yet how much changes. beside: what history alone would have
    told, where a walk told better.
    """

    full: float
    levels: Mapping[int, float]
    how: str
    why: str = ""
    use: Tuple[float, float] = (0.0, 0.0)
    archive: float = 0.0
    guessed: bool = False
    beside: Optional["Expected"] = None

    def of(self, level: int) -> Optional[float]:
        """Of one level, None when it was not asked."""
        return self.full if level == 0 else self.levels.get(level)


# what past dumps tell


def learn(past: Sequence[Dumped], weekday: Callable[[int], int] = weekday_of) -> Habits:
    """The habits of a unit. past: its dumps by counter, oldest first."""
    fulls = [dump for dump in past if dump.level == 0][-FULLS:]
    by_id = {dump.id: dump for dump in past}
    pairs = [(dump, by_id[dump.base]) for dump in past if dump.level and dump.base in by_id][-INCREMENTALS:]
    size, night, growth = _trend(fulls)
    speed = _weighted_median([(dump.archive / dump.seconds, weight) for dump, weight in _weights(fulls)
                              if dump.seconds > 0 and dump.archive > 0])  # fmt: skip
    rates, fall, week = _rates(pairs, past, size, growth, weekday)
    incrementals = [dump for dump, _base in pairs]
    rest = [(max(0.0, dump.seconds - dump.archive / speed), weight) for dump, weight in _weights(incrementals)
            if speed and dump.seconds > 0]  # fmt: skip
    return Habits(
        size, night, growth, rates, fall, week, (_ratio(fulls), _ratio(incrementals)), speed,
        _weighted_median(rest), len(fulls), len(pairs),
    )  # fmt: skip


def _weights(dumps: Sequence[Dumped]) -> Iterable[Tuple[Dumped, float]]:
    return zip(dumps, _FADING[len(_FADING) - len(dumps) :])


def _weighted_median(values: Sequence[Tuple[float, float]]) -> Optional[float]:
    """Of (value, weight); between two values where the weights part there. None of nothing."""
    ranked = sorted((value, weight) for value, weight in values if weight > 0)
    half, reached = sum(weight for _value, weight in ranked) / 2, 0.0
    for place, (value, weight) in enumerate(ranked):
        reached += weight
        if reached > half * (1 + 1e-9):
            return value
        if reached >= half * (1 - 1e-9):
            return (value + ranked[min(place + 1, len(ranked) - 1)][0]) / 2
    return None


def _ratio(dumps: Sequence[Dumped]) -> Optional[float]:
    """Stored to archive bytes; a dump counts by its size: of a few kilobytes the frames are most."""
    return _weighted_median(
        [(min(dump.stored / dump.archive, 2.0), weight * dump.archive) for dump, weight in _weights(dumps)
         if dump.archive > 0 and dump.stored >= 0]
    )  # fmt: skip


def _trend(fulls: Sequence[Dumped]) -> Tuple[Optional[float], int, float]:
    """(size of the last full, its night, growth a night): the median of all slopes, half of it when there is one."""
    if not fulls:
        return None, 0, 0.0
    last = fulls[-1]
    slopes = [
        (two.archive - one.archive) / (two.night - one.night)
        for place, one in enumerate(fulls) for two in fulls[place + 1 :] if two.night > one.night
    ]  # fmt: skip
    growth = median(slopes) / (2 if len(slopes) == 1 else 1) if slopes else 0.0
    return float(last.archive), last.night, growth


def _rates(
    pairs: Sequence[Tuple[Dumped, Dumped]], past: Sequence[Dumped], size: Optional[float], growth: float,
    weekday: Callable[[int], int],
) -> Tuple[Tuple[Rate, ...], float, Tuple[float, ...]]:  # fmt: skip
    """Observed rates of change, oldest first, by which power they fall with age, and the factors of the week.

    Where fulls come on one weekday, age and weekday are the same: the rule that explains more is taken, and neither
    unless it explains much.
    """
    sizes = sorted((dump.night, dump.archive) for dump in past if dump.level == 0)
    seen: List[Tuple[Dumped, Dumped, float]] = []
    for dump, base in pairs:
        whole = _size_then(sizes, dump.night, growth)
        if whole > 0:
            share = min(max(dump.archive / whole, 0.0), 1.0)
            seen.append((dump, base, min(-math.log1p(-share) if share < 1 else MOST_X, MOST_X)))
    plain = _rates_of(seen, EVEN, weekday)
    found, least = (plain, 0.0, EVEN), _miss(plain, 0.0)
    if least <= GOOD:
        return found
    fall = _fall(plain)
    missed = _miss(plain, fall) if fall else least
    if missed < BETTER * least:
        found, least = (plain, fall, EVEN), missed
        if least <= FAIR:
            return found
    week = week_of([(weekday(night), x) for night, x in _steps(seen)])
    if week != EVEN:
        by_day = _rates_of(seen, week, weekday)
        if _miss(by_day, 0.0) < BETTER * least:
            found = (by_day, 0.0, week)
    return found


def _miss(rates: Sequence[Rate], fall: float) -> float:
    """How much of all that changed a rule misses: its own past, told by it."""
    every = [(one.rate * one.age**fall, one.weight) for one in rates]
    usual = _weighted_median(every) or 0.0
    missed = sum(one.weight * abs(one.rate - usual * one.age**-fall) * one.age for one in rates)
    total = sum(one.weight * one.rate * one.age for one in rates)
    return missed / total if total else 0.0


def _rates_of(
    seen: Sequence[Tuple[Dumped, Dumped, float]], week: Sequence[float], weekday: Callable[[int], int]
) -> Tuple[Rate, ...]:  # fmt: skip
    rates = []
    for (dump, base, x), weight in zip(seen, _FADING[len(_FADING) - len(seen) :]):
        age = _age((base.night, base.begun_ns), (dump.night, dump.begun_ns), week, weekday)
        rates.append(Rate(age, x / age, weight))
    return tuple(rates)


def _fall(rates: Sequence[Rate]) -> float:
    """By which power of the age the rate falls, 0 to 1: a line through the medians of ages of one power of 2."""
    bins: Dict[int, List[Tuple[float, float]]] = {}
    for one in rates:
        if one.rate > 0:
            age = math.log(one.age)
            bins.setdefault(round(age / math.log(2)), []).append((age, math.log(one.rate)))
    points = [
        (sum(age for age, _rate in values) / len(values), median(rate for _age, rate in values), len(values))
        for values in bins.values()
    ]  # fmt: skip
    count = sum(weight for _x, _y, weight in points)
    if len(points) < 2 or count < 6:
        return 0.0
    mean_x = sum(x * weight for x, _y, weight in points) / count
    mean_y = sum(y * weight for _x, y, weight in points) / count
    spread = sum(weight * (x - mean_x) ** 2 for x, _y, weight in points)
    slope = sum(weight * (x - mean_x) * (y - mean_y) for x, y, weight in points) / spread
    return min(1.0, max(0.0, -slope))


def _size_then(sizes: Sequence[Tuple[int, int]], night: int, growth: float) -> float:
    """Archive bytes of a full in a night of the past: between the fulls before and after it."""
    if not sizes:
        return 0.0
    place = bisect_right(sizes, (night, math.inf))
    if place == 0:
        return float(sizes[0][1])
    one, low = sizes[place - 1]
    if place < len(sizes):
        two, high = sizes[place]
        return low + (high - low) * (night - one) / (two - one)
    return low + max(0.0, growth) * (night - one)


def _age(
    base: Tuple[int, int], now: Tuple[int, int], week: Sequence[float], weekday: Callable[[int], int]
) -> float:  # fmt: skip
    """Nights between (night, ns) and (night, ns), each counting by its weekday."""
    nights = now[0] - base[0]
    if nights < 1:  # more than one a night
        hours = max(0.0, (now[1] - base[1]) / DAY_NS)
        return max(LEAST_AGE, min(hours, 1.0) * week[weekday(now[0])])
    if week is EVEN:
        return float(nights)
    weeks, rest = divmod(nights, 7)
    total = weeks * sum(week) + sum(week[weekday(night)] for night in range(now[0] - rest + 1, now[0] + 1))
    return max(LEAST_AGE, total)


def _steps(seen: Sequence[Tuple[Dumped, Dumped, float]]) -> List[Tuple[int, float]]:
    """(night, x) of single nights: of a dump whose base is of the night before, or beyond one of that night with the
    same base."""
    found = []
    known: Dict[Tuple[str, int], float] = {}
    for dump, base, x in seen:
        known[base.id, dump.night] = x
        if dump.night - base.night == 1:
            found.append((dump.night, x))
        elif (base.id, dump.night - 1) in known:
            found.append((dump.night, max(0.0, x - known[base.id, dump.night - 1])))
    return found


def week_of(steps: Sequence[Tuple[int, float]]) -> Tuple[float, ...]:
    """Factors by weekday, mean 1, of (weekday, x); all 1 unless weekdays differ by more than chance would make them."""
    days: Dict[int, List[float]] = {}
    for day, x in steps:
        days.setdefault(day, []).append(x)
    known = {day: values for day, values in days.items() if len(values) >= WEEKS}
    if len(known) < DAYS_KNOWN or not _differ(list(known.values())):
        return EVEN
    medians = {day: median(values) for day, values in known.items()}
    mean = sum(medians.values()) / len(medians)
    if mean <= 0:
        return EVEN
    usual = median(medians.values())  # of a weekday on which fulls are made there is no step
    factors = [medians.get(day, usual) / mean for day in range(7)]
    total = sum(factors)
    return tuple(7 * factor / total for factor in factors)


def _differ(groups: Sequence[Sequence[float]]) -> bool:
    """Whether groups are of different size by their ranks (Kruskal and Wallis, 1 %)."""
    values = sorted((value, number) for number, group in enumerate(groups) for value in group)
    count, ranks, ties, place = len(values), [0.0] * len(groups), 0, 0
    while place < count:
        end = place
        while end < count and values[end][0] == values[place][0]:
            end += 1
        for _value, number in values[place:end]:
            ranks[number] += (place + end + 1) / 2
        ties += (end - place) ** 3 - (end - place)
        place = end
    spread = 1 - ties / (count**3 - count)
    if spread <= 0:
        return False
    h = 12 / (count * (count + 1)) * sum(rank**2 / len(group) for rank, group in zip(ranks, groups)) - 3 * (count + 1)
    return h / spread > _CHI[len(groups) - 2]


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
    use = _use(habits, archive, full, levels, stored, defaults)
    return Expected(full, stored, how, why, use, archive, not habits.rates and how != "walk", beside)


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
    age = _age(base, now, habits.week, weekday)
    rate = habits.rate_at(age)
    if rate is None:
        rate = -math.log1p(-min(defaults.change, 0.999))
    least = min(float(walked.since.get(level, 0)), archive) if walked is not None else 0.0
    return max(least, archive * -math.expm1(-rate * age))


def _use(
    habits: Habits, archive: float, full: float, levels: Mapping[int, float], stored: Mapping[int, float],
    defaults: Defaults,
) -> Tuple[float, float]:  # fmt: skip
    """Seconds for a byte of an image of a full and of an incremental: what they take, divided by what they have. An
    incremental takes some however little it has, so the larger one of tonight or of a few nights is taken: the rate
    of a tiny one would make hours of an ordinary one."""
    speed, fixed = habits.speed or defaults.speed, defaults.fixed if habits.fixed is None else habits.fixed
    of_full = (archive / speed + (0 if habits.speed else fixed)) / full if full > 0 else 0.0
    ratio = full / archive if archive > 0 else 1.0
    usual = archive * -math.expm1(-USUAL_AGE * (habits.rate_at(USUAL_AGE) or 0.0))
    largest = max(levels, key=lambda level: levels[level]) if levels else None
    if largest is not None and levels[largest] >= usual:
        usual, ratio = levels[largest], stored[largest] / levels[largest] if levels[largest] else ratio
    if usual <= 0:
        return of_full, of_full
    return of_full, (usual / speed + fixed) / max(usual * ratio, 1.0)


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
