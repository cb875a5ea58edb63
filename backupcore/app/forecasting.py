"""The nights to come until the end of next month, by the planner and the rules themselves: what will lie where then.

Here lives a replay of nights that have not been: each is planned by planning.Planner with what the nights before it
made, each dump goes where catalog/wants.py says, and stage/retention.py says what goes again. So a policy that is tried
out (another configuration, the same catalog) is foreseen by the code that would carry it out. Nothing is written, no
client and no target is asked. What it costs is backupcore.cost; sizes are those that history tells, and every client is
taken to be there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from .. import clock
from ..catalog import locked, marks, spending, units, wants
from ..catalog.records import HOLDING, CopyRow, DumpRow
from ..catalog.spending import Stay
from ..cost import usage
from ..cost.usage import Month, Row
from ..schedule import bases, estimates, nights
from ..schedule.bases import Past
from ..schedule.memory import Memory, remember
from ..schedule.records import Done
from ..settings import Settings, Source
from ..stage import locks, retention, wanted
from ..stage.prune import rules_of
from . import planning, upkeep
from .plan_state import Kept, unit_id

NIGHT = 23 * 60 + 59  # minutes after midnight at which a coming night's dumps are taken to begin
LOOKS = 1500  # so often sources are asked what retention lets go, over all days together
MOST_APART = 7  # days between two such looks at most
OTHER_FILES = 7  # of a dump, besides its parts
LONGEST_SPAN = 33 * nights.DAY_NS  # a month, and the nights that belong to days beside it

Key = Tuple[str, str]


@dataclass(frozen=True)
class Forecast:
    """this: the month that lasts, up to its end; next: the one after it; both by target. dumps: so many are foreseen.
    guessed: so many sources of unknown size."""

    this: Month
    next: Month
    of_this: Tuple[Row, ...]
    of_next: Tuple[Row, ...]
    dumps: int
    guessed: int


def forecast(settings: Settings, catalog: Any, now_ns: int, untold: frozenset = frozenset()) -> Forecast:
    """What this month and the next will have been, by target."""
    this = usage.month(spending.month_of(now_ns), now_ns)
    whole = usage.month(this.name, this.end_ns)
    coming = usage.month(this.next.name, this.next.end_ns)
    ahead = _Ahead(settings, catalog, now_ns, coming.end_ns, untold)
    ahead.go()
    prices = {name: one.price for name, one in settings.targets.items()}
    use = upkeep.Expected(settings, catalog, this, ahead.made)
    stays = list(ahead.stays.values()) + ahead.past
    return Forecast(
        whole, coming,
        tuple(usage.rows(stays, use.of(whole, now_ns), prices, whole, "target")),
        tuple(usage.rows([one for one in stays if _touches(one, coming)], use.of(coming, now_ns), prices, coming,
                         "target")),
        ahead.dumps, ahead.guessed,
    )  # fmt: skip


def _touches(stay: Stay, when: Month) -> bool:
    return stay.came_ns < when.end_ns and (stay.gone_ns is None or stay.gone_ns > when.begin_ns)


class _Ahead:
    """The state of things while nights pass. stays: by (dump, target), what is there and comes; past: what is gone
    since the month began; made: copies that will be made, for what they take of requests."""

    def __init__(self, settings: Settings, catalog: Any, now_ns: int, until_ns: int, untold: frozenset):
        self.settings, self.catalog, self.untold = settings, catalog, untold
        self.now_ns, self.until_ns = now_ns, until_ns
        month = usage.month(spending.month_of(now_ns), now_ns)
        known = spending.stays_between(catalog, month.begin_ns, now_ns)
        self.stays: Dict[Key, Stay] = {(one.dump, one.target): one for one in known if one.gone_ns is None}
        self.past = [one for one in known if one.gone_ns is not None]
        self.rows: Dict[Key, List[DumpRow]] = {}
        for key, rows in units.by_source(catalog.dumps()).items():
            rows = sorted(rows, key=lambda row: (row.counter, row.id))
            self.rows[key] = [replace(row, holding=None) if row.holding else row for row in rows]
        self.copies = wanted.copies_by_dump(catalog)
        self.held = marks.held(catalog)
        self.locked = locked.known(catalog)
        self.made: List[upkeep.Made] = []
        self.dumps = self.guessed = self.number = 0
        self.everyone = [
            one for client in settings.clients.values() if client.state != "retired" for one in client.sources.values()
        ]  # fmt: skip
        self.pasts: Dict[str, List[Past]] = {}

    def go(self) -> None:
        self._late()
        first = planning.Planner(self.settings, self.catalog, self.now_ns, self.untold)
        night, kept = first.night, first.kept
        kept = replace(kept, away=(), ended={})
        ones: Optional[Mapping[str, Any]] = None
        last = nights.night_of(self.until_ns - 1)
        step = self._step(last - night + 1)
        if kept.night == night and kept.runs:
            ones, night = _Night(self.settings, self.catalog, self.now_ns, self.untold, kept, None, {}).known(
                self.everyone), night + 1  # fmt: skip
            self._begin(ones)
        for at in range(night, last + 1):
            moment = max(self.now_ns, nights.at(at, NIGHT))
            if moment >= self.until_ns:
                break
            one = _Night(self.settings, self.catalog, moment, self.untold, kept, ones, self.pasts)
            tonight = one.plan(self.everyone)
            if ones is None:
                ones = tonight.ones
                self._begin(ones)
            kept = self._take(tonight, moment, kept)
            if (at - night) % step == step - 1 or at == last:
                self._prune(moment)

    def _begin(self, ones: Mapping[str, Any]) -> None:
        self.pasts.update({unit: list(one.past) for unit, one in ones.items()})
        self.guessed = sum(not one.habits.fulls for one in ones.values())

    def _step(self, count: int) -> int:
        """Days between two looks of retention: few sources are looked at every day."""
        return min(MOST_APART, max(1, len(self.rows) * count // LOOKS))

    def _late(self) -> None:
        """Copies of dumps that are there already and that the rules want elsewhere, too: made at once."""
        for one in wanted.due(self.settings, self.catalog, waiting=True):
            known = self.copies.get(one.dump.id, {})
            origin = wanted.origins_of(self.settings, one.dump, known, one.row.target)[:1]
            if one.row.state != "damaged":
                self._copy(one.dump, one.row.target, self.now_ns, origin[0] if origin and origin[0] != HOLDING else "")

    # a night

    def _take(self, tonight: planning.Tonight, moment: int, kept: Kept) -> Kept:
        """The dumps of a night, and what it leaves to the next."""
        done, fresh = [], {}
        for planned in tonight.planned:
            unit = unit_id(planned.client, planned.source, planned.segment)
            one, expected = tonight.ones[unit], tonight.expected[unit]
            size = expected.of(planned.level)
            if size is None:
                size = max(expected.levels.values(), default=0.0)
            fresh.setdefault(one.key, []).append(self._dump(unit, one, planned.level, planned.base, size, moment))
            done.append(Done(unit, planned.level, size, True))
            for begun in self._between(one, moment) if expected.levels else ():
                # each holds what changed since the night: half of a night's changes on average
                size = min(expected.levels.values()) / (1 if one.source.timing.own else 2)
                base = self.pasts[unit][-1].id
                fresh[one.key].append(self._dump(unit, one, planning.DEEPEST, base, size, begun, passing=True))
        for key, rows in fresh.items():
            self._stage(key, rows, moment)
        try:
            memory = remember(kept.memory, tonight.view, tonight.plan, done)
        except Exception:  # as in plan_plain: a fault here makes nights uneven, no more
            memory = Memory()
        return replace(kept, memory=memory, since={unit.id: unit.since for unit in tonight.view.units})

    def _between(self, one: Any, moment: int) -> List[int]:
        """The moments of its own schedule in the day before, but the one that the night's dump stands for."""
        if not one.source.timing.incremental:
            return []
        times = nights.parse_times(one.source.timing.incremental)
        found = list(times.between(max(self.now_ns, moment - nights.DAY_NS), moment))
        return found[:-1] if one.source.timing.own else found

    def _dump(
        self, unit: str, one: Any, level: int, base: Optional[str], size: float, begun: int, passing: bool = False
    ) -> DumpRow:  # fmt: skip
        self.number += 1
        self.dumps += 1
        key, rows = one.key, self.rows.setdefault(one.key, [])
        name = f"{clock.stamp(begun)}-L{level}-{self.number:08x}"
        run = f"{clock.stamp(begun)}-ahead"
        stored = max(1, round(size))
        counter = rows[-1].counter + 1 if rows else 1
        row = DumpRow(
            name, *key, one.segment, one.source.type, "", level, counter, begun, begun, base, None, run, "", stored,
            stored, 0, 0, None, "",
        )  # fmt: skip
        rows.append(row)
        if not passing:  # no night builds on what came between two
            past = Past(name, level, base, begun, run=run, archive=stored, stored=stored)
            self.pasts.setdefault(unit, []).append(past)
        return row

    def _stage(self, key: Key, fresh: Sequence[DumpRow], moment: int) -> None:
        source = self.settings.source(*key)
        if source is None:
            return
        names = {row.id for row in fresh}
        # no `every` looks farther back than a month; whole chains are wanted with what builds on them
        since = 0 if any(rule.self_contained for rule in source.copies) else moment - LONGEST_SPAN
        rows = [row for row in self.rows[key] if row.begun_ns >= since and row.id not in names]
        rows += [replace(row, holding="ahead") for row in fresh]
        wishes = wants.wanted(source, rows, self.copies)
        for row in fresh:
            for target in wishes[row.id]:
                if target not in self.copies.get(row.id, {}) and target in self.settings.targets:
                    self._copy(row, target, moment, "")

    def _copy(self, dump: DumpRow, target: str, moment: int, origin: str) -> None:
        """A copy that will be made. origin: the target it is read from, '' where it lies on the holding disk."""
        source = self.settings.source(dump.client, dump.source)
        parts = max(1, -(-dump.stored_size // (source.policy.part_size if source else 4 << 30)))
        self.stays[dump.id, target] = Stay(
            dump.id, target, moment, dump.client, dump.source, dump.stored_size, parts + OTHER_FILES, OTHER_FILES
        )  # fmt: skip
        self.copies.setdefault(dump.id, {})[target] = CopyRow(
            dump.id, target, "verified", {}, dump.stored_size, moment, moment
        )  # fmt: skip
        self.made.append(upkeep.Made(target, moment, dump.stored_size, parts + OTHER_FILES, origin))

    # what goes again

    def _prune(self, moment: int) -> None:
        """What retention lets go by then is gone when its grace is over."""
        if not self.settings.prune.nightly:
            return
        grace = int(self.settings.prune.grace * clock.NS)
        for key, rows in self.rows.items():
            source = self.settings.source(*key)
            if source is None or not any(rule.keep for rule in source.copies):
                continue
            copies = self._there(rows)
            until = locks.dates(rows, copies, locks.seconds_of(self.settings, key), moment)
            for place, row in self.locked.items():
                until[place] = max(row.until_ns, until.get(place, 0))
            decisions = retention.decide(
                rows, copies, rules_of(source), now_ns=moment, holds=locks.kept_by_holds(rows, self.held),
                held=any(one.kind == marks.CLIENT and one.name == key[0] for one in self.held), locks=until,
            )  # fmt: skip
            for one in decisions:
                place = (one.dump.id, one.copy.target)
                if not one.stays and place in self.stays:
                    self.past.append(replace(self.stays.pop(place), gone_ns=moment + grace))
                    self.copies[place[0]][place[1]] = replace(one.copy, state="expired", upload={}, bytes=0)
            self.rows[key] = self._left(rows)

    def _there(self, rows: Iterable[DumpRow]) -> Dict[str, Dict[str, CopyRow]]:
        found = {}
        for row in rows:
            of_it = self.copies.get(row.id, {})
            found[row.id] = {name: copy for name, copy in of_it.items() if name in self.settings.targets}
        return found

    def _left(self, rows: Sequence[DumpRow]) -> List[DumpRow]:
        """Without what is gone everywhere and nothing builds on: there may be years of it."""
        needed = {row.base for row in rows}
        return [
            row for row in rows
            if row.id in needed or not self.copies.get(row.id)
            or any(copy.state != "expired" for copy in self.copies[row.id].values())
        ]  # fmt: skip


class _Night(planning.Planner):
    """The planner of a coming night: it knows of each unit what it knew today, and the dumps that came since."""

    def __init__(
        self, settings: Settings, catalog: Any, now_ns: int, untold: frozenset, kept: Kept,
        ones: Optional[Mapping[str, Any]], pasts: Mapping[str, Sequence[Past]],
    ):  # fmt: skip
        if ones is not None:  # levels that were asked for once are tonight's
            settings = replace(settings, state=settings.state / "ahead")
        super().__init__(settings, catalog, now_ns, untold)
        self.kept = kept if ones is None else replace(kept, night=0, runs=())
        self._today, self._since = ones, pasts

    def known(self, everyone: Sequence[Source]) -> Dict[str, Any]:
        """What is known of each unit."""
        return self._ones(everyone)

    def _ones(self, everyone: Sequence[Source]) -> Dict[str, Any]:
        if self._today is None:
            return super()._ones(everyone)
        found = {}
        for unit, one in self._today.items():
            past = self._since.get(unit, ())
            stand = bases.stand(past, self.night_of, self.night)
            habits = one.habits
            if not habits.fulls and any(dump.level == 0 for dump in past):
                habits = estimates.learn([self._dumped(dump) for dump in past])
            found[unit] = replace(one, past=tuple(past), stand=stand, habits=habits)
        return found
