"""Second copies: what is on one target, to another, now, though no rule asks for it.

Here lives the choice: which dumps, with the bases without which they are of no use, oldest first. Not here: how a copy
is made (copy.py), by which threads (service.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Collection, Dict, List, Optional, Tuple

from ..catalog.records import CopyRow, DumpRow
from ..catalog.store import Catalog
from .wanted import Due, copies_by_dump


@dataclass(frozen=True)
class Chosen:
    """jobs: the copies to make, a base before what builds on it. there: names of dumps that are there already. removed:
    of those that retention removed there, which are left out. lacking: dump -> a base that is on neither target."""

    jobs: Tuple[Due, ...]
    there: Tuple[str, ...] = ()
    removed: Tuple[str, ...] = ()
    lacking: Tuple[Tuple[str, str], ...] = ()

    @property
    def bytes(self) -> int:
        """Of all the copies to make."""
        return sum(job.dump.stored_size for job in self.jobs)


def choose(
    catalog: Catalog,
    origin: str,
    target: str,
    *,
    clients: Collection[str] = (),
    sources: Collection[str] = (),
    dumps: Collection[str] = (),
    since_ns: Optional[int] = None,
) -> Chosen:
    """The dumps whose copy on origin is verified and that target lacks. clients, sources (also as CLIENT:SOURCE),
    dumps: only these; since_ns: only those begun since. What they are based on comes along."""
    every = {dump.id: dump for dump in catalog.dumps()}
    rows = copies_by_dump(catalog)

    def state(dump: DumpRow, place: str) -> str:
        row = rows.get(dump.id, {}).get(place)
        return row.state if row is not None else ""

    asked = [
        dump for dump in every.values()
        if state(dump, origin) == "verified" and not dump.damaged
        and (not clients or dump.client in clients)
        and (not sources or dump.source in sources or f"{dump.client}:{dump.source}" in sources)
        and (not dumps or dump.id in dumps)
        and (since_ns is None or dump.begun_ns >= since_ns)
    ]  # fmt: skip
    wanted: Dict[str, DumpRow] = {dump.id: dump for dump in asked}
    lacking: List[Tuple[str, str]] = []
    for dump in asked:
        base = every.get(dump.base or "")
        while base is not None:
            if state(base, origin) == "verified" and not base.damaged:
                wanted[base.id] = base
            elif state(base, target) != "verified":
                lacking.append((dump.id, base.id))
            base = every.get(base.base or "")
    there, removed, jobs = [], [], []
    for dump in sorted(wanted.values(), key=lambda one: (one.begun_ns, one.client, one.source, one.counter)):
        found = state(dump, target)
        if found == "verified":
            there.append(dump.id)
        elif found == "expired":
            removed.append(dump.id)
        else:
            row = rows.get(dump.id, {}).get(target) or CopyRow(dump.id, target)
            jobs.append(Due(dump, replace(row, upload={**(row.upload or {}), "asked": origin})))
    return Chosen(tuple(jobs), tuple(there), tuple(removed), tuple(lacking))
