"""A rebuild from its first look at the target to the report.

    the public keys at the target, every manifest with its signature      read, into a spool
    whom to believe, which server, what contradicts it                    judged; until here nothing has changed
    server id, trusted keys                                               put in place
    rows of dumps and copies, highest numbers                             into the catalog, some hundred at a time
    indexes                                                               beside it

Each step may be cut by a kill and is made again by the next rebuild, which finds what is there already.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from .. import clock, files
from ..catalog import places
from ..catalog.records import CopyRow
from ..catalog.rows import row_of
from ..catalog.store import Catalog
from ..errors import NothingThatOld
from ..hookspecs import Target, TargetError
from ..image.manifest import Manifest
from ..image.signing import write_public
from ..settings import Settings
from . import indexes, judge, scan
from .judge import FAIL, NOTE, OK, WARN, Contradicted, Finding
from .spool import Row, Source, Spool

BATCH = 200  # dumps in one transaction of the catalog
LISTED = 1000  # findings and dumps left that the report names

Progress = Optional[Callable[[dict], None]]


@dataclass(frozen=True)
class Request:
    """What is to be rebuilt. signers: fingerprints that alone are believed; keys: public keys given by the operator,
    fingerprint -> raw. server: which of several. last_run: the newest run that somebody remembers. clients: only their
    dumps, all when empty. bare: no index and no record of a run, for who wants to restore and nothing else."""

    place: str
    command: str
    signers: Tuple[str, ...] = ()
    keys: Mapping[str, bytes] = field(default_factory=dict)
    server: Optional[str] = None
    last_run: Optional[str] = None
    clients: Tuple[str, ...] = ()
    bare: bool = False


@dataclass
class Report:
    """What a rebuild found and did."""

    place: str
    signers: List[str] = field(default_factory=list)
    adopted: List[str] = field(default_factory=list)  # of the signers: trusted from now on
    server: str = ""
    taken: bool = False  # this server got its id from the target
    found: int = 0  # folders of dumps with a manifest
    added: int = 0
    known: int = 0
    sealed: int = 0
    sources: int = 0
    left: List[Tuple[str, str]] = field(default_factory=list)  # (folder, why)
    left_count: int = 0
    findings: List[Finding] = field(default_factory=list)
    findings_count: int = 0
    seen: scan.Seen = field(default_factory=scan.Seen)
    indexes: indexes.Indexes = field(default_factory=indexes.Indexes)
    newest_run: str = ""  # that the place knows
    alone: bool = False  # nobody was there to contradict the place, were it to show an older state of itself
    seconds: float = 0.0
    failed: bool = False

    @property
    def status(self) -> str:
        """OK, WARN or FAIL."""
        if self.failed or any(one.status == FAIL for one in self.findings):
            return FAIL
        warned = self.left_count or self.indexes.failed or any(one.status == WARN for one in self.findings)
        return WARN if warned else OK

    def leave(self, prefix: str, why: str) -> None:
        """A dump that is not taken."""
        self.left_count += 1
        if len(self.left) < LISTED:
            self.left.append((prefix, why))

    def tell(self, finding: Finding) -> None:
        """Something that a person should know."""
        self.findings_count += 1
        if len(self.findings) < LISTED:
            self.findings.append(finding)
        elif finding.status == FAIL:
            self.failed = True

    def as_dict(self) -> dict:
        """JSON-ready."""
        return {
            "target": self.place, "signers": self.signers, "adopted": self.adopted, "server": self.server,
            "taken": self.taken, "found": self.found, "added": self.added, "known": self.known,
            "sealed": self.sealed, "sources": self.sources,
            "left": [{"folder": folder, "message": why} for folder, why in self.left], "left_count": self.left_count,
            "findings": [one.as_dict() for one in self.findings], "findings_count": self.findings_count,
            "files": self.seen.files, "other_files": self.seen.others, "unfinished": self.seen.unfinished,
            "indexes": self.indexes.as_dict(), "newest_run": self.newest_run, "alone": self.alone,
            "seconds": round(self.seconds, 3),
        }  # fmt: skip


def rebuild(
    settings: Settings,
    catalog: Catalog,
    target: Target,
    trusted: Mapping[str, bytes],
    asked: Request,
    *,
    keys: Any = None,
    witness: Optional[Tuple[str, Target]] = None,
    take_over: Callable[[Optional[str], str], None] = lambda _old, _new: None,
    progress: Progress = None,
) -> Report:
    """Makes the catalog from what target holds, or merges it. Call while the run lock is held.

    trusted: the signers this server knows. keys: a KeyRing that opens sealed indexes. witness: another target that is
    to contradict this one. take_over(old, new): called before this server's id becomes another. Raises RequestError,
    NothingThatOld, Contradicted, TargetRefused; then nothing has changed.
    """
    begun = time.monotonic()
    work = places.rebuild_folder(settings.state)
    shutil.rmtree(work, ignore_errors=True)
    files.make_folder(work)
    spools: List[Spool] = []
    try:
        rebuilding = _Rebuild(settings, catalog, target, trusted, asked, keys, progress, spools)
        rebuilding.look(witness)
        rebuilding.write(take_over)
        rebuilding.report.seconds = time.monotonic() - begun
        return rebuilding.report
    finally:
        for spool in spools:
            spool.close()
        shutil.rmtree(work, ignore_errors=True)


class _Rebuild:
    def __init__(
        self, settings: Settings, catalog: Catalog, target: Target, trusted: Mapping[str, bytes], asked: Request,
        keys: Any, progress: Progress, spools: List[Spool],
    ):  # fmt: skip
        self.settings, self.catalog, self.target, self.asked, self.keys = settings, catalog, target, asked, keys
        self.trusted, self.progress, self.spools = trusted, progress, spools
        self.report = Report(asked.place)
        self.work = places.rebuild_folder(settings.state)
        self.signers: Dict[str, bytes] = {}
        self.mine = places.known_server_id(settings.state)
        self.refused: Dict[Source, Finding] = {}

    # looking, judging

    def look(self, witness: Optional[Tuple[str, Target]]) -> None:
        """Reads everything, decides everything; changes nothing."""
        asked, report = self.asked, self.report
        here = scan.signers(self.target)
        pool = {**here, **asked.keys, **self.trusted}
        self.spool = self._scan(self.target, pool, asked.place, report.seen, "manifests")
        report.found = self.spool.count()
        self._look_for_hidden()
        # a key that the operator gave by hand is as good as one this server knows
        known = {**self.trusted, **asked.keys}
        chosen = judge.choose_signers(self.spool.signers(), list(known), asked.signers, asked.place, asked.command)
        self.signers = {name: pool[name] for name in chosen}
        report.signers = sorted(chosen)
        servers, which = self.spool.servers(chosen), asked.server
        if asked.bare and len(servers) > 1:
            which = self.spool.newest_server(chosen)
            told = f"{asked.place} has dumps of {len(servers)} backup servers, only the newest is looked at: {which}"
            report.tell(Finding(WARN, "", told))
        fresh = not self.catalog.has_dumps()
        report.server = judge.choose_server(servers, self.mine, fresh, which, asked.place)
        newest = self._claim(self.spool, self.target, report)
        self._contradict(witness, pool, newest)

    def _look_for_hidden(self) -> None:
        """Says that somebody hid files; raises NothingThatOld when nothing else is there."""
        hidden = getattr(self.target, "hidden", None)
        count = 0
        if hidden is not None and not (self.asked.bare and self.report.found):  # who restores one thing does not wait
            with contextlib.suppress(TargetError):
                count = sum(1 for _name in hidden())
        told = f"{count} files on {self.asked.place} are hidden by delete markers, and still there"
        hint = "docs/targets.md (Versions) says how to take the markers off"
        if count and not self.report.found:
            raise NothingThatOld(f"no dump is seen: {told}", hint)
        if count:
            self.report.tell(Finding(WARN, "", told, hint))

    def _scan(
        self, target: Target, pool: Mapping[str, bytes], place: str, seen: scan.Seen, phase: str
    ) -> Spool:  # fmt: skip
        spool = Spool(self.work / f"spool-{len(self.spools)}.sqlite")
        self.spools.append(spool)
        for found in scan.scan(target, pool, seen, self.asked.clients, lambda count: self._tell(phase, count)):
            spool.add(found)
        return spool

    def _claim(self, spool: Spool, target: Target, report: Optional[Report] = None) -> str:
        """Says which of what was found is this server's, and reads the records of its runs; the newest run."""
        server, newest = self.report.server, ""
        spool.claim(list(self.signers), server)
        if self.asked.bare:
            return newest
        for run, record in scan.run_records(target, server, self.signers):
            if record is not None:
                spool.add_record(record)
                newest = max(newest, run)
            elif report is not None:
                report.tell(Finding(WARN, "", f"the record of the run {run} is damaged, or signed by nobody known"))
        return newest

    def _contradict(
        self, witness: Optional[Tuple[str, Target]], pool: Mapping[str, bytes], newest: str
    ) -> None:  # fmt: skip
        asked, place = self.asked, self.asked.place
        if asked.last_run is not None and newest < asked.last_run:
            raise Contradicted(
                f"the newest run that {place} knows is {newest or 'none'}, and you remember {asked.last_run}",
                "it lost what came after, or shows an older state of itself; is there another target?",
            )
        if witness is not None:
            name, other = witness
            spool = self._scan(other, pool, name, scan.Seen(), "witness")
            self._claim(spool, other)
            found = judge.contradictions(self.spool, place, spool.newest(), name)
            if found:
                first = next(iter(found.values()))
                more = f" (and {len(found) - 1} sources more)" if len(found) > 1 else ""
                raise Contradicted(
                    f"{first.source}: {first.message}{more}",
                    f"stowage rebuild --from {name}   or, when {place} is not meant to have them: without --witness",
                )
            for row in spool.rows():
                mine = self.spool.get(row.dump)
                if mine is not None and mine.sha256 != row.sha256:
                    raise Contradicted(f"{row.name}: {row.dump} is another dump on {name} than on {place}",
                                       "somebody replaced a dump; both are signed")  # fmt: skip
        known = {
            source: (row.counter, row.id) for source, row in self.catalog.newest_on(place).items()
        }  # fmt: skip
        self.refused = judge.contradictions(self.spool, place, known, "the catalog")
        self.report.newest_run, self.report.alone = newest, not (known or witness or asked.last_run)

    # writing

    def write(self, take_over: Callable[[Optional[str], str], None]) -> None:
        """Puts it all in place."""
        report = self.report
        if self.mine != report.server:
            take_over(self.mine, report.server)
            places.take_server_id(self.settings.state, report.server)
            report.taken = True
        self._adopt()
        for finding in self.refused.values():
            report.tell(finding)
        self._merge()
        for finding in judge.unmade(self.spool, report.place, self._elsewhere):
            report.tell(finding)
        for (client, source), counter in self.spool.counters().items():
            self.catalog.raise_counter(client, source, counter)
        for prefix, state, why, server in self.spool.left():
            self._leave(prefix, state, why, server)
        if not self.asked.bare:
            report.indexes = indexes.bring(
                self.settings.state, self.target, self._manifests(), self.keys,
                lambda count: self._tell("indexes", count), self.catalog.set_files,
            )  # fmt: skip

    def _adopt(self) -> None:
        for name, raw in sorted(self.signers.items()):
            if name not in self.trusted:
                files.make_folder(self.settings.keys)
                files.replace(Path(self.settings.keys) / f"adopted-{name[:16]}.pub", write_public(raw), 0o644)
                self.report.adopted.append(name)

    def _leave(self, prefix: str, state: str, why: str, server: Optional[str]) -> None:
        if state == scan.GOOD and not why:
            if server != self.report.server:
                why = f"it is of the server {server}"
            else:
                why = "it is signed by a key that is not believed here"
        self.report.leave(prefix, why)
        if state == scan.UNREAD:  # not the same as damaged: trying again may help
            self.report.failed = True

    def _elsewhere(self, dump: str) -> Optional[str]:
        row = self.catalog.dump(dump)
        return None if row is None else row.manifest_sha256

    def _merge(self) -> None:
        batch: List[Tuple[Row, List[Finding], bool]] = []
        of = None
        done = 0
        for row, findings, damaged in judge.links(self.spool, self.asked.place, self._elsewhere):
            if row.of != of:
                of, self.report.sources = row.of, self.report.sources + 1
            for finding in findings:
                self.report.tell(finding)
            self.report.sealed += row.sealed
            if row.of in self.refused:
                self.report.leave(row.prefix, "the target contradicts what the catalog knows of this source")
                continue
            batch.append((row, findings, damaged))
            if len(batch) == BATCH:
                done = self._put(batch, done)
                batch = []
        self._put(batch, done)

    def _put(self, batch: Sequence[Tuple[Row, List[Finding], bool]], done: int) -> int:
        place, now = self.asked.place, clock.now_ns()
        pairs = []
        for row, findings, damaged in batch:
            notes = tuple(one.message for one in findings if one.status in (WARN, FAIL))
            dump = row_of(self.spool.manifest(row.prefix), row.sha256, (f"found on {place}", *notes))
            dump = replace(dump, damaged=damaged)
            state = "failed" if row.lacks else "done"
            pairs.append((dump, CopyRow(row.dump, place, state, {}, row.bytes, None, now, row.lacks)))
        known = {row.dump for row, _findings, _damaged in batch if self._elsewhere(row.dump) is not None}
        for (row, _findings, _damaged), why in zip(batch, self.catalog.merge(pairs)):
            if why is not None:
                self.report.leave(row.prefix, why)
                self.report.tell(Finding(FAIL, row.name, f"{row.dump} is left out: {why}"))
            elif row.dump in known:
                self.report.known += 1
            else:
                self.report.added += 1
        done += len(batch)
        self._tell("catalog", done)
        return done

    def _manifests(self) -> Iterator[Manifest]:
        """Those whose index may be wanted: ours, in the catalog, and whole enough."""
        for row in self.spool.rows():
            if row.of not in self.refused and self._elsewhere(row.dump) == row.sha256:
                yield self.spool.manifest(row.prefix)

    def _tell(self, phase: str, count: int) -> None:
        if self.progress:
            self.progress({"phase": phase, "done": count})


__all__ = ["FAIL", "NOTE", "OK", "WARN", "Contradicted", "Finding", "Report", "Request", "rebuild"]
