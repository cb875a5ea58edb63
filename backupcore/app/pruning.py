"""Pruning for the command line and for the night: the lock, the parts it needs, what is told of it.

Here live the ways in: what would go, the prune itself, undo, hold and release. What goes is decided in
stage/retention.py, how in stage/prune.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence, Tuple

from .. import clock, ids, text
from ..catalog import marks
from ..errors import RequestError, StowageError
from ..stage import prune
from ..stage.prune import MARK, REMOVE, WAITS, Pruned, Verdict
from ..stage.retention import GOOD

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
    with runlock.hold(engine.settings):
        made = engine.catalog.begin_run("prune")
        status, told = "FAIL", []
        try:
            done = _prune(engine, list(targets) or None, progress)
            status, told = ("WARN" if done.problems else "OK"), notes(done)
        finally:
            engine.catalog.end_run(made.id, status, {"headline": "; ".join(told)})
    return done


def nightly(engine: Engine, progress: Progress) -> Night:
    """The prune of a night, under its lock; nothing where nobody wrote a keep."""
    settings = engine.settings
    wanted = any(rule.keep for policy in settings.policies.values() for rule in policy.copies)
    if not (wanted and settings.prune.nightly):
        return Night()
    try:
        done = _prune(engine, None, progress)
    except StowageError as error:
        return Night((), (f"prune: {error.message}" + (f" -> {error.hint}" if error.hint else ""),))
    return Night(tuple(f"prune: {one}" for one in notes(done)), tuple(f"prune: {one}" for one in done.problems))


def _prune(engine: Engine, targets: Optional[List[str]], progress: Progress) -> Pruned:
    return prune.prune(engine.settings, engine.catalog, engine.target, clock.now_ns(), targets, progress)


def notes(done: Pruned) -> List[str]:
    """What a prune did, in a few words."""
    marked = [one for one in done.verdicts if one.phase == MARK]
    told = []
    if marked:
        size = text.size(sum(one.size for one in marked))
        when = clock.local(min(one.goes_ns for one in marked))
        told.append(f"{len(marked)} copies are past their keep ({size}): they go from {when} on, until then "
                    "stowage prune --undo")  # fmt: skip
    if done.removed:
        told.append(f"{len(done.removed)} copies were removed")
    if done.forgotten:
        told.append(f"{len(done.forgotten)} dumps are gone everywhere")
    return told


def undo(engine: Engine, dump: Optional[str]) -> int:
    """Takes the marks from the copies of a dump, or from all; how many. Raises Busy, RequestError."""
    from ..dump import runlock

    if dump is not None and engine.catalog.dump(dump) is None:
        raise RequestError(f"there is no dump {text.escape(dump)}", "stowage prune --dry-run")
    with runlock.hold(engine.settings):
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


def hold(engine: Engine, name: str, why: str) -> bool:
    """Holds a dump or a client; whether it was not before. Raises RequestError."""
    return marks.hold(engine.catalog, kind_of(engine, name), name, why)


def release(engine: Engine, name: str) -> bool:
    """Takes a hold away; whether there was one. Raises RequestError."""
    return marks.release(engine.catalog, kind_of(engine, name), name)


def growth(engine: Engine, verdicts: Sequence[Verdict]) -> Dict[str, int]:
    """target -> bytes that came in the last 30 days of what stays there for ever."""
    since = clock.now_ns() - MONTH_NS
    found: Dict[str, int] = {}
    for one in verdicts:
        if one.decision.for_ever and one.decision.copy.state in GOOD:
            came = one.size if one.decision.dump.begun_ns >= since else 0
            found[one.decision.copy.target] = found.get(one.decision.copy.target, 0) + came
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
