"""Find by name, path or glob over the indexes of all dumps; list the files of a moment.

Here live the search and the histories it finds: which versions of a path there were, and since when it is gone.
Chunks of an index are searched by bytes.find; only lines that hold what is looked for are parsed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Iterable, Iterator, Sequence

from ..catalog.records import DumpRow
from ..errors import RequestError, StowageError
from ..image import index
from ..image.escape import escape
from ..settings import Settings
from ..text import escape as shown
from . import view
from .choose import Selection, check_matched
from .fetch import Images
from .report import Listed, Version
from .request import ROOT, Wanted, glob_regex, parse_pattern, unknown

LIMIT = 100_000  # versions of one source that are kept in memory


@dataclass(frozen=True)
class Query:
    """What is looked for. regex: matches absolute paths; needle: bytes that every line of a match holds, or b""."""

    client: str | None
    regex: re.Pattern
    needle: bytes


def parse(pattern: str) -> Query:
    """A query from a pattern: `NAME` anywhere, `/ABSOLUTE/PATH`, `some/path` at the end of one, `CLIENT:/PATH`."""
    client, path = parse_pattern(pattern)
    if not path:
        raise RequestError("nothing to find was named", "stowage find NAME   or   stowage find '*.conf'")
    whole = path if path.startswith(b"/") else b"**/" + path
    # an absolute path begins with a slash: so that **/ can stand for no folder at all
    regex = glob_regex(whole if path.startswith(b"/") else b"/" + whole, below=False)
    runs = [run for run in re.split(rb"\*+|\?|\[[^\]]*\]|\\|/", path) if run]
    needle = max(runs, key=len, default=b"")
    # a name that is just - stands as something else in an index
    return Query(client, regex, escape(b"x" + needle)[1:] if needle.strip(b"-") else b"")


def find(
    settings: Settings, catalog: Any, images: Images, pattern: str, client: str | None = None, source: str | None = None
) -> Iterator[Version]:
    """The versions of everything that matches, by path, newest first; also when it went.

    What could not be searched stands in images.notes.
    """
    query = parse(pattern)
    if client and query.client and client != query.client:
        raise RequestError(f"{client} and {query.client} in one search", "name one client")
    client = client or query.client
    rows = catalog.dumps(client=client)
    if client and not rows and client not in settings.clients:
        raise unknown("client", client, {*settings.clients, *(row.client for row in catalog.dumps())})
    by_source: dict[tuple[str, str], list[DumpRow]] = {}
    for row in rows:
        if source in (None, row.source):
            by_source.setdefault((row.client, row.source), []).append(row)
    if not by_source:
        named = ":".join(filter(None, (client, source)))
        raise RequestError(f"no dump of {shown(named) or 'any client'} is known", "stowage list dumps")
    for key in sorted(by_source):
        yield from _history(images, sorted(by_source[key], key=lambda row: row.counter), query)


def _history(images: Images, dumps: Sequence[DumpRow], query: Query) -> Iterator[Version]:
    bases = {row.base for row in dumps}
    views: dict[str, dict[bytes, index.Entry]] = {}  # of dumps that others build on: what was there
    before: dict[bytes, tuple[index.Entry, DumpRow]] = {}
    found: dict[bytes, list[Version]] = {}
    count = 0
    for row in dumps:
        there = dict(views.get(row.base, {})) if row.base else {}
        try:
            for entry in _matches(images.chunks(row), row, query):
                if entry.kind == "-":
                    old = there.get(entry.path)
                    if old is not None and (old.kind == "d") == (entry.link == b"d"):
                        del there[entry.path]
                elif entry.kind != "n":
                    there[entry.path] = entry
        except StowageError as error:
            images.note(f"{row.client}:{row.source} {row.id} was not searched: {error.message}")
            continue
        if row.id in bases:
            views[row.id] = there
        for path, entry in there.items():
            old = before.get(path)
            if old is None or _identity(old[0]) != _identity(entry):
                found.setdefault(path, []).append(_version(row, entry, False))
                before[path] = (entry, row)
                count += 1
        for path in [path for path in before if path not in there]:
            old = before.pop(path)
            found[path].append(_version(row, old[0], True))
            count += 1
        if count > LIMIT:
            images.note(f"{row.client}:{row.source}: more than {LIMIT} versions; name a longer pattern")
            break
    for path in sorted(found):
        yield from reversed(found[path])


def _identity(entry: index.Entry) -> tuple:
    return entry.kind, entry.size, entry.mtime_ns, entry.sha256, entry.link if entry.kind != "h" else b""


def _absolute(row: DumpRow, path: bytes) -> bytes:
    root = row.path.encode("utf-8", "surrogateescape").rstrip(b"/")
    return (root or b"/") if path == ROOT else root + b"/" + path


def _version(row: DumpRow, entry: index.Entry, gone: bool) -> Version:
    digest = entry.sha256.hex() if entry.sha256 else ""
    return Version(
        row.client, row.source, _absolute(row, entry.path), entry.kind, entry.size, entry.mtime_ns, row.id,
        row.begun_ns, gone, "s" in entry.flags, digest,
    )  # fmt: skip


def _matches(chunks: Iterable[bytes], row: DumpRow, query: Query) -> Iterator[index.Entry]:
    match = query.regex.match
    # the needle may stand in the path of the source itself, which the lines do not hold
    needle = query.needle if query.needle not in escape(_absolute(row, ROOT)) else b""
    for chunk in chunks:
        for line in _lines_with(chunk, needle):
            entry = index.parse(line)
            if match(_absolute(row, entry.path)):
                yield entry


def _lines_with(chunk: bytes, needle: bytes) -> Iterator[bytes]:
    if not needle:
        yield from chunk[:-1].split(b"\n")
        return
    at = chunk.find(needle)
    while at >= 0:
        start = chunk.rfind(b"\n", 0, at) + 1
        end = chunk.index(b"\n", at)
        # only in the path, which is the first column
        if chunk.find(b"\t", start, end) >= at + len(needle):
            yield chunk[start:end]
        at = chunk.find(needle, end)


def list_files(images: Images, wanted: Sequence[Wanted], recursive: bool = False) -> Iterator[Listed]:
    """The entries of wanted as they were. Of a folder what is in it, recursive: all below it; else the entry itself."""
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
                yield Listed(
                    one.absolute(entry.path), entry.kind, entry.mode, entry.uid, entry.gid, entry.size,
                    entry.mtime_ns, entry.link, one.chain[row.level].id, row.stale or "s" in entry.flags,
                )  # fmt: skip
