"""Restore, list files, find: hands the images, the connections and the request to restore/.

Here live where a restore goes (scratch folder, folder of this server, folder of a client, in place) and its row in
the catalog; what is read and how it is delivered lives in restore/.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple

from .. import clock, ids
from ..errors import RequestError, StowageError
from .engine import Engine, Progress

HOLDING = "holding"


@dataclass(frozen=True)
class Request:
    """What `stowage restore` was asked. to: DIR or CLIENT:DIR; place: holding or a target's name; ring: see images."""

    words: Sequence[str]
    at: Optional[str] = None
    place: Optional[str] = None
    to: Optional[str] = None
    in_place: bool = False
    existing: str = "refuse"
    exact: bool = False
    permit: Optional[str] = None
    ring: Any = None


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

    moment, named = (None, None) if at is None else _moment(engine, at)
    return request.resolve(
        engine.settings, engine.catalog, words, moment, place, last=place is not None, named=named
    )  # fmt: skip


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
    """Restores: restore.report.RestoreReport. What failed in part stands in it."""
    from ..restore import deliver

    readable, found = images(engine, asked.place, asked.ring, True), wanted(engine, asked.words, asked.at, asked.place)
    options, connect = _destination(engine, asked, found[0].client)
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
    from ..restore import deliver

    found = wanted(engine, asked.words, asked.at, asked.place)
    for one in found:
        for note in one.notes:
            say(note)
    return deliver.cat(images(engine, asked.place, asked.ring, True), found)


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
