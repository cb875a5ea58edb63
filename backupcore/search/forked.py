"""Work in forked processes that end with their parent, however it ends.

Here lives how calls are given out and answers come back, in order and a few at a time; what the work is, its callers
know. Not multiprocessing.Pool: its terminate() kills processes that may hold the lock of its queue, and then waits for
that lock for ever.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections import deque
from typing import Any, Callable, Iterable, Iterator, TypeVar

PR_SET_PDEATHSIG = 1  # prctl(2)
AHEAD = 4  # calls under way or waiting, for each process

Answer = TypeVar("Answer")


def each(work: Callable[..., Answer], calls: Iterable[tuple], processes: int) -> Iterator[Answer]:
    """The answers of work(*call), in the order of the calls. Close the iterator when enough was seen: what is under way
    is waited for, what only waits is not begun. What work raises is raised here."""
    import multiprocessing  # slow to load, and most do without
    from concurrent.futures import ProcessPoolExecutor

    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), _begin, (os.getpid(),))
    try:
        waiting: deque[Any] = deque()
        for call in calls:
            waiting.append(pool.submit(work, *call))
            if len(waiting) >= AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(parent: int) -> None:
    """In each process. What the parent does on a signal is not for its helpers: the parent ends them."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it ended in between
