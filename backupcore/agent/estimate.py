"""An estimate: one walk that tells how large a dump would be, a full and the changes since any moments asked.

Here live the counting and the answer; the walk, with what it leaves out, is the dump's own. No content is read, no
script is run, no state is needed, and what is kept grows with the depth of the tree and the largest folder only. What
counts as changed is what was changed (mtime or ctime) after the moment: names that went are not seen, and what was
changed while the base was made counts although the base may have it.
"""

from __future__ import annotations

import gc
import os
import time
from bisect import bisect_left
from itertools import chain
from operator import attrgetter
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import RequestError
from ..text import escape
from ..wire import DONE
from . import linux
from .line import AgentChannel
from .walk import MOUNT, Level, Names, Plan, Walk

CHUNK = 4096  # names looked at together
HOLES = 1 << 20  # files below this are counted as if they had no holes
MOST_LINKS = 100000  # files of several names that are remembered until all of them came
YOUNG = 2_000_000_000  # ns: what the base read this soon after a change comes again (archive.SAFE_AGE)
MOST_PARTS, MOST_MOMENTS, MOST_SECONDS = 1000, 100, 86400
SENSIBLE = 0.02  # a smaller share of the tree tells nothing of the rest
_BLOCK = 512
_NS = 1_000_000_000
_KIND, _FILE, _LINK = 0o170000, 0o100000, 0o120000
_END = 2 * _BLOCK  # of an archive
_ROW = attrgetter("st_mode", "st_size", "st_mtime_ns", "st_ctime_ns", "st_nlink", "st_blocks", "st_ino")
_WIDTH = 7


class Part(NamedTuple):
    """What is counted by itself: these folders with all below them, or all that no other part has (no folders).

    since: moments in nanoseconds of this machine's clock, ascending."""

    name: str
    folders: Tuple[bytes, ...]
    since: Tuple[int, ...]


class Sum:
    """The sums of a part. Bucket n holds what changed after exactly n of its moments."""

    def __init__(self, part: Part):
        self.part = part
        self.moments = [moment - YOUNG for moment in part.since]
        self.first = self.moments[0] if self.moments else None
        self.bytes, self.entries = _END, 0
        self.changed = [[0, 0] for _ in range(len(self.moments) + 1)]
        self.links: Dict[Tuple[int, int], int] = {}  # device and inode -> names that are still to come

    def add(self, stored: int, when: int) -> None:
        """An entry that takes so many bytes and was changed then."""
        self.bytes += stored
        self.entries += 1
        if self.first is not None and when > self.first:
            bucket = self.changed[bisect_left(self.moments, when)]
            bucket[0] += stored
            bucket[1] += 1

    def is_first(self, key: Tuple[int, int], names: int) -> Optional[bool]:
        """Whether this is the first name of a file that has several; None when too many are remembered."""
        left = self.links.get(key)
        if left is None:
            if len(self.links) >= MOST_LINKS:
                return None
            self.links[key] = names - 1
            return True
        if left <= 1:
            del self.links[key]
        else:
            self.links[key] = left - 1
        return False

    def answer(self) -> Dict[str, Any]:
        """For DONE: a full, then what changed since each moment."""
        since: List[List[int]] = []
        size, entries = _END, 0
        for bucket in self.changed[:0:-1]:
            size += bucket[0]
            entries += bucket[1]
            since.append([size, entries])
        return {"bytes": self.bytes, "entries": self.entries, "since": since[::-1]}


class Estimate:
    """One walk. seconds: how long it may take. progress: told of the entries counted so far."""

    def __init__(self, plan: Plan, parts: Sequence[Part], seconds: float, progress: Dict[str, int]):
        self._walk = Walk(plan)
        self._sums = [Sum(part) for part in parts]
        self._owner = {folder: one for one in self._sums for folder in one.part.folders}
        self._rest = next((one for one in self._sums if not one.part.folders), Sum(Part("", (), ())))
        self._way: List[Sum] = []  # of each level of the walk
        self._end = time.monotonic() + seconds
        self._now = time.time_ns()
        self._progress = progress

    def run(self) -> Dict[str, Any]:
        """The answer. Raises OSError when the root cannot be read."""
        walk, began = self._walk, time.monotonic()
        share = 1.0
        try:
            root = walk.begin()
            used = os.fstatvfs(root.fd)
            self._way.append(self._rest)
            complete = self._folder(root, walk.list(root, False))
            while complete and walk.stack:
                complete = self._step()
            if not complete:
                share = self._share()
        finally:
            walk.close()
            os.chdir("/")  # nothing of the source is kept busy
        return {
            "complete": complete, "share": share if share >= SENSIBLE else None,
            "used": (used.f_blocks - used.f_bfree) * used.f_frsize, "seconds": round(time.monotonic() - began, 3),
            "parts": {one.part.name: one.answer() for one in self._sums},
        }  # fmt: skip

    def _step(self) -> bool:
        """Into the next folder, or out of this one. False when the time is over."""
        walk, level = self._walk, self._walk.stack[-1]
        folders = level.names.folders
        if level.next >= len(folders):
            self._leave()
            return True
        name = folders[level.next]
        level.next += 1
        path = level.prefix + name
        one = self._owner.get(path, self._way[-1]) if self._owner else self._way[-1]
        reason = level.names.left_out.get(name)
        if reason is not None:
            one.add(_header(1, len(path)) if reason == MOUNT else 0, 0)
            return True
        try:
            below = walk.enter(name)
        except OSError:
            one.entries += 1
            return True
        self._way.append(one)
        try:
            if walk.plan.one_file_system and below.status.st_dev != walk.device:
                one.add(_header(1, len(path)), 0)
                self._leave()
                return True
            names = walk.list(below, False)
        except OSError:
            one.entries += 1
            self._leave()
            return True
        return self._folder(below, names)

    def _leave(self) -> None:
        while True:
            self._way.pop()
            try:
                self._walk.leave()
                return
            except OSError:
                continue  # the folder above was moved away: what was not entered yet has vanished

    def _share(self) -> float:
        """How much of the tree was walked, every sub-folder of a folder taken to be as large as its files."""
        share, weight = 0.0, 1.0
        for level in self._walk.stack:
            if level.names is not None:
                weight /= len(level.names.folders) + 1
                share += weight * level.next
        return share

    def _folder(self, level: Level, names: Names) -> bool:
        """Counts a folder and what is in it but sub-folders. False when the time is over."""
        one, status, entries = self._way[-1], level.status, names.entries
        own = self._when(status.st_mtime_ns, status.st_ctime_ns)
        newest, in_time = own, True
        for start in range(0, len(entries), CHUNK):
            newest = max(newest, self._entries(one, level, entries[start : start + CHUNK], names.absent))
            if time.monotonic() > self._end:
                in_time = False
                break
        nanoseconds, length = status.st_mtime_ns % _NS, len(level.path)
        member = _header(nanoseconds, length)
        one.add(member, newest)
        if one.first is not None and own > one.first:  # the list of its names comes with it
            listed = 24 + sum([len(name) + 2 for name in chain(entries, names.folders)])
            one.changed[bisect_left(one.moments, own)][0] += _header(nanoseconds, length, more=listed) - member
        self._progress["entries"] += 1 + len(entries)
        level.names = Names([], frozenset(), {}, names.folders, names.left_out)
        return in_time and time.monotonic() <= self._end

    def _when(self, mtime: int, ctime: int) -> int:
        return mtime if ctime < mtime <= self._now else ctime

    def _entries(self, one: Sum, level: Level, names: List[bytes], absent: Dict[bytes, bytes]) -> int:
        """Counts entries of the current folder; when the last of them was changed."""
        if absent and not absent.keys().isdisjoint(names):
            one.entries += len(names)
            names = [name for name in names if name not in absent]
            one.entries -= len(names)
        try:
            rows = list(chain.from_iterable(map(_ROW, map(os.lstat, names))))
        except OSError:
            rows, names = _one_by_one(names)
        if not names:
            return 0
        modes, sizes, mtimes, ctimes = rows[0::_WIDTH], rows[1::_WIDTH], rows[2::_WIDTH], rows[3::_WIDTH]
        newest, front = max(max(mtimes), max(ctimes)), len(level.prefix) + 2
        longest = max(map(len, names))
        plain = (
            max(sizes) < HOLES and max(rows[4::_WIDTH]) == 1 and longest <= 100 and front + longest <= 255
            and all(mode & _KIND == _FILE for mode in set(modes))
        )  # fmt: skip
        if plain and (one.first is None or newest <= one.first):
            one.entries += len(names)
            one.bytes += sum([size + 511 & -512 for size in sizes])
            one.bytes += len(names) * 512 + 1024 * sum([mtime % _NS > 0 for mtime in mtimes])
            return newest
        newest = 0
        for name, at in zip(names, range(0, len(rows), _WIDTH)):
            mode, size, mtime, ctime, links, blocks, inode = rows[at : at + _WIDTH]
            when = self._when(mtime, ctime)
            newest = max(newest, when)
            kind = mode & _KIND
            stored = 0
            if kind == _FILE:
                stored = size if size < HOLES or blocks * 512 >= size else _data(name, size)
            if links > 1:
                first = one.is_first((level.status.st_dev, inode), links)
                stored = stored if first else 0 if first is False else stored // links
            target = size if kind == _LINK else 0
            one.add(_header(mtime % _NS, front + len(name), len(name), target) + (stored + 511 & -512), when)
        return newest


def _one_by_one(names: List[bytes]) -> Tuple[List[int], List[bytes]]:
    rows: List[int] = []
    here: List[bytes] = []
    for name in names:
        try:
            rows.extend(_ROW(os.lstat(name)))
        except OSError:
            continue  # it vanished, or the dump will say that it cannot be read
        here.append(name)
    return rows, here


def _header(ns: int, length: int, name: int = 0, target: int = 0, more: int = 0) -> int:
    """Bytes of a member's header. ns: of its time; length: of its name in the archive; name: of its last part; target:
    of where it points; more: of other records."""
    records = (30 if ns else 0) + more
    if length > 255 or name > 100:
        records += length + 12
    if target > 100:
        records += target + 16
    return _BLOCK + (_BLOCK + records + -records % _BLOCK if records else 0)


def _data(name: bytes, size: int) -> int:
    """Bytes of a file with holes that are no holes, with their map."""
    try:
        fd = linux.open_file(name)
    except OSError:
        return size
    try:
        segments = linux.data_segments(fd, size)
    except OSError:
        return size
    finally:
        os.close(fd)
    return size if segments is None else _BLOCK + sum(length for _start, length in segments)


def estimate(
    channel: AgentChannel, request: Dict[str, Any], half: Any, options: Dict[str, Any], plan: Plan
) -> None:  # fmt: skip
    """Answers one request by DONE. Raises RequestError; a source that cannot be read is told in DONE, since what the
    server asks next may do better."""
    seconds, parts = _seconds(request), _parts(request)
    gc.disable()  # nothing here makes cycles
    linux.raise_limits()
    channel.start_heartbeat()
    try:
        if getattr(half, "estimate", None) is not None:
            found = _by_half(half.estimate, options, parts, seconds)
        else:
            found = Estimate(plan, parts, seconds, channel.progress).run()
    except OSError as error:
        found = {"problem": "%s cannot be read: %s" % (escape(plan.path), linux.what_was_refused(error))}
    finally:
        channel.stop_heartbeat()  # no thread may be left when a dump starts its processes
        channel.progress.update(entries=0, bytes=0)
    channel.send_json(DONE, found)


def _by_half(
    own: Callable[[Dict[str, Any], List[int], float], Any], options: Dict[str, Any], parts: List[Part], seconds: float
) -> Dict[str, Any]:
    """What DONE says when a source's client half estimates by itself: the source as a whole."""
    if len(parts) != 1 or parts[0].folders:
        return {"problem": "a source of this kind has no parts"}
    try:
        told = dict(own(options, list(parts[0].since), seconds))
    except Exception as error:  # a third party's: its dump may do well all the same
        return {"problem": "its estimate failed: %s: %s" % (type(error).__name__, " ".join(str(error).split())[:300])}
    return {"complete": True, "share": 1.0, "used": 0, "seconds": 0, "parts": {parts[0].name: told}}


def _seconds(request: Dict[str, Any]) -> float:
    """The request's time limit. Raises RequestError."""
    seconds = request.get("seconds")
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0 <= seconds <= MOST_SECONDS:
        raise RequestError("the server's request has no right seconds")
    return float(seconds)


def _parts(request: Dict[str, Any]) -> List[Part]:
    """The request's parts, their moments by this machine's clock: the server's may show another time. Raises
    RequestError."""
    now, parts = request.get("now_ns"), request.get("parts")
    if not _is_moment(now) or not isinstance(parts, list) or not 0 < len(parts) <= MOST_PARTS:
        raise RequestError("the server's request has no right parts")
    ahead = time.time_ns() - now
    found: List[Part] = []
    for part in parts:
        since = part.get("since") if isinstance(part, dict) else None
        folders = part.get("folders", []) if isinstance(part, dict) else None
        good = (
            isinstance(since, list) and len(since) <= MOST_MOMENTS and all(map(_is_moment, since))
            and isinstance(folders, list) and all(isinstance(one, str) for one in folders)
            and isinstance(part.get("name"), str) and all(part["name"] != one.name for one in found)
        )  # fmt: skip
        if not good or since != sorted(since):
            raise RequestError("the server's request has a part that is none")
        named = tuple(os.fsencode(one) for one in folders)
        found.append(Part(part["name"], named, tuple(moment + ahead for moment in since)))
    return found


def _is_moment(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
