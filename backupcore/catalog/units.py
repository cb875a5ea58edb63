"""What makes up a source: all of it in one chain of dumps, or a chain for each segment of a cut.

Here live pure functions over rows. A source may have been cut anew, or be on its way into a cut that has not all of its
fulls yet: what counts is the whole or the complete cut whose oldest part is newest.
"""

from __future__ import annotations

from typing import Dict, FrozenSet, Iterable, List, Mapping, Sequence, Tuple

from .. import ids
from .records import DumpRow

Newest = Mapping[str, DumpRow]


def newest_of(rows: Iterable[DumpRow]) -> Dict[str, DumpRow]:
    """segment -> its dump with the highest counter; "" is the whole source."""
    found: Dict[str, DumpRow] = {}
    for row in rows:
        if row.segment not in found or row.counter > found[row.segment].counter:
            found[row.segment] = row
    return found


def ways(segments: Iterable[str]) -> List[Tuple[str, ...]]:
    """Each way in which these segments show all of the source: the whole, and every complete cut."""
    found: List[Tuple[str, ...]] = []
    cuts: Dict[Tuple[str, int], Dict[int, str]] = {}
    for name in segments:
        parsed = ids.parse_segment(name)
        if parsed is not None:
            cuts.setdefault((parsed.cut, parsed.count), {})[parsed.number] = name
        elif not name:
            found.append(("",))
    for (_cut, count), names in sorted(cuts.items()):
        if len(names) == count:
            found.append(tuple(names[number] for number in range(1, count + 1)))
    return found


def in_force(newest: Newest) -> Tuple[str, ...]:
    """The units that make up the source now; () when there is no dump of all of it."""
    found = ways(newest)
    return max(found, key=lambda names: (min(newest[name].begun_ns for name in names), names), default=())


def retired(newest: Newest) -> FrozenSet[str]:
    """The units that others have followed: no dump of them will come."""
    now = in_force(newest)
    since = min((newest[name].begun_ns for name in now), default=0)
    old = [names for names in ways(newest) if names != now]
    found = {name for names in old if max(newest[one].begun_ns for one in names) < since for name in names}
    return frozenset(found | ({ids.INTERIM} if now and ids.INTERIM in newest else set()))


def by_source(rows: Sequence[DumpRow]) -> Dict[Tuple[str, str], List[DumpRow]]:
    """(client, source) -> its dumps."""
    found: Dict[Tuple[str, str], List[DumpRow]] = {}
    for row in rows:
        found.setdefault((row.client, row.source), []).append(row)
    return found
