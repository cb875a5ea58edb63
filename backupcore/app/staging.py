"""Staging by itself: the copies that are due, what is locked after them, and the images that may go.

Here live the orders of `stowage stage` and of the small staging that the timer of what is due begins; a night's copies
are made beside its dumps (beside.py). What the parts do lives in stage/.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence, Tuple

if TYPE_CHECKING:
    from .engine import Engine

Progress = Optional[Callable[[dict], None]]


@dataclass(frozen=True)
class StageAnswer:
    """What staging did. problems: images that should have left the holding disk and could not. unlocked: copies that
    are not locked at their targets as they should be, each with the next step."""

    copies: tuple = ()
    released: tuple = ()
    problems: Tuple[str, ...] = ()
    unlocked: Tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """Of the run that made it."""
        return "FAIL" if self.unlocked or any(one.failed for one in self.copies) else "OK"


def stage(engine: Engine, targets: Sequence[str] = (), progress: Progress = None, now: bool = False,
          jobs: Optional[Callable[[], Sequence[Any]]] = None, origin: str = "") -> StageAnswer:  # fmt: skip
    """Makes the copies that the policies ask for and that are not there. now: also out of their windows. jobs(): these
    copies and no others, from the target origin. Raises Busy."""
    from ..dump import runlock, sweep
    from .direct import DirectTargets

    for name in targets:
        engine.target_name(name)
    with runlock.hold(engine.settings, what="stage", command=engine.command):
        direct = DirectTargets(engine)
        sweep.sweep(engine.settings, engine.catalog, direct)
        these = {} if jobs is None else {"jobs": jobs, "origin": origin}
        try:
            return _run(engine, targets, progress, now=now, **these)
        finally:
            direct.tidy()


def stage_due(engine: Engine, progress: Progress) -> Optional[StageAnswer]:
    """Makes the copies whose window has opened since, None when there are none; a run that begins meanwhile has the
    right of way. Raises Busy."""
    from ..dump import runlock
    from ..stage import stager

    if not any(rule.windows or rule.after for source in engine.settings.sources() for rule in source.copies):
        return None
    if not stager.begins_now(engine.settings, engine.catalog):
        return None
    looked = [0.0, False]

    def leave() -> str:
        if time.monotonic() - looked[0] >= 1:
            looked[:] = time.monotonic(), runlock.is_waited_for(engine.settings)
        return "goes on in the run that waited for its end" if looked[1] else ""

    with runlock.hold(engine.settings, due=True, what="stage", command=engine.command):
        jobs = {(job.dump.id, job.row.target) for job in stager.begins_now(engine.settings, engine.catalog)}
        return _run(engine, (), progress, leave=leave, only=lambda job: (job.dump.id, job.row.target) in jobs)


def _run(engine: Engine, targets: Sequence[str], progress: Progress, **how: Any) -> StageAnswer:
    """Copies, with a run of their own in the catalog."""
    from ..dump.status import Status
    from ..stage import stager
    from .beside import rooms

    run = engine.catalog.begin_run("stage")
    status = "FAIL"
    try:
        if "jobs" in how:
            how["jobs"] = how["jobs"]()
        with Status(engine.settings, run.id, progress) as telling:
            copies = stager.stage(
                engine.settings, engine.catalog, engine.target, targets=list(targets) or None, progress=telling.event,
                rooms=rooms(engine.settings), **how,
            )  # fmt: skip
        answer = after(engine, copies)
        status = answer.status
    finally:
        engine.catalog.end_run(run.id, status, {})
    return answer


def after(engine: Engine, copies: tuple, released: Sequence[str] = (), problems: Sequence[str] = ()) -> StageAnswer:
    """What follows when copies are made: locks, and images that may go. released, problems: of those that had to leave
    before."""
    from ..stage import release
    from . import pruning

    unlocked = pruning.lock(engine, {(one.dump, one.target) for one in copies if one.ok})
    gone = release.release(engine.settings, engine.catalog)
    return StageAnswer(copies, (*released, *gone.dumps), (*problems, *gone.problems), unlocked)


def older(engine: Engine, copies: Sequence[Any]) -> List[str]:
    """The copies that failed and are of no newest dump, of which alone the report asks the catalog: a line a target."""
    found: Dict[str, List[Any]] = {}
    newest: Dict[Tuple[str, str], set] = {}
    for one in copies:
        key = (one.client, one.source)
        if one.failed and key not in newest:
            newest[key] = {row.id for row in engine.catalog.newest(*key).values()}
        if one.failed and one.dump not in newest[key]:
            found.setdefault(one.target, []).append(one)
    lines = []
    for target, failed in found.items():
        first, count = failed[0], f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        why = f"{first.message}" + (f" -> {first.hint}" if first.hint else "")
        lines.append(f"no copy on {target} of the older dump {first.client}:{first.source} {first.dump}{count}: {why}")
    return lines
