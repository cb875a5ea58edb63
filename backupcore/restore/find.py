"""Find over all dumps; list the files of a moment.

Here lives what a person asks and what is told: the search itself is search/, which keeps each path once. A dump that
no history has yet is read into one first, so that an answer is never older than the catalog; one that cannot be read
is named in images.notes.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

from ..catalog.records import DumpRow
from ..errors import ImageDamaged, RequestError
from ..image import index, order
from ..image.escape import unescape
from ..search import browse, query, scan, store
from ..search.history import HistoryDamaged
from ..search.lines import FLAGS, GID, KIND, LINK, MODE, MTIME, SIZE, STALE, UID
from ..settings import Settings
from ..text import escape as shown
from . import found, shares, view
from .choose import Selection, check_matched
from .histories import bring, untold
from .images import Images
from .report import Listed, Version
from .request import ROOT, Wanted, glob_regex, parse_pattern, unknown

LIMIT = 1000  # paths told when nobody says how many
MANY = 2_000_000  # entries that a person is told of before they are read


@dataclass(frozen=True)
class Asked:
    """What is looked for. substring: pattern is a part of a name or, with a slash, of a path.

    larger, smaller: bytes; newer, older: ns since 1970, of the file's own time. deleted: only what the newest dump of
    its source does not have. limit: so many paths, None for all.
    """

    pattern: str
    client: str | None = None
    source: str | None = None
    substring: bool = False
    ignore_case: bool = False
    larger: int | None = None
    smaller: int | None = None
    newer_ns: int | None = None
    older_ns: int | None = None
    deleted: bool = False
    limit: int | None = LIMIT


def compiled(asked: Asked) -> tuple[str | None, query.Query]:
    """(client or None, query) of what is asked. Raises RequestError."""
    client, pattern = parse_pattern(asked.pattern)
    if not pattern:
        raise RequestError("nothing to find was named", "stowage find NAME   or   stowage find '*.conf'")
    if asked.client and client and client != asked.client:
        raise RequestError(f"{asked.client} and {client} in one search", "name one client")

    def glob(text: bytes) -> Any:
        return glob_regex(text, below=False)

    how = query.SUBSTRING if asked.substring else query.GLOB
    second = 1_000_000_000
    bounds = {
        "larger": asked.larger, "smaller": asked.smaller, "deleted": asked.deleted,
        "newer": None if asked.newer_ns is None else asked.newer_ns // second,
        "older": None if asked.older_ns is None else asked.older_ns // second,
    }  # fmt: skip
    return asked.client or client, query.compile_query(pattern, how, glob, asked.ignore_case, **bounds)


def find(
    settings: Settings, catalog: Any, images: Images, asked: Asked, tell: Callable[[str], None] = lambda message: None
) -> Iterator[Version]:
    """The versions of everything that matches, path by path, the newest first; each content of a path once.

    What could not be searched, and that there is more, stands in images.notes when the last one is out.
    """
    client, wanted = compiled(asked)
    rows = catalog.dumps(client=client)
    if client and not rows and client not in settings.clients:
        raise unknown("client", client, {*settings.clients, *(row.client for row in catalog.dumps())})
    rows = [row for row in rows if asked.source in (None, row.source)]
    if not rows:
        named = ":".join(filter(None, (client, asked.source)))
        raise RequestError(f"no dump of {shown(named) or 'any client'} is known", "stowage list dumps")
    for count, path in enumerate(_paths(settings, images, rows, wanted, tell)):
        if asked.limit is not None and count >= asked.limit:
            images.note(f"there is more: the first {asked.limit} paths are shown; --limit 0 shows all")
            break
        yield from path.versions


def _paths(
    settings: Settings, images: Images, rows: Sequence[DumpRow], wanted: query.Query, tell: Callable[[str], None]
) -> Iterator[found.Path]:
    """What matches. A history that turns out to be damaged is made again, and the search goes on where it was."""
    given, by_id = 0, {row.id: row for row in rows}
    for last in (False, True):
        with ExitStack() as stack:
            opened = _up_to_date(settings, images, rows, tell, stack)
            hits = stack.enter_context(closing(scan.search(opened, found.candidates(wanted, opened))))
            try:
                for path in itertools.islice(found.told(opened, hits, by_id, wanted), given, None):
                    given += 1
                    yield path
                return
            except HistoryDamaged as error:
                if last:
                    raise
                images.note(f"{error.message}; it was made again from the indexes")
                Path(error.path).unlink(missing_ok=True)


def _up_to_date(
    settings: Settings, images: Images, rows: Sequence[DumpRow], tell: Callable[[str], None], stack: ExitStack
) -> list[store.Opened]:
    """The histories of rows, all of them in; those that cannot be are noted."""
    opened, absent = store.open_all(settings.state, rows)
    if absent:
        entries = sum(row.entries for row in absent)
        if entries > MANY:
            tell(f"{entries} entries of {len(absent)} dumps are read before the search, which then keeps them")
        _close(opened)
        state = settings.state
        try:
            done = bring(state, images, rows, clean=False)
        except OSError as error:
            # a full disk, or a person who may only read: searched all the same, but not kept
            images.note(f"the search could not be brought up to date: {error.strerror}")
            state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stowage-")))
            keys = {store.Key(row.client, row.source, row.segment, row.path) for row in absent}
            mine = [row for row in rows if store.Key(row.client, row.source, row.segment, row.path) in keys]
            done = bring(state, images, mine, clean=False)
            opened, _absent = store.open_all(state, mine)
            more, _absent = store.open_all(settings.state, [row for row in rows if row not in mine])
            opened = sorted(opened + more, key=lambda one: one.key)
        else:
            opened, absent = store.open_all(state, rows)
        lines, records = untold(done, rows, images.catalog, "was not searched")
        for line in lines:
            images.note(line)
        known = {one["dump"] for one in images.unsearched}  # a search may be brought up to date twice
        images.unsearched += [one for one in records if one["dump"] not in known]
    stack.callback(_close, opened)
    return opened


def _close(opened: Sequence[store.Opened]) -> None:
    for one in opened:
        os.close(one.history.fd)


def list_files(images: Images, wanted: Sequence[Wanted], recursive: bool = False) -> Iterator[Listed]:
    """The entries of wanted as they were. Of a folder what is in it, recursive: all below it; else the entry itself.

    One folder or one file comes out of the search's history without a look at what lies below; the rest, and what no
    history has yet, out of the indexes.
    """
    if not recursive and all(pattern.glob is None for one in wanted for pattern in one.patterns):
        with ExitStack() as stack:
            moments = [_moments(images, one, stack) for one in wanted]
            if all(len(found) == max(1, len(one.shares)) for one, found in zip(wanted, moments)):
                try:
                    found = [list(_level(one, moment)) for one, moment in zip(wanted, moments)]
                except ImageDamaged:
                    found = []
                if found and _all_matched(wanted, found):
                    for one, entries in zip(wanted, found):
                        yield from (_listed(one, entry) for entry in entries)
                    return
    yield from _from_indexes(images, wanted, recursive)


def _moments(images: Images, one: Wanted, stack: ExitStack) -> list[tuple[Any, browse.Moment]]:
    """What shows a source, with its share of it (None: all); [] when the search does not have all of that."""
    parts: Sequence[Any] = one.shares or (None,)
    rows = [one.dump if part is None else one.chain[part.stop - 1] for part in parts]
    opened, absent = store.open_all(images.settings.state, rows)
    stack.callback(_close, opened)
    if absent:
        return []
    by_key = {known.key: known for known in opened}
    keys = [store.Key(row.client, row.source, row.segment, row.path) for row in rows]
    return [(part, browse.Moment(by_key[key], row.id)) for part, key, row in zip(parts, keys, rows) if key in by_key]


def _level(one: Wanted, moments: Sequence[tuple[Any, browse.Moment]]) -> Iterator[browse.Entry]:
    without = frozenset(one.without)
    given: set[tuple[bytes, bool]] = set()
    for pattern in one.patterns:
        path = pattern.literal
        inside = path != ROOT or pattern.text == one.root
        found: list[tuple[bytes, int, browse.Entry]] = []
        for part, moment in moments:
            if part is None or part.touches([path]):
                found += [_ranked(part, entry) for entry in _in_moment(moment, path, inside)]
        for _key, rank, entry in sorted(found, key=lambda each: each[:2]):
            key = (entry.path, entry.is_dir)
            if rank < shares.OTHERS and key not in given and not (without and view.inside(entry.path, without)):
                given.add(key)
                yield entry


def _in_moment(moment: browse.Moment, path: bytes, inside: bool) -> list[browse.Entry]:
    found = moment.entries(path)
    entries = [entry for entry in found if not (entry.is_dir and entry.row[KIND] == b"d" and inside)]
    return entries + list(moment.level(path)) if inside and len(entries) < len(found) else entries


def _ranked(part: Any, entry: browse.Entry) -> tuple[bytes, int, browse.Entry]:
    """An entry with its place, and whose word of it counts: the lowest."""
    rank = shares.OWN if part is None else part.rank(entry.path, entry.row[KIND] == b"d")
    return order.key(entry.path, entry.is_dir), rank, entry


def _all_matched(wanted: Sequence[Wanted], found: Sequence[Sequence[browse.Entry]]) -> bool:
    """Whether something was found for each; what was not found is told by who knows the words for it."""
    return all(found) and all(len(one.patterns) == 1 for one in wanted)


def _listed(one: Wanted, entry: browse.Entry) -> Listed:
    row = entry.row

    def number(field: bytes, base: int = 10) -> int:
        return 0 if field == b"-" else int(field, base)

    link = b"" if row[LINK] == b"-" else unescape(row[LINK])
    mtime = 0 if row[MTIME] == b"-" else int(row[MTIME].replace(b".", b""))
    return Listed(
        one.absolute(entry.path), row[KIND].decode("ascii"), number(row[MODE], 8), number(row[UID]),
        number(row[GID]), number(row[SIZE]), mtime, link, entry.dump, STALE in row[FLAGS] or b"s" in row[FLAGS],
    )  # fmt: skip


def _from_indexes(images: Images, wanted: Sequence[Wanted], recursive: bool) -> Iterator[Listed]:
    selections = [Selection(images, one) for one in wanted]
    check_matched(selections)
    for selection in selections:
        one = selection.wanted
        folders = {
            pattern.literal for pattern in one.patterns
            if pattern.literal is not None and (pattern.literal != ROOT or pattern.text == one.root)
        }  # fmt: skip
        top = view.matcher(one, below=False)
        for row in selection.rows():
            entry = row.entry
            parent = b"" if entry.path == ROOT else entry.path.rpartition(b"/")[0] or ROOT
            inside = parent in folders
            itself = bool(top(entry.path)) and not (entry.kind == "d" and entry.path in folders)
            if recursive or inside or itself:
                yield _told(one, row, entry)


def _told(one: Wanted, row: view.Row, entry: index.Entry) -> Listed:
    return Listed(
        one.absolute(entry.path), entry.kind, entry.mode, entry.uid, entry.gid, entry.size, entry.mtime_ns,
        entry.link, one.chain[row.level].id, row.stale or "s" in entry.flags,
    )  # fmt: skip
