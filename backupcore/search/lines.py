"""The lines of an index as columns, checked a column at a time.

Here lives the reading of index text at the speed of bytes.split: a full of a million entries in a second or two.
What a line means is image.index; what index.parse refuses, this refuses too, but for fields that no search shows
(ctime, inode, offset, length).
"""

from __future__ import annotations

import re
from operator import lt
from typing import Iterable, Iterator, NamedTuple, Sequence

from ..errors import ImageDamaged
from ..image.escape import unescape
from ..image.index import KINDS, LARGEST, REASONS, check_path

COLUMNS = 14
ROOT = b"."
# of a row: kind, mode, uid, gid, size, mtime, link, sha256, flags
_ROW = (1, 2, 3, 4, 5, 6, 9, 10, 13)
KIND, MODE, UID, GID, SIZE, MTIME, LINK, SHA, FLAGS = range(9)
STALE = b"u"  # a flag of this room: the newest dump could not read it, this is an older version

Row = tuple  # of nine fields, as they stand in the index
_NUMBERS = re.compile(rb"(?:(?:0|[1-9][0-9]{0,19}|-)\n)*+\Z")
_SIZES = re.compile(rb"(?:(?:0|[1-9][0-9]{0,17}|-)\n)*+\Z")
_MODES = re.compile(rb"(?:(?:0|[1-7][0-7]{0,3}|-)\n)*+\Z")
_TIMES = re.compile(rb"(?:(?:-?[0-9]{1,18}\.[0-9]{9}|-)\n)*+\Z")
_SHAS = re.compile(rb"(?:(?:[0-9a-f]{64}|-)\n)*+\Z")
_FLAGS = re.compile(rb"(?:(?:s?m?h?d?x?|-)\n)*+\Z")
_DEVICE = re.compile(rb"[0-9]{1,10},[0-9]{1,10}\Z")
_CONTROL = bytes({*range(32), 127} - {9, 10})
_ODD = re.compile(rb"[\n/]\.{1,2}[\n/]")  # `.` or `..`
_LETTERS = {kind.encode("ascii") for kind in KINDS}


class Lines(NamedTuple):
    """Some lines. paths: raw. folders: the numbers of those that stand at a folder's place. columns: nine lists."""

    paths: list[bytes]
    folders: list[int]
    columns: list[list[bytes]]

    def row(self, number: int) -> Row:
        """One row."""
        return tuple([column[number] for column in self.columns])

    def cut(self, start: int, end: int) -> Lines:
        """The lines from start to end."""
        folders = [number - start for number in self.folders if start <= number < end]
        return Lines(self.paths[start:end], folders, [column[start:end] for column in self.columns])


def _refuse(what: str) -> ImageDamaged:
    return ImageDamaged(f"a line of the index holds {what}")


def parse(chunk: bytes) -> Lines:
    """The lines of a chunk of whole lines. Raises ImageDamaged."""
    count = chunk.count(b"\n")
    fields = chunk.replace(b"\n", b"\t").split(b"\t")
    if fields.pop() or len(fields) != COLUMNS * count:
        raise _refuse(f"not {COLUMNS} columns")
    if len(chunk.translate(None, _CONTROL)) != len(chunk):
        raise _refuse("a control character")
    paths = fields[0::COLUMNS]
    columns = [fields[number::COLUMNS] for number in _ROW]
    kinds, flags = columns[KIND], columns[FLAGS]
    _check(columns)
    if b"-" in paths:
        raise _refuse("no path")
    text = b"\n" + b"\n".join(paths) + b"\n"
    odd = b"//" in text or b"\n/" in text or b"/\n" in text or b"\n\n" in text
    if odd or ((b"/." in text or b"\n." in text) and _ODD.search(text, 2 if paths[0] == ROOT else 0)):
        raise _refuse("what is no path")
    if b"\\" in text:
        paths = [unescape(path) if b"\\" in path else path for path in paths]
        if not all(map(check_path, paths)):
            raise _refuse("what is no path")
    letters = set(kinds)
    if not letters <= _LETTERS:
        raise _refuse("an unknown kind")
    links = columns[LINK]
    for number in (MODE, UID, GID, SIZE, MTIME):
        column = columns[number]
        if b"-" in column and any(field == b"-" and kind not in b"-n" for kind, field in zip(kinds, column)):
            raise _refuse("no number where one must be")
    if letters != {b"f"}:
        for kind, link, sha in zip(kinds, links, columns[SHA]):
            if kind != b"f" and (sha != b"-" or not _fits(kind, link)):
                raise _refuse("what is no link")
    if set(links) != {b"-"} and any(kind == b"f" and link != b"-" for kind, link in zip(kinds, links)):
        raise _refuse("a link where none can be")
    if b"-" in letters or b"n" in letters:
        folders = [
            number for number, kind in enumerate(kinds)
            if kind == b"d" or (kind == b"-" and links[number] == b"d") or (kind == b"n" and b"d" in flags[number])
        ]  # fmt: skip
    else:
        folders = [number for number, kind in enumerate(kinds) if kind == b"d"]
    if paths and paths[0] == ROOT and folders[:1] != [0]:
        folders.insert(0, 0)  # a source that is a file, or was not there: its place is the same
    return Lines(paths, folders, columns)


def _fits(kind: bytes, link: bytes) -> bool:
    """Whether a kind that is no file can have such a link."""
    if kind in b"dp":
        return link == b"-"
    if kind == b"-":
        return link in (b"f", b"d")
    if kind == b"n":
        return link in REASONS
    if kind in b"cb":
        return bool(_DEVICE.match(link))
    raw = unescape(link)
    return check_path(raw) if kind == b"h" else bool(raw) and b"\0" not in raw


def _check(columns: Sequence[Sequence[bytes]]) -> None:
    for number, shape in (
        (MODE, _MODES), (UID, _NUMBERS), (GID, _NUMBERS), (MTIME, _TIMES), (SHA, _SHAS), (FLAGS, _FLAGS),
    ):  # fmt: skip
        if not shape.match(b"\n".join(columns[number]) + b"\n" if columns[number] else b""):
            raise _refuse("a field that cannot be")
    sizes = columns[SIZE]
    if sizes and not _SIZES.match(b"\n".join(sizes) + b"\n"):  # files of holes only, or lies
        if not _NUMBERS.match(b"\n".join(sizes) + b"\n") or any(int(size) > LARGEST for size in sizes if size != b"-"):
            raise _refuse("a size that cannot be")
    if b"" in columns[LINK] or b"" in columns[FLAGS]:
        raise _refuse("an empty field")


def stream(chunks: Iterable[bytes]) -> Iterator[Lines]:
    """The lines of chunks of whole lines. Raises ImageDamaged. Their order is checked by who takes them."""
    for chunk in chunks:
        if chunk:
            yield parse(chunk)


def ascending(names: Sequence[bytes]) -> bool:
    """Whether names rise, none of them twice."""
    return all(map(lt, names, names[1:]))
