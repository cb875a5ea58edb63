"""Pruning for the command line and for the night: the lock, the parts it needs, what is told of it.

Here live the ways in: what would go, the prune itself, undo, hold and release. What goes is decided in
stage/retention.py, how in stage/prune.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, AbstractSet, Any, Callable, Dict, List, Optional, Sequence, Tuple

from .. import clock, ids, text
from ..catalog import marks
from ..catalog.records import RunRow
from ..errors import RequestError, StowageError
from ..stage import locks, prune
from ..stage.prune import MARK, REMOVE, WAITS, Pruned, Verdict
from ..stage.retention import GOOD
from . import auditing

if TYPE_CHECKING:
    from .engine import Engine

Progress = Optional[Callable[[dict], None]]
MONTH_NS = 30 * 86400 * clock.NS


@dataclass(frozen=True)
class Night:
    """What the nightly prune has to say."""

    notes: Tuple[str, ...] = ()
    warnings: Tuple[str, ...] = ()

    @property
    def summary(self) -> Dict[str, List[str]]:
        """What the run keeps of it, for its report."""
        told = [*self.notes, *self.warnings]
        return {"prune": told} if told else {}


def look(engine: Engine, targets: Sequence[str] = ()) -> List[Verdict]:
    """What a prune would do now. Raises RequestError when a target is unknown."""
    for name in targets:
        engine.target_name(name)
    return prune.look(engine.settings, engine.catalog, clock.now_ns(), list(targets) or None)


def run(engine: Engine, targets: Sequence[str] = (), progress: Progress = None) -> Pruned:
    """Prunes. Raises Busy."""
    from ..dump import runlock

    for name in targets:
        engine.target_name(name)
    with runlock.hold(engine.settings, what="prune", command=engine.command):
        made = engine.catalog.begin_run("prune")
        status, told = "FAIL", []
        try:
            done = _prune(engine, list(targets) or None, progress)
            status, told = status_of(done), notes(done)
        finally:
            engine.catalog.end_run(made.id, status, {"headline": "; ".join(told)})
    return done


def nightly(engine: Engine, progress: Progress) -> Night:
    """The prune of a night, under its lock; nothing where nobody wrote a keep."""
    settings = engine.settings
    wanted = any(rule.keep for source in settings.sources() for rule in source.copies)
    if not (wanted and settings.prune.nightly):
        return Night()
    try:
        with auditing.act(settings, "prune", {"nightly": True}) as act:
            done = _prune(engine, None, progress, locked=True)
            act.end("warn" if done.problems else "ok", noted(done))
    except StowageError as error:
        return Night((), (f"prune: {error.message}" + (f" -> {error.hint}" if error.hint else ""),))
    problems = [f"prune: {one}" for one in done.problems] + ([act.problem] if act.problem else [])
    return Night(tuple(f"prune: {one}" for one in notes(done)), tuple(problems))


def _prune(engine: Engine, targets: Optional[List[str]], progress: Progress, locked: bool = False) -> Pruned:
    return prune.prune(engine.settings, engine.catalog, engine.target, clock.now_ns(), targets, progress,
                       lambda name: engine.target(name, pruning=True), locked)  # fmt: skip


def lock(engine: Engine, anew: AbstractSet[Tuple[str, str]] = frozenset()) -> Tuple[str, ...]:
    """Locks and holds at the targets what is to be; what is not locked there as it should be. anew: (dump, target) of
    copies that have files since the last time."""
    if not locks.needed(engine.settings, engine.catalog):
        return ()
    done = locks.apply(
        engine.settings, engine.catalog, engine.target, clock.now_ns(), anew=anew,
        open_pruning=lambda name: engine.target(name, pruning=True),
    )  # fmt: skip
    return said_unlocked(done.problems)


def said_unlocked(problems: Sequence[str]) -> Tuple[str, ...]:
    """What is not locked as it should be, as every command says it: a failure."""
    return tuple(f"lock: {one} -> stowage check" for one in problems)


def status_of(done: Pruned) -> str:
    """What is not locked is a failure as in a run; what could not be removed stays, and goes another time."""
    return "FAIL" if done.unlocked else "WARN" if done.problems else "OK"


def unlocked(engine: Engine, run: Optional[RunRow]) -> Tuple[str, ...]:
    """What a run could not lock, as long as something is to be locked still."""
    told = run.summary.get("unlocked", ()) if run is not None else ()
    if not told or not locks.lacking(engine.settings, engine.catalog, clock.now_ns()):
        return ()
    return tuple(str(one) for one in told)


def notes(done: Pruned) -> List[str]:
    """What a prune did, in a few words."""
    marked = [one for one in done.verdicts if one.phase == MARK]
    told = []
    if marked:
        size = text.size(sum(one.size for one in marked))
        when = clock.local(min(one.goes_ns for one in marked))
        told.append(f"{len(marked)} copies are past their keep ({size}): they go from {when} on, until then "
                    "stowage prune --undo")  # fmt: skip
    if done.locked:
        told.append(f"{len(done.locked)} copies were locked, or for longer")
    if done.kept:
        told.append(f"{len(done.kept)} copies that were to go are locked by their targets, and stay")
    told += [f"{one}: it stays until then" for one in dict.fromkeys(done.read)]
    if done.removed:
        told.append(f"{len(done.removed)} copies were removed")
    if done.forgotten:
        told.append(f"{len(done.forgotten)} dumps are gone everywhere")
    return told


def noted(done: Pruned) -> Dict[str, Any]:
    """What the audit log keeps of a prune."""
    marked = sum(one.phase == MARK for one in done.verdicts)
    return {"removed": len(done.removed), "copies": [f"{dump} {target}" for dump, target in done.removed],
            "marked": marked, "forgotten": len(done.forgotten), "problems": len(done.problems),
            "unlocked": len(done.unlocked)}  # fmt: skip


def undo(engine: Engine, dump: Optional[str]) -> int:
    """Takes the marks from the copies of a dump, or from all; how many. Raises Busy, RequestError."""
    from ..dump import runlock

    if dump is not None and engine.catalog.dump(dump) is None:
        raise RequestError(f"there is no dump {text.escape(dump)}", "stowage prune --dry-run")
    with runlock.hold(engine.settings, what="prune", command=engine.command):
        return marks.unmark(engine.catalog, dump)


def kind_of(engine: Engine, name: str) -> str:
    """Whether a person names a dump or a client. Raises RequestError."""
    if ids.parse_dump_name(name) is not None and engine.catalog.dump(name) is not None:
        return marks.DUMP
    if name in engine.settings.clients or engine.catalog.dumps(client=name):
        return marks.CLIENT
    if any(name == one.name for one in marks.held(engine.catalog)):
        return next(one.kind for one in marks.held(engine.catalog) if one.name == name)
    raise RequestError(f"there is no dump and no client {text.escape(name)}", "stowage list dumps")


def hold(engine: Engine, name: str, why: str) -> Tuple[bool, locks.Applied]:
    """Holds a dump or a client, at its targets too where they can; whether it was not held before, and what was done
    there. Raises RequestError."""
    kind = kind_of(engine, name)
    new = marks.hold(engine.catalog, kind, name, why)
    late = tuple(f"a prune has begun to remove {copy.dump} from {copy.target} -> stowage list copies"
                 for copy in _removing(engine, kind, name))  # fmt: skip
    done = _at_targets(engine, kind, name)
    return new, replace(done, problems=(*late, *done.problems))


def _removing(engine: Engine, kind: str, name: str) -> List[Any]:
    """The copies of what was held just now that a prune is removing, or was when it was killed."""
    if kind == marks.DUMP:
        rows = engine.catalog.chain(name)
    else:
        rows = engine.catalog.dumps(client=name)
    names = {row.id for row in rows}
    return [copy for copy in engine.catalog.copies() if copy.dump in names and prune.is_going(copy)]


def release(engine: Engine, name: str, dumps: bool = False) -> Tuple[List[str], locks.Applied]:
    """Takes a hold away, here and at its targets; which names were held, and what was done at targets. dumps: of a
    client, the holds of its dumps, too. Raises RequestError."""
    kind = kind_of(engine, name)
    was = [name] if marks.release(engine.catalog, kind, name) else []
    if dumps:
        if kind != marks.CLIENT:
            raise RequestError(f"{text.escape(name)} is no client", "--dumps is for a client")
        was += [row.id for row in engine.catalog.dumps(client=name)
                if marks.release(engine.catalog, marks.DUMP, row.id)]  # fmt: skip
    return was, _at_targets(engine, kind, name)


def held_of(engine: Engine, name: str) -> List[str]:
    """The dumps of a client, or that a dump needs, that are held by themselves."""
    if name in engine.settings.clients or engine.catalog.dumps(client=name):
        names = {row.id for row in engine.catalog.dumps(client=name)}
    else:
        row = engine.catalog.dump(name)
        names = set() if row is None else {one.id for one in engine.catalog.chain(name)}
    return [one.name for one in marks.held(engine.catalog) if one.kind == marks.DUMP and one.name in names]


def _at_targets(engine: Engine, kind: str, name: str) -> locks.Applied:
    if kind == marks.CLIENT:
        sources = {(row.client, row.source) for row in engine.catalog.dumps(client=name)}
    else:
        row = engine.catalog.dump(name)
        sources = set() if row is None else {(row.client, row.source)}
    return locks.apply(engine.settings, engine.catalog, engine.target, clock.now_ns(), sources=sorted(sources),
                       open_pruning=lambda name: engine.target(name, pruning=True))  # fmt: skip


def growth(engine: Engine, verdicts: Sequence[Verdict]) -> Dict[str, int]:
    """target -> bytes that came in the last 30 days of what stays there for ever."""
    since = clock.now_ns() - MONTH_NS
    found: Dict[str, int] = {}
    for one in verdicts:
        if one.decision.for_ever and one.decision.copy.state in GOOD:
            came = one.size if one.decision.dump.begun_ns >= since else 0
            found[one.decision.copy.target] = found.get(one.decision.copy.target, 0) + came
    return found


def for_ever(engine: Engine) -> Dict[str, int]:
    """target -> bytes that came in the last 30 days of sources whose copies there have no keep; without looking at what
    stays for other reasons."""
    since = clock.now_ns() - MONTH_NS
    endless = {(source.client, source.name, rule.target)
               for source in engine.settings.sources() for rule in source.copies if not rule.keep}  # fmt: skip
    found = {target: 0 for _client, _source, target in sorted(endless)}
    if not found:
        return found
    recent = {row.id: row for row in engine.catalog.dumps() if row.begun_ns >= since}
    for copy in engine.catalog.copies():
        row = recent.get(copy.dump)
        if row is not None and copy.state in GOOD and (row.client, row.source, copy.target) in endless:
            found[copy.target] += copy.bytes or row.stored_size
    return found


def record(one: Verdict) -> Dict[str, Any]:
    """JSON-ready."""
    dump = one.decision.dump
    return {
        "dump": dump.id, "client": dump.client, "source": dump.source, "segment": dump.segment, "level": dump.level,
        "begun": clock.iso(dump.begun_ns), "target": one.decision.copy.target, "bytes": one.size, "phase": one.phase,
        "reason": one.decision.reason,
        "goes": clock.iso(one.goes_ns) if one.phase in (MARK, WAITS, REMOVE) else None,
    }  # fmt: skip
