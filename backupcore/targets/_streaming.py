"""What streams of all drivers share: a note of each while it is under way, and how long one tries again.

A stream's bytes are gone with the process that made them, so what a killed one left can be of no use to anybody: its
note is locked by the process as long as it lives, and clean() removes what a note without a lock names, however young.
Not here: how bytes get to a place.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Optional, Tuple

from backupcore import files
from backupcore.hookspecs import TargetError

STREAMS = "streams"
PATIENCE = 300.0  # seconds without a byte getting there: a dump is lost with it, while a put is taken up another time
LONGEST_PAUSE = 30.0
STEP = 0.5


class Note:
    """A line in the target's own folder that names what is under way; locked until it is closed."""

    def __init__(self, folder: Path, facts: Dict[str, Any]):
        try:
            where = folder / STREAMS
            if not where.is_dir():  # the first note must not be lost with the folders it is in
                files.make_folder(where)
                files.sync_up(where, folder.parent.parent)
            self.path = where / f"{secrets.token_hex(16)}.json"
            temporary = files.temporary_of(self.path)
            self._fd = files.create(temporary)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            files.write_all(self._fd, json.dumps(facts).encode())
            os.fsync(self._fd)
            os.rename(temporary, self.path)  # nobody sees it without its lock
            files.sync_folder(where)
        except OSError as error:
            raise TargetError(f"cannot write below {folder}: {error.strerror}") from None

    def close(self, keep: bool = False) -> None:
        """Nothing is under way any more; keep: what it names is still there, and clean() shall see to it."""
        if self._fd >= 0:
            if not keep:
                with contextlib.suppress(OSError):
                    self.path.unlink(missing_ok=True)
                    files.sync_folder(self.path.parent)  # else a power cut brings it back
            os.close(self._fd)
            self._fd = -1


def left(folder: Path) -> Iterator[Tuple[Path, Dict[str, Any]]]:
    """Notes of streams that nobody is at any more; whoever has removed what one names unlinks it."""
    files.clear_killed(folder / STREAMS)  # nothing was sent yet
    for path in sorted((folder / STREAMS).glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            with open(path, "rb") as note:
                fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
                facts = json.loads(note.read(1 << 16))
            if isinstance(facts, dict):
                yield path, facts


class Patience:
    """Waits between tries, longer and longer, until nothing got there for PATIENCE seconds."""

    def __init__(self, pace: Optional[Callable[[int], None]]):
        self._pace = pace or (lambda _count: None)
        self._tries = 0
        self._since = 0.0

    def worked(self) -> None:
        """Something got there."""
        self._tries = 0

    def again(self, error: TargetError) -> None:
        """Waits before the next try; raises error when there is to be none. pace(0) may end the waiting."""
        now = time.monotonic()
        if not self._tries:
            self._since = now
        if not error.retry or now - self._since >= PATIENCE:
            raise error
        until = now + min(STEP * 2**self._tries, LONGEST_PAUSE)
        self._tries += 1
        while (rest := until - time.monotonic()) > 0:
            self._pace(0)
            time.sleep(min(rest, STEP))
