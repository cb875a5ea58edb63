"""The search: histories and a query in, paths with their versions out.

Here lives the way through blocks: by the filters of names when the whole name is known, else through all names; on
all cores when there is much. Rows are unpacked only where a name matched. Memory is that of a few blocks and results
for each core.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from dataclasses import dataclass
from typing import Iterator, NamedTuple, Sequence

from ..image import order
from ..image.escape import unescape
from . import forked, lineage
from .block import Names, Rows, filter_bits, parent
from .lines import FLAGS, KIND, LINK, MTIME, ROOT, SIZE, STALE
from .query import Query, folded
from .store import Opened

TASK = 64  # blocks that a process takes at once
ALONE = 256  # so many are searched without other processes


class Version(NamedTuple):
    """One content of a path. first, last, until: places in the list of live dumps; until: the first without it.

    until is -1 while the newest dump holds it, or when another content followed. dumps: how many hold it.
    """

    kind: str
    size: int
    mtime_ns: int
    link: bytes
    sha256: str
    suspect: bool
    first: int
    last: int
    until: int
    dumps: int


class Hit(NamedTuple):
    """A path that matched. history: its place in the list that was searched. versions: the newest first.

    gone: it is not in the newest dump.
    """

    history: int
    path: bytes
    is_dir: bool
    versions: list[Version]
    gone: bool


@dataclass
class _Task:
    history: int
    blocks: Sequence[int]


class Searcher:
    """Searches one history."""

    def __init__(self, number: int, opened: Opened, query: Query):
        self.number = number
        self.opened = opened
        self.query = query
        self._root = opened.root
        self._shapes: dict[tuple, tuple] = {}
        self._keys: list[bytes] | None = None
        self._block: tuple[int, dict[tuple[bytes, bool], int], Rows] | None = None

    # which blocks

    def blocks(self) -> Sequence[int]:
        """The blocks that may hold a match."""
        history, query = self.opened.history, self.query
        if not self.opened.live:
            return ()
        if query.exact is not None:
            found = history.with_name(filter_bits(query.exact))
            if self._root.rpartition(b"/")[2] == query.exact and 0 not in found and history.blocks:
                found = [0, *found]
        else:
            found = range(history.blocks)
        return [number for number in found if self._sized(number)] if query.sized else found

    def _sized(self, number: int) -> bool:
        query, table = self.query, self.opened.history.table
        return not (
            (query.larger is not None and table["size_max"][number] < query.larger)
            or (query.smaller is not None and table["size_min"][number] > query.smaller)
            or (query.newer is not None and table["time_max"][number] < query.newer)
            or (query.older is not None and table["time_min"][number] > query.older)
        )

    # what is in them

    def search(self, number: int) -> list[Hit]:
        """The matches in a block."""
        history = self.opened.history
        text = history.text(number)
        found = self._matches(number, text)
        if not found:
            return []
        rows = history.rows(number)
        hits = []
        for which, path, is_dir in found:
            hit = self._hit(rows, which, path, is_dir)
            if hit is not None:
                hits.append(hit)
        return hits

    def at(self, path: bytes, is_dir: bool) -> Hit | None:
        """What the history has of one path, whatever matches; the block of the last path is at hand for the next."""
        history = self.opened.history
        if self._keys is None:
            self._keys = [order.key(first, history.first_dir(block)) for block, first in enumerate(history.firsts)]
        number = bisect_right(self._keys, order.key(path, is_dir)) - 1
        if number < 0:
            return None
        if self._block is None or self._block[0] != number:
            paths, folders = history.block_names(number).all()
            at = set(folders)
            places = {(one, which in at): which for which, one in enumerate(paths)}
            self._block = (number, places, history.rows(number))
        _number, places, rows = self._block
        which = places.get((path, is_dir))
        return None if which is None else self._hit(rows, which, path, is_dir)

    def absolute(self, path: bytes) -> bytes:
        """The path on the client of one in the index."""
        return self._root if path == ROOT else self._root.rstrip(b"/") + b"/" + path

    def _matches(self, number: int, text: bytes) -> list[tuple[int, bytes, bool]]:
        query, history = self.query, self.opened.history
        needle = query.needle
        where = text.lower() if query.fold else text
        names: Names | None = None
        found: list[tuple[int, bytes, bool]] = []
        if not query.last or not needle:
            if needle:
                above = self._root + b"/" + parent(history.firsts[number])
                if needle not in where and needle not in (above.lower() if query.fold else above):
                    return []
            paths, folders = history.block_names(number, text).all()
            at = set(folders)
            for which, path in enumerate(paths):
                if self._test(path):
                    found.append((which, path, which in at))
            return found
        if number == 0 and history.firsts[0] == ROOT and self._test(ROOT):
            found.append((0, ROOT, True))
        if query.exact is not None:
            needle += b"\0"
        place = where.find(needle)
        while place >= 0:
            start = text.rfind(b"\0", 0, place) + 1
            end = text.find(b"\0", place)
            name = text[start:end].lstrip(b"/")
            if not query.by_name or query.test(folded(name) if query.fold else name):
                names = names or history.block_names(number, text)
                which, path, is_dir = names.at(start)
                if query.by_name or self._test(path):
                    found.append((which, path, is_dir))
            place = where.find(needle, end)
        return found

    def _test(self, path: bytes) -> bool:
        whole = self.absolute(path)
        return self.query.matches(whole.rpartition(b"/")[2] or b"/", lambda: whole)

    # what is told of them

    def _hit(self, rows: Rows, which: int, path: bytes, is_dir: bool) -> Hit | None:
        start, end = rows.span(which)
        if start == end:
            return None
        dumps, kinds = rows.dumps()[start:end], rows.column(KIND)[start:end]
        here = tuple(lineage.there(kind) for kind in kinds)
        if len(dumps) == 1:
            shape = self._shape((dumps[0], here))
            if shape is None:
                return None
            spans, gone = shape
            found = [(start, *spans[0])]
        else:
            found, gone = self._several(rows, start, dumps, here)
            if not found:
                return None
        if self.query.deleted and not gone:
            return None
        versions = [_version(rows, event, *span) for event, *span in found]
        if self.query.sized:
            query = self.query
            versions = [one for one in versions if query.within(one.kind, one.size, one.mtime_ns)]
        return Hit(self.number, path, is_dir, versions, gone) if versions else None

    def _shape(self, key: tuple) -> tuple | None:
        if key not in self._shapes:
            dump, (here,) = key
            at = [place for place, event in enumerate(self._events([int(dump)])) if event >= 0 and here]
            self._shapes[key] = None
            if at:
                last = at[-1]
                gone = last != len(self.opened.live) - 1
                self._shapes[key] = ([(at[0], last, last + 1 if gone else -1, len(at))], gone)
        return self._shapes[key]

    def _events(self, dumps: Sequence[int]) -> list[int]:
        """For each live dump the event that counts, -1 for none."""
        counts = self.opened.lineage.spread(dumps)
        return [counts[number] for number in self.opened.live]

    def _several(self, rows: Rows, start: int, dumps: Sequence[bytes], here: Sequence[bool]) -> tuple[list, bool]:
        identities = [_identity(rows, start + event) if there else None for event, there in enumerate(here)]
        spans: dict[tuple, list[int]] = {}
        events = self._events([int(dump) for dump in dumps])
        present = False
        for place, event in enumerate(events):
            identity = identities[event] if event >= 0 else None
            present = identity is not None
            if present:
                span = spans.setdefault(identity, [start + event, place, place, 0])
                span[0], span[2] = start + event, place
                span[3] += 1
        newest = sorted(spans.values(), key=lambda span: -span[2])
        found = []
        for number, (event, first, last, count) in enumerate(newest):
            until = last + 1 if number == 0 and not present else -1
            found.append((event, first, last, until, count))
        return found, not present


def _identity(rows: Rows, event: int) -> tuple:
    """What makes a content: two events with the same are one version."""
    kind, size, sha = rows.column(KIND)[event], rows.column(SIZE)[event], rows.sha(event)
    if kind in b"fh" and sha == b"-":
        return kind, size, rows.column(MTIME)[event]
    return (kind, size, sha) if kind == b"f" else (kind, rows.column(LINK)[event])


def _version(rows: Rows, event: int, first: int, last: int, until: int, count: int) -> Version:
    kind, flags, link = rows.column(KIND)[event], rows.column(FLAGS)[event], rows.column(LINK)[event]
    time = rows.column(MTIME)[event]
    whole, _dot, rest = time.partition(b".")
    return Version(
        kind.decode("ascii"), int(rows.column(SIZE)[event]), int(whole + rest), b"" if link == b"-" else unescape(link),
        rows.sha(event).decode("ascii").replace("-", ""), b"s" in flags or STALE in flags, first, last, until, count,
    )  # fmt: skip


_SEARCHERS: list[Searcher] = []  # of this search, for the processes that are forked


def search(opened: Sequence[Opened], query: Query, processes: int | None = None) -> Iterator[Hit]:
    """The paths that match, history by history, in walk order. Close the iterator when enough was seen."""
    searchers = [Searcher(number, one, query) for number, one in enumerate(opened)]
    tasks, count = [], 0
    for searcher in searchers:
        blocks = searcher.blocks()
        count += len(blocks)
        for start in range(0, len(blocks), TASK):
            tasks.append(_Task(searcher.number, blocks[start : start + TASK]))
    processes = processes or len(os.sched_getaffinity(0))
    if count <= ALONE or processes == 1 or len(tasks) == 1:
        for task in tasks:
            for number in task.blocks:
                yield from searchers[task.history].search(number)
        return
    yield from _together(searchers, tasks, min(processes, 8))


def _together(searchers: list[Searcher], tasks: Sequence[_Task], processes: int) -> Iterator[Hit]:
    global _SEARCHERS
    _SEARCHERS = searchers
    found = forked.each(_work, ((task.history, task.blocks) for task in tasks), processes)
    try:
        for hits in found:
            yield from hits
    finally:
        found.close()
        _SEARCHERS = []


def _work(history: int, blocks: Sequence[int]) -> list[Hit]:
    searcher = _SEARCHERS[history]
    return [hit for number in blocks for hit in searcher.search(number)]

