"""Index files, read as chunks of whole lines so that only the lines that matter are parsed.

Here live the chunks, the search for paths in them at the speed of bytes.find, and the columns that a whole
restore needs; what a line means is image.index. An index is in walk order: a folder and all below it lie
together, so a chunk is skipped without a look at its lines.
"""

from __future__ import annotations

import os
from typing import Callable, Iterable, Iterator, NamedTuple, Sequence

from ..errors import ImageDamaged
from ..image import codec, index
from ..image.escape import escape, unescape
from ..image.lines import MAX_LINE

ROOT = b"."
COLUMNS = 14
UNKNOWN = bytes(32)  # in place of a digest that the index does not have
STEP = 1 << 20
_TAKE_AWAY = (b"-\t", b"n\t")
_FEW = 24  # more paths than this are looked up line by line


def codec_of(path: str | os.PathLike[str]) -> codec.Codec:
    """The codec of an index or frame table, by its name."""
    name = os.fspath(path)
    return codec.get("zstd" if name.endswith(".zst") else "gzip" if name.endswith(".gz") else "none")


def chunks(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """The lines of an index file in chunks of whole lines, each line with its newline.

    Raises ImageDamaged for bytes that cannot be unpacked, and OSError.
    """
    with open(path, "rb") as file:
        yield from whole_lines(codec_of(path).unpack(iter(lambda: file.read(STEP), b"")))


def whole_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Pieces of text cut anew at line ends."""
    rest = b""
    for piece in pieces:
        cut = piece.rfind(b"\n") + 1
        if not cut:
            rest += piece
            if len(rest) > MAX_LINE + STEP:
                break
            continue
        yield rest + piece[:cut] if rest else piece[:cut]
        rest = piece[cut:]
    if rest:
        raise ImageDamaged("an index ends inside a line")


def entries(
    source: Iterable[bytes], bases: Sequence[bytes] | None = None, keep: Callable[[bytes], object] | None = None
) -> Iterator[index.Entry]:
    """The entries of chunks, in walk order; bases: only these paths, what is below them and their parents.

    keep(path): what is not wanted is left out before it is parsed, but never what is gone or was not dumped: that
    takes away what older dumps have. Raises ImageDamaged when the order is broken: a merge would lose what is out
    of place.
    """
    before = None
    for chunk in source if bases is None or ROOT in bases else below(source, bases):
        for line in chunk[:-1].split(b"\n"):
            if keep is not None:
                end = line.find(b"\t")
                path = line[:end]
                if line[end + 1 : end + 3] not in _TAKE_AWAY and not keep(unescape(path) if b"\\" in path else path):
                    continue
            entry = index.parse(line)
            key = entry.key()
            if before is not None and key <= before:
                raise ImageDamaged("an index is out of order at %r" % entry.path[:200])
            before = key
            yield entry


def below(source: Iterable[bytes], bases: Sequence[bytes]) -> Iterator[bytes]:
    """The lines of bases, of all below them, and of their parents, as chunks of whole lines."""
    exact, trees = set(), set()
    for base in bases:
        trees.add(escape(base + b"/")[:-1])  # a lone - stands as something else, but not before a slash
        exact.add(escape(base))
        parts = base.split(b"/")
        exact.update(escape(b"/".join(parts[:count])) for count in range(1, len(parts)))
    exact.add(ROOT)
    if len(trees) > _FEW:
        yield from _by_line(source, exact, trees)
        return
    heads = [b"\n" + path + b"\t" for path in sorted(exact)]
    inner = [b"\n" + path + b"/" for path in sorted(trees)]
    for chunk in source:
        found = b"\n" + chunk
        spans = [_line(found, at) for head in heads for at in _places(found, head)]
        for head in inner:
            first = found.find(head)
            if first >= 0:
                spans.append((first + 1, _line(found, found.rfind(head))[1]))
        if spans:
            yield b"".join(_merged(found, sorted(spans)))


def _places(text: bytes, word: bytes) -> Iterator[int]:
    at = text.find(word)
    while at >= 0:
        yield at
        at = text.find(word, at + 1)


def _line(text: bytes, at: int) -> tuple[int, int]:
    """Begin and end of the line whose newline before it stands at `at`."""
    return at + 1, text.index(b"\n", at + 1) + 1


def _merged(text: bytes, spans: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    done = 0
    for start, end in spans:
        if end > done:
            yield text[max(start, done) : end]
            done = end


def _by_line(source: Iterable[bytes], exact: set[bytes], trees: set[bytes]) -> Iterator[bytes]:
    for chunk in source:
        kept = []
        for line in chunk[:-1].split(b"\n"):
            path = line[: line.find(b"\t")]
            if path in exact or _inside(path, trees):
                kept.append(line)
        if kept:
            yield b"\n".join(kept) + b"\n"


def _inside(path: bytes, trees: set[bytes]) -> bool:
    slash = path.rfind(b"/")
    while slash > 0:
        if path[:slash] in trees:
            return True
        slash = path.rfind(b"/", 0, slash)
    return False


class Columns(NamedTuple):
    """Columns of the members of an archive, in its order. paths as they stand in the index, escaped.

    digests: 32 bytes for a regular file with content (UNKNOWN: not known), b"" for every other member.
    missing: reasons of n rows.
    entry(i): the whole row of the i-th member.
    """

    paths: list[bytes]
    kinds: list[bytes]
    sizes: list[bytes]
    offsets: list[int]
    ends: list[int]
    digests: list[bytes]
    missing: list[str]
    entry: Callable[[int], index.Entry]


def columns(chunk: bytes) -> Columns:
    """The members that the lines of a chunk name, without parsing each line. Raises ImageDamaged.

    Rows without a member (gone, not dumped) are left out. This is the fast path of a restore of everything:
    what is wrong in a column that it does not look at does not matter, what it does look at is checked.
    """
    fields = chunk.replace(b"\n", b"\t").split(b"\t")
    del fields[-1]
    if len(fields) != COLUMNS * chunk.count(b"\n"):
        raise ImageDamaged("a line of the index has not %d columns" % COLUMNS)
    table = [fields[number::COLUMNS] for number in _LOOKED_AT]
    kinds = table[1]
    members: list[int] | None = None
    missing: list[str] = []
    if b"-" in kinds or b"n" in kinds:
        links = fields[9::COLUMNS]
        missing = [links[row].decode("ascii", "replace") for row, kind in enumerate(kinds) if kind == b"n"]
        members = [row for row, kind in enumerate(kinds) if kind not in (b"-", b"n")]
        table = [[column[row] for row in members] for column in table]
    paths, kinds, sizes, shas, starts, lengths = table
    try:
        offsets = list(map(int, starts))
        ends = [offset + length for offset, length in zip(offsets, map(int, lengths))]
        digests = [
            b"" if kind != b"f" or size == b"0" else fromhex(sha.decode("ascii")) if sha != b"-" else UNKNOWN
            for kind, size, sha in zip(kinds, sizes, shas)
        ]
    except ValueError:
        raise ImageDamaged("a line of the index cannot be read") from None
    if not set(map(len, digests)) <= {0, 32}:
        raise ImageDamaged("a line of the index holds no SHA-256")

    def entry(number: int) -> index.Entry:
        return index.parse(chunk.split(b"\n")[number if members is None else members[number]])

    return Columns(paths, kinds, sizes, offsets, ends, digests, missing, entry)


fromhex = bytes.fromhex
_LOOKED_AT = (0, 1, 5, 10, 11, 12)  # path, kind, size, sha256, offset, length
