"""What fits into tonight's limits, and what is given up when not all does.

Here live the counting of resources and the order of sacrifice: fulls that may wait go first, then levels get deeper,
then fulls that are due wait, those of low priority and little risk first; an incremental is dropped last. Nothing here
knows coming nights.
"""

from __future__ import annotations

import math
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from backupcore.schedule import believed
from backupcore.schedule.items import Item
from backupcore.schedule.levels import costs, curve
from backupcore.schedule.records import BYTES, GivenUp, View

_BELIEVED = "bytes as believed"  # beside the estimates: what actual dumps taught
_HEADROOM = 2.0  # standard deviations of estimates that are kept free


class Pick(NamedTuple):
    """What an item gets: level -1 is nothing."""

    item: Item
    level: int
    size: float


def fit(
    view: View, error: float, incrementals: Sequence[Item], fulls: Sequence[Item], optional: Sequence[Item]
) -> Tuple[List[Pick], List[GivenUp]]:
    """Tonight's dumps within the limits, in their order, and what was given up.

    incrementals: items with a rung chosen. fulls: those that are due, most important first. optional: those that
    could wait. Items of both may be dumped incrementally instead.
    """
    picks = [Pick(item, item.rungs[item.rung][0], item.rungs[item.rung][1]) for item in incrementals]
    picks += [Pick(item, 0, item.size) for item in fulls]
    picks += [Pick(item, 0, item.size) for item in optional]
    meter = _Meter(view, error)
    if not meter.limits:
        return picks, []
    for pick in picks:
        meter.add(pick)
    if meter.holds(soft=True):
        return picks, []
    return _squeeze(view, error, incrementals, fulls, optional)


class _Meter:
    """Counts what picks take of each limited resource."""

    def __init__(self, view: View, error: float) -> None:
        self.limits = dict(view.limits)
        self.limits.update(view.coming.get(view.night, {}))
        self.error = error
        if BYTES in self.limits:
            self.limits[_BELIEVED] = self.limits[BYTES]
        self.used: Dict[str, float] = dict.fromkeys(self.limits, 0.0)
        self.squares = 0.0  # variance of what is believed of bytes
        self.count = 0

    def amounts(self, pick: Pick) -> List[Tuple[str, float]]:
        if pick.level < 0:
            return []
        item, full = pick.item, pick.level == 0
        raw = item.unit.full if full and item.unit.full is not None else pick.size
        if item.trace.doubt < self.error / 2:
            raw = pick.size  # real dumps told more than tonight's estimate does
        out = []
        for name in self.limits:
            if name == BYTES:
                out.append((name, raw))
            elif name == _BELIEVED:
                out.append((name, pick.size))
            elif name in item.unit.use:
                out.append((name, item.unit.takes(name, full, max(raw, pick.size))))
        return out

    def add(self, pick: Pick, sign: int = 1) -> None:
        for name, amount in self.amounts(pick):
            self.used[name] += sign * amount
            self.count += sign * (name == _BELIEVED)
            if self.error and name == _BELIEVED:
                doubt = min(self.error, pick.item.trace.doubt) if pick.level == 0 else believed.doubt(self.error)
                self.squares += sign * doubt * amount * amount

    def holds(self, soft: bool) -> bool:
        """Whether all limits hold; without soft: the hard ones."""
        # none for one dump alone: what nobody ever makes, nobody learns the size of
        spare = _HEADROOM * math.sqrt(max(0.0, self.squares)) if self.error and self.count > 1 else 0.0
        return all(
            self.used[name] + (spare if name == _BELIEVED else 0.0) <= limit.amount * (1 + 1e-12)
            for name, limit in self.limits.items()
            if soft or limit.hard
        )

    def swap(self, got: Dict[str, Pick], new: Pick, soft: bool) -> bool:
        """Puts new in the place of what its item has, if the limits allow."""
        old = got[new.item.id]
        self.add(old, -1)
        self.add(new)
        if self.holds(soft):
            got[new.item.id] = new
            return True
        self.add(new, -1)
        self.add(old)
        return False

    def short(self) -> str:
        """The resource that is nearest to its limit."""
        names = [name for name in self.limits if name != _BELIEVED]
        return max(names, key=lambda one: (self.used[one] / max(1e-9, self.limits[one].amount), one))


def risk(item: Item, night: int) -> Tuple:
    """Sort key: what must not wait comes first. Each whole cycle that a full is late counts as one step of priority:
    else a source of low priority would starve where there is never room for all."""
    unprotected = item.first or item.broken
    cycles = max(0, night - item.due) // max(1, item.unit.wish.cycle)
    return (-item.unit.wish.priority - cycles, not unprotected, -(night - item.due), -item.size, item.place)


def deeper(incrementals: Sequence[Item]) -> List[Tuple[float, int, Item, int]]:
    """Deeper levels that take less tonight: (bytes the coming nights pay for each saved, place, item, rung), cheapest
    first."""
    out = []
    for item in incrementals:
        rungs, best = item.rungs, item.rung
        if len(rungs) < 2 or all(size >= rungs[best][1] for _, size in rungs):
            continue
        v, total = curve(item.grid), costs(item.grid, item.ladder, item.nights)
        future = [item.rate * (cost - v[age]) for cost, (_, age) in zip(total, item.ladder)]
        options = [
            (max(0.0, future[rung] - future[best]) / (rungs[best][1] - size), rung)
            for rung, (_, size) in enumerate(rungs)
            if size < rungs[best][1]
        ]
        price, rung = min(options)
        out.append((price, item.place, item, rung))
    out.sort(key=lambda one: one[:2])
    return out


def _squeeze(
    view: View, error: float, incrementals: Sequence[Item], fulls: Sequence[Item], optional: Sequence[Item]
) -> Tuple[List[Pick], List[GivenUp]]:
    night = view.night
    meter = _Meter(view, error)
    got: Dict[str, Pick] = {}
    order = [*incrementals, *fulls, *optional]
    urgent = sorted(fulls, key=lambda item: risk(item, night))

    def nothing(item: Item) -> Pick:
        return Pick(item, -1, 0.0)

    def small(item: Item) -> Pick:
        return Pick(item, *item.rungs[item.rung]) if item.rungs else nothing(item)

    def put(pick: Pick) -> None:
        meter.add(got.get(pick.item.id, nothing(pick.item)), -1)
        meter.add(pick)
        got[pick.item.id] = pick

    # 1. what may wait waits
    for item in order:
        put(small(item))
    for item in urgent:
        put(Pick(item, 0, item.size))
    # 2. levels get deeper, where the coming nights pay least for it
    better: List[Pick] = []
    for _, _, item, rung in deeper(incrementals):
        if meter.holds(soft=True):
            break
        better.append(got[item.id])
        put(Pick(item, *item.rungs[rung]))
    # 3. what is due waits, the least important first
    for item in reversed(urgent):
        if meter.holds(soft=False):
            break
        put(small(item))
    # 4. incrementals are dropped, the least important first
    for item in sorted(order, key=lambda item: (*_need(item, night), -item.place)):
        if meter.holds(soft=False):
            break
        if item.rungs:
            put(Pick(item, *min(item.rungs, key=lambda rung: (rung[1], -rung[0]))))
        if not meter.holds(soft=False):
            put(nothing(item))
    # 5. what fits after all, most important first
    dropped = [item for item in order if got[item.id].level < 0 and item.rungs]
    for item in sorted(dropped, key=lambda item: (*_need(item, night), -item.place), reverse=True):
        meter.swap(got, min((Pick(item, *rung) for rung in item.rungs), key=lambda pick: pick.size), soft=False)
    for item in urgent:
        if got[item.id].level:
            meter.swap(got, Pick(item, 0, item.size), soft=False)
    for pick in reversed(better):
        if got[pick.item.id].level > pick.level:
            meter.swap(got, pick, soft=True)
    for item in optional:
        meter.swap(got, Pick(item, 0, item.size), soft=True)
    picks = [got[item.id] for item in order if got[item.id].level >= 0]
    picks.sort(key=lambda pick: pick.level == 0)
    return picks, _given(view, meter, incrementals, urgent, optional, got)


def _need(item: Item, night: int) -> Tuple[int, int]:
    """Sort key of incrementals, those that matter most last: by priority, and of one priority what nothing was dumped
    of for longest. A whole cycle without any dump is a step of priority: where there is never room for all, all have
    their turn."""
    age = _age(item, night)
    return item.unit.wish.priority + max(0, age - 1) // max(1, item.unit.wish.cycle), age


def _age(item: Item, night: int) -> int:
    """Nights since anything of it was dumped."""
    return -max((base.night for base in item.unit.bases), default=item.unit.since - 1) + night


def _given(
    view: View,
    meter: _Meter,
    incrementals: Sequence[Item],
    fulls: Sequence[Item],
    optional: Sequence[Item],
    got: Dict[str, Pick],
) -> List[GivenUp]:
    night = view.night
    out: List[GivenUp] = []
    for item in fulls:
        if got[item.id].level:
            what = "first" if item.unit.last_full is None else "full"
            out.append(GivenUp(item.id, what, *_why(view, meter, item)))
    for item in incrementals:
        best = item.rungs[item.rung][0]
        if 0 < best != got[item.id].level > 0:
            why = f"level {best} would take more of tonight's {meter.short()} than its limit leaves"
            out.append(GivenUp(item.id, "level", why))
    for item in optional:
        if item.first and got[item.id].level:
            out.append(GivenUp(item.id, "first", *_why(view, meter, item)))
    for item in [*incrementals, *fulls, *optional]:
        if item.rungs and got[item.id].level < 0:
            out.append(GivenUp(item.id, "incremental", _used_up(meter), night + 1))
    return out


def _why(view: View, meter: _Meter, item: Item) -> Tuple[str, Optional[int]]:
    """(why a full is not made tonight, the night it is planned for now: None when no night has room for it)"""
    for name, amount in meter.amounts(Pick(item, 0, item.size)):
        limit = meter.limits[name]
        if amount > limit.amount and name != _BELIEVED:
            why = f"its full alone takes more {name} than a night's limit of {limit.amount:.4g}"
            return why, None if limit.hard and name not in view.coming.get(view.night, {}) else view.night + 1
    return _used_up(meter), view.night + 1


def _used_up(meter: _Meter) -> str:
    return f"tonight's limit of {meter.limits[meter.short()].amount:.4g} {meter.short()} is used up"
