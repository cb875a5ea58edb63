"""Which dumps show the sources of a client at a moment, and why some of them cannot be shown.

Here live the choice among what can be read, a source in segments that is asked for in part only, and the words for
what cannot be had. What a person asks for is request.py's affair.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any, Sequence

from .. import clock
from ..catalog.records import DumpRow
from ..errors import CatalogError, NothingThatOld
from ..settings import Settings
from . import shares
from .lastcopy import is_last

_USABLE_COPIES = ("done", "verified")


@dataclass(frozen=True)
class Known:
    """A source of a client: its root and the chain of the moment; else why there is none.

    passed: the newest dump of the moment when it cannot be read, and an older one is the chain's. rows: all its dumps.
    """

    name: str
    root: bytes
    chain: tuple[DumpRow, ...]
    alive: bool
    oldest: DumpRow | None
    passed: DumpRow | None = None
    shares: tuple[Any, ...] = ()
    rows: tuple[DumpRow, ...] = ()


_Shown = tuple[tuple[DumpRow, ...], tuple[Any, ...], "DumpRow | None"]


@dataclass(frozen=True)
class Moment:
    """What a request is about, besides its words: see resolve."""

    catalog: Any
    at_ns: int
    only: str | None
    last: bool
    named: DumpRow | None

    def of(self, rows: Sequence[DumpRow], bases: Sequence[bytes] | None = None) -> _Shown:
        """What shows a source, or of it only what lies at or below bases. rows: all its dumps."""
        named = self.named if self.named is not None and any(row.id == self.named.id for row in rows) else None
        unit = named.segment if named is not None and shares.needs(rows, named, bases) else None
        return shares.at(rows, self.at_ns, self.chain, bases, unit)

    def at(self, rows: Sequence[DumpRow], bases: Sequence[bytes] | None) -> _Shown:
        """The same, whichever dump names the moment."""
        return shares.at(rows, self.at_ns, self.chain, bases)

    def chain(self, dumps: Sequence[DumpRow]) -> tuple[tuple[DumpRow, ...], DumpRow | None]:
        """Of one unit."""
        return _chain_at(self.catalog, dumps, self.at_ns, self.only, self.last)


def sources(settings: Settings, client: str, rows: Sequence[DumpRow], asked: Moment) -> dict[str, Known]:
    """All sources of a client, configured or once dumped."""
    by_name: dict[str, list[DumpRow]] = {}
    for row in rows:
        by_name.setdefault(row.source, []).append(row)
    configured = settings.clients[client].sources if client in settings.clients else {}
    found = {}
    for name in sorted(set(by_name) | set(configured)):
        dumps = sorted(by_name.get(name, []), key=lambda row: row.counter)
        chain, parts, passed = asked.of(dumps)
        if chain:
            root = chain[-1].path
        elif dumps:
            root = next((row.path for row in reversed(dumps) if row.begun_ns <= asked.at_ns), dumps[0].path)
        else:
            root = str(configured[name].options.get("path", ""))
        later = any(row.begun_ns > asked.at_ns for row in dumps)
        alive = name in configured or not configured or later
        if root.startswith("/"):
            oldest, base = dumps[0] if dumps else None, os.fsencode(root).rstrip(b"/") or b"/"
            found[name] = Known(name, base, chain, alive, oldest, passed, parts, tuple(dumps))
    return found


def narrowed(one: Known, bases: Sequence[bytes] | None, asked: Moment) -> Known:
    """A source as what lies at or below bases needs it: of segments only those that can have it."""
    if bases is None or not any(row.segment for row in one.rows):
        return one
    chain, parts, passed = asked.of(one.rows, bases)
    if chain and os.fsencode(chain[-1].path).rstrip(b"/") != one.root.rstrip(b"/"):
        return one  # bases were meant below another folder
    return replace(one, chain=chain, shares=parts, passed=passed)


def check_named(client: str, one: Known, bases: Sequence[bytes] | None, words: str, asked: Moment) -> None:
    """Raises NothingThatOld when the dump that names the moment is not among those that show what is wanted: words, on
    a command line."""
    named = asked.named
    where = f" on {asked.only}" if asked.only else ""
    dumps = one.chain if one.shares else one.chain[-1:]  # of segments, each has a newest one
    if any(dump.id == named.id for dump in dumps) or not shares.needs(one.rows, named, bases):
        return
    of_source = {"client": client, "source": one.name}
    own = asked.chain([row for row in one.rows if row.segment == named.segment])[0]
    if not own or own[-1].id != named.id:
        hint = f"stowage list copies --client {client} --source {one.name}"
        raise NothingThatOld(f"the dump {named.id} cannot be read{where}", hint, **of_source)
    found = max(asked.at(one.rows, bases)[0], key=lambda dump: dump.begun_ns, default=None)
    hint = f"stowage list dumps --client {client} --source {one.name}"
    if found is not None:
        hint = f"stowage restore {words} --at {found.id}"
    raise NothingThatOld(
        f"the dump {named.id} is of one segment of {client}:{one.name}, and others had none by then that can be "
        f"read{where}" + (f": what was asked for can be had as of {clock.local(found.begun_ns)}" if found else ""),
        hint, **of_source,
    )  # fmt: skip


def _chain_at(
    catalog: Any, dumps: Sequence[DumpRow], moment: int, only: str | None, last: bool
) -> tuple[tuple[DumpRow, ...], DumpRow | None]:
    """The chain of the newest dump begun at or before moment that can still be read, () when there is none; and the
    newest one that should be there and cannot be read, None when that is the one."""
    readable: dict[str, bool] = {}
    passed: DumpRow | None = None

    def can_read(row: DumpRow) -> bool:
        if row.id not in readable:
            on_holding = row.holding is not None and only in (None, "holding")
            copies = catalog.copies(dump=row.id)
            good = any(copy.state in _USABLE_COPIES and only in (None, copy.target) for copy in copies)
            readable[row.id] = on_holding or good or last and is_last(row, copies, only)
        return readable[row.id]

    for row in reversed(dumps):
        if row.begun_ns > moment:
            continue
        if can_read(row):
            try:
                chain = catalog.chain(row.id)
            except CatalogError:  # a base that is gone: an older dump may still be whole
                chain = ()
            if chain and all(can_read(link) for link in chain):
                return tuple(chain), passed
        # a place that was never meant to have it is not asked for it
        wanted = only is None or any(copy.target == only for copy in catalog.copies(dump=row.id))
        passed = passed or (row if wanted else None)
    return (), passed


def none_that_old(client: str, one: Known, moment: int, asked: bool, only: str | None) -> NothingThatOld:
    """Why a source has no chain of the moment. asked: a person named it."""
    where = f" on {only}" if only else ""
    named = {"client": client, "source": one.name}
    if one.oldest is None:
        return NothingThatOld(
            f"{client}:{one.name} has no dump yet", f"stowage run --client {client} --source {one.name}", **named
        )
    if one.oldest.begun_ns > moment:
        return NothingThatOld(
            f"{client}:{one.name} has no dump{where} from {clock.local(moment)} or before, "
            f"the oldest is from {clock.local(one.oldest.begun_ns)}",
            f"stowage list dumps --client {client} --source {one.name}",
            **named,
        )
    return NothingThatOld(
        f"{client}:{one.name} has no dump{where}" + (f" from {clock.local(moment)} or before" if asked else "")
        + " whose images can all be read",
        f"stowage list copies --client {client} --source {one.name}",
        **named,
    )  # fmt: skip


def older(client: str, one: Known, taken: DumpRow, only: str | None) -> str:
    """Tells that an older dump is taken: silence would be what somebody wants who has spoiled the newest one."""
    where = f" on {only}" if only else ""
    return (
        f"{client}:{one.name}: the dump {one.passed.id} from {clock.local(one.passed.begun_ns)} cannot be read{where}, "
        f"an older one is taken: {taken.id}"
    )
