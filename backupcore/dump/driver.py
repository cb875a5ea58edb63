"""The driver: several dumps at once, each on its own, so that a failure costs one dump.

Here live the queue, the threads, the results and the signed record of the run. How one dump is made is source.py,
what hard limits leave of a night budget.py.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Callable, ContextManager, Dict, List, Optional, Sequence, Set, Tuple

from .. import clock, files
from ..catalog import places
from ..catalog.records import FAIL, OK, WARN, ResultRow, RunRow
from ..errors import ClientUnreachable, StowageError
from ..image.manifest import Signer, sign_run_record
from ..image.recipients import Recipient
from ..schedule.bases import Planned
from ..settings import DUMPS_PER_CLIENT, Client, Settings
from ..text import escape
from . import transport
from .budget import Budget, OverLimit
from .holding import Space, claim
from .source import Run, Unreached, dump_source, no_key, remark, shown_source
from .status import Status
from .transport import AgentConnection

if TYPE_CHECKING:  # loading the database takes a while: whoever has a catalog has loaded it
    from ..catalog.store import Catalog

LOOK = 30.0  # seconds after which the clock is looked at again, while dumps wait for their time

Key = Tuple[str, str, str]


def run_dumps(
    settings: Settings,
    catalog: Catalog,
    planned: Sequence[Planned],
    *,
    run: RunRow,
    connect: Callable[[Settings, Client], ContextManager[AgentConnection]] = transport.connect,
    progress: Optional[Callable[[Dict[str, Any]], None]] = None,
    budget: Optional[Budget] = None,
) -> List[ResultRow]:
    """Makes the planned dumps, settings.dumps_at_once at once. Call while runlock.hold() holds.

    Results come in the order of planned, stand in the catalog, and whatever happens to one, the others are made.
    budget: the hard limits of the night; what it gave up has no result, or that of what was made in its place.
    Raises only what makes every dump impossible: no holding disk at all, no signing key, recipients that nobody
    can read, or none where every dump is to be sealed.
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
    if problems and not usable:
        raise problems[0]
    with Status(settings, run.id, progress) as status:
        driver = _Driver(settings, catalog, planned, run, [error.message for error in problems], budget)
        driver.tell = status.event
        driver.shared = Run(
            settings, catalog, run.id, server, signer, Space(usable), connect, driver.event, driver.track, recipients
        )  # fmt: skip
        try:
            driver.tell_later()
            driver.work()
        finally:
            write_record(settings, catalog, run, server, signer, driver.done())
    return driver.done()


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


def status_of(results: Sequence[ResultRow]) -> str:
    """OK, WARN or FAIL, by the results alone (what is past its rpo is the report's affair)."""
    if any(not result.ok and not result.warning for result in results):
        return FAIL
    return WARN if any(result.warning for result in results) else OK


def write_record(
    settings: Settings, catalog: Catalog, run: RunRow, server: str, signer: Signer, results: Sequence[ResultRow]
) -> None:
    """<state>/runs/<run>.json and .sig: the digests of all manifests of the run, to witness what is lost later."""
    rows = [catalog.dump(result.dump) for result in results if result.dump]
    made = [
        {"client": row.client, "source": row.source, **({"segment": row.segment} if row.segment else {}),
         "dump": row.id, "counter": row.counter, "manifest_sha256": row.manifest_sha256}
        for row in rows if row is not None
    ]  # fmt: skip
    data, signature = sign_run_record(
        signer, server, run.id, run.begun_ns, max(clock.now_ns(), run.begun_ns), status_of(results), made
    )
    path = places.run_record(settings.state, run.id)
    files.make_folder(path.parent)
    files.replace(path, data)
    files.replace(path.with_suffix(".sig"), signature)


class _Driver:
    """The queue and the threads of one run."""

    shared: Run
    tell: Callable[[Dict[str, Any]], None]  # progress, to whoever watches

    def __init__(
        self, settings: Settings, catalog: Catalog, planned: Sequence[Planned], run: RunRow, problems: List[str],
        budget: Optional[Budget] = None,
    ):  # fmt: skip
        self._budget = budget
        self._mine: Dict[int, Planned] = {}  # what each thread is at
        self._settings, self._catalog, self._run = settings, catalog, run
        self._problems = problems
        self._order = list(planned)
        self._waiting = list(planned)
        self._at_work: Dict[str, int] = {}
        self._busy: Set[Tuple[str, str]] = set()  # sources: scripts around a dump must not meet themselves
        self._changed = threading.Condition()
        self._threads = 0
        self._stopping = False
        self._agents: Dict[int, AgentConnection] = {}
        self._unreached: Dict[str, StowageError] = {}
        self._results: Dict[Key, ResultRow] = {}
        self._broken: Optional[BaseException] = None

    def done(self) -> List[ResultRow]:
        """The results so far, in the order of the plan."""
        found = (self._results.get((one.client, one.source, one.segment)) for one in self._order)
        return [result for result in found if result is not None]

    def work(self) -> None:
        """Makes all dumps; an interrupt ends those at work and is raised again."""
        count = max(1, min(self._settings.dumps_at_once, len(self._order)))
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

    def track(self, agent: Optional[AgentConnection], _source: str) -> None:
        """Remembers the connection of the calling thread, so that an interrupt can cut it."""
        with self._changed:
            if agent is None:
                self._agents.pop(threading.get_ident(), None)
                return
            self._agents[threading.get_ident()] = agent
            stopping = self._stopping
        if stopping:
            agent.cut()

    def _next(self) -> Optional[Planned]:
        """The next dump for a thread: of the client with the fewest at work; None when there is nothing left."""
        with self._changed:
            while self._waiting and not self._stopping:
                now = clock.now_ns()
                free = [one for one in self._waiting if (one.client, one.source) not in self._busy]
                may = [one for one in free if one.not_before_ns <= now]
                one, left = self._first(may, now)
                if one is not None:
                    self._at_work[one.client] = self._at_work.get(one.client, 0) + 1
                    self._busy.add((one.client, one.source))
                    if self._budget is not None:
                        self._budget.begin(one)
                    return one
                if left:
                    self._changed.notify_all()  # others may wait for what is no more
                    continue
                later = [one.not_before_ns - now for one in self._waiting if one.not_before_ns > now]
                # not longer than LOOK: the clock may be set
                self._changed.wait(min(min(later) / clock.NS, LOOK) if later else None)
            return None

    def _first(self, may: List[Planned], now: int) -> Tuple[Optional[Planned], bool]:
        """(the dump to begin now, None when there is none; whether one has left the queue)."""
        budget = self._budget

        def place(one: Planned) -> Tuple[int, int]:
            # stable: within a client, and between clients, in the order of the plan
            return budget.order(one) if budget is not None else 0, self._at_work.get(one.client, 0)

        able = [one for one in may if self._at_work.get(one.client, 0) < DUMPS_PER_CLIENT]
        first = min(able, key=place, default=None)
        if first is None:
            return None, False
        one, left = (first, True) if budget is None else budget.settle(first, self._waiting, now)
        if left:
            self._waiting.remove(first)
        return one, left

    def event(self, event: Dict[str, Any]) -> None:
        """Takes what a dump tells of itself. Raises OverLimit when it is to be ended."""
        one = self._mine.get(threading.get_ident())
        if self._budget is not None and one is not None and event["phase"] in ("dumping", "finishing"):
            with self._changed:
                self._budget.grown(one, event["bytes"], whole=event["phase"] == "finishing")
        self.tell(event)

    def _over(self, one: Planned, stored: Optional[int], ended: str) -> None:
        """A dump is over. stored: bytes of its image; ended: why it was ended, when it was."""
        if self._budget is None:
            return
        with self._changed:
            other = self._budget.ended(one, ended) if ended else None
            self._budget.done(one, stored)
            if other is not None:
                self._waiting.insert(0, other)

    def _worker(self) -> None:
        try:
            for one in iter(self._next, None):
                try:
                    self._make(one)
                finally:
                    with self._changed:
                        self._at_work[one.client] -= 1
                        self._busy.discard((one.client, one.source))
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
        try:
            result, stored = self._attempt(one, begun)
        except OverLimit as over:
            ended = over.why
        finally:
            self._mine.pop(threading.get_ident(), None)
            self._over(one, stored, ended)
        if result is None or not result.ok and self._stopping:
            return  # given up, or interrupted: neither good nor the source's fault
        self._catalog.add_result(result)
        self._results[one.client, one.source, one.segment] = result

    def _attempt(self, one: Planned, begun: float) -> Tuple[ResultRow, Optional[int]]:
        """(what came of it, bytes of the image when there is one)."""
        dumped = None
        try:
            known = self._unreached.get(one.client)
            if known is not None:
                raise known
            row, looked = dump_source(self.shared, one)
            dumped = {"phase": "done", "level": row.level, "entries": row.entries, "bytes": row.stored_size}
            looked = [*self._problems, *looked]
            if row.warnings:
                looked.append(f"{row.warnings} warnings" + (f", the first: {_first(row.notes, looked)}"))
            policy = self._settings.clients[one.client].sources[one.source].policy
            said = [text for text in (*looked, remark(row, policy)) if text]
            return ResultRow(
                self._run.id, one.client, one.source, True, row.level, row.id,
                code="warning" if looked else "", message="; ".join(said)[:2000], hint="",
                seconds=time.monotonic() - begun, warning=bool(looked), segment=one.segment,
            ), row.stored_size  # fmt: skip
        except Unreached as unreached:
            self._unreached.setdefault(one.client, unreached.error)
            return self._failed(one, unreached.error, begun), None
        except OverLimit:
            raise
        except StowageError as error:
            return self._failed(one, error, begun), None
        except Exception as error:  # a bug costs one dump, and says so
            place = error.__traceback__
            while place is not None and place.tb_next is not None:
                place = place.tb_next
            where = f" ({place.tb_frame.f_code.co_filename}:{place.tb_lineno})" if place is not None else ""
            return self._failed(
                one,
                StowageError(f"a fault of Stowage itself: {type(error).__name__}: {error}{where}", "please report it"),
                begun,
            ), None
        finally:
            event = dumped or {"phase": "failed", "level": one.level, "entries": 0, "bytes": 0}
            named = {"client": one.client, "source": shown_source(one.source, one.segment)}
            self.tell({**named, "total": None, **event})

    def _failed(self, one: Planned, error: StowageError, begun: float) -> ResultRow:
        client: Optional[Client] = self._settings.clients.get(one.client)
        away = isinstance(error, ClientUnreachable) and client is not None and client.presence == "roaming"
        return ResultRow(
            self._run.id, one.client, one.source, False, one.level, None, code=error.code,
            message=escape(error.message)[:2000], hint=escape(error.hint)[:500],
            seconds=time.monotonic() - begun, warning=away, segment=one.segment,
        )  # fmt: skip


def _first(notes: Sequence[str], looked: Sequence[str]) -> str:
    return next((note for note in notes if note not in looked), "")
