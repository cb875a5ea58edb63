"""A process beside the dump of a source with scripts: it sees to it that they end, and that what must run after does.

The agent cannot do that when it is killed (memory is short, or somebody is impatient), nor when it hangs in a file
system that does not answer. Here lives that process and what the agent tells it; the scripts are the halves'.
"""

from __future__ import annotations

import os
import select
import signal
from typing import Callable

LIMIT = 600  # seconds that what must run after may take when nobody is there any more to be told
_DONE, _LOST = b".", b"l"


class Keeper:
    """after: runs what must run after the dump. To be made before there are threads. lock: a descriptor that it keeps
    open, -1 for none: the source is not free before it has ended. fd: not to be open in other children."""

    def __init__(self, after: Callable[[], None], lock: int = -1):
        wait, self.fd = os.pipe()
        # asked before: whoever is killed at once is no parent any more when the child comes to its turn
        agent, group = os.getpid(), os.getpgrp()
        self.pid = os.fork()
        if not self.pid:
            try:
                _keep(wait, after, lock, group if group == agent else 0)
            finally:
                os._exit(0)
        os.close(wait)

    def lost(self) -> None:
        """The line is lost; the agent runs what must run after, and has LIMIT for it."""
        self._tell(_LOST)

    def end(self) -> None:
        """All has run as it should."""
        self._tell(_DONE)
        os.close(self.fd)
        os.waitpid(self.pid, 0)

    def _tell(self, word: bytes) -> None:
        try:
            os.write(self.fd, word)
        except OSError:
            pass  # somebody killed it


def _keep(wait: int, after: Callable[[], None], lock: int, group: int) -> None:
    os.setsid()  # whoever ends the agent's group does not end this
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    low = 3
    for fd in sorted({wait, lock if lock > 2 else wait}):  # the wire, and pipes of helpers: they must hear of the end
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, max(1024, low + 64))
    lost = False
    while True:
        word = os.read(wait, 1) if select.select([wait], [], [], LIMIT if lost else None)[0] else b""
        if word == _DONE:
            return
        if word != _LOST:
            break
        lost = True
    if group:  # the agent's own
        try:
            os.killpg(group, signal.SIGKILL)
        except OSError:
            pass  # nobody was left
    if not lost:
        signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(LIMIT)
        try:
            after()
        except RuntimeError:
            pass  # there is nobody to be told
        finally:
            signal.alarm(0)


def _too_long(*_: object) -> None:
    os.killpg(0, signal.SIGKILL)  # its script, and itself: this group has nobody else
