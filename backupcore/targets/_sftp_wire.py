"""SFTP, version 3, as requests and answers over one channel; every answer is taken as hostile.

Here live the packets, their limits and the status codes; not connections (_sftp_connect.py), not what a
target is (sftp.py). Several requests may be under way; the answers are told apart by their numbers.
"""

from __future__ import annotations

import contextlib
import stat
import struct
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from backupcore.hookspecs import TargetError

# one request or answer of this many bytes of a file fits into one SSH packet, and servers without limits take it
CHUNK = 32_256
WINDOW = 64  # requests under way: about 2 MiB, what OpenSSH's own window is
LARGEST_PACKET = 300_000
MOST_NAMES = 250_000  # of one folder: more is a server that never ends
INIT, VERSION, OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT = 1, 2, 3, 4, 5, 6, 7, 8
OPENDIR, READDIR, REMOVE, MKDIR, RMDIR, RENAME = 11, 12, 13, 14, 15, 18
STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED, EXTENDED_REPLY = 101, 102, 103, 104, 105, 200, 201
OK, EOF, NO_SUCH_FILE, DENIED, FAILURE, UNSUPPORTED = 0, 1, 2, 3, 4, 8
FOR_READING, FOR_WRITING, MAKE, TRUNCATE = 1, 2, 8, 16
POSIX_RENAME, HARDLINK = "posix-rename@openssh.com", "hardlink@openssh.com"
FSYNC, STATVFS = "fsync@openssh.com", "statvfs@openssh.com"


class Broken(TargetError):
    """The line is gone, or what came over it makes no sense: this connection is of no use any more."""


class Refused(Exception):
    """The server's answer to one request is no."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code
        self.message = message


class Attrs(NamedTuple):
    """What a server says of a file; kind: `f`, `d` or `` for anything else."""

    kind: str
    size: int
    modified_ns: int


class Reader:
    """The fields of one answer."""

    def __init__(self, payload: bytes):
        self._payload = payload
        self._at = 0

    def number(self, form: str = ">I") -> int:
        try:
            (found,) = struct.unpack_from(form, self._payload, self._at)
        except struct.error:
            raise _nonsense("an answer that ends too early") from None
        self._at += struct.calcsize(form)
        return found

    def string(self) -> bytes:
        size = self.number()
        if size > len(self._payload) - self._at:
            raise _nonsense("an answer that ends too early")
        self._at += size
        return self._payload[self._at - size : self._at]

    def attrs(self) -> Attrs:
        flags = self.number()
        size = self.number(">Q") if flags & 1 else 0
        if flags & 2:
            self.number(">Q")
        mode = self.number() if flags & 4 else stat.S_IFREG
        modified = self.number(">Q") & 0xFFFFFFFF if flags & 8 else 0
        if flags & 0x80000000:
            for _ in range(self.number()):
                self.string(), self.string()
        kind = "d" if stat.S_ISDIR(mode) else "f" if stat.S_ISREG(mode) else ""
        return Attrs(kind, size, modified * 10**9)

    def more(self) -> bool:
        return self._at < len(self._payload)


class Session:
    """One channel. receive(n): at most n bytes, b'' at the end; send(bytes); both raise Broken."""

    def __init__(self, receive: Callable[[int], bytes], send: Callable[[bytes], None], close: Callable[[], None]):
        self._receive, self._send, self._close = receive, send, close
        self._came = bytearray()
        self._number = 0
        self.under_way: Dict[int, int] = {}  # number -> kind of request
        self.broken = False
        self.extensions: Dict[str, str] = {}
        self._out(struct.pack(">BI", INIT, 3))
        kind, reader = self._in()
        if kind != VERSION or reader.number() < 3:
            raise self._bad("no version 3 of the protocol")
        while reader.more():
            name, value = reader.string(), reader.string()
            self.extensions[name.decode("ascii", "replace")] = value.decode("ascii", "replace")

    # -- requests

    def send(self, kind: int, *fields: Any) -> int:
        """Sends a request; its number. Fields: int (32 bits), ('Q', int), bytes or str."""
        self._number = (self._number + 1) & 0xFFFFFFFF
        body = [struct.pack(">BI", kind, self._number)]
        for field in fields:
            if isinstance(field, int):
                body.append(struct.pack(">I", field))
            elif isinstance(field, tuple):
                body.append(struct.pack(">" + field[0], field[1]))
            else:
                raw = field.encode("utf-8") if isinstance(field, str) else field
                body += [struct.pack(">I", len(raw)), raw]
        self.under_way[self._number] = kind
        self._out(b"".join(body))
        return self._number

    def answer(self) -> Tuple[int, int, Reader]:
        """The next answer: number of its request, kind, content."""
        kind, reader = self._in()
        number = self._of_answer(reader)
        if self.under_way.pop(number, None) is None:
            raise self._bad("an answer that nobody asked for")
        return number, kind, reader

    def ask(self, kind: int, *fields: Any, want: int = STATUS) -> Reader:
        """One request and its answer, nothing else under way."""
        self.send(kind, *fields)
        _number, found, reader = self.answer()
        return self.wanted(found, reader, want)

    def wanted(self, found: int, reader: Reader, want: int) -> Reader:
        """The content of an answer of the kind that was wanted; Refused or Broken else."""
        with self.sense():
            if found == STATUS:
                code = reader.number()
                if code != OK or want != STATUS:
                    message = reader.string().decode("utf-8", "replace") if reader.more() else ""
                    raise Refused(code if code != OK else FAILURE, message)
        if found != want:
            raise self._bad("an answer of another kind")
        return reader

    # -- files and folders

    def open(self, path: str, flags: int) -> bytes:
        return self._handle(OPEN, path, flags, 4, 0o600)

    def close_handle(self, handle: bytes) -> None:
        self.ask(CLOSE, handle)

    def drop(self, handle: bytes) -> None:
        """Closes a file whatever came of it; not when the connection ends anyway."""
        if not self.broken and not self.under_way:
            with contextlib.suppress(Refused, Broken):
                self.close_handle(handle)

    def fstat(self, handle: bytes) -> Attrs:
        with self.sense():
            return self.ask(FSTAT, handle, want=ATTRS).attrs()

    def lstat(self, path: str) -> Optional[Attrs]:
        """What path is, links not followed; None when it is not there."""
        try:
            with self.sense():
                return self.ask(LSTAT, path, want=ATTRS).attrs()
        except Refused as error:
            if error.code != NO_SUCH_FILE:
                raise
            return None

    def names(self, path: str) -> Iterator[Tuple[bytes, Attrs]]:
        """Everything in a folder, as the server tells it; to be taken whole."""
        handle = self._handle(OPENDIR, path)
        count = 0
        try:
            while True:
                try:
                    reader = self.ask(READDIR, handle, want=NAME)
                except Refused as error:
                    if error.code == EOF:
                        return
                    raise
                with self.sense():
                    found = reader.number()
                    count += found
                    if not found or count > MOST_NAMES:
                        raise _nonsense("a listing that does not end")
                    entries: List[Tuple[bytes, Attrs]] = []
                    for _ in range(found):
                        name = reader.string()
                        reader.string()
                        entries.append((name, reader.attrs()))
                yield from entries
        finally:
            self.drop(handle)

    def mkdir(self, path: str) -> None:
        self.ask(MKDIR, path, 4, 0o700)

    def extended(self, name: str, *fields: Any) -> None:
        self.ask(EXTENDED, name, *fields)

    def space(self, path: str) -> Optional[Tuple[int, int]]:
        """(free bytes, bytes in all); None where the server does not tell."""
        if STATVFS not in self.extensions:
            return None
        try:
            with self.sense():
                reader = self.ask(EXTENDED, STATVFS, path, want=EXTENDED_REPLY)
                _block, unit, blocks, _free, free = (reader.number(">Q") for _ in range(5))
        except Refused:
            return None
        return free * unit, blocks * unit

    def close(self) -> None:
        self.broken = True
        self._close()

    # -- inside

    @contextlib.contextmanager
    def sense(self) -> Iterator[None]:
        """What makes no sense inside makes the whole connection of no use."""
        try:
            yield
        except Broken:
            self.broken = True
            raise

    def _handle(self, kind: int, *fields: Any) -> bytes:
        with self.sense():
            handle = self.ask(kind, *fields, want=HANDLE).string()
            if len(handle) > 256:
                raise _nonsense("a file handle that is too long")
        return handle

    def _of_answer(self, reader: Reader) -> int:
        with self.sense():
            return reader.number()

    def _out(self, body: bytes) -> None:
        with self.sense():
            self._send(struct.pack(">I", len(body)) + body)

    def _in(self) -> Tuple[int, Reader]:
        with self.sense():
            (size,) = struct.unpack(">I", self._exactly(4))
            if not 1 <= size <= LARGEST_PACKET:
                raise _nonsense(f"an answer of {size} bytes")
            payload = self._exactly(size)
        return payload[0], Reader(payload[1:])

    def _exactly(self, count: int) -> bytes:
        while len(self._came) < count:
            data = self._receive(1 << 16)
            if not data:
                raise Broken("the server ended the connection", "the next run goes on where this one stopped", True)
            self._came += data
        found = bytes(self._came[:count])
        del self._came[:count]
        return found

    def _bad(self, what: str) -> Broken:
        self.broken = True
        return _nonsense(what)


def _nonsense(what: str) -> Broken:
    return Broken(f"the server does not speak SFTP as it should: {what}", "look at the server's version and log")
