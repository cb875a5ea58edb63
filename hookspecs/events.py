"""The event contract: who is told when something happened."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Mapping


class EventError(Exception):
    """The message could not be delivered. hint: the next step."""

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class Event:
    """Something happened. kind: run-finished (others follow). status: OK, WARN or FAIL.

    subject: one line. text: the report as plain text. data: the report as JSON-ready dict.
    """

    kind: str
    status: str
    subject: str
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EventDriver:
    """A way to tell. options: a pydantic model class (extra="forbid"). send(options, event) raises EventError."""

    type: str
    summary: str
    options: type
    send: Callable[[Any, Event], None]
    secrets: tuple = field(default=())
