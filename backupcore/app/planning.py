"""Tonight's plan: what is known of each source goes to the planner, its choices become dumps, what came of them stays.

Here lives the way from settings, catalog, presence and estimates to the planner's view, and back to what the driver is
to do. Which level is best is the planner's affair (schedule/); who asks the clients is plan_ask.py, how a plan reads is
plan_told.py, what is kept from night to night plan_state.py, and when plan_kept.py. A run that names its sources plans
all and dumps those; what it was not asked for stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Callable, Dict, FrozenSet, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from .. import clock, ids
from ..schedule import bases, estimates, nights
from ..schedule.bases import Past, Planned, Stand
from ..schedule.estimates import Dumped, Expected, Habits
from ..schedule.interim import Interim
from ..schedule.planner import plan as make_plan
from ..schedule.records import BYTES, HOLDING, SECONDS, TARGET, Base, Choice, Limit, Plan, Rules, Unit, View, Wish
from ..settings import Settings, Source
from . import plan_ask, plan_plain, plan_room, plan_state
from .plan_state import Kept, unit_id

DEEPEST = 9
# First fulls that all together take no longer than this are no flood: they are not spread over nights.
CALM = 2 * 3600.0
LEAST_PAST = 60  # days of history that sizes are learnt from, at least


@dataclass(frozen=True)
class One:
    """A unit of planning: a source, or a segment of it. stand: its bases; began: when its last dump began, in ns."""

    id: str
    source: Source
    segment: str
    past: Tuple[Past, ...]
    stand: Stand
    habits: Habits
    share: Any = None  # dump.cut.Share of a segment
    leaving: bool = False  # it goes on only until the segments that follow it have their fulls

    @property
    def key(self) -> Tuple[str, str]:
        """(client, source)"""
        return self.source.client, self.source.name

    @property
    def rungs(self) -> List[Tuple[int, Base, Past]]:
        """The levels that could be made, each with its base."""
        pairs = zip(self.stand.bases, self.stand.dumps)
        return [(base.level + 1, base, dump) for base, dump in pairs if base.level < DEEPEST]

    @property
    def began(self) -> int:
        """When its last dump began, in ns; 0 when there is none."""
        return self.past[-1].begun_ns if self.past else 0


@dataclass(frozen=True)
class Tonight:
    """A plan and what it was made of. planned: what the driver is to do. notes: estimates that could not be had.
    asked_once: (client, source) whose level was. choices: by unit. beside: what own schedules take by day, by
    resource. cut_short: unit -> level and bytes of a dump that a limit ended."""

    now_ns: int
    everything: bool
    view: View
    plan: Plan
    ones: Mapping[str, One]
    expected: Mapping[str, Expected]
    planned: Tuple[Planned, ...]
    kept: Kept
    notes: Tuple[str, ...] = ()
    asked_once: FrozenSet[Tuple[str, str]] = frozenset()
    at_once: int = 4
    choices: Mapping[str, Choice] = field(default_factory=dict)
    beside: Mapping[str, float] = field(default_factory=dict)
    fault: str = ""  # of the planner itself
    interim: Tuple[Interim, ...] = ()  # what becomes of the sources that wait for their first full
    cut_short: Mapping[str, Tuple[int, int]] = field(default_factory=dict)

    @property
    def between(self) -> float:
        """Bytes of own schedules by day."""
        return self.beside.get(BYTES, 0.0)

    @cached_property
    def units(self) -> Dict[str, Unit]:
        """The units of the view by their ids."""
        return {unit.id: unit for unit in self.view.units}


class Planner:
    """Makes the plan of a moment. untold: types of sources whose driver tells no sizes before a dump."""

    def __init__(
        self, settings: Settings, catalog: Any, now_ns: Optional[int] = None, untold: FrozenSet[str] = frozenset()
    ):
        self.settings, self.catalog, self.untold = settings, catalog, untold
        self.now_ns = clock.now_ns() if now_ns is None else now_ns
        self.night = nights.night_of(self.now_ns)
        self.kept = plan_state.read(settings.state)
        self._nights: Dict[str, int] = {}
        self._again: Set[str] = set()
        self._cut_sources = (settings.state / "segments").is_dir()
        self._parted: Set[Tuple[str, ...]] = set()  # segments that have dumps
        self.interims: Mapping[Tuple[str, str], Sequence[Past]] = {}  # interim dumps by source
        self.round: Optional[plan_ask.Round] = None  # the questions of this plan

    def night_of(self, dump: Past) -> int:
        """The night a dump belongs to: the one in which its run began, also when it took until noon."""
        begun = dump.run[:16] or str(dump.begun_ns)
        if begun not in self._nights:
            try:
                moment = clock.parse_stamp(begun) if dump.run else dump.begun_ns
            except ValueError:
                moment = dump.begun_ns
            self._nights[begun] = nights.night_of(moment)
        return self._nights[begun]

    def plan(
        self, everyone: Sequence[Source], chosen: Optional[Sequence[Source]] = None, level: Optional[int] = None, *,
        walk: bool = False, ready: Any = None, progress: Optional[Callable[[Dict[str, Any]], None]] = None,
        due: bool = False,
    ) -> Tonight:  # fmt: skip
        """The plan of everyone, the dumps of those chosen. ready: a dump.warm.Warm with whose connections clients are
        asked what is worth it, None: no client is contacted. level: asked for by hand. walk: all are asked for sizes.
        due: only what schedules of their own ask for now.
        """
        if due:
            return self._due(everyone, chosen)
        named = chosen is not None
        wanted = {(one.client, one.name) for one in (everyone if chosen is None else chosen)}
        ones = self._ones(everyone)
        forced = plan_state.forced(self.settings.state)
        wishes = {one.id: self._wish(one, forced, level if one.key in wanted else None) for one in ones.values()}
        away, walked, notes = frozenset(self.kept.away), {}, ()
        if ready is not None:
            round_ = self.round = plan_ask.Round(
                self.settings, self.catalog, self.kept, self.now_ns, ready, progress, self.untold
            )
            away, walked, notes = round_.ask(ones, wanted, wishes, walk, level is not None)
        expected = self._expect(ones, walked)
        units = tuple(
            self._unit(one, wishes[one.id], expected[one.id], one.source.client not in away) for one in ones.values()
        )
        beside = self._beside(ones, units)
        limits = self._limits(beside, [one.key for one in ones.values()])
        left = self._left(ones, limits)
        coming = {self.night: left} if left != limits else {}
        view = View(self.night, nights.weekday_of(self.night), units, limits, coming, self._rules(units, ones))
        made, fault = plan_plain.plan(make_plan, view, self.kept.memory)
        tonight = Tonight(
            self.now_ns, not named, view, made, ones, expected, (), self.kept, notes,
            frozenset(key for key in forced if key in wanted),
            self.settings.dumps_at_once, {choice.unit: choice for choice in made.choices}, beside, fault,
        )  # fmt: skip
        planned = plan_room.timed(tonight, tuple(self._planned(tonight, wanted, named, level, forced)))
        return replace(tonight, planned=planned if named else plan_room.weighed(tonight, planned))

    def _due(self, everyone: Sequence[Source], chosen: Optional[Sequence[Source]]) -> Tonight:
        """What schedules of their own ask for now; nothing else is looked at."""
        names = None if chosen is None else {(one.client, one.name) for one in chosen}
        timed = [
            one for one in everyone
            if (one.timing.full or one.timing.incremental) and (names is None or (one.client, one.name) in names)
            and one.timing.strategy != "skip"
        ]  # fmt: skip
        ones = self._ones(timed)
        planned, units = [], []
        for one in ones.values():
            level = self.due_level(one)
            if level is None or not one.source.timing.own and not one.past:
                continue  # its first full is the night's affair
            level, base, reason = bases.choose(one.past, level)
            reason = reason.replace("was asked for", "is due by its own schedule")
            planned.append(Planned(*one.key, level, base, reason, segment=one.segment))
        expected = self._expect(ones, {})
        units = tuple(self._unit(one, self._wish(one, {}, None), expected[one.id], True) for one in ones.values())
        limits = self._limits({}, [(one.client, one.name) for one in everyone]) if planned else {}
        if plan_room.hard(limits):  # all dumps of this night count, these too
            limits = self._left(self._ones(everyone), limits)
        view = View(self.night, nights.weekday_of(self.night), units, limits)
        empty = Plan(self.night, (), (), (), ())
        tonight = Tonight(self.now_ns, False, view, empty, ones, expected, (), self.kept)
        return replace(tonight, planned=plan_room.weighed(tonight, plan_room.timed(tonight, planned)))

    # what is known

    def _ones(self, everyone: Sequence[Source]) -> Dict[str, One]:
        from ..dump import history

        keys = [(source.client, source.name) for source in everyone]
        longest = max((source.timing.cycle for source in everyone), default=0)
        since = self.now_ns - max(LEAST_PAST, (estimates.FULLS + 1) * longest) * nights.DAY_NS
        past = history.gather(self.settings, self.catalog, keys, since) if everyone else {}
        self.interims = {key[:2]: past.pop(key) for key in list(past) if key[2:] == (ids.INTERIM,)}
        self._parted = {key for key in past if len(key) > 2}
        found = {}
        for source in everyone:
            for segment, share, leaving in self._shares(source, past):
                key = (source.client, source.name, segment) if segment else (source.client, source.name)
                of_one = tuple(past.get(key, ()))
                stand = bases.stand(of_one, self.night_of, self.night)
                shown = [self._dumped(dump) for dump in of_one[-estimates.FULLS * 8 :]]
                unit = unit_id(*key)
                found[unit] = One(unit, source, segment, of_one, stand, estimates.learn(shown), share, leaving)
        return found

    def _shares(self, source: Source, past: Mapping[Tuple[str, ...], Sequence[Past]]) -> List[Tuple[str, Any, bool]]:
        """The segments that a source is cut into, (name, dump.cut.Share, whether it is leaving); ("", None) for what
        is dumped whole: sources that are not cut, and those of which a segment still waits for its first full."""
        key, whole = (source.client, source.name), [("", None, False)]
        if source.timing.split == "never" or not (self._cut_sources or any(known[:2] == key for known in self._parted)):
            return whole
        from ..dump import cut

        found = cut.current(self.settings, self.catalog, *key)
        if found is None:
            return whole
        units = [(one.name, one, False) for one in found.shares]
        fulls = {known for known, dumps in past.items() if any(dump.level == 0 for dump in dumps)}
        if all((*key, one.name) in fulls for one in found.shares):
            return units
        leaving = [(name, found.share(name), True) for name in found.before if ((*key, name) if name else key) in fulls]
        return [one for one in leaving if not one[0] or one[1] is not None] + units

    def _dumped(self, dump: Past) -> Dumped:
        night = min(self.night_of(dump), self.night)
        return Dumped(dump.id, dump.level, dump.base, night, min(dump.begun_ns, self.now_ns), dump.archive, dump.stored,
                      dump.entries, dump.seconds)  # fmt: skip

    def _wish(self, one: One, forced: Mapping[Tuple[str, str], int], level: Optional[int]) -> Wish:
        timing = one.source.timing
        now: Optional[int] = level if level is not None else forced.get(one.key)
        own_fulls: Tuple[int, ...] = ()
        if one.leaving:
            now = None if now == 0 else now  # a full is the segments' affair
            return Wish(
                cycle=timing.cycle, grace=timing.grace, priority=timing.priority, strategy="incremental",
                max_level=DEEPEST, max_chain=timing.max_chain, days=frozenset(timing.days), forced=now,
            )  # fmt: skip
        if timing.own:
            own = nights.parse_own(timing.full, timing.incremental)
            own_fulls = own.fulls(self.night, timing.cycle + 1)
            if now is None:
                now = self.due_level(one)
        elif now is None and self._repeats(one):
            # planned and made tonight already: once more, and nothing of the plan moves
            mine = [dump for dump in one.past if dump.run in self.kept.runs][-1]
            now = mine.level or (0 if timing.strategy == "full" else 1)
            self._again.add(one.id)
        return Wish(
            cycle=timing.cycle, grace=timing.grace, priority=timing.priority, strategy=timing.strategy,
            max_level=DEEPEST, max_chain=timing.max_chain, days=frozenset(timing.days), forced=now, own=timing.own,
            own_fulls=own_fulls,
        )  # fmt: skip

    def _repeats(self, one: One) -> bool:
        """Whether a run of everything has dumped it in this very night."""
        if self.kept.night != self.night or not self.kept.runs:
            return False
        return any(dump.run in self.kept.runs for dump in one.past[-4:])

    def due_level(self, one: One) -> Optional[int]:
        """The level that its own schedule asks for now; None for nothing."""
        timing = one.source.timing
        own = nights.parse_own(timing.full, timing.incremental)
        fulls = [dump.begun_ns for dump in one.past if dump.level == 0 and not dump.damaged]
        what = own.due(fulls[-1] if fulls else 0, one.began, self.now_ns)
        if what is None:
            return None
        if what == "full" or not one.stand.dumps:
            return 0
        return 1 if timing.own else self._between(one)

    def _between(self, one: One) -> int:
        """The level of a dump between two nights: so deep that no night builds on it."""
        chain = one.source.timing.max_chain
        for level in range(DEEPEST, 0, -1):
            below = [base for base in one.stand.bases if base.level < level]
            if below and (chain is None or below[-1].chain < chain):
                return level
        return 1

    def _expect(self, ones: Mapping[str, One], walked: Mapping[str, Any]) -> Dict[str, Expected]:
        defaults = estimates.fleet(one.habits for one in ones.values())
        now = (self.night, self.now_ns)
        leaving: Dict[Tuple[str, str], List[Habits]] = {}
        for one in ones.values():
            if one.leaving:
                leaving.setdefault(one.key, []).append(one.habits)
        found = {}
        for unit, one in ones.items():
            compressed = one.source.policy.compress != "none"
            levels = {level: (base.night, dump.begun_ns) for level, base, dump in one.rungs}
            seen = walked.get(unit)
            if seen is None and one.share is not None and one.share.size and not one.habits.fulls:
                seen = estimates.Walked(one.share.size, 0)  # what the cut was made by
            known = defaults
            if one.share is not None and not one.leaving:  # a segment is like what it is a part of
                known = estimates.like(leaving.get(one.key, ()), defaults)
            made = estimates.expect(one.habits, now, levels, seen, known, compressed=compressed)
            made = plan_room.at_most(made, self.settings.planning.limits)
            found[unit] = plan_room.at_least(made, self.kept.ended.get(unit), self.night)
        return found

    def _unit(self, one: One, wish: Wish, expected: Expected, reachable: bool) -> Unit:
        use: Dict[str, Tuple[float, float]] = {SECONDS: expected.use}
        if HOLDING in self.settings.planning.limits:
            use[HOLDING] = (0.0, 0.0) if one.source.holding == "never" else (1.0, 1.0)
        for rule in one.source.copies:
            whole, changes = rule.takes(0) or rule.self_contained, any(map(rule.takes, range(1, 10)))
            use[TARGET + rule.target] = (float(whole), float(changes))
        since = self.kept.since.get(one.id, self.night)
        if one.stand.bases:
            since = min(since, one.stand.bases[0].night)
        return Unit(
            one.id, one.source.client, wish, min(since, self.night), reachable, expected.full,
            expected.levels if reachable else {}, one.stand.bases, one.stand.last_full, one.stand.broken, use,
            expected.fixed,
        )  # fmt: skip

    def _beside(self, ones: Mapping[str, One], units: Sequence[Unit]) -> Dict[str, float]:
        """What the incrementals of own schedules take besides each night's dump, by resource."""
        total: Dict[str, float] = {BYTES: 0.0}
        for unit in units:
            timing = ones[unit.id].source.timing
            if timing.incremental and not timing.own and timing.strategy != "skip":
                night = min(unit.levels.values(), default=(unit.full or 0.0) * estimates.DEFAULTS.change)
                # each holds what changed since the night: half a night's changes on average
                times, size = nights.parse_times(timing.incremental).a_night(), night / 2
                total[BYTES] += times * size
                for name in unit.use:
                    total[name] = total.get(name, 0.0) + times * unit.takes(name, False, size)
        return total

    def _limits(self, beside: Mapping[str, float], sources: Sequence[Tuple[str, str]]) -> Dict[str, Limit]:
        """The limits of a night, less what is dumped beside it. sources: (client, source) of all."""
        found, settings = {}, self.settings
        for name, one in settings.planning.limits.items():
            amount = one.amount
            if name == SECONDS:  # given for dumps_at_once, and few clients do not keep so many at work
                amount *= plan_room.side_by_side(settings, sources) / max(1, settings.dumps_at_once)
            found[name] = Limit(max(0.0, amount - beside.get(name, 0.0)), one.hard)
        return found

    def _left(self, ones: Mapping[str, One], limits: Mapping[str, Limit]) -> Dict[str, Limit]:
        """Limits less what this night took already."""
        if not limits:
            return {}
        taken = dict.fromkeys(limits, 0.0)
        for one in ones.values():
            wanted = {rule.target: rule for rule in one.source.copies}
            for dump in reversed([*(() if one.segment else self.interims.get(one.key, ())), *one.past]):
                if self.night_of(dump) < self.night:
                    break
                for name in limits:
                    if name == SECONDS:
                        taken[name] += dump.seconds
                    elif name == BYTES or name == HOLDING and one.source.holding != "never":
                        taken[name] += dump.stored
                    elif (rule := wanted.get(name[len(TARGET) :])) is not None and rule.takes(dump.level):
                        taken[name] += dump.stored
        return {name: Limit(max(0.0, one.amount - taken[name]), one.hard) for name, one in limits.items()}

    def _rules(self, units: Sequence[Unit], ones: Mapping[str, One]) -> Rules:
        planning = self.settings.planning
        spread = planning.first_nights
        if spread is None:
            fresh = [unit for unit in units if unit.last_full is None or unit.broken]
            seconds = sum(unit.takes(SECONDS, True, unit.full or 0.0) for unit in fresh)
            window = planning.limits.get(SECONDS)
            at_once = self.settings.dumps_at_once
            # nobody waits for the fulls of segments: until they are there, what they are parts of goes on
            goes_on = {one.key for one in ones.values() if one.leaving}
            parts = bool(fresh) and all(ones[unit.id].key in goes_on for unit in fresh)
            if not parts and seconds <= min(CALM * at_once, window.amount if window else CALM * at_once):
                spread = 1
        return Rules(spread, planning.server_grace)

    # what is to be done

    def _planned(
        self, tonight: Tonight, wanted: Iterable[Tuple[str, str]], named: bool, level: Optional[int],
        forced: Mapping[Tuple[str, str], int],
    ) -> Iterable[Planned]:  # fmt: skip
        wanted = set(wanted)
        for choice in tonight.plan.choices:
            one = tonight.ones[choice.unit]
            if one.key in wanted:
                yield self._one_planned(one, choice.level, choice.reason, named, level, forced)
        reachable = {unit.id: unit.reachable for unit in tonight.view.units}
        for unit, one in tonight.ones.items():
            if one.key not in wanted or unit in tonight.choices:
                continue
            if named or one.key in forced or level is not None and self._may_run(one):
                yield self._one_planned(one, None, "", named or one.key in forced, level, forced)
            elif not reachable[unit] and self._may_run(one):
                # it was not there when the plan was made, and may be by now
                found = bases.choose(one.past)
                told = f"in case its client is back: {found[2]}"
                yield Planned(*one.key, found[0], found[1], told, segment=one.segment)

    def _may_run(self, one: One) -> bool:
        timing = one.source.timing
        return timing.strategy != "skip" and nights.weekday_of(self.night) in timing.days and not timing.own

    def _one_planned(
        self, one: One, level: Optional[int], reason: str, named: bool, asked: Optional[int],
        forced: Mapping[Tuple[str, str], int],
    ) -> Planned:  # fmt: skip
        by_hand = asked if asked is not None else forced.get(one.key)
        if one.leaving and by_hand == 0:
            by_hand = None
        base: Optional[str] = None
        if by_hand is not None:
            level, base, reason = bases.choose(one.past, by_hand)
        elif level is None:
            level, base, reason = bases.choose(one.past)
        elif level:
            below = one.stand.base_of(level)
            if below is None:
                level, base, reason = bases.choose(one.past, level)
            else:
                base = below.id
        if one.id in self._again and by_hand is None:
            broken = one.stand.broken if level == 0 else ""
            reason = f"full: {broken}" if broken else "dumped tonight already, and once more now"
        earliest = one.source.timing.earliest
        begin = 0 if named or earliest is None else nights.at(self.night, earliest)
        return Planned(*one.key, level, base, reason, begin if begin > self.now_ns else 0, one.segment)
