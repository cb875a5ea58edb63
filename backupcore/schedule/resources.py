"""Resources beside bytes: seconds, holding space, bytes of one target; what nights take of them and may take.

Here live the counting over the coming nights and the forecast that people see. Bytes themselves are the horizon's.
"""

from __future__ import annotations

from typing import Dict, List, Sequence

from backupcore.schedule.items import Item
from backupcore.schedule.records import BYTES, View


class Tracked:
    """The limited resources beside bytes. fits() and add() cost next to nothing where there is none."""

    def __init__(self, view: View, items: Sequence[Item], nights: int) -> None:
        names = set(view.limits)
        for limits in view.coming.values():
            names.update(limits)
        names.discard(BYTES)
        used = {name for item in items for name in item.unit.use}
        self.names = sorted(names & used)
        self.caps: List[List[float]] = []
        self.loads: List[List[float]] = []
        for place, name in enumerate(self.names):
            self.caps.append([cap(view, view.night + k, name) for k in range(nights)])
            daily = sum(item.unit.takes(name, False, item.rate) for item in items)
            self.loads.append([daily] * nights)
            for item in items:
                if place == 0:
                    item.takes = tuple(_takes(item, one) for one in self.names)

    def fits(self, item: Item, k: int) -> bool:
        """Whether a full more leaves a night within its limits."""
        return all(take <= 0 or load[k] + take <= top[k] for take, load, top in zip(item.takes, self.loads, self.caps))

    def add(self, item: Item, k: int, sign: int) -> None:
        """Counts a full on a night."""
        for take, load in zip(item.takes, self.loads):
            load[k] += sign * take


def cap(view: View, night: int, name: str) -> float:
    """What a night may take of a resource."""
    limit = view.coming.get(night, {}).get(name)
    limit = limit if limit is not None else view.limits.get(name)
    return float("inf") if limit is None else limit.amount


def forecast(view: View, items: Sequence[Item], at: Sequence[Sequence[Item]], week: Sequence[float]) -> List[Dict]:
    """What each night after tonight takes of each resource beside bytes. at: the fulls of each night."""
    names = sorted({name for item in items for name in item.unit.use} - {BYTES})
    daily = {name: sum(_of(item, name, 1) * item.rate for item in items) for name in names}
    each = {name: sum(item.unit.takes(name, False, 0.0) for item in items) for name in names}
    out = []
    for k, fulls in enumerate(at):
        load = {name: daily[name] * week[k] + each[name] for name in names}
        for item in fulls:
            for name in item.unit.use:
                if name != BYTES:
                    load[name] += _takes(item, name)
        out.append(load)
    return out


def _of(item: Item, name: str, which: int) -> float:
    use = item.unit.use.get(name)
    return 0.0 if use is None else use[which]


def _takes(item: Item, name: str) -> float:
    return item.unit.takes(name, True, item.size) - (0.0 if item.first else item.unit.takes(name, False, item.rate))
