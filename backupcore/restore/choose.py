"""What is sent for one Wanted: rows of the view become members, members become jobs.

Here live the selection (what matches, hard links whose first name is not selected, the names of folders for
--exact) and the fast path of a whole full, which looks at no row by itself. What is done with the jobs lives in
deliver.py.
"""

from __future__ import annotations

import os
import tempfile
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Callable, Iterable, Iterator

from ..clock import local
from ..errors import ImageDamaged, RequestError, StowageError
from ..image import dumpdir, order, pax
from ..image.index import Entry
from ..text import escape
from . import indexes, lostlinks, recent, shares, view
from .images import Images
from .report import path_word
from .request import Wanted
from .stream import Job, Members, jobs_of, merged

BATCH = 1024
BLOCK = 512  # lines of a full's index that are looked at together
ROOT = b"."


@dataclass
class Counts:
    """Entries of a selection; missing: n rows by their reason; stale: paths of which only an older version is."""

    entries: int = 0
    files: int = 0
    bytes: int = 0
    missing: Counter = field(default_factory=Counter)
    stale: list[bytes] = field(default_factory=list)


class SpooledNames:
    """A value of STOWAGE.names in a spool file, as pax.pieces() wants it."""

    def __init__(self, file: object, offset: int, length: int):
        self._file = file
        self._offset = offset
        self.length = length

    def pieces(self) -> Iterator[bytes]:
        """The value in pieces."""
        place, end = self._offset, self._offset + self.length
        while place < end:
            piece = os.pread(self._file.fileno(), min(end - place, 1 << 20), place)
            if not piece:
                raise OSError("the spool file is cut")
            place += len(piece)
            yield piece


@dataclass
class Special:
    """A member that is not sent as it is: made anew with another name (path of the index), or with names.

    header: sent instead of anything of the image.
    """

    path: bytes
    names: SpooledNames | None = None
    header: bytes | None = None


class Selection:
    """The entries of one Wanted, ready to be sent.

    Raises RequestError when something that was asked for was not there at that moment.
    """

    def __init__(self, images: Images, wanted: Wanted, exact: bool = False):
        self.images = images
        self.wanted = wanted
        self.exact = exact
        self.counts = Counts()
        self.surveyed = not wanted.whole
        self.matched: set[int] = set()
        self.dumped: set[int] = set()  # the same without what was there, but not dumped
        self.levels = set(range(len(wanted.chain)))  # the dumps of the chain that something is read of
        self._match = view.matcher(wanted)
        # a glob may match anywhere, most lines are not what it means
        self._keep = self._match if any(pattern.glob for pattern in wanted.patterns) else None
        self._targets: dict[bytes, view.Row | None] = {}  # of hard links whose first name is not selected
        self._final: dict[bytes, bytes] = {}
        self._names: dict[bytes, SpooledNames] = {}
        self._inodes: dict[tuple, bytes] = {}  # files with names in several segments: the first name that is sent
        self._lost: dict[tuple[bytes, int], view.Row] = {}  # hard links whose first name may be gone: their content
        self._shared: set[tuple] = set()  # the files of these
        self._spool = tempfile.TemporaryFile(prefix="stowage-") if exact else None  # noqa: SIM115
        self._seek = True  # look only where a path stands in walk order
        for dump in wanted.chain:
            images.index(dump)
        if self.surveyed:
            try:
                self._survey()
                if not self.matched:  # "it is not there" is said after all of the index was looked at
                    self._seek = False
                    self._survey()
            except ImageDamaged:
                # an index that rotted here is fetched again; one that was never right stays an error
                self._seek = False
                for dump in wanted.chain:
                    images.checked_index(dump)
                self._survey()
        self._find_lost()
        if exact:
            self._read_names()

    @property
    def fast(self) -> bool:
        """Whether this is a whole full, sent as it is."""
        return self.wanted.whole and len(self.wanted.chain) == 1 and not self.exact and not self.wanted.shares

    def close(self) -> None:
        """Frees the spool file."""
        if self._spool:
            self._spool.close()

    # rows

    def _view(self, bases: Iterable[bytes] | None, keep: Callable | None = None) -> Iterator[view.Row]:
        bases = None if bases is None else list(bases)
        near = bases if self._seek else None

        def merged(dumps: Iterable) -> Iterator[view.Row]:
            return view.merge([indexes.entries(self.images.chunks(dump, near), bases, keep) for dump in dumps])

        chain, parts = self.wanted.chain, self.wanted.shares
        if not parts:
            return merged(chain)
        touched = [one for one in parts if one.touches(bases)]
        return shares.merge(touched, lambda one: merged(chain[one.start : one.stop]))

    def rows(self) -> Iterator[view.Row]:
        """The selected rows of the view, n rows among them."""
        match = self._match
        for row in self._view(view.bases(self.wanted), self._keep):
            if match(row.entry.path):
                yield row

    def count(self) -> Counts:
        """What is selected."""
        self.counts = Counts()
        if self.fast:
            for chunk in self.images.chunks(self.wanted.dump):
                found = indexes.columns(chunk)
                self.counts.entries += len(found.paths)
                self.counts.files += found.kinds.count(b"f") + found.kinds.count(b"h")
                self.counts.bytes += sum(int(size) for kind, size in zip(found.kinds, found.sizes) if kind == b"f")
                self.counts.missing.update(found.missing)
            return self.counts
        for row in self.rows():
            self._count(row)
        return self.counts

    def _count(self, row: view.Row) -> None:
        counts, entry = self.counts, row.entry
        if entry.kind == "n":
            counts.missing[entry.link.decode("ascii")] += 1
            return
        counts.entries += 1
        if entry.kind in "fh":
            counts.files += 1
            counts.bytes += entry.size if entry.kind == "f" else 0
        if row.stale and len(counts.stale) < 100:
            counts.stale.append(entry.path)

    def _survey(self) -> None:
        """Counts, looks that each pattern matched, and finds the hard links whose first name is elsewhere."""
        self.counts = Counts()
        seen: set[int] = set()
        self.dumped = set()
        links: set[bytes] = set()
        match = self._match
        self.levels = set()
        for row in self._view(view.bases(self.wanted), self._keep):
            numbers = match(row.entry.path)
            if numbers:
                seen.update(numbers)
                self._count(row)
                if row.entry.kind != "n":
                    self.levels.add(row.level)
                    self.dumped.update(numbers)
                if row.entry.kind == "h":
                    links.add(row.entry.link)
        self.matched = seen
        while links:
            # a first name may itself be a hard link of an older dump
            wanted = {path for path in links if not match(path) and path not in self._targets}
            links = set()
            if not wanted:
                break
            self._targets.update(dict.fromkeys(wanted))
            for row in self._view(wanted):
                if row.entry.path in wanted and row.entry.kind not in "nd":
                    self._targets[row.entry.path] = row
                    if row.entry.kind == "h":
                        links.add(row.entry.link)
        for path in self._targets:
            self._final[path] = self._follow(path)
            row = self._targets.get(self._final[path])
            if row is not None:
                self.levels.add(row.level)

    def _find_lost(self) -> None:
        chain, bases = self.wanted.chain, view.bases(self.wanted)
        near = bases if self._seek else None

        def chunks(dump: Any) -> Iterable[bytes]:
            return self.images.chunks(dump, near)

        def entries(dump: Any, paths: Iterable[bytes]) -> Iterator[Entry]:
            paths = list(paths)
            return indexes.entries(self.images.chunks(dump, paths), paths)

        for start, stop in [(one.start, one.stop) for one in self.wanted.shares] or [(0, len(chain))]:
            if stop - start > 1:
                found = lostlinks.find(chain[start:stop], chunks, self._match, entries, near is not None)
                for (path, level), row in found.items():
                    self._lost[path, level + start] = row._replace(level=row.level + start)
                    self._shared.add(_file_of(row.entry))
                    self.levels.add(row.level + start)

    def _follow(self, path: bytes) -> bytes:
        for _step in range(len(self._targets) + 1):
            row = self._targets.get(path)
            if row is None or row.entry.kind != "h":
                break
            path = row.entry.link
        return path

    def content_of(self, row: view.Row) -> view.Row | None:
        """The row that holds the content of a row: itself, or the first name of a hard link; None when it is gone."""
        if (row.entry.path, row.level) in self._lost:
            return self._lost[row.entry.path, row.level]
        seen = set()
        while row is not None and row.entry.kind == "h" and row.entry.link not in seen:
            link = row.entry.link
            seen.add(link)
            row = next(
                (one for one in self._view([link]) if one.entry.path == link and one.entry.kind not in "nd"), None
            )
        return row

    def _read_names(self) -> None:
        """Spools the names of every selected folder: all that was in it, dumped or not."""
        stack: list[tuple[bytes, dict[bytes, str]]] = []

        def leave() -> None:
            folder, names = stack.pop()
            if self._match(folder):
                value = dumpdir.build_of(names.items())
                start = self._spool.tell()
                for piece in value.pieces():
                    self._spool.write(piece)
                self._names[folder] = SpooledNames(self._spool, start, value.length)

        for row in self._view(view.bases(self.wanted)):
            path, kind = row.entry.path, row.entry.kind
            parent = b"" if path == ROOT else path.rpartition(b"/")[0] or ROOT
            while stack and stack[-1][0] != parent:
                leave()
            if stack:
                name = path.rpartition(b"/")[2]
                letter = "D" if kind == "d" else "N" if kind == "n" else "Y"
                if letter != "N" or name not in stack[-1][1]:
                    stack[-1][1][name] = letter
            if kind == "d":
                stack.append((path, {}))
        while stack:
            leave()
        self._spool.flush()

    # jobs

    def jobs(self, plain: Callable[[str], bool]) -> Iterator[Job]:
        """What to read and send, in walk order. plain(codec): the other side cannot unpack it.

        A job without a frame: either special.header is to be sent, or error says why its members cannot be.
        """
        return merged(self._fast_jobs(plain) if self.fast else self._row_jobs(plain))

    def _fast_jobs(self, plain: Callable[[str], bool]) -> Iterator[Job]:
        dump = self.wanted.dump
        reader = self.images.reader(dump)
        for chunk in self.images.chunks(dump):
            found = indexes.columns(chunk)
            self.counts.missing.update(found.missing)
            members = Members(0, found.paths, found.offsets, found.ends, found.digests, found.entry)
            yield from jobs_of(0, reader, members, plain(dump.codec))

    def _row_jobs(self, plain: Callable[[str], bool]) -> Iterator[Job]:
        batch: list[Entry] = []
        level = 0
        first_names: dict[bytes, bytes] = {}
        plainly = not self.surveyed and not self.exact and not self.wanted.shares
        for row in self._blocks_and_rows() if plainly else self.rows():
            entry = row.entry
            if isinstance(entry, view.Block):
                yield from self._jobs_of(level, batch, plain)
                batch = []
                yield from self._block_jobs(entry.lines, plain)
                continue
            if not self.surveyed:
                self._count(row)
            if entry.kind == "n":
                continue
            special, source = None, row
            if entry.kind == "d" and self.exact and entry.path in self._names:
                special = Special(entry.path, names=self._names[entry.path])
            elif entry.kind == "h" and (entry.path, row.level) in self._lost:
                source = self._lost[entry.path, row.level]
                first = self._inodes.setdefault(_file_of(source.entry), entry.path)
                special = Special(entry.path) if first == entry.path else self._link_to(first, entry)
            elif entry.kind == "h" and entry.link in self._final:
                special, source = self._orphan(row, first_names)
            elif self._is_shared(entry):
                special = self._other_name(row, entry.path)
            if special is None and row.level == level and len(batch) < BATCH:
                batch.append(entry)
                continue
            yield from self._jobs_of(level, batch, plain)
            batch, level = [], row.level
            if special is None:
                batch.append(entry)
            elif special.header is not None:
                yield Job(row.level, None, None, False, special=special)
            else:
                yield from self._jobs_of(source.level, [source.entry], plain, special)
        yield from self._jobs_of(level, batch, plain)

    def _blocks_and_rows(self) -> Iterator[view.Row]:
        """All of the view; what no later dump touches of the full as blocks of lines, which nobody parses. A block with
        a hard link that lost its first name comes line by line: all names of such a file do."""
        full, *others = self.wanted.chain
        streams = [indexes.entries(self.images.chunks(dump)) for dump in others]
        lost = sorted(order.key(path, False) for path, level in self._lost if not level)
        for row in view.merge([view.blocks(self.images.chunks(full), BLOCK), *streams]):
            block = row.entry
            at = bisect_left(lost, block.first) if lost and isinstance(block, view.Block) else len(lost)
            if at < len(lost) and lost[at] <= block.last:
                yield from (view.Row(entry, row.level) for entry in block.entries())
            else:
                yield row

    def _block_jobs(self, lines: bytes, plain: Callable[[str], bool]) -> Iterator[Job]:
        found = indexes.columns(lines)
        self.counts.missing.update(found.missing)
        self.counts.entries += len(found.paths)
        members = Members(0, found.paths, found.offsets, found.ends, found.digests, found.entry)
        yield from self._member_jobs(members, plain)

    def _orphan(self, row: view.Row, first_names: dict[bytes, bytes]) -> tuple[Special | None, view.Row]:
        """How to send a hard link whose first name is not selected: the first such name gets the content."""
        entry = row.entry
        final = self._final[entry.link]
        source = self._targets.get(final)
        if final not in self._targets:  # selected after all, by a longer way
            first = final
        elif final in first_names:
            first = first_names[final]
        elif source is None:
            return None, row  # the index has no such row: the agent says what it cannot link
        else:
            known = self._other_name(source, entry.path)
            if known is None:
                first_names[final] = entry.path
                return Special(entry.path), source
            first = first_names[final] = self._inodes[_file_of(source.entry)]
        return self._link_to(first, entry), row

    def _other_name(self, row: view.Row, path: bytes) -> Special | None:
        """How to send one more name of a file of which another segment's name is sent already; None: it is the first,
        path will have its content."""
        if not self._is_shared(row.entry):
            return None
        first = self._inodes.setdefault(_file_of(row.entry), path)
        return None if first == path else self._link_to(first, row.entry)

    def _is_shared(self, entry: Entry) -> bool:
        """Whether names of this file may come from rows that do not know of each other."""
        if entry.kind not in "hd" and self._shared and _file_of(entry) in self._shared:
            return True
        return "x" in entry.flags and bool(self.wanted.shares)

    @staticmethod
    def _link_to(first: bytes, entry: Entry) -> Special:
        header = pax.member(
            order.member_name(entry.path, False), "h", entry.mode, entry.uid, entry.gid, 0, entry.mtime_ns,
            order.member_name(first, False),
        )  # fmt: skip
        return Special(entry.path, header=header)

    def _jobs_of(
        self, level: int, batch: list[Entry], plain: Callable[[str], bool], special: Special | None = None
    ) -> Iterator[Job]:
        if not batch:
            return
        members = Members(
            level,
            [entry.path for entry in batch],
            [entry.offset for entry in batch],
            [entry.offset + entry.length for entry in batch],
            [entry.sha256 or indexes.UNKNOWN if entry.kind == "f" and entry.size else b"" for entry in batch],
            batch.__getitem__,
            escaped=False,
        )
        yield from self._member_jobs(members, plain, special)

    def _member_jobs(
        self, members: Members, plain: Callable[[str], bool], special: Special | None = None
    ) -> Iterator[Job]:
        level, count = members.level, len(members.paths)
        dump = self.wanted.chain[level]
        reader = self.images.reader(dump)
        try:
            reader.table()
        except StowageError as error:
            if count:
                yield Job(level, reader, None, False, begin=[(members, 0, count)], special=special, error=error)
            return
        yield from jobs_of(level, reader, members, plain(dump.codec), special)


def _file_of(entry: Entry) -> tuple:
    """What all names of one file have in common, whichever segment holds them."""
    return (
        entry.kind, entry.inode, entry.size, entry.mtime_ns, entry.ctime_ns, entry.sha256, entry.link, entry.mode,
        entry.uid, entry.gid,
    )  # fmt: skip


def check_matched(selections: Iterable[Selection]) -> None:
    """Raises RequestError when a path that was asked for was in none of the sources at that moment."""
    found: dict[bytes, bool] = {}
    older: dict[bytes, Selection] = {}
    wanted = None
    for selection in selections:
        wanted = selection.wanted
        for number, pattern in enumerate(wanted.patterns):
            hit = wanted.whole or number in selection.matched
            if hit and not wanted.whole and number not in selection.dumped and recent.newer_ns(wanted.dump):
                older[pattern.text], hit = selection, False
            found[pattern.text] = found.get(pattern.text, False) or hit
    for path, hit in found.items():
        if not hit and path in older:
            one = older[path].wanted
            told = recent.is_older(older[path].images.catalog, one.client, one.source, one.dump, escape(path))
            raise RequestError(*told, client=one.client, source=one.source)
        if not hit:
            folder = path.rpartition(b"/")[0] or b"/"
            raise RequestError(
                f"{wanted.client}:{escape(path)} was not there in the dump of {local(wanted.dump.begun_ns)}",
                f"stowage find {path_word('', path.rpartition(b'/')[2])[1:]}   or   "
                f"stowage list files {path_word(wanted.client, folder)}",
                client=wanted.client,
                source=wanted.source,
            )
