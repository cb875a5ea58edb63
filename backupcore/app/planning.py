"""Tonight's plan: what is known of each source goes to the planner, its choices become dumps, what came of them stays.

Here lives the way from settings, catalog, presence and estimates to the planner's view, and back to what the driver
is to do. Which level is best is the planner's affair (schedule/), how a plan reads is plan_told.py's, what is kept from
night to night plan_state.py's. A run that names its sources plans all and dumps those; what it was not asked for stays
as it was.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Callable, Dict, FrozenSet, Iterable, List, Mapping, Optional, Sequence, Tuple

from .. import clock
from ..errors import ClientUnreachable
from ..schedule import bases, estimates, nights
from ..schedule.bases import Past, Planned, Stand
from ..schedule.estimates import Dumped, Expected, Habits
from ..schedule.planner import plan as make_plan
from ..schedule.records import BYTES, Choice, Done, Limit, Plan, Rules, Unit, View, Wish
from ..settings import Client, Settings, Source
from . import plan_state
from .plan_state import Kept

DEEPEST = 9
# First fulls that all together take no longer than this are no flood: they are not spread over nights.
CALM = 2 * 3600.0
PROBE = 5.0  # seconds until a client that may be away counts as away
SECONDS, HOLDING, TARGET = "seconds", "holding", "target:"


@dataclass(frozen=True)
class One:
    """A unit of planning: a source, or a segment of it. stand: its bases; began: when its last dump began, in ns."""

    id: str
    source: Source
    segment: str
    past: Tuple[Past, ...]
    stand: Stand
    habits: Habits

    @property
    def key(self) -> Tuple[str, str]:
        """(client, source)"""
        return self.source.client, self.source.name

    @property
    def began(self) -> int:
        """When its last dump began, in ns; 0 when there is none."""
        return self.past[-1].begun_ns if self.past else 0


@dataclass(frozen=True)
class Tonight:
    """A plan and what it was made of. planned: what the driver is to do. late: units whose first full waits although
    nothing is short. notes: estimates that could not be had."""

    now_ns: int
    everything: bool
    view: View
    plan: Plan
    ones: Mapping[str, One]
    expected: Mapping[str, Expected]
    planned: Tuple[Planned, ...]
    kept: Kept
    notes: Tuple[str, ...] = ()
    asked_once: FrozenSet[str] = frozenset()
    at_once: int = 4
    choices: Mapping[str, Choice] = field(default_factory=dict)


class Planner:
    """Makes the plan of a moment."""

    def __init__(self, settings: Settings, catalog: Any, now_ns: Optional[int] = None):
        self.settings, self.catalog = settings, catalog
        self.now_ns = clock.now_ns() if now_ns is None else now_ns
        self.night = nights.night_of(self.now_ns)
        self.kept = plan_state.read(settings.state)
        self._nights: Dict[str, int] = {}

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
        away = frozenset(self.kept.away) if ready is None else self._away(wanted)
        asked = {} if ready is None else self._to_walk(ones, wanted, wishes, away, level, walk)
        walked, gone, notes = self._ask(asked, ready, progress) if asked else ({}, frozenset(), ())
        away |= gone
        expected = self._expect(ones, walked)
        units = tuple(
            self._unit(one, wishes[one.id], expected[one.id], one.source.client not in away) for one in ones.values()
        )
        view = View(
            self.night, nights.weekday_of(self.night), units, self._limits(ones), {}, self._rules(units)
        )  # fmt: skip
        made = make_plan(view, self.kept.memory)
        tonight = Tonight(
            self.now_ns, not named, view, made, ones, expected, (), self.kept, notes,
            frozenset(one.id for one in ones.values() if one.key in forced and one.key in wanted),
            self.settings.dumps_at_once, {choice.unit: choice for choice in made.choices},
        )  # fmt: skip
        return replace(tonight, planned=tuple(self._planned(tonight, wanted, named, level, forced)))

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
            planned.append(Planned(*one.key, level, base, reason))
        expected = self._expect(ones, {})
        units = tuple(self._unit(one, self._wish(one, {}, None), expected[one.id], True) for one in ones.values())
        view = View(self.night, nights.weekday_of(self.night), units)
        empty = Plan(self.night, (), (), (), ())
        return Tonight(self.now_ns, False, view, empty, ones, expected, tuple(planned), self.kept)

    # what is known

    def _ones(self, everyone: Sequence[Source]) -> Dict[str, One]:
        from ..dump import history

        past = history.gather(self.settings, self.catalog) if everyone else {}
        found = {}
        for source in everyone:
            of_one = tuple(past.get((source.client, source.name), ()))
            stand = bases.stand(of_one, self.night_of, self.night)
            shown = [self._dumped(dump) for dump in of_one[-estimates.FULLS * 8 :]]
            unit = unit_id(source.client, source.name)
            found[unit] = One(unit, source, "", of_one, stand, estimates.learn(shown))
        return found

    def _dumped(self, dump: Past) -> Dumped:
        night = min(self.night_of(dump), self.night)
        return Dumped(dump.id, dump.level, dump.base, night, min(dump.begun_ns, self.now_ns), dump.archive, dump.stored,
                      dump.entries, dump.seconds)  # fmt: skip

    def _wish(self, one: One, forced: Mapping[Tuple[str, str], int], level: Optional[int]) -> Wish:
        timing = one.source.timing
        now: Optional[int] = level if level is not None else forced.get(one.key)
        own_fulls: Tuple[int, ...] = ()
        if timing.own:
            own = nights.parse_own(timing.full, timing.incremental)
            own_fulls = own.fulls(self.night, timing.cycle + 1)
            if now is None:
                now = self.due_level(one)
        elif now is None and self._repeats(one):
            # planned and made tonight already: once more, and nothing of the plan moves
            mine = [dump for dump in one.past if dump.run in self.kept.runs][-1]
            now = mine.level or (0 if timing.strategy == "full" else 1)
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

    def _away(self, wanted: Iterable[Tuple[str, str]]) -> FrozenSet[str]:
        """The clients that cannot be reached now, of those of which that is to be feared."""
        names = {client for client, _source in wanted}
        unasked = frozenset(name for name in self.kept.away if name not in names)
        if len(names) < 2:
            return unasked  # the dump itself is the question
        feared = [
            client for name, client in self.settings.clients.items()
            if name in names and client.transport == "ssh" and (client.presence == "roaming" or name in self.kept.away)
        ]  # fmt: skip
        return unasked | (_unreachable(feared) if feared else frozenset())

    def _to_walk(
        self, ones: Mapping[str, One], wanted: Iterable[Tuple[str, str]], wishes: Mapping[str, Wish],
        away: FrozenSet[str], level: Optional[int], walk: bool,
    ) -> Dict[str, List[One]]:  # fmt: skip
        """Of each client, what it is to be asked the size of, since that may change the plan."""
        mode = "walk" if walk else self.settings.planning.estimate
        total = sum(one.habits.size or 0.0 for one in ones.values())
        found: Dict[str, List[One]] = {}
        for unit, one in ones.items():
            wish = wishes[unit]
            if one.key not in wanted or one.source.client in away or wish.strategy == "skip":
                continue
            why = estimates.needs_walk(
                mode, one.habits, alone=len(wanted) == 1, forced=wish.forced is not None or level is not None,
                share=(one.habits.size or 0.0) / total if total and one.habits.fulls else None,
                error=partial(self._error, one), leveled=wish.strategy != "full",
            )  # fmt: skip
            if why:
                found.setdefault(one.source.client, []).append(one)
        return found

    def _error(self, one: One) -> Optional[float]:
        """How far off the estimates by its history were."""
        from ..dump import estimate

        found = estimate.accuracy(self.catalog, self.now_ns, *one.key).get((*one.key, one.segment))
        return found.history if found is not None else None

    def _ask(
        self, asked: Mapping[str, Sequence[One]], ready: Any, progress: Any
    ) -> Tuple[Dict[str, Any], FrozenSet[str], Tuple[str, ...]]:
        """(what walks found by unit, clients that are away, what could not be had)."""
        from ..dump import estimate

        asks = {}
        for client, ones in asked.items():
            listed = []
            for one in ones:
                since = {level: dump.begun_ns for level, _base, dump in _rungs(one.stand)}
                listed.append(estimate.Ask(one.source.name, (estimate.Part(since),)))
            asks[client] = listed
        heard = estimate.ask(
            self.settings, asks, connect=ready.connect, keep=ready.keep, limit=self.settings.planning.estimate_time,
            progress=progress,
        )  # fmt: skip
        walked = {
            unit_id(client, source, part): found
            for client, one in heard.items() for (source, part), found in one.walked.items()
        }  # fmt: skip
        notes = tuple(note for one in heard.values() for note in one.notes)
        return walked, frozenset(client for client, one in heard.items() if one.away), notes

    def _expect(self, ones: Mapping[str, One], walked: Mapping[str, Any]) -> Dict[str, Expected]:
        defaults = estimates.fleet(one.habits for one in ones.values())
        now = (self.night, self.now_ns)
        found = {}
        for unit, one in ones.items():
            compressed = one.source.policy.compress != "none"
            levels = {level: (base.night, dump.begun_ns) for level, base, dump in _rungs(one.stand)}
            found[unit] = estimates.expect(
                one.habits, now, levels, walked.get(unit), defaults, compressed=compressed
            )  # fmt: skip
        return found

    def _unit(self, one: One, wish: Wish, expected: Expected, reachable: bool) -> Unit:
        use: Dict[str, Tuple[float, float]] = {SECONDS: expected.use}
        if HOLDING in self.settings.planning.limits:
            use[HOLDING] = (1.0, 1.0)
        for rule in one.source.policy.copies:
            use[TARGET + rule.target] = (float(rule.dumps != "incremental"), float(rule.dumps != "full"))
        since = self.kept.since.get(one.id, self.night)
        if one.stand.bases:
            since = min(since, one.stand.bases[0].night)
        return Unit(
            one.id, one.source.client, wish, min(since, self.night), reachable, expected.full,
            expected.levels if reachable else {}, one.stand.bases, one.stand.last_full, one.stand.broken, use,
        )  # fmt: skip

    def _limits(self, ones: Mapping[str, One]) -> Dict[str, Limit]:
        """Tonight's limits, less what this night took already."""
        limits = self.settings.planning.limits
        if not limits:
            return {}
        taken = dict.fromkeys(limits, 0.0)
        for one in ones.values():
            wanted = {rule.target: rule.dumps for rule in one.source.policy.copies}
            for dump in reversed(one.past):
                if self.night_of(dump) < self.night:
                    break
                for name in limits:
                    if name == SECONDS:
                        taken[name] += dump.seconds
                    elif name in (BYTES, HOLDING):
                        taken[name] += dump.stored
                    elif wanted.get(name[len(TARGET) :]) in ("all", "incremental" if dump.level else "full"):
                        taken[name] += dump.stored
        return {name: Limit(max(0.0, one.amount - taken[name]), one.hard) for name, one in limits.items()}

    def _rules(self, units: Sequence[Unit]) -> Rules:
        planning = self.settings.planning
        spread = planning.first_nights
        if spread is None:
            seconds = sum((unit.full or 0.0) * unit.use[SECONDS][0] for unit in units if unit.last_full is None)
            window = planning.limits.get(SECONDS)
            at_once = self.settings.dumps_at_once
            if seconds <= min(CALM * at_once, window.amount if window else CALM * at_once):
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
            if named or level is not None or one.key in forced:
                yield self._one_planned(one, None, "", True, level, forced)
            elif not reachable[unit] and self._may_run(one):
                # it was not there when the plan was made, and may be by now
                found = bases.choose(one.past)
                yield Planned(*one.key, found[0], found[1], f"in case its client is back: {found[2]}")

    def _may_run(self, one: One) -> bool:
        timing = one.source.timing
        return timing.strategy != "skip" and nights.weekday_of(self.night) in timing.days and not timing.own

    def _one_planned(
        self, one: One, level: Optional[int], reason: str, named: bool, asked: Optional[int],
        forced: Mapping[Tuple[str, str], int],
    ) -> Planned:  # fmt: skip
        by_hand = asked if asked is not None else forced.get(one.key)
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
        earliest = one.source.timing.earliest
        begin = 0 if named or earliest is None else nights.at(self.night, earliest)
        return Planned(*one.key, level, base, reason, begin if begin > self.now_ns else 0)


def unit_id(client: str, source: str, segment: str = "") -> str:
    """`client:source`, `client:source/segment`: neither : nor / is in a name."""
    return f"{client}:{source}" + (f"/{segment}" if segment else "")


def _rungs(stand: Stand) -> Iterable[Tuple[int, Any, Past]]:
    """The levels that could be made, each with its base."""
    for base, dump in zip(stand.bases, stand.dumps):
        if base.level < DEEPEST:
            yield base.level + 1, base, dump


def _unreachable(clients: Sequence[Client]) -> FrozenSet[str]:
    """Those whose port does not answer in a few seconds."""
    import socket

    there: Dict[str, bool] = {}

    def knock(client: Client) -> None:
        try:
            socket.create_connection((client.address.strip("[]"), client.port), PROBE).close()
            there[client.name] = True
        except (OSError, UnicodeError):
            pass

    # daemons: a resolver that hangs must not hold up the night
    threads = [threading.Thread(target=knock, args=(client,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PROBE + 1)
    return frozenset(client.name for client in clients if not there.get(client.name))


# what came of it


def begin(settings: Settings, tonight: Tonight, run: str) -> None:
    """Notes that a run of everything has begun, so that a second one in this night knows. Raises OSError."""
    if tonight.everything:
        night = tonight.view.night
        runs = tonight.kept.runs if tonight.kept.night == night else ()
        since = {unit.id: unit.since for unit in tonight.view.units}
        kept = replace(tonight.kept, night=night, runs=(*runs, run)[-24:], since=since)
        plan_state.write(settings.state, kept)


def done(catalog: Any, results: Sequence[Any]) -> List[Done]:
    """What became of each unit, from the rows of the driver's results."""
    found = []
    for result in results:
        row = catalog.dump(result.dump) if result.dump else None
        unit = unit_id(result.client, result.source, row.segment if row else "")
        level = row.level if row else (result.level or 0)
        found.append(Done(unit, level, float(row.stored_size) if row else 0.0, result.ok))
    return found


def _keep_estimates(catalog: Any, tonight: Tonight, results: Sequence[Any]) -> None:
    """What was expected and what came: shown, and what the next choice between a walk and history is made by."""
    from ..dump.estimate import rows_of

    levels = {(one.client, one.source): one.level for one in tonight.planned}
    rows = []
    for result in results:
        row = catalog.dump(result.dump) if result.ok and result.dump else None
        expected = tonight.expected.get(unit_id(row.client, row.source, row.segment)) if row is not None else None
        if expected is not None:
            rows += rows_of(row, expected, levels.get((row.client, row.source), row.level))
    catalog.add_estimates(rows)


def end(settings: Settings, catalog: Any, tonight: Tonight, results: Sequence[Any]) -> None:
    """Keeps what the night taught. Raises OSError."""
    from ..schedule.memory import remember

    results_of = done(catalog, results)
    there = {result.client for result in results if result.ok}
    away = {result.client for result in results if result.code == ClientUnreachable.code and not result.ok} - there
    made = [(result.client, result.source) for result in results if result.ok]
    _keep_estimates(catalog, tonight, results)
    plan_state.forget(settings.state, [key for key in made if unit_id(*key) in tonight.asked_once])
    if not tonight.plan.outlook:
        return  # of a schedule of its own: nothing was planned
    asked = {one.unit for one in results_of}
    units = tuple(
        replace(unit, reachable=unit.client not in away) if unit.client in away | there else unit
        for unit in tonight.view.units
    )
    # what a run by name was not asked for is neither made nor missed
    choices = tuple(one for one in tonight.plan.choices if tonight.everything or one.unit in asked)
    view, plan = replace(tonight.view, units=units), replace(tonight.plan, choices=choices)
    memory = remember(tonight.kept.memory, view, plan, results_of)
    kept = plan_state.read(settings.state)  # with the run that begin() noted
    away |= {name for name in kept.away if name not in there and name in settings.clients}
    since = {unit.id: unit.since for unit in units}
    plan_state.write(settings.state, replace(kept, memory=memory, away=tuple(sorted(away)), since=since))
