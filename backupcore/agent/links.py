"""Names of one file: which of them came first, so that the others become hard links to it.

Here lives the table; who reads and writes files lives in archive, what a crew's process asks in crew.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Tuple

from ..image.escape import escape, unescape
from ..image.order import key as order_key

Key = Tuple[int, int]  # device, inode


class Link(NamedTuple):
    """The first name of a file. kept: not in this dump, but unchanged since the base. times: size, mtime, ctime.
    before: it came before the line was cut, so that it is the same file only if its times are the same."""

    path: bytes
    suspect: bool
    kept: bool
    times: Tuple[int, int, int]
    before: bool = False


class Links:
    """First names by device and inode; one is forgotten when as many names came as the file has."""

    def __init__(self) -> None:
        self._table: Dict[Key, Link] = {}
        self._left: Dict[Key, int] = {}
        self.home = 0  # the device of the source's folder
        self._told: Optional[List[bytes]] = None

    def tell(self) -> None:
        """From here on what is dumped is kept for told()."""
        self._told = []

    def told(self) -> bytes:
        """Lines of the first names that came since the last call, for a dump that goes on after a cut."""
        if not self._told:
            return b""
        lines, self._told = b"".join(self._told), []
        return lines

    def again(self, lines: bytes, last: bytes) -> None:
        """Takes lines of told() back, of names up to the place `last` in walk order. Raises ValueError."""
        for line in lines.splitlines():
            escaped, *fields = line.split(b"\t")
            path = unescape(escaped)
            if order_key(path, False) > last:
                continue
            device, inode, size, mtime, ctime, names, suspect = map(int, fields)
            link = Link(path, bool(suspect), False, (size, mtime, ctime), True)
            self._table[(device or self.home, inode)] = link
            self._left[(device or self.home, inode)] = names - 1

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
        if self._told is not None and not link.kept:
            device = 0 if key[0] == self.home else key[0]  # numbers of devices change when a machine starts
            numbers = (device, key[1], *link.times, names, link.suspect)
            self._told.append(b"%b\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n" % ((escape(link.path),) + numbers))

    def forget(self, key: Key) -> None:
        """As if no name had come."""
        del self._table[key], self._left[key]


__all__: List[str] = ["Key", "Link", "Links"]
