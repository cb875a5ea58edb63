"""What is promised of each copy, and where it is broken: a target whose newest restorable copy of a source is too old.

Here live pure functions over rules and slim rows. The promise of a rule is the oldest that its newest copy may get
while everything goes as it was asked for; docs/operator.md says it in words. Not here: whether a source itself is
within its rpo (night.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

from .. import clock, ids
from ..catalog import units, wants
from ..catalog.slim import Slim
from ..hours import Windows
from ..settings import CopyRule, Settings, Source
from ..text import duration

DAY = 86400.0
COPYING = DAY / 2  # what dumping and copying itself may take
_SPANS = {"": 0.0, "day": DAY, "week": 7 * DAY, "month": 31 * DAY}
_WEEK = 7 * 24 * 60


@dataclass(frozen=True)
class Promised:
    """How one source stands on one target. age: of the newest copy there that can be restored, in seconds, None: there
    is none. promise: how old it may be. dump: the one it is counted from. waited: how long there has been none."""

    client: str
    source: str
    target: str
    promise: float
    age: Optional[float]
    dump: Optional[str] = None
    waited: float = 0.0
    told: bool = False  # nothing newer was dumped at all: its source's own line says so

    @property
    def kept(self) -> bool:
        """Whether it is as new as promised, or had not the time yet."""
        return self.told or (self.waited if self.age is None else self.age) <= self.promise

    @property
    def message(self) -> str:
        """`newest copy on cloud is 9 days old, promised is 8 days`."""
        promised = f"promised is {duration(self.promise)}"
        if self.age is None:
            return f"no copy on {self.target} can be restored, {promised}"
        return f"the newest copy on {self.target} is {duration(self.age)} old, {promised}"

    def as_dict(self) -> Dict[str, Any]:
        """JSON-ready."""
        return {
            "client": self.client, "source": self.source, "target": self.target, "promise": round(self.promise),
            "age": None if self.age is None else round(self.age), "dump": self.dump, "kept": self.kept,
        }  # fmt: skip


def promise(source: Source, rule: CopyRule) -> Optional[float]:
    """How old the newest copy of a source may get by a rule, in seconds; None: the rule promises nothing."""
    timing = source.timing
    if timing.strategy == "skip" or rule.dumps not in ("all", "full", "0", "incremental"):
        return None  # when a dump of a level of its own comes is the scheduler's
    longest = source.policy.rpo
    if rule.dumps in ("full", "0") and timing.strategy != "full":
        longest = max(longest, (timing.cycle + timing.grace) * DAY)
    elif rule.dumps == "incremental":
        if timing.strategy == "full":
            return None
        longest += DAY  # the night of a full brings none
    if rule.made_on is not None:
        longest += max(0, _between(rule.made_on) - 1) * DAY
    longest += _SPANS[rule.every] + COPYING
    seen = set()
    waits: Optional[CopyRule] = rule
    while waits is not None and waits.target not in seen:  # what comes after another copy waits for that one's window
        seen.add(waits.target)
        longest += closed(waits.windows)
        waits = source.rule(waits.after) if waits.after else None
    return longest


def _between(days: FrozenSet[int]) -> int:
    """The most days from one of these weekdays to the next."""
    chosen = sorted(days)
    return max((later - day - 1) % 7 + 1 for day, later in zip(chosen, [*chosen[1:], chosen[0]])) if chosen else 7


def closed(windows: Optional[Windows]) -> float:
    """The longest time in a week during which they are closed, in seconds."""
    if windows is None or not windows.spans:
        return 0.0
    spans = sorted((day * 1440 + begin, day * 1440 + end) for day, begin, end in windows.spans)
    spans += [(begin + _WEEK, end + _WEEK) for begin, end in spans]
    longest, until = 0, spans[0][1]
    for begin, end in spans[1:]:
        longest, until = max(longest, begin - until), max(until, end)
    return longest * 60.0


def look(
    settings: Settings, rows: Mapping[Tuple[str, str], Sequence[Slim]], since: Mapping[str, int], now_ns: int
) -> List[Promised]:
    """All that is promised, the worst first. since: when a run first knew each target, in ns; of others nothing is
    due."""
    found = []
    for client in settings.clients.values():
        for source in client.sources.values() if client.state != "retired" else ():
            own = rows.get((client.name, source.name), ())
            by_id = {row.id: row for row in own}
            for rule in source.copies:
                seconds = promise(source, rule)
                if seconds is not None and own and rule.target in since:
                    found.append(_stand(source, rule, seconds, by_id, since[rule.target], now_ns))
    return sorted(found, key=_worst_first)


def _worst_first(one: Promised) -> tuple:
    late = (one.waited if one.age is None else one.age) / one.promise
    return one.kept, -late, one.client, one.source, one.target


def _stand(
    source: Source, rule: CopyRule, seconds: float, by_id: Mapping[str, Slim], since: int, now_ns: int
) -> Promised:
    there = newest_there(rule, by_id)
    newest = oldest_of(there)
    name = (source.client, source.name, rule.target)
    if newest is not None:
        last = units.newest_of(row for row in by_id.values() if row.segment != ids.INTERIM)
        told = rule.dumps == "all" and not rule.every and rule.made_on is None
        told = told and all(there.get(name) is last[name] for name in units.in_force(last))
        age = wants.age_ns(newest.run, newest.begun_ns, now_ns) / clock.NS
        return Promised(*name, seconds, age, newest.id, told=told)
    first = min((row.begun_ns for row in by_id.values() if row.segment != ids.INTERIM and row.places), default=now_ns)
    return Promised(*name, seconds, None, None, max(0.0, (now_ns - max(first, since)) / clock.NS))


def newest_there(rule: CopyRule, by_id: Mapping[str, Slim]) -> Dict[str, Slim]:
    """segment -> its newest dump on the rule's target that can be restored: with a chain that is whole there, where the
    rule says so, else anywhere."""
    newest: Dict[str, Slim] = {}
    for row in sorted(by_id.values(), key=lambda row: row.counter, reverse=True):
        if row.segment in newest or row.segment == ids.INTERIM or rule.target not in row.places:
            continue
        if _is_whole(row, by_id, rule.target if rule.self_contained else None):
            newest[row.segment] = row
    return newest


def oldest_of(newest: Mapping[str, Slim]) -> Optional[Slim]:
    """What the newest moment of a whole source stands on: it is as old as its oldest segment of the way in force."""
    return min((newest[name] for name in units.in_force(newest)), key=lambda row: row.begun_ns, default=None)


def _is_whole(row: Slim, by_id: Mapping[str, Slim], target: Optional[str]) -> bool:
    seen = set()
    link: Optional[Slim] = row
    while link is not None and link.id not in seen:
        if not link.places or target is not None and target not in link.places:
            return False
        if link.base is None:
            return True
        seen.add(link.id)
        link = by_id.get(link.base)
    return False


def trouble(promises: Sequence[Promised]) -> List[str]:
    """What is broken, in one line for each target, as `WHAT -> NEXT STEP`."""
    found: Dict[str, List[Promised]] = {}
    for one in promises:
        if not one.kept:
            found.setdefault(one.target, []).append(one)
    lines = []
    for target, broken in found.items():
        worst = broken[0]
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        lines.append(f"{worst.client}:{worst.source} {worst.message}{more} -> stowage stage --target {target}")
    return lines
