"""What is looked for: from the words of a person to a test of paths and the bytes that every match holds.

Here lives the meaning of names, globs, substrings and case; where it is looked for lives in scan.py.

A pattern without a slash is about the name, one with a slash about the whole path. Every match of a query holds its
needle: in its name when by_name, else somewhere in its path; so that most blocks and most names are passed over by
bytes.find. Ignoring case folds each character alone, and never one that is not ASCII to one that is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Callable

GLOB, SUBSTRING = "glob", "substring"
_SIGNS = re.compile(rb"[*?\[\\]")


@dataclass(frozen=True)
class Query:
    """test: of the name or the absolute path, folded when fold. exact: the name that every match has, or None.

    needle: b"" when nothing is known of it. last: it stands in the name of a match, not only in its path.
    larger, smaller: bytes; newer, older: seconds since 1970; both ends count. deleted: only what is gone.
    """

    test: Callable[[bytes], object]
    by_name: bool
    needle: bytes = b""
    last: bool = True
    exact: bytes | None = None
    fold: bool = False
    larger: int | None = None
    smaller: int | None = None
    newer: int | None = None
    older: int | None = None
    deleted: bool = False

    @property
    def sized(self) -> bool:
        """Whether only some sizes or times match."""
        return any(bound is not None for bound in (self.larger, self.smaller, self.newer, self.older))

    def within(self, kind: str, size: int, mtime_ns: int) -> bool:
        """Whether a version of this size and time is looked for."""
        seconds = mtime_ns // 1_000_000_000
        if kind not in "fh" and (self.larger is not None or self.smaller is not None):
            return False
        return (
            (self.larger is None or size >= self.larger)
            and (self.smaller is None or size <= self.smaller)
            and (self.newer is None or seconds >= self.newer)
            and (self.older is None or seconds <= self.older)
        )

    def matches(self, name: bytes, path: Callable[[], bytes]) -> bool:
        """Whether a path matches; name: its last part; path(): all of it."""
        text = name if self.by_name else path()
        return bool(self.test(folded(text) if self.fold else text))


def folded(data: bytes) -> bytes:
    """Small letters for great ones, character by character; bytes that are no UTF-8 stay."""
    if data.isascii():
        return data.lower()
    return "".join(map(_small, data.decode("utf-8", "surrogateescape"))).encode("utf-8", "surrogateescape")


def _small(sign: str) -> str:
    small = sign.lower()
    return small if sign.isascii() or (len(small) == 1 and not small.isascii()) else sign


def compile_query(
    pattern: bytes, how: str, glob: Callable[[bytes], re.Pattern], fold: bool = False, **bounds: object
) -> Query:
    """A query. how: GLOB (without a sign of one: exact) or SUBSTRING. glob(pattern): its regular expression, which
    matches whole names or whole absolute paths."""
    wanted = folded(pattern) if fold else pattern
    by_name = b"/" not in wanted
    if how == SUBSTRING:
        parts = wanted.split(b"/")
        needle = _ascii(wanted) if by_name and fold else wanted
        if not by_name:
            needle = max((_ascii(part) if fold else part for part in parts), key=len)
        return Query(lambda text: wanted in text, by_name, needle, by_name, None, fold, **bounds)
    if not _SIGNS.search(wanted):
        name = wanted.rpartition(b"/")[2]
        if by_name:
            test: Callable = wanted.__eq__
        elif wanted.startswith(b"/"):
            test = wanted.__eq__
        else:
            tail = b"/" + wanted
            test = lambda text: text.endswith(tail)  # noqa: E731
        exact = name if name and not fold else None
        return Query(test, by_name, _ascii(name) if fold else name, True, exact, fold, **bounds)
    regex = glob(wanted if by_name or wanted.startswith(b"/") else b"/**/" + wanted)
    head, _slash, name = wanted.rpartition(b"/")
    exact = name if name and not by_name and not fold and not _SIGNS.search(name) else None
    needle = _longest(name, fold)
    last = by_name or (b"**" not in name and bool(needle))
    if not last:
        needle = max((_longest(part, fold) for part in wanted.split(b"/")), key=len)
    return Query(regex.match, by_name, needle, last, exact, fold, **bounds)


def _longest(glob: bytes, fold: bool) -> bytes:
    """The longest run of bytes that every match of one part of a glob holds."""
    runs = re.split(rb"\*+|\?|\[[^\]]*\]?|\\.?", glob, flags=re.DOTALL)
    return max((_ascii(run) if fold else run for run in runs), key=len, default=b"")


def _ascii(text: bytes) -> bytes:
    """The longest run of ASCII: bytes.lower() does no more."""
    return max(re.split(rb"[\x80-\xff]+", text), key=len)
