"""How fast and how long: a smoothed rate, the end of one dump, the end of all of them.

Here live pure functions of a clock that is handed in. What nobody can know is None: a guess that looks like knowledge
is worse than none.
"""

from __future__ import annotations

import heapq
import math
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

SMOOTH = 20.0  # seconds: what is older counts for a third
ENOUGH = 3.0  # seconds that a rate must have been watched for
NOTHING: Mapping[str, int] = {}


class Rate:
    """Bytes a second, smoothed. feed() it with a count that grows."""

    def __init__(self) -> None:
        self._at: Optional[float] = None
        self._count = 0
        self._sum = self._weight = self._watched = 0.0

    def feed(self, count: int, now: float) -> None:
        """So many bytes by now. A count that fell begins anew: it is another try."""
        if self._at is None or count < self._count:
            self._sum = self._weight = self._watched = 0.0
            self._at, self._count = now, count
            return
        took = now - self._at
        if took <= 0:
            return
        keep = math.exp(-took / SMOOTH)
        self._sum = self._sum * keep + (count - self._count) / took * (1 - keep)
        self._weight = self._weight * keep + (1 - keep)  # what the first seconds lack is not taken for standing still
        self._watched += took
        self._at, self._count = now, count

    @property
    def value(self) -> Optional[float]:
        """None as long as it was not watched for long enough."""
        return self._sum / self._weight if self._watched >= ENOUGH else None


class Todo(NamedTuple):
    """A dump that is to come. bytes, seconds: expected, None where nobody knows. level: the planned one. copies: so
    many are made of it in this run. network: the line it comes over."""

    client: str
    source: str
    level: int
    bytes: Optional[int] = None
    seconds: Optional[float] = None
    not_before_ns: int = 0
    copies: int = 0
    network: str = ""


class AtWork(NamedTuple):
    """A dump at work. left: seconds, None where nobody knows."""

    client: str
    left: Optional[float]


class Coming(NamedTuple):
    """A dump that is not whole. size: expected, None where nobody knows; came: what is here of it; copies, network: as
    of Todo."""

    size: Optional[int]
    came: int = 0
    copies: int = 0
    network: str = ""


def left(
    count: int, total: Optional[int], rate: Optional[float], seconds: Optional[float], took: float
) -> Optional[float]:  # fmt: skip
    """Seconds until a dump or copy ends: by its bytes and its rate, else by how long it takes as a rule."""
    if total and rate and count and count < total:
        return (total - count) / rate
    if seconds is not None and took < seconds and not (total and count >= total):
        return seconds - took
    return None


def ends(
    at_work: Sequence[AtWork], todo: Sequence[Todo], at_once: int, each: int, now_ns: int,
    own: Mapping[str, int] = NOTHING,
) -> Tuple[float, int]:  # fmt: skip
    """(seconds until all are through, how many of them nobody knows the time of: then it takes at least so long).

    at_once: dumps side by side; each: of one client at most, own: of those that say so themselves. As the driver does:
    in order, what may begin begins.
    """
    unknown = 0
    clients: Dict[str, List[float]] = {}
    slots: List[float] = []
    for one in at_work:
        unknown += one.left is None
        end = one.left or 0.0
        slots.append(end)
        clients.setdefault(one.client, []).append(end)
    slots += [0.0] * max(0, at_once - len(slots))
    heapq.heapify(slots)
    last = max(slots, default=0.0)
    for one in todo:
        seconds = one.seconds
        if seconds is None:
            unknown += 1
            seconds = 0.0
        mine = clients.setdefault(one.client, [])
        most = own.get(one.client, each)
        busy = sorted(mine)[-most] if len(mine) >= most else 0.0
        opens = max(0.0, (one.not_before_ns - now_ns) / 1e9)
        end = max(heapq.heappop(slots), busy, opens) + seconds
        heapq.heappush(slots, end)
        mine.append(end)
        last = max(last, end)
    return last, unknown


def over_lines(coming: Sequence[Coming], rates: Mapping[str, float]) -> float:
    """Seconds that the lines need at least for what is known of it. rates: network -> bytes a second."""
    left = dict.fromkeys(rates, 0)
    for one in coming:
        if one.network in left:
            left[one.network] += max(0, (one.size or 0) - one.came)
    return max((count / rates[name] for name, count in left.items() if rates[name] > 0), default=0.0)


def with_copies(
    ends_in: float, unknown: int, coming: Sequence[Coming], left: int, rate: Optional[float]
) -> Tuple[float, int]:  # fmt: skip
    """(seconds until all dumps and their copies are through, how many nobody knows the time of).

    ends_in, unknown: of the dumps. left: bytes of copies of what is whole; rate: of all copies together, while some are
    at work, None: not known.
    """
    wanted = [one for one in coming if one.copies]
    if not wanted and not left:
        return ends_in, unknown
    unknown += sum(one.size is None for one in wanted)
    if not rate:
        return ends_in, unknown + 1
    later = sum((one.size or 0) * one.copies for one in wanted)
    # the copies of the last dump begin when it is whole; which one that is, nobody knows
    last = later / len(wanted) / rate if wanted else 0.0
    return max((left + later) / rate, ends_in + last), unknown
