"""Interim dumps: which of the sources that wait for their first full get their recent files dumped tonight.

Here lives that choice, a pure function from tonight's plan to names; it reads no clock, file or catalog, and the plan
itself stays as it is. An interim dump only takes what the plan leaves: it never costs another dump its place, and all
of them together never make a flood of the nights that first fulls were spread over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Iterable, List, Mapping, Optional, Tuple

from .records import BYTES, Plan, Unit, View

MOST = 0.5  # of a full: with more of it recent, the full itself is the answer
FLOOD = 0.5  # of the fullest night of the plan: what all interim dumps of a night may take together


@dataclass(frozen=True)
class Interim:
    """A source that waits for its first full until that night. bytes: what its recent files take, None when unknown.
    chosen: whether it gets an interim dump; why: for people."""

    unit: str
    until: Optional[int]
    bytes: Optional[float]
    chosen: bool
    why: str


def waiting(view: View, plan: Plan) -> Tuple[Tuple[Unit, Optional[int]], ...]:
    """The units that wait for their first full though they can be reached, each with the night it is planned for."""
    units = {unit.id: unit for unit in view.units}
    made = {choice.unit for choice in plan.choices}
    found: Dict[str, Tuple[Unit, Optional[int]]] = {}
    for given in plan.given_up:
        unit = units.get(given.unit)
        if given.what == "first" and unit is not None and given.unit not in made and _bare(unit) and unit.reachable:
            found.setdefault(given.unit, (unit, given.until))
    return tuple(found.values())


def _bare(unit: Unit) -> bool:
    """Whether there is no full of it at all, not even one that is no base any more."""
    return unit.last_full is None and not unit.bases and not unit.broken and unit.wish.strategy != "skip"


def choose(view: View, plan: Plan, recent: Mapping[str, float]) -> Tuple[Interim, ...]:
    """What becomes of each unit that waits: those chosen first, in the order in which they are to run.

    recent: unit -> expected bytes of its recent files; a unit without gets nothing, since nobody knows what it would
    take. Most important first, then the smallest: as many as possible are protected.
    """
    left = _left(view, plan)
    allowance = FLOOD * max((one.load.get(BYTES, 0.0) for one in plan.outlook), default=0.0)
    got: List[Interim] = []
    rest: List[Interim] = []
    order = sorted(waiting(view, plan), key=lambda one: (-one[0].wish.priority, recent.get(one[0].id, 0.0), one[0].id))
    for unit, until in order:
        size = recent.get(unit.id)
        short = ""
        if size is None:
            short = "how much of it is recent is not known"
        elif unit.full is not None and size > MOST * unit.full:
            short = "more than half of it is recent: its full is the answer"
        else:
            needs = takes(unit, size, left)
            over = [name for name, amount in needs.items() if amount > left[name]]
            if over:
                short = f"tonight's {over[0]} leave no room for its recent files"
            elif size > allowance:
                short = "its recent files would make tonight larger than the nights to come"
        if short:
            rest.append(Interim(unit.id, until, size, False, short))
            continue
        for name, amount in needs.items():
            left[name] -= amount
        allowance -= size
        got.append(Interim(unit.id, until, size, True, "its recent files, while it waits for its first full"))
    return (*got, *rest)


def takes(unit: Unit, size: float, limited: Iterable[str]) -> Dict[str, float]:
    """What its recent files take of each limited resource; of time and targets, what an incremental does."""
    found = {}
    for name in limited:
        if name == BYTES:
            found[name] = size
        elif name in unit.use:
            found[name] = unit.takes(name, False, size)
    return found


def _left(view: View, plan: Plan) -> Dict[str, float]:
    """What tonight's choices leave of each limit, hard or soft: nothing here is a need that excuses more."""
    limits = {**view.limits, **view.coming.get(view.night, {})}
    left = {name: limit.amount for name, limit in limits.items()}
    units = {unit.id: unit for unit in view.units}
    for choice in plan.choices:
        unit = units[choice.unit]
        size = choice.bytes
        if choice.level == 0 and unit.full is not None:
            size = max(size, unit.full)
        for name in left:
            if name == BYTES:
                left[name] -= size
            elif name in unit.use:
                left[name] -= unit.takes(name, choice.level == 0, size)
    return left
