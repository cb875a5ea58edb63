"""The few pieces of a large index that can hold some paths, found without unpacking what stands before them.

An agent sends index lines in frames of some thousand lines, and the index is those frames one after the other, in
walk order: it can be searched like a telephone book. Here lives that search; it needs no file beside the index. What
cannot be searched so (gzip does not tell where its members end, a frame ends inside a line) is read from its
beginning, by indexes.py.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left, bisect_right
from typing import Any, Iterator, Sequence

from ..errors import ImageDamaged
from ..image import codec, index, order

ROOT = b"."
STEP = 256 << 10  # of an index that is not compressed
LIMIT = 32 << 20  # of the lines of one piece
_FRAME, _SKIPPABLE = b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18"


class Unseekable(Exception):
    """This index must be read from its beginning."""


def chunks(path: str | os.PathLike[str], bases: Sequence[bytes]) -> Iterator[bytes]:
    """The pieces of the index that may hold bases, what is below them, or their parents, as whole lines.

    Raises Unseekable before the first piece, ImageDamaged, OSError.
    """
    name = os.fspath(path)
    if name.endswith(".gz"):
        raise Unseekable
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return iter(())
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    pieces = _Pieces(data, _frames(data) if name.endswith(".zst") else _lines(data), name.endswith(".zst"))
    numbers = sorted({number for low, high in _ranges(bases) for number in _between(pieces, low, high)})
    return _texts(pieces, numbers)


def _texts(pieces: _Pieces, numbers: Sequence[int]) -> Iterator[bytes]:
    try:
        for number in numbers:
            yield pieces.text(number)
    except Unseekable:
        raise ImageDamaged("a piece of the index cannot be read") from None


def _ranges(bases: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Places in walk order, from and up to, of everything that counts for bases."""
    yield b"", b"\0"
    for base in bases:
        parts = base.split(b"/")
        for count in range(1, len(parts) + 1):
            for is_dir in (True, False):
                key = order.key(b"/".join(parts[:count]), is_dir)
                yield key, key + b"\0"
        key = order.key(base, True)
        yield key, key + b"\1"  # what is below a folder begins with its key and a 0


def _between(pieces: Sequence[bytes], low: bytes, high: bytes) -> range:
    return range(max(0, bisect_right(pieces, low) - 1), bisect_left(pieces, high))


class _Pieces(Sequence):
    """The places in walk order of the first lines of the pieces of an index, each looked up when it is asked for."""

    def __init__(self, data: Any, spans: list[tuple[int, int]], packed: bool):
        self._data, self._spans = data, spans
        self._keys: dict[int, bytes] = {}
        self._texts: dict[int, bytes] = {}
        self._codec = codec.get("zstd") if packed else None

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, number: Any) -> Any:
        key = self._keys.get(number)
        if key is None:
            text = self.text(number)
            try:
                key = index.parse(text[: text.index(b"\n")]).key()
            except ImageDamaged:
                raise Unseekable from None
            self._keys[number] = key
            if len(self._texts) < 64:
                self._texts[number] = text
        return key

    def text(self, number: int) -> bytes:
        """The lines of a piece."""
        text = self._texts.get(number)
        if text is not None:
            return text
        start, end = self._spans[number]
        text = self._data[start:end]
        if self._codec is not None:
            try:
                text = self._codec.decompress(text, LIMIT)
            except ImageDamaged:
                raise Unseekable from None
        if not text.endswith(b"\n"):
            raise Unseekable
        return text


def _frames(data: Any) -> list[tuple[int, int]]:
    """Where the zstd frames begin and end, by the heads of their blocks (RFC 8878)."""
    found, at, size = [], 0, len(data)
    try:
        while at < size:
            start = at
            if data[at + 1 : at + 4] == _SKIPPABLE and 0x50 <= data[at] <= 0x5F:
                at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
                continue
            if data[at : at + 4] != _FRAME:
                raise Unseekable
            flags = data[at + 4]
            single = flags >> 5 & 1
            at += 5 + (1 - single) + (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[flags >> 6]
            last = 0
            while not last:
                head = int.from_bytes(data[at : at + 3], "little")
                last = head & 1
                at += 3 + (1 if head >> 1 & 3 == 1 else head >> 3)
                if at > size:
                    raise Unseekable
            at += 4 * (flags >> 2 & 1)
            found.append((start, at))
    except IndexError:
        raise Unseekable from None
    if at != size:
        raise Unseekable
    return found


def _lines(data: Any) -> list[tuple[int, int]]:
    """Pieces of about STEP bytes that end at line ends."""
    found, at, size = [], 0, len(data)
    while at < size:
        end = data.find(b"\n", min(at + STEP, size) - 1) + 1
        if not end:
            raise Unseekable
        found.append((at, end))
        at = end
    return found
