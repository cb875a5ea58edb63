"""A segment: what a dump takes of a source that is dumped in several pieces, each at its own time.

Here lives which paths belong to it; where a source is cut is the server's affair, what a source is that of agent.json:
a segment only ever leaves out. One with folders of its own has these, with all below them; the rest has all that is
in none of the others' folders, those that lead to them included. What belongs to another segment is listed as there
and not dumped, so that no incremental of one says that another's files are gone.
"""

from __future__ import annotations

import os
import time
from typing import Any, Dict, FrozenSet, Iterable, Optional

from ..errors import RequestError
from ..image.index import check_path
from ..image.order import ROOT

REASON = b"segment"
MOST = 10000  # folders of a request
NONE, PART, ALL = range(3)


class Segment:
    """Which paths are dumped. folders: the segment's own, or with rest all that the others have."""

    def __init__(self, folders: Iterable[bytes], rest: bool):
        self.folders: FrozenSet[bytes] = frozenset(folders)
        self.rest = rest
        self._ways = {ROOT}
        for path in self.folders:
            above = path.rpartition(b"/")[0]
            while above and above not in self._ways:
                self._ways.add(above)
                above = above.rpartition(b"/")[0]

    def has(self, path: bytes) -> int:
        """How much of the folder of this path, into which the walk goes, belongs to it."""
        if path in self.folders:
            return NONE if self.rest else ALL
        if path in self._ways:
            return PART
        return ALL if self.rest else NONE

    def is_out(self, path: bytes, is_dir: bool) -> bool:
        """Whether an entry of a folder of which it has a PART is another segment's."""
        if path in self.folders:
            return self.rest
        return not (self.rest or (is_dir and path in self._ways))


def of_request(request: Dict[str, Any]) -> Optional[Segment]:
    """The segment that a request asks for; None when it asks for all. Raises RequestError."""
    value = request.get("segment")
    if value is None:
        return None
    folders = value.get("folders") if isinstance(value, dict) else None
    rest = value.get("rest") if isinstance(value, dict) else None
    good = isinstance(folders, list) and 0 < len(folders) <= MOST and isinstance(rest, bool)
    good = good and all(isinstance(one, str) for one in folders)
    try:
        paths = [os.fsencode(one) for one in folders] if good else []
    except UnicodeError:
        good = False
        paths = []
    known = frozenset(paths)
    good = good and all(path != ROOT and check_path(path) and not _below(path, known) for path in paths)
    if not good:
        raise RequestError("the server's request has no right segment")
    return Segment(known, bool(rest))


def newer_of(request: Dict[str, Any], level: int, segment: Optional[Segment]) -> Optional[int]:
    """Since when what an interim dump takes was changed, by this machine's clock: the server's may show another time.
    None when it is none. Raises RequestError."""
    newer, now = request.get("newer"), request.get("now_ns")
    if newer is None:
        return None
    good = all(isinstance(one, int) and not isinstance(one, bool) and 0 < one < 1 << 63 for one in (newer, now))
    if not good or newer > now or level or segment is not None:
        raise RequestError("the server's request has no right newer")
    return newer + time.time_ns() - now


def _below(path: bytes, folders: FrozenSet[bytes]) -> bool:
    above = path.rpartition(b"/")[0]
    while above:
        if above in folders:
            return True
        above = above.rpartition(b"/")[0]
    return False
