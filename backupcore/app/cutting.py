"""The cut itself: after a full of a big tree source, where it is divided from now on.

Here lives when a source is cut, and the rows of an index for schedule.segments, which says where. The source goes on as
it was until every segment has a full: the planner spreads these over the nights. Nothing here may fail a run: what
could not be done is said, and tried again after the next full.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Iterable, Iterator, List, Optional, Sequence

from ..catalog import units
from ..catalog.records import DumpRow
from ..dump import cut
from ..errors import StowageError
from ..image import index
from ..schedule import nights, segments
from ..settings import Source

Wanted = Callable[[float, float], Optional[float]]


def after(engine: Any, results: Sequence[Any], wanted: Wanted = segments.wanted_size) -> List[str]:
    """Cuts the sources whose fulls ask for it; what a person should know. wanted: as segments.wanted_size."""
    said = []
    for result in results:
        client = engine.settings.clients.get(result.client)
        source = client.sources.get(result.source) if client is not None else None
        if source is None or not result.ok or not result.dump or not may_be_cut(source):
            continue
        row = engine.catalog.dump(result.dump)
        if row is None or row.level or not row.options:
            continue
        try:
            told = _one(engine, source, row, wanted)
        except (StowageError, OSError) as error:
            told = f"it could not be cut into segments: {getattr(error, 'message', '') or error}"
        if told:
            said.append(f"{result.client}:{result.source}: {told}")
    return said


def may_be_cut(source: Source) -> bool:
    """Whether the settings allow it. A script of its own around the dump would run once for each segment: such a
    source is cut only when it says so."""
    timing, options = source.timing, source.options
    if source.type != "tree" or timing.split == "never" or timing.strategy != "standard" or timing.own:
        return False
    return timing.split == "auto" or not (options.get("before") or options.get("after"))


def _one(engine: Any, source: Source, row: DumpRow, wanted: Wanted) -> str:
    settings, catalog = engine.settings, engine.catalog
    known = cut.current(settings, catalog, source.client, source.name)
    rows = catalog.dumps(source.client, source.name)
    if known is None:
        if row.segment or cut.read(settings, source.client, source.name) is not None:
            return ""
        chain, size = [row], float(row.archive_size)
    else:
        fulls = {one.segment: one for one in rows if one.level == 0 and one.segment in known.names}
        if row.segment not in known.names or set(fulls) != set(known.names):
            return ""
        sizes = {name: float(one.archive_size) for name, one in fulls.items()}
        size = sum(sizes.values())
        least = wanted(size, _night(settings, catalog))
        parts = [segments.Segment(one.name, (), one.size) for one in known.shares]
        if least is None or not segments.outgrown(parts, sizes, least):
            return ""
        chain = [fulls[name] for name in known.names]
    least = None if wanted(size, 0.0) is None else wanted(size, _night(settings, catalog))
    if least is None:
        return ""
    client = settings.clients[source.client]
    with engine.connect(client) as agent:
        if agent.hello().get("segments") is not True:
            return ""  # an older agent: it stays whole
    found = segments.cut(lambda: _rows(engine, chain, known), least)
    if len(found) < 2:
        return ""
    made = replace(cut.make(found, nights.night_of(row.begun_ns), least), before=known.names if known else ("",))
    cut.keep(settings, source.client, source.name, made)
    again = " anew" if known else ""
    return f"it is cut{again} into {len(made.shares)} segments, each with fulls at nights of its own from now on"


def _night(settings: Any, catalog: Any) -> float:
    """Bytes that an even night takes: of each unit its newest full by its cycle, and what its incrementals have. A
    chain that segments have followed takes nothing any more, and segments nothing until all of them have a full."""
    total = 0.0
    for (name, source), rows in units.by_source(catalog.dumps()).items():
        client = settings.clients.get(name)
        if client is None or source not in client.sources:
            continue
        now = units.in_force(units.newest_of(rows))
        sizes = {(row.segment, min(row.level, 1)): row.archive_size for row in rows if row.segment in now}
        cycle = max(1, client.sources[source].timing.cycle)
        total += sum(size / cycle if not level else size for (_unit, level), size in sizes.items())
    return total


def _rows(engine: Any, chain: Sequence[DumpRow], known: Optional[cut.Cut]) -> Iterator[segments.Row]:
    """The entries of fulls in walk order: of one of the whole source, or of one of each segment."""
    from . import restoring

    images = restoring.images(engine)
    if known is None:
        yield from map(_row, _entries(images, chain[0]))
        return
    from ..restore import shares, view

    parts, start = [], 0
    for share in known.shares:
        parts.append(shares.Share(start, start + 1, frozenset(share.folders), share.rest))
        start += 1

    def of(share: Any) -> Iterable[Any]:
        return view.merge([_entries(images, chain[share.start])])

    for row in shares.merge(parts, of):
        yield _row(row.entry)


def _entries(images: Any, row: DumpRow) -> Iterator[index.Entry]:
    from ..restore import indexes

    return indexes.entries(images.chunks(row))


def _row(entry: index.Entry) -> segments.Row:
    first = entry.link if entry.kind == "h" else None
    return segments.Row(entry.path, entry.kind == "d", entry.length or entry.size, first)

