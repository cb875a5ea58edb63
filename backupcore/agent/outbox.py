"""The outbox: frames, index lines and state are compressed by threads and sent in the order they came.

Here live the pool of frame buffers, the threads and the choice of the part; what is in a frame lives in archive,
the keys of sealed parts in sealing.
Memory is bounded: a slow line stops the walk. There are no threads before there is work for them: what is small is
compressed and sent by whoever brings it.
"""

from __future__ import annotations

import mmap
import threading
from queue import SimpleQueue
from typing import Any, List, Optional

from ..errors import SourceFailed
from ..image.codec import Codec
from ..image.layout import MAX_PARTS
from ..wire import FRAME, INDEX, KEY, LAST, LINKS, STATE, FrameHead, pack_frame_head

FRAME_SIZE = 4 << 20  # bytes of archive in a frame, at most
FEW = 1 << 20  # bytes that are compressed and sent without threads


def _buffer() -> mmap.mmap:
    """Room for a frame. A bytearray would be written full of zeros: most dumps are small, and use little of it."""
    return mmap.mmap(-1, FRAME_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class Numbering:
    """Gives frames their part, number and place, in the order they are sent; seals them when that was asked for."""

    def __init__(self, part_size: int, sealing: Any = None):
        self._part_size = part_size
        self._sealing = sealing
        self._part = self._used = self._number = 0
        self._keyed = -1  # the part whose key was sent
        self.archive_size = 0
        self.resumed = False

    def go_on(self, frame: int, part: int, offset: int) -> None:
        """The next frame has this number, is at this place of the archive, and the first of this part."""
        self._number, self._part, self.archive_size = frame, part, offset
        self.resumed = True

    def send(self, channel: Any, length: int, stored: Any, flags: int) -> None:
        """Sends the next frame. Sealed here, behind the threads: a part's bytes are sealed in their order."""
        number = self._number
        head = self.head(length, len(stored), flags)
        if self._sealing is None:
            channel.send(FRAME, head, stored)
            return
        if self._part != self._keyed:
            self._keyed = self._part
            channel.send_json(KEY, self._sealing.begin(self._part))
        mac, sealed = self._sealing.frame(number, stored, bool(flags & LAST))
        channel.send(FRAME, head, mac, sealed)

    def head(self, length: int, stored: int, flags: int) -> bytes:
        """The head of the next frame, of length bytes of archive, stored bytes when compressed."""
        if self._used and self._used + stored > self._part_size:
            self._part, self._used = self._part + 1, 0
            if self._part >= MAX_PARTS:
                raise SourceFailed("the dump has more than %d parts" % MAX_PARTS, "raise part_size")
        head = pack_frame_head(FrameHead(self._part, self._number, self.archive_size, length, flags))
        self._used += stored
        self._number += 1
        self.archive_size += length
        return head


class _Job:
    __slots__ = ("kind", "data", "length", "flags", "stored", "error", "ready")

    def __init__(self, kind: bytes, data: Any, length: int, flags: int, packed: bool = True):
        self.kind, self.data, self.length, self.flags = kind, data, length, flags
        self.stored: Any = None if packed else data
        self.error: Optional[BaseException] = None
        self.ready = threading.Lock()
        if packed:
            self.ready.acquire()


class Outbox:
    """Takes pieces of a dump from one thread. numbering: None when another process numbers the frames."""

    def __init__(self, channel: Any, codec: Codec, numbering: Optional[Numbering], threads: int, spare: int = 2):
        self._channel, self._codec, self._numbering = channel, codec, numbering
        self._error: Optional[BaseException] = None
        self._work: "SimpleQueue[Optional[_Job]]" = SimpleQueue()
        self._order: "SimpleQueue[Optional[_Job]]" = SimpleQueue()
        self._buffers: "SimpleQueue[mmap.mmap]" = SimpleQueue()
        for _ in range(threads + spare):  # those that wait and are filled: without them the threads wait
            self._buffers.put(_buffer())
        self._room = threading.Semaphore(2 * threads + 4)
        self._threads, self._few = threads, FEW
        self._running: List[threading.Thread] = []  # those that compress, and last the one that sends

    def _start(self) -> None:
        self._running = [threading.Thread(target=self._compress, daemon=True) for _ in range(self._threads)]
        self._running.append(threading.Thread(target=self._send, daemon=True))
        for thread in self._running:
            thread.start()

    def buffer(self) -> mmap.mmap:
        """An empty frame of FRAME_SIZE; waits for one."""
        return self._buffers.get()

    def frame(self, buffer: mmap.mmap, length: int, flags: int) -> None:
        """Sends the first length bytes of a buffer of this outbox as the next frame, and takes it back."""
        self._put(_Job(FRAME, buffer, length, flags))

    def index(self, lines: bytes, offsets: List[int]) -> None:
        """Sends whole index lines; `%d` in lines stands for each of the offsets."""
        text = lines % tuple(offsets)
        self._put(_Job(INDEX, text, len(text), 0))

    def state(self, blocks: bytes) -> None:
        """Sends whole blocks of state."""
        self._put(_Job(STATE, blocks, len(blocks), 0))

    def links(self, lines: bytes) -> None:
        """Sends first names of files with several."""
        self._put(_Job(LINKS, lines, len(lines), 0))

    def plain(self, kind: bytes, data: bytes) -> None:
        """Sends data as it is, in its turn."""
        self._put(_Job(kind, data, len(data), 0, False))

    def close(self) -> None:
        """Waits until all is sent and no thread is left. Raises what went wrong on the way."""
        for _ in self._running[1:]:
            self._work.put(None)
        self._order.put(None)
        for thread in reversed(self._running):
            thread.join()
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _put(self, job: _Job) -> None:
        if not self._running:
            self._few -= job.length
            if self._few >= 0:
                if job.stored is None:
                    self._pack(job)
                self._hand_on(job)
                return
            self._start()
        self._room.acquire()
        self._check()
        self._order.put(job)
        if job.stored is None:
            self._work.put(job)

    def _compress(self) -> None:
        for job in iter(self._work.get, None):
            self._pack(job)
            job.ready.release()

    def _pack(self, job: _Job) -> None:
        try:
            view = memoryview(job.data)[: job.length]
            job.stored = self._codec.compress(view)
            view.release()
        except BaseException as error:
            job.error = error
        if job.kind == FRAME:
            self._buffers.put(job.data)
        job.data = None

    def _send(self) -> None:
        try:
            for job in iter(self._order.get, None):
                job.ready.acquire()
                self._hand_on(job)
                self._room.release()
        except BaseException as error:
            self._error = error
            for _ in range(1 << 10):  # whoever waits goes on and finds the error
                self._room.release()
            for _ in range(8):
                self._buffers.put(_buffer())

    def _hand_on(self, job: _Job) -> None:
        if job.error is not None:
            raise job.error
        stored, numbering = job.stored, self._numbering
        if job.kind != FRAME:
            self._channel.send(job.kind, stored)
        elif numbering is None:
            self._channel.send_frame(job.length, job.flags, stored)
        else:
            numbering.send(self._channel, job.length, stored, job.flags)
        job.stored = None
