"""One run at a time for a configuration: a lock that ends with the process that holds it, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from contextlib import contextmanager
from typing import Iterator

from .. import clock, files
from ..catalog import places
from ..errors import Busy, CatalogError
from ..settings import Settings

FRESH = 10.0  # seconds after which one that waited has gone
STEP = 0.5  # seconds between two looks at a lock that is waited for


@contextmanager
def hold(settings: Settings, due: bool = False) -> Iterator[None]:
    """Holds <state>/run.lock. Raises Busy, with since when and by whom, while another process has it.

    due: a small run of what schedules of sources' own ask for: the others wait for its end, a night must not be lost.
    """
    path = places.lock_file(settings.state)
    try:
        files.make_folder(settings.state)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CatalogError(f"{path} cannot be opened: {error.strerror}") from None
    waits = places.waits_file(settings.state)
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with contextlib.suppress(OSError):
                    waits.unlink()  # who else waits says so again
                break
            except BlockingIOError:
                if due or not _is_due(fd):
                    raise Busy(f"another run is at work{_holder(fd)}", "stowage status") from None
                with contextlib.suppress(OSError):  # then it waits till the other is through
                    waits.touch(0o600)
                time.sleep(STEP)
        mine = json.dumps({"pid": os.getpid(), "since": clock.now_ns(), "due": due}).encode()
        os.ftruncate(fd, 0)
        os.pwrite(fd, mine, 0)
        try:
            yield
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)  # also for a child that has forked and not yet closed its copy
    finally:
        os.close(fd)  # the file stays: to remove it would let two processes lock two files


def is_waited_for(settings: Settings) -> bool:
    """Whether another run waits for the end of this small one."""
    try:
        return abs(time.time() - places.waits_file(settings.state).stat().st_mtime) < FRESH
    except OSError:
        return False


def _is_due(fd: int) -> bool:
    """Whether the one that holds it said that it is of a small run."""
    try:
        return json.loads(os.pread(fd, 200, 0))["due"] is True
    except (ValueError, KeyError, TypeError):
        return False


def _holder(fd: int) -> str:
    try:
        value = json.loads(os.pread(fd, 200, 0))
        return f" since {clock.local(int(value['since']))} (process {int(value['pid'])})"
    except (ValueError, KeyError, TypeError):
        return ""
