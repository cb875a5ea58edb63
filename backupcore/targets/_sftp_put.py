"""One file on its way to an SFTP server: pipelined, synced, then linked or renamed into its place.

Here lives what survives a broken line: the bytes the server has acknowledged are never sent again, within a
put as across runs. Not here: connections, and the other methods of a target.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import time
from collections import deque
from typing import Any, Deque, Mapping, Optional, Set, Tuple

from backupcore.hookspecs import Paused, Stored, TargetError, WrongDigest

from . import _sftp_wire as wire

CHECKPOINT = 32 << 20  # bytes between two checkpoints, each after a sync at the server
TELL = 1 << 20
ATTEMPTS = 4  # at a broken line, without a byte more getting there
_TEMPORARY = re.compile(r"[0-9a-f]{16}\Z")


class Put:
    """One put under way."""

    def __init__(self, target, name, path, fd, if_absent, sha256, checkpoint, progress, pace=None):
        self.target, self.name, self.path, self.fd = target, name, path, fd
        self.if_absent, self.sha256, self.checkpoint, self.progress = if_absent, sha256, checkpoint, progress
        self.pace = pace or (lambda _count: None)
        facts = os.fstat(fd)
        self.size, self.modified_ns = facts.st_size, facts.st_mtime_ns
        self.temporary = secrets.token_hex(8)
        self.acked = 0  # all bytes before are at the server
        self.saved = 0
        self.told = 0
        self.placing = False

    def run(self, resume: Optional[Mapping[str, Any]]) -> Stored:
        """The whole way; a broken line is made again as long as that brings bytes over."""
        self._take_up(resume)
        self.pace(0)
        failures = 0
        try:
            while True:
                before = self.acked
                try:
                    with self.target.session(first_use=True) as session:
                        return self._go(session)
                except wire.Broken as error:
                    failures = 1 if self.acked > before else failures + 1
                    if not error.retry or failures >= ATTEMPTS:
                        raise
                time.sleep(0.2 * 2**failures)
        except (WrongDigest, wire.Refused):  # a full disk gets its room back
            self._forget()
            raise
        except BaseException:
            if self.checkpoint is None:
                self._forget()
            elif self.acked > self.saved:
                with contextlib.suppress(Exception):
                    self._save()
            raise

    def _take_up(self, resume: Optional[Mapping[str, Any]]) -> None:
        """What an earlier try left, when it is of this very file."""
        state = resume if isinstance(resume, Mapping) else {}
        temporary, offset = state.get("temporary"), state.get("offset")
        if not isinstance(temporary, str) or not _TEMPORARY.match(temporary) or type(offset) is not int:
            return
        if 0 < offset <= self.size and {**self._state(), "temporary": temporary, "offset": offset} == dict(state):
            self.temporary, self.acked, self.saved = temporary, offset, offset

    def _state(self) -> dict:
        return {
            "temporary": self.temporary,
            "offset": self.acked,
            "size": self.size,
            # the same digest is the same content; without one, the same time has to do
            "sha256": self.sha256 or "",
            "modified_ns": 0 if self.sha256 else self.modified_ns,
        }

    def _save(self) -> None:
        self.saved = self.acked
        if self.checkpoint:
            self.checkpoint(self._state())

    def _forget(self) -> None:
        with contextlib.suppress(TargetError, wire.Refused), self.target.session() as session:
            session.ask(wire.REMOVE, self._temporary())

    def _temporary(self) -> str:
        return self.target.at(f"{self.target.incoming}/{self.temporary}")

    # -- one line's try

    def _go(self, session: wire.Session) -> Stored:
        name = self.target.at(self.name)
        if self.placing:
            found, waiting = session.lstat(name), session.lstat(self._temporary())
            if waiting is None and found is not None and found.size == self.size:
                return self.target.stored(self.name, found)  # the answer was lost, not the deed
        if self.if_absent and session.lstat(name) is not None:
            raise self.target.exists(self.name)
        handle = self._opened(session)
        try:
            self._fill(session, handle)
        except BaseException:
            session.drop(handle)
            raise
        session.close_handle(handle)  # a quota may say no only now
        self.placing = True
        self._place(session, name)
        found = session.lstat(name)
        if found is None or found.kind != "f" or found.size != self.size:
            raise TargetError(f"{self.name} is not there after it was written", "look at the server's log")
        return self.target.stored(self.name, found)

    def _fill(self, session: wire.Session, handle: bytes) -> None:
        digest = self._digest_so_far()
        self._tell()
        self._send(session, handle, digest)
        if self.sha256 and digest.hexdigest() != self.sha256:
            raise WrongDigest(f"{self.path} is not what its checksum says")
        self._sync(session, handle)
        size = session.fstat(handle).size
        if size != self.size:
            self.acked = self.saved = 0
            raise TargetError(f"{self.name} is {size} bytes long there after {self.size} bytes were written")

    def _opened(self, session: wire.Session) -> bytes:
        """The temporary file, as long as was acknowledged at least; else from its beginning."""
        if self.acked:
            try:
                handle = session.open(self._temporary(), wire.FOR_WRITING)
                if self.acked <= session.fstat(handle).size <= self.size:
                    return handle
                session.close_handle(handle)
            except wire.Refused:
                pass
            # under another name: what the server still writes for a line that broke must not come into this one
            with contextlib.suppress(wire.Refused):
                session.ask(wire.REMOVE, self._temporary())
            self.temporary, self.acked, self.saved = secrets.token_hex(8), 0, 0
        flags = wire.FOR_WRITING | wire.MAKE | wire.TRUNCATE
        try:
            return session.open(self._temporary(), flags)
        except wire.Refused as error:
            if error.code != wire.NO_SUCH_FILE:
                raise
        self.target.make_folders(session, self.target.incoming.split("/"))
        return session.open(self._temporary(), flags)

    def _digest_so_far(self) -> Any:
        digest, done = hashlib.sha256(), 0
        while done < self.acked:
            data = self._read(done, min(1 << 20, self.acked - done))
            if not data:
                raise self._changed()
            digest.update(data)
            done += len(data)
        return digest

    def _read(self, offset: int, count: int) -> bytes:
        try:
            return os.pread(self.fd, count, offset)
        except OSError as error:
            raise TargetError(f"cannot read {self.path}: {error.strerror}") from None

    def _changed(self) -> TargetError:
        return TargetError(f"{self.path} changed while it was copied")

    def _send(self, session: wire.Session, handle: bytes, digest: Any) -> None:
        """Sends from what is acknowledged to the end, with WINDOW requests under way."""
        under_way: Deque[Tuple[int, int]] = deque()  # number, where it ends
        answered: Set[int] = set()
        sent = self.acked
        data = memoryview(b"")
        paused: Optional[Paused] = None
        while sent < self.size or under_way:
            # before a checkpoint all must be there, then synced
            pause = paused is not None or self.checkpoint is not None and sent - self.saved >= CHECKPOINT
            if sent < self.size and not pause and len(under_way) < wire.WINDOW:
                if not data:
                    data = memoryview(self._read(sent, min(wire.CHUNK * 32, self.size - sent)))
                    digest.update(data)
                    if not data:
                        raise self._changed()
                piece, data = data[: wire.CHUNK], data[wire.CHUNK :]
                try:
                    self.pace(len(piece))
                except Paused as error:
                    paused = error
                    continue
                number = session.send(wire.WRITE, handle, ("Q", sent), bytes(piece))
                sent += len(piece)
                under_way.append((number, sent))
                continue
            if under_way:
                number, kind, reader = session.answer()
                session.wanted(kind, reader, wire.STATUS)
                answered.add(number)
                while under_way and under_way[0][0] in answered:
                    number, self.acked = under_way.popleft()
                    answered.remove(number)
                if self.acked - self.told >= TELL:
                    self._tell()
            elif pause:
                self._sync(session, handle)
                self._save()
                if paused is not None:
                    raise paused
        self._tell()
        if self._read(self.size, 1):
            raise self._changed()

    def _tell(self) -> None:
        count, self.told = self.acked - self.told, max(self.told, self.acked)
        if count > 0 and self.progress:
            self.progress(count)

    def _sync(self, session: wire.Session, handle: bytes) -> None:
        if wire.FSYNC in session.extensions:
            session.extended(wire.FSYNC, handle)

    # -- into its place

    def _place(self, session: wire.Session, name: str) -> None:
        folders = self.name.split("/")[:-1]
        for attempt in range(5):  # a delete() beside us may remove a folder that it left empty
            try:
                if self.if_absent:
                    self._link(session, name)
                else:
                    self._replace(session, name)
                break
            except wire.Refused as error:
                if error.code != wire.NO_SUCH_FILE or attempt == 4:
                    raise
            self.target.make_folders(session, folders)
        self._sync_folder(session, "/".join(folders))

    def _link(self, session: wire.Session, name: str) -> None:
        """Never over an existing file: a hard link, then the old name goes; else a look and a rename."""
        temporary = self._temporary()
        if self.target.links(session):
            try:
                session.extended(wire.HARDLINK, temporary, name)
            except wire.Refused as error:
                if error.code == wire.NO_SUCH_FILE:
                    raise
                if session.lstat(name) is not None:
                    raise self.target.exists(self.name) from None
                if error.code == wire.DENIED:
                    raise
                self.target.without_links()
            else:
                session.ask(wire.REMOVE, temporary)
                return
        if session.lstat(name) is not None:
            raise self.target.exists(self.name)
        session.ask(wire.RENAME, temporary, name)

    def _replace(self, session: wire.Session, name: str) -> None:
        temporary = self._temporary()
        if wire.POSIX_RENAME in session.extensions:
            session.extended(wire.POSIX_RENAME, temporary, name)
            return
        if session.lstat(name) is not None:
            session.ask(wire.REMOVE, name)  # such a server renames onto nothing
        session.ask(wire.RENAME, temporary, name)

    def _sync_folder(self, session: wire.Session, folder: str) -> None:
        """OpenSSH opens a folder as it opens a file, so that it can be synced; others refuse, and nothing is lost."""
        if wire.FSYNC not in session.extensions:
            return
        with contextlib.suppress(wire.Refused):
            handle = session.open(self.target.at(folder) if folder else self.target.root, wire.FOR_READING)
            try:
                session.extended(wire.FSYNC, handle)
            finally:
                session.close_handle(handle)
