"""What the catalog holds, as JSON-ready records: runs, dumps, copies, newest last."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from .. import clock, text
from ..errors import RequestError
from .engine import Engine, unknown


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
        there = {row.dump for row in engine.catalog.copies(target=_target(engine, target)) if row.state == "verified"}
        found = [one for one in found if one.id in there]
    records = []
    for one in found[-limit:] if limit else found:
        copies = engine.catalog.copies(dump=one.id)
        records.append({
            "dump": one.id, "client": one.client, "source": one.source, "path": one.path, "level": one.level,
            "base": one.base, "begun": clock.iso(one.begun_ns), "begun_ns": one.begun_ns, "entries": one.entries,
            "files": one.files, "archive_size": one.archive_size, "stored_size": one.stored_size,
            "codec": one.codec, "holding": one.holding, "damaged": one.damaged, "warnings": one.warnings,
            "notes": [text.escape(note) for note in one.notes], "copies": {row.target: row.state for row in copies},
        })  # fmt: skip
    return records


def copies(
    engine: Engine, client: Optional[str], source: Optional[str], target: Optional[str], limit: Optional[int]
) -> List[Dict[str, Any]]:
    """The newest copies with their state."""
    if target is not None:
        _target(engine, target)
    by_id = {one.id: one for one in _dumps(engine, client, source)}
    found = [row for row in engine.catalog.copies(target=target) if row.dump in by_id]
    return [
        {
            "dump": row.dump, "client": by_id[row.dump].client, "source": by_id[row.dump].source,
            "level": by_id[row.dump].level, "target": row.target, "state": row.state, "bytes": row.bytes,
            "verified": clock.iso(row.verified_ns) if row.verified_ns else None, "error": row.error,
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
