"""A restore on the client: the archive that the server sends, put down as a tree with everything as it was.

Here live the conversation, where it may write, and the loop over the archive's members. Folders and what waits for
them live in folders, contents in writers and entries, metadata in linux_write, permits in permit, the wire in inflow.

    extract(channel, request, config)    after REQUEST; sends START, NOTE and DONE, raises StowageErrors for ERROR

REQUEST: request, dump, name, destination (null: the scratch folder), permit, existing (refuse, overwrite, keep),
exact, codec (zstd, gzip, none), prefix (the source's path without the leading slash), drill (bytes that will come:
all is read again and taken away at the end, see drill.py). config: agent.json, of which
scratch and permits are used; {"to": DIR} instead: the caller's own restore to a folder of his, without permit.
Then EXPECT, FRAME and ARCHIVE until END: an archive of pax members in walk order. EXPECT has a digest for each regular
file with content (of a file with holes: of its stored bytes), 32 zero bytes where none is known.

existing, for each entry that is no folder: refuse leaves what is there and counts a failure, keep leaves it and
counts it as skipped, overwrite puts the new one in its place at once. Existing folders are used in all three; only
overwrite puts the archive's metadata on them. exact: what STOWAGE.names of a folder does not list is taken away
when the folder's content is restored; other mounts, and names listed as `N`, stay.
"""

from __future__ import annotations

import errno
import gc
import os
import time
from typing import Any, Dict, Mapping, Optional, Set, Tuple

from ..errors import AgentRefused, RequestError, StowageError, WireError
from ..image import codec as codecs
from ..image.quick import plain_files
from ..image.unpax import Member, Reader
from ..text import escape
from ..wire import DONE, NOTE, PROTOCOL, START, Channel
from . import permit as permits
from .drill import NAME as DRILL
from .drill import Drill
from .entries import attributes_of, put_big_file, put_other
from .folders import Blocked, Folder, Tree
from .inflow import Inflow
from .linux import raise_limits
from .linux_write import OPEN_FOLDER, drop_inherited_acl, has_default_acl, rights_of_caller, sync_file_system
from .writers import BATCH_BYTES, BATCH_FILES, Batch, How, Pool, Problem, put_files, what

SMALL = 1 << 20  # files up to this size are written whole
_MUCH = 16 << 10  # more xattrs than this do not go to another process
_TEXT = 164  # at most this much of a batch's text is a file whose name fits its header
_NOTHING = 1 << 62


def extract(
    channel: Channel, request: Mapping[str, Any], config: Mapping[str, Any], workers: Optional[int] = None
) -> None:
    """Serves one restore request. workers: processes beside this one; None: by the number of processors."""
    plan = _Plan(request, config)
    before, collecting = os.umask(0), gc.get_threshold()
    try:
        # nothing here makes cycles by the thousand; in the processes beside, a collection would copy shared pages
        gc.set_threshold(100_000, 50, 50)
        raise_limits()
        restore = _Restore(channel, plan, _processes() if workers is None else workers)
        restore.run()
    finally:
        if plan.drill is not None:
            plan.drill.end()
        gc.set_threshold(*collecting)
        os.umask(before)


def _processes() -> int:
    count = len(os.sched_getaffinity(0))
    return min(count, 4) if count > 1 else 0


class _Plan:
    """A checked request: nothing was made yet."""

    def __init__(self, request: Mapping[str, Any], config: Mapping[str, Any]):
        self.existing = request.get("existing", "refuse")
        self.exact = request.get("exact", False)
        prefix, dump, destination, permit = (request.get(key) for key in ("prefix", "dump", "destination", "permit"))
        if self.existing not in ("refuse", "overwrite", "keep") or not isinstance(self.exact, bool):
            raise RequestError("existing is refuse, overwrite or keep; exact is true or false")
        if not isinstance(prefix, str) or not isinstance(dump, str):
            raise RequestError("a restore names prefix and dump")
        self.prefix = permits.components(os.fsencode(prefix)) if prefix else []
        if prefix and not self.prefix:
            raise RequestError("%s is no path below a destination" % escape(prefix[:200]))
        self.codec = codecs.get(str(request.get("codec") or "none"))
        self.permit: Optional[permits.Permit] = None
        self.scratch = False
        self.fd = -1
        self.made = False
        self.drill: Optional[Drill] = None
        size = request.get("drill")
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0 or self.exact):
            raise RequestError("drill is a number of bytes, and nothing is exact in it")
        if config.get("to") is not None:
            self.destination = os.path.abspath(os.fsencode(config["to"]))
            self.made = not os.path.lexists(self.destination)
            try:
                os.makedirs(self.destination, mode=0o700, exist_ok=True)
                self.fd = os.open(self.destination, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise RequestError("%s cannot be used: %s" % (escape(self.destination), what(error))) from None
        elif destination is None:
            self.scratch = True
            name = str(request.get("name", "")) if size is None else DRILL
            self.fd, self.destination = permits.open_scratch(config, name)
        elif size is not None:
            raise AgentRefused("a drill goes to the scratch folder and nowhere else")
        else:
            if not isinstance(destination, str):
                raise RequestError("a destination is an absolute path")
            self.destination = permits.absolute(destination)
            if not isinstance(permit, str):
                raise AgentRefused(
                    "writing to %s needs a permit" % escape(self.destination),
                    "restore through the playbook stowage.backup.restore, or to the scratch folder",
                )
            folder = str(config.get("permits") or permits.PERMITS)
            self.permit = permits.read_permit(folder, permit, dump, self.destination)
            self.fd = permits.open_destination(self.destination)
        if size is not None:
            self.drill = Drill(self.fd, self.destination, size, self.scratch)

    def open_root(self) -> Tuple[int, bool]:
        """(descriptor of the folder that the archive's root stands for, whether it was made here)."""
        fd, made = self.fd, self.made
        path = self.destination.rstrip(b"/")
        inherits = has_default_acl(fd)
        for name in self.prefix:
            path += b"/" + name
            try:
                try:
                    os.mkdir(name, 0o755, dir_fd=fd)
                    made = True
                except FileExistsError:
                    made = False
                below = os.open(name, OPEN_FOLDER, dir_fd=fd)
                if made and inherits:
                    drop_inherited_acl(below, True)
                    os.chmod(below, 0o755)
                inherits = not made and has_default_acl(below)
            except OSError as error:
                raise permits.not_a_folder(path, error) from None
            finally:
                os.close(fd)
            fd = below
        return fd, made


class _Restore:
    """One restore under way."""

    def __init__(self, channel: Channel, plan: _Plan, workers: int):
        self._channel = channel
        self._plan = plan
        self._progress: Dict[str, int] = getattr(channel, "progress", {})
        rights = rights_of_caller(plan.scratch or plan.drill is not None)
        self.how = How(plan.existing, plan.exact, rights, time.time_ns())
        self.lost: Set[str] = set()
        self.files = self.others = self.bytes = self.skipped = self.failed = 0  # others: links, fifos, devices
        self._place = b"/".join([plan.destination.rstrip(b"/"), *plan.prefix])
        self._original = b"/" + b"/".join(plan.prefix)
        root, made = plan.open_root()
        self._pool = Pool(workers, self.how) if workers else None
        self.tree = Tree(
            root, made, self.how, self.lost, self.problem,
            self._oldest, self._wait,
        )  # fmt: skip
        self._batch: Optional[Batch] = None
        self._numbers: Dict[int, int] = {}  # id of a folder -> its number in the batch
        self._inflow = Inflow(channel, plan.codec, self._pool)
        self._giving_up = False

    # ---- telling

    def problem(self, path: bytes, failure: bool, message: str) -> None:
        """Counts and tells of an entry (path as in the index, b"" the root) that was not restored."""
        if failure:
            self.failed += 1
        else:
            self.skipped += 1
        if self._giving_up:
            return
        place = self._place + b"/" + path if path and path != b"." else self._place or b"/"
        value = {"level": "error" if failure else "warning", "path": escape(place), "message": message}
        try:
            self._channel.send_json(NOTE, value)
        except OSError as error:
            raise WireError("the line to %s was cut: %s" % (self._channel.peer, error)) from None

    # ---- the whole

    def run(self) -> None:
        """From START to DONE."""
        self._channel.send_json(START, {"protocol": PROTOCOL, "destination": escape(self._plan.destination)})
        self._inflow.start()
        done = False
        try:
            reader = Reader(self._read, many=True)
            for member in reader:
                self._put(member)
                if self._inflow.slot >= 0:
                    self._put_plain(reader)
            self._wait(_NOTHING)
            if self._inflow.unused_digests():
                raise WireError("%s sent digests without their files" % self._channel.peer)
            self.tree.finish()
            done = True
        finally:
            self._inflow.stop()
            try:
                if not done:
                    self._give_up()
            finally:
                if self._pool:
                    self._pool.close()
                devices = [os.dup(fd) for fd in self.tree.devices.values()] if done else []
                self.tree.close()
        try:
            for fd in devices:
                sync_file_system(fd)
        except OSError as error:
            raise StowageError("what was restored could not be written to disk: " + what(error)) from None
        finally:
            for fd in devices:
                os.close(fd)
        drilled = self._read_again()
        stop = getattr(self._channel, "stop_heartbeat", None)
        if stop:
            stop()
        files = self.files + self.tree.links  # as the index counts them: each name of a file
        self._channel.send_json(DONE, {
            "files": files, "bytes": self.bytes, "folders": self.tree.folders,
            "entries": files + self.others + self.tree.folders,
            "skipped": self.skipped, "failed": self.failed, "not_kept": sorted(self.lost),
            "destination": escape(self._plan.destination), "root": self.how.rights.root, **drilled,
        })  # fmt: skip

    def _read_again(self) -> Dict[str, Any]:
        """What DONE says of a drill, which ends here."""
        if self._plan.drill is None:
            return {}
        try:
            return {"drill": self._plan.drill.read_again()}
        except OSError as error:
            raise StowageError("what a drill restored could not be read again: " + what(error)) from None

    def _give_up(self) -> None:
        """After an error: what is being written is finished, folders get their metadata, nothing is taken away."""
        self.tree.complete = False
        self._giving_up = True
        try:
            self._wait(_NOTHING)
            self.tree.finish()
        except (StowageError, OSError):
            pass  # the first error is the one to tell

    # ---- members

    def _put(self, member: Member) -> None:
        path = b"" if member.path == b"." else member.path
        kind = member.kind
        digest = self._inflow.digest() if kind == "f" and member.size else None
        if self._plan.permit and not self._permitted(path, kind):
            return
        self._progress["entries"] = self._progress.get("entries", 0) + 1
        try:
            if kind == "d":
                touch = not self._plan.permit or self._plan.permit.covers(self._original_path(path))
                self.tree.folder(path, attributes_of(member), member.names, touch)
                return
            above, _slash, name = path.rpartition(b"/")
            folder = self.tree.enter(above)
            if kind == "f":
                self._file(folder, name, member, digest)
            elif kind == "h":
                target = member.link
                if self._plan.permit and not self._plan.permit.covers(self._original_path(target)):
                    raise OSError(errno.EPERM, "links to what the permit does not cover")
                self.tree.link(folder, name, target, member.mtime_ns)
            else:
                self._told(member, put_other(self.tree.open(folder), name, member, self.how, self.lost))
        except Blocked as error:
            self.problem(path, not error.skipped, str(error))
        except OSError as error:
            self.problem(path, True, what(error))

    def _original_path(self, path: bytes) -> bytes:
        return (self._original.rstrip(b"/") + b"/" + path) if path else self._original

    def _permitted(self, path: bytes, kind: str) -> bool:
        """Whether the permit lets a member pass; a folder above what is covered may be made."""
        original = self._original_path(path)
        assert self._plan.permit is not None
        if self._plan.permit.covers(original) or (kind == "d" and self._plan.permit.leads_to(original)):
            return True
        self.problem(path, True, "the permit does not cover it: not restored")
        return False

    def _file(self, folder: Folder, name: bytes, member: Member, digest: Optional[bytes]) -> None:
        size = member.size
        if size <= SMALL and member.sparse is None:
            pool = self._pool
            if size == 0:
                self._job(folder, name, member, digest, 0, 0)
                return
            parts = list(member.content())
            if len(parts) == 1 and self._inflow.slot >= 0 and pool:
                start = member._reader.offset - size - self._inflow.base
                self._job(folder, name, member, digest, start, size)
            else:
                data = memoryview(b"".join(parts)) if len(parts) > 1 else parts[0]
                self._write_here(folder, name, member, digest, data)
        else:
            place = self.tree.open(folder)
            self._told(member, put_big_file(place, folder.inherits, name, member, digest, self.how, self.lost))

    def _put_plain(self, reader: Reader) -> None:
        """Gives the files that come next in the current folder to the processes, as far as they are like most."""
        folder, slot, permit = self.tree.current, self._inflow.slot, self._plan.permit
        if permit and not permit.covers(self._original_path(folder.path)):
            return
        try:
            self.tree.open(folder)
        except OSError:
            return  # told for each file
        while True:
            batch = self._batch
            if batch is None or batch.full:
                batch, count, room = None, BATCH_FILES, BATCH_BYTES
            else:
                count, room = BATCH_FILES - len(batch.jobs), BATCH_BYTES - batch.bytes
            found, total, extra, more = plain_files(reader, folder.path, count, SMALL, room)
            if not found:
                return
            batch = batch or self._new_batch(slot)
            number = self._number_of(folder, batch)
            digest = self._inflow.digest
            batch.jobs += [
                (number, name, start, size, digest() if size else None, mode, uid, gid, mtime_ns, xattrs)
                for name, start, size, (mode, uid, gid), mtime_ns, xattrs in found
            ]
            batch.bytes += total
            batch.text += _TEXT * len(found) + extra
            self._progress["entries"] = self._progress.get("entries", 0) + len(found)
            if not more:
                return

    def _told(self, member: Member, problem: Optional[Problem]) -> None:
        """Counts an entry that was put in place here, or tells why it was not."""
        if problem is None:
            if member.kind == "f":
                self.files += 1
            else:
                self.others += 1
            self._add_bytes(member.size)
        else:
            self.problem(member.path, problem[2], problem[3])

    def _job(self, folder: Folder, name: bytes, member: Member, digest: Optional[bytes], start: int, size: int) -> None:
        """Gives a file to the processes."""
        slot = self._inflow.slot
        text = len(name) + 64
        if member.xattrs:
            text += sum(map(len, member.xattrs)) + sum(map(len, member.xattrs.values()))
        if self._pool is None or slot < 0 or text > _MUCH:
            self._write_here(folder, name, member, digest, self._pool.piece(slot, start, size) if size and self._pool
                             else memoryview(b""))  # fmt: skip
            return
        batch = self._batch
        if batch is None or batch.full:
            batch = self._new_batch(slot)
        number = self._number_of(folder, batch)
        batch.jobs.append((number, name, start, size, digest, member.mode, member.uid, member.gid, member.mtime_ns,
                           member.xattrs or None))  # fmt: skip
        batch.bytes += size
        batch.text += text

    def _number_of(self, folder: Folder, batch: Batch) -> int:
        """The number of a folder in a batch. Raises OSError when it cannot be opened again."""
        number = self._numbers.get(id(folder))
        if number is None:
            self.tree.open(folder)
            number = self._numbers[id(folder)] = len(batch.folders)
            batch.folders.append(folder)
            folder.last = batch.number
        return number

    def _write_here(
        self, folder: Folder, name: bytes, member: Member, digest: Optional[bytes], data: memoryview
    ) -> None:
        job = (0, name, 0, len(data), digest, member.mode, member.uid, member.gid, member.mtime_ns,
               member.xattrs or None)  # fmt: skip
        place = self.tree.open(folder)
        files, total, problems = put_files([job], [place], [folder.inherits], data, self.how, self.lost)
        self.files += files
        self._add_bytes(total)
        for _folder, _name, failure, message in problems:
            self.problem(folder.path + b"/" + name if folder.path else name, failure, message)

    def _add_bytes(self, count: int) -> None:
        self.bytes += count
        self._progress["bytes"] = self.bytes

    # ---- batches

    def _read(self, count: int) -> bytes:
        """The next piece of archive, for the reader."""
        before = self._inflow.slot
        self._send_batch()
        data = self._inflow.read(count)
        self._next_piece(before)
        return data

    def _next_piece(self, before: int) -> None:
        """The piece in slot `before` was read to its end, its files are on their way."""
        if self._pool:
            self._pool.release(before)
            self._take_results()
            self.tree.settle()

    def _new_batch(self, slot: int) -> Batch:
        self._send_batch()
        self.tree.batch += 1
        self._batch = Batch(self.tree.batch, slot)
        return self._batch

    def _send_batch(self) -> None:
        batch, self._batch = self._batch, None
        if batch is not None and self._pool:
            self._numbers.clear()
            self._pool.send(batch)
            self._take_results()

    def _oldest(self) -> int:
        """The number of the oldest batch that is not done, be it on its way or not."""
        sent = self._pool.oldest() if self._pool else _NOTHING
        return min(sent, self._batch.number) if self._batch else sent

    def _wait(self, number: int) -> None:
        """Waits until all batches up to number are done."""
        if self._batch is not None and self._batch.number <= number:
            self._send_batch()
        if self._pool:
            self._pool.wait(number)
            self._take_results()

    def _take_results(self) -> None:
        pool = self._pool
        while pool and not pool.results.empty():
            batch, files, total, problems, lost = pool.results.get()
            self.files += files
            self._add_bytes(total)
            self.lost.update(lost)
            for number, name, failure, message in problems:
                above = batch.folders[number].path
                self.problem(above + b"/" + name if above else name, failure, message)
