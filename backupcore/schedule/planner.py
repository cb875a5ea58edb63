"""Tonight's levels, chosen so that every night is alike: the scheduler.

Here lives plan(), which puts the parts of the schedule together; it reads no clock, file or catalog, and the same view
and memory give the same plan.
"""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence, Tuple

from backupcore.schedule import limits
from backupcore.schedule.horizon import Horizon
from backupcore.schedule.items import Item, make, rung_for
from backupcore.schedule.levels import LONGEST
from backupcore.schedule.memory import Memory
from backupcore.schedule.observe import observe
from backupcore.schedule.records import BYTES, Choice, GivenUp, Outlook, Plan, View

CHEAP = 0.1  # a full that takes so little more than an incremental, of its size, is taken
FEWEST, MOST = 7, 60  # nights that are looked ahead
FLAKY = 0.93


def plan(view: View, memory: Memory) -> Plan:
    """The plan of tonight and the outlook for the cycle."""
    seen = observe(memory, view)
    items = make(view, seen)
    absent = tuple(unit.id for unit in view.units if not unit.reachable)
    placed, fixed_items = [], []
    for item in items:
        (placed if _is_placed(item) else fixed_items).append(item)
    nights = max([FEWEST] + [min(MOST, item.unit.wish.cycle) for item in placed])
    _tonights_rungs(placed, view)
    horizon = Horizon(view, seen, placed, [0.0] * nights, nights)
    _place(horizon, placed, view)
    horizon.aim()
    horizon.give_back()
    horizon.repair()
    must, optional = _tonight(horizon, placed, view)
    chosen = {item.id for item in [*must, *optional]}
    incrementals = [item for item in placed if item.tonight and item.rungs and item.id not in chosen]
    picks, given = limits.fit(view, seen.error, incrementals, must, optional)
    return _answer(view, horizon, items, picks, given, absent)


def _is_placed(item: Item) -> bool:
    return True


def _tonights_rungs(items: Sequence[Item], view: View) -> None:
    """The kept night of each full, tonight's rung, and the size net of it."""
    night = view.night
    for item in items:
        planned = item.trace.planned
        if planned is not None and night <= planned <= item.deadline and (planned > night or item.tonight):
            item.kept = planned - night
        elif not item.first and not item.waits and item.deadline > night and planned is None:
            item.kept = item.deadline - night
        full_in = item.kept if item.kept else max(1, item.due - night)
        if item.rungs:
            item.rung = rung_for(item, full_in)
        if item.first:
            item.net = item.size
        elif item.tonight and item.rungs:
            item.net = max(0.0, item.size - item.rungs[item.rung][1])
        else:
            item.net = max(0.0, item.size - item.rate)


def _place(horizon: Horizon, items: Sequence[Item], view: View) -> None:
    """Puts each full on its night of the last plan; new, late and homeless ones, largest first, on the emptiest."""
    night, last = view.night, horizon.nights - 1
    homeless = []
    for item in items:
        if item.first and not item.tonight:
            continue
        if item.kept is None:
            homeless.append(item)
        elif item.kept <= last:
            horizon.put(item, item.kept)
    homeless.sort(key=lambda item: (-item.net, item.place))
    for item in homeless:
        to = max(0, min(last, item.deadline - night))
        start = min(to, 0 if item.tonight else 1)
        nights = [k for k in range(start, to + 1) if horizon.there(item, k) > 0.3] or [to]
        if not item.first and night <= item.due:
            k = nights[-1]
        else:
            k = min(nights, key=lambda k: (horizon.load[k], k))
        horizon.put(item, k)


def _tonight(horizon: Horizon, items: Sequence[Item], view: View) -> Tuple[List[Item], List[Item]]:
    """Fulls of tonight: those that must be, and those that may."""
    night, aim = view.night, horizon.level
    top, slack = horizon.tops[0], 0.01
    planned = [item for _, _, item in horizon.at[0] if item.tonight]
    must = [item for item in planned if item.deadline <= night]
    ids = {item.id for item in must}
    must += [item for item in items if item.tonight and item.deadline <= night and item.id not in ids]
    must.sort(key=lambda item: limits.risk(item, night))
    now = horizon.base[0] + sum(item.net for item in must)
    take: List[Item] = []
    taken = {item.id for item in must}

    def add(item: Item) -> None:
        nonlocal now
        take.append(item)
        taken.add(item.id)
        now += item.net

    may = [item for item in planned if item.deadline > night]
    may.sort(key=lambda item: (item.deadline - night > 1, -item.net, item.place))
    edge = max(top, horizon.load[0])
    for item in may:
        if now + item.net <= edge or not taken:
            add(item)
    for item in items:
        if item.tonight and item.rungs and item.id not in taken and 0 < item.size and item.net <= CHEAP * item.size:
            add(item)
    low = aim * (1 - slack)
    if now < low and sum(horizon.load[1:4]) / 3 > aim:
        pool = [
            item
            for item in items
            if item.tonight
            and item.rungs
            and item.id not in taken
            and 0 < item.deadline - night <= max(2, item.unit.wish.cycle // 3)
            and item.presence.share() < FLAKY
        ]
        pool.sort(key=lambda item: (item.deadline, -item.net, item.place))
        for item in pool:
            if now + item.net <= aim * (1 + slack):
                add(item)
    if now < low:
        pool = [item for item in items if item.tonight and item.id not in taken and (item.first or item.waits)]
        pool.sort(key=lambda item: (not item.first, -item.net, item.place))
        for item in pool:
            if now + item.net <= aim * (1 + slack):
                add(item)
    return must, take


def _answer(
    view: View,
    horizon: Horizon,
    items: Sequence[Item],
    picks: Sequence[limits.Pick],
    given: List[GivenUp],
    absent: Tuple[str, ...],
) -> Plan:
    night = view.night
    choices = []
    full_tonight = set()
    load = list(horizon.load)
    load[0] = 0.0
    fulls: List[List[str]] = [[] for _ in range(horizon.nights)]
    for pick in picks:
        item = pick.item
        load[0] += pick.size
        if pick.level == 0:
            full_tonight.add(item.id)
            if item.at is not None and item.at > 0:
                for at, size in horizon.shares(item, item.at):
                    load[at] -= size
            cycle = item.unit.wish.cycle
            fulls[0].append(item.id)
            following: Optional[int] = night + cycle
        else:
            following = night + item.at if item.at else None
        choices.append(Choice(item.id, pick.level, pick.size, _reason(item, pick, view), item.due, following))
    for k in range(1, horizon.nights):
        fulls[k] = [item.id for _, _, item in horizon.at[k] if item.id not in full_tonight]
    outlook = tuple(Outlook(night + k, {BYTES: load[k]}, tuple(fulls[k])) for k in range(horizon.nights))
    return Plan(night, tuple(choices), tuple(given), absent, outlook)


def _reason(item: Item, pick: limits.Pick, view: View) -> str:
    if pick.level == 0:
        if item.first:
            return "the first full"
        return f"full: due on night {item.due}"
    return "changes since the dump below it"


_ = (Dict, LONGEST)
