"""What the server sends for a restore, turned into pieces of archive by a thread of its own.

Here live reading the wire and unpacking frames ahead of the extractor; what the archive holds is read by
image.unpax. Compressed bytes never grow beyond what their frame's head says, and that is bounded.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from typing import Any, Deque, List, Optional, Union

from .. import wire
from ..errors import ImageDamaged, StowageError, WireError

FRAME_LIMIT = 64 << 20  # archive bytes of one frame; the agent makes them about 4 MiB
_JOINED = 1 << 20  # plain pieces are joined up to this size
_DIGEST = 32
_UNKNOWN = bytes(_DIGEST)


class Inflow(threading.Thread):
    """Reads until END. read() gives the pieces; slots, when given, lends shared memory to copy them to.

    slots: has take(length, stopping) -> number or -1, put(number, data) and piece(number, start, length); the slot
    of the piece that read() gave last is in `slot` (-1: none), and the piece is there until that slot is released;
    its place in the archive is in `base`.
    """

    def __init__(self, channel: wire.Channel, codec: Any, slots: Any = None):
        super().__init__(name="inflow", daemon=True)
        self._channel = channel
        self._codec = codec
        self._slots = slots
        self._ready: "queue.Queue[Any]" = queue.Queue(maxsize=2)
        self._digests: Deque[bytes] = deque()
        self._stopping = threading.Event()
        self._ended = False
        self.slot = -1
        self.base = 0
        self._length = 0
        self._room = bytearray()

    # ---- for the extractor

    def read(self, _count: int) -> Union[bytes, memoryview]:
        """The next piece, b"" after the last. Raises what went wrong while reading."""
        if self._ended:
            return b""
        found = self._ready.get()
        if isinstance(found, BaseException):
            self._ended = True
            raise found
        data, self.slot = found
        self.base += self._length
        self._length = len(data)
        self._ended = not data
        return data

    def digest(self) -> Optional[bytes]:
        """The SHA-256 that the next file with content must have; None when the server does not know it."""
        try:
            found = self._digests.popleft()
        except IndexError:
            raise WireError("%s sent a file without its digest" % self._channel.peer) from None
        return None if found == _UNKNOWN else found

    def unused_digests(self) -> int:
        """How many digests no file has asked for."""
        return len(self._digests)

    def stop(self) -> None:
        """Lets the thread end at its next step; what it waits for on the wire it may wait for as a daemon."""
        self._stopping.set()

    # ---- the thread

    def run(self) -> None:
        try:
            self._receive()
            self._give((b"", -1))
        except StowageError as error:
            self._give(error)
        except (OSError, ValueError) as error:  # ValueError: the stream was closed
            self._give(WireError("the line to %s was cut: %s" % (self._channel.peer, error)))
        except BaseException as error:
            self._give(error)

    def _receive(self) -> None:
        waiting: List[bytes] = []
        length = 0
        while True:
            kind, size = self._channel.receive_head()
            payload = self._stored(size) if kind == wire.FRAME else self._channel.read(size)
            if kind == wire.ARCHIVE:
                waiting.append(payload)
                length += len(payload)
                if length < _JOINED:
                    continue
            elif kind == wire.EXPECT:
                if len(payload) % _DIGEST:
                    raise WireError("%s sent a digest that is cut" % self._channel.peer)
                self._digests.extend(payload[at : at + _DIGEST] for at in range(0, len(payload), _DIGEST))
                continue
            if waiting:
                self._piece(b"".join(waiting) if len(waiting) > 1 else waiting[0])
                waiting, length = [], 0
            if kind == wire.FRAME:
                self._frame(payload)
            elif kind == wire.END:
                return
            elif kind != wire.ARCHIVE:
                raise WireError("%s sent %r out of turn" % (self._channel.peer, kind))

    def _stored(self, size: int) -> memoryview:
        """The payload of a FRAME, in memory that the next one takes again."""
        if len(self._room) < size:
            self._room = bytearray(size)
        view = memoryview(self._room)[:size]
        place = 0
        while place < size:
            got = self._channel.reader.readinto(view[place:])
            if not got:
                raise WireError("the line to %s was cut" % self._channel.peer)
            place += got
        return view

    def _frame(self, payload: memoryview) -> None:
        """Unpacks a frame, straight to where the processes beside can read it when there is room."""
        head = wire.unpack_frame_head(payload)
        stored = payload[wire.FRAME_HEAD :]
        if head.length > FRAME_LIMIT:
            raise ImageDamaged("a frame of %d bytes is too long" % head.length)
        slot = self._slots.take(head.length, self._stopping) if self._slots is not None and head.length else -1
        if slot < 0:
            data: Any = self._codec.decompress(stored, head.length)
            made = len(data)
        else:
            data = self._slots.piece(slot, 0, head.length)
            made = self._codec.decompress_into(stored, data)
        if made != head.length:
            raise ImageDamaged("frame %d has %d bytes, not %d" % (head.number, made, head.length))
        if made:
            self._give((data, slot))

    def _piece(self, data: bytes) -> None:
        slot = self._slots.take(len(data), self._stopping) if self._slots is not None else -1
        if slot >= 0:
            self._slots.put(slot, data)
        self._give((data, slot))

    def _give(self, found: Any) -> None:
        while not self._stopping.is_set():
            try:
                self._ready.put(found, timeout=0.5)
                return
            except queue.Full:
                continue
