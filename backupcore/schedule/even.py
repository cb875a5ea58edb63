"""Tonight's levels, chosen together so that the coming nights are alike.

Several rungs of a ladder often cost nearly the same until the next full, and differ in the nights that pay for it. Here
lives the choice among them: what a night has above the mean is worth the more the higher it stands out, up to an edge;
what a rung costs more in the long run than the best one is a price. A level that gains nothing stays as it is best by
itself, so that levels do not flap. Nights that stand out for the largest full alone are left alone: no level helps
there. Nothing here moves a full.
"""

from __future__ import annotations

from typing import Dict, List, Sequence, Tuple

from backupcore.schedule.horizon import Horizon
from backupcore.schedule.items import Item
from backupcore.schedule.levels import climb, path

WIDTH = 0.03  # of the mean: a byte of a night so far above it is worth a byte
EDGE = 10.0  # and what stands out more is worth no more than this
PRICE = 0.5  # of a byte that a rung costs more until the next full
_GAIN = 0.1  # of a night's change of a source: what is not worth another level
_MOST = 600  # sources that are looked at, those with the largest incrementals
_ROUNDS = 2


def levels(horizon: Horizon, items: Sequence[Item], load: List[float]) -> None:
    """Sets the rung of tonight's incrementals; load: of the coming nights, tonight's as chosen, changed with it."""
    choices = [item for item in items if len(item.rungs) > 1 and not item.flat and item.here]
    if horizon.floor <= 0:
        return
    if len(choices) > _MOST:
        choices = sorted(choices, key=lambda item: (-item.rate, item.place))[:_MOST]
    for _ in range(_ROUNDS):
        if not _round(horizon, choices, load):
            break


def cost(load: float, floor: float) -> float:
    """What a night that stands out is worth, in bytes."""
    over, width = max(0.0, load - floor), WIDTH * floor
    if over <= EDGE * width:
        return over * over / (2 * width)
    return EDGE * (over - EDGE * width / 2)


def _round(horizon: Horizon, choices: Sequence[Item], load: List[float]) -> int:
    floor = horizon.floor
    slopes = [min(EDGE, max(0.0, one / floor - 1) / WIDTH) for one in load]
    known: Dict[Tuple, List[float]] = {}
    found = []
    for item in choices:
        key = (item.grid, item.ladder, item.nights, item.rung)
        later = known.get(key)
        if later is None:
            later = known[key] = _later(item, slopes, horizon)
        size, rate = item.rungs[item.rung][1], item.rate
        best, chosen = _GAIN * rate, -1
        for rung, (_, other) in enumerate(item.rungs):
            gain = (size - other) * (slopes[0] + PRICE) + rate * later[rung]
            if gain > best and rung != item.rung:
                best, chosen = gain, rung
        if chosen >= 0:
            found.append((-best, item.place, item, chosen))
    found.sort(key=lambda one: one[:2])
    changed = 0
    for _, _, item, rung in found:
        change = [item.rungs[rung][1] - item.rungs[item.rung][1]]
        change += [item.rate * off for off in _change(item, rung, horizon)]
        gain = -PRICE * sum(change)
        for k, off in enumerate(change):
            if off:
                gain += cost(load[k], floor) - cost(load[k] + off, floor)
        if gain > _GAIN * item.rate:
            item.rung = rung
            for k, off in enumerate(change):
                load[k] += off
            changed += 1
    return changed


def _later(item: Item, slopes: Sequence[float], horizon: Horizon) -> List[float]:
    """What each rung in the place of its own saves of the coming nights, in nights of change."""
    out = []
    for rung in range(len(item.ladder)):
        change = _change(item, rung, horizon) if rung != item.rung else []
        out.append(-sum(off * (slope + PRICE) for off, slope in zip(change, slopes[1:]) if off))
    return out


def _change(item: Item, rung: int, horizon: Horizon) -> List[float]:
    """How the coming nights change with another rung tonight, in nights of change."""
    old, new = (path(item.grid, climb(item.ladder, one), item.nights - 1) for one in (item.rung, rung))
    return [factor * (b - a) for factor, a, b in zip(horizon.week[1:], old, new)]
