"""Estimates: the agents of many clients asked at once, before the plan, how large tonight's dumps would be.

Here live the threads, their time limits, the checks of what comes back and the answer: who is there, and what was
found. An agent that does not answer in time is cut off; one that is older than estimates is not asked; whatever goes
wrong with one client is said in its answer and costs nobody else. What sizes mean is schedule.estimates.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from .. import clock, wire
from ..catalog.records import DumpRow, EstimateRow
from ..errors import ClientUnreachable, StowageError, WireError
from ..schedule import estimates
from ..schedule.estimates import Accuracy, Expected, Walked
from ..settings import Client, Settings
from ..text import escape
from . import transport
from .transport import AgentConnection

if TYPE_CHECKING:  # loading the database takes a while: whoever has a catalog has loaded it
    from ..catalog.store import Catalog

LIMIT = 120.0  # seconds for all sources of a client: two million entries a minute and more on a slow disk
GRACE = 15.0  # beyond its limit, for an agent whose file system answers slowly
AT_ONCE = 32  # clients: the walks are theirs, a connection costs this machine some milliseconds
LOOKED_AT = 28 * estimates.DAY_NS  # how far back estimates are judged
MOST_BYTES, MOST_ENTRIES = 1 << 50, 1 << 40  # more is no source of one client

Connect = Callable[[Settings, Client], AgentConnection]
Keep = Callable[[Settings, Client, AgentConnection], None]


@dataclass(frozen=True)
class Part:
    """What is counted by itself: a source ("", no folders), or folders of it; the part without folders is all that no
    other has. since: level -> when its base began (ns). recent: since when an interim dump takes what was changed."""

    since: Mapping[int, int] = field(default_factory=dict)
    name: str = ""
    folders: Tuple[bytes, ...] = ()
    recent: Optional[int] = None

    @property
    def moments(self) -> List[int]:
        """What an agent is asked for, ascending."""
        return sorted({*self.since.values(), *([] if self.recent is None else [self.recent])})


@dataclass(frozen=True)
class Ask:
    """A source that is to be walked, once for all its parts."""

    source: str
    parts: Tuple[Part, ...] = (Part(),)


@dataclass(frozen=True)
class Heard:
    """Of one client. error: why it could not be talked to; away: it is because it cannot be reached.

    walked: (source, part) -> what was found. notes: one line for each source that has no answer, and why.
    """

    client: str
    error: Optional[StowageError] = None
    walked: Mapping[Tuple[str, str], Walked] = field(default_factory=dict)
    notes: Tuple[str, ...] = ()
    interim: bool = False  # its agent knows interim dumps

    @property
    def reachable(self) -> bool:
        """Whether its agent answered."""
        return self.error is None

    @property
    def away(self) -> bool:
        """Whether nothing answered at all: the machine is off, or elsewhere."""
        return isinstance(self.error, ClientUnreachable)


def ask(
    settings: Settings, asks: Mapping[str, Sequence[Ask]], *, connect: Connect = transport.connect,
    keep: Optional[Keep] = None, limit: float = LIMIT, at_once: int = AT_ONCE,
    progress: Optional[Callable[[Dict[str, Any]], None]] = None,
) -> Dict[str, Heard]:  # fmt: skip
    """What the clients say, by name. asks: client -> what is to be walked; nothing: only whether it is there.

    limit: seconds for all of a client's walks. connect and keep: of a warm.Warm, which then has the connections for
    the dumps. Raises only what interrupts this process.
    """
    return _Round(settings, asks, connect, keep, limit, progress).work(min(at_once, max(1, len(asks))))


class _Over(Exception):
    """A conversation ended before its time; why is among the notes."""


class _Round:
    """The threads. Connections that are over their time are cut by the thread that waits for all."""

    def __init__(
        self, settings: Settings, asks: Mapping[str, Sequence[Ask]], connect: Connect, keep: Optional[Keep],
        limit: float, progress: Optional[Callable[[Dict[str, Any]], None]],
    ):  # fmt: skip
        self._settings, self._asks, self._limit = settings, asks, limit
        self._connect, self._keep, self._progress = connect, keep, progress
        # who has most to tell goes first
        self._waiting = sorted(asks, key=lambda name: -len(asks[name]))
        self._heard: Dict[str, Heard] = {}
        self._changed = threading.Condition()
        self._at_work: Dict[int, Tuple[float, AgentConnection]] = {}  # thread -> when it is cut
        self._threads = 0
        self._stopping = False

    def work(self, count: int) -> Dict[str, Heard]:
        threads = [threading.Thread(target=self._worker, name=f"estimate {number}") for number in range(count)]
        try:
            for thread in threads:
                with self._changed:
                    self._threads += 1
                thread.start()
            self._watch()
        except BaseException:
            with self._changed:
                self._stopping = True
                agents = [agent for _end, agent in self._at_work.values()]
            for agent in agents:
                agent.cut()
            with self._changed:
                while self._threads:
                    self._changed.wait()
            raise
        unheard = StowageError("a fault of Stowage itself: its estimate never ended", "please report it")
        return {name: self._heard.get(name) or Heard(name, unheard) for name in self._asks}

    def _watch(self) -> None:
        with self._changed:
            while self._threads:
                now = time.monotonic()
                late = [(thread, agent) for thread, (end, agent) in self._at_work.items() if end <= now]
                for thread, agent in late:
                    del self._at_work[thread]
                    agent.cut()
                first = min((end for end, _agent in self._at_work.values()), default=math.inf)
                self._changed.wait(max(0.01, first - now) if first < math.inf else None)

    def _worker(self) -> None:
        try:
            while True:
                with self._changed:
                    if self._stopping or not self._waiting:
                        return
                    name = self._waiting.pop(0)
                try:
                    heard = self._one(name, list(self._asks[name]))
                except StowageError as error:
                    heard = Heard(name, error)
                except Exception as error:  # a bug costs one client's estimates, and says so
                    told = f"a fault of Stowage itself: {type(error).__name__}: {error}"
                    heard = Heard(name, StowageError(told, "please report it"))
                with self._changed:
                    self._heard[name] = heard
                if self._progress is not None:
                    self._progress({"phase": "estimated", "client": name, "done": len(self._heard),
                                    "total": len(self._asks)})  # fmt: skip
        finally:
            with self._changed:
                self._threads -= 1
                self._changed.notify_all()

    def _one(self, name: str, wanted: List[Ask]) -> Heard:
        """All of one client, over one connection as long as nothing goes wrong. Raises when it cannot be talked to."""
        client = self._settings.clients[name]
        walked: Dict[Tuple[str, str], Walked] = {}
        notes: List[str] = []
        interim = False
        end = time.monotonic() + self._limit
        while True:
            agent = None
            try:
                agent = self._connect(self._settings, client)
                self._track(agent, math.inf)
                interim = agent.hello().get("interim") is True
                if agent.hello().get("estimate") is not True:
                    wanted = []  # an older agent: its history must do
                while wanted:
                    one = wanted.pop(0)
                    seconds = max(0.0, end - time.monotonic()) / (len(wanted) + 1)
                    found, problem = self._walk(agent, one, seconds, end + GRACE, notes)
                    walked.update(found)
                    if problem:
                        notes.append(f"{name}:{one.source} was not estimated: {problem}")
                self._track(None)
                if self._keep is not None:
                    self._keep(self._settings, client, agent)
                else:
                    agent.close(clean=True)
                return Heard(name, None, walked, tuple(notes), interim)
            except _Over:
                agent.close()
            except StowageError as error:
                if agent is not None:
                    agent.close()
                if not walked and not notes:
                    raise
                notes += [f"{name}:{one.source} was not estimated: {escape(error.message)}" for one in wanted]
                wanted = []
            except BaseException:
                if agent is not None:
                    agent.close()
                raise
            finally:
                self._track(None)
            if time.monotonic() >= end:
                notes += [f"{name}:{one.source} was not estimated: no time was left" for one in wanted]
                wanted = []
            if not wanted or self._stopping:
                return Heard(name, None, walked, tuple(notes), interim)

    def _track(self, agent: Optional[AgentConnection], end: float = 0.0) -> None:
        """The connection of this thread, and when it is to be cut; None: it has none."""
        with self._changed:
            if agent is None:
                self._at_work.pop(threading.get_ident(), None)
                return
            self._at_work[threading.get_ident()] = (end, agent)
            self._changed.notify_all()
            stopping = self._stopping
        if stopping:
            agent.cut()

    def _walk(
        self, agent: AgentConnection, one: Ask, seconds: float, end: float, notes: List[str]
    ) -> Tuple[Dict[Tuple[str, str], Walked], str]:
        """One source: (what was found, what is wrong). Raises _Over when the conversation is."""
        parts = []
        for part in one.parts:
            since = part.moments
            folders = [folder.decode("utf-8", "surrogateescape") for folder in part.folders]
            parts.append({"name": part.name, "folders": folders, "since": since})
        self._track(agent, end)
        try:
            try:
                agent.request({
                    "request": "estimate", "source": one.source, "seconds": round(seconds, 3),
                    "now_ns": clock.now_ns(), "parts": parts,
                })  # fmt: skip
                kind = wire.PROGRESS
                while kind != wire.DONE:
                    kind, done = agent.channel.expect(wire.PROGRESS, wire.DONE)
            except (WireError, OSError) as error:
                if time.monotonic() >= end:
                    raise WireError(f"its agent did not answer in {self._limit:g} s") from None
                raise agent.failure(error) from None
        except StowageError as error:
            notes.append(f"{agent.client}:{one.source} was not estimated: {escape(error.message)}")
            raise _Over from None
        if isinstance(done.get("problem"), str):
            return {}, escape(done["problem"][:300])
        found = {}
        for part in one.parts:
            walked = read(done, part)
            if walked is None:
                return {}, "its agent's answer is no estimate"
            found[one.source, part.name] = walked
        return found, ""


def read(done: Mapping[str, Any], part: Part) -> Optional[Walked]:
    """What an agent found of a part; None when that cannot be, whoever made it up."""
    parts, complete, share = done.get("parts"), done.get("complete"), done.get("share")
    told = parts.get(part.name) if isinstance(parts, dict) else None
    moments = part.moments
    if not isinstance(told, dict) or not isinstance(complete, bool):
        return None
    size, entries, since = told.get("bytes"), told.get("entries"), told.get("since")
    if not _is_count(size, MOST_BYTES) or not _is_count(entries, MOST_ENTRIES) or not isinstance(since, list):
        return None
    if len(since) != len(moments) or not all(_is_pair(one) for one in since):
        return None
    if any(one[0] < two[0] or one[1] < two[1] for one, two in zip(since, since[1:])):
        return None  # less changed since an earlier moment
    if any(one[1] > entries for one in since):
        return None
    if not complete and not (isinstance(share, float) and 0 < share <= 1):
        share = None
    used, seconds = done.get("used"), done.get("seconds")
    changed = dict(zip(moments, since))
    return Walked(
        size, entries, {level: changed[moment][0] for level, moment in part.since.items()}, complete,
        1.0 if complete else share, used if _is_count(used, MOST_BYTES) else 0,
        float(seconds) if isinstance(seconds, (int, float)) and 0 <= seconds < 1e6 else 0.0,
        None if part.recent is None else changed[part.recent][0],
    )  # fmt: skip


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _is_count(value[0], MOST_BYTES) \
        and _is_count(value[1], MOST_ENTRIES)  # fmt: skip


def rows_of(row: DumpRow, expected: Expected, level: int) -> List[EstimateRow]:
    """What the catalog keeps of one dump: what was expected of it, and what history alone would have told. Nothing of
    a dump of another level than planned (a full in the place of an incremental): nobody estimated that."""
    found: List[EstimateRow] = []
    for one, used in ((expected, True), (expected.beside, False)):
        size = one.of(row.level) if one is not None and row.level == level else None
        if size is None:
            continue
        how = "default" if row.level and one.guessed else one.how
        if all(how != known.how for known in found):
            found.append(EstimateRow(
                row.id, how, row.client, row.source, row.segment, row.run, row.level, used, int(size),
                int(one.full), row.stored_size,
            ))  # fmt: skip
    return found


def accuracy(
    catalog: Catalog, now_ns: int, client: Optional[str] = None, source: Optional[str] = None
) -> Dict[Tuple[str, str, str], Accuracy]:
    """(client, source, segment) -> how far off the estimates of the last weeks were."""
    return estimates.accuracy(catalog.estimates(client, source, now_ns - LOOKED_AT))
