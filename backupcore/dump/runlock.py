"""One writer at a time for a configuration: a lock that ends with the process that holds it, however it ends.

Here live waiting for it, and who holds it or waits; the lock of a file itself is locks.py. What is done under it lives
elsewhere; which command takes which lock is a table in docs/design.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

from .. import clock, files, text
from ..audit import who
from ..catalog import places
from ..errors import Busy, CatalogError
from ..locks import OPEN, LockFile
from ..settings import Settings

FRESH = 10.0  # seconds after which one that waited has gone
STEP = 0.5  # seconds between two looks at a lock that is waited for
SETTLE = 2.0  # seconds for which a lock may be held by somebody who does not say who he is: he only looks, or has gone
LONGEST = 4096  # bytes of what a holder says of himself
WORDS = 300  # characters of a command that are kept
NAMES = {
    "run": "another run", "stage": "a staging of copies", "prune": "a prune", "rebuild": "a rebuild",
    "verify": "a verify that mends",
}  # fmt: skip


@dataclass(frozen=True)
class Holder:
    """Who holds the lock, or waits for it. what: one of NAMES; due: a small run of what schedules of sources' own ask
    for; started: when the process began, in the kernel's ticks, so that another of its number is not taken for it."""

    pid: int
    since_ns: int
    what: str = "run"
    command: str = ""
    user: str = ""
    due: bool = False
    started: str = ""

    @property
    def told(self) -> str:
        """For people: `since 2026-11-23 21:30 (process 123), by anna: stowage run`."""
        by = f", by {text.escape(self.user)}" if self.user else ""
        return f"since {clock.local(self.since_ns)} (process {self.pid}){by}" + (
            f": {text.escape(self.command)}" if self.command else ""
        )

    @property
    def name(self) -> str:
        """What it is, with its article."""
        return NAMES.get(self.what, "another run")

    @property
    def alive(self) -> bool:
        """Whether that very process still runs."""
        return bool(started(self.pid)) and started(self.pid) == (self.started or started(self.pid))

    def as_dict(self) -> Dict[str, Any]:
        """JSON-ready, for those who only look."""
        return {"pid": self.pid, "since": clock.iso(self.since_ns), "what": self.what,
                "command": text.escape(self.command), "user": text.escape(self.user)}  # fmt: skip


@dataclass(frozen=True)
class Turn:
    """The lock is held. asked_ns: when it was asked for; waited: another one had it then."""

    asked_ns: int
    waited: bool = False


@contextmanager
def hold(
    settings: Settings, due: bool = False, *, what: str = "run", command: str = "",
    join: Optional[Callable[[Holder], None]] = None,
) -> Iterator[Turn]:  # fmt: skip
    """Holds <state>/run.lock. Raises Busy, with since when and by whom, while another process has it.

    due: a small run of what schedules of sources' own ask for: the others wait for its end, a night must not be lost.
    join: waits for whoever has it, and is called with him at each look.
    """
    asked = clock.now_ns()
    mine = Holder(os.getpid(), asked, what, command[:WORDS], who.shown(who.who()), due, started(os.getpid()))
    lock = _open(settings)
    try:
        with contextlib.ExitStack() as stack:
            waited = _take(lock, settings, mine, join, stack)
        _say(lock, Holder(**{**asdict(mine), "since_ns": clock.now_ns()}))
        _clear_killed(settings)
        try:
            yield Turn(asked, waited)
        finally:
            if lock.is_open:  # else this is a child that was forked
                with contextlib.suppress(OSError):
                    os.ftruncate(lock.fd, 0)
    finally:
        lock.close()


def _clear_killed(settings: Settings) -> None:
    """Takes away what killed processes left half written in the state folder; each dump sees to its own folders."""
    state = settings.state
    targets = [one for one in _files(state / "targets") if one.is_dir()]
    for folder in (state, places.run_record(state, "x").parent, state / "keys", places.forced_folder(state), *targets):
        files.clear_killed(folder)


def _open(settings: Settings) -> LockFile:
    path = places.lock_file(settings.state)
    try:
        files.make_folder(settings.state)
        return LockFile(path)
    except OSError as error:
        raise CatalogError(f"{path} cannot be opened: {error.strerror}") from None


def _take(
    lock: LockFile, settings: Settings, mine: Holder, join: Optional[Callable[[Holder], None]],
    stack: contextlib.ExitStack,
) -> bool:  # fmt: skip
    """Locks it; whether another one had it before. Raises Busy."""
    waits, waited, unknown = places.waits_file(settings.state), False, time.monotonic() + SETTLE
    while True:
        if not lock.take():
            holder = _read(lock)
            if (holder is None or not holder.alive) and time.monotonic() < unknown:
                time.sleep(0.02)  # somebody looks who holds it, has just taken it, or is gone this moment
                continue
            if join is None and (mine.due or holder is None or not holder.due):
                raise Busy(_busy(holder), "stowage status")
            if not waited:
                waited = True
                stack.enter_context(_waiting(settings, mine))
            if holder is not None and holder.due:
                with contextlib.suppress(OSError):  # then it waits till the other is through
                    waits.touch(0o600)
            if join is not None and holder is not None:
                join(holder)
            time.sleep(STEP)
            unknown = time.monotonic() + SETTLE
            continue
        with contextlib.suppress(OSError):
            waits.unlink()  # who else waits says so again
        return waited


def _busy(holder: Optional[Holder]) -> str:
    return f"{holder.name} is at work {holder.told}" if holder is not None else "another run is at work"


def holder(settings: Settings) -> Optional[Holder]:
    """Who holds the lock now, None when nobody does; of one who does not say, a Holder of process 0."""
    try:
        lock = LockFile(places.lock_file(settings.state), os.O_RDWR)
    except OSError:
        return None
    with contextlib.closing(lock):
        return (_read(lock) or Holder(0, 0)) if lock.is_taken() else None


def is_waited_for(settings: Settings) -> bool:
    """Whether another run waits for the end of this small one."""
    try:
        return abs(time.time() - places.waits_file(settings.state).stat().st_mtime) < FRESH
    except OSError:
        return False


def waiting(settings: Settings) -> List[Holder]:
    """Who waits for the lock, the longest first."""
    found = []
    for path in _files(places.waiting_folder(settings.state)):
        with contextlib.suppress(OSError):
            with contextlib.closing(LockFile(path, os.O_RDWR | os.O_NOFOLLOW)) as note:
                if note.is_taken():
                    one = _read(note)
                    found += [one] if one is not None else []
                else:
                    os.unlink(path)  # it was killed while it waited
    return sorted(found, key=lambda one: one.since_ns)


def _files(folder: Path) -> List[Path]:
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError:
        return []


@contextmanager
def _waiting(settings: Settings, mine: Holder) -> Iterator[None]:
    """Lets others see that this process waits: a file that is locked as long as it does. It waits without it, too."""
    folder = places.waiting_folder(settings.state)
    hidden, shown = folder / f".{mine.pid}", folder / str(mine.pid)
    note: Optional[LockFile] = None
    try:
        with contextlib.suppress(OSError):
            files.make_folder(folder)
            note = LockFile(hidden, OPEN | os.O_TRUNC | os.O_NOFOLLOW)
            note.take()
            _say(note, mine)
            os.rename(hidden, shown)  # whoever sees it finds it locked
        yield
    finally:
        if note is not None and note.is_open:
            with contextlib.suppress(OSError):
                shown.unlink()
            note.close()


def started(pid: int) -> str:
    """When a process began, in the kernel's ticks; '' when there is none, or it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            words = stream.read().rpartition(b")")[2].split()
        return "" if words[0] in (b"Z", b"X") else words[19].decode()
    except (OSError, IndexError):
        return ""


def _say(lock: LockFile, mine: Holder) -> None:
    os.ftruncate(lock.fd, 0)
    os.pwrite(lock.fd, json.dumps(asdict(mine)).encode(), 0)


def _read(lock: LockFile) -> Optional[Holder]:
    """What stands in a locked file, None when that says nothing."""
    try:
        value = json.loads(os.pread(lock.fd, LONGEST, 0))
        words = {name: str(value.get(name, ""))[:WORDS] for name in ("what", "command", "user", "started")}
        return Holder(int(value["pid"]), int(value["since_ns"]), due=value.get("due") is True, **words)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
