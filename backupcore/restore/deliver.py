"""The restore conversation with an agent: frames and pieces of archive out, notes and totals back.

Here live sending (whole frames go as they are stored, everything else as plain archive), what a damaged frame
costs (the members in it, by name, and nothing else) and the report; which members are sent is choose.py's. What
is sent was checked against the frame table, and every file carries the SHA-256 that the index has of it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any, Callable, Iterator, Sequence

from .. import clock, wire
from ..errors import ImageDamaged, RestoreIncomplete, StowageError, WireError
from ..image import codec, order, pax
from ..text import escape
from .choose import Selection, Special, check_matched
from .fetch import Images
from .report import Options, RestoreReport, path_word, restore_command, shell_word
from .request import Wanted
from .stream import Job, Members, read_ahead

PIECE = 1 << 20
_ZEROS = bytes(PIECE)
_SHOWN = 20  # paths named in one note


def restore(
    images: Images,
    wanted: Sequence[Wanted],
    options: Options,
    connect: Callable[[], Any],
    progress: Callable[[dict], None] | None = None,
) -> RestoreReport:
    """Restores wanted through the agents that connect() gives, one connection for each source.

    What was not restored stands in the report. Raises the error when nothing could be restored at all.
    """
    begun = time.monotonic()
    report = RestoreReport(wanted[0].client, moment=clock.iso(max(one.dump.begun_ns for one in wanted)))
    selections: list[Selection] = []
    try:
        for one in wanted:
            selections.append(Selection(images, one, options.exact))
        check_matched(selections)
        newest = newest_dump(wanted)
        errors = []
        done = 0
        for selection in selections:
            if not selection.wanted.whole and not selection.counts.entries:
                _note_missing(selection, report)
                continue
            try:
                Delivery(images, selection, options, newest, report, progress).run(connect)
                done += 1
            except StowageError as error:
                error.source = error.source or selection.wanted.source
                errors.append(error)
                report.fail(selection.wanted.root, error.message)
            _note_missing(selection, report)
        if not done:
            if errors:
                raise errors[0]
            raise RestoreIncomplete(
                f"nothing of what was asked for is in the dumps: {'; '.join(report.notes)}",
                f"stowage find {path_word('', wanted[0].patterns[0].text)[1:]}",
                client=wanted[0].client,
            )
    finally:
        for selection in selections:
            selection.close()
    for message in images.notes:
        report.note(message)
    report.dumps = [dump.id for one in wanted for dump in one.chain]
    report.read_from = images.uses()
    report.bytes_read = sum(use.bytes for use in report.read_from)
    report.requests = images.requests()
    report.seconds = time.monotonic() - begun
    report.next = _next(wanted, report, options)
    return report


def _note_missing(selection: Selection, report: RestoreReport) -> None:
    counts = selection.counts
    where = f"{selection.wanted.client}:{selection.wanted.source}"
    unreadable = counts.missing.get("unreadable", 0)
    others = {why: count for why, count in counts.missing.items() if count and why != "unreadable"}
    if unreadable:
        report.note(f"{where}: {unreadable} entries could not be read when it was dumped and are not in it")
    if others and not counts.entries and not selection.wanted.whole:
        report.note(f"{where}: there, but not dumped: " + ", ".join(sorted(others)))
    if counts.stale:
        shown = ", ".join(escape(selection.wanted.absolute(path)) for path in counts.stale[:_SHOWN])
        report.note(f"{where}: could not be read by the newest dump, an older version is restored: {shown}")


def _next(wanted: Sequence[Wanted], report: RestoreReport, options: Options) -> list[str]:
    client = wanted[0].client
    if report.failed_count:
        older = wanted[0].chain[0]
        found = [f"stowage list dumps --client {client} --source {wanted[0].source}"]
        if "damaged" in " ".join(why for _path, why in report.failed):
            full = f"stowage run --client {client} --source {wanted[0].source} --level 0"
            earlier = clock.iso(older.begun_ns - clock.NS)
            return [restore_command(client, wanted[0].patterns[0].text, earlier), full, *found]
        return found
    if not report.destination:
        return []
    if options.destination is None:
        return [f"ssh {client} sudo ls -la {shell_word(report.destination)}"]
    return [f"ls -la {shell_word(report.destination)}"]


class Delivery:
    """One conversation: one source to one agent. What becomes of it goes into report."""

    def __init__(
        self,
        images: Images,
        selection: Selection,
        options: Options,
        newest: str,
        report: RestoreReport,
        progress: Callable[[dict], None] | None,
    ):
        self.images = images
        self.selection = selection
        self.wanted = selection.wanted
        self.options = options
        self.newest = newest
        self.report = report
        self.progress = progress
        self._done: dict | None = None
        self._error: Exception | None = None
        self._failed: list[tuple[bytes, str]] = []
        self._noted = 0

    def run(self, connect: Callable[[], Any]) -> None:
        """Speaks with the agent until it is done. Raises the error that ended it."""
        for dump in self.wanted.chain if self.selection.fast else ():
            self.images.reader(dump).table()
        for dump in self.wanted.chain:
            self._check_index(dump)
        with connect() as agent:
            hello = agent.hello()
            self._request(agent, hello)
            self._converse(agent)
        self._account()

    def _check_index(self, dump: Any) -> None:
        try:
            self.images.checked_index(dump)
        except StowageError as error:
            # an image that cannot be opened gives no content either: its members fail by name
            self.images.note(error.message)

    def _request(self, agent: Any, hello: dict) -> None:
        wanted = self.wanted
        known = {"none", "gzip"} | ({"zstd"} if hello.get("zstd") else set())
        codecs = [dump.codec for dump in wanted.chain if dump.codec in known]
        self.codec = codecs[0] if codecs else "none"
        agent.request({
            "request": "restore", "dump": self.newest, "name": self.options.name or self.newest,
            "prefix": escape_prefix(wanted.root), "paths": [escape(pattern.text) for pattern in wanted.patterns],
            "destination": self.options.destination, "permit": self.options.permit,
            "existing": self.options.existing, "exact": self.options.exact, "codec": self.codec,
        })  # fmt: skip
        try:
            agent.channel.expect(wire.START)
        except (OSError, StowageError) as error:
            raise agent.failure(error) from None

    def _converse(self, agent: Any) -> None:
        listener = threading.Thread(target=self._listen, args=(agent.channel,), name="restore notes", daemon=True)
        listener.start()
        sender = Sender(agent.channel, self.codec, self._fail, self._over)
        jobs = read_ahead(self.selection.jobs(lambda name: name != self.codec or name == "none"))
        failed: Exception | None = None
        try:
            sender.send(jobs)
            agent.channel.send(wire.END)
            agent.channel.flush()
        except (OSError, WireError) as error:
            failed = error  # mostly because the agent gave up: what it said counts more
        finally:
            jobs.close()
        if failed is None:
            listener.join()
        else:
            listener.join(10.0)
        if self._done is None:
            raise agent.failure(self._error or failed or WireError("the agent ended without a word"))
        if failed is not None:
            raise agent.failure(failed)
        agent.channel_over = True

    def _over(self) -> bool:
        return self._error is not None or self._done is not None

    def _listen(self, channel: wire.Channel) -> None:
        try:
            while True:
                kind, payload = channel.expect(wire.NOTE, wire.PROGRESS, wire.DONE)
                if kind == wire.DONE:
                    self._done = payload
                    return
                if kind == wire.NOTE:
                    self._note(payload)
                elif self.progress:
                    self._tell(payload)
        except (OSError, ValueError, StowageError) as error:
            self._error = error

    def _note(self, payload: dict) -> None:
        path, message = str(payload.get("path", "")), str(payload.get("message", ""))[:2000]
        if payload.get("level") == "error":
            self._noted += 1
            self.report.fail(path, message)
        else:
            self.report.note(f"{path}: {message}" if path else message)

    def _tell(self, payload: dict) -> None:
        wanted = self.wanted
        numbers = {name: payload[name] for name in ("entries", "bytes") if isinstance(payload.get(name), int)}
        total = wanted.dump.archive_size if self.selection.fast else self.selection.counts.bytes
        self.progress(
            {"client": wanted.client, "source": wanted.source, "phase": "restore", "total": total or None, **numbers}
        )

    def _fail(self, path: bytes, why: str) -> None:
        self._failed.append((path, why))

    def _account(self) -> None:
        done, report = self._done, self.report

        def number(name: str) -> int:
            value = done.get(name)
            return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0

        report.files += number("files")
        report.folders += number("folders")
        report.bytes += number("bytes")
        report.skipped += number("skipped")
        report.entries += number("entries") or number("files") + number("folders")
        for path, why in self._failed:
            report.fail(self.wanted.absolute(path), why)
        # an agent sends a bounded number of notes; it counts all
        report.failed_count += max(0, number("failed") - self._noted)
        not_kept = done.get("not_kept")
        for what in not_kept if isinstance(not_kept, list) else ():
            shown = escape(str(what)[:500])
            if shown not in report.not_kept and len(report.not_kept) < 100:
                report.not_kept.append(shown)
        report.destination = escape(str(done.get("destination") or self.options.destination or ""))


def newest_dump(wanted: Sequence[Wanted]) -> str:
    """The dump that stands for the whole restore: in a permit, and as the name of the scratch folder."""
    return max((one.dump for one in wanted), key=lambda dump: (dump.begun_ns, dump.id)).id


def escape_prefix(root: bytes) -> str:
    """A source's root as REQUEST names it: without the leading slash, bytes as surrogates."""
    return root.strip(b"/").decode("utf-8", "surrogateescape")


class Sender:
    """Sends what jobs bring. fail(path, why) is told of every member that cannot be sent."""

    def __init__(self, channel: Any, codec_name: str, fail: Callable[[bytes, str], None], over: Callable[[], bool]):
        self.channel = channel
        self.codec_name = codec_name
        self.fail = fail
        self.over = over
        self._jobs: Iterator[tuple[Job, Any]] = iter(())
        self._open: dict[int, tuple[Members, int]] = {}  # level: the member begun last
        self._skip: dict[int, int] = {}  # level: up to where members are not sent, since their begin is lost
        self._queue: deque[tuple[Job, Any]] = deque()
        self._codecs: dict[str, codec.Codec] = {}
        self._failed: set[tuple[int, bytes]] = set()

    def send(self, jobs: Iterator[tuple[Job, Any]]) -> None:
        """Sends all of jobs."""
        self._jobs = jobs
        while True:
            found = self._next()
            if found is None:
                return
            if self.over():
                raise WireError("the agent ended early")
            job, stored = found
            if job.special is not None:
                self._send_special(job, stored)
            elif isinstance(stored, StowageError):
                self._lose(job, stored)
            else:
                self._send_job(job, stored)

    def _next(self) -> tuple[Job, Any] | None:
        return self._queue.popleft() if self._queue else next(self._jobs, None)

    # one frame

    def _send_job(self, job: Job, stored: Any) -> None:
        level, frame = job.level, job.frame
        begin, reach, late = job.begin, frame.offset + frame.length, None
        if begin:
            members, first, after = begin[-1]
            if members.ends[after - 1] > reach:
                bad = self._look_ahead(job, members, after - 1)
                if bad is not None:
                    late, reach = (members, after - 1, bad), members.offsets[after - 1]
                    begin = begin[:-1] + ([(members, first, after - 1)] if after - 1 > first else [])
        data = None
        if job.plain or late or not job.whole or self._skip.get(level, 0) > frame.offset:
            data = self._unpack(job, stored)
            if isinstance(data, StowageError):
                self._lose(job, data)
                return
        self._expect(begin)
        if data is None:
            head = wire.FrameHead(frame.part, frame.number, frame.offset, frame.length, frame.flags)
            self.channel.send(wire.FRAME, wire.pack_frame_head(head), stored)
        else:
            view = memoryview(data)
            for start, end in self._ranges(job, reach):
                self._archive(view[start - frame.offset : end - frame.offset])
        if begin:
            members, _first, after = begin[-1]
            self._open[level] = (members, after - 1)
        if late:
            members, number, bad = late
            self._skip[level] = members.ends[number]
            self._lose_member(members, number, _why(bad))

    def _expect(self, begin: Sequence[tuple[Members, int, int]]) -> None:
        digests = b"".join(b"".join(members.digests[first:after]) for members, first, after in begin)
        if digests:
            self.channel.send(wire.EXPECT, digests)

    def _ranges(self, job: Job, reach: int) -> Iterator[tuple[int, int]]:
        """What is wanted of a frame, up to reach, without what belongs to a member whose begin is lost."""
        skip = self._skip.get(job.level, 0)
        for start, end in job.ranges:
            start, end = max(start, skip), min(end, reach)
            if start < end:
                yield start, end

    def _archive(self, data: Any) -> None:
        for start in range(0, len(data), PIECE):
            self.channel.send(wire.ARCHIVE, data[start : start + PIECE])

    def _unpack(self, job: Job, stored: Any) -> bytes | StowageError:
        name = job.reader.dump.codec
        unpacker = self._codecs.get(name)
        if unpacker is None:
            unpacker = self._codecs[name] = codec.get(name)
        try:
            data = unpacker.decompress(stored, job.frame.length)
        except StowageError as error:
            return error
        if len(data) != job.frame.length:
            return ImageDamaged(f"frame {job.frame.number} is shorter than the frame table says")
        return data

    # what damage costs

    def _lose(self, job: Job, error: StowageError) -> None:
        """A frame that cannot be had: its members are not sent; one that was begun before gets zeros.

        The zeros never become a file: they do not have the digest that was announced for it.
        """
        why, level = _why(error), job.level
        if job.frame is not None:
            first = job.begin[0][0].offsets[job.begin[0][1]] if job.begin else job.frame.offset + job.frame.length
            for start, end in self._ranges(job, first):
                self._fail_once(*self._open[level], why)
                self._zeros(end - start)
        for members, begin, after in job.begin:
            for number in range(begin, after):
                self._lose_member(members, number, why)
            self._skip[level] = max(self._skip.get(level, 0), members.ends[after - 1])

    def _fail_once(self, members: Members, number: int, why: str) -> None:
        path = members.path(number)
        if (members.level, path) not in self._failed:
            self._failed.add((members.level, path))
            self.fail(path, why)

    def _lose_member(self, members: Members, number: int, why: str) -> None:
        entry = members.entry(number)
        if entry.kind == "d":
            # what is in the folder may be whole, and must not lie in a folder that is open to all
            header = pax.member(
                order.member_name(entry.path, True), "d", entry.mode, entry.uid, entry.gid, 0, entry.mtime_ns
            )
            self._archive(header)
            why += "; the folder is made anew, without its ACLs and extended attributes"
        self._fail_once(members, number, why)

    def _zeros(self, count: int) -> None:
        while count:
            self.channel.send(wire.ARCHIVE, _ZEROS[: min(count, PIECE)])
            count -= min(count, PIECE)

    def _look_ahead(self, job: Job, members: Members, number: int) -> StowageError | None:
        """What is wrong with the next frames of the member that goes on in them, as far as its header may reach.

        Zeros in a header could not be told from a damaged stream: a file is begun only when its next frame is
        good, anything else (a folder with a million names) when all its frames are.
        """
        end = members.ends[number]
        seen = 0
        while True:
            if seen == len(self._queue):
                found = next(self._jobs, None)
                if found is None:
                    return None
                self._queue.append(found)
            ahead, stored = self._queue[seen]
            seen += 1
            if ahead.level != job.level or ahead.frame is None:
                return None
            if isinstance(stored, StowageError):
                return stored
            if members.digests[number] or ahead.frame.offset + ahead.frame.length >= end:
                return None

    # members made anew

    def _send_special(self, job: Job, stored: Any) -> None:
        special: Special = job.special
        if special.header is not None:
            self._archive(special.header)
            return
        members, number, _after = job.begin[0]
        pieces = self._pieces_of(job, stored)
        left = -1  # bytes of content still to come once the header is sent
        try:
            reader = pax.Reader(lambda _count: next(pieces, b""), many=True)
            member = next(reader, None)
            if member is None:
                raise ImageDamaged("its member is missing in the archive")
            if members.digests[number]:
                self.channel.send(wire.EXPECT, members.digests[number])
            self._header(member, special)
            left = member.stored
            for piece in member.content():
                left -= len(piece)
                self._archive(piece)
            self._archive(pax.padding(member.stored))
            for _rest in pieces:
                pass
        except ImageDamaged as error:
            if left > 0:
                self._zeros(left + len(pax.padding(member.stored)))
            if left < 0 and members.entry(number).kind == "d":
                self._lose_member(members, number, _why(error))
            elif left:
                self.fail(special.path, _why(error))

    def _header(self, member: Any, special: Special) -> None:
        link = order.member_name(member.link, False) if member.kind == "h" else member.link
        for piece in pax.pieces(
            order.member_name(special.path, member.kind == "d"), member.kind, member.mode, member.uid, member.gid,
            member.size, member.mtime_ns, link, member.dev, member.xattrs, sparse=member.sparse, names=special.names,
        ):  # fmt: skip
            self._archive(piece)

    def _pieces_of(self, job: Job, stored: Any) -> Iterator[bytes]:
        """The archive bytes of the member that job begins, frame by frame.

        Takes all its jobs before it raises ImageDamaged for a bad frame.
        """
        special, error = job.special, None
        while True:
            data = stored if isinstance(stored, StowageError) else self._unpack(job, stored)
            if isinstance(data, StowageError):
                error = error or ImageDamaged(data.message)
            elif error is None:
                for start, end in job.ranges:
                    yield data[start - job.frame.offset : end - job.frame.offset]
            found = self._next()
            if found is None:
                break
            if found[0].special is not special:
                self._queue.appendleft(found)
                break
            job, stored = found
        if error is not None:
            raise error


def _why(error: StowageError) -> str:
    return error.message if isinstance(error, ImageDamaged) else f"could not be read: {error.message}"
