"""Many copies at once: each isolated, so that one failure costs one copy.

Here live the threads, making targets ready (marker, what they can), what becomes of errors, and the signed
records of runs on their way to the targets. Not here: which copies are due (wanted.py), one copy (copy.py).
"""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Callable, Container, Dict, List, Optional, Sequence, Tuple

from .. import clock, files
from ..catalog import aside, places
from ..catalog.records import HOLDING, CopyRow, DumpRow
from ..catalog.store import Catalog
from ..errors import StowageError, TargetRefused
from ..hookspecs import Paused, Target, TargetError
from ..image import layout
from ..image.copies import FolderCopy, TargetCopy
from ..image.manifest import load_public_keys
from ..image.signing import write_public
from ..settings import CopyRule, Settings
from . import heal
from .copy import Copying
from .origins import FromCopy, FromHolding, prefix_of
from .pace import Paces
from .wanted import Due, due, origins_of, policy_of, rule_of

Progress = Optional[Callable[[dict], None]]
GIVEN_UP_AFTER_NS = 7 * 86400 * clock.NS  # a half-made upload that no staging went on with for so long
GIVEN_UP_WINDOWS = 5  # times that where copies have windows: the next may be a week away, and one not enough
AGAIN_AFTER_NS = 3600 * clock.NS  # a copy that failed within its window is begun again by itself
GIVE_UP_AFTER = 3  # failures of one target in a row that trying again might help: the rest of its copies wait


@dataclass(frozen=True)
class CopyResult:
    """What became of one copy. code, message, hint: of the error, when not ok.

    waits: it is no failure, only not its time (code is `waits`); opens: when its time begins, ISO, where it is known.
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

    @property
    def failed(self) -> bool:
        """Whether something went wrong."""
        return not self.ok and not self.waits

    def as_dict(self) -> dict:
        """JSON-ready."""
        return asdict(self)


def stage(
    settings: Settings,
    catalog: Catalog,
    open_target: Callable[[str], Target],
    *,
    targets: Optional[Sequence[str]] = None,
    sources: Optional[Sequence[Tuple[str, str]]] = None,
    progress: Progress = None,
    repair: Container[str] = (),
    now: bool = False,
    only: Optional[Callable[[Due], bool]] = None,
    leave: Optional[Callable[[], str]] = None,
) -> Tuple[CopyResult, ...]:
    """Makes the copies that are due, several at once. What fails is in the results and is tried again next time.

    Damaged copies and holding images are made anew from good ones. Call while the run lock is held. targets (HOLDING
    is one), sources: only these. repair: names of damaged dumps to be put together from what is right of them. An
    interrupt ends the copies at work where a later try can go on, and is raised again. now: windows are passed over.
    only: which of the copies. leave(): why all copies shall pause, '' while they need not.
    """
    jobs = [job for job in due(settings, catalog, targets, sources, repair) if only is None or only(job)]
    for job in jobs:
        if job.row.updated_ns == 0:
            catalog.put_copy(job.row)
    held = only is None and (targets is None or HOLDING in targets)
    if not jobs and not (held and heal.lost(catalog, sources)):
        return ()
    stager = _Stager(settings, catalog, open_target, progress, repair, now, leave)
    results = stager.work(jobs) if jobs else []
    results += [stager.heal(dump) for dump in heal.lost(catalog, sources)] if held else []
    return tuple(one for one in results if one is not None)


def begins_now(settings: Settings, catalog: Catalog) -> List[Due]:
    """The copies that wait for a window which is open now; those that failed there, a while later again."""
    now = clock.now_ns()
    found = []
    for job in due(settings, catalog):
        rule = rule_of(settings, job.dump, job.row.target)
        rests = job.row.state in ("failed", "damaged") and now - job.row.updated_ns < AGAIN_AFTER_NS
        if rule is not None and rule.windows is not None and rule.windows.open_at(now) and not rests:
            found.append(job)
    return found


class _Stopped(BaseException):
    """This copy ends now, since all do."""


class _Stager:
    def __init__(self, settings: Settings, catalog: Catalog, open_target: Callable[[str], Target], progress: Progress,
                 repair: Container[str] = (), now: bool = False,
                 leave: Optional[Callable[[], str]] = None):  # fmt: skip
        self.settings, self.catalog, self.repair = settings, catalog, repair
        self.server = places.server_id(settings.state)
        self.public_keys = load_public_keys(settings.keys)
        self.places = {name: _Place(name, open_target, self.server, settings) for name in settings.targets}
        self.progress = progress
        self.telling = threading.Lock()
        self.stopping = threading.Event()
        self.paces = Paces(settings, self._check_stop, leave, now)
        self.bad: Dict[Tuple[str, str], str] = {}  # (dump, place) found damaged, and what is wrong
        # damaged copies of a dump are put together one at a time: each takes what the others have
        self.mending: Dict[str, threading.Lock] = {}

    def work(self, jobs: List[Due]) -> List[CopyResult]:
        """All jobs, in their order as threads become free."""
        self.mending = {job.dump.id: threading.Lock() for job in jobs if job.dump.id in self.repair}
        with ThreadPoolExecutor(min(len(jobs), self.settings.copies_at_once), "copy") as pool:
            futures = [pool.submit(self._one, job) for job in jobs]
            try:
                results = [future.result() for future in futures]
            except BaseException:
                self.stopping.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            finally:
                # when nobody reads them any more: a damaged holding image moves out of the way
                for (dump, place), why in self.bad.items():
                    heal.spoiled(self.settings, self.catalog, dump, place, why)
        for place in self.places.values():
            place.tidy()
        return results

    def _one(self, job: Due) -> CopyResult:
        begun = time.monotonic()
        place = self.places[job.row.target]
        told = {"client": job.dump.client, "source": job.dump.source, "dump": job.dump.id, "target": job.row.target}
        count, error = 0, None
        rule = rule_of(self.settings, job.dump, job.row.target)
        try:
            self._check_stop()
            self.paces.gate(rule).check()
            with self.mending.get(job.dump.id) or contextlib.nullcontext():
                count = self._copy(job, place, told)
        except Paused as pause:
            return self._waits(pause, rule, told, time.monotonic() - begun)
        except StowageError as failure:
            error = failure
        except TargetError as failure:
            error = TargetRefused(f"target {job.row.target}: {failure.message}", failure.hint or "stowage check")
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

    def _check_stop(self) -> None:
        if self.stopping.is_set():
            raise _Stopped

    def _waits(self, pause: Paused, rule: Optional[CopyRule], told: dict, seconds: float) -> CopyResult:
        """It is not its time, or no more: its row says how far it is, and the next window goes on with it."""
        opens = self.paces.gate(rule).opens()
        self._tell({**told, "phase": "skipped", "bytes": 0, "total": 0})
        return CopyResult(**told, ok=False, seconds=seconds, code="waits", message=pause.message, waits=True,
                          hint="stowage stage --now", opens=clock.iso(opens) if opens is not None else "")  # fmt: skip

    def _copy(self, job: Due, place: "_Place", told: dict) -> int:
        last = [0.0]

        def report(phase: str, done: int, total: int) -> None:
            self._check_stop()
            now = time.monotonic()
            if now - last[0] >= 0.2:
                last[0] = now
                self._tell({**told, "phase": phase, "bytes": done, "total": total})

        target = place.ready()
        policy = policy_of(self.settings, job.dump)
        rule = rule_of(self.settings, job.dump, job.row.target)
        pace = self.paces.of(policy.name if policy else "", job.row.target, rule)
        origins = self.origins(job.dump, job.row.target)
        copying = Copying(self.catalog, job.dump, job.row, target, origins, report, pace if pace.needed else None)
        try:
            return copying.make()
        finally:
            with self.telling:
                self.bad.update({(job.dump.id, origin): why for origin, why in copying.bad.items()})

    def origins(self, dump: DumpRow, target: str) -> List[Any]:
        """Where the copy of dump on target can be made from, nearest first; places that are away are left out."""
        rows = {row.target: row for row in self.catalog.copies(dump=dump.id)}
        found: List[Any] = []
        for name in origins_of(self.settings, dump, rows, target, dump.id in self.repair):
            if name != HOLDING:
                with contextlib.suppress(StowageError, TargetError):
                    copy = TargetCopy(self.places[name].ready(), name, prefix_of(dump))
                    found.append(FromCopy(self.settings, dump, copy, self.public_keys))
            elif HOLDING not in rows:
                found.append(FromHolding(dump, self.public_keys))
            else:
                folder = aside.aside_of(self.settings, dump, rows[HOLDING]) or dump.holding
                if folder is not None:
                    copy = FolderCopy(folder, HOLDING)
                    found.append(FromCopy(self.settings, dump, copy, self.public_keys))
        return found

    def heal(self, dump: DumpRow) -> Optional[CopyResult]:
        """The holding image anew, from a good copy; None when it is not needed any more, or there is none to take."""
        begun = time.monotonic()
        told = {"client": dump.client, "source": dump.source, "dump": dump.id, "target": HOLDING}
        try:
            made = heal.holding(self.settings, self.catalog, dump, lambda: self.origins(dump, HOLDING))
        except StowageError as error:
            return CopyResult(**told, ok=False, seconds=time.monotonic() - begun, code=error.code,
                              message=error.message, hint=error.hint)  # fmt: skip
        return None if made is None else CopyResult(**told, ok=True, bytes=made, seconds=time.monotonic() - begun)

    def _failed(self, job: Due, error: StowageError) -> None:
        """The row keeps what a later try can use."""
        rows = self.catalog.copies(dump=job.dump.id, target=job.row.target)
        row: CopyRow = rows[0] if rows else job.row
        self.catalog.put_copy(replace(row, state="failed", error=error.message, updated_ns=0))

    def _tell(self, event: dict) -> None:
        if self.progress:
            with self.telling:
                self.progress(event)


class _Place:
    """One target in this staging: made ready once; what is down is not asked again for each copy."""

    def __init__(self, name: str, open_target: Callable[[str], Target], server: str, settings: Settings):
        self.name, self.server, self.settings = name, server, settings
        self._open = open_target
        self._lock = threading.Lock()
        self._target: Optional[Target] = None
        self._error: Optional[BaseException] = None
        self._failures = 0

    def ready(self) -> Target:
        """The open target, with this server's marker on it and its capabilities known. Raises what it refused with."""
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._target is None:
                try:
                    self._target = self._made_ready()
                except BaseException as error:
                    self._error = error
                    raise
            return self._target

    def _made_ready(self) -> Target:
        target = self._open(self.name)
        marker = f"{layout.MARK}/{self.server}"
        target.capabilities  # noqa: B018  asked here, so that a place that cannot be reached is found out once
        if target.stat(marker) is None:
            local = self.settings.state / "targets" / self.name / "marker"
            files.make_folder(local.parent)
            files.replace(local, (self.server + "\n").encode())
            target.put(marker, local)
        self._put_signers(target)
        return target

    def _put_signers(self, target: Target) -> None:
        """The public keys that dumps here are signed by: who rebuilds a lost server has nothing but this place."""
        there = {found.name for found in target.list(layout.SIGNERS)}
        for fingerprint, raw in load_public_keys(self.settings.keys).items():
            name = f"{layout.SIGNERS}{fingerprint}.pub"
            if name not in there:
                local = self.settings.state / "targets" / self.name / "signer.pub"
                files.make_folder(local.parent)
                files.replace(local, write_public(raw), 0o644)
                target.put(name, local)

    def worked(self) -> None:
        """A copy was made."""
        with self._lock:
            self._failures = 0

    def failed(self, error: TargetError) -> None:
        """A copy was refused; a few in a row that only time can help, and the rest of the copies wait for it."""
        with self._lock:
            self._failures = self._failures + 1 if error.retry else 0
            if self._failures >= GIVE_UP_AFTER and self._error is None:
                self._error = error

    def tidy(self) -> None:
        """Brings the signed records of this server's runs that the target lacks, and ends uploads that were given up.

        A refusal costs nothing but that: the next staging tries again.
        """
        folder = places.run_record(self.settings.state, "x").parent
        if self._target is None or self._error is not None:
            return
        below = f"{layout.RUNS}{self.server}/"
        with contextlib.suppress(TargetError):
            there: Dict[str, int] = {found.name: found.size for found in self._target.list(below)}
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if path.suffix in (".json", ".sig") and there.get(below + path.name) != path.stat().st_size:
                    self._target.put(below + path.name, path)
            windows = any(rule.windows for policy in self.settings.policies.values() for rule in policy.copies)
            self._target.clean(clock.now_ns() - GIVEN_UP_AFTER_NS * (GIVEN_UP_WINDOWS if windows else 1))
