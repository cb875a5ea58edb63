"""Pruning: what retention lets go is marked, and removed when a while has passed and nothing has changed its mind.

Here live the two phases and the steps of a removal, each of which a kill may follow. Before a first byte of a copy is
removed its row says that it is none any more; then its manifest goes, by which a dump is known at a target, then its
other files, then its row is closed. The next prune goes on where one was killed. What is decided is decided anew for
each source, with the rows as they are then. Not here: why a copy stays or goes (retention.py). Call under the run lock.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from .. import clock
from ..catalog import marks, places, units
from ..catalog.marks import CLIENT, DUMP, Hold, Mark
from ..catalog.records import HOLDING, CopyRow, DumpRow
from ..catalog.store import Catalog
from ..errors import StowageError
from ..hookspecs import Target, TargetError
from ..image import layout
from ..settings import Policy, Settings
from .origins import prefix_of
from .retention import Decision, Rule, decide

STAYS, MARK, WAITS, REMOVE = "stays", "mark", "waits", "remove"
REMOVING = "removing"  # in a row's upload: it is expired, and files of it may be there still

Progress = Optional[Callable[[dict], None]]
Key = Tuple[str, str]


@dataclass(frozen=True)
class Verdict:
    """What is to happen to one copy now. phase: STAYS, MARK, WAITS for the end of its grace, or REMOVE. goes_ns: when
    its grace ends. unmark: it was marked, and something needs it now."""

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
    dumps of which nothing is left anywhere; problems: what could not be removed, and why."""

    verdicts: Tuple[Verdict, ...] = ()
    removed: Tuple[Key, ...] = ()
    forgotten: Tuple[str, ...] = ()
    problems: Tuple[str, ...] = ()


def rules_of(policy: Policy) -> Dict[str, Rule]:
    """What a policy asks of each target."""
    return {
        rule.target: Rule(dict(rule.keep), self_contained=rule.self_contained, fulls=rule.dumps != "incremental")
        for rule in policy.copies
    }


def look(
    settings: Settings, catalog: Catalog, now_ns: int, targets: Optional[Sequence[str]] = None
) -> List[Verdict]:
    """What a prune would do now. targets: only there."""
    found: List[Verdict] = []
    by_source = units.by_source(catalog.dumps())
    copies = _copies(settings, catalog.copies())
    said = _Said(marks.held(catalog), marks.marked(catalog))
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
    """What people hold, and what was marked before."""

    held: Sequence[Hold]
    marked: Mapping[Key, Mark]


def _look_at(
    settings: Settings, said: _Said, key: Key, rows: Sequence[DumpRow],
    copies: Mapping[str, Mapping[str, CopyRow]], now_ns: int, targets: Optional[Sequence[str]],
) -> List[Verdict]:  # fmt: skip
    client = settings.clients.get(key[0])
    source = client.sources.get(key[1]) if client else None
    held = said.held
    decisions = decide(
        rows, {row.id: copies.get(row.id, {}) for row in rows}, rules_of(source.policy) if source else None,
        now_ns=now_ns, holds={one.name for one in held if one.kind == DUMP},
        held=any(one.kind == CLIENT and one.name == key[0] for one in held),
    )  # fmt: skip
    found = []
    for one in decisions:
        if targets is not None and one.copy.target not in targets:
            continue
        mark = said.marked.get((one.dump.id, one.copy.target))
        if one.stays:
            found.append(Verdict(one, STAYS, unmark=mark is not None))
        elif mark is None:
            found.append(Verdict(one, MARK, now_ns + _ns(settings.prune.grace)))
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
) -> Pruned:
    """Marks what may go, removes what was marked before and whose grace is over, forgets dumps that are gone."""
    work = _Work(settings, catalog, open_target, progress)
    work.take_up(targets)
    found: List[Verdict] = []
    # once: marks of a source change in its own turn only; a hold that comes meanwhile is seen before each removal
    said = _Said(marks.held(catalog), marks.marked(catalog))
    for key in sorted(units.by_source(catalog.dumps())):
        # the rows as they are now: a verify may have found a copy damaged meanwhile
        rows = catalog.dumps(*key)
        copies = _copies(settings, catalog.copies(source=key))
        every = _look_at(settings, said, key, rows, copies, now_ns, None)
        verdicts = [one for one in every if targets is None or one.decision.copy.target in targets]
        found += verdicts
        work.do(verdicts, every, now_ns)
    work.forget()
    return Pruned(tuple(found), tuple(work.removed), tuple(work.forgotten), tuple(work.problems))


class _Work:
    def __init__(self, settings: Settings, catalog: Catalog, open_target: Callable[[str], Target], progress: Progress):
        self.settings, self.catalog, self.open_target, self.progress = settings, catalog, open_target, progress
        self.removed: List[Key] = []
        self.forgotten: List[str] = []
        self.problems: List[str] = []
        self._opened: Dict[str, Optional[Target]] = {}
        self._away: Set[str] = set()

    def take_up(self, targets: Optional[Sequence[str]]) -> None:
        """Goes on with removals that a kill or a refusal ended."""
        for copy in self.catalog.copies():
            if copy.state == "expired" and copy.upload.get(REMOVING) and (targets is None or copy.target in targets):
                dump = self.catalog.dump(copy.dump)
                if dump is not None and copy.target in self.settings.targets:
                    self._remove(dump, copy)

    def do(self, verdicts: Sequence[Verdict], every: Sequence[Verdict], now_ns: int) -> None:
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
            [Mark(one.decision.dump.id, one.decision.copy.target, now_ns, one.decision.reason)
             for one in verdicts if one.phase == MARK],
        )  # fmt: skip
        gone = [one.decision for one in verdicts if one.phase == REMOVE]
        # what builds on a dump goes before it, so that nothing is ever there without its base
        for one in sorted(gone, key=lambda one: one.dump.counter, reverse=True):
            if marks.is_held(self.catalog, one.dump.id, one.dump.client):  # by now
                continue
            # what another target keeps is removed only when that one is seen to have it
            others = kept.get(one.dump.id, [])
            if not others or any(self._sees(name, one.dump) for name in others):
                self._remove(one.dump, one.copy)

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

    def _remove(self, dump: DumpRow, copy: CopyRow) -> None:
        target = self._target(copy.target)
        if target is None:
            return
        if self.progress:
            self.progress({"phase": "removing", "dump": dump.id, "target": copy.target})
        # from here on nobody takes it for a copy
        copy = replace(copy, state="expired", upload={REMOVING: True}, verified_ns=None, error="", updated_ns=0)
        self.catalog.put_copy(copy)
        try:
            remove_files(target, dump)
        except TargetError as error:
            self._failed(copy.target, error.message)
            return
        except Exception as error:  # a third party's driver may raise anything
            self._failed(copy.target, " ".join(f"{type(error).__name__}: {error}".split())[:300])
            return
        self.catalog.put_copy(replace(copy, upload={}, bytes=0, updated_ns=0))
        marks.unmark(self.catalog, dump.id, copy.target)
        self.removed.append((dump.id, copy.target))

    def _target(self, name: str) -> Optional[Target]:
        """The open target; None when it is away or cannot delete, which is told once."""
        if name not in self._opened:
            self._opened[name] = None
            try:
                target = self.open_target(name)
                mark = f"{layout.MARK}/{places.server_id(self.settings.state)}"
                if target.capabilities.delete and target.stat(mark) is not None:
                    self._opened[name] = target
                elif target.capabilities.delete:  # an empty folder in the place of a NAS must not look like work done
                    self.problems.append(f"target {name} lacks {mark}, which staging puts there: is it mounted?")
                else:
                    self.problems.append(f"target {name} cannot delete: what is past its keep stays there")
            except StowageError as error:
                self.problems.append(error.message)
            except TargetError as error:
                self.problems.append(f"target {name}: {error.message}")
        return self._opened[name]

    def _failed(self, name: str, message: str) -> None:
        """A refusal: the rest of that target waits for the next prune."""
        self._opened[name] = None
        self.problems.append(f"target {name}: {message}")

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


def _is_gone(row: CopyRow) -> bool:
    return row.state == "wanted" or row.state == "expired" and not row.upload.get(REMOVING)


def remove_files(target: Target, dump: DumpRow) -> None:
    """Removes a dump from a target, its manifest first: a dump is there if and only if its manifest is.

    Raises TargetError; may be called again.
    """
    prefix = prefix_of(dump) + "/"
    target.delete(prefix + layout.MANIFEST)
    names = [found.name for found in target.list(prefix)]
    for name in sorted(names):
        if name.startswith(prefix) and name != prefix + layout.MANIFEST:
            target.delete(name)
