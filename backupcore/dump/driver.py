"""The driver: several dumps at once, each on its own, so that a failure costs one dump.

Here live the threads, the results, and what becomes of a dump that failed. Which dump begins next is admission.py, how
one is made source.py, what hard limits leave of a night budget.py, who gets room on the holding disks space.py. A dump
that gave its room to another, or whose disk failed where there is a second one, is made once more when all others are
through; one that failed by what may mend itself is tried again as again.py says.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, ContextManager, Dict, List, Optional, Sequence, Set, Tuple, Union

from .. import clock
from ..catalog import places
from ..catalog.records import ResultRow, RunRow
from ..errors import StowageError
from ..image.manifest import Signer
from ..image.recipients import Recipient
from ..schedule.bases import Planned
from ..settings import Client, Settings
from ..text import escape
from . import outcome, record, straight, transport
from .admission import Admission
from .again import Patience
from .budget import Budget, Key, OverLimit, key_of
from .direct import Targets
from .holding import DiskFailed, DiskFull, claim
from .networks import Networks
from .source import Run, Unreached, dump_source, no_key, shown_source
from .space import Asker, GaveWay, Relief, Space, Spilled
from .status import Status
from .transport import AgentConnection
from .underway import UnderWay

if TYPE_CHECKING:  # loading the database takes a while: whoever has a catalog has loaded it
    from ..catalog.store import Catalog

LOOK = 30.0  # seconds after which the clock is looked at again, while dumps wait for their time


def run_dumps(
    settings: Settings,
    catalog: Catalog,
    planned: Sequence[Planned],
    *,
    run: RunRow,
    connect: Callable[[Settings, Client], ContextManager[AgentConnection]] = transport.connect,
    progress: Optional[Callable[[Dict[str, Any]], None]] = None,
    budget: Optional[Budget] = None,
    relief: Optional[Relief] = None,
    direct: Optional[Targets] = None,
    made: Callable[[str, str], None] = lambda client, source: None,
    lend: Callable[[Space], None] = lambda space: None,
    status: Optional[Status] = None,
    patience: Patience = Patience(),
) -> List[ResultRow]:
    """Makes the planned dumps, settings.dumps_at_once at once. Call while runlock.hold() holds.

    Results come in the order of planned, stand in the catalog, and whatever happens to one, the others are made.
    budget: the hard limits of the night; what it gave up has no result, or that of what was made in its place.
    direct: where dumps go for which there is no room.
    relief: what makes room on the holding disks, as space.Relief. made(client, source): a dump is in the catalog.
    lend: is given what the room on the holding disks is taken from, for copies that come by way of one.
    status: where progress goes, instead of a status file of its own. patience: how long clients that fail are tried
    again when there is nothing else to do.
    Raises only what makes every dump impossible: no holding disk at all and no target that could stand in, no signing
    key, recipients that nobody can read, or none where every dump is to be sealed.
    """
    server = places.server_id(settings.state)
    signer = Signer.load_or_make(settings.keys)
    recipients = _recipients(settings, planned)
    usable, problems = [], []
    for disk in settings.holding:
        try:
            claim(disk.path, server, catalog)
            usable.append(disk)
        except StowageError as error:
            problems.append(error)
    if problems and not usable and (direct is None or not _any_straight(settings, planned)):
        raise problems[0]
    with contextlib.nullcontext(status) if status else Status(settings, run.id, progress) as status:
        driver = _Driver(settings, catalog, planned, run, [error.message for error in problems], budget, patience)
        driver.tell, driver.made = status.event, made
        space = Space(usable or settings.holding, relief, driver.asker)
        for disk, error in zip(() if usable else settings.holding, problems, strict=False):
            space.lose(disk.path, f"cannot be used ({error.message})")
        lend(space)
        driver.shared = Run(
            settings, catalog, run.id, server, signer, space, connect, driver.event, driver.track, recipients, direct
        )  # fmt: skip
        try:
            driver.tell_later()
            driver.work()
        finally:
            straight.clear(settings, lambda: {row.id: row for row in catalog.dumps()}, direct)
            record.write(settings, catalog, run, server, signer, driver.done())
    return driver.done()


def _any_straight(settings: Settings, planned: Sequence[Planned]) -> bool:
    """Whether a dump could do without any holding disk."""
    sources = [settings.source(one.client, one.source) for one in planned]
    return any(source is not None and source.holding != "required" and source.copies for source in sources)


def _recipients(settings: Settings, planned: Sequence[Planned]) -> Tuple[Recipient, ...]:
    """For whom tonight's dumps are sealed; nobody when none is."""
    known = [one for one in planned if one.client in settings.clients]
    sources = [settings.clients[one.client].sources.get(one.source) for one in known]
    asked = [source.policy for source in sources if source is not None and source.policy.encrypt != "none"]
    if not asked:
        return ()
    from ..keys import store

    found = tuple(one.recipient for one in store.active(settings.keys))
    if not found and len(asked) == len(planned):  # else the others are made, and these fail one by one
        raise no_key(asked[0])
    return found


class _Driver:
    """The queue and the threads of one run."""

    shared: Run
    tell: Callable[[Dict[str, Any]], None]  # progress, to whoever watches
    made: Callable[[str, str], None]

    def __init__(
        self, settings: Settings, catalog: Catalog, planned: Sequence[Planned], run: RunRow, problems: List[str],
        budget: Optional[Budget] = None, patience: Patience = Patience(),
    ):  # fmt: skip
        self._budget = budget
        self._mine: Dict[int, Planned] = {}  # what each thread is at
        self._underway = UnderWay(self._came)
        self._was_again: Set[Key] = set()
        self._ranks = {key_of(one): _rank(settings, one, place) for place, one in enumerate(planned)}
        self._settings, self._catalog, self._run = settings, catalog, run
        self._problems = problems
        self._networks = Networks(settings)
        self._order = list(planned)
        self._admission = Admission(settings, planned, self._ranks, budget, patience)
        self._changed = threading.Condition()
        self._threads = 0
        self._stopping = False
        self._agents: Dict[int, AgentConnection] = {}
        self._results: Dict[Key, ResultRow] = {}
        self._broken: Optional[BaseException] = None

    def done(self) -> List[ResultRow]:
        """The results so far, in the order of the plan."""
        found = (self._results.get((one.client, one.source, one.segment)) for one in self._order)
        return [result for result in found if result is not None]

    def work(self) -> None:
        """Makes all dumps; an interrupt ends those at work and is raised again."""
        # a thread more for each slot that a slow dump may hold
        count = max(1, min(self._settings.dumps_at_once * 2, len(self._order)))
        threads = [threading.Thread(target=self._worker, name=f"dump {number}") for number in range(count)]
        # not by join(): after an interrupt it takes a thread for ended that is not (bpo-45274)
        try:
            for thread in threads:
                with self._changed:
                    self._threads += 1
                thread.start()
            self._wait()
        except BaseException:
            self._stop()
            self._wait()
            raise
        if self._broken is not None:
            raise self._broken

    def tell_later(self) -> None:
        """Says what begins only hours from now: else a run by hand looks as if it hung."""
        now = clock.now_ns()
        later = {(one.client, one.source): one for one in self._order if one.not_before_ns > now}
        for one in later.values():
            self.tell({"client": one.client, "source": one.source, "phase": "waiting", "bytes": 0,
                       "not_before_ns": one.not_before_ns})  # fmt: skip

    def _wait(self) -> None:
        with self._changed:
            while self._threads:
                self._changed.wait()

    def _stop(self) -> None:
        with self._changed:
            self._stopping = True
            agents = list(self._agents.values())
            self._changed.notify_all()
        for agent in agents:
            agent.cut()
        if "shared" in self.__dict__:
            self.shared.space.stop()

    def asker(self) -> Asker:
        """For whom the calling thread asks for room."""
        one = self._mine.get(threading.get_ident())
        if one is None:
            return Asker()
        key = key_of(one)
        rank = self._ranks.get(key, (0, len(self._ranks)))
        source = self._settings.source(one.client, one.source)
        spills = self.shared.direct is not None and source is not None and source.holding != "required"
        return Asker(rank, (one.client, one.source), self._waits_for_room, key not in self._was_again, spills)

    def _waits_for_room(self, why: str) -> None:
        """The calling thread's dump waits; '': no longer."""
        ident = threading.get_ident()
        one = self._mine[ident]
        with self._changed:
            agent = self._agents.get(ident)
        if agent is not None:
            agent.hold_up(bool(why))
        event = self._underway.last() or {
            "client": one.client, "source": shown_source(one.source, one.segment), "phase": "connecting",
            "level": one.level, "entries": 0, "bytes": 0, "total": None,
        }  # fmt: skip
        waits = {"phase": "waiting", "held": True, "why": f"waits for room on the holding disk: {why}"}
        with self._changed:
            self._admission.moved(one, "waiting" if why else event["phase"], event["bytes"])
        self.tell({**event, **waits} if why else event)

    def track(self, agent: Optional[AgentConnection], _source: str) -> None:
        """Remembers the connection of the calling thread, so that an interrupt can cut it; holds it to its network's
        rate."""
        with self._changed:
            if agent is None:
                self._agents.pop(threading.get_ident(), None)
                return
            self._agents[threading.get_ident()] = agent
            pace = self._networks.pace(agent.client)
            if pace is not None:
                agent.reader.narrow()
            agent.reader.pace = self._underway.reading(pace)
            agent.writer.pace = self._networks.sending(agent.client)
            stopping = self._stopping
        if stopping:
            agent.cut()

    def _next(self) -> Optional[Planned]:
        """The next dump for a thread; None when there is nothing left to begin."""
        with self._changed:
            while not self._stopping:
                before = len(self._admission.waiting)
                turn = self._admission.next()
                if turn.planned is None and len(self._admission.waiting) < before:
                    self._changed.notify_all()  # others may wait for what is no more
                if turn.planned is not None or self._admission.is_over():
                    return turn.planned
                # not longer than LOOK: the clock may be set
                self._changed.wait(None if turn.wait is None else min(turn.wait, LOOK))
            return None

    def event(self, event: Dict[str, Any]) -> None:
        """Takes what a dump tells of itself. Raises OverLimit when it is to be ended."""
        one, told = self._mine.get(threading.get_ident()), self._underway.event(event)
        if one is not None:
            with self._changed:
                self._admission.moved(one, event["phase"], event["bytes"])
                if self._budget is not None and event["phase"] in ("dumping", "finishing"):
                    self._budget.grown(one, event["bytes"], whole=event["phase"] == "finishing")
        self.tell(told)

    def _came(self, event: Dict[str, Any]) -> None:
        """So much came of the calling thread's dump, in the middle of a frame."""
        one = self._mine.get(threading.get_ident())
        if one is not None:
            with self._changed:
                self._admission.moved(one, event["phase"], event["bytes"])
            self.tell(event)

    def _over(self, one: Planned, stored: Optional[int], ended: str) -> None:
        """A dump is over. stored: bytes of its image; ended: why it was ended, when it was."""
        if self._budget is None:
            return
        with self._changed:
            other = self._budget.ended(one, ended) if ended else None
            self._budget.done(one, stored)
            if other is not None:
                self._admission.put_back(other)

    def _worker(self) -> None:
        try:
            for one in iter(self._next, None):
                try:
                    self._make(one)
                finally:
                    with self._changed:
                        self._admission.ended(one)
                        self._changed.notify_all()
        except BaseException as error:  # the catalog itself fails: nothing more can be kept
            self._broken = error
            self._stop()
        finally:
            with self._changed:
                self._threads -= 1
                self._changed.notify_all()

    def _make(self, one: Planned) -> None:
        begun, result, stored, ended = time.monotonic(), None, None, ""
        self._mine[threading.get_ident()] = one
        self._underway.begin()
        try:
            result, stored = self._attempt(one, begun)
        except OverLimit as over:
            ended = over.why
        except GaveWay:
            with self._changed:
                self._was_again.add(key_of(one))
                self._admission.put_last(one)
        finally:
            self._mine.pop(threading.get_ident(), None)
            self._over(one, stored, ended)
        if result is None or not result.ok and self._stopping:
            return  # given up, or interrupted: neither good nor the source's fault
        self._catalog.add_result(result)
        self._results[one.client, one.source, one.segment] = result

    def _attempt(self, one: Planned, begun: float) -> Tuple[Optional[ResultRow], Optional[int]]:
        """(what came of it, None when it is tried again later; bytes of the image when there is one)."""
        dumped = None
        try:
            with self._changed:
                known = self._admission.again.verdict(one)
            if known is not None:
                return self._failed(one, known, begun), None
            row, looked = dump_source(self.shared, one)
            self.made(one.client, one.source)
            dumped = {"phase": "done", "level": row.level, "entries": row.entries, "bytes": row.stored_size}
            return outcome.whole(
                self._settings, self._run.id, one, row, [*self._problems, *looked],
                self._admission.again.remark(one), time.monotonic() - begun,
            ), row.stored_size  # fmt: skip
        except Unreached as unreached:
            error, dumped = self._later(one, unreached.error, reached=False)
            return self._failed(one, error, begun), None
        except OverLimit:
            raise
        except GaveWay as gave:
            dumped = outcome.again(one, gave)
            raise
        except Spilled as spilled:  # and no target takes it
            dumped = outcome.again(one, spilled.way)
            raise spilled.way from None
        except (DiskFailed, DiskFull) as error:
            gave = self._elsewhere(one, error)
            if gave is None:
                return self._failed(one, error, begun), None
            dumped = outcome.again(one, gave)
            raise gave from None
        except StowageError as failed:
            error, dumped = self._later(one, failed, reached=True)
            return self._failed(one, error, begun), None
        except Exception as error:  # a bug costs one dump
            return self._failed(one, outcome.fault(error), begun), None
        finally:
            event = dumped or {"phase": "failed", "level": one.level, "entries": 0, "bytes": 0}
            named = {"client": one.client, "source": shown_source(one.source, one.segment)}
            self.tell({**named, "total": None, **event})

    def _later(
        self, one: Planned, error: StowageError, reached: bool
    ) -> Tuple[Optional[StowageError], Optional[Dict[str, Any]]]:
        """What became of a dump that failed: (the error that is the last word on it, None), or (None, what is told
        while it waits for its next try)."""
        with self._changed:
            now = time.monotonic()
            found = self._admission.failed(one, error, reached) if not self._stopping else None
            if found is None:
                return self._admission.again.verdict(one) or error, None
            at = clock.now_ns() + int((found.next - now) * clock.NS)
        told = {"phase": "waiting", "level": one.level, "entries": 0, "bytes": 0, "why": escape(error.message)}
        return None, {**told, "not_before_ns": at, "tries": found.tries + 1}

    def _elsewhere(self, one: Planned, error: Union[DiskFailed, DiskFull]) -> Optional[GaveWay]:
        """What becomes of a dump whose disk has failed: None when there is no other that it could be made on."""
        came = int((self._underway.last() or {}).get("bytes") or 0)
        if isinstance(error, DiskFailed):
            self._problems.append(error.message)
        asker = self.asker()
        if not self.shared.space.leave(error.disk, asker, came, isinstance(error, DiskFailed)) or not asker.again:
            return None
        return GaveWay(error.message, came)

    def _failed(self, one: Planned, error: Optional[StowageError], begun: float) -> Optional[ResultRow]:
        if error is None:
            return None
        return outcome.failed(self._settings, self._run.id, one, error, time.monotonic() - begun)


def _rank(settings: Settings, one: Planned, place: int) -> Tuple[int, int]:
    """Sorts first what is to get room first: by the priority that was asked for, then in the order of the plan."""
    source = settings.source(one.client, one.source)
    return -(source.timing.priority if source is not None else 1), place
