"""Floor 0, the contracts: what a source, target, snapshot or event driver must hold.

Installs as ``backupcore.hookspecs``. A third party imports only this: the records and exceptions of
each contract, and ``hookimpl``. Nothing here imports the engine.
"""

from __future__ import annotations

import pluggy

PROJECT = "stowage"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

from .events import EVENT_KINDS, Event, EventDriver, EventError  # noqa: E402
from .sources import SourceDriver, SourceError  # noqa: E402
from .spec import StowageSpec  # noqa: E402
from .targets import (  # noqa: E402
    Asleep,
    Finding,
    Lock,
    Making,
    Paused,
    Spent,
    Stored,
    Stream,
    Target,
    TargetCapabilities,
    TargetContext,
    TargetDriver,
    TargetError,
    Unreadable,
    WrongDigest,
    safe_name,
    to_the_end,
)

__all__ = [
    "EVENT_KINDS", "PROJECT", "Asleep", "Event", "EventDriver", "EventError", "Finding", "Lock", "Making", "Paused",
    "SourceDriver", "SourceError", "Spent", "Stored", "StowageSpec", "Stream", "Target",
    "TargetCapabilities", "TargetContext", "TargetDriver", "TargetError",
    "Unreadable", "WrongDigest", "hookimpl", "hookspec", "safe_name", "to_the_end",
]  # fmt: skip
