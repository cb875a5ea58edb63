"""What lies on a holding disk: its bytes, and how often they are counted.

Here live the walk over a disk, and a tally of it for those who ask for each dump of a night. Who may have what is left
is space.py; which folders lie there is holding.py.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Dict, Optional, Tuple

from ..settings import HoldingDisk

INCOMING = ".incoming"
CUT = ".cut"  # behind the name of a folder in it: a dump that was cut, which nobody writes now
AGE = 5.0  # seconds for which a count is good enough where there is plenty of room


class Tally:
    """Bytes stored on disks. Not thread-safe. A walk for each dump of a fleet would cost the square of their number."""

    def __init__(self) -> None:
        self._found: Dict[Path, Tuple[float, int]] = {}  # disk -> when it was walked over, bytes then and since

    def now(self, disk: Path) -> int:
        """Counted anew."""
        found = stored(disk)
        self._found[disk] = (time.monotonic(), found)
        return found

    def lately(self, disk: Path) -> int:
        """Counted within AGE seconds, with what was added since; what went since is still counted."""
        when, found = self._found.get(disk, (float("-inf"), 0))
        return found if time.monotonic() - when < AGE else self.now(disk)

    def add(self, disk: Path, count: int) -> None:
        """So many bytes were written there."""
        when, found = self._found.get(disk, (float("-inf"), 0))
        self._found[disk] = (when, found + count)


def holds(disk: HoldingDisk) -> int:
    """Bytes that a disk may take when nothing is on it."""
    try:
        found = os.statvfs(disk.path)
    except OSError:
        return 0
    total = found.f_blocks * found.f_frsize
    return total + disk.use if disk.use < 0 else min(total, disk.use)


def device(path: Path) -> Optional[int]:
    """By which a disk is known again: what is below a mount point that lost its disk is another."""
    try:
        return os.stat(path).st_dev
    except OSError:
        return None


def stored(disk: Path) -> int:
    """Bytes of the dumps that are whole or were cut (what comes in is counted by its reservation)."""
    total = 0
    folders = [os.fspath(disk)]
    incoming = os.path.join(folders[0], INCOMING)
    while folders:
        folder = folders.pop()
        counts = not folder.startswith(incoming) or folder.endswith(CUT)
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif counts:
                        total += entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:  # released by a stage at work
            continue
    return total
