"""Which dumps are being read: what a restore, a drill or a verify reads is not pruned from under it.

    <state>/reading/<process>-<random>   who reads, and the names of the dumps; locked as long as its process lives

Here live the notes of those who read, and the look at them. Who reads writes its note and then looks in the catalog
where its dumps are; who removes writes to the catalog that a copy is none any more and then looks at the notes: of the
two, one always sees the other.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterable, Iterator, Optional, Set

from .. import clock, files, text
from .records import is_alive

FOLDER = "reading"
LIMIT = 16 << 20  # bytes of a note that are read
WORDS = 100  # characters of what somebody says of itself

_held: Set[int] = set()  # the locked files of this process


@contextmanager
def keep(state: Path, dumps: Iterable[str], what: str) -> Iterator[str]:
    """Keeps these dumps where they are until it is left, or its process ends. what: who reads, as a command.

    Gives '' or why they are not kept: a restore goes on all the same, also with a state disk that is full.
    """
    folder, name = state / FOLDER, f"{os.getpid()}-{secrets.token_hex(4)}"
    fd, path, why = -1, folder / f".{name}", ""
    try:
        try:
            files.make_folder(folder)
            fd = files.create(path)
            _held.add(fd)
            if os.geteuid() == 0:  # who prunes may be another user
                for one in (folder, path):
                    os.chown(one, *files.owner_of_state(state))
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            head = {"pid": os.getpid(), "since_ns": clock.now_ns(), "what": what[:WORDS]}
            files.write_all(fd, "\n".join([json.dumps(head), *dumps, ""]).encode())
            os.rename(path, folder / name)  # who sees it finds it locked, and whole
            path = folder / name
        except OSError as error:
            why = f"what is read may be pruned meanwhile: {state / FOLDER} cannot be written: {error.strerror}"
        yield why
    finally:
        if fd in _held:  # else this is a child that was forked
            _held.discard(fd)
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(fd)


def now(state: Path) -> Dict[str, str]:
    """Name of each dump that is being read -> by whom, for people. Takes away what killed readers left."""
    found: Dict[str, str] = {}
    try:
        entries = list((state / FOLDER).iterdir())
    except OSError:
        return found
    for path in entries:
        with contextlib.suppress(OSError, ValueError, OverflowError):
            if path.name.startswith("."):  # it is being made, or its maker was killed
                if not is_alive(int(path.name[1:].partition("-")[0])):
                    path.unlink()
                continue
            data = _of_the_living(path)
            if data is not None:
                head, *names = data.decode("ascii", "replace").splitlines()
                told = _told(head)
                found.update((name, told) for name in names)
    return found


def _of_the_living(path: Path) -> Optional[bytes]:
    """What a note says, None when nobody holds it any more; then it is taken away."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(fd, min(os.fstat(fd).st_size, LIMIT), 0)
    finally:
        os.close(fd)
    path.unlink()
    return None


def _told(head: str) -> str:
    try:
        value = json.loads(head)
        what, since, pid = str(value["what"])[:WORDS], int(value["since_ns"]), int(value["pid"])
        return f"{text.escape(what)} (process {pid}, since {clock.local(since)})"
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        return "somebody"


def _forget() -> None:
    """In a child that was forked: its copies would keep dumps when their reader is killed."""
    for fd in _held:
        with contextlib.suppress(OSError):
            os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
