"""The search's histories, brought up to date from the indexes of images.

Here lives where an index comes from, and what is done when it rotted; what is made of it is search/. A file of its own,
since every run ends with it and should not pay for what find needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator, Sequence

from ..catalog.records import DumpRow
from ..errors import StowageError
from ..search import store


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
        done.failed = again.failed
        done.dumps += again.dumps
        done.entries += again.entries
    return done
