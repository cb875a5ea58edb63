"""The target `sftp`: a folder of an SSH server, as NAS boxes and storage boxes offer it.

Here lives the contract's face: what is there, reading, listing, removing, and the connections in use. Not
here: how a file gets there (_sftp_put.py), login and host key (_sftp_connect.py), packets (_sftp_wire.py).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Iterator, List, Optional, Tuple

from backupcore import text
from backupcore.hookspecs import (
    Finding,
    Stored,
    TargetCapabilities,
    TargetContext,
    TargetDriver,
    TargetError,
    safe_name,
)

from . import _sftp_wire as wire
from . import _streaming as streaming
from ._prove import INCOMING, MARK, proven
from ._sftp_connect import SftpOptions, connect
from ._sftp_put import ATTEMPTS, Put
from ._sftp_stream import SftpStream

PIECE = 256 << 10


class SftpTarget:
    """Files below one folder. Each action has a connection of its own; those not in use wait for the next."""

    def __init__(self, options: SftpOptions, context: TargetContext):
        self._options = options
        self._context = context
        self.folder = context.folder
        self.root = options.path
        self.incoming = f"{INCOMING}/{context.server_id}"
        self.place = f"{options.host}:{options.path}"
        self._seen = context.folder / "used"  # there once this server has used the target
        self._lock = threading.Lock()
        self._idle: List[wire.Session] = []
        self._putting = threading.BoundedSemaphore(options.parallel)
        self._extensions: Optional[Dict[str, str]] = None
        self._hard_links = True

    @property
    def capabilities(self) -> TargetCapabilities:
        """Overwrite protection where the server makes hard links; asks it once."""
        if self._extensions is None:
            self._do(f"cannot use {self.place}", lambda session: None)
        protects = wire.HARDLINK in (self._extensions or {}) and self._hard_links
        return TargetCapabilities(
            ranged_reads=True, overwrite_protection=protects, delete=True, tells_others=True, streams=True
        )  # fmt: skip

    # -- the contract

    def put(self, name, path, *, if_absent=False, sha256=None, resume=None, checkpoint=None, progress=None,
            pace=None) -> Stored:  # fmt: skip
        """Sends the file to `.stowage/incoming`, then puts it in its place; goes on where an earlier try stopped."""
        safe_name(name)
        try:
            file = open(path, "rb", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise TargetError(f"cannot read {path}: {error.strerror}") from None
        with file, self._putting, self.told(f"cannot write {name} to {self.place}"):
            return Put(self, name, Path(path), file.fileno(), if_absent, sha256, checkpoint, progress,
                       pace).run(resume)  # fmt: skip

    def stream(self, name, *, if_absent=False, pace=None) -> SftpStream:
        """Begins a file whose length nobody knows yet, over a connection of its own."""
        safe_name(name)
        if pace:
            pace(0)
        return SftpStream(self, name, if_absent, pace)

    def read(self, name, offset=0, length=None) -> Iterator[bytes]:
        """The bytes, asked for ahead in bounded memory; when the line breaks, goes on behind what came."""
        safe_name(name)
        if length == 0:
            return
        end = None if length is None else offset + length
        seen: Optional[wire.Attrs] = None
        failures = 0
        with self.told(f"cannot read {name} from {self.place}"):
            while True:
                try:
                    with self.session() as session:
                        handle = session.open(self.at(name), wire.FOR_READING)
                        try:
                            facts = session.fstat(handle)
                            if seen not in (None, facts):
                                raise TargetError(f"{name} in {self.place} changed while it was read")
                            seen = facts
                            end = max(facts.size, offset) if end is None else end
                            if end > facts.size and end > offset:
                                raise TargetError(f"{name} in {self.place} ends {end - facts.size} bytes too early")
                            for piece in _pieces(session, handle, offset, end):
                                failures = 0
                                offset += len(piece)
                                yield piece
                        finally:
                            session.drop(handle)
                        return
                except wire.Broken as error:
                    failures += 1
                    if not error.retry or failures >= ATTEMPTS:
                        raise
                time.sleep(0.2 * 2**failures)

    def stat(self, name) -> Optional[Stored]:
        """The file, None when there is none."""
        safe_name(name)
        found = self._do(f"cannot look at {name} in {self.place}", lambda session: session.lstat(self.at(name)))
        return self.stored(name, found) if found is not None and found.kind == "f" else None

    def list(self, prefix="") -> Iterator[Stored]:
        """All files in order of their names; what is no plain file or has no safe name is passed over."""
        if prefix:
            safe_name(prefix.rstrip("/") or "x")
        start = prefix.rpartition("/")[0]
        yield from self._tree(start + "/" if start else "", prefix)

    def others(self, folder) -> Iterator[str]:
        """Folders, links, devices and files with names that are not safe, in the folder."""
        safe_name(folder)
        what = f"cannot list {folder} in {self.place}"
        return iter(self._do(what, lambda session: _odd(session, self.at(folder), folder + "/")))

    def delete(self, name) -> None:
        """Removes the file and the folders that it leaves empty."""
        safe_name(name)
        self._do(f"cannot remove {name} from {self.place}", lambda session: self._delete(session, name))

    def probe(self) -> Iterator[Finding]:
        """Logs in, then writes, reads, lists and removes a file of its own."""
        try:
            with self.told(f"cannot use {self.place}"), self.session() as session:
                extensions = session.extensions
        except TargetError as error:
            yield Finding(False, "login", error.message, error.hint)
            return
        yield Finding(True, "login", f"{self._options.user} is let in, the host key is the pinned one")
        yield from proven(self, self._context, self.place)
        synced = wire.FSYNC in extensions
        message = "files are synced" if synced else "the server cannot be asked to sync files"
        hint = "" if synced else "a power cut there may cost the newest copies"
        yield Finding(True, "durable", message, hint, not synced)
        with contextlib.suppress(TargetError):
            space = self._do("", lambda session: session.space(self.root))
            if space:
                yield Finding(True, "space", text.size(space[0]) + " free")

    def clean(self, older_than_ns) -> int:
        """Removes this server's files in `incoming` that were last written before that time, or that streams left."""
        return self._do(f"cannot clean {self.place}", lambda session: self._clean(session, older_than_ns))

    def close(self) -> None:
        """Ends the connections that wait."""
        with self._lock:
            idle, self._idle = self._idle, []
        for session in idle:
            session.close()

    # -- for Put

    def at(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    def stored(self, name: str, found: wire.Attrs) -> Stored:
        return Stored(name, found.size, found.modified_ns)

    def exists(self, name: str) -> TargetError:
        return TargetError(f"{name} is already in {self.place}", "another server or an earlier run put it there")

    def links(self, session: wire.Session) -> bool:
        return self._hard_links and wire.HARDLINK in session.extensions

    def without_links(self) -> None:
        self._hard_links = False

    def make_folders(self, session: wire.Session, folders: List[str]) -> None:
        """The folder below the root with those above; what is wrong is told by what is done there next."""
        for depth in range(1, len(folders) + 1):
            with contextlib.suppress(wire.Refused):
                session.mkdir(self.at("/".join(folders[:depth])))

    @contextlib.contextmanager
    def session(self, first_use: bool = False) -> Iterator[wire.Session]:
        """A connection of one's own; one that is left with answers under way is closed."""
        with self._lock:
            session = self._idle.pop() if self._idle else None
        if session is None:
            session = connect(self._options, self._context.name)
            self._extensions = session.extensions
        keep = False
        try:
            self._look_at_mark(session, first_use)
            yield session
            keep = True
        except (wire.Refused, TargetError):
            keep = True
            raise
        finally:
            with self._lock:
                keep = keep and not session.broken and not session.under_way
                keep = keep and len(self._idle) < self._options.parallel
                if keep:
                    self._idle.append(session)
                waiting = [session] if not keep else []
                if session.broken:  # those that waited beside it have lost the line as well
                    waiting, self._idle = waiting + self._idle, []
            for one in waiting:
                one.close()

    # -- inside

    def _look_at_mark(self, session: wire.Session, first_use: bool) -> None:
        """Whether this is the place, and not the bare mount point of a disk that is away there."""
        if getattr(session, "marked", False):
            return
        used = self._seen.exists()
        mark = session.lstat(self.at(MARK))
        if mark is None and used:
            hint = f"is its disk mounted there? If it is a new and empty place on purpose: rm {self._seen}"
            raise TargetError(f"{self.place} lost its {MARK} folder", hint)
        if mark is None and first_use:
            parts = self.root.split("/")
            for depth in range(1, len(parts) + 1):
                folder = "/".join(parts[:depth])
                if folder and folder != ".":
                    with contextlib.suppress(wire.Refused):
                        session.mkdir(folder)
            try:
                session.mkdir(self.at(MARK))
            except wire.Refused:
                if session.lstat(self.at(MARK)) is None:  # else another thread was quicker
                    raise
        if first_use and not used:
            self._seen.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._seen.touch(0o600)
        if mark is not None or first_use:
            session.marked = True

    def _do(self, what: str, action: Callable[[wire.Session], Any]) -> Any:
        """An action that may be done twice, again when the line broke."""
        with self.told(what):
            for attempt in range(ATTEMPTS):
                try:
                    with self.session() as session:
                        return action(session)
                except wire.Broken as error:
                    if not error.retry or attempt == ATTEMPTS - 1:
                        raise
                time.sleep(0.2 * 2**attempt)
        raise AssertionError

    @contextlib.contextmanager
    def told(self, what: str) -> Iterator[None]:
        """A refusal or broken line inside becomes a TargetError of one line."""
        try:
            yield
        except wire.Refused as error:
            raise self._explained(error, what) from None
        except wire.Broken as error:
            raise TargetError(f"{what}: {error.message}", error.hint, error.retry) from None

    def _explained(self, error: wire.Refused, what: str) -> TargetError:
        message = text.escape(" ".join(error.message.split()))[:200]
        if error.code == wire.NO_SUCH_FILE:
            return TargetError(f"{what}: it is not there")
        if error.code == wire.DENIED:
            hint = f"give {self._options.user} the right to it there; or is it mounted read-only?"
            return TargetError(f"{what}: permission denied", hint)
        # all else comes as one code: a full disk, a quota, an ill disk
        with contextlib.suppress(TargetError, wire.Refused), self.session() as session:
            space = session.space(self.root)
            if space and space[0] < 1 << 20:
                return TargetError(f"{what}: no space left there", "make room there")
        hint = "is the disk full, the quota used up, or is it read-only there? Look at the server's log"
        return TargetError(f"{what}: the server says {message or error.code}", hint)

    def _tree(self, folder: str, prefix: str) -> Iterator[Stored]:
        if folder == INCOMING + "/":
            return
        for stored in self._do(f"cannot list {self.place}", lambda session: _listed(session, self, folder)):
            if stored.name.endswith("/"):
                if stored.name.startswith(prefix) or prefix.startswith(stored.name):
                    yield from self._tree(stored.name, prefix)
            elif stored.name.startswith(prefix):
                yield stored

    def _delete(self, session: wire.Session, name: str) -> None:
        try:
            session.ask(wire.REMOVE, self.at(name))
        except wire.Refused as error:
            if error.code == wire.NO_SUCH_FILE:
                return
            raise
        folders = name.split("/")[:-1]
        while folders and folders != [MARK]:
            try:
                session.ask(wire.RMDIR, self.at("/".join(folders)))
            except wire.Refused:
                return
            folders = folders[:-1]

    def _clean(self, session: wire.Session, older_than_ns: int) -> int:
        removed = 0
        notes = {str(facts.get("temporary")).encode(): path for path, facts in streaming.left(self.folder)}
        folder = self.at(self.incoming)
        try:
            found = list(session.names(folder))
        except wire.Refused as error:
            if error.code != wire.NO_SUCH_FILE:
                raise
            found = []
        for raw, facts in found:
            old = facts.modified_ns < older_than_ns or raw in notes
            if facts.kind == "f" and old and b"/" not in raw:
                session.ask(wire.REMOVE, folder.encode() + b"/" + raw)
                removed += 1
        for note in notes.values():
            note.unlink(missing_ok=True)
        return removed


def _listed(session: wire.Session, target: SftpTarget, folder: str) -> List[Stored]:
    """What a folder holds, folders with a slash at the end, in the order of whole names' bytes."""
    found: Dict[str, Stored] = {}
    try:
        for raw, facts in session.names(target.at(folder).rstrip("/") or "/"):
            if b"/" in raw or not facts.kind:
                continue
            try:
                name = safe_name(folder + raw.decode("utf-8"))
            except (UnicodeDecodeError, TargetError):
                continue
            name += "/" if facts.kind == "d" else ""
            found[name] = target.stored(name, facts)
    except wire.Refused as error:
        if error.code != wire.NO_SUCH_FILE:
            raise
        return []
    return [found[name] for name in sorted(found, key=str.encode)]


def _odd(session: wire.Session, path: str, prefix: str) -> List[str]:
    """What is no plain file with a safe name in a folder; a folder with a slash at the end."""
    found = []
    try:
        for raw, facts in session.names(path):
            if raw in (b".", b".."):
                continue
            name = prefix + raw.decode("utf-8", "surrogateescape")
            with contextlib.suppress(TargetError):
                if facts.kind == "f" and b"/" not in raw and safe_name(name):
                    continue
            found.append(name + "/" if facts.kind == "d" else name)
    except wire.Refused as error:
        if error.code != wire.NO_SUCH_FILE:
            raise
    return sorted(found)


def _pieces(session: wire.Session, handle: bytes, offset: int, end: int) -> Iterator[bytes]:
    """The bytes from offset to end, with WINDOW requests under way."""
    wanted: Deque[Tuple[int, int, int]] = deque()  # number, from, how many
    came: Dict[int, bytes] = {}
    ready: List[bytes] = []
    asked, held = offset, 0
    while wanted or asked < end:
        while asked < end and len(wanted) < wire.WINDOW:
            count = min(wire.CHUNK, end - asked)
            wanted.append((session.send(wire.READ, handle, ("Q", asked), count), asked, count))
            asked += count
        number, start, count = wanted[0]
        if number not in came:
            answered, kind, reader = session.answer()
            try:
                with session.sense():
                    came[answered] = session.wanted(kind, reader, wire.DATA).string()
            except wire.Refused as error:
                if error.code == wire.EOF:
                    raise TargetError(f"it ends before byte {end}, though the server said otherwise") from None
                raise
            continue
        data = came.pop(number)
        wanted.popleft()
        if not 0 < len(data) <= count:
            session.broken = True
            raise TargetError("the server gave another number of bytes than it was asked for")
        if len(data) < count:  # allowed: the rest is asked for again
            rest = (session.send(wire.READ, handle, ("Q", start + len(data)), count - len(data)), start + len(data))
            wanted.appendleft((*rest, count - len(data)))
        ready.append(data)
        held += len(data)
        if held >= PIECE or not wanted:
            yield b"".join(ready)
            ready, held = [], 0
    if ready:
        yield b"".join(ready)


DRIVER = TargetDriver("sftp", "a folder of an SSH server (SFTP)", SftpOptions, SftpTarget,
                      ("password", "passphrase"), remote=True)  # fmt: skip
