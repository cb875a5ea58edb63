"""`stowage stage --from --to` and `--dry-run`: what the words mean, what would be copied, and the copying itself.

Here live the questions to catalog and configuration. Which dumps a second copy is made of is stage/second.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence, Tuple

from .. import clock
from ..errors import RequestError
from ..stage import second
from ..stage.wanted import Due, copies_by_dump, due, origins_of, rule_of
from . import listing, staging
from .engine import unknown

if TYPE_CHECKING:
    from .engine import Engine


@dataclass(frozen=True)
class Asked:
    """What `stowage stage --from ORIGIN --to TARGET` was asked."""

    origin: str
    target: str
    clients: Sequence[str] = ()
    sources: Sequence[str] = ()
    dumps: Sequence[str] = ()
    since: Optional[str] = None


def choose(engine: Engine, asked: Asked) -> second.Chosen:
    """The copies it means. Raises RequestError for what is unknown."""
    for name in (asked.origin, asked.target):
        engine.target_name(name)
    if asked.origin == asked.target:
        raise RequestError(f"both ends are {asked.origin}", "stowage stage --from ONE --to ANOTHER")
    rows = engine.catalog.dumps()
    for what, names, known in (
        ("client", asked.clients, {row.client for row in rows} | set(engine.settings.clients)),
        ("source", asked.sources, {name for row in rows for name in (row.source, f"{row.client}:{row.source}")}),
        ("dump", asked.dumps, {row.id for row in rows}),
    ):
        for name in names:
            if name not in known:
                raise unknown(what, name, known)
    return second.choose(
        engine.catalog, asked.origin, asked.target, clients=asked.clients, sources=asked.sources, dumps=asked.dumps,
        since_ns=listing.since(asked.since) if asked.since else None,
    )  # fmt: skip


def copy(
    engine: Engine, asked: Asked, progress: Optional[Callable[[dict], None]] = None
) -> Tuple[second.Chosen, staging.StageAnswer]:
    """Makes them. Raises Busy, RequestError."""
    found = [choose(engine, asked)]  # what is asked wrongly is said without waiting for the lock

    def jobs() -> Sequence[Due]:
        found[:] = [choose(engine, asked)]
        return found[0].jobs

    staged = staging.stage(engine, (), progress, now=True, jobs=jobs, origin=asked.origin)
    return found[0], staged


def plan(engine: Engine, targets: Sequence[str] = (), chosen: Optional[second.Chosen] = None,
         origin: str = "") -> List[Dict[str, Any]]:  # fmt: skip
    """What would be copied, by target and where from: {target, from, copies, bytes, oldest, newest, waits}. chosen: of
    a second copy from origin; None: what the policies ask for. waits: how many of them have to wait for a window or
    another copy."""
    for name in targets:
        engine.target_name(name)
    rows = copies_by_dump(engine.catalog)
    jobs = due(engine.settings, engine.catalog, list(targets) or None, waiting=True) if chosen is None else chosen.jobs
    found: Dict[Tuple[str, str], Dict[str, Any]] = {}
    for job in jobs:
        where = origin or origins_of(engine.settings, job.dump, rows.get(job.dump.id, {}), job.row.target)[0]
        one = found.setdefault((job.row.target, where), {
            "target": job.row.target, "from": where, "copies": 0, "bytes": 0, "waits": 0,
            "oldest": job.dump.id, "newest": job.dump.id,
        })  # fmt: skip
        one["copies"] += 1
        one["bytes"] += job.dump.stored_size
        one["waits"] += chosen is None and _waits(engine, job)
        one["oldest"], one["newest"] = min(one["oldest"], job.dump.id), max(one["newest"], job.dump.id)
    return [found[key] for key in sorted(found)]


def _waits(engine: Engine, job: Due) -> bool:
    rule = rule_of(engine.settings, job.dump, job.row.target)
    windows = rule.windows if rule is not None else None
    return bool(job.after) or windows is not None and not windows.open_at(clock.now_ns())
