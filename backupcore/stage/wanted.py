"""Which copies are due: what policies ask for, less what the catalog says is verified.

Here live decisions from records to records; nothing here reads a disk or a target. `dumps` of a copy
rule is all that is looked at: its windows say when, never which (pace.py).
"""

from __future__ import annotations

from typing import Container, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .. import ids
from ..catalog.records import HOLDING, CopyRow, DumpRow
from ..catalog.store import Catalog
from ..settings import CopyRule, Policy, Settings


class Due(NamedTuple):
    """A copy to make. row: what the catalog knows of it."""

    dump: DumpRow
    row: CopyRow


def wanted(dump: DumpRow, policy: Policy) -> Tuple[str, ...]:
    """The targets that a policy wants this dump on."""
    # an interim dump is no full, and goes where changes go
    level = 1 if dump.segment == ids.INTERIM else dump.level
    return tuple(rule.target for rule in policy.copies if _takes(rule.dumps, level))


def _takes(dumps: str, level: int) -> bool:
    return dumps == "all" or dumps == ("incremental" if level else "full")


def policy_of(settings: Settings, dump: DumpRow) -> Optional[Policy]:
    """The policy of a dump's source, None when the source stands no longer in the configuration."""
    client = settings.clients.get(dump.client)
    source = client.sources.get(dump.source) if client else None
    return source.policy if source else None


def wanted_of(settings: Settings, dump: DumpRow, rows: Sequence[CopyRow]) -> Tuple[str, ...]:
    """The targets this dump is wanted on. A source that left the configuration: where copies of it were begun."""
    policy = policy_of(settings, dump)
    if policy is not None:
        return wanted(dump, policy)
    return tuple(row.target for row in rows if row.state != "expired" and row.target in settings.targets)


def rule_of(settings: Settings, dump: DumpRow, target: str) -> Optional[CopyRule]:
    """The rule of a dump's policy for a target, None when it has none."""
    policy = policy_of(settings, dump)
    return next((rule for rule in policy.copies if rule.target == target), None) if policy else None


def copies_by_dump(catalog: Catalog) -> Dict[str, Dict[str, CopyRow]]:
    """dump -> target -> row."""
    found: Dict[str, Dict[str, CopyRow]] = {}
    for row in catalog.copies():
        found.setdefault(row.dump, {})[row.target] = row
    return found


def due(
    settings: Settings,
    catalog: Catalog,
    targets: Optional[Sequence[str]] = None,
    sources: Optional[Sequence[Tuple[str, str]]] = None,
    repair: Container[str] = (),
) -> List[Due]:
    """The copies to make now, oldest dump first: a base before what builds on it.

    They are made from the image on the holding disk, else from another target's verified copy, so that a target that
    came later gets the dumps that have left the holding disk, too. A damaged copy is due again. targets: only these.
    sources: only dumps of these (client, source). A damaged dump is copied nowhere, unless it stands in repair (names
    of dumps): there, what its copies still have that is right is put together.
    """
    rows = copies_by_dump(catalog)
    found = []
    for dump in catalog.dumps():
        if dump.damaged and dump.id not in repair:
            continue
        if sources is not None and (dump.client, dump.source) not in sources:
            continue
        known = rows.get(dump.id, {})
        wants = list(wanted_of(settings, dump, list(known.values())))
        wants += [name for name, row in known.items() if row.state == "damaged" and name in settings.targets]
        for target in dict.fromkeys(wants):
            row = known.get(target) or CopyRow(dump.id, target)
            if row.state in ("verified", "expired") or (targets is not None and target not in targets):
                continue
            if origins_of(settings, dump, known, target, dump.id in repair):
                found.append(Due(dump, row))
    return found


def origins_of(
    settings: Settings, dump: DumpRow, rows: Mapping[str, CopyRow], target: str, damaged: bool = False
) -> List[str]:
    """Where the copy on target (or HOLDING) can be made from: HOLDING, then targets in the order of the configuration.

    damaged: damaged copies too, behind all others: each file of them is checked before it is used.
    """
    held = rows.get(HOLDING)
    names = [HOLDING] if dump.holding is not None and held is None else []
    others = [name for name in settings.targets if name in rows]
    names += [name for name in others if rows[name].state == "verified"]
    if damaged:
        names += [HOLDING] if held is not None else []
        names += [name for name in others if rows[name].state == "damaged"]
    return [name for name in names if name != target]
