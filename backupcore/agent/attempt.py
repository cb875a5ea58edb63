"""An attempt at a dump: walk, hands and helpers put together, from the request's words to the totals of DONE.

Here live going on with what was cut, which processes help, and what is said when the tree cannot be read; what
surrounds a dump (lock, scripts, START and DONE) lives in serve.
"""

from __future__ import annotations

import os
import time
from itertools import chain
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from ..errors import SourceFailed, SourceGone
from ..image import state
from ..image.codec import Codec
from ..text import escape
from ..wire import END, STATE
from . import linux
from .archive import note_bytes
from .dump import Dump
from .full import Totals
from .hands import Hands, Job, Own
from .line import AgentChannel
from .links import Links
from .outbox import Numbering
from .walk import Plan, Walk

CREW = 2  # processes for a full
SMALL = 32 << 10  # bytes of a base's state, as sent: of so few names an incremental is made without a scout


class Helpers:
    """Processes that share the work of a dump, made when it proves large enough. fds: not to be open in them."""

    def __init__(self, channel: AgentChannel, fds: List[int]):
        self._channel = channel
        self._fds = [channel.reader.fileno(), channel.writer.fileno(), *fds]
        self._made: List[Any] = []

    def make(self, maker: Callable[[List[int]], Any]) -> Any:
        """What maker(fds) makes, a Crew or a Scout; None on one processor."""
        import resource

        if len(os.sched_getaffinity(0)) < 2 or resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 4096:
            return None
        self._channel.stop_heartbeat()  # there are to be no threads while there is a fork
        try:
            made = maker(self._fds)
            self._made.append(made)
        except OSError:
            made = None  # no more processes for this user: it is done alone
        self._channel.start_heartbeat()
        return made

    def end(self) -> None:
        """Ends them, whatever they do."""
        for one in self._made:
            one.end()


def attempt(
    channel: AgentChannel, tree: Plan, codec: Codec, part_size: int, with_state: bool, helpers: Helpers,
    sealed: Any = None, marks: bool = False, resume: Any = None,
) -> Dict[str, Any]:  # fmt: skip
    """Dumps the tree of a plan; the totals for DONE, of this attempt. sealed: what seals it, None when it is not to be.
    marks: the server keeps what comes of it if the line is cut; resume: it goes on with that."""
    linux.raise_limits()

    def note(level: str, where: bytes, message: str) -> None:
        channel.send_note(note_bytes(level, where, message))

    walk, totals = _begin(tree), Totals()
    links = Links()
    links.home = walk.device
    job = Job(channel, codec, Numbering(part_size, sealed), links, note, totals, tree.segment is not None, marks,
              resume is not None)  # fmt: skip
    last, before = None, {}
    try:
        if resume is not None:
            from .resume import go_on

            last, before = go_on(channel, tree, codec, job.numbering, links, resume, note)
        if marks:
            links.tell()
        if with_state:
            sums = _incremental(walk, job, helpers, last)
        else:
            sums = _full(walk, job, helpers, last)
    except OSError as error:
        raise _unreadable(tree, error) from None
    root = os.geteuid() == 0
    for name, value in before.items():
        sums[name] += value
    for name in ("changed", "gone", "unreadable", "vanished"):
        sums[name] = sums.get(name, 0) + getattr(totals, name)
    return {
        **sums, "archive_size": job.numbering.archive_size, "ended_ns": time.time_ns(), "root": root,
        "not_kept": [] if root else ["what only root can read"],
    }  # fmt: skip


def _begin(tree: Plan) -> Walk:
    """The walk, its root open. Raises SourceGone, SourceFailed."""
    walk = Walk(tree)
    try:
        walk.begin()
    except (FileNotFoundError, NotADirectoryError) as error:
        missing = isinstance(error, FileNotFoundError)
        raise SourceGone(
            "%s %s" % (escape(tree.path), "does not exist" if missing else "is no folder"),
            "correct its path, or mount what belongs there",
        ) from None
    except OSError as error:
        raise _unreadable(tree, error) from None
    return walk


def _unreadable(tree: Plan, error: OSError) -> SourceFailed:
    return SourceFailed("%s cannot be read: %s" % (escape(tree.path), linux.what_was_refused(error)))


def _full(walk: Walk, job: Job, helpers: Helpers, last: Optional[bytes]) -> Dict[str, int]:
    def crew(fds: List[int]) -> Any:
        from .crew import Crew

        return Crew(CREW, job.codec, job.links, fds, job.cut, job.marks, job.small)

    def begun() -> Any:
        made = helpers.make(crew)
        if made is not None:
            made.start(job.channel, job.numbering, job.channel.progress)
        return made

    hands = Hands(begun, job)
    try:
        Dump(walk, hands, None, None, None, job.codec, job.note, job.channel.progress, job.totals, None, last).run()
        return hands.close()
    finally:
        hands.drop()


def _incremental(walk: Walk, job: Job, helpers: Helpers, last: Optional[bytes]) -> Dict[str, int]:
    payloads, large = _base(job.channel)

    def scout(fds: List[int]) -> Any:
        from .scout import Scout

        return Scout(walk.plan, fds)

    made = helpers.make(scout) if large else None
    own = Own(job)
    if made is not None:
        made.go()
    Dump(walk, own, state.read(payloads), own.archive, own.blocks, job.codec, job.note, job.channel.progress,
         job.totals, made, last).run()  # fmt: skip
    return own.close()


def _base(channel: AgentChannel) -> Tuple[Iterator[bytes], bool]:
    """(the base's state as the server streams it, whether it is more than SMALL)."""
    payloads, seen = _payloads(channel), []
    left = SMALL
    for payload in payloads:
        seen.append(payload)
        left -= len(payload)
        if left < 0:
            return chain(seen, payloads), True
    return iter(seen), False


def _payloads(channel: AgentChannel) -> Iterator[bytes]:
    while True:
        kind, payload = channel.expect(STATE, END)
        if kind == END:
            return
        yield payload
