"""What came of a dump goes to its disk for good while more of it comes: a power cut costs what came since.

Here lives when, and in which order: the journal after what it tells of, so that a line of it that outlived a power cut
mostly tells of bytes that did, too; whether they did is still read, by resume.py. A thread of its own does it, only
while there is something to do: whoever receives waits for no disk.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Dict, Optional

from .. import files
from .holding import Landing

EVERY = 64 << 20  # bytes of frames after which it is done again
SECONDS = 15.0  # or, where the line is slow, this much later


class Syncing:
    """Syncs what came of one dump. Files are opened anew for it: an error of the disk must not be taken by it from the
    descriptor that writes them, whose own last sync tells it."""

    def __init__(self, place: Landing):
        self._place = place
        self._waiting, self._last = 0, time.monotonic()
        self._thread: Optional[threading.Thread] = None
        self._synced: Dict[Path, int] = {}  # path -> bytes

    def wrote(self, count: int) -> None:
        """A frame is written, and stands in the journal."""
        self._waiting += count
        if self._thread is not None and self._thread.is_alive():
            return
        now = time.monotonic()
        if self._waiting >= EVERY or now - self._last >= SECONDS:
            self._waiting, self._last = 0, now
            name = f"sync {self._place.folder.name}"
            self._thread = threading.Thread(target=self._sync, name=name, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Waits for what is being synced; no more comes."""
        if self._thread is not None:
            self._thread.join()

    def _sync(self) -> None:
        place = self._place
        with contextlib.suppress(OSError):  # whoever writes there is told, and what is gone needs it no more
            grown = [self._sync_file(path) for path in (*place.folder.iterdir(), place.index)]
            new = place.came not in self._synced
            if new:
                files.sync_up(place.folder, place.disk)
                if place.private is not None:
                    files.sync_up(place.private, place.private.parents[2])
            elif any(grown):
                files.sync_folder(place.folder)
            self._sync_file(place.came)

    def _sync_file(self, path: Path) -> bool:
        """Whether it is there for the first time."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:  # no dump has all of them
            return False
        try:
            new, size = path not in self._synced, os.fstat(fd).st_size
            if self._synced.get(path) != size:
                os.fsync(fd)
                self._synced[path] = size
            return new
        finally:
            os.close(fd)
