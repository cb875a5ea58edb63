"""What tonight's hard limits have to do with its dumps: what each asks of them, what may be made in its place, and what
was given up while the night was at work.

Here lives the way from the planner's view to dump.budget and back; that keeps the limits by what dumps really take.
tonight is a planning.Tonight. Dumps that somebody named are not held back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Dict, Mapping, Optional, Sequence, Set, Tuple

from ..schedule.bases import Claim, Planned
from ..schedule.records import BYTES, SECONDS, GivenUp, Limit, Unit
from .plan_state import unit_id

if TYPE_CHECKING:
    from ..dump.budget import Budget

SMALLER = 0.9  # a dump in the place of another has at most so much of its bytes
GUESS = 0.5  # of the smallest hard limit: what a source is taken for of which nobody knows how large it is
LEAST_FOR = 7  # nights for which a dump that was ended says how large the next one is at least


def hard(limits: Mapping[str, Limit]) -> Dict[str, float]:
    """Of each resource with a hard limit, what it leaves."""
    return {name: one.amount for name, one in limits.items() if one.hard}


def of_night(tonight: Any) -> Mapping[str, Limit]:
    """The limits of this night, less what it took already."""
    return tonight.view.coming.get(tonight.view.night, tonight.view.limits)


def side_by_side(settings: Any, sources: Sequence[Tuple[str, str]]) -> int:
    """How many dumps can be at work at once. sources: (client, source) of all."""
    apart: Dict[str, Set[str]] = {}  # of each client what can be dumped at the same time: sources, or their spindles
    for client, source in set(sources):
        spindle = settings.clients[client].sources[source].spindle
        apart.setdefault(client, set()).add(f"spindle {spindle}" if spindle else f"source {source}")
    able = sum(min(settings.clients[client].dumps_at_once, len(ones)) for client, ones in apart.items())
    return max(1, min(settings.dumps_at_once, able))


def size_of(unit: Unit, level: int) -> Optional[float]:
    """Expected bytes of a level; of one that has no estimate, the nearest that is not smaller."""
    if level == 0:
        return unit.full
    if level in unit.levels:
        return unit.levels[level]
    lower = [size for one, size in unit.levels.items() if one < level]
    return lower[-1] if lower else (min(unit.levels.values()) if unit.levels else unit.full)


def seconds_of(unit: Unit, level: int, size: float) -> float:
    """How long a dump of so many bytes takes."""
    return unit.takes(SECONDS, level == 0, size)


def weighed(tonight: Any, planned: Sequence[Planned]) -> Tuple[Planned, ...]:
    """The dumps with what they ask of hard limits, those that matter most first; as they are where there is none."""
    limits = hard(of_night(tonight))
    if not limits:
        return tuple(planned)
    found = []
    for place, one in enumerate(planned):
        name = unit_id(one.client, one.source, one.segment)
        unit, choice = tonight.units[name], tonight.choices.get(name)
        due = choice is None or choice.due is None or choice.due <= tonight.view.night
        perhaps, may_wait = not unit.reachable, one.level == 0 and not due
        told = size_of(unit, one.level)
        if choice is not None and choice.level == one.level and name not in tonight.kept.ended:
            told = choice.bytes  # as the planner believes
        need = _need(unit, tonight.view.night) if one.level else unit.wish.priority
        claim = replace(_claim(unit, one.level, told, limits, may_wait, perhaps), priority=need)
        one = replace(one, claim=claim, instead=_instead(tonight, one, unit, told, limits))
        began = tonight.ones[name].began
        # of changes those that nothing was dumped of for longest; of fulls the planner knows the order
        found.append((perhaps, one.level == 0, may_wait, -need, began if one.level else 0, place, one))
    found.sort(key=lambda each: each[:-1])
    return tuple(each[-1] for each in found)


def timed(tonight: Any, planned: Sequence[Planned]) -> Tuple[Planned, ...]:
    """The dumps with how long each is expected to take."""
    found = []
    for one in planned:
        unit = tonight.units.get(unit_id(one.client, one.source, one.segment))
        size = size_of(unit, one.level) if unit is not None else None
        found.append(replace(one, seconds=seconds_of(unit, one.level, size)) if size is not None else one)
    return tuple(found)


def _need(unit: Unit, night: int) -> int:
    """How much tonight's changes matter: a cycle without any dump is a step of priority, so that all have a turn."""
    age = night - max((base.night for base in unit.bases), default=night)
    return unit.wish.priority + max(0, age - 1) // max(1, unit.wish.cycle)


def _claim(
    unit: Unit, level: int, size: Optional[float], limits: Mapping[str, float], may_wait: bool, perhaps: bool
) -> Claim:  # fmt: skip
    size = size or 0.0
    takes = {}
    for name in limits:
        share = 1.0 if name == BYTES else unit.use.get(name, (0.0, 0.0))[level > 0]
        if name == SECONDS:
            takes[name] = seconds_of(unit, level, size)
        elif share:
            takes[name] = size * share
    return Claim(takes, max(size, unit.full or 0.0), unit.wish.priority, may_wait, perhaps)


def _instead(
    tonight: Any, one: Planned, unit: Unit, size: Optional[float], limits: Mapping[str, float]
) -> Tuple[Planned, ...]:
    """The smallest dump that could take its place, () when there is none that is smaller."""
    stand = tonight.ones[unit_id(one.client, one.source, one.segment)].stand
    if unit.wish.strategy == "full" or not unit.levels:
        return ()
    chains = {base.level + 1: base.chain for base in unit.bases}
    most = unit.wish.max_chain
    able = [(told, level) for level, told in unit.levels.items()
            if level <= unit.wish.max_level and (most is None or chains.get(level, most) < most)]  # fmt: skip
    told, level = min(able, default=(0.0, 0))
    below = stand.base_of(level) if level else None
    if below is None or level == one.level or size is not None and told > SMALLER * size:
        return ()
    what = "a full" if one.level == 0 else f"level {one.level}"
    reason = f"level {level}, since the night's limits left no room for {what}"
    claim = _claim(unit, level, told, limits, False, not unit.reachable)
    return (Planned(one.client, one.source, level, below.id, reason, one.not_before_ns, one.segment, claim=claim),)


def budget(settings: Any, tonight: Any) -> Optional["Budget"]:
    """What tonight's dumps may take, None where no hard limit holds for them."""
    limits = hard(of_night(tonight))
    if not limits or all(one.claim is None for one in tonight.planned):
        return None
    from ..dump.budget import Budget

    window = None
    if SECONDS in limits:
        window = limits[SECONDS] / side_by_side(settings, [one.key for one in tonight.ones.values()])
    return Budget(limits, window)


def after(tonight: Any, taken: Optional["Budget"], results: Sequence[Any]) -> Any:
    """tonight, with what the budget gave up while the dumps were made. results: the driver's."""
    if taken is None or not taken.given_up:
        return tonight
    tried = {unit_id(one.client, one.source, one.segment) for one in results}
    named = {(one.unit, one.what) for one in tonight.plan.given_up}
    given = []
    for one in taken.given_up:
        name = unit_id(one.planned.client, one.planned.source, one.planned.segment)
        if name not in tonight.units:  # of a source that waits for its first full
            name, what = unit_id(one.planned.client, one.planned.source), "interim"
        elif one.planned.level:
            what = "level" if name in tried else "incremental"
        else:
            what = "first" if tonight.units[name].last_full is None else "full"
        if (name, what) not in named:
            named.add((name, what))
            until = None if what == "level" else tonight.view.night + 1
            given.append(GivenUp(name, what, one.why, until))
    plan = replace(tonight.plan, given_up=(*tonight.plan.given_up, *given))
    cut_short = {unit: one for unit, one in ended(taken).items() if unit in tonight.units}
    return replace(tonight, plan=plan, cut_short=cut_short)


def ended(taken: "Budget") -> Dict[str, Tuple[int, int]]:
    """Unit -> (level, bytes that had come) of each dump that was ended."""
    return {
        unit_id(one.planned.client, one.planned.source, one.planned.segment): (one.planned.level, one.came)
        for one in taken.given_up if one.came
    }  # fmt: skip


def at_most(expected: Any, limits: Mapping[str, Any]) -> Any:
    """What is expected (an estimates.Expected); a guess never forbids to try, since what nobody dumps nobody learns the
    size of: should it be larger, it is ended. limits: settings.NightLimit by resource."""
    room = min((one.amount for name, one in limits.items() if one.hard and name != SECONDS), default=None)
    if room is None or expected.how != "default" or expected.full <= GUESS * room:
        return expected
    full = GUESS * room
    return replace(expected, full=full, levels={level: min(size, full) for level, size in expected.levels.items()})


def at_least(expected: Any, known: Optional[Tuple[int, int, int]], night: int) -> Any:
    """What is expected (an estimates.Expected), not less than what had come of a dump when it was ended: known is its
    level, those bytes and the night. A walk of tonight knows better; after some nights it is tried anew."""
    if known is None or expected.how == "walk" or not 0 <= night - known[2] <= LEAST_FOR:
        return expected
    level, least = known[0], float(known[1])
    levels = {one: max(size, least) if level and one <= level else size for one, size in expected.levels.items()}
    return replace(expected, full=max(expected.full, least), levels=levels)
