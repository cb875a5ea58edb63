"""What a unit's past dumps tell of it: size and growth, rate of change by age and weekday, compression, speed.

Here live pure functions from past dumps to habits; what these mean for tonight is estimates.py.

Statistics are medians, the newest counting most: one strange night moves nothing. Changes saturate: x = -ln(1 - share
changed) adds up from night to night as long as every byte is as likely to change as another. Where only some are, the
rate x / age falls with age: as a power of it, when dumps of several ages show so, and dumps of about the age that is
asked count most.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from statistics import median
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from .nights import weekday_of

DAY_NS = 86_400 * 10**9
FULLS, INCREMENTALS = 8, 40  # the newest that are looked at
RECENT = 0.87  # what a dump counts less than the one after it
MOST_X = 7.0  # 99.9 % changed: all
LEAST_AGE = 1 / 24  # nights between a dump and its base, at least
NEAR = 0.7  # in the logarithm of ages: what is near
BETTER = 0.7  # to what a rule must lower what is missed before it is believed
GOOD, FAIR = 0.02, 0.15  # what is missed: no rule is needed; the simpler one will do
GROWTH_MOST = 0.5  # of the last full: no trend is believed further
WEEKS, DAYS_KNOWN = 3, 5  # weekdays count when so many weeks are known of so many of them
# Kruskal-Wallis: chi square at 1 % for 1 to 6 degrees of freedom
_CHI = (6.63, 9.21, 11.34, 13.28, 15.09, 16.81)
_FADING = tuple(RECENT**place for place in range(INCREMENTALS - 1, -1, -1))
EVEN = (1.0,) * 7


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
        age = age_of((base.night, base.begun_ns), (dump.night, dump.begun_ns), week, weekday)
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


def age_of(
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
