"""The tree at a moment: the indexes of a chain, merged in walk order as streams.

Here lives the merge and the choice of what was asked for; nothing here opens an image. Memory is constant:
one row of each index, and the gone folders the walk is in.

    a later dump's row wins over an older one's of the same place
    a gone row removes, and with a folder everything below it that no later dump brings again
    an n row (there, but not in the dump) removes too, but one that could not be read keeps its older version
"""

from __future__ import annotations

import itertools
from typing import Callable, Iterable, Iterator, NamedTuple, Sequence

from ..image import index
from .request import ROOT, Wanted, bases_of, glob_regex, inside


class Row(NamedTuple):
    """An entry of the view and the number in the chain (0: the full) of the dump that holds it.

    stale: the newest dump could not read it, this is an older version.
    """

    entry: index.Entry
    level: int
    stale: bool = False


class Block(NamedTuple):
    """Some lines of a full's index that stand together; key() and last: the places of the first and the last."""

    lines: bytes
    first: bytes
    last: bytes

    def key(self) -> bytes:
        """The place of its first line."""
        return self.first

    def entries(self) -> Iterator[index.Entry]:
        """Its lines, parsed."""
        return map(index.parse, self.lines[:-1].split(b"\n"))


def blocks(chunks: Iterable[bytes], count: int) -> Iterator[Block]:
    """The lines of chunks in blocks of count."""
    for chunk in chunks:
        lines = chunk[:-1].split(b"\n")
        for start in range(0, len(lines), count):
            piece = lines[start : start + count]
            yield Block(b"\n".join(piece) + b"\n", index.parse(piece[0]).key(), index.parse(piece[-1]).key())


def merge(streams: Sequence[Iterable[index.Entry]]) -> Iterator[Row]:
    """The rows of the view, n rows among them; streams: the entries of each dump's index, the full first.

    The full's stream may consist of blocks: those that no later dump touches come out as Row(block, 0).
    """
    iterators = [iter(stream) for stream in streams]
    heads: dict[int, tuple[bytes, index.Entry]] = {}
    for level, iterator in enumerate(iterators):
        for entry in iterator:
            heads[level] = (entry.key(), entry)
            break
    # folders of whose content dumps before `level` count no more: (what its keys begin with, level)
    shadows: list[tuple[bytes, int]] = []
    while heads:
        if len(heads) == 1 and not shadows:
            # nothing left to merge with: the rest of one index, which is most of most restores
            level, head = heads.popitem()
            for entry in itertools.chain(head[1:], iterators[level]):
                if isinstance(entry, Block) or entry.kind != "-":
                    yield Row(entry, level)
            return
        key = min(head[0] for head in heads.values())
        block = heads[0][1] if 0 in heads else None
        if isinstance(block, Block) and key == block.first:
            while shadows and not key.startswith(shadows[-1][0]):
                shadows.pop()
            others = min((head[0] for level, head in heads.items() if level), default=None)
            if shadows or (others is not None and others <= block.last):
                # somebody else has a word here: the block's lines one by one, then the blocks behind it
                iterators[0] = itertools.chain(block.entries(), iterators[0])
            else:
                yield Row(block, 0)
            del heads[0]
            for entry in iterators[0]:
                heads[0] = (entry.key(), entry)
                break
            continue
        levels = [level for level, head in heads.items() if head[0] == key]
        found = {level: heads.pop(level)[1] for level in levels}
        for level in levels:
            for entry in iterators[level]:
                heads[level] = (entry.key(), entry)
                break
        while shadows and not key.startswith(shadows[-1][0]):
            shadows.pop()
        for level, entry in found.items():
            if entry.is_dir and _hides(entry):
                shadows.append((key + b"\0", level))
        floor = max((level for _prefix, level in shadows), default=0)
        unreadable = None
        for level in sorted(found, reverse=True):
            entry = found[level]
            if level < floor or entry.kind == "-":
                break
            if entry.kind == "n" and not _hides(entry):
                unreadable = unreadable or Row(entry, level)
                continue
            if entry.kind == "n" and unreadable:
                break
            yield Row(entry, level, unreadable is not None)
            unreadable = None
            break
        if unreadable:
            yield unreadable


def _hides(entry: index.Entry) -> bool:
    """Whether a row says that older versions of it, and of what is below it, count no more."""
    return entry.kind == "-" or (entry.kind == "n" and entry.link != b"unreadable")


def matcher(wanted: Wanted, below: bool = True) -> Callable[[bytes], Sequence[int]]:
    """A function from a path of the index to the patterns (their numbers) that ask for it; () when none does.

    below False: only what a pattern names itself, not what is below that.
    """
    literals: dict[bytes, list[int]] = {}
    globs = []
    for number, pattern in enumerate(wanted.patterns):
        if pattern.literal is not None:
            literals.setdefault(pattern.literal, []).append(number)
        if pattern.glob is not None:
            globs.append((number, pattern.glob if below else glob_regex(pattern.text, below=False)))
    everything = tuple(literals.pop(ROOT, ())) if below else ()
    stem = wanted.root.rstrip(b"/") + b"/"
    without = frozenset(wanted.without)

    def match(path: bytes) -> Sequence[int]:
        if without and inside(path, without):
            return ()
        if everything and not globs:
            return everything
        found = list(everything)
        at = path if literals else b""
        while at:
            found += literals.get(at, ())
            at = at.rpartition(b"/")[0] if below else b""
        if globs:
            whole = wanted.root if path == ROOT else stem + path
            found += [number for number, glob in globs if glob.match(whole)]
        return found

    return match


def bases(wanted: Wanted) -> list[bytes] | None:
    """Below which paths everything lies that wanted can match; None for everywhere."""
    return bases_of(wanted.patterns)
