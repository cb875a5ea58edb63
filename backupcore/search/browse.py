"""One folder of one dump: what was in it, without a look at what lies below.

Here lives the way from a path to its blocks. A folder's files stand right behind it and its sub-folders wherever
their turn comes; blocks that lie whole inside one sub-folder are passed over, so that a folder costs about a block
for each sub-folder, whatever there is below.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Iterator, NamedTuple

from ..image import order
from .block import parent
from .lines import KIND, ROOT, Row
from .store import Opened


class Entry(NamedTuple):
    """A path as a dump has it. dump: the one whose image holds this row."""

    path: bytes
    is_dir: bool
    row: Row
    dump: str


class Moment:
    """The tree of one dump of a history. Raises KeyError when the history does not have it."""

    def __init__(self, opened: Opened, dump: str):
        self.opened = opened
        lineage = opened.lineage
        number = lineage.numbers[dump]
        self._way = lineage.way(number)
        history = opened.history
        self._keys = [order.key(first, history.first_dir(block)) for block, first in enumerate(history.firsts)]
        # what a full says again is in its image too: nothing older is needed
        self._holds: dict[int, str] = {}
        while number >= 0:
            self._holds[number] = lineage.members[number].id
            if not lineage.members[number].level:
                break
            number = lineage.members[number].reference
        self._full = lineage.members[number].id if number >= 0 else dump

    def entries(self, path: bytes) -> list[Entry]:
        """What the dump has at a path: a folder, something else, both when one of them only says that it was left out,
        or nothing."""
        found = []
        for is_dir in ([True] if path == ROOT else [False, True]):
            key = order.key(path, is_dir)
            block = bisect_right(self._keys, key) - 1
            if block >= 0:
                found += [one for one in self._read(block, {path}) if one.is_dir == is_dir]
        return found

    def level(self, folder: bytes) -> Iterator[Entry]:
        """What is directly in a folder, in walk order."""
        top = order.key(folder, True)
        inner = top + b"\0\1"
        block = max(bisect_right(self._keys, top) - 1, 0)
        while block < len(self._keys) and (self._keys[block] < top + b"\1" or not top):
            if not self._deep(block, inner):
                yield from self._read(block, None, folder)
            block += 1

    def _deep(self, block: int, inner: bytes) -> bool:
        """Whether all of a block lies inside one sub-folder."""
        keys = self._keys
        first = keys[block]
        end = first.find(b"\0", len(inner)) + 1
        inside = first.startswith(inner) and end > 0 and block + 1 < len(keys)
        return inside and keys[block + 1].startswith(first[:end])

    def _read(self, block: int, paths: set[bytes] | None, folder: bytes = b"") -> Iterator[Entry]:
        history = self.opened.history
        names, folders = history.block_names(block).all()
        rows = None
        at = set(folders)
        for number, path in enumerate(names):
            if path in paths if paths is not None else parent(path) == folder:
                rows = rows or history.rows(block)
                start, end = rows.span(number)
                for event in range(end - 1, start - 1, -1):
                    dump = int(rows.dumps()[event])
                    if dump in self._way:
                        if rows.column(KIND)[event] != b"-":
                            yield Entry(path, number in at, rows.row(event), self._holds.get(dump, self._full))
                        break
