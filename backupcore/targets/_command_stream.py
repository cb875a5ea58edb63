"""A file that is made by a program while its bytes still come: they go to its standard input.

Not here: which program, and what it must be able to do (command.py).
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any

from backupcore.hookspecs import Stored, WrongDigest, to_the_end

from ._streaming import Note


class CommandStream:
    """One program under way."""

    def __init__(self, target: Any, name: str, if_absent: bool, timeout: float, pace: Any):
        self.target, self.name, self.if_absent, self.timeout = target, name, if_absent, timeout
        self.pace = to_the_end(pace)
        self.before = target.before(name, if_absent)
        self.at = target.temporary() if target.moves else name
        self.size = 0
        self.hasher = hashlib.sha256()
        # without a move nothing is noted: by the time a note is found the name may be another's
        self.note = Note(target.folder, {"temporary": self.at}) if target.moves else None
        self.stack = contextlib.ExitStack()
        try:
            self.run = self.stack.enter_context(target.begin(name, self.at))
        except BaseException:
            self.abort()
            raise

    def write(self, data: Any) -> None:
        """Feeds it the next bytes."""
        if self.pace:
            self.pace(len(data))
        self.hasher.update(data)
        self.run.feed(data, self.timeout)
        self.size += len(data)

    def finish(self, sha256: str) -> Stored:
        """Tells it that this was all, and looks at what it made."""
        try:
            if self.hasher.hexdigest() != sha256:
                raise WrongDigest(f"{self.name} came with other bytes than its checksum says")
            self.run.end_of_feed()
            self.run.end()
            self.stack.close()
            stored = self.target.settled(self.name, self.at, self.size, self.if_absent)
        except BaseException:
            self.abort()
            raise
        if self.note is not None:
            self.note.close()
        return stored

    def abort(self) -> None:
        """Ends the program before it sees an end of its input, and removes what it made."""
        with contextlib.suppress(OSError):
            self.stack.close()
        gone = self.target.forget(self.name, self.at, self.before)
        if self.note is not None:
            self.note.close(keep=not gone)
