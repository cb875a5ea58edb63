"""The file of a history: blocks in walk order, written once from beginning to end, then only read.

    magic
    rows of block 0, its hashes, rows of block 1, its hashes ...    (zstd; 32 bytes each as they are)
    names of block 0, names of block 1 ...                          (zstd)
    filters of the names of the blocks, 4096 bytes each
    directory: the dumps as JSON, then columns, one number a block  (zstd)
    footer: where all that stands, checksum, magic

A search for a name reads the filters and then a few blocks, for a part of a name all names; rows and hashes only of
what matched. A changed history is a new file in the place of the old: unchanged blocks are copied as they are, in
one piece, by the kernel. So a reader sees the old one or the new one, and a kill leaves the old one.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
import zlib
from array import array
from pathlib import Path
from typing import Any, Iterable, Mapping

from .. import files
from ..errors import ImageDamaged
from ..image import codec
from .block import BITS, Names, Packed, Rows, unpack

MAGIC = b"STOWHIS1"
FILTER = BITS // 8
_FOOTER = struct.Struct("<QQQQQI8s")  # names, filters, directory, its length, blocks, checksum, magic
# a number a block: where its rows begin, their length, that of its hashes, of its names packed and not, paths, events,
# least and greatest size and time, whether the first path is a folder, the checksum of its filter
_COLUMNS = ("rows", "rows_length", "hashes_length", "names_length", "text_length", "entries", "events", "size_min",
            "size_max", "time_min", "time_max", "first_dir", "filter_crc")  # fmt: skip
_PIECE = 64 << 20


class HistoryDamaged(ImageDamaged):
    """A history cannot be used: whoever has the indexes removes it and makes it again. path: its file."""

    path = ""


def damaged(path: os.PathLike[str] | str, why: object) -> HistoryDamaged:
    """The error for the history at path."""
    error = HistoryDamaged(f"{path} is damaged: {why}", "stowage find makes it again from the indexes")
    error.path = os.fspath(path)
    return error


class Writer:
    """Writes a history to a new file. Whoever wants to keep it syncs it and puts it in its place."""

    def __init__(self, path: Path):
        self.path = path
        files.make_folder(path.parent)
        path.unlink(missing_ok=True)
        self._file = os.fdopen(files.create(path), "wb")
        self._names = tempfile.TemporaryFile(prefix="names-", dir=path.parent)  # noqa: SIM115
        self._filters = tempfile.TemporaryFile(prefix="names-", dir=path.parent)  # noqa: SIM115
        self._file.write(MAGIC)
        self._at = len(MAGIC)
        self._columns = {name: array("q") for name in _COLUMNS}
        self._firsts: list[bytes] = []
        self.entries = self.events = 0

    def add(self, block: Packed) -> None:
        """A block more."""
        self._file.write(block.rows)
        self._file.write(block.hashes)
        self._names.write(block.names)
        self._filters.write(block.filter)
        self._note(
            block.first, self._at, len(block.rows), len(block.hashes), len(block.names), block.names_length,
            block.entries, block.events, *block.sizes, *block.times, int(block.first_dir), zlib.crc32(block.filter),
        )  # fmt: skip
        self._at += len(block.rows) + len(block.hashes)

    def _note(self, first: bytes, *values: int) -> None:
        self._firsts.append(first)
        for name, value in zip(_COLUMNS, values):
            self._columns[name].append(value)
        self.entries += values[5]
        self.events += values[6]

    def copy(self, old: History, start: int, end: int) -> None:
        """The blocks start to end of another history, as they are."""
        if start == end:
            return
        begin = old.table["rows"][start]
        length = old.rows_end(end - 1) - begin
        _copy(old.fd, begin, length, self._file)
        names = old.names_at(start)
        _copy(old.fd, names, old.names_at(end) - names, self._names)
        _copy(old.fd, old.filters + start * FILTER, (end - start) * FILTER, self._filters)
        for number in range(start, end):
            values = [old.table[name][number] for name in _COLUMNS]
            values[0] += self._at - begin
            self._note(old.firsts[number], *values)
        self._at += length

    def finish(self, head: Mapping[str, Any]) -> None:
        """Writes what stands at the end."""
        names = self._at
        self._at += self._append(self._names)
        filters = self._at
        self._at += self._append(self._filters)
        columns = b"".join(self._columns[name].tobytes() for name in _COLUMNS)
        text = json.dumps(head, ensure_ascii=True).encode("ascii") + b"\n" + columns + b"\0".join(self._firsts)
        directory = codec.get("zstd:3").compress(text)
        self._file.write(directory)
        self._file.write(
            _FOOTER.pack(
                names, filters, self._at, len(directory), len(self._firsts), zlib.crc32(directory), MAGIC
            )
        )  # fmt: skip
        self.close()

    def _append(self, spool: Any) -> int:
        spool.flush()
        length = spool.tell()
        _copy(spool.fileno(), 0, length, self._file)
        return length

    def close(self) -> None:
        """Gives the files back."""
        for one in (self._file, self._names, self._filters):
            one.close()

    def discard(self) -> None:
        """Removes what was written."""
        self.close()
        self.path.unlink(missing_ok=True)


def _copy(fd: int, offset: int, length: int, out: Any) -> None:
    out.flush()
    while length:
        try:
            done = os.copy_file_range(fd, out.fileno(), min(length, _PIECE), offset)
        except (OSError, AttributeError):  # another file system, or one that cannot
            done = 0
        if not done:
            piece = os.pread(fd, min(length, 1 << 20), offset)
            if not piece:
                raise HistoryDamaged("a history is cut")
            files.write_all(out.fileno(), piece)
            done = len(piece)
        offset += done
        length -= done
    out.seek(0, os.SEEK_END)


class History:
    """A history, open. head: what finish() was given. firsts: the first path of each block. table: columns."""

    def __init__(self, path: os.PathLike[str] | str):
        """Raises FileNotFoundError when there is none, HistoryDamaged when it cannot be used."""
        self.path = Path(path)
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._open()
        except (ValueError, struct.error, KeyError, IndexError, OSError, ImageDamaged) as error:
            os.close(self.fd)
            raise damaged(path, error) from None

    def _open(self) -> None:
        self.size = size = os.fstat(self.fd).st_size
        if size < _FOOTER.size:
            raise ValueError("it is cut")
        footer = _FOOTER.unpack(self.read(size - _FOOTER.size, _FOOTER.size))
        self.names, self.filters, at, length, self.blocks, crc, magic = footer
        if magic != MAGIC or at + length + _FOOTER.size != size:
            raise ValueError("its end is damaged")
        directory = self.read(at, length)
        if zlib.crc32(directory) != crc or self.blocks * FILTER > size:
            raise ValueError("its directory is damaged")
        text = unpack(directory)
        end = text.index(b"\n") + 1
        self.head: dict = json.loads(text[:end])
        self.table: dict[str, array] = {}
        for name in _COLUMNS:
            self.table[name] = array("q", text[end : end + 8 * self.blocks])
            end += 8 * self.blocks
        self.firsts = text[end:].split(b"\0") if self.blocks else []
        if len(self.firsts) != self.blocks:
            raise ValueError("its directory is damaged")
        self._names_at = array("q", [self.names])
        for count in self.table["names_length"]:
            self._names_at.append(self._names_at[-1] + count)

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self.fd)

    def read(self, offset: int, length: int) -> bytes:
        """Some bytes. Raises HistoryDamaged when there are fewer."""
        if offset + length > self.size:
            raise damaged(self.path, "it is cut")
        data = os.pread(self.fd, length, offset)
        while len(data) < length:
            more = os.pread(self.fd, length - len(data), offset + len(data))
            if not more:
                raise damaged(self.path, "it is cut")
            data += more
        return data

    def names_at(self, number: int) -> int:
        """Where the names of a block begin; behind the last block, where they end."""
        return self._names_at[number]

    def rows_end(self, number: int) -> int:
        """Where rows and hashes of a block end."""
        table = self.table
        return table["rows"][number] + table["rows_length"][number] + table["hashes_length"][number]

    def text(self, number: int) -> bytes:
        """The names of a block."""
        packed = self.read(self._names_at[number], self.table["names_length"][number])
        try:
            return unpack(packed, self.table["text_length"][number])
        except ImageDamaged as error:
            raise damaged(self.path, error.message) from None

    def packed_names(self, number: int) -> tuple[bytes, bytes]:
        """The names of a block as they are in the file, and their filter."""
        names = self.read(self._names_at[number], self.table["names_length"][number])
        return names, self.read(self.filters + number * FILTER, FILTER)

    def first_dir(self, number: int) -> bool:
        """Whether the first path of a block stands at a folder's place."""
        return bool(self.table["first_dir"][number])

    def block_names(self, number: int, text: bytes | None = None) -> Names:
        """The names of a block, to be asked."""
        return Names(self.text(number) if text is None else text, self.firsts[number], self.first_dir(number))

    def rows(self, number: int) -> Rows:
        """The rows of a block."""
        table = self.table
        length = table["rows_length"][number]
        data = self.read(table["rows"][number], length + table["hashes_length"][number])
        try:
            return Rows(data[:length], data[length:], table["entries"][number])
        except (ImageDamaged, ValueError) as error:
            raise damaged(self.path, error) from None

    def with_name(self, bits: Iterable[tuple[int, int]]) -> list[int]:
        """The blocks whose filters have these bits."""
        data = self.read(self.filters, self.blocks * FILTER)
        view = memoryview(data)
        for number, crc in enumerate(self.table["filter_crc"]):
            if zlib.crc32(view[number * FILTER : (number + 1) * FILTER]) != crc:
                raise damaged(self.path, "a filter is not what was written")
        found: list[int] | None = None
        for byte, mask in bits:
            column = data[byte::FILTER]
            hits = range(self.blocks) if found is None else found
            found = [number for number in hits if column[number] & mask]
        return found or []
