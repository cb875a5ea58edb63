"""A block: some 4096 paths of a history in walk order, with everything that was ever seen of them, packed.

Here lives the form of a block, from lists to bytes and back; which events there are is merge.py.

Names stand apart from rows, for a search reads all names and few rows. The text of names is one line a path, a NUL
before, between and behind (no name holds one): a file's name; of a folder as many slashes as it is deep, then its
name; the root is one slash. So a name stands there once, not with its folders, and the place of a match says whose
it is. Rows are columns of text, as they stand in an index: what needs no number made of it needs no time.
"""

from __future__ import annotations

import re
import zlib
from bisect import bisect_right
from typing import Iterable, NamedTuple, Sequence

from ..errors import ImageDamaged
from ..image import codec, order
from .lines import MTIME, ROOT, SHA, SIZE, Lines, Row, ascending

SIZE_OF = 4096  # paths in a block
LEVEL = "zstd:3"
LIMIT = 1 << 30  # bytes of an unpacked block
BITS = 32768  # of a filter
_FOLDER = re.compile(rb"\0(/+)([^\0]*)")
_UNPACKER = codec.get("zstd")

class Packed(NamedTuple):
    """A block ready to be written. first: its first path. sizes, times: (least, greatest) of files, for skipping."""

    first: bytes
    first_dir: bool
    names: bytes
    names_length: int
    rows: bytes
    hashes: bytes
    filter: bytes
    entries: int
    events: int
    sizes: tuple[int, int]
    times: tuple[int, int]


def parent(path: bytes) -> bytes:
    """The folder of a path of the index; b"" of the root."""
    return b"" if path == ROOT else path.rpartition(b"/")[0] or ROOT


def name_text(paths: Sequence[bytes], folders: Iterable[int], folder: bytes) -> bytes:
    """The text of names; folder: where the first path lies. Raises ImageDamaged when the order is not walk order."""
    pieces, start = [], 0
    for at in (*folders, len(paths)):
        if at > start:
            run = paths[start:at]
            text = b"\0" + b"\0".join(run)
            names = text
            if folder != ROOT:
                names = text.replace(b"\0" + folder + b"/", b"\0")
                if not folder or len(text) - len(names) != len(run) * (len(folder) + 1):
                    raise ImageDamaged(f"an index is out of order at {run[0][:200]!r}")
            if b"/" in names or not ascending(run):
                raise ImageDamaged(f"an index is out of order at {run[0][:200]!r}")
            pieces.append(names)
        if at < len(paths):
            above, path = parent(paths[at]), paths[at]
            inside = above in (folder, ROOT) or folder.startswith(above + b"/") or (path == ROOT and not folder)
            if not inside or (folder and order.key(path, True) <= order.key(folder, True)):
                raise ImageDamaged(f"an index is out of order at {path[:200]!r}")
            folder = path
            pieces.append(folder_line(folder))
        start = at + 1
    return b"".join(pieces) + b"\0"


def folder_line(path: bytes) -> bytes:
    """The line of a folder, with the NUL before it."""
    if path == ROOT:
        return b"\0/"
    return b"\0" + b"/" * (path.count(b"/") + 1) + path.rpartition(b"/")[2]


class Names:
    """The names of a block, unpacked: what a match in text belongs to."""

    def __init__(self, text: bytes, first: bytes, first_dir: bool):
        self.text = text
        self._folder = parent(first)
        self._starts: list[int] | None = None
        self._paths: list[bytes] = []

    def _folders(self) -> list[int]:
        if self._starts is None:
            stack = [] if self._folder in (b"", ROOT) else self._folder.split(b"/")
            starts, paths = [-1], [self._folder]
            for match in _FOLDER.finditer(self.text):
                slashes, name = match.groups()
                if name:
                    if len(slashes) > len(stack) + 1:
                        raise ImageDamaged("a folder stands nowhere")
                    stack[len(slashes) - 1 :] = [name]
                    paths.append(b"/".join(stack))
                else:
                    stack = []
                    paths.append(ROOT)
                starts.append(match.start())
            self._starts, self._paths = starts, paths
        return self._starts

    def at(self, place: int) -> tuple[int, bytes, bool]:
        """(number, path, whether a folder) of the line whose first byte stands at place."""
        number = self.text.count(b"\0", 0, place) - 1
        folder = self._paths[bisect_right(self._folders(), place - 1) - 1] if self._folders() else b""
        if self.text.startswith(b"/", place):
            return number, folder, True
        name = self.text[place : self.text.index(b"\0", place)]
        return number, name if folder == ROOT else folder + b"/" + name, False

    def all(self) -> tuple[list[bytes], list[int]]:
        """(paths, numbers of the folders)."""
        lines = self.text[1:-1].split(b"\0")
        folders = [number for number, line in enumerate(lines) if line[:1] == b"/"]
        self._folders()
        paths, start = [], 0
        for which, at in enumerate((*folders, len(lines))):
            folder = self._paths[which]
            if at > start:
                prefix = b"" if folder == ROOT else folder + b"/"
                paths += [prefix + name for name in lines[start:at]]
            if at < len(lines):
                paths.append(self._paths[which + 1])
            start = at + 1
        return paths, folders


class Open(NamedTuple):
    """A block as lists. counts: events of each path. columns: the nine of the rows and, last, the dumps' numbers."""

    paths: list[bytes]
    folders: list[int]
    counts: list[int]
    columns: list[list[bytes]]

    def halves(self) -> tuple[Open, Open]:
        """Two blocks of it."""
        middle = len(self.paths) // 2
        cut = sum(self.counts[:middle])
        return (
            Open(
                self.paths[:middle], [one for one in self.folders if one < middle], self.counts[:middle],
                [column[:cut] for column in self.columns],
            ),
            Open(
                self.paths[middle:], [one - middle for one in self.folders if one >= middle], self.counts[middle:],
                [column[cut:] for column in self.columns],
            ),
        )  # fmt: skip


def of_lines(lines: Lines, dump: int) -> Open:
    """What one dump says of paths that nobody knew."""
    count = len(lines.paths)
    return Open(lines.paths, lines.folders, [1] * count, [*lines.columns, [b"%d" % dump] * count])


def packed_names(text: bytes) -> tuple[bytes, bytes, bytes]:
    """(text, packed, filter) of a text of names."""
    return text, codec.get(LEVEL).compress(text), filter_of(text)


def pack(block: Open, names: tuple[bytes, bytes, bytes] | None = None) -> Packed:
    """A block ready to be written. names: (text, packed, filter) if known. Raises ImageDamaged when it is not in walk
    order."""
    packer = codec.get(LEVEL)
    paths, columns = block.paths, block.columns
    first_dir = bool(block.folders) and block.folders[0] == 0
    if names is None:
        names = packed_names(name_text(paths, block.folders, parent(paths[0])))
    single = len(columns[0]) == len(paths) and set(block.counts) == {1}
    counts = b"" if single else b"\n".join([b"%d" % count for count in block.counts])
    shas = columns[SHA]
    hashes = bytes.fromhex(b"".join([sha for sha in shas if sha != b"-"]).decode("ascii"))
    texts = [counts, b"\n".join(columns[-1])]
    for number, column in enumerate(columns[:-1]):
        texts.append(bytes([sha != b"-" for sha in column]) if number == SHA else b"\n".join(column))
    # the marks are bytes 0 and 1, so lengths, not NULs, tell the texts apart
    head = b" ".join([b"%d" % len(one) for one in texts]) + b" %d\n" % zlib.crc32(hashes)
    rows = packer.compress(head + b"".join(texts))
    sizes = [int(size) for size in set(columns[SIZE]) if size != b"-"] or [0]
    return Packed(
        paths[0], first_dir, names[1], len(names[0]), rows, hashes, names[2], len(paths), len(columns[0]),
        (min(sizes), max(sizes)), _span(set(columns[MTIME])),
    )  # fmt: skip


def _span(times: set[bytes]) -> tuple[int, int]:
    """The first and the last of some times, in seconds."""
    times.discard(b"-")
    if not times:
        return 0, 0
    if set(map(len, times)) == {20}:  # from 2001 on: their order is that of their digits
        return seconds(min(times)), seconds(max(times))
    known = list(map(seconds, times))
    return min(known), max(known)


def seconds(time: bytes) -> int:
    """Whole seconds of a time of the index, rounded down."""
    if time == b"-":
        return 0
    whole, _dot, rest = time.partition(b".")
    return int(whole) - (time[:1] == b"-" and rest.strip(b"0") != b"")


def filter_of(text: bytes) -> bytes:
    """A Bloom filter of the names in a text: in the file the filters of all blocks stand side by side."""
    marks = bytearray(BITS)
    crc = zlib.crc32
    for name in set(text.replace(b"/", b"").split(b"\0")):
        value = crc(name)
        marks[value & 32767] = marks[value >> 15 & 32767] = 1
    return int(marks.translate(_DIGITS), 2).to_bytes(BITS // 8, "big")


def filter_bits(name: bytes) -> list[tuple[int, int]]:
    """(byte, mask) of the bits that the filter of every block with this name has."""
    value = zlib.crc32(name)
    return [(bit >> 3, 0x80 >> (bit & 7)) for bit in {value & 32767, value >> 15 & 32767}]


_DIGITS = bytes([48, 49]) + bytes(254)


class Rows:
    """The rows of a block, unpacked."""

    def __init__(self, packed: bytes, hashes: bytes, entries: int):
        data = unpack(packed)
        end = data.index(b"\n") + 1
        *lengths, crc = map(int, data[:end].split())
        self.texts, at = [], end
        for length in lengths:
            self.texts.append(data[at : at + length])
            at += length
        if len(self.texts) != 11 or at != len(data) or zlib.crc32(hashes) != crc:
            raise ImageDamaged("a block is damaged")
        self.hashes = hashes
        self.entries = entries
        self._lists: dict[int, list[bytes]] = {}
        self._starts: list[int] | None = None

    @property
    def single(self) -> bool:
        """Whether each path has just one event."""
        return not self.texts[0]

    def column(self, number: int) -> list[bytes]:
        """A column of the rows as a list of fields; SHA is none."""
        found = self._lists.get(number)
        if found is None:
            text = self.texts[number + 2]
            found = self._lists[number] = text.split(b"\n") if text else []
        return found

    def dumps(self) -> list[bytes]:
        """The numbers of the dumps of the events."""
        return self.column(-1)

    def span(self, number: int) -> tuple[int, int]:
        """The first event of a path, and the one behind its last."""
        if not self.texts[0]:
            return number, number + 1
        if self._starts is None:
            starts, at = [0], 0
            for count in map(int, self.texts[0].split(b"\n")):
                at += count
                starts.append(at)
            self._starts = starts
        return self._starts[number], self._starts[number + 1]

    def sha(self, event: int) -> bytes:
        """The sha256 of an event, as in the index."""
        marks = self.texts[SHA + 2]
        if not marks[event]:
            return b"-"
        at = 32 * marks.count(b"\1", 0, event)
        return self.hashes[at : at + 32].hex().encode("ascii")

    def row(self, event: int) -> Row:
        """The row of an event."""
        return tuple([
            self.sha(event) if number == SHA else self.column(number)[event] for number in range(9)
        ])  # fmt: skip

    def starts(self) -> Sequence[int]:
        """Where the events of each path begin, and behind the last where they end."""
        if not self.texts[0]:
            return range(self.entries + 1)
        self.span(0)
        return self._starts

    def all(self) -> list[list[bytes]]:
        """The ten columns of an open block."""
        text, at, shas = self.hashes.hex().encode("ascii"), 0, []
        for mark in self.texts[SHA + 2]:
            shas.append(text[at : at + 64] if mark else b"-")
            at += 64 * mark
        return [*(shas if number == SHA else list(self.column(number)) for number in range(9)), list(self.dumps())]


def unpack(data: bytes, limit: int = LIMIT) -> bytes:
    """What was packed. Raises ImageDamaged."""
    return _UNPACKER.decompress(data, limit)

