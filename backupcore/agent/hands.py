"""The hands of a full dump: this process alone while the tree is small, a crew beside it once that pays.

A crew's processes cost more than a tree of some hundred names does. So the first folders are held, names and open
descriptors: when they are all there is, they are dumped here; when more come, a crew is made and begins with them.
Here live that choice and what dumps in this process; what becomes of a folder lives in full, the processes in crew.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from ..image import state
from ..image.codec import Codec
from ..wire import STATE
from .archive import Archive
from .full import Full, Status, Task, Totals
from .links import Links
from .outbox import Numbering, Outbox

NAMES = 512  # from so many on there is a crew, and from so many folders
FOLDERS = 200


class Job(NamedTuple):
    """What all that dumps needs. note(level, path, message); cut, marks, small: as for an Archive."""

    channel: Any
    codec: Codec
    numbering: Numbering
    links: Links
    note: Callable[[str, bytes, str], None]
    totals: Totals
    cut: bool
    marks: bool
    small: bool


class Own:
    """What dumps in this process: archive and new state, and a full's folders."""

    def __init__(self, job: Job):
        channel, numbering = job.channel, job.numbering
        self._outbox = outbox = Outbox(channel, job.codec, numbering, max(1, min(os.cpu_count() or 1, 4)))
        self.archive = Archive(outbox, job.note, channel.progress, job.cut, job.marks, job.small)
        self.archive.begin(numbering.archive_size)
        self.archive.links = job.links
        if numbering.resumed:  # the server makes the state from the index
            self.blocks = state.Writer(lambda blocks: None)
        else:
            self.blocks = state.Writer(outbox.state, lambda payload: outbox.plain(STATE, payload))
        full = Full(self.archive, self.blocks, job.note, job.totals)
        self.dump, self.absent_folder, self.mount = full.dump, full.absent_folder, full.mount

    def close(self) -> Dict[str, int]:
        """No more is coming; waits until all has been sent. The counters. Raises what went wrong."""
        self.blocks.flush()
        self.archive.close()
        self._outbox.close()
        return self.archive.sums()


class Hands:
    """What a full's folders are handed to: dump(), absent_folder() and mount() in walk order, then close(); drop()
    always. crew() makes the crew, None where there can be none."""

    def __init__(self, crew: Callable[[], Any], job: Job):
        self._crew, self._job = crew, job
        self._held: List[Tuple[str, Optional[int], Tuple[Any, ...]]] = []  # method, descriptor, its other arguments
        self._names = 0
        self._to: Any = None

    def dump(self, task: Task, fd: int) -> None:
        """A folder, or some of a large one; fd is the caller's to close."""
        if self._to is not None:
            self._to.dump(task, fd)
        else:
            self._hold(len(task.entries) + 1, "dump", os.dup(fd), task)

    def absent_folder(self, path: bytes, reason: bytes) -> None:
        """A folder that is not dumped."""
        if self._to is not None:
            self._to.absent_folder(path, reason)
        else:
            self._hold(1, "absent_folder", None, path, reason)

    def mount(self, path: bytes, status: Status) -> None:
        """A folder to be written empty."""
        if self._to is not None:
            self._to.mount(path, status)
        else:
            self._hold(1, "mount", None, path, status)

    def _hold(self, names: int, method: str, fd: Optional[int], *arguments: Any) -> None:
        self._held.append((method, fd, arguments))
        self._names += names
        if self._names >= NAMES or len(self._held) >= FOLDERS:
            self._to = self._crew() or Own(self._job)
            self._hand_over()

    def _hand_over(self) -> None:
        self._held.reverse()
        while self._held:
            method, fd, arguments = self._held[-1]
            if fd is None:
                getattr(self._to, method)(*arguments)
            else:
                os.fchdir(fd)
                self._to.dump(*arguments, fd)
                os.close(fd)
            self._held.pop()

    def close(self) -> Dict[str, int]:
        """No more is coming; waits until all has been sent. The counters. Raises what went wrong."""
        if self._to is None:
            self._to = Own(self._job)
            self._hand_over()
        counters: Dict[str, int] = self._to.close()
        return counters

    def drop(self) -> None:
        """Closes what is still held."""
        for _method, fd, _arguments in self._held:
            if fd is not None:
                os.close(fd)
        self._held = []
