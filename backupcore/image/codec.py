"""Compression: zstd from whatever this machine has, gzip, or none; each piece a frame that stands alone.

Here live finding a zstd library at run time and packing and unpacking bytes with bounds; not what is in
them. Every codec may be used by many threads at once and lets go of the interpreter lock while it works.
Compressed bytes are hostile until unpacked: nothing is ever made larger than the bound the caller gives.
"""

from __future__ import annotations

import threading
import zlib
from typing import Any, Dict, Iterable, Iterator, Optional

from ..errors import ImageDamaged, RequestError, StowageError
from . import _zstd
from .layout import SUFFIXES

DEFAULT_LEVEL = {"zstd": 1, "gzip": 1}
_LEVELS = {"zstd": range(1, 20), "gzip": range(1, 10)}
PIECE = 1 << 20  # unpack() gives pieces of at most this many bytes
_MAGIC = b"\x28\xb5\x2f\xfd"


def _damaged(why: str) -> ImageDamaged:
    return ImageDamaged("compressed data cannot be unpacked: " + why, "the bytes are damaged; use another copy")


class Codec:
    """One way to compress. name: zstd, gzip or none; level: None for none; suffix: of file names.

    compress(data) makes one frame that stands alone. decompress(data, max_length) is the content of exactly
    one frame, raises ImageDamaged when it is more than max_length, cut or followed by anything.
    decompress_into(data, room) does the same into room, which bounds it, and gives the number of its bytes.
    unpack(chunks) streams the content of any number of frames one after the other, in pieces of at most
    PIECE bytes. data: anything with the buffer protocol.
    """

    name = "none"
    level: Optional[int] = None

    @property
    def suffix(self) -> str:
        """What file names end in: .zst, .gz or nothing."""
        return SUFFIXES[self.name]

    def compress(self, data: Any) -> bytes:
        return bytes(data)

    def decompress(self, data: Any, max_length: int) -> bytes:
        if len(data) > max_length:
            raise _damaged("it is longer than %d bytes" % max_length)
        return bytes(data)

    def decompress_into(self, data: bytearray, room: memoryview) -> int:
        found = self.decompress(data, len(room))
        room[: len(found)] = found
        return len(found)

    def unpack(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            for start in range(0, len(chunk), PIECE):
                yield chunk[start : start + PIECE]


class Gzip(Codec):
    """gzip members, by zlib; without time and name, so that the same bytes give the same bytes."""

    name = "gzip"

    def __init__(self, level: int):
        self.level = level

    def compress(self, data: Any) -> bytes:
        packer = zlib.compressobj(self.level, zlib.DEFLATED, 31, 9)
        return packer.compress(data) + packer.flush()

    def decompress(self, data: Any, max_length: int) -> bytes:
        unpacker = zlib.decompressobj(31)
        try:
            found = unpacker.decompress(data, max_length + 1)
        except zlib.error as error:
            raise _damaged(str(error)) from None
        if len(found) > max_length:
            raise _damaged("it is longer than %d bytes" % max_length)
        if not unpacker.eof or unpacker.unused_data:
            raise _damaged("it is cut, or something follows")
        return found

    def unpack(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        unpacker = zlib.decompressobj(31)
        begun = False
        for chunk in chunks:
            while chunk:
                if unpacker.eof:
                    unpacker = zlib.decompressobj(31)
                try:
                    found = unpacker.decompress(chunk, PIECE)
                except zlib.error as error:
                    raise _damaged(str(error)) from None
                begun = True
                chunk = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
                if found:
                    yield found
            while not unpacker.eof and begun:  # what zlib still holds back
                found = unpacker.decompress(b"", PIECE)
                if not found:
                    break
                yield found
        if begun and not unpacker.eof:
            raise _damaged("it is cut")


class Zstd(Codec):
    """zstd frames with content size and checksum; a library of _zstd.py does the work."""

    name = "zstd"

    def __init__(self, level: int, library: Any):
        self.level = level
        self._library = library
        self._local = threading.local()

    def compress(self, data: Any) -> bytes:
        try:
            packer = self._local.packer
        except AttributeError:  # contexts are not for two threads at once
            packer = self._local.packer = self._library.packer(self.level)
        return packer(data)

    def decompress(self, data: Any, max_length: int) -> bytes:
        try:
            return self._library.unpack_one(data, max_length)
        except ValueError as error:
            raise _damaged(str(error)) from None

    def decompress_into(self, data: bytearray, room: memoryview) -> int:
        library = _zstd.into()
        if library is None:
            return super().decompress_into(data, room)
        try:
            return library.unpack_into(data, room)
        except ValueError as error:
            raise _damaged(str(error)) from None

    def unpack(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        try:
            yield from self._library.unpack_stream(chunks, PIECE)
        except ValueError as error:
            raise _damaged(str(error)) from None


def available() -> Dict[str, str]:
    """What this machine can do: name of the codec -> what does it, best known first."""
    found = {"zstd": _zstd.library().how} if _zstd.library() else {}
    found.update({"gzip": "zlib", "none": "nothing needed"})
    return found


def get(spec: str) -> Codec:
    """The codec of a policy's word: zstd, zstd:LEVEL, gzip, gzip:LEVEL, none. Raises RequestError for
    another word, StowageError where this machine has no zstd."""
    name, colon, word = spec.partition(":")
    if name == "none" and not colon:
        return Codec()
    try:
        level = int(word) if colon else DEFAULT_LEVEL[name]
        if level not in _LEVELS[name]:
            raise ValueError(level)
    except (KeyError, ValueError):
        raise RequestError(
            "%r is no compression" % spec, "write zstd, zstd:1 to zstd:19, gzip, gzip:1 to gzip:9 or none"
        ) from None
    if name == "gzip":
        return Gzip(level)
    library = _zstd.library()
    if library is None:
        raise StowageError("there is no zstd library on this machine", "install libzstd1 or python3-zstandard")
    return Zstd(level, library)
