"""Which fulls are made tonight: those that must be, those planned, and what fills a valley.

Here lives the choice among what the horizon offers; limits have the last word (`limits`).
"""

from __future__ import annotations

from typing import Dict, List, Sequence, Tuple

from backupcore.schedule import limits
from backupcore.schedule.horizon import Horizon
from backupcore.schedule.items import Item
from backupcore.schedule.records import View

CHEAP = 0.1  # a full is taken when it takes so little more than an incremental, of its size
FLAKY = 0.93  # a client there less often is flaky
_SLACK = 0.01


def fulls(horizon: Horizon, items: Sequence[Item], view: View) -> Tuple[List[Item], List[Item], Dict[str, str]]:
    """(fulls that must be made, those that could wait, why each): most important first."""
    night, aim = view.night, horizon.level
    planned = [item for _, _, item in horizon.at[0] if item.tonight]
    must = [item for item in items if item.tonight and item.deadline <= night]
    pinned = [item for item in planned if item.pinned]
    must.sort(key=lambda item: limits.risk(item, night))
    now = horizon.base[0] + sum(item.now for item in must)
    take: List[Item] = []
    why = {item.id: "due" for item in must}

    def add(item: Item, reason: str) -> None:
        nonlocal now
        take.append(item)
        why[item.id] = reason
        now += item.now

    for item in pinned:
        add(item, "flaky")
    may = [item for item in planned if item.deadline > night and not item.pinned]
    may.sort(key=lambda item: (item.deadline - night > 1, -item.now, item.place))
    edge = max(horizon.tops[0], horizon.load[0]) * (1 + 1e-6)
    for item in may:
        if now + item.now <= edge or not why:
            add(item, "planned")
    for item in items:
        if item.tonight and item.rungs and item.id not in why and 0 < item.size and item.now <= CHEAP * item.size:
            add(item, "cheap")
    low, high = aim * (1 - _SLACK), aim * (1 + _SLACK)
    if now < low and sum(horizon.load[1:4]) / 3 > aim:
        # the coming nights are fuller than they should be: flaky clients that are here tonight need not wait
        pool = [
            item
            for item in items
            if item.tonight
            and item.rungs
            and item.id not in why
            and 0 < item.deadline - night <= max(2, item.unit.wish.cycle // 3)
            and item.presence.share() < FLAKY
        ]
        pool.sort(key=lambda item: (item.deadline, -item.now, item.place))
        for item in pool:
            if now + item.now <= high:
                add(item, "flaky")
    if now < low:
        pool = [item for item in items if item.tonight and item.id not in why and (item.first or item.waits)]
        pool.sort(key=lambda item: (not item.first, -item.now, item.place))
        for item in pool:
            if now + item.now <= high:
                add(item, "valley")
    return must, take, why
