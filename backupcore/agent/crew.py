"""A crew: processes beside the agent that read, hash and compress a full dump, a batch of folders each.

One Python process reads some 100,000 small files a second, whatever the machine; this is why they exist. The agent
walks and hands out batches (names and open folders, over a socket); a process makes of each what the agent itself
would (full, archive, outbox), as if the archive began with it; the agent puts the batches one behind the other and
gives frames and index lines their places. Frames come back through memory that both share.

Here live the processes, what passes between them, and the order. A process only ever reads the tree; all end when
the agent does, and the agent fails when one of them does.
"""

from __future__ import annotations

import gc
import hashlib  # noqa: F401 - before the processes are made: each of them would load it
import json
import marshal
import mmap
import os
import signal
import socket
import struct
import sys
import threading
from array import array
from queue import SimpleQueue
from typing import Any, BinaryIO, Dict, List, Optional, Tuple

from ..errors import SourceFailed, StowageError
from ..image import pax, state
from ..image.codec import Codec
from ..wire import FRAME, INDEX, LAST, LINKS, MARK, NOTE, STATE
from .archive import Archive, note_bytes
from .full import Full, Status, Task, Totals
from .links import Key, Link, Links
from .outbox import FRAME_SIZE, Numbering, Outbox

NAMES = 2048  # a batch is closed at so many names, or at so many as make up BATCH by the sizes so far
BATCH = 12 << 20
FOLDERS = 200  # or folders: a message carries at most 253 descriptors
WAITING = 2  # batches a process may have at once
SLOTS = 4  # compressed frames a process may have waiting: a whole batch, so that it need not wait for its turn
SLOT = FRAME_SIZE + (64 << 10)  # what zlib or zstd make of 4 MiB that cannot be compressed
_ASK, _PUT, _END, _FAIL = b"L", b"P", b"E", b"X"
_HEAD = struct.Struct("<cI")
_SHIPPED = struct.Struct("<BIIB")
_FOLDER, _ABSENT, _MOUNT = 0, 1, 2


class _Worker:
    """A process, seen from the agent."""

    def __init__(self) -> None:
        self.batches, theirs = socket.socketpair()
        said, say = os.pipe()
        slot, self.free_slot = os.pipe()
        answers, self.answer = os.pipe()
        self.memory = mmap.mmap(-1, SLOTS * SLOT)
        self.inner = (theirs, say, slot, answers)
        self.said: BinaryIO = os.fdopen(said, "rb", 1 << 16)
        os.write(self.free_slot, bytes(range(SLOTS)))
        self.pid = 0

    def close_inner(self) -> None:
        """The agent's copies of what the process uses."""
        self.inner[0].close()
        for fd in self.inner[1:]:
            os.close(fd)

    def close(self) -> None:
        """All that is the agent's."""
        self.batches.close()
        self.said.close()
        os.close(self.free_slot)
        os.close(self.answer)


class Crew:
    """The processes and the order of their work. Made while there are no other threads.

    dump(task, fd), absent_folder() and mount() are called in walk order, then close(); end() always. fds: not to be
    open in the processes. cut, marks, small: as for an Archive.
    """

    def __init__(self, count: int, codec: Codec, links: Links, fds: List[int], cut: bool = False, marks: bool = False,
                 small: bool = False):  # fmt: skip
        self._codec = codec
        self._workers: List[_Worker] = []
        self.links = links
        self._items: List[Any] = []
        self._fds: List[int] = []
        self._names = 0
        self._limit = NAMES // 4
        self._order: "SimpleQueue[Optional[_Worker]]" = SimpleQueue()
        self._idle: "SimpleQueue[Optional[_Worker]]" = SimpleQueue()
        self._error: Optional[BaseException] = None
        self._forwarder: Optional[threading.Thread] = None
        self._sums: Dict[str, int] = {}
        threads = max(1, (os.cpu_count() or 1) // count)
        for _ in range(count):
            worker = _Worker()
            try:
                worker.pid = os.fork()
            except OSError:
                worker.close_inner()
                worker.close()
                self.end()
                raise
            if not worker.pid:
                _be_worker(worker, self._workers, fds, codec, threads, (cut, marks, small))
            worker.close_inner()
            self._workers.append(worker)
        for _ in range(WAITING):
            for worker in self._workers:
                self._idle.put(worker)

    def start(self, channel: Any, numbering: Numbering, progress: Dict[str, int]) -> None:
        """From here on what the processes make goes over the channel."""
        self._channel, self._numbering, self._progress = channel, numbering, progress
        self._forwarder = threading.Thread(target=self._forward, daemon=True)
        self._forwarder.start()

    # the walk's side

    def dump(self, task: Task, fd: int) -> None:
        """A folder, or some of a large one; fd is the caller's to close."""
        self._items.append((_FOLDER, task.path, tuple(task.status), task.first, task.entries, list(task.others),
                            task.absent, task.folders))  # fmt: skip
        self._fds.append(os.dup(fd))
        self._more(len(task.entries) + 1)

    def absent_folder(self, path: bytes, reason: bytes) -> None:
        """A folder that is not dumped."""
        self._items.append((_ABSENT, path, reason))
        self._more(1)

    def mount(self, path: bytes, status: Status) -> None:
        """A folder to be written empty."""
        self._items.append((_MOUNT, path, tuple(status)))
        self._more(1)

    def _more(self, names: int) -> None:
        self._names += names
        if self._names >= self._limit or len(self._fds) >= FOLDERS:
            self._send()

    def _send(self) -> None:
        if not self._items:
            return
        worker = self._idle.get()
        self._check()
        data = marshal.dumps(self._items)
        head = struct.pack("<I", len(data))
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", self._fds).tobytes())] if self._fds else []
        try:
            worker.batches.sendmsg([head], ancillary)
            worker.batches.sendall(data)
        except OSError:
            raise self._error or _died() from None
        finally:
            self._drop()
        self._order.put(worker)

    def _drop(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._items, self._fds, self._names = [], [], 0

    def close(self) -> Dict[str, int]:
        """No more is coming; waits until all has been sent, the archive's end at last. The sums of the processes'
        counters. Raises what went wrong."""
        self._send()
        self._order.put(None)
        self._forwarder.join()
        self._check()
        self._numbering.send(self._channel, len(pax.END), self._codec.compress(pax.END), LAST)
        return self._sums

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Ends the processes, whatever they do."""
        self._drop()
        for worker in self._workers:
            try:
                os.kill(worker.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            os.waitpid(worker.pid, 0)
        if self._forwarder is not None:
            self._order.put(None)
            self._forwarder.join(1)  # it may hang in a write to a line that nobody reads
        else:
            for worker in self._workers:
                worker.close()
        self._workers = []

    # the line's side, a thread

    def _forward(self) -> None:
        try:
            for worker in iter(self._order.get, None):
                self._forward_batch(worker)
                self._idle.put(worker)
        except BaseException as error:
            self._error = error
            for worker in self._workers:
                worker.batches.shutdown(socket.SHUT_RDWR)  # whoever waits to hand out a batch finds the error
            for _ in range(4):
                self._idle.put(None)

    def _forward_batch(self, worker: _Worker) -> None:
        """One batch, whose frames and lines get their places now."""
        numbering, channel = self._numbering, self._channel
        base = numbering.archive_size
        while True:
            head = worker.said.read(_HEAD.size)
            if len(head) < _HEAD.size:
                raise _died()
            kind, length = _HEAD.unpack(head)
            data = worker.said.read(length)
            if len(data) < length:
                raise _died()
            if kind == FRAME:
                slot, stored, plain, flags = _SHIPPED.unpack(data)
                told = self.links.told()
                if told:
                    channel.send(LINKS, self._codec.compress(told))
                with memoryview(worker.memory) as memory, memory[slot * SLOT : slot * SLOT + stored] as frame:
                    numbering.send(channel, plain, frame, flags)
                os.write(worker.free_slot, bytes((slot,)))
            elif kind == INDEX:
                (count,) = struct.unpack_from("<I", data)
                offsets = array("q")
                offsets.frombytes(data[4 : 4 + count * 8])
                channel.send(INDEX, self._codec.compress(data[4 + count * 8 :] % tuple([base + at for at in offsets])))
            elif kind == MARK:
                mark = json.loads(data)
                if mark["file"] is not None:
                    mark["file"]["offset"] += base
                channel.send_json(MARK, mark)
            elif kind == STATE:
                if not numbering.resumed:
                    channel.send(STATE, data)
            elif kind == NOTE:
                channel.send_note(data)
            elif kind == _ASK:
                found = self.links.find(marshal.loads(data))
                reply = marshal.dumps(None if found is None else tuple(found))
                _write_all(worker.answer, struct.pack("<I", len(reply)) + reply)
            elif kind == _PUT:
                key, link, names = marshal.loads(data)
                self.links.put(key, Link(*link), names)
            elif kind == _END:
                for name, value in marshal.loads(data).items():
                    self._sums[name] = self._sums.get(name, 0) + value
                self._progress["bytes"] = self._sums["bytes"]
                mean = self._sums["bytes"] // max(1, self._sums["entries"]) + 1024
                self._limit = max(16, min(NAMES, BATCH // mean))
                return
            else:
                told = json.loads(data)
                raise SourceFailed(told["message"], told["hint"])


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:  # who is stopped while a full pipe lets it wait has written a part
        view = view[os.write(fd, view) :]


def _died() -> StowageError:
    return SourceFailed(
        "a process of the agent ended before its time", "see the client's kernel log: had it no memory left?"
    )


# what runs in a process of the crew


class _Out:
    """The way back to the agent: several threads speak."""

    def __init__(self, worker: _Worker):
        self._fd, self._slots, self._answers = worker.inner[1:]
        self._memory = memoryview(worker.memory)
        self._lock = threading.Lock()

    def send(self, kind: bytes, data: Any) -> None:
        """One message."""
        with self._lock:
            _write_all(self._fd, _HEAD.pack(kind, len(data)) + data)

    def send_frame(self, length: int, flags: int, stored: bytes) -> None:
        """A frame, through the shared memory: waits for room there."""
        free = os.read(self._slots, 1)
        if not free or len(stored) > SLOT:
            raise OSError("no room for a frame")
        start = free[0] * SLOT
        self._memory[start : start + len(stored)] = stored
        self.send(FRAME, _SHIPPED.pack(free[0], len(stored), length, flags))

    def answer(self) -> Any:
        """What the agent answers; waits for it."""
        (length,) = struct.unpack("<I", self._read(4))
        return marshal.loads(self._read(length))

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = os.read(self._answers, count - len(data))
            if not more:
                raise EOFError
            data += more
        return data


class _AskedLinks:
    """The agent's table of links: find() and put() of links.Links. What is asked waits for its turn in the outbox,
    behind the batches before, so that the agent answers when it knows all that comes before in walk order."""

    def __init__(self, outbox: Outbox, out: _Out):
        self._outbox, self._out = outbox, out

    def find(self, key: Key) -> Optional[Link]:
        """As Links.find()."""
        self._outbox.plain(_ASK, marshal.dumps(key))
        found = self._out.answer()
        return None if found is None else Link(*found)

    def told(self) -> bytes:
        """As Links.told(): the agent keeps them."""
        return b""

    def put(self, key: Key, link: Link, names: int) -> None:
        """As Links.put()."""
        self._outbox.plain(_PUT, marshal.dumps((key, tuple(link), names)))


class _PlacedLater(Outbox):
    """An outbox whose lines get their places from the agent."""

    def index(self, lines: bytes, offsets: List[int]) -> None:
        self.plain(INDEX, struct.pack("<I", len(offsets)) + array("q", offsets).tobytes() + lines)


def _be_worker(
    worker: _Worker, others: List[_Worker], fds: List[int], codec: Codec, threads: int, how: Tuple[bool, bool, bool]
) -> None:  # fmt: skip
    """A process of the crew, to its end. others: those before it; how: cut, marks and small of its Archive."""
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        for other in (*others, worker):
            other.close()
        for fd in fds:
            os.close(fd)
        gc.disable()
        out = _Out(worker)
        try:
            _work(worker.inner[0], out, codec, threads, how)
            status = 0
        except (EOFError, BrokenPipeError):
            pass  # the agent is not there any more
        except BaseException as error:
            out.send(_FAIL, json.dumps(_told(error)).encode("ascii"))
    finally:
        os._exit(status)


def _told(error: BaseException) -> Dict[str, str]:
    if isinstance(error, StowageError):
        return {"message": error.message, "hint": error.hint}
    if isinstance(error, MemoryError):
        return {"message": "the agent has no memory left", "hint": ""}
    import traceback

    sys.stderr.write(traceback.format_exc())
    sys.stderr.flush()
    return {
        "message": "the agent failed: %s: %s" % (type(error).__name__, error),
        "hint": "this is a fault of Stowage; please report it with what stands in the client's log",
    }


def _batches(link: socket.socket) -> Any:
    """(items, descriptors) of each batch."""
    size = socket.CMSG_SPACE(FOLDERS * array("i").itemsize)
    while True:
        head, ancillary, _flags, _address = link.recvmsg(4, size, socket.MSG_WAITALL)
        if len(head) < 4:
            return
        fds = array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        (length,) = struct.unpack("<I", head)
        data = bytearray(length)
        view, place = memoryview(data), 0
        while place < length:
            count = link.recv_into(view[place:])
            if not count:
                return
            place += count
        yield marshal.loads(data), list(fds)


def _work(link: socket.socket, out: _Out, codec: Codec, threads: int, how: Tuple[bool, bool, bool]) -> None:
    outbox = _PlacedLater(out, codec, None, threads, spare=1)

    def note(level: str, path: bytes, message: str) -> None:
        outbox.plain(NOTE, note_bytes(level, path, message))

    archive = Archive(outbox, note, {}, *how)
    archive.links = _AskedLinks(outbox, out)
    blocks = state.Writer(outbox.state)
    before: Dict[str, int] = {}
    totals = Totals()
    full = Full(archive, blocks, note, totals)
    for items, fds in _batches(link):
        archive.begin()
        turn = 0
        for item in items:
            if item[0] == _FOLDER:
                path, status, first, entries, others, absent, folders = item[1:]
                fd = fds[turn]
                turn += 1
                os.fchdir(fd)
                full.dump(Task(path, Status(*status), first, entries, frozenset(others), absent, folders), fd)
                os.close(fd)
            elif item[0] == _ABSENT:
                full.absent_folder(item[1], item[2])
            else:
                full.mount(item[1], Status(*item[2]))
        archive.flush()
        blocks.flush()
        now = dict(archive.sums(), unreadable=totals.unreadable, vanished=totals.vanished)
        outbox.plain(_END, marshal.dumps({name: count - before.get(name, 0) for name, count in now.items()}))
        before = now
