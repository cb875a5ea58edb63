"""Restore, list files, find: hands the images, the connections and the request to restore/.

Here live where a restore goes (scratch folder, folder of this server, folder of a client, in place) and its row in
the catalog; what is read and how it is delivered lives in restore/.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from dataclasses import dataclass, replace
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple

from .. import clock, ids
from ..catalog import reading
from ..errors import RequestError, StillAsleep, StowageError
from .engine import Engine, Progress

HOLDING = "holding"
LOOK_FIRST, LOOK_LAST = 5.0, 300.0  # seconds between two looks at what sleeps: the pauses grow


@dataclass(frozen=True)
class Request:
    """What `stowage restore` was asked. to: DIR or CLIENT:DIR; place: holding or a target's name; ring: see images.
    wait: seconds that it may wait for what sleeps in an archive; None: it asks for that, and ends."""

    words: Sequence[str]
    at: Optional[str] = None
    place: Optional[str] = None
    to: Optional[str] = None
    in_place: bool = False
    existing: str = "refuse"
    exact: bool = False
    permit: Optional[str] = None
    ring: Any = None
    wait: Optional[float] = None


def images(engine: Engine, place: Optional[str] = None, ring: Any = None, last: bool = False) -> Any:
    """The images that can be read, only at one place when it is named; last: there a damaged copy, too, of a dump that
    is good nowhere.

    ring: a keys.ring.KeyRing that opens sealed ones; None: the keys on this server that ask for nothing.
    """
    from ..restore.images import Images
    from ..restore.lastcopy import LastImages

    if place not in (None, HOLDING):
        engine.target_name(place)
    return (LastImages if last else Images)(engine.settings, engine.catalog, engine.target, only=place, ring=ring)


def wanted(engine: Engine, words: Sequence[str], at: Optional[str], place: Optional[str] = None) -> List[Any]:
    """What the words mean, source by source."""
    from ..restore import request

    if place not in (None, HOLDING):
        engine.target_name(place)
    moment, named = (None, None) if at is None else _moment(engine, at)
    return request.resolve(
        engine.settings, engine.catalog, words, moment, place, last=place is not None, named=named
    )  # fmt: skip


@contextlib.contextmanager
def kept(engine: Engine, asked: Request) -> Iterator[List[Any]]:
    """What is asked for, and nobody prunes it until this is left. Raises as wanted() does."""
    from ..dump import runlock

    found = wanted(engine, asked.words, asked.at, asked.place)
    while True:
        names = {dump.id for one in found for dump in one.chain}
        with reading.keep(engine.settings.state, sorted(names), "stowage restore") as why:
            if runlock.holder(engine.settings) is not None:  # a prune at work may have removed it just before
                found = wanted(engine, asked.words, asked.at, asked.place)
            if names.issuperset(dump.id for one in found for dump in one.chain):
                if why:
                    found[0] = replace(found[0], notes=(*found[0].notes, why))
                yield found
                return


def client_of(words: Sequence[str]) -> str:
    """The client that the words name. Raises RequestError."""
    from ..restore import request

    return request.parse_words(words)[0]


def _moment(engine: Engine, at: str) -> Tuple[int, Any]:
    """The moment in ns; the name of a dump means that very dump, not its second."""
    if ids.parse_dump_name(at) is None:
        return clock.parse_moment(at), None
    dump = engine.catalog.dump(at)
    if dump is None:
        raise RequestError(f"there is no dump {at}", "stowage list dumps")
    return dump.begun_ns, dump


def plan(engine: Engine, asked: Request) -> Any:
    """What the restore would read: restore.report.RestorePlan. Touches no client."""
    from ..restore import plan as planning

    found = images(engine, asked.place, asked.ring, True), wanted(engine, asked.words, asked.at, asked.place)
    options, _connect = _destination(engine, asked, found[1][0].client)
    return planning.plan(*found, options)


def restore(engine: Engine, asked: Request, progress: Progress = None) -> Any:
    """Restores: restore.report.RestoreReport. What failed in part stands in it. Raises StillAsleep when it has to wait
    for an archive: nothing was restored then."""

    with kept(engine, asked) as found:
        return _restore(engine, asked, found, progress)


def _restore(engine: Engine, asked: Request, found: List[Any], progress: Progress) -> Any:
    from ..restore import deliver

    options, connect = _destination(engine, asked, found[0].client)
    readable = awake(engine, asked, found, progress)
    run = engine.catalog.begin_run("restore")
    status, summary = "FAIL", {"what": list(asked.words), "destination": options.destination or "scratch"}
    try:
        report = deliver.restore(readable, found, options, connect, progress)
        status = {"ok": "OK", "warn": "WARN"}.get(report.status, "FAIL")
        summary.update(files=report.files, bytes=report.bytes, failed=report.failed_count)
        summary["destination"] = report.destination
        read: dict = {}
        for use in report.read_from:  # by such measurements a drill reckons what a whole restore would take
            read[use.place] = read.get(use.place, 0) + use.bytes
        summary.update(read=read, seconds=round(report.seconds, 3))
    except StowageError as error:
        summary["error"] = error.message
        raise
    finally:
        engine.catalog.end_run(run.id, status, summary)
    return report


def cat(engine: Engine, asked: Request, say: Callable[[str], None] = lambda _note: None) -> Iterator[bytes]:
    """The content of the one file that was asked for, checked to its end. say: gets what a person should know."""

    with contextlib.ExitStack() as stack:
        found = stack.enter_context(kept(engine, asked))
        for one in found:
            for note in one.notes:
                say(note)
        given = _cat(engine, asked, found)
        until = stack.pop_all()

    def pieces() -> Iterator[bytes]:
        with until:
            yield from given

    return pieces()


def _cat(engine: Engine, asked: Request, found: List[Any]) -> Iterator[bytes]:
    from ..restore import deliver

    def pieces(readable: Any) -> Iterator[bytes]:
        given = deliver.cat(readable, found)
        return itertools.chain([next(given, b"")], rest_of(given))

    def rest_of(given: Iterator[bytes]) -> Iterator[bytes]:
        try:
            yield from given
        except StillAsleep:  # in a later part: asked for now, all that sleeps
            awake(engine, replace(asked, wait=None), found)
            raise

    if asked.wait is not None:
        return pieces(awake(engine, asked, found))
    try:  # hardly ever anything sleeps, and looking costs what the whole file costs
        return pieces(images(engine, asked.place, asked.ring, True))
    except StillAsleep:
        return pieces(awake(engine, asked, found))


def awake(engine: Engine, asked: Request, found: Sequence[Any], progress: Progress = None) -> Any:
    """The images, when all that is needed of them can be read. What sleeps in an archive is asked for, all at once, and
    waited for as long as asked. Raises StillAsleep."""
    from ..restore import sleeping

    until = time.monotonic() + (asked.wait or 0.0)
    pause, before = LOOK_FIRST, None
    while True:
        readable = images(engine, asked.place, asked.ring, True)
        sleepers = sleeping.find(readable, found, asked.exact)
        if not sleepers:
            return readable
        left = sleeping.wake(engine.target, sleepers)
        if not left and sleepers != before:
            before = sleepers
            continue  # it woke at once: what comes after the small files is looked at now
        while left or sleepers == before:
            rest = until - time.monotonic()
            if rest <= 0:
                raise sleeping.told(left or sleepers, engine.settings)
            if progress:
                total = sum(one.size for one in sleepers)
                progress({"client": found[0].client, "phase": "waiting for the archive", "total": total or None,
                          "bytes": total - sum(one.size for one in left)})  # fmt: skip
            time.sleep(min(pause, rest))
            pause, before = min(pause * 1.5, LOOK_LAST), None
            left = sleeping.wake(engine.target, left)


def _destination(engine: Engine, asked: Request, client: str) -> tuple[Any, Callable[[], Any]]:
    """Options of the delivery, and how to reach the agent that takes it."""
    from ..dump import transport
    from ..restore.report import Options

    options = Options(existing=asked.existing, exact=asked.exact, permit=asked.permit)
    if asked.in_place and asked.to is not None:
        raise RequestError("--to and --in-place together", "choose one of them")
    if asked.in_place:
        return replace(options, destination="/"), _to_client(engine, client)
    if asked.to is None:
        return options, _to_client(engine, client)
    name, colon, folder = asked.to.partition(":")
    if colon and "/" not in name:
        if name not in engine.settings.clients:
            raise RequestError(f'"{asked.to}" names no client and is no path', f"write ./{asked.to} for a folder here")
        if not folder.startswith("/"):
            raise RequestError(f'"{asked.to}": the folder on a client must be an absolute path')
        return replace(options, destination=folder), _to_client(engine, name)
    path = os.path.abspath(asked.to)
    return replace(options, destination=path), lambda: transport.connect_extract(engine.settings, path)


def _to_client(engine: Engine, name: str) -> Callable[[], Any]:
    client = engine.settings.clients.get(name)
    if client is None:
        raise RequestError(
            f"client {name} is no longer configured, its scratch folder cannot be reached",
            "restore to a folder of this server with --to DIR, or to another client with --to CLIENT:DIR",
        )
    return lambda: engine.connect(client)


def files(
    engine: Engine, words: Sequence[str], at: Optional[str], recursive: bool, ring: Any = None,
    notes: Optional[List[str]] = None,
) -> Iterator[Any]:  # fmt: skip
    """The entries at a path at a moment: restore.report.Listed. ring: as of images. notes: gets what a person should
    know of a source that has no full yet."""
    from ..restore import find, recent

    asked = wanted(engine, words, at)
    if notes is not None:
        notes += recent.notes(engine.catalog, ((one.client, one.source, one.chain) for one in asked))
    return recent.named(find.list_files(images(engine, ring=ring), asked, recursive=recursive), asked)
