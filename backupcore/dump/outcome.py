"""What became of a dump, in the words of the catalog and of those who look.

Here live the rows and events of an end, good or not; which of them a dump gets is the driver's to know.
"""

from __future__ import annotations

from typing import Any, Dict, Sequence

from ..catalog.records import DumpRow, ResultRow
from ..errors import ClientUnreachable, StowageError
from ..schedule.bases import Planned
from ..settings import Settings
from ..text import escape
from .source import remark
from .space import GaveWay


def whole(
    settings: Settings, run: str, one: Planned, row: DumpRow, looked: Sequence[str], begun_again: str, seconds: float
) -> ResultRow:  # fmt: skip
    """A dump is in the catalog. looked: what a person should look at; begun_again: what is said of its tries."""
    if row.warnings:
        looked = [*looked, f"{row.warnings} warnings" + (f", the first: {_first(row.notes, looked)}")]
    policy = settings.clients[one.client].sources[one.source].policy
    said = [text for text in (*looked, remark(row, policy), begun_again) if text]
    return ResultRow(
        run, one.client, one.source, True, row.level, row.id,
        code="warning" if looked else "", message="; ".join(said)[:2000], hint="",
        seconds=seconds, warning=bool(looked), segment=one.segment,
    )  # fmt: skip


def failed(settings: Settings, run: str, one: Planned, error: StowageError, seconds: float) -> ResultRow:
    """There is none."""
    client = settings.clients.get(one.client)
    away = isinstance(error, ClientUnreachable) and client is not None and client.presence == "roaming"
    return ResultRow(
        run, one.client, one.source, False, one.level, None, code=error.code,
        message=escape(error.message)[:2000], hint=escape(error.hint)[:500],
        seconds=seconds, warning=away, segment=one.segment,
    )  # fmt: skip


def fault(error: Exception) -> StowageError:
    """A bug costs one dump, and says so."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" ({place.tb_frame.f_code.co_filename}:{place.tb_lineno})" if place is not None else ""
    return StowageError(f"a fault of Stowage itself: {type(error).__name__}: {error}{where}", "please report it")


def again(one: Planned, gave: GaveWay) -> Dict[str, Any]:
    """What is told of a dump that is made once more."""
    why = f"is made again when the others are through: {gave.why}"
    return {"phase": "waiting", "level": one.level, "entries": 0, "bytes": 0, "why": why}


def _first(notes: Sequence[str], looked: Sequence[str]) -> str:
    return next((note for note in notes if note not in looked), "")
