"""Pruning: what retention lets go is marked, and removed when a while has passed and nothing has changed its mind.

Here live the two phases and the steps of a removal, each of which a kill may follow. Before a first byte of a copy is
removed its row says that it is none any more; then its manifest goes, by which a dump is known at a target, then its
other files, then its row is closed. The next prune goes on where one was killed. What is decided is decided anew for
each source, with the rows as they are then; a target that locks is asked itself before a copy is touched, and what
somebody reads waits for the next prune. Not here: why a copy stays or goes (retention.py), locks (locks.py). Call under
the run lock.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, Union

from .. import clock
from ..catalog import locked, marks, places, reading, units
from ..catalog.locked import LockRow
from ..catalog.marks import CLIENT, DUMP, Hold, Mark
from ..catalog.records import HOLDING, CopyRow, DumpRow
from ..catalog.store import Catalog
from ..errors import StowageError
from ..hookspecs import Target, TargetError
from ..image import layout
from ..settings import Policy, Settings, Source
from . import locks
from .identity import Identities
from .origins import prefix_of
from .retention import Decision, Rule, decide

STAYS, MARK, WAITS, REMOVE = "stays", "mark", "waits", "remove"
REFUSALS = 3  # of one target that locks, until the rest of it waits
REMOVING = "removing"  # in a row's upload: it is expired, and files of it may be there still

Progress = Optional[Callable[[dict], None]]
Key = Tuple[str, str]


@dataclass(frozen=True)
class Verdict:
    """What is to happen to one copy now. phase: STAYS, MARK, WAITS for the end of its grace, or REMOVE. goes_ns: when
    its grace ends. unmark: its mark goes; it is needed now, or a wrong clock dated it."""

    decision: Decision
    phase: str
    goes_ns: int = 0
    unmark: bool = False

    @property
    def size(self) -> int:
        """What it takes on its target."""
        return self.decision.copy.bytes or self.decision.dump.stored_size


@dataclass(frozen=True)
class Pruned:
    """What a prune did. verdicts: what it found; removed: copies whose last file is gone, as (dump, target); forgotten:
    dumps of which nothing is left anywhere; problems: what could not be removed, and why; kept: copies that were to go
    and that their target turned out to lock; locked: whose lock was set or made longer; unlocked: what is not locked
    as it should be; read: what was to go and is being read, by whom."""

    verdicts: Tuple[Verdict, ...] = ()
    removed: Tuple[Key, ...] = ()
    forgotten: Tuple[str, ...] = ()
    problems: Tuple[str, ...] = ()
    kept: Tuple[Key, ...] = ()
    locked: Tuple[Key, ...] = ()
    unlocked: Tuple[str, ...] = ()
    read: Tuple[str, ...] = ()


def rules_of(source: Union[Source, Policy]) -> Dict[str, Rule]:
    """What a source asks of each target."""
    return {
        rule.target: Rule(dict(rule.keep), source.min_copies or 1, rule.self_contained, rule.takes(0))
        for rule in source.copies
    }


def look(
    settings: Settings, catalog: Catalog, now_ns: int, targets: Optional[Sequence[str]] = None
) -> List[Verdict]:
    """What a prune would do now. targets: only there."""
    found: List[Verdict] = []
    by_source = units.by_source(catalog.dumps())
    copies = _copies(settings, catalog.copies())
    said = _Said(marks.held(catalog), marks.marked(catalog), locked.known(catalog))
    for key in sorted(by_source):
        found += _look_at(settings, said, key, by_source[key], copies, now_ns, targets)
    return found


def _copies(settings: Settings, rows: Iterable[CopyRow]) -> Dict[str, Dict[str, CopyRow]]:
    found: Dict[str, Dict[str, CopyRow]] = {}
    for row in rows:
        # what left the configuration cannot be read: it is nothing to rely on, and nothing to remove
        if row.target in settings.targets or row.target == HOLDING:
            found.setdefault(row.dump, {})[row.target] = row
    return found


class _Said(NamedTuple):
    """What people hold, what was marked before, and what targets said of their locks."""

    held: Sequence[Hold]
    marked: Mapping[Key, Mark]
    locked: Mapping[Key, LockRow]


def _look_at(
    settings: Settings, said: _Said, key: Key, rows: Sequence[DumpRow],
    copies: Mapping[str, Mapping[str, CopyRow]], now_ns: int, targets: Optional[Sequence[str]],
) -> List[Verdict]:  # fmt: skip
    client = settings.clients.get(key[0])
    source = client.sources.get(key[1]) if client else None
    until = locks.dates(rows, copies, locks.seconds_of(settings, key), now_ns)  # also where the place did not keep it
    for place, row in said.locked.items():
        until[place] = max(row.until_ns, until.get(place, 0))
    decisions = decide(
        rows, {row.id: copies.get(row.id, {}) for row in rows}, rules_of(source) if source else None,
        now_ns=now_ns, holds=locks.kept_by_holds(rows, said.held),
        held=any(one.kind == CLIENT and one.name == key[0] for one in said.held), locks=until,
    )  # fmt: skip
    found = []
    for one in decisions:
        if targets is not None and one.copy.target not in targets:
            continue
        mark = said.marked.get((one.dump.id, one.copy.target))
        if one.stays:
            found.append(Verdict(one, STAYS, unmark=mark is not None))
        elif mark is None or mark.when_ns > now_ns:  # a mark of tomorrow is a wrong clock's: its grace begins anew
            found.append(Verdict(one, MARK, now_ns + _ns(settings.prune.grace), unmark=mark is not None))
        else:
            goes = mark.when_ns + _ns(settings.prune.grace)
            found.append(Verdict(one, REMOVE if goes <= now_ns else WAITS, goes))
    return found


def _ns(seconds: float) -> int:
    return int(seconds * clock.NS)


def prune(
    settings: Settings,
    catalog: Catalog,
    open_target: Callable[[str], Target],
    now_ns: int,
    targets: Optional[Sequence[str]] = None,
    progress: Progress = None,
    open_pruning: Optional[Callable[[str], Target]] = None,
    locked_already: bool = False,
) -> Pruned:
    """Locks what is to be locked (unless that was done just now), marks what may go, removes what was marked before and
    whose grace is over, forgets dumps that are gone. open_pruning: opens a target with the credential that may remove.
    """
    work = _Work(settings, catalog, open_target, open_pruning or open_target, now_ns, progress)
    applied = locks.Applied()
    if not locked_already and locks.needed(settings, catalog):
        applied = locks.apply(settings, catalog, open_target, now_ns, targets=targets, open_pruning=open_pruning)
    work.take_up(targets)
    found: List[Verdict] = []
    # once: marks of a source change in its own turn only; a hold that comes meanwhile is seen before each removal
    said = _Said(marks.held(catalog), marks.marked(catalog), locked.known(catalog))
    for key in sorted(units.by_source(catalog.dumps())):
        # the rows as they are now: a verify may have found a copy damaged meanwhile
        rows = catalog.dumps(*key)
        copies = _copies(settings, catalog.copies(source=key))
        every = _look_at(settings, said, key, rows, copies, now_ns, None)
        verdicts = [one for one in every if targets is None or one.decision.copy.target in targets]
        found += verdicts
        work.do(verdicts, every)
    work.forget()
    return Pruned(tuple(found), tuple(work.removed), tuple(work.forgotten), tuple(work.problems), tuple(work.kept),
                  applied.locked, applied.problems, tuple(work.read))  # fmt: skip


class _Place(NamedTuple):
    """A target in this prune. asked: by the credential of every night, removes: by that which may remove."""

    asked: Target
    removes: Target


class _Work:
    def __init__(self, settings: Settings, catalog: Catalog, open_target: Callable[[str], Target],
                 open_pruning: Callable[[str], Target], now_ns: int, progress: Progress):  # fmt: skip
        self.settings, self.catalog, self.progress = settings, catalog, progress
        self.open_target, self.open_pruning, self.now_ns = open_target, open_pruning, now_ns
        self.removed: List[Key] = []
        self.kept: List[Key] = []
        self.forgotten: List[str] = []
        self.problems: List[str] = []
        self.read: List[str] = []
        self._same: Optional[Set[str]] = None  # targets that are one place with another
        self._opened: Dict[str, Optional[_Place]] = {}
        self._away: Set[str] = set()
        self._refused: Dict[str, int] = {}

    def take_up(self, targets: Optional[Sequence[str]]) -> None:
        """Goes on with removals that a kill or a refusal ended."""
        for copy in self.catalog.copies():
            if is_going(copy) and (targets is None or copy.target in targets):
                dump = self.catalog.dump(copy.dump)
                place = self._target(copy.target) if copy.target in self.settings.targets else None
                if dump is not None and place is not None:
                    self._remove(place.removes, dump, copy)

    def do(self, verdicts: Sequence[Verdict], every: Sequence[Verdict]) -> None:
        """What the verdicts of one source say; every: those of targets that nothing is to be done at, too."""
        kept: Dict[str, List[str]] = {}
        for one in every:
            if one.phase == STAYS and one.decision.copy.state == "verified":
                kept.setdefault(one.decision.dump.id, []).append(one.decision.copy.target)
        for one in verdicts:
            if one.unmark:
                marks.unmark(self.catalog, one.decision.dump.id, one.decision.copy.target)
        marks.mark(
            self.catalog,
            [Mark(one.decision.dump.id, one.decision.copy.target, self.now_ns, one.decision.reason)
             for one in verdicts if one.phase == MARK],
        )  # fmt: skip
        gone = [one.decision for one in verdicts if one.phase == REMOVE]
        # what builds on a dump goes before it, so that nothing is ever there without its base
        for one in sorted(gone, key=lambda one: one.dump.counter, reverse=True):
            place = self._target(one.copy.target)
            if place is None:
                continue
            if self._stays(one.dump) or self._is_locked(place.asked, one):
                break  # known only now: what it builds on is not to go either, so all is decided anew the next time
            # what another target keeps is removed only when that one is seen to have it
            others = kept.get(one.dump.id, [])
            if not others or any(self._sees(name, one.dump) for name in others):
                if not self._remove(place.removes, one.dump, one.copy):
                    break

    def _stays(self, dump: DumpRow) -> bool:
        """Whether somebody holds it, or reads it now."""
        by = reading.now(self.settings.state).get(dump.id)
        self.read += [f"{dump.client}:{dump.source} {dump.id} is being read by {by}"] if by is not None else []
        return by is not None or locks.is_kept(self.catalog, dump)

    def _is_locked(self, target: Target, one: Decision) -> bool:
        """Whether the place itself says that a copy must stay, or does not say; what it says is kept."""
        if not target.capabilities.lock:
            return False
        name = one.copy.target
        try:
            row = locks.protection(target, one.dump, name)
        except Exception as error:  # a third party's driver may raise anything
            self._failed(name, error)
            return True
        known = locked.known(self.catalog, (one.dump.client, one.dump.source)).get((one.dump.id, name))
        if row.held and not (known and known.held):  # else it was released here, and could not be ended there
            marks.hold(self.catalog, DUMP, one.dump.id, locks.FOUND + name)
            locked.put_held(self.catalog, one.dump.id, name, True)
            self.problems.append(f"target {name} holds {one.dump.id}, which nobody held here: it stays -> stowage hold")
        if row.until_ns > self.now_ns:
            locked.put_until(self.catalog, one.dump.id, name, row.until_ns, row.mode)
            marks.unmark(self.catalog, one.dump.id, name)
        if row.held or row.until_ns > self.now_ns:
            self.kept.append((one.dump.id, name))
            return True
        return False

    def _sees(self, name: str, dump: DumpRow) -> bool:
        """Whether a target has the manifest of a dump; one that does not answer is not asked again."""
        if name in self._away:
            return False
        try:
            if self.open_target(name).stat(f"{prefix_of(dump)}/{layout.MANIFEST}") is not None:
                return True
            self.problems.append(f"target {name} lacks {dump.id}, which it should keep: no other copy of it is removed")
        except (StowageError, TargetError) as error:
            self._away.add(name)
            self.problems.append(f"target {name}: {error.message}: what it keeps is removed nowhere else")
        except Exception as error:  # a third party's driver may raise anything
            self._away.add(name)
            self.problems.append(f"target {name}: " + " ".join(f"{type(error).__name__}: {error}".split())[:300])
        return False

    def _remove(self, target: Target, dump: DumpRow, copy: CopyRow) -> bool:
        """False when it stays, and what it builds on with it."""
        if self.progress:
            self.progress({"phase": "removing", "dump": dump.id, "target": copy.target})
        # from here on nobody takes it for a copy
        before, begun = copy, copy.state != "expired"
        copy = replace(copy, state="expired", upload={REMOVING: True}, verified_ns=None, error="", updated_ns=0)
        self.catalog.put_copy(copy)
        # a hold, or who reads, writes first and then looks for such as this one: of the two, one always sees the other
        if begun and self._stays(dump):
            self.catalog.put_copy(replace(before, updated_ns=0))
            return False
        try:
            remove_files(target, dump)
        except Exception as error:  # a third party's driver may raise anything
            self._failed(copy.target, error)
            return True
        self.catalog.put_copy(replace(copy, upload={}, bytes=0, updated_ns=0))
        marks.unmark(self.catalog, dump.id, copy.target)
        locked.forget(self.catalog, dump.id, copy.target)
        self.removed.append((dump.id, copy.target))
        return True

    def _target(self, name: str) -> Optional[_Place]:
        """The open target; None when it is away or cannot delete, which is told once."""
        if self._same is None:  # before anything is removed anywhere
            self._same = set()
            server = places.server_id(self.settings.state)
            for twins in Identities(self.settings, server, self.open_target).twins():
                self._same.update(twins.names)
                self.problems.append(f"{twins.message}: nothing is removed there -> {twins.hint}")
        if name in self._same:
            return None
        if name not in self._opened:
            self._opened[name] = None
            try:
                target = self.open_target(name)
                removes = self.open_pruning(name)
                mark = f"{layout.MARK}/{places.server_id(self.settings.state)}"
                # asked with the credential that removes: a wrong one is told before any row says expired
                if target.capabilities.delete and removes.stat(mark) is not None:
                    self._opened[name] = _Place(target, removes)
                elif target.capabilities.delete:  # an empty folder in the place of a NAS must not look like work done
                    self.problems.append(f"target {name} lacks {mark}, which staging puts there: is it mounted?")
                else:
                    self.problems.append(f"target {name} cannot delete: what is past its keep stays there")
            except StowageError as error:
                self.problems.append(error.message)
            except TargetError as error:
                self.problems.append(f"target {name}: {error.message}")
        return self._opened[name]

    def _failed(self, name: str, error: Exception) -> None:
        """A refusal: the rest of that target waits for the next prune; of one that locks, after a few of them, since
        one file that is locked must not keep all others."""
        place = self._opened[name]
        self._refused[name] = self._refused.get(name, 0) + 1
        if place is None or not place.asked.capabilities.lock or self._refused[name] >= REFUSALS:
            self._opened[name] = None
        told = error.message if isinstance(error, TargetError) else f"{type(error).__name__}: {error}"
        self.problems.append(f"target {name}: {' '.join(told.split())[:500]}")

    def forget(self) -> None:
        """Dumps of which no copy and no image is left: state blocks, index and at last the row. The newest first."""
        copies: Dict[str, List[CopyRow]] = {}
        for row in self.catalog.copies():
            copies.setdefault(row.dump, []).append(row)
        every = self.catalog.dumps()
        children: Dict[str, Set[str]] = {}
        for dump in every:
            if dump.base is not None:
                children.setdefault(dump.base, set()).add(dump.id)
        for dump in sorted(every, key=lambda dump: dump.counter, reverse=True):
            rows = copies.get(dump.id, [])
            gone = any(row.state == "expired" for row in rows) and all(_is_gone(row) for row in rows)
            if dump.holding is not None or not gone or children.get(dump.id):
                continue
            self._forget_files(dump)
            marks.forget(self.catalog, dump.id)
            self.forgotten.append(dump.id)
            if dump.base is not None:
                children[dump.base].discard(dump.id)

    def _forget_files(self, dump: DumpRow) -> None:
        state = self.settings.state
        where = (dump.client, dump.source)
        paths = [
            places.state_folder(state, *where, dump.segment) / f"{dump.id}.state",
            places.frames_copy(state, *where, dump.id, dump.segment),
            places.find_index(state, *where, dump.id, dump.segment),
        ]
        for path in paths:
            if path is not None:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)


def is_going(row: CopyRow) -> bool:
    """Whether a removal of it has begun and not ended."""
    return row.state == "expired" and bool(row.upload.get(REMOVING))


def _is_gone(row: CopyRow) -> bool:
    return row.state == "wanted" or row.state == "expired" and not row.upload.get(REMOVING)


def remove_files(target: Target, dump: DumpRow) -> None:
    """Removes a dump from a target, its manifest first: a dump is there if and only if its manifest is.

    Raises TargetError; may be called again.
    """
    prefix = prefix_of(dump) + "/"
    target.delete(prefix + layout.MANIFEST)
    names = {found.name for found in target.list(prefix)}
    hidden = getattr(target, "hidden", None)  # what somebody hid takes room all the same
    names |= set(hidden(prefix)) if hidden is not None else set()
    for name in sorted(names):
        if name.startswith(prefix) and name != prefix + layout.MANIFEST:
            target.delete(name)
