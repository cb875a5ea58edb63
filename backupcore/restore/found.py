"""What is told of a path that was found: its versions over all dumps of its source, whichever unit they are of.

Here lives the join of a source's histories. One that was cut has one for the whole and one for each segment, and each
goes only as far as its dumps: the chain of the whole ends with a cut and would show for ever what was deleted later.
So a path is told once, and its newest word is that of the unit whose dumps are newest among those it belongs to. What
matches is search.scan's affair.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from typing import Iterable, Iterator, Mapping, NamedTuple, Sequence

from .. import ids
from ..catalog.records import DumpRow
from ..image.escape import unescape
from ..search import browse, query, scan, store
from ..search.lines import KIND, LINK, SHA
from . import view
from .report import Version
from .request import ROOT


class Path(NamedTuple):
    """A path with its versions, the newest first. gone: the newest dump of its source does not have it."""

    versions: list[Version]
    gone: bool


class Unit:
    """The history of a source, or of one of its segments."""

    def __init__(self, number: int, opened: store.Opened, by_id: Mapping[str, DumpRow]):
        self.opened = opened
        self.live = [by_id[opened.lineage.members[one].id] for one in opened.live]
        newest = self.live[-1]
        name = ids.parse_segment(newest.segment)
        self._folders = frozenset(map(os.fsencode, newest.options.get("folders", ()))) if name else frozenset()
        self._rest = name is not None and name.rest
        self.cut = (name.cut, name.count) if name else None
        self.complete = True  # all segments of its cut have dumps
        self._all = scan.Searcher(number, opened, query.Query(lambda text: True, False))

    @property
    def newest_ns(self) -> int:
        """When its newest dump began."""
        return self.live[-1].begun_ns

    def has(self, path: bytes) -> bool:
        """Whether a path is its own: it lists others' and the folders above its own, too. A folder with others' below
        it can be had by this cut only when they have dumps."""
        if not self._folders:
            return True
        above = b"" if path == ROOT else path + b"/"
        if self._rest and not self.complete and any(folder.startswith(above) for folder in self._folders):
            return False
        return view.inside(path, self._folders) != self._rest

    def at(self, path: bytes, is_dir: bool) -> scan.Hit | None:
        """All that it knows of a path."""
        return self._all.at(path, is_dir)

    def versions(self, hit: scan.Hit) -> list[Version]:
        """Those of a hit, with the dumps they are of."""
        root = self.opened.root
        path = root if hit.path == ROOT else root.rstrip(b"/") + b"/" + hit.path
        return [_version(self.live, path, one) for one in _followed(self.opened, hit.versions)]


def told(
    opened: Sequence[store.Opened], hits: Iterable[scan.Hit], by_id: Mapping[str, DumpRow], wanted: query.Query
) -> Iterator[Path]:
    """Each path of hits once. hits: of a search by candidates(). Memory is that of one path."""
    found = [Unit(number, one, by_id) if one.live else None for number, one in enumerate(opened)]
    sources: dict[tuple, list[Unit]] = {}
    for one in found:
        if one is not None:
            sources.setdefault(_source(one), []).append(one)
    for units in sources.values():
        cuts = Counter(one.cut for one in units)
        for one in units:
            one.complete = one.cut is None or cuts[one.cut] == one.cut[1]
    for hit in hits:
        unit = found[hit.history]
        if unit is None or not unit.has(hit.path):
            continue
        others = [one for one in sources[_source(unit)] if one is not unit and one.has(hit.path)]
        path = _joined(unit, hit, others, wanted) if others else Path(unit.versions(hit), hit.gone)
        if path is not None and path.versions and (path.gone or not wanted.deleted):
            yield path


def candidates(wanted: query.Query, opened: Sequence[store.Opened]) -> query.Query:
    """The search whose hits told() needs: what one unit still has, another may know to be deleted."""
    sources = {(one.key.client, one.key.source, one.root) for one in opened}
    return wanted if len(sources) == len(opened) else replace(wanted, deleted=False)


def _source(unit: Unit) -> tuple:
    return unit.opened.key.client, unit.opened.key.source, unit.opened.root


def _joined(unit: Unit, hit: scan.Hit, others: Sequence[Unit], wanted: query.Query) -> Path | None:
    """What all units of a path know of it; None when another unit's hit is the one to tell it."""
    known = [(unit, unit.at(hit.path, hit.is_dir) or hit)]
    for one in others:
        more = one.at(hit.path, hit.is_dir)
        if more is None:
            continue
        if one.opened.key < unit.opened.key and any(wanted.within(*_measures(each)) for each in more.versions):
            return None
        known.append((one, more))
    last = max((unit, *others), key=lambda one: one.newest_ns)
    word = next((more for one, more in known if one is last), None)
    gone = word is None or word.gone
    versions: dict[tuple, Version] = {}
    shown = set()
    for one, more in known:
        for version in one.versions(more):
            key = _identity(version)
            if wanted.within(*_measures(version)):
                shown.add(key)
            versions[key] = _both(versions[key], version) if key in versions else version
    ordered = sorted(versions.items(), key=lambda item: -item[1].last_ns)
    told_versions = []
    for number, (key, version) in enumerate(ordered):
        version = replace(version, gone=None, gone_ns=None)
        if gone and not number:
            first = _first_without(known, last, version)
            if first is not None:
                version = replace(version, gone=first.id, gone_ns=first.begun_ns)
        if key in shown:
            told_versions.append(version)
    return Path(told_versions, gone)


def _first_without(known: Sequence[tuple[Unit, scan.Hit]], last: Unit, version: Version) -> DumpRow | None:
    """The first dump that says that a path is gone, after the newest that has it."""
    rows = [row for row in last.live if row.begun_ns > version.last_ns]
    for unit, hit in known:
        until = hit.versions[0].until if hit.gone else -1
        rows += [row for row in unit.live[until:] if row.begun_ns > version.last_ns] if until >= 0 else []
    return min(rows, key=lambda row: row.begun_ns, default=None)


def _measures(version: Version | scan.Version) -> tuple[str, int, int]:
    return version.kind, version.size, version.mtime_ns


def _identity(version: Version) -> tuple:
    """What makes a content, as search.scan has it; of a hard link it is that of its first name where that is known."""
    if version.kind in "fh" and version.sha256:
        return version.size, version.sha256
    if version.kind == "f":
        return version.kind, version.size, version.mtime_ns
    return version.kind, version.link


def _both(one: Version, other: Version) -> Version:
    """Two units' word of one content."""
    old, new = sorted((one, other), key=lambda version: version.last_ns)
    first = min(one, other, key=lambda version: version.first_ns)
    return replace(new, first=first.first, first_ns=first.first_ns, dumps=old.dumps + new.dumps)


def _followed(one: store.Opened, versions: Sequence[scan.Version]) -> list[scan.Version]:
    """The content of hard links is that of their first name: with it, they are the same version as that."""
    if not any(version.kind == "h" and not version.sha256 for version in versions):
        return list(versions)
    found: list[scan.Version] = []
    for version in versions:
        if version.kind == "h" and not version.sha256:
            moment = browse.Moment(one, one.lineage.members[one.live[version.last]].id)
            version = version._replace(sha256=_content(moment, version.link))
        for place, other in enumerate(found):
            if version.sha256 and (other.sha256, other.size) == (version.sha256, version.size):
                first, dumps = min(other.first, version.first), other.dumps + version.dumps
                found[place] = other._replace(first=first, dumps=dumps)
                break
        else:
            found.append(version)
    return found


def _content(moment: browse.Moment, link: bytes) -> str:
    for _step in range(8):  # a first name may itself be a hard link of an older dump
        entry = next((entry for entry in moment.entries(link) if not entry.is_dir), None)
        if entry is None or entry.row[KIND] != b"h":
            break
        link = unescape(entry.row[LINK])
    return "" if entry is None or entry.row[SHA] == b"-" else entry.row[SHA].decode("ascii")


def _version(live: Sequence[DumpRow], path: bytes, one: scan.Version) -> Version:
    first, last = live[one.first], live[one.last]
    return Version(
        last.client, last.source, path, one.kind, one.size, one.mtime_ns, one.link, one.sha256, one.suspect,
        first.id, first.begun_ns, last.id, last.begun_ns, one.dumps,
        None if one.until < 0 else live[one.until].id, None if one.until < 0 else live[one.until].begun_ns,
    )  # fmt: skip
