"""Copies, each isolated: what fails costs that copy, whatever thread makes it.

Here live one copy from its window to its result, where copies are made from, and what becomes of errors. Not here:
which copies are due (wanted.py), the way of the bytes (copy.py), in which order and by which threads (service.py).
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Callable, Container, Dict, List, Optional, Set, Tuple

from .. import clock
from ..catalog import aside, places
from ..catalog.records import HOLDING, CopyRow, DumpRow
from ..catalog.store import Catalog
from ..errors import StowageError, TargetRefused
from ..hookspecs import Paused, Target, TargetError
from ..image.copies import FolderCopy, TargetCopy
from ..image.manifest import load_public_keys
from ..settings import CopyRule, Settings
from . import heal, waking
from .copy import Copying
from .origins import FromCopy, FromHolding, MakeRoom, Rooms, prefix_of
from .pace import Paces, said_by
from .place import Place
from .wanted import Due, origins_of, rule_of, source_of

Progress = Optional[Callable[[dict], None]]


@dataclass(frozen=True)
class CopyResult:
    """What became of one copy. code, message, hint: of the error, when not ok.

    waits: it is no failure, only not its time (code is `waits`, or `asleep`: what it is made from was asked for in an
    archive, and sleep says how much); opens: when its time begins, ISO, where it is known.
    """

    client: str
    source: str
    dump: str
    target: str
    ok: bool
    bytes: int = 0
    seconds: float = 0.0
    code: str = ""
    message: str = ""
    hint: str = ""
    waits: bool = False
    opens: str = ""
    sleep: Optional[waking.Sleep] = None

    @property
    def failed(self) -> bool:
        """Whether something went wrong."""
        return not self.ok and not self.waits

    def as_dict(self) -> dict:
        """JSON-ready."""
        return asdict(self)


class Stopped(BaseException):
    """This copy ends now, since all do."""


class Copier:
    """Makes copies and images anew. Thread-safe."""

    def __init__(self, settings: Settings, catalog: Catalog, open_target: Callable[[str], Target], progress: Progress,
                 repair: Container[str] = (), now: bool = False,
                 leave: Optional[Callable[[], str]] = None, origin: str = ""):  # fmt: skip
        self.settings, self.catalog, self.repair = settings, catalog, repair
        self.make_room: MakeRoom = lambda missing: False  # on holding disks, for what comes by way of them
        self.rooms: Optional[Rooms] = None
        self.origin = origin  # the target that copies are made from, '' from the nearest place
        self.server = places.server_id(settings.state)
        self.places = {name: Place(name, open_target, self.server, settings) for name in settings.targets}
        self.progress = progress
        self.telling = threading.Lock()
        self.stopping = threading.Event()
        self.paces = Paces(settings, self._check_stop, leave, now)
        self.bad: Dict[Tuple[str, str], str] = {}  # (dump, place) found damaged, and what is wrong
        # damaged copies of a dump are put together one at a time: each takes what the others have
        self.mending: Dict[str, threading.Lock] = {}

    def stop(self) -> None:
        """All copies at work end, where a later try can go on."""
        self.stopping.set()

    def closed(self, rule: Optional[CopyRule]) -> str:
        """Why copies by a rule may not be begun now, '' when they may."""
        gate = self.paces.gate(rule)
        return gate.leave and gate.leave() or gate.closed()

    def opens(self, rule: Optional[CopyRule]) -> Optional[int]:
        """When copies by a rule may be made, in ns; None: now."""
        return self.paces.gate(rule).opens()

    def end(self) -> None:
        """Nobody makes copies any more: damaged holding images move out of the way, targets get what lies beside
        dumps."""
        self.spoil()
        for place in self.places.values():
            place.tidy()

    def spoil(self) -> None:
        """What was found damaged is marked, and moves out of the way: nobody reads it any more."""
        with self.telling:
            bad, self.bad = self.bad, {}
        for (dump, place), why in bad.items():
            heal.spoiled(self.settings, self.catalog, dump, place, why)

    def one(self, job: Due) -> CopyResult:
        """Makes a copy, or says why not. Raises Stopped, and CatalogError when nothing can be kept."""
        begun = time.monotonic()
        place = self.places[job.row.target]
        told = {"client": job.dump.client, "source": job.dump.source, "dump": job.dump.id, "target": job.row.target}
        count, error = 0, None
        rule = rule_of(self.settings, job.dump, job.row.target)
        try:
            self._check_stop()
            self.paces.gate(rule).check()
            with self._mending(job.dump.id):
                count = self._copy(job, place, told)
        except Paused as pause:
            return self._waits(pause, rule, told, time.monotonic() - begun)
        except waking.Asked as asked:
            self._kept(job, asked.message)
            self._tell({**told, "phase": "skipped", "bytes": 0, "total": 0})
            return CopyResult(**told, ok=False, seconds=time.monotonic() - begun, code=asked.code, waits=True,
                              message=asked.message, hint=asked.hint, sleep=asked.sleep)  # fmt: skip
        except StowageError as failure:
            error = failure
        except TargetError as failure:
            error = TargetRefused.of(job.row.target, failure)
            place.failed(failure)
        except Exception as failure:  # a third party's driver may raise anything: it is named, the others go on
            what = " ".join(f"{type(failure).__name__}: {failure}".split())[:300]
            kind = self.settings.targets[job.row.target].type
            error = TargetRefused(f"target {job.row.target}: driver {kind} failed: {what}", "stowage drivers")
        else:
            place.worked()
        if error is not None:
            self._failed(job, error)
        self._tell({**told, "phase": "failed" if error else "verified", "bytes": count, "total": count})
        seconds = time.monotonic() - begun
        if error is None and job.dump.damaged and job.dump.id in self.repair:
            self.catalog.mark_damaged(job.dump.id, False)  # what was put together here is all that was signed
        if error is None:
            return CopyResult(**told, ok=True, bytes=count, seconds=seconds)
        return CopyResult(**told, ok=False, seconds=seconds, code=error.code, message=error.message, hint=error.hint)

    def _mending(self, dump: str) -> Any:
        if dump not in self.repair:
            return contextlib.nullcontext()
        with self.telling:
            return self.mending.setdefault(dump, threading.Lock())

    def _check_stop(self) -> None:
        if self.stopping.is_set():
            raise Stopped

    def _waits(self, pause: Paused, rule: Optional[CopyRule], told: dict, seconds: float) -> CopyResult:
        """It is not its time, or no more: its row says how far it is, and the next window goes on with it."""
        opens = self.paces.gate(rule).opens()
        self._tell({**told, "phase": "skipped", "bytes": 0, "total": 0})
        return CopyResult(**told, ok=False, seconds=seconds, code="waits", message=pause.message, waits=True,
                          hint="stowage stage --now", opens=clock.iso(opens) if opens is not None else "")  # fmt: skip

    def _copy(self, job: Due, place: Place, told: dict) -> int:
        """Makes it; what it is made from and sleeps in an archive is asked for. Raises waking.Asked."""
        woken: Set[str] = set()
        while True:
            try:
                return self._copy_once(job, place, told)
            except waking.Sleeping as failure:
                row = self._row(job)
                self._ask(failure, (row.upload or {}).get("files") or {}, woken)
                job = job._replace(row=row)

    def _ask(self, failure: waking.Sleeping, done: Container[str], woken: Set[str]) -> None:
        """Asks for what sleeps; returns when it is awake. woken: places that said so before, which grows. Raises
        waking.Asked, StillAsleep."""
        copy = failure.origin.copy
        asleep = waking.wake(copy.target, copy.prefix, copy.name, done, failure.hint)
        if asleep is not None:
            raise waking.Asked(asleep, self.settings) from None
        if copy.name in woken:  # the place says that all is awake, and does not give it
            raise failure
        woken.add(copy.name)

    def _copy_once(self, job: Due, place: Place, told: dict) -> int:
        last = [0.0]

        def report(phase: str, done: int, total: int) -> None:
            self._check_stop()
            now = time.monotonic()
            if now - last[0] >= 0.2:
                last[0] = now
                self._tell({**told, "phase": phase, "bytes": done, "total": total})

        target = place.ready()
        source = source_of(self.settings, job.dump)
        rule = rule_of(self.settings, job.dump, job.row.target)
        pace = self.paces.of(said_by(source, job.row.target), job.row.target, rule)
        origins = self.origins(job.dump, job.row.target)
        copying = Copying(self.catalog, job.dump, job.row, target, origins, report, pace if pace.needed else None)
        try:
            return copying.make()
        except BaseException:
            if job.row.state == "done" and not copying.changed:  # it is as whole as it was before it was looked at
                self.catalog.put_copy(replace(job.row, updated_ns=0))
            raise
        finally:
            with self.telling:
                self.bad.update({(job.dump.id, origin): why for origin, why in copying.bad.items()})

    def origins(self, dump: DumpRow, target: str) -> List[Any]:
        """Where the copy of dump on target can be made from, nearest first. Other targets are opened when one is read:
        where the holding image is there, none."""
        rows = {row.target: row for row in self.catalog.copies(dump=dump.id)}
        found: List[Any] = []
        keys = load_public_keys(self.settings.keys)  # anew: a first run makes its key while this is at work
        names = origins_of(self.settings, dump, rows, target, dump.id in self.repair)
        for name in names if not self.origin else [name for name in names if name == self.origin]:
            if name != HOLDING:
                found.append(
                    FromCopy(dump, name, partial(self._copy_on, name, dump), keys, self.rooms, self.make_room)
                )
            elif HOLDING not in rows:
                found.append(FromHolding(dump, keys))
            else:
                folder = aside.aside_of(self.settings, dump, rows[HOLDING]) or dump.holding
                if folder is not None:
                    aside_copy = partial(FolderCopy, folder, HOLDING)
                    found.append(FromCopy(dump, HOLDING, aside_copy, keys, self.rooms, self.make_room))
        return found

    def _copy_on(self, name: str, dump: DumpRow) -> TargetCopy:
        return TargetCopy(self.places[name].ready(), name, prefix_of(dump))

    def heal(self, dump: DumpRow) -> Optional[CopyResult]:
        """The holding image anew, from a good copy; None when it is not needed any more, or there is none to take."""
        begun = time.monotonic()
        told = {"client": dump.client, "source": dump.source, "dump": dump.id, "target": HOLDING}
        woken: Set[str] = set()
        while True:
            try:
                made = heal.holding(
                    self.settings, self.catalog, dump, lambda: self.origins(dump, HOLDING), self.rooms
                )  # fmt: skip
                break
            except waking.Sleeping as failure:
                try:
                    self._ask(failure, (), woken)
                except StowageError as error:
                    return _unhealed(told, error, time.monotonic() - begun)
            except StowageError as error:
                return _unhealed(told, error, time.monotonic() - begun)
        return None if made is None else CopyResult(**told, ok=True, bytes=made, seconds=time.monotonic() - begun)

    def _failed(self, job: Due, error: StowageError) -> None:
        """The row keeps what a later try can use."""
        row = self._row(job)
        # a rebuild found it whole, and nothing was changed: who forgot it would leave it there for ever
        kept = job.row.state == "done" and (row.state, row.upload) == ("done", job.row.upload)
        told = error.message + (f" -> {error.hint}" if error.hint else "")  # the report says what stage says
        self.catalog.put_copy(replace(row, state="done" if kept else "failed", error=told, updated_ns=0))

    def _kept(self, job: Due, why: str) -> None:
        """It goes on later; why it waits stands in its row."""
        row = self._row(job)
        if row.state != "done":  # a rebuild found that one whole
            self.catalog.put_copy(replace(row, state="copying", error=why, updated_ns=0))

    def _row(self, job: Due) -> CopyRow:
        rows = self.catalog.copies(dump=job.dump.id, target=job.row.target)
        return rows[0] if rows else job.row

    def _tell(self, event: dict) -> None:
        if self.progress:
            with self.telling:
                self.progress(event)


def _unhealed(told: dict, error: StowageError, seconds: float) -> CopyResult:
    """An image that is not back on its holding disk; it is no failure that what it is made from has to wake."""
    sleep = error.sleep if isinstance(error, waking.Asked) else None
    return CopyResult(**told, ok=False, seconds=seconds, code=error.code, message=error.message, hint=error.hint,
                      waits=sleep is not None, sleep=sleep)  # fmt: skip
