"""Memory for pieces of files on their way to an S3 place.

Here live the buffers of upload parts, which are used again, and what botocore is given to send of one, which copies
nothing. Not here: how many there may be at once (the target's room), what is sent when (_s3_upload.py).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from typing import Iterator, List


class Buffers:
    """Of one target, for all its uploads. Memory that comes anew from the system for each piece costs more than to
    hash and to send it; pieces of this size on the heap leave holes that no later one fits into."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._free: List[mmap.mmap] = []

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """While somebody is inside, what is given back stays for the next piece; then the system has it again."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    while self._free:
                        _close(self._free.pop())

    def take(self, size: int) -> mmap.mmap:
        """One of at least so many bytes, with anything in it. Who has room for a piece takes one: there are never more
        of them than room."""
        with self._lock:
            large = [one for one in self._free if len(one) >= size]
            if large:
                found = min(large, key=len)
                self._free.remove(found)
                return found
            if self._free:
                _close(self._free.pop())
        return mmap.mmap(-1, size)

    def give(self, buffer: mmap.mmap) -> None:
        """Nobody looks into it any more."""
        with self._lock:
            if self._users:
                self._free.append(buffer)
            else:
                _close(buffer)


def _close(buffer: mmap.mmap) -> None:
    # what failed is held by its traceback for a moment yet: then the memory goes with that
    with contextlib.suppress(BufferError):
        buffer.close()


class Held:
    """The first bytes of a buffer, read as a file by botocore: it hashes and sends them where they lie."""

    def __init__(self, buffer: mmap.mmap, size: int):
        self.buffer = buffer
        self.view = memoryview(buffer)[:size]
        self._at = 0

    def __len__(self) -> int:
        return len(self.view)

    def read(self, size: int = -1) -> memoryview:
        """The next bytes, not copied."""
        end = len(self.view) if size is None or size < 0 else min(self._at + size, len(self.view))
        piece = self.view[self._at : end]
        self._at = end
        return piece

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self.view)}[whence]
        self._at = min(max(start + offset, 0), len(self.view))
        return self._at
