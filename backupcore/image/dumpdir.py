"""GNU.dumpdir: every name in a folder, as GNU tar's incremental archives carry it.

Here live writing and reading of the value, nothing of headers. A value is `LETTER name NUL` for each name,
sorted as bytes without the letter (GNU tar looks names up by binary search: out of order means deleted),
and one more NUL. Letters: Y a file in the dump's view, D a folder in it, N there but not dumped.
"""

from __future__ import annotations

from typing import Iterable, Iterator, List, NamedTuple, Sequence, Tuple

from ..errors import ImageDamaged

LETTERS = b"YDN"
_STEP = 4096


class Dumpdir(NamedTuple):
    """A value to be written: its length, and its names with their letters."""

    length: int
    names: Sequence[bytes]
    letters: bytes

    def pieces(self) -> Iterator[bytes]:
        """The value in pieces of some thousand names: the whole of a big folder would double its memory."""
        text = {code: bytes((code,)) for code in LETTERS}
        for start in range(0, len(self.names), _STEP):
            flat: List[bytes] = []
            for code, name in zip(self.letters[start : start + _STEP], self.names[start : start + _STEP]):
                flat += (text[code], name, b"\0")
            yield b"".join(flat)
        yield b"\0"


def build(names: Sequence[bytes], letters: bytes) -> Dumpdir:
    """The value for names (sorted as bytes, each once) and one letter for each.

    Raises ValueError for names out of order or letters that are none: tar would delete what is listed.
    """
    if len(names) != len(letters) or letters.translate(None, LETTERS):
        raise ValueError("one letter of Y, D, N for each name")
    before = b""
    for name in names:
        if name <= before:
            raise ValueError("names out of order: %r after %r" % (name, before))
        before = name
    return Dumpdir(sum(map(len, names)) + 2 * len(names) + 1, names, letters)


def build_of(entries: Iterable[Tuple[bytes, str]]) -> Dumpdir:
    """The value for (name, letter) pairs in any order."""
    ordered = sorted(entries)
    return build([name for name, _letter in ordered], "".join(letter for _name, letter in ordered).encode("ascii"))


def parse(value: bytes) -> List[Tuple[bytes, str]]:
    """(name, letter) of each name. Raises ImageDamaged for what build() never makes, rename records too."""
    if value == b"\0":
        return []
    found: List[Tuple[bytes, str]] = []
    before = b""
    if not value.endswith(b"\0\0"):
        raise ImageDamaged("a list of a folder's names is cut")
    for record in value[:-2].split(b"\0"):
        letter, name = record[:1], record[1:]
        if not letter or letter not in LETTERS:
            raise ImageDamaged("a list of a folder's names holds a record of type %r" % letter)
        if name <= before or b"/" in name or name in (b".", b".."):
            raise ImageDamaged("a list of a folder's names is out of order or holds no name: %r" % name[:80])
        found.append((name, letter.decode("ascii")))
        before = name
    return found
