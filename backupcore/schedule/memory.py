"""What the planner remembers from night to night, and how a night changes it.

Here live records, their text form and what is learnt: each unit's rate of change, its size while it is away, the night
planned for its next full and why a full that is late is excused; how often each client is there, by weekday; the
rhythm of the week; how far estimates are off. No fact lives here: what dumps exist comes with each View, so that an
empty, lost or foreign memory makes nights uneven for a while and nothing else.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from backupcore.schedule.believed import SURE
from backupcore.schedule.levels import GRID
from backupcore.schedule.records import Done, Plan, View

FORMAT = "stowage-planner/1"
EVEN = (1.0,) * 7
_KEEP = 0.7  # of what was believed of a unit's rate when a new night is seen
_LOST = 1 / 3  # of a night's bytes: from there on it is the night that failed, and not its dumps
_SEEN_AT_FIRST = (9.0, 9.5)  # a client nobody knows is taken to be there 95 nights in 100


class Trace(NamedTuple):
    """What is remembered of a unit.

    planned: night of its next full (None: when it is due). rate: bytes of a night's change; nights: how often it was
    measured. full: bytes of a full as believed; doubt: variance of that, relative. missed: the night on which a full
    was due and could not be made; back: the first night after it on which it could; why: client, server, failed, night
    (that broke off) or cycle. cycle: as it was. place: of its saturation (believed.py), -1 when nothing tells.
    """

    planned: Optional[int] = None
    rate: float = 0.0
    nights: int = 0
    full: Optional[float] = None
    doubt: float = 1.0
    missed: Optional[int] = None
    back: Optional[int] = None
    why: str = ""
    cycle: int = 0
    place: float = -1.0


class Presence(NamedTuple):
    """How often a client was there: by weekday (there, asked), and lately (fading sums)."""

    there: Tuple[float, ...] = (0.0,) * 7
    asked: Tuple[float, ...] = (0.0,) * 7
    lately: float = _SEEN_AT_FIRST[0]
    of: float = _SEEN_AT_FIRST[1]

    def share(self) -> float:
        """How often it is there, of all nights."""
        return self.lately / self.of

    def on(self, weekday: int) -> float:
        """How likely it is there on a weekday; few nights of that weekday say little."""
        return (self.there[weekday] + 2 * self.share()) / (self.asked[weekday] + 2)

    def saw(self, weekday: int, there: bool) -> "Presence":
        """With one more night."""
        add = tuple(float(day == weekday) for day in range(7))
        return Presence(
            tuple(a + b * there for a, b in zip(self.there, add)) if there else self.there,
            tuple(a + b for a, b in zip(self.asked, add)),
            self.lately * 0.97 + there,
            self.of * 0.97 + 1,
        )


@dataclass(frozen=True)
class Memory:
    """All that is remembered. night: the last one planned. week: factors of change by weekday, 1 on average; weeks:
    nights they rest on. error: variance of (actual / estimate - 1); measured: dumps it rests on."""

    night: Optional[int] = None
    units: Mapping[str, Trace] = field(default_factory=dict)
    clients: Mapping[str, Presence] = field(default_factory=dict)
    week: Tuple[float, ...] = EVEN
    weeks: int = 0
    error: float = 0.0
    measured: int = 0

    def to_json(self) -> str:
        """As text; from_json of it is equal to this."""
        return json.dumps(
            {
                "format": FORMAT,
                "night": self.night,
                "week": self.week,
                "weeks": self.weeks,
                "error": self.error,
                "measured": self.measured,
                "units": self.units,
                "clients": self.clients,
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> "Memory":
        """What text says; an empty memory when it is no text of to_json."""
        try:
            raw = json.loads(text)
            if raw["format"] != FORMAT:
                return cls()
            return cls(
                night=_whole(raw["night"]),
                units={str(name): _trace(row) for name, row in raw["units"].items()},
                clients={str(name): _presence(row) for name, row in raw["clients"].items()},
                week=_floats(raw["week"], 7),
                weeks=_count(raw["weeks"]),
                error=_floats([raw["error"]], 1)[0],
                measured=_count(raw["measured"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            return cls()


def remember(memory: Memory, view: View, plan: Plan, done: Sequence[Done]) -> Memory:
    """The memory after a night: what the view showed, what was planned, what became of it.

    Fulls that were planned and not made count as missed by us, so that the nights after a bad one are even.
    """
    from backupcore.schedule.observe import measured as measure
    from backupcore.schedule.observe import observe

    seen = observe(memory, view)
    planned: Dict[str, int] = {}
    for coming in plan.outlook[1:]:
        for unit in coming.fulls:
            planned.setdefault(unit, coming.night)
    good = {result.unit: result for result in done if result.ok}
    chosen = {choice.unit: choice for choice in plan.choices}
    units: Dict[str, Trace] = {}
    off: List[float] = []
    broke_off = _broke_off(view, plan, good)
    for unit in view.units:
        trace = seen.units[unit.id]
        # a full every night is no plan for when the strategy is another
        next_full = None if unit.wish.strategy == "full" else planned.get(unit.id)
        trace = trace._replace(planned=next_full)
        result = good.get(unit.id)
        choice = chosen.get(unit.id)
        if result is not None:
            estimate = unit.full if result.level == 0 else unit.levels.get(result.level)
            if estimate and result.bytes > 0 and estimate > 0:
                off.append(min(2.0, abs(result.bytes / estimate - 1)) ** 2 * (1 if result.level == 0 else 0.5))
            if result.level == 0:
                trace = trace._replace(
                    full=float(result.bytes), doubt=0.0, missed=None, back=None, why="", planned=next_full
                )
            elif seen.error >= SURE:
                trace = measure(trace, memory.units.get(unit.id), unit, view, seen.week, result)
        elif choice is not None and choice.level == 0 and choice.due is not None and choice.due <= view.night:
            if trace.missed is None:
                trace = trace._replace(missed=view.night, back=view.night + 1, why="night" if broke_off else "failed")
        units[unit.id] = trace
    error, measured = seen.error, seen.measured
    if off:
        weight = min(0.5, len(off) / (len(off) + min(measured, 200) + 1.0)) if measured else 1.0
        error = (1 - weight) * error + weight * sum(off) / len(off)
        measured += len(off)
    return replace(seen, units=units, error=error, measured=measured)


def _broke_off(view: View, plan: Plan, good: Mapping[str, Done]) -> bool:
    """Whether a night came to a large part to nothing, and not for one client alone: the server's fault."""
    lost = [choice for choice in plan.choices if choice.unit not in good]
    names = {choice.unit for choice in lost}
    clients = {unit.client for unit in view.units if unit.id in names}
    return len(clients) > 1 and sum(one.bytes for one in lost) >= _LOST * sum(one.bytes for one in plan.choices)


def _whole(value: Any) -> Optional[int]:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 10**9:
        raise ValueError("no night")
    return value


def _count(value: Any) -> int:
    whole = _whole(value)
    if whole is None or whole < 0:
        raise ValueError("no count")
    return whole


def _floats(values: Any, count: int) -> Tuple[float, ...]:
    out = tuple(float(value) for value in values)
    if len(out) != count or not all(math.isfinite(value) and 0 <= value < 1e21 for value in out):
        raise ValueError("no sizes")
    return out


def _trace(row: Any) -> Trace:
    planned, rate, nights, full, doubt, missed, back, why, cycle, place = row
    if not isinstance(why, str):
        raise ValueError("no reason")
    return Trace(
        _whole(planned),
        _floats([rate], 1)[0],
        _count(nights),
        None if full is None else _floats([full], 1)[0],
        _floats([doubt], 1)[0],
        _whole(missed),
        _whole(back),
        why,
        _count(cycle),
        -1.0 if place == -1 else min(len(GRID) - 1.0, _floats([place], 1)[0]),
    )


def _presence(row: Any) -> Presence:
    there, asked, lately, of = row
    if not float(of) >= 1:
        raise ValueError("no presence")
    return Presence(_floats(there, 7), _floats(asked, 7), _floats([lately], 1)[0], _floats([of], 1)[0])
