"""What an incremental builds on: its base's state, and whether the base fits at all.

Here live the reasons for which a dump is made as a full instead. Which base a night chooses is schedule/'s, how a state
is made again remake.py's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Mapping, Sequence

from ..catalog.records import DumpRow
from ..errors import StowageError
from ..settings import Settings
from ..text import escape
from . import history, remake, statefile

if TYPE_CHECKING:  # loading the database takes a while: whoever has a catalog has loaded it
    from ..catalog.store import Catalog

TOLD = ("encrypt", "folders", "path", "type")  # what a manifest tells of a source's options


class NeedsFull(Exception):
    """The base does not fit: the dump is made again as a full. reason: for people."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def state_of(settings: Settings, catalog: Catalog, chain: Sequence[DumpRow], looked: List[str]) -> Path:
    """The state of the last dump of a chain, made again where it is not there; looked: takes what a person should look
    at. Raises NeedsFull."""
    base = chain[-1]
    path = history.state_path(settings, base)
    fault = "missing"
    if path is not None:
        try:
            statefile.check(path)
            return path
        except (StowageError, OSError):
            catalog.forget_state(base.id)
            fault = "damaged"
    try:
        path = remake.remake(settings, catalog, chain)
    except (StowageError, OSError):
        raise NeedsFull(f"the state of {base.id} is {fault}") from None
    if fault == "damaged":
        looked.append(f"the state of {base.id} was damaged and is made again from its indexes")
    return path


def check_fits(base: DumpRow, options: Mapping[str, Any]) -> None:
    """A base made by other words is no base. Raises NeedsFull."""
    names = sorted(set(options) | set(base.options))
    if not base.run:  # found by a rebuild: images do not tell the others, and state bears their change
        names = list(TOLD)
    changed = [name for name in names if options.get(name) != base.options.get(name)]
    if changed:
        words = ", ".join(escape(name) for name in changed)
        raise NeedsFull(f"{words} of the source changed on {base.client} since {base.id}")
