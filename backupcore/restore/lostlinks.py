"""Hard links whose first name is gone: a folder with it was renamed or removed, and the link itself did not change.

The link of such a row is a path of the view of the very dump it is from. Here lives finding those rows of a chain, and
the row that has their content; who sends it lives in choose.py.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, Iterator, Sequence

from ..image import index
from . import indexes, view
from .view import Row

Chunks = Callable[[Any], Iterable[bytes]]
Entries = Callable[[Any, Iterable[bytes]], Iterator[index.Entry]]
_LINK = b"\th\t"


def find(
    chain: Sequence[Any], chunks: Chunks, match: Callable[[bytes], object], entries: Entries, few: bool
) -> dict[tuple[bytes, int], Row]:
    """(path, level) of each such row of what match() wants -> the row with its content.

    chunks(dump): of its index; few: of a part of it. entries(dump, paths): the entries of its index at paths. Memory
    grows with the incrementals, where there is a hard link at all, and with the links that are found.
    """
    if not any(_LINK in chunk for dump in chain for chunk in chunks(dump)):
        return {}
    later: dict[bytes, int] = {}  # path -> the last dump that has a word of it
    hidden: dict[bytes, int] = {}  # folders of which a dump says that they are not in it
    for level, dump in enumerate(() if few else chain[1:], 1):
        for entry in indexes.entries(chunks(dump)):
            later[entry.path] = level
            if entry.kind == "n" and entry.is_dir:
                hidden[entry.path] = level
    found: dict[tuple[bytes, int], index.Entry] = {}
    for level, dump in enumerate(chain if few else chain[:-1]):
        for entry in _links(chunks(dump)):
            if match(entry.path) and (few or later.get(entry.link, 0) > level or _is_hidden(entry.link, hidden, level)):
                found[entry.path, level] = entry
    if found and not few:
        now = _rows(chain, {entry.link for entry in found.values()}, entries)
        for (path, level), entry in list(found.items()):
            there = now.get(entry.link)
            if there is not None and there.entry.inode == entry.inode:
                del found[path, level]
    return _sources(chain, found, entries)


def _sources(
    chain: Sequence[Any], found: dict[tuple[bytes, int], index.Entry], entries: Entries
) -> dict[tuple[bytes, int], Row]:
    """What has the content of each: a first name may itself be a hard link of an older dump, and of that one's view."""
    sources: dict[tuple[bytes, int], Row] = {}
    open_ = {place: (entry.link, place[1]) for place, entry in found.items()}
    for _step in range(2 * len(chain) + 8):
        if not open_:
            break
        rows: dict[tuple[bytes, int], Row] = {}
        for level in {level for _link, level in open_.values()}:
            wanted = {link for link, at in open_.values() if at == level}
            rows.update({(path, level): row for path, row in _rows(chain[: level + 1], wanted, entries).items()})
        further = {}
        for place, link in open_.items():
            row = rows.get(link)
            if row is not None and row.entry.kind == "h":
                further[place] = (row.entry.link, row.level)
            elif row is not None:
                sources[place] = row
        open_ = further
    return sources


def _links(chunks: Iterable[bytes]) -> Iterator[index.Entry]:
    for chunk in chunks:
        at = chunk.find(_LINK)
        while at >= 0:
            begin, end = chunk.rfind(b"\n", 0, at) + 1, chunk.index(b"\n", at)
            entry = index.parse(chunk[begin:end])
            if entry.kind == "h":
                yield entry
            at = chunk.find(_LINK, end)


def _is_hidden(path: bytes, hidden: dict[bytes, int], level: int) -> bool:
    while hidden and path:
        if hidden.get(path, 0) > level:
            return True
        path = path.rpartition(b"/")[0]
    return False


def _rows(chain: Sequence[Any], paths: set[bytes], entries: Entries) -> dict[bytes, Row]:
    merged = view.merge([entries(dump, paths) for dump in chain])
    return {row.entry.path: row for row in merged if row.entry.path in paths and row.entry.kind not in "nd"}
