"""Which copies have to stay, and why: decisions over records, nothing else.

Here lives what `keep` means. A restore point of a target is a moment at which what lies there shows all of a source:
its newest dump, or of a source in segments the newest of each segment of the way in force. What keeps a restore point
keeps its whole chain, wherever its links lie. Every doubt keeps: what goes is only what no rule, no chain and no hold
asks for. Not here: marks, grace and the removal itself, which ask again before every step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import tzinfo
from typing import AbstractSet, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from .. import clock, hours, ids
from ..catalog import units, wants
from ..catalog.records import HOLDING, CopyRow, DumpRow

GOOD = ("verified", "done")
FOR_EVER = "no keep: for ever"
REMOVABLE = (*GOOD, "damaged")  # what else a row says is staging's affair
PENDING = ("wanted", "copying", "failed")

_LABELS: Dict[str, Callable[[int, Optional[tzinfo]], tuple]] = {
    "daily": lambda ns, zone: (hours.wall(ns, zone).date(),),
    "weekly": lambda ns, zone: tuple(hours.wall(ns, zone).isocalendar()[:2]),
    "monthly": lambda ns, zone: (hours.wall(ns, zone).year, hours.wall(ns, zone).month),
    "yearly": lambda ns, zone: (hours.wall(ns, zone).year,),
}
_SPANS = {"daily": "day", "weekly": "week", "monthly": "month", "yearly": "year"}

Place = Tuple[str, str]  # (dump, target)


@dataclass(frozen=True)
class Rule:
    """What is asked of one target for one source. keep: last, days, daily, weekly, monthly, yearly; empty: for ever.

    min_copies: verified ones that a dump which somebody keeps has at least. self_contained: chains are whole on this
    very target. fulls: whether fulls are wanted there.
    """

    keep: Mapping[str, int] = field(default_factory=dict)
    min_copies: int = 1
    self_contained: bool = False
    fulls: bool = True


@dataclass(frozen=True)
class Decision:
    """Whether the copy of a dump on a target stays, and why, for people. point: it is promised by that target's keep
    itself, or is the newest there."""

    dump: DumpRow
    copy: CopyRow
    stays: bool
    reason: str
    point: bool = False

    @property
    def for_ever(self) -> bool:
        """Whether it stays since nobody said how long."""
        return self.stays and self.reason == FOR_EVER


@dataclass(frozen=True)
class Point:
    """A restore point: its moment, and the dumps that are the newest of each unit then. made: its moment by the clock
    of its run, which is another one where the clock was wrong; None: the same."""

    moment: int
    tops: Tuple[DumpRow, ...]
    made: Optional[int] = None


def decide(
    rows: Sequence[DumpRow],
    copies: Mapping[str, Mapping[str, CopyRow]],
    rules: Optional[Mapping[str, Rule]],
    *,
    now_ns: int,
    zone: Optional[tzinfo] = None,
    holds: AbstractSet[str] = frozenset(),
    held: bool = False,
    locks: Optional[Mapping[Place, int]] = None,
) -> List[Decision]:
    """What becomes of each copy of the dumps of one source (rows: all of them).

    copies: dump -> target -> row, on targets of the configuration alone, and on HOLDING where that image is damaged.
    rules: by target; None when the source left the configuration. zone: in which days begin, None: this process's.
    holds: dumps that stay until a person releases them; held: all of the client's do. locks: until when a copy cannot
    be removed.
    """
    return _Source(rows, copies, rules, now_ns, zone, holds, held, locks or {}).decide()


def points(rows: Iterable[DumpRow], zone: Optional[tzinfo] = None) -> List[Point]:
    """The restore points that these dumps make, oldest first. rows: only such as can be restored.

    The segments of a source that one run dumped make one point together, its last one's.
    """
    ordered = sorted(rows, key=lambda row: (row.begun_ns, row.counter))
    together = [_together(row, zone) for row in ordered]
    last = {name: number for number, name in enumerate(together)}
    newest: Dict[str, DumpRow] = {}
    found: List[Point] = []
    for number, row in enumerate(ordered):
        if row.segment not in newest or newest[row.segment].counter < row.counter:
            newest[row.segment] = row
        if last[together[number]] != number:
            continue
        tops = tuple(newest[name] for name in units.in_force(newest))
        if tops and (not found or found[-1].tops != tops):
            made = wants.made_ns(row.run, row.begun_ns)
            found.append(Point(row.begun_ns, tops, made if made != row.begun_ns else None))
    return found


def _together(row: DumpRow, zone: Optional[tzinfo]) -> tuple:
    if not row.segment:
        return ("dump", row.id)
    # a rebuild does not know runs: what was dumped on one day counts as one
    return ("run", row.run) if row.run else ("day", hours.wall(row.begun_ns, zone).date())


def chosen(
    found: Sequence[Point], keep: Mapping[str, int], now_ns: int, zone: Optional[tzinfo] = None
) -> Dict[int, str]:
    """Number of each point that keep asks for -> why. found: oldest first. The newest one always stays."""
    reasons: Dict[int, str] = {}
    if not found:
        return reasons
    reasons[len(found) - 1] = "the newest restore point"
    by_counter = max(range(len(found)), key=lambda number: max(row.counter for row in found[number].tops))
    reasons.setdefault(by_counter, "the newest restore point")  # a wrong clock may have dated another one later
    count = keep.get("last", 0)
    for number in range(max(0, len(found) - count), len(found)):
        reasons.setdefault(number, f"one of the last {count}")
    if "days" in keep:
        # from the newest on, so that what is not dumped any more does not melt away
        newest = hours.wall(min(now_ns, found[-1].moment), zone).date()
        for number, point in enumerate(found):
            # by the calendar: a night that begins some minutes later must not cost a day
            if (newest - hours.wall(point.moment, zone).date()).days <= keep["days"]:
                reasons.setdefault(number, f"within {keep['days']} days of the newest")
    for moments in _readings(found):
        for name, label in _LABELS.items():
            seen: Set[tuple] = set()
            for number in range(len(found) - 1, -1, -1):
                times, moment = moments[number]
                span = times, label(moment, zone)
                if span in seen:
                    continue
                if len(seen) >= keep.get(name, 0):
                    break
                seen.add(span)
                reasons.setdefault(number, f"the last of its {_SPANS[name]} ({name} {keep[name]})")
        for number in range(min(reasons) + 1, len(found)):
            if moments[number][0] != moments[number - 1][0]:  # without it nobody would know, the next time
                reasons.setdefault(number, "the first after the clock was set back")
    return reasons


def _readings(found: Sequence[Point]) -> List[List[Tuple[int, int]]]:
    """The moments by which points share a day, each with how often the clock had been set back by then. Where a clock
    was wrong, by each of the two moments that are known, and once more with those times: one alone could put the
    nights of many weeks into one day, or a night into the week before, whose last one it would seem."""
    dated = [(0, point.moment) for point in found]
    made = [(0, point.moment if point.made is None else point.made) for point in found]
    if made == dated:
        return [dated]
    times, apart = 0, [made[0]]
    for (_none, before), (_none, moment) in zip(made, made[1:]):
        times += moment < before
        apart.append((times, moment))
    return [dated, made, apart]


class _Source:
    """One source while it is decided."""

    def __init__(self, rows: Sequence[DumpRow], copies: Mapping[str, Mapping[str, CopyRow]],
                 rules: Optional[Mapping[str, Rule]], now_ns: int, zone: Optional[tzinfo], holds: AbstractSet[str],
                 held: bool, locks: Mapping[Place, int]):  # fmt: skip
        self.rows = sorted(rows, key=lambda row: (row.counter, row.id))
        self.by_id = {row.id: row for row in self.rows}
        self.copies, self.rules, self.locks = copies, rules or {}, locks
        self.left = rules is None
        self.now_ns, self.zone, self.holds, self.held = now_ns, zone, holds, held
        self.stays: Dict[Place, str] = {}
        self.promised: Set[Place] = set()
        self.weak: Set[Place] = set()  # stay, but keep nothing else
        self.goes: Dict[Place, str] = {}
        self.pending: Dict[str, str] = {}  # dump -> a target that waits for it, or for what builds on it
        self._known: Dict[Tuple[str, Optional[str], Sequence[str]], bool] = {}

    def decide(self) -> List[Decision]:
        for target in dict.fromkeys(name for of_one in self.copies.values() for name in of_one if name != HOLDING):
            self._look_at(target)
        self._keep_chains()
        found = []
        for row in self.rows:
            for target, copy in self.copies.get(row.id, {}).items():
                place = (row.id, target)
                if place in self.stays:
                    found.append(Decision(row, copy, True, self.stays[place], place in self.promised))
                elif place in self.goes:
                    found.append(Decision(row, copy, False, self.goes[place]))
        return found

    # one target

    def _look_at(self, target: str) -> None:
        there = [row for row in self.rows if self._state(row, target) in REMOVABLE]
        rule = self.rules.get(target)
        points_of, whole = ({}, "") if rule is None else self._promises(target, rule)
        oldest = min((self.by_id[name].begun_ns for name in points_of), default=None)
        full_of = self._last_fulls(target)
        unfinished = self._unfinished(target)
        for row in there:
            place = (row.id, target)
            if self.left:
                self.stays[place] = "its source is no longer in the configuration"
            elif rule is None:
                self.stays[place] = "no policy copies its source here any more"
            elif not rule.keep:
                self.stays[place] = FOR_EVER
            elif self.held or row.id in self.holds:
                self.stays[place] = "held: stowage release"
            elif row.holding is not None:
                self.stays[place] = "its image is still on the holding disk"
            elif self.locks.get(place, 0) > self.now_ns:
                self.stays[place] = f"locked until {clock.local(self.locks[place])}"
            elif row.segment == ids.INTERIM:
                self._interim(row, place)
            elif row.id in points_of:
                self.stays[place] = points_of[row.id]
                self.promised.add(place)
            elif whole:
                self.stays[place] = whole
            elif row.id in full_of:
                self.stays[place] = "the last good full"
            elif row.segment in unfinished:
                self.stays[place] = "of segments that are not complete here yet"
            elif (oldest is None or row.begun_ns >= oldest) and not self._restorable(row, None, REMOVABLE):
                self.stays[place] = "cannot be restored now: for a person to look at"
                self.weak.add(place)
            else:
                self.goes[place] = "past its keep"

    def _promises(self, target: str, rule: Rule) -> Tuple[Dict[str, str], str]:
        """dump -> why it stays on target; and why all stays there, when nothing could be made out."""
        reasons: Dict[str, str] = {}
        # Damaged copies take a place of their own beside the good ones: they come back when they are healed, and may
        # not; neither may cost a restore point. So with chains that are whole here, and those that others complete.
        for states in (GOOD, REMOVABLE):
            for only in (target, None) if rule.self_contained else (None,):
                rows = [
                    row for row in self.rows
                    if row.segment != ids.INTERIM and self._state(row, target) in states
                    and self._restorable(row, only, states)
                ]  # fmt: skip
                found = points(rows, self.zone)
                for number, why in chosen(found, rule.keep, self.now_ns, self.zone).items():
                    for top in found[number].tops:
                        reasons.setdefault(top.id, why)
            if not reasons and states == GOOD:
                return {}, "no restore point can be made of what is here"
        return reasons, ""

    def _last_fulls(self, target: str) -> Set[str]:
        """The last good full of each unit in force, by what is here and by what is anywhere: dumps of one night may lie
        on several targets. Of each unit, as long as none is."""
        good = [row for row in self.rows if row.segment != ids.INTERIM and self._restorable(row, None, GOOD)]
        found: Set[str] = set()
        for rows in ([row for row in good if self._state(row, target) in GOOD], good):
            newest = units.newest_of(rows)
            fulls = units.newest_of(row for row in rows if row.level == 0)
            force = units.in_force(newest) or tuple(fulls)
            found |= {fulls[name].id for name in force if name in fulls}
        return found

    def _unfinished(self, target: str) -> Set[str]:
        """Segments of cuts that lack some here: more may be on their way. Until a newer cut is complete here."""
        newest = units.newest_of(row for row in self.rows if self._state(row, target) in REMOVABLE)
        complete = {name for names in units.ways(newest) for name in names}
        parts = [name for name in newest if ids.parse_segment(name) is not None and name not in complete]
        after = [
            min(newest[name].begun_ns for name in names) for names in units.ways(newest) if names != ("",)
        ]  # fmt: skip
        return {name for name in parts if not any(newest[name].begun_ns < begun for begun in after)}

    def _interim(self, row: DumpRow, place: Place) -> None:
        where = [name for name, rule in self.rules.items() if rule.fulls]
        for target in where:
            fulls = {
                one.segment for one in self.rows
                if one.level == 0 and one.segment != ids.INTERIM and one.begun_ns > row.begun_ns and not one.damaged
                and self._state(one, target) == "verified"
            }  # fmt: skip
            if not units.ways(fulls):
                self.stays[place] = f"no full that followed is verified on {target}"
                return
        if where:
            self.goes[place] = "a full has followed, everywhere"
        else:
            self.stays[place] = "no target takes fulls"

    # what hangs together

    def _keep_chains(self) -> None:
        needs: Dict[str, List[Place]] = {}  # dump -> whose chains go over it, itself among them
        for place in [one for one in self.stays if one not in self.weak]:
            rule = self.rules.get(place[1])
            for link in self._chain(place[0]):
                needs.setdefault(link.id, []).append(place)
                here = (link.id, place[1])
                if rule is not None and rule.self_contained and here in self.goes:
                    self._stay(here, f"{place[0]} needs it here")
        for row in self.rows:
            if row.holding is not None:
                for link in self._chain(row.id):
                    needs.setdefault(link.id, []).append((row.id, HOLDING))
        for row in self.rows:
            # a copy that is still to be made is made from one that is there, its base's too
            for target, copy in self.copies.get(row.id, {}).items():
                if target in self.rules and copy.state in PENDING:
                    for link in self._chain(row.id):
                        needs.setdefault(link.id, []).append((row.id, target))
                        self.pending.setdefault(link.id, target)
        for name, whose in needs.items():
            self._keep_enough(self.by_id[name], whose)

    def _keep_enough(self, row: DumpRow, whose: Sequence[Place]) -> None:
        """A dump that is needed keeps verified copies enough: where it is needed first, then wherever."""
        all_of_it = [name for name in self.copies.get(row.id, {}) if name != HOLDING]
        least = max([1, *(self.rules[name].min_copies for name in all_of_it if name in self.rules)])
        verified = [name for name in all_of_it if self._state(row, name) == "verified" and not row.damaged]
        count = sum((row.id, name) in self.stays for name in verified)
        near = {target for _dump, target in whose}
        other = next((dump for dump, _target in whose if dump != row.id), None)
        if other is not None:
            why = f"{other} needs it"
        elif row.id in self.pending:
            why = f"a copy on {self.pending[row.id]} is still to be made of it"
        else:
            why = "the only verified copy" if least == 1 else f"min_copies {least}"
        for name in sorted(verified, key=lambda name: name not in near):
            if count < least and (row.id, name) in self.goes:
                self._stay((row.id, name), why)
                count += 1
        if count == 0:  # nothing proven at all: then whatever there is
            for name in all_of_it:
                if (row.id, name) in self.goes:
                    self._stay((row.id, name), why)

    def _stay(self, place: Place, why: str) -> None:
        self.goes.pop(place)
        self.stays[place] = why

    def _chain(self, name: str) -> List[DumpRow]:
        """A dump and all below it that is known."""
        found: Dict[str, DumpRow] = {}
        row = self.by_id.get(name)
        while row is not None and row.id not in found:
            found[row.id] = row
            row = self.by_id.get(row.base) if row.base is not None else None
        return list(found.values())

    def _state(self, row: DumpRow, target: str) -> str:
        copy = self.copies.get(row.id, {}).get(target)
        return copy.state if copy is not None else ""

    def _restorable(self, row: DumpRow, only: Optional[str], states: Sequence[str]) -> bool:
        """Whether the whole chain has copies in these states, on one target or anywhere."""
        asked = (row.id, only, states)
        if asked not in self._known:
            self._known[asked] = self._is_whole(self._chain(row.id), only, states)
        return self._known[asked]

    def _is_whole(self, chain: Sequence[DumpRow], only: Optional[str], states: Sequence[str]) -> bool:
        if chain[-1].base is not None:  # a base that is unknown, or a circle
            return False
        for link in chain:
            of_it = self.copies.get(link.id, {})
            held = only is None and link.holding is not None and HOLDING not in of_it
            there = [name for name in of_it if name != HOLDING and only in (None, name)]
            if link.damaged and "damaged" not in states:
                return False
            if not held and not any(of_it[name].state in states for name in there):
                return False
        return True
