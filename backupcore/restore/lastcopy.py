"""A copy that is known to be damaged, read all the same: the last that is left of a dump, where the operator names it.

Here lives when that is allowed, and the Images that do it. What is read is checked as ever, frame by frame: what is
right of it comes back, what is not is named. Nothing else ever chooses such a copy: no plan, no drill, no staging.
"""

from __future__ import annotations

from typing import Any, Iterable

from ..catalog.records import HOLDING, CopyRow, DumpRow
from ..image import layout
from .images import Images
from .places import Place, TargetPlace

_GOOD = ("done", "verified")


def is_last(dump: DumpRow, copies: Iterable[CopyRow], place: str | None) -> bool:
    """Whether place is a target whose copy of dump is damaged, while no copy anywhere is known to be good."""
    states = {copy.target: copy.state for copy in copies}
    here = states.get(HOLDING) is None and dump.holding is not None
    if place in (None, HOLDING) or here or any(state in _GOOD for state in states.values()):
        return False
    return states.get(place) == "damaged"


class LastImages(Images):
    """Images of one named place; of a dump that is good nowhere, its damaged copy there, too."""

    def places(self, dump: DumpRow) -> list[Place]:
        """As Images.places()."""
        found = super().places(dump)
        if not found and is_last(dump, self._copies(dump), self.only):
            prefix = layout.dump_prefix(dump.client, dump.source, dump.id, dump.segment or None)
            found = [TargetPlace(self.only, self._open_target, prefix)]
        return found

    def _copies(self, dump: DumpRow) -> Any:
        return self.catalog.copies(dump=dump.id)
