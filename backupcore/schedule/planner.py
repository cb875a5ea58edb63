"""Tonight's levels, chosen so that every night is alike: the scheduler.

Here lives plan(), which puts the parts of the schedule together; it reads no clock, file or catalog, and the same view
and memory give the same plan. How it goes:

1. `observe`: what the view shows goes into the memory: presence of clients, change and size of units, the rhythm of
   the week; a full that could not be made on its due night is noted with the reason, since that excuses it for a while.
2. `items`: each unit gets a deadline, the last night for its next full: its due night, or the end of the grace.
   Each offers tonight's incrementals as a ladder of bases; where estimates are off, with bytes as `believed`.
3. `horizon`: every full lies on the night that the last plan gave it, else on its due night; first fulls and late
   ones, largest first, on the emptiest nights they may have. Incrementals of the coming nights are forecast by the
   best levels (`levels`, a dynamic programme over the nights to the next full). The aim is the level no plan gets
   below: the mean, the steepest prefix of deadlines, the largest full. Fulls leave nights above the aim: later ones
   cost nothing, earlier ones waste bytes; what an older plan pulled forward returns to its due night where it fits.
4. `tonight`: what is due, what is planned, and what fills a valley: late fulls, clients that are seldom here.
5. `levels`: everybody else gets the incremental that is cheapest in the long run.
6. `limits`: what does not fit gives way, by priority and risk, and is named.
"""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence

from backupcore.schedule import even, limits, reasons, resources, tonight
from backupcore.schedule.horizon import Horizon
from backupcore.schedule.items import Item, make, rung_for
from backupcore.schedule.levels import LONGEST
from backupcore.schedule.memory import Memory
from backupcore.schedule.observe import FIRST_NIGHTS, observe
from backupcore.schedule.records import BYTES, Choice, GivenUp, Outlook, Plan, View

FEWEST, MOST = 7, 60  # nights that are looked ahead
BIG = 0.3  # of what is free tonight: a flaky client's full above it is made
SELDOM = 0.55  # a client here less often gets its full up to EARLY nights before it is due
EARLY = 2


def plan(view: View, memory: Memory) -> Plan:
    """The plan of tonight and the outlook for the cycle."""
    seen = observe(memory, view)
    items = make(view, seen)
    placed = [item for item in items if item.kind in ("placed", "asked")]
    settled = [item for item in items if item.kind in ("own", "full", "incremental")]
    nights = max([FEWEST] + [min(MOST, item.unit.wish.cycle) for item in placed])
    fixed = _fixed(items, view, nights)
    _tonights_rungs(placed, view)
    _first_window(placed, view, sum(fixed) / nights)
    horizon = Horizon(view, seen, placed, fixed, nights)
    _ease_broken(horizon, placed, view)
    _hurry(horizon, placed, view)
    _place(horizon, placed, view)
    horizon.aim()
    horizon.give_back()
    horizon.repair()
    _calm(horizon, placed, view)
    must, optional, why = tonight.fulls(horizon, placed, view)
    must += [item for item in settled if item.here and _settled_full(item)]
    chosen = {item.id for item in [*must, *optional]}
    incrementals = [item for item in [*placed, *settled] if item.here and item.rungs and item.id not in chosen]
    load = _loads(horizon, [*must, *optional])
    for item in placed:
        if item.at and len(item.rungs) > 1 and not (item.waits and view.limits):
            item.nights = max(1, min(LONGEST, item.at))
    even.levels(horizon, [item for item in incrementals if item.kind == "placed"], load)
    picks, given = limits.fit(view, seen.error, incrementals, must, optional)
    return _answer(view, horizon, items, picks, given, why)


def _loads(horizon: Horizon, fulls: Sequence[Item]) -> List[float]:
    """The coming nights with these fulls tonight and no others."""
    load = list(horizon.load)
    for _, _, item in horizon.at[0]:
        for at, size in horizon.shares(item, 0):
            load[at] -= size
    for item in fulls:
        if item.at:
            for at, size in horizon.shares(item, item.at):
                load[at] -= size
        if item.kind in ("placed", "asked"):
            for at, size in horizon.shares(item, 0):
                load[at] += size
    return load


def _settled_full(item: Item) -> bool:
    return item.kind == "full" or (item.kind == "own" and item.tonight)


def _own(item: Item) -> bool:
    return item.unit.wish.own and item.unit.wish.strategy != "skip"


def _always(item: Item) -> bool:
    """Whether each of its dumps is a full; of such one that was asked for tonight, too."""
    return item.kind == "full" or (item.kind == "asked" and item.unit.wish.strategy == "full")


def _full_on(item: Item, view: View, k: int) -> bool:
    """Whether a full that nobody moves falls on that coming night."""
    if _always(item):
        return item.days is None or (view.weekday + k) % 7 in item.days
    return view.night + k in item.unit.wish.own_fulls


def _fixed(items: Sequence[Item], view: View, nights: int) -> List[float]:
    """What nobody moves: units with a schedule of their own, or of one kind of dump only."""
    out = [0.0] * nights
    for item in items:
        if _always(item):
            out[0] += item.size if item.here and item.kind == "full" else 0.0
            for k in range(1, nights):
                out[k] += item.size if _full_on(item, view, k) else 0.0
        elif item.kind == "incremental" or _own(item):
            for k in range(1, nights):
                out[k] += item.size if _full_on(item, view, k) else item.rate
            if item.here and _settled_full(item):
                out[0] += item.size
            elif item.here and item.rungs:
                out[0] += item.rungs[item.rung][1]
    return out


def _tonights_rungs(items: Sequence[Item], view: View) -> None:
    """The kept night of each full, tonight's rung, and the size net of it."""
    night = view.night
    for item in items:
        planned = item.trace.planned
        if item.kind == "asked" and item.tonight:
            item.kept = 0
        elif planned is not None and night <= planned <= item.deadline and (planned > night or item.tonight):
            item.kept = planned - night
        elif not item.first and not item.waits and item.deadline > night and planned is None:
            item.kept = item.deadline - night
        if len(item.rungs) > 1:
            full_in = item.kept or max(1, item.due - night)
            if item.waits and view.limits:
                full_in = item.unit.wish.cycle  # nobody knows when there will be room for it
            item.rung = rung_for(item, full_in)
        item.net = item.now = item.size if item.first else max(0.0, item.size - item.rate)
        if item.here and item.rungs and not item.first:
            item.now = max(0.0, item.size - item.rungs[item.rung][1])


def _first_window(items: Sequence[Item], view: View, daily: float) -> None:
    """First fulls need not spread over more nights than the limit asks for."""
    limit = view.limits.get(BYTES)
    if limit is None or view.rules.first_nights is not None:
        return
    waiting = [item for item in items if item.first and item.tonight]
    total = sum(item.size for item in waiting)
    room = 0.9 * (limit.amount - daily - sum(item.rate for item in items))
    if not waiting or room <= 0:
        return
    nights = min(FIRST_NIGHTS, int(total / room) + 1)
    for item in waiting:
        item.deadline = min(item.deadline, max(view.night, view.night + nights - 1))


def _ease_broken(horizon: Horizon, items: Sequence[Item], view: View) -> None:
    """Units whose full is no base any more need one tonight; when a target with many is lost, some must wait.

    Not where there is room for all first fulls in one night: after a rebuild every source is such a one.
    """
    if view.rules.first_nights == 1:
        return
    broken = [item for item in items if item.broken and item.kind == "placed" and item.tonight]
    share = sum(item.size / item.unit.wish.cycle for item in items) + sum(horizon.base) / horizon.nights
    share = max(share, sum(item.size for item in broken) / FIRST_NIGHTS)
    broken.sort(key=lambda item: limits.risk(item, view.night))
    taken = 0.0
    for place, item in enumerate(broken):
        taken += item.size
        if place and taken > share:
            item.deadline = view.night + min(FIRST_NIGHTS - 1, int(taken / share))
            item.first = True


def _hurry(horizon: Horizon, items: Sequence[Item], view: View) -> None:
    """Late and large fulls of flaky clients are made on the first night they can be, where tonight has room for them.

    A large one that comes back on the last night of its grace, or meets another, is what makes a night stand out. Of
    clients that are seldom here, small ones too, and some nights early: who waits for a better night meets nobody.
    """
    night = view.night
    must = [item for item in items if item.tonight and item.deadline <= night]
    room = sum(item.size / item.unit.wish.cycle for item in items) + sum(horizon.base) / horizon.nights
    room -= horizon.base[0] + sum(item.now for item in must)
    flaky = [item for item in items if item.tonight and not item.steady and not item.first and item.deadline > night]
    hurried = []
    for item in flaky:
        seldom = item.presence.share() < SELDOM
        soon = item.deadline <= night + (EARLY if seldom else 1)
        if (seldom or item.now > horizon.risky) and (item.waits or soon and (seldom or item.now > BIG * room)):
            hurried.append(item)
    hurried.sort(key=lambda item: (not item.waits, -item.now, item.place))
    for item in hurried:
        if item.now <= room:
            room -= item.now
            item.before, item.kept, item.pinned = item.kept, 0, True


def _calm(horizon: Horizon, items: Sequence[Item], view: View) -> None:
    """What hurried goes back where the rest of tonight does not give way."""
    pinned = sorted((item for item in items if item.pinned), key=lambda item: (item.waits, item.net, item.place))
    changed = False
    for item in pinned:
        if horizon.load[0] <= horizon.tops[0]:
            break
        item.pinned = False
        last = min(horizon.nights - 1, item.deadline - view.night)
        if last > 0:
            horizon.move(item, item.before if item.before and item.before <= last else last)
            changed = True
    if changed:
        horizon.repair()


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
    firsts = [item for item in homeless if item.first]
    if len({item.unit.wish.priority for item in firsts}) > 1:
        _by_priority(horizon, firsts, view)
        homeless = [item for item in homeless if item.at is None]
    for item in homeless:
        to = max(0, min(last, item.deadline - night))
        start = min(to, 0 if item.tonight else 1)
        nights = [k for k in range(start, to + 1) if horizon.there(item, k) > 0.3] or [to]
        if not item.first and night <= item.due:
            k = nights[-1]
        else:
            k = min(nights, key=lambda k: (horizon.load[k], k))
        horizon.put(item, k)


def _by_priority(horizon: Horizon, firsts: Sequence[Item], view: View) -> None:
    """First fulls of high priority on the first nights, as many as keep those level."""
    nights = 1 + max(0, min(horizon.nights - 1, max(item.deadline for item in firsts) - view.night))
    level = (sum(horizon.load[:nights]) + sum(item.net for item in firsts)) / nights
    for item in sorted(firsts, key=lambda item: (-item.unit.wish.priority, -item.net, item.place)):
        to = max(0, min(nights - 1, item.deadline - view.night))
        room = [k for k in range(to + 1) if horizon.load[k] + item.net <= level]
        horizon.put(item, room[0] if room else min(range(to + 1), key=lambda k: (horizon.load[k], k)))


def _answer(
    view: View,
    horizon: Horizon,
    items: Sequence[Item],
    picks: Sequence[limits.Pick],
    given: List[GivenUp],
    why: Dict[str, str],
) -> Plan:
    night = view.night
    choices = []
    load = list(horizon.load)
    load[0] = 0.0
    used: Dict[str, float] = {}
    full_tonight: Dict[str, Item] = {}
    for pick in picks:
        item = pick.item
        load[0] += pick.size
        for name in item.unit.use:
            used[name] = used.get(name, 0.0) + item.unit.takes(name, pick.level == 0, pick.size)
        if pick.level == 0:
            full_tonight[item.id] = item
            if item.at:
                for at, size in horizon.shares(item, item.at):
                    load[at] -= size
            reason = reasons.of_full(item, view, horizon, why.get(item.id, "due"))
        else:
            best = item.rungs[item.rung][0]
            reason = reasons.of_level(item, pick.level, pick.size, best, view)
        choices.append(Choice(item.id, pick.level, pick.size, reason, _due(item), _next_full(item, pick, night)))
    at = [[]] + [[one for _, _, one in row if one.id not in full_tonight] for row in horizon.at[1:]]
    fixed = [item for item in items if _always(item) or _own(item)]
    for k in range(1, horizon.nights):
        at[k] += [item for item in fixed if _full_on(item, view, k)]
    dumped = [item for item in items if item.kind != "idle" or _own(item)]
    told = resources.forecast(view, dumped, at, horizon.week)
    told[0] = used
    outlook = [Outlook(night, {BYTES: load[0], **used}, tuple(full_tonight))]
    for k in range(1, horizon.nights):
        outlook.append(Outlook(night + k, {BYTES: max(0.0, load[k]), **told[k]}, tuple(one.id for one in at[k])))
    given = [*given, *_waiting(view, items, full_tonight, {one.unit for one in given})]
    absent = tuple(unit.id for unit in view.units if not unit.reachable)
    return Plan(night, tuple(choices), tuple(given), absent, tuple(outlook))


def _due(item: Item) -> Optional[int]:
    if item.unit.wish.own:
        return min(item.unit.wish.own_fulls, default=None)
    return None if item.kind == "incremental" else item.due


def _next_full(item: Item, pick: limits.Pick, night: int) -> Optional[int]:
    wish = item.unit.wish
    if wish.own:
        return min((at for at in wish.own_fulls if at > night), default=None)
    if item.kind == "full":
        return night + 1
    if item.kind == "incremental":
        return None
    if pick.level == 0:
        return None if wish.strategy == "incremental" else night + wish.cycle
    if item.at is not None:
        return max(night + 1, night + item.at)
    return night + item.kept if item.kept else None


def _waiting(view: View, items: Sequence[Item], made: Dict[str, Item], named: set) -> List[GivenUp]:
    """First and late fulls that are planned for a later night."""
    out = []
    for item in items:
        late = item.first or item.waits
        if late and item.kind == "placed" and item.tonight and item.id not in made and item.id not in named:
            what = "first" if item.unit.last_full is None else "full"
            until = view.night + (item.at or 1)
            out.append(GivenUp(item.id, what, reasons.waiting(item), until))
    return out
