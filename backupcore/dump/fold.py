"""State out of the indexes of a chain: what the agent would have kept, as far as indexes tell.

Here lives the merge, pure but for a scratch folder; which indexes, and where the result goes, is remake.py. Memory is
constant but for the names of the sub-folders on the way to where the walk is (the agent has them in memory, too).

It is another merge than that of a restore (restore/view.py): there is what a person wants to see, here is what the
next incremental is compared with, where a thing that could not be dumped this time keeps the row it had.

An index has no number of links. The names of a file that lie in the source are counted by its hard link rows; names
elsewhere nobody knows. A number that is wrong makes a row unequal: the file is dumped once more, never missed, since
all else in a row must be equal, too. For the same reason a row is suspect if and only if its line is.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import os
import sqlite3
import stat
import struct
from array import array
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import ImageDamaged
from ..image import index, state
from ..image.lines import whole_lines
from ..image.state import ABSENT, ABSENT_ROW, CARRIED, ENTRIES, MOUNT, SUSPECT, Row

Chunks = Callable[[], Iterable[bytes]]  # the text of an index; called twice
_TYPES = {
    "f": stat.S_IFREG, "d": stat.S_IFDIR, "l": stat.S_IFLNK, "c": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO,
}  # fmt: skip
_KEPT = SUSPECT | CARRIED
_KINDS = 100_000  # files with several names that are no regular ones; of more the type is not remembered
_FILTER = 1 << 23  # bits
_PLACE = struct.Struct("<QQ")
_LIMIT = 1 << 63
_OTHERS = (b"l\t", b"c\t", b"b\t", b"p\t")


class Count(NamedTuple):
    """Lines of an index, and those of regular files."""

    entries: int
    files: int


class Found(NamedTuple):
    """What a restore of the chain would show at a place in walk order. flags: of state, ABSENT among them."""

    key: bytes
    entry: index.Entry
    flags: int


def fold(chain: Sequence[Chunks], scratch: Path, sink: Callable[[bytes], None]) -> List[Count]:
    """The state after the last dump of a chain, the full first; sink gets runs of whole blocks, as state.Writer's.

    Returns the counts of each index. Raises ImageDamaged, OSError.
    """
    links = _Links(scratch / "links.sqlite")
    folders = _Folders(scratch / "folders")
    counts: List[Count] = []
    try:
        _survey(chain, links, folders, counts)
        writer = state.Writer(sink)
        _write(chain, links, folders, writer)
        writer.flush()
    except (OverflowError, sqlite3.Error) as error:
        raise ImageDamaged(f"the indexes cannot be made into state: {error}") from None
    finally:
        links.close()
        folders.close()
    return counts


# what stands at a place


def _places(streams: Sequence[Iterator[index.Entry]]) -> Iterator[Found]:
    """What the chain has at each place in walk order; nothing where all is gone."""
    keyed = [_keyed(stream, level) for level, stream in enumerate(streams)]
    merged = keyed[0] if len(keyed) == 1 else heapq.merge(*keyed, key=_order)
    shadows: List[Tuple[bytes, int]] = []  # folders that a dump of that level did not look into
    for key, group in itertools.groupby(merged, key=_key):
        lines = list(group)
        while shadows and not key.startswith(shadows[-1][0]):
            shadows.pop()
        levels = [level for _prefix, level in shadows]
        kept: Optional[index.Entry] = None
        flags = since = 0
        for _at, level, entry in lines:
            if kept is not None and not flags & ABSENT and any(since < one < level for one in levels):
                flags |= _KEPT
            since, kind = level, entry.kind
            if kind == "-":
                kept, flags = None, 0
                continue
            if kind == "n" and kept is not None:
                flags |= 0 if flags & ABSENT else _KEPT
            else:
                kept, flags = entry, ABSENT if kind == "n" else 0
                if kind == "d" and "m" in entry.flags:
                    flags = MOUNT
            if level and entry.is_dir and (kind == "n" or flags & MOUNT):
                shadows.append((key + b"\0", level))
        if kept is not None:
            if not flags & ABSENT and any(one > since for one in levels):
                flags |= _KEPT
            yield Found(key, kept, flags)


def _keyed(stream: Iterator[index.Entry], level: int) -> Iterator[Tuple[bytes, int, index.Entry]]:
    before: Optional[bytes] = None
    for entry in stream:
        key = entry.key()
        if before is not None and key <= before:
            raise ImageDamaged("the index is out of order at %r" % entry.path[:200])
        before = key
        yield key, level, entry


def _key(item: Tuple[bytes, int, index.Entry]) -> bytes:
    return item[0]


def _order(item: Tuple[bytes, int, index.Entry]) -> Tuple[bytes, int]:
    return item[:2]


def _row(found: Found, links: _Links) -> Row:
    entry, flags = found.entry, found.flags
    if flags & ABSENT:
        return ABSENT_ROW
    kind = entry.kind
    if kind == "d":
        if flags & MOUNT:
            return (stat.S_IFDIR | entry.mode | flags, 0, 0, 0, 0, 0)
        size = names = 0
    else:
        size = len(entry.link) if kind == "l" else entry.size
        names = links.names(entry)
        kind = links.kind(entry, names)
    if "s" in entry.flags:
        flags |= SUSPECT
    if size >= _LIMIT or entry.inode >= 2 * _LIMIT:
        raise ImageDamaged("a line of the index holds what cannot be: %r" % entry.path[:200])
    numbers = (size, *map(state.signed, (entry.mtime_ns, entry.ctime_ns, entry.inode)))
    return (_TYPES[kind] | entry.mode | flags, *numbers, names)


# the first pass: sub-folders of each folder, hard links


def _survey(chain: Sequence[Chunks], links: _Links, folders: _Folders, counts: List[Count]) -> None:
    tallies = [[0, 0] for _one in chain]
    streams = [_folder_lines(chunks(), links, tally) for chunks, tally in zip(chain, tallies)]
    stack: List[Tuple[bytes, int, List[bytes]]] = []  # key, number, names of sub-folders
    number = -1
    for number, found in enumerate(_places(streams)):
        key = found.key
        while stack and not key.startswith(stack[-1][0] + b"\0\1"):
            folders.put(stack[-1][1], stack.pop()[2])
        if number:
            _in_its_folder(stack[-1][0] if stack else None, key, b"\0\1", found.entry)
            stack[-1][2].append(key[len(stack[-1][0]) + 2 :])
        elif key:
            raise ImageDamaged("the index has no root")
        stack.append((key, number, []))
    if number < 0:
        raise ImageDamaged("the index has no root")
    while stack:
        folders.put(stack[-1][1], stack.pop()[2])
    folders.end(number + 1)
    counts[:] = [Count(*tally) for tally in tallies]


def _folder_lines(chunks: Iterable[bytes], links: _Links, tally: List[int]) -> Iterator[index.Entry]:
    """The lines at places of folders; the others are counted, and hard links told."""
    entries = files = 0
    for line in whole_lines(chunks):
        entries += 1
        kind = line[line.find(b"\t") + 1 :][:2]
        if kind == b"f\t":
            files += 1
        elif kind == b"h\t":
            links.add(index.parse(line))
        elif kind in (b"d\t", b"n\t", b"-\t"):
            entry = index.parse(line)
            if entry.is_dir:
                yield entry
        elif kind not in _OTHERS:  # at once: a client may send a hundred million empty lines
            raise ImageDamaged("a line of the index cannot be read: %r" % line[:200])
    tally[:] = [entries, files]


def _in_its_folder(folder: Optional[bytes], key: bytes, mark: bytes, entry: index.Entry) -> None:
    """Raises ImageDamaged unless key is that of a name in the folder."""
    if folder is None or not key.startswith(folder + mark) or key.find(b"\0", len(folder) + 2) >= 0:
        raise ImageDamaged("the index has no folder for %r" % entry.path[:200])


class _Folders:
    """Names of the sub-folders of each folder, by the folder's number in walk order; told when a folder is left,
    asked when it is entered."""

    def __init__(self, path: Path):
        self._names = open(path, "w+b")  # noqa: SIM115 - closed by close()
        self._places = open(path.with_suffix(".places"), "w+b", buffering=0)  # noqa: SIM115
        self._end = 0

    def put(self, number: int, names: List[bytes]) -> None:
        if names:
            joined = b"\0".join(names)
            self._names.write(joined)
            os.pwrite(self._places.fileno(), _PLACE.pack(self._end, len(joined)), number * _PLACE.size)
            self._end += len(joined)

    def end(self, count: int) -> None:
        """All are told, of so many folders."""
        self._names.flush()
        self._places.truncate(count * _PLACE.size)

    def names(self, number: int) -> List[bytes]:
        found = os.pread(self._places.fileno(), _PLACE.size, number * _PLACE.size)
        if len(found) != _PLACE.size:
            raise ImageDamaged("an index changed while it was read")
        place, length = _PLACE.unpack(found)
        return os.pread(self._names.fileno(), length, place).split(b"\0") if length else []

    def close(self) -> None:
        self._names.close()
        self._places.close()


class _Links:
    """How many names a file has, by the hard links that the indexes tell of.

    A file is known by inode, mtime and ctime: a name that comes or goes changes the ctime, so that what older dumps
    of the chain say of a file that is another by now counts for nothing.
    """

    def __init__(self, path: Path):
        self._base = sqlite3.connect(str(path), isolation_level=None)
        for word in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-8192"):
            self._base.execute("PRAGMA " + word)
        self._base.execute("CREATE TABLE names (file, name, PRIMARY KEY (file, name)) WITHOUT ROWID")
        self._base.execute("BEGIN")
        self._maybe: Optional[bytearray] = None  # bits of files that the table has, others too
        self._kinds: Dict[int, str] = {}

    @staticmethod
    def _file(entry: index.Entry) -> int:
        return _hash(b"%d %d %d" % (entry.inode, entry.mtime_ns, entry.ctime_ns))

    def add(self, entry: index.Entry) -> None:
        """A hard link: another name than the first."""
        if self._maybe is None:
            self._maybe = bytearray(_FILTER // 8)
        file = self._file(entry)
        self._maybe[file % _FILTER >> 3] |= 1 << (file & 7)
        self._base.execute("INSERT OR IGNORE INTO names VALUES (?, ?)", (file, _hash(entry.path)))

    def names(self, entry: index.Entry) -> int:
        """How many names the file of an entry has in the source."""
        if self._maybe is None:
            return 1
        file = self._file(entry)
        if not self._maybe[file % _FILTER >> 3] & 1 << (file & 7):
            return 1
        return 1 + self._base.execute("SELECT count(*) FROM names WHERE file = ?", (file,)).fetchone()[0]

    def kind(self, entry: index.Entry, names: int) -> str:
        """What an entry is: of a hard link what its first name was, which came before."""
        if entry.kind == "h":
            return self._kinds.get(self._file(entry), "f")
        if names > 1 and entry.kind != "f" and len(self._kinds) < _KINDS:
            self._kinds[self._file(entry)] = entry.kind
        return entry.kind

    def close(self) -> None:
        self._base.close()


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


# the second pass: blocks


def _write(chain: Sequence[Chunks], links: _Links, folders: _Folders, writer: state.Writer) -> None:
    folder: Optional[_Folder] = None
    number = 0
    for found in _places([map(index.parse, whole_lines(chunks())) for chunks in chain]):
        row = _row(found, links)
        if found.entry.is_dir:
            if folder is not None:
                folder.close(folders.names(number))
                number += 1
            folder = _Folder(writer, found, row)
        else:
            _in_its_folder(None if folder is None else folder.key, found.key, b"\0\0", found.entry)
            folder.add(found.key[len(folder.key) + 2 :], row)  # type: ignore[union-attr]
    if folder is not None:
        folder.close(folders.names(number))


class _Folder:
    """Blocks of a folder, cut where the agent cuts them."""

    def __init__(self, writer: state.Writer, found: Found, own: Row):
        self.key = found.key
        self._writer, self._path = writer, found.entry.path
        self._own: Optional[Row] = own
        self._names: List[bytes] = []
        self._rows: Any = array("q")

    def add(self, name: bytes, row: Row) -> None:
        """The next entry."""
        if len(self._names) == ENTRIES:
            self._put([], False)
        self._names.append(name)
        self._rows.extend(row)

    def _put(self, folders: List[bytes], last: bool) -> None:
        block = state.pack(self._path, self._own, self._names, self._rows, folders, last)
        if len(block) > state.LIMIT or len(self._path) > state.PATH_LIMIT:
            raise ImageDamaged("a folder's names are too long: %r" % self._path[:200])
        self._writer.add(block)
        self._own, self._names, self._rows = None, [], array("q")

    def close(self, folders: List[bytes]) -> None:
        """No more entries; the sub-folders follow them."""
        place = min(ENTRIES - len(self._names), len(folders))
        self._put(folders[:place], place == len(folders))
        while place < len(folders):
            part = folders[place : place + ENTRIES]
            place += len(part)
            self._put(part, place == len(folders))
