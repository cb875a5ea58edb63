"""An index into a history: the old blocks and the lines of new dumps, merged in walk order as streams.

Here lives what becomes an event; the file is history.py. Memory is that of a few blocks. Most of a night is copied as
it is: blocks that an incremental does not touch, and blocks of which a full says just what is known. What is touched
is changed a column at a time, since a step for each path is what takes time.
"""

from __future__ import annotations

from bisect import bisect_left
from operator import itemgetter
from typing import Iterable, NamedTuple, Sequence

from ..errors import ImageDamaged
from ..image import order
from . import block
from .block import Open, Rows, name_text, of_lines, pack, parent
from .history import History, Writer
from .lineage import there
from .lines import FLAGS, KIND, LINK, SHA, STALE, Lines, Row, stream

GONE: Row = (b"-", b"-", b"-", b"-", b"-", b"-", b"f", b"-", b"-")
GONE_FOLDER: Row = (*GONE[:LINK], b"d", *GONE[LINK + 1 :])


class Feed:
    """The lines of one dump, taken from the front. full: it names everything there is."""

    def __init__(self, number: int, reference: frozenset[int], full: bool, chunks: Iterable[bytes]):
        self.number = number
        self.reference = reference
        self.full = full
        self.shadows: list[bytes] = []
        self.folder = b""  # that of the last line taken
        self._stream = stream(chunks)
        self._now = Lines([], [], [[] for _ in range(9)])
        self._more()

    def _more(self) -> bool:
        """One chunk more behind what is at hand; False when there is none."""
        more = next(self._stream, None)
        if more is None:
            return False
        now, shift = self._now, len(self._now.paths)
        if not shift:
            self._now = more
            return True
        self._now = Lines(
            now.paths + more.paths, now.folders + [number + shift for number in more.folders],
            [one + other for one, other in zip(now.columns, more.columns)],
        )  # fmt: skip
        return True

    def _key(self, number: int) -> bytes:
        folders = self._now.folders
        at = bisect_left(folders, number)
        return order.key(self._now.paths[number], at < len(folders) and folders[at] == number)

    def key(self) -> bytes | None:
        """The place of the next line in walk order; None when all are taken."""
        while not self._now.paths:
            if not self._more():
                return None
        return self._key(0)

    def take(self, count: int) -> Lines:
        """The next lines, at most count."""
        while len(self._now.paths) < count and self._more():
            pass
        return self._cut(count)

    def before(self, bound: bytes | None) -> Lines:
        """The lines whose place is before bound; None: all that are left."""
        while not self._now.paths or bound is None or self._key(len(self._now.paths) - 1) < bound:
            if not self._more():
                break
        count = len(self._now.paths)
        if bound is not None:
            count = bisect_left(range(count), bound, key=self._key)
        return self._cut(count)

    def _cut(self, count: int) -> Lines:
        now = self._now
        if count >= len(now.paths):
            self._now = Lines([], [], [[] for _ in range(9)])
            return now
        self._now = now.cut(count, len(now.paths))
        return now.cut(0, count)

    def text(self, lines: Lines) -> bytes:
        """The text of names of lines just taken. Raises ImageDamaged when they are out of order."""
        found = name_text(lines.paths, lines.folders, self.folder)
        last = lines.paths[-1]
        self.folder = last if lines.folders and lines.folders[-1] == len(lines.paths) - 1 else parent(last)
        return found


def begin(writer: Writer, feed: Feed) -> None:
    """The first dump of a history, a full: its lines become blocks as they are. Raises ImageDamaged."""
    while feed.key() is not None:
        lines = feed.take(block.SIZE_OF)
        _write(writer, of_lines(lines, feed.number), block.packed_names(feed.text(lines)))


def _write(writer: Writer, one: Open, names: tuple[bytes, bytes, bytes] | None = None) -> None:
    """A block, or two when it grew too large. names: (text, packed, filter) when they are known."""
    if not one.paths:
        return
    if len(one.paths) > block.SIZE_OF * 3 // 2:
        for half in one.halves():
            _write(writer, half)
        return
    writer.add(pack(one, names))


class _Place(NamedTuple):
    """An event to be put in. before: of all events of the block, the one it stands before; new: of a new path."""

    before: int
    new: bool
    number: int  # in walk order, among new paths at the same place
    entry: int  # a new path: the one it stands before
    path: bytes
    is_dir: bool
    row: Row


def update(writer: Writer, old: History, feeds: Sequence[Feed]) -> None:
    """New dumps into an old history: one full, or incrementals. Raises ImageDamaged."""
    copied = 0  # blocks before this one are written
    for number in range(old.blocks):
        bound = None
        if number + 1 < old.blocks:
            bound = order.key(old.firsts[number + 1], old.first_dir(number + 1))
        known = _known(old, number, feeds, bound)
        if known is None:
            continue
        writer.copy(old, copied, number)
        copied = number + 1
        _write(writer, *known)
    writer.copy(old, copied, old.blocks)
    if not old.blocks:
        one: Open | None = Open([], [], [], [[] for _ in range(10)])
        for feed in feeds:
            one = (_full if feed.full else _some)(feed, feed.before(None), one) or one
        _write(writer, one)


def _known(old: History, number: int, feeds: Sequence[Feed], bound: bytes | None) -> tuple | None:
    """A block with what the feeds say of it: arguments of _write; None when that is nothing new."""
    if not feeds[0].full:
        first = order.key(old.firsts[number], old.first_dir(number))
        one = None
        for feed in feeds:
            key = feed.key()
            if (key is not None and (bound is None or key < bound)) or first.startswith(tuple(feed.shadows)):
                one = one or _opened(old, number)
                one = _some(feed, feed.before(bound), one) or one
        return None if one is None else (one,)
    (feed,) = feeds
    lines = feed.before(bound)
    text = feed.text(lines) if lines.paths else b""
    rows = old.rows(number)
    mine = old.text(number)
    same = text == mine and lines.paths[0] == old.firsts[number]
    if same and rows.single and set(map(int, set(rows.dumps()))) <= feed.reference and _equal(rows, lines):
        return None
    one = _opened(old, number, rows, (lines.paths, lines.folders) if same else None)
    changed = _full(feed, lines, one, same)
    if changed is None:
        return None
    return (changed, (mine, *old.packed_names(number))) if len(changed.paths) == len(one.paths) else (changed,)


def _equal(rows: Rows, lines: Lines) -> bool:
    for number, column in enumerate(lines.columns):
        if number == SHA:
            if rows.texts[SHA + 2] != bytes([sha != b"-" for sha in column]):
                return False
            if rows.hashes.hex().encode("ascii") != b"".join([sha for sha in column if sha != b"-"]):
                return False
        elif b"\n".join(column) != rows.texts[number + 2]:
            return False
    return True


def _opened(old: History, number: int, rows: Rows | None = None, names: tuple | None = None) -> Open:
    paths, folders = names or old.block_names(number).all()
    rows = rows or old.rows(number)
    starts = rows.starts()
    counts = [1] * len(paths) if rows.single else [end - start for start, end in zip(starts, starts[1:])]
    return Open(paths, folders, counts, rows.all())


def _starts(counts: Sequence[int]) -> list[int]:
    starts, at = [0], 0
    for count in counts:
        at += count
        starts.append(at)
    return starts


def _keys(paths: Sequence[bytes], folders: Sequence[int]) -> list[bytes]:
    """Paths, those at a folder's place with a slash: a name may stand at both."""
    keys = list(paths)
    for number in folders:
        keys[number] += b"/"
    return keys


def _current(one: Open, starts: Sequence[int], reference: frozenset[int]) -> list[int]:
    """For each path the event that counts in a dump, -1 for none."""
    dumps = one.columns[-1]
    if {int(dump) for dump in set(dumps)} <= reference and 0 not in one.counts:
        return [end - 1 for end in starts[1:]]
    good = {b"%d" % number for number in reference}
    return [
        next((event for event in range(end - 1, start - 1, -1) if dumps[event] in good), -1)
        for start, end in zip(starts, starts[1:])
    ]


def _full(feed: Feed, lines: Lines, one: Open, same: bool = False) -> Open | None:
    """A block with what a full says of it; same: of the same paths. None when that is nothing new."""
    starts = _starts(one.counts)
    current = _current(one, starts, feed.reference)
    columns = one.columns
    if same:
        common = matching = range(len(one.paths))
        new: Sequence[int] = ()
    else:
        mine, theirs = _keys(one.paths, one.folders), _keys(lines.paths, lines.folders)
        at = dict(zip(theirs, range(len(theirs))))
        common, matching = [], []
        for number, key in enumerate(mine):
            other = at.pop(key, -1)
            if other >= 0:
                common.append(number)
                matching.append(other)
        new = list(at.values())
    folders = set(one.folders)
    places = []
    for number in _differ([current[number] for number in common], matching, columns, lines.columns):
        entry = common[number]
        row = lines.row(matching[number])
        places.append(_Place(starts[entry + 1], False, 0, entry, one.paths[entry], entry in folders, row))
    if len(common) < len(one.paths):
        kinds = columns[KIND]
        for entry in set(range(len(one.paths))).difference(common):
            if current[entry] >= 0 and kinds[current[entry]] != b"-":
                row = GONE_FOLDER if entry in folders else GONE
                places.append(_Place(starts[entry + 1], False, 0, entry, one.paths[entry], entry in folders, row))
    theirs_dirs = set(lines.folders) if new else ()
    for number in new:
        places.append(_new(one, starts, lines.paths[number], number in theirs_dirs, lines.row(number), number, folders))
    return _put(one, places, feed.number) if places else None


def _differ(events: list[int], lines: Sequence[int], mine: list[list[bytes]], theirs: list[list[bytes]]) -> list[int]:
    """Where the rows of events are not those of lines: places in both lists."""
    if not events:
        return []
    found = {place for place, event in enumerate(events) if event < 0}
    if found:  # -1 would be the last event
        events = [max(event, 0) for event in events]
    whole = lines == range(len(theirs[0]))
    straight = events == list(range(len(mine[0])))
    for column, other in zip(mine, theirs):
        one = column if straight else _pick(column, events)
        two = other if whole else _pick(other, lines)
        if one != two:
            found.update([place for place, (a, b) in enumerate(zip(one, two)) if a != b])
    return sorted(found)


def _pick(column: list[bytes], places: Sequence[int]) -> list[bytes]:
    return list(itemgetter(*places)(column)) if len(places) > 1 else [column[place] for place in places]


def _new(
    one: Open, starts: Sequence[int], path: bytes, is_dir: bool, row: Row, number: int, folders: set[int]
) -> _Place:
    """Where a path that nobody knew belongs."""
    key = order.key(path, is_dir)
    entry = bisect_left(range(len(one.paths)), key, key=lambda at: order.key(one.paths[at], at in folders))
    return _Place(starts[entry], True, number, entry, path, is_dir, row)


def _put(one: Open, places: list[_Place], dump: int) -> Open:
    """A block with events more."""
    places.sort(key=itemgetter(0, 1, 2))
    starts = [place.before for place in places]
    columns = []
    for number, column in enumerate(one.columns):
        out, last = [], 0
        for place, before in zip(places, starts):
            if before > last:
                out += column[last:before]
                last = before
            out.append(place.row[number] if number < 9 else b"%d" % dump)
        out += column[last:]
        columns.append(out)
    counts, paths, last = list(one.counts), one.paths, 0
    fresh = [place for place in places if place.new]
    for place in places:
        if not place.new:
            counts[place.entry] += 1
    if not fresh:
        return Open(paths, one.folders, counts, columns)
    marks = set(one.folders)
    new_paths, new_counts, new_folders = [], [], []
    for place in fresh:
        for entry in range(last, place.entry):
            if entry in marks:
                new_folders.append(len(new_paths) + entry - last)
        new_paths += paths[last : place.entry]
        new_counts += counts[last : place.entry]
        last = place.entry
        if place.is_dir:
            new_folders.append(len(new_paths))
        new_paths.append(place.path)
        new_counts.append(1)
    new_folders += [len(new_paths) + entry - last for entry in one.folders if entry >= last]
    return Open(new_paths + paths[last:], new_folders, new_counts + counts[last:], columns)


def _some(feed: Feed, lines: Lines, one: Open) -> Open | None:
    """A block with what an incremental says of it; None when that is nothing new."""
    starts = _starts(one.counts)
    current = _current(one, starts, feed.reference)
    folders, theirs = set(one.folders), set(lines.folders)
    at = dict(zip(_keys(one.paths, one.folders), range(len(one.paths)))) if lines.paths else {}
    places: list[_Place] = []
    said = set()
    for number, path in enumerate(lines.paths):
        is_dir, row = number in theirs, lines.row(number)
        if number and order.key(path, is_dir) <= order.key(lines.paths[number - 1], number - 1 in theirs):
            raise ImageDamaged(f"an index is out of order at {path[:200]!r}")
        entry = at.get(path + b"/" if is_dir else path, -1)
        if entry >= 0:
            said.add(entry)
            new = _said(_row(one, current[entry]), row)
            if new is not None:
                places.append(_Place(starts[entry + 1], False, 0, entry, path, is_dir, new))
        elif row[KIND] != b"-":
            places.append(_new(one, starts, path, is_dir, row, number, folders))
        if is_dir and _hides(row):
            _cast(feed, order.key(path, True) + b"\0")
    if feed.shadows:
        shadows = tuple(feed.shadows)
        for entry, path in enumerate(one.paths):
            is_dir = entry in folders
            if entry not in said and order.key(path, is_dir).startswith(shadows):
                before = _row(one, current[entry])
                if before is not None and before[KIND] != b"-":
                    row = GONE_FOLDER if is_dir else GONE
                    places.append(_Place(starts[entry + 1], False, 0, entry, path, is_dir, row))
    return _put(one, places, feed.number) if places else None


def _row(one: Open, event: int) -> Row | None:
    return None if event < 0 else tuple([column[event] for column in one.columns[:9]])


def _said(before: Row | None, row: Row) -> Row | None:
    """What an incremental's row makes of what its base had; None when that is nothing new."""
    if row[KIND] == b"-":
        return None if before is None or before[KIND] == b"-" else row
    if row[KIND] == b"n" and row[LINK] == b"unreadable" and before and there(before[KIND]):
        flags = before[FLAGS]
        row = (*before[:FLAGS], flags if STALE in flags else flags.replace(b"-", b"") + STALE)
    return None if row == before else row


def _hides(row: Row) -> bool:
    """Whether what older dumps have below this folder counts no more."""
    return row[KIND] == b"-" or (row[KIND] == b"n" and row[LINK] != b"unreadable")


def _cast(feed: Feed, prefix: bytes) -> None:
    while feed.shadows and not prefix.startswith(feed.shadows[-1]):
        feed.shadows.pop()
    feed.shadows.append(prefix)
