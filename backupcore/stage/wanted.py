"""Which copies are due: what policies ask for, less what the catalog says is verified.

Here live decisions from records to records; nothing here reads a disk or a target. `dumps` of a copy
rule is all that is looked at: the configuration refuses what is not carried out.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..catalog.records import CopyRow, DumpRow
from ..catalog.store import Catalog
from ..settings import Policy, Settings


class Due(NamedTuple):
    """A copy to make. row: what the catalog knows of it."""

    dump: DumpRow
    row: CopyRow


def wanted(dump: DumpRow, policy: Policy) -> Tuple[str, ...]:
    """The targets that a policy wants this dump on."""
    return tuple(rule.target for rule in policy.copies if _takes(rule.dumps, dump.level))


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
) -> List[Due]:
    """The copies to make now from images on the holding disk, oldest dump first: a base before what builds on it.

    targets: only these. sources: only dumps of these (client, source). A damaged image is copied nowhere.
    """
    rows = copies_by_dump(catalog)
    found = []
    for dump in catalog.dumps():
        if dump.holding is None or dump.damaged:
            continue
        if sources is not None and (dump.client, dump.source) not in sources:
            continue
        known = rows.get(dump.id, {})
        for target in wanted_of(settings, dump, list(known.values())):
            row = known.get(target) or CopyRow(dump.id, target)
            if row.state not in ("verified", "expired") and (targets is None or target in targets):
                found.append(Due(dump, row))
    return found
