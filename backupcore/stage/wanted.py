"""Which copies are due: what copy rules ask for, less what the catalog says is verified.

Here live decisions from records to records; nothing here reads a disk or a target. Which dumps a rule names is
catalog/wants.py; its windows say when, never which (pace.py).
"""

from __future__ import annotations

from typing import Container, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from .. import clock, ids
from ..catalog import units, wants
from ..catalog.records import HOLDING, CopyRow, DumpRow
from ..catalog.store import Catalog
from ..settings import CopyRule, Settings, Source
from . import retention

FEW = 20  # sources that are read one by one
DONE = ("verified", "expired")  # a copy that is there, or was: nothing is to be made
ASKED_NS = 7 * 86400 * clock.NS  # so long a copy that no rule asks for, and was cut off, is gone on with


class Due(NamedTuple):
    """A copy to make. row: what the catalog knows of it. priority: the higher goes first. after: the target whose copy
    of this dump is verified first, "" when it waits for none."""

    dump: DumpRow
    row: CopyRow
    priority: int = 1
    after: str = ""


class Wishes:
    """Where the dumps of one look at the catalog are wanted. sources: only those of these (client, source) are read.

    A source that left the configuration wants its dumps where copies of them were begun.
    """

    def __init__(self, settings: Settings, catalog: Catalog, sources: Optional[Sequence[Tuple[str, str]]] = None):
        self.settings = settings
        self.copies: Dict[str, Dict[str, CopyRow]] = {}
        self.dumps: List[DumpRow] = []
        if sources is None or len(sources) > FEW:
            self.dumps, self.copies = catalog.dumps(), copies_by_dump(catalog)
        else:
            for source in dict.fromkeys(sources):
                self.dumps += catalog.dumps(*source)
                self.copies.update(copies_by_dump(catalog, source))
            self.dumps.sort(key=lambda dump: (dump.begun_ns, dump.id))
        self._by_source = units.by_source(self.dumps)
        self._found: Dict[Tuple[str, str], Mapping[str, Tuple[str, ...]]] = {}
        self._kept: Dict[Tuple[str, str, str], Set[str]] = {}

    def of(self, dump: DumpRow) -> Tuple[str, ...]:
        """The targets on which a dump is wanted."""
        key = (dump.client, dump.source)
        source = self.settings.source(*key)
        if source is None:
            rows = self.copies.get(dump.id, {}).values()
            return tuple(row.target for row in rows if row.state != "expired" and row.target in self.settings.targets)
        if key not in self._found:
            self._found[key] = wants.wanted(source, self._by_source.get(key, ()), self.copies)
        return self._found[key].get(dump.id, ())

    def state(self, dump: DumpRow, target: str) -> str:
        """Of its copy there, "" when nothing is known of one."""
        row = self.copies.get(dump.id, {}).get(target)
        return row.state if row is not None else ""

    def is_past(self, dump: DumpRow, rule: CopyRule) -> bool:
        """Whether a copy that would be made now of an old dump, which is on no holding disk, would go again at once:
        the rule keeps none of its age."""
        if dump.holding is not None or not rule.keep:
            return False
        key = (dump.client, dump.source, rule.target)
        if key not in self._kept:
            self._kept[key] = self._keeps(key[:2], rule)
        return dump.id not in self._kept[key]

    def _keeps(self, key: Tuple[str, str], rule: CopyRule) -> Set[str]:
        """What a rule would keep of a source if all that is wanted there were there."""
        rows = [
            row for row in self._by_source.get(key, ())
            if rule.target in self.of(row) and self.state(row, rule.target) != "expired"
            and wants.is_at_hand(row, self.copies)
        ]  # fmt: skip
        points = retention.points([row for row in rows if row.segment != ids.INTERIM])
        kept = {
            top.id for number in retention.chosen(points, rule.keep, clock.now_ns()) for top in points[number].tops
        }
        last = max((row.begun_ns for row in rows if row.level == 0 and row.segment != ids.INTERIM), default=0)
        kept |= {row.id for row in rows if row.segment == ids.INTERIM and row.begun_ns > last}
        if rule.self_contained:
            by_id = {row.id: row for row in self._by_source.get(key, ())}
            for name in tuple(kept):
                row: Optional[DumpRow] = by_id[name]
                while row is not None and row.base is not None and row.base not in kept:
                    kept.add(row.base)
                    row = by_id.get(row.base)
        # segments of a cut that lacks some yet make no point: nothing is known of them
        parts = {name for point in points for name in (top.segment for top in point.tops)}
        return kept | {row.id for row in rows if row.segment not in (*parts, ids.INTERIM)}


def wanted_of(settings: Settings, catalog: Catalog, dump: DumpRow) -> Tuple[str, ...]:
    """The targets this dump is wanted on."""
    return Wishes(settings, catalog, [(dump.client, dump.source)]).of(dump)


def dropped(settings: Settings, catalog: Catalog) -> List[CopyRow]:
    """What is noted as to be made and is wanted no more: the rule has changed or, where nothing was sent yet, its keep
    is past it. While it is noted, what it would be made from is kept; what was sent, the target gives up by itself.
    What a person asked for, and was cut off or waits for an archive, is kept as long as the target keeps it."""
    wishes = Wishes(settings, catalog)
    asked_since = clock.now_ns() - ASKED_NS
    found = []
    for dump in wishes.dumps:
        for target, row in wishes.copies.get(dump.id, {}).items():
            if row.state not in retention.PENDING or target not in settings.targets:
                continue
            if row.upload and row.upload.get("asked") and row.updated_ns > asked_since:
                continue
            rule = rule_of(settings, dump, target)
            past = not row.upload and rule is not None and wishes.is_past(dump, rule)
            if target not in wishes.of(dump) or past:
                found.append(row)
    return found


def note(settings: Settings, catalog: Catalog) -> None:
    """Brings what is noted as to be made in line with what is wanted: what waits for a copy at another target keeps
    that one from being pruned, what is wanted no more keeps nothing."""
    for row in dropped(settings, catalog):
        catalog.remove_copy(row.dump, row.target)
    for job in due(settings, catalog, waiting=True):
        if job.after and job.row.updated_ns == 0:
            catalog.put_copy(job.row)


def source_of(settings: Settings, dump: DumpRow) -> Optional[Source]:
    """A dump's source, None when it stands no longer in the configuration."""
    return settings.source(dump.client, dump.source)


def rule_of(settings: Settings, dump: DumpRow, target: str) -> Optional[CopyRule]:
    """The rule of a dump's source for a target, None when it has none."""
    source = source_of(settings, dump)
    return source.rule(target) if source is not None else None


def copies_by_dump(catalog: Catalog, source: Optional[Tuple[str, str]] = None) -> Dict[str, Dict[str, CopyRow]]:
    """dump -> target -> row; source: of this (client, source) only."""
    found: Dict[str, Dict[str, CopyRow]] = {}
    for row in catalog.copies(source=source):
        found.setdefault(row.dump, {})[row.target] = row
    return found


def due(
    settings: Settings,
    catalog: Catalog,
    targets: Optional[Sequence[str]] = None,
    sources: Optional[Sequence[Tuple[str, str]]] = None,
    repair: Container[str] = (),
    *,
    waiting: bool = False,
) -> List[Due]:
    """The copies to make now, by priority, then oldest dump first: a base before what builds on it.

    They are made from the image on the holding disk, else from another target's verified copy, so that a target that
    came later gets the dumps that have left the holding disk, too. A damaged copy is due again. targets: only these.
    sources: only dumps of these (client, source). A damaged dump is copied nowhere, unless it stands in repair (names
    of dumps): there, what its copies still have that is right is put together. waiting: also what waits for a copy at
    another target.
    """
    wishes = Wishes(settings, catalog, sources)
    found = []
    for dump in wishes.dumps:
        if dump.damaged and dump.id not in repair:
            continue
        if sources is not None and (dump.client, dump.source) not in sources:
            continue
        known = wishes.copies.get(dump.id, {})
        wants_it = wishes.of(dump)
        damaged = [name for name, row in known.items() if row.state == "damaged" and name in settings.targets]
        for target in dict.fromkeys([*wants_it, *damaged]):
            row = known.get(target) or CopyRow(dump.id, target)
            if row.state in DONE or (targets is not None and target not in targets):
                continue
            rule = rule_of(settings, dump, target)
            if rule is not None and row.state in ("wanted", "failed") and not row.upload and wishes.is_past(dump, rule):
                continue
            after = rule.after if rule is not None and rule.after in wants_it else ""
            if after and wishes.state(dump, after) in DONE:
                after = ""
            if (waiting or not after) and origins_of(settings, dump, known, target, dump.id in repair):
                found.append(Due(dump, row, rule.priority if rule is not None else 1, after))
    return sorted(found, key=lambda one: -one.priority)


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
