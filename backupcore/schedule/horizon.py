"""The load of the coming nights, and how fulls move between them until no night stands out.

Here lives the forecast: what incrementals take each night, where each full lies, the level nobody can get below, and
the repair that takes fulls out of the highest nights. Tonight is night 0 of it. Nothing here chooses tonight's dumps.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Dict, List, Sequence, Tuple

from backupcore.schedule.items import Item, there
from backupcore.schedule.levels import LONGEST, outlook
from backupcore.schedule.memory import Memory
from backupcore.schedule.records import BYTES, View
from backupcore.schedule.resources import Tracked, cap

TOLERANCE = 0.01  # of the aimed level: what is not worth a move
TONIGHT = 0.002  # the same, of tonight
LIKELY = 0.3  # a client less likely there is not counted on
_SURE = 0.93
_FEW = 48  # items of a night that are all looked at; of more only those of a fitting size
_NEAR = 6
_CHAINED = 40  # items of a night up to which chains of moves are looked for
_FAR = 0.1  # of the aimed level
_RISKY = 0.12  # of a night's share of all fulls: a full above it counts as surely coming
_HUGE = 3.0 * _RISKY  # one above that even where its client is hardly likely
_EARLY = 0.10  # what pulling a full forward costs, of its bytes and the share of a cycle

Entry = Tuple[float, int, Item]


class Horizon:
    """The coming nights. load: expected bytes; base: those without fulls; at: the fulls by night, by net size."""

    def __init__(self, view: View, seen: Memory, items: Sequence[Item], fixed: Sequence[float], nights: int) -> None:
        self.view = view
        self.nights = nights
        self.items = items
        self.at: List[List[Entry]] = [[] for _ in range(nights)]
        self.week = [seen.week[(view.weekday + k) % 7] for k in range(nights)]
        nightly = sum(item.size / item.unit.wish.cycle for item in items)
        self.risky, self.huge = _RISKY * nightly, _HUGE * nightly
        self.chance: Dict[Tuple[str, int], float] = {}
        self.base = list(fixed)
        self._incrementals()
        self.load = list(self.base)
        self.caps = [cap(view, view.night + k, BYTES) for k in range(nights)]
        self.capped = min(self.caps) < float("inf")
        self.others = Tracked(view, items, nights)
        self.mean = self.floor = self.level = 0.0  # floor: what tonight's levels aim at
        self.tops: List[float] = []
        self.unmoved: List[float] = []  # the nights' load, did each full wait for its last night
        self.moves = 0

    def _incrementals(self) -> None:
        groups: Dict[Tuple, float] = {}
        flat = 0.0
        for item in self.items:
            if item.unit.wish.strategy == "full":
                continue
            if item.flat or item.first or not item.ladder:
                flat += item.rate
            else:
                key = self._key(item, item.kept if item.kept is not None else item.due - self.view.night)
                groups[key] = groups.get(key, 0.0) + item.rate
        base, week, tonight = self.base, self.week, self.base[0]
        for k in range(self.nights):
            base[k] += flat * week[k]
        for key, rate in groups.items():
            for k, value in enumerate(outlook(*key)):
                base[k] += rate * value * week[k]
        # tonight's are known
        base[0] = tonight + sum(item.rungs[item.rung][1] for item in self.items if item.here and item.rungs)

    def _key(self, item: Item, full_in: int) -> Tuple:
        cycle = min(item.unit.wish.cycle, LONGEST)
        return (item.grid, item.ladder, item.depth, min(LONGEST, max(0, full_in)), cycle, self.nights)

    def there(self, item: Item, k: int) -> float:
        """How likely its full can be made on a night."""
        if k == 0:
            return 1.0 if item.tonight else 0.0
        if item.steady and item.days is None:
            return 1.0
        if item.days is not None:
            return there(item, k, self.view)
        key = (item.unit.client, k % 7)
        found = self.chance.get(key)
        if found is None:
            found = self.chance[key] = there(item, k, self.view)
        return found

    def shares(self, item: Item, k: int) -> Sequence[Tuple[int, float]]:
        """(night, expected net bytes) of a full planned for a night."""
        cycle = item.unit.wish.cycle
        if item.unit.wish.strategy == "full":
            return ((k, item.size),)
        if item.steady and item.days is None:
            if k + cycle >= self.nights:
                return ((k, item.net if k else item.now),)
            return [(at, item.net if at else item.now) for at in range(k, self.nights, cycle)]
        out, left = [], 1.0
        for at in range(k, min(self.nights, k + 4)):
            share = self.there(item, at)
            if at == k and item.net > self.risky and share > (0.1 if item.net > self.huge else LIKELY):
                share = 1.0
            net = item.net if at else item.now
            if share > _SURE or at == k + 3:
                out.append((at, left * net))
                break
            if share > 0.02:
                out.append((at, left * share * net))
            left *= 1 - share
        return out

    def put(self, item: Item, k: int) -> None:
        """Plans its full for a night."""
        for at, size in self.shares(item, k):
            self.load[at] += size
        if item.takes:
            self.others.add(item, k, 1)
        item.at = k
        insort(self.at[k], (item.net, item.place, item))

    def take(self, item: Item) -> None:
        """Takes its full out of the plan."""
        k = item.at
        for at, size in self.shares(item, k):
            self.load[at] -= size
        if item.takes:
            self.others.add(item, k, -1)
        row = self.at[k]
        del row[bisect_left(row, (item.net, item.place))]
        item.at = None

    def move(self, item: Item, k: int) -> None:
        """Plans its full for another night; its incrementals change with it."""
        before = item.at
        self.take(item)
        self.put(item, k)
        if not item.flat and item.ladder and not item.first:
            old, new = outlook(*self._key(item, before)), outlook(*self._key(item, k))
            rate, week = item.rate, self.week
            for at in range(1, self.nights):
                if old[at] != new[at]:
                    change = rate * week[at] * (new[at] - old[at])
                    self.load[at] += change
                    self.base[at] += change

    def aim(self) -> None:
        """Sets the level to aim at: the mean, the most that is due by a night shared by the nights up to it, the
        largest full; none can be undercut."""
        mean = sum(self.base) / self.nights
        due = [0.0] * self.nights
        biggest = 0.0
        for item in self.items:
            share = max(0.15, item.presence.share())
            mean += item.net / (item.unit.wish.cycle + min(6.0, (1 - share) / share))
            biggest = max(biggest, item.net)
            k = item.deadline - self.view.night
            if item.at is not None and k < self.nights:
                for at, size in self.shares(item, max(0, k)):
                    due[at] += size
        self.unmoved = [full + base for full, base in zip(due, self.base)]
        sofar = steepest = 0.0
        if self.capped:
            mean = _fill(mean * self.nights, self.caps)
        for k in range(self.nights):
            sofar += self.unmoved[k]
            steepest = max(steepest, _fill(sofar, self.caps[: k + 1]) if self.capped else sofar / (k + 1))
        self.mean = mean
        self.floor = max(mean, biggest + min(self.base))
        self.level = max(self.floor, steepest)
        self.tops = [min(self.level * (1 + (TOLERANCE if k else TONIGHT)), cap) for k, cap in enumerate(self.caps)]

    def give_back(self) -> None:
        """What an older plan pulled forward returns to its due night where it fits: each early night costs bytes."""
        night = self.view.night
        early = []
        for row in self.at:
            for _, place, item in row:
                k = item.deadline - night
                if item.first or item.pinned or night > item.due:
                    continue
                if item.at < k < self.nights and self.there(item, k) > 0.9:
                    early.append((-(k - item.at) * item.net, place, item))
        early.sort()
        for _, _, item in early:
            k = item.deadline - night
            if self.load[k] + item.net <= self.tops[k] and (not item.takes or self.others.fits(item, k)):
                self.move(item, k)

    def repair(self) -> None:
        """While a night is above the aim, fulls leave the worst one, or change places with smaller ones."""
        blocked = set()
        load, tops = self.load, self.tops
        budget = 4 * len(self.items) + 200
        while self.moves < budget:
            worst, k = 0.0, -1
            for at in range(self.nights):
                over = load[at] - tops[at]
                if over > worst and at not in blocked:
                    worst, k = over, at
            if k < 0:
                break
            # what is far too much is seldom mended one by one: one large full that is new, and one on every night
            chained = worst > _FAR * self.level and self._chain_one(k, 0.5 * worst, True)
            if not (chained or self._move_one(k) or self._swap_one(k) or self._chain_one(k, 0.01 * self.level, False)):
                blocked.add(k)
            self.moves += 1
        for place in range(len(self.others.names)):
            self._relieve(place)

    def _relieve(self, place: int) -> None:
        """Takes fulls out of nights that are over the limit of another resource, later ones first."""
        load, caps = self.others.loads[place], self.others.caps[place]
        for k in range(self.nights):
            row = [item for _, _, item in self.at[k] if item.takes[place] > 0]
            row.sort(key=lambda item: (item.unit.wish.priority, -item.deadline, -item.takes[place], item.place))
            for item in row:
                if load[k] <= caps[k]:
                    break
                last = min(self.nights - 1, item.deadline - self.view.night)
                fit = [
                    j
                    for j in range(0 if item.tonight else 1, last + 1)
                    if j != k and self.there(item, j) >= LIKELY and self.others.fits(item, j)
                ]
                fit = [j for j in fit if self.load[j] + item.net <= self.caps[j]]
                if fit:
                    self.move(item, min(fit, key=lambda j: (self.load[j], j)))

    def _fitting(self, row: List[Entry], size: float) -> Sequence[Entry]:
        if len(row) <= _FEW:
            return row
        place = bisect_left(row, (size,))
        return row[max(0, place - _NEAR) : place + _NEAR // 2]

    def _move_one(self, k: int) -> bool:
        load, tops, level, night = self.load, self.tops, max(self.level, 1.0), self.view.night
        here, top = load[k], tops[k]
        row = self.at[k]
        best, chosen, target = 0.0, None, -1
        few = len(row) <= _FEW
        over = here - top
        edge = over - 1e-6 * here
        for j in range(self.nights):
            room = tops[j] - load[j]
            if j == k or -room >= over:
                continue
            for net, _, item in row if few else self._fitting(row, min(over, room)):
                if net <= 0 or j > item.deadline - night or (j == 0 and not item.tonight) or item.pinned:
                    continue
                comes = net if j else item.now
                goes = net if k else item.now
                if comes - room >= edge:
                    continue
                saved = over + max(0.0, -room) - max(0.0, over - goes) - max(0.0, comes - room)
                if saved <= 0:
                    continue
                even = goes * (over - goes + room) / level
                gain = saved + 0.05 * even - _EARLY * net * max(0, k - j) / item.unit.wish.cycle
                if gain > best and self.there(item, j) >= LIKELY and (not item.takes or self.others.fits(item, j)):
                    best, chosen, target = gain, item, j
        if chosen is None:
            return False
        self.move(chosen, target)
        return True

    def _swap_one(self, k: int) -> bool:
        load, tops, night = self.load, self.tops, self.view.night
        here, top = load[k], tops[k]
        over = here - top
        best, pair = 0.002 * self.level, None
        mine = [entry for entry in self.at[k] if entry[0] > 0 and not entry[2].pinned][-_FEW:]
        for j in range(self.nights):
            gap = over + tops[j] - load[j]  # how much fuller this night is, each against its own top
            if j == k or gap <= 0:
                continue
            for net, _, item in mine:
                if night + j > item.deadline or (j == 0 and not item.tonight) or self.there(item, j) < LIKELY:
                    continue
                for small, _, other in self._fitting(self.at[j], net - gap / 2):
                    less = net - small
                    if less <= 0:
                        break
                    if less >= gap or other.pinned or night + k > other.deadline or (k == 0 and not other.tonight):
                        continue
                    saved = over - max(0.0, over - less, over - gap + less)
                    if item.takes or other.takes or saved <= best or less >= gap - 1e-6 * here:
                        continue
                    if self.there(other, k) >= LIKELY:
                        best, pair = saved, (item, j, other)
        if pair is None:
            return False
        item, j, other = pair
        self.move(item, j)
        self.move(other, k)
        return True

    def _chain_one(self, k: int, least: float, sure: bool) -> bool:
        """A full leaves for a night that is full itself, and some of that night's leave for where there is room."""
        load, tops, level = self.load, self.tops, self.level
        row = self.at[k]
        over = load[k] - tops[k]
        if len(row) > _CHAINED or over < 0.03 * level or self.others.names:
            return False
        best, found = least, None
        for net, _, item in row:
            if net <= 0 or (sure and not item.steady):
                continue
            for j in range(self.nights):
                if j == k or len(self.at[j]) > _CHAINED or not self._may(item, j):
                    continue
                excess = load[j] + net - tops[j]
                gone = max(0.0, load[j] - tops[j]) + over - max(0.0, over - net)
                paid = _EARLY * net * max(0, k - j) / item.unit.wish.cycle
                if gone - paid <= best:
                    continue
                room = [tops[i] - load[i] for i in range(self.nights)]
                room[k] += net
                away = []
                for small, _, other in reversed(self.at[j]):
                    if excess <= 0:
                        break
                    if small > excess * 1.5 + 0.01 * level:
                        continue
                    fit = [i for i in range(self.nights) if i != j and room[i] >= small and self._may(other, i)]
                    if fit:
                        i = max(fit, key=lambda i: (i >= j, -abs(i - j)))
                        room[i] -= small
                        excess -= small
                        paid += _EARLY * small * max(0, j - i) / other.unit.wish.cycle
                        away.append((other, i))
                gain = gone - max(0.0, excess) - paid
                if gain > best:
                    best, found = gain, (item, j, away)
        if found is None:
            return False
        item, j, away = found
        for other, i in away:
            self.move(other, i)
        self.move(item, j)
        return True

    def _may(self, item: Item, k: int) -> bool:
        if item.pinned or k > item.deadline - self.view.night or (k == 0 and not item.tonight):
            return False
        return self.there(item, k) >= LIKELY


def _fill(volume: float, caps: Sequence[float]) -> float:
    """How high nights with these caps must be filled to hold a volume; without end when they cannot."""
    if sum(caps) <= volume:
        return volume / len(caps)
    level, left, count = 0.0, volume, len(caps)
    for cap_now in sorted(caps):
        level = left / count
        if cap_now >= level:
            break
        left -= cap_now
        count -= 1
    return level
