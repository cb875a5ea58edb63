"""Amanda's planner, to compare with: what its planner.c decides, from a reading of it, in our records.

Here lives a yardstick of the simulator; no night is planned by it. What looks odd in Amanda is kept and marked QUIRK.
Settings as in the comparison: bumpsize 20 MiB, bumpdays 1, bumpmult 2, no compression; only the standard strategy, no
forced dumps. One difference is meant: Amanda 3 has 400 levels, here there are the levels that the scenario allows,
since its result would be illegal otherwise. It knows no longest chain and no grace: both are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from .records import BYTES, Choice, Done, GivenUp, Plan, Unit, View

PROMOTE_THRESHOLD = 0.05
BLOCK, MARK = 32.0, 1.0  # KiB that each dump takes beside its bytes
BUMP_SIZE, BUMP_DAYS, BUMP_FACTOR = 20480, 1, 2  # KiB, days, a level
NEVER = -(10**6)  # QUIRK: a new disk counts as overdue since the epoch, so it comes before all others
UNLIMITED = 1e18


@dataclass(frozen=True)
class Disk:
    """What Amanda keeps of a disk. dumps: level -> (night, KiB). days: dumps in a row at the last level."""

    last_level: int = -1
    days: int = 0
    dumps: Mapping[int, Tuple[int, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Memory:
    """All disks."""

    disks: Mapping[str, Disk] = field(default_factory=dict)


def remember(memory: Memory, view: View, plan: Plan, done: Sequence[Done]) -> Memory:
    """The memory after a night."""
    disks = dict(memory.disks)
    for one in done:
        if one.ok:
            disk = disks.get(one.unit, Disk())
            dumps = {level: dump for level, dump in disk.dumps.items() if level < one.level}
            dumps[one.level] = (view.night, one.bytes / 1024)
            days = disk.days + 1 if one.level == disk.last_level else 1
            disks[one.unit] = Disk(one.level, days, dumps)
    return Memory(disks)


def plan(view: View, memory: Memory) -> Plan:
    """Tonight as Amanda does it: due fulls, levels by size, delays under a limit, fulls promoted to balance."""
    cycle = max((unit.wish.cycle for unit in view.units), default=1)
    limit = view.limits.get(BYTES)
    night = _Night(cycle, UNLIMITED if limit is None else limit.amount / 1024)
    for unit in view.units:
        if unit.reachable:
            night.take(_Dump(unit, memory.disks.get(unit.id, Disk()), view.night))
    night.sort()
    night.delay()
    night.promote()
    choices = tuple(
        Choice(dump.unit.id, dump.level, dump.size * 1024, dump.why, due=view.night + max(dump.next_full, 0))
        for dump in night.dumps
    )
    absent = tuple(unit.id for unit in view.units if not unit.reachable)
    return Plan(view.night, choices, tuple(night.given_up), absent, ())


class _Dump:
    """A disk tonight: its estimates in KiB (at most three are asked for), its level."""

    def __init__(self, unit: Unit, disk: Disk, night: int):
        self.unit, self.disk = unit, disk
        self.cycle = unit.wish.cycle
        self.last = disk.last_level
        self.next_full = self.cycle - (night - disk.dumps[0][0]) if 0 in disk.dumps else NEVER
        self.priority = unit.wish.priority + max(0, -self.next_full)  # overdue: one more a day
        self.sizes = {0: (unit.full or 0.0) / 1024}
        if self.last == 0:
            self._ask(1)
        elif self.last > 0:
            self._ask(self.last)
            size = disk.dumps[self.last][1] if self.last in disk.dumps else 0
            if size == 0 or (size > _bump(self.last) and disk.days >= BUMP_DAYS):
                self._ask(self.last + 1)
        self.level = self.fallback = -1
        self.promotion = 0
        self.why = "due" if self.next_full <= 0 else "incremental"

    def _ask(self, level: int) -> None:
        size = self.unit.levels.get(level)
        if size is not None and level <= self.unit.wish.max_level:
            self.sizes[level] = size / 1024

    def at(self, level: int) -> float:
        """The estimate of a level, -1 if there is none."""
        return self.sizes.get(level, -1)

    @property
    def size(self) -> float:
        return self.at(self.level)

    @property
    def last_full(self) -> int:
        return self.disk.dumps[0][0] if 0 in self.disk.dumps else -1

    def incremental_level(self) -> int:
        """One deeper only if the last level would be larger than a threshold, and deeper saves as much."""
        if self.last == 0:
            return 1
        now = self.at(self.last)
        if now == -1:
            return self.last + 1 if self.at(self.last + 1) > 0 else self.last
        threshold = _bump(self.last) if self.last > 0 else 0
        if self.disk.days < BUMP_DAYS or now <= threshold:
            return self.last
        deeper = self.at(self.last + 1)
        return self.last if deeper == -1 or now - deeper < threshold else self.last + 1


def _bump(level: int) -> float:
    """What a deeper level must save, in KiB; doubles with each level."""
    return float(BUMP_SIZE) * BUMP_FACTOR ** (level - 1)


class _Night:
    """The schedule as it grows: dumps in their order, their sum, the fulls among them, the ideal night of fulls."""

    def __init__(self, cycle: int, tape: float):
        self.cycle, self.tape = cycle, tape
        self.dumps: List[_Dump] = []
        self.total = 2 * (BLOCK + MARK)
        self.fulls = self.balanced = 0.0
        self.given_up: List[GivenUp] = []

    def take(self, dump: _Dump) -> None:
        """A full if it is due, else an incremental, else what there is an estimate for."""
        if dump.next_full <= 0 and dump.at(0) > 0:
            dump.level = 0
            self.fulls += dump.at(0)
            if dump.last != -1:
                dump.fallback = dump.incremental_level()
                if dump.at(dump.fallback) <= 0:
                    dump.fallback = -1
        else:
            dump.level = dump.incremental_level()
            for level in (dump.last, dump.last + 1, 0):
                if dump.size > 0:
                    break
                dump.level = level
        if dump.size <= 0:
            self.given_up.append(GivenUp(dump.unit.id, "incremental", "no estimate"))
            return
        self.total += BLOCK + dump.size + MARK
        if dump.cycle != self.cycle:
            self.balanced += dump.at(0) * (self.cycle // dump.cycle) / self.cycle  # QUIRK: whole division
        else:
            self.balanced += dump.at(0) / self.cycle
        self.dumps.append(dump)

    def sort(self) -> None:
        self.dumps.sort(key=lambda dump: (-dump.priority, -dump.size))

    def delay(self) -> None:
        """Under a limit: fulls become incrementals, then incrementals are dropped; what fits then comes back."""
        put_off: List[Tuple[_Dump, bool, int, float, str]] = []

        def drop(dump: _Dump, wholly: bool, why: str) -> None:
            put_off.append((dump, wholly, dump.level, dump.size, why))
            self.total -= BLOCK + dump.size + MARK
            if dump.level == 0:
                self.fulls -= dump.size
            if wholly:
                self.dumps.remove(dump)
            else:
                dump.level = dump.fallback
                self.total += BLOCK + dump.size + MARK

        for dump in list(self.dumps):
            if dump.size > self.tape:
                degrades = dump.level == 0 and dump.last >= 0 and 0 <= dump.at(dump.fallback) <= self.tape
                drop(dump, not degrades, "larger than the limit")
        fulls = [dump for dump in self.dumps if dump.level == 0]
        keep = max(fulls, key=lambda dump: (dump.priority, -dump.last_full), default=None)  # one full always stays
        while self.total > self.tape:
            # QUIRK: the victim is the full whose last full is the newest, whatever its priority; a new disk never is
            victim: Optional[_Dump] = None
            newest = 0
            for dump in reversed(self.dumps):
                if dump.level == 0 and dump is not keep and dump.last_full > newest:
                    victim, newest = dump, dump.last_full
            if victim is None:
                break
            drop(victim, victim.last < 0 or victim.fallback < 0, "all together larger than the limit")
        for dump in list(reversed(self.dumps)):  # lowest priority, smallest first
            if self.total > self.tape and dump.level != 0:
                drop(dump, True, "all together far larger than the limit")
        self._back(put_off)

    def _back(self, put_off: List[Tuple[_Dump, bool, int, float, str]]) -> None:
        for entry in list(reversed(put_off)):
            dump, wholly, level, size, _ = entry
            total = self.total + BLOCK + size + MARK if wholly else self.total - dump.size + size
            if total > self.tape or size >= self.tape:
                continue
            self.total = total
            put_off.remove(entry)
            if wholly:
                self.fulls += size if level == 0 else 0
                self.dumps.append(dump)
                self.sort()
            else:
                dump.level = level  # QUIRK: this full is not counted among tonight's fulls again
        for dump, wholly, level, _, why in put_off:
            self.given_up.append(GivenUp(dump.unit.id, "incremental" if wholly and level else "full", why))

    def promote(self) -> None:
        """Pulls fulls forward until tonight's fulls are within 5 % of the ideal night, a host's fulls spread."""
        slack = self.balanced * PROMOTE_THRESHOLD
        while self.balanced - self.fulls > slack:
            best = self._best(slack)
            if best is None:
                break
            self._pull(best, "promoted")
        if self.fulls <= 0:
            self._level_hills()

    def _best(self, slack: float) -> Optional[_Dump]:
        fulls = sum(dump.level == 0 for dump in self.dumps)
        due: Dict[int, int] = {}
        host_fulls: Dict[str, int] = {}
        host_due: Dict[Tuple[str, int], int] = {}
        for dump in self.dumps:
            host = dump.unit.client
            if dump.level == 0:
                host_fulls[host] = host_fulls.get(host, 0) + 1
            else:
                due[dump.next_full] = due.get(dump.next_full, 0) + 1
                host_due[host, dump.next_full] = host_due.get((host, dump.next_full), 0) + 1
        best: Optional[_Dump] = None
        for dump in self.dumps:
            if dump.at(0) <= 0 or dump.next_full <= 0 or not self._fits(dump):
                continue
            if self.fulls + dump.at(0) > self.balanced + slack and fulls > 0:
                continue
            if due.get(dump.next_full, 0) == 1 and fulls == 0:
                continue
            mine = host_fulls.get(dump.unit.client, 0)
            same = host_due.get((dump.unit.client, dump.next_full), 0)
            if mine == 0 and same > 1:
                same += 1
            spread = (same - mine**2) ** 2 if same >= mine**2 else -(mine**2)
            dump.promotion = spread + self.cycle - dump.next_full
            if best is None or best.promotion < dump.promotion:
                best = dump
        return best

    def _level_hills(self) -> None:
        """Only when there is no full at all tonight: one of the night that will be the heaviest."""
        hills: Dict[int, Tuple[int, float]] = {}
        for dump in self.dumps:
            ahead = max(dump.next_full, 0)
            if ahead < self.cycle:
                count, size = hills.get(ahead, (0, 0.0))
                known = dump.disk.dumps[0][1] if 0 in dump.disk.dumps else 0
                hills[ahead] = (count + 1, size + known)
        while True:
            high = [ahead for ahead, (count, size) in hills.items() if count > 1 and size > 0]
            if not high:
                return
            heaviest = max(high, key=lambda ahead: hills[ahead][1])
            for dump in self.dumps:
                if dump.next_full == heaviest and dump.at(0) > 0 and self._fits(dump):
                    self._pull(dump, "promoted from a hill")
                    return
            del hills[heaviest]

    def _fits(self, dump: _Dump) -> bool:
        return self.total - dump.size + dump.at(0) <= self.tape

    def _pull(self, dump: _Dump, why: str) -> None:
        self.total += dump.at(0) - dump.size
        self.fulls += dump.at(0)
        dump.fallback, dump.level, dump.next_full, dump.why = dump.level, 0, 0, why
