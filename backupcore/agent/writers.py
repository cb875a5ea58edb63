"""Writing the contents of small files, most of a restore's work: one by one here, or by processes beside.

Here live `put_files` and the pool of processes that runs it. A job names a file in an open folder, a place in
a piece of the archive and the metadata; the processes get folders as descriptors and pieces in shared memory,
so they never see a path.
"""

from __future__ import annotations

import array
import errno
import hashlib
import marshal
import mmap
import os
import queue
import select
import signal
import socket
import threading
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from ..errors import StowageError
from .linux_write import (
    NEW_FILE,
    SPECIAL_BITS,
    Attributes,
    Rights,
    drop_inherited_acl,
    final_mode,
    owner_to_set,
    put_on_descriptor,
    remove_tree,
)

SLOT = 6 << 20
SLOTS = 5
BATCH_FILES = 256
BATCH_BYTES = 1 << 20
BATCH_FOLDERS = 200  # a message carries at most 253 descriptors
_BATCH_TEXT = 96 << 10  # and about this many bytes of names and attributes
_MESSAGE = 256 << 10
_PATIENCE = 900  # seconds for a batch of at most 1 MiB and 256 files
WRONG = "its content is not what the index says: not restored"
# (folder, name, start, length, digest or None, mode, uid, gid, mtime_ns, xattrs or None)
Job = Tuple[int, bytes, int, int, Optional[bytes], int, int, int, int, Optional[Dict[bytes, bytes]]]
# (folder, name, whether it is a failure, what happened)
Problem = Tuple[int, bytes, bool, str]


class How(NamedTuple):
    """How entries are put in place. existing: refuse, overwrite or keep; now: access time of what is written."""

    existing: str
    exact: bool
    rights: Rights
    now: int


def temporary_name() -> bytes:
    """A name for what is not whole yet."""
    return b".stowage-" + os.urandom(6).hex().encode("ascii")


def put_files(jobs: Sequence[Job], folders: Sequence[int], inherit: Sequence[bool], data: memoryview,
              how: How, lost: Set[str]) -> Tuple[int, int, List[Problem]]:  # fmt: skip
    """Writes all jobs; (files, bytes, problems). folders: descriptors; inherit: whether one has a default ACL."""
    files = total = 0
    problems: List[Problem] = []
    owners: List[Optional[Tuple[int, int]]] = [None] * len(folders)
    rights, now = how.rights, how.now
    sha256 = hashlib.sha256
    open_, write, close, utime = os.open, os.write, os.close, os.utime
    for folder, name, start, length, digest, mode, uid, gid, mtime_ns, xattrs in jobs:
        content = data[start : start + length]
        if digest is not None and sha256(content).digest() != digest:
            problems.append((folder, name, True, WRONG))
            continue
        place = folders[folder]
        plain = xattrs is None and not mode & SPECIAL_BITS and not inherit[folder]
        temporary = None
        try:
            try:
                fd = open_(name, NEW_FILE, mode if plain else mode & 0o700 | 0o200, dir_fd=place)
            except FileExistsError:
                if how.existing != "overwrite":
                    problems.append(exists(folder, name, how))
                    continue
                temporary = temporary_name()
                fd = open_(temporary, NEW_FILE, mode if plain else mode & 0o700 | 0o200, dir_fd=place)
            try:
                if length:
                    done = write(fd, content)
                    while done < length:
                        done += write(fd, content[done:])
                owner = owners[folder]
                if owner is None:
                    status = os.fstat(fd)
                    owner = owners[folder] = status.st_uid, status.st_gid
                if plain:
                    if owner != (uid, gid):
                        change = owner_to_set(owner, Attributes(mode, uid, gid, mtime_ns, {}), rights, lost)
                        if change:
                            try:
                                os.chown(fd, *change)
                            except PermissionError:
                                lost.add("owners")
                    utime(fd, ns=(now, mtime_ns))
                else:
                    if inherit[folder]:
                        drop_inherited_acl(fd, False)
                    want = Attributes(mode, uid, gid, mtime_ns, xattrs or {})
                    put_on_descriptor(fd, owner, want, final_mode(mode, rights, lost), rights, lost, now)
                if temporary is not None:
                    put_in_place(place, temporary, name, how.exact)
            except BaseException:
                os.unlink(name if temporary is None else temporary, dir_fd=place)
                raise
            finally:
                close(fd)
        except OSError as error:
            problems.append((folder, name, True, what(error)))
            continue
        files += 1
        total += length
    return files, total, problems


def exists(folder: int, name: bytes, how: How) -> Problem:
    """The problem of a name that is taken."""
    if how.existing == "keep":
        return folder, name, False, "kept: it exists"
    return folder, name, True, "exists: not restored"


def put_in_place(folder: int, temporary: bytes, name: bytes, exact: bool) -> None:
    """Renames a finished entry over whatever has its name. Raises OSError when a folder with content does."""
    try:
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        return
    except (IsADirectoryError, FileExistsError, OSError) as error:
        if error.errno not in (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST):
            raise
    if exact:
        remove_tree(folder, name)
    else:
        try:
            os.rmdir(name, dir_fd=folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise OSError(errno.ENOTEMPTY, "a folder with content is in its place (--exact replaces it)") from None
    os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


def what(error: OSError) -> str:
    """An error of the system in one line, without the name."""
    return error.strerror or "error %s" % error.errno


# ---------------------------------------------------------------- processes


class Batch:
    """Jobs that go out together. folders: objects with .fd, .inherits and .path."""

    __slots__ = ("number", "slot", "jobs", "folders", "bytes", "text")

    def __init__(self, number: int, slot: int):
        self.number = number
        self.slot = slot
        self.jobs: List[Job] = []
        self.folders: List[Any] = []
        self.bytes = 0
        self.text = 0

    @property
    def full(self) -> bool:
        """Whether it should go out before another file is added."""
        return (
            len(self.jobs) >= BATCH_FILES
            or self.bytes >= BATCH_BYTES
            or len(self.folders) >= BATCH_FOLDERS
            or self.text >= _BATCH_TEXT
        )


class Pool:
    """Processes that write files. Make it before any thread is started; close() it in the end.

    results: (batch, files, bytes, problems, lost) of finished batches, to be taken by the one who makes them.
    """

    def __init__(self, count: int, how: How):
        self._memory = mmap.mmap(-1, SLOT * SLOTS)
        self._view = memoryview(self._memory)
        self._free: "queue.Queue[int]" = queue.Queue()
        for number in range(SLOTS):
            self._free.put(number)
        self._users = [0] * SLOTS  # batches on their way, and one while the piece is being read
        self._lock = threading.Condition()
        self._out: Dict[int, Batch] = {}
        self.results: "queue.SimpleQueue[Tuple[Batch, int, int, List[Problem], List[str]]]" = queue.SimpleQueue()
        self._broken = False
        self._jobs, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._acks, acks = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._jobs, theirs, acks):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _MESSAGE)
        self._children: List[int] = []
        for _ in range(count):
            child = os.fork()
            if child == 0:
                self._child(theirs, acks, how)
            self._children.append(child)
        theirs.close()
        acks.close()
        self._listener = threading.Thread(target=self._listen, name="writers", daemon=True)
        self._listener.start()

    # ---- slots: pieces of archive in shared memory

    def take(self, length: int, stopping: threading.Event) -> int:
        """A free slot for a piece, -1 when it is too long for one."""
        while length <= SLOT and not stopping.is_set() and not self._broken:
            try:
                slot = self._free.get(timeout=0.5)
            except queue.Empty:
                continue
            self._users[slot] = 1
            return slot
        return -1

    def put(self, slot: int, data: bytes) -> None:
        """Copies a piece into its slot."""
        self._view[slot * SLOT : slot * SLOT + len(data)] = data

    def piece(self, slot: int, start: int, length: int) -> memoryview:
        """A part of the piece in a slot."""
        return self._view[slot * SLOT + start : slot * SLOT + start + length]

    def release(self, slot: int) -> None:
        """The piece in a slot was read to its end, or a batch on it is done."""
        if slot >= 0:
            with self._lock:
                self._users[slot] -= 1
                if not self._users[slot]:
                    self._free.put(slot)

    # ---- batches

    def send(self, batch: Batch) -> None:
        """Gives a batch to whichever process is free first."""
        text = marshal.dumps((batch.number, batch.slot, [f.inherits for f in batch.folders], batch.jobs))
        with self._lock:
            self._users[batch.slot] += 1
            self._out[batch.number] = batch
        descriptors = array.array("i", [folder.fd for folder in batch.folders])
        try:
            self._jobs.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        except OSError:
            self._broken = True
        self.check()

    def oldest(self) -> int:
        """The number of the oldest batch that is not done; a very high one when all are."""
        with self._lock:
            return next(iter(self._out), 1 << 62)  # in the order they were sent

    def wait(self, number: int) -> None:
        """Waits until all batches up to number are done."""
        with self._lock:
            while not self._broken and next(iter(self._out), number + 1) <= number:
                self._lock.wait(1.0)
        self.check()

    def check(self) -> None:
        """Raises StowageError when a process died."""
        if self._broken:
            raise StowageError("a writing process of the agent died", "see the client's kernel log; was memory short?")

    def close(self) -> None:
        """Ends the processes, which finish what they have."""
        self._jobs.close()
        for child in self._children:
            try:
                os.waitpid(child, 0)
            except ChildProcessError:
                pass
        self._children = []
        self._listener.join()
        self._acks.close()

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._acks.fileno(), select.POLLIN)
        while True:
            if not poll.poll(1000):
                if any(_dead(child) for child in self._children):
                    break
                continue
            data = self._acks.recv(_MESSAGE)
            if not data:
                break
            number, files, total, problems, lost = marshal.loads(data)
            batch = self._out[number]
            self.results.put((batch, files, total, problems, lost))
            with self._lock:
                del self._out[number]
                self._lock.notify_all()
            self.release(batch.slot)
        with self._lock:
            self._broken = self._broken or bool(self._out) or bool(self._children)
            self._lock.notify_all()

    def _child(self, jobs: socket.socket, acks: socket.socket, how: How) -> None:
        """The life of a process: never returns."""
        status = 1
        try:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)  # it ends when its maker does, with no half file
            self._jobs.close()
            self._acks.close()
            room = socket.CMSG_SPACE(4 * 253)
            while True:
                text, extra, _flags, _address = jobs.recvmsg(_MESSAGE, room)
                if not text:
                    status = 0
                    break
                descriptors = array.array("i")
                for _level, _kind, data in extra:
                    descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
                number, slot, inherit, todo = marshal.loads(text)
                lost: Set[str] = set()
                view = self._view[slot * SLOT : (slot + 1) * SLOT]
                files, total, problems = put_files(todo, descriptors, inherit, view, how, lost)
                for fd in descriptors:
                    os.close(fd)
                acks.send(marshal.dumps((number, files, total, problems, sorted(lost))))
        finally:
            os._exit(status)


def _dead(child: int) -> bool:
    """Whether a process of ours has ended."""
    try:
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True
