"""What a restore would read: dumps, bytes, entries, where to; without a client.

Here lives only the adding up; what is read and why is decided by choose.py and fetch.py, as for a restore.
"""

from __future__ import annotations

from typing import Sequence

from .. import clock
from ..errors import StowageError
from ..text import escape
from .choose import Selection, check_matched
from .deliver import newest_dump
from .fetch import join
from .images import Images
from .report import DumpUse, Options, RestorePlan
from .request import Wanted

SCRATCH = "the client's scratch folder"


def plan(images: Images, wanted: Sequence[Wanted], options: Options) -> RestorePlan:
    """The plan of a restore. Raises what a restore would raise before it asks the client."""
    selections: list[Selection] = []
    dumps: list[DumpUse] = []
    notes = ["what already exists at the destination is known to the client only: it is asked when the restore runs"]
    totals = [0, 0, 0]
    try:
        for one in wanted:
            selections.append(Selection(images, one, options.exact))
        check_matched(selections)
        for selection in selections:
            counts = selection.counts if selection.surveyed else selection.count()
            totals = [a + b for a, b in zip(totals, (counts.entries, counts.files, counts.bytes))]
            dumps += _uses(images, selection, notes)
    finally:
        for selection in selections:
            selection.close()
    return RestorePlan(
        client=wanted[0].client,
        moment=clock.iso(max(one.dump.begun_ns for one in wanted)),
        dump=newest_dump(wanted),
        paths=tuple(dict.fromkeys(escape(pattern.text) for one in wanted for pattern in one.patterns)),
        dumps=tuple(dumps),
        entries=totals[0],
        files=totals[1],
        files_bytes=totals[2],
        bytes=sum(use.bytes for use in dumps),
        destination=options.destination or SCRATCH,
        existing=options.existing,
        exact=options.exact,
        notes=(*notes, *map(escape, images.notes), *(note for one in wanted for note in one.notes)),
    )


def _uses(images: Images, selection: Selection, notes: list[str]) -> list[DumpUse]:
    """The dumps that the members of a selection lie in, and the bytes of their frames."""
    wanted: dict[int, dict] = {}
    lost: set[int] = set()
    for job in selection.jobs(lambda _codec: False):
        if job.frame is not None:
            wanted.setdefault(job.level, {})[job.frame.number] = job.frame
        elif job.error is not None and job.level not in lost:
            lost.add(job.level)
            notes.append(escape(job.error.message))
    found = []
    for level, row in enumerate(selection.wanted.chain):
        reader = images.reader(row)
        groups = join(sorted(wanted.get(level, {}).values(), key=lambda frame: frame.number))
        count = sum(group.length for group in groups)
        try:
            place = reader.place() if groups else (reader.places[0].name if reader.places else "")
        except StowageError as error:
            place = ""
            notes.append(escape(error.message))
        found.append(DumpUse(row.id, row.client, row.source, row.level, row.begun_ns, place, count))
    return found
