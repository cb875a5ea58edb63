"""The event contract: who is told when something happened."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Optional

# run-begun: a run of everything has begun. run-finished: one has ended, or a smaller one failed. Those of `stowage
# watch`, with a state in data, begun, lasts (once a day) or ended: source-overdue: sources are past their rpo.
# copy-damaged: copies are not what they were. holding-filling: holding disks are too full, or gone. night-missing: no
# run where there should be one. And watched: how everything stands, at each look.
EVENT_KINDS = (
    "run-begun", "run-finished", "source-overdue", "copy-damaged", "holding-filling", "night-missing", "watched"
)  # fmt: skip


class EventError(Exception):
    """The message could not be delivered. hint: the next step."""

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class Event:
    """Something happened. kind: one of EVENT_KINDS, or `test`. status: OK, WARN or FAIL.

    subject: one line. text: all of it as plain text. data: the same, JSON-ready; {} where nothing more is known. What
    comes from clients is escaped in none of them.
    """

    kind: str
    status: str
    subject: str
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EventDriver:
    """A way to tell. options: a pydantic model class (extra="forbid"). send(options, event) raises EventError.

    secrets: options whose values no message shows. takes: the kinds it can do something with. events: those it gets
    where the configuration says nothing. check(options) raises EventError for what would fail later, a missing file of
    a password; it sends nothing.
    """

    type: str
    summary: str
    options: type
    send: Callable[[Any, Event], None]
    secrets: tuple = field(default=())
    takes: tuple = field(default=EVENT_KINDS)
    events: tuple = field(default=("run-finished", "night-missing"))
    check: Optional[Callable[[Any], None]] = None
