"""The queue of a run: which dump begins next, and whether one may begin at all now.

Here live the limits of how many at once (in all, of a client, of a spindle, of a network), start times, the order, and
what becomes of slots that slow dumps hold. What a night may take is budget.py, when what failed is tried again
again.py, room on the holding disks space.py; threads and results are driver.py's. Nothing here has a thread. Call all
of it under one lock.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable, Dict, FrozenSet, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .. import clock
from ..errors import ClientUnreachable, LineLost, StowageError
from ..schedule.bases import Planned
from ..settings import Client, Settings
from .again import Again, Patience, Try
from .budget import Budget, Key, key_of

SLOW = 1_000_000.0  # bytes a second below which a dump takes so little of this server that another may begin beside it
WINDOW = 10.0  # seconds over which that is measured
FULL = 0.8  # a network of whose rate so much is used gains nothing by one more dump
_NONE = frozenset({""})  # of networks: all
MOVING = ("connecting", "dumping")  # phases in which a dump is as fast as its client and the line are


class Turn(NamedTuple):
    """The dump to begin now; else None and after how many seconds to ask again, None: when something has changed."""

    planned: Optional[Planned]
    wait: Optional[float] = None


@dataclass
class _AtWork:
    planned: Planned
    network: str
    begun: float
    since: float  # of what is being measured
    bytes: int = 0
    at_since: int = 0
    rate: Optional[float] = None  # bytes a second of late; None: not known, or not the client's affair
    phase: str = "connecting"


class Admission:
    """The dumps of a run that have not begun, and those at work. ranks: of each dump, as Asker.rank."""

    def __init__(
        self,
        settings: Settings,
        planned: Sequence[Planned],
        ranks: Mapping[Key, Tuple[int, int]],
        budget: Optional[Budget] = None,
        patience: Patience = Patience(),
        now_ns: Callable[[], int] = lambda: clock.now_ns(),
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._settings, self._ranks, self._budget = settings, ranks, budget
        self._now_ns, self._monotonic = now_ns, monotonic
        self.again = Again(settings.clients, patience)
        self.waiting = list(planned)
        self._at_work: Dict[Key, _AtWork] = {}
        self._later: List[Planned] = []  # to be made once more, after the others
        self._left: Dict[str, float] = {}  # of each client, seconds that what waits is expected to take
        for one in planned:
            self._left[one.client] = self._left.get(one.client, 0.0) + one.seconds

    def is_over(self) -> bool:
        """Whether nothing is left to begin."""
        return not self.waiting and not self._later

    def next(self) -> Turn:
        """What is to be done now. A dump that is handed out is at work."""
        while not self.is_over():
            now_ns, now = self._now_ns(), self._monotonic()
            self._measure(now)
            slots = self._slots()
            if slots is _NONE:  # most often: nothing else need be looked at
                return Turn(None, WINDOW / 2)
            if not self._at_work and all(self.again.of(one) is not None for one in self.waiting):
                if self._later:
                    self._enter(self._later.pop(0), last=True)
                else:
                    self.again.nothing_else(self.waiting, now)
            may = [one for one in self.waiting if one.not_before_ns <= now_ns]
            if self.again:
                may = [one for one in may if self._may_try(one, now)]
                hopeless = next((one for one in may if self.again.verdict(one) is not None), None)
                if hopeless is not None:  # it takes nothing but to be told
                    return self._begin(hopeless, hopeless, now)
            free = self._free(may)
            able = [one for one in free if self._network(one) not in slots] if slots else free
            first = min(able, key=self._order(), default=None)
            if first is None:
                return Turn(None, self._wait(may, free, now_ns, now))
            if self._budget is None:
                return self._begin(first, first, now)
            one, left = self._budget.settle(first, self._claimants(first), now_ns)
            if one is not None:
                return self._begin(first, one, now)
            if not left:
                return Turn(None, self._wait(may, free, now_ns, now))
            self._leave(first)
        return Turn(None)

    def put_back(self, one: Planned) -> None:
        """A dump is to be begun again, when its turn comes."""
        self._enter(one)

    def put_last(self, one: Planned) -> None:
        """A dump is to be begun again when all others are through."""
        self._later.append(one)

    def _enter(self, one: Planned, last: bool = False) -> None:
        self.waiting.insert(len(self.waiting) if last else 0, one)
        self._left[one.client] = self._left.get(one.client, 0.0) + one.seconds

    def _leave(self, one: Planned) -> None:
        self.waiting.remove(one)
        self._left[one.client] -= one.seconds

    def moved(self, one: Planned, phase: str, count: int) -> None:
        """So many bytes of a dump came."""
        mine = self._at_work.get(key_of(one))
        if mine is None:
            return
        if phase not in MOVING or mine.phase not in MOVING:  # what it waits for here says nothing of its client
            mine.since, mine.at_since, mine.rate = self._monotonic(), count, None
        if phase in ("dumping", "finishing"):
            self.again.reached(one.client)
        mine.phase, mine.bytes = phase, count

    def failed(self, one: Planned, error: StowageError, reached: bool) -> Optional[Try]:
        """A dump at work failed; reached: its client had answered. It is put back, or that is final (None)."""
        now = self._monotonic()
        mine = self._at_work[key_of(one)]
        lost = isinstance(error, (LineLost, ClientUnreachable))
        came = mine.bytes if lost else 0  # of what else fails nothing is gone on with
        found = self.again.failed(one, error, reached, came, now, now - mine.begun)
        if found is not None and self._is_all_there_is(one) and self.again.is_out_of_patience(one, now):
            found.over = True  # next() would find that, and nobody need hear of another try
        if found is None or found.over:
            return None
        self.put_back(one)
        return found

    def ended(self, one: Planned) -> None:
        """A dump is at work no longer."""
        del self._at_work[key_of(one)]

    def _is_all_there_is(self, one: Planned) -> bool:
        """Whether nothing but this dump is at work or to be begun, besides what only waits for another try."""
        others = any(key != key_of(one) for key in self._at_work)
        return not others and not self._later and all(self.again.of(each) is not None for each in self.waiting)

    # whether one may begin

    def _may_try(self, one: Planned, now: float) -> bool:
        found = self.again.of(one)
        return found is None or found.over or found.next <= now

    def _client(self, one: Planned) -> Optional[Client]:
        return self._settings.clients.get(one.client)

    def _network(self, one: Planned) -> str:
        client = self._client(one)
        return client.network if client is not None else ""

    def _free(self, may: Sequence[Planned]) -> List[Planned]:
        """Those of them that have what they need besides a slot: source, spindle, client, network."""
        at_work: Dict[str, List[Planned]] = {}
        on: Dict[str, int] = {}
        for each in self._at_work.values():
            at_work.setdefault(each.planned.client, []).append(each.planned)
            on[each.network] = on.get(each.network, 0) + 1
        full = {name for name, one in self._settings.networks.items() if one.dumps and on.get(name, 0) >= one.dumps}
        return [
            one for one in may
            if (one.client not in at_work or self._is_free_beside(one, at_work[one.client]))
            and not (full and self._network(one) in full)
        ]  # fmt: skip

    def _is_free_beside(self, one: Planned, mine: Sequence[Planned]) -> bool:
        """Whether one may begin beside those of its client that are at work."""
        client = self._client(one)
        if client is None:
            return True
        if any(each.source == one.source for each in mine):  # scripts around a dump must not meet themselves
            return False
        if len(mine) >= client.dumps_at_once:
            return False
        if self.again.of(one) is not None:  # one asks whether the client is back
            return False
        spindle = _spindle(client, one)
        return not (spindle and any(_spindle(client, each) == spindle for each in mine))

    def _slots(self) -> FrozenSet[str]:
        """The networks whose dumps have no slot now; _NONE: no dump has one.

        A dump that is slow holds none while another could use it, up to as many besides as there are slots: what a
        dump takes of memory is small and bounded, and so is their number.
        """
        at_once, count = self._settings.dumps_at_once, len(self._at_work)
        if count < at_once:
            return frozenset()
        slow = sum(self._is_slow(each) for each in self._at_work.values())
        if count - min(slow, at_once) >= at_once:
            return _NONE
        return frozenset(name for name in self._settings.networks if self._is_full(name))

    def _is_slow(self, each: _AtWork) -> bool:
        return each.rate is not None and (each.rate < SLOW or self._is_full(each.network))

    def _is_full(self, name: str) -> bool:
        """Whether the dumps of a network use up its rate."""
        network = self._settings.networks.get(name)
        rate = network.rate.at(self._now_ns()) if network is not None and network.rate is not None else None
        if rate is None:
            return False
        return sum(each.rate or 0.0 for each in self._at_work.values() if each.network == name) >= FULL * rate

    def _shares(self, name: str) -> bool:
        """Whether one more dump of a network would take from those at work."""
        rated = self._settings.networks[name].rate is not None
        return rated and any(each.network == name for each in self._at_work.values())

    def _claimants(self, first: Planned) -> Sequence[Planned]:
        """For which dumps the night's limits keep room: not for those that wait for another try, once nothing else is
        at work. Nobody knows whether their clients come back, and others would be given up for them."""
        if self._at_work:
            return self.waiting
        return [one for one in self.waiting if one is first or self.again.of(one) is None]

    def _measure(self, now: float) -> None:
        for each in self._at_work.values():
            if each.phase in MOVING and now - each.since >= WINDOW:
                each.rate = max(0, each.bytes - each.at_since) / (now - each.since)
                each.since, each.at_since = now, each.bytes

    # which one, and when

    def _order(self) -> Callable[[Planned], Tuple]:
        """Sort key of what could begin; of equals the first of the queue, which is in the order of the plan.

        By the priority that was asked for; where the night has limits what matters most comes first, else what takes
        longest until it is through: a dump itself, or all that its client still has to do.
        """
        counts: Dict[str, int] = {}
        for each in self._at_work.values():
            counts[each.planned.client] = counts.get(each.planned.client, 0) + 1
        beside = len(self._at_work) >= self._settings.dumps_at_once  # a slow one: better on another line
        full = {name for name in self._settings.networks if self._is_full(name) or beside and self._shares(name)}

        def place(one: Planned) -> Tuple:
            wish = self._ranks.get(key_of(one), (0, 0))[0]
            if self._budget is not None:
                return self._budget.order(one), wish, counts.get(one.client, 0)
            client = self._client(one)
            at_once = client.dumps_at_once if client is not None else 1
            longest = max(one.seconds, self._left[one.client] / at_once)
            return wish, bool(full) and self._network(one) in full, -longest, counts.get(one.client, 0)

        return place

    def _begin(self, first: Planned, one: Planned, now: float) -> Turn:
        self._leave(first)
        self._at_work[key_of(one)] = _AtWork(one, self._network(one), now, now)
        if self._budget is not None:
            self._budget.begin(one)
        return Turn(one)

    def _wait(self, may: Sequence[Planned], free: Sequence[Planned], now_ns: int, now: float) -> Optional[float]:
        """Seconds after which something may begin though nothing else changes."""
        waits = [(one.not_before_ns - now_ns) / clock.NS for one in self.waiting if one.not_before_ns > now_ns]
        if self.again:
            waits += [self.again.wait(one, now) for one in self.waiting if not self._may_try(one, now)]
        if free:  # a slow dump may be found
            waits.append(WINDOW / 2)
        return min((wait for wait in waits if wait > 0), default=None)


def _spindle(client: Client, one: Planned) -> str:
    source = client.sources.get(one.source)
    return source.spindle if source is not None else ""
