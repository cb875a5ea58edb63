"""A month of targets, clients or sources: what lay there, what was asked for, what it costs.

Here lives the way from stays of copies and counts of requests to rows; the prices are settings.Price, the reckoning is
bill.py. The same rows are made of what was and, in a forecast, of what is expected. Requests and egress are known by
target only; clients and sources share them by what they brought and had there. Amounts of two currencies are
never added.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from .. import clock
from ..catalog.spending import SMALL, Stay
from ..errors import RequestError
from ..hookspecs import Spent
from ..settings import Price
from . import bill as bills
from .bill import Amounts, Bill

BY = ("target", "client", "source")
OBJECTS = 8  # of a copy of which nobody counted them: a part, and the files beside it
DAY_NS = 86400 * clock.NS
_MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])\Z")


@dataclass(frozen=True)
class Month:
    """A month by UTC, as providers bill. until_ns: where what is known of it ends, before its end while it lasts."""

    name: str
    begin_ns: int
    end_ns: int
    until_ns: int

    @property
    def next(self) -> "Month":
        return month(clock.iso(self.end_ns)[:7], self.end_ns)


def month(name: str, now_ns: int) -> Month:
    """The month of that name, `2026-11`. Raises RequestError."""
    match = _MONTH.match(name)
    if match is None or int(match.group(1)) < 1970:
        raise RequestError(f"{name!r} is no month", "write it as 2026-11")
    year, number = int(match.group(1)), int(match.group(2))
    begin, end = _first(year, number), _first(year + number // 12, number % 12 + 1)
    return Month(name, begin, end, min(end, max(begin, now_ns)))


def _first(year: int, number: int) -> int:
    try:
        return int(datetime(year, number, 1, tzinfo=timezone.utc).timestamp()) * clock.NS
    except ValueError:
        raise RequestError(f"{year}-{number:02d} is no month", "write it as 2026-11") from None


@dataclass(frozen=True)
class Row:
    """One target, client or source in a month. bytes, objects, copies: there at its end, or now. came: bytes that came
    in it. bills: by target, where its price is known; unpriced: targets without one."""

    name: str
    targets: Tuple[str, ...]
    bytes: int
    objects: int
    copies: int
    came: int
    amounts: Amounts
    bills: Mapping[str, Bill] = field(default_factory=dict)
    currencies: Mapping[str, str] = field(default_factory=dict)
    unpriced: Tuple[str, ...] = ()

    @property
    def money(self) -> Dict[str, float]:
        """By currency."""
        found: Dict[str, float] = {}
        for target, one in self.bills.items():
            found[self.currencies[target]] = found.get(self.currencies[target], 0.0) + one.total
        return found

    def as_dict(self) -> Dict[str, Any]:
        """JSON-ready."""
        spent = self.amounts.spent
        cost: Dict[str, Dict[str, float]] = {}
        for target, one in self.bills.items():
            parts = cost.setdefault(self.currencies[target], {})
            for name in ("storage", "early", "requests", "read", "woken", "total"):
                parts[name] = round(parts.get(name, 0.0) + getattr(one, name), 6)
        return {
            "name": self.name, "targets": list(self.targets), "bytes": self.bytes, "objects": self.objects,
            "copies": self.copies, "came": self.came, "mean_bytes": round(self.amounts.held),
            "requests": {"write": spent.write, "read": spent.read, "delete": spent.delete},
            "sent": spent.sent, "egress": spent.got, "woken": spent.woken, "cost": cost,
            "unpriced": list(self.unpriced),
        }  # fmt: skip


def rows(
    stays: Sequence[Stay], spent: Mapping[str, Spent], prices: Mapping[str, Optional[Price]], when: Month, by: str
) -> List[Row]:
    """The month, the most expensive first. spent: by target; prices: of the targets of the configuration."""
    pieces = _pieces(stays, spent, prices, when)
    groups: Dict[str, List[_Piece]] = {}
    for piece in pieces:
        groups.setdefault(_name(piece, by), []).append(piece)
    _bill_all(pieces, prices)
    made = [_row(name, found, prices) for name, found in groups.items()]
    return sorted(made, key=lambda row: (-max(row.money.values(), default=0.0), -row.amounts.held, row.name))


def money_of(every: Iterable[Row]) -> Dict[str, float]:
    """What all of it costs, by currency."""
    found: Dict[str, float] = {}
    for row in every:
        for currency, amount in row.money.items():
            found[currency] = found.get(currency, 0.0) + amount
    return found


@dataclass
class _Piece:
    """What one source has on one target in a month; source '' stands for what no copy was there to bear."""

    target: str
    client: str
    source: str
    bytes: int = 0
    objects: int = 0
    copies: int = 0
    came: int = 0
    held: float = 0.0
    padding: float = 0.0
    mean: float = 0.0  # objects
    early: float = 0.0
    spent: Spent = Spent()
    bill: Optional[Bill] = None

    @property
    def amounts(self) -> Amounts:
        return Amounts(self.held, self.padding, self.mean, self.early, self.spent)


def _name(piece: _Piece, by: str) -> str:
    if by == "target":
        return piece.target
    if not piece.client:
        return ""
    return piece.client if by == "client" else f"{piece.client}:{piece.source}"


def _pieces(
    stays: Iterable[Stay], spent: Mapping[str, Spent], prices: Mapping[str, Optional[Price]], when: Month
) -> List[_Piece]:
    found: Dict[Tuple[str, str, str], _Piece] = {}
    for stay in stays:
        key = (stay.target, stay.client, stay.source)
        _add(found.setdefault(key, _Piece(*key)), stay, prices.get(stay.target), when)
    of_target: Dict[str, List[_Piece]] = {}
    for piece in found.values():
        of_target.setdefault(piece.target, []).append(piece)
    for target, used in spent.items():
        _share(of_target.setdefault(target, []), target, used)
    return [piece for pieces in of_target.values() for piece in pieces]


def _add(piece: _Piece, stay: Stay, price: Optional[Price], when: Month) -> None:
    """Adds the part of a stay that lies in the month."""
    gone = when.until_ns if stay.gone_ns is None else stay.gone_ns
    part = (min(gone, when.until_ns) - max(stay.came_ns, when.begin_ns)) / (when.end_ns - when.begin_ns)
    if part < 0:
        return
    objects = stay.objects or OBJECTS
    padding = float(_padding(stay, price))
    if stay.came_ns < when.until_ns and (stay.gone_ns is None or stay.gone_ns > when.until_ns):
        piece.bytes += stay.bytes
        piece.objects += objects
        piece.copies += 1
    if when.begin_ns <= stay.came_ns < when.until_ns:
        piece.came += stay.bytes
    early = 0.0
    if price is not None and stay.gone_ns is not None and when.begin_ns <= stay.gone_ns < when.until_ns:
        left = price.least_days * DAY_NS - (stay.gone_ns - stay.came_ns)
        early = max(0.0, left) / (when.end_ns - when.begin_ns) * (stay.bytes + padding)
    piece.held += stay.bytes * part
    piece.padding += padding * part
    piece.mean += objects * part
    piece.early += early


def _padding(stay: Stay, price: Optional[Price]) -> int:
    """Bytes that a least size of objects adds; files are known to be small below SMALL only."""
    if price is None or not price.least_size:
        return 0
    small = stay.small if stay.objects else OBJECTS - 1
    return max(0, small * min(price.least_size, SMALL) - stay.small_bytes)


def _share(pieces: List[_Piece], target: str, used: Spent) -> None:
    """Gives sources their parts of a target's requests: what came bears the writing, what lay there the rest."""
    came, held = float(sum(one.came for one in pieces)), sum(one.held for one in pieces)
    if not pieces or not held:
        pieces.append(_Piece(target, "", "", spent=used))
        return
    left = used
    for number, one in enumerate(pieces):
        share = one.held / held
        wrote = one.came / came if came else share
        mine = bills.times(used, share)
        mine = Spent(round(used.write * wrote), mine.read, mine.delete, round(used.sent * wrote), mine.got, mine.woken)
        if number == len(pieces) - 1:  # what rounding left over, so that the sum is the target's
            mine = left
        mine = Spent(*(min(getattr(mine, name), getattr(left, name)) for name in Spent.__dataclass_fields__))
        left = Spent(*(getattr(left, name) - getattr(mine, name) for name in Spent.__dataclass_fields__))
        one.spent = mine


def _bill_all(pieces: Sequence[_Piece], prices: Mapping[str, Optional[Price]]) -> None:
    """Gives each piece its part of its target's bill. What buckets of one list got counts in the same tiers, in the
    order of their names."""
    of_target: Dict[str, List[_Piece]] = {}
    for piece in pieces:
        of_target.setdefault(piece.target, []).append(piece)
    before: Dict[tuple, Spent] = {}
    for target, mine in sorted(of_target.items()):
        price = prices.get(target)
        if price is None:
            continue
        used = Amounts()
        for piece in mine:
            used += piece.amounts
        pool = (price.currency, price.gb, price.egress_gb)
        whole = bills.bill(price, used, before.get(pool, Spent()))
        before[pool] = bills.together((before.get(pool, Spent()), used.spent))
        for piece in mine:
            piece.bill = bills.portion(whole, price, used, piece.amounts)


def _row(name: str, pieces: Sequence[_Piece], prices: Mapping[str, Optional[Price]]) -> Row:
    amounts, billed = Amounts(), {}
    for piece in pieces:
        amounts += piece.amounts
        if piece.bill is not None:
            billed[piece.target] = billed.get(piece.target, Bill()) + piece.bill
    targets = tuple(sorted({piece.target for piece in pieces}))
    return Row(
        name, targets, sum(one.bytes for one in pieces), sum(one.objects for one in pieces),
        sum(one.copies for one in pieces), sum(one.came for one in pieces), amounts, billed,
        {target: prices[target].currency for target in billed},
        tuple(target for target in targets if target not in billed),
    )  # fmt: skip
