"""What the planner is told and what it answers, as plain frozen records.

Here live the records that the nightly run and the simulator share; nothing here decides anything. A *night* is a whole
number that grows by one a day (`schedule.nights` makes it from a clock), sizes are bytes, a *unit* is what gets levels
of its own: a source, or a segment of one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import FrozenSet, Mapping, Optional, Tuple

STRATEGIES = ("standard", "full", "incremental", "skip")
BYTES = "bytes"  # the resource every plan has; the others, of targets TARGET + its name
SECONDS, HOLDING, TARGET = "seconds", "holding", "target:"
ALL_DAYS: FrozenSet[int] = frozenset(range(7))


@dataclass(frozen=True)
class Wish:
    """What the administrator wants of a unit.

    cycle: nights from one full to the next at most. grace: nights a full may be late once its client is back, if it
    was away when the full was due. max_chain: dumps a restore may need, full included (None: any number).
    strategy: standard, full (never an incremental), incremental (a full only when there is no base), skip.
    days: weekdays (0: Monday) on which it may be dumped. forced: the level asked for tonight. own: the unit has a
    schedule of its own, which says tonight's level (forced) and the coming fulls (own_fulls: nights); it is in the
    forecast, and the planner moves nothing of it.
    """

    cycle: int = 7
    grace: int = 3
    priority: int = 1
    strategy: str = "standard"
    max_level: int = 9
    max_chain: Optional[int] = None
    days: FrozenSet[int] = ALL_DAYS
    forced: Optional[int] = None
    own: bool = False
    own_fulls: Tuple[int, ...] = ()


@dataclass(frozen=True)
class Base:
    """A dump that an incremental may build on: its whole chain can be restored. chain: dumps in it, itself included."""

    level: int
    night: int
    chain: int


@dataclass(frozen=True)
class Unit:
    """A source or segment as it stands tonight.

    since: the night it was first known. full: bytes of a full tonight, None when nothing tells. levels: bytes of each
    incremental that could be made tonight (level -> bytes; empty for a client that is away). bases: ascending levels,
    each the latest of its level, none older than one below it. last_full: night of the latest good full (also of one
    that is no base any more). broken: why the latest full is no base, "" when it is one. use: what a byte of a full
    and a byte of an incremental take of each other resource, e.g. {"seconds": (1e-8, 1e-8), "target:cloud": (1, 0)}.
    fixed: seconds that every dump takes besides, however little it has.
    """

    id: str
    client: str
    wish: Wish
    since: int
    reachable: bool
    full: Optional[float] = None
    levels: Mapping[int, float] = field(default_factory=dict)
    bases: Tuple[Base, ...] = ()
    last_full: Optional[int] = None
    broken: str = ""
    use: Mapping[str, Tuple[float, float]] = field(default_factory=dict)
    fixed: float = 0.0

    def takes(self, name: str, full: bool, size: float) -> float:
        """What a dump of so many bytes takes of a resource, where use knows it."""
        use = self.use.get(name, (0.0, 0.0))[0 if full else 1]
        return size * use + (self.fixed if name == SECONDS and name in self.use else 0.0)


@dataclass(frozen=True)
class Limit:
    """How much of a resource a night may take. hard: never exceeded; else exceeded only where nothing else is left."""

    amount: float
    hard: bool = True


@dataclass(frozen=True)
class Rules:
    """What holds for all units. first_nights: over how many nights first fulls spread (None: the cycle or less; 1: all
    on the first night). server_grace: nights after an outage of the server itself (None: cycle - 1)."""

    first_nights: Optional[int] = None
    server_grace: Optional[int] = None


@dataclass(frozen=True)
class View:
    """One night as the planner sees it: nothing of the future. weekday: of this night, 0 is Monday.

    limits: by resource; coming: limits of nights to come that differ (night -> resource -> limit).
    """

    night: int
    weekday: int
    units: Tuple[Unit, ...]
    limits: Mapping[str, Limit] = field(default_factory=dict)
    coming: Mapping[int, Mapping[str, Limit]] = field(default_factory=dict)
    rules: Rules = Rules()


@dataclass(frozen=True)
class Choice:
    """What a unit gets tonight. bytes: expected. reason: for people. due: the last night for its next full."""

    unit: str
    level: int
    bytes: float
    reason: str
    due: Optional[int] = None
    next_full: Optional[int] = None


@dataclass(frozen=True)
class GivenUp:
    """What did not fit tonight. what: full (delayed), first (waits for its first full), level (deeper than the best
    one), incremental (none at all). until: the night it is planned for now."""

    unit: str
    what: str
    why: str
    until: Optional[int] = None


@dataclass(frozen=True)
class Outlook:
    """A coming night: expected load by resource, and the units whose full is planned for it."""

    night: int
    load: Mapping[str, float]
    fulls: Tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Tonight's choices in the order in which they are to run, what waits or was given up, the cycle to come.

    absent: units whose client is away. outlook[0] is tonight.
    """

    night: int
    choices: Tuple[Choice, ...]
    given_up: Tuple[GivenUp, ...]
    absent: Tuple[str, ...]
    outlook: Tuple[Outlook, ...]


@dataclass(frozen=True)
class Done:
    """What became of a choice. bytes: of the image; ok: the dump is good."""

    unit: str
    level: int
    bytes: float
    ok: bool
