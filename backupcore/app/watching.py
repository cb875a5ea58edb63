"""Looking between two nights: asks how everything stands, and tells those who listen what begins, lasts and ends.

Here live the asking, the memory of what was told, and the telling; what counts as trouble lives in report/watch.py. A
look takes no lock of a run and writes nothing but its memory. That is written after each telling: who is killed in
between tells once more, nobody hears nothing.
"""

from __future__ import annotations

import json
import os
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping, Optional, Tuple

from .. import clock, files, hours
from ..catalog import places, slim
from ..catalog.records import FAIL, OK, WARN, RunRow
from ..errors import CatalogError, StowageError
from ..hookspecs import Event
from ..locks import LockFile
from ..report import watch
from ..report.night import SourceLine, count
from ..settings import HoldingDisk
from . import plan_state, telling

if TYPE_CHECKING:
    from .engine import Engine

FORMAT = "stowage-watch/1"
MOST = 1 << 26  # bytes of the memory
RUNS = 150  # that a rhythm is looked for in


@dataclass
class Memory:
    """first_ns: the first look. since: what is wrong, since when. told: event section -> what it was told of, when."""

    first_ns: int = 0
    since: Dict[str, int] = field(default_factory=dict)
    told: Dict[str, Dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """How everything stands. troubles: what is wrong now; since: key -> when that began."""

    now_ns: int
    troubles: Tuple[watch.Trouble, ...]
    since: Mapping[str, int]
    lines: Tuple[SourceLine, ...] = ()
    disks: Tuple[watch.Disk, ...] = ()
    run: Optional[RunRow] = None
    told: Tuple[Dict[str, Any], ...] = ()
    failed: Tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """The worst of all; FAIL too when somebody could not be told."""
        return FAIL if self.failed else self.standing

    @property
    def standing(self) -> str:
        """The worst of what is wrong."""
        worst = {one.status for one in self.troubles}
        return FAIL if FAIL in worst else WARN if worst else OK

    @property
    def headline(self) -> str:
        """One line."""
        if len(self.troubles) == 1:
            (one,) = self.troubles
            return f"{one.status:4s} {one.message}" + (f" -> {one.hint}" if one.hint else "")
        if self.troubles:
            return f"{self.standing:4s} {len(self.troubles)} things are wrong"
        return f"OK   {count(len(self.lines), 'source')} within the rpo, no copy damaged, room on the holding disks"

    def as_dict(self) -> Dict[str, Any]:
        """JSON-ready."""
        run = self.run
        return {
            "headline": self.headline,
            "looked": clock.iso(self.now_ns),
            "troubles": [watch.as_dict(one, self.since) for one in self.troubles],
            "run": run and {
                "id": run.id, "begun": clock.iso(run.begun_ns), "status": run.status,
                "ended": clock.iso(run.ended_ns) if run.ended_ns else None, "bytes": run.summary.get("bytes"),
            },
            "sources": [
                {"client": one.client, "source": one.source, "status": one.status, "age": one.age, "rpo": one.rpo}
                for one in self.lines
            ],
            "holding": [{"path": one.path, "used": one.used, "limit": one.limit, "usable": not one.wrong}
                        for one in self.disks],
        }  # fmt: skip


def look(engine: Engine, dry: bool = False) -> Look:
    """Looks, and tells. dry: tells nobody and remembers nothing."""
    with _alone(engine, dry):
        memory = _read(engine)
        found = _see(engine, memory)
        if dry:
            return found
        memory.first_ns = memory.first_ns or found.now_ns
        memory.since = dict(found.since)
        memory.told = {name: kept for name, kept in memory.told.items() if name in engine.settings.events}
        _write(engine, memory)  # before anybody is told: who cannot remember would tell the same each hour
        told, failed = _tell(engine, found, memory)
    return Look(**{**found.__dict__, "told": tuple(told), "failed": tuple(failed)})


def test(engine: Engine) -> List[Tuple[str, Optional[StowageError]]]:
    """Tells everybody that this is a test: (section, why it failed or None)."""
    import socket

    subject = f"stowage test from {socket.gethostname()}"
    text = f"{subject}\nNothing has happened. This is how you would hear of it."
    event = Event("test", OK, subject, text, {"test": True})
    return [(one.name, telling.deliver(engine, one, event)) for one in engine.settings.events.values()]


def _tell(engine: Engine, found: Look, memory: Memory) -> Tuple[List[Dict[str, Any]], List[str]]:
    """Tells each section what it has not heard; what was told, and what could not be."""
    told: List[Dict[str, Any]] = []
    failed: List[str] = []
    for one in engine.settings.events.values():
        error = None
        kept = memory.told.get(one.name, {})
        for what in watch.tellings(one.events, found.troubles, kept, found.now_ns):
            error = telling.deliver(
                engine, one, Event(what.kind, what.status, what.subject, what.text, what.as_dict(found.since))
            )
            if error is not None:
                break  # and at the next look once more; the others of this section would fare the same
            kept = memory.told[one.name] = watch.after(kept, what, found.now_ns)
            _write(engine, memory)
            told.append({"event": one.name, "kind": what.kind, "state": what.state, "count": len(what.keys)})
        if error is None and "watched" in one.events:
            text = "\n".join([found.headline, *(f"{t.status:4s} {t.message}" for t in found.troubles[:watch.SHOWN])])
            event = Event("watched", found.standing, f"stowage {found.headline}", text, found.as_dict())
            error = telling.deliver(engine, one, event)
        if error is not None:
            failed.append(f"{error.message} -> {error.hint}")
    return told, failed


def _see(engine: Engine, memory: Memory) -> Look:
    """How everything stands."""
    from ..report import night

    settings, catalog, now = engine.settings, engine.catalog, clock.now_ns()
    at_work = engine._at_work()
    runs = catalog.runs(limit=RUNS)
    nights = [run for run in runs if run.kind == "run"]
    last = nights[-1] if nights else None
    lines = night.make(settings, catalog, now, run=last, running=at_work).lines
    disks = tuple(_disk(engine, one) for one in settings.holding)
    troubles = watch.overdue(lines)
    damaged = ((row, catalog.dump(row.dump)) for row in slim.damaged(catalog))
    troubles += watch.damaged([(row, dump) for row, dump in damaged if dump is not None], lines)
    troubles += watch.filling(disks, memory.since)
    if lines:
        kept = plan_state.read(settings.state)
        begun = [run.begun_ns for run in nights if _whole(kept, run)]
        troubles += watch.missing(begun, memory.first_ns or now, now, settings.cycle_days)
    unended = next((run for run in reversed(runs) if run.kind in ("run", "due")), None)
    if unended is not None and unended.ended_ns is None and not at_work and not engine._at_work():
        unended = catalog.run(unended.id)  # it may have ended since
        troubles += [watch.killed(unended.id, unended.begun_ns)] if unended and unended.ended_ns is None else []
    since = {one.key: memory.since.get(one.key, now) for one in troubles}
    return Look(now, tuple(troubles), since, tuple(lines), disks, last)


def _whole(kept: plan_state.Kept, run: RunRow) -> bool:
    """Whether it was a run of everything; one that was killed is known by the note that it began with, kept."""
    if "everything" in run.summary:
        return bool(run.summary["everything"])
    return not kept.night or run.id in kept.runs or hours.night_of(run.begun_ns) < kept.night


def _disk(engine: Engine, disk: HoldingDisk) -> watch.Disk:
    """How full a holding disk is."""
    from ..dump.holding import is_claimed
    from ..dump.stored import stored

    path = os.fspath(disk.path)
    try:
        is_claimed(disk.path, places.known_server_id(engine.settings.state) or "", engine.catalog)
        space = os.statvfs(path)
        free, total = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
        limit = max(0, total + disk.use) if disk.use < 0 else min(total, disk.use)
        left = free + disk.use if disk.use < 0 else min(free, disk.use - stored(disk.path))
    except StowageError as error:
        return watch.Disk(path, warn=disk.warn, wrong=error.message, hint=error.hint)
    except OSError as error:
        return watch.Disk(path, warn=disk.warn, wrong=f"the holding disk {path} cannot be used: {error.strerror}")
    return watch.Disk(path, max(0, limit - max(0, left)), limit, disk.warn)


# the memory


def _read(engine: Engine) -> Memory:
    """What is remembered; nothing where that cannot be read: then all is told anew."""
    try:
        path = places.watch_file(engine.settings.state)
        if path.stat().st_size > MOST:
            return Memory()
        raw = json.loads(path.read_bytes())
        if raw["format"] != FORMAT:
            return Memory()
        told = {str(name): _moments(kept) for name, kept in raw["told"].items()}
        return Memory(int(raw["first"]), _moments(raw["since"]), told)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return Memory()


def _moments(raw: Mapping[str, Any]) -> Dict[str, int]:
    return {str(key): int(when) for key, when in raw.items()}


def _write(engine: Engine, memory: Memory) -> None:
    value = {"format": FORMAT, "first": memory.first_ns, "since": memory.since, "told": memory.told}
    try:
        files.replace(places.watch_file(engine.settings.state), json.dumps(value, separators=(",", ":")).encode())
    except OSError as error:
        raise CatalogError(f"{engine.settings.state} cannot be written: {error.strerror}") from None


@contextmanager
def _alone(engine: Engine, dry: bool) -> Iterator[None]:
    """One look at a time: two would tell everything twice."""
    if dry:
        yield
        return
    try:
        files.make_folder(engine.settings.state)
        lock = LockFile(places.watch_lock(engine.settings.state))
    except OSError as error:
        raise CatalogError(f"{engine.settings.state} cannot be written: {error.strerror}") from None
    with closing(lock):
        lock.take(wait=True)
        yield
