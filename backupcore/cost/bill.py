"""What a month of a target costs: pure reckoning with a price and amounts.

Here live Amounts, what was used, and Bill, what it costs. Storage is billed by the mean over the month, as providers
do: a GB that lay there for half of it is half a GB. Where the amounts come from is usage.py.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Iterable, Optional, Tuple

from ..hookspecs import Spent
from ..settings import Price

Tiers = Tuple[Tuple[Optional[float], float], ...]


@dataclass(frozen=True)
class Amounts:
    """Of one month. held: mean bytes; padding: mean bytes that a least size of objects adds; objects: mean number;
    early: mean bytes of what is billed on though it went before its least time."""

    held: float = 0.0
    padding: float = 0.0
    objects: float = 0.0
    early: float = 0.0
    spent: Spent = Spent()

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(
            self.held + other.held, self.padding + other.padding, self.objects + other.objects,
            self.early + other.early, together((self.spent, other.spent)),
        )  # fmt: skip


@dataclass(frozen=True)
class Bill:
    """In the price's currency. early: what went before its least time; read: egress and retrieval; woken: from an
    archive."""

    storage: float = 0.0
    early: float = 0.0
    requests: float = 0.0
    read: float = 0.0
    woken: float = 0.0

    @property
    def total(self) -> float:
        return self.storage + self.early + self.requests + self.read + self.woken

    def __add__(self, other: "Bill") -> "Bill":
        return Bill(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(Bill)))


def together(every: Iterable[Spent]) -> Spent:
    """The sum."""
    rows = list(every)
    return Spent(*(sum(getattr(row, one.name) for row in rows) for one in fields(Spent)))


def times(spent: Spent, share: float) -> Spent:
    """A share of it, in whole numbers."""
    return replace(spent, **{one.name: round(getattr(spent, one.name) * share) for one in fields(Spent)})


def tiered(amount: float, tiers: Tiers, begin: float = 0.0) -> float:
    """What so much costs where its first bit is the begin-th of the month; tiers: (up to, each), the last to None."""
    cost, low, end = 0.0, 0.0, begin + amount
    for up_to, each in tiers:
        high = end if up_to is None else min(end, up_to)
        cost += max(0.0, high - max(low, begin)) * each
        if up_to is None or end <= up_to:
            break
        low = up_to
    return cost


def bill(price: Price, used: Amounts, before: Spent = Spent()) -> Bill:
    """What the amounts of a month cost. before: what others of the same price list got that month, whose bytes count
    in the same tiers."""
    held = (used.held + used.padding) / price.gb
    # what went early is billed beside, at the price of the last GB there
    early = tiered(used.early / price.gb, price.storage_gb, held)
    got = used.spent.got / price.gb
    if price.egress_gb:
        read = tiered(got, price.egress_gb, before.got / price.gb) + got * price.retrieval_gb
    else:
        read = got * price.read_gb
    return Bill(
        storage=tiered(held, price.storage_gb) + used.objects / 1000 * price.object_1000, early=early,
        requests=(used.spent.write * price.write_1000 + used.spent.read * price.request_1000) / 1000,
        read=read, woken=used.spent.woken / price.gb * price.woken_gb,
    )  # fmt: skip


def portion(whole: Bill, price: Price, used: Amounts, mine: Amounts) -> Bill:
    """The part of a target's bill that somebody's amounts bear: tiers are shared alike."""

    def share(part: float, all_of_it: float) -> float:
        return part / all_of_it if all_of_it else 0.0

    an_object = price.object_1000 / 1000
    stored = whole.storage - used.objects * an_object
    return Bill(
        storage=stored * share(mine.held + mine.padding, used.held + used.padding) + mine.objects * an_object,
        early=whole.early * share(mine.early, used.early),
        requests=(mine.spent.write * price.write_1000 + mine.spent.read * price.request_1000) / 1000,
        read=whole.read * share(mine.spent.got, used.spent.got),
        woken=whole.woken * share(mine.spent.woken, used.spent.woken),
    )
