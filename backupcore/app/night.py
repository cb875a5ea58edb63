"""The order of a night: dumps, copies, what is looked at after them, the report.

Here live the steps and what each leaves to the next. What the parts do lives in their rooms, how they are opened in
engine.py, staging by itself in staging.py, what is taken from a run that was waited for in joining.py.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

from .. import clock
from ..errors import StowageError
from ..hookspecs import Event
from ..settings import Source
from .staging import StageAnswer

if TYPE_CHECKING:
    from .engine import Engine

Progress = Optional[Callable[[dict], None]]


@dataclass(frozen=True)
class RunAnswer:
    """What a run did. report: the judgement; status is its status, or WARN when only a message was not delivered."""

    report: Any
    status: str
    results: tuple = ()
    copies: tuple = ()
    released: tuple = ()
    notes: Tuple[str, ...] = ()
    warnings: Tuple[str, ...] = ()
    unsearched: tuple = ()  # records of the dumps that are not in the search


@dataclass(frozen=True)
class Asked:
    """What a run is asked for. sources None: all. due: only what schedules of their own ask for now. copies: they are
    made, too. join: a run at work is waited for, and what it dumps meanwhile is not dumped again. patience: how long
    clients that fail are waited for (a dump.again.Patience), None: no longer than other dumps go on."""

    sources: Optional[List[Source]] = None
    level: Optional[int] = None
    copies: bool = True
    due: bool = False
    join: bool = False
    patience: Any = None

    @property
    def everything(self) -> bool:
        """Whether this is a night."""
        return self.sources is None and not self.due


def run(engine: Engine, asked: Asked, progress: Progress = None, ready: Any = None) -> RunAnswer:
    """One night, now: dumps what is asked for, copies what is due, reports. Raises Busy.

    A failure of one source or copy costs that one; it stands in the answer. ready: a dump.warm.Warm with
    connections that were begun already.
    """
    from ..dump import runlock, warm
    from . import joining, staging

    night = _Night(engine, asked, progress)
    if asked.due and not engine.plan(asked.sources, due=True).planned:
        staged = staging.stage_due(engine, progress) if asked.copies and asked.sources is None else None
        return night.only_staged(staged)
    with ready or warm.Warm(engine.connector) as ready:
        join = joining.teller(ready, progress) if asked.join else None
        with runlock.hold(engine.settings, asked.due, command=engine.command, join=join) as turn:
            if join is not None and turn.waited:
                joining.over(progress)
            if not night.plan(ready, turn):
                return RunAnswer(None, "OK")
            night.go(ready)
    return night.answer()


class _Night:
    """The steps of a run, in their order; each leaves what it found to those after it."""

    def __init__(self, engine: Engine, asked: Asked, progress: Progress):
        self.engine, self.asked, self.progress = engine, asked, progress
        self.settings, self.catalog = engine.settings, engine.catalog
        self.names: Optional[List[Tuple[str, str]]] = None  # (client, source) of those asked for, None: all
        self.taken: List[Any] = []  # results of the run that was waited for
        self.notes: List[str] = []
        self.unkept: List[str] = []
        self.found: List[str] = []
        self.strange: List[str] = []
        self.undone: List[str] = []
        self.summary: Dict[str, Any] = {}
        self.report: Any = None

    def only_staged(self, staged: Optional[StageAnswer]) -> RunAnswer:
        """The answer where no dump is due."""
        if staged is None:
            return RunAnswer(None, "OK")
        return RunAnswer(None, staged.status, (), staged.copies, staged.released, (),
                         (*staged.problems, *staged.unlocked))  # fmt: skip

    # under the lock

    def plan(self, ready: Any, turn: Any) -> bool:
        """Clears what a killed run left, and plans; whether there is anything to do."""
        from ..dump import sweep
        from . import joining
        from .direct import DirectTargets

        engine, asked = self.engine, self.asked
        if not asked.due:
            chosen = engine.select() if asked.sources is None else asked.sources
            ready.begin(self.settings, [self.settings.clients[source.client] for source in chosen])
        self.direct = DirectTargets(engine)
        self.swept = sweep.sweep(self.settings, self.catalog, self.direct)
        self.tonight = engine.plan(asked.sources, asked.level, ready=ready, progress=self.progress, due=asked.due)
        if not asked.everything:
            self.names = list(dict.fromkeys((one.client, one.source) for one in self.tonight.planned))
            if asked.due and not self.names:
                return False
        if asked.join and turn.waited:
            self.tonight, self.taken, told = joining.take(engine, self.tonight, turn.asked_ns, asked.level)
            self.notes += told
        return True

    def go(self, ready: Any) -> None:
        """All that a run does, and its end in the catalog, however it ends."""
        from . import auditing, promises, telling

        self.run = self.catalog.begin_run("due" if self.asked.due else "run")
        promises.note(self.settings)
        self.unnoted = auditing.seen(self.settings)
        self.begin_told = telling.begun(self.engine, self.run) if self.asked.everything else telling.nobody
        stopped = "FAIL the run was stopped -> stowage run"
        threading.Thread(target=_load_rest, name="load", daemon=True).start()
        try:
            self._dump(ready)
            self._look()
            self._judge()
            stopped = ""
        except StowageError as error:  # nothing could be dumped at all: who waits for the mail must hear it
            stopped = f"FAIL {error.message}" + (f" -> {error.hint}" if error.hint else "")
            if self.asked.everything or self.asked.due:
                self.begin_told()
                self.engine.send(Event("run-finished", "FAIL", f"stowage {stopped}", stopped))
            raise
        finally:
            if stopped:  # also by ^C, a signal or a bug: said in the catalog, so that the report knows
                self.catalog.end_run(self.run.id, "FAIL", {"headline": stopped, "stopped": True})

    def _dump(self, ready: Any) -> None:
        """The dumps, and the copies beside them."""
        from ..dump import driver
        from ..dump.status import Status
        from . import at_work, plan_kept, plan_room
        from .beside import Beside

        engine = self.engine
        for result in self.taken:
            self.catalog.add_result(replace(result, run=self.run.id))
        self.unkept = _keep(plan_kept.begin, self.settings, self.tonight, self.run.id)
        budget = plan_room.budget(self.settings, self.tonight)
        with Status(self.settings, self.run.id, self.progress) as status:
            todo = at_work.todo(engine, self.tonight, self.asked.copies)
            status.expect(todo, self.settings.dumps_at_once)
            how = {"budget": budget, "direct": self.direct, "connect": ready.connect, "status": status}
            if self.asked.patience is not None:
                how["patience"] = self.asked.patience
            with Beside(engine, self.names, status) if self.asked.copies else contextlib.nullcontext() as beside:
                if beside is not None:
                    status.queue = beside.waiting
                    how.update(relief=beside.relief, made=beside.made, lend=beside.lend)
                    self.direct.staging = beside.paces
                self.results = driver.run_dumps(self.settings, self.catalog, self.tonight.planned, run=self.run, **how)
                self.tonight = plan_room.after(self.tonight, budget, self.results)
                kept = _keep(plan_kept.end, self.settings, self.catalog, self.tonight, self.results, self.taken)
                self.unkept = kept or self.unkept
                made = beside.finish() if beside is not None else ()
                self.direct.tidy()
        self.beside, self.made = beside, made

    def _look(self) -> None:
        """What follows the dumps: locks, images that may go, segments; in a night a sample, a drill and a prune."""
        from . import cutting, pruning, staging

        beside, engine = self.beside, self.engine
        self.staged = (
            staging.after(engine, self.made, beside.released, beside.problems) if beside is not None else StageAnswer()
        )
        self.notes += cutting.after(engine, self.results)
        self.pruned = pruning.Night()
        if self.asked.everything and self.asked.copies:
            self.found, self.strange = _sample(engine, self.progress)
            self.undone = _drill(engine, self.run.begun_ns)
            self.pruned = pruning.nightly(engine, self.progress)

    def _judge(self) -> None:
        """The report, and the run's end in the catalog."""
        from . import plan_kept, plan_told, staging

        done = plan_kept.done(self.catalog, [*self.taken, *self.results])
        summary = self.summary
        summary["plan"] = plan_told.summary(self.tonight, done)
        summary["everything"] = self.asked.everything
        summary.update(self.pruned.summary)
        if self.staged.unlocked:
            summary["unlocked"] = list(self.staged.unlocked)
        ended = replace(self.run, ended_ns=clock.now_ns(), summary=summary)
        failures = [*self.found, *self.staged.unlocked, *staging.older(self.engine, self.staged.copies)]
        self.report = self.engine.report_of(ended, self.names, failures=failures)
        summary.update(headline=self.report.headline, bytes=self.report.bytes)
        self.catalog.end_run(self.run.id, self.report.status, summary)
        self.report = replace(self.report, run=self.catalog.run(self.run.id))

    # when the lock is free again

    def answer(self) -> RunAnswer:
        """Tells who is to be told; what the run did."""
        from . import listing

        swept, report = self.swept, self.report
        notes = [f"{name}: a whole dump that a killed run left was kept" for name in swept.adopted]
        notes += [f"{path}: what a killed run left was removed" for path in swept.removed]
        notes += [*self.notes, *self.pruned.notes]
        warnings = [f"{folder}: {why}" for folder, why in swept.strange]
        warnings += [*swept.problems, *self.staged.problems, *self.undone, *self.pruned.warnings, *self.unnoted]
        warnings += [*self.strange, *self.unkept, *([self.tonight.fault] if self.tonight.fault else [])]
        warnings += self.begin_told()
        # nobody wants a mail an hour of what went well
        if self.asked.everything or self.asked.due and report.status == "FAIL":
            warnings += self.engine.tell(report)
        told, unsearched = listing.refresh_search(self.engine)
        warnings += told
        status = "WARN" if warnings and report.status == "OK" else report.status
        return RunAnswer(
            report, status, (*self.taken, *self.results), self.staged.copies, self.staged.released, tuple(notes),
            tuple(warnings), tuple(unsearched),
        )  # fmt: skip


def _drill(engine: Engine, begun_ns: int) -> List[str]:
    """The night's small drill, when it is time; what it could not do. What it found, the report knows."""
    from ..catalog import drills

    if not engine.settings.drill.nightly or not drills.due(engine.catalog, begun_ns):
        return []
    from . import drilling

    return drilling.nightly(engine)


def _sample(engine: Engine, progress: Progress) -> Tuple[List[str], List[str]]:
    """Reads a little of what was read longest ago; what was found, for the report, and what is only strange."""
    from . import verifying

    try:
        answer = verifying.night(engine, progress)
    except StowageError as error:
        return [f"verify: {error.message}" + (f" -> {error.hint}" if error.hint else "")], []
    return verifying.warnings_of(answer), [f"verify: {one}" for one in answer.strays] if answer else []


def _keep(step: Callable[..., Any], *args: Any) -> List[str]:
    """Does a step of planning that only makes later nights even; what is to be said when it fails."""
    try:
        step(*args)
    except OSError as error:
        return [f"what makes nights even could not be kept: {error.filename or ''} {error.strerror}"]
    except StowageError as error:
        return [f"what makes nights even could not be kept: {error.message}"]
    return []


def _load_rest() -> None:
    """Loads what a run needs after its dumps, while they wait for their clients."""
    from ..report import night  # noqa: F401
    from ..restore import find  # noqa: F401
    from ..stage import release, stager  # noqa: F401
