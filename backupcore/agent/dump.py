"""A dump: the walk merged with the state of the base; what changed goes into the archive.

Here live the rules of design.md on what is in an incremental: what counts as changed, which folders come again, the
lists of names (GNU.dumpdir), gone and absent entries, the new state. How an entry is read lives in archive.

The state always says what a restore of the chain would show, so that it can be trusted by the next level: what is
there but could not be read keeps its older row, marked so that it never counts as unchanged.
"""

from __future__ import annotations

import os
from array import array
from typing import Any, Callable, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Tuple

from ..image import state
from ..image.codec import Codec
from ..image.dumpdir import Dumpdir, build, build_of
from ..image.order import key
from ..image.state import ABSENT, ABSENT_ROW, CARRIED, ENTRIES, SUSPECT, WIDTH, Block, Row, signed
from . import linux
from .archive import Archive
from .full import Totals, folder_status, mount_row, own_row, tasks
from .links import Link
from .old import Old, OldRows
from .walk import MOUNT, Level, Names, Walk, look

_ONES = array("q", [1]) * ENTRIES
_NO_ROWS = array("q")
_NO_NAMES: FrozenSet[bytes] = frozenset()
_KIND = 0o170000
_MANY = 4  # blocks of one folder from which on what waits for the second look is kept compressed
SAME, NEW, CHANGED, SAY = range(4)  # marks


class Pending(NamedTuple):
    """A block between the two looks at a folder. marks: a byte for each entry, empty when all are SAME. before: the
    base's rows, of those CHANGED. gone: (place, names joined by NUL) of the base's names that come before place."""

    raw: bytes
    marks: bytes
    before: bytes
    gone: List[Tuple[int, bytes]]


class Dump:
    """One dump of one tree. full: dumps folders whole, a Full or a Crew. old: the base's state, None for a full, which
    then needs no archive and blocks here. note(level, path, message).

    last: of a dump that goes on after a cut the place in walk order of the last entry that is in it already. What comes
    before is passed over: a full enters no folder that lies wholly before it, an incremental looks at all (unchanged
    names of files may be linked to) and writes nothing. Folders that it lies in may have changed since: an incremental
    writes their member once more.
    """

    def __init__(
        self, walk: Walk, full: Any, old: Optional[Iterator[Block]], archive: Archive, blocks: state.Writer,
        codec: Codec, note: Callable[[str, bytes, str], None], progress: Dict[str, int], totals: Totals,
        scout: Any = None, last: Optional[bytes] = None,
    ):  # fmt: skip
        self._scout, self._last = scout, last
        self._walk, self._full, self._archive, self._state = walk, full, archive, blocks
        self._old = Old(old) if old is not None else None
        self._codec, self._note, self._progress, self.totals = codec, note, progress, totals

    def run(self) -> None:
        """Dumps all. Raises OSError when the root cannot be read."""
        walk = self._walk
        try:
            root = walk.begin()
            self._folder(root, walk.list(root, self._old is None))
            while walk.stack:
                level = walk.stack[-1]
                folders = level.names.folders
                if level.next < len(folders):
                    name = folders[level.next]
                    level.next += 1
                    self._enter(level, name)
                else:
                    self._leave()
            self._gone_before(None)
        finally:
            walk.close()

    def _leave(self) -> None:
        while True:
            try:
                self._walk.leave()
                return
            except OSError:  # the folder above was moved away: what was not entered yet has vanished
                above = self._walk.stack[-1]
                self.totals.vanished += 1
                self._note("warning", above.path, "vanished during the dump")

    # what was dumped before the line was cut

    def _is_out(self, path: bytes, is_dir: bool) -> bool:
        """Whether an entry's place is one that the dump had come to."""
        return self._last is not None and key(path, is_dir) <= self._last

    def _is_passed(self, path: bytes) -> bool:
        """Whether a folder is out with all that is in it."""
        if self._last is None:
            return False
        place = key(path, True)
        if place > self._last:
            self._last = None  # so is all that follows
            return False
        return place != self._last and not self._last.startswith(place + b"\0")

    def _enter(self, level: Level, name: bytes) -> None:
        path = level.prefix + name
        self._gone_before(path)
        if self._is_passed(path) and self._old is None:
            return
        reason = level.names.left_out.get(name)
        if reason == MOUNT:
            self._mount(level, name, path)
            return
        if reason is not None:
            self._absent_folder(path, reason)
            return
        if self._scout is not None and self._scout.has(path) and self._seen_by_scout(name, path):
            return
        below = None
        try:
            below = self._walk.enter(name)
            if self._walk.plan.one_file_system and below.status.st_dev != self._walk.device:
                self._walk.leave()
                self._mount(level, name, path)
                return
            names = self._walk.list(below, self._old is None)
        except OSError as error:
            if below is not None:
                self._walk.leave()
            if error.errno in linux.GONE:
                self._vanished(level, name, path)
            else:
                self._unreadable(path, error)
                self._absent_folder(path, b"unreadable")
            return
        self._folder(below, names)

    # what is not dumped

    def _unreadable(self, path: bytes, error: OSError) -> None:
        self.totals.unreadable += 1
        self._note("error", path, "cannot be read: " + linux.what_was_refused(error))

    def _vanished(self, level: Level, name: bytes, path: bytes) -> None:
        self.totals.vanished += 1
        self._note("info", path, "vanished during the dump")
        self._correct(level, [name], [])

    def _correct(self, level: Level, vanished: List[bytes], unread: List[bytes]) -> None:
        """Writes a folder's member again when its list of names is out and not true any more."""
        if level.record is None or not (vanished or unread):
            return
        letters = dict(zip(level.record.names, level.record.letters.decode("ascii")))
        for name in vanished:
            letters.pop(name, None)
        letters.update(dict.fromkeys(unread, "N"))
        level.record = build_of(letters.items())
        self._archive.folder(level.path, level.status, linux.read_xattrs(level.fd), level.record, None)

    def _gone_before(self, path: Optional[bytes]) -> None:
        """The base's folders that come before path in the order, or all that are left, are gone."""
        old = self._old
        if old is None or old.front is None or old.front.path == path:
            return
        limit = None if path is None else key(path, True)
        while old.front is not None and (limit is None or key(old.front.path, True) < limit):
            block = old.take()
            if block.own is not None and not self._is_out(block.path, True):
                self._archive.line(block.path, "-", 0, 0, 0, 0, 0, 0, 0, b"d")
                self.totals.gone += 1
            for name in block.parts()[0]:
                self._gone(block.path + b"/" + name if block.path != b"." else name)

    def _gone(self, path: bytes) -> None:
        if self._is_out(path, False):
            return
        self._archive.line(path, "-", 0, 0, 0, 0, 0, 0, 0, b"f")
        self.totals.gone += 1

    def _absent_folder(self, path: bytes, reason: bytes) -> None:
        """A folder that is there but not dumped: what the base has of it stays."""
        front, is_out = self._old.front if self._old is not None else None, self._is_out(path, True)
        if front is None or front.path != path:
            if not is_out:
                self._full.absent_folder(path, reason)
            return
        if not front.own[0] & (ABSENT | CARRIED) and not is_out:
            self._archive.absent(path, reason, "d")
        self._carry(path, None)

    def _carry(self, path: bytes, own: Optional[Row]) -> None:
        """Hands on the base's state of a folder and all below it, never to count as unchanged."""
        old, below = self._old, path + b"/"
        while old.front is not None and (old.front.path == path or old.front.path.startswith(below)):
            block = old.take()
            self._state.add(block.flagged(SUSPECT | CARRIED, own if block.path == path else None))

    def _mount(self, level: Level, name: bytes, path: bytes) -> None:
        """A folder on which another file system is mounted: an empty folder."""
        try:
            os.fchdir(level.fd)
            status = os.lstat(name)
        except OSError:
            self._vanished(level, name, path)
            return
        front, is_out = self._old.front if self._old is not None else None, self._is_out(path, True)
        if is_out and (front is None or front.path != path):
            return
        if front is None or front.path != path:
            self._full.mount(path, folder_status(status))
            self.totals.changed += self._old is not None
            return
        own = mount_row(folder_status(status))
        if front.own != own and not is_out:
            self._archive.folder(path, status, linux.NO_XATTRS, None, "m")
            self.totals.changed += 1
        self._carry(path, own)

    # folders

    def _folder(self, level: Level, names: Names) -> None:
        self._progress["entries"] += 1 + len(names.entries)
        if self._old is None:
            self._whole_folder(level, names)
        elif not self._is_same(level, names):
            self._compared_folder(level, names, own_row(level.status))
        # only what is needed below stays in memory
        if names.entries:
            level.names = Names([], _NO_NAMES, {}, names.folders, names.left_out)
        if not names.folders:
            level.record = None

    def _seen_by_scout(self, name: bytes, path: bytes) -> bool:
        """Whether the scout found the folder as the base has it; then it is done, and not even opened."""
        front = self._old.front
        seen = self._scout.seen(path)
        if not seen.raw or front is None or front.raw != seen.raw:
            return False
        folders: List[bytes] = []
        if front.entries or front.folders:
            _names, rows, folders = front.parts()
            if rows[WIDTH - 1 :: WIDTH] != _ONES[: front.entries]:
                return False  # names of one file are looked at in turn
        self._walk.pass_by(name, (seen.device, seen.inode), folders)
        self._state.same(self._old.take())
        self._progress["entries"] += 1 + front.entries
        return True

    def _is_same(self, level: Level, names: Names) -> bool:
        """The quick look at a folder of one block: whether it is what the base has, to the byte."""
        old, entries, folders, status = self._old, names.entries, names.folders, level.status
        front, count = old.front, len(entries)
        if front is None or front.path != level.path or names.absent or count + len(folders) > ENTRIES:
            return False
        own = (status.st_mode, 0, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, 0)
        if front.own != own or front.entries != count or front.folders != len(folders):
            return False
        if count:
            try:
                rows = look(entries)
            except (OSError, OverflowError):
                return False
            if rows[WIDTH - 1 :: WIDTH] != _ONES[:count]:
                return False
        else:
            rows = _NO_ROWS
        if state.pack(level.path, own, entries, rows, folders, True) != front.raw:
            return False
        self._state.same(old.take())
        return True

    def _whole_folder(self, level: Level, names: Names) -> None:
        entries, first = names.entries, not self._is_out(level.path, True)
        if not first:
            entries = [name for name in entries if not self._is_out(level.prefix + name, False)]
        for task in tasks(level.path, level.status, entries, names.others, names.absent, names.folders):
            self._full.dump(task if first else task._replace(first=False), level.fd)

    def _compared_folder(self, level: Level, names: Names, own: Row) -> None:
        """First all rows are compared, since the folder's member comes before what changed in it."""
        entries, folders, absent = names.entries, names.folders, names.absent
        old = OldRows(self._old, level.path)
        moved = not old.found  # a name came, went or changed its type
        dirty = moved or old.own != own
        total = max(len(entries) + len(folders), 1)
        many = total > ENTRIES * _MANY
        pack = self._codec.compress if many else bytes
        blocks: List[Pending] = []
        links: Dict[int, bool] = {}  # inodes with several names that this folder puts into the dump
        lost: List[bytes] = []
        new_folders: List[bytes] = []
        for start in range(0, total, ENTRIES):
            part = entries[start : start + ENTRIES]
            rows = self._rows(part, absent, lost)
            below = folders[max(0, start - len(entries)) : max(0, start + ENTRIES - len(entries))]
            first, last = None if start else own, start + ENTRIES >= total
            raw = state.pack(level.path, first, part, rows, below, last)
            several = rows[WIDTH - 1 :: WIDTH] != _ONES[: len(part)]
            if not (several and self._meets_link(level, rows, links)) and old.same(raw):
                if several:
                    self._keep_links(level, part, rows)
                blocks.append(Pending(pack(raw), b"", b"", []))
                continue
            marks, before, gone, came = self._merge(level, part, rows, absent, old, links)
            if last:
                rest = []
                while old.peek() is not None:
                    rest.append(old.take()[0])
                if rest:
                    gone.append((len(part), b"\0".join(rest)))
            moved = moved or came or bool(gone)
            dirty = dirty or any(marks)
            new_folders += below
            raw = state.pack(level.path, first, part, rows, below, last)
            blocks.append(Pending(pack(raw), bytes(marks), pack(before) if before else b"", gone))
        if old.peek() is not None:  # the last blocks were the same, but the base had more
            rest = []
            while old.peek() is not None:
                rest.append(old.take()[0])
            blocks[-1].gone.append((len(entries), b"\0".join(rest)))
            moved = True
        moved = moved or new_folders != old.folders
        for name in lost:
            self._vanished(level, name, level.prefix + name)
        is_out = self._is_out(level.path, True)
        if (dirty or moved) and not (is_out and self._is_passed(level.path)):
            record = None
            if moved:
                gone_names = frozenset(lost)
                record = _record([n for n in entries if n not in gone_names] if lost else entries, names)
            self._archive.folder(
                level.path, level.status, linux.read_xattrs(level.fd), record, None if is_out else ""
            )  # fmt: skip
            self.totals.changed += old.own != own
            level.record = record
        del entries, old
        vanished: List[bytes] = []
        unread: List[bytes] = []
        unpack = (lambda data: self._codec.decompress(data, state.LIMIT)) if many else bytes
        for block in blocks:
            raw = unpack(block.raw)
            if block.marks or block.gone:
                before = unpack(block.before) if block.before else b""
                raw = self._second_look(level, raw, block, before, absent, vanished, unread)
            self._state.add(raw)
        self._correct(level, vanished, unread)

    def _rows(self, part: List[bytes], absent: Dict[bytes, bytes], lost: List[bytes]) -> "array[int]":
        """The rows of names of the current folder as they are now. A name that is not there any more is taken from
        part into lost."""
        if not (absent and not absent.keys().isdisjoint(part)):
            try:
                return look(part)
            except (OSError, OverflowError):
                pass
        rows = array("q")
        here: List[bytes] = []
        for name in part:
            if name in absent:
                rows.extend(ABSENT_ROW)
            else:
                try:
                    rows.extend(_row(os.lstat(name)))
                except FileNotFoundError:
                    lost.append(name)
                    continue
                except OSError:  # unreadable, said when it is opened
                    rows.extend((SUSPECT, 0, 0, 0, 0, 1))
            here.append(name)
        part[:] = here
        return rows

    def _merge(
        self, level: Level, part: List[bytes], rows: "array[int]", absent: Dict[bytes, bytes], old: OldRows,
        links: Dict[int, bool],
    ) -> Tuple[bytearray, bytes, List[Tuple[int, bytes]], bool]:  # fmt: skip
        """Marks what differs from the base; (marks, the base's rows, gone, whether a name came or changed its type).
        Rows of what is absent become those of the base."""
        marks = bytearray(len(part))
        before = array("q", bytes(len(part) * WIDTH * 8))
        gone: List[Tuple[int, bytes]] = []
        came = known = False
        table, device = self._archive.links, level.status.st_dev
        for place, name in enumerate(part):
            run = []
            ahead = old.peek()
            while ahead is not None and ahead < name:
                run.append(old.take()[0])
                ahead = old.peek()
            if run:
                gone.append((place, b"\0".join(run)))
            at = place * WIDTH
            row = tuple(rows[at : at + WIDTH])
            was = old.take()[1] if ahead == name else None
            if row[0] == ABSENT:
                if was is None:
                    marks[place] = SAY
                    came = True
                elif not was[0] & ABSENT:
                    if not was[0] & CARRIED:
                        marks[place] = SAY
                        came = True
                        was = (was[0] | CARRIED | SUSPECT,) + was[1:]
                    rows[at : at + WIDTH] = array("q", was)
                continue
            several = row[5] > 1
            if was == row and several and self._is_dumped(device, row[4], links):
                marks[place] = CHANGED  # it becomes a link to the name that came
            elif was == row:
                if several:
                    self._keep_link(level, name, row)
                continue
            else:
                marks[place] = NEW if was is None else CHANGED
                came = came or was is None or bool(was[0] & ABSENT) or (was[0] ^ row[0]) & _KIND != 0
                if several and table.peek((device, state.unsigned(row[4]))) is None:
                    links[row[4]] = True
            if was is not None:
                known = True
                before[at : at + WIDTH] = array("q", was)
        return marks, before.tobytes() if known else b"", gone, came

    # hard links: all names of a file that is in the dump are in it, or link to a name that is unchanged

    def _is_dumped(self, device: int, inode: int, links: Dict[int, bool]) -> bool:
        link = self._archive.links.peek((device, state.unsigned(inode)))
        return inode in links if link is None else not link.kept

    def _meets_link(self, level: Level, rows: "array[int]", links: Dict[int, bool]) -> bool:
        device = level.status.st_dev
        return any(
            count > 1 and self._is_dumped(device, inode, links)
            for inode, count in zip(rows[WIDTH - 2 :: WIDTH], rows[WIDTH - 1 :: WIDTH])
        )

    def _keep_links(self, level: Level, part: List[bytes], rows: "array[int]") -> None:
        for place, count in enumerate(rows[WIDTH - 1 :: WIDTH]):
            if count > 1:
                self._keep_link(level, part[place], tuple(rows[place * WIDTH : (place + 1) * WIDTH]))

    def _keep_link(self, level: Level, name: bytes, row: Row) -> None:
        links, key_ = self._archive.links, (level.status.st_dev, state.unsigned(row[4]))
        if links.find(key_) is None:
            links.put(key_, Link(level.prefix + name, False, True, row[1:4]), row[5])

    def _second_look(
        self, level: Level, raw: bytes, block: Pending, before: bytes, absent: Dict[bytes, bytes],
        vanished: List[bytes], unread: List[bytes],
    ) -> bytes:  # fmt: skip
        """Dumps what is marked; the block as it is now."""
        names, rows, below = state.one(raw).parts()
        was = array("q")
        was.frombytes(before)
        prefix, archive = level.prefix, self._archive
        gone = block.gone
        drop: List[int] = []
        turn = 0
        for place, mark in enumerate(block.marks):
            while turn < len(gone) and gone[turn][0] <= place:
                self._gone_names(prefix, gone[turn][1])
                turn += 1
            if mark == SAME:
                continue
            name = names[place]
            path = prefix + name
            if self._is_out(path, False):
                continue
            if mark == SAY:
                self._archive.absent(path, absent[name], "")
                continue
            at = place * WIDTH
            base: Optional[Row] = tuple(was[at : at + WIDTH]) if mark == CHANGED else None  # type: ignore[assignment]
            try:
                regular = rows[at] & _KIND == 0o100000
                row = archive.regular(name, path) if regular else archive.entry(name, path)
            except IsADirectoryError:
                row = None
            except OSError as error:
                self._unreadable(path, error)
                self._archive.absent(path, b"unreadable", "")
                unread.append(name)
                row = ABSENT_ROW
                if base is not None and not base[0] & ABSENT:
                    row = (base[0] | CARRIED | SUSPECT,) + base[1:]
            if row is None:
                self.totals.vanished += 1
                self._note("info", path, "vanished during the dump")
                vanished.append(name)
                drop.append(place)
                if base is not None:
                    self._gone(path)
            else:
                self.totals.changed += 1
                rows[at : at + WIDTH] = array("q", row)
        for _place, joined in gone[turn:]:
            self._gone_names(prefix, joined)
        for place in reversed(drop):
            del names[place], rows[place * WIDTH : (place + 1) * WIDTH]
        found = state.one(raw)
        return state.pack(level.path, found.own, names, rows, below, found.last)

    def _gone_names(self, prefix: bytes, joined: bytes) -> None:
        for name in joined.split(b"\0"):
            self._gone(prefix + name)


def _record(entries: List[bytes], names: Names) -> Dumpdir:
    """The list of a folder's names as it goes into its member."""
    if not names.folders and not names.absent:
        return build(entries, b"Y" * len(entries))
    absent, left_out = names.absent, names.left_out
    folders = frozenset(names.folders)
    every = sorted(entries + names.folders)
    letters = bytearray()
    for name in every:
        out = name in left_out or name in absent
        letters.append(78 if out else 68 if name in folders else 89)  # N D Y
    return build(every, bytes(letters))


def _row(status: os.stat_result) -> Row:
    return (
        status.st_mode, status.st_size, signed(status.st_mtime_ns), signed(status.st_ctime_ns), signed(status.st_ino),
        status.st_nlink,
    )  # fmt: skip
