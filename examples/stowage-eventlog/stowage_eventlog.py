"""An event driver as a third party writes it: one JSON line for every event, appended to a file.

All that a package needs: an entry point in the group ``stowage`` that names this module, a hook
implementation that returns the driver's record, a pydantic model of its options, and a function.
"""

from __future__ import annotations

import json
from pathlib import Path

from backupcore.hookspecs import Event, EventDriver, EventError, hookimpl
from pydantic import BaseModel, ConfigDict


class EventLogOptions(BaseModel):
    """Options in stowage.yml: ``events: {log: {type: eventlog, path: /var/log/stowage.jsonl}}``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: Path


def send(options: EventLogOptions, event: Event) -> None:
    """Appends the event; raises EventError when the file cannot be written."""
    line = json.dumps({"kind": event.kind, "status": event.status, "subject": event.subject})
    try:
        with open(options.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise EventError(f"{options.path}: {error.strerror}", f"make {options.path.parent} writable") from error


@hookimpl
def stowage_events() -> list[EventDriver]:
    """The event drivers of this package."""
    return [EventDriver("eventlog", "a JSON line for every event", EventLogOptions, send)]
