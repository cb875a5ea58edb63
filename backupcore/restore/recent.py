"""Interim dumps where something is read of a source that has no full yet: what of it there is, and since when.

Here live the words for that. Which dumps show a moment is the affair of shares and of those who ask it: an interim dump
counts only as long as no full had been begun.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any, Iterable, Iterator, Mapping, Sequence

from .. import clock, ids
from ..catalog.records import DumpRow

RUNS_BACK = 10  # runs in which the plan of a source is looked for


def newer_ns(dump: DumpRow) -> int:
    """Since when a dump has what was changed; 0 for one that has all."""
    newer = dump.options.get("newer_ns", 0) if dump.segment == ids.INTERIM else 0
    return newer if isinstance(newer, int) else 0


def fulls(rows: Iterable[DumpRow]) -> list[DumpRow]:
    """The fulls among a source's dumps: of the whole, or of a segment."""
    return [row for row in rows if row.level == 0 and row.segment != ids.INTERIM]


def note(catalog: Any, client: str, source: str, dump: DumpRow) -> str:
    """What a person must know of what an interim dump shows."""
    since = clock.local(newer_ns(dump))
    return f"{client}:{source}: only files changed since {since}: {_full(catalog, client, source)}"


def notes(catalog: Any, chains: Iterable[tuple[str, str, Sequence[DumpRow]]]) -> list[str]:
    """The same of each chain, (client, source, its dumps), that is an interim dump."""
    return [note(catalog, client, source, chain[-1]) for client, source, chain in chains if newer_ns(chain[-1])]


def only_recent(catalog: Any, rows: Iterable[DumpRow]) -> list[str]:
    """The same of each source among rows that has interim dumps and no full."""
    by_source: dict[tuple[str, str], list[DumpRow]] = {}
    for row in rows:
        by_source.setdefault((row.client, row.source), []).append(row)
    found = []
    for (client, source), of_one in sorted(by_source.items()):
        newest = max((row for row in of_one if newer_ns(row)), key=lambda row: row.counter, default=None)
        if newest is not None and not fulls(of_one):
            found.append(note(catalog, client, source, newest))
    return found


def named(listed: Iterable[Any], wanted: Iterable[Any]) -> Iterator[Any]:
    """Entries of a list (report.Listed), what an interim dump does not have since it is older named so."""
    interim = {one.dump.id for one in wanted if newer_ns(one.dump)}
    for one in listed:
        older = one.kind == "n" and one.link == b"segment" and one.dump in interim
        yield replace(one, link=b"older") if older else one


def is_older(catalog: Any, client: str, source: str, dump: DumpRow, path: str) -> tuple[str, str]:
    """(message, hint) for a path that was there, but is older than an interim dump takes. path: escaped."""
    since = clock.local(newer_ns(dump))
    told = f"{client}:{path} was there, but was not changed since {since}, and no more was dumped by then: "
    return told + _full(catalog, client, source), f"stowage plan --why {client}:{source}"


def _full(catalog: Any, client: str, source: str) -> str:
    made = fulls(catalog.dumps(client, source))
    if made:
        return f"the first full of {client}:{source} was made on {clock.local(min(row.begun_ns for row in made))}"
    day = _planned(catalog, client, source)
    return f"the first full of {client}:{source} is {f'planned for {day}' if day else 'not planned yet'}"


def _planned(catalog: Any, client: str, source: str) -> str:
    """The day by the newest run that planned it, '' when none did."""
    for run in catalog.runs(limit=RUNS_BACK, kind="run"):
        plan = run.summary.get("plan")
        for one in plan.get("given_up", ()) if isinstance(plan, Mapping) else ():
            try:
                if (one["client"], one["source"], one["what"]) == (client, source, "first") and one["until"]:
                    return f"{date.fromisoformat(one['until']):%a %d %b}"
            except (KeyError, TypeError, ValueError):
                continue  # of another version
    return ""
