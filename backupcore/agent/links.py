"""Names of one file: which of them came first, so that the others become hard links to it.

Here lives the table; who reads and writes files lives in archive, what a crew's process asks in crew.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Tuple

Key = Tuple[int, int]  # device, inode


class Link(NamedTuple):
    """The first name of a file. kept: not in this dump, but unchanged since the base. times: size, mtime, ctime."""

    path: bytes
    suspect: bool
    kept: bool
    times: Tuple[int, int, int]


class Links:
    """First names by device and inode; one is forgotten when as many names came as the file has."""

    def __init__(self) -> None:
        self._table: Dict[Key, Link] = {}
        self._left: Dict[Key, int] = {}

    def peek(self, key: Key) -> Optional[Link]:
        """The first name, None when there was none."""
        return self._table.get(key)

    def find(self, key: Key) -> Optional[Link]:
        """The first name for one more name of the file."""
        link = self._table.get(key)
        if link is not None:
            self._left[key] -= 1
            if self._left[key] <= 0:
                self.forget(key)
        return link

    def put(self, key: Key, link: Link, names: int) -> None:
        """The first name of a file that has so many."""
        self._table[key] = link
        self._left[key] = names - 1

    def forget(self, key: Key) -> None:
        """As if no name had come."""
        del self._table[key], self._left[key]


__all__: List[str] = ["Key", "Link", "Links"]
