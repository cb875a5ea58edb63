"""Engine: opens the parts and hands them to each other; one method for each thing the command line can ask.

Here lives wiring: the configuration, the drivers, the catalog, open targets, connections, and the order of a
night. What the parts do lives in their rooms; how answers look lives in cli/. Parts are opened when they are first
asked for: a command pays only for what it uses.
"""

from __future__ import annotations

import difflib
import fcntl
import os
import threading
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple, Union

from .. import clock
from ..errors import CatalogError, EventFailed, RequestError, StowageError, TargetRefused
from ..hookspecs import Event, EventError, TargetContext, TargetError
from ..ids import is_name
from ..settings import Client, Settings, Source
from . import config, drivers

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
class StageAnswer:
    """What staging did. problems: images that should have left the holding disk and could not."""

    copies: tuple = ()
    released: tuple = ()
    problems: Tuple[str, ...] = ()


class Engine:
    """All parts of one configuration. Close it, or use it as a context manager."""

    def __init__(self, file: Union[str, Path] = config.DEFAULT, written: Optional[config.Written] = None):
        self.drivers = drivers.load()
        self.configuration = config.load(file, self.drivers, written)
        self.settings: Settings = self.configuration.settings
        self._targets: Dict[str, Any] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives back what was opened."""
        for target in self._targets.values():
            target.close()
        self._targets.clear()
        if "catalog" in self.__dict__:
            self.catalog.close()

    # parts

    @cached_property
    def catalog(self) -> Any:
        """The catalog, made when there is none."""
        from ..catalog import places
        from ..catalog.store import Catalog

        return Catalog(places.catalog_file(self.settings.state))

    @cached_property
    def server_id(self) -> str:
        """This server's id."""
        from ..catalog import places

        return places.server_id(self.settings.state)

    def target(self, name: str) -> Any:
        """The open target of that name, opened once. Raises RequestError when unknown, TargetRefused."""
        with self._lock:
            if name not in self._targets:
                self._targets[name] = self._open_target(name)
            return self._targets[name]

    def _open_target(self, name: str) -> Any:
        wanted = self.settings.targets.get(self.target_name(name))
        driver = self.drivers.of("target")[wanted.type]
        context = TargetContext(name, self.server_id, self.settings.state / "targets" / name)
        try:
            return driver.open(driver.options.model_validate(dict(wanted.options)), context)
        except TargetError as error:
            raise TargetRefused(f"target {name}: {error.message}", error.hint or "stowage check") from None

    def target_name(self, name: str) -> str:
        """name, when it is a target's. Raises RequestError."""
        if name not in self.settings.targets:
            raise unknown("target", name, self.settings.targets)
        return name

    def client(self, name: str) -> Client:
        """The client of that name. Raises RequestError."""
        if name not in self.settings.clients:
            raise unknown("client", name, self.settings.clients)
        return self.settings.clients[name]

    def connect(self, client: Client) -> Any:
        """A connection to a client's agent, as a context manager."""
        from ..dump import transport

        return transport.connect(self.settings, client)

    # what is asked

    def select(self, clients: Sequence[str] = (), sources: Sequence[str] = ()) -> List[Source]:
        """The sources named: of all clients or of some, all of theirs or some. Raises RequestError."""
        chosen = [self.client(name) for name in dict.fromkeys(clients)] or list(self.settings.clients.values())
        for client in chosen:
            if clients and client.state == "retired":
                raise RequestError(f"client {client.name} is retired: nothing of it is dumped any more",
                                   f"stowage list dumps --client {client.name}")  # fmt: skip
        chosen = [client for client in chosen if client.state != "retired"]
        found: List[Source] = []
        seen = set()
        for client in chosen:
            for source in client.sources.values():
                if not sources or source.name in sources or f"{client.name}:{source.name}" in sources:
                    found.append(source)
                    seen |= {source.name, f"{client.name}:{source.name}"}
        for name in sources:
            if name not in seen:
                known = {source for client in chosen for source in client.sources}
                raise unknown("source" + (f" of {', '.join(clients)}" if clients else ""), name, known)
        return found

    def plan(
        self, sources: Optional[List[Source]] = None, level: Optional[int] = None, *, estimate: Optional[str] = None,
        progress: Progress = None, ready: Any = None, due: bool = False,
    ) -> Any:  # fmt: skip
        """Tonight's plan, a planning.Tonight, of a run of these sources (None: of all).

        estimate: clients are asked how large their dumps would be, `all` or `new`: where a night would. ready: a
        dump.warm.Warm, of a run, which may ask them too. due: only what schedules of their own ask for now.
        """
        from . import plan_interim
        from .planning import Planner

        known = self.drivers.of("source")
        settings = self.settings
        if estimate == "new" and settings.planning.estimate == "history":  # who asks is answered
            settings = replace(settings, planning=replace(settings.planning, estimate="auto"))
        planner = Planner(
            settings, self.catalog, untold=frozenset(name for name, one in known.items() if not one.estimate)
        )
        if estimate and ready is None:
            from ..dump.warm import Warm

            with Warm(self.connector) as ready:
                walk = estimate == "all"
                tonight = planner.plan(self.select(), sources, level, walk=walk, ready=ready, progress=progress)
                return plan_interim.add(planner, tonight)
        tonight = planner.plan(self.select(), sources, level, ready=ready, progress=progress, due=due)
        return tonight if due else plan_interim.add(planner, tonight)

    def accuracy(self) -> Dict[str, Any]:
        """How far off the estimates of each source were in the last weeks: `client:source` -> estimates.Accuracy."""
        from ..dump import estimate
        from .planning import unit_id

        return {unit_id(*key): found for key, found in estimate.accuracy(self.catalog, clock.now_ns()).items()}

    def gave_up(self) -> List[Dict[str, Any]]:
        """What the last run had no room for, as its report has it."""
        from ..report import planned

        runs = self.catalog.runs(limit=1, kind="run")
        kept = planned.of(runs[0].summary) if runs else None
        return kept["given_up"] if kept else []

    def force(self, name: str, level: Optional[int]) -> str:
        """The next run makes this level of a source (None: what was asked for is taken back); what to say of it."""
        from . import plan_state

        found = self.select((), [name])
        if len(found) != 1:
            where = ", ".join(f"{one.client}:{one.name}" for one in found[:5])
            raise RequestError(f'"{name}" is a source of several clients', f"name one: {where}")
        (source,) = found
        try:
            if level is None:
                plan_state.forget(self.settings.state, [(source.client, source.name)])
                return f"{source.client}:{source.name}: nothing is asked for any more"
            plan_state.force(self.settings.state, source.client, source.name, level)
        except OSError as error:
            raise CatalogError(f"{self.settings.state} cannot be written: {error.strerror}") from None
        what = "a full" if level == 0 else f"level {level}"
        return f"{source.client}:{source.name}: the next run makes {what}"

    def run(self, sources: Optional[List[Source]] = None, level: Optional[int] = None, progress: Progress = None,
            copies: bool = True, ready: Any = None, due: bool = False) -> RunAnswer:  # fmt: skip
        """One night, now: dumps what is asked for (None: all), copies what is due, reports. Raises Busy.

        A failure of one source or copy costs that one; it stands in the answer. ready: a dump.warm.Warm with
        connections that were begun already. due: only what schedules of their own ask for now.
        """
        from ..dump import driver, runlock, sweep, warm
        from . import cutting, listing, plan_kept, plan_room, plan_told, pruning

        everything = sources is None and not due
        chosen = self.select() if sources is None else sources
        clients = [self.settings.clients[source.client] for source in chosen]
        if due and not self.plan(sources, due=True).planned:
            return self._stage_due(progress) if copies and sources is None else RunAnswer(None, "OK")
        with runlock.hold(self.settings, due), ready or warm.Warm(self.connector) as ready:
            if not due:
                ready.begin(self.settings, clients)
            swept = sweep.sweep(self.settings, self.catalog)
            tonight = self.plan(sources, level, ready=ready, progress=progress, due=due)
            names = None if everything else list(dict.fromkeys((one.client, one.source) for one in tonight.planned))
            if due and not names:
                return RunAnswer(None, "OK")
            run = self.catalog.begin_run("due" if due else "run")
            stopped = "FAIL the run was stopped -> stowage run"
            threading.Thread(target=_load_rest, name="load", daemon=True).start()
            try:
                unkept = _keep(plan_kept.begin, self.settings, tonight, run.id)
                budget = plan_room.budget(self.settings, tonight)
                results = driver.run_dumps(
                    self.settings, self.catalog, tonight.planned, run=run, connect=ready.connect, progress=progress,
                    budget=budget,
                )  # fmt: skip
                tonight = plan_room.after(tonight, budget, results)
                unkept = _keep(plan_kept.end, self.settings, self.catalog, tonight, results) or unkept
                staged = self._stage(run.id, (), names, progress) if copies else StageAnswer()
                parted = cutting.after(self, results)
                found, strange = self._sample(progress) if everything and copies else ([], [])
                undone = self._drill(run.begun_ns) if everything and copies else []
                pruned = pruning.nightly(self, progress) if everything and copies else pruning.Night()
                summary = {"plan": plan_told.summary(tonight, plan_kept.done(self.catalog, results))}
                summary.update(pruned.summary)
                ended = replace(run, ended_ns=clock.now_ns(), summary=summary)
                report = self._report(ended, names, failures=found)
                summary.update(headline=report.headline, bytes=report.bytes)
                self.catalog.end_run(run.id, report.status, summary)
                stopped = ""
            except StowageError as error:  # nothing could be dumped at all: who waits for the mail must hear it
                stopped = f"FAIL {error.message}" + (f" -> {error.hint}" if error.hint else "")
                if everything or due:
                    self.send(Event("run-finished", "FAIL", f"stowage {stopped}", stopped))
                raise
            finally:
                if stopped:  # also by ^C, a signal or a bug: said in the catalog, so that the report knows
                    self.catalog.end_run(run.id, "FAIL", {"headline": stopped, "stopped": True})
            report = replace(report, run=self.catalog.run(run.id))
        notes = [f"{name}: a whole dump that a killed run left was kept" for name in swept.adopted]
        notes += [f"{path}: what a killed run left was removed" for path in swept.removed] + parted + list(pruned.notes)
        warnings = [f"{folder}: {why}" for folder, why in swept.strange] + [*swept.problems, *staged.problems, *undone]
        warnings += pruned.warnings
        warnings += [*strange, *unkept, *([tonight.fault] if tonight.fault else [])]
        # nobody wants a mail an hour of what went well
        warnings += self._tell(report) if everything or due and report.status == "FAIL" else []
        told, unsearched = listing.refresh_search(self)
        warnings += told
        status = "WARN" if warnings and report.status == "OK" else report.status
        return RunAnswer(
            report, status, tuple(results), staged.copies, staged.released, tuple(notes), tuple(warnings),
            tuple(unsearched),
        )  # fmt: skip

    @property
    def connector(self) -> Any:
        """How dumps reach clients: (settings, client) -> a context manager of an AgentConnection."""
        from ..dump import transport

        return transport.connect

    def _stage_due(self, progress: Progress) -> RunAnswer:
        """Makes the copies whose window has opened since; a run that begins meanwhile has the right of way."""
        from ..dump import runlock
        from ..stage import stager

        if not any(rule.windows for policy in self.settings.policies.values() for rule in policy.copies):
            return RunAnswer(None, "OK")
        if not stager.begins_now(self.settings, self.catalog):
            return RunAnswer(None, "OK")
        looked = [0.0, False]

        def leave() -> str:
            if time.monotonic() - looked[0] >= 1:
                looked[:] = time.monotonic(), runlock.is_waited_for(self.settings)
            return "goes on in the run that waited for its end" if looked[1] else ""

        with runlock.hold(self.settings, due=True):
            jobs = {(job.dump.id, job.row.target) for job in stager.begins_now(self.settings, self.catalog)}
            run = self.catalog.begin_run("stage")
            status = "FAIL"
            try:
                staged = self._stage(run.id, (), None, progress, leave=leave,
                                     only=lambda job: (job.dump.id, job.row.target) in jobs)  # fmt: skip
                status = "FAIL" if any(one.failed for one in staged.copies) else "OK"
            finally:
                self.catalog.end_run(run.id, status, {})
        return RunAnswer(None, status, (), staged.copies, staged.released, (), staged.problems)

    def stage(self, targets: Sequence[str] = (), progress: Progress = None, now: bool = False) -> StageAnswer:
        """Makes the copies that the policies ask for and that are not there. now: also out of their windows.
        Raises Busy."""
        from ..dump import runlock, sweep

        for name in targets:
            self.target_name(name)
        with runlock.hold(self.settings):
            sweep.sweep(self.settings, self.catalog)
            run = self.catalog.begin_run("stage")
            status = "FAIL"
            try:
                staged = self._stage(run.id, targets, None, progress, now=now)
                status = "FAIL" if any(one.failed for one in staged.copies) else "OK"
            finally:
                self.catalog.end_run(run.id, status, {})
            return staged

    def _stage(
        self, run: str, targets: Sequence[str], names: Optional[list], progress: Progress, **how: Any
    ) -> StageAnswer:
        from ..dump.status import Status
        from ..stage import release, stager

        with Status(self.settings, run, progress) as status:
            copies = stager.stage(
                self.settings, self.catalog, self.target, targets=list(targets) or None, sources=names,
                progress=status.event, **how,
            )  # fmt: skip
        released = release.release(self.settings, self.catalog)
        return StageAnswer(copies, released.dumps, released.problems)

    def _drill(self, begun_ns: int) -> List[str]:
        """The night's small drill, when it is time; what it could not do. What it found, the report knows."""
        from ..catalog import drills

        if not self.settings.drill.nightly or not drills.due(self.catalog, begun_ns):
            return []
        from . import drilling

        return drilling.nightly(self)

    def _sample(self, progress: Progress) -> Tuple[List[str], List[str]]:
        """Reads a little of what was read longest ago; what was found, for the report, and what is only strange."""
        from . import verifying

        try:
            answer = verifying.night(self, progress)
        except StowageError as error:
            return [f"verify: {error.message}" + (f" -> {error.hint}" if error.hint else "")], []
        return verifying.warnings_of(answer), [f"verify: {one}" for one in answer.strays] if answer else []

    def _report(self, run: Any, names: Optional[list], running: bool = False, failures: Iterable[str] = ()) -> Any:
        from ..report import night

        return night.make(
            self.settings, self.catalog, clock.now_ns(), run=run, only=names, running=running, failures=failures
        )

    def report(self, run: Optional[str] = None) -> Any:
        """The report of the last run, or of one that is named."""
        row = None
        if run is not None:
            row = self.catalog.run(run)
            if row is None or row.kind != "run":
                raise RequestError(f"there is no run {run!r}", "stowage list runs")
        return self._report(row, None, running=self._at_work())

    def _at_work(self) -> bool:
        """Whether a process holds the lock of a run."""
        from ..catalog import places

        try:
            fd = os.open(places.lock_file(self.settings.state), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def _tell(self, report: Any) -> List[str]:
        """Sends the report to all that want it; returns what could not be delivered."""
        if not self.settings.events:
            return []
        from ..report import text as report_text

        event = Event(
            "run-finished", report.status, f"stowage {report.headline}", report_text.render(report), report.as_dict()
        )
        return [f"{error.message} -> {error.hint}" for error in self.send(event)]

    def send(self, event: Event) -> List[StowageError]:
        """Sends an event everywhere; returns the failures."""
        failed: List[StowageError] = []
        for one in self.settings.events.values():
            driver = self.drivers.of("event")[one.type]
            try:
                driver.send(driver.options.model_validate(dict(one.options)), event)
            except EventError as error:
                failed.append(EventFailed(f"event {one.name}: {error.message}", error.hint or "stowage check"))
            except Exception as error:  # a third party's driver may raise anything: it is named, the night goes on
                told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                failed.append(EventFailed(f"event {one.name}: driver {one.type} failed: {told}", "stowage drivers"))
        return failed

    def status(self) -> Optional[dict]:
        """What the run at work does, None when none is."""
        from ..dump import status

        now = status.read(self.settings)
        if now and now.get("alive"):
            return now
        # between two steps of a run nothing keeps the file
        return {"alive": True, "dumps": []} if self._at_work() else None


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


def unknown(what: str, name: str, known: Iterable[str]) -> RequestError:
    """The error for a name that is not there, with the nearest that is."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, 1, 0.5) if is_name(name) else []
    guess = f', did you mean "{close[0]}"?' if close else ""
    listed = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return RequestError(f'unknown {what} "{name}"{guess}', f"known: {listed}" if known else "none is configured")
