"""What one view adds to memory: presence, rates of change, sizes, the week's rhythm, and why a late full is excused.

Here live pure functions that plan() and remember() share; both see a night through the same eyes. Nothing here
chooses anything.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, Optional, Sequence, Tuple

from backupcore.schedule import believed
from backupcore.schedule.believed import SURE
from backupcore.schedule.levels import bucket, curve
from backupcore.schedule.memory import _KEEP, Memory, Presence, Trace
from backupcore.schedule.records import Done, Rules, Unit, View

FIRST_NIGHTS = 7  # over how many nights first fulls spread at most, when the administrator says nothing
_DRIFT = 1e-4  # variance that a night adds to what is believed of a full's size
_NEW = 0.1  # weight of a night's rate by an estimate that is off


def observe(memory: Memory, view: View) -> Memory:
    """Memory with what tonight's view shows; seeing the same night twice adds nothing."""
    fresh = memory.night is None or view.night > memory.night
    week, weeks = _week(memory, view) if fresh else (memory.week, memory.weeks)
    clients = _clients(memory, view) if fresh else _known(memory, view)
    units: Dict[str, Trace] = {}
    factor = max(0.05, week[view.weekday])
    for unit in view.units:
        trace = memory.units.get(unit.id)
        if trace is None:
            trace = Trace(cycle=unit.wish.cycle)
            new = True
        else:
            new = False
        if unit.reachable and (fresh or new):
            trace = _sized(trace, unit, view.night, factor, memory.error)
            if memory.error >= SURE and unit.bases and unit.levels:
                trace = _saturated(trace, unit, view, week)
        units[unit.id] = _excused(trace, unit, view, memory.night)
    return replace(memory, night=view.night, units=units, clients=clients, week=week, weeks=weeks)


def due_night(unit: Unit, night: int, weekday: int) -> int:
    """The last night for the next full of a unit that has one: within its cycle, on a day on which it may run."""
    last = unit.last_full if unit.last_full is not None else unit.since - 1
    due = last + unit.wish.cycle
    days = unit.wish.days
    if len(days) == 7 or not days:
        return due
    for at in range(due, max(last, due - 7), -1):
        if (weekday + at - night) % 7 in days:
            return at
    return next_day(unit, due + 1, night, weekday)


def next_day(unit: Unit, at: int, night: int, weekday: int) -> int:
    """The first night from `at` on, on which a unit may run."""
    days = unit.wish.days
    if len(days) == 7 or not days:
        return at
    for later in range(at, at + 7):
        if (weekday + later - night) % 7 in days:
            return later
    return at


def grace(trace: Trace, unit: Unit, rules: Rules) -> int:
    """Nights a full may be late once it can run again."""
    whole = unit.wish.cycle - 1
    if trace.why == "cycle":
        return whole
    if trace.why in ("server", "night"):
        return whole if rules.server_grace is None else rules.server_grace
    if trace.why == "failed":
        return min(unit.wish.grace, whole)
    return unit.wish.grace


def _excused(trace: Trace, unit: Unit, view: View, last: Optional[int]) -> Trace:
    """Note when a full could not be made on its due night, and when it could first be made again."""
    night = view.night
    if unit.last_full is None:
        due = unit.since - 1 + min(unit.wish.cycle, view.rules.first_nights or FIRST_NIGHTS)
        if unit.wish.cycle != trace.cycle:
            trace = trace._replace(cycle=unit.wish.cycle)
    else:
        due = due_night(unit, night, view.weekday)
        if trace.cycle != unit.wish.cycle:
            before = trace.cycle
            trace = trace._replace(cycle=unit.wish.cycle)
            if before > unit.wish.cycle and due < night <= unit.last_full + before:
                return trace._replace(missed=due, back=night, why="cycle")
        if trace.missed is not None and trace.missed <= unit.last_full:
            trace = trace._replace(missed=None, back=None, why="")
    if night < due:
        if trace.missed is not None and trace.missed != due and trace.why not in ("failed", "night"):
            trace = trace._replace(missed=None, back=None, why="")
        return trace
    if trace.missed is None:
        if last is not None and last < due < night:
            trace = trace._replace(missed=due, back=None, why="server")
        elif night == due and not unit.reachable:
            return trace._replace(missed=due, back=None, why="client")
    if trace.missed is not None and trace.back is None and unit.reachable and night > trace.missed:
        trace = trace._replace(back=night)
    return trace


def _sized(trace: Trace, unit: Unit, night: int, factor: float, error: float) -> Trace:
    """With tonight's estimates: the size of a full, and the change of a night."""
    full, doubt = trace.full, trace.doubt + _DRIFT
    if unit.full is not None:
        if full is None or error < SURE or full <= 0:
            full, doubt = float(unit.full), error
        else:
            trust = doubt / (doubt + error)
            full += trust * (unit.full - full)
            doubt *= 1 - trust
    rate, nights = trace.rate, trace.nights
    if unit.bases and unit.levels:
        level = max(unit.levels)
        under = [base for base in unit.bases if base.level < level]
        if under:
            age = max(1, night - under[-1].night)
            change = unit.levels[level]
            if age == 1:
                change /= factor
            else:
                change /= min(float(age), curve(bucket(change / (unit.full or 1e30) / age))[min(age, 90)])
            keep = _KEEP if error < SURE or nights < 5 else 1 - _NEW
            rate = change if nights == 0 else keep * rate + (1 - keep) * change
            nights += 1
    return trace._replace(full=full, doubt=doubt, rate=float(rate), nights=nights)


def _saturated(trace: Trace, unit: Unit, view: View, week: Sequence[float]) -> Trace:
    """With what tonight's estimates tell of its saturation."""
    base = unit.bases[0]
    level = next((level for level in range(base.level + 1, 10) if level in unit.levels), None)
    if level is None or (len(unit.bases) > 1 and level > unit.bases[1].level):
        return trace
    age = believed.aged(week, view.weekday, max(1, view.night - base.night))
    size = trace.full or 0.0
    return trace._replace(place=believed.saturate(trace.place, trace.rate, size, age, unit.levels[level]))


def measured(
    trace: Trace, before: Optional[Trace], unit: Unit, view: View, week: Sequence[float], result: Done
) -> Trace:
    """With an incremental that was made: its bytes tell the rate better than estimates that are off."""
    under = [base for base in unit.bases if base.level < result.level]
    if not under or before is None or before.nights < 1:
        return trace
    age = believed.aged(week, view.weekday, max(1, view.night - under[-1].night))
    place = trace.place if trace.place >= 0 else believed.usual(trace.rate, trace.full or 0.0)
    if not 0.1 < age < 6:
        return trace
    return trace._replace(rate=_KEEP * before.rate + (1 - _KEEP) * result.bytes / believed.changed(place, age))


def _clients(memory: Memory, view: View) -> Dict[str, Presence]:
    there: Dict[str, bool] = {}
    for unit in view.units:
        there[unit.client] = there.get(unit.client, False) or unit.reachable
    return {name: memory.clients.get(name, Presence()).saw(view.weekday, up) for name, up in there.items()}


def _known(memory: Memory, view: View) -> Dict[str, Presence]:
    return {unit.client: memory.clients.get(unit.client, Presence()) for unit in view.units}


def _week(memory: Memory, view: View) -> Tuple[Tuple[float, ...], int]:
    """The rhythm of the week: what changed last night against what was expected, over all units dumped last night."""
    seen = expected = 0.0
    for unit in view.units:
        trace = memory.units.get(unit.id)
        if trace is None or trace.nights < 2 or not unit.reachable or not unit.levels or not unit.bases:
            continue
        if unit.bases[-1].night == view.night - 1:
            level = max(unit.levels)
            if level > unit.bases[-1].level:
                seen += unit.levels[level]
                expected += trace.rate
    if expected <= 0:
        return memory.week, memory.weeks
    weeks = memory.weeks + 1
    if weeks <= 5:
        return memory.week, weeks
    factor = min(5.0, max(0.02, seen / expected))
    week = list(memory.week)
    week[view.weekday] = 0.5 * week[view.weekday] + 0.5 * factor
    total = sum(week)
    return tuple(value * 7 / total for value in week), weeks
