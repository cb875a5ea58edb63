"""One dump of one source, from the reservation to the row in the catalog.

Here lives the conversation of a dump and what surrounds it: which base, which name, what the agent agreed to,
what to note for people. Files are receive.py's, the last steps accept.py's, several at once driver.py's.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Callable, ContextManager, Dict, List, Mapping, Optional, Tuple

from .. import __version__, clock, ids, wire
from ..catalog import places
from ..catalog.records import DumpRow
from ..errors import AgentMissing, AgentRefused, ConfigError, ImageDamaged, StowageError, WireError
from ..image import codec as codecs
from ..image import folder, layout, state
from ..image.manifest import Link, Manifest, Signer
from ..image.recipients import Recipient
from ..schedule.bases import Planned
from ..settings import Client, Policy, Settings, Source
from ..text import escape
from . import accept, cut, history, remake, statefile
from .holding import Landing, Room, Space, landing, writing
from .receive import Received, receive
from .sealing import CLIENT, Sealing
from .transport import AgentConnection

if TYPE_CHECKING:  # loading the database takes a while: whoever has a catalog has loaded it
    from ..catalog.store import Catalog

# Options that change how a dump is made, not what is in it.
NOT_CONTENT = ("before", "after")
TOLD = ("encrypt", "folders", "path", "type")  # what a manifest tells of them
OPTIONS_LIMIT = 1 << 20
SITE = "run the playbook site again"
PROGRESS_EVERY = 0.2
SENDER_GRACE = 5.0


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


class NeedsFull(Exception):
    """The base does not fit: the dump is made again as a full. reason: for people."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


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
    share = _share(run, planned)
    try:
        return OneDump(run, client, source, level, base, looked, share).make()
    except NeedsFull as refused:
        looked.append(f"a full instead of level {level}: {refused.reason}")
        return OneDump(run, client, source, 0, None, looked, share).make()


def _share(run: Run, planned: Planned) -> Optional[cut.Share]:
    """The segment that is to be dumped, None for the whole source. Raises StowageError."""
    if not planned.segment:
        return None
    found = cut.read(run.settings, planned.client, planned.source)
    share = found.share(planned.segment) if found is not None else None
    if share is None:  # the next plan makes it again
        place = cut.place(run.settings, planned.client, planned.source)
        raise StowageError(f"{place} does not say what segment {planned.segment} is", "stowage run")
    return share


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
        self.expected = self._expected()
        self._emitted = 0.0

    def make(self) -> Tuple[DumpRow, List[str]]:
        """Reserves, connects, receives, finishes."""
        self.emit("connecting", force=True)
        blocks = self._state_of_base()
        begun = self._begun()
        name = ids.new_dump_name(clock.stamp(begun), self.level)
        room = self.run.space.reserve(self.expected)
        sealing, private = None, None
        if self.source.policy.encrypt != "none":
            prefix = layout.dump_prefix(self.client.name, self.source.name, name, self.segment or None)
            sealing = Sealing(self.source.policy.encrypt, prefix, self.run.recipients)
            private = places.pending_folder(self.run.settings.state)
        place = landing(room.disk.path, self.client.name, self.source.name, name, self.segment, private)
        try:
            place.make()
            hello, start, received = self._converse(place, room, blocks, sealing)
            self.emit("finishing", received.entries, received.stored_size, force=True)
            row = self._finish(place, name, begun, hello, start, received, sealing)
        except BaseException:
            if not place.final.exists():  # whole, but the catalog failed: the next run gives it its row
                place.remove()
            raise
        finally:
            room.close()
        return row, self.looked

    def emit(self, phase: str, entries: int = 0, size: int = 0, force: bool = False) -> None:
        """Tells of progress, a few times a second at most."""
        now = time.monotonic()
        if force or now - self._emitted >= PROGRESS_EVERY:
            self._emitted = now
            self.run.emit(
                {"client": self.client.name, "source": shown_source(self.source.name, self.segment), "phase": phase,
                 "level": self.level, "entries": entries, "bytes": size, "total": self.expected}
            )  # fmt: skip

    def _expected(self) -> Optional[int]:
        sizes = [row.stored_size for row in self.past if row.level == self.level]
        return sizes[-1] if sizes else None

    def _state_of_base(self) -> Any:
        if not self.chain:
            return None
        base = self.chain[-1]
        path = history.state_path(self.run.settings, base)
        fault = "missing"
        if path is not None:
            try:
                statefile.check(path)
                return path
            except (StowageError, OSError):
                self.run.catalog.forget_state(base.id)
                fault = "damaged"
        try:
            path = remake.remake(self.run.settings, self.run.catalog, self.chain)
        except (StowageError, OSError):
            raise NeedsFull(f"the state of {base.id} is {fault}") from None
        if fault == "damaged":
            self.looked.append(f"the state of {base.id} was damaged and is made again from its indexes")
        return path

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
        self, place: Landing, room: Room, blocks: Any, sealing: Optional[Sealing]
    ) -> Tuple[Dict, Dict, Received]:
        """The whole conversation: (HELLO, START, what came)."""
        policy = self.source.policy
        request = {
            "request": "dump", "source": self.source.name, "level": self.level, "compress": policy.compress,
            "gzip_fallback": policy.gzip_fallback, "part_size": policy.part_size, "state": blocks is not None,
            "encrypt": "none",
        }  # fmt: skip
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
                    codec = self._codec(start, hello)
                    self._same_options(start)
                    self.emit("dumping", force=True)
                    with Sender(agent, blocks, hello) as sender:
                        received = receive(
                            agent.channel, place, room, codec, policy.part_size,
                            lambda entries, size: self.emit("dumping", entries, size), sealing,
                        )  # fmt: skip
                        sender.done = True
                except (WireError, OSError) as error:
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

    def _codec(self, start: Mapping[str, Any], hello: Mapping[str, Any]) -> str:
        wanted, policy = self.source.policy.compress.partition(":")[0], self.source.policy
        codec = start.get("codec")
        if codec == wanted:
            return wanted
        if codec == "gzip" and wanted == "zstd" and policy.gzip_fallback:
            return "gzip"  # allowed: remark() names it
        raise AgentRefused(
            f"{self.client.name} can compress by {escape(str(codec)[:20])}, policy {policy.name} asks for {wanted}",
            "set gzip_fallback in the policy, or install libzstd1 on the client" if wanted == "zstd" else "",
        )

    def _same_options(self, start: Mapping[str, Any]) -> None:
        """What the agent's own file says decides the content; a base made by other words is no base."""
        options = start.get("source")
        try:
            if not isinstance(options, dict) or not isinstance(options.get("path", ""), str):
                raise ValueError
            if len(json.dumps(options, ensure_ascii=False).encode("utf-8")) > OPTIONS_LIMIT:
                raise ValueError
        except ValueError:
            raise WireError(f"{self.client.name} sent a START that cannot be read") from None
        self.options = {name: value for name, value in options.items() if name not in NOT_CONTENT}
        for name in ("folders", "newer_ns"):  # not the client's to say
            self.options.pop(name, None)
        if self.newer_ns:
            self.options["newer_ns"] = self.newer_ns
        if self.share is not None:
            self.options["folders"] = self.share.request()["folders"]
        if self.source.policy.encrypt != "none":
            # a chain is opened by one way: who turns sealing on wants no base in the clear, and RESTORE.txt is for both
            self.options["encrypt"] = self.source.policy.encrypt
        if self.chain:
            base = self.chain[-1]
            names = sorted(set(self.options) | set(base.options))
            if not base.run:  # found by a rebuild: images do not tell the others, and state bears their change
                names = list(TOLD)
            changed = [name for name in names if self.options.get(name) != base.options.get(name)]
            if changed:
                words = ", ".join(escape(name) for name in changed)
                raise NeedsFull(f"{words} of the source changed on {self.client.name} since {base.id}")

    def _finish(
        self, place: Landing, name: str, begun: int, hello: Mapping, start: Mapping, received: Received,
        sealing: Optional[Sealing],
    ) -> DumpRow:  # fmt: skip
        """Signs the dump and hands it to accept()."""
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
            notes=(*self.looked, *received.notes), options=self.options,
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
        taken = accept.accept(run.settings, run.catalog, place, row)
        self.looked += [note for note in taken.notes if note not in row.notes]
        return taken

    def _note_limits(self, done: Mapping[str, Any]) -> None:
        if done.get("root") is False:
            self.looked.append(f"the agent on {self.client.name} ran without root: what it may not read is missing")
        kept_not = done.get("not_kept")
        if isinstance(kept_not, list) and kept_not:
            self.looked.append("not kept: " + ", ".join(_word(one) for one in kept_not[:10]))


def _word(value: Any) -> str:
    return escape(str(value)[:100]) if value is not None else ""


class Sender:
    """Streams the base's state to the agent while its dump is received. done: set when the dump came whole."""

    def __init__(self, agent: AgentConnection, path: Any, hello: Mapping[str, Any]):
        self._agent, self._path = agent, path
        self._zstd = bool(hello.get("zstd"))
        self._error: Optional[StowageError] = None
        self._thread = threading.Thread(target=self._send, name=f"state to {agent.client}")
        self.done = False

    def _send(self) -> None:
        channel = self._agent.channel
        try:
            for payload in statefile.payloads(self._path):
                if not self._zstd and payload.startswith(b"\x28\xb5\x2f\xfd"):
                    # the client lost its zstd library since
                    payload = codecs.get("gzip").compress(state.unpack(payload))
                channel.send(wire.STATE, payload)
            channel.send(wire.END)
            channel.flush()
        except (WireError, OSError) as error:
            if not isinstance(error, WireError) and self._path is not None and not self._path.exists():
                self._error = StowageError(f"{self._path} went away while it was sent")
            # else the receiving side hears it too, and says it better
        except StowageError as error:
            self._error = error
        if self._error is not None:
            self._agent.cut()

    def __enter__(self) -> Sender:
        if self._path is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: object, *_exc: object) -> None:
        if self._path is None:
            return
        if self.done:
            self._thread.join(SENDER_GRACE)
        if self._thread.is_alive():
            self._agent.writer.close()
            self._thread.join()
        if self._error is not None:
            raise self._error
