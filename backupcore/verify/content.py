"""An archive against its index, in one pass and in memory that does not grow with it.

Here live what must hold between both (order, kinds, places, sizes, links, digests) and what no archive of Stowage
holds, whoever made it: a name twice, something below what is no folder, a link through one, a record that renames. What
is wrong raises ImageDamaged: the bytes are those that were signed, so a client or its agent made them so.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from typing import Callable, Iterator, List, Optional

from ..errors import ImageDamaged
from ..image import dumpdir, index, unpax
from ..image.index import Entry
from ..image.order import ROOT
from ..text import escape


def check(read: Callable[[int], bytes], rows: Callable[[], Iterator[Entry]], full: bool) -> int:
    """Reads an archive to its end and compares; the number of its index's lines.

    read(n): about n bytes of the archive. rows(): the index from its beginning, in walk order; asked for twice.
    full: the dump is one, so that every folder above a member must be in it. Raises ImageDamaged.
    """
    links = _Links(rows(), full)
    folders = _Folders(full)
    members = unpax.Reader(read)
    lines, expected = 0, 0
    table = rows()
    row: Optional[Entry] = None

    def following() -> Optional[Entry]:
        nonlocal lines
        for entry in table:
            lines += 1
            if entry.kind not in "-n":
                return entry
        return None

    row = following()
    for member in members:
        if expected is not None and member.offset != expected:
            raise ImageDamaged("the archive has a gap before %s" % escape(member.path[:200]))
        if member.names is not None:
            raise ImageDamaged("the archive holds a list of names that only a restore has, at %s" % _shown(member))
        if member.dumpdir is not None:
            if full:
                raise ImageDamaged("a full holds an incremental's list of names, at %s" % _shown(member))
            dumpdir.parse(member.dumpdir)
        if row is None or member.offset != row.offset or member.path != row.path:
            # a folder whose list of names turned out wrong is written once more, without a line
            if member.kind != "d" or not folders.is_open(member.path):
                raise ImageDamaged("the archive holds %s, which the index does not have there" % _shown(member))
            expected = None
            continue
        folders.enter(row)
        links.seen(row)
        _compare(member, row)
        expected = row.offset + row.length
        row = following()
    if row is not None:
        raise ImageDamaged("the archive lacks %s, which the index has" % escape(row.path[:200]))
    return lines


def _shown(member: unpax.Member) -> str:
    return escape(member.path[:200])


def _compare(member: unpax.Member, row: Entry) -> None:
    same = member.kind == row.kind
    if row.kind == "f":
        same = same and member.size == row.size and ("h" in row.flags) == (member.sparse is not None)
    elif row.kind in "lh":
        same = same and member.link == row.link
    elif row.kind in "cb":
        same = same and b"%d,%d" % member.dev == row.link
    if not same:
        raise ImageDamaged("%s is another in the archive than in the index" % _shown(member))
    if row.kind != "f":
        return
    found = hashlib.sha256()
    for piece in member.content():
        found.update(piece)
    if (row.size or row.sha256) and found.digest() != row.sha256:
        raise ImageDamaged("the content of %s is not what the index says" % _shown(member))


class _Names:
    """A folder on the way down: names in it that are no folders, as numbers that fit eight bytes each."""

    def __init__(self, path: bytes, real: bool):
        self.path, self.real = path, real
        self.others = array("q")
        self._sorted = True

    def add(self, name: bytes) -> None:
        self.others.append(hash(name))
        self._sorted = False

    def has(self, name: bytes) -> bool:
        if not self._sorted:
            self.others = array("q", sorted(self.others))
            self._sorted = True
        number = hash(name)
        at = bisect_left(self.others, number)
        return at < len(self.others) and self.others[at] == number


class _Folders:
    """The folders above the current row. Rows come in walk order, each once: index.read() has seen to that."""

    def __init__(self, full: bool):
        self._full = full
        self._stack: List[_Names] = []

    def enter(self, entry: Entry) -> None:
        """The next row that has a member. Raises ImageDamaged when its name is taken by what is no folder."""
        path = entry.path
        if path == ROOT:
            if entry.kind != "d":
                raise ImageDamaged("the root of the archive is no folder")
            self._stack = [_Names(ROOT, True)]
            return
        parent, _slash, name = path.rpartition(b"/")
        above = self._down_to(parent or ROOT)
        if self._full and not above.real:
            raise ImageDamaged("%s lies below a folder that is not in the dump" % escape(path[:200]))
        if entry.kind != "d":
            above.add(name)
            return
        self._refuse(above, name, path)
        self._stack.append(_Names(path, True))

    def _down_to(self, folder: bytes) -> _Names:
        """The frame of a folder; those that an incremental does not hold are put in between."""
        stack = self._stack
        if not stack:
            stack.append(_Names(ROOT, False))
        while len(stack) > 1 and stack[-1].path != folder and not folder.startswith(stack[-1].path + b"/"):
            stack.pop()
        top = stack[-1]
        if top.path == folder:
            return top
        path = b"" if top.path == ROOT else top.path
        rest = folder[len(path) + 1 :] if path else folder
        for name in rest.split(b"/"):
            path = path + b"/" + name if path else name
            self._refuse(stack[-1], name, path)
            stack.append(_Names(path, False))
        return stack[-1]

    @staticmethod
    def _refuse(above: _Names, name: bytes, path: bytes) -> None:
        if above.has(name):
            raise ImageDamaged("%s is a folder and something else at once" % escape(path[:200]))

    def is_open(self, path: bytes) -> bool:
        """Whether a folder's member may come again here: it was in the dump, and is not left yet."""
        return any(one.path == path and one.real for one in self._stack)


class _Links:
    """Where hard links point: to an earlier member, never through what is no folder."""

    def __init__(self, rows: Iterator[Entry], full: bool):
        self._full = full
        targets, self._above = array("q"), set()
        for row in rows:
            if row.kind == "h":
                targets.append(hash(row.link))
                path = row.link.rpartition(b"/")[0]
                while path and hash(path) not in self._above:
                    self._above.add(hash(path))
                    path = path.rpartition(b"/")[0]
        self._targets = array("q", sorted(set(targets)))
        self._there = bytearray(len(self._targets))

    def seen(self, row: Entry) -> None:
        """The next row. Raises ImageDamaged."""
        if not self._targets or row.kind == "d":
            return
        number = hash(row.path)
        if number in self._above:
            raise ImageDamaged("a hard link leads through %s, which is no folder" % escape(row.path[:200]))
        if row.kind == "h":
            at = self._find(hash(row.link))
            if self._full and not self._there[at]:
                raise ImageDamaged("%s is linked to what does not come before it" % escape(row.path[:200]))
        at = self._find(number)
        if at is not None:
            self._there[at] = 1

    def _find(self, number: int) -> Optional[int]:
        at = bisect_left(self._targets, number)
        return at if at < len(self._targets) and self._targets[at] == number else None


def rows_of(chunks: Callable[[], Iterator[bytes]]) -> Callable[[], Iterator[Entry]]:
    """rows() for check(), of an index's text."""
    return lambda: index.read(chunks())
