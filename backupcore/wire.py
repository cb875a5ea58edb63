"""The agent's protocol: messages over a byte stream, and what may stand in them.

Here live framing, limits and the packing of the few binary messages, for both sides; what a side does
with a message lives in agent/, dump/ and restore/. The other side is hostile until checked: every
length is checked before a byte of it is read. The conversation is written down in docs/format.md.

A message is one byte of kind, four bytes of length (big endian), the payload. The server speaks first,
HELLO then REQUEST at once, so that a dump costs one round trip.

    dump      S: HELLO REQUEST [STATE… END]     A: HELLO START (INDEX|LINKS|MARK|[KEY] FRAME|STATE|NOTE|PROGRESS)… DONE
    go on     S: HELLO REQUEST LINKS… END [STATE… END]          A: HELLO START AGAIN (as above)… DONE
    restore   S: HELLO REQUEST                  A: HELLO START
              S: (EXPECT|FRAME|ARCHIVE)… END    A: (NOTE|PROGRESS)… DONE
    survey    S: HELLO REQUEST                  A: HELLO DONE
    estimate  S: HELLO REQUEST                  A: HELLO PROGRESS… DONE, and the next REQUEST may come
    any time the agent may end with ERROR instead
"""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO, Dict, Iterator, NamedTuple, Optional, Tuple

from .errors import LineLost, SourceBusy, StowageError, WireError, by_code

PROTOCOL = 1

HELLO = b"H"  # JSON {"protocol": 1, "version": "0.1.0"}; the agent's: also python, zstd, root, client, sources
REQUEST = b"Q"  # JSON {"request": "dump"|"restore"|"survey"|"estimate", …}
START = b"S"  # JSON, the agent accepts; for a dump: {"codec", "begun_ns", "source"}
STATE = b"s"  # one or more whole state blocks, compressed; opaque to the server
INDEX = b"i"  # one compressed frame of whole index lines
FRAME = b"f"  # FrameHead, of a dump that the agent seals 32 bytes of MAC, then the stored bytes of the frame
KEY = b"k"  # JSON {"part", "commitment": hex, "wrapped": {fingerprint: base64}}; before a sealed part's first frame
LINKS = b"l"  # a compressed frame of lines: first names of files with several, as the agent wants them back
MARK = b"m"  # JSON {"file": {…}}: what is half in the archive behind the next frame, null: nothing can go on there
AGAIN = b"r"  # JSON {"frame"}: the dump that was cut goes on behind so many frames, as if nothing had come after them
ARCHIVE = b"a"  # plain bytes of an archive
EXPECT = b"x"  # SHA-256 digests, 32 bytes each, of the next regular files with content in the archive
NOTE = b"n"  # JSON {"level": "warning"|"info", "path": escaped, "message": …}
PROGRESS = b"p"  # JSON {"entries", "bytes"}; at least every 10 s, also while nothing else moves
END = b"."  # empty: no more STATE, or no more archive
DONE = b"d"  # JSON, the totals
ERROR = b"e"  # JSON {"code", "message", "hint"}

JSON_LIMIT = 4 << 20
JSON_PARTS = 100_000  # what a message may be made of: empty lists take twenty times their bytes
DATA_LIMIT = 16 << 20
_JSON = frozenset((HELLO, REQUEST, START, KEY, MARK, AGAIN, NOTE, PROGRESS, DONE, ERROR))
_DATA = frozenset((STATE, INDEX, LINKS, FRAME, ARCHIVE, EXPECT))
_HEAD = struct.Struct(">cI")
_FRAME = struct.Struct(">HIQIB")
FRAME_HEAD = _FRAME.size

CONTINUES = 1  # FrameHead.flags: the frame begins inside a member
LAST = 2  # FrameHead.flags: the last frame of the archive


class FrameHead(NamedTuple):
    """What stands before a frame's stored bytes: part 0…, frame number in the dump 0…, its place in the archive."""

    part: int
    number: int
    offset: int
    length: int
    flags: int


def pack_frame_head(head: FrameHead) -> bytes:
    """The bytes before a frame's stored bytes in a FRAME message."""
    return _FRAME.pack(*head)


def unpack_frame_head(data: bytes) -> FrameHead:
    """The head from the first FRAME_HEAD bytes of a FRAME message. Raises WireError."""
    if len(data) < _FRAME.size:
        raise WireError("a frame without its head came over the wire")
    return FrameHead(*_FRAME.unpack_from(data))


def unpack_frame(payload: bytes) -> Tuple[FrameHead, memoryview]:
    """Head and stored bytes of a FRAME message. Raises WireError."""
    return unpack_frame_head(payload), memoryview(payload)[_FRAME.size :]


class Channel:
    """Messages over two byte streams (`reader.read(n)`, `writer.write`, `writer.flush`).

    peer names the other side in errors. Not thread-safe for two senders or two receivers; one thread may
    send while another receives.
    """

    def __init__(self, reader: BinaryIO, writer: BinaryIO, peer: str = "the other side"):
        self.reader = reader
        self.writer = writer
        self.peer = peer

    def send(self, kind: bytes, *payloads: bytes) -> None:
        """Sends one message whose payload is all payloads joined. Raises OSError when the line is cut."""
        self.writer.write(_HEAD.pack(kind, sum(map(len, payloads))))
        for payload in payloads:
            self.writer.write(payload)

    def send_json(self, kind: bytes, value: Dict[str, Any]) -> None:
        """Sends one JSON message and flushes."""
        self.send(kind, json.dumps(value, separators=(",", ":")).encode("ascii"))
        self.writer.flush()

    def flush(self) -> None:
        """Flushes the stream."""
        self.writer.flush()

    def receive(self) -> Tuple[bytes, bytes]:
        """The next message (kind, payload). Raises WireError for garbage, a wrong length or an early end."""
        kind, length = self.receive_head()
        return kind, self.read(length)

    def receive_head(self) -> Tuple[bytes, int]:
        """Kind and length of the next message, whose payload the caller takes by read() and pieces()."""
        head = self.read(_HEAD.size)
        kind, length = _HEAD.unpack(head)
        limit = JSON_LIMIT if kind in _JSON else DATA_LIMIT if kind in _DATA else 0 if kind == END else -1
        if limit < 0:
            raise WireError("%s sent something that is not Stowage's protocol" % self.peer)
        if length > limit:
            raise WireError("%s sent a message of %d bytes, the limit is %d" % (self.peer, length, limit))
        return kind, length

    def pieces(self, count: int, room: memoryview) -> Iterator[memoryview]:
        """count bytes of a payload, through room: a piece is gone when the next is asked for."""
        while count:
            with room[:count] as wanted:
                got = self.reader.readinto(wanted)  # type: ignore[attr-defined]
            if not got:
                raise LineLost("the line to %s was cut" % self.peer)
            count -= got
            with room[:got] as piece:
                yield piece

    def read(self, count: int) -> bytes:
        """count bytes of a payload."""
        data = self.reader.read(count) if count else b""
        while data is not None and 0 < len(data) < count:  # unbuffered streams read less
            more = self.reader.read(count - len(data))
            if not more:
                break
            data += more
        if data is None or len(data) < count:
            raise LineLost("the line to %s was cut" % self.peer)
        return data

    def expect(self, *kinds: bytes) -> Tuple[bytes, Any]:
        """The next message, which must be of one of kinds; JSON comes decoded.

        Raises WireError, or the agent's own error when it sent one.
        """
        kind, payload = self.receive()
        if kind == ERROR:
            raise received_error(self.json(payload))
        if kind not in kinds:
            raise WireError("%s sent %r out of turn" % (self.peer, kind))
        if kind == REQUEST:  # the server's own, of as many folders as there are
            return kind, self.json(payload, JSON_LIMIT)
        return kind, self.json(payload) if kind in _JSON else payload

    def json(self, payload: bytes, parts: int = JSON_PARTS) -> Dict[str, Any]:
        """The object in a JSON payload, of at most so many parts. Raises WireError."""
        if len(payload) > parts and sum(map(payload.count, (b",", b"[", b"{"))) > parts:
            raise WireError("%s sent JSON of more than %d parts" % (self.peer, parts))
        try:
            value = json.loads(payload.decode("utf-8"))
        except (ValueError, RecursionError):
            raise WireError("%s sent JSON that cannot be read" % self.peer) from None
        if not isinstance(value, dict):
            raise WireError("%s sent JSON that is no object" % self.peer)
        return value


def received_error(value: Dict[str, Any], client: str = "", source: Optional[str] = "") -> StowageError:
    """The error an ERROR message tells of, as one to raise here; texts are as hostile as the sender."""
    cls = by_code(str(value.get("code", "")))
    message, hint = (str(value.get(name, ""))[:2000] for name in ("message", "hint"))
    error = cls(message or "failed", hint, client=client, source=source or "")
    error.again = cls is SourceBusy  # whatever else an agent can say, it has a line
    return error
