"""Which dumps of a source are wanted on which targets: what its copy rules say, over rows.

Here live pure functions. `dumps`, `made_on` and `every` say which; windows, rates and `after` say when, and
are looked at by who copies. A choice that `every` made stays: while its copy is there, on its way, or was there and has
been pruned, no other dump takes its place; only a dump that was lost before it was copied gives way to the next good
one.
"""

from __future__ import annotations

from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from .. import clock, hours, ids
from ..settings import CopyRule, Source
from .records import HOLDING, CopyRow, DumpRow

Copies = Mapping[str, Mapping[str, CopyRow]]  # dump -> target -> row

THERE = ("verified", "done")
_STAMP = 16  # characters of a run's name that say when it began
_FAR_NS = 12 * 3600 * clock.NS  # from a run's begin to that of a dump of it: more may be a wrong clock


def night_of(dump: DumpRow) -> int:
    """The night a dump belongs to: the one in which its run began, also when it was made after midnight or noon."""
    return hours.night_of(_run_ns(dump.run, dump.begun_ns))


def made_ns(run: str, begun_ns: int) -> int:
    """When a dump was made, as far as its run tells: after a clock that ran ahead was set right each dump is dated a
    second behind the last one, for as long as it was ahead."""
    of_run = _run_ns(run, begun_ns)
    return of_run if abs(begun_ns - of_run) > _FAR_NS else begun_ns


def age_ns(run: str, begun_ns: int, now_ns: int) -> int:
    """How old a dump is."""
    return max(0, now_ns - (begun_ns if begun_ns <= now_ns else made_ns(run, begun_ns)))


def _run_ns(run: str, otherwise: int) -> int:
    try:
        return clock.parse_stamp(run[:_STAMP])
    except ValueError:  # a rebuild knows no runs
        return otherwise


def level_of(dump: DumpRow) -> int:
    """As copy rules count: an interim dump is no full, and goes where changes go."""
    return 1 if dump.segment == ids.INTERIM else dump.level


def span_of(every: str, night: int) -> tuple:
    """The day, ISO week or month that a night belongs to."""
    day = hours.day_of(night)
    if every == "week":
        return tuple(day.isocalendar()[:2])
    return (day.year, day.month) if every == "month" else (day,)


def candidates(rule: CopyRule, rows: Iterable[DumpRow]) -> List[DumpRow]:
    """The dumps that `dumps` and `made_on` of a rule name."""
    return [
        row for row in rows
        if rule.takes(level_of(row)) and (rule.made_on is None or hours.weekday_of(night_of(row)) in rule.made_on)
    ]  # fmt: skip


def wanted(source: Source, rows: Sequence[DumpRow], copies: Copies) -> Dict[str, Tuple[str, ...]]:
    """dump -> the targets on which it is wanted, in the order of the rules. rows: all dumps of that source."""
    found: Dict[str, List[str]] = {row.id: [] for row in rows}
    by_id = {row.id: row for row in rows}
    for rule in source.copies:
        names = {row.id for row in _chosen(rule, rows, copies)}
        if rule.self_contained:
            names |= {link for name in names for link in _chain(name, by_id, rule.target, copies)}
        for name in names:
            found[name].append(rule.target)
    return {name: tuple(targets) for name, targets in found.items()}


def _chosen(rule: CopyRule, rows: Sequence[DumpRow], copies: Copies) -> List[DumpRow]:
    found = candidates(rule, rows)
    if not rule.every:
        return found
    groups: Dict[tuple, List[DumpRow]] = {}
    for row in sorted(found, key=lambda row: (row.counter, row.id)):
        groups.setdefault((row.segment, span_of(rule.every, night_of(row))), []).append(row)
    return [row for row in (first(of_one, rule.target, copies) for of_one in groups.values()) if row is not None]


def first(rows: Sequence[DumpRow], target: str, copies: Copies) -> Optional[DumpRow]:
    """Which of these dumps, in their order, is the one that a target has or gets; None while none of them is good."""
    state = {row.id: _state(copies, row.id, target) for row in rows}
    good = [row for row in rows if is_at_hand(row, copies)]
    begun = ("copying", "failed", "damaged")
    for asked, wish in ((rows, THERE), (rows, ("expired",)), (good, begun), (good, ("wanted",))):
        for row in asked:
            if state[row.id] in wish and not row.damaged:
                return row
    return good[0] if good else None


def is_at_hand(row: DumpRow, copies: Copies) -> bool:
    """Whether a copy can be made of a dump: some image of it is not known to be damaged."""
    of_it = copies.get(row.id, {})
    held = row.holding is not None and HOLDING not in of_it
    return not row.damaged and (held or any(copy.state in THERE for copy in of_it.values()))


def _chain(name: str, by_id: Mapping[str, DumpRow], target: str, copies: Copies) -> Set[str]:
    """What a dump builds on, all the way down; nothing for one that was there and is pruned."""
    found: Set[str] = set()
    row = None if _state(copies, name, target) == "expired" else by_id.get(name)
    while row is not None and row.base is not None and row.base in by_id and row.base not in found:
        found.add(row.base)
        row = by_id[row.base]
    return found


def _state(copies: Copies, name: str, target: str) -> str:
    copy = copies.get(name, {}).get(target)
    return copy.state if copy is not None else ""
