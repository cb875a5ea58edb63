"""What happened and what it means: a line for each source, the worst first, and one line above all.

Here live the judgements, from the catalog and the settings only: past its rpo, failed, away, copies missing.
How it looks lives in report/text.py. The exit status of a run is the status of its report.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from .. import clock, ids, text
from ..catalog import slim, units, wants
from ..catalog.records import FAIL, OK, WARN, DumpRow, RunRow
from ..errors import CatalogError, ClientUnreachable
from ..settings import Client, Settings, Source
from . import planned as planning
from . import promised
from . import proven as proving
from .past import Past
from .places import RANK, Copies, TargetLine
from .promised import Promised
from .proven import Proven

READABLE = ("verified", "done")  # of copies: done are those that a rebuild found whole


@dataclass(frozen=True)
class SourceLine:
    """How one source stands. away: the only trouble is a roaming client's absence within the rpo.

    message and hint: what is wrong and the next step, '' when nothing is. age: seconds since the newest good dump
    began, None when there is none. dump, level, bytes, seconds: of this run.
    """

    client: str
    source: str
    status: str
    message: str = ""
    hint: str = ""
    away: bool = False
    code: str = ""
    age: Optional[float] = None
    rpo: float = 0.0
    dump: Optional[str] = None
    level: Optional[int] = None
    bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Report:
    """One night, or what a run by hand did. lines: all sources, worst first. warnings: how many things to look at."""

    status: str
    headline: str
    lines: Tuple[SourceLine, ...]
    targets: Tuple[TargetLine, ...] = ()
    notes: Tuple[str, ...] = ()
    run: Optional[RunRow] = None
    bytes: int = 0
    seconds: float = 0.0
    away: Tuple[str, ...] = ()
    warnings: int = 0
    next: Tuple[str, ...] = field(default=())
    proven: Optional[Proven] = None  # what drills have shown; None in the report of a run of some sources
    stopped: str = ""  # why the run as a whole came to nothing, or was ended before it was through
    plan: Optional[Mapping[str, Any]] = None  # what the run kept of its plan
    promises: Tuple[Promised, ...] = ()  # of copies, the worst first; those that are broken come first

    @property
    def broken(self) -> Tuple[Promised, ...]:
        """The promises that are not kept."""
        return tuple(one for one in self.promises if not one.kept)

    @property
    def pruned(self) -> Tuple[str, ...]:
        """What the run marked and removed at targets, in words."""
        return tuple(text.escape(str(one)) for one in self.run.summary.get("prune", ())) if self.run else ()

    def as_dict(self) -> Dict[str, Any]:
        """JSON-ready; the next commands are the caller's to add."""
        run = self.run
        return {
            "headline": self.headline,
            "run": run and {
                "id": run.id, "kind": run.kind, "begun": clock.iso(run.begun_ns),
                "ended": clock.iso(run.ended_ns) if run.ended_ns else None, "status": run.status,
            },
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "warnings": self.warnings,
            "away": list(self.away),
            "notes": list(self.notes),
            "stopped": self.stopped,
            "proven": self.proven.as_dict() if self.proven else None,
            "plan": self.plan,
            "prune": list(self.pruned),
            "promises": {"kept": len(self.promises) - len(self.broken),
                         "broken": [one.as_dict() for one in self.broken]},
            "sources": [asdict(line) for line in self.lines],
            "targets": [{**asdict(line), "pending": list(line.pending), "failed": list(line.failed),
                         "waiting": list(line.waiting)}
                        for line in self.targets],
        }  # fmt: skip


def make(
    settings: Settings,
    catalog: Any,
    now_ns: int,
    *,
    run: Optional[RunRow] = None,
    only: Optional[Iterable[Tuple[str, str]]] = None,
    running: bool = False,
    failures: Iterable[str] = (),
    promises: Sequence[Promised] = (),
) -> Report:
    """The report of a run (None: the last one). only: (client, source) pairs, when the run was asked for these.

    failures: what else went wrong in it, each as `WHAT -> NEXT STEP`.
    promises: of copies, how each stands, the worst first.
    running: the run of this report is at work right now, in this process or another.
    """
    if run is None:
        runs = catalog.runs(limit=1, kind="run")
        run = runs[0] if runs else None
    chosen = None if only is None else set(only)
    past = Past(catalog, run)
    lines: List[SourceLine] = []
    copies = Copies(settings, catalog, now_ns)
    plan = planning.of(run.summary) if run is not None else None
    notes: List[str] = []
    for client in settings.clients.values():
        if client.state == "retired":
            continue
        if not client.sources and chosen is None:
            where = settings.file.parent / "clients.d" / f"{client.name}.yml"
            notes.append(f"{client.name} has no source -> add one to {where}")
        for source in client.sources.values():
            asked = chosen is None and source.timing.strategy != "skip"  # what is skipped on purpose has no rpo
            if asked or chosen is not None and (client.name, source.name) in chosen:
                lines.append(_line(client, source, catalog, now_ns, run, past, copies, plan))
    if not lines and chosen is None:
        notes.append("no source is configured -> add clients to the inventory and run the playbook site")
    if run is None:
        notes.append("there was no run yet -> stowage run")
    elif run.ended_ns is None and not running:
        notes.append(f"the run of {clock.local(run.begun_ns)} did not end: it was killed -> stowage run")
    stopped = ""
    if run is not None and run.summary.get("stopped"):
        stopped = text.escape(str(run.summary.get("headline", ""))).removeprefix("FAIL ")
    notes += planning.notes(plan)
    wrong = list(failures) + (_damaged(catalog) if chosen is None else [])
    proven = proving.read(settings, catalog, now_ns) if chosen is None else None
    wrong += proving.trouble(proven)
    late = promised.trouble(promises)
    made = _sum_up(lines, copies.lines(), notes, run, now_ns, stopped, wrong, proven, late)
    return replace(made, plan=plan, promises=tuple(promises))


def _damaged(catalog: Any) -> List[str]:
    """The copies that are damaged and not made anew yet, in one line."""
    found = slim.damaged(catalog)
    if not found:
        return []
    dump = catalog.dump(found[0].dump)
    name = f"{dump.client}:{dump.source} {dump.id} on {found[0].target}"
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return [f"damaged: {name}: {text.escape(found[0].error)}{more} -> stowage stage"]


def _line(
    client: Client,
    source: Source,
    catalog: Any,
    now_ns: int,
    run: Optional[RunRow],
    past: Past,
    copies: Copies,
    plan: Optional[Mapping[str, Any]],
) -> SourceLine:
    result = past.last(client.name, source.name)
    newest, good = _stand(catalog, source, copies)
    rpo = source.policy.rpo
    facts: Dict[str, Any] = {"client": client.name, "source": source.name, "rpo": rpo}
    age = wants.age_ns(good.run, good.begun_ns, now_ns) / clock.NS if good else None
    facts["age"] = age
    if result is not None and run is not None and result.run == run.id:
        results = past.all(client.name, source.name)
        dumps = [catalog.dump(one.dump) for one in results if one.dump]
        level = result.level if result.segment != ids.INTERIM else None
        facts.update(dump=result.dump, level=level, seconds=sum(one.seconds for one in results))
        facts["bytes"] = sum(one.stored_size for one in dumps if one is not None)
    again = f"stowage run --client {client.name} --source {source.name}"
    failed = result is not None and not result.ok
    why, hint = (text.escape(result.message), text.escape(result.hint)) if failed else ("", "")
    away = failed and client.presence == "roaming" and result.code == ClientUnreachable.code
    if newest is not None and newest is not good:
        damage = "newest dump is damaged" if newest.damaged else "newest dump cannot be restored: it has no good copy"
        return SourceLine(status=FAIL, message=_join(damage, why), hint=again, code="image-damaged", **facts)
    if age is not None and age > rpo:
        since = f"no good dump for {text.duration(age)}"
        return SourceLine(status=FAIL, message=_join(since, why), hint=hint or again, code="past-rpo", **facts)
    since_ns = past.tried_since(client.name, source.name) if age is None else None
    if since_ns is not None and (now_ns - since_ns) / clock.NS > rpo:
        return SourceLine(
            status=FAIL, message=_join("was never dumped", why), hint=hint or again, code="past-rpo", **facts
        )
    if away:
        return SourceLine(status=WARN, message="away: " + why, hint="", away=True, code=result.code, **facts)
    if failed:
        return SourceLine(status=WARN if result.warning else FAIL, message=why, hint=hint or again, code=result.code,
                          **facts)  # fmt: skip
    if age is None:
        waits_ns = past.waits_since(client.name, source.name)
        waited = (now_ns - waits_ns) / clock.NS if waits_ns is not None else 0.0
        if waited > max(rpo, source.timing.cycle * 86400):
            # first fulls spread over a cycle at most: what has no place after it has none
            why = _waits_why(plan, client.name, source.name)
            message = _join(f"was never dumped, and waits for its first full for {text.duration(waited)}", why)
            return SourceLine(status=FAIL, message=message, hint=again, code="past-rpo", **facts)
        when = planning.waits(plan, client.name, source.name) + _interim(catalog, client.name, source.name)
        return SourceLine(
            status=WARN, message="waits for its first dump" + when, hint=again, code="never-dumped", **facts
        )
    if result is not None and result.warning:
        return SourceLine(
            status=WARN, message=text.escape(result.message), hint=text.escape(result.hint), code=result.code, **facts
        )
    said = text.escape(result.message) if result is not None else ""  # allowed, but named
    return SourceLine(status=OK, message=said, **facts)


def _interim(catalog: Any, client: str, source: str) -> str:
    """What interim dumps have of a source without a full, '' when there is none of them."""
    row = catalog.newest(client, source).get(ids.INTERIM)
    newer = row.options.get("newer_ns") if row is not None and not row.damaged else None
    return f"; until then an interim dump has its files changed since {clock.local(newer)}" if newer else ""


def _stand(catalog: Any, source: Source, copies: Copies) -> Tuple[Optional[DumpRow], Optional[DumpRow]]:
    """(the newest dump, the newest good one); of a source in segments the newest is of the one that stands worst, and
    the good one of the oldest: a source is as old as its oldest segment."""
    newest = catalog.newest(source.client, source.name)
    names = units.in_force(newest)
    if not names:
        return None, None
    copies.look_at(source, [newest[name] for name in names])
    bad: List[DumpRow] = []
    good: Optional[DumpRow] = None
    for way in units.ways(newest):
        found = [_newest_good(catalog, newest[name]) for name in way]
        if way == names:
            bad = [newest[name] for name, one in zip(way, found) if one is not newest[name]]
        oldest = min((one for one in found if one is not None), key=lambda one: one.begun_ns, default=None)
        if oldest is not None and None not in found and (good is None or oldest.begun_ns > good.begun_ns):
            good = oldest
    return bad[0] if bad else good, good


def _newest_good(catalog: Any, newest: DumpRow) -> Optional[DumpRow]:
    if _restorable(catalog, newest):
        return newest
    rows = [one for one in catalog.dumps(newest.client, newest.source) if one.segment == newest.segment]
    return next((one for one in reversed(rows[:-1]) if _restorable(catalog, one)), None)


def _restorable(catalog: Any, dump: DumpRow) -> bool:
    """Whether the dump and all it is based on are at hand and not known to be damaged."""
    try:
        chain = catalog.chain(dump.id)
    except CatalogError:
        return False
    return all(
        not one.damaged and (one.holding or any(copy.state in READABLE for copy in catalog.copies(dump=one.id)))
        for one in chain
    )


def _waits_why(plan: Optional[Mapping[str, Any]], client: str, source: str) -> str:
    """Why a source waits for its first full, '' when the plan does not say."""
    for one in plan["given_up"] if plan else ():
        if (one["client"], one["source"], one["what"]) == (client, source, "first"):
            return text.escape(str(one["why"]))
    return ""


def _join(what: str, why: str) -> str:
    return f"{what}: {why}" if why else what


def _sum_up(
    lines: List[SourceLine],
    targets: List[TargetLine],
    notes: List[str],
    run: Optional[RunRow],
    now_ns: int,
    stopped: str,
    wrong: List[str],
    proven: Optional[Proven],
    late: List[str],
) -> Report:
    lines = sorted(lines, key=_worst_first)
    away = tuple(sorted({line.client for line in lines if line.away}))
    shown = [line for line in lines if line.status != OK and not line.away]
    trouble = [(line.status, f"{line.client}:{line.source} {line.message}", line.hint) for line in shown]
    trouble += [(line.status, f"{line.target}: {line.message}", line.hint) for line in targets if line.status != OK]
    told = [(FAIL, stopped)] * bool(stopped) + [(FAIL, one) for one in wrong]
    told += [(WARN, note) for note in [*notes, *late]]
    for rank, note in told:
        message, _arrow, hint = note.partition(" -> ")
        trouble.append((rank, message, hint))
    trouble.sort(key=lambda one: RANK[one[0]])
    status = trouble[0][0] if trouble else OK
    ended = (run.ended_ns or now_ns) if run else 0
    seconds = (ended - run.begun_ns) / clock.NS if run else 0.0
    size = sum(line.bytes for line in lines)
    clients = len({line.client for line in lines})
    within = sum(1 for line in lines if line.age is not None and line.age <= line.rpo)
    if status == FAIL:
        failures = sum(1 for one in trouble if one[0] == FAIL)
        _status, message, hint = trouble[0]
        headline = f"FAIL {message}" + (f" -> {hint}" if hint else "")
        headline += f" ({failures - 1} more)" if failures > 1 else ""
    else:
        parts = [f"{count(clients, 'client')}, {_within(within, len(lines))}"]
        if run is not None:
            parts.append(f"{text.size(size)} in {text.duration(seconds)}")
        if away:
            parts.append(f"{count(len(away), 'client')} away")
        if status == WARN:
            parts.append(count(len(trouble), "warning"))
        headline = f"{status:4s} " + "; ".join(parts)
    hints = tuple(dict.fromkeys(hint for _status, _message, hint in trouble if hint.startswith("stowage ")))
    return Report(
        status, headline, tuple(lines), tuple(targets), (*wrong, *notes), run, size, seconds, away,
        sum(1 for one in trouble if one[0] == WARN) + len(away), hints[:3], proven, stopped,
    )  # fmt: skip


def _worst_first(line: SourceLine) -> Tuple:
    return (RANK[line.status], line.away, -(1e12 if line.age is None else line.age), line.client, line.source)


def _within(within: int, all_of_them: int) -> str:
    if within == all_of_them:
        return f"{count(within, 'source')} within RPO"
    return f"{within} of {count(all_of_them, 'source')} within RPO"


def count(number: int, what: str) -> str:
    """`1 client`, `2 clients`."""
    return f"{number} {what}" + ("" if number == 1 else "s")
