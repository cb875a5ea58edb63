"""The content of one file, for `restore --stdout`.

Here lives finding the one file that was asked for and giving its bytes, holes filled; a hard link gives the
content of its first name. Every frame is checked before its bytes are given, the whole at the end.
"""

from __future__ import annotations

import hashlib
from typing import Any, Iterator, Sequence

from ..errors import ImageDamaged, RequestError, RestoreIncomplete, StowageError
from ..image import codec, pax
from ..text import escape
from . import view
from .choose import Selection, check_matched
from .images import Images
from .report import restore_command
from .request import Wanted
from .stream import Job, Members, jobs_of, read_ahead

PIECE = 1 << 20
SMALL = 16 << 20  # up to this size a file is given only when all of it was right


def cat(images: Images, wanted: Sequence[Wanted]) -> Iterator[bytes]:
    """The content of the one file that wanted names. Raises RequestError when it is none or more than one.

    The request is checked before the first piece, a small file as a whole; of a large one ImageDamaged at the end
    takes back what was given.
    """
    selection, row = _find(images, wanted)
    dump = selection.wanted.chain[row.level]
    if row.entry.size <= SMALL and row.entry.sha256 is not None:
        # the content proves the line of the index that led to it: reading all of a large index would take longer
        try:
            return iter([b"".join(_content(images, selection.wanted, row))])
        except ImageDamaged:
            images.checked_index(dump)  # the image, or what this server has of its index
            selection, row = _find(images, wanted)
            return iter([b"".join(_content(images, selection.wanted, row))])
    images.checked_index(dump)
    selection, row = _find(images, wanted)
    if row.entry.size:
        images.reader(dump).table()
    return _content(images, selection.wanted, row)


def _find(images: Images, wanted: Sequence[Wanted]) -> tuple[Selection, view.Row]:
    selections = [Selection(images, one) for one in wanted]
    check_matched(selections)
    return _one(selections)


def _one(selections: Sequence[Selection]) -> tuple[Selection, view.Row]:
    found: list[tuple[Selection, view.Row]] = []
    for selection in selections:
        for row in selection.rows():
            found.append((selection, row))
            if len(found) > 1:
                break
    named = selections[0].wanted
    path = escape(named.patterns[0].text)
    if not found:
        raise RequestError(f"{named.client}:{path} names nothing", client=named.client)
    selection, row = found[0]
    where = f"{named.client}:{escape(selection.wanted.absolute(row.entry.path))}"
    if len(found) > 1 or row.entry.kind == "d":
        what = "is a folder" if row.entry.kind == "d" else "and others were asked for"
        raise RequestError(
            f"{where} {what}, one file can be written to standard output",
            restore_command(named.client, named.patterns[0].text),
            client=named.client,
        )
    if row.entry.kind == "n":
        raise RestoreIncomplete(f"{where} was there, but not dumped: {row.entry.link.decode()}", client=named.client)
    row = selection.content_of(row)
    if row is None or row.entry.kind != "f":
        kinds = {"l": "a symbolic link", "p": "a fifo", "c": "a device", "b": "a device"}
        what = kinds.get(row.entry.kind, "no file") if row else "a hard link to nothing"
        raise RequestError(f"{where} is {what} and has no content", client=named.client)
    return selection, row


def _content(images: Images, wanted: Wanted, row: view.Row) -> Iterator[bytes]:
    entry = row.entry
    if not entry.size:
        return
    reader = images.reader(wanted.chain[row.level])
    members = Members(
        row.level, [entry.path], [entry.offset], [entry.offset + entry.length], [entry.sha256 or b""],
        [entry].__getitem__, escaped=False,
    )  # fmt: skip
    ahead = read_ahead(jobs_of(row.level, reader, members, True))
    try:
        pieces = _archive(ahead, codec.get(reader.dump.codec))
        member = next(pax.Reader(lambda _count: next(pieces, b""), many=True), None)
        if member is None or member.path != entry.path or member.size != entry.size:
            raise ImageDamaged(f"{reader.name} holds another file where its index says {escape(entry.path)}")
        digest = hashlib.sha256()
        place = 0
        segments = iter(member.sparse if member.sparse is not None else [(0, member.size)])
        start, left = next(segments, (member.size, 0))
        for piece in member.content():
            digest.update(piece)
            while piece:
                yield from _zeros(start - place)
                yield bytes(piece[:left])
                done = min(left, len(piece))
                place, start, left, piece = start + done, start + done, left - done, piece[done:]
                if not left:
                    start, left = next(segments, (member.size, 0))
        yield from _zeros(member.size - place)
        if entry.sha256 is not None and digest.digest() != entry.sha256:
            raise ImageDamaged(f"the content of {escape(wanted.absolute(entry.path))} is not what the index says")
    finally:
        ahead.close()


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield bytes(min(count, PIECE))
        count -= PIECE


def _archive(ahead: Iterator[tuple[Job, Any]], unpacker: codec.Codec) -> Iterator[bytes]:
    for job, stored in ahead:
        if isinstance(stored, StowageError):
            raise stored
        data = unpacker.decompress(stored, job.frame.length)
        for start, end in job.ranges:
            yield data[start - job.frame.offset : end - job.frame.offset]
