"""An index into a history: the old blocks and the lines of new dumps, merged in walk order as streams.

Here lives what becomes an event; the file is history.py. Memory is that of a few blocks. Most of a night is copied:
blocks that an incremental does not touch, and blocks of which a full says just what is known. Both are found without
a look at single lines.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Iterable, Iterator, Sequence

from ..errors import ImageDamaged
from ..image import order
from .block import SIZE_OF, Item, Rows, name_text, pack_items, pack_lines, parent
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
        self._lines = stream(chunks)
        self._now = Lines([], [], [[] for _ in range(9)])
        self._at = 0
        self._last: bytes | None = None
        self._next()

    def _next(self) -> None:
        """The next chunk when the last is used up; the rest of the last goes before it."""
        while self._at >= len(self._now.paths):
            found = next(self._lines, None)
            if found is None:
                break
            self._now, self._at = found, 0

    @property
    def over(self) -> bool:
        """Whether nothing is left."""
        return self._at >= len(self._now.paths)

    def take(self, count: int) -> Lines | None:
        """The next count lines, None when there are fewer. Give them back by give_back()."""
        while len(self._now.paths) - self._at < count:
            more = next(self._lines, None)
            if more is None:
                return None
            rest = self._now.cut(self._at, len(self._now.paths))
            shift = len(rest.paths)
            self._now = Lines(
                rest.paths + more.paths, rest.folders + [number + shift for number in more.folders],
                [one + other for one, other in zip(rest.columns, more.columns)],
            )  # fmt: skip
            self._at = 0
        found = self._now.cut(self._at, self._at + count)
        self._at += count
        self._last = order.key(found.paths[-1], _has(found.folders, count - 1))
        self._next()
        return found

    def give_back(self, lines: Lines) -> None:
        """What take() gave comes first again."""
        self._last = None  # it was in order: what comes next is compared with a known block
        rest = self._now.cut(self._at, len(self._now.paths))
        shift = len(lines.paths)
        self._now = Lines(
            lines.paths + rest.paths, lines.folders + [number + shift for number in rest.folders],
            [one + other for one, other in zip(lines.columns, rest.columns)],
        )  # fmt: skip
        self._at = 0

    def left(self) -> int:
        """How many lines are at hand."""
        return len(self._now.paths) - self._at

    def key(self) -> bytes | None:
        """The place of the next line in walk order."""
        if self.over:
            return None
        lines, at = self._now, self._at
        return order.key(lines.paths[at], _has(lines.folders, at))

    def before(self, bound: bytes | None) -> Iterator[tuple[bytes, bool, Row]]:
        """(path, whether a folder, row) of the lines whose place is before bound; None: all."""
        while not self.over:
            lines, at = self._now, self._at
            folders = set(lines.folders)
            for number in range(at, len(lines.paths)):
                path, is_dir = lines.paths[number], number in folders
                key = order.key(path, is_dir)
                if bound is not None and key >= bound:
                    self._at = number
                    return
                if self._last is not None and key <= self._last:
                    raise ImageDamaged(f"an index is out of order at {path[:200]!r}")
                self._last = key
                yield path, is_dir, lines.row(number)
            self._at = len(lines.paths)
            self._next()


def _has(numbers: Sequence[int], number: int) -> bool:
    at = bisect_left(numbers, number)
    return at < len(numbers) and numbers[at] == number


def begin(writer: Writer, feed: Feed) -> None:
    """The first dump of a history, a full: its lines become blocks as they are. Raises ImageDamaged."""
    folder = b""
    last = None
    while not feed.over:
        lines = feed.take(SIZE_OF) or feed.take(feed.left())
        block = pack_lines(lines, feed.number, folder)
        if last is not None and last >= order.key(block.first, block.first_dir):
            raise ImageDamaged(f"an index is out of order at {block.first[:200]!r}")
        writer.add(block)
        path, is_dir = lines.paths[-1], _has(lines.folders, len(lines.paths) - 1)
        folder, last = path if is_dir else parent(path), order.key(path, is_dir)


def update(writer: Writer, old: History, feeds: Sequence[Feed]) -> None:
    """New dumps into an old history. Raises ImageDamaged."""
    pending: list[Item] = []
    copied = 0  # blocks before this one are written

    def flush(everything: bool) -> None:
        while len(pending) > SIZE_OF * 3 // 2 or (everything and pending):
            count = len(pending) if len(pending) <= SIZE_OF * 3 // 2 else SIZE_OF
            writer.add(pack_items(pending[:count]))
            del pending[:count]

    for number in range(old.blocks):
        bound = None
        if number + 1 < old.blocks:
            bound = order.key(old.firsts[number + 1], old.first_dir(number + 1))
        if _untouched(old, number, feeds, bound):
            continue
        if copied < number:
            flush(True)
            writer.copy(old, copied, number)
        copied = number + 1
        pending += merged(_items(old, number), feeds, bound)
        flush(False)
    if not old.blocks:
        pending += merged([], feeds, None)
    flush(True)
    writer.copy(old, copied, old.blocks)


def _untouched(old: History, number: int, feeds: Sequence[Feed], bound: bytes | None) -> bool:
    """Whether no feed says anything new of a block; what they say again is then taken."""
    taken: list[tuple[Feed, Lines]] = []
    for feed in feeds:
        if feed.full:
            lines = _same(old, number, feed)
            if lines is None:
                break
            taken.append((feed, lines))
            key = feed.key()
            if key is not None and (bound is None or key < bound):
                break
            continue
        key = feed.key()
        if key is not None and (bound is None or key < bound):
            break
        if feed.shadows and order.key(old.firsts[number], old.first_dir(number)).startswith(tuple(feed.shadows)):
            break
    else:
        return True
    for feed, lines in taken:
        feed.give_back(lines)
    return False


def _same(old: History, number: int, feed: Feed) -> Lines | None:
    """The next lines of a full when they say just what its reference knows of a block; else None."""
    count = old.table["entries"][number]
    rows: Rows = old.rows(number)
    if not rows.single or not set(map(int, set(rows.dumps()))) <= feed.reference:
        return None
    lines = feed.take(count)
    if lines is None:
        return None
    first = old.firsts[number]
    if lines.paths[0] == first and _equal(rows, lines) and _text_of(lines) == old.text(number):
        return lines
    feed.give_back(lines)
    return None


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


def _text_of(lines: Lines) -> bytes | None:
    try:
        return name_text(lines.paths, lines.folders, parent(lines.paths[0]))
    except ImageDamaged:
        return None


def _items(old: History, number: int) -> list[Item]:
    paths, folders = old.block_names(number).all()
    at = set(folders)
    return [
        Item(path, which in at, list(events))
        for which, (path, events) in enumerate(zip(paths, old.rows(number).all(), strict=True))
    ]


def merged(items: Sequence[Item], feeds: Sequence[Feed], bound: bytes | None) -> list[Item]:
    """The items of a block with what the feeds say of it: their lines before bound."""
    known = {(item.path, item.is_dir): item.events for item in items}
    more = False
    for feed in feeds:
        said = set()
        for path, is_dir, row in feed.before(bound):
            key = (path, is_dir)
            said.add(key)
            events = known.get(key)
            if events is None:
                if row[KIND] == b"-":
                    continue
                known[key] = events = []
                more = True
            _say(feed, events, row)
            if is_dir and not feed.full and _hides(row):
                _cast(feed, order.key(path, True) + b"\0")
        if feed.full:
            _silence(feed, known, said)
        elif feed.shadows:
            _hide(feed, known, said)
    found = [Item(path, is_dir, events) for (path, is_dir), events in known.items()]
    if more:
        found.sort(key=lambda item: order.key(item.path, item.is_dir))
    return found


def value(events: Sequence, reference: frozenset[int]) -> Row | None:
    """What a dump says of a path, when it and all it refers to are reference; None when nothing."""
    for dump, row in reversed(events):
        if dump in reference:
            return row
    return None


def _say(feed: Feed, events: list, row: Row) -> None:
    before = value(events, feed.reference)
    if row[KIND] == b"-":
        if before is None or before[KIND] == b"-":
            return
    elif row[KIND] == b"n" and row[LINK] == b"unreadable" and not feed.full and before and there(before[KIND]):
        flags = before[FLAGS]
        row = (*before[:FLAGS], flags if STALE in flags else flags.replace(b"-", b"") + STALE)
    if before != row:
        events.append((feed.number, row))


def _hides(row: Row) -> bool:
    """Whether what older dumps have below this folder counts no more."""
    return row[KIND] == b"-" or (row[KIND] == b"n" and row[LINK] != b"unreadable")


def _cast(feed: Feed, prefix: bytes) -> None:
    while feed.shadows and not prefix.startswith(feed.shadows[-1]):
        feed.shadows.pop()
    feed.shadows.append(prefix)


def _hide(feed: Feed, known: dict, said: set) -> None:
    """What lies below a folder that is gone is gone, but for what the feed names."""
    shadows = tuple(feed.shadows)
    for (path, is_dir), events in known.items():
        if (path, is_dir) not in said and order.key(path, is_dir).startswith(shadows):
            _end(feed, events, is_dir)


def _silence(feed: Feed, known: dict, said: set) -> None:
    """What a full does not name is not there."""
    for key, events in known.items():
        if key not in said:
            _end(feed, events, key[1])


def _end(feed: Feed, events: list, is_dir: bool) -> None:
    before = value(events, feed.reference)
    if before is not None and before[KIND] != b"-":
        events.append((feed.number, GONE_FOLDER if is_dir else GONE))

