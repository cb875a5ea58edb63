"""Copies as a service: threads that make what is due, while dumps go on and bring more.

Here live the queue, its order, and who is at work. While dumps are at work they come first: fewer copies are made, one
for each target; where room is wanted on a holding disk, the copies that free it come first, as many as may be. A copy
is tried once; when no dump comes any more, those that failed a while ago once more. Not here: one copy (copier.py),
which copies free room (relief.py).
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from ..catalog.records import HOLDING
from ..settings import CopyRule
from . import heal
from .copier import Copier, CopyResult, Stopped
from .wanted import Due, due, note, rule_of, source_of

Key = Tuple[str, str]  # (dump, target)
Source = Tuple[str, str]

LOOK = 5.0  # seconds between two looks at windows
AGAIN = 300.0  # seconds: what failed that long ago is tried once more before the end
NEED = 5.0  # seconds for which a wish for room counts


class Service:
    """What is due, made by threads of its own. Use as a context manager: what is at work at its end is stopped.

    targets (HOLDING is one), sources: only these. only: which of the copies. dumping: dumps are being made; made() says
    what has come, finish() that no more comes. jobs: these copies, whatever is due.
    """

    def __init__(
        self,
        copier: Copier,
        *,
        targets: Optional[Sequence[str]] = None,
        sources: Optional[Sequence[Source]] = None,
        only: Optional[Callable[[Due], bool]] = None,
        dumping: bool = False,
        jobs: Optional[Sequence[Due]] = None,
    ):
        self.copier, self.settings, self.catalog = copier, copier.settings, copier.catalog
        self._targets, self._only, self._dumping, self._jobs = targets, only, dumping, jobs
        self._sources = None if sources is None else set(sources)
        self._changed = threading.Condition()
        self._queue: Dict[Key, Due] = {}
        self._at_work: Dict[Key, Due] = {}
        self._results: Dict[Key, CopyResult] = {}
        self._failed: Dict[Key, Tuple[Due, float]] = {}
        self._places: Dict[Key, tuple] = {}  # where a result stands among the others
        self._rules: Dict[Key, Optional[CopyRule]] = {}
        self._asked: Set[Source] = set()  # sources that have something new
        self._wanted: Dict[Key, float] = {}  # copies that free room -> bytes
        self._wanted_until = 0.0
        self._leaving: Set[str] = set()  # dumps whose holding image is being removed
        self._closed = False
        self.changes = 0  # grows with every dump and copy that is made
        self._threads = 0
        self._broken: Optional[BaseException] = None

    def __enter__(self) -> Service:
        self._look(None)
        count = self.settings.copies_at_once
        if not self._dumping:  # nothing more comes but what follows from these
            count = min(count, len(self._queue))
        for number in range(count):
            with self._changed:
                self._threads += 1
            threading.Thread(target=self._worker, name=f"copy {number}").start()
        return self

    def __exit__(self, *_exc: object) -> None:
        with self._changed:
            self._closed = True
            if self._threads:
                self.copier.stop()
            self._changed.notify_all()
        self._wait()

    def made(self, client: str, source: str) -> None:
        """A dump of this source is in the catalog."""
        if self._sources is None or (client, source) in self._sources:
            with self._changed:
                self._asked.add((client, source))
                self.changes += 1
                self._changed.notify_all()

    def finish(self) -> Tuple[CopyResult, ...]:
        """No dump comes any more: makes what is left, and what is damaged anew; all results, oldest dump first."""
        try:
            with self._changed:
                self._dumping, self._closed = False, True
                self._try_again()
                self._changed.notify_all()
            self._wait()
        finally:
            self.copier.spoil()
        if self._broken is not None:
            raise self._broken
        if self._results:
            self.copier.end()
        note(self.settings, self.catalog)
        results = [self._results[key] for key in sorted(self._results, key=self._places.__getitem__)]
        if self._only is None and self._jobs is None and (self._targets is None or HOLDING in self._targets):
            sources = None if self._sources is None else sorted(self._sources)
            results += filter(None, (self.copier.heal(dump) for dump in heal.lost(self.catalog, sources)))
        return tuple(results)

    # for relief

    def prefer(self, copies: Mapping[Key, float]) -> None:
        """These free room that a dump waits for, each so many bytes: they come first for a while."""
        with self._changed:
            self._wanted, self._wanted_until = dict(copies), time.monotonic() + NEED
            self._changed.notify_all()

    def under_way(self) -> Tuple[Dict[Key, Due], Dict[Key, Due]]:
        """The copies at work, and those that wait for a thread; new dumps are among them."""
        while self._look_at_asked():
            pass
        with self._changed:
            self._try_again()
            return dict(self._at_work), {key: self._queue[key] for key in self._open()}

    def widen(self) -> None:
        """Also the copies of other sources than were asked for: they lie in the way."""
        with self._changed:
            narrow, self._sources = self._sources is not None, None
        if narrow:
            self._look(None)

    @contextlib.contextmanager
    def leaving(self, dump: str) -> Iterator[bool]:
        """While its holding image is removed no copy of a dump is begun; gives False while one is at work."""
        with self._changed:
            free = not any(key[0] == dump for key in self._at_work)
            if free:
                self._leaving.add(dump)
        try:
            yield free
        finally:
            with self._changed:
                self._leaving.discard(dump)
                self._changed.notify_all()

    def waiting(self) -> List[Dict[str, Any]]:
        """The copies that are not at work, for those who look, in the order they came; why: '' waits for its turn."""
        with self._changed:
            queue = [(job, self._rules[key], "") for key, job in self._queue.items()]
            closed = self._closed
            if not closed:
                why = "was not to be had, and is tried again"
                queue += [(job, self._rules[key], why) for key, (job, _when) in self._failed.items()]
        whys: Dict[int, str] = {}
        found = []
        for job, rule, why in queue:
            if id(rule) not in whys:
                whys[id(rule)] = "" if closed else self.copier.closed(rule)
            dump = job.dump
            found.append({"client": dump.client, "source": dump.source, "dump": dump.id, "target": job.row.target,
                          "bytes": dump.stored_size, "why": why or whys[id(rule)]})  # fmt: skip
        return found

    def failed(self) -> Set[Key]:
        """The copies that were tried and failed, and are not tried now."""
        with self._changed:
            return set(self._failed)

    def down(self) -> Set[str]:
        """The targets that are not asked any more for a while."""
        return {name for name, place in self.copier.places.items() if place.is_given_up()}

    # the queue

    def _look(self, sources: Optional[Sequence[Source]]) -> None:
        """Queues what is due and was not tried. sources: only of these; None: of all that this is for."""
        if sources is None and self._sources is not None:
            sources = sorted(self._sources)
        found = self._jobs
        if found is None:
            found = due(self.settings, self.catalog, self._targets, sources, self.copier.repair)
        for place, job in enumerate(found):
            key = (job.dump.id, job.row.target)
            if self._only is not None and not self._only(job):
                continue
            with self._changed:
                if key in self._places:
                    continue
                dump = job.dump
                self._places[key] = (dump.begun_ns, dump.client, dump.source, dump.counter, place)
                self._rules[key] = rule_of(self.settings, dump, key[1])
            if job.row.updated_ns == 0:  # what a rule asks for is due again whatever the power took
                self.catalog.put_copy(job.row, lasting=bool(job.row.upload))
            with self._changed:
                self._queue[key] = job
                self._changed.notify_all()

    def _look_at_asked(self) -> bool:
        with self._changed:
            asked, self._asked = self._asked, set()
        if asked:
            self._look(sorted(asked))
        return bool(asked)

    def _try_again(self) -> None:
        """Queues what failed a while ago: a target may be back."""
        now = time.monotonic()
        for key, (job, when) in list(self._failed.items()):
            if now - when >= AGAIN:
                del self._failed[key]
                self._queue[key] = job

    def _next(self) -> Optional[Due]:
        """The next copy for a thread, None when there is none any more."""
        while True:
            self._look_at_asked()
            with self._changed:
                if self._broken is not None or self.copier.stopping.is_set():
                    return None
                if self._asked:
                    continue
                key = self._first()
                if key is not None:
                    self._at_work[key] = self._queue.pop(key)
                    return self._at_work[key]
                if self._closed and not self._at_work:
                    return None
                self._changed.wait(LOOK)

    def _first(self) -> Optional[Key]:
        need = self._wanted if time.monotonic() < self._wanted_until else {}
        busy: Dict[str, int] = {}
        for _dump, target in self._at_work:
            busy[target] = busy.get(target, 0) + 1
        first = self._dumping and not need  # dumps come first: they have a night, copies have the day as well
        if first and len(self._at_work) >= max(1, self.settings.copies_at_once // 2):
            return None

        def rank(key: Key) -> tuple:
            rule, free = self._rules[key], need.get(key, 0.0)
            # a slow target never takes all threads while another has something to do
            return not free, -(rule.priority if rule else 1), -free, busy.get(key[1], 0), self._places[key]

        able = [key for key in (self._queue if self._closed else self._open())
                if not (first and busy.get(key[1])) and key[0] not in self._leaving]  # fmt: skip
        return min(able, key=rank, default=None)

    def _open(self) -> List[Key]:
        """Of the queue, what may be begun now."""
        closed: Dict[int, bool] = {}  # there are few rules, and may be thousands of copies
        found = []
        for key in self._queue:
            rule = self._rules[key]
            if id(rule) not in closed:
                closed[id(rule)] = bool(self.copier.closed(rule))
            if not closed[id(rule)]:
                found.append(key)
        return found

    # threads

    def _worker(self) -> None:
        try:
            while True:
                job = self._next()
                if job is None:
                    return
                self._make(job)
        except Stopped:
            pass
        except BaseException as error:  # the catalog itself fails: nothing more can be kept
            with self._changed:
                self._broken = self._broken or error
            self.copier.stop()
        finally:
            with self._changed:
                self._threads -= 1
                self._changed.notify_all()

    def _make(self, job: Due) -> None:
        key = (job.dump.id, job.row.target)
        result: Optional[CopyResult] = None
        try:
            fresh = self._fresh(job)
            if fresh is not None:
                result = self.copier.one(fresh)
        finally:
            with self._changed:
                self._at_work.pop(key, None)
                self.changes += 1
                if result is not None:
                    self._results[key] = result
                    if result.failed or result.sleep is not None:
                        self._failed[key] = (job, time.monotonic())
                    elif result.waits and not self._closed:
                        self._queue[key] = job  # its window may open before the dumps are through
                    elif result.ok and self._is_waited_for(job):
                        self._asked.add((job.dump.client, job.dump.source))
                self._changed.notify_all()

    def _fresh(self, job: Due) -> Optional[Due]:
        """The copy as it is now, since it may have waited for hours; None when it is not to be made any more."""
        dump = self.catalog.dump(job.dump.id)
        if dump is None or dump.damaged and dump.id not in self.copier.repair:
            return None
        rows = self.catalog.copies(dump=dump.id, target=job.row.target)
        row = rows[0] if rows else job.row
        if "asked" in job.row.upload:
            row = replace(row, upload={**row.upload, "asked": job.row.upload["asked"]})
        return None if row.state in ("verified", "expired") else job._replace(dump=dump, row=row)

    def _is_waited_for(self, job: Due) -> bool:
        """Whether a copy elsewhere is to be made after this one."""
        source = source_of(self.settings, job.dump)
        return source is not None and any(rule.after == job.row.target for rule in source.copies)

    def _wait(self) -> None:
        # not by join(): after an interrupt it takes a thread for ended that is not (bpo-45274)
        try:
            with self._changed:
                while self._threads:
                    self._changed.wait()
        except BaseException:
            self.copier.stop()
            with self._changed:
                self._changed.notify_all()
                while self._threads:
                    self._changed.wait()
            raise
