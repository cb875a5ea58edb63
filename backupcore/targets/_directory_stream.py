"""A file that is made below a folder while its bytes still come: written in `incoming`, synced, then linked in place.

Not here: what is special about the folder (directory.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from typing import Any

from backupcore.hookspecs import Stored, WrongDigest, to_the_end

from ._below import below, told
from ._prove import INCOMING
from ._streaming import Note

FLUSH = 64 << 20  # written bytes after which those before are on the disk, so that finish() does not take minutes


class DirectoryStream:
    """One file on its way. The folders stay open: a mount that changes below cannot lead it elsewhere."""

    def __init__(self, target: Any, name: str, folders, last: str, if_absent: bool, pace: Any):
        self.target, self.name, self.folders, self.last, self.if_absent = target, name, folders, last, if_absent
        self.pace = to_the_end(pace)
        self.what = f"cannot write {name} in {target.root}"
        self.size = self.flushed = 0
        self.hasher = hashlib.sha256()
        self.temporary = secrets.token_hex(8)
        self.note: Any = None
        with contextlib.ExitStack() as stack:
            stack.enter_context(told(self.what))
            self.root = stack.enter_context(target.opened(first_use=True))
            if if_absent:
                target.refuse_existing(self.root, name)
            self.incoming = stack.enter_context(below(self.root, [*INCOMING.split("/"), target.server], make=True))
            self.note = Note(target.folder, {"temporary": self.temporary})
            stack.callback(self.note.close)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self.fd = os.open(self.temporary, flags, 0o600, dir_fd=self.incoming)
            stack.callback(os.close, self.fd)
            self.stack = stack.pop_all()

    def write(self, data: Any) -> None:
        """Takes the next bytes."""
        if self.pace:
            self.pace(len(data))
        self.hasher.update(data)
        with self._telling():
            view = memoryview(data)
            while view:
                done = os.write(self.fd, view)
                view = view[done:]
                self.size += done
            if self.size - self.flushed >= FLUSH:
                os.fdatasync(self.fd)
                self.flushed = self.size

    def finish(self, sha256: str) -> Stored:
        """Synced, and under its name."""
        if self.hasher.hexdigest() != sha256:
            self.abort()
            raise WrongDigest(f"{self.name} came with other bytes than its checksum says")
        try:
            with self._telling():
                os.fsync(self.fd)
                os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)  # reading it back asks the disk
                self.target.place(self.root, self.incoming, self.temporary, self.folders, self.last, self.if_absent,
                                  self.name)  # fmt: skip
                found = self.target.found(self.root, self.name)
        except BaseException:
            self.abort()
            raise
        self.stack.close()
        return found or Stored(self.name, self.size)

    def abort(self) -> None:
        """Removes what was written."""
        with contextlib.suppress(OSError):
            os.unlink(self.temporary, dir_fd=self.incoming)
        with contextlib.suppress(OSError):
            self.stack.close()

    def _telling(self) -> Any:
        return told(self.what)
