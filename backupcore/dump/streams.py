"""The two pipes to an agent: whole reads, small writes together, and a limit on silence.

Here live the file-like ends that wire.Channel reads and writes; the process behind them is transport.py's.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import select
import threading
import time
from typing import Any, BinaryIO, Callable, List, Optional

from ..errors import LineLost, StowageError, WireError

BUFFER = 1 << 16
Pace = Callable[[int, Callable[[], None]], None]  # (bytes that were read, what raises when that is cut)


class _Stream:
    """One end of a pipe. Its descriptor is used and closed under a lock, so that its number is never another's."""

    def __init__(self, stream: BinaryIO, peer: str, timeout: float, events: int):
        self.peer = peer
        self.timeout = timeout
        self.held_up = False  # by us: the peer's silence says nothing
        self.until = math.inf  # whatever comes, it is over then; late: what is raised
        self.late: StowageError = WireError("")
        self._stream = stream
        self._fd = stream.fileno()
        self._lock = threading.Lock()
        self._closed = False
        self._poll = select.poll()
        self._poll.register(self._fd, events)

    def close(self) -> None:
        """Closes the pipe; whoever waits for it gets a LineLost within a second."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._stream.close()

    def check_open(self) -> None:
        """Raises LineLost when it is closed."""
        if self._closed:
            raise LineLost(f"the line to {self.peer} was cut")

    def _when_ready(self, act: Callable[..., Any], argument: Any, silence: str) -> Any:
        deadline = time.monotonic() + self.timeout
        while True:
            if time.monotonic() > self.until:
                raise self.late
            with self._lock:
                if self._closed:
                    raise LineLost(f"the line to {self.peer} was cut")
                try:
                    return act(self._fd, argument)
                except BlockingIOError:
                    pass
            if self.held_up:
                deadline = time.monotonic() + self.timeout
            left = deadline - time.monotonic()
            if left <= 0:
                raise LineLost(
                    f"{self.peer} {silence} for {self.timeout:g} s", "raise timeouts: silence, if it is only slow"
                )
            self._poll.poll(min(left, 1.0) * 1000)  # in steps, so that close() is noticed


class Reader(_Stream):
    """Reads whole counts; a peer that sends nothing for `timeout` seconds is a LineLost."""

    def __init__(self, stream: BinaryIO, peer: str, timeout: float):
        super().__init__(stream, peer, timeout, select.POLLIN)
        self.begin = b""  # the first bytes, to tell an agent from a login shell
        self.pace: Optional[Pace] = None  # what is read waits for it, so that pipe and line fill up and the peer waits
        self._buffer = b""

    def narrow(self) -> None:
        """Makes the pipe small: what waits in it has come over the line ahead of its rate."""
        with contextlib.suppress(OSError):  # more is in it already
            fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, BUFFER)

    def read(self, count: int) -> Any:
        """count bytes, or fewer at the end of the stream (bytes or a bytearray of the caller's own)."""
        buffer = self._buffer
        if len(buffer) >= count:
            self._buffer = buffer[count:]
            return buffer[:count]
        whole = bytearray(count)
        done = len(buffer)
        whole[:done] = buffer
        self._buffer = b""
        with memoryview(whole) as view:
            while done < count:
                if count - done >= BUFFER:
                    with view[done:] as rest:
                        got = self._paced(self._when_ready(os.readv, [rest], "sent nothing"))
                    seen = view[done : done + min(got, 128)].tobytes()
                else:
                    data = self._when_ready(os.read, BUFFER, "sent nothing")
                    self._paced(len(data))
                    got = min(len(data), count - done)
                    view[done : done + got] = data[:got]
                    self._buffer = data[got:]
                    seen = data[:128]
                if len(self.begin) < 128:
                    self.begin += seen
                if not got:
                    break
                done += got
        del whole[done:]
        return whole

    def readinto(self, room: memoryview) -> int:
        """Fills room from its begin; how many bytes, 0 at the end of the stream."""
        if self._buffer:
            got = min(len(self._buffer), len(room))
            room[:got], self._buffer = self._buffer[:got], self._buffer[got:]
            return got
        return self._paced(self._when_ready(os.readv, [room], "sent nothing"))

    def _paced(self, count: int) -> int:
        if self.pace is not None and count:
            self.pace(count, self.check_open)
        return count


class Writer(_Stream):
    """Writes, small pieces together; a peer that takes nothing for `timeout` seconds is a LineLost."""

    def __init__(self, stream: BinaryIO, peer: str, timeout: float):
        super().__init__(stream, peer, timeout, select.POLLOUT)
        self.pace: Optional[Pace] = None  # what was written waits for it
        self._pieces: List[bytes] = []
        self._size = 0

    def write(self, data: Any) -> None:
        """Takes data; small data may wait for flush()."""
        if len(data) >= BUFFER:
            self.flush()
            self._write(data)
            return
        self._pieces.append(bytes(data))
        self._size += len(data)
        if self._size >= BUFFER:
            self.flush()

    def flush(self) -> None:
        """Sends what waits."""
        if self._pieces:
            data, self._pieces, self._size = b"".join(self._pieces), [], 0
            self._write(data)

    def _write(self, data: Any) -> None:
        with memoryview(data) as view:
            done = 0
            while done < len(view):
                with view[done : done + BUFFER if self.pace is not None else None] as rest:
                    count = self._when_ready(os.write, rest, "took nothing")
                done += count
                if self.pace is not None:
                    self.pace(count, self.check_open)
