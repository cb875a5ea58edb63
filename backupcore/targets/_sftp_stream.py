"""A file that is made at an SFTP server while its bytes still come: what is not acknowledged stays in memory.

A line that breaks costs nothing but time: the next one sends what the server did not acknowledge, to the same place of
the same temporary file. How a file gets its name is _sftp_put.py's.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections import deque
from typing import Any, Callable, Deque, Optional, Tuple

from backupcore.hookspecs import Stored, TargetError, WrongDigest, to_the_end

from . import _sftp_wire as wire
from ._sftp_put import Put
from ._streaming import Note, Patience


class SftpStream(Put):
    """One file on its way, over a connection of its own."""

    def __init__(self, target: Any, name: str, if_absent: bool, pace: Any):
        self.target, self.name, self.if_absent = target, name, if_absent
        self.pace = to_the_end(pace) or (lambda _count: None)
        self.what = f"cannot write {name} to {target.place}"
        self.temporary = secrets.token_hex(8)
        self.size = 0
        self.placing = False
        self._hasher = hashlib.sha256()
        self._waiting: Deque[Tuple[int, bytes]] = deque()  # place and bytes of what is not acknowledged
        self._numbers: Deque[int] = deque()  # of the requests for them on this line
        self._answered: set = set()
        self._line: Optional[contextlib.ExitStack] = None
        self._session: Any = None
        self._handle = b""
        self._patience = Patience(self.pace)
        self.note: Optional[Note] = None
        with target.told(self.what):
            if if_absent:
                self._do(self._refuse_existing)
            self.note = Note(target.folder, {"temporary": self.temporary})
            try:
                self._do(lambda: self._open())
            except BaseException:
                self.abort()
                raise

    # -- the contract

    def write(self, data: Any) -> None:
        """Takes the next bytes; waits while more than the window are on their way."""
        self._hasher.update(data)
        view = memoryview(data)
        with self.target.told(self.what):
            for begin in range(0, len(view), wire.CHUNK):
                piece = bytes(view[begin : begin + wire.CHUNK])
                self.pace(len(piece))
                self._waiting.append((self.size, piece))
                self.size += len(piece)
                self._do(self._window)

    def finish(self, sha256: str) -> Stored:
        """All acknowledged, synced, and under its name."""
        try:
            if self._hasher.hexdigest() != sha256:
                raise WrongDigest(f"{self.name} came with other bytes than its checksum says")
            with self.target.told(self.what):
                stored = self._do(self._settle)
        except BaseException:
            self.abort()
            raise
        self._end_line(True)
        if self.note is not None:
            self.note.close()
        return stored

    def abort(self) -> None:
        """Removes what was sent; what cannot be removed now is clean()'s."""
        gone = False
        self._end_line(False)
        with contextlib.suppress(Exception), self.target.session() as session:
            try:
                session.ask(wire.REMOVE, self._temporary())
                gone = True
            except wire.Refused as error:
                gone = error.code == wire.NO_SUCH_FILE
        if self.note is not None:
            self.note.close(keep=not gone)

    # -- inside

    def _do(self, step: Callable[[], Any]) -> Any:
        """step, again on a new line when the line broke."""
        while True:
            try:
                found = step()
                self._patience.worked()
                return found
            except TargetError as error:  # of a broken line, or of one that cannot be made now
                self._end_line(False)
                self._patience.again(error)

    def _refuse_existing(self) -> None:
        with self.target.session(first_use=True) as session:
            if session.lstat(self.target.at(self.name)) is not None:
                raise self.target.exists(self.name)

    def _open(self) -> None:
        """A line with the temporary file open, and all that waits sent."""
        if self._session is not None:
            return
        line = contextlib.ExitStack()
        try:
            session = line.enter_context(self.target.session(first_use=True))
            flags = wire.FOR_WRITING | wire.MAKE
            try:
                handle = session.open(self._temporary(), flags)
            except wire.Refused as error:
                if error.code != wire.NO_SUCH_FILE:
                    raise
                self.target.make_folders(session, self.target.incoming.split("/"))
                handle = session.open(self._temporary(), flags)
            acked = self._waiting[0][0] if self._waiting else self.size
            if session.fstat(handle).size < acked:
                raise TargetError(f"{self.what}: the server lost bytes that it had acknowledged", "look at its log")
        except BaseException:
            line.close()
            raise
        self._line, self._session, self._handle = line, session, handle

    def _window(self, most: int = wire.WINDOW - 1) -> None:
        """Sends what waits, and takes answers until no more than that are under way."""
        self._open()
        session = self._session
        while len(self._numbers) < len(self._waiting):
            place, piece = self._waiting[len(self._numbers)]
            self._numbers.append(session.send(wire.WRITE, self._handle, ("Q", place), piece))
            if len(self._numbers) > most:
                self._answer()
        while len(self._numbers) > most:
            self._answer()

    def _answer(self) -> None:
        number, kind, reader = self._session.answer()
        self._session.wanted(kind, reader, wire.STATUS)
        self._answered.add(number)
        while self._numbers and self._numbers[0] in self._answered:
            self._answered.remove(self._numbers.popleft())
            self._waiting.popleft()
            self._patience.worked()

    def _settle(self) -> Stored:
        if self.placing:
            with self.target.session() as session:
                name = self.target.at(self.name)
                found, waiting = session.lstat(name), session.lstat(self._temporary())
                if waiting is None and found is not None and found.size == self.size:
                    return self.target.stored(self.name, found)  # the answer was lost, not the deed
        self._window(0)
        session = self._session
        self._sync(session, self._handle)
        size = session.fstat(self._handle).size
        if size != self.size:
            raise TargetError(f"{self.name} is {size} bytes long there after {self.size} bytes were written")
        session.close_handle(self._handle)  # a quota may say no only now
        self._handle = b""
        self.placing = True
        self._place(session, self.target.at(self.name))
        found = session.lstat(self.target.at(self.name))
        if found is None or found.kind != "f" or found.size != self.size:
            raise TargetError(f"{self.name} is not there after it was written", "look at the server's log")
        return self.target.stored(self.name, found)

    def _end_line(self, good: bool) -> None:
        """Gives the connection back; one with answers under way is closed by the target."""
        line, session, handle = self._line, self._session, self._handle
        self._line, self._session, self._handle = None, None, b""
        self._numbers.clear()
        self._answered.clear()
        if line is not None:
            if handle and not good:
                with contextlib.suppress(Exception):
                    session.drop(handle)
            with contextlib.suppress(Exception):
                line.close()
