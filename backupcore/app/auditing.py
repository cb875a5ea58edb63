"""Audit: acts are noted before and after; what becomes of an act that cannot be noted; whether the log is whole.

Here live the ways in; the file and its chain are audit/. An act whose entry cannot be written (a full disk) is refused:
nothing is pruned, released, or done with keys unseen. A restore alone goes on, and says so, to whoever asked and to the
system's log: whoever needs a file back in the night has no use for a server that keeps it.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from .. import clock
from ..audit import log
from ..audit.log import BEGIN, END, ONCE, Entry
from ..audit.who import shown, who
from ..errors import AuditFailed, ImageDamaged, RequestError, StowageError, TargetRefused
from ..settings import Settings

if TYPE_CHECKING:
    from ..audit.chain import Checked, Signed
    from .engine import Engine

GOES_ON = ("restore",)  # what is done even when it cannot be noted
CONFIGURATION = "configuration"


class Act:
    """One act, between its two entries. problem: why it is not in the log, '' when it is."""

    def __init__(self, settings: Settings, verb: str, what: Mapping[str, Any]):
        self.settings, self.verb, self.what = settings, verb, what
        self.problem = ""
        self._begun: Optional[Entry] = None
        self._ended = False

    @property
    def begun(self) -> bool:
        """Whether it is at work, noted or not."""
        return self._begun is not None or bool(self.problem)

    def begin(self) -> None:
        """The entry before. Raises AuditFailed where the act must not be done then."""
        try:
            note_configuration(self.settings)
            self._begun = _append(self.settings, BEGIN, self.verb, self.what)
        except AuditFailed as error:
            self._cannot(error)
            if self.verb not in GOES_ON:
                raise AuditFailed(f"{error.message}; without an entry in it there is no {self.verb}",
                                  error.hint) from None  # fmt: skip

    def end(self, outcome: str, more: Optional[Mapping[str, Any]] = None) -> None:
        """The entry after, once. It refuses nothing: the act was done."""
        if self._ended or not self.begun:
            return
        self._ended = True
        number = self._begun.seq if self._begun else 0
        try:
            _append(self.settings, END, self.verb, {**(self.what if not number else {}), **(more or {})}, number,
                    outcome)  # fmt: skip
        except AuditFailed as error:
            self._cannot(error)

    def failed(self, error: BaseException) -> None:
        """The entry after, of an act that an exception ended."""
        if isinstance(error, StowageError):
            self.end("fail", {"error": error.message, "code": error.code})
        elif isinstance(error, Exception):
            self.end("fail", {"error": type(error).__name__, "code": "bug"})
        else:
            self.end("stopped")

    def _cannot(self, error: AuditFailed) -> None:
        self.problem = f"this {self.verb} is not in the audit log: {error.message}"
        with contextlib.suppress(ImportError, OSError, ValueError):
            import syslog

            syslog.openlog("stowage", 0, syslog.LOG_AUTH)
            told = f"{self.problem}; by {shown(who())}: {dict(self.what)!r}"
            syslog.syslog(syslog.LOG_ERR, told[:2000].encode("ascii", "backslashreplace").decode())


@contextlib.contextmanager
def act(settings: Settings, verb: str, what: Mapping[str, Any]) -> Iterator[Act]:
    """Notes what is done inside; say end() before it is over. Raises AuditFailed."""
    one = Act(settings, verb, what)
    one.begin()
    try:
        yield one
    except BaseException as error:
        one.failed(error)
        raise
    one.end("ok")


def note_configuration(settings: Settings) -> None:
    """An entry when the configuration is another than at the last entry: who changed it no log of ours can know, but
    when it was used first. Raises AuditFailed."""
    parts = _configuration(settings.file)
    last = log.last(settings.state)
    if last is None or last.config != _whole(parts):
        _append(settings, ONCE, CONFIGURATION, parts, outcome="new" if last is None else "changed")


def seen(settings: Settings) -> List[str]:
    """The same for a night, which goes on; what kept it from being noted."""
    try:
        note_configuration(settings)
    except AuditFailed as error:
        return [f"audit: {error.message}" + (f" -> {error.hint}" if error.hint else "")]
    return []


def _append(settings: Settings, phase: str, verb: str, what: Mapping[str, Any], number: int = 0,
            outcome: str = "") -> Entry:  # fmt: skip
    config = _whole(_configuration(settings.file))
    return log.append(settings.state, phase, verb, what, who(), act=number, outcome=outcome, config=config)


def _whole(parts: Mapping[str, str]) -> str:
    return hashlib.sha256("\n".join(f"{name} {parts[name]}" for name in sorted(parts)).encode()).hexdigest()


def _configuration(file: Path) -> Dict[str, str]:
    """stowage.yml, clients.d and targets.d, each as a digest; what cannot be read is said."""
    found = {}
    groups = [(file.name, [file])]
    for folder in ("clients.d", "targets.d"):
        groups.append((folder, sorted((file.parent / folder).glob("*.yml"))))
    for name, paths in groups:
        digest = hashlib.sha256()
        for path in paths:
            try:
                data = path.read_bytes()
            except OSError as error:
                data = f"cannot be read: {error.strerror}".encode()
            digest.update(b"%s\0%s\0" % (path.name.encode("utf-8", "surrogateescape"), hashlib.sha256(data).digest()))
        found[name] = digest.hexdigest()[:32]
    return found


# what is asked


@dataclass
class Verified:
    """checked: what the log shows. records: how many signed records have been compared, by place. strange: records that
    prove nothing."""

    checked: Checked
    records: Dict[str, int] = field(default_factory=dict)
    strange: List[str] = field(default_factory=list)

    @property
    def status(self) -> str:
        """FAIL when something is broken or gone; WARN for what a rebuild leaves behind, and for odd records."""
        found = self.checked
        if found.broken is not None or found.missing and not self.rebuilt:
            return "FAIL"
        return "WARN" if found.missing or self.strange else "OK"

    @property
    def rebuilt(self) -> bool:
        """Whether a rebuild stands in it: then a log of the server that was lost is missing with it."""
        return "rebuild" in self.checked.verbs


def verify(engine: Engine, targets: Sequence[str] = (), last_run: Optional[str] = None) -> Verified:
    """Looks at all of the log, and compares it with the signed records of runs here, at these targets, and in the file
    last_run. Raises RequestError, TargetRefused, AuditFailed."""
    from ..audit import chain
    from . import rollback

    for name in targets:
        engine.target_name(name)
    records: Dict[str, int] = {}
    strange: List[str] = []
    signed: List[Signed] = []
    if last_run is not None:
        record = rollback.read(engine, last_run)
        if record.audit is None:
            raise RequestError(f"--last-run {last_run} is of before there was an audit log", "stowage audit verify")
        signed.append(_signed(record, "the record you gave"))
    for place, found in [("here", _records_here(engine)), *((name, _records_at(engine, name)) for name in targets)]:
        records[place] = 0
        for run, record in found:
            if record is None:
                strange.append(f"the record of the run {run} ({place}) is not signed by a key that is trusted here")
            elif record.audit is not None:
                records[place] += 1
                signed.append(_signed(record, place))
    return Verified(chain.check(engine.settings.state, signed), records, strange)


def _signed(record: Any, place: str) -> Signed:
    from ..audit.chain import Signed
    from ..audit.log import Head

    head = Head(record.audit.entries, record.audit.sha256)
    return Signed(record.run, clock.iso(record.ended_ns), head, place)


def _records_here(engine: Engine) -> Iterator[Tuple[str, Any]]:
    from ..catalog import places
    from ..image.folder import read_small
    from ..image.manifest import SIZE_LIMIT, load_public_keys, open_run_record
    from ..image.signing import LENGTH

    keys = load_public_keys(engine.settings.keys)
    folder = places.run_record(engine.settings.state, "x").parent
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            data, signature = read_small(path, SIZE_LIMIT), read_small(path.with_suffix(".sig"), LENGTH)
            record = open_run_record(data, signature, keys)
        except ImageDamaged:
            yield path.stem, None
            continue
        yield path.stem, record if record.run == path.stem else None


def _records_at(engine: Engine, name: str) -> Iterator[Tuple[str, Any]]:
    from ..hookspecs import TargetError
    from ..image.signing import load_public_keys
    from ..rebuild import scan

    keys = load_public_keys(engine.settings.keys)
    try:
        yield from scan.run_records(engine.target(name), engine.server_id, keys)
    except TargetError as error:
        raise TargetRefused(f"target {name}: {error.message}", error.hint or "stowage check") from None


@dataclass
class Told:
    """An act, as `audit list` shows it. ended: ISO, '' when nothing says so."""

    begin: Entry
    end: Optional[Entry] = None

    @property
    def outcome(self) -> str:
        """As the end says; what began and has none was killed, or is at work."""
        if self.end is not None:
            return self.end.outcome
        return self.begin.outcome if self.begin.phase == ONCE else "no end"

    def as_dict(self) -> Dict[str, Any]:
        """JSON-ready."""
        plain = self.begin.as_dict()
        for name in ("act", "phase"):
            plain.pop(name)
        plain.update(outcome=self.outcome, ended=self.end.time if self.end else "",
                     result=dict(self.end.what) if self.end else {}, line=shown(self.begin.who))  # fmt: skip
        plain["by"] = plain.pop("line")
        return plain


def acts(engine: Engine, verb: Optional[str] = None, limit: int = 0) -> List[Told]:
    """The acts in the log, oldest first, the last `limit` of them; of one verb. Raises AuditFailed."""
    found: Dict[int, Told] = {}
    for entry in log.entries(engine.settings.state):
        if verb is not None and entry.verb.split()[0] != verb and entry.verb != verb:
            continue
        if entry.phase == END and entry.act in found:
            found[entry.act].end = entry
        elif entry.phase == END:  # its begin could not be written
            found[entry.seq] = Told(entry, entry)
        else:
            found[entry.seq] = Told(entry)
        if limit and len(found) > limit + 1000:
            for seq in list(found)[:-limit]:
                del found[seq]
    told = list(found.values())
    return told[-limit:] if limit else told
