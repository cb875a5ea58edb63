"""What runs said of each source: how its last try ended, since when it is tried, since when it waits.

Here lives the reading of their results, newest first; what they mean is night.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Optional, Tuple

from .. import ids
from ..catalog.records import ResultRow, RunRow
from . import planned as planning

# How many runs back a source's last result is looked for: a month of nights and some by hand.
RUNS_BACK = 60


class Past:
    """What runs said of sources, read as far back as somebody asks and no further."""

    def __init__(self, catalog: Any, run: Optional[RunRow]):
        self._catalog = catalog
        earlier = catalog.runs(limit=RUNS_BACK, kind="run") if run else []
        before = [one for one in reversed(earlier) if run and one.begun_ns < run.begun_ns]
        self._waiting = [run, *before] if run else []
        self._last: Dict[Tuple[str, str], ResultRow] = {}
        self._all: Dict[Tuple[str, str], List[ResultRow]] = {}
        self._first_ns: Dict[Tuple[str, str], int] = {}
        self._waits_ns: Dict[Tuple[str, str], int] = {}

    def last(self, client: str, source: str) -> Optional[ResultRow]:
        """The newest result of a source, None when no run of late tried it."""
        while (client, source) not in self._last and self._waiting:
            self._read()
        return self._last.get((client, source))

    def all(self, client: str, source: str) -> List[ResultRow]:
        """The results of the run of last(): one, or one of each segment."""
        return self._all.get((client, source), [])

    def tried_since(self, client: str, source: str) -> Optional[int]:
        """When a run first tried it, in ns."""
        while self._waiting:
            self._read()
        return self._first_ns.get((client, source))

    def waits_since(self, client: str, source: str) -> Optional[int]:
        """When a run first put off its first full, in ns."""
        while self._waiting:
            self._read()
        return self._waits_ns.get((client, source))

    def _read(self) -> None:
        run = self._waiting.pop(0)
        found: Dict[Tuple[str, str], Dict[str, ResultRow]] = {}
        for result in self._catalog.results(run.id):
            found.setdefault((result.client, result.source), {})[result.segment] = result
        for key, results in found.items():
            if key not in self._last:
                self._all[key] = list(results.values())
                self._last[key] = _told(min(self._all[key], key=lambda one: (one.ok, not one.warning)))
            if set(results) != {ids.INTERIM}:  # while it waits for its first full, that was not tried
                self._first_ns[key] = run.begun_ns
        for one in (planning.of(run.summary) or {}).get("given_up", ()):
            if one["what"] == "first":
                self._waits_ns[one["client"], one["source"]] = run.begun_ns


def _told(result: ResultRow) -> ResultRow:
    """A result that says of which segment it is, where it says anything."""
    if not result.segment or not result.message:
        return result
    what = "interim dump" if result.segment == ids.INTERIM else f"segment {result.segment}"
    return replace(result, message=f"{what}: {result.message}")
