"""The plain rule: a full when none is within the cycle, else level 1; what was asked for goes first.

Here live pure functions: history in, tonight's levels with their reasons out. Nothing here reads a clock,
a catalog or a file, so that a simulator can run the very same code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, List, Mapping, Optional, Sequence, Tuple

DAY_NS = 86_400 * 10**9


@dataclass(frozen=True)
class Past:
    """One dump of a source as the rule sees it.

    restorable: on a holding disk, or on a target with a verified copy. has_state: its state blocks are there.
    """

    id: str
    level: int
    base: Optional[str]
    begun_ns: int
    damaged: bool = False
    restorable: bool = True
    has_state: bool = True


@dataclass(frozen=True)
class Planned:
    """Tonight's level of a source. base: the dump it is to hold the changes since. reason: for people."""

    client: str
    source: str
    level: int
    base: Optional[str]
    reason: str


def plan(
    sources: Iterable[Tuple[str, str]],
    history: Mapping[Tuple[str, str], Sequence[Past]],
    now_ns: int,
    cycle_days: float,
    forced: Optional[int] = None,
) -> List[Planned]:
    """Tonight's level of each (client, source), in the order given.

    history: the dumps of each source by counter, oldest first. forced: the level that was asked for.
    """
    planned = []
    for client, source in sources:
        level, base, reason = plan_one(history.get((client, source), ()), now_ns, cycle_days, forced)
        planned.append(Planned(client, source, level, base, reason))
    return planned


def plan_one(
    past: Sequence[Past], now_ns: int, cycle_days: float, forced: Optional[int] = None
) -> Tuple[int, Optional[str], str]:
    """(level, base, reason) for one source."""
    if forced == 0:
        return 0, None, "a full was asked for"
    if forced is not None and not 0 < forced <= 9:
        raise ValueError("a level is 0 to 9")
    if not past:
        asked = f", level {forced} was asked for" if forced else ""
        return 0, None, "the first dump" + asked
    by_id = {dump.id: dump for dump in past}
    if forced is not None:
        why = ""
        for dump in reversed([dump for dump in past if dump.level < forced]):
            fault = why_no_base(dump, by_id)
            if not fault:
                return forced, dump.id, f"level {forced} was asked for" + (f"; {why}" if why else "")
            why = why or fault
        return 0, None, f"level {forced} was asked for, but {why or 'there is no dump of a lower level'}"
    fulls = [dump for dump in past if dump.level == 0]
    if not fulls:
        return 0, None, "the catalog has no full"
    full = fulls[-1]
    fault = why_no_base(full, by_id)
    if fault:
        return 0, None, fault
    age = (now_ns - full.begun_ns) / DAY_NS
    since = len(past) - past.index(full)
    # what begins every night begins not to the second: half a day early is better than a day late
    slack = min(0.5, cycle_days / 10)
    if age < -1:
        # its clock was wrong or ours is: then nights are counted, not days
        if since >= max(1.0, cycle_days):
            return 0, None, f"the last full, {full.id}, is dated in the future, and {since} dumps are based on it"
    elif age >= cycle_days - slack:
        return 0, None, f"the last full is {age:.3g} days old, the cycle is {cycle_days:g} days"
    return 1, full.id, f"changes since the full {full.id}"


def why_no_base(dump: Past, by_id: Mapping[str, Past]) -> str:
    """Why no incremental may build on dump; "" when it may: it and all below it can be restored."""
    if not dump.has_state:
        return f"the state of {dump.id} is missing"
    link: Optional[Past] = dump
    seen = set()
    while link is not None:
        if link.damaged:
            return f"{link.id} is damaged"
        if not link.restorable:
            return f"{link.id} is on no holding disk and has no verified copy"
        seen.add(link.id)
        if link.base is None:
            return "" if link.level == 0 else f"{link.id} has no base"
        if link.base in seen:
            return f"the chain of {dump.id} is circular"
        below = by_id.get(link.base)
        if below is None:
            return f"{link.base}, the base of {link.id}, is not in the catalog"
        link = below
    raise AssertionError("unreachable")
