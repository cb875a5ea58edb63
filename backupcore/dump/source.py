"""One dump of one source, from the reservation to the row in the catalog.

Here lives the conversation of a dump and what surrounds it: which base, which name, where it lands, what to note for
people. What the agent agreed to is agreed.py, which cut dump is gone on with going_on.py; files are receive.py's, the
last steps accept.py's, several at once driver.py's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, ContextManager, Dict, List, Mapping, Optional, Tuple

from .. import __version__, clock, ids, wire
from ..catalog import places
from ..catalog.records import DumpRow
from ..errors import (
    AgentMissing,
    ConfigError,
    HoldingFull,
    ImageDamaged,
    StowageError,
    TargetRefused,
    WireError,
)
from ..image import folder, layout
from ..image.manifest import Link, Manifest, Signer
from ..image.recipients import Recipient
from ..schedule.bases import Planned
from ..settings import Client, Policy, Settings, Source
from ..text import escape
from . import accept, agreed, cut, resume, straight
from .base import NeedsFull, check_fits, state_of
from .direct import Direct, StateRoom, Targets
from .going_on import GoingOn, head_of
from .holding import Landing, Space, landing, writing
from .receive import Received, receive
from .sealing import CLIENT, Sealing
from .sender import Sender
from .transport import AgentConnection

if TYPE_CHECKING:  # loading the database takes a while: whoever has a catalog has loaded it
    from ..catalog.store import Catalog

SITE = "run the playbook site again"
PROGRESS_EVERY = 0.2


@dataclass(frozen=True)
class Run:
    """What all dumps of a run share."""

    settings: Settings
    catalog: Catalog
    id: str
    server: str
    signer: Signer
    space: Space
    connect: Callable[[Settings, Client], ContextManager[AgentConnection]]
    emit: Callable[[Dict[str, Any]], None]
    track: Callable[[Optional[AgentConnection], str], None] = lambda agent, source: None
    recipients: Tuple[Recipient, ...] = ()  # for whom dumps are sealed
    direct: Optional[Targets] = None  # where dumps go that have no holding disk


class Unreached(Exception):
    """The agent could not be talked to; the other sources of this client need not be tried. error: why."""

    def __init__(self, error: StowageError):
        super().__init__(error.message)
        self.error = error


def dump_source(run: Run, planned: Planned) -> Tuple[DumpRow, List[str]]:
    """Makes the dump; returns its row and what a person should look at. Raises StowageError, Unreached."""
    try:
        client = run.settings.clients[planned.client]
        source = client.sources[planned.source]
    except KeyError:
        raise ConfigError(f"{planned.client} has no source {planned.source}") from None
    if source.policy.encrypt != "none" and not run.recipients:
        raise no_key(source.policy)  # never in the clear against the policy's word
    level, base, looked = planned.level, planned.base, []
    if planned.newer_ns:
        return OneDump(run, client, source, 0, None, looked, newer_ns=planned.newer_ns).make()
    share = cut.wanted(run.settings, planned.client, planned.source, planned.segment) if planned.segment else None
    try:
        return OneDump(run, client, source, level, base, looked, share).make()
    except NeedsFull as refused:
        looked.append(f"a full instead of level {level}: {refused.reason}")
        return OneDump(run, client, source, 0, None, looked, share).make()


def no_key(policy: Policy) -> ConfigError:
    """The error for a policy that seals where nobody could open."""
    told = f"policy {policy.name} asks for encrypt: {policy.encrypt}, and there is no proven, active key to seal for"
    return ConfigError(told, "stowage key generate")


def shown_source(source: str, segment: str) -> str:
    """A source, or a segment of it, for people who watch."""
    return f"{source}.{segment}" if segment else source


def remark(row: DumpRow, policy: Policy) -> str:
    """What the report names though the policy allows it; '' mostly."""
    wanted = policy.compress.partition(":")[0]
    return "" if row.codec == wanted else f"no {wanted} library on {row.client}: {row.codec} was used"


class OneDump:
    """An attempt at a dump."""

    def __init__(
        self, run: Run, client: Client, source: Source, level: int, base: Optional[str], looked: List[str],
        share: Optional[cut.Share] = None, newer_ns: int = 0,
    ):  # fmt: skip
        self.run, self.client, self.source, self.level, self.looked = run, client, source, level, looked
        self.share, self.newer_ns = share, newer_ns
        self.segment = share.name if share is not None else ids.INTERIM if newer_ns else ""
        self.past = [row for row in run.catalog.dumps(client.name, source.name) if row.segment == self.segment]
        self.chain = run.catalog.chain(base) if base is not None else []
        base_row = self.chain[-1] if self.chain else None
        head = head_of(source, self.segment, level, base_row, newer_ns, share, run.recipients)
        self.going_on = GoingOn(run.settings, source.policy, head, run.id, run.direct)
        self.expected = self._expected()
        self.again: List[str] = []  # what is noted of attempts before; no reason to look
        self._emitted = 0.0
        self._untold = ("connecting", 0, 0)

    def make(self) -> Tuple[DumpRow, List[str]]:
        """Reserves, connects, receives, finishes; goes on with what came before the line was cut, where it can."""
        came = self.going_on.left(self.past[-1].begun_ns if self.past else None)
        if came is not None:
            try:
                return self._make(came)
            except resume.Anew as anew:
                if came.note is not None:
                    self.going_on.drop(came)
                self.again = [f"the line was cut, and the dump begun again: {anew.reason}"]
        return self._make(None)

    def _make(self, came: Optional[resume.Came]) -> Tuple[DumpRow, List[str]]:
        self.emit("connecting", force=True)
        blocks = state_of(self.run.settings, self.run.catalog, self.chain, self.looked) if self.chain else None
        if came is None:
            begun = self._begun()
            name = ids.new_dump_name(clock.stamp(begun), self.level)
        else:
            begun, name = came.head["begun_ns"], came.place.folder.name
        prefix = layout.dump_prefix(self.client.name, self.source.name, name, self.segment or None)
        sealing, private = None, None
        if self.source.policy.encrypt != "none":
            sealing = Sealing(self.source.policy.encrypt, prefix, self.run.recipients)
            private = places.pending_folder(self.run.settings.state)
        direct = self._direct(name, begun, prefix, private is not None)
        if came is None:
            room = self._room(direct)
        elif came.note is not None:
            room = straight.go_on(came, direct, self.run.settings)
        else:
            room = self.run.space.again(came.place.disk, came.size)
            if room is None:
                raise resume.Anew(f"{came.place.disk}, where it lies, is not there")
        if came is not None:
            self.again.append(resume.noted(came))
        place = landing(room.disk.path, self.client.name, self.source.name, name, self.segment, private)
        try:
            if came is not None:
                came.take_up()
            place.make()
            hello, start, received = self._converse(place, room, blocks, sealing, direct, begun, came)
            self.emit("finishing", received.entries, received.stored_size, force=True)
            if direct is not None and direct.ready:
                direct.check = self.run.space.check_not_stopped  # the conversation is over
                direct.settle()
            row = self._finish(place, name, begun, hello, start, received, sealing, direct)
        except BaseException as error:
            whole = _may_be_there(place.final)  # but the catalog failed: the next run gives it its row
            cause = error.error if isinstance(error, Unreached) else error
            if direct is not None:
                direct.check, direct.hold = self.run.space.check_not_stopped, lambda on: None  # the agent is gone
            if not whole:
                whole = self.going_on.keep(place, cause, cause is error, direct)
            if direct is not None:
                if direct.abandon() and isinstance(error, StowageError):
                    error.again = False  # another try would leave more there
                whole = whole or direct.whole
            if not whole:
                place.remove()
            raise
        finally:
            room.close()
            if direct is not None:
                direct.close()
        self.going_on.only(place)
        return row, self.looked

    def _direct(self, name: str, begun: int, prefix: str, private: bool) -> Optional[Direct]:
        """What takes the parts where no holding disk does; None when one must."""
        targets, run = self.run.direct, self.run
        if targets is None or self.source.holding == "required":
            return None
        row = DumpRow(
            id=name, client=self.client.name, source=self.source.name, segment=self.segment, type=self.source.type,
            path="", level=self.level, counter=self.past[-1].counter + 1 if self.past else 1, begun_ns=begun,
            ended_ns=begun, base=self.chain[-1].id if self.chain else None, previous=None, run=run.id, codec="",
            archive_size=0, stored_size=0, entries=0, files=0, holding=None, manifest_sha256="",
        )  # fmt: skip
        return Direct(targets, run.settings, row, prefix, private)

    def _room(self, direct: Optional[Direct]) -> Any:
        """Room on a holding disk, or for all but the parts on the state disk. Raises HoldingFull, TargetRefused, each
        with `again` where a target may be back later."""
        if self.source.holding != "never":
            try:
                return self.run.space.reserve(self.expected)
            except HoldingFull as full:
                if direct is None:
                    raise
                try:
                    direct.begin(places.direct_folder(self.run.settings.state))
                except TargetRefused as error:
                    full.message, full.again = f"{full.message}; {error.message}", error.again
                    raise full from None
        elif direct is None:
            raise ConfigError(f"{self.client.name}:{self.source.name} has holding: never, and no target is at hand")
        else:
            direct.begin(places.direct_folder(self.run.settings.state))
        return StateRoom(self.run.settings)

    def emit(self, phase: str, entries: int = 0, size: int = 0, force: bool = False) -> None:
        """Tells of progress, a few times a second at most."""
        now = time.monotonic()
        self._untold = (phase, entries, size)
        if force or now - self._emitted >= PROGRESS_EVERY:
            self._emitted = now
            self.run.emit(
                {"client": self.client.name, "source": shown_source(self.source.name, self.segment), "phase": phase,
                 "level": self.level, "entries": entries, "bytes": size, "total": self.expected}
            )  # fmt: skip

    def _expected(self) -> Optional[int]:
        sizes = [row.stored_size for row in self.past if row.level == self.level]
        return sizes[-1] if sizes else None

    def _begun(self) -> int:
        now = clock.now_ns()
        last = self.past[-1] if self.past else None
        if last is None or now > last.begun_ns:
            return now
        if not any(note.startswith("the clock went back") for note in self.looked):  # not twice, with NeedsFull
            self.looked.append(
                f"the clock went back: the last dump is of {clock.iso(last.begun_ns)}, now it is {clock.iso(now)}; "
                "this one is dated a second after the last"
            )
        return last.begun_ns + clock.NS

    def _converse(
        self, place: Landing, room: Any, blocks: Any, sealing: Optional[Sealing], direct: Optional[Direct] = None,
        begun: int = 0, came: Optional[resume.Came] = None,
    ) -> Tuple[Dict, Dict, Received]:  # fmt: skip
        """The whole conversation: (HELLO, START, what came)."""
        policy = self.source.policy
        request = {
            "request": "dump", "source": self.source.name, "level": self.level, "compress": policy.compress,
            "gzip_fallback": policy.gzip_fallback, "part_size": policy.part_size, "state": blocks is not None,
            "encrypt": "none",
        }  # fmt: skip
        if policy.resume != "never":
            request["marks"] = True
        if came is not None:
            request["resume"] = came.asked()
        if self.share is not None:
            request["segment"] = self.share.request()
        if self.newer_ns:
            request["newer"] = self.newer_ns
        if sealing is not None and sealing.by_client:
            named = [one.fingerprint for one in sealing.recipients]
            request.update({"encrypt": CLIENT, "recipients": named, "prefix": sealing.prefix})
        try:
            agent = self.run.connect(self.run.settings, self.client)
        except StowageError as error:
            raise Unreached(error) from None
        with agent:
            self.run.track(agent, self.source.name)
            if direct is not None:
                direct.check, direct.hold = agent.check_not_cut, agent.hold_up
            try:
                try:
                    # an older agent would dump all
                    knows = not self.newer_ns or agent.hello().get("interim") is True
                    if self.newer_ns:
                        request["now_ns"] = clock.now_ns()
                    hello = agent.request(request) if knows else {}
                except StowageError as error:
                    raise Unreached(error) from None
                if not knows:
                    raise self._too_old("interim dumps")
                try:
                    _kind, start = agent.channel.expect(wire.START)
                    if start.get("segment") != request.get("segment"):  # it would dump all, under a segment's name
                        raise self._too_old("segments")
                    if start.get("newer") != request.get("newer"):
                        raise self._too_old("interim dumps")
                    codec = agreed.codec_of(start, self.client.name, policy)
                    self.options = agreed.options_of(start, self.client.name, policy, self.newer_ns, self.share)
                    if self.chain:
                        check_fits(self.chain[-1], self.options)
                    if came is not None and (start.get("resume") is not True or codec != came.head["codec"]):
                        raise resume.Anew("the source, its options or the agent are others than before")
                    self.emit("dumping", force=True)
                    with Sender(agent, blocks, hello, came.links() if came is not None else None) as sender:
                        received = receive(
                            agent.channel, place, room, codec, policy.part_size,
                            lambda entries, size: self.emit("dumping", entries, size), sealing, direct,
                            self.going_on.journal_head(start, codec, begun), came,
                        )  # fmt: skip
                        sender.done = True
                except (WireError, OSError) as error:
                    self.emit(*self._untold, force=True)  # how far it came decides whether it is tried again
                    raise agent.failure(error) from None
                except ImageDamaged as error:
                    if blocks is None:
                        raise
                    # the agent cannot read the state we sent
                    self.run.catalog.forget_state(self.chain[-1].id)
                    raise NeedsFull(f"the state of {self.chain[-1].id} is damaged: {escape(error.message)}") from None
            finally:
                self.run.track(None, self.source.name)
        return hello, start, received

    def _too_old(self, what: str) -> AgentMissing:
        return AgentMissing(f"the agent of {self.client.name} is too old for {what}", SITE)

    def _finish(
        self, place: Landing, name: str, begun: int, hello: Mapping, start: Mapping, received: Received,
        sealing: Optional[Sealing], direct: Optional[Direct] = None,
    ) -> DumpRow:  # fmt: skip
        """Signs the dump and hands it to accept(); of a direct one the copies come first."""
        client, source, run = self.client.name, self.source.name, self.run
        done = received.done
        self._note_limits(done)
        previous = self.past[-1] if self.past else None
        base = self.chain[-1] if self.chain else None
        # tar and state hold nanoseconds; a clock that ran back during the dump must not end it before it began
        ended = max(clock.now_ns(), begun)
        path, kind = str(start["source"].get("path", "")), self.source.type
        versions = {"stowage": __version__, "python": _word(hello.get("python")), "zstd": _word(hello.get("zstd"))}
        counter = run.catalog.next_counter(client, source)
        row = DumpRow(
            id=name, client=client, source=source, segment=self.segment, type=kind, path=path, level=self.level,
            counter=counter, begun_ns=begun, ended_ns=ended, base=base.id if base else None,
            previous=previous.id if previous else None, run=run.id, codec=received.codec,
            archive_size=received.archive_size, stored_size=received.stored_size,
            entries=received.entries, files=done.get("files", 0), holding=None, manifest_sha256="",
            warnings=received.warnings, suspects=done.get("suspects", 0),
            notes=(*self.looked, *self.again, *received.notes), options=self.options,
        )  # fmt: skip
        accept.write_row(place, row)
        draft = Manifest(
            server=run.server, client=client, source=source, segment=self.segment or None,
            folders=tuple(self.options.get("folders", ())), type=kind, path=path, dump=name, level=self.level,
            counter=counter, begun_ns=begun, ended_ns=ended, codec=received.codec, archive_size=received.archive_size,
            entries=received.entries, parts=received.parts, index=received.index, frames=received.frames,
            newer_ns=self.newer_ns, base=Link(base.id, base.manifest_sha256) if base else None,
            previous=Link(previous.id, previous.manifest_sha256) if previous else None,
            agent=_word(hello.get("version")), versions={name: word for name, word in versions.items() if word},
            warnings=received.warnings, suspects=row.suspects, seal=sealing.record() if sealing else None,
        )  # fmt: skip
        with writing(place.disk):
            finished = folder.finish(
                place.folder, draft, run.signer, [one.id for one in self.chain], sealing.keys() if sealing else b""
            )
        row = replace(row, manifest_sha256=finished.manifest_sha256)
        made = None
        if direct is not None and direct.ready:
            made = direct.bring(row, place.folder)
            self.looked += direct.told()
        taken = accept.accept(run.settings, run.catalog, place, row, made)
        if direct is not None:
            direct.over()
        self.looked += [note for note in taken.notes if note not in row.notes]
        return taken

    def _note_limits(self, done: Mapping[str, Any]) -> None:
        if done.get("root") is False:
            self.looked.append(f"the agent on {self.client.name} ran without root: what it may not read is missing")
        kept_not = done.get("not_kept")
        if isinstance(kept_not, list) and kept_not:
            self.looked.append("not kept: " + ", ".join(_word(one) for one in kept_not[:10]))


def _may_be_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a disk that failed does not tell: what it has is the next sweep's
        return True


def _word(value: Any) -> str:
    return escape(str(value)[:100]) if value is not None else ""
