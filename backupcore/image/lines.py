"""Lines out of chunks, bounded: the way every TSV file of an image is read."""

from __future__ import annotations

from typing import Iterable, Iterator

from ..errors import ImageDamaged

MAX_LINE = 64 << 20  # a path of 8 MiB, escaped, and a link of the same


def whole_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines in chunks, without newlines. Raises ImageDamaged for a line that is too long or cut."""
    rest = b""
    for chunk in chunks:
        lines = (rest + chunk).split(b"\n") if rest else chunk.split(b"\n")
        rest = lines.pop()
        if len(rest) > MAX_LINE:
            break
        yield from lines
    if rest:
        raise ImageDamaged("a line of %d bytes or more has no end" % len(rest))
