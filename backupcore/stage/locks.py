"""Locks at targets: until when the files of a copy must stay, and holds, set there and read back.

A copy is locked as long as its own rule says and as any dump says whose chain goes over it: a base, its manifest and
its keys get the date of the newest dump that needs them. What is held here is held there too, where the place can. A
date is never made shorter, and what the place said last is kept in the catalog, so that a night sends only what is new.
Not here: what stays and goes (retention.py), the removal (prune.py).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import AbstractSet, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from .. import clock
from ..catalog import locked, marks, units
from ..catalog.locked import LockRow
from ..catalog.marks import CLIENT, DUMP, Hold
from ..catalog.records import HOLDING, CopyRow, DumpRow
from ..catalog.store import Catalog
from ..errors import StowageError
from ..hookspecs import Target, TargetError
from ..image import layout
from ..settings import Settings
from .origins import prefix_of
from .retention import GOOD, REMOVABLE

AT_ONCE = 8  # copies of one target that are locked at the same time: each file costs two small requests
GIVE_UP_AFTER = 3  # failures in a row: the rest of that target waits for the next run
LATEST_NS = 7_258_118_400 * clock.NS  # 2200: who locks for a thousand years means for ever
FOUND = "found held on "  # begins the why of a hold that nobody here asked for

Key = Tuple[str, str]
Place = Tuple[str, str]  # (dump, target)
Opener = Callable[[str], Target]


@dataclass(frozen=True)
class Applied:
    """What was done. locked, held, released: copies; problems: what is not protected as it should be, and why."""

    locked: Tuple[Place, ...] = ()
    held: Tuple[Place, ...] = ()
    released: Tuple[Place, ...] = ()
    problems: Tuple[str, ...] = ()


class Job(NamedTuple):
    """What is to be done to the copy of a dump on a target. until_ns: 0, nothing; hold: None, nothing."""

    dump: DumpRow
    target: str
    until_ns: int
    hold: Optional[bool]


def dates(
    rows: Sequence[DumpRow], copies: Mapping[str, Mapping[str, CopyRow]], seconds: Mapping[str, float], now_ns: int
) -> Dict[Place, int]:
    """(dump, target) -> until when its copy is to be locked, of one source. seconds: by target, from a dump's begin.

    A dump that is dated in the future, since the clock ran ahead once, is locked from when its copy was verified: a
    lock is for so long, and nobody can make it shorter. What a dump needs is locked where it is; where it is not, on
    every other target that locks this source's dumps.
    """
    by_id = {row.id: row for row in rows}
    found: Dict[Place, int] = {}
    for row in rows:
        for target, copy in copies.get(row.id, {}).items():
            if copy.state not in REMOVABLE or not seconds.get(target):
                continue
            begun = row.begun_ns
            if begun > now_ns and copy.verified_ns:
                begun = min(begun, copy.verified_ns)
            until = min(begun + int(seconds[target] * clock.NS), LATEST_NS)
            until += -until % clock.NS  # places know whole seconds
            for link in _chain(by_id, row.id):
                good = [name for name, one in copies.get(link.id, {}).items() if name != HOLDING and one.state in GOOD]
                for name in [target] if target in good else [name for name in good if seconds.get(name)]:
                    found[link.id, name] = max(until, found.get((link.id, name), 0))
    return found


def kept_by_holds(rows: Sequence[DumpRow], held: Iterable[Hold]) -> Set[str]:
    """The dumps, of one source, that are held, and those that they need."""
    by_id = {row.id: row for row in rows}
    names = {(one.kind, one.name) for one in held}
    found: Set[str] = set()
    for row in rows:
        if (DUMP, row.id) in names or (CLIENT, row.client) in names:
            found |= {link.id for link in _chain(by_id, row.id)}
    return found


def is_kept(catalog: Catalog, dump: DumpRow) -> bool:
    """Whether a dump, or one that needs it, is held now."""
    held = marks.held(catalog)
    return bool(held) and dump.id in kept_by_holds(catalog.dumps(dump.client, dump.source), held)


def _chain(by_id: Mapping[str, DumpRow], name: str) -> List[DumpRow]:
    found: Dict[str, DumpRow] = {}
    row = by_id.get(name)
    while row is not None and row.id not in found:
        found[row.id] = row
        row = by_id.get(row.base) if row.base is not None else None
    return list(found.values())


def seconds_of(settings: Settings, key: Key) -> Dict[str, float]:
    """target -> how long copies of a source are to be locked there; only where they are."""
    client = settings.clients.get(key[0])
    source = client.sources.get(key[1]) if client else None
    return {rule.target: rule.lock for rule in source.copies if rule.lock} if source else {}


def needed(settings: Settings, catalog: Catalog) -> bool:
    """Whether anything is to be locked or held at targets, or was."""
    rules = any(seconds_of(settings, (one.name, name)) for one in settings.clients.values() for name in one.sources)
    return rules or bool(marks.held(catalog)) or any(row.held for row in locked.known(catalog).values())


def lacking(settings: Settings, catalog: Catalog, now_ns: int) -> bool:
    """Whether a copy is not locked, or held, at its target as it should be, as far as the catalog knows."""
    return any(job.until_ns or job.hold for job in _jobs(settings, catalog, now_ns, None))


def apply(
    settings: Settings, catalog: Catalog, open_target: Opener, now_ns: int, *,
    sources: Optional[Sequence[Key]] = None, targets: Optional[Sequence[str]] = None,
    anew: AbstractSet[Place] = frozenset(), open_pruning: Optional[Opener] = None,
) -> Applied:  # fmt: skip
    """Locks and holds at the targets what is not locked and held there yet, and ends holds there that were released.

    sources: only dumps of these (client, source). targets: only there. anew: copies that were made just now, whatever
    is known of them. open_pruning: opens a target with the credential that may remove, for the end of a hold. No lock
    of the catalog is held meanwhile: a person may hold and release at any time.
    """
    for dump, target in anew:
        locked.forget(catalog, dump, target)
    jobs = [job for job in _jobs(settings, catalog, now_ns, sources) if targets is None or job.target in targets]
    work = _Work(catalog, open_target, open_pruning or open_target)
    for target in dict.fromkeys(job.target for job in jobs):
        work.do(target, [job for job in jobs if job.target == target])
    return Applied(tuple(work.locked), tuple(work.held), tuple(work.released), tuple(work.problems))


def _jobs(settings: Settings, catalog: Catalog, now_ns: int, sources: Optional[Sequence[Key]]) -> List[Job]:
    rows = locked.known(catalog)  # before the holds: a hold that comes in between is set twice, never taken away
    held = marks.held(catalog)
    by_source = units.by_source(catalog.dumps())
    copies: Dict[str, Dict[str, CopyRow]] = {}
    for copy in catalog.copies():
        if copy.target in settings.targets:
            copies.setdefault(copy.dump, {})[copy.target] = copy
    found: List[Job] = []
    for key in sorted(by_source) if sources is None else sorted(set(sources) & set(by_source)):
        until = dates(by_source[key], copies, seconds_of(settings, key), now_ns)
        holds = kept_by_holds(by_source[key], held)
        for dump in sorted(by_source[key], key=lambda row: row.counter):  # a base before what needs it
            for target, copy in copies.get(dump.id, {}).items():
                if copy.state not in GOOD:
                    continue
                place = (dump.id, target)
                row = rows.get(place) or LockRow(*place)
                wanted = until.get(place, 0)
                date = wanted if wanted > max(now_ns, row.until_ns) else 0
                hold = dump.id in holds
                change = hold if hold != row.held else None
                if date or change is not None:
                    found.append(Job(dump, target, date, change))
    return found


class _Work:
    """Targets one after the other, copies of one at the same time."""

    def __init__(self, catalog: Catalog, open_target: Opener, open_pruning: Opener):
        self.catalog, self.open_target, self.open_pruning = catalog, open_target, open_pruning
        self.locked: List[Place] = []
        self.held: List[Place] = []
        self.released: List[Place] = []
        self.problems: List[str] = []

    def do(self, name: str, jobs: Sequence[Job]) -> None:
        """All jobs of one target."""
        target, why = _opened(self.open_target, name)
        if target is None:
            self.problems.append(f"target {name}: {why}: {len(jobs)} copies there are not locked as they should be")
            return
        if not target.capabilities.lock:
            count = sum(job.until_ns > 0 for job in jobs)  # holds: what the catalog holds, prune leaves alone
            if count:
                self.problems.append(f"target {name} cannot lock: {count} copies there can be removed by whoever may "
                                     "write there, though they are to be locked")  # fmt: skip
            return
        ending = target
        if any(job.hold is False for job in jobs):
            found, why = _opened(self.open_pruning, name)
            if found is None:
                self.problems.append(f"target {name}: {why}: what was released is still held there")
                jobs = [job._replace(hold=job.hold or None) for job in jobs]
            else:
                ending = found
        failed: List[str] = []
        row = 0
        with ThreadPoolExecutor(min(AT_ONCE, len(jobs)), "lock") as pool:
            for start in range(0, len(jobs), AT_ONCE):  # few at a time, so that it ends soon at a place that refuses
                batch = jobs[start : start + AT_ONCE]
                for answer in pool.map(lambda job: self._one(job, target, ending), batch):
                    failed += [answer] if answer else []
                    row = row + 1 if answer else 0
                if row >= GIVE_UP_AFTER:
                    break
        if failed:
            more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            self.problems.append(f"target {name}: {failed[0]}{more}")

    def _one(self, job: Job, target: Target, ending: Target) -> str:
        """Does one job; what went wrong, '' nothing."""
        place = (job.dump.id, job.target)
        try:
            names = names_of(target, job.dump)
            if job.until_ns:
                locked.put_until(self.catalog, *place, *_lock(target, names, job.until_ns))
                self.locked.append(place)
            if job.hold is False and is_kept(self.catalog, job.dump):
                return ""  # somebody holds it again
            if job.hold is not None:
                for name in names:
                    if (target if job.hold else ending).legal_hold(name, job.hold).held != job.hold:
                        return f"{name} is {'not held' if job.hold else 'still held'} there, whatever was asked"
                locked.put_held(self.catalog, *place, job.hold)
                (self.held if job.hold else self.released).append(place)
        except TargetError as error:
            return error.message
        except Exception as error:  # a third party's driver may raise anything
            return " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return ""


def _opened(open_target: Opener, name: str) -> Tuple[Optional[Target], str]:
    try:
        target = open_target(name)
        target.capabilities  # noqa: B018  asked here, so that a place that cannot be reached is found out once
    except (StowageError, TargetError) as error:
        return None, error.message
    except Exception as error:  # a third party's driver may raise anything
        return None, " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return target, ""


def _lock(target: Target, names: Sequence[str], until_ns: int) -> Tuple[int, str]:
    """Locks the files of a copy; the first date and the weakest mode that the place then says.

    Raises TargetError when it did not keep one.
    """
    until, modes = 0, set()
    for name in names:
        got = target.lock(name, until_ns)
        if got.until_ns < until_ns or not got.mode:
            told = f"until {clock.local(got.until_ns)}" if got.until_ns and got.mode else "not at all"
            raise TargetError(f"{name} is locked {told}, and was to be until {clock.local(until_ns)}")
        until = min(until or got.until_ns, got.until_ns)
        modes.add(got.mode)
    return until, min(modes, key=lambda mode: mode != "governance")


def names_of(target: Target, dump: DumpRow) -> List[str]:
    """The files of a dump at a target. Raises TargetError when its manifest is not among them."""
    prefix = prefix_of(dump) + "/"
    names = sorted(found.name for found in target.list(prefix))
    if prefix + layout.MANIFEST not in names:
        raise TargetError(f"{prefix}{layout.MANIFEST} is not there")
    return names


def protection(target: Target, dump: DumpRow, target_name: str) -> LockRow:
    """What the place says that protects a copy: the latest date of its files, a hold of any. Raises TargetError."""
    until, mode, held = 0, "", False
    for found in target.list(prefix_of(dump) + "/"):
        lock = target.locked(found.name)
        held = held or lock.held
        if lock.until_ns > until:
            until, mode = lock.until_ns, lock.mode
    return LockRow(dump.id, target_name, until, mode, held)


def read_back(catalog: Catalog, target: Target, name: str) -> Tuple[int, int]:
    """After a rebuild: asks a target what protects the dumps there, and holds here what is held there; how many are
    locked, how many held. Raises TargetError."""
    if not target.capabilities.lock:
        return 0, 0
    dumps = {row.id: row for row in catalog.dumps()}
    of_it = [dumps[copy.dump] for copy in catalog.copies(target=name) if copy.state in GOOD and copy.dump in dumps]

    def ask(dump: DumpRow) -> LockRow:
        lock = target.locked(f"{prefix_of(dump)}/{layout.MANIFEST}")
        return LockRow(dump.id, name, lock.until_ns, lock.mode, lock.held)

    count = holds = 0
    with ThreadPoolExecutor(AT_ONCE, "lock") as pool:
        for row in pool.map(ask, of_it):
            if row.until_ns:
                count += 1
                locked.put_until(catalog, row.dump, name, row.until_ns, row.mode)
            if row.held:
                holds += 1
                locked.put_held(catalog, row.dump, name, True)
                marks.hold(catalog, DUMP, row.dump, FOUND + name)
    return count, holds
