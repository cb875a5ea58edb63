"""The drill: random files and whole small sources are restored from the farthest copy, compared, and taken away again.

Here live the restore (by the parts of every restore, as a user would have it), the comparison, what the catalog
remembers of it, and the small drill of a night. What is tried is chosen in drill_choice.py, whose turn it is and what a
whole restore would take is reckoned in verify/drill.py; what happens on the client is agent/drill.py.

What a proven drill proves: the manifest at the place is signed and the one that the catalog knows, the bytes read there
are those it vouches for, they open and unpack, a restore reaches the client's disk, and what was read again from there
has the SHA-256 that the index has. It proves nothing of bytes that it did not read: that is verify's work.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import secrets
import threading
import time
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from .. import clock, files, text
from ..agent import drill as on_client
from ..catalog import drills, reading
from ..catalog.drills import CLIENT, FAILED, PROVEN, SEALED, SERVER, UNPROVEN, Drilled
from ..catalog.records import ProofRow
from ..errors import (
    AccessDenied,
    AgentMissing,
    AgentRefused,
    Busy,
    CatalogError,
    ClientUnreachable,
    HostKeyChanged,
    ImageDamaged,
    KeyLocked,
    KeyMissing,
    StowageError,
    WireError,
)
from ..locks import LockFile
from ..restore import deliver
from ..restore.report import Options
from ..settings import Settings
from ..verify import drill as reckon
from .drill_choice import Asked, Choice, Pick, estimates
from .engine import Engine, Progress
from .restoring import images

_AWAY = (ClientUnreachable, HostKeyChanged, AccessDenied, AgentMissing, AgentRefused, WireError)


@dataclass(frozen=True)
class Answer:
    """What a drill did. estimates: client -> what a restore of all of it would take. without: clients with no copy.
    asleep: copies that were passed over, since they sleep in an archive."""

    results: Tuple[Drilled, ...]
    estimates: Dict[str, dict]
    without: Tuple[str, ...]
    seconds: float
    money: Dict[str, float]
    stopped: bool = False
    asleep: Tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """OK, WARN or FAIL."""
        states = {one.status for one in self.results}
        return "FAIL" if FAILED in states else "WARN" if states - {PROVEN, SEALED} or self.stopped else "OK"


def drill(
    engine: Engine, asked: Asked, progress: Progress = None, nightly: bool = False, dice: Optional[random.Random] = None
) -> Answer:
    """One drill; what came to nothing stands in the answer. Raises Busy, RequestError, CatalogError."""
    work = _Drill(engine, asked, progress, dice or random.Random())
    begun = time.monotonic()
    with _alone(engine.settings):
        run = engine.catalog.begin_run(drills.KIND)
        status: str = "FAIL"
        summary: Dict[str, Any] = {"nightly": nightly, "stopped": True}
        try:
            for pick in work.choice.picks():
                work.try_one(pick, run.begun_ns)
                if work.late:
                    break
            summary = {"nightly": nightly, "results": [one.as_dict() for one in work.results]}
            summary["estimates"] = estimates(engine, work.results)
            without, took = tuple(work.choice.without), time.monotonic() - begun
            answer = Answer(tuple(work.results), summary["estimates"], without, took, work.money(), work.late,
                            tuple(work.choice.asleep))  # fmt: skip
            status = answer.status
        finally:
            engine.catalog.end_run(run.id, status, summary)
    return answer


def plan(engine: Engine, asked: Asked, dice: Optional[random.Random] = None) -> List[Pick]:
    """What a drill might try now: it draws lots, the next one draws others. Touches no client."""
    return list(Choice(engine, asked, dice or random.Random()).picks())


def state(engine: Engine) -> Any:
    """What drills have proven until now: report.proven.Proven."""
    from ..report import proven

    return proven.read(engine.settings, engine.catalog, clock.now_ns())


# ---- the night


def nightly(engine: Engine) -> List[str]:
    """The small drill of a night; returns what could not be done. Raises nothing: the night's dumps are worth more."""
    try:
        asked = Asked(small=True, seconds=engine.settings.drill.time)
        answer = drill(engine, asked, nightly=True)
    except StowageError as error:
        return [f"the nightly drill: {error.message}" + (f" -> {error.hint}" if error.hint else "")]
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return [f"the nightly drill failed: {text.escape(told)} -> stowage drill --small"]
    found = [f"drill of {one.client}:{one.source}: {one.message}" for one in answer.results if one.status == UNPROVEN]
    if answer.stopped:
        took = text.duration(engine.settings.drill.time)
        found.append(f"the nightly drill was stopped after {took} -> stowage drill")
    return found


# ---- one drill


class _Drill:
    def __init__(self, engine: Engine, asked: Asked, progress: Progress, dice: random.Random):
        self.engine, self.asked, self.progress = engine, asked, progress
        self.settings: Settings = engine.settings
        self.choice = Choice(engine, asked, dice)
        self.results: List[Drilled] = []
        self.late = False
        self._dice = dice
        self._until = None if asked.seconds is None else time.monotonic() + asked.seconds


    def try_one(self, pick: Pick, when_ns: int) -> None:
        """One pick, on its client or else here; what came of it goes into results and the catalog."""
        if self._until is not None and time.monotonic() >= self._until:
            self.late = True
            return
        if self.progress:
            name = {"client": pick.wanted.client, "source": pick.wanted.source}
            self.progress({**name, "phase": "restore", "bytes": 0, "total": pick.bytes or None})
        readable = images(self.engine, pick.place, self.asked.ring)
        begun = time.monotonic()
        names = [dump.id for dump in pick.wanted.chain]
        with reading.keep(self.settings.state, names, "stowage drill"):
            found = self._pruned(pick, readable) or self._try(pick, readable)
        result = replace(
            found, when_ns=when_ns, seconds=found.seconds or time.monotonic() - begun, requests=readable.requests(),
            read=sum(use.bytes for use in readable.uses()),
        )  # fmt: skip
        self.results.append(result)
        if result.status in (PROVEN, FAILED):
            self.engine.catalog.add_proofs(
                ProofRow(use.dump, use.place, "drill", result.status == PROVEN, length=use.bytes, note=result.message)
                for use in readable.uses()
            )
        if self.progress:
            phase = "done" if result.status == PROVEN else "failed" if result.status == FAILED else "skipped"
            self.progress({**name, "phase": phase, "bytes": result.bytes})

    def _pruned(self, pick: Pick, readable: Any) -> Optional[Drilled]:
        """What is said when a prune came first, after the lot was drawn."""
        for dump in pick.wanted.chain:
            now = self.engine.catalog.dump(dump.id)
            if now is None or not readable.places(now):
                return Drilled(pick.wanted.client, pick.wanted.source, pick.what, pick.place, SERVER, UNPROVEN,
                               dump.id, code="pruned", message=f"{dump.id} was pruned meanwhile")  # fmt: skip
        return None

    def _try(self, pick: Pick, readable: Any) -> Drilled:
        wanted = pick.wanted
        blank = Drilled(wanted.client, wanted.source, pick.what, pick.place, SERVER, FAILED, wanted.dump.id)
        manifest = None
        try:
            for dump in wanted.chain:
                manifest = readable.reader(dump).manifest()
                readable.reader(dump).table()
        except (KeyMissing, KeyLocked) as error:
            return self._sealed(replace(blank, code=error.code), readable.reader(dump), manifest, error)
        except StowageError as error:
            return _failed(blank, error)
        note = ""
        client = self.settings.clients[wanted.client]
        try:
            return self._restore(pick, readable, replace(blank, where=CLIENT), lambda: self.engine.connect(client))
        except _AWAY as error:
            if self.late:
                return _late(replace(blank, where=CLIENT))
            note = f"restored on this server: {error.message}"
        try:
            with self._folder() as folder:
                return self._restore(pick, readable, replace(blank, note=text.escape(note)), self._extract(folder))
        except StowageError as error:
            return _late(blank) if self.late else _failed(blank, error)

    def _restore(self, pick: Pick, readable: Any, blank: Drilled, connect: Callable[[], Any]) -> Drilled:
        """One restore. Raises what speaks of the client, not of the copy."""
        options = Options(drill=pick.bytes + pick.entries * 4096)
        live: List[Any] = []

        def begin() -> Any:
            live.append(connect())
            return live[-1]

        try:
            with self._watch(live):
                report = deliver.restore(readable, [pick.wanted], options, begin)
        except _AWAY:
            raise
        except StowageError as error:
            return _late(blank) if self.late else _failed(blank, error)
        found = replace(blank, files=report.files, bytes=report.bytes, seconds=report.seconds)
        why = _difference(pick, report)
        if why:
            return replace(found, message=why, code="restore-incomplete")
        return replace(found, status=PROVEN)

    def _sealed(self, blank: Drilled, reader: Any, manifest: Any, error: StowageError) -> Drilled:
        """What can be proven without a private key: the signature, and the sealed bytes by their checksums."""
        left, count, place, dump = self.settings.drill.size // 2, 0, reader.places[0], reader.dump
        parts = list(manifest.parts)
        self._dice.shuffle(parts)
        try:
            for record in (manifest.frames, manifest.index, *parts):
                if record.size > left:
                    continue
                left -= record.size
                digest = hashlib.sha256()
                for piece in place.pieces(record.name, 0, record.size):
                    digest.update(piece)
                if digest.hexdigest() != record.sha256:
                    raise ImageDamaged(f"{record.name} of {dump.id} is damaged")
                count += 1
        except StowageError as damage:
            return _failed(blank, damage)
        told = f"{error.message}; signature and {count} sealed files of {dump.id} are right"
        hint = f"stowage drill --client {dump.client} --key FILE"
        return replace(blank, status=SEALED, message=text.escape(told), hint=hint)

    @contextlib.contextmanager
    def _watch(self, live: List[Any]) -> Iterator[None]:
        """Cuts the conversation when the time is over."""
        if self._until is None:
            yield
            return

        def cut() -> None:
            self.late = True
            for agent in live:
                agent.cut()

        timer = threading.Timer(max(0.1, self._until - time.monotonic()), cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _extract(self, folder: str) -> Callable[[], Any]:
        from ..dump import transport

        return lambda: transport.connect_extract(self.settings, folder)

    @contextlib.contextmanager
    def _folder(self) -> Iterator[str]:
        """A folder on this server that is empty and gone after."""
        path = self.settings.state / "drill" / secrets.token_hex(4)
        try:
            files.make_folder(path)
        except OSError as error:
            raise CatalogError(f"{path} cannot be made: {error.strerror}") from None
        try:
            yield os.fspath(path)
        finally:
            _clean(self.settings)

    def money(self) -> Dict[str, float]:
        """What reading cost, by currency, where it is priced."""
        found: Dict[str, float] = {}
        for one in self.results:
            target = self.settings.targets.get(one.place)
            if target is not None and target.price is not None:
                price = target.price
                cost = reckon.cost(price, one.read, one.requests)
                found[price.currency] = found.get(price.currency, 0.0) + cost
        return found


def _failed(blank: Drilled, error: StowageError) -> Drilled:
    return replace(
        blank, status=FAILED, code=error.code, message=text.escape(error.message), hint=text.escape(error.hint)
    )


def _late(blank: Drilled) -> Drilled:
    return replace(blank, status=UNPROVEN, code="late", message="it took longer than a drill may")


def _difference(pick: Pick, report: Any) -> str:
    """How what came back differs from what was dumped; '' when it does not."""
    if report.failed_count:
        path, why = report.failed[0] if report.failed else ("", "")
        more = f" (and {report.failed_count - 1} more)" if report.failed_count > 1 else ""
        return f"{path}: {why}{more}"
    told = report.drilled[0] if report.drilled else {}
    if told.get("removed") is not True:
        return "what was restored was not read again"
    if report.files != pick.files or told.get("files") != pick.files:
        return f"{pick.files} files were asked for, {report.files} restored, {told.get('files')} found again"
    lost = reckon.missing(pick.expected, told.get("digests"), on_client.DIGESTS)
    if lost:
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        return f"{text.escape(lost[0])}: read again, it is not what was dumped{more}"
    return ""


@contextlib.contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """One drill at a time; what a killed one left here is removed. Raises Busy."""
    try:
        files.make_folder(settings.state)
        lock = LockFile(settings.state / "drill.lock")
    except OSError as error:
        raise CatalogError(f"{settings.state} cannot be used: {error.strerror}") from None
    with contextlib.closing(lock):
        if not lock.take():
            raise Busy("another drill is at work", "wait for it")
        _clean(settings)
        yield


def _clean(settings: Settings) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(settings.state / "drill", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            on_client.take_away(fd, None)
        finally:
            os.close(fd)
