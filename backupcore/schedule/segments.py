"""Where a big tree source is cut into segments, each with levels and nights of its own.

Here live the cut and its renewal, as pure functions over the rows of an index; who dumps a segment lives in dump, who
joins them again in restore. A segment holds whole folders; the last one, REST, holds all that no other does, so a
folder that is new belongs somewhere before anybody has looked at it.

The cut is made once, from the sizes of an index, and kept: a segment that moved would need a full. It is made anew
only when a segment has outgrown twice what it was cut for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

REST = "rest"
ROOT = b"."
GRAIN = 24  # a folder below a 24th of the wanted size stays with its parent: memory does not grow with the tree
MOST = 99  # segments of a source: each costs a connection and an overhead a night
WHOLE_LEAST = 4 * 1024**3  # a source below this is never cut: a full of it is no burden to any night


class Row(NamedTuple):
    """What the cut needs of an entry, in walk order. first: of a hard link, the path it is a name of."""

    path: bytes
    is_dir: bool
    size: int
    first: Optional[bytes] = None


@dataclass(frozen=True)
class Segment:
    """Some folders of a source (`a/b`, none below another); none for REST. size: bytes when it was cut."""

    name: str
    folders: Tuple[bytes, ...]
    size: int


@dataclass
class _Folder:
    path: bytes
    own: int = 0  # bytes of it and of the folders folded into it
    below: int = 0  # bytes of the kept folders below it
    kept: List["_Folder"] = field(default_factory=list)

    @property
    def size(self) -> int:
        return self.own + self.below


def wanted_size(source: float, night: float) -> Optional[float]:
    """How large a segment of a source may be at most; None when the source stays whole.

    source: bytes of its full; night: bytes that an even night takes (fulls of all sources by their cycles, and the
    incrementals). A source is cut when its full is more than a third of a night: then no segment decides a peak.
    """
    if source < WHOLE_LEAST or source <= night / 3:
        return None
    return max(night / 4, source / MOST, WHOLE_LEAST / 8)


def cut(rows: Callable[[], Iterable[Row]], wanted: float) -> Tuple[Segment, ...]:
    """The segments of a tree, REST last; () when there is nothing to cut it by.

    rows: gives the entries of the view in walk order, each time it is called (it is read twice: sizes, then hard
    links). Folders that hard links cross stay together. Memory grows with source size / wanted only, and with the
    folders that links join.
    """
    root = _measure(rows(), wanted / GRAIN)
    pieces = {folder.path: folder.size for folder in _pieces(root, wanted)}
    if not pieces:
        return ()
    groups = _joined(rows(), pieces)
    segments = _packed(groups, pieces, wanted)
    rest = max(0, root.size - sum(pieces[path] for segment in segments for path in segment.folders))
    return (*segments, Segment(REST, (), rest)) if segments else ()


def outgrown(segments: Iterable[Segment], sizes: Dict[str, float], wanted: float) -> bool:
    """Whether a segment has grown so far that the source is to be cut anew. sizes: bytes of a full of each, now.

    One that no cut could divide before (REST without folders of size, one giant file) is left as it is.
    """
    return any(sizes.get(one.name, 0) > 2 * max(wanted, one.size) for one in segments)


def _measure(rows: Iterable[Row], grain: float) -> _Folder:
    """The tree of the folders of at least grain bytes; smaller ones are folded into their parents."""
    root = _Folder(ROOT)
    way = [root]

    def leave() -> None:
        folder = way.pop()
        if folder.size >= grain:
            way[-1].below += folder.size
            way[-1].kept.append(folder)
        else:
            way[-1].own += folder.size

    for row in rows:
        if row.path == ROOT:
            continue
        above = row.path.rpartition(b"/")[0] or ROOT
        while way[-1].path != above and len(way) > 1:
            leave()
        if row.is_dir:
            way.append(_Folder(row.path))
        elif row.first is None:
            way[-1].own += row.size
    while len(way) > 1:
        leave()
    return root


def _pieces(folder: _Folder, wanted: float) -> Iterator[_Folder]:
    """Folders to be packed: each the highest that is not larger than wanted; larger ones are divided if they can be."""
    for one in folder.kept:
        if one.size <= wanted or not one.kept:
            yield one
        else:
            yield from _pieces(one, wanted)


def _piece(path: bytes, pieces: Iterable[bytes]) -> Optional[bytes]:
    while path:
        if path in pieces:
            return path
        path = path.rpartition(b"/")[0]
    return None


def _joined(rows: Iterable[Row], pieces: Dict[bytes, int]) -> List[Tuple[bytes, ...]]:
    """The pieces in groups that no hard link leaves; a piece that shares a file with the rest is in no group."""
    leader: Dict[Optional[bytes], Optional[bytes]] = {path: path for path in pieces}
    leader[None] = None

    def find(path: Optional[bytes]) -> Optional[bytes]:
        while leader[path] != path:
            leader[path] = leader[leader[path]]
            path = leader[path]
        return path

    for row in rows:
        if row.first is not None:
            one, other = find(_piece(row.path, pieces)), find(_piece(row.first, pieces))
            if one != other:  # None, the rest, leads whatever it is joined with
                high, low = (one, other) if one is None or (other is not None and one < other) else (other, one)
                leader[low] = high
    groups: Dict[bytes, List[bytes]] = {}
    for path in sorted(pieces):
        head = find(path)
        if head is not None:
            groups.setdefault(head, []).append(path)
    return [tuple(group) for group in groups.values()]


def _packed(groups: List[Tuple[bytes, ...]], pieces: Dict[bytes, int], wanted: float) -> List[Segment]:
    """Largest first into the first segment with room: few segments, of nearly one size."""
    sizes = {group: sum(pieces[path] for path in group) for group in groups}
    bins: List[Tuple[List[bytes], int]] = []
    for group in sorted(groups, key=lambda group: (-sizes[group], group)):
        for place, (paths, size) in enumerate(bins):
            if size + sizes[group] <= wanted:
                bins[place] = ([*paths, *group], size + sizes[group])
                break
        else:
            bins.append((list(group), sizes[group]))
    bins = bins[: MOST - 1]
    return [Segment(f"s{number:02d}", tuple(sorted(paths)), size) for number, (paths, size) in enumerate(bins, 1)]
