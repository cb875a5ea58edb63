"""What the catalog holds, as JSON-ready records: runs, dumps, copies, newest last; and the search over all dumps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from .. import clock, text
from ..errors import RequestError
from ..restore import recent
from .engine import Engine, unknown
from .restoring import images

_DAY = re.compile(r"\s*(today|yesterday|\d{4}-\d{2}-\d{2})\s*\Z", re.IGNORECASE)


def runs(engine: Engine, limit: Optional[int]) -> List[Dict[str, Any]]:
    """The newest runs, stages and restores."""
    return [
        {
            "run": one.id, "kind": one.kind, "begun": clock.iso(one.begun_ns), "begun_ns": one.begun_ns,
            "ended": clock.iso(one.ended_ns) if one.ended_ns else None,
            "seconds": (one.ended_ns - one.begun_ns) / clock.NS if one.ended_ns else None,
            "status": one.status, "summary": dict(one.summary),
        }
        for one in engine.catalog.runs(limit=limit)
    ]  # fmt: skip


def dumps(
    engine: Engine, client: Optional[str], source: Optional[str], target: Optional[str], limit: Optional[int]
) -> List[Dict[str, Any]]:
    """The newest dumps, each with the places that hold it."""
    found = _dumps(engine, client, source)
    if target is not None:
        rows = engine.catalog.copies(target=_target(engine, target))
        there = {row.dump for row in rows if row.state in ("verified", "done")}  # done: whole, found by a rebuild
        found = [one for one in found if one.id in there]
    records = []
    for one in found[-limit:] if limit else found:
        copies = engine.catalog.copies(dump=one.id)
        records.append({
            "dump": one.id, "client": one.client, "source": one.source, "segment": one.segment, "path": one.path,
            "level": one.level, "newer": clock.iso(recent.newer_ns(one)) if recent.newer_ns(one) else None,
            "base": one.base, "begun": clock.iso(one.begun_ns), "begun_ns": one.begun_ns, "entries": one.entries,
            "files": None if one.files < 0 else one.files,  # its index is unknown
            "archive_size": one.archive_size, "stored_size": one.stored_size,
            "codec": one.codec, "holding": one.holding, "damaged": one.damaged, "warnings": one.warnings,
            "notes": [text.escape(note) for note in one.notes], "copies": {row.target: row.state for row in copies},
        })  # fmt: skip
    return records


def only_recent(engine: Engine, client: Optional[str], source: Optional[str]) -> List[str]:
    """What a person should know of sources that have interim dumps and no full."""
    return recent.only_recent(engine.catalog, engine.catalog.dumps(client=client, source=source))


def copies(
    engine: Engine, client: Optional[str], source: Optional[str], target: Optional[str], limit: Optional[int]
) -> List[Dict[str, Any]]:
    """The newest copies with their state."""
    from ..catalog import locked, marks

    if target is not None:
        _target(engine, target)
    by_id = {one.id: one for one in _dumps(engine, client, source)}
    found = [row for row in engine.catalog.copies(target=target) if row.dump in by_id]
    marked = marks.marked(engine.catalog)
    locks = {place: row.until_ns for place, row in locked.known(engine.catalog).items() if row.until_ns}
    return [
        {
            "dump": row.dump, "client": by_id[row.dump].client, "source": by_id[row.dump].source,
            "segment": by_id[row.dump].segment,
            "level": by_id[row.dump].level, "target": row.target, "state": row.state, "bytes": row.bytes,
            "verified": clock.iso(row.verified_ns) if row.verified_ns else None, "error": row.error,
            "marked": (row.dump, row.target) in marked,
            "locked": clock.iso(locks[row.dump, row.target]) if (row.dump, row.target) in locks else None,
        }
        for row in (found[-limit:] if limit else found)
    ]  # fmt: skip


def _target(engine: Engine, name: str) -> str:
    # a target that left the configuration may still hold copies
    if name not in engine.settings.targets and not engine.catalog.copies(target=name):
        raise unknown("target", name, engine.settings.targets)
    return name


def _dumps(engine: Engine, client: Optional[str], source: Optional[str]) -> List[Any]:
    found = engine.catalog.dumps(client=client, source=source)
    if not found:
        configured = engine.settings.clients
        if client is not None and client not in configured and not engine.catalog.dumps(client=client):
            raise unknown("client", client, {*configured, *(one.client for one in engine.catalog.dumps())})
        names = {name for one in configured.values() if client in (None, one.name) for name in one.sources}
        if source is not None and source not in names:
            names |= {one.source for one in engine.catalog.dumps(client=client)}
            if source not in names:
                raise unknown("source" + (f" of {client}" if client else ""), source, names)
    return found


def check_limit(limit: int) -> Optional[int]:
    """--limit N as the catalog takes it: 0 means all. Raises RequestError."""
    if limit < 0:
        raise RequestError(f"--limit {limit}: must be 0 (all) or more")
    return limit or None


@dataclass(frozen=True)
class Search:
    """What `stowage find` was asked, in a person's words. limit: so many paths, 0 for all."""

    pattern: str
    client: Optional[str] = None
    source: Optional[str] = None
    substring: bool = False
    ignore_case: bool = False
    larger: Optional[str] = None
    smaller: Optional[str] = None
    newer: Optional[str] = None
    older: Optional[str] = None
    deleted: bool = False
    limit: Optional[int] = None


def find(engine: Engine, asked: Search, tell: Callable[[str], None]) -> Tuple[Iterator[Any], List[str], List[Any]]:
    """All versions of what matches (restore.report.Version); what a person should know, and records of the dumps that
    were not searched, both complete when the last version is out."""
    from ..restore import find as finding

    limit = finding.LIMIT if asked.limit is None else check_limit(asked.limit)
    wanted = finding.Asked(
        asked.pattern, asked.client, asked.source, asked.substring, asked.ignore_case, _size("larger", asked.larger),
        _size("smaller", asked.smaller), _since(asked.newer), _since(asked.older, -1), asked.deleted, limit,
    )  # fmt: skip
    readable = images(engine)
    client, _query = finding.compiled(wanted)
    for told in recent.only_recent(engine.catalog, engine.catalog.dumps(client=client, source=asked.source)):
        readable.note(told)
    return finding.find(engine.settings, engine.catalog, readable, wanted, tell), readable.notes, readable.unsearched


def _size(option: str, value: Optional[str]) -> Optional[int]:
    if value is None:
        return None
    try:
        return text.parse_size(value)
    except ValueError as error:
        raise RequestError(f"--{option}: {error}") from None


def since(value: str) -> int:
    """The moment in ns that a person means by a word of time; a bare date is its begin. Raises RequestError."""
    moment = clock.parse_moment(value)
    return moment + 1 - 86400 * clock.NS if _DAY.match(value) else moment


def _since(value: Optional[str], shift: int = 0) -> Optional[int]:
    """The moment in ns; a bare date is its begin."""
    if value is None:
        return None
    return since(value) + shift


def refresh_search(engine: Engine) -> Tuple[List[str], List[Any]]:
    """Brings the search up to date with the catalog, so that find need not; what it could not read, as warnings that
    stay few and as records of all dumps."""
    from ..restore import histories

    rows = engine.catalog.dumps()
    try:
        done = histories.bring(engine.settings.state, images(engine), rows)
    except OSError as error:
        return [f"find was not brought up to date: {error.strerror}"], []
    return histories.untold(done, rows, engine.catalog, "is not in find")
