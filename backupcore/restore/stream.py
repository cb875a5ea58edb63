"""Frames in the order in which they are needed, read ahead by threads.

Here live Job (one frame and what of it is wanted) and the reading ahead: jobs are taken in batches, their
frames joined into few ranges, some batches are in flight at once. What is done with the bytes lives in
deliver.py.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Callable, Iterable, Iterator

from ..errors import StowageError
from ..image import frames
from ..image.escape import unescape
from .fetch import ImageReader, join

THREADS = 4
BATCHES = 3
# The first batches are small, so that the first bytes come soon.
FIRST_BATCH, BATCH = 2 << 20, 8 << 20


@dataclass
class Members:
    """Some members of one dump's archive, in its order: columns of equal length.

    paths: as in the index, escaped or not. digests: 32 bytes for a regular file with content, else b"".
    entry(i): the row of the i-th.
    """

    level: int
    paths: list[bytes]
    offsets: list[int]
    ends: list[int]
    digests: list[bytes]
    entry: Callable[[int], Any]
    escaped: bool = True

    def path(self, number: int) -> bytes:
        """The path of the index of a member."""
        return unescape(self.paths[number]) if self.escaped else self.paths[number]


@dataclass
class Job:
    """One frame of one dump: the ranges of the archive that are wanted of it, and the members that begin in them.

    special: not None when the members are written anew (deliver.py); such a job holds of one member only.
    frame None: nothing is to be read; error then says why not.
    """

    level: int
    reader: ImageReader | None
    frame: frames.Frame | None
    plain: bool
    ranges: list[list[int]] = field(default_factory=list)
    begin: list[tuple[Members, int, int]] = field(default_factory=list)
    special: Any = None
    error: StowageError | None = None

    @property
    def whole(self) -> bool:
        """Whether every byte of the frame is wanted as it is."""
        frame = self.frame
        return (
            self.special is None
            and len(self.ranges) == 1
            and self.ranges[0] == [frame.offset, frame.offset + frame.length]
        )


def jobs_of(level: int, reader: ImageReader, members: Members, plain: bool, special: Any = None) -> Iterator[Job]:
    """The jobs for members, which lie in ascending order. Raises ImageDamaged, also when the image cannot be read."""
    offsets, ends = members.offsets, members.ends
    count = len(offsets)
    if not count:
        return
    table = reader.table()
    job: Job | None = None
    first = 0
    while first < count:
        # a run of members without a gap
        last = first + 1
        if offsets[first + 1 :] == ends[first:-1]:
            last = count
        else:
            while last < count and offsets[last] == ends[last - 1]:
                last += 1
        start, end = offsets[first], ends[last - 1]
        for frame in table.cover(start, end - start):
            below = frame.offset + frame.length
            after = bisect_left(offsets, below, first, last)
            if job is None or job.frame.number != frame.number:
                if job is not None:
                    yield job
                job = Job(level, reader, frame, plain, special=special)
            _add(job.ranges, max(start, frame.offset), min(end, below))
            if after > first:
                job.begin.append((members, first, after))
            first = after
        first = last
    if job is not None:
        yield job


def _add(ranges: list[list[int]], start: int, end: int) -> None:
    if ranges and ranges[-1][1] == start:
        ranges[-1][1] = end
    else:
        ranges.append([start, end])


def merged(jobs: Iterable[Job]) -> Iterator[Job]:
    """Jobs, those of the same frame that follow each other made one."""
    before: Job | None = None
    for job in jobs:
        same = before is not None and before.reader is job.reader and before.frame == job.frame and job.frame
        if same and before.special is None and job.special is None and job.ranges[0][0] >= before.ranges[-1][1]:
            for start, end in job.ranges:
                _add(before.ranges, start, end)
            before.begin += job.begin
            continue
        if before is not None:
            yield before
        before = job
    if before is not None:
        yield before


class _Read:
    """A group of frames on its way."""

    def __init__(self, pool: ThreadPoolExecutor, reader: ImageReader, group: Any):
        self.future: Future = pool.submit(reader.read, group)

    def stored(self, number: int) -> Any:
        return self.future.result()[number]


def read_ahead(jobs: Iterable[Job], threads: int = THREADS) -> Iterator[tuple[Job, Any]]:
    """Each job with the checked stored bytes of its frame, or with the StowageError why they cannot be had."""
    source = iter(jobs)
    ready: deque[list[tuple[Job, _Read | None]]] = deque()
    last: dict[int, tuple[int, _Read]] = {}  # of each dump: the frame asked for last; the next job may want it too
    with ThreadPoolExecutor(threads, "read-ahead") as pool:

        def more(limit: int) -> bool:
            batch: list[Job] = []
            fresh: dict[int, dict[int, frames.Frame]] = {}
            readers: dict[int, ImageReader] = {}
            size = 0
            for job in source:
                batch.append(job)
                if job.frame is None:
                    size += 1024
                    continue
                key = id(job.reader)
                known = last.get(key)
                if not (known and known[0] == job.frame.number) and job.frame.number not in fresh.get(key, ()):
                    fresh.setdefault(key, {})[job.frame.number] = job.frame
                    readers[key] = job.reader
                    size += job.frame.stored
                if size >= limit or len(batch) >= 4096:
                    break
            if not batch:
                return False
            reads: dict[tuple[int, int], _Read] = {(key, known[0]): known[1] for key, known in last.items()}
            for key, wanted in fresh.items():
                for group in join(sorted(wanted.values(), key=lambda frame: frame.number)):
                    read = _Read(pool, readers[key], group)
                    for frame in group.frames:
                        reads[key, frame.number] = read
            found = []
            for job in batch:
                if job.frame is None:
                    found.append((job, None))
                    continue
                read = reads[id(job.reader), job.frame.number]
                last[id(job.reader)] = (job.frame.number, read)
                found.append((job, read))
            ready.append(found)
            return True

        try:
            limit = FIRST_BATCH
            going = more(limit)
            while ready:
                while going and len(ready) < BATCHES:
                    limit = min(limit * 2, BATCH)
                    going = more(limit)
                for job, read in ready.popleft():
                    yield job, read.stored(job.frame.number) if read else job.error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
