"""The exact model of a scenario: what a dump of each unit is on each night, who is there, when a full is due.

Here live the formulas of the formats stowage-sched/1 and /2 in plain Python; nothing here knows a planner. A *unit* is
a source, or a part of one. The sums of logarithms are made once, so that the bytes of any incremental cost one exp().

    S(t)       = max(0, size + growth * (t - add))
    f(u)       = min(1, change * week[u mod 7])
    kept(b, t) = 1 - hot * (1 - product over u = b+1..t of (1 - f(u)))
    level 0    = overhead + S(t)
    level n    = overhead + min(S(t), max(0, S(t) - S(b) * kept(b, t))),  b: night of its base
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Dict, List, Mapping, Optional, Tuple

from .records import Base
from .scenario import unit_names

FAR = 10**6  # a night beyond every scenario


@dataclass(frozen=True)
class ModelUnit:
    """What a planner is told of a unit once and for all. part: None for a source that has none."""

    id: str
    source: str
    part: Optional[int]
    client: str
    cycle: int
    priority: int
    add: int
    remove: int


class Model:
    """All nights of a scenario that was checked."""

    def __init__(self, scenario: Mapping[str, Any]):
        self.days: int = scenario["days"]
        self.grace: int = scenario["grace"]
        out = set(scenario.get("outages") or ())
        self.up = [night not in out for night in range(self.days)]
        limit = scenario.get("limit")
        self.limits: List[Optional[float]] = limit if isinstance(limit, list) else [limit] * self.days
        self.units: List[ModelUnit] = []
        self._size: List[array] = []
        self._kept: List[array] = []  # sums of log(1 - f), up to and with each night
        self._hot: List[float] = []
        self._overhead: List[float] = []
        self._clients = {one["id"]: _nights_of(one["avail"], self.up) for one in scenario["clients"]}
        self._reach: List[bytes] = []
        self._next: List[array] = []
        for source in scenario["sources"]:
            self._add_source(source, scenario["cycle"])
        self.index: Dict[str, int] = {unit.id: number for number, unit in enumerate(self.units)}
        self.by_source: Dict[Tuple[str, Optional[int]], int] = {
            (unit.source, unit.part): number for number, unit in enumerate(self.units)
        }

    def _add_source(self, source: Mapping[str, Any], cycle: int) -> None:
        add = source.get("add", 0)
        remove = source.get("remove")
        week = source.get("week") or [1] * 7
        parts = source.get("parts")
        for number, name in enumerate(unit_names(source["id"], parts)):
            share, change = (1, source["change"]) if parts is None else _part(parts[number])
            size, growth = source["size"] * share, source.get("growth", 0) * share
            sizes = [max(0.0, size + growth * (night - add)) for night in range(self.days)]
            logs = [math.log(max(1e-30, 1 - min(1, change * factor))) for factor in week]
            self._size.append(array("d", sizes))
            self._kept.append(array("d", accumulate(logs[night % 7] for night in range(self.days))))
            self._hot.append(source.get("hot", 1))
            self._overhead.append(source.get("overhead", 0))
            reach, following = self._clients[source["client"]]
            self._reach.append(reach)
            self._next.append(following)
            self.units.append(
                ModelUnit(
                    id=name,
                    source=source["id"],
                    part=None if parts is None else number,
                    client=source["client"],
                    cycle=source.get("cycle") or cycle,
                    priority=source.get("priority", 1),
                    add=add,
                    remove=self.days if remove is None else min(remove, self.days),
                )
            )

    def size(self, unit: int, night: int) -> float:
        """Bytes of the files themselves."""
        return self._size[unit][night]

    def full(self, unit: int, night: int) -> float:
        """Bytes of a full."""
        return self._size[unit][night] + self._overhead[unit]

    def incremental(self, unit: int, base: int, night: int) -> float:
        """Bytes of an incremental on night whose base was made on night base."""
        logs, sizes = self._kept[unit], self._size[unit]
        size = sizes[night]
        kept = 1 - self._hot[unit] * (1 - math.exp(logs[night] - logs[base]))
        return self._overhead[unit] + min(size, max(0.0, size - sizes[base] * kept))

    def present(self, unit: int, night: int) -> bool:
        """The unit exists."""
        one = self.units[unit]
        return one.add <= night < one.remove

    def reachable(self, unit: int, night: int) -> bool:
        """The unit exists, its client is there and the server is up."""
        one = self.units[unit]
        return one.add <= night < one.remove and self._reach[unit][night] == 1

    def next_reachable(self, unit: int, night: int) -> Optional[int]:
        """The first night from night on on which it is reachable."""
        one = self.units[unit]
        if night >= self.days:
            return None
        found = self._next[unit][max(night, one.add)] if one.add < self.days else FAR
        return found if found < one.remove else None

    def least(self, unit: int) -> List[Optional[float]]:
        """The smallest incremental of each night: against the night before on which it was reachable."""
        found: List[Optional[float]] = [None] * self.days
        before = None
        night = self.next_reachable(unit, 0)
        while night is not None:
            if before is not None:
                found[night] = self.incremental(unit, before, night)
            before = night
            night = self.next_reachable(unit, night + 1)
        return found

    def deadline(self, unit: int, last_full: int) -> int:
        """The last night on which the next full is not late without excuse; FAR: after the scenario."""
        due = last_full + self.units[unit].cycle
        if due >= self.days or not self.present(unit, due):
            return FAR
        if self.reachable(unit, due):
            return due
        back = self.next_reachable(unit, due)
        last = None if back is None else self.next_reachable(unit, back + self.grace)
        return FAR if last is None else last


class Bases:
    """The recorded dumps of one unit, ascending: the latest of each level, none older than one below it."""

    __slots__ = ("stack",)

    def __init__(self) -> None:
        self.stack: Tuple[Base, ...] = ()

    def below(self, level: int) -> Optional[Base]:
        """What an incremental of this level is based on."""
        for base in reversed(self.stack):
            if base.level < level:
                return base
        return None

    def put(self, level: int, night: int) -> int:
        """Records a good dump, which voids all from its level up. Returns the length of its chain."""
        kept = self.stack
        while kept and kept[-1].level >= level:
            kept = kept[:-1]
        chain = kept[-1].chain + 1 if kept else 1
        self.stack = (*kept, Base(level, night, chain))
        return chain

    def last_full(self) -> Optional[int]:
        """The night of the latest full."""
        return self.stack[0].night if self.stack and self.stack[0].level == 0 else None


def _part(part: Mapping[str, Any]) -> Tuple[float, float]:
    return part["share"], part["change"]


def _nights_of(avail: str, up: List[bool]) -> Tuple[bytes, array]:
    """(1 for each night on which the client is there, the next such night from each night on)."""
    reach = bytes(1 if there == "1" and up[night] else 0 for night, there in enumerate(avail))
    following = array("i", [FAR] * (len(reach) + 1))
    for night in range(len(reach) - 1, -1, -1):
        following[night] = night if reach[night] else following[night + 1]
    return reach, following
