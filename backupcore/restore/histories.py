"""The search's histories, brought up to date from the indexes of images.

Here lives where an index comes from, and what is done when it rotted; what is made of it is search/. A file of its own,
since every run ends with it and should not pay for what find needs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Tuple

from .. import text
from ..catalog.records import DumpRow
from ..errors import StowageError
from ..search import store

SHOWN = 3  # dumps that are told one by one; of more, only how many


def bring(state: Path, images: Any, rows: Sequence[DumpRow], clean: bool = True) -> store.Updated:
    """Brings the search up to date with rows: all of the catalog, or (clean False) some. Raises OSError.

    An index that rotted on this server is fetched again from an image.
    """
    repaired = False

    def chunks(row: DumpRow) -> Iterator[bytes]:
        images.index(row)
        return images.chunks(row)

    done = store.update(state, rows, chunks, clean=clean)
    by_id = {row.id: row for row in rows}
    for dump, _why in done.failed:
        try:
            images.checked_index(by_id[dump])
            repaired = True
        except StowageError:
            continue
    if repaired:
        again = store.update(state, rows, chunks, clean=False)
        done.failed, done.closed = again.failed, again.closed
        done.dumps += again.dumps
        done.entries += again.entries
    return done


def untold(done: store.Updated, rows: Sequence[DumpRow], catalog: Any, what: str) -> Tuple[List[str], List[Dict]]:
    """What is not in the search: in few lines, for sealed dumps one however many there are, and all of it as records.

    what: "is not in find", said of one.
    """
    by_id = {row.id: row for row in rows}
    records = [
        {"dump": dump, "client": by_id[dump].client, "source": by_id[dump].source, "message": text.escape(why)}
        for dump, why in done.failed
    ]
    lines = []
    closed = [one for one in records if one["dump"] in done.closed]
    if closed:
        targets = {copy.target for copy in catalog.copies(dump=closed[0]["dump"])}
        place = targets.pop() if len(targets) == 1 else "TARGET"
        lines.append(f"{_told(closed, what)}: sealed, and no private key here opens their index "
                     f"-> stowage rebuild --from {place} --key FILE")  # fmt: skip
    others = [one for one in records if one["dump"] not in done.closed]
    shown = others if len(others) <= SHOWN else others[:1]
    lines += [f"{one['client']}:{one['source']} {one['dump']} {what}: {one['message']}" for one in shown]
    if len(others) > SHOWN:
        lines.append(f"{_told(others[1:], what)} either (--json lists them) -> stowage verify")
    return lines, records


def _told(records: Sequence[Dict], what: str) -> str:
    sources = len({(one["client"], one["source"]) for one in records})
    many = re.sub(r"\Ais |\Awas ", lambda found: {"is ": "are ", "was ": "were "}[found.group()], what)
    dumps = "1 dump" if len(records) == 1 else f"{len(records)} dumps"
    return f"{dumps} of {sources} source{'' if sources == 1 else 's'} {what if len(records) == 1 else many}"
