"""A source in segments, seen as one: which dumps make it up at a moment, and the merge of what each has of it.

Here live the choice between the whole source's chain and the segments of a cut, and the rows of all segments in walk
order. A path is as the segment says that it belongs to; a folder that only leads to one is as the rest says, and as
that segment says where the rest does not know it.
"""

from __future__ import annotations

import heapq
import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Callable, Iterator, Mapping, Sequence

from .. import ids
from ..catalog.records import DumpRow
from . import recent

if TYPE_CHECKING:
    from .view import Row

ROOT = b"."
OWN, WAY, OTHERS = range(3)  # whose word of a path counts: the lowest; that of others does not
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

    def rank(self, path: bytes, is_dir: bool) -> int:
        """Its word of a path: OWN; WAY of a folder that only leads to what it has; OTHERS."""
        if self.holds(path):
            return OWN
        return WAY if is_dir and not self.rest and path in self.ways else OTHERS

    @cached_property
    def ways(self) -> frozenset[bytes]:
        """The folders that lead to its own."""
        found = {ROOT}
        for path in self.folders:
            above = path.rpartition(b"/")[0]
            while above and above not in found:
                found.add(above)
                above = above.rpartition(b"/")[0]
        return frozenset(found)

    def touches(self, bases: Sequence[bytes] | None) -> bool:
        """Whether something at or below bases (None: anywhere) can belong to it."""
        if bases is None or ROOT in bases:
            return True
        if self.rest:
            return any(self.holds(base) for base in bases)
        return any(
            self.holds(base) or any(folder.startswith(base + b"/") for folder in self.folders) for base in bases
        )


def at(
    rows: Sequence[DumpRow], moment: int, chain_at: ChainAt, bases: Sequence[bytes] | None = None,
    unit: str | None = None,
) -> tuple[Chain, tuple[Share, ...], DumpRow | None]:  # fmt: skip
    """The dumps of a source that show it at a moment, with the shares of segments (none: it is whole), and the newest
    dump that should count and cannot be read. chain_at: the chain of the moment of one unit's dumps, by counter.

    bases: only what lies at or below these paths is to be shown (None: all of it). unit: only by the dumps of this
    one, "" for the whole; of a segment, by its cut. Of the whole and each cut that has all that bases need, the one
    whose oldest part is newest.
    """
    units: dict[str, list[DumpRow]] = {}
    for row in rows:
        units.setdefault(row.segment, []).append(row)
    if unit is not None and ids.parse_segment(unit) is None:
        chain, passed = chain_at(units.get(unit, []))
        return chain, (), passed
    chain, passed = chain_at(units.pop("", [])) if unit is None else ((), None)
    best: tuple[int, Chain, tuple[Share, ...]] = (chain[-1].begun_ns if chain else -1, chain, ())
    lost = [passed] if passed else []
    for numbers in _cuts(units, unit):
        needed = _needed(numbers, bases)
        if not needed or any(min(row.begun_ns for row in numbers[one]) > moment for one in needed):
            continue  # not complete yet at that moment: it does not count
        chains = {}
        for number in needed:
            chains[number], passed = chain_at(numbers[number])
            lost += [passed] if passed else []
        shares = _shares(numbers, chains)
        if shares is None:
            continue
        moment_of = min(one[-1].begun_ns for one in chains.values())
        if moment_of >= best[0]:
            best = (moment_of, tuple(row for one in chains.values() for row in one), shares)
    newer = [row for row in lost if row.begun_ns > best[0]]
    passed = max(newer, key=lambda row: row.begun_ns, default=None)
    if not best[1] and not any(row.begun_ns <= moment for row in recent.fulls(rows)):
        interim, missed = chain_at(units.get(ids.INTERIM, []))
        return interim, (), missed
    return best[1], best[2], passed


def needs(rows: Sequence[DumpRow], dump: DumpRow, bases: Sequence[bytes] | None) -> bool:
    """Whether a dump of a segment, one of rows, is needed to show what lies at or below bases; of the whole: yes."""
    name = ids.parse_segment(dump.segment)
    if name is None:
        return True
    units: dict[str, list[DumpRow]] = {}
    for row in rows:
        units.setdefault(row.segment, []).append(row)
    return all(name.number in (_needed(numbers, bases) or (name.number,)) for numbers in _cuts(units, dump.segment))


def _cuts(units: Mapping[str, list[DumpRow]], unit: str | None) -> list[dict[int, list[DumpRow]]]:
    """The segments' dumps of each cut, or of that one of a segment, by the segments' numbers."""
    only = ids.parse_segment(unit) if unit else None
    cuts: dict[tuple[str, int], dict[int, list[DumpRow]]] = {}
    for name, of_one in units.items():
        parsed = ids.parse_segment(name)
        if parsed is not None and (only is None or (only.cut, only.count) == (parsed.cut, parsed.count)):
            cuts.setdefault((parsed.cut, parsed.count), {})[parsed.number] = of_one
    return list(cuts.values())


def _needed(numbers: Mapping[int, Sequence[DumpRow]], bases: Sequence[bytes] | None) -> list[int] | None:
    """The segments of a cut that what lies at or below bases can belong to, by their numbers; None when that is not
    known, or one of them has no dump. Readable or not, a dump of the last segment knows the folders of all."""
    parts = {number: _part(number, rows[-1]) for number, rows in numbers.items()}
    count = ids.parse_segment(next(iter(numbers.values()))[-1].segment).count
    if bases is None or ROOT in bases:
        return list(range(1, count + 1)) if len(numbers) == count else None
    own = {number: part for number, part in parts.items() if not part.rest}
    found: set[int] = set()
    for base in bases:
        whose = [number for number, part in own.items() if part.holds(base)]
        found.update(whose)
        if whose:
            continue
        if count not in parts:
            return None
        known = frozenset().union(*(part.folders for part in own.values()))
        strange = Share(0, 0, parts[count].folders - known, False)
        if strange.touches([base]):
            return None
        found |= {number for number, part in parts.items() if part.touches([base])}
    return sorted(found)


def _part(number: int, row: DumpRow) -> Share:
    return Share(0, 0, frozenset(map(os.fsencode, row.options.get("folders", ()))), ids.parse_segment(row.segment).rest)


def _shares(numbers: Mapping[int, Sequence[DumpRow]], chains: Mapping[int, Chain]) -> tuple[Share, ...] | None:
    """The shares of a cut, by what is needed of it; None when something of that cannot be read, or its segments are
    not of one folder."""
    if not all(chains.values()) or len({one[-1].path for one in chains.values()}) > 1:
        return None
    parts = {number: _part(number, rows[-1]) for number, rows in numbers.items()}
    own = [folder for part in parts.values() if not part.rest for folder in part.folders]
    rest = next((part.folders for part in parts.values() if part.rest), None)
    count = ids.parse_segment(numbers[min(numbers)][-1].segment).count
    good = (
        all(_part(number, one[-1]) == parts[number] and parts[number].folders for number, one in chains.items())
        and len(own) == len(set(own))
        and (rest is None or rest.issuperset(own) and (len(numbers) < count or rest == frozenset(own)))
    )  # fmt: skip
    if not good:
        return None
    shares, start = [], 0
    for number, one in chains.items():
        shares.append(Share(start, start + len(one), parts[number].folders, parts[number].rest))
        start += len(one)
    return tuple(shares)


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
    for row in rows:
        rank = share.rank(row.entry.path, row.entry.kind == "d")
        if rank < OTHERS:
            yield row.entry.key(), rank, number, row._replace(level=row.level + share.start)
