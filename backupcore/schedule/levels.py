"""Which incremental is cheapest in the long run: a dynamic programme over the nights to the next full.

Here live pure functions of ages and numbers of levels; they know no unit, no night and no limit. What a level costs
tonight is known; what matters as much is what it leaves to the nights after it: a dump of a low level is large and
makes all that build on it small. Bytes are counted in *units of one night's change*, so that one table serves all
sources of the same *saturation* (the share of its bytes that a source writes again each night: after n nights not n
nights' bytes have changed but less, since the same ones change twice).

A *ladder* is what a source offers tonight: for each dump that may be built on, from the full up, (levels left from
there on, nights since that dump). A dump on rung i cuts the ladder above i and adds a new rung of one level less.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from typing import Dict, List, Optional, Sequence, Tuple

Ladder = Tuple[Tuple[int, int], ...]

GRID = (0.0, 0.005, 0.012, 0.02, 0.03, 0.05, 0.1, 0.25, 0.6, 1.0)  # saturations that get a table
LONGEST = 62  # nights that are looked ahead; what is further away changes nothing tonight
OLDEST = 90  # a base older than this counts as this old
MOST_LEVELS = 9


def bucket(saturation: float) -> int:
    """The place in GRID that is nearest to a saturation."""
    i = bisect_left(GRID, saturation)
    if i == 0:
        return 0
    if i == len(GRID):
        return i - 1
    return i if GRID[i] - saturation < saturation - GRID[i - 1] else i - 1


@lru_cache(maxsize=None)
def curve(grid: int) -> Tuple[float, ...]:
    """What changed within n nights, n = 0...: 1 for one night, less than n for more."""
    keep = 1.0 - GRID[grid]
    out, power = [0.0], 1.0
    for _ in range(OLDEST + LONGEST + 2):
        out.append(out[-1] + power)
        power *= keep
    return tuple(out)


class _Table:
    """Least cost of n nights on a rung: cost(depth, age, nights)."""

    def __init__(self, grid: int) -> None:
        self.v = curve(grid)
        self.memo: Dict[Tuple[int, int, int], float] = {}
        self.sums = [0.0]
        for value in self.v:
            self.sums.append(self.sums[-1] + value)

    def cost(self, depth: int, age: int, nights: int) -> float:
        """The next dump is on a base of this age, each dump on this rung or above; depth: levels from this rung up."""
        if nights <= 0:
            return 0.0
        if depth <= 0:
            return float("inf")
        if depth >= nights:  # a level deeper each night: nothing is dumped twice
            return self.v[age] + (nights - 1)
        if depth == 1:
            return self.sums[age + nights] - self.sums[age]
        key = (depth, age, nights)
        best = self.memo.get(key)
        if best is None:
            cost = self.cost
            best = self.v[age] + min(
                cost(depth - 1, 1, m) + cost(depth, age + m + 1, nights - 1 - m) for m in range(nights)
            )
            self.memo[key] = best
        return best


@lru_cache(maxsize=None)
def _table(grid: int) -> _Table:
    return _Table(grid)


@lru_cache(maxsize=100_000)
def costs(grid: int, ladder: Ladder, nights: int) -> Tuple[float, ...]:
    """Cost of the coming nights for a dump on each rung tonight, itself included, and the best ones after it."""
    depth, age = ladder[-1]
    v = curve(grid)
    if depth >= nights and len(ladder) == 1:
        return (v[age] + nights - 1,)
    cost = _table(grid).cost
    inf = float("inf")
    out: List[float] = []
    for i, (depth, age) in enumerate(ladder):
        if i:
            left = _rest(grid, tuple((depth, age + nights) for depth, age in ladder[:i])).upto(nights - 1)
        else:
            left = [0.0] + [inf] * nights
        out.append(min(cost(depth, age, m) + left[nights - m] for m in range(1, nights + 1)))
    return tuple(out)


class _Rest:
    """Least cost of the last n nights on some rungs, n = 0...: they are given by depth and by the age they end with.

    So one serves all nights until the full, and all ladders that begin alike.
    """

    def __init__(self, grid: int, depth: int, end: int, below: Optional["_Rest"]) -> None:
        self.cost = _table(grid).cost
        self.depth, self.end, self.below = depth, end, below
        self.least = [0.0]

    def upto(self, nights: int) -> List[float]:
        """For 0 to `nights` nights, or more."""
        least = self.least
        if len(least) <= nights:
            below = self.below.upto(nights) if self.below else [0.0] + [float("inf")] * nights
            cost, depth, end = self.cost, self.depth, self.end
            for n in range(len(least), nights + 1):
                least.append(min(cost(depth, end - n, m) + below[n - m] for m in range(n + 1)))
        return least


@lru_cache(maxsize=20_000)
def _rest(grid: int, rungs: Tuple[Tuple[int, int], ...]) -> _Rest:
    depth, end = rungs[-1]
    return _Rest(grid, depth, end, _rest(grid, rungs[:-1]) if len(rungs) > 1 else None)


def best(grid: int, ladder: Ladder, nights: int) -> int:
    """The cheapest rung for tonight; of equals the lowest."""
    if ladder[-1][0] >= nights:
        return len(ladder) - 1
    all_of = costs(grid, ladder, nights)
    edge = min(all_of) * (1 + 1e-9)
    return next(i for i, cost in enumerate(all_of) if cost <= edge)


def climb(ladder: Ladder, rung: int) -> Ladder:
    """The ladder of tomorrow after a dump on a rung tonight; a rung with no level left is gone."""
    kept = [(depth, min(OLDEST, age + 1)) for depth, age in ladder[: rung + 1]]
    if ladder[rung][0] > 1:
        kept.append((ladder[rung][0] - 1, 1))
    return tuple(kept)


@lru_cache(maxsize=100_000)
def path(grid: int, ladder: Ladder, nights: int) -> Tuple[float, ...]:
    """What the coming nights take when each chooses the best rung."""
    if nights <= 0:
        return ()
    v = curve(grid)
    if ladder[-1][0] >= nights:
        return (v[ladder[-1][1]],) + (1.0,) * (nights - 1)
    rung = best(grid, ladder, nights)
    return (v[ladder[rung][1]],) + path(grid, climb(ladder, rung), nights - 1)


@lru_cache(maxsize=100_000)
def outlook(grid: int, ladder: Ladder, depth: int, full_in: int, cycle: int, nights: int) -> Tuple[float, ...]:
    """Incrementals of the coming nights with a full in full_in nights and one each cycle after it.

    The night of a full itself counts as one night's change: a full is counted net of that. depth: levels above a full.
    """
    out: List[float] = list(path(grid, ladder, min(full_in, LONGEST))[:nights])
    fresh = cycle_path(grid, depth, cycle)
    while len(out) < nights:
        out.append(1.0)
        out.extend(fresh)
    return tuple(out[:nights])


def cycle_path(grid: int, depth: int, cycle: int) -> Tuple[float, ...]:
    """The incrementals of the nights between two fulls."""
    if depth <= 0:
        return (1.0,) * (cycle - 1)
    return path(grid, ((depth, 1),), min(LONGEST, cycle - 1))


def saturation(ages: Sequence[int], sizes: Sequence[float], default: int) -> int:
    """The table that fits tonight's incrementals against the ages of their bases; default when they tell none."""
    old, young = ages[0], ages[-1]
    if old < young + 3 or sizes[-1] <= 0 or old > OLDEST:
        return default
    wanted = sizes[0] / sizes[-1]
    errors = [abs(curve(g)[old] / curve(g)[young] - wanted) for g in range(len(GRID))]
    return errors.index(min(errors))
