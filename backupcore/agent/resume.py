"""Going on with a dump whose line was cut: where, and what is needed of the file in which the cut fell.

Here live what the server asks and what it is told while a dump runs, so that it can ask: marks of files that are half
in the archive, and the identity of the source. The walk passes over what came before (dump), files are written by
archive, their first names kept by links.

The server names some points, the newest of the last few files and the newest that lies in none. The agent takes the
first that will do: it goes on inside a file only if that is the same by inode, size, times, header and the SHA-256 of
what is in the archive of it already.
"""

from __future__ import annotations

import json
import os
import stat
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from ..errors import RequestError
from ..image import pax
from ..image.index import check_path
from ..image.order import ROOT, key
from ..wire import AGAIN, END, LINKS
from . import hashes, linux

FORMAT = 1  # of marks, and of the order in which messages come
POINTS = 8
_STEP = 1 << 20
_LIMIT = 1 << 62
_LINKS_LIMIT = 256 << 20  # unpacked bytes of a message of first names


class Half(NamedTuple):
    """A file whose member is being written. hashed: of its content so far."""

    path: bytes
    status: os.stat_result
    suspect: bool
    offset: int
    header: bytes
    stored: int
    hashed: Any

    def mark(self) -> Dict[str, Any]:
        """What says, should the line be cut now, whether the file is still the same."""
        return {
            "path": os.fsdecode(self.path), "offset": self.offset, "suspect": self.suspect,
            "content": self.hashed.hexdigest(), **_sameness(self.status, self.header),
        }  # fmt: skip


class Begun(NamedTuple):
    """A file that is half in the archive, up to place. fd: open. segments: of data, when it has holes."""

    half: Half
    place: int
    segments: Optional[List[Tuple[int, int]]]
    fd: int


class Point(NamedTuple):
    """Where a dump may go on. frame, part, offset: of the next frame. last: place in walk order of the last entry that
    is in the dump; mark: of the file behind it of which the archive has the begin."""

    frame: int
    part: int
    offset: int
    last: bytes
    mark: Optional[Dict[str, Any]]


class Resume(NamedTuple):
    """What the server asks. points: the newest first."""

    identity: str
    points: Tuple[Point, ...]


def _sameness(status: os.stat_result, header: bytes) -> Dict[str, Any]:
    return {
        "inode": status.st_ino, "size": status.st_size, "mtime": status.st_mtime_ns, "ctime": status.st_ctime_ns,
        "header": hashes.own(header).hexdigest(),
    }  # fmt: skip


def member_head(
    fd: int, path: bytes, status: os.stat_result
) -> Tuple[bytes, Optional[List[Tuple[int, int]]], int]:
    """(header of a regular file's member, its segments of data when it has holes, bytes of content behind it)."""
    size, mode, member = status.st_size, status.st_mode & 0o7777, b"./" + path
    xattrs = linux.read_xattrs(fd)
    segments = None
    if status.st_blocks * 512 < size:
        segments = linux.data_segments(fd, size)
    if segments is not None:
        segments = pax.align_segments(segments, size)
        header = pax.member(
            member, "f", mode, status.st_uid, status.st_gid, size, status.st_mtime_ns, xattrs=xattrs, sparse=segments
        )  # fmt: skip
        return header, segments, sum(length for _offset, length in segments)
    if xattrs:
        header = pax.member(member, "f", mode, status.st_uid, status.st_gid, size, status.st_mtime_ns, xattrs=xattrs)
    else:
        header = pax.regular(member, mode, status.st_uid, status.st_gid, size, status.st_mtime_ns)
    return header, None, size


# what the server asks


def identity(half: Any, source: Any, request: Dict[str, Any], codec: str) -> Optional[str]:
    """What must be the same for a dump to go on: the source's words, the request's, and the very tree: another
    snapshot, or what is mounted there instead, is another. None: it never goes on, as half decides."""
    tell: Optional[Callable[[Dict[str, Any]], Optional[str]]] = getattr(half, "identity", None)
    tree = tell(source.options) if tell is not None else None
    if tree is None:
        return None
    asked = [request.get(name) for name in ("level", "compress", "segment", "newer")]
    text = json.dumps([FORMAT, tree, source.type, source.options, codec, asked], sort_keys=True)
    return hashes.own(text.encode("ascii")).hexdigest()


def of_request(request: Dict[str, Any]) -> Optional[Resume]:
    """Where the server would have the dump go on; None when it begins. Raises RequestError."""
    value = request.get("resume")
    if value is None:
        return None
    try:
        found = tuple(_point(one) for one in value["points"])
        if not 0 < len(found) <= POINTS or not isinstance(value["identity"], str):
            raise ValueError
        return Resume(value["identity"], found)
    except (KeyError, TypeError, ValueError):
        raise RequestError("the server's request does not say where the dump goes on") from None


def _point(value: Dict[str, Any]) -> Point:
    numbers = [value[name] for name in ("frame", "part", "offset")]
    mark, path = value["mark"], os.fsencode(value["path"])
    good = all(isinstance(one, int) and not isinstance(one, bool) and 0 < one < _LIMIT for one in numbers)
    if not good or not (mark is None or isinstance(mark, dict)) or not (path == ROOT or check_path(path)):
        raise ValueError
    return Point(*numbers, key(path, value["folder"] is True), mark)


# the file in which the cut fell


def take_up(root: bytes, point: Point) -> Optional[Begun]:
    """The file that a point lies in, read up to there; None when it is not what the archive has of it."""
    mark = point.mark or {}
    try:
        path = os.fsencode(mark["path"])
        wanted, offset = {name: mark[name] for name in ("inode", "size", "mtime", "ctime", "header")}, mark["offset"]
        if not check_path(path) or not isinstance(offset, int) or key(path, False) <= point.last:
            return None
        fd = _open(root, path)
    except (KeyError, TypeError, ValueError, OSError):
        return None
    try:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            header, segments, stored = member_head(fd, path, status)
            done = point.offset - offset
            if _sameness(status, header) == wanted and 0 < done < len(header) + stored + -stored % 512:
                hashed = _hash(fd, segments if segments is not None else [(0, stored)], done - len(header))
                if hashed is not None and hashed.hexdigest() == mark.get("content"):
                    half = Half(path, status, mark.get("suspect") is not False, offset, header, stored, hashed)
                    begun, fd = Begun(half, point.offset, segments, fd), -1
                    return begun
    except OSError:
        pass
    finally:
        if fd >= 0:
            os.close(fd)
    return None


def _open(root: bytes, path: bytes) -> int:
    """Opens a file below root, no link on the way. Raises OSError."""
    folder = linux.open_root(root)
    try:
        *above, name = path.split(b"/")
        for one in above:
            below = linux.open_folder(one, folder)
            os.close(folder)
            folder = below
        os.fchdir(folder)
        return linux.open_file(name)
    finally:
        os.close(folder)


def _hash(fd: int, segments: List[Tuple[int, int]], count: int) -> Any:
    """The SHA-256 of the first count bytes of segments; None when the file has fewer. Raises OSError."""
    hashed, room = hashes.quick()(), memoryview(bytearray(_STEP))
    for start, length in segments:
        os.lseek(fd, start, os.SEEK_SET)
        left = min(length, max(0, count))
        count -= left
        while left:
            done = os.readv(fd, [room[: min(left, _STEP)]])
            if not done:
                return None
            hashed.update(room[:done])
            left -= done
    return hashed


# going on


def go_on(
    channel: Any, tree: Any, codec: Any, numbering: Any, links: Any, resume: Resume, note: Callable[..., None]
) -> Tuple[Optional[bytes], Dict[str, int]]:
    """Takes up a dump that was cut, the file that is half in it first. (place in walk order of the last entry that it
    has then, None when it begins after all; counters of what was written here). Raises StowageError, OSError."""
    from .archive import Archive
    from .outbox import Outbox

    told: List[bytes] = []
    while True:
        kind, payload = channel.expect(LINKS, END)
        if kind == END:
            break
        told.append(payload)
    point = begun = None
    for one in resume.points:
        begun = take_up(tree.path, one) if one.mark is not None else None
        if one.mark is None or begun is not None:
            point = one
            break
    channel.send_json(AGAIN, {"frame": 0 if point is None else point.frame})
    if point is None:
        return None, {}
    try:
        for payload in told:
            links.again(codec.decompress(payload, _LINKS_LIMIT), point.last)
    except ValueError:
        raise RequestError("the server sent back names that cannot be read") from None
    numbering.go_on(point.frame, point.part, point.offset)
    if begun is None:
        return point.last, {}
    outbox = Outbox(channel, codec, numbering, 1)
    archive = Archive(outbox, note, channel.progress, tree.segment is not None, True, True)
    links.tell()
    archive.links = links
    try:
        archive.rest(begun)
        archive.flush()
        outbox.close()
    finally:
        os.close(begun.fd)
    return key(begun.half.path, False), archive.sums()
