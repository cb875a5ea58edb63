"""A file system whose power can be cut: FUSE, spoken by hand to /dev/fuse, over a powerdisk.Disk in memory. Root only.

    with PowerCut(folder) as disk:          a process of its own serves the folder
        disk.begin()                        what is there counts as synced; from now on all is recorded
        ... programs work in the folder ...
        log = disk.log()                    what they did
        disk.cut(at, "lost", seed)          mounts what is left of that run when the power went before log[at]
        disk.resume()                       mounts what was there at the end of the recording

A lookup of `.mark:TEXT` in the top folder is noted in the log: what a program has told by then, it has told. Names
directly in the top folder are file systems of their own (no renames or links between them). Shared mappings work
(SQLite's -shm), since the kernel's page cache is used; it writes through, so each write(2) is an operation of the log.
A cut mounts anew: no cache outlives it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pickle
import select
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from powerdisk import ROOT, Disk, Node, Op, same

MARK = ".mark:"
LIMIT = 30.0  # seconds for one answer
_LAZY = 2  # MNT_DETACH
_BUFFER = (1 << 17) + 4096
_IN, _OUT = struct.Struct("=IIQQIIIHH"), struct.Struct("=IiQ")
_ATTR = struct.Struct("=QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("=QQQQII")
_LONG = 1 << 20  # seconds that the kernel may believe what it knows: nobody else writes here


class PowerCut:
    """The folder while it is mounted, and the process that serves it."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        words = [sys.executable, "-I", os.path.abspath(__file__), str(folder)]
        # a session of its own: who ends a test with all its group lets it end, and unmount, by its closed input
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )  # fmt: skip
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, *words: Any) -> Any:
        """A command to the process that serves."""
        data = pickle.dumps(words)
        self.process.stdin.write(struct.pack("=I", len(data)) + data)
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        if not select.select([self.process.stdout], [], [], LIMIT)[0]:
            raise AssertionError("the file system does not answer")
        head = self.process.stdout.read(4)
        if len(head) < 4:
            raise AssertionError("the file system ended")
        answer = pickle.loads(self.process.stdout.read(struct.unpack("=I", head)[0]))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def begin(self) -> None:
        """What is there counts as synced; records from now on."""
        self.ask("begin")

    def log(self) -> List[Op]:
        """What was recorded; of writes how long they were, not what."""
        return self.ask("log")

    def cut(self, at: int, model: str, seed: int = 0, unless_same: bool = False) -> bool:
        """Mounts what a cut left. unless_same: False, and nothing is done, where that is what the last one left."""
        return self.ask("cut", at, model, seed, unless_same)

    def mute(self) -> None:
        """From now on nothing is answered, until the next cut; whoever asks can be killed."""
        self.ask("mute")

    def resume(self) -> None:
        """Mounts what was there when the recording ended."""
        self.ask("resume")

    def close(self) -> None:
        """Ends it; nothing stays mounted, whatever holds it open."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        _unmount(str(self.folder))

    def __enter__(self) -> PowerCut:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _mount(folder: str) -> int:
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    if _libc().mount(b"powercut", os.fsencode(folder), b"fuse", 6, options.encode()):  # nosuid, nodev
        number = ctypes.get_errno()
        os.close(fd)
        raise OSError(number, f"cannot mount at {folder}: {os.strerror(number)}")
    return fd


def _unmount(folder: str) -> None:
    _libc().umount2(os.fsencode(folder), _LAZY)


class _No(Exception):
    """An errno for the kernel."""


class Server:
    """Answers the kernel's requests, one after the other."""

    def __init__(self, disk: Disk):
        self.disk = disk
        self.listings: Dict[int, List[Tuple[str, int]]] = {}
        self.handle = 0
        self.mute = False
        names = {
            1: "lookup", 3: "getattr", 4: "setattr", 5: "readlink", 6: "symlink", 8: "mknod", 9: "mkdir", 10: "unlink",
            11: "rmdir", 12: "rename", 13: "link", 14: "open", 15: "read", 16: "write", 17: "statfs", 18: "nothing",
            20: "fsync", 25: "nothing", 26: "init", 27: "opendir", 28: "readdir", 29: "releasedir", 30: "fsync",
            35: "create", 45: "rename2",
        }  # fmt: skip
        self.calls: Dict[int, Callable[[int, bytes, Tuple], Any]] = {
            code: getattr(self, "_" + name) for code, name in names.items()
        }

    def serve(self, fd: int) -> bool:
        """One request; False when the file system is not mounted any more."""
        try:
            data = os.read(fd, _BUFFER)
        except OSError as error:
            return error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT)
        length, code, unique, node, uid, gid, *_rest = _IN.unpack_from(data)
        if code in (2, 36, 42):  # forget, interrupt, batch forget: no answer
            return True
        number, answer = 0, b""
        try:
            call = self.calls.get(code)
            if call is None:
                raise _No(errno.ENOSYS)
            answer = call(node, data[_IN.size : length], (uid, gid)) or b""
        except _No as no:
            number, answer = -no.args[0], b""
        with contextlib.suppress(OSError):  # whoever asked was killed
            os.write(fd, _OUT.pack(_OUT.size + len(answer), number, unique) + answer)
        return True

    # what there is

    def _node(self, number: int) -> Node:
        return self.disk.image[number]

    def _below(self, folder: int, name: str) -> int:
        entries = self._node(folder).entries
        if entries is None:
            raise _No(errno.ENOTDIR)
        if name not in entries:
            raise _No(errno.ENOENT)
        return entries[name]

    def _attr(self, number: int) -> bytes:
        node = self._node(number)
        size = len(node.data) or len(node.to)
        seconds = [one // 10**9 for one in node.times]
        rest = [one % 10**9 for one in node.times]
        return _ATTR.pack(number, size, (size + 511) // 512, *seconds, *rest, node.mode, node.links, node.uid,
                          node.gid, 0, 4096, 0)  # fmt: skip

    def _entry(self, number: int) -> bytes:
        return _ENTRY.pack(number, 0, _LONG, _LONG, 0, 0) + self._attr(number)

    def _init(self, _node: int, data: bytes, _who: Tuple) -> bytes:
        readahead = struct.unpack_from("=I", data, 8)[0]
        return struct.pack("=IIIIHHIIHHI7I", 7, 31, readahead, 8 | 32, 16, 12, 1 << 17, 1, 0, 0, 0, *[0] * 7)

    def _lookup(self, node: int, data: bytes, _who: Tuple) -> bytes:
        name = os.fsdecode(data[:-1])
        if node == ROOT and name.startswith(MARK):
            self.disk.log.append(Op("mark", ROOT, (name[len(MARK) :],)))
        return self._entry(self._below(node, name))

    def _getattr(self, node: int, _data: bytes, _who: Tuple) -> bytes:
        return struct.pack("=QII", _LONG, 0, 0) + self._attr(node)

    def _readlink(self, node: int, _data: bytes, _who: Tuple) -> bytes:
        return self._node(node).to

    def _statfs(self, _node: int, _data: bytes, _who: Tuple) -> bytes:
        return struct.pack("=QQQQQIIII6I", 1 << 22, 1 << 22, 1 << 22, 1 << 22, 1 << 22, 4096, 255, 4096, 0, *[0] * 6)

    def _nothing(self, _node: int, _data: bytes, _who: Tuple) -> None:
        return None

    def _open(self, _node: int, data: bytes, _who: Tuple) -> bytes:
        return struct.pack("=QII", 0, 2, 0)  # its pages may stay in the cache

    def _opendir(self, node: int, _data: bytes, _who: Tuple) -> bytes:
        self.handle += 1
        self.listings[self.handle] = [(".", node), ("..", ROOT), *self._node(node).entries.items()]
        return struct.pack("=QII", self.handle, 0, 0)

    def _releasedir(self, _node: int, data: bytes, _who: Tuple) -> None:
        self.listings.pop(struct.unpack_from("=Q", data)[0], None)

    def _readdir(self, _node: int, data: bytes, _who: Tuple) -> bytes:
        handle, offset, size = struct.unpack_from("=QQI", data)
        found = b""
        for at, (name, number) in enumerate(self.listings[handle][offset:], offset + 1):
            raw = os.fsencode(name)
            kind = stat.S_IFMT(self._node(number).mode) >> 12
            one = struct.pack("=QQII", number, at, len(raw), kind) + raw
            one += bytes(-len(one) % 8)
            if len(found) + len(one) > size:
                break
            found += one
        return found

    def _read(self, node: int, data: bytes, _who: Tuple) -> bytes:
        _handle, offset, size = struct.unpack_from("=QQI", data)
        return bytes(self._node(node).data[offset : offset + size])

    # what changes it

    def _write(self, node: int, data: bytes, _who: Tuple) -> bytes:
        _handle, offset, size = struct.unpack_from("=QQI", data)
        self.disk.do("write", node, offset, data[40 : 40 + size])
        self._now(node, 1, 2)
        return struct.pack("=II", size, 0)

    def _fsync(self, node: int, _data: bytes, _who: Tuple) -> None:
        self.disk.log.append(Op("sync", node))

    def _setattr(self, number: int, data: bytes, _who: Tuple) -> bytes:
        valid, _pad, _handle, size, _owner, *times = struct.unpack_from("=IIQQQQQQ", data)
        rest = struct.unpack_from("=IIIIIII", data, 56)
        node = self._node(number)
        if valid & 8:
            self.disk.do("size", number, size)
            self._now(number, 1, 2)
        for at, (given, now) in enumerate(((16, 128), (32, 256), (1024, 0))):
            if valid & now:
                self._now(number, at)
            elif valid & given:
                node.times[at] = times[at] * 10**9 + rest[at]
        if valid & 1:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(rest[3])
        if valid & 2:
            node.uid = rest[5]
        if valid & 4:
            node.gid = rest[6]
        return self._getattr(number, b"", ())

    def _now(self, number: int, *which: int) -> None:
        for one in which:
            self._node(number).times[one] = time.time_ns()

    def _new(self, folder: int, name: str, mode: int, who: Tuple, to: bytes = b"") -> int:
        if name in self._node(folder).entries:
            raise _No(errno.EEXIST)
        node = Node(mode, *who, to)
        node.links = 1 if node.entries is None else 2
        node.times = [time.time_ns()] * 3
        number = self.disk.add(node)
        self.disk.do("link", folder, name, number)
        self._now(folder, 1, 2)
        return number

    def _mknod(self, folder: int, data: bytes, who: Tuple) -> bytes:
        return self._entry(self._new(folder, os.fsdecode(data[16:-1]), struct.unpack_from("=I", data)[0], who))

    def _mkdir(self, folder: int, data: bytes, who: Tuple) -> bytes:
        mode = struct.unpack_from("=I", data)[0] | stat.S_IFDIR
        return self._entry(self._new(folder, os.fsdecode(data[8:-1]), mode, who))

    def _symlink(self, folder: int, data: bytes, who: Tuple) -> bytes:
        name, to, _end = data.split(b"\0")
        return self._entry(self._new(folder, os.fsdecode(name), stat.S_IFLNK | 0o777, who, to))

    def _create(self, folder: int, data: bytes, who: Tuple) -> bytes:
        mode = struct.unpack_from("=II", data)[1]
        return self._entry(self._new(folder, os.fsdecode(data[16:-1]), mode, who)) + self._open(0, b"", who)

    def _link(self, folder: int, data: bytes, _who: Tuple) -> bytes:
        number, name = struct.unpack_from("=Q", data)[0], os.fsdecode(data[8:-1])
        if name in self._node(folder).entries:
            raise _No(errno.EEXIST)
        if self._top(folder) not in self._tops(number):
            raise _No(errno.EXDEV)
        self.disk.do("link", folder, name, number)
        self._node(number).links += 1
        self._now(number, 2)
        return self._entry(number)

    def _gone(self, number: int) -> None:
        node = self._node(number)
        node.links = 0 if node.entries is not None else node.links - 1

    def _unlink(self, folder: int, data: bytes, _who: Tuple) -> None:
        name = os.fsdecode(data[:-1])
        number = self._below(folder, name)
        if self._node(number).entries is not None:
            raise _No(errno.EISDIR)
        self.disk.do("unlink", folder, name)
        self._gone(number)
        self._now(folder, 1, 2)

    def _rmdir(self, folder: int, data: bytes, _who: Tuple) -> None:
        name = os.fsdecode(data[:-1])
        number = self._below(folder, name)
        if self._node(number).entries is None:
            raise _No(errno.ENOTDIR)
        if self._node(number).entries:
            raise _No(errno.ENOTEMPTY)
        self.disk.do("unlink", folder, name)
        self._gone(number)
        self._now(folder, 1, 2)

    def _rename(self, folder: int, data: bytes, _who: Tuple, skip: int = 8, flags: int = 0) -> None:
        to = struct.unpack_from("=Q", data)[0]
        old, new, _end = data[skip:].split(b"\0")
        name, new = os.fsdecode(old), os.fsdecode(new)
        number = self._below(folder, name)
        there = self._node(to).entries.get(new)
        if self._top(folder) != self._top(to):
            raise _No(errno.EXDEV)
        if there is not None and flags & 1:
            raise _No(errno.EEXIST)
        if there == number:
            return
        if there is not None and self._node(there).entries:
            raise _No(errno.ENOTEMPTY)
        self.disk.do("rename", folder, name, to, new)
        if there is not None:
            self._gone(there)
        self._now(folder, 1, 2)
        self._now(to, 1, 2)
        self._now(number, 2)

    def _rename2(self, folder: int, data: bytes, who: Tuple) -> None:
        flags = struct.unpack_from("=QI", data)[1]
        if flags & ~1:
            raise _No(errno.EINVAL)
        self._rename(folder, data, who, 16, flags)

    def _tops(self, wanted: int) -> List[str]:
        """The names in the top folder below which a file or folder is."""
        found = []
        for name, number in self._node(ROOT).entries.items():
            ways = [number]
            while ways:
                one = ways.pop()
                if one == wanted:
                    found.append(name)
                    break
                ways += (self._node(one).entries or {}).values()
        return found

    def _top(self, wanted: int) -> Optional[str]:
        return next(iter(self._tops(wanted)), None)


class Commands:
    """What the tests ask for."""

    def __init__(self, folder: str):
        self.folder = folder
        self.recorded = Disk()
        self.last: Any = None
        self.mount(self.recorded)

    def mount(self, disk: Disk) -> None:
        self.server = Server(disk)
        self.fuse = _mount(self.folder)

    def again(self, disk: Disk) -> None:
        _unmount(self.folder)
        os.close(self.fuse)  # whoever still has something open there is told that it is gone
        self.mount(disk)

    def begin(self) -> None:
        self.recorded = self.server.disk
        self.recorded.begin()
        self.last = None

    def log(self) -> List[Op]:
        return [
            Op("write", op.ino, (op.rest[0], len(op.rest[1]))) if op.kind == "write" else op for op in self.recorded.log
        ]  # fmt: skip

    def cut(self, at: int, model: str, seed: int, unless_same: bool) -> bool:
        image = self.recorded.cut(at, model, seed)
        if unless_same and self.last is not None and same(self.last, image):
            return False
        self.last = image if unless_same else None
        self.again(Disk(self.recorded.cut(at, model, seed)))
        return True

    def mute(self) -> None:
        self.server.mute = True

    def resume(self) -> None:
        self.again(self.recorded)

    def run(self) -> None:
        """Serves until standard input ends."""
        self.tell(None)
        while True:
            ready = select.select([0] if self.server.mute else [0, self.fuse], [], [])[0]
            if self.fuse in ready and not self.server.serve(self.fuse):
                return
            if 0 in ready:
                head = os.read(0, 4)
                if not head:
                    return
                left, data = struct.unpack("=I", head)[0], b""
                while len(data) < left:
                    data += os.read(0, left - len(data))
                name, *words = pickle.loads(data)
                try:
                    self.tell(getattr(self, name)(*words))
                except Exception as error:
                    self.tell(error)

    def tell(self, answer: Any) -> None:
        data = pickle.dumps(answer)
        sys.stdout.buffer.write(struct.pack("=I", len(data)) + data)
        sys.stdout.buffer.flush()


def main(folder: str) -> None:
    """Serves the folder; it is not mounted any more at the end."""
    commands = Commands(folder)
    try:
        commands.run()
    finally:
        _unmount(folder)


if __name__ == "__main__":
    main(sys.argv[1])
