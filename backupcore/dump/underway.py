"""How far a dump is while a frame of it is under way: on a slow line that is minutes in which it tells nothing itself.

Here lives, for each thread that makes dumps, what its dump told last and how much was read from its client since. It is
for those who look and for the queue; what limits count, and what of a cut dump is gone on with, the dump tells itself.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Dict, Optional

from .streams import Pace

EVERY = 1.0  # seconds between two words
Event = Dict[str, Any]


class UnderWay:
    """tell: takes what is told meanwhile, in the thread whose dump it is. All else is of the calling thread's dump."""

    def __init__(self, tell: Callable[[Event], None]):
        self._tell = tell
        self._mine = threading.local()

    def begin(self) -> None:
        """A dump begins."""
        self._mine.event, self._mine.told = None, 0

    def last(self) -> Optional[Event]:
        """What it told last, None for nothing."""
        return getattr(self._mine, "event", None)

    def event(self, event: Event) -> Event:
        """It tells something. What those who look are told: its bytes never become fewer."""
        mine = self._mine
        mine.event, mine.since, mine.at = event, 0, time.monotonic()
        if event["phase"] != "dumping":
            mine.told = 0
            return event
        mine.told = max(mine.told, event["bytes"])
        return event if mine.told == event["bytes"] else {**event, "bytes": mine.told}

    def reading(self, pace: Optional[Pace]) -> Pace:
        """To be called for what is read from its client. pace: what that waits for."""
        mine, tell = self._mine, self._tell

        def read(count: int, check: Callable[[], None]) -> None:
            if pace is not None:
                pace(count, check)
            event = mine.event
            if event is None or event["phase"] != "dumping":
                return
            mine.since += count
            now = time.monotonic()
            if now - mine.at >= EVERY:
                mine.at, mine.told = now, max(mine.told, event["bytes"] + mine.since)
                tell({**event, "bytes": mine.told})

        return read
