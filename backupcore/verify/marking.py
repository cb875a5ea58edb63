"""What a verdict means: rows of copies, marks of dumps, proofs.

Here lives that judgement, for one copy at a time; nothing here reads a copy or makes one. A damaged copy is never
chosen again; without any good copy left the dump is damaged, so that the next run makes a full.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, List, Optional

from .. import clock
from ..catalog import aside
from ..catalog.records import HOLDING, CopyRow, DumpRow, ProofRow
from .verdict import Verdict

OPEN = ("verified", "done", "damaged")  # states of copies that can be judged


def apply(catalog: Any, verdict: Verdict) -> None:
    """Writes what was found to the catalog."""
    catalog.add_proofs(_proofs(verdict))
    dump = catalog.dump(verdict.dump.id)
    if dump is None:
        return
    row = _row(catalog, dump, verdict.place)
    if verdict.damage:
        _damaged(catalog, verdict, dump, row)
    elif verdict.ok and verdict.kind == "full":
        _right(catalog, verdict, dump, row)
    if verdict.wrong or (verdict.damage and not good_places(catalog, dump, verdict.place)):
        catalog.mark_damaged(dump.id)


def good_places(catalog: Any, dump: DumpRow, but: str = "") -> List[str]:
    """Where the dump has a copy that is not known to be damaged, except at one place."""
    rows = {row.target: row for row in catalog.copies(dump=dump.id)}
    found = [HOLDING] if dump.holding is not None and HOLDING not in rows else []
    found += [name for name, row in rows.items() if row.state in ("verified", "done")]
    return [name for name in found if name != but]


def _row(catalog: Any, dump: DumpRow, place: str) -> Optional[CopyRow]:
    found = catalog.copies(dump=dump.id, target=place)
    return found[0] if found else None


def _damaged(catalog: Any, verdict: Verdict, dump: DumpRow, row: Optional[CopyRow]) -> None:
    if verdict.place == HOLDING:
        if dump.holding is not None and row is None:
            aside.note_damage(catalog, dump, verdict.message())
    elif row is not None and row.state in OPEN:  # else a staging at work has begun to make it anew
        upload = {"files": dict(verdict.good), "repair": True, "keys": (row.upload or {}).get("keys", {})}
        catalog.put_copy(replace(row, state="damaged", error=verdict.message(), upload=upload, updated_ns=0))


def _right(catalog: Any, verdict: Verdict, dump: DumpRow, row: Optional[CopyRow]) -> None:
    if verdict.place == HOLDING:
        if row is not None and dump.holding is not None:
            catalog.remove_copy(dump.id, HOLDING)
    elif row is not None and row.state in OPEN:
        keys = (row.upload or {}).get("keys")
        now = clock.now_ns()
        upload = {"keys": keys} if keys else {}
        catalog.put_copy(replace(row, state="verified", error="", upload=upload, verified_ns=now, updated_ns=0))
    if dump.damaged and not verdict.notes:
        catalog.mark_damaged(dump.id, False)


def _proofs(verdict: Verdict) -> List[ProofRow]:
    name, place, kind = verdict.dump.id, verdict.place, verdict.kind
    if kind != "sample":
        return [ProofRow(name, place, kind, verdict.ok, length=verdict.bytes, note=verdict.message())]
    found = [ProofRow(name, place, kind, True, part=0, start=start, length=length)
             for start, length in dict(verdict.proven).items()]  # fmt: skip
    if not verdict.ok:
        found.append(ProofRow(name, place, kind, False, length=verdict.bytes, note=verdict.message()))
    return found
