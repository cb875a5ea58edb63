"""A source in segments, seen as one: which dumps make it up at a moment, and the merge of what each has of it.

Here live the choice between the whole source's chain and the segments of a cut, and the rows of all segments in walk
order. A path is as the segment says that it belongs to; a folder that only leads to one is as the rest says, and as
that segment says where the rest does not know it.
"""

from __future__ import annotations

import heapq
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Iterator, Sequence

from .. import ids
from ..catalog.records import DumpRow

if TYPE_CHECKING:
    from .view import Row

ROOT = b"."
Chain = tuple[DumpRow, ...]
ChainAt = Callable[[Sequence[DumpRow]], tuple[Chain, "DumpRow | None"]]


@dataclass(frozen=True)
class Share:
    """What a segment has of a Wanted: its dumps are chain[start:stop]. folders: its own, or with rest all others'."""

    start: int
    stop: int
    folders: frozenset[bytes]
    rest: bool

    def holds(self, path: bytes) -> bool:
        """Whether a path belongs to it."""
        while path:
            if path in self.folders:
                return not self.rest
            path = path.rpartition(b"/")[0]
        return self.rest

    def touches(self, bases: Sequence[bytes] | None) -> bool:
        """Whether something at or below bases (None: anywhere) can belong to it."""
        if bases is None or ROOT in bases:
            return True
        if self.rest:
            return any(self.holds(base) for base in bases)
        return any(
            self.holds(base) or any(folder.startswith(base + b"/") for folder in self.folders) for base in bases
        )


def at(rows: Sequence[DumpRow], moment: int, chain_at: ChainAt) -> tuple[Chain, tuple[Share, ...], DumpRow | None]:
    """The dumps of a source that show it at a moment, with the shares of segments (none: it is whole), and the newest
    dump that should count and cannot be read. chain_at: the chain of the moment of one unit's dumps, by counter.

    Of the whole and each cut that is complete, the one whose oldest part is newest.
    """
    units: dict[str, list[DumpRow]] = {}
    for row in rows:
        units.setdefault(row.segment, []).append(row)
    chain, passed = chain_at(units.pop("", []))
    if not units:
        return chain, (), passed
    best: tuple[int, Chain, tuple[Share, ...]] = (chain[-1].begun_ns if chain else -1, chain, ())
    lost = [passed] if passed else []
    cuts: dict[str, dict[int, list[DumpRow]]] = {}
    for name, of_one in units.items():
        parsed = ids.parse_segment(name)
        if parsed is not None:
            cuts.setdefault(f"{parsed.count}-{parsed.cut}", {})[parsed.number] = of_one
    for name, numbers in cuts.items():
        count = int(name.partition("-")[0])
        if len(numbers) < count or any(min(row.begun_ns for row in one) > moment for one in numbers.values()):
            continue  # not complete yet at that moment: it does not count
        chains, missed = [], []
        for number in range(1, count + 1):
            found, passed = chain_at(numbers[number])
            chains.append(found)
            missed += [passed] if passed else []
        shares = _shares(chains)
        lost += missed
        if shares is None:
            continue
        moment_of = min(one[-1].begun_ns for one in chains)
        if moment_of >= best[0]:
            best = (moment_of, tuple(row for one in chains for row in one), shares)
    newer = [row for row in lost if row.begun_ns > best[0]]
    return best[1], best[2], max(newer, key=lambda row: row.begun_ns, default=None)


def _shares(chains: Sequence[Chain]) -> tuple[Share, ...] | None:
    """The shares of a cut; None when it is not complete, or its segments are not of one folder."""
    if not all(chains) or len({one[-1].path for one in chains}) > 1:
        return None
    shares, start = [], 0
    own: set[bytes] = set()
    for number, one in enumerate(chains, 1):
        folders = frozenset(map(os.fsencode, one[-1].options.get("folders", ())))
        if not folders or (number == len(chains)) != (folders == own):
            return None
        own |= folders
        shares.append(Share(start, start + len(one), folders, number == len(chains)))
        start += len(one)
    return tuple(shares)


def only(chain: Chain, shares: Sequence[Share], bases: Sequence[bytes] | None) -> tuple[Chain, tuple[Share, ...]]:
    """Chain and shares without those segments that have nothing at or below bases."""
    kept, dumps = [], []
    for one in shares:
        if one.touches(bases):
            start = len(dumps)
            dumps += chain[one.start : one.stop]
            kept.append(Share(start, len(dumps), one.folders, one.rest))
    return (tuple(dumps), tuple(kept)) if kept else (chain, tuple(shares))


def merge(shares: Sequence[Share], view_of: Callable[[Share], Iterator[Row]]) -> Iterator[Row]:
    """The rows of the source, from those of each segment's own view, whose levels count from 0."""
    given = None
    ranked = [_ranked(number, one, view_of(one)) for number, one in enumerate(shares)]
    for key, rank, _number, row in heapq.merge(*ranked, key=lambda one: one[:3]):
        if rank and key == given:
            continue
        if row.entry.kind == "d":
            given = key
        yield row


def _ranked(number: int, share: Share, rows: Iterator[Row]) -> Iterator[tuple[bytes, int, int, Row]]:
    ways: set[bytes] = {ROOT}
    if not share.rest:
        for path in share.folders:
            above = path.rpartition(b"/")[0]
            while above and above not in ways:
                ways.add(above)
                above = above.rpartition(b"/")[0]
    for row in rows:
        entry = row.entry
        if share.holds(entry.path):
            yield entry.key(), 0, number, row._replace(level=row.level + share.start)
        elif not share.rest and entry.kind == "d" and entry.path in ways:
            yield entry.key(), 1, number, row._replace(level=row.level + share.start)
