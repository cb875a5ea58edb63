"""One dump's way to one target while it is made: a thread, a queue of a few pieces, streams, and reading back.

Here lives what one target is at. Which targets take part, and what becomes of a dump whose targets fail: direct.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections import deque
from pathlib import Path
from typing import Any, Callable, Deque, Dict, NamedTuple, Optional, Tuple

from ..errors import StowageError, TargetRefused
from ..hookspecs import TargetError
from ..image.manifest import FileRecord
from ..text import escape

ROOM = 4 << 20  # bytes that wait for one target; each is in memory once, however many targets wait for it
PIECE = 1 << 20
LOOK = 0.5  # seconds after which one who waits looks whether there is still something to wait for


class Place(NamedTuple):
    """A target that may take a dump's parts. pace: how fast it may be sent to, None: as fast as it takes them."""

    name: str
    target: Any
    pace: Optional[Callable[[int], None]] = None


class _Stopped(BaseException):
    """The dump has ended: what is under way need not."""


class Lane:
    """The parts of one dump on their way to one target. files: name -> "<size> <sha256>" of those that are there and
    good. error: why it is not used any more."""

    def __init__(self, place: Place, prefix: str):
        self.name, self.target, self.prefix = place.name, place.target, prefix
        self.files: Dict[str, str] = {}
        self.error: Optional[StowageError] = None
        self.verified: Any = None  # the row of its copy
        self._pace = place.pace
        self._stream: Any = None
        self._queue: Deque[Tuple[int, Callable[[], None]]] = deque()
        self._waiting = 0  # bytes in the queue
        self._open = 0  # jobs and files to read back that are not through
        self._stopping = False
        self._changed = threading.Condition()
        self._reader: Any = None
        self._thread = threading.Thread(target=self._run, name=f"direct to {self.name}")
        self._thread.start()

    # what the dump says; nothing of it raises: look at error

    def begin(self, name: str) -> None:
        """A part begins."""
        self._put(0, lambda: self._begin(name), None)

    def has_room(self, size: int) -> bool:
        """Whether so many bytes need not wait."""
        return not self._waiting or self._waiting + size <= ROOM

    def write(self, data: bytes, check: Callable[[], None]) -> None:
        """Its next bytes; waits while too many are on their way. check(): called while waiting, may raise."""
        self._put(len(data), lambda: self._stream.write(data), check)

    def feed(self, path: Path, size: int) -> None:
        """Its bytes so far are the first of a file."""
        self._put(0, lambda: self._feed(path, size), None)

    def finish(self, record: FileRecord) -> None:
        """The part is whole."""
        self._put(0, lambda: self._finish(record.name, record.size, record.sha256), None)

    def settle(self, check: Callable[[], None]) -> None:
        """Waits until all that was said is done, or the lane failed."""
        with self._changed:
            while self._open and self.error is None:
                self._changed.wait(LOOK)
                check()

    def stop(self) -> None:
        """Ends it, whatever it is at: what is not whole there is taken away. Waits for that."""
        self.leave()
        self._thread.join()
        if self._reader is not None:
            self._reader.shutdown(cancel_futures=True)

    def leave(self) -> None:
        """As stop(), without waiting."""
        with self._changed:
            self._stopping = True
            self._queue.clear()
            self._changed.notify_all()

    # inside

    def _put(self, size: int, job: Callable[[], None], check: Optional[Callable[[], None]]) -> None:
        with self._changed:
            while check is not None and self._waiting and self._waiting + size > ROOM and self.error is None:
                self._changed.wait(LOOK)
                check()
            if self.error is None and not self._stopping:
                self._queue.append((size, job))
                self._waiting += size
                self._open += 1
                self._changed.notify_all()

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    while not self._queue and not self._stopping and self.error is None:
                        self._changed.wait()
                    if self._stopping or self.error is not None:
                        return
                    size, job = self._queue.popleft()
                job()
                with self._changed:
                    self._waiting -= size
                    self._done()
        except _Stopped:
            pass
        except BaseException as error:
            self._fail(error)
        finally:
            stream, self._stream = self._stream, None
            if stream is not None:
                with contextlib.suppress(Exception):  # what it cannot take away now, clean() does
                    stream.abort()

    def _done(self) -> None:
        self._open -= 1
        self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, TargetError):
            told: StowageError = TargetRefused.of(self.name, error)
        elif isinstance(error, StowageError):
            told = error
        else:  # a third party's driver may raise anything
            what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            told = TargetRefused(f"target {self.name}: its driver failed: {escape(what)}", "stowage drivers")
        with self._changed:
            self.error = self.error or told
            self._queue.clear()
            self._waiting = 0
            self._changed.notify_all()

    def _slow(self, count: int) -> None:
        """The pace of all that is sent here; ends what is under way when the dump has ended."""
        if self._stopping or self.error is not None:
            raise _Stopped
        if self._pace is not None:
            self._pace(count)

    def _at(self, name: str) -> str:
        return f"{self.prefix}/{name}"

    def _begin(self, name: str) -> None:
        self._stream = self.target.stream(self._at(name), if_absent=True, pace=self._slow)

    def _feed(self, path: Path, size: int) -> None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                done = 0
                while done < size:
                    data = os.pread(fd, min(PIECE, size - done), done)
                    if not data:
                        raise StowageError(f"{path} became shorter while it was sent")
                    self._stream.write(data)
                    done += len(data)
            finally:
                os.close(fd)
        except OSError as error:
            raise StowageError(f"{path} cannot be read: {error.strerror}") from None

    def _finish(self, name: str, size: int, sha256: str) -> None:
        stored = self._stream.finish(sha256)
        self._stream = None
        if stored.size != size:
            raise TargetRefused(f"target {self.name} has {stored.size} bytes of {self._at(name)}, {size} were sent",
                                "stowage check")  # fmt: skip
        if stored.proven:
            self.files[name] = f"{size} {sha256}"
            return
        if self._reader is None:
            from concurrent.futures import ThreadPoolExecutor

            self._reader = ThreadPoolExecutor(1, f"read back from {self.name}")
        with self._changed:
            self._open += 1
        self._reader.submit(self._read_back, name, size, sha256)

    def _read_back(self, name: str, size: int, sha256: str) -> None:
        """Beside the next part: whether the place gives the bytes that were sent."""
        try:
            found, count = hashlib.sha256(), 0
            for piece in self.target.read(self._at(name)):
                if self._stopping or self.error is not None:
                    return
                found.update(piece)
                count += len(piece)
                if count > size:
                    break
            if count != size or found.hexdigest() != sha256:
                told = f"target {self.name} gives other bytes of {self._at(name)} than were sent"
                raise TargetRefused(told, "again and again: do not trust this target")
            self.files[name] = f"{size} {sha256}"
        except BaseException as error:
            self._fail(error)
        finally:
            with self._changed:
                self._done()
