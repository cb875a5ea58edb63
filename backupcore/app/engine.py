"""Engine: opens the parts and hands them to each other; one method for each thing the command line can ask.

Here lives wiring: the configuration, the drivers, the catalog, open targets, connections, and the order of a
night. What the parts do lives in their rooms; how answers look lives in cli/. Parts are opened when they are first
asked for: a command pays only for what it uses.
"""

from __future__ import annotations

import difflib
import threading
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple, Union

from .. import clock
from ..errors import CatalogError, RequestError, StowageError, TargetRefused
from ..hookspecs import Event, TargetContext, TargetError
from ..ids import is_name
from ..settings import Client, Settings, Source
from . import config, drivers

Progress = Optional[Callable[[dict], None]]


class Engine:
    """All parts of one configuration. Close it, or use it as a context manager."""

    def __init__(self, file: Union[str, Path] = config.DEFAULT, written: Optional[config.Written] = None):
        self.drivers = drivers.load()
        self.configuration = config.load(file, self.drivers, written)
        self.settings: Settings = self.configuration.settings
        self.command = ""  # what a person typed, for those who wait
        self._targets: Dict[Tuple[str, bool], Any] = {}
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
        if "noting" in self.__dict__:
            self.noting.close()
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
    def noting(self) -> Any:
        """What notes what open targets are used for."""
        from .noting import Noting

        return Noting(lambda: self.catalog)

    @cached_property
    def server_id(self) -> str:
        """This server's id."""
        from ..catalog import places

        return places.server_id(self.settings.state)

    def target(self, name: str, pruning: bool = False) -> Any:
        """The open target of that name, opened once; pruning: to remove what retention lets go. Raises RequestError
        when unknown, TargetRefused."""
        with self._lock:
            if (name, pruning) not in self._targets:
                self._targets[name, pruning] = self._open_target(name, pruning)
                self.noting.watch(name, self._targets[name, pruning])
            return self._targets[name, pruning]

    def _open_target(self, name: str, pruning: bool = False) -> Any:
        wanted = self.settings.targets.get(self.target_name(name))
        driver = self.drivers.of("target")[wanted.type]
        context = TargetContext(name, self.server_id, self.settings.state / "targets" / name, pruning)
        try:
            return driver.open(driver.options.model_validate(dict(wanted.options)), context)
        except TargetError as error:
            raise TargetRefused.of(name, error) from None

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
            copies: bool = True, ready: Any = None, due: bool = False, join: bool = False,
            patience: Any = None) -> Any:  # fmt: skip
        """One night, now: a night.RunAnswer. join: waits for a run at work instead of raising Busy."""
        from . import night

        return night.run(self, night.Asked(sources, level, copies, due, join, patience), progress, ready)

    def stage(self, targets: Sequence[str] = (), progress: Progress = None, now: bool = False) -> Any:
        """Makes the copies that the policies ask for and that are not there: a staging.StageAnswer. now: also out of
        their windows. Raises Busy."""
        from . import staging

        return staging.stage(self, targets, progress, now)

    @property
    def connector(self) -> Any:
        """How dumps reach clients: (settings, client) -> a context manager of an AgentConnection."""
        from ..dump import transport

        return transport.connect

    def report_of(self, run: Any, names: Optional[list], running: bool = False, failures: Iterable[str] = ()) -> Any:
        from ..report import night
        from . import promises

        now = clock.now_ns()
        kept = promises.look(self.settings, self.catalog, now) if names is None else ()
        return night.make(
            self.settings, self.catalog, now, run=run, only=names, running=running, failures=failures, promises=kept
        )

    def report(self, run: Optional[str] = None) -> Any:
        """The report of the last run, or of one that is named."""
        from . import pruning

        row = None
        if run is not None:
            row = self.catalog.run(run)
            if row is None or row.kind != "run":
                raise RequestError(f"there is no run {run!r}", "stowage list runs")
        row = row or next(iter(self.catalog.runs(limit=1, kind="run")), None)
        return self.report_of(row, None, running=self._at_work(), failures=pruning.unlocked(self, row))

    def _at_work(self) -> bool:
        """Whether a process holds the lock of a run."""
        from ..dump import runlock

        return runlock.holder(self.settings) is not None

    def tell(self, report: Any) -> List[str]:
        """Sends the report to all that want it; returns what could not be delivered."""
        if not self.settings.events:
            return []
        from ..report import text as report_text

        event = Event(
            "run-finished", report.status, f"stowage {report.headline}", report_text.render(report), report.as_dict()
        )
        return [f"{error.message} -> {error.hint}" for error in self.send(event)]

    def send(self, event: Event) -> List[StowageError]:
        """Sends an event to all that want this kind; returns the failures."""
        from . import telling

        told = (telling.deliver(self, one, event) for one in self.settings.events.values() if event.kind in one.events)
        return [error for error in told if error is not None]

    def status(self) -> Dict[str, Any]:
        """What runs now, as at_work.look()."""
        from . import at_work

        return at_work.look(self)


def unknown(what: str, name: str, known: Iterable[str]) -> RequestError:
    """The error for a name that is not there, with the nearest that is."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, 1, 0.5) if is_name(name) else []
    guess = f', did you mean "{close[0]}"?' if close else ""
    listed = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return RequestError(f'unknown {what} "{name}"{guess}', f"known: {listed}" if known else "none is configured")
