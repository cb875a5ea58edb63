"""Which dumps are being read: what a restore, a drill or a verify reads is not pruned from under it.

    <state>/reading/<process>-<random>   who reads, and the names of the dumps; locked as long as its process lives

Here live the notes of those who read, and the look at them. Who reads writes its note and then looks in the catalog
where its dumps are; who removes writes to the catalog that a copy is none any more and then looks at the notes: of the
two, one always sees the other.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterable, Iterator, Optional

from .. import clock, files, text
from ..locks import OPEN, LockFile
from .records import is_alive

FOLDER = "reading"
LIMIT = 16 << 20  # bytes of a note that are read
WORDS = 100  # characters of what somebody says of itself


@contextmanager
def keep(state: Path, dumps: Iterable[str], what: str) -> Iterator[str]:
    """Keeps these dumps where they are until it is left, or its process ends. what: who reads, as a command.

    Gives '' or why they are not kept: a restore goes on all the same, also with a state disk that is full.
    """
    folder, name = state / FOLDER, f"{os.getpid()}-{secrets.token_hex(4)}"
    note: Optional[LockFile] = None
    path, why = folder / f".{name}", ""
    try:
        try:
            files.make_folder(folder)
            note = LockFile(path, OPEN | os.O_EXCL | os.O_NOFOLLOW)
            if os.geteuid() == 0:  # who prunes may be another user
                for one in (folder, path):
                    os.chown(one, *files.owner_of_state(state))
            note.take()
            head = {"pid": os.getpid(), "since_ns": clock.now_ns(), "what": what[:WORDS]}
            files.write_all(note.fd, "\n".join([json.dumps(head), *dumps, ""]).encode())
            os.rename(path, folder / name)  # who sees it finds it locked, and whole
            path = folder / name
        except OSError as error:
            why = f"what is read may be pruned meanwhile: {state / FOLDER} cannot be written: {error.strerror}"
        yield why
    finally:
        if note is not None and note.is_open:  # else this is a child that was forked
            with contextlib.suppress(OSError):
                path.unlink()
            note.close()


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
    with contextlib.closing(LockFile(path, os.O_RDONLY | os.O_NOFOLLOW)) as note:
        if note.is_taken():
            return os.pread(note.fd, min(os.fstat(note.fd).st_size, LIMIT), 0)
    path.unlink()
    return None


def _told(head: str) -> str:
    try:
        value = json.loads(head)
        what, since, pid = str(value["what"])[:WORDS], int(value["since_ns"]), int(value["pid"])
        return f"{text.escape(what)} (process {pid}, since {clock.local(since)})"
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        return "somebody"
