"""What a source's dumps are still worth: which of them an incremental may build on.

Here live pure functions from the dumps of a source to the bases the planner sees, and from a level to the dump it is
to hold the changes since. Which level is made is the planner's affair.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from .records import Base

Night = Callable[["Past"], int]


@dataclass(frozen=True)
class Past:
    """One dump of a source as planning sees it.

    restorable: on a holding disk, or on a target with a verified copy. has_state: its state blocks are there. run: in
    which it was made, "" when a rebuild found it. archive, stored: bytes before and after compression.
    """

    id: str
    level: int
    base: Optional[str]
    begun_ns: int
    damaged: bool = False
    restorable: bool = True
    has_state: bool = True
    run: str = ""
    archive: int = 0
    stored: int = 0
    entries: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Claim:
    """What a dump asks of a night with hard limits. takes: what it is expected to take of each of them. most: bytes it
    could have at worst. may_wait: a full that is not due. perhaps: its client was away when the plan was made.
    """

    takes: Mapping[str, float] = field(default_factory=dict)
    most: float = 0.0
    priority: int = 1
    may_wait: bool = False
    perhaps: bool = False


@dataclass(frozen=True)
class Planned:
    """Tonight's level of a source, or of a segment of it. base: the dump it is to hold the changes since. reason: for
    people. not_before_ns: its dump does not begin earlier. claim: where hard limits are kept. instead: smaller dumps,
    the best one first, for the case that they leave no room for it. seconds: it is expected to take.
    """

    client: str
    source: str
    level: int
    base: Optional[str]
    reason: str
    not_before_ns: int = 0
    segment: str = ""
    newer_ns: int = 0  # of an interim dump, under ids.INTERIM as its segment: what was changed before is left out
    claim: Optional[Claim] = None
    instead: Tuple["Planned", ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Stand:
    """How a source stands, as in records.Unit: its bases, with the dump of each; the night of its last good full."""

    bases: Tuple[Base, ...] = ()
    dumps: Tuple[Past, ...] = ()
    last_full: Optional[int] = None
    broken: str = ""

    def base_of(self, level: int) -> Optional[Past]:
        """The dump that an incremental of level builds on: the latest good one of a lower level."""
        below = [dump for dump in self.dumps if dump.level < level]
        return below[-1] if below else None


def stand(past: Sequence[Past], night: Night, tonight: int) -> Stand:
    """How a source stands. past: its dumps by counter, oldest first. night: of a dump, by the clock it was made by."""
    by_id = {dump.id: dump for dump in past}
    kept: List[Past] = []
    for dump in reversed(past):
        if kept and dump.level >= kept[-1].level:
            continue
        if not why_no_base(dump, by_id):
            kept.append(dump)
            if dump.level == 0:
                break
    kept.reverse()
    fulls = [dump for dump in past if dump.level == 0]
    broken = why_no_base(fulls[-1], by_id) if fulls else ""
    good = [dump for dump in fulls if not dump.damaged and dump.restorable]
    nights = Nights(past, night, tonight)
    bases = tuple(Base(dump.level, nights.of(dump), _length(dump, by_id)) for dump in kept)
    return Stand(bases, tuple(kept), nights.of(good[-1]) if good else None, broken)


class Nights:
    """The night of each dump of a source, never after tonight."""

    def __init__(self, past: Sequence[Past], night: Night, tonight: int):
        self._night, self._tonight = night, tonight
        self._after = {dump.id: len(past) - 1 - number for number, dump in enumerate(past)}

    def of(self, dump: Past) -> int:
        """Its night. The date of a dump from the future says nothing: then dumps are counted, one a night."""
        found = self._night(dump)
        return found if found <= self._tonight else self._tonight - self._after[dump.id]


def _length(dump: Past, by_id: Mapping[str, Past]) -> int:
    count, link = 1, dump
    while link.base is not None:
        link, count = by_id[link.base], count + 1
    return count


def choose(past: Sequence[Past], level: Optional[int] = None) -> Tuple[int, Optional[str], str]:
    """(level, base, reason) of a dump that no plan asked for: the level that was asked for, else changes since the
    newest full; a full when there is nothing to build on."""
    asked = "" if level is None else f"level {level} was asked for"
    if level == 0:
        return 0, None, "a full was asked for"
    if level is not None and not 0 < level <= 9:
        raise ValueError("a level is 0 to 9")
    if not past:
        return 0, None, "the first dump" + (f", {asked}" if asked else "")
    by_id = {dump.id: dump for dump in past}
    why = ""
    below = [dump for dump in past if dump.level < (level or 1)]
    for dump in reversed(below if level else below[-1:]):
        fault = why_no_base(dump, by_id)
        if not fault:
            told = asked or f"changes since the full {dump.id}"
            return 1 if level is None else level, dump.id, told + (f"; {why}" if why else "")
        why = why or fault
    why = why or ("the catalog has no full" if level is None else "there is no dump of a lower level")
    return 0, None, f"{asked}, but {why}" if asked else why


def why_no_base(dump: Past, by_id: Mapping[str, Past]) -> str:
    """Why no incremental may build on dump; "" when it may: it and all below it can be restored."""
    if not dump.has_state:
        return f"the state of {dump.id} is missing"
    link: Optional[Past] = dump
    seen: Dict[str, None] = {}
    while link is not None:
        if link.damaged:
            return f"{link.id} is damaged"
        if not link.restorable:
            return f"{link.id} is on no holding disk and has no verified copy"
        seen[link.id] = None
        if link.base is None:
            return "" if link.level == 0 else f"{link.id} has no base"
        if link.base in seen:
            return f"the chain of {dump.id} is circular"
        below = by_id.get(link.base)
        if below is None:
            return f"{link.base}, the base of {link.id}, is not in the catalog"
        link = below
    raise AssertionError("unreachable")
