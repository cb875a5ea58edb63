"""The choice of a drill and its reckoning: pure functions.

Here live whose turn it is, which lines of an index are looked at, and what a whole restore would take by what drills
and restores measured. What is drilled and how: app/drilling.py.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from ..catalog.drills import PROVEN, Drilled
from ..settings import Price

BIG = 1 << 20  # from so many bytes on a measurement says how fast a place is
KEPT = 10  # measurements of a place that count, the newest
SCALE = 4  # how much larger than the largest measurement a small restore may be, to be told by small ones
RANGE = 16 << 20  # bytes of one request, as restore.fetch joins them
SMALL_FILES = 4  # requests of a dump besides its parts: manifest, signature, frame table, keys
RETRY = 0.5  # of the turns go to what failed last time, at most


@dataclass(frozen=True)
class Last:
    """When a client was last tried, and whether it was proven then."""

    when_ns: int
    ok: bool


def last_tries(results: Iterable[Drilled]) -> Dict[str, Last]:
    """Client -> its last try, from results oldest first; one bad source of a try makes it a bad one."""
    found: Dict[str, Last] = {}
    for one in results:
        known = found.get(one.client)
        same = known is not None and known.when_ns == one.when_ns
        ok = one.status == PROVEN and (not same or known.ok)
        found[one.client] = Last(one.when_ns, ok)
    return found


def turns(names: Iterable[str], last: Mapping[str, Last], count: int, dice: random.Random) -> List[str]:
    """Whose turn it is: who waited longest, by lot among equals; half of the turns at most go to who failed last.

    A client that always fails must not keep the others from being proven.
    """
    waiting = sorted(names)
    dice.shuffle(waiting)
    waiting.sort(key=lambda name: last[name].when_ns if name in last else 0)
    bad = [name for name in waiting if name in last and not last[name].ok]
    first = bad[: int(count * RETRY)]
    return (first + [name for name in waiting if name not in first])[:count]


def lines(entries: Mapping[str, int], count: int, dice: random.Random) -> Dict[str, List[int]]:
    """dump -> line numbers of its index, count in all, each line of all as likely as the others, ascending."""
    total = sum(entries.values())
    drawn = dice.sample(range(total), min(count, total))
    found: Dict[str, List[int]] = {}
    at = 0
    for dump, size in entries.items():
        mine = sorted(number - at for number in drawn if at <= number < at + size)
        if mine:
            found[dump] = mine
        at += size
    return found


@dataclass(frozen=True)
class Measure:
    """What one restore or drill read from one place."""

    place: str
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Speed:
    """Of one place. setup: seconds that a restore takes however small it is. rate: bytes a second; None: not known.

    reach: so many bytes the rate can be believed for.
    """

    setup: float
    rate: Optional[float]
    reach: float = float("inf")

    def seconds(self, size: int, sources: int) -> Optional[float]:
        """How long so many bytes of so many sources take; None when nobody knows."""
        if self.rate is None or size > self.reach:
            return None
        return self.setup * sources + size / self.rate


def speed(measures: Sequence[Measure]) -> Speed:
    """The speed of one place by its measurements, oldest first.

    Small ones say what a restore costs besides its bytes, large ones how fast the bytes come. Of a place of which only
    small ones are known, small restores can be told, with all their time taken for that of their bytes.
    """
    usable = [one for one in measures if one.bytes > 0 and one.seconds > 0]
    small = [one for one in usable if one.bytes < BIG][-KEPT:]
    big = [one for one in usable if one.bytes >= BIG][-KEPT:]
    setup = min(one.seconds for one in small) if small else 0.0
    if big:
        # however long the setup takes elsewhere, a quarter of the time was that of the bytes
        spent = sum(max(one.seconds - setup, one.seconds / 4) for one in big)
        return Speed(setup, sum(one.bytes for one in big) / spent)
    if small:
        largest = max(one.bytes for one in small)
        rate = sum(one.bytes for one in small) / sum(one.seconds for one in small)
        return Speed(setup, rate, largest * SCALE)
    return Speed(0.0, None)


@dataclass(frozen=True)
class Load:
    """What a restore of one source would read: from where, how many bytes of how many dumps."""

    source: str
    place: str
    bytes: int
    dumps: int


@dataclass(frozen=True)
class Estimate:
    """What a restore of all of a client would take. seconds: None: nobody knows. money: by currency, where priced."""

    bytes: int
    seconds: Optional[float]
    money: Mapping[str, float] = field(default_factory=dict)
    places: Tuple[str, ...] = ()
    requests: int = 0

    def as_dict(self) -> Dict[str, Any]:
        """JSON-ready."""
        return {
            "bytes": self.bytes, "seconds": None if self.seconds is None else round(self.seconds, 1),
            "money": {name: round(amount, 6) for name, amount in self.money.items()}, "places": list(self.places),
            "requests": self.requests,
        }  # fmt: skip


def estimate(loads: Sequence[Load], speeds: Mapping[str, Speed], prices: Mapping[str, Optional[Price]]) -> Estimate:
    """What the loads of one client take, one after the other."""
    seconds: Optional[float] = 0.0
    amounts: Dict[str, float] = {}
    requests = 0
    for place in dict.fromkeys(load.place for load in loads):
        mine = [load for load in loads if load.place == place]
        size = sum(load.bytes for load in mine)
        asked = sum(load.dumps * SMALL_FILES + -(-load.bytes // RANGE) for load in mine)
        requests += asked
        took = speeds.get(place, Speed(0.0, None)).seconds(size, len(mine))
        seconds = None if seconds is None or took is None else seconds + took
        price = prices.get(place)
        if price is not None:
            amounts[price.currency] = amounts.get(price.currency, 0.0) + cost(price, size, asked)
    places = tuple(dict.fromkeys(load.place for load in loads))
    return Estimate(sum(load.bytes for load in loads), seconds if loads else None, amounts, places, requests)


def cost(price: Price, size: int, requests: int) -> float:
    """What reading so much costs, in the price's currency."""
    return size / price.gb * price.read_gb + requests / 1000 * price.request_1000


def missing(expected: Mapping[str, bytes], told: Any, cut: int) -> List[bytes]:
    """The paths whose content the agent did not find again, of hex SHA-256 -> path; cut: so many digests it tells."""
    if not isinstance(told, list):
        return sorted(expected.values())
    found = {one for one in told if isinstance(one, str)}
    return [] if len(told) >= cut else sorted(path for digest, path in expected.items() if digest not in found)


