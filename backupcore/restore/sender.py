"""The archive on its way to an agent: whole frames as they are stored, everything else as plain pieces.

Here live what goes over the wire in which order, and what a damaged frame costs: the members in it, by name, and
nothing else. What is sent was checked against the frame table, and every file carries the SHA-256 that the index
has of it.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Callable, Iterator, Sequence

from .. import wire
from ..errors import ImageDamaged, StowageError, WireError
from ..image import codec, order, pax
from .choose import Special
from .stream import Job, Members

PIECE = 1 << 20
_ZEROS = bytes(PIECE)


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
