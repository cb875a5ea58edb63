"""How the copies on each target stand, seen from each source's newest dump.

Here live the judgements of copies: failed, waiting, verified; sources are night.py, what is promised promised.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from .. import clock, text
from ..catalog import slim, wants
from ..catalog.records import FAIL, OK, WARN, CopyRow, DumpRow
from ..hours import shown
from ..settings import Settings, Source

RANK = {FAIL: 0, WARN: 1, OK: 2}
LONGEST_NS = 33 * 86400 * clock.NS  # all of the month that a dump belongs to began since


@dataclass(frozen=True)
class TargetLine:
    """How the copies on one target stand, seen from each source's newest dump that is wanted there."""

    target: str
    status: str
    message: str = ""
    hint: str = ""
    verified: int = 0
    pending: Tuple[str, ...] = ()
    failed: Tuple[str, ...] = ()
    waiting: Tuple[str, ...] = ()  # for their window, or for a copy at another target: no trouble
    opens: str = ""  # when the first of those windows opens, ISO


class Copies:
    """The copies that policies ask for, of each source's newest dump, by target."""

    def __init__(self, settings: Settings, catalog: Any, now_ns: int):
        self.catalog, self.now_ns = catalog, now_ns
        self.waiting: Dict[str, List[str]] = {name: [] for name in settings.targets}
        self.opens: Dict[str, int] = {}
        self.why: Dict[str, str] = {}  # what pending copies wait for, where that is known
        self.behind: Dict[str, List[Tuple[str, str]]] = {name: [] for name in settings.targets}
        self.verified: Dict[str, List[str]] = {name: [] for name in settings.targets}
        self.pending: Dict[str, List[str]] = {name: [] for name in settings.targets}
        self.failed: Dict[str, List[Tuple[str, str]]] = {name: [] for name in settings.targets}

    def look_at(self, source: Source, dumps: Sequence[DumpRow]) -> None:
        """dumps: the newest, of a source in segments one of each."""
        copies = {dump.id: {row.target: row for row in self.catalog.copies(dump=dump.id)} for dump in dumps}
        where = self._wanted(source, dumps)
        name = f"{source.client}:{source.name}"
        for rule in source.copies:
            done = waits = behind = False
            why = ""
            failed: Optional[str] = None
            for dump in dumps:
                if rule.target not in where[dump.id]:
                    continue
                row = copies[dump.id].get(rule.target)
                if row is not None and (row.state == "verified" or row.state == "done" and dump.holding is None):
                    # done and on no holding disk: a rebuild found it whole, staging has nothing to do; verify reads it
                    done = True
                elif row is not None and row.state in ("failed", "damaged"):
                    failed = row.error
                elif rule.after in where[dump.id] and not self._is_there(copies[dump.id].get(rule.after)):
                    behind = True
                else:
                    waits, why = True, why or (row.error if row is not None else "")
            if failed is not None:
                self.failed[rule.target].append((name, failed))
            elif waits and rule.windows is not None and not rule.windows.open_at(self.now_ns):
                self.waiting[rule.target].append(name)
                opens = rule.windows.opens(self.now_ns)
                if opens is not None:
                    self.opens[rule.target] = min(opens, self.opens.get(rule.target, opens))
            elif waits:
                self.pending[rule.target].append(name)
                self.why.setdefault(rule.target, why)
            elif behind:
                self.behind[rule.target].append((name, rule.after))
            elif done:
                self.verified[rule.target].append(name)

    def _wanted(self, source: Source, dumps: Sequence[DumpRow]) -> Mapping[str, Tuple[str, ...]]:
        """dump -> where it is wanted; others than these are read only where a rule chooses among them."""
        if not any(rule.every for rule in source.copies):
            return wants.wanted(source, dumps, {})
        first = min(dump.begun_ns for dump in dumps) - LONGEST_NS
        return wants.wanted(source, *slim.since(self.catalog, (source.client, source.name), first))

    @staticmethod
    def _is_there(row: Optional[CopyRow]) -> bool:
        return row is not None and row.state in ("verified", "expired")

    def lines(self) -> List[TargetLine]:
        found = []
        for target, verified in self.verified.items():
            failed, pending = self.failed[target], self.pending[target]
            again = f"stowage stage --target {target}"
            facts: Mapping[str, Any] = {
                "target": target, "verified": len(verified), "pending": tuple(pending),
                "failed": tuple(name for name, _error in failed),
                "waiting": (*self.waiting[target], *(name for name, _other in self.behind[target])),
                "opens": clock.iso(self.opens[target]) if target in self.opens else "",
            }  # fmt: skip
            if failed:
                reasons = list(dict.fromkeys(text.escape(error) for _name, error in failed))
                more = f" (and {len(reasons) - 1} other reasons)" if len(reasons) > 1 else ""
                names = _some([name for name, _error in failed])
                why, _arrow, hint = reasons[0].partition(" -> ")
                told = f"no copy of {names}: {why}{more}"
                found.append(TargetLine(status=FAIL, message=told, hint=hint or again, **facts))
            elif pending:
                why = f": {text.escape(self.why[target])}" if self.why.get(target) else ""
                told = f"copies of {_some(pending)} wait{why}"
                found.append(TargetLine(status=WARN, message=told, hint=again, **facts))
            else:
                found.append(TargetLine(status=OK, message=self._waits(target), **facts))
        return sorted(found, key=lambda line: RANK[line.status])


    def _waits(self, target: str) -> str:
        names, opens = self.waiting[target], self.opens.get(target)
        told = f"copies of {_some(names)} wait for their window" + (f": {shown(opens)}" if opens else "")
        behind = self.behind[target]
        after = ", ".join(sorted({other for _name, other in behind}))
        late = f"copies of {_some([name for name, _other in behind])} come after those on {after}"
        return "; ".join([told] * bool(names) + [late] * bool(behind))


def _some(names: List[str]) -> str:
    """The names, the first few when there are many."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
