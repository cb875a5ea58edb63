"""Many copies at once: which to read, in what order, and what became of each.

Here live the jobs, the threads, errors that cost one copy only, and what a killed verify had already done. Reading a
copy is full.py, head.py and sample.py, what a finding means is marking.py.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from .. import clock
from ..catalog import aside, places, reading
from ..catalog.records import HOLDING, CopyRow, DumpRow, is_alive
from ..errors import StillAsleep, StowageError, TargetRefused
from ..hookspecs import Asleep, TargetError
from ..image.copies import FolderCopy, TargetCopy
from ..image.layout import dump_prefix
from ..image.manifest import load_public_keys
from ..settings import Settings
from . import full, head, marking, sample
from .verdict import Verdict

Progress = Optional[Callable[[dict], None]]
GIVE_UP_AFTER = 2  # refusals of a target in a row: the rest of its copies are not tried
RESUMED_FOR_NS = 7 * 86400 * clock.NS


class Job(NamedTuple):
    """A copy to look at. starts: of the pieces that a sample reads."""

    dump: DumpRow
    place: str
    row: Optional[CopyRow] = None
    starts: Tuple[int, ...] = ()
    length: int = 0


@dataclass(frozen=True)
class Result:
    """What became of one copy. status: ok, damaged, wrong (the image itself), asleep (in an archive: passed over) or
    error (nothing is known of it).

    notes: what could not be looked at. message, hint: when it is not ok. strays: paths of what lies with it and is no
    part of it, each with the reason.
    """

    client: str
    source: str
    dump: str
    place: str
    kind: str
    status: str
    bytes: int = 0
    seconds: float = 0.0
    message: str = ""
    hint: str = ""
    notes: Tuple[str, ...] = ()
    strays: Tuple[str, ...] = ()

    def as_dict(self) -> dict:
        """JSON-ready."""
        return {**asdict(self), "notes": list(self.notes), "strays": list(self.strays)}


class Stop(BaseException):
    """Raised in a reader's report: no more of this."""


def jobs(
    settings: Settings, catalog: Any, *, clients: Sequence[str] = (), sources: Sequence[str] = (),
    dumps: Sequence[str] = (), targets: Sequence[str] = (),
) -> Tuple[List[Job], List[str]]:  # fmt: skip
    """All copies and holding images of these (nothing named: all), and what cannot be looked at.

    A holding disk that is not mounted says nothing of its images: it is named, and left.
    """
    server = places.server_id(settings.state)
    here: Dict[Path, bool] = {}
    found: List[Job] = []
    problems: List[str] = []
    rows: Dict[str, List[CopyRow]] = {}
    for row in catalog.copies():
        rows.setdefault(row.dump, []).append(row)
    for dump in catalog.dumps():
        named = not sources or dump.source in sources or f"{dump.client}:{dump.source}" in sources
        if (clients and dump.client not in clients) or not named or (dumps and dump.id not in dumps):
            continue
        if dump.holding is not None and (not targets or HOLDING in targets):
            disk = aside.disk_of(settings, dump, dump.holding)
            if disk is None:
                problems.append(f"{dump.holding} is on no configured holding disk: nothing is known of it")
            elif _is_here(here, disk, server):
                found.append(Job(dump, HOLDING))
        for row in rows.get(dump.id, ()):
            aside_here = dump.holding is None and row.target == HOLDING and (not targets or HOLDING in targets)
            disk = aside.disk_of(settings, dump, (row.upload or {}).get("folder")) if aside_here else None
            if disk is not None and _is_here(here, disk, server):
                found.append(Job(dump, HOLDING, row))
            wanted = row.target in settings.targets and (not targets or row.target in targets)
            if row.target != HOLDING and wanted and row.state in marking.OPEN:
                found.append(Job(dump, row.target, row))
    problems += [
        f"the holding disk {disk} is not mounted ({aside.OWNER} is not on it): its images are left alone"
        for disk, there in here.items() if not there
    ]  # fmt: skip
    return found, problems


def _is_here(known: Dict[Path, bool], disk: Path, server: str) -> bool:
    if disk not in known:
        known[disk] = aside.is_here(disk, server)
    return known[disk]


def oldest_first(catalog: Any, found: Sequence[Job], kind: str) -> List[Job]:
    """The jobs, those first that were never proven this way, or longest ago."""
    last = {(one.dump, one.place): one.when_ns for one in catalog.proofs(kind=kind) if one.part < 0}
    return sorted(found, key=lambda job: (last.get((job.dump.id, job.place), 0), job.dump.begun_ns, job.place))


def sampled(
    catalog: Any, found: Sequence[Job], share: float, limits: Optional[Mapping[str, int]] = None,
    before_ns: Optional[int] = None,
) -> List[Job]:  # fmt: skip
    """The share (0 to 1) of all bytes of these copies whose last proof is oldest, as jobs. limits: place -> bytes.
    before_ns: nothing whose last proof is younger."""
    known = {(job.dump.id, job.place): job for job in found}
    made = [(job.dump, job.place, (job.row.verified_ns or 0) if job.row else job.dump.ended_ns) for job in found]
    all_pieces = sample.pieces(made, catalog.proofs())
    budget = int(sum(one.length for one in all_pieces) * share)
    groups: Dict[Tuple[str, str], List[sample.Piece]] = {}
    if before_ns is not None:
        all_pieces = [one for one in all_pieces if one.last_ns < before_ns]
    for one in sample.choose(all_pieces, budget, limits or {}):
        groups.setdefault((one.dump.id, one.place), []).append(one)
    return [
        known[key]._replace(
            starts=tuple(sorted(one.start for one in group)), length=sum(one.length for one in group)
        )
        for key, group in groups.items()
    ]  # fmt: skip


def proven_before(catalog: Any, found: Sequence[Job], run: str) -> Tuple[Set[Tuple[str, str]], Optional[int]]:
    """(dump, place) of jobs that a full verify which was killed or stopped had done, and when it began."""
    since = None
    for row in reversed(catalog.runs(kind="verify")):
        if row.id == run:
            continue
        stopped = row.ended_ns is None and not is_alive(row.pid) or row.summary.get("stopped")
        if not stopped or row.begun_ns < clock.now_ns() - RESUMED_FOR_NS:
            break
        since = row.begun_ns
    if since is None:
        return set(), None
    proven = {(one.dump, one.place) for one in catalog.proofs(kind="full", since_ns=since) if one.ok and one.part < 0}
    return {(job.dump.id, job.place) for job in found} & proven, since


def _strays(verdict: Verdict) -> Tuple[str, ...]:
    dump = verdict.dump
    folder = dump_prefix(dump.client, dump.source, dump.id, dump.segment or None)
    if verdict.place == HOLDING and dump.holding is not None:
        folder = str(dump.holding)
    return tuple(f"{folder}/{name}: {why}" for name, why in verdict.strays.items())


class Verifier:
    """Looks at copies. ring: keys of sealed dumps, None for none. deadline: time.monotonic() after which no more is
    read: what was proven until then is kept."""

    def __init__(
        self, settings: Settings, catalog: Any, open_target: Callable[[str], Any], ring: Any = None,
        progress: Progress = None, deadline: Optional[float] = None,
    ):  # fmt: skip
        self.settings, self.catalog, self.ring, self.progress = settings, catalog, ring, progress
        self.deadline = deadline
        self.public_keys = load_public_keys(settings.keys)
        self._open_target = open_target
        self._refused: Dict[str, List[StowageError]] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def work(self, found: Sequence[Job], kind: str) -> Tuple[Result, ...]:
        """All jobs, in their order as threads become free. kind: quick, full or sample."""
        if not found:
            return ()
        with ThreadPoolExecutor(min(len(found), self.settings.copies_at_once), "verify") as pool:
            futures = [pool.submit(self._one, job, kind) for job in found]
            try:
                results = [future.result() for future in futures]
            except BaseException:
                self._stopping.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return tuple(one for one in results if one is not None)

    def _one(self, job: Job, kind: str) -> Optional[Result]:
        begun = time.monotonic()
        if self._is_over():
            return None
        dump = job.dump
        verdict = Verdict(dump, job.place, kind)
        told = {"client": dump.client, "source": dump.source, "dump": dump.id, "place": job.place, "kind": kind}
        error: Optional[StowageError] = None
        stopped = False
        try:
            with reading.keep(self.settings.state, [dump.id], "stowage verify"):
                if self._is_gone(job):  # a prune came first
                    return None
                self._look(job, verdict)
            self._worked(job.place)
        except Stop:
            stopped = True
        except StowageError as failure:
            error = failure
            self._failed(job.place, failure)
        except Asleep as failure:
            error = StillAsleep(f"target {job.place}: {failure.message}", failure.hint)
        except TargetError as failure:
            error = TargetRefused(f"target {job.place}: {failure.message}", failure.hint or "stowage check")
            self._failed(job.place, error)
        except Exception as failure:  # a third party's driver may raise anything: it is named, the others go on
            what = " ".join(f"{type(failure).__name__}: {failure}".split())[:300]
            error = TargetRefused(f"{job.place}: reading failed: {what}", "stowage drivers")
        whole = error is None and not stopped
        if whole or kind == "sample" and verdict.proven or verdict.damage and not stopped:
            marking.apply(self.catalog, verdict)
        asleep = isinstance(error, StillAsleep) and verdict.ok
        failed = (error and not asleep) or not verdict.ok
        self._tell(job, "failed" if failed else "skipped" if asleep else "verified", verdict.bytes)
        if stopped and verdict.ok:
            return None if not verdict.proven else Result(
                **told, status="ok", bytes=verdict.bytes, seconds=time.monotonic() - begun
            )
        status, message, hint = "ok", "", ""
        if verdict.damage:
            status, message = "damaged", verdict.message()
        elif verdict.wrong:
            status, message = "wrong", verdict.message()
            hint = f"stowage run --client {dump.client} --source {dump.source} --level 0"
        elif error is not None:
            status, message, hint = "asleep" if asleep else "error", error.message, error.hint
        return Result(**told, status=status, bytes=verdict.bytes, seconds=time.monotonic() - begun, message=message,
                      hint=hint, notes=tuple(dict.fromkeys(verdict.notes)), strays=_strays(verdict))  # fmt: skip

    def _is_gone(self, job: Job) -> bool:
        """Whether the copy was removed since it was listed."""
        if job.place == HOLDING:
            now = self.catalog.dump(job.dump.id)
            return now is None or now.holding != job.dump.holding
        rows = self.catalog.copies(dump=job.dump.id, target=job.place)
        return not rows or rows[0].state == "expired"

    def _look(self, job: Job, verdict: Verdict) -> None:
        refused = self._refused.get(job.place, [])
        if len(refused) >= GIVE_UP_AFTER:
            raise refused[0]
        copy: Any
        if job.place == HOLDING and job.dump.holding is None:
            verdict.damaged("", "it was put aside: " + (job.row.error if job.row else ""))
            return
        if job.place == HOLDING:
            copy = FolderCopy(job.dump.holding, HOLDING)
        else:
            prefix = dump_prefix(job.dump.client, job.dump.source, job.dump.id, job.dump.segment or None)
            copy = TargetCopy(self._open_target(job.place), job.place, prefix)
        noted = (job.row.upload or {}).get("keys", {}) if job.row else {}
        report = self._reporter(job, verdict)
        folder = self.settings.state  # temporary files without a name: a kill leaves none
        if verdict.kind == "quick":
            manifest = head.check(copy, verdict, self.public_keys, noted)
            if manifest is not None:
                head.kept(copy, verdict, manifest)
        elif verdict.kind == "full":
            full.check(copy, verdict, self.public_keys, noted, self.ring, folder, report)
        else:
            sample.check(copy, verdict, self.public_keys, noted, self.ring, folder, report, job.starts)

    def _reporter(self, job: Job, verdict: Verdict) -> Callable[[int], None]:
        last = [0.0]

        def report(_count: int) -> None:
            if self._is_over():
                raise Stop
            now = time.monotonic()
            if now - last[0] >= 0.2:
                last[0] = now
                self._tell(job, "verifying", verdict.bytes)

        return report

    def _is_over(self) -> bool:
        return self._stopping.is_set() or (self.deadline is not None and time.monotonic() > self.deadline)

    def _worked(self, place: str) -> None:
        with self._lock:
            self._refused.pop(place, None)

    def _failed(self, place: str, error: StowageError) -> None:
        if place != HOLDING and isinstance(error, TargetRefused) and not isinstance(error, StillAsleep):
            with self._lock:
                self._refused.setdefault(place, []).append(error)

    def _tell(self, job: Job, phase: str, count: int) -> None:
        if self.progress:
            with self._lock:
                self.progress({
                    "client": job.dump.client, "source": job.dump.source, "dump": job.dump.id, "target": job.place,
                    "phase": phase, "bytes": count, "total": job.length or job.dump.stored_size,
                })  # fmt: skip
