"""What fits into tonight's limits, and what is given up when not all does.

Here live the counting of resources and the order of sacrifice: fulls that may wait go first, then levels get deeper,
then fulls that are due wait, those of low priority and little risk first; an incremental is dropped last. Nothing here
knows coming nights.
"""

from __future__ import annotations

import math
from typing import Dict, List, NamedTuple, Sequence, Tuple

from backupcore.schedule.items import Item
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
        self.squares: Dict[str, float] = dict.fromkeys(self.limits, 0.0)

    def amounts(self, pick: Pick) -> List[Tuple[str, float]]:
        if pick.level < 0:
            return []
        item, full = pick.item, pick.level == 0
        raw = item.unit.full if full and item.unit.full is not None else pick.size
        out = []
        for name in self.limits:
            if name == BYTES:
                out.append((name, raw))
            elif name == _BELIEVED:
                out.append((name, pick.size))
            else:
                use = item.unit.use.get(name)
                if use is not None:
                    out.append((name, max(raw, pick.size) * use[0 if full else 1]))
        return out

    def add(self, pick: Pick, sign: int = 1) -> None:
        for name, amount in self.amounts(pick):
            self.used[name] += sign * amount
            self.squares[name] += sign * amount * amount

    def holds(self, soft: bool) -> bool:
        """Whether all limits hold; without soft: the hard ones."""
        return all(
            self.used[name] + (_HEADROOM * math.sqrt(max(0.0, self.error * self.squares[name])) if self.error else 0.0)
            <= limit.amount * (1 + 1e-12)
            for name, limit in self.limits.items()
            if soft or limit.hard
        )

    def swap(self, old: Pick, new: Pick, soft: bool) -> bool:
        """Puts new in the place of old if the limits allow."""
        self.add(old, -1)
        self.add(new)
        if self.holds(soft):
            return True
        self.add(new, -1)
        self.add(old)
        return False

    def short(self) -> str:
        """The resource that is nearest to its limit."""
        names = [name for name in self.limits if name != _BELIEVED]
        return max(names, key=lambda one: (self.used[one] / max(1e-9, self.limits[one].amount), one))


def risk(item: Item, night: int) -> Tuple:
    """Sort key: what must not wait comes first."""
    unprotected = item.first or item.broken
    return (-item.unit.wish.priority, not unprotected, -(night - item.due), -item.size, item.place)


def _squeeze(
    view: View, error: float, incrementals: Sequence[Item], fulls: Sequence[Item], optional: Sequence[Item]
) -> Tuple[List[Pick], List[GivenUp]]:
    night = view.night
    meter = _Meter(view, error)
    given: List[GivenUp] = []
    got: Dict[str, Pick] = {}
    # 1. each unit with a base gets its smallest incremental, most important first
    small = [item for item in [*incrementals, *fulls, *optional] if item.rungs]
    small.sort(key=lambda item: (-item.unit.wish.priority, -(night - item.unit.bases[-1].night), item.place))
    lack: List[Item] = []
    for item in small:
        level, size = min(item.rungs, key=lambda rung: (rung[1], -rung[0]))
        pick = Pick(item, level, size)
        if meter.swap(Pick(item, -1, 0.0), pick, soft=False):
            got[item.id] = pick
        else:
            got[item.id] = Pick(item, -1, 0.0)
            lack.append(item)
    # 2. what is due
    for item in sorted(fulls, key=lambda item: risk(item, night)):
        nothing = got.get(item.id, Pick(item, -1, 0.0))
        full = Pick(item, 0, item.size)
        if meter.swap(nothing, full, soft=False):
            got[item.id] = full
            continue
        what = "first" if item.first else "full"
        given.append(GivenUp(item.id, what, _why(view, meter, item), night + 1))
        got.setdefault(item.id, nothing)
    # 3. the levels that are best in the long run, those that save most first
    for item in sorted(incrementals, key=lambda item: (-item.unit.wish.priority, item.place)):
        level, size = item.rungs[item.rung]
        now = got[item.id]
        if now.level in (-1, level):
            continue
        if meter.swap(now, Pick(item, level, size), soft=True):
            got[item.id] = Pick(item, level, size)
        else:
            why = f"level {level} would take more of tonight's {meter.short()} than its limit leaves"
            given.append(GivenUp(item.id, "level", why))
    # 4. what may wait
    for item in optional:
        full, now = Pick(item, 0, item.size), got.get(item.id, Pick(item, -1, 0.0))
        if meter.swap(now, full, soft=True):
            got[item.id] = full
        elif item.first:
            given.append(GivenUp(item.id, "first", _why(view, meter, item), night + 1))
    for item in lack:
        if got[item.id].level < 0:
            given.append(GivenUp(item.id, "incremental", _why(view, meter, item), night + 1))
    order = [*incrementals, *fulls, *optional]
    picks = [got[item.id] for item in order if item.id in got and got[item.id].level >= 0]
    picks.sort(key=lambda pick: pick.level == 0)
    return picks, given


def _why(view: View, meter: _Meter, item: Item) -> str:
    for name, amount in meter.amounts(Pick(item, 0, item.size)):
        limit = meter.limits[name]
        if amount > limit.amount and name != _BELIEVED:
            return f"its full alone takes more {name} than a night's limit of {limit.amount:.4g}"
    return f"tonight's limit of {meter.limits[meter.short()].amount:.4g} {meter.short()} is used up"
