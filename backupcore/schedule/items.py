"""What the planner moves: one item for each unit, with all that the nights to come ask of it.

Here live the item and how it is made from a unit, its trace and its client's presence: how large it is, by when its
next full must be made, what incrementals it offers tonight. Nothing here knows the load of a night.
"""

from __future__ import annotations

from typing import List, Optional, Tuple

from backupcore.schedule import believed
from backupcore.schedule.levels import LONGEST, MOST_LEVELS, OLDEST, Ladder, best, bucket, curve, saturation
from backupcore.schedule.memory import Memory, Presence, Trace
from backupcore.schedule.observe import FIRST_NIGHTS, due_night, grace, next_day
from backupcore.schedule.records import Unit, View

DEFAULT_FULL = 10e9  # bytes of a full nobody knows anything of
DEFAULT_RATE = 0.01  # share of a full that changes in a night, where nothing tells
CHAIN_SHARE, CHAIN_BYTES = 2e-4, 1e5  # what a longer chain must save: of a full, and bytes


class Item:
    """A unit that the planner places: size, deadline, night planned, and tonight's incrementals."""

    __slots__ = (
        "unit", "id", "place", "trace", "presence", "size", "rate", "net", "due", "deadline", "first", "broken",
        "waits", "kind", "now", "here", "tonight", "takes", "at", "kept", "steady", "grid", "ladder", "rungs", "depth",
        "flat", "rung", "days", "note", "pinned", "before", "nights",
    )  # fmt: skip

    unit: Unit
    trace: Trace
    presence: Presence
    ladder: Ladder
    nights: int  # what its level is chosen for: nights to its next full
    rungs: Tuple[Tuple[int, float], ...]  # of each rung: the level and its bytes tonight
    # placed: the planner moves its fulls; asked: a full tonight is asked for; own: its own schedule has its turn;
    # full, incremental: never anything else; idle: nothing of it tonight
    kind: str
    at: Optional[int]  # nights from tonight to its next full; None: no night yet
    kept: Optional[int]  # at, as last night's plan had it
    here: bool  # whether it can be dumped tonight
    tonight: bool  # whether it can have a full tonight
    net: float  # what its full adds to a coming night, beside the incremental that is counted there
    now: float  # what it adds tonight
    waits: bool  # its full was due before tonight
    pinned: bool  # its full stays on tonight; before: kept, without that

    def __init__(self, unit: Unit, place: int) -> None:
        self.unit = unit
        self.id = unit.id
        self.place = place
        self.first = self.broken = self.waits = self.pinned = False
        self.at = self.kept = self.before = None
        self.ladder = self.rungs = self.takes = ()
        self.grid = self.rung = 0
        self.nights = 1
        self.net = self.now = 0.0
        self.note = ""


def make(view: View, seen: Memory) -> List[Item]:
    """One item for each unit of a view, in its order."""
    items = []
    for place, unit in enumerate(view.units):
        item = Item(unit, place)
        item.trace = seen.units[unit.id]
        item.presence = seen.clients[unit.client]
        item.days = None if len(unit.wish.days) == 7 or not unit.wish.days else unit.wish.days
        item.here = item.tonight = unit.reachable and (item.days is None or view.weekday in item.days)
        _size(item, view, seen)
        item.kind = _kind(item, view.night)
        _deadline(item, view)
        items.append(item)
    return items


def _kind(item: Item, night: int) -> str:
    """Settles what the administrator settled; see Item.kind."""
    unit, wish = item.unit, item.unit.wish
    if wish.strategy == "skip" or (wish.own and wish.forced is None):
        item.here = item.tonight = False
        return "idle"
    if wish.forced is not None:
        item.here = item.tonight = unit.reachable
        rung = forced_rung(unit, wish.forced)
        if rung is not None:
            item.tonight = False
            item.rungs, item.ladder, item.rung = (rung,), ((max(1, item.depth - rung[0] + 1), 1),), 0
            item.note = f"its own schedule: level {rung[0]}" if wish.own else f"it was asked for: level {rung[0]}"
        else:
            asked = "it was asked for" if wish.forced == 0 else f"level {wish.forced} was asked for, but it has no base"
            item.note = "its own schedule" if wish.own and wish.forced == 0 else asked
            if not wish.own:
                item.first = item.first or not unit.bases
                return "asked"
        return "own" if wish.own else "placed"
    if wish.strategy == "full" or item.depth <= 0:
        item.note = "its strategy is fulls only" if wish.strategy == "full" else "no level above a full is allowed"
        return "full"
    if wish.strategy == "incremental" and item.rungs:
        return "incremental"
    return "placed"


def there(item: Item, nights: int, view: View) -> float:
    """How likely a full can be made so many nights from now."""
    if nights == 0:
        return 1.0 if item.tonight else 0.0
    weekday = (view.weekday + nights) % 7
    if item.days is not None and weekday not in item.days:
        return 0.0
    return 1.0 if item.steady else item.presence.on(weekday)


def forced_rung(unit: Unit, level: int) -> Optional[Tuple[int, float]]:
    """The level asked for and its bytes, where a dump of a lower level is there to build on."""
    if level <= 0 or not any(base.level < level for base in unit.bases):
        return None
    size = unit.levels.get(level)
    if size is None:
        lower = [size for one, size in sorted(unit.levels.items()) if one < level]
        size = lower[-1] if lower else max(unit.levels.values(), default=unit.full or DEFAULT_FULL)
    return level, float(size)


def _size(item: Item, view: View, seen: Memory) -> None:
    unit, trace, wish = item.unit, item.trace, item.unit.wish
    size = trace.full if trace.full is not None else unit.full
    item.size = float(size if size is not None else DEFAULT_FULL)
    item.rate = trace.rate if trace.nights else item.size * DEFAULT_RATE
    limit = min(wish.max_level, MOST_LEVELS)
    item.depth = limit if wish.max_chain is None else min(limit, wish.max_chain - 1)
    share = item.presence.share()
    item.steady = share > 0.93 and min(item.presence.on(day) for day in range(7)) > 0.9
    off = seen.error >= believed.SURE and trace.nights > 1
    place = trace.place if trace.place >= 0 else believed.usual(item.rate, item.size)
    if unit.bases and wish.strategy != "full":
        ladder, rungs = [], []
        for i, base in enumerate(unit.bases):
            depth = limit - base.level
            if wish.max_chain is not None:
                depth = min(depth, wish.max_chain - base.chain)
            if depth <= 0:
                continue
            above = unit.bases[i + 1].level if i + 1 < len(unit.bases) else MOST_LEVELS
            age = min(OLDEST, max(1, view.night - base.night))
            top = min(above, limit)
            found = next((level for level in range(base.level + 1, top + 1) if level in unit.levels), None)
            if found is None:
                found, size = base.level + 1, item.rate * curve(bucket(item.rate / max(1.0, item.size)))[age]
            else:
                size = unit.levels[found]
                if off:
                    told = item.rate * believed.changed(place, believed.aged(seen.week, view.weekday, age))
                    size = min(item.size, believed.rung(told, size, seen.error))
                depth = min(depth, limit - found + 1)
            ladder.append((depth, age))
            rungs.append((found, float(size)))
        item.ladder, item.rungs = tuple(ladder), tuple(rungs)
    item.flat = item.depth >= min(wish.cycle, LONGEST) - 1
    if not item.flat:
        item.grid = bucket(item.rate / item.size if item.size > 0 else 0.0)
        if off:
            item.grid = int(place + 0.5)
        elif item.rungs and unit.levels:
            item.grid = saturation([age for _, age in item.ladder], [size for _, size in item.rungs], item.grid)


def _deadline(item: Item, view: View) -> None:
    """Due night and last night for the next full, and what is late already."""
    unit, trace, night = item.unit, item.trace, view.night
    wish = unit.wish
    if unit.last_full is None:
        item.first = True
        since = min(unit.since, night)
        item.due = since - 1 + wish.cycle
        last = since - 1 + min(wish.cycle, view.rules.first_nights or FIRST_NIGHTS)
    else:
        # a full of the future was made by a clock that was wrong
        item.due = last = due_night(unit, night, view.weekday) if unit.last_full <= night else night
        item.broken = not unit.bases
    if item.broken or item.kind == "asked":
        last = night
        trace = trace._replace(missed=None)
    elif trace.missed == night and unit.reachable:
        trace = trace._replace(missed=None)  # it failed earlier in this very night: whoever runs once more wants it
    if night > last or (night == last and trace.missed is not None):
        if trace.missed is None:
            last = night
        elif trace.back is None:
            last = night + 1 + grace(trace, unit, view.rules)
        else:
            last = trace.back + grace(trace, unit, view.rules)
        last = max(last, night)
        item.waits = night > item.due
    if last <= night and not item.tonight:
        last = night + 1
    if item.days is not None and item.kind != "asked":
        last = next_day(item.unit, last, night, view.weekday)
    item.deadline = last


def rung_for(item: Item, nights: int) -> int:
    """The cheapest rung tonight with the next full so many nights away; of nearly equals the lowest.

    Short chains restore sooner, so that a deeper level must save more than next to nothing.
    """
    rungs = item.rungs
    item.nights = nights = max(1, min(LONGEST, nights))
    if len(rungs) == 1:
        return 0
    rung = best(item.grid, item.ladder, nights)
    slack = item.size * CHAIN_SHARE + CHAIN_BYTES
    for lower in range(rung):
        if (rungs[lower][1] - rungs[rung][1]) * nights <= slack * (rung - lower):
            return lower
    return rung
