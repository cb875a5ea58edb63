"""zstd from whatever this machine has: compression.zstd, the zstandard package, or libzstd.so.1 by ctypes.

Here live the three ways behind one face, for codec.py alone. A library has `how` (its name for people),
packer(level) -> a function from a buffer to one frame, for one thread; unpack_one(data, limit) -> the content
of exactly one frame, at most limit bytes; unpack_stream(chunks, piece) -> the content of any number of
frames in pieces of at most `piece` bytes. Frames carry content size and checksum. Raises ValueError for
bytes that are damaged, cut, too long or followed by something.
"""

from __future__ import annotations

import importlib
from typing import Any, Callable, Iterable, Iterator, List, Optional

_MAGIC = b"\x28\xb5\x2f\xfd"
_UNKNOWN = (1 << 64) - 1
_ERROR = (1 << 64) - 2
_STEP = 1024


def _check_magic(data: Any) -> None:
    if bytes(data[:4]) != _MAGIC:
        raise ValueError("it is no zstd frame")


class Standard:
    """compression.zstd of Python 3.14 and newer."""

    def __init__(self) -> None:
        self._zstd = importlib.import_module("compression.zstd")
        self.how = "compression.zstd"

    def packer(self, level: int) -> Callable[[Any], bytes]:
        parameter = self._zstd.CompressionParameter
        options = {parameter.compression_level: level, parameter.checksum_flag: 1, parameter.content_size_flag: 1}

        def pack(data: Any) -> bytes:
            maker = self._zstd.ZstdCompressor(options=options)
            maker.set_pledged_input_size(len(data))
            return maker.compress(data, maker.FLUSH_FRAME)

        return pack

    def unpack_one(self, data: Any, limit: int) -> bytes:
        _check_magic(data)
        unpacker = self._zstd.ZstdDecompressor()
        try:
            found = unpacker.decompress(data, limit + 1)
        except self._zstd.ZstdError as error:
            raise ValueError(str(error)) from None
        if len(found) > limit:
            raise ValueError("it is longer than %d bytes" % limit)
        if not unpacker.eof or unpacker.unused_data:
            raise ValueError("it is cut, or something follows")
        return found

    def unpack_stream(self, chunks: Iterable[bytes], piece: int) -> Iterator[bytes]:
        unpacker = None
        try:
            for chunk in chunks:
                while chunk or (unpacker is not None and not unpacker.needs_input):
                    if unpacker is None:
                        unpacker = self._zstd.ZstdDecompressor()
                    found = unpacker.decompress(chunk, piece)
                    chunk = b""
                    if unpacker.eof:
                        chunk, unpacker = unpacker.unused_data, None
                    if found:
                        yield found
        except self._zstd.ZstdError as error:
            raise ValueError(str(error)) from None
        if unpacker is not None:
            raise ValueError("it is cut")


class Package:
    """The zstandard package (python3-zstandard)."""

    def __init__(self) -> None:
        self._zstd = importlib.import_module("zstandard")
        self.how = "zstandard"
        self._zstd.ZstdDecompressor().decompressobj().eof  # noqa: B018  (0.19 or newer, else AttributeError)
        self._strict = {"allow_extra_data": False}
        try:
            self._zstd.ZstdDecompressor().decompress(self._zstd.ZstdCompressor().compress(b"x"), **self._strict)
        except TypeError:  # before 0.22 what follows a frame is silently left
            self._strict = {}

    def packer(self, level: int) -> Callable[[Any], bytes]:
        return self._zstd.ZstdCompressor(level=level, write_checksum=True, write_content_size=True).compress

    def unpack_one(self, data: Any, limit: int) -> bytes:
        _check_magic(data)
        try:
            size = self._zstd.frame_content_size(data)
            if size > limit:
                raise ValueError("it is longer than %d bytes" % limit)
            unpacker = self._zstd.ZstdDecompressor()
            if size < 0:
                return unpacker.decompress(data, max_output_size=max(limit, 1), **self._strict)
            return unpacker.decompress(data, **self._strict)
        except self._zstd.ZstdError as error:
            raise ValueError(str(error)) from None

    def unpack_stream(self, chunks: Iterable[bytes], piece: int) -> Iterator[bytes]:
        # decompressobj takes no bound: a step of 1 KiB holds at most 32 MiB, and knows where a frame ends
        unpacker = None
        try:
            for chunk in chunks:
                for start in range(0, len(chunk), _STEP):
                    data = bytes(chunk[start : start + _STEP])
                    while data:
                        unpacker = unpacker or self._zstd.ZstdDecompressor().decompressobj()
                        found = unpacker.decompress(data)
                        data = b""
                        if unpacker.eof:
                            data, unpacker = unpacker.unused_data, None
                        for place in range(0, len(found), piece):
                            yield found[place : place + piece]
        except self._zstd.ZstdError as error:
            raise ValueError(str(error)) from None
        if unpacker is not None:
            raise ValueError("it is cut")


class System:
    """libzstd.so.1 (1.4 or newer) by ctypes."""

    def __init__(self) -> None:
        import ctypes

        self._c = ctypes
        self._lib = lib = ctypes.CDLL("libzstd.so.1")
        number = lib.ZSTD_versionNumber()
        if number < 10400:
            raise OSError("libzstd is too old")
        self.how = "libzstd.so.1 %d.%d.%d" % (number // 10000, number // 100 % 100, number % 100)
        void, size = ctypes.c_void_p, ctypes.c_size_t

        class Buffer(ctypes.Structure):
            _fields_ = [("data", void), ("size", size), ("place", size)]

        self._buffer = Buffer
        for name, result, arguments in (
            ("ZSTD_createCCtx", void, []),
            ("ZSTD_freeCCtx", size, [void]),
            ("ZSTD_CCtx_setParameter", size, [void, ctypes.c_int, ctypes.c_int]),
            ("ZSTD_compress2", size, [void, void, size, void, size]),
            ("ZSTD_compressBound", size, [size]),
            ("ZSTD_createDCtx", void, []),
            ("ZSTD_freeDCtx", size, [void]),
            ("ZSTD_decompressDCtx", size, [void, void, size, void, size]),
            ("ZSTD_findFrameCompressedSize", size, [void, size]),
            ("ZSTD_decompressStream", size, [void, ctypes.POINTER(Buffer), ctypes.POINTER(Buffer)]),
            ("ZSTD_getFrameContentSize", ctypes.c_ulonglong, [void, size]),
            ("ZSTD_isError", ctypes.c_uint, [size]),
            ("ZSTD_getErrorName", ctypes.c_char_p, [size]),
        ):
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments

    def _check(self, code: int) -> int:
        if self._lib.ZSTD_isError(code):
            raise ValueError(self._lib.ZSTD_getErrorName(code).decode("ascii", "replace"))
        return code

    def _address(self, data: Any) -> Any:
        """(what keeps it alive, address) of a buffer; what cannot be written to is copied once."""
        if isinstance(data, memoryview) and data.readonly:
            data = bytes(data)
        if isinstance(data, bytes):
            return data, self._c.cast(self._c.c_char_p(data), self._c.c_void_p).value
        keep = self._c.c_char.from_buffer(data) if len(data) else b""
        return keep, self._c.addressof(keep) if len(data) else None

    def packer(self, level: int) -> Callable[[Any], bytes]:
        return _SystemPacker(self, level).pack

    def unpack_one(self, data: Any, limit: int) -> bytes:
        _check_magic(data)
        keep, address = self._address(data)
        size = self._lib.ZSTD_getFrameContentSize(address, len(data))
        if size == _ERROR:
            raise ValueError("its header is damaged")
        if size != _UNKNOWN and size > limit:
            raise ValueError("it is longer than %d bytes" % limit)
        room = bytearray((limit if size == _UNKNOWN else size) + 1)
        stream = _SystemStream(self)
        taken, made = stream.step(address, len(data), room)
        del keep
        if not stream.ended:
            raise ValueError("it is cut" if made < len(room) else "it is longer than %d bytes" % limit)
        if taken < len(data):
            raise ValueError("something follows its frame")
        if made > limit:
            raise ValueError("it is longer than %d bytes" % limit)
        return bytes(memoryview(room)[:made])

    def unpack_into(self, data: bytearray, room: memoryview) -> int:
        """Unpacks exactly one frame straight into room, which is never overrun; how many bytes it has."""
        _check_magic(data)
        keep, address = self._address(data)
        place_keep, place = self._address(room)
        if self._check(self._lib.ZSTD_findFrameCompressedSize(address, len(data))) != len(data):
            raise ValueError("something follows its frame")
        stream = _SystemStream(self)  # one of its own: threads may unpack beside each other
        made = self._check(self._lib.ZSTD_decompressDCtx(stream._context, place, len(room), address, len(data)))
        del keep, place_keep
        return made

    def unpack_stream(self, chunks: Iterable[bytes], piece: int) -> Iterator[bytes]:
        stream = _SystemStream(self)
        room = bytearray(piece)
        for chunk in chunks:
            keep, address = self._address(bytes(chunk))
            place = 0
            while True:
                taken, made = stream.step((address or 0) + place, len(keep) - place, room)
                place += taken
                if made:
                    yield bytes(memoryview(room)[:made])
                elif place == len(keep):
                    break
        if not stream.ended:
            raise ValueError("it is cut")


class _SystemPacker:
    """A compression context of the system's library, freed with its thread."""

    def __init__(self, system: System, level: int):
        self._lib, self._system = system._lib, system
        self._context = self._lib.ZSTD_createCCtx()
        if not self._context:
            raise MemoryError("zstd has no memory")
        for parameter, value in ((100, level), (200, 1), (201, 1)):  # level, content size, checksum
            system._check(self._lib.ZSTD_CCtx_setParameter(self._context, parameter, value))
        self._room = bytearray()

    def __del__(self) -> None:
        if getattr(self, "_context", None):
            self._lib.ZSTD_freeCCtx(self._context)

    def pack(self, data: Any) -> bytes:
        keep, address = self._system._address(data)
        bound = self._lib.ZSTD_compressBound(len(data))
        if len(self._room) < bound:
            self._room = bytearray(bound)
        _room, place = self._system._address(self._room)
        made = self._system._check(self._lib.ZSTD_compress2(self._context, place, bound, address, len(data)))
        del keep, _room
        return bytes(memoryview(self._room)[:made])


class _SystemStream:
    """A decompression context of the system's library. ended: no frame is open."""

    def __init__(self, system: System):
        self._lib, self._system = system._lib, system
        self._context = self._lib.ZSTD_createDCtx()
        if not self._context:
            raise MemoryError("zstd has no memory")
        self.ended = True

    def __del__(self) -> None:
        if getattr(self, "_context", None):
            self._lib.ZSTD_freeDCtx(self._context)

    def step(self, address: int, length: int, room: bytearray) -> Any:
        """(bytes taken, bytes made): until the frame ends, the input is used up or room is full."""
        c = self._system._c
        keep, place = self._system._address(room)
        source = self._system._buffer(address, length, 0)
        result = self._system._buffer(place, len(room), 0)
        while True:
            before = source.place, result.place
            if self.ended and source.place == length:
                break
            left = self._lib.ZSTD_decompressStream(self._context, c.byref(result), c.byref(source))
            self.ended = self._system._check(left) == 0
            if self.ended or result.place == len(room) or before == (source.place, result.place):
                break
        del keep
        return source.place, result.place


_FOUND: List[Any] = []
_INTO: List[Optional[System]] = []


def library() -> Optional[Any]:
    """The best zstd library of this machine, None when there is none. Looked for once."""
    if not _FOUND:
        _FOUND.append(next(found(), None))
    return _FOUND[0]


def into() -> Optional[System]:
    """The library that unpacks straight into memory that is there, None when there is none. Looked for once."""
    if not _INTO:
        usual = library()
        try:
            _INTO.append(usual if isinstance(usual, System) else System())
        except (OSError, AttributeError):
            _INTO.append(None)
    return _INTO[0]


def found() -> Iterator[Any]:
    """All zstd libraries that work here, best first."""
    for kind in (Standard, Package, System):
        try:
            candidate = kind()
            if candidate.unpack_one(candidate.packer(1)(b"works"), 5) == b"works":
                yield candidate
        except (ImportError, OSError, AttributeError, ValueError, MemoryError):
            continue
