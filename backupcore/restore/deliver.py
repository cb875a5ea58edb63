"""A restore: the conversation with an agent for each source, and the report of all of them.

Here live the request, the listening to notes and totals, and what is told to people; which members are sent is
choose.py's, how they are sent sender.py's.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Sequence

from .. import clock, wire
from ..errors import AgentMissing, KeyLocked, KeyMissing, RestoreIncomplete, StowageError, WireError
from ..text import escape
from .cat import cat
from .choose import Selection, check_matched
from .images import Images
from .report import Options, RestoreReport, path_word, restore_command, shell_word
from .request import Wanted
from .sender import Sender
from .stream import read_ahead

__all__ = ["cat", "newest_dump", "restore"]

_SHOWN = 20  # paths named in one note


def restore(
    images: Images,
    wanted: Sequence[Wanted],
    options: Options,
    connect: Callable[[], Any],
    progress: Callable[[dict], None] | None = None,
) -> RestoreReport:
    """Restores wanted through the agents that connect() gives, one connection for each source.

    What was not restored stands in the report. Raises the error when nothing could be restored at all.
    """
    begun = time.monotonic()
    report = RestoreReport(wanted[0].client, moment=clock.iso(max(one.dump.begun_ns for one in wanted)))
    selections: list[Selection] = []
    try:
        for one in wanted:
            selections.append(Selection(images, one, options.exact))
        check_matched(selections)
        newest = newest_dump(wanted)
        errors = []
        done = 0
        for selection in selections:
            if not selection.wanted.whole and not selection.counts.entries:
                _note_missing(selection, report)
                continue
            try:
                Delivery(images, selection, options, newest, report, progress).run(connect)
                done += 1
            except StowageError as error:
                error.source = error.source or selection.wanted.source
                errors.append(error)
                report.fail(selection.wanted.root, error.message)
            _note_missing(selection, report)
        if not done:
            if errors:
                raise errors[0]
            raise RestoreIncomplete(
                f"nothing of what was asked for is in the dumps: {'; '.join(report.notes)}",
                f"stowage find {path_word('', wanted[0].patterns[0].text)[1:]}",
                client=wanted[0].client,
            )
    finally:
        for selection in selections:
            selection.close()
        images.mark_broken()
    for message in [*images.notes, *(note for one in wanted for note in one.notes)]:
        report.note(message)
    report.dumps = [dump.id for one in wanted for dump in one.chain]
    report.read_from = images.uses()
    report.bytes_read = sum(use.bytes for use in report.read_from)
    report.requests = images.requests()
    report.seconds = time.monotonic() - begun
    report.next = _next(wanted, report, options)
    return report


def _note_missing(selection: Selection, report: RestoreReport) -> None:
    counts = selection.counts
    where = f"{selection.wanted.client}:{selection.wanted.source}"
    unreadable = counts.missing.get("unreadable", 0)
    others = {why: count for why, count in counts.missing.items() if count and why != "unreadable"}
    if unreadable:
        report.note(f"{where}: {unreadable} entries could not be read when it was dumped and are not in it")
    if others and not counts.entries and not selection.wanted.whole:
        report.note(f"{where}: there, but not dumped: " + ", ".join(sorted(others)))
    if counts.stale:
        shown = ", ".join(escape(selection.wanted.absolute(path)) for path in counts.stale[:_SHOWN])
        report.note(f"{where}: could not be read by the newest dump, an older version is restored: {shown}")


def _next(wanted: Sequence[Wanted], report: RestoreReport, options: Options) -> list[str]:
    client = wanted[0].client
    if report.failed_count:
        older = wanted[0].chain[0]
        found = [f"stowage list dumps --client {client} --source {wanted[0].source}"]
        if "damaged" in " ".join(why for _path, why in report.failed):
            full = f"stowage run --client {client} --source {wanted[0].source} --level 0"
            earlier = clock.iso(older.begun_ns - clock.NS)
            return [restore_command(client, wanted[0].patterns[0].text, earlier), full, *found]
        return found
    if not report.destination:
        return []
    if options.destination == "/":
        return [f"ssh {client} sudo ls -la {shell_word(wanted[0].patterns[0].text)}"]
    if options.destination is None:
        return [f"ssh {client} sudo ls -la {shell_word(report.destination)}"]
    return [f"ls -la {shell_word(report.destination)}"]


class Delivery:
    """One conversation: one source to one agent. What becomes of it goes into report."""

    def __init__(
        self,
        images: Images,
        selection: Selection,
        options: Options,
        newest: str,
        report: RestoreReport,
        progress: Callable[[dict], None] | None,
    ):
        self.images = images
        self.selection = selection
        self.wanted = selection.wanted
        self.options = options
        self.newest = newest
        self.report = report
        self.progress = progress
        self._done: dict | None = None
        self._error: Exception | None = None
        self._failed: list[tuple[bytes, str]] = []
        self._noted = 0

    def run(self, connect: Callable[[], Any]) -> None:
        """Speaks with the agent until it is done. Raises the error that ended it."""
        self._open_images()
        for dump in self.wanted.chain:
            self._check_index(dump)
        with connect() as agent:
            hello = agent.hello()
            self._request(agent, hello)
            self._converse(agent)
        self._account()

    def _open_images(self) -> None:
        for level in sorted(self.selection.levels):
            try:
                self.images.reader(self.wanted.chain[level]).table()
            except (KeyMissing, KeyLocked):
                raise  # said once, before anybody is asked to take anything
            except StowageError:
                if self.selection.fast:
                    raise
                # only what lies in this dump cannot be had: its members fail by name

    def _check_index(self, dump: Any) -> None:
        try:
            self.images.checked_index(dump)
        except StowageError as error:
            # an image that cannot be opened gives no content either: its members fail by name
            self.images.note(error.message)

    def _request(self, agent: Any, hello: dict) -> None:
        wanted = self.wanted
        known = {"none", "gzip"} | ({"zstd"} if hello.get("zstd") else set())
        codecs = [dump.codec for dump in wanted.chain if dump.codec in known]
        self.codec = codecs[0] if codecs else "none"
        drill = self.options.drill
        if drill is not None and hello.get("drill") is not True:
            raise AgentMissing(f"the agent of {wanted.client} is too old for drills", "run the playbook site again")
        agent.request({
            "request": "restore", "dump": self.newest, "name": self.options.name or self.newest,
            "prefix": escape_prefix(wanted.root), "paths": [escape(pattern.text) for pattern in wanted.patterns],
            "destination": self.options.destination, "permit": self.options.permit,
            "existing": self.options.existing, "exact": self.options.exact, "codec": self.codec,
            **({} if drill is None else {"drill": drill}),
        })  # fmt: skip
        try:
            agent.channel.expect(wire.START)
        except (OSError, StowageError) as error:
            raise agent.failure(error) from None

    def _converse(self, agent: Any) -> None:
        listener = threading.Thread(target=self._listen, args=(agent.channel,), name="restore notes", daemon=True)
        listener.start()
        sender = Sender(agent.channel, self.codec, self._fail, self._over)
        jobs = read_ahead(self.selection.jobs(lambda name: name != self.codec or name == "none"))
        failed: Exception | None = None
        try:
            sender.send(jobs)
            agent.channel.send(wire.END)
            agent.channel.flush()
        except (OSError, WireError) as error:
            failed = error  # mostly because the agent gave up: what it said counts more
        finally:
            jobs.close()
        if failed is None:
            listener.join()
        else:
            listener.join(10.0)
        if self._done is None:
            raise agent.failure(self._error or failed or WireError("the agent ended without a word"))
        if failed is not None:
            raise agent.failure(failed)

    def _over(self) -> bool:
        return self._error is not None or self._done is not None

    def _listen(self, channel: wire.Channel) -> None:
        try:
            while True:
                kind, payload = channel.expect(wire.NOTE, wire.PROGRESS, wire.DONE)
                if kind == wire.DONE:
                    self._done = payload
                    return
                if kind == wire.NOTE:
                    self._note(payload)
                elif self.progress:
                    self._tell(payload)
        except (OSError, ValueError, StowageError) as error:
            self._error = error

    def _note(self, payload: dict) -> None:
        path, message = str(payload.get("path", "")), str(payload.get("message", ""))[:2000]
        if payload.get("level") == "error":
            self._noted += 1
            self.report.fail(path, message)
        else:
            self.report.note(f"{path}: {message}" if path else message)

    def _tell(self, payload: dict) -> None:
        wanted = self.wanted
        numbers = {name: payload[name] for name in ("entries", "bytes") if isinstance(payload.get(name), int)}
        total = wanted.dump.archive_size if self.selection.fast else self.selection.counts.bytes
        self.progress(
            {"client": wanted.client, "source": wanted.source, "phase": "restore", "total": total or None, **numbers}
        )

    def _fail(self, path: bytes, why: str) -> None:
        self._failed.append((path, why))

    def _account(self) -> None:
        done, report = self._done, self.report

        def number(name: str) -> int:
            value = done.get(name)
            return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0

        report.files += number("files")
        report.folders += number("folders")
        report.bytes += number("bytes")
        report.skipped += number("skipped")
        report.entries += number("entries") or number("files") + number("folders")
        for path, why in self._failed:
            report.fail(self.wanted.absolute(path), why)
        # an agent sends a bounded number of notes; it counts all
        report.failed_count += max(0, number("failed") - self._noted)
        not_kept = done.get("not_kept")
        for what in not_kept if isinstance(not_kept, list) else ():
            shown = escape(str(what)[:500])
            if shown not in report.not_kept and len(report.not_kept) < 100:
                report.not_kept.append(shown)
        if isinstance(done.get("drill"), dict):
            report.drilled.append(done["drill"])
        report.destination = escape(str(done.get("destination") or self.options.destination or ""))


def newest_dump(wanted: Sequence[Wanted]) -> str:
    """The dump that stands for the whole restore: in a permit, and as the name of the scratch folder."""
    return max((one.dump for one in wanted), key=lambda dump: (dump.begun_ns, dump.id)).id


def escape_prefix(root: bytes) -> str:
    """A source's root as REQUEST names it: without the leading slash, bytes as surrogates."""
    return root.strip(b"/").decode("utf-8", "surrogateescape")
