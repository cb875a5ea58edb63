"""A history without the dumps that retention removed, and without what only they had.

Here lives the rewriting of events: each live dump gets the nearest live one it refers to as its reference, and a path
an event wherever it then differs. Which dumps are live, and when this is worth it, says store.py.
"""

from __future__ import annotations

from typing import Collection

from . import block
from .block import Open, pack
from .history import History, Writer
from .lineage import Lineage, Member
from .lines import KIND
from .merge import GONE, GONE_FOLDER

Shape = tuple  # numbers of the dumps of a path's events


def lineage(old: Lineage, live: Collection[str]) -> Lineage:
    """The live dumps of old, in their order."""
    new = Lineage()
    for member in old.members:
        if member.id in live:
            reference = member.reference
            while reference >= 0 and old.members[reference].id not in live:
                reference = old.members[reference].reference
            number = new.numbers[old.members[reference].id] if reference >= 0 else -1
            new.add(Member(member.id, number, member.level, member.counter, member.begun_ns))
    return new


def rewrite(writer: Writer, old: History, before: Lineage, after: Lineage) -> None:
    """All blocks of old with the events that after asks for. Raises ImageDamaged."""
    shapes: dict[Shape, list[tuple[int, int]]] = {}
    kept = _empty()
    for number in range(old.blocks):
        paths, folders = old.block_names(number).all()
        at = set(folders)
        rows = old.rows(number)
        columns, starts = rows.all(), rows.starts()
        dumps = columns[-1]
        for which, path in enumerate(paths):
            start, end = starts[which], starts[which + 1]
            shape = tuple(dumps[start:end])
            events = shapes.get(shape)
            if events is None:
                events = shapes[shape] = _events(shape, before, after)
            count, there = 0, False
            for dump, event in events:
                row = [column[start + event] for column in columns[:9]] if event >= 0 else None
                gone = row is None or row[KIND] == b"-"
                if gone and not there:
                    continue
                if row is None:
                    row = GONE_FOLDER if which in at else GONE
                there = there or not gone
                for column, field in zip(kept.columns, row):
                    column.append(field)
                kept.columns[-1].append(b"%d" % dump)
                count += 1
            if count:
                if which in at:
                    kept.folders.append(len(kept.paths))
                kept.paths.append(path)
                kept.counts.append(count)
            if len(kept.paths) == block.SIZE_OF:
                writer.add(pack(kept))
                kept = _empty()
    if kept.paths:
        writer.add(pack(kept))


def _empty() -> Open:
    return Open([], [], [], [[] for _ in range(10)])


def _events(shape: Shape, before: Lineage, after: Lineage) -> list[tuple[int, int]]:
    """(new number of a dump, old event or -1 for none) wherever a live dump differs from its new reference."""
    spread = before.spread([int(dump) for dump in shape])
    counts = [spread[before.numbers[member.id]] for member in after.members]
    return [
        (number, counts[number])
        for number, member in enumerate(after.members)
        if counts[number] != (counts[member.reference] if member.reference >= 0 else -1)
    ]
